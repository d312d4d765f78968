//! Where lifecycle events go.

use async_trait::async_trait;
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};

/// Why a publish failed; the sink rewinds and repeats.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The bus cannot be reached.
    #[error("the event bus is unavailable: {0}")]
    Unavailable(String),
    /// Only the first events of the call are confirmed; any of the others may have arrived or not.
    #[error("the event bus confirmed {confirmed} events, then: {reason}")]
    Interrupted {
        /// How many of the call's events, from the first on without a gap, are confirmed and need not be repeated.
        confirmed: usize,
        /// Why the others are not.
        reason: String,
    },
}

impl BusError {
    /// How many of the call's events need not be repeated: the first so many are confirmed.
    #[must_use]
    pub fn confirmed(&self) -> usize {
        match self {
            Self::Unavailable(_) => 0,
            Self::Interrupted { confirmed, .. } => *confirmed,
        }
    }
}

/// Publishes lifecycle events at least once, in order per execution.
#[async_trait]
pub trait EventBus: Send + Sync + 'static {
    /// Whether anybody hears the bus now. While nobody does it is handed nothing; who comes begins with what is sent next.
    fn is_heard(&self) -> bool {
        true
    }

    /// Whether the bus wants such an event at all; what it does not want is not even made. `is_outward`: it is one that brokers publish,
    /// [`LifecycleEvent::outward`].
    fn wants(&self, _verb: Verb, _is_outward: bool) -> bool {
        true
    }

    /// Publishes events in order; `Ok` means that the bus has confirmed all of them.
    ///
    /// # Errors
    ///
    /// See [`BusError`]: the caller repeats what [`BusError::confirmed`] does not count. A dropped future may have published
    /// any of them.
    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError>;

    /// Publishes events of the system in order; `Ok` means that the bus has confirmed all of them.
    ///
    /// # Errors
    ///
    /// As [`EventBus::publish`].
    async fn announce(&self, events: &[SystemEvent]) -> Result<(), BusError>;
}

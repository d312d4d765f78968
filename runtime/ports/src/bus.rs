//! Where lifecycle events go.

use async_trait::async_trait;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};

/// Why a publish failed; the sink rewinds and repeats.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The bus cannot be reached.
    #[error("the event bus is unavailable: {0}")]
    Unavailable(String),
}

/// Publishes lifecycle events at least once, in order per execution.
#[async_trait]
pub trait EventBus: Send + Sync + 'static {
    /// Publishes events in order; `Ok` means that the bus has confirmed all of them.
    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError>;

    /// Publishes events of the system in order; `Ok` means that the bus has confirmed all of them.
    async fn announce(&self, events: &[SystemEvent]) -> Result<(), BusError>;
}

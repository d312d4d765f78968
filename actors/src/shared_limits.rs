//! Limits that several members count together: the store that they share, as one engine uses it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use troupe_ports::{Semaphores, StoreError};
use troupe_telemetry::Outage;

/// The store, and how it is.
pub(crate) struct SharedLimits {
    /// Who holds what.
    pub(crate) store: Arc<dyn Semaphores>,
    outage: Outage,
    crashed: AtomicBool,
}

impl fmt::Debug for SharedLimits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SharedLimits").finish_non_exhaustive()
    }
}

impl SharedLimits {
    pub(crate) fn new(store: Arc<dyn Semaphores>) -> Self {
        Self {
            store,
            outage: Outage::new("limits that members share wait for the store"),
            crashed: AtomicBool::new(false),
        }
    }

    /// Waits for what the store answers; that it does not is told once, not by each that asks.
    pub(crate) async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if self.has_crashed() {
            return Err(StoreError::Unavailable("this engine is gone".into()));
        }
        let answer = call.await;
        match &answer {
            // That another member has the shard is an answer, too.
            Ok(_) | Err(StoreError::Fenced { .. }) => self.outage.over(0),
            Err(error) => self.outage.failed(0, error),
        }
        answer
    }

    /// From now on this engine says nothing to the store, as if its process were gone. For tests.
    pub(crate) fn crash(&self) {
        self.crashed.store(true, Ordering::Release);
    }

    /// Whether this engine is as good as gone: whoever tries again and again stops.
    pub(crate) fn has_crashed(&self) -> bool {
        self.crashed.load(Ordering::Acquire)
    }
}

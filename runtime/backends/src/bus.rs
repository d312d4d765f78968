//! Lifecycle events inside one process: live views follow them; who needs all of them reads the log.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;
use troupe_core::ExecutionId;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_ports::{BusError, EventBus};

/// Batches that a slow subscriber may be behind before it is told that it lagged.
const BATCHES_KEPT: usize = 1_024;

/// Whose events a subscriber wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFilter {
    /// Everybody's.
    All,
    /// Those of one execution.
    Execution(ExecutionId),
}

/// Hands published events to those who are subscribed at that moment.
#[derive(Clone, Debug)]
pub struct InProcessBus {
    batches: broadcast::Sender<Arc<[LifecycleEvent]>>,
    system: broadcast::Sender<SystemEvent>,
}

impl InProcessBus {
    /// A bus without subscribers.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(BATCHES_KEPT)
    }

    /// A bus that keeps `batches` for slow subscribers (rounded up to a power of two; at least 1).
    #[must_use]
    pub fn with_capacity(batches: usize) -> Self {
        Self {
            batches: broadcast::Sender::new(batches.max(1)),
            system: broadcast::Sender::new(batches.max(1)),
        }
    }

    /// Follows events that are published from now on.
    #[must_use]
    pub fn subscribe(&self, filter: EventFilter) -> Subscription {
        Subscription {
            batches: self.batches.subscribe(),
            filter,
        }
    }
}

impl InProcessBus {
    /// Follows events of the system that are published from now on.
    #[must_use]
    pub fn subscribe_system(&self) -> SystemSubscription {
        SystemSubscription(self.system.subscribe())
    }
}

impl Default for InProcessBus {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl EventBus for InProcessBus {
    fn is_heard(&self) -> bool {
        self.batches.receiver_count() > 0
    }

    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
        if !events.is_empty() && self.batches.receiver_count() > 0 {
            // The error says that the last subscriber just left.
            drop(self.batches.send(events.into()));
        }
        Ok(())
    }

    async fn announce(&self, events: &[SystemEvent]) -> Result<(), BusError> {
        for event in events.iter().filter(|_| self.system.receiver_count() > 0) {
            // The error says that the last subscriber just left.
            drop(self.system.send(event.clone()));
        }
        Ok(())
    }
}

/// Why a subscription has no next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// The subscriber was too slow: batches are gone. It reads the state anew and goes on with the next batch.
    #[error("{batches} batches of events were missed")]
    Lagged {
        /// How many.
        batches: u64,
    },
    /// The bus is gone; no more will come.
    #[error("the event bus is closed")]
    Closed,
}

/// Follows the events of the system.
#[derive(Debug)]
pub struct SystemSubscription(broadcast::Receiver<SystemEvent>);

impl SystemSubscription {
    /// Waits for the next event. Cancel-safe: a dropped future loses nothing.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::Lagged`] once for each gap, [`SubscriptionError::Closed`] at the end.
    pub async fn next(&mut self) -> Result<SystemEvent, SubscriptionError> {
        self.0.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(batches) => SubscriptionError::Lagged { batches },
            broadcast::error::RecvError::Closed => SubscriptionError::Closed,
        })
    }
}

/// Follows the bus.
#[derive(Debug)]
pub struct Subscription {
    batches: broadcast::Receiver<Arc<[LifecycleEvent]>>,
    filter: EventFilter,
}

impl Subscription {
    /// Waits for the next events, at least one, in order. Cancel-safe: a dropped future loses nothing.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::Lagged`] once for each gap, [`SubscriptionError::Closed`] at the end.
    pub async fn next(&mut self) -> Result<Arc<[LifecycleEvent]>, SubscriptionError> {
        loop {
            let batch = self.batches.recv().await.map_err(|error| match error {
                broadcast::error::RecvError::Lagged(batches) => SubscriptionError::Lagged { batches },
                broadcast::error::RecvError::Closed => SubscriptionError::Closed,
            })?;
            let EventFilter::Execution(id) = self.filter else {
                return Ok(batch);
            };
            let wanted = batch.iter().filter(|event| event.execution == id).count();
            if wanted == batch.len() {
                return Ok(batch);
            }
            if wanted > 0 {
                return Ok(batch.iter().filter(|event| event.execution == id).cloned().collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use troupe_core::execution::Verb;
    use troupe_core::{Json, Seq, ShardId, Timestamp, WorkflowId};

    fn event(random: u64, seq: u64) -> LifecycleEvent {
        LifecycleEvent {
            execution: ExecutionId::fresh(ShardId(0), Timestamp(1), random),
            workflow: WorkflowId::from("orders"),
            seq: Seq(seq),
            part: 0,
            at: Timestamp(1),
            verb: Verb::ExecutionStarted,
            node: None,
            compensates: false,
            data: Json::null(),
            outward: Some(troupe_core::lifecycle::Outward::default()),
        }
    }

    #[tokio::test]
    async fn a_subscriber_of_one_execution_hears_only_that_one_in_order() {
        let bus = InProcessBus::new();
        let mut one = bus.subscribe(EventFilter::Execution(event(1, 1).execution));
        let mut all = bus.subscribe(EventFilter::All);
        bus.publish(&[event(2, 1)]).await.unwrap();
        bus.publish(&[event(1, 1), event(2, 2), event(1, 2)]).await.unwrap();
        drop(bus);
        assert_eq!(
            one.next()
                .await
                .unwrap()
                .iter()
                .map(|event| event.seq.0)
                .collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(one.next().await, Err(SubscriptionError::Closed));
        assert_eq!(all.next().await.unwrap().len(), 1);
        assert_eq!(all.next().await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_what_it_missed_and_goes_on() {
        let bus = InProcessBus::with_capacity(2);
        let mut slow = bus.subscribe(EventFilter::All);
        for seq in 1..=5 {
            bus.publish(&[event(1, seq)]).await.unwrap();
        }
        assert_eq!(slow.next().await, Err(SubscriptionError::Lagged { batches: 3 }));
        assert_eq!(slow.next().await.unwrap()[0].seq, Seq(4));
    }

    #[tokio::test]
    async fn publishing_without_subscribers_succeeds() {
        InProcessBus::new().publish(&[event(1, 1)]).await.unwrap();
    }
}

//! What tests on RabbitMQ share: a consumer elsewhere, events, a proxy that falls silent, a broker of the test's own.
#![allow(clippy::unwrap_used, dead_code)]

#[path = "rabbitmq/broker.rs"]
pub(crate) mod broker;
#[path = "rabbitmq/consumer.rs"]
pub(crate) mod consumer;
#[path = "rabbitmq/events.rs"]
pub(crate) mod events;
#[path = "rabbitmq/proxy.rs"]
pub(crate) mod proxy;

use std::time::Duration;

use troupe_backends::rabbitmq::{RabbitBus, RabbitOptions, RabbitState};
use troupe_core::lifecycle::LifecycleEvent;
use troupe_ports::EventBus;

/// Longest that anything takes that is expected to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for it, and panics with `what` where it takes too long.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// A bus that is connected.
pub(crate) async fn connected(options: RabbitOptions) -> RabbitBus {
    let bus = RabbitBus::start(options).unwrap();
    soon("connecting", bus.until(|state| *state == RabbitState::Connected)).await;
    bus
}

/// Publishes as an event sink does: what an error does not count as confirmed is repeated, its first event alone, then all others.
/// Returns the number of errors.
pub(crate) async fn publish_all(bus: &dyn EventBus, mut events: &[LifecycleEvent]) -> usize {
    let (mut errors, mut failed) = (0, false);
    let published = async {
        while !events.is_empty() {
            let call = if failed { &events[..1] } else { events };
            let answer = bus.publish(call).await;
            failed = answer.is_err();
            match answer {
                Ok(()) => events = &events[call.len()..],
                Err(error) => {
                    errors += 1;
                    events = &events[error.confirmed()..];
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    soon("publishing", published).await;
    errors
}

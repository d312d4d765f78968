//! Servers that tests start, name spaces of their own on shared ones, and what tests with real brokers share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub(crate) mod consumer;
pub(crate) mod events;
pub(crate) mod proxy;
pub(crate) mod rabbitmq;
pub mod redis;

use std::net::TcpListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Publishes as an event sink does: what an error does not count as confirmed is repeated. Returns the number of errors.
pub(crate) async fn publish_all(bus: &dyn EventBus, mut events: &[LifecycleEvent]) -> usize {
    let mut errors = 0;
    let published = async {
        while let Err(error) = bus.publish(events).await {
            errors += 1;
            events = &events[error.confirmed()..];
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("publishing", published).await;
    errors
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{next}-{now:x}", std::process::id())
}

//! How the event broker stands, for readiness and metrics.

use std::fmt;
use std::sync::Arc;

use troupe_backends::RabbitBus;
use troupe_backends::rabbitmq::RabbitState;
use troupe_telemetry::{BrokerMetrics, BrokerSample};

/// The broker that events go to beside the API's own stream.
pub struct Broker {
    bus: Arc<RabbitBus>,
    metrics: BrokerMetrics,
}

/// How a broker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerState {
    /// `connected`, `connecting` or `blocked`.
    pub status: &'static str,
    /// Why it takes no events; none when it does.
    pub detail: Option<String>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Broker").finish_non_exhaustive()
    }
}

impl Broker {
    pub(super) fn new(bus: Arc<RabbitBus>) -> Self {
        let metrics = BrokerMetrics::new();
        Self { bus, metrics }
    }

    /// How it stands now.
    #[must_use]
    pub fn state(&self) -> BrokerState {
        let (status, detail) = match self.bus.state() {
            RabbitState::Connected => ("connected", None),
            RabbitState::Connecting { reason, .. } => ("connecting", Some(reason)),
            RabbitState::Blocked { reason } => ("blocked", Some(reason)),
            RabbitState::Closed => ("closed", Some("the publisher has ended".to_owned())),
        };
        BrokerState { status, detail }
    }

    /// Events and messages that it confirmed since the process started.
    #[must_use]
    pub fn confirmed(&self) -> (u64, u64) {
        let counters = self.bus.counters();
        (counters.events, counters.messages)
    }

    /// Sets its metrics to what holds now.
    pub fn sample_metrics(&self) {
        let (state, counters) = (self.bus.state(), self.bus.counters());
        self.metrics.sample(BrokerSample {
            // Blocked is connected too.
            connected: matches!(state, RabbitState::Connected | RabbitState::Blocked { .. }),
            blocked: matches!(state, RabbitState::Blocked { .. }),
            events: counters.events,
            messages: counters.messages,
            unroutable: counters.unroutable,
            refused: counters.refused,
            misdirected: counters.misdirected,
            connections: counters.connections,
        });
    }
}

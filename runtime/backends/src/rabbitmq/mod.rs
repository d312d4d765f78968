//! Lifecycle events on RabbitMQ, and messages of its queues for triggers.
//!
//! [`RabbitBus`] hands calls to one task, the publisher, which owns the only connection and connects again whenever it is lost.
//! It sends what waits in order, many messages ahead of their confirms, and answers a call once all of its events are
//! confirmed. After an error the caller repeats what was not confirmed: consumers tell repeated events by their id.

mod backoff;
mod batch;
mod calls;
mod exchanges;
mod key;
mod link;
mod message;
mod options;
mod own;
mod partitions;
mod publisher;
mod session;
mod source;
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_ports::{BusError, EventBus};

use self::key::Keys;
use self::message::Outgoing;
use self::options::Checked;
pub use self::options::{
    RabbitBatch, RabbitExchange, RabbitOptions, RabbitOptionsError, RabbitPartitions, RabbitQueue, RabbitTls,
    RabbitTopology, RabbitUnroutable,
};
use self::publisher::{Call, Publisher};
pub use self::source::RabbitSource;

/// Where a bus stands with its broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RabbitState {
    /// There is no connection: calls wait a while, then fail.
    Connecting {
        /// Attempts that failed since the last connection.
        failures: u32,
        /// Why there is none; empty before the first attempt ended.
        reason: String,
    },
    /// Events are taken.
    Connected,
    /// RabbitMQ takes no messages for now: its memory or its disk is short.
    Blocked {
        /// What it says.
        reason: String,
    },
    /// The bus was dropped.
    Closed,
}

/// What a bus has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RabbitCounters {
    /// Events the broker confirmed.
    pub events: u64,
    /// Messages it confirmed: fewer than events where they were batched.
    pub messages: u64,
    /// Messages it returned since no queue was bound for them.
    pub unroutable: u64,
    /// Messages it refused.
    pub refused: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Messages that were left out since the exchange that a workflow names cannot be used.
    pub misdirected: u64,
}

#[derive(Debug, Default)]
struct Counters {
    events: AtomicU64,
    messages: AtomicU64,
    unroutable: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
    misdirected: AtomicU64,
}

/// Publishes lifecycle events to an exchange of RabbitMQ. Dropping it ends the connection once what was taken is confirmed.
#[derive(Debug)]
pub struct RabbitBus {
    calls: mpsc::Sender<Call>,
    state: watch::Receiver<RabbitState>,
    counters: Arc<Counters>,
    wait: std::time::Duration,
    node_events: bool,
    unroutable: RabbitUnroutable,
}

impl RabbitBus {
    /// Starts the publisher on the current Tokio runtime. There need not be a broker yet: calls fail until there is one.
    ///
    /// # Errors
    ///
    /// [`RabbitOptionsError`] if the options are no use, whatever the broker.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn start(options: RabbitOptions) -> Result<Self, RabbitOptionsError> {
        let checked = Arc::new(Checked::of(options)?);
        let (calls, waiting) = mpsc::channel(checked.options.waiting_max);
        let (told, state) = watch::channel(RabbitState::Connecting {
            failures: 0,
            reason: String::new(),
        });
        let counters = Arc::new(Counters::default());
        let (wait, node_events) = (checked.options.wait_timeout, checked.options.node_events);
        let unroutable = checked.options.unroutable;
        let publisher = Publisher::new(checked, waiting, told, Arc::clone(&counters));
        tokio::spawn(publisher.run());
        Ok(Self {
            calls,
            state,
            counters,
            wait,
            node_events,
            unroutable,
        })
    }

    /// Where the bus stands with its broker now.
    #[must_use]
    pub fn state(&self) -> RabbitState {
        self.state.borrow().clone()
    }

    /// Waits until the bus stands as `wanted` says; for a bound, wrap it in a timeout. Cancel-safe.
    pub async fn until(&self, wanted: impl Fn(&RabbitState) -> bool) -> RabbitState {
        let mut state = self.state.clone();
        match state.wait_for(wanted).await {
            Ok(state) => state.clone(),
            // The publisher is gone: nothing will change.
            Err(_) => RabbitState::Closed,
        }
    }

    /// What it has done since it started.
    #[must_use]
    pub fn counters(&self) -> RabbitCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RabbitCounters {
            events: read(&self.counters.events),
            messages: read(&self.counters.messages),
            unroutable: read(&self.counters.unroutable),
            refused: read(&self.counters.refused),
            connections: read(&self.counters.connections),
            misdirected: read(&self.counters.misdirected),
        }
    }

    /// The publisher answers every call it takes: see its deadlines.
    async fn send(&self, events: Vec<Outgoing>) -> Result<(), BusError> {
        if events.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + self.wait;
        let (reply, answer) = oneshot::channel();
        let call = Call {
            events,
            reply,
            deadline,
        };
        match timeout_at(deadline, self.calls.send(call)).await {
            Ok(Ok(())) => answer.await.unwrap_or_else(|_| Err(ended())),
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(BusError::Unavailable(format!(
                "RabbitMQ: too many calls wait ({})",
                self.state().reason()
            ))),
        }
    }
}

fn ended() -> BusError {
    BusError::Unavailable("RabbitMQ: the publisher has ended".to_owned())
}

impl RabbitState {
    /// Why calls wait, for people.
    fn reason(&self) -> String {
        match self {
            Self::Connecting { reason, .. } if reason.is_empty() => "not connected yet".to_owned(),
            Self::Connecting { failures, reason } => format!("not connected, {failures} attempts failed: {reason}"),
            Self::Connected => "slow".to_owned(),
            Self::Blocked { reason } => format!("blocked: {reason}"),
            Self::Closed => "closed".to_owned(),
        }
    }
}

#[async_trait]
impl EventBus for RabbitBus {
    /// What the workflow's `settings.events` chooses, less the events of nodes where the bus leaves them out.
    fn wants(&self, verb: Verb, is_outward: bool) -> bool {
        is_outward && (self.node_events || verb.entity() != "node")
    }

    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
        let mut outgoing = Vec::with_capacity(events.len());
        // Up to where the messages of each event go.
        let mut ends = Vec::with_capacity(events.len());
        let mut keys = Keys::default();
        for event in events {
            Outgoing::of_lifecycle(event, &mut keys, &mut outgoing);
            ends.push(outgoing.len());
        }
        // One that waits for a queue comes alone, again and again: its copies for other exchanges follow once it is taken.
        let follows = match (self.unroutable, events) {
            (RabbitUnroutable::Fail, [_]) => outgoing.split_off(outgoing.len().min(1)),
            (RabbitUnroutable::Fail | RabbitUnroutable::Count, _) => Vec::new(),
        };
        let mut sent = self.send(outgoing).await;
        if sent.is_ok() {
            sent = self.send(follows).await;
        }
        sent.map_err(|error| match error {
            BusError::Interrupted { confirmed, reason } => BusError::Interrupted {
                confirmed: ends.partition_point(|end| *end <= confirmed),
                reason,
            },
            BusError::Unavailable(_) => error,
        })
    }

    async fn announce(&self, events: &[SystemEvent]) -> Result<(), BusError> {
        self.send(events.iter().map(Outgoing::of_system).collect()).await
    }
}

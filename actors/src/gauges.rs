//! What a scrape wants to know of a shard. Its actors count as they go, one atomic operation each; nothing is read until
//! somebody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use troupe_core::control::ControlKey;
use troupe_core::{LogPosition, Timestamp};

use crate::attempt::AttemptWait;
use crate::breakers::{BreakerState, BreakerView};
use crate::context::EngineContext;

/// Nothing is being sent.
const IDLE: i64 = i64::MIN;

/// Messages that wait in a mailbox.
#[derive(Debug, Default)]
pub struct Depth(AtomicI64);

impl Depth {
    /// A message is on its way.
    pub fn sent(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was taken out.
    pub fn taken(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// How far the event bus is behind the log.
#[derive(Debug)]
pub struct SinkProgress {
    /// Records offered and not yet sent.
    pub(crate) backlog: AtomicUsize,
    /// Their bytes.
    pub(crate) backlog_bytes: AtomicUsize,
    /// The sink was told to read the log and has not begun to.
    pub(crate) behind: AtomicBool,
    committed: AtomicU64,
    sent: AtomicU64,
    sending_since_ms: AtomicI64,
}

impl SinkProgress {
    /// A sink that has sent up to `sent` of a log that ends at `committed`.
    #[must_use]
    pub fn new(committed: LogPosition, sent: LogPosition) -> Self {
        Self {
            backlog: AtomicUsize::new(0),
            backlog_bytes: AtomicUsize::new(0),
            behind: AtomicBool::new(false),
            committed: AtomicU64::new(committed.0),
            sent: AtomicU64::new(sent.0),
            sending_since_ms: AtomicI64::new(IDLE),
        }
    }

    /// A record of so many bytes is held in memory.
    pub(crate) fn offered(&self, bytes: usize) {
        self.backlog.fetch_add(1, Ordering::Relaxed);
        self.backlog_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many records that were offered are held no longer.
    pub(crate) fn taken(&self, records: usize, bytes: usize) {
        self.backlog.fetch_sub(records, Ordering::Relaxed);
        self.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The record at `position` is durable.
    pub(crate) fn committed(&self, position: LogPosition) {
        self.committed.store(position.0, Ordering::Relaxed);
    }

    /// Entries made at `at` are being sent.
    pub(crate) fn sending(&self, at: Timestamp) {
        self.sending_since_ms.store(at.0, Ordering::Relaxed);
    }

    /// Everything up to `position` was sent.
    pub(crate) fn sent(&self, position: LogPosition) {
        let sent = self.sent.fetch_max(position.0, Ordering::Relaxed).max(position.0);
        // Else what is left is younger than what was just sent, and soon its own age counts.
        if sent >= self.committed.load(Ordering::Relaxed) {
            self.sending_since_ms.store(IDLE, Ordering::Relaxed);
        }
    }

    /// Records that are not sent, and for how long the oldest of them has waited, in milliseconds.
    fn pending(&self, now: Timestamp) -> (u64, u64) {
        let sent = self.sent.load(Ordering::Relaxed);
        let pending = self.committed.load(Ordering::Relaxed).saturating_sub(sent);
        let since = self.sending_since_ms.load(Ordering::Relaxed);
        let lag_ms = if pending == 0 || since == IDLE {
            0
        } else {
            now.since_ms(Timestamp(since))
        };
        (pending, lag_ms)
    }
}

/// What the actors of one shard count.
#[derive(Debug)]
pub struct ShardGauges {
    /// Executions that have not ended.
    live: AtomicI64,
    /// Appends that the committer has not taken.
    pub committer: Depth,
    /// Records that the checkpointer has not taken.
    pub checkpointer: Depth,
    /// The event buses.
    pub(crate) events: Vec<Arc<SinkProgress>>,
}

impl ShardGauges {
    /// A shard with so many executions that have not ended.
    #[must_use]
    pub fn new(live: u64, events: Vec<Arc<SinkProgress>>) -> Self {
        Self {
            live: AtomicI64::new(i64::try_from(live).unwrap_or(i64::MAX)),
            committer: Depth::default(),
            checkpointer: Depth::default(),
            events,
        }
    }

    /// So many more executions began than ended.
    pub(crate) fn live_changed(&self, by: i64) {
        if by != 0 {
            self.live.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// So many executions have not ended, as counted.
    pub(crate) fn live_counted(&self, live: i64) {
        self.live.store(live, Ordering::Relaxed);
    }
}

/// Sets every gauge to what holds now.
pub(crate) fn sample(engine: &EngineContext) {
    let (mut shards, mut live) = (0, 0);
    let (mut committer, mut checkpointer, mut events) = (0, 0, 0);
    let (mut pending, mut lag_ms) = (0, 0);
    let now = engine.now();
    for slot in &engine.shards {
        let Some(shard) = slot.read().clone() else { continue };
        let gauges = &shard.gauges;
        shards += 1;
        live += u64::try_from(gauges.live.load(Ordering::Relaxed)).unwrap_or(0);
        committer += gauges.committer.get();
        checkpointer += gauges.checkpointer.get();
        for bus in &gauges.events {
            events += bus.backlog.load(Ordering::Relaxed) as u64;
            let (records, late_ms) = bus.pending(now);
            pending += records;
            lag_ms = lag_ms.max(late_ms);
        }
    }
    let metrics = &engine.metrics;
    metrics.shards_owned(shards);
    let (running, quarantined) = (engine.directory.len() as u64, engine.quarantine.len() as u64);
    let queued = engine.rooms.waiting() as u64;
    let waiting = live.saturating_sub(running + queued + quarantined);
    metrics.executions_active(running, waiting, queued, quarantined);
    engine.plans.sample();
    engine.blobs.sample();
    let controls = crate::controls::controls(engine);
    let of = |wanted: fn(&ControlKey) -> bool| controls.iter().filter(|control| wanted(&control.key)).count();
    metrics.controls(
        of(|key| matches!(key, ControlKey::Pause(_))),
        of(|key| matches!(key, ControlKey::Stop(_))),
        of(|key| matches!(key, ControlKey::Breaker(_))),
        controls.iter().map(|control| control.draining).sum(),
    );
    metrics.outbox(pending, lag_ms);
    for what in AttemptWait::ALL {
        metrics.attempts_waiting(what.name(), engine.counters.attempts_waiting.count(what));
    }
    let breakers = engine.breakers.list();
    let is_open = |breaker: &BreakerView| breaker.state == BreakerState::Open;
    metrics.breakers(
        breakers
            .iter()
            .map(|breaker| (breaker.target.as_str(), is_open(breaker))),
    );
    metrics.mailbox_depth("execution", engine.directory.waiting());
    metrics.mailbox_depth("committer", committer);
    metrics.mailbox_depth("checkpointer", checkpointer);
    metrics.mailbox_depth("events", events);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_lags_only_while_something_is_unsent() {
        let sink = SinkProgress::new(LogPosition(4), LogPosition(4));
        assert_eq!(sink.pending(Timestamp(9_000)), (0, 0));
        sink.committed(LogPosition(7));
        assert_eq!(
            sink.pending(Timestamp(9_000)),
            (3, 0),
            "nobody knows yet how old they are"
        );
        sink.sending(Timestamp(8_000));
        assert_eq!(sink.pending(Timestamp(9_000)), (3, 1_000));
        sink.sent(LogPosition(5));
        assert_eq!(
            sink.pending(Timestamp(9_000)),
            (2, 1_000),
            "at most as old as what was sent"
        );
        sink.sending(Timestamp(8_500));
        sink.sent(LogPosition(7));
        assert_eq!(sink.pending(Timestamp(99_000)), (0, 0));
    }
}

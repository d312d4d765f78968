//! What a scrape wants to know of a shard. Its actors count as they go, one atomic operation each; nothing is read until
//! somebody asks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
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
    ledger: Mutex<Ledger>,
    /// Bytes of log that are neither sent nor spooled.
    in_log_bytes: AtomicU64,
    spool_bytes: AtomicU64,
    /// Told whenever less waits.
    eased: Notify,
}

/// A mark is set whenever so many bytes were committed: sizes of single records are not remembered.
const MARK_BYTES: u64 = 64 * 1024;

/// Bytes of records that were committed and have not left, more by [`MARK_BYTES`] and a record at most.
#[derive(Debug, Default)]
struct Ledger {
    last: LogPosition,
    committed: u64,
    left: u64,
    /// Positions, and the bytes that were committed up to them.
    marks: VecDeque<(LogPosition, u64)>,
}

impl Ledger {
    fn committed(&mut self, position: LogPosition, bytes: u64) -> u64 {
        self.last = position;
        self.committed += bytes;
        let marked = self.marks.back().map_or(self.left, |(_, bytes)| *bytes);
        if self.committed - marked >= MARK_BYTES {
            self.marks.push_back((position, self.committed));
        }
        self.committed - self.left
    }

    /// Everything up to `position` has left.
    fn left(&mut self, position: LogPosition) -> u64 {
        while let Some((at, bytes)) = self.marks.front().copied()
            && at <= position
        {
            self.left = bytes;
            self.marks.pop_front();
        }
        if position >= self.last {
            self.left = self.committed;
        }
        self.committed - self.left
    }
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
            ledger: Mutex::default(),
            in_log_bytes: AtomicU64::new(0),
            spool_bytes: AtomicU64::new(0),
            eased: Notify::new(),
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

    /// The record at `position`, of so many bytes, is durable.
    pub(crate) fn committed(&self, position: LogPosition, bytes: usize) {
        self.committed.store(position.0, Ordering::Relaxed);
        let in_log = self.ledger.lock().committed(position, bytes as u64);
        self.in_log_bytes.store(in_log, Ordering::Relaxed);
    }

    /// Everything up to `position` was sent or is in the spool, which has so many bytes.
    pub(crate) fn spooled(&self, position: LogPosition, bytes: u64) {
        let in_log = self.ledger.lock().left(position);
        self.in_log_bytes.store(in_log, Ordering::Relaxed);
        self.spool_bytes.store(bytes, Ordering::Release);
        self.eased.notify_waiters();
    }

    /// Bytes of log that are neither sent nor spooled, of what was committed since the shard was opened.
    pub(crate) fn in_log_bytes(&self) -> u64 {
        self.in_log_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that wait for the bus, in the log and in the spool.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.in_log_bytes() + self.spool_bytes.load(Ordering::Relaxed)
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
    /// How far the latest checkpoint of this owner reaches.
    pub(crate) checkpointed: AtomicU64,
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
            checkpointed: AtomicU64::new(0),
            events,
        }
    }

    /// Bytes that wait for the bus that is furthest behind.
    pub(crate) fn backlog_bytes(&self) -> u64 {
        let waiting = self.events.iter().map(|bus| bus.waiting_bytes());
        waiting.max().unwrap_or(0)
    }

    /// Waits until no more than so many bytes wait for any bus. Cancel-safe.
    pub(crate) async fn until_backlog_is_below(&self, bytes: u64) {
        for bus in &self.events {
            loop {
                let mut eased = std::pin::pin!(bus.eased.notified());
                // From here on it is heard, so that nothing is missed between the look and the wait.
                eased.as_mut().enable();
                if bus.waiting_bytes() <= bytes {
                    break;
                }
                eased.await;
            }
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

/// What waits for the buses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of log and spool, over all shards.
    pub bytes: u64,
    /// Shards beyond the mark at which starts are refused.
    pub refusing: u64,
    /// Shards beyond the mark at which attempts are held.
    pub holding: u64,
}

/// What waits for the buses now.
pub(crate) fn backlog(engine: &EngineContext) -> Backlog {
    let marks = engine.options.backlog;
    let mut backlog = Backlog::default();
    for slot in &engine.shards {
        let Some(bytes) = slot.read().as_ref().map(|shard| shard.gauges.backlog_bytes()) else {
            continue;
        };
        backlog.bytes += bytes;
        backlog.refusing += u64::from(bytes > marks.refuse_bytes);
        backlog.holding += u64::from(bytes > marks.hold_bytes);
    }
    backlog
}

/// Sets every gauge to what holds now.
pub(crate) fn sample(engine: &EngineContext) {
    let (mut shards, mut live) = (0, 0);
    let (mut committer, mut checkpointer, mut events) = (0, 0, 0);
    let (mut pending, mut lag_ms) = (0, 0);
    let backlog = backlog(engine);
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
    metrics.backlog(backlog.bytes, backlog.refusing, backlog.holding);
    metrics.attempts_running(engine.counters.attempts_running.load(Ordering::Relaxed));
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
        sink.committed(LogPosition(7), 10);
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

    #[test]
    fn bytes_wait_in_the_log_until_they_are_sent_or_spooled_and_then_in_the_spool() {
        let sink = SinkProgress::new(LogPosition(0), LogPosition(0));
        for position in 1..=100 {
            sink.committed(LogPosition(position), 10_000);
        }
        assert_eq!(sink.waiting_bytes(), 1_000_000);
        sink.spooled(LogPosition(50), 70_000);
        let in_log = sink.in_log_bytes();
        assert!((500_000..=500_000 + MARK_BYTES + 10_000).contains(&in_log), "{in_log}");
        assert_eq!(sink.waiting_bytes(), in_log + 70_000);
        sink.spooled(LogPosition(100), 0);
        assert_eq!(sink.waiting_bytes(), 0);
    }
}

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
        self.last = self.last.max(position);
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

/// How far lists are behind the log of one shard.
#[derive(Debug)]
pub struct ListProgress {
    held: Mutex<Held>,
    held_bytes: AtomicU64,
    /// Told whenever less is held.
    eased: Notify,
}

/// The end of a log that cannot be trimmed before lists are written.
#[derive(Debug, Default)]
struct Held {
    /// As far as lists go, the log may be trimmed up to here.
    shown: LogPosition,
    last: LogPosition,
    /// Records behind `shown` that change what lists show.
    changes: usize,
    /// Since when something is held.
    since: Timestamp,
    /// Bytes behind `shown`.
    ledger: Ledger,
    /// Why the latest attempt to write lists failed.
    failure: Option<String>,
}

impl Held {
    fn is_nothing(&self) -> bool {
        self.last <= self.shown && self.failure.is_none()
    }
}

impl ListProgress {
    /// Lists that lack nothing of a log that ends at `last`.
    #[must_use]
    pub fn new(last: LogPosition) -> Self {
        let held = Held {
            shown: last,
            last,
            ..Held::default()
        };
        Self {
            held: Mutex::new(held),
            held_bytes: AtomicU64::new(0),
            eased: Notify::new(),
        }
    }

    /// The record at `position`, of so many bytes, is durable, and changes what lists show or not.
    pub(crate) fn committed(&self, position: LogPosition, bytes: usize, changes: bool, now: Timestamp) {
        let mut held = self.held.lock();
        if held.is_nothing() {
            if !changes {
                held.shown = held.shown.max(position);
                held.last = held.shown;
                return;
            }
            held.since = now;
        }
        held.last = held.last.max(position);
        held.changes += usize::from(changes);
        let bytes = held.ledger.committed(position, bytes as u64);
        self.held_bytes.store(bytes, Ordering::Release);
    }

    /// A call that began at `began` wrote everything up to `up_to`, with so many records that change what lists show.
    pub(crate) fn written(&self, up_to: LogPosition, changes: usize, began: Timestamp) {
        let mut held = self.held.lock();
        held.failure = None;
        held.changes = held.changes.saturating_sub(changes);
        let bytes = if held.changes == 0 {
            // What was committed since changes nothing there.
            held.shown = held.last;
            held.ledger = Ledger::default();
            0
        } else {
            held.shown = held.shown.max(up_to);
            held.since = began;
            held.ledger.left(up_to)
        };
        self.held_bytes.store(bytes, Ordering::Release);
        drop(held);
        self.eased.notify_waiters();
    }

    /// Lists could not be written.
    pub(crate) fn failed(&self, why: String, now: Timestamp) {
        let mut held = self.held.lock();
        if held.is_nothing() {
            held.since = now;
        }
        held.failure = Some(why);
    }

    fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    fn lag(&self, now: Timestamp) -> Lists {
        let held = self.held.lock();
        let lag_ms = if held.is_nothing() { 0 } else { now.since_ms(held.since) };
        Lists {
            records: held.last.0.saturating_sub(held.shown.0),
            bytes: self.held_bytes(),
            lag_ms,
            failure: held.failure.clone(),
        }
    }
}

/// How far lists are behind the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Records that the log must keep, over all shards: lists lack them, or one before them.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// For how long the oldest of them has waited, or for how long lists cannot be written, in milliseconds.
    pub lag_ms: u64,
    /// Why some cannot be written; none where all can.
    pub failure: Option<String>,
}

/// How far lists are behind now.
pub(crate) fn lists(engine: &EngineContext) -> Lists {
    let now = engine.now();
    let mut lists = Lists::default();
    for slot in &engine.shards {
        let Some(of_shard) = slot.read().as_ref().map(|shard| shard.gauges.lists.lag(now)) else {
            continue;
        };
        lists.records += of_shard.records;
        lists.bytes += of_shard.bytes;
        lists.lag_ms = lists.lag_ms.max(of_shard.lag_ms);
        lists.failure = lists.failure.or(of_shard.failure);
    }
    lists
}

/// Waits until it holds, and looks again whenever less waits. Cancel-safe.
async fn until_eased(eased: &Notify, holds: impl Fn() -> bool) {
    loop {
        let mut told = std::pin::pin!(eased.notified());
        // From here on it is heard, so that nothing is missed between the look and the wait.
        told.as_mut().enable();
        if holds() {
            return;
        }
        told.await;
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
    /// Lists.
    pub(crate) lists: Arc<ListProgress>,
}

impl ShardGauges {
    /// A shard with so many executions that have not ended, and a log that ends at `last`.
    #[must_use]
    pub fn new(live: u64, last: LogPosition, events: Vec<Arc<SinkProgress>>) -> Self {
        Self {
            live: AtomicI64::new(i64::try_from(live).unwrap_or(i64::MAX)),
            committer: Depth::default(),
            checkpointer: Depth::default(),
            checkpointed: AtomicU64::new(0),
            events,
            lists: Arc::new(ListProgress::new(last)),
        }
    }

    /// Bytes that wait for the bus that is furthest behind.
    fn unsent_bytes(&self) -> u64 {
        let waiting = self.events.iter().map(|bus| bus.waiting_bytes());
        waiting.max().unwrap_or(0)
    }

    /// Bytes that wait for whoever is furthest behind, a bus or the lists.
    pub(crate) fn backlog_bytes(&self) -> u64 {
        self.unsent_bytes().max(self.lists.held_bytes())
    }

    /// Waits until no more than so many bytes wait for any bus or for the lists. Cancel-safe.
    pub(crate) async fn until_backlog_is_below(&self, bytes: u64) {
        for bus in &self.events {
            until_eased(&bus.eased, || bus.waiting_bytes() <= bytes).await;
        }
        until_eased(&self.lists.eased, || self.lists.held_bytes() <= bytes).await;
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

/// What waits for the buses, and where too much waits for them or for the lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of log and spool that wait for the buses, over all shards.
    pub bytes: u64,
    /// Shards beyond the mark at which starts are refused.
    pub refusing: u64,
    /// Shards beyond the mark at which attempts are held.
    pub holding: u64,
}

/// What waits now.
pub(crate) fn backlog(engine: &EngineContext) -> Backlog {
    let marks = engine.options.backlog;
    let mut backlog = Backlog::default();
    for slot in &engine.shards {
        let both = |gauges: &ShardGauges| (gauges.unsent_bytes(), gauges.backlog_bytes());
        let Some((unsent, bytes)) = slot.read().as_ref().map(|shard| both(&shard.gauges)) else {
            continue;
        };
        backlog.bytes += unsent;
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
    let (backlog, lists) = (backlog(engine), lists(engine));
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
    metrics.lists(lists.records, lists.bytes, lists.lag_ms);
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

    /// Records, bytes and milliseconds that lists are behind at `now`.
    fn behind(lists: &ListProgress, now: i64) -> (u64, u64, u64) {
        let lag = lists.lag(Timestamp(now));
        (lag.records, lag.bytes, lag.lag_ms)
    }

    #[test]
    fn lists_hold_back_the_log_from_the_first_change_that_they_lack() {
        let lists = ListProgress::new(LogPosition(4));
        lists.committed(LogPosition(5), 10, false, Timestamp(1_000));
        assert_eq!(behind(&lists, 9_000), (0, 0, 0), "nothing there is for lists");
        lists.committed(LogPosition(6), 10, true, Timestamp(2_000));
        lists.committed(LogPosition(7), 10, false, Timestamp(3_000));
        lists.committed(LogPosition(8), 10, true, Timestamp(4_000));
        assert_eq!(behind(&lists, 9_000), (3, 30, 7_000));
        lists.written(LogPosition(6), 1, Timestamp(3_500));
        let (records, bytes, lag_ms) = behind(&lists, 9_000);
        assert_eq!((records, lag_ms), (2, 5_500), "at most as old as what was written");
        assert!((20..=30).contains(&bytes), "{bytes}");
        lists.committed(LogPosition(9), 10, false, Timestamp(5_000));
        lists.written(LogPosition(8), 1, Timestamp(6_000));
        assert_eq!(behind(&lists, 9_000), (0, 0, 0), "what follows is not for lists");
        lists.committed(LogPosition(10), 10, true, Timestamp(8_000));
        assert_eq!(behind(&lists, 9_000), (1, 10, 1_000));
    }

    #[test]
    fn lists_that_cannot_be_written_hold_back_everything_since() {
        let lists = ListProgress::new(LogPosition(4));
        lists.failed("away".to_owned(), Timestamp(1_000));
        assert_eq!(behind(&lists, 3_000), (0, 0, 2_000));
        lists.committed(LogPosition(5), 10, false, Timestamp(2_000));
        lists.failed("still away".to_owned(), Timestamp(2_500));
        assert_eq!(behind(&lists, 3_000), (1, 10, 2_000));
        assert_eq!(lists.lag(Timestamp(0)).failure.as_deref(), Some("still away"));
        lists.written(LogPosition(4), 0, Timestamp(3_000));
        assert_eq!(lists.lag(Timestamp(9_000)), Lists::default());
    }

    #[tokio::test]
    async fn what_lists_hold_back_counts_as_backlog() {
        let gauges = ShardGauges::new(0, LogPosition(0), Vec::new());
        gauges.lists.committed(LogPosition(1), 10, true, Timestamp(0));
        assert_eq!((gauges.backlog_bytes(), gauges.unsent_bytes()), (10, 0));
        let written = async { gauges.lists.written(LogPosition(1), 1, Timestamp(0)) };
        tokio::join!(gauges.until_backlog_is_below(9), written);
        assert_eq!(gauges.backlog_bytes(), 0);
    }
}

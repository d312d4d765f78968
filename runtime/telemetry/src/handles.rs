//! Handles whose labels are resolved once, so that counting on the hot path is one atomic operation.
//!
//! A handle belongs to the recorder that was installed when it was made: make them when an engine starts, after
//! [`crate::Exposition::install`].

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::catalogue as name;

/// Workflows that get a label of their own; those beyond share `other`, so that hostile names cost no memory.
pub const WORKFLOW_LABELS_MAX: usize = 1_000;

/// Targets that get a label of their own once their breaker opens; those beyond are only listed by the API.
const TARGET_LABELS_MAX: usize = 200;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// With an output.
    Completed,
    /// With an error.
    Failed,
    /// It ran past its deadline.
    TimedOut,
    /// It was aborted.
    Canceled,
}

impl AttemptEnd {
    const COUNT: usize = 4;

    const fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
        }
    }
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionEnd {
    /// Well.
    Completed,
    /// With an error.
    Failed,
    /// By a cancellation.
    Canceled,
}

/// What started an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartCause {
    /// A call of the API, or of the engine as a library.
    Api,
    /// An operator's command.
    Manual,
    /// A schedule.
    Scheduled,
    /// An event of the bus.
    Event,
    /// A webhook.
    Webhook,
    /// Another execution, as its child.
    Parent,
    /// An operator, as a rerun of another execution.
    Rerun,
    /// An operator, as the next run of an execution that had ended.
    Retry,
    /// The failure of another execution, as its error workflow.
    Failure,
}

/// Handles that one engine counts with.
#[derive(Debug)]
pub struct EngineMetrics {
    /// Time that a durable commit takes; see [`EngineMetrics::committed`].
    commit_seconds: Histogram,
    commit_batch_size: Histogram,
    execution_seconds: Histogram,
    timer_lag_seconds: Histogram,
    retries: Counter,
    fenced_commits: Counter,
    shards_owned: Gauge,
    controls_pause: Gauge,
    controls_stop: Gauge,
    controls_breaker: Gauge,
    controls_draining: Gauge,
    active_running: Gauge,
    active_waiting: Gauge,
    active_pending: Gauge,
    active_quarantined: Gauge,
    outbox_lag_seconds: Gauge,
    outbox_pending: Gauge,
    outbox_bytes: Gauge,
    backlog_refuse: Gauge,
    backlog_hold: Gauge,
    lists_lag_seconds: Gauge,
    lists_pending: Gauge,
    lists_bytes: Gauge,
    node_seconds: Lazily<Histogram>,
    workflows: RwLock<HashMap<Box<str>, Arc<WorkflowMetrics>>>,
    /// Targets whose breaker was open once.
    targets: Mutex<HashSet<Arc<str>>>,
}

impl EngineMetrics {
    /// Handles on the recorder installed now; `backend` names the state store.
    #[must_use]
    pub fn new(backend: &'static str) -> Self {
        Self {
            commit_seconds: histogram!(name::COMMIT_SECONDS, "backend" => backend),
            commit_batch_size: histogram!(name::COMMIT_BATCH_SIZE),
            execution_seconds: histogram!(name::EXECUTION_DURATION),
            timer_lag_seconds: histogram!(name::TIMER_LAG),
            retries: counter!(name::RETRIES),
            fenced_commits: counter!(name::FENCED_COMMITS),
            shards_owned: gauge!(name::SHARDS_OWNED),
            controls_pause: gauge!(name::CONTROLS, "kind" => "pause"),
            controls_stop: gauge!(name::CONTROLS, "kind" => "stop"),
            controls_breaker: gauge!(name::CONTROLS, "kind" => "breaker"),
            controls_draining: gauge!(name::CONTROLS_DRAINING),
            active_running: gauge!(name::EXECUTIONS_ACTIVE, "state" => "running"),
            active_pending: gauge!(name::EXECUTIONS_ACTIVE, "state" => "pending"),
            active_waiting: gauge!(name::EXECUTIONS_ACTIVE, "state" => "waiting"),
            active_quarantined: gauge!(name::EXECUTIONS_ACTIVE, "state" => "quarantined"),
            outbox_lag_seconds: gauge!(name::OUTBOX_LAG),
            outbox_pending: gauge!(name::OUTBOX_PENDING),
            outbox_bytes: gauge!(name::OUTBOX_BYTES),
            backlog_refuse: gauge!(name::BACKLOG_SHARDS, "mark" => "refuse"),
            backlog_hold: gauge!(name::BACKLOG_SHARDS, "mark" => "hold"),
            lists_lag_seconds: gauge!(name::LISTS_LAG),
            lists_pending: gauge!(name::LISTS_PENDING),
            lists_bytes: gauge!(name::LISTS_BYTES),
            node_seconds: Lazily::default(),
            workflows: RwLock::default(),
            targets: Mutex::default(),
        }
    }

    /// Handles of one workflow; keep the answer (in the execution's actor), it costs a lock and a look-up.
    #[must_use]
    pub fn workflow(&self, id: &str) -> Arc<WorkflowMetrics> {
        if let Some(known) = self.workflows.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Arc::clone(known);
        }
        let mut workflows = self.workflows.write().unwrap_or_else(PoisonError::into_inner);
        let label = if workflows.len() < WORKFLOW_LABELS_MAX {
            id
        } else {
            "other"
        };
        let made = || Arc::new(WorkflowMetrics::new(label));
        Arc::clone(workflows.entry(label.into()).or_insert_with(made))
    }

    /// A commit of `entries` entries became durable.
    pub fn committed(&self, took: Duration, entries: usize) {
        self.commit_seconds.record(took.as_secs_f64());
        self.commit_batch_size.record(entries as f64);
    }

    /// A shard was lost to another owner.
    pub fn shard_lost(&self) {
        self.fenced_commits.increment(1);
    }

    /// An execution ended `duration_ms` after its start.
    pub fn execution_ended(&self, duration_ms: u64) {
        self.execution_seconds.record(seconds(duration_ms));
    }

    /// An attempt of a node of this type ended `duration_ms` after its start.
    pub fn attempt_ended(&self, node_type: &'static str, duration_ms: u64) {
        let made = || histogram!(name::NODE_DURATION, "node_type" => node_type);
        self.node_seconds
            .with(node_type, made, |histogram| histogram.record(seconds(duration_ms)));
    }

    /// A node will be tried again.
    pub fn retried(&self) {
        self.retries.increment(1);
    }

    /// A timer fired `lag_ms` after it was due.
    pub fn timer_fired(&self, lag_ms: u64) {
        self.timer_lag_seconds.record(seconds(lag_ms));
    }

    /// So many pauses, emergency stops and overrides of breakers are in force, and so many attempts still run in their scopes.
    pub fn controls(&self, pauses: usize, stops: usize, breakers: usize, draining: u32) {
        self.controls_pause.set(pauses as f64);
        self.controls_stop.set(stops as f64);
        self.controls_breaker.set(breakers as f64);
        self.controls_draining.set(f64::from(draining));
    }

    /// This member owns so many shards.
    pub fn shards_owned(&self, shards: usize) {
        self.shards_owned.set(shards as f64);
    }

    /// So many executions run (they hold an actor), so many only wait, so many have not begun since others of their workflow
    /// run, and so many are set aside.
    pub fn executions_active(&self, running: u64, waiting: u64, pending: u64, quarantined: u64) {
        self.active_pending.set(pending as f64);
        self.active_quarantined.set(quarantined as f64);
        self.active_running.set(running as f64);
        self.active_waiting.set(waiting as f64);
    }

    /// So many records wait to be sent by sinks, the oldest for `lag_ms`.
    pub fn outbox(&self, pending: u64, lag_ms: u64) {
        self.outbox_pending.set(pending as f64);
        self.outbox_lag_seconds.set(seconds(lag_ms));
    }

    /// So many bytes wait for buses; in so many shards too much waits, for them or for lists, to start executions or attempts.
    pub fn backlog(&self, bytes: u64, refusing: u64, holding: u64) {
        self.outbox_bytes.set(bytes as f64);
        self.backlog_refuse.set(refusing as f64);
        self.backlog_hold.set(holding as f64);
    }

    /// The log must keep so many records of so many bytes for lists, the oldest for `lag_ms`.
    pub fn lists(&self, pending: u64, bytes: u64, lag_ms: u64) {
        self.lists_pending.set(pending as f64);
        self.lists_bytes.set(bytes as f64);
        self.lists_lag_seconds.set(seconds(lag_ms));
    }

    /// So many attempts run.
    pub fn attempts_running(&self, attempts: u64) {
        gauge!(name::ATTEMPTS_RUNNING).set(attempts as f64);
    }

    /// So many attempts wait for this before they start.
    pub fn attempts_waiting(&self, what: &'static str, attempts: u64) {
        gauge!(name::ATTEMPTS_WAITING, "for" => what).set(attempts as f64);
    }

    /// These targets are all that have a breaker, and whether each is open. One that is no longer among them is closed.
    pub fn breakers<'a>(&self, targets: impl Iterator<Item = (&'a str, bool)>) {
        let mut shown = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open: HashMap<&str, bool> = targets.collect();
        for target in shown.iter() {
            let is_open = open.remove(&**target).unwrap_or(false);
            gauge!(name::BREAKER_OPEN, "target" => Arc::clone(target)).set(f64::from(u8::from(is_open)));
        }
        for (target, _) in open.into_iter().filter(|(_, is_open)| *is_open) {
            if shown.len() < TARGET_LABELS_MAX {
                let target: Arc<str> = target.into();
                gauge!(name::BREAKER_OPEN, "target" => Arc::clone(&target)).set(1.0);
                shown.insert(target);
            }
        }
    }

    /// Messages that wait in the mailboxes of one kind of actor.
    pub fn mailbox_depth(&self, kind: &'static str, messages: u64) {
        gauge!(name::ACTOR_MAILBOX_DEPTH, "kind" => kind).set(messages as f64);
    }

    /// An actor of this kind failed and was built again.
    pub fn actor_restarted(&self, kind: &'static str) {
        counter!(name::ACTOR_RESTARTS, "kind" => kind).increment(1);
    }
}

/// Handles that count for one workflow.
#[derive(Debug)]
pub struct WorkflowMetrics {
    label: Arc<str>,
    started: [OnceLock<Counter>; 9],
    finished: [OnceLock<Counter>; 3],
    attempts: [Lazily<Counter>; AttemptEnd::COUNT],
}

impl WorkflowMetrics {
    fn new(label: &str) -> Self {
        Self {
            label: label.into(),
            started: Default::default(),
            finished: Default::default(),
            attempts: Default::default(),
        }
    }

    /// An execution started.
    pub fn started(&self, cause: StartCause) {
        let (slot, trigger) = match cause {
            StartCause::Api => (0, "api"),
            StartCause::Manual => (1, "manual"),
            StartCause::Scheduled => (2, "scheduled"),
            StartCause::Event => (3, "event"),
            StartCause::Webhook => (4, "webhook"),
            StartCause::Parent => (5, "parent"),
            StartCause::Rerun => (6, "rerun"),
            StartCause::Retry => (7, "retry"),
            StartCause::Failure => (8, "failure"),
        };
        let made = || counter!(name::EXECUTIONS_STARTED, "workflow" => Arc::clone(&self.label), "trigger" => trigger);
        self.started[slot].get_or_init(made).increment(1);
    }

    /// An execution ended.
    pub fn finished(&self, end: ExecutionEnd) {
        let (slot, status) = match end {
            ExecutionEnd::Completed => (0, "completed"),
            ExecutionEnd::Failed => (1, "failed"),
            ExecutionEnd::Canceled => (2, "canceled"),
        };
        let made = || counter!(name::EXECUTIONS_FINISHED, "workflow" => Arc::clone(&self.label), "status" => status);
        self.finished[slot].get_or_init(made).increment(1);
    }

    /// An attempt of a node of this type ended.
    pub fn attempt(&self, node_type: &'static str, end: AttemptEnd) {
        let made = || {
            let workflow = Arc::clone(&self.label);
            counter!(name::NODE_ATTEMPTS, "workflow" => workflow, "node_type" => node_type, "outcome" => end.label())
        };
        self.attempts[end as usize].with(node_type, made, |counter| counter.increment(1));
    }
}

/// Node types are few: a short list that is searched without a lock and only ever grows.
const NODE_TYPES_MAX: usize = 24;

/// Handles by node type, each made when it is first used.
#[derive(Debug)]
struct Lazily<T>([OnceLock<(&'static str, T)>; NODE_TYPES_MAX]);

impl<T> Default for Lazily<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl<T> Lazily<T> {
    fn with(&self, key: &'static str, make: impl Fn() -> T, act: impl Fn(&T)) {
        for slot in &self.0 {
            let (known, handle) = slot.get_or_init(|| (key, make()));
            if *known == key {
                return act(handle);
            }
        }
        act(&make());
    }
}

/// What a broker has done and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerSample {
    /// Whether there is a connection.
    pub connected: bool,
    /// Whether it takes no messages for now.
    pub blocked: bool,
    /// Events it confirmed since the process started.
    pub events: u64,
    /// Messages it confirmed.
    pub messages: u64,
    /// Messages it returned.
    pub unroutable: u64,
    /// Messages it refused.
    pub refused: u64,
    /// Messages that were left out since their exchange cannot be used.
    pub misdirected: u64,
    /// Connections that were made.
    pub connections: u64,
}

/// Handles that show one broker.
#[derive(Debug)]
pub struct BrokerMetrics {
    connected: Gauge,
    blocked: Gauge,
    events: Counter,
    messages: Counter,
    unroutable: Counter,
    refused: Counter,
    misdirected: Counter,
    connections: Counter,
}

impl BrokerMetrics {
    /// Handles on the recorder installed now.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "what it is made on is installed elsewhere")]
    pub fn new() -> Self {
        Self {
            connected: gauge!(name::BROKER_CONNECTED),
            blocked: gauge!(name::BROKER_BLOCKED),
            events: counter!(name::BROKER_EVENTS),
            messages: counter!(name::BROKER_MESSAGES),
            unroutable: counter!(name::BROKER_UNROUTABLE),
            refused: counter!(name::BROKER_REFUSED),
            misdirected: counter!(name::BROKER_MISDIRECTED),
            connections: counter!(name::BROKER_CONNECTIONS),
        }
    }

    /// Shows what holds now.
    pub fn sample(&self, sample: BrokerSample) {
        self.connected.set(f64::from(u8::from(sample.connected)));
        self.blocked.set(f64::from(u8::from(sample.blocked)));
        self.events.absolute(sample.events);
        self.messages.absolute(sample.messages);
        self.unroutable.absolute(sample.unroutable);
        self.refused.absolute(sample.refused);
        self.misdirected.absolute(sample.misdirected);
        self.connections.absolute(sample.connections);
    }
}

/// Handles that count what sinks hand to one bus.
#[derive(Debug)]
pub struct BusMetrics {
    publish_seconds: Histogram,
    batch_size: Histogram,
}

impl BusMetrics {
    /// Handles on the recorder installed now.
    #[must_use]
    pub fn new(bus: &'static str) -> Self {
        Self {
            publish_seconds: histogram!(name::PUBLISH_SECONDS, "bus" => bus),
            batch_size: histogram!(name::PUBLISH_BATCH_SIZE, "bus" => bus),
        }
    }

    /// A call with so many events was confirmed.
    pub fn published(&self, events: usize) {
        self.batch_size.record(events as f64);
    }

    /// Events of an entry that was made `late_ms` ago were confirmed.
    pub fn confirmed(&self, late_ms: u64) {
        self.publish_seconds.record(seconds(late_ms));
    }
}

/// Counts what a cache is asked for.
#[derive(Debug)]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    entries: Gauge,
}

impl CacheMetrics {
    /// Handles of the cache of this name, on the recorder installed now.
    #[must_use]
    pub fn new(cache: &'static str) -> Self {
        Self {
            hits: counter!(name::CACHE_LOOKUPS, "cache" => cache, "outcome" => "hit"),
            misses: counter!(name::CACHE_LOOKUPS, "cache" => cache, "outcome" => "miss"),
            entries: gauge!(name::CACHE_ENTRIES, "cache" => cache),
        }
    }

    /// Somebody looked something up.
    pub fn looked_up(&self, found: bool) {
        if found { &self.hits } else { &self.misses }.increment(1);
    }

    /// So many entries are held.
    pub fn entries(&self, entries: usize) {
        self.entries.set(entries as f64);
    }
}

/// One request was answered.
pub fn http_answered(method: &'static str, route: Arc<str>, status: u16, took: Duration) {
    let seconds = took.as_secs_f64();
    counter!(name::HTTP_REQUESTS, "method" => method, "route" => Arc::clone(&route), "status" => status.to_string())
        .increment(1);
    histogram!(name::HTTP_REQUEST_SECONDS, "method" => method, "route" => route).record(seconds);
}

/// So many audit rows wait for their store.
pub fn audit_rows_pending(rows: usize) {
    gauge!(name::AUDIT_ROWS_PENDING).set(rows as f64);
}

/// An audit row was given up.
pub fn audit_row_lost() {
    counter!(name::AUDIT_ROWS_LOST).increment(1);
}

/// Tells which version runs.
pub fn build_info(version: &'static str) {
    gauge!(name::BUILD_INFO, "version" => version).set(1.0);
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::recorder;

    #[test]
    fn what_is_counted_is_exposed_under_its_labels() {
        let recorder = recorder().expect("the catalogue's buckets are not empty");
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let engine = EngineMetrics::new("embedded");
            let orders = engine.workflow("orders");
            orders.started(StartCause::Api);
            orders.started(StartCause::Api);
            orders.finished(ExecutionEnd::Failed);
            orders.attempt("http", AttemptEnd::TimedOut);
            orders.attempt("function", AttemptEnd::Completed);
            orders.attempt("http", AttemptEnd::TimedOut);
            engine.attempt_ended("http", 30);
            engine.committed(Duration::from_micros(180), 3);
            engine.executions_active(2, 7, 4, 1);
            engine.attempts_running(6);
            engine.attempts_waiting("slot", 3);
            engine.lists(5, 900, 1_500);
            BrokerMetrics::new().sample(BrokerSample {
                misdirected: 3,
                ..BrokerSample::default()
            });
            engine.breakers([("handler:a", true), ("handler:b", true), ("handler:c", false)].into_iter());
            engine.breakers([("handler:a", true)].into_iter());
            let cache = CacheMetrics::new("plan");
            for found in [true, false, true] {
                cache.looked_up(found);
            }
            cache.entries(5);
        });
        let text = handle.render();
        for line in [
            r#"troupe_executions_started_total{workflow="orders",trigger="api"} 2"#,
            r#"troupe_executions_finished_total{workflow="orders",status="failed"} 1"#,
            r#"troupe_node_attempts_total{workflow="orders",node_type="http",outcome="timed_out"} 2"#,
            r#"troupe_node_attempts_total{workflow="orders",node_type="function",outcome="completed"} 1"#,
            r#"troupe_node_duration_seconds_bucket{node_type="http",le="0.05"} 1"#,
            r#"troupe_node_duration_seconds_bucket{node_type="http",le="0.025"} 0"#,
            r#"troupe_commit_seconds_bucket{backend="embedded",le="0.00025"} 1"#,
            r#"troupe_commit_batch_size_sum 3"#,
            r#"troupe_executions_active{state="waiting"} 7"#,
            r#"troupe_cache_lookups_total{cache="plan",outcome="hit"} 2"#,
            r#"troupe_cache_lookups_total{cache="plan",outcome="miss"} 1"#,
            r#"troupe_cache_entries{cache="plan"} 5"#,
            r#"troupe_executions_active{state="pending"} 4"#,
            r#"troupe_executions_active{state="quarantined"} 1"#,
            "troupe_attempts_running 6",
            r#"troupe_attempts_waiting{for="slot"} 3"#,
            "troupe_lists_pending 5",
            "troupe_lists_bytes 900",
            "troupe_lists_lag_seconds 1.5",
            "troupe_broker_misdirected_total 3",
            r#"troupe_breaker_open{target="handler:a"} 1"#,
            r#"troupe_breaker_open{target="handler:b"} 0"#,
        ] {
            assert!(
                text.lines().any(|candidate| candidate == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn too_many_workflows_share_one_label() {
        let engine = EngineMetrics::new("embedded");
        let mut last = None;
        for number in 0..WORKFLOW_LABELS_MAX + 2 {
            last = Some(engine.workflow(&format!("w{number}")));
        }
        assert_eq!(last.map(|metrics| metrics.label.to_string()).as_deref(), Some("other"));
        assert_eq!(&*engine.workflow("w1").label, "w1");
    }
}

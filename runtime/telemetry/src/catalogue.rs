//! Every metric the product has, in one table. Labels never carry the id of an execution or of a node.

/// What a metric measures and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// What a metric's numbers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Seconds.
    Seconds,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name on the wire.
    pub name: &'static str,
    /// How it measures.
    pub kind: Kind,
    /// What its numbers count.
    pub unit: Unit,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// One line for people.
    pub help: &'static str,
}

/// From one request in memory to an execution of an hour.
const LATENCY_SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0, 3_600.0,
];
/// Entries packed into one commit.
const BATCH_SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

macro_rules! catalogue {
    ($($name:ident = $text:literal, $kind:expr, $unit:ident, [$($label:literal),*], $help:literal;)+) => {
        $(#[doc = $help] pub const $name: &str = $text;)+
        /// Every metric, in the order of the documentation.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $text, kind: $kind, unit: Unit::$unit, labels: &[$($label),*], help: $help },)+
        ];
    };
}

catalogue! {
    EXECUTIONS_STARTED = "troupe_executions_started_total", Kind::Counter, Count, ["workflow", "trigger"], "Executions started.";
    EXECUTIONS_FINISHED = "troupe_executions_finished_total", Kind::Counter, Count, ["workflow", "status"], "Executions that ended, by final status.";
    EXECUTION_DURATION = "troupe_execution_duration_seconds", Kind::Histogram(LATENCY_SECONDS), Seconds, [], "Time from start to end of an execution.";
    EXECUTIONS_ACTIVE = "troupe_executions_active", Kind::Gauge, Count, ["state"], "Executions that have not ended: running ones hold an actor, waiting ones none; pending ones wait until fewer of their workflow run; quarantined ones are set aside.";
    NODE_ATTEMPTS = "troupe_node_attempts_total", Kind::Counter, Count, ["workflow", "node_type", "outcome"], "Attempts of nodes that ended.";
    NODE_DURATION = "troupe_node_duration_seconds", Kind::Histogram(LATENCY_SECONDS), Seconds, ["node_type"], "Time from start to end of an attempt.";
    ATTEMPTS_RUNNING = "troupe_attempts_running", Kind::Gauge, Count, [], "Attempts that run now.";
    ATTEMPTS_WAITING = "troupe_attempts_waiting", Kind::Gauge, Count, ["for"], "Attempts that have not started: they wait for a slot of their key, for a permit of their node type or of the engine, for a target that is unwell, or since too much waits for the event bus or for lists.";
    BREAKER_OPEN = "troupe_breaker_open", Kind::Gauge, Count, ["target"], "1 while attempts on a target are parked since it is unwell, 0 once it is well again.";
    RETRIES = "troupe_retries_total", Kind::Counter, Count, [], "Attempts that another one follows.";
    COMMIT_SECONDS = "troupe_commit_seconds", Kind::Histogram(LATENCY_SECONDS), Seconds, ["backend"], "Time that a durable commit takes.";
    COMMIT_BATCH_SIZE = "troupe_commit_batch_size", Kind::Histogram(BATCH_SIZES), Count, [], "Entries packed into one commit.";
    OUTBOX_LAG = "troupe_outbox_lag_seconds", Kind::Gauge, Seconds, [], "Age of the oldest entry that the event bus has not confirmed.";
    OUTBOX_PENDING = "troupe_outbox_pending", Kind::Gauge, Count, [], "Records of the log that the event bus has not confirmed.";
    OUTBOX_BYTES = "troupe_outbox_bytes", Kind::Gauge, Count, [], "Bytes of log and spool that the event bus has not confirmed.";
    BACKLOG_SHARDS = "troupe_backlog_shards", Kind::Gauge, Count, ["mark"], "Shards beyond a high-water mark of what waits for the event bus or for lists: refuse (no execution starts), hold (no attempt starts either).";
    LISTS_LAG = "troupe_lists_lag_seconds", Kind::Gauge, Seconds, [], "Age of the oldest record that the log must keep for lists, or for how long they cannot be written; a fraction of a second while all is well.";
    LISTS_PENDING = "troupe_lists_pending", Kind::Gauge, Count, [], "Records that the log must keep since lists do not show them, or one before them.";
    LISTS_BYTES = "troupe_lists_bytes", Kind::Gauge, Count, [], "Bytes of the records that the log must keep for lists.";
    PUBLISH_SECONDS = "troupe_publish_seconds", Kind::Histogram(LATENCY_SECONDS), Seconds, ["bus"], "Time from an entry to the confirm of its events.";
    PUBLISH_BATCH_SIZE = "troupe_publish_batch_size", Kind::Histogram(BATCH_SIZES), Count, ["bus"], "Events handed to a bus in one call.";
    BROKER_CONNECTED = "troupe_broker_connected", Kind::Gauge, Count, [], "1 while there is a connection to the event broker.";
    BROKER_BLOCKED = "troupe_broker_blocked", Kind::Gauge, Count, [], "1 while the event broker takes no messages: its memory or its disk is short.";
    BROKER_EVENTS = "troupe_broker_events_total", Kind::Counter, Count, [], "Events that the broker confirmed.";
    BROKER_MESSAGES = "troupe_broker_messages_total", Kind::Counter, Count, [], "Messages that the broker confirmed; several events may travel as one.";
    BROKER_UNROUTABLE = "troupe_broker_unroutable_total", Kind::Counter, Count, [], "Messages that the broker returned since no queue was bound for them.";
    BROKER_REFUSED = "troupe_broker_refused_total", Kind::Counter, Count, [], "Messages that the broker refused.";
    BROKER_MISDIRECTED = "troupe_broker_misdirected_total", Kind::Counter, Count, [], "Messages left out since the further exchange that a workflow names cannot be used.";
    BROKER_CONNECTIONS = "troupe_broker_connections_total", Kind::Counter, Count, [], "Connections to the broker that were made.";
    TRIGGER_MESSAGES = "troupe_trigger_messages_total", Kind::Counter, Count, ["outcome"], "Messages of event triggers: started (an execution, or one that had started before), filtered, rejected (set aside as dead letters), again (given back: they come again).";
    TRIGGER_MESSAGES_IN_HAND = "troupe_trigger_messages_in_hand", Kind::Gauge, Count, ["state"], "Messages that event triggers have taken and not settled: handling, or waiting since starts are refused for now.";
    TRIGGER_MESSAGE_SECONDS = "troupe_trigger_message_seconds", Kind::Histogram(LATENCY_SECONDS), Seconds, [], "Time from taking a message of an event trigger to settling it.";
    INBOX_COMMANDS = "troupe_inbox_commands_total", Kind::Counter, Count, ["outcome"], "Commands that inboxes of shards are for: kept (put there, since the owner could not be asked), full (no room for it), applied, refused, set_aside (dropped, since the owner could do nothing with it).";
    INBOX_DEPTH = "troupe_inbox_depth", Kind::Gauge, Count, [], "Commands that wait in the inboxes of this member's shards.";
    TIMER_LAG = "troupe_timer_lag_seconds", Kind::Histogram(LATENCY_SECONDS), Seconds, [], "How late timers fire.";
    ACTOR_MAILBOX_DEPTH = "troupe_actor_mailbox_depth", Kind::Gauge, Count, ["kind"], "Messages that wait in mailboxes.";
    ACTOR_RESTARTS = "troupe_actor_restarts_total", Kind::Counter, Count, ["kind"], "Actors that failed and were built again.";
    SHARDS_OWNED = "troupe_shards_owned", Kind::Gauge, Count, [], "Shards that this member owns.";
    CONTROLS = "troupe_controls", Kind::Gauge, Count, ["kind"], "Pauses and emergency stops of a wider scope, and overrides of breakers, in force.";
    CONTROLS_DRAINING = "troupe_controls_draining", Kind::Gauge, Count, [], "Attempts that still run in a paused or stopped scope, counted once a control.";
    FENCED_COMMITS = "troupe_fenced_commits_total", Kind::Counter, Count, [], "Shards that this member lost to another owner, each once: another one was named, or a write or a renewal of the lease was refused. Not how many commits were refused.";
    CACHE_LOOKUPS = "troupe_cache_lookups_total", Kind::Counter, Count, ["cache", "outcome"], "Look-ups in caches: of compiled plans, analyses, large values, and outputs of nodes with data.cache.";
    CACHE_ENTRIES = "troupe_cache_entries", Kind::Gauge, Count, ["cache"], "Entries of caches in memory.";
    HTTP_REQUESTS = "troupe_http_requests_total", Kind::Counter, Count, ["method", "route", "status"], "Requests that the gateway answered.";
    HTTP_REQUEST_SECONDS = "troupe_http_request_seconds", Kind::Histogram(LATENCY_SECONDS), Seconds, ["method", "route"], "Time to answer a request.";
    AUDIT_ROWS_PENDING = "troupe_audit_rows_pending", Kind::Gauge, Count, [], "Audit rows that wait for their store.";
    AUDIT_ROWS_LOST = "troupe_audit_rows_lost_total", Kind::Counter, Count, [], "Audit rows that their store never got; the log has them.";
    BUILD_INFO = "troupe_build_info", Kind::Gauge, Count, ["version"], "Always 1; the label tells the version.";
}

/// Tells the installed recorder the unit and the help text of every metric.
pub fn describe_all() {
    for metric in METRICS {
        let unit = match metric.unit {
            Unit::Count => metrics::Unit::Count,
            Unit::Seconds => metrics::Unit::Seconds,
        };
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    /// What the reference says of a metric.
    fn row(metric: &Metric) -> String {
        let Metric { name, help, .. } = metric;
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let unit = match metric.unit {
            Unit::Count => "count",
            Unit::Seconds => "seconds",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {unit} | {help} |", labels.join(", "))
    }

    #[test]
    fn the_reference_has_every_metric_as_it_is_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let lines = || text.lines().filter(|line| line.starts_with("| `"));
        let told: BTreeSet<String> = lines().map(str::to_owned).collect();
        assert_eq!(told.len(), lines().count(), "each has one row");
        let known: BTreeSet<String> = METRICS.iter().map(row).collect();
        let missing: Vec<&String> = known.difference(&told).collect();
        let surplus: Vec<&String> = told.difference(&known).collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "metrics.md lacks {missing:#?} and has {surplus:#?}"
        );
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in METRICS {
            assert!(metric.name.starts_with("troupe_"), "{}", metric.name);
            let total = metric.name.ends_with("_total");
            assert_eq!(
                total,
                metric.kind == Kind::Counter,
                "{}: only counters end in _total",
                metric.name
            );
            assert_eq!(
                metric.name.ends_with("_seconds"),
                metric.unit == Unit::Seconds,
                "{}",
                metric.name
            );
            for label in metric.labels {
                assert!(
                    !["execution", "node"].contains(label),
                    "{}: unbounded label {label}",
                    metric.name
                );
            }
        }
    }

    #[test]
    fn names_are_unique_and_buckets_ascend() {
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(buckets.is_sorted_by(|a, b| a < b), "{}", metric.name);
            }
        }
    }
}

//! What metrics tell an operator of members, of events and the broker that they go to, and of audit rows: each is seen to move by what
//! it is about.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
#[path = "../../runtime/backends/tests/support/rabbitmq.rs"]
mod rabbitmq;
mod server;
#[path = "server/services.rs"]
mod services;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bench::{Bench, SHARDS, SHORT_LEASE, apply, metric, shards, until, until_split};
use lapin::types::AMQPValue;
use rabbitmq::broker::Broker;
use rabbitmq::consumer::{Client, table};
use server::Server;
use services::Deployment;
use troupe::audit::AuditTrail;
use troupe_core::Timestamp;
use troupe_ports::{AuditId, AuditLog, AuditPage, AuditQuery, AuditRow, AuditTarget, StoreError};
use troupe_telemetry::Exposition;

const ONE: &str = "
id: one
name: One
nodes: [{ id: only, type: function, data: { handlerId: echo } }]
edges: []
";

/// What waits for an event bus: records, their bytes, and for how long the oldest has waited.
const OUTBOX: [&str; 3] = [
    "troupe_outbox_pending",
    "troupe_outbox_bytes",
    "troupe_outbox_lag_seconds",
];
const PUBLISHED: [&str; 2] = [
    r#"troupe_publish_seconds_count{bus="rabbitmq"}"#,
    r#"troupe_publish_seconds_sum{bus="rabbitmq"}"#,
];

fn signal(server: &Server, name: &str) {
    let pid = server.child.id().to_string();
    let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_member_that_stood_still_past_its_lease_counts_what_it_has_lost() {
    let bench = Bench::new(&[SHORT_LEASE]);
    let (a, b) = (bench.member(), bench.member());
    until_split([&a, &b]);
    assert_eq!(metric(&a, "troupe_fenced_commits_total"), 0.0);
    signal(&a, "STOP");
    until("the other one takes everything", || shards(&b) == Some(SHARDS));
    signal(&a, "CONT");
    until("it counts what it has lost", || {
        metric(&a, "troupe_fenced_commits_total") > 0.0
    });
    until_split([&a, &b]);
}

/// One that publishes to the broker at `url`.
fn publisher(state: &Path, url: &str, prefix: &str) -> Server {
    let settings = [("STORE_EVENTS".to_owned(), url), ("STORE_PREFIX".to_owned(), prefix)];
    let server = Server::with_settings(state, &[], &settings);
    apply(&server, ONE);
    server
}

fn run(server: &Server) {
    server.line(&["start", "one", "-q", "--wait"]);
}

/// Waits until something waits for the broker, or nothing does.
fn until_outbox(server: &Server, waits: bool) {
    let what = if waits { "events wait" } else { "no event waits" };
    until(what, || OUTBOX.iter().all(|name| (metric(server, name) > 0.0) == waits));
}

/// A full queue refuses messages, which are sent again; once it is gone, no queue is bound for them, and they come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_refused_and_those_that_come_back_are_counted() {
    let (deployment, state) = (Deployment::new(), tempfile::tempdir().unwrap());
    let client = Client::connect(&deployment.rabbitmq).await;
    let exchange = format!("{}.events", deployment.prefix);
    client.declare_exchange(&exchange).await;
    let mut arguments = table(&[("x-overflow", "reject-publish")]);
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    let queue = client.queue(&exchange, "#", arguments).await;
    let server = publisher(state.path(), &deployment.rabbitmq, &deployment.prefix);
    until("the full queue refuses some", || {
        run(&server);
        metric(&server, "troupe_broker_refused_total") > 0.0
    });
    until_outbox(&server, true);
    assert_eq!(metric(&server, "troupe_broker_unroutable_total"), 0.0);

    client.delete_queue(&queue).await;
    until_outbox(&server, false);
    assert!(metric(&server, "troupe_broker_unroutable_total") > 0.0);
    for name in PUBLISHED {
        assert!(metric(&server, name) > 0.0, "{name}");
    }
}

/// What a workflow sends to an exchange that has another type is left out, and holds up nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_an_exchange_that_cannot_be_used_are_counted() {
    const MISDIRECTED: &str = "troupe_broker_misdirected_total";
    let (deployment, state) = (Deployment::new(), tempfile::tempdir().unwrap());
    let client = Client::connect(&deployment.rabbitmq).await;
    let named = format!("{}_named", deployment.prefix);
    client.declare_exchange(&named).await;
    let server = publisher(state.path(), &deployment.rabbitmq, &deployment.prefix);
    run(&server);
    until_outbox(&server, false);
    assert_eq!(metric(&server, MISDIRECTED), 0.0);

    let settings = format!("settings: {{ events: {{ exchanges: [{{ name: {named}, type: fanout }}] }} }}");
    apply(&server, &format!("{ONE}{settings}\n"));
    run(&server);
    until("what is left out is counted", || metric(&server, MISDIRECTED) > 0.0);
    until_outbox(&server, false);
    client.delete_exchange(&named).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_short_of_memory_is_shown_to_be_blocked_until_it_is_well() {
    let (broker, state) = (Broker::start().await, tempfile::tempdir().unwrap());
    let server = publisher(state.path(), &broker.url(), "blocked");
    run(&server);
    until("it has the events", || {
        metric(&server, "troupe_broker_events_total") > 0.0
    });
    assert_eq!(metric(&server, "troupe_broker_blocked"), 0.0);
    broker.control(&["set_vm_memory_high_watermark", "0"]).await;
    // RabbitMQ says so to whoever publishes.
    until("it is blocked", || {
        run(&server);
        metric(&server, "troupe_broker_blocked") > 0.0
    });
    assert_eq!(metric(&server, "troupe_broker_connected"), 1.0);
    until_outbox(&server, true);
    broker.control(&["set_vm_memory_high_watermark", "0.6"]).await;
    until("it is well", || metric(&server, "troupe_broker_blocked") == 0.0);
    until_outbox(&server, false);
}

/// A store of audit rows that is away.
struct Away;

fn away() -> StoreError {
    StoreError::Unavailable("away".to_owned())
}

#[async_trait]
impl AuditLog for Away {
    async fn record(&self, _: Vec<AuditRow>) -> Result<(), StoreError> {
        Err(away())
    }

    async fn list(&self, _: AuditQuery) -> Result<AuditPage, StoreError> {
        Err(away())
    }
}

#[tokio::test]
async fn audit_rows_that_wait_and_those_that_are_lost_are_counted() {
    let exposition = Exposition::install().unwrap();
    let shows = |line: &str| exposition.render().lines().any(|shown| shown == line);
    let trail = AuditTrail::start(Arc::new(Away));
    for number in 0..3 {
        trail.queue(AuditRow {
            id: AuditId([number; 16]),
            at: Timestamp(1),
            principal: Some("ada".to_owned()),
            action: "execution.cancel".to_owned(),
            target: AuditTarget {
                kind: "execution".to_owned(),
                id: "x".to_owned(),
            },
            before: None,
            after: None,
            request: None,
            outcome: Some("ok".to_owned()),
        });
    }
    assert!(shows("troupe_audit_rows_pending 3"), "{}", exposition.render());
    assert_eq!(trail.close(Duration::from_millis(50)).await, 3);
    for line in ["troupe_audit_rows_lost_total 3", "troupe_audit_rows_pending 0"] {
        assert!(shows(line), "{line} is not in\n{}", exposition.render());
    }
}

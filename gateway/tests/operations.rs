//! What an operator sees of a real server: its metrics, and what it does when a part of its store is damaged or away.
#![allow(clippy::unwrap_used)]

#[path = "../../runtime/backends/tests/support/postgres.rs"]
mod postgres;
mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use postgres::PostgresServer;
use serde_json::{Value, json};
use server::Server;
use troupe_backends::{EmbeddedStore, StoreOptions};
use troupe_core::ShardId;
use troupe_ports::{CommitId, StateStore};

/// Fails twice, waits, goes on.
const TRYING: &str = "
id: trying
name: Trying
nodes:
  - { id: t, type: trigger, data: { triggerType: manual } }
  - id: a
    type: function
    data: { handlerId: fail, code: NO_LUCK, retryPolicy: { maxAttempts: 2, initialDelay: 20, jitter: none } }
  - { id: w, type: delay, data: { delayType: fixed, delayValue: 600 } }
  - { id: b, type: function, data: { handlerId: echo } }
edges:
  - { id: e1, source: t, target: a }
  - { id: e2, source: a, target: w, type: failure }
  - { id: e3, source: w, target: b }
";

const SLOW: &str = "
id: slow
name: Slow
nodes: [{ id: wait, type: delay, data: { delayType: fixed, delayValue: 86400000 } }]
edges: []
";

const PATIENCE: Duration = Duration::from_secs(60);

fn apply(server: &Server, directory: &Path) {
    for (name, text) in [("trying.yaml", TRYING), ("slow.yaml", SLOW)] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    server.line(&["apply", "-q", &directory.display().to_string()]);
}

/// The value of one line of the metrics.
fn metric(text: &str, name: &str) -> Option<f64> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

/// Reads the metrics until these hold: gauges settle a moment after what they tell of.
fn settles(server: &Server, expected: &[(&str, f64)]) -> String {
    let begun = Instant::now();
    loop {
        let (status, text) = server.get("/metrics");
        assert_eq!(status, 200);
        let wrong = expected
            .iter()
            .find(|(name, value)| metric(&text, name) != Some(*value));
        match wrong {
            None => return text,
            Some((name, value)) if begun.elapsed() > PATIENCE => {
                panic!("{name} is {:?}, not {value}\n{text}", metric(&text, name))
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[test]
fn metrics_tell_what_a_server_did_and_how_it_stands() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    apply(&server, files.path());
    server.line(&["start", "slow"]);
    server.line(&["start", "trying", "--wait"]);
    server.line(&["start", "trying", "--trigger", "t", "--wait"]);
    let text = settles(
        &server,
        &[
            (r#"troupe_executions_started_total{workflow="slow",trigger="api"}"#, 1.0),
            (
                r#"troupe_executions_started_total{workflow="trying",trigger="api"}"#,
                1.0,
            ),
            (
                r#"troupe_executions_started_total{workflow="trying",trigger="manual"}"#,
                1.0,
            ),
            (
                r#"troupe_executions_finished_total{workflow="trying",status="completed"}"#,
                2.0,
            ),
            ("troupe_execution_duration_seconds_count", 2.0),
            (r#"troupe_executions_active{state="running"}"#, 0.0),
            (r#"troupe_executions_active{state="waiting"}"#, 1.0),
            (r#"troupe_executions_active{state="quarantined"}"#, 0.0),
            (
                r#"troupe_node_attempts_total{workflow="trying",node_type="function",outcome="failed"}"#,
                4.0,
            ),
            (
                r#"troupe_node_attempts_total{workflow="trying",node_type="function",outcome="completed"}"#,
                2.0,
            ),
            (r#"troupe_node_duration_seconds_count{node_type="function"}"#, 6.0),
            ("troupe_retries_total", 2.0),
            ("troupe_outbox_pending", 0.0),
            ("troupe_outbox_lag_seconds", 0.0),
            (r#"troupe_actor_mailbox_depth{kind="execution"}"#, 0.0),
            (r#"troupe_actor_mailbox_depth{kind="committer"}"#, 0.0),
            (r#"troupe_actor_mailbox_depth{kind="checkpointer"}"#, 0.0),
            (r#"troupe_actor_mailbox_depth{kind="events"}"#, 0.0),
            ("troupe_shards_owned", 8.0),
            ("troupe_fenced_commits_total", 0.0),
            (
                r#"troupe_http_requests_total{method="POST",route="/api/v1/workflows/{id}/executions",status="202"}"#,
                3.0,
            ),
        ],
    );
    let at_least = |name: &str, least: f64| {
        let value = metric(&text, name);
        assert!(value.is_some_and(|value| value >= least), "{name}: {value:?}\n{text}");
    };
    // Two retries and two delays; a timer that its execution found due by itself need not fire.
    at_least("troupe_timer_lag_seconds_count", 2.0);
    at_least(r#"troupe_commit_seconds_count{backend="embedded"}"#, 8.0);
    at_least("troupe_commit_batch_size_sum", 13.0);
    at_least(
        r#"troupe_http_request_seconds_count{method="POST",route="/api/v1/workflows/{id}/executions"}"#,
        3.0,
    );
    assert!(text.contains("troupe_build_info{version="), "{text}");

    // What waits is counted again from the store.
    drop(server);
    let server = Server::start(state.path());
    settles(&server, &[(r#"troupe_executions_active{state="waiting"}"#, 1.0)]);
    let id = server.line(&["ls", "-q", "slow"]);
    server.line(&["cancel", &id]);
    settles(&server, &[(r#"troupe_executions_active{state="waiting"}"#, 0.0)]);
}

/// Appends a record to a shard's log that nobody can read.
async fn damage(state: &Path, shard: ShardId) {
    let store = EmbeddedStore::open(
        state,
        &StoreOptions {
            shards: 8,
            ..StoreOptions::default()
        },
    )
    .unwrap();
    let lease = store.acquire(shard, "test", Duration::from_secs(5)).await.unwrap();
    store
        .append(shard, lease.epoch, lease.next, CommitId(7), "no record".into())
        .await
        .unwrap();
    store.release(shard, lease.epoch).await.unwrap();
}

#[tokio::test]
async fn a_damaged_shard_halts_alone_until_its_loss_is_accepted() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    damage(state.path(), ShardId(3)).await;
    let server = Server::start(state.path());
    let ready = |server: &Server| {
        let (status, body) = server.get("/readyz");
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, body) = ready(&server);
    assert_eq!(
        (status, &body["status"], &body["shardsServed"]),
        (200, &json!("degraded"), &json!(7))
    );
    let halted = &body["halted"][0];
    assert_eq!((&halted["shard"], &halted["code"]), (&json!(3), &json!("DAMAGED")));
    assert!(halted["hint"].as_str().unwrap().contains("--accept-loss"), "{halted}");
    apply(&server, files.path());
    for _ in 0..10 {
        server.line(&["start", "slow"]);
    }

    drop(server);
    let server = Server::with(state.path(), &["--accept-loss", "3"]);
    let (status, body) = ready(&server);
    assert_eq!(
        (status, &body["status"], &body["halted"]),
        (200, &json!("ok"), &json!([]))
    );
    drop(server);
    let (status, body) = ready(&Server::start(state.path()));
    assert_eq!(
        (status, &body["status"]),
        (200, &json!("ok")),
        "the loss is accepted once"
    );
}

fn listens() -> String {
    json!({
        "id": "listens", "name": "Listens", "settings": {"onFailure": "failFast"},
        "nodes": [
            {"id": "on-paid", "type": "trigger", "data": {"triggerType": "event", "config": {"routingKey": "order.paid"}}},
            {"id": "ship", "type": "function", "data": {"handlerId": "echo"}},
        ],
        "edges": [{"source": "on-paid", "target": "ship"}],
    })
    .to_string()
}

/// An event trigger without a broker is told to whoever stores it, and in the log of a server that has it already.
#[test]
fn an_event_trigger_that_hears_nothing_is_told() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::start(state.path());
    let warning = |body: &str, list: &str| {
        let body: Value = serde_json::from_str(body).unwrap();
        let found = body[list].as_array().unwrap().clone();
        let [warning] = &found[..] else { panic!("{body}") };
        assert_eq!(warning["code"], "EVENT_TRIGGER_UNHEARD");
        assert_eq!(
            (&warning["pointer"], &warning["severity"]),
            (&json!("/nodes/0/data/triggerType"), &json!("warning"))
        );
    };
    let (status, body) = server.post("/api/v1/workflows/validate", &[], &listens());
    assert_eq!(status, 200);
    warning(&body, "problems");
    let (status, body) = server.post("/api/v1/workflows", &[], &listens());
    assert_eq!(status, 201, "{body}");
    warning(&body, "warnings");
    let file = state.path().join("listens.json");
    std::fs::write(&file, listens()).unwrap();
    let applied = server.call(&["apply", &file.display().to_string()]);
    let told = String::from_utf8(applied.stderr).unwrap();
    assert!(
        applied.status.success() && told.contains("EVENT_TRIGGER_UNHEARD"),
        "{told}"
    );
    server.kill();

    let log = state.path().join("log");
    let mut child = server::troupe()
        .args(["dev", "-q", "--listen", "127.0.0.1:0", "--state"])
        .arg(state.path())
        .current_dir(state.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let logged = loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains("EVENT_TRIGGER_UNHEARD") || begun.elapsed() > PATIENCE {
            break text;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let lines: Vec<&str> = logged
        .lines()
        .filter(|line| line.contains("EVENT_TRIGGER_UNHEARD"))
        .collect();
    assert!(matches!(&lines[..], [line] if line.contains("listens")), "{logged}");
}

/// Executions go on while the broker is away, and the server says how it stands.
#[test]
fn a_broker_that_is_away_degrades_and_stops_nothing() {
    let state = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://guest:guest@{}", free.local_addr().unwrap());
    drop(free);
    let settings = [("STORE_EVENTS".to_owned(), url.as_str())];
    let server = Server::with_settings(state.path(), &[], &settings);
    std::fs::write(
        state.path().join("flow.yaml"),
        "id: flow\nname: Flow\nnodes:\n  - { id: only, type: function, data: { handlerId: echo } }\nedges: []\n",
    )
    .unwrap();
    server.line(&["apply", "-q", &state.path().join("flow.yaml").display().to_string()]);
    server.line(&["start", "flow", "-q", "--wait"]);
    let (status, body) = server.post("/api/v1/workflows", &[], &listens());
    let stored: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, stored.get("warnings")),
        (201, None),
        "there will be a broker: {body}"
    );
    let (status, body) = server.get("/readyz");
    let ready: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &ready["status"]), (200, &json!("degraded")), "{body}");
    assert_eq!(ready["events"]["status"], json!("connecting"), "{body}");
    assert_eq!(ready["backlog"]["status"], json!("ok"), "{body}");
    assert!(ready["backlog"]["bytes"].as_u64().unwrap() > 0, "{body}");
    let text = settles(
        &server,
        &[
            ("troupe_broker_connected", 0.0),
            (r#"troupe_backlog_shards{mark="refuse"}"#, 0.0),
        ],
    );
    for name in [
        "troupe_outbox_pending",
        "troupe_outbox_bytes",
        "troupe_outbox_lag_seconds",
    ] {
        assert!(metric(&text, name).is_some_and(|value| value > 0.0), "{name}\n{text}");
    }
}

const LISTS: [&str; 3] = ["troupe_lists_pending", "troupe_lists_bytes", "troupe_lists_lag_seconds"];

/// What `/readyz` says once it says this of the whole; it answers 200 all the time.
fn until_ready_is(server: &Server, wanted: &str) -> Value {
    let begun = Instant::now();
    loop {
        let (status, body) = server.get("/readyz");
        let ready: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200, "{body}");
        if ready["status"] == wanted {
            return ready;
        }
        assert!(begun.elapsed() < PATIENCE, "not {wanted}: {body}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What runs goes on while PostgreSQL is away, nothing starts, and the server says how it stands; afterwards lists catch up.
#[test]
fn lists_that_cannot_be_written_degrade_and_catch_up() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut postgres = PostgresServer::start(&[]);
    let url = postgres.url();
    let settings = [("STORE_DEFINITIONS".to_owned(), url.as_str())];
    let server = Server::with_settings(state.path(), &[], &settings);
    apply(&server, files.path());
    let id = server.line(&["start", "slow", "-q"]);
    let caught_up = LISTS.map(|name| (name, 0.0));
    settles(&server, &caught_up);
    assert_eq!(until_ready_is(&server, "ok")["lists"]["status"], json!("ok"));

    postgres.stop_immediately();
    server.line(&["cancel", &id]);
    let ready = until_ready_is(&server, "degraded");
    let lists = &ready["lists"];
    assert_eq!(lists["status"], json!("behind"), "{ready}");
    assert!(lists["detail"].as_str().is_some_and(|why| !why.is_empty()), "{ready}");
    assert!(lists["bytes"].as_u64().unwrap() > 0, "{ready}");
    assert_eq!(ready["backlog"]["status"], json!("ok"), "{ready}");
    let (_, text) = server.get("/metrics");
    for name in LISTS {
        assert!(metric(&text, name).is_some_and(|value| value > 0.0), "{name}\n{text}");
    }
    let (status, body) = server.get(&format!("/api/v1/executions/{id}"));
    let shown: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &shown["status"]), (200, &json!("canceled")), "{body}");
    let begun = Instant::now();
    let (status, body) = loop {
        let (status, body) = server.post("/api/v1/workflows/slow/executions", &[], "{}");
        // The latest version is remembered for a moment.
        if status != 202 || begun.elapsed() > PATIENCE {
            break (status, body);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let refused: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &refused["code"]), (503, &json!("UNAVAILABLE")), "{body}");

    postgres.resume();
    assert_eq!(until_ready_is(&server, "ok")["lists"]["detail"], Value::Null);
    settles(&server, &caught_up);
    let (status, body) = server.get("/api/v1/executions?status=canceled");
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &page["items"][0]["id"]), (200, &json!(id)), "{body}");
    server.line(&["start", "slow", "-q"]);
}

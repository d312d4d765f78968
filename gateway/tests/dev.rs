//! `troupe dev` and the commands that talk to it, by the real binary.
#![allow(clippy::unwrap_used)]

mod server;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use server::{Server, troupe};

const SLOW: &str = "
id: slow
name: Slow
nodes: [{ id: wait, type: delay, data: { delayType: fixed, delayValue: 86400000 } }]
edges: []
";

const FAILING: &str = "
id: failing
name: Failing
settings: { onFailure: failFast }
nodes: [{ id: a, type: function, data: { handlerId: fail, code: NO_LUCK, retryPolicy: { maxAttempts: 1 } } }]
edges: []
";

const ECHO: &str = "
id: echo
name: Echo
settings: { onFailure: failFast }
nodes: [{ id: a, type: function, data: { handlerId: echo } }]
edges: []
";

fn definitions(directory: &Path) -> String {
    for (name, text) in [("slow.yaml", SLOW), ("failing.yaml", FAILING), ("echo.yaml", ECHO)] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    directory.display().to_string()
}

#[test]
fn commands_have_their_exit_status_and_keep_data_apart_from_talk() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = definitions(files.path());
    let server = Server::start(state.path());
    assert_eq!(
        server.line(&["apply", "--dry-run", &files]),
        "echo create\nfailing create\nslow create"
    );
    assert_eq!(server.line(&["apply", "-q", &files]), "echo\nfailing\nslow");
    assert_eq!(
        server.line(&["apply", "--dry-run", &files]),
        "echo unchanged\nfailing unchanged\nslow unchanged"
    );

    assert_eq!(server.line(&["start", "echo", "-i", "x=1", "--wait"]), r#"{"x":1}"#);
    let watched = server.call(&["start", "echo", "-i", "x=1", "--watch", "--json"]);
    let lines: Vec<Value> = watched
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    assert_eq!(lines.first().unwrap()["type"], "execution.created");
    assert_eq!(lines.last().unwrap()["output"], json!({"x": 1}));

    assert_eq!(server.exit(&["start", "nobody"]), 3);
    assert_eq!(server.exit(&["start", "failing", "--wait"]), 1);
    assert_eq!(server.exit(&["start", "slow", "--wait", "--timeout", "1"]), 124);
    assert_eq!(server.exit(&["show", &"0".repeat(32)]), 3);
    assert_eq!(server.exit(&["ls", "--since", "yesterday"]), 2);
    assert_eq!(server.exit(&["ls", "--status", "x"]), 2);
    assert_eq!(server.exit(&["start", "slow", "--priority", "77"]), 2);
    assert_eq!(server.exit(&["start", "slow", "--trigger", "zz"]), 2);

    let id = server.line(&["start", "slow", "--idempotency-key", "k"]);
    assert_eq!(server.line(&["start", "slow", "--idempotency-key", "k"]), id);
    assert_eq!(server.exit(&["start", "slow", "--execution-key", "one"]), 0);
    assert_eq!(server.exit(&["start", "slow", "--execution-key", "one"]), 4);
    assert_eq!(server.line(&["pause", &id]), id);
    let shown: Value = serde_json::from_str(&server.line(&["show", &id, "--json"])).unwrap();
    assert_eq!((&shown["paused"], &shown["status"]), (&json!(true), &json!("running")));
    assert_eq!(server.line(&["show", "-q", &id]), id);
    assert_eq!(server.line(&["resume", &id]), id);
    assert_eq!(server.line(&["cancel", &id, "--reason", "enough"]), id);
    let history = server.line(&["history", &id, "--json"]);
    let events: Vec<String> = history
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(events, ["started", "paused", "resumed", "cancelRequested"]);
    assert_eq!(server.exit(&["pause", &id]), 4);
}

#[test]
fn apply_stores_edited_metadata_and_restores_what_was_archived() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    let path = files.path().join("echo.yaml");
    let file = path.display().to_string();
    std::fs::write(&path, ECHO).unwrap();
    assert_eq!(server.line(&["apply", &file]), "echo version 1 stored");
    assert_eq!(server.line(&["apply", &file]), "echo version 1 unchanged");
    std::fs::write(
        &path,
        format!("{ECHO}metadata: {{ tags: [billing], updatedAt: '2026-11-26T00:00:00Z' }}\n"),
    )
    .unwrap();
    assert_eq!(server.line(&["apply", "--dry-run", &file]), "echo update");
    assert_eq!(server.line(&["apply", &file]), "echo version 2 stored");
    std::fs::write(
        &path,
        format!("{ECHO}metadata: {{ tags: [billing], updatedAt: '2027-01-01T00:00:00Z' }}\n"),
    )
    .unwrap();
    assert_eq!(server.line(&["apply", "--dry-run", &file]), "echo unchanged");
    assert_eq!(server.delete("/api/v1/workflows/echo"), 204);
    assert_eq!(server.exit(&["start", "echo"]), 4);
    assert_eq!(server.line(&["apply", &file]), "echo version 2 restored");
    assert_eq!(server.exit(&["start", "echo"]), 0);
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_and_a_stop_is_clean() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = definitions(files.path());
    let mut server = Server::start(state.path());
    server.line(&["apply", "-q", &files]);
    let id = server.line(&["start", "slow"]);
    // SIGKILL: nothing is flushed, nothing is said.
    server.child.kill().unwrap();
    server.child.wait().unwrap();

    let mut server = Server::start(state.path());
    let shown: Value = serde_json::from_str(&server.line(&["show", &id, "--json"])).unwrap();
    assert_eq!(
        (&shown["status"], &shown["currentNodes"]),
        (&json!("running"), &json!(["wait"]))
    );
    let busy = troupe()
        .args(["dev", "-q", "--listen", "127.0.0.1:0", "--state"])
        .arg(state.path())
        .output()
        .unwrap();
    assert_eq!(busy.status.code(), Some(4), "the store admits one process");
    let said = String::from_utf8_lossy(&busy.stderr);
    assert!(said.contains("STORE_IN_USE") && said.contains("--state"), "{said}");

    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn bench_recover_takes_no_server_wherever_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |key: &str, arguments: &[&str], variables: &[(&str, &str)]| {
        let output = troupe()
            .args(["bench", "recover", "--executions", "1"])
            .args(arguments)
            .envs(variables.iter().copied())
            .current_dir(directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {variables:?}: {said}");
        assert!(said.contains("embedded store") && said.contains(key), "{said}");
        assert!(output.stdout.is_empty());
    };
    // Nobody listens there.
    let (redis, postgres, rabbitmq) = ("redis://127.0.0.1:1", "postgres://127.0.0.1:1/db", "amqp://127.0.0.1:1");
    refused("store.state", &["--state", redis], &[]);
    refused("store.definitions", &["--definitions", postgres], &[]);
    refused("store.events", &["--events", rabbitmq], &[]);
    refused("store.state", &[], &[("TROUPE_STORE_STATE", redis)]);
    refused("store.definitions", &[], &[("TROUPE_STORE_DEFINITIONS", postgres)]);
    refused("store.state", &["--state", "."], &[("TROUPE_STORE_STATE", redis)]);
    // So does the process that it starts.
    refused("store.state", &["--load-and-wait"], &[("TROUPE_STORE_STATE", redis)]);
    std::fs::write(
        directory.path().join("troupe.toml"),
        format!("[store]\nstate = '{redis}'\n"),
    )
    .unwrap();
    refused("store.state", &[], &[]);
}

#[test]
fn bench_prints_the_named_figures_after_checking_the_store() {
    let names = [
        "workload",
        "members",
        "executions",
        "steps",
        "seconds",
        "executions_per_s",
        "steps_per_s",
        "latency_ms",
        "rss_bytes",
        "rss_per_execution_bytes",
        "cpu_seconds",
        "cpu_us_per_step",
        "commits",
        "commit_batch_mean",
        "fsyncs",
        "node_actors",
    ];
    for (workload, executions, steps, actors) in [
        ("chain", 20, 200, 200),
        ("fan", 5, 260, 260),
        ("parked", 50, 0, 0),
        ("start", 20, 20, 20),
        ("recover", 20, 40, 60),
    ] {
        let count = executions.to_string();
        let output = troupe()
            .args(["bench", workload, "--executions", &count, "--json"])
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{workload}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found: Vec<&String> = report.as_object().unwrap().keys().collect();
        assert_eq!(found, names, "{workload}");
        assert_eq!(report["steps"], steps, "{workload}");
        assert!(report["commits"].as_u64().unwrap() > 0, "{workload}");
        assert!(
            report["node_actors"].as_u64().unwrap() <= actors,
            "{workload}: {report}"
        );
    }
}

//! Pauses and stops of a wider scope, through the real binary: REST, command line, and a kill in between.
#![allow(clippy::unwrap_used)]

mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::Server;

const SHORT: &str = "
id: short
name: Short
nodes:
  - { id: w, type: delay, data: { delayType: fixed, delayValue: 300 } }
  - { id: a, type: function, data: { handlerId: echo } }
edges: [{ id: e1, source: w, target: a }]
";

/// As `short`, and long enough for a slow machine to act before it is over.
const LONG: &str = "
id: long
name: Long
nodes:
  - { id: w, type: delay, data: { delayType: fixed, delayValue: 6000 } }
  - { id: a, type: function, data: { handlerId: echo } }
edges: [{ id: e1, source: w, target: a }]
";

const OTHER: &str = "
id: other
name: Other
nodes: [{ id: a, type: function, data: { handlerId: echo } }]
edges: []
";

const PATIENCE: Duration = Duration::from_secs(60);

fn apply(server: &Server, directory: &Path) {
    for (name, text) in [("short.yaml", SHORT), ("long.yaml", LONG), ("other.yaml", OTHER)] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    server.line(&["apply", "-q", &directory.display().to_string()]);
}

fn post(server: &Server, path: &str, body: Value) -> (u16, Value) {
    let (status, text) = server.post(&format!("/api/v1{path}"), &[], &body.to_string());
    (status, serde_json::from_str(&text).unwrap())
}

fn get(server: &Server, path: &str) -> Value {
    serde_json::from_str(&server.get(&format!("/api/v1{path}")).1).unwrap()
}

/// Waits until an execution stands so.
fn reaches(server: &Server, id: &str, status: &str) -> Value {
    let begun = Instant::now();
    loop {
        let shown = get(server, &format!("/executions/{id}"));
        if shown["status"] == status {
            return shown;
        }
        assert!(begun.elapsed() < PATIENCE, "{id} is not {status}: {shown}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_paused_workflow_waits_through_a_kill_and_says_why() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    apply(&server, files.path());
    let (status, done) = post(&server, "/workflows/short/pause", json!({"reason": "a bad deploy"}));
    assert_eq!(status, 200);
    assert_eq!(
        done,
        json!({"kind": "pause", "scope": {"workflow": "short"}, "inForce": true, "unchanged": false,
               "draining": 0, "shards": 8, "shardsAll": 8})
    );
    let id = server.line(&["start", "short", "-q"]);
    let free = server.line(&["start", "other", "-q"]);
    reaches(&server, &free, "completed");
    server.kill();

    let server = Server::start(state.path());
    std::thread::sleep(Duration::from_millis(400));
    let shown = get(&server, &format!("/executions/{id}"));
    assert_eq!((&shown["status"], &shown["paused"]), (&json!("running"), &json!(false)));
    let held = &shown["heldBy"][0];
    assert_eq!(
        (&held["kind"], &held["scope"]),
        (&json!("pause"), &json!({"workflow": "short"}))
    );
    assert_eq!(
        (&held["by"], &held["reason"]),
        (&json!("local"), &json!("a bad deploy"))
    );
    let why = server.line(&["why", &id]);
    assert!(why.contains("workflow short is paused by local"), "{why}");
    assert!(why.contains("`troupe resume --workflow short` lets it go on"), "{why}");

    let listed = server.line(&["controls"]);
    assert!(
        listed.contains("workflow short") && listed.contains("a bad deploy"),
        "{listed}"
    );
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("troupe_controls{kind=\"pause\"} 1"), "{metrics}");
    assert_eq!(server.line(&["resume", "--workflow", "short", "-q"]), "workflow short");
    let shown = reaches(&server, &id, "completed");
    assert_eq!(shown.get("heldBy"), None);
    assert_eq!(get(&server, "/controls"), json!({"items": []}));
}

#[test]
fn every_scope_has_a_command_and_a_slip_is_refused() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    apply(&server, files.path());
    for scope in [
        ["--workflow", "short"].as_slice(),
        &["--node", "short/a"],
        &["--node-type", "function"],
        &["--all"],
    ] {
        let told = |verb: &str, more: &[&str]| server.line(&[&[verb, "--json"], scope, more].concat());
        let done: Value = serde_json::from_str(&told("pause", &["--freeze"])).unwrap();
        assert_eq!((&done["inForce"], &done["unchanged"]), (&json!(true), &json!(false)));
        let again: Value = serde_json::from_str(&told("pause", &["--freeze"])).unwrap();
        assert_eq!(again["unchanged"], json!(true));
    }
    let listed = get(&server, "/controls");
    let scopes: Vec<&Value> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["scope"])
        .collect();
    assert_eq!(
        scopes,
        [
            &json!({"all": true}),
            &json!({"workflow": "short"}),
            &json!({"workflow": "short", "node": "a"}),
            &json!({"nodeType": "function"}),
        ]
    );
    assert!(
        listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|item| item["clocks"] == "freeze")
    );
    for scope in [
        json!({"all": true}),
        json!({"workflow": "short"}),
        json!({"workflow": "short", "node": "a"}),
        json!({"nodeType": "function"}),
    ] {
        assert_eq!(post(&server, "/controls/resume", scope).1["inForce"], json!(false));
    }
    assert_eq!(get(&server, "/controls"), json!({"items": []}));

    let refused = |path: &str, body: Value| {
        let (status, problem) = post(&server, path, body);
        (status, problem["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(
        refused("/workflows/shrt/pause", json!({})),
        (404, "WORKFLOW_NOT_FOUND".into())
    );
    let node = json!({"workflow": "short", "node": "b"});
    assert_eq!(refused("/controls/pause", node), (404, "NODE_NOT_FOUND".into()));
    assert_eq!(refused("/controls/pause", json!({})), (422, "INVALID_REQUEST".into()));
    let stop = json!({"nodeType": "http"});
    assert_eq!(refused("/controls/stop", stop), (422, "INVALID_REQUEST".into()));
    assert_eq!(server.exit(&["pause"]), 2);
    assert_eq!(server.exit(&["pause", "--all", "--workflow", "short"]), 2);
    assert_eq!(server.exit(&["pause", "--node", "short"]), 2);
    assert_eq!(server.exit(&["stop"]), 2);
}

#[test]
fn an_emergency_stop_refuses_starts_and_may_cancel_what_runs() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    apply(&server, files.path());
    let id = server.line(&["start", "long", "-q"]);
    assert_eq!(
        server.line(&["stop", "--workflow", "long", "--reason", "it burns", "-q"]),
        "workflow long"
    );
    let (status, problem) = post(&server, "/workflows/long/executions", json!({}));
    assert_eq!((status, &problem["code"]), (503, &json!("STOPPED")));
    assert_eq!(problem["detail"], json!("workflow long is stopped: it burns"));
    assert!(
        problem["hint"]
            .as_str()
            .unwrap()
            .contains("troupe release --workflow long"),
        "{problem}"
    );
    server.line(&["start", "other", "--wait"]);
    std::thread::sleep(Duration::from_millis(6_300));
    assert_eq!(get(&server, &format!("/executions/{id}"))["status"], json!("running"));
    server.line(&["release", "--workflow", "long"]);
    reaches(&server, &id, "completed");

    let id = server.line(&["start", "long", "-q"]);
    let held = server.line(&["start", "long", "-q"]);
    server.line(&["pause", &held]);
    server.line(&["stop", "--all", "--cancel-running"]);
    server.kill();
    let server = Server::start(state.path());
    reaches(&server, &id, "canceled");
    reaches(&server, &held, "canceled");
    assert_eq!(post(&server, "/workflows/other/executions", json!({})).0, 503);
    server.line(&["release", "--all"]);
    server.line(&["start", "other", "--wait"]);
}

#[test]
fn an_execution_is_frozen_by_hand() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    apply(&server, files.path());
    let id = server.line(&["start", "long", "-q"]);
    server.line(&["pause", &id, "--freeze"]);
    std::thread::sleep(Duration::from_millis(6_300));
    server.line(&["resume", &id]);
    let shown = get(&server, &format!("/executions/{id}"));
    assert_eq!(
        shown["nodeResults"]["w"]["status"],
        json!("running"),
        "its clock stood: {shown}"
    );
    reaches(&server, &id, "completed");
    let (status, problem) = post(&server, &format!("/executions/{id}/pause"), json!({"clocks": "stop"}));
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/clocks")));
}

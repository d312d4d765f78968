//! What follows a failure, seen through a real server that is killed meanwhile.
#![allow(clippy::unwrap_used)]

mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::Server;

const PATIENCE: Duration = Duration::from_secs(30);

/// `reserve` completes and is undone slowly, `note` cannot be undone, `charge` fails.
const ORDER: &str = "
id: order
name: Order
settings: { compensate: true, errorWorkflow: alarm }
nodes:
  - id: reserve
    type: function
    data:
      handlerId: echo
      compensation: { type: function, data: { handlerId: sleep, ms: 1500, inputMapping: { of: output.id } } }
  - id: note
    type: function
    data:
      handlerId: echo
      compensation: { type: function, data: { handlerId: fail, code: STUCK, retryPolicy: { maxAttempts: 1 } } }
  - id: charge
    type: function
    data: { handlerId: fail, code: DECLINED, retryPolicy: { maxAttempts: 1 } }
edges:
  - { id: e1, source: reserve, target: note }
  - { id: e2, source: note, target: charge }
";

const ALARM: &str = "
id: alarm
name: Alarm
nodes: [{ id: tell, type: function, data: { handlerId: echo, output: '{code: input.error.code, of: input.execution.id}' } }]
settings: { onFailure: failFast }
edges: []
";

fn apply(server: &Server, directory: &Path) {
    for (name, text) in [("order.yaml", ORDER), ("alarm.yaml", ALARM)] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    server.line(&["apply", "-q", &directory.display().to_string()]);
}

/// The execution as soon as it is as asked.
fn until(server: &Server, id: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let (status, body) = server.get(&format!("/api/v1/executions/{id}"));
        assert_eq!(status, 200, "{body}");
        let shown: Value = serde_json::from_str(&body).unwrap();
        if fits(&shown) {
            return shown;
        }
        assert!(begun.elapsed() < PATIENCE, "{shown}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_server_goes_on_undoing_and_tells_once() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    apply(&server, files.path());
    let id = server.line(&["start", "order", "-q", "-i", "id=7"]);
    let during = until(&server, &id, |shown| {
        shown["nodeResults"]["reserve"]["compensation"]["status"] == "running"
    });
    assert_eq!(
        (&during["status"], &during["compensating"]),
        (&json!("running"), &json!(true))
    );
    assert_eq!(during["error"]["code"], "DECLINED");
    assert!(server.line(&["show", &id]).contains("compensating"));
    assert!(server.line(&["why", &id]).contains("reserve (undo): attempt 1 runs"));
    server.kill();

    let server = Server::start(state.path());
    let shown = until(&server, &id, |shown| shown["endTime"].is_string());
    assert_eq!(
        (&shown["status"], &shown["error"]["code"]),
        (&json!("failed"), &json!("DECLINED"))
    );
    assert_eq!(shown["compensating"], Value::Null);
    let stuck = json!([{"nodeId": "note", "visit": 1, "code": "STUCK", "message": "STUCK"}]);
    let listed = &shown["error"]["compensationErrors"];
    assert_eq!(
        (&listed[0]["nodeId"], &listed[0]["code"]),
        (&stuck[0]["nodeId"], &stuck[0]["code"])
    );
    let undone = &shown["nodeResults"]["reserve"]["compensation"];
    assert_eq!(
        (&undone["status"], &undone["output"]),
        (&json!("completed"), &json!({"of": 7}))
    );
    assert_eq!(undone["attempts"][0]["error"]["code"], "INTERRUPTED");
    assert_eq!(shown["nodeResults"]["note"]["compensation"]["error"]["code"], "STUCK");

    let alarm = shown["errorWorkflow"]["executionId"].as_str().unwrap();
    let told = until(&server, alarm, |shown| shown["endTime"].is_string());
    assert_eq!(told["output"], json!({"code": "DECLINED", "of": id}));
    assert_eq!(told["handlesFailureOf"], json!(id));
    let compensations = &told["input"]["compensations"];
    assert_eq!(compensations[0]["nodeId"], "note");
    assert_eq!(
        (&compensations[1]["nodeId"], &compensations[1]["status"]),
        (&json!("reserve"), &json!("completed"))
    );
    // Lists follow the log a little later.
    let begun = Instant::now();
    let all = loop {
        let (_, all) = server.get("/api/v1/executions?workflow=alarm");
        let all: Value = serde_json::from_str(&all).unwrap();
        if all["items"] != json!([]) || begun.elapsed() > PATIENCE {
            break all;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all}");

    let (_, history) = server.get(&format!("/api/v1/executions/{id}/history"));
    assert!(
        history.contains("errorWorkflowStarted") && history.contains("compensation.completed"),
        "{history}"
    );
    assert!(
        history.contains("execution.compensating") && history.contains("compensation.failed"),
        "{history}"
    );
    let metrics = server.get("/metrics").1;
    assert!(!metrics.contains("trigger=\"failure\"") || metrics.contains("workflow=\"alarm\",trigger=\"failure\""));
}

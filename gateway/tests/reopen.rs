//! What runs again, by the real binary: reruns.
#![allow(clippy::unwrap_used)]

mod server;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::{Server, troupe};

const PATIENCE: Duration = Duration::from_secs(60);

/// `charge` fails until the variable `bank` is true.
const SHOP: &str = r#"
id: shop
name: Shop
settings: { variables: { bank: false } }
nodes:
  - { id: order, type: trigger, data: { triggerType: api } }
  - id: stock
    type: transformation
    data: { transformationType: map, transformationConfig: { source: input.items, expression: item + 1 } }
  - id: charge
    type: function
    data:
      functionName: charge
      functionCode: |
        function charge(input, context) {
          if (!context.variables.bank) throw Object.assign(new Error("closed"), { code: "BANK_CLOSED", retryable: false });
          return { charged: input };
        }
edges:
  - { id: e1, source: order, target: stock }
  - { id: e2, source: stock, target: charge }
"#;

fn shown(server: &Server, id: &str) -> Value {
    let begun = Instant::now();
    loop {
        let shown: Value = serde_json::from_str(&server.line(&["show", id, "--json"])).unwrap();
        if shown["endTime"].is_string() {
            return shown;
        }
        assert!(begun.elapsed() < PATIENCE, "{shown}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A server with the shop, and an execution of it that has failed.
fn failed(state: &std::path::Path) -> (Server, String) {
    let server = Server::start(state);
    let file = state.join("shop.yaml");
    std::fs::write(&file, SHOP).unwrap();
    server.line(&["apply", file.to_str().unwrap()]);
    let id = server.line(&["start", "shop", "-i", "items=[1,2]"]);
    assert_eq!(shown(&server, &id)["error"]["code"], "BANK_CLOSED");
    (server, id)
}

#[test]
fn a_failed_execution_is_rerun_from_the_node_that_failed() {
    let state = tempfile::tempdir().unwrap();
    let (server, id) = failed(state.path());
    let dry = server.line(&["rerun", &id, "--from", "stock", "--dry-run", "--json"]);
    let dry: Value = serde_json::from_str(&dry).unwrap();
    let repeats = json!([
        {"nodeId": "stock", "type": "transformation", "status": "completed", "attempts": 1, "sideEffects": false},
        {"nodeId": "charge", "type": "function", "status": "failed", "attempts": 1, "sideEffects": true},
    ]);
    assert_eq!(
        (&dry["dryRun"], &dry["id"], &dry["repeats"]),
        (&json!(true), &Value::Null, &repeats)
    );

    let new = server.line(&[
        "rerun",
        &id,
        "--from",
        "charge",
        "--variable",
        "bank=true",
        "--reason",
        "open again",
    ]);
    let shown = shown(&server, &new);
    assert_eq!(shown["output"], json!({"charged": [2, 3]}));
    assert_eq!(shown["rerunOf"], json!({"executionId": id, "nodeId": "charge"}));
    assert_eq!(shown["nodeResults"]["stock"]["reused"], json!(true));
    assert_eq!(shown["nodeResults"]["charge"].get("reused"), None);
    let (_, history) = server.get(&format!("/api/v1/executions/{new}/history"));
    let history: Value = serde_json::from_str(&history).unwrap();
    assert_eq!(
        (&history["items"][0]["reason"], &history["items"][0]["principal"]),
        (&json!("open again"), &json!("local"))
    );
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains(r#"trigger="rerun""#), "{metrics}");
}

#[test]
fn a_rerun_that_cannot_be_is_refused_with_a_code() {
    let state = tempfile::tempdir().unwrap();
    let (server, id) = failed(state.path());
    let path = format!("/api/v1/executions/{id}/rerun");
    for (body, status, code) in [
        (r#"{"from": "nobody"}"#, 404, "NODE_NOT_FOUND"),
        (r#"{"from": "charge", "version": 7}"#, 404, "VERSION_NOT_FOUND"),
        (r#"{"form": "charge"}"#, 422, "INVALID_REQUEST"),
    ] {
        let (answered, answer) = server.post(&path, &[], body);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((answered, &answer["code"]), (status, &json!(code)), "{body}");
    }
    let key = [("idempotency-key", "again")];
    let ids: Vec<Value> = (0..2)
        .map(|_| {
            let (status, answer) = server.post(&path, &key, r#"{"from": "charge"}"#);
            assert_eq!(status, 202, "{answer}");
            serde_json::from_str::<Value>(&answer).unwrap()["id"].clone()
        })
        .collect();
    assert_eq!(ids[0], ids[1]);
    let refused = troupe()
        .args(["rerun", &id, "--from", "nobody", "--server", server.url()])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(3));
}

#[test]
fn a_failed_execution_is_retried_and_its_failed_node_skipped() {
    let state = tempfile::tempdir().unwrap();
    let (server, id) = failed(state.path());
    let dry: Value = serde_json::from_str(&server.line(&["retry", &id, "--dry-run", "--json"])).unwrap();
    let repeats = json!([
        {"nodeId": "charge", "type": "function", "status": "failed", "attempts": 1, "sideEffects": true},
    ]);
    assert_eq!(
        (&dry["dryRun"], &dry["run"], &dry["repeats"]),
        (&json!(true), &json!(2), &repeats)
    );
    assert_eq!(server.line(&["retry", &id, "charge", "--reason", "perhaps now"]), id);
    let again = shown(&server, &id);
    assert_eq!(
        (&again["run"], &again["error"]["code"]),
        (&json!(2), &json!("BANK_CLOSED"))
    );

    // Nothing is lost by a kill: the next run belongs to the same execution.
    server.kill();
    let server = Server::start(state.path());
    assert_eq!(
        server.line(&["skip", &id, "charge", "--input-json", "\"on the house\""]),
        id
    );
    let ended = shown(&server, &id);
    assert_eq!((&ended["run"], &ended["output"]), (&json!(3), &json!("on the house")));
    let (_, history) = server.get(&format!("/api/v1/executions/{id}/history"));
    let history: Value = serde_json::from_str(&history).unwrap();
    let events: Vec<(&str, &Value)> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["event"].as_str().unwrap(), &entry["reason"]))
        .filter(|(event, _)| matches!(*event, "retried" | "failureSkipped"))
        .collect();
    assert_eq!(
        events,
        [("retried", &json!("perhaps now")), ("failureSkipped", &Value::Null)]
    );
    let refused = |path: &str, body: &str| {
        let (status, answer) = server.post(&format!("/api/v1/executions/{id}/{path}"), &[], body);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        (status, answer["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(refused("retry", ""), (409, "NOT_REOPENABLE".into()));
    assert_eq!(
        refused("retry", r#"{"nodes": ["nobody"]}"#),
        (404, "NODE_NOT_FOUND".into())
    );
    assert_eq!(
        refused("retry", r#"{"node": "charge"}"#),
        (422, "INVALID_REQUEST".into())
    );
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains(r#"trigger="retry""#), "{metrics}");
}

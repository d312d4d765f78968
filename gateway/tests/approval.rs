//! Waits for somebody outside, by the real binary: a mailed address, a shared hook, and a crash between question and answer.
#![allow(clippy::unwrap_used)]

mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use ring::hmac;
use serde_json::{Value, json};
use server::Server;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "opensesame";

/// Comes to its wait only after a while; the wait has a business key and a signature.
const LATE: &str = r#"
id: late
name: Late
settings: { onFailure: failFast }
nodes:
  - { id: begin, type: trigger, data: { triggerType: api } }
  - { id: while, type: delay, data: { delayType: fixed, delayValue: "{{ input.ms }}" } }
  - id: paid
    type: webhook
    data:
      webhookId: paid
      correlationKey: output.body.order
      provider: generic
      secret: "{{ secrets.SHOP }}"
      transformationTemplate: "paid {{ output.body.amount }}"
edges:
  - { id: e1, source: begin, target: while }
  - { id: e2, source: while, target: paid }
"#;

fn start(server: &Server, workflow: &str, body: &Value) -> String {
    let (status, answer) = server.post(
        &format!("/api/v1/workflows/{workflow}/executions"),
        &[],
        &body.to_string(),
    );
    assert_eq!(status, 202, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["id"].as_str().unwrap().to_owned()
}

/// What `troupe why` shows once the execution has come to the wait: the path of its address.
fn asked(server: &Server, id: &str) -> String {
    let begun = Instant::now();
    loop {
        let why: Value = serde_json::from_str(&server.line(&["why", id, "--json"])).unwrap();
        if let Some(url) = why["waiting"]["answer"]["resumeUrl"].as_str() {
            return url.strip_prefix(server.url()).unwrap().to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "{why}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A server with the examples: they are stored after it has told its address.
fn demo(state: &Path) -> Server {
    let server = Server::with(state, &["--demo"]);
    let begun = Instant::now();
    while server.get("/api/v1/workflows/approval").0 != 200 {
        assert!(begun.elapsed() < PATIENCE, "the examples are not stored");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

fn ended(server: &Server, id: &str) -> Value {
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

fn field(answer: &str, name: &str) -> Value {
    serde_json::from_str::<Value>(answer).unwrap()[name].clone()
}

#[test]
fn a_purchase_is_approved_declined_or_too_late() {
    let state = tempfile::tempdir().unwrap();
    let server = demo(state.path());
    let request = |more: Value| {
        let mut input = json!({"item": "desk", "amount": 900});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"input": input})
    };
    let id = start(&server, "approval", &request(json!({})));
    let path = asked(&server, &id);
    let (status, answer) = server.post(&path, &[], r#"{"approved": "perhaps"}"#);
    assert_eq!(
        (status, field(&answer, "code")),
        (422, json!("SCHEMA_VIOLATION")),
        "{answer}"
    );
    let (status, answer) = server.post(&format!("{path}x"), &[], r#"{"approved": true}"#);
    assert_eq!(
        (status, field(&answer, "code")),
        (404, json!("HOOK_NOT_FOUND")),
        "{answer}"
    );
    let people = server.line(&["why", &id]);
    assert!(
        people.contains("answer: waits (call) until") && people.contains("curl -X POST"),
        "{people}"
    );

    let yes = r#"{"approved": true, "by": "Ada"}"#;
    let key = [("idempotency-key", "one")];
    let (status, answer) = server.post(&path, &key, yes);
    assert_eq!((status, field(&answer, "unchanged")), (202, json!(false)), "{answer}");
    assert_eq!(ended(&server, &id)["output"], "Ada approved desk.");
    let (status, answer) = server.post(&path, &key, yes);
    assert_eq!(
        (status, field(&answer, "unchanged")),
        (202, json!(true)),
        "it comes again: {answer}"
    );
    assert_eq!(server.post(&path, &[], yes).0, 409, "another one is too late");
    assert_eq!(server.line(&["why", &id]), "it completed");

    let declined = start(&server, "approval", &request(json!({})));
    let path = asked(&server, &declined);
    assert_eq!(server.post(&path, &[], r#"{"approved": false}"#).0, 202);
    assert_eq!(ended(&server, &declined)["output"], "somebody declined desk.");

    let late = start(&server, "approval", &request(json!({"patienceMs": 50})));
    let shown = ended(&server, &late);
    assert_eq!(shown["output"], "Nobody answered in time: no desk.");
    assert_eq!(shown["nodeResults"]["answer"]["error"]["code"], "TIMEOUT");

    // Somebody decides by hand.
    let by_hand = start(&server, "approval", &request(json!({})));
    asked(&server, &by_hand);
    assert_eq!(
        server.line(&["complete", &by_hand, "answer", "-i", "approved=true", "-i", "by=Bob"]),
        by_hand
    );
    assert_eq!(ended(&server, &by_hand)["output"], "Bob approved desk.");
    assert_eq!(server.exit(&["complete", &by_hand, "answer"]), 4);

    let failed = start(&server, "approval", &request(json!({})));
    asked(&server, &failed);
    assert_eq!(server.line(&["set", &failed, "demo=\"nowhere\""]), failed);
    assert_eq!(
        server.line(&[
            "fail",
            &failed,
            "answer",
            "--code",
            "TIMEOUT",
            "--message",
            "the office is closed"
        ]),
        failed
    );
    let shown = ended(&server, &failed);
    assert_eq!(
        (&shown["output"], &shown["variables"]["demo"]),
        (&json!("Nobody answered in time: no desk."), &json!("nowhere"))
    );

    let skipped = start(&server, "approval", &request(json!({})));
    asked(&server, &skipped);
    assert_eq!(server.line(&["skip", &skipped, "answer"]), skipped);
    let shown = ended(&server, &skipped);
    assert_eq!(
        (&shown["status"], &shown["output"]),
        (&json!("completed"), &Value::Null),
        "{shown}"
    );
}

#[test]
fn an_address_outlives_a_crash_and_is_answered_once() {
    let state = tempfile::tempdir().unwrap();
    let server = demo(state.path());
    let id = start(&server, "approval", &json!({"input": {"item": "desk", "amount": 900}}));
    let path = asked(&server, &id);
    server.kill();
    let server = Server::start(state.path());
    assert_eq!(asked(&server, &id), path, "the same address behind the new port");
    let key = [("idempotency-key", "one")];
    let yes = r#"{"approved": true, "by": "Ada"}"#;
    assert_eq!(server.post(&path, &key, yes).0, 202);
    // What was acknowledged is there after the next crash, and a repetition knows it.
    server.kill();
    let server = Server::start(state.path());
    let (status, answer) = server.post(&path, &key, yes);
    assert_eq!((status, field(&answer, "unchanged")), (202, json!(true)), "{answer}");
    assert_eq!(ended(&server, &id)["output"], "Ada approved desk.");
}

fn shop(state: &Path) -> Server {
    Server::with_secrets(state, &[], &[("SHOP", SECRET)])
}

fn signature(secret: &str, body: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_call_that_comes_before_its_wait_is_kept_even_through_a_crash() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = files.path().join("late.yaml");
    std::fs::write(&file, LATE).unwrap();
    let server = shop(state.path());
    server.line(&["apply", "-q", &file.display().to_string()]);
    let id = start(&server, "late", &json!({"input": {"ms": 1_500}, "executionKey": "o-1"}));
    let other = start(&server, "late", &json!({"input": {"ms": 1}, "executionKey": "o-2"}));
    let body = r#"{"order": "o-1", "amount": 5}"#;
    let signed = signature(SECRET, body);
    let (status, answer) = server.post(
        "/api/v1/hooks/paid",
        &[("x-signature", &signature("guessed", body))],
        body,
    );
    assert_eq!(
        (status, field(&answer, "code")),
        (401, json!("SIGNATURE_INVALID")),
        "{answer}"
    );
    let call = [("x-signature", signed.as_str()), ("idempotency-key", "d-1")];
    let (status, answer) = server.post("/api/v1/hooks/paid", &call, body);
    assert_eq!((status, field(&answer, "id")), (202, json!(id)), "{answer}");
    let shown: Value = serde_json::from_str(&server.line(&["show", &id, "--json"])).unwrap();
    assert_eq!(
        shown["currentNodes"],
        json!(["while"]),
        "it has not come to the wait: {shown}"
    );
    server.kill();

    let server = shop(state.path());
    let (status, answer) = server.post("/api/v1/hooks/paid", &call, body);
    assert_eq!((status, field(&answer, "unchanged")), (202, json!(true)), "{answer}");
    assert_eq!(ended(&server, &id)["output"], "paid 5");
    let history = server.line(&["history", &id]);
    assert_eq!(history.matches("signaled").count(), 1, "{history}");
    assert!(!history.contains(SECRET));
    let shown: Value = serde_json::from_str(&server.line(&["show", &other, "--json"])).unwrap();
    assert_eq!(
        shown["currentNodes"],
        json!(["paid"]),
        "the other one still waits: {shown}"
    );
}

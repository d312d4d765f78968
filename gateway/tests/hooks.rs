//! Calls from outside, in a whole product in this process.
#![allow(clippy::unwrap_used)]

mod product;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use product::{Product, Reply};
use ring::hmac;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use troupe::wiring::Extras;
use troupe_ports::Secrets;

const JSON: (&str, &str) = ("content-type", "application/json");

/// Waits for a payment of the order that the execution's business key names.
const PAYMENT: &str = r#"
id: payment
name: Payment
settings: { variables: { note: none }, output: "{ paid: nodes.paid.output, note: variables.note }" }
nodes:
  - { id: begin, type: trigger, data: { triggerType: api } }
  - id: paid
    type: webhook
    data:
      webhookId: payments
      correlationKey: output.body.order
      payloadSchema: { type: object, required: [order, amount], properties: { amount: { type: number } } }
      transformationTemplate: { output: "{{ output.body.amount }}", via: "{{ output.method }} {{ output.query.from }}" }
  - { id: after, type: function, data: { handlerId: echo } }
edges:
  - { id: e1, source: begin, target: paid }
  - { id: e2, source: paid, target: after }
"#;

/// A wait without a key of its own.
const LONELY: &str = r#"
id: lonely
name: Lonely
nodes:
  - { id: begin, type: trigger, data: { triggerType: api } }
  - { id: asks, type: webhook, data: { heartbeatTimeout: 60000 } }
edges: [{ id: e1, source: begin, target: asks }]
"#;

fn code(reply: &Reply) -> (u16, String) {
    let code = reply.body["code"].as_str().unwrap_or_default().to_owned();
    assert!(
        reply.status.is_success() || reply.body["status"] == reply.status.as_u16(),
        "{reply:?}"
    );
    (reply.status.as_u16(), code)
}

impl Product {
    async fn begin(&self, workflow: &str, body: &Value) -> String {
        let path = format!("/api/v1/workflows/{workflow}/executions");
        let reply = self.send("POST", &path, &[], &body.to_string()).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
        reply.body["id"].as_str().unwrap().to_owned()
    }

    async fn hook(&self, id: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send("POST", &format!("/api/v1/hooks/{id}"), headers, body).await
    }

    async fn shown(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/executions/{id}")).await.body
    }

    /// The execution once it has ended.
    async fn ended(&self, id: &str) -> Value {
        let id = id.parse().unwrap();
        let ended = self.app.engine.wait_until_ended(id, Duration::from_secs(60)).await;
        assert!(ended.unwrap().is_some(), "{id} goes on");
        self.shown(&id.to_string()).await
    }
}

#[tokio::test]
async fn a_call_reaches_the_execution_of_its_business_key() {
    let product = Product::with(&[PAYMENT]).await;
    let one = product.begin("payment", &json!({"executionKey": "o-1"})).await;
    let two = product.begin("payment", &json!({"executionKey": "2"})).await;

    let call = r#"{"order": "o-1", "amount": 5}"#;
    let again = ("idempotency-key", "d-1");
    let taken = product.hook("payments?from=shop", &[JSON, again], call).await;
    assert_eq!(
        (taken.status, &taken.body["id"]),
        (StatusCode::ACCEPTED, &json!(one)),
        "{taken:?}"
    );
    let ended = product.ended(&one).await;
    assert_eq!(
        ended["output"],
        json!({"paid": {"output": 5, "via": "POST shop"}, "note": "none"}),
        "{ended}"
    );
    let history = product.get(&format!("/api/v1/executions/{one}/history")).await.body;
    let events: Vec<&str> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events.iter().filter(|event| **event == "signaled").count(),
        1,
        "{events:?}"
    );

    // A number is a key as well; the other one still waits for its own.
    assert_eq!(product.shown(&two).await["currentNodes"], json!(["paid"]));
    let refused = product
        .hook("payments", &[JSON], r#"{"order": 2, "amount": "much"}"#)
        .await;
    assert_eq!(code(&refused), (422, "SCHEMA_VIOLATION".to_owned()));
    assert_eq!(refused.body["errors"][0]["pointer"], "/amount", "{refused:?}");
    assert_eq!(
        product.shown(&two).await["currentNodes"],
        json!(["paid"]),
        "what is refused changes nothing"
    );
    assert_eq!(
        product
            .hook("payments", &[JSON], r#"{"order": 2, "amount": 7}"#)
            .await
            .status,
        StatusCode::ACCEPTED
    );
    assert_eq!(product.ended(&two).await["output"]["paid"]["output"], 7);

    for (body, expected) in [
        (r#"{"order": "nobody", "amount": 1}"#, (404, "HOOK_NO_EXECUTION")),
        (r#"{"amount": 1}"#, (422, "CORRELATION_FAILED")),
        (r#"{"order": [1], "amount": 1}"#, (422, "CORRELATION_FAILED")),
        ("null", (422, "CORRELATION_FAILED")),
        (r#"{"order": "o-1", "amount": 5}"#, (409, "EXECUTION_ENDED")),
        ("{", (400, "INVALID_JSON")),
    ] {
        let reply = product.hook("payments", &[JSON], body).await;
        assert_eq!(code(&reply), (expected.0, expected.1.to_owned()), "{body}");
    }
    // The next run of the key is the one that is meant.
    let three = product.begin("payment", &json!({"executionKey": "o-1"})).await;
    assert_eq!(product.hook("payments", &[JSON], call).await.body["id"], json!(three));
}

#[tokio::test]
async fn a_delivery_that_comes_again_is_answered_and_changes_nothing() {
    let looping = r#"
id: counting
name: Counting
settings: { variables: { seen: 0 }, output: variables.seen }
nodes:
  - { id: begin, type: trigger, data: { triggerType: api } }
  - { id: tick, type: webhook, data: { correlationKey: "output.query.key", outputMapping: { seen: variables.seen + 1 } } }
  - { id: done, type: function, data: { handlerId: echo } }
edges:
  - { id: e1, source: begin, target: tick }
  - { id: e2, source: tick, target: tick, condition: "variables.seen < 3" }
  - { id: e3, source: tick, target: done, condition: "variables.seen >= 3" }
"#;
    let product = Product::with(&[looping]).await;
    let id = product.begin("counting", &json!({"executionKey": "k"})).await;
    let deliver = async |delivery: &str| {
        let headers = [("idempotency-key", delivery)];
        let reply = product.hook("counting.tick?key=k", &headers, "").await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
        reply.body["unchanged"].as_bool().unwrap()
    };
    assert!(!deliver("a").await);
    assert!(deliver("a").await, "the same delivery");
    assert!(!deliver("b").await);
    assert_eq!(product.shown(&id).await["variables"]["seen"], 2);
    assert!(!deliver("c").await);
    assert_eq!(product.ended(&id).await["output"], 3);
}

#[tokio::test]
async fn without_a_key_a_call_goes_to_the_only_open_execution() {
    let product = Product::with(&[LONELY]).await;
    let address = "lonely.asks";
    assert_eq!(
        code(&product.hook(address, &[], "").await),
        (404, "HOOK_NO_EXECUTION".to_owned())
    );
    let one = product.begin("lonely", &json!({})).await;
    let two = product.begin("lonely", &json!({})).await;
    for _ in 0..2_000 {
        let listed = product.listed("/api/v1/executions?workflow=lonely&limit=2").await;
        if listed["items"].as_array().unwrap().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ambiguous = product.hook(address, &[], "").await;
    assert_eq!(code(&ambiguous), (409, "HOOK_AMBIGUOUS".to_owned()));
    assert!(ambiguous.body["hint"].as_str().unwrap().contains("correlationKey"));
    let cancel = format!("/api/v1/executions/{two}/cancel");
    assert_eq!(product.send("POST", &cancel, &[], "").await.status, StatusCode::OK);
    // The list may still show it as open; the engine knows better.
    let taken = product
        .send(
            "PUT",
            &format!("/api/v1/hooks/{address}"),
            &[("content-type", "text/plain")],
            "yes",
        )
        .await;
    assert_eq!(
        (taken.status, &taken.body["id"]),
        (StatusCode::ACCEPTED, &json!(one)),
        "{taken:?}"
    );
    let output = product.ended(&one).await["output"].clone();
    assert_eq!(
        output,
        json!({"body": "yes", "headers": {"content-type": "text/plain"}, "query": {}, "method": "PUT"})
    );
}

#[tokio::test]
async fn operators_complete_fail_skip_and_set() {
    let product = Product::with(&[LONELY, PAYMENT]).await;
    let post = async |id: &str, what: &str, headers: &[(&str, &str)], body: &str| {
        product
            .send("POST", &format!("/api/v1/executions/{id}/{what}"), headers, body)
            .await
    };
    let id = product.begin("lonely", &json!({})).await;
    assert_eq!(post(&id, "nodes/asks/heartbeat", &[], "").await.status, StatusCode::OK);
    let body = r#"{"output": {"by": "hand"}}"#;
    let completed = post(&id, "nodes/asks/complete", &[("idempotency-key", "c")], body).await;
    assert_eq!(
        (completed.status, &completed.body["unchanged"]),
        (StatusCode::OK, &json!(false)),
        "{completed:?}"
    );
    assert_eq!(product.ended(&id).await["output"], json!({"by": "hand"}));
    let again = post(&id, "nodes/asks/complete", &[("idempotency-key", "c")], body).await;
    assert_eq!(
        (again.status, &again.body["unchanged"]),
        (StatusCode::OK, &json!(true)),
        "{again:?}"
    );

    let id = product.begin("lonely", &json!({})).await;
    let failed = post(
        &id,
        "nodes/asks/fail",
        &[],
        r#"{"error": {"code": "NO_ANSWER", "message": "gave up"}}"#,
    )
    .await;
    assert_eq!(failed.status, StatusCode::OK, "{failed:?}");
    let ended = product.ended(&id).await;
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&json!("failed"), &json!("NO_ANSWER"))
    );

    let id = product.begin("payment", &json!({})).await;
    assert_eq!(
        post(&id, "variables", &[], r#"{"note": "by hand"}"#).await.status,
        StatusCode::OK
    );
    assert_eq!(
        code(&post(&id, "nodes/begin/skip", &[], "").await),
        (409, "NODE_ENDED".to_owned())
    );
    assert_eq!(
        code(&post(&id, "nodes/after/complete", &[], "").await),
        (409, "NODE_NOT_WAITING".to_owned())
    );
    assert_eq!(
        code(&post(&id, "nodes/nobody/skip", &[], "").await),
        (404, "NODE_NOT_FOUND".to_owned())
    );
    assert_eq!(
        code(&post(&id, "nodes/paid/fail", &[], "").await),
        (422, "INVALID_REQUEST".to_owned())
    );
    assert_eq!(
        code(&post(&id, "nodes/paid/skip", &[], r#"{"outptu": 1}"#).await),
        (422, "INVALID_REQUEST".to_owned())
    );
    assert_eq!(
        code(&post(&id, "variables", &[], "[]").await),
        (422, "INVALID_REQUEST".to_owned())
    );
    assert_eq!(
        post(&id, "nodes/paid/skip", &[], r#"{"output": 9}"#).await.status,
        StatusCode::OK
    );
    assert_eq!(
        product.ended(&id).await["output"],
        json!({"paid": 9, "note": "by hand"})
    );
}

#[tokio::test]
async fn a_key_may_need_the_whole_language() {
    let whole = PAYMENT.replace(
        "correlationKey: output.body.order",
        r#"correlationKey: "((call) => { for (const word of call.body.order.split(' ')) return word })(output)""#,
    );
    let product = Product::with(&[&whole]).await;
    let id = product.begin("payment", &json!({"executionKey": "o-1"})).await;
    let throws = product.hook("payments", &[JSON], r#"{"order": 1, "amount": 1}"#).await;
    assert_eq!(code(&throws), (422, "CORRELATION_FAILED".to_owned()));
    let taken = product
        .hook("payments", &[JSON], r#"{"order": "o-1 of May", "amount": 1}"#)
        .await;
    assert_eq!(
        (taken.status, &taken.body["id"]),
        (StatusCode::ACCEPTED, &json!(id)),
        "{taken:?}"
    );
}

#[tokio::test]
async fn calls_have_limits_and_come_from_no_foreign_page() {
    let limit = |settings: &mut troupe_config::Settings| settings.limits.body_bytes = 4_096;
    let product = Product::configured(&[LONELY, PAYMENT], limit).await;
    let id = product.begin("lonely", &json!({})).await;
    let large = "x".repeat(4_097);
    let text = ("content-type", "text/plain");
    assert_eq!(
        code(&product.hook("lonely.asks", &[text], &large).await),
        (413, "BODY_TOO_LARGE".to_owned())
    );
    // What is no text grows by a third.
    let grown = product.hook("lonely.asks", &[], &large[..4_000]).await;
    assert_eq!(code(&grown), (413, "PAYLOAD_TOO_LARGE".to_owned()));
    let deep = "[".repeat(1_000);
    assert_eq!(
        code(&product.hook("lonely.asks", &[JSON], &deep).await),
        (400, "NESTING_TOO_DEEP".to_owned())
    );
    let long = ("idempotency-key", &*"k".repeat(257));
    assert_eq!(
        code(&product.hook("lonely.asks", &[long], "").await),
        (400, "INVALID_PARAMETER".to_owned())
    );
    for foreign in [
        ("origin", "https://evil.example"),
        ("sec-fetch-site", "cross-site"),
        ("host", "evil.example"),
    ] {
        let reply = product.send("GET", "/api/v1/hooks/lonely.asks", &[foreign], "").await;
        assert_eq!(code(&reply), (403, "HOST_NOT_ALLOWED".to_owned()), "{foreign:?}");
    }
    assert_eq!(
        product.shown(&id).await["currentNodes"],
        json!(["asks"]),
        "none of them was taken"
    );
    let many = product.begin("payment", &json!({"executionKey": "many"})).await;
    let path = format!("/api/v1/executions/{many}/nodes/paid/skip");
    assert_eq!(product.send("POST", &path, &[], "").await.status, StatusCode::OK);
    let own = [("sec-fetch-site", "same-origin")];
    assert_eq!(
        product.send("GET", "/api/v1/hooks/lonely.asks", &own, "").await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn calls_that_come_too_early_are_kept_up_to_a_limit() {
    let parked = r#"
id: parked
name: Parked
nodes:
  - { id: wait, type: delay, data: { delayType: fixed, delayValue: 86400000 } }
  - { id: asks, type: webhook, data: { webhookId: early } }
edges: [{ id: e1, source: wait, target: asks }]
"#;
    let product = Product::with(&[parked]).await;
    let id = product.begin("parked", &json!({})).await;
    for number in 0..64 {
        let reply = product.hook("early", &[JSON], &number.to_string()).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
    }
    let refused = product.hook("early", &[JSON], "64").await;
    assert_eq!(code(&refused), (429, "TOO_MANY_CALLS".to_owned()));
    assert_eq!(refused.headers["retry-after"], "1");
    let wait = format!("/api/v1/executions/{id}/nodes/wait/complete");
    assert_eq!(product.send("POST", &wait, &[], "").await.status, StatusCode::OK);
    assert_eq!(product.ended(&id).await["output"]["body"], 0, "the first that came");
    let history = product
        .get(&format!("/api/v1/executions/{id}/history?limit=3"))
        .await
        .body;
    assert_eq!(
        (&history["items"][1]["event"], &history["items"][1]["nodeId"]),
        (&json!("signaled"), &json!("asks"))
    );
}

/// Started by a call of GitHub.
const STARTED: &str = r#"
id: pushed
name: Pushed
settings: { output: "{ got: nodes.push.output, from: trigger.method, delivery: trigger.headers['x-github-delivery'] }" }
nodes:
  - id: push
    type: webhook
    data:
      webhookId: pushes
      provider: github
      secret: "{{ secrets.HOOK_TEST }}"
      payloadSchema: { type: object, required: [ref] }
      transformationTemplate: { branch: "{{ output.body.ref.split('/').at(-1) }}" }
  - { id: by-hand, type: trigger, data: { triggerType: manual } }
  - { id: build, type: function, data: { handlerId: echo } }
edges:
  - { id: e1, source: push, target: build }
  - { id: e2, source: by-hand, target: build }
"#;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

struct OneSecret;

impl Secrets for OneSecret {
    fn get(&self, name: &str) -> Option<String> {
        (name == "HOOK_TEST").then(|| SECRET.to_owned())
    }
}

impl Product {
    async fn knowing_a_secret(definitions: &[&str]) -> Self {
        let extras = Extras {
            secrets: Some(Arc::new(OneSecret)),
            ..Extras::default()
        };
        Self::with_extras(definitions, |_| {}, extras).await
    }
}

fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

fn hex(signed: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_signed_call_starts_an_execution_once() {
    let product = Product::knowing_a_secret(&[STARTED]).await;
    let body = r#"{"ref": "refs/heads/main"}"#;
    let signature = format!("sha256={}", hex(body));
    let headers = |signature: &'static str| [JSON, ("x-hub-signature-256", signature), ("x-github-delivery", "g-1")];
    let signed = headers(signature.leak());
    let started = product.hook("pushes", &signed, body).await;
    assert_eq!(
        (started.status, &started.body["existing"]),
        (StatusCode::ACCEPTED, &json!(false)),
        "{started:?}"
    );
    let id = started.body["id"].as_str().unwrap().to_owned();
    assert_eq!(started.headers["location"], format!("/api/v1/executions/{id}"));
    let ended = product.ended(&id).await;
    assert_eq!(
        ended["output"],
        json!({"got": {"branch": "main"}, "from": "POST", "delivery": "g-1"}),
        "{ended}"
    );
    assert_eq!(ended["nodeResults"]["by-hand"]["status"], "skipped");

    let again = product.hook("pushes", &signed, body).await;
    assert_eq!(
        (again.status, &again.body["existing"], &again.body["id"]),
        (StatusCode::ACCEPTED, &json!(true), &json!(id))
    );
    let unsigned = [JSON, ("x-github-delivery", "g-2")];
    let refused = product.hook("pushes", &unsigned, body).await;
    assert_eq!(code(&refused), (401, "SIGNATURE_INVALID".to_owned()));
    assert!(refused.body["hint"].is_string(), "{refused:?}");
    assert_eq!(
        code(&product.hook("pushes", &signed, r#"{"ref": "refs/heads/evil"}"#).await).0,
        401
    );
    // What is signed and does not fit is refused by its schema.
    let wrong = format!("sha256={}", hex("{}"));
    let refused = product.hook("pushes", &headers(wrong.leak()), "{}").await;
    assert_eq!(code(&refused), (422, "SCHEMA_VIOLATION".to_owned()));
    assert!(!format!("{refused:?}").contains(SECRET));

    // The secret is nowhere: not in the definition, not in the history.
    let history = product.get(&format!("/api/v1/executions/{id}/history")).await.text;
    assert!(!history.contains(SECRET) && !ended.to_string().contains(SECRET));
    // Started by hand, the other trigger fires.
    let by_hand = product.run("pushed", r#"{"trigger": "by-hand", "input": {}}"#).await;
    assert_eq!(
        product.shown(&by_hand).await["nodeResults"]["push"]["status"],
        "skipped"
    );
}

#[tokio::test]
async fn each_provider_signs_and_names_deliveries_in_its_own_way() {
    let workflow = |provider: &str, more: &str| {
        format!(
            r#"
id: of-{provider}
name: Of {provider}
nodes: [{{ id: call, type: webhook, data: {{ webhookId: {provider}, provider: {provider}, secret: "{{{{ secrets.HOOK_TEST }}}}"{more} }} }}]
edges: []
"#
        )
    };
    let definitions = [
        workflow("standard", ""),
        workflow("stripe", ""),
        workflow("slack", ""),
        workflow("generic", ", signature: { header: X-Sig, prefix: 'v1=' }"),
    ];
    let product = Product::knowing_a_secret(&definitions.each_ref().map(String::as_str)).await;
    let body = r#"{"id": "evt_1", "event_id": "Ev1"}"#;
    for (at_s, status) in [(now_s(), 202), (now_s() - 400, 401)] {
        let at = at_s.to_string();
        let standard = Webhook::new(SECRET)
            .unwrap()
            .sign("msg_1", at_s, body.as_bytes())
            .unwrap();
        let stripe = format!("t={at},v1={}", hex(&format!("{at}.{body}")));
        let slack = format!("v0={}", hex(&format!("v0:{at}:{body}")));
        let calls: [(&str, &[(&str, &str)]); 3] = [
            (
                "standard",
                &[
                    ("webhook-id", "msg_1"),
                    ("webhook-timestamp", &at),
                    ("webhook-signature", &standard),
                ],
            ),
            ("stripe", &[("stripe-signature", &stripe)]),
            (
                "slack",
                &[("x-slack-signature", &slack), ("x-slack-request-timestamp", &at)],
            ),
        ];
        for (provider, headers) in calls {
            let headers: Vec<(&str, &str)> = headers.iter().copied().chain([JSON]).collect();
            let reply = product.hook(provider, &headers, body).await;
            assert_eq!(reply.status.as_u16(), status, "{provider}: {reply:?}");
            if status == 202 {
                let again = product.hook(provider, &headers, body).await;
                assert_eq!(
                    (&again.body["existing"], &again.body["id"]),
                    (&json!(true), &reply.body["id"]),
                    "{provider}"
                );
            }
        }
    }
    let signature = format!("v1={}", hex(body));
    let generic = [JSON, ("x-sig", signature.as_str()), ("idempotency-key", "i-1")];
    let first = product.hook("generic", &generic, body).await;
    assert_eq!(
        product.hook("generic", &generic, body).await.body["id"],
        first.body["id"]
    );
    let bare = [JSON, ("x-sig", signature.as_str())];
    let nameless = product.hook("generic", &bare, body).await;
    assert_eq!(
        (nameless.status, nameless.body["id"] != first.body["id"]),
        (StatusCode::ACCEPTED, true)
    );

    let (asked, at) = (
        r#"{"type": "url_verification", "challenge": "c-1"}"#,
        now_s().to_string(),
    );
    let slack = format!("v0={}", hex(&format!("v0:{at}:{asked}")));
    let headers = [
        JSON,
        ("x-slack-signature", slack.as_str()),
        ("x-slack-request-timestamp", at.as_str()),
    ];
    let answer = product.hook("slack", &headers, asked).await;
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::OK, json!({"challenge": "c-1"}))
    );
}

#[tokio::test]
async fn a_hook_without_its_secret_takes_nothing() {
    let product = Product::with(&[STARTED]).await;
    let reply = product
        .hook("pushes", &[JSON, ("x-hub-signature-256", "sha256=00")], "{}")
        .await;
    assert_eq!(code(&reply), (503, "HOOK_SECRET_UNUSABLE".to_owned()));
    assert!(
        !reply.text.contains("HOOK_TEST"),
        "who calls learns no names: {reply:?}"
    );
}

#[tokio::test]
async fn addresses_come_and_go_with_definitions() {
    let product = Product::with(&[LONELY]).await;
    assert_eq!(
        code(&product.hook("nobody", &[], "").await),
        (404, "HOOK_NOT_FOUND".to_owned())
    );
    let called = LONELY.replace("heartbeatTimeout: 60000", "webhookId: called");
    let stored = product.send("PUT", "/api/v1/workflows/lonely", &[], &called).await;
    assert_eq!(stored.status, StatusCode::CREATED, "{stored:?}");
    assert_eq!(
        code(&product.hook("lonely.asks", &[], "").await),
        (404, "HOOK_NOT_FOUND".to_owned())
    );
    assert_eq!(
        code(&product.hook("called", &[], "").await),
        (404, "HOOK_NO_EXECUTION".to_owned())
    );
    let other = called.replace("lonely", "other").replace("Lonely", "Other");
    assert_eq!(
        product.send("POST", "/api/v1/workflows", &[], &other).await.status,
        StatusCode::CREATED
    );
    let both = product.hook("called", &[], "").await;
    assert_eq!(code(&both), (409, "HOOK_AMBIGUOUS".to_owned()));
    assert!(both.text.contains("lonely") && both.text.contains("other"), "{both:?}");
    assert_eq!(
        product.send("DELETE", "/api/v1/workflows/lonely", &[], "").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        code(&product.hook("called", &[], "").await),
        (404, "HOOK_NO_EXECUTION".to_owned())
    );
    assert_eq!(
        product.send("DELETE", "/api/v1/workflows/other", &[], "").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        code(&product.hook("called", &[], "").await),
        (404, "HOOK_NOT_FOUND".to_owned())
    );
    assert_eq!(
        product.send("PUT", "/api/v1/workflows/other", &[], &other).await.status,
        StatusCode::OK
    );
    assert_eq!(
        code(&product.hook("called", &[], "").await),
        (404, "HOOK_NO_EXECUTION".to_owned())
    );
    for method in ["DELETE", "PATCH", "HEAD"] {
        let reply = product.send(method, "/api/v1/hooks/called", &[], "").await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
}

/// Hands the address of its wait out before it waits.
const LINKED: &str = r#"
id: linked
name: Linked
nodes:
  - { id: begin, type: trigger, data: { triggerType: api } }
  - { id: mail, type: function, data: { handlerId: echo, inputMapping: { link: "resumeUrls['please-answer']" } } }
  - { id: shout, type: transformation, data: { transformationType: map, transformationConfig: {}, template: "<{{ resumeUrls['please-answer'] }}>" } }
  - { id: deep, type: function, data: { handlerId: echo, inputMapping: { link: "((urls) => { return urls['please-answer'] })(resumeUrls)" } } }
  - { id: please-answer, type: webhook, data: { payloadSchema: { type: object } } }
edges:
  - { id: e1, source: begin, target: mail }
  - { id: e2, source: mail, target: shout }
  - { id: e3, source: shout, target: deep }
  - { id: e4, source: deep, target: please-answer }
"#;

#[tokio::test]
async fn whoever_has_the_address_of_a_wait_may_answer_it() {
    let public = |settings: &mut troupe_config::Settings| {
        settings.public_url = troupe_config::PublicUrl::parse("https://hooks.example.com/");
    };
    let product = Product::configured(&[LINKED], public).await;
    let id = product.begin("linked", &json!({})).await;
    let other = product.begin("linked", &json!({})).await;
    let waiting = async |id: &str| loop {
        let shown = product
            .get(&format!("/api/v1/executions/{id}?include=resumeUrls"))
            .await
            .body;
        if shown["currentNodes"] == json!(["please-answer"]) {
            break shown;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let shown = waiting(&id).await;
    let results = &shown["nodeResults"];
    let url = results["mail"]["output"]["link"].as_str().unwrap();
    assert_eq!(results["please-answer"]["waiting"]["resumeUrl"], url, "{shown}");
    assert_eq!(results["shout"]["output"], format!("<{url}>"));
    assert_eq!(results["deep"]["output"]["link"], url);
    let plain = product.shown(&id).await;
    assert_eq!(
        plain["nodeResults"]["please-answer"]["waiting"].get("resumeUrl"),
        None,
        "only on request"
    );

    let path = url.strip_prefix("https://hooks.example.com").unwrap();
    let foreign = waiting(&other).await["nodeResults"]["mail"]["output"]["link"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_ne!(foreign, url);
    let tampered = format!("{}A", &path[..path.len() - 1]);
    let tampered = if tampered == path {
        format!("{}B", &path[..path.len() - 1])
    } else {
        tampered
    };
    let wrong = product.send("POST", &tampered, &[JSON], "{}").await;
    assert_eq!(code(&wrong), (404, "HOOK_NOT_FOUND".to_owned()));
    assert_eq!(
        code(&product.get(path).await),
        (405, "METHOD_NOT_ALLOWED".to_owned()),
        "a look is no answer"
    );
    let refused = product.send("POST", path, &[JSON], "7").await;
    assert_eq!(code(&refused), (422, "SCHEMA_VIOLATION".to_owned()));
    assert_eq!(refused.body["errors"][0]["pointer"], "", "{refused:?}");

    // Under the public name hooks are answered, from any page; nothing else is.
    let outside = [
        JSON,
        ("host", "hooks.example.com"),
        ("origin", "https://mail.example.org"),
        ("idempotency-key", "i"),
    ];
    let answered = product.send("POST", path, &outside, r#"{"ok": true}"#).await;
    assert_eq!(
        (answered.status, &answered.body["id"]),
        (StatusCode::ACCEPTED, &json!(id)),
        "{answered:?}"
    );
    let again = product.send("POST", path, &outside, r#"{"ok": true}"#).await;
    assert_eq!(
        (again.status, &again.body["unchanged"]),
        (StatusCode::ACCEPTED, &json!(true)),
        "{again:?}"
    );
    let peeked = product.send("GET", "/api/v1/executions", &outside[1..2], "").await;
    assert_eq!(code(&peeked), (403, "HOST_NOT_ALLOWED".to_owned()));
    assert_eq!(product.ended(&id).await["output"]["body"], json!({"ok": true}));
    assert_eq!(product.shown(&other).await["currentNodes"], json!(["please-answer"]));
    let twice = product.send("POST", path, &[JSON], "{}").await;
    assert_eq!(code(&twice), (409, "EXECUTION_ENDED".to_owned()));
}

#[tokio::test]
async fn an_address_of_no_wait_is_an_error_not_an_empty_link() {
    let slip = LINKED.replacen("['please-answer']", ".pleaseanswer", 1);
    let product = Product::with(&[&slip]).await;
    let id = product.begin("linked", &json!({})).await;
    let ended = product.ended(&id).await;
    assert_eq!(ended["error"]["code"], "EXPRESSION_ERROR", "{ended}");
    assert!(
        ended["error"]["message"].as_str().unwrap().contains("pleaseanswer"),
        "{ended}"
    );
}

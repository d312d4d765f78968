//! The API of a whole product in this process, as clients meet it.
#![allow(clippy::unwrap_used)]

mod product;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use product::{CHAIN, PARKED, Product, Reply};
use serde_json::{Value, json};
use troupe::wiring::{self, Extras, HandlerCall};
use troupe_actors::EngineOptions;
use troupe_config::{Settings, Sources};
use troupe_core::Json;

const FAILING: &str = r#"
id: failing
name: Failing
settings: { onFailure: failFast }
nodes:
  - { id: a, type: function, data: { handlerId: echo } }
  - id: b
    type: function
    data:
      handlerId: fail
      code: NO_LUCK
      retryPolicy: { maxAttempts: 2, initialDelay: 1, jitter: none }
edges:
  - { id: e1, source: a, target: b }
"#;

/// The error's code, after checking that its body is a problem whose parts agree.
fn code(reply: &Reply) -> String {
    assert_eq!(reply.headers["content-type"], "application/problem+json", "{reply:?}");
    assert_eq!(reply.body["status"], reply.status.as_u16(), "{reply:?}");
    let code = reply.body["code"].as_str().unwrap().to_owned();
    assert_eq!(reply.body["type"], format!("/docs/errors/{code}"));
    code
}

fn header(reply: &Reply, name: &str) -> String {
    reply.headers[name].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn workflows_have_versions_tags_and_an_end() {
    let product = Product::new().await;
    let created = product.send("POST", "/api/v1/workflows", &[], CHAIN).await;
    assert_eq!(
        (created.status, &created.body["version"]),
        (StatusCode::CREATED, &json!(1)),
        "{created:?}"
    );
    assert_eq!(
        (header(&created, "location"), header(&created, "etag")),
        ("/api/v1/workflows/chain".into(), "\"1\"".into())
    );
    assert_eq!(
        code(&product.send("POST", "/api/v1/workflows", &[], CHAIN).await),
        "WORKFLOW_EXISTS"
    );

    let again = product.send("PUT", "/api/v1/workflows/chain", &[], CHAIN).await;
    assert_eq!((again.status, &again.body["created"]), (StatusCode::OK, &json!(false)));
    let changed = CHAIN.replace("name: Chain", "name: Longer chain");
    let stale = product
        .send("PUT", "/api/v1/workflows/chain", &[("if-match", "\"7\"")], &changed)
        .await;
    assert_eq!(
        (stale.status.as_u16(), code(&stale).as_str()),
        (412, "VERSION_CONFLICT")
    );
    let second = product
        .send("PUT", "/api/v1/workflows/chain", &[("if-match", "\"1\"")], &changed)
        .await;
    assert_eq!(
        (second.status, &second.body["version"]),
        (StatusCode::CREATED, &json!(2))
    );
    assert_eq!(
        code(&product.send("PUT", "/api/v1/workflows/other", &[], CHAIN).await),
        "INVALID_REQUEST"
    );

    let got = product.get("/api/v1/workflows/chain").await;
    assert_eq!(got.body["name"], "Longer chain");
    assert_eq!(
        product.get("/api/v1/workflows/chain?version=1").await.body["name"],
        "Chain"
    );
    assert_eq!(
        code(&product.get("/api/v1/workflows/chain?version=9").await),
        "VERSION_NOT_FOUND"
    );
    assert_eq!(code(&product.get("/api/v1/workflows/nope").await), "WORKFLOW_NOT_FOUND");
    let same = product
        .send("GET", "/api/v1/workflows/chain", &[("if-none-match", "\"2\"")], "")
        .await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    let yaml = product
        .send("GET", "/api/v1/workflows/chain", &[("accept", "application/yaml")], "")
        .await;
    assert_eq!(header(&yaml, "content-type"), "application/yaml");
    assert!(yaml.text.contains("name: Longer chain"), "{}", yaml.text);
    let stored = product
        .send("POST", "/api/v1/workflows/validate", &[], &yaml.text)
        .await;
    assert_eq!(
        stored.body["valid"], true,
        "what is exported can be imported: {stored:?}"
    );

    let versions = product.get("/api/v1/workflows/chain/versions?limit=1").await;
    assert_eq!(
        (&versions.body["items"][0]["version"], &versions.body["next"]),
        (&json!(2), &json!("1"))
    );
    let analysis = product.get("/api/v1/workflows/chain/analysis").await;
    assert_eq!(analysis.body["paths"][0]["nodeSequence"], json!(["first", "second"]));
    assert_eq!(product.get("/api/v1/workflows").await.body["items"][0]["nodes"], 2);

    assert_eq!(
        product.send("DELETE", "/api/v1/workflows/chain", &[], "").await.status,
        StatusCode::NO_CONTENT
    );
    let start = product
        .send("POST", "/api/v1/workflows/chain/executions", &[], "")
        .await;
    assert_eq!(
        (start.status.as_u16(), code(&start).as_str()),
        (409, "WORKFLOW_ARCHIVED")
    );
    let exists = product.send("POST", "/api/v1/workflows", &[], &changed).await;
    assert_eq!(code(&exists), "WORKFLOW_EXISTS");
    assert!(exists.text.contains("archived"), "{exists:?}");
}

#[tokio::test]
async fn storing_a_definition_again_restores_an_archived_workflow() {
    let product = Product::with(&[CHAIN]).await;
    let (workflow, start) = ("/api/v1/workflows/chain", "/api/v1/workflows/chain/executions");
    let changed = CHAIN.replace("name: Chain", "name: Longer chain");
    for (definition, status, version) in [(CHAIN, StatusCode::OK, 1), (&changed, StatusCode::CREATED, 2)] {
        assert_eq!(
            product.send("DELETE", workflow, &[], "").await.status,
            StatusCode::NO_CONTENT
        );
        let refused = product.send("POST", start, &[], "").await;
        assert_eq!(code(&refused), "WORKFLOW_ARCHIVED");
        let stored = product.send("PUT", workflow, &[], definition).await;
        assert_eq!(
            (stored.status, &stored.body["version"], &stored.body["restored"]),
            (status, &json!(version), &json!(true)),
            "{stored:?}"
        );
        assert_eq!(product.send("POST", start, &[], "").await.status, StatusCode::ACCEPTED);
        let again = product.send("PUT", workflow, &[], definition).await;
        assert_eq!(again.body.get("restored"), None, "{again:?}");
    }
}

#[tokio::test]
async fn edited_metadata_is_stored() {
    let product = Product::with(&[CHAIN]).await;
    let tagged = format!("{CHAIN}metadata: {{ tags: [billing], createdBy: somebody }}\n");
    let stored = product.send("PUT", "/api/v1/workflows/chain", &[], &tagged).await;
    assert_eq!(
        (stored.status, &stored.body["version"]),
        (StatusCode::CREATED, &json!(2)),
        "{stored:?}"
    );
    let found = product.get("/api/v1/workflows/chain").await;
    assert_eq!(
        (&found.body["metadata"]["tags"], &found.body["metadata"]["createdBy"]),
        (&json!(["billing"]), &json!("somebody"))
    );
}

#[tokio::test]
async fn a_definition_needs_an_id_wherever_it_is_checked() {
    let product = Product::new().await;
    let nameless = CHAIN.replace("id: chain\n", "");
    for (path, problems) in [
        ("/api/v1/workflows", "errors"),
        ("/api/v1/workflows/validate", "problems"),
    ] {
        let reply = product.send("POST", path, &[], &nameless).await;
        let found = &reply.body[problems];
        assert_eq!(
            (&found[0]["code"], &found[0]["pointer"], &found[0]["line"]),
            (&json!("MISSING_FIELD"), &json!(""), &json!(2)),
            "{reply:?}"
        );
        assert_eq!(reply.body.get("valid").unwrap_or(&json!(false)), &json!(false));
        // With whatever else is wrong.
        let worse = nameless.replace("type: function", "type: functoin");
        let reply = product.send("POST", path, &[], &worse).await;
        let codes: Vec<_> = reply.body[problems]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["code"])
            .collect();
        assert!(
            codes.contains(&&json!("MISSING_FIELD")) && codes.contains(&&json!("UNKNOWN_NODE_TYPE")),
            "{codes:?}"
        );
    }
}

#[tokio::test]
async fn an_invalid_definition_is_refused_with_every_problem() {
    let product = Product::new().await;
    let broken = r#"{"id": "x", "name": "x", "nodes": [{"id": "a", "type": "functoin", "data": {}}],
        "edges": [{"id": "e", "source": "a", "target": "b"}]}"#;
    let refused = product.send("POST", "/api/v1/workflows", &[], broken).await;
    assert_eq!(
        (refused.status.as_u16(), code(&refused).as_str()),
        (422, "INVALID_DEFINITION")
    );
    let codes: Vec<_> = refused.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["code"].clone())
        .collect();
    assert!(
        codes.contains(&json!("UNKNOWN_NODE_TYPE")) && codes.contains(&json!("UNKNOWN_NODE")),
        "{codes:?}"
    );
    let report = product.send("POST", "/api/v1/workflows/validate", &[], broken).await;
    assert_eq!((report.status, &report.body["valid"]), (StatusCode::OK, &json!(false)));
}

#[tokio::test]
async fn a_server_knows_its_handlers_and_refuses_others() {
    let greet = |_: HandlerCall| async { Ok(Json::of(&json!("hello"))) };
    let extras = Extras {
        executors: wiring::executors().handler("greet", greet),
        ..Extras::default()
    };
    let product = Product::with_extras(&[], |_| {}, extras).await;
    let using = |handler: &str| {
        format!(
            "id: uses-{handler}\nname: Uses\nnodes: [{{ id: a, type: function, data: {{ handlerId: {handler} }} }}]"
        )
    };
    for handler in ["greet", "noop"] {
        let stored = product.send("POST", "/api/v1/workflows", &[], &using(handler)).await;
        assert!(stored.status.is_success(), "{stored:?}");
    }
    let refused = product.send("POST", "/api/v1/workflows", &[], &using("gret")).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.body["errors"][0]["code"], "UNKNOWN_HANDLER");
    assert_eq!(refused.body["errors"][0]["pointer"], "/nodes/0/data/handlerId");
    assert!(refused.text.contains("did you mean `greet`?"), "{}", refused.text);
}

#[tokio::test]
async fn starts_wait_repeat_and_collide_as_asked() {
    let product = Product::with(&[CHAIN, PARKED]).await;
    let start = "/api/v1/workflows/chain/executions";
    let at_once = product.send("POST", start, &[], r#"{"input": {"x": 1}}"#).await;
    assert_eq!(at_once.status, StatusCode::ACCEPTED);
    let id = at_once.body["id"].as_str().unwrap();
    assert_eq!(header(&at_once, "location"), format!("/api/v1/executions/{id}"));

    let waited = product
        .send("POST", start, &[("prefer", "wait=30")], r#"{"input": {"x": 2}}"#)
        .await;
    assert_eq!(
        (waited.status, &waited.body["output"]),
        (StatusCode::OK, &json!({"x": 2})),
        "{waited:?}"
    );
    assert_eq!(header(&waited, "preference-applied"), "wait=30");

    let key = [("idempotency-key", "k-1"), ("prefer", "wait=30")];
    let first = product.send("POST", start, &key, r#"{"input": 1}"#).await;
    let second = product.send("POST", start, &key, r#"{"input": 2}"#).await;
    assert_eq!(
        (&second.body["id"], &second.body["existing"]),
        (&first.body["id"], &json!(true))
    );
    assert_eq!(second.body["output"], 1);
    let repeated = product.send("POST", start, &key[..1], r#"{"input": 3}"#).await;
    assert_eq!(
        (repeated.status, &repeated.body["id"], &repeated.body["existing"]),
        (StatusCode::ACCEPTED, &first.body["id"], &json!(true))
    );
    assert_eq!(
        (&repeated.body["status"], &repeated.body["sequence"]),
        (&json!("completed"), &first.body["sequence"]),
        "where it stands, not where it began"
    );

    let parked = "/api/v1/workflows/parked/executions";
    let open = product
        .send("POST", parked, &[], r#"{"executionKey": "order-1"}"#)
        .await;
    let refused = product
        .send("POST", parked, &[], r#"{"executionKey": "order-1"}"#)
        .await;
    assert_eq!(
        (refused.status.as_u16(), code(&refused).as_str()),
        (409, "KEY_CONFLICT")
    );
    assert_eq!(refused.body["existing"], open.body["id"]);
    let policy = r#"{"executionKey": "order-1", "keyPolicy": {"onOpen": "useExisting"}}"#;
    assert_eq!(
        product.send("POST", parked, &[], policy).await.body["id"],
        open.body["id"]
    );

    let late = product.send("POST", parked, &[("prefer", "wait=0")], "").await;
    assert_eq!(
        (late.status, &late.body["status"]),
        (StatusCode::ACCEPTED, &json!("running"))
    );
    assert_eq!(
        code(&product.send("POST", "/api/v1/workflows/nope/executions", &[], "").await),
        "WORKFLOW_NOT_FOUND"
    );
}

#[tokio::test]
async fn a_start_repeated_after_the_archive_went_is_answered_at_once() {
    let brief = CHAIN.replace("onFailure: failFast", "retention: { completedMs: 1 }");
    let engine = EngineOptions {
        expire_every: Duration::from_millis(20),
        ..EngineOptions::default()
    };
    let product = Product::with_engine(&[&brief], |_| {}, Some(engine)).await;
    let start = "/api/v1/workflows/chain/executions";
    let key = [("idempotency-key", "k"), ("prefer", "wait=30")];
    let first = product.send("POST", start, &key, r#"{"input": 1}"#).await;
    assert_eq!(first.body["status"], "completed");
    let execution = header(&first, "location");
    let deadline = Instant::now() + Duration::from_secs(20);
    while product.get(&execution).await.status != StatusCode::NOT_FOUND {
        assert!(Instant::now() < deadline, "the archive goes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (headers, status) in [(&key[..1], StatusCode::ACCEPTED), (&key, StatusCode::OK)] {
        let asked = Instant::now();
        let again = product.send("POST", start, headers, r#"{"input": 2}"#).await;
        assert_eq!(
            (again.status, &again.body["id"], &again.body["existing"]),
            (status, &first.body["id"], &json!(true)),
            "{again:?}"
        );
        assert_eq!(again.body.get("status"), None, "nobody knows how it ended");
        assert!(asked.elapsed() < Duration::from_secs(10), "nothing is waited for");
    }
}

#[tokio::test]
async fn what_has_ended_and_its_key_are_forgotten_when_the_settings_say() {
    let engine = EngineOptions {
        expire_every: Duration::from_millis(20),
        checkpoint_interval: Duration::from_millis(20),
        ..EngineOptions::default()
    };
    let at_once = |settings: &mut Settings| {
        settings.engine.retention = Duration::ZERO;
        settings.engine.tombstone = Duration::ZERO;
    };
    let product = Product::with_engine(&[CHAIN], at_once, Some(engine)).await;
    let start = "/api/v1/workflows/chain/executions";
    let key = [("idempotency-key", "k")];
    let first = product.send("POST", start, &key, "{}").await;
    assert_eq!(first.body["existing"], json!(false), "{first:?}");
    let execution = header(&first, "location");
    let deadline = Instant::now() + Duration::from_secs(60);
    while product.get(&execution).await.status != StatusCode::NOT_FOUND {
        assert!(Instant::now() < deadline, "the archive goes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    loop {
        let again = product.send("POST", start, &key, "{}").await;
        assert_eq!(again.body["id"], first.body["id"], "{again:?}");
        if again.body["existing"] == json!(false) {
            break;
        }
        assert!(Instant::now() < deadline, "its key counts no longer: {again:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn what_has_ended_is_kept_as_long_by_the_configuration_as_by_the_engine() {
    let (settings, engine) = (Sources::default().load().unwrap().engine, EngineOptions::default());
    assert_eq!(settings.retention, Duration::from_millis(engine.retention_ms));
    assert_eq!(settings.tombstone, Duration::from_millis(engine.tombstone_ms));
}

#[tokio::test]
async fn bad_requests_are_answered_with_codes_and_places() {
    let product = Product::with(&[CHAIN]).await;
    let start = "/api/v1/workflows/chain/executions";
    let malformed = product.send("POST", start, &[], "{\n \"input\": }").await;
    assert_eq!(
        (malformed.status.as_u16(), code(&malformed).as_str()),
        (400, "INVALID_JSON")
    );
    assert_eq!(
        (
            &malformed.body["errors"][0]["line"],
            &malformed.body["errors"][0]["column"]
        ),
        (&json!(2), &json!(11))
    );
    assert_eq!(
        code(&product.send("POST", start, &[], &"[".repeat(10_000)).await),
        "NESTING_TOO_DEEP"
    );
    assert_eq!(
        code(
            &product
                .raw("POST", start, &[], Body::from(vec![b'"', 0xff, b'"']))
                .await
        ),
        "INVALID_UTF8"
    );
    let huge = product
        .send("POST", start, &[], &format!("\"{}\"", "x".repeat(17 << 20)))
        .await;
    assert_eq!((huge.status.as_u16(), code(&huge).as_str()), (413, "BODY_TOO_LARGE"));
    let slip = product.send("POST", start, &[], r#"{"inptu": 1}"#).await;
    assert_eq!((slip.status.as_u16(), code(&slip).as_str()), (422, "INVALID_REQUEST"));
    assert_eq!(slip.body["errors"][0]["hint"], "did you mean `input`?");
    let twice = product
        .send("POST", start, &[], "{\n\"input\": 1,\n \"input\": 2}")
        .await;
    assert_eq!((twice.status.as_u16(), code(&twice).as_str()), (400, "DUPLICATE_KEY"));
    let place = &twice.body["errors"][0];
    assert_eq!((&place["line"], &place["column"]), (&json!(3), &json!(11)), "{twice:?}");
    assert_eq!(
        code(&product.send("POST", start, &[("prefer", "wait=soon")], "").await),
        "INVALID_PARAMETER"
    );
    let trigger = product.send("POST", start, &[], r#"{"trigger": "nobody"}"#).await;
    assert_eq!(
        (trigger.status.as_u16(), code(&trigger).as_str()),
        (422, "UNKNOWN_TRIGGER")
    );
    assert_eq!(trigger.body["errors"][0]["pointer"], "/trigger");

    for (path, status, expected) in [
        ("/nowhere", 404, "ROUTE_NOT_FOUND"),
        ("/api/v1/executions/xyz", 404, "EXECUTION_NOT_FOUND"),
        (
            "/api/v1/executions/00000000000000000000000000000000",
            404,
            "EXECUTION_NOT_FOUND",
        ),
        ("/api/v1/executions?staus=failed", 400, "INVALID_PARAMETER"),
        ("/api/v1/executions?status=odd", 400, "INVALID_PARAMETER"),
        ("/api/v1/executions?limit=0", 400, "INVALID_PARAMETER"),
        ("/api/v1/executions?startedFrom=yesterday", 400, "INVALID_PARAMETER"),
        ("/api/v1/executions?cursor=zzz", 400, "INVALID_PARAMETER"),
        (
            "/api/v1/workflows/chain/executions?cursor=7.xyz",
            400,
            "INVALID_PARAMETER",
        ),
        ("/api/v1/stream", 400, "INVALID_PARAMETER"),
        ("/api/v1/stream?topics=weather", 400, "INVALID_PARAMETER"),
    ] {
        let reply = product.get(path).await;
        assert_eq!(
            (reply.status.as_u16(), code(&reply).as_str()),
            (status, expected),
            "{path}"
        );
    }
    let method = product.send("PATCH", "/api/v1/workflows", &[], "").await;
    assert_eq!(
        (method.status.as_u16(), code(&method).as_str()),
        (405, "METHOD_NOT_ALLOWED")
    );
    for foreign in [("host", "evil.example"), ("origin", "https://evil.example")] {
        let reply = product.send("GET", "/livez", &[foreign], "").await;
        assert_eq!(
            (reply.status.as_u16(), code(&reply).as_str()),
            (403, "HOST_NOT_ALLOWED"),
            "{foreign:?}"
        );
    }
    let page = product.get("/docs/errors/BODY_TOO_LARGE").await;
    assert!(page.text.starts_with("# "), "{}", page.text);
}

#[tokio::test]
async fn a_violated_input_schema_names_every_place_in_the_body() {
    let checked = CHAIN.replace(
        "onFailure: failFast",
        "inputSchema: { required: [order], properties: { items: { minItems: 1 } } }",
    );
    let product = Product::with(&[&checked]).await;
    let start = "/api/v1/workflows/chain/executions";
    let refused = product.send("POST", start, &[], r#"{"input": {"items": []}}"#).await;
    assert_eq!(
        (refused.status.as_u16(), code(&refused).as_str()),
        (422, "SCHEMA_VIOLATION")
    );
    let mut pointers: Vec<_> = refused.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            assert_eq!(item["code"], "SCHEMA_VIOLATION");
            item["pointer"].as_str().unwrap()
        })
        .collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/input", "/input/items"], "{refused:?}");
}

#[tokio::test]
async fn a_damaged_analysis_is_said() {
    let product = Product::new().await;
    let definition = serde_json::json!({"id": "damaged", "name": "d", "edges": [], "nodes": [
        {"id": "wait", "type": "delay", "data": {"delayType": "fixed", "delayValue": 86_400_000}}]});
    let definition = serde_json::from_value(definition).unwrap();
    let analysis = troupe_core::Json::from_trusted(r#"{"paths": 7}"#);
    let stored = product
        .app
        .definitions
        .put(definition, analysis, None, product.app.now())
        .await;
    stored.unwrap();
    let start = product
        .send("POST", "/api/v1/workflows/damaged/executions", &[], "")
        .await;
    let shown = product
        .get(&format!("/api/v1/executions/{}", start.body["id"].as_str().unwrap()))
        .await;
    assert_eq!((shown.status.as_u16(), code(&shown).as_str()), (500, "DAMAGED"));
}

#[tokio::test]
async fn a_context_has_the_shape_of_the_specification() {
    let product = Product::with(&[CHAIN, FAILING, PARKED]).await;
    let completed = product
        .run(
            "chain",
            r#"{"input": {"x": 5}, "variables": {"v": 1}, "metadata": {"by": "test"}}"#,
        )
        .await;
    let failed = product.run("failing", r#"{"input": 1}"#).await;
    let parked = product
        .send("POST", "/api/v1/workflows/parked/executions", &[], "")
        .await;
    let parked = parked.body["id"].as_str().unwrap().to_owned();
    let redact = |value: &Value| redacted(value.clone());
    insta::assert_json_snapshot!(
        "context_completed",
        redact(&product.get(&format!("/api/v1/executions/{completed}")).await.body)
    );
    insta::assert_json_snapshot!(
        "context_failed",
        redact(&product.get(&format!("/api/v1/executions/{failed}")).await.body)
    );
    insta::assert_json_snapshot!(
        "context_waiting",
        redact(&product.get(&format!("/api/v1/executions/{parked}")).await.body)
    );
    insta::assert_json_snapshot!(
        "node_failed",
        redact(&product.get(&format!("/api/v1/executions/{failed}/nodes/b")).await.body)
    );
    insta::assert_json_snapshot!(
        "history_failed",
        redact(&product.get(&format!("/api/v1/executions/{failed}/history")).await.body)
    );

    let attempts = product
        .get(&format!("/api/v1/executions/{failed}/nodes/b/attempts"))
        .await;
    assert_eq!(attempts.body["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        code(&product.get(&format!("/api/v1/executions/{failed}/nodes/zzz")).await),
        "NODE_NOT_FOUND"
    );
    let whole = product
        .get(&format!("/api/v1/executions/{completed}?include=processedWorkflow"))
        .await;
    assert_eq!(whole.body["processedWorkflow"]["forest"]["roots"], json!(["first"]));
    let page = product
        .get(&format!("/api/v1/executions/{completed}/history?limit=1"))
        .await;
    assert_eq!(
        (&page.body["items"][0]["seq"], &page.body["next"]),
        (&json!(1), &json!("1"))
    );
}

/// Ids and times are not ours to choose.
fn redacted(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| (name, redacted(value)))
                .collect(),
        ),
        Value::Array(items) => items.into_iter().map(redacted).collect(),
        Value::String(text) => {
            let hexadecimal = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            match text.split_once('/') {
                _ if text.ends_with('Z') && text.len() == 24 => "<time>".into(),
                _ if hexadecimal(&text) => "<id>".into(),
                Some((id, rest)) if hexadecimal(id) => format!("<id>/{rest}").into(),
                _ => text.into(),
            }
        }
        other => other,
    }
}

#[tokio::test]
async fn executions_are_listed_paused_resumed_and_canceled() {
    let product = Product::with(&[PARKED]).await;
    let start = product
        .send("POST", "/api/v1/workflows/parked/executions", &[], "")
        .await;
    let id = start.body["id"].as_str().unwrap().to_owned();
    let at = format!("/api/v1/executions/{id}");
    let paused = product.send("POST", &format!("{at}/pause"), &[], "").await;
    assert_eq!(
        (paused.status, &paused.body["unchanged"]),
        (StatusCode::OK, &json!(false))
    );
    assert_eq!(product.get(&at).await.body["paused"], true);
    assert_eq!(
        product.send("POST", &format!("{at}/pause"), &[], "").await.body["unchanged"],
        true
    );
    // Only a command that has a name leaves something where it changes nothing.
    let named = [("idempotency-key", "again")];
    let noted = product.send("POST", &format!("{at}/pause"), &named, "").await;
    assert_eq!(noted.body["unchanged"], true);
    let history = product.get(&format!("{at}/history")).await.body;
    let entries = history["items"].as_array().unwrap().iter();
    let noted = entries.filter(|entry| entry["event"] == "unchanged");
    let noted: Vec<&Value> = noted.map(|entry| &entry["command"]).collect();
    assert_eq!(noted, [&json!("again")]);
    product.send("POST", &format!("{at}/resume"), &[], "").await;
    assert_eq!(product.get(&at).await.body["paused"], false);
    assert_eq!(
        code(
            &product
                .send("POST", &format!("{at}/cancel"), &[], r#"{"raeson": 1}"#)
                .await
        ),
        "INVALID_REQUEST"
    );
    product
        .send("POST", &format!("{at}/cancel"), &[], r#"{"reason": "enough"}"#)
        .await;
    let ended = product.get(&at).await;
    assert_eq!(
        (&ended.body["status"], &ended.body["error"]["message"]),
        (&json!("canceled"), &json!("enough"))
    );
    assert_eq!(
        code(&product.send("POST", &format!("{at}/pause"), &[], "").await),
        "EXECUTION_ENDED"
    );

    let listed = product
        .listed("/api/v1/executions?workflow=parked&status=canceled")
        .await;
    assert_eq!(listed["items"][0]["id"], id.as_str());
    let prefix = &id[..20];
    assert_eq!(
        product.get(&format!("/api/v1/executions?idPrefix={prefix}")).await.body["items"][0]["id"],
        id.as_str()
    );
    let of_workflow = product.get("/api/v1/workflows/parked/executions?status=failed").await;
    assert_eq!(of_workflow.body["items"], json!([]));
}

/// Ids of the listed executions.
async fn ids(product: &Product, path: &str) -> BTreeSet<String> {
    let reply = product.get(path).await;
    assert_eq!(reply.status, StatusCode::OK, "{path}: {reply:?}");
    let items = reply.body["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn executions_are_found_by_tag_business_key_and_text() {
    let charges = FAILING
        .replace("id: failing", "id: charges")
        .replace(
            "name: Failing",
            "name: Überweisung\nmetadata: { tags: [billing, 'a & b'] }",
        )
        .replace("code: NO_LUCK", "code: NO_LUCK\n      message: 100% of Card_7 declined");
    let orders = CHAIN
        .replace("id: chain", "id: orders")
        .replace("name: Chain", "name: Chain\nmetadata: { tags: [billing] }");
    let product = Product::with(&[&charges, &orders, CHAIN]).await;
    let charge = product.run("charges", r#"{"executionKey": "Order-1"}"#).await;
    let order = product
        .run("orders", r#"{"input": {"x": 1}, "executionKey": "order-10"}"#)
        .await;
    let chain = product.run("chain", r#"{"input": {"x": 1}}"#).await;
    for ended in [
        "workflow=charges&status=failed",
        "workflow=orders&status=completed",
        "workflow=chain&status=completed",
    ] {
        product.listed(&format!("/api/v1/executions?{ended}")).await;
    }

    let listed = product.get("/api/v1/executions?businessKey=Order-1").await;
    let shown = &listed.body["items"][0];
    assert_eq!(
        [
            &shown["workflowName"],
            &shown["tags"],
            &shown["errorCode"],
            &shown["errorMessage"],
            &shown["executionKey"],
        ],
        [
            &json!("Überweisung"),
            &json!(["billing", "a & b"]),
            &json!("NO_LUCK"),
            &json!("100% of Card_7 declined"),
            &json!("Order-1"),
        ]
    );
    let id_part = format!("text={}", chain[4..].to_ascii_uppercase());
    for (query, expected) in [
        ("tag=billing", vec![&charge, &order]),
        ("tag=a%20%26%20b", vec![&charge]),
        ("tag=Billing", vec![]),
        ("tag=bill", vec![]),
        ("tag=billing&status=failed", vec![&charge]),
        ("tag=billing&status=completed", vec![&order]),
        ("tag=billing&workflow=orders", vec![&order]),
        ("tag=billing&workflow=chain", vec![]),
        ("businessKey=Order-1", vec![&charge]),
        ("businessKey=order-1", vec![]),
        ("businessKey=order-10&tag=billing", vec![&order]),
        ("businessKey=order-10&status=failed", vec![]),
        ("text=ORDER", vec![&charge, &order]),
        ("text=%C3%BCBERWEISUNG", vec![&charge]),
        ("text=100%25", vec![&charge]),
        ("text=d_7%20DECLINED", vec![&charge]),
        ("text=_", vec![&charge]),
        ("text=%25%25", vec![]),
        ("text=cHAIN", vec![&order, &chain]),
        ("text=chain&tag=billing&status=completed", vec![&order]),
        (id_part.as_str(), vec![&chain]),
    ] {
        let expected: BTreeSet<String> = expected.into_iter().cloned().collect();
        assert_eq!(
            ids(&product, &format!("/api/v1/executions?{query}")).await,
            expected,
            "{query}"
        );
    }
    let of_workflow = ids(&product, "/api/v1/workflows/orders/executions?tag=billing&text=10").await;
    assert_eq!(of_workflow, BTreeSet::from([order.clone()]));
    // Page by page.
    let first = product.get("/api/v1/executions?tag=billing&limit=1").await.body;
    let cursor = first["next"].as_str().unwrap();
    let second = product
        .get(&format!("/api/v1/executions?tag=billing&limit=1&cursor={cursor}"))
        .await
        .body;
    let both = [&first, &second].map(|page| page["items"][0]["id"].as_str().unwrap().to_owned());
    assert_eq!(BTreeSet::from(both), BTreeSet::from([charge, order]));
    assert!(second["next"].is_null(), "{second}");

    let long = format!("text={}", "x".repeat(201));
    for (query, part) in [
        ("tag=", "leave `tag` out"),
        ("businessKey=", "leave `businessKey` out"),
        ("text=", "leave `text` out"),
        ("text=a%0Ab", "one line"),
        (long.as_str(), "`businessKey`"),
    ] {
        let refused = product.get(&format!("/api/v1/executions?{query}")).await;
        assert_eq!(
            (refused.status.as_u16(), code(&refused).as_str()),
            (400, "INVALID_PARAMETER"),
            "{query}"
        );
        let hint = refused.body["hint"].as_str().unwrap();
        assert!(hint.contains(part), "{query}: {hint}");
    }
    let slip = product.get("/api/v1/executions?tags=billing").await;
    assert_eq!(code(&slip), "INVALID_PARAMETER");
    assert!(slip.body["detail"].as_str().unwrap().contains("`tag`"), "{slip:?}");
}

#[tokio::test]
async fn the_server_tells_how_it_is() {
    let product = Product::new().await;
    assert_eq!(product.get("/livez").await.status, StatusCode::OK);
    let ready = product.get("/readyz").await;
    assert_eq!((ready.status, &ready.body["status"]), (StatusCode::OK, &json!("ok")));
    product.app.shutdown().await;
    assert_eq!(product.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn overload_is_answered_with_a_time_to_come_back() {
    let busy = r#"
id: busy
name: Busy
settings: { onFailure: failFast }
nodes:
  - { id: a, type: function, data: { handlerId: sleep, ms: 600000, timeout: 600000 } }
edges: []
"#;
    let product = Product::configured(&[busy], |settings| settings.engine.running_max = 1).await;
    let start = "/api/v1/workflows/busy/executions";
    assert_eq!(product.send("POST", start, &[], "").await.status, StatusCode::ACCEPTED);
    let refused = product.send("POST", start, &[], "").await;
    assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (429, "OVERLOADED"));
    assert!(header(&refused, "retry-after").parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn headers_are_checked_too() {
    let product = Product::with(&[CHAIN]).await;
    let mut headers = HeaderMap::new();
    headers.insert("idempotency-key", "x".repeat(300).parse().unwrap());
    let mut request = Request::post("/api/v1/workflows/chain/executions")
        .body(Body::empty())
        .unwrap();
    *request.headers_mut() = headers;
    let reply = product.reply(request).await;
    assert_eq!(
        (reply.status.as_u16(), code(&reply).as_str()),
        (400, "INVALID_PARAMETER")
    );
}

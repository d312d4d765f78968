//! Who is let in where, and what is left on record of it: every route, every role, every kind of key.
#![allow(clippy::unwrap_used)]

mod product;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use futures::StreamExt;
use product::{CHAIN, PARKED, Product, Reply};
use serde_json::{Value, json};
use troupe::auth::{KEYS_SEEN_WITHIN, Token};
use troupe::routes::ROUTES;
use troupe::wiring::Extras;
use troupe_config::{SecretText, Settings};
use troupe_core::Timestamp;
use troupe_ports::{ApiKey, Role};

const BOOTSTRAP: &str = "a-bootstrap-key-of-this-test-0123456789";
const PATIENCE: Duration = Duration::from_secs(60);

/// Whom each route answers, said a second time: whoever adds or changes a route says it here too.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("GET", "/api/v1/workflows", "viewer"),
    ("POST", "/api/v1/workflows", "editor"),
    ("POST", "/api/v1/workflows/validate", "viewer"),
    ("GET", "/api/v1/workflows/{id}", "viewer"),
    ("PUT", "/api/v1/workflows/{id}", "editor"),
    ("DELETE", "/api/v1/workflows/{id}", "editor"),
    ("GET", "/api/v1/workflows/{id}/versions", "viewer"),
    ("GET", "/api/v1/workflows/{id}/analysis", "viewer"),
    ("GET", "/api/v1/workflows/{id}/executions", "viewer"),
    ("POST", "/api/v1/workflows/{id}/executions", "operator"),
    ("POST", "/api/v1/workflows/{id}/pause", "operator"),
    ("POST", "/api/v1/workflows/{id}/resume", "operator"),
    ("POST", "/api/v1/workflows/{id}/stop", "operator"),
    ("POST", "/api/v1/workflows/{id}/release", "operator"),
    ("GET", "/api/v1/controls", "viewer"),
    ("POST", "/api/v1/controls/pause", "operator"),
    ("POST", "/api/v1/controls/resume", "operator"),
    ("POST", "/api/v1/controls/stop", "operator"),
    ("POST", "/api/v1/controls/release", "operator"),
    ("GET", "/api/v1/executions", "viewer"),
    ("GET", "/api/v1/executions/{id}", "viewer"),
    ("GET", "/api/v1/executions/{id}/history", "viewer"),
    ("GET", "/api/v1/executions/{id}/values/{hash}", "viewer"),
    ("GET", "/api/v1/executions/{id}/nodes/{node}", "viewer"),
    ("GET", "/api/v1/executions/{id}/nodes/{node}/attempts", "viewer"),
    ("POST", "/api/v1/executions/{id}/cancel", "operator"),
    ("POST", "/api/v1/executions/{id}/pause", "operator"),
    ("POST", "/api/v1/executions/{id}/resume", "operator"),
    ("POST", "/api/v1/executions/{id}/rerun", "operator"),
    ("POST", "/api/v1/executions/{id}/retry", "operator"),
    ("POST", "/api/v1/executions/{id}/variables", "operator"),
    ("POST", "/api/v1/executions/{id}/nodes/{node}/complete", "worker"),
    ("POST", "/api/v1/executions/{id}/nodes/{node}/fail", "worker"),
    ("POST", "/api/v1/executions/{id}/nodes/{node}/skip", "operator"),
    ("POST", "/api/v1/executions/{id}/nodes/{node}/heartbeat", "worker"),
    ("GET", "/api/v1/hooks/{id}", "open"),
    ("POST", "/api/v1/hooks/{id}", "open"),
    ("PUT", "/api/v1/hooks/{id}", "open"),
    ("POST", "/api/v1/hooks/resume/{token}", "open"),
    ("PUT", "/api/v1/hooks/resume/{token}", "open"),
    ("GET", "/api/v1/breakers", "viewer"),
    ("POST", "/api/v1/breakers/{target}/open", "operator"),
    ("POST", "/api/v1/breakers/{target}/close", "operator"),
    ("POST", "/api/v1/breakers/{target}/reset", "operator"),
    ("GET", "/api/v1/members", "viewer"),
    ("GET", "/api/v1/members/controls", "member"),
    ("POST", "/api/v1/members/controls", "member"),
    ("GET", "/api/v1/stream", "viewer"),
    ("GET", "/api/v1/keys", "admin"),
    ("POST", "/api/v1/keys", "admin"),
    ("DELETE", "/api/v1/keys/{id}", "admin"),
    ("GET", "/api/v1/audit", "admin"),
    ("GET", "/livez", "open"),
    ("GET", "/readyz", "open"),
    ("GET", "/metrics", "any key"),
    ("GET", "/docs/errors/{code}", "open"),
];

/// Whether a role gets through to what `wanted` says.
fn is_enough(role: &str, wanted: &str) -> bool {
    let ladder = ["viewer", "operator", "editor", "admin"];
    let rung = |role: &str| ladder.iter().position(|known| *known == role);
    match wanted {
        "open" | "any key" => true,
        // No key is enough: members sign what they ask.
        "member" => false,
        "worker" => role == "worker" || rung(role) >= rung("operator"),
        least => rung(role).is_some_and(|rung_of| Some(rung_of) >= rung(least)),
    }
}

async fn guarded(adjust: impl FnOnce(&mut Settings)) -> Product {
    let extras = Extras {
        keys_required: true,
        ..Extras::default()
    };
    let adjust = |settings: &mut Settings| {
        settings.bootstrap_key = Some(SecretText::new(BOOTSTRAP.to_owned()));
        adjust(settings);
    };
    Product::with_extras(&[], adjust, extras).await
}

async fn send(product: &Product, key: &str, method: &str, path: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {key}");
    product.send(method, path, &[("authorization", &bearer)], body).await
}

/// A new key: its id and the whole of it.
async fn create(product: &Product, name: &str, role: &str) -> (String, String) {
    let body = json!({"name": name, "role": role}).to_string();
    let reply = send(product, BOOTSTRAP, "POST", "/api/v1/keys", &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.headers["cache-control"], "no-store");
    let text = |name: &str| reply.body[name].as_str().unwrap().to_owned();
    assert!(text("key").starts_with(&format!("troupe_{}_", text("id"))));
    (text("id"), text("key"))
}

fn code(reply: &Reply) -> &str {
    reply.body["code"].as_str().unwrap_or_default()
}

/// Audit rows that match, once there are as many.
async fn rows(product: &Product, query: &str, count: usize) -> Vec<Value> {
    let (begun, path) = (Instant::now(), format!("/api/v1/audit?limit=500&{query}"));
    loop {
        let reply = send(product, BOOTSTRAP, "GET", &path, "").await;
        let items = reply.body["items"].as_array().unwrap_or_else(|| panic!("{reply:?}"));
        if items.len() >= count {
            return items.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "{query}: {items:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn every_route_says_whom_it_answers_and_this_test_says_so_too() {
    let said: BTreeSet<(&str, &str)> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
    let expected: BTreeSet<(&str, &str)> = EXPECTED.iter().map(|(method, path, _)| (*method, *path)).collect();
    assert_eq!(said, expected);
    assert_eq!(ROUTES.len(), EXPECTED.len());
}

#[tokio::test]
async fn every_route_answers_every_role_and_every_kind_of_key_as_the_table_says() {
    let product = guarded(|_| {}).await;
    let expired = Token::fresh().unwrap();
    let past = ApiKey {
        id: expired.id,
        name: "past".to_owned(),
        role: Role::Admin,
        secret: expired.hash(),
        created_at: Timestamp(1),
        created_by: None,
        expires_at: Some(Timestamp(2)),
        revoked_at: None,
        used_at: None,
    };
    product.app.keys.create(past).await.unwrap();
    let (gone, revoked) = create(&product, "gone", "admin").await;
    let revoking = send(&product, BOOTSTRAP, "DELETE", &format!("/api/v1/keys/{gone}"), "").await;
    assert_eq!(
        (revoking.status.as_u16(), &revoking.body["status"]),
        (200, &json!("revoked"))
    );
    let mut keys = Vec::new();
    for role in Role::ALL {
        keys.push((role.name(), create(&product, role.name(), role.name()).await.1));
    }
    let (_, viewer) = &keys[1];
    // Of another key, with the right id, cut off.
    let digits = if viewer.ends_with('0') { "1" } else { "0" };
    let forged = format!("{}{digits}", &viewer[..viewer.len() - 1]);
    let unknown = Token::fresh().unwrap().expose();
    let cut = viewer[..viewer.len() - 1].to_owned();
    let bad = [
        unknown,
        forged,
        cut,
        expired.expose(),
        revoked,
        String::new(),
        "x".repeat(40),
    ];

    for (method, path, wanted) in EXPECTED {
        let path = path
            .replace("{id}", "none")
            .replace("{node}", "n")
            .replace("{hash}", "h");
        let path = path
            .replace("{token}", "t")
            .replace("{target}", "no")
            .replace("{code}", "NONE");
        let place = format!("{method} {path}");
        let without = product.send(method, &path, &[], "").await;
        let basic = product
            .send(method, &path, &[("authorization", "Basic Zm9v")], "")
            .await;
        let mut strangers = vec![without, basic];
        for key in &bad {
            strangers.push(send(&product, key, method, &path, "").await);
        }
        for reply in strangers {
            if *wanted == "open" {
                assert!(!matches!(reply.status.as_u16(), 401 | 403), "{place}: {reply:?}");
            } else {
                assert_eq!(
                    (reply.status.as_u16(), code(&reply)),
                    (401, "UNAUTHENTICATED"),
                    "{place}"
                );
                assert_eq!(reply.headers["www-authenticate"], "Bearer", "{place}");
            }
        }
        for (role, key) in &keys {
            let reply = send(&product, key, method, &path, "").await;
            if is_enough(role, wanted) {
                assert!(
                    !matches!(reply.status.as_u16(), 401 | 403 | 500),
                    "{place} as {role}: {reply:?}"
                );
            } else {
                assert_eq!(
                    (reply.status.as_u16(), code(&reply)),
                    (403, "FORBIDDEN"),
                    "{place} as {role}"
                );
            }
        }
        let reply = send(&product, BOOTSTRAP, method, &path, "").await;
        let is_refused = matches!(reply.status.as_u16(), 401 | 403);
        assert_eq!(is_refused, *wanted == "member", "{place}: {reply:?}");
    }
}

#[tokio::test]
async fn what_is_no_line_of_the_table_tells_nothing() {
    let product = guarded(|_| {}).await;
    let head = product.send("HEAD", "/api/v1/workflows", &[], "").await;
    assert_eq!(head.status, 401, "HEAD is what GET is");
    assert_eq!(
        send(&product, BOOTSTRAP, "HEAD", "/api/v1/workflows", "").await.status,
        200
    );
    assert_eq!(product.get("/api/v1/nothing").await.status, 404);
    let method = product.send("PATCH", "/api/v1/workflows", &[], "").await;
    assert_eq!((method.status.as_u16(), code(&method)), (405, "METHOD_NOT_ALLOWED"));
    // With a login every name of the server will do.
    let elsewhere = [
        ("host", "troupe.example.com"),
        ("authorization", &format!("Bearer {BOOTSTRAP}")),
    ];
    assert_eq!(
        product.send("GET", "/api/v1/workflows", &elsewhere, "").await.status,
        200
    );
}

#[tokio::test]
async fn metrics_may_be_open() {
    let closed = guarded(|_| {}).await;
    assert_eq!(closed.get("/metrics").await.status, 401);
    let open = guarded(|settings| settings.metrics_open = true).await;
    // This process exposes none.
    assert_eq!(code(&open.get("/metrics").await), "ROUTE_NOT_FOUND");
}

#[tokio::test]
async fn only_an_administrator_stops_everything() {
    let product = guarded(|_| {}).await;
    send(&product, BOOTSTRAP, "POST", "/api/v1/workflows", CHAIN).await;
    let (_, operator) = create(&product, "ops", "operator").await;
    for verb in ["stop", "release"] {
        let path = format!("/api/v1/controls/{verb}");
        let all = send(&product, &operator, "POST", &path, r#"{"all": true}"#).await;
        assert_eq!(code(&all), "FORBIDDEN", "{verb}");
        let one = send(&product, &operator, "POST", &path, r#"{"workflow": "chain"}"#).await;
        assert_eq!(one.status, 200, "{one:?}");
        let all = send(&product, BOOTSTRAP, "POST", &path, r#"{"all": true}"#).await;
        assert_eq!(all.status, 200, "{all:?}");
    }
}

#[tokio::test]
async fn entries_and_controls_name_who_caused_them() {
    let product = guarded(|_| {}).await;
    send(&product, BOOTSTRAP, "POST", "/api/v1/workflows", PARKED).await;
    let (_, ada) = create(&product, "ada", "operator").await;
    let (_, bob) = create(&product, "bob", "operator").await;
    let started = send(&product, &ada, "POST", "/api/v1/workflows/parked/executions", "").await;
    let id = started.body["id"].as_str().unwrap();
    let at = format!("/api/v1/executions/{id}");
    for (verb, body) in [
        ("pause", ""),
        ("variables", r#"{"x": 1}"#),
        ("resume", ""),
        ("cancel", ""),
    ] {
        let done = send(&product, &bob, "POST", &format!("{at}/{verb}"), body).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    let history = send(&product, &ada, "GET", &format!("{at}/history"), "").await;
    let who: Vec<&str> = history.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["principal"].as_str())
        .collect();
    assert_eq!(who, ["ada", "bob", "bob", "bob", "bob"]);
    send(&product, &bob, "POST", "/api/v1/workflows/parked/pause", "").await;
    let controls = send(&product, &ada, "GET", "/api/v1/controls", "").await;
    assert_eq!(controls.body["items"][0]["by"], "bob");
}

#[tokio::test]
async fn every_change_leaves_a_row_and_so_does_a_refused_one() {
    let product = guarded(|_| {}).await;
    let (_, editor) = create(&product, "eve", "editor").await;
    let (viewer_id, viewer) = create(&product, "vic", "viewer").await;
    let bearer = format!("Bearer {editor}");
    let named = [("authorization", bearer.as_str()), ("x-request-id", "req-1")];
    let stored = product.send("POST", "/api/v1/workflows", &named, CHAIN).await;
    assert_eq!(stored.headers["x-request-id"], "req-1");
    let changed = CHAIN.replace("name: Chain", "name: Longer chain");
    let put = send(&product, &editor, "PUT", "/api/v1/workflows/chain", &changed).await;
    assert!(put.headers["x-request-id"].len() == 32, "{put:?}");
    send(&product, &editor, "PUT", "/api/v1/workflows/chain", &changed).await;
    send(&product, &editor, "PUT", "/api/v1/workflows/chain", "{").await;
    send(&product, &viewer, "PUT", "/api/v1/workflows/chain", CHAIN).await;
    send(&product, &editor, "DELETE", "/api/v1/workflows/chain", "").await;
    let found = rows(&product, "target=workflow:chain", 6).await;
    let shown = |row: &Value| -> Vec<String> {
        let names = ["principal", "action", "outcome"].iter();
        names.map(|name| row[name].as_str().unwrap().to_owned()).collect()
    };
    let mut expected = vec![
        vec!["eve", "workflow.archive", "ok"],
        vec!["vic", "workflow.put", "FORBIDDEN"],
        vec!["eve", "workflow.put", "INVALID_DEFINITION"],
        vec!["eve", "workflow.put", "ok"],
        vec!["eve", "workflow.put", "ok"],
        vec!["eve", "workflow.create", "ok"],
    ];
    let code_of_text = found
        .iter()
        .map(shown)
        .find(|row| row[2].starts_with("INVALID"))
        .unwrap();
    expected[2][2] = &code_of_text[2];
    let mut all: Vec<_> = found.iter().map(shown).collect();
    // Rows of one millisecond are ordered by chance.
    all.sort_unstable();
    expected.sort_unstable();
    assert_eq!(all, expected);

    let of = |action: &str| -> Vec<&Value> {
        let matching = found
            .iter()
            .filter(|row| row["action"] == action && row["outcome"] == "ok");
        matching.collect()
    };
    let created = of("workflow.create")[0];
    assert_eq!(
        (&created["requestId"], &created["before"]),
        (&json!("req-1"), &Value::Null)
    );
    let (changes, archived) = (of("workflow.put"), of("workflow.archive")[0]);
    let real = changes.iter().find(|row| row["before"] != row["after"]).unwrap();
    let idle = changes.iter().find(|row| row["before"] == row["after"]).unwrap();
    assert_eq!(real["before"], created["after"]);
    assert_eq!((&idle["before"], &archived["before"]), (&real["after"], &real["after"]));
    assert_eq!(archived["after"], Value::Null);

    // Keys, and what became of one.
    let path = format!("/api/v1/keys/{viewer_id}");
    send(&product, BOOTSTRAP, "DELETE", &path, "").await;
    let found = rows(&product, &format!("target=key:{viewer_id}"), 2).await;
    assert_eq!(shown(&found[0]), ["bootstrap", "key.revoke", "ok"]);
    assert_eq!(found[0]["before"], found[1]["after"]);
    assert_ne!(found[0]["before"], found[0]["after"]);
}

#[tokio::test]
async fn commands_leave_a_row_and_starts_do_not() {
    let product = guarded(|_| {}).await;
    send(&product, BOOTSTRAP, "POST", "/api/v1/workflows", PARKED).await;
    let (_, key) = create(&product, "ada", "operator").await;
    let started = send(&product, &key, "POST", "/api/v1/workflows/parked/executions", "").await;
    let id = started.body["id"].as_str().unwrap();
    send(&product, &key, "POST", &format!("/api/v1/executions/{id}/cancel"), "").await;
    send(
        &product,
        &key,
        "POST",
        &format!("/api/v1/executions/{id}/nodes/wait/complete"),
        "",
    )
    .await;
    send(
        &product,
        &key,
        "POST",
        "/api/v1/controls/pause",
        r#"{"nodeType": "http"}"#,
    )
    .await;
    let found = rows(&product, "principal=ada", 3).await;
    let mut shown: Vec<String> = found
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap();
            format!("{} {} {}", text("action"), text("target"), text("outcome"))
        })
        .collect();
    shown.sort_unstable();
    assert_eq!(
        shown,
        [
            "control.pause nodeType:http ok".to_owned(),
            format!("execution.cancel execution:{id} ok"),
            format!("node.complete execution:{id} EXECUTION_ENDED"),
        ]
    );
}

#[tokio::test]
async fn a_client_that_goes_away_ends_neither_its_change_nor_the_row() {
    let product = guarded(|_| {}).await;
    let request = Request::post("/api/v1/workflows").header("authorization", format!("Bearer {BOOTSTRAP}"));
    let mut call = Box::pin(product.call(request.body(Body::from(CHAIN)).unwrap()));
    assert!(futures::poll!(&mut call).is_pending());
    drop(call);
    let found = rows(&product, "target=workflow:chain", 1).await;
    assert_eq!(found[0]["outcome"], "ok");
}

#[tokio::test]
async fn a_server_without_a_login_records_too() {
    let product = Product::with(&[CHAIN]).await;
    let reply = product.get("/api/v1/audit?target=workflow:chain").await;
    assert_eq!(reply.body["items"][0]["principal"], "local", "{reply:?}");
    let narrow = product.get("/api/v1/audit?target=chain").await;
    assert_eq!(code(&narrow), "INVALID_PARAMETER");
}

#[tokio::test]
async fn rows_and_keys_are_paged() {
    let product = guarded(|_| {}).await;
    for number in 0..5 {
        create(&product, &format!("key-{number}"), "viewer").await;
    }
    for path in ["/api/v1/keys", "/api/v1/audit"] {
        let (mut seen, mut cursor) = (BTreeSet::new(), String::new());
        loop {
            let reply = send(&product, BOOTSTRAP, "GET", &format!("{path}?limit=2{cursor}"), "").await;
            for item in reply.body["items"].as_array().unwrap() {
                assert!(seen.insert(item["id"].as_str().unwrap().to_owned()));
                assert!(!item.to_string().contains("secret"));
            }
            let Some(next) = reply.body["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen.len(), 5, "{path}");
    }
}

#[tokio::test]
async fn a_revocation_by_another_server_is_seen_in_time_and_ends_streams() {
    let product = guarded(|_| {}).await;
    let (id, key) = create(&product, "vic", "viewer").await;
    let request = Request::get("/api/v1/stream?topics=executions").header("authorization", format!("Bearer {key}"));
    let stream = product.call(request.body(Body::empty()).unwrap()).await;
    assert_eq!(stream.status(), 200);
    assert_eq!(send(&product, &key, "GET", "/api/v1/workflows", "").await.status, 200);
    // Past this server, as another one would.
    product
        .app
        .keys
        .revoke(id.parse().unwrap(), product.app.now())
        .await
        .unwrap();
    let begun = Instant::now();
    let refused = loop {
        let reply = send(&product, &key, "GET", "/api/v1/workflows", "").await;
        if reply.status != 200 {
            break reply;
        }
        assert!(begun.elapsed() < PATIENCE, "it is never seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        begun.elapsed() < KEYS_SEEN_WITHIN + Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(code(&refused), "UNAUTHENTICATED");
    assert!(refused.text.contains("vic was revoked"), "{refused:?}");
    let rest = stream.into_body().into_data_stream().count();
    tokio::time::timeout(PATIENCE, rest).await.expect("the stream ends");
}

#[tokio::test]
async fn a_key_of_another_server_is_known_at_once_and_its_use_is_noted() {
    let product = guarded(|_| {}).await;
    let (token, now) = (Token::fresh().unwrap(), product.app.now());
    let key = ApiKey {
        id: token.id,
        name: "new".to_owned(),
        role: Role::Viewer,
        secret: token.hash(),
        created_at: now,
        created_by: None,
        expires_at: None,
        revoked_at: None,
        used_at: None,
    };
    product.app.keys.create(key).await.unwrap();
    let begun = Instant::now();
    while send(&product, &token.expose(), "GET", "/api/v1/workflows", "")
        .await
        .status
        != 200
    {
        assert!(
            begun.elapsed() < KEYS_SEEN_WITHIN,
            "an unknown key is looked up before the next reading"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while product.app.keys.get(token.id).await.unwrap().unwrap().used_at.is_none() {
        assert!(begun.elapsed() < PATIENCE, "its use is never noted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_name_is_given_once() {
    let product = guarded(|_| {}).await;
    let (id, _) = create(&product, "ci", "viewer").await;
    let again = send(
        &product,
        BOOTSTRAP,
        "POST",
        "/api/v1/keys",
        r#"{"name": "ci", "role": "admin"}"#,
    )
    .await;
    assert_eq!((again.status.as_u16(), code(&again)), (409, "KEY_NAME_TAKEN"));
    let past = r#"{"name": "x", "role": "admin", "expiresAt": "2020-01-01T00:00:00Z"}"#;
    let past = send(&product, BOOTSTRAP, "POST", "/api/v1/keys", past).await;
    assert_eq!(code(&past), "INVALID_REQUEST");
    let path = format!("/api/v1/keys/{id}");
    assert_eq!(send(&product, BOOTSTRAP, "DELETE", &path, "").await.status, 200);
    create(&product, "ci", "viewer").await;
    let missing = send(&product, BOOTSTRAP, "DELETE", "/api/v1/keys/0123456789abcdef", "").await;
    assert_eq!((missing.status.as_u16(), code(&missing)), (404, "KEY_NOT_FOUND"));
}

#[tokio::test]
async fn a_server_that_nobody_could_ask_does_not_open() {
    let store = tempfile::tempdir().unwrap();
    let settings = troupe_config::Sources::default().load().unwrap();
    let extras = Extras {
        keys_required: true,
        sandbox_program: Some(env!("CARGO_BIN_EXE_troupe").into()),
        ..Extras::default()
    };
    let refused = troupe::wiring::open(settings, store.path(), extras).await;
    assert_eq!(refused.err().unwrap().code(), "NO_API_KEYS");
}

//! Limits and breakers over the API: a target that is down and comes back, executions that wait for others.
#![allow(clippy::unwrap_used)]

mod product;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use product::Product;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use troupe_config::AllowedTarget;

/// How long a breaker stays open.
const OPEN: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Site {
    well: AtomicBool,
    calls: AtomicUsize,
}

/// A loopback server; its authority.
async fn serve(site: Arc<Site>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let answer = move || {
        let site = Arc::clone(&site);
        async move {
            site.calls.fetch_add(1, Ordering::SeqCst);
            let response: Response = if site.well.load(Ordering::SeqCst) {
                "well".into_response()
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "down").into_response()
            };
            response
        }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(answer))).await });
    authority
}

async fn breaker(product: &Product) -> Option<Value> {
    let reply = product.get("/api/v1/breakers").await;
    assert_eq!(reply.status, StatusCode::OK);
    reply.body["items"].as_array().unwrap().first().cloned()
}

async fn breaker_where(product: &Product, what: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
    for _ in 0..2_000 {
        let shown = breaker(product).await;
        if what(shown.as_ref()) {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never stands so: {:?}", breaker(product).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_down_is_left_alone_until_it_is_well() {
    let site = Arc::new(Site::default());
    let authority = serve(Arc::clone(&site)).await;
    let definition = json!({"id": "ask", "name": "Ask", "edges": [], "nodes": [
        {"id": "call", "type": "http", "data": {"method": "GET", "url": format!("http://{authority}/"),
            "retryPolicy": {"maxAttempts": 9, "initialDelay": 1, "backoffStrategy": "fixed", "jitter": "none"}}},
    ]});
    let allowed = AllowedTarget::parse(&authority).unwrap();
    let product = Product::configured(&[&definition.to_string()], |settings| {
        settings.http.allow.push(allowed);
        let breakers = settings.breakers.as_mut().unwrap();
        breakers.calls_min = 4;
        (breakers.open, breakers.open_max) = (OPEN, OPEN);
    })
    .await;
    assert_eq!(breaker(&product).await, None);
    let mut ids = Vec::new();
    for _ in 0..12 {
        let reply = product
            .send("POST", "/api/v1/workflows/ask/executions", &[], "{}")
            .await;
        ids.push(reply.body["id"].as_str().unwrap().to_owned());
    }
    let shown = breaker_where(&product, |shown| shown.is_some_and(|shown| shown["parked"] == 12))
        .await
        .unwrap();
    assert_eq!(shown["target"], format!("http:{authority}"));
    // It may be a canary at the moment, or about to say so.
    let mut shown = Value::Null;
    for _ in 0..2_000 {
        shown = product.get(&format!("/api/v1/executions/{}", ids[11])).await.body;
        if shown["nodeResults"]["call"]["waiting"]["reason"] == "breaker" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(shown["nodeResults"]["call"]["waiting"]["reason"], "breaker", "{shown}");
    // A few canaries go, one at a time; the rest costs nothing.
    let (begun, before) = (Instant::now(), site.calls.load(Ordering::SeqCst));
    tokio::time::sleep(Duration::from_millis(650)).await;
    let canaries = site.calls.load(Ordering::SeqCst) - before;
    let most = 1 + begun.elapsed().as_millis() / OPEN.as_millis();
    assert!((1..=most).contains(&(canaries as u128)), "{canaries} of {most}");
    site.well.store(true, Ordering::SeqCst);
    let mut attempts = 0;
    for id in &ids {
        let body = loop {
            let body = product.get(&format!("/api/v1/executions/{id}")).await.body;
            if body["endTime"].is_string() {
                break body;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(body["status"], "completed", "{body}");
        attempts += body["nodeResults"]["call"]["attempts"].as_array().unwrap().len();
    }
    assert_eq!(
        attempts,
        site.calls.load(Ordering::SeqCst),
        "an attempt that is parked is none"
    );
    breaker_where(&product, |shown| shown.is_none()).await;
}

async fn status_is(product: &Product, id: &str, expected: &str) {
    for _ in 0..2_000 {
        let body = product.get(&format!("/api/v1/executions/{id}")).await.body;
        if body["status"] == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{id} is never {expected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_others_of_its_workflow_is_pending() {
    let definition = json!({"id": "one", "name": "One at a time", "edges": [],
        "settings": {"concurrency": {"limit": 1, "key": "trigger.customer"}},
        "nodes": [{"id": "wait", "type": "delay", "data": {"delayType": "fixed", "delayValue": 86_400_000}}]});
    let product = Product::with(&[&definition.to_string()]).await;
    let start = async |customer: &str| {
        let body = json!({"input": {"customer": customer}}).to_string();
        let reply = product
            .send("POST", "/api/v1/workflows/one/executions", &[], &body)
            .await;
        assert_eq!(
            (reply.status, &reply.body["status"]),
            (StatusCode::ACCEPTED, &json!("pending"))
        );
        reply.body["id"].as_str().unwrap().to_owned()
    };
    let first = start("ada").await;
    status_is(&product, &first, "running").await;
    let (second, other) = (start("ada").await, start("bob").await);
    status_is(&product, &other, "running").await;
    status_is(&product, &second, "pending").await;
    let skip = format!("/api/v1/executions/{second}/nodes/wait/skip");
    assert_eq!(
        product.send("POST", &skip, &[], "{}").await.body["code"],
        "NODE_NOT_WAITING"
    );
    let listed = product.listed("/api/v1/executions?status=pending").await;
    assert_eq!(listed["items"][0]["id"], second, "{listed}");
    product
        .send("POST", &format!("/api/v1/executions/{first}/cancel"), &[], "{}")
        .await;
    status_is(&product, &second, "running").await;
    let nothing = product
        .send("POST", "/api/v1/workflows/one/executions", &[], r#"{"input": {}}"#)
        .await;
    assert_eq!(nothing.body["code"], "EXPRESSION_ERROR", "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_opens_and_resets_the_breaker_of_a_host() {
    let site = Arc::new(Site::default());
    site.well.store(true, Ordering::SeqCst);
    let authority = serve(Arc::clone(&site)).await;
    let definition = json!({"id": "ask", "name": "Ask", "edges": [], "nodes": [
        {"id": "call", "type": "http", "data": {"method": "GET", "url": format!("http://{authority}/")}},
    ]});
    let allowed = AllowedTarget::parse(&authority).unwrap();
    let product = Product::configured(&[&definition.to_string()], |settings| settings.http.allow.push(allowed)).await;
    let word = async |verb: &str, body: &str| {
        let path = format!("/api/v1/breakers/http%3A{}/{verb}", authority.replace(':', "%3A"));
        product.send("POST", &path, &[], body).await
    };
    let opened = word("open", r#"{"reason": "they move house"}"#).await;
    assert_eq!(opened.status, StatusCode::OK, "{}", opened.body);
    assert_eq!(opened.body["target"], format!("http:{authority}"));
    assert_eq!(opened.body["inForce"], true);
    let again = word("open", "").await;
    assert_eq!(again.body["unchanged"], true);
    let started = product
        .send("POST", "/api/v1/workflows/ask/executions", &[], "{}")
        .await;
    let id = started.body["id"].as_str().unwrap().to_owned();
    let shown = breaker_where(&product, |shown| shown.is_some_and(|shown| shown["parked"] == 1)).await;
    assert_eq!(shown.unwrap()["held"], "open");
    let controls = product.get("/api/v1/controls").await.body;
    assert_eq!(controls["items"][0]["reason"], "they move house", "{controls}");
    assert_eq!(controls["items"][0]["state"], "open");
    assert_eq!(site.calls.load(Ordering::SeqCst), 0);
    let reset = word("reset", "").await;
    assert_eq!((reset.status, &reset.body["inForce"]), (StatusCode::OK, &json!(false)));
    status_is(&product, &id, "completed").await;
    for (target, body, code) in [
        ("ftp:x", "", "INVALID_PARAMETER"),
        ("http:", "", "INVALID_PARAMETER"),
        ("handler:x", r#"{"scope": 1}"#, "INVALID_REQUEST"),
    ] {
        let path = format!("/api/v1/breakers/{}/open", target.replace(':', "%3A"));
        let refused = product.send("POST", &path, &[], body).await;
        assert_eq!(refused.body["code"], code, "{target}: {}", refused.body);
    }
}

//! Event streams of a whole product in this process: replay, following, resumption, limits.
#![allow(clippy::unwrap_used)]

mod product;

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use product::{CHAIN, PARKED, Product};
use serde_json::{Value, json};

type Heard = (String, Option<String>, Value);

/// A stream that is being read.
struct Listening {
    chunks: axum::body::BodyDataStream,
    text: String,
}

impl Listening {
    /// From now on nothing is missed.
    async fn open(product: &Product, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::get(path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = product.call(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            chunks: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// Reads until `enough` events have come since it was opened: name, id and data of all.
    async fn until(&mut self, enough: usize) -> Vec<Heard> {
        loop {
            let complete: Vec<&str> = self
                .text
                .split_inclusive("\n\n")
                .filter(|event| event.ends_with("\n\n"))
                .collect();
            if complete.len() >= enough {
                return complete.iter().map(|event| read_event(event)).collect();
            }
            let chunk = tokio::time::timeout(std::time::Duration::from_secs(20), self.chunks.next()).await;
            let chunk = chunk.expect("an event comes in time").unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// Reads events until `enough` of them came.
async fn events(product: &Product, path: &str, last: Option<&str>, enough: usize) -> Vec<Heard> {
    Listening::open(product, path, last).await.until(enough).await
}

fn read_event(text: &str) -> Heard {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| Some(line.strip_prefix(name)?.trim_start().to_owned()))
    };
    let data = serde_json::from_str(&field("data:").unwrap()).unwrap();
    (field("event:").unwrap(), field("id:"), data)
}

#[tokio::test]
async fn a_stream_replays_follows_and_resumes() {
    let product = Product::with(&[CHAIN, PARKED]).await;
    let id = product.run("chain", r#"{"input": {"x": 5}}"#).await;
    let path = format!("/api/v1/stream?topics=execution:{id}");
    let all = events(&product, &path, Some("0"), 7).await;
    let names: Vec<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(
        names[..3],
        ["execution.created", "execution.started", "node.scheduled"],
        "{all:?}"
    );
    assert_eq!(names.last(), Some(&"execution.completed"));
    // Only the last event of an entry has an id, and ids ascend.
    let ids: Vec<&String> = all.iter().filter_map(|(_, id, _)| id.as_ref()).collect();
    assert_eq!(ids, ["1", "2", "3"], "{all:?}");
    let rest = events(&product, &path, Some("2"), 2).await;
    assert!(rest.iter().all(|(.., data)| data["sequence"] == 3), "{rest:?}");
    let ahead = events(&product, &path, Some("99"), 1).await;
    assert_eq!(ahead[0].0, "reset");
    assert_eq!(
        ahead[0].1.as_deref(),
        Some("3"),
        "whoever comes back after a reset gets no second one"
    );
}

/// What happens while somebody listens has no other way to him than the bus.
#[tokio::test]
async fn a_stream_hears_of_what_happens_while_it_is_read() {
    let product = Product::with(&[PARKED]).await;
    let mut all = Listening::open(&product, "/api/v1/stream?topics=executions", None).await;
    let start = product
        .send("POST", "/api/v1/workflows/parked/executions", &[], "")
        .await;
    let parked = start.body["id"].as_str().unwrap().to_owned();
    let heard = all.until(2).await;
    assert!(heard.iter().any(|(name, ..)| name == "execution.started"), "{heard:?}");
    let path = format!("/api/v1/stream?topics=execution:{parked}");
    let mut own = Listening::open(&product, &path, Some("0")).await;
    // Whatever there is now: what comes behind it is heard later.
    let before = own.until(1).await.len();
    let cancel = format!("/api/v1/executions/{parked}/cancel");
    product.send("POST", &cancel, &[], "").await;
    let mut heard = own.until(before).await;
    while !heard.iter().any(|(name, ..)| name == "node.canceled") {
        heard = own.until(heard.len() + 1).await;
    }
}

/// What tells two events apart.
fn key(data: &Value) -> (String, u64, String) {
    let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
    let kind = format!("{} {}", text("type"), text("nodeId"));
    (text("execution"), data["sequence"].as_u64().unwrap(), kind)
}

#[tokio::test]
async fn a_stream_of_several_executions_resumes_each_where_it_stood() {
    let product = Product::with(&[CHAIN]).await;
    let mut ids = Vec::new();
    for input in [r#"{"input": {"x": 1}}"#, r#"{"input": {"x": 2}}"#] {
        ids.push(product.run("chain", input).await);
    }
    let cancel = format!("/api/v1/executions/{}/cancel", ids[0]);
    product.send("POST", &cancel, &[], "").await;
    let path = format!("/api/v1/stream?topics=execution:{},execution:{}", ids[0], ids[1]);
    let one = events(
        &product,
        &format!("/api/v1/stream?topics=execution:{}", ids[0]),
        None,
        7,
    )
    .await;
    let all = events(&product, &path, None, one.len() * 2).await;
    assert_eq!(events(&product, &path, Some("0"), all.len()).await.len(), all.len());
    for cut in 0..all.len() {
        let Some(last) = &all[cut].1 else { continue };
        // An entry is whole when its last event, the one with an id, has come.
        let mut whole: BTreeMap<String, u64> = BTreeMap::new();
        for (_, _, data) in all[..=cut].iter().filter(|(_, id, _)| id.is_some()) {
            let (execution, sequence, _) = key(data);
            whole.insert(execution, sequence);
        }
        let mut expected: Vec<_> = all
            .iter()
            .map(|(.., data)| key(data))
            .filter(|(execution, sequence, _)| *sequence > whole.get(execution).copied().unwrap_or_default())
            .collect();
        if expected.is_empty() {
            continue;
        }
        let resumed = events(&product, &path, Some(last), expected.len()).await;
        let mut found: Vec<_> = resumed.iter().map(|(.., data)| key(data)).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "resumed after {last}");
        // In another order of topics too.
        let turned = format!("/api/v1/stream?topics=execution:{},execution:{}", ids[1], ids[0]);
        let mut found: Vec<_> = events(&product, &turned, Some(last), expected.len())
            .await
            .iter()
            .map(|(.., data)| key(data))
            .collect();
        found.sort();
        assert_eq!(found, expected, "resumed after {last}, topics turned");
    }
}

#[tokio::test]
async fn an_id_of_no_event_is_refused() {
    let product = Product::with(&[CHAIN]).await;
    let (first, second) = (product.run("chain", "{}").await, product.run("chain", "{}").await);
    let several = format!("/api/v1/stream?topics=execution:{first},execution:{second}");
    let single = format!("/api/v1/stream?topics=execution:{first}");
    for (path, last) in [
        (&single, "x"),
        (&single, "-1"),
        (&several, "x"),
        (&several, "3"),
        (&several, "xyz:3"),
        (&several, &format!("{first}:x")),
    ] {
        let reply = product.send("GET", path, &[("last-event-id", last)], "").await;
        assert_eq!(
            (reply.status.as_u16(), &reply.body["code"]),
            (400, &json!("INVALID_PARAMETER")),
            "{last}"
        );
    }
    // A sequence is enough where only one execution can be meant, also beside the other topic.
    let path = format!("{single},executions");
    let heard = events(&product, &path, Some("2"), 3).await;
    assert!(heard.iter().any(|(name, ..)| name == "reset"), "{heard:?}");
    // The other topic has no ids, and may still hear of the start.
    let mut ids = heard.iter().filter_map(|(_, id, _)| id.as_deref());
    assert!(ids.all(|id| id == "3"), "{heard:?}");
}

#[tokio::test]
async fn streams_have_a_limit_and_give_their_place_back() {
    let product = Product::configured(&[], |settings| settings.limits.streams_max = 1).await;
    let open = || {
        Request::get("/api/v1/stream?topics=executions")
            .body(Body::empty())
            .unwrap()
    };
    let first = product.call(open()).await;
    assert_eq!(first.status(), StatusCode::OK);
    let second = product.get("/api/v1/stream?topics=executions").await;
    assert_eq!(
        (second.status.as_u16(), &second.body["code"]),
        (429, &json!("TOO_MANY_STREAMS"))
    );
    drop(first);
    assert_eq!(product.call(open()).await.status(), StatusCode::OK);
}

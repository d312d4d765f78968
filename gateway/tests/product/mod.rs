//! A whole product in this process, on a store of its own.
#![allow(clippy::unwrap_used, dead_code)]

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use futures::StreamExt;
use serde_json::Value;
use tower::ServiceExt;
use troupe::app::App;
use troupe::routes::router;
use troupe::wiring::{self, Extras};
use troupe_actors::EngineOptions;
use troupe_config::{Settings, Sources};

/// Two nodes, one after the other.
pub(crate) const CHAIN: &str = r#"
id: chain
name: Chain
settings: { onFailure: failFast }
nodes:
  - { id: first, type: function, data: { handlerId: echo } }
  - { id: second, type: function, data: { handlerId: echo, outputMapping: { seen: output.x } } }
edges:
  - { id: e1, source: first, target: second }
"#;

/// Waits for a day.
pub(crate) const PARKED: &str = r#"
id: parked
name: Parked
nodes:
  - { id: wait, type: delay, data: { delayType: fixed, delayValue: 86400000 } }
  - { id: after, type: delay, data: { delayType: fixed, delayValue: 1 } }
  - { id: other, type: delay, data: { delayType: fixed, delayValue: 1 } }
edges:
  - { id: e1, source: wait, target: after }
  - { id: e2, source: wait, target: other, condition: "false" }
"#;

/// An open product; dropping it removes its store.
pub(crate) struct Product {
    pub(crate) app: App,
    router: Router,
    _store: tempfile::TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// Null where the body is no JSON.
    pub(crate) body: Value,
}

impl Product {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    pub(crate) async fn with(definitions: &[&str]) -> Self {
        Self::configured(definitions, |_| {}).await
    }

    pub(crate) async fn configured(definitions: &[&str], adjust: impl FnOnce(&mut Settings)) -> Self {
        Self::with_engine(definitions, adjust, None).await
    }

    pub(crate) async fn with_engine(
        definitions: &[&str],
        adjust: impl FnOnce(&mut Settings),
        engine: Option<EngineOptions>,
    ) -> Self {
        let extras = Extras {
            engine,
            ..Extras::default()
        };
        Self::with_extras(definitions, adjust, extras).await
    }

    pub(crate) async fn with_extras(definitions: &[&str], adjust: impl FnOnce(&mut Settings), extras: Extras) -> Self {
        let store = tempfile::tempdir().unwrap();
        let mut settings = Sources::default().load().unwrap();
        settings.sandbox.processes = 1;
        settings.drain = Duration::from_millis(100);
        adjust(&mut settings);
        let extras = Extras {
            sandbox_program: Some(env!("CARGO_BIN_EXE_troupe").into()),
            ..extras
        };
        let app = wiring::open(settings, store.path(), extras).await.unwrap();
        let product = Self {
            router: router(app.clone()),
            app,
            _store: store,
        };
        for definition in definitions {
            let reply = product.send("POST", "/api/v1/workflows", &[], definition).await;
            assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        }
        product
    }

    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn reply(&self, request: Request<Body>) -> Reply {
        let response = self.call(request).await;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut chunks = response.into_body().into_data_stream();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        let text = String::from_utf8(bytes).unwrap();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Reply {
            status,
            headers,
            text,
            body,
        }
    }

    pub(crate) async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.reply(request.body(body).unwrap()).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.raw(method, path, headers, Body::from(body.to_owned())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    /// Starts an execution, waits for its end and returns its id.
    pub(crate) async fn run(&self, workflow: &str, body: &str) -> String {
        let path = format!("/api/v1/workflows/{workflow}/executions");
        let reply = self.send("POST", &path, &[("prefer", "wait=30")], body).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        reply.body["id"].as_str().unwrap().to_owned()
    }

    /// A list that is not empty: lists follow the log by some milliseconds.
    pub(crate) async fn listed(&self, path: &str) -> Value {
        for _ in 0..6_000 {
            let body = self.get(path).await.body;
            if body["items"].as_array().is_some_and(|items| !items.is_empty()) {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} stays empty");
    }
}

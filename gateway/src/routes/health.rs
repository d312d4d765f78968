//! Liveness, readiness, metrics, and the pages behind error codes.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use troupe_actors::DAMAGED_HINT;

use super::params::Path;
use crate::app::App;
use crate::error::ApiError;

pub(super) async fn live() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

pub(super) async fn ready(State(app): State<App>) -> Response {
    let status = app.engine.status();
    let ready = status.ready && !app.closing.is_cancelled();
    let halted: Vec<_> = status
        .halted
        .iter()
        .map(|(shard, why)| json!({"shard": shard.0, "code": "DAMAGED", "detail": why, "hint": DAMAGED_HINT}))
        .collect();
    // The shards that serve are worth requests; somebody must look at the others.
    let word = match (ready, halted.is_empty()) {
        (true, true) => "ok",
        (true, false) => "degraded",
        (false, _) => "unready",
    };
    let body = json!({
        "status": word,
        "shards": status.shards,
        "shardsServed": status.shards_served,
        "halted": halted,
        "recovering": status.recovering,
        "active": status.active,
        "quarantined": status.quarantined,
    });
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(body)).into_response()
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    let Some(exposition) = &app.exposition else {
        return ApiError::new("ROUTE_NOT_FOUND", "this process exposes no metrics").into_response();
    };
    app.engine.sample_metrics();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        exposition.render(),
    )
        .into_response()
}

pub(super) async fn error_page(Path(code): Path<String>) -> Response {
    let code = code.strip_suffix(".md").unwrap_or(&code);
    match crate::pages::error_page(code) {
        Some(page) => ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], page).into_response(),
        None => ApiError::new("ROUTE_NOT_FOUND", format!("no page explains `{code}`")).into_response(),
    }
}

//! Liveness, readiness, metrics, and the pages behind error codes.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use troupe_actors::gauges::{Backlog, Lists};
use troupe_actors::{DAMAGED_HINT, NEWER_FORMAT_HINT};

use super::params::Path;
use crate::app::App;
use crate::error::ApiError;
use crate::wiring::Broker;

pub(super) async fn live() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

pub(super) async fn ready(State(app): State<App>) -> Response {
    let status = app.engine.status();
    let ready = status.ready && !app.closing.is_cancelled();
    let damaged = status.halted.iter().map(|halted| (halted, "DAMAGED", DAMAGED_HINT));
    let unreadable = status.unreadable.iter();
    let unreadable = unreadable.map(|unreadable| (unreadable, "STATE_FORMAT_NEWER", NEWER_FORMAT_HINT));
    let halted: Vec<_> = damaged
        .chain(unreadable)
        .map(|((shard, why), code, hint)| json!({"shard": shard.0, "code": code, "detail": why, "hint": hint}))
        .collect();
    // The shards that serve are worth requests; somebody must look at the others.
    // Executions go on without it, so it is no reason to be unready.
    let broker = app.broker.as_ref().map(Broker::state);
    let broker_is_well = broker.as_ref().is_none_or(|broker| broker.detail.is_none());
    let broker = broker.map(|broker| json!({"status": broker.status, "detail": broker.detail}));
    let Backlog {
        bytes,
        refusing,
        holding,
    } = status.backlog;
    let backlog = match (refusing, holding) {
        (0, 0) => "ok",
        (_, 0) => "refusing",
        (_, _) => "holding",
    };
    // Nor are lists: what they lack is in the log until they have it.
    let Lists {
        bytes: behind, failure, ..
    } = status.lists;
    let lists = if failure.is_none() { "ok" } else { "behind" };
    let is_whole = halted.is_empty() && backlog == "ok" && broker_is_well && lists == "ok";
    let word = match (ready, is_whole) {
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
        "backlog": {"status": backlog, "bytes": bytes},
        "events": broker,
        "lists": {"status": lists, "detail": failure, "bytes": behind},
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
    if let Some(broker) = &app.broker {
        broker.sample_metrics();
    }
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

//! Starts of executions.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use troupe_actors::{EngineError, StartOutcome};
use troupe_core::WorkflowId;

use super::params::{Path, wrong};
use super::{header_text, idempotency_key};
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::dto::{StartBody, StartedDto, WorkflowContextDto, context};
use crate::error::ApiError;
use crate::members::{Signed, body_bytes_max};
use crate::trace::trace_parent;

pub(super) async fn start(
    State(app): State<App>,
    caller: Caller,
    signed: Option<Extension<Signed>>,
    Path(workflow): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let limits = app.settings.limits;
    let key = idempotency_key(&headers)?;
    let wait = preferred_wait(&headers)?.map(|wait| wait.min(limits.wait_max));
    let bytes = body::read(&headers, body, body_bytes_max(&app, signed.as_deref())).await?;
    let start = StartBody::read(body::parse(&bytes, limits.nesting_max)?)?;
    let mut request = start.into_request(WorkflowId::from(workflow.as_str()), key, caller.name());
    request.trace_parent = trace_parent(&headers);
    let Some(wait) = wait else {
        let outcome = app.engine.start(request).await?;
        return accepted(&app, &workflow, &outcome).await;
    };
    let (outcome, watch) = app.engine.start_watched(request).await?;
    // What is gone has ended: nobody would tell the watch.
    if outcome.existing && seen(&app, &outcome).await?.is_none() {
        return Ok(response(StatusCode::OK, started(&workflow, &outcome), Some(wait)));
    }
    let ended = tokio::select! {
        biased;
        ended = tokio::time::timeout(wait, watch.ended()) => ended.is_ok_and(|ended| ended.is_some()),
        // A server that stops keeps nobody waiting.
        () = app.closing.cancelled() => false,
    };
    let mut view = match app.engine.get(outcome.id).await {
        Ok(view) => view,
        // It has begun, and went to another member meanwhile.
        Err(EngineError::Elsewhere(_)) => return accepted(&app, &workflow, &outcome).await,
        Err(error) => return Err(error.into()),
    };
    app.engine.load_output(&mut view).await?;
    let seen = context(&view, None);
    let body = StartedDto {
        status: Some(seen.status),
        sequence: seen.sequence,
        output: seen.output,
        error: seen.error,
        ..started(&workflow, &outcome)
    };
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(response(status, body, Some(wait)))
}

/// The answer to a start that nobody waits for.
pub(super) async fn accepted(app: &App, workflow: &str, outcome: &StartOutcome) -> Result<Response, ApiError> {
    let body = match seen(app, outcome).await? {
        Some(seen) => StartedDto {
            status: Some(seen.status),
            sequence: seen.sequence,
            ..started(workflow, outcome)
        },
        None => started(workflow, outcome),
    };
    Ok(response(StatusCode::ACCEPTED, body, None))
}

/// What is known of a start without a look at the execution: a new one runs, or waits for others of its workflow.
fn started(workflow: &str, outcome: &StartOutcome) -> StartedDto {
    StartedDto {
        id: outcome.id.to_string(),
        workflow_id: workflow.to_owned(),
        status: (!outcome.existing).then(|| if outcome.pending { "pending" } else { "running" }.to_owned()),
        sequence: outcome.seq.0,
        existing: outcome.existing,
        output: None,
        error: None,
    }
}

/// Where an execution that was there before stands; none for a new one, and for one whose archive is gone.
async fn seen(app: &App, outcome: &StartOutcome) -> Result<Option<WorkflowContextDto>, ApiError> {
    if !outcome.existing {
        return Ok(None);
    }
    match app.engine.get(outcome.id).await {
        Ok(view) => Ok(Some(context(&view, None))),
        // One that went to another member can be asked for there.
        Err(EngineError::NotFound(_) | EngineError::Elsewhere(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn response(status: StatusCode, body: StartedDto, applied: Option<Duration>) -> Response {
    let location = format!("/api/v1/executions/{}", body.id);
    let mut response = (status, [(header::LOCATION, location)], Json(body)).into_response();
    let applied = applied.and_then(|wait| format!("wait={}", wait.as_secs()).parse().ok());
    if let Some(applied) = applied {
        response.headers_mut().insert("preference-applied", applied);
    }
    response
}

/// `Prefer: wait=<seconds>` (RFC 7240); other preferences are not ours.
fn preferred_wait(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(prefer) = header_text(headers, "prefer")? else {
        return Ok(None);
    };
    let mut waits = prefer
        .split([',', ';'])
        .filter_map(|part| part.trim().strip_prefix("wait="));
    let Some(seconds) = waits.next_back() else {
        return Ok(None);
    };
    let read = seconds.trim_matches('"').parse().map(Duration::from_secs);
    read.map(Some)
        .map_err(|_| wrong(format!("`Prefer: wait` takes whole seconds, not `{seconds}`")))
}

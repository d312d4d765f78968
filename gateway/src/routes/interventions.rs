//! What operators decide of an execution's nodes and variables.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use troupe_actors::{Command, ReopenRequest};
use troupe_core::ExecutionId;
use troupe_core::execution::{Decision, Remedy};

use super::executions::{commanded, execution_id};
use super::idempotency_key;
use super::params::Path;
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::dto::{CommandBody, FailBody, OutputBody, ReopenedDto, RetryBody, SkipBody, VariablesBody};
use crate::error::ApiError;

pub(super) async fn complete(
    State(app): State<App>,
    caller: Caller,
    Path((id, node)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command, body) = read(&app, &caller, &id, &headers, body).await?;
    let output = OutputBody::read(body)?.output.unwrap_or_else(troupe_core::Json::null);
    decide(&app, id, &node, Decision::Complete(output.into()), command).await
}

pub(super) async fn fail(
    State(app): State<App>,
    caller: Caller,
    Path((id, node)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command, body) = read(&app, &caller, &id, &headers, body).await?;
    decide(&app, id, &node, Decision::Fail(FailBody::read(body)?.error), command).await
}

pub(super) async fn skip(
    State(app): State<App>,
    caller: Caller,
    Path((id, node)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command, body) = read(&app, &caller, &id, &headers, body).await?;
    let SkipBody {
        output,
        reason,
        dry_run,
    } = SkipBody::read(body)?;
    let request = ReopenRequest {
        nodes: vec![node],
        remedy: Remedy::Skip(output.map(Into::into)),
        dry_run,
    };
    reopen(&app, id, request, Command { reason, ..command }).await
}

pub(super) async fn retry(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command, body) = read(&app, &caller, &id, &headers, body).await?;
    let RetryBody { nodes, reason, dry_run } = RetryBody::read(body)?;
    let request = ReopenRequest {
        nodes,
        remedy: Remedy::Retry,
        dry_run,
    };
    reopen(&app, id, request, Command { reason, ..command }).await
}

async fn reopen(app: &App, id: ExecutionId, request: ReopenRequest, command: Command) -> Result<Response, ApiError> {
    let outcome = app.engine.reopen(id, request, command).await?;
    Ok(Json(ReopenedDto::of(id, &outcome)).into_response())
}

pub(super) async fn heartbeat(
    State(app): State<App>,
    caller: Caller,
    Path((id, node)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command, body) = read(&app, &caller, &id, &headers, body).await?;
    CommandBody::read(body)?;
    Ok(commanded(id, app.engine.heartbeat(id, &node, command).await?))
}

pub(super) async fn variables(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command, body) = read(&app, &caller, &id, &headers, body).await?;
    let variables = VariablesBody::read(body)?.variables;
    Ok(commanded(id, app.engine.set_variables(id, variables, command).await?))
}

async fn decide(
    app: &App,
    id: ExecutionId,
    node: &str,
    decision: Decision,
    command: Command,
) -> Result<Response, ApiError> {
    Ok(commanded(id, app.engine.decide(id, node, decision, command).await?))
}

async fn read(
    app: &App,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(ExecutionId, Command, Option<Value>), ApiError> {
    let id = execution_id(id)?;
    let key = idempotency_key(headers)?;
    let limits = app.settings.limits;
    let bytes = body::read(headers, body, limits.body_bytes).await?;
    let body = body::parse(&bytes, limits.nesting_max)?;
    Ok((id, CommandBody::default().into_command(key, caller.name()), body))
}

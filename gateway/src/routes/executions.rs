//! Executions: lists, one with everything, and commands.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use troupe_actors::{Command, CommandOutcome, ExecutionView};
use troupe_core::{ExecutionId, NodeIx, Seq};
use troupe_ports::{ExecutionQuery, ExecutionSummary};

use super::params::{Params, Path, wrong};
use super::{LOCAL, idempotency_key};
use crate::app::App;
use crate::body;
use crate::dto::{
    CommandBody, CommandDto, ExecutionSummaryDto, PageDto, WorkflowContextDto, context, entry, instant, node_execution,
};
use crate::error::ApiError;

const LIST: [&str; 7] = [
    "workflow",
    "status",
    "idPrefix",
    "startedFrom",
    "startedUntil",
    "cursor",
    "limit",
];
const STATUSES: [&str; 5] = ["pending", "running", "completed", "failed", "canceled"];

pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &LIST)?;
    let workflow = params.text("workflow").map(str::to_owned);
    page(&app, &params, workflow).await
}

pub(super) async fn list_of_workflow(
    State(app): State<App>,
    Path(workflow): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &LIST[1..])?;
    super::workflows::version(&app, &workflow, None).await?;
    page(&app, &params, Some(workflow)).await
}

async fn page(app: &App, params: &Params, workflow_id: Option<String>) -> Result<Response, ApiError> {
    let at = |name: &str| {
        let read = |text: &str| instant(text).ok_or_else(|| wrong(format!("`{name}` takes a date, not `{text}`")));
        params.text(name).map(read).transpose()
    };
    let status = params.text("status").map(str::to_owned);
    if let Some(status) = status.as_deref().filter(|status| !STATUSES.contains(status)) {
        return Err(wrong(format!(
            "`status` takes one of {}, not `{status}`",
            STATUSES.join(", ")
        )));
    }
    let id_prefix = params.text("idPrefix").map(str::to_ascii_lowercase);
    if let Some(prefix) = id_prefix
        .as_deref()
        .filter(|prefix| !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Err(wrong(format!("`idPrefix` takes hexadecimal digits, not `{prefix}`")));
    }
    let query = ExecutionQuery {
        workflow_id,
        status,
        id_prefix,
        started_from: at("startedFrom")?,
        started_until: at("startedUntil")?,
        cursor: params.get("cursor", "what a page gave as `next`")?,
        limit: params.limit(app.settings.limits.page_max)?,
    };
    let page = app.visibility.list(query).await?;
    let of = |summary: &ExecutionSummary| ExecutionSummaryDto::new(summary, app.engine.quarantined(summary.id));
    let items: Vec<ExecutionSummaryDto> = page.items.iter().map(of).collect();
    let next = page.next.map(|next| next.to_string());
    Ok(Json(PageDto { items, next }).into_response())
}

/// What `activePaths` needs of an analysis.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paths {
    paths: Vec<AnalysedPath>,
    truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnalysedPath {
    node_sequence: Vec<String>,
}

pub(super) async fn get(State(app): State<App>, Path(id): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &["include"])?;
    let include = match params.text("include") {
        None => false,
        Some("processedWorkflow") => true,
        Some(other) => return Err(wrong(format!("`include` takes processedWorkflow, not `{other}`"))),
    };
    let view = app.engine.get(execution_id(&id)?).await?;
    Ok(Json(whole(&app, &view, include).await?).into_response())
}

/// The whole context, with active paths where the execution is open.
pub(crate) async fn whole(app: &App, view: &ExecutionView, include: bool) -> Result<WorkflowContextDto, ApiError> {
    let open = !view.state.status.is_terminal();
    if !open && !include {
        return Ok(context(view, None));
    }
    let stored = app
        .definitions
        .get(view.state.workflow.as_str(), Some(view.state.version))
        .await?;
    let Some(stored) = stored else {
        return Ok(context(view, None));
    };
    let analysed: Paths = serde_json::from_str(stored.analysis.as_str()).map_err(|error| {
        let (workflow, version) = (&stored.workflow, stored.version);
        let detail = format!("the analysis of workflow {workflow} version {version}: {error}");
        ApiError::new("DAMAGED", detail)
    })?;
    let paths: Vec<Vec<String>> = analysed.paths.into_iter().map(|path| path.node_sequence).collect();
    let mut shown = context(view, Some((paths.as_slice(), analysed.truncated)));
    shown.processed_workflow = include.then(|| stored.analysis.clone());
    Ok(shown)
}

pub(super) async fn node(
    State(app): State<App>,
    Path((id, node)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let view = app.engine.get(execution_id(&id)?).await?;
    let ix = node_ix(&view, &node)?;
    Ok(Json(node_execution(&view, ix)).into_response())
}

pub(super) async fn attempts(
    State(app): State<App>,
    Path((id, node)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let view = app.engine.get(execution_id(&id)?).await?;
    let ix = node_ix(&view, &node)?;
    Ok(Json(PageDto {
        items: node_execution(&view, ix).attempts,
        next: None,
    })
    .into_response())
}

fn node_ix(view: &ExecutionView, node: &str) -> Result<NodeIx, ApiError> {
    let missing = || {
        let state = &view.state;
        ApiError::new(
            "NODE_NOT_FOUND",
            format!(
                "workflow {} version {} has no node {node}",
                state.workflow, state.version
            ),
        )
    };
    view.plan.node_ix(node).ok_or_else(missing)
}

pub(super) async fn history(State(app): State<App>, Path(id): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &["after", "limit"])?;
    let id = execution_id(&id)?;
    let limit = params.limit(app.settings.limits.page_max)?;
    let after = Seq(params.get("after", "a sequence number")?.unwrap_or(0));
    let view = app.engine.get(id).await?;
    let entries = app.engine.history(id, after, limit).await?;
    let last = entries.last().map(|last| last.seq);
    let next = last.filter(|last| *last < view.state.seq).map(|last| last.to_string());
    let items = entries.iter().map(|found| entry(found, &view.plan)).collect();
    Ok(Json(PageDto { items, next }).into_response())
}

pub(super) async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command) = command(&app, &id, &headers, body).await?;
    Ok(commanded(id, app.engine.cancel(id, command).await?))
}

pub(super) async fn pause(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command) = command(&app, &id, &headers, body).await?;
    Ok(commanded(id, app.engine.pause(id, command).await?))
}

pub(super) async fn resume(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command) = command(&app, &id, &headers, body).await?;
    Ok(commanded(id, app.engine.resume(id, command).await?))
}

async fn command(app: &App, id: &str, headers: &HeaderMap, body: Body) -> Result<(ExecutionId, Command), ApiError> {
    let id = execution_id(id)?;
    let key = idempotency_key(headers)?;
    let limits = app.settings.limits;
    let bytes = body::read(headers, body, limits.body_bytes).await?;
    let read = CommandBody::read(body::parse(&bytes, limits.nesting_max)?)?;
    Ok((id, read.into_command(key, LOCAL)))
}

fn commanded(id: ExecutionId, outcome: CommandOutcome) -> Response {
    let body = CommandDto {
        id: id.to_string(),
        sequence: outcome.seq.0,
        draining: outcome.draining,
        unchanged: outcome.unchanged,
    };
    Json(body).into_response()
}

/// An id from an address; what is none cannot exist.
pub(crate) fn execution_id(text: &str) -> Result<ExecutionId, ApiError> {
    text.parse()
        .map_err(|error| ApiError::new("EXECUTION_NOT_FOUND", format!("`{text}`: {error}")))
}

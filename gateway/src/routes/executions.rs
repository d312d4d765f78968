//! Executions: lists, one with everything, and commands.

use std::collections::VecDeque;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use troupe_actors::{Command, CommandOutcome, ExecutionView};
use troupe_core::execution::{Event, Phase};
use troupe_core::{BlobRef, ExecutionId, NodeIx, Seq};
use troupe_ports::{ExecutionQuery, ExecutionSummary};

use super::idempotency_key;
use super::params::{Params, Path, wrong};
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::dto::{
    AttemptDto, CommandBody, CommandDto, ExecutionSummaryDto, PageDto, PauseBody, WorkflowContextDto, attempt_of,
    context, entry, instant, node_execution,
};
use crate::error::ApiError;

/// Attempts of earlier visits that are shown with a node; the history has the others.
const EARLIER_ATTEMPTS_MAX: usize = 1_000;

const LIST: [&str; 11] = [
    "workflow",
    "status",
    "tag",
    "text",
    "businessKey",
    "idPrefix",
    "parent",
    "startedFrom",
    "startedUntil",
    "cursor",
    "limit",
];
/// What may be asked for beside an execution.
const INCLUDED: [&str; 2] = ["processedWorkflow", "resumeUrls"];
/// Characters of a text that lists are searched for.
const TEXT_CHARS_MAX: usize = 200;
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
    let parent = match params.text("parent") {
        Some(parent) => Some(parent.parse().map_err(|error| wrong(format!("`parent`: {error}")))?),
        None => None,
    };
    let query = ExecutionQuery {
        workflow_id,
        status,
        id_prefix,
        parent,
        children: false,
        started_from: at("startedFrom")?,
        started_until: at("startedUntil")?,
        tag: given(params, "tag")?,
        execution_key: given(params, "businessKey")?,
        text: text(params)?,
        cursor: params.get("cursor", "what a page gave as `next`")?,
        limit: params.limit(app.settings.limits.page_max)?,
    };
    let page = app.visibility.list(query).await?;
    let of = |summary: &ExecutionSummary| ExecutionSummaryDto::new(summary, app.engine.quarantined(summary.id));
    let items: Vec<ExecutionSummaryDto> = page.items.iter().map(of).collect();
    let next = page.next.map(|next| next.to_string());
    Ok(Json(PageDto { items, next }).into_response())
}

/// A parameter that names something; an empty one is refused: it would find nothing.
fn given(params: &Params, name: &str) -> Result<Option<String>, ApiError> {
    match params.text(name) {
        Some("") => {
            let refused = wrong(format!("`{name}` takes a text that is not empty"));
            Err(refused.with_hint(format!("leave `{name}` out to list executions whatever it is")))
        }
        other => Ok(other.map(str::to_owned)),
    }
}

/// A text that is looked for row by row: one that a row may hold.
fn text(params: &Params) -> Result<Option<String>, ApiError> {
    let Some(text) = given(params, "text")? else {
        return Ok(None);
    };
    if text.chars().count() > TEXT_CHARS_MAX {
        let refused = wrong(format!("`text` takes at most {TEXT_CHARS_MAX} characters"));
        return Err(
            refused.with_hint("a part of what is looked for is enough; `businessKey` takes a whole key of any length")
        );
    }
    if text.chars().any(char::is_control) {
        let refused = wrong("`text` takes no line breaks and other control characters");
        return Err(refused.with_hint("look for a part that stands in one line"));
    }
    Ok(Some(text))
}

pub(super) async fn get(State(app): State<App>, Path(id): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &["include"])?;
    let included: Vec<&str> = params
        .text("include")
        .map_or_else(Vec::new, |text| text.split(',').collect());
    if let Some(other) = included.iter().find(|name| !INCLUDED.contains(name)) {
        return Err(wrong(format!(
            "`include` takes {}, not `{other}`",
            INCLUDED.join(" and ")
        )));
    }
    let view = app.view(execution_id(&id)?).await?;
    let mut shown = whole(&app, &view, included.contains(&"processedWorkflow")).await?;
    if included.contains(&"resumeUrls") {
        show_resume_urls(&app, &view, &mut shown);
    }
    Ok(Json(shown).into_response())
}

/// Whoever has such an address may call the node: they are shown only on request.
fn show_resume_urls(app: &App, view: &ExecutionView, shown: &mut WorkflowContextDto) {
    for (planned, node) in view.plan.nodes.iter().zip(&view.state.nodes) {
        if let Phase::Waiting { .. } = node.phase
            && let Some(waiting) = shown
                .node_results
                .get_mut(planned.key.as_str())
                .and_then(|it| it.waiting.as_mut())
        {
            waiting.resume_url = Some(app.resume_links.url(view.state.id, planned.key.as_str()));
        }
    }
}

/// The whole context, with active paths where the execution is open.
pub(crate) async fn whole(app: &App, view: &ExecutionView, include: bool) -> Result<WorkflowContextDto, ApiError> {
    let open = !view.state.status.is_terminal();
    if !open && !include {
        return Ok(context(view, None));
    }
    let (workflow, version) = (view.state.workflow.as_str(), view.state.version);
    let analysis = app.analyses.of(&*app.definitions, workflow, version).await?;
    let Some(analysis) = analysis else {
        return Ok(context(view, None));
    };
    let mut shown = context(view, Some((analysis.paths.as_slice(), analysis.truncated)));
    shown.processed_workflow = include.then(|| analysis.text.clone());
    Ok(shown)
}

pub(super) async fn node(
    State(app): State<App>,
    Path((id, node)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let view = app.view(execution_id(&id)?).await?;
    let ix = node_ix(&view, &node)?;
    let earlier = earlier_attempts(&app, &view, ix).await?;
    Ok(Json(node_execution(&view, ix, earlier)).into_response())
}

/// Attempts of the node's earlier visits, oldest first, and whether older ones were left out.
async fn earlier_attempts(app: &App, view: &ExecutionView, ix: NodeIx) -> Result<(Vec<AttemptDto>, bool), ApiError> {
    let (id, visit) = (view.state.id, view.state.nodes[ix.at()].visit);
    let mut found = VecDeque::new();
    let mut truncated = false;
    let mut after = Seq(0);
    while visit.0 > 1 && after < view.state.seq {
        let entries = app.engine.history(id, after, app.settings.limits.page_max).await?;
        let Some(last) = entries.last() else { break };
        after = last.seq;
        for entry in &entries {
            if let Event::AttemptClosed(closed) = &entry.event
                && closed.token.node == ix
                && closed.token.visit < visit
            {
                found.push_back(attempt_of(view, closed, entry.at));
            }
            if found.len() > EARLIER_ATTEMPTS_MAX {
                found.pop_front();
                truncated = true;
            }
        }
    }
    Ok((found.into(), truncated))
}

pub(super) async fn attempts(
    State(app): State<App>,
    Path((id, node)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let view = app.view(execution_id(&id)?).await?;
    let ix = node_ix(&view, &node)?;
    Ok(Json(PageDto {
        items: node_execution(&view, ix, earlier_attempts(&app, &view, ix).await?).attempts,
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

/// One large value, as the document itself.
pub(super) async fn value(
    State(app): State<App>,
    Path((id, hash)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let id = execution_id(&id)?;
    let missing = || {
        ApiError::new(
            "VALUE_NOT_FOUND",
            format!("`{hash}` is no SHA-256 in hexadecimal digits"),
        )
    };
    let hash = BlobRef::hash_of_hex(&hash).ok_or_else(missing)?;
    let document = app.engine.value(id, hash).await?;
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, document.as_str().to_owned()).into_response())
}

pub(super) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command) = command(&app, &caller, &id, &headers, body).await?;
    Ok(commanded(id, app.engine.cancel(id, command).await?))
}

pub(super) async fn pause(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let id = execution_id(&id)?;
    let key = idempotency_key(&headers)?;
    let limits = app.settings.limits;
    let bytes = body::read(&headers, body, limits.body_bytes).await?;
    let read = PauseBody::read(body::parse(&bytes, limits.nesting_max)?)?;
    let outcome = app.engine.pause(id, read.into_command(key, caller.name())).await?;
    Ok(commanded(id, outcome))
}

pub(super) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (id, command) = command(&app, &caller, &id, &headers, body).await?;
    Ok(commanded(id, app.engine.resume(id, command).await?))
}

async fn command(
    app: &App,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(ExecutionId, Command), ApiError> {
    let id = execution_id(id)?;
    let key = idempotency_key(headers)?;
    let limits = app.settings.limits;
    let bytes = body::read(headers, body, limits.body_bytes).await?;
    let read = CommandBody::read(body::parse(&bytes, limits.nesting_max)?)?;
    Ok((id, read.into_command(key, caller.name())))
}

pub(super) fn commanded(id: ExecutionId, outcome: CommandOutcome) -> Response {
    Json(command_dto(id, outcome)).into_response()
}

pub(super) fn command_dto(id: ExecutionId, outcome: CommandOutcome) -> CommandDto {
    CommandDto {
        id: id.to_string(),
        sequence: outcome.seq.0,
        draining: outcome.draining,
        unchanged: outcome.unchanged,
    }
}

/// An id from an address; what is none cannot exist.
pub(crate) fn execution_id(text: &str) -> Result<ExecutionId, ApiError> {
    text.parse()
        .map_err(|error| ApiError::new("EXECUTION_NOT_FOUND", format!("`{text}`: {error}")))
}

//! Pauses and emergency stops of a wider scope than one execution.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use troupe_core::control::{ControlKey, Scope, Setting};

use super::idempotency_key;
use super::params::{Params, Path};
use crate::app::App;
use crate::audit::AuditNote;
use crate::auth::{Access, Caller};
use crate::body;
use crate::dto::{ControlBody, ControlDto, ControlOption, ControlledDto, PageDto};
use crate::error::ApiError;
use crate::members::{self, Signed};

/// Between a workflow's id and the node whose body is meant.
const BODY_OF: char = '#';

/// What a command does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Pause,
    Resume,
    Stop,
    Release,
}

pub(super) async fn list(
    State(app): State<App>,
    signed: Option<Extension<Signed>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    Params::of(&uri, &[])?;
    // A member that asks puts the answers of all together.
    let items = members::controls::list(&app, signed.is_some()).await?;
    Ok(Json(PageDto::<ControlDto> { items, next: None }).into_response())
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident, $of_workflow:ident, $verb:ident;)+) => {
        $(
            $(#[$doc])*
            pub(super) async fn $name(
                State(app): State<App>,
                caller: Caller,
                note: AuditNote,
                headers: HeaderMap,
                body: Body,
            ) -> Result<Response, ApiError> {
                command(&app, (&caller, &note), (Verb::$verb, None), &headers, body).await
            }

            /// The same of a workflow.
            pub(super) async fn $of_workflow(
                State(app): State<App>,
                caller: Caller,
                note: AuditNote,
                Path(workflow): Path<String>,
                headers: HeaderMap,
                body: Body,
            ) -> Result<Response, ApiError> {
                let scope = Scope::Workflow(workflow.into());
                command(&app, (&caller, &note), (Verb::$verb, Some(scope)), &headers, body).await
            }
        )+
    };
}

commands! {
    /// No new attempt starts in a scope.
    pause, pause_workflow, Pause;
    /// A scope goes on.
    resume, resume_workflow, Resume;
    /// A scope is stopped: nothing starts.
    stop, stop_workflow, Stop;
    /// The stop is lifted.
    release, release_workflow, Release;
}

async fn command(
    app: &App,
    (caller, note): (&Caller, &AuditNote),
    (verb, scope): (Verb, Option<Scope>),
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let key = idempotency_key(headers)?;
    let limits = app.settings.limits;
    let bytes = body::read(headers, body, limits.body_bytes).await?;
    let option = match verb {
        Verb::Pause => ControlOption::Clocks,
        Verb::Stop => ControlOption::CancelRunning,
        Verb::Resume | Verb::Release => ControlOption::None,
    };
    let read = ControlBody::read(body::parse(&bytes, limits.nesting_max)?, scope.is_none(), option)?;
    let Some(scope) = scope.or_else(|| read.scope.clone()) else {
        return Err(ApiError::new("INVALID_REQUEST", "the command has no scope"));
    };
    tell(note, &scope);
    if scope == Scope::All && matches!(verb, Verb::Stop | Verb::Release) {
        caller.must_be(Access::Admin)?;
    }
    let setting = match verb {
        Verb::Pause => Some(Setting::Paused { clocks: read.clocks }),
        Verb::Stop => Some(Setting::Stopped {
            cancel_running: read.cancel_running,
        }),
        Verb::Resume | Verb::Release => None,
    };
    if setting.is_some() {
        exists(app, &scope).await?;
    }
    let control = match verb {
        Verb::Pause | Verb::Resume => ControlKey::Pause(scope),
        Verb::Stop | Verb::Release => ControlKey::Stop(scope),
    };
    let command = read.into_command(key, caller.name());
    let outcome = members::controls::control(app, control.clone(), setting, command).await?;
    Ok(Json(ControlledDto::of(&control, outcome)).into_response())
}

/// Names the scope for the audit row.
fn tell(note: &AuditNote, scope: &Scope) {
    match scope {
        Scope::All => note.target("control", "all"),
        Scope::Workflow(workflow) => note.target("workflow", workflow.as_str()),
        Scope::Node { workflow, node } => note.target("node", format!("{workflow}/{node}")),
        Scope::NodeType(kind) => note.target("nodeType", kind.as_str()),
    }
}

/// A scope that names nothing is a slip. What was paused and has gone since can still be resumed.
async fn exists(app: &App, scope: &Scope) -> Result<(), ApiError> {
    let (workflow, node) = match scope {
        Scope::All | Scope::NodeType(_) => return Ok(()),
        Scope::Workflow(workflow) => (workflow, None),
        Scope::Node { workflow, node } => (workflow, Some(node)),
    };
    let mut names = workflow.as_str().split(BODY_OF);
    let outer = names.next().unwrap_or_default();
    let stored = super::workflows::version(app, outer, None).await?;
    let mut definition = stored.definition;
    for name in names {
        let Some(body) = definition.body_of(name) else {
            return Err(no_node(outer, name));
        };
        definition = body.into();
    }
    match node {
        Some(node) if !definition.nodes.iter().any(|known| known.id == node.as_str()) => {
            Err(no_node(workflow.as_str(), node.as_str()))
        }
        Some(_) | None => Ok(()),
    }
}

fn no_node(workflow: &str, node: &str) -> ApiError {
    let detail = format!("the latest version of workflow {workflow} has no node {node}, or the node has no body");
    ApiError::new("NODE_NOT_FOUND", detail)
}

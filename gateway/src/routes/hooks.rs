//! Calls from outside: they start executions, or go on with those that wait for them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use troupe_actors::{Command, EngineError, StartCause, StartRequest};
use troupe_core::definition::WebhookProvider;
use troupe_core::{CommandId, ExecutionId, Principal};
use troupe_lang::schema::SchemaViolation;
use troupe_ports::ExecutionQuery;

use super::executions::command_dto;
use super::params::Path;
use super::{idempotency_key, start};
use crate::app::App;
use crate::body;
use crate::error::{ApiError, ErrorItem};
use crate::hooks::{Call, Hook, HookRole, business_key, delivery_id, read_call, verify};
use crate::trace::trace_parent;

/// Open executions that are looked at to find the one that a call without a business key is meant for.
const OPEN_LOOKED_AT: usize = 16;
/// Lists follow by at most 250 ms what was acknowledged: an execution that is not listed yet is by then.
const LISTED_AFTER: Duration = Duration::from_millis(300);

pub(super) async fn call(
    State(app): State<App>,
    Path(id): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    if method == Method::HEAD {
        let detail = format!("{} does not know {method}", uri.path());
        return Err(ApiError::new("METHOD_NOT_ALLOWED", detail));
    }
    let hook = find(&app, &id).await?;
    let limits = app.settings.limits;
    let bytes = body::read(&headers, body, limits.body_bytes).await?;
    if let Some(provider) = hook.settings.provider {
        let secret = secret(&app, &hook)?;
        verify(provider, &hook.settings.signature, &secret, &headers, &bytes, app.now()).inspect_err(|error| {
            tracing::warn!(
                hook = hook.id,
                code = error.code(),
                "a call was refused: {}",
                error.detail()
            );
        })?;
    }
    let call = read_call(&method, &uri, &headers, &bytes, limits.nesting_max)?;
    if let Some(answer) = handshake(&hook, &call.body) {
        return Ok(answer);
    }
    let delivery = delivery_id(hook.settings.provider, &headers, &call.body)?;
    // Deliveries of several hooks may have the same name, and so may a client's own keys.
    let delivery = delivery.map(|delivery| format!("hook:{}:{delivery}", hook.id));
    match hook.role {
        HookRole::Starts => starts(&app, &hook, call, delivery, trace_parent(&headers)).await,
        HookRole::Resumes => resumes(&app, &hook, call, delivery).await,
    }
}

/// By an address that was made for one node of one execution: whoever has it may call.
pub(super) async fn resume(
    State(app): State<App>,
    Path(token): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let not_found = || ApiError::new("HOOK_NOT_FOUND", "this server has made no such address");
    let (id, node) = app.resume_links.read(&token).ok_or_else(not_found)?;
    let key = idempotency_key(&headers)?;
    let limits = app.settings.limits;
    let bytes = body::read(&headers, body, limits.body_bytes).await?;
    let call = read_call(&method, &uri, &headers, &bytes, limits.nesting_max)?;
    let command = Command {
        principal: Some(Principal::from("resume address")),
        command: key.map(|key| CommandId::from(format!("resume:{node}:{key}"))),
        ..Command::default()
    };
    signal(&app, id, &node, call, command).await
}

/// The one node that takes the calls of an address.
async fn find(app: &App, id: &str) -> Result<Arc<Hook>, ApiError> {
    let found = app.hooks.find(id, &*app.definitions).await?;
    match found.as_slice() {
        [one] => Ok(Arc::clone(one)),
        [] => Err(ApiError::new(
            "HOOK_NOT_FOUND",
            format!("no workflow takes calls at `{id}`"),
        )),
        several => {
            let workflows: Vec<&str> = several.iter().map(|hook| hook.workflow.as_str()).collect();
            let detail = format!("several workflows take calls at `{id}`: {}", workflows.join(", "));
            Err(ApiError::new("HOOK_AMBIGUOUS", detail).with_hint("give their nodes a `webhookId` each"))
        }
    }
}

/// What calls of the hook are signed with. Who calls learns no more than that it is not there.
fn secret(app: &App, hook: &Hook) -> Result<String, ApiError> {
    let unusable =
        || ApiError::new("HOOK_SECRET_UNUSABLE", "the secret of the hook is not there").retry_after_ms(60_000);
    let template = hook.secret.as_ref().ok_or_else(unusable)?;
    let resolved = template
        .evaluate(&troupe_lang::Scope::new(), &[])
        .ok()
        .and_then(|written| {
            let resolved = template.resolve_secrets(written, |name| {
                let secret = app.secrets.get(name);
                if secret.is_none() {
                    tracing::error!(
                        hook = hook.id,
                        secret = name,
                        "the secret that a hook names is not there"
                    );
                }
                secret.ok_or("not there")
            });
            resolved.ok()
        });
    match resolved.as_ref().and_then(|resolved| resolved["secret"].as_str()) {
        Some(secret) if !secret.is_empty() => Ok(secret.to_owned()),
        Some(_) | None => Err(unusable()),
    }
}

/// Slack asks once whether the address is the right one.
fn handshake(hook: &Hook, body: &Value) -> Option<Response> {
    let asks = hook.settings.provider == Some(WebhookProvider::Slack) && body["type"] == "url_verification";
    asks.then(|| Json(json!({"challenge": body["challenge"]})).into_response())
}

fn principal(hook: &Hook) -> Principal {
    let provider = hook.settings.provider.map_or("hook", WebhookProvider::as_str);
    Principal::from(format!("{provider}:{}", hook.id).as_str())
}

async fn starts(
    app: &App,
    hook: &Hook,
    call: Call,
    delivery: Option<String>,
    trace_parent: Option<String>,
) -> Result<Response, ApiError> {
    fits(hook, &call.body)?;
    let request = StartRequest {
        trigger: Some(hook.node.clone()),
        request_key: delivery,
        principal: Some(principal(hook)),
        cause: Some(StartCause::Webhook),
        trace_parent,
        ..StartRequest::new(hook.workflow.clone(), call.into_json(app)?)
    };
    let outcome = app.engine.start(request).await?;
    start::accepted(app, hook.workflow.as_str(), &outcome).await
}

/// Checks the body of a call that starts; of one that resumes the engine does, by the version that the execution runs.
fn fits(hook: &Hook, body: &Value) -> Result<(), ApiError> {
    let schema = match hook.payload_schema() {
        None => return Ok(()),
        Some(Ok(schema)) => schema,
        Some(Err(why)) => return Err(ApiError::new("NOT_EXECUTABLE", format!("`payloadSchema`: {why}"))),
    };
    let Err(violation) = schema.validate(body) else {
        return Ok(());
    };
    let items = violation.violations.iter().map(|violation| ErrorItem {
        pointer: violation.pointer.clone(),
        code: SchemaViolation::CODE.to_owned(),
        detail: violation.message.clone(),
        hint: None,
        severity: None,
        line: None,
        column: None,
    });
    Err(ApiError::new(SchemaViolation::CODE, violation.to_string()).with_errors(items.collect()))
}

async fn resumes(app: &App, hook: &Hook, call: Call, delivery: Option<String>) -> Result<Response, ApiError> {
    let id = match &hook.settings.correlation_key {
        None => only_open(app, hook).await?,
        Some(source) => {
            let seen = troupe_core::Json::of(&call.clone().into_value());
            let key = business_key(hook, source, &seen, &*app.sandbox).await?;
            let latest = app.engine.latest_of_key(hook.workflow.as_str(), &key).await?;
            latest.ok_or_else(|| {
                let detail = format!("workflow {} has no execution with the key `{key}`", hook.workflow);
                ApiError::new("HOOK_NO_EXECUTION", detail)
                    .with_hint("the execution must be started with this `executionKey` before the call comes")
            })?
        }
    };
    let command = Command {
        principal: Some(principal(hook)),
        command: delivery.map(CommandId::from),
        ..Command::default()
    };
    signal(app, id, &hook.node, call, command).await
}

/// The only execution of the workflow that is open.
async fn only_open(app: &App, hook: &Hook) -> Result<ExecutionId, ApiError> {
    let mut open = open(app, hook).await?;
    if open.is_empty() {
        tokio::time::sleep(LISTED_AFTER).await;
        open = self::open(app, hook).await?;
    }
    match open.as_slice() {
        [one] => Ok(*one),
        [] => {
            let detail = format!("no execution of workflow {} is open", hook.workflow);
            Err(ApiError::new("HOOK_NO_EXECUTION", detail).with_hint("start one before the call comes"))
        }
        _ => {
            let detail = format!("several executions of workflow {} are open", hook.workflow);
            Err(ApiError::new("HOOK_AMBIGUOUS", detail).with_hint(format!(
                "give node `{}` a `correlationKey` and start executions with an `executionKey`, or call a resume address",
                hook.node
            )))
        }
    }
}

/// At most two open executions that have the node. The list may lag, the engine does not.
async fn open(app: &App, hook: &Hook) -> Result<Vec<ExecutionId>, ApiError> {
    let query = ExecutionQuery {
        workflow_id: Some(hook.workflow.as_str().to_owned()),
        status: Some("running".to_owned()),
        limit: OPEN_LOOKED_AT,
        ..ExecutionQuery::default()
    };
    let mut open = Vec::new();
    for listed in app.visibility.list(query).await?.items {
        let view = match app.engine.get(listed.id).await {
            Ok(view) => view,
            Err(EngineError::NotFound(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        if !view.state.status.is_terminal() && view.plan.node_ix(&hook.node).is_some() {
            open.push(listed.id);
        }
        if open.len() == 2 {
            break;
        }
    }
    Ok(open)
}

async fn signal(app: &App, id: ExecutionId, node: &str, call: Call, command: Command) -> Result<Response, ApiError> {
    let call = call.into_json(app)?;
    let outcome = app
        .engine
        .signal(id, node, call, command)
        .await
        .map_err(ApiError::of_call)?;
    Ok((StatusCode::ACCEPTED, Json(command_dto(id, outcome))).into_response())
}

impl Call {
    /// The call as the engine takes it.
    fn into_json(self, app: &App) -> Result<troupe_core::Json, ApiError> {
        let json = troupe_core::Json::of(&self.into_value());
        // Base64 and headers come on top of the body; starts have the same limit.
        let bytes_max = app.settings.limits.body_bytes;
        if json.bytes() > bytes_max {
            let detail = format!("the call has {} bytes, more than {bytes_max}", json.bytes());
            return Err(ApiError::new("PAYLOAD_TOO_LARGE", detail));
        }
        Ok(json)
    }
}

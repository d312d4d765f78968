//! The side that asks: leaves a command in the inbox of a shard whose owner cannot be reached.

use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use ring::digest;
use serde::Deserialize;
use troupe_core::{ExecutionId, KeySpace, ShardId};
use troupe_ports::{InboxId, InboxPush};
use troupe_telemetry::InboxEnd;

use super::super::forward::IDEMPOTENCY_KEY;
use super::super::signature::framed;
use super::super::{Members, forward};
use super::letter::Letter;
use super::{MOST, Queued, STARTS_MOST};
use crate::app::App;
use crate::auth::Caller;
use crate::dto::QueuedDto;
use crate::error::ApiError;

/// How often it is tried to leave a command: the answer to the first try may be lost.
const TRIES: u32 = 3;
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The answer to a request whose search for an owner is over: that it lies in the inbox of its shard; none if it does not. `keyed`: the key that
/// it has is the one under which it was told that its shard is elsewhere.
///
/// Only now is it left there: it is in one place at a time, and nobody has to take it back.
pub(in crate::members) async fn left(
    app: &App,
    members: &Members,
    (parts, body): (&mut Parts, &Bytes),
    (shard, keyed): (ShardId, bool),
) -> Option<Response> {
    if !may_wait(parts, body) || (!keyed && parts.headers.contains_key(IDEMPOTENCY_KEY)) {
        return None;
    }
    let name = name_of(parts, body)?;
    let id = id_of(parts, &name);
    let about = About::of(app, parts).await;
    for tries_left in (0..TRIES).rev() {
        match push(app, members, (parts, body), (shard, id), &about).await {
            Ok(InboxPush::Kept) => {
                members.inbox.ended(InboxEnd::Kept);
                let shard = shard.0;
                tracing::info!(
                    shard,
                    "a command is left in the inbox of its shard: its owner cannot be asked"
                );
                return Some(accepted(QueuedDto::new(about.answered, key_text(parts))));
            }
            Ok(InboxPush::Full) => {
                members.inbox.ended(InboxEnd::Full);
                let shard = shard.0;
                tracing::warn!(shard, "the inbox of a shard whose owner cannot be asked is full");
                return None;
            }
            Err(error) => {
                tracing::debug!(shard = shard.0, error = error.detail(), "the inbox cannot be reached");
                if tries_left > 0 {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    None
}

/// Puts a request into the inbox of a shard.
async fn push(
    app: &App,
    members: &Members,
    (parts, body): (&Parts, &Bytes),
    (shard, id): (ShardId, InboxId),
    about: &About,
) -> Result<InboxPush, ApiError> {
    let caller = parts.extensions.get::<Caller>().cloned();
    let caller = caller.unwrap_or_else(Caller::member);
    let letter = Letter::of(parts, body, about.execution.clone());
    let sealed = letter.sealed(members.key(), (shard, id), &caller, app.now())?;
    let most = if about.is_start { STARTS_MOST } else { MOST };
    Ok(app.state.inbox_push(shard, id, sealed, most).await?)
}

/// Whether it means the same when it is applied later. A sign of life does not, nor what nobody waits for; and the calls of hooks may be
/// signed with a time: their senders repeat them.
pub(in crate::members) fn may_wait(parts: &Parts, body: &[u8]) -> bool {
    #[derive(Default, Deserialize)]
    struct Asked {
        #[serde(rename = "dryRun", default)]
        dry_run: bool,
    }
    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let changes = matches!(parts.method, Method::POST | Method::PUT);
    let dry_run = || serde_json::from_slice::<Asked>(body).is_ok_and(|asked| asked.dry_run);
    changes
        && !path.ends_with("/heartbeat")
        && !path.starts_with("/api/v1/hooks/")
        && (!path.starts_with("/api/v1/executions/") || !dry_run())
}

/// What tells it from other requests for the same: its key. A start under a business key has none; where its policy lets the first one win for
/// good a repetition starts nothing, and its body names it.
fn name_of(parts: &Parts, body: &Bytes) -> Option<Bytes> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Start {
        key_policy: Policy,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Policy {
        on_open: String,
        on_closed: String,
    }
    if let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) {
        return Some(Bytes::copy_from_slice(key.as_bytes()));
    }
    if !forward::has_business_key(body) {
        return None;
    }
    let Start { key_policy } = serde_json::from_slice(body).ok()?;
    let is_first_for_good = key_policy.on_open == "useExisting" && key_policy.on_closed == "reject";
    is_first_for_good.then(|| body.clone())
}

fn id_of(parts: &Parts, name: &[u8]) -> InboxId {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let text = framed([parts.method.as_str().as_bytes(), target.as_bytes(), name]);
    let mut id = [0; digest::SHA256_OUTPUT_LEN];
    id.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
    InboxId(id)
}

fn key_text(parts: &Parts) -> Option<String> {
    let key = parts.headers.get(IDEMPOTENCY_KEY)?;
    key.to_str().ok().map(str::to_owned)
}

/// What a command is about, as far as that is known: a start under a request key begins an execution whose id follows from it.
#[derive(Debug, Default)]
struct About {
    /// Its execution: what comes later for the same one does not overtake it.
    execution: Option<String>,
    /// The execution that its answer would name.
    answered: Option<String>,
    is_start: bool,
}

impl About {
    async fn of(app: &App, parts: &mut Parts) -> Self {
        let Some(path) = parts.extensions.get::<MatchedPath>() else {
            return Self::default();
        };
        let path = path.as_str().to_owned();
        let params = RawPathParams::from_request_parts(parts, &()).await.ok();
        let first = params.and_then(|params| Some(params.iter().next()?.1.to_owned()));
        let Some(first) = first else {
            return Self::default();
        };
        if path.starts_with("/api/v1/executions/") {
            // An id has one spelling.
            let execution = first.parse::<ExecutionId>().ok().map(|id| id.to_string());
            // Another one comes of a rerun.
            let answered = execution.clone().filter(|_| !path.ends_with("/rerun"));
            return Self {
                execution,
                answered,
                is_start: false,
            };
        }
        let is_start = path == "/api/v1/workflows/{id}/executions";
        let key = key_text(parts).filter(|_| is_start);
        let begun = key.map(|key| ExecutionId::derived(app.state.shards(), KeySpace::Request, &first, &key, 0));
        let execution = begun.map(|id| id.to_string());
        Self {
            answered: execution.clone(),
            execution,
            is_start,
        }
    }
}

fn accepted(answer: QueuedDto) -> Response {
    let retry = [(header::RETRY_AFTER, HeaderValue::from(1))];
    (StatusCode::ACCEPTED, retry, Extension(Queued), Json(answer)).into_response()
}

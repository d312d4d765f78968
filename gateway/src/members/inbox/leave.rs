//! The side that asks: leaves a command in the inbox of a shard whose owner cannot be reached.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ring::digest;
use serde::Deserialize;
use tokio::time::Instant;
use troupe_core::{ExecutionId, KeySpace, ShardId};
use troupe_ports::{InboxId, InboxPush};
use troupe_telemetry::InboxEnd;

use super::super::forward::IDEMPOTENCY_KEY;
use super::super::signature::framed;
use super::super::{Members, forward};
use super::letter::Letter;
use super::{MOST, Verdict};
use crate::app::App;
use crate::auth::Caller;
use crate::dto::QueuedDto;
use crate::error::ApiError;

/// A request that looks for the owner of its shard.
pub(in crate::members) struct Outgoing {
    /// From when on it is left in the inbox.
    grace_until: Instant,
    state: State,
}

enum State {
    /// It is not in an inbox.
    Asking,
    /// It is in one.
    Left {
        shard: ShardId,
        id: InboxId,
        answer: QueuedDto,
    },
    /// There is no room for it, or it is none that may wait.
    Direct,
}

impl Outgoing {
    /// One that has just begun to look.
    pub(in crate::members) fn new(grace: Duration) -> Self {
        Self {
            grace_until: Instant::now() + grace,
            state: State::Asking,
        }
    }

    /// Leaves the request in the inbox of its shard, once it has looked for the owner for long enough. `keyed`: the key that it has now is
    /// the one under which it was told that its shard is elsewhere. Fails in no way that the caller has to know of: it goes on looking.
    pub(in crate::members) async fn leave(
        &mut self,
        app: &App,
        members: &Members,
        (parts, body): (&mut Parts, &Bytes),
        shard: ShardId,
        keyed: bool,
    ) {
        if !matches!(self.state, State::Asking) || Instant::now() < self.grace_until {
            return;
        }
        if !may_wait(parts, body) {
            self.state = State::Direct;
            return;
        }
        let Some(name) = name_of(parts, body) else {
            if parts.method == Method::POST && !forward::has_business_key(body) {
                // The key decides the shard of a start: the next look tells it.
                forward::key(app, &mut parts.headers);
            } else {
                self.state = State::Direct;
            }
            return;
        };
        if !keyed && parts.headers.contains_key(IDEMPOTENCY_KEY) {
            return;
        }
        let id = id_of(parts, &name);
        self.state = match push(app, members, (parts, body), (shard, id)).await {
            Ok(InboxPush::Kept) => {
                members.inbox.ended(InboxEnd::Kept);
                tracing::info!(
                    shard = shard.0,
                    "a command is left in the inbox of its shard: its owner cannot be asked"
                );
                let answer = QueuedDto::new(execution(app, parts).await, key_text(parts));
                State::Left { shard, id, answer }
            }
            Ok(InboxPush::Full) => {
                members.inbox.ended(InboxEnd::Full);
                tracing::warn!(
                    shard = shard.0,
                    "the inbox of a shard whose owner cannot be asked is full"
                );
                State::Direct
            }
            // The store may be back before the time is over.
            Err(error) => {
                tracing::debug!(shard = shard.0, error = error.detail(), "the inbox cannot be reached");
                State::Asking
            }
        };
    }

    /// The answer once the time is over: that the command waits, or that nobody serves its shard.
    pub(in crate::members) fn given_up(self, nobody: Response) -> Response {
        match self.state {
            State::Left { answer, .. } => accepted(answer),
            State::Asking | State::Direct => nobody,
        }
    }

    /// The answer where one was given directly. What came of the command is told only once it waits no more.
    pub(in crate::members) async fn answered(self, app: &App, members: &Members, response: Response) -> Response {
        let State::Left { shard, id, answer } = self.state else {
            return response;
        };
        let verdict = Verdict::of(&response);
        if matches!(verdict, Verdict::Later | Verdict::NotHere) {
            return accepted(answer);
        }
        match app.state.inbox_withdraw(shard, id).await {
            Ok(()) => {
                members.inbox.ended(InboxEnd::Withdrawn);
                response
            }
            Err(error) => {
                tracing::debug!(shard = shard.0, %error, "a command that was answered stays in an inbox");
                // It is judged once more: what was applied stays so.
                if verdict == Verdict::Applied {
                    response
                } else {
                    accepted(answer)
                }
            }
        }
    }
}

/// Puts a request into the inbox of a shard.
async fn push(
    app: &App,
    members: &Members,
    (parts, body): (&Parts, &Bytes),
    (shard, id): (ShardId, InboxId),
) -> Result<InboxPush, ApiError> {
    let caller = parts.extensions.get::<Caller>().cloned();
    let caller = caller.unwrap_or_else(Caller::member);
    let letter = Letter::of(parts, body);
    let sealed = letter.sealed(members.key(), (shard, id), &caller, app.now())?;
    Ok(app.state.inbox_push(shard, id, sealed, MOST).await?)
}

/// Whether it means the same when it is applied later. A sign of life does not, nor what nobody waits for; and the calls of a webhook may be
/// signed with a time: their senders repeat them.
fn may_wait(parts: &Parts, body: &[u8]) -> bool {
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
        && path != "/api/v1/hooks/{id}"
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

/// The execution that the answer would name, where that is known: a start under a request key begins one whose id follows from it.
async fn execution(app: &App, parts: &mut Parts) -> Option<String> {
    let path = parts.extensions.get::<MatchedPath>()?.as_str().to_owned();
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let (_, first) = params.iter().next()?;
    if path.starts_with("/api/v1/executions/") {
        let is_own = !path.ends_with("/rerun");
        return is_own.then(|| first.to_owned());
    }
    if path != "/api/v1/workflows/{id}/executions" {
        return None;
    }
    let key = key_text(parts)?;
    let id = ExecutionId::derived(app.state.shards(), KeySpace::Request, first, &key, 0);
    Some(id.to_string())
}

fn accepted(answer: QueuedDto) -> Response {
    let retry = [(header::RETRY_AFTER, HeaderValue::from(1))];
    (StatusCode::ACCEPTED, retry, Json(answer)).into_response()
}

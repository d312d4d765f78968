//! Sends a request to the member that serves its shard.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::Instant;
use troupe_actors::Whereabouts;
use troupe_core::ShardId;

use super::inbox;
use super::signature::invalid;
use super::{Elsewhere, Heard, Members, Signed, body_bytes_max, heard, names_at};
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ProblemCode};
use crate::wiring::Planted;

/// On the answer of a member to another one: it does not serve that shard either, or is not the one that was meant.
pub(super) const NOT_HERE: &str = "x-troupe-not-here";
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Who prefers to wait for an end waits as long as it takes.
const PREFER: &str = "prefer";
/// Pause before the owner of a shard is looked for again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// How often a request that a member has not answered is checked against what is known of its shard.
pub(super) const OWNER_CHECKED: Duration = Duration::from_millis(250);

/// Runs a request here, or where its shard is.
pub(crate) async fn forwarded(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(members) = &app.members else {
        return next.run(request).await;
    };
    let (mut parts, body) = request.into_parts();
    let has_body = !matches!(parts.method, Method::GET | Method::HEAD);
    let signed = parts.extensions.get::<Signed>().cloned();
    // Before its body, which may take longer than a signature is remembered.
    if let Some(answer) = signed.as_ref().and_then(|signed| refused(&app, members, signed)) {
        return answer;
    }
    let bytes = if has_body {
        match body::read(&parts.headers, body, body_bytes_max(&app, signed.as_ref())).await {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => return error.into_response(),
        }
    } else {
        Bytes::new()
    };
    if signed.as_ref().is_some_and(|signed| !signed.covers(&bytes)) {
        return invalid("the body is not the one that was signed").into_response();
    }
    // A command whose outcome is not known can be given again under its key. A start gets one only if it has to go elsewhere: without one
    // it may begin in any shard.
    if parts.method == Method::POST && !parts.uri.path().ends_with("/executions") {
        key(&app, &mut parts.headers);
    }
    let until = Instant::now() + members.within;
    let may_wait = inbox::may_wait(&parts, &bytes) && !parts.headers.contains_key(PREFER);
    let mut refusal: Option<ApiError> = None;
    loop {
        let keyed = parts.headers.contains_key(IDEMPOTENCY_KEY);
        let again = Request::from_parts(parts.clone(), Body::from(bytes.clone()));
        let mut response = next.clone().run(again).await;
        let Some(Elsewhere(shard)) = response.extensions().get().copied() else {
            // The shard went while it was asked. Under its key the request is applied once, whoever has heard of it.
            let is_repeatable = parts.method == Method::GET || keyed;
            if !is_fenced(&response) || !is_repeatable || Instant::now() >= until {
                return response;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        };
        if signed.is_some() {
            let headers = response.headers_mut();
            headers.insert(NOT_HERE, HeaderValue::from(shard.0));
            return response;
        }
        // The key decides the shard of a start: where it has just got one, the next look tells it.
        if parts.method == Method::POST && !has_business_key(&bytes) {
            key(&app, &mut parts.headers);
        }
        let mut pause = LOOK_AGAIN;
        if let Whereabouts::At(address) = app.engine.whereabouts(shard) {
            let until = may_wait.then_some(until);
            match ask(&app, members, (&parts, &bytes), (&address, shard), until).await {
                Ok(Asked::Answered(answer)) => return answer,
                Ok(Asked::Nobody) => {}
                // It may go on so for long; its shard may move.
                Ok(Asked::Refused(error)) => (refusal, pause) = (Some(error), OWNER_CHECKED),
                Err(error) => return error.into_response(),
            }
        }
        if Instant::now() >= until {
            // Whoever refuses lives, and unless its clock alone differs can read no letter of this one either: that would wait for another owner.
            if let Some(refusal) = refusal {
                return refusal.into_response();
            }
            let left = inbox::left(&app, members, (&mut parts, &bytes), (shard, keyed)).await;
            return left.unwrap_or(response);
        }
        app.engine.look_again();
        tokio::time::sleep(pause).await;
    }
}

/// The answer to a signed request that is not taken: it is meant for another member, or came before.
fn refused(app: &App, members: &Members, signed: &Signed) -> Option<Response> {
    if !signed.is_meant_for(app.engine.name()) {
        let mut response = invalid("the request was signed for another member").into_response();
        // Who sent it looks again whom it finds here.
        response.headers_mut().insert(NOT_HERE, HeaderValue::from_static("1"));
        return Some(response);
    }
    let accepted = members.seen.accept(signed.nonce(), std::time::Instant::now());
    accepted.err().map(IntoResponse::into_response)
}

/// Whether another owner took the shard while it was asked.
fn is_fenced(response: &Response) -> bool {
    let code = response.extensions().get::<ProblemCode>();
    code.is_some_and(|ProblemCode(code)| code == "FENCED")
}

/// Whether it is a start under a business key: that is its key, and another one would be refused.
pub(super) fn has_business_key(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Start {
        #[serde(rename = "executionKey", default)]
        execution_key: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Start>(body).is_ok_and(|start| start.execution_key.is_some())
}

/// Sees to it that the request has a key under which it is applied once.
fn key(app: &App, headers: &mut HeaderMap) {
    if headers.contains_key(IDEMPOTENCY_KEY) && app.planted != Some(Planted::ForwardUnderFreshKey) {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(app.engine.fresh_command().as_str()) {
        headers.insert(IDEMPOTENCY_KEY, value);
    }
}

/// What came of asking a member.
enum Asked {
    Answered(Response),
    /// It does not serve the shard, or gives no answer that can be had, or none in time.
    Nobody,
    /// It does not take the signature of this one: what that means for whoever asked.
    Refused(ApiError),
}

/// Asks the member at `address`.
async fn ask(
    app: &App,
    members: &Members,
    (parts, body): (&Parts, &Bytes),
    (address, shard): (&str, ShardId),
    until: Option<Instant>,
) -> Result<Asked, ApiError> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    // Nobody has to say who they are where a call proves itself: then it proves itself there too.
    let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_else(Caller::member);
    let signed = Signed::new(&caller, body).meant_for(names_at(app, address));
    let mut headers = parts.headers.clone();
    for hop in NOT_FORWARDED {
        headers.remove(hop);
    }
    let (name, value) = members
        .key()
        .sign(&parts.method, target, &headers, app.now(), &signed)?;
    headers.insert(name, value);
    let request = members.http.request(parts.method.clone(), format!("{address}{target}"));
    let sent = async { heard(request.headers(headers).body(body.clone()).send().await?).await };
    let moved = async {
        loop {
            tokio::time::sleep(OWNER_CHECKED).await;
            match app.engine.whereabouts(shard) {
                Whereabouts::At(now) if now == address => {}
                Whereabouts::At(_) | Whereabouts::Here | Whereabouts::Nobody => return,
            }
        }
    };
    let answer = tokio::select! {
        answer = sent => answer,
        // An owner that is frozen answers nobody, and its successor may have applied what it has not.
        () = moved => return Ok(Asked::Nobody),
        // A line that swallows everything, perhaps.
        () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
            return Ok(Asked::Nobody);
        }
    };
    match answer {
        Ok(Heard::Answer(answer)) if answer.headers().contains_key(NOT_HERE) => Ok(Asked::Nobody),
        Ok(Heard::Answer(answer)) => Ok(Asked::Answered(passed_on(app, caller, answer))),
        Ok(Heard::Refusal(why)) => Ok(Asked::Refused(members.refused(address, &why))),
        Err(error) => {
            tracing::debug!(address, shard = shard.0, %error, "a member does not answer");
            Ok(Asked::Nobody)
        }
    }
}

/// Headers that belong to one connection, or to whoever asked this member.
pub(super) const NOT_FORWARDED: [HeaderName; 7] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::AUTHORIZATION,
    header::EXPECT,
    header::ORIGIN,
];

fn passed_on(app: &App, caller: Caller, answer: reqwest::Response) -> Response {
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    for hop in [header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(hop);
    }
    let content = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_endless = content.is_some_and(|content| content.starts_with(b"text/event-stream"));
    let body = answer.bytes_stream();
    let body = if is_endless {
        // It ends with this process, and with the caller's key.
        let refused = Box::pin(app.gate.clone().until_refused(caller));
        let closing = app.closing.clone().cancelled_owned();
        Body::from_stream(body.take_until(closing).take_until(refused))
    } else {
        Body::from_stream(body)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

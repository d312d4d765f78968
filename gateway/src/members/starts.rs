//! A start that nobody asked for over HTTP, such as a message's: it runs where its shard is.

use axum::http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::time::Instant;
use troupe_actors::{EngineError, StartRequest, Whereabouts};

use super::forward::{IDEMPOTENCY_KEY, LOOK_AGAIN, NOT_HERE, OWNER_CHECKED};
use super::{Heard, Members, Signed, heard, names_at};
use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::trace::TRACE_PARENT;

/// Starts an execution here, or at the member that has its shard; returns once it is durable, or was so before.
///
/// # Errors
/// As [`troupe_actors::EngineHandle::start`]; `UNAVAILABLE` where nobody has the shard for too long. Repeat it with the same
/// request key.
pub(crate) async fn start_anywhere(app: &App, request: StartRequest) -> Result<(), ApiError> {
    let within = app.members.as_ref().map(|members| members.within);
    let until = Instant::now() + within.unwrap_or_default();
    loop {
        let shard = match app.engine.start(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(EngineError::Elsewhere(shard)) => shard,
            Err(error) => return Err(error.into()),
        };
        let mut pause = LOOK_AGAIN;
        if let Some(members) = &app.members
            && let Whereabouts::At(address) = app.engine.whereabouts(shard)
        {
            match ask(app, members, &address, &request).await? {
                Asked::Answered(answer) => return answer,
                Asked::Nobody => {}
                // It may go on so for long, and many messages may wait for it.
                Asked::Refused => pause = OWNER_CHECKED,
            }
        }
        if Instant::now() >= until {
            return Err(EngineError::Elsewhere(shard).into());
        }
        app.engine.look_again();
        tokio::time::sleep(pause).await;
    }
}

/// What came of asking a member.
enum Asked {
    /// What it makes of the start.
    Answered(Result<(), ApiError>),
    /// It does not answer, or has not the shard either.
    Nobody,
    /// It does not take the signature of this one.
    Refused,
}

/// Asks the member at `address`.
async fn ask(app: &App, members: &Members, address: &str, request: &StartRequest) -> Result<Asked, ApiError> {
    // As it stands: what is read and written anew may be longer than what was let through here.
    let trigger = request.trigger.as_deref().map(Value::from);
    let trigger = trigger.map_or_else(String::new, |trigger| format!(r#","trigger":{trigger}"#));
    let body = format!(r#"{{"input":{}{trigger}}}"#, request.input.as_str());
    let workflow: String = request.workflow.as_str().bytes().map(encoded).collect();
    let target = format!("/api/v1/workflows/{workflow}/executions");
    let name = request
        .principal
        .as_ref()
        .map_or("event", |principal| principal.as_str());
    let signed = Signed::new(&Caller::trigger(name), body.as_bytes()).meant_for(names_at(app, address));
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in [
        (IDEMPOTENCY_KEY, &request.request_key),
        (TRACE_PARENT, &request.trace_parent),
    ] {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value).map_err(|error| ApiError::new("INTERNAL", error.to_string()))?;
            headers.insert(name, value);
        }
    }
    let (name, value) = members.key.sign(&Method::POST, &target, &headers, app.now(), &signed)?;
    headers.insert(name, value);
    let asked = members
        .http
        .post(format!("{address}{target}"))
        .timeout(members.within)
        .headers(headers)
        .body(body);
    let answered = async { heard(asked.send().await?).await };
    let answer = match answered.await {
        Ok(Heard::Answer(answer)) => answer,
        Ok(Heard::Refusal(why)) => {
            // Told in the log: the message waits.
            members.refused(address, &why);
            return Ok(Asked::Refused);
        }
        Err(error) => {
            tracing::debug!(address, %error, "a member does not answer");
            return Ok(Asked::Nobody);
        }
    };
    if answer.headers().contains_key(NOT_HERE) {
        return Ok(Asked::Nobody);
    }
    if answer.status().is_success() {
        return Ok(Asked::Answered(Ok(())));
    }
    let status = answer.status();
    let bytes = answer.bytes().await.unwrap_or_default();
    let problem: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!({}));
    let text = |name: &str| problem[name].as_str().map(str::to_owned);
    let code = text("code").unwrap_or_else(|| "UNAVAILABLE".to_owned());
    let detail = text("detail").unwrap_or_else(|| format!("the member at {address} answers {status}"));
    Ok(Asked::Answered(Err(ApiError::new(code, detail))))
}

/// A byte of one segment of a path. Source: RFC 3986, section 2.3.
fn encoded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

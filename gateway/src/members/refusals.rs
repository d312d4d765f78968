//! Members that take nothing which this one signs: their clocks, secrets or builds differ. Nothing has happened there, and whoever asked here is
//! not to blame: to them it is a member that does not answer. Nothing is left for it in an inbox, where letters are signed as well.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use parking_lot::Mutex;

use super::NOT_TAKEN;
use super::forward::NOT_HERE;
use crate::error::{ApiError, Problem};

/// How often the log is told of the same member: it may be asked many times a second.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Of a longer answer nobody reads why it refuses.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;
/// Where a refusal has no body that can be read.
const UNTOLD: &str = "it does not say why";
const HINT: &str =
    "let the clocks of all members follow a time server, and give them the same `cluster.secret` and release";

/// What a member says.
pub(super) enum Heard {
    Answer(reqwest::Response),
    /// Why it does not take the signature of this one.
    Refusal(String),
}

/// Tells the answers of a member from its refusals of a signature. That it was meant for another one is an answer: that tells who is there.
pub(super) async fn heard(answer: reqwest::Response) -> Result<Heard, reqwest::Error> {
    let is_short = answer.content_length().is_some_and(|bytes| bytes <= REFUSAL_BYTES_MAX);
    let may_refuse = answer.status() == StatusCode::UNAUTHORIZED && !answer.headers().contains_key(NOT_HERE);
    if may_refuse && answer.headers().contains_key(NOT_TAKEN) {
        // One to `HEAD` has no body, and whatever is in between may send it on without a length.
        let bytes = if is_short {
            answer.bytes().await.unwrap_or_default()
        } else {
            Bytes::new()
        };
        return Ok(Heard::Refusal(refusal(&bytes).unwrap_or_else(|| UNTOLD.to_owned())));
    }
    if !is_short || !may_refuse {
        return Ok(Heard::Answer(answer));
    }
    // Earlier builds mark nothing.
    let (status, headers) = (answer.status(), answer.headers().clone());
    let bytes = answer.bytes().await?;
    if let Some(why) = refusal(&bytes) {
        return Ok(Heard::Refusal(why));
    }
    let mut answer = axum::http::Response::new(bytes);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(Heard::Answer(answer.into()))
}

fn refusal(body: &Bytes) -> Option<String> {
    let problem: Problem = serde_json::from_slice(body).ok()?;
    (problem.code == "MEMBER_SIGNATURE_INVALID").then_some(problem.detail)
}

/// What it means for whoever asked here.
pub(super) fn unanswered(address: &str, why: &str) -> ApiError {
    let detail = format!("the member at {address} takes nothing that this one signs: {why}");
    ApiError::new("UNAVAILABLE", detail).with_hint(HINT)
}

/// When the log was last told that a member refuses, by address.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<String, Instant>>);

impl Refusals {
    /// Whether the log is to be told of this one.
    pub(super) fn is_news(&self, address: &str, now: Instant) -> bool {
        let mut told = self.0.lock();
        told.retain(|_, at| now.saturating_duration_since(*at) < TOLD_EVERY);
        if told.contains_key(address) {
            return false;
        }
        told.insert(address.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::response::IntoResponse;

    use super::*;

    /// An answer as it comes from a member.
    async fn answer(response: axum::response::Response) -> reqwest::Response {
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        axum::http::Response::from_parts(parts, bytes).into()
    }

    fn refused() -> axum::response::Response {
        ApiError::new("MEMBER_SIGNATURE_INVALID", "the clocks differ").into_response()
    }

    /// Why it refuses.
    async fn refusal_of(answer: reqwest::Response) -> String {
        match heard(answer).await.unwrap() {
            Heard::Refusal(why) => why,
            Heard::Answer(answer) => panic!("it is no answer for a client: {answer:?}"),
        }
    }

    #[tokio::test]
    async fn a_refused_signature_is_told_from_what_a_client_is_answered() {
        let mut unmarked = refused();
        unmarked.headers_mut().remove(NOT_TAKEN);
        for response in [refused(), unmarked] {
            let why = refusal_of(answer(response).await).await;
            assert_eq!(why, "the clocks differ");
            let problem = unanswered("http://a", &why).problem();
            assert_eq!((problem.status, &*problem.code), (503, "UNAVAILABLE"));
            assert!(problem.detail.contains(&why) && problem.hint.unwrap().contains("clocks"));
        }

        let mut elsewhere = refused();
        elsewhere.headers_mut().insert(NOT_HERE, "1".parse().unwrap());
        let hook = ApiError::new("SIGNATURE_INVALID", "the call is not signed").into_response();
        for response in [elsewhere, hook, (StatusCode::UNAUTHORIZED, "no").into_response()] {
            let headers = response.headers().clone();
            let Heard::Answer(passed_on) = heard(answer(response).await).await.unwrap() else {
                panic!("it is for the client");
            };
            assert_eq!(
                (passed_on.status(), passed_on.headers()),
                (StatusCode::UNAUTHORIZED, &headers)
            );
            assert!(!passed_on.bytes().await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_by_its_mark_where_its_body_tells_nothing() {
        let (parts, _) = refused().into_parts();
        assert!(parts.headers.contains_key(NOT_TAKEN));
        // To `HEAD`; and in pieces, which have no length.
        let bare = axum::http::Response::from_parts(parts.clone(), Bytes::new());
        let pieces = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{}"))]);
        let pieces = axum::http::Response::from_parts(parts, reqwest::Body::wrap_stream(pieces));
        for answer in [reqwest::Response::from(bare), reqwest::Response::from(pieces)] {
            assert_eq!(refusal_of(answer).await, UNTOLD);
        }
        // The same of another status is none.
        let mut served = refused();
        *served.status_mut() = StatusCode::OK;
        assert!(matches!(heard(answer(served).await).await, Ok(Heard::Answer(_))));
    }

    #[test]
    fn a_member_that_refuses_again_and_again_is_told_now_and_then() {
        const STEP: Duration = Duration::from_millis(500);
        let (refusals, begun) = (Refusals::default(), Instant::now());
        let told = |address: &str, after: Duration| refusals.is_news(address, begun + after);
        assert!(told("a", Duration::ZERO));
        assert!(told("b", Duration::ZERO));
        assert!(!told("a", STEP));
        assert!(!told("a", TOLD_EVERY - STEP));
        assert!(told("a", TOLD_EVERY));
        assert!(!told("a", TOLD_EVERY + STEP));
    }
}

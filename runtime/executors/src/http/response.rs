//! Turns a response into a node's output or failure.

use base64::Engine as _;
use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde_json::{Map, Value as JsonValue, json};
use troupe_core::execution::AttemptFailure;
use troupe_core::{ErrorInfo, Json, Timestamp};

use super::failure::shown;
use super::send::Answer;

/// Part of a failed response's body that the error keeps, in bytes.
const ERROR_BODY_BYTES_MAX: usize = 16 * 1024;
/// Longest delay that a target may ask for, in milliseconds.
const RETRY_AFTER_MAX_MS: u64 = 24 * 3_600 * 1_000;

/// `{status, headers, body}`, or `HTTP_<status>` from 400 on.
///
/// # Errors
/// The failure, with the delay that the target asks for.
pub(super) fn output(answer: &Answer, method: &str, now: Timestamp) -> Result<Json, AttemptFailure> {
    let status = answer.status.as_u16();
    if status < 400 {
        let body = body(&answer.headers, &answer.body);
        return Ok(Json::of(
            &json!({"status": status, "headers": headers(&answer.headers), "body": body}),
        ));
    }
    let reason = answer.status.canonical_reason().unwrap_or("an error");
    let message = format!("{method} {} answered {status} {reason}", shown(&answer.url));
    let kept = &answer.body[..answer.body.len().min(ERROR_BODY_BYTES_MAX)];
    let details = json!({"status": status, "headers": headers(&answer.headers), "body": body(&answer.headers, kept)});
    let error = ErrorInfo {
        details: Some(Json::of(&details)),
        ..ErrorInfo::new(format!("HTTP_{status}"), message)
    };
    let retry_after_ms = retry_after_ms(&answer.headers, now);
    Err(AttemptFailure {
        error,
        retryable: is_retryable(status),
        retry_after_ms,
    })
}

/// 4xx is the request's fault, except for 408, 425 and 429.
fn is_retryable(status: u16) -> bool {
    status >= 500 || matches!(status, 408 | 425 | 429)
}

fn headers(headers: &HeaderMap) -> Map<String, JsonValue> {
    let mut read = Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        read.insert(name.as_str().to_owned(), JsonValue::String(values.join(", ")));
    }
    read
}

/// JSON by content type, else text, else `{base64, contentType}`; null when empty.
fn body(headers: &HeaderMap, bytes: &[u8]) -> JsonValue {
    if bytes.is_empty() {
        return JsonValue::Null;
    }
    let declared = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = declared
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if (kind == "application/json" || kind.ends_with("+json"))
        && let Ok(value) = serde_json::from_slice(bytes)
    {
        return value;
    }
    let textual = kind.is_empty()
        || kind.starts_with("text/")
        || kind.ends_with("+xml")
        || kind.ends_with("json")
        || matches!(
            &*kind,
            "application/xml" | "application/javascript" | "application/x-www-form-urlencoded"
        );
    match std::str::from_utf8(bytes) {
        Ok(text) if textual => JsonValue::from(text),
        Err(_) if textual && !kind.is_empty() => JsonValue::from(String::from_utf8_lossy(bytes)),
        Ok(_) | Err(_) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
            json!({"base64": encoded, "contentType": declared})
        }
    }
}

/// `Retry-After` as a delay: seconds, or a date.
fn retry_after_ms(headers: &HeaderMap, now: Timestamp) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay_ms = match text.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) => {
            let at: DateTime<Utc> = DateTime::parse_from_rfc2822(text).ok()?.into();
            Timestamp(at.timestamp_millis()).since_ms(now)
        }
    };
    Some(delay_ms.min(RETRY_AFTER_MAX_MS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers_of(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp(1_445_412_450_000);
        for (text, expected) in [
            ("120", Some(120_000)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(30_000)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("99999999999", Some(RETRY_AFTER_MAX_MS)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(
                retry_after_ms(&headers_of(&[("retry-after", text)]), now),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn bodies_are_read_by_their_type() {
        for (kind, bytes, expected) in [
            ("application/json; charset=utf-8", &b"{\"a\":1}"[..], json!({"a": 1})),
            ("application/problem+json", b"[1]", json!([1])),
            ("application/json", b"{broken", json!("{broken")),
            ("text/html", b"<p>\xff</p>", json!("<p>\u{fffd}</p>")),
            (
                "image/png",
                b"\x89PNG",
                json!({"base64": "iVBORw==", "contentType": "image/png"}),
            ),
            ("text/plain", b"", json!(null)),
        ] {
            assert_eq!(body(&headers_of(&[("content-type", kind)]), bytes), expected, "{kind}");
        }
        assert_eq!(body(&HeaderMap::new(), b"text"), json!("text"));
    }

    #[test]
    fn only_what_may_change_by_itself_is_retried() {
        let retried: Vec<u16> = (400..600).filter(|status| is_retryable(*status)).take(4).collect();
        assert_eq!(retried, [408, 425, 429, 500]);
    }
}

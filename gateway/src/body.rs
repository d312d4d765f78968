//! Reading request bodies within limits; every way to fail has a code.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde_json::Value;

use crate::error::{ApiError, ErrorItem};

/// Bytes of a refused body that are read and thrown away, and how long at most. A client that is still sending when
/// the connection closes sees a broken pipe instead of the answer.
const REFUSED_BYTES_MAX: usize = 128 << 20;
const REFUSED_TIME_MAX: Duration = Duration::from_secs(10);

/// Reads a body of at most `bytes_max` bytes.
///
/// # Errors
/// `BODY_TOO_LARGE` as soon as it is known, `BODY_INCOMPLETE` when the client goes away.
pub(crate) async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Vec<u8>, ApiError> {
    let detail = format!("a body may have {bytes_max} bytes (`limits.body_kib`)");
    let too_large = || ApiError::new("BODY_TOO_LARGE", detail.clone());
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let mut chunks = body.into_data_stream();
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        // Who asks before sending hears the answer at once: not reading is what tells them not to send.
        if !headers.contains_key(header::EXPECT) {
            throw_away(chunks).await;
        }
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::new("BODY_INCOMPLETE", error.to_string()))?;
        if bytes.len() + chunk.len() > bytes_max {
            drop(bytes);
            throw_away(chunks).await;
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn throw_away(mut chunks: BodyDataStream) {
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            bytes += chunk.len();
            if bytes > REFUSED_BYTES_MAX {
                return;
            }
        }
    };
    // A client that is slower than this gets the answer while it sends.
    if tokio::time::timeout(REFUSED_TIME_MAX, all).await.is_err() {
        tracing::debug!("a refused body was not read to its end");
    }
}

/// Parses a JSON body; an empty one is none.
///
/// # Errors
/// `INVALID_UTF8`, `NESTING_TOO_DEEP` and `INVALID_JSON`, with line and column.
pub(crate) fn parse(bytes: &[u8], nesting_max: usize) -> Result<Option<Value>, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let detail = format!("the byte at offset {} is not UTF-8", error.valid_up_to());
        unreadable("INVALID_UTF8", detail, None)
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    if nesting(bytes) > nesting_max {
        let detail = format!("lists and objects may nest {nesting_max} deep");
        return Err(unreadable("NESTING_TOO_DEEP", detail, None));
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| unreadable("INVALID_JSON", error.to_string(), Some((error.line(), error.column()))))
}

/// The body as a whole is at fault.
fn unreadable(code: &'static str, detail: String, place: Option<(usize, usize)>) -> ApiError {
    let item = ErrorItem {
        pointer: String::new(),
        code: code.into(),
        detail: detail.clone(),
        hint: None,
        severity: None,
        line: place.and_then(|(line, _)| u32::try_from(line).ok()),
        column: place.and_then(|(_, column)| u32::try_from(column).ok()),
    };
    ApiError::new(code, detail).with_errors(vec![item])
}

/// Deepest nesting of brackets outside of strings, without recursion.
fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bad_bodies_are_named() {
        let code = |bytes: &[u8]| parse(bytes, 10).unwrap_err().code().to_owned();
        assert_eq!(code(b"\xff"), "INVALID_UTF8");
        assert_eq!(code(&[b'['; 10_000]), "NESTING_TOO_DEEP");
        let error = parse(b"{\n  \"a\": }", 10).unwrap_err().problem();
        assert_eq!((error.errors[0].line, error.errors[0].column), (Some(2), Some(8)));
        assert_eq!(parse(b" \n", 10).unwrap(), None);
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert_eq!(nesting(br#"{"a\"[[[": [1, "]]", {}]}"#), 3);
    }

    #[tokio::test]
    async fn the_limit_holds_with_and_without_an_announced_length() {
        let mut headers = HeaderMap::new();
        assert_eq!(read(&headers, Body::from("12345"), 5).await.unwrap(), b"12345");
        assert_eq!(
            read(&headers, Body::from("123456"), 5).await.unwrap_err().code(),
            "BODY_TOO_LARGE"
        );
        headers.insert(header::CONTENT_LENGTH, 6.into());
        assert_eq!(
            read(&headers, Body::empty(), 5).await.unwrap_err().code(),
            "BODY_TOO_LARGE"
        );
    }
}

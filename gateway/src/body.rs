//! Reading request bodies within limits; every way to fail has a code.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde_json::Value;
use troupe_core::definition::{Limits, parse_json};

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

/// Parses a JSON body, as strictly as a definition; an empty one is none.
///
/// # Errors
/// `INVALID_UTF8`, `NESTING_TOO_DEEP`, `INVALID_JSON` and `DUPLICATE_KEY`, with line and column.
pub(crate) fn parse(bytes: &[u8], nesting_max: usize) -> Result<Option<Value>, ApiError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let limits = Limits {
        bytes_max: usize::MAX,
        nesting_max,
        ..Limits::default()
    };
    parse_json(bytes, &limits).map(Some).map_err(|problems| {
        let items: Vec<ErrorItem> = problems.iter().map(ErrorItem::from).collect();
        match problems.into_iter().next() {
            Some(first) => ApiError::new(first.code, first.message).with_errors(items),
            None => ApiError::new("INVALID_JSON", "it cannot be read"),
        }
    })
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
        assert_eq!(code(b"{} x"), "INVALID_JSON");
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_in_its_place() {
        let error = parse(b"{\"a\": [0, {\"b/c\": 1,\n \"b/c\": 1}]}", 10)
            .unwrap_err()
            .problem();
        assert_eq!(error.code, "DUPLICATE_KEY");
        let item = &error.errors[0];
        assert_eq!((item.line, item.column), (Some(2), Some(9)));
        assert_eq!(item.pointer, "/a/1/b~1c");
        // What breaks off after such a key is another fault; the same key in two objects is none.
        assert_eq!(parse(b"{\"a\": {\"a\": }}", 10).unwrap_err().code(), "INVALID_JSON");
        assert!(parse(b"[{\"a\": {\"a\": 1}}, {\"a\": 2}]", 10).is_ok());
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        for text in [
            r#"{"b": [1, -2, 1.5e300, null, true, "\u00e9", {}], "a": 18446744073709551615}"#,
            "7",
            "\"x\"",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            let read = parse(text.as_bytes(), 10).unwrap().unwrap();
            assert_eq!(read.to_string(), expected.to_string());
        }
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

//! Reading request bodies within limits; every way to fail has a code.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde_json::Value;

use crate::error::{ApiError, ErrorItem};

/// Reads a body of at most `bytes_max` bytes.
///
/// # Errors
/// `BODY_TOO_LARGE` as soon as it is known, `BODY_INCOMPLETE` when the client goes away.
pub(crate) async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || ApiError::new("BODY_TOO_LARGE", format!("a body may have {bytes_max} bytes"));
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large());
    }
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::new("BODY_INCOMPLETE", error.to_string()))?;
        if bytes.len() + chunk.len() > bytes_max {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Parses a JSON body; an empty one is none.
///
/// # Errors
/// `INVALID_UTF8`, `NESTING_TOO_DEEP` and `INVALID_JSON`, with line and column.
pub(crate) fn parse(bytes: &[u8], nesting_max: usize) -> Result<Option<Value>, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ApiError::new(
            "INVALID_UTF8",
            format!("the byte at offset {} is not UTF-8", error.valid_up_to()),
        )
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    if nesting(bytes) > nesting_max {
        return Err(ApiError::new(
            "NESTING_TOO_DEEP",
            format!("lists and objects may nest {nesting_max} deep"),
        ));
    }
    serde_json::from_str(text).map(Some).map_err(|error| {
        let detail = error.to_string();
        let item = ErrorItem {
            pointer: String::new(),
            code: "INVALID_JSON".into(),
            detail: detail.clone(),
            hint: None,
            severity: None,
            line: u32::try_from(error.line()).ok(),
            column: u32::try_from(error.column()).ok(),
        };
        ApiError::new("INVALID_JSON", detail).with_errors(vec![item])
    })
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

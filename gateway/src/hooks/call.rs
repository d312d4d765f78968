//! What a node is given of a call: body, headers, query and method, as JSON.

use axum::http::{HeaderMap, Method, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::body;
use crate::error::ApiError;

/// Headers that belong to one connection, or say who somebody is: no business of a workflow.
const LEFT_OUT: [header::HeaderName; 11] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::COOKIE,
    header::SET_COOKIE,
    header::AUTHORIZATION,
    header::HeaderName::from_static("keep-alive"),
];

/// A call as a node is given it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// JSON as it is, a form as an object, a text as a string, anything else in base64; nothing is null.
    pub(crate) body: Value,
    headers: Map<String, Value>,
    query: Map<String, Value>,
    method: String,
}

impl Call {
    /// `{body, headers, query, method}`.
    pub(crate) fn into_value(self) -> Value {
        json!({"body": self.body, "headers": self.headers, "query": self.query, "method": self.method})
    }
}

/// Reads a call, its body by its `Content-Type`.
///
/// # Errors
/// Those of [`body::parse`] for JSON, `INVALID_UTF8` for a form or a text that is none.
pub(crate) fn read_call(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    bytes: &[u8],
    nesting_max: usize,
) -> Result<Call, ApiError> {
    Ok(Call {
        body: read_body(headers, bytes, nesting_max)?,
        headers: read_headers(headers),
        query: pairs(uri.query().unwrap_or_default()),
        method: method.as_str().to_owned(),
    })
}

fn read_body(headers: &HeaderMap, bytes: &[u8], nesting_max: usize) -> Result<Value, ApiError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    let text = || {
        let wrong = |error: std::str::Utf8Error| ApiError::new("INVALID_UTF8", error.to_string());
        std::str::from_utf8(bytes).map_err(wrong)
    };
    if media_type == "application/json" || media_type.ends_with("+json") {
        return Ok(body::parse(bytes, nesting_max)?.unwrap_or(Value::Null));
    }
    if media_type == "application/x-www-form-urlencoded" {
        return Ok(Value::Object(pairs(text()?)));
    }
    if media_type.starts_with("text/") {
        return Ok(Value::from(text()?));
    }
    Ok(Value::from(STANDARD.encode(bytes)))
}

/// Names and values of a form or a query; a name that comes several times has a list.
fn pairs(text: &str) -> Map<String, Value> {
    let mut members: Map<String, Value> = Map::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let value = Value::from(value);
        match members.get_mut(&*name) {
            None => {
                members.insert(name.into_owned(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::from(vec![first.take(), value]),
        }
    }
    members
}

/// Names in lower case; values that come several times are joined by commas, those that are no text left out.
fn read_headers(headers: &HeaderMap) -> Map<String, Value> {
    let of_connection: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut read = Map::new();
    for name in headers.keys() {
        if LEFT_OUT.contains(name) || of_connection.iter().any(|listed| listed == name.as_str()) {
            continue;
        }
        let values: Vec<&str> = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        if !values.is_empty() {
            read.insert(name.as_str().to_owned(), Value::from(values.join(", ")));
        }
    }
    read
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn read(content_type: Option<&str>, bytes: &[u8]) -> Result<Value, String> {
        let headers = content_type.map_or_else(HeaderMap::new, |kind| headers(&[("content-type", kind)]));
        read_body(&headers, bytes, 4).map_err(|error| error.code().to_owned())
    }

    #[test]
    fn a_body_is_what_its_type_says() {
        for (kind, bytes, expected) in [
            (Some("application/json"), &b"{\"a\": [1]}"[..], json!({"a": [1]})),
            (Some("Application/CloudEvents+JSON; charset=utf-8"), b"7", json!(7)),
            (
                Some("application/x-www-form-urlencoded"),
                b"a=1&b=x+y%26&a=2&c",
                json!({"a": ["1", "2"], "b": "x y&", "c": ""}),
            ),
            (Some("text/plain"), "é".as_bytes(), json!("é")),
            (Some("image/png"), b"\xff\x00", json!("/wA=")),
            (None, b"{}", json!("e30=")),
            (Some("application/json"), b"", Value::Null),
            (Some("application/json"), b" ", Value::Null),
        ] {
            assert_eq!(read(kind, bytes), Ok(expected), "{kind:?}");
        }
        for (kind, bytes, code) in [
            ("application/json", &b"{"[..], "INVALID_JSON"),
            ("application/json", b"[[[[[1]]]]]", "NESTING_TOO_DEEP"),
            ("application/json", b"{\"a\":1,\"a\":2}", "DUPLICATE_KEY"),
            ("text/plain", b"\xff", "INVALID_UTF8"),
            ("application/x-www-form-urlencoded", b"\xff", "INVALID_UTF8"),
        ] {
            assert_eq!(read(Some(kind), bytes), Err(code.to_owned()), "{kind}");
        }
    }

    #[test]
    fn what_says_who_somebody_is_stays_outside() {
        let headers = headers(&[
            ("X-Event", "push"),
            ("x-many", "1"),
            ("x-many", "2"),
            ("Authorization", "Bearer t"),
            ("Cookie", "session=1"),
            ("Connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
        ]);
        let uri: Uri = "/api/v1/hooks/h?a=1&a=2&b=%20".parse().unwrap();
        let call = read_call(&Method::PUT, &uri, &headers, b"", 4).unwrap().into_value();
        let expected = json!({
            "body": null, "headers": {"x-event": "push", "x-many": "1, 2"},
            "query": {"a": ["1", "2"], "b": " "}, "method": "PUT",
        });
        assert_eq!(call, expected);
    }
}

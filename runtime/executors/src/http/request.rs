//! Reads an HTTP request out of a node's data.

use std::collections::HashSet;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::{Map, Value as JsonValue};
use troupe_core::ErrorInfo;

use super::auth::Authentication;
use crate::codes;
use crate::secrets::{Redactor, Resolved};

/// Redirects that are followed unless the node says less.
const REDIRECTS_MAX: u64 = 5;
/// Largest request body, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A request, ready to send but for its authentication.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// Headers that must not leave the origin that they were written for.
    pub(super) confidential: HashSet<HeaderName>,
    pub(super) body: Option<Vec<u8>>,
    /// Whether the body holds a secret.
    pub(super) body_confidential: bool,
    pub(super) authentication: Authentication,
    pub(super) redirects_max: usize,
    pub(super) redactor: Redactor,
}

/// Source: W3C Trace Context.
const TRACE_PARENT: &str = "traceparent";

impl Request {
    /// Reads the data; `idempotency_key` goes along where the method may change something, `trace_parent` always. Headers of the data win.
    ///
    /// # Errors
    /// `HTTP_REQUEST_INVALID` at the first field that cannot be used.
    pub(super) fn read(
        resolved: Resolved,
        idempotency_key: &str,
        trace_parent: Option<&str>,
    ) -> Result<Self, ErrorInfo> {
        let Resolved {
            data,
            secret_at,
            mut redactor,
        } = resolved;
        let authentication = Authentication::read(&data, &mut redactor)?;
        let method = method(&data)?;
        let url = url(&data)?;
        let confidential_at = |name: &str| secret_at.contains(&format!("/headers/{}", escaped(name)));
        let (mut headers, mut confidential) = (HeaderMap::new(), HashSet::new());
        for (name, value) in members(&data, "headers")? {
            let header =
                HeaderName::try_from(name.as_str()).map_err(|_| invalid(format!("`{name}` is no header name")))?;
            let mut text = HeaderValue::from_bytes(scalar(value, name)?.as_bytes()).map_err(|_| {
                invalid(format!(
                    "the value of header `{name}` has characters that headers cannot have"
                ))
            })?;
            if confidential_at(name) {
                text.set_sensitive(true);
                confidential.insert(header.clone());
            }
            headers.append(header, text);
        }
        let body = body(&data, &mut headers)?;
        let safe = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        let wanted = data.get("idempotencyKey") != Some(&JsonValue::Bool(false));
        if !safe && wanted && !headers.contains_key("idempotency-key") {
            let key = HeaderValue::from_str(idempotency_key);
            headers.insert(
                "idempotency-key",
                key.map_err(|_| invalid("the idempotency key is no header value"))?,
            );
        }
        if let Some(trace_parent) = trace_parent.filter(|_| !headers.contains_key(TRACE_PARENT)) {
            let value = HeaderValue::from_str(trace_parent);
            headers.insert(
                TRACE_PARENT,
                value.map_err(|_| invalid("the trace context is no header value"))?,
            );
        }
        let follow = data.get("followRedirects") != Some(&JsonValue::Bool(false));
        let most = data
            .get("maxRedirects")
            .and_then(JsonValue::as_u64)
            .unwrap_or(REDIRECTS_MAX)
            .min(REDIRECTS_MAX);
        Ok(Self {
            method,
            url,
            headers,
            confidential,
            body,
            body_confidential: secret_at.iter().any(|at| at == "/body" || at.starts_with("/body/")),
            authentication,
            redirects_max: if follow { usize::try_from(most).unwrap_or(0) } else { 0 },
            redactor,
        })
    }
}

pub(super) fn invalid(message: impl Into<String>) -> ErrorInfo {
    ErrorInfo::new(codes::HTTP_REQUEST_INVALID, message)
}

fn method(data: &Map<String, JsonValue>) -> Result<Method, ErrorInfo> {
    let text = match data.get("method") {
        None | Some(JsonValue::Null) => "GET",
        Some(JsonValue::String(text)) => text,
        Some(_) => return Err(invalid("`method` must be text")),
    };
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes());
    match method {
        Ok(method) if method != Method::CONNECT => Ok(method),
        _ => Err(invalid(format!("`{text}` is no method"))),
    }
}

fn url(data: &Map<String, JsonValue>) -> Result<Url, ErrorInfo> {
    let text = data
        .get("url")
        .and_then(JsonValue::as_str)
        .ok_or_else(|| invalid("`url` is missing"))?;
    let mut url = Url::parse(text).map_err(|error| invalid(format!("`url` cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!(
            "`url` must begin with http or https, not with {}",
            url.scheme()
        )));
    }
    let query = members(data, "query")?;
    for (name, value) in query {
        let many = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in many.iter().filter(|value| !value.is_null()) {
            url.query_pairs_mut().append_pair(name, &scalar(value, name)?);
        }
    }
    Ok(url)
}

fn body(data: &Map<String, JsonValue>, headers: &mut HeaderMap) -> Result<Option<Vec<u8>>, ErrorInfo> {
    let Some(body) = data.get("body").filter(|body| !body.is_null()) else {
        return Ok(None);
    };
    let declared = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let form = declared.starts_with("application/x-www-form-urlencoded");
    let (bytes, default_type) = match body {
        JsonValue::String(text) => (text.clone().into_bytes(), "text/plain; charset=utf-8"),
        JsonValue::Object(fields) if form => {
            let mut pairs = url::form_urlencoded::Serializer::new(String::new());
            for (name, value) in fields {
                pairs.append_pair(name, &scalar(value, name)?);
            }
            (pairs.finish().into_bytes(), "")
        }
        other => (other.to_string().into_bytes(), "application/json"),
    };
    if bytes.len() > BODY_BYTES_MAX {
        let message = format!(
            "the request body has {} bytes, the limit is {BODY_BYTES_MAX}",
            bytes.len()
        );
        return Err(ErrorInfo::new(codes::INPUT_TOO_LARGE, message));
    }
    if declared.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(default_type));
    }
    Ok(Some(bytes))
}

/// The members of an object field; an absent one has none.
fn members<'a>(data: &'a Map<String, JsonValue>, field: &str) -> Result<Vec<(&'a String, &'a JsonValue)>, ErrorInfo> {
    match data.get(field) {
        None | Some(JsonValue::Null) => Ok(Vec::new()),
        Some(JsonValue::Object(members)) => Ok(members.iter().filter(|(_, value)| !value.is_null()).collect()),
        Some(_) => Err(invalid(format!("`{field}` must be an object"))),
    }
}

/// Text, a number or a boolean, as text.
fn scalar(value: &JsonValue, name: &str) -> Result<String, ErrorInfo> {
    match value {
        JsonValue::String(text) => Ok(text.clone()),
        JsonValue::Number(number) => Ok(number.to_string()),
        JsonValue::Bool(truth) => Ok(truth.to_string()),
        JsonValue::Null | JsonValue::Array(_) | JsonValue::Object(_) => {
            Err(invalid(format!("`{name}` must be text, a number or a boolean")))
        }
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

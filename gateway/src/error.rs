//! Errors of the API: one table from codes to statuses, one body (RFC 9457).

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use troupe_actors::{EngineError, NEWER_FORMAT_HINT};
use troupe_core::control::Scope;
use troupe_core::definition::Diagnostic;
use troupe_core::{ErrorInfo, ExecutionId, ShardId};
use troupe_ports::{DefinitionError, KeyError, StoreError};

use crate::members::{Elsewhere, NOT_TAKEN};

/// Another process has the store open.
pub const STORE_IN_USE: &str = "STORE_IN_USE";

/// Code, status and title of everything the API refuses. The only place that maps codes to statuses.
pub const TABLE: &[(&str, u16, &str)] = &[
    ("INVALID_JSON", 400, "The body is not JSON"),
    ("INVALID_YAML", 400, "The body is not YAML"),
    ("INVALID_UTF8", 400, "The body is not UTF-8"),
    ("DUPLICATE_KEY", 400, "An object has a key twice"),
    ("NESTING_TOO_DEEP", 400, "The body nests too deep"),
    ("BODY_INCOMPLETE", 400, "The body broke off"),
    ("INVALID_PARAMETER", 400, "A parameter is wrong"),
    ("SIGNATURE_INVALID", 401, "The call is not signed as the hook asks"),
    (
        "MEMBER_SIGNATURE_INVALID",
        401,
        "The request is not signed as members of this deployment sign",
    ),
    ("UNAUTHENTICATED", 401, "The request shows no key that is accepted"),
    ("FORBIDDEN", 403, "The key's role does not allow it"),
    ("HOST_NOT_ALLOWED", 403, "The request was not meant for this server"),
    ("ROUTE_NOT_FOUND", 404, "There is no such resource"),
    ("WORKFLOW_NOT_FOUND", 404, "There is no such workflow"),
    ("VERSION_NOT_FOUND", 404, "The workflow has no such version"),
    ("EXECUTION_NOT_FOUND", 404, "There is no such execution"),
    ("VALUE_NOT_FOUND", 404, "The execution has no such value"),
    ("NODE_NOT_FOUND", 404, "The workflow has no such node"),
    ("HOOK_NOT_FOUND", 404, "Nothing takes calls at this address"),
    ("HOOK_NO_EXECUTION", 404, "No execution waits for the call"),
    ("KEY_NOT_FOUND", 404, "There is no such key"),
    ("METHOD_NOT_ALLOWED", 405, "The resource knows no such method"),
    ("WORKFLOW_EXISTS", 409, "The workflow exists already"),
    ("WORKFLOW_ARCHIVED", 409, "The workflow is archived"),
    ("EXECUTION_ENDED", 409, "The execution has ended"),
    ("KEY_CONFLICT", 409, "Another execution has the key"),
    ("KEY_NAME_TAKEN", 409, "Another key has the name"),
    ("NODE_NOT_WAITING", 409, "The node does not wait"),
    ("NODE_ENDED", 409, "The node has ended"),
    ("NODE_NOT_FAILED", 409, "The node has not failed"),
    ("NOTHING_TO_RETRY", 409, "Nothing has failed"),
    ("NOT_REOPENABLE", 409, "The execution cannot go on"),
    ("CHILD_NOT_REOPENABLE", 409, "The parent has gone on without it"),
    ("HOOK_AMBIGUOUS", 409, "The call could be meant for several"),
    ("QUARANTINED", 409, "The execution is quarantined"),
    ("TOO_MANY_CONTROLS", 409, "Too many controls are in force"),
    ("VERSION_CONFLICT", 412, "The workflow has changed"),
    ("BODY_TOO_LARGE", 413, "The body is too large"),
    ("PAYLOAD_TOO_LARGE", 413, "The payload is too large"),
    ("DEFINITION_TOO_LARGE", 413, "The definition is too large"),
    ("INVALID_REQUEST", 422, "The body has wrong fields"),
    ("INVALID_DEFINITION", 422, "The definition is invalid"),
    ("NOT_EXECUTABLE", 422, "The definition cannot be executed"),
    ("SCHEMA_VIOLATION", 422, "The input violates its schema"),
    ("RERUN_IN_LOOP", 422, "A rerun cannot begin within a loop"),
    ("RERUN_EDGES_CHANGED", 422, "The other version has other edges"),
    ("RERUN_WITHOUT_INPUT", 422, "Nothing led to the node"),
    ("CORRELATION_FAILED", 422, "The call does not say what it is meant for"),
    ("OVERLOADED", 429, "Too much is going on"),
    ("BACKLOG_FULL", 429, "Too much waits for the event bus or for lists"),
    ("TOO_MANY_STREAMS", 429, "Too many event streams are open"),
    ("TOO_MANY_CALLS", 429, "Too many calls are kept for the node"),
    ("INTERNAL", 500, "The server failed"),
    ("DAMAGED", 500, "The store is damaged"),
    (
        "HOOK_SECRET_UNUSABLE",
        503,
        "The server has no secret to check the call with",
    ),
    (STORE_IN_USE, 503, "Another process has the store"),
    ("NO_API_KEYS", 503, "Nobody could ask for anything"),
    ("STOPPED", 503, "An emergency stop is in force"),
    ("UNAVAILABLE", 503, "The server cannot serve now"),
    ("FENCED", 503, "Another member has taken over"),
    ("STATE_FORMAT_NEWER", 503, "A newer release wrote the state"),
];

/// One of several problems behind an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorItem {
    /// JSON pointer into the body.
    pub pointer: String,
    /// Stable code.
    pub code: String,
    /// What is wrong.
    pub detail: String,
    /// How to put it right.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// `warning` where the problem alone would not have refused the request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub severity: Option<String>,
    /// Line in the body, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// Column in the body, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
}

/// The body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Names the page that explains the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code's meaning.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// How to put it right.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// Stable code.
    pub code: String,
    /// The problems behind it, if there are several or they have places.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<ErrorItem>,
    /// The execution that stands in the way.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub existing: Option<String>,
}

/// The code of a problem, beside its body: for those between the route and the client.
#[derive(Clone, Debug)]
pub(crate) struct ProblemCode(pub(crate) Cow<'static, str>);

/// Why a request was refused or failed.
#[derive(Clone, Debug)]
pub struct ApiError {
    code: Cow<'static, str>,
    detail: Box<str>,
    hint: Option<Box<str>>,
    errors: Vec<ErrorItem>,
    existing: Option<ExecutionId>,
    retry_after_ms: Option<u64>,
    elsewhere: Option<ShardId>,
}

impl ApiError {
    /// An error with a code of [`TABLE`].
    #[must_use]
    pub fn new(code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            detail: detail.into().into_boxed_str(),
            hint: None,
            errors: Vec::new(),
            existing: None,
            retry_after_ms: None,
            elsewhere: None,
        }
    }

    /// Adds the problems behind it.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<ErrorItem>) -> Self {
        self.errors = errors;
        self
    }

    /// Says how to put it right.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into_boxed_str());
        self
    }

    /// What the engine refused of a call: places are those in its body.
    #[must_use]
    pub fn of_call(error: EngineError) -> Self {
        let places = match &error {
            EngineError::Refused(info) => places(info, ""),
            _ => Vec::new(),
        };
        let mut api = Self::from(error);
        api.errors = places;
        if api.code == "TOO_MANY_CALLS" {
            api.retry_after_ms = Some(1_000);
        }
        api
    }

    /// Tells when another try makes sense.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// A definition that was refused.
    #[must_use]
    pub fn definition(diagnostics: &[Diagnostic]) -> Self {
        let errors: Vec<ErrorItem> = diagnostics.iter().map(ErrorItem::from).collect();
        let count = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        let detail = match diagnostics.iter().find(|diagnostic| diagnostic.is_error()) {
            Some(first) if count == 1 => first.to_string(),
            Some(first) => format!("{count} problems, the first one: {first}"),
            None => "the definition was refused".to_owned(),
        };
        Self::new("INVALID_DEFINITION", detail).with_errors(errors)
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What happened this time.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn row(&self) -> (u16, &'static str) {
        let known = TABLE.iter().find(|(code, ..)| *code == self.code);
        // Codes of refused inputs come from the languages and are many: the request was understood, and wrong.
        known.map_or((422, "The request was refused"), |(_, status, title)| (*status, *title))
    }

    /// The body.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (status, title) = self.row();
        Problem {
            kind: format!("/docs/errors/{}", self.code),
            title: title.to_owned(),
            status,
            detail: self.detail.to_string(),
            hint: self.hint.as_deref().map(str::to_owned),
            code: self.code.to_string(),
            errors: self.errors.clone(),
            existing: self.existing.map(|existing| existing.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.problem();
        if problem.status >= 500 && self.elsewhere.is_none() && self.code != "FENCED" {
            tracing::error!(code = %problem.code, detail = %problem.detail, "request failed");
        }
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&problem).unwrap_or_default();
        let content = (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        let mut response = (status, [content], body).into_response();
        if let Some(shard) = self.elsewhere {
            response.extensions_mut().insert(Elsewhere(shard));
        }
        if problem.code == "UNAUTHENTICATED" {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if problem.code == "MEMBER_SIGNATURE_INVALID" {
            response.headers_mut().insert(NOT_TAKEN, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(ProblemCode(self.code));
        if let Some(ms) = self.retry_after_ms {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
        }
        response
    }
}

impl From<&Diagnostic> for ErrorItem {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            pointer: diagnostic.pointer.clone(),
            code: diagnostic.code.to_owned(),
            detail: diagnostic.message.clone(),
            hint: diagnostic.hint.clone(),
            severity: (!diagnostic.is_error()).then(|| "warning".to_owned()),
            line: diagnostic.position.map(|position| position.line),
            column: diagnostic.position.map(|position| position.column),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let mut api = Self::new(error.code().to_owned(), error.to_string());
        api.retry_after_ms = error.retry_after_ms();
        match &error {
            EngineError::KeyConflict { existing } => api.existing = Some(*existing),
            EngineError::Elsewhere(shard) => api.elsewhere = Some(*shard),
            EngineError::NewerFormat { .. } => api.hint = Some(NEWER_FORMAT_HINT.into()),
            EngineError::Stopped { scope, .. } => {
                let what = match scope {
                    Scope::Workflow(workflow) => format!("--workflow {workflow}"),
                    Scope::All | Scope::Node { .. } | Scope::NodeType(_) => "--all".to_owned(),
                };
                api.hint = Some(
                    format!("`troupe controls` tells who stopped it; `troupe release {what}` lifts the stop").into(),
                );
            }
            EngineError::Refused(info) => {
                api.detail = info.message.clone().into_boxed_str();
                api.errors = places(info, "/input");
            }
            _ => {}
        }
        api
    }
}

/// Where in the body what was refused stands; the value that was checked is at `root` there.
fn places(info: &ErrorInfo, root: &str) -> Vec<ErrorItem> {
    let item = |pointer: String, detail: &str| ErrorItem {
        pointer,
        code: info.code.clone(),
        detail: detail.to_owned(),
        hint: None,
        severity: None,
        line: None,
        column: None,
    };
    if info.code == "UNKNOWN_TRIGGER" {
        return vec![item("/trigger".to_owned(), &info.message)];
    }
    let details = info.details.as_ref().and_then(|details| details.to_value().ok());
    let violations = details
        .as_ref()
        .and_then(|details| details.get("violations")?.as_array());
    let text = |violation: &Value, name: &str| {
        violation
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    violations.map_or_else(Vec::new, |violations| {
        let places = violations.iter().map(|violation| {
            item(
                format!("{root}{}", text(violation, "pointer")),
                &text(violation, "message"),
            )
        });
        places.collect()
    })
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Held(why) => Self::new(STORE_IN_USE, why),
            other => EngineError::from(other).into(),
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::NameTaken { holder } => Self::new("KEY_NAME_TAKEN", format!("key {holder} has the name"))
                .with_hint(format!(
                    "choose another name, or revoke that key first: `troupe key revoke {holder}`"
                )),
            KeyError::Store(error) => error.into(),
        }
    }
}

impl From<DefinitionError> for ApiError {
    fn from(error: DefinitionError) -> Self {
        match error {
            DefinitionError::Conflict { latest } => {
                Self::new("VERSION_CONFLICT", format!("the latest version is {latest}"))
            }
            other => EngineError::from(other).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_ascend() {
        let mut codes: Vec<_> = TABLE.iter().map(|(code, ..)| code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), TABLE.len());
        assert!(TABLE.is_sorted_by_key(|(_, status, _)| status));
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let response = ApiError::from(EngineError::Overloaded { retry_after_ms: 1_200 }).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn a_refusal_with_a_foreign_code_is_the_callers_fault() {
        let info = troupe_core::ErrorInfo::new("SOMETHING_NEW", "no");
        assert_eq!(
            ApiError::from(EngineError::Refused(Box::new(info))).problem().status,
            422
        );
    }
}

//! Workflows and their versions.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use troupe_core::definition::{Diagnostic, Format, WorkflowDefinition};
use troupe_ports::{DefinitionError, StoredDefinition};

use super::header_text;
use super::params::{Params, Path, wrong};
use crate::app::App;
use crate::audit::{AuditNote, hash_of};
use crate::body;
use crate::dto::{PageDto, ValidationDto, VersionDto, WorkflowSummaryDto, date};
use crate::error::{ApiError, ErrorItem};
use crate::rules;

pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &["limit", "cursor"])?;
    let limit = params.limit(app.settings.limits.page_max)?;
    let mut stored = app.definitions.list(params.text("cursor"), limit + 1).await?;
    let more = stored.len() > limit;
    stored.truncate(limit);
    let next = stored.last().filter(|_| more).map(|last| last.workflow.to_string());
    let items: Vec<WorkflowSummaryDto> = stored.iter().map(WorkflowSummaryDto::from).collect();
    Ok(Json(PageDto { items, next }).into_response())
}

pub(super) async fn create(
    State(app): State<App>,
    note: AuditNote,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (definition, warnings) = checked(&app, &headers, body).await?;
    let id = definition.id.clone();
    note.target("workflow", id.as_str());
    match rules::store(&*app.definitions, definition, Some(0), app.now()).await {
        Ok(stored) => {
            let change = Change {
                created: true,
                restored: false,
            };
            note.change(None, hash_of(&stored.definition));
            Ok(stored_response(&app, &stored, change, warnings))
        }
        Err(DefinitionError::Conflict { latest }) => {
            let archived = app
                .definitions
                .get(&id, None)
                .await?
                .is_some_and(|stored| stored.archived);
            let cure = if archived {
                "; it is archived, and storing it with PUT restores it"
            } else {
                ""
            };
            let detail = format!("workflow {id} exists, its latest version is {latest}{cure}");
            Err(ApiError::new("WORKFLOW_EXISTS", detail))
        }
        Err(other) => Err(other.into()),
    }
}

pub(super) async fn put(
    State(app): State<App>,
    note: AuditNote,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (definition, warnings) = checked(&app, &headers, body).await?;
    if definition.id != id {
        let detail = format!("the definition calls itself `{}`, the address `{id}`", definition.id);
        return Err(ApiError::new("INVALID_REQUEST", detail));
    }
    let before = app.definitions.get(&id, None).await?;
    let latest = before.as_ref().map_or(0, |before| before.version);
    let expected = expected_version(&headers, latest)?;
    let stored = rules::store(&*app.definitions, definition, expected, app.now()).await?;
    let change = Change {
        created: stored.version > latest,
        restored: before.as_ref().is_some_and(|before| before.archived),
    };
    let response = stored_response(&app, &stored, change, warnings);
    let number = if stored.version > latest {
        stored.version - 1
    } else {
        stored.version
    };
    let prior = match before.filter(|before| before.version == number) {
        Some(before) => Some(before),
        None if number == 0 => None,
        None => prior(&app, &id, number).await,
    };
    note.change(
        prior.and_then(|prior| hash_of(&prior.definition)),
        hash_of(&stored.definition),
    );
    Ok(response)
}

/// The version before, where somebody else stored one between the look at the latest and the change.
async fn prior(app: &App, id: &str, number: u32) -> Option<StoredDefinition> {
    match app.definitions.get(id, Some(number)).await {
        Ok(prior) => prior,
        Err(error) => {
            // The change is made: its answer does not fail for want of a hash.
            tracing::warn!(workflow = id, number, %error, "the audit row does not tell what was there before");
            None
        }
    }
}

pub(super) async fn validate(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let bytes = body::read(&headers, body, app.settings.limits.body_bytes).await?;
    let checked = app.rules.check(&bytes, format_of(&headers)).await?;
    let problems = checked.diagnostics.iter().map(ErrorItem::from).collect();
    Ok(Json(ValidationDto {
        valid: checked.definition.is_some(),
        problems,
    })
    .into_response())
}

pub(super) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &["version", "format", "include"])?;
    let stored = version(&app, &id, params.get("version", "a version number")?).await?;
    let tag = etag(stored.version);
    let matches = |given: &str| {
        given == "*"
            || given
                .split(',')
                .any(|given| given.trim().trim_start_matches("W/") == tag)
    };
    if header_text(&headers, "if-none-match")?.is_some_and(matches) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let include = match params.text("include") {
        None => false,
        Some("processedGraph") => true,
        Some(other) => return Err(wrong(format!("`include` takes processedGraph, not `{other}`"))),
    };
    let mut definition = serde_json::to_value(&*stored.definition).map_err(internal)?;
    if let (true, Some(fields)) = (include, definition.as_object_mut()) {
        fields.insert("processedGraph".into(), stored.analysis.to_value().map_err(internal)?);
    }
    let accept = header_text(&headers, "accept")?.unwrap_or_default();
    let yaml = match params.text("format") {
        None => accept.contains("yaml"),
        Some("yaml") => true,
        Some("json") => false,
        Some(other) => return Err(wrong(format!("`format` takes json or yaml, not `{other}`"))),
    };
    let (content, text) = if yaml {
        (
            "application/yaml",
            serde_saphyr::to_string(&definition).map_err(internal)?,
        )
    } else {
        ("application/json", definition.to_string())
    };
    Ok(([(header::CONTENT_TYPE, content), (header::ETAG, tag.as_str())], text).into_response())
}

pub(super) async fn archive(
    State(app): State<App>,
    note: AuditNote,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let before = version(&app, &id, None).await?;
    if !app.definitions.archive(&id, true).await? {
        return Err(not_found(&id));
    }
    app.archived(&id);
    note.change(hash_of(&before.definition), None);
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn versions(State(app): State<App>, Path(id): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &["limit", "cursor"])?;
    let limit = params.limit(app.settings.limits.page_max)?;
    let latest = version(&app, &id, None).await?.version;
    let first = params
        .get::<u32>("cursor", "a version number")?
        .unwrap_or(latest)
        .min(latest);
    let mut items = Vec::new();
    let mut next = None;
    for number in (1..=first).rev() {
        if items.len() == limit {
            next = Some(number.to_string());
            break;
        }
        if let Some(stored) = app.definitions.get(&id, Some(number)).await? {
            items.push(version_dto(&stored));
        }
    }
    Ok(Json(PageDto { items, next }).into_response())
}

pub(super) async fn analysis(State(app): State<App>, Path(id): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &["version"])?;
    let stored = version(&app, &id, params.get("version", "a version number")?).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::ETAG, etag(stored.version)),
    ];
    Ok((headers, stored.analysis.as_str().to_owned()).into_response())
}

/// A version, or the latest.
pub(super) async fn version(app: &App, id: &str, version: Option<u32>) -> Result<StoredDefinition, ApiError> {
    if let Some(stored) = app.definitions.get(id, version).await? {
        return Ok(stored);
    }
    match version {
        Some(version) if app.definitions.get(id, None).await?.is_some() => Err(ApiError::new(
            "VERSION_NOT_FOUND",
            format!("workflow {id} has no version {version}"),
        )),
        _ => Err(not_found(id)),
    }
}

fn not_found(id: &str) -> ApiError {
    ApiError::new("WORKFLOW_NOT_FOUND", format!("there is no workflow {id}"))
}

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new("INTERNAL", error.to_string())
}

async fn checked(app: &App, headers: &HeaderMap, body: Body) -> Result<(WorkflowDefinition, Vec<ErrorItem>), ApiError> {
    let bytes = body::read(headers, body, app.settings.limits.body_bytes).await?;
    let checked = app.rules.check(&bytes, format_of(headers)).await?;
    match checked.definition {
        None => Err(refused(&checked.diagnostics)),
        Some(definition) => Ok((definition, checked.diagnostics.iter().map(ErrorItem::from).collect())),
    }
}

/// A text that is no JSON or YAML at all has a code and a status of its own.
fn refused(diagnostics: &[Diagnostic]) -> ApiError {
    const UNREADABLE: [&str; 5] = [
        "INVALID_JSON",
        "INVALID_YAML",
        "INVALID_UTF8",
        "NESTING_TOO_DEEP",
        "DEFINITION_TOO_LARGE",
    ];
    let first = diagnostics
        .iter()
        .find(|diagnostic| UNREADABLE.contains(&diagnostic.code));
    match first {
        Some(first) => ApiError::new(first.code, first.to_string()).with_errors(vec![ErrorItem::from(first)]),
        None => ApiError::definition(diagnostics),
    }
}

fn format_of(headers: &HeaderMap) -> Option<Format> {
    let content = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match content {
        yaml if yaml.contains("yaml") => Some(Format::Yaml),
        json if json.contains("json") => Some(Format::Json),
        _ => None,
    }
}

fn etag(version: u32) -> String {
    format!("\"{version}\"")
}

/// The version that must be the latest, by `If-Match` or `If-None-Match: *`.
fn expected_version(headers: &HeaderMap, latest: u32) -> Result<Option<u32>, ApiError> {
    if header_text(headers, "if-none-match")? == Some("*") {
        return Ok(Some(0));
    }
    match header_text(headers, "if-match")? {
        None => Ok(None),
        Some("*") if latest == 0 => Err(ApiError::new("VERSION_CONFLICT", "there is no version yet")),
        Some("*") => Ok(Some(latest)),
        Some(tag) => {
            let version = tag.trim().trim_matches('"').parse();
            version
                .map(Some)
                .map_err(|_| wrong(format!("If-Match takes the ETag of a version, not {tag}")))
        }
    }
}

fn version_dto(stored: &StoredDefinition) -> VersionDto {
    VersionDto {
        id: stored.workflow.to_string(),
        version: stored.version,
        stored_at: date(stored.stored_at),
        created: None,
        restored: false,
        warnings: Vec::new(),
    }
}

/// What storing a definition changed.
struct Change {
    created: bool,
    restored: bool,
}

fn stored_response(app: &App, stored: &StoredDefinition, change: Change, warnings: Vec<ErrorItem>) -> Response {
    app.stored(stored);
    let status = if change.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let body = VersionDto {
        created: Some(change.created),
        restored: change.restored,
        warnings,
        ..version_dto(stored)
    };
    let location = format!("/api/v1/workflows/{}", stored.workflow);
    let headers = [(header::LOCATION, location), (header::ETAG, etag(stored.version))];
    (status, headers, Json(body)).into_response()
}

//! Keys of the API.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use troupe_core::Timestamp;
use troupe_ports::{ApiKey, KeyId};

use super::params::{Params, Path};
use crate::app::App;
use crate::audit::{AuditNote, hash_of};
use crate::auth::{Caller, Token};
use crate::body;
use crate::dto::{CreatedKeyDto, KeyBody, KeyDto, PageDto};
use crate::error::ApiError;

pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &["limit", "cursor"])?;
    let limit = params.limit(app.settings.limits.page_max)?;
    let after: Option<KeyId> = params.get("cursor", "what a page gave as `next`")?;
    let mut keys = app.keys.list(after, limit + 1).await?;
    let more = keys.len() > limit;
    keys.truncate(limit);
    let next = keys.last().filter(|_| more).map(|last| last.id.to_string());
    let now = app.now();
    let items = keys.iter().map(|key| KeyDto::of(key, now)).collect();
    Ok(Json(PageDto::<KeyDto> { items, next }).into_response())
}

pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    note: AuditNote,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let limits = app.settings.limits;
    let bytes = body::read(&headers, body, limits.body_bytes).await?;
    let body = KeyBody::read(body::parse(&bytes, limits.nesting_max)?)?;
    let (key, token) = made(body, caller.name(), app.now())?;
    note.target("key", key.id.to_string());
    app.keys.create(key.clone()).await?;
    note.change(None, key_hash(&key));
    app.gate.keys_changed().await;
    let shown = KeyDto::of(&key, app.now());
    let location = format!("/api/v1/keys/{}", key.id);
    // A cache on the way has no business with a secret.
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let created = CreatedKeyDto {
        shown,
        key: token.expose(),
    };
    Ok((StatusCode::CREATED, headers, Json(created)).into_response())
}

pub(super) async fn revoke(
    State(app): State<App>,
    note: AuditNote,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let missing = || ApiError::new("KEY_NOT_FOUND", format!("there is no key {id}"));
    let id: KeyId = id.parse().map_err(|_| missing())?;
    let before = app.keys.get(id).await?.ok_or_else(missing)?;
    let after = app.keys.revoke(id, app.now()).await?.ok_or_else(missing)?;
    note.change(key_hash(&before), key_hash(&after));
    app.gate.keys_changed().await;
    Ok(Json(KeyDto::of(&after, app.now())).into_response())
}

/// A new key with its secret.
///
/// # Errors
/// `INVALID_REQUEST` where it would have expired already, `UNAVAILABLE` where there are no random bytes.
pub(crate) fn made(body: KeyBody, by: &str, now: Timestamp) -> Result<(ApiKey, Token), ApiError> {
    if body.expires_at.is_some_and(|expires| expires <= now) {
        return Err(ApiError::new("INVALID_REQUEST", "`expiresAt` has passed"));
    }
    let token = Token::fresh()?;
    let key = ApiKey {
        id: token.id,
        name: body.name,
        role: body.role,
        secret: token.hash(),
        created_at: now,
        created_by: Some(by.to_owned()),
        expires_at: body.expires_at,
        revoked_at: None,
        used_at: None,
    };
    Ok((key, token))
}

/// The hash of what a key says, for audit rows; of its secret and its uses nothing goes in.
pub(crate) fn key_hash(key: &ApiKey) -> Option<[u8; 32]> {
    hash_of(&json!({
        "id": key.id.to_string(),
        "name": key.name,
        "role": key.role.name(),
        "createdAt": key.created_at.0,
        "createdBy": key.created_by,
        "expiresAt": key.expires_at.map(|at| at.0),
        "revokedAt": key.revoked_at.map(|at| at.0),
    }))
}

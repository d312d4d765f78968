//! What runs again: reruns.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::executions::execution_id;
use super::idempotency_key;
use super::params::Path;
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::dto::{RerunBody, RerunDto};
use crate::error::ApiError;

pub(super) async fn rerun(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let id = execution_id(&id)?;
    let key = idempotency_key(&headers)?;
    let limits = app.settings.limits;
    let bytes = body::read(&headers, body, limits.body_bytes).await?;
    let request = RerunBody::read(body::parse(&bytes, limits.nesting_max)?)?;
    let outcome = app.engine.rerun(id, request.into_request(key, caller.name())).await?;
    let answer = RerunDto::of(id, &outcome);
    Ok(match &answer.id {
        None => Json(answer).into_response(),
        Some(new) => {
            let location = [(header::LOCATION, format!("/api/v1/executions/{new}"))];
            (StatusCode::ACCEPTED, location, Json(answer)).into_response()
        }
    })
}

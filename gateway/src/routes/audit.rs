//! Who changed what.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use troupe_ports::AuditQuery;

use super::params::{Params, wrong};
use crate::app::App;
use crate::dto::{AuditRowDto, PageDto, audit_target, instant};
use crate::error::ApiError;

const LIST: [&str; 7] = ["target", "principal", "action", "from", "until", "cursor", "limit"];

pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<Response, ApiError> {
    let params = Params::of(&uri, &LIST)?;
    let at = |name: &str| {
        let read = |text: &str| instant(text).ok_or_else(|| wrong(format!("`{name}` takes a date, not `{text}`")));
        params.text(name).map(read).transpose()
    };
    let target = |text: &str| {
        let wrong = || wrong(format!("`target` takes KIND:ID, such as workflow:orders, not `{text}`"));
        audit_target(text).ok_or_else(wrong)
    };
    let query = AuditQuery {
        target: params.text("target").map(target).transpose()?,
        principal: params.text("principal").map(str::to_owned),
        action: params.text("action").map(str::to_owned),
        from: at("from")?,
        until: at("until")?,
        cursor: params.get("cursor", "what a page gave as `next`")?,
        limit: params.limit(app.settings.limits.page_max)?,
    };
    let page = app.audit.list(query).await?;
    let items = page.items.iter().map(AuditRowDto::from).collect();
    let next = page.next.map(|next| next.to_string());
    Ok(Json(PageDto::<AuditRowDto> { items, next }).into_response())
}

//! Breakers of targets.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use troupe_core::control::{BreakerOverride, ControlKey, Setting};

use super::idempotency_key;
use super::params::Path;
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::dto::{BreakerDto, ControlBody, ControlOption, ControlledDto, PageDto, breaker_target};
use crate::error::ApiError;
use crate::members::{self, Signed};

pub(super) async fn list(
    State(app): State<App>,
    signed: Option<Extension<Signed>>,
) -> Result<Json<PageDto<BreakerDto>>, ApiError> {
    // A member that asks puts the answers of all together.
    let items = members::breakers::list(&app, signed.is_some()).await?;
    Ok(Json(PageDto { items, next: None }))
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident, $hold:expr;)+) => {
        $(
            $(#[$doc])*
            pub(super) async fn $name(
                State(app): State<App>,
                caller: Caller,
                Path(target): Path<String>,
                headers: HeaderMap,
                body: Body,
            ) -> Result<Json<ControlledDto>, ApiError> {
                command(&app, &caller, (&target, $hold), &headers, body).await
            }
        )+
    };
}

commands! {
    /// Nothing goes to the target until the breaker is closed or reset.
    open, Some(BreakerOverride::Open);
    /// Everything goes, whatever fails.
    close, Some(BreakerOverride::Closed);
    /// The breaker does as it thinks, and counts anew.
    reset, None;
}

async fn command(
    app: &App,
    caller: &Caller,
    (target, hold): (&str, Option<BreakerOverride>),
    headers: &HeaderMap,
    body: Body,
) -> Result<Json<ControlledDto>, ApiError> {
    let id = idempotency_key(headers)?;
    let limits = app.settings.limits;
    let bytes = body::read(headers, body, limits.body_bytes).await?;
    let parsed = body::parse(&bytes, limits.nesting_max)?;
    let command = ControlBody::read(parsed, false, ControlOption::None)?.into_command(id, caller.name());
    let target = breaker_target(target)?;
    let key = ControlKey::Breaker(target);
    let setting = hold.map(Setting::Breaker);
    let outcome = members::controls::control(app, key.clone(), setting, command).await?;
    Ok(Json(ControlledDto::of(&key, outcome)))
}

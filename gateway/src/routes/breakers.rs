//! Breakers of targets.

use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::dto::{BreakerDto, PageDto};

pub(super) async fn list(State(app): State<App>) -> Json<PageDto<BreakerDto>> {
    let items = app.engine.breakers().iter().map(BreakerDto::of).collect();
    Json(PageDto { items, next: None })
}

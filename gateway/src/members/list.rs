//! Who is there.

use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::dto::{MemberDto, PageDto};

/// Every member, as the one that answers saw them last.
pub(crate) async fn list(State(app): State<App>) -> Json<PageDto<MemberDto>> {
    let own = app.engine.name();
    let held = app.engine.shards_held();
    let members = app.engine.members().into_iter();
    let items = members.map(|member| MemberDto {
        shards: held.get(&member.name).copied().unwrap_or_default(),
        own: member.name == own,
        status: if member.draining { "leaving" } else { "serving" }.to_owned(),
        name: member.name,
        address: member.address,
        release: member.release,
    });
    Json(PageDto {
        items: items.collect(),
        next: None,
    })
}

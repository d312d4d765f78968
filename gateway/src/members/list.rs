//! Who is there.

use axum::Json;
use axum::extract::State;
use troupe_core::format::agreed;
use troupe_ports::Member;

use crate::app::App;
use crate::dto::{MemberDto, PageDto};

/// Every member, as the one that answers saw them last.
pub(crate) async fn list(State(app): State<App>) -> Json<PageDto<MemberDto>> {
    let own = app.engine.name();
    let held = app.engine.shards_held();
    let formats = app.engine.formats_held();
    let members = app.engine.members();
    let writes = |member: &Member| agreed(member.terms(), members.iter().map(Member::terms)).0;
    let items = members.iter().cloned().map(|member| MemberDto {
        reads: member.reads.into(),
        writes: writes(&member),
        holds: formats.get(&member.name).map(|format| format.0),
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

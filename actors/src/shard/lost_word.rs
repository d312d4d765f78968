//! An execution's actor failed: what it had told its children last may be lost, so they ask.

use std::sync::Arc;
use std::time::Duration;

use troupe_core::ExecutionId;
use troupe_ports::ExecutionQuery;

use super::route::deliver;
use crate::context::ShardContext;
use crate::execution::ExecutionMessage;

/// Pause before lists are asked again that could not be read.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Children that are asked for at once.
const LIST_ROWS: usize = 1_000;

/// Has the children of an execution ask what it wants of them, those too that it no longer waits for: the ones with an actor, and
/// those that only wait, which are in the lists.
pub(super) async fn ask_children(shard: &Arc<ShardContext>, parent: ExecutionId) {
    let engine = &shard.engine;
    for id in engine.directory.of_shard(shard.shard) {
        // One that retires meanwhile is in the lists.
        drop(engine.directory.route(id, ExecutionMessage::AskParent(parent)));
    }
    let mut query = ExecutionQuery {
        status: Some("running".to_owned()),
        parent: Some(parent),
        limit: LIST_ROWS,
        ..ExecutionQuery::default()
    };
    while !shard.gate.is_closed() {
        let page = match engine.parts.visibility.list(query.clone()).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%parent, %error, "children wait for the lists");
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
        };
        for child in page.items.iter().filter(|child| !engine.directory.contains(child.id)) {
            deliver(shard, child.id, ExecutionMessage::AskParent(parent)).await;
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return,
        }
    }
}

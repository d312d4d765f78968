//! A log that ends before what was seen of it: who notices, and what lists show afterwards.

use std::sync::Arc;

use troupe_core::LogPosition;
use troupe_ports::{ExecutionQuery, Lease};

use super::open::LIST_ROWS;
use crate::context::{EngineContext, ShardContext};
use crate::error::EngineError;
use crate::execution::load::{Loaded, load};
use crate::execution::view::summary;

/// Lists are kept by another store, and show only what was committed: they are a witness of what the log once had.
pub(super) fn check_witness(
    engine: &EngineContext,
    lease: &Lease,
    projected: LogPosition,
    accepted: bool,
) -> Result<(), EngineError> {
    if projected < lease.next {
        return Ok(());
    }
    let (shard, end) = (lease.shard, lease.next.0.saturating_sub(1));
    let why = format!(
        "shard {shard} went back: lists show what its log held up to position {projected}, and the log ends at {end}; the state was \
         restored from an older copy or has lost acknowledged writes, or the lists belong to another store"
    );
    if accepted || engine.parts.state.may_lose_acknowledged() {
        tracing::error!(shard = shard.0, why, "the shard begins again from what is left");
        return Ok(());
    }
    Err(EngineError::Damaged(why))
}

/// The log went back: lists show what is left of each execution, and nothing of those that are gone.
pub(super) async fn correct_lists(context: &Arc<ShardContext>, last: LogPosition) -> Result<(), EngineError> {
    let (lists, shard) = (&context.engine.parts.visibility, context.shard);
    let mut query = ExecutionQuery {
        id_prefix: Some(format!("{:04x}", shard.0)),
        limit: LIST_ROWS,
        ..ExecutionQuery::default()
    };
    let mut corrected = 0;
    loop {
        let page = lists.list(query.clone()).await?;
        let (mut ahead, mut left) = (Vec::new(), Vec::new());
        for row in page.items {
            match load(context, row.id).await {
                Ok(Loaded::Found(found)) if found.state.seq < row.seq => {
                    ahead.push(row.id);
                    left.push(summary(&found.state));
                }
                Ok(Loaded::Found(_)) => {}
                Ok(Loaded::Missing | Loaded::Tombstone(_)) => ahead.push(row.id),
                Err(error @ (EngineError::Unavailable(_) | EngineError::Elsewhere(_) | EngineError::Fenced)) => {
                    return Err(error);
                }
                Err(error) => tracing::error!(id = %row.id, %error, "what is listed of an execution cannot be checked"),
            }
        }
        corrected += ahead.len();
        lists.forget(&ahead).await?;
        lists.project(shard, left, LogPosition(0)).await?;
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    // Last: whoever is interrupted begins again.
    lists.rewind(shard, last).await?;
    tracing::warn!(shard = shard.0, corrected, "lists follow the log that went back");
    Ok(())
}

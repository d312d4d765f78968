//! Large values that a crash left without an execution: they were kept, and the entry that would have begun it was not.

use troupe_core::{ExecutionId, Timestamp};
use troupe_ports::ExecutionBase;

use crate::context::ShardContext;
use crate::error::EngineError;
use crate::execution::load::pending;

/// How old values must be before somebody asks for their execution, in milliseconds: a start takes less.
const ORPHAN_AGE_MS: i64 = 3_600_000;
/// Roots looked at together.
const ROOTS: usize = 1_000;

/// Confirms the roots whose execution exists, and removes the values of the others.
///
/// # Errors
/// [`EngineError::Unavailable`], [`EngineError::Fenced`].
pub(crate) async fn collect_orphans(shard: &ShardContext) -> Result<(), EngineError> {
    let engine = &shard.engine;
    let store = &engine.parts.state;
    let before = Timestamp(engine.now().0.saturating_sub(ORPHAN_AGE_MS));
    for root in store.unconfirmed_blobs(shard.shard, before, ROOTS).await? {
        let exists = exists(shard, root).await?;
        store.settle_blobs(shard.shard, shard.epoch, root, exists).await?;
        if !exists {
            engine.blobs.forget(root);
            tracing::info!(%root, "large values without an execution were removed");
        }
    }
    Ok(())
}

/// Whether there is such an execution, or an actor that may begin it.
async fn exists(shard: &ShardContext, root: ExecutionId) -> Result<bool, EngineError> {
    if shard.engine.directory.contains(root) {
        return Ok(true);
    }
    // First the log, then the store: what leaves the one in between is in the other.
    if pending(shard, root).await?.is_some() {
        return Ok(true);
    }
    Ok(match shard.engine.parts.state.load(root).await? {
        Some(ExecutionBase::Live { .. } | ExecutionBase::Ended(..)) => true,
        Some(ExecutionBase::Tombstone { .. }) | None => false,
    })
}

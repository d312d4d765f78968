//! A log that ends before what was seen of it: who notices, and what lists show afterwards.

use troupe_core::LogPosition;
use troupe_ports::{ExecutionQuery, Lease};

use super::lists::{LIST_ROWS, Rows, Shown, shown, summaries};
use super::loss::checkpoint_all;
use crate::context::{EngineContext, ShardContext};
use crate::error::EngineError;

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
pub(super) async fn correct_lists(context: &ShardContext, last: LogPosition) -> Result<(), EngineError> {
    let (lists, shard) = (&*context.engine.parts.visibility, context.shard);
    let mut rows = Rows::of(shard, ExecutionQuery::default());
    let mut corrected = 0;
    while let Some(page) = rows.next(lists).await? {
        let (mut ahead, mut left) = (Vec::new(), Vec::new());
        for row in page {
            match shown(context, row.id).await? {
                Shown::As(summary) if summary.seq < row.seq => {
                    ahead.push(row.id);
                    left.push(*summary);
                }
                Shown::Nothing => ahead.push(row.id),
                Shown::As(_) | Shown::Unknown => {}
            }
        }
        corrected += ahead.len();
        lists.correct(shard, context.issued(), &ahead, left).await?;
    }
    // Last: whoever is interrupted begins again.
    lists.rewind(shard, context.issued(), last).await?;
    tracing::warn!(shard = shard.0, corrected, "lists follow the log that went back");
    Ok(())
}

/// Lists are older than what the log was trimmed behind, as after a restore of theirs, or there are none: they show what is stored.
pub(super) async fn rebuild_lists(context: &ShardContext, last: LogPosition) -> Result<(), EngineError> {
    let (lists, shard) = (&context.engine.parts.visibility, context.shard);
    tracing::warn!(
        shard = shard.0,
        "lists lack what was in the log: they are written anew from what is stored"
    );
    let stored = list_all(context).await?;
    // Rows of what is stored no more go, too.
    correct_lists(context, last).await?;
    // Last: whoever is interrupted begins again.
    lists.project(shard, context.issued(), Vec::new(), last).await?;
    tracing::warn!(shard = shard.0, stored, "lists are written anew");
    Ok(())
}

/// A checkpoint holds what the log has lost: lists show what is stored, whether a record tells it or not.
pub(super) async fn list_stored(context: &ShardContext) -> Result<(), EngineError> {
    let ShardContext {
        engine, shard, epoch, ..
    } = context;
    let stored = list_all(context).await?;
    // Whoever opens the shard next must not read as new what this one has applied again.
    checkpoint_all(context).await?;
    // Last: whoever is interrupted begins again.
    engine.parts.state.settle_loss(*shard, *epoch).await?;
    tracing::warn!(
        shard = shard.0,
        stored,
        "lists show what a checkpoint holds and the log has lost"
    );
    Ok(())
}

/// Has lists show everything that is stored; how many executions that are.
async fn list_all(context: &ShardContext) -> Result<usize, EngineError> {
    let ShardContext { engine, shard, .. } = context;
    let mut stored = engine.parts.state.stored(*shard).await?;
    stored.retain(|id| !id.is_controls());
    for some in stored.chunks(LIST_ROWS) {
        let summaries = summaries(context, some).await?;
        engine
            .parts
            .visibility
            .project(*shard, context.issued(), summaries, LogPosition(0))
            .await?;
    }
    Ok(stored.len())
}

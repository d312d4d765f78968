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

/// A checkpoint holds what the log has lost: lists show what is stored, whether a record tells it or not.
pub(super) async fn list_stored(context: &ShardContext) -> Result<(), EngineError> {
    let ShardContext {
        engine, shard, epoch, ..
    } = context;
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
    // Whoever opens the shard next must not read as new what this one has applied again.
    checkpoint_all(context).await?;
    // Last: whoever is interrupted begins again.
    engine.parts.state.settle_loss(*shard, *epoch).await?;
    tracing::warn!(
        shard = shard.0,
        stored = stored.len(),
        "lists show what a checkpoint holds and the log has lost"
    );
    Ok(())
}

//! What the loss of records means for the executions that go on after them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::oneshot;
use troupe_core::{ExecutionId, LogPosition, Seq, ShardId};
use troupe_ports::{ExecutionBase, LogRecord, StateStore};

use super::lists::summaries;
use crate::checkpointer::CheckpointerMessage;
use crate::context::ShardContext;
use crate::error::EngineError;
use crate::record::RecordItem;

/// Longest wait for the checkpoint that leaves lost records behind.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Executions whose entries do not follow on each other.
#[derive(Debug, Default)]
pub(super) struct Torn {
    /// They stand where they stood before the loss; why they are set aside, for people.
    pub(super) set_aside: BTreeMap<ExecutionId, String>,
    /// They began in a lost record: nothing of them is left.
    pub(super) gone: Vec<ExecutionId>,
}

/// Drops what cannot be applied any more: from an execution's first entry on whose predecessor is lost. Such an execution
/// stands where it stood before the loss.
pub(super) async fn cut(
    store: &dyn StateStore,
    records: &mut [(LogRecord, Vec<RecordItem>)],
    checkpointed: LogPosition,
) -> Result<Torn, EngineError> {
    let mut known: HashMap<ExecutionId, Seq> = HashMap::new();
    let mut torn = BTreeMap::new();
    for (record, items) in records {
        if record.position <= checkpointed {
            continue;
        }
        for item in std::mem::take(items) {
            if torn.contains_key(&item.id) {
                continue;
            }
            let last = match known.get(&item.id) {
                Some(last) => *last,
                None => last_stored(store, item.id).await?,
            };
            if item.seq > last.next() {
                let why = format!(
                    "its entries {} to {} were in a record of the log whose loss was accepted, later ones were dropped",
                    last.next(),
                    item.seq.0 - 1
                );
                torn.insert(item.id, why);
            } else {
                known.insert(item.id, last.max(item.seq));
                items.push(item);
            }
        }
    }
    let mut found = Torn::default();
    for (id, why) in torn {
        if id.is_controls() {
            // Other shards have them and give them back.
            tracing::error!(shard = id.shard().0, why, "controls of the shard are lost");
            continue;
        }
        if known.contains_key(&id) || last_stored(store, id).await? > Seq(0) {
            found.set_aside.insert(id, why);
        } else {
            found.gone.push(id);
        }
    }
    Ok(found)
}

/// Seq of the last entry that a checkpoint holds.
async fn last_stored(store: &dyn StateStore, id: ExecutionId) -> Result<Seq, EngineError> {
    Ok(match store.load(id).await? {
        None => Seq(0),
        Some(ExecutionBase::Live { snapshot, segments, .. }) => {
            let snapshot = snapshot.map_or(Seq(0), |(seq, _)| seq);
            segments.last().map_or(snapshot, |(last, _)| snapshot.max(*last))
        }
        Some(ExecutionBase::Ended(archive, _)) => archive.last,
        Some(ExecutionBase::Tombstone { last }) => last,
    })
}

/// Sets torn executions aside and waits for a checkpoint past the lost records, so that the next start need not accept
/// the same loss again, and nothing new can be taken for what was dropped.
pub(super) async fn leave_behind(context: &ShardContext, torn: Torn) -> Result<(), EngineError> {
    let ShardContext {
        engine, shard, epoch, ..
    } = context;
    for id in &torn.gone {
        tracing::error!(%id, "an execution is lost altogether: it began in a lost record");
    }
    // Lists knew later states than those that are left, and would keep them.
    let ids: Vec<ExecutionId> = torn.set_aside.keys().chain(&torn.gone).copied().collect();
    let left = summaries(context, torn.set_aside.keys()).await?;
    engine
        .parts
        .visibility
        .correct(*shard, context.issued(), &ids, left)
        .await?;
    for (id, reason) in torn.set_aside {
        tracing::error!(%id, reason, "an execution is set aside");
        engine
            .parts
            .state
            .set_quarantine(*shard, *epoch, id, Some(&reason))
            .await?;
        engine.quarantine.insert(id, reason);
    }
    checkpoint_all(context).await
}

/// Waits for a checkpoint of everything that was handed over.
pub(super) async fn checkpoint_all(context: &ShardContext) -> Result<(), EngineError> {
    let gone = || gone(context.shard);
    let (flushed, flush) = oneshot::channel();
    context
        .checkpointer
        .send_message(CheckpointerMessage::Flush(flushed))
        .map_err(|_| gone())?;
    match tokio::time::timeout(SETTLE_MAX, flush).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(gone()),
        Err(_) => Err(EngineError::Damaged(
            "no checkpoint can be written past the lost records".into(),
        )),
    }
}

pub(super) fn gone(shard: ShardId) -> EngineError {
    EngineError::Unavailable(format!("an actor of shard {shard} is gone"))
}

//! What the loss of records means for the executions that go on after them.

use std::collections::{BTreeMap, HashMap};

use troupe_core::{ExecutionId, LogPosition, Seq};
use troupe_ports::{ExecutionBase, LogRecord, StateStore};

use crate::error::EngineError;
use crate::record::RecordItem;

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

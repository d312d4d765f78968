//! What the loss of records means for the executions that go on after them.

use std::collections::{BTreeMap, HashMap};

use troupe_core::{ExecutionId, LogPosition, Seq};
use troupe_ports::{ExecutionBase, LogRecord, StateStore};

use crate::error::EngineError;
use crate::record::RecordItem;

/// Executions whose entries do not follow on each other, and why, for people.
pub(super) type Torn = BTreeMap<ExecutionId, String>;

/// Drops what cannot be applied any more: from an execution's first entry on whose predecessor is lost. Such an execution
/// stands where it stood before the loss.
pub(super) async fn cut(
    store: &dyn StateStore,
    records: &mut [(LogRecord, Vec<RecordItem>)],
    checkpointed: LogPosition,
) -> Result<Torn, EngineError> {
    let mut known: HashMap<ExecutionId, Seq> = HashMap::new();
    let mut torn = Torn::new();
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
    // One that began in a lost record is gone altogether: there is nothing to set aside.
    let mut gone = Vec::new();
    for id in torn.keys() {
        let stands = known.contains_key(id) || last_stored(store, *id).await? > Seq(0);
        gone.extend((!stands).then_some(*id));
    }
    for id in gone {
        tracing::error!(%id, "an execution is lost altogether: it began in a lost record");
        torn.remove(&id);
    }
    Ok(torn)
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

//! The end of a shard's log: what a checkpoint or lists lack of it, read before the shard is served and given to the actors beside the
//! executions.

use std::collections::{HashMap, HashSet};

use troupe_core::execution::Entry;
use troupe_core::{ExecutionId, LogPosition};
use troupe_ports::{Lease, LogRecord};

use super::loss::{Torn, cut, gone};
use super::went_back::check_witness;
use crate::checkpointer::{CheckpointItem, CheckpointerMessage};
use crate::committer::kept::Kept;
use crate::context::{EngineContext, ShardContext};
use crate::error::EngineError;
use crate::execution::view::changes_summary;
use crate::record::{Mark, RecordItem, read_frames_as, read_header_as};
use crate::timers::TimersMessage;

/// Bytes of log read at once.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// The records that a checkpoint or a projection lacks.
pub(super) struct Tail {
    records: Vec<(LogRecord, Vec<RecordItem>)>,
    checkpointed: LogPosition,
    projected: LogPosition,
    pub(super) last: LogPosition,
    /// Where records were lost: executions that go on after them.
    pub(super) torn: Option<Torn>,
    /// Lists lack what the log has no more: it is trimmed only behind them, so they are older than they were, or new.
    pub(super) lists_are_behind: bool,
}

pub(super) struct Resumed {
    /// The tail says that they have unfinished work.
    pub(super) running: Vec<ExecutionId>,
    /// The tail says that they have none, whatever the checkpoint says.
    pub(super) settled: HashSet<ExecutionId>,
    /// Lists do not show their latest change yet.
    pub(super) changed: Vec<ExecutionId>,
    pub(super) last: LogPosition,
}

impl Tail {
    pub(super) async fn read(
        engine: &EngineContext,
        lease: &Lease,
        projected: LogPosition,
    ) -> Result<Self, EngineError> {
        let mut records = Vec::new();
        let mut from = lease.checkpointed.min(projected).next();
        let accepted = engine.options.accept_loss.contains(&lease.shard);
        check_witness(engine, lease, projected, accepted)?;
        let mut lost = false;
        while from < lease.next {
            let read = engine.parts.state.read(lease.shard, from, READ_BYTES).await?;
            let Some(last) = read.last() else { break };
            from = last.position.next();
            for record in read {
                let items = match read_header_as(engine.options.reads, &record.bytes) {
                    Ok((_, items)) => items,
                    Err(error) if accepted || record.position <= lease.checkpointed => {
                        lost |= record.position > lease.checkpointed;
                        let (shard, position) = (lease.shard.0, record.position.0);
                        tracing::error!(shard, position, %error, "a record cannot be read: what only it held is lost");
                        Vec::new()
                    }
                    Err(error) => return Err(EngineError::Damaged(format!("record {}: {error}", record.position))),
                };
                records.push((record, items));
            }
        }
        let expected = lease.next.0.saturating_sub(1);
        let found = records
            .last()
            .map_or(lease.checkpointed.0, |(record, _)| record.position.0);
        if found < expected && lease.checkpointed.0 < expected {
            // Whoever was slow may have lost the shard meanwhile to an owner that checkpointed and trimmed it.
            engine
                .parts
                .state
                .renew(lease.shard, lease.epoch, engine.options.lease)
                .await?;
            return Err(EngineError::Damaged(format!(
                "the log ends at {found} instead of {expected}"
            )));
        }
        let oldest = records.first().map_or(lease.next, |(record, _)| record.position);
        let lists_are_behind = oldest > projected.next();
        let (checkpointed, last) = (lease.checkpointed, LogPosition(expected));
        let torn = if lost {
            Some(cut(&*engine.parts.state, &mut records, checkpointed).await?)
        } else {
            None
        };
        Ok(Self {
            torn,
            records,
            checkpointed,
            projected,
            last,
            lists_are_behind,
        })
    }

    /// Its records, for a store that may come back older.
    pub(super) fn kept(&self, lease: &Lease) -> Kept {
        let mut kept = Kept::from(lease.next);
        kept.checkpointed(lease.checkpointed);
        for (record, _) in &self.records {
            kept.committed(record.clone());
        }
        kept
    }

    /// Gives the tail to the checkpointer and the timers.
    pub(super) async fn hand_over(self, context: &ShardContext) -> Result<Resumed, EngineError> {
        let shard = context.shard;
        let reads = context.engine.options.reads;
        let mut marks: HashMap<ExecutionId, Mark> = HashMap::new();
        let mut changed = HashSet::new();
        for (record, items) in self.records {
            if record.position > self.projected {
                for item in items.iter().filter(|item| !item.id.is_controls()) {
                    let entry = read_frames_as::<Entry>(reads, &record.bytes[item.frame.clone()]).next();
                    if entry.is_some_and(|entry| entry.is_ok_and(|entry| changes_summary(&entry))) {
                        changed.insert(item.id);
                    }
                }
            }
            if record.position <= self.checkpointed {
                continue;
            }
            let executions = items.iter().filter(|item| !item.id.is_controls());
            marks.extend(executions.map(|item| (item.id, item.mark)));
            let items = items.into_iter();
            let items = items.map(|item| {
                let head = head_of(&record.bytes, &item, context);
                CheckpointItem {
                    item,
                    snapshot: None,
                    end: None,
                    head,
                }
            });
            let message = CheckpointerMessage::Committed {
                position: record.position,
                items: items.collect(),
                record: record.bytes.clone(),
            };
            context.gauges.checkpointer.sent();
            context.checkpointer.send_message(message).map_err(|_| gone(shard))?;
        }
        let mut parked = Vec::new();
        let mut running = Vec::new();
        let mut settled = HashSet::new();
        for (id, mark) in marks {
            match mark {
                Mark::Running => running.push(id),
                Mark::Until(at) => parked.push((at, id)),
                Mark::Message | Mark::Ended => {}
            }
            if mark != Mark::Running {
                settled.insert(id);
            }
        }
        context
            .timers
            .send_message(TimersMessage::Recovered(parked))
            .map_err(|_| gone(shard))?;
        Ok(Resumed {
            running,
            settled,
            changed: changed.into_iter().collect(),
            last: self.last,
        })
    }
}

/// Business key and ordinal of a first entry.
fn head_of(record: &[u8], item: &RecordItem, context: &ShardContext) -> Option<(ExecutionId, u64)> {
    if item.seq != troupe_core::Seq(1) || item.id.is_controls() {
        return None;
    }
    let reads = context.engine.options.reads;
    let entry = read_frames_as::<Entry>(reads, &record[item.frame.clone()])
        .next()?
        .ok()?;
    let started = entry.event.start()?;
    let (key, ordinal) = (started.execution_key.as_deref()?, started.key_ordinal?);
    let shards = context.engine.parts.state.shards();
    let space = troupe_core::KeySpace::Business;
    Some((
        ExecutionId::derived(shards, space, started.workflow.as_str(), key, 0),
        ordinal,
    ))
}

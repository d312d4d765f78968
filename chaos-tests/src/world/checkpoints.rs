//! The checkpointer's shell and the task that writes a checkpoint, a few rows a chunk.

use std::collections::BTreeMap;

use bytes::Bytes;
use troupe_actors::EngineError;
use troupe_actors::checkpointer::Pending;
use troupe_actors::checkpointer::archive::{ArchiveError, Packer, give_way};
use troupe_actors::execution::load::final_state;
use troupe_core::{ExecutionId, FormatRange, ShardId};
use troupe_ports::{Archive, CheckpointRow, ExecutionBase, StateStore, StoreError, Wait};

use super::process::{
    ActorNo, CheckpointerMessage, ListsMessage, ProcessNo, ShardMessage, SinkMessage, TimersMessage, Waiting, Writer,
    WriterStage,
};
use super::schedule::{Call, Caller, Timed};
use super::{World, at_once};

/// Rows per chunk: few, so that a checkpoint is often cut short.
const CHUNK_ROWS: usize = 3;
const RETRY_MS: u64 = 50;

impl World {
    pub(super) fn checkpointer_step(&mut self, process: ProcessNo, shard: ShardId) {
        let now = self.now;
        let Some((caller, serving)) = self.caller(process, shard) else {
            return;
        };
        let checkpointer = &mut serving.checkpointer;
        match checkpointer.inbox.pop_front() {
            None => return,
            Some(CheckpointerMessage::Committed {
                position,
                record,
                items,
            }) => drop(checkpointer.machine.committed(position, &record, items, now)),
            Some(CheckpointerMessage::Lookup(id, actor)) => {
                let pending = checkpointer.machine.pending(id);
                self.looked_up(process, actor, pending);
            }
            Some(CheckpointerMessage::Head(client, request)) => {
                self.latest_of_key(caller, client, request);
            }
            Some(CheckpointerMessage::Tick) => checkpointer.ticking = false,
            Some(CheckpointerMessage::Written) => {
                checkpointer.machine.written();
                serving.timers.inbox.push_back(TimersMessage::Checkpointed);
                self.count("checkpoints");
            }
        }
        self.schedule_checkpoint(caller);
    }

    fn looked_up(&mut self, process: ProcessNo, actor: ActorNo, pending: Option<Pending>) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        if let Some(execution) = state.executions.get_mut(&actor) {
            execution.waiting = Waiting::Load(pending.map(Box::new));
        }
    }

    fn schedule_checkpoint(&mut self, caller: Caller) {
        let now = self.now;
        let Some(serving) = self.serving(caller) else { return };
        let checkpointer = &mut serving.checkpointer;
        match checkpointer.machine.due_in_ms(now) {
            None => {}
            Some(0) => {
                let Some(generation) = checkpointer.machine.begin() else {
                    return;
                };
                // The order of a hash map is nobody's promise, and not the seed's either.
                let mut left: Vec<_> = generation.executions.keys().copied().collect();
                left.sort_unstable();
                checkpointer.writer = Some(Writer {
                    generation,
                    left: left.into(),
                    chunk: Vec::new(),
                    stage: WriterStage::Rows,
                    busy: false,
                });
            }
            Some(_) if checkpointer.ticking => {}
            Some(wait_ms) => {
                checkpointer.ticking = true;
                self.after(wait_ms, Timed::CheckpointTick(caller));
            }
        }
    }

    pub(super) fn checkpoint_tick(&mut self, caller: Caller) {
        if let Some(serving) = self.serving(caller) {
            serving.checkpointer.inbox.push_back(CheckpointerMessage::Tick);
        }
    }

    pub(super) fn writer_step(&mut self, process: ProcessNo, shard: ShardId) {
        let Some((caller, serving)) = self.caller(process, shard) else {
            return;
        };
        let Some(writer) = &mut serving.checkpointer.writer else {
            return;
        };
        match writer.stage {
            WriterStage::Rows if writer.chunk.len() >= CHUNK_ROWS => {
                writer.busy = true;
                let rows = writer.chunk.clone();
                self.call(caller, Call::Checkpoint(rows, None));
            }
            WriterStage::Rows => match writer.left.front().copied() {
                Some(id) => self.add_rows(caller, id),
                None => writer.stage = WriterStage::Last,
            },
            WriterStage::Last => {
                writer.busy = true;
                let heads = writer.generation.heads.iter();
                let heads: BTreeMap<_, _> = heads.map(|(key, ordinal)| (*key, *ordinal)).collect();
                let heads = heads
                    .into_iter()
                    .map(|(key, ordinal)| CheckpointRow::Head { key, ordinal });
                let rows = writer.chunk.iter().cloned().chain(heads).collect();
                let reached = writer.generation.reached;
                self.call(caller, Call::Checkpoint(rows, Some(reached)));
            }
            WriterStage::Project => {
                writer.busy = true;
                let reached = writer.generation.reached;
                serving.lists.inbox.push_back(ListsMessage::Flush(reached));
            }
            WriterStage::Trim => {
                writer.busy = true;
                let reached = writer.generation.reached;
                self.call(caller, Call::Trim(reached));
            }
            WriterStage::Done => {
                let reached = writer.generation.reached;
                serving.events.inbox.push_back(SinkMessage::Checkpointed(reached));
                serving.checkpointer.writer = None;
                serving.checkpointer.inbox.push_back(CheckpointerMessage::Written);
            }
        }
    }

    fn add_rows(&mut self, caller: Caller, id: ExecutionId) {
        let reachable = self.reaches(caller.process);
        let Some(serving) = self.serving(caller) else { return };
        let Some(writer) = &mut serving.checkpointer.writer else {
            return;
        };
        let Some(pending) = writer.generation.executions.get(&id).cloned() else {
            return;
        };
        self.store.set_reachable(reachable);
        let rows = self.rows(id, &pending);
        self.store.set_reachable(true);
        let rows = match rows {
            Ok(rows) => rows,
            Err(EngineError::Unavailable(_) | EngineError::Fenced) => return self.pause_writer(caller),
            Err(error) => {
                // An owner that was frozen for longer than archives are kept knows executions that are gone: its rows are refused.
                if self.store.epoch(caller.shard) == caller.epoch {
                    self.trouble(format!("{id} cannot be archived: {error}"));
                }
                live(id, &pending, Wait::Message)
            }
        };
        let Some(serving) = self.serving(caller) else { return };
        let Some(writer) = &mut serving.checkpointer.writer else {
            return;
        };
        writer.left.pop_front();
        writer.chunk.extend(rows);
    }

    /// An archive that gives way, where the execution has gone on from one; then the execution itself.
    fn rows(&mut self, id: ExecutionId, pending: &Pending) -> Result<Vec<CheckpointRow>, EngineError> {
        let mut rows = Vec::new();
        if pending.reopens
            && let Some(ExecutionBase::Ended(archive, _)) = at_once(self.store.load(id))?
        {
            rows.extend(give_way(FormatRange::RELEASE, &archive, pending).map_err(damaged)?);
            self.count("archives that gave way");
        }
        match pending.mark.wait() {
            Some(wait) => rows.extend(live(id, pending, wait)),
            None => rows.push(CheckpointRow::Ended(self.archive(id, pending)?)),
        }
        Ok(rows)
    }

    fn archive(&mut self, id: ExecutionId, pending: &Pending) -> Result<Archive, EngineError> {
        let end = match &pending.end {
            Some(end) => (**end).clone(),
            None => {
                self.count("archives after a takeover");
                at_once(final_state(&self.context, id, pending))?
            }
        };
        let mut packer = Packer::new().map_err(damaged)?;
        let bytes = packer
            .pack(&end.state, pending.frames.iter().map(|(_, frame)| frame))
            .map_err(damaged)?;
        let tombstone_ms = self.context.options.tombstone_ms;
        Ok(Archive {
            id,
            last: pending.last(),
            bytes,
            expires_at: end.expires_at,
            tombstone_ms,
        })
    }

    fn pause_writer(&mut self, caller: Caller) {
        let Some(serving) = self.serving(caller) else { return };
        if let Some(writer) = &mut serving.checkpointer.writer {
            writer.busy = true;
            self.after(RETRY_MS, Timed::WriterRetry(caller));
        }
    }

    pub(super) fn writer_retry(&mut self, caller: Caller) {
        if let Some(serving) = self.serving(caller)
            && let Some(writer) = &mut serving.checkpointer.writer
        {
            writer.busy = false;
        }
    }

    pub(super) fn written(&mut self, caller: Caller, written: Result<(), StoreError>) {
        let Some(serving) = self.serving(caller) else { return };
        let Some(writer) = &mut serving.checkpointer.writer else {
            return;
        };
        match written {
            Ok(()) => {
                writer.busy = false;
                match writer.stage {
                    WriterStage::Rows => writer.chunk.clear(),
                    WriterStage::Last => writer.stage = WriterStage::Project,
                    WriterStage::Project | WriterStage::Trim | WriterStage::Done => writer.stage = WriterStage::Done,
                }
            }
            Err(StoreError::Unavailable(_)) => self.pause_writer(caller),
            Err(StoreError::Fenced { .. } | StoreError::Held(_)) => serving.inbox.push_back(ShardMessage::Fenced),
            Err(StoreError::WentBack(why) | StoreError::Damaged(why)) => {
                serving.inbox.push_back(ShardMessage::Halt(why))
            }
        }
    }
}

fn damaged(error: ArchiveError) -> EngineError {
    EngineError::Damaged(error.to_string())
}

/// A live execution's rows: the entries up to a snapshot with it, then the rest.
fn live(id: ExecutionId, pending: &Pending, wait: Wait) -> Vec<CheckpointRow> {
    let cut = pending
        .snapshot
        .as_ref()
        .map_or(0, |(seq, _)| pending.frames.partition_point(|(at, _)| at <= seq));
    let (before, after) = pending.frames.split_at(cut);
    let snapshot = pending.snapshot.as_ref().map(|(_, bytes)| bytes.clone());
    let parts = [(before, snapshot), (after, None)];
    let rows = parts.into_iter().filter_map(|(frames, snapshot)| {
        let (first, last) = (frames.first()?, frames.last()?);
        let segment = Bytes::from(
            frames
                .iter()
                .flat_map(|(_, frame)| frame.iter().copied())
                .collect::<Vec<u8>>(),
        );
        Some(CheckpointRow::Live {
            id,
            first: first.0,
            last: last.0,
            segment,
            snapshot,
            wait,
        })
    });
    rows.collect()
}

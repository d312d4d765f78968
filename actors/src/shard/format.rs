//! Keeps a shard in the format that the members have agreed on: says a newer one before it is written, and writes everything anew
//! before it says an older one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use ractor::ActorRef;
use tokio::sync::{oneshot, watch};
use troupe_core::{ExecutionId, FormatRange, LogPosition, Seq, StateFormat};
use troupe_ports::{Archive, ExecutionBase};

use crate::checkpointer::CheckpointerMessage;
use crate::checkpointer::archive::{ArchiveError, Packer, Unpacked};
use crate::committer::CommitterMessage;
use crate::context::ShardContext;
use crate::error::EngineError;
use crate::format::{Unreadable, WrittenFormat, format_of_snapshot, snapshot_of, state_of};
use crate::record::{format_of_record, frames_for};
use crate::shard::ShardMessage;
use crate::sinks::{EventSinkMessage, VisibilityMessage};
use crate::task::{ShardTask, supervised, text_of};

/// Bytes of log read at once.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Pause before what failed is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Executions between two chances for other tasks to run.
const YIELD_ROWS: usize = 32;
/// How often an execution is written anew that changes meanwhile: a checkpoint comes every few seconds.
const REWRITES_MAX: usize = 16;

/// The format in which a shard is written from its first record on: what the members have agreed on, and nothing newer than what the
/// store was `told`, which the keeper says first. An owner can write either: nobody takes a shard of a format that it does not read, or agrees
/// on one.
pub(super) fn begun_in(told: StateFormat, agreed: StateFormat) -> StateFormat {
    told.min(agreed)
}

/// Who keeps the format of a shard.
#[derive(Debug)]
pub(super) struct FormatKeeper {
    shard: Weak<ShardContext>,
    /// What the store was told.
    held: StateFormat,
    written: Arc<WrittenFormat>,
    sinks: Vec<ActorRef<EventSinkMessage>>,
    visibility: ActorRef<VisibilityMessage>,
}

impl FormatKeeper {
    /// A keeper of a shard of which the store was told `held`.
    pub(super) fn new(
        shard: &Arc<ShardContext>,
        held: StateFormat,
        written: Arc<WrittenFormat>,
        sinks: Vec<ActorRef<EventSinkMessage>>,
        visibility: ActorRef<VisibilityMessage>,
    ) -> Self {
        Self {
            shard: Arc::downgrade(shard),
            held,
            written,
            sinks,
            visibility,
        }
    }

    /// Follows what the members agree on, until the shard is dropped.
    pub(super) fn start(self, agreed: watch::Receiver<StateFormat>, supervisor: ActorRef<ShardMessage>) -> ShardTask {
        ShardTask::spawn(supervised("keeping the format", supervisor, self.follow(agreed)))
    }

    async fn follow(mut self, mut agreed: watch::Receiver<StateFormat>) {
        let mut told = false;
        loop {
            let wanted = *agreed.borrow_and_update();
            // The engine must not keep itself.
            let Some(shard) = self.shard.upgrade() else { return };
            let settled = self.settle(&shard, wanted).await;
            let number = shard.shard.0;
            drop(shard);
            match settled {
                Ok(()) => {
                    told = false;
                    if agreed.changed().await.is_err() {
                        return;
                    }
                }
                Err(EngineError::Fenced) => return,
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        let (holds, wanted) = (self.held.0, wanted.0);
                        tracing::warn!(shard = number, holds, wanted, %error, "the shard keeps its format for now");
                    }
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Brings the shard into `wanted`.
    async fn settle(&mut self, shard: &ShardContext, wanted: StateFormat) -> Result<(), EngineError> {
        let store = &shard.engine.parts.state;
        let number = shard.shard.0;
        if wanted > self.held {
            let told = store.set_format(shard.shard, shard.epoch, wanted).await;
            shard.engine.noticed(shard.shard, told)?;
            self.held = wanted;
            tracing::info!(
                shard = number,
                format = wanted.0,
                "the shard is written in a newer format"
            );
        }
        self.written.set(wanted);
        if wanted < self.held {
            let rewritten = self.lower(shard, wanted).await?;
            let told = store.set_format(shard.shard, shard.epoch, wanted).await;
            shard.engine.noticed(shard.shard, told)?;
            self.held = wanted;
            tracing::info!(
                shard = number,
                format = wanted.0,
                rewritten,
                "the shard holds nothing of a newer format any more"
            );
        }
        Ok(())
    }

    /// Leaves nothing of a newer format than `to` anywhere; new entries are of that one already. How many executions were written anew.
    async fn lower(&self, shard: &ShardContext, to: StateFormat) -> Result<usize, EngineError> {
        let gone = || EngineError::Unavailable("an actor of the shard is gone".into());
        // What gathered before may be of the newer format: it is in the log after this, and in the checkpoint after the next.
        let (settled, barrier) = oneshot::channel();
        let message = CommitterMessage::Barrier(settled);
        shard.committer.send_message(message).map_err(|_| gone())?;
        barrier.await.map_err(|_| gone())?;
        let (flushed, flush) = oneshot::channel();
        let message = CheckpointerMessage::Flush(flushed);
        shard.checkpointer.send_message(message).map_err(|_| gone())?;
        flush.await.map_err(|_| gone())?;
        self.empty_log(shard, to).await?;
        let mut rewritten = 0;
        let stored = shard.engine.parts.state.stored(shard.shard).await?;
        for (place, id) in stored.into_iter().enumerate() {
            if shard.gate.is_closed() {
                return Err(EngineError::Fenced);
            }
            rewritten += usize::from(rewrite(shard, id, to).await?);
            if place % YIELD_ROWS == YIELD_ROWS - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(rewritten)
    }

    /// Has lists and sinks take what they lack of the log's newer records, and removes those.
    async fn empty_log(&self, shard: &ShardContext, to: StateFormat) -> Result<(), EngineError> {
        let last = newest_record(shard, to).await?;
        if let Some(last) = last {
            let (projected, flush) = oneshot::channel();
            let asked = self.visibility.send_message(VisibilityMessage::Flush(last, projected));
            let waits = || EngineError::Unavailable("lists lack records of the newer format".into());
            asked.map_err(|_| waits())?;
            flush.await.map_err(|_| waits())?;
        }
        for sink in &self.sinks {
            let (vacated, vacate) = oneshot::channel();
            let up_to = last.unwrap_or_default();
            let message = EventSinkMessage::Vacate { up_to, done: vacated };
            let waits = || EngineError::Unavailable("a sink is gone".into());
            sink.send_message(message).map_err(|_| waits())?;
            vacate.await.map_err(|_| waits())?.map_err(EngineError::Unavailable)?;
        }
        let Some(last) = last else { return Ok(()) };
        let trimmed = shard.engine.parts.state.trim(shard.shard, shard.epoch, last).await;
        shard.engine.noticed(shard.shard, trimmed)?;
        match newest_record(shard, to).await? {
            None => Ok(()),
            Some(left) => Err(EngineError::Unavailable(format!(
                "record {left} of the newer format is still needed"
            ))),
        }
    }
}

/// The last record of the log of a newer format than `to`.
async fn newest_record(shard: &ShardContext, to: StateFormat) -> Result<Option<LogPosition>, EngineError> {
    let (mut from, mut newest) = (LogPosition(1), None);
    loop {
        let records = shard.engine.parts.state.read(shard.shard, from, READ_BYTES).await?;
        let Some(last) = records.last() else {
            return Ok(newest);
        };
        from = last.position.next();
        let newer = records
            .iter()
            .filter(|record| format_of_record(&record.bytes) > Some(to));
        newest = newer.map(|record| record.position).max().or(newest);
    }
}

/// Writes an execution anew where something of it is of a newer format; whether something was. What is damaged stays as it is: it is set
/// aside by whoever loads it.
async fn rewrite(shard: &ShardContext, id: ExecutionId, to: StateFormat) -> Result<bool, EngineError> {
    let store = &shard.engine.parts.state;
    let reads = shard.engine.options.reads;
    for _ in 0..REWRITES_MAX {
        let Some(base) = shard.engine.noticed(shard.shard, store.load(id).await)? else {
            return Ok(false);
        };
        let fitting = catch_unwind(AssertUnwindSafe(|| fitted(base, to, reads)));
        let fitted = match fitting {
            Ok(Ok(Some(fitted))) => fitted,
            Ok(Ok(None)) => return Ok(false),
            Ok(Err(error)) => {
                tracing::error!(%id, %error, "an execution cannot be written in an older format");
                return Ok(false);
            }
            Err(panic) => {
                let why = text_of(&*panic);
                tracing::error!(%id, why, "an execution stays in its format: what writes it in an older one panicked");
                return Ok(false);
            }
        };
        let rewritten = store.rewrite(shard.shard, shard.epoch, id, fitted).await;
        if shard.engine.noticed(shard.shard, rewritten)? {
            return Ok(true);
        }
    }
    Err(EngineError::Unavailable(format!("execution {id} changes all the time")))
}

/// What is stored of an execution, in formats up to `to`; none where it is already.
fn fitted(base: ExecutionBase, to: StateFormat, reads: FormatRange) -> Result<Option<ExecutionBase>, Unreadable> {
    match base {
        ExecutionBase::Live {
            snapshot,
            segments,
            wait,
        } => {
            let newer = snapshot.as_ref().filter(|(_, bytes)| format_of_snapshot(bytes) > to);
            let fitted_snapshot = match newer {
                Some((seq, bytes)) => Some((*seq, snapshot_of(&state_of(bytes, reads)?, to))),
                None => snapshot.clone(),
            };
            let fitted_segments = fitted_segments(&segments, to, reads)?;
            let is_same = fitted_snapshot == snapshot && fitted_segments == segments;
            Ok((!is_same).then_some(ExecutionBase::Live {
                snapshot: fitted_snapshot,
                segments: fitted_segments,
                wait,
            }))
        }
        ExecutionBase::Ended(archive, segments) => {
            let fitted_segments = fitted_segments(&segments, to, reads)?;
            let bytes = fitted_archive(&archive.bytes, to, reads)?;
            let is_same = bytes.is_none() && fitted_segments == segments;
            let bytes = bytes.unwrap_or_else(|| archive.bytes.clone());
            Ok((!is_same).then_some(ExecutionBase::Ended(Archive { bytes, ..archive }, fitted_segments)))
        }
        ExecutionBase::Tombstone { .. } => Ok(None),
    }
}

fn fitted_segments(
    segments: &[(Seq, Bytes)],
    to: StateFormat,
    reads: FormatRange,
) -> Result<Vec<(Seq, Bytes)>, Unreadable> {
    let fitted = segments
        .iter()
        .map(|(last, frames)| Ok((*last, frames_for(to, reads, frames)?)));
    fitted.collect()
}

/// An archive says its format, and holds nothing of a newer one.
fn fitted_archive(bytes: &Bytes, to: StateFormat, reads: FormatRange) -> Result<Option<Bytes>, Unreadable> {
    if bytes.first().copied().map(StateFormat) <= Some(to) {
        return Ok(None);
    }
    let unreadable = |error| match error {
        ArchiveError::Newer(format) => Unreadable::Newer(format),
        error @ ArchiveError::Damaged(_) => Unreadable::damaged(error),
    };
    let Unpacked { state, frames } = Unpacked::read_as(reads, bytes).map_err(unreadable)?;
    let frames = frames_for(to, reads, &frames)?;
    let mut packer = Packer::new().map_err(unreadable)?.writing(to);
    let packed = packer.pack(&state, std::iter::once(&frames)).map_err(unreadable)?;
    Ok(Some(packed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_core::execution::{Entry, Event};
    use troupe_core::{ShardId, Timestamp};
    use troupe_ports::{CommitId, Wait};

    use super::*;
    use crate::record::{Mark, RecordWriter};

    fn frames(format: StateFormat) -> Bytes {
        let entry = Entry {
            seq: Seq(1),
            at: Timestamp(1),
            event: Event::Paused,
            answers: Vec::new(),
            transitions: Vec::new(),
            principal: None,
            command: None,
        };
        let mut writer = RecordWriter::default();
        writer.begin(format);
        writer.push(ExecutionId::fresh(ShardId(0), Timestamp(0), 1), &entry, Mark::Ended);
        let (record, items) = writer.finish(CommitId(1));
        record.slice(items[0].frame.clone())
    }

    fn live(format: StateFormat, segments: &[StateFormat]) -> ExecutionBase {
        let state = Bytes::from_static(&[0x81, 1]);
        ExecutionBase::Live {
            snapshot: Some((Seq(1), snapshot_of(&state, format))),
            segments: (1..).map(Seq).zip(segments.iter().copied().map(frames)).collect(),
            wait: Wait::Running,
        }
    }

    fn ended(format: StateFormat, segment: StateFormat) -> ExecutionBase {
        let mut packer = Packer::new().unwrap().writing(format);
        let archive = Archive {
            id: ExecutionId::fresh(ShardId(0), Timestamp(0), 1),
            last: Seq(2),
            bytes: packer.pack(&[0x81, 1], std::iter::once(&frames(format))).unwrap(),
            expires_at: Timestamp(9),
            tombstone_ms: 1,
        };
        ExecutionBase::Ended(archive, vec![(Seq(1), frames(segment))])
    }

    /// A release that has given the first format up must not write the second into a shard of which the store says that it holds the first.
    #[test]
    fn nothing_is_written_of_which_the_store_was_not_told() {
        for (told, agreed, begun) in [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 2), (3, 2, 2), (2, 3, 2)] {
            let begins = begun_in(StateFormat(told), StateFormat(agreed));
            assert_eq!(begins, StateFormat(begun), "told {told}, agreed {agreed}");
        }
    }

    #[test]
    fn what_is_newer_anywhere_is_written_anew_and_what_is_not_stays() {
        let (first, trial) = (StateFormat::FIRST, StateFormat::TRIAL);
        let to_first = |base: ExecutionBase| fitted(base, first, FormatRange::WITH_TRIAL).unwrap();
        for (base, expected) in [
            (live(first, &[first, first]), None),
            (live(trial, &[first, first]), Some(live(first, &[first, first]))),
            (live(first, &[first, trial]), Some(live(first, &[first, first]))),
            (live(trial, &[trial, trial]), Some(live(first, &[first, first]))),
            (ended(first, first), None),
            (ended(trial, first), Some(ended(first, first))),
            (ended(first, trial), Some(ended(first, first))),
            (ExecutionBase::Tombstone { last: Seq(1) }, None),
        ] {
            assert_eq!(to_first(base.clone()), expected, "{base:?}");
            let same = fitted(base.clone(), trial, FormatRange::WITH_TRIAL).unwrap();
            assert_eq!(same, None, "an older format is read anyway: {base:?}");
        }
    }
}

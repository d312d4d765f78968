//! Turns a generation into rows and writes them in bounded chunks, repeating what the store could not take.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use troupe_core::{ExecutionId, FormatRange, Seq, StateFormat};
use troupe_ports::{Archive, CheckpointRow, ExecutionBase, StoreError, Wait};

use super::actor::CheckpointerArguments;
use super::archive::{Packer, give_way};
use super::machine::{Generation, Pending};
use crate::error::EngineError;
use crate::execution::load::final_state;
use crate::format::{Unreadable, snapshot_of, state_of};
use crate::record::frames_for;
use crate::sinks::VisibilityMessage;

/// Bytes of rows per chunk, about.
const CHUNK_BYTES: usize = 512 * 1024;
/// Rows between two chances for other tasks to run.
const YIELD_ROWS: usize = 32;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Why a checkpoint cannot be written at all.
#[derive(Debug)]
pub(super) enum Failed {
    /// Another owner has the shard.
    Fenced,
    /// What it goes on from is lost.
    WentBack(String),
    /// An operator must look.
    Damaged(String),
    /// Why, for people: the shard is opened anew.
    Panicked(String),
}

/// Writes a generation and moves the checkpoint position past it. Whether the log could be trimmed up to there, as far as lists go.
pub(super) async fn write(arguments: &CheckpointerArguments, generation: &Arc<Generation>) -> Result<bool, Failed> {
    let form = Form {
        format: arguments.format.now(),
        reads: arguments.engine.options.reads,
    };
    let packer = Packer::new().map_err(|error| Failed::Damaged(error.to_string()))?;
    let mut packer = packer.writing(form.format);
    let mut chunk = Chunk::default();
    for (place, (id, pending)) in generation.executions.iter().enumerate() {
        rows(arguments, (&mut packer, form), *id, pending, &mut chunk).await?;
        if chunk.bytes >= CHUNK_BYTES {
            send(arguments, std::mem::take(&mut chunk).rows, false, generation).await?;
        } else if place % YIELD_ROWS == YIELD_ROWS - 1 {
            tokio::task::yield_now().await;
        }
    }
    chunk
        .rows
        .extend(generation.heads.iter().map(|(key, ordinal)| CheckpointRow::Head {
            key: *key,
            ordinal: *ordinal,
        }));
    send(arguments, chunk.rows, true, generation).await?;
    if !project(arguments, generation.reached).await {
        // The next checkpoint trims what this one leaves.
        return Ok(false);
    }
    let trimmed = repeat(arguments, || {
        arguments
            .engine
            .parts
            .state
            .trim(arguments.shard, arguments.epoch, generation.reached)
    });
    trimmed.await.map(|()| true)
}

/// Whether lists show everything up to `reached`: what they lack must stay in the log.
pub(super) async fn project(arguments: &CheckpointerArguments, reached: troupe_core::LogPosition) -> bool {
    let (done, projected) = tokio::sync::oneshot::channel();
    arguments
        .visibility
        .send_message(VisibilityMessage::Flush(reached, done))
        .is_ok()
        && projected.await.is_ok()
}

/// What a checkpoint is written in. Frames of older formats stay as they are: they say theirs.
#[derive(Clone, Copy, Debug)]
struct Form {
    format: StateFormat,
    reads: FormatRange,
}

impl Form {
    /// Damaged ones stay as they are: whoever loads the execution sets it aside.
    fn frames(self, frames: &Bytes) -> Bytes {
        frames_for(self.format, self.reads, frames).unwrap_or_else(|error| {
            tracing::error!(%error, "entries are kept as they are");
            frames.clone()
        })
    }

    fn snapshot(self, snapshot: &Bytes) -> Result<Bytes, Failed> {
        let state = state_of(snapshot, self.reads).map_err(|error: Unreadable| Failed::Damaged(error.to_string()))?;
        Ok(snapshot_of(&state, self.format))
    }
}

#[derive(Debug, Default)]
struct Chunk {
    rows: Vec<CheckpointRow>,
    bytes: usize,
}

async fn rows(
    arguments: &CheckpointerArguments,
    (packer, form): (&mut Packer, Form),
    id: ExecutionId,
    pending: &Pending,
    chunk: &mut Chunk,
) -> Result<(), Failed> {
    if pending.reopens
        && let Some(row) = reopened(arguments, form, id, pending).await?
    {
        if let CheckpointRow::Reopened { segment, snapshot, .. } = &row {
            chunk.bytes += segment.len() + snapshot.len();
        }
        chunk.rows.push(row);
    }
    let Some(wait) = pending.mark.wait() else {
        // A damaged execution is left as it is: its row stays, so that nothing is lost, and loading quarantines it.
        match archive(arguments, (packer, form), id, pending).await? {
            Some(archive) => {
                chunk.bytes += archive.bytes.len();
                chunk.rows.push(CheckpointRow::Ended(archive));
            }
            None => live(form, id, pending, Wait::Message, chunk)?,
        }
        return Ok(());
    };
    live(form, id, pending, wait, chunk)
}

/// What makes an archive give way, where the store holds one that the execution has gone on from.
async fn reopened(
    arguments: &CheckpointerArguments,
    form: Form,
    id: ExecutionId,
    pending: &Pending,
) -> Result<Option<CheckpointRow>, Failed> {
    match repeat(arguments, || arguments.engine.parts.state.load(id)).await? {
        Some(ExecutionBase::Ended(archive, _)) => {
            let row = give_way(form.reads, &archive, pending).map_err(|error| Failed::Damaged(error.to_string()))?;
            let Some(CheckpointRow::Reopened {
                id,
                ended,
                segment,
                snapshot,
            }) = row
            else {
                return Ok(row);
            };
            Ok(Some(CheckpointRow::Reopened {
                id,
                ended,
                segment: form.frames(&segment),
                snapshot: form.snapshot(&snapshot)?,
            }))
        }
        Some(ExecutionBase::Live { .. } | ExecutionBase::Tombstone { .. }) | None => Ok(None),
    }
}

/// A live execution's rows: the entries up to a snapshot with it, then the rest.
fn live(form: Form, id: ExecutionId, pending: &Pending, wait: Wait, chunk: &mut Chunk) -> Result<(), Failed> {
    let cut = pending
        .snapshot
        .as_ref()
        .map_or(0, |(seq, _)| pending.frames.partition_point(|(at, _)| at <= seq));
    let (before, after) = pending.frames.split_at(cut);
    let snapshot = pending
        .snapshot
        .as_ref()
        .map(|(_, bytes)| form.snapshot(bytes))
        .transpose()?;
    for (frames, snapshot) in [(before, snapshot), (after, None)] {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
            continue;
        };
        let segment = form.frames(&concatenated(frames));
        chunk.bytes += segment.len() + snapshot.as_ref().map_or(0, Bytes::len);
        chunk.rows.push(CheckpointRow::Live {
            id,
            first: first.0,
            last: last.0,
            segment,
            snapshot,
            wait,
        });
    }
    Ok(())
}

fn concatenated(frames: &[(Seq, Bytes)]) -> Bytes {
    if let [(_, only)] = frames {
        return only.clone();
    }
    let mut segment = BytesMut::with_capacity(frames.iter().map(|(_, frame)| frame.len()).sum());
    frames.iter().for_each(|(_, frame)| segment.extend_from_slice(frame));
    segment.freeze()
}

async fn archive(
    arguments: &CheckpointerArguments,
    (packer, form): (&mut Packer, Form),
    id: ExecutionId,
    pending: &Pending,
) -> Result<Option<Archive>, Failed> {
    let end = match &pending.end {
        Some(end) => (**end).clone(),
        None => {
            let mut pause = RETRY_FIRST;
            loop {
                match final_state(&arguments.engine, id, pending).await {
                    Ok(end) => break end,
                    Err(EngineError::Fenced) => return Err(Failed::Fenced),
                    Err(EngineError::Unavailable(why)) => {
                        tracing::warn!(%id, why, "an ended execution cannot be archived yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                    Err(error) => {
                        tracing::error!(%id, %error, "an ended execution cannot be archived");
                        return Ok(None);
                    }
                }
            }
        }
    };
    let frames: Vec<Bytes> = pending.frames.iter().map(|(_, frame)| form.frames(frame)).collect();
    let bytes = packer
        .pack(&end.state, frames.iter())
        .map_err(|error| Failed::Damaged(error.to_string()))?;
    let tombstone_ms = arguments.engine.options.tombstone_ms;
    Ok(Some(Archive {
        id,
        last: pending.last(),
        bytes,
        expires_at: end.expires_at,
        tombstone_ms,
    }))
}

async fn send(
    arguments: &CheckpointerArguments,
    rows: Vec<CheckpointRow>,
    last: bool,
    generation: &Generation,
) -> Result<(), Failed> {
    let reached = last.then_some(generation.reached);
    repeat(arguments, || {
        arguments
            .engine
            .parts
            .state
            .checkpoint(arguments.shard, arguments.epoch, rows.clone(), reached)
    })
    .await
}

/// Repeats an idempotent write until the store takes it.
async fn repeat<'a, F, T>(arguments: &CheckpointerArguments, mut call: F) -> Result<T, Failed>
where
    F: FnMut() -> futures::future::BoxFuture<'a, Result<T, StoreError>>,
{
    let (outage, who) = (&arguments.engine.outages.checkpoints, u64::from(arguments.shard.0));
    let mut pause = RETRY_FIRST;
    loop {
        match call().await {
            Ok(done) => {
                outage.over(who);
                return Ok(done);
            }
            Err(StoreError::Fenced { .. } | StoreError::Held(_)) => return Err(Failed::Fenced),
            Err(StoreError::WentBack(why)) => return Err(Failed::WentBack(why)),
            Err(StoreError::Damaged(why)) => return Err(Failed::Damaged(why)),
            Err(StoreError::Unavailable(why)) => {
                outage.failed(who, &why);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

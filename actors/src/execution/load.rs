//! Brings an execution back: the store's base, folded with what the log alone still holds.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::oneshot;
use troupe_core::execution::{Entry, ExecutionState, replay, retention_of};
use troupe_core::{ExecutionId, Seq, Timestamp};
use troupe_ports::ExecutionBase;

use super::machine::{EndMark, encode_state};
use crate::checkpointer::archive::Unpacked;
use crate::checkpointer::{CheckpointerMessage, Pending};
use crate::context::{EngineContext, ShardContext};
use crate::error::EngineError;
use crate::evaluation::CompiledPlan;
use crate::format::state_of;
use crate::record::read_frames_as;
use crate::task::text_of;

/// An execution as the store and the log know it.
#[derive(Debug)]
pub enum Loaded {
    /// There is none.
    Missing,
    /// It ended and its archive is gone.
    Tombstone(Seq),
    /// Its durable state.
    Found(Box<Found>),
}

/// A durable state.
#[derive(Debug)]
pub struct Found {
    /// The state.
    pub state: ExecutionState,
    /// Its plan.
    pub compiled: Arc<CompiledPlan>,
    /// Time of the last entry that was folded, if one was.
    pub last_at: Timestamp,
    /// Bytes of entries since the last snapshot.
    pub segment_bytes: usize,
}

/// What the log alone holds of an execution.
///
/// # Errors
/// [`EngineError::Unavailable`] when the shard is gone.
pub async fn pending(shard: &ShardContext, id: ExecutionId) -> Result<Option<Pending>, EngineError> {
    let gone = || EngineError::Unavailable(format!("shard {} is gone", shard.shard));
    let (reply, answer) = oneshot::channel();
    shard
        .checkpointer
        .send_message(CheckpointerMessage::Lookup(id, reply))
        .map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

/// Seq of the last durable entry of an execution, if there is or was one. Nothing is folded.
///
/// # Errors
/// [`EngineError::Unavailable`].
pub async fn last_seq(shard: &ShardContext, id: ExecutionId) -> Result<Option<Seq>, EngineError> {
    let pending = pending(shard, id).await?;
    let stored = match stored(&shard.engine, id).await? {
        None => None,
        Some(ExecutionBase::Tombstone { last }) => Some(last),
        Some(ExecutionBase::Ended(archive, _)) => Some(archive.last),
        Some(ExecutionBase::Live { snapshot, segments, .. }) => {
            let snapshot = snapshot.map(|(seq, _)| seq);
            snapshot.max(segments.last().map(|(seq, _)| *seq))
        }
    };
    Ok(stored.max(pending.map(|pending| pending.last())))
}

async fn stored(engine: &EngineContext, id: ExecutionId) -> Result<Option<ExecutionBase>, EngineError> {
    engine.noticed(id.shard(), engine.parts.state.load(id).await)
}

/// Loads an execution of a shard that is served.
///
/// # Errors
/// [`EngineError::Unavailable`]; [`EngineError::Damaged`] when it does not fold.
pub async fn load(shard: &ShardContext, id: ExecutionId) -> Result<Loaded, EngineError> {
    // First the log, then the store: what leaves the one in between is in the other.
    let pending = pending(shard, id).await?;
    load_over(&shard.engine, id, pending.as_ref()).await
}

/// Loads an execution from the store and what the log alone holds of it. A panic is damage of this execution: whoever loads it beside others
/// goes on with those.
///
/// # Errors
/// As [`load`].
pub async fn load_over(
    engine: &EngineContext,
    id: ExecutionId,
    pending: Option<&Pending>,
) -> Result<Loaded, EngineError> {
    let loading = AssertUnwindSafe(unguarded(engine, id, pending)).catch_unwind();
    loading.await.unwrap_or_else(|panic| {
        let why = text_of(&*panic);
        Err(EngineError::Damaged(format!("what loads it panicked: {why}")))
    })
}

async fn unguarded(engine: &EngineContext, id: ExecutionId, pending: Option<&Pending>) -> Result<Loaded, EngineError> {
    let base = stored(engine, id).await?;
    let (snapshot, mut frames) = match base {
        Some(ExecutionBase::Tombstone { last }) => return Ok(Loaded::Tombstone(last)),
        Some(ExecutionBase::Ended(archive, _)) => {
            let unpacked = Unpacked::read_as(engine.options.reads, &archive.bytes)
                .map_err(|error| EngineError::Damaged(error.to_string()))?;
            if pending.is_none_or(|pending| pending.last() <= archive.last) {
                let (state, compiled) = decode(engine, &unpacked.state).await?;
                return Ok(found(state, compiled, Timestamp(i64::MIN), 0));
            }
            // It was reopened since.
            (Some((archive.last, unpacked.state)), Vec::new())
        }
        Some(ExecutionBase::Live { snapshot, segments, .. }) => (snapshot, segments),
        None => (None, Vec::new()),
    };
    if let Some(pending) = pending {
        // What the store holds may be newer by now: an end that was overtaken by a reopening.
        let stored = frames.last().map_or(Seq(0), |(last, _)| *last);
        if let Some(end) = pending.end.as_ref().filter(|_| pending.last() >= stored) {
            let (state, compiled) = decode(engine, &end.state).await?;
            return Ok(found(state, compiled, Timestamp(i64::MIN), 0));
        }
        frames.extend(pending.frames.iter().cloned());
    }
    let snapshot = pending.and_then(|pending| pending.snapshot.clone()).or(snapshot);
    if snapshot.is_none() && frames.is_empty() {
        return Ok(Loaded::Missing);
    }
    fold(engine, id, snapshot, &frames).await
}

fn found(state: ExecutionState, compiled: Arc<CompiledPlan>, last_at: Timestamp, segment_bytes: usize) -> Loaded {
    Loaded::Found(Box::new(Found {
        state,
        compiled,
        last_at,
        segment_bytes,
    }))
}

async fn decode(engine: &EngineContext, snapshot: &Bytes) -> Result<(ExecutionState, Arc<CompiledPlan>), EngineError> {
    let damaged = |error: &dyn std::fmt::Display| EngineError::Damaged(format!("a state cannot be read: {error}"));
    let bytes = state_of(snapshot, engine.options.reads).map_err(|error| damaged(&error))?;
    let mut state: ExecutionState = minicbor::decode(&bytes).map_err(|error| damaged(&error))?;
    let compiled = engine.plans.version(state.workflow.as_str(), state.version).await?;
    if state.nodes.len() != compiled.plan.nodes.len() || state.edges.len() != compiled.plan.edges.len() {
        return Err(EngineError::Damaged("a state does not fit its workflow version".into()));
    }
    state.reindex(&compiled.plan);
    Ok((state, compiled))
}

/// Folds entries over a snapshot by seq: at or below it skip, next apply, a gap is damage.
async fn fold(
    engine: &EngineContext,
    id: ExecutionId,
    snapshot: Option<(Seq, Bytes)>,
    frames: &[(Seq, Bytes)],
) -> Result<Loaded, EngineError> {
    let mut folded = match &snapshot {
        Some((_, bytes)) => Some(decode(engine, bytes).await?),
        None => None,
    };
    let (mut last_at, mut segment_bytes) = (Timestamp(i64::MIN), 0);
    let from = snapshot.as_ref().map_or(Seq(0), |(seq, _)| *seq);
    for (last, segment) in frames.iter().filter(|(last, _)| *last > from) {
        if folded.as_ref().is_some_and(|(state, _)| *last <= state.seq) {
            continue;
        }
        segment_bytes += segment.len();
        for entry in read_frames_as::<Entry>(engine.options.reads, segment) {
            let entry = entry.map_err(|error| EngineError::Damaged(error.to_string()))?;
            if folded.is_none() {
                folded = Some(begin(engine, id, &entry).await?);
            }
            let Some((state, compiled)) = &mut folded else { continue };
            if entry.seq > state.seq {
                apply(state, compiled, &entry)?;
                last_at = entry.at;
            }
        }
    }
    match folded {
        Some((state, compiled)) => Ok(found(state, compiled, last_at, segment_bytes)),
        None => Err(EngineError::Damaged("an execution has no first entry".into())),
    }
}

async fn begin(
    engine: &EngineContext,
    id: ExecutionId,
    entry: &Entry,
) -> Result<(ExecutionState, Arc<CompiledPlan>), EngineError> {
    let no_start = || EngineError::Damaged("the first entry is no start".into());
    let started = entry.event.start().ok_or_else(no_start)?;
    let compiled = engine.plans.version(started.workflow.as_str(), started.version).await?;
    Ok((ExecutionState::new(&compiled.plan, id), compiled))
}

fn apply(state: &mut ExecutionState, compiled: &CompiledPlan, entry: &Entry) -> Result<(), EngineError> {
    replay(&compiled.plan, state, entry)
        .map(drop)
        .map_err(|error| EngineError::Damaged(format!("entry {} of {}: {error}", entry.seq, state.id)))
}

/// The end of an execution of which only the entries are known.
///
/// # Errors
/// As [`load`]; [`EngineError::Damaged`] when it has not ended.
pub async fn final_state(engine: &EngineContext, id: ExecutionId, pending: &Pending) -> Result<EndMark, EngineError> {
    let Loaded::Found(found) = load_over(engine, id, Some(pending)).await? else {
        return Err(EngineError::Damaged(format!("execution {id} cannot be found")));
    };
    let settings = &found.compiled.plan.settings;
    let kept_ms = retention_of(&found.state.status, settings, engine.options.retention_ms);
    let kept_ms = kept_ms.ok_or_else(|| EngineError::Damaged(format!("execution {id} has not ended")))?;
    let ended_at = found.state.ended_at.unwrap_or(found.last_at);
    Ok(EndMark {
        state: encode_state(&found.state),
        expires_at: ended_at.plus_ms(kept_ms),
    })
}

/// Durable entries after `after`, oldest first, at most `limit`; none if there is no such execution.
///
/// # Errors
/// [`EngineError::Unavailable`], [`EngineError::Damaged`].
pub async fn history(
    shard: &ShardContext,
    id: ExecutionId,
    after: Seq,
    limit: usize,
) -> Result<Option<Vec<Entry>>, EngineError> {
    let pending = pending(shard, id).await?;
    let base = stored(&shard.engine, id).await?;
    let mut segments = match base {
        None if pending.is_none() => return Ok(None),
        None => Vec::new(),
        Some(ExecutionBase::Tombstone { .. }) => return Ok(Some(Vec::new())),
        Some(ExecutionBase::Live { segments, .. }) => segments,
        Some(ExecutionBase::Ended(archive, mut segments)) => {
            let unpacked = Unpacked::read_as(shard.engine.options.reads, &archive.bytes)
                .map_err(|error| EngineError::Damaged(error.to_string()))?;
            segments.push((archive.last, unpacked.frames));
            segments
        }
    };
    segments.extend(pending.into_iter().flat_map(|pending| pending.frames));
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = after.next();
    for (last, segment) in segments {
        if last < next {
            continue;
        }
        for entry in read_frames_as::<Entry>(shard.engine.options.reads, &segment) {
            let entry = entry.map_err(|error| EngineError::Damaged(error.to_string()))?;
            if entry.seq == next {
                next = next.next();
                entries.push(entry);
                if entries.len() >= limit {
                    return Ok(Some(entries));
                }
            }
        }
    }
    Ok(Some(entries))
}

//! Brings a shard's controls back: the store's base, folded with what the log alone still holds.

use bytes::Bytes;
use minicbor::Decoder;
use troupe_core::control::{ControlEntry, ControlSet};
use troupe_core::{ExecutionId, FormatRange, Seq};
use troupe_ports::ExecutionBase;

use crate::context::ShardContext;
use crate::error::EngineError;
use crate::execution::load::pending;
use crate::format::state_of;
use crate::record::read_frames_as;

/// The durable controls of a shard that is being opened.
///
/// # Errors
/// [`EngineError::Unavailable`]; [`EngineError::Damaged`] when they cannot be read: a pause that was acknowledged must not be lost
/// in silence.
pub(crate) async fn load(shard: &ShardContext) -> Result<ControlSet, EngineError> {
    let id = ExecutionId::controls(shard.shard);
    // First the log, then the store: what leaves the one in between is in the other.
    let pending = pending(shard, id).await?;
    let base = shard.engine.parts.state.load(id).await?;
    let reads = shard.engine.options.reads;
    fold(reads, base, pending.map(|pending| pending.frames).unwrap_or_default())
}

/// The controls that the store's base and the frames of the log's tail give.
///
/// # Errors
/// As [`load`].
pub fn fold(
    reads: FormatRange,
    base: Option<ExecutionBase>,
    pending: impl IntoIterator<Item = (Seq, Bytes)>,
) -> Result<ControlSet, EngineError> {
    let mut set = ControlSet::default();
    let mut frames = Vec::new();
    match base {
        None => {}
        Some(ExecutionBase::Live { snapshot, segments, .. }) => {
            if let Some((_, bytes)) = snapshot {
                let state = state_of(&bytes, reads).map_err(|error| damaged(error.to_string()))?;
                set = decode(&state)?;
            }
            frames = segments;
        }
        Some(ExecutionBase::Ended(..) | ExecutionBase::Tombstone { .. }) => {
            return Err(damaged("they ended".to_owned()));
        }
    }
    frames.extend(pending);
    for (last, segment) in frames {
        if last <= set.seq() {
            continue;
        }
        for entry in read_frames_as::<ControlEntry>(reads, &segment) {
            let entry = entry.map_err(|error| damaged(error.to_string()))?;
            if entry.seq > set.seq() {
                apply(&mut set, &entry)?;
            }
        }
    }
    Ok(set)
}

fn apply(set: &mut ControlSet, entry: &ControlEntry) -> Result<(), EngineError> {
    let Seq(next) = set.seq().next();
    if entry.seq != Seq(next) {
        return Err(damaged(format!("entry {} comes after {}", entry.seq, set.seq())));
    }
    set.apply(entry);
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<ControlSet, EngineError> {
    Decoder::new(bytes).decode().map_err(|error| damaged(error.to_string()))
}

fn damaged(why: String) -> EngineError {
    EngineError::Damaged(format!("the controls cannot be read: {why}"))
}

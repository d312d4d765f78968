//! Takes a shard's lease: nobody else has it, the epoch is the latest, and what the shard holds can be read here.

use troupe_core::{Epoch, ShardId};
use troupe_ports::{EpochError, Lease, StoreError};

use crate::context::{EngineContext, LeaseGate};
use crate::error::EngineError;
use crate::options::EngineOptions;

/// Takes a shard under the next epoch.
pub(super) async fn acquire(engine: &EngineContext, shard: ShardId) -> Result<(LeaseGate, Lease), EngineError> {
    let EngineOptions {
        owner, lease, reads, ..
    } = &engine.options;
    let store = &engine.parts.state;
    let epoch = next_epoch(engine, shard).await?;
    let gate = LeaseGate::new(engine.now(), lease_ms(engine));
    let lease = store.acquire_under(shard, owner, *lease, epoch).await?;
    // What was kept under an earlier epoch may have been swept away by an owner between, or be lost with a store that went back.
    engine.blobs.doubt(shard);
    if reads.reads(lease.format) {
        return Ok((gate, lease));
    }
    // It was written between the look and the lease: others read it.
    if let Err(error) = store.release(shard, lease.epoch).await {
        tracing::warn!(shard = shard.0, %error, "the lease runs out by itself");
    }
    Err(engine.newer_format(shard, lease.format))
}

/// Asks whoever orders the owners for an epoch. Whoever has the shard stops once it reads that, so nobody asks while it is held.
async fn next_epoch(engine: &EngineContext, shard: ShardId) -> Result<Option<Epoch>, EngineError> {
    let own = &engine.options.owner;
    let holder = engine.parts.state.holder(shard).await?;
    if !engine.options.reads.reads(holder.format) {
        return Err(engine.newer_format(shard, holder.format));
    }
    let Some(epochs) = &engine.parts.epochs else {
        return Ok(None);
    };
    if let Some(owner) = holder.owner.filter(|owner| owner != own) {
        return Err(StoreError::Held(format!("{owner} has shard {shard}")).into());
    }
    let issued = epochs.issued(shard).await?;
    match epochs.issue(shard, issued.max(holder.epoch), own).await {
        Ok(epoch) => Ok(Some(epoch)),
        Err(EpochError::Conflict { latest }) => {
            let why = format!("another member was faster: epoch {latest} of shard {shard} has been issued");
            Err(StoreError::Held(why).into())
        }
        Err(EpochError::Store(error)) => Err(error.into()),
    }
}

pub(super) fn lease_ms(engine: &EngineContext) -> i64 {
    // The margin covers what the two clocks and the call may differ by.
    i64::try_from(engine.options.lease.as_millis() * 9 / 10).unwrap_or(i64::MAX)
}

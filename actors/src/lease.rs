//! Leases are renewed on a thread of their own: an engine whose threads are all busy for a while still owns its shards.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ractor::ActorRef;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use troupe_core::{Epoch, ShardId};
use troupe_ports::StoreError;

use crate::context::{EngineContext, ShardContext};
use crate::shard::ShardMessage;
use crate::task::{ShardTask, supervised};

/// The thread, started when the first shard is served.
#[derive(Debug, Default)]
pub(crate) struct LeaseThread(OnceLock<Option<Runtime>>);

impl LeaseThread {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let runtime = self.0.get_or_init(|| {
            let built = Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(1)
                .thread_name("leases")
                // A store that dials while it renews does so here.
                .enable_all()
                .build();
            built
                .inspect_err(
                    |error| tracing::warn!(%error, "leases have no thread of their own: a busy engine may lose them"),
                )
                .ok()
        });
        match runtime {
            Some(runtime) => runtime.spawn(task).abort_handle(),
            None => tokio::spawn(task).abort_handle(),
        }
    }
}

impl Drop for LeaseThread {
    fn drop(&mut self) {
        // Waiting for its thread is not allowed where an engine may be dropped.
        if let Some(runtime) = self.0.take().flatten() {
            runtime.shutdown_background();
        }
    }
}

/// Renews a shard's lease every third of it, until this is dropped or the lease is lost; the shard hears when somebody else has it.
pub(crate) fn keep_renewing(context: &Arc<ShardContext>, lease_ms: i64) -> ShardTask {
    let engine = Arc::clone(&context.engine);
    let (shard, supervisor) = (context.supervisor.clone(), context.supervisor.clone());
    // The engine must not keep itself: its own thread would be its last owner.
    let context = Arc::downgrade(context);
    let every = engine.options.lease / 3;
    let renewing = async move {
        loop {
            tokio::time::sleep(every).await;
            let Some(context) = context.upgrade() else { return };
            if context.gate.is_closed() || !renew(&context, &shard, lease_ms).await {
                return;
            }
        }
    };
    ShardTask::of(
        engine
            .leases
            .spawn(supervised("renewing the lease", supervisor, renewing)),
    )
}

fn lost(context: &ShardContext, shard: &ActorRef<ShardMessage>) {
    if shard.send_message(ShardMessage::Fenced).is_err() {
        tracing::debug!(shard = context.shard.0, "the shard is already gone");
    }
}

/// The epoch that was issued after this owner's, if one was. None, too, where whoever orders the owners does not answer: what an owner must
/// not do by mistake asks [`named_since`].
pub(crate) async fn later_epoch(engine: &EngineContext, shard: ShardId, ours: Epoch) -> Option<Epoch> {
    let later = named_since(engine, shard, ours).await;
    later.unwrap_or_else(|why| {
        tracing::debug!(shard = shard.0, why, "the latest epoch is not known");
        None
    })
}

/// The epoch that was issued after this owner's, if one was.
///
/// # Errors
/// Whoever orders the owners does not answer; why, for people.
pub(crate) async fn named_since(engine: &EngineContext, shard: ShardId, ours: Epoch) -> Result<Option<Epoch>, String> {
    let Some(epochs) = &engine.parts.epochs else {
        return Ok(None);
    };
    let issued = tokio::time::timeout(engine.options.lease / 4, epochs.issued(shard)).await;
    let issued = issued.map_err(|_| "no answer in time".to_owned())?;
    let issued = issued.map_err(|error| error.to_string())?;
    if issued <= ours {
        return Ok(None);
    }
    tracing::warn!(shard = shard.0, %issued, %ours, "another owner was named");
    Ok(Some(issued))
}

/// False when the lease is lost for good.
async fn renew(context: &ShardContext, shard: &ActorRef<ShardMessage>, lease_ms: i64) -> bool {
    let engine = &context.engine;
    let (begun, wall) = (context.gate.monotonic_ms(), engine.now());
    let lease: Duration = engine.options.lease;
    let renewal = engine.parts.state.renew(context.shard, context.epoch, lease);
    match tokio::time::timeout(lease, renewal).await {
        Ok(Ok(_)) => {
            context.gate.renewed(begun, wall, lease_ms);
            if later_epoch(engine, context.shard, context.epoch).await.is_some() {
                lost(context, shard);
                return false;
            }
        }
        Ok(Err(StoreError::Fenced { .. } | StoreError::Held(_))) => {
            lost(context, shard);
            return false;
        }
        // Whether it was renewed is not known: nothing is read or begun for longer than that of before.
        Ok(Err(StoreError::WentBack(why))) => {
            if later_epoch(engine, context.shard, context.epoch).await.is_some() {
                lost(context, shard);
                return false;
            }
            if shard.send_message(ShardMessage::WentBack(why)).is_err() {
                tracing::debug!(shard = context.shard.0, "the shard is already gone");
            }
        }
        Ok(Err(error)) => tracing::warn!(shard = context.shard.0, %error, "the lease was not renewed"),
        Err(_) => tracing::warn!(shard = context.shard.0, "the lease was not renewed in time"),
    }
    true
}

//! Removes what a workflow's retention has let go: first from lists, then the archives themselves.

use std::collections::HashSet;

use ractor::ActorRef;
use tokio::sync::oneshot;
use troupe_core::{ExecutionId, LogPosition, Timestamp};
use troupe_ports::StoreError;

use super::actor::{CheckpointerArguments, CheckpointerMessage};
use super::write::project;
use crate::blobs::collect_orphans;
use crate::context::EngineContext;

/// Most archives, and tombstones, that go at once.
const ROWS: usize = 1_000;

/// Looks for expired archives for as long as the shard is served.
pub(super) async fn expire_regularly(arguments: CheckpointerArguments, checkpointer: ActorRef<CheckpointerMessage>) {
    loop {
        tokio::time::sleep(arguments.engine.options.expire_every).await;
        if let Err(error) = expire(&arguments, &checkpointer).await {
            tracing::warn!(shard = arguments.shard.0, %error, "expired archives stay for now");
        }
        if let Ok(shard) = arguments.engine.shard(arguments.shard)
            && shard.epoch == arguments.epoch
            && let Err(error) = collect_orphans(&shard).await
        {
            tracing::warn!(shard = arguments.shard.0, %error, "large values without an execution stay for now");
        }
    }
}

async fn expire(
    arguments: &CheckpointerArguments,
    checkpointer: &ActorRef<CheckpointerMessage>,
) -> Result<(), StoreError> {
    let (shard, epoch) = (arguments.shard, arguments.epoch);
    let (state, visibility) = (&arguments.engine.parts.state, &arguments.engine.parts.visibility);
    loop {
        let now = arguments.engine.now();
        let listed = state.expired(shard, now, ROWS).await?;
        let is_last = listed.len() < ROWS;
        let doomed = Doomed::mark(&arguments.engine, listed);
        let due = doomed.left_alone(arguments, checkpointer, now).await?;
        if !due.is_empty() {
            // A summary that is still on its way would outlive what it tells of.
            if !project(arguments, LogPosition(0)).await {
                return Ok(());
            }
            visibility.forget(shard, arguments.engine.issued(epoch), &due).await?;
        }
        let gone = state.expire(shard, epoch, now, &due, ROWS).await?;
        due.iter().for_each(|root| arguments.engine.blobs.forget(*root));
        if (is_last || due.is_empty()) && gone.tombstones < ROWS as u64 {
            return Ok(());
        }
    }
}

/// Archives that are about to go. While they are marked nobody reopens them.
struct Doomed<'a> {
    engine: &'a EngineContext,
    ids: Vec<ExecutionId>,
}

impl<'a> Doomed<'a> {
    fn mark(engine: &'a EngineContext, ids: Vec<ExecutionId>) -> Self {
        for id in &ids {
            engine.expiring.insert(*id);
        }
        Self { engine, ids }
    }

    /// Those that nobody has reopened before they were marked: they have no actor, no entry that the store lacks, and are still
    /// archives.
    async fn left_alone(
        &self,
        arguments: &CheckpointerArguments,
        checkpointer: &ActorRef<CheckpointerMessage>,
        now: Timestamp,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        if self.ids.is_empty() {
            return Ok(Vec::new());
        }
        let idle = self
            .ids
            .iter()
            .copied()
            .filter(|id| !self.engine.directory.contains(*id));
        let idle: Vec<ExecutionId> = idle.collect();
        let (reply, answer) = oneshot::channel();
        let asked = checkpointer.send_message(CheckpointerMessage::Held(idle.clone(), reply));
        let (Ok(()), Ok(held)) = (asked, answer.await) else {
            // The shard is being dropped.
            return Ok(Vec::new());
        };
        let archives = arguments.engine.parts.state.expired(arguments.shard, now, ROWS).await?;
        let archives: HashSet<ExecutionId> = archives.into_iter().collect();
        let left_alone = |id: &ExecutionId| !held.contains(id) && archives.contains(id);
        Ok(idle.into_iter().filter(left_alone).collect())
    }
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            self.engine.expiring.remove(id);
        }
    }
}

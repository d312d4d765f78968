//! Removes what a workflow's retention has let go: first from lists, then the archives themselves.

use troupe_core::LogPosition;
use troupe_ports::StoreError;

use super::actor::CheckpointerArguments;
use super::write::project;

/// Most archives, and tombstones, that go at once.
const ROWS: usize = 1_000;

/// Looks for expired archives for as long as the shard is served.
pub(super) async fn expire_regularly(arguments: CheckpointerArguments) {
    loop {
        tokio::time::sleep(arguments.engine.options.expire_every).await;
        if let Err(error) = expire(&arguments).await {
            tracing::warn!(shard = arguments.shard.0, %error, "expired archives stay for now");
        }
    }
}

async fn expire(arguments: &CheckpointerArguments) -> Result<(), StoreError> {
    let (shard, epoch) = (arguments.shard, arguments.epoch);
    let (state, visibility) = (&arguments.engine.parts.state, &arguments.engine.parts.visibility);
    loop {
        let now = arguments.engine.now();
        let due = state.expired(shard, now, ROWS).await?;
        if !due.is_empty() {
            // A summary that is still on its way would outlive what it tells of.
            if !project(arguments, LogPosition(0)).await {
                return Ok(());
            }
            visibility.forget(&due).await?;
        }
        let gone = state.expire(shard, epoch, now, &due, ROWS).await?;
        if due.len() < ROWS && gone.tombstones < ROWS as u64 {
            return Ok(());
        }
    }
}

//! Resumes what has unfinished work, behind a shard that serves already.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;
use troupe_core::ExecutionId;
use troupe_ports::ExecutionQuery;

use super::lists::{LIST_ROWS, Rows};
use super::recovering::Recovering;
use super::route::deliver;
use crate::context::ShardContext;
use crate::execution::ExecutionMessage;
use crate::rooms;

/// Pause before a store that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Resumes what has unfinished work, a bounded number at once. `recovering` counts `running` already.
pub(super) async fn resume(
    context: Arc<ShardContext>,
    mut recovering: Recovering,
    running: Vec<ExecutionId>,
    settled: HashSet<ExecutionId>,
    children: Vec<ExecutionId>,
) {
    let engine = &context.engine;
    let known: HashSet<ExecutionId> = running.iter().copied().collect();
    let permits = (engine.options.recovery_max / engine.shards.len().max(1)).max(2);
    let budget = Arc::new(Semaphore::new(permits));
    for id in running {
        if !resume_one(&context, &budget, id).await {
            return;
        }
        recovering.resumed_one();
    }
    let mut after = None;
    loop {
        let listed = match engine.parts.state.running(context.shard, after, LIST_ROWS).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(shard = context.shard.0, %error, "recovery waits for the store");
                tokio::time::sleep(ASK_AGAIN).await;
                if context.gate.is_closed() {
                    return;
                }
                continue;
            }
        };
        let Some(last) = listed.last() else { break };
        after = Some(*last);
        let resumed: Vec<_> = listed
            .into_iter()
            .filter(|id| !settled.contains(id) && !known.contains(id))
            .collect();
        recovering.found(resumed.len());
        for id in resumed {
            if !resume_one(&context, &budget, id).await {
                return;
            }
            recovering.resumed_one();
        }
    }
    // Whoever is being loaded holds a permit.
    let all = u32::try_from(permits).unwrap_or(u32::MAX);
    drop(budget.acquire_many(all).await);
    while let Err(error) = rooms::reconcile(&context).await {
        tracing::debug!(shard = context.shard.0, %error, "tickets of the last owner cannot be read");
        tokio::time::sleep(ASK_AGAIN).await;
        if context.gate.is_closed() {
            return;
        }
    }
    context.recovered.store(true, Ordering::Release);
    resume_children(&context, &budget, children).await;
}

/// Children that only wait are loaded too, and ask their parents: what those told them last may be lost. `changed` are those
/// that lists do not show yet.
async fn resume_children(context: &Arc<ShardContext>, budget: &Arc<Semaphore>, changed: Vec<ExecutionId>) {
    for id in changed {
        if !resume_one(context, budget, id).await {
            return;
        }
    }
    let query = ExecutionQuery {
        status: Some("running".to_owned()),
        children: true,
        ..ExecutionQuery::default()
    };
    let mut rows = Rows::of(context.shard, query);
    loop {
        match rows.next(&*context.engine.parts.visibility).await {
            Ok(Some(page)) => {
                for child in page {
                    if !resume_one(context, budget, child.id).await {
                        return;
                    }
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(shard = context.shard.0, %error, "children wait for the lists");
                tokio::time::sleep(ASK_AGAIN).await;
                if context.gate.is_closed() {
                    return;
                }
            }
        }
    }
}

async fn resume_one(context: &Arc<ShardContext>, budget: &Arc<Semaphore>, id: ExecutionId) -> bool {
    if context.gate.is_closed() {
        return false;
    }
    let Ok(permit) = Arc::clone(budget).acquire_owned().await else {
        return false;
    };
    deliver(context, id, ExecutionMessage::Recover(permit)).await;
    true
}

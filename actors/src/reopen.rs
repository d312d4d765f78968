//! Retries and skips of failed nodes: what stands in the way of an execution that is to go on.

use std::sync::Arc;

use tokio::sync::oneshot;
use troupe_core::execution::{Reopened, reopening};
use troupe_core::{ExecutionId, KeySpace, NodeIx};

use crate::context::EngineContext;
use crate::error::EngineError;
use crate::execution::machine::{CommandInput, Reopen, Wanted};
use crate::execution::{ExecutionMessage, Respond};
use crate::keys::Claim;
use crate::request::{Command, ExecutionView, ReopenOutcome, ReopenRequest};
use crate::shard::deliver;
use crate::start::latest_ordinal;

/// Retries or skips failed nodes of the execution that `view` shows.
pub(crate) async fn reopen(
    engine: &Arc<EngineContext>,
    view: &ExecutionView,
    request: ReopenRequest,
    command: Command,
) -> Result<ReopenOutcome, EngineError> {
    if request.dry_run {
        return dry(view, request);
    }
    let id = view.state.id;
    let shard = engine.shard(id.shard())?;
    // Held until the answer is there: a start under the same key waits that long.
    let _claim = claim_key(engine, view).await?;
    let (reply, answer) = oneshot::channel();
    let input = CommandInput {
        wanted: Wanted::Reopen(Reopen {
            nodes: request.nodes,
            remedy: request.remedy,
            reason: command.reason,
            controls: None,
        }),
        principal: command.principal,
        command: command.command,
    };
    let message = ExecutionMessage::Command(Box::new(input), Respond::Reopen(reply));
    deliver(&shard, id, message).await;
    answer.await.map_err(|_| shard.unanswered())?
}

/// What it would run again.
fn dry(view: &ExecutionView, request: ReopenRequest) -> Result<ReopenOutcome, EngineError> {
    let find = |key: &String| {
        let missing = || EngineError::NodeNotFound {
            id: view.state.id,
            node: key.clone(),
        };
        view.plan.node_ix(key).ok_or_else(missing)
    };
    let reopened = Reopened {
        run: view.state.run,
        nodes: request.nodes.iter().map(find).collect::<Result<Vec<NodeIx>, _>>()?,
        remedy: request.remedy,
        reason: None,
        controls: None,
    };
    let reopening = reopening(&view.plan, &view.state, &reopened);
    let reopening = reopening.map_err(|refusal| EngineError::Refused(Box::new(refusal)))?;
    Ok(ReopenOutcome {
        command: None,
        run: reopening.run,
        repeated: reopening.repeated,
    })
}

fn in_motion() -> EngineError {
    EngineError::Unavailable("an execution of the same key is being started: try again in a moment".into())
}

/// An execution that has ended goes on only if it is the latest of its business key: no other one may start meanwhile.
async fn claim_key(engine: &Arc<EngineContext>, view: &ExecutionView) -> Result<Option<Claim>, EngineError> {
    let state = &view.state;
    let (Some(key), Some(ours)) = (&state.execution_key, state.key_ordinal) else {
        return Ok(None);
    };
    if !state.status.is_terminal() {
        return Ok(None);
    }
    let shards = engine.parts.state.shards();
    let of = |ordinal| ExecutionId::derived(shards, KeySpace::Business, state.workflow.as_str(), key, ordinal);
    let claim = engine.keys.reopen(of(0)).ok_or_else(in_motion)?;
    let shard = engine.shard(state.id.shard())?;
    let latest = latest_ordinal(&shard, of(0)).await?;
    if let Some(newer) = latest.filter(|latest| *latest > ours) {
        return Err(EngineError::KeyConflict { existing: of(newer) });
    }
    // One whose caller is gone may be starting all the same.
    if engine.directory.contains(of(ours + 1)) {
        return Err(in_motion());
    }
    Ok(Some(claim))
}

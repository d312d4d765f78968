//! Brings messages to executions, with or without an actor.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use troupe_core::ExecutionId;

use crate::context::ShardContext;
use crate::error::EngineError;
use crate::execution::{ExecutionActor, ExecutionArguments, ExecutionMessage};

/// Pause while a failed actor is being replaced, and how often.
const REPLACED_EVERY: Duration = Duration::from_millis(5);
const REPLACED_TRIES: u32 = 400;

/// Spawns an execution's actor with its first message.
///
/// # Errors
/// The message, when the execution has an actor, or when the shard is being dropped.
pub async fn spawn_execution(
    shard: &Arc<ShardContext>,
    id: ExecutionId,
    first: ExecutionMessage,
) -> Result<ActorRef<ExecutionMessage>, ExecutionMessage> {
    let received = Arc::default();
    let arguments = ExecutionArguments {
        id,
        shard: Arc::clone(shard),
        received: Arc::clone(&received),
    };
    let spawned = ExecutionActor::spawn_linked(None, ExecutionActor, arguments, shard.supervisor.get_cell()).await;
    let Ok((actor, _)) = spawned else { return Err(first) };
    match shard.engine.directory.enter(id, &actor, received, first) {
        Ok(()) => Ok(actor),
        Err(first) => {
            actor.stop(None);
            Err(first)
        }
    }
}

/// Sends a message to an execution's actor, which is spawned if there is none. What cannot be delivered is refused.
pub async fn deliver(shard: &Arc<ShardContext>, id: ExecutionId, mut message: ExecutionMessage) {
    let engine = &shard.engine;
    for _ in 0..REPLACED_TRIES {
        message = match engine.directory.route(id, message) {
            Ok(()) => return,
            Err(message) => message,
        };
        if let Some(reason) = engine.quarantine.get(&id).map(|reason| reason.clone()) {
            return message.refuse(EngineError::Quarantined { id, reason });
        }
        if shard.gate.is_closed() {
            break;
        }
        message = match spawn_execution(shard, id, message).await {
            Ok(_) => return,
            Err(message) => message,
        };
        // Another one was faster, or a failed actor is about to be replaced.
        if engine.directory.is_dead(id) {
            tokio::time::sleep(REPLACED_EVERY).await;
        }
    }
    message.refuse(if shard.gate.is_closed() {
        EngineError::Elsewhere(shard.shard)
    } else {
        EngineError::Unavailable(format!("shard {} does not answer", shard.shard))
    });
}

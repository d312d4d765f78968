//! The engine's shell.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::ShardId;

use crate::context::EngineContext;
use crate::controls;
use crate::error::EngineError;
use crate::shard::{CLOSED, FENCED, HALTED, ShardActor, ShardArguments, ShardMessage};

/// Pause before a shard that failed is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(500);

/// What an engine hears.
#[derive(Debug)]
pub enum EngineMessage {
    /// Open a shard; whoever waits is told how that went.
    Serve(ShardId, oneshot::Sender<Result<(), EngineError>>),
    /// Give every shard up.
    Close(oneshot::Sender<()>),
}

/// Supervises the shards.
#[derive(Debug)]
pub struct EngineActor;

/// What an engine's actor keeps.
#[derive(Debug)]
pub struct EngineState {
    engine: Arc<EngineContext>,
    shards: HashMap<ActorId, (ShardId, ActorRef<ShardMessage>)>,
}

impl Actor for EngineActor {
    type Msg = EngineMessage;
    type State = EngineState;
    type Arguments = Arc<EngineContext>;

    async fn pre_start(
        &self,
        _: ActorRef<EngineMessage>,
        engine: Arc<EngineContext>,
    ) -> Result<EngineState, ActorProcessingErr> {
        Ok(EngineState {
            engine,
            shards: HashMap::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<EngineMessage>,
        message: EngineMessage,
        state: &mut EngineState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            EngineMessage::Serve(shard, ready) => state.serve(&myself, shard, ready).await,
            EngineMessage::Close(done) => {
                state.close().await;
                // Whoever asked may be gone; nothing depends on the answer.
                done.send(()).ok();
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<EngineMessage>,
        event: SupervisionEvent,
        state: &mut EngineState,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, why) = match event {
            SupervisionEvent::ActorTerminated(cell, _, why) => (cell.get_id(), why.unwrap_or_default()),
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
            #[allow(unreachable_patterns, reason = "variants depend on ractor's features")]
            _ => return Ok(()),
        };
        let Some((shard, _)) = state.shards.remove(&actor) else {
            return Ok(());
        };
        let engine = &state.engine;
        if let Some(context) = engine.shards[usize::from(shard.0)].write().take() {
            context.gate.close();
        }
        engine.directory.remove_shard(shard);
        if [FENCED, HALTED, CLOSED].contains(&why.as_str()) || engine.draining.load(Ordering::Acquire) {
            return Ok(());
        }
        tracing::error!(shard = shard.0, why, "the shard failed and is opened again");
        engine.metrics.actor_restarted("shard");
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            tokio::time::sleep(REOPEN_AFTER).await;
            let (ready, opened) = oneshot::channel();
            if myself.send_message(EngineMessage::Serve(shard, ready)).is_ok() {
                // A shard that cannot be opened ends its actor, which brings us back here.
                if let Ok(Ok(())) = opened.await {
                    controls::reconcile(&engine).await;
                }
            }
        });
        Ok(())
    }
}

impl EngineState {
    async fn serve(
        &mut self,
        myself: &ActorRef<EngineMessage>,
        shard: ShardId,
        ready: oneshot::Sender<Result<(), EngineError>>,
    ) {
        let arguments = ShardArguments {
            engine: Arc::clone(&self.engine),
            shard,
        };
        let spawned = ShardActor::spawn_linked(None, ShardActor, arguments, myself.get_cell()).await;
        let sent = spawned.map_err(|error| error.to_string()).and_then(|(actor, _)| {
            self.shards.insert(actor.get_id(), (shard, actor.clone()));
            actor
                .send_message(ShardMessage::Open(ready))
                .map_err(|error| error.to_string())
        });
        if let Err(why) = sent {
            tracing::error!(shard = shard.0, why, "the shard's actor cannot be spawned");
        }
    }

    async fn close(&self) {
        let closing = self.shards.values().map(|(_, actor)| async {
            let (done, closed) = oneshot::channel();
            if actor.send_message(ShardMessage::Close(done)).is_ok() {
                closed.await.ok();
            }
        });
        futures::future::join_all(closing).await;
    }
}

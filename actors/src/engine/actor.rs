//! The engine's shell.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::ShardId;

use super::failures::{Failures, PAUSE_FIRST_MS};
use crate::context::EngineContext;
use crate::controls;
use crate::error::{EngineError, NEWER_FORMAT_HINT};
use crate::placement::{Look, Placed, PlacementMachine, Step, notice};
use crate::shard::{CLOSED, FENCED, HALTED, ShardActor, ShardArguments, ShardMessage, forget};

/// What an engine hears.
#[derive(Debug)]
pub enum EngineMessage {
    /// Open a shard; whoever waits is told how that went.
    Serve(ShardId, oneshot::Sender<Result<(), EngineError>>),
    /// The other members were looked at.
    Looked(Look),
    /// A shard that was to be opened is, or is not.
    Opened(ShardId, bool),
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
    placement: PlacementMachine,
    failures: Failures,
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
            placement: PlacementMachine::new(&engine.options.owner, engine.parts.state.shards())
                .with_notice(u64::try_from(notice(engine.options.lease).as_millis()).unwrap_or(u64::MAX)),
            engine,
            shards: HashMap::new(),
            failures: Failures::default(),
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
            EngineMessage::Looked(look) => state.looked(&myself, &look).await,
            EngineMessage::Opened(shard, served) => {
                let now = state.engine.now();
                if served || !state.engine.halted.contains_key(&shard) {
                    state.placement.opened(shard, served, now);
                } else {
                    state.placement.halted(shard);
                }
                state.placed();
            }
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
        let (actor, why, is_broken) = match event {
            SupervisionEvent::ActorTerminated(cell, _, why) => (cell.get_id(), why.unwrap_or_default(), false),
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string(), true),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
            #[allow(unreachable_patterns, reason = "variants depend on ractor's features")]
            _ => return Ok(()),
        };
        let Some((shard, _)) = state.shards.remove(&actor) else {
            return Ok(());
        };
        let engine = &state.engine;
        let served = engine.shards[usize::from(shard.0)].write().take();
        let was_served = served.is_some();
        if let Some(context) = served {
            context.gate.close();
        }
        forget(engine, shard);
        let has_failed = ![FENCED, HALTED, CLOSED].contains(&why.as_str());
        let now = engine.now();
        // One that was given up or lost has not failed, and one that says that it cannot be opened waits for its store, which may be back at any time.
        let pause_ms = if is_broken || was_served && has_failed {
            state.failures.failed(shard, now)
        } else {
            PAUSE_FIRST_MS
        };
        if engine.parts.members.is_some() {
            if why == HALTED {
                state.placement.halted(shard);
            } else {
                state.placement.gone(shard, now.plus_ms(pause_ms));
            }
            state.placed();
            if was_served && has_failed {
                tracing::error!(shard = shard.0, why, pause_ms, "the shard failed and is opened again");
                state.engine.metrics.actor_restarted("shard");
            }
            return Ok(());
        }
        if !has_failed || engine.draining.load(Ordering::Acquire) {
            return Ok(());
        }
        tracing::error!(shard = shard.0, why, pause_ms, "the shard failed and is opened again");
        engine.metrics.actor_restarted("shard");
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
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
    async fn looked(&mut self, myself: &ActorRef<EngineMessage>, look: &Look) {
        if self.engine.draining.load(Ordering::Acquire) {
            return;
        }
        for step in self.placement.looked(look, self.engine.now()) {
            match step {
                Step::Take(shard) => {
                    let (ready, opened) = oneshot::channel();
                    self.serve(myself, shard, ready).await;
                    let (engine, myself) = (Arc::clone(&self.engine), myself.clone());
                    tokio::spawn(async move {
                        let served = matches!(opened.await, Ok(Ok(())));
                        // An engine that is gone needs no answer.
                        myself.send_message(EngineMessage::Opened(shard, served)).ok();
                        if served {
                            controls::reconcile(&engine).await;
                        }
                    });
                }
                Step::GiveUp(shard) => {
                    let held = self.shards.values().find(|(number, _)| *number == shard);
                    // The end of its actor says that it is gone.
                    if let Some((_, actor)) = held {
                        actor.send_message(ShardMessage::HandOver).ok();
                    }
                }
            }
        }
        self.note_unreadable();
        self.placed();
    }

    /// Notes which shards no member reads, and says so once.
    fn note_unreadable(&self) {
        let engine = &self.engine;
        let unreadable = self.placement.unreadable();
        engine.unreadable.retain(|shard, _| unreadable.contains_key(shard));
        for (shard, holds) in unreadable {
            if engine.unreadable.insert(*shard, *holds) != Some(*holds) {
                let why = engine.newer_format(*shard, *holds);
                tracing::error!(
                    shard = shard.0,
                    code = why.code(),
                    %why,
                    hint = NEWER_FORMAT_HINT,
                    "nobody serves the shard; nothing of it is touched"
                );
            }
        }
    }

    /// Tells how far it has come.
    fn placed(&self) {
        let placed = Placed {
            missing: self.placement.missing(),
            settled: self.placement.is_settled(),
            held: self.placement.held(),
        };
        self.engine.placed.send_replace(placed);
    }

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

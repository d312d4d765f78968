//! The shard's shell.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::{ExecutionId, ShardId};
use troupe_ports::StoreError;

use super::machine::{FailureMachine, Verdict};
use super::open::{lease_ms, open};
use super::route::deliver;
use crate::checkpointer::CheckpointerMessage;
use crate::committer::CommitterMessage;
use crate::context::{EngineContext, ShardContext};
use crate::error::EngineError;
use crate::execution::ExecutionMessage;

/// Longest wait for the last commit and checkpoint when a shard is given up.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Why a shard's actor ends for good: nobody opens the shard again.
pub const FENCED: &str = "fenced";
/// See [`FENCED`].
pub const HALTED: &str = "halted";
/// See [`FENCED`].
pub const CLOSED: &str = "closed";

/// What a shard hears.
#[derive(Debug)]
pub enum ShardMessage {
    /// Take the shard.
    Open(oneshot::Sender<Result<(), EngineError>>),
    /// Renew the lease.
    Renew,
    /// These executions are due.
    Due(Vec<ExecutionId>),
    /// Another owner has the shard.
    Fenced,
    /// An operator must look.
    Halt(String),
    /// An execution cannot be processed.
    Quarantine(ExecutionId, String),
    /// Everything that a failed actor had handed over is durable: replace it.
    Rebuild(ActorId, ExecutionId),
    /// Give the shard up.
    Close(oneshot::Sender<()>),
}

/// What a shard is made of.
#[derive(Debug)]
pub struct ShardArguments {
    /// The engine.
    pub engine: Arc<EngineContext>,
    /// The shard.
    pub shard: ShardId,
}

/// Serves one shard.
#[derive(Debug)]
pub struct ShardActor;

/// What a shard keeps.
#[derive(Debug)]
pub struct ShardState {
    arguments: ShardArguments,
    context: Option<Arc<ShardContext>>,
    beside: HashSet<ActorId>,
    failures: FailureMachine,
}

impl Actor for ShardActor {
    type Msg = ShardMessage;
    type State = ShardState;
    type Arguments = ShardArguments;

    async fn pre_start(
        &self,
        _: ActorRef<ShardMessage>,
        arguments: ShardArguments,
    ) -> Result<ShardState, ActorProcessingErr> {
        Ok(ShardState {
            arguments,
            context: None,
            beside: HashSet::new(),
            failures: FailureMachine::default(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage>,
        message: ShardMessage,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Open(ready) => state.open(&myself, ready).await,
            ShardMessage::Renew => state.renew(&myself).await,
            ShardMessage::Due(due) => state.wake(due),
            ShardMessage::Fenced => state.fenced(&myself),
            ShardMessage::Halt(why) => {
                tracing::error!(
                    shard = state.arguments.shard.0,
                    why,
                    "the shard halts until an operator looks"
                );
                state.leave(&myself, HALTED);
            }
            ShardMessage::Quarantine(id, reason) => state.quarantine(id, reason),
            ShardMessage::Rebuild(actor, id) => state.rebuild(actor, id),
            ShardMessage::Close(done) => {
                state.close(&myself).await;
                // Whoever asked may be gone; nothing depends on the answer.
                done.send(()).ok();
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ShardMessage>,
        event: SupervisionEvent,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                if state.beside.contains(&cell.get_id()) {
                    return Err(format!("an actor beside the executions failed: {error}").into());
                }
                state.execution_failed(&myself, cell.get_id(), &error.to_string());
            }
            SupervisionEvent::ActorTerminated(cell, kept, why) => {
                if state.beside.contains(&cell.get_id()) {
                    return Err("an actor beside the executions is gone".into());
                }
                if kept.is_none() {
                    state.execution_failed(&myself, cell.get_id(), why.as_deref().unwrap_or("killed"));
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            #[allow(unreachable_patterns, reason = "variants depend on ractor's features")]
            _ => {}
        }
        Ok(())
    }
}

impl ShardState {
    async fn open(&mut self, myself: &ActorRef<ShardMessage>, ready: oneshot::Sender<Result<(), EngineError>>) {
        let ShardArguments { engine, shard } = &self.arguments;
        let opened = open(engine, *shard, myself).await;
        let answer = match opened {
            Ok((context, beside)) => {
                self.beside = beside;
                *engine.shards[usize::from(shard.0)].write() = Some(Arc::clone(&context));
                self.context = Some(context);
                renew_regularly(myself.clone(), engine.options.lease / 3);
                Ok(())
            }
            Err(error) => {
                tracing::error!(shard = shard.0, %error, "the shard cannot be opened");
                myself.stop(Some(format!("cannot be opened: {error}")));
                Err(error)
            }
        };
        if ready.send(answer).is_err() {
            tracing::debug!(shard = self.arguments.shard.0, "nobody waited for the shard");
        }
    }

    async fn renew(&mut self, myself: &ActorRef<ShardMessage>) {
        let Some(context) = &self.context else { return };
        let engine = &context.engine;
        let (begun, wall) = (context.gate.monotonic_ms(), engine.now());
        let renewal = engine
            .parts
            .state
            .renew(context.shard, context.epoch, engine.options.lease);
        match tokio::time::timeout(engine.options.lease, renewal).await {
            Ok(Ok(_)) => context.gate.renewed(begun, wall, lease_ms(engine)),
            Ok(Err(StoreError::Fenced { .. } | StoreError::Held(_))) => self.fenced(myself),
            Ok(Err(error)) => tracing::warn!(shard = context.shard.0, %error, "the lease was not renewed"),
            Err(_) => tracing::warn!(shard = context.shard.0, "the lease was not renewed in time"),
        }
    }

    fn wake(&self, due: Vec<ExecutionId>) {
        let Some(context) = &self.context else { return };
        let mut without = Vec::new();
        for id in due {
            if context.engine.directory.route(id, ExecutionMessage::Wake).is_err() {
                without.push(id);
            }
        }
        if without.is_empty() {
            return;
        }
        let context = Arc::clone(context);
        tokio::spawn(async move {
            for id in without {
                deliver(&context, id, ExecutionMessage::Wake).await;
            }
        });
    }

    fn fenced(&mut self, myself: &ActorRef<ShardMessage>) {
        let engine = &self.arguments.engine;
        tracing::error!(
            shard = self.arguments.shard.0,
            "another owner holds the shard: its actors are dropped"
        );
        engine.counters.fenced_commits.fetch_add(1, Ordering::Relaxed);
        engine.metrics.commit_fenced();
        self.leave(myself, FENCED);
    }

    /// Drops everything at once: ending this actor kills its whole subtree.
    fn leave(&mut self, myself: &ActorRef<ShardMessage>, why: &str) {
        self.withdraw();
        myself.stop(Some(why.to_owned()));
    }

    fn withdraw(&mut self) {
        let ShardArguments { engine, shard } = &self.arguments;
        *engine.shards[usize::from(shard.0)].write() = None;
        if let Some(context) = self.context.take() {
            context.gate.close();
        }
        engine.directory.remove_shard(*shard);
    }

    fn quarantine(&mut self, id: ExecutionId, reason: String) {
        let engine = &self.arguments.engine;
        tracing::error!(%id, reason, "an execution is set aside");
        engine.quarantine.insert(id, reason);
        if let Some(actor) = engine.directory.take(id) {
            actor.kill();
        }
    }

    fn execution_failed(&mut self, myself: &ActorRef<ShardMessage>, actor: ActorId, why: &str) {
        let Some(context) = &self.context else { return };
        let engine = &context.engine;
        // One that was set aside or dropped with its shard is no longer in the directory.
        let Some(id) = engine.directory.find(actor) else { return };
        tracing::error!(%id, why, "an execution's actor failed");
        engine.counters.panics.fetch_add(1, Ordering::Relaxed);
        engine.metrics.actor_restarted("execution");
        if self.failures.failed(id, engine.now()) == Verdict::Quarantine {
            return self.quarantine(id, format!("its actor failed again and again: {why}"));
        }
        // What it had handed over may still be on its way to the log; only then may another one load it.
        let (settled, barrier) = oneshot::channel();
        if context
            .committer
            .send_message(CommitterMessage::Barrier(settled))
            .is_err()
        {
            return;
        }
        let myself = myself.clone();
        tokio::spawn(async move {
            if barrier.await.is_ok() && myself.send_message(ShardMessage::Rebuild(actor, id)).is_err() {
                tracing::debug!(%id, "the shard was dropped before an execution was rebuilt");
            }
        });
    }

    fn rebuild(&self, actor: ActorId, id: ExecutionId) {
        let Some(context) = &self.context else { return };
        if !context.engine.directory.remove(id, actor) {
            return;
        }
        let context = Arc::clone(context);
        tokio::spawn(async move { deliver(&context, id, ExecutionMessage::Wake).await });
    }

    async fn close(&mut self, myself: &ActorRef<ShardMessage>) {
        let Some(context) = self.context.clone() else { return };
        let engine = Arc::clone(&context.engine);
        self.withdraw();
        let settle = async {
            let (settled, barrier) = oneshot::channel();
            context
                .committer
                .send_message(CommitterMessage::Barrier(settled))
                .ok()?;
            barrier.await.ok()?;
            let (flushed, flush) = oneshot::channel();
            context
                .checkpointer
                .send_message(CheckpointerMessage::Flush(flushed))
                .ok()?;
            flush.await.ok()
        };
        if !matches!(tokio::time::timeout(CLOSE_MAX, settle).await, Ok(Some(()))) {
            tracing::warn!(
                shard = context.shard.0,
                "the shard is given up without a last checkpoint"
            );
        }
        if let Err(error) = engine.parts.state.release(context.shard, context.epoch).await {
            tracing::warn!(shard = context.shard.0, %error, "the lease runs out by itself");
        }
        myself.stop(Some(CLOSED.to_owned()));
    }
}

fn renew_regularly(shard: ActorRef<ShardMessage>, every: Duration) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            if shard.send_message(ShardMessage::Renew).is_err() {
                return;
            }
        }
    });
}

//! The public face of the engine.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tokio::sync::oneshot;
use troupe_core::execution::{Entry, Event};
use troupe_core::{ExecutionId, Seq};
use troupe_ports::{Clock, DefinitionStore, EventBus, NodeExecutor, Sandbox, StateStore, VisibilityStore};

use crate::context::EngineContext;
use crate::engine::{EngineActor, EngineMessage};
use crate::error::EngineError;
use crate::execution::load::{Loaded, history, load};
use crate::execution::machine::CommandInput;
use crate::execution::{ExecutionMessage, Respond};
use crate::options::EngineOptions;
use crate::request::{Command, CommandOutcome, EndWatch, EngineStatus, ExecutionView, StartOutcome, StartRequest};
use crate::shard::{ShardMessage, deliver};
use crate::start;

/// Grace of a cancellation that names none, in milliseconds.
const CANCEL_GRACE_MS: u64 = 10_000;
/// How often a drain looks whether attempts still run.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// What an engine is made of. Wiring chooses the backends.
#[derive(Clone)]
pub struct EngineParts {
    /// The shard logs.
    pub state: Arc<dyn StateStore>,
    /// Workflow definitions.
    pub definitions: Arc<dyn DefinitionStore>,
    /// Lists of executions.
    pub visibility: Arc<dyn VisibilityStore>,
    /// Where lifecycle events go.
    pub bus: Arc<dyn EventBus>,
    /// Who does the nodes' work.
    pub executor: Arc<dyn NodeExecutor>,
    /// Who evaluates expressions beyond the safe subset.
    pub sandbox: Arc<dyn Sandbox>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// The engine; see [`Engine::spawn`].
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Takes every shard, reads its log, and returns when all of them serve. What was unfinished is resumed behind that;
    /// [`EngineStatus::recovering`] tells how much is left.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the store cannot be reached or another owner holds it; [`EngineError::Damaged`] when
    /// every shard is. A single one is halted, and listed in [`EngineStatus::halted`].
    pub async fn spawn(parts: EngineParts, options: EngineOptions) -> Result<EngineHandle, EngineError> {
        let context = Arc::new(EngineContext::new(parts, options));
        let (actor, _) = EngineActor::spawn(None, EngineActor, Arc::clone(&context))
            .await
            .map_err(|error| EngineError::Unavailable(error.to_string()))?;
        let handle = EngineHandle { context, actor };
        match handle.open().await {
            Ok(()) => Ok(handle),
            Err(error) => {
                handle.context.draining.store(true, Ordering::Release);
                handle.actor.stop(None);
                Err(error)
            }
        }
    }
}

/// Drives an engine. Clones are cheap and share it.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    pub(crate) context: Arc<EngineContext>,
    actor: ActorRef<EngineMessage>,
}

impl EngineHandle {
    async fn open(&self) -> Result<(), EngineError> {
        let stopped = || EngineError::Unavailable("the engine stopped".into());
        let mut opening = Vec::new();
        for shard in 0..self.context.parts.state.shards() {
            let (ready, opened) = oneshot::channel();
            let serve = EngineMessage::Serve(troupe_core::ShardId(shard), ready);
            self.actor.send_message(serve).map_err(|_| stopped())?;
            opening.push(opened);
        }
        let (mut serves, mut damage) = (false, None);
        for opened in opening {
            match opened.await.map_err(|_| stopped())? {
                Ok(()) => serves = true,
                // The shard is halted; the others need not wait for the operator.
                Err(error @ EngineError::Damaged(_)) => damage = damage.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match damage {
            Some(error) if !serves => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    /// Starts an execution. `Ok` means durable. With a request key a repetition returns the first execution.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn start(&self, request: StartRequest) -> Result<StartOutcome, EngineError> {
        start::start(&self.context, request, |_| {}).await
    }

    /// Starts an execution and watches for its end, without a gap between.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn start_watched(&self, request: StartRequest) -> Result<(StartOutcome, EndWatch), EngineError> {
        let mut watched = None;
        let context = &self.context;
        let outcome = start::start(context, request, |id| {
            watched = Some((id, context.watches.watch(id)));
        })
        .await;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                if let Some((id, watch)) = watched {
                    drop(watch);
                    context.watches.forget(id);
                }
                return Err(error);
            }
        };
        let watch = match watched {
            Some((id, watch)) if id == outcome.id => watch,
            _ => context.watches.watch(outcome.id),
        };
        if outcome.existing {
            self.settle_watch(outcome.id).await?;
        }
        Ok((outcome, EndWatch(watch)))
    }

    /// Tells watchers of an execution that has ended already.
    async fn settle_watch(&self, id: ExecutionId) -> Result<(), EngineError> {
        let view = match self.get(id).await {
            Ok(view) => view,
            Err(EngineError::NotFound(_)) => {
                self.context.watches.drop_all(id);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if view.state.status.is_terminal() {
            let (seq, status) = (view.state.seq, view.state.status.name());
            self.context.watches.ended(crate::request::Ended { id, seq, status });
        }
        Ok(())
    }

    /// The execution at a durable entry.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    pub async fn get(&self, id: ExecutionId) -> Result<ExecutionView, EngineError> {
        let shard = self.shard_of(id)?;
        let quarantined = self.quarantined(id);
        let (reply, answer) = oneshot::channel();
        let read = ExecutionMessage::Read(Respond::View(reply));
        if self.context.directory.route(id, read).is_ok() {
            // An actor that fails or retires drops its readers: then the store answers.
            if let Ok(answer) = answer.await {
                let (state, plan) = answer?;
                self.still_holds(&shard)?;
                return Ok(ExecutionView {
                    state: *state,
                    plan,
                    quarantined,
                });
            }
        }
        match load(&shard, id).await? {
            Loaded::Found(found) => {
                let found = *found;
                let plan = Arc::clone(&found.compiled.plan);
                self.still_holds(&shard)?;
                Ok(ExecutionView {
                    state: found.state,
                    plan,
                    quarantined,
                })
            }
            Loaded::Missing | Loaded::Tombstone(_) => Err(EngineError::NotFound(id)),
        }
    }

    /// Durable entries after `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    pub async fn history(&self, id: ExecutionId, after: Seq, limit: usize) -> Result<Vec<Entry>, EngineError> {
        let shard = self.shard_of(id)?;
        let entries = history(&shard, id, after, limit)
            .await?
            .ok_or(EngineError::NotFound(id))?;
        self.still_holds(&shard)?;
        Ok(entries)
    }

    /// No new attempt starts once this returned; the outcome tells how many still run.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn pause(&self, id: ExecutionId, command: Command) -> Result<CommandOutcome, EngineError> {
        self.command(id, Event::Paused, command).await
    }

    /// Continues exactly where the execution stood; releases a quarantined one.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn resume(&self, id: ExecutionId, command: Command) -> Result<CommandOutcome, EngineError> {
        if self.context.quarantine.contains_key(&id) {
            self.release(id).await?;
        }
        self.command(id, Event::Resumed, command).await
    }

    /// Why an execution is set aside, if it is.
    #[must_use]
    pub fn quarantined(&self, id: ExecutionId) -> Option<String> {
        self.context.quarantine.get(&id).map(|reason| reason.clone())
    }

    async fn release(&self, id: ExecutionId) -> Result<(), EngineError> {
        let gone = || EngineError::Unavailable(format!("shard {} is gone", id.shard()));
        let (reply, answer) = oneshot::channel();
        let release = ShardMessage::Release(id, reply);
        self.shard_of(id)?
            .supervisor
            .send_message(release)
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Asks for cancellation: attempts may stop within the grace, then the execution ends.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn cancel(&self, id: ExecutionId, command: Command) -> Result<CommandOutcome, EngineError> {
        let grace_ms = command.grace_ms.unwrap_or(CANCEL_GRACE_MS);
        let event = Event::CancelRequested {
            reason: command.reason.clone(),
            grace_ms,
            at_once: false,
        };
        self.command(id, event, command).await
    }

    async fn command(&self, id: ExecutionId, event: Event, command: Command) -> Result<CommandOutcome, EngineError> {
        let shard = self.shard_of(id)?;
        let (reply, answer) = oneshot::channel();
        let input = CommandInput {
            event,
            principal: command.principal,
            command: command.command,
        };
        deliver(
            &shard,
            id,
            ExecutionMessage::Command(Box::new(input), Respond::Command(reply)),
        )
        .await;
        answer
            .await
            .map_err(|_| EngineError::Unavailable("the execution's actor failed".into()))?
    }

    /// Waits until the execution has ended; none when `timeout` passed before.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    pub async fn wait_until_ended(
        &self,
        id: ExecutionId,
        timeout: Duration,
    ) -> Result<Option<ExecutionView>, EngineError> {
        let watch = self.context.watches.watch(id);
        let view = self.get(id).await?;
        if view.state.status.is_terminal() {
            drop(watch);
            self.context.watches.forget(id);
            return Ok(Some(view));
        }
        let ended = tokio::time::timeout(timeout, watch).await;
        match ended {
            Ok(Ok(_)) => self.get(id).await.map(Some),
            Ok(Err(_)) => Err(EngineError::Unavailable("the engine stopped".into())),
            Err(_) => {
                self.context.watches.forget(id);
                Ok(None)
            }
        }
    }

    /// A read counts only if the lease still held when it was answered: a frozen owner knows nothing of its successor.
    fn still_holds(&self, shard: &crate::context::ShardContext) -> Result<(), EngineError> {
        if shard.gate.is_open(self.context.now()) {
            Ok(())
        } else {
            Err(EngineError::Fenced)
        }
    }

    fn shard_of(&self, id: ExecutionId) -> Result<Arc<crate::context::ShardContext>, EngineError> {
        if id.shard().0 >= self.context.parts.state.shards() {
            return Err(EngineError::NotFound(id));
        }
        self.context.shard(id.shard())
    }

    /// Definitions, straight from their store.
    #[must_use]
    pub fn definitions(&self) -> Arc<dyn DefinitionStore> {
        Arc::clone(&self.context.parts.definitions)
    }

    /// Forgets what is remembered of a workflow's latest version: call it after a change of its definition.
    pub fn definition_changed(&self, workflow: &str) {
        self.context.plans.forget_latest(workflow);
    }

    /// How the engine stands.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let context = &self.context;
        let counters = &context.counters;
        let served = context.shards.iter().filter(|slot| slot.read().is_some()).count();
        let shards = context.parts.state.shards();
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let halted = context.halted.iter();
        let mut halted: Vec<_> = halted.map(|entry| (*entry.key(), entry.value().clone())).collect();
        halted.sort_unstable();
        let whole = served > 0 && served + halted.len() == usize::from(shards);
        EngineStatus {
            ready: whole && !context.draining.load(Ordering::Acquire),
            shards,
            shards_served: u16::try_from(served).unwrap_or(u16::MAX),
            halted,
            active: context.directory.len(),
            recovering: of(&counters.recovering),
            quarantined: context.quarantine.len() as u64,
            ended: of(&counters.ended),
            entries: of(&counters.entries),
            commits: of(&counters.commits),
            fenced_commits: of(&counters.fenced_commits),
            node_actors: of(&counters.node_actors),
            attempts_running: of(&counters.attempts_running),
            stale_reports: of(&counters.stale_reports),
            panics: of(&counters.panics),
            uncheckpointed_bytes: of(&counters.uncheckpointed_bytes),
        }
    }

    /// Sets the gauges to what holds now: call it before metrics are read.
    pub fn sample_metrics(&self) {
        crate::gauges::sample(&self.context);
    }

    /// Refuses new work, lets running attempts end within `grace`, writes a last checkpoint and gives the shards up.
    pub async fn shutdown(&self, grace: Duration) {
        let context = &self.context;
        context.draining.store(true, Ordering::Release);
        let drained = async {
            while context.counters.attempts_running.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        if tokio::time::timeout(grace, drained).await.is_err() {
            tracing::warn!(
                "attempts still ran when the grace ended; they are dispatched again at the next start, and that does not count"
            );
        }
        let (done, closed) = oneshot::channel();
        if self.actor.send_message(EngineMessage::Close(done)).is_ok() {
            closed.await.ok();
        }
        context.watches.clear();
    }

    /// Drops every actor at once, as a crash would: nothing is drained, checkpointed or released. For tests.
    pub async fn crash(&self) {
        self.context.draining.store(true, Ordering::Release);
        self.actor.kill();
        self.context.watches.clear();
        for slot in &self.context.shards {
            if let Some(shard) = slot.write().take() {
                shard.gate.close();
            }
        }
    }
}

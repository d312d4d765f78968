//! The public face of the engine.

mod control;
mod member;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tokio::sync::oneshot;
use troupe_core::control::Clocks;
use troupe_core::execution::{Decision, Entry, Event, Remedy, Status};
use troupe_core::{ExecutionId, INLINE_BYTES_MAX, Json, Seq, ShardId, Value};
use troupe_ports::{
    Clock, DefinitionStore, EpochAuthority, EventBus, Membership, NodeExecutor, Sandbox, Semaphores, StateStore,
    VisibilityStore,
};

use crate::attempt::shared_slots;
use crate::blobs::{Contents, blobs_of};
use crate::breakers::BreakerView;
use crate::context::EngineContext;
use crate::controls;
use crate::engine::{EngineActor, EngineMessage};
use crate::error::EngineError;
use crate::execution::load::{Loaded, history, load};
use crate::execution::machine::{CommandInput, NodeCommand, Wanted};
use crate::execution::{ExecutionMessage, Respond, Viewed};
use crate::options::EngineOptions;
use crate::placement::watch;
use crate::request::{
    Command, CommandOutcome, EndWatch, EngineStatus, ExecutionView, ReopenOutcome, ReopenRequest, RerunOutcome,
    RerunRequest, StartOutcome, StartRequest,
};
use crate::shard::{ShardMessage, deliver};
use crate::start;

/// Grace of a cancellation that names none, in milliseconds.
const CANCEL_GRACE_MS: u64 = 10_000;
/// How often a drain looks whether attempts still run.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// Longest wait for what other members count to be given back.
const GIVE_BACK_MAX: Duration = Duration::from_secs(1);

/// What an engine is made of. Wiring chooses the backends.
#[derive(Clone)]
pub struct EngineParts {
    /// The shard logs.
    pub state: Arc<dyn StateStore>,
    /// Workflow definitions.
    pub definitions: Arc<dyn DefinitionStore>,
    /// Lists of executions.
    pub visibility: Arc<dyn VisibilityStore>,
    /// Where lifecycle events go. Each bus follows the log at its own pace, with the cursor of this name.
    pub buses: Vec<(&'static str, Arc<dyn EventBus>)>,
    /// Who does the nodes' work.
    pub executor: Arc<dyn NodeExecutor>,
    /// Who evaluates expressions beyond the safe subset.
    pub sandbox: Arc<dyn Sandbox>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where engines that share the state find each other; none: nobody else has it, and every shard is this engine's.
    pub members: Option<Arc<dyn Membership>>,
    /// Who orders the owners of a shard; none: the state store does so itself.
    pub epochs: Option<Arc<dyn EpochAuthority>>,
    /// Where engines that share the state count what their limits bound together; none: each counts by itself.
    pub semaphores: Option<Arc<dyn Semaphores>>,
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
        if let Some(shared) = context.limits.shared() {
            context.leases.spawn(shared_slots::renew(Arc::downgrade(shared)));
        }
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
        match self.context.parts.members.clone() {
            Some(register) => self.join(register).await,
            None => self.open_all().await,
        }
    }

    /// Joins the others that share the state, and waits until what is this engine's own is here, if that comes soon.
    async fn join(&self, register: Arc<dyn Membership>) -> Result<(), EngineError> {
        let context = &self.context;
        let watching = watch(Arc::downgrade(context), register, self.actor.clone());
        context.leases.spawn(watching);
        let mut placed = context.placed.subscribe();
        // One that was killed keeps its shards until its leases have expired.
        let within = context.options.lease * 2;
        let settled = tokio::time::timeout(within, async {
            let settled = placed.wait_for(|placed| placed.settled).await;
            settled.map(|_| ())
        });
        match settled.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(EngineError::Unavailable("the engine stopped".into())),
            Err(_) if context.neighbours.read().members.is_empty() => {
                return Err(EngineError::Unavailable(
                    "the register of members does not answer".into(),
                ));
            }
            Err(_) => tracing::warn!(missing = ?placed.borrow().missing, "shards that belong here are not here yet"),
        }
        let nothing_else = context.halted.len() == context.shards.len();
        match context.halted.iter().next() {
            Some(halted) if nothing_else => return Err(EngineError::Damaged(halted.value().clone())),
            Some(_) | None => {}
        }
        if context.unreadable.len() == context.shards.len()
            && let Some(first) = context.unreadable.iter().min_by_key(|entry| *entry.key())
        {
            let error = context.newer_format(*first.key(), *first.value());
            if let Some(register) = &context.parts.members {
                // The others need not wait until the register forgets this engine.
                context.left.store(true, Ordering::Release);
                if let Err(error) = register.leave(&context.options.owner).await {
                    tracing::debug!(%error, "the register forgets this member by itself");
                }
            }
            return Err(error);
        }
        controls::reconcile(context).await;
        Ok(())
    }

    /// Whether this engine reads all shards, before it touches one.
    async fn check_formats(&self) -> Result<(), EngineError> {
        let context = &self.context;
        for shard in (0..context.parts.state.shards()).map(ShardId) {
            let holder = context.parts.state.holder(shard).await?;
            if !context.options.reads.reads(holder.format) {
                return Err(context.newer_format(shard, holder.format));
            }
        }
        Ok(())
    }

    async fn open_all(&self) -> Result<(), EngineError> {
        self.check_formats().await?;
        let stopped = || EngineError::Unavailable("the engine stopped".into());
        let mut opening = Vec::new();
        for shard in 0..self.context.parts.state.shards() {
            let (ready, opened) = oneshot::channel();
            let serve = EngineMessage::Serve(ShardId(shard), ready);
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
            Some(_) | None => {
                controls::reconcile(&self.context).await;
                Ok(())
            }
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

    /// Runs an execution again from one of its nodes, as a new execution that takes over the results of the others.
    ///
    /// # Errors
    /// [`EngineError::NodeNotFound`]; [`EngineError::Refused`] (`RERUN_IN_LOOP`, `RERUN_EDGES_CHANGED`,
    /// `RERUN_WITHOUT_INPUT`); see [`EngineError`].
    pub async fn rerun(&self, id: ExecutionId, request: RerunRequest) -> Result<RerunOutcome, EngineError> {
        let view = self.get(id).await?;
        crate::rerun::rerun(&self.context, &view, request).await
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

    /// The latest execution of a business key, open or closed; none if the key was never used.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`].
    pub async fn latest_of_key(&self, workflow: &str, key: &str) -> Result<Option<ExecutionId>, EngineError> {
        start::latest_of_key(&self.context, workflow, key).await
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
                let Viewed { state, plan, waits } = answer?;
                self.still_holds(&shard)?;
                return Ok(ExecutionView {
                    held: shard.controls.holding(&plan, &state),
                    state: *state,
                    plan,
                    quarantined,
                    contents: Contents::default(),
                    waits,
                });
            }
        }
        match load(&shard, id).await? {
            Loaded::Found(found) => {
                let found = *found;
                let plan = Arc::clone(&found.compiled.plan);
                self.still_holds(&shard)?;
                Ok(ExecutionView {
                    held: shard.controls.holding(&plan, &found.state),
                    state: found.state,
                    plan,
                    quarantined,
                    contents: Contents::default(),
                    waits: Vec::new(),
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

    /// No new attempt starts once this returned; the outcome tells how many still run. With `clocks: freeze` its timers and
    /// deadlines stand still until it is resumed.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn pause(&self, id: ExecutionId, command: Command) -> Result<CommandOutcome, EngineError> {
        let event = match command.clocks {
            Clocks::Run => Event::Paused,
            Clocks::Freeze => Event::Frozen,
        };
        self.event(id, event, command).await
    }

    /// Continues exactly where the execution stood; releases a quarantined one.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn resume(&self, id: ExecutionId, command: Command) -> Result<CommandOutcome, EngineError> {
        if self.context.quarantine.contains_key(&id) {
            self.release(id).await?;
        }
        self.event(id, Event::Resumed, command).await
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
        self.event(id, event, command).await
    }

    /// Gives a call to a node that waits for one. One that comes too early is kept until the node waits.
    ///
    /// # Errors
    /// [`EngineError::NodeNotFound`]; [`EngineError::Refused`] when the node waits for no call (`NODE_NOT_WAITING`), its
    /// `payloadSchema` is violated, or too many calls are kept for it already; see [`EngineError`].
    pub async fn signal(
        &self,
        id: ExecutionId,
        node: &str,
        call: Json,
        command: Command,
    ) -> Result<CommandOutcome, EngineError> {
        let call = self.kept(id, call).await?;
        let wanted = Wanted::OfNode(node.to_owned(), NodeCommand::Signal(call));
        self.command(id, wanted, command).await
    }

    /// Says that whoever works on what a node waits for is still alive: its `heartbeatTimeout` begins anew.
    ///
    /// # Errors
    /// [`EngineError::NodeNotFound`], [`EngineError::Refused`] (`NODE_NOT_WAITING`); see [`EngineError`].
    pub async fn heartbeat(
        &self,
        id: ExecutionId,
        node: &str,
        command: Command,
    ) -> Result<CommandOutcome, EngineError> {
        self.command(id, Wanted::OfNode(node.to_owned(), NodeCommand::Heartbeat), command)
            .await
    }

    /// Has a node end as an operator decides: a waiting one completes or fails, one that has not ended is skipped.
    ///
    /// # Errors
    /// [`EngineError::NodeNotFound`]; [`EngineError::Refused`] when the node does not wait (`NODE_NOT_WAITING`) or has ended
    /// (`NODE_ENDED`); see [`EngineError`].
    pub async fn decide(
        &self,
        id: ExecutionId,
        node: &str,
        decision: Decision,
        command: Command,
    ) -> Result<CommandOutcome, EngineError> {
        let decision = match decision {
            Decision::Complete(Value::Inline(output)) => Decision::Complete(self.kept(id, output).await?),
            Decision::Skip(Some(Value::Inline(output))) => Decision::Skip(Some(self.kept(id, output).await?)),
            other => other,
        };
        let wanted = Wanted::OfNode(node.to_owned(), NodeCommand::Decide(decision));
        self.command(id, wanted, command).await
    }

    /// Runs failed nodes again, or skips one: an execution that has failed or was canceled goes on as its next run, together with
    /// what its end cut off. A node that has not ended is skipped as [`EngineHandle::decide`] does.
    ///
    /// # Errors
    /// [`EngineError::NodeNotFound`]; [`EngineError::KeyConflict`] when its business key has a newer execution;
    /// [`EngineError::Refused`] (`NODE_NOT_FAILED`, `NOTHING_TO_RETRY`, `NOT_REOPENABLE`, `CHILD_NOT_REOPENABLE`); see
    /// [`EngineError`].
    pub async fn reopen(
        &self,
        id: ExecutionId,
        mut request: ReopenRequest,
        command: Command,
    ) -> Result<ReopenOutcome, EngineError> {
        let view = self.get(id).await?;
        if let Remedy::Skip(Some(Value::Inline(output))) = &request.remedy {
            request.remedy = Remedy::Skip(Some(self.kept(id, output.clone()).await?));
        }
        crate::reopen::reopen(&self.context, &view, request, command).await
    }

    /// Sets variables; those that are not named stay.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn set_variables(
        &self,
        id: ExecutionId,
        variables: Vec<(String, Json)>,
        command: Command,
    ) -> Result<CommandOutcome, EngineError> {
        let mut kept = Vec::with_capacity(variables.len());
        for (name, value) in variables {
            kept.push((name, self.kept(id, value).await?));
        }
        self.event(id, Event::VariablesSet(kept), command).await
    }

    /// A value that somebody gives an execution, durable apart if it is large.
    async fn kept(&self, id: ExecutionId, value: Json) -> Result<Value, EngineError> {
        if value.bytes() <= INLINE_BYTES_MAX {
            return Ok(value.into());
        }
        let shard = self.shard_of(id)?;
        match self.get(id).await?.state.blob_root() {
            Some(root) => Ok(self.context.blobs.keep(&shard, root, value).await?),
            None => Ok(value.into()),
        }
    }

    /// Loads the execution's large values for whoever shows them: its output, its input, its variables and what its nodes
    /// gave, in that order, while they fit into `bytes_max` together.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`]; [`EngineError::Damaged`] when one is not what it was.
    pub async fn load_values(&self, view: &mut ExecutionView, bytes_max: u64) -> Result<(), EngineError> {
        let Some(root) = view.state.blob_root() else {
            return Ok(());
        };
        let mut left = bytes_max;
        for blob in view.blobs() {
            if let Some(rest) = left.checked_sub(blob.bytes) {
                view.contents.add(blob, self.context.blobs.get(root, &blob).await?);
                left = rest;
            }
        }
        Ok(())
    }

    /// Loads the execution's output, whatever its size.
    ///
    /// # Errors
    /// As [`EngineHandle::load_values`].
    pub async fn load_output(&self, view: &mut ExecutionView) -> Result<(), EngineError> {
        if let (Status::Completed { output }, Some(root)) = (&view.state.status, view.state.blob_root()) {
            for blob in blobs_of(output) {
                view.contents.add(blob, self.context.blobs.get(root, &blob).await?);
            }
        }
        Ok(())
    }

    /// A large value of an execution, by its hash.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] when there is no such execution; [`EngineError::ValueNotFound`] when it has no such value.
    pub async fn value(&self, id: ExecutionId, hash: [u8; 32]) -> Result<Json, EngineError> {
        let root = self.get(id).await?.state.blob_root();
        let missing = || EngineError::ValueNotFound(id);
        let root = root.ok_or_else(missing)?;
        self.context.parts.state.blob(root, hash).await?.ok_or_else(missing)
    }

    async fn event(&self, id: ExecutionId, event: Event, command: Command) -> Result<CommandOutcome, EngineError> {
        self.command(id, Wanted::Event(event), command).await
    }

    async fn command(&self, id: ExecutionId, wanted: Wanted, command: Command) -> Result<CommandOutcome, EngineError> {
        let shard = self.shard_of(id)?;
        let (reply, answer) = oneshot::channel();
        let input = CommandInput {
            wanted,
            principal: command.principal,
            command: command.command,
        };
        deliver(
            &shard,
            id,
            ExecutionMessage::Command(Box::new(input), Respond::Command(reply)),
        )
        .await;
        answer.await.map_err(|_| shard.unanswered())?
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
        if id.shard().0 >= self.context.parts.state.shards() || id.is_controls() {
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
        let unreadable = context.unreadable.iter();
        let unreadable = unreadable.map(|entry| (*entry.key(), *entry.value()));
        let mut unreadable: Vec<_> = unreadable
            .map(|(shard, holds)| (shard, context.newer_format(shard, holds).to_string()))
            .collect();
        unreadable.sort_unstable();
        let whole = match &context.parts.members {
            // What is not its own is at another member.
            Some(_) => context.placed.borrow().settled,
            None => served > 0 && served + halted.len() == usize::from(shards),
        };
        EngineStatus {
            ready: whole && !context.draining.load(Ordering::Acquire) && !context.leaving.load(Ordering::Acquire),
            shards,
            shards_served: u16::try_from(served).unwrap_or(u16::MAX),
            halted,
            unreadable,
            active: context.directory.len(),
            recovering: of(&counters.recovering),
            quarantined: context.quarantine.len() as u64,
            backlog: crate::gauges::backlog(context),
            lists: crate::gauges::lists(context),
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

    /// The breakers of targets that are unwell, were so a moment ago, or are held by an operator, by name.
    #[must_use]
    pub fn breakers(&self) -> Vec<BreakerView> {
        self.context.breakers.list()
    }

    /// Sets the gauges to what holds now: call it before metrics are read.
    pub fn sample_metrics(&self) {
        crate::gauges::sample(&self.context);
    }

    /// Leaves its shards to other members, where there are some; then refuses new work, lets running attempts end within `grace`,
    /// writes a last checkpoint and gives the shards up.
    pub async fn shutdown(&self, grace: Duration) {
        let context = &self.context;
        self.leave(grace).await;
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
        let given_back = async {
            while context.limits.is_counted() || context.rooms.is_telling() {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        if tokio::time::timeout(GIVE_BACK_MAX, given_back).await.is_err() {
            tracing::warn!("slots that other members count are free only after a lease");
        }
        context.watches.clear();
    }

    /// Drops every actor at once, as a crash would: nothing is drained, checkpointed or released. For tests.
    pub async fn crash(&self) {
        if let Some(shared) = &self.context.shared_limits {
            shared.crash();
        }
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

//! The shard's shell.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::control::{ControlKey, Setting};
use troupe_core::{ExecutionId, ShardId};
use troupe_ports::StoreError;

use super::acquire::lease_ms;
use super::lost_word::ask_children;
use super::machine::{FailureMachine, Verdict};
use super::open::{keep_room, open};
use super::route::deliver;
use crate::checkpointer::CheckpointerMessage;
use crate::committer::{CommitterMessage, ControlNotify, NotRestored};
use crate::context::{EngineContext, ShardContext};
use crate::controls::{ControlRequest, ControlsMachine, Decided, Origin, cancel_stopped, stopped};
use crate::error::EngineError;
use crate::execution::ExecutionMessage;
use crate::lease::keep_renewing;
use crate::rooms;
use crate::task::{ShardTask, supervised};
use crate::timers::TimersMessage;

/// Longest wait for the last commit and checkpoint when a shard is given up, and for what is given back to its store then.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// How long attempts may go on when another member waits for their shard; it runs those again that had no time.
const ATTEMPTS_END_WITHIN: Duration = Duration::from_millis(200);
const ATTEMPTS_POLL: Duration = Duration::from_millis(5);
/// Pause before the store is asked again to remember that an execution is set aside.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
/// A shard that does not fit so often within that is damaged, and not only back where its store was.
const BEGINS_AGAIN_MAX: usize = 3;
const BEGINS_AGAIN_WITHIN: Duration = Duration::from_secs(30);
/// What an operator can do about a damaged shard.
pub const DAMAGED_HINT: &str = "copy the store and restore a backup, or give up what the record held: \
     `--accept-loss SHARD` at the next start; see docs/errors/DAMAGED.md";

/// Why a shard's actor ends for good: nobody opens the shard again.
pub const FENCED: &str = "fenced";
/// See [`FENCED`].
pub const HALTED: &str = "halted";
/// See [`FENCED`].
pub const CLOSED: &str = "closed";
/// Why a shard's actor ends to be opened again, from what the store still has.
const WENT_BACK: &str = "its log went back";

/// What a shard hears.
#[derive(Debug)]
pub enum ShardMessage {
    /// Take the shard.
    Open(oneshot::Sender<Result<(), EngineError>>),
    /// These executions are due.
    Due(Vec<ExecutionId>),
    /// Another owner has the shard.
    Fenced,
    /// What is stored does not go on from what this owner has committed.
    WentBack(String),
    /// Why it does not, and how many records the committer has appended again, or why its log is not whole.
    Restored(String, Result<u64, NotRestored>),
    /// An operator must look.
    Halt(String),
    /// A task of the shard panicked; which, and what it said. The shard fails, and is opened anew; one whose store is being given back what it
    /// lacks begins again anyhow.
    Panicked(String),
    /// An execution cannot be processed.
    Quarantine(ExecutionId, String),
    /// The store may not know yet that an execution is set aside.
    SaveQuarantine(ExecutionId),
    /// An operator takes an execution back.
    Release(ExecutionId, oneshot::Sender<Result<(), EngineError>>),
    /// Everything that a failed actor had handed over is durable: replace it.
    Rebuild(ActorId, ExecutionId),
    /// Set or lift a control. Answers once it is in force: whether it was news.
    Control(Box<ControlRequest>, Origin, oneshot::Sender<Result<bool, EngineError>>),
    /// Another member waits for the shard.
    HandOver,
    /// What ran has ended, or had its time: give the shard up.
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
    renewal: Option<ShardTask>,
    format: Option<ShardTask>,
    beside: HashSet<ActorId>,
    failures: FailureMachine,
    controls: ControlsMachine,
    /// The committer gives a store that came back older what it lacks.
    restores: bool,
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
        let failures = FailureMachine::new(arguments.engine.options.mutants);
        Ok(ShardState {
            arguments,
            context: None,
            renewal: None,
            format: None,
            beside: HashSet::new(),
            failures,
            controls: ControlsMachine::default(),
            restores: false,
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
            ShardMessage::Due(due) => state.wake(due),
            ShardMessage::Fenced => state.fenced(&myself),
            ShardMessage::WentBack(why) => state.went_back(&myself, why),
            ShardMessage::Restored(why, restored) => state.restored(&myself, &why, restored),
            ShardMessage::Halt(why) => state.halt(&myself, why),
            // It begins again as soon as its store has back what it lacks: nobody else could give that.
            ShardMessage::Panicked(why) if state.restores => {
                tracing::error!(why, "a task of a shard that begins again")
            }
            ShardMessage::Panicked(why) => return Err(why.into()),
            ShardMessage::Quarantine(id, reason) => state.quarantine(&myself, id, reason).await,
            ShardMessage::SaveQuarantine(id) => state.save_quarantine(&myself, id).await,
            ShardMessage::Release(id, reply) => {
                let released = state.release(id).await;
                // Whoever asked may be gone; nothing depends on the answer.
                reply.send(released).ok();
            }
            ShardMessage::Rebuild(actor, id) => state.rebuild(actor, id),
            ShardMessage::Control(request, origin, reply) => state.control(*request, origin, reply),
            ShardMessage::HandOver => state.hand_over(&myself),
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
                state.execution_failed(&myself, cell.get_id(), &error.to_string()).await;
            }
            SupervisionEvent::ActorTerminated(cell, kept, why) => {
                if state.beside.contains(&cell.get_id()) {
                    return Err("an actor beside the executions is gone".into());
                }
                if kept.is_none() {
                    let why = why.as_deref().unwrap_or("killed");
                    state.execution_failed(&myself, cell.get_id(), why).await;
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
            Ok((context, beside, keeper)) => {
                self.beside = beside;
                if !stopped(&context.controls.set()).is_empty() {
                    let canceling = cancel_stopped(Arc::clone(&context));
                    tokio::spawn(supervised("canceling what is stopped", myself.clone(), canceling));
                }
                self.controls = ControlsMachine::new((*context.controls.set()).clone());
                *engine.shards[usize::from(shard.0)].write() = Some(Arc::clone(&context));
                self.renewal = Some(keep_renewing(&context, lease_ms(engine)));
                self.format = Some(keeper.start(engine.format.subscribe(), myself.clone()));
                self.context = Some(context);
                Ok(())
            }
            Err(EngineError::Damaged(why)) => {
                self.halt(myself, why.clone());
                Err(EngineError::Damaged(why))
            }
            Err(error) => {
                if engine.parts.members.is_some() {
                    // Another member may have been faster.
                    tracing::warn!(shard = shard.0, %error, "the shard is not opened");
                } else {
                    tracing::error!(shard = shard.0, %error, "the shard cannot be opened");
                }
                myself.stop(Some(format!("cannot be opened: {error}")));
                Err(error)
            }
        };
        if ready.send(answer).is_err() {
            tracing::debug!(shard = self.arguments.shard.0, "nobody waited for the shard");
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
        let (context, supervisor) = (Arc::clone(context), context.supervisor.clone());
        let waking = async move {
            for id in without {
                deliver(&context, id, ExecutionMessage::Wake).await;
            }
        };
        tokio::spawn(supervised("waking what is due", supervisor, waking));
    }

    fn fenced(&mut self, myself: &ActorRef<ShardMessage>) {
        let engine = &self.arguments.engine;
        tracing::error!(
            shard = self.arguments.shard.0,
            "another owner holds the shard: its actors are dropped"
        );
        engine.counters.fenced_commits.fetch_add(1, Ordering::Relaxed);
        engine.metrics.shard_lost();
        self.leave(myself, FENCED);
    }

    /// The store does not go on from what this owner has in memory: it came back older. The owner still has its latest records, and the log is
    /// given those that it lacks.
    fn went_back(&mut self, myself: &ActorRef<ShardMessage>, why: String) {
        let Some(context) = &self.context else {
            return self.restored(myself, &why, Err(NotRestored::Lost("nobody has it".to_owned())));
        };
        if std::mem::replace(&mut self.restores, true) {
            return;
        }
        let (reply, answer) = oneshot::channel();
        // A committer that is gone drops the message, and with it the answer.
        context.committer.send_message(CommitterMessage::Restore(reply)).ok();
        let myself = myself.clone();
        tokio::spawn(async move {
            // As long as the store is away: what nobody could look at is not lost.
            let gone = |_| Err(NotRestored::Lost("its committer is gone".to_owned()));
            let restored = answer.await.unwrap_or_else(gone);
            // A shard that was lost meanwhile has a new owner.
            myself.send_message(ShardMessage::Restored(why, restored)).ok();
        });
    }

    /// Where the log is whole again the shard begins again from it, for nobody knows what else the store has lost. Where acknowledged records
    /// are gone, and the store's durability allows that, it begins again from what is left. Any other store halts the shard, and so does what
    /// does not fit again and again although it began again.
    fn restored(&mut self, myself: &ActorRef<ShardMessage>, why: &str, restored: Result<u64, NotRestored>) {
        let ShardArguments { engine, shard } = &self.arguments;
        let restored = match restored {
            Ok(appended) => Ok(appended),
            Err(NotRestored::Fenced) => return self.fenced(myself),
            Err(NotRestored::Lost(lost)) => Err(lost),
        };
        let now = Instant::now();
        let mut before = engine.went_back.entry(*shard).or_default();
        before.retain(|at| now.duration_since(*at) < BEGINS_AGAIN_WITHIN);
        let is_again = before.len() >= BEGINS_AGAIN_MAX;
        before.push(now);
        drop(before);
        match restored {
            Ok(appended) if !is_again => tracing::error!(
                shard = shard.0,
                why,
                appended,
                "the store went back; every record of its log was still known and is there again: nothing acknowledged is lost"
            ),
            Err(lost) if !is_again && engine.parts.state.may_lose_acknowledged() => tracing::error!(
                shard = shard.0,
                why,
                lost,
                "the store went back; acknowledged writes are lost, as its durability allows: the shard begins again from what is left"
            ),
            Ok(_) => {
                let often =
                    format!("{why}; and it began again {BEGINS_AGAIN_MAX} times within {BEGINS_AGAIN_WITHIN:?}");
                return self.halt(myself, often);
            }
            Err(lost) => return self.halt(myself, format!("{why}; {lost}")),
        }
        self.leave(myself, WENT_BACK);
    }

    /// Nobody opens the shard again until the engine is started anew.
    fn halt(&mut self, myself: &ActorRef<ShardMessage>, why: String) {
        let ShardArguments { engine, shard } = &self.arguments;
        tracing::error!(
            shard = shard.0,
            code = "DAMAGED",
            why,
            hint = DAMAGED_HINT,
            "the shard halts until an operator looks; the others go on"
        );
        engine.halted.insert(*shard, why);
        self.leave(myself, HALTED);
    }

    /// Drops everything at once: ending this actor kills its whole subtree.
    fn leave(&mut self, myself: &ActorRef<ShardMessage>, why: &str) {
        self.withdraw();
        myself.stop(Some(why.to_owned()));
    }

    fn withdraw(&mut self) {
        self.renewal = None;
        self.format = None;
        let ShardArguments { engine, shard } = &self.arguments;
        *engine.shards[usize::from(shard.0)].write() = None;
        if let Some(context) = self.context.take() {
            context.gate.close();
        }
        forget(engine, *shard);
    }

    async fn quarantine(&mut self, myself: &ActorRef<ShardMessage>, id: ExecutionId, reason: String) {
        let engine = &self.arguments.engine;
        tracing::error!(%id, reason, "an execution is set aside");
        engine.quarantine.insert(id, reason);
        if let Some(actor) = engine.directory.take(id) {
            actor.kill();
        }
        self.save_quarantine(myself, id).await;
    }

    /// Whether the store came back older; none while it does not answer.
    async fn log_is_older(&self, context: &ShardContext) -> Option<bool> {
        if self.restores || !context.engine.parts.state.may_come_back_older() {
            return Some(self.restores);
        }
        let (reply, answer) = oneshot::channel();
        // A committer that is gone drops the message, and with it the answer.
        context.committer.send_message(CommitterMessage::Look(reply)).ok();
        let looked = tokio::time::timeout(context.engine.options.lease, answer).await;
        looked.ok()?.ok()
    }

    /// Until the store has it, a restart would try the execution again.
    async fn save_quarantine(&mut self, myself: &ActorRef<ShardMessage>, id: ExecutionId) {
        let (Some(context), Some(reason)) = (self.context.clone(), self.reason(id)) else {
            return;
        };
        let is_older = self.log_is_older(&context).await;
        if is_older == Some(true) {
            // What was found is as old as the log, and another thing once that is whole again.
            return self.went_back(myself, format!("execution {id} does not fit its log"));
        }
        let store = &context.engine.parts.state;
        let saved = async {
            if is_older.is_none() {
                return Err(EngineError::Unavailable("the store does not answer".into()));
            }
            // Its actor may never have told that it runs.
            keep_room(&context, id).await?;
            let (shard, epoch) = (context.shard, context.epoch);
            Ok::<_, EngineError>(store.set_quarantine(shard, epoch, id, Some(&reason)).await?)
        };
        let Err(error) = saved.await else { return };
        tracing::warn!(%id, %error, "that an execution is set aside is not saved yet");
        let myself = myself.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SAVE_AGAIN).await;
            // A shard that was dropped has forgotten the reason.
            myself.send_message(ShardMessage::SaveQuarantine(id)).ok();
        });
    }

    fn reason(&self, id: ExecutionId) -> Option<String> {
        self.arguments.engine.quarantine.get(&id).map(|reason| reason.clone())
    }

    async fn release(&self, id: ExecutionId) -> Result<(), EngineError> {
        let Some(context) = &self.context else {
            return Err(EngineError::Unavailable(format!(
                "shard {} is not served here",
                id.shard()
            )));
        };
        let store = &context.engine.parts.state;
        store.set_quarantine(context.shard, context.epoch, id, None).await?;
        context.engine.quarantine.remove(&id);
        Ok(())
    }

    /// Saves a control and answers once it is in force; the shard does other things meanwhile.
    fn control(&mut self, request: ControlRequest, origin: Origin, reply: oneshot::Sender<Result<bool, EngineError>>) {
        let gone = |shard: ShardId| EngineError::Unavailable(format!("shard {shard} is gone"));
        let shard = self.arguments.shard;
        let Some(context) = &self.context else {
            // Whoever asked may be gone; nothing depends on the answer.
            reply.send(Err(gone(shard))).ok();
            return;
        };
        let (told, in_force) = oneshot::channel();
        let lifted = match &request.key {
            ControlKey::Pause(scope) | ControlKey::Stop(scope) if request.setting.is_none() => Some(scope.clone()),
            ControlKey::Pause(_) | ControlKey::Stop(_) | ControlKey::Breaker(_) => None,
        };
        let cancels = request.setting == Some(Setting::Stopped { cancel_running: true });
        let context = Arc::clone(context);
        let timers = context.timers.clone();
        let (message, is_news) = match self.controls.decide(request, origin) {
            Decided::Refused(error) => {
                reply.send(Err(error)).ok();
                return;
            }
            // What it repeats may not be durable yet.
            Decided::Unchanged => (CommitterMessage::Barrier(told), false),
            Decided::Append(entry, is_news) => {
                let set = self.controls.encoded();
                let notify = ControlNotify { set, reply: told };
                (CommitterMessage::Control(Box::new(entry), notify), is_news)
            }
        };
        // A committer that is gone drops the message, and with it whoever would answer.
        context.committer.send_message(message).ok();
        let supervisor = context.supervisor.clone();
        let answering = async move {
            let answer = in_force.await.map(|()| is_news).map_err(|_| gone(shard));
            if let (Ok(_), Some(scope)) = (&answer, lifted) {
                // A stopped shard holds nothing back.
                timers.send_message(TimersMessage::Lifted(scope)).ok();
            }
            let is_in_force = answer.is_ok();
            reply.send(answer).ok();
            if cancels && is_in_force {
                cancel_stopped(context).await;
            }
        };
        tokio::spawn(supervised("a control", supervisor, answering));
    }

    async fn execution_failed(&mut self, myself: &ActorRef<ShardMessage>, actor: ActorId, why: &str) {
        let Some(context) = &self.context else { return };
        let engine = &context.engine;
        // One that was set aside or dropped with its shard is no longer in the directory.
        let Some(id) = engine.directory.find(actor) else { return };
        tracing::error!(%id, why, "an execution's actor failed");
        engine.counters.panics.fetch_add(1, Ordering::Relaxed);
        context.failed.insert(id);
        if self.failures.failed(id, engine.now()) == Verdict::Quarantine {
            let reason = format!("its actor failed again and again: {why}");
            return self.quarantine(myself, id, reason).await;
        }
        engine.metrics.actor_restarted("execution");
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
        let (context, supervisor) = (Arc::clone(context), context.supervisor.clone());
        let rebuilding = async move {
            deliver(&context, id, ExecutionMessage::Wake).await;
            ask_children(&context, id).await;
        };
        tokio::spawn(supervised("rebuilding an execution", supervisor, rebuilding));
    }

    /// Starts nothing any more, lets what runs end, and writes a checkpoint, while it still serves: then only little is left to do
    /// between its last answer and the next owner's first one.
    fn hand_over(&self, myself: &ActorRef<ShardMessage>) {
        let Some(context) = self.context.clone() else {
            myself.stop(Some(CLOSED.to_owned()));
            return;
        };
        let myself = myself.clone();
        tokio::spawn(async move {
            let (flushed, flush) = oneshot::channel();
            if context
                .checkpointer
                .send_message(CheckpointerMessage::Flush(flushed))
                .is_ok()
            {
                // The last one before the release matters.
                tokio::time::timeout(CLOSE_MAX, flush).await.ok();
            }
            context.leaving.store(true, Ordering::Release);
            let until = tokio::time::Instant::now() + ATTEMPTS_END_WITHIN;
            while context.attempts_running.load(Ordering::Relaxed) > 0 && tokio::time::Instant::now() < until {
                tokio::time::sleep(ATTEMPTS_POLL).await;
            }
            let (done, _) = oneshot::channel();
            myself.send_message(ShardMessage::Close(done)).ok();
        });
    }

    async fn close(&mut self, myself: &ActorRef<ShardMessage>) {
        let Some(context) = self.context.clone() else {
            // It was never opened, or is being dropped.
            myself.stop(Some(CLOSED.to_owned()));
            return;
        };
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
        // Nobody renews the lease any more, and there is something to do under it after this.
        let most = CLOSE_MAX.min(engine.options.lease / 2);
        if !matches!(tokio::time::timeout(most, settle).await, Ok(Some(()))) {
            tracing::warn!(
                shard = context.shard.0,
                "the shard is given up without a last checkpoint"
            );
        }
        let store = &engine.parts.state;
        match store.release(context.shard, context.epoch).await {
            Ok(()) => {}
            // One that does not answer may turn out to have gone back, and nobody else would have what it lacks.
            Err(error @ (StoreError::WentBack(_) | StoreError::Unavailable(_))) if store.may_come_back_older() => {
                give_back_last(&context, &error).await;
            }
            Err(error) => tracing::warn!(shard = context.shard.0, %error, "the lease runs out by itself"),
        }
        myself.stop(Some(CLOSED.to_owned()));
    }
}

/// The engine knows nothing of a shard's executions any more.
pub(crate) fn forget(engine: &Arc<EngineContext>, shard: ShardId) {
    engine.directory.remove_shard(shard);
    engine.watches.drop_shard(shard);
    rooms::forget_shard(engine, shard);
    engine.quarantine.retain(|id, _| id.shard() != shard);
}

/// The store went back since this owner, who leaves now, was told what is durable, or does not answer: it is given what it lacks, as long as
/// somebody is there who has it.
async fn give_back_last(context: &ShardContext, why: &StoreError) {
    let shard = context.shard.0;
    let ShardContext { engine, epoch, .. } = context;
    let until = tokio::time::Instant::now() + CLOSE_MAX;
    let (reply, answer) = oneshot::channel();
    // A committer that is gone drops the message, and with it the answer.
    context.committer.send_message(CommitterMessage::Restore(reply)).ok();
    let renewed = engine.parts.state.renew(context.shard, *epoch, engine.options.lease);
    if let Ok(Err(error)) = tokio::time::timeout_at(until, renewed).await {
        // That it went back it says here, too, and the lease is longer all the same.
        tracing::debug!(shard, %error, "the lease was renewed for the last time");
    }
    let restored = tokio::time::timeout_at(until, answer).await;
    if let Ok(Ok(Ok(_))) = restored {
        // The next owner need not wait; where it has to, the lease runs out.
        let released = engine.parts.state.release(context.shard, *epoch);
        if !matches!(tokio::time::timeout_at(until, released).await, Ok(Ok(()))) {
            tracing::warn!(shard, "the lease runs out by itself");
        }
    }
    match restored {
        Ok(Ok(Ok(0))) => tracing::warn!(shard, %why, "the log was whole"),
        Ok(Ok(Ok(appended))) => tracing::error!(
            shard,
            %why,
            appended,
            "the store went back; every record of its log was still known and is there again: nothing acknowledged is lost"
        ),
        Ok(Ok(Err(NotRestored::Fenced))) => tracing::warn!(shard, %why, "the shard is free, or another owner's"),
        Ok(Ok(Err(NotRestored::Lost(lost)))) => {
            tracing::error!(shard, %why, lost, "the store went back; acknowledged writes are lost");
        }
        Ok(Err(_)) | Err(_) => {
            tracing::error!(shard, %why, "whether the store lacks something nobody could see in time");
        }
    }
}

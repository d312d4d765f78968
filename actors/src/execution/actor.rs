//! The execution's shell: saves, then acts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use troupe_core::execution::{AttemptClosed, AttemptOutcome, Entry, ExecutionState, Started, Status, Verb};
use troupe_core::plan::Plan;
use troupe_core::{ErrorInfo, ExecutionId, Principal, Seq, Token};
use troupe_ports::Task;
use troupe_telemetry::{AttemptEnd, ExecutionEnd, StartCause};

use super::load::{Loaded, load};
use super::machine::{Action, CommandInput, Dispatch, ExecutionMachine, Input, MachineOptions, Reply};
use crate::attempt::{AttemptArguments, AttemptHandle, NodeAttemptActor};
use crate::committer::machine::Append;
use crate::committer::{CommitterMessage, Notify};
use crate::context::ShardContext;
use crate::error::EngineError;
use crate::evaluation::{CompiledPlan, Job, PartAnswer};
use crate::request::{CommandOutcome, StartOutcome};
use crate::shard::{ShardMessage, spawn_execution};
use crate::timers::TimersMessage;

const LOAD_RETRY_FIRST: Duration = Duration::from_millis(50);
const LOAD_RETRY_MAX: Duration = Duration::from_secs(1);
/// Expressions of one execution that the sandbox has at a time: more would take the queue away from the others.
const EVALUATIONS_AT_ONCE: usize = 16;
/// Bytes that the sandbox's answers to one round of questions may have together.
const EVALUATED_BYTES_MAX: usize = 64 << 20;

/// A durable state with its plan.
pub(super) type Viewed = (Box<ExecutionState>, Arc<Plan>);

/// Where an answer goes.
#[derive(Debug)]
pub enum Respond {
    /// To whoever started; what the start counts as.
    Start(oneshot::Sender<Result<StartOutcome, EngineError>>, StartCause),
    /// To whoever commanded.
    Command(oneshot::Sender<Result<CommandOutcome, EngineError>>),
    /// To whoever reads.
    View(oneshot::Sender<Result<Viewed, EngineError>>),
    /// To nobody.
    Nobody,
}

impl Respond {
    /// Refuses. Whoever asked may be gone; nothing depends on the answer.
    pub fn refuse(self, error: EngineError) {
        match self {
            Self::Start(reply, _) => drop(reply.send(Err(error))),
            Self::Command(reply) => drop(reply.send(Err(error))),
            Self::View(reply) => drop(reply.send(Err(error))),
            Self::Nobody => {}
        }
    }
}

/// What an execution's actor hears. The first group is routed and counted; the second comes from beside it.
#[derive(Debug)]
pub enum ExecutionMessage {
    /// Begin to exist, unless it exists (`fresh`: it cannot).
    Start(Box<StartInput>, Respond),
    /// End this execution and begin another one, in one record.
    Supersede(Box<StartInput>, Respond),
    /// Go on with a machine that has stepped already.
    Adopt(Box<ExecutionMachine<Respond>>, Vec<Action<Respond>>),
    /// A command.
    Command(Box<CommandInput>, Respond),
    /// A read.
    Read(Respond),
    /// A deadline may be due.
    Wake,
    /// Recovery resumes it; the permit bounds how many load at once.
    Recover(OwnedSemaphorePermit),

    /// Everything up to this seq is durable.
    Durable(Seq),
    /// An attempt ended.
    Report(Box<AttemptClosed>),
    /// An attempt's actor ended without a report; queues behind one that was under way.
    NodeGone(Token, String),
}

impl ExecutionMessage {
    fn is_routed(&self) -> bool {
        match self {
            Self::Start(..)
            | Self::Supersede(..)
            | Self::Adopt(..)
            | Self::Command(..)
            | Self::Read(_)
            | Self::Wake
            | Self::Recover(_) => true,
            Self::Durable(_) | Self::Report(_) | Self::NodeGone(..) => false,
        }
    }

    /// Refuses what expects an answer.
    pub fn refuse(self, error: EngineError) {
        match self {
            Self::Start(_, reply) | Self::Supersede(_, reply) | Self::Command(_, reply) | Self::Read(reply) => {
                reply.refuse(error);
            }
            Self::Adopt(..)
            | Self::Wake
            | Self::Recover(_)
            | Self::Durable(_)
            | Self::Report(_)
            | Self::NodeGone(..) => {}
        }
    }
}

/// A start, ready to step.
#[derive(Debug)]
pub struct StartInput {
    /// The first event.
    pub started: Started,
    /// Who.
    pub principal: Option<Principal>,
    /// The version it runs.
    pub compiled: Arc<CompiledPlan>,
    /// Whether the id is new, so that the store need not be asked.
    pub fresh: bool,
}

/// What an execution's actor is made of.
#[derive(Debug)]
pub struct ExecutionArguments {
    /// The execution.
    pub id: ExecutionId,
    /// Its shard.
    pub shard: Arc<ShardContext>,
    /// Counts the routed messages that it has received.
    pub received: Arc<AtomicU64>,
}

/// Runs one execution.
#[derive(Debug)]
pub struct ExecutionActor;

/// What an execution's actor keeps.
#[derive(Debug)]
pub struct ExecutionShell {
    id: ExecutionId,
    shard: Arc<ShardContext>,
    machine: Option<Box<ExecutionMachine<Respond>>>,
    attempts: Vec<AttemptHandle>,
    actions: Vec<Action<Respond>>,
    received: Arc<AtomicU64>,
    stale_reports: u64,
    /// The latest report, where a test wants every report delivered again.
    redelivered: Option<Box<AttemptClosed>>,
}

impl Actor for ExecutionActor {
    type Msg = ExecutionMessage;
    type State = ExecutionShell;
    type Arguments = ExecutionArguments;

    async fn pre_start(
        &self,
        _: ActorRef<ExecutionMessage>,
        ExecutionArguments { id, shard, received }: ExecutionArguments,
    ) -> Result<ExecutionShell, ActorProcessingErr> {
        let (attempts, actions) = (Vec::new(), Vec::new());
        Ok(ExecutionShell {
            id,
            shard,
            machine: None,
            attempts,
            actions,
            received,
            stale_reports: 0,
            redelivered: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ExecutionMessage>,
        message: ExecutionMessage,
        shell: &mut ExecutionShell,
    ) -> Result<(), ActorProcessingErr> {
        if message.is_routed() {
            shell.received.fetch_add(1, Ordering::Relaxed);
        }
        shell.receive(&myself, message).await;
        shell.retire_if_idle(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ExecutionMessage>,
        event: SupervisionEvent,
        shell: &mut ExecutionShell,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, why) = match event {
            SupervisionEvent::ActorTerminated(cell, _, why) => (cell.get_id(), why.unwrap_or_default()),
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
            #[allow(unreachable_patterns, reason = "variants depend on ractor's features")]
            _ => return Ok(()),
        };
        // This event has overtaken the result, if there is one: only a message can wait its turn behind that.
        let lost = shell
            .attempts
            .iter()
            .find(|attempt| attempt.actor == actor && !attempt.shared.gate.has_reported());
        if let Some(attempt) = lost {
            myself.send_message(ExecutionMessage::NodeGone(attempt.token, why))?;
        }
        Ok(())
    }
}

impl ExecutionShell {
    async fn receive(&mut self, myself: &ActorRef<ExecutionMessage>, message: ExecutionMessage) {
        let input = match message {
            ExecutionMessage::Start(start, reply) => {
                let StartInput {
                    started,
                    principal,
                    compiled,
                    fresh,
                } = *start;
                if self.machine.is_none() {
                    if fresh {
                        let options = self.machine_options();
                        self.machine = Some(Box::new(ExecutionMachine::new(compiled, self.id, options)));
                    } else if let Some(reply) = self.load_for(myself, reply, Some(compiled)).await {
                        return self
                            .give(myself, Input::Start(Box::new(started), principal, reply))
                            .await;
                    } else {
                        return;
                    }
                }
                Input::Start(Box::new(started), principal, reply)
            }
            ExecutionMessage::Supersede(start, reply) => {
                if let Some(reply) = self.load_for(myself, reply, None).await {
                    self.supersede(myself, *start, reply).await;
                }
                return;
            }
            ExecutionMessage::Adopt(machine, actions) => {
                self.machine = Some(machine);
                self.actions = actions;
                return self.perform(myself).await;
            }
            ExecutionMessage::Command(command, reply) => {
                let Some(reply) = self.load_for(myself, reply, None).await else {
                    return;
                };
                Input::Command(command, reply)
            }
            ExecutionMessage::Read(reply) => {
                let Some(reply) = self.load_for(myself, reply, None).await else {
                    return;
                };
                Input::Read(reply)
            }
            ExecutionMessage::Wake => {
                self.load_patiently(myself).await;
                Input::Wake
            }
            ExecutionMessage::Recover(permit) => {
                self.load_patiently(myself).await;
                drop(permit);
                return;
            }
            ExecutionMessage::Durable(seq) => Input::Durable(seq),
            ExecutionMessage::Report(report) => return self.report(myself, report).await,
            ExecutionMessage::NodeGone(token, why) => {
                let Some(place) = self.attempts.iter().position(|attempt| attempt.token == token) else {
                    return;
                };
                let attempt = self.attempts.swap_remove(place);
                let error = ErrorInfo::new("PANIC", format!("the attempt's actor is gone: {why}"));
                self.count_attempt(token, AttemptEnd::Failed);
                Input::NodeGone(token, attempt.spawned_at, Box::new(error))
            }
        };
        self.give(myself, input).await;
    }

    async fn report(&mut self, myself: &ActorRef<ExecutionMessage>, report: Box<AttemptClosed>) {
        self.attempts.retain(|attempt| attempt.token != report.token);
        self.count_attempt(report.token, end_of(&report.outcome));
        if self.shard.engine.options.mutants.redeliver_reports {
            // The one before comes again, when its node may already be at its next attempt.
            if let Some(before) = self.redelivered.replace(report.clone()) {
                self.give(myself, Input::Report(before)).await;
            }
        }
        self.give(myself, Input::Report(report)).await;
    }

    fn machine_options(&self) -> MachineOptions {
        let options = &self.shard.engine.options;
        MachineOptions {
            passivate_after_ms: options.passivate_after_ms,
            retention_ms: options.retention_ms,
            evaluation_rounds_max: options.evaluation_rounds_max,
            mutants: options.mutants,
        }
    }

    /// Gives an input to the machine and performs what follows.
    async fn give(&mut self, myself: &ActorRef<ExecutionMessage>, input: Input<Respond>) {
        let Some(machine) = &mut self.machine else { return };
        machine.handle(input, self.shard.engine.now(), &mut self.actions);
        self.perform(myself).await;
    }

    async fn perform(&mut self, myself: &ActorRef<ExecutionMessage>) {
        while !self.actions.is_empty() {
            let mut appends = SmallVec::new();
            let mut jobs = None;
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Commit(draft) => {
                        let Some(machine) = &self.machine else { continue };
                        self.count_retries(&draft.entry);
                        let notify = Notify {
                            actor: myself.clone(),
                            compiled: Arc::clone(machine.compiled()),
                        };
                        appends.push(Append {
                            id: self.id,
                            draft,
                            notify,
                        });
                    }
                    Action::Evaluate(asked) => jobs = Some(asked),
                    Action::Start(dispatch) => self.start_attempt(myself, dispatch).await,
                    Action::Abort(token) => {
                        self.attempts
                            .iter()
                            .filter(|attempt| attempt.token == token)
                            .for_each(AttemptHandle::abort);
                    }
                    Action::HoldQueued => {
                        for attempt in &self.attempts {
                            attempt.shared.gate.hold();
                        }
                    }
                    Action::ReleaseQueued => self.attempts.iter().for_each(AttemptHandle::release),
                    Action::Reply(reply, answer) => self.reply(reply, answer),
                    Action::Deadline(at) => self.tell_timers(TimersMessage::Set(self.id, at)),
                    Action::Finished(ended) => {
                        let engine = &self.shard.engine;
                        engine.counters.ended.fetch_add(1, Ordering::Relaxed);
                        engine.watches.ended(ended);
                        self.count_end();
                    }
                }
            }
            self.append(appends);
            let Some(jobs) = jobs else { continue };
            let answers = self.evaluate(jobs).await;
            let Some(machine) = &mut self.machine else { return };
            machine.handle(Input::Evaluated(answers), self.shard.engine.now(), &mut self.actions);
        }
    }

    fn append(&self, appends: SmallVec<[Append<Notify>; 1]>) {
        if appends.is_empty() {
            return;
        }
        self.shard.gauges.committer.sent();
        if self
            .shard
            .committer
            .send_message(CommitterMessage::Append(appends))
            .is_err()
        {
            // The shard is lost; this actor is about to be dropped with it, and so are the replies.
            tracing::debug!(id = %self.id, "an entry came after its shard was lost");
        }
    }

    async fn evaluate(&self, jobs: Vec<Job>) -> Vec<PartAnswer> {
        let sandbox = &self.shard.engine.parts.sandbox;
        // What many expressions give is held until all have answered.
        let bytes_left = &AtomicUsize::new(EVALUATED_BYTES_MAX);
        let answers = jobs.into_iter().map(|Job { part, job }| async move {
            let mut answer = sandbox.evaluate(job).await;
            if let Ok(json) = &answer {
                let take = |left: usize| left.checked_sub(json.bytes());
                if bytes_left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_err()
                {
                    let message = format!("the expressions give more than {EVALUATED_BYTES_MAX} bytes together");
                    answer = Err(ErrorInfo::new("EXPRESSION_ERROR", message));
                }
            }
            PartAnswer { part, answer }
        });
        futures::stream::iter(answers)
            .buffered(EVALUATIONS_AT_ONCE)
            .collect()
            .await
    }

    async fn start_attempt(&mut self, myself: &ActorRef<ExecutionMessage>, dispatch: Dispatch) {
        let Some(machine) = &self.machine else { return };
        let engine = &self.shard.engine;
        let spawned_at = engine.now();
        let scope = machine
            .compiled()
            .scope_of_attempt(dispatch.start.token.node, machine.state(), spawned_at);
        let task = Task {
            execution: self.id,
            token: dispatch.start.token,
            plan: Arc::clone(&machine.compiled().plan),
            data: dispatch.start.data,
            input: dispatch.start.input,
            variables: dispatch.variables,
            scope,
            deadline: spawned_at,
        };
        let token = task.token;
        let shared = Arc::default();
        let arguments = AttemptArguments {
            shard: Arc::clone(&self.shard),
            execution: myself.clone(),
            task,
            shared: Arc::clone(&shared),
        };
        match NodeAttemptActor::spawn_linked(None, NodeAttemptActor, arguments, myself.get_cell()).await {
            Ok((actor, _)) => {
                engine.counters.node_actors.fetch_add(1, Ordering::Relaxed);
                self.attempts.push(AttemptHandle {
                    token,
                    actor: actor.get_id(),
                    spawned_at,
                    shared,
                });
            }
            // Only when this actor is being dropped with its shard.
            Err(error) => tracing::debug!(id = %self.id, %error, "an attempt was not started"),
        }
    }

    fn reply(&self, reply: Respond, answer: Reply) {
        // Whoever asked may be gone; nothing depends on the answer.
        match (reply, answer) {
            (reply, Reply::Refused(error)) => reply.refuse(error),
            (Respond::Start(reply, cause), Reply::Started(outcome)) => {
                if !outcome.existing
                    && let Some(machine) = &self.machine
                {
                    machine.compiled().metrics(&self.shard.engine.metrics).started(cause);
                }
                drop(reply.send(Ok(outcome)));
            }
            (Respond::Command(reply), Reply::Commanded(mut outcome)) => {
                let running = self
                    .attempts
                    .iter()
                    .filter(|attempt| attempt.shared.gate.runs())
                    .count();
                outcome.draining = u32::try_from(running).unwrap_or(u32::MAX);
                drop(reply.send(Ok(outcome)));
            }
            (Respond::View(reply), Reply::View(state)) => {
                if let Some(machine) = &self.machine {
                    drop(reply.send(Ok((state, Arc::clone(&machine.compiled().plan)))));
                }
            }
            (Respond::Nobody, _) => {}
            (reply, _) => reply.refuse(EngineError::Damaged("an answer of the wrong kind".into())),
        }
    }

    fn count_end(&self) {
        let Some(machine) = &self.machine else { return };
        let state = machine.state();
        let metrics = &self.shard.engine.metrics;
        let end = match &state.status {
            Status::Completed { .. } => ExecutionEnd::Completed,
            Status::Failed => ExecutionEnd::Failed,
            Status::Canceled { .. } => ExecutionEnd::Canceled,
            Status::Pending | Status::Running | Status::Failing | Status::Canceling { .. } => return,
        };
        machine.compiled().metrics(metrics).finished(end);
        metrics.execution_ended(state.ended_at.unwrap_or(state.started_at).since_ms(state.started_at));
    }

    fn count_attempt(&self, token: Token, end: AttemptEnd) {
        let Some(machine) = &self.machine else { return };
        let compiled = machine.compiled();
        if let Some(node) = compiled.plan.nodes.get(token.node.at()) {
            compiled
                .metrics(&self.shard.engine.metrics)
                .attempt(node.kind.as_str(), end);
        }
    }

    fn count_retries(&self, entry: &Entry) {
        let retrying = |verb| verb == Some(Verb::NodeRetrying);
        for _ in entry.transitions.iter().filter(|change| retrying(change.verb())) {
            self.shard.engine.metrics.retried();
        }
    }

    fn tell_timers(&self, message: TimersMessage) {
        if self.shard.timers.send_message(message).is_err() {
            tracing::debug!(id = %self.id, "a timer came after its shard was lost");
        }
    }

    /// Loads for someone who waits for an answer: gives the reply back once there is a machine, else has answered.
    async fn load_for(
        &mut self,
        myself: &ActorRef<ExecutionMessage>,
        reply: Respond,
        or_new: Option<Arc<CompiledPlan>>,
    ) -> Option<Respond> {
        if self.machine.is_some() {
            return Some(reply);
        }
        match load(&self.shard, self.id).await {
            Ok(loaded) => self.loaded(myself, loaded, reply, or_new).await,
            Err(error @ EngineError::Damaged(_)) => {
                self.quarantine(&error);
                reply.refuse(EngineError::Quarantined {
                    id: self.id,
                    reason: error.to_string(),
                });
                None
            }
            Err(error) => {
                reply.refuse(error);
                None
            }
        }
    }

    async fn loaded(
        &mut self,
        myself: &ActorRef<ExecutionMessage>,
        loaded: Loaded,
        reply: Respond,
        or_new: Option<Arc<CompiledPlan>>,
    ) -> Option<Respond> {
        let options = self.machine_options();
        match (loaded, reply) {
            (Loaded::Found(found), reply) => {
                let found = *found;
                let machine =
                    ExecutionMachine::at(found.compiled, found.state, found.last_at, found.segment_bytes, options);
                self.machine = Some(Box::new(machine));
                // Attempts that this engine itself has lost are not those that the last owner gave up.
                let drained = self.shard.released && !self.shard.failed.contains(&self.id);
                self.give(myself, Input::TakeOver { drained }).await;
                Some(reply)
            }
            (Loaded::Tombstone(last), Respond::Start(reply, _)) => {
                // Whoever asked may be gone; nothing depends on the answer.
                reply
                    .send(Ok(StartOutcome {
                        id: self.id,
                        seq: last,
                        existing: true,
                    }))
                    .ok();
                None
            }
            (Loaded::Missing, reply) => match or_new {
                Some(compiled) => {
                    self.machine = Some(Box::new(ExecutionMachine::new(compiled, self.id, options)));
                    Some(reply)
                }
                None => {
                    reply.refuse(EngineError::NotFound(self.id));
                    None
                }
            },
            (Loaded::Tombstone(_), reply) => {
                reply.refuse(EngineError::NotFound(self.id));
                None
            }
        }
    }

    /// Loads until the store answers: nobody else would wake this execution again.
    async fn load_patiently(&mut self, myself: &ActorRef<ExecutionMessage>) {
        let mut pause = LOAD_RETRY_FIRST;
        while self.machine.is_none() {
            match load(&self.shard, self.id).await {
                Ok(loaded) => {
                    self.loaded(myself, loaded, Respond::Nobody, None).await;
                    return;
                }
                Err(error @ (EngineError::Unavailable(_) | EngineError::Fenced)) => {
                    tracing::warn!(id = %self.id, %error, "an execution waits for the store");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LOAD_RETRY_MAX);
                }
                Err(error) => return self.quarantine(&error),
            }
        }
    }

    fn quarantine(&self, error: &EngineError) {
        let message = ShardMessage::Quarantine(self.id, error.to_string());
        if self.shard.supervisor.send_message(message).is_err() {
            tracing::debug!(id = %self.id, "a quarantine came after its shard was lost");
        }
    }

    /// Ends this execution and begins another one of its key, in one record.
    async fn supersede(&mut self, myself: &ActorRef<ExecutionMessage>, start: StartInput, reply: Respond) {
        let Some(ours) = &mut self.machine else { return };
        if ours.state().status.is_terminal() {
            return reply.refuse(EngineError::Ended(self.id));
        }
        let options = self.machine_options();
        let StartInput {
            started,
            principal,
            compiled,
            ..
        } = start;
        let (id, now) = (started.id, self.shard.engine.now());
        let mut machine = Box::new(ExecutionMachine::new(compiled, id, options));
        let mut actions = Vec::new();
        let mut input = Input::Start(Box::new(started), principal.clone(), reply);
        loop {
            machine.handle(input, now, &mut actions);
            let Some(place) = actions.iter().position(|action| matches!(action, Action::Evaluate(_))) else {
                break;
            };
            let Action::Evaluate(jobs) = actions.remove(place) else {
                break;
            };
            input = Input::Evaluated(self.evaluate(jobs).await);
        }
        let Some(place) = actions.iter().position(|action| matches!(action, Action::Commit(_))) else {
            // Refused: the reply is among the actions, and nothing happened to anybody.
            actions.into_iter().for_each(|action| {
                if let Action::Reply(reply, answer) = action {
                    self.reply(reply, answer);
                }
            });
            return;
        };
        let first = actions.remove(place);
        let compiled = Arc::clone(machine.compiled());
        let adopt = ExecutionMessage::Adopt(machine, actions);
        let Ok(actor) = spawn_execution(&self.shard, id, adopt).await else {
            // Somebody else has just started it: the caller looks again. The reply went with the message.
            return;
        };
        let event = troupe_core::execution::Event::CancelRequested {
            reason: Some("superseded by the next execution of its key".into()),
            grace_ms: 0,
            at_once: true,
        };
        let command = CommandInput {
            event,
            principal,
            command: None,
        };
        let Some(ours) = &mut self.machine else { return };
        ours.handle(
            Input::Command(Box::new(command), Respond::Nobody),
            now,
            &mut self.actions,
        );
        let mut appends: SmallVec<[Append<Notify>; 1]> = SmallVec::new();
        let our_compiled = Arc::clone(ours.compiled());
        let (commits, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.actions)
            .into_iter()
            .partition(|action| matches!(action, Action::Commit(_)));
        for action in commits {
            if let Action::Commit(draft) = action {
                let notify = Notify {
                    actor: myself.clone(),
                    compiled: Arc::clone(&our_compiled),
                };
                appends.push(Append {
                    id: self.id,
                    draft,
                    notify,
                });
            }
        }
        if let Action::Commit(draft) = first {
            appends.push(Append {
                id,
                draft,
                notify: Notify { actor, compiled },
            });
        }
        self.append(appends);
        self.actions = rest;
        self.perform(myself).await;
    }

    fn retire_if_idle(&mut self, myself: &ActorRef<ExecutionMessage>) {
        let now = self.shard.engine.now();
        let mut parked = None;
        if let Some(machine) = &self.machine {
            let stale_reports = machine.stale_reports();
            if stale_reports != self.stale_reports {
                let news = stale_reports - self.stale_reports;
                self.shard
                    .engine
                    .counters
                    .stale_reports
                    .fetch_add(news, Ordering::Relaxed);
                self.stale_reports = stale_reports;
            }
            if !machine.may_retire(now) {
                return;
            }
            if let crate::record::Mark::Until(at) = machine.mark() {
                parked = Some(at);
            }
        }
        // The timers hear it before another actor of this execution can tell them anything newer.
        if let Some(at) = parked {
            self.tell_timers(TimersMessage::Park(self.id, at));
        }
        let received = self.received.load(Ordering::Relaxed);
        if self.shard.engine.directory.retire(self.id, received) {
            myself.stop(None);
        } else if let Some(at) = parked {
            self.tell_timers(TimersMessage::Set(self.id, Some(at)));
        }
    }
}

/// How an attempt ended, as it is counted. The codes are those of the attempt's own actor.
fn end_of(outcome: &AttemptOutcome) -> AttemptEnd {
    match outcome {
        AttemptOutcome::Completed(_) => AttemptEnd::Completed,
        AttemptOutcome::Failed(failure) => match failure.error.code.as_str() {
            "TIMEOUT" => AttemptEnd::TimedOut,
            "CANCELED" => AttemptEnd::Canceled,
            _ => AttemptEnd::Failed,
        },
    }
}

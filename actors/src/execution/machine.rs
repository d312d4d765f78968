//! What an execution's actor decides: step, save, act. No I/O, no clock.
//!
//! The machine may step ahead of its commits. Effects, replies and reads taken at entry n wait here until n is durable.
//! While an [`Action::Evaluate`] is unanswered it must be given nothing but [`Input::Evaluated`].

mod command;
mod draft;
mod release;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use troupe_core::execution::{
    Answer, AttemptClosed, ChildCommand, ChildId, ChildReport, Effect, Entry, Event, ExecutionState, Phase, Reopening,
    Started, Status, StepError, next_deadline, resume, step,
};
use troupe_core::{CommandId, ErrorInfo, ExecutionId, Principal, Seq, Timestamp, Token, Value};

pub use super::protocol::{
    Action, CommandInput, Dispatch, Draft, EndMark, Input, MachineOptions, NodeCommand, Reopen, Reply, Wanted,
};
use crate::error::EngineError;
use crate::evaluation::{Answers, CompiledPlan, JobAnswer, LiveEvaluator};
use crate::record::Mark;
use crate::request::{CommandOutcome, StartOutcome};
pub use draft::encode_state;
use release::Release;
pub use release::outcome_of;

/// Reports of children that are recorded without waiting for the commit under way.
const REPORTS_MAX: usize = 1_000;

#[derive(Debug)]
struct Stepping<R> {
    event: Event,
    at: Timestamp,
    principal: Option<Principal>,
    command: Option<CommandId>,
    reply: Option<R>,
    /// What a retry runs again, for its answer.
    reopening: Option<Box<Reopening>>,
    answers: Answers,
    rounds: u32,
}

/// The machine of one execution.
#[derive(Debug)]
pub struct ExecutionMachine<R> {
    compiled: Arc<CompiledPlan>,
    state: ExecutionState,
    options: MachineOptions,
    durable: Seq,
    last_at: Timestamp,
    waiting: VecDeque<(Seq, Release<R>)>,
    held: Vec<Dispatch>,
    stepping: Option<Box<Stepping<R>>>,
    variables: Arc<BTreeMap<String, Value>>,
    deadline: Option<Timestamp>,
    segment_bytes: usize,
    snapshot_bytes: usize,
    stale_reports: u64,
    /// Reports of children that wait for the commit under way.
    reported: Vec<ChildReport>,
    /// After the last deadline another one was due at once: a loop goes round. It goes on when what it did is durable, so
    /// that it neither runs ahead of the log nor keeps the mailbox from being read.
    turning: bool,
    /// When it would go on if no wider scope held it, as the shell was told.
    held_back: Option<Timestamp>,
}

impl<R> ExecutionMachine<R> {
    /// A machine for an execution that does not exist yet.
    #[must_use]
    pub fn new(compiled: Arc<CompiledPlan>, id: ExecutionId, options: MachineOptions) -> Self {
        let state = ExecutionState::new(&compiled.plan, id);
        Self::at(compiled, state, Timestamp(i64::MIN), 0, options)
    }

    /// A machine that continues from a durable state. `segment_bytes` were written since the last snapshot.
    #[must_use]
    pub fn at(
        compiled: Arc<CompiledPlan>,
        state: ExecutionState,
        last_at: Timestamp,
        segment_bytes: usize,
        options: MachineOptions,
    ) -> Self {
        let snapshot_bytes = state.nodes.len() * 24;
        let state = if options.mutants.non_atomic_join_counter {
            one_arrival_short(state)
        } else {
            state
        };
        Self {
            durable: state.seq,
            variables: Arc::new(state.variables.clone()),
            compiled,
            state,
            options,
            last_at,
            waiting: VecDeque::new(),
            held: Vec::new(),
            stepping: None,
            deadline: None,
            segment_bytes,
            snapshot_bytes,
            stale_reports: 0,
            reported: Vec::new(),
            turning: false,
            held_back: None,
        }
    }

    /// The state, possibly ahead of what is durable.
    #[must_use]
    pub fn state(&self) -> &ExecutionState {
        &self.state
    }

    /// Where its large values are kept, also while its start waits for some.
    #[must_use]
    pub fn blob_root(&self) -> Option<ExecutionId> {
        match self.stepping.as_deref().map(|stepping| &stepping.event) {
            Some(Event::Started(started) | Event::Queued(started)) => started.blob_root(),
            _ => self.state.blob_root(),
        }
    }

    /// Trace context of its start.
    #[must_use]
    pub fn trace_parent(&self) -> Option<Arc<str>> {
        self.state.trace_parent.as_deref().map(Arc::from)
    }

    /// The plan it runs.
    #[must_use]
    pub fn compiled(&self) -> &Arc<CompiledPlan> {
        &self.compiled
    }

    /// Reports that came too late, so far.
    #[must_use]
    pub fn stale_reports(&self) -> u64 {
        self.stale_reports
    }

    /// Whether the actor has nothing left to do until something wakes it: everything is durable, nothing runs.
    #[must_use]
    pub fn may_retire(&self, now: Timestamp) -> bool {
        if self.durable != self.state.seq || !self.waiting.is_empty() || self.stepping.is_some() {
            return false;
        }
        if self.state.status.is_terminal() || self.state.seq == Seq(0) {
            return true;
        }
        let soon = now.plus_ms(self.options.passivate_after_ms);
        self.state.running.is_empty()
            && !self.has_relatives_to_hear_of()
            && !self.has_room()
            && self.reported.is_empty()
            && self.held.is_empty()
            && next_deadline(&self.state).is_none_or(|at| at > soon)
    }

    /// How the execution stands.
    #[must_use]
    pub fn mark(&self) -> Mark {
        if self.state.status.is_terminal() {
            Mark::Ended
        } else if !self.state.running.is_empty()
            || self.has_relatives_to_hear_of()
            || self.state.room.is_some()
            || self.state.held_back().is_some()
        {
            // What a wider scope holds back is unfinished: whoever lifts that, or recovers the shard, must find it.
            Mark::Running
        } else {
            next_deadline(&self.state).map_or(Mark::Message, Mark::Until)
        }
    }

    /// Whether it runs where only so many may: it keeps its actor, so that whoever takes over hears of it.
    fn has_room(&self) -> bool {
        self.state.has_room()
    }

    /// Whether what happens next comes from another execution: a child, or the error workflow that is being started.
    fn has_relatives_to_hear_of(&self) -> bool {
        self.state.has_open_children() || self.state.status == Status::Reporting
    }

    /// Decides what follows from `input` at `now`.
    pub fn handle(&mut self, input: Input<R>, now: Timestamp, out: &mut Vec<Action<R>>) {
        // What could not begin with an entry comes back although a deadline, due at once, already asks for answers.
        let is_answer = matches!(
            input,
            Input::Evaluated(_) | Input::Unborn(_) | Input::UnbornErrorWorkflow(_)
        );
        debug_assert!(self.stepping.is_none() || is_answer, "it waits for answers");
        let at = now.max(self.last_at);
        match input {
            Input::Start(started, principal, reply) => self.start(started, principal, reply, at, out),
            Input::Report(report) => self.report(*report, at, out),
            Input::NodeGone(token, started_at, error) => self.node_gone(token, started_at, *error, at, out),
            Input::Command(command, reply) => self.command(*command, reply, at, out),
            // Whatever is due is fired when this call settles.
            Input::Wake => (self.deadline, self.held_back) = (None, None),
            Input::TakeOver { drained } => {
                if let Some(event) = resume(&self.state) {
                    let event = if drained { Event::Drained } else { event };
                    self.begin(event, at, None, None, None, out);
                }
                self.resume_family(out);
            }
            Input::Admitted if self.state.status == Status::Pending && self.state.seq > Seq(0) => {
                self.begin(Event::Admitted, at, None, None, None, out);
            }
            Input::Admitted => {}
            Input::Controls(seen) => self.begin(Event::ControlsChanged(seen), at, None, None, None, out),
            Input::Durable(seq) => self.release(seq, out),
            Input::Read(reply) => self.read(reply, out),
            Input::ChildReported(report) => self.reported.push(report),
            Input::ChildAlive(child) => self.child_alive(child, out),
            Input::AskParent(lost) => self.ask_parent(lost, out),
            Input::Unborn(starts) => {
                let seq = self.state.seq;
                let effects = starts
                    .into_iter()
                    .map(|start| Release::Effect(Effect::StartChild(start), None));
                self.waiting.extend(effects.map(|effect| (seq, effect)));
            }
            Input::ErrorWorkflow(outcome) => self.begin(Event::ErrorWorkflow(outcome), at, None, None, None, out),
            Input::UnbornErrorWorkflow(start) => {
                let release = Release::Effect(Effect::StartErrorWorkflow(start), None);
                self.waiting.push_back((self.state.seq, release));
            }
            Input::Evaluated(answers) => self.evaluated(answers, out),
        }
        self.settle(now, out);
    }

    /// After a takeover: open children and the error workflow are started again, and the parent is asked whether it still waits.
    fn resume_family(&self, out: &mut Vec<Action<R>>) {
        if self.state.status.is_terminal() || self.options.mutants.children_not_resumed {
            return;
        }
        if self.state.room.is_some() {
            let pending = self.state.status == Status::Pending;
            out.push(if pending { Action::AskForRoom } else { Action::HasRoom });
        }
        for child in self.state.open_children() {
            let start = self.state.start_of_child(&self.compiled.plan, child.node, child.index);
            out.push(Action::StartChild(start));
        }
        if let Some(start) = self.state.error_workflow_to_start(&self.compiled.plan) {
            out.push(Action::StartErrorWorkflow(start));
        }
        if let Some(parent) = self.state.parent.filter(|parent| parent.attached) {
            out.push(Action::AskParent(parent));
        }
    }

    /// Asks the execution whose actor was lost, if this one is an open child of it.
    fn ask_parent(&self, lost: ExecutionId, out: &mut Vec<Action<R>>) {
        let parent = self
            .state
            .parent
            .filter(|parent| parent.attached && parent.execution == lost);
        if let Some(parent) = parent.filter(|_| !self.state.status.is_terminal()) {
            out.push(Action::AskParent(parent));
        }
    }

    /// A child that nobody waits for is canceled; one that is awaited is paused if its parent is, and else goes on.
    fn child_alive(&self, child: ChildId, out: &mut Vec<Action<R>>) {
        if !self.state.awaits(child) {
            out.push(Action::TellChild(child, ChildCommand::Cancel));
        } else if self.state.paused {
            out.push(Action::TellChild(child, self.state.command_of_pause()));
        } else {
            out.push(Action::TellChild(child, ChildCommand::Resume));
        }
    }

    fn start(
        &mut self,
        started: Box<Started>,
        principal: Option<Principal>,
        reply: R,
        at: Timestamp,
        out: &mut Vec<Action<R>>,
    ) {
        if self.state.seq > Seq(0) {
            let outcome = StartOutcome {
                id: self.state.id,
                seq: self.state.seq,
                existing: true,
                pending: false,
            };
            return self.reply(reply, Reply::Started(outcome), out);
        }
        // A rerun is an operator's word: it does not wait.
        let event = if self.compiled.plan.settings.concurrency.is_some() && started.rerun.is_none() {
            Event::Queued(started)
        } else {
            Event::Started(started)
        };
        self.begin(event, at, principal, None, Some(reply), out);
    }

    fn report(&mut self, mut report: AttemptClosed, at: Timestamp, out: &mut Vec<Action<R>>) {
        if self.options.mutants.no_completion_dedupe {
            self.forge_token(&mut report);
        }
        self.begin(Event::AttemptClosed(Box::new(report)), at, None, None, None, out);
    }

    /// The planted fault "no completion dedupe": whatever reports on a node counts as its current attempt.
    fn forge_token(&self, report: &mut AttemptClosed) {
        let Some(node) = self.state.node(report.token.node) else {
            return;
        };
        if let Phase::Running { token } = node.phase {
            report.token = token;
        }
    }

    fn node_gone(
        &mut self,
        token: Token,
        started_at: Timestamp,
        error: ErrorInfo,
        at: Timestamp,
        out: &mut Vec<Action<R>>,
    ) {
        use troupe_core::execution::{AttemptFailure, AttemptOutcome};
        let failure = AttemptFailure {
            error,
            retryable: true,
            retry_after_ms: None,
        };
        let closed = AttemptClosed {
            token,
            started_at,
            outcome: AttemptOutcome::Failed(Box::new(failure)),
            logs: None,
        };
        self.begin(Event::AttemptClosed(Box::new(closed)), at, None, None, None, out);
    }

    fn begin(
        &mut self,
        event: Event,
        at: Timestamp,
        principal: Option<Principal>,
        command: Option<CommandId>,
        reply: Option<R>,
        out: &mut Vec<Action<R>>,
    ) {
        let answers = Answers::default();
        self.advance(
            Stepping {
                event,
                at,
                principal,
                command,
                reply,
                reopening: None,
                answers,
                rounds: 0,
            },
            out,
        );
    }

    fn evaluated(&mut self, answers: Vec<JobAnswer>, out: &mut Vec<Action<R>>) {
        let Some(mut stepping) = self.stepping.take() else {
            return;
        };
        stepping.answers.add(answers);
        self.advance(*stepping, out);
    }

    fn advance(&mut self, mut stepping: Stepping<R>, out: &mut Vec<Action<R>>) {
        let plan = Arc::clone(&self.compiled);
        let over = stepping.rounds >= self.options.evaluation_rounds_max;
        let mut evaluator = LiveEvaluator::new(&plan, &stepping.answers, over);
        let was_paused = self.state.paused;
        let stepped = step(
            &plan.plan,
            &mut self.state,
            stepping.at,
            &stepping.event,
            &mut evaluator,
        );
        let jobs = evaluator.into_jobs();
        match stepped {
            Ok(stepped) => {
                if let Some(command) = &stepping.command {
                    self.state.note_command(command.clone());
                }
                self.stepped(stepping, stepped, was_paused, out);
            }
            Err(StepError::Pending) => {
                stepping.rounds += 1;
                self.stepping = Some(Box::new(stepping));
                out.push(Action::Evaluate(jobs));
            }
            Err(StepError::Stale) => self.stale_reports += 1,
            // Its id is kept all the same: a copy that was held up may come when it would change something.
            Err(StepError::Unchanged) if stepping.command.is_some() && keeps_its_id(&stepping.event) => {
                stepping.event = Event::nothing();
                self.advance(stepping, out);
            }
            Err(error) => {
                if matches!(stepping.event, Event::AttemptClosed(_)) {
                    self.stale_reports += 1;
                }
                match stepping.reply {
                    Some(reply) => self.refuse(reply, error, out),
                    // Nobody would send it again, and without it the execution cannot go on.
                    None if matches!(error, StepError::Corrupt(_) | StepError::Refused(_)) => {
                        out.push(Action::SetAside(format!("an event could not be applied: {error}")));
                    }
                    None => {}
                }
            }
        }
    }

    fn refuse(&mut self, reply: R, error: StepError, out: &mut Vec<Action<R>>) {
        let refused = match error {
            StepError::Unchanged | StepError::NotDue => return self.reply_unchanged(reply, out),
            StepError::Ended => EngineError::Ended(self.state.id),
            StepError::Refused(info) => EngineError::Refused(info),
            StepError::Pending | StepError::Stale | StepError::Corrupt(_) => EngineError::Damaged(error.to_string()),
        };
        self.reply(reply, Reply::Refused(refused), out);
    }

    fn stepped(
        &mut self,
        stepping: Stepping<R>,
        stepped: troupe_core::execution::Stepped,
        was_paused: bool,
        out: &mut Vec<Action<R>>,
    ) {
        let Stepping {
            event,
            at,
            principal,
            command,
            reply,
            reopening,
            ..
        } = stepping;
        self.last_at = at;
        let seq = self.state.seq;
        let first = seq == Seq(1);
        let unchanged = event.is_nothing();
        let writes = |answer: &Answer| matches!(answer, Answer::Variables(_));
        if first || matches!(event, Event::VariablesSet(_)) || stepped.answers.iter().any(writes) {
            self.variables = Arc::new(self.state.variables.clone());
        }
        if matches!(event, Event::Reopened(_)) && self.state.room.is_some() {
            out.push(Action::HasRoom);
        }
        // What a wider scope holds waits at the door of its shard, which lets it pass whether or not the execution is woken.
        if !was_paused && self.state.paused {
            out.push(Action::HoldQueued);
        }
        let resumed = was_paused && !self.state.paused;
        let draft = self.draft(Entry {
            seq,
            at,
            event,
            answers: stepped.answers,
            transitions: stepped.transitions,
            principal,
            command,
        });
        out.push(Action::Commit(Box::new(draft)));
        // Aborts go before the answer: an attempt that has not begun by then never will, and the answer counts the others.
        let (aborts, effects): (Vec<_>, Vec<_>) = stepped
            .effects
            .into_iter()
            .partition(|effect| matches!(effect, Effect::AbortAttempt(_)));
        self.waiting
            .extend(aborts.into_iter().map(|abort| (seq, Release::Effect(abort, None))));
        if let Some(reply) = reply {
            let answer = if first {
                Reply::Started(StartOutcome {
                    id: self.state.id,
                    seq,
                    existing: false,
                    pending: self.state.status == Status::Pending,
                })
            } else {
                let outcome = CommandOutcome {
                    seq,
                    draining: self.draining(),
                    unchanged,
                };
                match reopening {
                    Some(reopening) => Reply::Reopened(outcome, reopening),
                    None => Reply::Commanded(outcome),
                }
            };
            self.reply(reply, answer, out);
        }
        if resumed {
            for dispatch in std::mem::take(&mut self.held) {
                self.waiting.push_back((
                    seq,
                    Release::Effect(Effect::StartAttempt(dispatch.start), Some(dispatch.variables)),
                ));
            }
        }
        let mut births = Vec::new();
        for effect in effects {
            let release = match effect {
                Effect::Finish => {
                    self.tell_parent(out);
                    Release::Finished
                }
                Effect::StartChild(start) => {
                    births.push(start);
                    continue;
                }
                Effect::StartErrorWorkflow(start) => {
                    out.push(Action::BearErrorWorkflow(start));
                    continue;
                }
                Effect::StartAttempt(_) => Release::Effect(effect, Some(Arc::clone(&self.variables))),
                Effect::AbortAttempt(_) | Effect::TellChild(..) | Effect::OfferOutput(_) | Effect::AskForRoom => {
                    Release::Effect(effect, None)
                }
            };
            self.waiting.push_back((seq, release));
        }
        if !births.is_empty() {
            out.push(Action::Bear(births));
        }
        if resumed {
            self.waiting.push_back((seq, Release::Queued));
        }
        if self.options.mutants.effect_before_commit {
            self.release_up_to(seq, out);
        }
    }

    /// Fires whatever else is due, and tells the timers of a changed deadline.
    fn settle(&mut self, now: Timestamp, out: &mut Vec<Action<R>>) {
        let idle = self.stepping.is_none() && (self.durable == self.state.seq || self.reported.len() >= REPORTS_MAX);
        if idle && !self.reported.is_empty() {
            let reports = std::mem::take(&mut self.reported);
            self.begin(Event::Children(reports), now.max(self.last_at), None, None, None, out);
        }
        let is_due = |state: &ExecutionState| next_deadline(state).is_some_and(|due| due <= now);
        self.turning &= is_due(&self.state);
        if self.stepping.is_none() && is_due(&self.state) && !self.waits_to_turn() {
            self.begin(Event::DeadlineReached, now.max(self.last_at), None, None, None, out);
            self.turning = is_due(&self.state);
        }
        let held_back = self.state.held_back();
        let held_back = held_back.map(|due| due.or(self.held_back).unwrap_or(now));
        if self.stepping.is_none() && held_back != self.held_back {
            self.held_back = held_back;
            out.push(Action::HeldBack(held_back));
        }
        let deadline = next_deadline(&self.state);
        if self.stepping.is_none() && !self.waits_to_turn() && deadline != self.deadline {
            self.deadline = deadline;
            out.push(Action::Deadline(deadline));
        }
    }

    fn waits_to_turn(&self) -> bool {
        self.turning && self.durable < self.state.seq
    }
}

/// Whether an entry keeps the id of a command that changes nothing. A late copy of a heartbeat does no harm, and so many come that they would drive
/// out the ids of all other commands.
fn keeps_its_id(event: &Event) -> bool {
    !event.is_nothing() && !matches!(event, Event::Heartbeat(_))
}

/// The planted fault "non-atomic join counter": every join that waits has lost the arrival it counted last.
fn one_arrival_short(mut state: ExecutionState) -> ExecutionState {
    for node in state.nodes.iter_mut().filter(|node| node.phase == Phase::Pending) {
        node.taken = node.taken.saturating_sub(1);
    }
    state
}

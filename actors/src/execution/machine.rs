//! What an execution's actor decides: step, save, act. No I/O, no clock.
//!
//! The machine may step ahead of its commits. Effects, replies and reads taken at entry n wait here until n is durable.
//! While an [`Action::Evaluate`] is unanswered it must be given nothing but [`Input::Evaluated`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use troupe_core::execution::{
    Answer, AttemptClosed, Effect, Entry, Event, ExecutionState, Phase, StartAttempt, Started, Status, StepError,
    next_deadline, resume, step,
};
use troupe_core::{CommandId, ErrorInfo, ExecutionId, Principal, Seq, Timestamp, Token, Value};
use troupe_ports::ExecutionSummary;

use super::view::{changes_summary, summary};
use crate::error::EngineError;
use crate::evaluation::{Answers, CompiledPlan, Job, LiveEvaluator, PartAnswer};
use crate::options::Mutants;
use crate::record::Mark;
use crate::request::{CommandOutcome, Ended, StartOutcome};

/// Bytes of entries below which no snapshot is worth its bytes.
const SNAPSHOT_BYTES_MIN: usize = 16 * 1024;
/// What an entry costs beyond its payloads, about.
const ENTRY_BYTES: usize = 64;

/// What an execution's machine must know of its engine.
#[derive(Clone, Copy, Debug)]
pub struct MachineOptions {
    /// See [`crate::EngineOptions::passivate_after_ms`].
    pub passivate_after_ms: u64,
    /// See [`crate::EngineOptions::retention_ms`].
    pub retention_ms: u64,
    /// See [`crate::EngineOptions::evaluation_rounds_max`].
    pub evaluation_rounds_max: u32,
    /// Faults to plant.
    pub mutants: Mutants,
}

/// What happens to the machine. `R` is whatever the shell replies through.
#[derive(Debug)]
pub enum Input<R> {
    /// The first event of a new execution.
    Start(Box<Started>, Option<Principal>, R),
    /// An attempt ended.
    Report(Box<AttemptClosed>),
    /// An attempt's actor is gone and never reported.
    NodeGone(Token, Timestamp, Box<ErrorInfo>),
    /// A command of an operator.
    Command(Box<CommandInput>, R),
    /// A deadline may be due.
    Wake,
    /// Continue after a takeover: what was outstanding is dispatched again. `drained`: the engine that ran it was stopped on
    /// purpose, so nobody counts that.
    TakeOver {
        /// See [`Input::TakeOver`].
        drained: bool,
    },
    /// Everything up to this seq is durable.
    Durable(Seq),
    /// Somebody wants to see the execution.
    Read(R),
    /// Answers to [`Action::Evaluate`], in its order.
    Evaluated(Vec<PartAnswer>),
}

/// A command with who gave it.
#[derive(Clone, Debug)]
pub struct CommandInput {
    /// Pause, resume or cancel.
    pub event: Event,
    /// Who.
    pub principal: Option<Principal>,
    /// Its id.
    pub command: Option<CommandId>,
}

/// What the shell must do, in order.
#[derive(Debug)]
pub enum Action<R> {
    /// Hand an entry to the committer.
    Commit(Box<Draft>),
    /// Evaluate these in the sandbox, then give [`Input::Evaluated`] before anything else.
    Evaluate(Vec<Job>),
    /// Start an attempt.
    Start(Dispatch),
    /// Abort an attempt.
    Abort(Token),
    /// Attempts that wait for their turn must not start: the execution is paused.
    HoldQueued,
    /// They may start again.
    ReleaseQueued,
    /// Answer.
    Reply(R, Reply),
    /// The earliest deadline is now this one.
    Deadline(Option<Timestamp>),
    /// The end is durable: tell whoever waits for it.
    Finished(Ended),
}

/// An attempt to start, with what its handler may see.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The attempt.
    pub start: StartAttempt,
    /// Variables as they were when it was dispatched.
    pub variables: Arc<BTreeMap<String, Value>>,
}

/// An answer to whoever asked.
#[derive(Debug)]
pub enum Reply {
    /// The execution exists, durably.
    Started(StartOutcome),
    /// The command is durable. `draining` counts outstanding attempts; the shell knows which of them truly run.
    Commanded(CommandOutcome),
    /// The execution at a durable entry.
    View(Box<ExecutionState>),
    /// It was refused.
    Refused(EngineError),
}

/// An entry with what the checkpoint and the projections need beside it.
#[derive(Debug)]
pub struct Draft {
    /// The entry.
    pub entry: Entry,
    /// How the execution stands after it.
    pub mark: Mark,
    /// The state at this entry, encoded, when segments outgrew the last snapshot.
    pub snapshot: Option<Bytes>,
    /// What lists show, where this entry changed that.
    pub summary: Option<Box<ExecutionSummary>>,
    /// The end, on the last entry.
    pub end: Option<Box<EndMark>>,
    /// Business key's derived id and ordinal, on the first entry of a keyed execution.
    pub head: Option<(ExecutionId, u64)>,
}

/// What an archive needs of an execution that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndMark {
    /// The final state, encoded.
    pub state: Bytes,
    /// When the archive may go.
    pub expires_at: Timestamp,
}

#[derive(Debug)]
enum Release<R> {
    Effect(Effect, Option<Arc<BTreeMap<String, Value>>>),
    Reply(R, Reply),
    Queued,
    Finished,
}

#[derive(Debug)]
struct Stepping<R> {
    event: Event,
    at: Timestamp,
    principal: Option<Principal>,
    command: Option<CommandId>,
    reply: Option<R>,
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
        }
    }

    /// The state, possibly ahead of what is durable.
    #[must_use]
    pub fn state(&self) -> &ExecutionState {
        &self.state
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
        self.state.running.is_empty() && self.held.is_empty() && next_deadline(&self.state).is_none_or(|at| at > soon)
    }

    /// How the execution stands.
    #[must_use]
    pub fn mark(&self) -> Mark {
        if self.state.status.is_terminal() {
            Mark::Ended
        } else if !self.state.running.is_empty() {
            Mark::Running
        } else {
            next_deadline(&self.state).map_or(Mark::Message, Mark::Until)
        }
    }

    /// What the log and the checkpoint are told. The planted fault "timer removed before commit" keeps timers in memory
    /// alone: none is left once the entry that fires it fails to become durable.
    fn recorded_mark(&self) -> Mark {
        match self.mark() {
            Mark::Until(_) if self.options.mutants.timer_removed_before_commit => Mark::Message,
            mark => mark,
        }
    }

    /// Decides what follows from `input` at `now`.
    pub fn handle(&mut self, input: Input<R>, now: Timestamp, out: &mut Vec<Action<R>>) {
        debug_assert!(
            self.stepping.is_none() || matches!(input, Input::Evaluated(_)),
            "it waits for answers"
        );
        let at = now.max(self.last_at);
        match input {
            Input::Start(started, principal, reply) => self.start(started, principal, reply, at, out),
            Input::Report(report) => self.report(*report, at, out),
            Input::NodeGone(token, started_at, error) => self.node_gone(token, started_at, *error, at, out),
            Input::Command(command, reply) => self.command(*command, reply, at, out),
            Input::Wake => self.fire_due(at, out),
            Input::TakeOver { drained } => {
                if let Some(event) = resume(&self.state) {
                    let event = if drained { Event::Drained } else { event };
                    self.begin(event, at, None, None, None, out);
                }
            }
            Input::Durable(seq) => self.release(seq, out),
            Input::Read(reply) => self.read(reply, out),
            Input::Evaluated(answers) => self.evaluated(answers, out),
        }
        self.settle(now, out);
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
            };
            return self.reply(reply, Reply::Started(outcome), out);
        }
        self.begin(Event::Started(started), at, principal, None, Some(reply), out);
    }

    fn report(&mut self, mut report: AttemptClosed, at: Timestamp, out: &mut Vec<Action<R>>) {
        if self.options.mutants.no_completion_dedupe {
            self.forge_token(&mut report);
        }
        self.begin(Event::AttemptClosed(Box::new(report)), at, None, None, None, out);
    }

    /// The planted fault "no completion dedupe": whatever reports on a node counts as its current attempt.
    fn forge_token(&self, report: &mut AttemptClosed) {
        let Some(node) = self.state.nodes.get(report.token.node.at()) else {
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

    fn command(&mut self, input: CommandInput, reply: R, at: Timestamp, out: &mut Vec<Action<R>>) {
        if self.state.seq == Seq(0) {
            let missing = EngineError::NotFound(self.state.id);
            return out.push(Action::Reply(reply, Reply::Refused(missing)));
        }
        if input
            .command
            .as_ref()
            .is_some_and(|id| self.state.recent_commands.contains(id))
        {
            return self.reply_unchanged(reply, out);
        }
        self.begin(input.event, at, input.principal, input.command, Some(reply), out);
    }

    fn fire_due(&mut self, at: Timestamp, out: &mut Vec<Action<R>>) {
        self.deadline = None;
        if next_deadline(&self.state).is_some_and(|due| due <= at) {
            self.begin(Event::DeadlineReached, at, None, None, None, out);
        }
    }

    fn read(&mut self, reply: R, out: &mut Vec<Action<R>>) {
        if self.state.seq == Seq(0) {
            let missing = EngineError::NotFound(self.state.id);
            return out.push(Action::Reply(reply, Reply::Refused(missing)));
        }
        let view = Reply::View(Box::new(self.state.clone()));
        if self.options.mutants.read_before_commit {
            out.push(Action::Reply(reply, view));
        } else {
            self.reply(reply, view, out);
        }
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
                answers,
                rounds: 0,
            },
            out,
        );
    }

    fn evaluated(&mut self, answers: Vec<PartAnswer>, out: &mut Vec<Action<R>>) {
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
                self.stepped(stepping, stepped, out);
            }
            Err(StepError::Pending) => {
                stepping.rounds += 1;
                self.stepping = Some(Box::new(stepping));
                out.push(Action::Evaluate(jobs));
            }
            Err(StepError::Stale) => self.stale_reports += 1,
            Err(error) => {
                if matches!(stepping.event, Event::AttemptClosed(_)) {
                    self.stale_reports += 1;
                }
                if let Some(reply) = stepping.reply {
                    self.refuse(reply, error, out);
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

    fn reply_unchanged(&mut self, reply: R, out: &mut Vec<Action<R>>) {
        let (seq, draining) = (self.state.seq, self.draining());
        self.reply(
            reply,
            Reply::Commanded(CommandOutcome {
                seq,
                draining,
                unchanged: true,
            }),
            out,
        );
    }

    fn draining(&self) -> u32 {
        u32::try_from(self.state.running.len()).unwrap_or(u32::MAX)
    }

    fn stepped(&mut self, stepping: Stepping<R>, stepped: troupe_core::execution::Stepped, out: &mut Vec<Action<R>>) {
        let Stepping {
            event,
            at,
            principal,
            command,
            reply,
            ..
        } = stepping;
        self.last_at = at;
        let seq = self.state.seq;
        let first = seq == Seq(1);
        if first
            || stepped
                .answers
                .iter()
                .any(|answer| matches!(answer, Answer::Variables(_)))
        {
            self.variables = Arc::new(self.state.variables.clone());
        }
        if matches!(event, Event::Paused) {
            out.push(Action::HoldQueued);
        }
        let resumed = matches!(event, Event::Resumed);
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
                })
            } else {
                Reply::Commanded(CommandOutcome {
                    seq,
                    draining: self.draining(),
                    unchanged: false,
                })
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
        for effect in effects {
            let release = match effect {
                Effect::Finish => Release::Finished,
                Effect::StartAttempt(_) => Release::Effect(effect, Some(Arc::clone(&self.variables))),
                Effect::AbortAttempt(_) => Release::Effect(effect, None),
            };
            self.waiting.push_back((seq, release));
        }
        if resumed {
            self.waiting.push_back((seq, Release::Queued));
        }
        if self.options.mutants.effect_before_commit {
            self.release_up_to(seq, out);
        }
    }

    fn draft(&mut self, entry: Entry) -> Draft {
        let mark = self.recorded_mark();
        let first = entry.seq == Seq(1);
        let summary = changes_summary(&entry).then(|| Box::new(summary(&self.state)));
        let end = (mark == Mark::Ended).then(|| Box::new(self.end_mark(entry.at)));
        let snapshot = if end.is_some() {
            None
        } else {
            self.snapshot_if_due(&entry)
        };
        let key = self.state.execution_key.as_deref().filter(|_| first);
        let head = key.zip(self.state.key_ordinal).map(|(key, ordinal)| {
            let space = troupe_core::KeySpace::Business;
            (self.compiled.key_id(space, key, 0), ordinal)
        });
        Draft {
            entry,
            mark,
            snapshot,
            summary,
            end,
            head,
        }
    }

    fn end_mark(&self, at: Timestamp) -> EndMark {
        let settings = &self.compiled.plan.settings;
        let retention_ms = match &self.state.status {
            Status::Failed => settings.retention_failed_ms,
            _ => settings.retention_completed_ms,
        };
        let expires_at = at.plus_ms(retention_ms.unwrap_or(self.options.retention_ms));
        EndMark {
            state: encode_state(&self.state),
            expires_at,
        }
    }

    fn snapshot_if_due(&mut self, entry: &Entry) -> Option<Bytes> {
        self.segment_bytes += ENTRY_BYTES + payload_bytes(entry);
        if self.segment_bytes < self.snapshot_bytes.max(SNAPSHOT_BYTES_MIN) {
            return None;
        }
        let snapshot = encode_state(&self.state);
        self.snapshot_bytes = snapshot.len();
        self.segment_bytes = 0;
        Some(snapshot)
    }

    fn reply(&mut self, reply: R, answer: Reply, out: &mut Vec<Action<R>>) {
        let seq = self.state.seq;
        if self.durable >= seq || self.options.mutants.acknowledge_before_commit {
            out.push(Action::Reply(reply, answer));
        } else {
            self.waiting.push_back((seq, Release::Reply(reply, answer)));
        }
    }

    fn release(&mut self, seq: Seq, out: &mut Vec<Action<R>>) {
        self.durable = self.durable.max(seq);
        self.release_up_to(self.durable, out);
    }

    fn release_up_to(&mut self, seq: Seq, out: &mut Vec<Action<R>>) {
        while let Some((_, release)) = self.waiting.pop_front_if(|(at, _)| *at <= seq) {
            match release {
                Release::Effect(Effect::StartAttempt(start), variables) => {
                    let variables = variables.unwrap_or_else(|| Arc::clone(&self.variables));
                    self.dispatch(Dispatch { start, variables }, out);
                }
                Release::Effect(Effect::AbortAttempt(token), _) => self.abort(token, out),
                Release::Effect(Effect::Finish, _) | Release::Finished => out.push(Action::Finished(Ended {
                    id: self.state.id,
                    seq: self.state.seq,
                    status: self.state.status.name(),
                })),
                Release::Reply(reply, answer) => out.push(Action::Reply(reply, answer)),
                Release::Queued if self.state.paused => {}
                Release::Queued => out.push(Action::ReleaseQueued),
            }
        }
    }

    /// An attempt whose node has moved on meanwhile is not started: its abort is behind it in the queue.
    fn dispatch(&mut self, dispatch: Dispatch, out: &mut Vec<Action<R>>) {
        let token = dispatch.start.token;
        let phase = self.state.nodes.get(token.node.at()).map(|node| &node.phase);
        match phase {
            Some(Phase::Running { token: current }) if *current == token => {}
            Some(Phase::Canceling { token: current }) if *current == token => {}
            _ => return,
        }
        if self.state.paused {
            self.held.push(dispatch);
        } else {
            out.push(Action::Start(dispatch));
        }
    }

    fn abort(&mut self, token: Token, out: &mut Vec<Action<R>>) {
        self.held.retain(|held| held.start.token != token);
        out.push(Action::Abort(token));
    }

    /// Fires whatever else is due, and tells the timers of a changed deadline.
    fn settle(&mut self, now: Timestamp, out: &mut Vec<Action<R>>) {
        while self.stepping.is_none() && next_deadline(&self.state).is_some_and(|due| due <= now) {
            let seq = self.state.seq;
            self.begin(Event::DeadlineReached, now.max(self.last_at), None, None, None, out);
            if self.state.seq == seq {
                break;
            }
        }
        let deadline = next_deadline(&self.state);
        if self.stepping.is_none() && deadline != self.deadline {
            self.deadline = deadline;
            out.push(Action::Deadline(deadline));
        }
    }
}

/// The planted fault "non-atomic join counter": every join that waits has lost the arrival it counted last.
fn one_arrival_short(mut state: ExecutionState) -> ExecutionState {
    for node in state.nodes.iter_mut().filter(|node| node.phase == Phase::Pending) {
        node.taken = node.taken.saturating_sub(1);
    }
    state
}

/// Encodes a state for snapshots and archives.
#[must_use]
pub fn encode_state(state: &ExecutionState) -> Bytes {
    minicbor::to_vec(state).expect("writing to a vector cannot fail").into()
}

fn payload_bytes(entry: &Entry) -> usize {
    use troupe_core::execution::AttemptOutcome;
    let value = |value: &Value| match value {
        Value::Inline(json) => json.bytes(),
        Value::Blob(_) => 40,
    };
    let event = match &entry.event {
        Event::Started(started) => value(&started.input),
        Event::AttemptClosed(closed) => match &closed.outcome {
            AttemptOutcome::Completed(output) => value(output),
            AttemptOutcome::Failed(failure) => failure.error.message.len() + 64,
        },
        Event::DeadlineReached
        | Event::Paused
        | Event::Resumed
        | Event::CancelRequested { .. }
        | Event::Interrupted
        | Event::Drained => 0,
    };
    let answers = entry.answers.iter().map(|answer| match answer {
        Answer::Valid | Answer::Truth { .. } => 4,
        Answer::Value(answer) => value(answer),
        Answer::Variables(written) => written.iter().map(|(name, written)| name.len() + value(written)).sum(),
        Answer::Prepared { input, data } => input.as_ref().map_or(0, value) + data.as_ref().map_or(0, value),
        Answer::Threw(error) => error.message.len() + 64,
    });
    event + answers.sum::<usize>()
}

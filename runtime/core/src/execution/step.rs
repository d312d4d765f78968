//! The one entry point: routes an event to its concern, and undoes everything if that fails.

use crate::control::Clocks;
use crate::id::{NodeIx, Timestamp};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Value};

use super::effect::Effect;
use super::event::{Answer, Entry, Event};
use super::scope::{Evaluator, Question, Recorded};
use super::state::{Ending, ExecutionState, Phase, Status, Stop};
use super::transition::{Transition, Verb};
use super::tx::Tx;

/// Why a step was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The evaluator has no answer yet; try again when it has.
    #[error("an answer is pending")]
    Pending,
    /// The report's token is not the current one.
    #[error("the report is stale")]
    Stale,
    /// The execution is over.
    #[error("the execution has ended")]
    Ended,
    /// The execution already stands where the command wants it (paused, resumed, canceling).
    #[error("the execution already stands there")]
    Unchanged,
    /// Nothing is due.
    #[error("nothing is due")]
    NotDue,
    /// The start payload violates `settings.inputSchema` or names an unknown trigger; a call or an intervention does not fit the
    /// node.
    #[error("{code}: {message}", code = .0.code, message = .0.message)]
    Refused(Box<ErrorInfo>),
    /// The entry does not fit the state: wrong seq, another plan, a record that does not replay.
    #[error("the entry does not fit: {0}")]
    Corrupt(&'static str),
}

/// What a step produced: the rest of the entry, and what to do once that is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// The answers used, in order.
    pub answers: Vec<Answer>,
    /// What changed.
    pub transitions: Vec<Transition>,
    /// What to carry out, in order.
    pub effects: Vec<Effect>,
}

/// Applies `event` at `at`: on success the state's seq has grown by one, on failure nothing changed.
///
/// # Errors
/// See [`StepError`].
pub fn step(
    plan: &Plan,
    state: &mut ExecutionState,
    at: Timestamp,
    event: &Event,
    evaluator: &mut dyn Evaluator,
) -> Result<Stepped, StepError> {
    advance(plan, state, at, event, evaluator, None)
}

/// Applies a recorded entry and returns the effects it had.
///
/// # Errors
/// [`StepError::Corrupt`] when the entry does not fit the state; nothing changed.
pub fn replay(plan: &Plan, state: &mut ExecutionState, entry: &Entry) -> Result<Vec<Effect>, StepError> {
    if entry.seq != state.seq.next() {
        return Err(StepError::Corrupt("the entry is not the next one"));
    }
    let mut recorded = Recorded::new(&entry.answers);
    let stepped = advance(
        plan,
        state,
        entry.at,
        &entry.event,
        &mut recorded,
        Some(&entry.transitions),
    );
    let stepped = stepped.map_err(|error| match error {
        StepError::Corrupt(why) => StepError::Corrupt(why),
        _ => StepError::Corrupt("the entry is refused"),
    })?;
    if let Some(command) = &entry.command {
        state.note_command(command.clone());
    }
    Ok(stepped.effects)
}

/// Applies an event; `expected` are the transitions that a record says it made.
fn advance(
    plan: &Plan,
    state: &mut ExecutionState,
    at: Timestamp,
    event: &Event,
    evaluator: &mut dyn Evaluator,
    expected: Option<&[Transition]>,
) -> Result<Stepped, StepError> {
    if state.nodes.len() != plan.nodes.len() || state.edges.len() != plan.edges.len() {
        return Err(StepError::Corrupt("the plan does not fit"));
    }
    let mut tx = Tx::new(plan, state, at, evaluator);
    let refusal = match tx.apply(event) {
        Ok(()) if expected.is_none_or(|expected| expected == tx.transitions()) => {
            let stepped = tx.commit();
            debug_assert_eq!(super::invariants::check_small(plan, state), Ok(()));
            return Ok(stepped);
        }
        Ok(()) => StepError::Corrupt("the entry records other transitions"),
        Err(refusal) => refusal,
    };
    tx.rollback();
    if state.seq.0 == 0 {
        // A start writes what no later step can: the state was new before it.
        *state = ExecutionState::new(plan, state.id);
    }
    Err(refusal)
}

impl Tx<'_> {
    /// Routes the event, then carries its consequences to their end.
    fn apply(&mut self, event: &Event) -> Result<(), StepError> {
        if self.state.status.is_terminal() && !matches!(event, Event::Reopened(_)) {
            return Err(StepError::Ended);
        }
        match event {
            Event::Reopened(reopened) => self.reopened(reopened)?,
            Event::Started(started) => self.started(started)?,
            Event::Queued(started) => self.queued(started)?,
            Event::Admitted => self.admitted()?,
            Event::AttemptClosed(closed) => self.attempt_closed(closed)?,
            Event::DeadlineReached => self.deadline_reached()?,
            Event::Paused => self.pause(Clocks::Run)?,
            Event::Resumed => self.resume()?,
            Event::PausedWithParent => self.pause_with_parent(Clocks::Run)?,
            Event::ResumedWithParent => self.resume_with_parent()?,
            Event::Frozen => self.pause(Clocks::Freeze)?,
            Event::FrozenWithParent => self.pause_with_parent(Clocks::Freeze)?,
            Event::ControlsChanged(seen) => self.controls_changed(seen)?,
            Event::CancelRequested {
                reason,
                grace_ms,
                at_once,
            } => {
                self.cancel(reason.as_deref(), *grace_ms, *at_once)?;
            }
            Event::Interrupted => self.interrupted(Stop::Crash)?,
            Event::Drained => self.interrupted(Stop::Planned)?,
            Event::Signaled { node, call } => self.signaled(*node, call)?,
            Event::Heartbeat(node) => self.heartbeat(*node)?,
            Event::Decided { node, decision } => self.decided(*node, decision)?,
            Event::Children(reports) => self.children_reported(reports)?,
            Event::ErrorWorkflow(outcome) => self.reported(outcome)?,
            Event::VariablesSet(variables) => {
                for (name, value) in variables {
                    self.set_variable(name.clone(), value.clone());
                }
            }
        }
        self.settle()?;
        self.begin_children()?;
        self.dispatch()?;
        self.finish_if_done()
    }

    /// Looks at every node that a message arrived at, and then at every loop that may have ended, until none is left.
    pub(super) fn settle(&mut self) -> Result<(), StepError> {
        loop {
            if let Some(ix) = self.arrivals.pop_front() {
                self.arrive(ix)?;
            } else if let Some(ix) = self.closing.pop_front() {
                self.close(ix)?;
            } else {
                return Ok(());
            }
        }
    }

    /// Ends the execution when no node is open.
    fn finish_if_done(&mut self) -> Result<(), StepError> {
        if self.state.open_nodes > 0 {
            return Ok(());
        }
        match &self.state.status {
            Status::Running if self.state.failure.is_none() => match self.output()? {
                Ok(output) => self.end(Status::Completed { output }, Verb::ExecutionCompleted),
                Err(error) => {
                    self.note_failure(None, error);
                    self.end_as(Ending::Failed)?;
                }
            },
            Status::Running | Status::Failing => self.end_as(Ending::Failed)?,
            Status::Canceling { .. } => self.end_canceled()?,
            Status::Compensating(_) | Status::Reporting => {}
            Status::Pending | Status::Completed { .. } | Status::Failed | Status::Canceled { .. } => {}
        }
        self.go_on_compensating()
    }

    /// The execution's output: `settings.output`, else the single completed leaf's, else an object keyed by leaf.
    fn output(&mut self) -> Result<Result<Value, ErrorInfo>, StepError> {
        if self.plan.settings.output.is_some() {
            let input = self.state.input.clone();
            return self.ask_value(Question::ExecutionOutput, Some(&input), None);
        }
        let completed = |ix: &&NodeIx| self.node(**ix).phase == Phase::Completed;
        let leaves: Vec<NodeIx> = self.plan.leaves.iter().filter(completed).copied().collect();
        match leaves.as_slice() {
            [] => Ok(Ok(Value::null())),
            [only] => Ok(Ok(self.node(*only).output.clone().unwrap_or_else(Value::null))),
            several => {
                let member = |ix: &NodeIx| Some((self.planned(*ix).key.as_str(), self.node(*ix).output.as_ref()?));
                Ok(Ok(Value::object(several.iter().filter_map(member))))
            }
        }
    }
}

/// The event with which an engine that takes over continues: [`Event::Interrupted`] if attempts are outstanding. Where
/// the former engine gave the execution up on purpose, [`Event::Drained`] takes its place.
#[must_use]
pub fn resume(state: &ExecutionState) -> Option<Event> {
    (!state.running.is_empty()).then_some(Event::Interrupted)
}

/// When the next deadline is due; none while it is held. O(log n), and past deadlines of nodes that are held by themselves.
#[must_use]
pub fn next_deadline(state: &ExecutionState) -> Option<Timestamp> {
    super::control::earliest(state).map(|(at, _)| at)
}

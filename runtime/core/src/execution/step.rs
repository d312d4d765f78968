//! The one entry point: routes an event to its concern, and undoes everything if that fails.

use crate::id::Timestamp;
use crate::plan::Plan;

use super::effect::Effect;
use super::event::{Answer, Entry, Event};
use super::scope::Evaluator;
use super::state::ExecutionState;
use super::transition::Transition;

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
    /// The start payload violates `settings.inputSchema`, or names an unknown trigger.
    #[error("{0:?}")]
    Refused(Box<crate::value::ErrorInfo>),
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
    let _ = (plan, state, at, event, evaluator);
    Err(StepError::NotDue)
}

/// Applies a recorded entry and returns the effects it had.
///
/// # Errors
/// [`StepError::Corrupt`] when the entry does not fit the state.
pub fn replay(plan: &Plan, state: &mut ExecutionState, entry: &Entry) -> Result<Vec<Effect>, StepError> {
    let _ = (plan, state, entry);
    Err(StepError::NotDue)
}

/// The event with which an engine that takes over continues: [`Event::Interrupted`] if attempts are outstanding.
#[must_use]
pub fn resume(state: &ExecutionState) -> Option<Event> {
    (!state.running.is_empty()).then_some(Event::Interrupted)
}

/// When the next deadline is due; none while paused. O(log n).
#[must_use]
pub fn next_deadline(state: &ExecutionState) -> Option<Timestamp> {
    state.deadlines.first().map(|(at, _)| *at)
}

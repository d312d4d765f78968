//! The execution state machine: `step` decides, entries record, effects are carried out elsewhere.

mod completion;
mod control;
mod effect;
mod event;
mod input;
pub mod invariants;
mod join;
mod ready;
mod retry;
mod scope;
mod start;
mod state;
mod step;
mod transition;
mod tx;

pub use effect::{Effect, StartAttempt};
pub use event::{Answer, AttemptClosed, AttemptFailure, AttemptOutcome, Entry, Event, LogLine, Started};
pub use scope::{Evaluator, Pending, Question, Recorded, Scope};
pub use state::{
    AttemptRecord, Deadline, EdgeState, ExecutionState, Failure, Input, NodeFailure, NodeState, Phase, Status, Stop,
};
pub use step::{StepError, Stepped, next_deadline, replay, resume, step};
pub use transition::{Transition, Verb};

#[cfg(test)]
mod tests;

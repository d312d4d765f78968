//! The execution state machine: `step` decides, entries record, effects are carried out elsewhere.

mod effect;
mod event;
mod scope;
mod state;
mod step;
mod transition;

pub use effect::{Effect, StartAttempt};
pub use event::{Answer, AttemptClosed, AttemptFailure, AttemptOutcome, Entry, Event, LogLine, Started};
pub use scope::{Evaluator, Pending, Question, Recorded, Scope};
pub use state::{
    AttemptRecord, Deadline, EdgeState, ExecutionState, Failure, Input, NodeFailure, NodeState, Phase, Status,
};
pub use step::{StepError, Stepped, next_deadline, replay, resume, step};
pub use transition::{Transition, Verb};

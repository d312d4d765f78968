//! The execution state machine: `step` decides, entries record, effects are carried out elsewhere.

mod affected;
mod cache;
mod children;
mod compensation;
mod completion;
mod control;
mod data;
mod effect;
mod end;
mod error_workflow;
mod event;
mod hold;
mod input;
pub mod invariants;
mod join;
mod loops;
mod ready;
mod regions;
mod reopen;
mod rerun;
mod retention;
mod retry;
mod scope;
mod start;
mod state;
mod step;
mod transition;
mod tx;
mod wait;

pub use children::{CHILD_DEPTH_MAX, Children};
pub use compensation::{CompensatedVisit, Compensations};
pub use effect::{ChildCommand, Effect, OfferOutput, StartAttempt, StartChild};
pub use error_workflow::{ErrorWorkflow, FailedVisit, StartErrorWorkflow};
pub use event::{
    Answer, AttemptClosed, AttemptFailure, AttemptOutcome, CachedOutput, ChildId, ChildOutcome, ChildReport, Decision,
    Entry, Event, LogLine, Parent, Started,
};
pub use hold::{Holds, Stopped};
pub use reopen::{Remedy, Reopened, Reopening, reopening};
pub use rerun::{Repeated, Rerun, RerunOf, RerunPlan, Reused, ReusedResult, rerun};
pub use retention::retention_of;
pub use scope::{Evaluator, Pending, Question, Recorded, Scope};
pub use state::{
    AttemptRecord, CacheUse, CutOff, Deadline, EdgeState, Ending, ExecutionState, Failure, Input, LoopState,
    NodeFailure, NodeState, Phase, Room, Status, Stop,
};
pub use step::{StepError, Stepped, next_deadline, replay, resume, step};
pub use transition::{Transition, Verb};

#[cfg(test)]
mod hold_tests;
#[cfg(test)]
mod tests;

//! What travels over the API, in the names of the specification. The client reads what the server writes.

mod audit;
mod breaker;
mod context;
mod control;
mod decision;
mod history;
mod key;
mod member;
mod reopen;
mod start;
mod time;
mod workflow;

pub use audit::{AuditRowDto, audit_target};
pub use breaker::{BreakerDto, breaker_target};
pub use context::{
    AttemptDto, ErrorDto, NodeExecutionDto, NodeResultDto, RerunOfDto, WaitingDto, WorkflowContextDto, active_paths,
    attempt_of, context, node_execution,
};
pub use control::{ControlBody, ControlDto, ControlOption, ControlledDto, HeldDto, ScopeDto};
pub use decision::{FailBody, OutputBody, VariablesBody};
pub use history::{HistoryEntryDto, TransitionDto, entry, verb_name};
pub use key::{CreatedKeyDto, KeyBody, KeyDto};
pub use member::{FormatsDto, LearnedDto, MemberDto};
pub use reopen::{ReopenedDto, RepeatDto, RerunBody, RerunDto, RetryBody, SkipBody};
pub use start::{CommandBody, CommandDto, PauseBody, QueuedDto, StartBody, StartedDto};
pub use time::{date, instant};
pub use workflow::{ExecutionSummaryDto, PageDto, ValidationDto, VersionDto, WorkflowSummaryDto};

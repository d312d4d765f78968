//! What travels over the API, in the names of the specification. The client reads what the server writes.

mod context;
mod history;
mod start;
mod time;
mod workflow;

pub use context::{
    AttemptDto, ErrorDto, NodeExecutionDto, NodeResultDto, WaitingDto, WorkflowContextDto, active_paths, context,
    node_execution,
};
pub use history::{HistoryEntryDto, TransitionDto, entry, verb_name};
pub use start::{CommandBody, CommandDto, StartBody, StartedDto};
pub use time::{date, instant};
pub use workflow::{ExecutionSummaryDto, PageDto, ValidationDto, VersionDto, WorkflowSummaryDto};

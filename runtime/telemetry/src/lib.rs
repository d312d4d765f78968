//! Every metric, log field and log format of the product, defined once.
//!
//! This crate knows nothing of workflows: names and numbers come in, text goes out.

pub mod catalogue;
mod exposition;
pub mod fields;
mod handles;
mod inbox;
mod logs;
mod outage;
mod triggers;

pub use catalogue::describe_all;
pub use exposition::{Exposition, ExpositionError};
pub use handles::{
    AttemptEnd, BrokerMetrics, BrokerSample, BusMetrics, CacheMetrics, EngineMetrics, ExecutionEnd, StartCause,
    WORKFLOW_LABELS_MAX, WorkflowMetrics, audit_row_lost, audit_rows_pending, build_info, http_answered,
};
pub use inbox::{InboxEnd, InboxMetrics};
pub use logs::{LogError, LogFormat, install_logs};
pub use outage::Outage;
pub use triggers::{MessageEnd, MessageInHand, TriggerMetrics};

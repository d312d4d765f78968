//! Lifecycle events as sinks publish them, derived from log entries by a pure function.

use crate::execution::Verb;
use crate::id::{ExecutionId, NodeKey, Seq, Timestamp, WorkflowId};
use crate::value::Json;

/// Something that happened to an execution or one of its nodes, ready to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleEvent {
    /// The execution.
    pub execution: ExecutionId,
    /// Its workflow.
    pub workflow: WorkflowId,
    /// Seq of the entry it was derived from.
    pub seq: Seq,
    /// Its place among the events of that entry, from 0.
    pub part: u32,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub verb: Verb,
    /// The node's id and type, for verbs of nodes.
    pub node: Option<(NodeKey, &'static str)>,
    /// More about it: output, error, attempt; a JSON object.
    pub data: Json,
}

//! Names of the fields that spans and log lines carry, so that logs, traces and searches agree.

/// Id of the workflow.
pub const WORKFLOW: &str = "workflow";
/// Id of the execution.
pub const EXECUTION: &str = "execution";
/// Id of the node.
pub const NODE: &str = "node";
/// Number of the attempt, from 1.
pub const ATTEMPT: &str = "attempt";
/// Number of the shard.
pub const SHARD: &str = "shard";
/// Stable code of an error.
pub const CODE: &str = "code";

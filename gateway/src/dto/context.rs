//! `WorkflowContext`, `NodeResult` and `NodeExecution` of the specification.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use troupe_actors::ExecutionView;
use troupe_core::execution::{AttemptRecord, EdgeState, ExecutionState, Input, NodeState, Phase, Status};
use troupe_core::plan::Plan;
use troupe_core::{ErrorInfo, Json, NodeIx, Timestamp, Value};

use super::time::date;

/// A whole execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowContextDto {
    /// Its id.
    pub id: String,
    /// The workflow.
    pub workflow_id: String,
    /// The version it stays on.
    pub version: u32,
    /// `pending`, `running`, `completed`, `failed` or `canceled`.
    pub status: String,
    /// No new attempt starts while set.
    pub paused: bool,
    /// Why it is set aside, if it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quarantined: Option<String>,
    /// When it started.
    pub start_time: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<String>,
    /// Position of the last change in its history.
    pub sequence: u64,
    /// The run, from 1.
    pub run: u32,
    /// Priority 0–9.
    pub priority: u8,
    /// Business key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub execution_key: Option<String>,
    /// The start payload.
    pub input: Json,
    /// The output, once completed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<Json>,
    /// The error, once failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorDto>,
    /// Shared data between nodes.
    pub variables: BTreeMap<String, Json>,
    /// By node id, the latest visit. Nodes that nothing has reached are absent.
    pub node_results: BTreeMap<String, NodeResultDto>,
    /// Active nodes.
    pub current_nodes: Vec<String>,
    /// Completed nodes.
    pub completed_nodes: Vec<String>,
    /// Failed nodes.
    pub failed_nodes: Vec<String>,
    /// Indices of analysed paths with an active node and no dead edge.
    pub active_paths: Vec<usize>,
    /// Whether paths exist that the analysis does not list.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub active_paths_truncated: bool,
    /// Custom metadata.
    pub metadata: Json,
    /// The analysis of the version, on request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub processed_workflow: Option<Json>,
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDto {
    /// What happened.
    pub message: String,
    /// Stable code.
    pub code: String,
    /// Structured details.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub details: Option<Json>,
    /// Stack of the function that threw.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stack: Option<String>,
    /// The node that failed, on an execution's error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_id: Option<String>,
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeResultDto {
    /// `pending`, `running`, `completed`, `failed`, `skipped` or `canceled`.
    pub status: String,
    /// When it became ready.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_time: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<String>,
    /// Its output, once completed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<Json>,
    /// Its error, once failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorDto>,
    /// Attempts after the first.
    pub retry_count: u32,
    /// Attempts that ended, oldest first.
    pub attempts: Vec<AttemptDto>,
    /// What it waits for, if it only waits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting: Option<WaitingDto>,
}

/// What a node waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingDto {
    /// `delay`, `retry`, `paused`, `cancel`, `queued`.
    pub reason: String,
    /// Until when, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
    /// For people.
    pub hint: String,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptDto {
    /// From 1.
    pub attempt_number: u32,
    /// When it started; absent while the attempt is only dispatched.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_time: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<String>,
    /// `running`, `completed` or `failed`.
    pub status: String,
    /// Its output.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<Json>,
    /// Its error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorDto>,
}

/// A node of an execution with all its attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeExecutionDto {
    /// `execution/run/node/visit`, the idempotency key of its attempts.
    pub id: String,
    /// The node.
    pub node_id: String,
    /// The execution.
    pub workflow_execution_id: String,
    /// As in [`NodeResultDto`].
    pub status: String,
    /// When it became ready.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_time: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<String>,
    /// Its input, once it is ready.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub input: Option<Json>,
    /// Its output, once completed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<Json>,
    /// Its error, once failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorDto>,
    /// All attempts, a running one included.
    pub attempts: Vec<AttemptDto>,
    /// Type, name of the node's type and its visit.
    pub metadata: NodeMetadataDto,
}

/// More about a node's execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeMetadataDto {
    /// The node's type.
    pub node_type: String,
    /// Visit, from 1.
    pub visit: u32,
    /// Run, from 1.
    pub run: u32,
    /// How often a crash of the engine interrupted its attempts.
    pub interruptions: u32,
}

/// The whole execution. `paths` are the analysed paths as lists of node ids, and whether there are more.
#[must_use]
pub fn context(view: &ExecutionView, paths: Option<(&[Vec<String>], bool)>) -> WorkflowContextDto {
    let (state, plan) = (&view.state, &*view.plan);
    let having = |keep: &dyn Fn(&Phase) -> bool| -> Vec<String> {
        let kept = plan
            .nodes
            .iter()
            .zip(&state.nodes)
            .filter(|(_, node)| keep(&node.phase));
        kept.map(|(node, _)| node.key.to_string()).collect()
    };
    let results = plan
        .nodes
        .iter()
        .zip(&state.nodes)
        .filter(|(_, node)| node.phase != Phase::Pending);
    WorkflowContextDto {
        id: state.id.to_string(),
        workflow_id: state.workflow.to_string(),
        version: state.version,
        status: state.status.name().to_owned(),
        paused: state.paused,
        quarantined: view.quarantined.clone(),
        start_time: date(state.started_at),
        end_time: state.ended_at.map(date),
        sequence: state.seq.0,
        run: state.run.0,
        priority: state.priority,
        execution_key: state.execution_key.clone(),
        input: json(&state.input),
        output: match &state.status {
            Status::Completed { output } => Some(json(output)),
            _ => None,
        },
        error: execution_error(state, plan),
        variables: state
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), json(value)))
            .collect(),
        node_results: results
            .map(|(node, held)| (node.key.to_string(), result(held, state)))
            .collect(),
        current_nodes: having(&active),
        completed_nodes: having(&|phase| *phase == Phase::Completed),
        failed_nodes: having(&|phase| *phase == Phase::Failed),
        active_paths: paths.map_or_else(Vec::new, |(paths, _)| active_paths(state, plan, paths)),
        active_paths_truncated: paths.is_some_and(|(_, truncated)| truncated),
        metadata: state.metadata.clone().unwrap_or_else(|| Json::from_trusted("{}")),
        processed_workflow: None,
    }
}

fn active(phase: &Phase) -> bool {
    *phase != Phase::Pending && !phase.is_terminal()
}

/// Indices of the paths that have an active node and no dead edge.
#[must_use]
pub fn active_paths(state: &ExecutionState, plan: &Plan, paths: &[Vec<String>]) -> Vec<usize> {
    let dead = |source: &str, target: &str| {
        let (Some(source), Some(target)) = (plan.node_ix(source), plan.node_ix(target)) else {
            return true;
        };
        let mut between = plan
            .node(source)
            .outgoing
            .iter()
            .filter(|edge| plan.edge(**edge).target == target);
        !between.any(|edge| state.edges[edge.at()] != EdgeState::Dead)
    };
    let is_active = |key: &String| {
        let node = plan.node_ix(key).and_then(|ix| state.nodes.get(ix.at()));
        node.is_some_and(|node| active(&node.phase))
    };
    let lives =
        |path: &&Vec<String>| path.iter().any(is_active) && !path.windows(2).any(|pair| dead(&pair[0], &pair[1]));
    paths
        .iter()
        .enumerate()
        .filter(|(_, path)| lives(path))
        .map(|(index, _)| index)
        .collect()
}

/// One node with all its attempts.
#[must_use]
pub fn node_execution(view: &ExecutionView, ix: NodeIx) -> NodeExecutionDto {
    let (state, plan) = (&view.state, &*view.plan);
    let (planned, node) = (plan.node(ix), &state.nodes[ix.at()]);
    let shown = result(node, state);
    let mut attempts = shown.attempts;
    if let Phase::Running { token } | Phase::Canceling { token } = &node.phase {
        attempts.push(AttemptDto {
            attempt_number: token.attempt.0,
            start_time: node.dispatched_at.map(date),
            end_time: None,
            status: "running".into(),
            output: None,
            error: None,
        });
    }
    NodeExecutionDto {
        id: format!("{}/{}/{}/{}", state.id, state.run, planned.key, node.visit),
        node_id: planned.key.to_string(),
        workflow_execution_id: state.id.to_string(),
        status: shown.status,
        start_time: shown.start_time,
        end_time: shown.end_time,
        input: input(state, plan, ix),
        output: shown.output,
        error: shown.error,
        attempts,
        metadata: NodeMetadataDto {
            node_type: planned.kind.as_str().to_owned(),
            visit: node.visit.0,
            run: state.run.0,
            interruptions: node.interruptions,
        },
    }
}

fn result(node: &NodeState, state: &ExecutionState) -> NodeResultDto {
    NodeResultDto {
        status: node.phase.name().to_owned(),
        start_time: node.scheduled_at.map(date),
        end_time: node.ended_at.map(date),
        output: node.output.as_ref().map(json),
        error: node.failure.as_ref().map(|failure| error(&failure.error, None)),
        retry_count: retries(node),
        attempts: node.attempts.iter().map(attempt).collect(),
        waiting: waiting(node, state),
    }
}

/// Attempts after the first, a running one included; a repetition after a crash of the engine is none.
fn retries(node: &NodeState) -> u32 {
    let outstanding = matches!(node.phase, Phase::Running { .. } | Phase::Canceling { .. });
    (node.next_attempt().0 - u32::from(!outstanding)).saturating_sub(1)
}

fn waiting(node: &NodeState, state: &ExecutionState) -> Option<WaitingDto> {
    let wait = |reason: &str, until: Option<Timestamp>, hint: &str| WaitingDto {
        reason: reason.to_owned(),
        until: until.map(date),
        hint: hint.to_owned(),
    };
    match &node.phase {
        Phase::Delaying { until } => Some(wait("delay", Some(*until), "the delay has not passed")),
        Phase::Backoff { until, .. } => Some(wait("retry", Some(*until), "the next attempt starts after a pause")),
        Phase::Ready if state.paused => Some(wait("paused", None, "resume the execution")),
        Phase::Ready => Some(wait("queued", None, "as many nodes as allowed run already")),
        Phase::Canceling { .. } => Some(wait("cancel", None, "the attempt has been told to stop")),
        Phase::Pending
        | Phase::Running { .. }
        | Phase::Completed
        | Phase::Failed
        | Phase::Skipped
        | Phase::Canceled => None,
    }
}

fn attempt(record: &AttemptRecord) -> AttemptDto {
    AttemptDto {
        attempt_number: record.attempt.0,
        start_time: Some(date(record.started_at)),
        end_time: Some(date(record.ended_at)),
        status: if record.error.is_some() { "failed" } else { "completed" }.to_owned(),
        output: record.output.as_ref().map(json),
        error: record.error.as_deref().map(|info| error(info, None)),
    }
}

fn error(info: &ErrorInfo, node: Option<String>) -> ErrorDto {
    ErrorDto {
        message: info.message.clone(),
        code: info.code.clone(),
        details: info.details.clone(),
        stack: info.stack.clone(),
        node_id: node,
    }
}

fn execution_error(state: &ExecutionState, plan: &Plan) -> Option<ErrorDto> {
    match &state.status {
        Status::Failed | Status::Failing => {
            let failure = state.failure.as_ref()?;
            Some(error(
                &failure.error,
                failure.node.map(|node| plan.node(node).key.to_string()),
            ))
        }
        Status::Canceled { reason } | Status::Canceling { reason, .. } => reason
            .as_ref()
            .map(|reason| error(&ErrorInfo::new("CANCELED", reason.clone()), None)),
        Status::Pending | Status::Running | Status::Completed { .. } => None,
    }
}

/// What a node received; none before it was ready.
fn input(state: &ExecutionState, plan: &Plan, ix: NodeIx) -> Option<Json> {
    if state.nodes[ix.at()].input == Input::None {
        return None;
    }
    state.input_of(plan, ix).ok().as_ref().map(json)
}

/// A payload; a blob is shown as its reference.
fn json(value: &Value) -> Json {
    match value {
        Value::Inline(json) => json.clone(),
        Value::Blob(blob) => {
            let hash: String = blob.hash.iter().map(|byte| format!("{byte:02x}")).collect();
            Json::of(&serde_json::json!({"$blob": {"hash": hash, "bytes": blob.bytes}}))
        }
    }
}

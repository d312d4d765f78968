//! `WorkflowContext`, `NodeResult` and `NodeExecution` of the specification.

use std::collections::BTreeMap;
use std::convert::Infallible;

use serde::{Deserialize, Serialize};
use troupe_actors::{AttemptWait, Contents, ExecutionView};
use troupe_core::execution::{
    AttemptClosed, AttemptOutcome, AttemptRecord, CacheUse, Children, EdgeState, Ending, ErrorWorkflow, ExecutionState,
    Input, NodeState, Phase, Status,
};
use troupe_core::plan::Plan;
use troupe_core::{BlobRef, ErrorInfo, ExecutionId, Json, NodeIx, Timestamp, Value, Visit};

use super::control::HeldDto;
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
    /// Pauses and stops of a wider scope that hold it, or a node of it that has not ended.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub held_by: Vec<HeldDto>,
    /// It fails or is canceled, and what it completed is being undone.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub compensating: bool,
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
    /// The execution that it runs again, if it is a rerun.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rerun_of: Option<RerunOfDto>,
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
    /// What became of the error workflow, once it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_workflow: Option<ErrorWorkflowDto>,
    /// The failed execution that this one was started for, as its error workflow or as a child of one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub handles_failure_of: Option<String>,
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

/// Which execution another one runs again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RerunOfDto {
    /// The execution.
    pub execution_id: String,
    /// The node from which it runs.
    pub node_id: String,
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
    /// What could not be undone, on an execution's error.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub compensation_errors: Vec<CompensationErrorDto>,
}

/// Why what a node did could not be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompensationErrorDto {
    /// The node.
    pub node_id: String,
    /// Visit of the node, from 1.
    pub visit: u32,
    /// Stable code.
    pub code: String,
    /// What happened.
    pub message: String,
}

/// The error workflow of an execution that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorWorkflowDto {
    /// Which workflow.
    pub workflow_id: String,
    /// Its execution, once that was started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub execution_id: Option<String>,
    /// Why it could not be started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorDto>,
}

impl ErrorDto {
    /// An error that is no execution's.
    #[must_use]
    pub fn of(info: &ErrorInfo) -> Self {
        Self {
            message: info.message.clone(),
            code: info.code.clone(),
            details: info.details.clone(),
            stack: info.stack.clone(),
            node_id: None,
            compensation_errors: Vec::new(),
        }
    }
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
    /// It did not run: its result is that of the execution that this one runs again.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub reused: bool,
    /// Attempts after the first.
    pub retry_count: u32,
    /// Attempts that ended, oldest first.
    pub attempts: Vec<AttemptDto>,
    /// Whether its output was reused, without an attempt.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub cached: bool,
    /// What it waits for, if it only waits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting: Option<WaitingDto>,
    /// Its child executions, if it starts some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub children: Option<ChildrenDto>,
    /// What undid its latest visit that completed, once the execution compensates.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compensation: Option<Box<NodeResultDto>>,
}

/// The child executions of a node, in its latest visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildrenDto {
    /// How many there will be at most.
    pub total: u32,
    /// How many were started.
    pub started: u32,
    /// How many have not ended.
    pub running: usize,
    /// How many completed.
    pub completed: u32,
    /// How many failed or were canceled.
    pub failed: u32,
}

/// What a node waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingDto {
    /// `delay`, `retry`, `call`, `children`, `loop`, `paused`, `cancel`, `queued`; of an attempt that has not started `slot`,
    /// `node_type`, `permit`, `breaker`.
    pub reason: String,
    /// Until when, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
    /// For people.
    pub hint: String,
    /// Where a call is taken for it, on request: whoever has the address may call.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resume_url: Option<String>,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptDto {
    /// From 1, in each visit.
    pub attempt_number: u32,
    /// Visit of the node, from 1: in a loop a node has several.
    pub visit: u32,
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
    /// Attempts of all visits, oldest first, a running one included.
    pub attempts: Vec<AttemptDto>,
    /// Whether there were more, which the history has.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub attempts_truncated: bool,
    /// As in [`NodeResultDto`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compensation: Option<Box<NodeResultDto>>,
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
    let (state, plan, values) = (&view.state, &*view.plan, Values::of(view));
    let having = |keep: &dyn Fn(&Phase) -> bool| -> Vec<String> {
        let kept = plan
            .nodes
            .iter()
            .zip(&state.nodes)
            .filter(|(_, node)| keep(&shown(node).phase));
        kept.map(|(node, _)| node.key.to_string()).collect()
    };
    let results = plan
        .nodes
        .iter()
        .zip(&state.nodes)
        .zip((0..).map(NodeIx))
        .map(|((planned, node), ix)| (ix, planned, shown(node)))
        .filter(|(_, _, node)| node.phase != Phase::Pending);
    WorkflowContextDto {
        id: state.id.to_string(),
        workflow_id: state.workflow.to_string(),
        version: state.version,
        status: state.status.name().to_owned(),
        paused: state.paused,
        held_by: view.held.iter().map(HeldDto::from).collect(),
        compensating: matches!(state.status, Status::Compensating(_)),
        quarantined: view.quarantined.clone(),
        start_time: date(state.started_at),
        end_time: state.ended_at.map(date),
        sequence: state.seq.0,
        run: state.run.0,
        rerun_of: state.rerun_of.as_ref().map(|rerun| RerunOfDto {
            execution_id: rerun.execution.to_string(),
            node_id: plan.node(rerun.from).key.to_string(),
        }),
        priority: state.priority,
        execution_key: state.execution_key.clone(),
        input: values.json(&state.input),
        output: match &state.status {
            Status::Completed { output } => Some(values.json(output)),
            _ => None,
        },
        error: execution_error(state, plan),
        error_workflow: error_workflow(state, plan),
        handles_failure_of: state.handles_failure_of.map(|id| id.to_string()),
        variables: state
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), values.json(value)))
            .collect(),
        node_results: results
            .map(|(ix, planned, node)| {
                let mut shown = result(ix, node, state.children.get(&ix), state, &values);
                show_wait(view, ix, &mut shown);
                shown.compensation = compensation(state, plan, ix, &values);
                (planned.key.to_string(), shown)
            })
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

/// A node that waits for its next visit shows its last one.
fn shown(node: &NodeState) -> &NodeState {
    match (&node.phase, &node.ended) {
        (Phase::Pending, Some(ended)) => ended,
        _ => node,
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
        !between.any(|edge| !matches!(state.edges[edge.at()], EdgeState::Dead | EdgeState::HeldDead))
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

/// One node with all its attempts: those of earlier visits are given, and whether some are missing.
#[must_use]
pub fn node_execution(view: &ExecutionView, ix: NodeIx, earlier: (Vec<AttemptDto>, bool)) -> NodeExecutionDto {
    let (state, plan, values) = (&view.state, &*view.plan, Values::of(view));
    let (planned, node) = (plan.node(ix), &state.nodes[ix.at()]);
    let mut shown = result(ix, node, state.children.get(&ix), state, &values);
    show_wait(view, ix, &mut shown);
    let compensation = compensation(state, plan, ix, &values);
    let (mut attempts, attempts_truncated) = earlier;
    attempts.extend(shown.attempts);
    if let Phase::Running { token } | Phase::Canceling { token } = &node.phase {
        attempts.push(AttemptDto {
            attempt_number: token.attempt.0,
            visit: token.visit.0,
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
        input: input(state, plan, ix, &values),
        output: shown.output,
        error: shown.error,
        attempts,
        attempts_truncated,
        compensation,
        metadata: NodeMetadataDto {
            node_type: planned.kind.as_str().to_owned(),
            visit: node.visit.0,
            run: state.run.0,
            interruptions: node.interruptions,
        },
    }
}

fn result(
    ix: NodeIx,
    node: &NodeState,
    children: Option<&Children>,
    state: &ExecutionState,
    values: &Values<'_>,
) -> NodeResultDto {
    NodeResultDto {
        status: node.phase.name().to_owned(),
        start_time: node.scheduled_at.map(date),
        end_time: node.ended_at.map(date),
        output: node.output.as_ref().map(|output| values.json(output)),
        error: node.failure.as_ref().map(|failure| error(&failure.error, None)),
        reused: node.visit == Visit(0) && node.phase.is_terminal(),
        retry_count: retries(node),
        attempts: node
            .attempts
            .iter()
            .map(|record| attempt(record, node.visit, values))
            .collect(),
        cached: node.cache.as_deref() == Some(&CacheUse::Hit),
        waiting: waiting(ix, node, state),
        children: children.map(|children| ChildrenDto {
            total: children.total,
            started: children.begun,
            running: children.open.len(),
            completed: children.completed,
            failed: children.failed,
        }),
        compensation: None,
    }
}

/// What an attempt waits for that was dispatched and has not started.
fn show_wait(view: &ExecutionView, ix: NodeIx, shown: &mut NodeResultDto) {
    let wait = view.waits.iter().find(|(node, _)| *node == ix);
    if let Some((_, what)) = wait.filter(|_| shown.waiting.is_none()) {
        let hint = match what {
            AttemptWait::Slot => "as many attempts of its key as `concurrency` allows run already",
            AttemptWait::NodeType => "as many attempts of its node type as the engine allows run already",
            AttemptWait::Breaker => "its target is unwell: `troupe breaker ls` tells since when",
            AttemptWait::Backlog => {
                "too much waits for the event bus or for lists: RabbitMQ or PostgreSQL is away or slow"
            }
            AttemptWait::Permit => "as many attempts as the engine allows run already",
        };
        shown.waiting = Some(WaitingDto {
            reason: what.name().to_owned(),
            until: None,
            hint: hint.to_owned(),
            resume_url: None,
        });
    }
}

/// What undoes the latest visit of a node that completed, once that has begun.
fn compensation(state: &ExecutionState, plan: &Plan, ix: NodeIx, values: &Values<'_>) -> Option<Box<NodeResultDto>> {
    let visit = state.compensations.as_ref()?.of_node(ix)?;
    let undo = plan.node(ix).compensation?;
    let mut shown = result(undo, visit.compensation.as_ref()?, None, state, values);
    for attempt in &mut shown.attempts {
        attempt.visit = visit.visit.0;
    }
    Some(Box::new(shown))
}

/// Attempts after the first, a running one included; a repetition after a crash of the engine is none.
fn retries(node: &NodeState) -> u32 {
    let outstanding = matches!(node.phase, Phase::Running { .. } | Phase::Canceling { .. });
    (node.next_attempt().0 - u32::from(!outstanding)).saturating_sub(1)
}

/// What lets a node go on that a wider scope holds.
const HELD: &str = "a pause or a stop of a wider scope holds it: see `heldBy`";

fn waiting(ix: NodeIx, node: &NodeState, state: &ExecutionState) -> Option<WaitingDto> {
    let wait = |reason: &str, until: Option<Timestamp>, hint: &str| WaitingDto {
        reason: reason.to_owned(),
        until: until.map(date),
        hint: hint.to_owned(),
        resume_url: None,
    };
    match &node.phase {
        Phase::Delaying { until } => Some(wait("delay", Some(*until), "the delay has not passed")),
        Phase::Backoff { until, .. } => Some(wait("retry", Some(*until), "the next attempt starts after a pause")),
        Phase::Ready if state.paused => Some(wait("paused", None, "resume the execution")),
        Phase::Ready if state.is_node_held(ix) => Some(wait("held", None, HELD)),
        Phase::Ready => Some(wait("queued", None, "as many nodes as allowed run already")),
        Phase::Waiting { until, heartbeat_by } => {
            let earliest = until.iter().chain(heartbeat_by).min();
            Some(wait("call", earliest.copied(), "no call has come for it yet"))
        }
        Phase::Parenting if state.paused => Some(wait("paused", None, "resume the execution")),
        Phase::Parenting if state.is_node_held(ix) => Some(wait("held", None, HELD)),
        Phase::Parenting => Some(wait("children", None, "child executions of it have not ended")),
        Phase::Turning { .. } => Some(wait("loop", None, "the next pass of the loop starts at once")),
        Phase::Canceling { .. } => Some(wait("cancel", None, "the attempt has been told to stop")),
        Phase::Pending
        | Phase::Running { .. }
        | Phase::Completed
        | Phase::Failed
        | Phase::Skipped
        | Phase::Canceled => None,
    }
}

/// An attempt as the history tells of it.
#[must_use]
pub fn attempt_of(view: &ExecutionView, closed: &AttemptClosed, at: Timestamp) -> AttemptDto {
    let (output, failure) = match &closed.outcome {
        AttemptOutcome::Completed(output) => (Some(Values::of(view).json(output)), None),
        AttemptOutcome::Failed(failure) => (None, Some(error(&failure.error, None))),
    };
    AttemptDto {
        attempt_number: closed.token.attempt.0,
        visit: closed.token.visit.0,
        start_time: Some(date(closed.started_at)),
        end_time: Some(date(at)),
        status: if failure.is_some() { "failed" } else { "completed" }.to_owned(),
        output,
        error: failure,
    }
}

fn attempt(record: &AttemptRecord, visit: Visit, values: &Values<'_>) -> AttemptDto {
    AttemptDto {
        attempt_number: record.attempt.0,
        visit: visit.0,
        start_time: Some(date(record.started_at)),
        end_time: Some(date(record.ended_at)),
        status: if record.error.is_some() { "failed" } else { "completed" }.to_owned(),
        output: record.output.as_ref().map(|output| values.json(output)),
        error: record.error.as_deref().map(|info| error(info, None)),
    }
}

fn error(info: &ErrorInfo, node: Option<String>) -> ErrorDto {
    ErrorDto {
        node_id: node,
        ..ErrorDto::of(info)
    }
}

fn execution_error(state: &ExecutionState, plan: &Plan) -> Option<ErrorDto> {
    let compensation_errors = compensation_errors(state, plan);
    let shown = match &state.status {
        Status::Failed | Status::Failing | Status::Reporting | Status::Compensating(Ending::Failed) => {
            let failure = state.failure.as_ref()?;
            let node = failure.node.map(|node| plan.node(node).key.to_string());
            error(&failure.error, node)
        }
        Status::Canceled { reason }
        | Status::Canceling { reason, .. }
        | Status::Compensating(Ending::Canceled { reason }) => {
            let unsaid = || (!compensation_errors.is_empty()).then(|| "the execution was canceled".to_owned());
            error(&ErrorInfo::new("CANCELED", reason.clone().or_else(unsaid)?), None)
        }
        Status::Pending | Status::Running | Status::Completed { .. } => return None,
    };
    Some(ErrorDto {
        compensation_errors,
        ..shown
    })
}

/// What could not be undone, in the order in which that was tried.
fn compensation_errors(state: &ExecutionState, plan: &Plan) -> Vec<CompensationErrorDto> {
    let failures = state.compensations.iter().flat_map(|all| all.failures());
    let shown = failures.map(|(visit, error)| CompensationErrorDto {
        node_id: plan.node(visit.node).key.to_string(),
        visit: visit.visit.0,
        code: error.code.clone(),
        message: error.message.clone(),
    });
    shown.collect()
}

fn error_workflow(state: &ExecutionState, plan: &Plan) -> Option<ErrorWorkflowDto> {
    let outcome = state.error_workflow.as_deref();
    if outcome.is_none() && state.status != Status::Reporting {
        return None;
    }
    let (execution_id, error) = match outcome {
        Some(ErrorWorkflow::Began(id)) => (Some(id.to_string()), None),
        Some(ErrorWorkflow::Refused(error)) => (None, Some(ErrorDto::of(error))),
        None => (None, None),
    };
    Some(ErrorWorkflowDto {
        workflow_id: plan.settings.error_workflow.as_ref()?.to_string(),
        execution_id,
        error,
    })
}

/// What a node received; none before it was ready.
fn input(state: &ExecutionState, plan: &Plan, ix: NodeIx, values: &Values<'_>) -> Option<Json> {
    if state.nodes[ix.at()].input == Input::None {
        return None;
    }
    Some(values.json(&state.input_of(plan, ix)))
}

/// Shows payloads: a large one that was not loaded as `{"$blob": {"hash", "bytes", "url"}}`.
struct Values<'a> {
    contents: &'a Contents,
    execution: ExecutionId,
}

impl<'a> Values<'a> {
    fn of(view: &'a ExecutionView) -> Self {
        Self {
            contents: &view.contents,
            execution: view.state.id,
        }
    }

    fn json(&self, value: &Value) -> Json {
        let content = |blob: &BlobRef| Ok::<_, Infallible>(self.content(blob));
        value.document_with(&content).unwrap_or_else(|never| match never {})
    }

    fn content(&self, blob: &BlobRef) -> Json {
        self.contents.get(blob).cloned().unwrap_or_else(|| {
            let (hash, bytes) = (blob.hex(), blob.bytes);
            let url = format!("/api/v1/executions/{}/values/{hash}", self.execution);
            Json::of(&serde_json::json!({"$blob": {"hash": hash, "bytes": bytes, "url": url}}))
        })
    }
}

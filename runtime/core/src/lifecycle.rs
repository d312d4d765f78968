//! Lifecycle events as sinks publish them, derived from log entries by a pure function.

use crate::execution::{AttemptClosed, AttemptOutcome, Entry, Event, Verb};
use crate::id::{ExecutionId, NodeIx, NodeKey, Seq, Timestamp, WorkflowId};
use crate::plan::Plan;
use crate::value::{Json, Value};

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
    /// More about it: `attempt`, `output`, `error`; a JSON object.
    pub data: Json,
}

/// The events of one entry, in order. A pure function: publishing is never a second write.
///
/// An attempt's start is no entry of its own, so `node.started` comes with the entry that closes the attempt, under the
/// time at which it truly started.
#[must_use]
pub fn derive(plan: &Plan, execution: ExecutionId, entry: &Entry) -> Vec<LifecycleEvent> {
    let closed = match &entry.event {
        Event::AttemptClosed(closed) => Some(closed.as_ref()),
        Event::Started(_)
        | Event::DeadlineReached
        | Event::Paused
        | Event::Resumed
        | Event::CancelRequested { .. }
        | Event::Interrupted
        | Event::Drained => None,
    };
    let mut events = Vec::with_capacity(entry.transitions.len() + 1);
    let mut push = |at: Timestamp, verb: Verb, node: Option<NodeIx>, data: Json| {
        let part = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let node = node
            .and_then(|ix| plan.nodes.get(ix.at()))
            .map(|node| (node.key.clone(), node.kind.as_str()));
        let workflow = plan.workflow.clone();
        events.push(LifecycleEvent {
            execution,
            workflow,
            seq: entry.seq,
            part,
            at,
            verb,
            node,
            data,
        });
    };
    if let Some(closed) = closed {
        push(
            closed.started_at,
            Verb::NodeStarted,
            Some(closed.token.node),
            attempt_data(closed, false),
        );
    }
    for transition in &entry.transitions {
        // A verb of a newer release has no name here yet.
        let Some(verb) = transition.verb() else { continue };
        let node = transition.node_ix();
        let data = match closed {
            Some(closed) if node == Some(closed.token.node) => attempt_data(closed, true),
            _ => Json::object([]),
        };
        push(entry.at, verb, node, data);
    }
    events
}

/// What the report of an attempt tells: its number, and once it ended its output or error.
fn attempt_data(closed: &AttemptClosed, ended: bool) -> Json {
    let attempt = Json::from_trusted(closed.token.attempt.to_string());
    let result = match &closed.outcome {
        AttemptOutcome::Completed(Value::Inline(output)) => Some(("output", output.clone())),
        AttemptOutcome::Completed(Value::Blob(_)) => None,
        AttemptOutcome::Failed(failure) => Some(("error", failure.error.to_json())),
    };
    let result = result.as_ref().filter(|_| ended).map(|(name, value)| (*name, value));
    Json::object([("attempt", &attempt)].into_iter().chain(result))
}

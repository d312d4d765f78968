//! What lists show of an execution.

use troupe_core::execution::{Entry, ExecutionState, Verb};
use troupe_ports::ExecutionSummary;

/// Whether an entry changed what lists show.
#[must_use]
pub fn changes_summary(entry: &Entry) -> bool {
    entry.transitions.iter().any(|transition| match transition.verb() {
        Some(
            Verb::ExecutionCreated
            | Verb::ExecutionStarted
            | Verb::ExecutionPaused
            | Verb::ExecutionResumed
            | Verb::ExecutionCompleted
            | Verb::ExecutionFailed
            | Verb::ExecutionCanceled,
        ) => true,
        Some(
            Verb::ExecutionCompensating
            | Verb::NodeScheduled
            | Verb::NodeStarted
            | Verb::NodeWaiting
            | Verb::NodeRetrying
            | Verb::NodeCompleted
            | Verb::NodeFailed
            | Verb::NodeSkipped
            | Verb::NodeCanceled
            | Verb::NodeInterrupted,
        )
        | None => false,
    })
}

/// What lists show of a state.
#[must_use]
pub fn summary(state: &ExecutionState) -> ExecutionSummary {
    ExecutionSummary {
        id: state.id,
        workflow_id: state.workflow.as_str().to_owned(),
        version: state.version,
        status: state.status.name().to_owned(),
        paused: state.paused,
        started_at: state.started_at,
        ended_at: state.ended_at,
        error_code: state.failure.as_ref().map(|failure| failure.error.code.clone()),
        execution_key: state.execution_key.clone(),
        parent: state.parent.map(|parent| parent.execution),
        seq: state.seq,
    }
}

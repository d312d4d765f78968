//! Entries of an execution's history.

use serde::{Deserialize, Serialize};
use troupe_core::execution::{AttemptOutcome, Entry, Event, LogLine, Transition, Verb};
use troupe_core::plan::Plan;

use super::context::ErrorDto;
use super::time::date;

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntryDto {
    /// Position, from 1 without gaps.
    pub seq: u64,
    /// When it was applied.
    pub time: String,
    /// What happened, in the past tense.
    pub event: String,
    /// The node that it concerns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_id: Option<String>,
    /// The attempt that it concerns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<u32>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorDto>,
    /// What the handler logged.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub logs: Vec<LogLine>,
    /// What changed.
    pub changes: Vec<TransitionDto>,
    /// Who caused it; absent: the system itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub principal: Option<String>,
    /// The command that caused it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransitionDto {
    /// `execution.<verb>` or `node.<verb>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The node.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_id: Option<String>,
}

/// An entry as the API shows it.
#[must_use]
pub fn entry(entry: &Entry, plan: &Plan) -> HistoryEntryDto {
    let mut shown = HistoryEntryDto {
        seq: entry.seq.0,
        time: date(entry.at),
        event: event_name(&entry.event).to_owned(),
        node_id: None,
        attempt: None,
        error: None,
        logs: Vec::new(),
        changes: entry
            .transitions
            .iter()
            .filter_map(|change| transition(*change, plan))
            .collect(),
        principal: entry.principal.as_ref().map(ToString::to_string),
        command: entry.command.as_ref().map(ToString::to_string),
    };
    if let Event::AttemptClosed(closed) = &entry.event {
        shown.node_id = plan.nodes.get(closed.token.node.at()).map(|node| node.key.to_string());
        shown.attempt = Some(closed.token.attempt.0);
        shown.logs = closed.logs.as_deref().cloned().unwrap_or_default();
        if let AttemptOutcome::Failed(failure) = &closed.outcome {
            let info = &failure.error;
            shown.error = Some(ErrorDto {
                message: info.message.clone(),
                code: info.code.clone(),
                details: info.details.clone(),
                stack: info.stack.clone(),
                node_id: None,
            });
        }
    }
    shown
}

fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Started(_) => "started",
        Event::AttemptClosed(closed) => match closed.outcome {
            AttemptOutcome::Completed(_) => "attemptCompleted",
            AttemptOutcome::Failed(_) => "attemptFailed",
        },
        Event::DeadlineReached => "deadlineReached",
        Event::Paused => "paused",
        Event::Resumed => "resumed",
        Event::CancelRequested { .. } => "cancelRequested",
        Event::Interrupted => "interrupted",
        Event::Drained => "drained",
    }
}

fn transition(change: Transition, plan: &Plan) -> Option<TransitionDto> {
    let node = change.node_ix().and_then(|ix| plan.nodes.get(ix.at()));
    Some(TransitionDto {
        kind: verb_name(change.verb()?),
        node_id: node.map(|node| node.key.to_string()),
    })
}

/// `<entity>.<verb>`, as events are named.
#[must_use]
pub fn verb_name(verb: Verb) -> String {
    let entity = match verb {
        Verb::ExecutionCreated
        | Verb::ExecutionStarted
        | Verb::ExecutionPaused
        | Verb::ExecutionResumed
        | Verb::ExecutionCompleted
        | Verb::ExecutionFailed
        | Verb::ExecutionCanceled => "execution",
        Verb::NodeScheduled
        | Verb::NodeWaiting
        | Verb::NodeRetrying
        | Verb::NodeCompleted
        | Verb::NodeFailed
        | Verb::NodeSkipped
        | Verb::NodeCanceled
        | Verb::NodeInterrupted
        | Verb::NodeStarted => "node",
    };
    format!("{entity}.{}", verb.word())
}

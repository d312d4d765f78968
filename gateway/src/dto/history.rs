//! Entries of an execution's history.

use serde::{Deserialize, Serialize};
use troupe_core::execution::{
    AttemptOutcome, Decision, Entry, ErrorWorkflow, Event, LogLine, Remedy, Transition, Verb,
};
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
    /// What happened, in the past tense; `unchanged` where a command with an id found nothing to do.
    pub event: String,
    /// The node that it concerns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_id: Option<String>,
    /// The attempt that it concerns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<u32>,
    /// Whether that is an attempt of what undoes the node.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub compensation: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorDto>,
    /// Why an operator wanted it, if he said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
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
    /// `execution.<verb>`, `node.<verb>`, or `compensation.<verb>` of what undoes a node.
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
        compensation: false,
        error: None,
        reason: reason(&entry.event).cloned(),
        logs: Vec::new(),
        changes: entry
            .transitions
            .iter()
            .filter_map(|change| transition(*change, plan))
            .collect(),
        principal: entry.principal.as_ref().map(ToString::to_string),
        command: entry.command.as_ref().map(ToString::to_string),
    };
    if let Event::Signaled { node, .. } | Event::Heartbeat(node) | Event::Decided { node, .. } = &entry.event {
        shown.node_id = plan.nodes.get(node.at()).map(|node| node.key.to_string());
    }
    if let Event::ErrorWorkflow(ErrorWorkflow::Refused(info)) = &entry.event {
        shown.error = Some(ErrorDto::of(info));
    }
    if let Event::AttemptClosed(closed) = &entry.event {
        shown.node_id = plan.get(closed.token.node).map(|node| node.key.to_string());
        shown.compensation = plan.is_compensation(closed.token.node);
        shown.attempt = Some(closed.token.attempt.0);
        shown.logs = closed.logs.as_deref().cloned().unwrap_or_default();
        if let AttemptOutcome::Failed(failure) = &closed.outcome {
            shown.error = Some(ErrorDto::of(&failure.error));
        }
    }
    shown
}

fn reason(event: &Event) -> Option<&String> {
    match event {
        Event::CancelRequested { reason, .. } => reason.as_ref(),
        Event::Started(started) => started.rerun.as_ref()?.reason.as_ref(),
        Event::Reopened(reopened) => reopened.reason.as_ref(),
        _ => None,
    }
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
        Event::Signaled { .. } => "signaled",
        Event::Heartbeat(_) => "heartbeat",
        Event::Decided { decision, .. } => match decision {
            Decision::Complete(_) => "nodeCompletedByHand",
            Decision::Fail(_) => "nodeFailedByHand",
            Decision::Skip(_) => "nodeSkippedByHand",
        },
        Event::VariablesSet(_) if event.is_nothing() => "unchanged",
        Event::VariablesSet(_) => "variablesSet",
        Event::Children(_) => "childrenReported",
        Event::PausedWithParent => "pausedWithParent",
        Event::Frozen => "frozen",
        Event::FrozenWithParent => "frozenWithParent",
        Event::ControlsChanged(_) => "controlsChanged",
        Event::ResumedWithParent => "resumedWithParent",
        Event::Reopened(reopened) => match reopened.remedy {
            Remedy::Retry => "retried",
            Remedy::Skip(_) => "failureSkipped",
        },
        Event::Queued(_) => "queued",
        Event::Admitted => "admitted",
        Event::ErrorWorkflow(ErrorWorkflow::Began(_)) => "errorWorkflowStarted",
        Event::ErrorWorkflow(ErrorWorkflow::Refused(_)) => "errorWorkflowRefused",
    }
}

fn transition(change: Transition, plan: &Plan) -> Option<TransitionDto> {
    let ix = change.node_ix();
    let node = ix.and_then(|ix| plan.get(ix));
    let verb = change.verb()?;
    let kind = if ix.is_some_and(|ix| plan.is_compensation(ix)) {
        format!("compensation.{}", verb.word())
    } else {
        verb_name(verb)
    };
    Some(TransitionDto {
        kind,
        node_id: node.map(|node| node.key.to_string()),
    })
}

/// `<entity>.<verb>`, as events are named.
#[must_use]
pub fn verb_name(verb: Verb) -> String {
    format!("{}.{}", verb.entity(), verb.word())
}

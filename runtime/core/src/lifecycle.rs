//! Lifecycle events as sinks publish them, derived from log entries by a pure function.

use std::sync::Arc;

use crate::control::{BreakerOverride, Clocks, ControlEntry, ControlKey, Scope, Setting};
use crate::definition::EventExchange;
use crate::execution::{Answer, AttemptClosed, AttemptOutcome, Entry, Event, Verb};
use crate::id::{CommandId, ExecutionId, NodeIx, NodeKey, Seq, Timestamp, WorkflowId};
use crate::plan::Plan;
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
    /// Whether it is about what undoes the node, whose type is given then.
    pub compensates: bool,
    /// More about it: `attempt`, `output`, `error`; a JSON object.
    pub data: Json,
    /// How brokers publish it; none: they do not, only the API's own streams show it.
    pub outward: Option<Outward>,
}

/// How brokers publish an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outward {
    /// What goes out in place of its data, where its workflow has a template for that.
    pub payload: Option<Payload>,
    /// Exchanges that it goes to beside the usual one.
    pub exchanges: Arc<[EventExchange]>,
    /// W3C trace context of the execution's start, where that had one.
    pub trace_parent: Option<Arc<str>>,
}

/// What a payload template made of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The data that goes out.
    Made(Json),
    /// It gave nothing, and why: the ordinary data goes out.
    Failed(Arc<str>),
}

/// Something that happened to the system rather than to one execution: `system.<entity>.<verb>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemEvent {
    /// The command that did it: the same event has the same one, however often it is published.
    pub command: CommandId,
    /// When it happened.
    pub at: Timestamp,
    /// What it happened to: `engine`, `workflow`, `node`, `nodeType` or `breaker`.
    pub entity: &'static str,
    /// What happened: `paused`, `resumed`, `stopped`, `released`, `overridden` or `restored`.
    pub verb: &'static str,
    /// More about it: `workflow`, `node`, `nodeType`, `target`, `clocks`, `cancelRunning`, `state`, `by`, `reason`; a JSON object.
    pub data: Json,
}

/// The event of a control. A pure function, as [`derive`].
#[must_use]
pub fn derive_control(entry: &ControlEntry) -> SystemEvent {
    let text = |text: &str| Json::of(&serde_json::Value::from(text));
    let mut members: Vec<(&str, Json)> = Vec::new();
    let (entity, verbs) = match &entry.key {
        ControlKey::Pause(scope) => (entity_of(scope, &mut members), ["paused", "resumed"]),
        ControlKey::Stop(scope) => (entity_of(scope, &mut members), ["stopped", "released"]),
        ControlKey::Breaker(target) => {
            members.push(("target", text(target)));
            ("breaker", ["overridden", "restored"])
        }
    };
    match entry.setting {
        None | Some(Setting::Stopped { cancel_running: false }) => {}
        Some(Setting::Stopped { cancel_running: true }) => {
            members.push(("cancelRunning", Json::from_trusted("true")));
        }
        Some(Setting::Paused { clocks: Clocks::Run }) => members.push(("clocks", text("run"))),
        Some(Setting::Paused { clocks: Clocks::Freeze }) => members.push(("clocks", text("freeze"))),
        Some(Setting::Breaker(BreakerOverride::Open)) => members.push(("state", text("open"))),
        Some(Setting::Breaker(BreakerOverride::Closed)) => members.push(("state", text("closed"))),
    }
    members.extend(entry.principal.as_ref().map(|by| ("by", text(by.as_str()))));
    members.extend(entry.reason.as_ref().map(|reason| ("reason", text(reason))));
    SystemEvent {
        command: entry.command.clone(),
        at: entry.at,
        entity,
        verb: verbs[usize::from(entry.setting.is_none())],
        data: Json::object(members.iter().map(|(name, value)| (*name, value))),
    }
}

fn entity_of(scope: &Scope, members: &mut Vec<(&str, Json)>) -> &'static str {
    let text = |text: &str| Json::of(&serde_json::Value::from(text));
    match scope {
        Scope::All => "engine",
        Scope::Workflow(workflow) => {
            members.push(("workflow", text(workflow.as_str())));
            "workflow"
        }
        Scope::Node { workflow, node } => {
            members.push(("workflow", text(workflow.as_str())));
            members.push(("node", text(node.as_str())));
            "node"
        }
        Scope::NodeType(kind) => {
            members.push(("nodeType", text(kind)));
            "nodeType"
        }
    }
}

/// The events of one entry, in order. A pure function: publishing is never a second write.
///
/// Which of them brokers publish is decided by the plan alone. An attempt's start is no entry of its own, so `node.started` comes with the entry that closes the attempt, under the
/// time at which it truly started.
#[must_use]
pub fn derive(plan: &Plan, execution: ExecutionId, entry: &Entry) -> Vec<LifecycleEvent> {
    derive_wanted(plan, execution, entry, |_, _| true)
}

/// Those of [`derive`] that are wanted, by their verb and by whether brokers publish them: the others are not even made.
#[must_use]
pub fn derive_wanted(
    plan: &Plan,
    execution: ExecutionId,
    entry: &Entry,
    wanted: impl Fn(Verb, bool) -> bool,
) -> Vec<LifecycleEvent> {
    let closed = match &entry.event {
        Event::AttemptClosed(closed) => Some(closed.as_ref()),
        Event::Started(_)
        | Event::DeadlineReached
        | Event::Paused
        | Event::Resumed
        | Event::CancelRequested { .. }
        | Event::Interrupted
        | Event::Drained
        | Event::Signaled { .. }
        | Event::Heartbeat(_)
        | Event::Decided { .. }
        | Event::Children(_)
        | Event::PausedWithParent
        | Event::ResumedWithParent
        | Event::Reopened(_)
        | Event::Queued(_)
        | Event::Admitted
        | Event::Frozen
        | Event::FrozenWithParent
        | Event::ControlsChanged(_)
        | Event::ErrorWorkflow(_)
        | Event::VariablesSet(_) => None,
    };
    let mut events = Vec::new();
    let mut parts = 0..;
    let chosen = &plan.settings.events;
    let mut push = |at: Timestamp, verb: Verb, node: Option<NodeIx>, data: &dyn Fn() -> Json| {
        let part = parts.next().unwrap_or(u32::MAX);
        let is_outward = chosen.publishes(verb);
        if !wanted(verb, is_outward) {
            return;
        }
        let compensates = node.is_some_and(|ix| plan.is_compensation(ix));
        let node = node
            .and_then(|ix| plan.get(ix))
            .map(|node| (node.key.clone(), node.kind.as_str()));
        let workflow = plan.workflow.clone();
        let outward = is_outward.then(|| Outward {
            exchanges: Arc::clone(&chosen.exchanges),
            ..Outward::default()
        });
        events.push(LifecycleEvent {
            execution,
            workflow,
            seq: entry.seq,
            part,
            at,
            verb,
            node,
            compensates,
            data: data(),
            outward,
        });
    };
    if let Some(closed) = closed {
        push(closed.started_at, Verb::NodeStarted, Some(closed.token.node), &|| {
            attempt_data(closed, false)
        });
    }
    for transition in &entry.transitions {
        // A verb of a newer release has no name here yet.
        let Some(verb) = transition.verb() else { continue };
        let node = transition.node_ix();
        push(entry.at, verb, node, &|| match closed {
            Some(closed) if node == Some(closed.token.node) => attempt_data(closed, true),
            _ => match (&entry.event, verb) {
                (Event::Reopened(reopened), Verb::ExecutionStarted) => {
                    Json::object([("run", &Json::from_trusted(reopened.run.to_string()))])
                }
                _ => reused_data(entry, verb, node),
            },
        });
    }
    events
}

/// A node that completed without an attempt because an output was reused says so.
fn reused_data(entry: &Entry, verb: Verb, node: Option<NodeIx>) -> Json {
    let reused = entry.answers.iter().find_map(|answer| match answer {
        Answer::Cached(cached) if Some(cached.node) == node => cached.output.as_ref(),
        _ => None,
    });
    match reused.filter(|_| verb == Verb::NodeCompleted) {
        Some(output) => Json::object([("cached", &Json::from_trusted("true")), ("output", &output.shown())]),
        None => Json::object([]),
    }
}

/// What the report of an attempt tells: its number, and once it ended its output or error.
fn attempt_data(closed: &AttemptClosed, ended: bool) -> Json {
    let attempt = Json::from_trusted(closed.token.attempt.to_string());
    let result = match &closed.outcome {
        AttemptOutcome::Completed(output) => Some(("output", output.shown())),
        AttemptOutcome::Failed(failure) => Some(("error", failure.error.to_json())),
    };
    let result = result.as_ref().filter(|_| ended).map(|(name, value)| (*name, value));
    Json::object([("attempt", &attempt)].into_iter().chain(result))
}

//! What random executions meet of calls and interventions.

use troupe_core::definition::NodeKind;
use troupe_core::execution::{Decision, Entry, Event, Verb};
use troupe_core::{NodeIx, Visit};

use crate::support::duo::{Duo, Stimulus};

/// Every kind must be met.
pub const WANTED: [&str; 22] = [
    "call taken",
    "call kept",
    "kept call taken",
    "call in a later visit",
    "call fails the node",
    "heartbeat",
    "waited too long",
    "no heartbeat",
    "root webhook completed",
    "completed by hand",
    "failed by hand",
    "skipped by hand",
    "skipped with an output",
    "aborted by hand",
    "decided while paused",
    "failure by hand handled",
    "variables set",
    "refused call: NODE_NOT_WAITING",
    "refused call: SCHEMA_VIOLATION",
    "refused decision: NODE_NOT_WAITING",
    "refused decision: NODE_ENDED",
    "refused heartbeat: NODE_NOT_WAITING",
];

pub fn met(duo: &Duo) -> Vec<String> {
    let mut met: Vec<&str> = Vec::new();
    let mut refused = Vec::new();
    for (stimulus, code) in &duo.refused {
        let what = match stimulus {
            Stimulus::Signal { .. } => "call",
            Stimulus::Decide { .. } => "decision",
            Stimulus::Heartbeat { .. } => "heartbeat",
            _ => continue,
        };
        refused.push(format!("refused {what}: {code}"));
    }
    let (mut kept, mut paused) = (0, false);
    for (entry, effects) in &duo.log {
        match &entry.event {
            Event::Signaled { node, .. } if has(entry, *node, Verb::NodeCompleted) => met.push("call taken"),
            Event::Signaled { node, .. } if has(entry, *node, Verb::NodeFailed) => met.push("call fails the node"),
            Event::Signaled { .. } => kept += 1,
            Event::Heartbeat(_) => met.push("heartbeat"),
            Event::Decided { node, decision } => {
                met.push(match decision {
                    Decision::Complete(_) => "completed by hand",
                    Decision::Fail(_) => "failed by hand",
                    Decision::Skip(None) => "skipped by hand",
                    Decision::Skip(Some(_)) => "skipped with an output",
                });
                let aborts = |effect: &troupe_core::execution::Effect| matches!(effect, troupe_core::execution::Effect::AbortAttempt(token) if token.node == *node);
                met.extend(effects.iter().any(aborts).then_some("aborted by hand"));
                met.extend(paused.then_some("decided while paused"));
                let failed = &duo.state.nodes[node.at()].failure;
                let handled = matches!(decision, Decision::Fail(_))
                    && failed.as_ref().is_some_and(|failure| failure.payload.is_some());
                met.extend(handled.then_some("failure by hand handled"));
            }
            Event::VariablesSet(_) => met.push("variables set"),
            Event::Paused => paused = true,
            Event::Resumed => paused = false,
            _ => {}
        }
    }
    let left: usize = duo.state.signals.values().map(std::collections::VecDeque::len).sum();
    met.extend((kept > 0).then_some("call kept"));
    met.extend((kept > left).then_some("kept call taken"));
    for (planned, node) in duo.plan.nodes.iter().zip(&duo.state.nodes) {
        if planned.kind != NodeKind::Webhook {
            continue;
        }
        if planned.trigger.is_some() {
            met.extend((node.phase.name() == "completed").then_some("root webhook completed"));
            continue;
        }
        match node.failure.as_ref().map(|failure| failure.error.code.as_str()) {
            Some("TIMEOUT") => met.push("waited too long"),
            Some("HEARTBEAT_TIMEOUT") => met.push("no heartbeat"),
            _ => {}
        }
        let again = node.visit > Visit(1) && node.phase.name() == "completed";
        met.extend(again.then_some("call in a later visit"));
    }
    met.into_iter().map(str::to_owned).chain(refused).collect()
}

fn has(entry: &Entry, node: NodeIx, verb: Verb) -> bool {
    let mut transitions = entry.transitions.iter();
    transitions.any(|transition| transition.node_ix() == Some(node) && transition.verb() == Some(verb))
}

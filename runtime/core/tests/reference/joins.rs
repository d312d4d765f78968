//! §2: what a join decides, from the messages that arrived so far.

use serde_json::Value;
use troupe_core::definition::WorkflowDefinition;

use super::definition::{incoming, join_field, node, texts};

/// What follows for a node from its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wait,
    Ready,
    Skip,
    Fail,
}

/// What the messages over a node's incoming edges decide; `edges` holds none for an open one, else whether it is taken.
pub fn verdict(definition: &WorkflowDefinition, id: &str, edges: &[Option<bool>]) -> Verdict {
    let target = node(definition, id);
    let mine = incoming(definition, id);
    let count = |state: Option<bool>| mine.iter().filter(|&&edge| edges[edge] == state).count();
    let (open, taken, dead) = (count(None), count(Some(true)), count(Some(false)));
    if dead == mine.len() {
        return Verdict::Skip;
    }
    let quorum = join_field(target, "count").and_then(Value::as_u64).unwrap_or(1) as usize;
    let (enough, possible) = match join_field(target, "mode").and_then(Value::as_str).unwrap_or("all") {
        "all" => (open == 0 && taken >= 1, taken + open >= 1),
        "allSuccess" => (taken == mine.len(), dead == 0),
        "any" => (taken >= 1, taken + open >= 1),
        "quorum" => (taken >= quorum, taken + open >= quorum),
        other => panic!("no join mode {other}"),
    };
    if enough && required_taken(definition, id, edges) {
        Verdict::Ready
    } else if taken >= 1 && (!possible || required_lost(definition, id, edges)) {
        unsatisfied(definition, id)
    } else {
        Verdict::Wait
    }
}

/// What the deadline of a join that still waits decides.
pub fn at_deadline(definition: &WorkflowDefinition, id: &str, edges: &[Option<bool>]) -> Verdict {
    match join_field(node(definition, id), "onTimeout")
        .and_then(Value::as_str)
        .unwrap_or("fail")
    {
        "skip" => Verdict::Skip,
        "proceed" => {
            let any_taken = incoming(definition, id)
                .into_iter()
                .any(|edge| edges[edge] == Some(true));
            if any_taken && required_taken(definition, id, edges) {
                Verdict::Ready
            } else {
                unsatisfied(definition, id)
            }
        }
        _ => Verdict::Fail,
    }
}

fn unsatisfied(definition: &WorkflowDefinition, id: &str) -> Verdict {
    match join_field(node(definition, id), "onUnsatisfied").and_then(Value::as_str) {
        Some("fail") => Verdict::Fail,
        _ => Verdict::Skip,
    }
}

fn required(definition: &WorkflowDefinition, id: &str) -> Vec<String> {
    texts(join_field(node(definition, id), "required"))
}

fn from_source(definition: &WorkflowDefinition, id: &str, source: &str) -> Vec<usize> {
    incoming(definition, id)
        .into_iter()
        .filter(|&edge| definition.edges[edge].source == source)
        .collect()
}

fn required_taken(definition: &WorkflowDefinition, id: &str, edges: &[Option<bool>]) -> bool {
    required(definition, id).iter().all(|source| {
        from_source(definition, id, source)
            .into_iter()
            .any(|edge| edges[edge] == Some(true))
    })
}

/// A required source is lost when all its edges are dead (§8.5).
fn required_lost(definition: &WorkflowDefinition, id: &str, edges: &[Option<bool>]) -> bool {
    required(definition, id).iter().any(|source| {
        from_source(definition, id, source)
            .into_iter()
            .all(|edge| edges[edge] == Some(false))
    })
}

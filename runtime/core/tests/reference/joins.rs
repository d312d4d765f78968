//! §2: what a join decides, from the messages that arrived so far.

use serde_json::Value;

use super::definition::{join_field, node, texts};
use super::state::{Edge, Reference};

/// What follows for a node from its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wait,
    Ready,
    Skip,
    Fail,
}

/// What the messages over a node's incoming edges decide; one that is held has not arrived.
pub fn verdict(execution: &Reference, id: &str) -> Verdict {
    let target = node(&execution.definition, id);
    let mine = execution.entries(id);
    let count = |state| mine.iter().filter(|&&edge| execution.edges[edge] == state).count();
    let (taken, dead) = (count(Edge::Resolved(true)), count(Edge::Resolved(false)));
    let open = mine.len() - taken - dead;
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
    if enough && required_taken(execution, id) {
        Verdict::Ready
    } else if taken >= 1 && (!possible || required_lost(execution, id)) {
        unsatisfied(execution, id)
    } else {
        Verdict::Wait
    }
}

/// What the deadline of a join that still waits decides.
pub fn at_deadline(execution: &Reference, id: &str) -> Verdict {
    match join_field(node(&execution.definition, id), "onTimeout")
        .and_then(Value::as_str)
        .unwrap_or("fail")
    {
        "skip" => Verdict::Skip,
        "proceed" => {
            let any_taken = execution
                .entries(id)
                .into_iter()
                .any(|edge| execution.edges[edge] == Edge::Resolved(true));
            if any_taken && required_taken(execution, id) {
                Verdict::Ready
            } else {
                unsatisfied(execution, id)
            }
        }
        _ => Verdict::Fail,
    }
}

fn unsatisfied(execution: &Reference, id: &str) -> Verdict {
    match join_field(node(&execution.definition, id), "onUnsatisfied").and_then(Value::as_str) {
        Some("fail") => Verdict::Fail,
        _ => Verdict::Skip,
    }
}

fn required(execution: &Reference, id: &str) -> Vec<String> {
    texts(join_field(node(&execution.definition, id), "required"))
}

fn from_source(execution: &Reference, id: &str, source: &str) -> Vec<usize> {
    execution
        .entries(id)
        .into_iter()
        .filter(|&edge| execution.way(edge).source == source)
        .collect()
}

fn required_taken(execution: &Reference, id: &str) -> bool {
    required(execution, id).iter().all(|source| {
        from_source(execution, id, source)
            .into_iter()
            .any(|edge| execution.edges[edge] == Edge::Resolved(true))
    })
}

/// A required source is lost when all its edges are dead (§8.5).
fn required_lost(execution: &Reference, id: &str) -> bool {
    required(execution, id).iter().any(|source| {
        from_source(execution, id, source)
            .into_iter()
            .all(|edge| execution.edges[edge] == Edge::Resolved(false))
    })
}

//! Joins that can never be met.

use std::collections::BTreeMap;

use super::{Context, NODES};
use crate::definition::problems::did_you_mean;
use crate::definition::{EdgeKind, JoinMode, JoinSettings, code};

/// Edges of one source, by when they are taken.
#[derive(Default)]
struct Takeable {
    after_success: usize,
    after_failure: usize,
    always: usize,
}

pub(super) fn check(context: &mut Context<'_>) {
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        let join = JoinSettings::read(node, &path, &mut context.problems);
        if !node.data.get("join").is_some_and(serde_json::Value::is_object) {
            continue;
        }
        let edges = context.entries(at).count();
        let most = takeable(context, at);
        let data = path.key("data");
        let place = data.key("join");
        match join.mode {
            JoinMode::Quorum { count } if count as usize > most => {
                let message = format!("{count} edges must be taken, but at most {most} of {edges} can be");
                context
                    .problems
                    .error(code::JOIN_IMPOSSIBLE, &place.key("count"), message);
            }
            JoinMode::AllSuccess if most < edges => {
                let message = format!(
                    "all {edges} edges must be taken, but at most {most} can be: success and failure edges of one node \
                     exclude each other"
                );
                context
                    .problems
                    .error(code::JOIN_IMPOSSIBLE, &place.key("mode"), message);
            }
            JoinMode::All | JoinMode::AllSuccess | JoinMode::Any | JoinMode::Quorum { .. } => {}
        }
        if edges == 0 {
            context
                .problems
                .warning(code::INVALID_VALUE, &place, "the node has no incoming edges to join");
        }
        for (number, required) in join.required.iter().enumerate() {
            let parents: Vec<&str> = context
                .entries(at)
                .map(|edge| context.edge(edge).source.as_str())
                .collect();
            if parents.contains(&required.as_str()) {
                continue;
            }
            let list = place.key("required");
            let entry = list.index(number);
            let hint = did_you_mean(required, parents.iter().copied());
            let (code, message) = if context.index.contains_key(required.as_str()) {
                (
                    code::JOIN_IMPOSSIBLE,
                    format!("no edge comes in from `{required}`, so it can never be among the taken"),
                )
            } else {
                (code::UNKNOWN_NODE, format!("there is no node `{required}`"))
            };
            context.problems.error_hint(code, &entry, message, hint);
        }
    }
}

/// How many incoming edges can be taken together at most.
fn takeable(context: &Context<'_>, at: usize) -> usize {
    let mut sources: BTreeMap<usize, Takeable> = BTreeMap::new();
    for edge in context.entries(at) {
        let entry = sources.entry(context.source(edge)).or_default();
        match context.edge(edge).kind() {
            Some(EdgeKind::Failure) => entry.after_failure += 1,
            Some(EdgeKind::Always) => entry.always += 1,
            Some(EdgeKind::Default | EdgeKind::Success) | None => entry.after_success += 1,
        }
    }
    sources
        .into_values()
        .map(|edges| edges.always + edges.after_success.max(edges.after_failure))
        .sum()
}

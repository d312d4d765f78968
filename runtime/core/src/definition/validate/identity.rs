//! Limits, ids, duplicates, types and references.

use std::collections::HashMap;

use super::{Context, EDGES, NODES, ROOT};
use crate::definition::problems::did_you_mean_or_list;
use crate::definition::{Diagnostic, EdgeKind, NodeKind, Path, code};

/// Checks the limits; beyond them nothing else is looked at.
pub(super) fn within_limits(context: &mut Context<'_>) -> bool {
    let (nodes, edges) = (context.definition.nodes.len(), context.definition.edges.len());
    let limits = context.limits;
    if nodes > limits.nodes_max {
        let message = format!("{nodes} nodes are more than the limit of {}", limits.nodes_max);
        context.problems.error(code::TOO_MANY_NODES, &NODES, message);
    }
    if edges > limits.edges_max {
        let message = format!("{edges} edges are more than the limit of {}", limits.edges_max);
        context.problems.error(code::TOO_MANY_EDGES, &EDGES, message);
    }
    nodes <= limits.nodes_max && edges <= limits.edges_max
}

pub(super) fn check(context: &mut Context<'_>) {
    check_id_length(context, &context.definition.id, &ROOT.key("id"));
    if context.definition.nodes.is_empty() && !context.definition.extra.contains_key("nodes") {
        context.problems.error_hint(
            code::NO_NODES,
            &NODES,
            "a workflow needs at least one node",
            "add one to `nodes`, for instance {id: start, type: trigger}".to_owned(),
        );
    }
    check_nodes(context);
    check_edges(context);
    check_duplicate_edges(context);
}

fn check_nodes(context: &mut Context<'_>) {
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        check_id(context, &node.id, &path);
        if !node.id.is_empty() && context.index[node.id.as_str()] != at {
            let first = context.index[node.id.as_str()];
            let message = format!("the id `{}` is also that of node {first}", node.id);
            context
                .problems
                .error(code::DUPLICATE_NODE_ID, &path.key("id"), message);
        }
        if node.node_type.is_empty() {
            if !node.extra.contains_key("type") {
                context
                    .problems
                    .error(code::MISSING_FIELD, &path, "a node needs a `type`");
            }
        } else if node.kind().is_none() {
            let message = format!("`{}` is no node type", node.node_type);
            let hint = did_you_mean_or_list(&node.node_type, NodeKind::WORDS);
            context
                .problems
                .error_hint(code::UNKNOWN_NODE_TYPE, &path.key("type"), message, hint);
        }
    }
}

fn check_edges(context: &mut Context<'_>) {
    let mut first: HashMap<&str, usize> = HashMap::with_capacity(context.definition.edges.len());
    for (at, edge) in context.definition.edges.iter().enumerate() {
        let path = EDGES.index(at);
        // The id may be one that was derived from the ends and is longer than both.
        if edge.id.len() > context.limits.id_bytes_max.saturating_mul(2).saturating_add(32) {
            check_id_length(context, &edge.id, &path.key("id"));
        }
        let earlier = *first.entry(&edge.id).or_insert(at);
        if earlier != at {
            let message = format!("the id `{}` is also that of edge {earlier}", edge.id);
            context
                .problems
                .error(code::DUPLICATE_EDGE_ID, &path.key("id"), message);
        }
        check_end(context, "source", &edge.source, &path);
        check_end(context, "target", &edge.target, &path);
        if let (None, Some(text)) = (edge.kind(), &edge.edge_type) {
            let message = format!("`{text}` is no edge type");
            let hint = did_you_mean_or_list(text, EdgeKind::WORDS);
            context
                .problems
                .error_hint(code::UNKNOWN_EDGE_TYPE, &path.key("type"), message, hint);
        }
        if edge.errors.is_some() && edge.kind().is_some_and(|kind| kind != EdgeKind::Failure) {
            let message = "`errors` applies to edges of type `failure` only";
            context
                .problems
                .warning(code::INVALID_VALUE, &path.key("errors"), message);
        }
    }
}

fn check_end(context: &mut Context<'_>, name: &'static str, id: &str, path: &Path<'_>) {
    if id.is_empty() {
        if !context.definition.edges.is_empty() {
            context
                .problems
                .error(code::MISSING_FIELD, path, format!("an edge needs a `{name}`"));
        }
    } else if !context.index.contains_key(id) {
        let hint = context.node_hint(id);
        context.problems.error_hint(
            code::UNKNOWN_NODE,
            &path.key(name),
            format!("there is no node `{id}`"),
            hint,
        );
    }
}

fn check_id(context: &mut Context<'_>, id: &str, owner: &Path<'_>) {
    if id.is_empty() {
        context
            .problems
            .error(code::MISSING_FIELD, owner, "a node needs an `id`");
    } else if id.chars().any(char::is_control) {
        context.problems.error(
            code::INVALID_VALUE,
            &owner.key("id"),
            "an id holds no control characters",
        );
    }
    check_id_length(context, id, &owner.key("id"));
}

fn check_id_length(context: &mut Context<'_>, id: &str, path: &Path<'_>) {
    let most = context.limits.id_bytes_max;
    if id.len() > most {
        let message = format!("the id is {} bytes long, the limit is {most}", id.len());
        context.problems.error(code::ID_TOO_LONG, path, message);
    }
}

/// Two edges that say the same would count twice at a join.
fn check_duplicate_edges(context: &mut Context<'_>) {
    type Meaning<'a> = (
        &'a str,
        &'a str,
        Option<EdgeKind>,
        Option<&'a str>,
        Option<&'a str>,
        Option<&'a str>,
    );
    let mut seen: HashMap<Meaning<'_>, usize> = HashMap::with_capacity(context.definition.edges.len());
    for (at, edge) in context.definition.edges.iter().enumerate() {
        if edge.source.is_empty() || edge.target.is_empty() {
            continue;
        }
        let meaning = (
            edge.source.as_str(),
            edge.target.as_str(),
            edge.kind(),
            edge.condition.as_deref(),
            edge.source_handle.as_deref(),
            edge.target_handle.as_deref(),
        );
        let earlier = *seen.entry(meaning).or_insert(at);
        if earlier != at {
            let message = format!(
                "the edge says the same as edge {earlier}, from `{}` to `{}`",
                edge.source, edge.target
            );
            let diagnostic = Diagnostic::error(code::DUPLICATE_EDGE, EDGES.index(at).pointer(), message);
            context
                .problems
                .push(diagnostic.with_hint("remove one of the two".to_owned()));
        }
    }
}

//! What is written at loops, cancel regions and ends.

use std::collections::HashSet;

use super::{Context, EDGES, NODES, decisions};
use crate::definition::problems::did_you_mean_or_list;
use crate::definition::read::describe;
use crate::definition::view::is_template;
use crate::definition::{Diagnostic, EdgeKind, Node, NodeKind, Path, code};

/// What `data.status` of an `end` node may say.
const STATUSES: [&str; 3] = ["completed", "failed", "canceled"];
/// Edges followed in all before the search for exits that compete with back edges gives up.
const STEPS_MAX: usize = 5_000_000;

pub(super) fn check(context: &mut Context<'_>) {
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        check_iterations(context, at, node, &path);
        check_cancels(context, at, node, &path);
        if node.kind() == Some(NodeKind::End) {
            check_end(context, at, node, &path);
        }
    }
    warn_of_competing_exits(context);
}

fn check_iterations(context: &mut Context<'_>, at: usize, node: &Node, path: &Path<'_>) {
    let Some(value) = node.field("maxIterations") else {
        return;
    };
    let data = path.key("data");
    let place = data.key("maxIterations");
    let templated = value.as_str().is_some_and(is_template);
    if !templated && value.as_u64().is_none_or(|most| most == 0) {
        let message = format!(
            "`maxIterations` must be a whole number from 1, this is {}",
            describe(value)
        );
        context.problems.error(code::INVALID_VALUE, &place, message);
    }
    let is_header =
        context.loops.innermost[at].is_some_and(|one| context.loops.loops[one as usize].header as usize == at);
    if !is_header && node.kind() != Some(NodeKind::Loop) {
        let message = "`maxIterations` counts the passes of a loop at its header, and this node is none";
        context.problems.warning(code::INVALID_VALUE, &place, message);
    }
}

fn check_cancels(context: &mut Context<'_>, at: usize, node: &Node, path: &Path<'_>) {
    let Some(value) = node.field("cancels") else { return };
    let data = path.key("data");
    let place = data.key("cancels");
    let Some(items) = value.as_array() else {
        let message = format!("`cancels` must be a list of node ids, this is {}", describe(value));
        return context.problems.error(code::FIELD_TYPE, &place, message);
    };
    for (number, item) in items.iter().enumerate() {
        let place = place.index(number);
        let Some(id) = item.as_str() else {
            let message = format!("a node id is a string, this is {}", describe(item));
            context.problems.error(code::FIELD_TYPE, &place, message);
            continue;
        };
        match context.index.get(id).copied() {
            None => {
                let hint = context.node_hint(id);
                let message = format!("there is no node `{id}`");
                context.problems.error_hint(code::UNKNOWN_NODE, &place, message, hint);
            }
            Some(other) if context.loops.innermost[other] != context.loops.innermost[at] => {
                let message = format!(
                    "`{id}` is not in the same loop as `{}`: a region does not cross a loop",
                    node.id
                );
                context.problems.error(code::INVALID_VALUE, &place, message);
            }
            Some(_) => {}
        }
    }
}

fn check_end(context: &mut Context<'_>, at: usize, node: &Node, path: &Path<'_>) {
    let data = path.key("data");
    if let Some(status) = node.field("status") {
        let place = data.key("status");
        match status.as_str() {
            None => {
                let message = format!("`status` must be a string, this is {}", describe(status));
                context.problems.error(code::FIELD_TYPE, &place, message);
            }
            Some(text) if !STATUSES.contains(&text) && !is_template(text) => {
                let message = format!("`{text}` is not a value of `status`");
                let hint = did_you_mean_or_list(text, &STATUSES);
                context.problems.error_hint(code::INVALID_VALUE, &place, message, hint);
            }
            Some(_) => {}
        }
    }
    if let Some(error) = node.field("error") {
        let place = data.key("error");
        for name in ["code", "message"] {
            if error.get(name).is_some_and(|value| !value.is_string()) {
                let message = format!("`{name}` must be a string");
                context.problems.error(code::FIELD_TYPE, &place.key(name), message);
            }
        }
        if !error.is_object() {
            let message = format!(
                "`error` must be an object with `code` and `message`, this is {}",
                describe(error)
            );
            context.problems.error(code::FIELD_TYPE, &place, message);
        } else if node
            .text_field("status")
            .is_none_or(|status| status == "completed" || status == "canceled")
        {
            let message = "`error` applies only with `status: \"failed\"`";
            context.problems.warning(code::INVALID_VALUE, &place, message);
        }
    }
    if let Some(&edge) = context.outgoing[at].first() {
        let message = format!("`{}` ends the execution: what its edges lead to never runs", node.id);
        let diagnostic = Diagnostic::warning(code::INVALID_VALUE, EDGES.index(edge).pointer(), message);
        context.problems.push(diagnostic);
    }
}

/// An exit that can be taken in a generation after which the loop goes on is dropped then, which may surprise.
fn warn_of_competing_exits(context: &mut Context<'_>) {
    let mut steps_left = STEPS_MAX;
    for number in 0..context.loops.loops.len() {
        let header = context.loops.loops[number].header as usize;
        let holds = |at: usize| context.holds(number as u32, at);
        let members: Vec<usize> = (0..context.definition.nodes.len()).filter(|at| holds(*at)).collect();
        let cost = context.definition.nodes.len() + members.iter().map(|at| context.outgoing[*at].len()).sum::<usize>();
        let Some(left) = steps_left.checked_sub(cost) else {
            return;
        };
        steps_left = left;
        let out = members.iter().flat_map(|at| context.outgoing[*at].iter().copied());
        let (back, exits): (Vec<usize>, Vec<usize>) = out
            .filter(|edge| context.target(*edge) == header || !holds(context.target(*edge)))
            .partition(|edge| context.target(*edge) == header);
        let mut competing = None;
        'exits: for exit in exits {
            // A failure exit wins, it is never dropped.
            if context.edge(exit).kind() == Some(EdgeKind::Failure) {
                continue;
            }
            for &repeat in &back {
                let Some(left) = steps_left.checked_sub(cost) else {
                    return;
                };
                steps_left = left;
                if !exclude_each_other(context, &members, header, exit, repeat) {
                    competing = Some((exit, repeat));
                    break 'exits;
                }
            }
        }
        if let Some((exit, repeat)) = competing {
            let nodes = &context.definition.nodes;
            let (from, to) = (&nodes[context.source(exit)].id, &nodes[context.target(exit)].id);
            let message = format!(
                "the edge from `{from}` to `{to}` leaves the loop of `{}` and can be taken in the same pass as the edge back \
                 from `{}`: it counts in the last pass only, so `{to}` runs once, after the loop",
                nodes[header].id,
                nodes[context.source(repeat)].id
            );
            let hint = format!("if `{to}` belongs to every pass, lead an edge from it back into the loop");
            let diagnostic = Diagnostic::warning(code::LOOP_EXIT_DROPPED, EDGES.index(exit).pointer(), message);
            context.problems.push(diagnostic.with_hint(hint));
        }
    }
}

/// Whether a fork of the loop, without which neither edge is reached, takes the way to one or that to the other.
fn exclude_each_other(context: &Context<'_>, members: &[usize], header: usize, exit: usize, repeat: usize) -> bool {
    let (to_exit, to_repeat) = (leading_to(context, header, exit), leading_to(context, header, repeat));
    members.iter().any(|&fork| {
        let apart = match (
            choices(context, fork, exit, &to_exit),
            choices(context, fork, repeat, &to_repeat),
        ) {
            (Some(one), Some(other)) => !one.is_empty() && !other.is_empty() && one.is_disjoint(&other),
            _ => false,
        };
        apart && passes(context, header, fork, exit) && passes(context, header, fork, repeat)
    })
}

/// The source of an edge and everything in the pass that leads to it.
fn leading_to(context: &Context<'_>, header: usize, edge: usize) -> HashSet<usize> {
    let mut found = HashSet::from([context.source(edge)]);
    let mut open = vec![context.source(edge)];
    while let Some(at) = open.pop() {
        if at == header {
            continue;
        }
        for before in context.entries(at) {
            if found.insert(context.source(before)) {
                open.push(context.source(before));
            }
        }
    }
    found
}

/// Whether every way from the header to an edge comes through `fork`.
fn passes(context: &Context<'_>, header: usize, fork: usize, edge: usize) -> bool {
    let mut seen = HashSet::from([context.source(edge)]);
    let mut open = vec![context.source(edge)];
    while let Some(at) = open.pop() {
        if at == fork {
            continue;
        }
        if at == header {
            return false;
        }
        for before in context.entries(at) {
            if seen.insert(context.source(before)) {
                open.push(context.source(before));
            }
        }
    }
    true
}

/// The choices of a fork that lead to an edge; none where one of them excludes nothing.
fn choices(
    context: &Context<'_>,
    fork: usize,
    edge: usize,
    leading: &HashSet<usize>,
) -> Option<HashSet<decisions::Choice>> {
    let leads =
        |out: &&usize| **out == edge || (!context.is_back_edge(**out) && leading.contains(&context.target(**out)));
    decisions::choices(context, fork, context.outgoing[fork].iter().filter(leads).copied())
}

//! Reachability, and cycles that are no loops or could never end.

use super::{Context, NODES};
use crate::definition::{Diagnostic, code};
use crate::plan::LOOP_DEPTH_MAX;

/// Ids named in one message.
const NAMED_MAX: usize = 8;

pub(super) fn check(context: &mut Context<'_>) {
    check_reachability(context);
    check_entries(context);
    check_exits(context);
}

/// Reports nodes that no root reaches; they would never run.
fn check_reachability(context: &mut Context<'_>) {
    for (at, node) in context.nodes() {
        // A second node of one id has no edges of its own to be reached by.
        if !context.loops.reached[at] && context.index[node.id.as_str()] == at {
            let message = format!("no root reaches the node `{}`: it would never run", node.id);
            let hint = "every way to it starts in a cycle; lead an edge from a node outside into it".to_owned();
            let diagnostic = Diagnostic::error(code::UNREACHABLE_NODE, NODES.index(at).pointer(), message);
            context.problems.push(diagnostic.with_hint(hint));
        }
    }
}

/// Reports cycles with several entries: no node of them could count the passes.
fn check_entries(context: &mut Context<'_>) {
    for (one, other) in context.loops.irreducible.clone() {
        let doors = [one as usize, other as usize].map(|at| format!("`{}`", context.definition.nodes[at].id));
        let [first, second] = &doors;
        let message =
            format!("a cycle is entered both at {first} and at {second}: a loop has one node that all entries lead to");
        let hint = "lead every edge that comes from outside to the same node of the cycle".to_owned();
        let diagnostic = Diagnostic::error(code::IRREDUCIBLE_CYCLE, NODES.index(one as usize).pointer(), message);
        context.problems.push(diagnostic.with_hint(hint));
    }
}

/// Reports loops that nothing leaves and those that nest too deep.
fn check_exits(context: &mut Context<'_>) {
    let count = context.loops.loops.len();
    let mut has_exit = vec![false; count];
    for (source, target) in context.ends.iter().flatten() {
        let mut around = context.loops.innermost[*source];
        while let Some(at) = around.filter(|at| !context.holds(*at, *target)) {
            has_exit[at as usize] = true;
            around = context.loops.loops[at as usize].parent;
        }
    }
    let mut depths: Vec<usize> = Vec::with_capacity(count);
    for (number, has_exit) in has_exit.into_iter().enumerate() {
        let found = &context.loops.loops[number];
        let header = found.header as usize;
        let depth = found.parent.map_or(1, |parent| depths[parent as usize] + 1);
        depths.push(depth);
        let path = NODES.index(header);
        if !has_exit {
            let members: Vec<usize> = (0..context.definition.nodes.len())
                .filter(|at| context.holds(number as u32, *at))
                .collect();
            let named = name_list(context, &members);
            let message = format!("nothing leaves the loop through {named}: it could never end");
            context.problems.error(code::LOOP_WITHOUT_EXIT, &path, message);
        }
        if depth == LOOP_DEPTH_MAX + 1 {
            let message = format!("loops nest at most {LOOP_DEPTH_MAX} deep, this one is in {}", depth - 1);
            context.problems.error(code::NESTING_TOO_DEEP, &path, message);
        }
    }
}

fn name_list(context: &Context<'_>, members: &[usize]) -> String {
    let names: Vec<String> = members
        .iter()
        .take(NAMED_MAX)
        .map(|&at| format!("`{}`", context.definition.nodes[at].id))
        .collect();
    match members.len().saturating_sub(NAMED_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

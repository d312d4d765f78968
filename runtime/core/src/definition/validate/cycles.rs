//! Reachability and cycles.

use super::{Context, NODES};
use crate::definition::{Diagnostic, code};
use crate::graph::Structure;

/// Ids named in one message.
const NAMED_MAX: usize = 8;

pub(super) fn check(context: &mut Context<'_>) {
    let reached = check_reachability(context);
    let structure = Structure::new(&context.definition.nodes, &context.definition.edges);
    for cycle in structure.cycles() {
        // The structure knows each id once; a duplicate is reported elsewhere.
        let members: Vec<usize> = cycle
            .iter()
            .filter_map(|id| context.index.get(&**id).copied())
            .collect();
        check_cycle(context, &members, &reached);
    }
}

/// Reports nodes that no root reaches; they would never run.
fn check_reachability(context: &mut Context<'_>) -> Vec<bool> {
    let mut reached = vec![false; context.definition.nodes.len()];
    let mut open = context.roots();
    for &root in &open {
        reached[root] = true;
    }
    while let Some(at) = open.pop() {
        for &edge in &context.outgoing[at] {
            let target = context.target(edge);
            if !std::mem::replace(&mut reached[target], true) {
                open.push(target);
            }
        }
    }
    for (at, node) in context.nodes() {
        // A second node of one id has no edges of its own to be reached by.
        if !reached[at] && context.index[node.id.as_str()] == at {
            let message = format!("no root reaches the node `{}`: it would never run", node.id);
            let hint = "every way to it starts in a cycle; lead an edge from a node outside into it".to_owned();
            let diagnostic = Diagnostic::error(code::UNREACHABLE_NODE, NODES.index(at).pointer(), message);
            context.problems.push(diagnostic.with_hint(hint));
        }
    }
    reached
}

fn check_cycle(context: &mut Context<'_>, members: &[usize], reached: &[bool]) {
    let Some(&first) = members.iter().min() else { return };
    let mut inside = std::collections::HashSet::with_capacity(members.len());
    inside.extend(members.iter().copied());
    let named = name_list(context, members);
    let entered = |at: &usize| {
        context.incoming[*at]
            .iter()
            .any(|&edge| !inside.contains(&context.source(edge)))
    };
    let entries: Vec<usize> = members.iter().copied().filter(entered).collect();
    let leaves = |at: &usize| {
        context.outgoing[*at]
            .iter()
            .any(|&edge| !inside.contains(&context.target(edge)))
    };
    let has_exit = members.iter().any(leaves);
    let header = entries.first().copied().unwrap_or(first);
    let path = NODES.index(header);
    if entries.len() > 1 && reached[first] {
        let doors = name_list(context, &entries);
        let message =
            format!("the cycle through {named} is entered at {doors}: a loop has one node that all entries lead to");
        context.problems.error(code::IRREDUCIBLE_CYCLE, &path, message);
    }
    if !has_exit {
        let message = format!("nothing leaves the loop through {named}: it could never end");
        context.problems.error(code::LOOP_WITHOUT_EXIT, &path, message);
    }
    let message = format!("this release cannot run loops yet; there is one through {named}");
    context.problems.error(code::UNSUPPORTED, &path, message);
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

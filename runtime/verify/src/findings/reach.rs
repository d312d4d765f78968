//! Nodes, joins and edges that no outcome reaches, and cancel regions that cancel nothing.

use std::collections::BTreeSet;

use troupe_core::definition::{EdgeKind, JoinMode};
use troupe_core::execution::StepError;
use troupe_core::{EdgeIx, NodeIx};

use super::{Found, finding};
use crate::explore::Search;
use crate::report;
use crate::story::{list, quoted};

pub(super) fn check(found: &mut Found<'_, '_>) -> Result<(), StepError> {
    if !found.is_complete() {
        return Ok(());
    }
    let compiled = found.search.compiled;
    for node in compiled.node_ixs() {
        if found.search.observed.started[node.at()].is_none() {
            check_node(found, node)?;
        }
    }
    for edge in compiled.edge_ixs() {
        check_edge(found, edge)?;
    }
    for node in compiled.node_ixs() {
        check_region(found, node)?;
    }
    Ok(())
}

fn runs(search: &Search<'_>, node: NodeIx) -> bool {
    search.observed.started[node.at()].is_some()
}

fn check_node(found: &mut Found<'_, '_>, node: NodeIx) -> Result<(), StepError> {
    let compiled = found.search.compiled;
    let planned = compiled.plan.node(node);
    let observed = &found.search.observed;
    let incoming: Vec<EdgeIx> = planned
        .incoming
        .iter()
        .copied()
        .filter(|edge| !compiled.plan.is_back_edge(*edge))
        .collect();
    let is_reached = incoming.iter().any(|edge| observed.taken[edge.at()]);
    let from_running: Vec<EdgeIx> = incoming
        .iter()
        .copied()
        .filter(|edge| runs(found.search, compiled.plan.edge(*edge).source))
        .collect();
    if from_running.is_empty() {
        // It follows one that is reported.
        return Ok(());
    }
    let never_ends = |edge: &EdgeIx| super::waits::never_ends(found.search, compiled.plan.edge(*edge).source);
    if from_running.iter().all(never_ends) {
        // It follows a wait that is reported.
        return Ok(());
    }
    let behind = behind(found.search, node);
    let mut why = if is_reached {
        join_reason(found.search, node, &incoming)
    } else {
        let reasons: Vec<String> = from_running
            .iter()
            .map(|edge| edge_reason(found.search, *edge))
            .collect();
        reasons.join("; ")
    };
    if !behind.is_empty() {
        why = format!("{why}; {} can never run either", list(&behind));
    }
    let passed_by = observed.passed_by[node.at()].as_ref().map(|(_, seen)| seen);
    let decided = from_running.iter().filter_map(|edge| observed.dead[edge.at()].as_ref());
    let decided = decided.min_by_key(|seen| (seen.level, seen.depth));
    let sources = from_running
        .iter()
        .filter_map(|edge| observed.started[compiled.plan.edge(*edge).source.at()].as_ref());
    let example = if is_reached {
        passed_by.or(decided)
    } else {
        decided.or(passed_by)
    };
    let example = example
        .or_else(|| sources.min_by_key(|seen| (seen.level, seen.depth)))
        .cloned();
    let key = compiled.key(node).to_owned();
    let mut finding = if is_reached && planned.entries > 1 {
        finding(
            report::JOIN_NEVER_FIRES,
            vec![key.clone()],
            format!("the join of `{key}` never fires"),
            why,
        )
    } else {
        finding(
            report::NODE_NEVER_RUNS,
            vec![key.clone()],
            format!("`{key}` never runs"),
            why,
        )
    };
    finding.edges = from_running
        .iter()
        .map(|edge| compiled.plan.edge(*edge).id.clone())
        .collect();
    found.add(finding, example.as_ref())
}

/// Nodes that never run because this one does not.
pub(super) fn behind(search: &Search<'_>, node: NodeIx) -> Vec<String> {
    let compiled = search.compiled;
    let mut seen = BTreeSet::from([node]);
    let mut open = vec![node];
    let mut names = Vec::new();
    while let Some(at) = open.pop() {
        for edge in &compiled.plan.node(at).outgoing {
            let target = compiled.plan.edge(*edge).target;
            if !runs(search, target) && seen.insert(target) {
                names.push(quoted(compiled, target));
                open.push(target);
            }
        }
    }
    names
}

fn join_reason(search: &Search<'_>, node: NodeIx, incoming: &[EdgeIx]) -> String {
    let compiled = search.compiled;
    let planned = compiled.plan.node(node);
    let observed = &search.observed;
    let all = planned.entries;
    let most = observed.most_taken[node.at()];
    let needed = match planned.join.mode {
        JoinMode::All | JoinMode::Any => 1,
        JoinMode::AllSuccess => all,
        JoinMode::Quorum { count } => count,
    };
    let mut reasons = Vec::new();
    match planned.join.timeout {
        Some((ms, _)) if most >= needed => {
            reasons.push(format!("its timeout ({ms} ms) always passes before it is satisfied"))
        }
        Some(_) | None if most < needed => {
            reasons.push(format!(
                "it needs {needed} of its {all} edges, and never more than {most} can be taken"
            ));
        }
        Some(_) | None => {}
    }
    for edge in incoming.iter().filter(|edge| !observed.taken[edge.at()]) {
        let source = compiled.plan.edge(*edge).source;
        if planned.join.required.contains(&source) {
            reasons.push(format!(
                "it requires {}, whose edge is never taken",
                quoted(compiled, source)
            ));
        }
    }
    let apart = incoming.iter().enumerate().find_map(|(place, first)| {
        let second = incoming[place + 1..].iter().find(|second| {
            let both = observed.taken[first.at()] && observed.taken[second.at()] && most < needed;
            both && !observed.together.contains(&(*first, **second))
        })?;
        Some((*first, *second))
    });
    if let Some((first, second)) = apart {
        let (first, second) = (compiled.edge_name(first), compiled.edge_name(second));
        reasons.push(format!("`{first}` and `{second}` exclude each other"));
    }
    if reasons.is_empty() {
        reasons.push("an edge to it is taken in some outcome, and none lets it start".to_owned());
    }
    reasons.join("; ")
}

/// Why an edge whose source runs is never taken.
fn edge_reason(search: &Search<'_>, ix: EdgeIx) -> String {
    let compiled = search.compiled;
    let edge = compiled.plan.edge(ix);
    let source = compiled.plan.node(edge.source);
    let name = quoted(compiled, edge.source);
    let is_success = matches!(edge.kind, EdgeKind::Default | EdgeKind::Success);
    if is_success && search.observed.completed[edge.source.at()].is_none() {
        return format!("{name} never completes");
    }
    if let Some(decision) = &source.decision
        && is_success
    {
        if let Some((condition, _)) = decision.conditions.iter().find(|(_, edges)| edges.contains(&ix)) {
            return format!("{name} never chooses it: `{condition}` is never true when it is asked");
        }
        if decision.default.contains(&ix) {
            return format!("{name} never takes its default path: something else always matches");
        }
    }
    if edge.kind == EdgeKind::Failure {
        let before = source.outgoing.iter().take_while(|other| **other != ix);
        let catches = |other: &EdgeIx| compiled.plan.edge(*other).kind == EdgeKind::Failure;
        if !source.kind.has_attempts() && edge.condition.is_none() {
            return format!("{name} never fails in a way that this edge handles");
        }
        if source.first_failure_edge_only && before.copied().any(|other| catches(&other)) {
            return format!("a failure edge before it takes every failure of {name} that it is for");
        }
    }
    match &edge.condition {
        Some(condition) => format!("its condition `{condition}` is never true when {name} asks it"),
        None => format!("the edge from {name} is never taken"),
    }
}

fn check_edge(found: &mut Found<'_, '_>, ix: EdgeIx) -> Result<(), StepError> {
    let compiled = found.search.compiled;
    let plan = &compiled.plan;
    let edge = plan.edge(ix);
    let observed = &found.search.observed;
    let Some(dead) = observed.dead[ix.at()].clone() else {
        return Ok(());
    };
    let is_back = plan.is_back_edge(ix);
    let target = plan.node(edge.target);
    let header_of = target
        .within
        .filter(|within| plan.loops[within.at()].header == edge.target);
    // A pass of a loop may begin and end in one step, and what it resolved is gone behind it.
    let is_hidden = target
        .within
        .is_some_and(|within| observed.repeated[within.at()] && target.entries > 1);
    let goes_round = is_back && header_of.is_some_and(|one| observed.repeated[one.at()]);
    if observed.taken[ix.at()] || goes_round || is_hidden || !runs(found.search, edge.target) {
        return Ok(());
    }
    let name = compiled.edge_name(ix);
    let message = if is_back {
        format!("the edge `{name}` is never taken: the loop never goes round")
    } else {
        format!("the edge `{name}` is never taken")
    };
    let nodes = vec![
        compiled.key(edge.source).to_owned(),
        compiled.key(edge.target).to_owned(),
    ];
    let mut finding = finding(report::EDGE_NEVER_TAKEN, nodes, message, edge_reason(found.search, ix));
    finding.edges = vec![edge.id.clone()];
    found.add(finding, Some(&dead))
}

fn check_region(found: &mut Found<'_, '_>, node: NodeIx) -> Result<(), StepError> {
    let compiled = found.search.compiled;
    let Some(completed) = found.search.observed.completed[node.at()].clone() else {
        return Ok(());
    };
    for other in &compiled.plan.node(node).cancels {
        if found.search.observed.canceled.contains(&(node, *other)) {
            continue;
        }
        let (one, two) = (compiled.key(node).to_owned(), compiled.key(*other).to_owned());
        let message = format!("`{one}` never cancels `{two}`");
        let why = format!("whenever `{one}` completes, `{two}` has ended already");
        found.add(
            finding(report::CANCEL_WITHOUT_EFFECT, vec![one, two], message, why),
            Some(&completed),
        )?;
    }
    Ok(())
}

//! How executions end: with nothing done, with a failure nobody handles, or never well.

use std::collections::{BTreeMap, BTreeSet};

use troupe_core::NodeIx;
use troupe_core::definition::EdgeKind;
use troupe_core::execution::StepError;

use super::{Found, finding};
use crate::compiled::Compiled;
use crate::observed::Seen;
use crate::oracle::Level;
use crate::report::{self, Certainty, Finding};
use crate::story::{list, quoted};

/// Failures with findings of their own.
const TOLD_ELSEWHERE: [&str; 2] = ["NO_MATCHING_CONDITION", "EXPRESSION_ERROR"];

pub(super) fn check(found: &mut Found<'_, '_>) -> Result<(), StepError> {
    let compiled = found.search.compiled;
    let leaf_runs = |leaf: &NodeIx| found.search.observed.started[leaf.at()].is_some();
    let can_do_something = compiled.plan.leaves.iter().any(leaf_runs);
    // Where no leaf ever runs another finding tells why.
    if let Some(seen) = found
        .search
        .observed
        .nothing
        .clone()
        .filter(|_| can_do_something || !found.is_complete())
    {
        let leaves: Vec<String> = compiled
            .plan
            .leaves
            .iter()
            .map(|leaf| quoted(compiled, *leaf))
            .collect();
        let nodes = compiled
            .plan
            .leaves
            .iter()
            .map(|leaf| compiled.key(*leaf).to_owned())
            .collect();
        let message = "an execution can complete with nothing done".to_owned();
        let why = format!(
            "it counts as completed, with a null output, though {} never ran",
            list(&leaves)
        );
        found.add_seen(finding(report::NOTHING_COMPLETED, nodes, message, why), &seen)?;
    }
    if !compiled.failures_chosen {
        check_unhandled(found)?;
    }
    let observed = &found.search.observed;
    let is_explained = found
        .findings
        .iter()
        .any(|finding| finding.certainty == Certainty::Certain);
    if found.is_complete() && observed.ends[0] == 0 && !observed.ends_by_choice && !is_explained {
        let message = "no execution ever completes".to_owned();
        let why = format!("all of {} outcomes fail", observed.ends.iter().sum::<usize>());
        found.add(finding(report::NEVER_COMPLETES, Vec::new(), message, why), None)?;
    }
    Ok(())
}

/// One finding for all: a failure may never happen, and most handlers are left out on purpose.
fn check_unhandled(found: &mut Found<'_, '_>) -> Result<(), StepError> {
    let compiled = found.search.compiled;
    let mut nodes: BTreeMap<NodeIx, BTreeSet<Option<String>>> = BTreeMap::new();
    let mut nearest: Option<Seen> = None;
    for ((node, code), seen) in &found.search.observed.unhandled {
        let is_elsewhere = code.as_deref().is_some_and(|code| TOLD_ELSEWHERE.contains(&code));
        if seen.level == Level::OddData || is_elsewhere {
            continue;
        }
        nodes.entry(*node).or_default().insert(code.clone());
        if nearest
            .as_ref()
            .is_none_or(|old| (seen.level, seen.depth) < (old.level, old.depth))
        {
            nearest = Some(seen.clone());
        }
    }
    let Some(nearest) = nearest else { return Ok(()) };
    let told: Vec<String> = nodes.iter().map(|(node, codes)| told(compiled, *node, codes)).collect();
    let keys = nodes.keys().map(|node| compiled.key(*node).to_owned()).collect();
    let message = format!("nothing handles a failure of {}", list(&told));
    let why = "the whole execution fails then; a failure edge, or `settings.onFailure`, would show that it is meant"
        .to_owned();
    let finding = Finding {
        certainty: Certainty::Possible,
        ..finding(report::UNHANDLED_FAILURE, keys, message, why)
    };
    found.add(finding, Some(&nearest))
}

/// A node, and which of its failures are meant where others are handled.
fn told(compiled: &Compiled, node: NodeIx, codes: &BTreeSet<Option<String>>) -> String {
    let name = quoted(compiled, node);
    let handles = |edge: &troupe_core::EdgeIx| compiled.plan.edge(*edge).kind == EdgeKind::Failure;
    let is_partly_handled = compiled.plan.node(node).outgoing.iter().any(handles);
    let named: Vec<String> = codes.iter().flatten().cloned().collect();
    match (is_partly_handled, codes.contains(&None)) {
        (true, true) => format!("{name} (any code that its failure edges do not name)"),
        (_, false) => format!("{name} ({})", list(&named)),
        (false, true) => name,
    }
}

//! What random executions meet of error workflows.

use troupe_core::definition::NodeKind;
use troupe_core::execution::{Effect, ErrorWorkflow, Event, Status};

use super::reopened::state_before;
use crate::support::duo::Duo;
use crate::support::evaluator::parsed;

/// Every kind must be met.
pub const WANTED: [&str; 14] = [
    "reported",
    "error workflow began",
    "error workflow refused",
    "nobody told: handles a failure",
    "nobody told: canceled",
    "told of no node",
    "told of a node that failed in a later visit",
    "told of a failed parent",
    "told what was undone",
    "told that nothing was to undo",
    "told of a child's failure",
    "told of another run",
    "ended at once while it reports",
    "resumed while it reports",
];

pub fn met(duo: &Duo) -> Vec<String> {
    let mut met: Vec<String> = Vec::new();
    if duo.plan.settings.error_workflow.is_none() {
        return met;
    }
    let mut see = |what: &str, is_seen: bool| met.extend(is_seen.then(|| what.to_owned()));
    see("nobody told: canceled", duo.state.status.name() == "canceled");
    let handles = duo.state.handles_failure_of.is_some();
    see(
        "nobody told: handles a failure",
        handles && duo.state.status == Status::Failed,
    );
    for (place, (entry, effects)) in duo.log.iter().enumerate() {
        let was_reporting = || state_before(duo, place).status == Status::Reporting;
        match &entry.event {
            Event::ErrorWorkflow(ErrorWorkflow::Began(_)) => see("error workflow began", true),
            Event::ErrorWorkflow(ErrorWorkflow::Refused(_)) => see("error workflow refused", true),
            Event::CancelRequested { .. } => see("ended at once while it reports", was_reporting()),
            Event::Resumed => see("resumed while it reports", was_reporting()),
            _ => {}
        }
        let start = effects.iter().find_map(|effect| match effect {
            Effect::StartErrorWorkflow(start) => Some(parsed(&start.input)),
            _ => None,
        });
        let Some(report) = start else { continue };
        see("reported", true);
        see("told of no node", report["node"].is_null());
        let is_later = report["node"]["visit"].as_u64().is_some_and(|visit| visit > 1);
        see("told of a node that failed in a later visit", is_later);
        let kind = report["node"]["type"].as_str();
        let parents = [NodeKind::Subworkflow, NodeKind::ForEach, NodeKind::Loop];
        see(
            "told of a failed parent",
            parents.iter().any(|parent| kind == Some(parent.as_str())),
        );
        let undone = report["compensations"].as_array();
        see("told what was undone", undone.is_some_and(|all| !all.is_empty()));
        see("told that nothing was to undo", undone.is_some_and(Vec::is_empty));
        see("told of a child's failure", !report["execution"]["parent"].is_null());
        see(
            "told of another run",
            report["execution"]["run"].as_u64().is_some_and(|run| run > 1),
        );
    }
    met
}

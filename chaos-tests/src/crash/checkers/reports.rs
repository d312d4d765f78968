//! C2 and C4 between executions that failed and what was started on behalf of that: each error workflow stands once for an entry
//! that says it began.

use std::collections::BTreeSet;

use troupe_core::ExecutionId;
use troupe_core::execution::{Entry, ErrorWorkflow, Event};

use super::{Evidence, Findings};

/// Every error workflow against the execution that failed.
pub(super) fn are_started_once(evidence: &Evidence, findings: &mut Findings) {
    let mut began: BTreeSet<(ExecutionId, ExecutionId)> = BTreeSet::new();
    for (id, (_, _, entries)) in &evidence.executions {
        for entry in entries {
            if let Event::ErrorWorkflow(ErrorWorkflow::Began(report)) = &entry.event {
                findings.expect(began.insert((*id, *report)), "C2", || {
                    format!("{id}: two of its runs tell the same {report}")
                });
            }
        }
    }
    for (failed, report) in &began {
        let of = evidence
            .executions
            .get(report)
            .map(|(state, ..)| state.handles_failure_of);
        findings.expect(of == Some(Some(*failed)), "C2", || {
            format!("{failed}: its log says that {report} began, which is on behalf of {of:?}")
        });
    }
    for (id, (state, ..)) in &evidence.executions {
        // Children are on behalf of what their parents are.
        let Some(failed) = state.handles_failure_of.filter(|_| state.parent.is_none()) else {
            continue;
        };
        let entries = evidence.executions.get(&failed).map(|(_, _, entries)| entries);
        let was_cut_off = entries.is_some_and(|entries| entries.iter().any(ends_at_once));
        findings.expect(was_cut_off || began.contains(&(failed, *id)), "C4", || {
            format!("{id} is on behalf of {failed}, whose log does not say so")
        });
    }
}

/// What ends at once does not wait for the answer.
fn ends_at_once(entry: &Entry) -> bool {
    matches!(entry.event, Event::CancelRequested { at_once: true, .. })
}

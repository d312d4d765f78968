//! C11 for lists: when everything has settled they show each execution as it is, and nothing that is not there.

use troupe_actors::execution::view::summary;

use super::{Evidence, Findings};

/// Every execution is listed with its last summary.
pub(super) fn show_the_end(evidence: &Evidence, findings: &mut Findings) {
    let Some(listed) = &evidence.listed else { return };
    for (id, (state, plan, _)) in &evidence.executions {
        let expected = summary(state, plan);
        if evidence.forgotten.contains(id) {
            findings.expect(!listed.contains_key(id), "C11", || {
                format!("{id}: lists show an execution whose archive is gone")
            });
            continue;
        }
        let Some(shown) = listed.get(id) else {
            findings.expect(evidence.expired.contains(id), "C11", || {
                format!("{id}: no list shows it")
            });
            continue;
        };
        // Lists change with what they show: entries after the last change of that are not counted.
        let same = troupe_ports::ExecutionSummary {
            seq: shown.seq,
            ..expected
        };
        findings.expect(same == *shown && shown.seq <= state.seq, "C11", || {
            format!("{id}: lists show {shown:?}, it is {same:?}")
        });
    }
    for id in listed.keys() {
        findings.expect(evidence.executions.contains_key(id), "C11", || {
            format!("{id}: lists show an execution that is not in the log")
        });
    }
}

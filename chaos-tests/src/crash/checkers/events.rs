//! C7: events are at-least-once and in order per execution.

use std::collections::{BTreeMap, BTreeSet};

use troupe_core::ExecutionId;
use troupe_core::execution::Entry;
use troupe_core::lifecycle;
use troupe_core::plan::Plan;

use super::{Evidence, Findings};
use crate::crash::record::{Record, Sighting};

/// The events that a log means, in order.
pub fn expected(id: ExecutionId, plan: &Plan, entries: &[Entry]) -> impl Iterator<Item = Sighting> {
    entries
        .iter()
        .flat_map(move |entry| lifecycle::derive(plan, id, entry))
        .map(|event| Sighting::of(&event))
}

/// The first-seen events of each execution equal, in order, those that its log means.
pub(super) fn are_published(evidence: &Evidence, findings: &mut Findings) {
    let mut first_seen: BTreeMap<ExecutionId, Vec<Sighting>> = BTreeMap::new();
    let mut seen: BTreeSet<Sighting> = BTreeSet::new();
    for record in &evidence.records {
        let Record::Published { events } = record else { continue };
        for event in events.iter().filter(|event| seen.insert(**event)) {
            first_seen.entry(event.id).or_default().push(*event);
        }
    }
    for (id, (_, plan, entries)) in &evidence.executions {
        let published = first_seen.remove(id).unwrap_or_default();
        let expected: Vec<Sighting> = expected(*id, plan, entries).collect();
        findings.expect(published == expected, "C7", || {
            let place = published.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            let name = |event: Option<&Sighting>| event.map(|event| (event.seq, event.part));
            let wanted = expected.get(place);
            let later = published.iter().position(|event| Some(event) == wanted);
            let came = later.map_or_else(|| "never".to_owned(), |later| format!("as number {later}"));
            format!(
                "{id}: event {place} of {} is {:?}, published was {:?}; it came {came}, {} were heard",
                expected.len(),
                name(wanted),
                name(published.get(place)),
                published.len()
            )
        });
    }
    for id in first_seen.keys() {
        findings.expect(false, "C7", || {
            format!("{id}: events of an execution that is not in the log")
        });
    }
}

//! `settings.concurrency`: never more executions of a workflow and key run at once than it says.

use std::collections::BTreeMap;

use troupe_core::execution::{Entry, Event};
use troupe_core::{ExecutionId, Timestamp};

use super::{Evidence, Findings};

/// From when to when an execution ran, which it is, and how many may.
type Stay = (Timestamp, Timestamp, ExecutionId, usize);

/// From when to when each execution ran; the engine counted them together.
pub(super) fn hold_so_many(evidence: &Evidence, findings: &mut Findings) {
    let mut rooms: BTreeMap<(&str, &str), Vec<Stay>> = BTreeMap::new();
    for (id, (state, plan, entries)) in &evidence.executions {
        let limit = plan.settings.concurrency.as_ref();
        let (Some(room), Some(limit), Some(from)) = (&state.room, limit, admitted_at(entries)) else {
            continue;
        };
        let until = state.ended_at.unwrap_or(Timestamp(i64::MAX));
        let key = (state.workflow.as_str(), room.key.as_str());
        rooms
            .entry(key)
            .or_default()
            .push((from, until, *id, limit.limit as usize));
    }
    for (key, those) in rooms {
        for (at, _, id, limit) in &those {
            // Whoever ended at that instant made room for it.
            let inside = those.iter().filter(|(from, until, ..)| from <= at && at < until);
            let inside = inside.count();
            findings.expect(inside <= *limit, "C6", || {
                format!("{id} is let in at {at} as one of {inside}, {key:?} holds {limit}")
            });
        }
    }
}

fn admitted_at(entries: &[Entry]) -> Option<Timestamp> {
    let admitted = entries.iter().find(|entry| entry.event == Event::Admitted);
    admitted.map(|entry| entry.at)
}

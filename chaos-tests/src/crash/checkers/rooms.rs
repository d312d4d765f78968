//! `settings.concurrency`: never more executions of a workflow and key run at once than it says.

use std::collections::BTreeMap;

use troupe_core::execution::{Entry, Event, Transition, Verb};
use troupe_core::{ExecutionId, Timestamp};

use super::{Evidence, Findings};

/// Who was told to come in when an operator's word brought in another one may still be on its way, in milliseconds.
const SETTLES_MS: u64 = 100;

/// A run of an execution: from when to when, whose it is, how many may run beside it, and whether it was let in. One that an
/// operator wants again is counted, and waits for nobody.
struct Stay {
    from: Timestamp,
    until: Timestamp,
    id: ExecutionId,
    limit: usize,
    let_in: bool,
}

/// From when to when each execution ran; the engine counted them together.
pub(super) fn hold_so_many(evidence: &Evidence, findings: &mut Findings) {
    // Of two members whose clocks differ nobody knows by their instants who was there first.
    if evidence.clocks_differ {
        return;
    }
    let mut rooms: BTreeMap<(&str, &str), Vec<Stay>> = BTreeMap::new();
    for (id, (state, plan, entries)) in &evidence.executions {
        let limit = plan.settings.concurrency.as_ref();
        let (Some(room), Some(limit)) = (&state.room, limit) else {
            continue;
        };
        let key = (state.workflow.as_str(), room.key.as_str());
        let limit = limit.limit as usize;
        let stays = stays(entries).into_iter().map(|(from, until, let_in)| Stay {
            from,
            until,
            id: *id,
            limit,
            let_in,
        });
        rooms.entry(key).or_default().extend(stays);
    }
    for (key, those) in rooms {
        for Stay {
            from: at, id, limit, ..
        } in those.iter().filter(|stay| stay.let_in)
        {
            // Whoever ended at that instant made room for it.
            let since = |stay: &Stay| {
                if stay.let_in {
                    stay.from
                } else {
                    stay.from.plus_ms(SETTLES_MS)
                }
            };
            let inside = those.iter().filter(|stay| since(stay) <= *at && *at < stay.until);
            let inside = inside.count();
            findings.expect(inside <= *limit, "C6", || {
                format!("{id} is let in at {at} as one of {inside}, {key:?} holds {limit}")
            });
        }
    }
}

/// From when to when it ran, each time, and whether it was let in.
fn stays(entries: &[Entry]) -> Vec<(Timestamp, Timestamp, bool)> {
    let mut stays: Vec<(Timestamp, Timestamp, bool)> = Vec::new();
    for entry in entries {
        let let_in = entry.event == Event::Admitted;
        if let_in || entry.reopens() {
            stays.push((entry.at, Timestamp(i64::MAX), let_in));
        }
        let ends = |transition: &Transition| transition.verb().is_some_and(Verb::ends_execution);
        if entry.transitions.iter().any(ends)
            && let Some((_, until, _)) = stays.last_mut()
        {
            *until = entry.at;
        }
    }
    stays
}

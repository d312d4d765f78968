//! C13: one execution that fails again and again is set aside after a bounded number of restarts.
//!
//! That it harms no other is what C8 says: the failures of one execution excuse nobody else's timers.

use std::collections::{BTreeMap, VecDeque};

use troupe_core::{ExecutionId, Timestamp};

use super::{Evidence, Findings};
use crate::crash::record::Record;

/// An actor is built again at most so often within [`WINDOW_MS`] by one owner of its shard.
const RESTARTS_MAX: usize = 3;
/// See [`RESTARTS_MAX`].
const WINDOW_MS: u64 = 60_000;

/// Restarts are counted by owner, one that has lost the shard and does not know it yet too, and from the last time that the
/// execution was set aside.
pub(super) fn are_bounded(evidence: &Evidence, findings: &mut Findings) {
    let mut restarts: BTreeMap<(ExecutionId, u64), VecDeque<Timestamp>> = BTreeMap::new();
    for record in &evidence.records {
        match record {
            Record::SetAside { id } => restarts.retain(|(known, _), _| known != id),
            Record::Restarted { id, epoch, at } => {
                let times = restarts.entry((*id, *epoch)).or_default();
                times.push_back(*at);
                while times.front().is_some_and(|first| at.since_ms(*first) >= WINDOW_MS) {
                    times.pop_front();
                }
                findings.expect(times.len() <= RESTARTS_MAX, "C13", || {
                    format!("{id}: its actor was built again {} times within a minute", times.len())
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use troupe_core::ShardId;

    fn found(restarts_at_ms: &[i64], set_aside_after: usize) -> usize {
        let id = ExecutionId::fresh(ShardId(0), Timestamp(0), 1);
        let mut evidence = Evidence::default();
        for (place, at) in restarts_at_ms.iter().enumerate() {
            if place == set_aside_after {
                evidence.records.push(Record::SetAside { id });
            }
            let (epoch, at) = (1, Timestamp(*at));
            evidence.records.push(Record::Restarted { id, epoch, at });
        }
        let mut findings = Findings(Vec::new());
        are_bounded(&evidence, &mut findings);
        findings.0.len()
    }

    #[test]
    fn the_fourth_restart_within_a_minute_is_one_too_many() {
        assert_eq!(found(&[0, 1, 2, 60_001], 9), 0);
        assert_eq!(found(&[0, 1, 2, 3], 9), 1);
        assert_eq!(found(&[0, 1, 2, 3, 4, 5], 3), 0, "set aside in between");
    }
}

//! C5: whoever lost a shard writes nothing more to its log.

use std::collections::{BTreeMap, BTreeSet};

use super::{Evidence, Findings};
use crate::crash::record::Record;

/// No record of an epoch stands behind the place where a later owner began, and no place has two records. An owner may append its own
/// again where the store came back older.
pub(super) fn only_grow(evidence: &Evidence, findings: &mut Findings) {
    let mut owners: BTreeMap<u16, BTreeMap<u64, u64>> = BTreeMap::new();
    let mut asked: BTreeSet<(u16, u64)> = BTreeSet::new();
    for record in &evidence.records {
        if let Record::AcquireAsked { shard, epoch } = record {
            asked.insert((*shard, *epoch));
        }
        if let Record::AcquireRefused { shard, epoch } = record {
            asked.remove(&(*shard, *epoch));
        }
        if let Record::Acquired { shard, epoch, next } = record {
            let known = owners.entry(*shard).or_default().insert(*epoch, *next);
            findings.expect(known.is_none(), "C5", || {
                format!("shard {shard}: epoch {epoch} was given out twice")
            });
        }
    }
    for (shard, epochs) in &owners {
        for ((old, old_next), (new, new_next)) in epochs.iter().zip(epochs.iter().skip(1)) {
            findings.expect(old_next <= new_next, "C5", || {
                format!("shard {shard}: epoch {new} begins at {new_next}, epoch {old} began at {old_next}")
            });
        }
    }
    let mut written: BTreeMap<(u16, u64), (u64, u64)> = BTreeMap::new();
    for record in &evidence.records {
        match record {
            Record::Appended {
                shard,
                epoch,
                position,
                commit,
            } => {
                let other = written.insert((*shard, *position), (*epoch, *commit));
                findings.expect(other.is_none_or(|other| other == (*epoch, *commit)), "C5", || {
                    format!("shard {shard}: record {position} was acknowledged to {other:?} and to epoch {epoch} as {commit}")
                });
                let successor = owners
                    .get(shard)
                    .and_then(|epochs| epochs.range(epoch + 1..).next())
                    .filter(|(_, next)| position >= next);
                findings.expect(successor.is_none(), "C5", || {
                    format!(
                        "shard {shard}: epoch {epoch} wrote record {position} although {successor:?} had taken over"
                    )
                });
            }
            Record::Refused { shard, epoch } => {
                let successor = owners.get(shard).and_then(|epochs| epochs.range(epoch + 1..).next());
                // Who never heard an answer may have taken it all the same.
                let wanted = asked.range((*shard, epoch + 1)..=(*shard, u64::MAX)).next();
                findings.expect(successor.is_some() || wanted.is_some(), "C5", || {
                    format!("shard {shard}: epoch {epoch} was refused although nobody had taken over")
                });
            }
            _ => {}
        }
    }
}

/// What holds even where a store has lost what it had acknowledged: an epoch is given out once, since whoever orders the owners has lost
/// nothing, and an owner to whom a record was acknowledged writes no other one in its place, though perhaps the same again.
pub(super) fn stand_whatever_is_lost(evidence: &Evidence, findings: &mut Findings) {
    let mut given: BTreeSet<(u16, u64)> = BTreeSet::new();
    let mut written: BTreeMap<(u16, u64, u64), u64> = BTreeMap::new();
    for record in &evidence.records {
        match record {
            Record::Acquired { shard, epoch, .. } => findings.expect(given.insert((*shard, *epoch)), "C5", || {
                format!("shard {shard}: epoch {epoch} was given out twice")
            }),
            Record::Appended {
                shard,
                epoch,
                position,
                commit,
            } => {
                let other = written.insert((*shard, *epoch, *position), *commit);
                findings.expect(other.is_none_or(|other| other == *commit), "C2", || {
                    format!(
                        "shard {shard}: record {position} was acknowledged to epoch {epoch} as {other:?} and {commit}"
                    )
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_goes_on_behind_a_loss_is_found_and_a_later_one_is_not() {
        let found = |records: Vec<Record>| {
            let evidence = Evidence {
                records,
                ..Evidence::default()
            };
            let mut findings = Findings(Vec::new());
            stand_whatever_is_lost(&evidence, &mut findings);
            findings.0.len()
        };
        let lost = [acquired(1, 1), appended(1, 1), appended(1, 2)];
        assert_eq!(found([&lost[..], &[acquired(2, 2), appended(2, 2)]].concat()), 0);
        assert_eq!(found([&lost[..], &[appended(1, 2)]].concat()), 0, "the same again");
        assert_eq!(found([&lost[..], &[another(1, 2)]].concat()), 1);
        assert_eq!(found([&lost[..], &[acquired(1, 2)]].concat()), 1);
    }

    fn found(records: Vec<Record>) -> Vec<String> {
        let evidence = Evidence {
            records,
            ..Evidence::default()
        };
        let mut findings = Findings(Vec::new());
        only_grow(&evidence, &mut findings);
        findings.0.into_iter().map(|violation| violation.what).collect()
    }

    fn acquired(epoch: u64, next: u64) -> Record {
        Record::Acquired { shard: 0, epoch, next }
    }

    fn appended(epoch: u64, position: u64) -> Record {
        Record::Appended {
            shard: 0,
            epoch,
            position,
            commit: position,
        }
    }

    fn another(epoch: u64, position: u64) -> Record {
        Record::Appended {
            shard: 0,
            epoch,
            position,
            commit: 99,
        }
    }

    const REFUSED: Record = Record::Refused { shard: 0, epoch: 1 };
    const ASKED: Record = Record::AcquireAsked { shard: 0, epoch: 2 };

    #[test]
    fn who_was_replaced_writes_nothing_more_whichever_process_tells_it() {
        assert_eq!(
            found(vec![
                acquired(1, 1),
                appended(1, 1),
                acquired(2, 2),
                appended(2, 2),
                REFUSED
            ]),
            [""; 0]
        );
        let lost = [acquired(1, 1), appended(1, 1), appended(1, 2)];
        assert_eq!(found([&lost[..], &[appended(1, 2)]].concat()), [""; 0]);
        for other in [another(1, 2), appended(2, 2)] {
            let twice = found([&lost[..], &[other]].concat());
            assert!(twice[0].contains("record 2 was acknowledged"), "{twice:?}");
        }
        let behind = found(vec![acquired(1, 1), acquired(2, 2), appended(1, 2)]);
        assert!(behind[0].contains("had taken over"), "{behind:?}");
        let twice = found(vec![acquired(1, 1), acquired(1, 1)]);
        assert!(twice[0].contains("given out twice"), "{twice:?}");
    }

    #[test]
    fn a_refusal_wants_somebody_who_may_have_taken_over() {
        assert!(found(vec![acquired(1, 1), REFUSED])[0].contains("nobody had taken over"));
        // The answer to whoever asked was lost.
        assert_eq!(found(vec![acquired(1, 1), ASKED, REFUSED]), [""; 0]);
        let refused = Record::AcquireRefused { shard: 0, epoch: 2 };
        let nobody = found(vec![acquired(1, 1), ASKED, refused, REFUSED]);
        assert!(nobody[0].contains("nobody had taken over"), "{nobody:?}");
    }
}

//! C5: whoever lost a shard writes nothing more to its log.

use std::collections::BTreeMap;

use super::{Evidence, Findings};
use crate::crash::record::Record;

/// No record of an epoch stands behind the place where a later owner began, and no place has two records.
pub(super) fn only_grow(evidence: &Evidence, findings: &mut Findings) {
    let mut owners: BTreeMap<u16, BTreeMap<u64, u64>> = BTreeMap::new();
    for record in &evidence.records {
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
    let mut written: BTreeMap<(u16, u64), u64> = BTreeMap::new();
    for record in &evidence.records {
        match record {
            Record::Appended { shard, epoch, position } => {
                let other = written.insert((*shard, *position), *epoch);
                findings.expect(other.is_none(), "C5", || {
                    format!("shard {shard}: record {position} was acknowledged to epochs {other:?} and {epoch}")
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
                findings.expect(successor.is_some(), "C5", || {
                    format!("shard {shard}: epoch {epoch} was refused although nobody had taken over")
                });
            }
            _ => {}
        }
    }
}

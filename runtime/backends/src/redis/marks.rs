//! What this process was told is durable, so that a store that went back under it is seen.
//!
//! A copy of Redis is whole in itself: its log, checkpoint and cursors go back together, and nothing in it tells that it is old.
//! Only whoever has seen more knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use parking_lot::{Mutex, MutexGuard};
use troupe_core::{Epoch, LogPosition, ShardId};

/// Numbers without an answer that are remembered of a shard: who was given an older one waits for it no more.
const UNHEARD_MAX: usize = 1_024;

/// The most that was acknowledged of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub epoch: Epoch,
    pub next: LogPosition,
    pub checkpointed: LogPosition,
    /// Number of what is kept outside the log: chunks of checkpoints, large values, the format, and what is written anew for that. The store
    /// counts them, so that a copy which lacks the latest of them has a lower number, whatever it has of the log.
    pub kept: u64,
}

impl Mark {
    /// Whether a store with `found` has lost something of this.
    fn is_ahead_of(&self, found: &Self) -> bool {
        self.epoch > found.epoch
            || self.next > found.next
            || self.checkpointed > found.checkpointed
            // A later checkpoint holds what an earlier chunk held: it may be another owner's, who went on from an accepted loss.
            || (self.kept > found.kept && self.checkpointed == found.checkpointed)
    }
}

impl Mark {
    /// Whether the log of a store with `found` has every record that was acknowledged. It goes on from its checkpoint without a gap.
    pub(super) fn has_its_log_in(&self, found: &Self) -> bool {
        self.epoch <= found.epoch && self.next <= found.next
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "epoch {}, next position {}, checkpoint {}, {} kept outside the log",
            self.epoch, self.next, self.checkpointed, self.kept
        )
    }
}

/// What is known of a shard.
#[derive(Default)]
struct Known {
    mark: Mark,
    /// Numbers below the mark's that no answer has named under its epoch: such a write is on its way, or its answer is lost.
    unheard: BTreeSet<u64>,
    /// Where the spool of each sink ends, as far as it was acknowledged under the epoch of the mark.
    spools: BTreeMap<String, LogPosition>,
}

impl Known {
    fn set(&mut self, found: Mark) {
        self.mark = found;
        self.unheard.clear();
        self.spools.clear();
    }

    /// An answer names a number; false if an earlier one did.
    fn counted(&mut self, number: u64) -> bool {
        if number <= self.mark.kept {
            return self.unheard.remove(&number);
        }
        let first = number.saturating_sub(UNHEARD_MAX as u64).max(self.mark.kept + 1);
        self.unheard.extend(first..number);
        while self.unheard.len() > UNHEARD_MAX {
            self.unheard.pop_first();
        }
        self.mark.kept = number;
        true
    }
}

/// One mark a shard.
pub(super) struct Marks {
    shards: Vec<Mutex<Known>>,
}

impl Marks {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::new(Known::default())).collect(),
        }
    }

    fn known(&self, shard: ShardId) -> Option<MutexGuard<'_, Known>> {
        self.shards.get(usize::from(shard.0)).map(Mutex::lock)
    }

    pub(super) fn appended(&self, shard: ShardId, position: LogPosition) {
        if let Some(mut known) = self.known(shard) {
            known.mark.next = known.mark.next.max(position.next());
        }
    }

    /// What was acknowledged so far: a store that has not got there went back.
    pub(super) fn of(&self, shard: ShardId) -> Mark {
        self.known(shard).map(|known| known.mark).unwrap_or_default()
    }

    /// Something was acknowledged that is kept outside the log; `epoch`: under which it was sent. False where something else was acknowledged
    /// under the same number: the store went back in between, and took this for what comes next.
    pub(super) fn kept(&self, shard: ShardId, epoch: Epoch, number: u64) -> bool {
        match self.known(shard) {
            Some(mut known) if known.mark.epoch == epoch => known.counted(number),
            _ => true,
        }
    }

    /// The last chunk of a checkpoint was acknowledged, which has come so far.
    pub(super) fn checkpointed(&self, shard: ShardId, reached: LogPosition) {
        if let Some(mut known) = self.known(shard) {
            known.mark.checkpointed = known.mark.checkpointed.max(reached);
        }
    }

    /// Where a sink's spool ends, as far as was acknowledged; 0 if it was not: where the store has not got that far it went back.
    pub(super) fn spool_end(&self, shard: ShardId, sink: &str) -> LogPosition {
        let known = self.known(shard);
        known
            .and_then(|known| known.spools.get(sink).copied())
            .unwrap_or_default()
    }

    pub(super) fn spooled(&self, shard: ShardId, sink: &str, up_to: LogPosition) {
        if let Some(mut known) = self.known(shard) {
            let end = known.spools.entry(sink.to_owned()).or_default();
            *end = up_to.max(*end);
        }
    }

    /// The spools of other sinks are gone.
    pub(super) fn keep_spools(&self, shard: ShardId, sinks: &[&str]) {
        if let Some(mut known) = self.known(shard) {
            known.spools.retain(|sink, _| sinks.contains(&&**sink));
        }
    }

    /// Takes what the store tells of a shard that was just acquired; what it has lost, if it has.
    pub(super) fn acquired(&self, shard: ShardId, found: Mark) -> Option<Mark> {
        let mut known = self.known(shard)?;
        if known.mark.is_ahead_of(&found) {
            return Some(known.mark);
        }
        known.set(found);
        None
    }

    /// The loss was accepted.
    pub(super) fn reset(&self, shard: ShardId, found: Mark) {
        if let Some(mut known) = self.known(shard) {
            known.set(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_acknowledged_and_is_gone_counts() {
        let marks = Marks::new(1);
        let shard = ShardId(0);
        let mark = |epoch, next, checkpointed, kept| Mark {
            epoch: Epoch(epoch),
            next: LogPosition(next),
            checkpointed: LogPosition(checkpointed),
            kept,
        };
        assert_eq!(marks.acquired(shard, mark(5, 3, 1, 0)), None);
        marks.appended(shard, LogPosition(3));
        assert!(marks.kept(shard, Epoch(5), 1));
        marks.checkpointed(shard, LogPosition(2));
        let known = mark(5, 4, 2, 1);
        assert_eq!(marks.acquired(shard, mark(6, 3, 2, 1)), Some(known));
        let whole = [(6, 4, 0, 0), (5, 4, 9, 9)].map(|(epoch, next, reached, kept)| mark(epoch, next, reached, kept));
        let torn = [(6, 3, 2, 1), (4, 4, 2, 1)].map(|(epoch, next, reached, kept)| mark(epoch, next, reached, kept));
        assert!(whole.iter().all(|found| known.has_its_log_in(found)));
        assert!(!torn.iter().any(|found| known.has_its_log_in(found)));
        assert_eq!(marks.acquired(shard, mark(6, 4, 1, 1)), Some(known));
        assert_eq!(marks.acquired(shard, mark(4, 4, 2, 1)), Some(known));
        assert_eq!(marks.acquired(shard, mark(6, 4, 2, 0)), Some(known));
        assert_eq!(
            marks.acquired(shard, mark(6, 9, 2, 7)),
            None,
            "others may have written more"
        );
        marks.reset(shard, mark(7, 1, 0, 0));
        assert_eq!(marks.acquired(shard, mark(8, 1, 0, 0)), None);
    }

    #[test]
    fn what_is_kept_outside_the_log_counts_under_its_own_epoch() {
        let (marks, shard) = (Marks::new(1), ShardId(0));
        let found = |epoch, kept| Mark {
            epoch: Epoch(epoch),
            kept,
            ..Mark::default()
        };
        marks.reset(shard, found(1, 6));
        assert!(marks.kept(shard, Epoch(1), 8));
        assert!(marks.kept(shard, Epoch(1), 7));
        assert_eq!(
            marks.of(shard).kept,
            8,
            "an answer that was overtaken takes nothing back"
        );
        marks.reset(shard, found(2, 3));
        assert!(marks.kept(shard, Epoch(1), 9));
        assert_eq!(
            marks.of(shard).kept,
            3,
            "the store went back since that was acknowledged"
        );
    }

    #[test]
    fn no_number_is_acknowledged_twice_under_an_epoch() {
        let (marks, shard, epoch) = (Marks::new(1), ShardId(0), Epoch(1));
        let found = |epoch| Mark {
            epoch,
            kept: 6,
            ..Mark::default()
        };
        marks.reset(shard, found(epoch));
        let kept = |number| marks.kept(shard, epoch, number);
        assert!(!kept(6), "whoever owned it before was told so");
        assert!(kept(7));
        assert!(!kept(7));
        assert!(kept(10));
        assert!(kept(8), "it was on its way");
        assert!([7, 8, 10].iter().all(|number| !kept(*number)));
        assert!(kept(9));
        assert_eq!(marks.of(shard).kept, 10);
        // Nothing counts so far at once; what is remembered is bounded all the same.
        assert!(kept(1 << 60));
        assert!(kept((1 << 60) - 1));
        assert!(!kept(11));
        marks.reset(shard, found(Epoch(2)));
        assert!(kept(7), "what it says is of another epoch");
        assert!(marks.kept(shard, Epoch(2), 7));
    }
}

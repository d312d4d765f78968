//! What this process was told is durable, so that a store that went back under it is seen.
//!
//! A copy of Redis is whole in itself: its log, checkpoint and cursors go back together, and nothing in it tells that it is old.
//! Only whoever has seen more knows.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::{Mutex, MutexGuard};
use troupe_core::{Epoch, LogPosition, ShardId};

/// The most that was acknowledged of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub epoch: Epoch,
    pub next: LogPosition,
    pub checkpointed: LogPosition,
    /// Number of the last chunk of a checkpoint.
    pub chunks: u64,
}

/// Which chunk of a checkpoint comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Number of the last one that was acknowledged: where the store has not got that far it went back.
    pub follows: u64,
    /// Its own: higher than that of any sent before it, whatever became of those.
    pub number: u64,
}

impl Mark {
    /// Whether a store with `found` has lost something of this.
    fn is_ahead_of(&self, found: &Self) -> bool {
        self.epoch > found.epoch
            || self.next > found.next
            || self.checkpointed > found.checkpointed
            // A later checkpoint holds what an earlier chunk held: it may be another owner's, who went on from an accepted loss.
            || (self.chunks > found.chunks && self.checkpointed == found.checkpointed)
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
            "epoch {}, next position {}, checkpoint {} (chunk {})",
            self.epoch, self.next, self.checkpointed, self.chunks
        )
    }
}

/// What is known of a shard.
#[derive(Default)]
struct Known {
    mark: Mark,
    /// Number of the last chunk that was sent.
    sent: u64,
    /// Where the spool of each sink ends, as far as it was acknowledged under the epoch of the mark.
    spools: BTreeMap<String, LogPosition>,
}

impl Known {
    fn set(&mut self, found: Mark) {
        self.mark = found;
        // Those that are still on their way are of an epoch that is over.
        self.sent = found.chunks;
        self.spools.clear();
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

    /// Numbers a chunk that is to be sent now.
    pub(super) fn next_chunk(&self, shard: ShardId) -> Chunk {
        let Some(mut known) = self.known(shard) else {
            return Chunk { follows: 0, number: 1 };
        };
        known.sent += 1;
        Chunk {
            follows: known.mark.chunks,
            number: known.sent,
        }
    }

    /// A chunk was acknowledged, the last one of a checkpoint with how far that has come.
    pub(super) fn checkpointed(&self, shard: ShardId, chunk: Chunk, reached: Option<LogPosition>) {
        if let Some(mut known) = self.known(shard) {
            let mark = &mut known.mark;
            mark.chunks = mark.chunks.max(chunk.number);
            mark.checkpointed = mark.checkpointed.max(reached.unwrap_or_default());
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

    /// The epoch under which this process acquired the shard last; 0 if it never did.
    pub(super) fn epoch(&self, shard: ShardId) -> Epoch {
        self.known(shard).map_or(Epoch(0), |known| known.mark.epoch)
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
        let mark = |epoch, next, checkpointed, chunks| Mark {
            epoch: Epoch(epoch),
            next: LogPosition(next),
            checkpointed: LogPosition(checkpointed),
            chunks,
        };
        assert_eq!(marks.acquired(shard, mark(5, 3, 1, 0)), None);
        marks.appended(shard, LogPosition(3));
        let chunk = marks.next_chunk(shard);
        marks.checkpointed(shard, chunk, Some(LogPosition(2)));
        let known = mark(5, 4, 2, 1);
        assert_eq!(marks.acquired(shard, mark(6, 3, 2, 1)), Some(known));
        let whole =
            [(6, 4, 0, 0), (5, 4, 9, 9)].map(|(epoch, next, reached, chunks)| mark(epoch, next, reached, chunks));
        let torn =
            [(6, 3, 2, 1), (4, 4, 2, 1)].map(|(epoch, next, reached, chunks)| mark(epoch, next, reached, chunks));
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
    fn a_chunk_follows_what_was_acknowledged_and_repeats_no_number() {
        let (marks, shard) = (Marks::new(1), ShardId(0));
        let chunk = |follows, number| Chunk { follows, number };
        marks.reset(
            shard,
            Mark {
                chunks: 6,
                ..Mark::default()
            },
        );
        let lost = marks.next_chunk(shard);
        assert_eq!(lost, chunk(6, 7));
        let repeated = marks.next_chunk(shard);
        assert_eq!(repeated, chunk(6, 8), "the one without an answer may have got there");
        marks.checkpointed(shard, repeated, None);
        marks.checkpointed(shard, lost, None);
        assert_eq!(marks.next_chunk(shard), chunk(8, 9));
    }
}

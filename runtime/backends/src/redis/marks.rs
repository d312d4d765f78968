//! What this process was told is durable, so that a store that went back under it is seen.
//!
//! A copy of Redis is whole in itself: its log, checkpoint and cursors go back together, and nothing in it tells that it is old.
//! Only whoever has seen more knows.

use std::fmt;

use parking_lot::Mutex;
use troupe_core::{Epoch, LogPosition, ShardId};

/// The most that was acknowledged of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub epoch: Epoch,
    pub next: LogPosition,
    pub checkpointed: LogPosition,
}

impl Mark {
    /// Whether a store with `found` has lost something of this.
    fn is_ahead_of(&self, found: &Self) -> bool {
        self.epoch > found.epoch || self.next > found.next || self.checkpointed > found.checkpointed
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "epoch {}, next position {}, checkpoint {}",
            self.epoch, self.next, self.checkpointed
        )
    }
}

/// One mark a shard.
pub(super) struct Marks {
    shards: Vec<Mutex<Mark>>,
}

impl Marks {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::new(Mark::default())).collect(),
        }
    }

    pub(super) fn appended(&self, shard: ShardId, position: LogPosition) {
        if let Some(mark) = self.shards.get(usize::from(shard.0)) {
            let mut mark = mark.lock();
            mark.next = mark.next.max(position.next());
        }
    }

    pub(super) fn checkpointed(&self, shard: ShardId, reached: LogPosition) {
        if let Some(mark) = self.shards.get(usize::from(shard.0)) {
            let mut mark = mark.lock();
            mark.checkpointed = mark.checkpointed.max(reached);
        }
    }

    /// The epoch under which this process acquired the shard last; 0 if it never did.
    pub(super) fn epoch(&self, shard: ShardId) -> Epoch {
        let mark = self.shards.get(usize::from(shard.0));
        mark.map_or(Epoch(0), |mark| mark.lock().epoch)
    }

    /// Takes what the store tells of a shard that was just acquired; what it has lost, if it has.
    pub(super) fn acquired(&self, shard: ShardId, found: Mark) -> Option<Mark> {
        let mut mark = self.shards.get(usize::from(shard.0))?.lock();
        let before = *mark;
        if before.is_ahead_of(&found) {
            return Some(before);
        }
        *mark = found;
        None
    }

    /// The loss was accepted.
    pub(super) fn reset(&self, shard: ShardId, found: Mark) {
        if let Some(mark) = self.shards.get(usize::from(shard.0)) {
            *mark.lock() = found;
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
        let mark = |epoch, next, checkpointed| Mark {
            epoch: Epoch(epoch),
            next: LogPosition(next),
            checkpointed: LogPosition(checkpointed),
        };
        assert_eq!(marks.acquired(shard, mark(5, 3, 1)), None);
        marks.appended(shard, LogPosition(3));
        marks.checkpointed(shard, LogPosition(2));
        assert_eq!(marks.acquired(shard, mark(6, 3, 2)), Some(mark(5, 4, 2)));
        assert_eq!(marks.acquired(shard, mark(6, 4, 1)), Some(mark(5, 4, 2)));
        assert_eq!(marks.acquired(shard, mark(4, 4, 2)), Some(mark(5, 4, 2)));
        assert_eq!(
            marks.acquired(shard, mark(6, 9, 2)),
            None,
            "others may have written more"
        );
        marks.reset(shard, mark(7, 1, 0));
        assert_eq!(marks.acquired(shard, mark(8, 1, 0)), None);
    }
}

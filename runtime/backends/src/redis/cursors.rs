//! Cursors that were set through this store: one that moves all the time is not written each time.
//!
//! Nobody waits for a cursor to be durable, and every write costs the server a script and, under strict durability, a part in a
//! sync. What is not written yet goes with the next renewal, trim or release of the shard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use troupe_core::{Epoch, LogPosition, ShardId};

/// How often one cursor is written.
const WRITTEN_EVERY: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// Epoch of its setter.
    epoch: Epoch,
    set: LogPosition,
    /// Where it is in Redis, and since when.
    written: LogPosition,
    written_at: Instant,
}

#[derive(Default)]
pub(super) struct Cursors {
    known: Mutex<BTreeMap<(ShardId, Arc<str>), Cursor>>,
}

impl Cursors {
    /// The highest position that was set here.
    pub(super) fn get(&self, shard: ShardId, sink: &str) -> LogPosition {
        let known = self.known.lock();
        known
            .get(&(shard, Arc::from(sink)))
            .map_or(LogPosition(0), |cursor| cursor.set)
    }

    /// Notes a position; whether it is to be written at once. The first one under an epoch is: Redis has to know that there is
    /// such a cursor, since one at 0 keeps the whole log, and whether the epoch is in force.
    pub(super) fn set(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition, now: Instant) -> bool {
        let mut known = self.known.lock();
        match known.get_mut(&(shard, Arc::from(sink))) {
            Some(cursor) if cursor.epoch == epoch => {
                cursor.set = cursor.set.max(to);
                cursor.set > cursor.written && now.duration_since(cursor.written_at) >= WRITTEN_EVERY
            }
            _ => true,
        }
    }

    /// A position has been written.
    pub(super) fn written(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition, now: Instant) {
        let mut known = self.known.lock();
        let fresh = Cursor {
            epoch,
            set: to,
            written: to,
            written_at: now,
        };
        let cursor = known.entry((shard, Arc::from(sink))).or_insert(fresh);
        if cursor.epoch != epoch {
            *cursor = fresh;
        }
        cursor.set = cursor.set.max(to);
        cursor.written = cursor.written.max(to);
        cursor.written_at = now;
    }

    /// Forgets those of other sinks.
    pub(super) fn keep(&self, shard: ShardId, sinks: &[&str]) {
        let mut known = self.known.lock();
        known.retain(|(of, sink), _| *of != shard || sinks.contains(&&**sink));
    }

    /// Forgets a shard: another epoch is in force, and what was set here may not be what counts.
    pub(super) fn forget(&self, shard: ShardId) {
        self.known.lock().retain(|(of, _), _| *of != shard);
    }

    /// Those of a shard and epoch that Redis does not know yet.
    pub(super) fn unwritten(&self, shard: ShardId, epoch: Epoch) -> Vec<(Arc<str>, LogPosition)> {
        let known = self.known.lock();
        let of_shard = known
            .iter()
            .filter(|((of, _), cursor)| *of == shard && cursor.epoch == epoch);
        of_shard
            .filter(|(_, cursor)| cursor.set > cursor.written)
            .map(|((_, sink), cursor)| (Arc::clone(sink), cursor.set))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);

    #[test]
    fn a_cursor_that_moves_all_the_time_is_written_now_and_then() {
        let cursors = Cursors::default();
        let (epoch, mut now) = (Epoch(5), Instant::now());
        assert!(
            cursors.set(SHARD, epoch, "events", LogPosition(0), now),
            "the first one"
        );
        cursors.written(SHARD, epoch, "events", LogPosition(0), now);
        let mut written = 0;
        for position in 1..=1_000 {
            now += Duration::from_millis(1);
            if cursors.set(SHARD, epoch, "events", LogPosition(position), now) {
                cursors.written(SHARD, epoch, "events", LogPosition(position), now);
                written += 1;
            }
            assert_eq!(cursors.get(SHARD, "events"), LogPosition(position));
        }
        assert_eq!(written, 20);
        cursors.set(SHARD, epoch, "events", LogPosition(1_001), now);
        assert_eq!(cursors.unwritten(SHARD, epoch), [("events".into(), LogPosition(1_001))]);
        assert!(cursors.unwritten(SHARD, Epoch(6)).is_empty());
    }

    #[test]
    fn a_cursor_of_another_epoch_is_asked_for_again() {
        let (cursors, now) = (Cursors::default(), Instant::now());
        cursors.written(SHARD, Epoch(5), "events", LogPosition(7), now);
        assert!(cursors.set(SHARD, Epoch(4), "events", LogPosition(9), now));
        assert!(cursors.set(SHARD, Epoch(6), "events", LogPosition(3), now));
        cursors.written(SHARD, Epoch(6), "events", LogPosition(3), now);
        assert_eq!(
            cursors.get(SHARD, "events"),
            LogPosition(3),
            "what another owner wrote counts"
        );
        cursors.forget(SHARD);
        assert_eq!(cursors.get(SHARD, "events"), LogPosition(0));
    }
}

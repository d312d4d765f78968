//! How long a shard that failed rests before it is opened again: longer each time, for what fails it may be in its store.

use std::collections::HashMap;

use troupe_core::{ShardId, Timestamp};

/// The first pause, in milliseconds, which doubles with each failure; also that of a shard that has not failed.
pub(super) const PAUSE_FIRST_MS: u64 = 500;
/// The longest pause, in milliseconds: while a shard rests its timers are late, and nobody enters a room that only so many may be in.
const PAUSE_MAX_MS: u64 = 5_000;
/// A shard that has not failed for so many milliseconds, its pause included, is well.
const WELL_AFTER_MS: u64 = 60_000;

/// When shards failed.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<ShardId, (Timestamp, u32)>);

impl Failures {
    /// A shard has failed; milliseconds that it rests.
    pub(super) fn failed(&mut self, shard: ShardId, now: Timestamp) -> u64 {
        let (last, row) = self.0.entry(shard).or_insert((now, 0));
        *row = if now.since_ms(*last) < WELL_AFTER_MS {
            *row + 1
        } else {
            1
        };
        *last = now;
        (PAUSE_FIRST_MS << (*row - 1).min(16)).min(PAUSE_MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_again_rests_for_longer_and_who_is_well_does_not() {
        let (mut failures, mut now) = (Failures::default(), Timestamp(1_000));
        let mut fails = |shard: u16, after_ms: u64| {
            now = now.plus_ms(after_ms);
            failures.failed(ShardId(shard), now)
        };
        assert_eq!([fails(1, 0), fails(1, 5_000), fails(1, 5_000)], [500, 1_000, 2_000]);
        assert_eq!(fails(2, 0), 500, "another shard is not meant");
        let row: Vec<u64> = (0..70).map(|_| fails(1, 35_000)).collect();
        assert_eq!((row[0], row[1], row[69]), (4_000, 5_000, 5_000));
        assert_eq!(fails(1, WELL_AFTER_MS), 500);
    }
}

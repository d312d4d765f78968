//! Which unsynced writes reach the disk before their sync, drawn from a seed.

use std::time::Duration;

use parking_lot::Mutex;

/// One sync of so many is torn.
const TORN_ONE_IN: u64 = 4;
/// Longest time that a torn sync takes, in milliseconds.
const TORN_MAX_MS: u64 = 4;

static RANDOM: Mutex<Option<Random>> = Mutex::new(None);

/// From here on syncs are torn, by this seed; one that tears already goes on with its own.
pub(super) fn begin(seed: u64) {
    RANDOM.lock().get_or_insert(Random(seed));
}

/// What befalls a sync: the seed of what survives, and how long the disk takes; none if nothing does.
pub(super) fn befalls() -> Option<(u64, Duration)> {
    let mut random = RANDOM.lock();
    let random = random.as_mut()?;
    if random.below(TORN_ONE_IN) > 0 {
        return None;
    }
    Some((random.next(), Duration::from_millis(1 + random.below(TORN_MAX_MS))))
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }
}

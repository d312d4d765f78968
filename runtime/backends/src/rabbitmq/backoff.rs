//! Pauses between attempts to reconnect.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Doubles from the first pause to the longest; each is shortened by up to a half, by chance.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            next: first.min(max),
        }
    }

    /// The pause before the next attempt.
    pub(super) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        // Every `RandomState` has random keys: chance enough to spread members that lost one broker.
        let chance = RandomState::new().build_hasher().finish() % 1_024;
        whole / 2 + (whole / 2) * u32::try_from(chance).unwrap_or(0) / 1_024
    }

    /// The connection was of use.
    pub(super) fn reset(&mut self) {
        self.next = self.first.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(700));
        for whole in [100, 200, 400, 700, 700] {
            let pause = backoff.pause();
            let whole = Duration::from_millis(whole);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }

    #[test]
    fn pauses_differ() {
        let pause = || Backoff::new(Duration::from_secs(10), Duration::from_secs(10)).pause();
        let first = pause();
        assert!((0..50).any(|_| pause() != first));
    }
}

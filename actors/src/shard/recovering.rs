//! Counts the executions that recovery has still to resume.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Those of one shard. When it is dropped, what was not resumed counts no longer: the shard is not served here any more.
#[derive(Debug)]
pub(super) struct Recovering {
    /// Those of all shards.
    all: Arc<AtomicU64>,
    left: u64,
}

impl Recovering {
    /// A shard of which nothing is known yet, among `all`.
    pub(super) fn new(all: &Arc<AtomicU64>) -> Self {
        Self {
            all: Arc::clone(all),
            left: 0,
        }
    }

    /// So many more are to be resumed.
    pub(super) fn found(&mut self, count: usize) {
        self.left += count as u64;
        self.all.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// One of those that were found is resumed.
    pub(super) fn resumed_one(&mut self) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.all.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Recovering {
    fn drop(&mut self) {
        self.all.fetch_sub(self.left, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_resumed_counts_no_longer_once_the_shard_is_gone() {
        let all = Arc::new(AtomicU64::new(0));
        let count = || all.load(Ordering::Relaxed);
        let (mut gone, mut other) = (Recovering::new(&all), Recovering::new(&all));
        gone.found(90);
        gone.found(10);
        other.found(7);
        for _ in 0..40 {
            gone.resumed_one();
        }
        assert_eq!(count(), 67);
        drop(gone);
        assert_eq!(count(), 7, "those of the other shard");
        for _ in 0..7 {
            other.resumed_one();
        }
        // More than were found are none.
        other.resumed_one();
        assert_eq!(count(), 0);
        drop(other);
        assert_eq!(count(), 0);
    }
}

//! A replica that took over without the latest: what its store counted no more.

use super::deployment::LEASE;

/// That a replica which lacked something took over.
#[derive(Clone, Debug)]
pub(super) struct Older {
    /// When it had heard the last of its master, in nanoseconds.
    pub(super) since_ns: u64,
    /// When it had taken over.
    pub(super) master_ns: u64,
}

impl Older {
    /// Whether the store may not know of an attempt under a limit that began then (ADR 0036: what it counts is in no log). It may have been
    /// let in a slot's time before.
    pub(super) fn has_forgotten(&self, begun_ns: u64) -> bool {
        let slot_ns = u64::try_from((LEASE * 5 / 4).as_nanos()).unwrap_or(u64::MAX);
        (self.since_ns..=self.master_ns.saturating_add(slot_ns)).contains(&begun_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn older() -> Older {
        Older {
            since_ns: 50,
            master_ns: 110,
        }
    }

    #[test]
    fn what_began_while_a_replica_lagged_or_soon_after_may_be_forgotten() {
        let slot_ns = 2_500_000_000;
        let forgotten = [49, 50, 110 + slot_ns, 111 + slot_ns].map(|begun| older().has_forgotten(begun));
        assert_eq!(forgotten, [false, true, true, false]);
    }
}

//! What a shard decides when an execution's actor fails: build it again, or set it aside.

use std::collections::{HashMap, VecDeque};

use troupe_core::{ExecutionId, Timestamp};

use crate::options::Mutants;

/// An execution that fails more often than this within [`WINDOW_MS`] is set aside.
const FAILURES_MAX: usize = 3;
/// See [`FAILURES_MAX`].
const WINDOW_MS: u64 = 60_000;
/// Executions whose failures are remembered at once.
const REMEMBERED_MAX: usize = 10_000;

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Build the actor again from the store.
    Rebuild,
    /// Set the execution aside until an operator resumes it.
    Quarantine,
}

/// Failures of one shard's executions.
#[derive(Debug, Default)]
pub struct FailureMachine {
    failures: HashMap<ExecutionId, VecDeque<Timestamp>>,
    mutants: Mutants,
}

impl FailureMachine {
    /// No failures yet.
    #[must_use]
    pub fn new(mutants: Mutants) -> Self {
        let failures = HashMap::new();
        Self { failures, mutants }
    }

    /// An execution's actor failed.
    pub fn failed(&mut self, id: ExecutionId, now: Timestamp) -> Verdict {
        if self.failures.len() >= REMEMBERED_MAX {
            self.failures
                .retain(|_, times| times.back().is_some_and(|last| now.since_ms(*last) < WINDOW_MS));
        }
        let times = self.failures.entry(id).or_default();
        times.push_back(now);
        while times.front().is_some_and(|first| now.since_ms(*first) >= WINDOW_MS) {
            times.pop_front();
        }
        if times.len() > FAILURES_MAX && !self.mutants.never_sets_aside {
            self.failures.remove(&id);
            return Verdict::Quarantine;
        }
        Verdict::Rebuild
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use troupe_core::ShardId;

    #[test]
    fn the_fourth_failure_within_a_minute_sets_it_aside() {
        let (mut machine, id) = (
            FailureMachine::default(),
            ExecutionId::fresh(ShardId(0), Timestamp(0), 1),
        );
        for at in [0, 1_000, 59_000] {
            assert_eq!(machine.failed(id, Timestamp(at)), Verdict::Rebuild);
        }
        assert_eq!(
            machine.failed(id, Timestamp(60_500)),
            Verdict::Rebuild,
            "the first is forgotten by now"
        );
        assert_eq!(machine.failed(id, Timestamp(60_600)), Verdict::Quarantine);
        assert_eq!(
            machine.failed(id, Timestamp(60_700)),
            Verdict::Rebuild,
            "a released one starts anew"
        );
    }
}

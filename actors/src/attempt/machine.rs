//! Where an attempt stands between its execution, which may hold or abort it, and its actor, which starts it.
//!
//! ```text
//! queued <-> held            the execution: pause, resume
//! queued  -> started         the attempt: its turn came
//! queued, held -> aborted    the execution: it will never start
//! any -> reported            the attempt: its result is on the way
//! ```
//! Each arrow is one compare-and-set, so once a pause is decided nothing that was queued can start.

use std::sync::atomic::{AtomicU8, Ordering};

const QUEUED: u8 = 0;
const HELD: u8 = 1;
const STARTED: u8 = 2;
const ABORTED: u8 = 3;
const REPORTED: u8 = 4;

/// Where an attempt stands.
#[derive(Debug, Default)]
pub struct AttemptGate(AtomicU8);

/// What an attempt finds when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It runs now.
    Start,
    /// The execution is paused: wait.
    Hold,
    /// It was aborted before it started.
    Aborted,
}

impl AttemptGate {
    /// The attempt's turn has come.
    pub fn start(&self) -> Turn {
        match self
            .0
            .compare_exchange(QUEUED, STARTED, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Turn::Start,
            Err(HELD) => Turn::Hold,
            Err(_) => Turn::Aborted,
        }
    }

    /// The execution is paused: the attempt must not start. True if it runs already.
    pub fn hold(&self) -> bool {
        match self
            .0
            .compare_exchange(QUEUED, HELD, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => false,
            Err(before) => before == STARTED,
        }
    }

    /// The execution goes on. True if the attempt was held and wants to be told.
    pub fn release(&self) -> bool {
        self.0
            .compare_exchange(HELD, QUEUED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The attempt is to stop. True if it never started.
    pub fn abort(&self) -> bool {
        let aborted = |from| {
            self.0
                .compare_exchange(from, ABORTED, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        };
        aborted(QUEUED) || aborted(HELD) || aborted(QUEUED)
    }

    /// The attempt's report is being sent.
    pub fn report(&self) {
        self.0.store(REPORTED, Ordering::Release);
    }

    /// Whether the attempt runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.0.load(Ordering::Acquire) == STARTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_starts_while_held() {
        let gate = AttemptGate::default();
        assert!(!gate.hold());
        assert_eq!(gate.start(), Turn::Hold);
        assert!(gate.release());
        assert!(!gate.release());
        assert_eq!(gate.start(), Turn::Start);
        assert!(gate.hold(), "it runs: the pause waits for it");
        assert!(gate.runs());
    }

    #[test]
    fn an_aborted_attempt_never_starts() {
        let gate = AttemptGate::default();
        gate.hold();
        assert!(gate.abort());
        assert_eq!(gate.start(), Turn::Aborted);
        assert!(!gate.release());
    }

    #[test]
    fn a_started_attempt_is_not_unstarted_by_an_abort() {
        let gate = AttemptGate::default();
        assert_eq!(gate.start(), Turn::Start);
        assert!(!gate.abort());
        gate.report();
        assert!(!gate.runs());
    }
}

//! Which calls wait for which confirms.

use std::collections::HashMap;

use tokio::sync::oneshot;
use troupe_ports::BusError;

/// Where the answer to a call goes.
pub(super) type Reply = oneshot::Sender<Result<(), BusError>>;

/// One event of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The call.
    pub(super) call: u64,
    /// The event's place in it.
    pub(super) place: usize,
}

#[derive(Debug)]
struct OpenCall {
    reply: Reply,
    confirmed: Vec<bool>,
    missing: usize,
}

/// Calls that have not been answered.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    next: u64,
    open: HashMap<u64, OpenCall>,
}

impl OpenCalls {
    /// Takes a call of so many events up; returns its number.
    pub(super) fn admit(&mut self, reply: Reply, events: usize) -> u64 {
        self.next += 1;
        let call = OpenCall {
            reply,
            confirmed: vec![false; events],
            missing: events,
        };
        self.open.insert(self.next, call);
        self.next
    }

    /// Whether anybody still waits for one of these events.
    pub(super) fn want(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.open.contains_key(&part.call))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The broker has these events.
    pub(super) fn confirm(&mut self, parts: &[Part]) {
        for part in parts {
            let Some(call) = self.open.get_mut(&part.call) else {
                continue;
            };
            if let Some(confirmed) = call.confirmed.get_mut(part.place)
                && !std::mem::replace(confirmed, true)
            {
                call.missing -= 1;
            }
            if call.missing == 0 {
                self.complete(part.call);
            }
        }
    }

    /// The broker refused these events: their calls fail.
    pub(super) fn refuse(&mut self, parts: &[Part], reason: &str) {
        for part in parts {
            if let Some(call) = self.open.get_mut(&part.call)
                && let Some(confirmed) = call.confirmed.get_mut(part.place)
            {
                *confirmed = false;
            }
        }
        for part in parts {
            if let Some(call) = self.open.remove(&part.call) {
                call.fail(reason);
            }
        }
    }

    /// All calls fail.
    pub(super) fn fail_all(&mut self, reason: &str) {
        for (_, call) in self.open.drain() {
            call.fail(reason);
        }
    }

    fn complete(&mut self, call: u64) {
        if let Some(call) = self.open.remove(&call) {
            // Whoever asked may be gone; the events are published all the same.
            call.reply.send(Ok(())).ok();
        }
    }
}

impl OpenCall {
    fn fail(self, reason: &str) {
        let confirmed = self.confirmed.iter().take_while(|confirmed| **confirmed).count();
        let error = match confirmed {
            0 => BusError::Unavailable(reason.to_owned()),
            _ => BusError::Interrupted {
                confirmed,
                reason: reason.to_owned(),
            },
        };
        // As above.
        self.reply.send(Err(error)).ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn part(call: u64, place: usize) -> Part {
        Part { call, place }
    }

    #[test]
    fn a_call_is_answered_once_all_of_its_events_are_confirmed() {
        let mut calls = OpenCalls::default();
        let (reply, mut answer) = oneshot::channel();
        let call = calls.admit(reply, 2);
        calls.confirm(&[part(call, 1), part(call, 1)]);
        assert!(answer.try_recv().is_err());
        calls.confirm(&[part(call, 0), part(77, 0)]);
        assert!(answer.try_recv().unwrap().is_ok());
        assert!(calls.is_empty());
    }

    #[test]
    fn a_failed_call_says_how_much_is_confirmed_without_a_gap() {
        for (confirmed, prefix) in [(vec![], 0), (vec![1, 2], 0), (vec![0, 1, 3], 2)] {
            let mut calls = OpenCalls::default();
            let (reply, mut answer) = oneshot::channel();
            let call = calls.admit(reply, 4);
            calls.confirm(&confirmed.iter().map(|place| part(call, *place)).collect::<Vec<_>>());
            calls.fail_all("gone");
            assert_eq!(answer.try_recv().unwrap().unwrap_err().confirmed(), prefix);
        }
    }

    #[test]
    fn a_refused_event_fails_its_calls_and_no_other() {
        let mut calls = OpenCalls::default();
        let ((one, mut first), (two, mut second)) = (oneshot::channel(), oneshot::channel());
        let (one, two) = (calls.admit(one, 3), calls.admit(two, 1));
        calls.confirm(&[part(one, 0)]);
        calls.refuse(&[part(one, 1)], "full");
        assert_eq!(first.try_recv().unwrap().unwrap_err().confirmed(), 1);
        assert!(!calls.want(&[part(one, 2)]) && calls.want(&[part(one, 2), part(two, 0)]));
        calls.confirm(&[part(one, 2), part(two, 0)]);
        assert!(second.try_recv().unwrap().is_ok());
    }
}

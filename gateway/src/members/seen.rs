//! Which signed requests have come already: none is let in twice.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::signature::{AGE_MS_MAX, Nonce, invalid};
use crate::error::ApiError;

/// For how long one is remembered, at least. What was signed by a clock that is ahead is good for twice the age that is let through; the
/// second is for clocks that are set right meanwhile. It is measured by a clock that nobody sets.
const KEPT: Duration = Duration::from_millis(2 * AGE_MS_MAX + 1_000);
/// How many may come within [`KEPT`]: 34,000 a second. Both generations then take some 220 MB.
const MOST: usize = 1 << 22;

/// The nonces of the requests that were let in lately.
pub(super) struct Seen {
    most: usize,
    generations: Mutex<Generations>,
}

/// When the younger one is [`KEPT`] old it becomes the older one, and what was the older one is forgotten as a whole. So each nonce is kept for
/// once to twice as long, and nobody looks for those that are too old.
struct Generations {
    young: HashSet<Nonce>,
    old: HashSet<Nonce>,
    /// When the younger one began.
    since: Instant,
}

impl Default for Seen {
    fn default() -> Self {
        Self::new(MOST, Instant::now())
    }
}

impl Seen {
    fn new(most: usize, since: Instant) -> Self {
        let generations = Generations {
            young: HashSet::new(),
            old: HashSet::new(),
            since,
        };
        Self {
            most,
            generations: Mutex::new(generations),
        }
    }

    /// Remembers a request. Only one whose signature is right: strangers are to take no room here.
    ///
    /// # Errors
    /// `MEMBER_SIGNATURE_INVALID` if it came before; `UNAVAILABLE` while there is no room: none is forgotten early.
    pub(super) fn accept(&self, nonce: Nonce, now: Instant) -> Result<(), ApiError> {
        let mut known = self.generations.lock();
        known.turn(now);
        if known.young.contains(&nonce) || known.old.contains(&nonce) {
            return Err(invalid("the signed request was used already: each is good for once"));
        }
        if known.young.len() >= self.most {
            let detail = format!("{} requests of members came within {} s", self.most, KEPT.as_secs());
            let left = KEPT.saturating_sub(now.saturating_duration_since(known.since));
            let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            return Err(ApiError::new("UNAVAILABLE", detail).retry_after_ms(left_ms));
        }
        known.young.insert(nonce);
        Ok(())
    }
}

impl Generations {
    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < KEPT {
            return;
        }
        let young = std::mem::take(&mut self.young);
        // After a long silence both are too old.
        self.old = if age < KEPT * 2 { young } else { HashSet::new() };
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::{HeaderMap, Method};
    use troupe_core::Timestamp;

    use super::*;
    use crate::auth::Caller;
    use crate::members::signature::{MemberKey, NONCE_BYTES, Signed};

    fn nonce(number: u8) -> Nonce {
        [number; NONCE_BYTES]
    }

    fn code(answer: Result<(), ApiError>) -> String {
        answer.unwrap_err().code().to_owned()
    }

    #[test]
    fn a_repeated_one_is_refused_and_another_one_passes() {
        let begun = Instant::now();
        let seen = Seen::new(10, begun);
        seen.accept(nonce(1), begun).unwrap();
        seen.accept(nonce(2), begun).unwrap();
        let refused = seen.accept(nonce(1), begun).unwrap_err();
        assert_eq!(refused.code(), "MEMBER_SIGNATURE_INVALID");
        assert!(refused.detail().contains("already"), "{}", refused.detail());
        assert_eq!(code(seen.accept(nonce(2), begun)), "MEMBER_SIGNATURE_INVALID");
    }

    #[test]
    fn each_is_kept_for_long_enough_whenever_it_came_and_then_forgotten() {
        // What a clock signs that is as far ahead as is let through is good for twice that.
        assert!(KEPT >= Duration::from_millis(2 * AGE_MS_MAX), "{KEPT:?}");
        let begun = Instant::now();
        let moment = Duration::from_millis(1);
        for after in [
            Duration::ZERO,
            KEPT / 2,
            KEPT - moment,
            KEPT,
            KEPT * 2 - moment,
            KEPT * 5,
        ] {
            let (seen, came) = (Seen::new(100, begun), begun + after);
            seen.accept(nonce(0), came).unwrap();
            for (number, step) in (1..).zip(1..=10_u32) {
                seen.accept(nonce(number), came + KEPT * step / 10).unwrap();
                let again = seen.accept(nonce(0), came + KEPT * step / 10);
                assert_eq!(code(again), "MEMBER_SIGNATURE_INVALID", "{after:?} {step}");
            }
            seen.accept(nonce(0), came + KEPT * 3).unwrap();
        }
    }

    #[test]
    fn what_is_kept_does_not_grow_with_time() {
        let begun = Instant::now();
        let seen = Seen::new(100, begun);
        for number in 0..100 {
            seen.accept(nonce(number), begun + KEPT * u32::from(number) / 10)
                .unwrap();
            let known = seen.generations.lock();
            assert!(known.young.len() <= 10 && known.old.len() <= 10);
        }
    }

    #[test]
    fn without_room_nothing_is_let_in_and_nothing_forgotten() {
        let begun = Instant::now();
        let seen = Seen::new(2, begun);
        seen.accept(nonce(1), begun).unwrap();
        seen.accept(nonce(2), begun).unwrap();
        assert_eq!(code(seen.accept(nonce(3), begun)), "UNAVAILABLE");
        assert_eq!(code(seen.accept(nonce(1), begun)), "MEMBER_SIGNATURE_INVALID");
        seen.accept(nonce(3), begun + KEPT).unwrap();
        assert_eq!(code(seen.accept(nonce(1), begun + KEPT)), "MEMBER_SIGNATURE_INVALID");
    }

    #[test]
    fn a_request_that_is_signed_anew_is_another_one() {
        let now = Timestamp(1_790_000_000_000);
        let (key, begun) = (MemberKey::new(b"secret"), Instant::now());
        let (signed, seen) = (Signed::new(&Caller::member(), b""), Seen::new(2, begun));
        let headers = || {
            let (name, value) = key.sign(&Method::GET, "/", &HeaderMap::new(), now, &signed).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(name, value);
            headers
        };
        let comes = |headers: &HeaderMap| {
            let signed = key.verify(&Method::GET, "/", headers, now).unwrap().unwrap();
            seen.accept(signed.nonce(), begun)
        };
        let first = headers();
        comes(&first).unwrap();
        assert_eq!(code(comes(&first)), "MEMBER_SIGNATURE_INVALID");
        comes(&headers()).unwrap();
    }
}

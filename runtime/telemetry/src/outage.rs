//! Log lines about something that lasts: one at once, then at growing intervals, and one when it is over.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pause before the second line; each further one is twice as long.
const AGAIN_FIRST: Duration = Duration::from_secs(10);
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// Something that several may suffer from at once, as the shards of an engine do: it begins with the first failure and is over
/// when nobody suffers any more.
#[derive(Debug)]
pub struct Outage {
    what: &'static str,
    /// Whether anybody suffers: whoever is well looks no further.
    lasts: AtomicBool,
    inner: Mutex<Option<Inner>>,
}

#[derive(Debug)]
struct Inner {
    suffering: BTreeSet<u64>,
    since: Instant,
    again_at: Instant,
    pause: Duration,
}

impl Outage {
    /// Nobody suffers; `what` begins the line, as in "events wait for the bus".
    #[must_use]
    pub const fn new(what: &'static str) -> Self {
        Self {
            what,
            lasts: AtomicBool::new(false),
            inner: Mutex::new(None),
        }
    }

    /// `who` failed, because of `error`.
    pub fn failed(&self, who: u64, error: &dyn Display) {
        if let Some(lasted) = self.failed_at(who, Instant::now()) {
            let lasted_s = lasted.as_secs();
            tracing::warn!(who, lasted_s, %error, "{}; it is tried again", self.what);
        }
    }

    /// `who` is well, or is gone. Costs next to nothing while nobody suffers.
    pub fn over(&self, who: u64) {
        if let Some(lasted) = self.over_at(who, Instant::now()) {
            let lasted_s = lasted.as_secs_f64();
            tracing::info!(lasted_s, "{}: that is over", self.what);
        }
    }

    /// For how long it has lasted, when it is time for a line.
    fn failed_at(&self, who: u64, now: Instant) -> Option<Duration> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.lasts.store(true, Ordering::Release);
        let Some(known) = &mut *inner else {
            *inner = Some(Inner {
                suffering: BTreeSet::from([who]),
                since: now,
                again_at: now + AGAIN_FIRST,
                pause: AGAIN_FIRST,
            });
            return Some(Duration::ZERO);
        };
        known.suffering.insert(who);
        if now < known.again_at {
            return None;
        }
        known.pause = (known.pause * 2).min(AGAIN_MAX);
        known.again_at = now + known.pause;
        Some(now.duration_since(known.since))
    }

    /// For how long it lasted, when nobody suffers any more.
    fn over_at(&self, who: u64, now: Instant) -> Option<Duration> {
        if !self.lasts.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.as_mut()?;
        known.suffering.remove(&who);
        if !known.suffering.is_empty() {
            return None;
        }
        let lasted = now.duration_since(known.since);
        *inner = None;
        self.lasts.store(false, Ordering::Release);
        Some(lasted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_of_at_once_then_now_and_then_and_once_when_it_is_over() {
        let (outage, begun) = (Outage::new("nothing works"), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert_eq!(outage.over_at(1, begun), None, "nothing had failed");
        let told: Vec<u64> = (0..1_000)
            .filter(|second| outage.failed_at(second % 8, at(*second)).is_some())
            .collect();
        assert_eq!(told, [0, 10, 30, 70, 150, 310, 610, 910]);
        for who in 0..7 {
            assert_eq!(outage.over_at(who, at(1_000)), None, "others still suffer");
        }
        assert_eq!(outage.over_at(7, at(1_001)), Some(Duration::from_secs(1_001)));
        assert_eq!(outage.over_at(7, at(1_002)), None);
        assert_eq!(outage.failed_at(3, at(1_003)), Some(Duration::ZERO), "another one");
    }
}

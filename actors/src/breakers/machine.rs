//! What the breaker of one target decides. No I/O, no clock.
//!
//! ```text
//! closed    -> open        too large a part of the calls in the window failed
//! open      -> half-open   its time is over: a canary may go
//! half-open -> open        a call failed; the next time is longer
//! half-open -> closed      enough calls succeeded, and none is parked
//! ```
//! In the half-open state each success lets two more go, so parked attempts are released in growing waves: 1, 2, 4, …

use std::collections::VecDeque;

use troupe_core::Timestamp;

/// How finely the window moves: it forgets in steps of a tenth of itself.
const SLICES: u64 = 10;

/// When breakers open and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Calls that ended in the last so many milliseconds count.
    pub window_ms: u64,
    /// Fewer calls than this in the window open nothing.
    pub calls_min: u64,
    /// Failed calls among those in the window that open it, in percent.
    pub failures_percent: u64,
    /// How long it stays open the first time, in milliseconds; each time that a canary fails it is twice as long.
    pub open_ms: u64,
    /// How long it stays open at most, unless the target asks for more, in milliseconds.
    pub open_max_ms: u64,
    /// Calls that must succeed in the half-open state before it closes.
    pub successes_min: u64,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            window_ms: 30_000,
            calls_min: 10,
            failures_percent: 50,
            open_ms: 5_000,
            open_max_ms: 300_000,
            successes_min: 3,
        }
    }
}

/// What a call that ended says of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered.
    Answered,
    /// The target failed; perhaps it said when to come again, in milliseconds.
    Failed {
        /// See [`Outcome::Failed`].
        retry_after_ms: Option<u64>,
    },
    /// Nothing: the call was given up, or never reached the target.
    Unknown,
}

/// An operator's word, which holds until it is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerHold {
    /// Nothing goes.
    Open,
    /// Everything goes, whatever fails.
    Closed,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go.
    Closed,
    /// Attempts are parked.
    Open,
    /// A few calls go, to see whether the target is well.
    HalfOpen,
}

impl BreakerState {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Leave for one call; it is given back with the call's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Calls of an earlier state say nothing about this one.
    term: u64,
}

#[derive(Debug)]
enum Phase {
    Closed(Window),
    Open {
        until: Timestamp,
    },
    /// So many calls may go now, and so many have succeeded.
    HalfOpen {
        left: u64,
        succeeded: u64,
    },
}

/// The breaker of one target.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    phase: Phase,
    term: u64,
    held: Option<BreakerHold>,
    /// How often it opened since it was closed last.
    openings: u32,
    since: Timestamp,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(settings: BreakerSettings, now: Timestamp) -> Self {
        Self {
            settings,
            phase: Phase::Closed(Window::default()),
            term: 0,
            held: None,
            openings: 0,
            since: now,
        }
    }

    /// How it stands, an operator's word included.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match (self.held, &self.phase) {
            (Some(BreakerHold::Open), _) | (None, Phase::Open { .. }) => BreakerState::Open,
            (Some(BreakerHold::Closed), _) | (None, Phase::Closed(_)) => BreakerState::Closed,
            (None, Phase::HalfOpen { .. }) => BreakerState::HalfOpen,
        }
    }

    /// What an operator said.
    #[must_use]
    pub fn held(&self) -> Option<BreakerHold> {
        self.held
    }

    /// Since when it stands so.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// When it lets a canary go by itself.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Open { until } if self.held.is_none() => Some(until),
            Phase::Open { .. } | Phase::Closed(_) | Phase::HalfOpen { .. } => None,
        }
    }

    /// Calls in the window, and how many of them failed.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        match &self.phase {
            Phase::Closed(window) => window.counts(),
            Phase::Open { .. } | Phase::HalfOpen { .. } => (0, 0),
        }
    }

    /// Whether it says nothing that a new one would not: it is closed, and nothing failed in its window.
    #[must_use]
    pub fn is_idle(&mut self, now: Timestamp) -> bool {
        let window_ms = self.settings.window_ms;
        match &mut self.phase {
            Phase::Closed(window) if self.held.is_none() => {
                window.forget(now, window_ms);
                window.counts().1 == 0
            }
            Phase::Closed(_) | Phase::Open { .. } | Phase::HalfOpen { .. } => false,
        }
    }

    /// Leave for a call, if one may go now. Whoever gets none is parked, and asks again when told.
    pub fn admit(&mut self, now: Timestamp) -> Option<Pass> {
        self.due(now);
        let pass = Pass { term: self.term };
        match (self.held, &mut self.phase) {
            (Some(BreakerHold::Closed), _) | (None, Phase::Closed(_)) => Some(pass),
            (Some(BreakerHold::Open), _) | (None, Phase::Open { .. }) => None,
            (None, Phase::HalfOpen { left, .. }) => {
                *left = left.checked_sub(1)?;
                Some(pass)
            }
        }
    }

    /// A call ended; `parked` wait for this target.
    pub fn ended(&mut self, pass: Pass, outcome: Outcome, parked: usize, now: Timestamp) {
        if pass.term != self.term || self.held.is_some() {
            return;
        }
        let settings = self.settings;
        match (&mut self.phase, outcome) {
            (Phase::Closed(window), Outcome::Answered) => window.count(false, now, settings.window_ms),
            (Phase::Closed(window), Outcome::Failed { retry_after_ms }) => {
                window.count(true, now, settings.window_ms);
                let (calls, failed) = window.counts();
                if calls >= settings.calls_min && failed * 100 >= settings.failures_percent * calls {
                    self.open(retry_after_ms, now);
                }
            }
            (Phase::HalfOpen { left, succeeded }, Outcome::Answered) => {
                *succeeded += 1;
                *left = left.saturating_add(2);
                if *succeeded >= settings.successes_min && parked == 0 {
                    self.openings = 0;
                    self.enter(Phase::Closed(Window::default()), now);
                }
            }
            (Phase::HalfOpen { .. }, Outcome::Failed { retry_after_ms }) => self.open(retry_after_ms, now),
            // Another one may find out.
            (Phase::HalfOpen { left, .. }, Outcome::Unknown) => *left = left.saturating_add(1),
            (Phase::Closed(_), Outcome::Unknown) | (Phase::Open { .. }, _) => {}
        }
    }

    /// Lets a canary go if the time has come.
    pub fn due(&mut self, now: Timestamp) {
        if self.next_due().is_some_and(|until| until <= now) {
            self.enter(Phase::HalfOpen { left: 1, succeeded: 0 }, now);
        }
    }

    /// An operator's word, or that it is taken back: then it counts anew.
    pub fn hold(&mut self, held: Option<BreakerHold>, now: Timestamp) {
        if held != self.held {
            self.reset(now);
            self.held = held;
        }
    }

    /// Forgets what it counted and is closed.
    pub fn reset(&mut self, now: Timestamp) {
        self.held = None;
        self.openings = 0;
        self.enter(Phase::Closed(Window::default()), now);
    }

    fn open(&mut self, retry_after_ms: Option<u64>, now: Timestamp) {
        let settings = self.settings;
        let doubled = settings.open_ms.saturating_mul(1 << self.openings.min(32));
        let open_ms = doubled.min(settings.open_max_ms).max(retry_after_ms.unwrap_or(0));
        self.openings = self.openings.saturating_add(1);
        let until = now.plus_ms(open_ms);
        self.enter(Phase::Open { until }, now);
    }

    fn enter(&mut self, phase: Phase, now: Timestamp) {
        self.phase = phase;
        self.term += 1;
        self.since = now;
    }
}

/// Calls of the last while, in slices.
#[derive(Debug, Default)]
struct Window(VecDeque<Slice>);

#[derive(Debug)]
struct Slice {
    from: Timestamp,
    calls: u64,
    failed: u64,
}

impl Window {
    fn count(&mut self, failed: bool, now: Timestamp, window_ms: u64) {
        self.forget(now, window_ms);
        let is_current = |slice: &Slice| now.since_ms(slice.from) < (window_ms / SLICES).max(1);
        if !self.0.back().is_some_and(is_current) {
            self.0.push_back(Slice {
                from: now,
                calls: 0,
                failed: 0,
            });
        }
        if let Some(slice) = self.0.back_mut() {
            slice.calls += 1;
            slice.failed += u64::from(failed);
        }
    }

    fn forget(&mut self, now: Timestamp, window_ms: u64) {
        while self.0.front().is_some_and(|slice| now.since_ms(slice.from) > window_ms) {
            self.0.pop_front();
        }
    }

    fn counts(&self) -> (u64, u64) {
        let sum = |of: fn(&Slice) -> u64| self.0.iter().map(of).sum();
        (sum(|slice| slice.calls), sum(|slice| slice.failed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        window_ms: 1_000,
        calls_min: 4,
        failures_percent: 50,
        open_ms: 100,
        open_max_ms: 350,
        successes_min: 3,
    };
    const FAILED: Outcome = Outcome::Failed { retry_after_ms: None };

    /// A breaker and a clock.
    struct Run(Breaker, Timestamp);

    impl Run {
        fn new() -> Self {
            Self(Breaker::new(SETTINGS, Timestamp(0)), Timestamp(0))
        }

        fn wait(&mut self, ms: u64) -> &mut Self {
            self.1 = self.1.plus_ms(ms);
            self
        }

        /// A call that goes and ends so at once.
        fn call(&mut self, outcome: Outcome) -> &mut Self {
            let pass = self.0.admit(self.1).expect("a call may go");
            self.0.ended(pass, outcome, 0, self.1);
            self
        }

        fn fail(&mut self, times: u32) {
            for _ in 0..times {
                self.call(FAILED);
            }
        }

        fn state(&self) -> &'static str {
            self.0.state().name()
        }

        fn opened() -> Self {
            let mut run = Self::new();
            run.fail(4);
            assert_eq!(run.state(), "open");
            run
        }
    }

    #[test]
    fn it_opens_by_the_part_that_failed_among_enough_calls() {
        for (outcomes, expected) in [
            ("fff", "closed"),
            ("ffff", "open"),
            ("aaff", "open"),
            ("aaaff", "closed"),
            ("aaafff", "open"),
            ("fuuuff", "closed"),
            ("aaaaaa", "closed"),
        ] {
            let mut run = Run::new();
            for outcome in outcomes.chars() {
                run.call(match outcome {
                    'f' => FAILED,
                    'a' => Outcome::Answered,
                    _ => Outcome::Unknown,
                });
            }
            assert_eq!(run.state(), expected, "{outcomes}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut run = Run::new();
        run.call(FAILED).call(FAILED).call(FAILED);
        run.wait(1_001).call(FAILED);
        assert_eq!((run.state(), run.0.counts()), ("closed", (1, 1)));
        assert!(!run.0.is_idle(run.1));
        run.wait(1_001);
        assert!(run.0.is_idle(run.1));
    }

    #[test]
    fn while_it_is_open_nothing_goes_until_one_canary_does() {
        let mut run = Run::opened();
        run.wait(99);
        assert_eq!((run.0.admit(run.1), run.0.next_due()), (None, Some(Timestamp(100))));
        run.wait(1);
        let canary = run.0.admit(run.1).unwrap();
        assert_eq!((run.state(), run.0.admit(run.1)), ("half-open", None));
        run.0.ended(canary, Outcome::Unknown, 5, run.1);
        assert!(
            run.0.admit(run.1).is_some(),
            "one that says nothing makes place for another"
        );
    }

    #[test]
    fn waves_grow_with_success_until_nothing_is_parked() {
        let mut run = Run::opened();
        run.wait(100);
        let mut parked = 20_usize;
        let mut waves = Vec::new();
        while run.state() != "closed" {
            let mut passes = Vec::new();
            while parked > 0
                && let Some(pass) = run.0.admit(run.1)
            {
                parked -= 1;
                passes.push(pass);
            }
            waves.push(passes.len());
            for pass in passes {
                run.0.ended(pass, Outcome::Answered, parked, run.1);
            }
            assert!(waves.len() < 10, "{waves:?}");
        }
        assert_eq!(waves, [1, 2, 4, 8, 5]);
    }

    #[test]
    fn a_canary_that_fails_opens_it_for_longer_up_to_a_limit() {
        let mut run = Run::opened();
        for expected in [200, 350, 350] {
            let due = run.0.next_due().unwrap();
            run.1 = due;
            run.call(FAILED);
            assert_eq!(run.0.next_due(), Some(due.plus_ms(expected)));
        }
        run.1 = run.0.next_due().unwrap();
        run.call(Outcome::Answered)
            .call(Outcome::Answered)
            .call(Outcome::Answered);
        assert_eq!(run.state(), "closed");
        run.fail(4);
        assert_eq!(run.0.next_due(), Some(run.1.plus_ms(100)), "it begins anew");
    }

    #[test]
    fn the_target_may_ask_for_longer() {
        let mut run = Run::new();
        let asked = |ms| Outcome::Failed {
            retry_after_ms: Some(ms),
        };
        run.call(FAILED).call(FAILED).call(FAILED).call(asked(5_000));
        assert_eq!(run.0.next_due(), Some(Timestamp(5_000)));
        run.1 = Timestamp(5_000);
        run.call(asked(1));
        assert_eq!(
            run.0.next_due(),
            Some(Timestamp(5_200)),
            "never shorter than its own time"
        );
    }

    #[test]
    fn calls_of_an_earlier_state_say_nothing_about_this_one() {
        let mut run = Run::new();
        let slow = run.0.admit(run.1).unwrap();
        run.fail(4);
        run.0.ended(slow, Outcome::Answered, 0, run.1);
        assert_eq!(run.state(), "open");
        run.wait(100);
        run.0.due(run.1);
        run.0.ended(slow, FAILED, 0, run.1);
        assert_eq!(run.state(), "half-open");
    }

    #[test]
    fn an_operators_word_holds_until_it_is_taken_back() {
        let mut run = Run::new();
        run.0.hold(Some(BreakerHold::Open), run.1);
        run.wait(1_000_000);
        assert_eq!(
            (run.state(), run.0.admit(run.1), run.0.next_due()),
            ("open", None, None)
        );
        run.0.hold(Some(BreakerHold::Closed), run.1);
        run.fail(9);
        assert_eq!(run.state(), "closed");
        run.0.hold(None, run.1);
        run.fail(4);
        assert_eq!(run.state(), "open");
        run.0.reset(run.1);
        assert_eq!(run.state(), "closed");
    }
}

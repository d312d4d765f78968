//! Circuit breakers: while a target is unwell its attempts are parked instead of burnt.
//!
//! A target is what an executor says that a node calls: an HTTP host, a handler. One that answers has no breaker: it gets one
//! with its first failure, and loses it when nothing has failed for a while, so that healthy targets cost one atomic load.

mod guard;
pub mod machine;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use troupe_core::control::{BreakerOverride, ControlKey, Setting};
use troupe_core::execution::AttemptOutcome;
use troupe_core::{CommandId, Timestamp};
use troupe_ports::Clock;

pub use guard::Guard;
pub use machine::{BreakerHold, BreakerSettings, BreakerState, Outcome};

use crate::attempt::permits::Rank;
use crate::options::Mutants;
use machine::{Breaker, Pass};

/// Targets with a breaker at once; those beyond go unguarded, so that hostile names cost no memory.
pub const TARGETS_MAX: usize = 1_000;

/// Sees to it that [`Breakers::due`] is called for a target at a time.
pub type Alarm = Box<dyn Fn(&Arc<Breakers>, &Arc<str>, Timestamp) + Send + Sync>;

/// The breakers of one engine.
pub struct Breakers {
    settings: Option<BreakerSettings>,
    clock: Arc<dyn Clock>,
    alarm: Alarm,
    mutants: Mutants,
    known: AtomicUsize,
    targets: Mutex<HashMap<Arc<str>, Target>>,
    /// The latest word of operators on each target: when it was given, and its command.
    words: Mutex<HashMap<String, (Timestamp, CommandId)>>,
}

impl fmt::Debug for Breakers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Breakers")
            .field("settings", &self.settings)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Target {
    breaker: Breaker,
    parked: BinaryHeap<Parked>,
    arrivals: u64,
    /// For when a task waits that lets a canary go.
    timer: Option<Timestamp>,
}

#[derive(Debug)]
struct Parked {
    order: (Rank, Reverse<u64>),
    release: oneshot::Sender<Admitted>,
}

impl PartialEq for Parked {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Parked {}

impl PartialOrd for Parked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Parked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

/// What an attempt is told that asks whether its target may be called.
#[derive(Debug)]
pub enum Answer {
    /// It may be called; nothing of it is known.
    Unknown,
    /// It may be called.
    Go(Admitted),
    /// Not now; this resolves when it may. Dropped by whoever gives up.
    Parked(oneshot::Receiver<Admitted>),
}

/// Leave to call a target. It goes to another attempt if it is dropped before the call has ended.
#[derive(Debug)]
pub struct Admitted {
    breakers: Weak<Breakers>,
    target: Arc<str>,
    pass: Option<Pass>,
}

impl Admitted {
    /// The call has ended so.
    pub fn settle(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        if let (Some(pass), Some(breakers)) = (self.pass.take(), self.breakers.upgrade()) {
            breakers.change(&self.target, |breaker, parked, now| {
                breaker.ended(pass, outcome, parked, now)
            });
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.end(Outcome::Unknown);
    }
}

/// How the breaker of a target stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerView {
    /// The target.
    pub target: String,
    /// How it stands.
    pub state: BreakerState,
    /// What an operator said.
    pub held: Option<BreakerHold>,
    /// Since when it stands so.
    pub since: Timestamp,
    /// When it lets a canary go.
    pub until: Option<Timestamp>,
    /// Attempts that wait.
    pub parked: usize,
    /// Calls that ended in its window, and how many of them failed.
    pub calls: u64,
    /// See `calls`.
    pub failed: u64,
}

impl Breakers {
    /// No breaker yet; none ever without settings, unless an operator says so.
    #[must_use]
    pub fn new(settings: Option<BreakerSettings>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with_alarm(settings, clock, Box::new(wake_at), Mutants::default())
    }

    /// As [`Breakers::new`], without a runtime: whoever made the alarm calls [`Breakers::due`].
    #[must_use]
    pub fn with_alarm(
        settings: Option<BreakerSettings>,
        clock: Arc<dyn Clock>,
        alarm: Alarm,
        mutants: Mutants,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            clock,
            alarm,
            mutants,
            known: AtomicUsize::new(0),
            targets: Mutex::default(),
            words: Mutex::default(),
        })
    }

    /// Whether any target has a breaker. Cheap: one atomic load.
    #[must_use]
    pub fn any(&self) -> bool {
        self.known.load(Ordering::Relaxed) > 0
    }

    /// Whether failures open breakers by themselves.
    #[must_use]
    pub fn count_failures(&self) -> bool {
        self.settings.is_some()
    }

    /// Whether a target may be called now.
    pub fn ask(self: &Arc<Self>, target: &str, rank: Rank) -> Answer {
        let now = self.clock.now();
        let mut targets = self.targets.lock();
        let Some((name, known)) = targets
            .get_key_value(target)
            .map(|(name, _)| Arc::clone(name))
            .zip(targets.get_mut(target))
        else {
            return Answer::Unknown;
        };
        known.forget_gone();
        let pass = if known.parked.is_empty() {
            known.breaker.admit(now)
        } else {
            None
        };
        if let Some(pass) = pass {
            return Answer::Go(self.admitted(&name, pass));
        }
        if self.mutants.nobody_is_parked {
            return Answer::Unknown;
        }
        let (release, released) = oneshot::channel();
        known.arrivals += 1;
        let order = (rank, Reverse(known.arrivals));
        known.parked.push(Parked { order, release });
        let released_now = self.release(&name, known, now);
        drop(targets);
        drop(released_now);
        Answer::Parked(released)
    }

    /// Whether the target of an attempt may be called now; it is found out only where somebody must know.
    pub fn ask_for(self: &Arc<Self>, target: impl FnOnce() -> Option<String>, rank: Rank) -> Answer {
        if !self.any() {
            return Answer::Unknown;
        }
        target().map_or(Answer::Unknown, |target| self.ask(&target, rank))
    }

    /// An attempt on a target has ended so.
    pub fn ended(
        self: &Arc<Self>,
        target: impl FnOnce() -> Option<String>,
        admitted: Option<Admitted>,
        ended: &AttemptOutcome,
    ) {
        let outcome = guard::outcome(ended);
        if let Some(admitted) = admitted {
            return admitted.settle(outcome);
        }
        let matters = matches!(outcome, Outcome::Failed { .. }) || self.any();
        if matters && let Some(target) = target() {
            self.ended_unasked(&target, outcome);
        }
    }

    /// A call ended of which nobody asked, since nothing was known of its target.
    pub fn ended_unasked(self: &Arc<Self>, target: &str, outcome: Outcome) {
        let failed = matches!(outcome, Outcome::Failed { .. });
        if outcome == Outcome::Unknown || !(self.any() || failed) {
            return;
        }
        if failed && let Some(settings) = self.settings {
            self.know(target, settings, false);
        }
        self.change(target, |breaker, parked, now| {
            if breaker.state() == BreakerState::Closed
                && let Some(pass) = breaker.admit(now)
            {
                breaker.ended(pass, outcome, parked, now);
            }
        });
    }

    /// A durable control of a shard; those that are not about a breaker change nothing. Every shard tells, in an order of its own:
    /// the latest command counts.
    pub fn heed(self: &Arc<Self>, key: &ControlKey, at: Timestamp, command: &CommandId, setting: Option<Setting>) {
        let ControlKey::Breaker(target) = key else { return };
        // Kept until the word is in force, so that two of them cannot overtake each other.
        let mut words = self.words.lock();
        let is_known = |(known_at, known): &(Timestamp, CommandId)| (*known_at, known) >= (at, command);
        if words.get(target).is_some_and(is_known) {
            return;
        }
        words.insert(target.clone(), (at, command.clone()));
        let held = match setting {
            Some(Setting::Breaker(BreakerOverride::Open)) => Some(BreakerHold::Open),
            Some(Setting::Breaker(BreakerOverride::Closed)) => Some(BreakerHold::Closed),
            Some(Setting::Paused { .. } | Setting::Stopped { .. }) | None => None,
        };
        if held.is_some() {
            self.know(target, self.settings.unwrap_or_default(), true);
        }
        self.change(target, |breaker, _, now| breaker.hold(held, now));
    }

    /// Forgets what was counted of a target: its breaker is closed, and opens again by what fails from now on. One of which an
    /// operator has said meanwhile how it stands goes on standing so.
    pub fn reset(self: &Arc<Self>, target: &str) {
        self.change(target, |breaker, _, now| {
            if breaker.held().is_none() {
                breaker.reset(now);
            }
        });
    }

    /// Every target with a breaker, by name.
    #[must_use]
    pub fn list(&self) -> Vec<BreakerView> {
        let mut targets = self.targets.lock();
        let mut list: Vec<BreakerView> = targets.iter_mut().map(|(name, known)| known.view(name)).collect();
        list.sort_by(|a, b| a.target.cmp(&b.target));
        list
    }

    fn admitted(self: &Arc<Self>, target: &Arc<str>, pass: Pass) -> Admitted {
        Admitted {
            breakers: Arc::downgrade(self),
            target: Arc::clone(target),
            pass: Some(pass),
        }
    }

    /// `held`: an operator means it, and operators' words are few.
    fn know(&self, target: &str, settings: BreakerSettings, held: bool) {
        let now = self.clock.now();
        let mut targets = self.targets.lock();
        if targets.contains_key(target) {
            return;
        }
        if targets.len() >= TARGETS_MAX {
            targets.retain(|_, known| !(known.parked.is_empty() && known.breaker.is_idle(now)));
        }
        if held || targets.len() < TARGETS_MAX {
            let known = Target {
                breaker: Breaker::new(settings, now),
                parked: BinaryHeap::new(),
                arrivals: 0,
                timer: None,
            };
            targets.insert(target.into(), known);
        }
        self.known.store(targets.len(), Ordering::Relaxed);
    }

    /// Changes a breaker, lets go who may go then, and forgets it if it has nothing more to say.
    fn change(self: &Arc<Self>, target: &str, change: impl FnOnce(&mut Breaker, usize, Timestamp)) {
        let now = self.clock.now();
        let mut targets = self.targets.lock();
        let Some(name) = targets.get_key_value(target).map(|(name, _)| Arc::clone(name)) else {
            return;
        };
        let Some(known) = targets.get_mut(target) else { return };
        known.forget_gone();
        let before = known.breaker.state();
        change(&mut known.breaker, known.parked.len(), now);
        let released = self.release(&name, known, now);
        let after = known.breaker.state();
        if before != after {
            let (parked, until) = (known.parked.len(), known.breaker.next_due());
            tracing::warn!(target = %name, from = before.name(), to = after.name(), parked, ?until, "a breaker has changed");
        }
        if known.parked.is_empty() && known.breaker.is_idle(now) {
            targets.remove(target);
            self.known.store(targets.len(), Ordering::Relaxed);
        }
        drop(targets);
        // Outside the lock: what nobody receives comes back.
        drop(released);
    }

    /// Lets parked attempts go while they may; those that nobody received are given back by the caller, outside the lock.
    fn release(self: &Arc<Self>, name: &Arc<str>, known: &mut Target, now: Timestamp) -> Vec<Admitted> {
        let mut returned = Vec::new();
        known.forget_gone();
        while !known.parked.is_empty()
            && let Some(pass) = known.breaker.admit(now)
        {
            let Some(Parked { release, .. }) = known.parked.pop() else {
                break;
            };
            returned.extend(release.send(self.admitted(name, pass)).err());
            known.forget_gone();
        }
        self.set_timer(name, known);
        returned
    }

    fn set_timer(self: &Arc<Self>, name: &Arc<str>, known: &mut Target) {
        let due = known.breaker.next_due();
        let Some(until) = due.filter(|_| known.timer != due) else {
            return;
        };
        known.timer = due;
        (self.alarm)(self, name, until);
    }

    /// The time of a target's breaker may be over.
    pub fn due(self: &Arc<Self>, target: &str) {
        self.change(target, |breaker, _, now| breaker.due(now));
    }
}

/// The alarm of an engine: a task that sleeps.
fn wake_at(breakers: &Arc<Breakers>, name: &Arc<str>, until: Timestamp) {
    let (breakers, name) = (Arc::downgrade(breakers), Arc::clone(name));
    tokio::spawn(async move {
        while let Some(breakers) = breakers.upgrade() {
            let left_ms = until.since_ms(breakers.clock.now());
            if left_ms == 0 {
                return breakers.due(&name);
            }
            drop(breakers);
            tokio::time::sleep(Duration::from_millis(left_ms)).await;
        }
    });
}

impl Target {
    /// Takes those off the top that have given up.
    fn forget_gone(&mut self) {
        while self.parked.peek().is_some_and(|first| first.release.is_closed()) {
            self.parked.pop();
        }
    }

    fn view(&self, name: &str) -> BreakerView {
        let (calls, failed) = self.breaker.counts();
        BreakerView {
            target: name.to_owned(),
            state: self.breaker.state(),
            held: self.breaker.held(),
            since: self.breaker.since(),
            until: self.breaker.next_due(),
            parked: self.parked.iter().filter(|parked| !parked.release.is_closed()).count(),
            calls,
            failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp(5)
        }
    }

    #[test]
    fn a_reset_that_comes_late_takes_back_no_later_word() {
        let breakers = Breakers::with_alarm(None, Arc::new(Still), Box::new(|_, _, _| ()), Mutants::default());
        let key = ControlKey::Breaker("t".into());
        let open = Some(Setting::Breaker(BreakerOverride::Open));
        breakers.heed(&key, Timestamp(1), &"a".into(), None);
        breakers.heed(&key, Timestamp(2), &"b".into(), open);
        breakers.reset("t");
        assert!(matches!(breakers.ask("t", Rank::default()), Answer::Parked(_)));
    }
}

//! The breakers' shell: each process has the engine's own, with alarms that the world rings. Targets are handlers that may be
//! unwell for a while.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use troupe_actors::Mutants;
use troupe_actors::breakers::{Admitted, Answer, BreakerSettings, BreakerState, Breakers};
use troupe_core::Timestamp;
use troupe_core::execution::AttemptOutcome;
use troupe_core::plan::PlanNode;

use super::awaited::Awaited;
use super::process::{Attempt, ProcessNo, Stage};
use super::random::Random;
use super::schedule::Timed;
use super::store::SimulatedClock;
use super::{BEGINNING, FAULTS_MS, World};
use crate::crash::Violation;

/// Few calls and short times, so that breakers open and close again and again.
const SETTINGS: BreakerSettings = BreakerSettings {
    window_ms: 300,
    calls_min: 3,
    failures_percent: 50,
    open_ms: 40,
    open_max_ms: 160,
    successes_min: 2,
};
/// Handlers that have a breaker: those of other nodes are part of the engine.
pub(super) const GUARDED: &str = "remote-";

/// A handler that fails whatever it is asked, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unwell {
    /// Its name.
    pub handler: String,
    /// Since when, in milliseconds.
    pub from_ms: u64,
    /// For how long, in milliseconds.
    pub lasts_ms: u64,
}

/// When handlers are unwell.
pub(super) fn draw(random: &mut Random) -> Vec<Unwell> {
    let mut drawn = Vec::new();
    for handler in ["remote-a", "remote-b"] {
        let mut from_ms = random.below(300);
        while from_ms < FAULTS_MS && !random.once_in(4) {
            let lasts_ms = random.between(30, 350);
            drawn.push(Unwell {
                handler: handler.to_owned(),
                from_ms,
                lasts_ms,
            });
            from_ms += lasts_ms + random.between(50, 500);
        }
    }
    drawn
}

/// Alarms that are set and not in the schedule yet.
type Alarms = Arc<Mutex<Vec<(Arc<str>, Timestamp)>>>;

/// The breakers of one process.
#[derive(Debug)]
pub(super) struct Guards {
    pub(super) breakers: Arc<Breakers>,
    alarms: Alarms,
}

impl Guards {
    pub(super) fn new(clock: &Arc<SimulatedClock>, mutants: Mutants) -> Self {
        let alarms = Alarms::default();
        let set = Arc::clone(&alarms);
        let alarm = move |_: &Arc<Breakers>, name: &Arc<str>, at| {
            let mut alarms = set.lock().unwrap_or_else(PoisonError::into_inner);
            alarms.push((Arc::clone(name), at));
        };
        let clock = Arc::clone(clock) as _;
        Self {
            breakers: Breakers::with_alarm(Some(SETTINGS), clock, Box::new(alarm), mutants),
            alarms,
        }
    }

    fn state(&self, target: &str) -> Option<BreakerState> {
        let mut known = self.breakers.list().into_iter();
        known.find(|view| view.target == target).map(|view| view.state)
    }
}

/// An attempt and the breaker of its target.
#[derive(Debug, Default)]
pub(super) struct Guarded {
    target: Option<String>,
    admitted: Option<Admitted>,
    parked: Option<Awaited<Option<Admitted>>>,
    /// It was let go as one of a few.
    is_canary: bool,
}

impl Guarded {
    pub(super) fn of(planned: &PlanNode) -> Self {
        let text = |name: &str| planned.data.get(name).and_then(serde_json::Value::as_str);
        let handler = text("handlerId").filter(|handler| handler.starts_with(GUARDED));
        let opted_out = planned.data.get("breaker") == Some(&serde_json::Value::Bool(false));
        Self {
            target: handler
                .filter(|_| !opted_out)
                .map(|handler| format!("handler:{handler}")),
            ..Self::default()
        }
    }

    pub(super) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Whether it was let go, or gave up.
    pub(super) fn may_move(&self) -> bool {
        self.parked.as_ref().is_some_and(Awaited::is_woken)
    }

    /// Whether its target was asked and let it go.
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.is_some()
    }

    /// Whether it was let go as one of a few.
    pub(super) fn is_canary(&self) -> bool {
        self.is_canary
    }

    /// Another one may go meanwhile.
    pub(super) fn gives_back(&mut self) {
        (self.admitted, self.is_canary) = (None, false);
    }
}

impl Attempt {
    /// Asks whether its target may be called; if not, it is parked and holds nothing that others need.
    pub(super) fn is_parked(&mut self, breakers: &Arc<Breakers>) -> bool {
        let guarded = &mut self.guarded;
        if guarded.admitted.is_some() || guarded.target.is_none() {
            return false;
        }
        let rank = self.place.rank();
        match breakers.ask_for(|| guarded.target.clone(), rank) {
            Answer::Unknown => false,
            Answer::Go(admitted) => {
                guarded.admitted = Some(admitted);
                false
            }
            Answer::Parked(released) => {
                guarded.parked = Some(Awaited::new(async move { released.await.ok() }));
                self.place.gives_back();
                self.stage = Stage::Parked;
                true
            }
        }
    }
}

impl World {
    /// A parked attempt may have been let go, or was aborted.
    pub(super) fn parked_step(&mut self, process: ProcessNo, number: u64) {
        let state = self.processes.get_mut(&process);
        let Some(attempt) = state.and_then(|state| state.attempts.get_mut(&number)) else {
            return;
        };
        if attempt.canceled {
            return self.never_started(process, number, "CANCELED");
        }
        let guarded = &mut attempt.guarded;
        if let Some(admitted) = guarded.parked.as_mut().and_then(Awaited::poll) {
            guarded.is_canary = admitted.is_some();
            (guarded.parked, guarded.admitted) = (None, admitted);
            attempt.stage = Stage::Queued;
            self.count("let go");
        }
    }

    /// Whether the handler of an attempt fails now whatever it is asked.
    pub(super) fn is_unwell(&self, attempt: &Attempt) -> bool {
        let handler = attempt.handler.as_str();
        let at_ms = self.now.since_ms(BEGINNING);
        let mut times = self.scenario.unwell.iter().filter(|unwell| unwell.handler == handler);
        times.any(|unwell| (unwell.from_ms..unwell.from_ms + unwell.lasts_ms).contains(&at_ms))
    }

    /// An attempt takes effect: where the breaker of its target is open, it was let go to find out.
    pub(super) fn expect_closed(&mut self, process: ProcessNo, number: u64) {
        let Some(state) = self.processes.get(&process) else {
            return;
        };
        let Some(attempt) = state.attempts.get(&number) else {
            return;
        };
        let guarded = &attempt.guarded;
        let Some(target) = guarded.target() else { return };
        let stands = state.guards.state(target);
        if stands == Some(BreakerState::Open) && !guarded.is_canary {
            let (id, node) = (attempt.id, &attempt.node);
            let what = format!("{id}: {node} took effect although the breaker of {target} is open");
            self.evidence.seen.push(Violation { invariant: "C9", what });
        }
        let is_canary = guarded.is_canary;
        self.count("guarded effects");
        if is_canary {
            self.count("canaries");
        }
    }

    /// An attempt has ended so: its target is judged by that.
    pub(super) fn judge_target(&mut self, process: ProcessNo, number: u64, ended: &AttemptOutcome) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(attempt) = state.attempts.get_mut(&number) else {
            return;
        };
        if let Some(target) = attempt.guarded.target.clone() {
            let admitted = attempt.guarded.admitted.take();
            state.guards.breakers.ended(|| Some(target), admitted, ended);
        }
    }

    /// Puts alarms that were set into the schedule.
    pub(super) fn set_alarms(&mut self) {
        let mut set = Vec::new();
        for (number, process) in &self.processes {
            let mut alarms = process.guards.alarms.lock().unwrap_or_else(PoisonError::into_inner);
            set.extend(alarms.drain(..).map(|(target, at)| (*number, target, at)));
        }
        for (process, target, at) in set {
            self.count("breakers opened");
            let wait_ms = at.since_ms(self.now);
            self.after(wait_ms, Timed::BreakerDue(process, target));
        }
    }

    pub(super) fn breaker_due(&mut self, process: ProcessNo, target: &str) {
        if let Some(state) = self.processes.get(&process) {
            state.guards.breakers.due(target);
        }
    }
}

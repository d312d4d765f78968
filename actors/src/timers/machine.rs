//! Which executions are due.
//!
//! Beside them are executions that a control of a wider scope holds back: they wake when it is lifted, in due order.
//!
//! Three kinds of timers are in memory: those of executions with an actor (`live`, exact), those of waiting executions
//! up to the *horizon* (the window), and those beyond it that no checkpoint holds yet. Everything else is in the store,
//! and is read when the window runs low. A timer that fires for nothing is harmless: the execution finds nothing due.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use troupe_core::control::Scope;
use troupe_core::{ExecutionId, Timestamp, WorkflowId};

use crate::options::Mutants;

type Timer = (Timestamp, ExecutionId);

/// Comes before every other id.
const FIRST_ID: ExecutionId = ExecutionId([0; 16]);

/// The timers of one shard.
#[derive(Debug)]
pub struct TimersMachine {
    /// The window, in order.
    order: BTreeSet<Timer>,
    live: HashMap<ExecutionId, Timestamp>,
    /// The same of live ones.
    live_order: BTreeSet<Timer>,
    /// Executions that are held back, by workflow and in due order.
    held_back: BTreeMap<WorkflowId, BTreeSet<Timer>>,
    held_since: HashMap<ExecutionId, (WorkflowId, Timestamp)>,
    /// Those that are held back no longer and have yet to be woken.
    lifted: BTreeSet<Timer>,
    lifted_at: Timestamp,
    /// Everything is held: executions without an actor are not woken at all.
    everything: bool,
    /// Timers beyond the horizon, by age in checkpoints: this one, the one before.
    unsaved: [Vec<Timer>; 2],
    /// Store rows fired since those checkpoints: the store still lists them.
    fired: [HashSet<Timer>; 2],
    /// Every timer of the store at or before it is in the window.
    horizon: Timestamp,
    window_max: usize,
    mutants: Mutants,
}

impl TimersMachine {
    /// No timers, and nothing known of the store's.
    #[must_use]
    pub fn new(window_max: usize) -> Self {
        Self {
            order: BTreeSet::new(),
            live: HashMap::new(),
            live_order: BTreeSet::new(),
            held_back: BTreeMap::new(),
            held_since: HashMap::new(),
            lifted: BTreeSet::new(),
            lifted_at: Timestamp(i64::MIN),
            everything: false,
            unsaved: Default::default(),
            fired: Default::default(),
            horizon: Timestamp(i64::MIN),
            window_max: window_max.max(2),
            mutants: Mutants::default(),
        }
    }

    /// Plants faults. Tests only.
    #[must_use]
    pub fn with(self, mutants: Mutants) -> Self {
        Self { mutants, ..self }
    }

    /// An execution with an actor has this deadline now, or none.
    pub fn set(&mut self, id: ExecutionId, at: Option<Timestamp>) {
        let before = match at {
            Some(at) => self.live.insert(id, at),
            None => self.live.remove(&id),
        };
        if let Some(before) = before.filter(|before| Some(*before) != at) {
            self.live_order.remove(&(before, id));
            self.order.remove(&(before, id));
        }
        if let Some(at) = at {
            self.live_order.insert((at, id));
        }
    }

    /// An execution gives up its actor until `at`.
    pub fn park(&mut self, id: ExecutionId, at: Timestamp) {
        self.set(id, None);
        if self.mutants.timers_left_to_store {
            return;
        }
        if at <= self.horizon {
            self.order.insert((at, id));
            self.shrink();
        } else {
            self.unsaved[0].push((at, id));
        }
    }

    /// A control of a wider scope keeps an execution from going on, which it would at `at`; or no longer does. Unless what it
    /// knows of controls is current, the one that holds it may have been lifted before it said so: then it wakes to look again.
    pub fn hold_back(&mut self, id: ExecutionId, workflow: WorkflowId, at: Option<Timestamp>, is_current: bool) {
        if let Some((workflow, since)) = self.held_since.remove(&id)
            && let Some(of_workflow) = self.held_back.get_mut(&workflow)
        {
            of_workflow.remove(&(since, id));
            if of_workflow.is_empty() {
                self.held_back.remove(&workflow);
            }
        }
        if let Some(at) = at
            && !is_current
        {
            self.lifted.insert((at, id));
        } else if let Some(at) = at {
            self.held_since.insert(id, (workflow.clone(), at));
            self.held_back.entry(workflow).or_default().insert((at, id));
        }
    }

    /// A control of this scope was lifted: whoever it may have held back wakes, in due order.
    pub fn lifted(&mut self, scope: &Scope, now: Timestamp) {
        let concerns = |workflow: &WorkflowId| match scope {
            Scope::All | Scope::NodeType(_) => true,
            Scope::Workflow(_) => scope.covers(workflow),
            Scope::Node { workflow: named, .. } => named == workflow || scope.covers(workflow),
        };
        let workflows: Vec<WorkflowId> = self.held_back.keys().filter(|id| concerns(id)).cloned().collect();
        for workflow in workflows {
            for timer in self.held_back.remove(&workflow).unwrap_or_default() {
                self.held_since.remove(&timer.1);
                self.lifted.insert(timer);
            }
        }
        self.lifted_at = now;
    }

    /// When a control was lifted last.
    #[must_use]
    pub fn lifted_at(&self) -> Timestamp {
        self.lifted_at
    }

    /// Whether everything is held: then only executions with an actor hear that they are due.
    pub fn hold_everything(&mut self, everything: bool) {
        self.everything = everything;
    }

    /// A checkpoint was written. What was parked before the one before it began is in the store for sure.
    pub fn checkpointed(&mut self) {
        self.unsaved.swap(0, 1);
        self.unsaved[0] = Vec::new();
        self.fired.swap(0, 1);
        self.fired[0] = HashSet::new();
    }

    /// Removes and returns at most `limit` timers that are due.
    pub fn due(&mut self, now: Timestamp, limit: usize) -> Vec<Timer> {
        let mut due = Vec::new();
        while due.len() < limit {
            let is_due = |timer: &Timer| timer.0 <= now;
            let parked = self.order.first().copied().filter(|_| !self.everything).filter(is_due);
            let live = self.live_order.first().copied().filter(is_due);
            let lifted = self.lifted.first().copied();
            let Some(timer) = parked.into_iter().chain(live).chain(lifted).min() else {
                break;
            };
            self.lifted.remove(&timer);
            if self.live_order.remove(&timer) {
                self.live.remove(&timer.1);
            }
            // The store's rows of executions with an actor are in the window too.
            self.order.remove(&timer);
            self.fired[0].insert(timer);
            due.push(timer);
        }
        due
    }

    /// When to look again: the earliest timer.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let parked = self.order.first().filter(|_| !self.everything);
        let timed = parked.into_iter().chain(self.live_order.first()).map(|(at, _)| *at);
        timed.chain(self.lifted.first().map(|_| Timestamp(i64::MIN))).min()
    }

    /// How many rows to read from the store, if the window runs low; then [`TimersMachine::refill`] at once.
    #[must_use]
    pub fn wants(&self) -> Option<usize> {
        let low = self.horizon < Timestamp(i64::MAX) && self.order.len() < self.window_max / 2;
        low.then(|| self.window_max + self.fired.iter().map(HashSet::len).sum::<usize>())
    }

    /// The first rows of the store, `asked` at most. Returns false if they all fall on one instant and more must be
    /// asked for.
    pub fn refill(&mut self, rows: &[Timer], asked: usize) -> bool {
        let complete = rows.len() < asked;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            self.extend_to(Timestamp(i64::MAX));
            return true;
        };
        if !complete && first.0 == last.0 {
            return false;
        }
        let horizon = if complete {
            Timestamp(i64::MAX)
        } else {
            Timestamp(last.0.0 - 1)
        };
        let fresh = rows
            .iter()
            .filter(|row| row.0 <= horizon && !self.fired.iter().any(|fired| fired.contains(row)));
        self.order.extend(fresh.copied());
        self.extend_to(horizon);
        true
    }

    fn extend_to(&mut self, horizon: Timestamp) {
        self.horizon = self.horizon.max(horizon);
        for unsaved in &mut self.unsaved {
            let (near, far) = std::mem::take(unsaved)
                .into_iter()
                .partition(|(at, _)| *at <= self.horizon);
            *unsaved = far;
            let near: Vec<Timer> = near;
            self.order.extend(near);
        }
        self.shrink();
    }

    /// The window is bounded: at twice its size the horizon moves back, and what lies beyond waits for its checkpoint
    /// like any other timer beyond the horizon. Timers of one instant stay together.
    fn shrink(&mut self) {
        if self.order.len() < self.window_max * 2 {
            return;
        }
        let Some((last, _)) = self.order.iter().nth(self.window_max) else {
            return;
        };
        let horizon = Timestamp(last.0.saturating_sub(1));
        if self.order.first().is_none_or(|(first, _)| *first > horizon) {
            return;
        }
        let beyond = self
            .order
            .split_off(&(Timestamp(horizon.0.saturating_add(1)), FIRST_ID));
        self.unsaved[0].extend(beyond);
        self.horizon = horizon;
    }

    /// Timers in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len() + self.live.len() + self.unsaved.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether no timer is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use troupe_core::ShardId;

    fn id(n: u64) -> ExecutionId {
        ExecutionId::fresh(ShardId(0), Timestamp(0), n)
    }

    fn rows(range: std::ops::Range<i64>) -> Vec<Timer> {
        range.map(|n| (Timestamp(n), id(u64::try_from(n).unwrap()))).collect()
    }

    #[test]
    fn a_live_deadline_moves_and_goes() {
        let mut timers = TimersMachine::new(8);
        timers.set(id(1), Some(Timestamp(50)));
        timers.set(id(1), Some(Timestamp(70)));
        assert_eq!(timers.due(Timestamp(60), 9), []);
        assert_eq!(timers.due(Timestamp(70), 9), [(Timestamp(70), id(1))]);
        timers.set(id(1), Some(Timestamp(80)));
        timers.set(id(1), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn every_timer_fires_once_though_only_a_window_is_in_memory() {
        let mut store: BTreeSet<Timer> = rows(0..100).into_iter().collect();
        let mut timers = TimersMachine::new(8);
        let mut fired = Vec::new();
        for now in 0..=130 {
            if now == 40 {
                timers.park(id(1_000), Timestamp(90));
            }
            if now % 20 == 0 {
                // A checkpoint: the store learns of what was parked, and forgets what fired.
                store.insert((Timestamp(90), id(1_000)));
                store.retain(|timer| !fired.contains(timer));
                timers.checkpointed();
            }
            while let Some(asked) = timers.wants() {
                let read: Vec<_> = store.iter().copied().take(asked).collect();
                assert!(timers.refill(&read, asked));
            }
            fired.extend(timers.due(Timestamp(now), 3));
            assert!(timers.len() <= 40, "{} timers in memory", timers.len());
        }
        let mut expected = rows(0..100);
        expected.push((Timestamp(90), id(1_000)));
        fired.sort_unstable();
        expected.sort_unstable();
        assert_eq!(fired, expected);
    }

    #[test]
    fn a_parked_timer_beyond_the_horizon_outlives_the_checkpoint_that_may_miss_it() {
        let mut timers = TimersMachine::new(4);
        assert!(timers.refill(&rows(0..4), 4));
        timers.park(id(7), Timestamp(1_000));
        timers.checkpointed();
        assert!(timers.refill(&rows(0..3), 4), "the store has not seen it yet");
        assert!(timers.order.contains(&(Timestamp(1_000), id(7))));
    }

    #[test]
    fn the_window_is_bounded_and_an_instant_stays_together() {
        let mut timers = TimersMachine::new(4);
        assert!(timers.refill(&[], 4));
        for n in 0..100 {
            timers.park(id(n), Timestamp(1_000 + i64::try_from(n / 3).unwrap()));
        }
        assert!(timers.order.len() <= 8, "{}", timers.order.len());
        assert_eq!(timers.len(), 100, "until a checkpoint has them");
        timers.checkpointed();
        timers.checkpointed();
        assert!(timers.len() <= 8);
        assert!(!TimersMachine::new(2).refill(&[(Timestamp(5), id(1)), (Timestamp(5), id(2))], 2));
    }

    #[test]
    fn whoever_is_held_back_wakes_in_due_order_when_its_scope_is_lifted() {
        let mut timers = TimersMachine::new(8);
        assert!(timers.refill(&[], 8));
        let workflow = |name: &str| WorkflowId::from(name);
        timers.hold_back(id(1), workflow("w"), Some(Timestamp(50)), true);
        timers.hold_back(id(2), workflow("w#each"), Some(Timestamp(10)), true);
        timers.hold_back(id(3), workflow("v"), Some(Timestamp(20)), true);
        timers.hold_back(id(4), workflow("w"), Some(Timestamp(30)), true);
        timers.hold_back(id(4), workflow("w"), None, true);
        timers.hold_back(id(1), workflow("w"), Some(Timestamp(40)), true);
        assert_eq!((timers.next(), timers.due(Timestamp(100), 9)), (None, vec![]));
        timers.park(id(5), Timestamp(30));
        timers.lifted(&Scope::Workflow(workflow("w")), Timestamp(60));
        let due = timers.due(Timestamp(60), 9);
        assert_eq!(
            due,
            [(Timestamp(10), id(2)), (Timestamp(30), id(5)), (Timestamp(40), id(1)),]
        );
        timers.lifted(&Scope::NodeType("http".into()), Timestamp(61));
        assert_eq!(
            timers.due(Timestamp(0), 9),
            [(Timestamp(20), id(3))],
            "whatever the time is"
        );
    }

    #[test]
    fn whoever_says_too_late_that_it_is_held_back_wakes_to_look_again() {
        let mut timers = TimersMachine::new(8);
        assert!(timers.refill(&[], 8));
        let workflow = WorkflowId::from("w");
        timers.lifted(&Scope::Workflow(workflow.clone()), Timestamp(60));
        timers.hold_back(id(1), workflow.clone(), Some(Timestamp(50)), false);
        assert_eq!(timers.due(Timestamp(60), 9), [(Timestamp(50), id(1))]);
        timers.hold_back(id(1), workflow.clone(), Some(Timestamp(50)), true);
        assert_eq!(timers.due(Timestamp(100), 9), [], "now it knows what holds it");
        timers.hold_back(id(1), workflow, None, false);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn under_a_pause_of_everything_only_those_with_an_actor_hear_that_they_are_due() {
        let mut timers = TimersMachine::new(8);
        assert!(timers.refill(&[], 8));
        timers.park(id(1), Timestamp(10));
        timers.set(id(2), Some(Timestamp(20)));
        timers.hold_everything(true);
        assert_eq!(timers.next(), Some(Timestamp(20)));
        assert_eq!(timers.due(Timestamp(30), 9), [(Timestamp(20), id(2))]);
        assert_eq!(timers.next(), None);
        timers.hold_everything(false);
        assert_eq!(timers.due(Timestamp(30), 9), [(Timestamp(10), id(1))]);
    }
}

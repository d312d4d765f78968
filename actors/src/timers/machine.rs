//! Which executions are due.
//!
//! Three kinds of timers are in memory: those of executions with an actor (`live`, exact), those of waiting executions
//! up to the *horizon* (the window), and those beyond it that no checkpoint holds yet. Everything else is in the store,
//! and is read when the window runs low. A timer that fires for nothing is harmless: the execution finds nothing due.

use std::collections::{BTreeSet, HashMap, HashSet};

use troupe_core::{ExecutionId, Timestamp};

type Timer = (Timestamp, ExecutionId);

/// The timers of one shard.
#[derive(Debug)]
pub struct TimersMachine {
    /// Live timers and the window, in order.
    order: BTreeSet<Timer>,
    live: HashMap<ExecutionId, Timestamp>,
    /// Timers beyond the horizon, by age in checkpoints: this one, the one before.
    unsaved: [Vec<Timer>; 2],
    /// Store rows fired since those checkpoints: the store still lists them.
    fired: [HashSet<Timer>; 2],
    /// Every timer of the store at or before it is in the window.
    horizon: Timestamp,
    window_max: usize,
}

impl TimersMachine {
    /// No timers, and nothing known of the store's.
    #[must_use]
    pub fn new(window_max: usize) -> Self {
        Self {
            order: BTreeSet::new(),
            live: HashMap::new(),
            unsaved: Default::default(),
            fired: Default::default(),
            horizon: Timestamp(i64::MIN),
            window_max: window_max.max(2),
        }
    }

    /// An execution with an actor has this deadline now, or none.
    pub fn set(&mut self, id: ExecutionId, at: Option<Timestamp>) {
        let before = match at {
            Some(at) => self.live.insert(id, at),
            None => self.live.remove(&id),
        };
        if let Some(before) = before.filter(|before| Some(*before) != at) {
            self.order.remove(&(before, id));
        }
        if let Some(at) = at {
            self.order.insert((at, id));
        }
    }

    /// An execution gives up its actor until `at`.
    pub fn park(&mut self, id: ExecutionId, at: Timestamp) {
        self.set(id, None);
        if at <= self.horizon {
            self.order.insert((at, id));
            self.shrink();
        } else {
            self.unsaved[0].push((at, id));
        }
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
        while due.len() < limit
            && let Some(timer) = self.order.first().copied().filter(|(at, _)| *at <= now)
        {
            self.order.pop_first();
            if self.live.get(&timer.1) == Some(&timer.0) {
                self.live.remove(&timer.1);
            }
            self.fired[0].insert(timer);
            due.push(timer);
        }
        due
    }

    /// When to look again: the earliest timer.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// How many rows to read from the store, if the window runs low; then [`TimersMachine::refill`] at once.
    #[must_use]
    pub fn wants(&self) -> Option<usize> {
        let window = self.order.len().saturating_sub(self.live.len());
        let low = self.horizon < Timestamp(i64::MAX) && window < self.window_max / 2;
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
        if self.order.len().saturating_sub(self.live.len()) < self.window_max * 2 {
            return;
        }
        let window = self.order.iter().filter(|(at, id)| self.live.get(id) != Some(at));
        let Some((last, _)) = window.clone().nth(self.window_max) else {
            return;
        };
        let horizon = Timestamp(last.0.saturating_sub(1));
        if self.order.first().is_none_or(|(first, _)| *first > horizon) {
            return;
        }
        let beyond: Vec<Timer> = window.filter(|(at, _)| *at > horizon).copied().collect();
        for timer in &beyond {
            self.order.remove(timer);
        }
        self.unsaved[0].extend(beyond);
        self.horizon = horizon;
    }

    /// Timers in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len() + self.unsaved.iter().map(Vec::len).sum::<usize>()
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
}

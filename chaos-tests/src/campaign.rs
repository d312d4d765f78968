//! Many worlds, spread over threads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::crash::Violation;
use crate::world::scenario::Scenario;
use crate::world::{Options, Outcome, play, run};

/// What many worlds gave.
#[derive(Debug, Default)]
pub struct Tally {
    /// Worlds that were played.
    pub seeds: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How often a feature was in use when a fault hit.
    pub coverage: BTreeMap<(&'static str, &'static str), u64>,
    /// Seeds with what they broke, ascending.
    pub failures: BTreeMap<u64, Vec<Violation>>,
    /// Seeds that were played twice and gave two runs.
    pub unequal: Vec<u64>,
}

impl Tally {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        for (what, times) in outcome.counts {
            *self.counts.entry(what).or_default() += times;
        }
        for (pair, times) in outcome.coverage {
            *self.coverage.entry(pair).or_default() += times;
        }
        if !outcome.violations.is_empty() {
            self.failures.insert(seed, outcome.violations);
        }
    }

    fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        for (what, times) in other.counts {
            *self.counts.entry(what).or_default() += times;
        }
        for (pair, times) in other.coverage {
            *self.coverage.entry(pair).or_default() += times;
        }
        self.failures.extend(other.failures);
        self.unequal.extend(other.unequal);
    }
}

/// Plays the worlds of these seeds; one in `twice_each` is played twice, to see whether both runs are equal. Stops early
/// after `failures_max` that failed.
#[must_use]
pub fn play_seeds(
    seeds: Range<u64>,
    scenario_of: fn(u64) -> Scenario,
    options: Options,
    twice_each: u64,
    failures_max: usize,
) -> Tally {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Tally::default());
    let lock = || total.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let mut own = Tally::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let scenario = scenario_of(seed);
                    let outcome = play(&scenario, options);
                    if twice_each > 0 && seed.is_multiple_of(twice_each) && play(&scenario, options) != outcome {
                        own.unequal.push(seed);
                    }
                    own.add(seed, outcome);
                    if own.failures.len() >= failures_max {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
                lock().merge(own);
            });
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The first of the seeds below `seeds_max` whose world breaks one of these invariants, and how.
#[must_use]
pub fn first_breach(seeds_max: u64, options: Options, invariants: &[&str]) -> Option<(u64, Violation)> {
    let next = AtomicU64::new(0);
    let found: Mutex<BTreeMap<u64, Violation>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds_max {
                        return;
                    }
                    let violations = run(seed, options).violations.into_iter();
                    // A machine that panics has stopped a fault, not shown what it would have done.
                    let mut breaches = violations.filter(|violation| {
                        invariants.contains(&violation.invariant) && !violation.what.contains("panicked")
                    });
                    if let Some(breach) = breaches.next() {
                        found
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(seed, breach);
                        next.store(seeds_max, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.into_iter().next()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

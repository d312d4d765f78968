//! Simulated worlds: the engine's machines under a seeded clock, store and scheduler keep every promise.
//!
//! `TROUPE_SEEDS` says how many seeds to run, `TROUPE_SEED` runs only that one and prints its trace.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use troupe_actors::Mutants;
use troupe_chaos::world::store::{SimulatedClock, SimulatedStore};
use troupe_chaos::world::{Options, Outcome, run};
use troupe_core::Timestamp;
use troupe_ports::StateStore;
use troupe_ports::conformance::Fixture;

/// Seeds run by default: about 25 seconds of one core in a debug build.
const SEEDS: u64 = 120;
/// Seeds within which every planted fault must be seen.
const SEEDS_TO_CATCH: u64 = 120;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn reproduce(seed: u64, test: &str) -> String {
    format!("reproduce with: TROUPE_SEED={seed} cargo nextest run -p troupe-chaos {test} --no-capture")
}

fn keeps_every_promise(seed: u64, outcome: &Outcome) {
    let first: Vec<_> = outcome.violations.iter().take(5).collect();
    assert!(
        outcome.violations.is_empty(),
        "seed {seed}: {} violations, first {first:#?}\n{:?}\n{}",
        outcome.violations.len(),
        outcome.counts,
        reproduce(seed, "simulation_seeds_keep_every_promise"),
    );
}

#[test]
fn simulation_seeds_keep_every_promise() {
    if let Some(seed) = number("TROUPE_SEED") {
        let outcome = run(
            seed,
            Options {
                trace: true,
                ..Options::default()
            },
        );
        println!("{:?}", outcome.counts);
        return keeps_every_promise(seed, &outcome);
    }
    let seeds = number("TROUPE_SEEDS").unwrap_or(SEEDS);
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let begun = Instant::now();
    for seed in 0..seeds {
        let outcome = run(seed, Options::default());
        keeps_every_promise(seed, &outcome);
        for (what, times) in outcome.counts {
            *counts.entry(what).or_default() += times;
        }
    }
    println!("{seeds} seeds in {:?}: {counts:#?}", begun.elapsed());
    let floors = [
        ("starts", 20),
        ("found again", 5),
        ("commands", 5),
        ("reads", 30),
        ("effects", 60),
        ("entries", 150),
        ("crashes", 2),
        ("recoveries", 5),
        ("panics", 1),
        ("rebuilt", 1),
        ("unknown appends", 3),
        ("repeated reports", 10),
        ("checkpoints", 5),
        ("timers fired", 5),
        ("events published", 200),
        ("runs of a key", 2),
        ("unconfirmed publishes", 5),
        ("cursors saved", 5),
        ("sinks behind", 1),
    ];
    for (what, a_seed) in floors {
        let times = counts.get(what).copied().unwrap_or(0);
        assert!(
            times >= a_seed * seeds,
            "too little happened: {times} {what} in {seeds} seeds, {counts:#?}"
        );
    }
    let rare = [
        "fenced",
        "fenced appends",
        "power losses",
        "records lost unsynced",
        "freezes",
        "partitions",
    ];
    let rarer = [
        "outages of the store",
        "lost attempts",
        "held attempts",
        "timeouts",
        "probes",
        "evaluations",
    ];
    let rarest = [
        "loads of a snapshot",
        "archives after a takeover",
        "unanswered requests",
        "commands without effect",
        "found under a key",
    ];
    for what in rare.iter().chain(&rarer).chain(&rarest).filter(|_| seeds >= SEEDS) {
        assert!(
            counts.get(what).is_some_and(|times| *times > 0),
            "{what} never happened: {counts:#?}"
        );
    }
}

#[test]
fn simulation_of_equal_seeds_is_equal() {
    let hashes: Vec<u64> = (0..12)
        .map(|seed| {
            let (first, second) = (run(seed, Options::default()), run(seed, Options::default()));
            assert_eq!(first, second, "seed {seed} gives two runs");
            first.trace_hash
        })
        .collect();
    let mut distinct = hashes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), hashes.len(), "seeds give different runs");
}

/// A planted fault is seen as a breach of what it breaks, within a bounded number of seeds.
fn caught(name: &str, options: Options, as_any_of: &[&str]) {
    // What a mutant's machine panics with is not news.
    std::panic::set_hook(Box::new(|_| {}));
    let seen = (0..SEEDS_TO_CATCH).find_map(|seed| {
        let outcome = run(seed, options);
        let breach = outcome
            .violations
            .into_iter()
            .find(|violation| as_any_of.contains(&violation.invariant));
        breach.map(|breach| (seed, breach))
    });
    drop(std::panic::take_hook());
    let (seed, breach) = seen.unwrap_or_else(|| panic!("{name} went unnoticed in {SEEDS_TO_CATCH} seeds"));
    println!("{name} is caught by seed {seed}: {breach:?}");
}

fn mutant(mutants: Mutants) -> Options {
    Options {
        mutants,
        ..Options::default()
    }
}

#[test]
fn simulation_catches_an_acknowledgement_before_the_commit() {
    let options = mutant(Mutants {
        acknowledge_before_commit: true,
        ..Mutants::default()
    });
    caught("acknowledge_before_commit", options, &["C1"]);
}

#[test]
fn simulation_catches_a_report_that_is_applied_twice() {
    let options = mutant(Mutants {
        no_completion_dedupe: true,
        ..Mutants::default()
    });
    caught("no_completion_dedupe", options, &["C2"]);
}

#[test]
fn simulation_catches_a_join_counter_saved_apart() {
    let options = mutant(Mutants {
        non_atomic_join_counter: true,
        ..Mutants::default()
    });
    caught("non_atomic_join_counter", options, &["C2", "C6", "C12"]);
}

#[test]
fn simulation_catches_a_timer_removed_before_its_commit() {
    let options = mutant(Mutants {
        timer_removed_before_commit: true,
        ..Mutants::default()
    });
    caught("timer_removed_before_commit", options, &["C8", "C12"]);
}

#[test]
fn simulation_catches_an_effect_before_its_commit() {
    let options = mutant(Mutants {
        effect_before_commit: true,
        ..Mutants::default()
    });
    caught("effect_before_commit", options, &["C3", "C4"]);
}

#[test]
fn simulation_catches_a_read_before_its_commit() {
    let options = mutant(Mutants {
        read_before_commit: true,
        ..Mutants::default()
    });
    caught("read_before_commit", options, &["C11"]);
}

#[test]
fn simulation_catches_a_cursor_before_its_events() {
    let options = mutant(Mutants {
        cursor_before_confirm: true,
        ..Mutants::default()
    });
    caught("cursor_before_confirm", options, &["C7"]);
}

#[test]
fn simulation_catches_an_answer_before_the_sync() {
    caught(
        "answers_unsynced",
        Options {
            answers_unsynced: true,
            ..Options::default()
        },
        &["C1"],
    );
}

#[test]
fn simulation_catches_an_append_without_its_epoch() {
    let options = Options {
        no_epoch_check: true,
        ..Options::default()
    };
    caught("no_epoch_check", options, &["C5"]);
}

/// The simulated store is no kinder than a real one: it passes the same suite.
mod simulated_store {
    use super::*;

    struct Memory {
        store: Arc<SimulatedStore>,
        stop: Arc<AtomicBool>,
    }

    impl Memory {
        /// A store whose clock follows the machine's.
        fn new() -> Self {
            let begun = Timestamp(1_790_000_000_000);
            let clock = Arc::new(SimulatedClock::new(begun));
            let (stop, since) = (Arc::new(AtomicBool::new(false)), Instant::now());
            let (ticking, stopped) = (Arc::clone(&clock), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stopped.load(Ordering::SeqCst) {
                    ticking.set(begun.plus_ms(u64::try_from(since.elapsed().as_millis()).unwrap()));
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            Self {
                store: Arc::new(SimulatedStore::new(4, clock)),
                stop,
            }
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    #[async_trait]
    impl Fixture<dyn StateStore> for Memory {
        async fn open(&self) -> Arc<dyn StateStore> {
            Arc::clone(&self.store) as _
        }
    }

    troupe_ports::state_store_conformance!(Memory::new());
}

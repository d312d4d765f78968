//! Simulated worlds: the engine's machines under a seeded clock, store and scheduler keep every promise.
//!
//! `TROUPE_SEEDS` says how many seeds to run. `troupe-simulate` runs one with its trace, and makes a failing one small.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use troupe_chaos::campaign::{Tally, play_seeds};
use troupe_chaos::crash::Violation;
use troupe_chaos::mutants::MUTANTS;
use troupe_chaos::shrink::shrink;
use troupe_chaos::world::scenario::{FaultKind, Scenario};
use troupe_chaos::world::store::{SimulatedClock, SimulatedStore};
use troupe_chaos::world::{Options, coverage, play};
use troupe_core::Timestamp;
use troupe_ports::StateStore;
use troupe_ports::conformance::Fixture;

/// Seeds of a run by default: what a debug build has time for. `make test` runs 10,000 in the profile `sim`.
const SEEDS: u64 = 150;
/// Seeds within which every planted fault must be seen.
const SEEDS_TO_CATCH: u64 = 10_000;
/// One seed in so many is played twice: each.
const TWICE_EACH: u64 = 1;
/// Other draws of chance that a kept scenario is played with.
const DRAWS: u64 = 16;
/// Failing seeds that are named.
const FAILURES_SHOWN: usize = 12;
/// A feature must have met each fault so often in a whole run.
const COVERED: u64 = 2;

fn seeds() -> u64 {
    std::env::var("TROUPE_SEEDS").map_or(SEEDS, |text| text.parse().unwrap())
}

/// What a failing seed is, made small, and how to see it again.
fn shown(seed: u64, violations: &[Violation]) -> String {
    let small = shrink(&Scenario::of(seed), Options::default(), &violations[0]);
    let first: Vec<_> = violations.iter().take(3).collect();
    format!(
        "seed {seed}: {first:#?}\nmade small: {}\nsee it: cargo run --profile sim -p troupe-chaos --bin troupe-simulate \
         -- seed {seed}\nkeep it: … shrink {seed} > chaos-tests/corpus/<what it is>.json",
        serde_json::to_string(&small).unwrap(),
    )
}

#[test]
fn simulation_seeds_keep_every_promise() {
    let (begun, seeds) = (Instant::now(), seeds());
    let tally = play_seeds(
        0..seeds,
        Scenario::of,
        Options::default(),
        TWICE_EACH,
        FAILURES_SHOWN / 2,
    );
    for (seed, violations) in tally.failures.iter().take(FAILURES_SHOWN) {
        println!("seed {seed}: {}", violations[0]);
    }
    if let Some((seed, violations)) = tally.failures.first_key_value() {
        panic!(
            "{} of {seeds} seeds fail\n{}",
            tally.failures.len(),
            shown(*seed, violations)
        );
    }
    assert_eq!(tally.unequal, Vec::<u64>::new(), "these seeds give two runs");
    println!("{seeds} seeds in {:?}: {:#?}", begun.elapsed(), tally.counts);
    enough_happened(&tally);
    every_feature_met_every_fault(&tally);
}

fn enough_happened(tally: &Tally) {
    // Of each so many in a hundred worlds: about half of what there is.
    let floors = [
        ("starts", 200),
        ("found again", 80),
        ("commands", 100),
        ("refused commands", 5),
        ("reads", 150),
        ("effects", 1_000),
        ("entries", 2_000),
        ("crashes", 50),
        ("recoveries", 200),
        ("panics", 10),
        ("rebuilt", 20),
        ("quarantined", 1),
        ("released", 1),
        ("unknown appends", 50),
        ("repeated reports", 200),
        ("checkpoints", 300),
        ("timers fired", 200),
        ("events published", 6_000),
        ("runs of a key", 60),
        ("unconfirmed publishes", 500),
        ("cursors saved", 200),
        ("lists written", 600),
        ("sinks behind", 80),
        ("records sent together", 200),
        ("publishes without a bus", 50),
        ("spooled", 10),
        ("spools read", 5),
        ("spools in doubt", 3),
        ("drawn executions", 80),
        ("superseded", 5),
        ("asked for room", 40),
        ("admitted", 40),
        ("children born", 150),
        ("children started", 50),
        ("children told", 50),
        ("parents told", 150),
        ("parents asked", 50),
        ("fenced", 5),
        ("fenced appends", 1),
        ("power losses", 20),
        ("freezes", 40),
        ("partitions", 10),
        ("outages of the store", 20),
        ("lost attempts", 10),
        ("held attempts", 1),
        ("slots taken", 80),
        ("parked", 10),
        ("let go", 8),
        ("canaries", 5),
        ("breakers opened", 5),
        ("held open", 1),
        ("guarded effects", 50),
        ("controls saved", 100),
        ("controls learned", 100),
        ("held at the door", 5),
        ("lifted", 20),
        ("frozen", 10),
        ("node paused", 3),
        ("type paused", 2),
        ("workflow paused", 3),
        ("everything paused", 2),
        ("stopped", 2),
        ("stopped and canceled", 1),
        ("canceled by a stop", 1),
        ("queue timeouts", 8),
        ("probes", 50),
        ("signal", 3),
        ("heartbeat", 3),
        ("skip", 5),
        ("set", 10),
        ("retry", 10),
        ("skip failed", 6),
        ("reruns", 20),
        ("archives that gave way", 12),
        ("error workflows born", 6),
        ("error workflows started", 4),
        ("planned stops", 20),
        ("leases given back", 30),
        ("forgotten", 25),
        ("archives after a takeover", 20),
        ("unanswered requests", 50),
        ("found under a key", 10),
    ];
    for (what, in_a_hundred) in floors {
        let times = tally.counts.get(what).copied().unwrap_or(0);
        assert!(
            times * 100 >= in_a_hundred * tally.seeds || tally.seeds < 100,
            "too little happened: {times} {what} in {} seeds, {:#?}",
            tally.seeds,
            tally.counts
        );
    }
    for what in [
        "complete",
        "fail",
        "loads of a snapshot",
        "timeouts",
        "evaluations",
        "records lost unsynced",
        "set aside with room",
        "not found any more",
        "commands without effect",
    ] {
        let times = tally.counts.get(what).copied().unwrap_or(0);
        assert!(
            times > 0 || tally.seeds < 1_000,
            "{what} never happened: {:#?}",
            tally.counts
        );
    }
}

/// The table of features and faults, with a floor where the run is long enough to tell.
fn every_feature_met_every_fault(tally: &Tally) {
    print!("{:<20}", "");
    FaultKind::NAMES.iter().for_each(|fault| print!("{fault:>12}"));
    println!();
    let mut missed = Vec::new();
    for feature in coverage::features() {
        print!("{feature:<20}");
        for fault in FaultKind::NAMES {
            let times = tally.coverage.get(&(feature, fault)).copied().unwrap_or(0);
            print!("{times:>12}");
            if times < COVERED && !coverage::IMPOSSIBLE.contains(&(feature, fault)) {
                missed.push((feature, fault, times));
            }
        }
        println!();
    }
    assert!(
        tally.seeds < 10_000 || missed.is_empty(),
        "these met less than {COVERED} times: {missed:?}"
    );
}

#[test]
fn simulation_of_other_seeds_is_another_one() {
    let hashes = (0..12).map(|seed| play(&Scenario::of(seed), Options::default()).trace_hash);
    let mut distinct: Vec<u64> = hashes.collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 12);
}

/// Scenarios that once failed, under several draws of chance each.
#[test]
fn simulation_of_kept_scenarios_keeps_every_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut played = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        let kept: Scenario = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for draw in 0..DRAWS {
            let drawn = Scenario {
                seed: kept.seed ^ draw,
                ..kept.clone()
            };
            let violations = play(&drawn, Options::default()).violations;
            assert!(
                violations.is_empty(),
                "{} with seed {}: {violations:#?}",
                path.display(),
                drawn.seed
            );
            played += 1;
        }
    }
    assert!(played >= DRAWS, "there is nothing in {}", corpus.display());
}

/// Each planted fault is seen as a breach of what it breaks.
#[test]
fn simulation_catches_every_planted_fault() {
    // What a mutant's machine panics with is not news.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    let mut lines = Vec::new();
    for mutant in MUTANTS {
        match mutant.hunt(SEEDS_TO_CATCH) {
            Some((seed, breach)) => lines.push(format!(
                "{:<28} {:<13} seed {seed:<6} {} {}",
                mutant.name, mutant.room, breach.invariant, breach.what
            )),
            None => missed.push(mutant.name),
        }
    }
    drop(std::panic::take_hook());
    lines.iter().for_each(|line| println!("{line}"));
    assert_eq!(
        missed,
        Vec::<&str>::new(),
        "nobody noticed these in {SEEDS_TO_CATCH} seeds"
    );
    let rooms = ["core", "Shard", "Committer", "Checkpointer", "sinks", "Timers", "store"];
    for room in rooms {
        assert!(
            MUTANTS.iter().any(|mutant| mutant.room == room),
            "{room} has no planted fault"
        );
    }
    assert!(MUTANTS.len() >= 16);
}

#[test]
fn a_scenario_is_read_back_from_its_text() {
    for seed in 0..50 {
        let scenario = Scenario::of(seed);
        let text = serde_json::to_string(&scenario).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
    }
}

/// A planted fault is made small: what is left still shows it, and is no more than it takes.
#[test]
fn a_failing_scenario_is_made_small() {
    let options = Options {
        answers_unsynced: true,
        ..Options::default()
    };
    let (seed, breach) = (0..5_000)
        .find_map(|seed| {
            let mut violations = play(&Scenario::of(seed), options).violations.into_iter();
            let breach = violations.find(|violation| violation.invariant == "C1");
            breach.map(|breach| (seed, breach))
        })
        .unwrap();
    let whole = Scenario::of(seed);
    let small = shrink(&whole, options, &breach);
    let violations = play(&small, options).violations;
    assert!(
        violations
            .iter()
            .any(|violation| violation.invariant == breach.invariant)
    );
    assert!(small.clients.len() < whole.clients.len() || whole.clients.len() == 1);
    assert!(small.faults.len() <= whole.faults.len());
    assert!(small.faults.len() <= 3, "{small:?}");
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

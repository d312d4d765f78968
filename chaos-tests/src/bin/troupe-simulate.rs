//! Simulated worlds from the command line: one seed, many, for hours; a failing one made small; planted faults.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use troupe_chaos::campaign::{Tally, play_seeds};
use troupe_chaos::mutants::MUTANTS;
use troupe_chaos::shrink::shrink;
use troupe_chaos::world::scenario::Scenario;
use troupe_chaos::world::{Options, Outcome, play};

const USAGE: &str = "\
troupe-simulate seed SEED          one world with its trace, and what it broke
troupe-simulate shrink SEED        the same, made small: a scenario to keep in chaos-tests/corpus/
troupe-simulate replay FILE        a kept scenario with its trace
troupe-simulate seeds COUNT [FROM] many worlds
troupe-simulate drawn COUNT        many worlds with drawn workflows
troupe-simulate shrink-drawn SEED  as shrink, of these
troupe-simulate soak HOURS [FROM]  worlds for so long (0.5 is half an hour)
troupe-simulate mutants [COUNT]    every planted fault with the first of so many seeds that catches it
";

/// Worlds between two lines of a soak.
const SOAK_SEEDS: u64 = 2_000;
/// Failures after which no more worlds are played.
const FAILURES_MAX: usize = 12;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(match words[..] {
        ["seed", seed] => watch(&Scenario::of(number(seed)?)),
        ["replay", file] => {
            let text = std::fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?;
            watch(&serde_json::from_str(&text).with_context(|| format!("{file} is no scenario"))?)
        }
        ["shrink", seed] => make_small(&Scenario::of(number(seed)?))?,
        ["seeds", count] => many(0, number(count)?, Scenario::of),
        ["seeds", count, from] => many(number(from)?, number(count)?, Scenario::of),
        ["drawn", count] => many(0, number(count)?, Scenario::drawn),
        ["shrink-drawn", seed] => make_small(&Scenario::drawn(number(seed)?))?,
        ["soak", hours] => soak(hours.parse()?, 0),
        ["soak", hours, from] => soak(hours.parse()?, number(from)?),
        ["mutants"] => mutants(10_000),
        ["mutants", count] => mutants(number(count)?),
        _ => bail!("what is wanted?"),
    })
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{text} is no number"))
}

fn watch(scenario: &Scenario) -> bool {
    let options = Options {
        trace: true,
        ..Options::default()
    };
    let outcome = play(scenario, options);
    println!("{:?}", outcome.counts);
    told(&scenario.seed, &outcome)
}

fn told(seed: &impl Display, outcome: &Outcome) -> bool {
    for violation in &outcome.violations {
        println!("seed {seed} breaks {}: {}", violation.invariant, violation.what);
    }
    outcome.violations.is_empty()
}

fn make_small(scenario: &Scenario) -> Result<bool> {
    let seed = scenario.seed;
    let outcome = play(scenario, Options::default());
    let Some(first) = outcome.violations.first() else {
        println!("seed {seed} breaks nothing");
        return Ok(true);
    };
    let small = shrink(scenario, Options::default(), first);
    println!("{}", serde_json::to_string_pretty(&small)?);
    told(&seed, &play(&small, Options::default()));
    Ok(false)
}

fn many(from: u64, count: u64, scenario_of: fn(u64) -> Scenario) -> bool {
    let begun = Instant::now();
    let tally = play_seeds(
        from..from.saturating_add(count),
        scenario_of,
        Options::default(),
        1,
        FAILURES_MAX,
    );
    println!("{:#?}", tally.counts);
    for ((feature, fault), times) in &tally.coverage {
        println!("{feature} x {fault}: {times}");
    }
    report(&tally, begun)
}

fn report(tally: &Tally, begun: Instant) -> bool {
    for (seed, violations) in &tally.failures {
        for violation in violations.iter().take(3) {
            println!("seed {seed} breaks {}: {}", violation.invariant, violation.what);
        }
    }
    for seed in &tally.unequal {
        println!("seed {seed} gave two runs");
    }
    println!("{} worlds in {:.1} s", tally.seeds, begun.elapsed().as_secs_f64());
    tally.failures.is_empty() && tally.unequal.is_empty()
}

/// Each world twice, until the time is up or one fails.
fn soak(hours: f64, from: u64) -> bool {
    let (begun, lasts) = (Instant::now(), Duration::from_secs_f64(hours * 3_600.0));
    let mut next = from;
    while begun.elapsed() < lasts {
        let tally = play_seeds(next..next + SOAK_SEEDS, Scenario::of, Options::default(), 1, 1);
        next += SOAK_SEEDS;
        if !report(&tally, begun) {
            return false;
        }
        println!("all seeds from {from} to {next} so far");
    }
    true
}

fn mutants(seeds_max: u64) -> bool {
    // What a mutant's machine panics with is not news.
    std::panic::set_hook(Box::new(|_| {}));
    let mut all = true;
    for mutant in MUTANTS {
        match mutant.hunt(seeds_max) {
            Some((seed, breach)) => println!(
                "{:<28} {:<13} seed {seed:<6} {} {}",
                mutant.name, mutant.room, breach.invariant, breach.what
            ),
            None => {
                all = false;
                println!(
                    "{:<28} {:<13} not caught by {seeds_max} seeds",
                    mutant.name, mutant.room
                );
            }
        }
    }
    all
}

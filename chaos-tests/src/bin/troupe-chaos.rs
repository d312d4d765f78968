//! Breaks everything that can break around real engine processes, and says whether every promise held.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use troupe_chaos::chaos::deployment::Setup;
use troupe_chaos::chaos::fault::Fault;
use troupe_chaos::chaos::lab::Lab;
use troupe_chaos::chaos::mutants::{MUTANTS, Mutant};
use troupe_chaos::chaos::plan::{Sizes, State, Trial, drawn, pairs, single, singles, smoke};
use troupe_chaos::chaos::replicas::program;
use troupe_chaos::chaos::report::Report;
use troupe_chaos::chaos::{engine, trial};

const USAGE: &str = "usage: troupe-chaos MODE [--json] [--keep]

  list                                the faults and the planted faults
  smoke [--seed S]                    each kind of fault once
  single [FAULT [STATE]] [--seed S]   every fault in every state, or one of them
         [--holds-ms MS] [--scale N] [--clients N]
  pairs [FAULT FAULT] [--seed S]      two faults at once
  swarm --seed S --minutes M          faults drawn from the seed, trial after trial
  round --seed S [--times N]          one trial of a swarm again
  mutants [NAME] [--seed S]           every planted fault, and what catches it

--troupe PATH: the program of the replicas; else the one that TROUPE names, or the one beside this one.
--lanes N: so many trials at the same time, each with servers of its own. --json: one JSON object at the end. --keep: logs and stores of the run stay.
States: idle, load, timers-due, recovery. Ends with 1 when a promise was broken or too little happened.";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// What was asked for.
#[derive(Default)]
struct Asked {
    words: Vec<String>,
    seed: Option<u64>,
    minutes: Option<u64>,
    lanes: Option<u64>,
    times: Option<u64>,
    holds_ms: Option<u64>,
    scale: Option<u64>,
    clients: Option<u64>,
    troupe: Option<PathBuf>,
    json: bool,
    keep: bool,
}

impl Asked {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut asked = Self::default();
        while let Some(argument) = arguments.next() {
            let slot = match argument.as_str() {
                "--json" => {
                    asked.json = true;
                    continue;
                }
                "--keep" => {
                    asked.keep = true;
                    continue;
                }
                "--troupe" => {
                    let path = arguments.next().context("--troupe wants the path of a program")?;
                    asked.troupe = Some(path.into());
                    continue;
                }
                "--seed" => &mut asked.seed,
                "--minutes" => &mut asked.minutes,
                "--lanes" => &mut asked.lanes,
                "--times" => &mut asked.times,
                "--holds-ms" => &mut asked.holds_ms,
                "--scale" => &mut asked.scale,
                "--clients" => &mut asked.clients,
                flag if flag.starts_with("--") => bail!("{flag} is not known\n{USAGE}"),
                _ => {
                    asked.words.push(argument);
                    continue;
                }
            };
            let value = arguments.next().with_context(|| format!("{argument} wants a number"))?;
            *slot = Some(value.parse().with_context(|| format!("{argument} wants a number"))?);
        }
        Ok(asked)
    }
}

fn run() -> anyhow::Result<bool> {
    let asked = Asked::parse(std::env::args().skip(1))?;
    let words: Vec<&str> = asked.words.iter().map(String::as_str).collect();
    let seed = asked.seed.unwrap_or(1);
    match words[..] {
        ["engine", orders] => {
            let orders = serde_json::from_str(orders).context("the orders do not parse")?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(engine::run(orders))?;
            // Threads that wait for input would keep it.
            std::process::exit(0);
        }
        ["list"] => {
            list();
            Ok(true)
        }
        ["smoke"] => play(&asked, smoke(seed)),
        ["single"] => play(&asked, singles(seed, sizes(&asked, Sizes::MATRIX), &State::ALL)),
        ["single", fault] => play(&asked, vec![named(&asked, fault, "load")?]),
        ["single", fault, state] => play(&asked, vec![named(&asked, fault, state)?]),
        ["pairs"] => play(&asked, pairs(seed, sizes(&asked, Sizes::MATRIX))),
        ["pairs", one, other] => {
            let mut trials = pairs(seed, sizes(&asked, Sizes::SMOKE));
            let has = |trial: &Trial, name| trial.strikes.iter().any(|strike| strike.fault.name() == name);
            trials.retain(|trial| has(trial, one) && has(trial, other));
            play(&asked, trials)
        }
        ["swarm"] => swarm(&asked, seed),
        ["round"] => {
            let times = usize::try_from(asked.times.unwrap_or(1))?;
            let trial = drawn(seed, sizes(&asked, Sizes::MATRIX));
            play(&asked, vec![trial; times])
        }
        ["mutants"] => mutants(&asked, seed, None),
        ["mutants", name] => mutants(&asked, seed, Some(name)),
        _ => bail!("{USAGE}"),
    }
}

fn sizes(asked: &Asked, usual: Sizes) -> Sizes {
    let clients = asked.clients.and_then(|clients| u32::try_from(clients).ok());
    Sizes {
        clients: clients.unwrap_or(usual.clients),
        scale: asked.scale.unwrap_or(usual.scale),
        ..usual
    }
}

fn named(asked: &Asked, fault: &str, state: &str) -> anyhow::Result<Trial> {
    let known = Fault::all().into_iter().find(|known| known.name() == fault);
    let fault = known.with_context(|| format!("no fault is called {fault}; see `troupe-chaos list`"))?;
    let known = State::ALL.into_iter().find(|known| known.name() == state);
    let state = known.with_context(|| format!("no state is called {state}\n{USAGE}"))?;
    let holds = asked.holds_ms.map_or(fault.holds(), Duration::from_millis);
    Ok(single(
        fault,
        state,
        holds,
        asked.seed.unwrap_or(1),
        sizes(asked, Sizes::SMOKE),
    ))
}

fn list() {
    for fault in Fault::all() {
        let setups: Vec<&str> = fault.setups().iter().map(|setup| setup.name()).collect();
        let (name, target) = (fault.name(), format!("{:?}", fault.target()));
        println!(
            "{name:36} {target:10} {:>6} ms  {}",
            fault.holds().as_millis(),
            setups.join(" ")
        );
    }
    for mutant in MUTANTS {
        println!("planted {:36} breaks {}", mutant.name, mutant.breaks.join(" or "));
    }
}

fn lab(asked: &Asked) -> anyhow::Result<Lab> {
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let lab = Lab::start(
        &program,
        &program::of_replicas(asked.troupe.as_deref(), &program),
        asked.keep,
    )?;
    if asked.keep {
        eprintln!("the files of this run stay in {}", lab.folder().display());
    }
    Ok(lab)
}

/// Plays one trial and says how it went.
fn one(lab: &mut Lab, trial: &Trial, report: &Mutex<Report>, talks: bool) {
    let played = trial::run(lab, trial);
    let line = match &played {
        Ok(outcome) => Report::line(outcome),
        Err(error) => format!("BROKEN     {}: {error:#}", trial.name),
    };
    // A lane that panicked ends the run.
    if let Ok(mut report) = report.lock() {
        match played {
            Ok(outcome) => report.add(outcome),
            Err(error) => report.add_broken(&trial.name, format!("{error:#}")),
        }
    }
    if talks {
        let mut out = std::io::stdout().lock();
        // Nobody may read it.
        writeln!(out, "{line}").and_then(|()| out.flush()).ok();
    }
}

/// Looks for the program of the replicas before anything is played, if any of it is on replicas.
fn has_program(asked: &Asked, setups: impl IntoIterator<Item = Setup>) -> anyhow::Result<()> {
    if setups.into_iter().any(|setup| setup == Setup::Replicas) {
        let harness = std::env::current_exe().context("this program does not know where it is")?;
        program::existing(&program::of_replicas(asked.troupe.as_deref(), &harness))?;
    }
    Ok(())
}

fn play(asked: &Asked, trials: Vec<Trial>) -> anyhow::Result<bool> {
    has_program(asked, trials.iter().map(|trial| trial.setup))?;
    let left = Mutex::new(VecDeque::from(trials));
    lanes(asked, || left.lock().ok()?.pop_front())
}

fn swarm(asked: &Asked, seed: u64) -> anyhow::Result<bool> {
    let minutes = asked.minutes.context("a swarm wants --minutes")?;
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    let next = AtomicU64::new(seed);
    lanes(asked, || {
        let draw = || drawn(next.fetch_add(1, Ordering::Relaxed), sizes(asked, Sizes::MATRIX));
        (Instant::now() < until).then(draw)
    })
}

/// Plays what `next` gives until it gives nothing more, so many trials at the same time, each lane with servers of its own.
fn lanes(asked: &Asked, next: impl Fn() -> Option<Trial> + Sync) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let report = Mutex::new(Report::default());
    let stopped = stop_when_told()?;
    let next = || {
        let goes_on = !stopped.load(Ordering::Relaxed);
        goes_on.then(&next).flatten()
    };
    let lane = || -> anyhow::Result<()> {
        let mut lab = lab(asked)?;
        while let Some(trial) = next() {
            one(&mut lab, &trial, &report, !asked.json);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..asked.lanes.unwrap_or(1)).map(|_| scope.spawn(lane)).collect();
        let ended = lanes.into_iter().map(std::thread::ScopedJoinHandle::join);
        let ended = ended.map(|lane| lane.map_err(|_| anyhow::anyhow!("a lane panicked"))?);
        ended.collect::<anyhow::Result<Vec<()>>>()
    })?;
    let report = report.into_inner().map_err(|_| anyhow::anyhow!("a lane panicked"))?;
    finish(asked, &report, begun);
    Ok(report.is_pass())
}

/// Set by the first Ctrl-C: the trials that are being played are finished, so that no server is left behind.
fn stop_when_told() -> anyhow::Result<Arc<AtomicBool>> {
    let stopped = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stopped);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        // Without a signal handler there is nothing to wait for.
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            eprintln!("stops after the trials that are being played");
            set.store(true, Ordering::Relaxed);
        }
    });
    Ok(stopped)
}

fn finish(asked: &Asked, report: &Report, begun: Instant) {
    if asked.json {
        println!("{}", report.json());
        return;
    }
    let verdict = if report.is_pass() {
        "every promise held"
    } else {
        "FAILED"
    };
    println!(
        "\n{}\n{verdict}, after {:.0} s",
        report.table(),
        begun.elapsed().as_secs_f64()
    );
}

fn mutants(asked: &Asked, seed: u64, only: Option<&str>) -> anyhow::Result<bool> {
    let wanted: Vec<&Mutant> = MUTANTS
        .iter()
        .filter(|mutant| only.is_none_or(|only| only == mutant.name))
        .collect();
    has_program(asked, wanted.iter().map(|mutant| mutant.setup()))?;
    let mut lab = lab(asked)?;
    let mut all = true;
    for mutant in wanted {
        match mutant.hunt(&mut lab, seed, |outcome| println!("{}", Report::line(outcome)))? {
            Some(found) => println!("{:32} caught: {found}", mutant.name),
            None => {
                all = false;
                println!("{:32} WENT UNNOTICED", mutant.name);
            }
        }
    }
    Ok(all)
}

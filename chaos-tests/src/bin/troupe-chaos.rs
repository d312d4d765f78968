//! Breaks everything that can break around real engine processes, and says whether every promise held.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use troupe_chaos::chaos::deployment::Setup;
use troupe_chaos::chaos::engine;
use troupe_chaos::chaos::fault::Fault;
use troupe_chaos::chaos::lab::Lab;
use troupe_chaos::chaos::mutants::{MUTANTS, Mutant};
use troupe_chaos::chaos::plan::{SMOKE_AT_MOST, Sizes, State, Trial, drawn, pairs, single_on, singles, smoke};
use troupe_chaos::chaos::replicas::program;
use troupe_chaos::chaos::report::Report;
use troupe_chaos::chaos::trial::{self, Outcome};

/// Plays faults against real servers of its own and judges what was seen: single ones, pairs, swarms drawn from a seed.
///
/// Ends with 1 when a promise was broken or too little happened.
#[derive(Parser)]
#[command(name = "troupe-chaos", disable_help_subcommand = true)]
struct Asked {
    #[command(subcommand)]
    mode: Mode,
    #[command(flatten)]
    how: How,
}

#[derive(Subcommand)]
enum Mode {
    /// The faults and the planted faults.
    List,
    /// Each kind of fault once.
    Smoke,
    /// Every fault in every state on every deployment that it befalls, or one of them.
    Single {
        #[arg(value_parser = fault)]
        fault: Option<Fault>,
        /// idle, load, timers-due or recovery; load where none is given.
        #[arg(value_parser = state)]
        state: Option<State>,
        /// The deployment, of those that `list` names for the fault; the first of them where none is given.
        #[arg(long, value_name = "NAME", value_parser = setup, requires = "fault")]
        setup: Option<Setup>,
        /// For how long the fault lasts, in milliseconds.
        #[arg(long, value_name = "MS", requires = "fault")]
        holds_ms: Option<u64>,
    },
    /// Two faults at once: all pairs, or the one that is named.
    Pairs {
        #[arg(value_parser = fault, requires = "other")]
        one: Option<Fault>,
        #[arg(value_parser = fault)]
        other: Option<Fault>,
    },
    /// Faults drawn from the seed, trial after trial.
    Swarm {
        /// No trial begins after so many minutes.
        #[arg(long)]
        minutes: u64,
    },
    /// One trial of a swarm again: `--seed` is that of the trial.
    Round {
        /// How often.
        #[arg(long, default_value_t = 1)]
        times: usize,
    },
    /// Every planted fault, and what catches it; or those that are named.
    Mutants {
        #[arg(value_name = "NAME", value_parser = mutant)]
        names: Vec<Mutant>,
    },
    /// One engine of a trial: the harness starts it.
    #[command(hide = true)]
    Engine { orders: String },
}

#[derive(Args)]
struct How {
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// So many trials at the same time, each with servers of its own.
    #[arg(long, global = true, default_value_t = 1)]
    lanes: usize,
    /// Executions of the states that want many.
    #[arg(long, global = true)]
    scale: Option<u64>,
    /// Clients that load the product.
    #[arg(long, global = true)]
    clients: Option<u32>,
    /// The program of the replicas; else the one that TROUPE names, or the one beside this one.
    #[arg(long, global = true, value_name = "PATH")]
    troupe: Option<PathBuf>,
    /// One JSON object at the end.
    #[arg(long, global = true)]
    json: bool,
    /// Logs and stores of the run stay.
    #[arg(long, global = true)]
    keep: bool,
}

fn fault(name: &str) -> Result<Fault, String> {
    let known = Fault::all().into_iter().find(|known| known.name() == name);
    known.ok_or_else(|| "no fault is called so; see `troupe-chaos list`".to_owned())
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let known = MUTANTS.into_iter().find(|known| known.name == name);
    known.ok_or_else(|| "no planted fault is called so; see `troupe-chaos list`".to_owned())
}

fn state(name: &str) -> Result<State, String> {
    let known = State::ALL.into_iter().find(|known| known.name() == name);
    let names = State::ALL.map(|state| state.name()).join(", ");
    known.ok_or_else(|| format!("no state is called so; there are {names}"))
}

fn setup(name: &str) -> Result<Setup, String> {
    let known = Setup::ALL.into_iter().find(|known| known.name() == name);
    let names = Setup::ALL.map(|setup| setup.name()).join(", ");
    known.ok_or_else(|| format!("no deployment is called so; there are {names}"))
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            warn(format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Writes a line. That nobody reads it any more (`troupe-chaos … | head`) is no error: the exit code tells what a run came to all the same.
fn write_line(mut to: impl Write, line: impl Display) -> io::Result<()> {
    let written = writeln!(to, "{line}").and_then(|()| to.flush());
    written.or_else(|error| match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

/// A line of what was asked for.
fn say(line: impl Display) -> anyhow::Result<()> {
    write_line(io::stdout().lock(), line).context("standard output cannot be written")
}

/// Something for whoever watches.
fn warn(line: impl Display) {
    // Nobody hears of it if this fails.
    write_line(io::stderr().lock(), line).ok();
}

fn run() -> anyhow::Result<bool> {
    let Asked { mode, how } = Asked::parse();
    let seed = how.seed;
    match mode {
        Mode::Engine { orders } => {
            let orders = serde_json::from_str(&orders).context("the orders do not parse")?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(engine::run(orders))?;
            // Threads that wait for input would keep it.
            std::process::exit(0);
        }
        Mode::List => {
            list()?;
            Ok(true)
        }
        Mode::Smoke => play_within(&how, smoke(seed), Some(SMOKE_AT_MOST)),
        Mode::Single { fault: None, .. } => play(&how, singles(seed, sizes(&how, Sizes::MATRIX), &State::ALL)),
        Mode::Single {
            fault: Some(fault),
            state,
            setup,
            holds_ms,
        } => {
            let state = state.unwrap_or(State::Load);
            let setup = setup.unwrap_or(fault.setups()[0]);
            let name = fault.name();
            ensure!(
                fault.setups().contains(&setup),
                "{name} does not befall `{}`; see `troupe-chaos list`",
                setup.name()
            );
            let holds = holds_ms.map_or(fault.holds(), Duration::from_millis);
            let sizes = sizes(&how, Sizes::SMOKE);
            play(&how, vec![single_on(fault, setup, state, holds, seed, sizes)])
        }
        Mode::Pairs {
            one: Some(one),
            other: Some(other),
        } => {
            let mut trials = pairs(seed, sizes(&how, Sizes::SMOKE));
            let has = |trial: &Trial, fault| trial.strikes.iter().any(|strike| strike.fault == fault);
            trials.retain(|trial| has(trial, one) && has(trial, other));
            play(&how, trials)
        }
        Mode::Pairs { .. } => play(&how, pairs(seed, sizes(&how, Sizes::MATRIX))),
        Mode::Swarm { minutes } => swarm(&how, minutes),
        Mode::Round { times } => {
            let trial = drawn(seed, sizes(&how, Sizes::MATRIX));
            play(&how, vec![trial; times])
        }
        Mode::Mutants { names } if names.is_empty() => mutants(&how, &MUTANTS),
        Mode::Mutants { names } => mutants(&how, &names),
    }
}

fn sizes(how: &How, usual: Sizes) -> Sizes {
    Sizes {
        clients: how.clients.unwrap_or(usual.clients),
        scale: how.scale.unwrap_or(usual.scale),
        ..usual
    }
}

fn list() -> anyhow::Result<()> {
    for fault in Fault::all() {
        let setups: Vec<&str> = fault.setups().iter().map(|setup| setup.name()).collect();
        let (name, target) = (fault.name(), format!("{:?}", fault.target()));
        say(format!(
            "{name:36} {target:10} {:>6} ms  {}",
            fault.holds().as_millis(),
            setups.join(" ")
        ))?;
    }
    for mutant in MUTANTS {
        let breaks = mutant.breaks.join(" or ");
        say(format!("planted {:36} breaks {breaks}", mutant.name))?;
    }
    Ok(())
}

fn lab(how: &How) -> anyhow::Result<Lab> {
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let lab = Lab::start(
        &program,
        &program::of_replicas(how.troupe.as_deref(), &program),
        how.keep,
    )?;
    if how.keep {
        warn(format!("the files of this run stay in {}", lab.folder().display()));
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
        // It goes on; where nothing can be written the report at the end says so.
        say(line).ok();
    }
}

/// Looks for the program of the replicas before anything is played, if any of it is on replicas.
fn has_program(how: &How, setups: impl IntoIterator<Item = Setup>) -> anyhow::Result<()> {
    if setups.into_iter().any(|setup| setup == Setup::Replicas) {
        let harness = std::env::current_exe().context("this program does not know where it is")?;
        program::existing(&program::of_replicas(how.troupe.as_deref(), &harness))?;
    }
    Ok(())
}

fn play(how: &How, trials: Vec<Trial>) -> anyhow::Result<bool> {
    play_within(how, trials, None)
}

/// Plays trials that are to be over within such a time, if one is given.
fn play_within(how: &How, trials: Vec<Trial>, at_most: Option<Duration>) -> anyhow::Result<bool> {
    has_program(how, trials.iter().map(|trial| trial.setup))?;
    let left = Mutex::new(VecDeque::from(trials));
    lanes(how, at_most, || left.lock().ok()?.pop_front())
}

fn swarm(how: &How, minutes: u64) -> anyhow::Result<bool> {
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    let next = AtomicU64::new(how.seed);
    lanes(how, None, || {
        let draw = || drawn(next.fetch_add(1, Ordering::Relaxed), sizes(how, Sizes::MATRIX));
        (Instant::now() < until).then(draw)
    })
}

/// Plays what `next` gives until it gives nothing more, so many trials at the same time, each lane with servers of its own.
fn lanes(how: &How, at_most: Option<Duration>, next: impl Fn() -> Option<Trial> + Sync) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let report = Mutex::new(Report::default());
    let stopped = stop_when_told()?;
    let next = || {
        let goes_on = !stopped.load(Ordering::Relaxed);
        goes_on.then(&next).flatten()
    };
    let lane = || -> anyhow::Result<()> {
        let mut lab = lab(how)?;
        while let Some(trial) = next() {
            one(&mut lab, &trial, &report, !how.json);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..how.lanes).map(|_| scope.spawn(lane)).collect();
        let ended = lanes.into_iter().map(std::thread::ScopedJoinHandle::join);
        let ended = ended.map(|lane| lane.map_err(|_| anyhow::anyhow!("a lane panicked"))?);
        ended.collect::<anyhow::Result<Vec<()>>>()
    })?;
    let mut report = report.into_inner().map_err(|_| anyhow::anyhow!("a lane panicked"))?;
    let took = begun.elapsed();
    report.end(took, at_most);
    finish(how, &report, took)?;
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
            warn("stops after the trials that are being played");
            set.store(true, Ordering::Relaxed);
        }
    });
    Ok(stopped)
}

fn finish(how: &How, report: &Report, took: Duration) -> anyhow::Result<()> {
    if how.json {
        return say(report.json());
    }
    let verdict = if report.is_pass() {
        "every promise held"
    } else {
        "FAILED"
    };
    say(format!(
        "\n{}\n{verdict}, after {:.0} s",
        report.table(),
        took.as_secs_f64()
    ))?;
    report
        .warnings()
        .into_iter()
        .try_for_each(|warning| say(format!("warning: {warning}")))
}

fn mutants(how: &How, wanted: &[Mutant]) -> anyhow::Result<bool> {
    has_program(how, wanted.iter().map(Mutant::setup))?;
    let mut lab = lab(how)?;
    let mut all = true;
    for mutant in wanted {
        // Where nothing can be written the line below says so.
        let heard = |outcome: &Outcome| drop(say(Report::line(outcome)));
        let begun = Instant::now();
        let found = mutant.hunt(&mut lab, how.seed, heard)?;
        let took = begun.elapsed().as_secs_f64();
        all &= found.is_some();
        say(match found {
            Some(found) => format!("{:32} caught after {took:.0} s: {found}", mutant.name),
            None => format!("{:32} WENT UNNOTICED for {took:.0} s", mutant.name),
        })?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many writes, and then fails.
    struct Pipe(usize, ErrorKind);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(self.1.into());
            }
            self.0 -= 1;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error_and_a_full_disk_is_one() {
        for taken in 0..3 {
            let written = write_line(Pipe(taken, ErrorKind::BrokenPipe), "a line");
            assert!(written.is_ok(), "after {taken} writes");
        }
        let full = write_line(Pipe(0, ErrorKind::StorageFull), "a line");
        assert_eq!(full.map_err(|error| error.kind()), Err(ErrorKind::StorageFull));
    }
}

//! `recover`: a child process is killed with executions waiting and running; this process opens what it left.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use troupe_core::{ExecutionId, Json};

use super::load::{Seen, Until, all_ended, drive, settled, setup, store};
use super::measure::{cpu_seconds, latency, round, rss_bytes};
use super::workload::{self, HOLD};
use super::{BenchError, Job, Report, check};
use crate::wiring::{self, Extras, HandlerCall};

/// Executions that run when the process is killed.
pub(crate) const RECOVER_RUNNING: usize = 10_000;
/// What the child says when everything has been acknowledged.
const LOADED: &str = "loaded";
/// How variables begin that say where stores are.
const STORE_VARIABLES: &str = "TROUPE_STORE_";

/// The child's part: starts everything, notes what was acknowledged, and waits to be killed.
pub(crate) async fn load_and_wait(job: &Job) -> Result<(), BenchError> {
    let hold = |_: HandlerCall| async {
        std::future::pending::<()>().await;
        Ok(Json::null())
    };
    let app = open(job, hold).await?;
    let (parked, held) = (workload::parked()?, workload::held()?);
    let (parked_id, held_id) = (parked.id.clone(), held.id.clone());
    store(&app, parked).await?;
    store(&app, held).await?;
    let (running, waiting) = (Seen::of(RECOVER_RUNNING.min(job.executions)), Seen::of(job.executions));
    for (workflow, executions, seen) in [
        (&held_id, RECOVER_RUNNING.min(job.executions), &running),
        (&parked_id, job.executions, &waiting),
    ] {
        drive(
            std::slice::from_ref(&app),
            workflow,
            (executions, job.concurrency, None),
            Until::Acknowledged,
            seen,
        )
        .await?;
    }
    let mut file = BufWriter::new(File::create(notes(&job.state))?);
    for (kind, ids) in [("running", running), ("waiting", waiting)] {
        for id in &ids.lock().ids {
            writeln!(file, "{kind} {id}")?;
        }
    }
    file.into_inner()
        .map_err(|error| BenchError::Io(error.into_error()))?
        .sync_all()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{LOADED}")?;
    out.flush()?;
    drop(out);
    std::future::pending().await
}

/// The parent's part: lets a child load the store, kills it, opens the store, and checks it.
pub(super) async fn run(job: &Job) -> Result<Report, BenchError> {
    let (place, given) = (std::env::current_exe()?, job.clone());
    let killed = tokio::task::spawn_blocking(move || load_and_kill(&place, &given)).await;
    killed.map_err(|error| BenchError::Setup(error.to_string()))??;
    let (running, waiting) = read_notes(&notes(&job.state))?;

    let (cpu, rss) = (cpu_seconds(), rss_bytes());
    let begun = Instant::now();
    let app = open(job, |_: HandlerCall| async { Ok(Json::null()) }).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let measured = async {
        all_ended(&app, running.len() as u64).await?;
        settled(&app).await?;
        let (status, counters) = (app.engine.status(), app.state.counters());
        let (cpu, rss_after) = (cpu_seconds() - cpu, rss_bytes());
        check::all(std::slice::from_ref(&app), running.iter(), check::Expected::Completed).await?;
        check::all(std::slice::from_ref(&app), waiting.iter(), check::Expected::Open).await?;
        Ok::<_, BenchError>((status, counters, cpu, rss_after))
    };
    let measured = measured.await;
    app.shutdown().await;
    let (status, counters, cpu, rss_after) = measured?;

    let executions = (running.len() + waiting.len()) as u64;
    let steps = running.len() as u64 * 2;
    Ok(Report {
        workload: job.workload.name(),
        members: 1,
        executions,
        steps,
        seconds: round(seconds),
        executions_per_s: round(executions as f64 / seconds),
        steps_per_s: 0.0,
        latency_ms: latency(vec![seconds * 1_000.0]),
        rss_bytes: rss_after,
        rss_per_execution_bytes: round(rss_after.saturating_sub(rss) as f64 / executions.max(1) as f64),
        cpu_seconds: round(cpu),
        cpu_us_per_step: round(cpu * 1e6 / steps.max(1) as f64),
        commits: counters.commits,
        commit_batch_mean: round(status.entries as f64 / counters.commits.max(1) as f64),
        fsyncs: counters.fsyncs,
        node_actors: status.node_actors,
        events: None,
        rss_per_child_bytes: None,
        thousand_ms: None,
        parent_entries: None,
    })
}

async fn open(job: &Job, hold: impl wiring::Handler) -> Result<crate::app::App, BenchError> {
    let extras = Extras {
        executors: wiring::executors().handler(HOLD, hold),
        ..Extras::default()
    };
    wiring::open(job.settings.clone(), &job.state, extras)
        .await
        .map_err(setup)
}

fn load_and_kill(program: &Path, job: &Job) -> Result<(), BenchError> {
    let mut command = Command::new(program);
    // It gets what this process has but for servers: what it is told to load is for the directory alone.
    let stores = std::env::vars_os().map(|(name, _)| name);
    for name in stores.filter(|name| name.to_string_lossy().starts_with(STORE_VARIABLES)) {
        command.env_remove(name);
    }
    if let Some(config) = &job.config {
        command.arg("--config").arg(config);
    }
    let mut child = command
        .args([
            "bench",
            "recover",
            "--load-and-wait",
            "--executions",
            &job.executions.to_string(),
        ])
        .args(["--concurrency", &job.concurrency.to_string(), "--state"])
        .arg(&job.state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().map(|out| BufReader::new(out).lines().next());
    let loaded = said.flatten().transpose()?.is_some_and(|line| line == LOADED);
    // SIGKILL: no destructor runs, nothing is flushed.
    child.kill()?;
    child.wait()?;
    if loaded {
        Ok(())
    } else {
        Err(BenchError::Setup("the process that loads the store failed".into()))
    }
}

fn notes(state: &Path) -> PathBuf {
    state.join("acknowledged.txt")
}

fn read_notes(path: &Path) -> Result<(Vec<ExecutionId>, Vec<ExecutionId>), BenchError> {
    let (mut running, mut waiting) = (Vec::new(), Vec::new());
    for line in BufReader::new(File::open(path)?).lines() {
        let line = line?;
        let wrong = || BenchError::Setup(format!("`{line}` is no note of an execution"));
        let (kind, id) = line.split_once(' ').ok_or_else(wrong)?;
        let id = id.parse().map_err(|_| wrong())?;
        if kind == "running" {
            running.push(id)
        } else {
            waiting.push(id)
        }
    }
    Ok((running, waiting))
}

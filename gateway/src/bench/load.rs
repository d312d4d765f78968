//! Workloads that run in one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use parking_lot::Mutex;
use troupe_actors::{EngineError, StartRequest};
use troupe_core::execution::Event;
use troupe_core::{ExecutionId, Json, Seq, Timestamp};

use super::measure::{cpu_seconds, latency, round, rss_bytes};
use super::workload::{self, Workload};
use super::{BenchError, Job, Report, check, events};
use crate::app::App;
use crate::{rules, wiring};

/// How long nothing may move before a run is given up.
const STUCK: Duration = Duration::from_secs(60);
/// Entries of a history read at once.
const HISTORY_ENTRIES: usize = 100_000;
/// How often progress is looked at where nothing announces it.
const LOOK: Duration = Duration::from_millis(20);

/// What the drivers saw. Its memory is there from the start, so that it does not count as the engine's.
pub(super) struct Seen {
    pub(super) ids: Vec<ExecutionId>,
    pub(super) latencies_ms: Vec<f64>,
}

impl Seen {
    pub(super) fn of(executions: usize) -> Arc<Mutex<Self>> {
        let mut seen = Self {
            ids: vec![ExecutionId([1; 16]); executions],
            latencies_ms: vec![1.0; executions],
        };
        seen.ids.clear();
        seen.latencies_ms.clear();
        Arc::new(Mutex::new(seen))
    }
}

/// Until when a driver follows an execution.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Acknowledged,
    Ended,
}

pub(super) async fn run(job: &Job) -> Result<Report, BenchError> {
    let extras = wiring::Extras {
        exposition: events::exposition(job.settings.store.events.is_some())?,
        ..wiring::Extras::default()
    };
    let app = wiring::open(job.settings.clone(), &job.state, extras)
        .await
        .map_err(setup)?;
    let mut apps = vec![app];
    let measured = together(job, &mut apps).await;
    // Also after a failure: nobody writes to what may be removed next.
    for app in apps {
        app.shutdown().await;
    }
    measured
}

/// Opens the other engines and measures all of them.
async fn together(job: &Job, apps: &mut Vec<App>) -> Result<Report, BenchError> {
    while apps.len() < job.members {
        let opened = wiring::open(job.settings.clone(), &job.state, wiring::Extras::default()).await;
        apps.push(opened.map_err(setup)?);
    }
    shared_out(apps).await?;
    measure(job, apps).await
}

/// Waits until each of several engines has its share of the shards, and nothing else.
async fn shared_out(apps: &[App]) -> Result<(), BenchError> {
    moved(|| {
        let statuses: Vec<_> = apps.iter().map(|app| app.engine.status()).collect();
        let served: u64 = statuses.iter().map(|status| u64::from(status.shards_served)).sum();
        let is_settled = statuses.iter().all(|status| status.ready && status.shards_served > 0);
        (is_settled && served == u64::from(statuses[0].shards), served)
    })
    .await
}

async fn measure(job: &Job, apps: &[App]) -> Result<Report, BenchError> {
    let app = &apps[0];
    let sum = |of: fn(&App) -> u64| apps.iter().map(of).sum::<u64>();
    let entries = || sum(|app| app.engine.status().entries);
    let commits = || sum(|app| app.state.counters().commits);
    let fsyncs = || sum(|app| app.state.counters().fsyncs);
    let node_actors = || sum(|app| app.engine.status().node_actors);
    let mut definition = match job.workload {
        Workload::Parked => workload::parked()?,
        Workload::Each | Workload::Loop => workload::children(job.workload, job.nodes, job.concurrency)?,
        other => workload::running(other, job.nodes, job.handler)?,
    };
    let parents = matches!(job.workload, Workload::Each | Workload::Loop);
    let nodes_each = if parents {
        job.nodes as u64
    } else {
        definition.nodes.len() as u64
    };
    let workflow = definition.id.clone();
    if job.settings.events.nodes {
        let all = serde_json::json!({"nodes": "all"});
        definition.settings.insert("events".to_owned(), all);
    }
    store(app, definition).await?;
    let until = match job.workload {
        Workload::Parked | Workload::Start => Until::Acknowledged,
        Workload::Chain | Workload::Fan | Workload::Recover | Workload::Each | Workload::Loop => Until::Ended,
    };
    // Threads, caches and sandbox processes get warm on executions that do not count.
    let warm = if parents {
        0
    } else {
        job.concurrency.min(job.executions).min(64)
    };
    let warmed = Seen::of(warm);
    drive(apps, &workflow, (warm, warm, None), until, &warmed).await?;
    if job.workload == Workload::Start {
        all_ended(app, warm as u64).await?;
    }

    let seen = Seen::of(job.executions);
    let (status, cpu, rss) = (app.engine.status(), cpu_seconds(), rss_bytes());
    let (entries_before, commits_before) = (entries(), commits());
    let (fsyncs_before, actors_before) = (fsyncs(), node_actors());
    events::drained(app, Instant::now(), (0, 0)).await?;
    let confirmed = events::confirmed(app);
    let begun = Instant::now();
    let load = (job.executions, job.concurrency, job.rate);
    drive(apps, &workflow, load, until, &seen).await?;
    let seconds = begun.elapsed().as_secs_f64();
    if job.workload == Workload::Start {
        all_ended(app, status.ended + job.executions as u64).await?;
    }
    if job.workload == Workload::Parked {
        settled(app).await?;
    }
    let events = events::drained(app, begun, confirmed).await?;
    let (cpu, rss_after) = (cpu_seconds() - cpu, rss_bytes());

    let expected = match job.workload {
        Workload::Parked => check::Expected::Open,
        _ => check::Expected::Completed,
    };
    let (warmed_ids, seen_ids) = (warmed.lock().ids.clone(), seen.lock().ids.clone());
    check::all(apps, warmed_ids.iter().chain(&seen_ids), expected).await?;

    let (mut thousand_ms, mut parent_entries) = (None, None);
    if let Some(parent) = seen_ids.first().filter(|_| parents) {
        let (thousand, entries) = children_in_time(app, *parent).await?;
        (thousand_ms, parent_entries) = (Some(thousand), Some(entries));
    }

    let executions = job.executions as u64;
    let steps = if job.workload == Workload::Parked {
        0
    } else {
        executions * nodes_each
    };
    let appended = commits() - commits_before;
    Ok(Report {
        workload: job.workload.name(),
        members: apps.len(),
        executions,
        steps,
        seconds: round(seconds),
        executions_per_s: round(executions as f64 / seconds),
        steps_per_s: round(steps as f64 / seconds),
        latency_ms: latency(std::mem::take(&mut seen.lock().latencies_ms)),
        rss_bytes: rss_after,
        rss_per_execution_bytes: round(rss_after.saturating_sub(rss) as f64 / executions as f64),
        cpu_seconds: round(cpu),
        cpu_us_per_step: round(cpu * 1e6 / steps.max(1) as f64),
        commits: appended,
        commit_batch_mean: round((entries() - entries_before) as f64 / appended.max(1) as f64),
        fsyncs: fsyncs() - fsyncs_before,
        node_actors: node_actors() - actors_before,
        events,
        rss_per_child_bytes: parents.then(|| round(rss_after.saturating_sub(rss) as f64 / steps.max(1) as f64)),
        thousand_ms,
        parent_entries,
    })
}

/// When the first and the last thousand children of an execution were heard of, and how many entries that took.
async fn children_in_time(app: &App, id: ExecutionId) -> Result<([f64; 2], u64), BenchError> {
    let mut heard: Vec<Timestamp> = Vec::new();
    let (mut after, mut started_at) = (Seq(0), None);
    loop {
        let entries = app.engine.history(id, after, HISTORY_ENTRIES).await?;
        let Some(last) = entries.last() else { break };
        after = last.seq;
        for entry in &entries {
            started_at = started_at.or(Some(entry.at));
            if let Event::Children(reports) = &entry.event {
                heard.extend(reports.iter().map(|_| entry.at));
            }
        }
    }
    let of = |from: usize, to: usize| {
        let begun = if from == 0 {
            started_at
        } else {
            heard.get(from - 1).copied()
        };
        let ended = heard.get(to.saturating_sub(1)).copied();
        begun
            .zip(ended)
            .map_or(0.0, |(begun, ended)| ended.since_ms(begun) as f64)
    };
    let all = heard.len();
    Ok(([of(0, all.min(1_000)), of(all.saturating_sub(1_000), all)], after.0))
}

pub(super) fn setup(error: crate::error::ApiError) -> BenchError {
    BenchError::Setup(error.problem().detail)
}

pub(super) async fn store(
    app: &App,
    definition: troupe_core::definition::WorkflowDefinition,
) -> Result<(), BenchError> {
    let stored = rules::store(&*app.definitions, definition, None, app.now()).await;
    stored.map(drop).map_err(|error| BenchError::Setup(error.to_string()))
}

/// Starts so many executions from so many drivers, at each engine in turn, no more of them a second than the third number says.
pub(super) async fn drive(
    apps: &[App],
    workflow: &str,
    (executions, concurrency, rate): (usize, usize, Option<usize>),
    until: Until,
    seen: &Arc<Mutex<Seen>>,
) -> Result<(), BenchError> {
    let next = Arc::new(AtomicUsize::new(0));
    let begun = tokio::time::Instant::now();
    let drivers = (0..concurrency.min(executions).max(1)).map(|_| {
        let (apps, next, workflow, seen) = (apps.to_vec(), Arc::clone(&next), workflow.to_owned(), Arc::clone(seen));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= executions {
                    break;
                }
                if let Some(rate) = rate {
                    let due = Duration::from_secs_f64(number as f64 / rate as f64);
                    tokio::time::sleep_until(begun + due).await;
                }
                let (id, took) = one(&apps[number % apps.len()], &workflow, until).await?;
                let mut seen = seen.lock();
                seen.ids.push(id);
                seen.latencies_ms.push(took.as_secs_f64() * 1_000.0);
            }
            Ok::<_, BenchError>(())
        })
    });
    let ended = try_join_all(drivers).await;
    let ended = ended.map_err(|error| BenchError::Setup(error.to_string()))?;
    ended.into_iter().collect()
}

/// Starts one execution; a refusal for overload is waited out, and its time counts.
async fn one(app: &App, workflow: &str, until: Until) -> Result<(ExecutionId, Duration), BenchError> {
    let begun = Instant::now();
    let input = Json::from_trusted(r#"{"count":0}"#);
    loop {
        let request = StartRequest::new(workflow, input.clone());
        let started = match until {
            Until::Acknowledged => app.engine.start(request).await.map(|outcome| (outcome, None)),
            Until::Ended => app
                .engine
                .start_watched(request)
                .await
                .map(|(outcome, watch)| (outcome, Some(watch))),
        };
        match started {
            Ok((outcome, watch)) => {
                if let Some(watch) = watch {
                    let ended = tokio::time::timeout(STUCK, watch.ended()).await;
                    let stuck = || BenchError::Stuck {
                        seconds: STUCK.as_secs(),
                        what: outcome.id.to_string(),
                    };
                    ended.ok().flatten().ok_or_else(stuck)?;
                }
                return Ok((outcome.id, begun.elapsed()));
            }
            Err(EngineError::Overloaded { .. } | EngineError::BacklogFull { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until so many executions have ended.
pub(super) async fn all_ended(app: &App, ended: u64) -> Result<(), BenchError> {
    moved(|| {
        let status = app.engine.status();
        (status.ended >= ended, status.entries)
    })
    .await
}

/// Waits until executions that only wait hold no actor, and their states are in the store.
pub(super) async fn settled(app: &App) -> Result<(), BenchError> {
    moved(|| {
        let status = app.engine.status();
        (
            status.active == 0 && status.uncheckpointed_bytes == 0,
            status.uncheckpointed_bytes ^ (status.active as u64) << 32,
        )
    })
    .await
}

/// Waits until `look` is content; as long as its number changes, something moves.
async fn moved(look: impl Fn() -> (bool, u64)) -> Result<(), BenchError> {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        let (content, number) = look();
        if content {
            return Ok(());
        }
        if last.replace(number) != Some(number) {
            since = Instant::now();
        } else if since.elapsed() > STUCK {
            return Err(BenchError::Stuck {
                seconds: STUCK.as_secs(),
                what: format!("progress stands at {number}"),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

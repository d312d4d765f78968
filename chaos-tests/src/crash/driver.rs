//! Kills engine processes at random moments, lets the last one finish, and gathers the evidence.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use troupe_actors::{EngineError, EngineHandle};
use troupe_core::execution::{Entry, ExecutionState};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, Seq, Timestamp};
use troupe_ports::{Clock, SystemClock};

use super::checkers::Evidence;
use super::child::{EffectSink, Fault, Orders, open, random};
use super::record::Record;

/// How long an engine may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a healed engine may take to end everything that is open.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
/// How many executions an incarnation is asked for again.
const ASKED_AGAIN: usize = 40;
/// Entries of one history read at once.
const HISTORY_PAGE: usize = 1_000;

/// How to torment.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// How many times to kill.
    pub kills: u32,
    /// Shortest and longest life of an incarnation after it became ready, in milliseconds.
    pub life_ms: (u64, u64),
    /// Clients an incarnation.
    pub clients: u32,
    /// Fault to plant.
    pub fault: Option<Fault>,
}

/// What came of a campaign.
#[derive(Debug)]
pub struct Outcome {
    /// Everything recorded.
    pub evidence: Evidence,
    /// Kills carried out.
    pub kills: u32,
}

impl Campaign {
    /// Runs the campaign with the engine program at `program`.
    ///
    /// # Errors
    /// When an engine does not start, or does not heal.
    pub async fn run(&self, program: &Path) -> anyhow::Result<Outcome> {
        let directory = tempfile::tempdir().context("no temporary folder")?;
        let mut evidence = Evidence::default();
        let mut down_since = None;
        for incarnation in 0..self.kills {
            let orders = Orders {
                directory: directory.path().to_owned(),
                incarnation,
                asked_before: asked_before(&evidence.records),
                clients: self.clients,
                fault: self.fault,
            };
            let (low, high) = self.life_ms;
            let life = Duration::from_millis(low + random() % (high - low).max(1));
            let (records, ready_at, killed_at) = live_and_die(program, &orders, life)?;
            evidence.records.extend(records);
            if let Some(since) = down_since.replace(killed_at) {
                evidence.outages.push((since, ready_at.plus_ms(1_000)));
            }
        }
        let sink = Arc::new(EffectSink { silent: true });
        let engine = open(directory.path(), false, self.fault, sink).await?;
        if let Some(since) = down_since {
            evidence.outages.push((since, SystemClock.now().plus_ms(1_000)));
        }
        heal(&engine, &mut evidence).await;
        engine.shutdown(Duration::from_secs(1)).await;
        Ok(Outcome {
            evidence,
            kills: self.kills,
        })
    }
}

/// One incarnation: everything it said, when it was ready and when it was killed.
fn live_and_die(
    program: &Path,
    orders: &Orders,
    life: Duration,
) -> anyhow::Result<(Vec<Record>, Timestamp, Timestamp)> {
    let mut child = Command::new(program)
        .arg(serde_json::to_string(orders)?)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start", program.display()))?;
    let out = child.stdout.take().context("no pipe")?;
    let (send, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut records = Vec::new();
    let started = Instant::now();
    let ready = loop {
        match lines.recv_timeout(READY_WITHIN.saturating_sub(started.elapsed())) {
            Ok(line) => records.extend(parse(&line)),
            Err(_) => break false,
        }
        if records.last() == Some(&Record::Ready) {
            break true;
        }
    };
    let ready_at = SystemClock.now();
    if ready {
        // The moment of death is what this test is about: it must not depend on anything that happens.
        std::thread::sleep(life);
    }
    let killed_at = SystemClock.now();
    kill(&mut child)?;
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    if !ready {
        bail!(
            "incarnation {} was not ready within {READY_WITHIN:?}",
            orders.incarnation
        );
    }
    records.extend(lines.try_iter().flat_map(|line| parse(&line)));
    Ok((records, ready_at, killed_at))
}

fn kill(child: &mut Child) -> anyhow::Result<()> {
    if let Some(status) = child.try_wait()? {
        bail!("the engine ended by itself: {status}");
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// A line cut short by the kill is no record.
fn parse(line: &str) -> Option<Record> {
    serde_json::from_str(line).ok()
}

fn asked_before(records: &[Record]) -> Vec<String> {
    let keys = records.iter().rev().filter_map(|record| match record {
        Record::StartAsked { key } => Some(key.clone()),
        _ => None,
    });
    keys.take(ASKED_AGAIN).collect()
}

/// Ends everything that is open and reads every history.
async fn heal(engine: &EngineHandle, evidence: &mut Evidence) {
    let mut ids: BTreeSet<ExecutionId> = BTreeSet::new();
    for record in &evidence.records {
        match record {
            Record::StartAcked { id, .. } | Record::Effect { id, .. } => {
                ids.insert(*id);
            }
            _ => {}
        }
    }
    let until = Instant::now() + HEALED_WITHIN;
    for id in ids {
        let left = until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        match end_and_read(engine, id, left).await {
            Ok(Some(execution)) => {
                evidence.executions.insert(id, execution);
            }
            Ok(None) => {}
            Err(error) => evidence.records.push(Record::Trouble {
                what: format!("{id} does not heal: {error}"),
            }),
        }
    }
}

/// Ends one execution and reads its history; none if the engine does not know it.
async fn end_and_read(
    engine: &EngineHandle,
    id: ExecutionId,
    within: Duration,
) -> Result<Option<(ExecutionState, Arc<Plan>, Vec<Entry>)>, EngineError> {
    let view = match engine.get(id).await {
        Ok(view) => view,
        Err(EngineError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    if view.state.paused {
        match engine.resume(id, troupe_actors::Command::default()).await {
            Ok(_) | Err(EngineError::Ended(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let view = match engine.wait_until_ended(id, within).await? {
        Some(view) => view,
        None => engine.get(id).await?,
    };
    let mut entries = Vec::new();
    loop {
        let page = engine.history(id, Seq(entries.len() as u64), HISTORY_PAGE).await?;
        if page.is_empty() {
            return Ok(Some((view.state, view.plan, entries)));
        }
        entries.extend(page);
    }
}

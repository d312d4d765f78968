//! A last engine, which nobody torments: it ends everything that is open, publishes the rest, and is read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use troupe_actors::{EngineError, EngineHandle};
use troupe_core::execution::{Entry, ExecutionState};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, Seq, Timestamp};
use troupe_ports::{Clock, SystemClock};

use super::bus::KeepingBus;
use super::checkers::{Evidence, expected_events};
use super::child::{Setting, open};
use super::effects::EffectSink;
use super::record::{Record, Sighting};
use super::workload;

/// How long a healed engine may take to end everything that is open.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to publish the rest.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Entries of one history read at once.
const HISTORY_PAGE: usize = 1_000;

/// Opens the store in peace and completes the evidence.
pub(super) async fn heal(
    setting: &Setting,
    down_since: Option<Timestamp>,
    evidence: &mut Evidence,
) -> anyhow::Result<()> {
    let bus = Arc::new(KeepingBus::default());
    let engine = open(setting, Arc::new(EffectSink { silent: true }), bus.clone()).await?;
    if let Some(since) = down_since {
        evidence.outages.push((since, SystemClock.now().plus_ms(1_000)));
    }
    for definition in workload::all() {
        evidence.definitions.insert(definition.id.clone(), definition);
    }
    // What was started and never acknowledged may show up only in the events that are published now.
    let mut asked = BTreeSet::new();
    loop {
        let unread: Vec<ExecutionId> = ids(evidence, &bus).into_iter().filter(|id| asked.insert(*id)).collect();
        if unread.is_empty() {
            break;
        }
        end_all(&engine, unread, evidence).await;
        publish_all(&bus, evidence).await;
    }
    evidence.records.push(Record::Published { events: bus.seen() });
    engine.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// Every execution that anybody heard of.
fn ids(evidence: &Evidence, bus: &KeepingBus) -> BTreeSet<ExecutionId> {
    let mut ids: BTreeSet<ExecutionId> = bus.seen().iter().map(|event| event.id).collect();
    for record in &evidence.records {
        match record {
            Record::StartAcked { id, .. } | Record::KeyedAcked { id, .. } | Record::Effect { id, .. } => {
                ids.insert(*id);
            }
            Record::Published { events } => ids.extend(events.iter().map(|event| event.id)),
            _ => {}
        }
    }
    ids
}

async fn end_all(engine: &EngineHandle, ids: Vec<ExecutionId>, evidence: &mut Evidence) {
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

/// Waits until every event was published at least once; what is missing after that is for the checkers.
async fn publish_all(bus: &KeepingBus, evidence: &Evidence) {
    let mut missing: BTreeSet<(ExecutionId, u64, u32)> = BTreeSet::new();
    for (id, (_, plan, entries)) in &evidence.executions {
        let expected = expected_events(*id, plan, entries);
        missing.extend(expected.map(|event| (event.id, event.seq, event.part)));
    }
    let forget = |missing: &mut BTreeSet<_>, events: &[Sighting]| {
        for event in events {
            missing.remove(&(event.id, event.seq, event.part));
        }
    };
    for record in &evidence.records {
        if let Record::Published { events } = record {
            forget(&mut missing, events);
        }
    }
    let begun = Instant::now();
    loop {
        forget(&mut missing, &bus.seen());
        if missing.is_empty() || begun.elapsed() > PUBLISHED_WITHIN {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
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

//! A last engine, which nobody torments: it ends everything that is open, publishes the rest, and is read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use troupe_actors::execution::family::child_id;
use troupe_actors::{Command, EngineError, EngineHandle, ExecutionView};
use troupe_core::definition::NodeKind;
use troupe_core::execution::{Effect, Entry, ExecutionState, Phase, replay};
use troupe_core::plan::Plan;
use troupe_core::{BlobRef, ExecutionId, Json, Seq, Timestamp};
use troupe_ports::{Clock, StateStore, SystemClock};

use super::bus::KeepingBus;
use super::calls::open_children;
use super::checkers::{Evidence, blobs_of, expected_events};
use super::child::{Setting, open_on, open_store};
use super::effects::EffectSink;
use super::record::{Record, Sighting};
use super::workload;

/// How long a healed engine may take to end everything that is open.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to publish the rest.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);
/// How long a read may wait for its answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Entries of one history read at once.
const HISTORY_PAGE: usize = 1_000;
/// What a node is called with that nobody else has called.
const CALL: &str = r#"{"body":"at last","headers":{},"query":{},"method":"POST"}"#;

/// Opens the store in peace and completes the evidence.
pub(crate) async fn heal(
    setting: &Setting,
    down_since: Option<Timestamp>,
    evidence: &mut Evidence,
) -> anyhow::Result<()> {
    let bus = Arc::new(KeepingBus::default());
    let store = Arc::new(open_store(setting)?);
    let silent = Arc::new(EffectSink { silent: true });
    let engine = open_on(Arc::clone(&store), setting, silent, bus.clone()).await?;
    if let Some(since) = down_since {
        evidence.outages.push((since, SystemClock.now().plus_ms(1_000)));
    }
    let within = Patience {
        healed: HEALED_WITHIN,
        published: PUBLISHED_WITHIN,
    };
    complete(&engine, &*store, &*bus, within, evidence).await?;
    engine.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// Whoever hears events.
pub(crate) trait Hears: Sync {
    /// Everything heard so far, in the order that counts.
    fn seen(&self) -> Vec<Sighting>;

    /// What was heard after so many, in whatever order it came.
    fn arrived(&self, after: usize) -> Vec<Sighting>;
}

/// How long a healed engine may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To end everything that is open.
    pub(crate) healed: Duration,
    /// To publish the rest.
    pub(crate) published: Duration,
}

/// Ends everything that is open, waits until the rest is published, and reads all of it. `bus`: whoever hears what is published.
/// What is open for too long is named in the evidence.
pub(crate) async fn complete(
    engine: &EngineHandle,
    store: &dyn StateStore,
    bus: &dyn Hears,
    within: Patience,
    evidence: &mut Evidence,
) -> anyhow::Result<()> {
    for definition in workload::all() {
        evidence.definitions.insert(definition.id.clone(), definition);
    }
    let mut heard_of = ids(evidence);
    let mut asked_for: BTreeSet<ExecutionId> = BTreeSet::new();
    let mut published_within = within.published;
    let events = loop {
        let unread = heard_of.iter().filter(|id| !evidence.executions.contains_key(id));
        let unread: BTreeSet<ExecutionId> = unread.copied().collect();
        let known = evidence.executions.len();
        asked_for.extend(&unread);
        let begun = end_all(engine, unread, within.healed, evidence).await;
        if !publish_all(bus, published_within, evidence).await {
            // What is missing is lost: only what is found from now on is waited for.
            published_within = within.published / 6;
        }
        // What was started and never acknowledged, and children, may show up only in what was read and published now.
        let events = bus.seen();
        heard_of.extend(begun);
        heard_of.extend(events.iter().map(|event| event.id));
        let is_known = |id| asked_for.contains(id) || evidence.executions.contains_key(id);
        if heard_of.iter().all(is_known) && evidence.executions.len() == known {
            break events;
        }
    };
    evidence.records.push(Record::Published { events });
    read_large_values(store, evidence).await
}

/// Every execution that anybody heard of.
fn ids(evidence: &Evidence) -> BTreeSet<ExecutionId> {
    let mut ids = BTreeSet::new();
    for record in &evidence.records {
        match record {
            Record::StartAcked { id, .. }
            | Record::KeyedAcked { id, .. }
            | Record::Effect { id, .. }
            | Record::CommandAcked { id, .. } => {
                ids.insert(*id);
            }
            Record::Published { events } => ids.extend(events.iter().map(|event| event.id)),
            _ => {}
        }
    }
    ids
}

/// Ends these executions and reads what became of them; the children that they began.
async fn end_all(
    engine: &EngineHandle,
    ids: BTreeSet<ExecutionId>,
    within: Duration,
    evidence: &mut Evidence,
) -> Vec<ExecutionId> {
    let mut children = Vec::new();
    for id in settle(engine, ids, within, evidence).await {
        match read(engine, id).await {
            Ok(execution) => {
                children.extend(children_of(&execution));
                evidence.executions.insert(id, execution);
            }
            Err(error) => does_not_heal(evidence, id, &error),
        }
    }
    children
}

fn does_not_heal(evidence: &mut Evidence, id: ExecutionId, error: &EngineError) {
    let what = format!("{id} does not heal: {error}");
    evidence.records.push(Record::Trouble { what });
}

/// Lets these executions go on until they have ended; those that the engine knows. Whatever used up its time is named.
async fn settle(
    engine: &EngineHandle,
    mut open: BTreeSet<ExecutionId>,
    within: Duration,
    evidence: &mut Evidence,
) -> BTreeSet<ExecutionId> {
    let until = Instant::now() + within;
    let mut known = BTreeSet::new();
    loop {
        let is_late = Instant::now() > until;
        for id in std::mem::take(&mut open) {
            match visit(engine, id).await {
                Ok(Visit::Unknown) => {}
                Ok(Visit::Ended) => _ = known.insert(id),
                Ok(Visit::Open(view)) => {
                    known.insert(id);
                    if is_late {
                        let what = used_up_its_time(&view, within);
                        evidence.records.push(Record::Trouble { what });
                        continue;
                    }
                    open.insert(id);
                    // Nobody may have heard of a child yet, not even of the command that holds it.
                    open.extend(open_children(&view));
                }
                Err(error) if error.retry_after_ms().is_some() && !is_late => _ = open.insert(id),
                Err(error) => {
                    known.insert(id);
                    does_not_heal(evidence, id, &error);
                }
            }
        }
        if open.is_empty() {
            return known;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How an execution was found.
enum Visit {
    /// The engine knows no such execution.
    Unknown,
    Ended,
    /// It was told what it may wait for.
    Open(Box<ExecutionView>),
}

async fn visit(engine: &EngineHandle, id: ExecutionId) -> Result<Visit, EngineError> {
    let view = match look(engine, id).await {
        Ok(view) => view,
        Err(EngineError::NotFound(_)) => return Ok(Visit::Unknown),
        Err(error) => return Err(error),
    };
    if view.state.status.is_terminal() {
        return Ok(Visit::Ended);
    }
    let_go_on(engine, &view).await?;
    Ok(Visit::Open(Box::new(view)))
}

/// Reads an execution; one that does not answer is named.
async fn look(engine: &EngineHandle, id: ExecutionId) -> Result<ExecutionView, EngineError> {
    let silent = || EngineError::Unavailable(format!("no read was answered within {ANSWERS_WITHIN:?}"));
    let answer = tokio::time::timeout(ANSWERS_WITHIN, engine.get(id)).await;
    answer.unwrap_or_else(|_| Err(silent()))
}

/// Resumes what an operator paused, and what was set aside since it was poisoned; calls what waits for nothing but a call. Timeouts,
/// and what a parent says, come by themselves.
async fn let_go_on(engine: &EngineHandle, view: &ExecutionView) -> Result<(), EngineError> {
    let state = &view.state;
    if view.quarantined.is_some() && workload::may_be_poisoned(state.workflow.as_str()) {
        return or_over(engine.resume(state.id, Command::default()).await);
    }
    let waits = |phase: &Phase| matches!(phase, Phase::Waiting { until: None, .. });
    let called = view.plan.nodes.iter().zip(&state.nodes);
    let called: Vec<&str> = called
        .filter(|(_, node)| waits(&node.phase))
        .map(|(planned, _)| planned.key.as_str())
        .collect();
    let paused = state.paused && !state.paused_with_parent;
    if !paused && called.is_empty() || is_orphan(engine, state).await? {
        return Ok(());
    }
    if paused {
        or_over(engine.resume(state.id, Command::default()).await)?;
    }
    for node in called {
        let call = Json::from_trusted(CALL);
        or_over(engine.signal(state.id, node, call, Command::default()).await)?;
    }
    Ok(())
}

/// Whether nobody waits for it any more: then it is canceled, and must not need anything else.
async fn is_orphan(engine: &EngineHandle, state: &ExecutionState) -> Result<bool, EngineError> {
    let Some(parent) = state.parent.filter(|parent| parent.attached) else {
        return Ok(false);
    };
    match engine.get(parent.execution).await {
        Ok(view) => Ok(!view.state.awaits(parent.child)),
        Err(EngineError::NotFound(_)) => Ok(true),
        Err(error) if error.retry_after_ms().is_some() => Ok(true),
        Err(error) => Err(error),
    }
}

/// What has ended meanwhile needs nothing, and what cannot be said now is said again.
fn or_over<T>(answer: Result<T, EngineError>) -> Result<(), EngineError> {
    match answer {
        Ok(_) | Err(EngineError::Ended(_)) => Ok(()),
        Err(EngineError::Refused(why)) if why.code == "NODE_NOT_WAITING" => Ok(()),
        Err(error) if error.retry_after_ms().is_some() => Ok(()),
        Err(error) => Err(error),
    }
}

fn used_up_its_time(view: &ExecutionView, within: Duration) -> String {
    let state = &view.state;
    let at_work = |phase: &Phase| !phase.is_terminal() && *phase != Phase::Pending;
    let nodes = view.plan.nodes.iter().zip(&state.nodes);
    let nodes = nodes.filter(|(_, node)| at_work(&node.phase));
    let nodes: Vec<String> = nodes
        .map(|(planned, node)| format!("{}: {:?}", planned.key, node.phase))
        .collect();
    let children: Vec<String> = open_children(view).iter().map(ToString::to_string).collect();
    format!(
        "{} of {} used up its {within:?}: {} at entry {}, paused: {} (with its parent: {}), set aside: {:?}, parent: {:?}; \
         it waits for {nodes:?}, children {children:?}",
        state.id,
        state.workflow,
        state.status.name(),
        state.seq,
        state.paused,
        state.paused_with_parent,
        view.quarantined,
        state.parent.map(|parent| parent.execution.to_string()),
    )
}

/// Waits until every event was published at least once, and says whether it was: for no longer than this after the last one that was missing.
/// What is missing then is for the checkers.
async fn publish_all(bus: &dyn Hears, within: Duration, evidence: &Evidence) -> bool {
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
    let (mut since, mut known) = (Instant::now(), 0);
    loop {
        let arrived = bus.arrived(known);
        known += arrived.len();
        let before = missing.len();
        forget(&mut missing, &arrived);
        if missing.len() < before {
            since = Instant::now();
        }
        if missing.is_empty() || since.elapsed() > within {
            return missing.is_empty();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is known of an execution: its state, its plan and its whole history.
type Execution = (ExecutionState, Arc<Plan>, Vec<Entry>);

async fn read(engine: &EngineHandle, id: ExecutionId) -> Result<Execution, EngineError> {
    let view = engine.get(id).await?;
    let mut entries = Vec::new();
    loop {
        let page = engine.history(id, Seq(entries.len() as u64), HISTORY_PAGE).await?;
        if page.is_empty() {
            return Ok((view.state, view.plan, entries));
        }
        entries.extend(page);
    }
}

/// The children that an execution's log begins.
fn children_of((state, plan, entries): &Execution) -> Vec<ExecutionId> {
    let is_parent = |kind| matches!(kind, NodeKind::Subworkflow | NodeKind::ForEach | NodeKind::Loop);
    if !plan.nodes.iter().any(|node| is_parent(node.kind)) {
        return Vec::new();
    }
    let mut folded = ExecutionState::new(plan, state.id);
    // Where that fails, C2 says so.
    let effects = entries.iter().map_while(|entry| replay(plan, &mut folded, entry).ok());
    let begun = effects.flatten().filter_map(|effect| match effect {
        Effect::StartChild(start) => Some(child_id(state.id, plan, start.child)),
        _ => None,
    });
    begun.collect()
}

/// Reads the large values that entries refer to from the store itself, past what an engine remembers of them.
async fn read_large_values(store: &dyn StateStore, evidence: &mut Evidence) -> anyhow::Result<()> {
    let mut wanted: BTreeSet<(ExecutionId, BlobRef)> = BTreeSet::new();
    for (state, _, entries) in evidence.executions.values() {
        let Some(root) = state.blob_root() else { continue };
        wanted.extend(entries.iter().flat_map(blobs_of).map(|blob| (root, blob)));
    }
    for (root, blob) in wanted {
        let kept = store.blob(root, blob.hash).await;
        if let Some(content) = kept.context("a large value cannot be read")? {
            evidence.contents.add(root, blob, content);
        }
    }
    Ok(())
}

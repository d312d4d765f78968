//! Takes a shard: lease, tail of the log, the actors beside the executions; what is unfinished is resumed behind that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashSet;
use ractor::{Actor, ActorId, ActorRef};
use tokio::sync::{Semaphore, oneshot};
use troupe_core::execution::Entry;
use troupe_core::{ExecutionId, LogPosition, ShardId};
use troupe_ports::{ExecutionQuery, ExecutionSummary, Lease, LogRecord};

use super::acquire::acquire;
use super::actor::ShardMessage;
use super::format::FormatKeeper;
use super::loss::{Torn, cut};
use super::mail::Mail;
use super::route::deliver;
use super::went_back::{check_witness, correct_lists};
use crate::checkpointer::{CheckpointItem, CheckpointerActor, CheckpointerArguments, CheckpointerMessage};
use crate::committer::{CommitterActor, CommitterArguments};
use crate::context::{EngineContext, LeaseGate, ShardContext};
use crate::controls::{self, ShardControls};
use crate::error::EngineError;
use crate::execution::ExecutionMessage;
use crate::execution::load::{Loaded, load};
use crate::execution::view::{changes_summary, summary};
use crate::format::WrittenFormat;
use crate::gauges::{ShardGauges, SinkProgress};
use crate::record::{Mark, RecordItem, read_frames_as, read_header_as};
use crate::rooms;
use crate::sinks::spool::SpoolIndex;
use crate::sinks::{
    EventSinkActor, EventSinkArguments, EventSinkMessage, SinkFeed, VisibilityActor, VisibilityArguments,
    VisibilityMessage,
};
use crate::timers::{TimersActor, TimersArguments, TimersMessage};

/// Bytes of log read at once.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Pause before a store that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Executions listed at once.
pub(super) const LIST_ROWS: usize = 1_000;
/// Longest wait for the checkpoint that leaves lost records behind.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Takes a shard and spawns its actors; it serves when this returned.
pub(super) async fn open(
    engine: &Arc<EngineContext>,
    shard: ShardId,
    myself: &ActorRef<ShardMessage>,
) -> Result<(Arc<ShardContext>, HashSet<ActorId>, FormatKeeper), EngineError> {
    engine.outages.forget(shard);
    let store = Arc::clone(&engine.parts.state);
    let (gate, lease) = acquire(engine, shard).await?;
    let mut sent = Vec::new();
    for (name, _) in &engine.parts.buses {
        let cursor = store.cursor(shard, name).await?;
        // From now on it keeps the log from being trimmed.
        store.set_cursor(shard, lease.epoch, name, cursor).await?;
        let mut spool = SpoolIndex::new(store.spool_extent(shard, name).await?);
        spool.sent(cursor);
        sent.push((cursor, spool));
    }
    // One that is configured no longer would keep it for ever.
    let names: Vec<&str> = engine.parts.buses.iter().map(|(name, _)| *name).collect();
    store.keep_cursors(shard, lease.epoch, &names).await?;
    let projected = engine.parts.visibility.projected(shard).await?;
    let mut tail = Tail::read(engine, &lease, projected).await?;
    let torn = std::mem::take(&mut tail.torn);
    let lists_are_ahead = projected > tail.last;
    let set_aside = store.quarantined(shard).await?;
    // A newer one has to be said first; see the keeper.
    let format = lease.format.min(*engine.format.borrow());
    let written = Arc::new(WrittenFormat::new(format.max(engine.options.reads.oldest)));
    let context = spawn_beside(engine, myself, &lease, gate, &sent, &written).await?;
    let mut resumed = tail.hand_over(&context).await?;
    let controls = controls::load(&context.context).await?;
    for (key, register) in controls.registers() {
        engine
            .breakers
            .heed(key, register.at, &register.command, register.setting);
    }
    context.context.controls.restore(controls);
    engine.quarantine.retain(|id, _| id.shard() != shard);
    for (id, reason) in set_aside {
        engine.quarantine.insert(id, reason);
        keep_room(&context.context, id).await?;
    }
    if let Some(torn) = torn {
        resumed.changed.extend(torn.set_aside.keys());
        leave_behind(&context, torn).await?;
    }
    if lists_are_ahead {
        correct_lists(&context.context, resumed.last).await?;
    }
    // What the last owner committed and never sent; by now the checkpointer knows whose it is.
    for bus in &context.events {
        bus.send_message(EventSinkMessage::Behind).map_err(|_| gone(shard))?;
    }
    engine
        .counters
        .recovering
        .fetch_add(resumed.running.len() as u64, Ordering::Relaxed);
    let summaries = project(&context.context, &resumed.changed).await?;
    let is_open_child = |summary: &&ExecutionSummary| summary.parent.is_some() && summary.ended_at.is_none();
    let children = summaries
        .iter()
        .filter(is_open_child)
        .map(|summary| summary.id)
        .collect();
    if !summaries.is_empty() {
        let position = resumed.last;
        let changed = VisibilityMessage::Changed { position, summaries };
        context.visibility.send_message(changed).map_err(|_| gone(shard))?;
    }
    tokio::spawn(resume(
        Arc::clone(&context.context),
        resumed.running,
        resumed.settled,
        children,
    ));
    let keeper = FormatKeeper::new(
        &context.context,
        lease.format,
        written,
        context.events,
        context.visibility,
    );
    Ok((context.context, context.actors, keeper))
}

/// What is set aside runs, where only so many may: it goes on when it is released. One that has ended makes room.
pub(super) async fn keep_room(shard: &ShardContext, id: ExecutionId) -> Result<(), EngineError> {
    match load(shard, id).await {
        Ok(Loaded::Found(found)) if found.state.has_room() => {
            rooms::runs(shard, &found.compiled.plan, &found.state);
        }
        Ok(Loaded::Found(found)) if found.state.status.is_terminal() => rooms::leave(shard, id),
        Ok(Loaded::Found(_) | Loaded::Missing | Loaded::Tombstone(_)) => {}
        // That is why it is set aside: nobody can tell whether it ran.
        Err(EngineError::Damaged(why)) => tracing::debug!(%id, why, "what is set aside is damaged"),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn gone(shard: ShardId) -> EngineError {
    EngineError::Unavailable(format!("an actor of shard {shard} is gone"))
}

/// The records that a checkpoint or a projection lacks.
struct Tail {
    records: Vec<(LogRecord, Vec<RecordItem>)>,
    checkpointed: LogPosition,
    projected: LogPosition,
    last: LogPosition,
    /// Where records were lost: executions that go on after them.
    torn: Option<Torn>,
}

struct Resumed {
    /// The tail says that they have unfinished work.
    running: Vec<ExecutionId>,
    /// The tail says that they have none, whatever the checkpoint says.
    settled: HashSet<ExecutionId>,
    /// Lists do not show their latest change yet.
    changed: Vec<ExecutionId>,
    last: LogPosition,
}

impl Tail {
    async fn read(engine: &EngineContext, lease: &Lease, projected: LogPosition) -> Result<Self, EngineError> {
        let mut records = Vec::new();
        let mut from = lease.checkpointed.min(projected).next();
        let accepted = engine.options.accept_loss.contains(&lease.shard);
        check_witness(engine, lease, projected, accepted)?;
        let mut lost = false;
        while from < lease.next {
            let read = engine.parts.state.read(lease.shard, from, READ_BYTES).await?;
            let Some(last) = read.last() else { break };
            from = last.position.next();
            for record in read {
                let items = match read_header_as(engine.options.reads, &record.bytes) {
                    Ok((_, items)) => items,
                    Err(error) if accepted || record.position <= lease.checkpointed => {
                        lost |= record.position > lease.checkpointed;
                        let (shard, position) = (lease.shard.0, record.position.0);
                        tracing::error!(shard, position, %error, "a record cannot be read: what only it held is lost");
                        Vec::new()
                    }
                    Err(error) => return Err(EngineError::Damaged(format!("record {}: {error}", record.position))),
                };
                records.push((record, items));
            }
        }
        let expected = lease.next.0.saturating_sub(1);
        let found = records
            .last()
            .map_or(lease.checkpointed.0, |(record, _)| record.position.0);
        if found < expected && lease.checkpointed.0 < expected {
            // Whoever was slow may have lost the shard meanwhile to an owner that checkpointed and trimmed it.
            engine
                .parts
                .state
                .renew(lease.shard, lease.epoch, engine.options.lease)
                .await?;
            return Err(EngineError::Damaged(format!(
                "the log ends at {found} instead of {expected}"
            )));
        }
        let (checkpointed, last) = (lease.checkpointed, LogPosition(expected));
        let torn = if lost {
            Some(cut(&*engine.parts.state, &mut records, checkpointed).await?)
        } else {
            None
        };
        Ok(Self {
            torn,
            records,
            checkpointed,
            projected,
            last,
        })
    }

    /// Gives the tail to the checkpointer and the timers.
    async fn hand_over(self, beside: &Beside) -> Result<Resumed, EngineError> {
        let shard = beside.context.shard;
        let reads = beside.context.engine.options.reads;
        let mut marks: HashMap<ExecutionId, Mark> = HashMap::new();
        let mut changed = HashSet::new();
        for (record, items) in self.records {
            if record.position > self.projected {
                for item in items.iter().filter(|item| !item.id.is_controls()) {
                    let entry = read_frames_as::<Entry>(reads, &record.bytes[item.frame.clone()]).next();
                    if entry.is_some_and(|entry| entry.is_ok_and(|entry| changes_summary(&entry))) {
                        changed.insert(item.id);
                    }
                }
            }
            if record.position <= self.checkpointed {
                continue;
            }
            let executions = items.iter().filter(|item| !item.id.is_controls());
            marks.extend(executions.map(|item| (item.id, item.mark)));
            let items = items.into_iter();
            let items = items.map(|item| {
                let head = head_of(&record.bytes, &item, beside);
                CheckpointItem {
                    item,
                    snapshot: None,
                    end: None,
                    head,
                }
            });
            let message = CheckpointerMessage::Committed {
                position: record.position,
                items: items.collect(),
                record: record.bytes.clone(),
            };
            beside.context.gauges.checkpointer.sent();
            beside
                .context
                .checkpointer
                .send_message(message)
                .map_err(|_| gone(shard))?;
        }
        let mut parked = Vec::new();
        let mut running = Vec::new();
        let mut settled = HashSet::new();
        for (id, mark) in marks {
            match mark {
                Mark::Running => running.push(id),
                Mark::Until(at) => parked.push((at, id)),
                Mark::Message | Mark::Ended => {}
            }
            if mark != Mark::Running {
                settled.insert(id);
            }
        }
        beside
            .context
            .timers
            .send_message(TimersMessage::Recovered(parked))
            .map_err(|_| gone(shard))?;
        Ok(Resumed {
            running,
            settled,
            changed: changed.into_iter().collect(),
            last: self.last,
        })
    }
}

/// Business key and ordinal of a first entry.
fn head_of(record: &[u8], item: &RecordItem, beside: &Beside) -> Option<(ExecutionId, u64)> {
    if item.seq != troupe_core::Seq(1) || item.id.is_controls() {
        return None;
    }
    let reads = beside.context.engine.options.reads;
    let entry = read_frames_as::<Entry>(reads, &record[item.frame.clone()])
        .next()?
        .ok()?;
    let started = entry.event.start()?;
    let (key, ordinal) = (started.execution_key.as_deref()?, started.key_ordinal?);
    let shards = beside.context.engine.parts.state.shards();
    let space = troupe_core::KeySpace::Business;
    Some((
        ExecutionId::derived(shards, space, started.workflow.as_str(), key, 0),
        ordinal,
    ))
}

struct Beside {
    context: Arc<ShardContext>,
    events: Vec<ActorRef<EventSinkMessage>>,
    visibility: ActorRef<VisibilityMessage>,
    actors: HashSet<ActorId>,
}

async fn spawn_beside(
    engine: &Arc<EngineContext>,
    myself: &ActorRef<ShardMessage>,
    lease: &Lease,
    gate: LeaseGate,
    sent: &[(LogPosition, SpoolIndex)],
    written: &Arc<WrittenFormat>,
) -> Result<Beside, EngineError> {
    let (shard, epoch) = (lease.shard, lease.epoch);
    let (running, waiting) = engine.parts.state.live_counts(shard).await?;
    let last = LogPosition(lease.next.0.saturating_sub(1));
    let progress = |(sent, _): &(LogPosition, SpoolIndex)| Arc::new(SinkProgress::new(last, *sent));
    let gauges = ShardGauges::new(running + waiting, sent.iter().map(progress).collect());
    let gauges = Arc::new(gauges);
    let spawn_failed = |error: ractor::SpawnErr| EngineError::Unavailable(error.to_string());
    let cell = myself.get_cell();
    let controls = Arc::new(ShardControls::default().with(engine.options.mutants));
    let arguments = TimersArguments {
        engine: Arc::clone(engine),
        shard,
        epoch,
        controls: Arc::clone(&controls),
        supervisor: myself.clone(),
    };
    let (timers, _) = TimersActor::spawn_linked(None, TimersActor, arguments, cell.clone())
        .await
        .map_err(spawn_failed)?;
    let arguments = VisibilityArguments {
        engine: Arc::clone(engine),
        shard,
    };
    let (visibility, _) = VisibilityActor::spawn_linked(None, VisibilityActor, arguments, cell.clone())
        .await
        .map_err(spawn_failed)?;
    let arguments = CheckpointerArguments {
        engine: Arc::clone(engine),
        shard,
        epoch,
        supervisor: myself.clone(),
        timers: timers.clone(),
        visibility: visibility.clone(),
        gauges: Arc::clone(&gauges),
        format: Arc::clone(written),
    };
    let (checkpointer, _) = CheckpointerActor::spawn_linked(None, CheckpointerActor, arguments, cell.clone())
        .await
        .map_err(spawn_failed)?;
    let (mut events, mut feeds) = (Vec::new(), Vec::new());
    for (bus, ((cursor, spool), progress)) in sent.iter().zip(&gauges.events).enumerate() {
        let arguments = EventSinkArguments {
            engine: Arc::clone(engine),
            shard,
            epoch,
            bus,
            cursor: *cursor,
            spool: spool.clone(),
            checkpointer: checkpointer.clone(),
            progress: Arc::clone(progress),
            format: Arc::clone(written),
        };
        let (sink, _) = EventSinkActor::spawn_linked(None, EventSinkActor, arguments, cell.clone())
            .await
            .map_err(spawn_failed)?;
        feeds.push(SinkFeed::new(sink.clone(), Arc::clone(progress)));
        events.push(sink);
    }
    let told = CheckpointerMessage::Sinks(events.clone());
    checkpointer.send_message(told).map_err(|_| gone(shard))?;
    let arguments = CommitterArguments {
        engine: Arc::clone(engine),
        shard,
        epoch,
        controls: Arc::clone(&controls),
        next: lease.next,
        supervisor: myself.clone(),
        checkpointer: checkpointer.clone(),
        events: feeds,
        visibility: visibility.clone(),
        gauges: Arc::clone(&gauges),
        format: Arc::clone(written),
    };
    let (committer, _) = CommitterActor::spawn_linked(None, CommitterActor, arguments, cell)
        .await
        .map_err(spawn_failed)?;
    let beside = [
        committer.get_id(),
        checkpointer.get_id(),
        timers.get_id(),
        visibility.get_id(),
    ];
    let actors = beside
        .into_iter()
        .chain(events.iter().map(|sink| sink.get_id()))
        .collect();
    let supervisor = myself.clone();
    let engine = Arc::clone(engine);
    let context = ShardContext {
        engine,
        shard,
        epoch,
        gate,
        released: lease.released,
        leaving: AtomicBool::new(false),
        attempts_running: AtomicU64::new(0),
        recovered: AtomicBool::new(false),
        failed: DashSet::new(),
        mail: Mail::default(),
        controls,
        gauges,
        supervisor,
        committer,
        checkpointer,
        timers,
    };
    Ok(Beside {
        context: Arc::new(context),
        events,
        visibility,
        actors,
    })
}

/// Sets torn executions aside and waits for a checkpoint past the lost records, so that the next start need not accept
/// the same loss again, and nothing new can be taken for what was dropped.
async fn leave_behind(beside: &Beside, torn: Torn) -> Result<(), EngineError> {
    let ShardContext {
        engine, shard, epoch, ..
    } = &*beside.context;
    for id in &torn.gone {
        tracing::error!(%id, "an execution is lost altogether: it began in a lost record");
    }
    // Lists knew later states than those that are left, and would keep them.
    let ids: Vec<ExecutionId> = torn.set_aside.keys().chain(&torn.gone).copied().collect();
    engine.parts.visibility.forget(&ids).await?;
    for (id, reason) in torn.set_aside {
        tracing::error!(%id, reason, "an execution is set aside");
        engine
            .parts
            .state
            .set_quarantine(*shard, *epoch, id, Some(&reason))
            .await?;
        engine.quarantine.insert(id, reason);
    }
    let (flushed, flush) = oneshot::channel();
    beside
        .context
        .checkpointer
        .send_message(CheckpointerMessage::Flush(flushed))
        .map_err(|_| gone(*shard))?;
    match tokio::time::timeout(SETTLE_MAX, flush).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(gone(*shard)),
        Err(_) => Err(EngineError::Damaged(
            "no checkpoint can be written past the lost records".into(),
        )),
    }
}

/// Summaries of executions whose latest change was committed but not projected.
async fn project(context: &Arc<ShardContext>, changed: &[ExecutionId]) -> Result<Vec<ExecutionSummary>, EngineError> {
    let mut summaries = Vec::with_capacity(changed.len());
    for id in changed {
        match load(context, *id).await {
            Ok(Loaded::Found(found)) => summaries.push(summary(&found.state)),
            Ok(Loaded::Missing | Loaded::Tombstone(_)) => {}
            Err(error @ (EngineError::Unavailable(_) | EngineError::Elsewhere(_) | EngineError::Fenced)) => {
                return Err(error);
            }
            Err(error) => tracing::error!(%id, %error, "an execution cannot be listed"),
        }
    }
    Ok(summaries)
}

/// Resumes what has unfinished work, a bounded number at once.
async fn resume(
    context: Arc<ShardContext>,
    running: Vec<ExecutionId>,
    settled: HashSet<ExecutionId>,
    children: Vec<ExecutionId>,
) {
    let engine = &context.engine;
    let known: HashSet<ExecutionId> = running.iter().copied().collect();
    let permits = (engine.options.recovery_max / engine.shards.len().max(1)).max(2);
    let budget = Arc::new(Semaphore::new(permits));
    for id in running {
        if !resume_one(&context, &budget, id).await {
            return;
        }
        engine.counters.recovering.fetch_sub(1, Ordering::Relaxed);
    }
    let mut after = None;
    loop {
        let listed = match engine.parts.state.running(context.shard, after, LIST_ROWS).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(shard = context.shard.0, %error, "recovery waits for the store");
                tokio::time::sleep(ASK_AGAIN).await;
                if context.gate.is_closed() {
                    return;
                }
                continue;
            }
        };
        let Some(last) = listed.last() else { break };
        after = Some(*last);
        let resumed: Vec<_> = listed
            .into_iter()
            .filter(|id| !settled.contains(id) && !known.contains(id))
            .collect();
        engine
            .counters
            .recovering
            .fetch_add(resumed.len() as u64, Ordering::Relaxed);
        for id in resumed {
            if !resume_one(&context, &budget, id).await {
                return;
            }
            engine.counters.recovering.fetch_sub(1, Ordering::Relaxed);
        }
    }
    // Whoever is being loaded holds a permit.
    let all = u32::try_from(permits).unwrap_or(u32::MAX);
    drop(budget.acquire_many(all).await);
    while let Err(error) = rooms::reconcile(&context).await {
        tracing::debug!(shard = context.shard.0, %error, "tickets of the last owner cannot be read");
        tokio::time::sleep(ASK_AGAIN).await;
        if context.gate.is_closed() {
            return;
        }
    }
    context.recovered.store(true, Ordering::Release);
    resume_children(&context, &budget, children).await;
}

/// Children that only wait are loaded too, and ask their parents: what those told them last may be lost. `changed` are those
/// that lists do not show yet.
async fn resume_children(context: &Arc<ShardContext>, budget: &Arc<Semaphore>, changed: Vec<ExecutionId>) {
    for id in changed {
        if !resume_one(context, budget, id).await {
            return;
        }
    }
    let mut query = ExecutionQuery {
        status: Some("running".to_owned()),
        id_prefix: Some(format!("{:04x}", context.shard.0)),
        children: true,
        limit: LIST_ROWS,
        ..ExecutionQuery::default()
    };
    loop {
        let page = match context.engine.parts.visibility.list(query.clone()).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(shard = context.shard.0, %error, "children wait for the lists");
                tokio::time::sleep(ASK_AGAIN).await;
                if context.gate.is_closed() {
                    return;
                }
                continue;
            }
        };
        for child in page.items {
            if !resume_one(context, budget, child.id).await {
                return;
            }
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return,
        }
    }
}

async fn resume_one(context: &Arc<ShardContext>, budget: &Arc<Semaphore>, id: ExecutionId) -> bool {
    if context.gate.is_closed() {
        return false;
    }
    let Ok(permit) = Arc::clone(budget).acquire_owned().await else {
        return false;
    };
    deliver(context, id, ExecutionMessage::Recover(permit)).await;
    true
}

//! Takes a shard: lease, tail of the log, the actors beside the executions; what is unfinished is resumed behind that.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use dashmap::DashSet;
use ractor::{Actor, ActorId, ActorRef};
use troupe_core::{ExecutionId, LogPosition, ShardId};
use troupe_ports::{ExecutionSummary, Lease};

use super::acquire::acquire;
use super::actor::ShardMessage;
use super::format::{FormatKeeper, begun_in};
use super::lists::summaries;
use super::loss::{gone, leave_behind};
use super::mail::Mail;
use super::recovering::Recovering;
use super::resume::resume;
use super::tail::Tail;
use super::went_back::{correct_lists, list_stored, rebuild_lists};
use crate::checkpointer::{CheckpointerActor, CheckpointerArguments, CheckpointerMessage};
use crate::committer::kept::Kept;
use crate::committer::{CommitterActor, CommitterArguments};
use crate::context::{EngineContext, LeaseGate, ShardContext};
use crate::controls::{self, ShardControls};
use crate::error::EngineError;
use crate::execution::load::{Loaded, load};
use crate::format::WrittenFormat;
use crate::gauges::{ShardGauges, SinkProgress};
use crate::rooms;
use crate::sinks::spool::SpoolIndex;
use crate::sinks::{
    EventSinkActor, EventSinkArguments, EventSinkMessage, SinkFeed, VisibilityActor, VisibilityArguments,
    VisibilityMessage,
};
use crate::task::supervised;
use crate::timers::{TimersActor, TimersArguments};

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
    let (lists_are_ahead, lists_are_behind) = (projected > tail.last, tail.lists_are_behind);
    let set_aside = store.quarantined(shard).await?;
    let written = Arc::new(WrittenFormat::new(begun_in(lease.format, *engine.format.borrow())));
    let kept = store.may_come_back_older().then(|| tail.kept(&lease));
    let context = spawn_beside(engine, myself, (&lease, kept), gate, &sent, &written).await?;
    let mut resumed = tail.hand_over(&context.context).await?;
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
        leave_behind(&context.context, torn).await?;
    }
    if lists_are_ahead || lease.lost > 0 {
        correct_lists(&context.context, resumed.last).await?;
    }
    if lists_are_behind {
        rebuild_lists(&context.context, resumed.last).await?;
    }
    if lease.lost > 0 {
        list_stored(&context.context).await?;
        // What is stored may be newer than what the tail says.
        resumed.settled.clear();
    }
    // What the last owner committed and never sent; by now the checkpointer knows whose it is.
    for bus in &context.events {
        bus.send_message(EventSinkMessage::Behind).map_err(|_| gone(shard))?;
    }
    let mut recovering = Recovering::new(&engine.counters.recovering);
    recovering.found(resumed.running.len());
    let summaries = summaries(&context.context, &resumed.changed).await?;
    let is_open_child = |summary: &&ExecutionSummary| summary.parent.is_some() && summary.ended_at.is_none();
    let children = summaries
        .iter()
        .filter(is_open_child)
        .map(|summary| summary.id)
        .collect();
    if !summaries.is_empty() {
        let position = resumed.last;
        let lists = &context.context.gauges.lists;
        // Bytes are counted from now on.
        lists.committed(position, 0, true, engine.now());
        let changed = VisibilityMessage::Changed { position, summaries };
        context.visibility.send_message(changed).map_err(|_| gone(shard))?;
    }
    let recovering = resume(
        Arc::clone(&context.context),
        recovering,
        resumed.running,
        resumed.settled,
        children,
    );
    tokio::spawn(supervised("recovering what runs", myself.clone(), recovering));
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

struct Beside {
    context: Arc<ShardContext>,
    events: Vec<ActorRef<EventSinkMessage>>,
    visibility: ActorRef<VisibilityMessage>,
    actors: HashSet<ActorId>,
}

async fn spawn_beside(
    engine: &Arc<EngineContext>,
    myself: &ActorRef<ShardMessage>,
    (lease, kept): (&Lease, Option<Kept>),
    gate: LeaseGate,
    sent: &[(LogPosition, SpoolIndex)],
    written: &Arc<WrittenFormat>,
) -> Result<Beside, EngineError> {
    let (shard, epoch) = (lease.shard, lease.epoch);
    let (running, waiting) = engine.parts.state.live_counts(shard).await?;
    let last = LogPosition(lease.next.0.saturating_sub(1));
    let progress = |(sent, _): &(LogPosition, SpoolIndex)| Arc::new(SinkProgress::new(last, *sent));
    let gauges = ShardGauges::new(running + waiting, last, sent.iter().map(progress).collect());
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
        epoch: engine.issued(epoch),
        progress: Arc::clone(&gauges.lists),
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
            supervisor: myself.clone(),
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
        kept,
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

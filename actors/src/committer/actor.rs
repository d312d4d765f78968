//! The committer's shell.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::control::ControlEntry;
use troupe_core::{Epoch, LogPosition, ShardId};
use troupe_ports::{AppendError, CommitId, LogEnd, LogRecord, StoreError};

use super::kept::{Kept, Lacks};
use super::machine::{Action, Append, Batch, CommitterMachine};
use crate::checkpointer::{CheckpointItem, CheckpointerMessage};
use crate::context::EngineContext;
use crate::controls::ShardControls;
use crate::evaluation::CompiledPlan;
use crate::execution::ExecutionMessage;
use crate::format::WrittenFormat;
use crate::gauges::ShardGauges;
use crate::lease::{later_epoch, named_since};
use crate::shard::ShardMessage;
use crate::sinks::{EventItem, EventSinkMessage, SinkFeed, VisibilityMessage};

/// Pause before a store that does not answer is given a record again.
const RESTORE_AGAIN: Duration = Duration::from_millis(50);

/// Who is told of a durable entry, and what its sinks need.
#[derive(Debug)]
pub struct Notify {
    /// The execution's actor.
    pub actor: ActorRef<ExecutionMessage>,
    /// Its plan.
    pub compiled: Arc<CompiledPlan>,
    /// Trace context of its start.
    pub trace_parent: Option<Arc<str>>,
}

/// Who is told of a durable control, and what the checkpoint keeps of it.
#[derive(Debug)]
pub struct ControlNotify {
    /// Every control of the shard with this one, encoded.
    pub set: Bytes,
    /// Told once the control is in force.
    pub reply: oneshot::Sender<()>,
}

/// What a committer hears.
#[derive(Debug)]
pub enum CommitterMessage {
    /// Entries of one step; they go into one record.
    Append(smallvec::SmallVec<[Append<Notify>; 1]>),
    /// Entries that may wait for those of another execution; whoever sends them makes a [`HeldCommit`] right after.
    Held(smallvec::SmallVec<[Append<Notify>; 1]>),
    /// Entries that were held wait no longer.
    Go,
    /// An entry of the shard's controls.
    Control(Box<ControlEntry>, ControlNotify),
    /// Append what has gathered. Queues behind what arrived while the last append was in flight.
    Flush,
    /// Answer once everything that was handed over before is durable.
    Barrier(oneshot::Sender<()>),
    /// Answers whether the store lacks something of this owner's.
    Look(oneshot::Sender<bool>),
    /// The store came back older: append again what its log lacks, and nothing else any more. Answers how many records those were.
    Restore(oneshot::Sender<Result<u64, NotRestored>>),
}

/// Keeps a committer from writing entries that were just handed over, so that what another actor makes of them can go into
/// the same record. Dropped, wherever that is, it lets them go; whatever else is written takes them along.
#[derive(Debug)]
pub struct HeldCommit(ActorRef<CommitterMessage>);

impl HeldCommit {
    /// Hands over entries and holds them; none when the shard is lost.
    #[must_use]
    pub fn new(
        committer: &ActorRef<CommitterMessage>,
        appends: smallvec::SmallVec<[Append<Notify>; 1]>,
    ) -> Option<Self> {
        committer.send_message(CommitterMessage::Held(appends)).ok()?;
        Some(Self(committer.clone()))
    }
}

impl Drop for HeldCommit {
    fn drop(&mut self) {
        // A shard that is lost writes nothing.
        self.0.send_message(CommitterMessage::Go).ok();
    }
}

/// Why a store that came back older was not given all that it lacks.
#[derive(Debug)]
pub enum NotRestored {
    /// Another owner was named, or has it.
    Fenced,
    /// Something is kept no more; why, for people.
    Lost(String),
}

/// Why an attempt at that did not come to its end.
enum NotGiven {
    Store(StoreError),
    Lost(String),
}

impl From<StoreError> for NotGiven {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<AppendError> for NotGiven {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Store(error) => Self::Store(error),
            // Another server took the record than the one that was asked, or it was appended without an answer: ask again.
            AppendError::Conflict { next } => {
                Self::Store(StoreError::Unavailable(format!("its log goes on at {next}")))
            }
        }
    }
}

/// What a committer is made of.
#[derive(Debug)]
pub struct CommitterArguments {
    /// The engine.
    pub engine: Arc<EngineContext>,
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Where the first append goes.
    pub next: LogPosition,
    /// The latest records before that, where the store may come back older.
    pub kept: Option<Kept>,
    /// Told when the shard is lost.
    pub supervisor: ActorRef<ShardMessage>,
    /// Told of each record.
    pub checkpointer: ActorRef<CheckpointerMessage>,
    /// Told of each record.
    pub events: Vec<SinkFeed<EventSinkMessage>>,
    /// Controls in force.
    pub controls: Arc<ShardControls>,
    /// Told of changed summaries.
    pub visibility: ActorRef<VisibilityMessage>,
    /// Counts.
    pub gauges: Arc<ShardGauges>,
    /// What records are written in.
    pub format: Arc<WrittenFormat>,
}

/// Appends batches to the shard log, one at a time.
#[derive(Debug)]
pub struct CommitterActor;

/// What a committer keeps.
#[derive(Debug)]
pub struct CommitterState {
    arguments: CommitterArguments,
    machine: CommitterMachine<Notify, ControlNotify>,
    stopped: bool,
}

impl Actor for CommitterActor {
    type Msg = CommitterMessage;
    type State = CommitterState;
    type Arguments = CommitterArguments;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        mut arguments: CommitterArguments,
    ) -> Result<CommitterState, ActorProcessingErr> {
        let mutants = arguments.engine.options.mutants;
        let machine = CommitterMachine::new(arguments.shard, arguments.epoch, arguments.next).with(mutants);
        let machine = machine.writing(Arc::clone(&arguments.format));
        let machine = machine.keeping(arguments.kept.take());
        Ok(CommitterState {
            arguments,
            machine,
            stopped: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: CommitterMessage,
        state: &mut CommitterState,
    ) -> Result<(), ActorProcessingErr> {
        if let CommitterMessage::Append(_) | CommitterMessage::Held(_) = message {
            state.arguments.gauges.committer.taken();
        }
        if let CommitterMessage::Restore(reply) = message {
            state.stopped = true;
            let restored = Box::pin(state.restore()).await;
            // Whoever asked may be gone; nothing depends on the answer.
            reply.send(restored).ok();
            return Ok(());
        }
        if let CommitterMessage::Look(reply) = message {
            let is_older = Box::pin(state.is_older()).await;
            // Whoever asked may be gone; nothing depends on the answer.
            reply.send(is_older).ok();
            return Ok(());
        }
        if state.stopped {
            return Ok(());
        }
        match message {
            CommitterMessage::Append(appends) => {
                if state.machine.gather(appends) {
                    myself.send_message(CommitterMessage::Flush)?;
                }
            }
            CommitterMessage::Control(entry, notify) => {
                if state.machine.gather_control(*entry, notify) {
                    myself.send_message(CommitterMessage::Flush)?;
                }
            }
            CommitterMessage::Held(appends) => state.machine.hold(appends),
            CommitterMessage::Go => {
                if state.machine.go() {
                    myself.send_message(CommitterMessage::Flush)?;
                }
            }
            // On the heap: the future of a message is moved, whole, before it is polled, and most messages only hand over entries.
            CommitterMessage::Flush => Box::pin(state.flush()).await,
            CommitterMessage::Barrier(reply) => {
                Box::pin(state.flush()).await;
                // One that has stopped has not made everything durable: whoever asks hears that it is gone.
                if !state.stopped {
                    // Whoever asked may be gone; nothing depends on it.
                    reply.send(()).ok();
                }
            }
            // Above: they are done also by one that has stopped.
            CommitterMessage::Look(_) | CommitterMessage::Restore(_) => {}
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        _: SupervisionEvent,
        _: &mut CommitterState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl CommitterState {
    async fn flush(&mut self) {
        let begun = Instant::now();
        let mut action = self.machine.begin();
        loop {
            let arguments = &self.arguments;
            let store = &arguments.engine.parts.state;
            action = match action {
                Action::Idle => return,
                Action::Append {
                    position,
                    commit,
                    record,
                } => {
                    if arguments.engine.options.mutants.publish_before_commit {
                        self.publish_early(position, record.len());
                    }
                    let answer = store
                        .append(arguments.shard, arguments.epoch, position, commit, record)
                        .await;
                    let (outage, who) = (&arguments.engine.outages.appends, u64::from(arguments.shard.0));
                    match &answer {
                        Ok(()) => outage.over(who),
                        Err(error) => outage.failed(who, error),
                    }
                    self.machine.appended(answer)
                }
                Action::Probe(position) => {
                    let found = self.probe(position).await;
                    self.machine.probed(found)
                }
                Action::Wait(wait_ms) => {
                    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                    // What answers next may be a replica that took over and does not know of an owner that was named since.
                    if later_epoch(&arguments.engine, arguments.shard, arguments.epoch)
                        .await
                        .is_some()
                    {
                        return self.stop(ShardMessage::Fenced);
                    }
                    self.machine.retry()
                }
                Action::Committed(batch) => return self.release(batch, begun.elapsed()),
                Action::Fenced => return self.stop(ShardMessage::Fenced),
                Action::WentBack(why) => return self.stop(ShardMessage::WentBack(why)),
                Action::Halt(why) => return self.stop(ShardMessage::Halt(why)),
            };
        }
    }

    /// Whether the store lacks something that this owner was told is durable, as far as its records are kept. The last one is appended as if
    /// it were missing. Another owner's store is not looked at.
    async fn is_older(&self) -> bool {
        let CommitterArguments {
            engine, shard, epoch, ..
        } = &self.arguments;
        let Some(kept) = self.machine.kept() else { return false };
        let Some(newest) = kept.newest() else { return false };
        loop {
            if later_epoch(engine, *shard, *epoch).await.is_some() {
                return false;
            }
            let LogRecord {
                position,
                commit,
                bytes,
            } = newest.clone();
            let answer = engine.parts.state.append(*shard, *epoch, position, commit, bytes).await;
            match answer {
                Ok(()) | Err(AppendError::Store(StoreError::WentBack(_))) => return true,
                Err(AppendError::Conflict { next }) => return next <= position,
                // Whoever waits for the answer gives up by itself.
                Err(AppendError::Store(StoreError::Unavailable(_))) => tokio::time::sleep(RESTORE_AGAIN).await,
                Err(AppendError::Store(StoreError::Fenced { .. } | StoreError::Held(_) | StoreError::Damaged(_))) => {
                    return false;
                }
            }
        }
    }

    /// Gives the store what it lacks of this owner's, however long it is away and however often it goes back meanwhile; how many records
    /// those were. Nothing is written once another owner was named.
    async fn restore(&mut self) -> Result<u64, NotRestored> {
        self.machine.end();
        let mut appended = 0;
        loop {
            let error = match self.give_back(&mut appended).await {
                Ok(()) => return Ok(appended),
                Err(NotGiven::Lost(why) | NotGiven::Store(StoreError::Damaged(why))) => {
                    return Err(NotRestored::Lost(why));
                }
                Err(NotGiven::Store(StoreError::Fenced { .. })) => return Err(NotRestored::Fenced),
                Err(NotGiven::Store(error)) => error,
            };
            tracing::debug!(shard = self.arguments.shard.0, %error, "the store is given what it lacks once more");
            // Whoever waits for the answer gives up by itself.
            tokio::time::sleep(RESTORE_AGAIN).await;
        }
    }

    /// The shard itself, then the values that records may refer to, then the records that the log lacks, which are counted.
    async fn give_back(&self, appended: &mut u64) -> Result<(), NotGiven> {
        let CommitterArguments {
            engine, shard, epoch, ..
        } = &self.arguments;
        let kept = self.machine.kept();
        let kept = kept.ok_or_else(|| NotGiven::Lost("no records are kept".to_owned()))?;
        let mut end = self.take_back().await?;
        engine.blobs.restore(*shard, *epoch, engine.now()).await?;
        loop {
            let lacking = match kept.lacks(end).map_err(NotGiven::Lost)? {
                Lacks::Records(lacking) if lacking.len() == 0 => return Ok(()),
                Lacks::Records(lacking) => lacking,
                // Whoever was fenced has written behind it, where the store had forgotten who came later.
                Lacks::NothingBehind(newest) => {
                    if self.probe(newest.position).await? == Some(newest.commit) {
                        return Ok(());
                    }
                    let why = format!("record {} of its log is not this owner's", newest.position);
                    return Err(NotGiven::Lost(why));
                }
            };
            for record in lacking {
                let LogRecord {
                    position,
                    commit,
                    bytes,
                } = record.clone();
                let store = &engine.parts.state;
                store.give_back(*shard, *epoch, position, commit, bytes).await?;
                *appended += 1;
            }
            // What answers next may know of less than what answered before.
            end = self.take_back().await?;
        }
    }

    /// Where the log ends, of a store that knows this owner again. Whoever orders the owners is asked first.
    async fn take_back(&self) -> Result<LogEnd, StoreError> {
        let CommitterArguments {
            engine, shard, epoch, ..
        } = &self.arguments;
        let (store, options) = (&engine.parts.state, &engine.options);
        match named_since(engine, *shard, *epoch).await {
            Ok(None) => store.take_back(*shard, *epoch, &options.owner, options.lease).await,
            Ok(Some(owner)) => Err(StoreError::Fenced {
                shard: *shard,
                owner,
                ours: *epoch,
            }),
            Err(why) => Err(StoreError::Unavailable(why)),
        }
    }

    /// A planted fault; see [`Mutants`](crate::options::Mutants).
    fn publish_early(&self, position: LogPosition, bytes: usize) {
        let items = self.machine.in_flight().iter().map(|append| EventItem {
            id: append.id,
            entry: append.draft.entry.clone(),
            compiled: Arc::clone(&append.notify.compiled),
            trace_parent: append.notify.trace_parent.clone(),
        });
        let items: Arc<[EventItem]> = items.collect();
        for bus in &self.arguments.events {
            let message = || EventSinkMessage::Committed {
                position,
                items: Arc::clone(&items),
                controls: Arc::from([]),
                bytes,
            };
            if !bus.offer(position, bytes, message) {
                tracing::warn!(shard = self.arguments.shard.0, "the sink is gone");
            }
        }
    }

    async fn probe(&self, position: LogPosition) -> Result<Option<CommitId>, StoreError> {
        let tail = self
            .arguments
            .engine
            .parts
            .state
            .read(self.arguments.shard, position, 1)
            .await?;
        Ok(tail
            .first()
            .filter(|record| record.position == position)
            .map(|record| record.commit))
    }

    fn stop(&mut self, why: ShardMessage) {
        self.stopped = true;
        if self.arguments.supervisor.send_message(why).is_err() {
            tracing::warn!(shard = self.arguments.shard.0, "the shard is already gone");
        }
    }

    /// Hands a durable batch to everyone who waited: first those who keep it, then those who act on it.
    fn release(&mut self, batch: Batch<Notify, ControlNotify>, took: Duration) {
        let arguments = &self.arguments;
        let engine = &arguments.engine;
        let reached = arguments.gauges.checkpointed.load(Ordering::Relaxed);
        self.machine.checkpointed(LogPosition(reached));
        engine.counters.committed(batch.items.len());
        engine.metrics.committed(took, batch.items.len());
        let Batch {
            position,
            record,
            items,
            appends,
            controls,
        } = batch;
        let mut items = items.into_iter();
        let mut kept = Vec::with_capacity(items.len());
        let mut summaries = Vec::new();
        let mut events = Vec::with_capacity(items.len());
        let mut told: Vec<(ActorRef<ExecutionMessage>, troupe_core::Seq)> = Vec::with_capacity(items.len());
        for (item, append) in items.by_ref().take(appends.len()).zip(appends) {
            let draft = *append.draft;
            let seq = draft.entry.seq;
            kept.push(CheckpointItem {
                item,
                snapshot: draft.snapshot,
                end: draft.end,
                head: draft.head,
            });
            summaries.extend(draft.summary.map(|summary| *summary));
            events.push(EventItem {
                id: append.id,
                entry: draft.entry,
                compiled: append.notify.compiled,
                trace_parent: append.notify.trace_parent,
            });
            match told.last_mut() {
                Some((actor, last)) if *actor == append.notify.actor => *last = seq,
                _ => told.push((append.notify.actor, seq)),
            }
        }
        let mut changed = Vec::with_capacity(controls.len());
        for (item, (entry, notify)) in items.zip(controls) {
            kept.push(CheckpointItem {
                item,
                snapshot: Some(notify.set),
                end: None,
                head: None,
            });
            arguments.controls.apply(&entry);
            if !entry.only_id {
                let breakers = &arguments.engine.breakers;
                breakers.heed(&entry.key, entry.at, &entry.command, entry.setting);
                changed.push(entry);
            }
            // Whoever asked may be gone; nothing depends on the answer.
            notify.reply.send(()).ok();
        }
        let (bytes, is_listed) = (record.len(), !summaries.is_empty());
        arguments
            .gauges
            .lists
            .committed(position, bytes, is_listed, engine.now());
        // The projection hears first: the checkpointer asks it to catch up before it trims.
        let mut lost = false;
        if is_listed {
            lost |= arguments
                .visibility
                .send_message(VisibilityMessage::Changed { position, summaries })
                .is_err();
        }
        let kept = CheckpointerMessage::Committed {
            position,
            record,
            items: kept,
        };
        arguments.gauges.checkpointer.sent();
        lost |= arguments.checkpointer.send_message(kept).is_err();
        let (items, controls): (Arc<[EventItem]>, Arc<[ControlEntry]>) = (events.into(), changed.into());
        for bus in &arguments.events {
            lost |= !bus.offer(position, bytes, || EventSinkMessage::Committed {
                position,
                items: Arc::clone(&items),
                controls: Arc::clone(&controls),
                bytes,
            });
        }
        for (actor, seq) in told {
            // An execution that was killed meanwhile is rebuilt from the store, which has the entry.
            actor.send_message(ExecutionMessage::Durable(seq)).ok();
        }
        if lost {
            tracing::error!(shard = arguments.shard.0, "an actor beside the committer is gone");
            self.stop(ShardMessage::Halt("an actor beside the committer is gone".into()));
        }
    }
}

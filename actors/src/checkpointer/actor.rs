//! The checkpointer's shell.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId};

use super::expire::expire_regularly;
use super::machine::{CheckpointItem, CheckpointerMachine, Pending};
use super::write::{Failed, write};
use crate::context::EngineContext;
use crate::format::WrittenFormat;
use crate::gauges::ShardGauges;
use crate::shard::ShardMessage;
use crate::sinks::{EventSinkMessage, VisibilityMessage};
use crate::task::{ShardTask, supervised, text_of};
use crate::timers::TimersMessage;

/// Least bytes of log worth a checkpoint, however many shards share the limit.
const BYTES_MIN: usize = 256 * 1024;

/// What a checkpointer hears.
#[derive(Debug)]
pub enum CheckpointerMessage {
    /// A record is durable.
    Committed {
        /// Where it stands.
        position: LogPosition,
        /// The record.
        record: Bytes,
        /// Its entries.
        items: Vec<CheckpointItem>,
    },
    /// What may the store lack of this execution?
    Lookup(ExecutionId, oneshot::Sender<Option<Pending>>),
    /// Of which of these may the store lack something?
    Held(Vec<ExecutionId>, oneshot::Sender<HashSet<ExecutionId>>),
    /// The latest ordinal of a business key, if the store may lack it.
    Head(ExecutionId, oneshot::Sender<Option<u64>>),
    /// A checkpoint may be due.
    Tick,
    /// The checkpoint was written.
    Written,
    /// It was refused for good.
    Failed,
    /// Who is told of each checkpoint.
    Sinks(Vec<ActorRef<EventSinkMessage>>),
    /// Write everything now and answer when it is in the store.
    Flush(oneshot::Sender<()>),
}

/// What a checkpointer is made of.
#[derive(Clone, Debug)]
pub struct CheckpointerArguments {
    /// The engine.
    pub engine: Arc<EngineContext>,
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Told when the shard is lost.
    pub supervisor: ActorRef<ShardMessage>,
    /// Told of each checkpoint.
    pub timers: ActorRef<TimersMessage>,
    /// Asked to catch up before the log is trimmed.
    pub visibility: ActorRef<VisibilityMessage>,
    /// Counts.
    pub gauges: Arc<ShardGauges>,
    /// What checkpoints are written in.
    pub format: Arc<WrittenFormat>,
}

/// Keeps what the log alone holds, and writes checkpoints.
#[derive(Debug)]
pub struct CheckpointerActor;

/// What a checkpointer keeps.
#[derive(Debug)]
pub struct CheckpointerState {
    arguments: CheckpointerArguments,
    machine: CheckpointerMachine,
    tick: Option<ShardTask>,
    writing: Option<ShardTask>,
    flushing: Vec<oneshot::Sender<()>>,
    sinks: Vec<ActorRef<EventSinkMessage>>,
    counted: bool,
    /// A checkpoint was refused for good; the shard was told.
    failed: bool,
    _expiring: ShardTask,
}

impl Actor for CheckpointerActor {
    type Msg = CheckpointerMessage;
    type State = CheckpointerState;
    type Arguments = CheckpointerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: CheckpointerArguments,
    ) -> Result<CheckpointerState, ActorProcessingErr> {
        let options = &arguments.engine.options;
        let bytes_max = (options.checkpoint_bytes / arguments.engine.shards.len().max(1)).max(BYTES_MIN);
        let interval_ms = u64::try_from(options.checkpoint_interval.as_millis()).unwrap_or(u64::MAX);
        let machine = CheckpointerMachine::new(bytes_max, interval_ms).with(options.mutants);
        let expiring = expire_regularly(arguments.clone(), myself);
        let expiring = supervised("expiring archives", arguments.supervisor.clone(), expiring);
        Ok(CheckpointerState {
            arguments,
            machine,
            tick: None,
            writing: None,
            flushing: Vec::new(),
            sinks: Vec::new(),
            counted: false,
            failed: false,
            _expiring: ShardTask::spawn(expiring),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: CheckpointerMessage,
        state: &mut CheckpointerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CheckpointerMessage::Committed {
                position,
                record,
                items,
            } => {
                let engine = &state.arguments.engine;
                engine
                    .counters
                    .uncheckpointed_bytes
                    .fetch_add(record.len() as u64, Ordering::Relaxed);
                let live = state.machine.committed(position, &record, items, engine.now());
                state.arguments.gauges.checkpointer.taken();
                state.arguments.gauges.live_changed(live);
            }
            // Whoever asked may be gone; nothing depends on the answer.
            CheckpointerMessage::Lookup(id, reply) => drop(reply.send(state.machine.pending(id))),
            CheckpointerMessage::Held(mut ids, reply) => {
                ids.retain(|id| state.machine.holds(*id));
                drop(reply.send(ids.into_iter().collect()));
            }
            CheckpointerMessage::Head(key, reply) => drop(reply.send(state.machine.head(key))),
            CheckpointerMessage::Tick => state.tick = None,
            CheckpointerMessage::Written => state.written().await?,
            CheckpointerMessage::Sinks(sinks) => state.sinks = sinks,
            // Nothing is written any more: whoever asks hears that it is gone.
            CheckpointerMessage::Flush(_) if state.failed => {}
            CheckpointerMessage::Flush(reply) => {
                state.flushing.push(reply);
                state.begin(&myself);
            }
            CheckpointerMessage::Failed => {
                state.failed = true;
                state.flushing.clear();
            }
        }
        state.schedule(&myself);
        state.answer_flushes(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        _: SupervisionEvent,
        _: &mut CheckpointerState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl CheckpointerState {
    fn schedule(&mut self, myself: &ActorRef<CheckpointerMessage>) {
        match self.machine.due_in_ms(self.arguments.engine.now()) {
            None => {}
            Some(0) => self.begin(myself),
            Some(_) if self.tick.is_some() => {}
            Some(wait_ms) => {
                let myself = myself.clone();
                let ticking = async move {
                    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                    // A stopped shard needs no checkpoint.
                    myself.send_message(CheckpointerMessage::Tick).ok();
                };
                self.tick = Some(ShardTask::spawn(ticking));
            }
        }
    }

    fn begin(&mut self, myself: &ActorRef<CheckpointerMessage>) {
        let Some(generation) = self.machine.begin() else { return };
        let (arguments, myself, sinks) = (self.arguments.clone(), myself.clone(), self.sinks.clone());
        let writing = async move {
            // The semaphore is never closed; without a permit the checkpoint is only less polite.
            let _permit = arguments.engine.checkpoints.acquire().await.ok();
            let tell = |message| {
                // The shard may wait for this one.
                let gone = myself.send_message(CheckpointerMessage::Failed).is_err();
                arguments.supervisor.send_message(message).is_err() || gone
            };
            let written = AssertUnwindSafe(write(&arguments, &generation)).catch_unwind().await;
            let written = written.unwrap_or_else(|panic| Err(Failed::Panicked(text_of(&*panic))));
            let lost = match written {
                Ok(trim) => {
                    let reached = generation.reached;
                    arguments.gauges.checkpointed.store(reached.0, Ordering::Relaxed);
                    for sink in sinks {
                        // A shard that loses its sinks is dropped whole.
                        sink.send_message(EventSinkMessage::Checkpointed { reached, trim }).ok();
                    }
                    myself.send_message(CheckpointerMessage::Written).is_err()
                }
                Err(Failed::Fenced) => tell(ShardMessage::Fenced),
                Err(Failed::WentBack(why)) => tell(ShardMessage::WentBack(why)),
                Err(Failed::Damaged(why)) => tell(ShardMessage::Halt(why)),
                Err(Failed::Panicked(why)) => {
                    tell(ShardMessage::Panicked(format!("writing a checkpoint panicked: {why}")))
                }
            };
            if lost {
                tracing::debug!(shard = arguments.shard.0, "a checkpoint ended after its shard");
            }
        };
        self.writing = Some(ShardTask::spawn(writing));
    }

    async fn written(&mut self) -> Result<(), ActorProcessingErr> {
        let bytes = self.machine.written();
        let engine = &self.arguments.engine;
        engine
            .counters
            .uncheckpointed_bytes
            .fetch_sub(bytes as u64, Ordering::Relaxed);
        self.arguments.timers.send_message(TimersMessage::Checkpointed)?;
        if !self.counted {
            self.count().await;
        }
        Ok(())
    }

    /// What a crash left of a checkpoint was in the store and in the log when the shard was opened, and so counted twice.
    /// Once the first checkpoint is written the store alone knows, but for what gathered since.
    async fn count(&mut self) {
        let arguments = &self.arguments;
        match arguments.engine.parts.state.live_counts(arguments.shard).await {
            Ok((running, waiting)) => {
                let stored = i64::try_from(running + waiting).unwrap_or(i64::MAX);
                arguments.gauges.live_counted(stored + self.machine.live());
                self.counted = true;
            }
            Err(error) => tracing::debug!(shard = arguments.shard.0, %error, "executions are counted later"),
        }
    }

    fn answer_flushes(&mut self, myself: &ActorRef<CheckpointerMessage>) {
        if self.flushing.is_empty() {
            return;
        }
        if self.machine.is_clean() {
            // Whoever asked may be gone; nothing depends on the answer.
            for reply in self.flushing.drain(..) {
                reply.send(()).ok();
            }
        } else {
            self.begin(myself);
        }
    }
}

//! Lifecycle events to the bus: from memory right after the commit, from the log after a restart or a slow bus.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::control::ControlEntry;
use troupe_core::execution::Entry;
use troupe_core::lifecycle::{self, LifecycleEvent, SystemEvent};
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId};
use troupe_ports::EventBus;

use super::machine::{CursorMachine, Offer};
use crate::checkpointer::CheckpointerMessage;
use crate::context::EngineContext;
use crate::error::EngineError;
use crate::evaluation::CompiledPlan;
use crate::execution::load::{Loaded, load_over};
use crate::gauges::SinkProgress;
use crate::record::{read_frames, read_frames_of, read_header};

/// Records offered but not yet sent beyond which the sink reads the log instead.
const BACKLOG_MAX: usize = 4_096;
/// The cursor is saved after so many records, or so long.
const SAVE_AFTER: u64 = 4_096;
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// Bytes of log read at once when catching up.
const READ_BYTES: usize = 1024 * 1024;
/// Executions whose workflow is remembered while catching up.
const KNOWN_MAX: usize = 4_096;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A durable entry with its plan.
#[derive(Debug)]
pub struct EventItem {
    /// The execution.
    pub id: ExecutionId,
    /// The entry.
    pub entry: Entry,
    /// Its plan.
    pub compiled: Arc<CompiledPlan>,
    /// Trace context of the execution's start.
    pub trace_parent: Option<Arc<str>>,
}

/// What an event sink hears.
#[derive(Debug)]
pub enum EventSinkMessage {
    /// A record is durable.
    Committed {
        /// Where it stands.
        position: LogPosition,
        /// Its entries.
        items: Arc<[EventItem]>,
        /// Its controls.
        controls: Arc<[ControlEntry]>,
    },
    /// Records are in the log that were not offered.
    Behind,
    /// The cursor may be worth saving.
    Save,
}

/// A bounded way to a sink: beyond the bound it is only told that it is behind.
#[derive(Clone, Debug)]
pub struct SinkFeed<M> {
    actor: ActorRef<M>,
    progress: Arc<SinkProgress>,
}

impl SinkFeed<EventSinkMessage> {
    /// A feed to `actor`, which must be made with the same progress.
    #[must_use]
    pub fn new(actor: ActorRef<EventSinkMessage>, progress: Arc<SinkProgress>) -> Self {
        Self { actor, progress }
    }

    /// Offers the record at `position`; false when the sink is gone.
    #[must_use]
    pub fn offer(&self, position: LogPosition, message: impl FnOnce() -> EventSinkMessage) -> bool {
        let progress = &self.progress;
        progress.committed(position);
        if progress.backlog.load(Ordering::Relaxed) < BACKLOG_MAX {
            progress.backlog.fetch_add(1, Ordering::Relaxed);
            return self.actor.send_message(message()).is_ok();
        }
        progress.behind.swap(true, Ordering::AcqRel) || self.actor.send_message(EventSinkMessage::Behind).is_ok()
    }
}

/// What an event sink is made of. It sends nothing from the log before it hears [`EventSinkMessage::Behind`].
#[derive(Debug)]
pub struct EventSinkArguments {
    /// The engine.
    pub engine: Arc<EngineContext>,
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Which of the engine's buses.
    pub bus: usize,
    /// Everything up to here was sent.
    pub cursor: LogPosition,
    /// Knows executions that no checkpoint holds.
    pub checkpointer: ActorRef<CheckpointerMessage>,
    /// See [`SinkFeed`].
    pub progress: Arc<SinkProgress>,
}

/// Publishes one shard's lifecycle events.
#[derive(Debug)]
pub struct EventSinkActor;

/// What an entry does not say of its execution.
type Known = (Arc<CompiledPlan>, Option<Arc<str>>);

/// What an event sink keeps.
#[derive(Debug)]
pub struct EventSinkState {
    arguments: EventSinkArguments,
    machine: CursorMachine,
    known: HashMap<ExecutionId, Known>,
    saving: bool,
}

impl Actor for EventSinkActor {
    type Msg = EventSinkMessage;
    type State = EventSinkState;
    type Arguments = EventSinkArguments;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        arguments: EventSinkArguments,
    ) -> Result<EventSinkState, ActorProcessingErr> {
        let machine = CursorMachine::new(arguments.cursor, SAVE_AFTER);
        Ok(EventSinkState {
            arguments,
            machine,
            known: HashMap::new(),
            saving: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: EventSinkMessage,
        state: &mut EventSinkState,
    ) -> Result<(), ActorProcessingErr> {
        let full = match message {
            EventSinkMessage::Committed {
                position,
                items,
                controls,
            } => {
                state.progress().backlog.fetch_sub(1, Ordering::Relaxed);
                match state.machine.offered(position) {
                    Offer::Skip => false,
                    Offer::Send => {
                        state.announce(&controls).await;
                        state.send(position, &items).await
                    }
                    Offer::CatchUp(from) => {
                        state.catch_up(from).await;
                        false
                    }
                }
            }
            EventSinkMessage::Behind => {
                state.progress().behind.store(false, Ordering::Release);
                state.catch_up(state.machine.next()).await;
                false
            }
            EventSinkMessage::Save => {
                state.saving = false;
                true
            }
        };
        if full {
            state.save().await;
        } else if state.machine.unsaved().is_some() && !state.saving {
            state.saving = true;
            tokio::spawn(async move {
                tokio::time::sleep(SAVE_EVERY).await;
                // A stopped sink reads what is unsaved again.
                myself.send_message(EventSinkMessage::Save).ok();
            });
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        _: SupervisionEvent,
        _: &mut EventSinkState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut EventSinkState) -> Result<(), ActorProcessingErr> {
        state.save().await;
        Ok(())
    }
}

impl EventSinkState {
    fn bus(&self) -> &dyn EventBus {
        &*self.arguments.engine.parts.buses[self.arguments.bus].1
    }

    fn progress(&self) -> &SinkProgress {
        &self.arguments.progress
    }

    async fn send(&mut self, position: LogPosition, items: &[EventItem]) -> bool {
        if let Some(oldest) = items.first() {
            self.progress().sending(oldest.entry.at);
        }
        let mut events = Vec::with_capacity(items.len() * 2);
        for item in items {
            let of_entry = item.compiled.events(item.id, &item.entry, item.trace_parent.as_ref());
            events.extend(of_entry.into_iter().filter(|event| self.bus().wants(event)));
        }
        if self.arguments.engine.options.mutants.cursor_before_confirm {
            self.machine.sent(position);
            self.save().await;
        }
        self.publish(&events).await;
        self.progress().sent(position);
        self.machine.sent(position)
    }

    /// Publishes controls. They are in every shard: the first one speaks for all.
    async fn announce(&self, controls: &[ControlEntry]) {
        if self.arguments.shard != ShardId(0) || controls.is_empty() {
            return;
        }
        let events: Vec<SystemEvent> = controls.iter().map(lifecycle::derive_control).collect();
        let mut pause = RETRY_FIRST;
        while let Err(error) = self.bus().announce(&events).await {
            tracing::warn!(shard = self.arguments.shard.0, %error, "events of the system wait for the bus");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Repeats until the bus has confirmed all of them.
    async fn publish(&self, mut events: &[LifecycleEvent]) {
        let mut pause = RETRY_FIRST;
        while !events.is_empty() {
            match self.bus().publish(events).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(shard = self.arguments.shard.0, %error, "events wait for the bus");
                    events = events.get(error.confirmed()..).unwrap_or_default();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Sends what the log holds from `from` on.
    async fn catch_up(&mut self, mut from: LogPosition) {
        loop {
            let read = self
                .arguments
                .engine
                .parts
                .state
                .read(self.arguments.shard, from, READ_BYTES)
                .await;
            let records = match read {
                Ok(records) => records,
                Err(error) => {
                    tracing::warn!(shard = self.arguments.shard.0, %error, "the log cannot be read");
                    tokio::time::sleep(RETRY_MAX).await;
                    continue;
                }
            };
            if records.is_empty() {
                self.known.clear();
                return;
            }
            let mut full = false;
            for record in records {
                from = record.position.next();
                let Ok((_, items)) = read_header(&record.bytes) else {
                    tracing::error!(
                        shard = self.arguments.shard.0,
                        position = record.position.0,
                        "events of a damaged record are lost"
                    );
                    full |= self.send(record.position, &[]).await;
                    continue;
                };
                let mut found = Vec::with_capacity(items.len());
                let (controls, items): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.id.is_controls());
                let controls = controls.into_iter().filter_map(|item| {
                    // Those that cannot be read halt the shard when it is opened.
                    read_frames_of::<ControlEntry>(&record.bytes[item.frame]).next()?.ok()
                });
                self.announce(&controls.collect::<Vec<_>>()).await;
                for item in items {
                    let Some(Ok(entry)) = read_frames(&record.bytes[item.frame]).next() else {
                        continue;
                    };
                    if let Some((compiled, trace_parent)) = self.known_of(item.id, &entry).await {
                        found.push(EventItem {
                            id: item.id,
                            entry,
                            compiled,
                            trace_parent,
                        });
                    }
                }
                full |= self.send(record.position, &found).await;
            }
            // A log that grows as fast as it is sent must not keep the cursor from moving.
            if full {
                self.save().await;
            }
        }
    }

    /// An entry does not name its workflow: the first one does, or the execution's base.
    async fn known_of(&mut self, id: ExecutionId, entry: &Entry) -> Option<Known> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.clone());
        }
        let engine = Arc::clone(&self.arguments.engine);
        let mut pause = RETRY_FIRST;
        let known = loop {
            let found = match entry.event.start() {
                Some(started) => engine
                    .plans
                    .version(started.workflow.as_str(), started.version)
                    .await
                    .map(|compiled| Some((compiled, started.trace_parent.as_deref().map(Arc::from)))),
                None => self.load(id).await.map(|loaded| match loaded {
                    Loaded::Found(found) => Some((found.compiled, found.state.trace_parent.as_deref().map(Arc::from))),
                    Loaded::Missing | Loaded::Tombstone(_) => {
                        tracing::error!(%id, "events of an execution that is gone cannot be derived");
                        None
                    }
                }),
            };
            match found {
                Ok(found) => break found,
                Err(EngineError::Unavailable(_)) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => {
                    tracing::error!(%id, %error, "events of an execution cannot be derived");
                    break None;
                }
            }
        }?;
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(id, known.clone());
        Some(known)
    }

    /// First what the log alone holds, then the store: what leaves the one in between is in the other.
    async fn load(&self, id: ExecutionId) -> Result<Loaded, EngineError> {
        let gone = || EngineError::Unavailable("the checkpointer is gone".into());
        let (reply, answer) = oneshot::channel();
        self.arguments
            .checkpointer
            .send_message(CheckpointerMessage::Lookup(id, reply))
            .map_err(|_| gone())?;
        let pending = answer.await.map_err(|_| gone())?;
        load_over(&self.arguments.engine, id, pending.as_ref()).await
    }

    async fn save(&mut self) {
        let Some(position) = self.machine.unsaved() else { return };
        let arguments = &self.arguments;
        let store = &arguments.engine.parts.state;
        let (name, _) = arguments.engine.parts.buses[arguments.bus];
        match store.set_cursor(arguments.shard, arguments.epoch, name, position).await {
            Ok(()) => self.machine.saved(position),
            Err(error) => tracing::warn!(shard = arguments.shard.0, %error, "a cursor stays behind for now"),
        }
    }
}

//! Lifecycle events to the bus: from memory right after the commit, from the log after a restart or a slow bus.
//!
//! While one call of the bus is on its way, commits gather in the mailbox; the next call takes all of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::control::ControlEntry;
use troupe_core::execution::Entry;
use troupe_core::lifecycle::{self, LifecycleEvent};
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId};
use troupe_ports::{EventBus, StoreError};
use troupe_telemetry::BusMetrics;

use super::gather::{CallLimits, GatherMachine, Next, Unsent};
use super::sending::{Sending, Unconfirmed};
use super::source::Source;
use super::spool::{SpoolIndex, SpooledRecord, format_of, pack, unpack};
use crate::checkpointer::CheckpointerMessage;
use crate::context::{EngineContext, Outages};
use crate::evaluation::CompiledPlan;
use crate::format::WrittenFormat;
use crate::gauges::SinkProgress;
use crate::shard::ShardMessage;

/// Records offered but not yet sent beyond which the sink reads the log instead.
const BACKLOG_MAX: usize = 4_096;
/// Bytes of such records.
const BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What one call of the bus takes along.
const CALL: CallLimits = CallLimits {
    entries_max: 1_024,
    bytes_max: 1024 * 1024,
};
/// The cursor is saved after so many records, or so long.
const SAVE_AFTER: u64 = 4_096;
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// Bytes of the spool read at once when it is written anew.
const REWRITE_BYTES: usize = 4 * 1024 * 1024;
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
        /// Its bytes.
        bytes: usize,
    },
    /// Records are in the log that were not offered.
    Behind,
    /// Send what has gathered. Queues behind what arrived while the last call of the bus was on its way.
    Send,
    /// The cursor may be worth saving.
    Save,
    /// A checkpoint holds everything up to here: what is too much for the log may leave it.
    Checkpointed {
        /// Up to where.
        reached: LogPosition,
        /// Whether the log may be trimmed up to there, as far as others go.
        trim: bool,
    },
    /// Nothing of a newer format than the one that is written now is to be kept for this sink, and nothing in the log up to here.
    Vacate {
        /// Up to where; everything up to there is in the checkpoint.
        up_to: LogPosition,
        /// Told how that went.
        done: oneshot::Sender<Result<(), String>>,
    },
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

    /// Offers the record at `position`, of so many bytes; false when the sink is gone.
    #[must_use]
    pub fn offer(&self, position: LogPosition, bytes: usize, message: impl FnOnce() -> EventSinkMessage) -> bool {
        let progress = &self.progress;
        progress.committed(position, bytes);
        if progress.backlog.load(Ordering::Relaxed) < BACKLOG_MAX
            && progress.backlog_bytes.load(Ordering::Relaxed) < BACKLOG_BYTES_MAX
        {
            progress.offered(bytes);
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
    /// What its spool holds.
    pub spool: SpoolIndex,
    /// Knows executions that no checkpoint holds.
    pub checkpointer: ActorRef<CheckpointerMessage>,
    /// See [`SinkFeed`].
    pub progress: Arc<SinkProgress>,
    /// What the spool is written in.
    pub format: Arc<WrittenFormat>,
    /// Told when the shard is lost.
    pub supervisor: ActorRef<ShardMessage>,
}

/// Publishes one shard's lifecycle events.
#[derive(Debug)]
pub struct EventSinkActor;

/// What is published of a record.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) items: Items,
    /// Its controls. They are in every shard: the first one speaks for all.
    pub(super) controls: Arc<[ControlEntry]>,
}

/// Entries of a record.
#[derive(Debug)]
pub(super) enum Items {
    /// They were offered, and count as backlog until they are sent.
    Offered(Arc<[EventItem]>),
    /// They were read from the log.
    Read(Vec<EventItem>),
    /// They were read from the spool: events already.
    Spooled(Vec<LifecycleEvent>),
}

impl Items {
    /// The events that the bus wants, in order. `is_heard`: what [`EventBus::is_heard`] said, once for all that is sent together.
    fn events(self, bus: &dyn EventBus, is_heard: bool) -> Vec<LifecycleEvent> {
        if !is_heard {
            return Vec::new();
        }
        let items = match &self {
            Self::Offered(items) => &items[..],
            Self::Read(items) => items,
            Self::Spooled(_) => &[],
        };
        let derived = items.iter().flat_map(|item| {
            let wanted = |verb, is_outward| bus.wants(verb, is_outward);
            item.compiled
                .events(item.id, &item.entry, item.trace_parent.as_ref(), wanted)
        });
        let derived: Vec<LifecycleEvent> = derived.collect();
        match self {
            // They were chosen when they were spooled.
            Self::Spooled(events) => events,
            Self::Offered(_) | Self::Read(_) => derived,
        }
    }
}

/// What an event sink keeps.
#[derive(Debug)]
pub struct EventSinkState {
    arguments: EventSinkArguments,
    source: Source,
    metrics: BusMetrics,
    machine: GatherMachine<Content>,
    sending: Option<Sending>,
    /// A [`EventSinkMessage::Send`] is on its way.
    armed: bool,
    /// Pause before what failed is tried again.
    pause: Duration,
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
        let (name, _) = arguments.engine.parts.buses[arguments.bus];
        arguments.progress.spooled(LogPosition(0), arguments.spool.bytes());
        let source = Source::new(
            Arc::clone(&arguments.engine),
            arguments.shard,
            (name, arguments.spool.clone()),
            arguments.checkpointer.clone(),
        );
        Ok(EventSinkState {
            machine: GatherMachine::new(arguments.cursor, SAVE_AFTER, CALL),
            source,
            metrics: BusMetrics::new(name),
            sending: None,
            armed: false,
            pause: RETRY_FIRST,
            saving: false,
            arguments,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: EventSinkMessage,
        state: &mut EventSinkState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            EventSinkMessage::Committed {
                position,
                items,
                controls,
                bytes,
            } => state.committed(position, items, controls, bytes),
            EventSinkMessage::Behind => {
                state.arguments.progress.behind.store(false, Ordering::Release);
                state.machine.behind();
            }
            EventSinkMessage::Send => {
                state.armed = false;
                state.send(&myself).await;
            }
            EventSinkMessage::Save => {
                state.saving = false;
                state.save().await;
            }
            EventSinkMessage::Checkpointed { reached, trim } => state.make_room(reached, trim).await,
            EventSinkMessage::Vacate { up_to, done } => {
                let vacated = state.vacate(up_to).await;
                // Whoever asked may be gone; nothing depends on the answer.
                done.send(vacated).ok();
            }
        }
        if !state.armed && (state.sending.is_some() || state.machine.has_more()) {
            state.armed = true;
            myself.send_message(EventSinkMessage::Send)?;
        }
        if state.machine.cursor().unsaved().is_some() && !std::mem::replace(&mut state.saving, true) {
            // A stopped sink reads what is unsaved again.
            later(SAVE_EVERY, &myself, EventSinkMessage::Save);
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

/// Sends a message after a while, to whoever is there then.
fn later(pause: Duration, myself: &ActorRef<EventSinkMessage>, message: EventSinkMessage) {
    let myself = myself.clone();
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        myself.send_message(message).ok();
    });
}

impl EventSinkState {
    fn bus(&self) -> &dyn EventBus {
        &*self.arguments.engine.parts.buses[self.arguments.bus].1
    }

    fn outages(&self) -> &Outages {
        &self.arguments.engine.outages
    }

    fn who(&self) -> u64 {
        u64::from(self.arguments.shard.0)
    }

    fn committed(
        &mut self,
        position: LogPosition,
        items: Arc<[EventItem]>,
        controls: Arc<[ControlEntry]>,
        bytes: usize,
    ) {
        let record = Unsent {
            position,
            entries: items.len(),
            bytes,
            alone: !controls.is_empty(),
            content: Content {
                items: Items::Offered(items),
                controls,
            },
        };
        if let Some(refused) = self.machine.offered(record) {
            self.arguments.progress.taken(1, refused.bytes);
        }
    }

    /// Sends what has gathered in one call, or reads what was not offered; what fails is tried again later.
    async fn send(&mut self, myself: &ActorRef<EventSinkMessage>) {
        if self.sending.is_none() {
            match self.machine.next_step() {
                Next::Nothing => return,
                Next::Send(records) => self.sending = Some(self.begin(records)),
                Next::Read(from) => match self.source.read(from).await {
                    Ok(records) => {
                        self.outages().log_reads.over(self.who());
                        return self.machine.read(records);
                    }
                    Err(error) => {
                        self.outages().log_reads.failed(self.who(), &error);
                        self.machine.behind();
                        return self.again(myself);
                    }
                },
            }
            if self.arguments.engine.options.mutants.cursor_before_confirm
                && let Some(sending) = &self.sending
            {
                self.machine.sent(sending.position);
                self.save().await;
            }
        }
        let Some(mut sending) = self.sending.take() else { return };
        if let Err(error) = sending.publish(self.bus()).await {
            self.outages().buses[self.arguments.bus].failed(self.who(), &error);
            self.sending = Some(sending);
            return self.again(myself);
        }
        self.outages().buses[self.arguments.bus].over(self.who());
        self.pause = RETRY_FIRST;
        let now = self.arguments.engine.now();
        let published = sending.events.count();
        if published > 0 {
            self.metrics.published(published);
        }
        for made in &sending.made {
            self.metrics.confirmed(now.since_ms(*made));
        }
        let (records, bytes) = sending.offered;
        self.arguments.progress.taken(records, bytes);
        self.arguments.progress.sent(sending.position);
        self.source.spool().sent(sending.position);
        let spool = self.source.spool();
        self.arguments.progress.spooled(sending.position, spool.bytes());
        // A log that grows as fast as it is sent must not keep the cursor from moving.
        if self.machine.sent(sending.position) {
            self.save().await;
        }
    }

    fn begin(&self, records: Vec<Unsent<Content>>) -> Sending {
        let (mut position, mut offered) = (self.machine.reached(), (0, 0));
        let mut made = Vec::with_capacity(records.len());
        let (mut announcements, mut events) = (Vec::new(), Vec::new());
        let is_heard = self.bus().is_heard();
        for record in records {
            position = record.position;
            if let Items::Offered(_) = record.content.items {
                offered.0 += 1;
                offered.1 += record.bytes;
            }
            let of_record = record.content.items.events(self.bus(), is_heard);
            made.extend(of_record.iter().map(|event| event.at).max());
            events.extend(of_record);
            if self.arguments.shard == ShardId(0) {
                let controls = record.content.controls.iter().filter(|entry| !entry.only_id);
                announcements.extend(controls.map(lifecycle::derive_control));
            }
        }
        if let Some(oldest) = made.first() {
            self.arguments.progress.sending(*oldest);
        }
        Sending {
            position,
            made,
            offered,
            announcements: Unconfirmed::new(announcements),
            events: Unconfirmed::new(events),
        }
    }

    /// Moves what is too much for the log to the spool, and lets the log be trimmed. What fails is done after the next checkpoint.
    async fn make_room(&mut self, reached: LogPosition, trim: bool) {
        let arguments = &self.arguments;
        if arguments.progress.in_log_bytes() <= arguments.engine.options.spool_above_bytes {
            return;
        }
        match self.spool(reached, trim).await {
            Ok(()) => self.outages().spools.over(self.who()),
            Err(error) => self.outages().spools.failed(self.who(), &error),
        }
    }

    /// Moves what is unsent of the log up to `up_to` to the spool, and writes the spool's chunks of newer formats anew.
    async fn vacate(&mut self, up_to: LogPosition) -> Result<(), String> {
        self.spool(up_to, false).await?;
        self.save().await;
        let (engine, shard, epoch) = (
            Arc::clone(&self.arguments.engine),
            self.arguments.shard,
            self.arguments.epoch,
        );
        let (store, name) = (&engine.parts.state, engine.parts.buses[self.arguments.bus].0);
        let format = self.arguments.format.now();
        let mut after = self.machine.cursor().position();
        loop {
            let chunks = store.spooled(shard, name, after, REWRITE_BYTES).await;
            let chunks = chunks.map_err(|error| error.to_string())?;
            let Some(last) = chunks.last() else { break };
            after = last.up_to;
            for chunk in chunks.iter().filter(|chunk| format_of(&chunk.bytes) > Some(format)) {
                let up_to = chunk.up_to;
                let records = match unpack(engine.options.reads, &chunk.bytes) {
                    Ok(records) => records,
                    Err(error) => {
                        tracing::error!(shard = shard.0, up_to = up_to.0, %error, "a damaged chunk is left as it is");
                        continue;
                    }
                };
                let packed = pack(format, &records).map_err(|error| error.to_string())?;
                let rewritten = store.rewrite_spool(shard, epoch, name, up_to, packed).await;
                engine.heed(shard, &rewritten);
                rewritten.map_err(|error| error.to_string())?;
                self.source.doubt_spool();
            }
        }
        let settled = self.source.settle_spool(self.machine.cursor().position()).await;
        settled.map_err(|error| error.to_string())
    }

    async fn spool(&mut self, reached: LogPosition, trim: bool) -> Result<(), String> {
        let (engine, shard, epoch) = (
            Arc::clone(&self.arguments.engine),
            self.arguments.shard,
            self.arguments.epoch,
        );
        let (store, name) = (&engine.parts.state, engine.parts.buses[self.arguments.bus].0);
        let sent = self.machine.cursor().position();
        let settled = self.source.settle_spool(sent).await;
        settled.map_err(|error| error.to_string())?;
        loop {
            let from = self.source.spool().end().map_or(sent, |end| end.max(sent)).next();
            let records = self.source.read_log(from).await.map_err(|error| error.to_string())?;
            let records = records.into_iter().take_while(|record| record.position <= reached);
            let bus = &*engine.parts.buses[self.arguments.bus].1;
            let records: Vec<SpooledRecord> = records.map(|record| spooled(record, bus)).collect();
            let Some(last) = records.last().map(|record| record.position) else {
                break;
            };
            let lost = engine.options.mutants.spools_nothing;
            let format = self.arguments.format.now();
            let chunk = pack(format, if lost { &[] } else { &records }).map_err(|error| error.to_string())?;
            let bytes = chunk.len() as u64;
            if let Err(error) = store.spool(shard, epoch, name, last, chunk).await {
                self.source.doubt_spool();
                let told = error.to_string();
                if let StoreError::WentBack(why) = error {
                    // One that is gone needs no telling.
                    self.arguments.supervisor.send_message(ShardMessage::WentBack(why)).ok();
                }
                return Err(told);
            }
            self.source.spool().add(last, bytes);
            let bytes = self.source.spool().bytes();
            self.arguments.progress.spooled(last, bytes);
        }
        if trim {
            let trimmed = store.trim(shard, epoch, reached).await;
            trimmed.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What failed is tried again after a pause; meanwhile the mailbox is served.
    fn again(&mut self, myself: &ActorRef<EventSinkMessage>) {
        self.armed = true;
        later(self.pause, myself, EventSinkMessage::Send);
        self.pause = (self.pause * 2).min(RETRY_MAX);
    }

    async fn save(&mut self) {
        let Some(position) = self.machine.cursor().unsaved() else {
            return;
        };
        let arguments = &self.arguments;
        let store = &arguments.engine.parts.state;
        let (name, _) = arguments.engine.parts.buses[arguments.bus];
        match store.set_cursor(arguments.shard, arguments.epoch, name, position).await {
            Ok(()) => {
                self.machine.saved(position);
                self.outages().cursors.over(self.who());
            }
            Err(error) => self.outages().cursors.failed(self.who(), &error),
        }
    }
}

fn spooled(record: Unsent<Content>, bus: &dyn EventBus) -> SpooledRecord {
    SpooledRecord {
        position: record.position,
        events: record.content.items.events(bus, true),
        controls: record.content.controls.to_vec(),
    }
}

//! The actors that serve a shard beside its executions: what they are, and what they hear.

use std::collections::VecDeque;
use std::sync::Arc;

use troupe_actors::checkpointer::CheckpointItem;
use troupe_actors::checkpointer::machine::{CheckpointerMachine, Generation};
use troupe_actors::committer::machine::{Append, CommitterMachine};
use troupe_actors::sinks::gather::{CallLimits, GatherMachine};
use troupe_actors::sinks::machine::ProjectionMachine;
use troupe_actors::sinks::spool::SpoolIndex;
use troupe_actors::timers::machine::TimersMachine;
use troupe_core::control::{ControlEntry, Scope};
use troupe_core::lifecycle::LifecycleEvent;
use troupe_core::{ExecutionId, LogPosition, Timestamp, WorkflowId};
use troupe_ports::{CheckpointRow, ExecutionSummary};

use super::controls::{ControlNotify, Told};
use super::process::ActorNo;
use crate::crash::record::Sighting;

/// What a committer hears.
#[derive(Debug)]
pub(super) enum CommitterMessage {
    Append(Vec<Append<ActorNo>>),
    /// Entries that may wait for what the parent makes of them.
    Held(Vec<Append<ActorNo>>),
    Go,
    Flush,
    Barrier(ActorNo, ExecutionId),
    Control(Box<ControlEntry>, ControlNotify),
    ControlBarrier(Told),
}

/// The committer's actor.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) machine: CommitterMachine<ActorNo, ControlNotify>,
    pub(super) inbox: VecDeque<CommitterMessage>,
    /// It awaits the store.
    pub(super) busy: bool,
    pub(super) stopped: bool,
    pub(super) barriers: Vec<(ActorNo, ExecutionId)>,
    pub(super) told: Vec<Told>,
}

/// What a checkpointer hears.
#[derive(Debug)]
pub(super) enum CheckpointerMessage {
    Committed {
        position: LogPosition,
        record: bytes::Bytes,
        items: Vec<CheckpointItem>,
    },
    Lookup(ExecutionId, ActorNo),
    /// Which execution of a client's business key is the latest.
    Head(usize, u64),
    Tick,
    Written,
}

/// The checkpointer's actor.
#[derive(Debug)]
pub(super) struct Checkpointer {
    pub(super) machine: CheckpointerMachine,
    pub(super) inbox: VecDeque<CheckpointerMessage>,
    pub(super) ticking: bool,
    pub(super) writer: Option<Writer>,
}

/// The task that writes a checkpoint.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) generation: Arc<Generation>,
    pub(super) left: VecDeque<ExecutionId>,
    pub(super) chunk: Vec<CheckpointRow>,
    pub(super) stage: WriterStage,
    pub(super) busy: bool,
}

impl Writer {
    /// Lists show everything up to the checkpoint: the log may be trimmed.
    pub(super) fn projected(&mut self) {
        if self.stage == WriterStage::Project {
            (self.stage, self.busy) = (WriterStage::Trim, false);
        }
    }

    /// The next checkpoint trims what this one leaves.
    pub(super) fn not_projected(&mut self) {
        if self.stage == WriterStage::Project {
            (self.stage, self.busy) = (WriterStage::Done, false);
        }
    }
}

/// How far a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriterStage {
    Rows,
    Last,
    Project,
    Trim,
    Done,
}

/// What the timers hear.
#[derive(Debug)]
pub(super) enum TimersMessage {
    Set(ExecutionId, Option<Timestamp>),
    Park(ExecutionId, Timestamp),
    HeldBack(ExecutionId, WorkflowId, Option<Timestamp>, u64),
    Lifted(Scope),
    Recovered(Vec<(Timestamp, ExecutionId)>),
    Checkpointed,
    Tick,
}

/// The timers' actor.
#[derive(Debug)]
pub(super) struct Timers {
    pub(super) machine: TimersMachine,
    pub(super) inbox: VecDeque<TimersMessage>,
    pub(super) armed: Option<Timestamp>,
}

/// What an event sink hears.
#[derive(Debug)]
pub(super) enum SinkMessage {
    Committed(LogPosition, bytes::Bytes),
    Behind,
    Send,
    Save,
    /// A checkpoint holds everything up to there.
    Checkpointed(LogPosition),
}

/// A record for the event sink.
#[derive(Debug)]
pub(super) enum Offered {
    /// It is in memory since it was committed.
    Held(bytes::Bytes),
    /// It was read from the log.
    Read(bytes::Bytes),
    /// Its events were read from the spool.
    Spooled(Vec<LifecycleEvent>),
}

/// The event sink's actor.
#[derive(Debug)]
pub(super) struct EventSink {
    pub(super) machine: GatherMachine<Offered>,
    /// What its spool holds.
    pub(super) spool: SpoolIndex,
    /// A chunk may be in the store of which the index does not know.
    pub(super) doubtful: bool,
    /// The last record that was committed.
    pub(super) committed: LogPosition,
    pub(super) inbox: VecDeque<SinkMessage>,
    /// It was told that it is behind and has not looked yet.
    pub(super) behind: bool,
    /// Records that it holds in memory.
    pub(super) held: usize,
    /// Up to where the events are that the bus has not confirmed, and these.
    pub(super) sending: Option<(LogPosition, Vec<Sighting>)>,
    /// A message to send is on its way.
    pub(super) armed: bool,
    /// A call of the bus is on its way.
    pub(super) publishing: bool,
    /// It awaits the bus or the store.
    pub(super) busy: bool,
    pub(super) saving: bool,
}

impl EventSink {
    /// One that has sent everything up to `cursor`, and saves its cursor after so many records.
    pub(super) fn new(cursor: LogPosition, mut spool: SpoolIndex, save_after: u64, limits: CallLimits) -> Self {
        spool.sent(cursor);
        Self {
            spool,
            doubtful: false,
            committed: LogPosition(0),
            machine: GatherMachine::new(cursor, save_after, limits),
            // What the last owner committed and never sent.
            inbox: [SinkMessage::Behind].into(),
            behind: false,
            held: 0,
            sending: None,
            armed: false,
            publishing: false,
            busy: false,
            saving: false,
        }
    }

    /// Whether there is nothing left to send.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy && !self.armed && self.sending.is_none() && !self.can_go_on()
    }

    pub(super) fn can_go_on(&self) -> bool {
        !self.inbox.is_empty()
    }
}

/// What the projection for lists hears.
#[derive(Debug)]
pub(super) enum ListsMessage {
    Changed(LogPosition, Vec<ExecutionSummary>),
    Write,
    Flush(LogPosition),
    /// Everything that has changed is to be listed before something is forgotten.
    Forget,
}

/// The projection's actor.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) machine: ProjectionMachine,
    pub(super) inbox: VecDeque<ListsMessage>,
    pub(super) armed: bool,
    /// It awaits the store.
    pub(super) busy: bool,
    pub(super) writing: Vec<ExecutionSummary>,
    /// The checkpoint waits for this write.
    pub(super) flushing: bool,
    /// What is about to be forgotten waits for this write.
    pub(super) forgetting: bool,
}

impl Lists {
    pub(super) fn new() -> Self {
        Self {
            machine: ProjectionMachine::default(),
            inbox: VecDeque::new(),
            armed: false,
            busy: false,
            writing: Vec::new(),
            flushing: false,
            forgetting: false,
        }
    }

    /// Whether there is nothing left to write.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy && !self.armed && self.inbox.is_empty()
    }
}

//! What happens at which instant. At one instant the seed decides what comes first.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use troupe_core::execution::AttemptClosed;
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId, Timestamp};
use troupe_ports::{AppendError, CheckpointRow, CommitId, ExecutionCursor, ExecutionSummary, Lease, StoreError};

use super::controls::Told;
use super::forget::Look;
use super::operators::Asked;
use super::process::{ActorNo, ExecutionMessage, ProcessNo};
use super::random::Random;
use super::scenario::Fault;
use crate::crash::record::Sighting;

/// Who called the store, for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) process: ProcessNo,
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    /// When the call began.
    pub(super) begun: Timestamp,
}

/// A call of the store.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Acquire(String),
    Release,
    Renew,
    Append {
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    },
    Probe(LogPosition),
    Checkpoint(Vec<CheckpointRow>, Option<LogPosition>),
    Trim(LogPosition),
    SetCursor(LogPosition),
    /// Moves what the event sink has to send up to a position out of the log; how far it is to go on.
    Spool {
        up_to: LogPosition,
        chunk: Bytes,
        reached: LogPosition,
    },
    Project(Vec<ExecutionSummary>, LogPosition),
}

/// What the store answers.
#[derive(Debug)]
pub(super) enum Answer {
    Acquired(Result<Lease, StoreError>),
    Released,
    Renewed(Result<Timestamp, StoreError>),
    Appended(Result<(), AppendError>),
    Probed(Result<Option<CommitId>, StoreError>),
    Written(Result<(), StoreError>),
    CursorSet(LogPosition, Result<(), StoreError>),
    /// Up to where, with how many bytes, and how far it is to go on.
    Spooled((LogPosition, u64, LogPosition), Result<(), StoreError>),
    Projected(Result<(), StoreError>),
}

/// How a running attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Settled,
    TimedOut,
    Canceled,
    Lost,
}

/// A fault that ends by itself.
#[derive(Clone, Debug)]
pub(super) enum Repair {
    Thaw(ProcessNo),
    Restart(String),
    Reach,
    Rejoin(ProcessNo),
}

/// Something that happens at an instant.
#[derive(Debug)]
pub(super) enum Timed {
    /// A call reaches the store; the answer is lost unless `answered`.
    Arrive {
        caller: Caller,
        call: Call,
        answered: bool,
    },
    /// What was written is on disk.
    Synced {
        caller: Caller,
        answered: bool,
    },
    Answered(Caller, Answer),
    /// Events reach the bus, which confirms them or says that it could not take all.
    Publish {
        caller: Caller,
        events: Vec<Sighting>,
        confirmed: bool,
    },
    Confirmed(Caller, bool),
    SinkRetry(Caller),
    SinkTick(Caller),
    ListsTick(Caller),
    /// It is looked for archives that may go, or gone on with that.
    Forget(Caller, Look),
    /// Children of an execution whose actor failed are listed, after this one, and ask.
    AskChildren(Caller, ExecutionId, Option<ExecutionCursor>),
    CommitterRetry(Caller),
    /// Whatever held entries back has seen to them, or is gone.
    Go(Caller),
    /// The next message to an execution without an actor is delivered.
    Mail(Caller, ExecutionId),
    WriterRetry(Caller),
    CheckpointTick(Caller),
    TimersTick(Caller),
    RenewTick(Caller),
    ResumeRetry(Caller),
    Acquire(ProcessNo, ShardId),
    LoadRetry(ProcessNo, ActorNo),
    Deliver(ProcessNo, ExecutionId, ExecutionMessage),
    SaveQuarantine(ProcessNo, ExecutionId),
    /// A child's start was refused or not answered: the task tries again, unless it has moved on.
    StartAgain(ProcessNo, u64, u64),
    AttemptEnds(ProcessNo, u64, Ending),
    AttemptPoll(ProcessNo, u64),
    /// An attempt has waited for its turn as long as its node allows.
    QueueTimeout(ProcessNo, u64),
    /// A report arrives once more, or late.
    Redelivered(ExecutionId, Box<AttemptClosed>),
    Evaluated(ProcessNo, ActorNo),
    /// It is looked again whether executions that wait for room may be let in.
    RoomsPoll(ProcessNo),
    /// An operator gives its word, or has waited long enough for its answer.
    Operator(usize),
    OperatorGivesUp(usize, u64),
    /// A process is given somebody's word.
    Ask(ProcessNo, Box<Asked>),
    /// A shard obeys a word.
    InForce(Caller, Told),
    /// A stop looks for what it cancels; so many looks found nothing.
    CancelStopped(Caller, u32),
    /// What is in force in a healed world is lifted.
    LiftAll,
    /// The time of a breaker may be over.
    BreakerDue(ProcessNo, Arc<str>),
    Client(usize),
    GiveUp(usize, u64),
    Fault(Fault),
    Repair(Repair),
    Heal,
    /// Whoever still waits for a call in a healed world is answered by an operator.
    Nudge,
    /// What was set aside in a healed world is taken back.
    Release,
}

impl Timed {
    /// The process that must run for this to happen.
    pub(super) fn process(&self) -> Option<ProcessNo> {
        match self {
            Self::Answered(caller, _)
            | Self::Confirmed(caller, _)
            | Self::SinkRetry(caller)
            | Self::SinkTick(caller)
            | Self::ListsTick(caller)
            | Self::Forget(caller, _)
            | Self::AskChildren(caller, ..)
            | Self::CommitterRetry(caller)
            | Self::Go(caller)
            | Self::Mail(caller, _)
            | Self::WriterRetry(caller)
            | Self::CheckpointTick(caller)
            | Self::TimersTick(caller)
            | Self::RenewTick(caller)
            | Self::InForce(caller, _)
            | Self::CancelStopped(caller, _)
            | Self::ResumeRetry(caller) => Some(caller.process),
            Self::Acquire(process, _)
            | Self::LoadRetry(process, _)
            | Self::Deliver(process, ..)
            | Self::StartAgain(process, ..)
            | Self::SaveQuarantine(process, _)
            | Self::AttemptEnds(process, ..)
            | Self::AttemptPoll(process, _)
            | Self::Ask(process, _)
            | Self::BreakerDue(process, _)
            | Self::QueueTimeout(process, _)
            | Self::Evaluated(process, _)
            | Self::RoomsPoll(process) => Some(*process),
            Self::Arrive { .. }
            | Self::Synced { .. }
            | Self::Publish { .. }
            | Self::Redelivered(..)
            | Self::Operator(_)
            | Self::OperatorGivesUp(..)
            | Self::LiftAll
            | Self::Client(_)
            | Self::GiveUp(..)
            | Self::Fault(_)
            | Self::Repair(_)
            | Self::Heal
            | Self::Release
            | Self::Nudge => None,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Arrive { .. } => "arrive",
            Self::Synced { .. } => "synced",
            Self::Answered(..) => "answered",
            Self::Publish { .. } => "publish",
            Self::Confirmed(..) => "confirmed",
            Self::SinkRetry(_) => "sink retry",
            Self::SinkTick(_) => "sink tick",
            Self::ListsTick(_) => "lists tick",
            Self::Forget(..) => "forget",
            Self::AskChildren(..) => "ask children",
            Self::CommitterRetry(_) => "committer retry",
            Self::Go(_) => "go",
            Self::Mail(..) => "mail",
            Self::WriterRetry(_) => "writer retry",
            Self::CheckpointTick(_) => "checkpoint tick",
            Self::TimersTick(_) => "timers tick",
            Self::RenewTick(_) => "renew",
            Self::ResumeRetry(_) => "resume retry",
            Self::Acquire(..) => "acquire",
            Self::LoadRetry(..) => "load retry",
            Self::Deliver(..) => "deliver",
            Self::StartAgain(..) => "start again",
            Self::SaveQuarantine(..) => "save quarantine",
            Self::AttemptEnds(..) => "attempt ends",
            Self::AttemptPoll(..) => "attempt poll",
            Self::QueueTimeout(..) => "queue timeout",
            Self::Redelivered(..) => "redelivered",
            Self::Evaluated(..) => "evaluated",
            Self::RoomsPoll(_) => "rooms poll",
            Self::Operator(_) => "operator",
            Self::OperatorGivesUp(..) => "operator gives up",
            Self::Ask(..) => "ask",
            Self::InForce(..) => "in force",
            Self::CancelStopped(..) => "cancel stopped",
            Self::LiftAll => "lift all",
            Self::BreakerDue(..) => "breaker due",
            Self::Client(_) => "client",
            Self::GiveUp(..) => "give up",
            Self::Fault(_) => "fault",
            Self::Repair(_) => "repair",
            Self::Heal => "heal",
            Self::Release => "release",
            Self::Nudge => "nudge",
        }
    }
}

/// What is going to happen.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    events: BTreeMap<(Timestamp, u32, u64), Timed>,
    count: u64,
}

impl Schedule {
    pub(super) fn at(&mut self, at: Timestamp, event: Timed, random: &mut Random) {
        self.count += 1;
        let order = u32::try_from(random.next() >> 32).unwrap_or(u32::MAX);
        self.events.insert((at, order, self.count), event);
    }

    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.events.first_key_value().map(|((at, ..), _)| *at)
    }

    pub(super) fn pop(&mut self) -> Option<Timed> {
        self.events.pop_first().map(|(_, event)| event)
    }

    /// Drops everything that only a dead process would have done.
    pub(super) fn forget(&mut self, process: ProcessNo) {
        self.events.retain(|_, event| event.process() != Some(process));
    }

    /// Drops calls of a dead process that have not reached the store: both were one process.
    pub(super) fn forget_calls(&mut self, process: ProcessNo) {
        self.events.retain(|_, event| match event {
            Timed::Arrive { caller, .. } | Timed::Synced { caller, .. } => caller.process != process,
            _ => true,
        });
    }
}

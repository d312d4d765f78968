//! What goes into an execution's machine and what comes out: the words between it and whatever shell surrounds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use troupe_core::control::ControlsSeen;
use troupe_core::execution::{
    AttemptClosed, ChildCommand, ChildId, ChildOutcome, ChildReport, Decision, Entry, ErrorWorkflow, Event,
    ExecutionState, OfferOutput, Parent, Remedy, Reopening, StartAttempt, StartChild, StartErrorWorkflow, Started,
};
use troupe_core::{CommandId, ErrorInfo, ExecutionId, Principal, Seq, Timestamp, Token, Value};
use troupe_ports::ExecutionSummary;

use crate::error::EngineError;
use crate::evaluation::{Job, JobAnswer};
use crate::options::Mutants;
use crate::record::Mark;
use crate::request::{CommandOutcome, Ended, StartOutcome};

/// What an execution's machine must know of its engine.
#[derive(Clone, Copy, Debug)]
pub struct MachineOptions {
    /// See [`crate::EngineOptions::passivate_after_ms`].
    pub passivate_after_ms: u64,
    /// See [`crate::EngineOptions::retention_ms`].
    pub retention_ms: u64,
    /// See [`crate::EngineOptions::evaluation_rounds_max`].
    pub evaluation_rounds_max: u32,
    /// Faults to plant.
    pub mutants: Mutants,
}

/// What happens to the machine. `R` is whatever the shell replies through.
#[derive(Debug)]
pub enum Input<R> {
    /// The first event of a new execution.
    Start(Box<Started>, Option<Principal>, R),
    /// An attempt ended.
    Report(Box<AttemptClosed>),
    /// An attempt's actor is gone and never reported.
    NodeGone(Token, Timestamp, Box<ErrorInfo>),
    /// A command of an operator.
    Command(Box<CommandInput>, R),
    /// A deadline may be due.
    Wake,
    /// Continue after a takeover: what was outstanding is dispatched again. `drained`: the engine that ran it was stopped on
    /// purpose, so nobody counts that.
    TakeOver {
        /// See [`Input::TakeOver`].
        drained: bool,
    },
    /// It may run beside others of its workflow.
    Admitted,
    /// Controls of a wider scope changed in what concerns the execution.
    Controls(Box<ControlsSeen>),
    /// Everything up to this seq is durable.
    Durable(Seq),
    /// Somebody wants to see the execution.
    Read(R),
    /// What became of a child execution.
    ChildReported(ChildReport),
    /// A child execution has begun, or goes on after its owner was lost.
    ChildAlive(ChildId),
    /// What this execution told its children last may be lost: a child of it asks.
    AskParent(ExecutionId),
    /// Children of [`Action::Bear`] that did not begin: they are started once the entry that wants them is durable.
    Unborn(Vec<StartChild>),
    /// What became of the error workflow.
    ErrorWorkflow(ErrorWorkflow),
    /// An error workflow of [`Action::BearErrorWorkflow`] that did not begin: it is started once the entry that wants it is
    /// durable.
    UnbornErrorWorkflow(StartErrorWorkflow),
    /// Answers to [`Action::Evaluate`], in its order.
    Evaluated(Vec<JobAnswer>),
}

/// A command with who gave it.
#[derive(Clone, Debug)]
pub struct CommandInput {
    /// What is wanted.
    pub wanted: Wanted,
    /// Who.
    pub principal: Option<Principal>,
    /// Its id.
    pub command: Option<CommandId>,
}

/// What a command wants.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Of the execution.
    Event(Event),
    /// Of one of its nodes, by id.
    OfNode(String, NodeCommand),
    /// Of its failed nodes.
    Reopen(Reopen),
}

/// What a command wants of failed nodes.
#[derive(Clone, Debug)]
pub struct Reopen {
    /// Their ids; none means every one whose failure nothing handled.
    pub nodes: Vec<String>,
    /// What becomes of them.
    pub remedy: Remedy,
    /// Why, for people.
    pub reason: Option<String>,
    /// Controls that a next run begins under: the execution's actor fills them in.
    pub controls: Option<Box<ControlsSeen>>,
}

/// What a command wants of a node.
#[derive(Clone, Debug)]
pub enum NodeCommand {
    /// A call for it came.
    Signal(Value),
    /// Whoever works on what it waits for is alive.
    Heartbeat,
    /// It ends so.
    Decide(Decision),
}

/// What the shell must do, in order.
#[derive(Debug)]
pub enum Action<R> {
    /// Hand an entry to the committer.
    Commit(Box<Draft>),
    /// Have these done by the sandbox and the store, then give [`Input::Evaluated`] before anything else.
    Evaluate(Vec<Job>),
    /// Start an attempt.
    Start(Dispatch),
    /// Abort an attempt.
    Abort(Token),
    /// These children may begin in the record of the entries that are handed over now: their first entries are durable with
    /// the entry that wants them. Those that cannot are given back with [`Input::Unborn`].
    Bear(Vec<StartChild>),
    /// As [`Action::Bear`] for the error workflow: given back with [`Input::UnbornErrorWorkflow`], or told with
    /// [`Input::ErrorWorkflow`].
    BearErrorWorkflow(StartErrorWorkflow),
    /// Start a child execution, unless it is there.
    StartChild(StartChild),
    /// Start the error workflow, unless it is there, and tell with [`Input::ErrorWorkflow`].
    StartErrorWorkflow(StartErrorWorkflow),
    /// Tell a child execution something.
    TellChild(ChildId, ChildCommand),
    /// Tell the parent what became of this execution, once the committer has been handed the entries of the same call: the
    /// parent's entry then follows them in the log, so that the parent never knows of an end that is lost.
    TellParent(Parent, ChildOutcome),
    /// Ask whether the execution may run beside others of its workflow; [`Input::Admitted`] says so.
    AskForRoom,
    /// The execution runs beside others of its workflow, of which the engine did not know.
    HasRoom,
    /// Ask the parent whether it still wants this execution.
    AskParent(Parent),
    /// Keep an output for reuse; it does not matter when.
    OfferOutput(OfferOutput),
    /// A wider scope keeps it from going on: it would at this time, or wants to no longer.
    HeldBack(Option<Timestamp>),
    /// Attempts that wait for their turn must not start: the execution is paused.
    HoldQueued,
    /// They may start again.
    ReleaseQueued,
    /// Answer.
    Reply(R, Reply),
    /// The earliest deadline is now this one.
    Deadline(Option<Timestamp>),
    /// It cannot go on; an operator must look.
    SetAside(String),
    /// The end is durable: tell whoever waits for it.
    Finished(Ended),
}

/// An attempt to start, with what its handler may see.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The attempt.
    pub start: StartAttempt,
    /// Variables as they were when it was dispatched.
    pub variables: Arc<BTreeMap<String, Value>>,
}

/// An answer to whoever asked.
#[derive(Debug)]
pub enum Reply {
    /// The execution exists, durably.
    Started(StartOutcome),
    /// The command is durable. `draining` counts outstanding attempts; the shell knows which of them truly run.
    Commanded(CommandOutcome),
    /// The retry or skip of failed nodes is durable.
    Reopened(CommandOutcome, Box<Reopening>),
    /// The execution at a durable entry.
    View(Box<ExecutionState>),
    /// It was refused.
    Refused(EngineError),
}

/// An entry with what the checkpoint and the projections need beside it.
#[derive(Debug)]
pub struct Draft {
    /// The entry.
    pub entry: Entry,
    /// How the execution stands after it.
    pub mark: Mark,
    /// The state at this entry, encoded, when segments outgrew the last snapshot.
    pub snapshot: Option<Bytes>,
    /// What lists show, where this entry changed that.
    pub summary: Option<Box<ExecutionSummary>>,
    /// The end, on the last entry.
    pub end: Option<Box<EndMark>>,
    /// Business key's derived id and ordinal, on the first entry of a keyed execution.
    pub head: Option<(ExecutionId, u64)>,
}

/// What an archive needs of an execution that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndMark {
    /// The final state, encoded.
    pub state: Bytes,
    /// When the archive may go.
    pub expires_at: Timestamp,
}

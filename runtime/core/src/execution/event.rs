//! What can happen to an execution, and the log entry that records it.

use minicbor::{Decode, Encode};

use crate::id::{CommandId, ExecutionId, NodeIx, Principal, Run, Seq, Timestamp, Token, Visit, WorkflowId};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Json, Value};

use super::error_workflow::ErrorWorkflow;
use super::reopen::Reopened;
use super::rerun::Rerun;
use super::transition::{Transition, Verb};
use crate::control::ControlsSeen;

/// Everything that can happen to an execution. Past tense; with its answers it is all a replay needs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Event {
    /// The execution was created and its roots fired.
    #[n(0)]
    Started(#[n(0)] Box<Started>),
    /// An attempt ended, one way or another.
    #[n(1)]
    AttemptClosed(#[n(0)] Box<AttemptClosed>),
    /// Every deadline due at the entry's time fired, in due order.
    #[n(2)]
    DeadlineReached,
    /// An operator paused the execution.
    #[n(3)]
    Paused,
    /// An operator resumed the execution.
    #[n(4)]
    Resumed,
    /// An operator asked for cancellation.
    #[n(5)]
    CancelRequested {
        /// Why, for people.
        #[n(0)]
        reason: Option<String>,
        /// How long running attempts may take to stop, in milliseconds.
        #[n(1)]
        grace_ms: u64,
        /// Ends the execution at once: no grace (`terminateExisting`).
        #[n(2)]
        at_once: bool,
    },
    /// The engine that ran the outstanding attempts is gone; they are dispatched again.
    #[n(6)]
    Interrupted,
    /// The engine that ran the outstanding attempts was stopped on purpose; they are dispatched again, and nobody counts
    /// that against them.
    #[n(7)]
    Drained,
    /// A call came for a node that waits for one, or will.
    #[n(8)]
    Signaled {
        /// The node.
        #[n(0)]
        node: NodeIx,
        /// The call: `{body, headers, query, method}`.
        #[n(1)]
        call: Value,
    },
    /// Whoever works on what a node waits for is still alive.
    #[n(9)]
    Heartbeat(#[n(0)] NodeIx),
    /// An operator decided how a waiting node ends.
    #[n(10)]
    Decided {
        /// The node.
        #[n(0)]
        node: NodeIx,
        /// How.
        #[n(1)]
        decision: Decision,
    },
    /// An operator set variables; where there are none it is [`Event::nothing`].
    #[n(11)]
    VariablesSet(#[n(0)] Vec<(String, Value)>),
    /// Child executions ended, or began where nobody waits for their end.
    #[n(12)]
    Children(#[n(0)] Vec<ChildReport>),
    /// The parent is paused, and so is its child.
    #[n(13)]
    PausedWithParent,
    /// The parent goes on, and so does its child, unless an operator paused that too.
    #[n(14)]
    ResumedWithParent,
    /// The execution was created and waits: only so many of its workflow run at once (`settings.concurrency`).
    #[n(25)]
    Queued(#[n(0)] Box<Started>),
    /// It may run, and its roots fired.
    #[n(26)]
    Admitted,
    /// An operator had failed nodes run again, or count as skipped: an execution that had ended goes on.
    #[n(30)]
    Reopened(#[n(0)] Box<Reopened>),
    /// The error workflow of an execution that has failed was started, or cannot be.
    #[n(35)]
    ErrorWorkflow(#[n(0)] ErrorWorkflow),
    /// An operator paused the execution, and its clocks stand still until it goes on.
    #[n(15)]
    Frozen,
    /// The parent is paused with its clocks, and so is its child.
    #[n(16)]
    FrozenWithParent,
    /// Controls of a wider scope changed in what concerns the execution.
    #[n(17)]
    ControlsChanged(#[n(0)] Box<ControlsSeen>),
}

impl Event {
    /// What an entry records that only keeps the id of a command: nothing changed. It is no kind of its own, which releases
    /// before this one could not read.
    #[must_use]
    pub fn nothing() -> Self {
        Self::VariablesSet(Vec::new())
    }

    /// Whether it is [`Event::nothing`].
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::VariablesSet(variables) if variables.is_empty())
    }

    /// What an execution began with; none of an event that is not its first.
    #[must_use]
    pub fn start(&self) -> Option<&Started> {
        if let Self::Started(started) | Self::Queued(started) = self {
            Some(started)
        } else {
            None
        }
    }
}

/// Names a child execution within its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ChildId {
    /// The parent's run.
    #[n(0)]
    pub run: Run,
    /// The parent's node.
    #[n(1)]
    pub node: NodeIx,
    /// The node's visit.
    #[n(2)]
    pub visit: Visit,
    /// Which child of the visit, from 0.
    #[n(3)]
    pub index: u32,
}

/// What a parent learns of a child.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChildReport {
    /// Which child.
    #[n(0)]
    pub child: ChildId,
    /// What became of it.
    #[n(1)]
    pub outcome: ChildOutcome,
}

/// What became of a child.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ChildOutcome {
    /// It has begun, and nobody waits for its end. Its id.
    #[n(0)]
    Began(#[n(0)] ExecutionId),
    /// It completed with this output.
    #[n(1)]
    Completed(#[n(0)] Value),
    /// It failed, was canceled or could not be started.
    #[n(2)]
    Failed(#[n(0)] ErrorInfo),
}

/// Who started a child execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Parent {
    /// The execution.
    #[n(0)]
    pub execution: ExecutionId,
    /// Which child of it this is.
    #[n(1)]
    pub child: ChildId,
    /// Whether its end is awaited: if not, it lives on its own.
    #[n(2)]
    pub attached: bool,
    /// How many executions are above it.
    #[n(3)]
    pub depth: u32,
    /// The topmost execution that waits for it through others: large values of the whole family are kept under it.
    #[n(4)]
    pub root: Option<ExecutionId>,
}

/// How an operator has a node end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Decision {
    /// A waiting node completes with this output.
    #[n(0)]
    Complete(#[n(0)] Value),
    /// A waiting node fails.
    #[n(1)]
    Fail(#[n(0)] ErrorInfo),
    /// A node that has not ended does not run: it completes with this output, or is skipped without one.
    #[n(2)]
    Skip(#[n(0)] Option<Value>),
}

/// A start, with everything that was given.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Started {
    /// The execution's id.
    #[n(0)]
    pub id: ExecutionId,
    /// The workflow it runs.
    #[n(1)]
    pub workflow: WorkflowId,
    /// The version it stays on.
    #[n(2)]
    pub version: u32,
    /// The start payload.
    #[n(3)]
    pub input: Value,
    /// Variables given at the start; they override the definition's defaults.
    #[n(4)]
    pub variables: Vec<(String, Value)>,
    /// Custom metadata, a JSON object.
    #[n(5)]
    pub metadata: Option<Json>,
    /// Id of the trigger node that fired, if one was named.
    #[n(6)]
    pub trigger: Option<String>,
    /// Business key.
    #[n(7)]
    pub execution_key: Option<String>,
    /// Request key that the id was derived from.
    #[n(8)]
    pub request_key: Option<String>,
    /// Priority 0–9, if it differs from the definition's.
    #[n(9)]
    pub priority: Option<u8>,
    /// Which run of the business key this is, from 0.
    #[n(10)]
    pub key_ordinal: Option<u64>,
    /// Who started it, if another execution did.
    #[n(11)]
    pub parent: Option<Parent>,
    /// What it takes over from another execution, if it is a rerun.
    #[n(20)]
    pub rerun: Option<Box<Rerun>>,
    /// Controls of a wider scope that it begins under, if some hold it.
    #[n(12)]
    pub controls: Option<Box<ControlsSeen>>,
    /// See [`super::ExecutionState::handles_failure_of`].
    #[n(21)]
    pub handles_failure_of: Option<ExecutionId>,
    /// See [`super::ExecutionState::trace_parent`].
    #[n(22)]
    pub trace_parent: Option<String>,
}

impl Started {
    /// A start of its own with this input and nothing else given.
    #[must_use]
    pub fn of(id: ExecutionId, plan: &Plan, input: Value) -> Self {
        Self {
            id,
            workflow: plan.workflow.clone(),
            version: plan.version,
            input,
            variables: Vec::new(),
            metadata: None,
            trigger: None,
            execution_key: None,
            request_key: None,
            priority: None,
            key_ordinal: None,
            parent: None,
            rerun: None,
            controls: None,
            handles_failure_of: None,
            trace_parent: None,
        }
    }

    /// As [`super::ExecutionState::blob_root`], before there is a state.
    #[must_use]
    pub fn blob_root(&self) -> Option<ExecutionId> {
        super::state::blob_root(self.id, self.parent.as_ref())
    }
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AttemptClosed {
    /// Which attempt.
    #[n(0)]
    pub token: Token,
    /// When it truly started.
    #[n(1)]
    pub started_at: Timestamp,
    /// How it ended.
    #[n(2)]
    pub outcome: AttemptOutcome,
    /// What the handler logged.
    #[n(3)]
    pub logs: Option<Box<Vec<LogLine>>>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AttemptOutcome {
    /// With an output.
    #[n(0)]
    Completed(#[n(0)] Value),
    /// With an error.
    #[n(1)]
    Failed(#[n(0)] Box<AttemptFailure>),
}

/// Why an attempt failed, and what the handler thinks of another try.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AttemptFailure {
    /// The error.
    #[n(0)]
    pub error: ErrorInfo,
    /// False when the handler says that another attempt is pointless.
    #[n(1)]
    pub retryable: bool,
    /// Least delay before the next attempt, in milliseconds, as the target asked.
    #[n(2)]
    pub retry_after_ms: Option<u64>,
}

/// A line that a handler logged.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    /// `debug`, `info`, `warn` or `error`.
    #[n(0)]
    pub level: String,
    /// The text.
    #[n(1)]
    pub message: String,
}

/// What an earlier attempt gave under a node's cache key, if that is known.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CachedOutput {
    /// The node.
    #[n(0)]
    pub node: NodeIx,
    /// SHA-256 of the node's definition and the key's value.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// The output.
    #[n(2)]
    pub output: Option<Value>,
}

/// An event as the log keeps it. Folding entries over a state gives the next state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Position in the execution's history, from 1.
    #[n(0)]
    pub seq: Seq,
    /// When it was applied.
    #[n(1)]
    pub at: Timestamp,
    /// What happened.
    #[n(2)]
    pub event: Event,
    /// The answers that applying it used, in the order in which they were asked for.
    #[n(3)]
    pub answers: Vec<Answer>,
    /// What changed, for sinks: they derive lifecycle events without folding.
    #[n(4)]
    pub transitions: Vec<Transition>,
    /// Who caused it; none is the system itself.
    #[n(5)]
    pub principal: Option<Principal>,
    /// The command that caused it, for exactly-once application; also one that changed nothing.
    #[n(6)]
    pub command: Option<CommandId>,
}

impl Entry {
    /// Whether the execution had ended before it.
    #[must_use]
    pub fn reopens(&self) -> bool {
        let starts = || self.transitions.first().and_then(|first| first.verb()) == Some(Verb::ExecutionStarted);
        matches!(self.event, Event::Reopened(_)) && starts()
    }
}

/// Answer to one [`super::Question`], recorded so that a replay never evaluates again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// A schema was met.
    #[n(0)]
    Valid,
    /// A condition's truth, and the value that decided it where that is not a boolean.
    #[n(1)]
    Truth {
        /// JavaScript truthiness of the value.
        #[n(0)]
        taken: bool,
        /// The value, if it is no boolean and small ("explain").
        #[n(1)]
        seen: Option<Json>,
    },
    /// An expression's value.
    #[n(2)]
    Value(#[n(0)] Value),
    /// Variables to write, by name.
    #[n(3)]
    Variables(#[n(0)] Vec<(String, Value)>),
    /// A node's mapped input and its data with templates resolved; none where the definition maps or templates nothing.
    #[n(4)]
    Prepared {
        /// The mapped input.
        #[n(0)]
        input: Option<Value>,
        /// The resolved data, secrets still as references.
        #[n(1)]
        data: Option<Value>,
    },
    /// The evaluation threw, or a schema was violated.
    #[n(5)]
    Threw(#[n(0)] Box<ErrorInfo>),
    /// A composed value as it is kept: in place, or as a reference.
    #[n(6)]
    Kept(#[n(0)] Value),
    /// Why a composed value cannot be kept.
    #[n(7)]
    NotKept(#[n(0)] Box<ErrorInfo>),
    /// What is known under a node's cache key.
    #[n(8)]
    Cached(#[n(0)] Box<CachedOutput>),
}

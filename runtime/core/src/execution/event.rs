//! What can happen to an execution, and the log entry that records it.

use minicbor::{Decode, Encode};

use crate::id::{CommandId, ExecutionId, Principal, Seq, Timestamp, Token, WorkflowId};
use crate::value::{ErrorInfo, Json, Value};

use super::transition::Transition;

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
    /// The command that caused it, for exactly-once application.
    #[n(6)]
    pub command: Option<CommandId>,
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
}

//! What an entry changed, packed small: sinks derive lifecycle events, metrics and projections from it.

use minicbor::{Decode, Encode};

use crate::id::NodeIx;

/// One change, packed in 32 bits: the verb in the low five, the node above it.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Transition(#[n(0)] u32);

/// What happened to an execution or to one of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verb {
    /// The execution came to be.
    ExecutionCreated = 0,
    /// Its roots fired.
    ExecutionStarted = 1,
    /// No new attempt starts.
    ExecutionPaused = 2,
    /// Attempts start again.
    ExecutionResumed = 3,
    /// It ended well.
    ExecutionCompleted = 4,
    /// It ended with an error.
    ExecutionFailed = 5,
    /// It was canceled.
    ExecutionCanceled = 6,
    /// What completed is being undone.
    ExecutionCompensating = 7,
    /// An attempt of the node was dispatched.
    NodeScheduled = 8,
    /// The node waits for time or for a signal.
    NodeWaiting = 9,
    /// The node waits for its next attempt.
    NodeRetrying = 10,
    /// The node ended well.
    NodeCompleted = 11,
    /// The node failed for good.
    NodeFailed = 12,
    /// The node will not run.
    NodeSkipped = 13,
    /// The node was canceled.
    NodeCanceled = 14,
    /// An interrupted attempt was dispatched again.
    NodeInterrupted = 15,
    /// An attempt started. Never in an entry's transitions: derived from the entry that closes the attempt.
    NodeStarted = 16,
}

/// Each at the place of its number.
const VERBS: [Verb; 17] = [
    Verb::ExecutionCreated,
    Verb::ExecutionStarted,
    Verb::ExecutionPaused,
    Verb::ExecutionResumed,
    Verb::ExecutionCompleted,
    Verb::ExecutionFailed,
    Verb::ExecutionCanceled,
    Verb::ExecutionCompensating,
    Verb::NodeScheduled,
    Verb::NodeWaiting,
    Verb::NodeRetrying,
    Verb::NodeCompleted,
    Verb::NodeFailed,
    Verb::NodeSkipped,
    Verb::NodeCanceled,
    Verb::NodeInterrupted,
    Verb::NodeStarted,
];

impl Verb {
    /// The verb of this number; none when a newer release has given it.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        VERBS.get(usize::from(code)).copied()
    }

    /// The word of event types and routing keys: `completed` of `troupe.node.completed.v1`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ExecutionCreated => "created",
            Self::ExecutionStarted | Self::NodeStarted => "started",
            Self::ExecutionPaused => "paused",
            Self::ExecutionResumed => "resumed",
            Self::ExecutionCompleted | Self::NodeCompleted => "completed",
            Self::ExecutionFailed | Self::NodeFailed => "failed",
            Self::ExecutionCanceled | Self::NodeCanceled => "canceled",
            Self::ExecutionCompensating => "compensating",
            Self::NodeScheduled => "scheduled",
            Self::NodeWaiting => "waiting",
            Self::NodeRetrying => "retrying",
            Self::NodeSkipped => "skipped",
            Self::NodeInterrupted => "interrupted",
        }
    }

    /// What it happened to, as event types and routing keys say it: `execution` or `node`.
    #[must_use]
    pub fn entity(self) -> &'static str {
        match self {
            Self::ExecutionCreated
            | Self::ExecutionStarted
            | Self::ExecutionPaused
            | Self::ExecutionResumed
            | Self::ExecutionCompleted
            | Self::ExecutionFailed
            | Self::ExecutionCanceled
            | Self::ExecutionCompensating => "execution",
            Self::NodeScheduled
            | Self::NodeWaiting
            | Self::NodeRetrying
            | Self::NodeCompleted
            | Self::NodeFailed
            | Self::NodeSkipped
            | Self::NodeCanceled
            | Self::NodeInterrupted
            | Self::NodeStarted => "node",
        }
    }

    /// Whether it ends an execution.
    #[must_use]
    pub fn ends_execution(self) -> bool {
        matches!(
            self,
            Self::ExecutionCompleted | Self::ExecutionFailed | Self::ExecutionCanceled
        )
    }
}

impl Transition {
    /// A change of the execution itself.
    #[must_use]
    pub fn execution(verb: Verb) -> Self {
        Self(verb as u32)
    }

    /// A change of a node.
    #[must_use]
    pub fn node(verb: Verb, node: NodeIx) -> Self {
        Self((node.0 << 5) | verb as u32)
    }

    /// The verb; none when a newer release wrote one that this release does not know.
    #[must_use]
    pub fn verb(self) -> Option<Verb> {
        Verb::from_code((self.0 & 31) as u8)
    }

    /// The node, for verbs of nodes; beyond the plan's nodes it is what undoes one.
    #[must_use]
    pub fn node_ix(self) -> Option<NodeIx> {
        (self.0 & 31 >= 8).then_some(NodeIx(self.0 >> 5))
    }
}

impl std::fmt::Debug for Transition {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}", self.verb())?;
        self.node_ix().map_or(Ok(()), |node| write!(out, "({node})"))
    }
}

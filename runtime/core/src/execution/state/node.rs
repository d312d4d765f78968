//! What is kept of a node: where it stands, what it was given and gave, its attempts and deadlines.

use minicbor::{Decode, Encode};

use crate::id::{Attempt, EdgeIx, NodeIx, Timestamp, Token, Visit};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Json, Value};

/// What is known of a node, in its latest visit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeState {
    /// Which visit this is, from 1; 0 where the result is that of another execution (a rerun).
    #[n(0)]
    pub visit: Visit,
    /// Where it stands.
    #[n(1)]
    pub phase: Phase,
    /// Edges that arrived taken.
    #[n(2)]
    pub taken: u32,
    /// Edges that arrived dead.
    #[n(3)]
    pub dead: u32,
    /// When the first edge arrived, for the join's deadline.
    #[n(4)]
    pub first_arrival_at: Option<Timestamp>,
    /// Reached through an `always` edge: it runs although the execution fails.
    #[n(5)]
    pub cleanup: bool,
    /// Where its input comes from, once it is ready.
    #[n(6)]
    pub input: Input,
    /// Its data with templates resolved, where it has templates.
    #[n(7)]
    pub data: Option<Value>,
    /// Its output, once completed.
    #[n(8)]
    pub output: Option<Value>,
    /// What its failure edges carry, once failed.
    #[n(9)]
    pub failure: Option<Box<NodeFailure>>,
    /// Attempts that ended, oldest first.
    #[n(10)]
    pub attempts: Vec<AttemptRecord>,
    /// How often its attempts were interrupted by a crash of the engine, all of them together.
    #[n(11)]
    pub interruptions: u32,
    /// When it became ready.
    #[n(12)]
    pub scheduled_at: Option<Timestamp>,
    /// When it ended.
    #[n(13)]
    pub ended_at: Option<Timestamp>,
    /// When all its attempts and backoffs together must be over.
    #[n(14)]
    pub total_deadline: Option<Timestamp>,
    /// When its latest attempt was dispatched. Its true start, a little later, comes with its end.
    #[n(15)]
    pub dispatched_at: Option<Timestamp>,
    /// The visit before this one, without its input and data.
    #[n(16)]
    pub ended: Option<Box<NodeState>>,
    /// It was skipped or canceled only because the whole execution came to its end.
    #[n(20)]
    pub cut_off: Option<CutOff>,
    /// Whether its output was reused or may be, where it has `data.cache`.
    #[n(17)]
    pub cache: Option<Box<CacheUse>>,
    /// What `concurrency.key` gave when it became ready.
    #[n(18)]
    pub concurrency_key: Option<Json>,
    /// Seq of the step that saved this state for a rollback. Never persisted.
    #[cbor(skip)]
    pub(in crate::execution) stamp: Stamp,
}

/// What a node's cache key found.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CacheUse {
    /// Its output was reused: no attempt ran.
    #[n(0)]
    Hit,
    /// Nothing: its output is offered under this key.
    #[n(1)]
    Miss(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]),
}

/// Bookkeeping of one process: it never tells two states apart.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::execution) struct Stamp(pub(in crate::execution) u64);

impl PartialEq for Stamp {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Stamp {}

/// Why a node failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeFailure {
    /// The error.
    #[n(0)]
    pub error: ErrorInfo,
    /// `{error, input}`, as failure edges carry it, where one is taken.
    #[n(1)]
    pub payload: Option<Value>,
    /// Whether a failure edge was taken, also one back to the header of a loop that ended all the same. None where it failed
    /// before that was kept.
    #[n(2)]
    pub handled: Option<bool>,
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Phase {
    /// It waits for its edges.
    #[n(0)]
    Pending,
    /// It may run but was not dispatched yet: it is in [`ExecutionState::held`].
    #[n(1)]
    Ready,
    /// An attempt is outstanding.
    #[n(2)]
    Running {
        /// The current attempt.
        #[n(0)]
        token: Token,
    },
    /// It waits for its next attempt.
    #[n(3)]
    Backoff {
        /// When the next attempt starts.
        #[n(0)]
        until: Timestamp,
        /// Number of the next attempt.
        #[n(1)]
        next: Attempt,
    },
    /// A delay node waits.
    #[n(4)]
    Delaying {
        /// When it completes.
        #[n(0)]
        until: Timestamp,
    },
    /// A cancellation waits for its attempt to stop.
    #[n(5)]
    Canceling {
        /// The attempt.
        #[n(0)]
        token: Token,
    },
    /// Ended well.
    #[n(6)]
    Completed,
    /// Failed for good.
    #[n(7)]
    Failed,
    /// Will not run.
    #[n(8)]
    Skipped,
    /// Was canceled.
    #[n(9)]
    Canceled,
    /// A loop's header waits for the next step: its loop has gone round too often in one.
    #[n(10)]
    Turning {
        /// When the next generation starts: at once.
        #[n(0)]
        at: Timestamp,
    },
    /// It waits for a call.
    #[n(11)]
    Waiting {
        /// When it has waited long enough.
        #[n(0)]
        until: Option<Timestamp>,
        /// When the next heartbeat must have come.
        #[n(1)]
        heartbeat_by: Option<Timestamp>,
    },
    /// It waits for its child executions.
    #[n(12)]
    Parenting,
}

impl Phase {
    /// Whether the node has ended.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Pending
            | Self::Ready
            | Self::Running { .. }
            | Self::Backoff { .. }
            | Self::Delaying { .. }
            | Self::Turning { .. }
            | Self::Waiting { .. }
            | Self::Parenting
            | Self::Canceling { .. } => false,
            Self::Completed | Self::Failed | Self::Skipped | Self::Canceled => true,
        }
    }

    /// The name on the wire: `pending`, `running`, `completed`, `failed`, `skipped` or `canceled`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending | Self::Ready | Self::Turning { .. } => "pending",
            Self::Running { .. }
            | Self::Backoff { .. }
            | Self::Delaying { .. }
            | Self::Waiting { .. }
            | Self::Parenting
            | Self::Canceling { .. } => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Canceled => "canceled",
        }
    }
}

/// Why a node was skipped or canceled that might have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum CutOff {
    /// Its execution failed, was canceled, or was ended by another node.
    #[n(0)]
    WithExecution,
}

/// Where a node's input comes from. Only a mapped one costs bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Input {
    /// It has none: it never became ready.
    #[n(0)]
    None,
    /// The start payload (a root).
    #[n(1)]
    Start,
    /// What one taken edge carried.
    #[n(2)]
    Edge(#[n(0)] EdgeIx),
    /// An object keyed by source, of what these taken edges carried, in edge order.
    #[n(3)]
    Edges(#[n(0)] Vec<EdgeIx>),
    /// What `inputMapping` gave, fixed for the visit.
    #[n(4)]
    Mapped(#[n(0)] Value),
    /// What the back edges carried that began this generation of the loop: their sources have moved on. Or what a rerun was
    /// given for the node from which it runs.
    #[n(5)]
    Carried(#[n(0)] Value),
    /// `{input, output}` of the visit that is undone.
    #[n(6)]
    Compensated,
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AttemptRecord {
    /// Its number, from 1.
    #[n(0)]
    pub attempt: Attempt,
    /// When it started.
    #[n(1)]
    pub started_at: Timestamp,
    /// When it ended.
    #[n(2)]
    pub ended_at: Timestamp,
    /// Its error; none when it completed.
    #[n(3)]
    pub error: Option<Box<ErrorInfo>>,
    /// Its output, once completed (before `data.output` replaced it).
    #[n(4)]
    pub output: Option<Value>,
    /// What cut it short, if it did not end by itself: it is no attempt of its own, the same one is dispatched again.
    #[n(5)]
    pub cut_short: Option<Stop>,
}

/// How the engine that ran the outstanding attempts ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Stop {
    /// By itself: perhaps one of the attempts is to blame.
    #[n(0)]
    Crash,
    /// On purpose: no attempt is to blame.
    #[n(1)]
    Planned,
}

/// What a deadline is for. The order settles ties at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// The whole execution.
    Execution,
    /// The grace of a cancellation.
    CancelGrace,
    /// A join waits no longer.
    Join(NodeIx),
    /// A delay node completes.
    Delay(NodeIx),
    /// The next attempt starts.
    Retry(NodeIx),
    /// All attempts and backoffs of a node together.
    NodeTotal(NodeIx),
    /// The next generation of a loop starts, at its header.
    Turn(NodeIx),
    /// A node has waited long enough for a call, or for a heartbeat.
    Wait(NodeIx),
}

impl Deadline {
    /// The node that it is of; none of the execution itself.
    #[must_use]
    pub fn node(self) -> Option<NodeIx> {
        match self {
            Self::Execution | Self::CancelGrace => None,
            Self::Join(ix)
            | Self::Delay(ix)
            | Self::Retry(ix)
            | Self::NodeTotal(ix)
            | Self::Turn(ix)
            | Self::Wait(ix) => Some(ix),
        }
    }
}

impl NodeState {
    /// The node as it begins its next visit: nothing of this one is left but its result.
    pub(in crate::execution) fn next_visit(&self) -> Self {
        let ended = Self {
            input: Input::None,
            data: None,
            ended: None,
            concurrency_key: None,
            ..self.clone()
        };
        Self {
            visit: Visit(self.visit.0.saturating_add(1)),
            ended: Some(Box::new(ended)),
            stamp: self.stamp,
            ..Self::new()
        }
    }

    /// The node in its latest visit that has ended; none before the first end.
    #[must_use]
    pub fn latest_ended(&self) -> Option<&Self> {
        if self.phase.is_terminal() {
            return Some(self);
        }
        self.ended.as_deref()
    }

    /// A node of which this visit begins.
    pub(in crate::execution) fn of_visit(visit: Visit) -> Self {
        Self { visit, ..Self::new() }
    }

    pub(super) fn new() -> Self {
        Self {
            visit: Visit(1),
            phase: Phase::Pending,
            taken: 0,
            dead: 0,
            first_arrival_at: None,
            cleanup: false,
            input: Input::None,
            data: None,
            output: None,
            failure: None,
            attempts: Vec::new(),
            interruptions: 0,
            scheduled_at: None,
            ended_at: None,
            total_deadline: None,
            dispatched_at: None,
            ended: None,
            cut_off: None,
            cache: None,
            concurrency_key: None,
            stamp: Stamp::default(),
        }
    }

    /// The number of its next attempt: one that was cut short keeps its own.
    #[must_use]
    pub fn next_attempt(&self) -> Attempt {
        match self.attempts.last() {
            None => Attempt(1),
            Some(record) if record.was_interrupted() => record.attempt,
            Some(record) => Attempt(record.attempt.0.saturating_add(1)),
        }
    }

    /// How often crashes of the engine cut its outstanding attempt short.
    #[must_use]
    pub(in crate::execution) fn crashes_of_attempt(&self) -> usize {
        let attempt = self.next_attempt();
        let of_attempt = self
            .attempts
            .iter()
            .rev()
            .take_while(|record| record.attempt == attempt);
        of_attempt
            .filter(|record| record.cut_short == Some(Stop::Crash))
            .count()
    }

    /// How often attempts of it were cut short and dispatched again, counted or not.
    #[must_use]
    pub(in crate::execution) fn times_dispatched_again(&self) -> u32 {
        let again = self.attempts.iter().filter(|record| record.was_interrupted()).count();
        u32::try_from(again).unwrap_or(u32::MAX)
    }

    /// At most two: one of its phase, one of all its attempts together.
    pub(super) fn deadlines(&self, plan: &Plan, ix: NodeIx) -> [Option<(Timestamp, Deadline)>; 2] {
        let of_phase = match self.phase {
            Phase::Pending => self.first_arrival_at.and_then(|first| {
                let (timeout_ms, _) = plan.node(ix).join.timeout?;
                Some((first.plus_ms(timeout_ms), Deadline::Join(ix)))
            }),
            Phase::Backoff { until, .. } => Some((until, Deadline::Retry(ix))),
            Phase::Delaying { until } => Some((until, Deadline::Delay(ix))),
            Phase::Turning { at } => Some((at, Deadline::Turn(ix))),
            Phase::Waiting { until, heartbeat_by } => {
                let earliest = until.into_iter().chain(heartbeat_by).min();
                earliest.map(|at| (at, Deadline::Wait(ix)))
            }
            Phase::Ready | Phase::Running { .. } | Phase::Parenting | Phase::Canceling { .. } => None,
            Phase::Completed | Phase::Failed | Phase::Skipped | Phase::Canceled => None,
        };
        [of_phase, self.total_deadline.map(|at| (at, Deadline::NodeTotal(ix)))]
    }
}

impl AttemptRecord {
    /// Whether the end of an engine cut it short: unless its node was canceled it is dispatched again under the same number.
    #[must_use]
    pub fn was_interrupted(&self) -> bool {
        self.cut_short.is_some()
    }
}

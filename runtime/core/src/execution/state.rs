//! The state of an execution: enums carrying data, dense by node and edge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use minicbor::{Decode, Encode};

use crate::id::{Attempt, CommandId, EdgeIx, ExecutionId, NodeIx, Run, Seq, Timestamp, Token, Visit, WorkflowId};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Json, Value};

/// Everything that is known of an execution. Folding the same entries gives an equal state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ExecutionState {
    /// Its id.
    #[n(0)]
    pub id: ExecutionId,
    /// The workflow it runs.
    #[n(1)]
    pub workflow: WorkflowId,
    /// The version it stays on.
    #[n(2)]
    pub version: u32,
    /// Seq of the last entry applied; 0 before the first.
    #[n(3)]
    pub seq: Seq,
    /// The current run.
    #[n(4)]
    pub run: Run,
    /// Where it stands.
    #[n(5)]
    pub status: Status,
    /// No new attempt starts while set.
    #[n(6)]
    pub paused: bool,
    /// When it started.
    #[n(7)]
    pub started_at: Timestamp,
    /// When it ended.
    #[n(8)]
    pub ended_at: Option<Timestamp>,
    /// The start payload.
    #[n(9)]
    pub input: Value,
    /// Custom metadata, a JSON object.
    #[n(10)]
    pub metadata: Option<Json>,
    /// Business key.
    #[n(11)]
    pub execution_key: Option<String>,
    /// Priority 0–9.
    #[n(12)]
    pub priority: u8,
    /// Shared data between nodes.
    #[n(13)]
    pub variables: BTreeMap<String, Value>,
    /// By [`NodeIx`].
    #[n(14)]
    pub nodes: Vec<NodeState>,
    /// By [`EdgeIx`].
    #[n(15)]
    pub edges: Vec<EdgeState>,
    /// Ready nodes that no attempt was dispatched for yet (paused, or `maxParallelNodes` reached), oldest first.
    #[n(16)]
    pub held: VecDeque<NodeIx>,
    /// The first failure that nothing handled.
    #[n(17)]
    pub failure: Option<Box<Failure>>,
    /// Ids of the commands applied last, oldest first.
    #[n(18)]
    pub recent_commands: VecDeque<CommandId>,
    /// Request key that the id was derived from.
    #[n(19)]
    pub request_key: Option<String>,
    /// Which run of the business key this is, from 0.
    #[n(20)]
    pub key_ordinal: Option<u64>,
    /// Deadline of the whole execution.
    #[n(21)]
    pub execution_deadline: Option<Timestamp>,
    /// How many nodes have not ended. Derived; see [`ExecutionState::reindex`].
    #[cbor(skip)]
    pub open_nodes: u32,
    /// Nodes that are neither pending nor ended. Derived.
    #[cbor(skip)]
    pub active: BTreeSet<NodeIx>,
    /// Nodes with an attempt outstanding. Derived.
    #[cbor(skip)]
    pub running: BTreeSet<NodeIx>,
    /// Every deadline of a node, earliest first. Derived.
    #[cbor(skip)]
    pub deadlines: BTreeSet<(Timestamp, Deadline)>,
}

/// Where an execution stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Status {
    /// Before its first entry.
    #[n(0)]
    Pending,
    /// Nodes may run.
    #[n(1)]
    Running,
    /// A failure nothing handled under `failFast`: only clean-up still runs.
    #[n(2)]
    Failing,
    /// A cancellation waits for running attempts until the grace ends.
    #[n(3)]
    Canceling {
        /// When it ends whatever still runs.
        #[n(0)]
        until: Timestamp,
        /// Why, for people.
        #[n(1)]
        reason: Option<String>,
    },
    /// Ended well.
    #[n(4)]
    Completed {
        /// The execution's output.
        #[n(0)]
        output: Value,
    },
    /// Ended with an error, kept in [`ExecutionState::failure`].
    #[n(5)]
    Failed,
    /// Ended by a cancellation.
    #[n(6)]
    Canceled {
        /// Why, for people.
        #[n(0)]
        reason: Option<String>,
    },
}

impl Status {
    /// Whether nothing can happen any more.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Failing | Self::Canceling { .. } => false,
            Self::Completed { .. } | Self::Failed | Self::Canceled { .. } => true,
        }
    }

    /// The name on the wire: `pending`, `running`, `completed`, `failed` or `canceled`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running | Self::Failing | Self::Canceling { .. } => "running",
            Self::Completed { .. } => "completed",
            Self::Failed => "failed",
            Self::Canceled { .. } => "canceled",
        }
    }
}

/// Why an execution fails.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    /// The node that failed; none when the execution itself did.
    #[n(0)]
    pub node: Option<NodeIx>,
    /// The error.
    #[n(1)]
    pub error: ErrorInfo,
}

/// How an edge was resolved. Every edge is resolved exactly once a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EdgeState {
    /// Not yet.
    #[n(0)]
    Open,
    /// It carried its source's result.
    #[n(1)]
    Taken,
    /// Nothing will come over it.
    #[n(2)]
    Dead,
}

/// What is known of a node, in its latest visit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeState {
    /// Which visit this is, from 1.
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
    /// Seq of the step that saved this state for a rollback. Never persisted.
    #[cbor(skip)]
    pub(super) stamp: Stamp,
}

/// Bookkeeping of one process: it never tells two states apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp(pub(super) u64);

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
            | Self::Canceling { .. } => false,
            Self::Completed | Self::Failed | Self::Skipped | Self::Canceled => true,
        }
    }

    /// The name on the wire: `pending`, `running`, `completed`, `failed`, `skipped` or `canceled`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending | Self::Ready => "pending",
            Self::Running { .. } | Self::Backoff { .. } | Self::Delaying { .. } | Self::Canceling { .. } => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Canceled => "canceled",
        }
    }
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
}

/// How many command ids an execution remembers.
const RECENT_COMMANDS_MAX: usize = 32;

impl ExecutionState {
    /// The state before the first entry.
    #[must_use]
    pub fn new(plan: &Plan, id: ExecutionId) -> Self {
        let mut state = Self {
            id,
            workflow: plan.workflow.clone(),
            version: plan.version,
            seq: Seq(0),
            run: Run(1),
            status: Status::Pending,
            paused: false,
            started_at: Timestamp(0),
            ended_at: None,
            input: Value::null(),
            metadata: None,
            execution_key: None,
            priority: plan.settings.priority,
            variables: BTreeMap::new(),
            nodes: vec![NodeState::new(); plan.nodes.len()],
            edges: vec![EdgeState::Open; plan.edges.len()],
            held: VecDeque::new(),
            failure: None,
            recent_commands: VecDeque::new(),
            request_key: None,
            key_ordinal: None,
            execution_deadline: None,
            open_nodes: 0,
            active: BTreeSet::new(),
            running: BTreeSet::new(),
            deadlines: BTreeSet::new(),
        };
        state.reindex(plan);
        state
    }

    /// Computes everything derived. Needed after decoding, before the first step.
    pub fn reindex(&mut self, plan: &Plan) {
        self.open_nodes = 0;
        self.active.clear();
        self.running.clear();
        self.deadlines.clear();
        for place in 0..self.nodes.len() {
            self.index(plan, NodeIx(u32::try_from(place).unwrap_or(u32::MAX)));
        }
    }

    /// Remembers a command, so that its repetition is recognised. A replay does the same.
    pub fn note_command(&mut self, command: CommandId) {
        if self.recent_commands.len() == RECENT_COMMANDS_MAX {
            self.recent_commands.pop_front();
        }
        self.recent_commands.push_back(command);
    }

    /// Hash of the encoded state: equal states have equal fingerprints.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let bytes = minicbor::to_vec(self).expect("encoding into memory cannot fail");
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    /// Adds a node to what is derived.
    pub(super) fn index(&mut self, plan: &Plan, ix: NodeIx) {
        let node = &self.nodes[ix.at()];
        if node.phase.is_terminal() {
            return;
        }
        self.open_nodes += 1;
        match node.phase {
            Phase::Pending => {}
            Phase::Running { .. } | Phase::Canceling { .. } => {
                self.active.insert(ix);
                self.running.insert(ix);
            }
            Phase::Ready | Phase::Backoff { .. } | Phase::Delaying { .. } => {
                self.active.insert(ix);
            }
            Phase::Completed | Phase::Failed | Phase::Skipped | Phase::Canceled => {}
        }
        for deadline in node.deadlines(plan, ix).into_iter().flatten() {
            self.deadlines.insert(deadline);
        }
    }

    /// Takes a node out of what is derived.
    pub(super) fn unindex(&mut self, plan: &Plan, ix: NodeIx) {
        let node = &self.nodes[ix.at()];
        if node.phase.is_terminal() {
            return;
        }
        self.open_nodes -= 1;
        if node.phase != Phase::Pending {
            self.active.remove(&ix);
            self.running.remove(&ix);
        }
        for deadline in node.deadlines(plan, ix).into_iter().flatten() {
            self.deadlines.remove(&deadline);
        }
    }
}

impl NodeState {
    fn new() -> Self {
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
    pub(super) fn crashes_of_attempt(&self) -> usize {
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
    pub(super) fn times_dispatched_again(&self) -> u32 {
        let again = self.attempts.iter().filter(|record| record.was_interrupted()).count();
        u32::try_from(again).unwrap_or(u32::MAX)
    }

    /// At most two: one of its phase, one of all its attempts together.
    fn deadlines(&self, plan: &Plan, ix: NodeIx) -> [Option<(Timestamp, Deadline)>; 2] {
        let of_phase = match self.phase {
            Phase::Pending => self.first_arrival_at.and_then(|first| {
                let (timeout_ms, _) = plan.node(ix).join.timeout?;
                Some((first.plus_ms(timeout_ms), Deadline::Join(ix)))
            }),
            Phase::Backoff { until, .. } => Some((until, Deadline::Retry(ix))),
            Phase::Delaying { until } => Some((until, Deadline::Delay(ix))),
            Phase::Ready | Phase::Running { .. } | Phase::Canceling { .. } => None,
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

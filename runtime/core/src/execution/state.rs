//! The state of an execution: enums carrying data, dense by node and edge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use minicbor::{Decode, Encode};

use crate::id::{Attempt, CommandId, EdgeIx, ExecutionId, NodeIx, Run, Seq, Timestamp, Token, Visit, WorkflowId};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Json, Value};

use super::children::Children;
use super::compensation::Compensations;
use super::error_workflow::ErrorWorkflow;
use super::event::Parent;
use super::hold::Holds;
use super::rerun::RerunOf;

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
    /// By [`crate::LoopIx`].
    #[n(22)]
    #[cbor(default)]
    pub loops: Vec<LoopState>,
    /// Calls that came before their node waited, oldest first.
    #[n(23)]
    #[cbor(default)]
    pub signals: BTreeMap<NodeIx, VecDeque<Value>>,
    /// Child executions of nodes that have some, in their latest visit.
    #[n(24)]
    #[cbor(default)]
    pub children: BTreeMap<NodeIx, Children>,
    /// Who started it, if another execution did.
    #[n(25)]
    pub parent: Option<Parent>,
    /// It is paused because its parent is, not because an operator said so.
    #[n(26)]
    #[cbor(default)]
    pub paused_with_parent: bool,
    /// Which execution it runs again, if it does.
    #[n(36)]
    pub rerun_of: Option<Box<RerunOf>>,
    /// What it waits for, or waited for, before it ran, where only so many of its workflow run at once.
    #[n(31)]
    pub room: Option<Box<Room>>,
    /// What it knows of pauses of a wider scope, and of clocks that stand still; none where none ever concerned it.
    #[n(27)]
    pub holds: Option<Box<Holds>>,
    /// What can be undone and what was; none where nothing can.
    #[n(41)]
    pub compensations: Option<Box<Compensations>>,
    /// The failed execution that it was started for, as its error workflow or as a child of one: its own failure starts none.
    #[n(42)]
    pub handles_failure_of: Option<ExecutionId>,
    /// What became of its error workflow.
    #[n(43)]
    pub error_workflow: Option<Box<ErrorWorkflow>>,
    /// The `end` node that ended it, if one did.
    #[n(44)]
    pub ended_by: Option<NodeIx>,
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

/// What an execution needs of those that run beside it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Room {
    /// What `settings.concurrency.key` gave; `null` without one.
    #[n(0)]
    pub key: Json,
    /// The trigger that its start named.
    #[n(1)]
    pub trigger: Option<String>,
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
    /// Nothing runs but what undoes what completed; then it ends.
    #[n(7)]
    Compensating(#[n(0)] Ending),
    /// It has failed, and its error workflow is being started; then it ends.
    #[n(8)]
    Reporting,
}

/// How an execution ends that does not complete.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ending {
    /// With the error of [`ExecutionState::failure`].
    #[n(0)]
    Failed,
    /// By a cancellation.
    #[n(1)]
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
            Self::Pending
            | Self::Running
            | Self::Failing
            | Self::Canceling { .. }
            | Self::Compensating(_)
            | Self::Reporting => false,
            Self::Completed { .. } | Self::Failed | Self::Canceled { .. } => true,
        }
    }

    /// The name on the wire: `pending`, `running`, `completed`, `failed` or `canceled`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running | Self::Failing | Self::Canceling { .. } | Self::Compensating(_) | Self::Reporting => {
                "running"
            }
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
    /// It will be taken if the generation of the loop that it leads out of, or back in, is the last.
    #[n(3)]
    HeldTaken,
    /// Nothing will come over it, once the generation of its loop ends.
    #[n(4)]
    HeldDead,
}

/// What is known of a loop, in its latest entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LoopState {
    /// Which generation this is, from 1.
    #[n(0)]
    pub iteration: u64,
    /// Whether it has ended: its exits are resolved, or held by the loop around it.
    #[n(1)]
    pub finished: bool,
    /// Edges out of it and back to its header that are decided in this generation, in the order of their decision.
    #[n(2)]
    pub held: Vec<EdgeIx>,
    /// Back edges that were decided as taken in the generation after which it ended all the same.
    #[n(3)]
    #[cbor(default)]
    pub dropped: Vec<EdgeIx>,
    /// What the header's edges within it carry, where it ended because it went round too often: the header has moved on.
    #[n(4)]
    pub exceeded: Option<Value>,
    /// How many nodes of it and in no inner loop have not ended, and how many inner loops. Derived.
    #[cbor(skip)]
    pub open: u32,
}

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
    pub(super) stamp: Stamp,
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

/// How many command ids an execution remembers.
const RECENT_COMMANDS_MAX: usize = 32;

/// Where an execution's large values are kept; see [`ExecutionState::blob_root`].
pub(super) fn blob_root(id: ExecutionId, parent: Option<&Parent>) -> Option<ExecutionId> {
    match parent {
        Some(parent) if parent.attached => parent.root.or((parent.depth == 1).then_some(parent.execution)),
        Some(_) | None => Some(id),
    }
}

impl ExecutionState {
    /// The execution under which its large values are kept: the topmost one that waits for it. None where that is not known,
    /// because it began before there were such values: then they stay in place.
    #[must_use]
    pub fn blob_root(&self) -> Option<ExecutionId> {
        blob_root(self.id, self.parent.as_ref())
    }

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
            loops: vec![LoopState::new(); plan.loops.len()],
            signals: BTreeMap::new(),
            children: BTreeMap::new(),
            parent: None,
            paused_with_parent: false,
            rerun_of: None,
            room: None,
            holds: None,
            compensations: None,
            handles_failure_of: None,
            error_workflow: None,
            ended_by: None,
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
        for one in &mut self.loops {
            one.open = 0;
        }
        for (planned, place) in plan.loops.iter().zip(0..self.loops.len()) {
            if let Some(parent) = planned.parent.filter(|_| !self.loops[place].finished) {
                self.loops[parent.at()].open += 1;
            }
        }
        for place in 0..self.nodes.len() {
            self.index(plan, NodeIx(u32::try_from(place).unwrap_or(u32::MAX)));
        }
        if let Some(ix) = self.open_compensation(plan) {
            self.index(plan, ix);
        }
    }

    /// The node, or the compensation that is under way.
    #[must_use]
    pub fn node(&self, ix: NodeIx) -> Option<&NodeState> {
        held(&self.nodes, self.compensations.as_deref(), ix)
    }

    pub(super) fn node_mut(&mut self, ix: NodeIx) -> Option<&mut NodeState> {
        match self.nodes.get_mut(ix.at()) {
            Some(node) => Some(node),
            None => self.compensations.as_deref_mut()?.current_mut(),
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
        let Some(node) = held(&self.nodes, self.compensations.as_deref(), ix) else {
            return;
        };
        if node.phase.is_terminal() {
            return;
        }
        self.open_nodes += 1;
        if let Some(within) = plan.node(ix).within {
            self.loops[within.at()].open += 1;
        }
        match node.phase {
            Phase::Pending => {}
            Phase::Running { .. } | Phase::Canceling { .. } => {
                self.active.insert(ix);
                self.running.insert(ix);
            }
            Phase::Ready
            | Phase::Backoff { .. }
            | Phase::Delaying { .. }
            | Phase::Waiting { .. }
            | Phase::Parenting
            | Phase::Turning { .. } => {
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
        let Some(node) = held(&self.nodes, self.compensations.as_deref(), ix) else {
            return;
        };
        if node.phase.is_terminal() {
            return;
        }
        self.open_nodes -= 1;
        if let Some(within) = plan.node(ix).within {
            self.loops[within.at()].open -= 1;
        }
        if node.phase != Phase::Pending {
            self.active.remove(&ix);
            self.running.remove(&ix);
        }
        for deadline in node.deadlines(plan, ix).into_iter().flatten() {
            self.deadlines.remove(&deadline);
        }
    }
}

/// The node, or the compensation that is under way.
fn held<'a>(nodes: &'a [NodeState], compensations: Option<&'a Compensations>, ix: NodeIx) -> Option<&'a NodeState> {
    match nodes.get(ix.at()) {
        Some(node) => Some(node),
        None => compensations?.current(),
    }
}

impl LoopState {
    /// The loop is entered anew.
    pub(super) fn restart(&mut self) {
        *self = Self {
            open: self.open,
            ..Self::new()
        };
    }

    fn new() -> Self {
        Self {
            iteration: 1,
            finished: false,
            held: Vec::new(),
            dropped: Vec::new(),
            exceeded: None,
            open: 0,
        }
    }
}

impl NodeState {
    /// The node as it begins its next visit: nothing of this one is left but its result.
    pub(super) fn next_visit(&self) -> Self {
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
    pub(super) fn of_visit(visit: Visit) -> Self {
        Self { visit, ..Self::new() }
    }

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

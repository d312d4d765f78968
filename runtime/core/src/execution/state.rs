//! The state of an execution: enums carrying data, dense by node and edge.

mod node;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use minicbor::{Decode, Encode};

use crate::id::{CommandId, EdgeIx, ExecutionId, NodeIx, Run, Seq, Timestamp, WorkflowId};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Json, Value};

use super::children::Children;
use super::compensation::Compensations;
use super::error_workflow::{ErrorWorkflow, FailedVisit};
use super::event::Parent;
use super::hold::Holds;
use super::rerun::RerunOf;

pub(super) use node::Stamp;
pub use node::{AttemptRecord, CacheUse, CutOff, Deadline, Input, NodeFailure, NodeState, Phase, Stop};

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
    /// Ids of the last commands, those that changed nothing among them, oldest first.
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
    /// The trigger that its start named.
    #[n(45)]
    pub trigger: Option<String>,
    /// W3C trace context (`traceparent`) of its start: its events and its calls carry it on.
    #[n(46)]
    pub trace_parent: Option<String>,
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
    /// The node as it failed, where an error workflow is to hear of it: it may be visited again before the execution ends.
    #[n(2)]
    pub visit: Option<Box<FailedVisit>>,
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

    /// Whether it runs where only so many may (`settings.concurrency`).
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.room.is_some() && self.status != Status::Pending && !self.status.is_terminal()
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
            trigger: None,
            trace_parent: None,
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

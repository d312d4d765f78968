//! The validated, dense, index-based form of a definition that the core executes. Shared as `Arc<Plan>`.

mod build;

use std::collections::BTreeMap;

use crate::definition::{
    ConcurrencyLimit, ConcurrencySettings, EdgeKind, EventSettings, JoinMode, NodeKind, OnJoinTimeout, RetrySettings,
};
use crate::id::{EdgeIx, LoopIx, NodeIx, NodeKey, WorkflowId};
use crate::value::{Json, Value};

pub use build::PlanError;

/// An executable workflow version. Indices are places in the definition's arrays.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The workflow.
    pub workflow: WorkflowId,
    /// Its version.
    pub version: u32,
    /// What people call it.
    pub name: String,
    /// Labels for searching.
    pub tags: Vec<String>,
    /// By [`NodeIx`].
    pub nodes: Vec<PlanNode>,
    /// By [`EdgeIx`].
    pub edges: Vec<PlanEdge>,
    /// What undoes nodes, by [`NodeIx`] from the number of nodes on; none unless the workflow compensates. In no list of nodes.
    pub compensations: Vec<PlanNode>,
    /// By [`LoopIx`]; outer loops before those in them.
    pub loops: Vec<PlanLoop>,
    /// Nodes without incoming edges (those that lead back to a node itself aside), in definition order.
    pub roots: Vec<NodeIx>,
    /// Nodes without outgoing edges, in definition order.
    pub leaves: Vec<NodeIx>,
    /// Settings of the whole workflow.
    pub settings: PlanSettings,
    /// Faults to plant in whatever steps by this plan. Tests only.
    pub mutants: CoreMutants,
    by_key: BTreeMap<NodeKey, NodeIx>,
}

/// Faults that a test plants to prove that it would notice them. All off, always, outside of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreMutants {
    /// A quorum is content with one edge less.
    pub quorum_one_short: bool,
    /// Delays end a little early.
    pub short_delays: bool,
}

impl Plan {
    /// The node that `key` names.
    #[must_use]
    pub fn node_ix(&self, key: &str) -> Option<NodeIx> {
        self.by_key.get(key).copied()
    }

    /// The node at `ix`, or the compensation.
    #[must_use]
    pub fn node(&self, ix: NodeIx) -> &PlanNode {
        match self.nodes.get(ix.at()) {
            Some(node) => node,
            None => &self.compensations[ix.at() - self.nodes.len()],
        }
    }

    /// The node at `ix`, or the compensation, if there is one.
    #[must_use]
    pub fn get(&self, ix: NodeIx) -> Option<&PlanNode> {
        let beyond = || self.compensations.get(ix.at().checked_sub(self.nodes.len())?);
        self.nodes.get(ix.at()).or_else(beyond)
    }

    /// Whether `ix` is no node but what undoes one.
    #[must_use]
    pub fn is_compensation(&self, ix: NodeIx) -> bool {
        ix.at() >= self.nodes.len()
    }

    /// The plan of the nodes alone: what follows the end of an execution is left out.
    #[must_use]
    pub fn without_aftermath(mut self) -> Self {
        self.compensations.clear();
        for node in &mut self.nodes {
            node.compensation = None;
        }
        self.settings.error_workflow = None;
        self
    }

    /// The edge at `ix`.
    #[must_use]
    pub fn edge(&self, ix: EdgeIx) -> &PlanEdge {
        &self.edges[ix.at()]
    }

    /// Whether a loop holds a node, perhaps in an inner loop. Loops nest at most [`LOOP_DEPTH_MAX`] deep.
    #[must_use]
    pub fn holds(&self, outer: LoopIx, node: NodeIx) -> bool {
        let mut at = self.node(node).within;
        while let Some(ix) = at {
            if ix == outer {
                return true;
            }
            at = self.loops[ix.at()].parent;
        }
        false
    }

    /// Whether an edge leads back to the header of the loop around its source, or of one around that.
    #[must_use]
    pub fn is_back_edge(&self, ix: EdgeIx) -> bool {
        let edge = self.edge(ix);
        let header_of = |node: &PlanNode| node.within.filter(|ix| self.loops[ix.at()].header == edge.target);
        header_of(self.node(edge.target)).is_some_and(|ix| self.holds(ix, edge.source))
    }
}

/// How deep loops may nest.
pub const LOOP_DEPTH_MAX: usize = 32;

/// A natural loop: a cycle that is entered through its header alone. See `semantics.md` §2.
#[derive(Clone, Debug)]
pub struct PlanLoop {
    /// The node that every entry and every back edge leads to.
    pub header: NodeIx,
    /// The loop around it.
    pub parent: Option<LoopIx>,
    /// Every node of it, those of inner loops included, ascending.
    pub nodes: Vec<NodeIx>,
    /// Every edge between two of its nodes, its back edges included, ascending.
    pub edges: Vec<EdgeIx>,
    /// How many generations an entry into it may have. Resolved data may override it.
    pub iterations_max: u64,
}

impl PlanLoop {
    /// How many generations an entry into the loop may have, given the header's resolved data.
    #[must_use]
    pub fn iterations_max(&self, data: Option<&Value>) -> u64 {
        resolved_whole(data, "maxIterations").unwrap_or(self.iterations_max)
    }
}

/// A node, ready to execute.
#[derive(Clone, Debug)]
pub struct PlanNode {
    /// Its id in the definition.
    pub key: NodeKey,
    /// Its type.
    pub kind: NodeKind,
    /// Edges into it, in definition order.
    pub incoming: Vec<EdgeIx>,
    /// Edges out of it, in definition order.
    pub outgoing: Vec<EdgeIx>,
    /// When its incoming edges let it start.
    pub join: Join,
    /// When it is tried again.
    pub retry: RetrySettings,
    /// Attempt timeout (start to close), in milliseconds. Resolved data may override it; see [`PlanNode::timeout_ms`].
    pub attempt_timeout_ms: u64,
    /// How long an attempt may wait for its turn (schedule to start), in milliseconds. Resolved data may override it.
    pub queue_timeout_ms: Option<u64>,
    /// Node total timeout (schedule to close), in milliseconds. Resolved data may override it.
    pub total_timeout_ms: Option<u64>,
    /// Its data as the definition writes it, with `taskDefinition` folded in (direct fields win).
    pub data: serde_json::Map<String, serde_json::Value>,
    /// Whether the evaluator must prepare it: it maps its input or has templates.
    pub prepares: bool,
    /// Whether it has an `inputMapping`.
    pub maps_input: bool,
    /// Whether it has an `inputSchema`.
    pub checks_input: bool,
    /// Whether it has an `outputSchema`.
    pub checks_output: bool,
    /// Whether it has a `data.output` expression.
    pub replaces_output: bool,
    /// Whether it has an `outputMapping`.
    pub maps_output: bool,
    /// How a decision chooses; only for decisions.
    pub decision: Option<Decision>,
    /// `errorMode: "first"`: only the first matching failure edge is taken.
    pub first_failure_edge_only: bool,
    /// Whether a call's body is checked (`payloadSchema`).
    pub checks_payload: bool,
    /// Whether a call is transformed (`transformationTemplate`).
    pub transforms_call: bool,
    /// How long it waits for a call, in milliseconds. Resolved data may override it.
    pub wait_timeout_ms: Option<u64>,
    /// How long it waits between two heartbeats, in milliseconds. Resolved data may override it.
    pub heartbeat_timeout_ms: Option<u64>,
    /// Which start fires it, for trigger roots.
    pub trigger: Option<Trigger>,
    /// The innermost loop that holds it.
    pub within: Option<LoopIx>,
    /// How many edges into it are no back edges: its join counts those.
    pub entries: u32,
    /// Nodes on the longest way from a root to it, over no back edge; 0 for a root.
    pub depth: u32,
    /// Nodes on the longest way on from it, over no back edge; 0 for a leaf.
    pub criticality: u32,
    /// Nodes that its completion cancels.
    pub cancels: Vec<NodeIx>,
    /// For how long its outputs may be reused, in milliseconds, where they may.
    pub cache_ttl_ms: Option<u64>,
    /// How many attempts that share a key with its own may run at once.
    pub concurrency: Option<Box<ConcurrencyLimit>>,
    /// What undoes it, where the workflow compensates.
    pub compensation: Option<NodeIx>,
}

impl PlanNode {
    /// The attempt timeout in milliseconds, given the node's resolved data (where a template may have set it).
    #[must_use]
    pub fn timeout_ms(&self, data: Option<&Value>) -> u64 {
        resolved_whole(data, "timeout").unwrap_or(self.attempt_timeout_ms)
    }

    /// How long it waits for a call, in milliseconds, given the node's resolved data; none waits for ever.
    #[must_use]
    pub fn wait_timeout_ms(&self, data: Option<&Value>) -> Option<u64> {
        resolved_whole(data, "timeout").or(self.wait_timeout_ms)
    }

    /// How long it waits between two heartbeats, in milliseconds, given the node's resolved data.
    #[must_use]
    pub fn heartbeat_timeout_ms(&self, data: Option<&Value>) -> Option<u64> {
        resolved_whole(data, "heartbeatTimeout").or(self.heartbeat_timeout_ms)
    }

    /// How long an attempt may wait for its turn, in milliseconds, given the node's resolved data; none waits as long as it takes.
    #[must_use]
    pub fn queue_timeout_ms(&self, data: Option<&Value>) -> Option<u64> {
        let written = self.data.get("queueTimeout")?;
        let resolved = data.filter(|_| written.is_string());
        resolved_whole(resolved, "queueTimeout").or(self.queue_timeout_ms)
    }

    /// The total timeout in milliseconds, given the node's resolved data.
    #[must_use]
    pub fn total_timeout_ms(&self, data: Option<&Value>) -> Option<u64> {
        resolved_whole(data, "totalTimeout").or(self.total_timeout_ms)
    }
}

/// A whole number in resolved data.
fn resolved_whole(data: Option<&Value>, field: &str) -> Option<u64> {
    let field = match data? {
        Value::Inline(json) => json.to_value().ok()?.get_mut(field)?.take(),
        Value::Composed(composed) => composed.member(field)?.as_inline()?.to_value().ok()?,
        Value::Blob(_) => return None,
    };
    field.as_u64().or_else(|| {
        field
            .as_f64()
            .filter(|number| *number >= 0.0)
            .map(|number| number as u64)
    })
}

/// An edge, ready to execute.
#[derive(Clone, Debug)]
pub struct PlanEdge {
    /// Its id in the definition.
    pub id: String,
    /// Where it starts.
    pub source: NodeIx,
    /// Where it ends.
    pub target: NodeIx,
    /// When it is taken.
    pub kind: EdgeKind,
    /// Its condition's source, if it has one that is an expression (a decision's condition ids are not).
    pub condition: Option<String>,
    /// Error codes that a failure edge catches; empty catches all.
    pub errors: Vec<String>,
}

/// When incoming edges let a node start. See `semantics.md` §2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join {
    /// Which edges it needs.
    pub mode: JoinMode,
    /// Sources that must be among the taken.
    pub required: Vec<NodeIx>,
    /// Whether it fails when it can no longer become ready though an edge was taken; else it is skipped.
    pub fails_unsatisfied: bool,
    /// Whether it cancels the branches that can reach only it once it fired before they all arrived.
    pub cancels_late: bool,
    /// How long it waits from the first message, in milliseconds, and what follows.
    pub timeout: Option<(u64, OnJoinTimeout)>,
}

/// How a decision chooses its edges. See `semantics.md` §1.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// `mode: "all"`: every matching condition counts, not only the first.
    pub inclusive: bool,
    /// Conditions in order: source and the edges that belong to it.
    pub conditions: Vec<(String, Vec<EdgeIx>)>,
    /// Edges with an expression of their own, tried after the conditions, in order.
    pub own: Vec<EdgeIx>,
    /// Taken when nothing matches.
    pub default: Vec<EdgeIx>,
}

/// Which start fires a trigger root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A manual start.
    Manual,
    /// A start through the API.
    Api,
    /// A schedule.
    Scheduled,
    /// An event of the bus.
    Event,
    /// A call of a webhook.
    Webhook,
}

/// Settings of a workflow that the core obeys.
#[derive(Clone, Debug, Default)]
pub struct PlanSettings {
    /// Execution timeout, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Priority 0–9.
    pub priority: u8,
    /// Whether other branches finish after an unhandled failure (`onFailure: "continue"`).
    pub continues_on_failure: bool,
    /// Whether there is a `settings.output` expression.
    pub output: Option<String>,
    /// Whether there is a `settings.inputSchema`.
    pub input_schema: Option<Json>,
    /// Defaults of variables.
    pub variables: BTreeMap<String, Value>,
    /// Whether what completed is undone when an execution does not complete, as far as nodes say how.
    pub compensates: bool,
    /// The workflow that is started when an execution fails.
    pub error_workflow: Option<WorkflowId>,
    /// Most attempts outstanding at once.
    pub parallel_nodes_max: Option<u32>,
    /// How many executions that share a key may run at once.
    pub concurrency: Option<ConcurrencySettings>,
    /// What brokers publish.
    pub events: EventSettings,
    /// How long the archive of a completed execution is kept, in milliseconds.
    pub retention_completed_ms: Option<u64>,
    /// How long the archive of a failed or canceled execution is kept, in milliseconds.
    pub retention_failed_ms: Option<u64>,
}

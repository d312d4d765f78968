//! The validated, dense, index-based form of a definition that the core executes. Shared as `Arc<Plan>`.

mod build;

use std::collections::BTreeMap;

use crate::definition::{EdgeKind, JoinMode, NodeKind, OnJoinTimeout, RetrySettings};
use crate::id::{EdgeIx, NodeIx, NodeKey, WorkflowId};
use crate::value::{Json, Value};

pub use build::PlanError;

/// An executable workflow version. Indices are places in the definition's arrays.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The workflow.
    pub workflow: WorkflowId,
    /// Its version.
    pub version: u32,
    /// By [`NodeIx`].
    pub nodes: Vec<PlanNode>,
    /// By [`EdgeIx`].
    pub edges: Vec<PlanEdge>,
    /// Nodes without incoming edges, in definition order.
    pub roots: Vec<NodeIx>,
    /// Nodes without outgoing edges, in definition order.
    pub leaves: Vec<NodeIx>,
    /// Settings of the whole workflow.
    pub settings: PlanSettings,
    by_key: BTreeMap<NodeKey, NodeIx>,
}

impl Plan {
    /// The node that `key` names.
    #[must_use]
    pub fn node_ix(&self, key: &str) -> Option<NodeIx> {
        self.by_key.get(key).copied()
    }

    /// The node at `ix`.
    #[must_use]
    pub fn node(&self, ix: NodeIx) -> &PlanNode {
        &self.nodes[ix.at()]
    }

    /// The edge at `ix`.
    #[must_use]
    pub fn edge(&self, ix: EdgeIx) -> &PlanEdge {
        &self.edges[ix.at()]
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
    /// Which start fires it, for trigger roots.
    pub trigger: Option<Trigger>,
}

impl PlanNode {
    /// The attempt timeout in milliseconds, given the node's resolved data (where a template may have set it).
    #[must_use]
    pub fn timeout_ms(&self, data: Option<&Value>) -> u64 {
        resolved_ms(data, "timeout").unwrap_or(self.attempt_timeout_ms)
    }

    /// The total timeout in milliseconds, given the node's resolved data.
    #[must_use]
    pub fn total_timeout_ms(&self, data: Option<&Value>) -> Option<u64> {
        resolved_ms(data, "totalTimeout").or(self.total_timeout_ms)
    }
}

/// A duration in resolved data.
fn resolved_ms(data: Option<&Value>, field: &str) -> Option<u64> {
    let Value::Inline(json) = data? else { return None };
    let value = json.to_value().ok()?;
    let field = value.get(field)?;
    field
        .as_u64()
        .or_else(|| field.as_f64().filter(|ms| *ms >= 0.0).map(|ms| ms as u64))
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
    /// Most attempts outstanding at once.
    pub parallel_nodes_max: Option<u32>,
    /// How long the archive of a completed execution is kept, in milliseconds.
    pub retention_completed_ms: Option<u64>,
    /// How long the archive of a failed execution is kept, in milliseconds.
    pub retention_failed_ms: Option<u64>,
}

//! Controls of a scope wider than one execution: pauses, emergency stops, what operators say of breakers.
//!
//! Each is a register in every shard: a key with a setting, or none once it was lifted. The later command wins, so shards that
//! were told in different orders agree in the end.

mod hold;
mod seen;
mod set;

use std::fmt;

use minicbor::{Decode, Encode};

use crate::id::{CommandId, NodeKey, Principal, Seq, Timestamp, WorkflowId};
use crate::plan::Plan;
use crate::{NodeIx, definition::NodeKind};

pub use seen::{ControlsSeen, Span};
pub use set::{CONTROLS_MAX, ControlSet, Freeze, Register};

/// What is controlled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum ControlKey {
    /// Whether new attempts start in a scope; set to [`Setting::Paused`].
    #[n(0)]
    Pause(#[n(0)] Scope),
    /// Whether a scope is stopped in an emergency; set to [`Setting::Stopped`]. Its scope is a workflow or everything.
    #[n(1)]
    Stop(#[n(0)] Scope),
    /// Whether a breaker does as it thinks; set to [`Setting::Breaker`]. Named by its target.
    #[n(2)]
    Breaker(#[n(0)] String),
}

/// Where a control applies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Scope {
    /// Every execution.
    #[n(0)]
    All,
    /// Executions of a workflow, the bodies of its nodes included.
    #[n(1)]
    Workflow(#[n(0)] WorkflowId),
    /// A node of a workflow, its body included.
    #[n(2)]
    Node {
        /// The workflow.
        #[n(0)]
        workflow: WorkflowId,
        /// The node.
        #[n(1)]
        node: NodeKey,
    },
    /// Every node of a type, by the type's word.
    #[n(3)]
    NodeType(#[n(0)] String),
}

/// What a control is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Setting {
    /// No new attempt starts.
    #[n(0)]
    Paused {
        /// What its timers and deadlines do meanwhile.
        #[n(0)]
        clocks: Clocks,
    },
    /// Starts are refused and no new attempt starts.
    #[n(1)]
    Stopped {
        /// Executions in the scope are canceled too.
        #[n(0)]
        cancel_running: bool,
    },
    /// A breaker stands as an operator wants.
    #[n(2)]
    Breaker(#[n(0)] BreakerOverride),
}

/// What timers and deadlines do during a pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Clocks {
    /// They go on; what fell due is applied when the pause ends.
    #[default]
    #[n(0)]
    Run,
    /// They stand still.
    #[n(1)]
    Freeze,
}

/// How an operator wants a breaker to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum BreakerOverride {
    /// Nothing passes.
    #[n(0)]
    Open,
    /// Everything passes.
    #[n(1)]
    Closed,
}

/// A command as a shard's log keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ControlEntry {
    /// Position among the shard's controls, from 1.
    #[n(0)]
    pub seq: Seq,
    /// When the command was given; the same in every shard.
    #[n(1)]
    pub at: Timestamp,
    /// What is controlled.
    #[n(2)]
    pub key: ControlKey,
    /// What it is set to; none lifts it.
    #[n(3)]
    pub setting: Option<Setting>,
    /// The command; the same in every shard.
    #[n(4)]
    pub command: CommandId,
    /// Who gave it.
    #[n(5)]
    pub principal: Option<Principal>,
    /// Why, for people.
    #[n(6)]
    pub reason: Option<String>,
    /// It changes nothing, and is there for the command's id: whoever gives that again gets no second hearing.
    #[n(7)]
    #[cbor(default)]
    pub only_id: bool,
}

/// Between a workflow's id and the node whose body is meant: a body is a workflow of its own, `<workflow>#<node>`.
const BODY_OF: char = '#';

impl Scope {
    /// Whether every node of a workflow's executions is in it.
    #[must_use]
    pub fn covers(&self, workflow: &WorkflowId) -> bool {
        match self {
            Self::All => true,
            Self::Workflow(named) => is_or_is_in(workflow.as_str(), named.as_str()),
            Self::Node { workflow: named, node } => {
                let rest = workflow.as_str().strip_prefix(named.as_str());
                let body = rest.and_then(|rest| rest.strip_prefix(BODY_OF));
                body.is_some_and(|body| is_or_is_in(body, node.as_str()))
            }
            Self::NodeType(_) => false,
        }
    }

    /// Whether a node is in it.
    #[must_use]
    pub fn covers_node(&self, plan: &Plan, node: NodeIx) -> bool {
        self.covers(&plan.workflow) || self.names_node(plan, node)
    }

    /// Whether it names this node, and not its whole workflow.
    #[must_use]
    pub fn names_node(&self, plan: &Plan, node: NodeIx) -> bool {
        let planned = plan.node(node);
        match self {
            Self::All | Self::Workflow(_) => false,
            Self::Node { workflow, node } => *workflow == plan.workflow && *node == planned.key,
            Self::NodeType(kind) => planned.kind.as_str() == kind,
        }
    }

    /// The scope of a node type.
    #[must_use]
    pub fn node_type(kind: NodeKind) -> Self {
        Self::NodeType(kind.as_str().to_owned())
    }
}

/// Whether a workflow is `outer`, or a body within it.
fn is_or_is_in(workflow: &str, outer: &str) -> bool {
    workflow
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(BODY_OF))
}

impl fmt::Display for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => out.write_str("everything"),
            Self::Workflow(workflow) => write!(out, "workflow {workflow}"),
            Self::Node { workflow, node } => write!(out, "node {workflow}/{node}"),
            Self::NodeType(kind) => write!(out, "node type {kind}"),
        }
    }
}

impl ControlKey {
    /// Whether a setting is one of this key.
    #[must_use]
    pub fn takes(&self, setting: Setting) -> bool {
        match (self, setting) {
            (Self::Pause(_), Setting::Paused { .. }) | (Self::Breaker(_), Setting::Breaker(_)) => true,
            (Self::Stop(scope), Setting::Stopped { .. }) => match scope {
                Scope::All | Scope::Workflow(_) => true,
                Scope::Node { .. } | Scope::NodeType(_) => false,
            },
            (Self::Pause(_), Setting::Stopped { .. } | Setting::Breaker(_))
            | (Self::Stop(_), Setting::Paused { .. } | Setting::Breaker(_))
            | (Self::Breaker(_), Setting::Paused { .. } | Setting::Stopped { .. }) => false,
        }
    }
}

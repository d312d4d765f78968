//! The result of the analysis, in the shape of the specification.

use std::borrow::Cow;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::definition::{Node, NodeMetadata, WorkflowEdge};

/// An id, shared by reference count: the same few ids occur in every list of the analysis.
pub type Id = Arc<str>;

/// A JSON object keyed by id, in a defined order.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<T>(Vec<(Id, T)>);

impl<T> Record<T> {
    /// The entries in order.
    #[must_use]
    pub fn entries(&self) -> &[(Id, T)] {
        &self.0
    }

    /// The entry of an id, found by a scan.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&T> {
        self.0.iter().find(|(key, _)| **key == *id).map(|(_, value)| value)
    }
}

impl<T> FromIterator<(Id, T)> for Record<T> {
    fn from_iter<I: IntoIterator<Item = (Id, T)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<T: Serialize> Serialize for Record<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(&**key, value)?;
        }
        map.end()
    }
}

/// What the analysis says of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessedWorkflow<'a> {
    /// Entry points and relations.
    pub forest: Forest,
    /// Nodes by id, with defaults filled in.
    pub nodes: Record<ProcessedNode<'a>>,
    /// Paths from roots to ends, at most as many as asked for, then the orphan path.
    pub paths: Vec<WorkflowPath>,
    /// Edges by id, with defaults filled in.
    pub edges: Record<ProcessedEdge<'a>>,
    /// What matters for execution.
    pub execution: ExecutionAnalysis,
    /// Whether paths exist that are not listed.
    pub truncated: bool,
    /// How many paths from a root to an end exist (the orphan path excluded), a decimal number of any length; absent
    /// where a cyclic graph has too many simple paths to count.
    pub path_count: Option<String>,
    /// What is reported beyond the specification.
    pub analysis: GraphAnalysis,
}

/// A node with defaults filled in; borrowed, because a large definition is analysed more often than it is changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessedNode<'a> {
    /// The node.
    #[serde(flatten)]
    pub node: Cow<'a, Node>,
    /// Metadata shared by all nodes that have none of their own.
    #[serde(rename = "metadata", skip_serializing_if = "Option::is_none")]
    pub draft: Option<Arc<NodeMetadata>>,
}

/// An edge with defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessedEdge<'a> {
    /// The edge.
    #[serde(flatten)]
    pub edge: Cow<'a, WorkflowEdge>,
    /// The type of an edge that names none.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub default_type: Option<&'static str>,
}

/// Entry points and relations.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forest {
    /// Nodes without parents; the first node where every node has one.
    pub roots: Vec<Id>,
    /// Relations of every node.
    pub adjacency_list: Record<GraphNodeRelationship>,
}

/// The neighbours of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GraphNodeRelationship {
    /// Distinct targets, in edge order, unknown ids included.
    pub children: Vec<Id>,
    /// Distinct sources, in edge order, unknown ids included.
    pub parents: Vec<Id>,
    /// Fewest edges from a root; −1 where no root reaches the node.
    pub depth: i64,
    /// Ascending indices of the listed paths the node is on.
    pub path_indices: Vec<usize>,
}

/// One path from a root to an end.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowPath {
    /// `path-<root>-<i>`.
    pub id: String,
    /// `Path <root number>.<i+1>`.
    pub name: String,
    /// Where the path starts.
    pub root_id: Id,
    /// The ids along it.
    pub node_sequence: Vec<Id>,
}

/// What matters for execution.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionAnalysis {
    /// Nodes with more than one child.
    pub branch_points: Vec<Id>,
    /// Nodes without children.
    pub leaf_nodes: Vec<Id>,
    /// Nodes with more than one parent.
    pub convergence_points: Vec<Id>,
    /// Children of a branch point whose branches can meet again.
    pub parallel_execution_groups: Vec<Vec<Id>>,
    /// Hints for executing.
    pub metadata: ExecutionMetadata,
}

/// Hints for executing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionMetadata {
    /// Reverse depth-first post-order of the reached nodes.
    pub execution_order: Vec<Id>,
    /// The task function of each node.
    pub task_mapping: Record<String>,
    /// What decides at each branch point.
    pub conditional_branches: Record<ConditionalBranch>,
    /// Groups of nodes.
    pub execution_groups: ExecutionGroups,
}

/// What decides at a branch point.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionalBranch {
    /// The branch point.
    pub node_id: Id,
    /// Ids of all edges that leave it.
    pub outgoing_edges: Vec<String>,
    /// Name of the handler that decides.
    pub condition_handler: String,
}

/// Groups of nodes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExecutionGroups {
    /// Runs of nodes that follow one another without branch or convergence.
    pub sequential: Vec<Vec<Id>>,
    /// Equal to `parallelExecutionGroups`.
    pub parallel: Vec<Vec<Id>>,
    /// Parents of each convergence point.
    pub synchronization: Record<Vec<Id>>,
}

/// What is reported beyond the specification.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GraphAnalysis {
    /// Strongly connected components that hold a cycle.
    pub cycles: Vec<Vec<Id>>,
    /// Longest distance from a root, the nodes of a cycle counting as one; −1 where no root reaches the node.
    pub topological_rank: Record<i64>,
    /// The heaviest way through the graph.
    pub critical_path: CriticalPath,
    /// Where the branches of each branch point surely meet again; null where they need not.
    pub post_dominators: Record<Option<Id>>,
    /// Most nodes of one topological rank: that many can surely run at once.
    pub max_parallel_width: usize,
}

/// The heaviest way through the graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CriticalPath {
    /// The nodes along it; the nodes of a cycle are listed together.
    pub node_sequence: Vec<Id>,
    /// Sum of their weights.
    pub weight: f64,
}

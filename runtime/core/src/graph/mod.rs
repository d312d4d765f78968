//! The WorkflowGraph analysis of the specification: relations, paths, branch and convergence points, groups.
//!
//! Takes any graph that parses, valid for execution or not, and never panics or recurses over it. Time and memory are
//! linear in the graph plus the listed paths, except for the path count (one addition of long numbers an edge) and for
//! rejoining branches (one pass over their ancestors for every 256 lowest convergence points).

mod components;
mod dominators;
mod groups;
mod index;
mod loops;
mod paths;
mod processed;
mod rank;
mod view;
mod walk;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use components::Components;
use index::{Graph, KeyOrder};
pub(crate) use loops::LoopForest;
pub use processed::{
    ConditionalBranch, CriticalPath, ExecutionAnalysis, ExecutionGroups, ExecutionMetadata, Forest, GraphAnalysis,
    GraphNodeRelationship, Id, ProcessedEdge, ProcessedNode, ProcessedWorkflow, Record, WorkflowPath,
};
use serde_json::Value;

use crate::definition::{EdgeKind, Node, NodeMetadata, WorkflowDefinition, WorkflowEdge, read};

/// Bounds and inputs of an analysis.
#[derive(Clone, Debug)]
pub struct AnalyzeOptions {
    /// Most paths listed.
    pub max_paths: usize,
    /// Ids in the listed paths after which no further path is listed.
    pub path_ids_max: usize,
    /// Steps of the walk that lists paths; only a cyclic graph can use them up.
    pub path_steps_max: usize,
    /// The time shown in the metadata of nodes that have none, RFC 3339.
    pub now: Option<String>,
    /// Weights of nodes for the critical path; a node that is not listed weighs 1.
    pub node_weights: HashMap<String, f64>,
}

impl Default for AnalyzeOptions {
    fn default() -> Self {
        Self {
            max_paths: 1_000,
            path_ids_max: 1_000_000,
            path_steps_max: 20_000_000,
            now: None,
            node_weights: HashMap::new(),
        }
    }
}

/// Analyses a definition.
#[must_use]
pub fn analyze<'a>(definition: &'a WorkflowDefinition, options: &AnalyzeOptions) -> ProcessedWorkflow<'a> {
    analyze_graph(&definition.nodes, &definition.edges, options)
}

/// Analyses nodes and edges.
#[must_use]
pub fn analyze_graph<'a>(
    nodes: &'a [Node],
    edges: &'a [WorkflowEdge],
    options: &AnalyzeOptions,
) -> ProcessedWorkflow<'a> {
    let graph = Graph::new(nodes, edges);
    let components = Components::new(&graph);
    let roots = walk::roots(&graph);
    let depths = walk::depths(&graph, &roots);
    let found = paths::paths(&graph, &roots, &depths, &components, options);
    let ids = |keep: &dyn Fn(u32) -> bool| graph.nodes().filter(|&at| keep(at)).map(|at| graph.id(at)).collect();

    let mut path_indices: Vec<Vec<usize>> = vec![Vec::new(); graph.node_count];
    for (number, path) in found.listed.iter().enumerate() {
        for &at in path.sequence.iter().filter(|&&at| graph.is_node(at)) {
            path_indices[at as usize].push(number);
        }
    }
    let relation = |(at, path_indices): (u32, Vec<usize>)| {
        let relation = GraphNodeRelationship {
            children: graph.id_list(graph.children.of(at)),
            parents: graph.id_list(graph.parents.of(at)),
            depth: depths[at as usize],
            path_indices,
        };
        (graph.id(at), relation)
    };
    let parallel: Vec<Vec<Id>> = groups::rejoining_branches(&graph, &components)
        .into_iter()
        .map(|branch| graph.id_list(graph.children.of(branch)))
        .collect();
    let convergence = |at: &u32| graph.is_convergence(*at);
    let metadata = ExecutionMetadata {
        execution_order: graph.id_list(&walk::execution_order(&graph, &roots)),
        task_mapping: task_mapping(&graph, nodes),
        conditional_branches: conditional_branches(&graph, nodes, edges),
        execution_groups: ExecutionGroups {
            sequential: groups::sequential_runs(&graph, &found.listed)
                .iter()
                .map(|run| graph.id_list(run))
                .collect(),
            parallel: parallel.clone(),
            synchronization: graph
                .nodes()
                .filter(convergence)
                .map(|at| (graph.id(at), graph.id_list(graph.parents.of(at))))
                .collect(),
        },
    };
    ProcessedWorkflow {
        forest: Forest {
            roots: graph.id_list(&roots),
            adjacency_list: graph.nodes().zip(path_indices).map(relation).collect(),
        },
        nodes: nodes_by_id(&graph, nodes, options),
        paths: workflow_paths(&graph, &roots, &found),
        edges: edges_by_id(edges),
        execution: ExecutionAnalysis {
            branch_points: ids(&|at| graph.is_branch(at)),
            leaf_nodes: ids(&|at| graph.children.of(at).is_empty()),
            convergence_points: ids(&|at| graph.is_convergence(at)),
            parallel_execution_groups: parallel,
            metadata,
        },
        truncated: found.truncated,
        path_count: found.count.as_ref().map(ToString::to_string),
        analysis: beyond(&graph, &components, &roots, &depths, options),
    }
}

fn beyond(
    graph: &Graph,
    components: &Components,
    roots: &[u32],
    depths: &[i64],
    options: &AnalyzeOptions,
) -> GraphAnalysis {
    let ranks = rank::ranks(graph, components, depths);
    let weight_of = |at: u32| {
        options
            .node_weights
            .get(&*graph.ids[at as usize])
            .copied()
            .unwrap_or(1.0)
    };
    let (sequence, weight) = rank::critical_path(graph, components, roots, weight_of);
    let dominators = dominators::immediate_post_dominators(graph);
    GraphAnalysis {
        cycles: components
            .cycles()
            .into_iter()
            .map(|members| graph.id_list(members))
            .collect(),
        max_parallel_width: rank::width(&ranks),
        topological_rank: graph.nodes().map(|at| (graph.id(at), ranks[at as usize])).collect(),
        critical_path: CriticalPath {
            node_sequence: graph.id_list(&sequence),
            weight,
        },
        post_dominators: graph
            .nodes()
            .filter(|&at| graph.is_branch(at))
            .map(|at| (graph.id(at), dominators[at as usize].map(|found| graph.id(found))))
            .collect(),
    }
}

fn workflow_paths(graph: &Graph, roots: &[u32], found: &paths::Paths) -> Vec<WorkflowPath> {
    let mut listed: Vec<WorkflowPath> = found
        .listed
        .iter()
        .map(|path| {
            let root_id = graph.id(roots[path.root]);
            WorkflowPath {
                id: format!("path-{root_id}-{}", path.number),
                name: format!("Path {}.{}", path.root + 1, path.number + 1),
                root_id,
                node_sequence: graph.id_list(&path.sequence),
            }
        })
        .collect();
    let orphans: Vec<u32> = graph
        .of_array
        .iter()
        .copied()
        .filter(|&at| !found.covered[at as usize])
        .collect();
    if let Some(&first) = orphans.first() {
        listed.push(WorkflowPath {
            id: "path-orphaned".to_owned(),
            name: "Orphaned Nodes".to_owned(),
            root_id: graph.id(first),
            node_sequence: graph.id_list(&orphans),
        });
    }
    listed
}

fn task_text<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.data
        .get("taskDefinition")?
        .get(name)?
        .as_str()
        .filter(|text| !text.is_empty())
}

fn task_mapping(graph: &Graph, nodes: &[Node]) -> Record<String> {
    let last = last_of_each(graph, nodes);
    let task = |node: &Node| match task_text(node, "functionName") {
        Some(name) => name.to_owned(),
        None => {
            let mut letters = node.node_type.chars();
            let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
            format!("execute{first}{}Node", letters.as_str())
        }
    };
    graph
        .nodes()
        .map(|at| (graph.id(at), task(last[at as usize])))
        .collect()
}

fn conditional_branches(graph: &Graph, nodes: &[Node], edges: &[WorkflowEdge]) -> Record<ConditionalBranch> {
    let mut outgoing: Vec<Vec<String>> = vec![Vec::new(); graph.node_count];
    for (edge, source) in edges.iter().zip(&graph.edge_source) {
        if let Some(source) = source.filter(|&source| graph.is_branch(source)) {
            outgoing[source as usize].push(edge.id.clone());
        }
    }
    // Of nodes with one id the first decides, as in the original; everywhere else the last does.
    let mut handlers: Vec<Option<&str>> = vec![None; graph.node_count];
    for (node, &at) in nodes.iter().zip(&graph.of_array).rev() {
        handlers[at as usize] = task_text(node, "handlerId");
    }
    let branch = |(at, outgoing_edges): (u32, Vec<String>)| {
        let condition_handler = handlers[at as usize].unwrap_or("defaultConditionHandler").to_owned();
        (
            graph.id(at),
            ConditionalBranch {
                node_id: graph.id(at),
                outgoing_edges,
                condition_handler,
            },
        )
    };
    graph
        .nodes()
        .zip(outgoing)
        .filter(|(at, _)| graph.is_branch(*at))
        .map(branch)
        .collect()
}

fn last_of_each<'a>(graph: &Graph, nodes: &'a [Node]) -> Vec<&'a Node> {
    let mut last: Vec<Option<&Node>> = vec![None; graph.node_count];
    for (node, &at) in nodes.iter().zip(&graph.of_array) {
        last[at as usize] = Some(node);
    }
    last.into_iter().flatten().collect()
}

fn nodes_by_id<'a>(graph: &Graph, nodes: &'a [Node], options: &AnalyzeOptions) -> Record<ProcessedNode<'a>> {
    let draft = Arc::new(draft_metadata(options));
    let complete = |node: &'a Node| {
        let mut node = Cow::Borrowed(node);
        if node.name.is_empty() {
            node.to_mut().name = read::default_node_name(&node.node_type);
        }
        if node.version == 0 {
            node.to_mut().version = 1;
        }
        let draft = node.metadata.is_none().then(|| Arc::clone(&draft));
        ProcessedNode { node, draft }
    };
    let last = last_of_each(graph, nodes);
    graph
        .nodes()
        .map(|at| (graph.id(at), complete(last[at as usize])))
        .collect()
}

fn draft_metadata(options: &AnalyzeOptions) -> NodeMetadata {
    let mut metadata = NodeMetadata {
        created_at: options.now.clone(),
        updated_at: options.now.clone(),
        created_by: Some("system".to_owned()),
        ..NodeMetadata::default()
    };
    metadata.extra.insert("status".to_owned(), Value::from("draft"));
    metadata
}

fn edges_by_id(edges: &[WorkflowEdge]) -> Record<ProcessedEdge<'_>> {
    let order = KeyOrder::new(edges.iter().map(|edge| edge.id.as_str()));
    let mut last: Vec<Option<&WorkflowEdge>> = vec![None; order.keys.len()];
    for (edge, place) in edges.iter().zip(order.places) {
        last[place as usize] = Some(edge);
    }
    last.into_iter()
        .flatten()
        .map(|edge| (Id::from(edge.id.as_str()), complete_edge(edge)))
        .collect()
}

fn complete_edge(edge: &WorkflowEdge) -> ProcessedEdge<'_> {
    let mut edge = Cow::Borrowed(edge);
    if edge.edge_type.as_deref() == Some("") {
        edge.to_mut().edge_type = None;
    }
    // A label that is no string is kept beside the known fields when reading, and dropped here.
    if edge.extra.contains_key("label") {
        edge.to_mut().extra.shift_remove("label");
    }
    let default_type = edge.edge_type.is_none().then_some(EdgeKind::Default.as_str());
    ProcessedEdge { edge, default_type }
}

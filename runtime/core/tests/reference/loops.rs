//! §2: the natural loops of a definition, by their plain definitions over its edges.

use std::collections::BTreeSet;

use troupe_core::definition::{WorkflowDefinition, WorkflowEdge};

/// All back edges to one header make one loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    pub header: String,
    /// The header included.
    pub body: BTreeSet<String>,
}

impl Loop {
    pub fn is_back_edge(&self, edge: &WorkflowEdge) -> bool {
        self.body.contains(&edge.source) && edge.target == self.header
    }

    pub fn is_exit(&self, edge: &WorkflowEdge) -> bool {
        self.body.contains(&edge.source) && !self.body.contains(&edge.target)
    }

    /// Whether an edge waits for the end of a generation of this loop (ADR 0015, held edges).
    pub fn holds(&self, edge: &WorkflowEdge) -> bool {
        self.is_back_edge(edge) || self.is_exit(edge)
    }

    pub fn is_within(&self, outer: &Self) -> bool {
        self != outer && self.body.is_subset(&outer.body)
    }
}

/// The loops of a definition, inner ones before those around them.
pub fn loops(definition: &WorkflowDefinition) -> Vec<Loop> {
    let reached = reached_without(definition, None);
    for node in &definition.nodes {
        assert!(reached.contains(&node.id), "no root reaches {}", node.id);
    }
    let back: Vec<&WorkflowEdge> = definition
        .edges
        .iter()
        .filter(|edge| dominates(definition, &edge.target, &edge.source))
        .collect();
    let mut found: Vec<Loop> = Vec::new();
    for node in &definition.nodes {
        let own: Vec<_> = back.iter().filter(|edge| edge.target == node.id).collect();
        if own.is_empty() {
            continue;
        }
        let mut body = BTreeSet::from([node.id.clone()]);
        for edge in own {
            body.extend(reaching_without(definition, &edge.source, &node.id));
        }
        found.push(Loop {
            header: node.id.clone(),
            body,
        });
    }
    found.sort_by_key(|the| the.body.len());
    assert!(is_acyclic(definition, &back), "a cycle with more than one entry");
    found
}

/// Nodes that no edge from another node comes into; a cycle that nothing enters is invalid (§8.6).
pub fn roots(definition: &WorkflowDefinition) -> Vec<String> {
    let is_entered = |id: &str| {
        definition
            .edges
            .iter()
            .any(|edge| edge.target == id && edge.source != id)
    };
    let ids = definition.nodes.iter().map(|node| node.id.clone());
    ids.filter(|id| !is_entered(id)).collect()
}

/// Whether every way from a root to `lower` passes `upper`.
fn dominates(definition: &WorkflowDefinition, upper: &str, lower: &str) -> bool {
    !reached_without(definition, Some(upper)).contains(lower)
}

/// What the roots reach on ways that do not pass `avoided`.
fn reached_without(definition: &WorkflowDefinition, avoided: Option<&str>) -> BTreeSet<String> {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut open = roots(definition);
    while let Some(id) = open.pop() {
        if Some(id.as_str()) != avoided && reached.insert(id.clone()) {
            let leaving = definition.edges.iter().filter(|edge| edge.source == id);
            open.extend(leaving.map(|edge| edge.target.clone()));
        }
    }
    reached
}

/// What reaches `last` on ways that do not pass `avoided`.
fn reaching_without(definition: &WorkflowDefinition, last: &str, avoided: &str) -> BTreeSet<String> {
    let mut reaching: BTreeSet<String> = BTreeSet::new();
    let mut open = vec![last.to_owned()];
    while let Some(id) = open.pop() {
        if id != avoided && reaching.insert(id.clone()) {
            let coming = definition.edges.iter().filter(|edge| edge.target == id);
            open.extend(coming.map(|edge| edge.source.clone()));
        }
    }
    reaching
}

/// Whether the edges that are not back edges can be used up from the roots on.
fn is_acyclic(definition: &WorkflowDefinition, back: &[&WorkflowEdge]) -> bool {
    let forward: Vec<&WorkflowEdge> = definition.edges.iter().filter(|edge| !back.contains(edge)).collect();
    let mut left: BTreeSet<&str> = definition.nodes.iter().map(|node| node.id.as_str()).collect();
    loop {
        let is_free = |id: &&&str| {
            !forward
                .iter()
                .any(|edge| edge.target == **id && left.contains(edge.source.as_str()))
        };
        let Some(free) = left.iter().find(is_free).copied() else {
            return left.is_empty();
        };
        left.remove(free);
    }
}

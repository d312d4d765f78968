//! Reads what the interpreter needs straight out of the raw definition.

use serde_json::{Map, Value};
use troupe_core::definition::{Node, WorkflowDefinition, WorkflowEdge};

use super::children::has_children;

/// A field of a node's data, direct or under `taskDefinition`, or under its `config` (§4), which triggers and handlers have
/// for themselves.
pub fn field<'a>(node: &'a Node, name: &str) -> Option<&'a Value> {
    let task = node.data.get("taskDefinition").and_then(Value::as_object);
    let config = task.and_then(|task| task.get("config")).and_then(Value::as_object);
    let config = config.filter(|_| !matches!(node.node_type.as_str(), "trigger" | "function" | "custom"));
    let present = |object: &'a Map<String, Value>| object.get(name).filter(|value| !value.is_null());
    present(&node.data)
        .or_else(|| task.and_then(present))
        .or_else(|| config.and_then(present))
}

pub fn text<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    field(node, name).and_then(Value::as_str)
}

pub fn milliseconds(node: &Node, name: &str) -> Option<i64> {
    field(node, name).and_then(Value::as_i64)
}

pub fn join_field<'a>(node: &'a Node, name: &str) -> Option<&'a Value> {
    node.data.get("join")?.get(name)
}

/// Whether nodes of this type run attempts; the others are decided within a step (§8.8).
pub fn has_attempts(node: &Node) -> bool {
    !matches!(
        node.node_type.as_str(),
        "decision" | "trigger" | "delay" | "end" | "webhook"
    ) && !has_children(&node.node_type)
}

pub fn edge_type(edge: &WorkflowEdge) -> &str {
    edge.edge_type.as_deref().unwrap_or("default")
}

/// A list of strings.
pub fn texts(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .map(|items| items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Places in `definition.edges` of the edges into a node, in definition order.
pub fn incoming(definition: &WorkflowDefinition, node: &str) -> Vec<usize> {
    (0..definition.edges.len())
        .filter(|&edge| definition.edges[edge].target == node)
        .collect()
}

/// Places in `definition.edges` of the edges out of a node, in definition order.
pub fn outgoing(definition: &WorkflowDefinition, node: &str) -> Vec<usize> {
    (0..definition.edges.len())
        .filter(|&edge| definition.edges[edge].source == node)
        .collect()
}

pub fn node<'a>(definition: &'a WorkflowDefinition, id: &str) -> &'a Node {
    definition
        .nodes
        .iter()
        .find(|node| node.id == id)
        .expect("the definition is valid")
}

/// Whether a start may name the node: a webhook that is no root waits for calls of its own.
pub fn is_trigger(definition: &WorkflowDefinition, node: &Node) -> bool {
    let is_root = || super::loops::roots(definition).contains(&node.id);
    node.node_type == "trigger" || (node.node_type == "webhook" && is_root())
}

/// Which roots a start fires (§5, "Which roots fire").
pub fn firing_roots(definition: &WorkflowDefinition, trigger: Option<&str>) -> Vec<String> {
    let roots = || {
        let roots = super::loops::roots(definition);
        definition.nodes.iter().filter(move |node| roots.contains(&node.id))
    };
    let waits_for_its_cause =
        |node: &&Node| node.node_type == "webhook" || matches!(text(node, "triggerType"), Some("scheduled" | "event"));
    let ids = |chosen: Vec<&Node>| chosen.into_iter().map(|node| node.id.clone()).collect::<Vec<_>>();
    match trigger {
        Some(trigger) => ids(roots()
            .filter(|node| node.id == trigger || !is_trigger(definition, node))
            .collect()),
        None => {
            let chosen = ids(roots().filter(|node| !waits_for_its_cause(node)).collect());
            if chosen.is_empty() {
                ids(roots().collect())
            } else {
                chosen
            }
        }
    }
}

/// The condition of a decision that an edge belongs to: its condition names one, else its handle, else its label.
pub fn owner<'a>(edge: &WorkflowEdge, ids: &[&'a str]) -> Option<&'a str> {
    let named = |name: &Option<String>| ids.iter().copied().find(|id| name.as_deref() == Some(id));
    named(&edge.condition)
        .or_else(|| named(&edge.source_handle))
        .or_else(|| named(&edge.label))
}

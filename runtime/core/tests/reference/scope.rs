//! §3: what nodes are given and expressions see.

use serde_json::{Map, Value, json};

use super::language::{self, Thrown};
use super::state::{Edge, Reference};

impl Reference {
    /// What a node is given before its mapping: the start payload at a root.
    pub(super) fn raw_input(&self, id: &str) -> Value {
        if let Some(brought) = &self.nodes[id].brought {
            return brought.clone();
        }
        let mut edges = self.entries(id);
        if edges.is_empty() {
            return self.payload.clone();
        }
        edges.retain(|&edge| self.edges[edge] == Edge::Resolved(true));
        self.carried(&edges)
    }

    /// A taken edge carries its source's output, after a failure `{error, input}`.
    pub(super) fn load(&mut self, edge: usize) {
        let source = &self.nodes[&self.way(edge).source];
        let value = source.payload.clone().or_else(|| source.output.clone());
        self.carries[edge] = value.expect("a source of a taken edge has ended");
    }

    /// What taken edges carry: one as it is, several keyed by source.
    pub(super) fn carried(&self, taken: &[usize]) -> Value {
        let carried: Vec<(String, Value)> = taken
            .iter()
            .map(|&edge| (self.way(edge).source.clone(), self.carries[edge].clone()))
            .collect();
        match carried.len() {
            1 => carried
                .into_iter()
                .next()
                .map(|(_, value)| value)
                .unwrap_or(Value::Null),
            _ => Value::Object(carried.into_iter().collect()),
        }
    }

    /// §3: what an expression about a node, or about an edge out of it, sees.
    pub(super) fn scope(&self, about: Option<&str>, extra: &[(&str, &Value)]) -> Value {
        let nodes: Map<String, Value> = self
            .nodes
            .iter()
            .map(|(id, state)| {
                let latest = state.latest();
                let seen = json!({"status": latest.phase.name(), "output": latest.output, "error": latest.error});
                (id.clone(), seen)
            })
            .collect();
        let mut scope = json!({
            "trigger": self.payload,
            "variables": self.variables,
            "nodes": nodes,
            "execution": {"workflowId": self.definition.id, "version": self.definition.version},
        });
        if let Some(iteration) = about.and_then(|id| self.iteration(id)) {
            scope["execution"]["iteration"] = json!(iteration);
        }
        for (name, value) in extra {
            scope[*name] = (*value).clone();
        }
        scope
    }
}

/// Every expression of a mapping over one scope.
pub(super) fn mapped(mapping: &Map<String, Value>, scope: &Value) -> Result<Map<String, Value>, Thrown> {
    mapping
        .iter()
        .map(|(name, expression)| {
            let value = language::evaluate(expression.as_str().ok_or(Thrown)?, scope)?;
            Ok((name.clone(), value))
        })
        .collect()
}

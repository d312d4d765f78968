//! What a node receives: composed from its taken edges, never stored twice.

use crate::id::{EdgeIx, NodeIx};
use crate::plan::Plan;
use crate::value::{Json, Value};

use super::state::{EdgeState, ExecutionState, Input};
use super::step::StepError;

impl ExecutionState {
    /// The node's input: the mapped one, else what its taken edges carried; null before it is ready.
    ///
    /// # Errors
    /// [`StepError::Corrupt`] when several values must be composed and one of them is a blob.
    pub fn input_of(&self, plan: &Plan, ix: NodeIx) -> Result<Value, StepError> {
        match &self.nodes[ix.at()].input {
            Input::None => Ok(Value::null()),
            Input::Start => Ok(self.input.clone()),
            Input::Edge(edge) => Ok(self.carried(plan, *edge).clone()),
            Input::Mapped(value) => Ok(value.clone()),
            Input::Edges(edges) => {
                let mut members = Vec::with_capacity(edges.len());
                for edge in edges {
                    match self.carried(plan, *edge) {
                        Value::Inline(json) => members.push((plan.node(plan.edge(*edge).source).key.as_str(), json)),
                        Value::Blob(_) => return Err(StepError::Corrupt("a blob cannot be part of a composed input")),
                    }
                }
                Ok(Value::Inline(Json::object(members)))
            }
        }
    }

    /// What a taken edge carries: its source's output, or `{error, input}` after a failure.
    fn carried(&self, plan: &Plan, edge: EdgeIx) -> &Value {
        static NULL: std::sync::LazyLock<Value> = std::sync::LazyLock::new(Value::null);
        let source = &self.nodes[plan.edge(edge).source.at()];
        let failed = source.failure.as_ref().and_then(|failure| failure.payload.as_ref());
        failed.or(source.output.as_ref()).unwrap_or(&NULL)
    }

    /// Where the input of a node comes from that becomes ready now.
    pub(super) fn taken_input(&self, plan: &Plan, ix: NodeIx) -> Input {
        let incoming = &plan.node(ix).incoming;
        let mut taken = incoming
            .iter()
            .copied()
            .filter(|edge| self.edges[edge.at()] == EdgeState::Taken);
        match (taken.next(), taken.next()) {
            (None, _) => Input::Start,
            (Some(only), None) => Input::Edge(only),
            (Some(first), Some(second)) => {
                let mut edges = vec![first, second];
                edges.extend(taken);
                Input::Edges(edges)
            }
        }
    }
}

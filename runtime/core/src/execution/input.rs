//! What a node receives: composed from its taken edges, never stored twice.

use crate::id::{EdgeIx, NodeIx};
use crate::plan::Plan;
use crate::value::Value;

use super::state::{EdgeState, ExecutionState, Input, NodeState};

impl ExecutionState {
    /// The node's input: the mapped one, else what its taken edges carried; null before it is ready.
    #[must_use]
    pub fn input_of(&self, plan: &Plan, ix: NodeIx) -> Value {
        let Some(node) = self.node(ix) else {
            return Value::null();
        };
        match &node.input {
            Input::Compensated => self.compensated_input(),
            Input::None => Value::null(),
            Input::Start => self.input.clone(),
            Input::Edge(edge) => self.carried(plan, *edge).clone(),
            Input::Mapped(value) | Input::Carried(value) => value.clone(),
            Input::Edges(edges) => self.composed(plan, edges),
        }
    }

    /// How often the node's input is composed of composed ones.
    pub(super) fn input_depth(&self, plan: &Plan, ix: NodeIx) -> u32 {
        match &self.nodes[ix.at()].input {
            Input::None | Input::Compensated => 0,
            Input::Start => self.input.depth(),
            Input::Edge(edge) => self.carried(plan, *edge).depth(),
            Input::Mapped(value) | Input::Carried(value) => value.depth(),
            Input::Edges(edges) => {
                let parts = edges.iter().map(|edge| self.carried(plan, *edge).depth());
                1 + parts.max().unwrap_or(0)
            }
        }
    }

    /// An object keyed by source, of what these edges carry, in their order.
    fn composed(&self, plan: &Plan, edges: &[EdgeIx]) -> Value {
        let member = |edge: &EdgeIx| {
            (
                plan.node(plan.edge(*edge).source).key.as_str(),
                self.carried(plan, *edge),
            )
        };
        Value::object(edges.iter().map(member))
    }

    /// What taken back edges give the header of the next generation: one edge its own, several an object.
    pub(super) fn carried_back(&self, plan: &Plan, edges: &[EdgeIx]) -> Value {
        match edges {
            [only] => self.carried(plan, *only).clone(),
            several => self.composed(plan, several),
        }
    }

    /// What a taken edge carries: its source's output, or `{error, input}` after a failure.
    fn carried(&self, plan: &Plan, edge: EdgeIx) -> &Value {
        static NULL: std::sync::LazyLock<Value> = std::sync::LazyLock::new(Value::null);
        let (source, target) = (plan.edge(edge).source, plan.edge(edge).target);
        let headed = plan
            .node(source)
            .within
            .filter(|ix| plan.loops[ix.at()].header == source);
        let within = headed.filter(|ix| target != source && plan.holds(*ix, target));
        let before = within.and_then(|ix| self.loops[ix.at()].exceeded.as_ref());
        before.or_else(|| self.nodes[source.at()].gave()).unwrap_or(&NULL)
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

impl NodeState {
    /// What its taken edges carry: its output, or `{error, input}` after a failure.
    pub(super) fn gave(&self) -> Option<&Value> {
        let failed = self.failure.as_ref().and_then(|failure| failure.payload.as_ref());
        failed.or(self.output.as_ref())
    }
}

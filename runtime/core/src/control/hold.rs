//! What the controls in force mean for an execution. Pure: the actors only carry it out.

use crate::execution::ExecutionState;
use crate::id::{NodeIx, WorkflowId};
use crate::plan::Plan;

use super::{ControlKey, ControlSet, Register, Scope};

impl ControlSet {
    /// Whether nothing is paused or stopped.
    #[must_use]
    pub fn holds_nothing(&self) -> bool {
        self.holding().next().is_none()
    }

    /// Pauses and stops in force, with their scopes.
    pub fn holding(&self) -> impl Iterator<Item = (&ControlKey, &Scope, &Register)> {
        self.in_force().filter_map(|(key, register, _)| match key {
            ControlKey::Pause(scope) | ControlKey::Stop(scope) => Some((key, scope, register)),
            ControlKey::Breaker(_) => None,
        })
    }

    /// Whether an attempt of a node must not start. It may when no scope holds it.
    #[must_use]
    pub fn holds_attempt(&self, plan: &Plan, node: NodeIx) -> bool {
        self.holding().any(|(_, scope, _)| scope.covers_node(plan, node))
    }

    /// What holds an execution, or a node of it that has not ended.
    pub fn holding_execution<'a>(
        &'a self,
        plan: &'a Plan,
        state: &'a ExecutionState,
    ) -> impl Iterator<Item = (&'a ControlKey, &'a Scope, &'a Register)> {
        let is_open = |ix: &NodeIx| !state.nodes[ix.at()].phase.is_terminal();
        let nodes = (0..plan.nodes.len()).map(|place| NodeIx(u32::try_from(place).unwrap_or(u32::MAX)));
        let open: Vec<NodeIx> = nodes.filter(is_open).collect();
        self.holding().filter(move |(_, scope, _)| {
            !open.is_empty() && scope.covers(&plan.workflow) || open.iter().any(|ix| scope.names_node(plan, *ix))
        })
    }

    /// Why no execution of a workflow may start, if none may.
    #[must_use]
    pub fn stop_of(&self, workflow: &WorkflowId) -> Option<(&Scope, &Register)> {
        self.in_force().find_map(|(key, register, _)| match key {
            ControlKey::Stop(scope) if scope.covers(workflow) => Some((scope, register)),
            ControlKey::Stop(_) | ControlKey::Pause(_) | ControlKey::Breaker(_) => None,
        })
    }
}

//! How many attempts of each node run: what a pause still lets end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use troupe_core::NodeIx;
use troupe_core::control::{ControlKey, Scope};
use troupe_core::plan::Plan;

/// Attempts of one workflow version that run in this engine, by node.
#[derive(Debug)]
pub struct RunningAttempts {
    plan: Arc<Plan>,
    by_node: Box<[AtomicU32]>,
}

impl RunningAttempts {
    /// None run yet.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        let counted = plan.nodes.iter().chain(&plan.compensations);
        let by_node = counted.map(|_| AtomicU32::new(0)).collect();
        Self { plan, by_node }
    }

    /// The count of a node.
    #[must_use]
    pub fn of(&self, node: NodeIx) -> &AtomicU32 {
        &self.by_node[node.at()]
    }

    /// How many run in a control's scope.
    #[must_use]
    pub fn within(&self, key: &ControlKey) -> u32 {
        let scope: &Scope = match key {
            ControlKey::Pause(scope) | ControlKey::Stop(scope) => scope,
            ControlKey::Breaker(_) => return 0,
        };
        let counts = (0..).map(NodeIx).zip(&self.by_node);
        let within = counts.filter(|(node, _)| scope.covers_node(&self.plan, *node));
        within.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }
}

//! What was going on when something broke: so that a campaign can tell which faults met which features.

mod breakers;
mod controls;
mod graphs;
mod limits;

use std::collections::{BTreeMap, BTreeSet};

use troupe_core::ExecutionId;
use troupe_core::definition::NodeKind;
use troupe_core::execution::{CacheUse, ExecutionState, NodeState, Phase, Status};

use super::World;
use super::process::{ActorNo, Execution, ProcessNo, Waiting};

/// Everything that can be going on.
pub fn features() -> impl Iterator<Item = &'static str> {
    let own = FEATURES.into_iter().chain(graphs::FEATURES);
    own.chain(limits::FEATURES)
        .chain(controls::FEATURES)
        .chain(breakers::FEATURES)
}

/// What no world can have: limits count one engine's executions, and where there is one process, none is apart from the store.
pub const IMPOSSIBLE: [(&str, &str); 2] = [("waits for room", "partition"), ("has room", "partition")];

const FEATURES: [&str; 29] = [
    "attempt",
    "retry",
    "delay",
    "call awaited",
    "heartbeat awaited",
    "early call kept",
    "subworkflow",
    "forEach",
    "loop of children",
    "child",
    "join half full",
    "join deadline",
    "visit again",
    "paused",
    "canceling",
    "failing",
    "execution deadline",
    "business key",
    "variables",
    "sandbox",
    "waits for room",
    "has room",
    "next run",
    "undoing",
    "undoing tried again",
    "output reused",
    "reporting",
    "on behalf of a failure",
    "rerun",
];

impl World {
    /// A fault hits a process, or all of them: notes what is in use there.
    pub(super) fn cover(&mut self, fault: &'static str, victim: Option<ProcessNo>) {
        let mut features: BTreeSet<&'static str> = BTreeSet::new();
        for (number, process) in &self.processes {
            if victim.is_some_and(|victim| victim != *number) {
                continue;
            }
            for execution in process.executions.values() {
                in_use(execution, &mut features);
            }
            limits::of_process(process, &mut features);
            controls::of_process(process, &mut features);
            breakers::of_process(process, &mut features);
        }
        // Those without an actor are hit with the store's owner.
        features.extend(self.parked.values().flatten());
        for feature in features {
            *self.coverage.entry((feature, fault)).or_default() += 1;
        }
    }

    /// An actor retires: what its execution waits with is remembered, until another one goes on.
    pub(super) fn note_parked(&mut self, process: ProcessNo, actor: ActorNo) {
        let mut features = BTreeSet::new();
        let state = self.processes.get(&process);
        let Some(execution) = state.and_then(|state| state.executions.get(&actor)) else {
            return;
        };
        let id = execution.id;
        in_use(execution, &mut features);
        if features.is_empty() {
            self.parked.remove(&id);
        } else {
            self.parked.insert(id, features);
        }
    }
}

/// Waiting executions without an actor, and what they wait with.
pub(super) type Parked = BTreeMap<ExecutionId, BTreeSet<&'static str>>;

fn in_use(execution: &Execution, features: &mut BTreeSet<&'static str>) {
    let Some(machine) = &execution.machine else { return };
    let (state, plan) = (machine.state(), &machine.compiled().plan);
    if state.status.is_terminal() {
        return;
    }
    if matches!(execution.waiting, Waiting::Evaluation) {
        features.insert("sandbox");
    }
    of_execution(state, features);
    controls::of_execution(state, features);
    graphs::of_graph(state, plan, features);
    for (planned, node) in plan.nodes.iter().zip(&state.nodes) {
        let own = match &node.phase {
            Phase::Running { .. } => Some("attempt"),
            Phase::Backoff { .. } => Some("retry"),
            Phase::Delaying { .. } => Some("delay"),
            Phase::Waiting { .. } => Some("call awaited"),
            Phase::Parenting => match planned.kind {
                NodeKind::Subworkflow => Some("subworkflow"),
                NodeKind::ForEach => Some("forEach"),
                _ => Some("loop of children"),
            },
            _ => None,
        };
        features.extend(own);
        let pending = node.phase == Phase::Pending;
        if pending && node.taken + node.dead > 0 {
            features.insert("join half full");
            if planned.join.timeout.is_some() {
                features.insert("join deadline");
            }
        }
        if node.visit.0 > 1 && !node.phase.is_terminal() {
            features.insert("visit again");
        }
        let beats = planned.data.contains_key("heartbeatTimeout");
        if beats && matches!(node.phase, Phase::Waiting { .. }) {
            features.insert("heartbeat awaited");
        }
    }
}

fn of_execution(state: &ExecutionState, features: &mut BTreeSet<&'static str>) {
    let those = [
        (state.parent.is_some(), "child"),
        (state.parent.is_some_and(|parent| !parent.attached), "not awaited"),
        (state.paused, "paused"),
        (matches!(state.status, Status::Canceling { .. }), "canceling"),
        (state.status == Status::Failing, "failing"),
        (state.run.0 > 1, "next run"),
        (matches!(state.status, Status::Compensating(_)), "undoing"),
        (undoing_again(state), "undoing tried again"),
        (state.nodes.iter().any(reuses), "output reused"),
        (state.status == Status::Reporting, "reporting"),
        (state.handles_failure_of.is_some(), "on behalf of a failure"),
        (state.rerun_of.is_some(), "rerun"),
        (state.execution_deadline.is_some(), "execution deadline"),
        (state.execution_key.is_some(), "business key"),
        (!state.signals.is_empty(), "early call kept"),
        (!state.variables.is_empty(), "variables"),
        (
            state.room.is_some() && state.status == Status::Pending,
            "waits for room",
        ),
        (state.room.is_some() && state.status != Status::Pending, "has room"),
    ];
    features.extend(those.into_iter().filter(|(is, _)| *is).map(|(_, name)| name));
}

fn undoing_again(state: &ExecutionState) -> bool {
    let all = state.compensations.as_deref();
    let undoing = all.and_then(|all| all.visits.get(all.left as usize)?.compensation.as_deref());
    undoing.is_some_and(|undoing| matches!(undoing.phase, Phase::Backoff { .. }))
}

fn reuses(node: &NodeState) -> bool {
    matches!(node.cache.as_deref(), Some(CacheUse::Hit))
}

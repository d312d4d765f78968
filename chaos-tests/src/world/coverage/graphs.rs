//! What drawn graphs alone have in use.

use std::collections::BTreeSet;

use serde_json::json;
use troupe_core::NodeIx;
use troupe_core::definition::{EdgeKind, JoinMode, NodeKind};
use troupe_core::execution::{EdgeState, ExecutionState, LoopState, NodeState, Phase, Status};
use troupe_core::plan::{Plan, PlanLoop, PlanNode};

/// Everything of a graph that can be in use.
pub(super) const FEATURES: [&str; 33] = [
    "drawn graph",
    "drawn body",
    "input mapped",
    "templates",
    "schemas",
    "output replaced",
    "variables written",
    "cancels others",
    "total timeout",
    "retry rules",
    "first failure edge",
    "failure edge",
    "error codes caught",
    "always edge",
    "condition ahead",
    "call transformed",
    "not awaited",
    "failures tolerated",
    "enough children",
    "few children at once",
    "any or quorum",
    "all must succeed",
    "source required",
    "join may fail",
    "late are canceled",
    "trigger behind",
    "decision behind",
    "end ahead",
    "exit held",
    "inner loop",
    "failure tolerated",
    "clean-up",
    "few nodes at once",
];

pub(super) fn of_graph(state: &ExecutionState, plan: &Plan, features: &mut BTreeSet<&'static str>) {
    let workflow = state.workflow.as_str();
    if !workflow.starts_with(crate::world::drawn::PREFIX) {
        return;
    }
    let held = |edge: &EdgeState| matches!(edge, EdgeState::HeldTaken | EdgeState::HeldDead);
    let is_at_work = |ix: &NodeIx| {
        let phase = &state.nodes[ix.at()].phase;
        !matches!(phase, Phase::Pending) && !phase.is_terminal()
    };
    let is_inner = |(planned, one): (&PlanLoop, &LoopState)| {
        planned.parent.is_some() && !one.finished && planned.nodes.iter().any(is_at_work)
    };
    let those = [
        (true, "drawn graph"),
        (workflow.contains('#'), "drawn body"),
        (state.edges.iter().any(held), "exit held"),
        (plan.loops.iter().zip(&state.loops).any(is_inner), "inner loop"),
        (
            state.failure.is_some() && state.status == Status::Running,
            "failure tolerated",
        ),
        (
            plan.settings.parallel_nodes_max.is_some() && !state.held.is_empty(),
            "few nodes at once",
        ),
    ];
    features.extend(those.into_iter().filter(|(is, _)| *is).map(|(_, name)| name));
    for (planned, node) in plan.nodes.iter().zip(&state.nodes) {
        match &node.phase {
            Phase::Pending if node.taken + node.dead > 0 => of_join(planned, features),
            Phase::Pending => {
                let ends = planned.kind == NodeKind::End;
                features.extend(ends.then_some("end ahead"));
            }
            Phase::Completed if planned.kind == NodeKind::Decision => _ = features.insert("decision behind"),
            Phase::Completed if planned.kind == NodeKind::Trigger => _ = features.insert("trigger behind"),
            phase if !phase.is_terminal() => of_node(plan, planned, node, features),
            _ => {}
        }
    }
}

fn of_join(planned: &PlanNode, features: &mut BTreeSet<&'static str>) {
    let join = &planned.join;
    let those = [
        (
            matches!(join.mode, JoinMode::Any | JoinMode::Quorum { .. }),
            "any or quorum",
        ),
        (join.mode == JoinMode::AllSuccess, "all must succeed"),
        (!join.required.is_empty(), "source required"),
        (join.fails_unsatisfied, "join may fail"),
        (join.cancels_late, "late are canceled"),
    ];
    features.extend(those.into_iter().filter(|(is, _)| *is).map(|(_, name)| name));
}

/// Of a node that is at work.
fn of_node(plan: &Plan, planned: &PlanNode, node: &NodeState, features: &mut BTreeSet<&'static str>) {
    let has = |name: &str| planned.data.contains_key(name);
    let ahead = || planned.outgoing.iter().map(|edge| plan.edge(*edge));
    let is_parent = node.phase == Phase::Parenting;
    let detached = planned.data.get("mode") == Some(&json!("detached")) || has("wait");
    let rules = planned.data.get("retryPolicy").and_then(|policy| policy.get("rules"));
    let those = [
        (planned.maps_input, "input mapped"),
        (node.data.is_some(), "templates"),
        (
            planned.checks_input || planned.checks_output || planned.checks_payload,
            "schemas",
        ),
        (planned.replaces_output, "output replaced"),
        (planned.maps_output, "variables written"),
        (!planned.cancels.is_empty(), "cancels others"),
        (node.total_deadline.is_some(), "total timeout"),
        (rules.is_some(), "retry rules"),
        (planned.first_failure_edge_only, "first failure edge"),
        (ahead().any(|edge| edge.kind == EdgeKind::Failure), "failure edge"),
        (ahead().any(|edge| !edge.errors.is_empty()), "error codes caught"),
        (ahead().any(|edge| edge.kind == EdgeKind::Always), "always edge"),
        (ahead().any(|edge| edge.condition.is_some()), "condition ahead"),
        (planned.transforms_call, "call transformed"),
        (is_parent && detached, "not awaited"),
        (is_parent && has("toleratedFailures"), "failures tolerated"),
        (is_parent && has("succeedAfter"), "enough children"),
        (is_parent && has("maxConcurrency"), "few children at once"),
        (node.cleanup, "clean-up"),
    ];
    features.extend(those.into_iter().filter(|(is, _)| *is).map(|(_, name)| name));
}

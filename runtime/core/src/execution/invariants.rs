//! What holds between any two steps; shared by debug assertions, tests and the chaos harness.

use crate::id::NodeIx;
use crate::plan::Plan;

use super::state::{EdgeState, ExecutionState, Input, Phase};

/// Graphs up to this many nodes are checked after every step of a debug build.
const SMALL_NODES_MAX: usize = 64;

/// [`check`], for graphs small enough to be checked after every step.
///
/// # Errors
/// The first invariant that does not hold.
pub fn check_small(plan: &Plan, state: &ExecutionState) -> Result<(), String> {
    if plan.nodes.len() > SMALL_NODES_MAX {
        Ok(())
    } else {
        check(plan, state)
    }
}

/// Checks every invariant of a state. O(nodes + edges).
///
/// # Errors
/// The first invariant that does not hold.
pub fn check(plan: &Plan, state: &ExecutionState) -> Result<(), String> {
    let mut derived = state.clone();
    derived.reindex(plan);
    ensure(derived.open_nodes == state.open_nodes, || {
        format!("{} open nodes", state.open_nodes)
    })?;
    ensure(derived.active == state.active, || format!("active {:?}", state.active))?;
    ensure(derived.running == state.running, || {
        format!("running {:?}", state.running)
    })?;
    ensure(derived.deadlines == state.deadlines, || {
        format!("deadlines {:?}", state.deadlines)
    })?;
    ensure(derived.loops == state.loops, || format!("loops {:?}", state.loops))?;
    for (place, one) in state.loops.iter().enumerate() {
        let held =
            |edge: &crate::id::EdgeIx| matches!(state.edges[edge.at()], EdgeState::HeldTaken | EdgeState::HeldDead);
        ensure(one.held.iter().all(held), || {
            format!("loop {place} holds {:?}", one.held)
        })?;
        let whole = !one.finished || (one.open == 0 && one.held.is_empty());
        ensure(whole, || format!("loop {place} finished with {} open", one.open))?;
    }
    ensure(!state.status.is_terminal() || state.open_nodes == 0, || {
        "an ended execution has open nodes".into()
    })?;
    for (place, node) in state.nodes.iter().enumerate() {
        let ix = NodeIx(u32::try_from(place).unwrap_or(u32::MAX));
        let planned = plan.node(ix);
        let count = |wanted: EdgeState| {
            planned
                .incoming
                .iter()
                .filter(|e| state.edges[e.at()] == wanted && !plan.is_back_edge(**e))
                .count()
        };
        // In a later generation a header has counted nothing: its back edges started it.
        let headed = planned.within.filter(|within| plan.loops[within.at()].header == ix);
        let again = headed.is_some_and(|within| state.loops[within.at()].iteration > 1);
        let counts = !again && !matches!(node.input, Input::Carried(_));
        ensure(!counts || count(EdgeState::Taken) == node.taken as usize, || {
            format!("{}: {} taken", planned.key, node.taken)
        })?;
        ensure(!counts || count(EdgeState::Dead) == node.dead as usize, || {
            format!("{}: {} dead", planned.key, node.dead)
        })?;
        let resolved = planned
            .outgoing
            .iter()
            .filter(|e| state.edges[e.at()] != EdgeState::Open)
            .count();
        ensure(resolved == 0 || node.phase.is_terminal(), || {
            format!("{}: edges resolved before its end", planned.key)
        })?;
        let ended_early = node.phase.is_terminal() && resolved < planned.outgoing.len();
        ensure(!ended_early, || format!("{}: ended with open edges", planned.key))?;
        ensure((node.phase == Phase::Failed) == node.failure.is_some(), || {
            format!("{}: failure", planned.key)
        })?;
        ensure((node.phase == Phase::Completed) == node.output.is_some(), || {
            format!("{}: output", planned.key)
        })?;
        let is_parent = state.children.contains_key(&ix);
        ensure(node.phase != Phase::Parenting || is_parent, || {
            format!("{}: it waits for children and has none", planned.key)
        })?;
        ensure(node.phase != Phase::Ready || state.held.contains(&ix), || {
            format!("{}: ready, not held", planned.key)
        })?;
    }
    Ok(())
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

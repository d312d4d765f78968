//! Loops: what ends a generation, and what follows it. See ADR 0015.

use crate::definition::EdgeKind;
use crate::id::{EdgeIx, LoopIx, NodeIx};
use crate::value::{ErrorInfo, Value};

use super::state::{EdgeState, Input, LoopState, Phase, Status};
use super::step::StepError;
use super::tx::Tx;

/// Generations that may begin in one step. What follows waits for the next one, so that a step stays bounded.
const GENERATIONS_PER_STEP_MAX: u32 = 64;

impl Tx<'_> {
    /// A node or an inner loop of it has ended: if it was the last one, so has the generation.
    pub(super) fn close(&mut self, ix: LoopIx) -> Result<(), StepError> {
        let one = &self.state.loops[ix.at()];
        if one.finished || one.open > 0 {
            return Ok(());
        }
        let mut held = one.held.clone();
        held.sort_unstable();
        let header = self.plan.loops[ix.at()].header;
        let (back, exits): (Vec<EdgeIx>, Vec<EdgeIx>) = held
            .into_iter()
            .partition(|edge| self.plan.edge(*edge).target == header);
        let is_taken = |edge: &EdgeIx| self.state.edges[edge.at()] == EdgeState::HeldTaken;
        let fails = |edge: &EdgeIx| is_taken(edge) && self.plan.edge(*edge).kind == EdgeKind::Failure;
        let repeats: Vec<EdgeIx> = back.iter().copied().filter(is_taken).collect();
        if repeats.is_empty() || exits.iter().any(fails) || !self.may_repeat(&repeats) {
            self.leave(ix, &back, &exits);
            return Ok(());
        }
        let limit = self.plan.loops[ix.at()].iterations_max(self.node(header).data.as_ref());
        if self.state.loops[ix.at()].iteration < limit {
            self.repeat(ix, &repeats, &exits)
        } else {
            self.exceed(ix, limit, &repeats, &exits)
        }
    }

    /// A loop goes on while its execution runs freely; in a fail-fast clean-up, if the clean-up leads on.
    fn may_repeat(&self, repeats: &[EdgeIx]) -> bool {
        match self.state.status {
            Status::Running => true,
            Status::Failing => repeats.iter().any(|edge| self.is_cleanup(*edge)),
            Status::Pending
            | Status::Canceling { .. }
            | Status::Compensating(_)
            | Status::Reporting
            | Status::Completed { .. }
            | Status::Failed
            | Status::Canceled { .. } => false,
        }
    }

    /// The loop ends: its exits resolve as they were decided.
    fn leave(&mut self, ix: LoopIx, back: &[EdgeIx], exits: &[EdgeIx]) {
        let is_taken = |edge: &EdgeIx| self.state.edges[edge.at()] == EdgeState::HeldTaken;
        let dropped = back.iter().copied().filter(is_taken).collect();
        self.update_loop(ix, |one| {
            one.finished = true;
            one.held.clear();
            one.dropped = dropped;
        });
        for edge in back {
            self.set_edge(*edge, EdgeState::Dead);
        }
        let outer = self.plan.loops[ix.at()].parent;
        for edge in exits {
            let taken = self.state.edges[edge.at()] == EdgeState::HeldTaken;
            self.pass_edge(*edge, taken, outer);
        }
    }

    /// The next generation starts, at the header.
    fn repeat(&mut self, ix: LoopIx, repeats: &[EdgeIx], exits: &[EdgeIx]) -> Result<(), StepError> {
        let plan = self.plan;
        let planned = &plan.loops[ix.at()];
        let header = planned.header;
        let carried = self.state.carried_back(plan, repeats);
        let cleanup = repeats.iter().any(|edge| self.is_cleanup(*edge));
        self.forget_held(|node| plan.holds(ix, node));
        for edge in planned.edges.iter().chain(exits) {
            if self.state.edges[edge.at()] != EdgeState::Open {
                self.set_edge(*edge, EdgeState::Open);
            }
        }
        for node in &planned.nodes {
            self.update(*node, |node| {
                *node = node.next_visit();
                // The whole body is, not only what the header comes to lead to: an operator may decide a node before that.
                node.cleanup = cleanup;
            });
            self.forget_children(*node);
            let inner = self.planned(*node).within.filter(|inner| *inner != ix);
            if let Some(inner) = inner.filter(|inner| plan.loops[inner.at()].header == *node) {
                self.update_loop(inner, LoopState::restart);
            }
        }
        self.update_loop(ix, |one| {
            one.iteration += 1;
            one.held.clear();
            one.exceeded = None;
        });
        self.update(header, |node| node.input = Input::Carried(carried));
        if self.may_turn() {
            return self.turn(header);
        }
        let at = self.at;
        self.update(header, |node| node.phase = Phase::Turning { at });
        Ok(())
    }

    /// Whether another generation may begin in this step.
    pub(super) fn may_turn(&self) -> bool {
        self.generations < GENERATIONS_PER_STEP_MAX
    }

    /// The header becomes ready for its next pass.
    pub(super) fn turn(&mut self, header: NodeIx) -> Result<(), StepError> {
        self.generations += 1;
        let input = self.node(header).input.clone();
        self.ready_with(header, input)
    }

    /// The generation that would follow is one too many: the header fails in it, and the loop ends.
    fn exceed(&mut self, ix: LoopIx, limit: u64, repeats: &[EdgeIx], exits: &[EdgeIx]) -> Result<(), StepError> {
        let header = self.plan.loops[ix.at()].header;
        let carried = self.state.carried_back(self.plan, repeats);
        let cleanup = repeats.iter().any(|edge| self.is_cleanup(*edge));
        for edge in repeats.iter().chain(exits) {
            self.set_edge(*edge, EdgeState::HeldDead);
        }
        let within = self.node(header).gave().cloned().unwrap_or_else(Value::null);
        let of_header = |edge: &EdgeIx| self.plan.edge(*edge).source == header;
        let decided_anew: Vec<EdgeIx> = exits.iter().copied().filter(of_header).collect();
        for edge in &decided_anew {
            self.set_edge(*edge, EdgeState::Open);
        }
        self.update_loop(ix, |one| {
            one.held.retain(|edge| !decided_anew.contains(edge));
            one.exceeded.get_or_insert(within);
        });
        let at = self.at;
        self.update(header, |node| {
            *node = node.next_visit();
            node.cleanup = cleanup;
            node.input = Input::Carried(carried);
            node.scheduled_at = Some(at);
        });
        let message =
            format!("the loop went round {limit} times and would go on; `maxIterations` of its header allows more");
        self.fail(header, ErrorInfo::new("LOOP_LIMIT", message))
    }
}

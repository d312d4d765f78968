//! Passes of loops: where each begins, and which steps leave a loop.

use troupe_core::definition::EdgeKind;
use troupe_core::execution::{Deadline, EdgeState, Phase, Status};
use troupe_core::plan::PlanLoop;
use troupe_core::{EdgeIx, LoopIx, NodeIx};

use crate::compiled::Compiled;
use crate::explore::StateId;
use crate::moves::{Applied, Move};
use crate::observed::{Seen, ended_on_purpose};
use crate::oracle::{Level, Note, Start};
use crate::world::World;

/// A pass of a loop at its beginning: what data has decided by then is fixed, what the pass itself asks is open.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) of: LoopIx,
    /// The nearest step in which it begins; of its choices only the first ones come before that.
    pub(crate) seen: Seen,
    choices: usize,
    /// Where the step leads, by what the pass asks at once.
    pub(crate) to: Vec<StateId>,
    /// Whether one of these ways has left the loop already.
    pub(crate) is_left: bool,
    /// Whether one of these ways is still inside it.
    pub(crate) goes_on: bool,
}

/// What was seen of loops.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    pub(crate) passes: Vec<Pass>,
    /// From where a step leaves which loop.
    pub(crate) left: Vec<(LoopIx, StateId)>,
}

impl Rounds {
    /// Takes in a step from a state that needs so much. The ways of one move come one after the other.
    pub(crate) fn step(
        &mut self,
        compiled: &Compiled,
        seen: &Seen,
        needed: Level,
        before: &World,
        applied: &Applied,
        to: StateId,
    ) {
        for (ix, planned) in (0..).map(LoopIx).zip(&compiled.plan.loops) {
            let step = Step {
                compiled,
                before,
                applied,
                planned,
                ix,
            };
            let starts = step.starts();
            let was_inside = is_inside(before, ix, planned);
            let since = if was_inside {
                Some(0)
            } else {
                starts.first().map(|(place, _)| *place)
            };
            if step.ends_well() || since.is_some_and(|since| step.leaves(since)) {
                self.left.push((ix, seen.from));
            }
            for (place, start) in starts {
                let level = needed.max(start.level);
                let pass = self.pass(ix, &Seen { level, ..seen.clone() }, start);
                pass.is_left |= step.leaves(place);
                pass.goes_on |= is_inside(&applied.world, ix, planned);
                pass.to.push(to);
            }
        }
    }

    /// Ways that make the same choices before it begins are in the same pass.
    fn pass(&mut self, of: LoopIx, seen: &Seen, start: &Start) -> &mut Pass {
        let way = &seen.way;
        let begun = way.tape.get(..start.choices);
        let of_move = |pass: &&Pass| pass.seen.from == seen.from && pass.seen.way.mv == way.mv;
        let recent = self.passes.len() - self.passes.iter().rev().take_while(of_move).count();
        let is_same = |pass: &Pass| {
            let own = &pass.seen.way;
            pass.of == of
                && pass.choices == start.choices
                && own.limit == way.limit
                && own.tape.get(..start.choices) == begun
        };
        let known = self.passes[recent..].iter().position(is_same);
        let at = known.map_or(self.passes.len(), |at| recent + at);
        if known.is_none() {
            self.passes.push(Pass {
                of,
                seen: seen.clone(),
                choices: start.choices,
                to: Vec::new(),
                is_left: false,
                goes_on: false,
            });
        }
        &mut self.passes[at]
    }
}

fn is_inside(world: &World, ix: LoopIx, planned: &PlanLoop) -> bool {
    let one = &world.execution.loops[ix.at()];
    let header = &world.execution.nodes[planned.header.at()];
    let is_over = one.finished || world.execution.status.is_terminal();
    !is_over && (header.scheduled_at.is_some() || one.iteration > 1)
}

/// A step, looked at for one loop.
struct Step<'a> {
    compiled: &'a Compiled,
    before: &'a World,
    applied: &'a Applied,
    planned: &'a PlanLoop,
    ix: LoopIx,
}

impl<'a> Step<'a> {
    /// Where in the notes of the step a pass begins.
    fn starts(&self) -> Vec<(usize, &'a Start)> {
        let notes = self.applied.notes.iter().enumerate();
        let starts = notes.filter_map(|(place, note)| match note {
            Note::Started(start) if start.node == self.planned.header => Some((place, start)),
            _ => None,
        });
        starts.collect()
    }

    /// However it comes to that, an execution that ends well is stuck in no loop.
    fn ends_well(&self) -> bool {
        let execution = &self.applied.world.execution;
        matches!(execution.status, Status::Completed { .. } | Status::Canceled { .. })
            || ended_on_purpose(self.compiled, execution)
    }

    /// Whether the loop, inside which it was at this note, is left behind it.
    fn leaves(&self, since: usize) -> bool {
        self.ends_well() || self.goes_round_outside(since) || self.comes_to_its_end()
    }

    /// The next pass of a loop around it takes every trace of how it was left, but not of its limit.
    fn goes_round_outside(&self, since: usize) -> bool {
        let plan = &self.compiled.plan;
        let (before, after) = (&self.before.execution, &self.applied.world.execution);
        let mut around = self.planned.parent;
        let mut goes_round = false;
        while let Some(outer) = around {
            let header = plan.loops[outer.at()].header;
            let mut later = self.applied.notes.iter().skip(since);
            goes_round |= later.any(|note| matches!(note, Note::Started(start) if start.node == header));
            // Its header may wait for another step.
            goes_round |= matches!(after.nodes[header.at()].phase, Phase::Turning { .. })
                && after.loops[outer.at()].iteration > before.loops[outer.at()].iteration;
            around = plan.loops[outer.at()].parent;
        }
        let header = after.nodes[self.planned.header.at()].latest_ended();
        let failure = header.and_then(|header| header.failure.as_ref());
        let at_limit = failure.is_some_and(|failure| failure.error.code == "LOOP_LIMIT");
        goes_round && (!at_limit || self.compiled.failure_leads_on(self.planned.header))
    }

    /// Exits that resolve because the execution fails lead nowhere, however they were decided. A loop that nothing leads back
    /// into is over without an exit, unless a failure ended it.
    fn comes_to_its_end(&self) -> bool {
        let plan = &self.compiled.plan;
        let (before, after) = (&self.before.execution, &self.applied.world.execution);
        if !after.loops[self.ix.at()].finished {
            return false;
        }
        let goes_on = match after.status {
            Status::Failing | Status::Failed => {
                plan.settings.continues_on_failure && self.applied.way.mv != Move::Fire(Deadline::Execution)
            }
            Status::Pending
            | Status::Running
            | Status::Canceling { .. }
            | Status::Compensating(_)
            | Status::Reporting
            | Status::Completed { .. }
            | Status::Canceled { .. } => true,
        };
        let leads_on = |edge: &EdgeIx| {
            let target = plan.edge(*edge).target.at();
            let (was, is) = (&before.nodes[target], &after.nodes[target]);
            let starts = was.scheduled_at.is_none() && is.scheduled_at.is_some();
            goes_on || starts || (is.phase == Phase::Failed && was.phase != Phase::Failed)
        };
        let is_taken = |edge: &EdgeIx| matches!(after.edges[edge.at()], EdgeState::Taken | EdgeState::HeldTaken);
        let nodes = self.planned.nodes.iter();
        let is_handled = |edge: &EdgeIx| plan.edge(*edge).kind == EdgeKind::Failure && is_taken(edge);
        let mut failed = nodes
            .clone()
            .filter(|node| after.nodes[node.at()].phase == Phase::Failed);
        if goes_on && failed.all(|node| plan.node(*node).outgoing.iter().any(is_handled)) {
            return true;
        }
        // It had ended before what follows it failed in the same step.
        let by_node = after.failure.as_ref().and_then(|failure| failure.node);
        let is_outside = by_node.is_some_and(|node| !self.planned.nodes.contains(&node));
        let is_cut = |node: &NodeIx| after.nodes[node.at()].cut_off.is_some();
        let was_over = after.loops[self.ix.at()].dropped.is_empty() && !self.planned.nodes.iter().any(is_cut);
        if before.failure.is_none() && is_outside && was_over {
            return true;
        }
        let mut exits = nodes
            .flat_map(|node| &plan.node(*node).outgoing)
            .filter(|edge| !self.planned.nodes.contains(&plan.edge(**edge).target));
        exits.any(|edge| is_taken(edge) && leads_on(edge))
    }
}

//! An execution that has failed or was canceled goes on, as its next run; failed nodes run again, or count as skipped after
//! all. See ADR 0019.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::control::ControlsSeen;
use crate::definition::{JoinMode, OnJoinTimeout};
use crate::id::{EdgeIx, LoopIx, NodeIx, Run};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Value};

use super::affected::Affected;
use super::rerun::{Repeated, is_handled};
use super::state::{EdgeState, ExecutionState, Failure, Input, LoopState, Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// What an operator wants of failed nodes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reopened {
    /// The run that goes on: the next one where the execution had ended, else the current one.
    #[n(0)]
    pub run: Run,
    /// The nodes; none means every one whose failure nothing handled.
    #[n(1)]
    pub nodes: Vec<NodeIx>,
    /// What becomes of them.
    #[n(2)]
    pub remedy: Remedy,
    /// Why, for people.
    #[n(3)]
    pub reason: Option<String>,
    /// Controls of a wider scope that the next run begins under, if some hold it.
    #[n(4)]
    pub controls: Option<Box<ControlsSeen>>,
}

/// What becomes of a failed node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Remedy {
    /// It runs again, with the same input.
    #[n(0)]
    Retry,
    /// It completes with this output, or is skipped without one.
    #[n(1)]
    Skip(#[n(0)] Option<Value>),
}

/// What a retry or a skip of failed nodes would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reopening {
    /// The run that would go on.
    pub run: Run,
    /// The nodes that have run and would run again, in definition order.
    pub repeated: Vec<Repeated>,
    /// The chosen nodes, in definition order.
    chosen: Vec<NodeIx>,
    /// Those and what the end of the execution cut off.
    first: Vec<NodeIx>,
    affected: Affected,
}

fn refused(code: &str, message: impl Into<String>) -> ErrorInfo {
    ErrorInfo::new(code, message)
}

/// What a retry or a skip of these nodes would do; of none: of every one whose failure nothing handled.
///
/// # Errors
/// `NOT_REOPENABLE`: the execution completed, is about to end, was ended by an `end` node that stays, or a loop has used up its
/// passes. `CHILD_NOT_REOPENABLE`: its parent has gone on without it. `NODE_NOT_FAILED`: a node has not failed.
/// `NOTHING_TO_RETRY`: no node has.
pub fn reopening(plan: &Plan, state: &ExecutionState, remedy: &Reopened) -> Result<Reopening, ErrorInfo> {
    let run = next_run(state)?;
    let chosen = chosen(plan, state, &remedy.nodes)?;
    let mut first = chosen.clone();
    first.extend(indices(state).filter(|ix| was_cut_off(state, *ix)));
    first.sort_unstable();
    first.dedup();
    if first.is_empty() {
        return Err(refused(
            "NOTHING_TO_RETRY",
            "no node has failed unhandled or was cut off",
        ));
    }
    let affected = Affected::by(plan, first.iter().copied());
    if let Some(end) = state.ended_by.filter(|ix| !affected.nodes.contains(ix)) {
        let message = format!(
            "the node `{}` ended the execution, and does not follow from what would run again: rerun it",
            plan.node(end).key
        );
        return Err(refused("NOT_REOPENABLE", message));
    }
    let skips = matches!(remedy.remedy, Remedy::Skip(_));
    let again = affected.nodes.iter().filter(|ix| !skips || !chosen.contains(ix));
    let repeated = again.filter_map(|ix| Repeated::of(plan, *ix, &state.nodes[ix.at()]));
    Ok(Reopening {
        run,
        repeated: repeated.collect(),
        chosen,
        first,
        affected,
    })
}

fn indices(state: &ExecutionState) -> impl Iterator<Item = NodeIx> + use<> {
    (0..u32::try_from(state.nodes.len()).unwrap_or(u32::MAX)).map(NodeIx)
}

fn next_run(state: &ExecutionState) -> Result<Run, ErrorInfo> {
    if state.has_compensated() {
        let message =
            "what it completed was undone, or given up being undone: start it anew, or rerun it from its first node";
        return Err(refused("NOT_REOPENABLE", message));
    }
    match &state.status {
        Status::Running => Ok(state.run),
        Status::Failed | Status::Canceled { .. } => match state.parent.filter(|parent| parent.attached) {
            Some(parent) => {
                let message = format!(
                    "its parent {} has gone on without it: retry the parent's node",
                    parent.execution
                );
                Err(refused("CHILD_NOT_REOPENABLE", message))
            }
            None => Ok(state.run.next()),
        },
        Status::Completed { .. } => Err(refused("NOT_REOPENABLE", "the execution completed: rerun it")),
        Status::Pending | Status::Failing | Status::Canceling { .. } | Status::Compensating(_) | Status::Reporting => {
            Err(refused(
                "NOT_REOPENABLE",
                "the execution is about to end: wait until it has",
            ))
        }
    }
}

fn chosen(plan: &Plan, state: &ExecutionState, nodes: &[NodeIx]) -> Result<Vec<NodeIx>, ErrorInfo> {
    let mut chosen: Vec<NodeIx> = if nodes.is_empty() {
        let unhandled = |ix: &NodeIx| state.nodes[ix.at()].phase == Phase::Failed && !is_handled(plan, state, *ix);
        indices(state).filter(unhandled).collect()
    } else {
        nodes.to_vec()
    };
    chosen.sort_unstable();
    chosen.dedup();
    for ix in &chosen {
        let (node, planned) = (&state.nodes[ix.at()], plan.node(*ix));
        if node.phase != Phase::Failed && !was_cut_off(state, *ix) {
            let message = format!("`{}` has not failed: it is {}", planned.key, node.phase.name());
            return Err(refused("NODE_NOT_FAILED", message));
        }
        let headed = planned.within.filter(|within| plan.loops[within.at()].header == *ix);
        if headed.is_some_and(|within| state.loops[within.at()].exceeded.is_some()) {
            let message = format!(
                "the loop of `{}` has used up its passes: rerun from it in a version that allows more",
                planned.key
            );
            return Err(refused("NOT_REOPENABLE", message));
        }
    }
    Ok(chosen)
}

/// Whether the node ended only because the execution did, which has ended.
fn was_cut_off(state: &ExecutionState, ix: NodeIx) -> bool {
    state.status.is_terminal() && state.nodes[ix.at()].cut_off.is_some()
}

/// What a node had received before it was opened again.
struct Given {
    input: Input,
    data: Option<Value>,
}

impl Tx<'_> {
    /// Opens everything again that runs again, and starts it.
    pub(super) fn reopened(&mut self, reopened: &Reopened) -> Result<(), StepError> {
        if reopened.nodes.iter().any(|ix| ix.at() >= self.plan.nodes.len()) {
            return Err(StepError::Corrupt("a node to retry is not of the plan"));
        }
        let reopening = reopening(self.plan, self.state, reopened);
        let reopening = reopening.map_err(|refusal| StepError::Refused(Box::new(refusal)))?;
        if reopening.run != reopened.run {
            return Err(StepError::Corrupt("another run goes on"));
        }
        let Reopening {
            chosen,
            first,
            affected,
            ..
        } = &reopening;
        if self.state.status.is_terminal() {
            self.begin_run(reopening.run, reopened.controls.as_deref());
        }
        self.forget_failure(affected);
        let given: BTreeMap<NodeIx, Given> = first.iter().map(|ix| (*ix, self.given(affected, *ix))).collect();
        self.open_nodes_again(affected);
        self.open_edges_again(affected);
        for ix in &affected.nodes {
            self.count_arrivals(affected, *ix);
        }
        for (ix, given) in given {
            let skipped = match &reopened.remedy {
                Remedy::Skip(output) if chosen.contains(&ix) => Some(output),
                Remedy::Retry | Remedy::Skip(_) => None,
            };
            // What began before it may have ended it, an `end` node for instance.
            if self.node(ix).phase != Phase::Pending {
                continue;
            }
            match skipped {
                Some(Some(output)) => {
                    self.skip_with(affected, ix, given, output.clone())?;
                }
                Some(None) => self.skip(ix),
                None => self.begin_again(affected, ix, given)?,
            }
        }
        self.arrivals.extend(&affected.nodes);
        Ok(())
    }

    fn begin_run(&mut self, run: Run, controls: Option<&ControlsSeen>) {
        self.set_run(run);
        self.set_status(Status::Running);
        self.set_not_ended();
        self.set_ended_by(None);
        self.begin_clocks();
        if let Some(controls) = controls {
            self.begin_under(controls);
        }
        let deadline = self.plan.settings.timeout_ms.map(|ms| self.clock().plus_ms(ms));
        self.set_execution_deadline(deadline);
        self.changed(Verb::ExecutionStarted);
    }

    /// The execution's failure is that of the first node that stays failed, if one does.
    fn forget_failure(&mut self, affected: &Affected) {
        let stays = |failure: &Failure| failure.node.is_some_and(|ix| !affected.nodes.contains(&ix));
        if self.state.failure.as_deref().is_none_or(stays) {
            return;
        }
        let stays = indices(self.state).filter(|ix| {
            !affected.nodes.contains(ix)
                && self.node(*ix).phase == Phase::Failed
                && !is_handled(self.plan, self.state, *ix)
        });
        let earliest = stays.min_by_key(|ix| (self.node(*ix).ended_at, *ix));
        let failure = earliest.and_then(|ix| {
            let error = self.node(ix).failure.as_ref()?.error.clone();
            Some(self.failure_of(Some(ix), error))
        });
        self.set_failure(failure);
    }

    fn given(&self, affected: &Affected, ix: NodeIx) -> Given {
        let node = self.node(ix);
        let input = match &node.input {
            // What carried it moves on.
            Input::Edge(_) | Input::Edges(_) | Input::Mapped(_) if affected.waits(self.plan, ix) => {
                Input::Carried(self.state.input_of(self.plan, ix))
            }
            other => other.clone(),
        };
        Given {
            input,
            data: node.data.clone(),
        }
    }

    /// Every node that has begun gets its next visit; one that runs is canceled in this one.
    fn open_nodes_again(&mut self, affected: &Affected) {
        for ix in &affected.nodes {
            let ix = *ix;
            if let Phase::Running { token } | Phase::Canceling { token } = self.node(ix).phase {
                self.abort_attempt(token);
            }
            self.cancel_children(ix);
            self.forget_children(ix);
            let node = self.node(ix);
            let has_begun = match node.phase {
                Phase::Pending => false,
                Phase::Ready => !node.attempts.is_empty(),
                _ => true,
            };
            if !has_begun {
                let (visit, ended) = (node.visit, node.ended.clone());
                self.update(ix, |node| {
                    *node = node.next_visit();
                    (node.visit, node.ended) = (visit, ended);
                });
                continue;
            }
            if !node.phase.is_terminal() {
                self.end_node(ix, Phase::Canceled, Verb::NodeCanceled);
            }
            self.update(ix, |node| *node = node.next_visit());
        }
        self.forget_held(|ix| affected.nodes.contains(&ix));
    }

    /// Edges out of what runs again are open; a loop that goes on holds its exits and back edges again.
    fn open_edges_again(&mut self, affected: &Affected) {
        let mut held: BTreeMap<LoopIx, Vec<EdgeIx>> = BTreeMap::new();
        let mut again = Vec::new();
        for place in 0..self.plan.edges.len() {
            let ix = EdgeIx(u32::try_from(place).unwrap_or(u32::MAX));
            let was = self.state.edges[place];
            if was == EdgeState::Open {
                continue;
            }
            if affected.nodes.contains(&self.plan.edge(ix).source) {
                again.push((ix, EdgeState::Open));
            } else if let Some(holder) = self.holder(affected, ix) {
                held.entry(holder).or_default().push(ix);
                let taken = match was {
                    EdgeState::Taken | EdgeState::HeldTaken => true,
                    EdgeState::Dead => self.was_dropped(ix),
                    EdgeState::HeldDead | EdgeState::Open => false,
                };
                let state = if taken {
                    EdgeState::HeldTaken
                } else {
                    EdgeState::HeldDead
                };
                again.push((ix, state));
            }
        }
        for (ix, state) in again {
            if self.state.edges[ix.at()] != state {
                self.set_edge(ix, state);
            }
        }
        for ix in &affected.loops {
            let held = held.remove(ix).unwrap_or_default();
            if self.is_entered_anew(affected, *ix) {
                self.update_loop(*ix, LoopState::restart);
            } else {
                self.update_loop(*ix, |one| {
                    one.finished = false;
                    one.held = held;
                    one.dropped.clear();
                });
            }
        }
    }

    /// The loop that goes on and holds an edge until its generation ends.
    fn holder(&self, affected: &Affected, ix: EdgeIx) -> Option<LoopIx> {
        let edge = self.plan.edge(ix);
        let mut around = self.plan.node(edge.source).within;
        while let Some(one) = around.filter(|one| !affected.loops.contains(one)) {
            around = self.plan.loops[one.at()].parent;
        }
        around.filter(|one| self.plan.loops[one.at()].header == edge.target || !self.plan.holds(*one, edge.target))
    }

    /// Whether a back edge would have been taken if its loop had not ended.
    fn was_dropped(&self, ix: EdgeIx) -> bool {
        let target = self.plan.edge(ix).target;
        let within = self.plan.node(target).within;
        within.is_some_and(|within| self.state.loops[within.at()].dropped.contains(&ix))
    }

    /// Whether an edge into the loop is decided anew. If not, the loop goes on in its latest generation.
    fn is_entered_anew(&self, affected: &Affected, ix: LoopIx) -> bool {
        affected.waits(self.plan, self.plan.loops[ix.at()].header)
    }

    /// Whether the node is the header of a loop that goes on beyond its first generation: no edge from outside counts.
    fn is_in_later_pass(&self, affected: &Affected, ix: NodeIx) -> bool {
        let headed = self
            .planned(ix)
            .within
            .filter(|within| self.plan.loops[within.at()].header == ix);
        headed.is_some_and(|within| {
            self.state.loops[within.at()].iteration > 1 && !self.is_entered_anew(affected, within)
        })
    }

    /// The edges from outside arrived before: the node counts them again, as if they all came now.
    fn count_arrivals(&mut self, affected: &Affected, ix: NodeIx) {
        if self.is_in_later_pass(affected, ix) {
            let cleanup = self.node(ix).ended.as_ref().is_some_and(|ended| ended.cleanup);
            self.update(ix, |node| node.cleanup = cleanup);
            return;
        }
        let (mut taken, mut dead, mut cleanup) = (0, 0, false);
        for edge in self
            .planned(ix)
            .incoming
            .iter()
            .filter(|edge| !self.plan.is_back_edge(**edge))
        {
            match self.state.edges[edge.at()] {
                EdgeState::Taken => {
                    taken += 1;
                    cleanup |= self.is_cleanup(*edge);
                }
                EdgeState::Dead => dead += 1,
                EdgeState::Open | EdgeState::HeldTaken | EdgeState::HeldDead => {}
            }
        }
        let first_arrival_at = (taken + dead > 0).then_some(self.clock_of(ix));
        self.update(ix, |node| {
            node.taken = taken;
            node.dead = dead;
            node.first_arrival_at = first_arrival_at;
            node.cleanup = cleanup;
        });
    }

    /// A chosen node counts as skipped. Should its completion fail, it can be retried with what it had received; where that is
    /// decided anew its edges will say.
    fn skip_with(&mut self, affected: &Affected, ix: NodeIx, given: Given, output: Value) -> Result<(), StepError> {
        self.update(ix, |node| {
            node.input = given.input;
            node.data = given.data;
        });
        self.complete(ix, output)?;
        self.forget_completion(ix);
        if affected.waits(self.plan, ix) {
            self.update(ix, |node| {
                node.input = Input::None;
                node.data = None;
            });
        }
        Ok(())
    }

    /// A chosen node, or one that was cut off. Where it had been ready it is again, with the same input, mapped anew unless what
    /// it was mapped from has moved on.
    fn begin_again(&mut self, affected: &Affected, ix: NodeIx, given: Given) -> Result<(), StepError> {
        let planned = self.planned(ix);
        let in_later_pass = self.is_in_later_pass(affected, ix);
        if affected.waits(self.plan, ix) {
            return Ok(());
        }
        match given.input {
            Input::None if planned.entries == 0 => self.ready(ix),
            // It had not been ready: its edges decide.
            Input::None => Ok(()),
            Input::Compensated => Err(StepError::Corrupt("a node received what a compensation receives")),
            Input::Mapped(value) => {
                let join = &planned.join;
                let is_early = matches!(join.mode, JoinMode::Any | JoinMode::Quorum { .. })
                    || matches!(join.timeout, Some((_, OnJoinTimeout::Proceed)));
                if !in_later_pass && !is_early {
                    return match self.first_input(ix) {
                        Some(first) => self.ready_with(ix, first),
                        None => self.ready(ix),
                    };
                }
                self.update(ix, |node| node.data = given.data);
                self.ready_with(ix, Input::Mapped(value))
            }
            input @ (Input::Start | Input::Edge(_) | Input::Edges(_) | Input::Carried(_)) => self.ready_with(ix, input),
        }
    }
}

//! Undoing what completed, when an execution fails or is canceled. See ADR 0020.

use minicbor::{Decode, Encode};

use crate::id::{NodeIx, Visit};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Value};

use super::state::{Ending, ExecutionState, Input, NodeFailure, NodeState, Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// What an execution has completed that can be undone, and what of it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Compensations {
    /// Visits of nodes that have a compensation, in the order in which they completed.
    #[n(0)]
    pub visits: Vec<CompensatedVisit>,
    /// How many of them, the first ones, were not looked at yet. The one behind them is being undone, or was the last.
    #[n(1)]
    pub left: u32,
}

/// A visit that completed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CompensatedVisit {
    /// The node.
    #[n(0)]
    pub node: NodeIx,
    /// Its visit.
    #[n(1)]
    pub visit: Visit,
    /// What it received.
    #[n(2)]
    pub input: Value,
    /// What it gave.
    #[n(3)]
    pub output: Value,
    /// What undoes it, once that has begun: like a node, its visit is this one.
    #[n(4)]
    pub compensation: Option<Box<NodeState>>,
}

/// One way back for what is compensated.
pub(super) enum CompensationUndo {
    /// A visit was noted.
    Noted,
    /// The visit that was noted last was forgotten.
    Forgotten(Box<CompensatedVisit>),
    /// The compensation of the next visit was opened.
    Opened,
    /// So many were left, and were given up.
    GivenUp(u32),
}

impl CompensationUndo {
    pub(super) fn apply(self, plan: &Plan, state: &mut ExecutionState) {
        if let (Self::Opened, Some(ix)) = (&self, state.open_compensation(plan)) {
            state.unindex(plan, ix);
        }
        if let Self::Forgotten(visit) = self {
            let all = state.compensations.get_or_insert_default();
            all.visits.push(*visit);
            all.left += 1;
            return;
        }
        let Some(all) = &mut state.compensations else { return };
        match self {
            Self::Forgotten(_) => {}
            Self::Noted => {
                all.visits.pop();
                all.left -= 1;
                if all.visits.is_empty() {
                    state.compensations = None;
                }
            }
            Self::Opened => {
                if let Some(visit) = all.visits.get_mut(all.left as usize) {
                    visit.compensation = None;
                }
                all.left += 1;
            }
            Self::GivenUp(left) => all.left = left,
        }
    }
}

impl Compensations {
    /// The visit that is being undone, or was last.
    fn current_visit(&self) -> Option<&CompensatedVisit> {
        self.visits.get(self.left as usize)
    }

    pub(super) fn current(&self) -> Option<&NodeState> {
        self.current_visit()?.compensation.as_deref()
    }

    pub(super) fn current_mut(&mut self) -> Option<&mut NodeState> {
        self.visits.get_mut(self.left as usize)?.compensation.as_deref_mut()
    }

    /// What became of the compensation of the latest visit of a node; none before that visit completed.
    #[must_use]
    pub fn of_node(&self, node: NodeIx) -> Option<&CompensatedVisit> {
        self.visits.iter().rev().find(|visit| visit.node == node)
    }

    /// Visits that could not be undone, with the error, in the order in which that was tried.
    pub fn failures(&self) -> impl Iterator<Item = (&CompensatedVisit, &ErrorInfo)> {
        let failed = |visit: &'_ CompensatedVisit| visit.compensation.as_ref()?.failure.is_some().then_some(());
        let failed = self.visits.iter().rev().filter(move |visit| failed(visit).is_some());
        failed.filter_map(|visit| Some((visit, &visit.compensation.as_ref()?.failure.as_ref()?.error)))
    }
}

impl ExecutionState {
    /// Whether something of what completed was undone, or given up being undone.
    #[must_use]
    pub fn has_compensated(&self) -> bool {
        let all = self.compensations.as_ref();
        all.is_some_and(|all| (all.left as usize) < all.visits.len())
    }

    /// Whether what the latest visit of a node did is undone.
    #[must_use]
    pub fn was_undone(&self, node: NodeIx) -> bool {
        let visit = self.compensations.as_ref().and_then(|all| all.of_node(node));
        let undone = visit.and_then(|visit| visit.compensation.as_ref());
        undone.is_some_and(|undone| undone.phase == Phase::Completed)
    }

    /// The compensation that is under way, as an index of the plan.
    pub(super) fn open_compensation(&self, plan: &Plan) -> Option<NodeIx> {
        let visit = self.compensations.as_deref()?.current_visit()?;
        visit.compensation.as_ref()?;
        plan.node(visit.node).compensation
    }

    /// What a compensation receives unless it maps its input: `{input, output}` of the visit.
    pub(super) fn compensated_input(&self) -> Value {
        let visit = self.compensations.as_deref().and_then(Compensations::current_visit);
        visit.map_or_else(Value::null, |visit| {
            Value::object([("input", &visit.input), ("output", &visit.output)])
        })
    }

    /// Why the execution does not complete: what a compensation sees as `error`.
    fn ending_error(&self) -> Option<ErrorInfo> {
        match &self.status {
            Status::Compensating(Ending::Failed) => self.failure.as_ref().map(|failure| failure.error.clone()),
            Status::Compensating(Ending::Canceled { reason }) => {
                let message = reason
                    .clone()
                    .unwrap_or_else(|| "the execution was canceled".to_owned());
                Some(ErrorInfo::new("CANCELED", message))
            }
            _ => None,
        }
    }
}

impl Tx<'_> {
    /// A node with a compensation has completed: what it received and gave is kept.
    pub(super) fn note_completion(&mut self, node: NodeIx) {
        let input = self.state.input_of(self.plan, node);
        let completed = self.node(node);
        let visit = CompensatedVisit {
            node,
            visit: completed.visit,
            input,
            output: completed.output.clone().unwrap_or_else(Value::null),
            compensation: None,
        };
        let all = self.state.compensations.get_or_insert_default();
        all.visits.push(visit);
        all.left += 1;
        self.undo_compensation(CompensationUndo::Noted);
    }

    /// A node that has just completed did nothing that could be undone.
    pub(super) fn forget_completion(&mut self, node: NodeIx) {
        let visit = self.node(node).visit;
        let Some(all) = &mut self.state.compensations else {
            return;
        };
        if let Some(noted) = all.visits.pop_if(|noted| noted.node == node && noted.visit == visit) {
            all.left -= 1;
            if all.visits.is_empty() {
                self.state.compensations = None;
            }
            self.undo_compensation(CompensationUndo::Forgotten(Box::new(noted)));
        }
    }

    pub(super) fn has_to_compensate(&self) -> bool {
        self.state.compensations.as_ref().is_some_and(|all| all.left > 0)
    }

    /// From now on nothing runs but compensations. Whoever cancels means to end a paused execution too; an `end` node does not.
    pub(super) fn start_compensating(&mut self, ending: Ending) {
        if self.state.paused && matches!(self.state.status, Status::Canceling { .. }) {
            self.thaw();
            self.set_paused(false);
            self.set_paused_with_parent(false);
        }
        self.set_status(Status::Compensating(ending));
        self.changed(Verb::ExecutionCompensating);
    }

    /// One compensation has ended, or none has begun: the next one begins, in reverse order of the completions. After the
    /// last one the execution ends.
    pub(super) fn go_on_compensating(&mut self) -> Result<(), StepError> {
        while self.state.open_nodes == 0 {
            let Status::Compensating(ending) = &self.state.status else {
                return Ok(());
            };
            if !self.has_to_compensate() {
                let ending = ending.clone();
                return self.end_as(ending);
            }
            self.compensate_next()?;
        }
        self.dispatch()
    }

    fn compensate_next(&mut self) -> Result<(), StepError> {
        let at = self.at;
        let Some(all) = &mut self.state.compensations else {
            return Err(StepError::Corrupt("there is nothing to compensate"));
        };
        let next = all
            .left
            .checked_sub(1)
            .and_then(|place| all.visits.get_mut(place as usize));
        let Some(visit) = next else {
            return Err(StepError::Corrupt("there is nothing left to compensate"));
        };
        let Some(ix) = self.plan.node(visit.node).compensation else {
            return Err(StepError::Corrupt("a node without a compensation is compensated"));
        };
        visit.compensation = Some(Box::new(NodeState::of_visit(visit.visit)));
        let (input, output) = (visit.input.clone(), visit.output.clone());
        all.left -= 1;
        self.state.index(self.plan, ix);
        self.undo_compensation(CompensationUndo::Opened);
        self.update(ix, |node| {
            node.input = Input::Compensated;
            node.scheduled_at = Some(at);
        });
        if self.planned(ix).prepares {
            let why = self.state.ending_error();
            if let Err(error) = self.prepare(ix, &input, Some(&output), why.as_ref())? {
                return self.fail(ix, error);
            }
        }
        if let Err(violation) = self.check_input(ix)? {
            return self.fail(ix, violation);
        }
        if let Err(error) = self.find_concurrency_key(ix)? {
            return self.fail(ix, error);
        }
        self.set_total_deadline(ix);
        self.hold(ix);
        Ok(())
    }

    /// It failed for good: that is recorded, and the others go on.
    pub(super) fn fail_compensation(&mut self, ix: NodeIx, error: ErrorInfo) {
        let failure = Box::new(NodeFailure {
            error,
            payload: None,
            handled: None,
        });
        self.update(ix, |node| node.failure = Some(failure));
        self.end_node(ix, Phase::Failed, Verb::NodeFailed);
    }

    /// The execution ends at once: what was not undone yet stays.
    pub(super) fn give_up_compensating(&mut self) {
        if let Some(ix) = self.state.open_compensation(self.plan)
            && !self.node(ix).phase.is_terminal()
        {
            if let Phase::Running { token } = self.node(ix).phase {
                self.abort_attempt(token);
            }
            self.forget_held(|held| held == ix);
            self.end_node(ix, Phase::Canceled, Verb::NodeCanceled);
        }
        if let Some(all) = &mut self.state.compensations {
            let left = std::mem::take(&mut all.left);
            self.undo_compensation(CompensationUndo::GivenUp(left));
        }
    }
}

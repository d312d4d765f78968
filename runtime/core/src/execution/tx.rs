//! A step in progress: every write leaves a way back, so that a refused step changes nothing at no cost in the graph's
//! size.

use std::collections::VecDeque;

use crate::id::{EdgeIx, LoopIx, NodeIx, Run, Timestamp, Token};
use crate::plan::{Plan, PlanNode};
use crate::value::{ErrorInfo, INLINE_BYTES_MAX, Value};

use super::children::ChildrenUndo;
use super::compensation::CompensationUndo;
use super::effect::{Effect, StartAttempt};
use super::error_workflow::ErrorWorkflow;
use super::event::Answer;
use super::hold::Holds;
use super::rerun::RerunOf;
use super::scope::{Evaluator, Question, Scope};
use super::state::{EdgeState, ExecutionState, Failure, LoopState, NodeState, Phase, Stamp, Status};
use super::step::{StepError, Stepped};
use super::transition::{Transition, Verb};

/// A step in progress.
pub(super) struct Tx<'a> {
    pub(super) plan: &'a Plan,
    pub(super) state: &'a mut ExecutionState,
    pub(super) at: Timestamp,
    evaluator: &'a mut dyn Evaluator,
    undo: Vec<Undo>,
    out: Stepped,
    /// Nodes that a message arrived at, oldest first.
    pub(super) arrivals: VecDeque<NodeIx>,
    /// Loops of which the last node or inner loop may have ended, oldest first.
    pub(super) closing: VecDeque<LoopIx>,
    /// Parents that may begin children once all else is settled.
    pub(super) begins: Vec<NodeIx>,
    /// Generations of loops that began in this step.
    pub(super) generations: u32,
}

/// One way back.
enum Undo {
    Node(NodeIx, Box<NodeState>),
    Edge(EdgeIx, EdgeState),
    Loop(LoopIx, Box<LoopState>),
    Held(VecDeque<NodeIx>),
    Children(NodeIx, ChildrenUndo),
    Compensation(CompensationUndo),
    ErrorWorkflow(Option<Box<ErrorWorkflow>>),
    SignalKept(NodeIx),
    SignalTaken(NodeIx, Value),
    Variable(String, Option<Value>),
    HeldPush,
    HeldPop(NodeIx),
    Status(Status),
    Paused(bool),
    PausedWithParent(bool),
    Holds(Option<Box<Holds>>),
    Failure(Option<Box<Failure>>),
    EndedAt(Option<Timestamp>),
    Run(Run),
    EndedBy(Option<NodeIx>),
    RerunOf(Option<Box<RerunOf>>),
    ExecutionDeadline(Option<Timestamp>),
}

impl<'a> Tx<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        state: &'a mut ExecutionState,
        at: Timestamp,
        evaluator: &'a mut dyn Evaluator,
    ) -> Self {
        Self {
            plan,
            state,
            at,
            evaluator,
            undo: Vec::new(),
            out: Stepped::default(),
            arrivals: VecDeque::new(),
            closing: VecDeque::new(),
            begins: Vec::new(),
            generations: 0,
        }
    }

    /// Keeps what was written.
    pub(super) fn commit(self) -> Stepped {
        self.state.seq = self.state.seq.next();
        self.out
    }

    /// What the step has changed so far.
    pub(super) fn transitions(&self) -> &[Transition] {
        &self.out.transitions
    }

    /// Undoes everything.
    pub(super) fn rollback(mut self) {
        self.rollback_to(0);
    }

    /// A point that [`Tx::rollback_to`] returns to.
    pub(super) fn savepoint(&self) -> usize {
        self.undo.len()
    }

    /// Undoes every write since `savepoint`.
    pub(super) fn rollback_to(&mut self, savepoint: usize) {
        while self.undo.len() > savepoint {
            let Some(undo) = self.undo.pop() else { return };
            match undo {
                Undo::Node(ix, old) => {
                    self.state.unindex(self.plan, ix);
                    if let Some(node) = self.state.node_mut(ix) {
                        *node = *old;
                    }
                    self.state.index(self.plan, ix);
                }
                Undo::Edge(ix, old) => self.state.edges[ix.at()] = old,
                Undo::Loop(ix, old) => {
                    // What is derived belongs to nodes and inner loops, which have their own ways back.
                    let open = self.state.loops[ix.at()].open;
                    self.count_in_parent(ix, &old);
                    self.state.loops[ix.at()] = LoopState { open, ..*old };
                }
                Undo::Held(old) => self.state.held = old,
                Undo::Children(ix, undo) => undo.apply(ix, &mut self.state.children),
                Undo::Compensation(undo) => undo.apply(self.plan, self.state),
                Undo::ErrorWorkflow(old) => self.state.error_workflow = old,
                Undo::SignalKept(ix) => {
                    if let Some(kept) = self.state.signals.get_mut(&ix) {
                        kept.pop_back();
                        if kept.is_empty() {
                            self.state.signals.remove(&ix);
                        }
                    }
                }
                Undo::SignalTaken(ix, call) => self.state.signals.entry(ix).or_default().push_front(call),
                Undo::Variable(name, Some(old)) => {
                    self.state.variables.insert(name, old);
                }
                Undo::Variable(name, None) => {
                    self.state.variables.remove(&name);
                }
                Undo::HeldPush => {
                    self.state.held.pop_back();
                }
                Undo::HeldPop(ix) => self.state.held.push_front(ix),
                Undo::Status(old) => self.state.status = old,
                Undo::Paused(old) => self.state.paused = old,
                Undo::PausedWithParent(old) => self.state.paused_with_parent = old,
                Undo::Holds(old) => self.state.holds = old,
                Undo::Failure(old) => self.state.failure = old,
                Undo::EndedAt(old) => self.state.ended_at = old,
                Undo::Run(old) => self.state.run = old,
                Undo::EndedBy(old) => self.state.ended_by = old,
                Undo::RerunOf(old) => self.state.rerun_of = old,
                Undo::ExecutionDeadline(old) => self.state.execution_deadline = old,
            }
        }
    }

    /// The planned node.
    pub(super) fn planned(&self, ix: NodeIx) -> &'a PlanNode {
        self.plan.node(ix)
    }

    /// The node as it stands, or the compensation that is under way.
    pub(super) fn node(&self, ix: NodeIx) -> &NodeState {
        self.state
            .node(ix)
            .expect("an index is of a node of the plan, or of the compensation that is under way")
    }

    /// Changes a node, and what is derived from it.
    pub(super) fn update(&mut self, ix: NodeIx, change: impl FnOnce(&mut NodeState)) {
        let stamp = Stamp(self.state.seq.0 + 1);
        self.state.unindex(self.plan, ix);
        let node = self
            .state
            .node_mut(ix)
            .expect("an index is of a node of the plan, or of the compensation that is under way");
        if node.stamp.0 != stamp.0 {
            self.undo.push(Undo::Node(ix, Box::new(node.clone())));
            node.stamp = stamp;
        }
        change(node);
        self.state.index(self.plan, ix);
        if let Some(within) = self.plan.node(ix).within {
            self.close_later(within);
        }
    }

    /// Changes a loop, and what is derived from it. `change` leaves [`LoopState::open`] alone.
    pub(super) fn update_loop(&mut self, ix: LoopIx, change: impl FnOnce(&mut LoopState)) {
        let mut new = self.state.loops[ix.at()].clone();
        change(&mut new);
        self.count_in_parent(ix, &new);
        let old = std::mem::replace(&mut self.state.loops[ix.at()], new);
        self.undo.push(Undo::Loop(ix, Box::new(old)));
    }

    /// Counts the loop in the one around it as it will be.
    fn count_in_parent(&mut self, ix: LoopIx, new: &LoopState) {
        let Some(parent) = self.plan.loops[ix.at()].parent else {
            return;
        };
        let was_finished = self.state.loops[ix.at()].finished;
        let open = &mut self.state.loops[parent.at()].open;
        match (was_finished, new.finished) {
            (false, true) => *open -= 1,
            (true, false) => *open += 1,
            (false, false) | (true, true) => {}
        }
        self.close_later(parent);
    }

    /// Has a loop looked at whose last node or inner loop may have ended, once and in its turn.
    fn close_later(&mut self, ix: LoopIx) {
        if self.state.loops[ix.at()].open == 0 && !self.closing.contains(&ix) {
            self.closing.push_back(ix);
        }
    }

    /// Moves a node to an end, and says so.
    pub(super) fn end_node(&mut self, ix: NodeIx, phase: Phase, verb: Verb) {
        let at = self.at;
        self.update(ix, |node| {
            node.phase = phase;
            node.ended_at = Some(at);
            node.total_deadline = None;
        });
        self.changed_node(verb, ix);
    }

    pub(super) fn set_edge(&mut self, ix: EdgeIx, to: EdgeState) {
        let old = std::mem::replace(&mut self.state.edges[ix.at()], to);
        self.undo.push(Undo::Edge(ix, old));
    }

    /// Decides an edge whose source has ended: a loop that it leads out of, or back in, holds it until its generation ends.
    pub(super) fn decide_edge(&mut self, ix: EdgeIx, taken: bool) {
        debug_assert_eq!(self.state.edges[ix.at()], EdgeState::Open, "an edge is decided once");
        let within = self.planned(self.plan.edge(ix).source).within;
        self.pass_edge(ix, taken, within);
    }

    /// Resolves an edge, unless `within` or a loop around it holds it; its target is looked at when the arrivals are settled.
    pub(super) fn pass_edge(&mut self, ix: EdgeIx, taken: bool, within: Option<LoopIx>) {
        let edge = self.plan.edge(ix);
        if let Some(holder) = within
            && (self.plan.loops[holder.at()].header == edge.target || !self.plan.holds(holder, edge.target))
        {
            self.set_edge(
                ix,
                if taken {
                    EdgeState::HeldTaken
                } else {
                    EdgeState::HeldDead
                },
            );
            self.update_loop(holder, |one| one.held.push(ix));
            return;
        }
        self.set_edge(ix, if taken { EdgeState::Taken } else { EdgeState::Dead });
        let cleanup = taken && self.is_cleanup(ix);
        let at = self.clock_of(edge.target);
        self.update(edge.target, |node| {
            *(if taken { &mut node.taken } else { &mut node.dead }) += 1;
            node.first_arrival_at.get_or_insert(at);
        });
        if cleanup {
            self.mark_cleanup(edge.target);
        }
        self.arrivals.push_back(edge.target);
    }

    /// Whether a taken edge leads to clean-up.
    pub(super) fn is_cleanup(&self, ix: EdgeIx) -> bool {
        let edge = self.plan.edge(ix);
        edge.kind == crate::definition::EdgeKind::Always || self.node(edge.source).cleanup
    }

    /// What a clean-up node led to before it was known for one is clean-up too. Each node is marked once.
    fn mark_cleanup(&mut self, first: NodeIx) {
        let mut open = vec![first];
        while let Some(ix) = open.pop() {
            if self.node(ix).cleanup {
                continue;
            }
            self.update(ix, |node| node.cleanup = true);
            let taken = self
                .planned(ix)
                .outgoing
                .iter()
                .filter(|edge| self.state.edges[edge.at()] == EdgeState::Taken);
            open.extend(taken.map(|edge| self.plan.edge(*edge).target));
        }
    }

    pub(super) fn set_variable(&mut self, name: String, value: Value) {
        let old = self.state.variables.insert(name.clone(), value);
        self.undo.push(Undo::Variable(name, old));
    }

    /// Remembers how to undo a change of a node's children.
    pub(super) fn undo_children(&mut self, ix: NodeIx, undo: ChildrenUndo) {
        self.undo.push(Undo::Children(ix, undo));
    }

    /// Remembers how to undo a change of what is compensated.
    pub(super) fn undo_compensation(&mut self, undo: CompensationUndo) {
        self.undo.push(Undo::Compensation(undo));
    }

    /// Keeps what became of the error workflow.
    pub(super) fn set_error_workflow(&mut self, outcome: ErrorWorkflow) {
        let old = self.state.error_workflow.replace(Box::new(outcome));
        self.undo.push(Undo::ErrorWorkflow(old));
    }

    /// Keeps a call for a node that does not wait yet.
    pub(super) fn keep_signal(&mut self, ix: NodeIx, call: Value) {
        self.undo.push(Undo::SignalKept(ix));
        self.state.signals.entry(ix).or_default().push_back(call);
    }

    /// The oldest call that was kept for a node.
    pub(super) fn take_signal(&mut self, ix: NodeIx) -> Option<Value> {
        let kept = self.state.signals.get_mut(&ix)?;
        let call = kept.pop_front()?;
        if kept.is_empty() {
            self.state.signals.remove(&ix);
        }
        self.undo.push(Undo::SignalTaken(ix, call.clone()));
        Some(call)
    }

    /// Makes a node wait for its dispatch.
    pub(super) fn hold(&mut self, ix: NodeIx) {
        self.update(ix, |node| node.phase = Phase::Ready);
        self.undo.push(Undo::HeldPush);
        self.state.held.push_back(ix);
    }

    /// The node that has waited longest for its dispatch, and that no wider scope holds by itself.
    pub(super) fn pop_held(&mut self) -> Option<NodeIx> {
        let first = *self.state.held.front()?;
        if !self.state.holds_node(first) {
            self.state.held.pop_front();
            self.undo.push(Undo::HeldPop(first));
            return Some(first);
        }
        let free = self.state.held.iter().position(|ix| !self.state.holds_node(*ix))?;
        self.undo.push(Undo::Held(self.state.held.clone()));
        self.state.held.remove(free)
    }

    /// Takes nodes out of the queue that have moved on.
    pub(super) fn forget_held(&mut self, gone: impl Fn(NodeIx) -> bool) {
        if self.state.held.iter().any(|ix| gone(*ix)) {
            self.undo.push(Undo::Held(self.state.held.clone()));
            self.state.held.retain(|ix| !gone(*ix));
        }
    }

    pub(super) fn set_status(&mut self, status: Status) {
        let old = std::mem::replace(&mut self.state.status, status);
        self.undo.push(Undo::Status(old));
    }

    pub(super) fn set_paused(&mut self, paused: bool) {
        self.undo.push(Undo::Paused(self.state.paused));
        self.state.paused = paused;
    }

    pub(super) fn set_paused_with_parent(&mut self, with_parent: bool) {
        if self.state.paused_with_parent != with_parent {
            self.undo.push(Undo::PausedWithParent(!with_parent));
            self.state.paused_with_parent = with_parent;
        }
    }

    pub(super) fn set_holds(&mut self, holds: Holds) {
        let old = self.state.holds.replace(Box::new(holds));
        self.undo.push(Undo::Holds(old));
    }

    pub(super) fn set_ended(&mut self) {
        let old = self.state.ended_at.replace(self.at);
        self.undo.push(Undo::EndedAt(old));
    }

    /// It goes on after all.
    pub(super) fn set_not_ended(&mut self) {
        let old = self.state.ended_at.take();
        self.undo.push(Undo::EndedAt(old));
    }

    pub(super) fn set_ended_by(&mut self, node: Option<NodeIx>) {
        let old = std::mem::replace(&mut self.state.ended_by, node);
        self.undo.push(Undo::EndedBy(old));
    }

    pub(super) fn set_rerun_of(&mut self, of: Option<Box<RerunOf>>) {
        let old = std::mem::replace(&mut self.state.rerun_of, of);
        self.undo.push(Undo::RerunOf(old));
    }

    pub(super) fn set_run(&mut self, run: Run) {
        let old = std::mem::replace(&mut self.state.run, run);
        self.undo.push(Undo::Run(old));
    }

    pub(super) fn set_execution_deadline(&mut self, at: Option<Timestamp>) {
        let old = std::mem::replace(&mut self.state.execution_deadline, at);
        self.undo.push(Undo::ExecutionDeadline(old));
    }

    /// Keeps the first failure that nothing handled.
    pub(super) fn note_failure(&mut self, node: Option<NodeIx>, error: ErrorInfo) {
        if self.state.failure.is_none() {
            let failure = self.failure_of(node, error);
            self.set_failure(Some(failure));
        }
    }

    pub(super) fn set_failure(&mut self, failure: Option<Failure>) {
        let old = std::mem::replace(&mut self.state.failure, failure.map(Box::new));
        self.undo.push(Undo::Failure(old));
    }

    pub(super) fn changed(&mut self, verb: Verb) {
        self.out.transitions.push(Transition::execution(verb));
    }

    pub(super) fn changed_node(&mut self, verb: Verb, ix: NodeIx) {
        self.out.transitions.push(Transition::node(verb, ix));
    }

    pub(super) fn start_attempt(&mut self, attempt: StartAttempt) {
        self.out.effects.push(Effect::StartAttempt(attempt));
    }

    pub(super) fn abort_attempt(&mut self, token: Token) {
        self.out.effects.push(Effect::AbortAttempt(token));
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        self.out.effects.push(effect);
    }

    pub(super) fn finish(&mut self) {
        self.out.effects.push(Effect::Finish);
    }

    /// Asks the evaluator and records the answer.
    pub(super) fn ask(
        &mut self,
        question: Question,
        input: Option<&Value>,
        output: Option<&Value>,
        error: Option<&ErrorInfo>,
    ) -> Result<Answer, StepError> {
        let scope = Scope {
            plan: self.plan,
            state: self.state,
            node: question.node(self.plan),
            input,
            output,
            error,
            at: self.at,
        };
        let answer = self
            .evaluator
            .evaluate(question, &scope)
            .map_err(|super::scope::Pending| StepError::Pending)?;
        // That a value stays where it is needs no record.
        if !matches!((question, &answer), (Question::Keep(_), Answer::Valid)) {
            self.out.answers.push(answer.clone());
        }
        Ok(answer)
    }

    /// Asks for a condition's truth; what it threw is the inner error.
    pub(super) fn ask_truth(
        &mut self,
        question: Question,
        input: Option<&Value>,
        output: Option<&Value>,
        error: Option<&ErrorInfo>,
    ) -> Result<Result<bool, ErrorInfo>, StepError> {
        match self.ask(question, input, output, error)? {
            Answer::Truth { taken, .. } => Ok(Ok(taken)),
            Answer::Threw(error) => Ok(Err(*error)),
            Answer::Valid
            | Answer::Value(_)
            | Answer::Variables(_)
            | Answer::Prepared { .. }
            | Answer::Kept(_)
            | Answer::NotKept(_)
            | Answer::Cached(_) => Err(StepError::Corrupt("a condition was answered with something else")),
        }
    }

    /// Asks whether a schema is met; the violation is the inner error.
    pub(super) fn ask_valid(
        &mut self,
        question: Question,
        input: Option<&Value>,
        output: Option<&Value>,
    ) -> Result<Result<(), ErrorInfo>, StepError> {
        match self.ask(question, input, output, None)? {
            Answer::Valid => Ok(Ok(())),
            Answer::Threw(error) => Ok(Err(*error)),
            Answer::Truth { .. }
            | Answer::Value(_)
            | Answer::Variables(_)
            | Answer::Prepared { .. }
            | Answer::Kept(_)
            | Answer::NotKept(_)
            | Answer::Cached(_) => Err(StepError::Corrupt("a schema was answered with something else")),
        }
    }

    /// Asks for an expression's value; what it threw is the inner error.
    pub(super) fn ask_value(
        &mut self,
        question: Question,
        input: Option<&Value>,
        output: Option<&Value>,
    ) -> Result<Result<Value, ErrorInfo>, StepError> {
        match self.ask(question, input, output, None)? {
            Answer::Value(value) => Ok(Ok(value)),
            Answer::Threw(error) => Ok(Err(*error)),
            Answer::Valid
            | Answer::Truth { .. }
            | Answer::Variables(_)
            | Answer::Prepared { .. }
            | Answer::Kept(_)
            | Answer::NotKept(_)
            | Answer::Cached(_) => Err(StepError::Corrupt("an expression was answered with something else")),
        }
    }

    /// Has a large value that the core has composed kept apart; why it cannot be is the inner error.
    pub(super) fn keep(&mut self, ix: NodeIx, value: Value) -> Result<Result<Value, ErrorInfo>, StepError> {
        if value.bytes_in_place() <= INLINE_BYTES_MAX {
            return Ok(Ok(value));
        }
        match self.ask(Question::Keep(ix), None, Some(&value), None)? {
            Answer::Valid => Ok(Ok(value)),
            Answer::Kept(kept) => Ok(Ok(kept)),
            Answer::NotKept(error) => Ok(Err(*error)),
            Answer::Truth { .. }
            | Answer::Value(_)
            | Answer::Variables(_)
            | Answer::Prepared { .. }
            | Answer::Threw(_)
            | Answer::Cached(_) => Err(StepError::Corrupt("a value to keep was answered with something else")),
        }
    }
}

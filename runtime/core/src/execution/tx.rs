//! A step in progress: every write leaves a way back, so that a refused step changes nothing at no cost in the graph's
//! size.

use std::collections::VecDeque;

use crate::id::{EdgeIx, NodeIx, Timestamp, Token};
use crate::plan::{Plan, PlanNode};
use crate::value::{ErrorInfo, Value};

use super::effect::{Effect, StartAttempt};
use super::event::Answer;
use super::scope::{Evaluator, Question, Scope};
use super::state::{EdgeState, ExecutionState, Failure, NodeState, Phase, Stamp, Status};
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
}

/// One way back.
enum Undo {
    Node(NodeIx, Box<NodeState>),
    Edge(EdgeIx),
    Variable(String, Option<Value>),
    HeldPush,
    HeldPop(NodeIx),
    Status(Status),
    Paused(bool),
    Failure(Option<Box<Failure>>),
    EndedAt(Option<Timestamp>),
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
                    self.state.nodes[ix.at()] = *old;
                    self.state.index(self.plan, ix);
                }
                Undo::Edge(ix) => self.state.edges[ix.at()] = EdgeState::Open,
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
                Undo::Failure(old) => self.state.failure = old,
                Undo::EndedAt(old) => self.state.ended_at = old,
            }
        }
    }

    /// The planned node.
    pub(super) fn planned(&self, ix: NodeIx) -> &'a PlanNode {
        self.plan.node(ix)
    }

    /// The node as it stands.
    pub(super) fn node(&self, ix: NodeIx) -> &NodeState {
        &self.state.nodes[ix.at()]
    }

    /// Changes a node, and what is derived from it.
    pub(super) fn update(&mut self, ix: NodeIx, change: impl FnOnce(&mut NodeState)) {
        let stamp = Stamp(self.state.seq.0 + 1);
        self.state.unindex(self.plan, ix);
        let node = &mut self.state.nodes[ix.at()];
        if node.stamp.0 != stamp.0 {
            self.undo.push(Undo::Node(ix, Box::new(node.clone())));
            node.stamp = stamp;
        }
        change(node);
        self.state.index(self.plan, ix);
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

    /// Resolves an edge; its target is looked at when the arrivals are settled.
    pub(super) fn resolve_edge(&mut self, ix: EdgeIx, to: EdgeState) {
        debug_assert_eq!(self.state.edges[ix.at()], EdgeState::Open, "an edge resolves once");
        let edge = self.plan.edge(ix);
        self.undo.push(Undo::Edge(ix));
        self.state.edges[ix.at()] = to;
        let taken = to == EdgeState::Taken;
        let cleanup = taken && (edge.kind == crate::definition::EdgeKind::Always || self.node(edge.source).cleanup);
        let at = self.at;
        self.update(edge.target, |node| {
            *(if taken { &mut node.taken } else { &mut node.dead }) += 1;
            node.first_arrival_at.get_or_insert(at);
        });
        if cleanup {
            self.mark_cleanup(edge.target);
        }
        self.arrivals.push_back(edge.target);
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

    /// Makes a node wait for its dispatch.
    pub(super) fn hold(&mut self, ix: NodeIx) {
        self.update(ix, |node| node.phase = Phase::Ready);
        self.undo.push(Undo::HeldPush);
        self.state.held.push_back(ix);
    }

    /// The node that has waited longest for its dispatch.
    pub(super) fn pop_held(&mut self) -> Option<NodeIx> {
        let ix = self.state.held.pop_front()?;
        self.undo.push(Undo::HeldPop(ix));
        Some(ix)
    }

    pub(super) fn set_status(&mut self, status: Status) {
        let old = std::mem::replace(&mut self.state.status, status);
        self.undo.push(Undo::Status(old));
    }

    pub(super) fn set_paused(&mut self, paused: bool) {
        self.undo.push(Undo::Paused(self.state.paused));
        self.state.paused = paused;
    }

    pub(super) fn set_ended(&mut self) {
        let old = self.state.ended_at.replace(self.at);
        self.undo.push(Undo::EndedAt(old));
    }

    /// Keeps the first failure that nothing handled.
    pub(super) fn note_failure(&mut self, node: Option<NodeIx>, error: ErrorInfo) {
        if self.state.failure.is_none() {
            self.undo.push(Undo::Failure(None));
            self.state.failure = Some(Box::new(Failure { node, error }));
        }
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
            input,
            output,
            error,
            at: self.at,
        };
        let answer = self
            .evaluator
            .evaluate(question, &scope)
            .map_err(|super::scope::Pending| StepError::Pending)?;
        self.out.answers.push(answer.clone());
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
            Answer::Valid | Answer::Value(_) | Answer::Variables(_) | Answer::Prepared { .. } => {
                Err(StepError::Corrupt("a condition was answered with something else"))
            }
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
            Answer::Truth { .. } | Answer::Value(_) | Answer::Variables(_) | Answer::Prepared { .. } => {
                Err(StepError::Corrupt("a schema was answered with something else"))
            }
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
            Answer::Valid | Answer::Truth { .. } | Answer::Variables(_) | Answer::Prepared { .. } => {
                Err(StepError::Corrupt("an expression was answered with something else"))
            }
        }
    }
}

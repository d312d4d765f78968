//! How a node ends: an attempt's report, its edges, and what a failure nobody handles does to the rest.

use crate::definition::EdgeKind;
use crate::id::{EdgeIx, NodeIx};
use crate::value::{COMPOSED_DEPTH_MAX, ErrorInfo, Value};

use super::event::{Answer, AttemptClosed, AttemptFailure, AttemptOutcome};
use super::scope::Question;
use super::state::{AttemptRecord, EdgeState, NodeFailure, Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

impl Tx<'_> {
    /// An attempt reported its end.
    pub(super) fn attempt_closed(&mut self, closed: &AttemptClosed) -> Result<(), StepError> {
        let ix = closed.token.node;
        let canceling = match self.state.node(ix).map(|node| &node.phase) {
            Some(Phase::Running { token }) if *token == closed.token => false,
            Some(Phase::Canceling { token }) if *token == closed.token => true,
            _ => return Err(StepError::Stale),
        };
        let (error, output) = match &closed.outcome {
            AttemptOutcome::Completed(output) => (None, Some(output.clone())),
            AttemptOutcome::Failed(failure) => (Some(Box::new(failure.error.clone())), None),
        };
        let attempt = closed.token.attempt;
        let record = AttemptRecord {
            attempt,
            started_at: closed.started_at,
            ended_at: self.at,
            error,
            output,
            cut_short: None,
        };
        self.update(ix, |node| node.attempts.push(record));
        if canceling {
            self.end_canceled_node(ix);
            return Ok(());
        }
        match &closed.outcome {
            AttemptOutcome::Completed(output) => {
                self.complete(ix, output.clone())?;
                self.offer_for_reuse(ix, output);
                Ok(())
            }
            AttemptOutcome::Failed(failure) => self.attempt_failed(ix, failure),
        }
    }

    /// An attempt failed: its node's policy says whether another one follows.
    pub(super) fn attempt_failed(&mut self, ix: NodeIx, failure: &AttemptFailure) -> Result<(), StepError> {
        let node = self.node(ix);
        match super::retry::delay_ms(&self.planned(ix).retry, self.state.id, ix, node, failure) {
            Some(delay_ms) => {
                let (until, next) = (self.clock_of(ix).plus_ms(delay_ms), node.next_attempt());
                self.update(ix, |node| node.phase = Phase::Backoff { until, next });
                self.changed_node(Verb::NodeRetrying, ix);
                Ok(())
            }
            None => self.fail(ix, failure.error.clone()),
        }
    }

    /// The node has an output: schema, mapping and conditions in that order; what they throw fails it after all.
    pub(super) fn complete(&mut self, ix: NodeIx, output: Value) -> Result<(), StepError> {
        let savepoint = self.savepoint();
        match self.try_complete(ix, output)? {
            Ok(edges) => {
                self.changed_node(Verb::NodeCompleted, ix);
                if self.planned(ix).compensation.is_some() {
                    self.note_completion(ix);
                }
                self.cancel_region(ix);
                for (edge, taken) in edges {
                    self.decide_edge(edge, taken);
                }
                Ok(())
            }
            Err(error) => {
                // Variables go back; the node's own record was saved before and is overwritten by the failure.
                self.rollback_to(savepoint);
                self.update(ix, |node| node.output = None);
                self.fail(ix, error)
            }
        }
    }

    /// Everything of a completion that may throw.
    fn try_complete(&mut self, ix: NodeIx, output: Value) -> Result<Result<Vec<(EdgeIx, bool)>, ErrorInfo>, StepError> {
        let planned = self.planned(ix);
        let mut output = output;
        // The input is composed only where something reads it.
        let conditional = |edge: &EdgeIx| self.plan.edge(*edge).condition.is_some();
        let reads = planned.checks_output
            || planned.replaces_output
            || planned.maps_output
            || planned.decision.is_some()
            || planned.outgoing.iter().any(conditional);
        let input = if reads {
            self.state.input_of(self.plan, ix)
        } else {
            Value::null()
        };
        if planned.checks_output
            && let Err(error) = self.ask_valid(Question::OutputSchema(ix), Some(&input), Some(&output))?
        {
            return Ok(Err(error));
        }
        if planned.replaces_output {
            match self.ask_value(Question::Output(ix), Some(&input), Some(&output))? {
                Ok(replaced) => output = replaced,
                Err(error) => return Ok(Err(error)),
            }
        }
        if planned.maps_output {
            match self.ask(Question::OutputMapping(ix), Some(&input), Some(&output), None)? {
                Answer::Variables(variables) => {
                    for (name, value) in variables {
                        self.set_variable(name, value);
                    }
                }
                Answer::Threw(error) => return Ok(Err(*error)),
                Answer::Valid
                | Answer::Truth { .. }
                | Answer::Value(_)
                | Answer::Prepared { .. }
                | Answer::Kept(_)
                | Answer::NotKept(_)
                | Answer::Cached(_) => {
                    return Err(StepError::Corrupt("an output mapping was answered with something else"));
                }
            }
        }
        let (at, kept) = (self.at, output.clone());
        self.update(ix, |node| {
            node.output = Some(kept);
            node.phase = Phase::Completed;
            node.ended_at = Some(at);
            node.total_deadline = None;
        });
        let chosen = match self.decide(ix, &input, &output)? {
            Ok(chosen) => chosen,
            Err(error) => return Ok(Err(error)),
        };
        let mut edges = Vec::with_capacity(planned.outgoing.len());
        for edge in &planned.outgoing {
            let taken = match self.plan.edge(*edge).kind {
                EdgeKind::Failure => false,
                EdgeKind::Default | EdgeKind::Success => match &chosen {
                    Some(chosen) => chosen.contains(edge),
                    None => match self.condition(*edge, &input, Some(&output), None)? {
                        Ok(taken) => taken,
                        Err(error) => return Ok(Err(error)),
                    },
                },
                EdgeKind::Always => match self.condition(*edge, &input, Some(&output), None)? {
                    Ok(taken) => taken,
                    Err(error) => return Ok(Err(error)),
                },
            };
            edges.push((*edge, taken));
        }
        Ok(Ok(edges))
    }

    fn condition(
        &mut self,
        edge: EdgeIx,
        input: &Value,
        output: Option<&Value>,
        error: Option<&ErrorInfo>,
    ) -> Result<Result<bool, ErrorInfo>, StepError> {
        if self.plan.edge(edge).condition.is_none() {
            return Ok(Ok(true));
        }
        self.ask_truth(Question::Condition(edge), Some(input), output, error)
    }

    /// The success and default edges that a decision takes; none for other nodes.
    fn decide(
        &mut self,
        ix: NodeIx,
        input: &Value,
        output: &Value,
    ) -> Result<Result<Option<Vec<EdgeIx>>, ErrorInfo>, StepError> {
        let Some(decision) = &self.planned(ix).decision else {
            return Ok(Ok(None));
        };
        let mut chosen = Vec::new();
        for (place, (_, edges)) in decision.conditions.iter().enumerate() {
            let question = Question::DecisionCondition(ix, u32::try_from(place).unwrap_or(u32::MAX));
            match self.ask_truth(question, Some(input), Some(output), None)? {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => return Ok(Err(error)),
            }
            // What an edge asks beyond its condition must hold too.
            for edge in edges {
                match self.condition(*edge, input, Some(output), None)? {
                    Ok(true) => chosen.push(*edge),
                    Ok(false) => {}
                    Err(error) => return Ok(Err(error)),
                }
            }
            if !decision.inclusive && !chosen.is_empty() {
                return Ok(Ok(Some(chosen)));
            }
        }
        for edge in &decision.own {
            match self.condition(*edge, input, Some(output), None)? {
                Ok(true) => chosen.push(*edge),
                Ok(false) => {}
                Err(error) => return Ok(Err(error)),
            }
            if !decision.inclusive && !chosen.is_empty() {
                return Ok(Ok(Some(chosen)));
            }
        }
        if chosen.is_empty() {
            chosen.extend_from_slice(&decision.default);
        }
        let leads_on = |edge: &EdgeIx| match self.plan.edge(*edge).kind {
            EdgeKind::Default | EdgeKind::Success => true,
            EdgeKind::Failure | EdgeKind::Always => false,
        };
        if chosen.is_empty() && self.planned(ix).outgoing.iter().any(leads_on) {
            return Ok(Err(ErrorInfo::new(
                "NO_MATCHING_CONDITION",
                "no condition matched and there is no default path",
            )));
        }
        Ok(Ok(Some(chosen)))
    }

    /// The node failed for good.
    pub(super) fn fail(&mut self, ix: NodeIx, error: ErrorInfo) -> Result<(), StepError> {
        if self.plan.is_compensation(ix) {
            self.fail_compensation(ix, error);
            return Ok(());
        }
        let planned = self.planned(ix);
        let input = self.state.input_of(self.plan, ix);
        let failure = Box::new(NodeFailure {
            error: error.clone(),
            payload: None,
            handled: None,
        });
        self.update(ix, |node| node.failure = Some(failure));
        self.end_node(ix, Phase::Failed, Verb::NodeFailed);
        let mut handled = false;
        let mut edges = Vec::with_capacity(planned.outgoing.len());
        // A header beyond its limit fails anew: its edges within the loop were resolved in the generation before.
        let undecided = |ix: &&EdgeIx| self.state.edges[ix.at()] == EdgeState::Open;
        for ix in planned.outgoing.iter().filter(undecided).copied().collect::<Vec<_>>() {
            let edge = self.plan.edge(ix);
            let catches =
                || edge.errors.is_empty() || edge.errors.iter().any(|code| *code == error.code || code == "*");
            let taken = match edge.kind {
                EdgeKind::Default | EdgeKind::Success => false,
                EdgeKind::Failure if (handled && planned.first_failure_edge_only) || !catches() => false,
                // A condition that throws leaves the edge dead and the first error in place.
                EdgeKind::Failure | EdgeKind::Always => {
                    self.condition(ix, &input, None, Some(&error))?.unwrap_or(false)
                }
            };
            handled |= taken && edge.kind == EdgeKind::Failure;
            edges.push((ix, taken));
        }
        if edges.iter().any(|(_, taken)| *taken) {
            // What nests too deep was never given to the node either.
            let input = if input.depth() > COMPOSED_DEPTH_MAX {
                Value::null()
            } else {
                input
            };
            let payload = Value::object([("error", &error.to_json().into()), ("input", &input)]);
            self.update(ix, |node| {
                if let Some(failure) = &mut node.failure {
                    failure.payload = Some(payload);
                }
            });
        }
        for (edge, taken) in edges {
            self.decide_edge(edge, taken);
        }
        self.update(ix, |node| {
            if let Some(failure) = &mut node.failure {
                failure.handled = Some(handled);
            }
        });
        if !handled {
            self.note_failure(Some(ix), error);
            if !self.plan.settings.continues_on_failure && self.state.status == Status::Running {
                self.set_status(Status::Failing);
                self.cancel_all_but_cleanup();
            }
        }
        Ok(())
    }

    /// Under `failFast` only what a taken `always` edge led to goes on.
    fn cancel_all_but_cleanup(&mut self) {
        let active: Vec<NodeIx> = self.state.active.iter().copied().collect();
        for ix in active {
            if !self.node(ix).cleanup {
                self.end_open_node(ix);
            }
        }
    }

    /// Cancels an active node at once; a late report of its attempt is stale.
    pub(super) fn cancel_node(&mut self, ix: NodeIx) {
        if let Phase::Running { token } | Phase::Canceling { token } = self.node(ix).phase {
            self.abort_attempt(token);
        }
        self.cancel_children(ix);
        self.end_canceled_node(ix);
    }

    /// The node's cancellation is complete; nothing will come over its edges.
    pub(super) fn end_canceled_node(&mut self, ix: NodeIx) {
        self.end_node(ix, Phase::Canceled, Verb::NodeCanceled);
        self.kill_edges(ix);
    }
}

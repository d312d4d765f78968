//! Nodes that wait for a call from outside, and what operators decide of a node.

use crate::definition::NodeKind;
use crate::id::NodeIx;
use crate::value::{ErrorInfo, Value};

use super::event::Decision;
use super::scope::Question;
use super::state::{Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// Calls that are kept for a node that does not wait yet.
const KEPT_MAX: usize = 64;

fn refused(code: &str, message: impl Into<String>) -> StepError {
    StepError::Refused(Box::new(ErrorInfo::new(code, message)))
}

impl Tx<'_> {
    /// The node waits for a call, unless one has come already.
    pub(super) fn wait(&mut self, ix: NodeIx) -> Result<(), StepError> {
        if let Some(call) = self.take_signal(ix) {
            return self.answer_call(ix, call);
        }
        let (planned, at, clock) = (self.planned(ix), self.at, self.clock_of(ix));
        let data = self.node(ix).data.as_ref();
        let until = planned.wait_timeout_ms(data).map(|ms| clock.plus_ms(ms));
        let heartbeat_by = planned.heartbeat_timeout_ms(data).map(|ms| at.plus_ms(ms));
        let total = planned.total_timeout_ms(data);
        self.update(ix, |node| {
            node.total_deadline = total.map(|ms| clock.plus_ms(ms));
            node.phase = Phase::Waiting { until, heartbeat_by };
        });
        self.changed_node(Verb::NodeWaiting, ix);
        Ok(())
    }

    /// A call came. One that is too early is kept, one that violates the schema is refused and the node waits on.
    pub(super) fn signaled(&mut self, ix: NodeIx, call: &Value) -> Result<(), StepError> {
        let Some(planned) = self.plan.nodes.get(ix.at()) else {
            return Err(StepError::Corrupt("the call is for no node of the plan"));
        };
        if planned.kind != NodeKind::Webhook || planned.trigger.is_some() {
            return Err(refused(
                "NODE_NOT_WAITING",
                format!("`{}` does not wait for a call", planned.key),
            ));
        }
        self.check_runs()?;
        if planned.checks_payload
            && let Err(violation) = self.ask_valid(Question::PayloadSchema(ix), None, Some(call))?
        {
            return Err(StepError::Refused(Box::new(violation)));
        }
        if let Phase::Waiting { .. } = self.node(ix).phase {
            return self.answer_call(ix, call.clone());
        }
        if self.node(ix).phase.is_terminal() && !self.may_come_again(ix) {
            return Err(refused("NODE_NOT_WAITING", format!("`{}` has ended", planned.key)));
        }
        if self.state.signals.get(&ix).map_or(0, std::collections::VecDeque::len) >= KEPT_MAX {
            let message = format!("{KEPT_MAX} calls wait for `{}` already", planned.key);
            return Err(refused("TOO_MANY_CALLS", message));
        }
        self.keep_signal(ix, call.clone());
        Ok(())
    }

    /// Refuses what is for nodes once none of them can go on.
    fn check_runs(&self) -> Result<(), StepError> {
        let why = match self.state.status {
            Status::Canceling { .. } => "the execution is being canceled",
            Status::Compensating(_) => "what the execution completed is being undone",
            Status::Reporting => "the execution has failed",
            Status::Pending
            | Status::Running
            | Status::Failing
            | Status::Completed { .. }
            | Status::Failed
            | Status::Canceled { .. } => return Ok(()),
        };
        Err(refused("NODE_NOT_WAITING", why))
    }

    /// Whether a loop around the node may still visit it.
    fn may_come_again(&self, ix: NodeIx) -> bool {
        let mut around = self.planned(ix).within;
        while let Some(one) = around {
            if !self.state.loops[one.at()].finished {
                return true;
            }
            around = self.plan.loops[one.at()].parent;
        }
        false
    }

    /// The call is the node's output, or what its template makes of it.
    pub(super) fn answer_call(&mut self, ix: NodeIx, call: Value) -> Result<(), StepError> {
        if !self.planned(ix).transforms_call {
            return self.complete(ix, call);
        }
        let input = self.state.input_of(self.plan, ix);
        match self.ask_value(Question::CallOutput(ix), Some(&input), Some(&call))? {
            Ok(output) => self.complete(ix, output),
            Err(error) => self.fail(ix, error),
        }
    }

    /// The next heartbeat may take as long again.
    pub(super) fn heartbeat(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let waits = self.state.nodes.get(ix.at()).map(|node| &node.phase);
        let Some(Phase::Waiting { until, .. }) = waits else {
            return Err(refused("NODE_NOT_WAITING", "the node does not wait"));
        };
        let until = *until;
        let timeout = self.planned(ix).heartbeat_timeout_ms(self.node(ix).data.as_ref());
        let Some(timeout_ms) = timeout else {
            return Err(StepError::Unchanged);
        };
        let heartbeat_by = Some(self.at.plus_ms(timeout_ms));
        self.update(ix, |node| node.phase = Phase::Waiting { until, heartbeat_by });
        Ok(())
    }

    /// The wait's timeout or that of its heartbeat has passed.
    pub(super) fn waited_long_enough(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let Phase::Waiting { until, heartbeat_by } = self.node(ix).phase else {
            return Err(StepError::Corrupt("a wait was due at a node that does not wait"));
        };
        // Both may have passed: the first one counts.
        let error = if until.is_some_and(|until| heartbeat_by.is_none_or(|heartbeat_by| until <= heartbeat_by)) {
            ErrorInfo::new("TIMEOUT", "no call came before the timeout")
        } else {
            ErrorInfo::new("HEARTBEAT_TIMEOUT", "no heartbeat came before its timeout")
        };
        self.fail(ix, error)
    }

    /// An operator decided how a node ends.
    pub(super) fn decided(&mut self, ix: NodeIx, decision: &Decision) -> Result<(), StepError> {
        let Some(node) = self.state.nodes.get(ix.at()) else {
            return Err(StepError::Corrupt("the decision is for no node of the plan"));
        };
        let key = &self.planned(ix).key;
        self.check_runs()?;
        if self.state.status == Status::Pending {
            let message = "the execution has not begun: as many of its workflow as may run at once do";
            return Err(refused("NODE_NOT_WAITING", message));
        }
        let waits = matches!(
            node.phase,
            Phase::Waiting { .. } | Phase::Delaying { .. } | Phase::Parenting
        );
        match decision {
            Decision::Complete(_) | Decision::Fail(_) if !waits => Err(refused(
                "NODE_NOT_WAITING",
                format!("`{key}` does not wait for anything"),
            )),
            Decision::Complete(output) => {
                self.cancel_children(ix);
                self.complete(ix, output.clone())
            }
            Decision::Fail(error) => {
                self.cancel_children(ix);
                self.fail(ix, error.clone())
            }
            Decision::Skip(_) if node.phase.is_terminal() => Err(refused(
                "NODE_ENDED",
                format!("`{key}` has ended: it can no longer be skipped"),
            )),
            Decision::Skip(output) => {
                if let Phase::Running { token } = node.phase {
                    self.abort_attempt(token);
                }
                self.cancel_children(ix);
                match output {
                    Some(output) => {
                        self.complete(ix, output.clone())?;
                        self.forget_completion(ix);
                        Ok(())
                    }
                    None => {
                        self.skip(ix);
                        Ok(())
                    }
                }
            }
        }
    }
}

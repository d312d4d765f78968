//! A node that may run: its input is fixed, then the core decides it alone or holds it for dispatch.

use crate::definition::NodeKind;
use crate::id::{NodeIx, Timestamp, Token};
use crate::value::{COMPOSED_DEPTH_MAX, ErrorInfo, Value};

use super::cache::Reuse;
use super::effect::StartAttempt;
use super::event::Answer;
use super::scope::Question;
use super::state::{Input, Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// Numbers from here on are epoch milliseconds where a delay may be either: 2001-09-09, or a delay of 31 years.
const EPOCH_FROM_MS: f64 = 1e12;
/// Length of what `concurrency.key` may give, as JSON.
const CONCURRENCY_KEY_BYTES_MAX: usize = 1_024;

impl Tx<'_> {
    /// The node's edges let it start.
    pub(super) fn ready(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let input = self.state.taken_input(self.plan, ix);
        self.forget_first_input(ix);
        self.ready_with(ix, input)
    }

    /// It starts with this input.
    pub(super) fn ready_with(&mut self, ix: NodeIx, input: Input) -> Result<(), StepError> {
        if self.state.status == Status::Failing && !self.node(ix).cleanup {
            self.cut_off(ix);
            // A header of a later pass has it from nowhere else, should the execution be reopened.
            self.update(ix, |node| node.input = input);
            self.skip(ix);
            return Ok(());
        }
        let (planned, at) = (self.planned(ix), self.at);
        self.update(ix, |node| {
            node.input = input;
            node.scheduled_at = Some(at);
        });
        if self.state.input_depth(self.plan, ix) > COMPOSED_DEPTH_MAX {
            let message = format!("the input nests more than {COMPOSED_DEPTH_MAX} times");
            return self.fail(ix, ErrorInfo::new("EXPRESSION_ERROR", message));
        }
        // One that was mapped before the execution was reopened is not mapped again.
        if planned.prepares && !matches!(self.node(ix).input, Input::Mapped(_)) {
            let unmapped = self.state.input_of(self.plan, ix);
            if let Err(error) = self.prepare(ix, &unmapped, None, None)? {
                return self.fail(ix, error);
            }
        }
        if let Err(violation) = self.check_input(ix)? {
            return self.fail(ix, violation);
        }
        match planned.kind {
            NodeKind::Webhook if planned.trigger.is_none() => self.wait(ix),
            NodeKind::Trigger => {
                let output = self.state.input.clone();
                self.complete(ix, output)
            }
            NodeKind::Webhook => {
                let call = self.state.input.clone();
                self.answer_call(ix, call)
            }
            NodeKind::Decision => {
                let output = self.state.input_of(self.plan, ix);
                self.complete(ix, output)
            }
            NodeKind::Delay => self.delay(ix),
            NodeKind::End => self.reach_end(ix),
            NodeKind::Subworkflow | NodeKind::ForEach | NodeKind::Loop => self.become_parent(ix),
            NodeKind::Function
            | NodeKind::Http
            | NodeKind::Transformation
            | NodeKind::Custom
            | NodeKind::Database
            | NodeKind::Publish => {
                if let Err(error) = self.find_concurrency_key(ix)? {
                    return self.fail(ix, error);
                }
                self.set_total_deadline(ix);
                match self.reuse(ix)? {
                    Reuse::Not => {
                        self.hold(ix);
                        Ok(())
                    }
                    Reuse::Output(output) => {
                        self.complete(ix, output)?;
                        self.forget_completion(ix);
                        Ok(())
                    }
                    Reuse::Failed(error) => self.fail(ix, error),
                }
            }
        }
    }

    /// The key is fixed for the visit, so that every attempt of it counts under the same.
    pub(super) fn find_concurrency_key(&mut self, ix: NodeIx) -> Result<Result<(), ErrorInfo>, StepError> {
        let limit = self.planned(ix).concurrency.as_ref();
        if limit.is_none_or(|limit| limit.key.is_none()) {
            return Ok(Ok(()));
        }
        let input = self.state.input_of(self.plan, ix);
        let refused = |what: &str| {
            let message = format!("`concurrency.key` gave {what}");
            Ok(Err(ErrorInfo::new("EXPRESSION_ERROR", message)))
        };
        let key = match self.ask_value(Question::ConcurrencyKey(ix), Some(&input), None)? {
            Ok(Value::Inline(key)) => key,
            Ok(Value::Blob(_) | Value::Composed(_)) => return refused("a value that is too large"),
            Err(error) => return Ok(Err(error)),
        };
        if key.as_str() == "null" {
            return refused("nothing");
        }
        if key.bytes() > CONCURRENCY_KEY_BYTES_MAX {
            return refused(&format!("more than {CONCURRENCY_KEY_BYTES_MAX} bytes"));
        }
        self.update(ix, |node| node.concurrency_key = Some(key));
        Ok(Ok(()))
    }

    /// Fixes what the node receives and its data; what its expressions threw is the inner error.
    pub(super) fn prepare(
        &mut self,
        ix: NodeIx,
        input: &Value,
        output: Option<&Value>,
        error: Option<&ErrorInfo>,
    ) -> Result<Result<(), ErrorInfo>, StepError> {
        match self.ask(Question::Prepare(ix), Some(input), output, error)? {
            Answer::Prepared { input, data } => {
                self.update(ix, |node| {
                    if let Some(input) = input {
                        node.input = Input::Mapped(input);
                    }
                    node.data = data;
                });
                Ok(Ok(()))
            }
            Answer::Threw(error) => Ok(Err(*error)),
            Answer::Valid
            | Answer::Truth { .. }
            | Answer::Value(_)
            | Answer::Variables(_)
            | Answer::Kept(_)
            | Answer::NotKept(_)
            | Answer::Cached(_) => Err(StepError::Corrupt("a preparation was answered with something else")),
        }
    }

    /// The violation of the input's schema, if there is one, is the inner error.
    pub(super) fn check_input(&mut self, ix: NodeIx) -> Result<Result<(), ErrorInfo>, StepError> {
        if !self.planned(ix).checks_input {
            return Ok(Ok(()));
        }
        let input = self.state.input_of(self.plan, ix);
        self.ask_valid(Question::InputSchema(ix), Some(&input), None)
    }

    /// Its total timeout begins.
    pub(super) fn set_total_deadline(&mut self, ix: NodeIx) {
        let total = self.planned(ix).total_timeout_ms(self.node(ix).data.as_ref());
        let clock = self.clock_of(ix);
        self.update(ix, |node| node.total_deadline = total.map(|ms| clock.plus_ms(ms)));
    }

    /// Starts attempts of held nodes while nothing forbids it.
    pub(super) fn dispatch(&mut self) -> Result<(), StepError> {
        let most = self
            .plan
            .settings
            .parallel_nodes_max
            .map_or(usize::MAX, |most| most as usize);
        while !self.state.is_held() && self.state.running.len() < most {
            let Some(ix) = self.pop_held() else { return Ok(()) };
            // A node that was canceled meanwhile keeps its place in the queue until here.
            if self.node(ix).phase == Phase::Ready {
                self.start(ix)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let node = self.node(ix);
        let token = Token {
            run: self.state.run,
            node: ix,
            visit: node.visit,
            attempt: node.next_attempt(),
            nonce: node.times_dispatched_again(),
        };
        let (input, data) = (self.state.input_of(self.plan, ix), node.data.clone());
        let at = self.at;
        self.update(ix, |node| {
            node.phase = Phase::Running { token };
            node.dispatched_at = Some(at);
        });
        self.changed_node(Verb::NodeScheduled, ix);
        self.start_attempt(StartAttempt { token, input, data });
        Ok(())
    }

    fn delay(&mut self, ix: NodeIx) -> Result<(), StepError> {
        match self.delay_until(ix) {
            Err(message) => self.fail(ix, ErrorInfo::new("EXPRESSION_ERROR", message)),
            Ok(until) if until <= self.clock_of(ix) => self.complete_delay(ix),
            Ok(until) => {
                let early_ms = i64::from(self.plan.mutants.short_delays) * 20;
                let until = Timestamp(until.0 - early_ms);
                self.update(ix, |node| node.phase = Phase::Delaying { until });
                self.changed_node(Verb::NodeWaiting, ix);
                Ok(())
            }
        }
    }

    /// A delay's output is its input.
    pub(super) fn complete_delay(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let output = self.state.input_of(self.plan, ix);
        self.complete(ix, output)
    }

    fn delay_until(&self, ix: NodeIx) -> Result<Timestamp, String> {
        let data = self.data(ix)?;
        let field = |name: &str| data.get(name);
        let value = field("delayValue").ok_or("`delayValue` is missing")?;
        // Where the clock stands behind the time, it does not count as having stood before the node was ready.
        let behind_ms = self.at.since_ms(self.clock_of(ix));
        let by_clock = |instant: i64| Timestamp(instant.saturating_sub_unsigned(behind_ms));
        let text = value.as_str();
        let number = value
            .as_f64()
            .or_else(|| text?.trim().parse().ok())
            .filter(|number| number.is_finite());
        let fixed = field("delayType")
            .and_then(serde_json::Value::as_str)
            .is_none_or(|kind| kind == "fixed");
        let until = field("delayType").and_then(serde_json::Value::as_str) == Some("until");
        if let Some(number) = number {
            let is_instant = until || (!fixed && number >= EPOCH_FROM_MS);
            let whole = number.clamp(0.0, 8e15) as i64;
            return Ok(if is_instant {
                by_clock(whole)
            } else {
                Timestamp(self.clock_of(ix).0.saturating_add(whole))
            });
        }
        let instant = text
            .filter(|_| !fixed)
            .and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        instant
            .map(|instant| by_clock(instant.timestamp_millis()))
            .ok_or_else(|| {
                let wanted = if fixed {
                    "a number of milliseconds"
                } else {
                    "milliseconds or an RFC 3339 time"
                };
                format!("`delayValue` must give {wanted}, it gave {value}")
            })
    }
}

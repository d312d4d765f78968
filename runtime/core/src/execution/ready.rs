//! A node that may run: its input is fixed, then the core decides it alone or holds it for dispatch.

use crate::definition::NodeKind;
use crate::id::{NodeIx, Timestamp, Token};
use crate::value::{ErrorInfo, Value};

use super::effect::StartAttempt;
use super::event::Answer;
use super::scope::Question;
use super::state::{Input, Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// Numbers from here on are epoch milliseconds where a delay may be either: 2001-09-09, or a delay of 31 years.
const EPOCH_FROM_MS: f64 = 1e12;

impl Tx<'_> {
    /// The node's edges let it start.
    pub(super) fn ready(&mut self, ix: NodeIx) -> Result<(), StepError> {
        if self.state.status == Status::Failing && !self.node(ix).cleanup {
            self.skip(ix);
            return Ok(());
        }
        let (planned, at) = (self.planned(ix), self.at);
        let input = self.state.taken_input(self.plan, ix);
        self.update(ix, |node| {
            node.input = input;
            node.scheduled_at = Some(at);
        });
        if planned.prepares {
            let unmapped = self.state.input_of(self.plan, ix)?;
            match self.ask(Question::Prepare(ix), Some(&unmapped), None, None)? {
                Answer::Prepared { input, data } => self.update(ix, |node| {
                    if let Some(input) = input {
                        node.input = Input::Mapped(input);
                    }
                    node.data = data;
                }),
                Answer::Threw(error) => return self.fail(ix, *error),
                Answer::Valid | Answer::Truth { .. } | Answer::Value(_) | Answer::Variables(_) => {
                    return Err(StepError::Corrupt("a preparation was answered with something else"));
                }
            }
        }
        if planned.checks_input {
            let input = self.state.input_of(self.plan, ix)?;
            if let Err(violation) = self.ask_valid(Question::InputSchema(ix), Some(&input), None)? {
                return self.fail(ix, violation);
            }
        }
        match planned.kind {
            NodeKind::Trigger => {
                let output = self.state.input.clone();
                self.complete(ix, output)
            }
            NodeKind::Decision => {
                let output = self.state.input_of(self.plan, ix)?;
                self.complete(ix, output)
            }
            NodeKind::Delay => self.delay(ix),
            NodeKind::Function
            | NodeKind::Http
            | NodeKind::Webhook
            | NodeKind::Transformation
            | NodeKind::Custom
            | NodeKind::Subworkflow
            | NodeKind::ForEach
            | NodeKind::Loop
            | NodeKind::Database
            | NodeKind::Publish
            | NodeKind::End => {
                let total = planned.total_timeout_ms(self.node(ix).data.as_ref());
                self.update(ix, |node| node.total_deadline = total.map(|ms| at.plus_ms(ms)));
                self.hold(ix);
                Ok(())
            }
        }
    }

    /// Starts attempts of held nodes while nothing forbids it.
    pub(super) fn dispatch(&mut self) -> Result<(), StepError> {
        let most = self
            .plan
            .settings
            .parallel_nodes_max
            .map_or(usize::MAX, |most| most as usize);
        while !self.state.paused && self.state.running.len() < most {
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
        let (input, data) = (self.state.input_of(self.plan, ix)?, node.data.clone());
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
            Ok(until) if until <= self.at => self.complete_delay(ix),
            Ok(until) => {
                self.update(ix, |node| node.phase = Phase::Delaying { until });
                self.changed_node(Verb::NodeWaiting, ix);
                Ok(())
            }
        }
    }

    /// A delay's output is its input.
    pub(super) fn complete_delay(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let output = self.state.input_of(self.plan, ix)?;
        self.complete(ix, output)
    }

    fn delay_until(&self, ix: NodeIx) -> Result<Timestamp, String> {
        let resolved = match &self.node(ix).data {
            Some(Value::Inline(json)) => Some(json.to_value().map_err(|error| error.to_string())?),
            Some(Value::Blob(_)) | None => None,
        };
        let data = &self.planned(ix).data;
        let field = |name: &str| {
            resolved
                .as_ref()
                .map_or_else(|| data.get(name), |resolved| resolved.get(name))
        };
        let value = field("delayValue").ok_or("`delayValue` is missing")?;
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
                Timestamp(whole)
            } else {
                Timestamp(self.at.0.saturating_add(whole))
            });
        }
        let instant = text
            .filter(|_| !fixed)
            .and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        instant
            .map(|instant| Timestamp(instant.timestamp_millis()))
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

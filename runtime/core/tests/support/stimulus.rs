//! What can happen to an execution, as the core and as the reference hear of it.

use serde_json::{Value as JsonValue, json};
use troupe_core::control::ControlsSeen;
use troupe_core::execution::{
    self as core, AttemptClosed, AttemptFailure, AttemptOutcome, ChildId, ChildOutcome, ErrorWorkflow, Event, Reopened,
    Started,
};
use troupe_core::{ErrorInfo, Json, NodeIx, Timestamp, Token, Value, Visit};

use super::duo::Duo;
use crate::reference::{self, ChildEnd, ChildReport, Control, Decision, Did, Failure, Refusal, Remedy, Scope};

/// Something that happens to an execution.
#[derive(Clone, Debug, PartialEq)]
pub enum Stimulus {
    Start {
        trigger: Option<String>,
        input: JsonValue,
        variables: Vec<(String, JsonValue)>,
    },
    /// A start that goes no further before it is admitted.
    Queue {
        trigger: Option<String>,
        input: JsonValue,
        variables: Vec<(String, JsonValue)>,
    },
    Admit,
    /// A rerun begins: as the core hears of it, and what the reference is given.
    StartOver {
        started: Box<Started>,
        input: JsonValue,
        variables: Vec<(String, JsonValue)>,
        rerun: Box<reference::rerun::Rerun>,
    },
    Report {
        node: String,
        outcome: Result<JsonValue, Failure>,
    },
    /// A report with a token that is not the current one.
    Stale {
        token: Token,
    },
    Deadline,
    Pause,
    Resume,
    Cancel {
        grace_ms: u64,
        at_once: bool,
    },
    Interrupt,
    /// The engine was shut down while attempts ran.
    Drain,
    /// A call came for a node.
    Signal {
        node: String,
        call: JsonValue,
    },
    Heartbeat {
        node: String,
    },
    /// An operator says how a node ends.
    Decide {
        node: String,
        decision: Decision,
    },
    SetVariables(Vec<(String, JsonValue)>),
    /// What became of child executions; some may have been told before.
    Children(Vec<ChildReport>),
    PauseWithParent,
    ResumeWithParent,
    /// As a pause, and clocks stand still.
    Freeze,
    FreezeWithParent,
    /// A control of a wider scope is set or lifted; the execution hears nothing of it yet.
    Control {
        scope: Scope,
        is_stop: bool,
        control: Option<Control>,
    },
    /// The execution wakes and learns of the controls.
    Learn,
    /// An operator has failed nodes run again, or count as skipped; none are named: all whose failure nothing handled.
    Reopen {
        nodes: Vec<String>,
        remedy: Remedy,
    },
    /// The error workflow began, as this execution, or could not be started.
    Reported(Result<String, Failure>),
}

impl Duo {
    fn started(&self, trigger: Option<&String>, input: &JsonValue, variables: &[(String, JsonValue)]) -> Box<Started> {
        Box::new(Started {
            variables: values(variables),
            trigger: trigger.cloned(),
            parent: self.parent(),
            handles_failure_of: self.reference.handles_failure.then_some(self.state.id),
            controls: self.controls_at_start(),
            ..Started::of(self.state.id, &self.plan, Value::from(input.clone()))
        })
    }

    /// What an execution that had ended begins its next run under.
    fn controls_of_next_run(&self) -> Option<Box<ControlsSeen>> {
        let ended = self.state.status.is_terminal();
        self.controls_at_start().filter(|_| ended)
    }

    fn controls_at_start(&self) -> Option<Box<ControlsSeen>> {
        let seen = self.controls.news_at_start(&self.plan, Timestamp(self.now));
        seen.map(Box::new)
    }

    /// A stimulus as the core hears of it.
    pub fn event(&self, stimulus: &Stimulus) -> Event {
        match stimulus {
            Stimulus::Start {
                trigger,
                input,
                variables,
            } => Event::Started(self.started(trigger.as_ref(), input, variables)),
            Stimulus::Queue {
                trigger,
                input,
                variables,
            } => Event::Queued(self.started(trigger.as_ref(), input, variables)),
            Stimulus::Admit => Event::Admitted,
            Stimulus::StartOver { started, .. } => Event::Started(Box::new(Started {
                controls: self.controls_at_start(),
                ..(**started).clone()
            })),
            Stimulus::Report { node, outcome } => self.closed(self.outstanding[node], outcome),
            Stimulus::Stale { token } => self.closed(*token, &Ok(json!("stale"))),
            Stimulus::Deadline => Event::DeadlineReached,
            Stimulus::Pause => Event::Paused,
            Stimulus::Resume => Event::Resumed,
            Stimulus::Cancel { grace_ms, at_once } => Event::CancelRequested {
                reason: Some("why".into()),
                grace_ms: *grace_ms,
                at_once: *at_once,
            },
            Stimulus::Interrupt => Event::Interrupted,
            Stimulus::Drain => Event::Drained,
            Stimulus::Signal { node, call } => Event::Signaled {
                node: self.ix(node),
                call: Value::from(call.clone()),
            },
            Stimulus::Heartbeat { node } => Event::Heartbeat(self.ix(node)),
            Stimulus::Decide { node, decision } => Event::Decided {
                node: self.ix(node),
                decision: match decision {
                    Decision::Complete(output) => core::Decision::Complete(Value::from(output.clone())),
                    Decision::Fail(failure) => core::Decision::Fail(error_info(failure)),
                    Decision::Skip(output) => core::Decision::Skip(output.clone().map(Value::from)),
                },
            },
            Stimulus::SetVariables(variables) => Event::VariablesSet(values(variables)),
            Stimulus::Children(reports) => Event::Children(reports.iter().map(|report| self.report(report)).collect()),
            Stimulus::PauseWithParent => Event::PausedWithParent,
            Stimulus::ResumeWithParent => Event::ResumedWithParent,
            Stimulus::Freeze => Event::Frozen,
            Stimulus::FreezeWithParent => Event::FrozenWithParent,
            Stimulus::Control { .. } => panic!("an execution hears of controls when it wakes"),
            Stimulus::Learn => Event::ControlsChanged(Box::new(self.news().expect("there are news"))),
            Stimulus::Reopen { nodes, remedy } => Event::Reopened(Box::new(Reopened {
                run: if self.state.status.is_terminal() {
                    self.state.run.next()
                } else {
                    self.state.run
                },
                nodes: nodes.iter().map(|node| self.ix(node)).collect(),
                remedy: match remedy {
                    Remedy::Retry => core::Remedy::Retry,
                    Remedy::Skip(output) => core::Remedy::Skip(output.clone().map(Value::from)),
                },
                reason: None,
                controls: self.controls_of_next_run(),
            })),
            Stimulus::Reported(outcome) => Event::ErrorWorkflow(match outcome {
                Ok(id) => ErrorWorkflow::Began(id.parse().expect("an id of an execution")),
                Err(failure) => ErrorWorkflow::Refused(error_info(failure)),
            }),
        }
    }

    fn report(&self, report: &ChildReport) -> core::ChildReport {
        core::ChildReport {
            child: ChildId {
                run: self.state.run,
                node: self.ix(&report.node),
                visit: Visit(report.visit),
                index: u32::try_from(report.index).expect("few children"),
            },
            outcome: match &report.end {
                ChildEnd::Began(id) => ChildOutcome::Began(id.parse().expect("an id of an execution")),
                ChildEnd::Completed(output) => ChildOutcome::Completed(Value::from(output.clone())),
                ChildEnd::Failed(failure) => ChildOutcome::Failed(error_info(failure)),
            },
        }
    }

    fn closed(&self, token: Token, outcome: &Result<JsonValue, Failure>) -> Event {
        let outcome = match outcome {
            Ok(output) => AttemptOutcome::Completed(Value::from(output.clone())),
            Err(failure) => AttemptOutcome::Failed(Box::new(AttemptFailure {
                error: error_info(failure),
                retryable: failure.retryable,
                retry_after_ms: failure.retry_after_ms.and_then(|ms| u64::try_from(ms).ok()),
            })),
        };
        Event::AttemptClosed(Box::new(AttemptClosed {
            token,
            started_at: Timestamp(self.now),
            outcome,
            logs: None,
        }))
    }

    pub(super) fn stimulate_reference(&mut self, stimulus: &Stimulus) -> Result<Vec<Did>, Refusal> {
        let (reference, at) = (&mut self.reference, self.now);
        match stimulus {
            Stimulus::Start {
                trigger,
                input,
                variables,
            } => reference.start(at, trigger.as_deref(), input.clone(), variables),
            Stimulus::Queue {
                trigger,
                input,
                variables,
            } => reference.queue(at, trigger.as_deref(), input.clone(), variables),
            Stimulus::Admit => reference.admitted(at),
            Stimulus::StartOver {
                input,
                variables,
                rerun,
                ..
            } => reference.start_over(at, input.clone(), variables, rerun),
            Stimulus::Report { node, outcome } => reference.report(at, node, outcome.clone()),
            Stimulus::Stale { .. } if reference.is_over() => Err(Refusal::Ended),
            Stimulus::Stale { .. } => Err(Refusal::Stale),
            Stimulus::Deadline => reference.deadline(at),
            Stimulus::Pause => reference.pause(at),
            Stimulus::Freeze => reference.pause_and_freeze(at),
            Stimulus::Resume => reference.resume(at),
            Stimulus::Cancel { grace_ms, at_once } => reference.cancel(at, *grace_ms as i64, *at_once),
            Stimulus::Interrupt => reference.interrupted(at, true),
            Stimulus::Drain => reference.interrupted(at, false),
            Stimulus::Signal { node, call } => reference.signal(at, node, call.clone()),
            Stimulus::Heartbeat { node } => reference.heartbeat(at, node),
            Stimulus::Decide { node, decision } => reference.decided(at, node, decision.clone()),
            Stimulus::SetVariables(variables) => reference.variables_set(at, variables),
            Stimulus::Children(reports) => reference.children_reported(at, reports),
            Stimulus::PauseWithParent => reference.pause_with_parent(at),
            Stimulus::FreezeWithParent => reference.freeze_with_parent(at),
            Stimulus::Control { .. } => panic!("an execution hears of controls when it wakes"),
            Stimulus::Learn => reference.learn(at),
            Stimulus::ResumeWithParent => reference.resume_with_parent(at),
            Stimulus::Reopen { nodes, remedy } => reference.reopened(at, nodes, remedy),
            Stimulus::Reported(outcome) => reference.reported(at, outcome.clone()),
        }
    }

    fn ix(&self, node: &str) -> NodeIx {
        self.plan.node_ix(node).expect("a node of the plan")
    }
}

fn values(variables: &[(String, JsonValue)]) -> Vec<(String, Value)> {
    let one = |(name, value): &(String, JsonValue)| (name.clone(), Value::from(value.clone()));
    variables.iter().map(one).collect()
}

fn error_info(failure: &Failure) -> ErrorInfo {
    let mut error = ErrorInfo::new(failure.code.as_str(), failure.message.as_str());
    error.details = failure.details.as_ref().map(Json::of);
    error
}

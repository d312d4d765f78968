//! The real core and the reference, given the same stimuli and compared after each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as JsonValue, json};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::execution::{
    AttemptClosed, AttemptFailure, AttemptOutcome, EdgeState, Effect, Entry, Event, ExecutionState, Phase, Started,
    Status, StepError, Verb, next_deadline, step,
};
use troupe_core::plan::Plan;
use troupe_core::{ErrorInfo, ExecutionId, Json, NodeIx, ShardId, Timestamp, Token, Value};

use super::evaluator::{Mini, parsed};
use crate::reference::{self, Did, Failure, Reference, Refusal};

/// When every execution of the tests starts.
pub const EPOCH: i64 = 1_790_000_000_000;

/// Something that happens to an execution.
#[derive(Clone, Debug, PartialEq)]
pub enum Stimulus {
    Start {
        trigger: Option<String>,
        input: JsonValue,
        variables: Vec<(String, JsonValue)>,
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
}

/// What differs, and where.
pub type Disagreement = String;

pub struct Duo {
    pub plan: Plan,
    pub state: ExecutionState,
    pub reference: Reference,
    pub now: i64,
    /// Every entry so far and the effects it had.
    pub log: Vec<(Entry, Vec<Effect>)>,
    /// The current attempt of each node that runs.
    pub outstanding: BTreeMap<String, Token>,
    /// Tokens whose attempts are over.
    pub spent: Vec<Token>,
    /// Inputs that started attempts were given, by node and attempt.
    pub given: BTreeMap<(String, u32), JsonValue>,
    /// Tries every step with an evaluator that runs out of answers, before it is applied.
    pub starves: bool,
    ended: BTreeSet<NodeIx>,
}

impl Duo {
    pub fn new(definition: &JsonValue) -> Self {
        let definition: WorkflowDefinition = serde_json::from_value(definition.clone()).expect("a definition");
        let plan = Plan::build(&definition).expect("a valid definition");
        let id = ExecutionId::fresh(ShardId(3), Timestamp(EPOCH), 42);
        Self {
            state: ExecutionState::new(&plan, id),
            plan,
            reference: Reference::new(&definition),
            now: EPOCH,
            log: Vec::new(),
            outstanding: BTreeMap::new(),
            spent: Vec::new(),
            given: BTreeMap::new(),
            starves: false,
            ended: BTreeSet::new(),
        }
    }

    /// Applies a stimulus to both sides; what the core did, or how they disagree.
    pub fn apply(&mut self, stimulus: &Stimulus) -> Result<Result<Vec<Did>, StepError>, Disagreement> {
        let event = self.event(stimulus);
        let before = self.state.clone();
        if self.starves {
            self.starve(&event)?;
        }
        let stepped = step(
            &self.plan,
            &mut self.state,
            Timestamp(self.now),
            &event,
            &mut Mini::patient(),
        );
        let expected = self.stimulate_reference(stimulus);
        match (stepped, expected) {
            (Ok(stepped), Ok(expected)) => {
                let entry = Entry {
                    seq: self.state.seq,
                    at: Timestamp(self.now),
                    event,
                    answers: stepped.answers,
                    transitions: stepped.transitions,
                    principal: None,
                    command: None,
                };
                self.lawful(&before, &entry, &stepped.effects)?;
                let done = self.did(&stepped.effects);
                self.log.push((entry, stepped.effects));
                self.settle_backoffs()?;
                // As text: the order of an object's keys counts.
                let expected: Vec<Did> = expected.iter().map(normal_did).collect();
                same("effects", &format!("{done:?}"), &format!("{expected:?}"))?;
                self.compare()?;
                Ok(Ok(done))
            }
            (Err(error), Err(refusal)) => {
                if self.state != before {
                    return Err(format!("a refused step ({error}) changed the state"));
                }
                let fits = matches!(
                    (&error, refusal),
                    (StepError::Ended, Some(Refusal::Ended))
                        | (StepError::Unchanged, Some(Refusal::Unchanged))
                        | (StepError::NotDue, Some(Refusal::NotDue))
                        | (StepError::Refused(_), Some(Refusal::Refused))
                        | (StepError::Stale, None)
                );
                if fits {
                    Ok(Err(error))
                } else {
                    Err(format!("the core refused with {error:?}, not {refusal:?}"))
                }
            }
            (Ok(stepped), Err(refusal)) => Err(format!("the core accepted ({stepped:?}), the reference: {refusal:?}")),
            (Err(error), Ok(expected)) => Err(format!("the core refused ({error:?}), the reference: {expected:?}")),
        }
    }

    fn event(&self, stimulus: &Stimulus) -> Event {
        match stimulus {
            Stimulus::Start {
                trigger,
                input,
                variables,
            } => Event::Started(Box::new(Started {
                id: self.state.id,
                workflow: self.plan.workflow.clone(),
                version: self.plan.version,
                input: Value::from(input.clone()),
                variables: variables
                    .iter()
                    .map(|(name, value)| (name.clone(), Value::from(value.clone())))
                    .collect(),
                metadata: None,
                trigger: trigger.clone(),
                execution_key: None,
                request_key: None,
                priority: None,
                key_ordinal: None,
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
        }
    }

    fn closed(&self, token: Token, outcome: &Result<JsonValue, Failure>) -> Event {
        let outcome = match outcome {
            Ok(output) => AttemptOutcome::Completed(Value::from(output.clone())),
            Err(failure) => {
                let mut error = ErrorInfo::new(failure.code.as_str(), failure.message.as_str());
                error.details = failure.details.as_ref().map(Json::of);
                AttemptOutcome::Failed(Box::new(AttemptFailure {
                    error,
                    retryable: failure.retryable,
                    retry_after_ms: failure.retry_after_ms.and_then(|ms| u64::try_from(ms).ok()),
                }))
            }
        };
        Event::AttemptClosed(Box::new(AttemptClosed {
            token,
            started_at: Timestamp(self.now),
            outcome,
            logs: None,
        }))
    }

    /// The reference's answer; a refusal of none is a stale report, which the reference never hears of.
    fn stimulate_reference(&mut self, stimulus: &Stimulus) -> Result<Vec<Did>, Option<Refusal>> {
        let (reference, at) = (&mut self.reference, self.now);
        match stimulus {
            Stimulus::Start {
                trigger,
                input,
                variables,
            } => reference.start(at, trigger.as_deref(), input.clone(), variables),
            Stimulus::Report { node, outcome } => reference.report(at, node, outcome.clone()),
            Stimulus::Stale { .. } if reference.is_over() => Err(Refusal::Ended),
            Stimulus::Stale { .. } => return Err(None),
            Stimulus::Deadline => reference.deadline(at),
            Stimulus::Pause => reference.pause(at),
            Stimulus::Resume => reference.resume(at),
            Stimulus::Cancel { grace_ms, at_once } => reference.cancel(at, *grace_ms as i64, *at_once),
            Stimulus::Interrupt => reference.interrupted(at, true),
            Stimulus::Drain => reference.interrupted(at, false),
        }
        .map_err(Some)
    }

    /// With too few answers a step is pending and changes nothing, however far it got.
    fn starve(&mut self, event: &Event) -> Result<(), Disagreement> {
        let before = self.state.clone();
        for patience in 0..64 {
            let outcome = step(
                &self.plan,
                &mut self.state,
                Timestamp(self.now),
                event,
                &mut Mini { patience },
            );
            if outcome != Err(StepError::Pending) {
                self.state = before;
                return Ok(());
            }
            if self.state != before {
                return Err(format!(
                    "a step that is pending after {patience} answers changed the state"
                ));
            }
        }
        Ok(())
    }

    /// What holds of every step, whatever the reference says.
    fn lawful(&mut self, before: &ExecutionState, entry: &Entry, effects: &[Effect]) -> Result<(), Disagreement> {
        if entry.seq != before.seq.next() {
            return Err(format!("seq went from {} to {}", before.seq, entry.seq));
        }
        for transition in &entry.transitions {
            let ends = matches!(
                transition.verb(),
                Some(Verb::NodeCompleted | Verb::NodeFailed | Verb::NodeSkipped | Verb::NodeCanceled)
            );
            if let (true, Some(node)) = (ends, transition.node_ix())
                && !self.ended.insert(node)
            {
                return Err(format!("node {node} ended twice"));
            }
        }
        for (place, (old, new)) in before.edges.iter().zip(&self.state.edges).enumerate() {
            if *old != EdgeState::Open && old != new {
                return Err(format!("edge {place} was resolved twice"));
            }
        }
        for effect in effects {
            match effect {
                Effect::StartAttempt(attempt) => {
                    if self.state.paused {
                        return Err("an attempt starts while paused".into());
                    }
                    let known = self.spent.contains(&attempt.token)
                        || self.outstanding.values().any(|token| *token == attempt.token);
                    if known {
                        return Err(format!("token {:?} is given out twice", attempt.token));
                    }
                }
                Effect::AbortAttempt(_) => {}
                Effect::Finish if self.state.status.is_terminal() => {}
                Effect::Finish => return Err("an execution finishes that has not ended".into()),
            }
        }
        let most = self
            .plan
            .settings
            .parallel_nodes_max
            .map_or(usize::MAX, |most| most as usize);
        if self.state.running.len() > most {
            return Err(format!("{} attempts run at once", self.state.running.len()));
        }
        troupe_core::execution::invariants::check(&self.plan, &self.state)
    }

    /// Carries the effects out: the tests only remember who runs.
    fn did(&mut self, effects: &[Effect]) -> Vec<Did> {
        let mut done = Vec::new();
        for effect in effects {
            match effect {
                Effect::StartAttempt(start) => {
                    let node = self.key(start.token.node);
                    if let Some(old) = self.outstanding.insert(node.clone(), start.token) {
                        self.spent.push(old);
                    }
                    let input = normal(&parsed(&start.input));
                    let data = normal(&start.data.as_ref().map(parsed).unwrap_or(JsonValue::Null));
                    let attempt = start.token.attempt.0;
                    self.given.insert((node.clone(), attempt), input.clone());
                    let data = self.only_templates(start.token.node, &data);
                    done.push(Did::Start {
                        node,
                        attempt,
                        input,
                        data,
                    });
                }
                Effect::AbortAttempt(token) => done.push(Did::Abort {
                    node: self.key(token.node),
                }),
                Effect::Finish => done.push(Did::Finish),
            }
        }
        let (state, plan) = (&self.state, &self.plan);
        let runs = |token: &Token| {
            matches!(&state.nodes[token.node.at()].phase,
                Phase::Running { token: current } | Phase::Canceling { token: current } if current == token)
        };
        let over: Vec<String> = self
            .outstanding
            .iter()
            .filter(|(_, token)| !runs(token))
            .map(|(node, _)| node.clone())
            .collect();
        debug_assert!(plan.nodes.len() == state.nodes.len());
        for node in over {
            self.spent.extend(self.outstanding.remove(&node));
        }
        done
    }

    /// The fields of a node's data that hold a template.
    fn only_templates(&self, node: NodeIx, data: &JsonValue) -> JsonValue {
        let written = &self.plan.node(node).data;
        let is_template = |name: &&String| written[*name].as_str().is_some_and(|text| text.starts_with("{{"));
        let fields = written
            .keys()
            .filter(is_template)
            .map(|name| (name.clone(), data[name].clone()));
        JsonValue::Object(fields.collect())
    }

    fn key(&self, node: NodeIx) -> String {
        self.plan.node(node).key.to_string()
    }

    /// The core draws the jitter; the reference says only within which bounds.
    fn settle_backoffs(&mut self) -> Result<(), Disagreement> {
        for (planned, node) in self.plan.nodes.iter().zip(&self.state.nodes) {
            if let Phase::Backoff { until, .. } = node.phase {
                let bounds = self.reference.nodes[planned.key.as_str()].phase;
                if !self.reference.settle_backoff(planned.key.as_str(), until.0) {
                    return Err(format!("{}: retry due at {until}, expected {bounds:?}", planned.key));
                }
            }
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), Disagreement> {
        let (state, reference) = (&self.state, &self.reference);
        for (planned, node) in self.plan.nodes.iter().zip(&state.nodes) {
            let key = planned.key.as_str();
            let expected = &reference.nodes[key];
            same(
                &format!("phase of {key}"),
                &phase(&node.phase),
                &expected_phase(expected.phase),
            )?;
            let output = node.output.as_ref().map(|output| normal(&parsed(output)));
            same(
                &format!("output of {key}"),
                &output,
                &expected.output.as_ref().map(normal),
            )?;
            let code = node.failure.as_ref().map(|failure| failure.error.code.as_str());
            let expected_code = expected.error.as_ref().and_then(|error| error["code"].as_str());
            same(&format!("error of {key}"), &code, &expected_code)?;
            same(
                &format!("interruptions of {key}"),
                &node.interruptions,
                &expected.interruptions,
            )?;
            let counted = node.attempts.iter().filter(|attempt| !attempt.was_interrupted());
            let failed = counted.filter_map(|attempt| attempt.error.as_ref());
            let failed: Vec<&String> = failed.map(|error| &error.code).collect();
            same(
                &format!("failed attempts of {key}"),
                &failed,
                &expected.failed.iter().collect(),
            )?;
        }
        for (place, edge) in state.edges.iter().enumerate() {
            let resolved = match edge {
                EdgeState::Open => None,
                EdgeState::Taken => Some(true),
                EdgeState::Dead => Some(false),
            };
            same(
                &format!("edge {}", self.plan.edges[place].id),
                &resolved,
                &reference.edges[place],
            )?;
        }
        let variables: BTreeMap<String, JsonValue> = state
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), normal(&parsed(value))))
            .collect();
        let expected = reference
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), normal(value)))
            .collect();
        same("variables", &variables, &expected)?;
        same("paused", &state.paused, &reference.paused)?;
        let failure = state
            .failure
            .as_ref()
            .map(|failure| (failure.node.map(|ix| self.key(ix)), failure.error.code.clone()));
        let expected = reference
            .failure
            .as_ref()
            .map(|(node, error)| (node.clone(), error["code"].as_str().unwrap_or_default().to_owned()));
        same("failure", &failure, &expected)?;
        let due = next_deadline(state).map(|due| due.0);
        same("next deadline", &due, &reference.next_deadline())?;
        same("status", &status(&state.status), &expected_status(&reference.status))
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, core: &T, expected: &T) -> Result<(), Disagreement> {
    if core == expected {
        Ok(())
    } else {
        Err(format!("{what}: the core has {core:?}, the reference {expected:?}"))
    }
}

fn phase(phase: &Phase) -> (&'static str, Option<i64>) {
    match phase {
        Phase::Pending => ("pending", None),
        Phase::Ready => ("ready", None),
        Phase::Running { .. } => ("running", None),
        Phase::Backoff { until, .. } => ("backoff", Some(until.0)),
        Phase::Delaying { until } => ("delaying", Some(until.0)),
        Phase::Canceling { .. } => ("canceling", None),
        Phase::Completed => ("completed", None),
        Phase::Failed => ("failed", None),
        Phase::Skipped => ("skipped", None),
        Phase::Canceled => ("canceled", None),
    }
}

fn expected_phase(phase: reference::Phase) -> (&'static str, Option<i64>) {
    match phase {
        reference::Phase::Pending => ("pending", None),
        reference::Phase::Ready => ("ready", None),
        reference::Phase::Running => ("running", None),
        reference::Phase::Backoff { earliest, .. } => ("backoff", Some(earliest)),
        reference::Phase::Delaying { until } => ("delaying", Some(until)),
        reference::Phase::Canceling => ("canceling", None),
        reference::Phase::Completed => ("completed", None),
        reference::Phase::Failed => ("failed", None),
        reference::Phase::Skipped => ("skipped", None),
        reference::Phase::Canceled => ("canceled", None),
    }
}

fn status(status: &Status) -> (&'static str, Option<String>) {
    match status {
        Status::Pending => ("pending", None),
        Status::Running => ("running", None),
        Status::Failing => ("failing", None),
        Status::Canceling { until, .. } => ("canceling", Some(until.to_string())),
        Status::Completed { output } => ("completed", Some(normal(&parsed(output)).to_string())),
        Status::Failed => ("failed", None),
        Status::Canceled { .. } => ("canceled", None),
    }
}

fn expected_status(status: &reference::Status) -> (&'static str, Option<String>) {
    match status {
        reference::Status::Pending => ("pending", None),
        reference::Status::Running => ("running", None),
        reference::Status::Failing => ("failing", None),
        reference::Status::Canceling { until } => ("canceling", Some(until.to_string())),
        reference::Status::Completed(output) => ("completed", Some(normal(output).to_string())),
        reference::Status::Failed => ("failed", None),
        reference::Status::Canceled => ("canceled", None),
    }
}

/// A value without the words that errors carry for people.
pub fn normal(value: &JsonValue) -> JsonValue {
    match value {
        JsonValue::Array(items) => items.iter().map(normal).collect(),
        JsonValue::Object(fields) => {
            let is_error = fields.contains_key("code") && fields.contains_key("message");
            let one = |(name, value): (&String, &JsonValue)| {
                let words = is_error && name == "message";
                (name.clone(), if words { JsonValue::from("") } else { normal(value) })
            };
            JsonValue::Object(fields.iter().map(one).collect())
        }
        other => other.clone(),
    }
}

fn normal_did(did: &Did) -> Did {
    match did {
        Did::Start {
            node,
            attempt,
            input,
            data,
        } => Did::Start {
            node: node.clone(),
            attempt: *attempt,
            input: normal(input),
            data: normal(data),
        },
        other => other.clone(),
    }
}

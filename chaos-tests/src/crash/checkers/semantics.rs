//! C6: what an execution did with what happened to it is what the reference interpreter does with it.
//!
//! The log tells what came from outside: which attempt reported what, which deadline passed, who paused and canceled. All
//! that follows from it (which joins fire and with which inputs, which nodes end how, what the execution gives) the
//! reference works out by itself, from the definition.

use std::collections::BTreeMap;

use serde_json::{Value as JsonValue, json};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::execution::{AttemptOutcome, EdgeState, Entry, Event, ExecutionState, Phase, Status, Verb, replay};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, Value};

use super::{Evidence, Findings};
use crate::crash::record::Record;
use crate::reference::{self, Did, Failure, Reference, Refusal};

/// Inputs of attempts, by node and number of the attempt, as the reference gives them.
type Inputs = BTreeMap<(String, u32), JsonValue>;

/// Every execution against the reference, and the inputs that attempts were seen with.
pub(super) fn follows_the_reference(evidence: &Evidence, findings: &mut Findings) {
    let mut inputs: BTreeMap<ExecutionId, Inputs> = BTreeMap::new();
    for (id, (state, plan, entries)) in &evidence.executions {
        let Some(definition) = evidence.definitions.get(state.workflow.as_str()) else {
            findings.expect(false, "C6", || {
                format!("{id}: nobody knows workflow {}", state.workflow)
            });
            continue;
        };
        match agree(definition, state, plan, entries) {
            Ok(given) => drop(inputs.insert(*id, given)),
            Err(why) => findings.expect(false, "C6", || format!("{id}: {why}")),
        }
    }
    for record in &evidence.records {
        let Record::Effect { id, node, token, input } = record else {
            continue;
        };
        // Where the reference already disagreed, and where an effect has no execution, was said before.
        let Some(given) = inputs.get(id) else { continue };
        let expected = given.get(&(node.clone(), token[2]));
        let seen = serde_json::from_str(input).ok();
        findings.expect(expected.map(normal) == seen.as_ref().map(normal), "C6", || {
            format!(
                "{id}: attempt {} of {node} ran with {input}, the reference gives it {expected:?}",
                token[2]
            )
        });
    }
}

/// Plays a history to the reference and compares after each entry; the inputs of the attempts it starts.
fn agree(
    definition: &WorkflowDefinition,
    state: &ExecutionState,
    plan: &Plan,
    entries: &[Entry],
) -> Result<Inputs, String> {
    let mut reference = Reference::new(definition);
    let mut folded = ExecutionState::new(plan, state.id);
    let mut inputs = Inputs::new();
    for entry in entries {
        let what = |why: String| format!("entry {} ({}): {why}", entry.seq, name(&entry.event));
        let before: Vec<reference::Phase> = phases(&reference);
        let done = stimulate(&mut reference, plan, entry).map_err(what)?;
        if replay(plan, &mut folded, entry).is_err() {
            // That is C2's affair, and nothing can be compared from here on.
            return Ok(inputs);
        }
        settle_backoffs(&mut reference, plan, &folded).map_err(what)?;
        let mut started = Vec::new();
        for did in done {
            if let Did::Start {
                node, attempt, input, ..
            } = did
            {
                started.push(node.clone());
                inputs.insert((node, attempt), input);
            }
        }
        same("attempts dispatched", &dispatched(plan, entry), &sorted(started)).map_err(what)?;
        same("nodes ended", &ended(plan, entry), &newly_ended(&reference, &before)).map_err(what)?;
    }
    compare(&reference, plan, state)?;
    Ok(inputs)
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Started(_) => "start",
        Event::AttemptClosed(_) => "report",
        Event::DeadlineReached => "deadline",
        Event::Paused => "pause",
        Event::Resumed => "resume",
        Event::CancelRequested { .. } => "cancel",
        Event::Interrupted => "interruption",
        Event::Drained => "planned stop",
    }
}

/// Tells the reference what an entry says came from outside.
fn stimulate(reference: &mut Reference, plan: &Plan, entry: &Entry) -> Result<Vec<Did>, String> {
    let at = entry.at.0;
    let answer: Result<Vec<Did>, Refusal> = match &entry.event {
        Event::Started(started) => {
            let variables: Vec<(String, JsonValue)> = started
                .variables
                .iter()
                .map(|(name, value)| (name.clone(), parsed(value)))
                .collect();
            reference.start(at, started.trigger.as_deref(), parsed(&started.input), &variables)
        }
        Event::AttemptClosed(closed) => {
            let node = plan.node(closed.token.node).key.as_str();
            let phase = reference.nodes[node].phase;
            if !matches!(phase, reference::Phase::Running | reference::Phase::Canceling) {
                return Err(format!("a report of {node}, which is {phase:?}"));
            }
            let outcome = match &closed.outcome {
                AttemptOutcome::Completed(output) => Ok(parsed(output)),
                AttemptOutcome::Failed(failure) => Err(Failure {
                    code: failure.error.code.to_string(),
                    message: failure.error.message.to_string(),
                    details: failure
                        .error
                        .details
                        .as_ref()
                        .and_then(|details| details.to_value().ok()),
                    retryable: failure.retryable,
                    retry_after_ms: failure.retry_after_ms.and_then(|ms| i64::try_from(ms).ok()),
                }),
            };
            reference.report(at, node, outcome)
        }
        Event::DeadlineReached => reference.deadline(at),
        Event::Paused => reference.pause(at),
        Event::Resumed => reference.resume(at),
        Event::CancelRequested { grace_ms, at_once, .. } => {
            reference.cancel(at, i64::try_from(*grace_ms).unwrap_or(i64::MAX), *at_once)
        }
        Event::Interrupted => reference.interrupted(at, true),
        Event::Drained => reference.interrupted(at, false),
    };
    answer.map_err(|refusal| format!("the reference refuses it: {refusal:?}"))
}

/// The core draws the jitter; the reference says only within which bounds.
fn settle_backoffs(reference: &mut Reference, plan: &Plan, folded: &ExecutionState) -> Result<(), String> {
    for (planned, node) in plan.nodes.iter().zip(&folded.nodes) {
        if let Phase::Backoff { until, .. } = node.phase {
            let bounds = reference.nodes[planned.key.as_str()].phase;
            if !reference.settle_backoff(planned.key.as_str(), until.0) {
                return Err(format!("{}: retry due at {until}, expected {bounds:?}", planned.key));
            }
        }
    }
    Ok(())
}

/// Nodes that the entry says were dispatched.
fn dispatched(plan: &Plan, entry: &Entry) -> Vec<String> {
    let nodes = entry
        .transitions
        .iter()
        .filter_map(|transition| match transition.verb() {
            Some(Verb::NodeScheduled) => transition.node_ix(),
            _ => None,
        });
    sorted(nodes.map(|ix| plan.node(ix).key.to_string()).collect())
}

/// Nodes that the entry says ended, and how.
fn ended(plan: &Plan, entry: &Entry) -> Vec<(String, &'static str)> {
    let ends = entry.transitions.iter().filter_map(|transition| {
        let how = match transition.verb()? {
            Verb::NodeCompleted => "completed",
            Verb::NodeFailed => "failed",
            Verb::NodeSkipped => "skipped",
            Verb::NodeCanceled => "canceled",
            _ => return None,
        };
        Some((plan.node(transition.node_ix()?).key.to_string(), how))
    });
    sorted(ends.collect())
}

fn phases(reference: &Reference) -> Vec<reference::Phase> {
    reference.nodes.values().map(|node| node.phase).collect()
}

fn newly_ended(reference: &Reference, before: &[reference::Phase]) -> Vec<(String, &'static str)> {
    let nodes = reference.nodes.iter().zip(before);
    let ended = nodes.filter(|((_, node), before)| node.phase.is_terminal() && !before.is_terminal());
    sorted(ended.map(|((id, node), _)| (id.clone(), phase(node.phase))).collect())
}

fn phase(phase: reference::Phase) -> &'static str {
    match phase {
        reference::Phase::Pending => "pending",
        reference::Phase::Ready => "ready",
        reference::Phase::Running => "running",
        reference::Phase::Backoff { .. } => "backoff",
        reference::Phase::Delaying { .. } => "delaying",
        reference::Phase::Canceling => "canceling",
        reference::Phase::Completed => "completed",
        reference::Phase::Failed => "failed",
        reference::Phase::Skipped => "skipped",
        reference::Phase::Canceled => "canceled",
    }
}

/// The end: how every node and the execution ended, and with what.
fn compare(reference: &Reference, plan: &Plan, state: &ExecutionState) -> Result<(), String> {
    for (planned, node) in plan.nodes.iter().zip(&state.nodes) {
        let (key, expected) = (planned.key.as_str(), &reference.nodes[planned.key.as_str()]);
        same(&format!("phase of {key}"), &node.phase.name(), &phase(expected.phase))?;
        let output = node.output.as_ref().map(|output| normal(&parsed(output)));
        same(
            &format!("output of {key}"),
            &output,
            &expected.output.as_ref().map(normal),
        )?;
        let code = node.failure.as_ref().map(|failure| failure.error.code.as_str());
        let expected = expected.error.as_ref().and_then(|error| error["code"].as_str());
        same(&format!("error of {key}"), &code, &expected)?;
    }
    let canceled = matches!(state.status, Status::Canceling { .. } | Status::Canceled { .. });
    for (place, edge) in state.edges.iter().enumerate() {
        let resolved = match edge {
            // What ends at one stroke leaves edges open that are dead by the letter.
            EdgeState::Open if canceled => continue,
            EdgeState::Open => None,
            EdgeState::Taken => Some(true),
            EdgeState::Dead => Some(false),
        };
        same(
            &format!("edge {}", plan.edges[place].id),
            &resolved,
            &reference.edges[place],
        )?;
    }
    let output = match &state.status {
        Status::Completed { output } => normal(&parsed(output)),
        _ => JsonValue::Null,
    };
    let (status, expected_output) = match &reference.status {
        reference::Status::Completed(output) => ("completed", normal(output)),
        reference::Status::Failed => ("failed", JsonValue::Null),
        reference::Status::Canceled => ("canceled", JsonValue::Null),
        reference::Status::Canceling { .. } => ("canceling", JsonValue::Null),
        reference::Status::Failing => ("failing", JsonValue::Null),
        reference::Status::Running => ("running", JsonValue::Null),
        reference::Status::Pending => ("pending", JsonValue::Null),
    };
    same("status", &state.status.name(), &status)?;
    same("output", &output, &expected_output)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<(), String> {
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{what}: {seen:?}, by the reference {expected:?}"))
    }
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items
}

/// A value as JSON; none of the workload is large enough for a blob.
fn parsed(value: &Value) -> JsonValue {
    match value {
        Value::Inline(json) => json
            .to_value()
            .unwrap_or_else(|error| json!({"unreadable": error.to_string()})),
        Value::Blob(blob) => json!({"blob": format!("{blob:?}")}),
    }
}

/// A value without the words that errors carry for people.
fn normal(value: &JsonValue) -> JsonValue {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use troupe_core::execution::{AttemptClosed, Effect, Evaluator, Pending, Question, Scope, Started, step};
    use troupe_core::{Json, ShardId, Timestamp};

    use crate::crash::workload;

    /// The workload asks nothing but to prepare nodes that map and template nothing.
    struct Nothing;

    impl Evaluator for Nothing {
        fn evaluate(&mut self, question: Question, _: &Scope<'_>) -> Result<troupe_core::execution::Answer, Pending> {
            panic!("{question:?}")
        }
    }

    fn definition(id: &str) -> WorkflowDefinition {
        workload::definitions()
            .into_iter()
            .find(|known| known.id == id)
            .unwrap()
    }

    /// Runs a workflow in which every attempt succeeds at once, one after the other.
    fn run(id: &str) -> Evidence {
        let definition = definition(id);
        let plan = Arc::new(Plan::build(&definition).unwrap());
        let execution = ExecutionId::fresh(ShardId(0), Timestamp(1_000), 1);
        let mut state = ExecutionState::new(&plan, execution);
        let started = Started {
            id: execution,
            workflow: plan.workflow.clone(),
            version: plan.version,
            input: Json::from_trusted("{\"n\":1}").into(),
            variables: Vec::new(),
            metadata: None,
            trigger: None,
            execution_key: None,
            request_key: None,
            priority: None,
            key_ordinal: None,
        };
        let mut evidence = Evidence::default();
        let (mut entries, mut outstanding) = (Vec::new(), std::collections::VecDeque::new());
        let mut event = Event::Started(Box::new(started));
        for at in 1_000.. {
            let at = Timestamp(at);
            let stepped = step(&plan, &mut state, at, &event, &mut Nothing).unwrap();
            entries.push(Entry {
                seq: state.seq,
                at,
                event,
                answers: stepped.answers,
                transitions: stepped.transitions,
                principal: None,
                command: None,
            });
            for effect in stepped.effects {
                if let Effect::StartAttempt(start) = effect {
                    let token = start.token;
                    evidence.records.push(Record::Effect {
                        id: execution,
                        node: plan.node(token.node).key.to_string(),
                        token: [token.run.0, token.visit.0, token.attempt.0, token.nonce],
                        input: parsed(&start.input).to_string(),
                    });
                    outstanding.push_back(token);
                }
            }
            let Some(token) = outstanding.pop_front() else { break };
            event = Event::AttemptClosed(Box::new(AttemptClosed {
                token,
                started_at: at,
                outcome: AttemptOutcome::Completed(Json::from_trusted(format!("\"{at}\"")).into()),
                logs: None,
            }));
        }
        assert!(state.status.is_terminal(), "{:?}", state.status);
        evidence.definitions.insert(id.to_owned(), definition);
        evidence.executions.insert(execution, (state, plan, entries));
        evidence
    }

    fn found(evidence: &Evidence) -> Vec<String> {
        let mut findings = Findings(Vec::new());
        follows_the_reference(evidence, &mut findings);
        findings.0.into_iter().map(|violation| violation.what).collect()
    }

    #[test]
    fn what_the_core_does_is_what_the_reference_does() {
        for workflow in ["fan", "quorum"] {
            assert_eq!(found(&run(workflow)), Vec::<String>::new(), "{workflow}");
        }
    }

    #[test]
    fn a_join_that_fires_at_another_moment_is_found() {
        let mut evidence = run("quorum");
        let quorum = evidence.definitions.get_mut("quorum").unwrap();
        let join = quorum.nodes.iter_mut().find(|node| node.id == "join").unwrap();
        join.data.insert("join".into(), json!({"mode": "quorum", "count": 3}));
        let found = found(&evidence);
        assert!(found[0].contains("attempts dispatched"), "{found:?}");
    }

    #[test]
    fn a_join_that_ran_with_other_inputs_is_found() {
        let mut evidence = run("fan");
        for record in &mut evidence.records {
            if let Record::Effect { node, input, .. } = record
                && node == "join"
            {
                *input = input.replace("f4", "f9");
            }
        }
        let found = found(&evidence);
        assert!(found.len() == 1 && found[0].contains("of join ran with"), "{found:?}");
    }

    #[test]
    fn a_report_that_is_applied_twice_is_found() {
        let mut evidence = run("fan");
        let (_, _, entries) = evidence.executions.values_mut().next().unwrap();
        let again = entries[1].clone();
        entries.insert(2, again);
        let found = found(&evidence);
        assert!(found[0].contains("which is Completed"), "{found:?}");
    }
}

//! C6: what an execution did with what happened to it is what the reference interpreter does with it.
//!
//! The log tells what came from outside: which attempt reported what, which deadline passed, who paused and canceled. All
//! that follows from it (which joins fire and with which inputs, which nodes end how, what the execution gives) the
//! reference works out by itself, from the definition.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value as JsonValue;
use troupe_core::definition::WorkflowDefinition;
use troupe_core::execution::{ChildId, EdgeState, Effect, Entry, Event, ExecutionState, Phase, Status, Verb, replay};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, NodeIx, Timestamp, Visit};

use super::contents::Contents;
use super::controls::Teller;
use super::family::{self, Birth, Family};
use super::stimuli::{stimulate, tell_reused};
use super::{Evidence, Findings, is_in_time};
use crate::crash::record::Record;
use crate::reference::{self, Did, Reference, UNDOES};

/// Inputs of attempts, by node, visit and number of the attempt, as the reference gives them.
type Inputs = BTreeMap<(String, u32, u32), JsonValue>;

/// Between a workflow's id and the node whose body is meant.
const BODY_OF: char = '#';

/// What the reference makes of one history.
#[derive(Default)]
struct Course {
    inputs: Inputs,
    family: Family,
    /// Deadlines that passed: when the first of them was due, and when the execution took note.
    deadlines: Vec<(Timestamp, Timestamp)>,
}

/// Every execution against the reference, the inputs that attempts were seen with, and parents against their children.
pub(super) fn follows_the_reference(evidence: &Evidence, findings: &mut Findings) {
    let mut inputs: BTreeMap<ExecutionId, Inputs> = BTreeMap::new();
    let mut families: BTreeMap<ExecutionId, Family> = BTreeMap::new();
    for (id, (state, plan, entries)) in &evidence.executions {
        let Some(definition) = definition_of(&evidence.definitions, state.workflow.as_str()) else {
            findings.expect(false, "C6", || {
                format!("{id}: nobody knows workflow {}", state.workflow)
            });
            continue;
        };
        match agree(&definition, state, plan, entries, evidence) {
            Ok(course) => {
                for (due, at) in course.deadlines {
                    is_in_time(*id, due, at, evidence, findings);
                }
                inputs.insert(*id, course.inputs);
                families.insert(*id, course.family);
            }
            Err(why) => findings.expect(false, "C6", || format!("{id}: {why}")),
        }
    }
    family::agree(evidence, &families, findings);
    for record in &evidence.records {
        let Record::Effect { id, node, token, input } = record else {
            continue;
        };
        // Where the reference already disagreed, and where an effect has no execution, was said before.
        let Some(given) = inputs.get(id) else { continue };
        let expected = given.get(&(node.clone(), token[1], token[2]));
        let seen = serde_json::from_str(input).ok();
        findings.expect(expected.map(normal) == seen.as_ref().map(normal), "C6", || {
            format!(
                "{id}: attempt {} of {node} ran with {input}, the reference gives it {expected:?}",
                token[2]
            )
        });
    }
}

/// A workflow, or the body of a node of one.
fn definition_of<'a>(
    known: &'a BTreeMap<String, WorkflowDefinition>,
    workflow: &str,
) -> Option<Cow<'a, WorkflowDefinition>> {
    let Some((around, node)) = workflow.rsplit_once(BODY_OF) else {
        return known.get(workflow).map(Cow::Borrowed);
    };
    let mut body = definition_of(known, around)?.body_of(node)?;
    workflow.clone_into(&mut body.id);
    Some(Cow::Owned(body))
}

/// Plays a history to the reference and compares after each entry.
fn agree(
    definition: &WorkflowDefinition,
    state: &ExecutionState,
    plan: &Plan,
    entries: &[Entry],
    evidence: &Evidence,
) -> Result<Course, String> {
    let contents = &evidence.contents;
    let mut teller = Teller::new(&evidence.controls, state.id);
    let mut reference = Reference::new(definition);
    reference.id = state.id.to_string();
    reference.depth = state.parent.map_or(0, |parent| parent.depth);
    reference.attached = state.parent.is_none_or(|parent| parent.attached);
    reference.parent = state.parent.map(|parent| parent.execution.to_string());
    reference.execution_key = state.execution_key.clone();
    reference.handles_failure = state.handles_failure_of.is_some();
    let mut folded = ExecutionState::new(plan, state.id);
    let mut course = Course::default();
    for entry in entries {
        let what = |why: String| format!("entry {} ({}): {why}", entry.seq, name(&entry.event));
        if let Event::Children(reports) = &entry.event {
            course.family.hear(&folded, reports);
        }
        teller.tell(entry, plan, &mut reference);
        let due = reference
            .next_deadline()
            .filter(|_| entry.event == Event::DeadlineReached);
        course.deadlines.extend(due.map(|due| (Timestamp(due), entry.at)));
        tell_reused(&mut reference, plan, entry, contents);
        let done = stimulate(&mut reference, plan, entry, contents).map_err(what)?;
        let Ok(effects) = replay(plan, &mut folded, entry) else {
            // That is C2's affair, and nothing can be compared from here on.
            return Ok(course);
        };
        settle_backoffs(&mut reference, plan, &folded, entry.at).map_err(what)?;
        let (mut started, mut given, mut begun, mut told) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for did in done {
            match did {
                Did::Start {
                    node,
                    visit,
                    attempt,
                    input,
                    data,
                } => {
                    started.push(node.clone());
                    given.push((node.clone(), visit, attempt, shown(&input), shown(&data)));
                    course.inputs.insert((node, visit, attempt), input);
                }
                Did::Begin {
                    node,
                    visit,
                    index,
                    input,
                    attached,
                } => {
                    let child = child_of(&folded, plan, &node, visit, index)?;
                    begun.push(child);
                    course.family.begun.insert(child, Birth { input, attached });
                }
                Did::Report { workflow, input } => told.push((workflow, shown(&input))),
                Did::Abort { .. } | Did::Tell { .. } | Did::Finish => {}
            }
        }
        let starts = effects.iter().filter_map(|effect| match effect {
            Effect::StartChild(start) => Some(start.child),
            _ => None,
        });
        same("children begun", &sorted(starts.collect()), &sorted(begun)).map_err(what)?;
        same("error workflow", &reported_by(&effects, contents), &told).map_err(what)?;
        let awaited = awaited(&folded, &reference, plan).map_err(what)?;
        same("children awaited", &sorted(folded.open_children()), &awaited).map_err(what)?;
        same("attempts dispatched", &dispatched(plan, entry), &sorted(started)).map_err(what)?;
        same(
            "what attempts are given",
            &given_by(&effects, plan, contents),
            &sorted(given),
        )
        .map_err(what)?;
        same("nodes ended", &ended(plan, entry), &ended_by(&mut reference)).map_err(what)?;
    }
    compare(&reference, plan, state, contents)?;
    Ok(course)
}

/// A child as the core names it.
fn child_of(folded: &ExecutionState, plan: &Plan, node: &str, visit: u32, index: usize) -> Result<ChildId, String> {
    Ok(ChildId {
        run: folded.run,
        node: plan
            .node_ix(node)
            .ok_or_else(|| format!("the plan has no node {node}"))?,
        visit: Visit(visit),
        index: u32::try_from(index).map_err(|error| error.to_string())?,
    })
}

/// The children that were begun and of which the end is not known, by the reference.
fn awaited(folded: &ExecutionState, reference: &Reference, plan: &Plan) -> Result<Vec<ChildId>, String> {
    let mut awaited = Vec::new();
    for (id, node) in &reference.nodes {
        for index in node.children.iter().flat_map(|children| children.open()) {
            awaited.push(child_of(folded, plan, id, node.visit, index)?);
        }
    }
    Ok(sorted(awaited))
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
        Event::Signaled { .. } => "call",
        Event::Heartbeat(_) => "heartbeat",
        Event::Decided { .. } => "decision",
        Event::VariablesSet(_) if event.is_nothing() => "command without effect",
        Event::VariablesSet(_) => "variables",
        Event::Children(_) => "children",
        Event::PausedWithParent => "pause of the parent",
        Event::ResumedWithParent => "resume of the parent",
        Event::Reopened(_) => "retry",
        Event::Queued(_) => "start that waits",
        Event::Admitted => "admission",
        Event::Frozen => "freeze",
        Event::FrozenWithParent => "freeze of the parent",
        Event::ControlsChanged(_) => "change of controls",
        Event::ErrorWorkflow(_) => "error workflow",
    }
}

/// How a node is called; what undoes one has a name of its own.
pub(crate) fn key_of(plan: &Plan, ix: NodeIx) -> String {
    let key = &plan.node(ix).key;
    if plan.is_compensation(ix) {
        format!("{key}{UNDOES}")
    } else {
        key.to_string()
    }
}

/// The core draws the jitter; the reference says only within which bounds.
fn settle_backoffs(
    reference: &mut Reference,
    plan: &Plan,
    folded: &ExecutionState,
    at: Timestamp,
) -> Result<(), String> {
    for (planned, node) in plan.nodes.iter().zip(&folded.nodes) {
        if let Phase::Backoff { until, .. } = node.phase {
            let bounds = reference.nodes[planned.key.as_str()].phase;
            // What a clock has stood so far is added when it goes on.
            let until = until.plus_ms(stood_ms(folded, plan.node_ix(planned.key.as_str()), at));
            if !reference.settle_backoff(planned.key.as_str(), until.0) {
                return Err(format!("{}: retry due at {until}, expected {bounds:?}", planned.key));
            }
        }
    }
    let undoing = folded.compensations.as_deref();
    let undoing = undoing.and_then(|all| all.visits.get(all.left as usize)?.compensation.as_deref());
    if let Some(Phase::Backoff { until, .. }) = undoing.map(|undoing| &undoing.phase)
        && !reference.settle_undoing_backoff(until.plus_ms(stood_ms(folded, None, at)).0)
    {
        return Err(format!("the next attempt to undo is due at {until}"));
    }
    Ok(())
}

/// For how long the clock of a node, or of the execution, has stood at a time.
fn stood_ms(folded: &ExecutionState, node: Option<NodeIx>, at: Timestamp) -> u64 {
    let Some(holds) = folded.holds.as_deref() else { return 0 };
    let apart = node.and_then(|ix| holds.clocks.get(&ix).copied());
    let stopped = apart.or(holds.clock);
    stopped.map_or(0, |stopped| at.since_ms(stopped.since))
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
    sorted(nodes.map(|ix| key_of(plan, ix)).collect())
}

/// Node, visit and number of an attempt, its input, and what the templates in its node's data gave.
type Given = (String, u32, u32, String, String);

/// What the attempts that an entry starts are given.
fn given_by(effects: &[Effect], plan: &Plan, contents: &Contents) -> Vec<Given> {
    let starts = effects.iter().filter_map(|effect| match effect {
        Effect::StartAttempt(start) => Some(start),
        _ => None,
    });
    let given = starts.map(|start| {
        let planned = plan.node(start.token.node);
        let data = start
            .data
            .as_ref()
            .map_or(JsonValue::Null, |data| contents.parsed(data));
        let is_template = |text: &JsonValue| text.as_str().is_some_and(|text| text.starts_with("{{"));
        let read = planned.data.iter().filter(|(_, text)| is_template(text));
        let data = read.map(|(name, _)| (name.clone(), data[name].clone())).collect();
        let (input, data) = (shown(&contents.parsed(&start.input)), shown(&JsonValue::Object(data)));
        (
            key_of(plan, start.token.node),
            start.token.visit.0,
            start.token.attempt.0,
            input,
            data,
        )
    });
    sorted(given.collect())
}

/// Error workflows that an entry starts, and what they are given.
fn reported_by(effects: &[Effect], contents: &Contents) -> Vec<(String, String)> {
    let reports = effects.iter().filter_map(|effect| match effect {
        Effect::StartErrorWorkflow(start) => {
            let input = shown(&contents.parsed(&start.input));
            Some((start.workflow.as_str().to_owned(), input))
        }
        _ => None,
    });
    reports.collect()
}

/// A value as text, whatever the order of an object's fields.
fn shown(value: &JsonValue) -> String {
    let mut value = normal(value);
    value.sort_all_objects();
    value.to_string()
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
        let node = transition.node_ix().filter(|ix| !plan.is_compensation(*ix))?;
        Some((plan.node(node).key.to_string(), how))
    });
    sorted(ends.collect())
}

/// Nodes that the reference has let end since it was asked last; a loop may have ended one more than once.
fn ended_by(reference: &mut Reference) -> Vec<(String, &'static str)> {
    let ends = std::mem::take(&mut reference.ends).into_iter();
    sorted(ends.map(|(id, how)| (id, phase(how))).collect())
}

fn phase(phase: reference::Phase) -> &'static str {
    match phase {
        reference::Phase::Pending => "pending",
        reference::Phase::Ready => "ready",
        reference::Phase::Running => "running",
        reference::Phase::Backoff { .. } => "backoff",
        reference::Phase::Delaying { .. } => "delaying",
        reference::Phase::Waiting { .. } => "waiting",
        reference::Phase::Parenting => "parenting",
        reference::Phase::Canceling => "canceling",
        reference::Phase::Completed => "completed",
        reference::Phase::Failed => "failed",
        reference::Phase::Skipped => "skipped",
        reference::Phase::Canceled => "canceled",
    }
}

/// The end: how every node and the execution ended, and with what.
fn compare(reference: &Reference, plan: &Plan, state: &ExecutionState, contents: &Contents) -> Result<(), String> {
    for (planned, node) in plan.nodes.iter().zip(&state.nodes) {
        let (key, expected) = (planned.key.as_str(), &reference.nodes[planned.key.as_str()]);
        same(&format!("phase of {key}"), &node.phase.name(), &phase(expected.phase))?;
        let output = node.output.as_ref().map(|output| normal(&contents.parsed(output)));
        same(
            &format!("output of {key}"),
            &output,
            &expected.output.as_ref().map(normal),
        )?;
        let code = node.failure.as_ref().map(|failure| failure.error.code.as_str());
        let expected = expected.error.as_ref().and_then(|error| error["code"].as_str());
        same(&format!("error of {key}"), &code, &expected)?;
    }
    compare_undone(reference, plan, state, contents)?;
    let canceled = matches!(state.status, Status::Canceling { .. } | Status::Canceled { .. });
    for (place, edge) in state.edges.iter().enumerate() {
        let resolved = match edge {
            // What ends at one stroke leaves edges open that are dead by the letter.
            EdgeState::Open if canceled => continue,
            EdgeState::Open => reference::Edge::Open,
            EdgeState::Taken => reference::Edge::Resolved(true),
            EdgeState::Dead => reference::Edge::Resolved(false),
            EdgeState::HeldTaken => reference::Edge::Held(true),
            EdgeState::HeldDead => reference::Edge::Held(false),
        };
        same(
            &format!("edge {}", plan.edges[place].id),
            &resolved,
            &reference.edges[place],
        )?;
    }
    let output = match &state.status {
        Status::Completed { output } => normal(&contents.parsed(output)),
        _ => JsonValue::Null,
    };
    let (status, expected_output) = match &reference.status {
        reference::Status::Completed(output) => ("completed", normal(output)),
        reference::Status::Failed => ("failed", JsonValue::Null),
        reference::Status::Canceled => ("canceled", JsonValue::Null),
        reference::Status::Canceling { .. } => ("canceling", JsonValue::Null),
        reference::Status::Failing => ("failing", JsonValue::Null),
        reference::Status::Undoing(_) => ("compensating", JsonValue::Null),
        reference::Status::Reporting => ("reporting", JsonValue::Null),
        reference::Status::Running => ("running", JsonValue::Null),
        reference::Status::Pending => ("pending", JsonValue::Null),
    };
    same("status", &state.status.name(), &status)?;
    same("output", &output, &expected_output)
}

/// What was undone, in which order, and with what.
fn compare_undone(
    reference: &Reference,
    plan: &Plan,
    state: &ExecutionState,
    contents: &Contents,
) -> Result<(), String> {
    let visits = state.compensations.iter().flat_map(|all| &all.visits);
    let seen = visits.map(|visit| {
        let undoing = visit.compensation.as_deref().map(|undoing| {
            let code = undoing.failure.as_ref().map(|failure| failure.error.code.clone());
            let output = undoing.output.as_ref().map(|output| normal(&contents.parsed(output)));
            (undoing.phase.name(), code, output)
        });
        (plan.node(visit.node).key.to_string(), visit.visit.0, undoing)
    });
    let expected = reference.done.iter().map(|done| {
        let undoing = done.undoing.as_ref().map(|undoing| {
            let code = undoing.error.as_ref().and_then(|error| error["code"].as_str());
            let output = undoing.output.as_ref().map(normal);
            (phase(undoing.phase), code.map(str::to_owned), output)
        });
        (done.node.clone(), done.visit, undoing)
    });
    same("what is undone", &seen.collect::<Vec<_>>(), &expected.collect())
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

/// A value without what errors carry for people: their messages, and where a schema was violated.
pub(super) fn normal(value: &JsonValue) -> JsonValue {
    match value {
        JsonValue::Array(items) => items.iter().map(normal).collect(),
        JsonValue::Object(fields) => {
            let is_error = fields.contains_key("code") && fields.contains_key("message");
            let is_violation = is_error && fields["code"] == "SCHEMA_VIOLATION";
            let told = fields.iter().filter(|(name, _)| !(is_violation && *name == "details"));
            let one = |(name, value): (&String, &JsonValue)| {
                let words = is_error && name == "message";
                (name.clone(), if words { JsonValue::from("") } else { normal(value) })
            };
            JsonValue::Object(told.map(one).collect())
        }
        other => other.clone(),
    }
}

//! Turns a tape of numbers into what happens to an execution, one stimulus at a time.

use serde_json::{Value, json};
use troupe_core::control;
use troupe_core::definition::NodeKind;
use troupe_core::execution::{Phase, StartChild, Status, next_deadline};
use troupe_core::plan::PlanNode;

use super::again::{Begin, another_version};
use super::cases::Case;
use super::choices::Choices;
use super::duo::{Disagreement, Duo, Stimulus};
use crate::reference::{ChildEnd, ChildReport, Control, Decision, Failure, Remedy, Scope};

/// Past so many stimuli an execution that has not ended never will.
const STIMULI_MAX: usize = 5_000;

/// Runs a case to its end. What happened is part of every disagreement.
pub fn run(case: &Case, starves: bool) -> Result<Duo, String> {
    let mut duo = Duo::new(&case.definition);
    duo.starves = starves;
    let mut choices = Choices::new(&case.script);
    let mut trace = Vec::new();
    let outcome = play(&mut duo, case.is_calm, &mut choices, &mut trace, STIMULI_MAX);
    outcome.map_err(|disagreement| {
        let (trace, stands) = (trace.join("\n"), duo.stands());
        format!("{disagreement}\nafter:\n{trace}\nwhere stand:\n{stands}")
    })?;
    Ok(duo)
}

fn play(
    duo: &mut Duo,
    is_calm: bool,
    choices: &mut Choices<'_>,
    trace: &mut Vec<String>,
    stimuli_max: usize,
) -> Result<(), Disagreement> {
    match choices.below(20) {
        18 => duo.depth(1),
        19 => {
            duo.depth(1);
            duo.detach();
        }
        _ => {}
    }
    if choices.one_in(12) {
        let control = control(duo, choices);
        apply(duo, &control, trace)?;
    }
    if choices.one_in(4) && duo.plan.settings.error_workflow.is_some() {
        duo.handle_failure();
    }
    let start = start(duo, choices);
    let started = apply(duo, &start, trace)?;
    if !started {
        return if duo.log.is_empty() {
            Ok(())
        } else {
            Err("a refused start left an entry".into())
        };
    }
    go_on(duo, is_calm, choices, trace, stimuli_max)
}

/// Lets things happen, so many at most, until the execution has ended for good.
fn go_on(
    duo: &mut Duo,
    is_calm: bool,
    choices: &mut Choices<'_>,
    trace: &mut Vec<String>,
    stimuli_max: usize,
) -> Result<(), Disagreement> {
    for _ in 0..stimuli_max {
        let patience = [0, 0, 1, 40, 600, 7_000, 200_000];
        if duo.state.status.is_terminal() {
            after_the_end(duo, trace)?;
            // More often than not: what ended may go on.
            if choices.is_spent() || choices.one_in(3) {
                return Ok(());
            }
            duo.now += choices.pick(&patience);
            let stimulus = reopening(duo, choices);
            apply(duo, &stimulus, trace)?;
            continue;
        }
        duo.now += choices.pick(&patience);
        if choices.one_in(12) {
            let control = control(duo, choices);
            apply(duo, &control, trace)?;
        }
        // As an actor does before each step.
        if duo.news().is_some() {
            apply(duo, &Stimulus::Learn, trace)?;
            continue;
        }
        let possible = possible(duo, is_calm, choices);
        let stimulus = choices.pick(&possible).clone();
        if stimulus == Stimulus::Deadline {
            let due = next_deadline(&duo.state).map_or(duo.now, |due| due.0);
            duo.now = duo.now.max(due);
        }
        apply(duo, &stimulus, trace)?;
    }
    if stimuli_max < STIMULI_MAX {
        return Ok(());
    }
    Err("the execution never ends".into())
}

/// Executions of which each but the first takes over what the one before gave.
pub struct Again {
    pub runs: Vec<Duo>,
    /// Codes of reruns that were refused.
    pub refused: Vec<String>,
}

/// Runs a case, perhaps not to its end, and runs it again from some node, perhaps more than once.
pub fn run_again(case: &Case, tape: &[u16], starves: bool) -> Result<Again, String> {
    let mut again = Again {
        runs: Vec::new(),
        refused: Vec::new(),
    };
    let mut trace = Vec::new();
    let mut choices = Choices::new(tape);
    let stimuli_max = *choices.pick(&[STIMULI_MAX, 4, 12, 40, STIMULI_MAX]);
    let mut duo = Duo::new(&case.definition);
    duo.starves = starves;
    let told = |what: Disagreement, trace: &[String], stands: String| {
        format!("{what}\nafter:\n{}\nwhere stand:\n{stands}", trace.join("\n"))
    };
    let outcome = play(
        &mut duo,
        case.is_calm,
        &mut Choices::new(&case.script),
        &mut trace,
        stimuli_max,
    );
    outcome.map_err(|what| told(what, &trace, duo.stands()))?;
    let mut definition = case.definition.clone();
    while duo.state.seq.0 > 0 && again.runs.len() < 3 {
        let begun = run_from(&duo, &mut definition, &mut choices, &mut trace);
        let begun = begun.map_err(|what| told(what, &trace, duo.stands()))?;
        match begun {
            Err(code) => again.refused.push(code),
            Ok((mut next, start)) => {
                std::mem::swap(&mut duo, &mut next);
                again.runs.push(next);
                let outcome = begin_again(&mut duo, case.is_calm, &start, &mut choices, &mut trace);
                outcome.map_err(|what| told(what, &trace, duo.stands()))?;
            }
        }
        if choices.is_spent() || choices.one_in(3) {
            break;
        }
    }
    again.runs.push(duo);
    Ok(again)
}

/// A rerun from some node; `definition` becomes the version that it runs.
fn run_from(
    duo: &Duo,
    definition: &mut Value,
    choices: &mut Choices<'_>,
    trace: &mut Vec<String>,
) -> Result<Result<Begin, String>, Disagreement> {
    let version = another_version(definition, choices);
    let nodes = version["nodes"].as_array().cloned().unwrap_or_default();
    let from = choices.pick(&nodes)["id"].as_str().unwrap_or_default().to_owned();
    let input = choices.one_in(3).then(|| value(choices));
    trace.push(format!("again from {from} with {input:?} in {version}"));
    let begun = duo.rerun(&version, &from, input.as_ref())?;
    if begun.is_ok() {
        *definition = version;
    }
    Ok(begun)
}

fn begin_again(
    duo: &mut Duo,
    is_calm: bool,
    start: &Stimulus,
    choices: &mut Choices<'_>,
    trace: &mut Vec<String>,
) -> Result<(), Disagreement> {
    if apply(duo, start, trace)? {
        go_on(duo, is_calm, choices, trace, STIMULI_MAX)?;
    }
    Ok(())
}

fn apply(duo: &mut Duo, stimulus: &Stimulus, trace: &mut Vec<String>) -> Result<bool, Disagreement> {
    trace.push(format!("{:>8} {stimulus:?}", duo.now - super::duo::EPOCH));
    let done = duo.apply(stimulus)?;
    trace.push(format!("{:>8} {done:?}", ""));
    Ok(done.is_ok())
}

/// Names a trigger now and then, also one that is none.
fn start(duo: &Duo, choices: &mut Choices<'_>) -> Stimulus {
    let triggers: Vec<String> = duo
        .plan
        .nodes
        .iter()
        .filter(|node| node.trigger.is_some())
        .map(|node| node.key.to_string())
        .collect();
    let trigger = match choices.below(8) {
        5 | 6 if !triggers.is_empty() => Some(choices.pick(&triggers).clone()),
        7 if choices.one_in(8) => Some("nobody".into()),
        _ => None,
    };
    let input = value(choices);
    let variables = if choices.one_in(3) {
        vec![("v1".into(), value(choices))]
    } else {
        Vec::new()
    };
    if choices.one_in(8) {
        return Stimulus::Queue {
            trigger,
            input,
            variables,
        };
    }
    Stimulus::Start {
        trigger,
        input,
        variables,
    }
}

/// Everything that may happen now, the likelier the more often; the first one always leads on.
fn possible(duo: &Duo, is_calm: bool, choices: &mut Choices<'_>) -> Vec<Stimulus> {
    let mut possible = Vec::new();
    if duo.state.status == Status::Pending {
        possible.extend(std::iter::repeat_n(Stimulus::Admit, 6));
    }
    if duo.state.status == Status::Reporting {
        possible.extend(std::iter::repeat_n(report_told(duo, choices), 4));
    }
    if duo.state.paused {
        possible.push(Stimulus::Resume);
    }
    possible.extend(lifted(duo));
    for node in duo.outstanding.keys() {
        let outcome = outcome(is_calm, choices);
        possible.extend(std::iter::repeat_n(
            Stimulus::Report {
                node: node.clone(),
                outcome,
            },
            4,
        ));
    }
    possible.extend(waiting(duo).flat_map(|(node, body)| {
        let signal = |body| Stimulus::Signal {
            node: node.clone(),
            call: call(body),
        };
        std::iter::repeat_n(signal(body), 3)
    }));
    possible.extend(open_children(duo).flat_map(|start| {
        let report = child_report(duo, start, is_calm, choices);
        std::iter::repeat_n(Stimulus::Children(vec![report]), 3)
    }));
    if next_deadline(&duo.state).is_some() {
        possible.extend(std::iter::repeat_n(Stimulus::Deadline, 4));
    }
    if choices.is_spent() {
        return possible;
    }
    possible.push(if duo.state.paused {
        Stimulus::Resume
    } else {
        Stimulus::Pause
    });
    if choices.one_in(3) {
        possible.push(Stimulus::Freeze);
    }
    if choices.one_in(4) {
        possible.push(Stimulus::Interrupt);
        possible.push(Stimulus::Drain);
        possible.push(if duo.state.paused {
            Stimulus::Pause
        } else {
            Stimulus::Resume
        });
        possible.push(Stimulus::Deadline);
    }
    let is_undoing = matches!(duo.state.status, Status::Compensating(_));
    let can_undo = duo.state.compensations.is_some();
    if choices.one_in(8) || (can_undo && choices.one_in(4)) {
        let grace_ms = *choices.pick(&[1, 100, 10_000]);
        possible.push(Stimulus::Cancel {
            grace_ms,
            at_once: is_undoing || choices.one_in(if can_undo { 2 } else { 4 }),
        });
    }
    let would_undo = |all: &troupe_core::execution::Compensations| !all.visits.is_empty();
    if !is_undoing && duo.state.compensations.as_deref().is_some_and(would_undo) && choices.one_in(16) {
        possible.push(Stimulus::Cancel {
            grace_ms: 1,
            at_once: true,
        });
    }
    if !duo.spent.is_empty() {
        possible.push(Stimulus::Stale {
            token: *choices.pick(&duo.spent),
        });
    }
    if let Some(token) = duo.outstanding.values().next() {
        let mut token = *token;
        token.nonce += 1;
        possible.push(Stimulus::Stale { token });
    }
    for node in beating(duo) {
        possible.extend(std::iter::repeat_n(Stimulus::Heartbeat { node }, 3));
    }
    possible.extend(reported_together(duo, is_calm, choices));
    if choices.one_in(6) {
        possible.push(Stimulus::PauseWithParent);
        possible.push(Stimulus::FreezeWithParent);
        possible.push(Stimulus::ResumeWithParent);
    }
    possible.extend(from_outside(duo, choices));
    if duo.plan.settings.error_workflow.is_some() && choices.one_in(8) {
        possible.push(report_told(duo, choices));
    }
    if duo.state.status == Status::Reporting && choices.one_in(2) {
        possible.push(Stimulus::Cancel {
            grace_ms: 1,
            at_once: choices.one_in(2),
        });
    }
    let has_failed = duo.state.nodes.iter().any(|node| node.phase == Phase::Failed);
    if has_failed || choices.one_in(10) {
        possible.push(reopening(duo, choices));
    }
    possible
}

/// What became of the error workflow.
fn report_told(duo: &Duo, choices: &mut Choices<'_>) -> Stimulus {
    Stimulus::Reported(if choices.one_in(3) {
        Err(Failure {
            code: "WORKFLOW_NOT_FOUND".into(),
            message: "there is none".into(),
            details: None,
            retryable: false,
            retry_after_ms: None,
        })
    } else {
        Ok(duo.state.id.to_string())
    })
}

/// Some control is set or lifted, mostly one that concerns the execution.
fn control(duo: &Duo, choices: &mut Choices<'_>) -> Stimulus {
    let planned = choices.pick(&duo.plan.nodes);
    let workflow = if choices.one_in(8) { "another" } else { "flow" };
    let scope = match choices.below(7) {
        0 => Scope::All,
        1 => Scope::Workflow(workflow.into()),
        2 | 3 => Scope::NodeType(planned.kind.as_str().into()),
        _ => Scope::Node {
            workflow: workflow.into(),
            node: planned.key.to_string(),
        },
    };
    let is_stop = matches!(scope, Scope::All | Scope::Workflow(_)) && choices.one_in(4);
    let control = if is_stop {
        *choices.pick(&[Some(Control::Stop), None])
    } else {
        *choices.pick(&[Some(Control::Freeze), Some(Control::Pause), None])
    };
    Stimulus::Control {
        scope,
        is_stop,
        control,
    }
}

/// Lifts what is in force.
fn lifted(duo: &Duo) -> impl Iterator<Item = Stimulus> {
    let scope = |scope: &control::Scope| match scope {
        control::Scope::All => Scope::All,
        control::Scope::Workflow(workflow) => Scope::Workflow(workflow.as_str().into()),
        control::Scope::Node { workflow, node } => Scope::Node {
            workflow: workflow.as_str().into(),
            node: node.as_str().into(),
        },
        control::Scope::NodeType(kind) => Scope::NodeType(kind.clone()),
    };
    duo.controls.holding().map(move |(key, covered, _)| Stimulus::Control {
        scope: scope(covered),
        is_stop: matches!(key, control::ControlKey::Stop(_)),
        control: None,
    })
}

/// Some nodes that might be reopened, now and then with one that might not, or all that have failed.
fn reopening(duo: &Duo, choices: &mut Choices<'_>) -> Stimulus {
    let nodes = duo.plan.nodes.iter().zip(&duo.state.nodes);
    let fits = nodes.filter(|(_, node)| node.phase == Phase::Failed || node.cut_off.is_some());
    let fits: Vec<String> = fits.map(|(planned, _)| planned.key.to_string()).collect();
    let count = if fits.is_empty() {
        0
    } else {
        *choices.pick(&[0, 0, 1, 1, 2, 3])
    };
    let mut nodes: Vec<String> = (0..count).map(|_| choices.pick(&fits).clone()).collect();
    if choices.one_in(20) {
        nodes.push(choices.pick(&duo.plan.nodes).key.to_string());
    }
    let remedy = match choices.below(6) {
        4 => Remedy::Skip(None),
        5 => Remedy::Skip(Some(value(choices))),
        _ => Remedy::Retry,
    };
    Stimulus::Reopen { nodes, remedy }
}

/// The children that were begun and are not over.
fn open_children(duo: &Duo) -> impl Iterator<Item = &StartChild> {
    let begun = duo.begun.iter();
    begun.filter(|start| duo.state.awaits(start.child))
}

fn child_report(duo: &Duo, start: &StartChild, is_calm: bool, choices: &mut Choices<'_>) -> ChildReport {
    let end = match outcome(is_calm, choices) {
        Ok(_) if !start.attached => ChildEnd::Began(duo.state.id.to_string()),
        Ok(output) => ChildEnd::Completed(output),
        Err(failure) => ChildEnd::Failed(failure),
    };
    ChildReport {
        node: duo.key(start.child.node),
        visit: start.child.visit.0,
        index: start.child.index as usize,
        end,
    }
}

/// Several reports at once, in any order, of open children and of others.
fn reported_together(duo: &Duo, is_calm: bool, choices: &mut Choices<'_>) -> Vec<Stimulus> {
    if duo.begun.is_empty() || !choices.one_in(2) {
        return Vec::new();
    }
    let open: Vec<&StartChild> = open_children(duo).collect();
    let report = |choices: &mut Choices<'_>| {
        let start = if open.is_empty() || choices.one_in(5) {
            choices.pick(&duo.begun)
        } else {
            choices.pick(&open)
        };
        child_report(duo, start, is_calm, choices)
    };
    let reports = (0..=choices.below(4)).map(|_| report(choices)).collect();
    vec![Stimulus::Children(reports); 3]
}

/// The nodes that wait for a call, and a body that fits each.
fn waiting(duo: &Duo) -> impl Iterator<Item = (String, Value)> {
    let nodes = duo.plan.nodes.iter().zip(&duo.state.nodes);
    let waiting = nodes.filter(|(_, node)| matches!(node.phase, Phase::Waiting { .. }));
    waiting.map(|(planned, _)| {
        let body = match planned.data.get("payloadSchema") {
            Some(schema) if schema["type"] == "number" => json!(1),
            _ => json!({"ok": true}),
        };
        (planned.key.to_string(), body)
    })
}

/// The nodes that wait for heartbeats.
fn beating(duo: &Duo) -> impl Iterator<Item = String> {
    let nodes = duo.plan.nodes.iter().zip(&duo.state.nodes);
    let beating = nodes.filter(|(_, node)| {
        matches!(
            node.phase,
            Phase::Waiting {
                heartbeat_by: Some(_),
                ..
            }
        )
    });
    beating.map(|(planned, _)| planned.key.to_string())
}

fn call(body: Value) -> Value {
    json!({"body": body, "headers": {}, "query": {}, "method": "POST"})
}

/// Now and then a call or an intervention, which may fit or not.
fn from_outside(duo: &Duo, choices: &mut Choices<'_>) -> Vec<Stimulus> {
    let names = |wanted: &dyn Fn(&PlanNode, &Phase) -> bool| -> Vec<String> {
        let nodes = duo.plan.nodes.iter().zip(&duo.state.nodes);
        let wanted = nodes.filter(|(planned, node)| wanted(planned, &node.phase));
        wanted.map(|(planned, _)| planned.key.to_string()).collect()
    };
    let any = names(&|_, _| true);
    let webhooks = names(&|planned, _| planned.kind == NodeKind::Webhook);
    let waits = names(&|_, phase| matches!(phase, Phase::Waiting { .. } | Phase::Delaying { .. } | Phase::Parenting));
    let open = names(&|_, phase| !phase.is_terminal() && *phase != Phase::Pending);
    let one_of = |preferred: &[String], choices: &mut Choices<'_>| {
        let from = if preferred.is_empty() { &any } else { preferred };
        choices.pick(from).clone()
    };
    let stimulus = match choices.below(10) {
        0 | 1 => Stimulus::Signal {
            node: one_of(&webhooks, choices),
            call: call(value(choices)),
        },
        2 | 3 => {
            let decision = by_hand(choices);
            let fits = match decision {
                Decision::Complete(_) | Decision::Fail(_) => &waits,
                Decision::Skip(_) => &open,
            };
            Stimulus::Decide {
                node: one_of(fits, choices),
                decision,
            }
        }
        4 => match choices.below(5) {
            0 | 1 => Stimulus::Decide {
                decision: by_hand(choices),
                node: one_of(&[], choices),
            },
            2 => Stimulus::Signal {
                node: one_of(&[], choices),
                call: call(value(choices)),
            },
            3 => Stimulus::Heartbeat {
                node: one_of(&[], choices),
            },
            _ => Stimulus::SetVariables(vec![("v0".into(), value(choices)), ("v3".into(), json!(true))]),
        },
        5 | 6 if !waits.is_empty() => Stimulus::Decide {
            node: one_of(&waits, choices),
            decision: by_hand(choices),
        },
        _ => return Vec::new(),
    };
    vec![stimulus; 3]
}

fn by_hand(choices: &mut Choices<'_>) -> Decision {
    match choices.below(5) {
        0 => Decision::Skip(None),
        1 => Decision::Skip(Some(value(choices))),
        2 => Decision::Complete(value(choices)),
        _ => Decision::Fail(Failure {
            code: (*choices.pick(&["E1", "E2", "BY_HAND"])).into(),
            message: "it is enough".into(),
            details: choices.one_in(3).then(|| json!({"hint": 1})),
            retryable: true,
            retry_after_ms: None,
        }),
    }
}

/// The end is final: whatever comes is refused.
fn after_the_end(duo: &mut Duo, trace: &mut Vec<String>) -> Result<(), Disagreement> {
    let mut late = vec![
        Stimulus::Pause,
        Stimulus::Resume,
        Stimulus::Deadline,
        Stimulus::Interrupt,
        Stimulus::Drain,
        Stimulus::Cancel {
            grace_ms: 5,
            at_once: true,
        },
    ];
    let node = duo.plan.nodes[0].key.to_string();
    late.extend([
        Stimulus::Signal {
            node: node.clone(),
            call: call(json!({"ok": true})),
        },
        Stimulus::Heartbeat { node: node.clone() },
        Stimulus::Decide {
            node,
            decision: Decision::Skip(None),
        },
        Stimulus::SetVariables(vec![("v0".into(), json!(1))]),
        Stimulus::PauseWithParent,
        Stimulus::ResumeWithParent,
        Stimulus::Freeze,
        Stimulus::FreezeWithParent,
        report_told(duo, &mut Choices::new(&[])),
    ]);
    late.extend(duo.begun.last().map(|start| {
        let report = child_report(duo, start, true, &mut Choices::new(&[]));
        Stimulus::Children(vec![report])
    }));
    late.extend(duo.spent.first().map(|token| Stimulus::Stale { token: *token }));
    for stimulus in late {
        if apply(duo, &stimulus, trace)? {
            return Err("something happened after the end".into());
        }
    }
    let finishes = duo.log.iter().flat_map(|(_, effects)| effects);
    let finishes = finishes
        .filter(|effect| **effect == troupe_core::execution::Effect::Finish)
        .count();
    let runs = duo.state.run.0 as usize;
    super::compare::same("ends, one a run", &finishes, &runs)
}

fn value(choices: &mut Choices<'_>) -> Value {
    let values = [
        json!({"ok": true}),
        json!(1),
        json!({"ok": false, "n": 1}),
        json!(true),
        json!(0),
        json!("a"),
        json!(null),
        json!(300),
        json!([1, {"b": 2, "a": 1}]),
    ];
    choices.pick(&values).clone()
}

// A failure lives for one step.
#[allow(clippy::result_large_err)]
fn outcome(is_calm: bool, choices: &mut Choices<'_>) -> Result<Value, Failure> {
    let (good, of) = if is_calm { (19, 20) } else { (3, 5) };
    if choices.below(of) < good {
        return Ok(value(choices));
    }
    let codes = [
        "E1",
        "E1",
        "E2",
        "E3",
        "TIMEOUT",
        "HEARTBEAT_TIMEOUT",
        "QUEUE_TIMEOUT",
        "SCHEMA_VIOLATION",
        "EXPRESSION_ERROR",
        "HANDLER_NOT_FOUND",
    ];
    Err(Failure {
        code: (*choices.pick(&codes)).into(),
        message: "it broke".into(),
        details: choices.one_in(3).then(|| json!({"hint": 1})),
        retryable: !choices.one_in(6),
        retry_after_ms: *choices.pick(&[None, None, None, Some(0), Some(333), Some(90_000)]),
    })
}

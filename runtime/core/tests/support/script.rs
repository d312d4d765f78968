//! Turns a tape of numbers into what happens to an execution, one stimulus at a time.

use serde_json::{Value, json};
use troupe_core::execution::next_deadline;

use super::choices::Choices;
use super::definitions::Case;
use super::duo::{Disagreement, Duo, Stimulus};
use crate::reference::Failure;

/// Past so many stimuli an execution that has not ended never will.
const STIMULI_MAX: usize = 5_000;

/// Runs a case to its end. What happened is part of every disagreement.
pub fn run(case: &Case, starves: bool) -> Result<Duo, String> {
    let mut duo = Duo::new(&case.definition);
    duo.starves = starves;
    let mut choices = Choices::new(&case.script);
    let mut trace = Vec::new();
    let outcome = play(&mut duo, &mut choices, &mut trace);
    outcome.map_err(|disagreement| format!("{disagreement}\nafter:\n{}", trace.join("\n")))?;
    Ok(duo)
}

fn play(duo: &mut Duo, choices: &mut Choices<'_>, trace: &mut Vec<String>) -> Result<(), Disagreement> {
    let start = start(duo, choices);
    let started = apply(duo, &start, trace)?;
    if !started {
        return if duo.log.is_empty() {
            Ok(())
        } else {
            Err("a refused start left an entry".into())
        };
    }
    for _ in 0..STIMULI_MAX {
        if duo.state.status.is_terminal() {
            return after_the_end(duo, trace);
        }
        let patience = [0, 0, 1, 40, 600, 7_000, 200_000];
        duo.now += choices.pick(&patience);
        let possible = possible(duo, choices);
        let stimulus = choices.pick(&possible).clone();
        if stimulus == Stimulus::Deadline {
            let due = next_deadline(&duo.state).map_or(duo.now, |due| due.0);
            duo.now = duo.now.max(due);
        }
        apply(duo, &stimulus, trace)?;
    }
    Err("the execution never ends".into())
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
    Stimulus::Start {
        trigger,
        input,
        variables,
    }
}

/// Everything that may happen now, the likelier the more often; the first one always leads on.
fn possible(duo: &Duo, choices: &mut Choices<'_>) -> Vec<Stimulus> {
    let mut possible = Vec::new();
    if duo.state.paused {
        possible.push(Stimulus::Resume);
    }
    for node in duo.outstanding.keys() {
        let outcome = outcome(choices);
        possible.extend(std::iter::repeat_n(
            Stimulus::Report {
                node: node.clone(),
                outcome,
            },
            4,
        ));
    }
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
    if choices.one_in(8) {
        let grace_ms = *choices.pick(&[1, 100, 10_000]);
        possible.push(Stimulus::Cancel {
            grace_ms,
            at_once: choices.one_in(4),
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
    possible
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
    if finishes == 1 {
        Ok(())
    } else {
        Err(format!("the execution finished {finishes} times"))
    }
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
fn outcome(choices: &mut Choices<'_>) -> Result<Value, Failure> {
    if choices.below(5) < 3 {
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

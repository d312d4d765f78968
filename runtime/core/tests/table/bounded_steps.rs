//! ADR 0015, bounded steps: through the core alone, for the reference knows no bound.

use serde_json::json;
use troupe_core::Timestamp;
use troupe_core::execution::{Event, StepError, invariants, next_deadline, step};

use super::flow::{Flow, Run, flow};
use crate::support::duo::{EPOCH, Stimulus};
use crate::support::evaluator::Mini;

/// Starts it and applies deadlines as long as they are due at once: how many steps that took.
fn steps_at_once(flow: Flow) -> (Run, usize) {
    let mut run = flow.create();
    let duo = &mut run.duo;
    let mut event = duo.event(&Stimulus::Start {
        trigger: None,
        input: json!({"ok": true}),
        variables: Vec::new(),
    });
    for steps in 1..100 {
        let stepped = step(
            &duo.plan,
            &mut duo.state,
            Timestamp(EPOCH),
            &event,
            &mut Mini::patient(),
        );
        let entry = stepped.unwrap();
        assert!(entry.transitions.len() < 64 * 8, "a step stays bounded");
        invariants::check(&duo.plan, &duo.state).unwrap();
        if next_deadline(&duo.state).is_none_or(|due| due > Timestamp(EPOCH)) {
            return (run, steps);
        }
        event = Event::DeadlineReached;
    }
    panic!("the loop never ends");
}

/// A decision that leads back to itself until its condition says otherwise, at most 1,000 times.
fn spinning(condition: &str) -> Flow {
    flow("d/decision x e", "d>d d>x d!>e")
        .data(
            "d",
            json!({"conditions": [{"id": "again", "expression": condition}], "defaultPath": "x", "maxIterations": 1_000}),
        )
        .edge(0, json!({"label": "again"}))
}

#[test]
fn a_loop_in_which_nothing_waits_takes_several_steps() {
    let (run, steps) = steps_at_once(spinning("execution.iteration != 900"));
    assert_eq!((run.visits().as_str(), run.node("x")), ("d900 x1 e1", "running"));
    assert!((10..=20).contains(&steps), "64 generations a step, not {steps} steps");
    let (run, steps) = steps_at_once(spinning("true"));
    assert_eq!(
        (run.error_of("d"), run.visits().as_str()),
        ("LOOP_LIMIT", "d1001 x1 e1")
    );
    assert_eq!((run.node("x"), run.node("e")), ("skipped", "running"));
    assert!((10..=20).contains(&steps), "64 generations a step, not {steps} steps");
}

#[test]
fn the_next_generation_waits_while_paused() {
    let mut run = spinning("execution.iteration != 900").create();
    let duo = &mut run.duo;
    let start = duo.event(&Stimulus::Start {
        trigger: None,
        input: json!({"ok": true}),
        variables: Vec::new(),
    });
    let mut apply =
        |event: &Event| step(&duo.plan, &mut duo.state, Timestamp(EPOCH), event, &mut Mini::patient()).map(|_| ());
    apply(&start).unwrap();
    apply(&Event::Paused).unwrap();
    assert_eq!(apply(&Event::DeadlineReached), Err(StepError::NotDue));
    apply(&Event::Resumed).unwrap();
    let visit = run.state_of("d").visit.0;
    assert!(
        (100..200).contains(&visit),
        "what fell due is applied at the resume: {visit}"
    );
}

#[test]
fn a_loop_that_turns_too_often_in_a_step_can_be_canceled() {
    let mut run = spinning("true").create();
    let duo = &mut run.duo;
    let start = duo.event(&Stimulus::Start {
        trigger: None,
        input: json!({"ok": true}),
        variables: Vec::new(),
    });
    let cancel = duo.event(&Stimulus::Cancel {
        grace_ms: 100,
        at_once: false,
    });
    for event in [start, cancel] {
        step(
            &duo.plan,
            &mut duo.state,
            Timestamp(EPOCH),
            &event,
            &mut Mini::patient(),
        )
        .unwrap();
    }
    assert_eq!(run.status(), "canceled");
}

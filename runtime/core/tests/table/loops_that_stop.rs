//! ADR 0015: loops while an execution fails fast, is canceled, times out or is paused.

use serde_json::json;
use troupe_core::execution::EdgeState;

use super::flow::{Run, flow};
use super::loops::thrice;

#[test]
fn an_execution_that_fails_fast_starts_no_generation() {
    let mut run = flow("r h a b x", "r>h h>a h>b a>h b>h?false a>x").start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!(2));
    assert_eq!(run.way("a", "h"), EdgeState::HeldTaken);
    run.fail("b", "E1");
    assert_eq!(run.nodes(), "r:completed h:completed a:completed b:failed x:skipped");
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
    assert_eq!(
        (run.way("a", "h"), run.way("a", "x")),
        (EdgeState::Dead, EdgeState::Taken),
        "the loop ends as if no back edge had been taken"
    );
}

#[test]
fn a_failure_outside_stops_a_loop_after_what_runs_was_canceled() {
    let mut run = thrice_beside("p");
    run.fail("p", "E1");
    assert_eq!(
        (run.nodes().as_str(), run.aborted().as_str()),
        ("r:completed h:canceled b:skipped x:skipped p:failed", "h")
    );
    assert_eq!((run.status(), run.visits().as_str()), ("failed", "r1 h2 b2 x1 p1"));
}

/// In its second generation, beside a node that runs.
fn thrice_beside(other: &str) -> Run {
    let edges = "r>h h>b b>h?execution.iteration~!=~3 b>x";
    let mut run = flow(&format!("r h b x {other}"), edges).start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!(2));
    run
}

#[test]
fn a_clean_up_edge_starts_a_generation_even_while_the_execution_fails_fast() {
    let mut run = flow("r h b x p", "r>h h>b b~>h?execution.iteration~==~1 b>x").start();
    run.complete("r", json!(0)).complete("h", json!(1)).fail("b", "E1");
    assert_eq!((run.started().as_str(), run.node("p")), ("h1@2", "canceled"));
    run.complete("h", json!(1));
    assert_eq!(run.started(), "b1@2", "the whole generation is clean-up");
    run.complete("b", json!(2));
    assert_eq!(run.started(), "x1");
    run.complete("x", json!(3));
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
}

#[test]
fn a_generation_that_clean_up_started_survives_a_failure_elsewhere() {
    let mut run = flow("r h b x p", "r>h h>b b~>h?execution.iteration~!=~3 b>x").start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!(2));
    run.complete("h", json!(1)).fail("p", "E1");
    assert_eq!((run.node("b"), run.status()), ("running", "running"));
    run.complete("b", json!(2));
    assert_eq!(run.started(), "h1@3");
    let mut run = flow("r h b x p", "r>h h>b b~>h?execution.iteration~!=~3 b>x").start();
    run.complete("r", json!(0)).complete("h", json!(1)).fail("p", "E1");
    assert_eq!(
        (run.node("b"), run.status()),
        ("canceled", "failed"),
        "the first generation is no clean-up"
    );
}

#[test]
fn a_back_edge_whose_source_is_clean_up_starts_a_generation_while_failing() {
    let mut run = flow("a h b x", "a~>h h>b b>h?execution.iteration~==~1 b>x").start();
    run.fail("a", "E1").complete("h", json!(1)).complete("b", json!(2));
    assert_eq!(run.started(), "h1@2");
    run.complete("h", json!(1))
        .complete("b", json!(2))
        .complete("x", json!(3));
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
}

#[test]
fn an_always_exit_is_clean_up_after_the_loop() {
    let mut run = flow("r h b c", "r>h h>b b>h b~>c").start();
    run.complete("r", json!(0)).complete("h", json!(1)).fail("b", "E1");
    assert_eq!((run.started().as_str(), run.visits().as_str()), ("c1", "r1 h1 b1 c1"));
}

#[test]
fn a_loop_goes_on_after_a_tolerated_failure() {
    let mut run = flow("r h b x", "r>h h>b b~>h?execution.iteration~==~1 b>x")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("r", json!(0)).complete("h", json!(1)).fail("b", "E1");
    run.complete("h", json!(1))
        .complete("b", json!(2))
        .complete("x", json!(3));
    assert_eq!(run.nodes(), "r:completed h:completed b:completed x:completed");
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
}

#[test]
fn a_canceled_execution_starts_no_generation() {
    let mut run = flow("r h a b x y", "r>h h>a h>b a~>h b>h?false a>x b>y").start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!(2));
    run.cancel(1_000).complete("b", json!(3));
    assert_eq!(
        run.nodes(),
        "r:completed h:completed a:completed b:canceled x:skipped y:skipped"
    );
    assert_eq!((run.status(), run.way("a", "h")), ("canceled", EdgeState::Dead));
}

#[test]
fn an_execution_that_times_out_starts_no_generation() {
    let mut run = flow("r h a b x", "r>h h>a h>b a~>h b>h?false a>x")
        .settings(json!({"timeout": 100}))
        .start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!(2));
    run.wait(100).due();
    assert_eq!(run.nodes(), "r:completed h:completed a:completed b:canceled x:skipped");
    assert_eq!(
        (run.status(), run.error(), run.way("a", "h")),
        ("failed", "EXECUTION_TIMEOUT", EdgeState::Dead)
    );
}

#[test]
fn while_paused_a_generation_begins_but_no_attempt_starts() {
    let mut run = thrice().start();
    run.complete("r", json!(0)).complete("h", json!(1));
    run.pause().complete("b", json!(2));
    assert_eq!(
        (run.started().as_str(), run.is_held("h"), run.visits().as_str()),
        ("", true, "r1 h2 b2 x1")
    );
    run.resume();
    assert_eq!(run.started(), "h1@2");
}

#[test]
fn a_header_waits_for_its_turn_under_max_parallel_nodes() {
    let mut run = flow("r h b x p", "r>h h>b b>h?execution.iteration~==~1 b>x r>p")
        .settings(json!({"maxParallelNodes": 1}))
        .start();
    run.complete("r", json!(0));
    assert_eq!(run.started(), "h1");
    run.complete("h", json!(1));
    assert_eq!(run.started(), "p1", "the one that waited longest");
    run.complete("p", json!(1));
    assert_eq!(run.started(), "b1");
    run.complete("b", json!(1));
    assert_eq!(run.started(), "h1@2");
}

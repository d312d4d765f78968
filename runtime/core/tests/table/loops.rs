//! §2, §8.6 and ADR 0015: loops.

use serde_json::json;
use troupe_core::execution::EdgeState;

use super::flow::{Flow, flow};
use crate::support::duo::Stimulus;

/// A root, a header, a body node that decides, and what follows the loop.
fn around(again: &str) -> Flow {
    flow("r h b x", &format!("r>h h>b b>h?{again} b>x"))
}

/// Goes round while it is below the third generation.
pub fn thrice() -> Flow {
    around("execution.iteration~!=~3")
}

#[test]
fn in_the_first_pass_the_header_waits_for_its_entry_edges() {
    let mut run = flow("r s h b x", "r>h s>h h>b b>h?false b>x").start();
    run.complete("r", json!(1));
    assert_eq!(run.node("h"), "pending");
    run.complete("s", json!(2));
    assert_eq!(
        (run.node("h"), run.given("h").as_str()),
        ("running", r#"{"r":1,"s":2}"#)
    );
}

#[test]
fn in_a_later_pass_the_header_starts_with_what_the_back_edge_carried() {
    let mut run = flow("r s h b x", "r>h s>h h>b b>h b>x")
        .join("h", json!({"mode": "allSuccess", "timeout": 100}))
        .start();
    run.complete("r", json!(1))
        .complete("s", json!(2))
        .complete("h", json!(3));
    run.complete("b", json!(4));
    assert_eq!((run.started().as_str(), run.given("h").as_str()), ("h1@2", "4"));
    assert_eq!(run.next_due(), None, "its join is not asked again");
}

#[test]
fn several_taken_back_edges_give_an_object_keyed_by_source() {
    let mut run = flow("r h a b x", "r>h h>a h>b a>h b>h b>x").start();
    run.complete("r", json!(1)).complete("h", json!(2));
    run.complete("b", json!("b")).complete("a", json!("a"));
    assert_eq!(run.given("h"), r#"{"a":"a","b":"b"}"#);
    let mut run = flow("r h a x", "r>h h>a a>h a~>h a>x").start();
    run.complete("r", json!(1))
        .complete("h", json!(2))
        .complete("a", json!("a"));
    assert_eq!(run.given("h"), r#"{"a":"a"}"#, "of one source the later edge wins");
}

#[test]
fn a_back_edge_of_type_failure_carries_the_error_and_handles_it() {
    let mut run = flow("r h b x", "r>h h>b b!>h b>x").start();
    run.complete("r", json!(1)).complete("h", json!(2)).fail("b", "E1");
    assert_eq!(run.given("h"), r#"{"error":{"message":"","code":"E1"},"input":2}"#);
    run.complete("h", json!(3))
        .complete("b", json!(4))
        .complete("x", json!(5));
    assert_eq!((run.status(), run.error()), ("completed", "none"));
}

#[test]
fn dead_messages_do_not_cross_a_back_edge() {
    let mut run = flow("r h a b x", "r>h h>a h>b a>h?false b>h?execution.iteration~==~1 b>x").start();
    run.complete("r", json!(1)).complete("h", json!(2));
    run.complete("b", json!("b")).complete("a", json!("a"));
    assert_eq!(run.given("h"), r#""b""#);
    run.complete("h", json!(2))
        .complete("a", json!("a"))
        .complete("b", json!("b"));
    assert_eq!(run.nodes(), "r:completed h:completed a:completed b:completed x:running");
    assert_eq!(run.visits(), "r1 h2 a2 b2 x1");
    assert_eq!(
        (run.way("a", "h"), run.way("b", "h")),
        (EdgeState::Dead, EdgeState::Dead)
    );
}

#[test]
fn the_header_s_input_mapping_applies_in_every_pass() {
    let mut run = thrice()
        .data("h", json!({"inputMapping": {"v": "input", "n": "execution.iteration"}}))
        .start();
    run.complete("r", json!("r"));
    assert_eq!(run.given("h"), r#"{"v":"r","n":1}"#);
    run.complete("h", json!(2)).complete("b", json!("b"));
    assert_eq!(run.given("h"), r#"{"v":"b","n":2}"#);
}

#[test]
fn a_generation_ends_when_every_node_of_it_has_ended() {
    let mut run = flow("r h a b x", "r>h h>a h>b a>h?execution.iteration~==~1 b>h?false b>x").start();
    run.complete("r", json!(1))
        .complete("h", json!(2))
        .complete("a", json!(3));
    assert_eq!((run.started().as_str(), run.way("a", "h")), ("", EdgeState::HeldTaken));
    run.complete("b", json!(4));
    assert_eq!(
        (run.started().as_str(), run.visits().as_str()),
        ("h1@2", "r1 h2 a2 b2 x1")
    );
    assert_eq!(
        (run.way("a", "h"), run.way("h", "a")),
        (EdgeState::Open, EdgeState::Open)
    );
}

#[test]
fn exits_are_held_until_the_generation_ends() {
    let mut run = flow("r h a x y", "r>h h>a a>h?false h>x h>y?false").start();
    run.complete("r", json!(1)).complete("h", json!(2));
    assert_eq!(run.nodes(), "r:completed h:completed a:running x:pending y:pending");
    assert_eq!(
        (run.way("h", "x"), run.way("h", "y")),
        (EdgeState::HeldTaken, EdgeState::HeldDead)
    );
    run.complete("a", json!(3));
    assert_eq!(run.nodes(), "r:completed h:completed a:completed x:running y:skipped");
    assert_eq!(
        (run.way("h", "x"), run.way("h", "y")),
        (EdgeState::Taken, EdgeState::Dead)
    );
}

#[test]
fn a_node_that_hangs_off_the_body_runs_once_after_the_loop() {
    let mut run = flow("r h a s", "r>h h>a h>s a>h?execution.iteration~==~1").start();
    run.complete("r", json!(1))
        .complete("h", json!("first"))
        .complete("a", json!(3));
    run.complete("h", json!("second"));
    assert_eq!(run.node("s"), "pending");
    run.complete("a", json!(3));
    assert_eq!((run.started().as_str(), run.given("s").as_str()), ("s1", r#""second""#));
}

#[test]
fn when_the_loop_goes_on_other_exits_are_dropped() {
    let mut run = flow(
        "r h b x y",
        "r>h h>b b>h?execution.iteration~==~1 b>x?execution.iteration~==~1 b~>y",
    )
    .start();
    run.complete("r", json!(1))
        .complete("h", json!(2))
        .complete("b", json!(3));
    assert_eq!((run.started().as_str(), run.way("b", "x")), ("h1@2", EdgeState::Open));
    run.complete("h", json!(2)).complete("b", json!("last"));
    assert_eq!(
        run.nodes(),
        "r:completed h:completed b:completed x:skipped y:running",
        "exits resolve as they were decided in the last generation"
    );
    assert_eq!(run.given("y"), r#""last""#);
}

#[test]
fn a_taken_failure_exit_wins_over_a_back_edge() {
    let mut run = flow("r h b x y z", "r>h h>b h>z b~>h b>x b!>y").start();
    run.complete("r", json!(1)).complete("h", json!(2)).fail("b", "E1");
    assert_eq!(run.visits(), "r1 h1 b1 x1 y1 z1");
    assert_eq!(
        (run.node("x"), run.node("y"), run.node("z")),
        ("skipped", "running", "running"),
        "the other exits resolve as decided in that generation"
    );
    assert_eq!(run.way("b", "h"), EdgeState::Dead);
}

#[test]
fn a_failure_exit_that_is_dead_does_not_win() {
    let mut run = flow("r h b y", "r>h h>b b~>h?execution.iteration~==~1 b!>y?false")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("r", json!(1)).complete("h", json!(2)).fail("b", "E1");
    assert_eq!(run.started(), "h1@2");
    run.complete("h", json!(2)).complete("b", json!(3));
    assert_eq!(
        (run.status(), run.error()),
        ("failed", "E1"),
        "the failure was tolerated, not handled"
    );
}

#[test]
fn beyond_max_iterations_the_header_fails_with_loop_limit() {
    let mut run = flow("r h b x y z", "r>h h>b b>h b>x h!>y h~>z")
        .data("h", json!({"maxIterations": 2}))
        .start();
    run.complete("r", json!(1));
    for output in ["first", "second"] {
        run.complete("h", json!(2)).complete("b", json!(output));
    }
    assert_eq!(
        run.nodes(),
        "r:completed h:failed b:completed x:skipped y:running z:running",
        "its exits are decided by this failure, every other exit is dead"
    );
    assert_eq!(run.visits(), "r1 h3 b2 x1 y1 z1", "body nodes keep their last visit");
    assert_eq!((run.error_of("h"), run.state_of("h").attempts.len()), ("LOOP_LIMIT", 0));
    let carried = r#"{"error":{"message":"","code":"LOOP_LIMIT"},"input":"second"}"#;
    assert_eq!((run.given("y").as_str(), run.given("z").as_str()), (carried, carried));
    assert_eq!(
        (run.way("b", "h"), run.way("h", "b")),
        (EdgeState::Dead, EdgeState::Taken),
        "edges within the body keep what they were"
    );
    run.complete("y", json!(1)).complete("z", json!(2));
    assert_eq!(run.status(), "completed");
}

#[test]
fn a_loop_limit_that_nothing_handles_fails_the_execution() {
    let limited = |edges: &str, on_failure: &str| {
        let mut run = flow("r h b x p", edges)
            .data("h", json!({"maxIterations": 1}))
            .settings(json!({"onFailure": on_failure}))
            .start();
        run.complete("r", json!(1))
            .complete("h", json!(2))
            .complete("b", json!(3));
        run
    };
    let run = limited("r>h h>b b>h b>x", "failFast");
    assert_eq!(
        (run.status(), run.error(), run.node("p")),
        ("failed", "LOOP_LIMIT", "canceled")
    );
    let mut run = limited("r>h h>b b>h b>x", "continue");
    assert_eq!((run.node("p"), run.node("x")), ("running", "skipped"));
    run.complete("p", json!(1));
    assert_eq!((run.status(), run.error()), ("failed", "LOOP_LIMIT"));
    let run = limited("r>h h>b b>h b>x h!>b", "failFast");
    assert_eq!(
        (run.status(), run.error()),
        ("failed", "LOOP_LIMIT"),
        "a failure edge into the body is dead"
    );
}

#[test]
fn the_iteration_stays_at_the_limit() {
    let mut run = flow(
        "r h b x y z",
        "r>h h>b b>h b>x h!>y?execution.iteration~==~2 h!>z?execution.iteration~==~3",
    )
    .data("h", json!({"maxIterations": 2}))
    .start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!(2));
    run.complete("h", json!(1)).complete("b", json!(2));
    assert_eq!((run.node("y"), run.node("z")), ("running", "skipped"));
}

#[test]
fn exits_resolve_in_the_order_of_the_definition() {
    let mut run = flow("r h a b x y", "a>x r>h h>a h>b h>y a>h?false b>h?false").start();
    run.complete("r", json!(0)).complete("h", json!(1));
    run.complete("b", json!(2)).complete("a", json!(3));
    assert_eq!(run.started(), "x1 y1", "although `h` ended first");
}

#[test]
fn max_iterations_is_1_000_where_the_header_names_none() {
    let mut run = flow("h x", "h>h h!>x").create();
    run.duo.starves = false;
    run.apply(Stimulus::Start {
        trigger: None,
        input: json!(0),
        variables: Vec::new(),
    });
    for _ in 0..999 {
        run.complete("h", json!(1));
    }
    assert_eq!((run.node("h"), run.visits().as_str()), ("running", "h1000 x1"));
    run.complete("h", json!(1));
    assert_eq!((run.error_of("h"), run.visits().as_str()), ("LOOP_LIMIT", "h1001 x1"));
}

#[test]
fn a_loop_that_is_never_entered_ends_with_its_nodes_skipped() {
    let mut run = flow("r h b x", "r>h?false h>b b~>h b~>x").start();
    run.complete("r", json!(1));
    assert_eq!(run.nodes(), "r:completed h:skipped b:skipped x:skipped");
    assert_eq!((run.status(), run.visits().as_str()), ("completed", "r1 h1 b1 x1"));
}

#[test]
fn a_root_that_leads_back_to_itself_is_still_a_root() {
    let mut run = flow("h x", "h>h?execution.iteration~!=~3 h>x").start();
    assert_eq!(
        (run.started().as_str(), run.given("h").as_str()),
        ("h1", r#"{"ok":true}"#)
    );
    run.complete("h", json!(1)).complete("h", json!(2));
    assert_eq!((run.started().as_str(), run.given("h").as_str()), ("h1@3", "2"));
    run.complete("h", json!(3));
    assert_eq!((run.started().as_str(), run.given("x").as_str()), ("x1", "3"));
    let run = flow("t/trigger x", "t>t?execution.iteration~==~1 t>x").start();
    assert_eq!((run.visits().as_str(), run.started().as_str()), ("t2 x1", "x1"));
}

#[test]
fn a_loop_of_decisions_goes_round_in_one_step() {
    let again = json!([{"id": "again", "expression": "execution.iteration != 5"}]);
    let run = flow("d/decision x", "d>d d>x")
        .data("d", json!({"conditions": again, "defaultPath": "x"}))
        .edge(0, json!({"label": "again"}))
        .start();
    assert_eq!((run.visits().as_str(), run.started().as_str()), ("d5 x1", "x1"));
    assert_eq!(run.given("x"), r#"{"ok":true}"#);
}

#[test]
fn loops_that_go_round_in_one_step_take_turns() {
    let again = json!([{"id": "again", "expression": "execution.iteration != 3"}]);
    let completing = json!({"conditions": again, "defaultPath": "x"});
    let failing = json!({"delayType": "expression", "delayValue": "const:\"soon\""});
    let run = flow("a/decision b/delay x y", "a>a a>x b~>b?execution.iteration~!=~3 b~>y")
        .data("a", completing)
        .edge(0, json!({"label": "again"}))
        .data("b", failing)
        .settings(json!({"onFailure": "continue"}))
        .start();
    assert_eq!(
        (run.visits().as_str(), run.started().as_str()),
        ("a3 b3 x1 y1", "x1 y1")
    );
}

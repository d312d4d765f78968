//! §6: operators complete, fail and skip nodes, and set variables.

use serde_json::{Value, json};
use troupe_core::execution::EdgeState;

use super::flow::{Flow, Run, call, decide, failure, flow};
use crate::reference::{Decision, Failure};
use crate::support::duo::Stimulus;

fn complete(output: Value) -> Decision {
    Decision::Complete(output)
}

fn fail(code: &str) -> Decision {
    Decision::Fail(failure(code))
}

fn skip() -> Decision {
    Decision::Skip(None)
}

fn skip_with(output: Value) -> Decision {
    Decision::Skip(Some(output))
}

/// `h` waits for a call; it leads to `b`, and to `c` where it fails.
fn waiting(data: Value) -> Run {
    let mut run = flow("a h/webhook b c", "a>h h>b h!>c").data("h", data).start();
    run.complete("a", json!(7));
    run
}

/// `w` delays for 100 ms; it leads to `b`, and to `c` where it fails.
fn delaying() -> Flow {
    flow("w/delay b c", "w>b w!>c").data("w", json!({"delayType": "fixed", "delayValue": 100}))
}

#[test]
fn a_node_that_waits_is_completed() {
    let mut run = waiting(json!({}));
    run.decide("h", complete(json!(5)));
    assert_eq!(
        (run.nodes().as_str(), run.given("b").as_str()),
        ("a:completed h:completed b:running c:skipped", "5")
    );
}

#[test]
fn a_completion_by_hand_asks_neither_schema_nor_template_of_calls() {
    let mut run = waiting(json!({"payloadSchema": {"type": "object"}, "transformationTemplate": "{{throw}}"}));
    run.decide("h", complete(json!(5)));
    assert_eq!((run.node("h"), run.given("b").as_str()), ("completed", "5"));
}

#[test]
fn a_delay_is_completed_before_it_is_due_and_with_another_output() {
    let mut run = delaying().start();
    run.decide("w", complete(json!(5)));
    assert_eq!(
        (run.node("w"), run.given("b").as_str(), run.next_due()),
        ("completed", "5", None)
    );
}

#[test]
fn a_node_that_waits_or_delays_is_failed() {
    let by_hand = || {
        Decision::Fail(Failure {
            details: Some(json!({"hint": 1})),
            ..failure("BY_HAND")
        })
    };
    let mut run = waiting(json!({}));
    run.decide("h", by_hand());
    assert_eq!(
        (run.nodes().as_str(), run.error_of("h")),
        ("a:completed h:failed b:skipped c:running", "BY_HAND")
    );
    assert_eq!(
        run.given("c"),
        r#"{"error":{"message":"","code":"BY_HAND","details":{"hint":1}},"input":7}"#
    );
    let mut delayed = delaying().start();
    delayed.decide("w", by_hand());
    assert_eq!(delayed.nodes(), "w:failed b:skipped c:running");
}

#[test]
fn a_failure_by_hand_that_nothing_handles_fails_the_execution() {
    let mut run = flow("a h/webhook b", "a>h").start();
    run.complete("a", json!(1)).decide("h", fail("BY_HAND"));
    assert_eq!(
        (run.status(), run.error(), run.aborted().as_str()),
        ("failed", "BY_HAND", "b")
    );
}

#[test]
fn only_what_waits_or_delays_is_completed_or_failed() {
    let mut run = flow("a r b", "r>b")
        .data("a", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .settings(json!({"maxParallelNodes": 1}))
        .start();
    run.fail("a", "E1");
    // `a` waits for its next attempt, `r` runs, `b` is pending.
    for node in ["a", "r", "b"] {
        assert_eq!(
            run.refusal(decide(node, complete(json!(1)))),
            "NODE_NOT_WAITING",
            "{node}"
        );
        assert_eq!(run.refusal(decide(node, fail("E1"))), "NODE_NOT_WAITING", "{node}");
    }
    let mut ended = waiting(json!({}));
    ended.call("h", json!(1));
    assert_eq!(ended.refusal(decide("h", complete(json!(1)))), "NODE_NOT_WAITING");
}

#[test]
fn a_node_that_waits_is_skipped() {
    let mut run = waiting(json!({}));
    run.decide("h", skip());
    assert_eq!(
        (run.nodes().as_str(), run.status()),
        ("a:completed h:skipped b:skipped c:skipped", "completed")
    );
}

#[test]
fn a_node_that_is_skipped_with_an_output_completes_with_it() {
    let mut run = waiting(json!({}));
    run.decide("h", skip_with(json!(5)));
    assert_eq!(
        (run.nodes().as_str(), run.given("b").as_str()),
        ("a:completed h:completed b:running c:skipped", "5")
    );
}

#[test]
fn what_runs_is_aborted_and_skipped() {
    let mut run = flow("a b c", "a>b a~>c").start();
    let token = run.duo.outstanding["a"];
    run.decide("a", skip());
    assert_eq!(
        (run.aborted().as_str(), run.nodes().as_str()),
        ("a", "a:skipped b:skipped c:skipped")
    );
    assert!(run.try_apply(Stimulus::Stale { token }).is_err());
    let mut with_output = flow("a b", "a>b").start();
    with_output.decide("a", skip_with(json!(5)));
    assert_eq!(
        (with_output.aborted().as_str(), with_output.given("b").as_str()),
        ("a", "5")
    );
}

#[test]
fn what_waits_for_its_next_attempt_is_skipped() {
    let mut run = flow("a b", "a>b")
        .data("a", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .start();
    run.fail("a", "E1").decide("a", skip_with(json!(5)));
    assert_eq!(
        (run.nodes().as_str(), run.given("b").as_str(), run.next_due()),
        ("a:completed b:running", "5", None)
    );
}

#[test]
fn what_is_only_pending_or_held_is_skipped_and_never_starts() {
    let mut run = flow("r a b", "r>a a>b").start();
    run.decide("a", skip());
    assert_eq!(run.nodes(), "r:running a:skipped b:skipped");
    run.complete("r", json!(1));
    assert_eq!((run.status(), run.started().as_str()), ("completed", ""));
    let mut with_output = flow("r a b", "r>a a>b").start();
    with_output.decide("a", skip_with(json!(5)));
    assert_eq!(with_output.nodes(), "r:running a:completed b:running");
    let mut held = flow("a b c", "").settings(json!({"maxParallelNodes": 1})).start();
    assert!(held.is_held("b"));
    held.decide("b", skip()).complete("a", json!(1));
    assert_eq!(held.started(), "c1");
}

#[test]
fn a_skip_frees_the_place_of_what_ran() {
    let mut run = flow("a b", "").settings(json!({"maxParallelNodes": 1})).start();
    run.decide("a", skip());
    assert_eq!(run.started(), "b1");
}

#[test]
fn what_has_ended_is_not_skipped() {
    let mut run = flow("a b c d e", "a>b b>c?false").start();
    run.complete("a", json!(1)).complete("b", json!(1));
    for node in ["a", "b", "c"] {
        assert_eq!(run.refusal(decide(node, skip())), "NODE_ENDED", "{node}");
        assert_eq!(run.refusal(decide(node, skip_with(json!(1)))), "NODE_ENDED", "{node}");
    }
}

#[test]
fn a_skipped_node_gives_dead_edges_of_every_type() {
    let mut run = flow("a b c d e", "a>b a!>c a~>d").start();
    run.decide("a", skip());
    assert_eq!(run.duo.state.edges, [EdgeState::Dead; 3]);
    assert_eq!(run.nodes(), "a:skipped b:skipped c:skipped d:skipped e:running");
}

#[test]
fn what_follows_an_output_by_hand_is_as_after_any_completion() {
    let data = json!({"output": "output.id", "outputMapping": {"v": "output"}, "cancels": ["c"]});
    for decision in [complete(json!({"id": 3})), skip_with(json!({"id": 3}))] {
        let mut run = flow("a h/webhook b c", "a>h h>b?output~==~3")
            .data("h", data.clone())
            .start();
        run.complete("a", json!(7)).decide("h", decision);
        assert_eq!(
            (run.nodes().as_str(), run.given("b").as_str(), run.variable("v")),
            ("a:completed h:completed b:running c:canceled", "3", json!(3))
        );
    }
    let mut checked = waiting(json!({"outputSchema": {"type": "object"}}));
    checked.decide("h", complete(json!(5)));
    assert_eq!(
        (checked.node("h"), checked.error_of("h")),
        ("failed", "SCHEMA_VIOLATION")
    );
}

#[test]
fn an_end_that_is_skipped_ends_nothing_even_with_an_output() {
    let mut run = flow("a e/end b", "a>e").start();
    run.decide("e", skip());
    assert_eq!(run.nodes(), "a:running e:skipped b:running");
    let mut with_output = flow("a e/end b", "a>e").start();
    with_output.decide("e", skip_with(json!(5)));
    assert_eq!(with_output.nodes(), "a:running e:completed b:running");
}

#[test]
fn in_a_loop_only_the_current_visit_is_skipped() {
    let mut run = flow(
        "r h b x",
        "r>h h>b b~>h?execution.iteration~==~1 h~>h?execution.iteration~==~1 b>x",
    )
    .start();
    run.complete("r", json!(0)).complete("h", json!(1)).decide("b", skip());
    assert_eq!((run.visits().as_str(), run.started().as_str()), ("r1 h2 b2 x1", "h1@2"));
    run.complete("h", json!(1));
    assert_eq!(run.started(), "b1@2");
}

#[test]
fn decisions_are_taken_while_paused_and_what_follows_waits() {
    let mut run = waiting(json!({}));
    run.pause().decide("h", complete(json!(5)));
    assert_eq!((run.node("h"), run.is_held("b")), ("completed", true));
    run.decide("b", skip());
    assert_eq!((run.status(), run.started().as_str()), ("completed", ""));
}

#[test]
fn decisions_are_refused_while_the_execution_is_being_canceled() {
    let mut run = flow("a w/delay", "")
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .start();
    run.cancel(1_000);
    for decision in [complete(json!(1)), fail("E1"), skip(), skip_with(json!(1))] {
        run.refusal(decide("a", decision));
        assert_eq!((run.node("a"), run.status()), ("running", "running"));
    }
}

#[test]
fn a_decision_during_a_clean_up_starts_nothing_but_clean_up() {
    let mut run = flow("f c d", "f~>c c>d").start();
    run.fail("f", "E1").decide("c", skip_with(json!(5)));
    assert_eq!(
        (run.nodes().as_str(), run.status()),
        ("f:failed c:completed d:running", "running")
    );
    let mut other = flow("f c a b", "f~>c f>a a>b").start();
    other.fail("f", "E1");
    assert_eq!(other.refusal(decide("a", skip())), "NODE_ENDED");
}

#[test]
fn variables_are_set_and_seen_by_what_comes_later() {
    let mut run = flow("a b", "a>b?variables.v~==~2")
        .settings(json!({"variables": {"v": 1, "w": 1}}))
        .start();
    run.apply(Stimulus::SetVariables(vec![
        ("v".into(), json!(2)),
        ("new".into(), json!(3)),
    ]));
    assert_eq!((run.started().as_str(), run.node("a")), ("", "running"));
    assert_eq!(
        (run.variable("v"), run.variable("w"), run.variable("new")),
        (json!(2), json!(1), json!(3))
    );
    run.complete("a", json!(1));
    assert_eq!(run.node("b"), "running");
}

#[test]
fn nothing_is_decided_after_the_end() {
    let mut run = flow("a", "").start();
    run.complete("a", json!(1));
    for stimulus in [
        decide("a", complete(json!(1))),
        decide("a", fail("E1")),
        decide("a", skip()),
        call("a", json!(1)),
        Stimulus::Heartbeat { node: "a".into() },
        Stimulus::SetVariables(vec![("v".into(), json!(2))]),
    ] {
        assert_eq!(run.try_apply(stimulus), Err(troupe_core::execution::StepError::Ended));
    }
}

//! ADR 0019: what random executions found of nodes that run again.

use serde_json::json;

use super::flow::{failure, flow, reopen};
use crate::reference::{Decision, Remedy};

#[test]
fn an_end_node_that_kept_a_tolerated_failure_ended_the_execution_all_the_same() {
    let mut run = flow("a b e/end c", "b>e")
        .data("e", json!({"status": "failed"}))
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.fail("a", "E1").complete("b", json!(1));
    assert_eq!((run.error(), run.node("c")), ("E1", "canceled"));
    assert_eq!(run.refusal(reopen("a", Remedy::Retry)), "NOT_REOPENABLE");
}

#[test]
fn an_end_node_that_ended_nothing_does_not_keep_an_execution_from_going_on() {
    let mut run = flow("a b e/end", "b>e").start();
    run.decide("e", Decision::Skip(Some(json!(1)))).fail("a", "E1");
    assert_eq!((run.status(), run.node("e")), ("failed", "completed"));
    run.retry("");
    assert_eq!(run.started(), "a1@2 b1@2");

    // In a clean-up it completes like any node; then the execution is canceled.
    let mut run = flow("a c d e/end", "a~>c a~>d c>e").start();
    run.fail("a", "E1").complete("c", json!(1)).cancel(0).due();
    assert_eq!((run.status(), run.node("e")), ("canceled", "completed"));
    run.retry("d");
    assert_eq!(run.started(), "d1@2");
}

#[test]
fn a_failure_that_a_back_edge_handled_stays_handled_where_the_pass_does_not_follow() {
    let edges = "r>h h>a h>b a!>h b>h b!>x";
    let mut run = flow("r h a b x", edges).start();
    run.complete("r", json!(0)).complete("h", json!(1));
    run.fail("a", "E1").fail("b", "E2").fail("x", "E3");
    run.retry("");
    assert_eq!(run.started(), "x1@2", "not what a failure edge had been taken for");
}

#[test]
fn a_node_of_type_loop_that_heads_a_loop_is_retried_though_it_went_round_too_often() {
    let data = json!({"workflowId": "other", "while": "true", "maxIterations": 1});
    let mut run = flow("r h/loop b x", "r>h h>b b>h?false b>x").data("h", data).start();
    run.complete("r", json!(0));
    run.apply(crate::support::duo::Stimulus::Children(vec![
        crate::reference::ChildReport {
            node: "h".into(),
            visit: 1,
            index: 0,
            end: crate::reference::ChildEnd::Completed(json!(1)),
        },
    ]));
    assert_eq!((run.error_of("h"), run.status()), ("LOOP_LIMIT", "failed"));
    run.retry("h");
    assert_eq!((run.node("h"), run.visits().as_str()), ("running", "r1 h2 b2 x2"));
}

#[test]
fn a_join_that_would_have_failed_if_the_execution_had_not_is_decided_anew() {
    let mut run = flow("k x f c j", "k~>c x>j c>j?false")
        .join("j", json!({"mode": "allSuccess", "onUnsatisfied": "fail"}))
        .start();
    run.complete("k", json!(1)).complete("x", json!(1)).fail("f", "E1");
    run.complete("c", json!(1));
    assert_eq!((run.error(), run.node("j")), ("E1", "skipped"));
    run.retry("f");
    assert_eq!(
        (run.error(), run.error_of("j")),
        ("JOIN_UNSATISFIED", "JOIN_UNSATISFIED")
    );
}

#[test]
fn what_a_skipped_node_had_received_is_what_its_conditions_see() {
    let mut run = flow("a b c d", "a!>b b>c?input.error.code~==~\"E1\" b>d")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.fail("a", "E1").fail("b", "E2");
    run.apply(reopen("a b", Remedy::Skip(Some(json!(7)))));
    assert_eq!(run.started(), "c1@2 d1@2");
}

#[test]
fn a_join_that_went_on_at_its_timeout_is_not_mapped_anew() {
    let join = json!({"timeout": 100, "onTimeout": "proceed"});
    let mut run = flow("a b j", "a>j b>j")
        .data("j", json!({"join": join, "inputMapping": {"x": "input"}}))
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("a", json!(1)).wait(100).due();
    run.complete("b", json!(2)).fail_with("j", failure("E1"));
    run.retry("");
    assert_eq!(
        (run.started().as_str(), run.given("j").as_str()),
        ("j1@2", r#"{"x":1}"#)
    );
}

#[test]
fn in_a_loop_that_went_round_too_often_a_node_is_retried_with_what_the_last_pass_gave_it() {
    let edges = "r>h h>a a!>b b>h b>x?false";
    let mut run = flow("r h a b x", edges).data("h", json!({"maxIterations": 1})).start();
    run.complete("r", json!(0)).complete("h", json!("last")).fail("a", "E1");
    run.complete("b", json!(1));
    assert_eq!((run.error(), run.visits().as_str()), ("LOOP_LIMIT", "r1 h2 a1 b1 x1"));
    run.retry("a");
    assert_eq!((run.started().as_str(), run.given("a").as_str()), ("a1@2", r#""last""#));
}

#[test]
fn a_cancellation_that_lifts_a_frozen_pause_lets_the_clocks_of_compensations_go_on() {
    use troupe_core::execution::{Event, Status, next_deadline};

    let retry = json!({"maxAttempts": 2, "backoffStrategy": "fixed", "initialDelay": 100, "jitter": "none"});
    let undo = json!({"type": "function", "data": {"retryPolicy": retry}});
    let definition = json!({"id": "w", "version": 1, "settings": {"compensate": true}, "edges": [], "nodes": [
        {"id": "a", "type": "function", "data": {"compensation": undo}}, {"id": "b", "type": "function", "data": {}},
    ]});
    let mut run = crate::support::solo::Solo::new(&definition);
    run.start(None);
    run.complete("a", json!(1)).apply(&Event::Frozen);
    run.now += 10_000;
    run.cancel(5, false).unwrap();
    run.due();
    assert!(matches!(run.state.status, Status::Compensating(_)));
    run.fail("a^", "E1");
    assert_eq!(next_deadline(&run.state).unwrap().0 - run.now, 100);
}

#[test]
fn a_wider_pause_holds_the_clocks_of_compensations_too() {
    use troupe_core::control::ControlsSeen;
    use troupe_core::execution::{Event, next_deadline};

    let undo = json!({"type": "function", "data": {"totalTimeout": 50}});
    let definition = json!({"id": "w", "version": 1, "settings": {"compensate": true}, "nodes": [
        {"id": "a", "type": "function", "data": {"compensation": undo}},
        {"id": "b", "type": "function", "data": {"retryPolicy": {"maxAttempts": 1}}},
    ], "edges": [{"id": "e", "source": "a", "target": "b"}]});
    let mut run = crate::support::solo::Solo::new(&definition);
    run.start(None);
    run.complete("a", json!(1)).fail("b", "E1");
    let held = |whole| {
        Event::ControlsChanged(Box::new(ControlsSeen {
            whole,
            ..ControlsSeen::default()
        }))
    };
    run.apply(&held(true));
    run.now += 60;
    assert_eq!((next_deadline(&run.state), run.undone().as_str()), (None, "a:running"));
    assert!(run.state.held_back().is_some(), "whoever lifts the pause must wake it");
    run.apply(&held(false));
    assert_eq!((run.undone().as_str(), run.status()), ("a:failed(TIMEOUT)", "failed"));
}

#[test]
fn an_absolute_time_moves_by_what_the_clock_stands_after_the_node_became_ready() {
    let data = json!({"delayType": "until", "delayValue": crate::support::EPOCH + 3_000});
    let mut run = flow("a d/delay", "a>d").data("d", data).start();
    run.apply(crate::support::duo::Stimulus::Freeze);
    run.wait(1_000).complete("a", json!(1)).wait(500).resume();
    assert_eq!(run.next_due(), Some(3_500));
}

#[test]
fn what_arrived_before_a_retry_under_a_frozen_pause_counts_from_the_retry() {
    let join = json!({"mode": "allSuccess", "timeout": 100});
    let mut run = flow("a b c j", "a>j b>j")
        .join("j", join)
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.fail("b", "E1").apply(crate::support::duo::Stimulus::Freeze);
    run.wait(1_000)
        .complete("a", json!(1))
        .wait(1_000)
        .retry("b")
        .wait(500)
        .resume();
    assert_eq!(run.next_due(), Some(2_600));
}

#[test]
fn what_counts_as_skipped_before_its_edges_decided_has_received_nothing() {
    let mut run = flow("a b c", "a!>b b>c?throw b!>c")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.fail("a", "E1").fail("b", "E2").fail("c", "E3");
    run.apply(reopen("a b", Remedy::Skip(Some(json!(7)))));
    run.fail("c", "E3");
    run.apply(reopen("b", Remedy::Skip(Some(json!(8)))));
    assert_eq!(
        run.given("c"),
        r#"{"error":{"message":"","code":"EXPRESSION_ERROR"},"input":null}"#
    );
}

#[test]
fn a_clock_that_went_on_and_stopped_again_stands_elsewhere() {
    use crate::reference::{Control, Scope};
    use crate::support::duo::Stimulus;

    let freeze = |control| Stimulus::Control {
        scope: Scope::All,
        is_stop: false,
        control,
    };
    let mut run = flow("d/delay", "")
        .data("d", json!({"delayType": "fixed", "delayValue": 500}))
        .create();
    run.apply(freeze(Some(Control::Freeze)));
    run.apply(Stimulus::Start {
        trigger: None,
        input: json!(1),
        variables: Vec::new(),
    });
    run.apply(freeze(None));
    run.wait(100).apply(freeze(Some(Control::Freeze)));
    run.apply(Stimulus::Learn);
    run.wait(1_000).apply(freeze(None));
    run.apply(Stimulus::Learn);
    assert_eq!(run.next_due(), Some(1_500));
}

//! §4 and §5: how long webhook nodes wait for a call, and for heartbeats.

use serde_json::{Value, json};

use super::flow::{Run, flow};
use crate::support::duo::Stimulus;

/// `h` waits for a call, `a` having completed with 7.
fn at_the_wait(data: Value) -> Run {
    let mut run = flow("a h/webhook b", "a>h h>b").data("h", data).start();
    run.complete("a", json!(7));
    run
}

fn heartbeat(node: &str) -> Stimulus {
    Stimulus::Heartbeat { node: node.into() }
}

#[test]
fn a_node_that_waits_too_long_fails() {
    let mut run = flow("a h/webhook b c", "a>h h>b h!>c")
        .data("h", json!({"timeout": 100}))
        .start();
    run.wait(10).complete("a", json!(7));
    assert_eq!(run.next_due(), Some(110), "from when it waits");
    run.wait(99);
    assert!(run.try_apply(Stimulus::Deadline).is_err(), "never early");
    run.wait(1).due();
    assert_eq!(
        (run.nodes().as_str(), run.error_of("h")),
        ("a:completed h:failed b:skipped c:running", "TIMEOUT")
    );
    assert_eq!(run.given("c"), r#"{"error":{"message":"","code":"TIMEOUT"},"input":7}"#);
}

#[test]
fn its_timeouts_may_be_templates() {
    let mut run = at_the_wait(json!({"timeout": "{{const:300}}"}));
    assert_eq!(run.next_due(), Some(300));
    run.wait(300).due();
    assert_eq!(run.error_of("h"), "TIMEOUT");
    assert_eq!(
        at_the_wait(json!({"heartbeatTimeout": "{{const:40}}"})).next_due(),
        Some(40)
    );
}

#[test]
fn a_wait_is_not_tried_again() {
    let mut run = at_the_wait(json!({"timeout": 100, "retryPolicy": {"maxAttempts": 5}}));
    run.wait(100).due();
    assert_eq!((run.node("h"), run.status()), ("failed", "failed"));
}

#[test]
fn a_wait_without_heartbeats_fails() {
    let mut run = at_the_wait(json!({"heartbeatTimeout": 40}));
    assert_eq!(run.next_due(), Some(40));
    run.wait(40).due();
    assert_eq!(run.error_of("h"), "HEARTBEAT_TIMEOUT");
}

#[test]
fn a_heartbeat_begins_the_heartbeat_anew() {
    let mut run = at_the_wait(json!({"heartbeatTimeout": 40}));
    run.wait(30).heartbeat("h");
    assert_eq!((run.next_due(), run.started().as_str()), (Some(70), ""));
    run.wait(30).heartbeat("h").wait(39).call("h", json!(1));
    assert_eq!(run.node("h"), "completed");
}

#[test]
fn heartbeats_do_not_put_off_the_timeout() {
    let mut run = at_the_wait(json!({"timeout": 100, "heartbeatTimeout": 80}));
    run.wait(70).heartbeat("h");
    assert_eq!(run.next_due(), Some(100));
    run.wait(30).due();
    assert_eq!(run.error_of("h"), "TIMEOUT");
}

#[test]
fn at_one_instant_the_timeout_wins() {
    for data in [
        json!({"timeout": 40, "heartbeatTimeout": 40}),
        json!({"totalTimeout": 40, "heartbeatTimeout": 40}),
    ] {
        let mut run = at_the_wait(data);
        run.wait(40).due();
        assert_eq!(run.error_of("h"), "TIMEOUT");
    }
}

#[test]
fn of_two_timeouts_that_are_past_the_first_counts() {
    let mut run = at_the_wait(json!({"timeout": 100, "heartbeatTimeout": 40}));
    run.pause().wait(200).resume();
    assert_eq!(run.error_of("h"), "HEARTBEAT_TIMEOUT");
}

#[test]
fn a_heartbeat_is_for_a_node_that_waits() {
    let mut run = flow("a h/webhook w/delay", "a>h")
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .data("h", json!({"heartbeatTimeout": 40}))
        .start();
    for node in ["a", "h", "w"] {
        assert_eq!(run.refusal(heartbeat(node)), "NODE_NOT_WAITING", "{node}");
    }
    run.complete("a", json!(1)).call("h", json!(1));
    assert_eq!(run.refusal(heartbeat("h")), "NODE_NOT_WAITING");
}

#[test]
fn a_heartbeat_that_nobody_waits_for_changes_nothing() {
    let mut run = at_the_wait(json!({"timeout": 100}));
    let before = run.duo.state.seq;
    assert!(run.try_apply(heartbeat("h")).is_err());
    assert_eq!(run.duo.state.seq, before);
}

#[test]
fn its_total_timeout_counts_too() {
    let mut run = at_the_wait(json!({"timeout": 500, "totalTimeout": 100}));
    assert_eq!(run.next_due(), Some(100));
    run.wait(100).due();
    assert_eq!(run.error_of("h"), "TIMEOUT");
}

#[test]
fn timeouts_wait_for_the_resume_and_a_call_may_come_before_it() {
    let mut run = at_the_wait(json!({"timeout": 100}));
    run.pause().wait(200);
    assert_eq!(run.next_due(), None);
    run.call("h", json!(1));
    assert_eq!(run.node("h"), "completed");
    let mut late = at_the_wait(json!({"timeout": 100}));
    late.pause().wait(200).resume();
    assert_eq!(late.error_of("h"), "TIMEOUT");
}

#[test]
fn each_visit_waits_anew() {
    let mut run = flow("r g h/webhook", "r>g g>h h>g?execution.iteration~==~1")
        .data("h", json!({"timeout": 100}))
        .start();
    run.complete("r", json!(0))
        .complete("g", json!(0))
        .wait(60)
        .call("h", json!(1));
    run.complete("g", json!(0));
    assert_eq!((run.node("h"), run.next_due()), ("running", Some(160)));
}

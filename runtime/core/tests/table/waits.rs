//! §5 and ADR 0017: webhook nodes that wait for a call.

use serde_json::{Value, json};

use super::flow::{Flow, Run, call, flow};
use crate::support::duo::Stimulus;

/// `h` waits for a call once `a` has completed, and leads to `b`.
fn waiting(data: Value) -> Flow {
    flow("a h/webhook b", "a>h h>b").data("h", data)
}

/// `a` has completed with 7.
fn at_the_wait(data: Value) -> Run {
    let mut run = waiting(data).start();
    run.complete("a", json!(7));
    run
}

/// `h` waits in a loop that goes round twice, and leads to `x`.
fn in_a_loop() -> Flow {
    flow(
        "r g h/webhook x",
        "r>g g>h h>g?execution.iteration~==~1 h>x?execution.iteration~!=~1",
    )
}

fn heartbeat(node: &str) -> Stimulus {
    Stimulus::Heartbeat { node: node.into() }
}

#[test]
fn a_node_that_waits_runs_no_attempt_and_takes_no_place() {
    let run = {
        let mut run = flow("a h/webhook c d", "a>h")
            .settings(json!({"maxParallelNodes": 1}))
            .start();
        run.complete("a", json!(1)).complete("c", json!(1));
        run
    };
    assert_eq!((run.node("h"), run.node("d")), ("running", "running"));
    assert_eq!((run.started().as_str(), run.next_due()), ("d1", None));
}

#[test]
fn a_call_completes_the_node_that_waits() {
    let mut run = at_the_wait(json!({}));
    run.call("h", json!({"id": 1}));
    assert_eq!(
        (run.nodes().as_str(), run.started().as_str()),
        ("a:completed h:completed b:running", "b1")
    );
    assert_eq!(
        run.given("b"),
        r#"{"body":{"id":1},"headers":{"x-a":"1"},"query":{},"method":"POST"}"#
    );
}

#[test]
fn a_call_that_comes_early_is_kept_and_delivered() {
    let mut run = waiting(json!({"transformationTemplate": "{{output.body}}"})).start();
    run.call("h", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.kept(), run.started().as_str()),
        ("a:running h:pending b:pending", 1, "")
    );
    run.complete("a", json!(7));
    assert_eq!(
        (run.node("h"), run.kept(), run.given("b").as_str()),
        ("completed", 0, "1")
    );
}

#[test]
fn calls_that_come_early_are_delivered_oldest_first_one_a_visit() {
    let mut run = in_a_loop()
        .data("h", json!({"transformationTemplate": "{{output.body}}"}))
        .start();
    run.call("h", json!(1)).call("h", json!(2)).call("h", json!(3));
    run.complete("r", json!(0)).complete("g", json!(0));
    assert_eq!(
        (run.kept(), run.started().as_str(), run.given("g").as_str()),
        (2, "g1@2", "1")
    );
    run.complete("g", json!(0));
    assert_eq!((run.given("x").as_str(), run.node("h")), ("2", "completed"));
}

#[test]
fn a_call_after_the_node_s_end_is_kept_while_its_loop_may_come_round() {
    let mut run = flow(
        "r h/webhook g x",
        "r>h h>g g>h?execution.iteration~==~1 g>x?execution.iteration~!=~1",
    )
    .start();
    run.complete("r", json!(0)).call("h", json!(1)).call("h", json!(2));
    assert_eq!((run.node("h"), run.kept()), ("completed", 1));
    run.complete("g", json!(0));
    assert_eq!((run.visits().as_str(), run.kept()), ("r1 h2 g2 x1", 0));
    run.call("h", json!(3)).complete("g", json!(0));
    assert_eq!(run.node("x"), "running");
    assert_eq!(
        run.refusal(call("h", json!(4))),
        "NODE_NOT_WAITING",
        "the loop has ended"
    );
}

#[test]
fn in_an_inner_loop_that_has_ended_a_call_is_kept_for_the_outer_one() {
    let mut run = flow(
        "r g h/webhook k x",
        "r>g g>h h>h?false h>k k>g?execution.iteration~==~1 k>x?execution.iteration~!=~1",
    )
    .start();
    run.complete("r", json!(0)).complete("g", json!(0)).call("h", json!(1));
    assert_eq!((run.node("h"), run.node("k")), ("completed", "running"));
    run.call("h", json!(2));
    assert_eq!(run.kept(), 1);
}

#[test]
fn at_most_64_calls_are_kept_for_a_node() {
    let mut run = flow("a h/webhook i/webhook", "a>h a>i").start();
    for number in 0..64 {
        run.call("h", json!(number));
    }
    assert_eq!(run.refusal(call("h", json!(64))), "TOO_MANY_CALLS");
    run.call("i", json!(0));
    assert_eq!(run.kept(), 65, "each node has its own");
    run.complete("a", json!(1));
    assert_eq!((run.kept(), run.status()), (63, "completed"));
}

#[test]
fn a_call_for_a_node_that_has_ended_is_refused() {
    let mut run = at_the_wait(json!({}));
    run.call("h", json!(1));
    assert_eq!(run.refusal(call("h", json!(2))), "NODE_NOT_WAITING");
    let mut skipped = flow("a h/webhook c", "a>h?false").start();
    skipped.complete("a", json!(1));
    assert_eq!(skipped.refusal(call("h", json!(1))), "NODE_NOT_WAITING");
}

#[test]
fn a_call_for_a_node_of_another_type_or_for_a_root_is_refused() {
    let mut run = flow("h/webhook w/delay a b", "a>b")
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .start();
    for node in ["h", "w", "a", "b"] {
        assert_eq!(run.refusal(call(node, json!(1))), "NODE_NOT_WAITING", "{node}");
    }
}

#[test]
fn a_call_while_the_execution_is_being_canceled_is_refused() {
    let mut run = flow("a g h/webhook", "a>h").start();
    run.complete("a", json!(1)).cancel(1_000);
    assert_eq!((run.node("h"), run.status()), ("canceled", "running"));
    assert_eq!(run.refusal(call("h", json!(1))), "NODE_NOT_WAITING");
    assert_eq!(run.refusal(heartbeat("h")), "NODE_NOT_WAITING");
}

#[test]
fn calls_are_taken_while_paused_and_what_follows_waits() {
    let mut run = at_the_wait(json!({}));
    run.pause().call("h", json!(1));
    assert_eq!((run.node("h"), run.is_held("b")), ("completed", true));
    run.resume();
    assert_eq!(run.started(), "b1");
    let mut early = waiting(json!({})).start();
    early.pause().call("h", json!(1)).complete("a", json!(7));
    assert_eq!((early.node("h"), early.is_held("b")), ("completed", true));
}

#[test]
fn a_call_that_violates_the_schema_is_refused_and_changes_nothing() {
    let schema = json!({"payloadSchema": {"type": "object"}});
    let mut run = at_the_wait(schema.clone());
    assert_eq!(run.refusal(call("h", json!(1))), "SCHEMA_VIOLATION");
    assert_eq!(run.node("h"), "running");
    run.call("h", json!({}));
    assert_eq!(run.node("h"), "completed");
    let mut early = waiting(schema).start();
    assert_eq!(early.refusal(call("h", json!(1))), "SCHEMA_VIOLATION");
    assert_eq!(early.kept(), 0);
}

#[test]
fn a_template_makes_the_output_of_a_call() {
    for (template, given) in [
        ("{{output.body.id}}", "3"),
        ("{{output.method}}", "\"POST\""),
        ("{{input}}", "7"),
        ("{{variables.v}}", "\"var\""),
        ("{{nodes.a.output}}", "7"),
        ("{{trigger.ok}}", "true"),
        ("words", "\"words\""),
    ] {
        let mut run = waiting(json!({"transformationTemplate": template}))
            .settings(json!({"variables": {"v": "var"}}))
            .start();
        run.complete("a", json!(7)).call("h", json!({"id": 3}));
        assert_eq!(run.given("b"), given, "{template}");
    }
}

#[test]
fn the_template_of_a_kept_call_sees_what_there_is_when_it_is_delivered() {
    let mut run = waiting(json!({"transformationTemplate": "{{nodes.a.output}}"})).start();
    run.call("h", json!(1)).complete("a", json!(8));
    assert_eq!(run.given("b"), "8");
}

#[test]
fn a_template_that_throws_fails_the_node() {
    let mut run = flow("a h/webhook b c", "a>h h>b h!>c")
        .data("h", json!({"transformationTemplate": "{{throw}}"}))
        .start();
    run.complete("a", json!(7)).call("h", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.error_of("h")),
        ("a:completed h:failed b:skipped c:running", "EXPRESSION_ERROR")
    );
    assert!(run.given("c").ends_with(r#""input":7}"#), "{}", run.given("c"));
}

#[test]
fn what_follows_a_call_is_as_after_any_completion() {
    let data = json!({
        "transformationTemplate": "{{output.body}}", "output": "output.id", "outputMapping": {"v": "output"}, "cancels": ["c"],
    });
    let mut run = flow("a h/webhook b c", "a>h h>b?output~==~3").data("h", data).start();
    run.complete("a", json!(7)).call("h", json!({"id": 3}));
    assert_eq!(
        (run.nodes().as_str(), run.given("b").as_str(), run.variable("v")),
        ("a:completed h:completed b:running c:canceled", "3", json!(3))
    );
    let mut checked = at_the_wait(json!({"outputSchema": {"type": "number"}}));
    checked.call("h", json!(1));
    assert_eq!(checked.error_of("h"), "SCHEMA_VIOLATION");
}

#[test]
fn a_wait_ends_with_its_execution_branch_or_race() {
    let mut failed = flow("a h/webhook b", "a>h").start();
    failed.complete("a", json!(1)).fail("b", "E1");
    assert_eq!((failed.node("h"), failed.status()), ("canceled", "failed"));
    let mut timed_out = waiting(json!({})).settings(json!({"timeout": 100})).start();
    timed_out.complete("a", json!(1)).wait(100).due();
    assert_eq!(
        (timed_out.node("h"), timed_out.error()),
        ("canceled", "EXECUTION_TIMEOUT")
    );
    let mut race = flow("a h/webhook i/webhook", "a>h a>i")
        .data("h", json!({"cancels": ["i"]}))
        .data("i", json!({"cancels": ["h"]}))
        .start();
    race.complete("a", json!(1)).call("i", json!(1));
    assert_eq!(race.nodes(), "a:completed h:canceled i:completed");
    assert!(race.try_apply(call("h", json!(1))).is_err(), "the execution has ended");
}

#[test]
fn a_wait_survives_interruptions_of_the_engine() {
    let mut run = flow("a h/webhook b", "a>h").data("h", json!({"timeout": 100})).start();
    run.complete("a", json!(1));
    run.apply(Stimulus::Interrupt);
    assert_eq!((run.node("h"), run.next_due()), ("running", Some(100)));
    run.call("h", json!(1));
    assert_eq!(run.node("h"), "completed");
}

//! §5, ADR 0016: nodes with child executions, as their parent sees them.

use serde_json::{Value, json};
use troupe_core::execution::StepError;

use super::flow::{Flow, Run, decide, failure, flow};
use crate::reference::{ChildEnd, ChildReport, Decision, Did, Tell};
use crate::support::duo::Stimulus;

/// `p` starts children and leads to `b`, on failure to `h`.
fn parent(kind: &str, data: Value) -> Flow {
    flow(&format!("p/{kind} b h"), "p>b p!>h")
        .data("p", json!({"workflowId": "other"}))
        .data("p", data)
}

fn each(data: Value) -> Flow {
    parent("forEach", json!({"items": "const:[10,20,30,40]"})).data("p", data)
}

fn report(index: usize, end: ChildEnd) -> ChildReport {
    ChildReport {
        node: "p".into(),
        visit: 1,
        index,
        end,
    }
}

fn completed(index: usize, output: Value) -> ChildReport {
    report(index, ChildEnd::Completed(output))
}

fn failed(index: usize, code: &str) -> ChildReport {
    report(index, ChildEnd::Failed(failure(code)))
}

fn began(run: &Run, index: usize) -> ChildReport {
    report(index, ChildEnd::Began(run.duo.state.id.to_string()))
}

impl Run {
    fn children(&mut self, reports: Vec<ChildReport>) -> &mut Self {
        self.apply(Stimulus::Children(reports));
        self
    }

    /// The children that the last stimulus began.
    fn begun(&self) -> String {
        let begun = self.done.iter().filter_map(|did| match did {
            Did::Begin { node, index, .. } => Some(format!("{node}{index}")),
            _ => None,
        });
        begun.collect::<Vec<_>>().join(" ")
    }

    fn payloads(&self) -> Vec<Value> {
        let payloads = self.done.iter().filter_map(|did| match did {
            Did::Begin { input, .. } => Some(input.clone()),
            _ => None,
        });
        payloads.collect()
    }

    /// What the last stimulus had children told, such as `p0:Cancel`.
    fn told(&self) -> String {
        let told = self.done.iter().filter_map(|did| match did {
            Did::Tell { node, index, what, .. } => Some(format!("{node}{index}:{what:?}")),
            _ => None,
        });
        told.collect::<Vec<_>>().join(" ")
    }

    fn given_output(&self) -> Value {
        let output = self.state_of("p").output.as_ref();
        output.map_or(json!("nothing"), crate::support::evaluator::parsed)
    }
}

#[test]
fn a_child_for_each_item_gets_the_item_its_index_and_the_input() {
    let run = each(json!({})).start_with(json!("in"));
    assert_eq!((run.begun().as_str(), run.node("p")), ("p0 p1 p2 p3", "running"));
    let expected = json!([
        {"item": 10, "index": 0, "input": "in"},
        {"item": 20, "index": 1, "input": "in"},
        {"item": 30, "index": 2, "input": "in"},
        {"item": 40, "index": 3, "input": "in"},
    ]);
    assert_eq!(Value::from(run.payloads()), expected);
}

#[test]
fn the_outputs_are_in_item_order_however_the_children_end() {
    let mut run = each(json!({})).start();
    run.children(vec![completed(3, json!("d"))]);
    run.children(vec![completed(1, json!("b")), completed(0, json!("a"))]);
    assert_eq!(run.node("p"), "running");
    run.children(vec![completed(2, json!("c"))]);
    assert_eq!(run.given("b"), r#"["a","b","c","d"]"#);
}

#[test]
fn no_more_children_are_open_than_may_be() {
    let mut run = each(json!({"maxConcurrency": 2})).start();
    assert_eq!(run.begun(), "p0 p1");
    run.children(vec![completed(1, json!(1))]);
    assert_eq!(run.begun(), "p2");
    run.children(vec![completed(0, json!(1)), completed(2, json!(1))]);
    assert_eq!((run.begun().as_str(), run.node("p")), ("p3", "running"));
}

#[test]
fn a_list_without_items_is_done_at_once_also_while_paused() {
    let mut run = flow("a p/forEach", "a>p")
        .data("p", json!({"workflowId": "other", "items": "const:[]"}))
        .start();
    run.pause().complete("a", json!(1));
    assert_eq!(run.given_output(), json!([]));
}

#[test]
fn more_failures_than_tolerated_fail_the_node_and_cancel_the_rest() {
    for (tolerated, limit) in [(json!(1), 1), (json!("50%"), 2), (json!("49%"), 1), (json!("0%"), 0)] {
        let mut run = each(json!({"toleratedFailures": tolerated})).start();
        for index in 0..limit {
            run.children(vec![failed(index, "E1")]);
        }
        assert_eq!((run.node("p"), run.told().as_str()), ("running", ""), "{tolerated}");
        run.children(vec![failed(3, "E9")]);
        assert_eq!((run.node("p"), run.error_of("p")), ("failed", "CHILD_FAILED"));
        let rest: Vec<String> = (limit..3).map(|index| format!("p{index}:Cancel")).collect();
        assert_eq!(run.told(), rest.join(" "));
    }
}

#[test]
fn the_error_names_the_first_child_that_failed() {
    let mut run = each(json!({"toleratedFailures": 1})).start();
    run.children(vec![failed(2, "E2"), failed(0, "E0")]);
    let given: Value = serde_json::from_str(&run.given("h")).unwrap();
    let details = &given["error"]["details"];
    assert_eq!(
        (&details["index"], &details["error"]["code"]),
        (&json!(2), &json!("E2"))
    );
}

#[test]
fn a_tolerated_failure_leaves_a_null() {
    let mut run = each(json!({"toleratedFailures": 2})).start();
    run.children(vec![failed(1, "E1"), failed(0, "E1")]);
    run.children(vec![completed(2, json!(2)), completed(3, json!(3))]);
    assert_eq!(run.given("b"), "[null,null,2,3]");
}

#[test]
fn once_enough_completed_the_rest_is_canceled_or_never_begins() {
    let mut run = each(json!({"succeedAfter": 2, "maxConcurrency": 3})).start();
    run.children(vec![completed(2, json!("c"))]);
    assert_eq!(run.begun(), "p3");
    run.children(vec![completed(0, json!("a"))]);
    assert_eq!((run.begun().as_str(), run.told().as_str()), ("", "p1:Cancel p3:Cancel"));
    assert_eq!(run.given("b"), r#"["a",null,"c",null]"#);
}

#[test]
fn a_failed_child_is_not_retried_by_its_parent() {
    let mut run = parent("subworkflow", json!({"retryPolicy": {"maxAttempts": 5}})).start();
    run.children(vec![failed(0, "E1")]);
    assert_eq!((run.node("p"), run.begun().as_str()), ("failed", ""));
}

#[test]
fn a_report_that_comes_again_or_too_late_is_stale() {
    let mut run = each(json!({"succeedAfter": 2})).start();
    run.children(vec![completed(0, json!("a"))]);
    let again = Stimulus::Children(vec![completed(0, json!("other"))]);
    assert_eq!(run.try_apply(again), Err(StepError::Stale));
    // Beside one that is news it changes nothing.
    run.children(vec![
        failed(0, "E1"),
        completed(1, json!("b")),
        completed(2, json!("c")),
    ]);
    assert_eq!(run.given("b"), r#"["a","b",null,null]"#);
    let late = Stimulus::Children(vec![completed(3, json!("d"))]);
    assert_eq!(run.try_apply(late), Err(StepError::Stale));
}

#[test]
fn the_end_of_one_parent_may_cancel_another_before_its_own_report_counts() {
    let mut run = flow("p/subworkflow q/subworkflow b", "p>b q>b")
        .data("p", json!({"workflowId": "other", "cancels": ["q"]}))
        .data("q", json!({"workflowId": "other"}))
        .start();
    let of_q = ChildReport {
        node: "q".into(),
        ..completed(0, json!(2))
    };
    run.children(vec![completed(0, json!(1)), of_q]);
    assert_eq!((run.node("q"), run.told().as_str()), ("canceled", "q0:Cancel"));
}

#[test]
fn a_join_that_fires_cancels_a_late_parent_before_its_report_counts() {
    let mut run = flow("p/subworkflow q/subworkflow x", "p>x q>x")
        .data("p", json!({"workflowId": "other"}))
        .data("q", json!({"workflowId": "other"}))
        .join("x", json!({"mode": "any", "lateArrivals": "cancel"}))
        .start();
    let of_q = ChildReport {
        node: "q".into(),
        ..completed(0, json!(2))
    };
    run.children(vec![completed(0, json!(1)), of_q]);
    assert_eq!((run.node("q"), run.told().as_str()), ("canceled", "q0:Cancel"));
    assert_eq!(run.started(), "x1");
}

#[test]
fn a_detached_child_is_started_and_no_more() {
    let mut run = parent("subworkflow", json!({"mode": "detached"})).start();
    assert_eq!((run.begun().as_str(), run.node("p")), ("p0", "running"));
    let id = run.duo.state.id.to_string();
    run.children(vec![began(&run, 0)]);
    assert_eq!(run.given_output(), json!({"executionId": id}));
}

#[test]
fn a_detached_child_does_not_share_the_fate_of_its_parent() {
    let mut run = parent("subworkflow", json!({"mode": "detached"})).start();
    // Before its begin was reported as well as after it.
    run.pause();
    assert_eq!(run.told(), "");
    run.resume();
    assert_eq!(run.told(), "");
    run.cancel(10);
    assert_eq!((run.told().as_str(), run.status()), ("", "canceled"));
}

#[test]
fn nobody_waits_for_children_where_wait_is_false() {
    let mut run = each(json!({"wait": false, "maxConcurrency": 3})).start();
    let attached = |did: &Did| matches!(did, Did::Begin { attached: true, .. });
    assert!(run.begun() == "p0 p1 p2" && !run.done.iter().any(attached));
    run.children(vec![began(&run, 0), began(&run, 1), began(&run, 2)]);
    assert_eq!((run.begun().as_str(), run.node("p")), ("p3", "running"));
    run.children(vec![began(&run, 3)]);
    assert_eq!(run.given_output(), json!({"started": 4}));
}

#[test]
fn a_loop_goes_round_while_its_condition_holds() {
    let data = json!({"while": "output != 3", "maxIterations": 5});
    let mut run = parent("loop", data).start_with(json!("in"));
    assert_eq!(run.payloads(), [json!({"input": "in", "iteration": 1, "last": null})]);
    run.children(vec![completed(0, json!(7))]);
    assert_eq!(run.payloads(), [json!({"input": "in", "iteration": 2, "last": 7})]);
    run.children(vec![completed(1, json!(3))]);
    assert_eq!((run.begun().as_str(), run.given("b").as_str()), ("", "3"));
}

#[test]
fn a_loop_that_would_go_round_too_often_fails() {
    let data = |condition: &str| json!({"while": condition, "maxIterations": 2});
    let mut run = parent("loop", data("true")).start();
    run.children(vec![completed(0, json!(1))])
        .children(vec![completed(1, json!(1))]);
    assert_eq!((run.node("p"), run.error_of("p")), ("failed", "LOOP_LIMIT"));
    let mut run = parent("loop", data("output != 2")).start();
    run.children(vec![completed(0, json!(1))])
        .children(vec![completed(1, json!(2))]);
    assert_eq!(run.node("p"), "completed", "it wants no third one");
}

#[test]
fn the_condition_of_a_loop_is_not_asked_while_paused_not_even_after_the_last_iteration() {
    for (most, ends) in [(5, "p1"), (1, "")] {
        let data = json!({"while": "variables.v0 != 1", "maxIterations": most});
        let mut run = parent("loop", data).start();
        run.pause().children(vec![completed(0, json!(1))]);
        assert_eq!((run.node("p"), run.begun().as_str()), ("running", ""));
        run.resume();
        assert_eq!(run.begun(), ends);
        let data = json!({"while": "variables.v0 != 1", "maxIterations": most});
        let mut run = parent("loop", data).start();
        run.pause().children(vec![completed(0, json!(1))]);
        run.apply(Stimulus::SetVariables(vec![("v0".into(), json!(1))]));
        run.resume();
        assert_eq!(run.node("p"), "completed", "it sees what was set meanwhile");
    }
}

#[test]
fn a_pause_and_what_follows_reach_the_open_children() {
    let mut run = each(json!({"maxConcurrency": 2})).start();
    run.pause();
    assert_eq!(run.told(), "p0:Pause p1:Pause");
    run.children(vec![completed(0, json!(1))]);
    assert_eq!(run.begun(), "", "none begins while paused");
    run.resume();
    assert_eq!((run.told().as_str(), run.begun().as_str()), ("p1:Resume", "p2"));
    run.cancel(10);
    assert_eq!(
        (run.told().as_str(), run.node("p")),
        ("p1:Cancel p2:Cancel", "canceled")
    );
}

#[test]
fn what_fell_due_meanwhile_is_applied_before_children_go_on_or_begin() {
    let mut run = flow("d/delay q/forEach p/forEach", "d>q")
        .data("d", json!({"delayType": "fixed", "delayValue": 5}))
        .data("q", json!({"workflowId": "other", "items": "const:[1]"}))
        .data(
            "p",
            json!({"workflowId": "other", "items": "const:[1]", "totalTimeout": 10}),
        )
        .start();
    run.pause().wait(20).resume();
    // `d` is due and lets `q` begin, `p` fails and with it the execution.
    assert_eq!((run.told().as_str(), run.begun().as_str()), ("p0:Cancel", ""));
    assert_eq!(run.nodes(), "d:completed q:canceled p:failed");
}

#[test]
fn a_node_that_ends_in_the_step_in_which_it_became_ready_begins_no_child() {
    let run = flow("p/forEach e/end c/trigger", "c>e")
        .data("p", json!({"workflowId": "other", "items": "const:[1,2]"}))
        .data("c", json!({"triggerType": "manual", "config": {}}))
        .start();
    assert_eq!(
        (run.nodes().as_str(), run.begun().as_str(), run.told().as_str()),
        ("p:canceled e:completed c:completed", "", "")
    );
}

#[test]
fn an_operator_ends_a_node_with_children_as_one_that_waits() {
    for (decision, ends) in [
        (Decision::Complete(json!("enough")), "completed"),
        (Decision::Fail(failure("E1")), "failed"),
        (Decision::Skip(None), "skipped"),
        (Decision::Skip(Some(json!(1))), "completed"),
    ] {
        let mut run = each(json!({"maxConcurrency": 1})).start();
        run.apply(decide("p", decision));
        assert_eq!((run.node("p"), run.told().as_str()), (ends, "p0:Cancel"));
    }
}

#[test]
fn the_total_timeout_of_a_parent_counts_and_no_attempt_s_does() {
    let mut run = each(json!({"totalTimeout": 100, "timeout": 5})).start();
    assert_eq!(run.next_due(), Some(100));
    run.wait(100).due();
    assert_eq!(
        (run.error_of("p"), run.told().as_str()),
        ("TIMEOUT", "p0:Cancel p1:Cancel p2:Cancel p3:Cancel")
    );
}

#[test]
fn fields_of_the_wrong_type_fail_the_node_before_any_child() {
    let wrong = [
        ("forEach", json!({"items": "const:5"}), "EXPRESSION_ERROR"),
        ("forEach", json!({"items": "throw"}), "EXPRESSION_ERROR"),
        (
            "forEach",
            json!({"items": "const:[1]", "maxConcurrency": "{{const:0}}"}),
            "NODE_DATA_INVALID",
        ),
        (
            "forEach",
            json!({"items": "const:[1]", "toleratedFailures": "{{const:\"1\"}}"}),
            "NODE_DATA_INVALID",
        ),
        (
            "forEach",
            json!({"items": "const:[1]", "wait": "{{const:\"no\"}}"}),
            "NODE_DATA_INVALID",
        ),
        (
            "subworkflow",
            json!({"mode": "{{const:\"loose\"}}"}),
            "NODE_DATA_INVALID",
        ),
        (
            "loop",
            json!({"while": "throw", "maxIterations": 2}),
            "EXPRESSION_ERROR",
        ),
    ];
    for (kind, data, code) in wrong {
        let run = parent(kind, data.clone()).start();
        assert_eq!((run.error_of("p"), run.begun().as_str()), (code, ""), "{data}");
    }
}

#[test]
fn every_visit_of_a_parent_in_a_loop_has_children_of_its_own() {
    let mut run = flow(
        "r p/subworkflow x",
        "r>p p>p?execution.iteration~==~1 p>x?execution.iteration~!=~1",
    )
    .data("p", json!({"workflowId": "other"}))
    .start();
    run.complete("r", json!("first"));
    let first = completed(0, json!("second"));
    run.children(vec![first.clone()]);
    assert_eq!(
        (run.visits().as_str(), run.payloads()),
        ("r1 p2 x1", vec![json!("second")])
    );
    assert_eq!(
        run.try_apply(Stimulus::Children(vec![first.clone()])),
        Err(StepError::Stale)
    );
    run.children(vec![ChildReport { visit: 2, ..first }]);
    assert_eq!(run.node("x"), "running");
}

#[test]
fn an_operator_s_pause_outlasts_the_parent_s() {
    let mut run = flow("a", "").start();
    run.apply(Stimulus::PauseWithParent);
    assert_eq!(run.try_apply(Stimulus::PauseWithParent), Err(StepError::Unchanged));
    run.pause();
    assert_eq!(run.try_apply(Stimulus::ResumeWithParent), Err(StepError::Unchanged));
    assert!(run.duo.state.paused);
    run.resume();
    assert_eq!(run.try_apply(Stimulus::ResumeWithParent), Err(StepError::Unchanged));
}

#[test]
fn a_parent_tells_its_own_children_that_it_goes_with_its_parent() {
    let mut run = each(json!({"maxConcurrency": 1})).start();
    run.apply(Stimulus::PauseWithParent);
    assert_eq!(run.told(), "p0:Pause");
    run.apply(Stimulus::ResumeWithParent);
    assert_eq!(run.told(), "p0:Resume");
}

#[test]
fn clean_up_may_have_children() {
    let mut run = flow("a c/subworkflow p/subworkflow", "a~>c")
        .data("c", json!({"workflowId": "other"}))
        .data("p", json!({"workflowId": "other"}))
        .start();
    run.fail("a", "E1");
    assert_eq!(
        (run.begun().as_str(), run.told().as_str(), run.status()),
        ("c0", "p0:Cancel", "running")
    );
    assert!(matches!(
        run.done.as_slice(),
        [.., Did::Tell { what: Tell::Cancel, .. }]
    ));
    run.children(vec![ChildReport {
        node: "c".into(),
        ..completed(0, json!(1))
    }]);
    assert_eq!((run.node("c"), run.status()), ("completed", "failed"));
}

#[test]
fn thirty_two_executions_may_be_above_one() {
    for (depth, ends) in [(31, "running"), (32, "failed")] {
        let mut run = parent("subworkflow", json!({})).create();
        run.duo.depth(depth);
        run.apply(Stimulus::Start {
            trigger: None,
            input: json!(1),
            variables: Vec::new(),
        });
        assert_eq!(run.node("p"), ends, "{depth}");
    }
}

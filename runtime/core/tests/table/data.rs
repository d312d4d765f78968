//! §3 and §8.3: inputs, outputs, variables, mappings, schemas.

use serde_json::json;

use super::flow::flow;
use crate::reference::Did;
use crate::support::duo::Stimulus;

#[test]
fn a_root_gets_the_start_payload() {
    let run = flow("a t/trigger b", "t>b").start_with(json!([1, 2]));
    assert_eq!((run.given("a").as_str(), run.given("b").as_str()), ("[1,2]", "[1,2]"));
}

#[test]
fn an_input_mapping_sees_the_unmapped_input_and_the_rest_of_the_scope() {
    let mapping = json!({"inputMapping": {"x": "input.n", "t": "trigger.ok", "v": "variables.v", "o": "nodes.a.output.n",
        "s": "nodes.a.status", "w": "execution.workflowId", "u": "nodes.c.status"}});
    let mut run = flow("a b c", "a>b")
        .data("b", mapping)
        .settings(json!({"variables": {"v": 9}}))
        .start();
    run.complete("a", json!({"n": 4}));
    let expected = r#"{"x":4,"t":true,"v":9,"o":4,"s":"completed","w":"flow","u":"running"}"#;
    assert_eq!(run.given("b"), expected);
}

#[test]
fn a_mapped_input_is_fixed_once_a_visit() {
    let mut run = flow("a b", "")
        .data(
            "a",
            json!({"inputMapping": {"v": "variables.v"}, "retryPolicy": {"maxAttempts": 2, "jitter": "none"}}),
        )
        .data("b", json!({"outputMapping": {"v": "output"}}))
        .settings(json!({"variables": {"v": 1}}))
        .start();
    run.fail("a", "E1").complete("b", json!(2)).wait(1_000).due();
    let again = Did::Start {
        node: "a".into(),
        visit: 1,
        attempt: 2,
        input: json!({"v": 1}),
        data: json!({}),
    };
    assert_eq!(run.done, [again]);
}

#[test]
fn templates_are_resolved_when_the_node_becomes_ready_and_stay() {
    let mut run = flow("a b", "")
        .data(
            "a",
            json!({"note": "{{variables.v}}", "retryPolicy": {"maxAttempts": 2, "jitter": "none"}}),
        )
        .data("b", json!({"outputMapping": {"v": "output"}}))
        .settings(json!({"variables": {"v": {"deep": [1]}}}))
        .start();
    run.fail("a", "E1").complete("b", json!(2)).wait(1_000).due();
    let again = Did::Start {
        node: "a".into(),
        visit: 1,
        attempt: 2,
        input: json!({"ok": true}),
        data: json!({"note": {"deep": [1]}}),
    };
    assert_eq!(run.done, [again]);
}

#[test]
fn an_input_mapping_that_throws_fails_the_target_with_no_attempt_and_the_unmapped_input() {
    for data in [
        json!({"inputMapping": {"x": "const:1", "y": "throw"}}),
        json!({"note": "{{throw}}"}),
    ] {
        let mut run = flow("a b h", "a>b b!>h").data("b", data).start();
        run.complete("a", json!(7));
        assert_eq!(
            (run.error_of("b"), run.state_of("b").attempts.len()),
            ("EXPRESSION_ERROR", 0)
        );
        assert_eq!(
            run.given("h"),
            r#"{"error":{"message":"","code":"EXPRESSION_ERROR"},"input":7}"#
        );
    }
}

#[test]
fn an_output_expression_replaces_the_output() {
    let mut run = flow("a b", "a>b?output.ok")
        .data("a", json!({"output": "input", "outputMapping": {"v": "output.ok"}}))
        .start();
    run.complete("a", json!("raw"));
    assert_eq!(
        (run.given("b").as_str(), run.variable("v")),
        (r#"{"ok":true}"#, json!(true))
    );
}

#[test]
fn an_output_mapping_reads_everything_before_it_writes() {
    let swap = json!({"outputMapping": {"x": "variables.y", "y": "variables.x"}});
    let mut run = flow("a", "")
        .data("a", swap)
        .settings(json!({"variables": {"x": 1, "y": 2}}))
        .start();
    run.complete("a", json!(null));
    assert_eq!((run.variable("x"), run.variable("y")), (json!(2), json!(1)));
}

#[test]
fn a_later_commit_wins() {
    let write = json!({"outputMapping": {"v": "output"}});
    let mut run = flow("a b", "").data("a", write.clone()).data("b", write).start();
    run.complete("b", json!("b")).complete("a", json!("a"));
    assert_eq!(run.variable("v"), json!("a"));
}

#[test]
fn conditions_and_the_inputs_of_targets_see_the_new_variables() {
    let mut run = flow("a b", "a>b?variables.v~==~1")
        .data("a", json!({"outputMapping": {"v": "output"}}))
        .data("b", json!({"inputMapping": {"v": "variables.v"}}))
        .start();
    run.complete("a", json!(1));
    assert_eq!(run.given("b"), r#"{"v":1}"#);
}

#[test]
fn a_completion_that_throws_rolls_variables_back_and_keeps_its_attempts() {
    for (edges, data) in [
        ("a>b?throw a!>h", json!({"outputMapping": {"v": "output"}})),
        ("a>b a!>h", json!({"outputMapping": {"v": "output", "w": "throw"}})),
        ("a>b a!>h", json!({"outputMapping": {"v": "output"}, "output": "throw"})),
    ] {
        let mut run = flow("a b h", edges)
            .data("a", data)
            .settings(json!({"variables": {"v": "old"}}))
            .start();
        run.complete("a", json!("new"));
        assert_eq!(
            (run.error_of("a"), run.variable("v"), run.variable("w")),
            ("EXPRESSION_ERROR", json!("old"), json!("absent"))
        );
        assert_eq!(run.nodes(), "a:failed b:skipped h:running");
        let attempts = &run.state_of("a").attempts;
        assert_eq!((attempts.len(), attempts[0].error.is_none()), (1, true));
        assert_eq!(run.state_of("a").output, None);
    }
}

#[test]
fn schemas_are_checked_and_not_retried() {
    let policy = json!({"retryPolicy": {"maxAttempts": 5}});
    let mut run = flow("a h", "a!>h")
        .data("a", policy.clone())
        .data("a", json!({"outputSchema": {"type": "number"}}))
        .start();
    run.complete("a", json!("text"));
    assert_eq!((run.error_of("a"), run.node("h")), ("SCHEMA_VIOLATION", "running"));
    let run = flow("a h", "a!>h")
        .data("a", policy)
        .data("a", json!({"inputSchema": {"type": "number"}}))
        .start();
    assert_eq!(
        (run.error_of("a"), run.node("h"), run.state_of("a").attempts.len()),
        ("SCHEMA_VIOLATION", "running", 0)
    );
}

#[test]
fn a_payload_that_violates_the_schema_is_refused() {
    let mut run = flow("a", "")
        .settings(json!({"inputSchema": {"type": "number"}}))
        .create();
    let start = |input| Stimulus::Start {
        trigger: None,
        input,
        variables: Vec::new(),
    };
    assert!(run.try_apply(start(json!("text"))).is_err());
    assert_eq!(run.status(), "pending");
    run.apply(start(json!(1)));
    assert_eq!(run.status(), "running");
}

#[test]
fn variables_of_a_start_override_the_defaults() {
    let mut run = flow("a", "").settings(json!({"variables": {"x": 1, "y": 2}})).create();
    run.apply(Stimulus::Start {
        trigger: None,
        input: json!(null),
        variables: vec![("y".into(), json!(3)), ("z".into(), json!(4))],
    });
    assert_eq!(
        (run.variable("x"), run.variable("y"), run.variable("z")),
        (json!(1), json!(3), json!(4))
    );
}

#[test]
fn the_execution_s_output_is_that_of_its_completed_leaves() {
    let leaves = |outcomes: &str| {
        let mut run = flow("r c b", "r>c r>b?true")
            .settings(json!({"onFailure": "continue"}))
            .start();
        run.complete("r", json!(0));
        for node in outcomes.split_whitespace() {
            run.complete(node, json!(node));
        }
        run.output().to_string()
    };
    assert_eq!(leaves("b c"), r#"{"c":"c","b":"b"}"#, "in the order of the definition");
    let mut run = flow("r c b", "r>c?false r>b").start();
    run.complete("r", json!(0)).complete("b", json!("only"));
    assert_eq!(run.output(), json!("only"));
    let mut run = flow("r c", "r>c?false").start();
    run.complete("r", json!(0));
    assert_eq!(run.output(), json!(null), "every leaf is skipped");
}

#[test]
fn an_output_expression_of_the_settings_wins_and_may_throw() {
    let mut run = flow("a", "").settings(json!({"output": "nodes.a.output.x"})).start();
    run.complete("a", json!({"x": 3}));
    assert_eq!(run.output(), json!(3));
    let mut run = flow("a", "").settings(json!({"output": "throw"})).start();
    run.complete("a", json!({"x": 3}));
    assert_eq!((run.status(), run.error()), ("failed", "EXPRESSION_ERROR"));
}

#[test]
fn an_execution_without_anything_to_wait_for_ends_at_its_start() {
    let run = flow("t/trigger d/decision", "t>d")
        .data("d", json!({"conditions": []}))
        .start_with(json!(5));
    assert_eq!(
        (run.status(), run.output(), run.done),
        ("completed", json!(5), vec![Did::Finish])
    );
}

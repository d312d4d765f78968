//! §1: edges resolve exactly once.

use serde_json::json;

use super::flow::{failure, flow};

#[test]
fn a_completed_node_takes_success_and_default_edges_but_no_failure_edge() {
    let mut run = flow("a b c d", "a>b a>c a!>d")
        .edge(1, json!({"type": "success"}))
        .start();
    run.complete("a", json!(5));
    assert_eq!(run.started(), "b1 c1");
    assert_eq!(run.nodes(), "a:completed b:running c:running d:skipped");
    assert_eq!(run.given("b"), "5");
}

#[test]
fn a_failed_node_takes_failure_edges_only_and_they_carry_error_and_input() {
    let mut run = flow("a b c", "a>b a!>c").start();
    run.fail("a", "E1");
    assert_eq!(run.nodes(), "a:failed b:skipped c:running");
    assert_eq!(
        run.given("c"),
        r#"{"error":{"message":"","code":"E1"},"input":{"ok":true}}"#
    );
    run.complete("c", json!("mended"));
    assert_eq!((run.status(), run.output()), ("completed", json!("mended")));
}

#[test]
fn details_of_an_error_travel_with_it() {
    let mut run = flow("a c", "a!>c").start();
    run.fail_with(
        "a",
        crate::reference::Failure {
            details: Some(json!({"hint": 1})),
            ..failure("E1")
        },
    );
    assert_eq!(
        run.given("c"),
        r#"{"error":{"message":"","code":"E1","details":{"hint":1}},"input":{"ok":true}}"#
    );
}

#[test]
fn conditions_decide_with_javascript_truthiness() {
    for (condition, taken) in [
        ("true", true),
        ("false", false),
        ("const:0", false),
        ("const:\"\"", false),
        ("const:null", false),
        ("const:\"0\"", true),
        ("const:[]", true),
        ("const:{}", true),
        ("const:-1", true),
    ] {
        let mut run = flow("a b", &format!("a>b?{condition}")).start();
        run.complete("a", json!(1));
        assert_eq!(run.node("b"), if taken { "running" } else { "skipped" }, "{condition}");
    }
}

#[test]
fn a_skipped_node_resolves_all_its_edges_dead() {
    let mut run = flow("a b c d e", "a>b?false b>c b!>d b~>e").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:skipped c:skipped d:skipped e:skipped");
    assert_eq!((run.status(), run.output()), ("completed", json!(null)));
}

#[test]
fn always_is_taken_after_completed_and_after_failed() {
    let mut run = flow("a b", "a~>b").start();
    run.complete("a", json!(1));
    assert_eq!(run.given("b"), "1");
    let mut run = flow("a b", "a~>b").start();
    run.fail("a", "E1");
    assert_eq!(
        run.given("b"),
        r#"{"error":{"message":"","code":"E1"},"input":{"ok":true}}"#
    );
}

#[test]
fn always_does_not_handle_the_failure_and_clean_up_finishes_first() {
    let mut run = flow("a b c", "a~>b b>c").start();
    run.fail("a", "E1");
    assert_eq!((run.status(), run.started().as_str()), ("running", "b1"));
    run.complete("b", json!(1));
    assert_eq!(run.started(), "c1");
    run.complete("c", json!(1));
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
}

#[test]
fn a_failure_is_handled_when_at_least_one_failure_edge_is_taken() {
    for (edges, status) in [
        ("a!>b", "running"),
        ("a!>b?false", "failed"),
        ("a!>b?false a!>c", "running"),
        ("a!>b?throw", "failed"),
        ("a>b", "failed"),
    ] {
        let mut run = flow("a b c", edges).start();
        if run.node("b") == "running" {
            run.complete("b", json!(0));
        }
        if run.node("c") == "running" {
            run.complete("c", json!(0));
        }
        run.fail("a", "E1");
        assert_eq!(run.status(), status, "{edges}");
    }
}

#[test]
fn failure_conditions_see_the_error_and_its_input() {
    let mut run = flow(
        "a b c d",
        "a!>b?error.code~==~\"E1\" a!>c?error.code~==~\"E2\" a!>d?input.ok",
    )
    .start();
    run.fail("a", "E1");
    assert_eq!(run.nodes(), "a:failed b:running c:skipped d:running");
}

#[test]
fn a_condition_that_throws_fails_the_node_without_another_attempt() {
    let policy = json!({"retryPolicy": {"maxAttempts": 5}});
    let mut run = flow("a b c", "a>b?throw a!>c").data("a", policy).start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:failed b:skipped c:running");
    assert_eq!(run.error_of("a"), "EXPRESSION_ERROR");
    assert_eq!(
        run.given("c"),
        r#"{"error":{"message":"","code":"EXPRESSION_ERROR"},"input":{"ok":true}}"#
    );
}

#[test]
fn a_throwing_condition_of_an_always_edge_fails_a_completed_node_but_is_dead_after_a_failure() {
    let mut run = flow("a b c", "a~>b?throw a!>c").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:failed b:skipped c:running");
    let mut run = flow("a b c", "a~>b?throw a!>c").start();
    run.fail("a", "E1");
    assert_eq!(
        (run.nodes().as_str(), run.error_of("a")),
        ("a:failed b:skipped c:running", "E1")
    );
}

#[test]
fn an_edge_may_name_the_codes_it_catches() {
    for (codes, caught) in [
        (json!(["E1"]), true),
        (json!(["E2"]), false),
        (json!(["E2", "*"]), true),
        (json!([]), true),
    ] {
        let mut run = flow("a b", "a!>b").edge(0, json!({"errors": codes})).start();
        run.fail("a", "E1");
        assert_eq!(run.node("b"), if caught { "running" } else { "skipped" }, "{codes}");
    }
}

#[test]
fn error_mode_first_takes_only_the_first_failure_edge_that_matches() {
    for (mode, c) in [
        (json!({"errorMode": "first"}), "skipped"),
        (json!({"errorMode": "all"}), "running"),
        (json!({}), "running"),
    ] {
        let mut run = flow("a x b c d", "a!>x?false a!>b a!>c a~>d").data("a", mode).start();
        run.fail("a", "E1");
        assert_eq!(
            (run.node("x"), run.node("b"), run.node("c"), run.node("d")),
            ("skipped", "running", c, "running")
        );
    }
}

#[test]
fn conditions_see_output_and_the_source_s_input() {
    let mut run = flow("a b c d", "a>b?output.x a>c?input.ok a>d?input.x").start();
    run.complete("a", json!({"x": 1}));
    assert_eq!(run.nodes(), "a:completed b:running c:running d:skipped");
}

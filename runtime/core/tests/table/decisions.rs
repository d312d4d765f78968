//! §1 and §8.4: decision nodes.

use serde_json::{Value, json};

use super::flow::{Run, flow};

fn conditions(expressions: &[(&str, &str)]) -> Value {
    expressions
        .iter()
        .map(|(id, expression)| json!({"id": id, "expression": expression}))
        .collect()
}

/// A decision `d` with edges to b, c and e, which belong to `one`, `two` and nothing.
fn decide(expressions: &[(&str, &str)], more: Value) -> Run {
    flow("d/decision b c e", "d>b d>c d>e")
        .edge(0, json!({"condition": "one"}))
        .edge(1, json!({"sourceHandle": "two"}))
        .data("d", json!({"conditions": conditions(expressions), "defaultPath": "e"}))
        .data("d", more)
        .start()
}

#[test]
fn the_first_condition_that_holds_wins() {
    let run = decide(&[("one", "true"), ("two", "true")], json!({}));
    assert_eq!(run.nodes(), "d:completed b:running c:skipped e:skipped");
    assert_eq!(run.given("b"), r#"{"ok":true}"#, "a decision's output is its input");
    let run = decide(&[("one", "false"), ("two", "true")], json!({}));
    assert_eq!(run.nodes(), "d:completed b:skipped c:running e:skipped");
}

#[test]
fn first_evaluates_lazily_and_all_does_not() {
    let run = decide(&[("one", "true"), ("two", "throw")], json!({}));
    assert_eq!(run.nodes(), "d:completed b:running c:skipped e:skipped");
    let run = decide(&[("one", "true"), ("two", "throw")], json!({"mode": "all"}));
    assert_eq!((run.error_of("d"), run.status()), ("EXPRESSION_ERROR", "failed"));
}

#[test]
fn all_takes_every_condition_that_holds() {
    let run = decide(&[("one", "true"), ("two", "input.ok")], json!({"mode": "all"}));
    assert_eq!(run.nodes(), "d:completed b:running c:running e:skipped");
}

#[test]
fn the_default_path_names_a_target_an_edge_or_a_condition() {
    for (default, nodes) in [
        ("e", "b:skipped c:skipped e:running"),
        ("e2", "b:skipped c:skipped e:running"),
        ("two", "b:skipped c:running e:skipped"),
        ("b", "b:running c:skipped e:skipped"),
    ] {
        let run = decide(&[("one", "false"), ("two", "false")], json!({"defaultPath": default}));
        assert_eq!(run.nodes(), format!("d:completed {nodes}"), "{default}");
    }
}

#[test]
fn no_match_and_no_default_fails_the_node() {
    let run = decide(&[("one", "false"), ("two", "false")], json!({"defaultPath": null}));
    assert_eq!(
        (run.error_of("d"), run.status(), run.error()),
        ("NO_MATCHING_CONDITION", "failed", "NO_MATCHING_CONDITION")
    );
}

#[test]
fn no_match_can_be_handled() {
    let run = flow("d/decision b c", "d>b d!>c")
        .edge(0, json!({"label": "one"}))
        .data("d", json!({"conditions": conditions(&[("one", "false")])}))
        .start();
    assert_eq!(run.nodes(), "d:failed b:skipped c:running");
    assert_eq!(
        run.given("c"),
        r#"{"error":{"message":"","code":"NO_MATCHING_CONDITION"},"input":{"ok":true}}"#
    );
}

#[test]
fn all_edges_of_the_condition_that_matched_are_taken() {
    let run = flow("d/decision b c", "d>b d>c")
        .edge(0, json!({"label": "one"}))
        .edge(1, json!({"condition": "one"}))
        .data("d", json!({"conditions": conditions(&[("one", "true")])}))
        .start();
    assert_eq!(run.nodes(), "d:completed b:running c:running");
}

#[test]
fn a_true_condition_without_edges_matches_nothing() {
    let run = decide(&[("nobody", "true"), ("one", "false"), ("two", "true")], json!({}));
    assert_eq!(run.nodes(), "d:completed b:skipped c:running e:skipped");
}

#[test]
fn edges_with_an_expression_of_their_own_come_after_the_conditions() {
    let own = |first: &str, mode: &str| {
        flow("d/decision b c e", "d>b d>c?input.ok d>e?true")
            .edge(0, json!({"label": "one"}))
            .data("d", json!({"mode": mode, "conditions": conditions(&[("one", first)])}))
            .start()
            .nodes()
    };
    assert_eq!(own("true", "first"), "d:completed b:running c:skipped e:skipped");
    assert_eq!(own("false", "first"), "d:completed b:skipped c:running e:skipped");
    assert_eq!(own("true", "all"), "d:completed b:running c:running e:running");
}

#[test]
fn an_edge_belongs_to_its_condition_before_its_handle_and_that_before_its_label() {
    let run = |fields: Value| {
        flow("d/decision b c", "d>b d>c")
            .edge(0, fields)
            .edge(1, json!({"label": "one"}))
            .data(
                "d",
                json!({"conditions": conditions(&[("one", "true"), ("two", "false")])}),
            )
            .start()
            .nodes()
    };
    for fields in [
        json!({"condition": "two", "label": "one"}),
        json!({"condition": "two", "sourceHandle": "one"}),
        json!({"sourceHandle": "two", "label": "one"}),
    ] {
        assert_eq!(run(fields.clone()), "d:completed b:skipped c:running", "{fields}");
    }
    let handle = json!({"sourceHandle": "one", "label": "two"});
    assert_eq!(run(handle), "d:completed b:running c:running");
}

#[test]
fn an_edge_of_a_condition_has_its_own_expression_met_too() {
    let run = |own: &str, mode: &str, default: Value| {
        flow("d/decision b c e", "d>b d>c d>e")
            .edge(0, json!({"label": "one", "condition": own}))
            .edge(1, json!({"label": "two"}))
            .edge(2, json!({"label": "three"}))
            .data("d", json!({"mode": mode, "defaultPath": default}))
            .data(
                "d",
                json!({"conditions": conditions(&[("one", "true"), ("two", "true"), ("three", "false")])}),
            )
            .start()
    };
    let nodes = |own: &str, mode: &str| run(own, mode, Value::Null).nodes();
    assert_eq!(nodes("input.ok", "first"), "d:completed b:running c:skipped e:skipped");
    assert_eq!(nodes("false", "first"), "d:completed b:skipped c:running e:skipped");
    assert_eq!(nodes("true", "all"), "d:completed b:running c:running e:skipped");
    assert_eq!(nodes("false", "all"), "d:completed b:skipped c:running e:skipped");
    assert_eq!(run("throw", "first", Value::Null).error_of("d"), "EXPRESSION_ERROR");
    let alone = |own: &str| {
        flow("d/decision b c", "d>b d>c")
            .edge(0, json!({"label": "one", "condition": own}))
            .data(
                "d",
                json!({"conditions": conditions(&[("one", "true")]), "defaultPath": "c"}),
            )
            .start()
            .nodes()
    };
    assert_eq!(alone("false"), "d:completed b:skipped c:running");
    assert_eq!(alone("true"), "d:completed b:running c:skipped");
}

#[test]
fn a_decision_without_edges_completes() {
    let run = flow("d/decision", "")
        .data("d", json!({"conditions": conditions(&[("one", "false")])}))
        .start();
    assert_eq!((run.status(), run.output()), ("completed", json!({"ok": true})));
}

#[test]
fn always_edges_of_a_decision_are_ordinary() {
    let run = flow("d/decision b c", "d>b d~>c?input.ok")
        .edge(0, json!({"label": "one"}))
        .data(
            "d",
            json!({"conditions": conditions(&[("one", "false")]), "defaultPath": "b"}),
        )
        .start();
    assert_eq!(run.nodes(), "d:completed b:running c:running");
}

#[test]
fn a_decision_sees_the_variables_it_writes_and_loses_them_when_it_fails() {
    let written = |condition: &str| {
        flow("d/decision b c", "d>b d!>c")
            .edge(0, json!({"label": "one"}))
            .data(
                "d",
                json!({"conditions": conditions(&[("one", condition)]), "outputMapping": {"v": "const:1"}}),
            )
            .start()
    };
    let run = written("variables.v == 1");
    assert_eq!((run.node("b"), run.variable("v")), ("running", json!(1)));
    let run = written("false");
    assert_eq!((run.node("c"), run.variable("v")), ("running", json!("absent")));
}

#[test]
fn decisions_triggers_and_delays_have_no_attempts() {
    let run = flow("t/trigger d/decision w/delay e", "t>d d>w w>e")
        .data("d", json!({"conditions": [], "defaultPath": "w"}))
        .data("w", json!({"delayType": "fixed", "delayValue": 0}))
        .start();
    assert_eq!(run.started(), "e1");
    for node in ["t", "d", "w"] {
        assert!(run.state_of(node).attempts.is_empty());
    }
}

//! §2 and §8.5: joins count messages.

use serde_json::{Value, json};

use super::flow::{Run, flow};

/// Three parents and a join `j` with these settings.
fn three(join: Value) -> Run {
    flow("a b c j", "a>j b>j c>j")
        .join("j", join)
        .settings(json!({"onFailure": "continue"}))
        .start()
}

/// Parents end in the order given: upper case completes, lower case fails. Where the join stands after each.
fn after_each(join: &Value, ends: &str) -> Vec<&'static str> {
    let mut run = three(join.clone());
    let mut seen = Vec::new();
    for end in ends.chars() {
        let parent = end.to_lowercase().to_string();
        if end.is_uppercase() {
            run.complete(&parent, json!(parent));
        } else {
            run.fail(&parent, "E1");
        }
        seen.push(run.node("j"));
    }
    seen
}

#[test]
fn every_mode_decides_as_soon_as_it_can() {
    let (all, success, any) = (json!({}), json!({"mode": "allSuccess"}), json!({"mode": "any"}));
    let two = json!({"mode": "quorum", "count": 2});
    let (p, r, s, f) = ("pending", "running", "skipped", "failed");
    let fails = |mut join: Value| {
        join["onUnsatisfied"] = json!("fail");
        join
    };
    let requires = |mut join: Value, source: &str| {
        join["required"] = json!([source]);
        join
    };
    for (join, ends, expected) in [
        (all.clone(), "ABC", vec![p, p, r]),
        (all.clone(), "Abc", vec![p, p, r]),
        (all.clone(), "abc", vec![p, p, s]),
        (fails(all.clone()), "abc", vec![p, p, s]),
        (success.clone(), "ABC", vec![p, p, r]),
        (success.clone(), "AbC", vec![p, s, s]),
        (success.clone(), "aBC", vec![p, s, s]),
        (fails(success.clone()), "aBC", vec![p, f, f]),
        (fails(success.clone()), "abc", vec![p, p, s]),
        (any.clone(), "ABC", vec![r, r, r]),
        (any.clone(), "abC", vec![p, p, r]),
        (any.clone(), "abc", vec![p, p, s]),
        (two.clone(), "ABC", vec![p, r, r]),
        (two.clone(), "aBC", vec![p, p, r]),
        (two.clone(), "aBc", vec![p, p, s]),
        (two.clone(), "abC", vec![p, p, s]),
        (fails(two.clone()), "aBc", vec![p, p, f]),
        (fails(two.clone()), "abC", vec![p, p, f]),
        (requires(any.clone(), "c"), "ABC", vec![p, p, r]),
        (requires(any.clone(), "c"), "AcB", vec![p, s, s]),
        (requires(any.clone(), "c"), "cAB", vec![p, s, s]),
        (requires(any.clone(), "c"), "cab", vec![p, p, s]),
        (fails(requires(any.clone(), "c")), "cAB", vec![p, f, f]),
        (requires(two.clone(), "c"), "ABC", vec![p, p, r]),
        (requires(two.clone(), "a"), "ABC", vec![p, r, r]),
        (requires(all.clone(), "a"), "aBC", vec![p, s, s]),
        (requires(all.clone(), "a"), "Abc", vec![p, p, r]),
        (fails(requires(all.clone(), "a")), "Bac", vec![p, f, f]),
        (requires(success.clone(), "a"), "ABC", vec![p, p, r]),
    ] {
        assert_eq!(after_each(&join, ends), expected, "{join} {ends}");
    }
}

#[test]
fn a_single_edge_decides_alone() {
    let mut run = flow("a b c", "a>b a>c?false").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:running c:skipped");
}

#[test]
fn one_taken_edge_gives_its_output_and_several_an_object_in_edge_order() {
    let mut run = three(json!({}));
    run.complete("c", json!(3)).complete("a", json!(1)).fail("b", "E1");
    assert_eq!(run.given("j"), r#"{"a":1,"c":3}"#);
    let mut run = three(json!({}));
    run.fail("c", "E1").complete("b", json!(2)).fail("a", "E1");
    assert_eq!(run.given("j"), "2");
}

#[test]
fn two_taken_edges_from_one_source_give_one_key_and_the_later_value() {
    let mut run = flow("a b j", "a>j b>j a~>j").start();
    run.complete("a", json!(1)).complete("b", json!(2));
    assert_eq!(run.given("j"), r#"{"a":1,"b":2}"#);
    let mut run = flow("a b j", "a!>j b>j a~>j").start();
    run.complete("b", json!(2)).fail("a", "E1");
    let error = r#"{"error":{"message":"","code":"E1"},"input":{"ok":true}}"#;
    assert_eq!(run.given("j"), format!(r#"{{"a":{error},"b":2}}"#));
}

#[test]
fn a_required_source_with_several_edges_needs_one_of_them() {
    let edges = "a>j a!>j b>j";
    let mut run = flow("a b j", edges)
        .join("j", json!({"mode": "any", "required": ["a"]}))
        .start();
    run.complete("b", json!(2));
    assert_eq!(run.node("j"), "pending");
    run.fail("a", "E1");
    assert_eq!(run.node("j"), "running");
}

#[test]
fn a_late_arrival_is_ignored_and_the_join_fires_once() {
    let mut run = three(json!({"mode": "any"}));
    run.complete("b", json!(2));
    assert_eq!((run.started().as_str(), run.given("j").as_str()), ("j1", "2"));
    run.complete("j", json!("joined"));
    run.complete("a", json!(1));
    assert_eq!((run.started().as_str(), run.status()), ("", "running"));
    run.complete("c", json!(1));
    assert_eq!((run.status(), run.output()), ("completed", json!("joined")));
}

#[test]
fn skipping_propagates_through_joins() {
    let mut run = flow("a b c d e", "a>b?false a>c?false b>d c>d d>e").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:skipped c:skipped d:skipped e:skipped");
}

#[test]
fn there_are_no_layer_barriers() {
    let mut run = flow("a b c", "a>c").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:running c:running");
}

#[test]
fn an_unsatisfied_join_fails_without_input() {
    let mut run = flow("a b j h", "a>j b>j j!>h")
        .join("j", json!({"mode": "allSuccess", "onUnsatisfied": "fail"}))
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("a", json!(1)).fail("b", "E1");
    assert_eq!((run.error_of("j"), run.node("h")), ("JOIN_UNSATISFIED", "running"));
    assert_eq!(
        run.given("h"),
        r#"{"error":{"message":"","code":"JOIN_UNSATISFIED"},"input":null}"#
    );
}

#[test]
fn the_deadline_counts_from_the_first_message_dead_ones_included() {
    let mut run = three(json!({"timeout": 100}));
    run.wait(50);
    assert_eq!(run.next_due(), None);
    run.fail("a", "E1");
    assert_eq!(run.next_due(), Some(150));
    run.wait(60).complete("b", json!(1));
    assert_eq!(run.next_due(), Some(150));
}

#[test]
fn at_the_deadline_a_join_fails_skips_or_proceeds() {
    for (more, ends, expected) in [
        (json!({}), "A", "failed"),
        (json!({"onTimeout": "fail"}), "a", "failed"),
        (json!({"onTimeout": "skip"}), "A", "skipped"),
        (json!({"onTimeout": "skip", "onUnsatisfied": "fail"}), "A", "skipped"),
        (json!({"onTimeout": "proceed"}), "A", "running"),
        (json!({"onTimeout": "proceed"}), "a", "skipped"),
        (json!({"onTimeout": "proceed", "onUnsatisfied": "fail"}), "a", "failed"),
        (json!({"onTimeout": "proceed", "required": ["b"]}), "A", "skipped"),
        (
            json!({"onTimeout": "proceed", "required": ["b"], "onUnsatisfied": "fail"}),
            "A",
            "failed",
        ),
        (json!({"onTimeout": "proceed", "required": ["a"]}), "A", "running"),
        (json!({"onTimeout": "proceed", "mode": "allSuccess"}), "A", "running"),
        (
            json!({"onTimeout": "proceed", "mode": "quorum", "count": 2}),
            "A",
            "running",
        ),
    ] {
        let mut join = json!({"timeout": 100});
        join.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut run = three(join);
        if ends == "A" {
            run.complete("a", json!(1));
        } else {
            run.fail("a", "E1");
        }
        run.wait(100).due();
        assert_eq!(run.node("j"), expected, "{more} {ends}");
        if expected == "failed" {
            assert_eq!(run.error_of("j"), "JOIN_UNSATISFIED");
        }
        run.complete("b", json!(2)).complete("c", json!(3));
        assert_eq!(run.node("j"), expected, "late messages change nothing");
    }
}

#[test]
fn a_join_that_fired_has_no_deadline() {
    let mut run = three(json!({"mode": "any", "timeout": 100}));
    run.complete("a", json!(1));
    assert_eq!(run.next_due(), None);
}

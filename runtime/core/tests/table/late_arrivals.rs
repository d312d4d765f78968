//! §2, §8.5 and ADR 0015: `lateArrivals` of joins.

use serde_json::{Value, json};
use troupe_core::execution::EdgeState;

use super::flow::{Flow, flow};

/// `j` joins by `any` and cancels late arrivals.
fn any(nodes: &str, edges: &str) -> Flow {
    flow(nodes, edges).join("j", json!({"mode": "any", "lateArrivals": "cancel"}))
}

#[test]
fn by_default_the_remaining_branches_run_on() {
    for late in [json!({}), json!({"lateArrivals": "ignore"})] {
        let mut join = json!({"mode": "any"});
        join.as_object_mut().unwrap().extend(late.as_object().unwrap().clone());
        let mut run = flow("a b j", "a>j b>j").join("j", join).start();
        run.complete("a", json!(1));
        assert_eq!((run.node("b"), run.aborted().as_str()), ("running", ""));
    }
}

#[test]
fn when_any_fired_the_other_branches_are_canceled() {
    let mut run = any("a b c d w/delay j", "a>j b>j c>d d>j w>j")
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .start();
    run.complete("a", json!(1));
    assert_eq!(
        run.nodes(),
        "a:completed b:canceled c:canceled d:canceled w:canceled j:running"
    );
    assert_eq!(
        (run.aborted().as_str(), run.started().as_str(), run.given("j").as_str()),
        ("b c", "j1", "1")
    );
    assert_eq!(run.next_due(), None);
    assert_eq!(
        (run.way("a", "j"), run.way("b", "j")),
        (EdgeState::Taken, EdgeState::Dead)
    );
    run.complete("j", json!(2));
    assert_eq!((run.status(), run.output()), ("completed", json!(2)));
}

#[test]
fn a_quorum_cancels_when_it_is_reached() {
    let mut run = flow("a b c j", "a>j b>j c>j")
        .join("j", json!({"mode": "quorum", "count": 2, "lateArrivals": "cancel"}))
        .start();
    run.complete("a", json!(1));
    assert_eq!(run.node("c"), "running");
    run.complete("b", json!(2));
    assert_eq!(run.nodes(), "a:completed b:completed c:canceled j:running");
}

#[test]
fn it_fires_only_with_all_required() {
    let mut run = flow("a b c j", "a>j b>j c>j")
        .join("j", json!({"mode": "any", "required": ["b"], "lateArrivals": "cancel"}))
        .start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:running c:running j:pending");
    run.complete("b", json!(1));
    assert_eq!(run.nodes(), "a:completed b:completed c:canceled j:running");
}

#[test]
fn a_join_of_all_cancels_nothing() {
    for mode in ["all", "allSuccess"] {
        let mut run = flow("a b j", "a>j b>j")
            .join(
                "j",
                json!({"mode": mode, "lateArrivals": "cancel", "timeout": 100, "onTimeout": "proceed"}),
            )
            .start();
        run.complete("a", json!(1)).wait(100).due();
        assert_eq!((run.node("j"), run.node("b")), ("running", "running"));
    }
}

#[test]
fn a_node_with_another_way_is_spared() {
    let mut run = any("a b j z", "a>j b>j b>z").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:running j:running z:pending");
    let mut run = any("a b c j z", "a>j b>c c>j c~>z").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:running c:pending j:running z:pending");
}

#[test]
fn a_way_of_any_type_counts_and_its_condition_is_not_asked() {
    for edge in ["b!>z", "b>z?false", "b~>z"] {
        let mut run = any("a b j z", &format!("a>j b>j {edge}")).start();
        run.complete("a", json!(1));
        assert_eq!(run.node("b"), "running", "{edge}");
    }
}

#[test]
fn a_node_that_does_not_lead_to_the_join_is_spared() {
    let mut run = any("a b c d j", "a>j b>j c>d").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:canceled c:running d:pending j:running");
}

#[test]
fn an_edge_to_a_node_that_has_ended_leads_nowhere() {
    let mut run = any("s a b j z", "s>z?false a>j b>j b>z")
        .join("z", json!({"mode": "allSuccess", "required": ["s"]}))
        .data("s", json!({"cancels": ["z"]}))
        .start();
    run.complete("s", json!(1));
    assert_eq!(run.node("z"), "canceled");
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "s:completed a:completed b:canceled j:running z:canceled");
}

#[test]
fn a_node_on_the_way_from_which_nothing_is_left_to_reach_spares_those_before_it() {
    let mut run = any("s a b y j z", "a>j b>j b>y y>z")
        .data("s", json!({"cancels": ["z"]}))
        .start();
    run.complete("s", json!(1)).complete("a", json!(1));
    assert_eq!(
        run.nodes(),
        "s:completed a:completed b:running y:pending j:running z:canceled"
    );
}

#[test]
fn what_has_ended_stays_as_it_is() {
    let mut run = any("a b j", "a>j b>j")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.fail("b", "E1").complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:failed j:running");
}

#[test]
fn what_is_held_or_waits_for_a_retry_is_canceled() {
    let mut run = any("a b c j", "a>j b>j c>j")
        .data("b", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .settings(json!({"maxParallelNodes": 2}))
        .start();
    run.pause().fail("b", "E1").complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:canceled c:canceled j:pending");
    run.resume();
    assert_eq!(run.started(), "j1");
}

#[test]
fn a_join_that_proceeds_at_its_deadline_cancels_too() {
    let mut run = flow("a b c j", "a>j b>j c>j")
        .join(
            "j",
            json!({"mode": "quorum", "count": 3, "timeout": 100, "onTimeout": "proceed", "lateArrivals": "cancel"}),
        )
        .start();
    run.complete("a", json!(1)).wait(100).due();
    assert_eq!(run.nodes(), "a:completed b:canceled c:canceled j:running");
}

#[test]
fn a_join_that_fails_or_is_skipped_cancels_nothing() {
    let quorum = |more: Value| {
        let mut join = json!({"mode": "quorum", "count": 2, "lateArrivals": "cancel", "timeout": 100});
        join.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut run = flow("a b c j", "a>j b>j c>j")
            .join("j", join)
            .settings(json!({"onFailure": "continue"}))
            .start();
        run.complete("a", json!(1)).wait(100).due();
        (run.node("j"), run.node("b"))
    };
    assert_eq!(quorum(json!({"onTimeout": "skip"})), ("skipped", "running"));
    assert_eq!(quorum(json!({"onTimeout": "fail"})), ("failed", "running"));
}

#[test]
fn the_join_s_input_sees_the_late_ones_canceled() {
    let mut run = any("a b j", "a>j b>j")
        .data("j", json!({"inputMapping": {"b": "nodes.b.status"}}))
        .start();
    run.complete("a", json!(1));
    assert_eq!(run.given("j"), r#"{"b":"canceled"}"#);
}

#[test]
fn a_decision_cancels_before_it_decides() {
    let mut run = any("a b j/decision x", "a>j b>j j>x")
        .data("j", json!({"conditions": [], "defaultPath": "x"}))
        .start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:canceled j:completed x:running");
}

#[test]
fn in_a_loop_the_late_arrivals_of_a_generation_are_canceled() {
    // `b` leads to the join only, `c` back to the header as well.
    let edges = "r>h h>a h>b h>c a>j b>j c>j c>h?false j>h?execution.iteration~==~1 j>x";
    let mut run = any("r h a b c j x", edges).start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!(2));
    assert_eq!(
        run.nodes(),
        "r:completed h:completed a:completed b:canceled c:running j:running x:pending"
    );
    run.complete("j", json!(3)).complete("c", json!(4));
    assert_eq!(run.started(), "h1@2");
    run.complete("h", json!(1));
    assert_eq!(run.started(), "a1@2 b1@2 c1@2");
    run.complete("b", json!(5));
    assert_eq!((run.aborted().as_str(), run.node("j")), ("a", "running"));
}

#[test]
fn a_way_out_of_the_innermost_loop_leads_elsewhere() {
    let edges = "r>h h>a h>b a>j b>j b>y j>h?false j>x";
    let mut run = any("r h a b j x y", edges).start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!(2));
    assert_eq!(run.node("b"), "running");
}

#[test]
fn a_way_through_an_inner_loop_leads_elsewhere() {
    let edges = "a>j b>h h>c c>h?false c>j j>x";
    let mut run = any("a b h c j x", edges).start();
    run.complete("a", json!(1));
    assert_eq!(
        run.nodes(),
        "a:completed b:running h:pending c:pending j:running x:pending"
    );
}

#[test]
fn a_header_cancels_late_entries_in_its_first_pass_alone() {
    let edges = "r>h s>h h>b b>h?execution.iteration~==~1 b>x";
    let mut run = flow("r s h b x", edges)
        .join("h", json!({"mode": "any", "lateArrivals": "cancel"}))
        .start();
    run.complete("r", json!(0));
    assert_eq!(run.nodes(), "r:completed s:canceled h:running b:pending x:pending");
    run.complete("h", json!(1)).complete("b", json!(2));
    assert_eq!((run.started().as_str(), run.aborted().as_str()), ("h1@2", ""));
}

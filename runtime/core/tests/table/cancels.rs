//! §2 and ADR 0015: cancel regions.

use serde_json::json;
use troupe_core::execution::EdgeState;

use super::flow::{Flow, flow};
use crate::support::duo::Stimulus;

/// `a` cancels `b` when it completes.
fn canceling(nodes: &str, edges: &str) -> Flow {
    flow(nodes, edges).data("a", json!({"cancels": ["b"]}))
}

#[test]
fn what_runs_is_aborted_and_canceled() {
    let mut run = canceling("a b c", "b>c").start();
    let token = run.duo.outstanding["b"];
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:canceled c:skipped");
    assert_eq!(
        (run.aborted().as_str(), run.status(), run.error()),
        ("b", "completed", "none")
    );
    assert!(run.try_apply(Stimulus::Stale { token }).is_err());
}

#[test]
fn what_waits_is_canceled() {
    let delay = json!({"delayType": "fixed", "delayValue": 100});
    let mut run = canceling("a b/delay c", "b>c").data("b", delay).start();
    run.complete("a", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.next_due()),
        ("a:completed b:canceled c:skipped", None)
    );
    let mut run = canceling("a b c", "b>c")
        .data("b", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .start();
    run.fail("b", "E1").complete("a", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.aborted().as_str()),
        ("a:completed b:canceled c:skipped", "")
    );
}

#[test]
fn what_is_only_pending_or_held_is_canceled_too_and_not_skipped() {
    let mut run = canceling("a r b c", "r>b b>c").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed r:running b:canceled c:skipped");
    run.complete("r", json!(2));
    assert_eq!(
        (run.nodes().as_str(), run.status()),
        ("a:completed r:completed b:canceled c:skipped", "completed")
    );
    let mut run = canceling("a b", "").settings(json!({"maxParallelNodes": 1})).start();
    assert!(run.is_held("b"));
    run.complete("a", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.started().as_str()),
        ("a:completed b:canceled", "")
    );
}

#[test]
fn what_has_ended_stays_as_it_is() {
    let mut run = canceling("a b c", "b>c").start();
    run.complete("b", json!(2)).complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:completed c:running");
    let mut run = canceling("a b", "").settings(json!({"onFailure": "continue"})).start();
    run.fail("b", "E1").complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:failed");
}

#[test]
fn what_is_canceled_gives_dead_edges_of_every_type() {
    let mut run = canceling("a b c d e", "b>c b!>d b~>e").start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:canceled c:skipped d:skipped e:skipped");
    assert_eq!(run.duo.state.edges, [EdgeState::Dead; 3]);
}

#[test]
fn it_happens_before_the_node_s_own_edges_resolve() {
    let mut run = canceling("a b", "a>b").start();
    run.complete("a", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.started().as_str()),
        ("a:completed b:canceled", "")
    );
    let mut run = canceling("a b j", "a>j b>j").start();
    run.complete("a", json!(1));
    assert_eq!((run.started().as_str(), run.given("j").as_str()), ("j1", "1"));
}

#[test]
fn a_completion_that_throws_cancels_nothing() {
    for (edges, data) in [
        ("a>c?throw a!>d", json!({})),
        ("a>c a!>d", json!({"output": "throw"})),
        ("a>c a!>d", json!({"outputMapping": {"v": "throw"}})),
        ("a>c a!>d", json!({"outputSchema": {"type": "object"}})),
    ] {
        let mut run = canceling("a b c d", edges).data("a", data).start();
        run.complete("a", json!(1));
        assert_eq!(run.nodes(), "a:failed b:running c:skipped d:running");
    }
}

#[test]
fn a_failed_or_skipped_node_cancels_nothing() {
    let mut run = canceling("a b c", "a!>c").start();
    run.fail("a", "E1");
    assert_eq!(run.nodes(), "a:failed b:running c:running");
    let mut run = canceling("r a b", "r>a?false").start();
    run.complete("r", json!(1));
    assert_eq!(run.nodes(), "r:completed a:skipped b:running");
}

#[test]
fn conditions_of_the_node_s_edges_do_not_see_the_canceled_yet_but_what_follows_does() {
    let mut run = canceling("a b c d", "a>c?nodes.b.status~==~\"running\" a>d")
        .data("d", json!({"inputMapping": {"b": "nodes.b.status"}}))
        .start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed b:canceled c:running d:running");
    assert_eq!(run.given("d"), r#"{"b":"canceled"}"#);
}

#[test]
fn the_first_of_two_racing_waits_cancels_the_other() {
    let wait = |ms: u32, other: &str| json!({"delayType": "fixed", "delayValue": ms, "cancels": [other]});
    let mut run = flow("v/delay w/delay x y", "v>x w>y")
        .data("v", wait(100, "w"))
        .data("w", wait(200, "v"))
        .start();
    run.wait(300).due();
    assert_eq!(run.nodes(), "v:completed w:canceled x:running y:skipped");
}

#[test]
fn a_root_that_completes_at_once_cancels_roots_that_have_not_started() {
    let run = flow("t/trigger a b", "t>a")
        .data("t", json!({"cancels": ["b"]}))
        .start();
    assert_eq!(
        (run.nodes().as_str(), run.started().as_str()),
        ("t:completed a:running b:canceled", "a1")
    );
}

#[test]
fn it_happens_while_paused_too() {
    let mut run = canceling("a b c", "a>c").start();
    run.pause().complete("a", json!(1));
    assert_eq!(
        (run.aborted().as_str(), run.nodes().as_str()),
        ("b", "a:completed b:canceled c:pending")
    );
}

#[test]
fn clean_up_may_cancel_clean_up() {
    let mut run = flow("f a b", "f~>a f~>b").data("a", json!({"cancels": ["b"]})).start();
    run.fail("f", "E1").complete("a", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.status(), run.error()),
        ("f:failed a:completed b:canceled", "failed", "E1")
    );
}

#[test]
fn a_place_that_a_canceled_node_held_is_free() {
    let mut run = canceling("a b c d", "")
        .settings(json!({"maxParallelNodes": 2}))
        .start();
    run.complete("a", json!(1));
    assert_eq!((run.aborted().as_str(), run.started().as_str()), ("b", "c1 d1"));
}

#[test]
fn in_a_loop_only_the_current_visit_is_canceled() {
    let mut run = flow("r h a b x", "r>h h>a h>b a>h?execution.iteration~==~1 a>x b>h?false")
        .data("a", json!({"cancels": ["b"]}))
        .start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!(2));
    assert_eq!((run.aborted().as_str(), run.started().as_str()), ("b", "h1@2"));
    let before = run.state_of("b").ended.as_ref().map(|ended| ended.phase.name());
    assert_eq!((before, run.node("b")), (Some("canceled"), "pending"));
    run.complete("h", json!(1));
    assert_eq!(run.started(), "a1@2 b1@2");
    run.complete("b", json!(3)).complete("a", json!(2));
    assert_eq!(run.nodes(), "r:completed h:completed a:completed b:completed x:running");
}

#[test]
fn nodes_are_canceled_in_the_order_listed() {
    let mut run = flow("a b c", "").data("a", json!({"cancels": ["c", "b"]})).start();
    run.complete("a", json!(1));
    assert_eq!(run.aborted(), "c b");
}

//! §6 and §8.1: failFast with clean-up, continue, parallelism, the execution's timeout.

use serde_json::json;

use super::flow::flow;

#[test]
fn fail_fast_cancels_what_runs_and_skips_what_never_started() {
    let mut run = flow("a b c d", "b>c a>d").start();
    run.fail("a", "E1");
    assert_eq!(run.nodes(), "a:failed b:canceled c:skipped d:skipped");
    assert_eq!(
        (run.aborted().as_str(), run.status(), run.error()),
        ("b", "failed", "E1")
    );
}

#[test]
fn fail_fast_cancels_backoffs_and_delays() {
    let mut run = flow("a b w/delay", "")
        .data("b", json!({"retryPolicy": {"maxAttempts": 2}}))
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .start();
    run.fail("b", "E2").fail("a", "E1");
    assert_eq!(
        (run.nodes().as_str(), run.aborted().as_str()),
        ("a:failed b:canceled w:canceled", "")
    );
    assert_eq!((run.error(), run.next_due()), ("E1", None));
}

#[test]
fn clean_up_is_everything_reached_through_taken_always_edges() {
    let mut run = flow("a b c d e", "a~>c c>d b~>e").start();
    run.fail("a", "E1");
    assert_eq!(
        run.nodes(),
        "a:failed b:canceled c:running d:pending e:skipped",
        "canceled nodes give none"
    );
    run.complete("c", json!(1));
    assert_eq!((run.started().as_str(), run.status()), ("d1", "running"));
    run.complete("d", json!(1));
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
}

#[test]
fn clean_up_that_runs_already_goes_on() {
    let mut run = flow("r a b c", "r~>b b>c r>a").start();
    run.complete("r", json!(1)).complete("b", json!(1));
    assert_eq!(run.nodes(), "r:completed a:running b:completed c:running");
    run.fail("a", "E1");
    assert_eq!(
        run.nodes(),
        "r:completed a:failed b:completed c:running",
        "what clean-up led to is clean-up"
    );
}

#[test]
fn what_a_late_always_edge_makes_clean_up_passes_on() {
    // `j` and `c` ran before the `always` edge reached `j`: from then on both are clean-up.
    let mut run = flow("a b j c d", "a>j b~>j j>c")
        .join("j", json!({"mode": "any"}))
        .start();
    run.complete("a", json!(1)).complete("j", json!(1));
    assert_eq!(run.node("c"), "running");
    run.complete("b", json!(1)).fail("d", "E1");
    assert_eq!(run.nodes(), "a:completed b:completed j:completed c:running d:failed");
}

#[test]
fn a_failure_in_clean_up_is_not_the_execution_s_error() {
    let mut run = flow("a b c d", "a~>b b~>c b>d").start();
    run.fail("a", "E1").fail("b", "E2");
    assert_eq!(
        (run.nodes().as_str(), run.error()),
        ("a:failed b:failed c:running d:skipped", "E1")
    );
    run.complete("c", json!(1));
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
}

#[test]
fn clean_up_is_retried_like_anything_else() {
    let mut run = flow("a b", "a~>b")
        .data("b", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .start();
    run.fail("a", "E1").fail("b", "E2").wait(1_000).due();
    assert_eq!(run.started(), "b2");
}

#[test]
fn a_handled_failure_lets_the_execution_complete() {
    for on_failure in ["failFast", "continue"] {
        let mut run = flow("a b c", "a!>b").settings(json!({"onFailure": on_failure})).start();
        run.fail("a", "E1");
        assert_eq!(run.nodes(), "a:failed b:running c:running");
        run.complete("b", json!(1)).complete("c", json!(2));
        assert_eq!((run.status(), run.error()), ("completed", "none"));
    }
}

#[test]
fn continue_finishes_other_branches_then_fails() {
    let mut run = flow("a b c d e", "a>b a~>e c>d")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.fail("a", "E1");
    assert_eq!(run.nodes(), "a:failed b:skipped c:running d:pending e:running");
    run.complete("c", json!(1)).fail("d", "E2").complete("e", json!(1));
    assert_eq!(
        (run.status(), run.error()),
        ("failed", "E1"),
        "the first unhandled failure is the execution's"
    );
}

#[test]
fn no_more_attempts_run_than_max_parallel_nodes() {
    let mut run = flow("a b c d/decision e", "d>e")
        .data("d", json!({"conditions": [], "defaultPath": "e"}))
        .settings(json!({"maxParallelNodes": 2}))
        .start();
    assert_eq!(
        (run.started().as_str(), run.is_held("c"), run.is_held("e")),
        ("a1 b1", true, true)
    );
    run.complete("b", json!(1));
    assert_eq!(run.started(), "c1", "the one that waited longest");
    run.complete("a", json!(1));
    assert_eq!(run.started(), "e1");
}

#[test]
fn a_backoff_gives_its_place_up() {
    let mut run = flow("a b", "")
        .data("a", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .settings(json!({"maxParallelNodes": 1}))
        .start();
    run.fail("a", "E1");
    assert_eq!(run.started(), "b1");
    run.wait(1_000).due();
    assert_eq!((run.started().as_str(), run.is_held("a")), ("", true));
    run.complete("b", json!(1));
    assert_eq!(run.started(), "a2");
}

#[test]
fn the_total_timeout_runs_while_a_node_is_held() {
    let mut run = flow("a b", "")
        .data("b", json!({"totalTimeout": 100}))
        .settings(json!({"maxParallelNodes": 1, "onFailure": "continue"}))
        .start();
    run.wait(100).due();
    assert_eq!((run.error_of("b"), run.state_of("b").attempts.len()), ("TIMEOUT", 0));
    run.complete("a", json!(1));
    assert_eq!((run.started().as_str(), run.status()), ("", "failed"));
}

#[test]
fn the_execution_s_timeout_ends_everything_without_clean_up() {
    let mut run = flow("a b c w/delay", "a~>b b>c")
        .data("w", json!({"delayType": "fixed", "delayValue": 9_000}))
        .settings(json!({"timeout": 500}))
        .start();
    assert_eq!(run.next_due(), Some(500));
    run.wait(500).due();
    assert_eq!(run.nodes(), "a:canceled b:skipped c:skipped w:canceled");
    assert_eq!(
        (run.aborted().as_str(), run.status(), run.error()),
        ("a", "failed", "EXECUTION_TIMEOUT")
    );
}

#[test]
fn an_execution_whose_last_node_ended_in_time_does_not_time_out() {
    let mut run = flow("w/delay", "")
        .data("w", json!({"delayType": "fixed", "delayValue": 250}))
        .settings(json!({"timeout": 900}))
        .start();
    run.wait(7_000).due();
    assert_eq!(run.status(), "completed");
}

#[test]
fn deadlines_are_applied_in_due_order() {
    let mut run = flow("w/delay v/delay a", "w>a v>a")
        .data(
            "w",
            json!({"delayType": "fixed", "delayValue": 200, "outputMapping": {"v": "const:\"w\""}}),
        )
        .data(
            "v",
            json!({"delayType": "fixed", "delayValue": 100, "outputMapping": {"v": "const:\"v\""}}),
        )
        .start();
    run.wait(1_000).due();
    assert_eq!((run.variable("v"), run.started().as_str()), (json!("w"), "a1"));
}

//! §2, §8.7 and ADR 0015: nodes of type `end`.

use serde_json::{Value, json};

use super::flow::{Flow, flow};

/// `a` leads to the end `e`; beside them `b` runs, `c` waits for it, and a delay waits.
fn ending(data: Value) -> Flow {
    flow("a e/end b c w/delay", "a>e b>c")
        .data("e", data)
        .data("w", json!({"delayType": "fixed", "delayValue": 900}))
}

#[test]
fn it_ends_the_execution_at_once_as_completed_with_its_input() {
    let mut run = ending(json!({})).settings(json!({"output": "const:9"})).start();
    run.complete("a", json!({"n": 1}));
    assert_eq!(run.nodes(), "a:completed e:completed b:canceled c:skipped w:canceled");
    assert_eq!(
        (run.status(), run.output(), run.error()),
        ("completed", json!({"n": 1}), "none")
    );
    assert_eq!((run.aborted().as_str(), run.next_due()), ("b", None));
}

#[test]
fn its_output_is_an_expression_over_its_input() {
    for (expression, expected) in [
        ("input.n", json!(1)),
        ("output", json!({"n": 1})),
        ("variables.v", json!(5)),
    ] {
        let mut run = ending(json!({"output": expression}))
            .settings(json!({"variables": {"v": 5}}))
            .start();
        run.complete("a", json!({"n": 1}));
        assert_eq!((run.status(), run.output()), ("completed", expected), "{expression}");
    }
    let mut run = ending(json!({"inputMapping": {"m": "input.n"}})).start();
    run.complete("a", json!({"n": 1}));
    assert_eq!(run.output(), json!({"m": 1}));
}

#[test]
fn it_ends_the_execution_as_failed_with_its_error() {
    for (error, code) in [
        (json!({"code": "ENOUGH", "message": "it is enough"}), "ENOUGH"),
        (json!({"message": "it is enough"}), "ENDED"),
        (Value::Null, "ENDED"),
    ] {
        let mut run = ending(json!({"status": "failed", "error": error})).start();
        run.complete("a", json!(1));
        assert_eq!(run.nodes(), "a:completed e:completed b:canceled c:skipped w:canceled");
        assert_eq!((run.status(), run.error()), ("failed", code));
        let failed = run.duo.state.failure.as_ref().and_then(|failure| failure.node);
        assert_eq!(failed, run.duo.plan.node_ix("e"));
    }
}

#[test]
fn it_ends_the_execution_as_canceled_without_a_grace() {
    let mut run = ending(json!({"status": "canceled"})).start();
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed e:completed b:canceled c:skipped w:canceled");
    assert_eq!(
        (run.status(), run.aborted().as_str(), run.error()),
        ("canceled", "b", "none")
    );
}

#[test]
fn its_status_may_be_a_template_and_any_other_word_fails_it() {
    let mut run = ending(json!({"status": "{{variables.s}}"}))
        .settings(json!({"variables": {"s": "failed"}}))
        .start();
    run.complete("a", json!(1));
    assert_eq!((run.status(), run.error()), ("failed", "ENDED"));
    for odd in ["const:\"over\"", "const:3", "throw"] {
        let mut run = ending(json!({"status": format!("{{{{{odd}}}}}")})).start();
        run.complete("a", json!(1));
        assert_eq!(
            (run.error_of("e"), run.status(), run.error()),
            ("EXPRESSION_ERROR", "failed", "EXPRESSION_ERROR")
        );
        let mut run = ending(json!({"status": format!("{{{{{odd}}}}}")}))
            .settings(json!({"onFailure": "continue"}))
            .start();
        run.complete("a", json!(1));
        assert_eq!(
            (run.node("e"), run.node("b"), run.status()),
            ("failed", "running", "running"),
            "it ends nothing"
        );
    }
}

#[test]
fn an_expression_of_it_that_throws_fails_it_and_it_ends_nothing() {
    for data in [
        json!({"output": "throw"}),
        json!({"outputMapping": {"v": "throw"}}),
        json!({"inputMapping": {"v": "throw"}}),
    ] {
        let mut run = ending(data).settings(json!({"onFailure": "continue"})).start();
        run.complete("a", json!(1));
        assert_eq!((run.error_of("e"), run.node("b")), ("EXPRESSION_ERROR", "running"));
    }
}

#[test]
fn it_decides_the_status_even_after_a_tolerated_failure() {
    let after = |data: Value| {
        let mut run = flow("f a e/end", "a>e")
            .data("e", data)
            .settings(json!({"onFailure": "continue"}))
            .start();
        run.fail("f", "E1").complete("a", json!(1));
        (run.status(), run.error().to_owned())
    };
    assert_eq!(after(json!({})), ("completed", "none".into()));
    assert_eq!(after(json!({"status": "failed"})), ("failed", "E1".into()));
    assert_eq!(
        after(json!({"status": "failed", "error": {"code": "E9"}})),
        ("failed", "E9".into())
    );
    assert_eq!(after(json!({"status": "canceled"})).0, "canceled");
}

#[test]
fn during_a_fail_fast_clean_up_it_completes_and_ends_nothing() {
    let mut run = flow("f c d e/end", "f~>c f~>d c>e").start();
    run.fail("f", "E1").complete("c", json!(1));
    assert_eq!(run.nodes(), "f:failed c:completed d:running e:completed");
    run.complete("d", json!(2));
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
}

#[test]
fn it_gives_no_clean_up() {
    let mut run = flow("a e/end b c d", "a>e b~>c c>d").start();
    run.complete("b", json!(1)).complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed e:completed b:completed c:canceled d:skipped");
    assert_eq!(run.status(), "completed");
}

#[test]
fn what_is_held_never_started_and_is_skipped() {
    let mut run = flow("a e/end b", "a>e")
        .settings(json!({"maxParallelNodes": 1}))
        .start();
    assert!(run.is_held("b"));
    run.complete("a", json!(1));
    assert_eq!(run.nodes(), "a:completed e:completed b:skipped");
}

#[test]
fn it_ends_a_paused_execution() {
    let mut run = ending(json!({})).start();
    run.pause().complete("a", json!(1));
    assert_eq!((run.status(), run.duo.state.paused), ("completed", false));
}

#[test]
fn a_failure_edge_may_lead_to_it() {
    let mut run = flow("a e/end b", "a!>e")
        .data(
            "e",
            json!({"status": "failed", "error": {"code": "GAVE_UP"}, "output": "input.error.code"}),
        )
        .start();
    run.fail("a", "E1");
    assert_eq!(
        (run.nodes().as_str(), run.status(), run.error()),
        ("a:failed e:completed b:canceled", "failed", "GAVE_UP")
    );
}

#[test]
fn of_two_that_become_ready_together_the_first_decides() {
    let mut run = flow("a e/end f/end", "a>e a>f")
        .data("f", json!({"status": "failed"}))
        .start();
    run.complete("a", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.status()),
        ("a:completed e:completed f:skipped", "completed")
    );
}

#[test]
fn it_writes_variables_like_any_node() {
    let mut run = ending(json!({"outputMapping": {"v": "output"}})).start();
    run.complete("a", json!(7));
    assert_eq!(run.variable("v"), json!(7));
}

#[test]
fn out_of_a_loop_it_waits_for_the_loop_and_it_stops_other_loops() {
    let edges = "r>h h>b b>h?execution.iteration~==~1 b>e s>k k~>k";
    let mut run = flow("r h b e/end s k x", edges).start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!(2));
    assert_eq!((run.started().as_str(), run.node("e")), ("h1@2", "pending"));
    run.complete("s", json!(0))
        .complete("h", json!(1))
        .complete("b", json!("out"));
    assert_eq!(
        run.nodes(),
        "r:completed h:completed b:completed e:completed s:completed k:canceled x:canceled"
    );
    assert_eq!(
        (run.status(), run.output(), run.visits().as_str()),
        ("completed", json!("out"), "r1 h2 b2 e1 s1 k1 x1")
    );
}

#[test]
fn a_held_exit_of_a_loop_that_it_stops_resolves_as_it_was_decided() {
    use troupe_core::execution::EdgeState;
    let mut run = flow("a e/end r h b c x", "a>e r>h h>b h>c b~>h c>h?false b>x").start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!(2))
        .complete("a", json!(3));
    assert_eq!(
        run.nodes(),
        "a:completed e:completed r:completed h:completed b:completed c:canceled x:skipped"
    );
    assert_eq!(
        (run.way("b", "h"), run.way("b", "x")),
        (EdgeState::Dead, EdgeState::Taken)
    );
}

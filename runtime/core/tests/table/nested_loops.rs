//! §2 and §8.6: loops within loops.

use serde_json::json;
use troupe_core::execution::EdgeState;

use super::flow::{Flow, flow};

/// An outer loop of `o`, `i`, `b` and `c` around an inner one of `i` and `b`, each of two generations an entry.
fn nested() -> Flow {
    let edges = "r>o o>i i>b b>i?execution.iteration~==~1 b>c c>o?execution.iteration~==~1 c>x";
    flow("r o i b c x", edges)
}

#[test]
fn loops_nest_and_visit_numbers_never_restart() {
    let mut run = nested()
        .data("i", json!({"maxIterations": 2}))
        .data("o", json!({"maxIterations": 2}))
        .start();
    run.complete("r", json!(0));
    for outer in 1..=2 {
        run.complete("o", json!(outer));
        for _ in 1..=2 {
            run.complete("i", json!(1)).complete("b", json!(2));
        }
        assert_eq!(run.started(), if outer == 1 { "c1" } else { "c1@2" });
        run.complete("c", json!(3));
    }
    assert_eq!(run.visits(), "r1 o2 i4 b4 c2 x1", "`maxIterations` counts per entry");
    assert_eq!(run.started(), "x1");
    run.complete("x", json!(4));
    assert_eq!(run.status(), "completed");
}

#[test]
fn the_outer_loop_gives_every_node_of_the_inner_one_a_new_visit() {
    let mut run = nested().start();
    run.complete("r", json!(0)).complete("o", json!(0));
    for _ in 1..=2 {
        run.complete("i", json!(1)).complete("b", json!(2));
    }
    run.complete("c", json!(3));
    assert_eq!(
        (run.nodes().as_str(), run.visits().as_str()),
        (
            "r:completed o:running i:pending b:pending c:pending x:pending",
            "r1 o2 i3 b3 c2 x1"
        )
    );
    let open = |source, target| run.way(source, target) == EdgeState::Open;
    assert!(open("i", "b") && open("b", "c") && open("b", "i") && open("c", "x"));
}

#[test]
fn iteration_counts_in_the_innermost_loop_and_is_absent_outside() {
    let mapping = json!({"inputMapping": {"n": "execution.iteration"}});
    let mut flow = nested();
    for node in ["r", "o", "i", "c", "x"] {
        flow = flow.data(node, mapping.clone());
    }
    let mut run = flow.start();
    assert_eq!(run.given("r"), r#"{"n":null}"#);
    run.complete("r", json!(0));
    for outer in 1..=2 {
        assert_eq!(run.given("o"), format!(r#"{{"n":{outer}}}"#));
        run.complete("o", json!(0));
        for inner in 1..=2 {
            assert_eq!(run.given("i"), format!(r#"{{"n":{inner}}}"#));
            run.complete("i", json!(1)).complete("b", json!(2));
        }
        assert_eq!(run.given("c"), format!(r#"{{"n":{outer}}}"#));
        run.complete("c", json!(3));
    }
    assert_eq!(run.given("x"), r#"{"n":null}"#);
}

#[test]
fn an_edge_from_an_inner_loop_to_the_outer_header_is_an_exit_and_a_back_edge() {
    let edges = "r>o o>i i>b b>i?execution.iteration~==~1 b>o?execution.iteration~==~2 b>x";
    let mut run = flow("r o i b x", edges).data("o", json!({"maxIterations": 2})).start();
    run.complete("r", json!(0)).complete("o", json!(0));
    run.complete("i", json!(1)).complete("b", json!("again"));
    assert_eq!(run.started(), "i1@2", "as an exit of the inner loop it is dropped");
    run.complete("i", json!(1)).complete("b", json!("out"));
    assert_eq!((run.started().as_str(), run.given("o").as_str()), ("o1@2", r#""out""#));
    assert_eq!(run.visits(), "r1 o2 i3 b3 x1");
}

#[test]
fn an_exit_of_several_loops_is_held_by_each_in_turn() {
    let edges = "r>o o>i o>d i>b b>i?execution.iteration~==~1 b>x?execution.iteration~==~2 b>c d>c c>o?false";
    let mut run = flow("r o d i b c x", edges).start();
    run.complete("r", json!(0)).complete("o", json!(0));
    run.complete("i", json!(1)).complete("b", json!(1));
    run.complete("i", json!(2)).complete("b", json!(2));
    assert_eq!(
        (run.way("b", "x"), run.way("b", "c")),
        (EdgeState::HeldTaken, EdgeState::Taken)
    );
    run.complete("d", json!(3)).complete("c", json!(3));
    assert_eq!((run.way("b", "x"), run.given("x").as_str()), (EdgeState::Taken, "2"));
}

#[test]
fn an_inner_loop_that_one_generation_passes_by_may_be_entered_in_the_next() {
    let edges = "r>o o>i?execution.iteration~==~2 o>c i>b b>i?false b>c c>o?execution.iteration~==~1 c>x";
    let mut run = flow("r o i b c x", edges).start();
    run.complete("r", json!(0)).complete("o", json!(0));
    assert_eq!(
        run.nodes(),
        "r:completed o:completed i:skipped b:skipped c:running x:pending"
    );
    run.complete("c", json!(1)).complete("o", json!(0));
    assert_eq!(run.started(), "i1@2");
    run.complete("i", json!(1)).complete("b", json!(2));
    assert_eq!(run.given("c"), r#"{"o":0,"b":2}"#);
}

#[test]
fn an_inner_loop_limit_may_end_the_inner_loop_alone() {
    let edges = "r>o o>i i>b b>i b>c i!>c c>o?execution.iteration~==~1 c>x";
    let mut run = flow("r o i b c x", edges)
        .data("i", json!({"maxIterations": 1}))
        .start();
    run.complete("r", json!(0));
    for outer in 1..=2 {
        run.complete("o", json!(0))
            .complete("i", json!(1))
            .complete("b", json!("out"));
        assert_eq!(
            (run.error_of("i"), run.state_of("i").visit.0),
            ("LOOP_LIMIT", 2 * outer)
        );
        assert_eq!(
            run.given("c"),
            r#"{"error":{"message":"","code":"LOOP_LIMIT"},"input":"out"}"#
        );
        run.complete("c", json!(3));
    }
    assert_eq!(
        (run.visits().as_str(), run.started().as_str()),
        ("r1 o2 i4 b2 c2 x1", "x1")
    );
}

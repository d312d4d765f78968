//! §2: results, attempts, deadlines and joins are kept per visit.

use serde_json::json;

use super::flow::flow;
use super::loops::thrice;
use crate::support::duo::Stimulus;

#[test]
fn expressions_see_the_latest_ended_visit() {
    let seen = json!({"inputMapping": {"b": "nodes.b.output", "s": "nodes.b.status", "h": "nodes.h.output",
        "hs": "nodes.h.status"}});
    let mut run = flow("r h b x p q", "r>h h>b b>h?execution.iteration~==~1 b>x p>q")
        .data("h", seen.clone())
        .data("q", seen)
        .start();
    run.complete("r", json!(0));
    assert_eq!(run.given("h"), r#"{"b":null,"s":"pending","h":null,"hs":"pending"}"#);
    run.complete("h", json!("h1")).complete("b", json!("b1"));
    assert_eq!(
        run.given("h"),
        r#"{"b":"b1","s":"completed","h":"h1","hs":"completed"}"#
    );
    run.complete("p", json!(0));
    assert_eq!(
        run.given("q"),
        r#"{"b":"b1","s":"completed","h":"h1","hs":"completed"}"#,
        "the second visits have begun but not ended"
    );
}

#[test]
fn retries_count_per_visit() {
    let twice = json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}});
    let mut run = thrice().data("b", twice).start();
    run.complete("r", json!(0)).complete("h", json!(1));
    run.fail("b", "E1").wait(1_000).due();
    assert_eq!(run.started(), "b2");
    run.complete("b", json!(2)).complete("h", json!(1));
    assert_eq!(run.started(), "b1@2");
    run.fail("b", "E1").wait(1_000).due();
    assert_eq!((run.started().as_str(), run.state_of("b").attempts.len()), ("b2@2", 1));
}

#[test]
fn deadlines_are_kept_per_visit() {
    let mut run = thrice().data("b", json!({"totalTimeout": 500})).start();
    run.complete("r", json!(0)).complete("h", json!(1));
    assert_eq!(run.next_due(), Some(500));
    run.wait(400).complete("b", json!(2));
    assert_eq!(run.next_due(), None);
    run.wait(1_000).complete("h", json!(1));
    assert_eq!(run.next_due(), Some(1_900));
    let mut run = flow("r h a b j x", "r>h h>a h>b a>j b>j j>h?execution.iteration~==~1 j>x")
        .join("j", json!({"timeout": 100, "onTimeout": "proceed"}))
        .start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!(1));
    assert_eq!(run.next_due(), Some(100));
    run.complete("b", json!(1)).complete("j", json!(1)).wait(300);
    run.complete("h", json!(1)).complete("a", json!(1));
    assert_eq!(run.next_due(), Some(400));
    run.wait(100).due();
    assert_eq!(run.started(), "j1@2");
}

#[test]
fn a_join_in_the_body_fires_once_a_generation() {
    let mut run = flow("r h a b j x", "r>h h>a h>b a>j b>j j>h?execution.iteration~==~1 j>x")
        .join("j", json!({"mode": "any"}))
        .start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!("a"));
    run.complete("j", json!(2));
    assert_eq!(
        run.visits(),
        "r1 h1 a1 b1 j1 x1",
        "`b` has not ended in this generation"
    );
    run.complete("b", json!("late"));
    assert_eq!(run.started(), "h1@2");
    run.complete("h", json!(1)).complete("b", json!("b"));
    assert_eq!((run.started().as_str(), run.given("j").as_str()), ("j1@2", r#""b""#));
}

#[test]
fn an_entry_that_comes_late_starts_no_pass() {
    let mut run = flow("r s h b x", "r>h s>h h>b b>h?execution.iteration~==~1 b>x")
        .join("h", json!({"mode": "any"}))
        .start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!(2));
    run.complete("s", json!("late"));
    assert_eq!((run.started().as_str(), run.given("h").as_str()), ("", "2"));
    run.complete("h", json!(1)).complete("b", json!(2));
    assert_eq!(
        (run.started().as_str(), run.visits().as_str()),
        ("x1", "r1 s1 h2 b2 x1")
    );
}

#[test]
fn a_report_of_an_earlier_visit_is_stale() {
    let mut run = thrice().start();
    run.complete("r", json!(0));
    let first = run.duo.outstanding["h"];
    run.complete("h", json!(1)).complete("b", json!(2));
    let stale = Stimulus::Stale { token: first };
    assert!(run.try_apply(stale).is_err());
    assert_eq!(run.duo.outstanding["h"].visit.0, 2);
}

#[test]
fn an_interrupted_attempt_is_dispatched_again_in_its_visit() {
    let mut run = thrice().start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!(2));
    run.apply(Stimulus::Interrupt);
    assert_eq!((run.started().as_str(), run.state_of("h").interruptions), ("h1@2", 1));
    run.complete("h", json!(1)).complete("b", json!(2));
    assert_eq!((run.started().as_str(), run.state_of("h").interruptions), ("h1@3", 0));
}

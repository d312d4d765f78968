//! §6: pause, resume, cancel.

use serde_json::json;
use troupe_core::execution::Event;

use super::flow::flow;
use crate::support::duo::Stimulus;

#[test]
fn while_paused_no_attempt_starts_and_running_ones_finish_and_are_recorded() {
    let mut run = flow("a b c", "a>b")
        .data("c", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .start();
    run.pause().complete("a", json!(1)).fail("c", "E1").wait(5_000);
    assert_eq!(
        (run.nodes().as_str(), run.is_held("b")),
        ("a:completed b:pending c:running", true)
    );
    assert_eq!((run.started().as_str(), run.next_due()), ("", None));
    run.resume();
    assert_eq!(run.started(), "b1 c2");
}

#[test]
fn what_fell_due_is_applied_at_resume_before_anything_is_dispatched() {
    let mut run = flow("a b h", "b!>h")
        .data("b", json!({"totalTimeout": 100}))
        .settings(json!({"maxParallelNodes": 1}))
        .start();
    assert!(run.is_held("b"));
    run.pause().complete("a", json!(1)).wait(200).resume();
    assert_eq!(
        (run.error_of("b"), run.started().as_str()),
        ("TIMEOUT", "h1"),
        "b is never started"
    );
}

#[test]
fn clocks_run_while_paused_and_due_deadlines_wait_for_the_resume() {
    let mut run = flow("w/delay a", "w>a")
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .start();
    run.pause().wait(100);
    assert!(run.try_apply(Stimulus::Deadline).is_err());
    run.wait(50).resume();
    assert_eq!((run.node("w"), run.started().as_str()), ("completed", "a1"));
    let mut run = flow("w/delay", "")
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .start();
    run.pause().wait(40).resume();
    assert_eq!(run.next_due(), Some(100), "what is not due stays as it was");
}

#[test]
fn an_execution_times_out_at_its_resume() {
    let mut run = flow("a", "").settings(json!({"timeout": 100})).start();
    run.pause().wait(200).resume();
    assert_eq!(
        (run.status(), run.error(), run.started().as_str()),
        ("failed", "EXECUTION_TIMEOUT", "")
    );
}

#[test]
fn an_execution_may_end_while_paused() {
    let mut run = flow("a", "").start();
    run.pause().complete("a", json!(1));
    assert_eq!((run.status(), run.duo.state.paused), ("completed", false));
}

#[test]
fn pausing_twice_and_resuming_what_runs_change_nothing() {
    let mut run = flow("a", "").start();
    assert!(run.try_apply(Stimulus::Resume).is_err());
    run.pause();
    assert!(run.try_apply(Stimulus::Pause).is_err());
    run.resume();
    assert!(run.try_apply(Stimulus::Resume).is_err());
}

#[test]
fn an_entry_of_nothing_changes_nothing_wherever_the_execution_stands() {
    let delay = || json!({"delayType": "fixed", "delayValue": 100});
    let running = || flow("a b w/delay", "a>b").data("w", delay()).start();
    let mut paused = running();
    paused.pause().complete("a", json!(1));
    let mut frozen = running();
    frozen.apply(Stimulus::Freeze);
    let mut failing = flow("a s c", "a~>c").start();
    failing.fail("a", "E1");
    let mut canceling = running();
    canceling.cancel(1_000);
    let mut queued = flow("a", "").settings(json!({"concurrency": {"limit": 1}})).create();
    queued.apply(Stimulus::Queue {
        trigger: None,
        input: json!(1),
        variables: Vec::new(),
    });
    for mut run in [running(), paused, frozen, failing, canceling, queued] {
        let mut expected = run.duo.state.clone();
        expected.seq = expected.seq.next();
        run.wait(200).apply(Stimulus::SetVariables(Vec::new()));
        let (entry, effects) = run.duo.log.last().unwrap();
        assert_eq!(entry.event, Event::nothing());
        assert!(entry.transitions.is_empty() && effects.is_empty());
        assert_eq!(run.duo.state, expected);
    }
}

#[test]
fn cancel_reaches_running_attempts_and_waits_for_them() {
    let mut run = flow("a b c w/delay", "a>b a~>c")
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .data("a", json!({"outputMapping": {"v": "output"}}))
        .start();
    run.cancel(1_000);
    assert_eq!(
        (run.aborted().as_str(), run.nodes().as_str()),
        ("a", "a:running b:skipped c:skipped w:canceled")
    );
    assert_eq!((run.status(), run.next_due()), ("running", Some(1_000)));
    run.complete("a", json!(1));
    assert_eq!(
        (run.node("a"), run.status(), run.variable("v")),
        ("canceled", "canceled", json!("absent"))
    );
    assert_eq!(run.error(), "none");
}

#[test]
fn nothing_comes_over_the_edges_of_what_a_cancel_or_a_timeout_ended() {
    use troupe_core::execution::EdgeState;
    let graph =
        || flow("a b c d w/delay", "a>b b>c a~>d w>c").data("w", json!({"delayType": "fixed", "delayValue": 900}));
    let mut canceled = graph().start();
    canceled.cancel(1_000);
    let open = |edges: &[EdgeState]| edges.iter().filter(|edge| **edge == EdgeState::Open).count();
    assert_eq!(open(&canceled.duo.state.edges), 2, "the two of `a`, which still runs");
    canceled.wait(1_000).due();
    assert_eq!(canceled.duo.state.edges, [EdgeState::Dead; 4]);
    let mut timed_out = graph().settings(json!({"timeout": 100})).start();
    timed_out.wait(100).due();
    assert_eq!(
        (timed_out.error(), timed_out.duo.state.edges.as_slice()),
        ("EXECUTION_TIMEOUT", [EdgeState::Dead; 4].as_slice())
    );
}

#[test]
fn what_never_started_is_skipped_when_the_execution_ends() {
    let held = || {
        flow("a b h", "a>h")
            .settings(json!({"maxParallelNodes": 1, "timeout": 100}))
            .start()
    };
    let mut canceled = held();
    assert!(canceled.is_held("b"));
    canceled.cancel(1_000);
    assert_eq!(canceled.nodes(), "a:running b:skipped h:skipped");
    let mut at_once = held();
    at_once.apply(Stimulus::Cancel {
        grace_ms: 0,
        at_once: true,
    });
    assert_eq!(at_once.nodes(), "a:canceled b:skipped h:skipped");
    let mut timed_out = held();
    timed_out.wait(100).due();
    assert_eq!(timed_out.nodes(), "a:canceled b:skipped h:skipped");
    let mut failed = held();
    failed.fail("a", "E1");
    assert_eq!(failed.nodes(), "a:failed b:skipped h:skipped");
    let mut paused = flow("a b", "a>b").start();
    paused.pause().complete("a", json!(1)).cancel(0);
    assert_eq!(
        (paused.nodes().as_str(), paused.status()),
        ("a:completed b:skipped", "canceled")
    );
}

#[test]
fn what_waits_for_another_dispatch_has_run_and_is_canceled() {
    let twice = json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}});
    let mut retried = flow("a", "").data("a", twice).start();
    retried.pause().fail("a", "E1").wait(5_000).cancel(0);
    assert_eq!(retried.nodes(), "a:canceled");
    for cut in [Stimulus::Interrupt, Stimulus::Drain] {
        let mut run = flow("a", "").start();
        run.pause().apply(cut);
        assert!(run.is_held("a"));
        run.cancel(0);
        assert_eq!(run.nodes(), "a:canceled");
    }
}

#[test]
fn after_the_grace_a_canceled_execution_ends() {
    let mut run = flow("a", "").start();
    let token = run.duo.outstanding["a"];
    run.wait(10).cancel(1_000).wait(1_000).due();
    assert_eq!((run.nodes().as_str(), run.status()), ("a:canceled", "canceled"));
    assert!(run.try_apply(Stimulus::Stale { token }).is_err());
}

#[test]
fn a_failure_during_the_grace_changes_nothing() {
    let mut run = flow("a b h", "a!>h")
        .data("a", json!({"retryPolicy": {"maxAttempts": 9}}))
        .start();
    run.cancel(1_000).fail("a", "E1");
    assert_eq!(
        (run.nodes().as_str(), run.status()),
        ("a:canceled b:running h:skipped", "running")
    );
    run.fail("b", "E2");
    assert_eq!((run.status(), run.error()), ("canceled", "none"));
}

#[test]
fn cancel_without_anything_running_ends_at_once() {
    let mut run = flow("w/delay a", "w>a")
        .data("w", json!({"delayType": "fixed", "delayValue": 100}))
        .start();
    run.cancel(1_000);
    assert_eq!(
        (run.nodes().as_str(), run.status()),
        ("w:canceled a:skipped", "canceled")
    );
}

#[test]
fn cancel_at_once_waits_for_nothing() {
    let mut run = flow("a b", "a>b").start();
    run.apply(Stimulus::Cancel {
        grace_ms: 1_000,
        at_once: true,
    });
    assert_eq!(
        (run.nodes().as_str(), run.status(), run.aborted().as_str()),
        ("a:canceled b:skipped", "canceled", "a")
    );
}

#[test]
fn a_second_cancel_changes_nothing_but_one_at_once_ends_the_grace() {
    let mut run = flow("a", "").start();
    run.cancel(1_000);
    assert!(
        run.try_apply(Stimulus::Cancel {
            grace_ms: 9_000,
            at_once: false
        })
        .is_err()
    );
    assert_eq!(run.next_due(), Some(1_000));
    run.apply(Stimulus::Cancel {
        grace_ms: 0,
        at_once: true,
    });
    assert_eq!(run.status(), "canceled");
}

#[test]
fn a_paused_execution_can_be_canceled_and_its_grace_runs() {
    let mut run = flow("a b", "a>b").start();
    run.pause().cancel(1_000);
    assert_eq!(run.next_due(), Some(1_000));
    run.wait(1_000).due();
    assert_eq!(run.status(), "canceled");
}

#[test]
fn there_is_no_clean_up_on_cancel() {
    let mut run = flow("r a b", "r~>a a>b").start();
    run.complete("r", json!(1)).cancel(1_000).complete("a", json!(1));
    assert_eq!(
        (run.nodes().as_str(), run.status()),
        ("r:completed a:canceled b:skipped", "canceled")
    );
}

#[test]
fn nothing_happens_after_the_end() {
    let mut run = flow("a", "").start();
    let token = run.duo.outstanding["a"];
    run.complete("a", json!(1));
    for stimulus in [
        Stimulus::Pause,
        Stimulus::Resume,
        Stimulus::Deadline,
        Stimulus::Interrupt,
        Stimulus::Cancel {
            grace_ms: 1,
            at_once: false,
        },
        Stimulus::Stale { token },
    ] {
        assert!(run.try_apply(stimulus).is_err());
    }
}

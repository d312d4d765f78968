//! §4: attempts, retries, timeouts, interruptions.

use serde_json::{Value, json};

use super::flow::{Run, failure, flow};
use crate::reference::Failure;
use crate::support::duo::Stimulus;

/// A single node `a` with this policy.
fn with(policy: Value) -> Run {
    flow("a", "").data("a", json!({"retryPolicy": policy})).start()
}

/// The delays between the attempts of a node that always fails with these codes, until it fails for good.
fn delays(policy: Value, codes: &[&str]) -> Vec<i64> {
    let mut run = with(policy);
    let mut delays = Vec::new();
    for code in codes {
        let before = run.duo.now;
        run.fail("a", code);
        let Some(due) = run.next_due() else { break };
        run.duo.now = before;
        delays.push(due + crate::support::duo::EPOCH - before);
        run.wait(*delays.last().unwrap()).due();
    }
    delays
}

#[test]
fn max_attempts_counts_the_first_and_is_three_by_default() {
    assert_eq!(delays(json!({"jitter": "none"}), &["E1"; 9]), [1_000, 2_000]);
    assert_eq!(
        delays(json!({"jitter": "none", "maxAttempts": 1}), &["E1"; 9]),
        [0_i64; 0]
    );
    let mut run = flow("a", "").data("a", json!({"retryPolicy": null})).start();
    for attempt in ["a2", "a3"] {
        run.fail("a", "E1");
        let due = run.next_due().unwrap();
        run.duo.now = due + crate::support::duo::EPOCH;
        run.due();
        assert_eq!(run.started(), attempt);
    }
    run.fail("a", "E1");
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
}

#[test]
fn backoff_is_exponential_or_fixed_and_bounded() {
    let six = ["E1"; 6];
    assert_eq!(
        delays(json!({"jitter": "none", "maxAttempts": 5, "initialDelay": 10}), &six),
        [10, 20, 40, 80]
    );
    let fixed = json!({"jitter": "none", "maxAttempts": 4, "initialDelay": 10, "backoffStrategy": "fixed"});
    assert_eq!(delays(fixed, &six), [10, 10, 10]);
    let bounded = json!({"jitter": "none", "maxAttempts": 5, "initialDelay": 10, "multiplier": 3, "maxDelay": 50});
    assert_eq!(delays(bounded, &six), [10, 30, 50, 50]);
    let hundredfold = json!({"jitter": "none", "maxAttempts": 4, "initialDelay": 10, "multiplier": 60});
    assert_eq!(
        delays(hundredfold, &six),
        [10, 600, 1_000],
        "the longest delay is 100 times the first"
    );
}

#[test]
fn full_jitter_draws_between_nothing_and_the_whole_delay() {
    let policy = json!({"maxAttempts": 200, "initialDelay": 1_000, "backoffStrategy": "fixed"});
    let drawn = delays(policy.clone(), &["E1"; 199]);
    assert!(drawn.iter().all(|delay| (0..=1_000).contains(delay)));
    assert!(
        drawn.iter().any(|delay| *delay < 200) && drawn.iter().any(|delay| *delay > 800),
        "{drawn:?}"
    );
    assert_eq!(
        drawn,
        delays(policy, &["E1"; 199]),
        "the same execution, node and attempt draw the same"
    );
}

#[test]
fn retry_on_and_do_not_retry_on() {
    for (policy, code, retried) in [
        (json!({"retryOn": ["E1"]}), "E1", true),
        (json!({"retryOn": ["E1"]}), "E2", false),
        (json!({"doNotRetryOn": ["E1"]}), "E1", false),
        (json!({"doNotRetryOn": ["E1"]}), "E2", true),
        (json!({"retryOn": ["E1"], "doNotRetryOn": ["E1"]}), "E1", false),
        (
            json!({"doNotRetryOn": ["E1"], "rules": [{"errors": ["E1"], "maxAttempts": 9}]}),
            "E1",
            false,
        ),
    ] {
        let mut run = with(policy.clone());
        run.fail("a", code);
        assert_eq!(
            run.status(),
            if retried { "running" } else { "failed" },
            "{policy} {code}"
        );
    }
}

#[test]
fn what_no_other_attempt_can_mend_is_never_retried() {
    for code in [
        "SCHEMA_VIOLATION",
        "EXPRESSION_ERROR",
        "NO_MATCHING_CONDITION",
        "JOIN_UNSATISFIED",
        "HANDLER_NOT_FOUND",
        "QUEUE_TIMEOUT",
    ] {
        let mut run = with(json!({"maxAttempts": 9, "rules": [{"errors": ["*"], "maxAttempts": 9}]}));
        run.fail("a", code);
        assert_eq!((run.status(), run.error()), ("failed", code));
    }
    for code in ["TIMEOUT", "HEARTBEAT_TIMEOUT", "E1"] {
        let mut run = with(json!({"maxAttempts": 9}));
        run.fail("a", code);
        assert_eq!(run.status(), "running", "{code}");
        let mut run = with(json!({"maxAttempts": 9}));
        run.fail_with(
            "a",
            Failure {
                retryable: false,
                ..failure(code)
            },
        );
        assert_eq!(run.status(), "failed", "{code} reported as not retryable");
    }
}

#[test]
fn retry_after_raises_the_delay() {
    let policy = json!({"jitter": "none", "initialDelay": 100});
    for (after_ms, due) in [(None, 100), (Some(50), 100), (Some(7_000), 7_000)] {
        let mut run = with(policy.clone());
        run.fail_with(
            "a",
            Failure {
                retry_after_ms: after_ms,
                ..failure("E1")
            },
        );
        assert_eq!(run.next_due(), Some(due));
    }
}

#[test]
fn the_first_rule_that_matches_counts_its_own_attempts() {
    let policy = json!({"jitter": "none", "maxAttempts": 2, "initialDelay": 5, "rules": [
        {"errors": ["E1"], "maxAttempts": 3, "initialDelay": 10},
        {"errors": ["E2", "E1"], "maxAttempts": 2, "initialDelay": 20},
    ]});
    assert_eq!(delays(policy.clone(), &["E1", "E1", "E1"]), [10, 20]);
    assert_eq!(delays(policy.clone(), &["E2", "E2"]), [20]);
    assert_eq!(delays(policy.clone(), &["E3", "E3"]), [5]);
    assert_eq!(delays(policy, &["E1", "E2", "E3", "E1", "E3"]), [10, 20, 5, 20]);
}

#[test]
fn the_nested_form_is_accepted_and_direct_fields_win() {
    let nested = json!({"taskDefinition": {"retryPolicy": {"maxAttempts": 2}}, "retryPolicy": null});
    let mut run = flow("a", "").data("a", nested).start();
    run.fail("a", "E1");
    assert_eq!(run.status(), "running");
    let both = json!({"taskDefinition": {"retryPolicy": {"maxAttempts": 2}}, "retryPolicy": {"maxAttempts": 1}});
    let mut run = flow("a", "").data("a", both).start();
    run.fail("a", "E1");
    assert_eq!(run.status(), "failed");
}

#[test]
fn the_total_timeout_covers_attempts_and_backoffs_and_is_not_retried() {
    let data = json!({"totalTimeout": 2_500, "retryPolicy": {"maxAttempts": 9, "jitter": "none"}});
    let mut run = flow("a h", "a!>h").data("a", data.clone()).start();
    assert_eq!(run.next_due(), Some(2_500));
    run.fail("a", "E1").wait(1_000).due().wait(1_500).due();
    assert_eq!(
        (run.error_of("a"), run.aborted().as_str(), run.node("h")),
        ("TIMEOUT", "a", "running")
    );
    let mut run = flow("a h", "a!>h").data("a", data).start();
    run.fail("a", "E1").wait(1_000).due().fail("a", "E1").wait(1_500).due();
    assert_eq!(
        (run.error_of("a"), run.aborted().as_str(), run.node("h")),
        ("TIMEOUT", "", "running")
    );
}

#[test]
fn a_total_timeout_may_be_a_template() {
    let run = flow("a", "")
        .data("a", json!({"totalTimeout": "{{variables.most}}"}))
        .settings(json!({"variables": {"most": 2_500}}))
        .start();
    assert_eq!(run.next_due(), Some(2_500));
}

#[test]
fn a_report_whose_token_is_not_the_current_one_is_stale() {
    let mut run = with(json!({"maxAttempts": 3, "jitter": "none"}));
    let first = run.duo.outstanding["a"];
    run.fail("a", "E1");
    assert!(run.try_apply(Stimulus::Stale { token: first }).is_err());
    run.wait(1_000).due();
    assert!(run.try_apply(Stimulus::Stale { token: first }).is_err());
    let second = run.duo.outstanding["a"];
    assert_eq!((second.attempt.0, second.visit), (2, first.visit));
    for change in [0, 1, 2] {
        let mut token = second;
        match change {
            0 => token.nonce += 1,
            1 => token.run.0 += 1,
            _ => token.visit.0 += 1,
        }
        assert!(run.try_apply(Stimulus::Stale { token }).is_err());
    }
    run.complete("a", json!(1));
    assert!(run.try_apply(Stimulus::Stale { token: second }).is_err());
}

#[test]
fn a_crash_does_not_consume_an_attempt() {
    let mut run = flow("a b", "")
        .data("a", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .start();
    let before = run.duo.outstanding["a"];
    run.apply(Stimulus::Interrupt);
    assert_eq!(run.started(), "a1 b1");
    assert_ne!(
        run.duo.outstanding["a"], before,
        "the interrupted attempt's report would be stale"
    );
    run.fail("a", "E1").wait(1_000).due();
    assert_eq!(run.started(), "a2");
    assert_eq!(run.state_of("a").interruptions, 1);
}

#[test]
fn an_attempt_that_was_cut_short_lasted_from_its_dispatch() {
    let mut run = flow("a", "")
        .data("a", json!({"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}))
        .start();
    run.fail("a", "E1")
        .wait(1_000)
        .due()
        .wait(30)
        .apply(Stimulus::Interrupt);
    run.wait(5).apply(Stimulus::Drain);
    let times = run.state_of("a").attempts.iter().skip(1).map(|record| {
        let since = |at: troupe_core::Timestamp| at.0 - crate::support::duo::EPOCH;
        (record.attempt.0, since(record.started_at), since(record.ended_at))
    });
    assert_eq!(times.collect::<Vec<_>>(), [(2, 1_000, 1_030), (2, 1_030, 1_035)]);
}

#[test]
fn past_ten_interruptions_the_node_fails() {
    let mut run = flow("a h", "a!>h").start();
    for _ in 0..10 {
        run.apply(Stimulus::Interrupt);
        assert_eq!(run.started(), "a1");
    }
    run.apply(Stimulus::Interrupt);
    assert_eq!((run.error_of("a"), run.node("h")), ("INTERRUPTED", "running"));
}

#[test]
fn an_attempt_that_was_interrupted_too_often_is_retried_as_the_policy_says() {
    let policy = json!({"maxAttempts": 2, "jitter": "none", "initialDelay": 100});
    let mut run = with(policy);
    for expected in ["a1", "a2"] {
        assert_eq!(run.started(), expected, "each attempt has its own ten");
        for _ in 0..10 {
            run.apply(Stimulus::Interrupt);
            assert_eq!(run.started(), expected);
        }
        run.apply(Stimulus::Drain);
        run.apply(Stimulus::Interrupt);
        if expected == "a1" {
            assert_eq!((run.node("a"), run.next_due()), ("running", Some(100)));
            run.wait(100).due();
        }
    }
    assert_eq!((run.status(), run.error()), ("failed", "INTERRUPTED"));
    assert_eq!(run.state_of("a").interruptions, 22);
    let mut run = with(json!({"maxAttempts": 9, "doNotRetryOn": ["INTERRUPTED"]}));
    for _ in 0..11 {
        run.apply(Stimulus::Interrupt);
    }
    assert_eq!((run.status(), run.error()), ("failed", "INTERRUPTED"));
}

#[test]
fn a_handler_that_fails_with_our_code_has_used_its_attempt() {
    let mut run = with(json!({"maxAttempts": 2, "jitter": "none", "initialDelay": 100}));
    run.fail("a", "INTERRUPTED").wait(100).due();
    assert_eq!(run.started(), "a2");
    run.fail("a", "INTERRUPTED");
    assert_eq!((run.status(), run.error()), ("failed", "INTERRUPTED"));
}

#[test]
fn a_planned_stop_does_not_count_as_an_interruption() {
    let mut run = flow("a", "").start();
    let first = run.duo.outstanding["a"];
    for _ in 0..20 {
        run.apply(Stimulus::Drain);
        assert_eq!(run.started(), "a1");
    }
    assert_ne!(
        run.duo.outstanding["a"], first,
        "the cut attempt's report would be stale"
    );
    assert_eq!((run.node("a"), run.state_of("a").interruptions), ("running", 0));
    run.apply(Stimulus::Interrupt);
    assert_eq!(run.state_of("a").interruptions, 1, "a crash still does");
}

#[test]
fn an_interruption_while_paused_starts_nothing_until_the_resume() {
    let mut run = flow("a", "").start();
    run.pause().apply(Stimulus::Interrupt);
    assert_eq!((run.started().as_str(), run.is_held("a")), ("", true));
    run.resume();
    assert_eq!(run.started(), "a1");
}

#[test]
fn the_key_of_a_limit_is_fixed_for_the_visit_and_must_be_something() {
    let limit = json!({"concurrency": {"key": "variables.v"}, "retryPolicy": {"maxAttempts": 2, "jitter": "none"}});
    let mut run = flow("a b", "")
        .data("a", limit.clone())
        .data("b", json!({"outputMapping": {"v": "output"}}))
        .settings(json!({"variables": {"v": "red"}}))
        .start();
    let key = |run: &Run| {
        run.duo.state.nodes[0]
            .concurrency_key
            .as_ref()
            .map(|key| key.as_str().to_owned())
    };
    assert_eq!(key(&run).as_deref(), Some("\"red\""));
    run.fail("a", "E1").complete("b", json!("blue")).wait(1_000).due();
    assert_eq!(
        key(&run).as_deref(),
        Some("\"red\""),
        "another attempt counts under the same key"
    );
    for nothing in ["variables.gone", "throw"] {
        let run = flow("a", "")
            .data("a", json!({"concurrency": {"key": nothing}}))
            .start();
        assert_eq!((run.status(), run.error()), ("failed", "EXPRESSION_ERROR"), "{nothing}");
    }
}

//! §6: `settings.compensate`, see ADR 0020.

use serde_json::{Value, json};
use troupe_core::Visit;
use troupe_core::execution::{Decision, Event, Remedy, Reopened, Status, StepError, next_deadline, reopening, rerun};

use crate::support::evaluator::parsed;
use crate::support::solo::Solo;

/// `nodes`: functions of one attempt, each undone by a function of two attempts but for those that end with `!`. Of the edges
/// `a~>b` is one of type `always`, `a!>b` a failure edge.
fn compensating(nodes: &str, edges: &str, change: impl FnOnce(&mut Value)) -> Solo {
    let node = |name: &str| {
        let mut data = json!({"retryPolicy": {"maxAttempts": 1}});
        if !name.ends_with('!') {
            let retry = json!({"maxAttempts": 2, "jitter": "none", "initialDelay": 100});
            data["compensation"] = json!({"type": "function", "data": {"retryPolicy": retry}});
        }
        json!({"id": name.trim_end_matches('!'), "type": "function", "data": data})
    };
    let edge = |text: &str| {
        let (source, target) = text.split_once('>').unwrap();
        let kind = match source.chars().last() {
            Some('~') => "always",
            Some('!') => "failure",
            _ => "success",
        };
        json!({"id": text, "source": source.trim_end_matches(['~', '!']), "target": target, "type": kind})
    };
    let nodes: Vec<Value> = nodes.split_whitespace().map(node).collect();
    let edges: Vec<Value> = edges.split_whitespace().map(edge).collect();
    let mut definition =
        json!({"id": "w", "version": 1, "nodes": nodes, "edges": edges, "settings": {"compensate": true}});
    change(&mut definition);
    let mut solo = Solo::new(&definition);
    solo.start(None);
    solo
}

fn flow(nodes: &str, edges: &str) -> Solo {
    compensating(nodes, edges, |_| {})
}

/// Data of the compensation of the n-th node.
fn undo(definition: &mut Value, place: usize) -> &mut Value {
    &mut definition["nodes"][place]["data"]["compensation"]["data"]
}

#[test]
fn what_completed_is_undone_in_reverse_order_of_completion_one_after_the_other() {
    let mut run = flow("a b c d", "c>d");
    run.complete("b", json!(1))
        .complete("c", json!(2))
        .complete("a", json!(3));
    run.fail("d", "E1");
    assert_eq!((run.status(), run.done().as_str()), ("running", "a^1"));
    assert!(matches!(run.state.status, Status::Compensating(_)));
    run.complete("a^", json!("undone"));
    assert_eq!(run.done(), "c^1");
    run.complete("c^", json!("undone"));
    assert_eq!(run.done(), "b^1");
    run.complete("b^", json!("undone"));
    assert_eq!(
        (run.status(), run.done().as_str(), run.error()),
        ("failed", "finish", "E1")
    );
    assert_eq!(run.undone(), "a:completed c:completed b:completed");
}

#[test]
fn what_failed_was_canceled_or_was_skipped_is_not_undone() {
    let mut run = flow("a b c", "b>c");
    run.fail("a", "E1");
    assert_eq!((run.status(), run.done().as_str()), ("failed", "-b finish"));
    assert_eq!(run.state.compensations, None);
}

#[test]
fn nothing_is_undone_when_the_execution_completes() {
    let mut run = flow("a b h!", "a>b b!>h");
    run.complete("a", json!(1)).fail("b", "E1").complete("h", json!(2));
    assert_eq!((run.status(), run.undone().as_str()), ("completed", ""));
}

#[test]
fn without_the_setting_nothing_is_kept_for_it() {
    let mut run = compensating("a b", "a>b", |definition| definition["settings"] = json!({}));
    assert!(run.plan.compensations.is_empty());
    run.complete("a", json!(1)).fail("b", "E1");
    assert_eq!((run.status(), run.done().as_str()), ("failed", "finish"));
    assert_eq!(run.state.compensations, None);
}

#[test]
fn a_compensation_receives_what_its_node_received_and_gave() {
    let mut run = flow("a b!", "a>b");
    run.complete("a", json!({"id": 7})).fail("b", "E1");
    let given = parsed(&run.attempt("a^").input);
    assert_eq!(given, json!({"input": {"ok": true}, "output": {"id": 7}}));
}

#[test]
fn its_expressions_see_the_nodes_input_and_output_and_why_the_execution_ends() {
    let with_templates = |definition: &mut Value| {
        definition["nodes"][0]["data"]["output"] = json!("output.whole");
        let data = undo(definition, 0);
        data["url"] = json!("{{output.id}}");
        data["why"] = json!("{{error.code}}");
        data["inputMapping"] = json!({"id": "output.id", "ok": "input.ok", "why": "error.code"});
    };
    let mut run = compensating("a b!", "a>b", with_templates);
    run.complete("a", json!({"whole": {"id": 7}})).fail("b", "E1");
    let attempt = run.attempt("a^");
    assert_eq!(parsed(&attempt.input), json!({"id": 7, "ok": true, "why": "E1"}));
    assert_eq!(parsed(attempt.data.as_ref().unwrap())["url"], 7);
    let mut run = compensating("a b!", "a>b", with_templates);
    run.complete("a", json!({"whole": {"id": 8}}));
    run.cancel(0, false).unwrap();
    run.due();
    assert_eq!(
        parsed(&run.attempt("a^").input),
        json!({"id": 8, "ok": true, "why": "CANCELED"})
    );
}

#[test]
fn retries_are_its_own_and_send_the_same_input_under_the_same_visit() {
    let mut run = compensating("a b!", "a>b", |definition| {
        undo(definition, 0)["inputMapping"] = json!({"v": "variables.v"});
        definition["settings"]["variables"] = json!({"v": 1});
    });
    run.complete("a", json!(1)).fail("b", "E1");
    let first = run.attempt("a^").clone();
    run.fail("a^", "E2");
    assert_eq!((run.status(), run.done().as_str()), ("running", ""));
    run.apply(&Event::VariablesSet(vec![("v".into(), json!(2).into())]));
    assert_eq!(run.due(), 100, "its own delay");
    let second = run.attempt("a^").clone();
    assert_eq!((second.token.attempt.0, second.token.visit), (2, Visit(1)));
    assert_eq!((&second.input, parsed(&second.input)), (&first.input, json!({"v": 1})));
    assert_eq!(
        run.report(
            first.token,
            troupe_core::execution::AttemptOutcome::Completed(json!(1).into())
        ),
        Err(StepError::Stale)
    );
}

#[test]
fn one_that_fails_for_good_is_recorded_and_the_others_go_on() {
    let mut run = flow("a b c!", "a>b b>c");
    run.complete("a", json!(1)).complete("b", json!(2)).fail("c", "E1");
    run.fail("b^", "E2").due();
    run.fail("b^", "E3");
    assert_eq!(
        (run.done().as_str(), run.undone().as_str()),
        ("a^1", "b:failed(E3) a:running")
    );
    run.complete("a^", json!(1));
    assert_eq!((run.status(), run.error()), ("failed", "E1"));
    let failures: Vec<_> = run.state.compensations.as_ref().unwrap().failures().collect();
    assert_eq!((failures.len(), failures[0].1.code.as_str()), (1, "E3"));
}

#[test]
fn one_whose_input_throws_has_no_attempt_and_the_others_go_on() {
    let mut run = compensating("a b c!", "a>b b>c", |definition| {
        undo(definition, 1)["inputMapping"] = json!({"x": "throw"});
        undo(definition, 0)["inputSchema"] = json!({"type": "number"});
    });
    run.complete("a", json!(1)).complete("b", json!(2)).fail("c", "E1");
    assert_eq!((run.status(), run.done().as_str()), ("failed", "finish"));
    assert_eq!(run.undone(), "b:failed(EXPRESSION_ERROR) a:failed(SCHEMA_VIOLATION)");
}

#[test]
fn each_visit_of_a_loop_is_undone_with_its_own_values() {
    let mut run = compensating("s! a b c!", "s>a a>b b>c b>a", |definition| {
        definition["edges"][2]["condition"] = json!("output == 3");
        definition["edges"][3]["condition"] = json!("output != 3");
    });
    run.complete("s", json!(0));
    for pass in 1..=3 {
        run.complete("a", json!({"pass": pass})).complete("b", json!(pass));
    }
    run.fail("c", "E1");
    for pass in (1..=3_u32).rev() {
        let b = run.attempt("b^").clone();
        let output = parsed(&b.input)["output"].clone();
        assert_eq!((b.token.visit.0, output), (pass, json!(pass)));
        run.complete("b^", json!("undone"));
        let a = run.attempt("a^").clone();
        let given = parsed(&a.input);
        assert_eq!((a.token.visit.0, &given["output"]), (pass, &json!({"pass": pass})));
        assert_eq!(given["input"], json!(pass - 1), "what the pass before gave");
        run.complete("a^", json!("undone"));
    }
    assert_eq!(
        run.undone(),
        "b3:completed a3:completed b2:completed a2:completed b:completed a:completed"
    );
    assert_eq!(run.status(), "failed");
}

#[test]
fn what_cleans_up_after_the_failure_is_undone_first() {
    let mut run = flow("a b h", "a>b b~>h");
    run.complete("a", json!(1)).fail("b", "E1").complete("h", json!(2));
    assert_eq!(run.done(), "h^1");
    run.complete("h^", json!(1)).complete("a^", json!(1));
    assert_eq!(
        (run.undone().as_str(), run.status()),
        ("h:completed a:completed", "failed")
    );
}

#[test]
fn a_cancellation_undoes_what_completed_once_the_grace_is_over() {
    let mut run = flow("a b", "a>b");
    run.complete("a", json!(1));
    run.cancel(500, false).unwrap();
    assert_eq!(run.done(), "-b");
    assert_eq!(run.due(), 500);
    assert_eq!((run.status(), run.done().as_str()), ("running", "-b a^1"));
    run.complete("a^", json!(1));
    assert_eq!((run.status(), run.undone().as_str()), ("canceled", "a:completed"));
    assert!(matches!(&run.state.status, Status::Canceled { reason: Some(reason) } if reason == "enough"));
}

#[test]
fn what_completes_while_it_is_canceled_did_not_complete() {
    let mut run = flow("a b", "a>b");
    run.complete("a", json!(1));
    run.cancel(500, false).unwrap();
    run.complete("b", json!(2));
    assert_eq!(run.done(), "a^1");
}

#[test]
fn at_once_means_without_compensation() {
    let mut run = flow("a b", "a>b");
    run.complete("a", json!(1));
    run.cancel(0, true).unwrap();
    assert_eq!(
        (run.status(), run.done().as_str(), run.undone().as_str()),
        ("canceled", "-b finish", "")
    );
    let mut run = flow("a b c!", "a>b b>c");
    run.complete("a", json!(1)).complete("b", json!(1)).fail("c", "E1");
    run.cancel(0, true).unwrap();
    assert_eq!(
        (run.status(), run.done().as_str(), run.undone().as_str()),
        ("canceled", "-b^ finish", "b:canceled")
    );
}

#[test]
fn who_cancels_what_is_being_undone_changes_nothing() {
    let mut run = flow("a b!", "a>b");
    run.complete("a", json!(1)).fail("b", "E1");
    assert_eq!(run.cancel(0, false), Err(StepError::Unchanged));
    run.apply(&Event::nothing());
    assert_eq!(run.done(), "");
    run.complete("a^", json!(1));
    assert_eq!(run.status(), "failed");
}

#[test]
fn while_paused_no_compensation_starts() {
    let mut run = flow("a b c!", "a>b b>c");
    run.complete("a", json!(1)).complete("b", json!(1)).fail("c", "E1");
    run.apply(&Event::Paused);
    assert_eq!(run.try_apply(&Event::Paused), Err(StepError::Unchanged));
    run.complete("b^", json!(1));
    assert_eq!((run.status(), run.done().as_str()), ("running", ""));
    run.apply(&Event::Resumed);
    assert_eq!(run.done(), "a^1");
}

#[test]
fn one_that_fails_while_paused_compensates_when_it_is_resumed() {
    let mut run = flow("a b!", "a>b");
    run.complete("a", json!(1));
    run.apply(&Event::Paused);
    run.fail("b", "E1");
    assert_eq!(
        (run.status(), run.done().as_str(), next_deadline(&run.state)),
        ("running", "", None)
    );
    run.apply(&Event::Resumed);
    assert_eq!(run.done(), "a^1");
}

#[test]
fn a_cancellation_ends_a_paused_execution_and_so_lets_it_compensate() {
    let mut run = flow("a b", "a>b");
    run.complete("a", json!(1));
    run.apply(&Event::Paused);
    run.cancel(100, false).unwrap();
    run.due();
    assert_eq!((run.done().as_str(), run.state.paused), ("-b a^1", false));
}

/// A parent that has ended resumes nobody.
#[test]
fn a_cancellation_lifts_the_pause_of_what_is_being_undone() {
    for pause in [Event::Paused, Event::PausedWithParent] {
        let mut run = flow("a b!", "a>b");
        run.complete("a", json!(1));
        run.apply(&pause);
        run.fail("b", "E1");
        assert_eq!((run.done().as_str(), run.state.paused), ("", true));
        run.cancel(100, false).unwrap();
        assert_eq!((run.done().as_str(), run.state.paused), ("a^1", false));
        assert_eq!(run.cancel(100, false), Err(StepError::Unchanged));
    }
}

#[test]
fn a_timeout_of_the_execution_compensates_and_does_not_count_meanwhile() {
    let mut run = compensating("a b", "a>b", |definition| {
        definition["settings"]["timeout"] = json!(1_000)
    });
    run.complete("a", json!(1));
    assert_eq!(run.due(), 1_000);
    assert_eq!((run.error(), run.done().as_str()), ("EXECUTION_TIMEOUT", "-b a^1"));
    assert_eq!(next_deadline(&run.state), None);
    let mut run = compensating("a b!", "a>b", |definition| {
        definition["settings"]["timeout"] = json!(50)
    });
    run.complete("a", json!(1)).fail("b", "E1");
    run.fail("a^", "E2");
    assert_eq!(run.due(), 100, "the timeout at 50 is none of its business");
    assert_eq!((run.done().as_str(), run.error()), ("a^2", "E1"));
}

#[test]
fn its_total_timeout_is_its_own() {
    let mut run = compensating("a b!", "a>b", |definition| {
        undo(definition, 0)["totalTimeout"] = json!(70)
    });
    run.complete("a", json!(1)).fail("b", "E1");
    assert_eq!(run.due(), 70);
    assert_eq!(
        (run.done().as_str(), run.undone().as_str(), run.status()),
        ("-a^ finish", "a:failed(TIMEOUT)", "failed")
    );
}

#[test]
fn a_crash_dispatches_the_same_attempt_again() {
    let mut run = flow("a b!", "a>b");
    run.complete("a", json!(1)).fail("b", "E1");
    let before = run.attempt("a^").token;
    let event = troupe_core::execution::resume(&run.state).unwrap();
    run.apply(&event);
    let after = run.attempt("a^").token;
    assert_eq!(run.done(), "a^1");
    assert_eq!(
        (after.attempt, after.visit, after.nonce),
        (before.attempt, before.visit, before.nonce + 1)
    );
    for _ in 0..10 {
        run.apply(&Event::Interrupted);
    }
    assert_eq!(
        run.done(),
        "",
        "interrupted too often, it has failed and is tried again later"
    );
    run.due();
    assert_eq!(run.done(), "a^2");
}

#[test]
fn an_end_node_undoes_unless_it_completes() {
    let ending = |status: &str| {
        let mut run = compensating("a b!", "a>b", |definition| {
            definition["nodes"][1]["type"] = json!("end");
            definition["nodes"][1]["data"] = json!({"status": status});
        });
        run.complete("a", json!(1));
        let done = run.done();
        if status != "completed" {
            run.complete("a^", json!(1));
        }
        (done, run.status())
    };
    assert_eq!(ending("failed"), ("a^1".into(), "failed"));
    assert_eq!(ending("canceled"), ("a^1".into(), "canceled"));
    assert_eq!(ending("completed"), ("finish".into(), "completed"));
}

#[test]
fn a_compensation_may_write_variables_for_the_next_one() {
    let mut run = compensating("a b c!", "a>b b>c", |definition| {
        undo(definition, 1)["outputMapping"] = json!({"refund": "output"});
        undo(definition, 1)["output"] = json!("output.id");
        undo(definition, 0)["inputMapping"] = json!({"refund": "variables.refund"});
    });
    run.complete("a", json!(1)).complete("b", json!(2)).fail("c", "E1");
    run.complete("b^", json!({"id": 9}));
    assert_eq!(parsed(&run.attempt("a^").input), json!({"refund": 9}));
}

#[test]
fn what_was_skipped_by_hand_was_not_done() {
    let mut run = flow("a b c!", "a>b b>c");
    run.complete("a", json!(1));
    let node = run.plan.node_ix("b").unwrap();
    let decision = Decision::Skip(Some(json!(2).into()));
    run.apply(&Event::Decided { node, decision });
    run.fail("c", "E1").complete("a^", json!(1));
    assert_eq!((run.undone().as_str(), run.status()), ("a:completed", "failed"));
    let mut alone = flow("b c!", "b>c");
    let node = alone.plan.node_ix("b").unwrap();
    let decision = Decision::Skip(Some(json!(2).into()));
    alone.apply(&Event::Decided { node, decision });
    alone.fail("c", "E1");
    assert_eq!((alone.status(), alone.undone().as_str()), ("failed", ""));
}

#[test]
fn a_completion_that_throws_is_not_undone() {
    let mut run = compensating("a b", "a>b", |definition| {
        definition["nodes"][1]["data"]["outputMapping"] = json!({"v": "throw"});
    });
    run.complete("a", json!(1)).complete("b", json!(1));
    assert_eq!((run.done().as_str(), run.error()), ("a^1", "EXPRESSION_ERROR"));
}

#[test]
fn while_it_compensates_nodes_take_no_calls_and_no_decisions() {
    let mut run = compensating("a b! w!", "a>b b>w", |definition| {
        definition["nodes"][2]["type"] = json!("webhook")
    });
    run.complete("a", json!(1)).fail("b", "E1");
    let node = run.plan.node_ix("w").unwrap();
    let call = json!({"body": 1}).into();
    let refused = |result: Result<(), StepError>| match result {
        Err(StepError::Refused(info)) => info.code.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(run.try_apply(&Event::Signaled { node, call })),
        "NODE_NOT_WAITING"
    );
    let decision = Decision::Skip(None);
    assert_eq!(
        refused(run.try_apply(&Event::Decided { node, decision })),
        "NODE_NOT_WAITING"
    );
}

#[test]
fn what_was_undone_is_not_retried_and_runs_again_in_a_rerun() {
    let mut run = flow("a b c!", "a>b b>c");
    run.complete("a", json!(1)).complete("b", json!(2)).fail("c", "E1");
    run.complete("b^", json!(1)).fail("a^", "E2").due();
    run.fail("a^", "E2");
    assert_eq!(run.status(), "failed");
    let retry = Reopened {
        controls: None,
        run: run.state.run,
        nodes: Vec::new(),
        remedy: Remedy::Retry,
        reason: None,
    };
    let refused = reopening(&run.plan, &run.state, &retry).unwrap_err();
    assert_eq!(refused.code, "NOT_REOPENABLE");
    let c = run.plan.node_ix("c").unwrap();
    // What led to it was undone, so it is given an input.
    let again = rerun(&run.plan, &run.state, &run.plan, c, true).unwrap();
    let repeated: Vec<&str> = again.repeated.iter().map(|one| one.node.as_str()).collect();
    assert_eq!(
        repeated,
        ["b", "c"],
        "`a` could not be undone: what it gave is taken over"
    );
}

#[test]
fn what_undoes_counts_under_the_key_that_its_limit_gives() {
    let keyed = |key: &str| {
        compensating("a b", "a>b", |definition| {
            undo(definition, 0)["concurrency"] = json!({"key": key});
        })
    };
    let mut run = keyed("input.output.account");
    run.complete("a", json!({"account": "red"})).fail("b", "E1");
    let undoing = run.state.compensations.as_deref().unwrap();
    let undoing = undoing.of_node(troupe_core::NodeIx(0)).unwrap().compensation.as_deref();
    let key = undoing.unwrap().concurrency_key.as_ref();
    assert_eq!(key.map(troupe_core::Json::as_str), Some("\"red\""));
    for nothing in ["input.output.gone", "throw"] {
        let mut run = keyed(nothing);
        run.complete("a", json!({"account": "red"})).fail("b", "E1");
        assert_eq!(run.undone(), "a:failed(EXPRESSION_ERROR)", "{nothing}");
    }
}

#[test]
fn an_end_that_cancels_lifts_no_pause() {
    let mut run = compensating("a e!", "a>e", |definition| {
        definition["nodes"][1] = json!({"id": "e", "type": "end", "data": {"status": "canceled"}});
    });
    run.apply(&Event::Paused);
    run.complete("a", json!(1));
    assert!(matches!(run.state.status, Status::Compensating(_)) && run.state.paused);
    assert_eq!(run.done(), "");
    run.apply(&Event::Resumed);
    assert_eq!(run.done(), "a^1");
}

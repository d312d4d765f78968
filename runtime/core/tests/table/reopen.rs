//! ADR 0019: an execution that has failed or was canceled goes on as its next run.

use serde_json::json;
use troupe_core::execution::{
    ChildId, EdgeState, Event, Parent, Remedy, Reopened, StepError, next_deadline, reopening,
};
use troupe_core::{NodeIx, Run, Value, Visit};

use super::flow::{Flow, Run as Flowing, flow};
use crate::reference::{Control, Scope};
use crate::support::alone::Alone;
use crate::support::duo::Stimulus;

fn request(alone: &Alone, nodes: &str, remedy: Remedy) -> Reopened {
    let nodes = nodes.split_whitespace().map(|node| alone.plan.node_ix(node).unwrap());
    Reopened {
        controls: None,
        run: if alone.state.status.is_terminal() {
            alone.state.run.next()
        } else {
            alone.state.run
        },
        nodes: nodes.collect(),
        remedy,
        reason: None,
    }
}

fn retry(alone: &Alone, nodes: &str) -> Event {
    Event::Reopened(Box::new(request(alone, nodes, Remedy::Retry)))
}

fn skip(alone: &Alone, node: &str, output: Option<serde_json::Value>) -> Event {
    let remedy = Remedy::Skip(output.map(Value::from));
    Event::Reopened(Box::new(request(alone, node, remedy)))
}

/// Goes on as the next run.
fn retried(run: &Flowing, nodes: &str) -> Alone {
    let mut alone = Alone::after(&run.duo);
    let event = retry(&alone, nodes);
    alone.apply(event);
    alone
}

fn repeated(run: &Flowing, nodes: &str) -> String {
    let alone = Alone::after(&run.duo);
    let found = reopening(&alone.plan, &alone.state, &request(&alone, nodes, Remedy::Retry)).unwrap();
    let one = |node: &troupe_core::execution::Repeated| format!("{}:{}", node.node, node.status);
    found.repeated.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn refusal(run: &Flowing, nodes: &str) -> String {
    let mut alone = Alone::after(&run.duo);
    let event = retry(&alone, nodes);
    alone.refusal(event)
}

fn diamond() -> Flow {
    flow("a b c d", "a>b a>c b>d c>d")
}

#[test]
fn a_failed_node_runs_again_in_the_next_run_with_the_same_input() {
    let mut run = flow("a b c", "a>b b>c").start();
    run.complete("a", json!(1)).fail("b", "E1");
    assert_eq!(repeated(&run, ""), "b:failed");
    let mut alone = retried(&run, "");
    assert_eq!(
        (alone.started().as_str(), alone.status().as_str()),
        ("b@2(1)", "running")
    );
    assert_eq!(alone.nodes(), "a:completed b:running c:pending");
    assert_eq!((alone.state.run, alone.token("b").run), (Run(2), Run(2)));
    assert_eq!((alone.state.ended_at, alone.state.failure.is_none()), (None, true));
    alone.complete("b", json!(2)).complete("c", json!(3));
    assert_eq!(alone.status(), "completed 3");
}

#[test]
fn it_may_fail_again_and_be_retried_again() {
    let mut run = flow("a", "").start();
    run.fail("a", "E1");
    let mut alone = retried(&run, "a");
    alone.fail("a", "E2");
    assert_eq!(alone.status(), "failed E2");
    let event = retry(&alone, "");
    alone.apply(event);
    assert_eq!(
        (alone.state.run, alone.started().as_str()),
        (Run(3), r#"a@3({"ok":true})"#)
    );
    assert_eq!(alone.complete("a", json!(1)).status(), "completed 1");
}

#[test]
fn what_the_failure_cut_off_goes_on_too_and_old_reports_are_stale() {
    let mut run = diamond().start();
    run.complete("a", json!(1));
    let old = run.duo.outstanding["c"];
    run.fail("b", "E1");
    assert_eq!(run.nodes(), "a:completed b:failed c:canceled d:skipped");
    let mut alone = retried(&run, "b");
    assert_eq!(alone.started(), "b@2(1) c@2(1)");
    let late = Alone::report(old, json!("late"));
    assert_eq!(alone.try_apply(late), Err(StepError::Stale));
    alone.complete("b", json!(2)).complete("c", json!(3));
    assert_eq!(alone.started(), r#"d@2({"b":2,"c":3})"#);
}

#[test]
fn what_a_race_canceled_stays_canceled() {
    let edges = "a>w a>l w>x";
    let mut run = flow("a w l x", edges).data("w", json!({"cancels": ["l"]})).start();
    run.complete("a", json!(0)).complete("w", json!(1)).fail("x", "E1");
    assert_eq!(run.nodes(), "a:completed w:completed l:canceled x:failed");
    assert_eq!(retried(&run, "").started(), "x@2(1)");
}

#[test]
fn completed_nodes_that_follow_run_again_and_edges_from_outside_stay() {
    let mut run = diamond().settings(json!({"onFailure": "continue"})).start();
    run.complete("a", json!(1))
        .complete("b", json!(2))
        .fail("c", "E1")
        .complete("d", json!(4));
    assert_eq!(run.status(), "failed");
    assert_eq!(repeated(&run, "c"), "c:failed d:completed");
    let mut alone = retried(&run, "c");
    assert_eq!(
        (alone.started().as_str(), alone.nodes().as_str()),
        ("c@2(1)", "a:completed b:completed c:running d:pending")
    );
    alone.complete("c", json!(3));
    assert_eq!(alone.started(), r#"d@2({"b":2,"c":3})"#);
    assert_eq!(alone.complete("d", json!(5)).status(), "completed 5");
}

#[test]
fn a_failure_that_is_left_still_fails_the_execution() {
    let mut run = flow("a b c", "a>b a>c")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("a", json!(1)).fail("b", "E1").fail("c", "E2");
    let mut alone = retried(&run, "b");
    assert_eq!(alone.complete("b", json!(2)).status(), "failed E2");
    let mut both = retried(&run, "");
    assert_eq!(both.started(), "b@2(1) c@2(1)");
    both.complete("b", json!(2)).complete("c", json!(3));
    assert_eq!(both.status(), r#"completed {"b":2,"c":3}"#);
}

#[test]
fn a_failed_node_is_skipped_with_or_without_an_output() {
    let mut run = flow("a b c", "a>b b>c").start();
    run.complete("a", json!(1)).fail("b", "E1");
    let mut alone = Alone::after(&run.duo);
    let event = skip(&alone, "b", Some(json!("by hand")));
    alone.apply(event);
    assert_eq!(
        (alone.started().as_str(), alone.nodes().as_str()),
        (r#"c@2("by hand")"#, "a:completed b:completed c:running")
    );
    assert_eq!(alone.complete("c", json!(3)).status(), "completed 3");

    let mut alone = Alone::after(&run.duo);
    let event = skip(&alone, "b", None);
    alone.apply(event);
    assert_eq!(
        (alone.nodes().as_str(), alone.status().as_str()),
        ("a:completed b:skipped c:skipped", "completed null")
    );
    assert_eq!(alone.state.run, Run(2), "it has ended again at once");
}

#[test]
fn a_node_of_a_running_execution_is_retried_in_its_run_and_what_follows_is_aborted() {
    let mut run = flow("a b c d", "a>b a>c b!>d c>d")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("a", json!(1)).fail("b", "E1").complete("c", json!(3));
    assert_eq!(run.started(), "d1");
    let mut alone = retried(&run, "b");
    assert_eq!((alone.state.run, alone.started().as_str()), (Run(1), "b@2(1)"));
    assert_eq!(alone.nodes(), "a:completed b:running c:completed d:pending");
    assert!(alone.aborted("d"), "{:?}", alone.effects);
    alone.complete("b", json!(2));
    assert_eq!(alone.started(), "d@2(3)");
    assert_eq!(alone.complete("d", json!(4)).status(), "completed 4");
}

#[test]
fn a_node_that_waits_for_its_edges_keeps_its_visit() {
    let mut run = flow("a b c d", "a>b a>c b>d c>d")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("a", json!(1)).fail("b", "E1");
    let alone = retried(&run, "b");
    assert_eq!(
        (alone.nodes().as_str(), alone.state.nodes[3].visit),
        ("a:completed b:running c:running d:pending", Visit(1))
    );
    assert_eq!(alone.way("b", "d"), EdgeState::Open);
}

#[test]
fn a_join_that_fired_early_gets_what_it_had() {
    let mut run = flow("a b j", "a>j b>j").join("j", json!({"mode": "any"})).start();
    run.complete("a", json!(1)).complete("b", json!(2)).fail("j", "E1");
    assert_eq!(retried(&run, "j").started(), "j@2(1)", "not both");
    let mapped = json!({"inputMapping": {"x": "input"}, "join": {"mode": "any"}});
    let mut run = flow("a b j", "a>j b>j").data("j", mapped).start();
    run.complete("a", json!(1)).complete("b", json!(2)).fail("j", "E1");
    assert_eq!(retried(&run, "j").started(), r#"j@2({"x":1})"#);
}

#[test]
fn an_input_is_mapped_anew() {
    let mut run = flow("a b", "a>b")
        .data("b", json!({"inputMapping": {"x": "variables.v1"}}))
        .start();
    run.complete("a", json!(1)).fail("b", "E1");
    let mut alone = Alone::after(&run.duo);
    alone.state.variables.insert("v1".into(), Value::from(json!(9)));
    alone.begins_here();
    let event = retry(&alone, "");
    assert_eq!(alone.apply(event).started(), r#"b@2({"x":9})"#);
}

#[test]
fn in_a_loop_the_latest_generation_goes_on() {
    let mut run = flow("r h p q x", "r>h h>p p>q q>h?execution.iteration~!=~3 q>x").start();
    run.complete("r", json!(0));
    run.complete("h", json!(1))
        .complete("p", json!(1))
        .complete("q", json!(1));
    run.complete("h", json!(2)).fail("p", "E1");
    assert_eq!(run.nodes(), "r:completed h:completed p:failed q:skipped x:skipped");
    assert_eq!(repeated(&run, ""), "p:failed");
    let mut alone = retried(&run, "");
    assert_eq!(
        (alone.started().as_str(), alone.state.loops[0].iteration),
        ("p@3(2)", 2)
    );
    alone.complete("p", json!(2)).complete("q", json!(2));
    assert_eq!(alone.started(), "h@3(2)", "the third generation");
    alone
        .complete("h", json!(3))
        .complete("p", json!(3))
        .complete("q", json!(3));
    assert_eq!(alone.started(), "x@2(3)");
    assert_eq!(alone.complete("x", json!(4)).status(), "completed 4");
}

#[test]
fn a_pass_that_another_branch_had_wanted_follows_after_all() {
    let mut run = flow("r h a b x", "r>h h>a h>b a>h?execution.iteration~==~1 b>h?false a>x").start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("a", json!(2));
    assert_eq!(run.way("a", "h"), EdgeState::HeldTaken);
    run.fail("b", "E1");
    assert_eq!(run.way("a", "h"), EdgeState::Dead);
    let mut alone = retried(&run, "b");
    assert_eq!(
        (alone.started().as_str(), alone.way("a", "h")),
        ("b@2(1)", EdgeState::HeldTaken)
    );
    alone.complete("b", json!(3));
    assert_eq!(alone.started(), "h@2(2)");
}

#[test]
fn the_header_of_a_later_pass_gets_what_the_back_edge_carried() {
    let mut run = flow("r h b x", "r>h h>b b>h?execution.iteration~!=~2 b>x").start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!("back"));
    run.fail("h", "E1");
    let mut alone = retried(&run, "");
    assert_eq!(alone.started(), r#"h@3("back")"#);
    alone.complete("h", json!(2)).complete("b", json!(3));
    assert_eq!(alone.started(), "x@2(3)");
}

#[test]
fn a_loop_that_follows_is_entered_anew() {
    let mut run = flow("r f h b", "r>h f>h h>b b>h?execution.iteration~!=~2")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("r", json!(0)).fail("f", "E1");
    run.complete("h", json!(1))
        .complete("b", json!(1))
        .complete("h", json!(2))
        .complete("b", json!(2));
    assert_eq!(run.status(), "failed");
    let mut alone = retried(&run, "f");
    assert_eq!(
        (alone.started().as_str(), alone.state.loops[0].iteration),
        (r#"f@2({"ok":true})"#, 1)
    );
    alone.complete("f", json!(5));
    assert_eq!(alone.started(), r#"h@3({"r":0,"f":5})"#);
    alone
        .complete("h", json!(1))
        .complete("b", json!(1))
        .complete("h", json!(2))
        .complete("b", json!(9));
    assert_eq!(alone.status(), "completed null");
}

#[test]
fn an_inner_loop_goes_on_within_the_outer_one() {
    let edges = "r>o o>i i>j j>i?false j>z z>o?execution.iteration~!=~2 z>x";
    let mut run = flow("r o i j z x", edges).start();
    run.complete("r", json!(0))
        .complete("o", json!(1))
        .complete("i", json!(1))
        .fail("j", "E1");
    let mut alone = retried(&run, "");
    assert_eq!(alone.started(), "j@2(1)");
    alone.complete("j", json!(2)).complete("z", json!(3));
    assert_eq!(alone.started(), "o@2(3)");
}

#[test]
fn a_canceled_execution_goes_on_where_it_was() {
    let mut run = flow("a d/delay b", "a>b d>b")
        .data("d", json!({"delayType": "fixed", "delayValue": 500}))
        .start();
    run.cancel(0);
    run.due();
    assert_eq!(
        (run.status(), run.nodes().as_str()),
        ("canceled", "a:canceled d:canceled b:skipped")
    );
    let mut alone = retried(&run, "");
    assert_eq!(alone.started(), r#"a@2({"ok":true})"#);
    assert_eq!(
        next_deadline(&alone.state).unwrap().0,
        alone.now + 500,
        "the delay begins anew"
    );
    alone.complete("a", json!(1)).due();
    assert_eq!(alone.started(), r#"b@2({"a":1,"d":{"ok":true}})"#);
}

#[test]
fn an_execution_that_took_too_long_gets_its_time_again() {
    let mut run = flow("a b", "a>b").settings(json!({"timeout": 1_000})).start();
    run.complete("a", json!(1)).wait(1_000).due();
    assert_eq!(run.error(), "EXECUTION_TIMEOUT");
    let mut alone = retried(&run, "");
    assert_eq!(alone.started(), "b@2(1)");
    assert_eq!(next_deadline(&alone.state).unwrap().0, alone.now + 1_000);
    assert_eq!(alone.complete("b", json!(2)).status(), "completed 2");
}

#[test]
fn while_paused_nothing_starts_that_is_retried() {
    let mut run = flow("a b", "").settings(json!({"onFailure": "continue"})).start();
    run.fail("a", "E1").pause();
    let mut alone = retried(&run, "a");
    assert_eq!(alone.started(), "");
    assert_eq!(alone.apply(Event::Resumed).started(), r#"a@2({"ok":true})"#);
}

#[test]
fn what_cannot_be_retried_is_refused_with_a_code() {
    let mut run = flow("a b", "a>b").start();
    assert_eq!(refusal(&run, ""), "NOTHING_TO_RETRY");
    assert_eq!(refusal(&run, "a"), "NODE_NOT_FAILED");
    run.complete("a", json!(1)).complete("b", json!(2));
    assert_eq!(refusal(&run, ""), "NOT_REOPENABLE", "it completed");

    let mut run = flow("a e/end b", "a>e").data("e", json!({"status": "failed"})).start();
    run.complete("a", json!(1));
    assert_eq!(
        (run.status(), run.nodes().as_str()),
        ("failed", "a:completed e:completed b:canceled")
    );
    assert_eq!(refusal(&run, ""), "NOT_REOPENABLE", "the end node would stay");

    let mut run = flow("a", "").start();
    run.cancel(1_000);
    assert_eq!(refusal(&run, ""), "NOT_REOPENABLE", "it is about to end");
}

#[test]
fn a_loop_that_has_used_up_its_passes_is_not_retried() {
    let mut run = flow("r h b x", "r>h h>b b>h b>x?false")
        .data("h", json!({"maxIterations": 1}))
        .start();
    run.complete("r", json!(0))
        .complete("h", json!(1))
        .complete("b", json!(2));
    assert_eq!(run.error(), "LOOP_LIMIT");
    assert_eq!(refusal(&run, ""), "NOT_REOPENABLE");
}

#[test]
fn an_attached_child_that_has_ended_is_left_to_its_parent() {
    let mut run = flow("a", "").start();
    run.fail("a", "E1");
    let mut alone = Alone::after(&run.duo);
    let parent = Parent {
        execution: alone.state.id,
        child: ChildId {
            run: Run(1),
            node: NodeIx(0),
            visit: Visit(1),
            index: 0,
        },
        attached: true,
        depth: 1,
        root: None,
    };
    alone.state.parent = Some(parent);
    alone.begins_here();
    let event = retry(&alone, "");
    assert_eq!(alone.refusal(event), "CHILD_NOT_REOPENABLE");
    alone.state.parent = Some(Parent {
        attached: false,
        ..parent
    });
    alone.begins_here();
    let event = retry(&alone, "");
    assert_eq!(alone.apply(event).started(), r#"a@2({"ok":true})"#);
}

fn control(scope: Scope, control: Option<Control>) -> Stimulus {
    Stimulus::Control {
        scope,
        is_stop: false,
        control,
    }
}

#[test]
fn the_next_run_begins_under_a_pause_of_its_workflow() {
    let mut run = flow("a each/forEach", "")
        .data("each", json!({"workflowId": "other", "items": "const:[1]"}))
        .start();
    run.cancel(0).due();
    assert_eq!(run.status(), "canceled");
    run.apply(control(Scope::Workflow("flow".into()), Some(Control::Pause)));
    run.retry("");
    assert!(run.done.is_empty(), "nothing begins: {:?}", run.done);
    assert!(run.duo.news().is_none(), "it knows already");
    run.apply(control(Scope::Workflow("flow".into()), None));
    run.apply(Stimulus::Learn);
    assert_eq!((run.started(), run.done.len()), ("a1@2".into(), 2));
}

#[test]
fn the_next_run_of_a_frozen_workflow_counts_its_timeout_from_when_that_goes_on() {
    let mut run = flow("a", "").settings(json!({"timeout": 1_000})).start();
    run.fail("a", "E1");
    run.wait(500);
    run.apply(control(Scope::All, Some(Control::Freeze)));
    run.wait(100).retry("");
    run.wait(5_000);
    run.apply(control(Scope::All, None));
    run.apply(Stimulus::Learn);
    assert_eq!(run.next_due(), Some(500 + 100 + 5_000 + 1_000));
}

#[test]
fn one_that_runs_is_told_of_controls_by_themselves() {
    let mut run = flow("a b", "").settings(json!({"onFailure": "continue"})).start();
    run.fail("a", "E1");
    run.apply(control(Scope::NodeType("function".into()), Some(Control::Pause)));
    run.apply(Stimulus::Learn);
    run.retry("a");
    assert!(run.done.is_empty(), "{:?}", run.done);
    let reopened = run.duo.log.iter().find_map(|(entry, _)| match &entry.event {
        Event::Reopened(reopened) => Some(reopened),
        _ => None,
    });
    assert_eq!(reopened.unwrap().controls, None);
}

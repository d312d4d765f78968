//! ADR 0019: a rerun takes over what another execution gave, and runs from a node.

use serde_json::{Value as JsonValue, json};
use troupe_core::execution::{Event, ExecutionState, Remedy, Reopened, RerunPlan, Started, rerun};
use troupe_core::{ErrorInfo, ExecutionId, ShardId, Timestamp, Value};

use super::flow::{Flow, Run, flow};
use crate::support::alone::Alone;
use crate::support::duo::EPOCH;

/// What a rerun in the same version, or in that of `changed`, takes over and repeats.
fn planned(run: &Run, changed: Option<&Run>, from: &str, has_input: bool) -> Result<RerunPlan, ErrorInfo> {
    let plan = &changed.unwrap_or(run).duo.plan;
    let from = plan.node_ix(from).expect("a node");
    rerun(&run.duo.plan, &run.duo.state, plan, from, has_input)
}

/// Starts it.
fn begun(run: &Run, changed: Option<&Run>, from: &str, input: Option<JsonValue>) -> Alone {
    let plan = &changed.unwrap_or(run).duo.plan;
    let planned = planned(run, changed, from, input.is_some()).unwrap();
    let id = ExecutionId::fresh(ShardId(3), Timestamp(EPOCH), 43);
    let state = ExecutionState::new(plan, id);
    let mut alone = Alone::new(plan.clone(), state);
    let is_root = plan.node(planned.rerun.from).entries == 0;
    let mut rerun = planned.rerun;
    rerun.input = input.clone().map(Value::from);
    let start = input
        .filter(|_| is_root)
        .map_or(run.duo.state.input.clone(), Value::from);
    alone.apply(Event::Started(Box::new(Started {
        id,
        workflow: plan.workflow.clone(),
        version: plan.version,
        input: start,
        variables: run.duo.state.variables.clone().into_iter().collect(),
        metadata: None,
        trigger: None,
        trace_parent: None,
        execution_key: None,
        request_key: None,
        priority: None,
        key_ordinal: None,
        parent: None,
        handles_failure_of: None,
        controls: None,
        rerun: Some(Box::new(rerun)),
    })));
    alone
}

fn again(run: &Run, from: &str) -> Alone {
    begun(run, None, from, None)
}

/// What a rerun repeats, such as `b:failed*1 d:completed`.
fn repeated(run: &Run, from: &str) -> String {
    let planned = planned(run, None, from, true).unwrap();
    let one = |node: &troupe_core::execution::Repeated| match node.attempts {
        0 => format!("{}:{}", node.node, node.status),
        attempts => format!("{}:{}*{attempts}", node.node, node.status),
    };
    planned.repeated.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn refusal(run: &Run, changed: Option<&Run>, from: &str) -> String {
    planned(run, changed, from, false).unwrap_err().code
}

fn diamond() -> Flow {
    flow("a b c d", "a>b a>c b>d c>d")
}

#[test]
fn the_node_and_what_follows_runs_with_the_results_of_the_rest() {
    let mut run = diamond().start();
    run.complete("a", json!(1)).complete("c", json!("c"));
    run.complete("b", json!("b")).complete("d", json!("d"));
    assert_eq!(repeated(&run, "b"), "b:completed*1 d:completed*1");
    let mut again = again(&run, "b");
    assert_eq!(again.started(), "b@1(1)");
    assert_eq!(again.nodes(), "a:completed b:running c:completed d:pending");
    again.complete("b", json!("new"));
    assert_eq!(again.started(), r#"d@1({"b":"new","c":"c"})"#);
    assert_eq!(again.complete("d", json!(4)).status(), "completed 4");
    assert_eq!(again.state.nodes[0].visit.0, 0, "the result of another execution");
}

#[test]
fn an_edited_input_replaces_what_the_edges_carry() {
    let mut run = diamond().start();
    run.complete("a", json!(1))
        .complete("b", json!(2))
        .complete("c", json!(3));
    run.fail("d", "E1");
    let again = begun(&run, None, "d", Some(json!({"x": 5})));
    assert_eq!(again.started(), r#"d@1({"x":5})"#);
    let again = begun(&run, None, "a", Some(json!("start")));
    assert_eq!(again.started(), r#"a@1("start")"#);
    assert_eq!(
        again.state.input,
        Value::from(json!("start")),
        "of a root it is the start payload"
    );
}

#[test]
fn what_the_failure_cut_off_runs_too() {
    let mut run = diamond().start();
    run.complete("a", json!(1)).fail("b", "E1");
    assert_eq!(run.nodes(), "a:completed b:failed c:canceled d:skipped");
    assert_eq!(repeated(&run, "b"), "b:failed*1 c:canceled");
    let mut again = again(&run, "b");
    assert_eq!(again.started(), "b@1(1) c@1(1)");
    again.complete("b", json!(2)).complete("c", json!(3));
    assert_eq!(again.started(), r#"d@1({"b":2,"c":3})"#);
}

#[test]
fn a_failure_that_nothing_handled_is_no_result() {
    let mut run = flow("a b c d", "a>b a>c b>d")
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("a", json!(1))
        .fail("c", "E1")
        .complete("b", json!(2))
        .complete("d", json!(3));
    assert_eq!(run.status(), "failed");
    let mut again = again(&run, "d");
    assert_eq!(again.started(), "d@1(2) c@1(1)");
    assert_eq!(
        again.complete("c", json!(0)).complete("d", json!(4)).status(),
        r#"completed {"c":0,"d":4}"#
    );
}

#[test]
fn a_handled_failure_is_a_result() {
    let mut run = flow("a h z", "a!>h h>z").start();
    run.fail("a", "E1").complete("h", json!(1)).complete("z", json!(2));
    let again = again(&run, "h");
    assert_eq!(again.nodes(), "a:failed h:running z:pending");
    assert!(again.started().starts_with(r#"h@1({"error":{"#), "{}", again.started());
}

#[test]
fn ways_that_were_dead_stay_dead_and_those_taken_stay_taken() {
    let mut run = flow("a b c d", "a>b?false a>c?true b>d c>d").start();
    run.complete("a", json!(1)).complete("c", json!(2)).fail("d", "E1");
    let again = again(&run, "d");
    assert_eq!(again.nodes(), "a:completed b:skipped c:completed d:running");
    assert_eq!(again.started(), "d@1(2)");
    assert_eq!(refusal(&run, None, "b"), "RERUN_WITHOUT_INPUT");
    assert_eq!(begun(&run, None, "b", Some(json!(9))).started(), "b@1(9)");
}

#[test]
fn variables_are_taken_over() {
    let mut run = flow("a b", "a>b")
        .data("a", json!({"outputMapping": {"v1": "output"}}))
        .start();
    run.complete("a", json!(7)).fail("b", "E1");
    let again = again(&run, "b");
    assert_eq!(again.state.variables["v1"], Value::from(json!(7)));
}

#[test]
fn a_loop_is_taken_over_or_repeated_as_a_whole() {
    let looped = || flow("r h b x", "r>h h>b b>h?execution.iteration~!=~2 b>x");
    let mut run = looped().start();
    run.complete("r", json!(0));
    for pass in 0..2 {
        run.complete("h", json!(pass)).complete("b", json!(pass));
    }
    run.fail("x", "E1");
    let mut after = again(&run, "x");
    assert_eq!(
        (after.started().as_str(), after.nodes().as_str()),
        ("x@1(1)", "r:completed h:completed b:completed x:running")
    );
    assert_eq!(after.complete("x", json!("x")).status(), r#"completed "x""#);

    assert_eq!(refusal(&run, None, "b"), "RERUN_IN_LOOP");
    let mut header = again(&run, "h");
    assert_eq!(header.started(), "h@1(0)");
    header.complete("h", json!(0)).complete("b", json!(5));
    assert_eq!(header.started(), "h@2(5)", "it goes round again");
    header.complete("h", json!(0)).complete("b", json!(6));
    assert_eq!(header.started(), "x@1(6)");
}

#[test]
fn another_version_runs_what_it_adds_and_refuses_edges_that_it_changes() {
    let mut run = flow("a b", "a>b").start();
    run.complete("a", json!(1)).fail("b", "E1");
    let longer = flow("a n b z", "a>b n>b b>z").create();
    let mut again = begun(&run, Some(&longer), "b", None);
    assert_eq!(
        again.started(),
        r#"b@1(1) n@1({"ok":true})"#,
        "a new root runs as at a start"
    );
    again.complete("b", json!(2));
    assert_eq!(again.started(), "z@1(2)");

    let between = flow("a n b", "a>n n>b").create();
    assert_eq!(refusal(&run, Some(&between), "b"), "RERUN_EDGES_CHANGED");
    assert_eq!(begun(&run, Some(&between), "a", None).started(), r#"a@1({"ok":true})"#);
    let conditional = flow("a b", "a>b?true").create();
    assert_eq!(refusal(&run, Some(&conditional), "b"), "RERUN_EDGES_CHANGED");
}

#[test]
fn a_rerun_can_be_rerun() {
    let mut run = diamond().start();
    run.complete("a", json!(1)).complete("b", json!(2)).fail("c", "E1");
    let mut first = again(&run, "c");
    first.complete("c", json!(3)).fail("d", "E2");
    let of = rerun(
        &first.plan,
        &first.state,
        &first.plan,
        first.plan.node_ix("d").unwrap(),
        false,
    )
    .unwrap();
    assert_eq!(of.rerun.reused.len(), 3);
    assert_eq!(of.repeated.len(), 1, "what the first one took over did not run there");
}

fn deciding(first: &str, second: &str) -> Flow {
    let conditions = json!([{"id": "yes", "expression": "true"}, {"id": "no", "expression": "false"}]);
    let decision = flow("d/decision b c", "d>b d>b b>c").data("d", json!({"conditions": conditions}));
    decision
        .edge(0, json!({"sourceHandle": first}))
        .edge(1, json!({"sourceHandle": second, "id": "another name"}))
}

#[test]
fn an_edge_of_a_decision_is_the_same_where_it_belongs_to_the_same_condition() {
    let both = deciding("yes", "yes").start();
    let turned = deciding("no", "yes").create();
    assert_eq!(refusal(&both, Some(&turned), "b"), "RERUN_EDGES_CHANGED");
    let mut run = deciding("yes", "no").start();
    run.complete("b", json!(1)).fail("c", "E1");
    let renamed = deciding("no", "yes").create();
    let again = begun(&run, Some(&renamed), "c", None);
    assert_eq!(
        (again.started().as_str(), again.nodes().as_str()),
        ("c@1(1)", "d:completed b:completed c:running"),
    );
}

#[test]
fn a_retry_maps_the_edited_input_anew_until_edges_decide() {
    let mut run = flow("a b", "a>b")
        .data("b", json!({"inputMapping": {"i": "input", "v": "variables.v"}}))
        .start();
    run.complete("a", json!(1)).fail("b", "E1");
    let mut again = begun(&run, None, "b", Some(json!(7)));
    assert_eq!(again.started(), r#"b@1({"i":7,"v":null})"#);
    again.fail("b", "E1");
    again.apply(retry(&again, &["b"]));
    assert_eq!(again.started(), r#"b@2({"i":7,"v":null})"#);
    again.apply(Event::VariablesSet(vec![("v".into(), Value::from(json!(3)))]));
    again.fail("b", "E1");
    again.apply(retry(&again, &["b"]));
    assert_eq!(again.started(), r#"b@3({"i":7,"v":3})"#, "variables may have been set");
}

fn retry(of: &Alone, nodes: &[&str]) -> Event {
    Event::Reopened(Box::new(Reopened {
        run: of.state.run.next(),
        nodes: nodes
            .iter()
            .map(|node| of.plan.node_ix(node).expect("a node"))
            .collect(),
        remedy: Remedy::Retry,
        reason: None,
        controls: None,
    }))
}

#[test]
fn the_input_of_an_edge_that_decides_again_replaces_the_edited_one() {
    let mut run = flow("a b", "a!>b")
        .data("b", json!({"inputMapping": {"i": "input"}}))
        .start();
    run.fail("a", "E1").complete("b", json!(1));
    let mut again = begun(&run, None, "b", Some(json!(7)));
    again.fail("b", "E2");
    again.apply(retry(&again, &["a"]));
    assert_eq!(again.started(), r#"a@1({"ok":true})"#);
    again.fail("a", "E3");
    let first = again.started();
    assert!(first.starts_with(r#"b@2({"i":{"error""#), "{first}");
    again.fail("b", "E4");
    again.apply(retry(&again, &["b"]));
    assert_eq!(again.started(), first.replace("b@2", "b@3"));
}

#[test]
fn a_retry_maps_what_the_node_began_with_though_other_edges_arrived_since() {
    let mut run = flow("a x b", "a>b x>b")
        .data("b", json!({"inputMapping": {"i": "input"}}))
        .settings(json!({"onFailure": "continue"}))
        .start();
    run.complete("a", json!(1)).fail("x", "E1");
    let mut again = again(&run, "b");
    assert_eq!(again.started(), r#"b@1({"i":1}) x@1({"ok":true})"#);
    again.complete("x", json!(2)).fail("b", "E1");
    again.apply(retry(&again, &["b"]));
    assert_eq!(again.started(), r#"b@2({"i":1})"#);
}

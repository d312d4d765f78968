//! The constant workflows of a world: the load of the crash test, what needs the sandbox, children and waits.

mod bounded;
mod guarded;

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use troupe_core::definition::{NodeKind, WorkflowDefinition};

use crate::crash::workload;
pub(super) use bounded::bounded;
pub(super) use guarded::guarded;

/// What executions are started with: items for those that want some.
pub(super) const INPUT: &str = r#"{"n":1,"list":[1,2,3]}"#;

/// Every constant workflow; expressions are such that the engine and the reference interpreter read them alike.
pub(super) static KNOWN: LazyLock<Vec<Arc<WorkflowDefinition>>> =
    LazyLock::new(|| known().into_iter().map(Arc::new).collect());

/// Workflows of which only so many executions run at once, and one that has such children. An engine counts its own.
pub(super) static LIMITED: LazyLock<Vec<Arc<WorkflowDefinition>>> =
    LazyLock::new(|| limited().into_iter().map(Arc::new).collect());

fn known() -> Vec<WorkflowDefinition> {
    let mut known = workload::definitions();
    let own = [
        asks(),
        calls_chain(),
        lets_go(),
        each(),
        tolerant(),
        race_of_children(),
        go_round(),
        nested(),
        hook(),
        approval(),
        parent_of_waits(),
        early_calls(),
        clean_up(),
        given_up(),
        undone(),
        undone_by_and_by(),
        cached(),
        chain_of("alarm", vec![work("tell"), fragile("tell-more")]),
        reports("reports", "alarm"),
        alarm_by_script(),
        reports("reports-by-script", "alarm-by-script"),
        reports("reports-at-length", "alarm-by-script"),
        reports("reports-to-nobody", "missing"),
        undone_and_reported(),
    ];
    known.extend(own.into_iter().map(read));
    known.extend(bounded());
    known.extend(guarded());
    known
}

fn limited() -> Vec<WorkflowDefinition> {
    let mut one = chain_of("one-at-once", vec![work("a"), delay("d", 25), work("b")]);
    one["settings"] = json!({"concurrency": {"limit": 1, "key": "trigger.n"}, "timeout": 700});
    let mut two = chain_of("two-at-once", vec![work("a"), fragile("b")]);
    two["settings"] = json!({"concurrency": {"limit": 2}});
    let child = json!({"id": "child", "type": "forEach", "data": {"items": "input.list", "workflowId": "two-at-once"}});
    let mut whole = chain_of("calls-limited", vec![child, work("t")]);
    whole["edges"][0]["type"] = "always".into();
    [one, two, whole].into_iter().map(read).collect()
}

/// Nodes that wait for a call.
pub(super) fn waiting_nodes(workflow: &WorkflowDefinition) -> impl Iterator<Item = &str> {
    let waits = workflow
        .nodes
        .iter()
        .filter(|node| node.kind() == Some(NodeKind::Webhook));
    waits.map(|node| node.id.as_str())
}

fn read(definition: Value) -> WorkflowDefinition {
    serde_json::from_value(definition).expect("a constant definition")
}

fn work(id: &str) -> Value {
    json!({"id": id, "type": "function", "data": {
        "handlerId": "work", "retryPolicy": {"maxAttempts": 3, "initialDelay": 10, "jitter": "full"},
    }})
}

/// Fails for good now and then.
fn fragile(id: &str) -> Value {
    json!({"id": id, "type": "function", "data": {"handlerId": "work", "failOdds": 3, "retryPolicy": {"maxAttempts": 1}}})
}

fn delay(id: &str, ms: u64) -> Value {
    json!({"id": id, "type": "delay", "data": {"delayType": "fixed", "delayValue": ms}})
}

fn chain_of(id: &str, nodes: Vec<Value>) -> Value {
    let ids: Vec<Value> = nodes.iter().map(|node| node["id"].clone()).collect();
    let edges: Vec<Value> = ids
        .windows(2)
        .map(|pair| json!({"source": pair[0], "target": pair[1]}))
        .collect();
    json!({"id": id, "nodes": nodes, "edges": edges})
}

fn body(nodes: Vec<Value>) -> Value {
    let whole = chain_of("", nodes);
    json!({"nodes": whole["nodes"], "edges": whole["edges"]})
}

fn asks() -> Value {
    let mut asks = chain_of("asks", vec![work("a"), work("b")]);
    asks["edges"][0]["condition"] = "true".into();
    asks
}

fn calls_chain() -> Value {
    let child = json!({"id": "child", "type": "subworkflow", "data": {"workflowId": "chain"}});
    chain_of("calls-chain", vec![work("s"), child, work("t")])
}

fn lets_go() -> Value {
    let child = json!({"id": "child", "type": "subworkflow", "data": {"workflowId": "wait-short", "mode": "detached"}});
    chain_of("lets-go", vec![child, work("t")])
}

fn each() -> Value {
    let data = json!({"items": "input.list", "maxConcurrency": 2, "body": body(vec![work("w"), work("x")])});
    let each = json!({"id": "each", "type": "forEach", "data": data});
    chain_of("each-pair", vec![each, work("t")])
}

fn tolerant() -> Value {
    let data = json!({"items": "input.list", "toleratedFailures": 1, "body": body(vec![fragile("w")])});
    let each = json!({"id": "each", "type": "forEach", "data": data});
    let mut whole = chain_of("tolerant", vec![each, work("t"), work("mend")]);
    whole["edges"] =
        json!([{"source": "each", "target": "t"}, {"source": "each", "target": "mend", "type": "failure"}]);
    whole
}

fn race_of_children() -> Value {
    let data = json!({
        "items": "input.list", "succeedAfter": 1, "body": body(vec![work("w"), delay("d", 90), work("x")]),
    });
    let each = json!({"id": "each", "type": "forEach", "data": data});
    chain_of("race-of-children", vec![each, work("t")])
}

fn go_round() -> Value {
    let mut pass = work("w");
    pass["data"]["output"] = "input.iteration".into();
    let data = json!({"while": "output != 3", "maxIterations": 5, "body": body(vec![pass])});
    let round = json!({"id": "round", "type": "loop", "data": data});
    chain_of("go-round", vec![round, work("t")])
}

/// Children of children that wait longer than their actors live.
fn nested() -> Value {
    let inner = json!({"id": "inner", "type": "subworkflow", "data": {"workflowId": "wait-long"}});
    let data = json!({"items": "input.list", "maxConcurrency": 2, "body": body(vec![inner])});
    let each = json!({"id": "each", "type": "forEach", "data": data});
    chain_of("each-waits", vec![each])
}

fn hook() -> Value {
    let hook = json!({"id": "hook", "type": "webhook", "data": {"timeout": 400}});
    let mut whole = chain_of("hook", vec![work("s"), hook, work("t"), work("late")]);
    whole["edges"] = json!([
        {"source": "s", "target": "hook"}, {"source": "hook", "target": "t"},
        {"source": "hook", "target": "late", "type": "failure"},
    ]);
    whole
}

fn approval() -> Value {
    let first = json!({"id": "first", "type": "webhook", "data": {"heartbeatTimeout": 150}});
    let second = json!({"id": "second", "type": "webhook", "data": {"timeout": 250, "heartbeatTimeout": 200}});
    let mut whole = chain_of("approval", vec![work("s"), first, second, work("t")]);
    whole["edges"] = json!([
        {"source": "s", "target": "first"}, {"source": "s", "target": "second"},
        {"source": "first", "target": "t"}, {"source": "second", "target": "t", "type": "always"},
    ]);
    whole["settings"] = json!({"onFailure": "continue"});
    whole
}

/// Calls come before the node waits, and are kept.
fn early_calls() -> Value {
    let hook = json!({"id": "hook", "type": "webhook", "data": {"timeout": 300}});
    let mut whole = chain_of("early-calls", vec![delay("d", 130), hook, work("t")]);
    whole["edges"][1]["type"] = "always".into();
    whole["settings"] = json!({"onFailure": "continue"});
    whole
}

/// What follows a failure takes its time, and so does what runs beside it.
fn clean_up() -> Value {
    let slow = |id: &str| json!({"id": id, "type": "function", "data": {"handlerId": "work", "sleepMs": 60}});
    let risky = json!({"id": "risky", "type": "function", "data": {
        "handlerId": "work", "failFirst": 1_000, "retryPolicy": {"maxAttempts": 2, "initialDelay": 40},
    }});
    let mut whole = chain_of("clean-up", vec![risky, slow("tidy"), slow("sweep"), slow("beside")]);
    whole["edges"] =
        json!([{"source": "risky", "target": "tidy", "type": "always"}, {"source": "tidy", "target": "sweep"}]);
    whole
}

/// A join that does not wait for its slow branch.
fn given_up() -> Value {
    let mut join = work("join");
    join["data"]["join"] = json!({"mode": "all", "timeout": 150, "onTimeout": "proceed"});
    let mut whole = chain_of("given-up", vec![work("quick"), delay("slow", 320), join, work("t")]);
    whole["edges"] = json!([
        {"source": "quick", "target": "join"}, {"source": "slow", "target": "join"}, {"source": "join", "target": "t"},
    ]);
    whole
}

fn undo(node: &mut Value, undo: Value) {
    node["data"]["compensation"] = json!({"type": "function", "data": undo["data"]});
}

/// What was done is undone when the last step fails.
fn undone() -> Value {
    let (mut book, mut pay, mut hint) = (work("book"), work("pay"), fragile("hint"));
    undo(&mut book, work("unbook"));
    undo(
        &mut pay,
        json!({"data": {"handlerId": "work", "failFirst": 2, "retryPolicy": {"maxAttempts": 3, "initialDelay": 60}}}),
    );
    undo(&mut hint, work("unhint"));
    let mut whole = chain_of("undone", vec![book, pay, hint, fragile("send")]);
    whole["settings"] = json!({"compensate": true, "timeout": 900});
    whole
}

/// Undoing takes its time, and may fail.
fn undone_by_and_by() -> Value {
    let slow = json!({"data": {"handlerId": "work", "sleepMs": 60, "failFirst": 1, "failOdds": 4, "retryPolicy": {"maxAttempts": 3, "initialDelay": 60}}});
    let (mut one, mut two) = (work("one"), work("two"));
    undo(&mut one, slow.clone());
    undo(&mut two, slow);
    let mut whole = chain_of("undone-by-and-by", vec![one, two, delay("d", 40), fragile("send")]);
    whole["settings"] = json!({"compensate": true});
    whole
}

/// Reuses what somebody gave for the same input.
fn cached() -> Value {
    let (mut dear, mut dearer) = (work("dear"), work("dearer"));
    dear["data"]["cache"] = json!({"key": "input.n", "ttl": 300});
    dearer["data"]["cache"] = json!({"key": "nodes.dear.output", "ttl": 60_000});
    chain_of("cached", vec![dear, dearer, delay("d", 80), work("t")])
}

/// Somebody is told when it fails.
fn reports(id: &str, to: &str) -> Value {
    let mut whole = chain_of(id, vec![work("a"), fragile("b"), fragile("c")]);
    whole["settings"] = json!({"errorWorkflow": to});
    whole
}

fn undone_and_reported() -> Value {
    let mut whole = undone();
    whole["id"] = "undone-and-reported".into();
    whole["settings"]["errorWorkflow"] = "alarm-by-script".into();
    whole
}

/// Its start asks the sandbox: an expression of such a length is none that the engine evaluates itself.
fn alarm_by_script() -> Value {
    let mut tell = fragile("tell");
    tell["data"]["inputMapping"] = json!({"list": "input.list"});
    chain_of("alarm-by-script", vec![tell, work("log")])
}

fn parent_of_waits() -> Value {
    let child = json!({"id": "child", "type": "subworkflow", "data": {"workflowId": "hook"}});
    let mut whole = chain_of("parent-of-waits", vec![child, work("t")]);
    whole["settings"] = json!({"timeout": 900});
    whole
}

//! Workflows that use what may break: retries, joins, quorums, delays, error paths, clean-up.

use serde_json::{Value, json};
use troupe_core::definition::WorkflowDefinition;

/// Delay of the waiting workflows' delay nodes, in milliseconds: shorter and longer than passivation takes.
pub const DELAYS_MS: [u64; 2] = [60, 400];

/// Every workflow of the load.
///
/// # Panics
/// Never: the definitions are constants.
#[must_use]
pub fn definitions() -> Vec<WorkflowDefinition> {
    let all = [
        chain(),
        fan(),
        quorum(),
        waiting("wait-short", DELAYS_MS[0]),
        waiting("wait-long", DELAYS_MS[1]),
        rescue(),
        slow(),
    ];
    all.into_iter()
        .map(|definition| serde_json::from_value(definition).expect("a constant definition"))
        .collect()
}

fn work(id: &str, data: Value) -> Value {
    let mut data = data;
    data["handlerId"] = "work".into();
    data["retryPolicy"] = json!({"maxAttempts": 4, "initialDelay": 15, "jitter": "full"});
    json!({"id": id, "type": "function", "data": data})
}

fn edge(source: &str, target: &str, kind: &str) -> Value {
    json!({"source": source, "target": target, "type": kind})
}

fn chain() -> Value {
    json!({"id": "chain", "nodes": [
        work("a", json!({})), work("b", json!({"failFirst": 2})), work("c", json!({})), work("d", json!({"failFirst": 1})),
    ], "edges": [edge("a", "b", "default"), edge("b", "c", "default"), edge("c", "d", "default")]})
}

fn fan() -> Value {
    let mut nodes = vec![work("s", json!({})), work("join", json!({})), work("tail", json!({}))];
    let mut edges = vec![edge("join", "tail", "default")];
    for branch in ["f1", "f2", "f3", "f4", "f5", "f6"] {
        nodes.push(work(
            branch,
            json!({"sleepMs": 2, "failFirst": u32::from(branch == "f3")}),
        ));
        edges.push(edge("s", branch, "default"));
        edges.push(edge(branch, "join", "default"));
    }
    json!({"id": "fan", "nodes": nodes, "edges": edges})
}

fn quorum() -> Value {
    let mut nodes = vec![
        work("s", json!({})),
        work("join", json!({"join": {"mode": "quorum", "count": 2}})),
        work("tail", json!({})),
    ];
    let mut edges = vec![edge("join", "tail", "default")];
    for (branch, sleep_ms) in [("q1", 1), ("q2", 5), ("q3", 20)] {
        nodes.push(work(branch, json!({"sleepMs": sleep_ms})));
        edges.push(edge("s", branch, "default"));
        edges.push(edge(branch, "join", "default"));
    }
    json!({"id": "quorum", "nodes": nodes, "edges": edges})
}

fn waiting(id: &str, delay_ms: u64) -> Value {
    let delay = json!({"id": "wait", "type": "delay", "data": {"delayType": "fixed", "delayValue": delay_ms}});
    json!({"id": id, "nodes": [work("before", json!({})), delay, work("after", json!({}))],
        "edges": [edge("before", "wait", "default"), edge("wait", "after", "default")]})
}

fn rescue() -> Value {
    json!({"id": "rescue", "nodes": [
        work("risky", json!({"failFirst": 1_000})), work("saved", json!({})), work("tidy", json!({})),
    ], "edges": [edge("risky", "saved", "failure"), edge("risky", "tidy", "always")]})
}

fn slow() -> Value {
    json!({"id": "slow", "nodes": [
        work("a", json!({"sleepMs": 25})), work("b", json!({"sleepMs": 25})), work("c", json!({"sleepMs": 25})),
    ], "edges": [edge("a", "b", "default"), edge("b", "c", "default")]})
}

//! Workflows of which only so many attempts run at once.

use serde_json::{Value, json};
use troupe_core::definition::WorkflowDefinition;

use super::{body, chain_of, read, work};

/// A node that takes its time and counts under a limit.
fn slow(id: &str, limit: Value) -> Value {
    let mut node = work(id);
    node["data"]["sleepMs"] = 25.into();
    node["data"]["concurrency"] = limit;
    node
}

pub(in crate::world) fn bounded() -> Vec<WorkflowDefinition> {
    [mutex(), shared(), impatient(), each(), of_type()]
        .into_iter()
        .map(read)
        .collect()
}

/// Two nodes that never run at once, in whichever execution.
fn mutex() -> Value {
    let one = || json!({"limit": 1, "key": "trigger.n"});
    let mut whole = chain_of(
        "mutex",
        vec![work("s"), slow("left", one()), slow("right", one()), work("t")],
    );
    whole["edges"] = json!([
        {"source": "s", "target": "left"}, {"source": "s", "target": "right"},
        {"source": "left", "target": "t"}, {"source": "right", "target": "t"},
    ]);
    whole
}

/// Shares its key with every workflow that names it.
fn shared() -> Value {
    let all = |limit: u32| json!({"limit": limit, "key": "const:\"account\"", "scope": "global"});
    let own = json!({"limit": 1, "scope": "execution", "key": "const:1"});
    let mut whole = chain_of(
        "shared",
        vec![slow("narrow", all(1)), slow("wide", all(3)), slow("own", own)],
    );
    whole["edges"] = json!([{"source": "narrow", "target": "own"}]);
    whole
}

/// Nodes that do not wait long for their turn.
fn impatient() -> Value {
    let node = |id: &str| {
        let mut node = slow(id, json!({"limit": 1, "key": "const:\"one\""}));
        node["data"]["queueTimeout"] = 40.into();
        node
    };
    let mut whole = chain_of(
        "impatient",
        vec![node("a"), node("b"), node("c"), work("t"), work("late")],
    );
    whole["edges"] = json!([
        {"source": "a", "target": "t"}, {"source": "b", "target": "t"}, {"source": "c", "target": "late", "type": "failure"},
    ]);
    whole["settings"] = json!({"onFailure": "continue"});
    whole
}

/// Its children are part of it.
fn each() -> Value {
    let data = json!({"items": "input.list", "body": body(vec![slow("w", json!({"limit": 2})), work("x")])});
    chain_of(
        "each-bounded",
        vec![json!({"id": "each", "type": "forEach", "data": data})],
    )
}

/// Attempts of its nodes' type are few.
fn of_type() -> Value {
    let custom = |id: &str| {
        let mut node = work(id);
        node["type"] = "custom".into();
        node["data"]["sleepMs"] = 40.into();
        node
    };
    let mut whole = chain_of("of-type", vec![custom("a"), custom("b"), custom("c"), custom("d")]);
    whole["edges"] = json!([{"source": "a", "target": "d"}, {"source": "b", "target": "d"}]);
    whole
}

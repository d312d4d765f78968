//! Workflows that call handlers which may be unwell.

use serde_json::{Value, json};
use troupe_core::definition::WorkflowDefinition;

use super::{body, chain_of, read, work};

pub(in crate::world) fn guarded() -> Vec<WorkflowDefinition> {
    [calls_remote(), each(), unguarded()].into_iter().map(read).collect()
}

/// Calls a handler elsewhere: it tries again and again.
fn call(id: &str, handler: &str) -> Value {
    json!({"id": id, "type": "function", "data": {
        "handlerId": handler, "sleepMs": 8,
        "retryPolicy": {"maxAttempts": 4, "initialDelay": 10, "backoffStrategy": "fixed", "jitter": "none"},
    }})
}

fn calls_remote() -> Value {
    let mut whole = chain_of(
        "calls-remote",
        vec![
            call("a", "remote-a"),
            call("b", "remote-b"),
            call("c", "remote-a"),
            work("mend"),
        ],
    );
    whole["edges"] = json!([
        {"source": "a", "target": "c"}, {"source": "b", "target": "c"},
        {"source": "c", "target": "mend", "type": "failure"},
    ]);
    whole["settings"] = json!({"onFailure": "continue"});
    whole
}

/// Many calls at once; some do not wait long before a breaker.
fn each() -> Value {
    let mut hasty = call("x", "remote-b");
    hasty["data"]["queueTimeout"] = 60.into();
    let data = json!({
        "items": "input.list", "toleratedFailures": "100%", "body": body(vec![call("w", "remote-a"), hasty]),
    });
    chain_of(
        "each-remote",
        vec![
            json!({"id": "each", "type": "forEach", "data": data}),
            call("t", "remote-b"),
        ],
    )
}

/// Whatever breakers say.
fn unguarded() -> Value {
    let mut free = call("free", "remote-a");
    free["data"]["breaker"] = false.into();
    chain_of("unguarded", vec![free, call("t", "remote-a")])
}

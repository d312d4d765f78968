//! Limits of what runs at once, in drawn graphs.

use serde_json::{Value, json};

use crate::world::random::Random;

/// Some nodes count under a limit, under a key of their own or one that others have too; a few do not wait for long.
pub(super) fn bound(graph: &mut Value, random: &mut Random) {
    if !random.once_in(3) {
        return;
    }
    for node in graph["nodes"].as_array_mut().into_iter().flatten() {
        let runs = ["function", "http", "transformation", "custom"]
            .iter()
            .any(|kind| node["type"] == *kind);
        if !runs || !random.once_in(2) {
            continue;
        }
        node["data"]["concurrency"] = limit(random);
        if random.once_in(4) {
            node["data"]["queueTimeout"] = json!(random.between(5, 200));
        }
    }
}

fn limit(random: &mut Random) -> Value {
    let mut limit = json!({"limit": random.between(1, 2)});
    let key = [
        "const:\"k\"",
        "input.ok",
        "execution.iteration",
        "variables.v0",
        "throw",
    ];
    // The last one fails its node.
    let place = if random.once_in(8) { 4 } else { random.place(4) };
    match random.below(4) {
        0 => {}
        1 => limit["scope"] = "execution".into(),
        2 => {
            limit["scope"] = "global".into();
            limit["key"] = key[place].into();
        }
        _ => limit["key"] = key[place].into(),
    }
    limit
}

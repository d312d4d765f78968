//! Workflows that a scenario draws: graphs of the core's own generator, and families of them.

mod bounds;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::plan::Plan;

use super::random::Random;
use crate::generator::aftermath::compensate;
use crate::generator::choices::Choices;
use crate::generator::definitions::{calm, definition};

/// What the ids of drawn graphs begin with.
pub(crate) const PREFIX: &str = "drawn-";
/// No wait of a drawn workflow is longer, in milliseconds: a world has only so much time.
const LONGEST_MS: u64 = 900;
/// From here on numbers of milliseconds are instants.
const INSTANTS: u64 = 1_000_000_000_000;
/// An instant of the generator that lies hours after a world's end, and the one that takes its place.
const FAR: &str = "2026-09-21T15:33:21Z";
const NEAR: &str = "2026-09-21T14:13:22Z";
/// Tries until a drawn graph is one that can run.
const TRIES: usize = 8;
/// Constant workflows that drawn graphs start as children; the last one does not exist.
const CHILDREN: [&str; 5] = ["chain", "wait-short", "hook", "rescue", "missing"];

/// One to three workflows.
pub(super) fn definitions(remote: bool, random: &mut Random) -> Vec<Value> {
    let mut drawn: Vec<Value> = Vec::new();
    for number in 0..=random.below(2) {
        let mut graph = graph(&format!("{PREFIX}{number}"), 8, random);
        if let Some(graph) = &mut graph {
            give_children(graph, !drawn.is_empty(), random);
            limit(graph, remote, random);
        }
        drawn.extend(graph);
    }
    if !drawn.is_empty() && random.once_in(2) {
        drawn.push(family("family", random));
    }
    drawn
}

/// Whether it can run.
pub(crate) fn is_lawful(definition: &Value) -> bool {
    let read = WorkflowDefinition::deserialize(definition).ok();
    read.is_some_and(|read| Plan::build(&read).is_ok())
}

/// A graph of so many nodes at most.
fn graph(id: &str, nodes_max: u16, random: &mut Random) -> Option<Value> {
    (0..TRIES).find_map(|_| {
        let mut tape = |length: usize| -> Vec<u16> {
            (0..length)
                .map(|_| u16::try_from(random.next() >> 48).unwrap_or(0))
                .collect()
        };
        let size = 2 + usize::from(tape(1)[0] % (nodes_max - 1));
        let nodes: Vec<Vec<u16>> = (0..size).map(|_| tape(32)).collect();
        let edges: Vec<Vec<u16>> = (0..size + usize::from(tape(1)[0] % 6)).map(|_| tape(12)).collect();
        let loops: Vec<Vec<u16>> = (0..tape(1)[0] % 5).map(|_| tape(28)).collect();
        let mut graph = definition(&nodes, &edges, &loops, &tape(8));
        if tape(1)[0] % 3 > 0 {
            calm(&mut graph);
        }
        if tape(1)[0] % 3 == 0 {
            compensate(&mut graph, &mut Choices::new(&tape(64)));
        }
        shorten(&mut graph);
        slow_down(&mut graph, random);
        bounds::bound(&mut graph, random);
        graph["id"] = id.into();
        graph["version"] = json!(1);
        is_lawful(&graph).then_some(graph)
    })
}

/// Work takes its time, so that faults find some of it; and only a few nodes of some graphs run at once.
fn slow_down(graph: &mut Value, random: &mut Random) {
    for node in graph["nodes"].as_array_mut().into_iter().flatten() {
        let is_work = random.once_in(2);
        let kind = node["type"].as_str().unwrap_or_default().to_owned();
        let Some(data) = node["data"].as_object_mut() else {
            continue;
        };
        if is_work {
            data.insert("sleepMs".into(), json!(random.between(5, 120)));
        }
        // Calm graphs have none of these, and others few.
        if random.once_in(3) && data.get("join").is_some_and(|join| join["mode"] == "all") {
            data["join"]["mode"] = json!("allSuccess");
        }
        if random.once_in(3) && kind == "forEach" && !data.contains_key("wait") {
            data.insert("succeedAfter".into(), json!(random.between(1, 3)));
        }
    }
    if random.once_in(4) {
        graph["settings"]["maxParallelNodes"] = json!(1);
    }
}

/// Some reuse what others gave, and of some only so many run at once: an engine counts its own.
fn limit(graph: &mut Value, remote: bool, random: &mut Random) {
    for node in graph["nodes"].as_array_mut().into_iter().flatten() {
        if node["type"] == "function" && random.once_in(8) {
            let keys = ["input", "trigger.n", "variables.v0", "input.ok", "throw"];
            let key = keys[random.place(keys.len())];
            node["data"]["cache"] = json!({"key": key, "ttl": random.between(20, 2_000)});
        }
    }
    if !remote && random.once_in(6) {
        graph["settings"]["concurrency"] = json!({"limit": random.between(1, 2)});
        if random.once_in(2) {
            graph["settings"]["concurrency"]["key"] = json!("trigger.n");
        }
    }
}

/// Nodes with children run a workflow that there is, or a small graph of their own.
fn give_children(graph: &mut Value, has_first: bool, random: &mut Random) {
    let nodes = graph["nodes"].as_array_mut();
    for node in nodes.into_iter().flatten() {
        let may_have_body = node["type"] != "subworkflow";
        let Some(data) = node["data"]
            .as_object_mut()
            .filter(|data| data.contains_key("workflowId"))
        else {
            continue;
        };
        if may_have_body
            && random.once_in(2)
            && let Some(body) = body(random)
        {
            data.remove("workflowId");
            data.insert("body".into(), body);
        } else if has_first && random.once_in(2) {
            data.insert("workflowId".into(), json!(format!("{PREFIX}0")));
        } else {
            data.insert("workflowId".into(), json!(CHILDREN[random.place(CHILDREN.len())]));
        }
    }
}

/// A graph without children of its own.
fn body(random: &mut Random) -> Option<Value> {
    let mut graph = graph("body", 4, random)?;
    for node in graph["nodes"].as_array_mut().into_iter().flatten() {
        if ["subworkflow", "forEach", "loop"]
            .iter()
            .any(|kind| node["type"] == *kind)
        {
            node["type"] = "function".into();
            for name in ["workflowId", "items", "while"] {
                node["data"].as_object_mut()?.remove(name);
            }
        }
    }
    Some(json!({"nodes": graph["nodes"].take(), "edges": graph["edges"].take()}))
}

/// A workflow with children that run the first drawn one.
fn family(id: &str, random: &mut Random) -> Value {
    let work = |id: &str| json!({"id": id, "type": "function", "data": {"handlerId": "work"}});
    let mut data = Map::from_iter([("workflowId".to_owned(), json!(format!("{PREFIX}0")))]);
    let kind = match random.below(3) {
        0 => {
            if random.once_in(3) {
                data.insert("mode".into(), json!("detached"));
            }
            "subworkflow"
        }
        1 => {
            data.insert("items".into(), json!("input.list"));
            data.insert("maxConcurrency".into(), json!(random.between(1, 3)));
            match random.below(4) {
                0 => _ = data.insert("succeedAfter".into(), json!(random.between(1, 3))),
                1 => _ = data.insert("wait".into(), json!(false)),
                2 => _ = data.insert("toleratedFailures".into(), json!(random.between(1, 3))),
                _ => {}
            }
            "forEach"
        }
        _ => {
            data.insert("while".into(), json!("output.ok != false"));
            data.insert("maxIterations".into(), json!(random.between(1, 3)));
            "loop"
        }
    };
    if random.once_in(4) {
        data.insert("totalTimeout".into(), json!(random.between(20, LONGEST_MS)));
    }
    let parent = json!({"id": "family", "type": kind, "data": data});
    let mut settings = Map::new();
    if random.once_in(2) {
        settings.insert("onFailure".into(), json!("continue"));
    }
    if random.once_in(3) {
        settings.insert("timeout".into(), json!(random.between(50, LONGEST_MS)));
    }
    json!({"id": id, "version": 1, "nodes": [work("before"), parent, work("after"), work("beside"), work("mend")], "edges": [
        {"source": "before", "target": "family"}, {"source": "family", "target": "after"}, {"source": "before", "target": "beside"},
        {"source": "family", "target": "mend", "type": "failure"},
    ], "settings": settings})
}

/// Numbers of milliseconds become small.
fn shorten(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if value == FAR {
                    *value = NEAR.into();
                    continue;
                }
                let long = value.as_u64().filter(|ms| (LONGEST_MS..INSTANTS).contains(ms));
                let is_time = [
                    "timeout",
                    "totalTimeout",
                    "delayValue",
                    "initialDelay",
                    "maxDelay",
                    "heartbeatTimeout",
                ];
                if let Some(ms) = long.filter(|_| is_time.contains(&name.as_str())) {
                    *value = json!(LONGEST_MS - ms % 100);
                } else {
                    shorten(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

//! Workflows that a scenario draws: graphs of the core's own generator, and families of them.

use serde_json::{Map, Value, json};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::plan::Plan;

use super::random::Random;
use crate::generator::definitions::{calm, definition};

/// No wait of a drawn workflow is longer, in milliseconds: a world has only so much time.
const LONGEST_MS: u64 = 900;
/// Tries until a drawn graph is one that can run.
const TRIES: usize = 8;

/// One to three workflows.
pub(super) fn definitions(random: &mut Random) -> Vec<Value> {
    let mut drawn: Vec<Value> = Vec::new();
    for number in 0..=random.below(2) {
        drawn.extend(graph(&format!("drawn-{number}"), random));
    }
    if !drawn.is_empty() && random.once_in(2) {
        drawn.push(family("family", random));
    }
    drawn
}

fn graph(id: &str, random: &mut Random) -> Option<Value> {
    (0..TRIES).find_map(|_| {
        let mut tape = |length: usize| -> Vec<u16> {
            (0..length)
                .map(|_| u16::try_from(random.next() >> 48).unwrap_or(0))
                .collect()
        };
        let size = 2 + usize::from(tape(1)[0] % 7);
        let nodes: Vec<Vec<u16>> = (0..size).map(|_| tape(32)).collect();
        let edges: Vec<Vec<u16>> = (0..size + usize::from(tape(1)[0] % 6)).map(|_| tape(12)).collect();
        let loops: Vec<Vec<u16>> = (0..tape(1)[0] % 3).map(|_| tape(28)).collect();
        let mut graph = definition(&nodes, &edges, &loops, &tape(8));
        if tape(1)[0] % 3 > 0 {
            calm(&mut graph);
        }
        shorten(&mut graph);
        graph["id"] = id.into();
        graph["version"] = json!(1);
        let read: WorkflowDefinition = serde_json::from_value(graph.clone()).ok()?;
        Plan::build(&read).ok().map(|_| graph)
    })
}

/// A workflow with children that run the first drawn one.
fn family(id: &str, random: &mut Random) -> Value {
    let work = |id: &str| json!({"id": id, "type": "function", "data": {"handlerId": "work"}});
    let mut data = Map::from_iter([("workflowId".to_owned(), json!("drawn-0"))]);
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
                let long = value.as_u64().filter(|ms| *ms > LONGEST_MS);
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

//! Random valid acyclic definitions, decoded from tapes of numbers so that they shrink.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::choices::Choices;
use super::nodes;

/// A definition and everything random that happens to its execution.
#[derive(Clone)]
pub struct Case {
    pub definition: Value,
    pub script: Vec<u16>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "definition: {}\nscript: {:?}", self.definition, self.script)
    }
}

/// Mostly small graphs, some of up to 40 nodes.
pub fn cases() -> impl Strategy<Value = Case> {
    // Not by `prop_flat_map`: what depends on a drawn number shrinks badly.
    let of_size = |nodes: usize| {
        (
            prop::collection::vec(prop::collection::vec(any::<u16>(), 24), 2..=nodes),
            prop::collection::vec(prop::collection::vec(any::<u16>(), 12), 1..=nodes * 2),
            prop::collection::vec(any::<u16>(), 8),
            prop::collection::vec(any::<u16>(), 0..=nodes * 16),
        )
    };
    prop_oneof![4 => of_size(6), 5 => of_size(12), 1 => of_size(40)].prop_map(|(nodes, edges, settings, script)| Case {
        definition: definition(&nodes, &edges, &settings),
        script,
    })
}

/// How an edge is written before its node's needs are known.
struct Way {
    source: usize,
    target: usize,
    fields: Map<String, Value>,
}

fn definition(nodes: &[Vec<u16>], edges: &[Vec<u16>], settings: &[u16]) -> Value {
    let count = nodes.len();
    let mut ways: Vec<Way> = edges.iter().map(|tape| way(&mut Choices::new(tape), count)).collect();
    let mut kinds: Vec<&str> = nodes
        .iter()
        .map(|tape| *Choices::new(tape).pick(&nodes::KINDS))
        .collect();
    for (place, kind) in kinds.iter_mut().enumerate() {
        if *kind == "trigger" && ways.iter().any(|way| way.target == place) {
            *kind = "function";
        }
    }
    let mut written = Vec::new();
    for (place, tape) in nodes.iter().enumerate() {
        let mut choices = Choices::new(&tape[1..]);
        let mut data = nodes::data(&mut choices, kinds[place], count, place);
        if kinds[place] == "decision" {
            let own = |way: &&mut Way| way.source == place && is_success(&way.fields);
            let mut own: Vec<&mut Way> = ways.iter_mut().filter(own).collect();
            let mut fields: Vec<(&mut Map<String, Value>, usize)> =
                own.iter_mut().map(|way| (&mut way.fields, way.target)).collect();
            nodes::decision(&mut choices, &mut data, &mut fields);
        }
        let parents: Vec<usize> = ways
            .iter()
            .filter(|way| way.target == place)
            .map(|way| way.source)
            .collect();
        if let Some(join) = nodes::join(&mut choices, &parents) {
            data.insert("join".into(), join);
        }
        // The array's order is not the graph's.
        let rank = choices.below(1 << 16);
        written.push((
            rank,
            json!({"id": format!("n{place}"), "type": kinds[place], "data": data}),
        ));
    }
    written.sort_by_key(|(rank, _)| *rank);
    let mut seen = BTreeSet::new();
    let mut kept = Vec::new();
    for (place, way) in ways.into_iter().enumerate() {
        let mut edge = way.fields;
        edge.insert("source".into(), json!(format!("n{}", way.source)));
        edge.insert("target".into(), json!(format!("n{}", way.target)));
        let same =
            ["source", "target", "type", "condition", "sourceHandle", "label"].map(|name| edge.get(name).cloned());
        if seen.insert(format!("{same:?}")) {
            edge.insert("id".into(), json!(format!("e{place}")));
            kept.push(Value::Object(edge));
        }
    }
    let nodes: Vec<Value> = written.into_iter().map(|(_, node)| node).collect();
    let settings = nodes::settings(&mut Choices::new(settings), count);
    json!({"id": "flow", "name": "flow", "version": 7, "nodes": nodes, "edges": kept, "settings": settings})
}

/// Edges lead from a lower to a higher number, so there is no cycle.
fn way(choices: &mut Choices<'_>, count: usize) -> Way {
    let first = choices.below(count);
    // Mostly near, so that graphs grow long as well as wide.
    let near = if choices.one_in(4) { count } else { 4 };
    let second = (first + 1 + choices.below(near)) % count;
    let (source, target) = match first.cmp(&second) {
        std::cmp::Ordering::Less => (first, second),
        std::cmp::Ordering::Greater => (second, first),
        std::cmp::Ordering::Equal => (0, 1),
    };
    let kind = *choices.pick(&[
        "default", "success", "default", "failure", "always", "success", "failure",
    ]);
    let mut fields = Map::new();
    if kind != "default" {
        fields.insert("type".into(), json!(kind));
    }
    if choices.one_in(3) {
        let expressions = if kind == "failure" {
            nodes::FAILURE_CONDITIONS
        } else {
            nodes::CONDITIONS
        };
        fields.insert("condition".into(), json!(choices.pick(expressions)));
    }
    if kind == "failure" && choices.one_in(4) {
        fields.insert(
            "errors".into(),
            choices
                .pick(&[json!(["E1"]), json!(["E2", "TIMEOUT"]), json!(["*"])])
                .clone(),
        );
    }
    Way { source, target, fields }
}

fn is_success(fields: &Map<String, Value>) -> bool {
    !matches!(fields.get("type").and_then(Value::as_str), Some("failure" | "always"))
}

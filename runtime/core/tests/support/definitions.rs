//! Random valid definitions, about half of them acyclic, decoded from tapes of numbers so that they shrink.
//!
//! The simulation of `chaos-tests` draws its definitions here too.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::choices::Choices;
use super::{loops, nodes};

/// Takes out most of what makes nodes fail and ways dead.
pub fn calm(value: &mut Value) {
    match value {
        Value::String(text) => match text.as_str() {
            "throw" | "false" | "const:0" | "const:\"\"" => *text = "true".into(),
            "{{throw}}" => *text = "{{input}}".into(),
            "allSuccess" => *text = "all".into(),
            _ => {}
        },
        Value::Array(items) => items.iter_mut().for_each(calm),
        Value::Object(fields) => {
            let troubles = [
                "inputSchema",
                "outputSchema",
                "totalTimeout",
                "timeout",
                "heartbeatTimeout",
            ];
            fields.retain(|name, _| !troubles.contains(&name.as_str()));
            fields.values_mut().for_each(calm);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// How an edge is written before its node's needs are known.
pub struct Way {
    pub source: usize,
    pub target: usize,
    fields: Map<String, Value>,
}

/// What these tapes say: one a node, an edge and a loop, and one for the settings.
pub fn definition(nodes: &[Vec<u16>], edges: &[Vec<u16>], loops: &[Vec<u16>], settings: &[u16]) -> Value {
    let count = nodes.len();
    let mut ways: Vec<Way> = edges
        .iter()
        .map(|tape| Way::somewhere(&mut Choices::new(tape), count))
        .collect();
    let mut kinds: Vec<&str> = nodes
        .iter()
        .map(|tape| *Choices::new(tape).pick(&nodes::KINDS))
        .collect();
    ways.retain(|way| kinds[way.source] != "end");
    let stretches = loops::stretches(loops, count);
    loops::shape(&mut ways, &stretches, loops, count);
    for (place, kind) in kinds.iter_mut().enumerate() {
        let is_entered = ways.iter().any(|way| way.target == place);
        let leads_on = ways.iter().any(|way| way.source == place);
        if (*kind == "trigger" && is_entered) || (*kind == "end" && (leads_on || !is_entered)) {
            *kind = "function";
        }
    }
    let back = loops::back_edges(&ways, &stretches, loops, |node| kinds[node] != "end");
    let bodies = loops::bodies(&ways, &back);
    let limits = loops::limits(&bodies, loops);
    let forward = ways.len();
    ways.extend(back);
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
        let parents: Vec<usize> = ways[..forward]
            .iter()
            .filter(|way| way.target == place)
            .map(|way| way.source)
            .collect();
        if let Some(join) = nodes::join(&mut choices, &parents) {
            data.insert("join".into(), join);
        }
        if let Some(header) = bodies.iter().position(|(header, _)| *header == place) {
            data.insert("maxIterations".into(), json!(limits[header]));
        }
        let innermost = loops::innermost(&bodies, place);
        let neighbours: Vec<usize> = (0..count)
            .filter(|&other| other != place && loops::innermost(&bodies, other) == innermost)
            .collect();
        if let Some(cancels) = nodes::cancels(&mut choices, &neighbours) {
            data.insert("cancels".into(), cancels);
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

impl Way {
    /// Leads from a lower to a higher number, so that there is no cycle.
    fn somewhere(choices: &mut Choices<'_>, count: usize) -> Self {
        let first = choices.below(count);
        // Mostly near, so that graphs grow long as well as wide.
        let near = if choices.one_in(4) { count } else { 4 };
        let second = (first + 1 + choices.below(near)) % count;
        let (source, target) = match first.cmp(&second) {
            std::cmp::Ordering::Less => (first, second),
            std::cmp::Ordering::Greater => (second, first),
            std::cmp::Ordering::Equal => (0, 1),
        };
        Self::random(choices, source, target)
    }

    /// Taken after success, whatever the output.
    pub fn plain(source: usize, target: usize) -> Self {
        Self {
            source,
            target,
            fields: Map::new(),
        }
    }

    pub fn random(choices: &mut Choices<'_>, source: usize, target: usize) -> Self {
        let kind = *choices.pick(&[
            "default", "success", "default", "failure", "always", "success", "failure",
        ]);
        let mut way = Self::plain(source, target).of_type(kind);
        if choices.one_in(3) {
            let expressions = if kind == "failure" {
                nodes::FAILURE_CONDITIONS
            } else {
                nodes::CONDITIONS
            };
            way.set("condition", json!(choices.pick(expressions)));
        }
        if kind == "failure" && choices.one_in(4) {
            let codes = [json!(["E1"]), json!(["E2", "TIMEOUT"]), json!(["*"])];
            way.set("errors", choices.pick(&codes).clone());
        }
        way
    }

    /// Leads back to the header of a loop.
    pub fn back(choices: &mut Choices<'_>, source: usize, target: usize) -> Self {
        let kind = *choices.pick(&["default", "always", "success", "default", "failure", "always"]);
        let mut way = Self::plain(source, target).of_type(kind);
        if !choices.one_in(3) {
            way.set("condition", json!(choices.pick(nodes::BACK_CONDITIONS)));
        }
        way
    }

    fn of_type(mut self, kind: &str) -> Self {
        if kind != "default" {
            self.set("type", json!(kind));
        }
        self
    }

    fn set(&mut self, name: &str, value: Value) {
        self.fields.insert(name.into(), value);
    }
}

fn is_success(fields: &Map<String, Value>) -> bool {
    !matches!(fields.get("type").and_then(Value::as_str), Some("failure" | "always"))
}

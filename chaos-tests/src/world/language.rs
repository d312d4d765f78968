//! Definitions are drawn in the language of the reference interpreter; the engine is given the same in JavaScript, and what it
//! asks of the sandbox is answered by the reference's language again.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use troupe_actors::evaluation::{Part, PartAnswer};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{ErrorInfo, Json};
use troupe_ports::SandboxJob;

use crate::reference::language;

/// Expressions that only the sandbox evaluates: what they are in the reference's language, by what they are in JavaScript.
#[derive(Clone, Debug, Default)]
pub(super) struct Translation {
    sandboxed: BTreeMap<String, String>,
}

impl Translation {
    /// A definition for the engine.
    pub(super) fn for_engine(&mut self, definition: &WorkflowDefinition) -> WorkflowDefinition {
        let mut written = serde_json::to_value(definition).expect("definitions can be written");
        let asks = definition.id == "asks";
        self.graph(&mut written, asks);
        serde_json::from_value(written).expect("a translated definition is one")
    }

    /// What the sandbox answers.
    pub(super) fn answer(&self, part: Part, job: &SandboxJob) -> PartAnswer {
        let scope = job.scope.to_value().unwrap_or(Value::Null);
        let known = self.sandboxed.get(&*job.source);
        let value = known.map(|expression| language::evaluate(expression, &scope));
        let answer = match value {
            Some(Ok(value)) => Ok(Json::of(&value)),
            Some(Err(_)) => Err(ErrorInfo::new("EXPRESSION_ERROR", language::THROWN)),
            None => Err(ErrorInfo::new("EXPRESSION_ERROR", "nobody knows this expression")),
        };
        PartAnswer { part, answer }
    }

    fn graph(&mut self, graph: &mut Value, asks: bool) {
        let nodes = graph["nodes"].as_array().cloned().unwrap_or_default();
        let conditions_of = |source: &Value| -> Vec<Value> {
            let node = nodes.iter().find(|node| node["id"] == *source);
            let listed = node.and_then(|node| node["data"]["conditions"].as_array());
            listed
                .into_iter()
                .flatten()
                .map(|condition| condition["id"].clone())
                .collect()
        };
        for edge in graph["edges"].as_array_mut().into_iter().flatten() {
            // A decision's edge may name one of its conditions instead.
            let names = conditions_of(&edge["source"]);
            if let Some(condition) = edge.get_mut("condition").filter(|condition| !names.contains(condition)) {
                self.expression(condition, asks);
            }
        }
        for node in graph["nodes"].as_array_mut().into_iter().flatten() {
            if let Some(data) = node["data"].as_object_mut() {
                self.data(data, asks);
            }
        }
        for place in ["/settings/output", "/settings/concurrency/key"] {
            if let Some(expression) = graph.pointer_mut(place) {
                self.expression(expression, asks);
            }
        }
    }

    fn data(&mut self, data: &mut Map<String, Value>, asks: bool) {
        let delays_by_expression = data.get("delayType") == Some(&json!("expression"));
        for (name, value) in data {
            match name.as_str() {
                "output" | "items" | "while" => self.expression(value, asks),
                "delayValue" if delays_by_expression => self.expression(value, asks),
                "inputMapping" | "outputMapping" => {
                    let mapped = value.as_object_mut().into_iter().flatten();
                    mapped.for_each(|(_, value)| self.expression(value, asks));
                }
                "conditions" => {
                    for condition in value.as_array_mut().into_iter().flatten() {
                        self.expression(&mut condition["expression"], asks);
                    }
                }
                "body" => self.graph(value, asks),
                "compensation" => {
                    if let Some(data) = value.get_mut("data").and_then(Value::as_object_mut) {
                        self.data(data, asks);
                    }
                }
                "cache" | "concurrency" => {
                    if let Some(key) = value.get_mut("key") {
                        self.expression(key, asks);
                    }
                }
                _ => template(value),
            }
        }
    }

    fn expression(&mut self, value: &mut Value, asks: bool) {
        let Some(text) = value.as_str() else { return };
        let mut written = in_javascript(text);
        // Some are such that the engine cannot evaluate them itself; which, depends on nothing but what they say.
        if asks || text.len() % 7 == 3 {
            written = format!("(() => ({written}))()");
            self.sandboxed.insert(written.clone(), text.to_owned());
        }
        *value = written.into();
    }
}

fn template(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(inner) = text.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
                *text = format!("{{{{ {} }}}}", in_javascript(inner));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(template),
        Value::Object(fields) => fields.iter_mut().for_each(|(_, value)| template(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// An expression of the reference's language, in JavaScript.
fn in_javascript(text: &str) -> String {
    let text = text.trim();
    match text {
        "true" | "false" => return text.to_owned(),
        "throw" => return "null.thrown".to_owned(),
        _ => {}
    }
    if let Some(constant) = text.strip_prefix("const:") {
        return format!("({constant})");
    }
    if let Some((path, literal)) = text.split_once(" == ") {
        return format!("{} === {literal}", path_in_javascript(path));
    }
    if let Some((path, literal)) = text.split_once(" != ") {
        return format!("{} !== {literal}", path_in_javascript(path));
    }
    path_in_javascript(text)
}

/// A path that leads nowhere is null.
fn path_in_javascript(path: &str) -> String {
    format!("({} ?? null)", path.trim().split('.').collect::<Vec<_>>().join("?."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_what_they_are_in_javascript() {
        for (ours, javascript) in [
            ("true", "true"),
            ("const:{\"ok\":true}", "({\"ok\":true})"),
            ("input.ok", "(input?.ok ?? null)"),
            ("execution.iteration != 3", "(execution?.iteration ?? null) !== 3"),
            (
                "nodes.n0.status == \"completed\"",
                "(nodes?.n0?.status ?? null) === \"completed\"",
            ),
        ] {
            assert_eq!(in_javascript(ours), javascript);
        }
    }
}

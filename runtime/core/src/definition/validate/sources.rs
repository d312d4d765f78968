//! Where a definition has expressions and templates.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{EDGES, NODES, SETTINGS, decisions};
use crate::definition::{Node, NodeKind, Path, WorkflowDefinition};

/// Fields of `data` that are expressions, by their keys from `data` down.
const EXPRESSIONS: [&[&str]; 8] = [
    &["output"],
    &["items"],
    &["while"],
    &["filter"],
    &["correlationKey"],
    &["concurrency", "key"],
    &["cache", "key"],
    &["transformationConfig", "expression"],
];
/// Fields of `data` whose values are expressions.
const MAPPINGS: [&str; 2] = ["inputMapping", "outputMapping"];
/// Fields of `data` that are Jinja templates.
const JINJA: [&str; 1] = ["template"];

/// Fields of `data` where `{{` does not begin a template: expressions, code, schemas, templates of another kind, and what
/// belongs to nodes of its own. `*` stands for any element.
pub const VERBATIM_FIELDS: &[&[&str]] = &[
    &["condition"],
    &["inputMapping"],
    &["outputMapping"],
    &["output"],
    &["items"],
    &["while"],
    &["filter"],
    &["correlationKey"],
    &["conditions", "*", "expression"],
    &["concurrency", "key"],
    &["cache", "key"],
    &["transformationConfig", "expression"],
    &["functionCode"],
    &["template"],
    &["inputSchema"],
    &["outputSchema"],
    &["payloadSchema"],
    &["config", "filter"],
    &["config", "mapping"],
    &["config", "dedupeKey"],
    &["compensation"],
];
/// Length of the longest of [`VERBATIM_FIELDS`].
const VERBATIM_DEPTH_MAX: usize = 3;

/// A source text of a definition.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// An expression.
    Expression(&'a str),
    /// What stands where an expression belongs and is no string.
    NoExpression(&'a Value),
    /// A string with `{{ … }}` parts.
    Template(&'a str),
    /// A Jinja template.
    Jinja(&'a str),
    /// An expression over an `event` alone.
    EventExpression(&'a str),
    /// A string with `{{ … }}` parts over an `event` alone, which nobody but the engine itself evaluates.
    EventTemplate(&'a str),
}

/// Visits every source of a definition with its place.
pub fn each_source(definition: &WorkflowDefinition, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    let settings = &definition.settings;
    if let Some(output) = settings.get("output").and_then(Value::as_str) {
        visit(Source::Expression(output), &SETTINGS.key("output"));
    }
    let key = settings.get("concurrency").and_then(|value| value.get("key"));
    if let Some(key) = key.and_then(Value::as_str) {
        visit(Source::Expression(key), &SETTINGS.key("concurrency").key("key"));
    }
    if let Some(payload) = settings.get("events").and_then(|events| events.get("payload")) {
        of_payload(payload, &SETTINGS.key("events").key("payload"), visit);
    }
    for (at, node) in definition.nodes.iter().enumerate() {
        let path = NODES.index(at);
        of_node(node, &path, visit);
        node.with_compensation(&path, |compensation, path| of_node(compensation, path, visit));
    }
    of_edges(definition, visit);
}

/// Visits the templates of a payload; as deep as the limit on nesting lets it be.
fn of_payload(value: &Value, path: &Path<'_>, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    match value {
        Value::String(text) if text.contains("{{") => visit(Source::EventTemplate(text), path),
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                of_payload(item, &path.index(number), visit);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                of_payload(value, &path.key(name), visit);
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn expression_value(value: &Value, path: &Path<'_>, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    match value {
        Value::String(source) => visit(Source::Expression(source), path),
        Value::Null => {}
        other => visit(Source::NoExpression(other), path),
    }
}

fn of_node(node: &Node, path: &Path<'_>, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    let data = path.key("data");
    let task = data.key("taskDefinition");
    let config = task.key("config");
    let place = |name: &str| match node.source(name) {
        Some((_, 2)) => &config,
        Some((_, 1)) => &task,
        Some(_) | None => &data,
    };
    for keys in EXPRESSIONS {
        let [first, rest @ ..] = keys else { continue };
        let (Some(value), at) = (node.field(first), place(first).key(first)) else {
            continue;
        };
        match rest {
            [] => expression_value(value, &at, visit),
            [second, ..] => {
                if let Some(value) = value.get(second) {
                    expression_value(value, &at.key(second), visit);
                }
            }
        }
    }
    let config = node.field("transformationConfig");
    let source = config.and_then(|config| config.get("source")?.as_str());
    // With a template it is the value that this gives.
    if let Some(source) = source.filter(|source| !source.contains("{{")) {
        let config = place("transformationConfig").key("transformationConfig");
        visit(Source::Expression(source), &config.key("source"));
    }
    for name in MAPPINGS {
        for (key, value) in node.field(name).and_then(Value::as_object).into_iter().flatten() {
            expression_value(value, &place(name).key(name).key(key), visit);
        }
    }
    of_kind(node, &data, visit);
    for name in JINJA {
        if let Some(source) = node.text_field(name) {
            visit(Source::Jinja(source), &place(name).key(name));
        }
    }
    of_data(node, &data, visit);
}

/// The expressions that only some types of nodes have.
fn of_kind(node: &Node, data: &Path<'_>, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    if node.kind() == Some(NodeKind::Decision) {
        let conditions = data.key("conditions");
        let listed = node.field("conditions").and_then(Value::as_array).into_iter().flatten();
        for (number, item) in listed.enumerate() {
            let source = item.get("expression").and_then(Value::as_str);
            if let Some(source) = source.filter(|text| !text.trim().is_empty()) {
                visit(Source::Expression(source), &conditions.index(number).key("expression"));
            }
        }
    }
    if node.kind() == Some(NodeKind::Trigger) && node.text_field("triggerType") == Some("event") {
        of_event_trigger(node, &data.key("config"), visit);
    }
    if is_expression_delay(node)
        && let Some(source) = node.text_field("delayValue")
    {
        visit(Source::Expression(source), &data.key("delayValue"));
    }
}

/// The expressions over the messages of a trigger.
fn of_event_trigger(node: &Node, config: &Path<'_>, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    let field = |name: &str| node.field("config").and_then(|config| config.get(name));
    for name in ["filter", "dedupeKey"] {
        if let Some(value) = field(name) {
            event_expression(value, &config.key(name), visit);
        }
    }
    match field("mapping") {
        Some(Value::Object(members)) => {
            for (name, value) in members {
                event_expression(value, &config.key("mapping").key(name), visit);
            }
        }
        // What is neither is told where the trigger is read.
        Some(source @ Value::String(_)) => event_expression(source, &config.key("mapping"), visit),
        Some(_) | None => {}
    }
}

fn event_expression(value: &Value, path: &Path<'_>, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    match value {
        Value::String(source) => visit(Source::EventExpression(source), path),
        Value::Null => {}
        other => visit(Source::NoExpression(other), path),
    }
}

fn is_expression_delay(node: &Node) -> bool {
    node.kind() == Some(NodeKind::Delay) && node.text_field("delayType") == Some("expression")
}

/// Every other string of `data` may hold templates.
fn of_data<'a>(node: &'a Node, data: &Path<'_>, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    let has_body = matches!(node.kind(), Some(NodeKind::ForEach | NodeKind::Loop));
    let skipped = |name: &str| (name == "body" && has_body) || (name == "delayValue" && is_expression_delay(node));
    let mut within = |name: &'a str, value: &'a Value, path: &Path<'_>| {
        if !skipped(name) {
            templates_within(value, path, &mut vec![name], visit);
        }
    };
    let members = |value: &'a Value| value.as_object().into_iter().flatten();
    for (name, value) in &node.data {
        let path = data.key(name);
        if name != "taskDefinition" {
            within(name, value, &path);
            continue;
        }
        for (name, value) in members(value) {
            let path = path.key(name);
            if name == "config" && node.config_holds_fields() {
                members(value).for_each(|(name, value)| within(name, value, &path.key(name)));
            } else {
                within(name, value, &path);
            }
        }
    }
}

/// Visits the templates of a value; as deep as the limit on nesting lets it be. `keys` lead there from `data`.
fn templates_within<'a>(
    value: &'a Value,
    path: &Path<'_>,
    keys: &mut Vec<&'a str>,
    visit: &mut impl FnMut(Source<'_>, &Path<'_>),
) {
    if keys.len() <= VERBATIM_DEPTH_MAX && VERBATIM_FIELDS.contains(&&keys[..]) {
        return;
    }
    match value {
        Value::String(text) if text.contains("{{") => visit(Source::Template(text), path),
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                keys.push("*");
                templates_within(item, &path.index(number), keys, visit);
                keys.pop();
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                keys.push(name);
                templates_within(value, &path.key(name), keys, visit);
                keys.pop();
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn of_edges(definition: &WorkflowDefinition, visit: &mut impl FnMut(Source<'_>, &Path<'_>)) {
    let mut conditions: HashMap<&str, HashSet<&str>> = HashMap::new();
    for node in &definition.nodes {
        if node.kind() == Some(NodeKind::Decision) {
            conditions
                .entry(node.id.as_str())
                .or_insert_with(|| decisions::condition_ids(node));
        }
    }
    for (at, edge) in definition.edges.iter().enumerate() {
        let Some(source) = edge.condition.as_deref().filter(|text| !text.trim().is_empty()) else {
            continue;
        };
        let names_a_condition = conditions
            .get(edge.source.as_str())
            .is_some_and(|ids| ids.contains(source));
        if !names_a_condition {
            visit(Source::Expression(source), &EDGES.index(at).key("condition"));
        }
    }
}

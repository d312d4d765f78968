//! What is written in a language: expressions, templates, schemas, cron and code.

use std::collections::HashSet;

use serde_json::Value;

use super::{Context, EDGES, NODES, SETTINGS, decisions};
use crate::definition::view::is_template;
use crate::definition::{LanguageChecker, LanguageError, Node, NodeKind, Path, Problems, code};

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
/// Fields of `data` that are JSON Schemas.
const SCHEMAS: [&str; 3] = ["inputSchema", "outputSchema", "payloadSchema"];
/// Fields of `data` that hold no `{{ … }}` templates, or are looked into elsewhere.
const NO_TEMPLATES: [&str; 13] = [
    "inputMapping",
    "outputMapping",
    "inputSchema",
    "outputSchema",
    "payloadSchema",
    "functionCode",
    "template",
    "transformationTemplate",
    "conditions",
    "output",
    "items",
    "while",
    "body",
];

pub(super) fn check(context: &mut Context<'_>) {
    let Some(checker) = context.checker else { return };
    let mut language = Language {
        checker,
        problems: std::mem::take(&mut context.problems),
    };
    check_settings(context, &mut language);
    for (at, node) in context.nodes() {
        check_node(node, &NODES.index(at), &mut language);
    }
    check_edges(context, &mut language);
    context.problems = language.problems;
}

struct Language<'a> {
    checker: &'a dyn LanguageChecker,
    problems: Problems,
}

impl Language<'_> {
    fn report(&mut self, result: Result<(), LanguageError>, path: &Path<'_>) {
        if let Err(error) = result {
            let message = match error.offset {
                Some(offset) => format!("{} (at byte {offset})", error.message),
                None => error.message,
            };
            self.problems.error(error.code, path, message);
        }
    }

    fn expression(&mut self, source: &str, path: &Path<'_>) {
        self.report(self.checker.expression(source), path);
    }

    /// A value that ought to be an expression.
    fn expression_value(&mut self, value: &Value, path: &Path<'_>) {
        match value.as_str() {
            Some(source) => self.expression(source, path),
            None if value.is_null() => {}
            None => {
                let hint = format!("write it as a string: {:?}", value.to_string());
                self.problems
                    .error_hint(code::FIELD_TYPE, path, "an expression is a string", hint);
            }
        }
    }

    fn schema(&mut self, schema: &Value, path: &Path<'_>) {
        if schema.is_object() || schema.is_boolean() {
            self.report(self.checker.schema(schema), path);
        } else if !schema.is_null() {
            self.problems
                .error(code::FIELD_TYPE, path, "a JSON Schema is an object or a boolean");
        }
    }
}

fn check_settings(context: &Context<'_>, language: &mut Language<'_>) {
    let settings = &context.settings;
    if let Some(output) = &settings.output {
        language.expression(output, &SETTINGS.key("output"));
    }
    if let Some(schema) = &settings.input_schema {
        language.schema(schema, &SETTINGS.key("inputSchema"));
    }
    if let Some(key) = settings
        .concurrency
        .as_ref()
        .and_then(|concurrency| concurrency.key.as_deref())
    {
        let concurrency = SETTINGS.key("concurrency");
        language.expression(key, &concurrency.key("key"));
    }
}

fn check_node(node: &Node, path: &Path<'_>, language: &mut Language<'_>) {
    let data = path.key("data");
    let task = data.key("taskDefinition");
    let place = |name: &str| {
        if node.holder(name).is_some_and(|(_, nested)| nested) {
            &task
        } else {
            &data
        }
    };
    for keys in EXPRESSIONS {
        let [first, rest @ ..] = keys else { continue };
        let (Some(value), at) = (node.field(first), place(first).key(first)) else {
            continue;
        };
        match rest {
            [] => language.expression_value(value, &at),
            [second, ..] => {
                if let Some(value) = value.get(second) {
                    language.expression_value(value, &at.key(second));
                }
            }
        }
    }
    for name in MAPPINGS {
        for (key, value) in node.field(name).and_then(Value::as_object).into_iter().flatten() {
            language.expression_value(value, &place(name).key(name).key(key));
        }
    }
    for name in SCHEMAS {
        if let Some(schema) = node.field(name) {
            language.schema(schema, &place(name).key(name));
        }
    }
    check_special(node, path, language);
    for name in ["template", "transformationTemplate"] {
        if let Some(source) = node.text_field(name) {
            let result = language.checker.template(source);
            language.report(result, &place(name).key(name));
        }
    }
    check_templates(node, &data, language);
}

/// The strings whose language depends on the node's type.
fn check_special(node: &Node, path: &Path<'_>, language: &mut Language<'_>) {
    let data = path.key("data");
    match node.kind() {
        Some(NodeKind::Decision) => {
            let conditions = data.key("conditions");
            let listed = node.field("conditions").and_then(Value::as_array).into_iter().flatten();
            for (number, item) in listed.enumerate() {
                let source = item
                    .get("expression")
                    .and_then(Value::as_str)
                    .filter(|text| !text.trim().is_empty());
                if let Some(source) = source {
                    language.expression(source, &conditions.index(number).key("expression"));
                }
            }
        }
        Some(NodeKind::Delay) if node.text_field("delayType") == Some("expression") => {
            if let Some(source) = node.text_field("delayValue").filter(|source| !is_template(source)) {
                language.expression(source, &data.key("delayValue"));
            }
        }
        Some(NodeKind::Trigger) if node.text_field("triggerType") == Some("scheduled") => {
            let cron = node
                .field("config")
                .and_then(|config| config.get("cron"))
                .and_then(Value::as_str);
            if let Some(cron) = cron {
                let config = data.key("config");
                let result = language.checker.cron(cron);
                language.report(result, &config.key("cron"));
            }
        }
        Some(NodeKind::Function) => {
            if let (Some(code), Some(name)) = (node.text_field("functionCode"), node.text_field("functionName")) {
                let result = language.checker.function_code(code, name);
                language.report(result, &data.key("functionCode"));
            }
        }
        _ => {}
    }
}

/// Every other string of `data` may hold templates.
fn check_templates(node: &Node, data: &Path<'_>, language: &mut Language<'_>) {
    let body_is_data = node.kind() != Some(NodeKind::ForEach) && node.kind() != Some(NodeKind::Loop);
    let skipped = |name: &str| NO_TEMPLATES.contains(&name) && !(name == "body" && body_is_data);
    for (name, value) in &node.data {
        if name == "taskDefinition" {
            let task = data.key(name);
            for (name, value) in value.as_object().into_iter().flatten() {
                if !skipped(name) {
                    templates_within(value, &task.key(name), language);
                }
            }
        } else if !skipped(name) {
            templates_within(value, &data.key(name), language);
        }
    }
}

/// Checks the templates of a value; as deep as the limit on nesting lets it be.
fn templates_within(value: &Value, path: &Path<'_>, language: &mut Language<'_>) {
    match value {
        Value::String(text) if text.contains("{{") => language.report(language.checker.template(text), path),
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                templates_within(item, &path.index(number), language);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                templates_within(value, &path.key(name), language);
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn check_edges(context: &Context<'_>, language: &mut Language<'_>) {
    let mut conditions: Vec<Option<HashSet<&str>>> = vec![None; context.definition.nodes.len()];
    for (at, edge) in context.definition.edges.iter().enumerate() {
        let Some(source) = edge.condition.as_deref().filter(|text| !text.trim().is_empty()) else {
            continue;
        };
        if let Some(&node) = context.index.get(edge.source.as_str()) {
            let ids = conditions[node].get_or_insert_with(|| decisions::condition_ids(&context.definition.nodes[node]));
            if ids.contains(source) {
                continue;
            }
        }
        language.expression(source, &EDGES.index(at).key("condition"));
    }
}

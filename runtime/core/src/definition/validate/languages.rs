//! What is written in a language: expressions, templates, schemas, cron and code.

use serde_json::Value;

use super::sources::{Source, each_source};
use super::{Context, NODES, SETTINGS};
use crate::definition::{
    Diagnostic, LanguageChecker, LanguageError, Node, NodeKind, Path, Problems, UnknownName, code,
};

/// Fields of `data` that are JSON Schemas.
const SCHEMAS: [&str; 3] = ["inputSchema", "outputSchema", "payloadSchema"];

pub(super) fn check(context: &mut Context<'_>) {
    let Some(checker) = context.checker else { return };
    let mut language = Language {
        checker,
        problems: std::mem::take(&mut context.problems),
    };
    if let Some(schema) = &context.settings.input_schema {
        language.schema(schema, &SETTINGS.key("inputSchema"));
    }
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        check_node(node, &path, &mut language);
        node.with_compensation(&path, |compensation, path| {
            check_node(compensation, path, &mut language)
        });
    }
    each_source(context.definition, &mut |source, path| language.source(source, path));
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

    fn report_names(&mut self, result: Result<Vec<UnknownName>, LanguageError>, path: &Path<'_>) {
        match result {
            Err(error) => self.report(Err(error), path),
            Ok(unknown) if self.problems.is_full() => drop(unknown),
            Ok(unknown) => {
                for UnknownName { name, hint } in unknown {
                    let message = format!("nothing gives `{name}` a value");
                    let warning = Diagnostic::warning(code::UNKNOWN_NAME, path.pointer(), message);
                    self.problems.push(warning.with_hint(hint));
                }
            }
        }
    }

    fn source(&mut self, source: Source<'_>, path: &Path<'_>) {
        match source {
            Source::Expression(source) => self.report_names(self.checker.expression(source), path),
            Source::Template(source) => self.report_names(self.checker.template(source), path),
            Source::EventExpression(source) => self.report_names(self.checker.event_expression(source), path),
            Source::EventTemplate(source) => self.report_names(self.checker.event_template(source), path),
            Source::Jinja(source) => self.report(self.checker.jinja(source), path),
            Source::NoExpression(value) => {
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

fn check_node(node: &Node, path: &Path<'_>, language: &mut Language<'_>) {
    let data = path.key("data");
    let task = data.key("taskDefinition");
    let config = task.key("config");
    for name in SCHEMAS {
        let holder = match node.source(name) {
            Some((_, 2)) => &config,
            Some((_, 1)) => &task,
            Some(_) | None => &data,
        };
        if let Some(schema) = node.field(name) {
            language.schema(schema, &holder.key(name));
        }
    }
    match node.kind() {
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

//! Nodes that start child executions, and the bodies in them.

use serde_json::Value;

use super::{Context, NODES, ROOT, validate};
use crate::definition::problems::did_you_mean_or_list;
use crate::definition::read::describe;
use crate::definition::view::is_template;
use crate::definition::{Diagnostic, Node, NodeKind, Path, code};

/// Between a workflow's id and the node whose body is meant.
const BODY_OF: char = '#';

pub(super) fn check(context: &mut Context<'_>) {
    if context.definition.id.contains(BODY_OF) {
        let message = format!("`{BODY_OF}` cannot be part of a workflow's id: it names the body of a node");
        context.problems.error(code::INVALID_VALUE, &ROOT.key("id"), message);
    }
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        match node.kind() {
            Some(NodeKind::Subworkflow) => {
                require(context, node, &path, "workflowId");
                word(context, node, &path, "mode", &["attached", "detached"]);
                whole(context, node, &path, "version");
            }
            Some(NodeKind::ForEach) => {
                require(context, node, &path, "items");
                check_work(context, node, &path);
                for name in ["maxConcurrency", "succeedAfter", "version"] {
                    whole(context, node, &path, name);
                }
                check_tolerated(context, node, &path);
                check_wait(context, node, &path);
            }
            Some(NodeKind::Loop) => {
                require(context, node, &path, "while");
                require(context, node, &path, "maxIterations");
                check_work(context, node, &path);
                whole(context, node, &path, "version");
            }
            _ => {}
        }
    }
}

fn require(context: &mut Context<'_>, node: &Node, path: &Path<'_>, name: &str) {
    let given = node.field(name);
    if given.is_none_or(|value| value.as_str().is_some_and(|text| text.trim().is_empty())) {
        let message = format!("a node of type `{}` needs `data.{name}`", node.node_type);
        context.problems.error(code::MISSING_FIELD, &path.key("data"), message);
    }
}

fn wrong(context: &mut Context<'_>, path: &Path<'_>, name: &str, expected: &str, value: &Value) {
    let message = format!("`{name}` must be {expected}, this is {}", describe(value));
    let data = path.key("data");
    context.problems.error(code::INVALID_VALUE, &data.key(name), message);
}

fn templated(value: &Value) -> bool {
    value.as_str().is_some_and(is_template)
}

fn whole(context: &mut Context<'_>, node: &Node, path: &Path<'_>, name: &str) {
    if let Some(value) = node.field(name)
        && !templated(value)
        && value.as_u64().is_none_or(|number| number == 0)
    {
        wrong(context, path, name, "a whole number from 1", value);
    }
}

fn word(context: &mut Context<'_>, node: &Node, path: &Path<'_>, name: &str, words: &[&str]) {
    let Some(value) = node.field(name).filter(|value| !templated(value)) else {
        return;
    };
    match value.as_str() {
        Some(text) if words.contains(&text) => {}
        Some(text) => {
            let message = format!("`{text}` is not a value of `{name}`");
            let data = path.key("data");
            let hint = did_you_mean_or_list(text, words);
            context
                .problems
                .error_hint(code::INVALID_VALUE, &data.key(name), message, hint);
        }
        None => wrong(context, path, name, "a string", value),
    }
}

fn check_tolerated(context: &mut Context<'_>, node: &Node, path: &Path<'_>) {
    let Some(value) = node.field("toleratedFailures").filter(|value| !templated(value)) else {
        return;
    };
    let share = |text: &str| {
        let share = text
            .strip_suffix('%')
            .and_then(|number| number.trim().parse::<f64>().ok());
        share.is_some_and(|share| (0.0..=100.0).contains(&share))
    };
    if !value.is_u64() && !value.as_str().is_some_and(share) {
        wrong(
            context,
            path,
            "toleratedFailures",
            "a number of items or a percentage such as \"10%\"",
            value,
        );
    }
}

fn check_wait(context: &mut Context<'_>, node: &Node, path: &Path<'_>) {
    let Some(value) = node.field("wait").filter(|value| !templated(value)) else {
        return;
    };
    if !value.is_boolean() {
        wrong(context, path, "wait", "true or false", value);
    }
    if value == false {
        for name in ["succeedAfter", "toleratedFailures"]
            .into_iter()
            .filter(|name| node.field(name).is_some())
        {
            let data = path.key("data");
            let message = format!("`{name}` does nothing where `wait` is false: nobody learns how the children end");
            context.problems.warning(code::INVALID_VALUE, &data.key(name), message);
        }
    }
}

/// What the children run: another workflow, or a body that is checked like one.
fn check_work(context: &mut Context<'_>, node: &Node, path: &Path<'_>) {
    let data = path.key("data");
    let place = data.key("body");
    match (node.field("body"), node.field("workflowId")) {
        (None, None) => {
            let message = format!(
                "a node of type `{}` needs `data.body` or `data.workflowId`",
                node.node_type
            );
            context.problems.error(code::MISSING_FIELD, &data, message);
        }
        (Some(_), Some(_)) => {
            let message = "`body` and `workflowId` exclude each other";
            context
                .problems
                .error(code::INVALID_VALUE, &data.key("workflowId"), message);
        }
        (None, Some(_)) => {}
        (Some(body), None) if !body.is_object() => {
            let message = format!(
                "`body` must be an object with `nodes` and `edges`, this is {}",
                describe(body)
            );
            context.problems.error(code::FIELD_TYPE, &place, message);
        }
        (Some(_), None) => check_body(context, node, &place),
    }
    if node.id.contains(BODY_OF) && node.field("body").is_some() {
        let message = format!("`{BODY_OF}` cannot be part of the id of a node with a body");
        context.problems.error(code::INVALID_VALUE, &path.key("id"), message);
    }
}

fn check_body(context: &mut Context<'_>, node: &Node, place: &Path<'_>) {
    let Some(mut body) = context.definition.body_of(&node.id) else {
        let message = "`body` cannot be read as a definition: it needs `nodes` and `edges`, two lists";
        return context.problems.error(code::FIELD_TYPE, place, message);
    };
    // Not a workflow's id, which it is not.
    body.id = "body".to_owned();
    let prefix = place.pointer();
    for found in validate(&body, context.checker, context.limits) {
        // The node itself can handle what its children fail with.
        if found.code != code::UNHANDLED_FAILURE {
            context.problems.push(Diagnostic {
                pointer: format!("{prefix}{}", found.pointer),
                ..found
            });
        }
    }
}

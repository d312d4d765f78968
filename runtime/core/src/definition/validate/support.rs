//! What parses but this release cannot run: refused by name instead of being ignored silently.

use serde_json::Value;

use super::{Context, NODES, SETTINGS};
use crate::definition::{Diagnostic, NodeKind, Path, TimeoutSettings, code};

/// Node types this release cannot run.
const KINDS: [NodeKind; 7] = [
    NodeKind::Webhook,
    NodeKind::Subworkflow,
    NodeKind::ForEach,
    NodeKind::Loop,
    NodeKind::Database,
    NodeKind::Publish,
    NodeKind::End,
];

/// Node fields that change nothing yet; leaving them out of account would surprise, so they earn a warning.
const IGNORED_FIELDS: [&str; 6] = [
    "concurrency",
    "cache",
    "compensation",
    "queueTimeout",
    "heartbeatTimeout",
    "priority",
];
/// Settings that change nothing yet.
const IGNORED_SETTINGS: [&str; 2] = ["concurrency", "events"];

pub(super) fn check(context: &mut Context<'_>) {
    check_settings(context);
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        let data = path.key("data");
        if let Some(kind) = node.kind().filter(|kind| KINDS.contains(kind)) {
            let message = format!("this release cannot run nodes of type `{}` yet", kind.as_str());
            context.problems.error(code::UNSUPPORTED, &path.key("type"), message);
        }
        let trigger = node
            .text_field("triggerType")
            .filter(|_| node.kind() == Some(NodeKind::Trigger));
        if let Some(word @ ("scheduled" | "event")) = trigger {
            let message =
                format!("this release does not fire `{word}` triggers yet; a start by hand or API still works");
            context
                .problems
                .warning(code::UNSUPPORTED, &data.key("triggerType"), message);
        }
        if node.kind() == Some(NodeKind::Custom) && node.text_field("handlerId").is_none() {
            let message = "this release runs custom nodes by a registered handler only: `handlerId` is missing";
            context.problems.error(code::UNSUPPORTED, &path, message);
        }
        if let Some(cancels) = node.field("cancels") {
            check_cancels(context, cancels, &data.key("cancels"));
        }
        if node
            .data
            .get("join")
            .and_then(|join| join.get("lateArrivals"))
            .and_then(Value::as_str)
            == Some("cancel")
        {
            let join = data.key("join");
            let message = "this release cannot cancel late arrivals yet; `ignore` lets them run on";
            context
                .problems
                .error(code::UNSUPPORTED, &join.key("lateArrivals"), message);
        }
        // Reading them reports shapes that are wrong; the plan reads a template's number from the resolved data.
        TimeoutSettings::read(node, &path, &mut context.problems);
        for name in IGNORED_FIELDS.iter().filter(|name| node.field(name).is_some()) {
            ignored(context, &data.key(name), name);
        }
    }
}

fn check_settings(context: &mut Context<'_>) {
    if context.settings.compensate {
        let message = "this release cannot compensate yet";
        context
            .problems
            .error(code::UNSUPPORTED, &SETTINGS.key("compensate"), message);
    }
    if context.settings.error_workflow.is_some() {
        let message = "this release cannot start an error workflow yet";
        context
            .problems
            .error(code::UNSUPPORTED, &SETTINGS.key("errorWorkflow"), message);
    }
    for name in IGNORED_SETTINGS {
        if context
            .definition
            .settings
            .get(name)
            .is_some_and(|value| !value.is_null())
        {
            ignored(context, &SETTINGS.key(name), name);
        }
    }
}

fn ignored(context: &mut Context<'_>, path: &Path<'_>, name: &str) {
    let message = format!("this release does not act on `{name}` yet");
    context
        .problems
        .push(Diagnostic::warning(code::UNSUPPORTED, path.pointer(), message));
}

fn check_cancels(context: &mut Context<'_>, cancels: &Value, path: &Path<'_>) {
    context.problems.error(
        code::UNSUPPORTED,
        path,
        "this release cannot run cancel regions (`cancels`) yet",
    );
    let Some(items) = cancels.as_array() else {
        context
            .problems
            .error(code::FIELD_TYPE, path, "`cancels` must be a list of node ids");
        return;
    };
    for (number, item) in items.iter().enumerate() {
        match item.as_str() {
            None => context
                .problems
                .error(code::FIELD_TYPE, &path.index(number), "a node id is a string"),
            Some(id) if !context.index.contains_key(id) => {
                let hint = context.node_hint(id);
                let message = format!("there is no node `{id}`");
                context
                    .problems
                    .error_hint(code::UNKNOWN_NODE, &path.index(number), message, hint);
            }
            Some(_) => {}
        }
    }
}

//! What parses but this release cannot run: refused by name instead of being ignored silently.

use super::{Context, NODES};
use crate::definition::{ConcurrencyLimit, Diagnostic, Node, NodeKind, Path, Problems, TimeoutSettings, code};

/// Node types this release cannot run.
const KINDS: [NodeKind; 2] = [NodeKind::Database, NodeKind::Publish];

/// Node fields that change nothing yet; leaving them out of account would surprise, so they earn a warning.
const IGNORED_FIELDS: [&str; 2] = ["heartbeatTimeout", "priority"];

pub(super) fn check(context: &mut Context<'_>) {
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        let data = path.key("data");
        let trigger = node
            .text_field("triggerType")
            .filter(|_| node.kind() == Some(NodeKind::Trigger));
        if let Some(word @ "scheduled") = trigger {
            let message =
                format!("this release does not fire `{word}` triggers yet; a start by hand or API still works");
            context
                .problems
                .warning(code::UNSUPPORTED, &data.key("triggerType"), message);
        }
        let bounded = ConcurrencyLimit::read(node, &path, &mut context.problems).is_some();
        if let Some(kind) = node.kind().filter(|kind| bounded && !dispatches(*kind)) {
            let message = format!(
                "a node of type `{}` has no attempts that `concurrency` could bound",
                kind.as_str()
            );
            context
                .problems
                .warning(code::UNSUPPORTED, &data.key("concurrency"), message);
        }
        let waits = node.kind() == Some(NodeKind::Webhook) && context.entries(at).next().is_some();
        check_node(node, &path, waits, &mut context.problems);
    }
}

/// Checks one node, or what undoes one.
pub(super) fn check_node(node: &Node, path: &Path<'_>, waits: bool, problems: &mut Problems) {
    let data = path.key("data");
    if let Some(kind) = node.kind().filter(|kind| KINDS.contains(kind)) {
        let message = format!("this release cannot run nodes of type `{}` yet", kind.as_str());
        problems.error(code::UNSUPPORTED, &path.key("type"), message);
    }
    if node.kind() == Some(NodeKind::Custom) && node.text_field("handlerId").is_none() {
        let message = "this release runs custom nodes by a registered handler only: `handlerId` is missing";
        problems.error(code::UNSUPPORTED, path, message);
    }
    // Reading them reports shapes that are wrong; the plan reads a template's number from the resolved data.
    TimeoutSettings::read(node, path, problems);
    let acts_on = |name: &str| waits && name == "heartbeatTimeout";
    for name in IGNORED_FIELDS
        .iter()
        .filter(|name| node.field(name).is_some() && !acts_on(name))
    {
        ignored(problems, &data.key(name), name);
    }
}

/// Whether nodes of this type have attempts that somebody carries out.
const fn dispatches(kind: NodeKind) -> bool {
    let waits = matches!(
        kind,
        NodeKind::Webhook | NodeKind::Subworkflow | NodeKind::ForEach | NodeKind::Loop
    );
    kind.has_attempts() && !waits
}

fn ignored(problems: &mut Problems, path: &Path<'_>, name: &str) {
    let message = format!("this release does not act on `{name}` yet");
    problems.push(Diagnostic::warning(code::UNSUPPORTED, path.pointer(), message));
}

//! What runs, but perhaps not as its author expects.

use super::{Context, NODES};
use crate::definition::retry::TIMEOUTS;
use crate::definition::{Diagnostic, EdgeKind, JoinSettings, Node, NodeKind, Problems, TimeoutSettings, code};

/// Ids named in one message.
const NAMED_MAX: usize = 5;

pub(super) fn check(context: &mut Context<'_>) {
    warn_of_unhandled_failures(context);
    warn_of_long_timers(context);
}

/// One warning for all nodes, at the first; an author who chose what follows a failure has thought of it.
fn warn_of_unhandled_failures(context: &mut Context<'_>) {
    let settings = &context.definition.settings;
    if ["onFailure", "errorWorkflow", "compensate"]
        .iter()
        .any(|name| settings.contains_key(*name))
    {
        return;
    }
    let handled = |at: usize| {
        context.outgoing[at]
            .iter()
            .any(|&edge| context.edge(edge).kind() == Some(EdgeKind::Failure))
    };
    let open: Vec<(usize, &str)> = context
        .nodes()
        .filter(|(at, node)| can_fail(node) && !handled(*at))
        .map(|(at, node)| (at, node.id.as_str()))
        .collect();
    let Some(&(first, _)) = open.first() else { return };
    let mut named = open
        .iter()
        .take(NAMED_MAX)
        .map(|(_, id)| format!("`{id}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if open.len() > NAMED_MAX {
        named = format!("{named} and {} more", open.len() - NAMED_MAX);
    }
    let message = format!("no failure edge leaves {named}: if retries do not help, the whole execution fails");
    let hint = "add an edge of type `failure`, or set `settings.onFailure` to show that this is meant".to_owned();
    let diagnostic = Diagnostic::warning(code::UNHANDLED_FAILURE, NODES.index(first).pointer(), message);
    context.problems.push(diagnostic.with_hint(hint));
}

/// A call fails nothing, only its absence does.
fn can_fail(node: &Node) -> bool {
    match node.kind() {
        Some(NodeKind::Webhook) => TIMEOUTS.iter().any(|name| node.field(name).is_some()),
        kind => kind.is_some_and(NodeKind::has_attempts),
    }
}

fn warn_of_long_timers(context: &mut Context<'_>) {
    let Some(most) = context.settings.timeout_ms else {
        return;
    };
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        let data = path.key("data");
        // Shapes were reported elsewhere.
        let mut unheard = Problems::default();
        let timeouts = TimeoutSettings::read(node, &path, &mut unheard);
        let join = JoinSettings::read(node, &path, &mut unheard);
        let fixed_delay = (node.kind() == Some(NodeKind::Delay) && node.text_field("delayType") == Some("fixed"))
            .then(|| node.field("delayValue").and_then(serde_json::Value::as_u64))
            .flatten();
        let total = timeouts.total_ms.as_ref().and_then(|setting| setting.fixed().copied());
        let wait = timeouts.attempt_ms.filter(|_| node.kind() == Some(NodeKind::Webhook));
        for (name, value) in [
            ("delayValue", fixed_delay),
            ("timeout", wait.as_ref().and_then(|setting| setting.fixed().copied())),
            ("totalTimeout", total),
            ("join", join.timeout_ms),
        ] {
            if let Some(value) = value.filter(|&value| value > most) {
                let message = format!("{value} ms is longer than the execution may take ({most} ms)");
                context
                    .problems
                    .warning(code::TIMER_BEYOND_TIMEOUT, &data.key(name), message);
            }
        }
    }
}

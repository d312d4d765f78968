//! What follows a failure or a cancellation: compensations and the error workflow.

use super::{Context, LanguageChecker, NODES, SETTINGS, kinds, support};
use crate::definition::compensation::NOT_IN_COMPENSATION;
use crate::definition::problems::did_you_mean_or_list;
use crate::definition::view::View;
use crate::definition::{COMPENSATION_KINDS, Diagnostic, Node, NodeKind, Path, Problems, code};

pub(super) fn check(context: &mut Context<'_>) {
    let handlers = context.checker.and_then(LanguageChecker::known_handlers);
    let compensates = context.settings.compensate;
    let mut can_compensate = false;
    for (at, node) in context.nodes() {
        if node.field("compensation").is_none() {
            continue;
        }
        can_compensate = true;
        let path = NODES.index(at);
        check_compensation(node, &path, handlers.as_deref(), &mut context.problems);
        if !compensates {
            let data = path.key("data");
            let message = "nothing runs this compensation: the workflow does not compensate";
            unused(
                &data.key("compensation"),
                message,
                "set `settings.compensate` to true",
                context,
            );
        }
    }
    if compensates && !can_compensate {
        let message = "there is nothing to compensate: no node has a `data.compensation`";
        let hint = "give each node that changes something outside what undoes it";
        unused(&SETTINGS.key("compensate"), message, hint, context);
    }
    check_error_workflow(context);
}

fn unused(path: &Path<'_>, message: &str, hint: &str, context: &mut Context<'_>) {
    let warning = Diagnostic::warning(code::COMPENSATION_UNUSED, path.pointer(), message);
    context.problems.push(warning.with_hint(Some(hint.to_owned())));
}

fn check_compensation(node: &Node, path: &Path<'_>, handlers: Option<&[String]>, problems: &mut Problems) {
    node.with_holder("compensation", path, |holder| {
        let place = holder.path("compensation");
        let view = View::of(holder.value("compensation")?, place, problems)?;
        view.warn_of_slips(&["type", "data"], problems);
        let data = view.object("data", problems);
        for name in NOT_IN_COMPENSATION {
            if data.is_some_and(|data| data.contains_key(name)) {
                let data = place.key("data");
                let message = format!("a compensation has no `{name}`");
                problems.error(code::INVALID_VALUE, &data.key(name), message);
            }
        }
        let Some(text) = view.text("type", problems) else {
            if view.value("type").is_none() {
                problems.error(code::MISSING_FIELD, &place, "a compensation needs a `type`");
            }
            return None;
        };
        if !NodeKind::parse(text).is_some_and(|kind| COMPENSATION_KINDS.contains(&kind)) {
            let message = format!("`{text}` is no type of a compensation");
            let hint = did_you_mean_or_list(text, &COMPENSATION_KINDS.map(NodeKind::as_str));
            problems.error_hint(code::INVALID_VALUE, &place.key("type"), message, hint);
            return None;
        }
        let compensation = node.compensation()?;
        kinds::check_node(&compensation, &place, handlers, problems);
        support::check_node(&compensation, &place, false, problems);
        Some(())
    });
}

/// Whether there is such a workflow is known when it is needed: it may be applied later.
fn check_error_workflow(context: &mut Context<'_>) {
    let Some(workflow) = context.settings.error_workflow.as_deref() else {
        return;
    };
    let problem = if workflow.trim().is_empty() {
        "`errorWorkflow` is the id of a workflow, this is empty"
    } else if workflow.contains('#') {
        "`#` cannot be part of a workflow's id"
    } else {
        return;
    };
    let path = SETTINGS.key("errorWorkflow");
    context.problems.error(code::INVALID_VALUE, &path, problem);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::problems;

    fn of(settings: Value, compensation: Value) -> Vec<String> {
        let node = json!({"id": "n", "type": "function", "data": {"handlerId": "noop", "compensation": compensation}});
        problems(json!({"id": "w", "settings": settings, "nodes": [node], "edges": []}))
    }

    fn compensated(compensation: Value) -> Vec<String> {
        of(json!({"compensate": true}), compensation)
    }

    #[test]
    fn a_compensation_is_checked_like_a_node() {
        let none: [&str; 0] = [];
        let at = "/nodes/0/data/compensation";
        for sound in [
            json!({"type": "function", "data": {"handlerId": "noop", "note": "{{ output.id }}", "inputMapping": {"a": "output"}}}),
            json!({"type": "function", "data": {"functionCode": "function f() {}", "functionName": "f", "timeout": 5}}),
            json!({"type": "http", "data": {"url": "https://a.test/{{ output.id }}", "method": "DELETE"}}),
            json!({"type": "transformation", "data": {"template": "{{ input }}"}}),
            json!({"type": "custom", "data": {"handlerId": "noop", "retryPolicy": {"maxAttempts": 9}}}),
        ] {
            assert_eq!(compensated(sound.clone()), none, "{sound}");
        }
        for (broken, expected) in [
            (json!([]), "FIELD_TYPE "),
            (json!({"data": {}}), "MISSING_FIELD "),
            (json!({"type": 5}), "FIELD_TYPE /type"),
            (json!({"type": "delay"}), "INVALID_VALUE /type"),
            (json!({"type": "database", "data": {}}), "UNSUPPORTED /type"),
            (json!({"type": "function"}), "MISSING_FIELD /data"),
            (
                json!({"type": "function", "data": {"handlerId": "none"}}),
                "UNKNOWN_HANDLER /data/handlerId",
            ),
            (json!({"type": "custom", "data": {}}), "UNSUPPORTED "),
            (
                json!({"type": "http", "data": {"url": "https://{{ BAD }}"}}),
                "TEMPLATE /data/url",
            ),
            (
                json!({"type": "function", "data": {"handlerId": "noop", "output": "BAD"}}),
                "EXPRESSION /data/output",
            ),
            (
                json!({"type": "function", "data": {"functionName": "f", "functionCode": "BAD"}}),
                "CODE /data/functionCode",
            ),
            (
                json!({"type": "function", "data": {"handlerId": "noop", "timeout": 0}}),
                "INVALID_VALUE /data/timeout",
            ),
            (
                json!({"type": "function", "data": {"handlerId": "noop", "retryPolicy": {"maxAttempts": 0}}}),
                "INVALID_VALUE /data/retryPolicy/maxAttempts",
            ),
            (
                json!({"type": "function", "data": {"handlerId": "noop", "join": {}}}),
                "INVALID_VALUE /data/join",
            ),
            (
                json!({"type": "function", "date": {}, "data": {"handlerId": "noop"}}),
                "UNKNOWN_FIELD? /date",
            ),
        ] {
            let (code, below) = expected.split_once(' ').unwrap_or_default();
            assert_eq!(compensated(broken.clone()), [format!("{code} {at}{below}")], "{broken}");
        }
    }

    #[test]
    fn what_compensates_nothing_is_told() {
        let undo = json!({"type": "function", "data": {"handlerId": "noop"}});
        assert_eq!(of(json!({}), undo), ["COMPENSATION_UNUSED? /nodes/0/data/compensation"]);
        let nothing = json!({"id": "w", "settings": {"compensate": true}, "edges": [],
            "nodes": [{"id": "n", "type": "function", "data": {"handlerId": "noop"}}]});
        assert_eq!(problems(nothing), ["COMPENSATION_UNUSED? /settings/compensate"]);
    }

    #[test]
    fn an_error_workflow_has_an_id() {
        let named = |name: Value| {
            let node = json!({"id": "n", "type": "function", "data": {"handlerId": "noop"}});
            problems(json!({"id": "w", "settings": {"errorWorkflow": name}, "nodes": [node], "edges": []}))
        };
        let none: [&str; 0] = [];
        assert_eq!(named(json!("alarm")), none);
        let at = "/settings/errorWorkflow";
        assert_eq!(named(json!(" ")), [format!("INVALID_VALUE {at}")]);
        assert_eq!(named(json!("w#n")), [format!("INVALID_VALUE {at}")]);
        assert_eq!(named(json!(5)), [format!("FIELD_TYPE {at}")]);
    }
}

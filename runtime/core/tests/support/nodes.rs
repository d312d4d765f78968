//! What random nodes and settings are made of.

use serde_json::{Map, Value, json};

use super::choices::Choices;

pub const KINDS: [&str; 10] = [
    "function",
    "function",
    "http",
    "decision",
    "trigger",
    "transformation",
    "delay",
    "custom",
    "decision",
    "function",
];

/// Conditions of edges that are taken after a completion.
pub const CONDITIONS: &[&str] = &[
    "true",
    "false",
    "output.ok",
    "output == 1",
    "variables.v0 == 1",
    "input.ok",
    "const:0",
    "const:\"\"",
    "const:\"x\"",
    "nodes.n0.status == \"completed\"",
    "nodes.n1.output.ok",
    "throw",
];

/// Conditions of failure edges.
pub const FAILURE_CONDITIONS: &[&str] = &[
    "true",
    "error.code == \"E1\"",
    "false",
    "error.details.hint == 1",
    "variables.v1 == true",
    "throw",
];

/// Sources of values.
const VALUES: &[&str] = &[
    "input",
    "const:1",
    "const:{\"ok\":true}",
    "trigger",
    "variables.v0",
    "nodes.n0.output",
    "input.ok",
    "const:null",
];

/// Data of a node, but for its join and a decision's conditions.
pub fn data(choices: &mut Choices<'_>, kind: &str, count: usize, place: usize) -> Map<String, Value> {
    let mut data = Map::new();
    let attempted = !matches!(kind, "decision" | "trigger" | "delay");
    if attempted {
        retry(choices, &mut data);
        if choices.one_in(5) {
            data.insert("totalTimeout".into(), json!(choices.pick(&[1, 700, 2_500, 60_000])));
        }
        if choices.one_in(6) {
            let note = choices.pick(&["{{input}}", "{{variables.v0}}", "{{throw}}", "{{nodes.n0.status}}"]);
            data.insert("note".into(), json!(note));
        }
        if choices.one_in(8) {
            data.insert(
                "outputSchema".into(),
                json!({"type": choices.pick(&["object", "boolean", "number"])}),
            );
        }
    }
    if kind == "trigger" {
        let types = ["manual", "api", "scheduled", "event"];
        data.insert("triggerType".into(), json!(choices.pick(&types)));
        data.insert("config".into(), json!({}));
    } else {
        if kind != "delay" && choices.one_in(5) {
            let second = if choices.one_in(8) {
                "throw"
            } else {
                *choices.pick(VALUES)
            };
            data.insert("inputMapping".into(), json!({"a": choices.pick(VALUES), "ok": second}));
        }
        if choices.one_in(12) {
            data.insert("inputSchema".into(), json!({"type": "object"}));
        }
    }
    if choices.one_in(6) {
        let expression = choices.pick(&["input", "const:{\"ok\":false}", "output.ok", "throw", "variables.v1"]);
        data.insert("output".into(), json!(expression));
    }
    if choices.one_in(4) {
        let mut mapping = Map::new();
        let first = choices.pick(&["output", "output.ok", "const:1", "variables.v1", "throw", "const:true"]);
        mapping.insert("v0".into(), json!(first));
        if choices.one_in(2) {
            mapping.insert(
                "v1".into(),
                json!(choices.pick(&["variables.v0", "const:true", "output"])),
            );
        }
        data.insert("outputMapping".into(), Value::Object(mapping));
    }
    if kind == "delay" {
        delay(choices, &mut data);
    }
    if choices.one_in(6) {
        data.insert("errorMode".into(), json!("first"));
    }
    debug_assert!(place < count);
    data
}

fn retry(choices: &mut Choices<'_>, data: &mut Map<String, Value>) {
    let jitter = *choices.pick(&["none", "full"]);
    let policy = match choices.below(8) {
        0 => json!({"maxAttempts": 1}),
        1 => return,
        2 => json!({"maxAttempts": 2, "backoffStrategy": "fixed", "initialDelay": 50, "jitter": jitter}),
        3 => json!({"maxAttempts": 4, "initialDelay": 100, "multiplier": 3, "maxDelay": 500, "jitter": jitter}),
        4 => json!({"maxAttempts": 3, "retryOn": ["E1", "TIMEOUT"], "initialDelay": 10, "jitter": jitter}),
        5 => json!({"maxAttempts": 5, "doNotRetryOn": ["E2"], "retryOn": ["E1", "E2"], "jitter": jitter}),
        6 => json!({"maxAttempts": 2, "jitter": jitter, "rules": [
            {"errors": ["E1"], "maxAttempts": 3, "backoffStrategy": "fixed", "initialDelay": 7, "maxDelay": 7},
            {"errors": ["E2", "TIMEOUT"], "maxAttempts": 1},
        ]}),
        _ => json!({"maxAttempts": 1, "jitter": jitter, "rules": [
            {"errors": ["E1"], "maxAttempts": 2, "initialDelay": 20, "maxDelay": 2_000},
            {"errors": ["*"], "maxAttempts": 2, "multiplier": 1.5, "initialDelay": 30, "maxDelay": 3_000},
        ]}),
    };
    if choices.one_in(6) {
        data.insert(
            "taskDefinition".into(),
            json!({"type": "function", "retryPolicy": policy}),
        );
    } else {
        data.insert("retryPolicy".into(), policy);
    }
}

fn delay(choices: &mut Choices<'_>, data: &mut Map<String, Value>) {
    let (kind, value) = match choices.below(9) {
        0 => ("fixed", json!(100)),
        1 => ("fixed", json!(0)),
        2 => ("fixed", json!(5_000)),
        3 => ("until", json!(super::duo::EPOCH + 3_000)),
        4 => ("until", json!("2026-09-21T15:33:21Z")),
        5 => ("until", json!("2001-01-01T00:00:00Z")),
        6 => ("expression", json!("const:250")),
        7 => ("expression", json!(format!("const:{}", super::duo::EPOCH + 9_000))),
        _ => (
            "expression",
            json!(choices.pick(&["input", "throw", "const:\"soon\"", "const:-5", "const:null"])),
        ),
    };
    data.insert("delayType".into(), json!(kind));
    data.insert("delayValue".into(), value);
}

/// Gives a decision conditions, and each of its success edges a reason to be there.
pub fn decision(
    choices: &mut Choices<'_>,
    data: &mut Map<String, Value>,
    edges: &mut [(&mut Map<String, Value>, usize)],
) {
    let expressions = [
        "input.ok",
        "true",
        "false",
        "variables.v0 == 1",
        "input == 1",
        "const:0",
        "throw",
    ];
    let ids = ["yes", "no", "maybe"];
    let used = choices.below(ids.len() + 1);
    let condition = |id: &&str, choices: &mut Choices<'_>| json!({"id": id, "expression": choices.pick(&expressions)});
    let conditions: Vec<Value> = ids[..used].iter().map(|id| condition(id, choices)).collect();
    data.insert("conditions".into(), Value::Array(conditions));
    if choices.one_in(3) {
        data.insert("mode".into(), json!("all"));
    }
    let mut default = None;
    for (edge, target) in edges.iter_mut() {
        let name = *choices.pick(&["condition", "sourceHandle", "label"]);
        match choices.below(3) {
            // Has an expression of its own, or is the default.
            0 if edge.contains_key("condition") => {}
            _ if used > 0 => {
                // What it asks beyond its condition stays, and another name may disagree.
                if !choices.one_in(3) {
                    edge.remove("condition");
                }
                edge.insert(name.into(), json!(choices.pick(&ids[..used])));
                if choices.one_in(4) {
                    edge.insert("label".into(), json!(choices.pick(&ids[..used])));
                }
            }
            _ if default.is_none_or(|known| known == *target) => {
                edge.remove("condition");
                default = Some(*target);
            }
            _ => {
                edge.insert("condition".into(), json!(choices.pick(&["input.ok", "false", "true"])));
            }
        }
    }
    if let Some(target) = default {
        data.insert("defaultPath".into(), json!(format!("n{target}")));
    } else if let (true, Some((_, target))) = (choices.one_in(3), edges.first()) {
        data.insert("defaultPath".into(), json!(format!("n{target}")));
    } else if used > 0 && choices.one_in(3) {
        data.insert("defaultPath".into(), json!(ids[0]));
    }
}

/// How a node joins edges from these parents, one each.
pub fn join(choices: &mut Choices<'_>, parents: &[usize]) -> Option<Value> {
    if parents.is_empty() || choices.one_in(3) {
        return None;
    }
    let mut join = Map::new();
    let mode = *choices.pick(&["all", "any", "allSuccess", "quorum"]);
    join.insert("mode".into(), json!(mode));
    if mode == "quorum" {
        // Duplicate edges are dropped later, but not so many that it matters: a quorum out of reach is lawful to run.
        join.insert("count".into(), json!(1 + choices.below(parents.len())));
    }
    if choices.one_in(4) {
        join.insert("required".into(), json!([format!("n{}", choices.pick(parents))]));
    }
    if choices.one_in(3) {
        join.insert("onUnsatisfied".into(), json!("fail"));
    }
    if choices.one_in(3) {
        join.insert("timeout".into(), json!(choices.pick(&[1, 100, 1_500, 20_000])));
        join.insert(
            "onTimeout".into(),
            json!(choices.pick(&["fail", "skip", "proceed", "proceed"])),
        );
    }
    Some(Value::Object(join))
}

/// Settings of the workflow.
pub fn settings(choices: &mut Choices<'_>, count: usize) -> Map<String, Value> {
    let mut settings = Map::new();
    if choices.one_in(2) {
        settings.insert("onFailure".into(), json!("continue"));
    }
    if choices.one_in(6) {
        settings.insert("timeout".into(), json!(choices.pick(&[900, 4_000, 100_000])));
    }
    if choices.one_in(3) {
        settings.insert("maxParallelNodes".into(), json!(1 + choices.below(3)));
    }
    if choices.one_in(5) {
        let expression = choices.pick(&["variables", "nodes.n0.output", "throw", "trigger.ok"]);
        settings.insert("output".into(), json!(expression));
    }
    if choices.one_in(2) {
        settings.insert(
            "variables".into(),
            json!({"v0": choices.below(2), "v1": null, "v2": "kept"}),
        );
    }
    debug_assert!(count > 0);
    settings
}

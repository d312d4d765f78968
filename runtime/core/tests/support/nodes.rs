//! What random nodes and settings are made of.

use serde_json::{Map, Value, json};

use super::choices::Choices;

pub const KINDS: [&str; 21] = [
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
    "end",
    "function",
    "end",
    "webhook",
    "webhook",
    "webhook",
    "webhook",
    "forEach",
    "loop",
    "subworkflow",
    "forEach",
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
    "execution.iteration == 2",
    "nodes.n3.status == \"completed\"",
    "nodes.n2.output.ok",
];

/// Conditions of edges that lead back to a loop's header.
pub const BACK_CONDITIONS: &[&str] = &[
    "execution.iteration != 3",
    "execution.iteration == 1",
    "execution.iteration != 2",
    "execution.iteration != 4",
    "input.ok",
    "nodes.n2.status == \"completed\"",
    "variables.v0 != 1",
    "false",
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
    "execution.iteration != 1",
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
    "execution.iteration",
    "nodes.n2.output",
];

/// Data of a node, but for its join and a decision's conditions.
pub fn data(choices: &mut Choices<'_>, kind: &str, count: usize, place: usize) -> Map<String, Value> {
    let mut data = Map::new();
    let lasts = !matches!(kind, "decision" | "trigger" | "delay" | "end");
    if lasts {
        if kind == "webhook" {
            webhook(choices, &mut data);
        } else {
            retry(choices, &mut data);
        }
        if choices.one_in(5) {
            data.insert("totalTimeout".into(), json!(choices.pick(&[1, 700, 2_500, 60_000])));
        }
        if choices.one_in(6) {
            let note = choices.pick(&[
                "{{input}}",
                "{{variables.v0}}",
                "{{throw}}",
                "{{nodes.n0.status}}",
                "{{nodes.n2.status}}",
            ]);
            data.insert("note".into(), json!(note));
        }
        if choices.one_in(8) {
            data.insert(
                "outputSchema".into(),
                json!({"type": choices.pick(&["object", "boolean", "number"])}),
            );
        }
    }
    children(choices, kind, &mut data);
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
        if kind != "end" && choices.one_in(12) {
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
    if kind == "end" {
        end(choices, &mut data);
    }
    if choices.one_in(6) {
        data.insert("errorMode".into(), json!("first"));
    }
    debug_assert!(place < count);
    data
}

/// What a node with child executions starts, if it is one.
fn children(choices: &mut Choices<'_>, kind: &str, data: &mut Map<String, Value>) {
    let mut set = |name: &str, value: Value| _ = data.insert(name.into(), value);
    match kind {
        "subworkflow" => {
            set("workflowId", json!("other"));
            let modes = ["attached", "", "detached", "{{const:\"attached\"}}", "{{const:3}}"];
            let mode = *choices.pick(&modes);
            if !mode.is_empty() && !choices.one_in(3) {
                set("mode", json!(mode));
            }
        }
        "forEach" => {
            set("workflowId", json!("other"));
            let items = [
                "const:[1,2,3]",
                "const:[8,9]",
                "const:[4,null,true,0]",
                "const:[{\"a\":1},null,\"x\",4,[5]]",
                "const:[0,1,2,3,4,5,6,7,8,9,10,11]",
                "input",
                "const:[]",
                "variables.v1",
                "const:[7]",
                "throw",
            ];
            set("items", json!(choices.pick(&items)));
            if choices.one_in(6) {
                set(
                    "wait",
                    json!(choices.pick(&[json!(false), json!(true), json!("{{const:false}}")])),
                );
            } else {
                for_each(choices, &mut set);
            }
            let at_once = [json!(1), json!(2), json!(3), json!("{{const:2}}"), json!("{{const:0}}")];
            if choices.one_in(2) {
                let which = if choices.one_in(9) { 4 } else { choices.below(4) };
                set("maxConcurrency", at_once[which].clone());
            }
        }
        "loop" => {
            set("workflowId", json!("other"));
            let expressions = [
                "output != 1",
                "variables.v0 != 1",
                "true",
                "output != 0",
                "input.ok",
                "false",
                "const:\"x\"",
                "throw",
            ];
            set("while", json!(choices.pick(&expressions)));
            set(
                "maxIterations",
                choices
                    .pick(&[json!(3), json!(1), json!(5), json!("{{const:2}}")])
                    .clone(),
            );
        }
        _ => {}
    }
}

fn for_each(choices: &mut Choices<'_>, set: &mut impl FnMut(&str, Value)) {
    if !choices.one_in(3) {
        let tolerated = [
            json!(1),
            json!(3),
            json!("50%"),
            json!("100%"),
            json!("33.4%"),
            json!("100%"),
            json!(9),
            json!("{{const:2}}"),
            json!("{{const:\"20%\"}}"),
            json!("{{const:-1}}"),
        ];
        set("toleratedFailures", choices.pick(&tolerated).clone());
    }
    if choices.one_in(4) {
        set(
            "succeedAfter",
            choices
                .pick(&[json!(1), json!(2), json!(4), json!("{{const:3}}")])
                .clone(),
        );
    }
}

fn webhook(choices: &mut Choices<'_>, data: &mut Map<String, Value>) {
    let waits = [json!(1), json!(700), json!("{{const:300}}")];
    let heartbeats = [json!(1), json!(700), json!(40), json!("{{const:500}}")];
    match choices.below(6) {
        0 => _ = data.insert("timeout".into(), choices.pick(&waits).clone()),
        1 | 2 => _ = data.insert("heartbeatTimeout".into(), choices.pick(&heartbeats).clone()),
        3 => {
            data.insert("timeout".into(), json!(500));
            data.insert("heartbeatTimeout".into(), json!(choices.pick(&[40, 500, 900])));
        }
        _ => {}
    }
    if choices.one_in(3) {
        let schema = json!({"type": choices.pick(&["object", "number"])});
        data.insert("payloadSchema".into(), schema);
    }
    if choices.one_in(2) {
        let templates = [
            "{{output.body}}",
            "{{output.body}}",
            "{{input}}",
            "{{variables.v0}}",
            "{{throw}}",
        ];
        data.insert("transformationTemplate".into(), json!(choices.pick(&templates)));
    }
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
        3 => ("until", json!(super::EPOCH + 3_000)),
        4 => ("until", json!("2026-09-21T15:33:21Z")),
        5 => ("until", json!("2001-01-01T00:00:00Z")),
        6 => ("expression", json!("const:250")),
        7 => ("expression", json!(format!("const:{}", super::EPOCH + 9_000))),
        _ => (
            "expression",
            json!(choices.pick(&["input", "throw", "const:\"soon\"", "const:-5", "const:null"])),
        ),
    };
    data.insert("delayType".into(), json!(kind));
    data.insert("delayValue".into(), value);
}

fn end(choices: &mut Choices<'_>, data: &mut Map<String, Value>) {
    let statuses = [
        "",
        "failed",
        "completed",
        "canceled",
        "failed",
        "{{const:\"failed\"}}",
        "{{const:\"odd\"}}",
        "{{const:3}}",
        "{{throw}}",
    ];
    let status = *choices.pick(&statuses);
    if !status.is_empty() {
        data.insert("status".into(), json!(status));
    }
    if choices.one_in(3) {
        let errors = [
            json!({"code": "ENOUGH", "message": "it is enough"}),
            json!({"message": "it is enough"}),
        ];
        data.insert("error".into(), choices.pick(&errors).clone());
    }
}

/// Nodes that a node cancels when it completes, of those in the same loop.
pub fn cancels(choices: &mut Choices<'_>, neighbours: &[usize]) -> Option<Value> {
    if neighbours.is_empty() || !choices.one_in(6) {
        return None;
    }
    let listed = (0..=choices.below(2)).map(|_| format!("n{}", choices.pick(neighbours)));
    Some(listed.collect())
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
        "execution.iteration != 3",
        "execution.iteration == 2",
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
    if choices.one_in(3) {
        join.insert("lateArrivals".into(), json!("cancel"));
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

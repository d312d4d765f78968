//! What random workflows undo when they do not complete, and whom they tell.

use serde_json::{Map, Value, json};

use super::choices::Choices;

/// Gives some nodes what undoes them; a spent tape gives none.
pub fn compensate(definition: &mut Value, choices: &mut Choices<'_>) {
    if choices.is_spent() || choices.one_in(3) {
        return;
    }
    definition["settings"]["compensate"] = json!(true);
    for node in definition["nodes"].as_array_mut().into_iter().flatten() {
        if !choices.one_in(4) {
            node["data"]["compensation"] = json!({"type": "function", "data": compensation(choices)});
        }
    }
}

/// Has some workflows start another one when they fail.
pub fn report(definition: &mut Value, choices: &mut Choices<'_>) {
    if choices.one_in(3) {
        definition["settings"]["errorWorkflow"] = json!("alarm");
    }
}

fn compensation(choices: &mut Choices<'_>) -> Map<String, Value> {
    let mut data = Map::new();
    let mut set = |name: &str, value: Value| _ = data.insert(name.into(), value);
    let policies = [
        json!({"maxAttempts": 1}),
        json!({"maxAttempts": 2, "backoffStrategy": "fixed", "initialDelay": 50, "jitter": "none"}),
        json!({"maxAttempts": 3, "initialDelay": 100, "jitter": "full"}),
        json!({"maxAttempts": 2, "retryOn": ["E1"], "initialDelay": 10, "jitter": "none"}),
    ];
    set("retryPolicy", choices.pick(&policies).clone());
    let values = [
        "output",
        "input",
        "input.ok",
        "output.ok",
        "error.code",
        "variables.v0",
        "variables.undone",
    ];
    if choices.one_in(3) {
        let second = if choices.one_in(6) {
            "throw"
        } else {
            *choices.pick(&values)
        };
        set("inputMapping", json!({"a": choices.pick(&values), "ok": second}));
    }
    if choices.one_in(4) {
        let note = choices.pick(&[
            "{{output}}",
            "{{error.code}}",
            "{{input.ok}}",
            "{{throw}}",
            "{{nodes.n0.status}}",
        ]);
        set("note", json!(note));
    }
    if choices.one_in(4) {
        set(
            "outputMapping",
            json!({"undone": choices.pick(&["output", "input.output", "variables.v0", "throw"])}),
        );
    }
    if choices.one_in(6) {
        set(
            "output",
            json!(choices.pick(&["input.output", "const:1", "throw", "execution.iteration"])),
        );
    }
    if choices.one_in(3) {
        set("totalTimeout", json!(choices.pick(&[1, 60, 5_000])));
    }
    if choices.one_in(6) {
        let key = choices.pick(&[
            "const:1",
            "input.output",
            "variables.v0",
            "execution.workflowId",
            "throw",
        ]);
        set("concurrency", json!({"limit": 1, "key": key}));
    }
    if choices.one_in(8) {
        set("inputSchema", json!({"type": choices.pick(&["object", "number"])}));
    }
    if choices.one_in(8) {
        set("outputSchema", json!({"type": choices.pick(&["object", "number"])}));
    }
    data
}

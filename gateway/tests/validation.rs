//! What the one validator says of code and expressions, as `troupe validate` shows it.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::{Value, json};

/// `severity code pointer: detail` of every problem.
fn problems(definition: &Value) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("w.json");
    std::fs::write(&path, serde_json::to_vec_pretty(definition).unwrap()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_troupe"))
        .args(["validate", "--json"])
        .arg(&path)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = &report["files"][0];
    let mut found: Vec<String> = file["problems"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|problem| problem["code"] != "UNHANDLED_FAILURE")
        .map(|problem| {
            assert!(problem["line"].as_u64().is_some_and(|line| line > 0), "{problem}");
            let part = |name: &str| problem[name].as_str();
            let severity = part("severity").unwrap_or("error");
            let [code, pointer, detail] = ["code", "pointer", "detail"].map(|name| part(name).unwrap());
            format!("{severity} {code} {pointer}: {detail}")
        })
        .collect();
    assert_eq!(file["valid"], !found.iter().any(|problem| problem.starts_with("error")));
    found.sort();
    found
}

#[test]
fn expressions_that_do_not_parse_are_refused_wherever_they_stand() {
    let map = json!({"transformationType": "map", "transformationConfig": {"source": "input.(", "expression": "item"}});
    let definition = json!({
        "id": "w", "name": "w", "settings": {"output": "(() => { return 1 +})()"},
        "nodes": [
            {"id": "a", "type": "function", "data": {"handlerId": "noop", "output": "x y"}},
            {"id": "b", "type": "function", "data": {"handlerId": "noop", "output": "a+"}},
            {"id": "c", "type": "transformation", "data": map},
            {"id": "d", "type": "http", "data": {"url": "https://example.com/{{ [1].map(function () { 1 + }) }}"}},
            {"id": "e", "type": "delay", "data": {"delayType": "expression", "delayValue": "{{ input.ms }}"}},
        ],
        "edges": [
            {"source": "a", "target": "b", "condition": "new Date( > 1"},
            {"source": "a", "target": "c", "condition": "inpt.x > 1"},
            {"source": "c", "target": "d", "condition": "new Date(input.at) > 1"},
            {"source": "d", "target": "e"},
        ],
    });
    let expected = [
        "error EXPRESSION_SYNTAX /edges/0/condition: `(` is not closed (at byte 8)",
        "error EXPRESSION_SYNTAX /nodes/0/data/output: unexpected `y` (at byte 2)",
        "error EXPRESSION_SYNTAX /nodes/1/data/output: expression ends too early (at byte 2)",
        "error EXPRESSION_SYNTAX /nodes/2/data/transformationConfig/source: a name is missing behind `.` (at byte 6)",
        "error EXPRESSION_SYNTAX /nodes/3/data/url: unexpected token in expression: '}' (at byte 49)",
        "error EXPRESSION_SYNTAX /nodes/4/data/delayValue: invalid property name (at byte 1)",
        "error EXPRESSION_SYNTAX /settings/output: unexpected token in expression: '}' (at byte 19)",
        "warning UNKNOWN_NAME /edges/1/condition: nothing gives `inpt` a value",
    ];
    assert_eq!(problems(&definition), expected);
}

#[test]
fn wrong_code_is_told_together_with_everything_else() {
    let definition = json!({
        "id": "w", "name": "w",
        "nodes": [
            {"id": "a", "type": "function", "data": {"functionName": "f", "functionCode": "function f( {"}},
            {"id": "b", "type": "function", "data": {"functionName": "f", "functionCode": " "}},
            {"id": "c", "type": "functoin", "data": {"output": "new Date(1 2)"}},
        ],
        "edges": [{"source": "a", "target": "b"}, {"source": "b", "target": "c"}],
    });
    let found = problems(&definition);
    let codes: Vec<&str> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    let expected = [
        "error EXPRESSION_SYNTAX /nodes/2/data/output",
        "error FUNCTION_CODE_INVALID /nodes/0/data/functionCode",
        "error FUNCTION_CODE_INVALID /nodes/1/data/functionCode",
        "error UNKNOWN_NODE_TYPE /nodes/2/type",
    ];
    assert_eq!(codes, expected, "{found:#?}");
}

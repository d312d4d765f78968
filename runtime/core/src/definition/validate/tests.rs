//! One small definition for each rule, the positions of the problems, and size.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::definition::{LanguageError, UnknownName};

/// A stand-in for the languages: a source that holds `BAD` does not parse.
struct Strict;

fn refuse(code: &'static str, source: &str) -> Result<(), LanguageError> {
    match source.find("BAD") {
        None => Ok(()),
        at => Err(LanguageError {
            code,
            message: format!("cannot read `{source}`"),
            offset: at,
        }),
    }
}

impl LanguageChecker for Strict {
    fn expression(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError> {
        let unknown = |name: &str| UnknownName {
            name: name.to_owned(),
            hint: Some("did you mean `input`?".to_owned()),
        };
        refuse("EXPRESSION", source).map(|()| source.matches("inpt").map(unknown).collect())
    }
    fn template(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError> {
        refuse("TEMPLATE", source).map(|()| Vec::new())
    }
    fn event_expression(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError> {
        refuse("EVENT_EXPRESSION", source).map(|()| Vec::new())
    }
    fn event_template(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError> {
        refuse("EVENT_TEMPLATE", source).map(|()| Vec::new())
    }
    fn jinja(&self, source: &str) -> Result<(), LanguageError> {
        refuse("JINJA", source)
    }
    fn schema(&self, schema: &Value) -> Result<(), LanguageError> {
        refuse("SCHEMA", &schema.to_string())
    }
    fn cron(&self, source: &str) -> Result<(), LanguageError> {
        refuse("CRON", source)
    }
    fn function_code(&self, code: &str, _function_name: &str) -> Result<(), LanguageError> {
        refuse("CODE", code)
    }
    fn known_handlers(&self) -> Option<Vec<String>> {
        Some(vec!["charge".to_owned(), "noop".to_owned()])
    }
}

fn definition(value: Value) -> WorkflowDefinition {
    serde_json::from_value(value).unwrap()
}

/// `code pointer` of every problem, sorted, warnings marked with `?`; the note on unhandled failures left out.
pub(super) fn problems(value: Value) -> Vec<String> {
    let mut found: Vec<String> = validate(&definition(value), Some(&Strict), &Limits::default())
        .into_iter()
        .filter(|problem| problem.code != "UNHANDLED_FAILURE")
        .map(|problem| {
            format!(
                "{}{} {}",
                problem.code,
                if problem.is_error() { "" } else { "?" },
                problem.pointer
            )
        })
        .collect();
    found.sort();
    found
}

fn noop(id: &str) -> Value {
    json!({"id": id, "type": "function", "data": {"handlerId": "noop"}})
}

fn with(id: &str, kind: &str, data: Value) -> Value {
    json!({"id": id, "type": kind, "data": data})
}

fn graph(ids: &[&str], pairs: &[(&str, &str)]) -> Value {
    let edges: Vec<Value> = pairs
        .iter()
        .map(|(source, target)| json!({"source": source, "target": target}))
        .collect();
    json!({"id": "w", "nodes": ids.iter().map(|id| noop(id)).collect::<Vec<_>>(), "edges": edges})
}

fn hint_of(value: Value, code: &str) -> Option<String> {
    let found = validate(&definition(value), Some(&Strict), &Limits::default());
    found.into_iter().find(|problem| problem.code == code).unwrap().hint
}

#[test]
fn a_sound_definition_has_no_problems() {
    let value = json!({
        "id": "order", "settings": {"onFailure": "failFast", "timeout": 60_000, "output": "nodes.ship.output"},
        "nodes": [
            with("start", "trigger", json!({"triggerType": "api"})),
            with("charge", "function", json!({"functionName": "f", "functionCode": "function f() {}", "timeout": 100})),
            with("check", "decision", json!({"conditions": [{"id": "big", "expression": "input.sum > 9"}], "defaultPath": "ship"})),
            with("review", "delay", json!({"delayType": "fixed", "delayValue": 10})),
            with("ship", "http", json!({"url": "https://example.com/{{ input.id }}", "method": "POST"})),
            with("shape", "transformation", json!({"transformationType": "map", "transformationConfig": {"expression": "item"}})),
            with("sorry", "custom", json!({"handlerId": "charge"})),
        ],
        "edges": [
            {"source": "start", "target": "charge"}, {"source": "charge", "target": "check"},
            {"source": "charge", "target": "sorry", "type": "failure", "errors": ["*"]},
            {"source": "check", "target": "review", "condition": "big"}, {"source": "check", "target": "ship"},
            {"source": "review", "target": "shape"},
        ],
    });
    assert_eq!(problems(value.clone()), Vec::<String>::new());
    assert_eq!(validate(&definition(value), Some(&Strict), &Limits::default()), []);
}

#[test]
fn ids_types_and_references() {
    let value = json!({"nodes": [
        noop("charge"), noop("charge"), noop(""), with("x", "functon", json!({})), with("y\n", "http", json!({"url": "http://a"})),
        {"id": "z"},
    ], "edges": [
        {"id": "e", "source": "charge", "target": "chargee"}, {"id": "e", "source": "charge", "target": "x", "type": "succes"},
        {"source": "", "target": "x"}, {"source": "charge", "target": "x"},
        {"source": "charge", "target": "x", "id": "twin"}, {"source": "charge", "target": "z", "errors": ["A"]},
    ]});
    assert_eq!(
        problems(value.clone()),
        [
            "DUPLICATE_EDGE /edges/4",
            "DUPLICATE_EDGE_ID /edges/1/id",
            "DUPLICATE_NODE_ID /nodes/1/id",
            "INVALID_VALUE /nodes/4/id",
            "INVALID_VALUE? /edges/5/errors",
            "MISSING_FIELD /edges/2",
            "MISSING_FIELD /nodes/2",
            "MISSING_FIELD /nodes/5",
            "UNKNOWN_EDGE_TYPE /edges/1/type",
            "UNKNOWN_NODE /edges/0/target",
            "UNKNOWN_NODE_TYPE /nodes/3/type",
        ]
    );
    assert_eq!(
        hint_of(value.clone(), "UNKNOWN_NODE").as_deref(),
        Some("did you mean `charge`?")
    );
    assert_eq!(
        hint_of(value.clone(), "UNKNOWN_NODE_TYPE").as_deref(),
        Some("did you mean `function`?")
    );
    assert_eq!(
        hint_of(value, "UNKNOWN_EDGE_TYPE").as_deref(),
        Some("did you mean `success`?")
    );
    assert_eq!(problems(json!({})), ["NO_NODES /nodes"]);
}

#[test]
fn limits_have_their_own_codes() {
    let limits = Limits {
        nodes_max: 2,
        edges_max: 1,
        id_bytes_max: 3,
        ..Limits::default()
    };
    let codes = |value: Value| -> Vec<&str> {
        let found = validate(&definition(value), None, &limits);
        found
            .into_iter()
            .filter(Diagnostic::is_error)
            .map(|problem| problem.code)
            .collect()
    };
    assert_eq!(
        codes(graph(&["a", "b", "c"], &[("a", "b"), ("b", "c")])),
        ["TOO_MANY_NODES", "TOO_MANY_EDGES"]
    );
    assert_eq!(codes(graph(&["abcd"], &[])), ["ID_TOO_LONG"]);
}

#[test]
fn cycles_and_what_no_root_reaches() {
    let ring = |extra: &[(&str, &str)]| {
        let edges = [&[("a", "b"), ("b", "c"), ("c", "b")], extra].concat();
        graph(&["a", "b", "c", "d"], &edges)
    };
    assert_eq!(problems(ring(&[("c", "d")])), ["LOOP_EXIT_DROPPED? /edges/3"]);
    assert_eq!(problems(ring(&[("a", "d")])), ["LOOP_WITHOUT_EXIT /nodes/1"]);
    assert_eq!(
        problems(ring(&[("a", "c"), ("c", "d")])),
        ["IRREDUCIBLE_CYCLE /nodes/1", "LOOP_EXIT_DROPPED? /edges/4"]
    );
    let unentered = graph(&["a", "b", "c", "d"], &[("b", "c"), ("c", "b"), ("c", "d")]);
    let expected = [
        "UNREACHABLE_NODE /nodes/1",
        "UNREACHABLE_NODE /nodes/2",
        "UNREACHABLE_NODE /nodes/3",
    ];
    assert_eq!(problems(unentered), expected);
    let own = graph(&["a", "b"], &[("a", "a"), ("a", "b")]);
    assert_eq!(problems(own), ["LOOP_EXIT_DROPPED? /edges/1"]);
}

#[test]
fn an_inner_cycle_with_two_doors_is_no_loop() {
    // The loop of `b` is natural; the cycle of `c` and `d` in it is entered at both.
    let edges = [
        ("a", "b"),
        ("b", "c"),
        ("b", "d"),
        ("c", "d"),
        ("d", "c"),
        ("d", "b"),
        ("b", "e"),
    ];
    let found = problems(graph(&["a", "b", "c", "d", "e"], &edges));
    let irreducible: Vec<_> = found
        .iter()
        .filter(|problem| problem.starts_with("IRREDUCIBLE_CYCLE"))
        .collect();
    assert_eq!(irreducible.len(), 1, "{found:?}");
}

#[test]
fn loops_nest_to_a_limit() {
    let nested = |depth: usize| {
        let ids: Vec<String> = (0..=depth + 1).map(|at| format!("n{at}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut edges: Vec<(&str, &str)> = ids.windows(2).map(|pair| (pair[0], pair[1])).collect();
        // All back edges leave the last node of the loops, so that each loop holds the next.
        edges.extend(ids[1..=depth].iter().map(|id| (ids[depth], *id)));
        let found = problems(graph(&ids, &edges));
        found
            .into_iter()
            .filter(|problem| !problem.contains('?'))
            .collect::<Vec<_>>()
    };
    assert_eq!(nested(32), [""; 0]);
    assert_eq!(nested(33), ["NESTING_TOO_DEEP /nodes/33"]);
}

/// A loop of `a` and the decision `d`, which goes back or on to `out`; `extra` nodes and edges besides.
fn decided_loop(extra: &[(&str, &str)]) -> Value {
    let mut nodes = vec![
        noop("start"),
        noop("a"),
        with(
            "d",
            "decision",
            json!({"conditions": [{"id": "again", "expression": "true"}],
        "defaultPath": "done"}),
        ),
        noop("out"),
    ];
    let mut edges = vec![
        json!({"id": "in", "source": "start", "target": "a"}),
        json!({"id": "on", "source": "a", "target": "d"}),
        json!({"id": "back", "source": "d", "target": "a", "condition": "again"}),
        json!({"id": "done", "source": "d", "target": "out"}),
    ];
    for (number, (source, target)) in extra.iter().enumerate() {
        if !["a", "d", "out"].contains(target) {
            nodes.push(noop(target));
        }
        edges.push(json!({"id": format!("x{number}"), "source": source, "target": target}));
    }
    json!({"nodes": nodes, "edges": edges})
}

#[test]
fn an_exit_that_competes_with_the_way_back_is_warned_of() {
    assert_eq!(problems(decided_loop(&[])), [""; 0]);
    assert_eq!(problems(decided_loop(&[("a", "log")])), ["LOOP_EXIT_DROPPED? /edges/4"]);
    let mut failing = decided_loop(&[("a", "log")]);
    failing["edges"][4]["type"] = json!("failure");
    assert_eq!(problems(failing), [""; 0], "a failure exit wins");
}

#[test]
fn fields_of_loops_regions_and_ends() {
    let mut value = decided_loop(&[]);
    value["nodes"][1]["data"]["maxIterations"] = json!(0);
    value["nodes"][3]["data"]["maxIterations"] = json!(3);
    let expected = [
        "INVALID_VALUE /nodes/1/data/maxIterations",
        "INVALID_VALUE? /nodes/3/data/maxIterations",
    ];
    assert_eq!(problems(value), expected);
    let mut value = decided_loop(&[]);
    value["nodes"][3]["data"]["cancels"] = json!(["d", "q", 5, "out"]);
    let expected = [
        "FIELD_TYPE /nodes/3/data/cancels/2",
        "INVALID_VALUE /nodes/3/data/cancels/0",
        "UNKNOWN_NODE /nodes/3/data/cancels/1",
    ];
    assert_eq!(problems(value), expected);
    let end = |data: Value| problems(json!({"nodes": [with("n", "end", data)]}));
    assert_eq!(
        end(json!({"status": "failed", "error": {"code": "X", "message": "{{ input.why }}"}})),
        [""; 0]
    );
    assert_eq!(end(json!({"status": "{{ input.status }}"})), [""; 0]);
    assert_eq!(end(json!({"status": "done"})), ["INVALID_VALUE /nodes/0/data/status"]);
    assert_eq!(
        end(json!({"error": {"code": 5}})),
        [
            "FIELD_TYPE /nodes/0/data/error/code",
            "INVALID_VALUE? /nodes/0/data/error"
        ]
    );
    let mut value = graph(&["a", "b"], &[("a", "b")]);
    value["nodes"][0] = with("a", "end", json!({}));
    assert_eq!(problems(value), ["INVALID_VALUE? /edges/0"]);
}

#[test]
fn nodes_with_children_and_their_bodies() {
    let of = |kind: &str, data: Value| problems(json!({"nodes": [with("n", kind, data)]}));
    let body = json!({"nodes": [noop("x"), noop("y")], "edges": [{"source": "x", "target": "y"}]});
    assert_eq!(of("subworkflow", json!({})), ["MISSING_FIELD /nodes/0/data"]);
    assert_eq!(
        of(
            "subworkflow",
            json!({"workflowId": "w", "mode": "detached", "version": 2})
        ),
        [""; 0]
    );
    let wrong = of("subworkflow", json!({"workflowId": "w", "mode": "loose", "version": 0}));
    assert_eq!(
        wrong,
        [
            "INVALID_VALUE /nodes/0/data/mode",
            "INVALID_VALUE /nodes/0/data/version"
        ]
    );
    let each =
        json!({"items": "input.list", "body": body, "toleratedFailures": "10%", "maxConcurrency": "{{ input.n }}"});
    assert_eq!(of("forEach", each), [""; 0]);
    let both = json!({"items": "[]", "body": body, "workflowId": "w", "toleratedFailures": "some", "wait": 1});
    let expected = [
        "INVALID_VALUE /nodes/0/data/toleratedFailures",
        "INVALID_VALUE /nodes/0/data/wait",
        "INVALID_VALUE /nodes/0/data/workflowId",
    ];
    assert_eq!(of("forEach", both), expected);
    assert_eq!(
        of("loop", json!({"while": "true", "maxIterations": 3, "body": body})),
        [""; 0]
    );
    assert_eq!(
        of("loop", json!({"while": "true", "body": []})),
        ["FIELD_TYPE /nodes/0/data/body", "MISSING_FIELD /nodes/0/data"]
    );
    let faulty =
        json!({"nodes": [noop("x"), {"id": "x", "type": "functoin"}], "edges": [{"source": "x", "target": "z"}]});
    let expected = [
        "DUPLICATE_NODE_ID /nodes/0/data/body/nodes/1/id",
        "UNKNOWN_NODE /nodes/0/data/body/edges/0/target",
        "UNKNOWN_NODE_TYPE /nodes/0/data/body/nodes/1/type",
    ];
    assert_eq!(of("forEach", json!({"items": "[1]", "body": faulty})), expected);
    let named = problems(json!({"id": "a#b", "nodes": [noop("x")]}));
    assert_eq!(named, ["INVALID_VALUE /id"]);
}

fn decision(data: Value, edges: Value) -> Vec<String> {
    problems(json!({"nodes": [with("d", "decision", data), noop("x"), noop("y")], "edges": edges}))
}

#[test]
fn decisions() {
    let conditions = json!([{"id": "high", "expression": "input.n > 1"}, {"id": "low", "expression": "input.n <= 1"}]);
    let good =
        json!([{"source": "d", "target": "x", "label": "high"}, {"source": "d", "target": "y", "sourceHandle": "low"}]);
    assert_eq!(decision(json!({"conditions": conditions}), good), Vec::<String>::new());
    let slips =
        json!([{"source": "d", "target": "x", "label": "hihg"}, {"source": "d", "target": "y", "condition": "hgih"}]);
    let found = decision(json!({"conditions": conditions, "mode": "both"}), slips.clone());
    let expected = [
        "CONDITION_WITHOUT_EDGE? /nodes/0/data/conditions/0",
        "CONDITION_WITHOUT_EDGE? /nodes/0/data/conditions/1",
        "DECISION_EDGE_UNMATCHED /edges/0",
        "DECISION_EDGE_UNMATCHED? /edges/1/condition",
        "INVALID_VALUE /nodes/0/data/mode",
    ];
    assert_eq!(found, expected);
    let value = json!({"nodes": [with("d", "decision", json!({"conditions": conditions})), noop("x"), noop("y")], "edges": slips});
    assert_eq!(
        hint_of(value, "DECISION_EDGE_UNMATCHED").as_deref(),
        Some("did you mean `high`?")
    );
    for (default, refused) in [("x", false), ("e", false), ("d", true), ("low", false)] {
        let edges = json!([
            {"id": "e", "source": "d", "target": "x"}, {"source": "d", "target": "y", "label": "low"},
            {"source": "d", "target": "y", "type": "failure"},
        ]);
        let one = json!([{"id": "low", "expression": "true"}]);
        let found = decision(json!({"conditions": one, "defaultPath": default}), edges);
        assert_eq!(
            found.iter().any(|line| line.starts_with("UNKNOWN_DEFAULT_PATH")),
            refused,
            "{default}"
        );
        let unmatched = found.iter().any(|line| line == "DECISION_EDGE_UNMATCHED /edges/0");
        assert_eq!(unmatched, default == "d" || default == "low", "{default}");
    }
    let broken = json!([{"id": "a", "expression": "1"}, {"id": "a", "expression": " "}, {"expression": 1}, 7]);
    let expected = [
        "CONDITION_WITHOUT_EDGE? /nodes/0/data/conditions/0",
        "CONDITION_WITHOUT_EDGE? /nodes/0/data/conditions/1",
        "DUPLICATE_CONDITION /nodes/0/data/conditions/1/id",
        "FIELD_TYPE /nodes/0/data/conditions/2/expression",
        "FIELD_TYPE /nodes/0/data/conditions/3",
        "MISSING_FIELD /nodes/0/data/conditions/1",
        "MISSING_FIELD /nodes/0/data/conditions/2",
    ];
    assert_eq!(decision(json!({"conditions": broken}), json!([])), expected);
    assert_eq!(decision(json!({}), json!([])), Vec::<String>::new());
}

fn join(join: Value) -> Vec<String> {
    let mut value = graph(&["a", "b", "j", "z"], &[("a", "j"), ("b", "j")]);
    value["nodes"][2]["data"]["join"] = join;
    problems(value)
}

#[test]
fn joins_that_can_never_be_met() {
    assert_eq!(
        join(json!({"mode": "quorum", "count": 2, "required": ["a"]})),
        Vec::<String>::new()
    );
    assert_eq!(
        join(json!({"mode": "quorum", "count": 3})),
        ["JOIN_IMPOSSIBLE /nodes/2/data/join/count"]
    );
    assert_eq!(join(json!({"mode": "quorum"})), ["MISSING_FIELD /nodes/2/data/join"]);
    let found = join(json!({"required": ["z", "aa", "b"], "onTimeout": "proceed"}));
    let expected = [
        "INVALID_VALUE? /nodes/2/data/join/onTimeout",
        "JOIN_IMPOSSIBLE /nodes/2/data/join/required/0",
        "UNKNOWN_NODE /nodes/2/data/join/required/1",
    ];
    assert_eq!(found, expected);
    let found = join(json!({"mode": "al", "onUnsatisfied": "x", "timeout": 0, "lateArivals": "ignore"}));
    let expected = [
        "INVALID_VALUE /nodes/2/data/join/mode",
        "INVALID_VALUE /nodes/2/data/join/onUnsatisfied",
        "INVALID_VALUE /nodes/2/data/join/timeout",
        "UNKNOWN_FIELD? /nodes/2/data/join/lateArivals",
    ];
    assert_eq!(found, expected);
    // Success and failure of one node exclude each other; its `always` edge goes with either.
    let mut value = json!({"nodes": [noop("a"), noop("j")], "edges": [
        {"source": "a", "target": "j", "type": "success"}, {"source": "a", "target": "j", "type": "failure"},
        {"source": "a", "target": "j", "type": "always"},
    ]});
    value["nodes"][1]["data"]["join"] = json!({"mode": "allSuccess"});
    assert_eq!(problems(value.clone()), ["JOIN_IMPOSSIBLE /nodes/1/data/join/mode"]);
    value["nodes"][1]["data"]["join"] = json!({"mode": "quorum", "count": 2});
    assert_eq!(problems(value), Vec::<String>::new());
}

#[test]
fn each_node_type_names_what_it_lacks() {
    let cases = [
        ("function", json!({}), vec!["MISSING_FIELD /nodes/0/data"]),
        (
            "function",
            json!({"functionCode": "x"}),
            vec!["MISSING_FIELD /nodes/0/data"],
        ),
        (
            "function",
            json!({"handlerId": "chrage"}),
            vec!["UNKNOWN_HANDLER /nodes/0/data/handlerId"],
        ),
        ("function", json!({"functionName": "noop"}), vec![]),
        ("function", json!({"taskDefinition": {"handlerId": "noop"}}), vec![]),
        (
            "function",
            json!({"taskDefinition": 5}),
            vec!["FIELD_TYPE /nodes/0/data/taskDefinition", "MISSING_FIELD /nodes/0/data"],
        ),
        ("custom", json!({}), vec!["UNSUPPORTED /nodes/0"]),
        (
            "custom",
            json!({"handlerId": "other"}),
            vec!["UNKNOWN_HANDLER /nodes/0/data/handlerId"],
        ),
        ("http", json!({}), vec!["MISSING_FIELD /nodes/0/data"]),
        (
            "http",
            json!({"taskDefinition": {"type": "http", "config": {"url": "https://a.test", "method": "GET"}}}),
            vec![],
        ),
        (
            "http",
            json!({"url": "https://a.test", "taskDefinition": {"config": {"url": 5, "method": "GRAB"}}}),
            vec!["INVALID_VALUE /nodes/0/data/taskDefinition/config/method"],
        ),
        // A handler's configuration is its own.
        (
            "function",
            json!({"taskDefinition": {"config": {"handlerId": "noop"}}}),
            vec!["MISSING_FIELD /nodes/0/data"],
        ),
        (
            "http",
            json!({"url": "{{ input.url }}", "method": "{{ input.m }}"}),
            vec![],
        ),
        (
            "http",
            json!({"url": "ftp://x", "method": "GETS", "headers": []}),
            vec![
                "FIELD_TYPE /nodes/0/data/headers",
                "INVALID_VALUE /nodes/0/data/method",
                "INVALID_VALUE /nodes/0/data/url",
            ],
        ),
        (
            "http",
            json!({"url": "http://x", "authentication": {"config": {}}}),
            vec!["MISSING_FIELD /nodes/0/data/authentication"],
        ),
        (
            "delay",
            json!({"delayType": "fixed"}),
            vec!["MISSING_FIELD /nodes/0/data"],
        ),
        (
            "delay",
            json!({"delayType": "fixed", "delayValue": -1}),
            vec!["INVALID_VALUE /nodes/0/data/delayValue"],
        ),
        ("delay", json!({"delayType": "fixed", "delayValue": "250"}), vec![]),
        (
            "delay",
            json!({"delayType": "until", "delayValue": "soon"}),
            vec!["INVALID_VALUE /nodes/0/data/delayValue"],
        ),
        (
            "delay",
            json!({"delayType": "until", "delayValue": "2030-01-01T00:00:00+02:00"}),
            vec![],
        ),
        (
            "delay",
            json!({"delayType": "expression", "delayValue": "BAD"}),
            vec!["EXPRESSION /nodes/0/data/delayValue"],
        ),
        (
            "transformation",
            json!({"transformationType": "map"}),
            vec!["MISSING_FIELD /nodes/0/data"],
        ),
        (
            "transformation",
            json!({"transformationType": "map", "transformationConfig": {}}),
            vec!["MISSING_FIELD /nodes/0/data/transformationConfig"],
        ),
        ("transformation", json!({"template": "{% if %}"}), vec![]),
        (
            "trigger",
            json!({"triggerType": "scheduled"}),
            vec!["MISSING_FIELD /nodes/0/data", "UNSUPPORTED? /nodes/0/data/triggerType"],
        ),
        (
            "trigger",
            json!({"triggerType": "scheduled", "config": {"cron": "BAD"}}),
            vec![
                "CRON /nodes/0/data/config/cron",
                "UNSUPPORTED? /nodes/0/data/triggerType",
            ],
        ),
        (
            "trigger",
            json!({"triggerType": "evnt"}),
            vec!["INVALID_VALUE /nodes/0/data/triggerType"],
        ),
    ];
    for (kind, data, expected) in cases {
        assert_eq!(
            problems(json!({"nodes": [with("n", kind, data.clone())]})),
            expected,
            "{kind} {data}"
        );
    }
}

#[test]
fn what_this_release_cannot_run_is_refused_by_name() {
    for kind in ["database", "publish"] {
        assert_eq!(
            problems(json!({"nodes": [with("n", kind, json!({}))]})),
            ["UNSUPPORTED /nodes/0/type"],
            "{kind}"
        );
    }
    let settings = json!({"concurrency": {"limit": 1, "key": "trigger.customer"}});
    let expected: [&str; 0] = [];
    assert_eq!(problems(json!({"settings": settings, "nodes": [noop("a")]})), expected);
}

#[test]
fn a_concurrency_limit_is_a_number_in_a_scope_with_a_key() {
    let of = |kind: &str, limit: Value| {
        let data = json!({"handlerId": "noop", "functionName": "f", "delayType": "fixed", "delayValue": 1, "concurrency": limit});
        problems(json!({"id": "w", "nodes": [with("n", kind, data)]}))
    };
    for sound in [
        json!({}),
        json!({"limit": 3}),
        json!({"key": "input.account", "scope": "global"}),
        json!({"limit": 1, "scope": "execution"}),
    ] {
        assert_eq!(of("function", sound.clone()), [""; 0], "{sound}");
    }
    let at = "/nodes/0/data/concurrency";
    for (limit, expected) in [
        (json!({"limit": 0}), format!("INVALID_VALUE {at}/limit")),
        (json!({"limit": "{{ input.n }}"}), format!("UNSUPPORTED {at}/limit")),
        (json!({"limit": "three"}), format!("FIELD_TYPE {at}/limit")),
        (json!({"scope": "shard"}), format!("INVALID_VALUE {at}/scope")),
        (json!({"scope": "global"}), format!("MISSING_FIELD {at}")),
        (json!({"key": 5}), format!("FIELD_TYPE {at}/key")),
        (json!({"key": "BAD"}), format!("EXPRESSION {at}/key")),
        (json!({"limt": 2}), format!("UNKNOWN_FIELD? {at}/limt")),
        (json!(3), format!("FIELD_TYPE {at}")),
    ] {
        assert_eq!(of("function", limit.clone()), [expected], "{limit}");
    }
    assert_eq!(of("delay", json!({"limit": 1})), [format!("UNSUPPORTED? {at}")]);
}

#[test]
fn whether_a_breaker_guards_a_node_is_fixed() {
    let of = |guarded: Value| {
        problems(json!({"id": "w", "nodes": [with("n", "function", json!({"handlerId": "noop", "breaker": guarded}))]}))
    };
    assert_eq!(of(json!(false)), [""; 0]);
    assert_eq!(of(json!("{{ input.guarded }}")), ["FIELD_TYPE /nodes/0/data/breaker"]);
}

#[test]
fn a_webhook_says_who_calls_and_how_calls_are_signed() {
    let of = |data: Value| problems(json!({"id": "w", "nodes": [with("h", "webhook", data)]}));
    let at = "/nodes/0/data";
    for sound in [
        json!({}),
        json!({"webhookId": "orders-1_a~b.c", "payloadSchema": {"type": "object"}}),
        json!({"provider": "github", "secret": "{{ secrets.HOOK }}"}),
        json!({"provider": "standard", "secret": "whsec_{{secrets.A}}{{ secrets.B_2 }}"}),
        json!({"provider": "generic", "secret": "{{ secrets.X }}",
            "signature": {"header": "X-Sig", "algorithm": "sha512", "encoding": "base64", "prefix": "v1="}}),
    ] {
        assert_eq!(of(sound.clone()), Vec::<String>::new(), "{sound}");
    }
    for (data, expected) in [
        (
            json!({"provider": "gitlab"}),
            vec![format!("INVALID_VALUE {at}/provider"), format!("MISSING_FIELD {at}")],
        ),
        (
            json!({"secret": "{{ secrets.X }}"}),
            vec![format!("MISSING_FIELD {at}")],
        ),
        (
            json!({"provider": "stripe", "secret": " "}),
            vec![format!("MISSING_FIELD {at}/secret")],
        ),
        (
            json!({"provider": "stripe", "secret": "hunter2"}),
            vec![format!("LITERAL_SECRET? {at}/secret")],
        ),
        (
            json!({"provider": "slack", "secret": "{{ input.s }}"}),
            vec![format!("INVALID_VALUE {at}/secret")],
        ),
        (
            json!({"provider": "slack", "secret": "{{ secrets.A }}{{ secrets.B || input.s }}"}),
            vec![format!("INVALID_VALUE {at}/secret")],
        ),
        (
            json!({"provider": "github", "secret": "{{ secrets.A }}", "signature": {}}),
            vec![format!("INVALID_VALUE {at}/signature")],
        ),
        (
            json!({"provider": "generic", "secret": "{{ secrets.A }}",
                "signature": {"header": "a b", "algorithm": "md5", "encoding": 1, "prefx": ""}}),
            vec![
                format!("FIELD_TYPE {at}/signature/encoding"),
                format!("INVALID_VALUE {at}/signature/algorithm"),
                format!("INVALID_VALUE {at}/signature/header"),
                format!("UNKNOWN_FIELD? {at}/signature/prefx"),
            ],
        ),
        (
            json!({"payloadSchema": 3}),
            vec![format!("FIELD_TYPE {at}/payloadSchema")],
        ),
        (
            json!({"heartbeatTimeout": 5}),
            vec![format!("UNSUPPORTED? {at}/heartbeatTimeout")],
        ),
        (
            json!({"correlationKey": "output.body.id", "timeout": 5}),
            vec![
                format!("INVALID_VALUE? {at}/correlationKey"),
                format!("INVALID_VALUE? {at}/timeout"),
            ],
        ),
    ] {
        assert_eq!(of(data.clone()), expected, "{data}");
    }
    for id in ["", "a/b", "a b", "é", ".", "..", "a?b", &"x".repeat(129)] {
        assert_eq!(
            of(json!({"webhookId": id})),
            [format!("INVALID_VALUE {at}/webhookId")],
            "{id}"
        );
    }
    let task = json!({"taskDefinition": {"config": {"webhookId": "a/b"}}});
    assert_eq!(
        of(task),
        [format!("INVALID_VALUE {at}/taskDefinition/config/webhookId")]
    );
}

#[test]
fn a_webhook_that_waits_has_timeouts_a_key_and_an_address_of_its_own() {
    let waiting = |data: Value| {
        let nodes = [noop("a"), with("h", "webhook", data)];
        json!({"id": "w", "settings": {"timeout": 100}, "nodes": nodes, "edges": [{"source": "a", "target": "h"}]})
    };
    let at = "/nodes/1/data";
    let sound = json!({"timeout": 10, "heartbeatTimeout": "{{ input.t }}", "correlationKey": "output.body.id",
        "transformationTemplate": {"output": "{{ output.body }}", "n": 1}});
    assert_eq!(problems(waiting(sound)), Vec::<String>::new());
    assert_eq!(
        problems(waiting(
            json!({"timeout": 101, "heartbeatTimeout": "soon", "correlationKey": "BAD",
            "transformationTemplate": {"output": ["{{ BAD }}"], "plain": "BAD"}})
        )),
        [
            format!("EXPRESSION {at}/correlationKey"),
            format!("FIELD_TYPE {at}/heartbeatTimeout"),
            format!("TEMPLATE {at}/transformationTemplate/output/0"),
            format!("TIMER_BEYOND_TIMEOUT? {at}/timeout"),
        ]
    );
    let named = |first: Value, second: Value| {
        let nodes = [with("h", "webhook", first), with("i", "webhook", second)];
        problems(json!({"id": "w", "nodes": nodes}))
    };
    assert_eq!(named(json!({}), json!({})), Vec::<String>::new());
    for first in [json!({"webhookId": "x"}), json!({"webhookId": "w.i"})] {
        let second = if first["webhookId"] == "x" {
            first.clone()
        } else {
            json!({})
        };
        let expected = ["DUPLICATE_WEBHOOK_ID /nodes/1/data/webhookId"];
        assert_eq!(named(first.clone(), second), expected, "{first}");
    }
    let warned = |data: Value| {
        let nodes = [
            with("a", "trigger", json!({"triggerType": "api"})),
            with("h", "webhook", data),
        ];
        let value = json!({"id": "w", "nodes": nodes, "edges": [{"source": "a", "target": "h"}]});
        validate(&definition(value), Some(&Strict), &Limits::default())
            .iter()
            .any(|one| one.code == "UNHANDLED_FAILURE")
    };
    assert!(warned(json!({"timeout": 5})) && !warned(json!({})));
}

#[test]
fn timeouts_may_be_templates_and_retry_policies_may_not() {
    let data = |timeouts: Value| {
        let mut data = timeouts;
        data["handlerId"] = json!("noop");
        problems(json!({"nodes": [with("a", "function", data)]}))
    };
    assert_eq!(
        data(json!({"timeout": "{{ input.t }}", "totalTimeout": "{{ input.t * 3 }}"})),
        Vec::<String>::new()
    );
    assert_eq!(
        data(json!({"taskDefinition": {"timeout": "{{ input.t }}"}})),
        Vec::<String>::new()
    );
    assert_eq!(
        data(json!({"timeout": "{{ BAD }}", "totalTimeout": "soon"})),
        [
            "FIELD_TYPE /nodes/0/data/totalTimeout",
            "TEMPLATE /nodes/0/data/timeout"
        ]
    );
    assert_eq!(
        data(json!({"retryPolicy": {"initialDelay": "{{ input.t }}"}})),
        ["UNSUPPORTED /nodes/0/data/retryPolicy/initialDelay"]
    );
}

#[test]
fn every_language_string_is_checked_where_it_stands() {
    let data = json!({
        "handlerId": "noop", "inputMapping": {"a/b": "BAD", "n": 5}, "outputMapping": {"v": "BAD"}, "output": "BAD",
        "inputSchema": {"BAD": 1}, "outputSchema": 3, "filter": "BAD", "cache": {"key": "BAD"},
        "text": "{{ BAD }}", "plain": "BAD", "deep": [{"x~": "{{BAD}}"}],
        "taskDefinition": {"config": {"y": "{{BAD}}"}},
    });
    let value = json!({
        "settings": {"output": "BAD", "inputSchema": {"x": "BAD"}},
        "nodes": [
            with("a", "function", data),
            with("d", "decision", json!({"conditions": [{"id": "BAD", "expression": "BAD"}]})),
            with("f", "function", json!({"functionName": "f", "functionCode": "BAD {{ BAD }}"})),
            with("t", "transformation", json!({"template": "BAD"})),
        ],
        "edges": [{"source": "a", "target": "d", "condition": "BAD"}, {"source": "d", "target": "f", "condition": "BAD"}],
    });
    let expected = [
        "CODE /nodes/2/data/functionCode",
        "EXPRESSION /edges/0/condition",
        "EXPRESSION /nodes/0/data/cache/key",
        "EXPRESSION /nodes/0/data/filter",
        "EXPRESSION /nodes/0/data/inputMapping/a~1b",
        "EXPRESSION /nodes/0/data/output",
        "EXPRESSION /nodes/0/data/outputMapping/v",
        "EXPRESSION /nodes/1/data/conditions/0/expression",
        "EXPRESSION /settings/output",
        "FIELD_TYPE /nodes/0/data/inputMapping/n",
        "FIELD_TYPE /nodes/0/data/outputSchema",
        "JINJA /nodes/3/data/template",
        "SCHEMA /nodes/0/data/inputSchema",
        "SCHEMA /settings/inputSchema",
        "TEMPLATE /nodes/0/data/deep/0/x~0",
        "TEMPLATE /nodes/0/data/taskDefinition/config/y",
        "TEMPLATE /nodes/0/data/text",
    ];
    assert_eq!(problems(value), expected);
}

#[test]
fn authentication_has_what_its_kind_needs() {
    let of = |authentication: Value| {
        let data = json!({"url": "https://example.com", "authentication": authentication});
        problems(json!({"id": "w", "nodes": [with("h", "http", data)], "edges": []}))
    };
    let config = "/nodes/0/data/authentication/config";
    for (authentication, expected) in [
        (json!({"type": "basic"}), vec![format!("MISSING_FIELD {config}")]),
        (json!({"type": "basic", "config": {"username": "u"}}), vec![]),
        (
            json!({"type": "bearer", "config": {"token": ""}}),
            vec![format!("MISSING_FIELD {config}/token")],
        ),
        (
            json!({"type": "bearer", "config": {"token": "{{ secrets.T }}"}}),
            vec![],
        ),
        (
            json!({"type": "apiKey", "config": {"value": 5}}),
            vec![format!("FIELD_TYPE {config}/value")],
        ),
        (
            json!({"type": "apiKey", "config": {"key": "k", "in": "body"}}),
            vec![format!("INVALID_VALUE {config}/in")],
        ),
        (
            json!({"type": "oauth2", "config": {}}),
            vec![format!("MISSING_FIELD {config}"); 3],
        ),
        (
            json!({"type": "oauth2", "config": {"tokenUrl": "x", "clientId": "c", "clientSecret": "s"}}),
            vec![format!("INVALID_VALUE {config}/tokenUrl")],
        ),
        (
            json!({"type": "oauth2", "config": {"tokenUrl": "{{ input.u }}", "clientId": "c", "clientSecret": "s"}}),
            vec![],
        ),
        (
            json!({"type": "bearer", "config": 5}),
            vec![format!("FIELD_TYPE {config}")],
        ),
    ] {
        assert_eq!(of(authentication.clone()), expected, "{authentication}");
    }
}

/// Problems of one transformation.
fn transformation(data: Value) -> Vec<String> {
    problems(json!({"id": "w", "nodes": [with("t", "transformation", data)], "edges": []}))
}

#[test]
fn a_source_is_an_expression_and_an_expression_no_template() {
    let of = |config| transformation(json!({"transformationType": "map", "transformationConfig": config}));
    let source = "/nodes/0/data/transformationConfig/source";
    assert_eq!(
        of(json!({"source": "BAD", "expression": "item"})),
        [format!("EXPRESSION {source}")]
    );
    assert_eq!(
        of(json!({"source": "{{ BAD }}", "expression": "item"})),
        [format!("TEMPLATE {source}")]
    );
    assert_eq!(
        of(json!({"source": ["BAD"], "expression": "item"})),
        Vec::<String>::new()
    );
    // The second is no template, although it has its braces.
    let expression = "/nodes/0/data/transformationConfig/expression";
    assert_eq!(
        of(json!({"expression": "`${{a: BAD}.a}`"})),
        [format!("EXPRESSION {expression}")]
    );
    // The nested form is the same.
    let nested = |config| transformation(json!({"taskDefinition": {"config": config}}));
    let at = "/nodes/0/data/taskDefinition/config";
    assert_eq!(
        nested(json!({"template": "{{ BAD }}"})),
        [format!("JINJA {at}/template")]
    );
    let config = json!({"expression": "`${{a: BAD}.a}`", "source": "BAD"});
    let config = json!({"transformationType": "map", "transformationConfig": config, "output": "BAD"});
    let expected = [
        "output",
        "transformationConfig/expression",
        "transformationConfig/source",
    ];
    assert_eq!(nested(config), expected.map(|field| format!("EXPRESSION {at}/{field}")));
    // What is no string is told once.
    let value = json!({"id": "w", "nodes": [with("a", "function", json!({"handlerId": "noop", "output": 5}))]});
    assert_eq!(problems(value), ["FIELD_TYPE /nodes/0/data/output"]);
}

#[test]
fn names_that_nothing_binds_are_warned_of() {
    let value = json!({
        "id": "w", "settings": {"output": "inpt.x"}, "nodes": [noop("a"), noop("b")],
        "edges": [{"source": "a", "target": "b", "condition": "inpt.x > 1"}],
    });
    assert_eq!(
        hint_of(value.clone(), "UNKNOWN_NAME").as_deref(),
        Some("did you mean `input`?")
    );
    assert_eq!(
        problems(value),
        ["UNKNOWN_NAME? /edges/0/condition", "UNKNOWN_NAME? /settings/output"]
    );
}

#[test]
fn settings_are_checked() {
    let settings = json!({"timeout": 1.5, "priority": 10, "onFailure": "failfast", "retention": {"completedMs": -1},
        "variables": [], "maxParallelNodes": 0, "timeuot": 1, "compensate": "yes"});
    let expected = [
        "FIELD_TYPE /settings/compensate",
        "FIELD_TYPE /settings/variables",
        "INVALID_VALUE /settings/maxParallelNodes",
        "INVALID_VALUE /settings/onFailure",
        "INVALID_VALUE /settings/priority",
        "INVALID_VALUE /settings/retention/completedMs",
        "INVALID_VALUE /settings/timeout",
        "UNKNOWN_FIELD? /settings/timeuot",
    ];
    let value = json!({"settings": settings, "nodes": [noop("a")]});
    assert_eq!(problems(value.clone()), expected);
    assert_eq!(
        hint_of(value, "UNKNOWN_FIELD").as_deref(),
        Some("did you mean `timeout`?")
    );
}

#[test]
fn parallel_writers_of_one_variable_are_warned_of_and_exclusive_ones_are_not() {
    let writer = |id: &str| {
        with(
            id,
            "function",
            json!({"handlerId": "noop", "outputMapping": {"x": "output"}}),
        )
    };
    let warned = |root: Value, first: Value, second: Value| {
        let value = json!({"nodes": [root, writer("a"), writer("b"), noop("end")], "edges": [
            first, second, {"source": "a", "target": "end"}, {"source": "b", "target": "end"},
        ]});
        problems(value)
            .iter()
            .any(|line| line == "PARALLEL_VARIABLE_WRITE? /nodes/2/data/outputMapping/x")
    };
    let edge = |source: &str, target: &str, more: Value| {
        let mut edge = json!({"source": source, "target": target});
        edge.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        edge
    };
    let choice = |mode: &str| {
        with(
            "r",
            "decision",
            json!({"mode": mode, "conditions": [
        {"id": "p", "expression": "1"}, {"id": "q", "expression": "1"}]}),
        )
    };
    let to_a = |more: Value| edge("r", "a", more);
    let to_b = |more: Value| edge("r", "b", more);
    assert!(warned(noop("r"), to_a(json!({})), to_b(json!({}))));
    assert!(!warned(noop("r"), to_a(json!({})), to_b(json!({"type": "failure"}))));
    assert!(warned(
        noop("r"),
        to_a(json!({"type": "always"})),
        to_b(json!({"type": "failure"}))
    ));
    assert!(
        !warned(noop("r"), to_a(json!({})), edge("a", "b", json!({}))),
        "one after the other"
    );
    assert!(!warned(
        choice("first"),
        to_a(json!({"label": "p"})),
        to_b(json!({"label": "q"}))
    ));
    assert!(warned(
        choice("first"),
        to_a(json!({"label": "p"})),
        to_b(json!({"label": "p"}))
    ));
    assert!(warned(
        choice("all"),
        to_a(json!({"label": "p"})),
        to_b(json!({"label": "q"}))
    ));
}

#[test]
fn timers_beyond_the_execution_and_unhandled_failures() {
    let value = json!({"settings": {"timeout": 1000}, "nodes": [
        with("a", "delay", json!({"delayType": "fixed", "delayValue": 1001})),
        with("b", "function", json!({"handlerId": "noop", "totalTimeout": 5000, "join": {"timeout": 2000}})),
        noop("c"),
    ], "edges": [{"source": "a", "target": "b"}, {"source": "b", "target": "c", "type": "failure"}]});
    let expected = [
        "TIMER_BEYOND_TIMEOUT? /nodes/0/data/delayValue",
        "TIMER_BEYOND_TIMEOUT? /nodes/1/data/join",
        "TIMER_BEYOND_TIMEOUT? /nodes/1/data/totalTimeout",
    ];
    assert_eq!(problems(value.clone()), expected);
    let unhandled = |value: Value| {
        let found = validate(&definition(value), None, &Limits::default());
        found
            .into_iter()
            .find(|problem| problem.code == "UNHANDLED_FAILURE")
            .map(|problem| (problem.pointer, problem.message))
    };
    let (pointer, message) = unhandled(value.clone()).unwrap();
    assert_eq!(pointer, "/nodes/2");
    assert!(message.contains("leaves `c`:"), "{message}");
    let mut meant = value;
    meant["settings"]["onFailure"] = json!("failFast");
    assert_eq!(unhandled(meant), None);
}

#[test]
fn check_gives_every_problem_its_place_in_the_file() {
    let text = "id: w\nnodes:\n  - id: start\n    type: trigger\n  - id: charge\n    type: functoin\nedges:\n  - source: start\n    target: chagre\n";
    let checked = check(text.as_bytes(), None, Some(&Strict), &Limits::default());
    assert_eq!(checked.definition, None);
    let found: Vec<String> = checked
        .diagnostics
        .iter()
        .map(|problem| {
            let position = problem.position.unwrap();
            format!("{}:{} {problem}", position.line, position.column)
        })
        .collect();
    let expected = [
        "6:11 UNKNOWN_NODE_TYPE: /nodes/1/type: `functoin` is no node type (did you mean `function`?)",
        "9:13 UNKNOWN_NODE: /edges/0/target: there is no node `chagre` (did you mean `charge`?)",
    ];
    assert_eq!(found, expected);
}

#[test]
fn hundred_thousand_nodes_and_as_many_mistakes_are_reported_within_bounds() {
    let count = 100_000;
    let ids: Vec<String> = (0..count).map(|at| format!("n{at}")).collect();
    let nodes: Vec<Value> = ids.iter().map(|id| noop(id)).collect();
    let edges: Vec<Value> = (0..count - 1)
        .map(|at| json!({"source": ids[at], "target": if at % 2 == 0 { "nowhere" } else { &ids[at + 1] }}))
        .collect();
    let value = json!({"id": "big", "nodes": nodes, "edges": edges});
    let found = validate(&definition(value), Some(&Strict), &Limits::default());
    assert_eq!(found.len(), crate::definition::PROBLEMS_LISTED_MAX + 1);
    assert_eq!(found.last().unwrap().code, "TOO_MANY_PROBLEMS");
    assert!(found.iter().any(|problem| problem.code == "UNKNOWN_NODE"));
}

/// Measured by hand: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures")]
fn measure_a_hundred_thousand_nodes() {
    let count = 100_000;
    let nodes: Vec<Value> = (0..count).map(|at| noop(&format!("n{at}"))).collect();
    let edges: Vec<Value> = (0..300_000)
        .map(|at: usize| {
            let from = at % (count - 1);
            let to = from + 1 + at / (count - 1) * 7;
            json!({"source": format!("n{from}"), "target": format!("n{}", to.min(count - 1)), "label": format!("{at}")})
        })
        .collect();
    let text = serde_json::to_vec(&json!({"id": "big", "nodes": nodes, "edges": edges})).unwrap();
    let start = std::time::Instant::now();
    let parsed = parse(&text, None, &Limits::default()).unwrap();
    println!("parse {} bytes: {} ms", text.len(), start.elapsed().as_millis());
    let start = std::time::Instant::now();
    let found = validate(&parsed.definition, Some(&Strict), &Limits::default());
    println!("validate: {} ms, {} problems", start.elapsed().as_millis(), found.len());
}

proptest! {
    #[test]
    fn what_validates_parses_again_from_its_own_text(
        kinds in prop::collection::vec(0..4_usize, 1..8),
        pairs in prop::collection::vec((0..8_usize, 0..8_usize, 0..4_usize), 0..10),
        extra in "[a-z]{1,6}",
    ) {
        let data = [
            ("function", json!({"handlerId": "noop", "timeout": 5})),
            ("http", json!({"url": "http://x/{{ input.id }}", "position": 1})),
            ("delay", json!({"delayType": "fixed", "delayValue": 1.0})),
            ("trigger", json!({})),
        ];
        let nodes: Vec<Value> = kinds.iter().enumerate().map(|(at, kind)| {
            let mut node = with(&format!("n{at}"), data[*kind].0, data[*kind].1.clone());
            node[&extra] = json!({"x": [at]});
            node
        }).collect();
        let words = [None, Some("success"), Some("failure"), Some("always")];
        let edges: Vec<Value> = pairs.iter()
            .filter(|(from, to, _)| from < to && *to < kinds.len())
            .map(|(from, to, word)| json!({"source": format!("n{from}"), "target": format!("n{to}"), "type": words[*word]}))
            .collect();
        let text = serde_json::to_vec(&json!({"id": "w", "nodes": nodes, "edges": edges})).unwrap();
        if let Some(definition) = check(&text, None, Some(&Strict), &Limits::default()).definition {
            let again = check(&serde_json::to_vec(&definition).unwrap(), None, Some(&Strict), &Limits::default());
            prop_assert_eq!(again.definition.as_ref(), Some(&definition));
            let yaml = definition.to_yaml().unwrap();
            let again = check(yaml.as_bytes(), Some(Format::Yaml), Some(&Strict), &Limits::default());
            prop_assert_eq!(again.definition.as_ref(), Some(&definition));
        }
    }
}

#[test]
fn a_cache_has_a_key_and_belongs_to_a_node_that_gives_something() {
    let cached = |kind: &str, cache: Value| {
        let data = json!({"handlerId": "noop", "url": "https://example.com", "method": "GET", "cache": cache});
        problems(json!({"nodes": [with("n", kind, data)]}))
    };
    let none: [&str; 0] = [];
    assert_eq!(cached("function", json!({"key": "input.id"})), none);
    assert_eq!(cached("http", json!({"key": "input.id", "ttl": 60_000})), none);
    assert_eq!(cached("function", json!(null)), none);
    assert_eq!(
        cached("function", json!({"ttl": 5})),
        ["MISSING_FIELD /nodes/0/data/cache"]
    );
    assert_eq!(
        cached("function", json!({"key": " "})),
        ["MISSING_FIELD /nodes/0/data/cache"]
    );
    assert_eq!(
        cached("function", json!("input.id")),
        ["FIELD_TYPE /nodes/0/data/cache"]
    );
    assert_eq!(
        cached("function", json!({"key": "BAD", "ttl": 0})),
        [
            "EXPRESSION /nodes/0/data/cache/key",
            "INVALID_VALUE /nodes/0/data/cache/ttl"
        ]
    );
    assert_eq!(
        cached("function", json!({"key": "input.id", "ttls": 5})),
        ["UNKNOWN_FIELD? /nodes/0/data/cache/ttls"]
    );
    assert_eq!(
        cached("decision", json!({"key": "input.id"})),
        ["INVALID_VALUE /nodes/0/data/cache"]
    );
}

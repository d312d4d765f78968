//! The wire format, parsing and source positions.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Every field of the specification's interfaces, unknown ones at every level, and the extensions.
fn full() -> Value {
    json!({
        "id": "order", "name": "Order", "description": "charges a card", "version": 3,
        "nodes": [{
            "id": "charge", "type": "function", "name": "Charge", "description": "d", "workflowId": "order",
            "version": 2, "position": {"x": 10, "y": -2.5, "z": 1},
            "data": {
                "functionName": "run", "functionCode": "function run() {}", "handlerId": "h", "inputSchema": {},
                "outputSchema": {"type": "object"}, "timeout": 5, "custom": [1, {"deep": null}],
                "retryPolicy": {"maxAttempts": 4, "rules": [{"errors": ["*"], "maxAttempts": 2}]},
                "join": {"mode": "quorum", "count": 2, "required": ["a"], "timeout": 9, "onTimeout": "proceed"},
                "taskDefinition": {"type": "x", "name": "n", "config": {"c": 1}, "timeout": 7},
                "compensation": {"type": "http", "data": {}}, "cancels": ["b"], "cache": {"key": "input.id"},
                "concurrency": {"key": "1", "limit": 1, "scope": "global"}, "errorMode": "first",
                "inputMapping": {"a": "input.a"}, "outputMapping": {"v": "output"}, "output": "output",
            },
            "metadata": {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z",
                "createdBy": "me", "tags": [], "category": "c", "isPublic": false, "status": "draft"},
            "selected": true,
        }],
        "edges": [{
            "id": "e", "source": "charge", "target": "charge", "type": "failure", "label": "l", "condition": "true",
            "sourceHandle": "s", "targetHandle": "t", "errors": ["TIMEOUT"], "data": {"k": 1}, "animated": true,
        }],
        "settings": {"timeout": 1000, "priority": 9, "onFailure": "continue", "later": 1},
        "metadata": {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "x", "createdBy": "me", "tags": ["a"], "team": 1},
        "processedGraph": {"paths": []},
        "$schema": "https://example.com/s.json",
    })
}

#[test]
fn every_field_survives_json_and_yaml() {
    let written = full();
    let read: WorkflowDefinition = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), written);
    let yaml = read.to_yaml().unwrap();
    let again = parse(yaml.as_bytes(), Some(Format::Yaml), &Limits::default()).unwrap();
    assert_eq!(again.into_definition().unwrap(), read);
}

#[test]
fn what_is_left_out_gets_sensible_defaults() {
    let read: WorkflowDefinition = serde_json::from_value(json!({
        "id": "w",
        "nodes": [{"id": "a", "type": "http", "name": "", "data": null}, {"id": "b", "type": "delay"}],
        "edges": [
            {"source": "a", "target": "b"}, {"source": "a", "target": "b", "type": "failure"},
            {"id": "a->b#3", "source": "a", "target": "b", "label": null}, {"source": "a", "target": "b", "id": ""},
        ],
    }))
    .unwrap();
    assert_eq!((read.name.as_str(), read.version, read.nodes[0].version), ("w", 1, 1));
    assert_eq!(read.nodes[0].name, "http Node");
    let ids: Vec<&str> = read.edges.iter().map(|edge| edge.id.as_str()).collect();
    assert_eq!(ids, ["a->b", "a->b#2", "a->b#3", "a->b#4"]);
    assert_eq!(read.edges[0].kind(), Some(EdgeKind::Default));
    assert_eq!(read.settings().unwrap(), Settings::default());
    assert_eq!(read.nodes[0].join().unwrap(), JoinSettings::default());
    assert_eq!(read.nodes[0].retry().unwrap(), None);
}

#[test]
fn direct_fields_win_over_the_nested_form() {
    let node: Node = serde_json::from_value(full()["nodes"][0].clone()).unwrap();
    assert_eq!(field(&node, "timeout"), Some(&json!(5)));
    assert_eq!(field(&node, "config"), Some(&json!({"c": 1})));
    assert_eq!(node.timeouts().unwrap().attempt_ms, Some(Setting::Fixed(5)));
    let retry = node.retry().unwrap().unwrap();
    assert_eq!(
        (retry.backoff.max_attempts, retry.rules[0].backoff.max_attempts),
        (4, 2)
    );
    assert_eq!(node.join().unwrap().mode, JoinMode::Quorum { count: 2 });
    let nested: Node = serde_json::from_value(json!({"id": "a", "type": "http", "data": {
        "timeout": null, "taskDefinition": {"timeout": "{{ input.ms }}", "retryPolicy": {"initialDelay": 5}}
    }}))
    .unwrap();
    assert_eq!(
        nested.timeouts().unwrap().attempt_ms,
        Some(Setting::Template("{{ input.ms }}".to_owned()))
    );
    assert_eq!(nested.retry().unwrap().unwrap().backoff.max_delay_ms, 500);
}

#[test]
fn views_report_what_is_wrong_where_it_is() {
    let node: Node = serde_json::from_value(json!({"id": "a", "data": {"taskDefinition": {
        "retryPolicy": {"maxAttempts": 0, "backoffStrategy": "exponental", "maxAtempts": 3}
    }}}))
    .unwrap();
    let problems = node.retry().unwrap_err();
    let found: Vec<(&str, &str)> = problems
        .iter()
        .map(|problem| (problem.code, problem.pointer.as_str()))
        .collect();
    let at = "/data/taskDefinition/retryPolicy";
    assert_eq!(
        found,
        [
            ("INVALID_VALUE", format!("{at}/maxAttempts").as_str()),
            ("INVALID_VALUE", format!("{at}/backoffStrategy").as_str()),
        ]
    );
    assert_eq!(problems[1].hint.as_deref(), Some("did you mean `exponential`?"));
}

#[test]
fn fields_of_the_wrong_shape_are_all_reported_and_kept() {
    let text = "{\n  \"id\": 7,\n  \"nodes\": [\n    {\"id\": \"a\", \"type\": [], \"position\": {\"x\": \"1\"}, \"data\": 3},\n    5\n  ],\n  \"edges\": [{\"source\": \"a\", \"target\": \"a\", \"label\": {}, \"errors\": [1]}]\n}";
    let parsed = parse(text.as_bytes(), None, &Limits::default()).unwrap();
    let found: Vec<(String, u32, u32)> = parsed
        .diagnostics
        .iter()
        .map(|problem| {
            let position = problem.position.unwrap();
            (
                format!("{} {}", problem.code, problem.pointer),
                position.line,
                position.column,
            )
        })
        .collect();
    let expected = [
        ("FIELD_TYPE /id", 2, 9),
        ("FIELD_TYPE /nodes/0/type", 4, 25),
        ("FIELD_TYPE /nodes/0/position/x", 4, 47),
        ("FIELD_TYPE /nodes/0/data", 4, 61),
        ("FIELD_TYPE /nodes/1", 5, 5),
        ("FIELD_TYPE /edges/0/label", 7, 53),
        ("FIELD_TYPE /edges/0/errors", 7, 67),
    ];
    let mut expected: Vec<(String, u32, u32)> = expected
        .iter()
        .map(|(text, line, column)| ((*text).to_owned(), *line, *column))
        .collect();
    let mut found_sorted = found;
    found_sorted.sort();
    expected.sort();
    assert_eq!(found_sorted, expected);
    assert_eq!(parsed.definition.nodes[0].extra["data"], 3);
    assert!(parsed.into_definition().is_err());
}

fn fault_of(text: impl AsRef<[u8]>, format: Option<Format>) -> (String, u32, u32) {
    let problems = parse(text.as_ref(), format, &Limits::default()).unwrap_err();
    let position = problems[0].position.unwrap_or(Position { line: 0, column: 0 });
    assert_eq!(problems.len(), 1);
    (problems[0].code.to_owned(), position.line, position.column)
}

fn at(code: &str, line: u32, column: u32) -> (String, u32, u32) {
    (code.to_owned(), line, column)
}

#[test]
fn unparsable_texts_give_one_coded_error_with_its_place() {
    assert_eq!(fault_of("{\n  \"id\": \"a\",\n}", None), at("INVALID_JSON", 3, 1));
    assert_eq!(fault_of("{\"id\": 1e999}", None), at("INVALID_JSON", 1, 12));
    assert_eq!(fault_of("", Some(Format::Json)), at("INVALID_JSON", 1, 1));
    assert_eq!(fault_of("{} {}", None), at("INVALID_JSON", 1, 4));
    assert_eq!(fault_of("{'a': 1}", None).0, "INVALID_JSON");
    assert_eq!(fault_of("{\"a\": 1 // c\n}", None).0, "INVALID_JSON");
    assert_eq!(fault_of("{\"a\": NaN}", None).0, "INVALID_JSON");
    assert_eq!(
        fault_of(b"{\"id\": \"\xc3\xa9\", \n\"b\": \"\xff\"}", None),
        at("INVALID_UTF8", 2, 7)
    );
    assert_eq!(fault_of("", None), at("INVALID_YAML", 1, 1));
    assert_eq!(fault_of("id: [a\nb: c", None).0, "INVALID_YAML");
    assert_eq!(fault_of("id: a\n---\nid: b", None), at("INVALID_YAML", 2, 1));
    assert_eq!(fault_of("a: &x 1\n<<: *x\n", None), at("INVALID_YAML", 2, 1));
    assert_eq!(fault_of("a: !ruby/object 1", None).0, "INVALID_YAML");
    assert_eq!(fault_of("a: .nan", None), at("INVALID_YAML", 1, 4));
    assert_eq!(fault_of("? [a]\n: 1", None).0, "INVALID_YAML");
    assert_eq!(fault_of("a: *nobody", None).0, "INVALID_YAML");
    assert_eq!(fault_of("a: &me [*me]", None).0, "INVALID_YAML");
    let large = parse(
        &[b' '; 101],
        None,
        &Limits {
            bytes_max: 100,
            ..Limits::default()
        },
    )
    .unwrap_err();
    assert_eq!(large[0].code, "DEFINITION_TOO_LARGE");
}

#[test]
fn deep_nesting_is_refused_wherever_it_stands() {
    let deep = 10_000;
    assert_eq!(fault_of("[".repeat(deep), None), at("NESTING_TOO_DEEP", 1, 101));
    assert_eq!(fault_of("{\"a\":".repeat(deep), None).0, "NESTING_TOO_DEEP");
    assert_eq!(fault_of("[".repeat(deep), Some(Format::Yaml)).0, "NESTING_TOO_DEEP");
    assert_eq!(fault_of("- ".repeat(deep), None).0, "NESTING_TOO_DEEP");
    assert_eq!(fault_of("{a: ".repeat(deep), Some(Format::Yaml)).0, "NESTING_TOO_DEEP");
    let indented: String = (0..deep / 10)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert_eq!(fault_of(indented, None).0, "NESTING_TOO_DEEP");
    let brackets_in_text = format!("{{\"id\": \"{}\\\"{}\"}}", "[".repeat(deep), "{".repeat(deep));
    assert!(parse(brackets_in_text.as_bytes(), None, &Limits::default()).is_ok());
    // Aliases can nest without any bracket.
    let mut text = "a0: &a0 [1]\n".to_owned();
    for level in 1..200 {
        text += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
    }
    assert_eq!(fault_of(text, None).0, "NESTING_TOO_DEEP");
}

#[test]
fn yaml_bombs_are_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", "));
    }
    assert_eq!(fault_of(text, None).0, "TOO_MANY_VALUES");
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
    assert_eq!(fault_of(long, None).0, "TOO_MANY_VALUES");
}

#[test]
fn duplicate_keys_are_reported_with_place_and_pointer() {
    let json = "{\"nodes\": [{\"id\": \"a\",\n \"type\": \"x\", \"id\": \"b\"}], \"m~/\": {\"k\": 1, \"k\": 2}}";
    let parsed = parse(json.as_bytes(), None, &Limits::default()).unwrap();
    let mut found: Vec<(&str, &str, u32)> = parsed
        .diagnostics
        .iter()
        .map(|problem| (problem.code, problem.pointer.as_str(), problem.position.unwrap().line))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("DUPLICATE_KEY", "/m~0~1/k", 1 + 1),
            ("DUPLICATE_KEY", "/nodes/0/id", 2)
        ]
    );
    let yaml = "nodes:\n  - id: a\n    id: b\n";
    let parsed = parse(yaml.as_bytes(), None, &Limits::default()).unwrap();
    assert_eq!(parsed.diagnostics[0].pointer, "/nodes/0/id");
    assert_eq!(parsed.diagnostics[0].position, Some(Position { line: 3, column: 9 }));
}

#[test]
fn one_long_key_above_many_problems_does_not_multiply() {
    let key = "k".repeat(1_000_000);
    let twins = r#""a":1,"#.repeat(20_000);
    let json = format!(r#"{{"id":"a","name":"a","nodes":[],"edges":[],"{key}":{{{twins}"z":1}}}}"#);
    let yaml = format!("id: a\nname: a\n? {key}\n: {{{}}}\n", "a: 1, ".repeat(20_000));
    for text in [json, yaml] {
        let problems = match parse(text.as_bytes(), None, &Limits::default()) {
            Ok(parsed) => parsed.diagnostics,
            Err(problems) => problems,
        };
        let listed: usize = problems
            .iter()
            .map(|problem| problem.pointer.len() + problem.message.len())
            .sum();
        assert!(listed < 8_000_000, "{listed}");
        assert_eq!(problems.last().unwrap().code, "TOO_MANY_PROBLEMS");
    }
}

#[test]
fn what_is_far_too_long_for_a_slip_gets_no_hint_and_is_quoted_in_part() {
    let long = "f".repeat(3_000_000);
    assert_eq!(closest(&long, ["function"]), None);
    assert_eq!(closest("functoin", [long.as_str(), "function"]), Some("function"));
    let mut problems = Problems::default();
    problems.error_hint(code::UNKNOWN_NODE_TYPE, &Path::root(), long.clone(), Some(long));
    let problem = problems.into_diagnostics().pop().unwrap();
    assert_eq!(problem.message.chars().count(), 2_001);
    assert!(problem.hint.unwrap().ends_with('…'));
}

#[test]
fn yaml_means_the_core_schema_and_keeps_places() {
    let text = "# order\nid: order\nversion: 2\nnodes:\n  - id: é\n    type: http\n    data: &d {url: 'x', on: yes, no: 0x1F, e: 1e3, n: ~, empty: , s: \"1\", big: 18446744073709551615, 200: ok, t: !!str 5}\n  - {id: b, type: http, data: *d}\n";
    let parsed = parse(text.as_bytes(), None, &Limits::default()).unwrap();
    assert_eq!(parsed.diagnostics, []);
    let expected = json!({"url": "x", "on": "yes", "no": 31, "e": 1000.0, "n": null, "empty": null, "s": "1",
        "big": 18_446_744_073_709_551_615_u64, "200": "ok", "t": "5"});
    assert_eq!(Value::Object(parsed.definition.nodes[0].data.clone()), expected);
    assert_eq!(parsed.definition.nodes[1].data, parsed.definition.nodes[0].data);
    let place = |pointer: &str| {
        let position = parsed.source.position(pointer);
        (position.line, position.column)
    };
    assert_eq!(place("/nodes/0/id"), (5, 9));
    assert_eq!(place("/nodes/0/data/url"), (7, 20));
    assert_eq!(
        place("/nodes/1/data/url"),
        (8, 31),
        "inside an alias, the alias is the place"
    );
    assert_eq!(
        place("/nodes/0/nothing/here"),
        (5, 5),
        "what is absent stands where its parent stands"
    );
    assert_eq!(place(""), (2, 1));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let parsed = parse("\u{feff}{\"id\": 1}".as_bytes(), None, &Limits::default()).unwrap();
    assert_eq!(parsed.diagnostics[0].position, Some(Position { line: 1, column: 8 }));
}

#[test]
fn codes_are_listed_once() {
    let mut seen = std::collections::HashSet::new();
    assert!(code::ALL.iter().all(|code| seen.insert(code)));
    assert!(code::ALL.contains(&"UNSUPPORTED"));
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[-+.0-9a-zA-Z~<>:#&*!|%@\\n ]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z~/0-9 ]{0,5}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Texts that look like definitions: tokens of both languages in any order.
fn token_soup() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\"a\"",
        "1",
        "-",
        "1e5",
        "null",
        "true",
        "\n",
        "  ",
        "- ",
        "? ",
        "&a ",
        "*a",
        "!!str ",
        "|\n",
        ">-\n",
        "#c",
        "'",
        "nodes",
        "id: ",
        "\"nodes\":",
        "\"id\":",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "<<: ",
        "\u{feff}",
        "é",
        "\t",
        "\r",
        "\u{0}",
        "\\ud800",
        "~",
        "0x",
        ".inf",
    ]);
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_parser_never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in [None, Some(Format::Json), Some(Format::Yaml)] {
            drop(parse(&bytes, format, &Limits::default()));
        }
    }

    #[test]
    fn the_parser_never_panics_on_nearly_right_texts(text in token_soup()) {
        for format in [None, Some(Format::Json), Some(Format::Yaml)] {
            if let Ok(parsed) = parse(text.as_bytes(), format, &Limits::default()) {
                // Whatever was read can be validated and analysed, valid or not.
                drop(validate(&parsed.definition, None, &Limits::default()));
                drop(crate::graph::analyze(&parsed.definition, &crate::graph::AnalyzeOptions::default()));
            }
        }
    }

    #[test]
    fn json_is_accepted_exactly_where_serde_json_accepts_it(text in token_soup()) {
        let ours = parse(text.as_bytes(), Some(Format::Json), &Limits::default()).is_ok();
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        prop_assert_eq!(ours, serde_json::from_str::<Value>(text).is_ok());
    }

    #[test]
    fn any_data_survives_json_and_yaml(data in json_values(), extra in json_values()) {
        let definition: WorkflowDefinition = serde_json::from_value(json!({
            "id": "w", "nodes": [{"id": "a", "type": "http", "data": {"d": data}}], "edges": [], "later": extra,
        })).unwrap();
        let text = serde_json::to_vec(&definition).unwrap();
        let again = parse(&text, Some(Format::Json), &Limits::default()).unwrap().into_definition().unwrap();
        prop_assert_eq!(&again, &definition);
        let yaml = definition.to_yaml().unwrap();
        let again = parse(yaml.as_bytes(), Some(Format::Yaml), &Limits::default());
        let again = again.unwrap_or_else(|problems| panic!("{problems:?} in\n{yaml}")).into_definition().unwrap();
        prop_assert_eq!(&again, &definition, "{}", yaml);
    }
}

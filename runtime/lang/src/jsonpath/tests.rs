//! The evaluator against `serde_json_path` on generated queries and values.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::expression::Expression;
use crate::scope::Scope;

/// What the other implementation gives, in the shape of ours; the error is that it does not parse.
fn reference(query: &str, root: &Value) -> Result<Value, ()> {
    let path = serde_json_path::JsonPath::parse(query).map_err(|_| ())?;
    let nodes = path.query(root).all();
    Ok(match nodes[..] {
        [] => Value::Null,
        [one] => one.clone(),
        _ => Value::Array(nodes.into_iter().cloned().collect()),
    })
}

fn check(query: &str, input: &Value) -> Result<(), TestCaseError> {
    let theirs = reference(query, &json!({"input": input}));
    match (Expression::compile(query), theirs) {
        (Ok(path), Ok(theirs)) => {
            let ours = path
                .evaluate(&Scope::new().bind("input", input))
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(ours, theirs, "{} on {}", query, input);
        }
        (Err(_), Err(())) => {}
        (ours, theirs) => prop_assert!(false, "{query}\n ours {:?}\n theirs {theirs:?}", ours.map(|_| "parses")),
    }
    Ok(())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        (-3i64..6).prop_map(|n| json!(n)),
        Just(json!(1.5)),
        prop::sample::select(vec!["", "a", "b", "ab", "é"]).prop_map(|s| json!(s)),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((prop::sample::select(vec!["a", "b", "c", "é"]), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

fn query() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec![
        ".a",
        ".b",
        "['a']",
        "[\"b\"]",
        "[0]",
        "[-1]",
        "[1:]",
        "[:2]",
        "[::2]",
        "[::-1]",
        "[-2:0:-1]",
        "[::0]",
        "[*]",
        ".*",
        "..a",
        "..*",
        "..[0]",
        "['a', 'b']",
        "[0, *]",
        ".é",
        "[ 'a' , 0 ]",
        "['\\u0061']",
        "[01]",
        "[-0]",
        ".1",
        ".",
        "['a]",
        "[9007199254740992]",
        " .a",
        "[\"\\'\"]",
        "[1:2:3]",
        "[ 1 : 2 ]",
    ])
    .prop_map(str::to_owned);
    let operand = prop::sample::select(vec![
        "@.a",
        "@",
        "@[0]",
        "@.*",
        "$.input.a",
        "1",
        "1.5",
        "-0",
        "'a'",
        "true",
        "null",
        "length(@)",
        "length(@.a)",
        "count(@.*)",
        "value(@..a)",
        "@.a.b",
        "1e0",
        "01",
        "length(@.*)",
        "count(1)",
        "nope(@)",
        "match(@, 'a')",
    ]);
    let comparison = prop::sample::select(vec!["==", "!=", "<", ">", "="]);
    let test = prop_oneof![
        3 => (operand.clone(), comparison, operand.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => operand.prop_map(str::to_owned),
        1 => prop::sample::select(vec!["match(@, 'a.?')", "search(@, 'b')", "match(@.a, @.b)", "@.a == @.b", "!(@.a)", "!@.a", "search(@, '(')"]).prop_map(str::to_owned),
    ];
    let filter = prop_oneof![
        3 => test.clone().prop_map(|test| format!("[?{test}]")),
        1 => (test.clone(), prop::sample::select(vec!["&&", "||"]), test.clone()).prop_map(|(a, op, b)| format!("[?{a} {op} {b}]")),
        1 => (test.clone(), test).prop_map(|(a, b)| format!("[?({a}) && !({b}), 0]")),
    ];
    let segment = prop_oneof![4 => plain, 2 => filter];
    prop::collection::vec(segment, 0..4).prop_map(|segments| format!("$.input{}", segments.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn generated_queries_agree_with_the_reference(query in query(), input in value()) {
        check(&query, &input)?;
    }

    #[test]
    fn arbitrary_queries_never_panic(query in "\\$([.\\[\\]?@*:'a0-9 (),=<>!&|-]|\\PC){0,24}") {
        if let Ok(path) = Expression::compile(&query) {
            prop_assert!(path.evaluate(&Scope::new()).is_ok() || path.class() == crate::Class::Sandbox || !query.is_empty());
        }
    }
}

/// The reference gets "nothing is at most nothing" wrong, so these comparisons have a test of their own.
#[test]
fn at_most_and_at_least_are_less_or_equal() {
    let input = json!([1, 2, "a", null, true]);
    let eval = |query: &str| {
        Expression::compile(query)
            .unwrap()
            .evaluate(&Scope::new().bind("input", &input))
    };
    for (query, expected) in [
        ("$.input[?@ <= 1]", json!(1)),
        ("$.input[?@ >= 2]", json!(2)),
        ("$.input[?@ <= 'a']", json!("a")),
        ("$.input[?@ >= null]", json!(null)),
        ("$.input[?@ <= true]", json!(true)),
        ("$.input[?@.x <= @.y]", json!([1, 2, "a", null, true])),
        ("$.input[?@.x <= 1]", json!(null)),
    ] {
        assert_eq!(eval(query), Ok(expected), "{query}");
    }
}

#[test]
fn conditions_hold_when_something_matches() {
    let input = json!({"a": 0, "list": [0, 0], "s": "x", "none": null});
    let holds = |query: &str| {
        Expression::compile(query)
            .unwrap()
            .evaluate_condition(&Scope::new().bind("input", &input))
    };
    for (query, expected) in [
        ("$.input.a", false),
        ("$.input.s", true),
        ("$.input.list", true),
        ("$.input.list[*]", true),
        ("$.input.zzz", false),
        ("$.input.none", false),
        ("$.input[?@ == 'x']", true),
        ("$.input[?@ == 'y']", false),
    ] {
        assert_eq!(holds(query), Ok(expected), "{query}");
    }
}

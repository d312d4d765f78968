//! The evaluator against QuickJS on generated expressions: the same value, or both throw.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Class, Expression};
use crate::scope::Scope;

/// What QuickJS gives for the source, as JSON text; nothing where it throws.
fn quickjs(source: &str, input: &Value) -> Option<Value> {
    thread_local! {
        static CONTEXT: (rquickjs::Runtime, rquickjs::Context) = {
            let runtime = rquickjs::Runtime::new().unwrap();
            let context = rquickjs::Context::full(&runtime).unwrap();
            (runtime, context)
        };
    }
    CONTEXT.with(|(_, context)| {
        context.with(|ctx| {
            let program = format!(
                "(() => {{ const input = JSON.parse({}); const value = (\n{source}\n); const text = JSON.stringify(value); return text === undefined ? 'null' : text; }})()",
                serde_json::to_string(&input.to_string()).unwrap()
            );
            let mut options = rquickjs::context::EvalOptions::default();
            options.strict = false;
            match ctx.eval_with_options::<String, _>(program, options) {
                Ok(text) => Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{source}: {text}: {error}"))),
                Err(_) => {
                    ctx.catch();
                    None
                }
            }
        })
    })
}

/// Whether QuickJS accepts the source as an expression; in two kinds of brackets, so that it cannot close them.
fn quickjs_parses(source: &str) -> bool {
    let runtime = rquickjs::Runtime::new().unwrap();
    let context = rquickjs::Context::full(&runtime).unwrap();
    context.with(|ctx| {
        ["(", "["].iter().zip([")", "]"]).all(|(open, close)| {
            let body = serde_json::to_string(&format!("return {open}\n{source}\n{close}")).unwrap();
            let program =
                format!("(() => {{ try {{ new Function({body}); return true; }} catch (e) {{ return false; }} }})()");
            ctx.eval::<bool, _>(program).unwrap_or(false)
        })
    })
}

fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => ours == theirs,
    }
}

fn check(source: &str, input: &Value) -> Result<(), TestCaseError> {
    let Ok(expression) = Expression::compile(source) else {
        prop_assert!(!quickjs_parses(source), "rejected here, accepted by QuickJS: {source}");
        return Ok(());
    };
    if expression.class() != Class::Safe {
        return Ok(());
    }
    let ours = expression.evaluate(&Scope::new().bind("input", input));
    let theirs = quickjs(source, input);
    match (&ours, &theirs) {
        (Ok(ours), Some(theirs)) => prop_assert!(
            same(ours, theirs),
            "{source}\n on {input}\n ours {ours}\n QuickJS {theirs}"
        ),
        (Err(_), None) => {}
        // Limits and lookups of built-in methods are refused here only.
        (Err(error), Some(_)) if is_own_refusal(error.message()) => {}
        _ => prop_assert!(false, "{source}\n on {input}\n ours {ours:?}\n QuickJS {theirs:?}"),
    }
    Ok(())
}

fn is_own_refusal(message: &str) -> bool {
    message.contains("not supported")
        || message.contains("built-in")
        || message.contains("number out of range")
        || message.contains("too ")
        || message.contains("invalid string length")
}

fn leaf_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        (-20i64..20).prop_map(|n| json!(n)),
        prop::sample::select(vec![
            0.5,
            -1.5,
            2.5,
            1e21,
            1e-7,
            123_456_789.125,
            4_294_967_296.0,
            -2_147_483_649.0,
            1e300
        ])
        .prop_map(|n| json!(n)),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(|n| json!(n)),
        prop::sample::select(vec![
            "",
            "a",
            "abc",
            "A b",
            " 12 ",
            "0x1f",
            "-3.5e2",
            "1e400",
            "héllo",
            "世x世",
            "Infinity",
            "length",
            "0",
            "1",
            "toString",
            "ß",
            "\u{FEFF}x\u{85}",
            "\u{E000}",
            "a,b,,c",
            "$&$$"
        ])
        .prop_map(|s| json!(s)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf_value().prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec(
                (
                    prop::sample::select(vec!["a", "b", "c", "1", "0", "length", "map", "toString", "s", "list"]),
                    inner
                ),
                0..4
            )
            .prop_map(|members| Value::Object(members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

fn scope_value() -> impl Strategy<Value = Value> {
    (value(), value(), prop::collection::vec(value(), 0..5), leaf_value())
        .prop_map(|(a, b, list, s)| json!({"a": a, "b": b, "list": list, "s": s}))
}

fn literal() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "0",
        "1",
        "-1",
        "2.5",
        ".5",
        "1e3",
        "1e21",
        "0.000001",
        "1e-7",
        "0xff",
        "0b11",
        "1_000",
        "NaN",
        "Infinity",
        "null",
        "undefined",
        "true",
        "false",
        "''",
        "'a'",
        "\"b\"",
        "'12'",
        "' 3 '",
        "'abc,def'",
        "'\\u00e9\\n\\x41'",
        "'世'",
        "[]",
        "{}",
        "[1, 2, 3]",
        "['b', , 'a']",
        "['x', 'y']",
        "({a: 1, '1': 2})",
        "input",
        "input.a",
        "input.b",
        "input.list",
        "input.s",
        "input.zzz",
        "9007199254740993",
        "4294967295",
        "Math.PI",
    ])
    .prop_map(str::to_owned)
}

fn binary() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "+", "-", "*", "/", "%", "**", "==", "!=", "===", "!==", "<", "<=", ">", ">=", "&&", "||", "??", "in", "&",
        "|", "^", "<<", ">>", ">>>", "+", "==", "<", ",", "=",
    ])
}

fn method() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "at",
        "charAt",
        "charCodeAt",
        "codePointAt",
        "concat",
        "endsWith",
        "flat",
        "hasOwnProperty",
        "includes",
        "indexOf",
        "join",
        "lastIndexOf",
        "padEnd",
        "padStart",
        "repeat",
        "replace",
        "replaceAll",
        "slice",
        "split",
        "startsWith",
        "substring",
        "toFixed",
        "toLowerCase",
        "toReversed",
        "toString",
        "toUpperCase",
        "trim",
        "trimEnd",
        "trimStart",
    ])
}

fn callback_method() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "every",
        "filter",
        "find",
        "findIndex",
        "findLast",
        "findLastIndex",
        "flatMap",
        "map",
        "reduce",
        "reduceRight",
        "some",
    ])
}

fn global() -> impl Strategy<Value = &'static str> {
    prop::sample::select(super::SAFE_FUNCTIONS.to_vec())
}

fn expression() -> impl Strategy<Value = String> {
    literal().prop_recursive(5, 40, 4, |inner| {
        let two = (inner.clone(), inner.clone());
        let arguments = prop::collection::vec(inner.clone(), 0..3).prop_map(|arguments| arguments.join(", "));
        prop_oneof![
            4 => (two.clone(), binary()).prop_map(|((a, b), op)| format!("({a}) {op} ({b})")),
            2 => (two.clone(), binary()).prop_map(|((a, b), op)| format!("{a} {op} {b}")),
            2 => (prop::sample::select(vec!["!", "-", "+", "~", "typeof ", "void "]), inner.clone()).prop_map(|(op, a)| format!("{op}{a}")),
            1 => (inner.clone(), two.clone()).prop_map(|(a, (b, c))| format!("{a} ? {b} : {c}")),
            2 => (inner.clone(), prop::sample::select(vec!["a", "b", "length", "list", "s", "map", "zzz", "toString"]), prop::sample::select(vec![".", "?."])).prop_map(|(a, name, dot)| format!("({a}){dot}{name}")),
            2 => two.clone().prop_map(|(a, b)| format!("({a})[{b}]")),
            1 => two.clone().prop_map(|(a, b)| format!("({a})?.[{b}].a")),
            1 => two.clone().prop_map(|(a, b)| format!("`x${{{a}}}y${{{b}}}`")),
            2 => two.clone().prop_map(|(a, b)| format!("[{a}, {b}]")),
            1 => two.clone().prop_map(|(a, b)| format!("[...{a}, {b}]")),
            2 => two.clone().prop_map(|(a, b)| format!("({{ a: {a}, [{b}]: 1, ...({b} ?? {{}}).list }})")),
            4 => (inner.clone(), method(), arguments.clone()).prop_map(|(a, name, arguments)| format!("({a}).{name}({arguments})")),
            2 => (method(), leaf_value(), prop::collection::vec(leaf_value(), 0..3)).prop_map(|(name, a, arguments)| {
                let arguments: Vec<_> = arguments.iter().map(Value::to_string).collect();
                format!("({a}).{name}({})", arguments.join(", "))
            }),
            3 => (inner.clone(), callback_method(), inner.clone()).prop_map(|(a, name, body)| format!("({a}).{name}((x, i) => {body})")),
            2 => (inner.clone(), callback_method(), binary(), inner.clone()).prop_map(|(a, name, op, b)| format!("({a}).{name}((x, i) => x {op} ({b}))")),
            1 => (inner.clone(), callback_method(), prop::sample::select(vec!["Boolean", "String", "Number", "parseInt"])).prop_map(|(a, name, f)| format!("({a}).{name}({f})")),
            3 => (global(), arguments).prop_map(|(name, arguments)| format!("{name}({arguments})")),
            1 => (global(), inner.clone()).prop_map(|(name, a)| format!("{name}(...{a})")),
            1 => (inner.clone(), leaf_value(), leaf_value(), method()).prop_map(|(a, b, c, m)| format!("({a}).{m}({b}, {c})")),
        ]
    })
}

/// Sources that are rarely right: the parser must reject what QuickJS rejects or leave it to the sandbox, and
/// must never reject what QuickJS takes.
fn token_soup() -> impl Strategy<Value = String> {
    let tokens = vec![
        "input",
        "a",
        "f(",
        ".m(",
        "1",
        "2.5",
        "'s'",
        "`t`",
        "`${",
        "}`",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "?.",
        ".",
        "=>",
        "+",
        "-",
        "++",
        "!",
        "~",
        "??",
        "||",
        "&&",
        "**",
        "/",
        "*",
        "==",
        "=",
        "...",
        ";",
        "in",
        "typeof",
        "new",
        "async",
        "await",
        "function",
        "return",
        "map",
        "x",
        "of",
        "let",
        "yield",
        "get",
        "this",
        "null",
        "/re/g",
        "//c\n",
        "/*c*/",
        "\n",
        "instanceof",
        "delete",
        "void",
        "class",
        "0x1",
        "1n",
        "08",
        "1__0",
        "1_",
        "0x_1",
        "0xe_1",
        "1_0e1_0",
        "1_e1",
        "1._5",
        "1.",
        ".5",
        "\\u0061",
        "#x",
    ];
    prop::collection::vec(prop::sample::select(tokens), 1..9).prop_map(|tokens| tokens.join(" "))
}

/// More with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn generated_expressions_agree_with_quickjs(source in expression(), input in scope_value()) {
        check(&source, &input)?;
    }

    #[test]
    fn what_is_rejected_quickjs_rejects_too(source in token_soup()) {
        if let Err(error) = Expression::compile(&source) {
            prop_assert!(!quickjs_parses(&source), "{}: {}", source, error);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(source in "\\PC{0,60}", input in scope_value()) {
        if let Ok(expression) = Expression::compile(&source)
            && expression.class() != Class::Sandbox
        {
            prop_assert!(expression.evaluate(&Scope::new().bind("input", &input)).map(|_| ()).err().is_none_or(|error| !error.message().is_empty()));
        }
    }
}

#[test]
fn numbers_print_as_in_quickjs() {
    for number in [
        "0.1",
        "1e21",
        "1e-6",
        "1e-7",
        "123456789012345680000",
        "5e-324",
        "1.7976931348623157e308",
        "-1e-10",
        "100",
        "4.35",
        "0.000001234",
        "1e22",
    ] {
        let source = format!("String({number})");
        check(&source, &json!({})).unwrap();
        for digits in [0, 1, 2, 5, 20] {
            check(&format!("({number}).toFixed({digits})"), &json!({})).unwrap();
        }
    }
}

/// Cuts inside a surrogate pair differ on purpose, so that generated sources have no such characters.
#[test]
fn characters_beyond_the_first_plane_agree_with_quickjs() {
    let input = json!({"s": "a😀b😀", "t": "\u{E000}"});
    for source in [
        "input.s.length",
        "input.s.slice(1, 3)",
        "input.s.slice(-2)",
        "input.s.indexOf('😀', 2)",
        "input.s.lastIndexOf('😀')",
        "input.s.lastIndexOf('😀', 3)",
        "input.s.lastIndexOf('b', 3)",
        "input.s.codePointAt(1)",
        "input.s.charCodeAt(2)",
        "input.s < input.t",
        "input.t < '😀'",
        "[...input.s]",
        "input.s.split('😀')",
        "input.s.padStart(8, 'é')",
        "input.s.substring(3, 1)",
        "encodeURIComponent(input.s)",
        "input.s.endsWith('b', 4)",
        "input.s.replace('😀', '$`$&')",
        "Object.keys(input.s).length",
        "'\\ud83d\\ude00' === '😀'",
        "'\\u{1F600}'.length",
    ] {
        check(source, &input).unwrap();
    }
    let cut = Expression::compile("input.s.slice(0, 2)").unwrap();
    assert_eq!(
        cut.evaluate(&Scope::new().bind("input", &input)),
        Ok(json!("a\u{FFFD}"))
    );
}

/// Every function and method over values at the edges, which random sources seldom meet.
#[test]
fn functions_and_methods_agree_with_quickjs_at_the_edges() {
    let mut sources = Vec::new();
    let values = [
        "0.5",
        "-0.5",
        "1.5",
        "2.5",
        "-1.5",
        "-0",
        "0",
        "1e21",
        "-1e-7",
        "NaN",
        "Infinity",
        "-Infinity",
        "2**53",
        "4294967296.5",
        "'12px'",
        "' 0x1F '",
        "'-0'",
        "'.5e1.'",
        "''",
        "null",
        "undefined",
        "true",
        "[]",
        "[3]",
        "[1, 2]",
        "{}",
        "'a-b-a'",
        "[[1, 2], ['k', null]]",
        "['b', undefined, 'a', NaN]",
        "'1e1000'",
        "'{\"a\": [1, -0, 1e2]}'",
        "'+5'",
        "'Infinityx'",
    ];
    for function in super::SAFE_FUNCTIONS {
        for first in values {
            sources.push(format!("{function}({first})"));
            sources.push(format!("1 / {function}({first})"));
            for second in ["2", "16", "36", "1", "'-1'", "undefined", "'length'", "-0", "0.5"] {
                sources.push(format!("{function}({first}, {second})"));
            }
        }
    }
    for method in super::SAFE_METHODS {
        for subject in [
            "'a-b-a'",
            "''",
            "' x\u{a0}'",
            "'ab'",
            "[1, 'a', null, [2, [3]], NaN]",
            "[]",
            "12.345",
            "true",
            "({a: 1})",
            "'Straße'",
        ] {
            sources.push(format!("({subject}).{method}()"));
            for first in [
                "'a'",
                "''",
                "0",
                "-1",
                "1.9",
                "-10",
                "5",
                "undefined",
                "null",
                "NaN",
                "Infinity",
                "'-'",
                "[2]",
                "x => x",
                "(x, i, all) => all.length - i - 1",
                "Boolean",
            ] {
                sources.push(format!("({subject}).{method}({first})"));
                for second in ["0", "-1", "2", "undefined", "'$&$$x'", "Infinity", "[]"] {
                    sources.push(format!("({subject}).{method}({first}, {second})"));
                }
            }
        }
    }
    let differences: Vec<String> = sources
        .iter()
        .filter_map(|source| check(source, &json!({})).err())
        .map(|error| error.to_string())
        .collect();
    assert!(
        differences.is_empty(),
        "{} of {}\n{}",
        differences.len(),
        sources.len(),
        differences[..differences.len().min(25)].join("\n")
    );
}

/// Run by hand with `--run-ignored`, in a release build.
#[test]
#[ignore = "prints timings, checks nothing"]
fn timings() {
    let output = json!({"amount": 120, "items": [{"price": 3}, {"price": 4}]});
    let variables = json!({"region": "eu"});
    for source in [
        "output.amount > 100 && variables.region === \"eu\"",
        "output.items.reduce((sum, item) => sum + item.price, 0)",
        "`order ${output.amount} in ${variables.region}`",
        "({ total: output.amount * 1.2, region: variables.region })",
        "$.output.amount",
        "$.output.items[?@.price > 3]",
    ] {
        let expression = Expression::compile(source).unwrap();
        let start = std::time::Instant::now();
        for _ in 0..100_000 {
            let scope = Scope::new().bind("output", &output).bind("variables", &variables);
            std::hint::black_box(expression.evaluate(&scope).unwrap());
        }
        println!("{:>8.0} ns  {source}", start.elapsed().as_nanos() as f64 / 100_000.0);
    }
}

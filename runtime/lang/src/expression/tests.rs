#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::{Class, Expression};
use crate::scope::{Binding, Record, Scope};

fn eval(source: &str, input: &Value) -> Result<Value, String> {
    let expression = Expression::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    assert_ne!(expression.class(), Class::Sandbox, "{source}");
    expression
        .evaluate(&Scope::new().bind("input", input))
        .map_err(|error| error.message().to_owned())
}

fn class(source: &str) -> Class {
    Expression::compile(source)
        .unwrap_or_else(|error| panic!("{source}: {error}"))
        .class()
}

fn code(source: &str) -> &'static str {
    Expression::compile(source)
        .map(|_| "compiled")
        .expect_err(source)
        .code
        .as_str()
}

#[test]
fn evaluates_the_safe_subset() {
    let input = json!({"a": 5, "s": "héllo😀", "list": [3, 1, 2], "o": {"k": null, "deep": {"x": "y"}}, "big": 9_007_199_254_740_993_i64});
    for (source, expected) in [
        ("input.a > 4 && input.o.deep.x === 'y'", json!(true)),
        ("input.a + '1'", json!("51")),
        (
            "input.list.map((x, i) => x * 10 + i).filter(x => x > 10)",
            json!([30, 11, 22]),
        ),
        ("input.o?.nothing?.more.and.more", json!(null)),
        ("`${input.a}-${[1, [2, 3]]}-${{}}`", json!("5-1,2,3-[object Object]")),
        ("({...input.o, k: 1}).k", json!(1)),
        ("{ a: input.a, ['b' + 1]: undefined }", json!({"a": 5})),
        ("input.s.length", json!(7)),
        ("input.s.toUpperCase().slice(0, 2)", json!("HÉ")),
        ("typeof input.missing", json!("undefined")),
        ("input.big", json!(9_007_199_254_740_993_i64)),
        ("input.list.reduce((a, b) => a + b, 0) / 4", json!(1.5)),
        ("Math.max(...input.list)", json!(3)),
        ("Object.entries(input.o).length", json!(2)),
        ("input.list.filter(Boolean).length;", json!(3)),
        ("0.1 + 0.2", json!(0.300_000_000_000_000_04)),
        ("1e309", json!(null)),
        ("-0", json!(0)),
        (
            "(1.005).toFixed(2) + (2.5).toFixed(0) + (-1.5).toFixed(0)",
            json!("1.003-2"),
        ),
        ("input.list.length === 3 ? 'yes' : 'no'", json!("yes")),
        ("2 ** 3 ** 2", json!(512)),
        ("''.padEnd(NaN, [{ toString: null }])", json!("")),
        ("'a,b'.split(',').join('-')", json!("a-b")),
        ("[[1, [2]], 3].flat()", json!([1, [2], 3])),
        (
            "input.list.map(x => input.list.map(y => x * y))",
            json!([[9, 3, 6], [3, 1, 2], [6, 2, 4]]),
        ),
    ] {
        assert_eq!(eval(source, &input), Ok(expected), "{source}");
    }
}

#[test]
fn throws_where_javascript_throws() {
    let input = json!({"o": {}});
    for (source, message) in [
        ("input.o.a.b", "cannot read properties of undefined (reading 'b')"),
        ("input.o.map(x => x)", "map is not a function"),
        ("null[0]", "cannot read properties of null (reading '0')"),
        ("'a' in 'b'", "right-hand side of 'in' is not an object"),
        ("[].reduce((a, b) => a)", "reduce of empty array with no initial value"),
        ("'x'.repeat(-1)", "invalid repeat count"),
        ("''.repeat(2147483648)", "invalid repeat count"),
        ("[...input]", "value is not iterable"),
    ] {
        assert_eq!(eval(source, &input), Err(message.to_owned()), "{source}");
    }
}

#[test]
fn sorts_sources_into_classes() {
    for source in [
        "input.x = 1",
        "new Date()",
        "input.list.sort()",
        "/a/.test(input.s)",
        "(() => { for (;;) {} })()",
        "x => x",
        "foo.bar",
        "input.x++",
        "10n",
        "async () => 1",
        "input, 1",
    ] {
        assert_eq!(class(source), Class::Sandbox, "{source}");
    }
    assert_eq!(class("$.input.a"), Class::JsonPath);
    assert_eq!(class("$"), Class::JsonPath);
    assert_eq!(class("$x"), Class::Sandbox);
    for source in [
        "",
        "  ",
        "input output",
        "(1",
        "1)",
        "input.",
        "'abc",
        "return 1",
        "a; b",
        "1 +",
        "`${",
        "input ?? output || error",
        "-1 ** 2",
        "input. > 1",
        "[1",
        "$.",
        "$[",
        "$.a b",
        "1 2",
    ] {
        assert_eq!(code(source), "EXPRESSION_SYNTAX", "{source}");
    }
}

#[test]
fn deep_and_long_sources_get_a_coded_error() {
    for source in [
        "(".repeat(10_000),
        "[".repeat(10_000),
        "!".repeat(10_000),
        "1+".repeat(10_000) + "1",
        "input?".repeat(10_000),
        "{a:".repeat(10_000),
        "`${".repeat(10_000),
        "$[?(".repeat(10_000),
        "input.map(x=>".repeat(10_000),
        "- ".repeat(9_999),
        "$[?".repeat(10_000),
        "1**".repeat(10_000) + "1",
    ] {
        let error = Expression::compile(&source)
            .map(|_| "compiled")
            .expect_err(&source[..10]);
        assert!(
            matches!(error.code.as_str(), "EXPRESSION_LIMIT" | "EXPRESSION_SYNTAX"),
            "{}: {error}",
            &source[..10]
        );
    }
    assert_eq!(code(&"(".repeat(10_000)), "EXPRESSION_LIMIT");
    assert_eq!(code(&" ".repeat(100_000)), "EXPRESSION_LIMIT");
}

#[test]
fn work_and_memory_are_bounded() {
    let list: Vec<_> = (0..2_000).collect();
    let input = json!({"list": list, "s": "x".repeat(1_000)});
    for source in [
        "'x'.repeat(1e9)",
        "'x'.padEnd(1e9)",
        "input.list.map(a => input.list.map(b => input.list.map(c => a + b + c)))",
        "input.list.reduce((acc, x) => acc + acc, 'xxxxxxxx')",
        "input.list.reduce((acc, x) => acc.concat(acc), [1])",
        "input.list.reduce((acc, x) => [acc], 0)",
        "input.list.reduce((acc, x) => x < 60 ? [acc, acc] : acc, 0)",
        "JSON.stringify(input.list.reduce((acc, x) => x < 60 ? {a: acc, b: acc} : acc, 0))",
        "input.s.replaceAll('x', input.s).replaceAll('x', input.s)",
        "$.input.list[?count($.input.list[?count($.input.list[*]) > 0]) > 0]",
    ] {
        assert!(eval(source, &input).is_err(), "{source}");
    }
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    assert!(eval("$..*..*..*..*..*", &deep).is_err());
}

#[test]
fn a_long_text_costs_what_walking_over_it_costs() {
    let long = "x".repeat(1_200_000);
    let other = format!("{}y", "x".repeat(1_199_999));
    let input = json!({"long": long, "other": other, "wide": "é".repeat(500_000), "o": {"k": 1}});
    let often = |work: &str| format!("[1,2,3,4,5,6,7,8].map(() => [1,2,3,4,5,6,7,8].map(() => {work}))");
    for work in [
        "input.long.length",
        "input.long[1199999]",
        "input.wide[499999]",
        "input.long === input.other",
        "input.long == input.other",
        "[input.other].includes(input.long)",
        "[input.other].indexOf(input.long)",
        "input.long < input.other",
        "+input.long",
        "input.o[input.long]",
        "input.long in input.o",
        "Object.hasOwn(input.long, 'length')",
    ] {
        assert_eq!(
            eval(&often(work), &input),
            Err("expression takes too many steps".to_owned()),
            "{work}"
        );
    }
    for test in ["length(@) > 1", "@ < $.input.long", "@ == $.input.other"] {
        let input = json!({"long": long, "other": other, "list": vec![other.clone(); 60]});
        let path = format!("$.input.list[?{test}]");
        assert_eq!(
            eval(&path, &input),
            Err("expression takes too many steps".to_owned()),
            "{path}"
        );
    }
    for work in ["parseFloat(input.long)", "parseInt(input.long)"] {
        assert_eq!(
            eval(&often(work), &input),
            Err("expression uses too much memory".to_owned()),
            "{work}"
        );
    }
    let emptied = "'x'.repeat(100000).replaceAll('', '$&'.repeat(1000000))";
    assert_eq!(
        eval(emptied, &input),
        Err("expression takes too many steps".to_owned()),
        "replacements that give nothing"
    );
    let split = "'x'.repeat(100000).split('').length + 'é😀'.repeat(30000).split('').length";
    assert_eq!(
        eval(split, &input),
        Ok(json!(190_000)),
        "splitting does not start over for each part"
    );
    assert_eq!(
        eval("'é😀x'.split('', 3)", &input),
        Ok(json!(["é", "\u{fffd}", "\u{fffd}"]))
    );
}

#[test]
fn tells_what_it_touches() {
    let uses = |source: &str| Expression::compile(source).unwrap().uses().clone();
    let of = uses("nodes.a.output.x > nodes['b c'].output && variables.region === input.r");
    assert!(of.input && !of.trigger && !of.output);
    assert!(of.nodes.contains("a") && of.nodes.contains("b c") && !of.nodes.contains("c"));
    assert!(of.variables.contains("region") && !of.variables.contains("x"));
    assert!(uses("nodes[input.x]").nodes.contains("anything"));
    assert!(uses("Object.keys(nodes)").nodes.contains("anything"));
    assert!(uses("({nodes})").nodes.contains("anything"));
    let of = uses("(() => nodes.a.output + variables[\"v\"] + error.message)()");
    assert!(of.error && of.nodes.contains("a") && !of.nodes.contains("b") && of.variables.contains("v"));
    assert!(uses("eval('input')").input);
    let of = uses("$.nodes['a', 'b'].output[?@.x == $.variables.limit]");
    assert!(
        of.nodes.contains("a")
            && of.nodes.contains("b")
            && !of.nodes.contains("c")
            && of.variables.contains("limit")
            && !of.input
    );
    assert!(uses("$..x").input);
}

#[test]
fn lazy_text_is_parsed_only_when_touched() {
    let scope = Scope::new().bind("input", Binding::text("{not json")).bind(
        "nodes",
        Record::new().with(
            "a",
            Record::new()
                .with("output", Binding::text(r#"{"x":[1,2]}"#))
                .with("status", json!("completed")),
        ),
    );
    let eval = |source: &str| Expression::compile(source).unwrap().evaluate(&scope);
    assert_eq!(eval("nodes.a.output.x[1] + nodes.a.status"), Ok(json!("2completed")));
    assert_eq!(
        eval("nodes"),
        Ok(json!({"a": {"output": {"x": [1, 2]}, "status": "completed"}}))
    );
    assert_eq!(eval("$.nodes.a.output.x[*]"), Ok(json!([1, 2])));
    assert_eq!(eval("$.nodes.a.output.x[-1]"), Ok(json!(2)));
    assert_eq!(eval("$.nodes.a.output.y"), Ok(json!(null)));
    assert!(eval("input").is_err());
}

#[test]
fn text_results_equal_value_results() {
    let input = json!({"b": 1, "1": 2.5, "s": "a\"b\n"});
    let scope = Scope::new().bind("input", &input);
    for source in [
        "input",
        "[input, undefined, NaN]",
        "undefined",
        "input.s",
        "{a: 1e21, b: 1e-7}",
    ] {
        let expression = Expression::compile(source).unwrap();
        let text = expression.evaluate_to_text(&scope).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            expression.evaluate(&scope).unwrap(),
            "{source}"
        );
    }
}

#[test]
fn evaluations_over_one_scope_share_its_steps() {
    let text = serde_json::json!("ab".repeat(64 * 100));
    let look = Expression::compile("input.includes('z')").unwrap();
    let copy = Expression::compile("input").unwrap();
    let template = crate::template::DataTemplate::compile(&serde_json::json!(["{{ input }}", "{{ input }}"])).unwrap();
    for steps_max in [0, 250, 100_000] {
        let scope = |steps_max| Scope::new().bind("input", &text).with_steps_max(steps_max);
        // Filling bytes takes twice as long as looking at them.
        let scopes = [scope(steps_max), scope(steps_max * 2), scope(steps_max * 2)];
        let looked = || look.evaluate(&scopes[0]).map(drop);
        let copied = || copy.evaluate_to_text(&scopes[1]).map(drop);
        // The first of two takes about 200 steps.
        let firsts = [looked(), copied()];
        let seconds = [looked(), copied(), template.evaluate(&scopes[2], &[]).map(drop)];
        for first in firsts {
            assert_eq!(first.is_ok(), steps_max > 0, "{first:?}");
        }
        for second in seconds {
            assert_eq!(second.is_ok(), steps_max > 250, "{second:?}");
            assert!(second.map_or_else(|error| error.message().contains("together"), |()| true));
        }
        assert_eq!(scopes[0].steps_left() == 0, steps_max <= 250);
    }
}

#[test]
fn names_that_nothing_binds_are_told_where_that_is_sure() {
    let unknown = |source: &str| -> Vec<String> {
        let expression = Expression::compile(source).unwrap();
        expression.unknown_names().map(str::to_owned).collect()
    };
    for (source, expected) in [
        ("inpt.x > 1", &["inpt"][..]),
        (
            "variabels.a + nodse.b.output + inpt.c + inpt.d",
            &["variabels", "nodse", "inpt"],
        ),
        ("inpt.items.sort((a, b) => a - b)[0]", &["inpt"]),
        ("structuredClon(input.a)", &["structuredClon"]),
        ("Math.max(inpt.a, Reflect.ownKeys(input).length)", &["inpt"]),
        ("{total: sum, list: [...itmes]}", &["sum", "itmes"]),
        ("`${inpt.a}`", &["inpt"]),
        ("new Date(input.a)", &[]),
        ("(() => { const x = 1; return x })()", &[]),
        ("input.items.map(({a}) => a)", &[]),
        ("((a, b = 2) => a + b)(1)", &[]),
        ("[1, 2].sort(function (a, b) { return a - b })", &[]),
        ("input.items.map((item, at) => item.a + at)", &[]),
        ("new Map([[1, 2]]).get(1)", &[]),
        ("BigInt(input.a).toString()", &[]),
        ("undefined === void 0", &[]),
    ] {
        assert_eq!(unknown(source), expected, "{source}");
    }
    for source in [
        "x y",
        "inpt.a + 1 2",
        "a+",
        "inpt.",
        "inpt.(1)",
        "inpt ? 1",
        "foo(1, 2",
        "a['b' 'c']",
    ] {
        assert_eq!(code(source), "EXPRESSION_SYNTAX", "{source}");
    }
}

/// The sandbox takes these away, or gives them itself; see its `prelude.js`.
#[test]
fn the_globals_are_those_of_the_engine() {
    let runtime = rquickjs::Runtime::new().unwrap();
    let context = rquickjs::Context::full(&runtime).unwrap();
    let given: Vec<String> = context.with(|ctx| ctx.eval("Object.getOwnPropertyNames(globalThis)").unwrap());
    let taken = ["eval", "FinalizationRegistry", "WeakRef"];
    let mut expected: Vec<&str> = given
        .iter()
        .map(String::as_str)
        .filter(|name| !taken.contains(name))
        .collect();
    expected.push("console");
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(super::globals::NAMES, expected);
}

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{DataTemplate, Jinja, TextTemplate};
use crate::scope::Scope;

fn render(source: &str, input: &Value) -> Result<Value, String> {
    let template = TextTemplate::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    template
        .evaluate(&Scope::new().bind("input", input), &[])
        .map_err(|error| error.message().to_owned())
}

#[test]
fn interpolates() {
    let input = json!({"n": 1.5, "s": "x", "o": {"a": [1]}, "big": 9_007_199_254_740_993_i64, "nothing": null});
    for (source, expected) in [
        ("plain } text }}", json!("plain } text }}")),
        ("{{ input.n }}", json!(1.5)),
        ("{{ input.o }}", json!({"a": [1]})),
        ("a{{ input.n }}b{{ input.o }}", json!("a1.5b{\"a\":[1]}")),
        ("{{ '}}' + input.s }}!", json!("}}x!")),
        ("{{ {a: {b: 1}}.a }}", json!({"b": 1})),
        ("{{ `${input.s}}}` }}", json!("x}}")),
        ("{{ $.input.o.a[*] }}", json!(1)),
        ("/users/{{ input.big }}", json!("/users/9007199254740993")),
        ("{{ '{{' }}{{ input.nothing }}{{ input.zzz }}", json!("{{nullundefined")),
        (" {{ input.n }}", json!(" 1.5")),
    ] {
        assert_eq!(render(source, &input), Ok(expected), "{source}");
    }
    for source in [
        "{{",
        "{{ }}",
        "a {{ input.x",
        "{{ 1 + }}",
        "{{ 'a }}",
        "{{ secrets.A + 'x' }}",
        "{{ secrets }}",
        "{{ secrets['A'] }}",
        "{{ ) }}",
    ] {
        assert!(TextTemplate::compile(source).is_err(), "{source}");
    }
    let error = TextTemplate::compile("abc {{ input output }}").unwrap_err();
    assert_eq!((error.code.as_str(), error.span), ("EXPRESSION_SYNTAX", Some(13..19)));
}

#[test]
fn data_keeps_expressions_and_finds_templates() {
    let data = json!({
        "url": "https://x/{{ input.id }}",
        "headers": {"authorization": "Bearer {{ secrets.TOKEN }}", "x": "static"},
        "list": ["{{ input.id }}", {"k/~": "{{ variables.v }}"}],
        "output": "{{ not a template",
        "conditions": [{"id": "a", "expression": "{{ no", "description": "{{ input.id }}"}],
        "taskDefinition": {"config": {"u": "{{ nodes.a.output }}"}, "inputMapping": {"x": "{{"}},
        "transformationConfig": {"expression": "{{", "fields": {"a": "{{ input.id }}"}},
        "body": {"nodes": [{"data": {"url": "{{ item"}}], "edges": []},
        "heavy": "{{ (() => { return input.id })() }}",
    });
    let template = DataTemplate::compile(&data).unwrap();
    assert!(!template.is_static());
    assert_eq!(
        template.secrets().collect::<Vec<_>>(),
        [("/headers/authorization".to_owned(), "TOKEN")]
    );
    assert_eq!(
        template
            .sandbox_sources()
            .map(|e| e.source().to_owned())
            .collect::<Vec<_>>(),
        ["(() => { return input.id })()"]
    );
    let uses = template.uses();
    assert!(uses.input && uses.nodes.contains("a") && !uses.nodes.contains("b") && uses.variables.contains("v"));
    let input = json!({"id": 7});
    let scope = Scope::new()
        .bind("input", &input)
        .bind("variables", json!({"v": [true]}));
    assert!(template.evaluate(&scope, &[]).is_err());
    let error = template.evaluate(&scope, &[json!(1)]).unwrap_err();
    assert_eq!(
        error.message(),
        "cannot read properties of undefined (reading 'a') (in `data/taskDefinition/config/u`)"
    );
    let scope = scope.bind("nodes", json!({"a": {"output": null}}));
    let evaluated = template.evaluate(&scope, &[json!("from the sandbox")]).unwrap();
    let mut expected = data.clone();
    expected["url"] = json!("https://x/7");
    expected["list"] = json!([7, {"k/~": [true]}]);
    expected["conditions"][0]["description"] = json!(7);
    expected["taskDefinition"]["config"]["u"] = json!(null);
    expected["transformationConfig"]["fields"]["a"] = json!(7);
    expected["heavy"] = json!("from the sandbox");
    assert_eq!(evaluated, expected);
    let resolved = template
        .resolve_secrets(evaluated, |name| Ok::<_, Infallible>(format!("<{name}>")))
        .unwrap();
    expected["headers"]["authorization"] = json!("Bearer <TOKEN>");
    assert_eq!(resolved, expected);
    let errors = DataTemplate::compile(&json!({"a": ["{{"], "b": "{{ 1 2 }}"})).unwrap_err();
    assert_eq!(
        errors
            .iter()
            .map(|(pointer, error)| (pointer.as_str(), error.code.as_str()))
            .collect::<Vec<_>>(),
        [("/a/0", "TEMPLATE_SYNTAX"), ("/b", "EXPRESSION_SYNTAX")]
    );
    assert!(
        DataTemplate::compile(&json!({"delayType": "expression", "delayValue": "{{"}))
            .unwrap()
            .is_static()
    );
}

proptest! {
    /// Braces in values and around them never become a secret, and everything else comes out as it went in.
    #[test]
    fn values_cannot_name_secrets(before in "([} a]|\\{[} a]){0,4}", value in "([{}\"]|secrets\\.KEY| ){0,8}", after in "([ a][} a]{0,3})?") {
        let source = format!("{before}{{{{ input }}}}{after}{{{{ secrets.KEY }}}}");
        let template = TextTemplate::compile(&source).unwrap();
        let input = json!(value);
        let evaluated = template.evaluate(&Scope::new().bind("input", &input), &[]).unwrap();
        let resolved = template.resolve_secrets(evaluated.as_str().unwrap(), &mut |_| Ok::<_, Infallible>("S3CRET".to_owned())).unwrap();
        prop_assert_eq!(resolved, format!("{before}{value}{after}S3CRET"));
    }

    #[test]
    fn arbitrary_templates_never_panic(source in "([{}%#\"'`$ ]|\\PC|input){0,30}") {
        if let Ok(template) = TextTemplate::compile(&source) {
            prop_assert!(template.evaluate(&Scope::new(), &[]).is_ok() || !template.is_static());
        }
        if let Ok(template) = Jinja::compile(&source) {
            prop_assert!(template.render(&Scope::new()).map_or_else(|error| !error.message().is_empty(), |_| true));
        }
    }
}

#[test]
fn jinja_renders_within_bounds() {
    let input = json!({"name": "<b>", "rows": [{"a": 1}, {"a": 2}]});
    let scope = || Scope::new().bind("input", &input);
    let template =
        Jinja::compile("{% for r in input.rows %}{{ loop.index }}:{{ r.a }} {% endfor %}{{ input.name|upper }}")
            .unwrap();
    assert!(template.uses().input && !template.uses().trigger);
    assert_eq!(template.render(&scope()).unwrap(), "1:1 2:2 <B>");
    assert!(Jinja::compile("{{ input.missing }}").unwrap().render(&scope()).is_err());
    assert!(
        Jinja::compile("{{ input.missing.x }}")
            .unwrap()
            .render(&scope())
            .is_err()
    );
    for source in ["{% if %}", "{{ a b }}", "{% for x in y %}"] {
        assert_eq!(
            Jinja::compile(source).unwrap_err().code.as_str(),
            "TEMPLATE_SYNTAX",
            "{source}"
        );
    }
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(100000) %}0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789{% endfor %}",
    ] {
        let rendered = Jinja::compile(source).unwrap().render(&scope());
        assert!(rendered.is_err(), "{source}");
    }
    let deep = "{{ ".to_owned() + &"(".repeat(10_000);
    assert!(Jinja::compile(&deep).is_err());
    let deep = "{% if 1 %}".repeat(10_000);
    assert!(Jinja::compile(&deep).is_err());
}

#[test]
fn jinja_names_no_filter_or_test_that_there_is_not() {
    for (source, unknown) in [
        ("{{ input.a | nofilter }}", "nofilter"),
        ("{% if false %}{{ input.a|upper|nofilter(1) }}{% endif %}", "nofilter"),
        ("{%- filter nofilter -%}x{% endfilter %}", "nofilter"),
        ("{{ input.a is notest }}", "notest"),
        ("{{ input.a is not notest }}", "notest"),
        ("{{ {'a': {}} | nofilter }}", "nofilter"),
    ] {
        let error = Jinja::compile(source).unwrap_err();
        assert_eq!(error.code.as_str(), "TEMPLATE_SYNTAX", "{source}");
        assert_eq!(&source[error.span.unwrap()], unknown, "{source}");
    }
    for source in [
        "{{ input.a is defined }} {{ input.a and input.b }} {{- input.a -}} {{ input.x // 2 }}",
        "{# {{ | nofilter #}x, {% raw %}{{ a | nofilter {%  endraw -%} | nofilter",
        "{{ '}} | nofilter' }} {{ \"is notest\" | upper }} {{ {'a': {'b': 1}} }} | nofilter { | nofilter",
        "{{ input.is.filter }} {% set filter = 1 %}{{ filter | string }} a is notest",
        "{{ 1 is not none and 2 is eq 2 and 3 is in [3] }}{% filter upper %}x{% endfilter %}",
        "{{ input.a | default('x') | tojson }} {{ input.rows | map(attribute='a') | sum }}",
    ] {
        assert!(Jinja::compile(source).is_ok(), "{source} {:?}", Jinja::compile(source));
    }
}

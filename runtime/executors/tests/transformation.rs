//! The `transformation` node type.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value as JsonValue, json};
use support::{failure, output, run, task_of};
use troupe_core::{Json, Value};
use troupe_executors::{Executors, SandboxOptions, SandboxPool};
use troupe_ports::Executed;

fn input() -> JsonValue {
    json!({"items": [{"name": "a", "price": 2, "count": 3}, {"name": "b", "price": 5, "count": 0}], "who": "Ann"})
}

async fn transform(executors: &Executors, kind: &str, config: JsonValue) -> Executed {
    let data = json!({"transformationType": kind, "transformationConfig": config});
    run(executors, task_of("w", "transformation", &data, &input())).await
}

async fn with_sandbox() -> Executors {
    let program = Some(env!("CARGO_BIN_EXE_troupe-sandbox-child").into());
    let pool = SandboxPool::start(SandboxOptions {
        program,
        processes: 1,
        ..SandboxOptions::default()
    })
    .await
    .unwrap();
    Executors::builder().sandbox(pool).build()
}

#[tokio::test]
async fn lists_are_mapped_filtered_and_reduced() {
    let executors = with_sandbox().await;
    // The first of each pair runs in the engine's own evaluator, the second needs the sandbox: both must agree.
    for (kind, expressions, initial, expected) in [
        (
            "map",
            [
                "item.price * item.count + index",
                "(() => item.price * item.count + index)()",
            ],
            None,
            json!([6, 1]),
        ),
        (
            "filter",
            ["item.count", "new Boolean(item.count).valueOf()"],
            None,
            json!([input()["items"][0]]),
        ),
        (
            "reduce",
            [
                "acc + item.price",
                "[acc, item.price].reduce(function (a, b) { return a + b })",
            ],
            Some(json!(10)),
            json!(17),
        ),
        (
            "reduce",
            [
                "acc.price > item.price ? acc : item",
                "[acc, item].sort(function (a, b) { return b.price - a.price })[0]",
            ],
            None,
            json!(input()["items"][1]),
        ),
    ] {
        for expression in expressions {
            let mut config = json!({"source": "input.items", "expression": expression});
            if let Some(initial) = &initial {
                config["initial"] = initial.clone();
            }
            assert_eq!(
                output(&transform(&executors, kind, config).await),
                expected,
                "{kind} {expression}"
            );
        }
    }
    // A source that its template has made a list already.
    let config = json!({"source": [1, 2, 3], "expression": "item % 2"});
    assert_eq!(output(&transform(&executors, "filter", config).await), json!([1, 3]));
}

#[tokio::test]
async fn fields_are_put_over_objects() {
    let executors = Executors::builder().build();
    let config = json!({"source": "input.items", "fields": {"currency": "EUR", "count": 1}});
    let expected = json!([{"name": "a", "price": 2, "count": 1, "currency": "EUR"}, {"name": "b", "price": 5, "count": 1, "currency": "EUR"}]);
    assert_eq!(output(&transform(&executors, "enrichment", config).await), expected);
    assert_eq!(
        output(&transform(&executors, "enrichment", json!({"fields": {"x": 1}})).await)["x"],
        1
    );
}

#[tokio::test]
async fn templates_give_text_or_json() {
    let executors = with_sandbox().await;
    let of = |template: &str, config| json!({"template": template, "transformationConfig": config});
    let template = "Dear {{ input.who }}:{% for item in input['items'] %} {{ item.name }}={{ item.price }}{% endfor %}";
    let executed = run(
        &executors,
        task_of("w", "transformation", &of(template, json!(null)), &input()),
    )
    .await;
    assert_eq!(output(&executed), "Dear Ann: a=2 b=5");
    let data = of("{\"n\": {{ input['items'] | length }}}", json!({"format": "json"}));
    assert_eq!(
        output(&run(&executors, task_of("w", "transformation", &data, &input())).await),
        json!({"n": 2})
    );
    for broken in [
        "{% for %}",
        "{{ input.nothing.at }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
    ] {
        let executed = run(
            &executors,
            task_of("w", "transformation", &of(broken, json!(null)), &input()),
        )
        .await;
        assert_eq!(
            (failure(&executed).error.code.as_str(), failure(&executed).retryable),
            ("TEMPLATE_ERROR", false),
            "{broken}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_transformed_is_refused() {
    let executors = with_sandbox().await;
    for (kind, config, code) in [
        ("map", json!({"expression": "item"}), "NODE_DATA_INVALID"),
        ("map", json!({"source": "input.items"}), "NODE_DATA_INVALID"),
        (
            "reduce",
            json!({"source": [], "expression": "acc"}),
            "NODE_DATA_INVALID",
        ),
        ("enrichment", json!({"source": [1], "fields": {}}), "NODE_DATA_INVALID"),
        ("sort", json!({}), "NODE_DATA_INVALID"),
        (
            "map",
            json!({"source": "input.items", "expression": "item.a.b"}),
            "EXPRESSION_ERROR",
        ),
        (
            "map",
            json!({"source": "input.items", "expression": "(() => { for (;;) {} })()"}),
            "EXPRESSION_ERROR",
        ),
        (
            "map",
            json!({"source": "input.items", "expression": "item +"}),
            "EXPRESSION_ERROR",
        ),
        (
            "map",
            json!({"source": vec![0; 100_001], "expression": "item"}),
            "INPUT_TOO_LARGE",
        ),
        (
            "map",
            json!({"source": vec![0; 1_000], "expression": "'x'.padEnd(100000)"}),
            "OUTPUT_TOO_LARGE",
        ),
    ] {
        let executed = transform(&executors, kind, config).await;
        assert_eq!(
            (failure(&executed).error.code.as_str(), failure(&executed).retryable),
            (code, false),
            "{kind} {executed:?}"
        );
    }
}

/// What fuel does not bound ends with the process it runs in.
#[tokio::test]
async fn a_template_that_never_ends_holds_nobody_up() {
    let executors = with_sandbox().await;
    let input = json!({"big": "aB".repeat(1 << 20), "who": "Ann"});
    let of = |template: &str| {
        let task = task_of("w", "transformation", &json!({"template": template}), &input);
        run(&executors, task)
    };
    // Every `z` is looked for among two million characters before it.
    let hostile = of("{{ ('z' * 1000000) | trim(input.big ~ 'z') }}");
    let innocent = async {
        for _ in 0..5 {
            assert_eq!(output(&of("Dear {{ input.who }}").await), "Dear Ann");
        }
    };
    let (executed, ()) = tokio::join!(hostile, innocent);
    let failed = failure(&executed);
    assert_eq!(
        (
            failed.error.code.as_str(),
            failed.retryable,
            failed.error.details.clone()
        ),
        ("TEMPLATE_ERROR", false, Some(Json::of(&json!({"limit": "TIMEOUT"})))),
    );
}

#[tokio::test]
async fn an_engine_without_a_sandbox_renders_nothing() {
    let executors = Executors::builder().build();
    let executed = run(
        &executors,
        task_of("w", "transformation", &json!({"template": "x"}), &input()),
    )
    .await;
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("TEMPLATE_ERROR", false)
    );
}

#[tokio::test]
async fn what_a_template_gave_is_a_value_and_never_runs() {
    let executors = with_sandbox().await;
    // A source with a template, as the engine resolves it: the plan keeps what was written.
    let resolved = |written: &str, given: JsonValue| {
        let data = |source: JsonValue| {
            json!({
                "transformationType": "enrichment",
                "transformationConfig": {"source": source, "fields": {"f": 1}},
            })
        };
        let mut task = task_of("w", "transformation", &data(json!(written)), &input());
        task.data = Some(Value::Inline(Json::of(&data(given))));
        task
    };
    for given in ["input", "(() => ({ stolen: variables }))()", "$.input"] {
        let ended = run(&executors, resolved("{{ input.s }}", json!(given))).await;
        let failure = failure(&ended);
        assert_eq!(failure.error.code, "NODE_DATA_INVALID", "{given}: {failure:?}");
    }
    let ended = run(&executors, resolved("{{ input.o }}", json!({"a": 1}))).await;
    assert_eq!(output(&ended), json!({"a": 1, "f": 1}));

    // Nor does a template that gives the whole configuration make an expression.
    let data = |config: JsonValue| json!({"transformationType": "map", "transformationConfig": config});
    let mut task = task_of("w", "transformation", &data(json!("{{ input.config }}")), &input());
    let config = json!({"source": [1], "expression": "(() => variables)()"});
    task.data = Some(Value::Inline(Json::of(&data(config))));
    assert_eq!(failure(&run(&executors, task).await).error.code, "NODE_DATA_INVALID");
}

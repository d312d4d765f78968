//! Bad input to a real server: each is answered with a clear coded error, and nothing else is disturbed.
#![allow(clippy::unwrap_used)]

mod hostile;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hostile::{Answer, Server, Treatment, apply_innocents, beside_innocents};
use reqwest::Method;
use serde_json::{Map, Value, json};

/// Hostile cases that run at once: without and with a large payload.
const AT_ONCE: usize = 8;
const LARGE_AT_ONCE: usize = 1;
/// An execution that needs no sandbox may take this long beside them, one that shares the sandbox with them that long.
const PROMPT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(20));
/// The longest message that is still clear.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// What a program does, written as an expression, with what it answers: part of the message, and the limit it hit.
///
/// On a busy machine what fills the memory may run out of time first.
const EXPRESSIONS: &[(&str, &str, &str, &[&str])] = &[
    ("loops for ever", "(() => { for (;;) {} })()", "deadline", &["TIMEOUT"]),
    (
        "allocates without end",
        "(() => { const a = []; for (;;) a.push(new Array(1000).fill(0)) })()",
        "the code ",
        &["MEMORY_LIMIT", "TIMEOUT"],
    ),
    (
        "recurses",
        "(function g() { return g() + 1 })()",
        "stack",
        &["STACK_LIMIT"],
    ),
    ("throws null", "(() => { throw null })()", "null was thrown", &[]),
    ("returns a BigInt", "(() => 10n)()", "BigInt", &[]),
    (
        "makes 1 GB in the engine",
        "'x'.repeat(2 ** 30)",
        "invalid string length",
        &[],
    ),
    (
        "makes 1 GB in the sandbox",
        "(() => 'x'.repeat(2 ** 30 - 1))()",
        "memory",
        &["MEMORY_LIMIT"],
    ),
    (
        "backtracks for ever",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "deadline",
        &["TIMEOUT"],
    ),
    (
        "walks a long text again and again",
        "trigger.big.split('').join('-').split('').join('-').split('').join('-')",
        "too m",
        &[],
    ),
];

/// Function bodies with the code that each gives.
const FUNCTIONS: &[(&str, &str, &str, &str)] = &[
    ("loops for ever", "for (;;) {}", "TIMEOUT", "ran "),
    (
        "allocates without end",
        "const a = []; for (;;) a.push(new Array(1000).fill(0))",
        "MEMORY_LIMIT",
        "memory",
    ),
    (
        "recurses",
        "const g = () => g() + 1; return g()",
        "STACK_LIMIT",
        "stack",
    ),
    ("throws null", "throw null", "FUNCTION_ERROR", "null was thrown"),
    ("returns a BigInt", "return 10n", "OUTPUT_NOT_JSON", "BigInt"),
    ("makes 1 GB", "return 'x'.repeat(2 ** 30 - 1)", "MEMORY_LIMIT", "memory"),
    (
        "backtracks for ever",
        "return /^(a+)+$/.test('a'.repeat(40) + 'b')",
        "TIMEOUT",
        "ran ",
    ),
    (
        "never settles",
        "return new Promise(() => {})",
        "FUNCTION_STALLED",
        "promise",
    ),
    (
        "returns much",
        "return 'x'.repeat(8 << 20)",
        "OUTPUT_TOO_LARGE",
        "limit",
    ),
];

/// Jinja templates; all give `TEMPLATE_ERROR`.
const TEMPLATES: &[(&str, &str, &str)] = &[
    (
        "loops for ever",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "too many steps",
    ),
    (
        "compares every character with a million others",
        "{{ ('z' * 1000000) | trim(input.big ~ 'z') }}",
        "deadline",
    ),
    (
        "walks megabytes again and again",
        "{% set n = namespace(x=0) %}{% for i in range(20000) %}{% set n.x = n.x + (input.big|upper|length) %}{% endfor %}",
        "too many steps",
    ),
    (
        "allocates without end",
        "{% set n = namespace(l=[]) %}{% for i in range(20000) %}{% set n.l = n.l + [input.big ~ i] %}{% endfor %}",
        "too many steps",
    ),
    (
        "recurses",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "recursion",
    ),
    ("reads a member of null", "{{ none.x.y }}", "undefined"),
    ("makes a number too large", "{{ 2 ** 200 }}", "unable to calculate"),
    ("makes 1 GB", "{{ 'x' * 1000000000 }}", "too many steps"),
    (
        "writes without end",
        "{% for i in range(20000) %}{{ input.big }}{% endfor %}",
        "8388608 bytes",
    ),
    ("includes a file", "{% include '/etc/passwd' %}", "template"),
];

/// A hostile workflow with what its node `a` must answer.
struct Case {
    what: String,
    definition: Value,
    code: &'static str,
    message: &'static str,
    /// Any of these in its details; none where it hits no limit of the sandbox.
    limits: &'static [&'static str],
}

fn definition(id: &str, a: Value, condition: Option<&str>) -> Value {
    let mut edge = json!({"id": "e", "source": "a", "target": "b"});
    if let Some(condition) = condition {
        edge["condition"] = condition.into();
    }
    let mut a = a;
    a["id"] = "a".into();
    a["data"]["retryPolicy"] = json!({"maxAttempts": 1});
    json!({
        "id": id, "name": id, "settings": {"onFailure": "failFast"},
        "nodes": [a, {"id": "b", "type": "function", "data": {"handlerId": "echo"}}],
        "edges": [edge],
    })
}

/// Nodes that become ready at once and map their input by this expression; `a` is the last.
fn fan(nodes: usize, source: &str) -> Value {
    let id = |n: usize| if n == nodes { "a".to_owned() } else { format!("n{n}") };
    let data = |n: usize| match n {
        0 => json!({"handlerId": "echo"}),
        _ => json!({"handlerId": "echo", "inputMapping": {"x": source}}),
    };
    let node = |n: usize| json!({"id": id(n), "type": "function", "data": data(n)});
    let edge = |n: usize| json!({"id": format!("e{n}"), "source": id(0), "target": id(n)});
    json!({
        "id": "fan", "name": "Fan", "settings": {"onFailure": "continue"},
        "nodes": (0..=nodes).map(node).collect::<Vec<_>>(),
        "edges": (1..=nodes).map(edge).collect::<Vec<_>>(),
    })
}

/// The source in every place that takes an expression.
fn places(source: &str) -> [(&'static str, Value, Option<&str>); 7] {
    let echo = |name: &str, value: Value| json!({"type": "function", "data": {"handlerId": "echo", name: value}});
    let each = json!({"source": [1, 2], "expression": source});
    [
        ("condition", echo("note", Value::Null), Some(source)),
        ("inputMapping", echo("inputMapping", json!({"x": source})), None),
        ("outputMapping", echo("outputMapping", json!({"x": source})), None),
        ("output", echo("output", source.into()), None),
        (
            "template alone",
            echo("note", format!("{{{{ {source} }}}}").into()),
            None,
        ),
        (
            "template in text",
            echo("note", format!("a {{{{ {source} }}}} b").into()),
            None,
        ),
        (
            "map",
            json!({"type": "transformation", "data": {"transformationType": "map", "transformationConfig": each}}),
            None,
        ),
    ]
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (does, source, message, limits) in EXPRESSIONS {
        for (place, node, condition) in places(source) {
            cases.push(Case {
                what: format!("an expression that {does}, as {place}"),
                definition: definition(&format!("e{}", cases.len()), node, condition),
                code: "EXPRESSION_ERROR",
                message,
                limits,
            });
        }
    }
    for (place, count, source) in [
        ("inputMapping", 300, "trigger.big"),
        ("inputMapping", 300, "trigger.big.includes('z')"),
        ("inputMapping", 150, "(() => trigger.big)()"),
        ("note", 300, "{{ trigger.big }}"),
    ] {
        let many: Map<String, Value> = (0..count).map(|n| (format!("x{n}"), source.into())).collect();
        let node = json!({"type": "function", "data": {"handlerId": "echo", place: many}});
        cases.push(Case {
            what: format!("{count} expressions {source}, as {place}"),
            definition: definition(&format!("m{}", cases.len()), node, None),
            code: "EXPRESSION_ERROR",
            message: "together",
            limits: &[],
        });
    }
    cases.push(Case {
        what: "a hundred nodes at once that each look for something thirty times".to_owned(),
        definition: fan(100, &["trigger.big.includes('z')"; 30].join(" || ")),
        code: "EXPRESSION_ERROR",
        message: "together",
        limits: &[],
    });
    for (does, body, code, message) in FUNCTIONS {
        let source = format!("function handler(input, context) {{ {body} }}");
        let mut data = json!({"functionName": "handler", "functionCode": source});
        if *code == "TIMEOUT" {
            data["timeout"] = 1_000.into();
        }
        cases.push(Case {
            what: format!("a function that {does}"),
            definition: definition(
                &format!("f{}", cases.len()),
                json!({"type": "function", "data": data}),
                None,
            ),
            code,
            message,
            limits: &[],
        });
    }
    for (does, template, message) in TEMPLATES {
        let node =
            json!({"type": "transformation", "data": {"transformationType": "enrichment", "template": template}});
        cases.push(Case {
            what: format!("a Jinja template that {does}"),
            definition: definition(&format!("j{}", cases.len()), node, None),
            code: "TEMPLATE_ERROR",
            message,
            limits: if *message == "deadline" { &["TIMEOUT"] } else { &[] },
        });
    }
    cases
}

/// Runs the case; what is not as it should be.
async fn faults(server: &Server, case: &Case, start: String) -> Vec<String> {
    server.apply(&case.definition).await;
    let workflow = case.definition["id"].as_str().unwrap();
    let ended = server.run(workflow, start).await;
    let mut faults = Vec::new();
    if (ended.status, &ended.body["status"]) != (200, &json!("failed")) {
        faults.push(format!(
            "{}: ended with {} {}",
            case.what,
            ended.status,
            shown(&ended.body)
        ));
        return faults;
    }
    let id = ended.body["id"].as_str().unwrap();
    let node = server.get(&format!("/executions/{id}/nodes/a")).await.body;
    let error = &node["error"];
    let (code, message) = (
        error["code"].as_str().unwrap_or(""),
        error["message"].as_str().unwrap_or(""),
    );
    println!("{}: {code} {message:.120} {}", case.what, error["details"]);
    let limit = error["details"]["limit"].as_str();
    if code != case.code
        || !message.contains(case.message)
        || message.chars().count() > MESSAGE_CHARS_MAX
        || limit.map_or(!case.limits.is_empty(), |limit| !case.limits.contains(&limit))
    {
        faults.push(format!("{}: {}", case.what, shown(error)));
    }
    faults
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(400).collect()
}

fn assert_treated_well(engine: &Treatment, code: &Treatment) {
    assert!(
        engine.completed > 0 && engine.slowest < PROMPT.0,
        "the innocent workflow was held up: {engine:?}"
    );
    assert!(
        code.completed > 0 && code.slowest < PROMPT.1,
        "the innocent function code was held up: {code:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_code_is_answered_and_disturbs_nobody() {
    let server = Server::start(&[]);
    apply_innocents(&server).await;
    let client = Arc::clone(&server);
    let hostile = async move {
        // Payloads of megabytes cost everybody time; few of them are under way at once.
        let big = json!({"input": {"big": "aB".repeat(1 << 18)}}).to_string();
        let (large, small): (Vec<Case>, Vec<Case>) = cases()
            .into_iter()
            .partition(|case| case.definition.to_string().contains(".big"));
        let run = |cases: Vec<Case>, start: String, at_once: usize| {
            let server = Arc::clone(&client);
            futures::stream::iter(cases)
                .map(move |case| (Arc::clone(&server), start.clone(), case))
                .map(async |(server, start, case)| faults(&server, &case, start).await)
                .buffer_unordered(at_once)
                .concat()
        };
        let (large, small) = tokio::join!(run(large, big, LARGE_AT_ONCE), run(small, "{}".to_owned(), AT_ONCE));
        [large, small].concat()
    };
    let (faults, engine, code) = beside_innocents(&server, hostile).await;
    println!("without the sandbox: {engine:?}; with it: {code:?}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_treated_well(&engine, &code);
    server.assert_alive().await;
}

/// Bytes of a request with what they are answered with.
struct Document {
    what: &'static str,
    path: &'static str,
    content: &'static str,
    bytes: Vec<u8>,
    status: u16,
    code: &'static str,
    /// Code and part of the hint of one of the problems; empty where it has no hint.
    problem: Option<(&'static str, &'static str)>,
}

const DEFINE: &str = "/workflows";
const START: &str = "/workflows/innocent/executions";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

fn graph(nodes: usize, edges: impl IntoIterator<Item = (usize, usize)>) -> Vec<u8> {
    let node = |n: usize| format!(r#"{{"id":"n{n}","type":"function","data":{{"handlerId":"echo"}}}}"#);
    let edge = |(n, (source, target)): (usize, (usize, usize))| {
        format!(r#"{{"id":"e{n}","source":"n{source}","target":"n{target}"}}"#)
    };
    let nodes: Vec<String> = (0..nodes).map(node).collect();
    let edges: Vec<String> = edges.into_iter().enumerate().map(edge).collect();
    let (nodes, edges) = (nodes.join(","), edges.join(","));
    format!(r#"{{"id":"graph","name":"Graph","nodes":[{nodes}],"edges":[{edges}]}}"#).into_bytes()
}

fn documents() -> Vec<Document> {
    let define = |what, content, bytes: &[u8], code| Document {
        what,
        path: DEFINE,
        content,
        bytes: bytes.to_vec(),
        status: 400,
        code,
        problem: Some((code, "")),
    };
    let invalid = |what, bytes: &[u8], problem, hint| Document {
        status: 422,
        code: "INVALID_DEFINITION",
        problem: Some((problem, hint)),
        ..define(what, JSON, bytes, "")
    };
    let start = |what, bytes: Vec<u8>, status, code| Document {
        what,
        path: START,
        content: JSON,
        bytes,
        status,
        code,
        problem: None,
    };
    let deep = |open: &str, close: &str| [open.repeat(10_000), close.repeat(10_000)].concat().into_bytes();
    let deep_payload = |open: &str, close: &str| [b"{\"input\":".to_vec(), deep(open, close), b"}".to_vec()].concat();
    let deep_yaml: String = (0..1_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let mut documents = vec![
        define("malformed JSON", JSON, b"{\"id\": \"x\", \"nodes\": [", "INVALID_JSON"),
        define("malformed YAML", YAML, b"id: x\nnodes: [\n  - {", "INVALID_YAML"),
        define("nothing", JSON, b"", "INVALID_JSON"),
        define("JSON of depth 10,000", JSON, &deep("[", "]"), "NESTING_TOO_DEEP"),
        define(
            "JSON that opens 10,000 lists",
            JSON,
            &b"[".repeat(10_000),
            "NESTING_TOO_DEEP",
        ),
        define("YAML of depth 10,000", YAML, &deep("[", "]"), "NESTING_TOO_DEEP"),
        define(
            "YAML that indents deeper and deeper",
            YAML,
            deep_yaml.as_bytes(),
            "NESTING_TOO_DEEP",
        ),
        define(
            "a definition that is no UTF-8",
            JSON,
            b"{\"id\": \"\xff\xfe\"}",
            "INVALID_UTF8",
        ),
        define("YAML that is no UTF-8", YAML, b"id: \xc3\x28", "INVALID_UTF8"),
        invalid(
            "an unknown node type",
            br#"{"id":"x","name":"x","nodes":[{"id":"a","type":"functoin","data":{}}],"edges":[]}"#,
            "UNKNOWN_NODE_TYPE",
            "did you mean `function`?",
        ),
        invalid(
            "a cycle that nothing enters",
            &graph(2, [(0, 1), (1, 0)]),
            "UNREACHABLE_NODE",
            "lead an edge",
        ),
        invalid(
            "a cycle that nothing leaves",
            &graph(3, [(0, 1), (1, 2), (2, 1)]),
            "LOOP_WITHOUT_EXIT",
            "",
        ),
        invalid(
            "a node that waits for itself",
            &graph(1, [(0, 0)]),
            "LOOP_WITHOUT_EXIT",
            "",
        ),
        invalid(
            "a cycle with two entries",
            &graph(4, [(0, 1), (0, 2), (1, 2), (2, 1), (2, 3)]),
            "IRREDUCIBLE_CYCLE",
            "",
        ),
        start("a malformed payload", b"{\"input\": }".to_vec(), 400, "INVALID_JSON"),
        start(
            "a payload of depth 10,000",
            deep_payload("[", "]"),
            400,
            "NESTING_TOO_DEEP",
        ),
        start(
            "a payload of 10,000 objects",
            deep_payload("{\"a\":", "}"),
            400,
            "NESTING_TOO_DEEP",
        ),
        start(
            "a payload that is no UTF-8",
            b"{\"input\": \"\xff\"}".to_vec(),
            400,
            "INVALID_UTF8",
        ),
    ];
    for (what, path) in [("a definition of 100 MB", DEFINE), ("a payload of 100 MB", START)] {
        documents.push(Document {
            path,
            ..start(what, vec![b' '; 100 << 20], 413, "BODY_TOO_LARGE")
        });
    }
    documents
}

/// What is not as it should be in the answer.
fn unclear(document: &Document, answer: &Answer) -> Option<String> {
    let body = &answer.body;
    let is_clear = |item: &Value| {
        let text = item["detail"].as_str().unwrap_or("");
        !text.is_empty() && text.chars().count() <= MESSAGE_CHARS_MAX
    };
    let mut problems = body["errors"].as_array().into_iter().flatten();
    let good = answer.status == document.status
        && body["code"] == document.code
        && body["status"] == document.status
        && body["type"] == format!("/docs/errors/{}", document.code)
        && is_clear(body)
        && problems.clone().all(is_clear)
        && document.problem.is_none_or(|(code, hint)| {
            problems.any(|problem| problem["code"] == code && problem["hint"].as_str().unwrap_or("").contains(hint))
        });
    println!("{}: {} {}", document.what, answer.status, shown(body));
    (!good).then(|| format!("{}: {} {}", document.what, answer.status, shown(body)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_documents_are_refused_and_disturb_nobody() {
    let server = Server::start(&[]);
    apply_innocents(&server).await;
    let client = Arc::clone(&server);
    let hostile = async move {
        let answers = futures::stream::iter(documents())
            .map(|document| (Arc::clone(&client), document))
            .map(async |(server, mut document)| {
                let bytes = std::mem::take(&mut document.bytes);
                let headers = [("content-type", document.content)];
                let answer = server.call(Method::POST, document.path, &headers, bytes).await;
                unclear(&document, &answer)
            });
        answers.buffer_unordered(4).collect::<Vec<_>>().await
    };
    let (faults, engine, code) = beside_innocents(&server, hostile).await;
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    println!("without the sandbox: {engine:?}; with it: {code:?}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_treated_well(&engine, &code);
    server.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphs_of_100_000_nodes_are_analysed_and_larger_ones_refused() {
    const MANY: usize = 100_000;
    let server = Server::start(&[("TROUPE_LIMITS_BODY_KIB", "32768")]);
    apply_innocents(&server).await;
    let chain = |nodes: usize| graph(nodes, (1..nodes).map(|n| (n - 1, n)));
    let client = Arc::clone(&server);
    let work = async move {
        let server = client;
        let valid = server.call(Method::POST, "/workflows/validate", &[], chain(MANY)).await;
        let larger = server
            .call(Method::POST, "/workflows/validate", &[], chain(MANY + 1))
            .await;
        // The first node leads into a ring of all others.
        let ring = graph(MANY, (0..MANY).map(|n| (n, n % (MANY - 1) + 1)));
        let ring = server.call(Method::POST, "/workflows/validate", &[], ring).await;
        (valid, larger, ring)
    };
    let ((valid, larger, ring), engine, code) = beside_innocents(&server, work).await;
    assert_eq!(
        (valid.status, &valid.body["valid"]),
        (200, &json!(true)),
        "{}",
        shown(&valid.body)
    );
    for (answer, problem) in [(larger, "TOO_MANY_NODES"), (ring, "LOOP_WITHOUT_EXIT")] {
        assert_eq!((answer.status, &answer.body["valid"]), (200, &json!(false)));
        let first = &answer.body["problems"][0];
        assert_eq!(first["code"], problem, "{}", shown(&answer.body));
        assert!(
            first["detail"].as_str().unwrap().chars().count() <= MESSAGE_CHARS_MAX,
            "{}",
            shown(first)
        );
    }
    assert_treated_well(&engine, &code);
    server.assert_alive().await;
}

//! Function code and expressions in real sandbox processes.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as JsonValue, json};
use support::{failure, output, task_of};
use troupe_core::{Json, Value};
use troupe_executors::{SandboxOptions, SandboxPool};
use troupe_ports::{Clock, Executed, Sandbox, SandboxJob, SystemClock};

fn options() -> SandboxOptions {
    SandboxOptions {
        program: Some(env!("CARGO_BIN_EXE_troupe-sandbox-child").into()),
        processes: 1,
        processes_max: 3,
        ..SandboxOptions::default()
    }
}

async fn pool() -> SandboxPool {
    SandboxPool::start(options()).await.unwrap()
}

async fn call_in(pool: &SandboxPool, workflow: &str, code: &str, input: JsonValue) -> Executed {
    pool.call_function(&task_of(workflow, "function", &json!({}), &input), code, "f")
        .await
}

async fn call(pool: &SandboxPool, code: &str, input: JsonValue) -> Executed {
    call_in(pool, "w", code, input).await
}

async fn call_for(pool: &SandboxPool, code: &str, ms: u64) -> Executed {
    let mut task = task_of("w", "function", &json!({}), &json!(null));
    task.deadline = SystemClock.now().plus_ms(ms);
    pool.call_function(&task, code, "f").await
}

#[tokio::test]
async fn functions_are_called_with_input_and_context() {
    let pool = pool().await;
    let mut task = task_of("w", "function", &json!({}), &json!({"a": 20}));
    Arc::make_mut(&mut task.variables).insert("b".to_owned(), Value::Inline(Json::of(&json!(22))));
    let code = "function f(input, context) { context.log('sum', {of: 2}); console.error('x'); return {sum: input.a + context.variables.b, context} }";
    let executed = pool.call_function(&task, code, "f").await;
    let result = output(&executed);
    assert_eq!(result["sum"], 42);
    let expected = json!({
        "executionId": task.execution.to_string(), "workflowId": "w", "version": 1, "nodeId": "n", "run": 1, "visit": 1,
        "attempt": 1, "idempotencyKey": task.idempotency_key(), "variables": {"b": 22}, "deadline": task.deadline.0,
    });
    assert_eq!(result["context"], expected);
    let logs: Vec<_> = executed
        .logs
        .iter()
        .map(|line| (line.level.as_str(), line.message.as_str()))
        .collect();
    assert_eq!(logs, [("info", "sum {\"of\":2}"), ("error", "x")]);
}

#[tokio::test]
async fn code_may_be_asynchronous_typed_exported_or_one_function() {
    let pool = pool().await;
    for code in [
        "async function f(i) { await null; return (await Promise.all([i, Promise.resolve(1)])).reduce((a, b) => a + b) }",
        "const f = (i) => ({ then(done) { done(i + 1) } });",
        "interface N { n: number }\nexport default async function f(i: number): Promise<number> { const n: N = { n: i }; return n.n! + 1 }",
        "export const f = (i) => i + 1;",
        "(i) => i + 1",
        "class A { constructor(i) { this.i = i } get next() { return this.i + 1 } }\nfunction f(i) { return new A(i).next }",
    ] {
        assert_eq!(output(&call(&pool, code, json!(41)).await), json!(42), "{code}");
    }
    for code in [
        "function f() {}",
        "function f() { return () => 1 }",
        "const f = () => null",
        "async () => undefined",
    ] {
        assert_eq!(output(&call(&pool, code, json!(1)).await), json!(null), "{code}");
    }
}

#[tokio::test]
async fn what_code_throws_is_kept() {
    let pool = pool().await;
    let code = "class Refused extends Error { constructor() { super('no stock'); this.name = 'Refused'; this.code = 'NO_STOCK'; this.details = {left: 0}; this.retryable = false; this.retryAfter = 1500 } }\nasync function f() { await 0; throw new Refused() }";
    let executed = call(&pool, code, json!(null)).await;
    let failed = failure(&executed);
    assert_eq!(
        (failed.error.code.as_str(), failed.error.message.as_str()),
        ("NO_STOCK", "Refused: no stock")
    );
    assert_eq!((failed.retryable, failed.retry_after_ms), (false, Some(1_500)));
    assert_eq!(failed.error.details, Some(Json::of(&json!({"left": 0}))));
    assert!(
        failed.error.stack.as_deref().unwrap().contains("f:2"),
        "{:?}",
        failed.error.stack
    );
    for (code, message) in [
        ("function f() { throw null }", "null was thrown"),
        ("function f() { throw 'text' }", "text"),
        ("function f() { throw undefined }", "undefined was thrown"),
        (
            "function f() { return Promise.reject(new TypeError('bad')) }",
            "TypeError: bad",
        ),
        ("function f() { throw {get message() { throw 1 }} }", "[object Object]"),
        ("function f() { throw new RangeError() }", "RangeError"),
        ("function f() { throw new Error() }", "Error"),
        ("function f() { throw {left: 0} }", "{\"left\":0}"),
        (
            "function f(i) { return i.a.b }",
            "TypeError: cannot read property 'a' of null",
        ),
    ] {
        let executed = call(&pool, code, json!(null)).await;
        let failed = failure(&executed);
        assert_eq!(
            (
                failed.error.code.as_str(),
                failed.error.message.as_str(),
                failed.retryable
            ),
            ("FUNCTION_ERROR", message, true),
            "{code}"
        );
    }
}

#[tokio::test]
async fn hostile_code_gets_a_code_and_disturbs_nobody() {
    let pool = pool().await;
    for (code, expected) in [
        ("while (true) {}", "TIMEOUT"),
        ("for (;;) { await null }", "TIMEOUT"),
        ("return /^(a+)+$/.test('a'.repeat(40) + 'b')", "TIMEOUT"),
        // QuickJS does not look at the clock while it joins: the process is killed.
        ("return new Array(4294967295).join('').length", "TIMEOUT"),
        ("await new Promise(() => {})", "FUNCTION_STALLED"),
        ("const a = []; for (;;) a.push(new Array(1000).fill(0))", "MEMORY_LIMIT"),
        ("return 'x'.repeat(2 ** 30 - 1)", "MEMORY_LIMIT"),
        // QuickJS refuses to make these before it asks for memory.
        ("return 'x'.repeat(2 ** 30)", "MEMORY_LIMIT"),
        ("return 'x'.padEnd(2 ** 30)", "MEMORY_LIMIT"),
        ("let s = 'x'; for (;;) s += s; ", "MEMORY_LIMIT"),
        ("const g = () => g() + 1; return g()", "STACK_LIMIT"),
        ("return 10n", "OUTPUT_NOT_JSON"),
        ("const a = {}; a.a = a; return a", "OUTPUT_NOT_JSON"),
        (
            "let a = []; for (let i = 0; i < 200; i++) a = [a]; return a",
            "OUTPUT_NOT_JSON",
        ),
        ("return {toJSON() { throw new Error('x') }}", "OUTPUT_NOT_JSON"),
        ("return 'x'.repeat(2 << 20)", "OUTPUT_TOO_LARGE"),
    ] {
        let started = Instant::now();
        // A busy machine takes a while to fill the memory, and to come to anything else.
        let (deadline_ms, at_most) = match expected {
            "TIMEOUT" => (400, Duration::from_secs(5)),
            _ => (10_000, Duration::from_secs(15)),
        };
        let executed = call_for(&pool, &format!("async function f() {{ {code} }}"), deadline_ms).await;
        let failed = failure(&executed);
        assert_eq!(failed.error.code, expected, "{code}: {failed:?}");
        assert_eq!(failed.retryable, expected == "TIMEOUT", "{code}");
        assert!(started.elapsed() < at_most, "{code} took {:?}", started.elapsed());
        assert_eq!(
            output(&call(&pool, "(i) => i", json!(7)).await),
            json!(7),
            "after {code}"
        );
    }
    for (code, expected) in [
        ("function f( {", "FUNCTION_CODE_INVALID"),
        ("const f = 1\nlet a: = 2", "FUNCTION_CODE_INVALID"),
        ("});let leak = 1;(function(){", "FUNCTION_CODE_INVALID"),
        ("const g = 1 // f", "FUNCTION_NOT_DEFINED"),
    ] {
        let executed = call(&pool, code, json!(null)).await;
        assert_eq!(
            (failure(&executed).error.code.as_str(), failure(&executed).retryable),
            (expected, false),
            "{code}"
        );
        assert_eq!(
            pool.check_function_code(code, "f").await.unwrap_err().code,
            expected,
            "{code}"
        );
    }
    let error = pool
        .check_function_code("const f = 1\nlet a: = 2", "f")
        .await
        .unwrap_err();
    assert_eq!(error.details, Some(Json::of(&json!({"line": 2, "column": 8}))));
    pool.check_function_code("async function f(a: string) {}", "f")
        .await
        .unwrap();
    let compiled = call(
        &pool,
        "enum Color { Red = 'r' }\nfunction f(): Color { return Color.Red }",
        json!(null),
    )
    .await;
    assert_eq!(output(&compiled), json!("r"));
}

#[tokio::test]
async fn nothing_survives_a_call() {
    let pool = pool().await;
    // Each tries to leave something behind in every place known to keep state; the next call looks for it.
    let leave = r"
        const tries = [
            () => { globalThis.leak = 1 }, () => { Array.prototype.leak = 1 }, () => { Object.prototype.leak = 1 },
            () => { (function* () {}).constructor.prototype.leak = 1 }, () => { console.leak = 1 },
            () => { Math.random = () => 4 }, () => { Object.defineProperty(Promise.prototype, 'then', {value: 1}) },
            () => { (0, eval)('var leak = 1; let leak2 = 1') }, () => { (0, eval)('let leak2 = 1') }, () => { new Function('leak = 1')() },
            () => { Function('a = 1){}); let leak2 = 1; ((', '') },
            () => { (async () => {}).constructor('leak = 1') },
            () => { Error.prepareStackTrace = () => 'leak' }, () => { Error.stackTraceLimit = 0 },
            () => { new FinalizationRegistry(() => {}) }, () => { new WeakRef({}) }, () => { [].values().__proto__.leak = 1 },
            () => { context.log.leak = 1 }, () => { JSON.stringify = () => 'leak' }, () => { Error.prototype.name = 'leak' },
            () => { Object.prototype.toString = () => 'leak' }, () => { [].values().map(x => x).__proto__.leak = 1 },
        ];
        let count = (globalThis.count ?? 0) + 1, refused = 0;
        let top = 0;
        function f(input, context_) { top += 1; context = context_; for (const t of tries) { try { t() } catch { refused += 1 } }
            return {top, refused, tries: tries.length, leak: typeof leak, leak2: typeof leak2, proto: {}.leak === undefined,
                    random: Math.random() === 4, stack: typeof new Error('x').stack, text: String({}), name: new Error('x').name} }
        let context;";
    for _ in 0..3 {
        let result = output(&call(&pool, leave, json!(null)).await);
        let tries = result["tries"].clone();
        // Setting a property on the deleted hooks of `Error` is refused like everything else: all are frozen.
        let expected = json!({"top": 1, "refused": tries, "tries": tries, "leak": "undefined", "leak2": "undefined",
            "proto": true, "random": false, "stack": "string", "text": "[object Object]", "name": "Error"});
        assert_eq!(result, expected);
    }
    // Every object that can be reached from a literal or a global is frozen.
    let walk = r"function f() {
        const seen = new Set(), open = [globalThis, function* () {}, async function* () {}, async () => {}, [].values(),
            new Map().keys(), ''.matchAll(/a/g), /a/, new Date(), Promise.resolve(), Symbol.prototype, 1n, true, 'x', new Error('x')].map(
            (v) => (v === globalThis ? v : Object.getPrototypeOf(v)));
        const loose = [];
        while (open.length) { const v = open.pop();
            if ((typeof v !== 'object' && typeof v !== 'function') || v === null || seen.has(v)) continue;
            seen.add(v);
            if (!Object.isFrozen(v)) loose.push(String(v));
            open.push(Object.getPrototypeOf(v));
            for (const k of Reflect.ownKeys(v)) { const d = Object.getOwnPropertyDescriptor(v, k); open.push(d.value, d.get, d.set) } }
        return {loose, many: seen.size > 500} }";
    assert_eq!(
        output(&call(&pool, walk, json!(null)).await),
        json!({"loose": [], "many": true})
    );
    // What a call leaves in the job queue ends with it, or its context does.
    let endless = "function f() { const again = () => Promise.resolve().then(again); again(); return 1 }";
    assert_eq!(output(&call(&pool, endless, json!(null)).await), json!(1));
    assert_eq!(output(&call(&pool, "(i) => i", json!(2)).await), json!(2));
}

#[tokio::test]
async fn ordinary_code_does_not_notice_the_frozen_intrinsics() {
    let pool = pool().await;
    let code = r"function f() {
        const e = new Error('a'); e.name = 'Mine'; e.message = 'b'; e.toString = () => 'own';
        const o = {}; o.toString = () => 'o'; o.constructor = 1; o.valueOf = () => 3;
        class P { toString() { return 'P' } } P.prototype.name = 'p'; class Q extends P {}
        function Old() {} Old.prototype.toString = function () { return 'old' }; Old.name2 = 1;
        const a = [3, 1, 2]; a.sort(); a.extra = 1; const m = new Map([[1, 2]]);
        return [e.name, e.message, String(e), `${o}`, o + 1, String(new Q()), new Q().name, String(new Old()), a, [...m], Object.keys(o),
            typeof Date.now(), JSON.stringify(new Date(0)), isFinite(Math.random()), structured()] }
        function structured() { return Object.groupBy([1, 2, 3], (n) => (n % 2 ? 'odd' : 'even')).odd }";
    let expected = json!([
        "Mine",
        "b",
        "own",
        "o",
        4,
        "P",
        "p",
        "old",
        [1, 2, 3],
        [[1, 2]],
        ["toString", "constructor", "valueOf"],
        "number",
        "\"1970-01-01T00:00:00.000Z\"",
        true,
        [1, 3]
    ]);
    assert_eq!(output(&call(&pool, code, json!(null)).await), expected);
}

#[tokio::test]
async fn the_lock_refuses_files_network_and_processes() {
    let pool = SandboxPool::start(SandboxOptions {
        probe: true,
        ..options()
    })
    .await
    .unwrap();
    let lockdown = pool.status().lockdown;
    assert!(
        lockdown.seccomp && lockdown.no_new_privileges && lockdown.resource_limits && lockdown.dies_with_parent,
        "{lockdown:?}"
    );
    let JsonValue::Object(tried) = pool.probe().await.unwrap().to_value().unwrap() else {
        panic!("no object")
    };
    assert_eq!(tried.len(), 8);
    for (what, outcome) in tried {
        assert_eq!(outcome, "EPERM", "{what}");
    }
    let closed = self::pool().await;
    assert_eq!(closed.probe().await.unwrap_err().code, "PROBE_REFUSED");
}

#[tokio::test]
async fn expressions_see_their_scope_and_nothing_else() {
    let pool = pool().await;
    let evaluate = async |source: &str| {
        let scope = Json::of(&json!({"input": {"items": [1, 2, 3]}, "extra": 1}));
        pool.evaluate(SandboxJob {
            workflow: "w".into(),
            version: 1,
            source: source.into(),
            scope,
        })
        .await
    };
    assert_eq!(
        evaluate("input.items.map((x) => x * 2).filter((x) => { return x > 2 })")
            .await
            .unwrap()
            .as_str(),
        "[4,6]"
    );
    assert_eq!(evaluate("(() => undefined)()").await.unwrap().as_str(), "null");
    assert_eq!(
        evaluate("typeof output + (error ?? 'none')").await.unwrap().as_str(),
        "\"undefinednone\""
    );
    assert_eq!(evaluate("await0 = 1").await.unwrap_err().code, "EXPRESSION_ERROR");
    assert_eq!(
        evaluate("'\\ud800'").await.unwrap().to_value().unwrap(),
        json!("\u{fffd}")
    );
    for (source, limit) in [
        ("(() => { for (;;) {} })()", Some("TIMEOUT")),
        ("'x'.repeat(2 ** 29)", Some("MEMORY_LIMIT")),
        ("(function g() { return g() })()", Some("STACK_LIMIT")),
        ("1 +", None),
        ("1; 2", None),
        ("1); (2", None),
        ("1n", None),
        ("input.nothing.at", None),
    ] {
        let error = evaluate(source).await.unwrap_err();
        assert_eq!(error.code, "EXPRESSION_ERROR", "{source}");
        let told = error
            .details
            .map(|details| details.to_value().unwrap()["limit"].clone());
        assert_eq!(told, limit.map(JsonValue::from), "{source}");
    }
}

#[tokio::test]
async fn long_calls_hold_nobody_up_and_dropped_ones_free_their_process() {
    let pool = pool().await;
    let hog = tokio::spawn({
        let pool = pool.clone();
        async move { call_for(&pool, "function f() { for (;;) {} }", 60_000).await }
    });
    while pool.status().blocked == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let quick = futures::future::join_all((0..20).map(|n| call(&pool, "(i) => i", json!(n))));
    let answers = tokio::time::timeout(Duration::from_secs(30), quick).await.unwrap();
    answers
        .iter()
        .enumerate()
        .for_each(|(n, executed)| assert_eq!(output(executed), json!(n)));
    assert!(pool.status().processes > 1);
    hog.abort();
    // The hog's process is killed once nobody waits for it; then no process is held.
    tokio::time::timeout(Duration::from_secs(30), async {
        while pool.status().blocked > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn one_workflow_never_holds_every_process() {
    let pool = SandboxPool::start(SandboxOptions {
        processes_max: 4,
        ..options()
    })
    .await
    .unwrap();
    // Many more than there are processes, for longer than this test waits for the others.
    let hogs: Vec<_> = (0..20)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { call_for(&pool, "function f() { for (;;) {} }", 60_000).await })
        })
        .collect();
    while pool.status().blocked < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for n in 0..100 {
        let innocent = call_in(&pool, "innocent", "(i) => i", json!(n));
        let executed = tokio::time::timeout(Duration::from_secs(10), innocent).await.unwrap();
        assert_eq!(output(&executed), json!(n));
    }
    let settled = async {
        while pool.status().blocked > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.unwrap();
    hogs.iter().for_each(tokio::task::JoinHandle::abort);
    // What waits behind its own workflow gets its turn.
    let executed = tokio::time::timeout(Duration::from_secs(30), call(&pool, "(i) => i", json!(1))).await;
    assert_eq!(output(&executed.unwrap()), json!(1));
}

/// An expression's time is its own: what it waits for a process counts for nobody.
#[tokio::test]
async fn expressions_outlast_those_that_hold_the_processes() {
    let pool = SandboxPool::start(SandboxOptions {
        processes_max: 1,
        expression_timeout: Duration::from_secs(2),
        ..options()
    })
    .await
    .unwrap();
    let hog = call_for(&pool, "function f() { for (;;) {} }", 4_000);
    let waiting = async {
        while pool.status().blocked == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let job = SandboxJob {
            workflow: "other".into(),
            version: 1,
            source: "(() => 42)()".into(),
            scope: Json::of(&json!({})),
        };
        pool.evaluate(job).await
    };
    let (hog, waiting) = tokio::join!(hog, waiting);
    assert_eq!(failure(&hog).error.code, "TIMEOUT");
    assert_eq!(waiting.unwrap().as_str(), "42");
}

/// What is taken back from behind a long call may have begun all the same; whoever comes next must not be blamed for it.
#[tokio::test]
async fn what_was_taken_back_too_late_is_nobodys_fault() {
    let pool = SandboxPool::start(SandboxOptions {
        processes_max: 1,
        expression_timeout: Duration::from_millis(300),
        kill_grace: Duration::from_millis(50),
        ..options()
    })
    .await
    .unwrap();
    let evaluate = async |workflow: &str, source: String| {
        let (workflow, scope) = (workflow.into(), Json::of(&json!({})));
        let job = SandboxJob {
            workflow,
            version: 1,
            source: source.into(),
            scope,
        };
        pool.evaluate(job).await
    };
    for n in 0..40_u64 {
        // It ends about when those behind it are taken back: some ends come just before, some just after.
        let us = 9_000 + 250 * n;
        let long = format!("const f = () => {{ const end = Date.now() + {us} / 1000; while (Date.now() < end); }}");
        let (long, endless, quick) = tokio::join!(
            call_in(&pool, "long", &long, json!(null)),
            evaluate("hostile", format!("(() => {{ for (;;) {{}} }})() + {n}")),
            evaluate("innocent", format!("(() => {n})()")),
        );
        assert_eq!(output(&long), json!(null));
        assert_eq!(endless.unwrap_err().code, "EXPRESSION_ERROR");
        assert_eq!(quick.unwrap().as_str(), n.to_string());
    }
}

#[tokio::test]
async fn a_process_that_gets_no_memory_is_told_from_one_that_crashed() {
    let pool = pool().await;
    let running = tokio::spawn({
        let pool = pool.clone();
        async move { call_for(&pool, "function f() { for (;;) {} }", 60_000).await }
    });
    while pool.status().blocked == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Rust code aborts when it gets no memory.
    for pid in children_of(std::process::id()) {
        let aborted = std::process::Command::new("kill")
            .args(["-ABRT", &pid.to_string()])
            .status();
        assert!(aborted.unwrap().success());
    }
    let executed = running.await.unwrap();
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("MEMORY_LIMIT", false)
    );
}

#[tokio::test]
async fn a_crash_fails_only_the_call_that_caused_it() {
    let pool = SandboxPool::start(SandboxOptions {
        kill_grace: Duration::from_secs(60),
        ..options()
    })
    .await
    .unwrap();
    // Killed from outside while one call runs and others wait behind it: the lone culprit is told, the rest is served.
    let pids = || children_of(std::process::id());
    let running = tokio::spawn({
        let pool = pool.clone();
        async move { call_for(&pool, "function f() { for (;;) {} }", 60_000).await }
    });
    while pool.status().blocked == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = pids();
    assert!(!before.is_empty());
    for pid in &before {
        std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap();
    }
    let executed = running.await.unwrap();
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("SANDBOX_CRASHED", true)
    );
    assert_eq!(output(&call(&pool, "(i) => i", json!(1)).await), json!(1));

    pool.close().await;
    assert_eq!(pids(), Vec::<u32>::new());
    assert_eq!(
        failure(&call(&pool, "(i) => i", json!(1)).await).error.code,
        "SANDBOX_UNAVAILABLE"
    );
}

fn children_of(parent: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{parent}/task")).unwrap() {
        let listed = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    children
}

#[tokio::test]
async fn a_program_that_is_no_sandbox_is_refused() {
    let started = SandboxPool::start(SandboxOptions {
        program: Some("/bin/true".into()),
        ..options()
    })
    .await;
    assert!(started.unwrap_err().to_string().contains("run_child_if_requested"));
    let started = SandboxPool::start(SandboxOptions {
        program: Some("/nonexistent".into()),
        ..options()
    })
    .await;
    assert!(started.is_err());
}

#[tokio::test]
async fn large_inputs_are_refused_before_they_travel() {
    let pool = SandboxPool::start(SandboxOptions {
        input_bytes_max: 1_000,
        ..options()
    })
    .await
    .unwrap();
    let executed = call(&pool, "(i) => i", json!("x".repeat(1_000))).await;
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("INPUT_TOO_LARGE", false)
    );
}

#[tokio::test]
async fn expressions_are_compiled_without_being_run() {
    let pool = pool().await;
    let nested = format!("{}1", "!".repeat(60_000));
    for (source, expected) in [
        ("(() => { for (;;) {} })()", None),
        ("inpt.x > 1", None),
        ("1 +", Some(("expression ends too early", Some(3)))),
        ("x y", Some(("Unexpected identifier 'y'", Some(2)))),
        (
            "(() => { return 1 +})()",
            Some(("unexpected token in expression: '}'", Some(19))),
        ),
        ("input\n .é(\n", Some(("expression ends too early", Some(12)))),
        ("1); (2", Some(("Unexpected token ')'", Some(1)))),
        ("1; 2", Some(("Unexpected token ';'", Some(1)))),
        (&nested, Some(("the code needs more than 1048576 bytes of stack", None))),
        ("1", None),
    ] {
        let found = pool.check_expressions(&[source]).await.unwrap().remove(0);
        let shown = found.as_ref().map(|problem| (problem.message.as_str(), problem.offset));
        assert_eq!(shown, expected, "{source:.80}");
        assert_eq!(found.is_some_and(|problem| problem.is_limit), source.len() > 1_000);
    }
    let found = pool.check_expressions(&["1", "1 +", &nested, "2"]).await.unwrap();
    assert_eq!(
        found.iter().map(Option::is_some).collect::<Vec<_>>(),
        [false, true, true, false]
    );
}

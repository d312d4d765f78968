//! The engine on an embedded store: what users see of it.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{World, builtins, chain, on_store, store, world};
use tokio::sync::Semaphore;
use troupe_actors::{Command, EngineOptions, ExecutionView, KeyPolicy, OnClosed, OnOpen, StartRequest};
use troupe_backends::bus::EventFilter;
use troupe_core::definition::NodeKind;
use troupe_core::execution::{Status, Verb};
use troupe_core::{ExecutionId, Json, Seq};
use troupe_executors::{ExecutorsBuilder, HandlerCall, HandlerError, TransformationExecutor};
use troupe_ports::{ExecutionQuery, VisibilityStore};

fn node(id: &str, kind: &str, data: serde_json::Value) -> serde_json::Value {
    json!({"id": id, "type": kind, "name": id, "data": data, "dependencies": [], "position": {"x": 0, "y": 0}})
}

fn edge(source: &str, target: &str) -> serde_json::Value {
    json!({"id": format!("{source}-{target}"), "source": source, "target": target, "type": "success"})
}

fn output(view: &ExecutionView) -> serde_json::Value {
    let Status::Completed { output } = &view.state.status else {
        panic!("{:?}", view.state)
    };
    let troupe_core::Value::Inline(json) = output else {
        panic!("{output:?}")
    };
    json.to_value().unwrap()
}

/// A handler that signals its start and waits for its release; it says how often it was called.
struct Blocking {
    started: Arc<Semaphore>,
    release: Arc<Semaphore>,
    calls: Arc<AtomicU32>,
}

fn blocking() -> (ExecutorsBuilder, Blocking) {
    let control = Blocking {
        started: Arc::new(Semaphore::new(0)),
        release: Arc::new(Semaphore::new(0)),
        calls: Arc::default(),
    };
    let (started, release, calls) = (control.started.clone(), control.release.clone(), control.calls.clone());
    let executors = builtins().handler("block", move |_: HandlerCall| {
        let (started, release) = (started.clone(), release.clone());
        calls.fetch_add(1, Ordering::SeqCst);
        async move {
            started.add_permits(1);
            release.acquire().await.expect("never closed").forget();
            Ok(Json::from_trusted("\"done\""))
        }
    });
    (executors, control)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, waited)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

async fn gapless(world: &World, id: ExecutionId) -> Vec<troupe_core::execution::Entry> {
    let history = world.engine.history(id, Seq(0), 10_000).await.unwrap();
    let seqs: Vec<u64> = history.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=history.len() as u64).collect::<Vec<_>>());
    history
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_joins_what_its_branches_gave() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    let names: Vec<String> = (0..20).map(|n| format!("b{n}")).collect();
    let mut nodes = vec![node("root", "trigger", json!({"triggerType": "manual"}))];
    nodes.extend(
        names
            .iter()
            .map(|name| node(name, "function", json!({"handlerId": "echo"}))),
    );
    nodes.push(node("join", "function", json!({"handlerId": "echo"})));
    let edges = names
        .iter()
        .flat_map(|name| [edge("root", name), edge(name, "join")])
        .collect::<Vec<_>>();
    world
        .apply(json!({"id": "fan", "name": "fan", "version": 1, "nodes": nodes, "edges": edges}))
        .await;
    let view = world.ended(world.start("fan", json!(7)).await).await;
    let expected: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), json!(7))).collect();
    assert_eq!(output(&view), json!(expected));
    gapless(&world, view.state.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_retried_and_a_panic_is_a_failed_attempt() {
    let directory = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let count = calls.clone();
    let executors = builtins().handler("flaky", move |_: HandlerCall| {
        let call = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 => Err(HandlerError::new("FLAKY", "first")),
                1 => panic!("second"),
                _ => Ok(Json::from_trusted("3")),
            }
        }
    });
    let world = world(directory.path(), executors, EngineOptions::default()).await;
    let mut definition = chain("w", 1, "flaky");
    definition["nodes"][0]["data"]["retryPolicy"] = json!({"initialDelay": 5, "jitter": "none", "maxAttempts": 3});
    world.apply(definition).await;
    let view = world.ended(world.start("w", json!({})).await).await;
    assert_eq!(output(&view), json!(3));
    let codes: Vec<_> = view.state.nodes[0]
        .attempts
        .iter()
        .map(|attempt| attempt.error.as_ref().map(|error| error.code.as_str()))
        .collect();
    assert_eq!(codes, [Some("FLAKY"), Some("PANIC"), None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_has_the_timeout_that_its_template_gives() {
    let directory = tempfile::tempdir().unwrap();
    let executors = builtins().handler("forever", |_: HandlerCall| std::future::pending());
    let world = world(directory.path(), executors, EngineOptions::default()).await;
    let mut definition = chain("w", 1, "forever");
    definition["nodes"][0]["data"]["timeout"] = json!("{{ input.patience }}");
    definition["nodes"][0]["data"]["retryPolicy"] = json!({"maxAttempts": 1});
    world.apply(definition).await;
    let view = world.ended(world.start("w", json!({"patience": 20})).await).await;
    let attempts = &view.state.nodes[0].attempts;
    assert_eq!(
        attempts[0].error.as_ref().map(|error| error.code.as_str()),
        Some("TIMEOUT")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_that_its_template_makes_no_number_fails_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    for field in ["timeout", "totalTimeout"] {
        let mut definition = chain(field, 1, "echo");
        definition["nodes"][0]["data"][field] = json!("{{ input.patience }}");
        world.apply(definition).await;
        for patience in [
            json!("soon"),
            json!("20"),
            json!(null),
            json!(-1),
            json!([5]),
            json!(true),
        ] {
            let view = world
                .ended(world.start(field, json!({"patience": patience})).await)
                .await;
            let node = &view.state.nodes[0];
            let error = &node.failure.as_ref().expect("it failed").error;
            assert_eq!(error.code, "NODE_DATA_INVALID", "{field} {patience}");
            assert!(error.message.contains(field), "{}", error.message);
            assert!(node.attempts.is_empty(), "{field} {patience}");
        }
        let view = world
            .ended(world.start(field, json!({"patience": 20_000.5})).await)
            .await;
        assert_eq!(view.state.status.name(), "completed", "{field}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_execution_holds_no_actor_and_wakes() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    let nodes = [
        node("wait", "delay", json!({"delayType": "fixed", "delayValue": 2_500})),
        node("after", "function", json!({"handlerId": "echo"})),
    ];
    world
        .apply(json!({"id": "w", "name": "w", "version": 1, "nodes": nodes, "edges": [edge("wait", "after")]}))
        .await;
    let begun = support::now();
    let ids = [world.start("w", json!(1)).await, world.start("w", json!(2)).await];
    until("it passivates", || world.engine.status().active == 0).await;
    assert!(
        support::now().since_ms(begun) < 2_500,
        "it passivated before it was due"
    );
    assert_eq!(world.engine.get(ids[0]).await.unwrap().state.status.name(), "running");
    for (id, value) in ids.into_iter().zip([1, 2]) {
        let view = world.ended(id).await;
        assert_eq!(output(&view), json!(value));
        let late = view.state.ended_at.unwrap().since_ms(begun.plus_ms(2_500));
        assert!(
            view.state.ended_at.unwrap() >= begun.plus_ms(2_500) && late < 3_000,
            "{late} ms late"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_while_paused() {
    let directory = tempfile::tempdir().unwrap();
    let (executors, control) = blocking();
    let options = EngineOptions {
        attempts_max: 1,
        ..EngineOptions::default()
    };
    let world = world(directory.path(), executors, options).await;
    // Two roots, one permit: one attempt runs and the other waits for its turn.
    let nodes = [
        node("a", "function", json!({"handlerId": "block"})),
        node("b", "function", json!({"handlerId": "block"})),
    ];
    world
        .apply(json!({"id": "w", "name": "w", "version": 1, "nodes": nodes, "edges": []}))
        .await;
    let id = world.start("w", json!({})).await;
    control.started.acquire().await.unwrap().forget();
    let paused = world.engine.pause(id, Command::default()).await.unwrap();
    assert_eq!((paused.draining, paused.unchanged), (1, false));
    assert!(world.engine.pause(id, Command::default()).await.unwrap().unchanged);
    control.release.add_permits(2);
    until("the running attempt is recorded", || {
        world.engine.status().attempts_running == 0
    })
    .await;
    let read = world.engine.get(id).await.unwrap();
    assert!(read.state.paused && !read.state.status.is_terminal());
    assert_eq!(control.calls.load(Ordering::SeqCst), 1, "the queued attempt is held");
    world.engine.resume(id, Command::default()).await.unwrap();
    let view = world.ended(id).await;
    assert_eq!(output(&view), json!({"a": "done", "b": "done"}));
    let refused = world.engine.resume(id, Command::default()).await.unwrap_err();
    assert_eq!(refused.code(), "EXECUTION_ENDED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_aborts_what_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (executors, control) = blocking();
    let options = EngineOptions {
        abort_grace_ms: 10,
        ..EngineOptions::default()
    };
    let world = world(directory.path(), executors, options).await;
    world.apply(chain("w", 3, "block")).await;
    let id = world.start("w", json!({})).await;
    control.started.acquire().await.unwrap().forget();
    let command = Command {
        reason: Some("enough".into()),
        ..Command::default()
    };
    let outcome = world.engine.cancel(id, command).await.unwrap();
    assert!(!outcome.unchanged);
    let view = world.ended(id).await;
    assert_eq!(view.state.status.name(), "canceled");
    assert_eq!(world.engine.status().attempts_running, 0);
    assert_eq!(control.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (executors, control) = blocking();
    let mut interval = EngineOptions {
        checkpoint_interval: Duration::from_millis(20),
        ..EngineOptions::default()
    };
    for round in 0..2 {
        // Once recovered from the log alone, once over checkpoints.
        if round == 0 {
            interval.checkpoint_interval = Duration::from_secs(60);
        } else {
            interval.checkpoint_interval = Duration::from_millis(1);
        }
        let workflow = format!("w{round}");
        let (id, done);
        {
            let (executors, control) = blocking();
            let world = world(&directory.path().join(&workflow), executors, interval.clone()).await;
            let mut definition = chain(&workflow, 3, "echo");
            definition["nodes"][1]["data"]["handlerId"] = "block".into();
            world.apply(definition).await;
            world.apply(chain("quick", 2, "echo")).await;
            done = world.start("quick", json!("kept")).await;
            world.ended(done).await;
            id = world.start(&workflow, json!(5)).await;
            control.started.acquire().await.unwrap().forget();
            if round == 1 {
                until("a checkpoint is written", || {
                    world.engine.status().uncheckpointed_bytes == 0
                })
                .await;
            }
            world.engine.crash().await;
        }
        let (executors, control) = blocking();
        control.release.add_permits(1);
        let world = world(&directory.path().join(&workflow), executors, interval.clone()).await;
        assert_eq!(output(&world.engine.get(done).await.unwrap()), json!("kept"));
        gapless(&world, done).await;
        let view = world.ended(id).await;
        assert_eq!(output(&view), json!("done"));
        assert_eq!(control.calls.load(Ordering::SeqCst), 1);
        assert_eq!(view.state.nodes[1].interruptions, 1);
        let history = gapless(&world, id).await;
        assert!(
            history
                .iter()
                .any(|entry| matches!(entry.event, troupe_core::execution::Event::Interrupted))
        );
        world.engine.shutdown(Duration::from_secs(1)).await;
    }
    drop((executors, control));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_key_always_gives_the_first_execution() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        checkpoint_interval: Duration::from_millis(1),
        ..EngineOptions::default()
    };
    let keyed = || StartRequest {
        request_key: Some("k".into()),
        ..StartRequest::new("w", Json::from_trusted("1"))
    };
    let first;
    {
        let world = world(directory.path(), builtins(), options.clone()).await;
        world.apply(chain("w", 2, "echo")).await;
        let starts = futures::future::join_all((0..8).map(|_| world.engine.start(keyed()))).await;
        let outcomes: Vec<_> = starts.into_iter().map(Result::unwrap).collect();
        assert_eq!(outcomes.iter().filter(|outcome| !outcome.existing).count(), 1);
        first = outcomes[0].id;
        assert!(outcomes.iter().all(|outcome| outcome.id == first));
        world.ended(first).await;
        until("it is archived", || world.engine.status().uncheckpointed_bytes == 0).await;
        let closed = world.engine.start(keyed()).await.unwrap();
        assert!(closed.existing && closed.id == first);
        world.engine.crash().await;
    }
    let world = world(directory.path(), builtins(), options).await;
    let again = world.engine.start_watched(keyed()).await.unwrap();
    assert!(again.0.existing && again.0.id == first);
    assert_eq!(again.1.ended().await.unwrap().status, "completed");
}

/// What refuses a new start says nothing of an execution that there is: its request key finds it, open, closed or gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_key_finds_its_execution_where_nothing_new_may_start() {
    let directory = tempfile::tempdir().unwrap();
    let (executors, control) = blocking();
    let options = EngineOptions {
        executions_max: 1,
        checkpoint_interval: Duration::from_millis(1),
        latest_ttl_ms: 0,
        ..EngineOptions::default()
    };
    let world = world(directory.path(), executors, options).await;
    world.apply(chain("w", 1, "block")).await;
    let keyed = |key: &str, version| StartRequest {
        request_key: Some(key.into()),
        version,
        ..StartRequest::new("w", Json::null())
    };
    let first = world.engine.start(keyed("k", None)).await.unwrap().id;
    control.started.acquire().await.unwrap().forget();
    let again = async |version, why: &str| {
        let outcome = world.engine.start(keyed("k", version)).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(outcome.existing && outcome.id == first, "{why}");
        let other = world.engine.start(keyed("other", version)).await.unwrap_err();
        assert_eq!(other.code(), why);
    };
    again(None, "OVERLOADED").await;
    control.release.add_permits(1);
    world.ended(first).await;
    until("its actor is gone", || world.engine.status().active == 0).await;
    again(Some(9), "VERSION_NOT_FOUND").await;
    assert!(
        troupe_ports::DefinitionStore::archive(&*world.store, "w", true)
            .await
            .unwrap()
    );
    world.engine.definition_changed("w");
    again(None, "WORKFLOW_ARCHIVED").await;
    until("it is in the store alone", || {
        world.engine.status().uncheckpointed_bytes == 0
    })
    .await;
    again(None, "WORKFLOW_ARCHIVED").await;
    let (outcome, watch) = world.engine.start_watched(keyed("k", None)).await.unwrap();
    assert!(outcome.existing && outcome.id == first);
    assert_eq!(watch.ended().await.unwrap().status, "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn business_keys_follow_their_policies() {
    let directory = tempfile::tempdir().unwrap();
    let (executors, control) = blocking();
    let world = world(
        directory.path(),
        executors,
        EngineOptions {
            abort_grace_ms: 1,
            ..EngineOptions::default()
        },
    )
    .await;
    world.apply(chain("w", 1, "block")).await;
    let keyed = |on_open, on_closed| StartRequest {
        execution_key: Some("order-1".into()),
        key_policy: KeyPolicy { on_open, on_closed },
        ..StartRequest::new("w", Json::null())
    };
    let first = world.engine.start(keyed(OnOpen::Fail, OnClosed::Allow)).await.unwrap();
    let conflict = world
        .engine
        .start(keyed(OnOpen::Fail, OnClosed::Allow))
        .await
        .unwrap_err();
    assert_eq!(conflict.code(), "KEY_CONFLICT");
    let used = world
        .engine
        .start(keyed(OnOpen::UseExisting, OnClosed::Allow))
        .await
        .unwrap();
    assert!(used.existing && used.id == first.id);
    let second = world
        .engine
        .start(keyed(OnOpen::TerminateExisting, OnClosed::Allow))
        .await
        .unwrap();
    assert!(second.id != first.id && !second.existing);
    assert_eq!(world.ended(first.id).await.state.status.name(), "canceled");
    control.release.add_permits(10);
    assert_eq!(world.ended(second.id).await.state.status.name(), "completed");
    for (on_closed, allowed) in [
        (OnClosed::Reject, false),
        (OnClosed::AllowFailedOnly, false),
        (OnClosed::Allow, true),
    ] {
        let outcome = world.engine.start(keyed(OnOpen::Fail, on_closed)).await;
        assert_eq!(outcome.is_ok(), allowed, "{on_closed:?}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_lost_its_shards_commits_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let (executors, control) = blocking();
    let zombie = on_store(store(directory.path(), 2), executors, EngineOptions::default()).await;
    zombie.apply(chain("w", 2, "block")).await;
    let id = zombie.start("w", json!({})).await;
    control.started.acquire().await.unwrap().forget();
    let (executors, control_2) = blocking();
    let owner = on_store(store(directory.path(), 2), executors, EngineOptions::default()).await;
    control_2.started.acquire().await.unwrap().forget();
    // The zombie's attempt ends now; its report must not enter the log.
    control.release.add_permits(2);
    until("the zombie notices", || zombie.engine.status().fenced_commits > 0).await;
    control_2.release.add_permits(2);
    let view = owner.ended(id).await;
    assert_eq!(output(&view), json!("done"));
    gapless(&owner, id).await;
    assert!(zombie.engine.status().shards_served < 2);
    assert_eq!(zombie.engine.get(id).await.unwrap_err().code(), "UNAVAILABLE");
    assert_eq!(owner.engine.status().fenced_commits, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_beyond_the_limit_are_refused_and_commands_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let (executors, control) = blocking();
    let options = EngineOptions {
        executions_max: 1,
        abort_grace_ms: 1,
        ..EngineOptions::default()
    };
    let world = world(directory.path(), executors, options).await;
    world.apply(chain("w", 1, "block")).await;
    let id = world.start("w", json!({})).await;
    control.started.acquire().await.unwrap().forget();
    let refused = world
        .engine
        .start(StartRequest::new("w", Json::null()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "OVERLOADED");
    assert!(refused.retry_after_ms().is_some());
    world.engine.cancel(id, Command::default()).await.unwrap();
    world.ended(id).await;
    until("its actor is gone", || world.engine.status().active == 0).await;
    control.release.add_permits(1);
    let next = world.start("w", json!({})).await;
    assert_eq!(output(&world.ended(next).await), json!("done"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_beyond_the_safe_subset_go_through_the_sandbox() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    let mut definition = chain("w", 2, "echo");
    definition["edges"][0]["condition"] = "(() => { return 42 })()".into();
    definition["nodes"][1]["data"]["inputMapping"] =
        json!({"answer": "(() => { return 42 })()", "safe": "input.a + 1"});
    world.apply(definition).await;
    let view = world.ended(world.start("w", json!({"a": 1})).await).await;
    assert_eq!(output(&view), json!({"answer": 42, "safe": 2}));
}

/// A loop of what the engine decides alone turns within one step, and asks the sandbox in each generation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_is_asked_again_in_each_generation_of_a_step() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    let mut definition = chain("w", 2, "noop");
    definition["nodes"][0] = json!({"id": "n0", "type": "delay", "data": {
        "delayType": "fixed", "delayValue": 0, "maxIterations": 5,
        "outputMapping": {"seen": "(() => { return execution.iteration })()"},
    }});
    let again = json!({"source": "n0", "target": "n0", "condition": "(() => { return execution.iteration < 3 })()"});
    definition["edges"].as_array_mut().unwrap().push(again);
    definition["settings"] = json!({"output": "variables.seen"});
    world.apply(definition).await;
    let view = world.ended(world.start("w", json!({})).await).await;
    assert_eq!(output(&view), json!(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_see_the_mapped_input() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    let mut definition = chain("w", 1, "noop");
    definition["nodes"][0] = json!({"id": "n0", "type": "delay", "data": {
        "delayType": "fixed", "delayValue": "{{ input.ms }}", "inputMapping": {"ms": "(() => { return input.wait })()"},
    }});
    world.apply(definition).await;
    let view = world.ended(world.start("w", json!({"wait": 2})).await).await;
    assert_eq!(output(&view), json!({"ms": 2}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_lists_follow_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    let mut events = world.bus.subscribe(EventFilter::All);
    world.apply(chain("w", 2, "noop")).await;
    let id = world.start("w", json!({})).await;
    let mut verbs = Vec::new();
    while verbs.last() != Some(&Verb::ExecutionCompleted) {
        let batch = tokio::time::timeout(support::PATIENCE, events.next())
            .await
            .unwrap()
            .unwrap();
        let ours = batch.iter().filter(|event| event.execution == id);
        verbs.extend(ours.map(|event| event.verb));
    }
    let expected = [
        Verb::ExecutionCreated,
        Verb::ExecutionStarted,
        Verb::NodeScheduled,
        Verb::NodeStarted,
        Verb::NodeCompleted,
        Verb::NodeScheduled,
        Verb::NodeStarted,
        Verb::NodeCompleted,
        Verb::ExecutionCompleted,
    ];
    assert_eq!(verbs, expected);
    let query = || ExecutionQuery {
        workflow_id: Some("w".into()),
        limit: 10,
        ..ExecutionQuery::default()
    };
    let listed = async {
        loop {
            let page = world.store.list(query()).await.unwrap();
            if page.items.first().is_some_and(|row| row.status == "completed") {
                break page.items.len();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(tokio::time::timeout(support::PATIENCE, listed).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_wait_without_actors_and_a_restart_finds_them_all() {
    const MANY: usize = 500;
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        checkpoint_interval: Duration::from_millis(100),
        timers_max: 16,
        ..EngineOptions::default()
    };
    // Longer than a busy disk takes until all of them wait.
    let due = support::now().plus_ms(8_000);
    {
        let world = world(directory.path(), builtins(), options.clone()).await;
        let nodes = [node(
            "wait",
            "delay",
            json!({"delayType": "until", "delayValue": due.0}),
        )];
        world
            .apply(json!({"id": "w", "name": "w", "version": 1, "nodes": nodes, "edges": []}))
            .await;
        for first in (0..MANY).step_by(20) {
            let some = (first..first + 20).map(|n| world.start("w", json!(n)));
            futures::future::join_all(some).await;
        }
        until("all of them wait", || world.engine.status().active == 0).await;
        world.engine.crash().await;
    }
    let world = world(directory.path(), builtins(), options).await;
    assert!(support::now() < due, "the machine is too slow for this test");
    until("every one wakes", || world.engine.status().ended == MANY as u64).await;
    let late = support::now().since_ms(due);
    assert!(support::now() >= due, "{late} ms late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transformation_sees_the_trigger_and_other_nodes() {
    let directory = tempfile::tempdir().unwrap();
    let transformation = TransformationExecutor::new(Some(Arc::new(support::Rendering)));
    let executors = builtins().executor(NodeKind::Transformation, Arc::new(transformation));
    let world = world(directory.path(), executors, EngineOptions::default()).await;
    let map = json!({
        "transformationType": "map",
        "transformationConfig": {
            "source": "{{ input.items }}",
            "expression": "item * trigger.factor + nodes.first.output.items.length",
        },
    });
    let text = json!({
        "transformationType": "enrichment",
        "template": "{{ trigger.factor }}/{{ nodes.map.output | length }}/{{ nodes.first.status }}",
    });
    let nodes = [
        node("first", "function", json!({"handlerId": "echo"})),
        node("map", "transformation", map),
        node("text", "transformation", text),
    ];
    let edges = [edge("first", "map"), edge("map", "text")];
    world
        .apply(json!({"id": "w", "name": "w", "version": 1, "nodes": nodes, "edges": edges}))
        .await;
    let id = world.start("w", json!({"items": [1, 2, 3], "factor": 10})).await;
    let view = world.ended(id).await;
    assert_eq!(output(&view), json!("10/3/completed"));
    let mapped = view.state.nodes[1].output.clone();
    assert_eq!(mapped, Some(json!([13, 23, 33]).into()));
}

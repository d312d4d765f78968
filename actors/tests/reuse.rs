//! `data.cache`: outputs that are reused by key, across executions, versions and restarts.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value as JsonValue, json};
use support::{PATIENCE, World, builtins, on_store, store};
use troupe_actors::{EngineOptions, ExecutionView};
use troupe_core::execution::{Answer, CacheUse, Phase, Status};
use troupe_core::{ErrorInfo, Json, Seq, Value};
use troupe_executors::{ExecutorsBuilder, HandlerCall, HandlerError};

/// `count` tells how often it ran, with a text as long as its input asks for; it fails where its input says so.
fn handlers(runs: &Arc<AtomicU32>) -> ExecutorsBuilder {
    let runs = runs.clone();
    builtins().handler("count", move |call: HandlerCall| {
        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let input = call.task.input.as_inline().unwrap().to_value().unwrap();
            if input["fails"] == true {
                return Err(HandlerError::new("PLANTED", "it fails").not_retryable());
            }
            let text = "x".repeat(input["bytes"].as_u64().unwrap_or(0) as usize);
            Ok(Json::of(&json!({"run": run, "text": text})))
        }
    })
}

fn workflow(data: JsonValue) -> JsonValue {
    let mut data = data;
    data["handlerId"] = "count".into();
    let nodes = json!([
        {"id": "n", "name": "n", "type": "function", "data": data},
        {"id": "after", "name": "after", "type": "function", "data": {"handlerId": "echo", "inputMapping": {"run": "nodes.n.output.run", "bytes": "nodes.n.output.text.length"}}},
    ]);
    json!({"id": "w", "name": "w", "version": 1, "nodes": nodes, "edges": [{"id": "e", "source": "n", "target": "after"}]})
}

async fn run(world: &World, input: JsonValue) -> ExecutionView {
    let id = world.start("w", input).await;
    world.ended(id).await
}

fn output(view: &ExecutionView) -> JsonValue {
    match &view.state.status {
        Status::Completed { output } => output.as_inline().unwrap().to_value().unwrap(),
        other => panic!("{other:?}: {:?}", view.state.failure),
    }
}

fn was_reused(view: &ExecutionView) -> bool {
    let node = &view.state.nodes[0];
    let hit = node.cache.as_deref() == Some(&CacheUse::Hit);
    assert_eq!(hit, node.attempts.is_empty() && node.phase == Phase::Completed);
    hit
}

/// Runs until the output is reused: it is kept after the execution's entry is durable.
async fn until_reused(world: &World, input: JsonValue) -> ExecutionView {
    let reused = async {
        loop {
            let view = run(world, input.clone()).await;
            if was_reused(&view) {
                return view;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reused).await.expect("it is reused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_is_reused_for_an_equal_key_also_after_a_restart_and_not_once_the_node_changed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let runs = Arc::new(AtomicU32::new(0));
    let world = on_store(store.clone(), handlers(&runs), EngineOptions::default()).await;
    world.apply(workflow(json!({"cache": {"key": "input.id"}}))).await;
    assert_eq!(
        output(&run(&world, json!({"id": 1, "bytes": 3})).await),
        json!({"run": 1, "bytes": 3})
    );
    until_reused(&world, json!({"id": 1, "bytes": 3})).await;
    let view = run(&world, json!({"id": 1, "bytes": 9})).await;
    assert!(was_reused(&view));
    assert_eq!(output(&view)["bytes"], 3, "the rest of the input is no part of the key");
    let ran = runs.load(Ordering::SeqCst);
    assert!(!was_reused(&run(&world, json!({"id": "1"})).await), "another key");

    // The log says what was reused: it folds without the cache.
    let entries = world.engine.history(view.state.id, Seq(0), 100).await.unwrap();
    let answers = entries.iter().flat_map(|entry| &entry.answers);
    let cached = answers.filter(|answer| matches!(answer, Answer::Cached(cached) if cached.output.is_some()));
    assert_eq!(cached.count(), 1);

    world.engine.shutdown(Duration::from_secs(1)).await;
    let world = on_store(store, handlers(&runs), EngineOptions::default()).await;
    let before = runs.load(Ordering::SeqCst);
    assert!(was_reused(&run(&world, json!({"id": 1})).await));
    world
        .apply(workflow(
            json!({"cache": {"key": "input.id"}, "description": "changed"}),
        ))
        .await;
    assert!(
        !was_reused(&run(&world, json!({"id": 1})).await),
        "the node was changed"
    );
    assert_eq!(runs.load(Ordering::SeqCst), before + 1);
    assert!(ran < before);
    world.engine.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_outputs_are_reused_failures_and_expired_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let runs = Arc::new(AtomicU32::new(0));
    let world = on_store(store, handlers(&runs), EngineOptions::default()).await;
    world
        .apply(workflow(json!({"cache": {"key": "input.id", "ttl": 60_000}})))
        .await;
    run(&world, json!({"id": 1, "bytes": 100_000})).await;
    let view = until_reused(&world, json!({"id": 1, "bytes": 100_000})).await;
    assert!(matches!(view.state.nodes[0].output, Some(Value::Blob(_))));
    assert_eq!(output(&view)["bytes"], 100_000);

    for _ in 0..3 {
        let view = run(&world, json!({"id": 2, "fails": true})).await;
        assert_eq!(view.state.status, Status::Failed);
        assert_eq!(view.state.nodes[0].attempts.len(), 1);
    }
    world
        .apply(workflow(json!({"cache": {"key": "input.id", "ttl": 1}})))
        .await;
    for _ in 0..3 {
        assert!(!was_reused(&run(&world, json!({"id": 3})).await));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world
        .apply(workflow(json!({"cache": {"key": "input.id.of.nothing"}})))
        .await;
    let view = run(&world, json!({"id": null})).await;
    let error: &ErrorInfo = &view.state.failure.as_ref().unwrap().error;
    assert_eq!(error.code, "EXPRESSION_ERROR");
    assert!(view.state.nodes[0].attempts.is_empty());
    world.engine.shutdown(Duration::from_secs(1)).await;
}

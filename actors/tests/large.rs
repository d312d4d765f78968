//! Values past 64 KiB: kept apart once, loaded where they are used, gone with the archive of their execution.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as JsonValue, json};
use support::{PATIENCE, World, builtins, on_store, store, world};
use tokio::sync::Semaphore;
use troupe_actors::blobs::reference;
use troupe_actors::{Command, EngineError, EngineOptions, ExecutionView, StartRequest};
use troupe_core::execution::Status;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, ShardId, Timestamp, Value};
use troupe_executors::{ExecutorsBuilder, HandlerCall, HandlerError};
use troupe_ports::{BlobsPut, ExecutionBase, ExecutionQuery, StateStore, VisibilityStore};

const FIVE_MB: usize = 5_000_000;

fn text(bytes: usize) -> JsonValue {
    "x".repeat(bytes).into()
}

/// `big` gives a text of the size that its input names, `measure` tells how long the members of its input are, `block` waits.
fn handlers(release: &Arc<Semaphore>) -> ExecutorsBuilder {
    let release = release.clone();
    builtins()
        .handler("big", |call: HandlerCall| async move {
            let input = call.task.input.as_inline().unwrap().to_value().unwrap();
            let bytes = input["bytes"].as_u64().unwrap_or(FIVE_MB as u64);
            Ok(Json::of(&json!({"text": text(bytes as usize), "of": input["item"]})))
        })
        .handler("measure", |call: HandlerCall| async move {
            let inline = call.task.input.as_inline().expect("it is loaded");
            let sizes = inline.to_value().unwrap();
            let sizes = sizes.as_object().unwrap().iter();
            let sizes = sizes.map(|(name, value)| (name.clone(), json!(value.to_string().len())));
            Ok::<_, HandlerError>(Json::of(&JsonValue::Object(sizes.collect())))
        })
        .handler("block", move |call: HandlerCall| {
            let release = release.clone();
            async move {
                release.acquire().await.expect("never closed").forget();
                Ok(call.task.input.as_inline().unwrap().clone())
            }
        })
}

/// Releases nobody.
fn never() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

fn node(id: &str, kind: &str, data: JsonValue) -> JsonValue {
    json!({"id": id, "name": id, "type": kind, "data": data})
}

fn workflow(id: &str, nodes: &[JsonValue]) -> JsonValue {
    let ids: Vec<_> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let edges = ids
        .windows(2)
        .map(|pair| json!({"id": format!("{}-{}", pair[0], pair[1]), "source": pair[0], "target": pair[1]}));
    json!({"id": id, "name": id, "version": 1, "nodes": nodes, "edges": edges.collect::<Vec<_>>()})
}

async fn output(world: &World, view: &mut ExecutionView) -> JsonValue {
    world.engine.load_output(view).await.unwrap();
    match &view.state.status {
        Status::Completed { output } => {
            let document = output.document(&|blob| view.contents.get(blob).cloned());
            document.unwrap().to_value().unwrap()
        }
        other => panic!("{other:?}: {:?}", view.state.failure),
    }
}

async fn ran(world: &World, definition: JsonValue, input: JsonValue) -> ExecutionView {
    let id = definition["id"].as_str().unwrap().to_owned();
    world.apply(definition).await;
    let id = world.start(&id, input).await;
    world.ended(id).await
}

/// Bytes of everything that the log still holds.
async fn log_bytes(world: &World) -> usize {
    let mut bytes = 0;
    for shard in 0..world.store.shards() {
        let records = world
            .store
            .read(ShardId(shard), LogPosition(1), usize::MAX)
            .await
            .unwrap();
        bytes += records.iter().map(|record| record.bytes.len()).sum::<usize>();
    }
    bytes
}

fn blobs(value: &Value) -> Vec<BlobRef> {
    let mut found = Vec::new();
    value.blobs(&mut |blob| found.push(*blob));
    found
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waited).await;
    waited.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_of_5_mb_flow_through_a_chain_survive_a_crash_and_leave_the_history_small() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let release = Arc::new(Semaphore::new(0));
    let first = on_store(store.clone(), handlers(&release), EngineOptions::default()).await;
    let mapping =
        json!({"size": "nodes.make.output.text.length", "copy": "nodes.pass.output", "same": "nodes.make.output"});
    let definition = workflow(
        "w",
        &[
            node("make", "function", json!({"handlerId": "big"})),
            node("pass", "function", json!({"handlerId": "echo"})),
            node(
                "hold",
                "function",
                json!({"handlerId": "block", "inputMapping": mapping}),
            ),
            node("weigh", "function", json!({"handlerId": "measure"})),
            node(
                "last",
                "transformation",
                json!({
                    "transformationType": "map",
                    "transformationConfig": {"source": "[nodes.hold.output.size, nodes.make.output.text.length]", "expression": "item"},
                    "outputMapping": {"kept": "nodes.make.output"},
                }),
            ),
        ],
    );
    first.apply(definition).await;
    let id = first.start("w", json!({"bytes": FIVE_MB})).await;
    let holds = || async {
        let view = first.engine.get(id).await.unwrap();
        view.state.nodes[1].output.is_some() && view.state.nodes[2].output.is_none()
    };
    until("the third node is reached", holds).await;
    first.engine.crash().await;

    let world = on_store(store, handlers(&release), EngineOptions::default()).await;
    // An attempt that was being spawned when its engine went may have outlived it in this process, and take one.
    release.add_permits(2);
    let mut view = world.ended(id).await;
    assert_eq!(output(&world, &mut view).await, json!([FIVE_MB, FIVE_MB]));
    let document = FIVE_MB + r#"{"text":"","of":null}"#.len();
    let weighed = view.state.nodes[3].output.as_ref().unwrap().as_inline().unwrap();
    let expected = json!({"size": 7, "copy": document, "same": document});
    assert_eq!(weighed.to_value().unwrap(), expected, "as texts");

    let made = view.state.nodes[0].output.clone().unwrap();
    assert!(matches!(made, Value::Blob(_)));
    assert_eq!(
        view.state.nodes[1].output.as_ref(),
        Some(&made),
        "what is equal is kept once"
    );
    assert_eq!(view.state.variables.get("kept"), Some(&made));
    let log = log_bytes(&world).await;
    world.engine.shutdown(Duration::from_secs(1)).await;
    let archived = match world.store.load(id).await.unwrap() {
        Some(ExecutionBase::Ended(archive, segments)) => {
            archive.bytes.len() + segments.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
        }
        other => panic!("{other:?}"),
    };
    println!("log {log} bytes, archive {archived} bytes for five nodes of {document} bytes");
    assert!(log < 10_000 && archived < 10_000, "log {log}, archive {archived}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_variables_and_calls_are_kept_apart_and_read_by_expressions() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), handlers(&never()), EngineOptions::default()).await;
    let large = text(200_000);
    let definition = json!({
        "id": "w", "name": "w", "version": 1,
        "settings": {"inputSchema": {"type": "object", "required": ["list"]}, "output": "[variables.given.length, nodes.call.output.body.text.length, trigger.list.length, nodes.sum.output.n]"},
        "nodes": [
            node("call", "webhook", json!({"webhookId": "c", "payloadSchema": {"required": ["text"]}})),
            node("sum", "function", json!({"handlerId": "echo", "inputMapping": {"n": "trigger.list.length", "text": "input.body.text"}})),
            node("start", "trigger", json!({"triggerType": "manual"})),
        ],
        "edges": [
            {"id": "a", "source": "start", "target": "call", "condition": "trigger.list[0].length > 1000"},
            {"id": "b", "source": "call", "target": "sum", "condition": "output.body.text.length == 200000"},
        ],
    });
    world.apply(definition).await;
    let mut request = StartRequest::new("w", Json::of(&json!({"list": [large, large]})));
    request.variables = vec![("given".into(), Json::of(&large))];
    let id = world.engine.start(request).await.unwrap().id;
    let call = json!({"body": {"text": large}, "headers": {}, "query": {}, "method": "POST"});
    world
        .engine
        .signal(id, "call", Json::of(&call), Command::default())
        .await
        .unwrap();
    let mut view = world.ended(id).await;
    assert_eq!(output(&world, &mut view).await, json!([200_000, 200_000, 2, 2]));
    for value in [&view.state.input, &view.state.variables["given"]] {
        assert!(matches!(value, Value::Blob(_)), "{value:?}");
    }
    let sum = view.state.nodes[1].output.clone().unwrap();
    assert!(matches!(sum, Value::Blob(_)), "an output is kept whole: {sum:?}");
    assert!(log_bytes(&world).await < 10_000);
    world.engine.load_values(&mut view, 450_000).await.unwrap();
    assert!(view.contents.get(&blobs(&view.state.input)[0]).is_some());
    assert!(view.contents.get(&blobs(&sum)[0]).is_none(), "there was no room");
    let read = world.engine.value(id, blobs(&sum)[0].hash).await.unwrap();
    assert_eq!(read.to_value().unwrap()["text"], large);
    let missing = world.engine.value(id, [0; 32]).await;
    assert!(matches!(missing, Err(EngineError::ValueNotFound(_))), "{missing:?}");
    world.engine.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_input_of_a_for_each_is_stored_once_for_all_its_children() {
    const ITEMS: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        checkpoint_bytes: 256 << 20,
        checkpoint_interval: Duration::from_secs(60),
        ..EngineOptions::default()
    };
    let world = world(directory.path(), handlers(&never()), options).await;
    let mapping = json!({"item": "trigger.item", "bytes": "1000", "size": "trigger.input.text.length"});
    let body =
        json!({"nodes": [node("b", "function", json!({"handlerId": "big", "inputMapping": mapping}))], "edges": []});
    let items: Vec<_> = (0..ITEMS).collect();
    let definition = workflow(
        "w",
        &[
            node("each", "forEach", json!({"items": "input.items", "body": body})),
            node(
                "after",
                "function",
                json!({
                    "handlerId": "echo",
                    "inputMapping": {"many": "input.length", "last": "input[199].of", "bytes": "input[0].text.length"},
                }),
            ),
        ],
    );
    let mut view = ran(&world, definition, json!({"items": items, "text": text(1_000_000)})).await;
    assert_eq!(
        output(&world, &mut view).await,
        json!({"many": ITEMS, "last": ITEMS - 1, "bytes": 1_000})
    );
    let joined = view.state.nodes[0].output.as_ref().unwrap();
    assert!(
        matches!(joined, Value::Blob(_)),
        "the outputs are 200 kB together: {joined:?}"
    );
    let log = log_bytes(&world).await;
    println!("log {log} bytes for {ITEMS} children with an input of 1 MB each");
    assert!(log < ITEMS * 4_000, "log {log}");
    let query = ExecutionQuery {
        parent: Some(view.state.id),
        limit: 10,
        ..ExecutionQuery::default()
    };
    let child = until_some(|| async {
        world
            .store
            .list(query.clone())
            .await
            .unwrap()
            .items
            .first()
            .map(|child| child.id)
    })
    .await;
    let child = world.engine.get(child).await.unwrap();
    assert_eq!(child.state.blob_root(), Some(view.state.id));
    assert_eq!(blobs(&child.state.input), blobs(&view.state.input));
    world.engine.shutdown(Duration::from_secs(1)).await;
}

/// Where it waits for room, it reads what its parent's root keeps before there is anything of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_waits_for_room_is_told_its_key_by_a_large_input() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), handlers(&never()), EngineOptions::default()).await;
    let mapping = json!({"id": "input.id"});
    let work = node("n", "function", json!({"handlerId": "echo", "inputMapping": mapping}));
    let mut limited = workflow("limited", &[work]);
    limited["settings"] = json!({"concurrency": {"limit": 1, "key": "input.id"}});
    world.apply(limited).await;
    let child = node("child", "subworkflow", json!({"workflowId": "limited"}));
    let input = json!({"id": 7, "text": text(200_000)});
    let mut view = ran(&world, workflow("w", &[child]), input).await;
    assert_eq!(output(&world, &mut view).await, json!({"id": 7}));
    world.engine.shutdown(Duration::from_secs(1)).await;
}

async fn until_some<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it is found")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_may_have_so_many_large_values_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        output_bytes_max: 300_000,
        blob_bytes_max: 400_000,
        ..EngineOptions::default()
    };
    let world = world(directory.path(), handlers(&never()), options).await;
    let big = |id: &str| {
        node(
            id,
            "function",
            json!({"handlerId": "big", "inputMapping": {"bytes": format!("trigger.{id}")}}),
        )
    };
    world.apply(workflow("w", &[big("a"), big("b")])).await;
    for (a, b, code) in [
        (100_000, 200_000, None),
        (250_000, 200_000, Some("EXECUTION_TOO_LARGE")),
        (300_000, 1, Some("OUTPUT_TOO_LARGE")),
    ] {
        let id = world.start("w", json!({"a": a, "b": b})).await;
        let view = world.ended(id).await;
        let failed = view.state.failure.as_ref().map(|failure| failure.error.code.as_str());
        assert_eq!(failed, code, "{a} and {b}");
    }
    let refused = world
        .engine
        .start(StartRequest::new("w", Json::of(&text(500_000))))
        .await;
    assert_eq!(refused.unwrap_err().code(), "EXECUTION_TOO_LARGE");
    world.engine.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_go_with_the_archive_and_a_detached_child_keeps_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        expire_every: Duration::from_millis(20),
        checkpoint_interval: Duration::from_millis(20),
        ..EngineOptions::default()
    };
    let world = world(directory.path(), handlers(&never()), options).await;
    world
        .apply(workflow(
            "child",
            &[node("c", "function", json!({"handlerId": "measure"}))],
        ))
        .await;
    let mut parent = workflow(
        "parent",
        &[node(
            "p",
            "subworkflow",
            json!({"workflowId": "child", "mode": "detached"}),
        )],
    );
    parent["settings"] = json!({"retention": {"completedMs": 0}});
    world.apply(parent).await;
    let input = json!({"text": text(200_000)});
    let blob = reference(&Json::of(&input));
    let id = world.start("parent", input).await;
    world.ended(id).await;
    let kept = async |root: ExecutionId| world.store.blob(root, blob.hash).await.unwrap().is_some();
    until("the parent's go", || async { !kept(id).await }).await;
    let query = ExecutionQuery {
        workflow_id: Some("child".into()),
        limit: 10,
        ..ExecutionQuery::default()
    };
    let child = until_some(|| async {
        world
            .store
            .list(query.clone())
            .await
            .unwrap()
            .items
            .first()
            .map(|child| child.id)
    })
    .await;
    let mut view = world.ended(child).await;
    assert_eq!(output(&world, &mut view).await, json!({"text": 200_002}));
    assert!(kept(child).await, "the child's stay");
    world.engine.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_a_crash_left_without_an_execution_are_collected() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 1);
    let (lost, kept) = (
        ExecutionId::fresh(ShardId(0), Timestamp(1), 1),
        Json::of(&text(100_000)),
    );
    let blob = reference(&kept);
    let lease = store
        .acquire(ShardId(0), "before", Duration::from_millis(1))
        .await
        .unwrap();
    let put = async |epoch: Epoch, root| {
        let put = store.put_blobs(
            ShardId(0),
            epoch,
            root,
            Timestamp(1),
            vec![(blob, kept.clone())],
            1 << 30,
        );
        assert_eq!(put.await.unwrap(), BlobsPut::Kept);
    };
    put(lease.epoch, lost).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let options = EngineOptions {
        expire_every: Duration::from_millis(20),
        ..EngineOptions::default()
    };
    let world = on_store(store.clone(), handlers(&never()), options).await;
    world
        .apply(workflow(
            "w",
            &[node("n", "delay", json!({"delayType": "fixed", "delayValue": 60_000}))],
        ))
        .await;
    let found = world.start("w", json!({})).await;
    // As if an hour had passed since this one was started.
    put(Epoch(lease.epoch.0 + 1), found).await;
    until("the lost ones go", || async {
        store.blob(lost, blob.hash).await.unwrap().is_none()
    })
    .await;
    let unconfirmed = || async {
        store
            .unconfirmed_blobs(ShardId(0), Timestamp(2), 10)
            .await
            .unwrap()
            .is_empty()
    };
    until("the others are confirmed", unconfirmed).await;
    assert!(store.blob(found, blob.hash).await.unwrap().is_some());
    world.engine.shutdown(Duration::from_secs(1)).await;
}

//! Child executions: `subworkflow`, `forEach` and `loop`, alone, nested, paused, canceled, and after a crash.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value as JsonValue, json};
use support::{PATIENCE, World, builtins, on_store, store, world};
use tokio::sync::Semaphore;
use troupe_actors::{Command, EngineOptions, ExecutionView};
use troupe_core::execution::{Decision, Event, Status};
use troupe_core::{ExecutionId, Json, Seq, Value};
use troupe_executors::{ExecutorsBuilder, HandlerCall, HandlerError};
use troupe_ports::{ExecutionQuery, VisibilityStore};

fn one(id: &str, kind: &str, data: JsonValue) -> JsonValue {
    json!({"id": id, "name": id, "version": 1, "edges": [], "nodes": [{"id": "n", "type": kind, "data": data}]})
}

fn body(data: JsonValue) -> JsonValue {
    json!({"nodes": [{"id": "b", "type": "function", "data": data}], "edges": []})
}

fn output(view: &ExecutionView) -> JsonValue {
    match &view.state.status {
        Status::Completed {
            output: Value::Inline(json),
        } => json.to_value().unwrap(),
        other => panic!("{other:?}: {:?}", view.state.failure),
    }
}

fn error(view: &ExecutionView) -> (String, JsonValue) {
    let failure = view.state.failure.as_ref().expect("it failed");
    let details = failure
        .error
        .details
        .as_ref()
        .map(|details| details.to_value().unwrap());
    (failure.error.code.to_string(), details.unwrap_or_default())
}

async fn ran(world: &World, definition: JsonValue, input: JsonValue) -> ExecutionView {
    let id = definition["id"].as_str().unwrap().to_owned();
    world.apply(definition).await;
    let id = world.start(&id, input).await;
    world.ended(id).await
}

async fn simple() -> (tempfile::TempDir, World) {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    (directory, world)
}

/// Blocks until it is released, counting how many run at once.
struct Blocks {
    started: Arc<Semaphore>,
    release: Arc<Semaphore>,
    now: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

impl Blocks {
    fn new() -> Self {
        Self {
            started: Arc::new(Semaphore::new(0)),
            release: Arc::new(Semaphore::new(0)),
            now: Arc::default(),
            most: Arc::default(),
        }
    }

    fn executors(&self) -> ExecutorsBuilder {
        let (started, release) = (self.started.clone(), self.release.clone());
        let (now, most) = (self.now.clone(), self.most.clone());
        builtins().handler("block", move |call: HandlerCall| {
            let (started, release, now, most) = (started.clone(), release.clone(), now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                started.add_permits(1);
                let result = tokio::select! {
                    permit = release.acquire() => {
                        permit.expect("never closed").forget();
                        Ok(Json::from_trusted("\"done\""))
                    }
                    () = call.cancel.cancelled() => Err(HandlerError::new("CANCELED", "told to stop")),
                };
                now.fetch_sub(1, Ordering::SeqCst);
                result
            }
        })
    }

    async fn started(&self, count: u32) {
        let all = tokio::time::timeout(PATIENCE, self.started.acquire_many(count));
        all.await.expect("they start").unwrap().forget();
    }
}

async fn everything(world: &World) -> Vec<troupe_ports::ExecutionSummary> {
    let query = ExecutionQuery {
        limit: 1_000,
        ..ExecutionQuery::default()
    };
    world.store.list(query).await.unwrap().items
}

/// Lists follow the log a little later: waits until they show so many executions, then a moment for one too many.
async fn there_are(world: &World, count: usize) {
    let all = async {
        while everything(world).await.len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("all are listed");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(everything(world).await.len(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subworkflow_gets_the_input_and_gives_the_output() {
    let (_directory, world) = simple().await;
    world
        .apply(one(
            "child",
            "function",
            json!({"handlerId": "echo", "output": "{got: input.a + 1}"}),
        ))
        .await;
    let view = ran(
        &world,
        one("w", "subworkflow", json!({"workflowId": "child"})),
        json!({"a": 1}),
    )
    .await;
    assert_eq!(output(&view), json!({"got": 2}));
    let missing = ran(
        &world,
        one("v", "subworkflow", json!({"workflowId": "nobody"})),
        json!({}),
    )
    .await;
    let (code, details) = error(&missing);
    assert_eq!(
        (code.as_str(), &details["error"]["code"]),
        ("CHILD_FAILED", &json!("WORKFLOW_NOT_FOUND"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_fails_fails_its_parent_and_can_be_handled() {
    let (_directory, world) = simple().await;
    world
        .apply(one(
            "child",
            "function",
            json!({"handlerId": "fail", "code": "E9", "retryPolicy": {"maxAttempts": 1}}),
        ))
        .await;
    let view = ran(
        &world,
        one("w", "subworkflow", json!({"workflowId": "child"})),
        json!({}),
    )
    .await;
    let (code, details) = error(&view);
    assert_eq!(
        (code.as_str(), &details["error"]["code"]),
        ("CHILD_FAILED", &json!("E9"))
    );
    let mut handled = one("v", "subworkflow", json!({"workflowId": "child"}));
    let nodes = handled["nodes"].as_array_mut().unwrap();
    nodes.push(json!({"id": "h", "type": "function", "data": {"handlerId": "echo", "output": "input.error.code"}}));
    handled["edges"] = json!([{"id": "e", "source": "n", "target": "h", "type": "failure"}]);
    assert_eq!(output(&ran(&world, handled, json!({})).await), json!("CHILD_FAILED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_child_outlives_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = Blocks::new();
    let world = world(directory.path(), blocks.executors(), EngineOptions::default()).await;
    world
        .apply(one("child", "function", json!({"handlerId": "block"})))
        .await;
    let view = ran(
        &world,
        one("w", "subworkflow", json!({"workflowId": "child", "mode": "detached"})),
        json!({}),
    )
    .await;
    let child: ExecutionId = output(&view)["executionId"].as_str().unwrap().parse().unwrap();
    blocks.started(1).await;
    blocks.release.add_permits(1);
    assert_eq!(output(&world.ended(child).await), json!("done"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_item_has_a_child_and_the_outputs_keep_their_order() {
    let (_directory, world) = simple().await;
    let data = json!({"items": "input.list", "maxConcurrency": 3,
        "body": body(json!({"handlerId": "sleep", "ms": "{{ 20 - input.item }}", "output": "[input.item * 2, input.index, input.input.tag]"}))});
    let list: Vec<u32> = (0..20).collect();
    let view = ran(&world, one("w", "forEach", data), json!({"list": list, "tag": "t"})).await;
    let expected: Vec<JsonValue> = (0..20).map(|item| json!([item * 2, item, "t"])).collect();
    assert_eq!(output(&view), JsonValue::from(expected));
    let empty = ran(
        &world,
        one(
            "v",
            "forEach",
            json!({"items": "[]", "body": body(json!({"handlerId": "noop"}))}),
        ),
        json!({}),
    );
    assert_eq!(output(&empty.await), json!([]));
    let wrong = ran(
        &world,
        one(
            "u",
            "forEach",
            json!({"items": "5", "body": body(json!({"handlerId": "noop"}))}),
        ),
        json!({}),
    );
    assert_eq!(error(&wrong.await).0, "EXPRESSION_ERROR");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_children_run_at_once_than_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = Blocks::new();
    let world = world(directory.path(), blocks.executors(), EngineOptions::default()).await;
    let data = json!({"items": "[1,2,3,4,5,6,7]", "maxConcurrency": 3, "body": body(json!({"handlerId": "block"}))});
    world.apply(one("w", "forEach", data)).await;
    let id = world.start("w", json!({})).await;
    blocks.started(3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(blocks.started.available_permits(), 0, "the fourth waits");
    blocks.release.add_permits(7);
    assert_eq!(output(&world.ended(id).await).as_array().unwrap().len(), 7);
    assert_eq!(blocks.most.load(Ordering::SeqCst), 3);
}

fn failing_evens(more: JsonValue) -> JsonValue {
    let decide = json!({"conditions": [{"id": "even", "expression": "input.item % 2 == 0"}], "defaultPath": "odd"});
    let body = json!({
        "nodes": [
            {"id": "d", "type": "decision", "data": decide},
            {"id": "bad", "type": "function", "data": {"handlerId": "fail", "code": "EVEN", "retryPolicy": {"maxAttempts": 1}}},
            {"id": "good", "type": "function", "data": {"handlerId": "echo", "output": "input.item"}},
        ],
        "edges": [
            {"id": "e", "source": "d", "target": "bad", "condition": "even"},
            {"id": "odd", "source": "d", "target": "good"},
        ],
    });
    let mut data = json!({"items": "[1,2,3,4,5]", "body": body});
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    one("w", "forEach", data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_tolerated_up_to_a_number_or_a_share() {
    let (_directory, world) = simple().await;
    for tolerated in [json!(2), json!("40%")] {
        let view = ran(
            &world,
            failing_evens(json!({"toleratedFailures": tolerated})),
            json!({}),
        )
        .await;
        assert_eq!(output(&view), json!([1, null, 3, null, 5]));
    }
    for tolerated in [json!(1), json!("39%"), JsonValue::Null] {
        let view = ran(
            &world,
            failing_evens(json!({"toleratedFailures": tolerated})),
            json!({}),
        )
        .await;
        let (code, details) = error(&view);
        assert_eq!(
            (code.as_str(), &details["error"]["code"]),
            ("CHILD_FAILED", &json!("EVEN"))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_is_canceled_once_enough_completed() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = Blocks::new();
    let world = world(directory.path(), blocks.executors(), EngineOptions::default()).await;
    let data = json!({"items": "[1,2,3,4,5]", "maxConcurrency": 3, "succeedAfter": 2, "body": body(json!({"handlerId": "block"}))});
    world.apply(one("w", "forEach", data)).await;
    let id = world.start("w", json!({})).await;
    blocks.started(3).await;
    blocks.release.add_permits(2);
    let view = world.ended(id).await;
    let done = output(&view);
    assert_eq!(
        done.as_array()
            .unwrap()
            .iter()
            .filter(|output| **output == "done")
            .count(),
        2,
        "{done}"
    );
    let all_over = async {
        while everything(&world).await.iter().any(|one| one.ended_at.is_none()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_over)
        .await
        .expect("the others are canceled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_goes_round_while_its_condition_holds() {
    let (_directory, world) = simple().await;
    let add = json!({"handlerId": "noop", "output": "(input.last || 0) + input.iteration"});
    let data = json!({"while": "(output || 0) < 10", "maxIterations": 50, "body": body(add.clone())});
    assert_eq!(
        output(&ran(&world, one("w", "loop", data), json!({})).await),
        json!(10),
        "1 + 2 + 3 + 4"
    );
    let never = json!({"while": "false", "maxIterations": 50, "body": body(add.clone())});
    assert_eq!(
        output(&ran(&world, one("v", "loop", never), json!({})).await),
        JsonValue::Null
    );
    let endless = json!({"while": "true", "maxIterations": 3, "body": body(add)});
    assert_eq!(
        error(&ran(&world, one("u", "loop", endless), json!({})).await).0,
        "LOOP_LIMIT"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recursion_ends_at_its_limit() {
    let (_directory, world) = simple().await;
    let view = ran(&world, one("w", "subworkflow", json!({"workflowId": "w"})), json!({})).await;
    let (code, mut details) = error(&view);
    assert_eq!(code, "CHILD_FAILED");
    let mut depth = 1;
    while details["error"]["code"] == "CHILD_FAILED" {
        details = details["error"]["details"].clone();
        depth += 1;
    }
    assert_eq!((details["error"]["code"].as_str(), depth), (Some("CHILD_DEPTH"), 32));
    there_are(&world, 33).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_nest() {
    let (_directory, world) = simple().await;
    let inner = json!({"nodes": [{"id": "inner", "type": "forEach", "data": {
        "items": "input.item", "body": body(json!({"handlerId": "echo", "output": "input.item + 1"}))}}], "edges": []});
    let view = ran(
        &world,
        one("w", "forEach", json!({"items": "[[1, 2], [3]]", "body": inner})),
        json!({}),
    )
    .await;
    assert_eq!(output(&view), json!([[2, 3], [4]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canceled_parent_cancels_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = Blocks::new();
    let world = world(directory.path(), blocks.executors(), EngineOptions::default()).await;
    let data = json!({"items": "[1,2,3]", "body": body(json!({"handlerId": "block"}))});
    world.apply(one("w", "forEach", data)).await;
    let id = world.start("w", json!({})).await;
    blocks.started(3).await;
    world.engine.cancel(id, Command::default()).await.unwrap();
    assert!(matches!(world.ended(id).await.state.status, Status::Canceled { .. }));
    let all_over = async {
        while blocks.now.load(Ordering::SeqCst) > 0 || everything(&world).await.iter().any(|one| one.ended_at.is_none())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_over)
        .await
        .expect("the children end too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_end_a_node_that_waits_for_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = Blocks::new();
    let world = world(directory.path(), blocks.executors(), EngineOptions::default()).await;
    world
        .apply(one(
            "w",
            "forEach",
            json!({"items": "[1,2]", "body": body(json!({"handlerId": "block"}))}),
        ))
        .await;
    let id = world.start("w", json!({})).await;
    blocks.started(2).await;
    let enough = Decision::Complete(Value::Inline(Json::of(&json!("enough"))));
    world.engine.decide(id, "n", enough, Command::default()).await.unwrap();
    assert_eq!(output(&world.ended(id).await), json!("enough"));
    let over = async {
        while blocks.now.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over)
        .await
        .expect("the children are canceled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_reaches_the_children_and_no_other_begins() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = Blocks::new();
    let world = world(directory.path(), blocks.executors(), EngineOptions::default()).await;
    let two = json!({"nodes": [{"id": "a", "type": "function", "data": {"handlerId": "block"}},
        {"id": "b", "type": "function", "data": {"handlerId": "block"}}], "edges": [{"id": "e", "source": "a", "target": "b"}]});
    world
        .apply(one(
            "w",
            "forEach",
            json!({"items": "[1,2]", "maxConcurrency": 1, "body": two}),
        ))
        .await;
    let id = world.start("w", json!({})).await;
    blocks.started(1).await;
    world.engine.pause(id, Command::default()).await.unwrap();
    let paused = async {
        while everything(&world).await.iter().filter(|one| one.paused).count() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, paused)
        .await
        .expect("the child is paused too");
    blocks.release.add_permits(4);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(blocks.started.available_permits(), 0, "nothing starts while paused");
    world.engine.resume(id, Command::default()).await.unwrap();
    assert_eq!(output(&world.ended(id).await), json!(["done", "done"]));
}

/// The children have no actors, so that each message is brought to one that is spawned for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_and_a_resume_reach_a_parked_child_in_their_order() {
    let (_directory, world) = simple().await;
    let hour = json!({"nodes": [{"id": "b", "type": "delay", "data": {"delayType": "fixed", "delayValue": 3_600_000}}], "edges": []});
    let items = json!({"items": "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]", "body": hour});
    world.apply(one("w", "forEach", items)).await;
    let id = world.start("w", json!({})).await;
    there_are(&world, 21).await;
    for _ in 0..20 {
        world.engine.pause(id, Command::default()).await.unwrap();
        world.engine.resume(id, Command::default()).await.unwrap();
    }
    world.engine.pause(id, Command::default()).await.unwrap();
    let all_paused = async {
        while !everything(&world).await.iter().all(|one| one.paused) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_paused)
        .await
        .expect("the last word counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_an_operator_paused_stays_so_when_its_parent_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = Blocks::new();
    let world = world(directory.path(), blocks.executors(), EngineOptions::default()).await;
    world
        .apply(one(
            "w",
            "forEach",
            json!({"items": "[1,2]", "body": body(json!({"handlerId": "block"}))}),
        ))
        .await;
    let id = world.start("w", json!({})).await;
    blocks.started(2).await;
    there_are(&world, 3).await;
    let children = everything(&world)
        .await
        .into_iter()
        .filter(|one| one.parent == Some(id));
    let [mine, other] = children.map(|one| one.id).collect::<Vec<_>>()[..] else {
        panic!("two children")
    };
    world.engine.pause(mine, Command::default()).await.unwrap();
    let paused = async |id: ExecutionId| world.engine.get(id).await.unwrap().state.paused;
    world.engine.pause(id, Command::default()).await.unwrap();
    let both = async {
        while !paused(other).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("the other one too");
    world.engine.resume(id, Command::default()).await.unwrap();
    let resumed = async {
        while paused(other).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, resumed)
        .await
        .expect("the other one goes on");
    assert!(paused(mine).await, "nobody but an operator resumes it");
    world.engine.resume(mine, Command::default()).await.unwrap();
    blocks.release.add_permits(2);
    assert_eq!(output(&world.ended(id).await), json!(["done", "done"]));
}

/// A loop of decisions that would go round for ever, in an engine that must go on serving others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_in_which_nothing_waits_can_be_canceled_and_times_out() {
    let (_directory, world) = simple().await;
    let again = json!({"conditions": [{"id": "again", "expression": "input.n > 0"}], "defaultPath": "out", "maxIterations": 1e12 as u64});
    let spin = |id: &str, settings: JsonValue| {
        json!({"id": id, "settings": settings, "nodes": [
            {"id": "s", "type": "trigger", "data": {"triggerType": "manual", "config": {}}},
            {"id": "d", "type": "decision", "data": again}, {"id": "o", "type": "end", "data": {}},
        ], "edges": [{"id": "in", "source": "s", "target": "d"}, {"id": "back", "source": "d", "target": "d", "label": "again"},
            {"id": "out", "source": "d", "target": "o"}]})
    };
    world.apply(spin("spin", json!({}))).await;
    let id = world.start("spin", json!({"n": 1})).await;
    let timed = ran(&world, spin("timed", json!({"timeout": 100})), json!({"n": 1})).await;
    assert_eq!(timed.state.failure.as_ref().unwrap().error.code, "EXECUTION_TIMEOUT");
    let other = ran(&world, one("w", "function", json!({"handlerId": "echo"})), json!(7)).await;
    assert_eq!(output(&other), json!(7), "others are served");
    world.engine.cancel(id, Command::default()).await.unwrap();
    assert!(matches!(world.ended(id).await.state.status, Status::Canceled { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parent_and_children_go_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = Blocks::new();
    let store = store(directory.path(), 4);
    let first = on_store(store.clone(), blocks.executors(), EngineOptions::default()).await;
    let data = json!({"items": "[1,2,3,4,5,6]", "maxConcurrency": 2, "body": body(json!({"handlerId": "block"}))});
    first.apply(one("w", "forEach", data)).await;
    let id = first.start("w", json!({})).await;
    blocks.started(2).await;
    blocks.release.add_permits(2);
    blocks.started(2).await;
    first.engine.shutdown(Duration::from_millis(10)).await;
    let second = on_store(store.clone(), blocks.executors(), EngineOptions::default()).await;
    blocks.started(2).await;
    blocks.release.add_permits(4);
    let view = second.ended(id).await;
    assert_eq!(output(&view), json!(["done", "done", "done", "done", "done", "done"]));
    // None was started twice.
    there_are(&second, 7).await;
    let query = ExecutionQuery {
        parent: Some(id),
        limit: 100,
        ..ExecutionQuery::default()
    };
    assert_eq!(second.store.list(query).await.unwrap().items.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_of_a_parent_stays_small() {
    let (_directory, world) = simple().await;
    let items: Vec<u32> = (0..2_000).collect();
    let data = json!({"items": "input", "maxConcurrency": 200, "body": body(json!({"handlerId": "noop"}))});
    let view = ran(&world, one("w", "forEach", data), json!(items)).await;
    assert_eq!(output(&view).as_array().unwrap().len(), 2_000);
    let entries = world.engine.history(view.state.id, Seq(0), 10_000).await.unwrap();
    let reports = entries
        .iter()
        .filter(|entry| matches!(entry.event, Event::Children(_)))
        .count();
    assert!(reports < 1_000, "{reports} entries for 2,000 children");
}

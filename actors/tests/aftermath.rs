//! What follows a failure or a cancellation: compensations and error workflows, alone and across the end of an engine.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value as JsonValue, json};
use support::{Gate, PATIENCE, World, builtins, on_store, store, with_sandbox, world};
use tokio::sync::Semaphore;
use troupe_actors::record::{read_frames, read_header};
use troupe_actors::{Command, EngineOptions, ExecutionView};
use troupe_core::execution::{ErrorWorkflow, Event, Status};
use troupe_core::{ExecutionId, Json, LogPosition, Seq};
use troupe_executors::{ExecutorsBuilder, HandlerCall, HandlerError};
use troupe_ports::{ExecutionQuery, ExecutionSummary, StateStore, VisibilityStore};

/// Every call of a handler `undo`: its idempotency key, attempt and input.
#[derive(Clone, Default)]
struct Undone {
    calls: Arc<Mutex<Vec<(String, u32, JsonValue)>>>,
    blocked: Arc<Mutex<bool>>,
    entered: Arc<Mutex<u32>>,
}

impl Undone {
    /// `undo` answers at once; `data.fail` of its attempts fail; while it is blocked, none ends.
    fn executors(&self) -> ExecutorsBuilder {
        let undone = self.clone();
        builtins().handler("undo", move |call: HandlerCall| {
            let undone = undone.clone();
            async move {
                let key = call.task.idempotency_key();
                let attempt = call.task.token.attempt.0;
                let input = call.input_json()?.to_value().unwrap();
                *undone.entered.lock() += 1;
                if *undone.blocked.lock() {
                    call.cancel.cancelled().await;
                    return Err(HandlerError::new("CANCELED", "told to stop"));
                }
                undone.calls.lock().push((key, attempt, input));
                let failures = call
                    .task
                    .node()
                    .data
                    .get("fail")
                    .and_then(JsonValue::as_u64)
                    .unwrap_or(0);
                if u64::from(attempt) <= failures {
                    return Err(HandlerError::new("NOT_YET", "it cannot be undone yet"));
                }
                Ok(Json::from_trusted("\"undone\""))
            }
        })
    }

    fn keys(&self) -> Vec<String> {
        self.calls.lock().iter().map(|(key, ..)| key.clone()).collect()
    }

    async fn entered(&self, count: u32) {
        let all = async {
            while *self.entered.lock() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("it is called");
    }
}

fn node(id: &str, handler: &str, undo: Option<JsonValue>) -> JsonValue {
    let mut data = json!({"handlerId": handler, "retryPolicy": {"maxAttempts": 1}});
    if let Some(mut undo) = undo {
        undo["handlerId"] = json!("undo");
        data["compensation"] = json!({"type": "function", "data": undo});
    }
    json!({"id": id, "type": "function", "name": id, "data": data})
}

/// A chain of these nodes.
fn workflow(id: &str, nodes: &[JsonValue], settings: &JsonValue) -> JsonValue {
    let edges: Vec<JsonValue> = nodes
        .windows(2)
        .enumerate()
        .map(|(place, pair)| json!({"id": format!("e{place}"), "source": pair[0]["id"], "target": pair[1]["id"]}))
        .collect();
    json!({"id": id, "name": id, "version": 1, "nodes": nodes, "edges": edges, "settings": settings})
}

/// `a` and `b` complete, `c` fails.
fn order(id: &str, more: &JsonValue) -> JsonValue {
    let nodes = [
        node("a", "echo", Some(json!({}))),
        node("b", "echo", Some(json!({}))),
        node("c", "fail", None),
    ];
    let mut settings = json!({"compensate": true});
    settings
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    workflow(id, &nodes, &settings)
}

/// A workflow of one node that fails.
fn failing(id: &str, settings: &JsonValue) -> JsonValue {
    workflow(id, &[node("n", "fail", None)], settings)
}

async fn listed(world: &World, count: usize) -> Vec<ExecutionSummary> {
    let all = async {
        loop {
            let query = ExecutionQuery {
                limit: 100,
                ..ExecutionQuery::default()
            };
            let items = world.store.list(query).await.unwrap().items;
            let ended = items.iter().filter(|item| item.ended_at.is_some()).count();
            if ended >= count {
                return items;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut items = tokio::time::timeout(PATIENCE, all).await.expect("all are listed");
    tokio::time::sleep(Duration::from_millis(50)).await;
    items.sort_by(|a, b| a.workflow_id.cmp(&b.workflow_id));
    items
}

fn began(view: &ExecutionView) -> ExecutionId {
    match view.state.error_workflow.as_deref() {
        Some(ErrorWorkflow::Began(id)) => *id,
        other => panic!("{other:?}"),
    }
}

fn input(view: &ExecutionView) -> JsonValue {
    view.state.input.shown().to_value().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_completed_is_undone_by_handlers_that_know_what_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let undone = Undone::default();
    let world = world(directory.path(), undone.executors(), EngineOptions::default()).await;
    let mut definition = order("w", &json!({}));
    let retry = json!({"maxAttempts": 3, "initialDelay": 1});
    definition["nodes"][1]["data"]["compensation"]["data"] = json!({
        "handlerId": "undo", "fail": 2, "retryPolicy": retry,
        "inputMapping": {"was": "output.id", "why": "error.code"},
    });
    definition["nodes"][2]["data"]["code"] = json!("DECLINED");
    world.apply(definition).await;
    let id = world.start("w", json!({"id": 7})).await;
    let view = world.ended(id).await;
    assert_eq!(
        (
            view.state.status.name(),
            view.state.failure.unwrap().error.code.as_str()
        ),
        ("failed", "DECLINED")
    );
    let mapped = json!({"was": 7, "why": "DECLINED"});
    let of = |node: &str| format!("{id}/1/{node}/1/compensation");
    let expected = [
        (of("b"), 1, mapped.clone()),
        (of("b"), 2, mapped.clone()),
        (of("b"), 3, mapped),
        (of("a"), 1, json!({"input": {"id": 7}, "output": {"id": 7}})),
    ];
    assert_eq!(*undone.calls.lock(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_amid_compensations_repeats_the_one_under_way_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let undone = Undone::default();
    *undone.blocked.lock() = true;
    let first = on_store(store.clone(), undone.executors(), EngineOptions::default()).await;
    first.apply(order("w", &json!({}))).await;
    let id = first.start("w", json!({"id": 7})).await;
    undone.entered(1).await;
    let during = first.engine.get(id).await.unwrap();
    assert!(matches!(during.state.status, Status::Compensating(_)));
    assert_eq!(during.state.status.name(), "running");
    first.engine.crash().await;
    *undone.blocked.lock() = false;
    let second = on_store(store, undone.executors(), EngineOptions::default()).await;
    let view = second.ended(id).await;
    assert_eq!(view.state.status, Status::Failed);
    let of = |node: &str| format!("{id}/1/{node}/1/compensation");
    assert_eq!(undone.keys(), [of("b"), of("a")]);
    let compensations = view.state.compensations.unwrap();
    let interruptions: Vec<u32> = compensations
        .visits
        .iter()
        .map(|visit| visit.compensation.as_ref().unwrap().interruptions)
        .collect();
    assert_eq!(interruptions, [0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_undoes_and_a_pause_holds_that() {
    let directory = tempfile::tempdir().unwrap();
    let undone = Undone::default();
    let hold = Arc::new(Semaphore::new(0));
    let held = hold.clone();
    let executors = undone.executors().handler("hold", move |call: HandlerCall| {
        let held = held.clone();
        async move {
            held.add_permits(1);
            call.cancel.cancelled().await;
            Err(HandlerError::new("CANCELED", "told to stop"))
        }
    });
    let world = world(directory.path(), executors, EngineOptions::default()).await;
    let nodes = [node("a", "echo", Some(json!({}))), node("b", "hold", Some(json!({})))];
    world.apply(workflow("w", &nodes, &json!({"compensate": true}))).await;
    *undone.blocked.lock() = true;
    let id = world.start("w", json!({"id": 7})).await;
    hold.acquire().await.unwrap().forget();
    let cancel = Command {
        reason: Some("enough".into()),
        ..Command::default()
    };
    world.engine.cancel(id, cancel).await.unwrap();
    undone.entered(1).await;
    assert!(world.engine.cancel(id, Command::default()).await.unwrap().unchanged);
    assert!(!world.engine.pause(id, Command::default()).await.unwrap().unchanged);
    *undone.blocked.lock() = false;
    world.engine.resume(id, Command::default()).await.unwrap();
    // The blocked attempt ends by its timeout only: a crash is faster.
    world.engine.crash().await;
    let second = on_store(world.store.clone(), undone.executors(), EngineOptions::default()).await;
    let view = second.ended(id).await;
    assert_eq!(
        view.state.status,
        Status::Canceled {
            reason: Some("enough".into())
        }
    );
    assert_eq!(undone.keys(), [format!("{id}/1/a/1/compensation")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_undoes_itself_and_its_parent_undoes_the_node_that_started_it() {
    let directory = tempfile::tempdir().unwrap();
    let undone = Undone::default();
    let world = world(directory.path(), undone.executors(), EngineOptions::default()).await;
    world.apply(order("broken", &json!({}))).await;
    let mut sound = order("sound", &json!({}));
    sound["nodes"][2] = node("c", "echo", None);
    world.apply(sound).await;
    let child = |id: &str, workflow: &str| {
        let undo = json!({"type": "function", "data": {"handlerId": "undo"}});
        json!({"id": id, "type": "subworkflow", "data": {"workflowId": workflow, "compensation": undo}})
    };
    let nodes = [child("one", "sound"), child("two", "broken")];
    world.apply(workflow("w", &nodes, &json!({"compensate": true}))).await;
    let id = world.start("w", json!({"id": 7})).await;
    let view = world.ended(id).await;
    assert_eq!(view.state.status, Status::Failed);
    let keys = undone.keys();
    assert_eq!(keys.len(), 3, "{keys:?}");
    assert!(keys[0].ends_with("/b/1/compensation") && keys[1].ends_with("/a/1/compensation"));
    assert_eq!(
        keys[2],
        format!("{id}/1/one/1/compensation"),
        "the child that completed is undone as a whole"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_workflow_begins_in_the_record_of_the_failure() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    world
        .apply(workflow("alarm", &[node("n", "echo", None)], &json!({})))
        .await;
    let mut definition = failing("w", &json!({"errorWorkflow": "alarm"}));
    definition["nodes"][0]["data"]["code"] = json!("DECLINED");
    world.apply(definition).await;
    let id = world.start("w", json!({"id": 7})).await;
    let view = world.ended(id).await;
    assert_eq!(view.state.status, Status::Failed);
    let alarm = began(&view);
    assert_eq!(alarm.shard(), id.shard());
    let told = world.ended(alarm).await;
    assert_eq!(
        (told.state.status.name(), told.state.handles_failure_of),
        ("completed", Some(id))
    );
    let report = input(&told);
    assert_eq!(
        (&report["error"]["code"], &report["node"]["id"]),
        (&json!("DECLINED"), &json!("n"))
    );
    assert_eq!(
        (&report["execution"]["id"], &report["input"]),
        (&json!(id.to_string()), &json!({"id": 7}))
    );
    let records = world.store.read(id.shard(), LogPosition(1), 1 << 20).await.unwrap();
    let with_both = records.iter().any(|record| {
        let (_, items) = read_header(&record.bytes).unwrap();
        let entry = |of: ExecutionId, fits: &dyn Fn(&Event) -> bool| {
            items.iter().any(|item| {
                let entry = read_frames(&record.bytes[item.frame.clone()]).next().unwrap().unwrap();
                item.id == of && fits(&entry.event)
            })
        };
        entry(id, &|event| matches!(event, Event::AttemptClosed(_)))
            && entry(alarm, &|event| matches!(event, Event::Started(_)))
    });
    assert!(with_both, "cause and result are one record");
    let all = listed(&world, 2).await;
    assert_eq!(all.len(), 2);
    assert!(
        all.iter().all(|item| item.parent.is_none()),
        "it is listed like any other"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_the_failure_and_its_error_workflow_loses_neither() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let gate = Arc::new(Gate::default());
    let first = with_sandbox(store.clone(), builtins(), EngineOptions::default(), gate.clone()).await;
    // Its start needs the sandbox, so it cannot begin in the record of the failure.
    let mut alarm = workflow("alarm", &[node("n", "echo", None)], &json!({}));
    alarm["nodes"][0]["data"]["inputMapping"] = json!({"x": "(() => { return 42 })()"});
    first.apply(alarm).await;
    first.apply(failing("w", &json!({"errorWorkflow": "alarm"}))).await;
    let id = first.start("w", json!({})).await;
    gate.entered().await;
    let during = first.engine.get(id).await.unwrap();
    assert_eq!(
        (&during.state.status, during.state.status.name()),
        (&Status::Reporting, "running")
    );
    first.engine.crash().await;
    let second = on_store(store, builtins(), EngineOptions::default()).await;
    let view = second.ended(id).await;
    assert_eq!(view.state.status, Status::Failed);
    let told = second.ended(began(&view)).await;
    assert_eq!(told.state.status.name(), "completed");
    assert_eq!(listed(&second, 2).await.len(), 2, "none was started twice");
    second.engine.crash().await;
    let third = on_store(second.store.clone(), builtins(), EngineOptions::default()).await;
    assert_eq!(listed(&third, 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_workflow_that_is_not_there_is_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    world.apply(failing("w", &json!({"errorWorkflow": "nobody"}))).await;
    let id = world.start("w", json!({})).await;
    let view = world.ended(id).await;
    assert_eq!(view.state.status, Status::Failed);
    match view.state.error_workflow.as_deref() {
        Some(ErrorWorkflow::Refused(error)) => assert_eq!(error.code, "WORKFLOW_NOT_FOUND"),
        other => panic!("{other:?}"),
    }
    let history = world.engine.history(id, Seq(0), 100).await.unwrap();
    assert!(matches!(history.last().unwrap().event, Event::ErrorWorkflow(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn error_workflows_do_not_start_one_another() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    // It fails, its child fails, and both name error workflows.
    let child = json!({"id": "n", "type": "subworkflow", "data": {"workflowId": "child"}});
    world
        .apply(workflow("alarm", &[child], &json!({"errorWorkflow": "alarm"})))
        .await;
    world.apply(failing("child", &json!({"errorWorkflow": "alarm"}))).await;
    world.apply(failing("w", &json!({"errorWorkflow": "alarm"}))).await;
    let id = world.start("w", json!({})).await;
    let alarm = began(&world.ended(id).await);
    let told = world.ended(alarm).await;
    assert_eq!(
        (told.state.status.name(), &told.state.error_workflow),
        ("failed", &None)
    );
    let all = listed(&world, 3).await;
    let names: Vec<&str> = all.iter().map(|item| item.workflow_id.as_str()).collect();
    assert_eq!(names, ["alarm", "child", "w"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_reports_its_failure_by_its_own_settings() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    world
        .apply(workflow("alarm", &[node("n", "echo", None)], &json!({})))
        .await;
    world.apply(failing("child", &json!({"errorWorkflow": "alarm"}))).await;
    let child = json!({"id": "n", "type": "subworkflow", "data": {"workflowId": "child"}});
    world.apply(workflow("w", &[child], &json!({}))).await;
    let id = world.start("w", json!({})).await;
    let view = world.ended(id).await;
    assert_eq!((view.state.status.name(), view.state.error_workflow), ("failed", None));
    let all = listed(&world, 3).await;
    assert_eq!(all.iter().filter(|item| item.workflow_id == "alarm").count(), 1);
}

//! Reruns: a new execution takes over results of another one, also after a restart.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value as JsonValue, json};
use support::{World, builtins, failing, on_store, store, world};
use troupe_actors::{EngineError, EngineOptions, RerunOutcome, RerunRequest, StartRequest};
use troupe_core::execution::{Event, Status};
use troupe_core::{ExecutionId, Json, Principal, Seq, Value};
use troupe_executors::{ExecutorsBuilder, HandlerCall};
use troupe_ports::{ExecutionQuery, VisibilityStore};

/// `count` counts its calls and gives what it was given; `fail` fails until it was called so often.
struct Handlers {
    counted: Arc<AtomicU32>,
    failures: Arc<AtomicU32>,
}

impl Handlers {
    fn failing(times: u32) -> Self {
        Self {
            counted: Arc::default(),
            failures: Arc::new(AtomicU32::new(times)),
        }
    }

    fn executors(&self) -> ExecutorsBuilder {
        let counted = self.counted.clone();
        let count = move |call: HandlerCall| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { call.input_json().cloned() }
        };
        builtins()
            .handler("count", count)
            .handler("fail", failing(&self.failures))
    }
}

fn definition(last: &str) -> JsonValue {
    let node = |id: &str, handler: &str| json!({"id": id, "type": "function", "data": {"handlerId": handler, "retryPolicy": {"maxAttempts": 1}}});
    json!({
        "id": "w", "name": "w", "version": 1,
        "nodes": [node("a", "count"), node("b", last)],
        "edges": [{"id": "e", "source": "a", "target": "b"}],
    })
}

fn from(node: &str) -> RerunRequest {
    RerunRequest {
        from: node.into(),
        ..RerunRequest::default()
    }
}

fn started(outcome: &RerunOutcome) -> ExecutionId {
    outcome.started.expect("it started").id
}

fn output(world_view: &troupe_actors::ExecutionView) -> JsonValue {
    match &world_view.state.status {
        Status::Completed {
            output: Value::Inline(json),
        } => json.to_value().unwrap(),
        other => panic!("{other:?}: {:?}", world_view.state.failure),
    }
}

async fn failed(world: &World) -> ExecutionId {
    let id = world.start("w", json!({"n": 1})).await;
    assert_eq!(world.ended(id).await.state.status, Status::Failed);
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_runs_the_node_and_takes_over_what_led_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let handlers = Handlers::failing(1);
    let world = world(directory.path(), handlers.executors(), EngineOptions::default()).await;
    world.apply(definition("fail")).await;
    let id = failed(&world).await;
    let request = RerunRequest {
        reason: Some("it was down".into()),
        principal: Some(Principal::from("ann")),
        ..from("b")
    };
    let outcome = world.engine.rerun(id, request).await.unwrap();
    let repeated: Vec<_> = outcome.repeated.iter().map(|node| node.node.as_str()).collect();
    assert_eq!((repeated.as_slice(), outcome.version), (&["b"][..], 1));
    let new = started(&outcome);
    let view = world.ended(new).await;
    assert_ne!(new, id);
    assert_eq!(output(&view), json!({"n": 1}));
    assert_eq!(handlers.counted.load(Ordering::SeqCst), 1, "`a` did not run again");
    assert_eq!(view.state.rerun_of.as_ref().unwrap().execution, id);
    let first = &world.engine.history(new, Seq(0), 1).await.unwrap()[0];
    let Event::Started(begun) = &first.event else {
        panic!("{first:?}")
    };
    assert_eq!(begun.rerun.as_ref().unwrap().reason.as_deref(), Some("it was down"));
    assert_eq!(first.principal, Some(Principal::from("ann")));
    assert_eq!(
        world.engine.get(id).await.unwrap().state.status,
        Status::Failed,
        "the first one stays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_starts_nothing_and_a_key_starts_once() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(
        directory.path(),
        Handlers::failing(1).executors(),
        EngineOptions::default(),
    )
    .await;
    world.apply(definition("fail")).await;
    let id = failed(&world).await;
    let dry = RerunRequest {
        dry_run: true,
        ..from("a")
    };
    let outcome = world.engine.rerun(id, dry).await.unwrap();
    assert_eq!((outcome.started, outcome.repeated.len()), (None, 2));
    let keyed = RerunRequest {
        request_key: Some("k".into()),
        ..from("a")
    };
    let one = world.engine.rerun(id, keyed.clone()).await.unwrap();
    let two = world.engine.rerun(id, keyed).await.unwrap();
    assert_eq!(started(&one), started(&two));
    assert!(two.started.unwrap().existing);
    world.ended(started(&one)).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let query = ExecutionQuery {
        limit: 10,
        ..ExecutionQuery::default()
    };
    assert_eq!(world.store.list(query).await.unwrap().items.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_of_an_archived_execution_survives_restarts_and_may_run_another_version() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let handlers = Handlers::failing(u32::MAX);
    let first = on_store(store.clone(), handlers.executors(), EngineOptions::default()).await;
    first.apply(definition("fail")).await;
    let id = failed(&first).await;
    first.engine.shutdown(Duration::from_secs(5)).await;

    let second = on_store(store.clone(), handlers.executors(), EngineOptions::default()).await;
    second.apply(definition("count")).await;
    let request = RerunRequest {
        version: Some(2),
        input: Some(Json::of(&json!("edited"))),
        ..from("b")
    };
    let outcome = second.engine.rerun(id, request).await.unwrap();
    let new = started(&outcome);
    second.engine.crash().await;

    let third = on_store(store, handlers.executors(), EngineOptions::default()).await;
    let view = third.ended(new).await;
    assert_eq!((output(&view), view.state.version), (json!("edited"), 2));
    assert_eq!(view.state.nodes[0].visit.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_rerun_is_refused_and_a_business_key_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(
        directory.path(),
        Handlers::failing(1).executors(),
        EngineOptions::default(),
    )
    .await;
    world.apply(definition("fail")).await;
    let start = StartRequest {
        execution_key: Some("order-1".into()),
        ..StartRequest::new("w", Json::of(&json!(1)))
    };
    let id = world.engine.start(start).await.unwrap().id;
    world.ended(id).await;
    let missing = world.engine.rerun(id, from("nobody")).await.unwrap_err();
    assert!(matches!(missing, EngineError::NodeNotFound { .. }), "{missing}");
    let version = RerunRequest {
        version: Some(9),
        ..from("a")
    };
    let missing = world.engine.rerun(id, version).await.unwrap_err();
    assert!(
        matches!(missing, EngineError::VersionNotFound { version: 9, .. }),
        "{missing}"
    );
    let outcome = world.engine.rerun(id, from("b")).await.unwrap();
    let view = world.ended(started(&outcome)).await;
    assert_eq!(view.state.execution_key, None);
    assert_eq!(world.engine.latest_of_key("w", "order-1").await.unwrap(), Some(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_names_the_trigger_of_the_execution_that_it_repeats() {
    let directory = tempfile::tempdir().unwrap();
    let handlers = Handlers::failing(0);
    let world = world(directory.path(), handlers.executors(), EngineOptions::default()).await;
    let mut definition = definition("count");
    for id in ["one", "other"] {
        let trigger = json!({"id": id, "type": "trigger", "data": {"triggerType": "manual"}});
        definition["nodes"].as_array_mut().unwrap().push(trigger);
        let edge = json!({"id": format!("of {id}"), "source": id, "target": "a"});
        definition["edges"].as_array_mut().unwrap().push(edge);
    }
    world.apply(definition).await;
    let mut request = StartRequest::new("w", Json::of(&json!({"n": 1})));
    request.trigger = Some("other".into());
    let id = world.engine.start(request).await.unwrap().id;
    world.ended(id).await;
    let again = started(&world.engine.rerun(id, from("one")).await.unwrap());
    let view = world.ended(again).await;
    assert_eq!(view.state.trigger.as_deref(), Some("other"));
}

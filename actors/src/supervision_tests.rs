//! What happens when actors end in the wrong order or not at all by themselves.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tokio::sync::Semaphore;
use troupe_core::execution::{ChildId, Parent, Started, Status};
use troupe_core::{ExecutionId, Json, NodeIx, Run, Value, Visit};
use troupe_executors::HandlerCall;

use crate::execution::family::child_id;
use crate::execution::{ExecutionMessage, Respond, StartInput};
use crate::shard::{deliver, send_to_relative};
use crate::support::{Gate, World, builtins, chain, world};
use crate::{EngineOptions, ExecutionView};

fn actor_of(world: &World, id: ExecutionId) -> ractor::ActorRef<crate::execution::ExecutionMessage> {
    let directory = &world.engine.context.directory;
    directory.actor(id).expect("it has an actor")
}

fn is_completed(view: &ExecutionView) -> bool {
    matches!(view.state.status, Status::Completed { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_whose_actor_is_killed_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let (started, calls) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
    let (signal, count) = (started.clone(), calls.clone());
    let executors = builtins().handler("once", move |_: HandlerCall| {
        let (signal, first) = (signal.clone(), count.fetch_add(1, Ordering::SeqCst) == 0);
        async move {
            signal.add_permits(1);
            if first {
                std::future::pending::<()>().await;
            }
            Ok(Json::null())
        }
    });
    let world = world(directory.path(), executors, EngineOptions::default()).await;
    let mut definition = chain("w", 1, "once");
    definition["nodes"][0]["data"]["retryPolicy"] = json!({"initialDelay": 1, "jitter": "none"});
    world.apply(definition).await;
    let id = world.start("w", json!({})).await;
    started.acquire().await.unwrap().forget();
    let children = actor_of(&world, id).get_cell().get_children();
    assert_eq!(children.len(), 1);
    children.iter().for_each(ractor::ActorCell::kill);
    let view = world.ended(id).await;
    assert!(is_completed(&view));
    let errors: Vec<_> = view.state.nodes[0]
        .attempts
        .iter()
        .map(|attempt| attempt.error.as_ref().map(|error| error.code.clone()))
        .collect();
    assert_eq!(errors, [Some("PANIC".to_owned()), None]);
}

/// While the execution's actor awaits the sandbox, another attempt reports and its actor ends, which is no news to anybody. Were it,
/// it would be found behind the result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_is_gone_before_its_result_is_read_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let slow = Arc::new(Semaphore::new(0));
    let signal = slow.clone();
    let executors = builtins().handler("later", move |_: HandlerCall| {
        let signal = signal.clone();
        async move {
            signal.acquire().await.expect("never closed").forget();
            Ok(Json::from_trusted("\"b\""))
        }
    });
    let world = crate::support::with_sandbox(
        crate::support::store(directory.path(), 4),
        executors,
        EngineOptions::default(),
        gate.clone(),
    )
    .await;
    let mut definition = chain("w", 2, "noop");
    definition["edges"][0]["condition"] = "(() => { return 42 })()".into();
    let later = json!({"id": "b", "type": "function", "name": "b", "data": {"handlerId": "later"},
                       "dependencies": [], "position": {"x": 0, "y": 0}});
    definition["nodes"].as_array_mut().unwrap().push(later);
    world.apply(definition).await;
    let id = world.start("w", json!({})).await;
    gate.entered().await;
    // The execution's actor is inside its handler now. Let the other attempt end completely.
    let actor = actor_of(&world, id);
    let attempt = actor
        .get_cell()
        .get_children()
        .into_iter()
        .next()
        .expect("b still runs");
    slow.add_permits(1);
    while attempt.get_status() != ractor::ActorStatus::Stopped {
        tokio::task::yield_now().await;
    }
    assert!(
        actor.get_cell().get_children().is_empty(),
        "it is nobody's child any more"
    );
    gate.open();
    let view = world.ended(id).await;
    assert!(is_completed(&view), "{:?}", view.state);
    for node in &view.state.nodes {
        assert_eq!(node.attempts.len(), 1);
        assert!(node.attempts[0].error.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_whose_actor_panics_is_rebuilt_and_then_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    gate.open();
    gate.panics.store(2, Ordering::SeqCst);
    let store = crate::support::store(directory.path(), 4);
    let world = crate::support::with_sandbox(store, builtins(), EngineOptions::default(), gate.clone()).await;
    let mut definition = chain("w", 2, "noop");
    definition["edges"][0]["condition"] = "(() => { return 42 })()".into();
    world.apply(definition).await;
    world.apply(chain("other", 3, "noop")).await;

    let healed = world.start("w", json!({})).await;
    assert!(is_completed(&world.ended(healed).await));
    assert_eq!(world.engine.status().panics, 2);

    gate.panics.store(u32::MAX, Ordering::SeqCst);
    let poisoned = world.start("w", json!({})).await;
    while world.engine.status().quarantined == 0 {
        tokio::task::yield_now().await;
    }
    let view = world.engine.get(poisoned).await.unwrap();
    assert!(view.quarantined.is_some());
    let refused = world
        .engine
        .pause(poisoned, crate::Command::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "QUARANTINED");
    let other = world.start("other", json!({})).await;
    assert!(is_completed(&world.ended(other).await), "nobody else is harmed");

    gate.panics.store(0, Ordering::SeqCst);
    world.engine.resume(poisoned, crate::Command::default()).await.unwrap();
    assert!(is_completed(&world.ended(poisoned).await));
}

/// What a parent told its child last was lost with the parent's actor: that it waits no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_is_no_longer_awaited_is_canceled_when_its_parent_is_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let (gate, go) = (Arc::new(Gate::default()), Arc::new(Semaphore::new(0)));
    gate.open();
    let wait = go.clone();
    let executors = builtins().handler("wait", move |_: HandlerCall| {
        let wait = wait.clone();
        async move {
            wait.acquire().await.expect("never closed").forget();
            Ok(Json::null())
        }
    });
    let store = crate::support::store(directory.path(), 4);
    // One that is loaded asks by itself: whoever waits keeps its actor.
    let options = EngineOptions {
        passivate_after_ms: 24 * 3_600_000,
        ..EngineOptions::default()
    };
    let world = crate::support::with_sandbox(store, executors, options, gate.clone()).await;
    let mut definition = chain("w", 2, "wait");
    definition["edges"][0]["condition"] = "(() => { return 42 })()".into();
    world.apply(definition).await;
    let waits = json!({"id": "n", "type": "delay", "data": {"delayType": "fixed", "delayValue": 3_600_000}});
    world
        .apply(json!({"id": "other", "name": "other", "version": 1, "edges": [], "nodes": [waits]}))
        .await;
    let id = world.start("w", json!({})).await;
    let place = &world.engine.context.shards[usize::from(id.shard().0)];
    let shard = place.read().clone().expect("it is served");
    let plan = world.engine.get(id).await.unwrap().plan;
    let compiled = world.engine.context.plans.to_start("other", None).await.unwrap();
    let child = ChildId {
        run: Run(1),
        node: NodeIx(0),
        visit: Visit(1),
        index: 0,
    };
    let parent = Parent {
        execution: id,
        child,
        attached: true,
        depth: 1,
        root: Some(id),
    };
    let orphan = child_id(id, &plan, child);
    let started = Started {
        parent: Some(parent),
        ..Started::of(orphan, &compiled.plan, Value::null())
    };
    let start = StartInput {
        started,
        principal: None,
        compiled,
        fresh: true,
    };
    deliver(
        &shard,
        orphan,
        ExecutionMessage::Start(Box::new(start), Respond::Nobody),
    )
    .await;
    while world.engine.get(orphan).await.is_err() {
        tokio::task::yield_now().await;
    }
    // The parent's actor panics when its node completes.
    gate.panics.store(1, Ordering::SeqCst);
    go.add_permits(1);
    let view = world.ended(orphan).await;
    assert!(
        matches!(view.state.status, Status::Canceled { .. }),
        "{:?}",
        view.state.status
    );
    assert_eq!(world.engine.status().panics, 1);
}

/// A child asks a parent of which nothing is left, as after the parent's archive has expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_whose_parent_is_unknown_is_canceled() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    world
        .apply(json!({"id": "w", "name": "w", "version": 1, "edges": [], "nodes": [
            {"id": "n", "type": "delay", "data": {"delayType": "fixed", "delayValue": 3_600_000}}]}))
        .await;
    let id = world.start("w", json!({})).await;
    let place = &world.engine.context.shards[usize::from(id.shard().0)];
    let shard = place.read().clone().expect("it is served");
    let parent = ExecutionId::fresh(id.shard(), world.engine.context.now(), 7);
    let child = ChildId {
        run: Run(1),
        node: NodeIx(0),
        visit: Visit(1),
        index: 0,
    };
    send_to_relative(&shard, parent, ExecutionMessage::ChildAlive(child, id));
    let view = world.ended(id).await;
    assert!(
        matches!(view.state.status, Status::Canceled { .. }),
        "{:?}",
        view.state.status
    );
}

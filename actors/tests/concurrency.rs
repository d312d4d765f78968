//! Limits on attempts that share a key, and on those of a node type.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{World, builtins, on_store, store, world};
use tokio::sync::Semaphore;
use troupe_actors::{AttemptWait, Command, EngineOptions, StartRequest};
use troupe_core::Json;
use troupe_core::definition::NodeKind;
use troupe_executors::{ExecutorsBuilder, HandlerCall};

/// What ran at once, by key, and what ran at all.
#[derive(Default)]
struct Effects {
    running: HashMap<String, usize>,
    most: HashMap<String, usize>,
    most_together: usize,
    done: usize,
}

/// One effect under way; it is over when it is dropped, however that comes.
struct Effect(Arc<Mutex<Effects>>, String);

impl Effect {
    fn begin(effects: &Arc<Mutex<Effects>>, key: String) -> Self {
        let mut all = effects.lock();
        let running = all.running.entry(key.clone()).or_default();
        *running += 1;
        let running = *running;
        let most = all.most.entry(key.clone()).or_default();
        *most = running.max(*most);
        let together = all.running.values().sum();
        all.most_together = all.most_together.max(together);
        drop(all);
        Self(Arc::clone(effects), key)
    }
}

impl Drop for Effect {
    fn drop(&mut self) {
        *self.0.lock().running.get_mut(&self.1).unwrap() -= 1;
    }
}

/// A handler that works on the `key` of its input for a moment.
fn working(effects: &Arc<Mutex<Effects>>) -> ExecutorsBuilder {
    let effects = Arc::clone(effects);
    builtins().handler("work", move |call: HandlerCall| {
        let effects = Arc::clone(&effects);
        async move {
            let input: Value = call.input()?;
            let effect = Effect::begin(&effects, input["key"].to_string());
            tokio::time::sleep(Duration::from_millis(input["ms"].as_u64().unwrap_or(2))).await;
            effects.lock().done += 1;
            drop(effect);
            Ok(Json::null())
        }
    })
}

fn bounded(limit: Value) -> Value {
    json!({"id": "w", "edges": [], "nodes": [
        {"id": "n", "type": "function", "data": {"handlerId": "work", "concurrency": limit}},
    ]})
}

async fn end_all(world: &World, ids: Vec<troupe_core::ExecutionId>) {
    for id in ids {
        let ended = world.ended(id).await;
        assert_eq!(ended.state.status.name(), "completed", "{:?}", ended.state.failure);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mutex_holds_under_load_and_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let effects = Arc::new(Mutex::new(Effects::default()));
    let mutex = json!({"key": "input.key", "limit": 1});
    let mut ids = Vec::new();
    let mut dice = 7_u64;
    for round in 0..4 {
        let world = on_store(Arc::clone(&store), working(&effects), EngineOptions::default()).await;
        world.apply(bounded(mutex.clone())).await;
        for _ in 0..30 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let input = json!({"key": format!("k{}", (dice >> 33) % 5), "ms": (dice >> 40) % 4});
            ids.push(world.start("w", input).await);
        }
        if round == 3 {
            end_all(&world, std::mem::take(&mut ids)).await;
        } else {
            tokio::time::sleep(Duration::from_millis((dice >> 50) % 20)).await;
            // Attempts are cut short, and dispatched again by the next engine.
            world.engine.shutdown(Duration::ZERO).await;
        }
    }
    let effects = effects.lock();
    assert!(effects.done >= 120, "{}", effects.done);
    assert!(effects.most.values().all(|most| *most == 1), "{:?}", effects.most);
    assert!(effects.most_together > 1, "other keys went on meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_key_keeps_no_other_waiting_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let hold = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&hold);
    let executors = builtins().handler("work", move |call: HandlerCall| {
        let gate = Arc::clone(&gate);
        async move {
            let input: Value = call.input()?;
            if input["key"] == "held" {
                gate.acquire().await.expect("never closed").forget();
            }
            Ok(Json::null())
        }
    });
    // As many wait for the key as there are permits, and more.
    let options = EngineOptions {
        attempts_max: 2,
        ..EngineOptions::default()
    };
    let world = world(directory.path(), executors, options).await;
    world.apply(bounded(json!({"key": "input.key"}))).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(world.start("w", json!({"key": "held"})).await);
    }
    let free = world.start("w", json!({"key": "free"})).await;
    assert_eq!(world.ended(free).await.state.status.name(), "completed");
    support::until("all but the one that runs say so", async || {
        let mut waiting = 0;
        for id in &held {
            let view = world.engine.get(*id).await.unwrap();
            waiting += usize::from(view.waits.iter().any(|(_, what)| *what == AttemptWait::Slot));
        }
        waiting == 4
    })
    .await;
    world.engine.cancel(held[4], Command::default()).await.unwrap();
    hold.add_permits(5);
    world.ended(held.pop().unwrap()).await;
    end_all(&world, held).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_waits_no_longer_than_its_queue_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let effects = Arc::new(Mutex::new(Effects::default()));
    let world = world(directory.path(), working(&effects), EngineOptions::default()).await;
    let mut hurried = bounded(json!({}));
    hurried["nodes"][0]["data"]["queueTimeout"] = json!(50);
    hurried["nodes"][0]["data"]["timeout"] = json!(20_000);
    world.apply(hurried).await;
    let first = world.start("w", json!({"key": 1, "ms": 3_000})).await;
    while effects.lock().most_together == 0 {
        tokio::task::yield_now().await;
    }
    let second = world.start("w", json!({"key": 1})).await;
    let ended = world.ended(second).await;
    assert_eq!(ended.state.failure.as_ref().unwrap().error.code, "QUEUE_TIMEOUT");
    assert_eq!(ended.state.nodes[0].attempts.len(), 1, "it is not retried");
    end_all(&world, vec![first]).await;
    assert_eq!(effects.lock().done, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_per_execution_workflow_or_everywhere() {
    for (limit, expected) in [
        (json!({"limit": 2, "scope": "execution"}), 4),
        (json!({"limit": 2}), 2),
        (json!({"limit": 3, "key": "'all'", "scope": "global"}), 3),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let effects = Arc::new(Mutex::new(Effects::default()));
        let world = world(directory.path(), working(&effects), EngineOptions::default()).await;
        let mut ids = Vec::new();
        world.apply(bounded(limit.clone())).await;
        for _ in 0..4 {
            ids.push(world.start("w", json!({"key": 1, "ms": 1_000})).await);
        }
        end_all(&world, ids).await;
        assert_eq!(effects.lock().most_together, expected, "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_type_has_a_limit_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let effects = Arc::new(Mutex::new(Effects::default()));
    let options = EngineOptions {
        attempts_max_of: [(NodeKind::Function, 2)].into(),
        ..EngineOptions::default()
    };
    let world = world(directory.path(), working(&effects), options).await;
    world
        .apply(json!({"id": "w", "edges": [], "nodes": [
            {"id": "n", "type": "function", "data": {"handlerId": "work", "inputMapping": {"key": "'n'", "ms": "input.ms"}}},
            {"id": "c", "type": "custom", "data": {"handlerId": "work", "inputMapping": {"key": "'c'", "ms": "input.ms"}}},
        ]}))
        .await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(world.start("w", json!({"ms": 1_000})).await);
    }
    end_all(&world, ids).await;
    let most = &effects.lock().most;
    assert_eq!(most["\"n\""], 2, "{most:?}");
    assert!(most["\"c\""] > 2, "another type has no limit: {most:?}");
}

/// A workflow of which so many run at once, by the key of their input.
fn limited(limit: u32) -> Value {
    json!({"id": "w", "edges": [], "settings": {"concurrency": {"limit": limit, "key": "trigger.key"}},
        "nodes": [{"id": "n", "type": "function", "data": {"handlerId": "work"}}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_starts_stay_pending_in_order_and_hold_no_actor() {
    let directory = tempfile::tempdir().unwrap();
    let (began, hold) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
    let (seen, gate) = (Arc::clone(&began), Arc::clone(&hold));
    let executors = builtins().handler("work", move |call: HandlerCall| {
        let (seen, gate) = (Arc::clone(&seen), Arc::clone(&gate));
        async move {
            let input: Value = call.input()?;
            seen.lock().push(input["name"].as_str().unwrap_or_default().to_owned());
            gate.acquire().await.expect("never closed").forget();
            Ok(Json::null())
        }
    });
    let world = world(directory.path(), executors, EngineOptions::default()).await;
    world.apply(limited(1)).await;
    let mut ids = Vec::new();
    for (name, priority) in [
        ("first", 5),
        ("second", 5),
        ("third", 5),
        ("urgent", 9),
        ("given up", 9),
    ] {
        let mut request = StartRequest::new("w", Json::of(&json!({"key": "k", "name": name})));
        request.priority = Some(priority);
        let outcome = world.engine.start(request).await.unwrap();
        assert!(outcome.pending);
        ids.push(outcome.id);
        // The order of starts is that of their times.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let other = world.start("w", json!({"key": "other", "name": "other"})).await;
    while began.lock().len() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for id in &ids[1..] {
        assert_eq!(world.engine.get(*id).await.unwrap().state.status.name(), "pending");
    }
    let canceled = world.engine.cancel(ids[4], Command::default()).await;
    canceled.unwrap();
    assert_eq!(world.ended(ids[4]).await.state.status.name(), "canceled");
    while world.engine.status().active > 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    hold.add_permits(5);
    end_all(&world, vec![other, ids[0], ids[1], ids[2], ids[3]]).await;
    let order: Vec<String> = began.lock().iter().filter(|name| *name != "other").cloned().collect();
    assert_eq!(order, ["first", "urgent", "second", "third"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_executions_holds_under_load_and_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let effects = Arc::new(Mutex::new(Effects::default()));
    let mut ids = Vec::new();
    let mut dice = 11_u64;
    for round in 0..4 {
        let world = on_store(Arc::clone(&store), working(&effects), EngineOptions::default()).await;
        world.apply(limited(2)).await;
        for _ in 0..20 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let input = json!({"key": format!("k{}", (dice >> 33) % 3), "ms": (dice >> 40) % 4});
            ids.push(world.start("w", input).await);
        }
        if round == 3 {
            end_all(&world, std::mem::take(&mut ids)).await;
        } else {
            tokio::time::sleep(Duration::from_millis((dice >> 50) % 20)).await;
            world.engine.shutdown(Duration::ZERO).await;
        }
    }
    let effects = effects.lock();
    assert!(effects.done >= 80, "{}", effects.done);
    assert!(effects.most.values().all(|most| *most <= 2), "{:?}", effects.most);
    assert!(effects.most.values().any(|most| *most == 2), "{:?}", effects.most);
}

//! Which attempt goes first when not all can run at once.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{builtins, world};
use tokio::sync::Semaphore;
use troupe_actors::{AttemptWait, EngineOptions, StartRequest};
use troupe_core::Json;
use troupe_executors::HandlerCall;

fn node(id: &str) -> Value {
    json!({"id": id, "type": "function", "data": {"handlerId": "note"}})
}

/// Runs executions of `definition` behind one that holds the only permit; the nodes in the order in which they began.
async fn order(definition: Value, priorities: &[u8]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let (began, hold) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
    let (seen, gate) = (Arc::clone(&began), Arc::clone(&hold));
    let held = Arc::new(Semaphore::new(0));
    let holds = Arc::clone(&held);
    let executors = builtins()
        .handler("note", move |call: HandlerCall| {
            let input = call
                .input_json()
                .map(|json| json.as_str().to_owned())
                .unwrap_or_default();
            seen.lock().push(format!("{}{input}", call.task.node().key));
            async { Ok(Json::null()) }
        })
        .handler("hold", move |_: HandlerCall| {
            let gate = Arc::clone(&gate);
            holds.add_permits(1);
            async move {
                gate.acquire().await.expect("never closed").forget();
                Ok(Json::null())
            }
        });
    let options = EngineOptions {
        attempts_max: 1,
        ..EngineOptions::default()
    };
    let edges = definition["edges"].as_array().unwrap();
    let is_root = |node: &&Value| !edges.iter().any(|edge| edge["target"] == node["id"]);
    let roots = definition["nodes"].as_array().unwrap().iter().filter(is_root).count();
    let world = world(directory.path(), executors, options).await;
    world.apply(support::chain("holds", 1, "hold")).await;
    world.apply(definition).await;
    let first = world.start("holds", json!({})).await;
    held.acquire().await.expect("never closed").forget();
    let mut ids = Vec::new();
    for priority in priorities {
        let mut request = StartRequest::new("w", Json::of(&json!(priority)));
        request.priority = Some(*priority);
        ids.push(world.engine.start(request).await.unwrap().id);
    }
    support::until("all of them wait for the permit", async || {
        for id in &ids {
            let view = world.engine.get(*id).await.unwrap();
            let waiting = view.waits.iter().filter(|(_, what)| *what == AttemptWait::Permit);
            if waiting.count() < roots {
                return false;
            }
        }
        true
    })
    .await;
    hold.add_permits(1);
    world.ended(first).await;
    for id in ids {
        world.ended(id).await;
    }
    let began = began.lock();
    began.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executions_of_a_higher_priority_go_first() {
    let definition = json!({"id": "w", "nodes": [node("n")], "edges": []});
    assert_eq!(order(definition, &[3, 9, 5, 9]).await, ["n9", "n9", "n5", "n3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_longest_way_hangs_on_goes_first() {
    let ids = ["a", "b", "b2", "c", "c2", "c3"];
    let edges =
        json!([{"source": "b", "target": "b2"}, {"source": "c", "target": "c2"}, {"source": "c2", "target": "c3"}]);
    let began = order(json!({"id": "w", "nodes": ids.map(node), "edges": edges}), &[5]).await;
    // The roots wait together; what follows one of them is ready only after its end is durable.
    let roots: Vec<&str> = began
        .iter()
        .map(String::as_str)
        .filter(|name| name.ends_with('5'))
        .collect();
    assert_eq!(roots, ["c5", "b5", "a5"], "{began:?}");
}

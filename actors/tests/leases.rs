//! An engine whose threads are all busy keeps its shards.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{builtins, chain, world};
use troupe_actors::EngineOptions;
use troupe_core::Seq;

const LEASE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_renewed_while_every_engine_thread_is_busy() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        lease: LEASE,
        ..EngineOptions::default()
    };
    let world = world(directory.path(), builtins(), options).await;
    world.apply(chain("chain", 2, "noop")).await;
    let id = world.start("chain", serde_json::json!({})).await;
    world.ended(id).await;
    // An expression, a decoder or a disk that takes its time: nothing else runs on these threads for three leases.
    let busy: Vec<_> = (0..2)
        .map(|_| tokio::spawn(async { std::thread::sleep(LEASE * 3) }))
        .collect();
    // This task has a thread of its own.
    std::thread::sleep(LEASE * 2);
    let history = world.engine.history(id, Seq(0), 10).await.unwrap();
    assert_eq!(history.len(), 3);
    for task in busy {
        task.await.unwrap();
    }
    world.engine.shutdown(support::PATIENCE).await;
}

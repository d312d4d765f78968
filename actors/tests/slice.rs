//! The thin slice: a chain runs, durably, and its history and lists say so.
#![allow(clippy::unwrap_used)]

mod support;

use support::{builtins, chain, world};
use troupe_actors::EngineOptions;
use troupe_core::Seq;
use troupe_core::execution::Status;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_completes_and_its_history_has_no_gap() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(directory.path(), builtins(), EngineOptions::default()).await;
    world.apply(chain("chain", 10, "echo")).await;
    let id = world.start("chain", serde_json::json!({"a": 1})).await;
    let view = world.ended(id).await;
    let Status::Completed { output } = &view.state.status else {
        panic!("{:?}", view.state)
    };
    assert_eq!(*output, serde_json::json!({"a": 1}).into());
    let history = world.engine.history(id, Seq(0), 100).await.unwrap();
    let seqs: Vec<u64> = history.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=11).collect::<Vec<_>>());
    assert_eq!(world.engine.status().node_actors, 10);
    world.engine.shutdown(support::PATIENCE).await;
}

//! What an operator relies on: restarts, quarantine, retention, and a log with a hole.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use support::{Gate, PATIENCE, World, builtins, chain, on_store, store, with_sandbox, world};
use tokio::sync::Semaphore;
use troupe_actors::record::read_header;
use troupe_actors::{Command, EngineOptions, StartRequest};
use troupe_backends::embedded::EmbeddedStore;
use troupe_core::execution::Status;
use troupe_core::{ExecutionId, Json, LogPosition, Seq, ShardId};
use troupe_executors::{ExecutorsBuilder, HandlerCall};
use troupe_ports::{CommitId, ExecutionQuery, StateStore, VisibilityStore};

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

/// Blocks until it is released; tells each time it starts.
fn blocking(started: &Arc<Semaphore>, release: &Arc<Semaphore>) -> ExecutorsBuilder {
    let (started, release) = (started.clone(), release.clone());
    builtins().handler("block", move |_: HandlerCall| {
        let (started, release) = (started.clone(), release.clone());
        async move {
            started.add_permits(1);
            release.acquire().await.expect("never closed").forget();
            Ok(Json::from_trusted("\"done\""))
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_a_shutdown_cuts_short_are_no_interruptions_and_those_of_a_crash_are() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let (started, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let open = || on_store(store.clone(), blocking(&started, &release), EngineOptions::default());
    let mut world = open().await;
    world.apply(chain("w", 1, "block")).await;
    let id = world.start("w", json!({})).await;
    for _ in 0..3 {
        started.acquire().await.unwrap().forget();
        world.engine.shutdown(Duration::from_millis(20)).await;
        world = open().await;
    }
    started.acquire().await.unwrap().forget();
    let view = world.engine.get(id).await.unwrap();
    assert_eq!(
        (view.state.nodes[0].interruptions, view.state.nodes[0].attempts.len()),
        (0, 3)
    );
    world.engine.crash().await;
    let world = open().await;
    started.acquire().await.unwrap().forget();
    release.add_permits(1);
    let view = world.ended(id).await;
    assert!(matches!(view.state.status, Status::Completed { .. }));
    assert_eq!(
        (view.state.nodes[0].interruptions, view.state.nodes[0].attempts.len()),
        (1, 5)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_survives_restarts_until_it_is_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let open = |panics| {
        let gate = Arc::new(Gate::default());
        gate.open();
        gate.panics.store(panics, Ordering::SeqCst);
        with_sandbox(store.clone(), builtins(), EngineOptions::default(), gate)
    };
    let world = open(u32::MAX).await;
    let mut definition = chain("w", 2, "noop");
    definition["edges"][0]["condition"] = "(() => { return 42 })()".into();
    world.apply(definition).await;
    let id = world.start("w", json!({})).await;
    let saved = async || store.quarantined(id.shard()).await.unwrap().len() == 1;
    until("it is set aside", saved).await;
    world.engine.crash().await;

    let world = open(0).await;
    let reason = world.engine.get(id).await.unwrap().quarantined;
    assert!(reason.is_some_and(|reason| reason.contains("again and again")));
    let refused = world.engine.pause(id, Command::default()).await.unwrap_err();
    assert_eq!((refused.code(), world.engine.status().quarantined), ("QUARANTINED", 1));
    world.engine.shutdown(Duration::ZERO).await;

    let world = open(0).await;
    assert_eq!(world.engine.status().quarantined, 1);
    world.engine.resume(id, Command::default()).await.unwrap();
    assert!(matches!(world.ended(id).await.state.status, Status::Completed { .. }));
    world.engine.crash().await;
    let world = open(0).await;
    assert_eq!(world.engine.status().quarantined, 0, "taking it back is durable too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_forget_what_the_retention_has_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        expire_every: Duration::from_millis(50),
        checkpoint_interval: Duration::from_millis(20),
        ..EngineOptions::default()
    };
    let world = world(directory.path(), builtins(), options).await;
    let mut brief = chain("brief", 1, "noop");
    brief["settings"] = json!({"retention": {"completedMs": 0, "failedMs": 0}});
    world.apply(brief).await;
    world.apply(chain("kept", 1, "noop")).await;
    let keyed = || StartRequest {
        request_key: Some("k".into()),
        ..StartRequest::new("brief", Json::null())
    };
    let first = world.engine.start(keyed()).await.unwrap().id;
    let mut gone = vec![first];
    for _ in 0..20 {
        gone.push(world.start("brief", json!({})).await);
    }
    let kept = world.start("kept", json!({})).await;
    let listed = async || {
        let query = ExecutionQuery {
            limit: 100,
            ..ExecutionQuery::default()
        };
        let page = world.store.list(query).await.unwrap();
        page.items.into_iter().map(|item| item.id).collect::<Vec<_>>()
    };
    for id in &gone {
        let archived =
            async || matches!(world.engine.get(*id).await, Err(error) if error.code() == "EXECUTION_NOT_FOUND");
        until("its archive goes", archived).await;
    }
    until("lists show what is left", async || listed().await == [kept]).await;
    // Nothing that was on its way brings a row back.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(listed().await, [kept]);
    let again = world.engine.start(keyed()).await.unwrap();
    assert_eq!((again.id, again.existing), (first, true), "the tombstone answers");
}

/// The log of `from`, and its lists, with a record in place of the one at `lost` that nobody can read.
async fn copied(from: &EmbeddedStore, directory: &Path, lost: (ShardId, LogPosition)) -> Arc<EmbeddedStore> {
    let copy = store(directory, from.shards());
    for shard in (0..from.shards()).map(ShardId) {
        let lease = copy.acquire(shard, "copy", Duration::from_secs(60)).await.unwrap();
        for record in from.read(shard, LogPosition(1), usize::MAX).await.unwrap() {
            let bytes = if (shard, record.position) == lost {
                "no record".into()
            } else {
                record.bytes
            };
            copy.append(shard, lease.epoch, record.position, CommitId(record.commit.0), bytes)
                .await
                .unwrap();
        }
        copy.release(shard, lease.epoch).await.unwrap();
    }
    let all = ExecutionQuery {
        limit: 1_000,
        ..ExecutionQuery::default()
    };
    for summary in from.list(all).await.unwrap().items {
        let shard = summary.id.shard();
        copy.project(shard, None, vec![summary], LogPosition(0)).await.unwrap();
    }
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_header_halts_its_shard_and_an_accepted_loss_sets_torn_executions_aside() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let whole = world(directories[0].path(), builtins(), EngineOptions::default()).await;
    whole.apply(chain("w", 3, "noop")).await;
    let torn = whole.start("w", json!({})).await;
    whole.ended(torn).await;
    let shard = torn.shard();
    let neighbour = loop {
        let id = whole.start("w", json!({})).await;
        whole.ended(id).await;
        if id.shard() == shard {
            break id;
        }
    };
    let projected = async || {
        let page = whole
            .store
            .list(ExecutionQuery {
                limit: 1_000,
                ..ExecutionQuery::default()
            })
            .await;
        page.unwrap()
            .items
            .iter()
            .any(|item| item.id == torn && item.seq > Seq(1))
    };
    until("lists show its end", projected).await;
    whole.engine.crash().await;
    let records = whole.store.read(shard, LogPosition(1), usize::MAX).await.unwrap();
    let second = records.iter().find(|record| {
        let (_, items) = read_header(&record.bytes).unwrap();
        items.iter().any(|item| item.id == torn && item.seq == Seq(2))
    });
    let lost = (shard, second.unwrap().position);
    let damaged = copied(&whole.store, directories[1].path(), lost).await;
    let open = |accept_loss| {
        let options = EngineOptions {
            accept_loss,
            ..EngineOptions::default()
        };
        on_store(damaged.clone(), builtins(), options)
    };
    let world = open(vec![]).await;
    world.apply(chain("w", 3, "noop")).await;
    let status = world.engine.status();
    assert!(status.ready);
    assert_eq!((status.shards_served, status.halted.len()), (3, 1));
    assert_eq!(status.halted[0].0, shard);
    assert_eq!(world.engine.get(torn).await.unwrap_err().code(), "DAMAGED");
    for _ in 0..8 {
        let id = world.start("w", json!({})).await;
        assert_ne!(id.shard(), shard);
        world.ended(id).await;
    }
    world.engine.crash().await;

    let world = open(vec![shard]).await;
    assert!(world.engine.status().halted.is_empty());
    let view = world.engine.get(torn).await.unwrap();
    assert_eq!(view.state.seq, Seq(1), "it stands where it stood before the loss");
    assert!(view.quarantined.is_some_and(|reason| reason.contains("entries 2 to 2")));
    let row = async |world: &World, id: ExecutionId| {
        let query = ExecutionQuery {
            id_prefix: Some(id.to_string()),
            limit: 1,
            ..ExecutionQuery::default()
        };
        let page = world.store.list(query).await.unwrap();
        page.items.into_iter().next().map(|item| (item.seq.0, item.status))
    };
    let shows_it = async || row(&world, torn).await == Some((1, "running".into()));
    until("lists show where it stands", shows_it).await;
    let view = world.engine.get(neighbour).await.unwrap();
    assert!(matches!(view.state.status, Status::Completed { .. }) && view.quarantined.is_none());
    world.engine.crash().await;

    let world = open(vec![]).await;
    assert!(
        world.engine.status().halted.is_empty(),
        "the loss need not be accepted twice"
    );
    assert_eq!(world.engine.status().quarantined, 1);
    world.engine.resume(torn, Command::default()).await.unwrap();
    assert!(matches!(world.ended(torn).await.state.status, Status::Completed { .. }));
    let history = world.engine.history(torn, Seq(0), 100).await.unwrap();
    let seqs: Vec<u64> = history.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=history.len() as u64).collect::<Vec<_>>());
}

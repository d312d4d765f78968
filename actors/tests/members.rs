//! Engines that share a store: who serves what, and how shards change hands.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{World, builtins, chain};
use tempfile::TempDir;
use troupe_actors::{EngineError, EngineOptions, StartRequest, Whereabouts};
use troupe_backends::{EmbeddedStore, InProcessMembers};
use troupe_core::execution::Status;
use troupe_core::{ExecutionId, Json, ShardId};
use troupe_ports::EpochAuthority;

const LEASE: Duration = Duration::from_secs(5);
/// What a busy machine may take beside.
const BUSY: Duration = Duration::from_secs(5);
const SHARDS: u16 = 8;

/// Where members find each other, and what orders them: a file of its own, since the store is not asked.
struct Cluster {
    directory: TempDir,
    register: Arc<InProcessMembers>,
    epochs: Arc<EmbeddedStore>,
}

impl Cluster {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let epochs = support::store(&directory.path().join("epochs"), SHARDS);
        Self {
            directory,
            register: Arc::default(),
            epochs,
        }
    }
}

async fn member(name: &str, cluster: &Cluster) -> World {
    let options = EngineOptions {
        owner: name.to_owned(),
        address: format!("http://{name}"),
        lease: LEASE,
        ..EngineOptions::default()
    };
    let executors = builtins().handler("nap", |_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(Json::null())
    });
    let store = support::store(&cluster.directory.path().join("state"), SHARDS);
    let Cluster { register, epochs, .. } = cluster;
    support::as_member(store, executors, options, register.clone(), epochs.clone()).await
}

fn served(world: &World) -> BTreeSet<u16> {
    let here = |shard: &u16| world.engine.whereabouts(ShardId(*shard)) == Whereabouts::Here;
    (0..SHARDS).filter(here).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < support::PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_split(worlds: &[&World]) {
    until("every shard is somebody's, in equal parts", || {
        let parts: Vec<_> = worlds.iter().map(|world| served(world)).collect();
        let all: BTreeSet<u16> = parts.iter().flatten().copied().collect();
        let most = usize::from(SHARDS).div_ceil(worlds.len());
        let settled = worlds.iter().all(|world| world.engine.status().ready);
        settled && all.len() == usize::from(SHARDS) && parts.iter().all(|part| part.len() <= most)
    })
    .await;
}

/// Starts executions over all shards until told to stop, wherever their shard is; what is acknowledged is returned.
async fn keep_starting(
    worlds: Vec<Arc<World>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
) -> (Vec<ExecutionId>, Duration) {
    let (mut started, mut number, mut longest) = (Vec::new(), 0_u32, Duration::ZERO);
    while !stop.load(std::sync::atomic::Ordering::Acquire) {
        number += 1;
        let begun = Instant::now();
        'key: loop {
            for world in &worlds {
                let mut request = StartRequest::new("nap", Json::of(&json!({"n": number})));
                request.request_key = Some(format!("key {number}"));
                match world.engine.start(request).await {
                    Ok(outcome) => {
                        started.push(outcome.id);
                        break 'key;
                    }
                    Err(EngineError::Elsewhere(_) | EngineError::Unavailable(_) | EngineError::Fenced) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(begun.elapsed() < support::PATIENCE, "a start finds nobody");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        longest = longest.max(begun.elapsed());
    }
    (started, longest)
}

async fn all_completed(worlds: &[&World], started: &[ExecutionId]) {
    for id in started {
        let begun = Instant::now();
        'found: loop {
            for world in worlds {
                match world.engine.get(*id).await {
                    Ok(view) if view.state.status.is_terminal() => {
                        assert!(
                            matches!(view.state.status, Status::Completed { .. }),
                            "{:?}",
                            view.state.status
                        );
                        break 'found;
                    }
                    Ok(_) | Err(EngineError::Elsewhere(_) | EngineError::Unavailable(_) | EngineError::Fenced) => {}
                    Err(error) => panic!("{id}: {error}"),
                }
            }
            assert!(begun.elapsed() < support::PATIENCE, "{id} does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_shared_when_one_joins_and_come_back_when_it_leaves() {
    let cluster = Cluster::new();
    let a = Arc::new(member("a", &cluster).await);
    assert_eq!(served(&a).len(), usize::from(SHARDS));
    a.apply(chain("nap", 3, "nap")).await;
    let stop = Arc::default();
    let b = Arc::new(member("b", &cluster).await);
    let load = tokio::spawn(keep_starting(vec![a.clone(), b.clone()], Arc::clone(&stop)));
    until_split(&[&a, &b]).await;
    // It is looked at every fifth of a lease.
    let there = || Whereabouts::At("http://b".into());
    let is_known = |shard: &u16| a.engine.whereabouts(ShardId(*shard)) == there();
    until("each knows where the other's are", || served(&b).iter().all(is_known)).await;
    let foreign = ExecutionId::fresh(ShardId(*served(&b).first().unwrap()), troupe_core::Timestamp(1), 1);
    let refused = a.engine.get(foreign).await;
    assert!(
        matches!(refused, Err(EngineError::Elsewhere(shard)) if shard == foreign.shard()),
        "got {refused:?}"
    );
    b.engine.shutdown(support::PATIENCE).await;
    until_split(&[&a]).await;
    stop.store(true, std::sync::atomic::Ordering::Release);
    let (started, longest) = load.await.unwrap();
    assert!(started.len() > 20, "{} starts", started.len());
    // Nobody waited for a lease to expire: two thirds of it or more would be left.
    assert!(longest < LEASE * 3 / 5, "a start waited for {longest:?}");
    all_completed(&[&a], &started).await;
    until("it is seen to be gone", || a.engine.members().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_one_that_died_are_taken_when_its_leases_have_expired() {
    let cluster = Cluster::new();
    let worlds = [
        Arc::new(member("a", &cluster).await),
        Arc::new(member("b", &cluster).await),
        Arc::new(member("c", &cluster).await),
    ];
    let [a, b, c] = &worlds;
    until_split(&[a, b, c]).await;
    a.apply(chain("nap", 3, "nap")).await;
    let stop = Arc::default();
    let load = tokio::spawn(keep_starting(worlds.to_vec(), Arc::clone(&stop)));
    tokio::time::sleep(LEASE / 2).await;
    let died = Instant::now();
    c.engine.crash().await;
    until("the others take everything", || {
        served(a).len() + served(b).len() == usize::from(SHARDS)
    })
    .await;
    let took = died.elapsed();
    stop.store(true, std::sync::atomic::Ordering::Release);
    let (started, longest) = load.await.unwrap();
    assert!(took < LEASE + BUSY, "it took {took:?}");
    assert!(longest < LEASE + BUSY, "a start waited for {longest:?}");
    all_completed(&[a, b], &started).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_another_one_was_named_after_stops() {
    let cluster = Cluster::new();
    let a = member("a", &cluster).await;
    let epochs = &cluster.epochs;
    let issued = epochs.issued(ShardId(3)).await.unwrap();
    assert!(issued.0 > 0, "it asked for an epoch");
    epochs.issue(ShardId(3), issued, "somebody").await.unwrap();
    until("it stops", || a.engine.status().fenced_commits == 1).await;
    // Nobody has taken it: it asks again, for a later one.
    let begun = Instant::now();
    while epochs.issued(ShardId(3)).await.unwrap().0 <= issued.0 + 1 {
        assert!(begun.elapsed() < support::PATIENCE, "it does not take it anew");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

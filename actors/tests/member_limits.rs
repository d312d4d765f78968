//! Limits of keys and of executions, over engines that share a store.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Shared, World, builtins};
use tempfile::TempDir;
use troupe_actors::{AttemptWait, Command, EngineError, EngineOptions, ReopenRequest, StartRequest, Whereabouts};
use troupe_backends::{EmbeddedStore, InProcessMembers, InProcessSemaphores};
use troupe_core::execution::{Remedy, Status};
use troupe_core::{Epoch, ExecutionId, Json, ShardId};
use troupe_executors::{ExecutorsBuilder, HandlerCall};
use troupe_ports::{Ask, Asked, Hold, Semaphores, StoreError};

const LEASE: Duration = Duration::from_secs(3);
const SHARDS: u16 = 8;

/// Semaphores that can be away, and can lose what is given back.
#[derive(Default)]
struct Faulty {
    inner: InProcessSemaphores,
    is_away: AtomicBool,
    loses_releases: AtomicBool,
    /// What is asked arrives only when this is over, and its answer is lost.
    delays_asks: AtomicBool,
    delayed: AtomicUsize,
}

impl Faulty {
    fn answer(&self) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("it is away".into()));
        }
        Ok(())
    }

    fn loses(&self) -> bool {
        self.loses_releases.load(Ordering::Acquire)
    }

    /// Nobody holds or waits for anything, and nothing is noted.
    fn is_empty(&self) -> bool {
        self.inner.keys() == 0 && self.inner.notes() == 0
    }
}

#[async_trait]
impl Semaphores for Faulty {
    async fn acquire(&self, key: &[u8], ask: &Ask<'_>) -> Result<Asked, StoreError> {
        self.answer()?;
        if self.delays_asks.load(Ordering::Acquire) {
            self.delayed.fetch_add(1, Ordering::AcqRel);
            while self.delays_asks.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.inner.acquire(key, ask).await?;
            return Err(StoreError::Unavailable("the answer is lost".into()));
        }
        self.inner.acquire(key, ask).await
    }

    async fn hold(&self, key: &[u8], ticket: &[u8], hold: Hold) -> Result<(), StoreError> {
        self.answer()?;
        self.inner.hold(key, ticket, hold).await
    }

    async fn renew(&self, held: &[(&[u8], &[u8])], ttl: Duration) -> Result<Vec<bool>, StoreError> {
        self.answer()?;
        self.inner.renew(held, ttl).await
    }

    async fn release(&self, key: &[u8], ticket: &[u8], under: Option<Epoch>) -> Result<bool, StoreError> {
        self.answer()?;
        if self.loses() {
            return Ok(true);
        }
        self.inner.release(key, ticket, under).await
    }

    async fn bar(&self, key: &[u8], ticket: &[u8], below: Epoch) -> Result<(), StoreError> {
        self.answer()?;
        self.inner.bar(key, ticket, below).await
    }

    async fn note(&self, shard: ShardId, under: Epoch, ticket: &[u8], key: &[u8]) -> Result<(), StoreError> {
        self.answer()?;
        self.inner.note(shard, under, ticket, key).await
    }

    async fn strike(&self, shard: ShardId, under: Epoch, ticket: &[u8]) -> Result<(), StoreError> {
        self.answer()?;
        if self.loses() {
            return Ok(());
        }
        self.inner.strike(shard, under, ticket).await
    }

    async fn noted(&self, shard: ShardId, under: Epoch) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.answer()?;
        self.inner.noted(shard, under).await
    }
}

/// What members have in common: a store, where they find each other, what orders them, and what counts for all of them.
struct Cluster {
    directory: TempDir,
    register: Arc<InProcessMembers>,
    epochs: Arc<EmbeddedStore>,
    semaphores: Arc<Faulty>,
    effects: Arc<Mutex<Effects>>,
}

/// What runs at once, of all members.
#[derive(Default)]
struct Effects {
    /// Attempts under way, by key.
    running: BTreeMap<String, usize>,
    /// Executions between their first node and their last, by key.
    open: BTreeMap<String, BTreeSet<ExecutionId>>,
    most: BTreeMap<String, usize>,
    began: Vec<Began>,
    /// Members that never come to an end with what they begin.
    stuck: BTreeSet<String>,
}

/// An attempt of `work` or `begin` that began.
struct Began {
    at: Instant,
    member: String,
    key: String,
}

impl Effects {
    fn saw(&mut self, key: &str, now: usize) {
        let most = self.most.entry(key.to_owned()).or_default();
        *most = now.max(*most);
    }
}

/// An attempt under way; it is over when it is dropped, however that comes.
struct Effect(Arc<Mutex<Effects>>, String);

impl Effect {
    fn begin(effects: &Arc<Mutex<Effects>>, key: String) -> Self {
        let mut all = effects.lock();
        let running = all.running.entry(key.clone()).or_default();
        *running += 1;
        let running = *running;
        all.saw(&key, running);
        Self(Arc::clone(effects), key)
    }
}

impl Drop for Effect {
    fn drop(&mut self) {
        *self.0.lock().running.get_mut(&self.1).unwrap() -= 1;
    }
}

impl Cluster {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let epochs = support::store(&directory.path().join("epochs"), SHARDS);
        Self {
            directory,
            register: Arc::default(),
            epochs,
            semaphores: Arc::default(),
            effects: Arc::default(),
        }
    }

    async fn member(&self, name: &str) -> World {
        let options = EngineOptions {
            owner: name.to_owned(),
            address: format!("http://{name}"),
            lease: LEASE,
            ..EngineOptions::default()
        };
        let store = support::store(&self.directory.path().join("state"), SHARDS);
        let shared = Shared {
            register: self.register.clone(),
            epochs: self.epochs.clone(),
            semaphores: Some(self.semaphores.clone()),
        };
        support::as_member_of(store, self.executors(name), options, shared).await
    }

    /// `work` is one effect; `begin` and `finish` are the ends of an execution.
    fn executors(&self, member: &str) -> ExecutorsBuilder {
        let began = |effects: &Arc<Mutex<Effects>>, member: &str, key: &str| {
            let mut all = effects.lock();
            all.began.push(Began {
                at: Instant::now(),
                member: member.to_owned(),
                key: key.to_owned(),
            });
            all.stuck.contains(member)
        };
        let (effects, name) = (Arc::clone(&self.effects), member.to_owned());
        let work = move |call: HandlerCall| {
            let (effects, name) = (Arc::clone(&effects), name.clone());
            async move {
                let input: Value = call.input()?;
                let key = input["key"].as_str().unwrap();
                let _effect = Effect::begin(&effects, key.to_owned());
                if began(&effects, &name, key) {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_millis(4)).await;
                Ok(Json::null())
            }
        };
        let (effects, name) = (Arc::clone(&self.effects), member.to_owned());
        let begin = move |call: HandlerCall| {
            let (effects, name) = (Arc::clone(&effects), name.clone());
            async move {
                let input: Value = call.input()?;
                let key = input["key"].as_str().unwrap();
                {
                    let mut all = effects.lock();
                    let open = all.open.entry(key.to_owned()).or_default();
                    open.insert(call.task.execution);
                    let open = open.len();
                    all.saw(key, open);
                }
                if began(&effects, &name, key) {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_millis(4)).await;
                call.input_json().cloned()
            }
        };
        let effects = Arc::clone(&self.effects);
        let finish = move |call: HandlerCall| {
            let effects = Arc::clone(&effects);
            async move {
                tokio::time::sleep(Duration::from_millis(4)).await;
                effects.lock().open.values_mut().for_each(|open| {
                    open.remove(&call.task.execution);
                });
                Ok(Json::null())
            }
        };
        let executors = builtins().handler("work", work).handler("begin", begin);
        executors.handler("finish", finish)
    }

    fn most(&self) -> BTreeMap<String, usize> {
        self.effects.lock().most.clone()
    }

    async fn until_nothing_is_left(&self) {
        let begun = Instant::now();
        while !self.semaphores.is_empty() {
            assert!(begun.elapsed() < support::PATIENCE, "tickets are left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A workflow whose only node counts under the `key` of its input, in this scope.
fn slots(id: &str, scope: &str) -> Value {
    let limit = json!({"key": "input.key", "limit": 1, "scope": scope});
    json!({"id": id, "edges": [], "nodes": [
        {"id": "n", "type": "function", "data": {"handlerId": "work", "concurrency": limit}}]})
}

/// A workflow of which so many run at once, by the `key` of its input.
fn rooms(limit: u32) -> Value {
    json!({"id": "rooms", "settings": {"concurrency": {"limit": limit, "key": "trigger.key"}}, "nodes": [
            {"id": "first", "type": "function", "data": {"handlerId": "begin"}},
            {"id": "last", "type": "function", "data": {"handlerId": "finish"}}],
        "edges": [{"id": "e", "source": "first", "target": "last"}]})
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < support::PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_split(worlds: &[&World]) {
    let all: usize = usize::from(SHARDS);
    until("every shard is somebody's, in equal parts", || {
        let served = worlds.iter().map(|world| {
            let here = |shard: &u16| world.engine.whereabouts(ShardId(*shard)) == Whereabouts::Here;
            (0..SHARDS).filter(here).count()
        });
        let served: Vec<usize> = served.collect();
        let settled = worlds.iter().all(|world| world.engine.status().ready);
        settled && served.iter().sum::<usize>() == all && served.iter().all(|n| *n <= all.div_ceil(worlds.len()))
    })
    .await;
}

/// Starts an execution at the member whose turn it is, or at the next one that can.
async fn start(worlds: &[&World], turn: usize, workflow: &str, key: &str) -> ExecutionId {
    let begun = Instant::now();
    for turn in turn.. {
        let request = StartRequest::new(workflow, Json::of(&json!({"key": key})));
        match worlds[turn % worlds.len()].engine.start(request).await {
            Ok(outcome) => return outcome.id,
            Err(EngineError::Elsewhere(_) | EngineError::Unavailable(_) | EngineError::Fenced) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < support::PATIENCE, "a start finds nobody");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    unreachable!("turns do not end")
}

async fn all_completed(worlds: &[&World], started: &[ExecutionId]) {
    for id in started {
        let begun = Instant::now();
        'found: loop {
            for world in worlds {
                match world.engine.get(*id).await {
                    Ok(view) if view.state.status.is_terminal() => {
                        let status = &view.state.status;
                        assert!(matches!(status, Status::Completed { .. }), "{status:?}");
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

async fn status(world: &World, id: ExecutionId) -> &'static str {
    world.engine.get(id).await.unwrap().state.status.name()
}

/// Whether the attempt of an execution waits for a slot.
async fn waits(world: &World, id: ExecutionId) -> bool {
    let view = world.engine.get(id).await.unwrap();
    view.waits.iter().any(|(_, what)| *what == AttemptWait::Slot)
}

async fn until_it_waits(world: &World, id: ExecutionId) {
    let begun = Instant::now();
    while !waits(world, id).await {
        assert!(begun.elapsed() < support::PATIENCE, "it does not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_those_of_all_members_while_one_leaves_and_one_joins() {
    let cluster = Cluster::new();
    let (a, b, c) = (
        cluster.member("a").await,
        cluster.member("b").await,
        cluster.member("c").await,
    );
    until_split(&[&a, &b, &c]).await;
    for definition in [
        slots("w", "workflow"),
        slots("g", "global"),
        slots("h", "global"),
        rooms(2),
    ] {
        a.apply(definition).await;
    }
    let mut started = Vec::new();
    let mut some = async |worlds: &[&World], rounds: usize| {
        for turn in 0..rounds {
            for (workflow, key) in [("w", "of one"), ("g", "of all"), ("h", "of all"), ("rooms", "room")] {
                started.push(start(worlds, turn, workflow, key).await);
            }
        }
    };
    some(&[&a, &b, &c], 12).await;
    let leaving = async {
        c.engine.shutdown(support::PATIENCE).await;
        cluster.member("d").await
    };
    let left = [&a, &b];
    let (d, ()) = tokio::join!(leaving, some(&left, 8));
    some(&[&a, &b, &d], 6).await;
    all_completed(&[&a, &b, &d], &started).await;
    let most = cluster.most();
    let expected = [("of one", 1), ("of all", 1), ("room", 2)];
    assert_eq!(most, expected.map(|(key, most)| (key.to_owned(), most)).into());
    let members: BTreeSet<String> = {
        let effects = cluster.effects.lock();
        effects.began.iter().map(|began| began.member.clone()).collect()
    };
    assert!(members.len() >= 3, "only {members:?} had a turn");
    cluster.until_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_that_died_held_is_nobodys_until_its_shards_are_taken() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.member("a").await, cluster.member("b").await);
    until_split(&[&a, &b]).await;
    a.apply(slots("w", "workflow")).await;
    a.apply(rooms(1)).await;
    cluster.effects.lock().stuck.insert("b".to_owned());
    let mut started = vec![
        start(&[&b], 0, "w", "slot").await,
        start(&[&b], 0, "rooms", "room").await,
    ];
    until("it runs", || cluster.effects.lock().began.len() == 2).await;
    let (waiting, pending) = (
        start(&[&a], 0, "w", "slot").await,
        start(&[&a], 0, "rooms", "room").await,
    );
    until_it_waits(&a, waiting).await;
    started.extend([waiting, pending]);
    // A lease and more: what is held is renewed.
    tokio::time::sleep(LEASE * 3 / 2).await;
    assert_eq!(status(&a, pending).await, "pending");
    assert_eq!(cluster.effects.lock().began.len(), 2);
    let died = Instant::now();
    b.engine.crash().await;
    all_completed(&[&a], &started).await;
    let first = |key: &str| {
        let effects = cluster.effects.lock();
        let began = effects.began[2..].iter().filter(|began| began.key == key);
        began.map(|began| began.at.duration_since(died)).min().unwrap()
    };
    // The last renewals were little more than a third of a lease before, those of slots a fifth; and slots last longer than leases.
    let (slot, room) = (first("slot"), first("room"));
    assert!(
        slot >= LEASE * 9 / 10 && room >= LEASE / 2,
        "they began {slot:?} and {room:?} after"
    );
    assert_eq!(cluster.most(), [("slot".to_owned(), 1), ("room".to_owned(), 1)].into());
    cluster.until_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_while_members_die_under_load() {
    let cluster = Cluster::new();
    let (a, b, c) = (
        cluster.member("a").await,
        cluster.member("b").await,
        cluster.member("c").await,
    );
    until_split(&[&a, &b, &c]).await;
    for definition in [slots("w", "workflow"), slots("g", "global"), rooms(2)] {
        a.apply(definition).await;
    }
    let mut started = Vec::new();
    for turn in 0..20 {
        for (workflow, key) in [("w", "of one"), ("g", "of all"), ("rooms", "room")] {
            started.push(start(&[&a, &b, &c], turn, workflow, key).await);
        }
    }
    c.engine.crash().await;
    until_split(&[&a, &b]).await;
    for turn in 0..10 {
        for (workflow, key) in [("w", "of one"), ("g", "of all"), ("rooms", "room")] {
            started.push(start(&[&a, &b], turn, workflow, key).await);
        }
    }
    b.engine.crash().await;
    all_completed(&[&a], &started).await;
    let expected = [("of one", 1), ("of all", 1), ("room", 2)];
    assert_eq!(
        cluster.most(),
        expected.map(|(key, most)| (key.to_owned(), most)).into()
    );
    cluster.until_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_while_it_waits_leaves_nothing_behind() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.member("a").await, cluster.member("b").await);
    until_split(&[&a, &b]).await;
    let mut hurried = slots("hurried", "global");
    hurried["nodes"][0]["data"]["queueTimeout"] = json!(60);
    for definition in [slots("g", "global"), hurried, rooms(1)] {
        a.apply(definition).await;
    }
    cluster.effects.lock().stuck.insert("b".to_owned());
    let stuck = [
        start(&[&b], 0, "g", "slot").await,
        start(&[&b], 0, "rooms", "room").await,
    ];
    until("it runs", || cluster.effects.lock().began.len() == 2).await;
    let late = start(&[&a], 0, "hurried", "slot").await;
    let failure = a.ended(late).await.state.failure.clone().unwrap();
    assert_eq!(failure.error.code, "QUEUE_TIMEOUT");
    let waiting = start(&[&a], 0, "g", "slot").await;
    until_it_waits(&a, waiting).await;
    let pending = start(&[&a], 0, "rooms", "room").await;
    // It has asked by then, and was refused.
    tokio::time::sleep(Duration::from_millis(50)).await;
    for id in [waiting, pending] {
        a.engine.cancel(id, Command::default()).await.unwrap();
        assert_eq!(a.ended(id).await.state.status.name(), "canceled");
    }
    for id in stuck {
        b.engine.cancel(id, Command::default()).await.unwrap();
        b.ended(id).await;
    }
    assert_eq!(cluster.effects.lock().began.len(), 2, "nobody else ran");
    cluster.until_nothing_is_left().await;
    // And nobody has to wait for what they left.
    let next = [
        start(&[&a], 0, "g", "slot").await,
        start(&[&a], 0, "rooms", "room").await,
    ];
    all_completed(&[&a], &next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_runs_without_leave_while_the_store_is_away() {
    let cluster = Cluster::new();
    let a = cluster.member("a").await;
    a.apply(slots("w", "workflow")).await;
    a.apply(slots("e", "execution")).await;
    a.apply(rooms(1)).await;
    cluster.semaphores.is_away.store(true, Ordering::Release);
    let (waiting, pending) = (
        start(&[&a], 0, "w", "slot").await,
        start(&[&a], 0, "rooms", "room").await,
    );
    // What is counted within an execution asks nobody.
    let own = start(&[&a], 0, "e", "own").await;
    all_completed(&[&a], &[own]).await;
    until_it_waits(&a, waiting).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(cluster.effects.lock().began.len(), 1);
    assert_eq!(status(&a, pending).await, "pending");
    cluster.semaphores.is_away.store(false, Ordering::Release);
    all_completed(&[&a], &[waiting, pending]).await;
    cluster.until_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_was_never_given_back_is_found_by_the_next_owner() {
    let cluster = Cluster::new();
    let a = cluster.member("a").await;
    a.apply(rooms(1)).await;
    let ended = start(&[&a], 0, "rooms", "room").await;
    cluster.semaphores.loses_releases.store(true, Ordering::Release);
    all_completed(&[&a], &[ended]).await;
    let next = start(&[&a], 0, "rooms", "room").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(status(&a, next).await, "pending", "somebody holds the room");
    a.engine.crash().await;
    cluster.semaphores.loses_releases.store(false, Ordering::Release);
    let b = cluster.member("b").await;
    all_completed(&[&b], &[next]).await;
    cluster.until_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_retried_counts_for_all_again() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.member("a").await, cluster.member("b").await);
    until_split(&[&a, &b]).await;
    a.apply(rooms(1)).await;
    cluster.effects.lock().stuck.insert("b".to_owned());
    let retried = start(&[&b], 0, "rooms", "room").await;
    until("it runs", || cluster.effects.lock().began.len() == 1).await;
    b.engine.cancel(retried, Command::default()).await.unwrap();
    assert_eq!(b.ended(retried).await.state.status.name(), "canceled");
    cluster.until_nothing_is_left().await;
    let retry = ReopenRequest {
        nodes: Vec::new(),
        remedy: Remedy::Retry,
        dry_run: false,
    };
    b.engine.reopen(retried, retry, Command::default()).await.unwrap();
    until("it runs again", || cluster.effects.lock().began.len() == 2).await;
    let pending = start(&[&a], 0, "rooms", "room").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(status(&a, pending).await, "pending");
    b.engine.cancel(retried, Command::default()).await.unwrap();
    b.ended(retried).await;
    all_completed(&[&a], &[pending]).await;
    cluster.until_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_left_before_the_store_let_it_in_leaves_nothing_behind() {
    let cluster = Cluster::new();
    let a = cluster.member("a").await;
    a.apply(rooms(1)).await;
    let store = &cluster.semaphores;
    store.delays_asks.store(true, Ordering::Release);
    let canceled = start(&[&a], 0, "rooms", "room").await;
    until("the store is asked", || store.delayed.load(Ordering::Acquire) == 1).await;
    a.engine.cancel(canceled, Command::default()).await.unwrap();
    assert_eq!(a.ended(canceled).await.state.status.name(), "canceled");
    // By then it has given back what it did not have.
    cluster.until_nothing_is_left().await;
    store.delays_asks.store(false, Ordering::Release);
    let next = start(&[&a], 0, "rooms", "room").await;
    all_completed(&[&a], &[next]).await;
    cluster.until_nothing_is_left().await;
}

//! A store between a release and the next one with another format: upgrades and downgrades, one engine at a time and one alone.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::json;
use support::{Arrows, PATIENCE, World, builtins, chain, until};
use tempfile::TempDir;
use troupe_actors::record::format_of_record;
use troupe_actors::{Command, Engine, EngineError, EngineHandle, EngineOptions, EngineParts, StartRequest};
use troupe_backends::{EmbeddedStore, InProcessMembers};
use troupe_core::control::{Clocks, ControlKey, Scope, Setting};
use troupe_core::execution::{Status, Verb};
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{ExecutionId, FormatRange, Json, LogPosition, ShardId, StateFormat};
use troupe_ports::{BusError, EventBus, ExecutionBase, StateStore, SystemClock};

const LEASE: Duration = Duration::from_secs(1);
const SHARDS: u16 = 8;
/// Beyond what is worth a snapshot, and small enough to stay in its entry.
const PAYLOAD_BYTES: usize = 24 * 1024;

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

    fn store(&self) -> Arc<EmbeddedStore> {
        support::store(&self.directory.path().join("state"), SHARDS)
    }

    async fn try_member(&self, name: &str, reads: FormatRange) -> Result<World, EngineError> {
        let options = EngineOptions {
            owner: name.to_owned(),
            address: format!("http://{name}"),
            lease: LEASE,
            reads,
            // So that archives and snapshots of each format are there.
            checkpoint_interval: Duration::from_millis(200),
            ..EngineOptions::default()
        };
        let executors = builtins().handler("nap", |_| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Json::null())
        });
        support::try_as_member(
            self.store(),
            executors,
            options,
            self.register.clone(),
            self.epochs.clone(),
        )
        .await
    }

    async fn member(&self, name: &str, reads: FormatRange) -> Arc<World> {
        Arc::new(self.try_member(name, reads).await.unwrap())
    }
}

/// What the shards are said to hold.
async fn held(store: &dyn StateStore) -> BTreeSet<StateFormat> {
    let mut held = BTreeSet::new();
    for shard in (0..store.shards()).map(ShardId) {
        held.insert(store.holder(shard).await.unwrap().format);
    }
    held
}

/// What they do hold: formats of records, of chunks for the bus, and of archives, by how many there are.
async fn found(store: &dyn StateStore) -> BTreeMap<StateFormat, usize> {
    let mut found = BTreeMap::new();
    let mut count = |format| *found.entry(format).or_default() += 1;
    for shard in (0..store.shards()).map(ShardId) {
        for record in store.read(shard, LogPosition(1), usize::MAX).await.unwrap() {
            count(format_of_record(&record.bytes).unwrap());
        }
        for chunk in store
            .spooled(shard, "events", LogPosition(0), usize::MAX)
            .await
            .unwrap()
        {
            count(StateFormat(chunk.bytes[0]));
        }
        for id in store.stored(shard).await.unwrap() {
            match store.load(id).await.unwrap() {
                Some(ExecutionBase::Ended(archive, _)) => count(StateFormat(archive.bytes[0])),
                Some(ExecutionBase::Live {
                    snapshot: Some((_, snapshot)),
                    ..
                }) => count(troupe_actors::format::format_of_snapshot(&snapshot)),
                _ => {}
            }
        }
    }
    found
}

async fn until_held(store: &dyn StateStore, format: StateFormat) {
    until("every shard holds the format", async || {
        held(store).await == [format].into()
    })
    .await;
}

async fn until_settled(worlds: &[Arc<World>]) {
    until("every shard is somebody's", async || {
        let served: u16 = worlds.iter().map(|world| world.engine.status().shards_served).sum();
        served == SHARDS && worlds.iter().all(|world| world.engine.status().ready)
    })
    .await;
}

/// Who can be asked now.
type Present = Arc<Mutex<Vec<Arc<World>>>>;

/// Asks everybody who is there until somebody does it.
async fn ask<T>(present: &Present, what: &str, mut ask: impl AsyncFnMut(&World) -> Result<T, EngineError>) -> T {
    let begun = Instant::now();
    loop {
        let worlds = present.lock().unwrap().clone();
        for world in worlds {
            match ask(&world).await {
                Ok(answer) => return answer,
                Err(EngineError::Elsewhere(_) | EngineError::Unavailable(_) | EngineError::Fenced) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: nobody does it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn start(present: &Present, key: &str, bytes: usize) -> ExecutionId {
    let started = ask(present, "a start", async |world| {
        let input = Json::of(&json!({"key": key, "filling": "x".repeat(bytes)}));
        let mut request = StartRequest::new("nap", input);
        request.request_key = Some(key.to_owned());
        world.engine.start(request).await
    });
    started.await.id
}

/// Starts executions over all shards until told to stop; every one of them was acknowledged.
async fn keep_starting(present: Present, stop: Arc<AtomicBool>) -> Vec<ExecutionId> {
    let mut started = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let number = started.len();
        let bytes = if number.is_multiple_of(8) { PAYLOAD_BYTES } else { 8 };
        started.push(start(&present, &format!("key {number}"), bytes).await);
    }
    started
}

/// All of them have ended well, as whoever is there now tells; and a repeated start is answered with the same execution.
async fn all_completed(present: &Present, started: &[ExecutionId]) {
    for (number, id) in started.iter().enumerate() {
        until("an execution completes", async || {
            let view = ask(present, "a read", async |world| world.engine.get(*id).await).await;
            assert!(
                matches!(view.state.status, Status::Running | Status::Completed { .. }),
                "{id}: {:?}",
                view.state.status
            );
            view.state.status.is_terminal()
        })
        .await;
        assert_eq!(
            start(present, &format!("key {number}"), 0).await,
            *id,
            "it is known by its key"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_roll_to_the_next_format_and_back_under_load() {
    let cluster = Cluster::new();
    let store = cluster.store();
    let (older, newer) = (FormatRange::RELEASE, FormatRange::WITH_TRIAL);
    let mut worlds = Vec::new();
    for name in ["a", "b", "c"] {
        worlds.push(cluster.member(name, older).await);
    }
    until_settled(&worlds).await;
    let first = worlds[0].clone();
    first.apply(chain("nap", 3, "nap")).await;
    let present: Present = Arc::new(Mutex::new(worlds.clone()));
    // They live all the time: some with a snapshot of each format.
    let mut waiting = Vec::new();
    for number in 0..12 {
        let id = start(&present, &format!("waits {number}"), PAYLOAD_BYTES).await;
        let pause = ask(&present, "a pause", async |world| {
            world.engine.pause(id, Command::default()).await
        });
        pause.await;
        waiting.push(id);
    }
    let stop = Arc::default();
    let (runtime, here, until_told) = (tokio::runtime::Handle::current(), present.clone(), Arc::clone(&stop));
    let load = tokio::task::spawn_blocking(move || runtime.block_on(keep_starting(here, until_told)));
    for (number, name) in ["d", "e", "f"].into_iter().enumerate() {
        let world = cluster.member(name, newer).await;
        let left = std::mem::replace(&mut worlds[number], world);
        present.lock().unwrap().push(worlds[number].clone());
        if number < 2 {
            tokio::time::sleep(LEASE / 2).await;
        }
        assert_eq!(
            held(&*store).await,
            [StateFormat::FIRST].into(),
            "somebody could not read it"
        );
        left.engine.shutdown(PATIENCE).await;
        present.lock().unwrap().retain(|world| !Arc::ptr_eq(world, &left));
        until_settled(&worlds).await;
    }
    until_held(&*store, StateFormat::TRIAL).await;
    // What is written from now on is of the next format.
    until("everything is written in it", async || {
        let found = found(&*store).await;
        found.get(&StateFormat::TRIAL).is_some_and(|found| *found > 40)
    })
    .await;
    let key = ControlKey::Pause(Scope::Workflow("other".into()));
    for world in &worlds {
        let setting = Some(Setting::Paused { clocks: Clocks::Run });
        let set = world
            .engine
            .control(key.clone(), setting, Command::default())
            .await
            .unwrap();
        assert!(set.shards > 0, "it is in force in what the member has");
    }
    for (number, name) in ["g", "h", "i"].into_iter().enumerate() {
        let world = cluster.member(name, older).await;
        let left = std::mem::replace(&mut worlds[number], world);
        present.lock().unwrap().push(worlds[number].clone());
        // The others rewrite what they have, and the newcomer gets its share.
        until_held(&*store, StateFormat::FIRST).await;
        left.engine.shutdown(PATIENCE).await;
        present.lock().unwrap().retain(|world| !Arc::ptr_eq(world, &left));
        until_settled(&worlds).await;
    }
    assert_eq!(
        found(&*store).await.keys().copied().collect::<Vec<_>>(),
        [StateFormat::FIRST]
    );
    stop.store(true, Ordering::Release);
    let started = load.await.unwrap();
    assert!(started.len() > 100, "{} starts", started.len());
    all_completed(&present, &started).await;
    for id in waiting {
        let view = ask(&present, "a read", async |world| world.engine.get(id).await).await;
        assert!(view.state.seq.0 >= 2 && !view.state.status.is_terminal(), "{id} waits");
        ask(&present, "a resumption", async |world| {
            world.engine.resume(id, Command::default()).await
        })
        .await;
        until("it completes", async || {
            let view = ask(&present, "a read", async |world| world.engine.get(id).await).await;
            matches!(view.state.status, Status::Completed { .. })
        })
        .await;
    }
    for world in &worlds {
        assert_eq!(world.engine.controls().len(), 1, "the pause is still in force");
        let status = world.engine.status();
        assert_eq!(
            (status.quarantined, status.halted, status.unreadable),
            (0, vec![], vec![])
        );
    }
}

/// A bus that takes events while it is open.
#[derive(Default)]
struct Valve {
    open: AtomicBool,
    completed: Mutex<BTreeSet<ExecutionId>>,
}

#[async_trait]
impl EventBus for Valve {
    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
        if !self.open.load(Ordering::SeqCst) {
            return Err(BusError::Unavailable("closed".into()));
        }
        let completed = events.iter().filter(|event| event.verb == Verb::ExecutionCompleted);
        self.completed
            .lock()
            .unwrap()
            .extend(completed.map(|event| event.execution));
        Ok(())
    }

    async fn announce(&self, _: &[SystemEvent]) -> Result<(), BusError> {
        Ok(())
    }
}

async fn alone(
    store: &Arc<EmbeddedStore>,
    bus: &Arc<Valve>,
    reads: FormatRange,
    at_most: Option<StateFormat>,
) -> Result<EngineHandle, EngineError> {
    let options = EngineOptions {
        reads,
        format_at_most: at_most,
        checkpoint_interval: Duration::from_millis(50),
        // What the bus does not take leaves the log with every second checkpoint or so.
        spool_above_bytes: 4 * 1024,
        ..EngineOptions::default()
    };
    let executors = builtins().handler("nap", |_| async { Ok(Json::null()) });
    let parts = EngineParts {
        state: store.clone(),
        definitions: store.clone(),
        visibility: store.clone(),
        buses: vec![("events", bus.clone())],
        executor: Arc::new(executors.build()),
        sandbox: Arc::new(Arrows),
        clock: Arc::new(SystemClock),
        members: None,
        epochs: None,
        semaphores: None,
    };
    Engine::spawn(parts, options).await
}

async fn epochs(store: &dyn StateStore) -> Vec<u64> {
    let mut epochs = Vec::new();
    for shard in (0..store.shards()).map(ShardId) {
        epochs.push(store.holder(shard).await.unwrap().epoch.0);
    }
    epochs
}

fn is_newer<T>(opened: Result<T, EngineError>) {
    let error = opened.err().expect("it does not open");
    assert_eq!(error.code(), "STATE_FORMAT_NEWER", "{error}");
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alone_goes_back_when_it_has_written_the_older_format_whatever_the_bus_has_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let store = support::store(directory.path(), 2);
    let bus = Arc::new(Valve::default());
    let newer = alone(&store, &bus, FormatRange::WITH_TRIAL, None).await.unwrap();
    until_held(&*store, StateFormat::TRIAL).await;
    let definition = serde_json::from_value(chain("nap", 2, "nap")).unwrap();
    troupe_ports::DefinitionStore::put(&*store, definition, Json::null(), None, support::now())
        .await
        .unwrap();
    let mut started = BTreeSet::new();
    let begun = Instant::now();
    // Until there is something of everything: records, archives, chunks for the bus.
    loop {
        let input = Json::of(&json!({"filling": "x".repeat(1_000)}));
        started.insert(newer.start(StartRequest::new("nap", input)).await.unwrap().id);
        let mut spooled = 0;
        for shard in [ShardId(0), ShardId(1)] {
            spooled += store.spool_extent(shard, "events").await.unwrap().len();
        }
        if spooled > 2 && started.len() > 40 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing is spooled");
    }
    newer.shutdown(PATIENCE).await;
    let trial = found(&*store).await;
    assert!(
        trial[&StateFormat::TRIAL] > 40 && !trial.contains_key(&StateFormat::FIRST),
        "{trial:?}"
    );
    // A release that does not know it opens nothing and touches nothing.
    let before = epochs(&*store).await;
    is_newer(alone(&store, &bus, FormatRange::RELEASE, None).await);
    assert_eq!((epochs(&*store).await, found(&*store).await), (before, trial));
    // The newer one writes the older format, while the bus is still away.
    let first = Some(StateFormat::FIRST);
    let newer = alone(&store, &bus, FormatRange::WITH_TRIAL, first).await.unwrap();
    until_held(&*store, StateFormat::FIRST).await;
    let found = found(&*store).await;
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [StateFormat::FIRST]);
    newer.shutdown(PATIENCE).await;
    let older = alone(&store, &bus, FormatRange::RELEASE, None).await.unwrap();
    bus.open.store(true, Ordering::SeqCst);
    for id in &started {
        older.wait_until_ended(*id, PATIENCE).await.unwrap().expect("it ends");
        assert!(older.history(*id, troupe_core::Seq(0), 100).await.unwrap().len() > 2);
    }
    until("every event arrives", async || {
        *bus.completed.lock().unwrap() == started
    })
    .await;
    older.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_reads_nothing_of_it_does_not_start_alone_and_waits_beside_others() {
    let cluster = Cluster::new();
    let store = cluster.store();
    let newer = cluster.member("newer", FormatRange::WITH_TRIAL).await;
    until_held(&*store, StateFormat::TRIAL).await;
    newer.engine.crash().await;
    until("its leases are over", async || {
        let mut free = true;
        for shard in (0..SHARDS).map(ShardId) {
            free &= store.holder(shard).await.unwrap().owner.is_none();
        }
        free && troupe_ports::Membership::members(&*cluster.register)
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    let before = epochs(&*store).await;
    is_newer(cluster.try_member("older", FormatRange::RELEASE).await);
    assert_eq!(epochs(&*store).await, before, "nothing was touched");
    // Beside one that reads it, it starts, and gets its share once that one has written it anew.
    let newer = cluster.member("newest", FormatRange::WITH_TRIAL).await;
    let older = cluster.member("older again", FormatRange::RELEASE).await;
    until_held(&*store, StateFormat::FIRST).await;
    until("it has its share", async || {
        older.engine.status().shards_served == SHARDS / 2
    })
    .await;
    until_settled(&[newer, older]).await;
}

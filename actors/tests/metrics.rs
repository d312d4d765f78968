//! What metrics tell an operator: each is seen to move by what it is about.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use support::{Arrows, Gate, PATIENCE, as_member, builtins, chain, now, store, until, with_sandbox, world};
use tokio_util::sync::CancellationToken;
use troupe_actors::{Engine, EngineHandle, EngineOptions, EngineParts, StartRequest};
use troupe_backends::{EmbeddedStore, InProcessMembers};
use troupe_core::execution::Status;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{Json, ShardId};
use troupe_executors::HandlerCall;
use troupe_ports::{BusError, DefinitionStore, EpochAuthority, EventBus, SystemClock};
use troupe_telemetry::Exposition;

/// Those of this process. Only what counts after they were read for the first time is counted.
static METRICS: LazyLock<Exposition> = LazyLock::new(|| Exposition::install().unwrap());

/// The value of one line of the metrics; 0 where it is not there yet.
fn metric(name: &str) -> f64 {
    let text = METRICS.render();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

const FENCED: &str = "troupe_fenced_commits_total";
const OUTBOX: [&str; 3] = [
    "troupe_outbox_pending",
    "troupe_outbox_bytes",
    "troupe_outbox_lag_seconds",
];
const PUBLISHED: [&str; 2] = [
    r#"troupe_publish_seconds_count{bus="events"}"#,
    r#"troupe_publish_seconds_sum{bus="events"}"#,
];
const EXECUTIONS_RESTARTED: &str = r#"troupe_actor_restarts_total{kind="execution"}"#;
const SHARDS_RESTARTED: &str = r#"troupe_actor_restarts_total{kind="shard"}"#;
const ATTEMPTS_RUNNING: &str = "troupe_attempts_running";

/// A bus that confirms nothing before it is open, and panics once where that is planted.
#[derive(Default)]
struct Valve {
    open: AtomicBool,
    panics: AtomicBool,
}

#[async_trait]
impl EventBus for Valve {
    async fn publish(&self, _: &[LifecycleEvent]) -> Result<(), BusError> {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "planted in the bus");
        if self.open.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err(BusError::Unavailable("closed".into()))
        }
    }

    async fn announce(&self, _: &[SystemEvent]) -> Result<(), BusError> {
        Ok(())
    }
}

/// An engine that knows a workflow `w` and publishes to this bus.
async fn engine(store: &Arc<EmbeddedStore>, bus: &Arc<Valve>) -> EngineHandle {
    let definition = serde_json::from_value(chain("w", 1, "noop")).unwrap();
    let stored = DefinitionStore::put(&**store, definition, Json::null(), None, now());
    stored.await.unwrap();
    let parts = EngineParts {
        state: store.clone(),
        definitions: store.clone(),
        visibility: store.clone(),
        buses: vec![("events", bus.clone())],
        executor: Arc::new(builtins().build()),
        sandbox: Arc::new(Arrows),
        clock: Arc::new(SystemClock),
        members: None,
        epochs: None,
        semaphores: None,
    };
    Engine::spawn(parts, EngineOptions::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_another_one_was_named_after_is_counted() {
    let before = metric(FENCED);
    let directory = tempfile::tempdir().unwrap();
    let epochs = store(&directory.path().join("epochs"), 4);
    let options = EngineOptions {
        owner: "a".to_owned(),
        address: "http://a".to_owned(),
        lease: Duration::from_secs(3),
        ..EngineOptions::default()
    };
    let register = Arc::<InProcessMembers>::default();
    let state = store(&directory.path().join("state"), 4);
    let world = as_member(state, builtins(), options, register, epochs.clone()).await;
    let issued = epochs.issued(ShardId(3)).await.unwrap();
    epochs.issue(ShardId(3), issued, "somebody").await.unwrap();
    until("what it lost is counted", async || metric(FENCED) > before).await;
    assert_eq!(world.engine.status().fenced_commits, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_bus_is_shown_until_it_is_confirmed() {
    let before = PUBLISHED.map(metric);
    let directory = tempfile::tempdir().unwrap();
    let (store, bus) = (store(directory.path(), 1), Arc::new(Valve::default()));
    let engine = engine(&store, &bus).await;
    let id = engine.start(StartRequest::new("w", Json::null())).await.unwrap().id;
    engine.wait_until_ended(id, PATIENCE).await.unwrap().unwrap();
    let waits = || {
        engine.sample_metrics();
        OUTBOX.map(metric)
    };
    until("it is seen to wait", async || waits().iter().all(|value| *value > 0.0)).await;
    assert_eq!(PUBLISHED.map(metric), before, "nothing is confirmed");
    bus.open.store(true, Ordering::SeqCst);
    until("nothing waits any more", async || waits() == [0.0; 3]).await;
    let confirmed = || PUBLISHED.map(metric).into_iter().zip(before);
    assert!(
        confirmed().all(|(now, before)| now > before),
        "{:?}",
        PUBLISHED.map(metric)
    );
    engine.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_is_shown_to_run_until_it_has_ended() {
    LazyLock::force(&METRICS);
    let directory = tempfile::tempdir().unwrap();
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let executors = builtins().handler("held", move |_: HandlerCall| {
        let opened = opened.clone();
        async move {
            opened.cancelled().await;
            Ok(Json::null())
        }
    });
    let world = world(directory.path(), executors, EngineOptions::default()).await;
    world.apply(chain("w", 1, "held")).await;
    let id = world.start("w", json!({})).await;
    let shown = || {
        world.engine.sample_metrics();
        metric(ATTEMPTS_RUNNING)
    };
    until("it is seen to run", async || shown() == 1.0).await;
    gate.cancel();
    world.ended(id).await;
    until("it is seen no longer", async || shown() == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_is_built_again_is_counted() {
    let before = metric(EXECUTIONS_RESTARTED);
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    gate.open();
    gate.panics.store(1, Ordering::SeqCst);
    let store = store(directory.path(), 1);
    let world = with_sandbox(store, builtins(), EngineOptions::default(), gate).await;
    let mut definition = chain("w", 2, "noop");
    definition["edges"][0]["condition"] = "(() => { return 42 })()".into();
    world.apply(definition).await;
    let id = world.start("w", json!({})).await;
    let ended = world.ended(id).await;
    assert!(matches!(ended.state.status, Status::Completed { .. }));
    assert_eq!(metric(EXECUTIONS_RESTARTED), before + 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_opened_again_is_counted() {
    let before = metric(SHARDS_RESTARTED);
    let directory = tempfile::tempdir().unwrap();
    let (store, bus) = (store(directory.path(), 1), Arc::new(Valve::default()));
    let engine = engine(&store, &bus).await;
    bus.open.store(true, Ordering::SeqCst);
    bus.panics.store(true, Ordering::SeqCst);
    // Its shard may be gone before it is answered.
    engine.start(StartRequest::new("w", Json::null())).await.ok();
    until("it is opened again", async || metric(SHARDS_RESTARTED) > before).await;
    until("it serves again", async || {
        engine.start(StartRequest::new("w", Json::null())).await.is_ok()
    })
    .await;
    engine.crash().await;
}

//! Events reach the bus at least once, whatever the sink's place and the checkpoint's place in the log.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use support::{Arrows, PATIENCE, builtins, chain, now, store};
use tokio::sync::Semaphore;
use troupe_actors::{Command, Engine, EngineHandle, EngineOptions, EngineParts, StartRequest};
use troupe_backends::embedded::EmbeddedStore;
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{Json, ShardId};
use troupe_executors::HandlerCall;
use troupe_ports::{BusError, DefinitionStore, EventBus, StateStore, SystemClock};

/// A bus that takes events while it is open.
#[derive(Default)]
struct Valve {
    open: AtomicBool,
    taken: Mutex<Vec<LifecycleEvent>>,
}

impl Valve {
    fn opened() -> Arc<Self> {
        let valve = Arc::new(Self::default());
        valve.open.store(true, Ordering::SeqCst);
        valve
    }

    fn took(&self, verb: Verb) -> bool {
        self.taken.lock().unwrap().iter().any(|event| event.verb == verb)
    }
}

#[async_trait]
impl EventBus for Valve {
    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
        if !self.open.load(Ordering::SeqCst) {
            return Err(BusError::Unavailable("closed".into()));
        }
        self.taken.lock().unwrap().extend(events.iter().cloned());
        Ok(())
    }

    async fn announce(&self, _: &[SystemEvent]) -> Result<(), BusError> {
        Ok(())
    }
}

async fn engine<B: EventBus>(store: &Arc<EmbeddedStore>, bus: &Arc<B>) -> EngineHandle {
    let executors = builtins().handler("never", |_: HandlerCall| async {
        let never = Semaphore::new(0);
        drop(never.acquire().await);
        Ok(Json::null())
    });
    let parts = EngineParts {
        state: store.clone(),
        definitions: store.clone(),
        visibility: store.clone(),
        buses: vec![("events", bus.clone())],
        executor: Arc::new(executors.build()),
        sandbox: Arc::new(Arrows),
        clock: Arc::new(SystemClock),
    };
    // Nothing is checkpointed while the test runs.
    let options = EngineOptions {
        checkpoint_interval: Duration::from_secs(3_600),
        checkpoint_bytes: usize::MAX,
        ..EngineOptions::default()
    };
    Engine::spawn(parts, options).await.unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

/// The log after the cursor does not say which workflow the entry belongs to, and no checkpoint knows the execution.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_executions_that_only_the_log_holds_survive_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 1);
    let definition = serde_json::from_value(chain("w", 1, "never")).unwrap();
    DefinitionStore::put(&*store, definition, Json::null(), None, now())
        .await
        .unwrap();
    let bus = Valve::opened();
    let first = engine(&store, &bus).await;
    let request = StartRequest::new("w", Json::null());
    let id = first.start(request).await.unwrap().id;
    until("the start is published", async || bus.took(Verb::ExecutionStarted)).await;
    until("the cursor is saved", async || {
        store.cursor(ShardId(0), "events").await.unwrap().0 > 0
    })
    .await;
    bus.open.store(false, Ordering::SeqCst);
    first.pause(id, Command::default()).await.unwrap();
    first.crash().await;
    let bus = Valve::opened();
    let second = engine(&store, &bus).await;
    until("the pause is published", async || bus.took(Verb::ExecutionPaused)).await;
    second.crash().await;
}

/// A bus that takes its time: each call waits for leave.
struct Slow {
    leave: Semaphore,
    calls: Mutex<Vec<usize>>,
}

#[async_trait]
impl EventBus for Slow {
    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
        self.leave.acquire().await.unwrap().forget();
        self.calls.lock().unwrap().push(events.len());
        Ok(())
    }

    async fn announce(&self, _: &[SystemEvent]) -> Result<(), BusError> {
        Ok(())
    }
}

/// What is committed while one call of the bus is on its way goes with the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_bus_is_called_once_for_all_that_gathered() {
    const STARTS: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 1);
    let definition = serde_json::from_value(chain("w", 1, "never")).unwrap();
    DefinitionStore::put(&*store, definition, Json::null(), None, now())
        .await
        .unwrap();
    let bus = Arc::new(Slow {
        leave: Semaphore::new(0),
        calls: Mutex::default(),
    });
    let engine = engine(&store, &bus).await;
    for _ in 0..STARTS {
        engine.start(StartRequest::new("w", Json::null())).await.unwrap();
    }
    bus.leave.add_permits(1_000);
    // Created, started, its node scheduled.
    let all = || bus.calls.lock().unwrap().iter().sum::<usize>() >= 3 * STARTS;
    until("every start is published", async || all()).await;
    let calls = bus.calls.lock().unwrap().clone();
    assert!(calls.len() <= 3, "{calls:?}");
    engine.crash().await;
}

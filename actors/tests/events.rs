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
use troupe_core::lifecycle::{LifecycleEvent, Payload, SystemEvent};
use troupe_core::{Json, ShardId};
use troupe_executors::HandlerCall;
use troupe_ports::{BusError, DefinitionStore, EventBus, StateStore, SystemClock};

/// A bus that takes events while it is open.
#[derive(Default)]
struct Valve {
    open: AtomicBool,
    /// Whether it takes only what the workflow chooses.
    chosen: AtomicBool,
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
    fn wants(&self, event: &LifecycleEvent) -> bool {
        !self.chosen.load(Ordering::SeqCst) || event.outward.is_some()
    }

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

async fn engine(store: &Arc<EmbeddedStore>, bus: &Arc<Valve>) -> EngineHandle {
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
        members: None,
        epochs: None,
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

/// What brokers get is what the workflow chooses, also when the sink reads the log again after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_chooses_what_is_published_with_which_payload_and_trace() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 1);
    let mut chosen = chain("chosen", 2, "echo");
    chosen["settings"] = serde_json::json!({"events": {
        "nodes": ["completed"],
        "payload": {"what": "{{ event.entity }}.{{ event.verb }}", "attempt": "{{ event.data.attempt.toFixed(0) }}"},
    }});
    for definition in [chain("default", 2, "echo"), chosen] {
        let definition = serde_json::from_value(definition).unwrap();
        let stored = DefinitionStore::put(&*store, definition, Json::null(), None, now());
        stored.await.unwrap();
    }
    let bus = Valve::opened();
    bus.chosen.store(true, Ordering::SeqCst);
    // What the first engine cannot send, the second one reads from the log.
    bus.open.store(false, Ordering::SeqCst);
    let first = engine(&store, &bus).await;
    let mut ids = Vec::new();
    for workflow in ["default", "chosen"] {
        let request = StartRequest {
            trace_parent: Some(TRACE.to_owned()),
            ..StartRequest::new(workflow, Json::null())
        };
        let (started, watch) = first.start_watched(request).await.unwrap();
        watch.ended().await.unwrap();
        ids.push(started.id);
    }
    first.crash().await;
    bus.open.store(true, Ordering::SeqCst);
    let second = engine(&store, &bus).await;
    let of = |id| {
        let taken = bus.taken.lock().unwrap();
        let events = taken.iter().filter(|event| event.execution == id).cloned();
        events.collect::<Vec<_>>()
    };
    let ended = |id| of(id).iter().any(|event| event.verb == Verb::ExecutionCompleted);
    until("both ends are published", async || ids.iter().all(|id| ended(*id))).await;
    let verbs = |id| of(id).iter().map(|event| event.verb).collect::<Vec<_>>();
    let execution = [Verb::ExecutionCreated, Verb::ExecutionStarted, Verb::ExecutionCompleted];
    assert_eq!(verbs(ids[0]), execution);
    let nodes = [Verb::NodeCompleted, Verb::NodeCompleted];
    assert_eq!(verbs(ids[1]), [&execution[..2], &nodes, &execution[2..]].concat());
    for event in of(ids[0]).iter().chain(&of(ids[1])) {
        let outward = event.outward.as_ref().unwrap();
        assert_eq!(outward.trace_parent.as_deref(), Some(TRACE));
        let told = outward.payload.as_ref().map(|payload| match payload {
            Payload::Made(made) => made.as_str().to_owned(),
            Payload::Failed(why) => format!("failed: {}", !why.is_empty()),
        });
        let expected = match (event.execution == ids[0], event.verb) {
            (true, _) => None,
            (false, Verb::NodeCompleted) => Some(r#"{"what":"node.completed","attempt":"1"}"#.to_owned()),
            (false, _) => Some("failed: true".to_owned()),
        };
        assert_eq!(told, expected, "{:?}", event.verb);
    }
    second.shutdown(Duration::from_secs(1)).await;
}

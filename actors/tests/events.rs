//! Events reach the bus at least once, whatever the sink's place and the checkpoint's place in the log.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use support::{Arrows, PATIENCE, builtins, chain, now, store, until};
use tokio::sync::Semaphore;
use troupe_actors::{
    AttemptWait, BacklogMarks, Command, Engine, EngineHandle, EngineOptions, EngineParts, StartRequest,
};
use troupe_backends::embedded::EmbeddedStore;
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, Payload, SystemEvent};
use troupe_core::{ExecutionId, Json, LogPosition, ShardId};
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

    fn took_of(&self, id: ExecutionId) -> bool {
        self.taken.lock().unwrap().iter().any(|event| event.execution == id)
    }

    fn took(&self, verb: Verb) -> bool {
        self.taken.lock().unwrap().iter().any(|event| event.verb == verb)
    }
}

#[async_trait]
impl EventBus for Valve {
    fn wants(&self, _: Verb, is_outward: bool) -> bool {
        !self.chosen.load(Ordering::SeqCst) || is_outward
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

async fn engine_with<B: EventBus>(store: &Arc<EmbeddedStore>, bus: &Arc<B>, options: EngineOptions) -> EngineHandle {
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
        semaphores: None,
    };
    Engine::spawn(parts, options).await.unwrap()
}

async fn engine<B: EventBus>(store: &Arc<EmbeddedStore>, bus: &Arc<B>) -> EngineHandle {
    // Nothing is checkpointed while the test runs.
    let options = EngineOptions {
        checkpoint_interval: Duration::from_secs(3_600),
        checkpoint_bytes: usize::MAX,
        ..EngineOptions::default()
    };
    engine_with(store, bus, options).await
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

/// Checkpoints soon, and whatever waits for the bus then leaves the log.
fn spooling() -> EngineOptions {
    EngineOptions {
        checkpoint_interval: Duration::from_millis(20),
        spool_above_bytes: 0,
        ..EngineOptions::default()
    }
}

async fn run(engine: &EngineHandle, executions: usize) -> Vec<ExecutionId> {
    let mut ids = Vec::new();
    for _ in 0..executions {
        let outcome = engine.start(StartRequest::new("w", Json::null())).await.unwrap();
        engine.wait_until_ended(outcome.id, PATIENCE).await.unwrap();
        ids.push(outcome.id);
    }
    ids
}

async fn first_record(store: &EmbeddedStore) -> u64 {
    let left = store.read(ShardId(0), LogPosition(1), 1).await.unwrap();
    left.first().map_or(u64::MAX, |record| record.position.0)
}

/// Seq and part of each event at its first time.
fn first_times(taken: &[LifecycleEvent], id: ExecutionId) -> Vec<(u64, u32)> {
    let mut seen = HashSet::new();
    let of = taken.iter().filter(|event| event.execution == id);
    let places = of.map(|event| (event.seq.0, event.part));
    places.filter(|place| seen.insert(*place)).collect()
}

/// A bus that is away for long does not keep the log; owners come and go; then it gets every event, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_outlive_the_log_while_the_bus_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 1);
    let definition = serde_json::from_value(chain("w", 3, "noop")).unwrap();
    DefinitionStore::put(&*store, definition, Json::null(), None, now())
        .await
        .unwrap();
    let bus = Valve::opened();
    let before = engine_with(&store, &bus, spooling()).await;
    let sample = run(&before, 1).await[0];
    until("it is published", async || bus.took(Verb::ExecutionCompleted)).await;
    let expected = first_times(&bus.taken.lock().unwrap(), sample);
    bus.open.store(false, Ordering::SeqCst);
    let mut ids = run(&before, 10).await;
    let end = async || {
        store
            .spool_extent(ShardId(0), "events")
            .await
            .unwrap()
            .last()
            .map(|chunk| chunk.0.0)
    };
    until("what waits leaves the log", async || {
        end().await.is_some_and(|end| end > 10) && first_record(&store).await > 10
    })
    .await;
    before.crash().await;

    // The next owner spools what follows and is gone again, as the bus takes a part of it.
    let between = engine_with(&store, &bus, spooling()).await;
    let spooled = end().await;
    ids.extend(run(&between, 10).await);
    until("more leaves the log", async || end().await > spooled).await;
    bus.open.store(true, Ordering::SeqCst);
    until("some are published", async || bus.took_of(ids[0])).await;
    between.crash().await;

    let after = engine_with(&store, &bus, spooling()).await;
    ids.extend(run(&after, 1).await);
    let all = |taken: &[LifecycleEvent]| ids.iter().all(|id| first_times(taken, *id) == expected);
    let complete = async || all(&bus.taken.lock().unwrap());
    until("every event arrives in order", complete).await;
    until("the spool is empty", async || {
        run(&after, 1).await;
        end().await.is_none()
    })
    .await;
    after.crash().await;
}

/// Beyond the first mark nothing starts, beyond the second no attempt; cancels and reads pass, and all goes on when the bus is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_the_bus_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 1);
    let definition = serde_json::from_value(chain("w", 2, "noop")).unwrap();
    DefinitionStore::put(&*store, definition, Json::null(), None, now())
        .await
        .unwrap();
    let bus = Valve::opened();
    bus.open.store(false, Ordering::SeqCst);
    let marks = |refuse_bytes, hold_bytes| EngineOptions {
        backlog: BacklogMarks {
            refuse_bytes,
            hold_bytes,
        },
        ..EngineOptions::default()
    };
    let request = || StartRequest::new("w", Json::null());

    let refusing = engine_with(&store, &bus, marks(0, u64::MAX)).await;
    let before = run(&refusing, 1).await[0];
    let refused = refusing.start(request()).await.unwrap_err();
    assert_eq!(refused.code(), "BACKLOG_FULL");
    assert!(refused.retry_after_ms().is_some());
    assert_eq!(
        (refusing.status().backlog.refusing, refusing.status().backlog.holding),
        (1, 0)
    );
    refusing.crash().await;

    let holding = engine_with(&store, &bus, marks(u64::MAX, 0)).await;
    let held = holding.start(request()).await.unwrap().id;
    let canceled = holding.start(request()).await.unwrap().id;
    until("the attempt is held", async || {
        let waits = holding.get(held).await.unwrap().waits;
        waits.iter().any(|(_, what)| *what == AttemptWait::Backlog)
    })
    .await;
    holding.cancel(canceled, Command::default()).await.unwrap();
    holding.wait_until_ended(canceled, PATIENCE).await.unwrap().unwrap();
    assert!(!holding.get(held).await.unwrap().state.status.is_terminal());
    assert_eq!(holding.status().backlog.holding, 1);
    bus.open.store(true, Ordering::SeqCst);
    holding.wait_until_ended(held, PATIENCE).await.unwrap().unwrap();
    until("everything is published", async || {
        [before, held, canceled].iter().all(|id| bus.took_of(*id)) && holding.status().backlog.bytes == 0
    })
    .await;
    holding.crash().await;
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

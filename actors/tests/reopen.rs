//! Executions that have ended go on as their next run: from memory, from archives, and with a crash at every point between.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use serde_json::{Value as JsonValue, json};
use support::{PATIENCE, World, builtins, failing, on_store, store, world};
use tokio::sync::Semaphore;
use troupe_actors::{Command, EngineError, EngineOptions, ExecutionView, ReopenOutcome, ReopenRequest, StartRequest};
use troupe_backends::embedded::EmbeddedStore;
use troupe_core::execution::{Event, Remedy, Status};
use troupe_core::{CommandId, ExecutionId, Json, Principal, Run, Seq, Value};
use troupe_executors::{ExecutorsBuilder, HandlerCall};
use troupe_ports::{ExecutionBase, ExecutionQuery, StateStore, VisibilityStore};

/// `fail` fails so often, `wait` waits until it is let go; both give their input.
#[derive(Clone)]
struct Handlers {
    failures: Arc<AtomicU32>,
    waiting: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Handlers {
    fn failing(times: u32) -> Self {
        Self {
            failures: Arc::new(AtomicU32::new(times)),
            waiting: Arc::new(Semaphore::new(0)),
            go: Arc::new(Semaphore::new(0)),
        }
    }

    fn executors(&self) -> ExecutorsBuilder {
        let waits = self.clone();
        let wait = move |call: HandlerCall| {
            let handlers = waits.clone();
            async move {
                handlers.waiting.add_permits(1);
                handlers.go.acquire().await.expect("never closed").forget();
                call.input_json().cloned()
            }
        };
        builtins()
            .handler("fail", failing(&self.failures))
            .handler("wait", wait)
    }

    /// Waits until an attempt of `wait` runs.
    async fn waited(&self) {
        let waiting = tokio::time::timeout(PATIENCE, self.waiting.acquire());
        waiting.await.expect("it waits").unwrap().forget();
    }
}

/// `a` (echo), then `b` (fail), then `c`.
fn definition(last: &str) -> JsonValue {
    let node = |id: &str, handler: &str| json!({"id": id, "type": "function", "data": {"handlerId": handler, "retryPolicy": {"maxAttempts": 1}}});
    let edge =
        |source: &str, target: &str| json!({"id": format!("{source}{target}"), "source": source, "target": target});
    json!({
        "id": "w", "name": "w", "version": 1,
        "nodes": [node("a", "echo"), node("b", "fail"), node("c", last)],
        "edges": [edge("a", "b"), edge("b", "c")],
    })
}

fn everything() -> ReopenRequest {
    ReopenRequest {
        nodes: Vec::new(),
        remedy: Remedy::Retry,
        dry_run: false,
    }
}

async fn retry(world: &World, id: ExecutionId) -> Result<ReopenOutcome, EngineError> {
    world.engine.reopen(id, everything(), Command::default()).await
}

fn output(view: &ExecutionView) -> JsonValue {
    match &view.state.status {
        Status::Completed {
            output: Value::Inline(json),
        } => json.to_value().unwrap(),
        other => panic!("{other:?}: {:?}", view.state.failure),
    }
}

async fn failed(world: &World) -> ExecutionId {
    let id = world.start("w", json!({"n": 1})).await;
    assert_eq!(world.ended(id).await.state.status, Status::Failed);
    id
}

/// The history is whole: 1..n without a gap, and each run ends once.
async fn whole(world: &World, id: ExecutionId, runs: usize) {
    let view = world.engine.get(id).await.unwrap();
    let history = world.engine.history(id, Seq(0), 1_000).await.unwrap();
    let seqs: Vec<u64> = history.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=view.state.seq.0).collect::<Vec<_>>());
    let ends = history.iter().flat_map(|entry| &entry.transitions);
    let ends = ends.filter(|change| change.verb().is_some_and(troupe_core::execution::Verb::ends_execution));
    assert_eq!(ends.count(), runs);
}

async fn listed(world: &World, id: ExecutionId, status: &str) {
    let shows = async {
        loop {
            let query = ExecutionQuery {
                limit: 100,
                ..ExecutionQuery::default()
            };
            let items = world.store.list(query).await.unwrap().items;
            let of = items.iter().find(|summary| summary.id == id);
            if of.is_some_and(|summary| summary.status == status && summary.ended_at.is_none() == (status == "running"))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shows).await.expect("lists follow");
}

/// Writes checkpoints only when it is shut down.
fn lazy() -> EngineOptions {
    EngineOptions {
        checkpoint_interval: Duration::from_secs(3_600),
        ..EngineOptions::default()
    }
}

/// Writes checkpoints all the time.
fn eager() -> EngineOptions {
    EngineOptions {
        checkpoint_interval: Duration::from_millis(1),
        ..EngineOptions::default()
    }
}

async fn archived(store: &EmbeddedStore, id: ExecutionId) {
    let archived = async {
        while !matches!(store.load(id).await.unwrap(), Some(ExecutionBase::Ended(..))) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, archived).await.expect("it is archived");
}

async fn lives_in(store: &EmbeddedStore, id: ExecutionId) {
    let lives = async {
        while !matches!(store.load(id).await.unwrap(), Some(ExecutionBase::Live { .. })) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lives)
        .await
        .expect("it lives in the store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_goes_on_as_the_next_run() {
    let directory = tempfile::tempdir().unwrap();
    let handlers = Handlers::failing(1);
    let world = world(directory.path(), handlers.executors(), lazy()).await;
    world.apply(definition("wait")).await;
    let id = failed(&world).await;
    let dry = ReopenRequest {
        dry_run: true,
        ..everything()
    };
    let dry = world.engine.reopen(id, dry, Command::default()).await.unwrap();
    assert_eq!((dry.command, dry.run, dry.repeated.len()), (None, Run(2), 1));
    assert_eq!(world.engine.get(id).await.unwrap().state.status, Status::Failed);

    let command = Command {
        principal: Some(Principal::from("ann")),
        command: Some(CommandId::from("once")),
        reason: Some("it was down".into()),
        ..Command::default()
    };
    let outcome = world.engine.reopen(id, everything(), command.clone()).await.unwrap();
    assert_eq!((outcome.run, outcome.repeated[0].node.as_str()), (Run(2), "b"));
    handlers.waited().await;
    let again = world.engine.reopen(id, everything(), command).await.unwrap();
    assert!(again.command.unwrap().unchanged, "the same command is applied once");
    listed(&world, id, "running").await;
    handlers.go.add_permits(1);
    let view = world.ended(id).await;
    assert_eq!((output(&view), view.state.run), (json!({"n": 1}), Run(2)));
    listed(&world, id, "completed").await;
    whole(&world, id, 2).await;
    let history = world.engine.history(id, Seq(0), 100).await.unwrap();
    let entry = history
        .iter()
        .find(|entry| matches!(entry.event, Event::Reopened(_)))
        .unwrap();
    let Event::Reopened(reopened) = &entry.event else {
        unreachable!()
    };
    assert_eq!(
        (reopened.reason.as_deref(), reopened.run),
        (Some("it was down"), Run(2))
    );
    assert_eq!(entry.principal, Some(Principal::from("ann")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_crash_leaves_in_the_store_the_run_goes_on() {
    // How the end got into the store, then how the reopening did, when the crash comes.
    for (case, before, after) in [
        ("all in the log", lazy(), lazy()),
        ("end archived, reopening in the log", eager(), lazy()),
        ("end archived, reopening checkpointed", eager(), eager()),
        ("end and reopening checkpointed together", lazy(), eager()),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path(), 2);
        let handlers = Handlers::failing(1);
        let one = on_store(store.clone(), handlers.executors(), before.clone()).await;
        one.apply(definition("wait")).await;
        let id = failed(&one).await;
        if before.checkpoint_interval < Duration::from_secs(1) {
            archived(&store, id).await;
        }
        one.engine.crash().await;

        let two = on_store(store.clone(), handlers.executors(), after.clone()).await;
        retry(&two, id).await.unwrap();
        handlers.waited().await;
        if after.checkpoint_interval < Duration::from_secs(1) {
            lives_in(&store, id).await;
        }
        two.engine.crash().await;

        let three = on_store(store.clone(), handlers.executors(), lazy()).await;
        handlers.waited().await;
        let view = three.engine.get(id).await.unwrap();
        assert_eq!(
            (view.state.run, view.state.status.name()),
            (Run(2), "running"),
            "{case}"
        );
        listed(&three, id, "running").await;
        three.engine.shutdown(Duration::ZERO).await;

        let four = on_store(store.clone(), handlers.executors(), eager()).await;
        handlers.go.add_permits(8);
        let view = four.ended(id).await;
        assert_eq!(output(&view), json!({"n": 1}), "{case}");
        whole(&four, id, 2).await;
        archived(&store, id).await;
        whole(&four, id, 2).await;
        four.engine.shutdown(Duration::from_secs(5)).await;
        let five = on_store(store, handlers.executors(), lazy()).await;
        whole(&five, id, 2).await;
        listed(&five, id, "completed").await;
        assert_eq!(five.engine.status().recovering, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_runs_in_one_checkpoint_and_many_checkpoints_of_one_run() {
    for options in [lazy(), eager()] {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path(), 2);
        let handlers = Handlers::failing(4);
        let world = on_store(store.clone(), handlers.executors(), options).await;
        world.apply(definition("echo")).await;
        let id = failed(&world).await;
        for run in 2..=5 {
            assert_eq!(retry(&world, id).await.unwrap().run, Run(run));
            world.ended(id).await;
        }
        whole(&world, id, 5).await;
        world.engine.shutdown(Duration::from_secs(5)).await;
        let world = on_store(store, handlers.executors(), lazy()).await;
        assert_eq!(output(&world.engine.get(id).await.unwrap()), json!({"n": 1}));
        whole(&world, id, 5).await;
        let refused = retry(&world, id).await.unwrap_err();
        assert_eq!(refused.code(), "NOT_REOPENABLE");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_node_is_skipped_with_an_output() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(
        directory.path(),
        Handlers::failing(1).executors(),
        EngineOptions::default(),
    )
    .await;
    world.apply(definition("echo")).await;
    let id = failed(&world).await;
    let skip = ReopenRequest {
        nodes: vec!["b".into()],
        remedy: Remedy::Skip(Some(Value::Inline(Json::of(&json!("by hand"))))),
        dry_run: false,
    };
    let outcome = world.engine.reopen(id, skip.clone(), Command::default()).await.unwrap();
    assert_eq!(outcome.run, Run(2));
    assert_eq!(output(&world.ended(id).await), json!("by hand"));
    let refused = world.engine.reopen(id, skip, Command::default()).await.unwrap_err();
    assert!(matches!(refused, EngineError::Ended(_)), "{refused}");
    let nobody = ReopenRequest {
        nodes: vec!["nobody".into()],
        ..everything()
    };
    let refused = world.engine.reopen(id, nobody, Command::default()).await.unwrap_err();
    assert!(matches!(refused, EngineError::NodeNotFound { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_business_key_only_the_latest_execution_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let handlers = Handlers::failing(2);
    let world = world(directory.path(), handlers.executors(), EngineOptions::default()).await;
    world.apply(definition("wait")).await;
    let start = StartRequest {
        execution_key: Some("order-1".into()),
        ..StartRequest::new("w", Json::of(&json!(1)))
    };
    let one = world.engine.start(start.clone()).await.unwrap().id;
    world.ended(one).await;
    let two = world.engine.start(start.clone()).await.unwrap().id;
    world.ended(two).await;
    let refused = retry(&world, one).await.unwrap_err();
    assert!(
        matches!(refused, EngineError::KeyConflict { existing } if existing == two),
        "{refused}"
    );
    retry(&world, two).await.unwrap();
    handlers.waited().await;
    let refused = world.engine.start(start).await.unwrap_err();
    assert!(
        matches!(refused, EngineError::KeyConflict { existing } if existing == two),
        "it is open: {refused}"
    );
    handlers.go.add_permits(1);
    world.ended(two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_spares_what_was_reopened_and_takes_what_was_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let handlers = Handlers::failing(2);
    let short = EngineOptions {
        retention_ms: 1,
        ..lazy()
    };
    let one = on_store(store.clone(), handlers.executors(), short.clone()).await;
    one.apply(definition("wait")).await;
    let (kept, gone) = (failed(&one).await, failed(&one).await);
    one.engine.shutdown(Duration::from_secs(5)).await;
    archived(&store, kept).await;
    // The first look comes after the reopening, which stays in the log alone.
    let looks = EngineOptions {
        expire_every: Duration::from_secs(2),
        ..short
    };
    let two = on_store(store.clone(), handlers.executors(), looks).await;
    retry(&two, kept).await.unwrap();
    handlers.waited().await;
    let forgotten = async {
        while two.engine.get(gone).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten)
        .await
        .expect("the other archive goes");
    assert!(matches!(retry(&two, gone).await, Err(EngineError::NotFound(_))));
    listed(&two, kept, "running").await;
    two.engine.crash().await;
    let three = on_store(store, handlers.executors(), lazy()).await;
    handlers.go.add_permits(8);
    assert_eq!(output(&three.ended(kept).await), json!({"n": 1}));
    whole(&three, kept, 2).await;
}

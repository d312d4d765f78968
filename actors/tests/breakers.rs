//! Attempts on a target that is unwell are parked, not burnt.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{PATIENCE, World, builtins, on_store, store};
use troupe_actors::{AttemptWait, BreakerHold, BreakerSettings, BreakerState, BreakerView, Command, EngineOptions};
use troupe_core::control::{BreakerOverride, ControlKey, Setting};
use troupe_core::execution::Status;
use troupe_core::{ExecutionId, Json};
use troupe_executors::{ExecutorsBuilder, HandlerCall, HandlerError};

const SETTINGS: BreakerSettings = BreakerSettings {
    window_ms: 60_000,
    calls_min: 4,
    failures_percent: 50,
    // Longer than a busy machine keeps whoever looks at an open one.
    open_ms: 1_000,
    open_max_ms: 1_000,
    successes_min: 3,
};

/// A target that may be unwell.
#[derive(Default)]
struct Target {
    well: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: usize,
    failed: usize,
    succeeded: usize,
    running: usize,
    most_running: usize,
    /// Calls that began and succeeded since it is well, each time that one began.
    begun: Vec<(usize, usize)>,
}

fn calling(target: &Arc<Target>) -> ExecutorsBuilder {
    let target = Arc::clone(target);
    builtins().handler("call", move |_: HandlerCall| {
        let target = Arc::clone(&target);
        async move {
            let well = target.well.load(Ordering::SeqCst);
            {
                let mut seen = target.seen.lock();
                seen.calls += 1;
                if well {
                    seen.running += 1;
                    seen.most_running = seen.most_running.max(seen.running);
                    let begun = seen.begun.len() + 1;
                    let succeeded = seen.succeeded;
                    seen.begun.push((begun, succeeded));
                }
            }
            if !well {
                target.seen.lock().failed += 1;
                return Err(HandlerError::new("DOWN", "the target is unwell"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut seen = target.seen.lock();
            seen.running -= 1;
            seen.succeeded += 1;
            Ok(Json::null())
        }
    })
}

fn options() -> EngineOptions {
    EngineOptions {
        breakers: Some(SETTINGS),
        ..EngineOptions::default()
    }
}

fn workflow(data: Value) -> Value {
    let mut whole = json!({"handlerId": "call",
        "retryPolicy": {"maxAttempts": 50, "initialDelay": 1, "backoffStrategy": "fixed", "jitter": "none"}});
    whole.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
    json!({"id": "w", "edges": [], "nodes": [{"id": "n", "type": "function", "data": whole}]})
}

async fn until(what: impl Fn() -> bool) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while !what() {
        assert!(tokio::time::Instant::now() < patience, "it never happens");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn state(world: &World) -> Option<BreakerState> {
    world.engine.breakers().first().map(|breaker| breaker.state)
}

/// Starts so many, and waits until all of them are parked.
async fn parked(world: &World, count: usize) -> Vec<ExecutionId> {
    let before = world.engine.breakers().first().map_or(0, |breaker| breaker.parked);
    parked_from(world, count, before).await
}

/// The same where so many will be parked already.
async fn parked_from(world: &World, count: usize, before: usize) -> Vec<ExecutionId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(world.start("w", json!({})).await);
    }
    let all = |breaker: &BreakerView| breaker.parked == before + count;
    until(|| world.engine.breakers().first().is_some_and(all)).await;
    ids
}

/// One execution that goes on failing until the breaker of its target opens.
async fn unwell(world: &World) -> ExecutionId {
    let first = world.start("w", json!({})).await;
    until(|| state(world) == Some(BreakerState::Open)).await;
    first
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_target_is_unwell_nothing_is_burnt_and_then_waves_grow() {
    let directory = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::default());
    let world = on_store(store(directory.path(), 4), calling(&target), options()).await;
    world.apply(workflow(json!({}))).await;
    let first = unwell(&world).await;
    assert_eq!(target.seen.lock().failed, 4, "no more than it takes");
    let ids = parked(&world, 40).await;
    // The first ones may be canaries by now, and the last may be about to say so.
    let patience = tokio::time::Instant::now() + PATIENCE;
    while world.engine.get(ids[20]).await.unwrap().waits != [(troupe_core::NodeIx(0), AttemptWait::Breaker)] {
        assert!(
            tokio::time::Instant::now() < patience,
            "it never says that it is parked"
        );
    }
    // Canaries fail one at a time, and nothing else goes.
    until(|| target.seen.lock().failed >= 6).await;
    target.well.store(true, Ordering::SeqCst);
    let mut attempts = 0;
    for id in ids.iter().chain([&first]) {
        let view = world.ended(*id).await;
        assert!(matches!(view.state.status, Status::Completed { .. }));
        attempts += view.state.nodes[0].attempts.len();
    }
    until(|| state(&world).is_none()).await;
    let seen = target.seen.lock();
    assert_eq!(
        attempts,
        41 + seen.failed,
        "each call is an attempt, and each attempt a call"
    );
    assert_eq!(seen.calls, 41 + seen.failed);
    for (begun, succeeded) in &seen.begun {
        assert!(*begun <= 1 + 2 * succeeded, "{:?}", seen.begun);
    }
    assert!(seen.most_running >= 4, "{}", seen.most_running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_pauses_deadlines_and_restarts_reach_who_is_parked() {
    let directory = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::default());
    let store = store(directory.path(), 4);
    let world = on_store(store.clone(), calling(&target), options()).await;
    world.apply(workflow(json!({}))).await;
    let first = unwell(&world).await;
    let ids = parked(&world, 3).await;
    world.apply(workflow(json!({"totalTimeout": 100}))).await;
    let hurried = world.start("w", json!({})).await;
    let failed = world.ended(hurried).await;
    assert_eq!(failed.state.failure.as_ref().unwrap().error.code, "TIMEOUT");

    world.engine.cancel(ids[0], Command::default()).await.unwrap();
    let canceled = world.ended(ids[0]).await;
    assert!(matches!(canceled.state.status, Status::Canceled { .. }));
    world.engine.pause(ids[1], Command::default()).await.unwrap();
    world.engine.shutdown(Duration::ZERO).await;

    target.well.store(true, Ordering::SeqCst);
    let world = on_store(store, calling(&target), options()).await;
    for id in [first, ids[2]] {
        let view = world.ended(id).await;
        assert!(matches!(view.state.status, Status::Completed { .. }));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(target.seen.lock().succeeded, 2, "the one that is paused waits");
    world.engine.resume(ids[1], Command::default()).await.unwrap();
    let view = world.ended(ids[1]).await;
    assert!(matches!(view.state.status, Status::Completed { .. }));
    let tries = view.state.nodes[0]
        .attempts
        .iter()
        .map(|attempt| attempt.attempt.0)
        .max();
    assert_eq!(tries, Some(1));
}

/// Breakers of their own accord are off here: an operator's word counts all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_word_holds_across_restarts_until_it_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::default());
    target.well.store(true, Ordering::SeqCst);
    let store = store(directory.path(), 4);
    let off = || EngineOptions {
        breakers: None,
        ..EngineOptions::default()
    };
    let world = on_store(store.clone(), calling(&target), off()).await;
    world.apply(workflow(json!({}))).await;
    let key = || ControlKey::Breaker("handler:call".into());
    let word = |hold| Some(Setting::Breaker(hold));
    let open = world
        .engine
        .control(key(), word(BreakerOverride::Open), Command::default());
    assert!(!open.await.unwrap().unchanged);
    let first = parked_from(&world, 1, 0).await[0];
    world.engine.shutdown(Duration::ZERO).await;

    let world = on_store(store.clone(), calling(&target), off()).await;
    parked_from(&world, 1, 1).await;
    assert_eq!(world.engine.breakers()[0].held, Some(BreakerHold::Open));
    assert_eq!(target.seen.lock().succeeded, 0, "nothing passed");
    world.engine.crash().await;

    let world = on_store(store, calling(&target), off()).await;
    until(|| {
        world
            .engine
            .breakers()
            .first()
            .is_some_and(|breaker| breaker.parked == 2)
    })
    .await;
    let reset = world
        .engine
        .reset_breaker("handler:call", Command::default())
        .await
        .unwrap();
    assert!(!reset.unchanged && !reset.in_force);
    let view = world.ended(first).await;
    assert!(matches!(view.state.status, Status::Completed { .. }));
    until(|| world.engine.breakers().is_empty()).await;
    assert!(world.engine.controls().is_empty());
    world.engine.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_that_is_closed_by_hand_lets_everything_go_and_a_reset_counts_anew() {
    let directory = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::default());
    let world = on_store(store(directory.path(), 4), calling(&target), options()).await;
    world.apply(workflow(json!({}))).await;
    unwell(&world).await;
    let key = || ControlKey::Breaker("handler:call".into());
    let closed = Some(Setting::Breaker(BreakerOverride::Closed));
    world.engine.control(key(), closed, Command::default()).await.unwrap();
    let before = target.seen.lock().failed;
    until(|| target.seen.lock().failed > before + 20).await;
    let shown = &world.engine.breakers()[0];
    assert_eq!(
        (shown.state, shown.held),
        (BreakerState::Closed, Some(BreakerHold::Closed))
    );
    world
        .engine
        .reset_breaker("handler:call", Command::default())
        .await
        .unwrap();
    world.start("w", json!({})).await;
    until(|| state(&world) == Some(BreakerState::Open)).await;
    // A reset forgets what a breaker found by itself, too: nothing is lifted, and it is closed. Nor does it open again meanwhile.
    target.well.store(true, Ordering::SeqCst);
    let reset = world
        .engine
        .reset_breaker("handler:call", Command::default())
        .await
        .unwrap();
    assert!(reset.unchanged);
    let shown = world.engine.breakers();
    assert!(
        shown.first().is_none_or(|breaker| breaker.failed < SETTINGS.calls_min),
        "{shown:?}"
    );
}

/// Members ask first what is to be told: what no operator had said anything of is reset all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_that_lifts_nothing_reaches_the_breakers_of_members() {
    let directory = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::default());
    let options = EngineOptions {
        breakers: Some(BreakerSettings {
            open_ms: 600_000,
            open_max_ms: 600_000,
            ..SETTINGS
        }),
        ..EngineOptions::default()
    };
    let world = on_store(store(directory.path(), 4), calling(&target), options).await;
    world.apply(workflow(json!({}))).await;
    let first = unwell(&world).await;
    target.well.store(true, Ordering::SeqCst);
    let key = ControlKey::Breaker("handler:call".into());
    let command = Command {
        command: Some("reset".into()),
        ..Command::default()
    };
    let known = world.engine.control_sets();
    let planned = world.engine.planned_control(&known, key, None, command).unwrap();
    let learned = world.engine.learn_control(planned.unwrap()).await.unwrap();
    assert_eq!((learned.shards.len(), learned.changed), (4, false));
    let view = world.ended(first).await;
    assert!(matches!(view.state.status, Status::Completed { .. }));
    assert!(world.engine.controls().is_empty());
    world.engine.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_may_go_unguarded_and_breakers_may_be_off() {
    for (data, settings) in [(json!({"breaker": false}), Some(SETTINGS)), (json!({}), None)] {
        let directory = tempfile::tempdir().unwrap();
        let target = Arc::new(Target::default());
        let options = EngineOptions {
            breakers: settings,
            ..EngineOptions::default()
        };
        let world = on_store(store(directory.path(), 4), calling(&target), options).await;
        world.apply(workflow(data)).await;
        let id = world.start("w", json!({})).await;
        let view = world.ended(id).await;
        assert_eq!(view.state.nodes[0].attempts.len(), 50, "every attempt was burnt");
        assert!(world.engine.breakers().is_empty());
    }
}

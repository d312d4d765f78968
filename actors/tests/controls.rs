//! Controls of a wider scope: they hold at once, survive restarts, and are the same in every shard.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{World, builtins, chain, on_store, store};
use troupe_actors::{Command, ControlOutcome, EngineError, EngineOptions, ReopenRequest, StartRequest};
use troupe_core::control::{Clocks, ControlKey, Scope, Setting};
use troupe_core::execution::{Event, Remedy, Status, Verb};
use troupe_core::{ExecutionId, Json, Seq};
use troupe_executors::{ExecutorsBuilder, HandlerCall, HandlerError};

const PAUSED: Setting = Setting::Paused { clocks: Clocks::Run };
const STOPPED: Setting = Setting::Stopped { cancel_running: false };

/// Counts its starts and takes a little while.
fn counting(starts: &Arc<AtomicU32>) -> ExecutorsBuilder {
    let starts = Arc::clone(starts);
    builtins().handler("count", move |_: HandlerCall| {
        starts.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            Ok(Json::from_trusted("1"))
        }
    })
}

async fn set(world: &World, key: &ControlKey, setting: Option<Setting>) -> ControlOutcome {
    world
        .engine
        .control(key.clone(), setting, Command::default())
        .await
        .unwrap()
}

fn workflow(id: &str) -> Scope {
    Scope::Workflow(id.into())
}

async fn drained(world: &World) {
    let running = || {
        world
            .engine
            .controls()
            .iter()
            .map(|control| control.draining)
            .sum::<u32>()
    };
    while running() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn all_complete(world: &World, ids: &[ExecutionId]) {
    for id in ids {
        let view = world.ended(*id).await;
        assert!(
            matches!(view.state.status, Status::Completed { .. }),
            "{:?}",
            view.state.status
        );
    }
}

/// An execution that learns of a pause while an attempt of it waits for its turn: nothing wakes it when the pause is lifted, and
/// nothing need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_waits_for_its_turn_goes_on_when_the_pause_is_lifted() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let inside = Arc::clone(&gate);
    let executors = builtins().handler("gate", move |_: HandlerCall| {
        let inside = Arc::clone(&inside);
        async move {
            inside.acquire().await.unwrap().forget();
            Ok(Json::from_trusted("1"))
        }
    });
    let options = EngineOptions {
        attempts_max: 1,
        ..EngineOptions::default()
    };
    let world = on_store(store(directory.path(), 1), executors, options).await;
    let mut two = chain("w", 2, "gate");
    two["edges"] = json!([]);
    world.apply(two).await;
    let id = world.start("w", json!({})).await;
    let key = ControlKey::Pause(workflow("w"));
    while set(&world, &key, Some(PAUSED)).await.draining == 0 {
        set(&world, &key, None).await;
    }
    // The one that runs ends, and with its report the execution learns of the pause.
    gate.add_permits(2);
    drained(&world).await;
    set(&world, &key, None).await;
    let ids = [id];
    let ended = tokio::time::timeout(Duration::from_secs(20), all_complete(&world, &ids));
    ended.await.expect("the second attempt starts when the pause is lifted");
}

/// What falls due while a commit is under way goes on when that is durable, and learns of a pause that came in force meanwhile: else a node
/// would count as started, and one that is interrupted there as having begun, although the door let nothing pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_scheduled_after_a_pause_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let starts = Arc::new(AtomicU32::new(0));
    let world = on_store(store(directory.path(), 2), counting(&starts), EngineOptions::default()).await;
    let mut definition = chain("w", 40, "count");
    for n in (0..40).step_by(2) {
        let node = &mut definition["nodes"][n];
        (node["type"], node["data"]) = (json!("delay"), json!({"delayType": "fixed", "delayValue": 1 + n % 5}));
    }
    world.apply(definition).await;
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(world.start("w", json!({})).await);
    }
    let key = ControlKey::Pause(workflow("w"));
    let mut held = Vec::new();
    for _ in 0..20 {
        set(&world, &key, Some(PAUSED)).await;
        let acknowledged = support::now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        held.push((acknowledged, support::now()));
        set(&world, &key, None).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    all_complete(&world, &ids).await;
    let (mut scheduled, mut late) = (0, Vec::new());
    for id in ids {
        let history = world.engine.history(id, Seq(0), 1_000).await.unwrap();
        for entry in &history {
            let begun = entry
                .transitions
                .iter()
                .filter(|one| one.verb() == Some(Verb::NodeScheduled));
            let begun = begun.count();
            scheduled += begun;
            if begun > 0
                && let Some(pause) = held.iter().find(|(from, until)| *from < entry.at && entry.at < *until)
            {
                late.push((id, entry.seq, entry.at, *pause));
            }
        }
    }
    assert_eq!(late, []);
    assert!(scheduled >= 60 * 20, "{scheduled}");
}

/// C9: between the acknowledgement of a pause and its end no attempt starts in the scope, whatever happens to the engine.
async fn nothing_starts_while(scope: Scope) {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let starts = Arc::new(AtomicU32::new(0));
    let options = || EngineOptions {
        attempts_max: 8,
        ..EngineOptions::default()
    };
    let world = on_store(store.clone(), counting(&starts), options()).await;
    world.apply(chain("w", 20, "count")).await;
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(world.start("w", json!({})).await);
    }
    while starts.load(Ordering::SeqCst) < 40 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let key = ControlKey::Pause(scope);
    let outcome = set(&world, &key, Some(PAUSED)).await;
    let at_acknowledgement = starts.load(Ordering::SeqCst);
    assert_eq!((outcome.shards, outcome.in_force, outcome.unchanged), (4, true, false));
    for _ in 0..5 {
        ids.push(world.start("w", json!({})).await);
    }
    drained(&world).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let drained_at = starts.load(Ordering::SeqCst);
    assert!(
        drained_at - at_acknowledgement <= outcome.draining,
        "{drained_at} - {at_acknowledgement} > {}",
        outcome.draining
    );
    assert!(drained_at < 60 * 20, "it was under load");

    world.engine.crash().await;
    let world = on_store(store.clone(), counting(&starts), options()).await;
    ids.push(world.start("w", json!({})).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.engine.shutdown(Duration::ZERO).await;
    let world = on_store(store, counting(&starts), options()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        starts.load(Ordering::SeqCst),
        drained_at,
        "nothing started, restarts included"
    );

    assert!(!set(&world, &key, None).await.in_force);
    all_complete(&world, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_while_its_workflow_is_paused() {
    nothing_starts_while(workflow("w")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_while_everything_is_paused() {
    nothing_starts_while(Scope::All).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_overlap_and_something_runs_only_when_none_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let starts = Arc::new(AtomicU32::new(0));
    let world = on_store(store(directory.path(), 2), counting(&starts), EngineOptions::default()).await;
    world.apply(chain("w", 2, "count")).await;
    world.apply(chain("other", 1, "count")).await;
    let node = Scope::Node {
        workflow: "w".into(),
        node: "n1".into(),
    };
    let held = [
        ControlKey::Pause(node),
        ControlKey::Pause(Scope::NodeType("http".to_owned())),
        ControlKey::Pause(Scope::NodeType("function".to_owned())),
        ControlKey::Pause(workflow("w")),
    ];
    for key in &held {
        set(&world, key, Some(PAUSED)).await;
    }
    let (id, other) = (world.start("w", json!({})).await, world.start("other", json!({})).await);
    set(&world, &held[2], None).await;
    all_complete(&world, &[other]).await;
    assert_eq!(starts.load(Ordering::SeqCst), 1, "of another workflow");
    set(&world, &held[3], None).await;
    while starts.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(starts.load(Ordering::SeqCst), 2, "n1 is still held");
    set(&world, &held[0], None).await;
    all_complete(&world, &[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_refuses_starts_and_holds_what_runs_until_it_is_lifted() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let starts = Arc::new(AtomicU32::new(0));
    let world = on_store(store.clone(), counting(&starts), EngineOptions::default()).await;
    world.apply(chain("w", 100, "count")).await;
    world.apply(chain("other", 1, "count")).await;
    let keyed = || StartRequest {
        request_key: Some("k".into()),
        ..StartRequest::new("w", Json::null())
    };
    let first = world.engine.start(keyed()).await.unwrap();
    let key = ControlKey::Stop(workflow("w"));
    let command = Command {
        reason: Some("it burns".into()),
        principal: Some("me".into()),
        ..Command::default()
    };
    let outcome = world.engine.control(key.clone(), Some(STOPPED), command).await.unwrap();
    assert!(outcome.in_force);
    world.engine.crash().await;
    let world = on_store(store, counting(&starts), EngineOptions::default()).await;
    let shown = world.engine.controls();
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].shards, shown[0].shards_all), (2, 2));
    assert_eq!(shown[0].reason.as_deref(), Some("it burns"));
    assert_eq!(shown[0].principal, Some("me".into()));

    let refused = world
        .engine
        .start(StartRequest::new("w", Json::null()))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.to_string().as_str()),
        ("STOPPED", "workflow w is stopped: it burns")
    );
    assert!(matches!(refused, EngineError::Stopped { .. }));
    assert_eq!(
        world.engine.start(keyed()).await.unwrap().id,
        first.id,
        "what has started is found"
    );
    let other = world.start("other", json!({})).await;
    all_complete(&world, &[other]).await;
    let before = starts.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(starts.load(Ordering::SeqCst), before);
    assert!(before < 100);
    set(&world, &key, None).await;
    all_complete(&world, &[first.id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_applied_once_and_a_checkpoint_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 3);
    let world = on_store(store.clone(), builtins(), EngineOptions::default()).await;
    let key = ControlKey::Pause(workflow("w"));
    let pause = || Command {
        command: Some("c1".into()),
        ..Command::default()
    };
    let first = world.engine.control(key.clone(), Some(PAUSED), pause()).await.unwrap();
    let again = world.engine.control(key.clone(), Some(PAUSED), pause()).await.unwrap();
    assert_eq!((first.unchanged, again.unchanged), (false, true));
    set(&world, &key, None).await;
    let late = world.engine.control(key.clone(), Some(PAUSED), pause()).await.unwrap();
    assert_eq!((late.unchanged, late.in_force), (true, false), "it was lifted since");
    set(&world, &ControlKey::Pause(Scope::All), Some(PAUSED)).await;
    let wrong = world
        .engine
        .control(ControlKey::Stop(Scope::All), Some(PAUSED), Command::default());
    assert_eq!(wrong.await.unwrap_err().code(), "INVALID_REQUEST");

    for _ in 0..2 {
        // A planned end writes a checkpoint and trims the log.
        world.engine.shutdown(Duration::ZERO).await;
        let world = on_store(store.clone(), builtins(), EngineOptions::default()).await;
        let shown = world.engine.controls();
        assert_eq!(shown.len(), 1);
        assert_eq!((&shown[0].key, shown[0].shards), (&ControlKey::Pause(Scope::All), 3));
        world.engine.shutdown(Duration::ZERO).await;
    }
}

fn delay_then_count(id: &str, ms: u64) -> serde_json::Value {
    let mut definition = chain(id, 2, "count");
    definition["nodes"][0] = json!({"id": "n0", "type": "delay", "name": "n0", "dependencies": [],
        "data": {"delayType": "fixed", "delayValue": ms}, "position": {"x": 0, "y": 0}});
    definition
}

fn parking() -> EngineOptions {
    EngineOptions {
        passivate_after_ms: 1,
        ..EngineOptions::default()
    }
}

async fn parked(world: &World) {
    let waited = async {
        while world.engine.status().active > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, waited)
        .await
        .expect("they give up their actors");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_pause_of_everything_nobody_is_woken_and_at_its_end_everybody_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let starts = Arc::new(AtomicU32::new(0));
    let world = on_store(store.clone(), counting(&starts), parking()).await;
    // Longer than a busy machine takes until the pause.
    world.apply(delay_then_count("w", 3_000)).await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(world.start("w", json!({})).await);
    }
    parked(&world).await;
    let before = world.engine.status().entries;
    set(&world, &ControlKey::Pause(Scope::All), Some(PAUSED)).await;
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    let status = world.engine.status();
    assert_eq!(
        (status.entries - before, status.active),
        (2, 0),
        "an entry a shard, whatever waits"
    );

    // Starts wait without an actor, and are found after a crash.
    for _ in 0..10 {
        ids.push(world.start("w", json!({})).await);
    }
    world.apply(chain("now", 1, "count")).await;
    for _ in 0..10 {
        ids.push(world.start("now", json!({})).await);
    }
    parked(&world).await;
    world.engine.crash().await;
    let world = on_store(store, counting(&starts), parking()).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    parked(&world).await;
    assert_eq!(starts.load(Ordering::SeqCst), 0);
    let view = world.engine.get(ids[59]).await.unwrap();
    assert_eq!((view.held.len(), &view.held[0].scope), (1, &Scope::All));
    set(&world, &ControlKey::Pause(Scope::All), None).await;
    all_complete(&world, &ids).await;
    assert_eq!(starts.load(Ordering::SeqCst), 60);
    assert!(world.engine.get(ids[59]).await.unwrap().held.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_falls_due_under_a_pause_of_its_workflow_is_woken_once_and_again_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let starts = Arc::new(AtomicU32::new(0));
    let world = on_store(store.clone(), counting(&starts), parking()).await;
    // Longer than a busy machine takes until the pause.
    world.apply(delay_then_count("w", 2_000)).await;
    world.apply(delay_then_count("other", 2_000)).await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(world.start("w", json!({})).await);
    }
    let other = world.start("other", json!({})).await;
    let key = ControlKey::Pause(workflow("w"));
    set(&world, &key, Some(PAUSED)).await;
    all_complete(&world, &[other]).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    parked(&world).await;
    assert_eq!(starts.load(Ordering::SeqCst), 1, "of the other workflow");
    let entries = world.engine.status().entries;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        world.engine.status().entries,
        entries,
        "nobody is woken again and again"
    );
    set(&world, &key, None).await;
    all_complete(&world, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_clocks_stand_still_through_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let starts = Arc::new(AtomicU32::new(0));
    let world = on_store(store.clone(), counting(&starts), parking()).await;
    world.apply(delay_then_count("w", 2_000)).await;
    let id = world.start("w", json!({})).await;
    let begun = world.engine.get(id).await.unwrap().state.started_at;
    let (key, all) = (ControlKey::Pause(workflow("w")), ControlKey::Pause(Scope::All));
    let frozen = Some(Setting::Paused { clocks: Clocks::Freeze });
    // Two freezes that overlap stand for 300 ms together, and nobody looks at the execution meanwhile.
    set(&world, &key, frozen).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    set(&world, &all, frozen).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    set(&world, &key, None).await;
    world.engine.crash().await;
    let world = on_store(store.clone(), counting(&starts), parking()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    set(&world, &all, None).await;
    let view = world.ended(id).await;
    let took = view.state.nodes[0].ended_at.unwrap().since_ms(begun);
    assert!(
        (2_290..6_000).contains(&took),
        "it took {took} ms, of which at least 300 do not count"
    );

    // Its own pause may freeze it too.
    let id = world.start("w", json!({})).await;
    let freeze = Command {
        clocks: Clocks::Freeze,
        ..Command::default()
    };
    world.engine.pause(id, freeze).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.engine.crash().await;
    let world = on_store(store, counting(&starts), parking()).await;
    world.engine.resume(id, Command::default()).await.unwrap();
    let begun = world.engine.get(id).await.unwrap().state.started_at;
    let view = world.ended(id).await;
    let took = view.state.nodes[0].ended_at.unwrap().since_ms(begun);
    assert!(took >= 2_490, "it took {took} ms, of which at least 500 do not count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_is_published_once_whatever_the_number_of_shards() {
    let directory = tempfile::tempdir().unwrap();
    let world = on_store(store(directory.path(), 4), builtins(), EngineOptions::default()).await;
    let mut events = world.bus.subscribe_system();
    let key = ControlKey::Pause(workflow("w"));
    let command = Command {
        reason: Some("why not".into()),
        principal: Some("me".into()),
        ..Command::default()
    };
    world.engine.control(key.clone(), Some(PAUSED), command).await.unwrap();
    // It is paused already: only the id is kept.
    let again = Command {
        command: Some("again".into()),
        ..Command::default()
    };
    let again = world.engine.control(key.clone(), Some(PAUSED), again).await.unwrap();
    assert_eq!((again.unchanged, again.in_force), (true, true));
    set(&world, &key, None).await;
    set(&world, &ControlKey::Stop(Scope::All), Some(STOPPED)).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let event = events.next().await.unwrap();
        told.push((event.entity, event.verb, event.data.as_str().to_owned()));
    }
    let paused = r#"{"workflow":"w","clocks":"run","by":"me","reason":"why not"}"#;
    assert_eq!(
        told,
        [
            ("workflow", "paused", paused.to_owned()),
            ("workflow", "resumed", r#"{"workflow":"w"}"#.to_owned()),
            ("engine", "stopped", "{}".to_owned()),
        ]
    );
}

/// Workflows that `subworkflow` nodes start are not in the scope of their parent: what began there would run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_goes_on_under_a_pause_begins_no_child() {
    let directory = tempfile::tempdir().unwrap();
    let calls: Arc<AtomicU32> = Arc::default();
    let count = Arc::clone(&calls);
    let executors = builtins().handler("once", move |_: HandlerCall| {
        let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if is_first {
                Err(HandlerError::new("E1", "not yet"))
            } else {
                Ok(Json::from_trusted("1"))
            }
        }
    });
    let world = on_store(store(directory.path(), 1), executors, EngineOptions::default()).await;
    let mut other = chain("other", 1, "once");
    other["nodes"][0]["data"]["retryPolicy"] = json!({"maxAttempts": 1});
    world.apply(other).await;
    let child = json!({"id": "n", "type": "subworkflow", "data": {"workflowId": "other"}});
    world
        .apply(json!({"id": "w", "name": "w", "version": 1, "nodes": [child], "edges": []}))
        .await;
    let id = world.start("w", json!({})).await;
    assert_eq!(world.ended(id).await.state.status, Status::Failed);
    let pause = ControlKey::Pause(workflow("w"));
    set(&world, &pause, Some(PAUSED)).await;
    let retry = ReopenRequest {
        nodes: Vec::new(),
        remedy: Remedy::Retry,
        dry_run: false,
    };
    world.engine.reopen(id, retry, Command::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1, "no child began");
    let history = world.engine.history(id, Seq(0), 1_000).await.unwrap();
    let Some(Event::Reopened(reopened)) = history.last().map(|entry| &entry.event) else {
        panic!("something followed: {:?}", history.last());
    };
    assert!(reopened.controls.as_ref().is_some_and(|seen| seen.whole));
    set(&world, &pause, None).await;
    all_complete(&world, &[id]).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

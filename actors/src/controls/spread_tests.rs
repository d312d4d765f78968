//! A command that reached only some shards: it shows, and repeating it or starting again completes it. One that comes again late changes
//! nothing.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use troupe_core::Timestamp;
use troupe_core::control::{Clocks, ControlKey, Scope, Setting};

use super::machine::{ControlRequest, Origin};
use super::spread::{served, tell};
use crate::support::{World, builtins, on_store, store};
use crate::{Command, EngineOptions};

const PAUSED: Option<Setting> = Some(Setting::Paused { clocks: Clocks::Run });

fn key() -> ControlKey {
    ControlKey::Pause(Scope::Workflow("w".into()))
}

async fn reach(world: &World, shards: std::ops::Range<usize>, at: i64, command: &str, setting: Option<Setting>) {
    let context = &world.engine.context;
    for shard in &served(context)[shards] {
        let request = ControlRequest {
            at: Timestamp(at),
            key: key(),
            setting,
            command: command.into(),
            principal: Some("me".into()),
            reason: None,
        };
        tell(shard, request, Origin::Command).await.unwrap();
    }
}

fn spread(world: &World) -> Option<(u16, u16)> {
    let controls = world.engine.controls();
    controls.first().map(|control| (control.shards, control.shards_all))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reached_some_shards_shows_and_is_completed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let world = on_store(store.clone(), builtins(), EngineOptions::default()).await;
    reach(&world, 0..2, 1_000, "c1", PAUSED).await;
    assert_eq!(spread(&world), Some((2, 4)), "it shows that it is in half of them");
    let repeated = Command {
        command: Some("c1".into()),
        ..Command::default()
    };
    let outcome = world.engine.control(key(), PAUSED, repeated).await.unwrap();
    assert_eq!((outcome.unchanged, outcome.shards), (false, 4));
    assert_eq!(spread(&world), Some((4, 4)));
    assert_eq!(world.engine.controls()[0].at, Timestamp(1_000), "the same command");

    // Lifted in one shard when the engine dies: the later word counts in all of them.
    reach(&world, 3..4, 2_000, "c2", None).await;
    world.engine.crash().await;
    let world = on_store(store.clone(), builtins(), EngineOptions::default()).await;
    assert_eq!(spread(&world), None);
    let lifted = |world: &World| {
        let sets = served(&world.engine.context)
            .into_iter()
            .map(|shard| shard.controls.set());
        sets.filter(|set| {
            set.register(&key())
                .is_some_and(|register| register.command.as_str() == "c2")
        })
        .count()
    };
    assert_eq!(lifted(&world), 4);
    // An older command that comes late changes nothing.
    reach(&world, 0..4, 1_500, "c3", PAUSED).await;
    assert_eq!(spread(&world), None);
    world.engine.shutdown(Duration::ZERO).await;
}

/// Later than any clock here: when somebody plans a command who had looked before it was given to another one.
const MUCH_LATER: i64 = 1_000_000_000_000_000;

/// Whether it changed nothing, and whether the control is in force.
async fn given(world: &World, command: &str, setting: Option<Setting>) -> (bool, bool) {
    let command = Command {
        command: Some(command.into()),
        ..Command::default()
    };
    let outcome = world.engine.control(key(), setting, command).await.unwrap();
    (outcome.unchanged, outcome.in_force)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_once_undoes_nothing_when_it_comes_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 4);
    let world = on_store(store.clone(), builtins(), EngineOptions::default()).await;
    // It lifts nothing, and is acknowledged: a pause that comes after it stays.
    assert_eq!(given(&world, "lift", None).await, (true, false));
    assert_eq!(given(&world, "pause", PAUSED).await, (false, true));
    reach(&world, 0..4, MUCH_LATER, "lift", None).await;
    assert_eq!(given(&world, "lift", None).await, (true, true), "the later one stands");
    assert_eq!(spread(&world), Some((4, 4)));
    // It pauses what is paused, and is acknowledged: once lifted it stays so.
    assert_eq!(given(&world, "again", PAUSED).await, (true, true));
    assert_eq!(given(&world, "resume", None).await, (false, false));
    world.engine.crash().await;
    let world = on_store(store.clone(), builtins(), EngineOptions::default()).await;
    reach(&world, 0..4, MUCH_LATER, "again", PAUSED).await;
    assert_eq!(given(&world, "again", PAUSED).await, (true, false));
    assert_eq!(spread(&world), None);
    world.engine.shutdown(Duration::ZERO).await;
}

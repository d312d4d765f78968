//! How long what has ended is kept: what completed as one setting of its workflow says, what failed or was canceled as the other.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{World, builtins, chain, on_store, store, until};
use troupe_actors::{Command, EngineOptions};
use troupe_backends::embedded::EmbeddedStore;
use troupe_core::{ExecutionId, Timestamp};
use troupe_executors::{ExecutorsBuilder, HandlerCall, HandlerError};
use troupe_ports::{Archive, ExecutionBase, StateStore};

const HOUR_MS: u64 = 3_600_000;
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);

/// When executions become archives.
#[derive(Clone, Copy, Debug)]
enum Archived {
    /// As they end.
    AtOnce,
    /// By the next engine, which finds their entries in the log and nothing else.
    AfterACrash,
}

impl Archived {
    /// Of an engine that forgets nobody.
    fn options(self) -> EngineOptions {
        EngineOptions {
            expire_every: NEVER,
            checkpoint_interval: match self {
                Self::AtOnce => Duration::from_millis(5),
                Self::AfterACrash => NEVER,
            },
            ..EngineOptions::default()
        }
    }
}

struct EndedOne {
    how: &'static str,
    id: ExecutionId,
    at: Timestamp,
}

/// `told` does what its input says: it completes, fails, or runs until it is canceled.
fn executors() -> ExecutorsBuilder {
    builtins().handler("told", |call: HandlerCall| async move {
        let told = call.input_json()?.clone();
        match told.as_str() {
            "\"completed\"" => Ok(told),
            "\"failed\"" => Err(HandlerError::new("TOLD", "it was told to fail").not_retryable()),
            _ => {
                call.cancel.cancelled().await;
                Err(HandlerError::new("CANCELED", "it was canceled"))
            }
        }
    })
}

async fn one_of_each(world: &World) -> Vec<EndedOne> {
    let mut ended = Vec::new();
    for how in ["completed", "failed", "canceled"] {
        let id = world.start("w", json!(how)).await;
        if how == "canceled" {
            world.engine.cancel(id, Command::default()).await.unwrap();
        }
        let state = world.ended(id).await.state;
        assert_eq!(state.status.name(), how);
        let at = state.ended_at.unwrap();
        ended.push(EndedOne { how, id, at });
    }
    ended
}

async fn archive(store: &EmbeddedStore, id: ExecutionId) -> Option<Archive> {
    match store.load(id).await.unwrap() {
        Some(ExecutionBase::Ended(archive, _)) => Some(archive),
        Some(ExecutionBase::Live { .. } | ExecutionBase::Tombstone { .. }) | None => None,
    }
}

/// Of three executions that ended each in its way, `kept` are kept for an hour, and the others go at once.
async fn only_these_are_kept(retention: serde_json::Value, kept: &[&str], archived: Archived) {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), 2);
    let world = on_store(store.clone(), executors(), archived.options()).await;
    let mut definition = chain("w", 1, "told");
    definition["settings"] = json!({"retention": retention});
    world.apply(definition).await;
    let (kept, gone): (Vec<_>, Vec<_>) = one_of_each(&world)
        .await
        .into_iter()
        .partition(|one| kept.contains(&one.how));
    let stays_ms = async |one: &EndedOne| {
        until("it is archived", async || archive(&store, one.id).await.is_some()).await;
        archive(&store, one.id).await.unwrap().expires_at.since_ms(one.at)
    };
    match archived {
        Archived::AtOnce => {
            for one in &gone {
                assert_eq!(stays_ms(one).await, 0, "{}", one.how);
            }
            for one in &kept {
                assert_eq!(stays_ms(one).await, HOUR_MS, "{}", one.how);
            }
            world.engine.shutdown(Duration::from_secs(5)).await;
        }
        Archived::AfterACrash => {
            for one in gone.iter().chain(&kept) {
                assert!(store.load(one.id).await.unwrap().is_none(), "{}", one.how);
            }
            world.engine.crash().await;
        }
    }

    let forgets = EngineOptions {
        expire_every: Duration::from_millis(50),
        checkpoint_interval: Duration::from_millis(5),
        ..EngineOptions::default()
    };
    let world = on_store(store.clone(), executors(), forgets).await;
    for one in &gone {
        let is_gone =
            async || matches!(world.engine.get(one.id).await, Err(error) if error.code() == "EXECUTION_NOT_FOUND");
        until("its archive goes", is_gone).await;
    }
    for one in &kept {
        assert_eq!(stays_ms(one).await, HOUR_MS, "{}", one.how);
        let view = world.engine.get(one.id).await.unwrap();
        assert_eq!(view.state.status.name(), one.how);
    }
    world.engine.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_completed_goes_and_what_did_not_is_kept() {
    let retention = json!({"completedMs": 0, "failedMs": HOUR_MS});
    for archived in [Archived::AtOnce, Archived::AfterACrash] {
        only_these_are_kept(retention.clone(), &["failed", "canceled"], archived).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_complete_goes_and_what_did_is_kept() {
    let retention = json!({"completedMs": HOUR_MS, "failedMs": 0});
    for archived in [Archived::AtOnce, Archived::AfterACrash] {
        only_these_are_kept(retention.clone(), &["completed"], archived).await;
    }
}

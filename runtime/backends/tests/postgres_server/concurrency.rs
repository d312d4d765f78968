//! Several processes with one schema: each store has connections of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use troupe_backends::PostgresStore;
use troupe_core::{Epoch, LogPosition};
use troupe_ports::{DefinitionError, DefinitionStore, EpochAuthority, EpochError, ExecutionQuery, VisibilityStore};

use super::support::{Schema, run};
use super::{NOW, SHARD, analysis, definition, summary};

const REPLICAS: usize = 8;

/// What as many processes have open.
async fn replicas(schema: &Schema) -> Vec<Arc<PostgresStore>> {
    join_all((0..REPLICAS).map(|_| async { Arc::new(schema.open().await) })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_make_the_tables_once() {
    let schema = Schema::new();
    for store in replicas(&schema).await {
        assert_eq!(store.issued(SHARD).await.unwrap(), Epoch(0));
    }
    let mut connection = schema.connection().await;
    let applied: Vec<(i64,)> = sqlx::query_as("SELECT version FROM _sqlx_migrations ORDER BY version")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let versions: BTreeSet<_> = applied.iter().map(|(version,)| *version).collect();
    assert!(!applied.is_empty() && versions.len() == applied.len(), "{applied:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writers_in_several_processes_one_stores_each_version() {
    let schema = Schema::new();
    let stores = replicas(&schema).await;
    for latest in 0..6 {
        let answers = join_all(stores.iter().enumerate().map(|(writer, store)| {
            let definition = definition("orders", &format!("{latest} by {writer}"));
            store.put(definition, analysis(), Some(latest), NOW)
        }))
        .await;
        let (stored, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(stored.len(), 1, "{refused:?}");
        for answer in refused {
            assert!(
                matches!(answer, Err(DefinitionError::Conflict { latest: found }) if found == latest + 1),
                "got {answer:?}"
            );
        }
    }
    // Without an expectation all are stored, one after the other.
    let answers = join_all(stores.iter().enumerate().map(|(writer, store)| {
        let definition = definition("orders", &format!("unconditionally by {writer}"));
        store.put(definition, analysis(), None, NOW)
    }))
    .await;
    let versions: BTreeSet<_> = answers.into_iter().map(|answer| answer.unwrap().version).collect();
    assert_eq!(versions, (7..7 + REPLICAS as u32).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_candidates_in_several_processes_one_is_issued_each_epoch() {
    let schema = Schema::new();
    let stores = replicas(&schema).await;
    for after in 0..10 {
        let answers = join_all(stores.iter().map(|store| store.issue(SHARD, Epoch(after), "candidate"))).await;
        let (issued, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(issued.len(), 1, "{refused:?}");
        for answer in refused {
            assert!(
                matches!(answer, Err(EpochError::Conflict { latest }) if latest.0 == after + 1),
                "got {answer:?}"
            );
        }
        for store in &stores {
            assert_eq!(store.issued(SHARD).await.unwrap().0, after + 1, "everybody sees it");
        }
    }
}

/// A former owner may project beside the new one, in another order; retention may forget at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projections_of_the_same_executions_do_not_wait_for_each_other_for_ever() {
    let schema = Schema::new();
    let stores = replicas(&schema).await;
    let numbers = || 0..1_000_u64;
    for round in 1..=8 {
        let projections = stores.iter().enumerate().map(|(writer, store)| async move {
            let mut summaries: Vec<_> = numbers()
                .map(|number| summary(number, round * 10 + writer as u64))
                .collect();
            if writer % 2 == 1 {
                summaries.reverse();
            }
            // One batch may say something of an execution twice; the last word counts.
            summaries.push(summary(0, 1));
            store.project(SHARD, None, summaries, LogPosition(round)).await
        });
        let mut gone: Vec<_> = numbers().map(|number| summary(number, 1).id).collect();
        gone.reverse();
        let forgotten = async {
            for store in &stores[..4] {
                store.forget(SHARD, None, &gone).await.unwrap();
            }
        };
        let (projected, ()) = futures::join!(join_all(projections), forgotten);
        projected.into_iter().for_each(Result::unwrap);
    }
    let all = numbers().map(|number| summary(number, 99)).collect();
    stores[1].project(SHARD, None, all, LogPosition(9)).await.unwrap();
    let query = ExecutionQuery {
        limit: 1_000,
        ..ExecutionQuery::default()
    };
    let listed = VisibilityStore::list(&*stores[2], query).await.unwrap().items;
    let expected: Vec<_> = numbers().rev().map(|number| summary(number, 99)).collect();
    assert_eq!(listed, expected);
}

/// A lock that another session holds makes a call fail in time, and no other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_another_session_is_not_waited_for_for_ever() {
    let mut schema = Schema::new();
    schema.options.statement_timeout = std::time::Duration::from_secs(2);
    let store = schema.open().await;
    store
        .put(definition("orders", "first"), analysis(), None, NOW)
        .await
        .unwrap();
    let mut other = schema.connection().await;
    run(&mut other, "BEGIN; SELECT FROM workflow WHERE id = 'orders' FOR UPDATE").await;
    let waited = store.put(definition("orders", "second"), analysis(), None, NOW).await;
    assert!(
        matches!(&waited, Err(DefinitionError::Unavailable(why)) if why.contains("statement timeout")),
        "got {waited:?}"
    );
    store
        .put(definition("refunds", "first"), analysis(), None, NOW)
        .await
        .unwrap();
    assert_eq!(store.get("orders", None).await.unwrap().unwrap().version, 1);
    run(&mut other, "COMMIT").await;
    let stored = store.put(definition("orders", "second"), analysis(), None, NOW).await;
    assert_eq!(stored.unwrap().version, 2);
}

//! Searches over more rows than a page looks at, and what they must not hold up.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use futures::poll;
use tempfile::TempDir;
use troupe_core::ShardId;
use troupe_ports::{StateStore, VisibilityStore};

use super::*;
use crate::embedded::{EmbeddedStore, StoreOptions};

/// Three pages of a search.
const ROWS: usize = 2 * LOOKED_ROWS_MAX + 5_000;
/// The rows that are looked for, newest first.
const NEEDLES: [u128; 3] = [24_990, 12_000, 3];
const PARENT: [u8; 16] = [0xbb; 16];

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, &StoreOptions::default()).unwrap()
}

fn connection(directory: &TempDir) -> Connection {
    Connection::open(directory.path().join("store.db")).unwrap()
}

/// A store in which all rows are alike, but for the needles.
fn filled() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let [newest, middle, oldest] = NEEDLES;
    let sql = format!(
        "INSERT INTO summary
            (id, workflow, version, status, paused, started_ms, seq, execution_key, parent, tags, error_message)
         WITH RECURSIVE numbered (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbered WHERE i + 1 < {ROWS})
         SELECT unhex(printf('%032x', i)), 'orders', 1, 'failed', 0, i / 3, 1, 'key', unhex('{}'),
             iif(i IN ({newest}, {middle}, {oldest}), '[\"often\",\"seldom\"]', '[\"often\"]'),
             iif(i IN ({newest}, {middle}, {oldest}), 'A Needle', 'hay')
         FROM numbered",
        "bb".repeat(16)
    );
    connection(&directory).execute_batch(&sql).unwrap();
    directory
}

fn query(change: impl FnOnce(&mut ExecutionQuery)) -> ExecutionQuery {
    let mut query = ExecutionQuery {
        limit: 50,
        ..ExecutionQuery::default()
    };
    change(&mut query);
    query
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// What is found, whatever leads to it: by the index named here.
fn searches() -> Vec<(&'static str, ExecutionQuery)> {
    let needle = |change: fn(&mut ExecutionQuery)| {
        query(|query| {
            query.text = text("nEEDLE");
            change(query);
        })
    };
    let seldom = |change: fn(&mut ExecutionQuery)| {
        query(|query| {
            query.tag = text("seldom");
            change(query);
        })
    };
    vec![
        ("summary_started", needle(|_| {})),
        (
            "summary_started",
            needle(|query| query.id_prefix = text(&"0".repeat(8))),
        ),
        (
            "summary_started",
            needle(|query| query.started_until = Some(Timestamp(1 << 40))),
        ),
        ("summary_workflow", needle(|query| query.workflow_id = text("orders"))),
        ("summary_status", needle(|query| query.status = text("failed"))),
        (
            "summary_parent",
            needle(|query| query.parent = Some(ExecutionId(PARENT))),
        ),
        ("summary_key", needle(|query| query.execution_key = text("key"))),
        ("PRIMARY KEY", needle(|query| query.tag = text("often"))),
        ("summary_workflow", seldom(|query| query.workflow_id = text("orders"))),
        ("summary_status", seldom(|query| query.status = text("failed"))),
        (
            "summary_parent",
            seldom(|query| query.parent = Some(ExecutionId(PARENT))),
        ),
        ("summary_key", seldom(|query| query.execution_key = text("key"))),
    ]
}

/// Everything that is found, and in how many pages.
async fn all(store: &EmbeddedStore, mut query: ExecutionQuery) -> (Vec<u128>, usize) {
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = VisibilityStore::list(store, query.clone()).await.unwrap();
        found.extend(page.items.iter().map(|item| u128::from_be_bytes(item.id.0)));
        pages += 1;
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return (found, pages),
        }
    }
}

#[tokio::test]
async fn a_page_looks_at_so_many_rows_and_the_next_one_goes_on() {
    let directory = filled();
    let store = open(directory.path());
    for (_, query) in searches() {
        for limit in [1, 50] {
            let query = ExecutionQuery { limit, ..query.clone() };
            let (found, pages) = all(&store, query.clone()).await;
            assert_eq!(found, NEEDLES, "{query:?}");
            // A slow machine may look at fewer a page.
            assert!(pages >= 3, "{pages} pages: {query:?}");
        }
    }
    let in_vain = [
        query(|query| query.text = text("needles")),
        query(|query| {
            query.text = text("needle");
            query.status = text("completed");
        }),
        query(|query| {
            query.tag = text("often");
            query.status = text("completed");
        }),
    ];
    for query in in_vain {
        let page = VisibilityStore::list(&store, query.clone()).await.unwrap();
        assert!(page.items.is_empty() && page.next.is_some(), "{query:?}");
        let (found, pages) = all(&store, query.clone()).await;
        assert!(found.is_empty() && pages >= 3, "{pages} pages: {query:?}");
    }
    let (everything, _) = all(&store, query(|query| query.tag = text("often"))).await;
    assert_eq!(everything.len(), ROWS, "what an index leads to is read as always");
}

#[tokio::test]
async fn ids_that_many_begin_so_are_looked_for_and_few_are_found_at_once() {
    let directory = filled();
    // Newer ones, which begin otherwise.
    let others = LOOKED_ROWS_MAX + 2_000;
    let sql = format!(
        "INSERT INTO summary (id, workflow, version, status, paused, started_ms, seq)
         WITH RECURSIVE numbered (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbered WHERE i + 1 < {others})
         SELECT unhex('ffff' || printf('%028x', i)), 'orders', 1, 'failed', 0, {ROWS} + i, 1 FROM numbered"
    );
    connection(&directory).execute_batch(&sql).unwrap();
    let store = open(directory.path());
    let by_ids = |prefix: &str| {
        query(|query| {
            query.id_prefix = text(prefix);
            query.limit = 1_000;
        })
    };
    let of_workflow = |query: &ExecutionQuery| ExecutionQuery {
        workflow_id: text("orders"),
        ..query.clone()
    };
    let many = [by_ids("0"), by_ids(&"0".repeat(8)), of_workflow(&by_ids("0"))];
    for query in many {
        let page = VisibilityStore::list(&store, query.clone()).await.unwrap();
        assert!(page.items.is_empty() && page.next.is_some(), "{query:?}");
        let (found, pages) = all(&store, query.clone()).await;
        let expected: Vec<u128> = (0..ROWS as u128).rev().collect();
        assert!(found == expected && pages > ROWS / 1_000, "{pages} pages: {query:?}");
    }
    // The oldest ones, and what is not there: no page goes through the others to tell that.
    let few = [
        ("0".repeat(31), 16),
        ("0".repeat(32), 1),
        ("ab".to_owned(), 0),
        ("abcde".to_owned(), 0),
    ];
    for (prefix, rows) in few {
        for query in [by_ids(&prefix), of_workflow(&by_ids(&prefix))] {
            let expected: Vec<u128> = (0..rows).rev().collect();
            assert_eq!(all(&store, query.clone()).await, (expected, 1), "{query:?}");
        }
    }
    // More than a page has room for: it goes on behind the last one.
    let paged = ExecutionQuery {
        limit: 7,
        ..by_ids(&"0".repeat(31))
    };
    assert_eq!(all(&store, paged).await, ((0..16).rev().collect(), 3));
}

/// Each step is one row of one index: nothing is sorted first.
#[test]
fn a_search_steps_along_one_index() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let connection = connection(&directory);
    for (index, query) in searches() {
        let (sql, values) = statement(&query).unwrap();
        let plan: Vec<String> = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap()
            .query_map(params_from_iter(values), |row| row.get(3))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        assert!(plan[0].contains(index), "{index}: {plan:?}");
        assert!(
            !plan.iter().any(|step| step.contains("TEMP B-TREE")),
            "{index}: {plan:?}"
        );
    }
}

#[test]
fn a_search_that_nobody_waits_for_or_that_waited_for_too_long_is_given_up() {
    let directory = filled();
    let connection = connection(&directory);
    let query = query(|query| query.text = text("nothing"));
    let gone = Caller {
        asked: Instant::now(),
        is_gone: &|| true,
    };
    let page = search(&connection, &query, &gone).unwrap().unwrap();
    let newest = page.next.unwrap().id;
    assert_eq!(u128::from_be_bytes(newest.0), ROWS as u128 - 1, "it looked at one row");
    let late = Caller {
        asked: Instant::now()
            .checked_sub(TURN_WAIT_MAX + Duration::from_secs(1))
            .unwrap(),
        is_gone: &|| false,
    };
    let refused = search(&connection, &query, &late).unwrap();
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("narrow it")),
        "got {refused:?}"
    );
}

/// Loads and timers wait for no list, and no list that the engine asks for waits for a search.
#[tokio::test]
async fn what_people_ask_for_stands_before_nothing_that_the_engine_needs() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let by_text = query(|query| query.text = text("x"));
    let by_shard = query(|query| query.id_prefix = text("0000"));
    for (reader, waits) in [(&store.search_reader, &by_text), (&store.list_reader, &by_shard)] {
        let (free, held) = channel::<()>();
        let mut holder = pin!(reader.run(move |_| {
            held.recv().ok();
            Ok(Ok::<_, StoreError>(()))
        }));
        assert!(poll!(holder.as_mut()).is_pending());
        let mut asked = pin!(VisibilityStore::list(&store, waits.clone()));
        assert!(poll!(asked.as_mut()).is_pending());
        let engine = async {
            store.load(ExecutionId([0; 16])).await.unwrap();
            store.timers_due(ShardId(0), Timestamp(1), 1).await.unwrap();
            if waits.text.is_some() {
                VisibilityStore::list(&store, by_shard.clone()).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), engine)
            .await
            .expect("the engine is answered");
        assert!(poll!(asked.as_mut()).is_pending(), "{waits:?}");
        drop(free);
        holder.await.unwrap();
        asked.await.unwrap();
    }
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (free, held) = channel::<()>();
    let mut holder = pin!(store.search_reader.run(move |_| {
        held.recv().ok();
        Ok(Ok::<_, StoreError>(()))
    }));
    assert!(poll!(holder.as_mut()).is_pending());
    let was_read = Arc::new(AtomicBool::new(false));
    {
        let was_read = Arc::clone(&was_read);
        let mut left = pin!(store.search_reader.run(move |_| {
            was_read.store(true, Ordering::Release);
            Ok(Ok::<_, StoreError>(()))
        }));
        assert!(poll!(left.as_mut()).is_pending());
    }
    drop(free);
    holder.await.unwrap();
    // One thread: what was queued before has been looked at.
    store.search_reader.read(|_| Ok(())).await.unwrap();
    assert!(!was_read.load(Ordering::Acquire));
}

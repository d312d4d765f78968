//! What is particular to the embedded store; the rest is in the conformance suites.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use troupe_core::{Epoch, ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{
    AppendError, AuditLog, AuditQuery, CommitId, EpochAuthority, EpochError, ExecutionQuery, ExecutionSummary, Lease,
    StateStore, StoreError, VisibilityStore,
};

use super::{EmbeddedStore, Sharing, StoreOptions};

const SHARD: ShardId = ShardId(0);
const LEASE: Duration = Duration::from_secs(60);

fn open(directory: &Path, sharing: Sharing) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(
        directory,
        &StoreOptions {
            sharing,
            ..StoreOptions::default()
        },
    )
}

async fn append(
    store: &EmbeddedStore,
    lease: &Lease,
    position: u64,
    bytes: impl Into<Bytes>,
) -> Result<(), AppendError> {
    store
        .append(
            lease.shard,
            lease.epoch,
            LogPosition(position),
            CommitId(position.into()),
            bytes.into(),
        )
        .await
}

#[tokio::test]
async fn a_second_store_on_the_same_directory_is_refused_until_the_first_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), Sharing::Exclusive).unwrap();
    let lease = first.acquire(SHARD, "first", LEASE).await.unwrap();
    let second = open(directory.path(), Sharing::Exclusive);
    assert!(matches!(second, Err(StoreError::Held(_))), "got {second:?}");
    drop(first);
    // Whoever has the directory need not wait for leases of the dead.
    let second = open(directory.path(), Sharing::Exclusive).unwrap();
    assert!(second.acquire(SHARD, "second", LEASE).await.unwrap().epoch > lease.epoch);
}

#[tokio::test]
async fn a_caller_that_finds_the_log_idle_writes_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        // Without a sync a transaction is quick on any disk.
        mutant: Some(super::DurabilityMutant::SynchronousOff),
        ..StoreOptions::default()
    };
    let store = EmbeddedStore::open(directory.path(), &options).unwrap();
    let lease = store.acquire(SHARD, "owner", LEASE).await.unwrap();
    let mut at_once = 0;
    for position in 1..=200 {
        let mut appended = std::pin::pin!(append(&store, &lease, position, "x"));
        match futures::poll!(appended.as_mut()) {
            std::task::Poll::Ready(answer) => {
                answer.unwrap();
                at_once += 1;
            }
            std::task::Poll::Pending => appended.await.unwrap(),
        }
    }
    assert!(at_once > 100, "{at_once} of 200 appends were written by their caller");
    let records = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
    assert_eq!(records.len(), 200);
    // What was set while callers wrote is not left behind: the thread writes it.
    store
        .set_cursor(SHARD, lease.epoch, "sink", LogPosition(7))
        .await
        .unwrap();
    drop(store);
    let store = EmbeddedStore::open(directory.path(), &StoreOptions::default()).unwrap();
    assert_eq!(store.cursor(SHARD, "sink").await.unwrap(), LogPosition(7));
}

#[tokio::test]
async fn a_second_engine_on_the_same_files_fences_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let zombie = open(directory.path(), Sharing::Exclusive).unwrap();
    let old = zombie.acquire(SHARD, "zombie", LEASE).await.unwrap();
    append(&zombie, &old, 1, "one").await.unwrap();
    let patient = open(directory.path(), Sharing::Shared).unwrap();
    let held = patient.acquire(SHARD, "successor", LEASE).await;
    assert!(matches!(held, Err(StoreError::Held(_))), "got {held:?}");

    let successor = open(directory.path(), Sharing::TakeOver).unwrap();
    let new = successor.acquire(SHARD, "successor", LEASE).await.unwrap();
    assert_eq!((new.epoch.0, new.next), (old.epoch.0 + 1, LogPosition(2)));
    let late = append(&zombie, &old, 2, "late").await;
    assert!(
        matches!(late, Err(AppendError::Store(StoreError::Fenced { owner, .. })) if owner == new.epoch),
        "{late:?}"
    );
    let late = zombie.checkpoint(SHARD, old.epoch, vec![], Some(LogPosition(1))).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "got {late:?}");
    let late = zombie.renew(SHARD, old.epoch, LEASE).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "got {late:?}");
    // The zombie cannot know yet that this is in vain; the successor's view decides.
    zombie
        .set_cursor(SHARD, old.epoch, "events", LogPosition(1))
        .await
        .unwrap();
    drop(zombie);
    assert_eq!(successor.cursor(SHARD, "events").await.unwrap(), LogPosition(0));
    append(&successor, &new, 2, "two").await.unwrap();
    assert_eq!(
        successor.read(SHARD, LogPosition(1), usize::MAX).await.unwrap().len(),
        2
    );
}

#[tokio::test]
async fn a_failed_transaction_acknowledges_nothing_and_later_work_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Sharing::Exclusive).unwrap();
    let (full, free) = (
        store.acquire(SHARD, "a", LEASE).await.unwrap(),
        store.acquire(ShardId(1), "a", LEASE).await.unwrap(),
    );
    append(&store, &full, 1, "one").await.unwrap();
    let limit = |pages: u32| {
        store.log.run(move |log| {
            let pages: i64 = log.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get(0))?;
            Ok(Ok::<_, StoreError>(pages))
        })
    };
    limit(20).await.unwrap();
    // Queued at once: if both share a transaction, the small one fits, yet must not be acknowledged either.
    let (small, large) = tokio::join!(
        append(&store, &free, 1, "small"),
        append(&store, &full, 2, vec![0; 1 << 20])
    );
    assert!(
        matches!(large, Err(AppendError::Store(StoreError::Unavailable(_)))),
        "got {large:?}"
    );
    let found = store.read(ShardId(1), LogPosition(1), usize::MAX).await.unwrap().len();
    assert_eq!(found, usize::from(small.is_ok()), "acknowledged and found agree");
    assert_eq!(store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap().len(), 1);

    limit(1_000_000).await.unwrap();
    append(&store, &full, 2, vec![0; 1 << 20]).await.unwrap();
    if small.is_err() {
        append(&store, &free, 1, "small").await.unwrap();
    }
}

#[tokio::test]
async fn damage_between_the_files_is_told() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let damaged = |directory: &Path, part: &str| match open(directory, Sharing::Exclusive) {
        Err(StoreError::Damaged(why)) => assert!(why.contains(part), "{why}"),
        other => panic!("expected damage, got {other:?}"),
    };
    for directory in [&one, &two] {
        drop(open(directory.path(), Sharing::Exclusive).unwrap());
    }
    let kept = std::fs::read(one.path().join("log.db")).unwrap();
    std::fs::copy(two.path().join("log.db"), one.path().join("log.db")).unwrap();
    damaged(one.path(), "different stores");
    std::fs::remove_file(one.path().join("log.db")).unwrap();
    damaged(one.path(), "log.db is gone");
    std::fs::write(one.path().join("log.db"), vec![7; 8_192]).unwrap();
    damaged(one.path(), "not a database");

    // A log restored from an older copy no longer has what its checkpoint covers.
    std::fs::write(one.path().join("log.db"), kept).unwrap();
    let store = open(one.path(), Sharing::Exclusive).unwrap();
    let lease = store.acquire(SHARD, "a", LEASE).await.unwrap();
    append(&store, &lease, 1, "one").await.unwrap();
    let older = store.acquire(SHARD, "a", LEASE).await.unwrap();
    drop(store);
    let copy = std::fs::read(one.path().join("log.db")).unwrap();
    let store = open(one.path(), Sharing::Exclusive).unwrap();
    let lease = store.acquire(SHARD, "a", LEASE).await.unwrap();
    append(&store, &lease, older.next.0, "two").await.unwrap();
    store
        .checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(2)))
        .await
        .unwrap();
    drop(store);
    std::fs::write(one.path().join("log.db"), copy).unwrap();
    let store = open(one.path(), Sharing::Exclusive).unwrap();
    let back = store.acquire(SHARD, "a", LEASE).await;
    assert!(
        matches!(&back, Err(StoreError::Damaged(why)) if why.contains("went back")),
        "got {back:?}"
    );
}

/// As after a restore of one file: the log's is older than the other.
#[tokio::test]
async fn an_accepted_loss_goes_on_from_what_is_left_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log.db");
    let accepting = |accept_loss| {
        let options = StoreOptions {
            accept_loss,
            ..StoreOptions::default()
        };
        EmbeddedStore::open(directory.path(), &options).unwrap()
    };
    let went_back = |answer: Result<Lease, StoreError>| {
        let told = matches!(&answer, Err(StoreError::Damaged(why)) if why.contains("went back"));
        assert!(told, "got {answer:?}");
    };
    let store = accepting(vec![]);
    let lease = store.acquire(SHARD, "a", LEASE).await.unwrap();
    append(&store, &lease, 1, "one").await.unwrap();
    append(&store, &lease, 2, "two").await.unwrap();
    drop(store);
    let copy = std::fs::read(&log).unwrap();
    let store = accepting(vec![]);
    let mut lease = store.acquire(SHARD, "a", LEASE).await.unwrap();
    for position in 3..=4 {
        append(&store, &lease, position, "more").await.unwrap();
        lease = store.acquire(SHARD, "a", LEASE).await.unwrap();
    }
    let reached = Some(LogPosition(4));
    store.checkpoint(SHARD, lease.epoch, vec![], reached).await.unwrap();
    drop(store);
    std::fs::write(&log, copy).unwrap();
    let store = accepting(vec![ShardId(1)]);
    went_back(store.acquire(SHARD, "a", LEASE).await);
    drop(store);

    let store = accepting(vec![SHARD]);
    let back = store.acquire(SHARD, "a", LEASE).await.unwrap();
    assert!(back.epoch > lease.epoch, "{} after {}", back.epoch, lease.epoch);
    assert_eq!(
        (back.next, back.checkpointed, back.lost),
        (LogPosition(3), LogPosition(0), 2),
        "what is left of the log is applied again"
    );
    append(&store, &back, 3, "other").await.unwrap();
    let reached = Some(LogPosition(3));
    store.checkpoint(SHARD, back.epoch, vec![], reached).await.unwrap();
    drop(store);
    let store = accepting(vec![]);
    let again = store.acquire(SHARD, "a", LEASE).await.unwrap();
    assert_eq!(
        (again.next, again.checkpointed, again.lost),
        (LogPosition(4), LogPosition(3), 2),
        "lists may still lack what was lost"
    );
    let late = store.settle_loss(SHARD, back.epoch).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "got {late:?}");
    store.settle_loss(SHARD, again.epoch).await.unwrap();
    assert_eq!(store.acquire(SHARD, "a", LEASE).await.unwrap().lost, 0);
    drop(store);
    // What was trimmed without a checkpoint nobody can begin again from.
    let trimmed = "UPDATE shard SET trimmed = 7; DELETE FROM record";
    Connection::open(&log).unwrap().execute_batch(trimmed).unwrap();
    let store = accepting(vec![SHARD]);
    went_back(store.acquire(SHARD, "a", LEASE).await);
}

#[tokio::test]
async fn a_store_of_a_newer_release_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), Sharing::Exclusive).unwrap());
    Connection::open(directory.path().join("store.db"))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    match open(directory.path(), Sharing::Exclusive) {
        Err(StoreError::Damaged(why)) => assert!(why.contains("newer release"), "{why}"),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn the_number_of_shards_is_that_of_the_first_start() {
    let directory = tempfile::tempdir().unwrap();
    let shards = |shards| {
        EmbeddedStore::open(
            directory.path(),
            &StoreOptions {
                shards,
                ..StoreOptions::default()
            },
        )
    };
    assert_eq!(shards(7).unwrap().shards(), 7);
    assert_eq!(shards(99).unwrap().shards(), 7);
}

#[tokio::test]
async fn commits_are_shared_and_the_write_ahead_log_stays_short() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Sharing::Exclusive).unwrap();
    let mut leases = Vec::new();
    for shard in 0..store.shards() {
        leases.push(store.acquire(ShardId(shard), "a", LEASE).await.unwrap());
    }
    let before = store.counters();
    for position in 1..=100 {
        let appends = leases
            .iter()
            .map(|lease| append(&store, lease, position, vec![1; 4_000]));
        for appended in futures::future::join_all(appends).await {
            appended.unwrap();
        }
    }
    let after = store.counters();
    let (commits, appends) = (after.commits - before.commits, after.appends - before.appends);
    assert_eq!(appends, 3_200);
    assert!(commits * 4 <= appends, "{appends} appends took {commits} commits");
    assert!(after.fsyncs - before.fsyncs >= commits);
    // 3,200 records of 4 KB are 13 MB and more in frames; the limit of the WAL is 4 MB plus the transaction that passes it.
    let wal = std::fs::metadata(directory.path().join("log.db-wal")).unwrap().len();
    assert!(wal < 6 << 20, "the WAL has {wal} bytes");
}

#[tokio::test]
async fn the_epoch_in_force_is_the_one_that_was_issued() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Sharing::Exclusive).unwrap();
    let old = store.acquire(SHARD, "old", LEASE).await.unwrap();
    assert_eq!(store.issued(SHARD).await.unwrap(), old.epoch);
    let stale = store.issue(SHARD, Epoch(0), "new").await;
    assert!(
        matches!(stale, Err(EpochError::Conflict { latest }) if latest == old.epoch),
        "got {stale:?}"
    );
    append(&store, &old, 1, "one").await.unwrap();

    let issued = store.issue(SHARD, old.epoch, "new").await.unwrap();
    let late = append(&store, &old, 2, "late").await;
    assert!(
        matches!(late, Err(AppendError::Store(StoreError::Fenced { owner, .. })) if owner == issued),
        "{late:?}"
    );
    let late = store
        .set_quarantine(SHARD, old.epoch, troupe_core::ExecutionId([0; 16]), None)
        .await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    let again = store.acquire(SHARD, "old", LEASE).await.unwrap();
    assert_eq!((again.epoch.0, again.next), (issued.0 + 1, LogPosition(2)));
}

#[tokio::test]
async fn a_store_of_an_older_release_gets_what_it_lacks() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), Sharing::Exclusive).unwrap());
    let connection = Connection::open(directory.path().join("store.db")).unwrap();
    // As they were made before rows had an outcome.
    let older = "
        DROP TABLE api_key;
        ALTER TABLE shard DROP COLUMN lost;
        ALTER TABLE audit DROP COLUMN outcome;
        INSERT INTO audit (id, at_ms, principal, action, target_kind, target_id) VALUES (zeroblob(16), 1, 'ada', 'put', 'workflow', 'w')";
    connection.execute_batch(older).unwrap();
    drop(connection);
    let store = open(directory.path(), Sharing::Exclusive).unwrap();
    let query = AuditQuery {
        limit: 10,
        ..AuditQuery::default()
    };
    let page = AuditLog::list(&store, query).await.unwrap();
    let row = &page.items[0];
    assert_eq!((row.principal.as_deref(), row.outcome.as_deref()), (Some("ada"), None));
    assert_eq!(store.acquire(SHARD, "a", LEASE).await.unwrap().lost, 0);
    assert!(
        troupe_ports::ApiKeyStore::list(&store, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

/// What lists are searched by came later: rows of older releases are found by what they have, and one that comes back for a while
/// keeps what it does not know.
#[tokio::test]
async fn rows_of_older_releases_are_listed_and_searched() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), Sharing::Exclusive).unwrap());
    let old = |sql: &str| {
        let connection = Connection::open(directory.path().join("store.db")).unwrap();
        connection.execute_batch(sql).unwrap();
    };
    let insert = |digit: u8| {
        format!(
            "INSERT INTO summary (id, workflow, version, status, paused, started_ms, execution_key, seq)
             VALUES (x'{}', 'Orders', 1, 'running', 0, {digit}, 'Key', 1);",
            format!("{digit:02}").repeat(16)
        )
    };
    old(&format!(
        "DROP TRIGGER summary_tagged; DROP TRIGGER summary_untagged; DROP TRIGGER summary_retagged;
         DROP TABLE summary_tag; DROP INDEX summary_key; ALTER TABLE summary DROP COLUMN folded;
         ALTER TABLE summary DROP COLUMN error_message; ALTER TABLE summary DROP COLUMN tags;
         ALTER TABLE summary DROP COLUMN workflow_name; {}",
        insert(1)
    ));
    let row = |digit: u8, tags: &[&str]| ExecutionSummary {
        id: ExecutionId([digit; 16]),
        workflow_id: "Orders".to_owned(),
        version: 1,
        status: "running".to_owned(),
        paused: false,
        started_at: Timestamp(i64::from(digit)),
        ended_at: None,
        error_code: None,
        error_message: None,
        execution_key: Some("Key".to_owned()),
        workflow_name: String::new(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        parent: None,
        seq: Seq(1),
    };
    let found = async |query: ExecutionQuery| {
        let store = open(directory.path(), Sharing::Exclusive).unwrap();
        let query = ExecutionQuery { limit: 10, ..query };
        VisibilityStore::list(&store, query).await.unwrap().items
    };
    let everything = ExecutionQuery::default;
    let with_tag = || ExecutionQuery {
        tag: Some("a".to_owned()),
        ..everything()
    };
    assert_eq!(found(everything()).await, [row(1, &[])]);
    let with_text = ExecutionQuery {
        text: Some("oRDERS".to_owned()),
        ..everything()
    };
    let with_key = ExecutionQuery {
        execution_key: Some("Key".to_owned()),
        ..everything()
    };
    for query in [with_text, with_key] {
        assert_eq!(found(query).await, [row(1, &[])]);
    }
    let store = open(directory.path(), Sharing::Exclusive).unwrap();
    let rows = vec![row(2, &["a", "b"]), row(3, &["a"])];
    store.project(SHARD, None, rows, LogPosition(1)).await.unwrap();
    drop(store);
    assert_eq!(found(with_tag()).await, [row(3, &["a"]), row(2, &["a", "b"])]);
    old(&format!(
        "{} UPDATE summary SET seq = 2 WHERE started_ms = 2; DELETE FROM summary WHERE started_ms = 3;",
        insert(4)
    ));
    let updated = ExecutionSummary {
        seq: Seq(2),
        ..row(2, &["a", "b"])
    };
    assert_eq!(found(with_tag()).await, std::slice::from_ref(&updated));
    assert_eq!(found(everything()).await, [row(4, &[]), updated, row(1, &[])]);
    let connection = Connection::open(directory.path().join("store.db")).unwrap();
    let tags: i64 = connection
        .query_row("SELECT count(*) FROM summary_tag", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tags, 2, "nothing is left of what was removed");
}

//! The store on Redis when the server crashes, stalls, is emptied or comes back older than it was.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::redis::{RedisServer, opened, options};
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, Seq, ShardId, StateFormat, Timestamp};
use troupe_ports::{
    AppendError, BlobsPut, CheckpointRow, CommitId, ExecutionBase, Lease, LogEnd, StateStore, StoreError, Wait,
};

const SHARD: ShardId = ShardId(3);
const LEASE: Duration = Duration::from_secs(60);

fn content(position: u64) -> Bytes {
    Bytes::from(format!("record {position} ").repeat(1 + position as usize % 50))
}

async fn append(store: &RedisStore, lease: &Lease, position: u64) -> Result<(), AppendError> {
    let commit = CommitId(position.into());
    let at = LogPosition(position);
    store
        .append(lease.shard, lease.epoch, at, commit, content(position))
        .await
}

fn execution(shard: ShardId, position: u64) -> ExecutionId {
    ExecutionId::fresh(shard, Timestamp(1), position)
}

fn row(position: u64) -> CheckpointRow {
    row_of(SHARD, position)
}

fn row_of(shard: ShardId, position: u64) -> CheckpointRow {
    CheckpointRow::Live {
        id: execution(shard, position),
        first: Seq(1),
        last: Seq(1),
        segment: content(position),
        snapshot: None,
        wait: Wait::Running,
    }
}

fn is_damaged<T: std::fmt::Debug>(result: Result<T, StoreError>, part: &str) {
    match result {
        Err(StoreError::Damaged(why)) => assert!(why.contains(part), "{why}"),
        other => panic!("expected damage, got {other:?}"),
    }
}

fn is_fenced<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Fenced { .. })), "got {result:?}");
}

/// What comes of a call once a server that was started again takes it.
async fn answered<T>(mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let started = Instant::now();
    loop {
        match call().await {
            Err(StoreError::Unavailable(_)) if started.elapsed() < Duration::from_secs(10) => {}
            other => return other,
        }
    }
}

/// Appends, checkpoints and trims until the server goes away; the last position that was acknowledged, and those of the
/// checkpoints that were.
async fn write_until_it_fails(store: Arc<RedisStore>, lease: Lease) -> (u64, Vec<u64>) {
    let mut checkpointed = Vec::new();
    for position in lease.next.0.. {
        match append(&store, &lease, position).await {
            Ok(()) => {}
            Err(AppendError::Store(StoreError::Unavailable(_))) => return (position - 1, checkpointed),
            Err(other) => panic!("an append fails with {other}"),
        }
        if position % 25 == 0 {
            let reached = Some(LogPosition(position));
            let done = store.checkpoint(SHARD, lease.epoch, vec![row(position)], reached).await;
            let done = match done {
                Ok(()) => store.trim(SHARD, lease.epoch, LogPosition(position - 10)).await,
                failed => failed,
            };
            match done {
                Ok(()) => checkpointed.push(position),
                Err(StoreError::Unavailable(_)) => return (position, checkpointed),
                Err(other) => panic!("a checkpoint fails with {other}"),
            }
        }
    }
    unreachable!("the loop ends when the server goes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_killed_server() {
    let mut server = RedisServer::durable();
    let options = options(&server, RedisDurability::Strict);
    let store = Arc::new(RedisStore::open(&options).await.unwrap());
    let mut checkpointed = Vec::new();
    for _ in 0..3 {
        let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
        let (begun, before) = (Instant::now(), store.counters().appends);
        let writer = tokio::spawn(write_until_it_fails(Arc::clone(&store), lease));
        tokio::time::sleep(Duration::from_millis(400)).await;
        // A busy disk needs longer.
        while store.counters().appends < before + 60 && begun.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server.kill();
        let (acknowledged, more) = writer.await.unwrap();
        checkpointed.extend(more);
        assert!(acknowledged > lease.next.0 + 25, "it wrote something: {acknowledged}");
        server.run();

        // By another process, and by the one that was connected before.
        for store in [&Arc::new(RedisStore::open(&options).await.unwrap()), &store] {
            let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
            assert!(lease.next.0 > acknowledged, "{} after {acknowledged}", lease.next);
            assert!(lease.next.0 <= acknowledged + 2, "what was under way is one record");
            assert!(Some(&lease.checkpointed.0) >= checkpointed.last());
            let records = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
            assert!(records.last().unwrap().position.0 >= acknowledged);
            for record in &records {
                let at = record.position.0;
                assert_eq!((record.commit, &record.bytes), (CommitId(at.into()), &content(at)));
            }
            for position in &checkpointed {
                let id = ExecutionId::fresh(SHARD, Timestamp(1), *position);
                match store.load(id).await.unwrap() {
                    Some(ExecutionBase::Live { segments, .. }) => assert_eq!(segments[0].1, content(*position)),
                    other => panic!("what was checkpointed is not there: {other:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn an_append_without_an_answer_is_unknown_and_found_by_its_commit_id() {
    let server = RedisServer::durable();
    let options = RedisOptions {
        // Above what a busy disk takes.
        response_timeout: Duration::from_secs(2),
        ..options(&server, RedisDurability::Strict)
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    server.signal("STOP");
    let started = Instant::now();
    let unknown = append(&store, &lease, 2).await;
    assert!(
        matches!(&unknown, Err(AppendError::Store(StoreError::Unavailable(why))) if why.contains("unknown")),
        "got {unknown:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(8));
    server.signal("CONT");
    // What the stalled server had been sent it does now; whoever looks finds it.
    let tail = loop {
        match store.read(SHARD, LogPosition(1), usize::MAX).await {
            Ok(records) if records.len() == 2 => break records,
            Ok(_) | Err(StoreError::Unavailable(_)) if started.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => panic!("the record is not found: {other:?}"),
        }
    };
    assert_eq!(tail[1].commit, CommitId(2));
    let again = append(&store, &lease, 2).await;
    assert!(matches!(again, Err(AppendError::Conflict { next }) if next == LogPosition(3)));
    append(&store, &lease, 3).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_until_it_is() {
    let mut server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    server.kill();
    for _ in 0..5 {
        let refused = append(&store, &lease, 2).await;
        assert!(
            matches!(refused, Err(AppendError::Store(StoreError::Unavailable(_)))),
            "got {refused:?}"
        );
    }
    server.run();
    let started = Instant::now();
    while let Err(error) = append(&store, &lease, 2).await {
        assert!(started.elapsed() < Duration::from_secs(10), "{error}");
    }
    assert_eq!(store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_restored_copy_is_told_by_whoever_saw_more() {
    let mut server = RedisServer::durable();
    let (strict, relaxed) = (
        opened(&server, RedisDurability::Strict).await,
        opened(&server, RedisDurability::Relaxed).await,
    );
    let lease = strict.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&strict, &lease, 1).await.unwrap();
    let old = relaxed.acquire(ShardId(4), "writer", LEASE).await.unwrap();
    append(&relaxed, &old, 1).await.unwrap();
    let copy = server.copy_of_files();
    let lease = strict.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&strict, &lease, 2).await.unwrap();
    append(&relaxed, &old, 2).await.unwrap();
    server.kill();
    server.restore(&copy);
    server.run();

    // The copy knows an older epoch: nobody of the new time writes into it.
    let started = Instant::now();
    let late = loop {
        match append(&strict, &lease, 3).await {
            Err(AppendError::Store(StoreError::Unavailable(_))) if started.elapsed() < Duration::from_secs(10) => {}
            other => break other,
        }
    };
    assert!(
        matches!(&late, Err(AppendError::Store(StoreError::WentBack(why))) if why.contains("under epoch")),
        "got {late:?}"
    );
    // Nor does the copy give the forgotten epoch to somebody else.
    let fresh = opened(&server, RedisDurability::Strict).await;
    let new = fresh.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert!(new.epoch > lease.epoch, "{} after {}", new.epoch, lease.epoch);
    let late = append(&strict, &lease, new.next.0).await;
    assert!(
        matches!(late, Err(AppendError::Store(StoreError::Fenced { .. }))),
        "got {late:?}"
    );
    is_damaged(strict.acquire(SHARD, "writer", LEASE).await, "went back");
    is_damaged(strict.acquire(SHARD, "writer", LEASE).await, "went back");
    // Relaxed durability may lose it, and goes on where the store is, under an epoch that was never used.
    let new = relaxed.acquire(ShardId(4), "writer", LEASE).await.unwrap();
    assert_eq!(new.next, LogPosition(2));
    assert!(new.epoch > old.epoch);
    append(&relaxed, &new, 2).await.unwrap();
}

/// The log is all there, and nothing that is stored contradicts the next chunk: only the one before it is gone.
#[tokio::test]
async fn a_chunk_that_goes_on_from_a_lost_one_is_refused() {
    let mut server = RedisServer::durable();
    let (strict, relaxed) = (
        opened(&server, RedisDurability::Strict).await,
        opened(&server, RedisDurability::Relaxed).await,
    );
    let owners = [(&strict, SHARD), (&relaxed, ShardId(4))];
    let mut leases = Vec::new();
    for (store, shard) in owners {
        let lease = store.acquire(shard, "writer", LEASE).await.unwrap();
        for position in 1..=3 {
            append(store, &lease, position).await.unwrap();
        }
        let rows = vec![row_of(shard, 1)];
        store.checkpoint(shard, lease.epoch, rows, None).await.unwrap();
        leases.push(lease);
    }
    let copy = server.copy_of_files();
    for ((store, shard), lease) in owners.into_iter().zip(&leases) {
        let rows = vec![row_of(shard, 2)];
        store.checkpoint(shard, lease.epoch, rows, None).await.unwrap();
    }
    server.kill();
    server.restore(&copy);
    server.run();

    for ((store, shard), lease) in owners.into_iter().zip(&leases) {
        let next = async || {
            let rows = vec![row_of(shard, 3)];
            store.checkpoint(shard, lease.epoch, rows, Some(LogPosition(3))).await
        };
        let refused = answered(next).await;
        assert!(
            matches!(&refused, Err(StoreError::WentBack(why)) if why.contains("2 was acknowledged, and 1 is here")),
            "got {refused:?}"
        );
    }
    // The log has everything: that is written once more, whatever may be lost.
    for (store, shard) in owners {
        let lease = store.acquire(shard, "writer", LEASE).await.unwrap();
        assert_eq!(
            (lease.next, lease.checkpointed, lease.lost),
            (LogPosition(4), LogPosition(0), 0)
        );
        assert_eq!(store.load(execution(shard, 3)).await.unwrap(), None);
    }
    let shard = ShardId(4);
    let lease = relaxed.acquire(shard, "writer", LEASE).await.unwrap();
    for position in 1..=3 {
        let rows = vec![row_of(shard, position)];
        let reached = Some(LogPosition(position));
        relaxed.checkpoint(shard, lease.epoch, rows, reached).await.unwrap();
    }
    assert_eq!(relaxed.live_counts(shard).await.unwrap(), (3, 0));
}

fn went_back<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::WentBack(_))), "got {result:?}");
}

fn store_error(result: Result<(), AppendError>) -> Result<(), StoreError> {
    match result {
        Err(AppendError::Store(error)) => Err(error),
        other => panic!("expected an error of the store, got {other:?}"),
    }
}

/// As after a failover to a replica that lacks the last chunk, or the last large value, and none of the log.
async fn nothing_goes_on_from_what_is_lost(lost: impl AsyncFn(&RedisStore, &Lease)) {
    let mut server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    let rows = vec![row(1)];
    store.checkpoint(SHARD, lease.epoch, rows, None).await.unwrap();
    let copy = server.copy_of_files();
    lost(&store, &lease).await;
    server.kill();
    server.restore(&copy);
    server.run();

    let read = answered(async || store.load(execution(SHARD, 1)).await).await;
    assert!(
        matches!(read, Err(StoreError::WentBack(_))),
        "what is read may be old: {read:?}"
    );
    went_back(store.head(execution(SHARD, 1)).await);
    went_back(answered(async || store_error(append(&store, &lease, 2).await)).await);
    went_back(store.renew(SHARD, lease.epoch, LEASE).await);
    went_back(store.release(SHARD, lease.epoch).await);
    let value = |number: u8| {
        let content = Json::from_trusted(number.to_string());
        let blob = BlobRef {
            hash: [number; 32],
            bytes: content.bytes() as u64,
        };
        vec![(blob, content)]
    };
    let (root, now) = (execution(SHARD, 8), Timestamp(1));
    went_back(store.put_blobs(SHARD, lease.epoch, root, now, value(1), u64::MAX).await);
    let holder = store.holder(SHARD).await.unwrap();
    assert_eq!(holder.owner.as_deref(), Some("writer"), "it has what the store lacks");
    // Its owner gives it what it lacks, and begins again.
    let LogEnd { next, last } = store.take_back(SHARD, lease.epoch, "writer", LEASE).await.unwrap();
    assert_eq!((next, last), (LogPosition(2), Some(CommitId(1))));
    for number in 2..6 {
        let given = store.give_blobs_back(SHARD, lease.epoch, root, now, value(number), u64::MAX);
        assert_eq!(given.await.unwrap(), BlobsPut::Kept);
    }
    let given = store.give_back(SHARD, lease.epoch, next, CommitId(2), content(2)).await;
    given.unwrap();
    went_back(store_error(append(&store, &lease, 3).await));
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert_eq!(lease.next, LogPosition(3));
    append(&store, &lease, 3).await.unwrap();
    assert!(store.load(execution(SHARD, 1)).await.unwrap().is_some());
    store.release(SHARD, lease.epoch).await.unwrap();
}

#[tokio::test]
async fn nothing_goes_on_from_a_lost_chunk() {
    nothing_goes_on_from_what_is_lost(async |store, lease| {
        let rows = vec![row(2)];
        store.checkpoint(SHARD, lease.epoch, rows, None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn nothing_goes_on_from_a_lost_value() {
    nothing_goes_on_from_what_is_lost(async |store, lease| {
        let (blob, content) = (
            BlobRef {
                hash: [7; 32],
                bytes: 4,
            },
            Json::from_trusted("true"),
        );
        let root = execution(SHARD, 9);
        let values = vec![(blob, content)];
        let kept = store
            .put_blobs(SHARD, lease.epoch, root, Timestamp(1), values, u64::MAX)
            .await;
        assert_eq!(kept.unwrap(), BlobsPut::Kept);
    })
    .await;
}

/// A copy may say an older format than it holds something of.
#[tokio::test]
async fn nothing_goes_on_from_a_lost_format() {
    nothing_goes_on_from_what_is_lost(async |store, lease| {
        store.set_format(SHARD, lease.epoch, StateFormat(2)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn nothing_goes_on_from_what_was_written_anew_and_is_not() {
    nothing_goes_on_from_what_is_lost(async |store, lease| {
        let id = execution(SHARD, 1);
        let stored = store.load(id).await.unwrap().unwrap();
        assert!(store.rewrite(SHARD, lease.epoch, id, stored).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn nothing_goes_on_from_a_chunk_of_a_spool_that_was_written_anew_and_is_not() {
    nothing_goes_on_from_what_is_lost(async |store, lease| {
        let (up_to, chunk) = (LogPosition(1), Bytes::from_static(b"chunk"));
        let spooled = store.spool(SHARD, lease.epoch, "events", up_to, chunk.clone()).await;
        spooled.unwrap();
        let rewritten = store.rewrite_spool(SHARD, lease.epoch, "events", up_to, chunk).await;
        rewritten.unwrap();
    })
    .await;
}

/// A value that is kept once more is acknowledged once more: no answer says what another one said.
#[tokio::test]
async fn what_is_there_already_counts_too() {
    let server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    let (root, now) = (execution(SHARD, 9), Timestamp(1));
    let blob = BlobRef {
        hash: [7; 32],
        bytes: 4,
    };
    for bytes_max in [4, 4, 0] {
        let values = vec![(blob, Json::from_trusted("true"))];
        let kept = store.put_blobs(SHARD, lease.epoch, root, now, values, bytes_max).await;
        assert_eq!(kept.unwrap(), BlobsPut::Kept);
    }
    store.checkpoint(SHARD, lease.epoch, vec![row(1)], None).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
}

/// A failed release costs a lease; one of a log that lacks something would cost that. It is not given up because nobody answers.
#[tokio::test]
async fn a_shard_whose_log_lacks_a_record_is_not_released_however_slow_its_server_is() {
    let mut server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    let copy = server.copy_of_files();
    append(&store, &lease, 2).await.unwrap();
    server.kill();
    server.restore(&copy);
    server.run();
    answered(async || store.holder(SHARD).await).await.unwrap();
    server.command(&["CLIENT", "PAUSE", "500", "ALL"]);
    went_back(store.release(SHARD, lease.epoch).await);
    let holder = store.holder(SHARD).await.unwrap();
    assert_eq!(holder.owner.as_deref(), Some("writer"), "it has what the store lacks");
    let next = LogPosition(2);
    let given = store.give_back(SHARD, lease.epoch, next, CommitId(2), content(2)).await;
    given.unwrap();
    store.release(SHARD, lease.epoch).await.unwrap();
    assert_eq!(store.holder(SHARD).await.unwrap().owner, None);
}

/// As after a failover to a replica that does not know of the owner yet.
#[tokio::test]
async fn an_owner_that_the_store_has_forgotten_takes_its_shard_back() {
    let mut server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let before = store.acquire(SHARD, "before", LEASE).await.unwrap();
    append(&store, &before, 1).await.unwrap();
    store.release(SHARD, before.epoch).await.unwrap();
    let copy = server.copy_of_files();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 2).await.unwrap();
    server.kill();
    server.restore(&copy);
    server.run();

    went_back(answered(async || store_error(append(&store, &lease, 3).await)).await);
    went_back(store.renew(SHARD, lease.epoch, LEASE).await);
    let take = async |epoch| store.take_back(SHARD, epoch, "writer", LEASE).await;
    let next = take(lease.epoch).await.unwrap().next;
    assert_eq!(next, LogPosition(2));
    store
        .give_back(SHARD, lease.epoch, next, CommitId(2), content(2))
        .await
        .unwrap();
    append(&store, &lease, 3).await.unwrap();
    store.renew(SHARD, lease.epoch, LEASE).await.unwrap();
    let end = take(lease.epoch).await.unwrap();
    assert_eq!(end.next, LogPosition(4), "it changes nothing");
    is_fenced(take(before.epoch).await);
}

/// While the lease of an earlier owner holds, nobody takes the shard from it.
#[tokio::test]
async fn a_shard_that_somebody_holds_is_not_taken_back() {
    let server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let holder = store.acquire(SHARD, "holder", LEASE).await.unwrap();
    let later = Epoch(holder.epoch.0 + 1);
    let held = store.take_back(SHARD, later, "writer", LEASE).await;
    assert!(matches!(held, Err(StoreError::Held(_))), "got {held:?}");
    append(&store, &holder, 1).await.unwrap();
}

/// Nobody has heard that a record is durable but whoever found it there: that counts, too.
#[tokio::test]
async fn what_was_found_in_the_log_is_missed() {
    let mut server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    let copy = server.copy_of_files();
    // By somebody else, as whoever got no answer: this store has not heard of it.
    let other = opened(&server, RedisDurability::Strict).await;
    append(&other, &lease, 1).await.unwrap();
    assert_eq!(store.read(SHARD, LogPosition(1), 1).await.unwrap().len(), 1);
    server.kill();
    server.restore(&copy);
    server.run();
    went_back(answered(async || store.renew(SHARD, lease.epoch, LEASE).await).await);
    went_back(store.release(SHARD, lease.epoch).await);
}

/// A store that went back under cursors that were not written yet is acquired all the same, and what is lost is told.
#[tokio::test]
async fn cursors_of_a_later_epoch_keep_nobody_out() {
    let mut server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Relaxed).await;
    let before = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &before, 1).await.unwrap();
    let copy = server.copy_of_files();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    for at in [0, 1] {
        let moved = store.set_cursor(SHARD, lease.epoch, "events", LogPosition(at)).await;
        moved.unwrap();
    }
    server.kill();
    server.restore(&copy);
    server.run();
    let again = answered(async || store.acquire(SHARD, "writer", LEASE).await)
        .await
        .unwrap();
    assert!(again.epoch > lease.epoch);
}

#[tokio::test]
async fn a_checkpoint_reaches_no_further_than_its_log() {
    let server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    let reaches = async |reached| {
        let rows = vec![row(reached)];
        let reached = Some(LogPosition(reached));
        store.checkpoint(SHARD, lease.epoch, rows, reached).await
    };
    went_back(reaches(2).await);
    assert_eq!(store.load(execution(SHARD, 2)).await.unwrap(), None);
    reaches(1).await.unwrap();
}

#[tokio::test]
async fn a_spool_that_goes_on_from_a_lost_chunk_is_refused() {
    const EVENTS: &str = "events";
    let mut server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Relaxed).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    let spool = async |epoch, up_to| {
        let chunk = Bytes::from_static(b"chunk");
        store.spool(SHARD, epoch, EVENTS, LogPosition(up_to), chunk).await
    };
    let ends = async || {
        let extent = store.spool_extent(SHARD, EVENTS).await.unwrap();
        extent.iter().map(|(up_to, _)| up_to.0).collect::<Vec<_>>()
    };
    for position in 1..=4 {
        append(&store, &lease, position).await.unwrap();
    }
    let sent = store.set_cursor(SHARD, lease.epoch, EVENTS, LogPosition(0)).await;
    sent.unwrap();
    spool(lease.epoch, 1).await.unwrap();
    let copy = server.copy_of_files();
    spool(lease.epoch, 2).await.unwrap();
    server.kill();
    server.restore(&copy);
    server.run();
    let late = async || spool(lease.epoch, 3).await;
    let refused = answered(late).await;
    assert!(
        matches!(&refused, Err(StoreError::WentBack(why)) if why.contains("goes on from 2")),
        "got {refused:?}"
    );
    assert_eq!(ends().await, [1]);
    // What is sent is spooled no longer, and nothing is lost by that.
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    spool(lease.epoch, 3).await.unwrap();
    let sent = store.set_cursor(SHARD, lease.epoch, EVENTS, LogPosition(3)).await;
    sent.unwrap();
    spool(lease.epoch, 4).await.unwrap();
    assert_eq!(ends().await, [4]);
    // Nor by a sink that is configured no longer.
    store.keep_cursors(SHARD, lease.epoch, &[]).await.unwrap();
    spool(lease.epoch, 1).await.unwrap();
    assert_eq!(ends().await, [1]);
}

#[tokio::test]
async fn a_chunk_without_an_answer_is_repeated_and_gone_on_from() {
    let server = RedisServer::durable();
    let options = RedisOptions {
        response_timeout: Duration::from_secs(2),
        ..options(&server, RedisDurability::Strict)
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    server.signal("STOP");
    let unknown = store.checkpoint(SHARD, lease.epoch, vec![row(1)], None).await;
    assert!(
        matches!(&unknown, Err(StoreError::Unavailable(why)) if why.contains("unknown")),
        "got {unknown:?}"
    );
    server.signal("CONT");
    for position in [1, 2, 3] {
        let next = async || store.checkpoint(SHARD, lease.epoch, vec![row(position)], None).await;
        answered(next).await.unwrap();
    }
    assert_eq!(store.live_counts(SHARD).await.unwrap(), (3, 0));
    let again = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert!(again.epoch > lease.epoch, "nothing is missed");
}

/// As of an owner whose chunk was on its way while an older copy took the server's place.
#[tokio::test]
async fn a_spool_that_ends_beyond_the_log_stands_for_nothing() {
    const EVENTS: &str = "events";
    let mut server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Relaxed).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    let spool = async |epoch, up_to, chunk: &'static str| {
        let (up_to, chunk) = (LogPosition(up_to), Bytes::from_static(chunk.as_bytes()));
        store.spool(SHARD, epoch, EVENTS, up_to, chunk).await
    };
    let left_after_trimming = async |epoch| {
        let trim = async || store.trim(SHARD, epoch, LogPosition(9)).await;
        answered(trim).await.unwrap();
        let left = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
        left.iter().map(|record| record.position.0).collect::<Vec<_>>()
    };
    let extent = async || store.spool_extent(SHARD, EVENTS).await.unwrap();
    for position in 1..=3 {
        append(&store, &lease, position).await.unwrap();
    }
    let reached = Some(LogPosition(3));
    store.checkpoint(SHARD, lease.epoch, vec![], reached).await.unwrap();
    let sent = store.set_cursor(SHARD, lease.epoch, EVENTS, LogPosition(0)).await;
    sent.unwrap();
    spool(lease.epoch, 2, "two").await.unwrap();
    let copy = server.copy_of_files();
    for position in 4..=5 {
        append(&store, &lease, position).await.unwrap();
    }
    server.kill();
    server.restore(&copy);
    server.run();
    let late = async || spool(lease.epoch, 5, "five").await;
    answered(late).await.unwrap();
    assert_eq!(
        left_after_trimming(lease.epoch).await,
        [3],
        "what is left goes by the log"
    );

    let strict = opened(&server, RedisDurability::Strict).await;
    is_damaged(strict.acquire(SHARD, "writer", LEASE).await, "a spool ends at 5");
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert_eq!(lease.next, LogPosition(4));
    assert_eq!(extent().await, [(LogPosition(2), 3)]);
    for position in 4..=5 {
        append(&store, &lease, position).await.unwrap();
    }
    let reached = Some(LogPosition(5));
    store.checkpoint(SHARD, lease.epoch, vec![], reached).await.unwrap();
    assert_eq!(left_after_trimming(lease.epoch).await, [3, 4, 5]);
    spool(lease.epoch, 5, "other").await.unwrap();
    let chunks = store.spooled(SHARD, EVENTS, LogPosition(2), usize::MAX).await.unwrap();
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].bytes, "other", "of the records that came in their place");
    assert_eq!(left_after_trimming(lease.epoch).await, [] as [u64; 0]);
}

#[tokio::test]
async fn a_log_that_ends_before_what_relies_on_it_is_told() {
    let server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    let fields = ["{troupe:s3}o", "{troupe:s3}k"];
    let set = |key: &str, field: &str, value: &str| server.command(&["HSET", key, field, value]);
    for (key, field, back) in [(fields[0], "c", "0"), (fields[0], "t", "0"), (fields[1], "events", "0")] {
        set(key, field, "2");
        let fresh = opened(&server, RedisDurability::Strict).await;
        is_damaged(fresh.acquire(SHARD, "writer", LEASE).await, "went back");
        set(key, field, back);
    }
    let fresh = opened(&server, RedisDurability::Strict).await;
    assert!(fresh.acquire(SHARD, "writer", LEASE).await.is_ok());

    // Who may lose it, or was told to accept it, begins again from what is left.
    let accepting = RedisOptions {
        accept_loss: vec![SHARD],
        ..options(&server, RedisDurability::Strict)
    };
    set(fields[1], "events", "7");
    let relaxed = opened(&server, RedisDurability::Relaxed).await;
    let lease = relaxed.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert_eq!(lease.next, LogPosition(2));
    assert_eq!(
        relaxed.cursor(SHARD, "events").await.unwrap(),
        LogPosition(1),
        "what comes next is to be sent"
    );
    append(&relaxed, &lease, 2).await.unwrap();
    set(fields[0], "c", "9");
    relaxed.trim(SHARD, lease.epoch, LogPosition(9)).await.unwrap();
    let accepting = RedisStore::open(&accepting).await.unwrap();
    let lease = accepting.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert_eq!(
        (lease.next, lease.checkpointed, lease.lost),
        (LogPosition(3), LogPosition(0), 7),
        "what is left of the log is applied again"
    );
    let left = accepting.read(SHARD, LogPosition(1), 1_000).await.unwrap();
    assert_eq!(left.len(), 2, "sinks and lists may lack it");
    assert_eq!(
        accepting.cursor(SHARD, "events").await.unwrap(),
        LogPosition(1),
        "the second is to be sent"
    );
    append(&accepting, &lease, 3).await.unwrap();
    let again = accepting.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert_eq!(
        (again.next, again.lost),
        (LogPosition(4), 7),
        "lists may still lack what was lost"
    );
    is_fenced(accepting.settle_loss(SHARD, lease.epoch).await);
    accepting.settle_loss(SHARD, again.epoch).await.unwrap();
    let settled = accepting.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert_eq!(settled.lost, 0);
    let other = ShardId(4);
    set("{troupe:s4}o", "c", "2");
    is_damaged(accepting.acquire(other, "writer", LEASE).await, "went back");
    // What was trimmed without a checkpoint nobody can begin again from.
    set("{troupe:s4}o", "t", "3");
    is_damaged(relaxed.acquire(other, "writer", LEASE).await, "went back");
}

#[tokio::test]
async fn an_emptied_server_is_damage_and_nothing_is_made_anew() {
    let server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    server.command(&["FLUSHALL"]);
    match append(&store, &lease, 2).await {
        Err(AppendError::Store(error)) => is_damaged::<()>(Err(error), "not in Redis any more"),
        other => panic!("expected damage, got {other:?}"),
    }
    let id = ExecutionId::fresh(SHARD, Timestamp(1), 1);
    is_damaged(store.acquire(SHARD, "writer", LEASE).await, "not in Redis any more");
    is_damaged(store.renew(SHARD, lease.epoch, LEASE).await, "not in Redis any more");
    is_damaged(store.read(SHARD, LogPosition(1), 1_000).await, "not in Redis any more");
    is_damaged(store.load(id).await, "not in Redis any more");
    is_damaged(store.head(id).await, "not in Redis any more");
    let rows = vec![row(1)];
    let refused = store.checkpoint(SHARD, lease.epoch, rows, Some(LogPosition(1))).await;
    is_damaged(refused, "not in Redis any more");
    assert_eq!(server.command(&["DBSIZE"]), redis::Value::Int(0));

    // Another store in the same place is not ours.
    opened(&server, RedisDurability::Strict).await;
    is_damaged(store.acquire(SHARD, "writer", LEASE).await, "another store");
}

#[tokio::test]
async fn a_frozen_owner_is_fenced_after_its_lease() {
    let server = RedisServer::durable();
    let (frozen, successor) = (
        opened(&server, RedisDurability::Strict).await,
        opened(&server, RedisDurability::Strict).await,
    );
    let old = frozen
        .acquire(SHARD, "frozen", Duration::from_millis(300))
        .await
        .unwrap();
    append(&frozen, &old, 1).await.unwrap();
    let started = Instant::now();
    let new = loop {
        match successor.acquire(SHARD, "successor", LEASE).await {
            Ok(lease) => break lease,
            Err(StoreError::Held(_)) if started.elapsed() < Duration::from_secs(10) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("the lease does not expire: {error}"),
        }
    };
    assert_eq!(new.next, LogPosition(2));
    let late = append(&frozen, &old, 2).await;
    assert!(
        matches!(late, Err(AppendError::Store(StoreError::Fenced { owner, ours, .. })) if owner == new.epoch && ours == old.epoch),
        "got {late:?}"
    );
    let late = frozen.renew(SHARD, old.epoch, LEASE).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "got {late:?}");
    append(&successor, &new, 2).await.unwrap();
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    for position in 1..=5 {
        server.command(&["SCRIPT", "FLUSH"]);
        append(&store, &lease, position).await.unwrap();
    }
    assert_eq!(store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap().len(), 5);
}

/// Connections of appends live in the runtime that appends; one that ends takes them along.
#[test]
fn appends_go_on_in_another_runtime() {
    let server = RedisServer::durable();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let (store, lease) = first.block_on(async {
        let store = opened(&server, RedisDurability::Strict).await;
        let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
        append(&store, &lease, 1).await.unwrap();
        (store, lease)
    });
    drop(first);
    runtime().block_on(async {
        let begun = Instant::now();
        while let Err(error) = append(&store, &lease, 2).await {
            let passing = matches!(&error, AppendError::Store(StoreError::Unavailable(_)));
            assert!(passing && begun.elapsed() < Duration::from_secs(5), "{error:?}");
        }
        let records = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
        assert_eq!(records.len(), 2);
        store.renew(SHARD, lease.epoch, LEASE).await.unwrap();
    });
}

#[tokio::test]
async fn a_full_server_refuses_whole_chunks_and_is_not_damaged() {
    let server = RedisServer::start(&["appendonly yes", "appendfsync always"]);
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let refused = append(&store, &lease, 2).await;
    assert!(
        matches!(&refused, Err(AppendError::Store(StoreError::Unavailable(why))) if why.contains("memory")),
        "got {refused:?}"
    );
    let rows = (1..=20).map(row).collect();
    let refused = store.checkpoint(SHARD, lease.epoch, rows, Some(LogPosition(1))).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "got {refused:?}");
    assert_eq!(store.live_counts(SHARD).await.unwrap(), (0, 0));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    append(&store, &lease, 2).await.unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert_eq!((lease.next, lease.checkpointed), (LogPosition(3), LogPosition(0)));
}

#[tokio::test]
async fn a_key_of_another_type_is_damage() {
    let server = RedisServer::durable();
    let store = opened(&server, RedisDurability::Strict).await;
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    server.command(&["SET", "{troupe:s3}l", "no list"]);
    match append(&store, &lease, 1).await {
        Err(AppendError::Store(error)) => is_damaged::<()>(Err(error), "WRONGTYPE"),
        other => panic!("expected damage, got {other:?}"),
    }
}

#[tokio::test]
async fn cursors_that_were_not_written_at_once_go_with_what_comes_next() {
    let server = RedisServer::durable();
    let (store, other) = (
        opened(&server, RedisDurability::Strict).await,
        opened(&server, RedisDurability::Strict).await,
    );
    let mut lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    for position in 1..=40 {
        append(&store, &lease, position).await.unwrap();
    }
    let reached = Some(LogPosition(40));
    store.checkpoint(SHARD, lease.epoch, vec![], reached).await.unwrap();
    let set = async |epoch, to| {
        let set = store.set_cursor(SHARD, epoch, "events", LogPosition(to)).await;
        set.unwrap();
        assert_eq!(store.cursor(SHARD, "events").await.unwrap(), LogPosition(to));
    };
    let seen_elsewhere = async || other.cursor(SHARD, "events").await.unwrap().0;
    for next in ["renew", "trim", "acquire", "release"] {
        let from = seen_elsewhere().await;
        // Quick enough that not each of them is written.
        for to in from + 1..=from + 9 {
            set(lease.epoch, to).await;
        }
        match next {
            "renew" => drop(store.renew(SHARD, lease.epoch, LEASE).await.unwrap()),
            "trim" => store.trim(SHARD, lease.epoch, LogPosition(1)).await.unwrap(),
            "acquire" => lease = store.acquire(SHARD, "writer", LEASE).await.unwrap(),
            _ => store.release(SHARD, lease.epoch).await.unwrap(),
        }
        assert_eq!(seen_elsewhere().await, from + 9, "after {next}");
    }
}

/// Forwards to a server until it is told to swallow what comes on the connections that it has then.
struct Proxy {
    port: u16,
    to: Arc<AtomicU16>,
    swallowing: tokio::sync::watch::Sender<bool>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (swallowing, _) = tokio::sync::watch::channel(false);
        let told = swallowing.clone();
        let to = Arc::new(AtomicU16::new(to));
        let target = Arc::clone(&to);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut told = told.subscribe();
                // Only a later change concerns this connection.
                told.borrow_and_update();
                let to = target.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    tokio::select! {
                        biased;
                        _ = told.changed() => std::future::pending::<()>().await,
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    }
                });
            }
        });
        Self { port, to, swallowing }
    }

    /// Leads whoever comes now to another server.
    fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::SeqCst);
    }

    fn swallow(&self) {
        self.swallowing.send_replace(true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_swallows_everything_is_given_up() {
    // Without a disk, whose stalls would also be timeouts.
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port).await;
    let options = RedisOptions {
        url: format!("redis://127.0.0.1:{}", proxy.port),
        response_timeout: Duration::from_secs(2),
        ..options(&server, RedisDurability::Volatile)
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    for position in 2..5 {
        proxy.swallow();
        let unknown = append(&store, &lease, position).await;
        assert!(
            matches!(unknown, Err(AppendError::Store(StoreError::Unavailable(_)))),
            "got {unknown:?}"
        );
        append(&store, &lease, position).await.unwrap();
    }
}

#[test]
fn leases_are_renewed_from_a_runtime_without_sockets() {
    let mut server = RedisServer::durable();
    let full = tokio::runtime::Runtime::new().unwrap();
    let options = options(&server, RedisDurability::Strict);
    let store = full.block_on(RedisStore::open(&options)).unwrap();
    let lease = full.block_on(store.acquire(SHARD, "writer", LEASE)).unwrap();
    // As the engine's thread for leases has it; and what made the first connection is gone.
    full.shutdown_background();
    server.kill();
    server.run();
    let timed = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    timed.block_on(async {
        let started = Instant::now();
        while let Err(error) = store.renew(SHARD, lease.epoch, LEASE).await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            assert!(started.elapsed() < Duration::from_secs(10), "{error}");
        }
    });
}

/// A store after a failover to a replica that lacks its second and last record: its connections still lead to the server from before, which
/// takes itself for the master, and new ones to the other.
async fn failed_over(before: &RedisServer, promoted: &mut RedisServer) -> (Proxy, RedisStore, Lease) {
    let proxy = Proxy::start(before.port).await;
    let options = RedisOptions {
        url: format!("redis://127.0.0.1:{}", proxy.port),
        ..options(before, RedisDurability::Strict)
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    let copy = before.copy_of_files();
    append(&store, &lease, 2).await.unwrap();
    promoted.kill();
    promoted.restore(&copy);
    promoted.run();
    proxy.lead_to(promoted.port);
    (proxy, store, lease)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_lacks_is_told_and_given_over_new_connections() {
    let (before, mut promoted) = (RedisServer::durable(), RedisServer::durable());
    let (_proxy, store, lease) = failed_over(&before, &mut promoted).await;
    let end = store.take_back(SHARD, lease.epoch, "writer", LEASE).await.unwrap();
    let (next, last) = (LogPosition(2), Some(CommitId(1)));
    assert_eq!(end, LogEnd { next, last });
    let given = store.give_back(SHARD, lease.epoch, next, CommitId(2), content(2)).await;
    given.unwrap();
    assert_eq!(promoted.command(&["LLEN", "{troupe:s3}l"]), redis::Value::Int(2));
}

/// The server from before has every record: what it says of a release tells nothing of who serves the shard from now on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_is_released_over_new_connections() {
    let (before, mut promoted) = (RedisServer::durable(), RedisServer::durable());
    let (_proxy, store, lease) = failed_over(&before, &mut promoted).await;
    went_back(store.release(SHARD, lease.epoch).await);
    for server in [&before, &promoted] {
        let holder = opened(server, RedisDurability::Strict).await.holder(SHARD).await;
        assert_eq!(holder.unwrap().owner.as_deref(), Some("writer"));
    }
    let end = store.take_back(SHARD, lease.epoch, "writer", LEASE).await.unwrap();
    let given = store
        .give_back(SHARD, lease.epoch, end.next, CommitId(2), content(2))
        .await;
    given.unwrap();
    store.release(SHARD, lease.epoch).await.unwrap();
    let holder = opened(&promoted, RedisDurability::Strict).await.holder(SHARD).await;
    assert_eq!(holder.unwrap().owner, None);
}

/// The store has forgotten who came later, and a former owner goes on where it was.
#[tokio::test]
async fn a_record_of_a_former_owner_is_known_by_its_commit() {
    let mut server = RedisServer::durable();
    let (former, owner) = (
        opened(&server, RedisDurability::Strict).await,
        opened(&server, RedisDurability::Strict).await,
    );
    let old = former.acquire(SHARD, "writer", LEASE).await.unwrap();
    append(&former, &old, 1).await.unwrap();
    let copy = server.copy_of_files();
    let lease = owner.acquire(SHARD, "writer", LEASE).await.unwrap();
    for position in 2..=3 {
        append(&owner, &lease, position).await.unwrap();
    }
    server.kill();
    server.restore(&copy);
    server.run();
    let next = LogPosition(2);
    let late = async || {
        let appended = former.append(SHARD, old.epoch, next, CommitId(22), content(2)).await;
        appended.map_err(|error| match error {
            AppendError::Store(error) => error,
            AppendError::Conflict { next } => panic!("the log goes on at {next}"),
        })
    };
    answered(late).await.unwrap();
    let take = async || owner.take_back(SHARD, lease.epoch, "writer", LEASE).await;
    let (next, last) = (LogPosition(3), Some(CommitId(22)));
    assert_eq!(answered(take).await.unwrap(), LogEnd { next, last });
}

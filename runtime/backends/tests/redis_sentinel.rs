//! A master that Sentinel names, and the replica that takes over from it.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use redis::Value;
use support::redis::RedisServer;
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::{LogPosition, ShardId};
use troupe_ports::{AppendError, CommitId, InboxId, InboxLimits, InboxPush, Lease, StateStore, StoreError};

const SHARD: ShardId = ShardId(1);
const LEASE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);

async fn append(store: &RedisStore, lease: &Lease, position: u64) -> Result<(), AppendError> {
    let record = format!("record {position}").into();
    store
        .append(
            SHARD,
            lease.epoch,
            LogPosition(position),
            CommitId(position.into()),
            record,
        )
        .await
}

/// A number of what a server tells of its replication.
fn field(server: &RedisServer, name: &str) -> Option<u64> {
    let info = text_of(server.command(&["INFO", "replication"]));
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok();
    info.lines().find_map(of)
}

/// How far a replica has come, once it follows its master.
fn replicated(replica: &RedisServer) -> Option<u64> {
    let info = text_of(replica.command(&["INFO", "replication"]));
    info.contains("master_link_status:up").then_some(())?;
    field(replica, "slave_repl_offset")
}

fn text_of(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
        Value::VerbatimString { text, .. } => text,
        other => panic!("no text: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_over_with_the_log_and_its_fences() {
    let durable = ["appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0"];
    let mut master = RedisServer::start(&durable);
    let follows = format!("replicaof 127.0.0.1 {}", master.port);
    let replica = RedisServer::start(&[&durable[..], &[&follows]].concat());
    let sentinel = RedisServer::sentinel(master.port, 1);
    let started = Instant::now();
    // `WAIT` counts what its own connection wrote, and takes a replica that still loads for one that follows.
    while replicated(&replica).is_none() {
        assert!(started.elapsed() < PATIENCE, "the replica does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let options = RedisOptions {
        shards: 4,
        durability: RedisDurability::Strict,
        ..RedisOptions::new(format!(
            "redis+sentinel://127.0.0.1:{},127.0.0.1:{}/master",
            support::free_port(),
            sentinel.port
        ))
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    for position in 1..=20 {
        append(&store, &lease, position).await.unwrap();
    }
    let most = InboxLimits { items: 1, bytes: 100 };
    let pushed = store.inbox_push(SHARD, InboxId([1; 32]), "kept".into(), most).await;
    assert_eq!(pushed.unwrap(), InboxPush::Kept);
    let written = field(&master, "master_repl_offset").unwrap();
    let started = Instant::now();
    while replicated(&replica).is_none_or(|offset| offset < written) {
        assert!(started.elapsed() < PATIENCE, "the replica lags");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Sentinel must know the replica before it can promote it.
    let started = Instant::now();
    while !format!("{:?}", sentinel.command(&["SENTINEL", "REPLICAS", "master"])).contains(&replica.port.to_string()) {
        assert!(started.elapsed() < PATIENCE, "Sentinel does not see the replica");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    master.kill();

    // The owner goes on, on the other server, without knowing where it is.
    let started = Instant::now();
    loop {
        match append(&store, &lease, 21).await {
            Ok(()) => break,
            Err(AppendError::Conflict { next: LogPosition(22) }) => break,
            Err(AppendError::Store(StoreError::Unavailable(_))) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => panic!("the append fails with {other:?}"),
        }
    }
    let records = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
    let commits: Vec<_> = records.iter().map(|record| record.commit.0).collect();
    assert_eq!(commits, (1..=21).collect::<Vec<_>>());
    let inbox = store.inbox_read(SHARD, 0, usize::MAX).await.unwrap();
    assert_eq!(inbox.iter().map(|item| &item.bytes[..]).collect::<Vec<_>>(), [b"kept"]);
    let pushed = store.inbox_push(SHARD, InboxId([2; 32]), "more".into(), most).await;
    assert_eq!(pushed.unwrap(), InboxPush::Full);
    let role = replica.command(&["ROLE"]);
    assert!(format!("{role:?}").contains("master"), "{role:?}");
    // And the fence has moved with it.
    let other = RedisStore::open(&options).await.unwrap();
    let held = other.acquire(SHARD, "other", LEASE).await;
    assert!(matches!(held, Err(StoreError::Held(_))), "got {held:?}");
    let new = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    assert!(new.epoch > lease.epoch);
    let late = append(&other, &lease, 22).await;
    assert!(
        matches!(late, Err(AppendError::Store(StoreError::Fenced { .. }))),
        "got {late:?}"
    );
}

#[tokio::test]
async fn a_master_that_no_sentinel_knows_is_told() {
    let master = RedisServer::durable();
    let sentinel = RedisServer::sentinel(master.port, 1);
    let options = RedisOptions::new(format!("redis+sentinel://127.0.0.1:{}/nobody", sentinel.port));
    let error = RedisStore::open(&options).await.unwrap_err();
    assert!(error.is_passing());
    assert!(error.to_string().contains("nobody"), "{error}");
}

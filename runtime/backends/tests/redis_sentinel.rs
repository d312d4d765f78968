//! A master that Sentinel names, and the replica that takes over from it: every suite before and after, and an owner that goes on.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;
use support::redis::{RedisServer, clauses_of_redis, fixture_of_redis};
use support::unique;
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::{LogPosition, ShardId};
use troupe_ports::conformance::{Clause, run_all};
use troupe_ports::{AppendError, CommitId, InboxId, InboxLimits, InboxPush, Lease, StateStore, StoreError};

const SHARD: ShardId = ShardId(1);
const LEASE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);

/// A master, a replica of it, and who watches them.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinel: RedisServer,
}

impl Watched {
    async fn start() -> Self {
        let durable = ["appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0"];
        let master = RedisServer::start(&durable);
        let follows = format!("replicaof 127.0.0.1 {}", master.port);
        let replica = RedisServer::start(&[&durable[..], &[&follows]].concat());
        let sentinel = RedisServer::sentinel(master.port, 1);
        // `WAIT` counts what its own connection wrote, and takes a replica that still loads for one that follows.
        until("the replica follows", || replicated(&replica).is_some()).await;
        Self {
            master,
            replica,
            sentinel,
        }
    }

    /// Options of a store on whichever of them is the master. The first Sentinel of the URL does not run.
    fn options(&self, prefix: &str) -> RedisOptions {
        RedisOptions {
            prefix: prefix.to_owned(),
            shards: 8,
            durability: RedisDurability::Strict,
            ..RedisOptions::new(format!(
                "redis+sentinel://127.0.0.1:{},127.0.0.1:{}/master",
                support::free_port(),
                self.sentinel.port
            ))
        }
    }

    /// Kills the master, once the replica has everything that it wrote and Sentinel knows the replica: only then can it be promoted.
    async fn kill_master(&mut self) {
        let written = field(&self.master, "master_repl_offset").unwrap();
        let has_all = || replicated(&self.replica).is_some_and(|offset| offset >= written);
        until("the replica has everything", has_all).await;
        let port = self.replica.port.to_string();
        let knows = || format!("{:?}", self.sentinel.command(&["SENTINEL", "REPLICAS", "master"])).contains(&port);
        until("Sentinel sees the replica", knows).await;
        self.master.kill();
    }

    /// Waits until the replica is the master, by its own word and by Sentinel's.
    async fn until_taken_over(&self) {
        let port = self.replica.port.to_string();
        let named = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "master"];
        let is_master = || {
            format!("{:?}", self.sentinel.command(&named)).contains(&port)
                && format!("{:?}", self.replica.command(&["ROLE"])).contains("master")
        };
        until("the replica takes over", is_master).await;
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waiting for this takes too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A prefix of its own.
struct Followed {
    options: RedisOptions,
    /// What is there already is what is opened first.
    opened: Mutex<Option<RedisStore>>,
}

impl Followed {
    fn new(watched: &Watched) -> Self {
        Self {
            options: watched.options(&unique("followed")),
            opened: Mutex::new(None),
        }
    }

    async fn store(&self) -> RedisStore {
        let opened = self.opened.lock().take();
        match opened {
            Some(store) => store,
            None => RedisStore::open(&self.options).await.unwrap(),
        }
    }
}

fixture_of_redis!(Followed);

/// Each clause runs once, half of each suite on either side of a failover; those behind it begin with a store that was opened before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_suite_passes_around_a_failover() {
    let mut watched = Watched::start().await;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (place, clause) in clauses_of_redis!(Followed).into_iter().enumerate() {
        let half = if place.is_multiple_of(2) {
            &mut before
        } else {
            &mut after
        };
        half.push(clause);
    }
    let test = async |clause: &Clause<Followed>| clause.run(&Followed::new(&watched)).await;
    run_all(&before, 1, test).await;
    let mut opened = HashMap::new();
    for clause in &after {
        let followed = Followed::new(&watched);
        let store = followed.store().await;
        *followed.opened.lock() = Some(store);
        opened.insert(clause.name, followed);
    }
    watched.kill_master().await;
    watched.until_taken_over().await;
    run_all(&after, 1, async |clause| clause.run(&opened[clause.name]).await).await;
}

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
    let mut watched = Watched::start().await;
    let options = watched.options("troupe");
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    for position in 1..=20 {
        append(&store, &lease, position).await.unwrap();
    }
    let most = InboxLimits { items: 1, bytes: 100 };
    let pushed = store.inbox_push(SHARD, InboxId([1; 32]), "kept".into(), most).await;
    assert_eq!(pushed.unwrap(), InboxPush::Kept);
    watched.kill_master().await;

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
    let role = watched.replica.command(&["ROLE"]);
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

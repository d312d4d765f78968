//! A Redis Cluster of three masters: the suite, slots that move under way, and a member that dies.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use support::redis::RedisServer;
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::{ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::conformance::{Fixture, blobs, cached_outputs, semaphores, state_checkpoint, state_inbox, state_log};
use troupe_ports::{AppendError, CheckpointRow, CommitId, StateStore, StoreError, Wait};

const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(120);
const SHARDS: u16 = 16;

struct Cluster {
    members: Vec<RedisServer>,
}

impl Cluster {
    fn start() -> Self {
        let settings = [
            "cluster-enabled yes",
            "cluster-config-file nodes.conf",
            "cluster-node-timeout 2000",
            "appendonly yes",
            "appendfsync always",
        ];
        let members: Vec<_> = (0..3).map(|_| RedisServer::start_cluster_member(&settings)).collect();
        let cluster = Self { members };
        let addresses: Vec<_> = cluster
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.port))
            .collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(|address| &address[..]));
        create.push("--cluster-yes");
        cluster.cli(&create);
        cluster.wait_until_agreed();
        cluster
    }

    fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "redis-cli {arguments:?}: {text}");
        text
    }

    /// Every member sees a whole cluster.
    fn wait_until_agreed(&self) {
        let started = Instant::now();
        for member in &self.members {
            while !format!("{:?}", member.command(&["CLUSTER", "INFO"])).contains("cluster_state:ok") {
                assert!(started.elapsed() < PATIENCE, "the cluster does not come up");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn options(&self, prefix: &str) -> RedisOptions {
        let hosts: Vec<_> = self
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.port))
            .collect();
        RedisOptions {
            prefix: prefix.to_owned(),
            shards: SHARDS,
            durability: RedisDurability::Strict,
            ..RedisOptions::new(format!("redis+cluster://{}", hosts.join(",")))
        }
    }

    async fn connection(&self, member: usize) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.members[member].url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Slots of a member that have keys.
    async fn slots_with_keys(&self, member: usize) -> Vec<u16> {
        let mut connection = self.connection(member).await;
        let mut all = redis::pipe();
        for slot in 0..16_384 {
            all.cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(slot);
        }
        let keys: Vec<u64> = all.query_async(&mut connection).await.unwrap();
        let slots = (0..).zip(keys).filter(|(_, keys)| *keys > 0);
        slots.map(|(slot, _)| slot).collect()
    }

    /// Moves the keys of a slot, one by one, slowly at first, as `redis-cli --cluster reshard` does it fast.
    async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let (mut source, mut target) = (self.connection(from).await, self.connection(to).await);
        for (connection, verb, other) in [
            (&mut target, "IMPORTING", self.id(from)),
            (&mut source, "MIGRATING", self.id(to)),
        ] {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg(verb).arg(other);
            command.exec_async(connection).await.unwrap();
        }
        for moved in 0.. {
            let mut command = redis::cmd("CLUSTER");
            command.arg("GETKEYSINSLOT").arg(slot).arg(1);
            let keys: Vec<Vec<u8>> = command.query_async(&mut source).await.unwrap();
            let Some(key) = keys.first() else { break };
            let mut migrate = redis::cmd("MIGRATE");
            migrate
                .arg("127.0.0.1")
                .arg(self.members[to].port)
                .arg(key)
                .arg(0)
                .arg(5_000);
            migrate.exec_async(&mut source).await.unwrap();
            // Scripts of this slot see some of their keys here and some there meanwhile.
            if moved < 10 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Ends the move of a slot.
    async fn settle(&self, slot: u16, to: usize) {
        for member in [to, (to + 1) % 3, (to + 2) % 3] {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg("NODE").arg(self.id(to));
            command.exec_async(&mut self.connection(member).await).await.unwrap();
        }
    }

    /// How often members were asked who has which slots.
    fn slots_asked(&self) -> u64 {
        let asked = self.members.iter().map(|member| {
            let stats = format!("{:?}", member.command(&["INFO", "commandstats"]));
            let calls = stats.split("cmdstat_cluster|slots:calls=").nth(1);
            calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
        });
        asked.sum()
    }

    fn id(&self, member: usize) -> String {
        match self.members[member].command(&["CLUSTER", "MYID"]) {
            redis::Value::BulkString(id) => String::from_utf8(id).unwrap(),
            other => panic!("no id: {other:?}"),
        }
    }
}

struct Prefix<'a>(&'a Cluster, String);

#[async_trait]
impl Fixture<dyn StateStore> for Prefix<'_> {
    async fn open(&self) -> Arc<dyn StateStore> {
        Arc::new(RedisStore::open(&self.0.options(&self.1)).await.unwrap())
    }
}

#[async_trait]
impl Fixture<dyn troupe_ports::Semaphores> for Prefix<'_> {
    async fn open(&self) -> Arc<dyn troupe_ports::Semaphores> {
        Arc::new(RedisStore::open(&self.0.options(&self.1)).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_a_cluster() {
    let cluster = Cluster::start();
    macro_rules! clauses {
        ($($suite:ident: $($clause:ident)*;)*) => {
            $($( $suite::$clause(&Prefix(&cluster, stringify!($clause).to_owned())).await; )*)*
        };
    }
    clauses! {
        state_log:
            positions_begin_at_one_and_have_no_gap only_one_of_many_racing_appends_wins
            records_are_read_in_order_within_a_byte_bound shards_are_independent a_large_record_comes_back_whole
            a_former_owner_is_fenced_from_every_write a_released_shard_is_free_at_once cursors_never_go_back
            what_was_acknowledged_is_there_after_reopening;
        state_checkpoint:
            a_chunk_may_be_applied_twice overlap_is_kept_and_a_gap_refuses_the_whole_chunk an_ended_execution_can_be_reopened
            trimming_stops_at_the_lowest_cursor archives_expire_to_tombstones_and_tombstones_expire
            a_quarantine_lasts_until_it_is_taken_back;
        state_inbox:
            an_inbox_is_read_in_order_of_arrival_within_a_byte_bound an_inbox_is_bounded_by_items_and_by_bytes
            a_former_owner_removes_nothing racing_pushes_of_an_id_are_one an_inbox_is_there_after_reopening;
        blobs:
            blobs_of_a_root_are_bounded_together blobs_go_with_the_archive_of_their_root;
        cached_outputs:
            the_output_that_was_not_used_for_longest_goes_first;
        semaphores:
            so_many_hold_a_key_and_the_next_when_one_gives_it_back racing_askers_never_hold_more_than_the_limit
            a_hold_ends_with_its_time_unless_it_is_renewed a_hold_under_an_epoch_has_no_end_and_no_former_owner_ends_it
            what_a_former_owner_says_late_holds_nothing notes_of_a_shard_are_found_until_they_are_struck_out
            no_former_owner_changes_the_notes_of_its_successor;
    }
}

fn row(shard: ShardId, position: u64) -> CheckpointRow {
    CheckpointRow::Live {
        id: ExecutionId::fresh(shard, Timestamp(1), position),
        first: Seq(1),
        last: Seq(1),
        segment: vec![1; 500].into(),
        snapshot: Some("snapshot".into()),
        wait: Wait::Until(Timestamp(5)),
    }
}

/// Appends and checkpoints like a committer, which repeats what was not available and looks up what is unknown; how many
/// records it wrote, and how often it was told to repeat.
async fn write(store: Arc<RedisStore>, shard: ShardId, stop: Arc<AtomicBool>) -> (u64, u64) {
    let mut unavailable = 0;
    let lease = store.acquire(shard, "writer", LEASE).await.unwrap();
    let mut position = 1;
    while !stop.load(Ordering::Relaxed) {
        let at = LogPosition(position);
        let record = format!("{shard}:{position}").into();
        match store
            .append(shard, lease.epoch, at, CommitId(position.into()), record)
            .await
        {
            Ok(()) => position += 1,
            Err(AppendError::Conflict { next }) => {
                assert_eq!(next, at.next(), "only an append of unknown outcome was before this one");
                position += 1;
            }
            Err(AppendError::Store(StoreError::Unavailable(_))) => {
                unavailable += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(AppendError::Store(other)) => panic!("shard {shard}: {other}"),
        }
        if position.is_multiple_of(200) {
            let reached = Some(LogPosition(position - 1));
            match store
                .checkpoint(shard, lease.epoch, vec![row(shard, position)], reached)
                .await
            {
                Ok(()) => {}
                Err(StoreError::Unavailable(_)) => unavailable += 1,
                Err(other) => panic!("shard {shard}: {other}"),
            }
        }
    }
    (position - 1, unavailable)
}

async fn verify(options: &RedisOptions, written: &[u64]) {
    let store = RedisStore::open(options).await.unwrap();
    for (shard, written) in (0..SHARDS).zip(written) {
        let shard = ShardId(shard);
        let records = store.read(shard, LogPosition(1), usize::MAX).await.unwrap();
        assert_eq!(records.len() as u64, *written, "shard {shard}");
        for (record, position) in records.iter().zip(1_u64..) {
            assert_eq!(record.bytes, format!("{shard}:{position}"));
        }
        let (running, waiting) = store.live_counts(shard).await.unwrap();
        let due = store.timers_due(shard, Timestamp(5), usize::MAX).await.unwrap();
        assert_eq!((running, waiting), (0, due.len() as u64));
        for (_, id) in due {
            assert!(store.load(id).await.unwrap().is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_on_while_slots_move() {
    let cluster = Cluster::start();
    let options = cluster.options("moving");
    let store = Arc::new(RedisStore::open(&options).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..SHARDS)
        .map(|shard| tokio::spawn(write(Arc::clone(&store), ShardId(shard), Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let slots = cluster.slots_with_keys(0).await;
    assert!(!slots.is_empty(), "no shard is on the first member");
    for slot in slots {
        cluster.move_keys(slot, 0, 1).await;
        cluster.settle(slot, 1).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for writer in writers {
        let (records, unavailable) = writer.await.unwrap();
        assert_eq!(unavailable, 0, "whoever meets a slot on the move waits for it");
        written.push(records);
    }
    assert!(written.iter().all(|written| *written > 50), "{written:?}");
    let left = cluster.members[0].command(&["DBSIZE"]);
    assert_eq!(left, redis::Value::Int(0), "all keys of the first member moved");
    verify(&options, &written).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_has_what_it_acknowledged() {
    let mut cluster = Cluster::start();
    let options = cluster.options("killed");
    let store = Arc::new(RedisStore::open(&options).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..SHARDS)
        .map(|shard| tokio::spawn(write(Arc::clone(&store), ShardId(shard), Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.members[2].kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.members[2].run();
    cluster.wait_until_agreed();
    let before = store.counters().appends;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(store.counters().appends > before);
    stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for writer in writers {
        written.push(writer.await.unwrap().0);
    }
    verify(&options, &written).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_keys_have_moved_is_served_before_it_is_settled() {
    let cluster = Cluster::start();
    let options = RedisOptions {
        response_timeout: Duration::from_secs(2),
        ..cluster.options("half")
    };
    let asked = cluster.slots_asked();
    let store = RedisStore::open(&options).await.unwrap();
    let mut leases = Vec::new();
    for shard in 0..SHARDS {
        let lease = store.acquire(ShardId(shard), "writer", LEASE).await.unwrap();
        leases.push(lease);
    }
    let append = async |position: u64| {
        for lease in &leases {
            let at = LogPosition(position);
            let record = format!("{}:{position}", lease.shard).into();
            store
                .append(lease.shard, lease.epoch, at, CommitId(position.into()), record)
                .await
                .unwrap();
        }
    };
    append(1).await;
    assert_eq!(cluster.slots_asked() - asked, 1, "what one connection learned all know");
    let slots = cluster.slots_with_keys(0).await;
    assert!(!slots.is_empty(), "no shard is on the first member");
    for slot in &slots {
        cluster.move_keys(*slot, 0, 1).await;
    }
    append(2).await;
    for slot in &slots {
        cluster.settle(*slot, 1).await;
    }
    append(3).await;
    verify(&options, &[3; SHARDS as usize]).await;
}

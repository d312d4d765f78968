//! A Redis Cluster of three masters: every suite while slots move, what else moving slots do, and a member that dies.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::redis::{RedisServer, clauses_of_redis, fixture_of_redis};
use support::unique;
use tokio::sync::{Mutex, Notify, watch};
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::{BlobRef, ExecutionId, FormatRange, Json, LogPosition, Seq, ShardId, StateFormat, Timestamp};
use troupe_ports::conformance::{Clause, run_all};
use troupe_ports::{
    AppendError, Archive, CacheLimits, CheckpointRow, CommitId, ExecutionBase, InboxId, InboxLimits, Lease, Member,
    Membership, StateStore, StoreError, Wait,
};

const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(120);
const SHARDS: u16 = 16;
/// How long the slots of a clause rest before they move on, at least.
const REST: Duration = Duration::from_millis(50);

/// How the keys of a slot move.
struct Pace {
    /// So many go one by one, with a pause after each: scripts see some of their keys here and some there meanwhile.
    slowly: usize,
    pause: Duration,
    /// How many of the others go at a time.
    at_once: usize,
}

/// As if every key were large.
const SLOWLY: Pace = Pace {
    slowly: 10,
    pause: Duration::from_millis(20),
    at_once: 1,
};
/// As `redis-cli --cluster reshard` does it, but for the first key.
const QUICKLY: Pace = Pace {
    slowly: 1,
    pause: Duration::from_millis(5),
    at_once: 200,
};

/// What has moved while clauses ran.
#[derive(Debug, Default)]
struct Moved {
    /// How often a slot that had keys went to another member.
    slots: usize,
    keys: usize,
}

struct Cluster {
    members: Vec<RedisServer>,
    /// What the members call themselves.
    ids: Vec<String>,
    moved: Mutex<Moved>,
}

impl Cluster {
    fn start() -> Self {
        let settings = [
            "cluster-enabled yes",
            "cluster-config-file nodes.conf",
            // A member that a busy disk keeps has not failed.
            "cluster-node-timeout 5000",
            "appendonly yes",
            "appendfsync always",
        ];
        let members: Vec<_> = (0..3).map(|_| RedisServer::start_cluster_member(&settings)).collect();
        let ids = members.iter().map(id).collect();
        let cluster = Self {
            members,
            ids,
            moved: Mutex::default(),
        };
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
        // The keys of a large slot take their time, and so does a busy disk.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap()
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

    /// From here on the slot is on the move, with all its keys where they were.
    async fn begin(&self, slot: u16, from: usize, to: usize) {
        for (member, verb, other) in [(to, "IMPORTING", from), (from, "MIGRATING", to)] {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg(verb).arg(&self.ids[other]);
            command.exec_async(&mut self.connection(member).await).await.unwrap();
        }
    }

    /// Moves the keys of a slot that is on the move; how many that were.
    async fn carry(&self, slot: u16, from: usize, to: usize, pace: &Pace) -> usize {
        let mut source = self.connection(from).await;
        let mut moved = 0;
        loop {
            let most = if moved < pace.slowly { 1 } else { pace.at_once };
            let mut command = redis::cmd("CLUSTER");
            command.arg("GETKEYSINSLOT").arg(slot).arg(most);
            let keys: Vec<Vec<u8>> = command.query_async(&mut source).await.unwrap();
            if keys.is_empty() {
                return moved;
            }
            moved += keys.len();
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(self.members[to].port).arg("");
            migrate.arg(0).arg(5_000).arg("KEYS").arg(keys);
            migrate.exec_async(&mut source).await.unwrap();
            if moved <= pace.slowly {
                tokio::time::sleep(pace.pause).await;
            }
        }
    }

    /// Moves the keys of a slot, one by one.
    async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        self.begin(slot, from, to).await;
        self.carry(slot, from, to, &SLOWLY).await;
    }

    /// Ends the move of a slot.
    async fn settle(&self, slot: u16, to: usize) {
        for member in [to, (to + 1) % 3, (to + 2) % 3] {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg("NODE").arg(&self.ids[to]);
            command.exec_async(&mut self.connection(member).await).await.unwrap();
        }
    }

    /// The slot stays where it is after all.
    async fn stay(&self, slot: u16, from: usize, to: usize) {
        for member in [from, to] {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg("STABLE");
            command.exec_async(&mut self.connection(member).await).await.unwrap();
        }
    }

    /// How often anybody was told to ask again, because some of the keys that it named were not there.
    fn told_to_ask_again(&self) -> u64 {
        self.members.iter().map(|member| errors(member, "TRYAGAIN")).sum()
    }

    /// Whoever came since `before` waits for a slot.
    async fn wait_until_somebody_waits(&self, before: u64) {
        let started = Instant::now();
        while self.told_to_ask_again() == before {
            assert!(started.elapsed() < PATIENCE, "nobody waits for a slot on the move");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// As after a failover to a replica that has so much of what is kept outside the log.
    async fn forget_what_is_kept(&self, record: &str, member: usize, kept: u64) {
        let mut command = redis::cmd("HSET");
        command.arg(record).arg("n").arg(kept);
        command.exec_async(&mut self.connection(member).await).await.unwrap();
    }

    /// Keys of all members together.
    fn keys(&self) -> i64 {
        let keys = self.members.iter().map(|member| match member.command(&["DBSIZE"]) {
            redis::Value::Int(keys) => keys,
            other => panic!("no number: {other:?}"),
        });
        keys.sum()
    }

    /// How often members were asked who has which slots.
    fn slots_asked(&self) -> u64 {
        self.members.iter().map(|member| calls(member, "cluster|slots")).sum()
    }

    /// The slot of a hash tag, and the member that has it.
    async fn place(&self, tag: &str) -> (u16, usize) {
        let mut key_slot = redis::cmd("CLUSTER");
        key_slot.arg("KEYSLOT").arg(tag);
        let slot = key_slot.query_async(&mut self.connection(0).await).await.unwrap();
        for member in 0..self.members.len() {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(tag);
            // Any other one says where it is instead.
            if exists.exec_async(&mut self.connection(member).await).await.is_ok() {
                return (slot, member);
            }
        }
        panic!("nobody has slot {slot}");
    }

    /// Hash tags under a prefix, with how many keys each has.
    async fn tags(&self, prefix: &str) -> BTreeMap<String, usize> {
        let mut tags = BTreeMap::new();
        for member in 0..self.members.len() {
            let mut keys = redis::cmd("KEYS");
            keys.arg(format!("{{{prefix}:*"));
            let keys: Vec<Vec<u8>> = keys.query_async(&mut self.connection(member).await).await.unwrap();
            for key in keys {
                let end = key.iter().position(|byte| *byte == b'}').unwrap();
                let tag = String::from_utf8(key[..=end].to_vec()).unwrap();
                *tags.entry(tag).or_default() += 1;
            }
        }
        tags
    }
}

fn id(member: &RedisServer) -> String {
    match member.command(&["CLUSTER", "MYID"]) {
        redis::Value::BulkString(id) => String::from_utf8(id).unwrap(),
        other => panic!("no id: {other:?}"),
    }
}

/// A number that a member tells of itself; 0 where it tells none.
fn told(member: &RedisServer, section: &str, name: &str) -> u64 {
    let stats = format!("{:?}", member.command(&["INFO", section]));
    let number = stats.split(name).nth(1).unwrap_or("0");
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// How often a member has run a command.
fn calls(member: &RedisServer, command: &str) -> u64 {
    told(member, "commandstats", &format!("cmdstat_{command}:calls="))
}

/// How often a member has answered with an error.
fn errors(member: &RedisServer, code: &str) -> u64 {
    told(member, "errorstats", &format!("errorstat_{code}:count="))
}

/// A prefix whose slots move from member to member while a clause runs.
struct Moving {
    cluster: Arc<Cluster>,
    prefix: String,
    /// The hash tag of what the clause is about.
    tag: String,
    /// How many of its slots have begun to move.
    begun: watch::Sender<usize>,
}

impl Moving {
    fn new(cluster: &Arc<Cluster>, suite: &str) -> Self {
        let prefix = unique("moving");
        let part = match suite {
            "cached_outputs" => "cache",
            "members" => "members",
            _ => "s0",
        };
        Self {
            cluster: Arc::clone(cluster),
            tag: format!("{{{prefix}:{part}}}"),
            prefix,
            begun: watch::Sender::new(0),
        }
    }

    /// Opens the store, and waits until a slot begins to move: whatever comes next meets it.
    async fn store(&self) -> RedisStore {
        let options = RedisOptions {
            shards: 4,
            ..self.cluster.options(&self.prefix)
        };
        let store = RedisStore::open(&options).await.unwrap();
        self.begun.subscribe().changed().await.unwrap();
        store
    }

    /// Runs a clause, and moves its slots until it has ended.
    async fn during(&self, clause: impl Future<Output = ()>) {
        let ended = Notify::new();
        let run = async {
            clause.await;
            ended.notify_one();
        };
        let moves = async {
            loop {
                let took = Box::pin(self.move_all()).await;
                // Whoever meets a slot on the move asks again for a while only: most of the time it rests.
                let rest = REST.max(2 * took);
                if tokio::time::timeout(rest, ended.notified()).await.is_ok() {
                    break;
                }
            }
        };
        tokio::join!(run, moves);
    }

    /// Moves every slot that is in use to the next member, one after the other; how long that took.
    async fn move_all(&self) -> Duration {
        let cluster = &*self.cluster;
        // Members that send keys to each other at the same moment wait for each other until they give up.
        let mut moved = cluster.moved.lock().await;
        let started = Instant::now();
        let mut tags = cluster.tags(&self.prefix).await;
        // A shard that nobody has written to has the record of its owner only.
        let of_semaphores = format!("{{{}:q", self.prefix);
        tags.retain(|tag, keys| *keys > 1 || tag.starts_with(&of_semaphores));
        tags.entry(self.tag.clone()).or_default();
        for tag in tags.keys() {
            let (slot, from) = cluster.place(tag).await;
            let to = (from + 1) % cluster.members.len();
            cluster.begin(slot, from, to).await;
            self.begun.send_modify(|begun| *begun += 1);
            tokio::time::sleep(QUICKLY.pause).await;
            let keys = cluster.carry(slot, from, to, &QUICKLY).await;
            cluster.settle(slot, to).await;
            moved.slots += usize::from(keys > 0);
            moved.keys += keys;
        }
        started.elapsed()
    }
}

fixture_of_redis!(Moving);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_suite_passes_while_slots_move() {
    let cluster = Arc::new(Cluster::start());
    let test = async |clause: &Clause<Moving>| {
        let moving = Moving::new(&cluster, clause.suite);
        moving.during(clause.run(&moving)).await;
        assert!(*moving.begun.borrow() > 0, "{} met no slot on the move", clause.name);
    };
    // Some clauses watch the clock: no other one keeps them waiting.
    let clauses = clauses_of_redis!(Moving).into_iter();
    let (timed, others): (Vec<_>, Vec<_>) =
        clauses.partition(|clause| ["members", "semaphores"].contains(&clause.suite));
    run_all(&others, 4, &test).await;
    run_all(&timed, 1, &test).await;
    let moved = cluster.moved.lock().await;
    assert!(moved.slots >= timed.len() + others.len(), "{moved:?}");
    // Scores of commands met a slot on the move: some with none of their keys where they came, some with a part of them.
    for code in ["ASK", "TRYAGAIN"] {
        let met: u64 = cluster.members.iter().map(|member| errors(member, code)).sum();
        assert!(met > 0, "nobody was answered {code}");
    }
    println!("{} clauses: {moved:?}", timed.len() + others.len());
}

/// A script may run where a slot leaves while all its keys are there. What it removes it cannot use again: Redis takes a key that is
/// missing for one that has moved, and ends the script in its midst.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_empties_a_key_runs_to_its_end_although_its_slot_is_on_the_move() {
    const SHARD: ShardId = ShardId(0);
    let cluster = Cluster::start();
    let store = RedisStore::open(&cluster.options("emptied")).await.unwrap();
    let lease = store.acquire(SHARD, "owner", LEASE).await.unwrap();

    // One command waits, one output is kept, one member's time is over.
    let most = InboxLimits { items: 9, bytes: 999 };
    let [waits, unknown] = [1, 2].map(|id| InboxId([id; 32]));
    store.inbox_push(SHARD, waits, "command".into(), most).await.unwrap();
    let keep = async |text: &str| {
        let most = CacheLimits { entries: 9, bytes: 999 };
        let output = Json::of(&text.into());
        let kept = store.cache_output([1; 32], output, Timestamp(1), Timestamp(999), most);
        kept.await.unwrap();
    };
    keep("first").await;
    let announce = async |name: &str, ttl| {
        let member = Member {
            name: name.to_owned(),
            address: "http://127.0.0.1:7654".to_owned(),
            draining: false,
            release: "1".to_owned(),
            reads: FormatRange::RELEASE,
            at_most: None,
        };
        store.announce(&member, ttl).await.unwrap()
    };
    announce("gone", Duration::from_millis(1)).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    // One tombstone is over, one archive too; it has segments and blobs that nobody confirmed.
    let [over, ends] = [1, 2].map(|number| ExecutionId::fresh(SHARD, Timestamp(1), number));
    let checkpoint = async |row| {
        store.checkpoint(SHARD, lease.epoch, vec![row], None).await.unwrap();
    };
    let archive = |id, expires_at| {
        CheckpointRow::Ended(Archive {
            id,
            last: Seq(2),
            bytes: "final".into(),
            expires_at: Timestamp(expires_at),
            tombstone_ms: 100,
        })
    };
    let expire = async |now, id| {
        let expired = store.expire(SHARD, lease.epoch, Timestamp(now), &[id], 9).await;
        expired.unwrap()
    };
    checkpoint(archive(over, 1)).await;
    assert_eq!(expire(1, over).await.archives, 1);
    let blob = BlobRef {
        hash: [1; 32],
        bytes: 4,
    };
    let blobs = vec![(blob, Json::of(&"xx".into()))];
    let put = store.put_blobs(SHARD, lease.epoch, ends, Timestamp(1), blobs, 999);
    put.await.unwrap();
    checkpoint(CheckpointRow::Live {
        id: ends,
        first: Seq(1),
        last: Seq(1),
        segment: "entries".into(),
        snapshot: None,
        wait: Wait::Running,
    })
    .await;
    checkpoint(archive(ends, 200)).await;

    let mut moving = Vec::new();
    for part in ["s0", "cache", "members"] {
        let (slot, from) = cluster.place(&format!("{{emptied:{part}}}")).await;
        let to = (from + 1) % 3;
        cluster.begin(slot, from, to).await;
        moving.push((slot, from, to));
    }
    let removed = store.inbox_remove(SHARD, lease.epoch, &[waits, unknown]).await;
    let announced = announce("here", LEASE).await;
    keep("second").await;
    let expired = expire(300, ends).await;
    for (slot, from, to) in moving {
        cluster.carry(slot, from, to, &QUICKLY).await;
        cluster.settle(slot, to).await;
    }

    removed.unwrap();
    assert!(store.inbox_read(SHARD, 0, 999).await.unwrap().is_empty());
    let names: Vec<_> = announced.iter().map(|member| &member.name[..]).collect();
    assert_eq!(names, ["here"]);
    let output = store.cached_output([1; 32], Timestamp(2)).await.unwrap();
    assert_eq!(output, Some(Json::of(&"second".into())));
    assert_eq!((expired.archives, expired.tombstones), (1, 1));
    assert_eq!(store.load(over).await.unwrap(), None);
    let tombstone = ExecutionBase::Tombstone { last: Seq(2) };
    assert_eq!(store.load(ends).await.unwrap(), Some(tombstone));
}

async fn append(store: &RedisStore, lease: &Lease, position: u64) -> Result<(), AppendError> {
    let (at, commit) = (LogPosition(position), CommitId(position.into()));
    store
        .append(lease.shard, lease.epoch, at, commit, "record".into())
        .await
}

/// Keys that a cursor needs are not there most of the time, so that it is not written while its slot moves. Leases are renewed all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_although_a_cursor_waits_for_its_slot() {
    const SHARD: ShardId = ShardId(0);
    let cluster = Cluster::start();
    let options = RedisOptions {
        response_timeout: Duration::from_secs(2),
        ..cluster.options("renewed")
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "owner", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    append(&store, &lease, 2).await.unwrap();
    let sent = async |to| store.set_cursor(SHARD, lease.epoch, "events", LogPosition(to)).await;
    sent(1).await.unwrap();
    let (slot, from) = cluster.place("{renewed:s0}").await;
    let to = (from + 1) % 3;
    cluster.begin(slot, from, to).await;
    // Whether it is to be written at once or with the next renewal: it is not.
    if let Err(error) = sent(2).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    store.renew(SHARD, lease.epoch, LEASE).await.unwrap();
    let other = RedisStore::open(&options).await.unwrap();
    let seen_elsewhere = async || other.cursor(SHARD, "events").await.unwrap();
    assert_eq!(seen_elsewhere().await, LogPosition(1));
    cluster.carry(slot, from, to, &QUICKLY).await;
    cluster.settle(slot, to).await;
    store.trim(SHARD, lease.epoch, LogPosition(0)).await.unwrap();
    assert_eq!(seen_elsewhere().await, LogPosition(2));
}

/// A value waits for its slot, and what is acknowledged meanwhile is lost: the store takes the one for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_the_place_of_what_is_lost_tells_that() {
    const SHARD: ShardId = ShardId(0);
    let cluster = Cluster::start();
    let options = RedisOptions {
        response_timeout: PATIENCE,
        ..cluster.options("twice")
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "owner", LEASE).await.unwrap();
    let (slot, from) = cluster.place("{twice:s0}").await;
    let to = (from + 1) % 3;
    cluster.begin(slot, from, to).await;
    let before = cluster.told_to_ask_again();
    let blob = BlobRef {
        hash: [1; 32],
        bytes: 4,
    };
    let values = vec![(blob, Json::of(&"xx".into()))];
    let root = ExecutionId::fresh(SHARD, Timestamp(1), 1);
    let put = store.put_blobs(SHARD, lease.epoch, root, Timestamp(1), values, 999);
    let meanwhile = Box::pin(async {
        cluster.wait_until_somebody_waits(before).await;
        store.set_format(SHARD, lease.epoch, StateFormat(2)).await.unwrap();
        cluster.forget_what_is_kept("{twice:s0}o", from, 0).await;
        cluster.stay(slot, from, to).await;
    });
    let (put, ()) = tokio::join!(put, meanwhile);
    assert!(matches!(put, Err(StoreError::WentBack(_))), "got {put:?}");
}

/// It looks for what was lost, and given up, before its owner began again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_before_a_shard_began_again_asks_once_more() {
    const SHARD: ShardId = ShardId(0);
    let cluster = Cluster::start();
    let options = RedisOptions {
        response_timeout: PATIENCE,
        ..cluster.options("asked")
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "owner", LEASE).await.unwrap();
    // What an acquisition looks at is there, and what a look at an execution needs is not.
    append(&store, &lease, 1).await.unwrap();
    let sent = store.set_cursor(SHARD, lease.epoch, "events", LogPosition(0)).await;
    sent.unwrap();
    let spooled = store.spool(SHARD, lease.epoch, "events", LogPosition(1), "chunk".into());
    spooled.await.unwrap();
    let rows = vec![row(SHARD, 1)];
    store.checkpoint(SHARD, lease.epoch, rows, None).await.unwrap();
    let (slot, from) = cluster.place("{asked:s0}").await;
    let to = (from + 1) % 3;
    cluster.begin(slot, from, to).await;
    let before = cluster.told_to_ask_again();
    let id = ExecutionId::fresh(SHARD, Timestamp(1), 1);
    let meanwhile = Box::pin(async {
        cluster.wait_until_somebody_waits(before).await;
        cluster.forget_what_is_kept("{asked:s0}o", from, 0).await;
        let again = store.acquire(SHARD, "owner", LEASE).await.unwrap();
        assert!(again.epoch > lease.epoch);
        cluster.stay(slot, from, to).await;
    });
    let (loaded, ()) = tokio::join!(store.load(id), meanwhile);
    assert!(matches!(loaded, Err(StoreError::Unavailable(_))), "got {loaded:?}");
    assert!(store.load(id).await.unwrap().is_some());
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
    let begun = Instant::now();
    // A busy disk needs longer.
    while store.counters().appends < 100 * u64::from(SHARDS) && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_erased_from_every_member() {
    let cluster = Cluster::start();
    let fill = async |prefix: &str| {
        let store = RedisStore::open(&cluster.options(prefix)).await.unwrap();
        for shard in (0..SHARDS).map(ShardId) {
            let lease = store.acquire(shard, "writer", LEASE).await.unwrap();
            let rows = (0..20).map(|number| row(shard, number)).collect();
            store.checkpoint(shard, lease.epoch, rows, None).await.unwrap();
        }
    };
    fill("gone:s1").await;
    let neighbours = cluster.keys();
    fill("gone").await;
    for member in 0..3 {
        assert!(!cluster.slots_with_keys(member).await.is_empty(), "member {member}");
    }
    let own = cluster.keys() - neighbours;
    let erased = RedisStore::erase(&cluster.options("gone")).await.unwrap();
    assert_eq!(i64::try_from(erased).unwrap(), own);
    assert_eq!(cluster.keys(), neighbours);
    let neighbour = RedisStore::open(&cluster.options("gone:s1")).await.unwrap();
    for shard in (0..SHARDS).map(ShardId) {
        assert_eq!(neighbour.live_counts(shard).await.unwrap(), (0, 20), "shard {shard}");
    }
}

/// The cursor of a walk means something to the member that gave it, and nothing to the one that has the slot next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_stored_is_listed_although_its_slot_moves_meanwhile() {
    const SHARD: ShardId = ShardId(0);
    // A step of a walk is 1,000 of them.
    const EACH: u64 = 20_000;
    const MOVES: usize = 20;
    let cluster = Cluster::start();
    let store = RedisStore::open(&cluster.options("listed")).await.unwrap();
    let (slot, owner) = cluster.place("{listed:s0}").await;
    // Straight into what is walked through: the other keys of as many executions would take long to move each time.
    let id = |number| ExecutionId::fresh(SHARD, Timestamp(1), number);
    let mut fill = redis::pipe();
    for number in 0..EACH {
        let (lives, ended) = (id(number), id(EACH + number));
        fill.cmd("HSET").arg("{listed:s0}v").arg(&lives.0[..]).arg("").ignore();
        let expires_at = ((1_u64 << 63) | (number % 97)).to_be_bytes();
        let archive = [&expires_at[..], &ended.0].concat();
        fill.cmd("ZADD").arg("{listed:s0}e").arg(0).arg(archive).ignore();
    }
    fill.exec_async(&mut cluster.connection(owner).await).await.unwrap();

    let expected: BTreeSet<_> = (0..2 * EACH).map(id).collect();
    let list = async || {
        let listed: BTreeSet<_> = store.stored(SHARD).await.unwrap().into_iter().collect();
        let missed = expected.difference(&listed).count();
        assert_eq!((missed, listed.len()), (0, expected.len()), "missed, and listed");
    };
    let started = Instant::now();
    list().await;
    let undisturbed = started.elapsed();
    let have_moved = AtomicBool::new(false);
    let moves = Box::pin(async {
        let mut from = owner;
        for _ in 0..MOVES {
            // Several in each of the walks that make a list: they make up for each other.
            tokio::time::sleep(undisturbed / 10).await;
            let to = (from + 1) % 3;
            cluster.begin(slot, from, to).await;
            cluster.carry(slot, from, to, &QUICKLY).await;
            cluster.settle(slot, to).await;
            from = to;
        }
        have_moved.store(true, Ordering::Relaxed);
    });
    let lists = async {
        while !have_moved.load(Ordering::Relaxed) {
            list().await;
        }
    };
    tokio::join!(moves, lists);
}

/// Members are looked through one after the other: what has moved to one that was looked through before goes, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moves_while_a_store_is_erased_goes_too() {
    const PAUSE: Duration = Duration::from_secs(3);
    let cluster = Cluster::start();
    let options = RedisOptions {
        connect_timeout: PATIENCE,
        response_timeout: PATIENCE,
        ..cluster.options("leaving")
    };
    let store = RedisStore::open(&options).await.unwrap();
    for shard in (0..SHARDS).map(ShardId) {
        let lease = store.acquire(shard, "writer", LEASE).await.unwrap();
        let rows = (0..20).map(|number| row(shard, number)).collect();
        store.checkpoint(shard, lease.epoch, rows, None).await.unwrap();
    }
    drop(store);
    // The order in which they are looked through; the second one keeps the look waiting.
    let mut members = [0, 1, 2];
    members.sort_unstable_by_key(|member| cluster.members[*member].port);
    let [first, second, third] = members;
    let slots = cluster.slots_with_keys(third).await;
    assert!(!slots.is_empty(), "no shard is on the last member");
    let own = cluster.keys();
    let looked = calls(&cluster.members[first], "scan");
    let from_the_first = RedisOptions {
        url: format!("redis+cluster://127.0.0.1:{}", cluster.members[first].port),
        ..options
    };
    let paused = Instant::now();
    let pause = PAUSE.as_millis().to_string();
    cluster.members[second].command(&["CLIENT", "PAUSE", &pause, "ALL"]);
    let moves = Box::pin(async {
        let started = Instant::now();
        while calls(&cluster.members[first], "scan") == looked {
            assert!(started.elapsed() < PATIENCE, "nobody looks through the first member");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Until it is through with that one.
        tokio::time::sleep(Duration::from_millis(300)).await;
        for slot in &slots {
            cluster.begin(*slot, third, first).await;
            cluster.carry(*slot, third, first, &QUICKLY).await;
        }
        // Every member is told, the second one too.
        tokio::time::sleep((PAUSE + REST).saturating_sub(paused.elapsed())).await;
        for slot in &slots {
            cluster.settle(*slot, first).await;
        }
    });
    let (erased, ()) = tokio::join!(RedisStore::erase(&from_the_first), moves);
    assert_eq!((cluster.keys(), i64::try_from(erased.unwrap()).unwrap()), (0, own));
}

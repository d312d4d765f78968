//! The store on Redis does with random checkpoints what the embedded store does.
//!
//! The same operations go to both; what they answer and what they then hold must be equal.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::redis::{Prefix, shared};
use troupe_backends::{DurabilityMutant, EmbeddedStore, RedisDurability, RedisOptions, RedisStore, StoreOptions};
use troupe_core::{BlobRef, ExecutionId, Json, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{Archive, CheckpointRow, CommitId, ExecutionBase, Lease, StateStore, StoreError, Wait};

const SHARD: ShardId = ShardId(2);
const LEASE: Duration = Duration::from_secs(600);
const EXECUTIONS: u64 = 5;

/// Source: xorshift64*, Vigna 2016.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
    }

    fn id(&mut self) -> ExecutionId {
        // One of them is the shard's controls, which do not count.
        match self.below(EXECUTIONS + 1) {
            0 => ExecutionId::controls(SHARD),
            number => ExecutionId::fresh(SHARD, Timestamp(1), number),
        }
    }

    fn wait(&mut self, id: ExecutionId) -> Wait {
        match self.below(4) {
            // As the engine's always do.
            _ if id.is_controls() => Wait::Message,
            0 => Wait::Running,
            1 => Wait::Message,
            _ => Wait::Until(Timestamp(self.below(20) as i64 - 5)),
        }
    }

    fn row(&mut self) -> CheckpointRow {
        let id = self.id();
        let last = 1 + self.below(9);
        let bytes = |what: &str| format!("{what} {id} {last}").into();
        match self.below(12) {
            0..6 => CheckpointRow::Live {
                id,
                first: Seq(1 + self.below(last)),
                last: Seq(last),
                segment: bytes("segment"),
                snapshot: (self.below(3) == 0).then(|| bytes("snapshot")),
                wait: self.wait(id),
            },
            6..9 => CheckpointRow::Ended(Archive {
                id,
                last: Seq(last),
                bytes: bytes("archive"),
                expires_at: Timestamp(self.below(30) as i64),
                tombstone_ms: self.below(10),
            }),
            9..11 => CheckpointRow::Reopened {
                id,
                ended: Seq(last),
                segment: bytes("reopened segment"),
                snapshot: bytes("reopened snapshot"),
            },
            _ => CheckpointRow::Head {
                key: id,
                ordinal: self.below(5),
            },
        }
    }

    fn rows(&mut self) -> Vec<CheckpointRow> {
        (0..1 + self.below(6)).map(|_| self.row()).collect()
    }
}

/// Whether both did the same; damage is told in words of their own.
fn outcome<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(StoreError::WentBack(_)) => "went back".to_owned(),
        Err(StoreError::Damaged(_)) => "damaged".to_owned(),
        Err(other) => panic!("{other}"),
    }
}

async fn held(store: &dyn StateStore) -> Vec<String> {
    let mut all = Vec::new();
    let far = Timestamp(i64::MAX);
    for number in 0..=EXECUTIONS {
        let id = match number {
            0 => ExecutionId::controls(SHARD),
            number => ExecutionId::fresh(SHARD, Timestamp(1), number),
        };
        all.push(format!("{:?}", store.load(id).await.unwrap()));
        all.push(format!("{:?}", store.head(id).await.unwrap()));
        for hash in 0..3 {
            all.push(format!("{:?}", store.blob(id, [hash; 32]).await.unwrap()));
        }
    }
    all.push(format!("due {:?}", store.timers_due(SHARD, far, 100).await.unwrap()));
    all.push(format!("running {:?}", store.running(SHARD, None, 100).await.unwrap()));
    all.push(format!("counts {:?}", store.live_counts(SHARD).await.unwrap()));
    all.push(format!("expired {:?}", store.expired(SHARD, far, 100).await.unwrap()));
    all.push(format!(
        "unconfirmed {:?}",
        store.unconfirmed_blobs(SHARD, far, 100).await.unwrap()
    ));
    let records = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
    all.push(format!(
        "log {:?}",
        records.iter().map(|record| record.position.0).collect::<Vec<_>>()
    ));
    all
}

/// Does one thing to a store; what it answered.
async fn act(store: &dyn StateStore, lease: &Lease, dice: &mut Dice, step: u64) -> String {
    let epoch = lease.epoch;
    let now = Timestamp(dice.below(40) as i64);
    match dice.below(10) {
        0..5 => {
            let rows = dice.rows();
            let reached = (dice.below(4) == 0).then(|| LogPosition(dice.below(step + 1)));
            outcome(&store.checkpoint(SHARD, epoch, rows, reached).await)
        }
        5 => {
            let archives: Vec<_> = (0..dice.below(4)).map(|_| dice.id()).collect();
            outcome(&store.expire(SHARD, epoch, now, &archives, 2).await)
        }
        6 => {
            let blob = |hash: u64| {
                let content = Json::of(&"x".repeat(10 + hash as usize).into());
                let reference = BlobRef {
                    hash: [hash as u8; 32],
                    bytes: content.bytes() as u64,
                };
                (reference, content)
            };
            let blobs = (0..1 + dice.below(3)).map(|_| blob(dice.below(3))).collect();
            let root = dice.id();
            outcome(&store.put_blobs(SHARD, epoch, root, now, blobs, 30).await)
        }
        7 => {
            let root = dice.id();
            outcome(&store.settle_blobs(SHARD, epoch, root, dice.below(2) == 0).await)
        }
        8 => {
            let to = LogPosition(dice.below(step + 1));
            let sink = ["events", "visibility"][dice.below(2) as usize];
            outcome(&store.set_cursor(SHARD, epoch, sink, to).await)
        }
        _ => outcome(&store.trim(SHARD, epoch, LogPosition(dice.below(step + 1))).await),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_checkpoints_have_equal_outcomes() {
    const WORLDS: u64 = 25;
    const STEPS: u64 = 40;
    let mut gaps = 0;
    for world in 1..=WORLDS {
        let (prefix, directory) = (Prefix::new(), tempfile::tempdir().unwrap());
        let options = RedisOptions {
            prefix: prefix.name.clone(),
            shards: 4,
            durability: RedisDurability::Volatile,
            ..RedisOptions::new(shared())
        };
        let redis = RedisStore::open(&options).await.unwrap();
        let quick = StoreOptions {
            mutant: Some(DurabilityMutant::SynchronousOff),
            ..StoreOptions::default()
        };
        let embedded = EmbeddedStore::open(directory.path(), &quick).unwrap();
        let stores: [&dyn StateStore; 2] = [&redis, &embedded];
        let mut leases = Vec::new();
        for store in stores {
            leases.push(store.acquire(SHARD, "owner", LEASE).await.unwrap());
        }
        let mut seed = world;
        for step in 1..=STEPS {
            let mut answers = Vec::new();
            for (store, lease) in stores.iter().zip(&leases) {
                let at = LogPosition(step);
                store
                    .append(SHARD, lease.epoch, at, CommitId(step.into()), "record".into())
                    .await
                    .unwrap();
                // Each rolls the same.
                let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (seed << 20));
                dice.below(2);
                answers.push((act(*store, lease, &mut dice, step).await, held(*store).await));
            }
            assert_eq!(answers[0], answers[1], "world {world}, step {step}");
            gaps += usize::from(answers[0].0 == "went back");
            seed = seed * 7 + step;
            seed &= 0xf_ffff_ffff;
        }
    }
    assert!(gaps > 20, "chunks are also refused: {gaps}");
}

#[tokio::test]
async fn a_chunk_may_have_thousands_of_executions() {
    const EXECUTIONS: u64 = 2_500;
    let prefix = Prefix::new();
    let options = RedisOptions {
        prefix: prefix.name.clone(),
        shards: 4,
        durability: RedisDurability::Volatile,
        ..RedisOptions::new(shared())
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "owner", LEASE).await.unwrap();
    let id = |number| ExecutionId::fresh(SHARD, Timestamp(1), number);
    let rows = |first: u64| -> Vec<_> {
        let row = |number| CheckpointRow::Live {
            id: id(number),
            first: Seq(first),
            last: Seq(first),
            segment: format!("{number}").into(),
            snapshot: None,
            wait: Wait::Running,
        };
        (0..EXECUTIONS).map(row).collect()
    };
    store.checkpoint(SHARD, lease.epoch, rows(1), None).await.unwrap();
    // The last of them has a gap before it, and all are refused.
    let mut gap = rows(2);
    gap.push(CheckpointRow::Live {
        id: id(EXECUTIONS),
        first: Seq(2),
        last: Seq(2),
        segment: "gap".into(),
        snapshot: None,
        wait: Wait::Running,
    });
    assert_eq!(
        outcome(&store.checkpoint(SHARD, lease.epoch, gap, None).await),
        "went back"
    );
    store.checkpoint(SHARD, lease.epoch, rows(1), None).await.unwrap();
    let running = store.running(SHARD, None, usize::MAX).await.unwrap();
    assert_eq!(running, (0..EXECUTIONS).map(id).collect::<Vec<_>>());
    for number in [0, 999, 1_000, 1_001, EXECUTIONS - 1] {
        match store.load(id(number)).await.unwrap() {
            Some(ExecutionBase::Live { segments, .. }) => {
                assert_eq!(segments, [(Seq(1), format!("{number}").into())]);
            }
            other => panic!("execution {number} is {other:?}"),
        }
    }
}

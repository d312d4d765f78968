//! A store on Redis goes with everything in it, and with nothing else.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::redis::{Prefix, RedisServer, options, shared};
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::{Epoch, ExecutionId, FormatRange, Json, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{
    AppendError, Ask, Asked, CacheLimits, CheckpointRow, CommitId, Hold, InboxId, InboxLimits, Member, Membership,
    Semaphores, StateStore, StoreError, Wait,
};

const SHARD: ShardId = ShardId(3);
const LEASE: Duration = Duration::from_secs(120);
/// Each has two keys: more than a server looks through at a time.
const EXECUTIONS: u64 = 400;

fn on_shared(prefix: &Prefix) -> RedisOptions {
    RedisOptions {
        prefix: prefix.name.clone(),
        // The shared server keeps nothing on disk.
        durability: RedisDurability::Volatile,
        ..RedisOptions::new(shared())
    }
}

fn execution(number: u64) -> ExecutionId {
    ExecutionId::fresh(SHARD, Timestamp(1), number)
}

fn row(number: u64) -> CheckpointRow {
    CheckpointRow::Live {
        id: execution(number),
        first: Seq(1),
        last: Seq(1),
        segment: "entries".into(),
        snapshot: Some("snapshot".into()),
        wait: Wait::Until(Timestamp(5)),
    }
}

async fn append(store: &RedisStore, epoch: Epoch) -> Result<(), AppendError> {
    let appended = store.append(SHARD, epoch, LogPosition(1), CommitId(1), "record".into());
    appended.await
}

/// Keys of every kind; the epoch of the owner of [`SHARD`].
async fn fill(options: &RedisOptions) -> (RedisStore, Epoch) {
    let store = RedisStore::open(options).await.unwrap();
    let lease = StateStore::acquire(&store, SHARD, "owner", LEASE).await.unwrap();
    append(&store, lease.epoch).await.unwrap();
    let rows = (0..EXECUTIONS).map(row).collect();
    store.checkpoint(SHARD, lease.epoch, rows, None).await.unwrap();
    let most = InboxLimits { items: 9, bytes: 999 };
    let pushed = store.inbox_push(SHARD, InboxId([1; 32]), "command".into(), most);
    pushed.await.unwrap();
    let (now, later) = (Timestamp(1), Timestamp(999));
    let most = CacheLimits { entries: 9, bytes: 999 };
    let cached = store.cache_output([1; 32], Json::null(), now, later, most);
    cached.await.unwrap();
    let member = Member {
        name: "member".to_owned(),
        address: "http://127.0.0.1:7654".to_owned(),
        draining: false,
        release: "1".to_owned(),
        reads: FormatRange::RELEASE,
        at_most: None,
    };
    store.announce(&member, LEASE).await.unwrap();
    store.secret("secret", b"word").await.unwrap();
    for key in [&b"one"[..], b"two}", b"\xff"] {
        let ask = Ask {
            ticket: b"ticket",
            limit: 1,
            priority: 5,
            since: None,
            hold: Hold::Under(Epoch(1)),
        };
        let asked = Semaphores::acquire(&store, key, &ask).await.unwrap();
        assert_eq!(asked, Asked::Granted);
    }
    (store, lease.epoch)
}

/// Every key of the shared server whose name begins so.
async fn keys(beginning: &str) -> BTreeSet<Vec<u8>> {
    let client = redis::Client::open(shared()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut keys = redis::cmd("KEYS");
    keys.arg(format!("{beginning}*"));
    let keys: Vec<Vec<u8>> = keys.query_async(&mut connection).await.unwrap();
    keys.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_store_goes_and_nothing_of_its_neighbours() {
    let ours = Prefix::new();
    // Some of their keys begin as ours do.
    let neighbours = ["0", ":x", ":s3", ":"].map(|end| Prefix {
        name: format!("{}{end}", ours.name),
    });
    let all = format!("{{{}", ours.name);
    for neighbour in &neighbours {
        fill(&on_shared(neighbour)).await;
    }
    let others = keys(&all).await;
    assert!(others.len() as u64 > 2 * EXECUTIONS * neighbours.len() as u64);

    let (store, epoch) = fill(&on_shared(&ours)).await;
    let own = keys(&all).await.len() - others.len();
    assert!(own as u64 > 2 * EXECUTIONS, "{own} keys");
    let erased = RedisStore::erase(&on_shared(&ours)).await.unwrap();
    assert_eq!(erased, own as u64);
    assert_eq!(keys(&all).await, others, "nothing else");

    // Whoever still has it writes nothing, and there is nothing left for whoever comes next.
    let late = append(&store, epoch).await;
    assert!(
        matches!(late, Err(AppendError::Store(StoreError::Damaged(_)))),
        "got {late:?}"
    );
    assert_eq!(RedisStore::erase(&on_shared(&ours)).await.unwrap(), 0);
    let anew = RedisStore::open(&on_shared(&ours)).await.unwrap();
    assert_eq!(anew.load(execution(1)).await.unwrap(), None);
    for neighbour in &neighbours {
        let neighbour = RedisStore::open(&on_shared(neighbour)).await.unwrap();
        assert!(neighbour.load(execution(1)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_told() {
    let nobody = RedisOptions::new(format!("redis://127.0.0.1:{}", support::free_port()));
    let error = RedisStore::erase(&nobody).await.unwrap_err();
    assert_eq!(error.code(), "REDIS_UNREACHABLE");
    let server = RedisServer::start(&[]);
    for prefix in ["", "*", "a{b"] {
        let options = RedisOptions {
            prefix: prefix.to_owned(),
            ..options(&server, RedisDurability::Volatile)
        };
        let error = RedisStore::erase(&options).await.unwrap_err();
        assert_eq!(error.code(), "REDIS_OPTIONS", "{prefix}");
    }
}

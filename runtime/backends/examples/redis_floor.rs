//! Prints what the store on Redis costs: one record alone, all shards at once, and rows of checkpoints.
//!
//! `cargo run --release -p troupe-backends --example redis_floor redis://127.0.0.1:6379 [CONNECTIONS]`
//!
//! The server is used as it is, whatever its durability; what is written stands under a prefix of its own and is left there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::{ExecutionId, Seq, ShardId, Timestamp};
use troupe_ports::{Archive, CheckpointRow, CommitId, Lease, StateStore, Wait};

const ENTRY_BYTES: usize = 160;
const LEASE: Duration = Duration::from_secs(600);
const TIME: Duration = Duration::from_secs(3);
const SHARDS: u16 = 32;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Appends records of `entries` entries for a while, trimming as a checkpointer would; returns µs a record.
async fn append(store: &RedisStore, lease: &mut Lease, entries: usize) -> Result<Vec<f64>, Failure> {
    let record = Bytes::from(vec![7; ENTRY_BYTES * entries]);
    let started = Instant::now();
    let (mut latencies, mut untrimmed) = (Vec::new(), 0);
    while started.elapsed() < TIME {
        let before = Instant::now();
        let commit = CommitId(lease.next.0.into());
        store
            .append(lease.shard, lease.epoch, lease.next, commit, record.clone())
            .await?;
        latencies.push(before.elapsed().as_secs_f64() * 1e6);
        untrimmed += record.len();
        if untrimmed > 16 << 20 {
            let reached = Some(lease.next);
            store.checkpoint(lease.shard, lease.epoch, vec![], reached).await?;
            store.trim(lease.shard, lease.epoch, lease.next).await?;
            untrimmed = 0;
        }
        lease.next = lease.next.next();
    }
    Ok(latencies)
}

/// What the server says of itself.
struct Server(redis::aio::MultiplexedConnection);

impl Server {
    async fn number(&mut self, section: &str, name: &str) -> Result<f64, Failure> {
        let info: String = redis::cmd("INFO").arg(section).query_async(&mut self.0).await?;
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.map_or(Ok(f64::NAN), |number| number.trim().parse())?)
    }

    /// Bytes received, bytes of the append-only file, seconds of CPU.
    async fn numbers(&mut self) -> Result<[f64; 3], Failure> {
        let cpu = self.number("cpu", "used_cpu_user").await? + self.number("cpu", "used_cpu_sys").await?;
        Ok([
            self.number("stats", "total_net_input_bytes").await?,
            self.number("persistence", "aof_current_size").await?,
            cpu,
        ])
    }
}

fn report(name: &str, entries: usize, mut latencies: Vec<f64>, seconds: f64, before: [f64; 3], after: [f64; 3]) {
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let count = latencies.len() as f64;
    let over = |n: usize| (after[n] - before[n]) / count - (ENTRY_BYTES * entries) as f64;
    println!(
        "{name:<24} {entries:>3} entries  p50 {:>6.0} µs  p99 {:>6.0} µs  {:>7.0} appends/s  {:>8.0} entries/s  \
         + {:>4.0} B sent, + {:>4.0} B in the file, {:>5.1} µs of the server",
        at(0.5),
        at(0.99),
        count / seconds,
        count * entries as f64 / seconds,
        over(0),
        over(1),
        (after[2] - before[2]) / count * 1e6,
    );
}

fn live(shard: ShardId, number: u64, seq: u64) -> CheckpointRow {
    CheckpointRow::Live {
        id: ExecutionId::fresh(shard, Timestamp(1), number),
        first: Seq(seq),
        last: Seq(seq),
        segment: vec![7; 600].into(),
        snapshot: seq.is_multiple_of(2).then(|| vec![7; 600].into()),
        wait: Wait::Until(Timestamp(1)),
    }
}

fn ended(shard: ShardId, number: u64) -> CheckpointRow {
    CheckpointRow::Ended(Archive {
        id: ExecutionId::fresh(shard, Timestamp(2), number),
        last: Seq(9),
        bytes: vec![7; 900].into(),
        expires_at: Timestamp(i64::MAX),
        tombstone_ms: 0,
    })
}

async fn rows(
    name: &str,
    store: &RedisStore,
    server: &mut Server,
    lease: &Lease,
    row: impl Fn(u64) -> CheckpointRow,
) -> Result<(), Failure> {
    const CHUNK: u64 = 500;
    const CHUNKS: u64 = 20;
    let (started, before) = (Instant::now(), server.numbers().await?);
    let memory = server.number("memory", "used_memory").await?;
    for chunk in 0..CHUNKS {
        let rows = (chunk * CHUNK..(chunk + 1) * CHUNK).map(&row).collect();
        store.checkpoint(lease.shard, lease.epoch, rows, None).await?;
    }
    let (seconds, after) = (started.elapsed().as_secs_f64(), server.numbers().await?);
    let rows = (CHUNK * CHUNKS) as f64;
    println!(
        "{name:<24} {:>7.0} rows/s, {:>5.1} ms a chunk of {CHUNK}, {:>5.1} µs of the server a row, {:>5.0} B of memory a row",
        rows / seconds,
        seconds / CHUNKS as f64 * 1e3,
        (after[2] - before[2]) / rows * 1e6,
        (server.number("memory", "used_memory").await? - memory) / rows
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let options = RedisOptions {
        prefix: format!("floor-{}", std::process::id()),
        shards: SHARDS,
        durability: RedisDurability::Volatile,
        connections: std::env::args().nth(2).map(|count| count.parse()).transpose()?,
        ..RedisOptions::new(&url)
    };
    let store = Arc::new(RedisStore::open(&options).await?);
    let mut server = Server(redis::Client::open(url)?.get_multiplexed_async_connection().await?);
    let mut leases = Vec::new();
    for shard in 0..SHARDS {
        leases.push(store.acquire(ShardId(shard), "floor", LEASE).await?);
    }
    for entries in [1, 64] {
        let (started, before) = (Instant::now(), server.numbers().await?);
        let latencies = append(&store, &mut leases[0], entries).await?;
        let seconds = started.elapsed().as_secs_f64();
        report(
            "one shard",
            entries,
            latencies,
            seconds,
            before,
            server.numbers().await?,
        );
    }
    for entries in [1, 64, 256] {
        let (started, before) = (Instant::now(), server.numbers().await?);
        let tasks = leases.drain(..).map(|mut lease| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let latencies = append(&store, &mut lease, entries).await?;
                Ok::<_, Failure>((lease, latencies))
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let mut latencies = Vec::new();
        for task in tasks {
            let (lease, of_shard) = task.await??;
            leases.push(lease);
            latencies.extend(of_shard);
        }
        let seconds = started.elapsed().as_secs_f64();
        report(
            "32 shards",
            entries,
            latencies,
            seconds,
            before,
            server.numbers().await?,
        );
    }
    let (lease, shard) = (&leases[0], leases[0].shard);
    rows("new live executions", &store, &mut server, lease, |n| live(shard, n, 1)).await?;
    rows("their next segments", &store, &mut server, lease, |n| live(shard, n, 2)).await?;
    rows("archives", &store, &mut server, lease, |n| ended(shard, n)).await?;
    let mut reads = 0;
    let started = Instant::now();
    for number in 0..2_000 {
        let id = ExecutionId::fresh(shard, Timestamp(1), number);
        reads += usize::from(store.load(id).await?.is_some());
    }
    println!(
        "{:<24} {:>7.0} a second, one after the other",
        "loads",
        f64::from(u32::try_from(reads)?) / started.elapsed().as_secs_f64()
    );
    Ok(())
}

//! Prints what the embedded store costs on this disk: one record alone, packed records, and archive rows beside the log.
//!
//! `cargo run --release -p troupe-backends --example log_floor [DIRECTORY]`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use troupe_backends::{EmbeddedStore, StoreOptions};
use troupe_core::{ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{Archive, CheckpointRow, CommitId, Lease, StateStore};

const ENTRY_BYTES: usize = 160;
const LEASE: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Appends records of `entries` entries for a while, trimming as a checkpointer would; returns µs a record.
async fn append(store: &EmbeddedStore, lease: &mut Lease, entries: usize, time: Duration) -> Result<Vec<f64>, Failure> {
    let record = Bytes::from(vec![7; ENTRY_BYTES * entries]);
    let started = Instant::now();
    let (mut latencies, mut untrimmed) = (Vec::new(), 0);
    while started.elapsed() < time {
        let before = Instant::now();
        store
            .append(
                lease.shard,
                lease.epoch,
                lease.next,
                CommitId(lease.next.0.into()),
                record.clone(),
            )
            .await?;
        latencies.push(before.elapsed().as_secs_f64() * 1e6);
        untrimmed += record.len();
        if untrimmed > 16 << 20 {
            store
                .checkpoint(lease.shard, lease.epoch, vec![], Some(lease.next))
                .await?;
            store.trim(lease.shard, lease.epoch, lease.next).await?;
            untrimmed = 0;
        }
        lease.next = lease.next.next();
    }
    Ok(latencies)
}

fn report(name: &str, entries: usize, mut latencies: Vec<f64>, seconds: f64) {
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    println!(
        "{name:<28} p50 {:>7.0} µs  p99 {:>7.0} µs  max {:>7.0} µs  {:>9.0} entries/s",
        at(0.5),
        at(0.99),
        at(1.0),
        (latencies.len() * entries) as f64 / seconds
    );
}

fn cpu_seconds() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return f64::NAN;
    };
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields
        .iter()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// What the disk itself needs: overwriting 4 KiB and `fdatasync`.
fn disk_floor(directory: &std::path::Path) -> Result<f64, Failure> {
    use std::os::unix::fs::FileExt;
    let path = directory.join("floor");
    let file = std::fs::File::create(&path)?;
    let page = [7; 4_096];
    file.write_all_at(&vec![0; 4 << 20], 0)?;
    file.sync_all()?;
    let mut latencies: Vec<f64> = Vec::new();
    for round in 0..2_000 {
        let before = Instant::now();
        file.write_all_at(&page, (round % 1_024) * 4_096)?;
        file.sync_data()?;
        latencies.push(before.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(path)?;
    latencies.sort_by(f64::total_cmp);
    Ok(latencies[latencies.len() / 2])
}

/// Archives rows of about a kilobyte on all shards, 500 a chunk.
async fn archive(store: Arc<EmbeddedStore>, stop: Arc<AtomicBool>, rows: Arc<AtomicU64>) -> Result<(), Failure> {
    let mut leases = Vec::new();
    for shard in 1..store.shards() {
        leases.push(store.acquire(ShardId(shard), "floor", LEASE).await?);
    }
    let mut number = 0_u64;
    let bytes = Bytes::from(vec![5; 900]);
    while !stop.load(Ordering::Relaxed) {
        let lease = &leases[number as usize / 500 % leases.len()];
        let chunk = (0..500).map(|_| {
            number += 1;
            let random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let id = ExecutionId::fresh(lease.shard, Timestamp(number as i64 / 10), random);
            let (last, expires_at) = (Seq(20), Timestamp(i64::MAX));
            CheckpointRow::Ended(Archive {
                id,
                last,
                bytes: bytes.clone(),
                expires_at,
                tombstone_ms: 1,
            })
        });
        store
            .checkpoint(lease.shard, lease.epoch, chunk.collect(), Some(LogPosition(0)))
            .await?;
        rows.fetch_add(500, Ordering::Relaxed);
    }
    Ok(())
}

async fn many_shards(store: &Arc<EmbeddedStore>, entries: usize, time: Duration) -> Result<(), Failure> {
    let mut tasks = Vec::new();
    for shard in 0..store.shards() {
        let store = Arc::clone(store);
        tasks.push(tokio::spawn(async move {
            let mut lease = store.acquire(ShardId(shard), "floor", LEASE).await?;
            append(&store, &mut lease, entries, time).await
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    report(
        &format!("{} shards, {entries} entries", store.shards()),
        entries,
        latencies,
        time.as_secs_f64(),
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = std::env::args().nth(1).map_or_else(
        || std::env::current_dir().map(|here| here.join("target").join(format!("log-floor-{}", std::process::id()))),
        |given| Ok(PathBuf::from(given)),
    )?;
    std::fs::create_dir_all(&directory)?;
    println!("fdatasync of 4 KiB           p50 {:>7.0} µs", disk_floor(&directory)?);
    let store = Arc::new(EmbeddedStore::open(&directory, &StoreOptions::default())?);
    let mut lease = store.acquire(ShardId(0), "floor", LEASE).await?;
    let time = Duration::from_secs(3);
    // The first pass creates the blocks of the WAL that later ones overwrite.
    append(&store, &mut lease, 64, Duration::from_secs(1)).await?;
    for entries in [1, 64, 256] {
        let before = store.counters();
        let latencies = append(&store, &mut lease, entries, time).await?;
        report(
            &format!("1 shard, {entries} entries"),
            entries,
            latencies,
            time.as_secs_f64(),
        );
        let after = store.counters();
        println!(
            "{:<28} {} commits, {} fsyncs",
            "",
            after.commits - before.commits,
            after.fsyncs - before.fsyncs
        );
    }
    for entries in [1, 8, 64] {
        many_shards(&store, entries, time).await?;
    }

    let (stop, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let archiver = tokio::spawn(archive(Arc::clone(&store), Arc::clone(&stop), Arc::clone(&rows)));
    let mut lease = store.acquire(ShardId(0), "floor", LEASE).await?;
    let (cpu, started) = (cpu_seconds(), Instant::now());
    let latencies = append(&store, &mut lease, 64, time * 2).await?;
    let seconds = started.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    archiver.await??;
    report("beside archiving, 64 entries", 64, latencies, seconds);
    let archived = rows.load(Ordering::Relaxed) as f64 / seconds;
    println!(
        "{:<28} {archived:.0} archive rows/s, {:.0} % of a core",
        "",
        (cpu_seconds() - cpu) / seconds * 100.0
    );
    drop(store);
    for file in std::fs::read_dir(&directory)? {
        let file = file?;
        println!(
            "{:<28} {:>12} bytes",
            file.file_name().to_string_lossy(),
            file.metadata()?.len()
        );
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

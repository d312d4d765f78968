//! What was acknowledged survives a killed process whose unsynced writes are lost; without syncs it does not.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use troupe_backends::{DurabilityMutant, EmbeddedStore, PowerLoss, StoreOptions};
use troupe_core::{ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{CheckpointRow, CommitId, ExecutionBase, LogRecord, StateStore, Wait};

const DIRECTORY: &str = "TROUPE_TEST_DIRECTORY";
const MUTANT: &str = "TROUPE_TEST_SYNCHRONOUS_OFF";
const TEARS: &str = "TROUPE_TEST_TEARS";
const SHARD: ShardId = ShardId(3);
const LEASE: Duration = Duration::from_secs(60);
/// A checkpoint and a trim follow every so many records.
const CHECKPOINT_EVERY: u64 = 25;

fn options(power_loss: PowerLoss, mutant: Option<DurabilityMutant>) -> StoreOptions {
    StoreOptions {
        power_loss,
        mutant,
        ..StoreOptions::default()
    }
}

fn content(position: u64) -> Bytes {
    Bytes::from(format!("record {position} ").repeat(1 + position as usize % 700))
}

fn execution(position: u64) -> ExecutionId {
    ExecutionId::fresh(SHARD, Timestamp(1), position)
}

/// Appends, checkpoints and trims until it is killed, and says on its output what was acknowledged.
#[tokio::test]
#[ignore = "the other tests run it in a process of its own"]
async fn writer_process() {
    let directory = std::env::var(DIRECTORY).unwrap();
    let mutant = std::env::var(MUTANT)
        .is_ok()
        .then_some(DurabilityMutant::SynchronousOff);
    let power_loss = match std::env::var(TEARS) {
        Ok(seed) => PowerLoss::TearsUnsynced {
            seed: seed.parse().unwrap(),
        },
        Err(_) => PowerLoss::DropsUnsynced,
    };
    let store = EmbeddedStore::open(Path::new(&directory), &options(power_loss, mutant)).unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    for position in lease.next.0.. {
        let at = LogPosition(position);
        let commit = CommitId(position.into());
        store
            .append(SHARD, lease.epoch, at, commit, content(position))
            .await
            .unwrap();
        println!("acknowledged {position}");
        if position % CHECKPOINT_EVERY == 0 {
            let row = CheckpointRow::Live {
                id: execution(position),
                first: Seq(1),
                last: Seq(1),
                segment: content(position),
                snapshot: None,
                wait: Wait::Running,
            };
            store.checkpoint(SHARD, lease.epoch, vec![row], Some(at)).await.unwrap();
            println!("checkpointed {position}");
            store
                .trim(SHARD, lease.epoch, LogPosition(position - CHECKPOINT_EVERY))
                .await
                .unwrap();
        }
    }
}

/// Runs the writer until it has acknowledged `records`, kills it, and returns the last of what it said of each kind.
fn run_and_kill(directory: &Path, mutant: bool, tears: Option<u64>, records: usize) -> (u64, u64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "writer_process", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory);
    if mutant {
        command.env(MUTANT, "1");
    }
    if let Some(seed) = tears {
        command.env(TEARS, seed.to_string());
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let (mut acknowledged, mut checkpointed) = (Vec::new(), 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(position) = line.strip_prefix("acknowledged ") {
            acknowledged.push(position.parse().unwrap());
        } else if let Some(position) = line.strip_prefix("checkpointed ") {
            checkpointed = position.parse().unwrap();
        }
        if acknowledged.len() == records {
            // A kill at once would always find the next append before its sync.
            let later = 1_500 * tears.unwrap_or(records as u64) % 4_001;
            std::thread::sleep(Duration::from_micros(later));
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= records, "the writer ended by itself");
    (*acknowledged.last().unwrap(), checkpointed)
}

/// What a new process finds: the checkpoint position, the records, and the last checkpointed execution.
async fn find(directory: &Path) -> (LogPosition, Vec<LogRecord>, Option<ExecutionBase>) {
    let store = EmbeddedStore::open(directory, &options(PowerLoss::Never, None)).unwrap();
    let lease = store.acquire(SHARD, "finder", LEASE).await.unwrap();
    let records = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
    let base = store.load(execution(lease.checkpointed.0)).await.unwrap();
    (lease.checkpointed, records, base)
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_failure() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=8 {
        let tears = (round % 2 == 0).then_some(round as u64);
        let (acknowledged, checkpointed) = run_and_kill(directory.path(), false, tears, 30 + 37 * round);
        let (position, records, base) = find(directory.path()).await;
        assert!(
            position >= LogPosition(checkpointed),
            "the checkpoint at {checkpointed} was lost: {position}"
        );
        assert!(
            matches!(base, Some(ExecutionBase::Live { .. })),
            "the checkpoint's row was lost: {base:?}"
        );
        let last = records.last().unwrap().position;
        assert!(
            last >= LogPosition(acknowledged),
            "round {round}: {acknowledged} was acknowledged, {last} is the last"
        );
        assert!(records[0].position <= position.next(), "trimmed past the checkpoint");
        for record in &records {
            assert_eq!(record.bytes, content(record.position.0), "record {}", record.position);
        }
    }
}

/// The layer tears: bytes of an append that was under way are in the file, and the append never happened.
#[tokio::test]
async fn a_power_failure_during_a_sync_leaves_a_part_behind() {
    for seed in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        let (acknowledged, _) = run_and_kill(directory.path(), false, Some(seed), 20);
        let under_way = format!("record {} ", acknowledged + 1);
        let wal = std::fs::read(directory.path().join("log.db-wal")).unwrap();
        let left_behind = wal.windows(under_way.len()).any(|part| part == under_way.as_bytes());
        let (_, records, _) = find(directory.path()).await;
        if left_behind && records.last().unwrap().position == LogPosition(acknowledged) {
            return;
        }
    }
    panic!("no append was torn");
}

#[tokio::test]
async fn without_syncs_what_was_acknowledged_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (acknowledged, _) = run_and_kill(directory.path(), true, None, 60);
    let (_, records, _) = find(directory.path()).await;
    let found = records.last().map_or(0, |record| record.position.0);
    assert!(
        found < acknowledged,
        "{acknowledged} was acknowledged without a sync, yet {found} was found after the kill"
    );
}

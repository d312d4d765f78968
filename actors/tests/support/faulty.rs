//! A store on Redis behind faults that come between a call and its answer.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use troupe_backends::RedisStore;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, ShardId, StateFormat, Timestamp};
use troupe_ports::{
    AppendError, BlobsPut, CacheLimits, CheckpointRow, CommitId, ExecutionBase, Expired, Holder, InboxId, InboxItem,
    InboxLimits, InboxPush, Lease, LogEnd, LogRecord, SpoolChunk, StateStore, StoreCounters, StoreError,
};

use crate::ask;

/// What happens at the next append.
pub enum Fault {
    /// It takes place and somebody sees it, but whoever asked hears nothing; a failover takes it along, and the record before.
    LostOnceSeen,
    /// The store says that it went back. So often, where the log ends is then told by a server that lacks the last record, while another one
    /// is given what it lacks.
    TwoServers(u32),
}

/// Hands everything on to the store below, but for the next fault, and for whom a panic is planted.
pub struct Faulty {
    store: Arc<RedisStore>,
    port: u16,
    next: Mutex<Option<Fault>>,
    behind: AtomicU32,
    taken_back: AtomicU32,
    panics_at: Mutex<Option<ExecutionId>>,
}

impl Faulty {
    pub fn new(store: Arc<RedisStore>, port: u16) -> Self {
        Self {
            store,
            port,
            next: Mutex::new(None),
            behind: AtomicU32::new(0),
            taken_back: AtomicU32::new(0),
            panics_at: Mutex::new(None),
        }
    }

    pub fn plant(&self, fault: Fault) {
        *self.next.lock().unwrap() = Some(fault);
    }

    /// Whoever loads this one panics from now on.
    pub fn plant_panic(&self, id: ExecutionId) {
        *self.panics_at.lock().unwrap() = Some(id);
    }

    /// How often somebody asked where the log ends, to give it what it lacks.
    pub fn taken_back(&self) -> u32 {
        self.taken_back.load(Ordering::SeqCst)
    }
}

type Told<T> = Result<T, StoreError>;

macro_rules! hand_on {
    ($($call:ident($($name:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl StateStore for Faulty {
            fn backend(&self) -> &'static str {
                self.store.backend()
            }

            fn shards(&self) -> u16 {
                self.store.shards()
            }

            fn may_lose_acknowledged(&self) -> bool {
                self.store.may_lose_acknowledged()
            }

            fn may_come_back_older(&self) -> bool {
                self.store.may_come_back_older()
            }

            fn counters(&self) -> StoreCounters {
                self.store.counters()
            }

            async fn append(
                &self,
                shard: ShardId,
                epoch: Epoch,
                position: LogPosition,
                commit: CommitId,
                record: Bytes,
            ) -> Result<(), AppendError> {
                let fault = self.next.lock().unwrap().take();
                if let Some(Fault::TwoServers(behind)) = fault {
                    self.behind.store(behind, Ordering::SeqCst);
                    return Err(StoreError::WentBack("planted".into()).into());
                }
                let appended = self.store.append(shard, epoch, position, commit, record).await;
                if fault.is_some() {
                    assert_eq!(self.store.read(shard, position, 1).await?.len(), 1);
                    ask(self.port, "LTRIM {p:s0}l 0 -3").await;
                    return Err(StoreError::Unavailable("planted".into()).into());
                }
                appended
            }

            async fn take_back(&self, shard: ShardId, epoch: Epoch, owner: &str, lease: Duration) -> Told<LogEnd> {
                let end = self.store.take_back(shard, epoch, owner, lease).await?;
                self.taken_back.fetch_add(1, Ordering::SeqCst);
                let take = |left: u32| left.checked_sub(1);
                if self.behind.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
                    return Ok(end);
                }
                let before = self.store.read(shard, LogPosition(end.next.0 - 2), 1).await?;
                Ok(LogEnd {
                    next: LogPosition(end.next.0 - 1),
                    last: before.first().map(|record| record.commit),
                })
            }

            async fn load(&self, id: ExecutionId) -> Told<Option<ExecutionBase>> {
                let is_planted = *self.panics_at.lock().unwrap() == Some(id);
                assert!(!is_planted, "planted in the store");
                self.store.load(id).await
            }

            $(async fn $call(&self, $($name: $type),*) -> $answer {
                self.store.$call($($name),*).await
            })*
        }
    };
}

hand_on! {
    holder(shard: ShardId) -> Told<Holder>;
    acquire_under(shard: ShardId, owner: &str, lease: Duration, epoch: Option<Epoch>) -> Told<Lease>;
    renew(shard: ShardId, epoch: Epoch, lease: Duration) -> Told<Timestamp>;
    release(shard: ShardId, epoch: Epoch) -> Told<()>;
    set_format(shard: ShardId, epoch: Epoch, format: StateFormat) -> Told<()>;
    settle_loss(shard: ShardId, epoch: Epoch) -> Told<()>;
    stored(shard: ShardId) -> Told<Vec<ExecutionId>>;
    rewrite(shard: ShardId, epoch: Epoch, id: ExecutionId, base: ExecutionBase) -> Told<bool>;
    give_back(
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes
    ) -> Result<(), AppendError>;
    read(shard: ShardId, from: LogPosition, bytes_max: usize) -> Told<Vec<LogRecord>>;
    checkpoint(shard: ShardId, epoch: Epoch, rows: Vec<CheckpointRow>, reached: Option<LogPosition>) -> Told<()>;
    trim(shard: ShardId, epoch: Epoch, up_to: LogPosition) -> Told<()>;
    head(key: ExecutionId) -> Told<Option<u64>>;
    timers_due(shard: ShardId, until: Timestamp, limit: usize) -> Told<Vec<(Timestamp, ExecutionId)>>;
    running(shard: ShardId, after: Option<ExecutionId>, limit: usize) -> Told<Vec<ExecutionId>>;
    live_counts(shard: ShardId) -> Told<(u64, u64)>;
    cursor(shard: ShardId, sink: &str) -> Told<LogPosition>;
    set_cursor(shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> Told<()>;
    spool(shard: ShardId, epoch: Epoch, sink: &str, up_to: LogPosition, chunk: Bytes) -> Told<()>;
    rewrite_spool(shard: ShardId, epoch: Epoch, sink: &str, up_to: LogPosition, chunk: Bytes) -> Told<()>;
    spooled(shard: ShardId, sink: &str, after: LogPosition, bytes_max: usize) -> Told<Vec<SpoolChunk>>;
    spool_extent(shard: ShardId, sink: &str) -> Told<Vec<(LogPosition, u64)>>;
    keep_cursors(shard: ShardId, epoch: Epoch, sinks: &[&str]) -> Told<()>;
    expired(shard: ShardId, now: Timestamp, limit: usize) -> Told<Vec<ExecutionId>>;
    expire(shard: ShardId, epoch: Epoch, now: Timestamp, archives: &[ExecutionId], limit: usize) -> Told<Expired>;
    set_quarantine(shard: ShardId, epoch: Epoch, id: ExecutionId, reason: Option<&str>) -> Told<()>;
    quarantined(shard: ShardId) -> Told<Vec<(ExecutionId, String)>>;
    put_blobs(
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        now: Timestamp,
        blobs: Vec<(BlobRef, Json)>,
        bytes_max: u64
    ) -> Told<BlobsPut>;
    give_blobs_back(
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        now: Timestamp,
        blobs: Vec<(BlobRef, Json)>,
        bytes_max: u64
    ) -> Told<BlobsPut>;
    blob(root: ExecutionId, hash: [u8; 32]) -> Told<Option<Json>>;
    unconfirmed_blobs(shard: ShardId, before: Timestamp, limit: usize) -> Told<Vec<ExecutionId>>;
    settle_blobs(shard: ShardId, epoch: Epoch, root: ExecutionId, exists: bool) -> Told<()>;
    inbox_push(shard: ShardId, id: InboxId, bytes: Bytes, most: InboxLimits) -> Told<InboxPush>;
    inbox_read(shard: ShardId, after: u64, bytes_max: usize) -> Told<Vec<InboxItem>>;
    inbox_remove(shard: ShardId, epoch: Epoch, ids: &[InboxId]) -> Told<()>;
    cached_output(key: [u8; 32], now: Timestamp) -> Told<Option<Json>>;
    cache_output(key: [u8; 32], output: Json, now: Timestamp, expires_at: Timestamp, most: CacheLimits) -> Told<()>;
}

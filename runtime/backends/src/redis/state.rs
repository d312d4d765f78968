//! The `StateStore` of Redis: which method does what.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, ShardId, StateFormat, Timestamp};
use troupe_ports::{
    AppendError, BlobsPut, CacheLimits, CheckpointRow, CommitId, ExecutionBase, Expired, Holder, InboxId, InboxItem,
    InboxLimits, InboxPush, Lease, LogEnd, LogRecord, SpoolChunk, StateStore, StoreCounters, StoreError,
};

use super::{RedisDurability, RedisStore};

#[async_trait]
impl StateStore for RedisStore {
    fn backend(&self) -> &'static str {
        "redis"
    }

    fn may_lose_acknowledged(&self) -> bool {
        self.durability != RedisDurability::Strict
    }

    fn may_come_back_older(&self) -> bool {
        true
    }

    fn shards(&self) -> u16 {
        u16::try_from(self.layout.shards.len()).unwrap_or(u16::MAX)
    }

    async fn holder(&self, shard: ShardId) -> Result<Holder, StoreError> {
        self.read_holder(shard).await
    }

    async fn acquire_under(
        &self,
        shard: ShardId,
        owner: &str,
        lease: Duration,
        epoch: Option<Epoch>,
    ) -> Result<Lease, StoreError> {
        self.acquire_shard(shard, owner, lease, epoch).await
    }

    async fn renew(&self, shard: ShardId, epoch: Epoch, lease: Duration) -> Result<Timestamp, StoreError> {
        self.renew_lease(shard, epoch, lease).await
    }

    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.release_shard(shard, epoch).await
    }

    async fn set_format(&self, shard: ShardId, epoch: Epoch, format: StateFormat) -> Result<(), StoreError> {
        self.write_format(shard, epoch, format).await
    }

    async fn settle_loss(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.forget_loss(shard, epoch).await
    }

    async fn stored(&self, shard: ShardId) -> Result<Vec<ExecutionId>, StoreError> {
        self.stored_executions(shard).await
    }

    async fn rewrite(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        base: ExecutionBase,
    ) -> Result<bool, StoreError> {
        self.rewrite_base((shard, epoch), id, &base).await
    }

    async fn append(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        let kept = self.marks.of(shard).kept;
        self.append_record((shard, epoch), position, commit, &record, kept)
            .await
    }

    async fn give_back(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        self.append_record((shard, epoch), position, commit, &record, 0).await
    }

    async fn take_back(
        &self,
        shard: ShardId,
        epoch: Epoch,
        owner: &str,
        lease: Duration,
    ) -> Result<LogEnd, StoreError> {
        self.take_shard_back(shard, epoch, owner, lease).await
    }

    async fn read(&self, shard: ShardId, from: LogPosition, bytes_max: usize) -> Result<Vec<LogRecord>, StoreError> {
        self.read_records(shard, from, bytes_max).await
    }

    async fn checkpoint(
        &self,
        shard: ShardId,
        epoch: Epoch,
        rows: Vec<CheckpointRow>,
        reached: Option<LogPosition>,
    ) -> Result<(), StoreError> {
        self.apply_checkpoint(shard, epoch, &rows, reached).await
    }

    async fn trim(&self, shard: ShardId, epoch: Epoch, up_to: LogPosition) -> Result<(), StoreError> {
        self.trim_records(shard, epoch, up_to).await
    }

    async fn load(&self, id: ExecutionId) -> Result<Option<ExecutionBase>, StoreError> {
        self.load_base(id).await
    }

    async fn head(&self, key: ExecutionId) -> Result<Option<u64>, StoreError> {
        self.read_head(key).await
    }

    async fn timers_due(
        &self,
        shard: ShardId,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>, StoreError> {
        self.due(shard, until, limit).await
    }

    async fn running(
        &self,
        shard: ShardId,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.running_after(shard, after, limit).await
    }

    async fn live_counts(&self, shard: ShardId) -> Result<(u64, u64), StoreError> {
        self.counts(shard).await
    }

    async fn cursor(&self, shard: ShardId, sink: &str) -> Result<LogPosition, StoreError> {
        self.read_cursor(shard, sink).await
    }

    async fn set_cursor(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        self.move_cursor(shard, epoch, sink, to).await
    }

    async fn spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        self.put_spool((shard, epoch), sink, up_to, &chunk).await
    }

    async fn rewrite_spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        self.rewrite_chunk((shard, epoch), sink, up_to, &chunk).await
    }

    async fn spooled(
        &self,
        shard: ShardId,
        sink: &str,
        after: LogPosition,
        bytes_max: usize,
    ) -> Result<Vec<SpoolChunk>, StoreError> {
        self.read_spool(shard, sink, after, bytes_max).await
    }

    async fn spool_extent(&self, shard: ShardId, sink: &str) -> Result<Vec<(LogPosition, u64)>, StoreError> {
        self.measure_spool(shard, sink).await
    }

    async fn keep_cursors(&self, shard: ShardId, epoch: Epoch, sinks: &[&str]) -> Result<(), StoreError> {
        self.forget_other_cursors(shard, epoch, sinks).await
    }

    async fn expired(&self, shard: ShardId, now: Timestamp, limit: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.expired_archives(shard, now, limit).await
    }

    async fn expire(
        &self,
        shard: ShardId,
        epoch: Epoch,
        now: Timestamp,
        archives: &[ExecutionId],
        limit: usize,
    ) -> Result<Expired, StoreError> {
        self.expire_archives(shard, epoch, now, archives, limit).await
    }

    async fn set_quarantine(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        self.write_quarantine(shard, epoch, id, reason).await
    }

    async fn quarantined(&self, shard: ShardId) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.read_quarantine(shard).await
    }

    async fn put_blobs(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        now: Timestamp,
        blobs: Vec<(BlobRef, Json)>,
        bytes_max: u64,
    ) -> Result<BlobsPut, StoreError> {
        self.keep_blobs((shard, epoch), root, now, &blobs, (bytes_max, false))
            .await
    }

    async fn give_blobs_back(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        now: Timestamp,
        blobs: Vec<(BlobRef, Json)>,
        bytes_max: u64,
    ) -> Result<BlobsPut, StoreError> {
        self.keep_blobs((shard, epoch), root, now, &blobs, (bytes_max, true))
            .await
    }

    async fn blob(&self, root: ExecutionId, hash: [u8; 32]) -> Result<Option<Json>, StoreError> {
        self.read_blob(root, hash).await
    }

    async fn unconfirmed_blobs(
        &self,
        shard: ShardId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.unconfirmed_roots(shard, before, limit).await
    }

    async fn settle_blobs(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        exists: bool,
    ) -> Result<(), StoreError> {
        self.settle_root((shard, epoch), root, exists).await
    }

    async fn inbox_push(
        &self,
        shard: ShardId,
        id: InboxId,
        bytes: Bytes,
        most: InboxLimits,
    ) -> Result<InboxPush, StoreError> {
        self.push_to_inbox(shard, id, &bytes, most).await
    }

    async fn inbox_read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<InboxItem>, StoreError> {
        self.read_inbox(shard, after, bytes_max).await
    }

    async fn inbox_remove(&self, shard: ShardId, epoch: Epoch, ids: &[InboxId]) -> Result<(), StoreError> {
        self.remove_from_inbox(shard, epoch, ids).await
    }

    async fn cached_output(&self, key: [u8; 32], now: Timestamp) -> Result<Option<Json>, StoreError> {
        self.find_output(key, now).await
    }

    async fn cache_output(
        &self,
        key: [u8; 32],
        output: Json,
        now: Timestamp,
        expires_at: Timestamp,
        most: CacheLimits,
    ) -> Result<(), StoreError> {
        self.keep_output(key, &output, (now, expires_at), most).await
    }

    /// Redis syncs once a turn of its loop for all that came in it and tells nobody: under strict durability every
    /// acknowledged append counts as one fsync, which is the upper bound; otherwise none is asked for.
    fn counters(&self) -> StoreCounters {
        let appends = self.appends.load(Ordering::Relaxed);
        StoreCounters {
            commits: appends,
            appends,
            fsyncs: if self.durability == RedisDurability::Strict {
                appends
            } else {
                0
            },
        }
    }
}

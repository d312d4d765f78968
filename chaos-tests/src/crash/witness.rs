//! A store that tells the observer who took which shard, and which records it acknowledged and refused.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, ShardId, Timestamp};
use troupe_ports::{
    AppendError, BlobsPut, CacheLimits, CheckpointRow, CommitId, ExecutionBase, Expired, Holder, Lease, LogRecord,
    SpoolChunk, StateStore, StoreCounters, StoreError,
};

use super::record::Record;

/// Hands everything on to the store below.
pub(super) struct Witness(pub(super) Arc<dyn StateStore>);

#[async_trait]
impl StateStore for Witness {
    fn backend(&self) -> &'static str {
        self.0.backend()
    }

    fn shards(&self) -> u16 {
        self.0.shards()
    }

    async fn holder(&self, shard: ShardId) -> Result<Holder, StoreError> {
        self.0.holder(shard).await
    }

    async fn acquire_under(
        &self,
        shard: ShardId,
        owner: &str,
        lease: Duration,
        epoch: Option<Epoch>,
    ) -> Result<Lease, StoreError> {
        let acquired = self.0.acquire_under(shard, owner, lease, epoch).await?;
        Record::Acquired {
            shard: shard.0,
            epoch: acquired.epoch.0,
            next: acquired.next.0,
        }
        .emit();
        Ok(acquired)
    }

    async fn renew(&self, shard: ShardId, epoch: Epoch, lease: Duration) -> Result<Timestamp, StoreError> {
        self.0.renew(shard, epoch, lease).await
    }

    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.0.release(shard, epoch).await
    }

    async fn append(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        let appended = self.0.append(shard, epoch, position, commit, record).await;
        let (shard, epoch, position) = (shard.0, epoch.0, position.0);
        match &appended {
            Ok(()) => Record::Appended { shard, epoch, position }.emit(),
            Err(AppendError::Store(StoreError::Fenced { .. })) => Record::Refused { shard, epoch }.emit(),
            Err(AppendError::Store(_) | AppendError::Conflict { .. }) => {}
        }
        appended
    }

    async fn read(&self, shard: ShardId, from: LogPosition, bytes_max: usize) -> Result<Vec<LogRecord>, StoreError> {
        self.0.read(shard, from, bytes_max).await
    }

    async fn checkpoint(
        &self,
        shard: ShardId,
        epoch: Epoch,
        rows: Vec<CheckpointRow>,
        reached: Option<LogPosition>,
    ) -> Result<(), StoreError> {
        self.0.checkpoint(shard, epoch, rows, reached).await
    }

    async fn trim(&self, shard: ShardId, epoch: Epoch, up_to: LogPosition) -> Result<(), StoreError> {
        self.0.trim(shard, epoch, up_to).await
    }

    async fn load(&self, id: ExecutionId) -> Result<Option<ExecutionBase>, StoreError> {
        self.0.load(id).await
    }

    async fn head(&self, key: ExecutionId) -> Result<Option<u64>, StoreError> {
        self.0.head(key).await
    }

    async fn timers_due(
        &self,
        shard: ShardId,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>, StoreError> {
        self.0.timers_due(shard, until, limit).await
    }

    async fn running(
        &self,
        shard: ShardId,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.0.running(shard, after, limit).await
    }

    async fn live_counts(&self, shard: ShardId) -> Result<(u64, u64), StoreError> {
        self.0.live_counts(shard).await
    }

    async fn cursor(&self, shard: ShardId, sink: &str) -> Result<LogPosition, StoreError> {
        self.0.cursor(shard, sink).await
    }

    async fn set_cursor(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        self.0.set_cursor(shard, epoch, sink, to).await
    }

    async fn spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        self.0.spool(shard, epoch, sink, up_to, chunk).await
    }

    async fn spooled(
        &self,
        shard: ShardId,
        sink: &str,
        after: LogPosition,
        bytes_max: usize,
    ) -> Result<Vec<SpoolChunk>, StoreError> {
        self.0.spooled(shard, sink, after, bytes_max).await
    }

    async fn spool_extent(&self, shard: ShardId, sink: &str) -> Result<Vec<(LogPosition, u64)>, StoreError> {
        self.0.spool_extent(shard, sink).await
    }

    async fn keep_cursors(&self, shard: ShardId, epoch: Epoch, sinks: &[&str]) -> Result<(), StoreError> {
        self.0.keep_cursors(shard, epoch, sinks).await
    }

    async fn expired(&self, shard: ShardId, now: Timestamp, limit: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.0.expired(shard, now, limit).await
    }

    async fn expire(
        &self,
        shard: ShardId,
        epoch: Epoch,
        now: Timestamp,
        archives: &[ExecutionId],
        limit: usize,
    ) -> Result<Expired, StoreError> {
        self.0.expire(shard, epoch, now, archives, limit).await
    }

    async fn set_quarantine(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        self.0.set_quarantine(shard, epoch, id, reason).await
    }

    async fn quarantined(&self, shard: ShardId) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.0.quarantined(shard).await
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
        self.0.put_blobs(shard, epoch, root, now, blobs, bytes_max).await
    }

    async fn blob(&self, root: ExecutionId, hash: [u8; 32]) -> Result<Option<Json>, StoreError> {
        self.0.blob(root, hash).await
    }

    async fn unconfirmed_blobs(
        &self,
        shard: ShardId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.0.unconfirmed_blobs(shard, before, limit).await
    }

    async fn settle_blobs(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        exists: bool,
    ) -> Result<(), StoreError> {
        self.0.settle_blobs(shard, epoch, root, exists).await
    }

    async fn cached_output(&self, key: [u8; 32], now: Timestamp) -> Result<Option<Json>, StoreError> {
        self.0.cached_output(key, now).await
    }

    async fn cache_output(
        &self,
        key: [u8; 32],
        output: Json,
        now: Timestamp,
        expires_at: Timestamp,
        most: CacheLimits,
    ) -> Result<(), StoreError> {
        self.0.cache_output(key, output, now, expires_at, most).await
    }

    fn counters(&self) -> StoreCounters {
        self.0.counters()
    }
}

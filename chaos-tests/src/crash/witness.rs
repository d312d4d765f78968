//! A store that tells the observer who took which shard, and which records it acknowledged and refused.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, ShardId, StateFormat, Timestamp};
use troupe_ports::{
    AppendError, BlobsPut, CacheLimits, CheckpointRow, CommitId, ExecutionBase, Expired, Holder, InboxId, InboxItem,
    InboxLimits, InboxPush, Lease, LogEnd, LogRecord, SpoolChunk, StateStore, StoreCounters, StoreError,
};

use super::record::Record;
use super::switches::{Moment, Switches};

/// Hands everything on to the store below, but for what its switches say.
pub(crate) struct Witness {
    store: Arc<dyn StateStore>,
    switches: Arc<Switches>,
}

impl Witness {
    /// Only watches.
    pub(crate) fn over(store: Arc<dyn StateStore>) -> Self {
        Self::with(store, Arc::default())
    }

    /// Watches, dies where it is told to, and forgets what a planted fault forgets.
    pub(crate) fn with(store: Arc<dyn StateStore>, switches: Arc<Switches>) -> Self {
        Self { store, switches }
    }

    fn acquired(&self, acquired: Lease) -> Result<Lease, StoreError> {
        Record::Acquired {
            shard: acquired.shard.0,
            epoch: acquired.epoch.0,
            next: acquired.next.0,
        }
        .emit();
        self.switches.has_taken(acquired.shard, acquired.epoch);
        self.switches.reached(Moment::Acquired);
        Ok(acquired)
    }
}

/// The number of a commit among those of its owner: what comes before it in the id is the owner's.
pub(crate) fn number_of(commit: CommitId) -> u64 {
    u64::try_from(commit.0 & ((1 << 56) - 1)).unwrap_or(u64::MAX)
}

#[async_trait]
impl StateStore for Witness {
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
        self.store.may_come_back_older() && !self.switches.keeps_no_records
    }

    async fn holder(&self, shard: ShardId) -> Result<Holder, StoreError> {
        self.store.holder(shard).await
    }

    async fn acquire_under(
        &self,
        shard: ShardId,
        owner: &str,
        lease: Duration,
        epoch: Option<Epoch>,
    ) -> Result<Lease, StoreError> {
        let Some(Epoch(asked)) = epoch else {
            return self.acquired(self.store.acquire_under(shard, owner, lease, None).await?);
        };
        Record::AcquireAsked {
            shard: shard.0,
            epoch: asked,
        }
        .emit();
        match self.store.acquire_under(shard, owner, lease, epoch).await {
            Ok(acquired) => self.acquired(acquired),
            // Nobody knows whether it was taken.
            Err(error @ StoreError::Unavailable(_)) => Err(error),
            Err(error) => {
                Record::AcquireRefused {
                    shard: shard.0,
                    epoch: asked,
                }
                .emit();
                Err(error)
            }
        }
    }

    async fn renew(&self, shard: ShardId, epoch: Epoch, lease: Duration) -> Result<Timestamp, StoreError> {
        self.switches.reached_in(Moment::Renewing, shard);
        match self.store.renew(shard, epoch, lease).await {
            // A compare that is left out lets a former owner lengthen its successor's lease, and believe in it.
            Err(StoreError::Fenced { owner, .. }) if self.switches.renews_without_compare => {
                self.store.renew(shard, owner, lease).await
            }
            renewed => renewed,
        }
    }

    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.store.release(shard, epoch).await
    }

    async fn settle_loss(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.store.settle_loss(shard, epoch).await
    }

    async fn set_format(&self, shard: ShardId, epoch: Epoch, format: StateFormat) -> Result<(), StoreError> {
        self.store.set_format(shard, epoch, format).await
    }

    async fn stored(&self, shard: ShardId) -> Result<Vec<ExecutionId>, StoreError> {
        self.store.stored(shard).await
    }

    async fn rewrite(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        base: ExecutionBase,
    ) -> Result<bool, StoreError> {
        self.store.rewrite(shard, epoch, id, base).await
    }

    async fn append(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        self.switches.reached(Moment::Appending);
        let mut appended = self.store.append(shard, epoch, position, commit, record.clone()).await;
        if let Err(AppendError::Store(StoreError::Fenced { owner, .. })) = &appended
            && self.switches.appends_without_epoch
        {
            appended = self.store.append(shard, *owner, position, commit, record).await;
        }
        self.switches.reached(Moment::Appended);
        let (shard, epoch, position) = (shard.0, epoch.0, position.0);
        match &appended {
            Ok(()) => Record::Appended {
                shard,
                epoch,
                position,
                commit: number_of(commit),
            }
            .emit(),
            Err(AppendError::Store(StoreError::Fenced { .. })) => Record::Refused { shard, epoch }.emit(),
            Err(AppendError::Store(_) | AppendError::Conflict { .. }) => {}
        }
        appended
    }

    async fn give_back(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        // It was acknowledged before, perhaps to an earlier owner, or its answer was lost.
        self.store.give_back(shard, epoch, position, commit, record).await
    }

    async fn take_back(
        &self,
        shard: ShardId,
        epoch: Epoch,
        owner: &str,
        lease: Duration,
    ) -> Result<LogEnd, StoreError> {
        self.store.take_back(shard, epoch, owner, lease).await
    }

    async fn read(&self, shard: ShardId, from: LogPosition, bytes_max: usize) -> Result<Vec<LogRecord>, StoreError> {
        self.store.read(shard, from, bytes_max).await
    }

    async fn checkpoint(
        &self,
        shard: ShardId,
        epoch: Epoch,
        rows: Vec<CheckpointRow>,
        reached: Option<LogPosition>,
    ) -> Result<(), StoreError> {
        self.switches.reached_in(Moment::Checkpointing, shard);
        let written = self.store.checkpoint(shard, epoch, rows, reached).await;
        self.switches.reached(Moment::Checkpointed);
        written
    }

    async fn trim(&self, shard: ShardId, epoch: Epoch, up_to: LogPosition) -> Result<(), StoreError> {
        self.switches.reached(Moment::Trimming);
        if self.switches.trims_before_confirm {
            self.store.keep_cursors(shard, epoch, &[]).await?;
        }
        let trimmed = self.store.trim(shard, epoch, up_to).await;
        self.switches.reached(Moment::Trimmed);
        trimmed
    }

    async fn load(&self, id: ExecutionId) -> Result<Option<ExecutionBase>, StoreError> {
        self.store.load(id).await
    }

    async fn head(&self, key: ExecutionId) -> Result<Option<u64>, StoreError> {
        self.store.head(key).await
    }

    async fn timers_due(
        &self,
        shard: ShardId,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>, StoreError> {
        self.store.timers_due(shard, until, limit).await
    }

    async fn running(
        &self,
        shard: ShardId,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.store.running(shard, after, limit).await
    }

    async fn live_counts(&self, shard: ShardId) -> Result<(u64, u64), StoreError> {
        self.store.live_counts(shard).await
    }

    async fn cursor(&self, shard: ShardId, sink: &str) -> Result<LogPosition, StoreError> {
        self.store.cursor(shard, sink).await
    }

    async fn set_cursor(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        self.switches.reached(Moment::MovingCursor);
        self.store.set_cursor(shard, epoch, sink, to).await
    }

    async fn spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        self.store.spool(shard, epoch, sink, up_to, chunk).await
    }

    async fn rewrite_spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        self.store.rewrite_spool(shard, epoch, sink, up_to, chunk).await
    }

    async fn spooled(
        &self,
        shard: ShardId,
        sink: &str,
        after: LogPosition,
        bytes_max: usize,
    ) -> Result<Vec<SpoolChunk>, StoreError> {
        self.store.spooled(shard, sink, after, bytes_max).await
    }

    async fn spool_extent(&self, shard: ShardId, sink: &str) -> Result<Vec<(LogPosition, u64)>, StoreError> {
        self.store.spool_extent(shard, sink).await
    }

    async fn keep_cursors(&self, shard: ShardId, epoch: Epoch, sinks: &[&str]) -> Result<(), StoreError> {
        self.store.keep_cursors(shard, epoch, sinks).await
    }

    async fn expired(&self, shard: ShardId, now: Timestamp, limit: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.store.expired(shard, now, limit).await
    }

    async fn expire(
        &self,
        shard: ShardId,
        epoch: Epoch,
        now: Timestamp,
        archives: &[ExecutionId],
        limit: usize,
    ) -> Result<Expired, StoreError> {
        self.store.expire(shard, epoch, now, archives, limit).await
    }

    async fn set_quarantine(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        self.store.set_quarantine(shard, epoch, id, reason).await?;
        if reason.is_some() {
            Record::SetAside { id }.emit();
        }
        Ok(())
    }

    async fn quarantined(&self, shard: ShardId) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.store.quarantined(shard).await
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
        let put = self.store.put_blobs(shard, epoch, root, now, blobs, bytes_max).await;
        self.switches.reached(Moment::KeptValues);
        put
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
        let store = &self.store;
        store.give_blobs_back(shard, epoch, root, now, blobs, bytes_max).await
    }

    async fn blob(&self, root: ExecutionId, hash: [u8; 32]) -> Result<Option<Json>, StoreError> {
        self.store.blob(root, hash).await
    }

    async fn unconfirmed_blobs(
        &self,
        shard: ShardId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.store.unconfirmed_blobs(shard, before, limit).await
    }

    async fn settle_blobs(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        exists: bool,
    ) -> Result<(), StoreError> {
        self.store.settle_blobs(shard, epoch, root, exists).await
    }

    async fn inbox_push(
        &self,
        shard: ShardId,
        id: InboxId,
        bytes: Bytes,
        most: InboxLimits,
    ) -> Result<InboxPush, StoreError> {
        self.store.inbox_push(shard, id, bytes, most).await
    }

    async fn inbox_read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<InboxItem>, StoreError> {
        self.store.inbox_read(shard, after, bytes_max).await
    }

    async fn inbox_remove(&self, shard: ShardId, epoch: Epoch, ids: &[InboxId]) -> Result<(), StoreError> {
        self.store.inbox_remove(shard, epoch, ids).await
    }

    async fn cached_output(&self, key: [u8; 32], now: Timestamp) -> Result<Option<Json>, StoreError> {
        self.store.cached_output(key, now).await
    }

    async fn cache_output(
        &self,
        key: [u8; 32],
        output: Json,
        now: Timestamp,
        expires_at: Timestamp,
        most: CacheLimits,
    ) -> Result<(), StoreError> {
        self.store.cache_output(key, output, now, expires_at, most).await
    }

    fn counters(&self) -> StoreCounters {
        self.store.counters()
    }
}

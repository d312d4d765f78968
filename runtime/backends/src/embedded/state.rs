//! The `StateStore` of the two files: which file does what, and in which order.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::Connection;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, ShardId, StateFormat, Timestamp};
use troupe_ports::{
    AppendError, BlobsPut, CacheLimits, CheckpointRow, Clock, CommitId, ExecutionBase, Expired, Holder, InboxId,
    InboxItem, InboxLimits, InboxPush, Lease, LogRecord, SpoolChunk, StateStore, StoreCounters, StoreError,
    SystemClock,
};

use super::derived::Checkpointed;
use super::log::{Acquired, Taker};
use super::{DurabilityMutant, EmbeddedStore, blobs, cached, derived, inbox, log, rewrite, spool};

/// A record of an entry or two: whoever has one is alone, more or less. Under load records are larger, and a thread that
/// waits for the disk is missed elsewhere.
const SMALL_RECORD_BYTES: usize = 512;

fn milliseconds(lease: Duration) -> u64 {
    u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)
}

impl EmbeddedStore {
    /// The epoch that is in force as far as this store knows; another process may know more.
    fn fence(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.check_shard(shard)?;
        let owner = Epoch(self.epochs[usize::from(shard.0)].load(Ordering::Acquire));
        if owner == epoch {
            Ok(())
        } else {
            Err(StoreError::Fenced {
                shard,
                owner,
                ours: epoch,
            })
        }
    }

    /// The checkpoint of a shard that was just acquired, set back where the log ends before it and that is accepted: the files are of
    /// different age.
    async fn within_log(
        &self,
        shard: ShardId,
        acquired: &Acquired,
        checkpointed: Checkpointed,
    ) -> Result<Checkpointed, StoreError> {
        let Acquired {
            epoch, next, trimmed, ..
        } = *acquired;
        let Checkpointed { position, .. } = checkpointed;
        if trimmed <= position && position < next {
            return Ok(checkpointed);
        }
        // What was trimmed without a checkpoint nobody can begin again from.
        if trimmed > position || !self.accept_loss.contains(&shard) {
            return Err(StoreError::Damaged(format!(
                "shard {shard} went back: its log is trimmed up to {trimmed} and goes on at {next}, its checkpoint is at {position}",
            )));
        }
        let lost = position.0 - next.0 + 1;
        // Which of the records that are left are in the checkpoint nobody knows: all of them count as not yet checkpointed.
        let set_back = self
            .derived
            .run(move |derived| derived::set_back(derived, (shard, epoch), trimmed, lost))
            .await?;
        tracing::error!(
            %shard,
            lost,
            "a checkpoint holds what the log has lost: of that, events that a sink had not sent are lost"
        );
        Ok(set_back)
    }
}

#[async_trait]
impl StateStore for EmbeddedStore {
    fn backend(&self) -> &'static str {
        "embedded"
    }

    fn shards(&self) -> u16 {
        self.shards
    }

    async fn holder(&self, shard: ShardId) -> Result<Holder, StoreError> {
        self.check_shard(shard)?;
        let now = SystemClock.now();
        self.log_reader.read(move |log| log::holder(log, shard, now)).await
    }

    async fn acquire_under(
        &self,
        shard: ShardId,
        owner: &str,
        lease: Duration,
        epoch: Option<Epoch>,
    ) -> Result<Lease, StoreError> {
        self.check_shard(shard)?;
        let known = self
            .derived_readers
            .read(move |derived| derived::shard_of(derived, shard))
            .await?;
        let now = SystemClock.now();
        let taker = Taker {
            name: owner.to_owned(),
            now,
            lease_ms: milliseconds(lease),
            sharing: self.sharing,
            issued: epoch,
            after: known.epoch,
        };
        let acquired = self.log.run(move |log| log::acquire(log, shard, &taker)).await?;
        let epoch = acquired.epoch;
        self.epochs[usize::from(shard.0)].fetch_max(epoch.0, Ordering::AcqRel);
        let checkpointed = self
            .derived
            .run(move |derived| derived::install(derived, shard, epoch).map(Ok::<_, StoreError>))
            .await?;
        let checkpointed = self.within_log(shard, &acquired, checkpointed).await?;
        Ok(Lease {
            shard,
            epoch,
            next: acquired.next,
            checkpointed: checkpointed.position,
            store_now: now,
            released: acquired.released,
            format: acquired.format,
            lost: checkpointed.lost,
        })
    }

    async fn renew(&self, shard: ShardId, epoch: Epoch, lease: Duration) -> Result<Timestamp, StoreError> {
        let now = SystemClock.now();
        self.log
            .run(move |log| log::renew(log, shard, epoch, now, milliseconds(lease)))
            .await
    }

    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.check_shard(shard)?;
        self.log.run(move |log| log::release(log, shard, epoch)).await?;
        self.epochs[usize::from(shard.0)].fetch_max(epoch.0 + 1, Ordering::AcqRel);
        Ok(())
    }

    async fn set_format(&self, shard: ShardId, epoch: Epoch, format: StateFormat) -> Result<(), StoreError> {
        self.check_shard(shard)?;
        self.log
            .run(move |log| log::set_format(log, shard, epoch, format))
            .await
    }

    async fn settle_loss(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.derived
            .run(move |derived| derived::settle_loss(derived, shard, epoch))
            .await
    }

    async fn stored(&self, shard: ShardId) -> Result<Vec<ExecutionId>, StoreError> {
        self.derived_readers
            .read(move |derived| rewrite::stored(derived, shard))
            .await
    }

    async fn rewrite(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        base: ExecutionBase,
    ) -> Result<bool, StoreError> {
        self.derived
            .run(move |derived| rewrite::rewrite(derived, (shard, epoch), id, &base))
            .await
    }

    async fn append(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        let checks_epoch = self.mutant != Some(DurabilityMutant::NoEpochCheck);
        let small = record.len() <= SMALL_RECORD_BYTES;
        let work =
            move |log: &Connection| log::append(log, shard, checks_epoch.then_some(epoch), position, commit, &record);
        if small {
            self.log.run_small(work).await?;
        } else {
            self.log.run(work).await?;
        }
        self.appends.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn read(&self, shard: ShardId, from: LogPosition, bytes_max: usize) -> Result<Vec<LogRecord>, StoreError> {
        self.log_reader
            .run(move |log| log::read(log, shard, from, bytes_max))
            .await
    }

    async fn checkpoint(
        &self,
        shard: ShardId,
        epoch: Epoch,
        rows: Vec<CheckpointRow>,
        reached: Option<LogPosition>,
    ) -> Result<(), StoreError> {
        self.derived
            .run(move |derived| derived::checkpoint(derived, shard, epoch, &rows, reached))
            .await
    }

    async fn trim(&self, shard: ShardId, epoch: Epoch, up_to: LogPosition) -> Result<(), StoreError> {
        // Readers see nothing that is not durable, so what they call checkpointed may be removed from the log.
        let checkpointed = self
            .derived_readers
            .read(move |derived| derived::shard_of(derived, shard))
            .await?;
        let up_to = up_to.min(checkpointed.position);
        while self.log.run(move |log| log::trim(log, shard, epoch, up_to)).await? {}
        Ok(())
    }

    async fn load(&self, id: ExecutionId) -> Result<Option<ExecutionBase>, StoreError> {
        self.derived_readers
            .run(move |derived| derived::load(derived, id))
            .await
    }

    async fn head(&self, key: ExecutionId) -> Result<Option<u64>, StoreError> {
        self.derived_readers
            .read(move |derived| derived::head(derived, key))
            .await
    }

    async fn timers_due(
        &self,
        shard: ShardId,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>, StoreError> {
        self.derived_readers
            .read(move |derived| derived::timers_due(derived, shard, until, limit))
            .await
    }

    async fn running(
        &self,
        shard: ShardId,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.derived_readers
            .read(move |derived| derived::running(derived, shard, after, limit))
            .await
    }

    async fn live_counts(&self, shard: ShardId) -> Result<(u64, u64), StoreError> {
        self.derived_readers
            .read(move |derived| derived::live_counts(derived, shard))
            .await
    }

    async fn cursor(&self, shard: ShardId, sink: &str) -> Result<LogPosition, StoreError> {
        let set = self.cursors.get(shard, sink);
        let sink = sink.to_owned();
        let written = self.log_reader.read(move |log| log::cursor(log, shard, &sink)).await?;
        Ok(set.max(written))
    }

    async fn set_cursor(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        self.fence(shard, epoch)?;
        if self.cursors.set(shard, epoch, sink, to) {
            self.log.nudge();
        }
        Ok(())
    }

    async fn spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        let sink = sink.to_owned();
        self.log
            .run(move |log| spool::put(log, (shard, epoch), &sink, up_to, &chunk))
            .await
    }

    async fn rewrite_spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        let sink = sink.to_owned();
        self.log
            .run(move |log| spool::rewrite(log, (shard, epoch), &sink, up_to, &chunk))
            .await
    }

    async fn spooled(
        &self,
        shard: ShardId,
        sink: &str,
        after: LogPosition,
        bytes_max: usize,
    ) -> Result<Vec<SpoolChunk>, StoreError> {
        let sink = sink.to_owned();
        self.log_reader
            .read(move |log| spool::read(log, shard, &sink, after, bytes_max))
            .await
    }

    async fn spool_extent(&self, shard: ShardId, sink: &str) -> Result<Vec<(LogPosition, u64)>, StoreError> {
        let sink = sink.to_owned();
        self.log_reader.read(move |log| spool::extent(log, shard, &sink)).await
    }

    async fn keep_cursors(&self, shard: ShardId, epoch: Epoch, sinks: &[&str]) -> Result<(), StoreError> {
        self.fence(shard, epoch)?;
        self.cursors.keep(shard, sinks);
        let sinks: Vec<String> = sinks.iter().map(ToString::to_string).collect();
        self.log
            .run(move |log| log::keep_cursors(log, shard, epoch, &sinks))
            .await
    }

    async fn expired(&self, shard: ShardId, now: Timestamp, limit: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.derived_readers
            .read(move |derived| derived::expired(derived, shard, now, limit))
            .await
    }

    async fn expire(
        &self,
        shard: ShardId,
        epoch: Epoch,
        now: Timestamp,
        archives: &[ExecutionId],
        limit: usize,
    ) -> Result<Expired, StoreError> {
        let archives = archives.to_vec();
        self.derived
            .run(move |derived| derived::expire(derived, shard, epoch, now, &archives, limit))
            .await
    }

    async fn set_quarantine(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let reason = reason.map(str::to_owned);
        self.derived
            .run(move |derived| derived::set_quarantine(derived, shard, epoch, id, reason.as_deref()))
            .await
    }

    async fn quarantined(&self, shard: ShardId) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.derived_readers
            .read(move |derived| derived::quarantined(derived, shard))
            .await
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
        self.derived
            .run(move |derived| blobs::put(derived, (shard, epoch), root, now, &blobs, bytes_max))
            .await
    }

    async fn blob(&self, root: ExecutionId, hash: [u8; 32]) -> Result<Option<Json>, StoreError> {
        self.derived_readers
            .run(move |derived| blobs::get(derived, root, hash))
            .await
    }

    async fn unconfirmed_blobs(
        &self,
        shard: ShardId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.derived_readers
            .read(move |derived| blobs::unconfirmed(derived, shard, before, limit))
            .await
    }

    async fn settle_blobs(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        exists: bool,
    ) -> Result<(), StoreError> {
        self.derived
            .run(move |derived| blobs::settle(derived, (shard, epoch), root, exists))
            .await
    }

    async fn inbox_push(
        &self,
        shard: ShardId,
        id: InboxId,
        bytes: Bytes,
        most: InboxLimits,
    ) -> Result<InboxPush, StoreError> {
        self.check_shard(shard)?;
        self.log.run(move |log| inbox::push(log, shard, id, &bytes, most)).await
    }

    async fn inbox_read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<InboxItem>, StoreError> {
        self.check_shard(shard)?;
        self.log_reader
            .read(move |log| inbox::read(log, shard, after, bytes_max))
            .await
    }

    async fn inbox_remove(&self, shard: ShardId, epoch: Epoch, ids: &[InboxId]) -> Result<(), StoreError> {
        self.check_shard(shard)?;
        let ids = ids.to_vec();
        self.log.run(move |log| inbox::remove(log, shard, epoch, &ids)).await
    }

    async fn cached_output(&self, key: [u8; 32], now: Timestamp) -> Result<Option<Json>, StoreError> {
        let found = self
            .derived_readers
            .run(move |derived| cached::get(derived, key, now))
            .await?;
        let Some((output, note)) = found else { return Ok(None) };
        if note {
            self.derived
                .run(move |derived| cached::note_use(derived, key, now).map(Ok::<_, StoreError>))
                .await?;
        }
        Ok(Some(output))
    }

    async fn cache_output(
        &self,
        key: [u8; 32],
        output: Json,
        now: Timestamp,
        expires_at: Timestamp,
        most: CacheLimits,
    ) -> Result<(), StoreError> {
        self.derived
            .run(move |derived| cached::put(derived, key, &output, (now, expires_at), most).map(Ok))
            .await
    }

    fn counters(&self) -> StoreCounters {
        let counts = self.log.counts();
        StoreCounters {
            commits: counts.commits.load(Ordering::Relaxed),
            appends: self.appends.load(Ordering::Relaxed),
            fsyncs: counts.syncs.load(Ordering::Relaxed),
        }
    }
}

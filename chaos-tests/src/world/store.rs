//! A store in memory with the contract of [`StateStore`] and one thing more: what was written but not synced can be lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, Seq, ShardId, StateFormat, Timestamp};
use troupe_ports::{
    AppendError, Archive, BlobsPut, CacheLimits, CheckpointRow, Clock, CommitId, ExecutionBase, Expired, Holder,
    InboxId, InboxItem, InboxLimits, InboxPush, Lease, LogRecord, SpoolChunk, StateStore, StoreCounters, StoreError,
    Wait,
};

use crate::crash::checkers::Contents;

/// Time that only the world moves.
#[derive(Debug, Default)]
pub struct SimulatedClock(AtomicI64);

impl SimulatedClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Moves on.
    pub fn set(&self, now: Timestamp) {
        self.0.fetch_max(now.0, Ordering::SeqCst);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Clone, Debug)]
enum Row {
    Live {
        snapshot: Option<(Seq, Bytes)>,
        segments: Vec<(Seq, Bytes)>,
        wait: Wait,
        last: Seq,
    },
    Ended(Archive, Vec<(Seq, Bytes)>),
    Tombstone {
        last: Seq,
        until: Timestamp,
    },
}

fn seqs(segments: &[(Seq, Bytes)]) -> impl Iterator<Item = Seq> + '_ {
    segments.iter().map(|(last, _)| *last)
}

impl Row {
    /// Takes the bytes of what has the same seqs; false if it has not.
    fn rewritten(&mut self, base: ExecutionBase) -> bool {
        match (self, base) {
            (
                Self::Live { snapshot, segments, .. },
                ExecutionBase::Live {
                    snapshot: other,
                    segments: others,
                    ..
                },
            ) if snapshot.as_ref().map(|(seq, _)| *seq) == other.as_ref().map(|(seq, _)| *seq)
                && seqs(segments).eq(seqs(&others)) =>
            {
                (*snapshot, *segments) = (other, others);
                true
            }
            (Self::Ended(archive, segments), ExecutionBase::Ended(other, others))
                if archive.last == other.last && seqs(segments).eq(seqs(&others)) =>
            {
                archive.bytes = other.bytes;
                *segments = others;
                true
            }
            (Self::Tombstone { last, .. }, ExecutionBase::Tombstone { last: other }) => *last == other,
            _ => false,
        }
    }
}

#[derive(Debug, Default)]
struct ShardStore {
    epoch: Epoch,
    owner: Option<String>,
    lease_until: Timestamp,
    /// Everything ever written; position n is at place n - 1. Trimming only hides.
    log: Vec<LogRecord>,
    synced: usize,
    format: StateFormat,
    checkpointed: LogPosition,
    trimmed: LogPosition,
    rows: BTreeMap<ExecutionId, Row>,
    heads: BTreeMap<ExecutionId, u64>,
    cursors: BTreeMap<String, LogPosition>,
    spools: BTreeMap<String, BTreeMap<LogPosition, Bytes>>,
    quarantined: BTreeMap<ExecutionId, String>,
    blobs: BTreeMap<ExecutionId, Family>,
    inbox: Vec<InboxItem>,
    /// The latest arrival there.
    arrived: u64,
}

/// Large values of one root.
#[derive(Debug)]
struct Family {
    since: Timestamp,
    confirmed: bool,
    blobs: BTreeMap<BlobRef, Json>,
}

/// An output that may be reused.
#[derive(Debug)]
struct Cached {
    output: Json,
    used: Timestamp,
    expires_at: Timestamp,
}

/// The store of a world.
#[derive(Debug)]
pub struct SimulatedStore {
    cached: Mutex<BTreeMap<[u8; 32], Cached>>,
    clock: Arc<SimulatedClock>,
    shards: Mutex<Vec<ShardStore>>,
    reachable: AtomicBool,
    /// A planted fault: the log is trimmed whatever sinks have sent.
    trims_unsent: AtomicBool,
}

impl SimulatedStore {
    /// An empty store.
    #[must_use]
    pub fn new(shards: u16, clock: Arc<SimulatedClock>) -> Self {
        let shards = (0..shards).map(|_| ShardStore::default()).collect();
        Self {
            cached: Mutex::default(),
            clock,
            shards: Mutex::new(shards),
            reachable: AtomicBool::new(true),
            trims_unsent: AtomicBool::new(false),
        }
    }

    /// Plants a fault: the log is trimmed whatever sinks have sent.
    pub fn trims_unsent(&self) {
        self.trims_unsent.store(true, Ordering::SeqCst);
    }

    /// Whether lookups are answered from now on.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::SeqCst);
    }

    /// The first half of an append: it is in the store's memory, not on its disk.
    ///
    /// # Errors
    /// As [`StateStore::append`].
    pub fn write(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        bytes: Bytes,
    ) -> Result<(), AppendError> {
        self.owned(shard, epoch, |store| {
            let next = LogPosition(store.log.len() as u64 + 1);
            if position != next {
                return Ok(Err(AppendError::Conflict { next }));
            }
            store.log.push(LogRecord {
                position,
                commit,
                bytes,
            });
            Ok(Ok(()))
        })?
    }

    /// The epoch in force.
    #[must_use]
    pub fn epoch(&self, shard: ShardId) -> Epoch {
        self.lock()
            .get(usize::from(shard.0))
            .map_or(Epoch(0), |store| store.epoch)
    }

    /// The second half: everything written so far is on disk.
    pub fn sync(&self, shard: ShardId) {
        if let Some(store) = self.lock().get_mut(usize::from(shard.0)) {
            store.synced = store.log.len();
        }
    }

    /// The machine loses its power: of what was not synced, `kept` of a thousand parts survive, oldest first.
    /// Returns how many records went.
    pub fn lose_power(&self, kept: usize) -> usize {
        let mut lost = 0;
        for store in self.lock().iter_mut() {
            let unsynced = store.log.len() - store.synced;
            let surviving = store.synced + unsynced * kept.min(1_000) / 1_000;
            lost += store.log.len() - surviving;
            store.log.truncate(surviving);
            store.synced = surviving;
        }
        lost
    }

    /// Records on disk after `after`, trimmed or not: the whole truth, for checkers.
    #[must_use]
    pub fn ledger(&self, shard: ShardId, after: usize) -> Vec<LogRecord> {
        self.lock()
            .get(usize::from(shard.0))
            .and_then(|store| store.log.get(after..store.synced))
            .map(<[LogRecord]>::to_vec)
            .unwrap_or_default()
    }

    /// Every large value that is kept, for checkers.
    #[must_use]
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for (root, family) in self.lock().iter().flat_map(|store| &store.blobs) {
            for (blob, content) in &family.blobs {
                contents.add(*root, *blob, content.clone());
            }
        }
        contents
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ShardStore>> {
        // A panic while it was held fails the test anyway.
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        shard: ShardId,
        then: impl FnOnce(&mut ShardStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut shards = self.lock();
        let missing = || StoreError::Damaged(format!("there is no shard {shard}"));
        then(shards.get_mut(usize::from(shard.0)).ok_or_else(missing)?)
    }

    fn owned<T>(
        &self,
        shard: ShardId,
        epoch: Epoch,
        then: impl FnOnce(&mut ShardStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(shard, |store| {
            if store.owner.is_none() || store.epoch != epoch {
                return Err(StoreError::Fenced {
                    shard,
                    owner: store.epoch,
                    ours: epoch,
                });
            }
            then(store)
        })
    }

    fn lookup(&self) -> Result<(), StoreError> {
        if self.reachable.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(StoreError::Unavailable("the world says so".into()))
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.plus_ms(u64::try_from(by.as_millis()).unwrap_or(u64::MAX))
}

/// Applies a row; rows of a damaged chunk go nowhere because the caller applies them to a copy.
fn apply(known: Option<Row>, row: CheckpointRow) -> Result<Option<Row>, StoreError> {
    let (id, first, last, segment, snapshot, wait) = match row {
        CheckpointRow::Live {
            id,
            first,
            last,
            segment,
            snapshot,
            wait,
        } => (id, first, last, segment, snapshot, wait),
        CheckpointRow::Ended(archive) => {
            return Ok(Some(match known {
                None => Row::Ended(archive, Vec::new()),
                // It was reopened since.
                Some(lives @ Row::Live { last, .. }) if last > archive.last => lives,
                Some(Row::Live { segments, .. }) => Row::Ended(archive, segments),
                Some(ended @ (Row::Ended(..) | Row::Tombstone { .. })) => ended,
            }));
        }
        CheckpointRow::Reopened {
            ended,
            segment,
            snapshot,
            ..
        } => {
            return Ok(match known {
                Some(Row::Ended(archive, mut segments)) if archive.last == ended => {
                    segments.push((ended, segment));
                    Some(Row::Live {
                        snapshot: Some((ended, snapshot)),
                        segments,
                        wait: Wait::Message,
                        last: ended,
                    })
                }
                other => other,
            });
        }
        CheckpointRow::Head { .. } => return Ok(known),
    };
    let (mut segments, stored, old_snapshot) = match known {
        None => (Vec::new(), Seq(0), None),
        Some(Row::Live {
            segments,
            last: stored,
            snapshot,
            wait,
        }) if last <= stored => {
            return Ok(Some(Row::Live {
                segments,
                last: stored,
                snapshot,
                wait,
            }));
        }
        Some(Row::Live {
            segments,
            last,
            snapshot,
            ..
        }) => (segments, last, snapshot),
        Some(ended @ (Row::Ended(..) | Row::Tombstone { .. })) => return Ok(Some(ended)),
    };
    if first > stored.next() {
        return Err(StoreError::WentBack(format!(
            "{id}: entries {first} to {last} come after {stored}"
        )));
    }
    segments.push((last, segment));
    let snapshot = snapshot.map(|bytes| (last, bytes)).or(old_snapshot);
    Ok(Some(Row::Live {
        snapshot,
        segments,
        wait,
        last,
    }))
}

#[async_trait]
impl StateStore for SimulatedStore {
    fn backend(&self) -> &'static str {
        "simulated"
    }

    fn shards(&self) -> u16 {
        u16::try_from(self.lock().len()).unwrap_or(u16::MAX)
    }

    async fn holder(&self, shard: ShardId) -> Result<Holder, StoreError> {
        let now = self.clock.now();
        self.with(shard, |store| {
            Ok(Holder {
                format: store.format,
                epoch: store.epoch,
                owner: store.owner.clone().filter(|_| now < store.lease_until),
            })
        })
    }

    async fn acquire_under(
        &self,
        shard: ShardId,
        owner: &str,
        lease: Duration,
        epoch: Option<Epoch>,
    ) -> Result<Lease, StoreError> {
        let now = self.clock.now();
        self.with(shard, |store| {
            let held = store
                .owner
                .as_deref()
                .filter(|holder| *holder != owner && now < store.lease_until);
            if let Some(holder) = held {
                return Err(StoreError::Held(holder.to_owned()));
            }
            let released = store.owner.is_none() && store.epoch > Epoch(0);
            let epoch = epoch.unwrap_or(Epoch(store.epoch.0 + 1));
            if epoch <= store.epoch {
                return Err(StoreError::Fenced {
                    shard,
                    owner: store.epoch,
                    ours: epoch,
                });
            }
            store.epoch = epoch;
            store.owner = Some(owner.to_owned());
            store.lease_until = later(now, lease);
            // A durable write of its own, so whatever was written before it is durable too.
            store.synced = store.log.len();
            let next = LogPosition(store.log.len() as u64 + 1);
            Ok(Lease {
                shard,
                format: store.format,
                epoch: store.epoch,
                next,
                checkpointed: store.checkpointed,
                store_now: now,
                released,
                lost: 0,
            })
        })
    }

    async fn renew(&self, shard: ShardId, epoch: Epoch, lease: Duration) -> Result<Timestamp, StoreError> {
        let now = self.clock.now();
        self.owned(shard, epoch, |store| {
            store.lease_until = later(now, lease);
            Ok(now)
        })
    }

    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            store.owner = None;
            Ok(())
        })
    }

    async fn set_format(&self, shard: ShardId, epoch: Epoch, format: StateFormat) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            store.format = format;
            Ok(())
        })
    }

    async fn stored(&self, shard: ShardId) -> Result<Vec<ExecutionId>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let kept = store
                .rows
                .iter()
                .filter(|(_, row)| !matches!(row, Row::Tombstone { .. }));
            Ok(kept.map(|(id, _)| *id).collect())
        })
    }

    async fn rewrite(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        base: ExecutionBase,
    ) -> Result<bool, StoreError> {
        self.owned(shard, epoch, |store| {
            let Some(row) = store.rows.get_mut(&id) else {
                return Ok(false);
            };
            Ok(row.rewritten(base))
        })
    }

    async fn append(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        self.write(shard, epoch, position, commit, record)?;
        self.sync(shard);
        Ok(())
    }

    async fn read(&self, shard: ShardId, from: LogPosition, bytes_max: usize) -> Result<Vec<LogRecord>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let mut bytes = 0;
            let durable = store.log[..store.synced].iter();
            let wanted = durable.filter(|record| record.position >= from && record.position > store.trimmed);
            let bounded = wanted.take_while(|record| {
                let first = bytes == 0;
                bytes += record.bytes.len().max(1);
                first || bytes <= bytes_max
            });
            Ok(bounded.cloned().collect())
        })
    }

    async fn checkpoint(
        &self,
        shard: ShardId,
        epoch: Epoch,
        rows: Vec<CheckpointRow>,
        reached: Option<LogPosition>,
    ) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            let mut changed: BTreeMap<ExecutionId, Row> = BTreeMap::new();
            let mut heads = Vec::new();
            for row in rows {
                let id = match &row {
                    CheckpointRow::Live { id, .. }
                    | CheckpointRow::Reopened { id, .. }
                    | CheckpointRow::Ended(Archive { id, .. }) => *id,
                    CheckpointRow::Head { key, ordinal } => {
                        heads.push((*key, *ordinal));
                        continue;
                    }
                };
                let known = changed.remove(&id).or_else(|| store.rows.get(&id).cloned());
                changed.extend(apply(known, row)?.map(|row| (id, row)));
            }
            store.rows.append(&mut changed);
            for (key, ordinal) in heads {
                let known = store.heads.entry(key).or_insert(ordinal);
                *known = (*known).max(ordinal);
            }
            store.checkpointed = store.checkpointed.max(reached.unwrap_or_default());
            Ok(())
        })
    }

    async fn trim(&self, shard: ShardId, epoch: Epoch, up_to: LogPosition) -> Result<(), StoreError> {
        let trims_unsent = self.trims_unsent.load(Ordering::SeqCst);
        self.owned(shard, epoch, |store| {
            let kept = |(sink, cursor): (&String, &LogPosition)| {
                let spool = store.spools.get(sink).and_then(BTreeMap::last_key_value);
                spool.map_or(*cursor, |(up_to, _)| (*up_to).max(*cursor))
            };
            let lowest = store.cursors.iter().map(kept).min().filter(|_| !trims_unsent);
            let lowest = lowest.unwrap_or(LogPosition(u64::MAX));
            store.trimmed = store.trimmed.max(up_to.min(store.checkpointed).min(lowest));
            Ok(())
        })
    }

    async fn load(&self, id: ExecutionId) -> Result<Option<ExecutionBase>, StoreError> {
        self.lookup()?;
        self.with(id.shard(), |store| {
            Ok(store.rows.get(&id).cloned().map(|row| match row {
                Row::Live {
                    snapshot,
                    segments,
                    wait,
                    ..
                } => ExecutionBase::Live {
                    snapshot,
                    segments,
                    wait,
                },
                Row::Ended(archive, segments) => ExecutionBase::Ended(archive, segments),
                Row::Tombstone { last, .. } => ExecutionBase::Tombstone { last },
            }))
        })
    }

    async fn head(&self, key: ExecutionId) -> Result<Option<u64>, StoreError> {
        self.lookup()?;
        self.with(key.shard(), |store| Ok(store.heads.get(&key).copied()))
    }

    async fn timers_due(
        &self,
        shard: ShardId,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let mut due: Vec<_> = store
                .rows
                .iter()
                .filter_map(|(id, row)| match row {
                    Row::Live {
                        wait: Wait::Until(at), ..
                    } if *at <= until => Some((*at, *id)),
                    _ => None,
                })
                .collect();
            due.sort_unstable();
            due.truncate(limit);
            Ok(due)
        })
    }

    async fn running(
        &self,
        shard: ShardId,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let live = store.rows.iter().filter(|(_, row)| {
                matches!(
                    row,
                    Row::Live {
                        wait: Wait::Running,
                        ..
                    }
                )
            });
            let ids = live
                .map(|(id, _)| *id)
                .filter(|id| after.is_none_or(|after| *id > after));
            Ok(ids.take(limit).collect())
        })
    }

    async fn live_counts(&self, shard: ShardId) -> Result<(u64, u64), StoreError> {
        self.with(shard, |store| {
            let mut counts = (0, 0);
            for row in store.rows.values() {
                match row {
                    Row::Live {
                        wait: Wait::Running, ..
                    } => counts.0 += 1,
                    Row::Live { .. } => counts.1 += 1,
                    Row::Ended(..) | Row::Tombstone { .. } => {}
                }
            }
            Ok(counts)
        })
    }

    async fn cursor(&self, shard: ShardId, sink: &str) -> Result<LogPosition, StoreError> {
        self.with(shard, |store| Ok(store.cursors.get(sink).copied().unwrap_or_default()))
    }

    async fn set_cursor(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            let known = store.cursors.entry(sink.to_owned()).or_insert(to);
            *known = (*known).max(to);
            if let Some(spool) = store.spools.get_mut(sink) {
                spool.retain(|up_to, _| *up_to > to);
            }
            Ok(())
        })
    }

    async fn spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            let sent = store.cursors.get(sink).copied().unwrap_or_default();
            let spool = store.spools.entry(sink.to_owned()).or_default();
            let last = spool.last_key_value().map_or(sent, |(last, _)| (*last).max(sent));
            if up_to > last {
                spool.insert(up_to, chunk);
            }
            Ok(())
        })
    }

    async fn rewrite_spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            let stored = store.spools.get_mut(sink).and_then(|spool| spool.get_mut(&up_to));
            if let Some(stored) = stored {
                *stored = chunk;
            }
            Ok(())
        })
    }

    async fn spooled(
        &self,
        shard: ShardId,
        sink: &str,
        after: LogPosition,
        bytes_max: usize,
    ) -> Result<Vec<SpoolChunk>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let (mut chunks, mut bytes) = (Vec::new(), 0);
            let spool = store.spools.get(sink).into_iter().flatten();
            for (up_to, chunk) in spool.filter(|(up_to, _)| **up_to > after) {
                bytes += chunk.len();
                if bytes > bytes_max && !chunks.is_empty() {
                    break;
                }
                chunks.push(SpoolChunk {
                    up_to: *up_to,
                    bytes: chunk.clone(),
                });
            }
            Ok(chunks)
        })
    }

    async fn spool_extent(&self, shard: ShardId, sink: &str) -> Result<Vec<(LogPosition, u64)>, StoreError> {
        self.with(shard, |store| {
            let spool = store.spools.get(sink).into_iter().flatten();
            Ok(spool.map(|(up_to, chunk)| (*up_to, chunk.len() as u64)).collect())
        })
    }

    async fn keep_cursors(&self, shard: ShardId, epoch: Epoch, sinks: &[&str]) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            store.spools.retain(|sink, _| sinks.contains(&sink.as_str()));
            store.cursors.retain(|sink, _| sinks.contains(&sink.as_str()));
            Ok(())
        })
    }

    async fn expired(&self, shard: ShardId, now: Timestamp, limit: usize) -> Result<Vec<ExecutionId>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let mut due: Vec<_> = store
                .rows
                .iter()
                .filter_map(|(id, row)| match row {
                    Row::Ended(archive, _) if archive.expires_at <= now => Some((archive.expires_at, *id)),
                    Row::Ended(..) | Row::Live { .. } | Row::Tombstone { .. } => None,
                })
                .collect();
            due.sort_unstable();
            Ok(due.into_iter().map(|(_, id)| id).take(limit).collect())
        })
    }

    async fn expire(
        &self,
        shard: ShardId,
        epoch: Epoch,
        now: Timestamp,
        archives: &[ExecutionId],
        limit: usize,
    ) -> Result<Expired, StoreError> {
        self.owned(shard, epoch, |store| {
            let mut expired = Expired::default();
            let gone = |row: &Row| matches!(row, Row::Tombstone { until, .. } if *until <= now);
            let ids: Vec<_> = store
                .rows
                .iter()
                .filter(|(_, row)| gone(row))
                .map(|(id, _)| *id)
                .take(limit)
                .collect();
            for id in ids {
                store.rows.remove(&id);
                expired.tombstones += 1;
            }
            for id in archives {
                if let Some(row) = store.rows.get_mut(id)
                    && let Row::Ended(archive, _) = row
                    && archive.expires_at <= now
                {
                    expired.archives += 1;
                    store.blobs.remove(id);
                    *row = Row::Tombstone {
                        last: archive.last,
                        until: archive.expires_at.plus_ms(archive.tombstone_ms),
                    };
                }
            }
            Ok(expired)
        })
    }

    async fn set_quarantine(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            match reason {
                Some(reason) => store.quarantined.insert(id, reason.to_owned()),
                None => store.quarantined.remove(&id),
            };
            Ok(())
        })
    }

    async fn quarantined(&self, shard: ShardId) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let all = store.quarantined.iter();
            Ok(all.map(|(id, reason)| (*id, reason.clone())).collect())
        })
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
        self.lookup()?;
        self.owned(shard, epoch, |store| {
            let known = store.blobs.get(&root).map(|family| family.blobs.clone());
            let mut all = known.unwrap_or_default();
            let before = all.len();
            all.extend(blobs);
            let bytes = all.keys().map(|blob| blob.bytes).sum();
            if all.len() > before && bytes > bytes_max {
                return Ok(BlobsPut::Full { bytes });
            }
            if all.len() > before {
                let fresh = Family {
                    since: now,
                    confirmed: false,
                    blobs: BTreeMap::new(),
                };
                store.blobs.entry(root).or_insert(fresh).blobs = all;
            }
            Ok(BlobsPut::Kept)
        })
    }

    async fn blob(&self, root: ExecutionId, hash: [u8; 32]) -> Result<Option<Json>, StoreError> {
        self.lookup()?;
        self.with(root.shard(), |store| {
            let kept = store.blobs.get(&root).map(|family| &family.blobs);
            let found = kept.and_then(|blobs| blobs.iter().find(|(blob, _)| blob.hash == hash));
            Ok(found.map(|(_, content)| content.clone()))
        })
    }

    async fn unconfirmed_blobs(
        &self,
        shard: ShardId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let waiting = store.blobs.iter();
            let waiting = waiting.filter(|(_, family)| !family.confirmed && family.since < before);
            let mut waiting: Vec<_> = waiting.map(|(id, family)| (family.since, *id)).collect();
            waiting.sort_unstable();
            Ok(waiting.into_iter().map(|(_, id)| id).take(limit).collect())
        })
    }

    async fn settle_blobs(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        exists: bool,
    ) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            if !exists {
                store.blobs.remove(&root);
            } else if let Some(family) = store.blobs.get_mut(&root) {
                family.confirmed = true;
            }
            Ok(())
        })
    }

    async fn inbox_push(
        &self,
        shard: ShardId,
        id: InboxId,
        bytes: Bytes,
        most: InboxLimits,
    ) -> Result<InboxPush, StoreError> {
        self.with(shard, |store| {
            if store.inbox.iter().any(|item| item.id == id) {
                return Ok(InboxPush::Kept);
            }
            let total: usize = store.inbox.iter().map(|item| item.bytes.len()).sum();
            if store.inbox.len() as u64 >= most.items || (total + bytes.len()) as u64 > most.bytes {
                return Ok(InboxPush::Full);
            }
            store.arrived += 1;
            let arrival = store.arrived;
            store.inbox.push(InboxItem { arrival, id, bytes });
            Ok(InboxPush::Kept)
        })
    }

    async fn inbox_read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<InboxItem>, StoreError> {
        self.lookup()?;
        self.with(shard, |store| {
            let (mut items, mut total) = (Vec::new(), 0);
            for item in store.inbox.iter().filter(|item| item.arrival > after) {
                total += item.bytes.len();
                if total > bytes_max && !items.is_empty() {
                    break;
                }
                items.push(item.clone());
            }
            Ok(items)
        })
    }

    async fn inbox_remove(&self, shard: ShardId, epoch: Epoch, ids: &[InboxId]) -> Result<(), StoreError> {
        self.owned(shard, epoch, |store| {
            store.inbox.retain(|item| !ids.contains(&item.id));
            Ok(())
        })
    }

    async fn cached_output(&self, key: [u8; 32], now: Timestamp) -> Result<Option<Json>, StoreError> {
        self.lookup()?;
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cached.get_mut(&key).filter(|found| found.expires_at > now);
        Ok(found.map(|found| {
            found.used = now;
            found.output.clone()
        }))
    }

    async fn cache_output(
        &self,
        key: [u8; 32],
        output: Json,
        now: Timestamp,
        expires_at: Timestamp,
        most: CacheLimits,
    ) -> Result<(), StoreError> {
        self.lookup()?;
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|_, known| known.expires_at > now);
        let fresh = Cached {
            output,
            used: now,
            expires_at,
        };
        cached.insert(key, fresh);
        let bytes =
            |all: &BTreeMap<[u8; 32], Cached>| all.values().map(|known| known.output.bytes() as u64).sum::<u64>();
        while cached.len() as u64 > most.entries || bytes(&cached) > most.bytes {
            let others = cached.iter().filter(|(other, _)| **other != key);
            let oldest = others.min_by_key(|(_, known)| known.used).map(|(oldest, _)| *oldest);
            cached.remove(&oldest.unwrap_or(key));
        }
        Ok(())
    }

    fn counters(&self) -> StoreCounters {
        let appends = self.lock().iter().map(|store| store.log.len() as u64).sum();
        StoreCounters {
            commits: appends,
            appends,
            fsyncs: appends,
        }
    }
}

//! The shard log and everything derived from it. The contract is `durability.md`, "The shard log".

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, LogPosition, Seq, ShardId, StateFormat, Timestamp};

/// Identifies one commit, so that an unknown outcome can be settled by reading the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommitId(pub u128);

/// A shard, held for the asked duration from the call that gave it; measure that on a monotonic clock of your own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: ShardId,
    /// Ownership generation; every write carries it.
    pub epoch: Epoch,
    /// Position that the next append must name.
    pub next: LogPosition,
    /// Everything up to here is in the checkpoint.
    pub checkpointed: LogPosition,
    /// Store time when the lease was given.
    pub store_now: Timestamp,
    /// Whether the last owner gave the shard up with [`StateStore::release`]: what it had not finished was no crash.
    pub released: bool,
    /// The newest format that the shard may hold something of; see [`StateStore::set_format`].
    pub format: StateFormat,
    /// Records that the log has lost and a checkpoint may hold, where the store went back and the shard goes on from what is left: of what
    /// is stored, the log tells sinks and lists no more than its own records do. Until [`StateStore::settle_loss`]; else 0.
    pub lost: u64,
}

/// Who has a shard, as the store sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The highest epoch so far; 0 if nobody ever had the shard.
    pub epoch: Epoch,
    /// Name of the owner whose lease has not expired; none: the shard is free.
    pub owner: Option<String>,
    /// The newest format that the shard may hold something of; see [`StateStore::set_format`].
    pub format: StateFormat,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it stands.
    pub position: LogPosition,
    /// The commit that wrote it.
    pub commit: CommitId,
    /// Packed entries.
    pub bytes: Bytes,
}

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Position that the next append must name.
    pub next: LogPosition,
    /// The commit that wrote the record before that; none where the log holds no record.
    pub last: Option<CommitId>,
}

/// What a sink has to send of a part of the log, moved out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolChunk {
    /// The last record it stands for.
    pub up_to: LogPosition,
    /// Encoded by the sink.
    pub bytes: Bytes,
}

/// Names what is put into an inbox: under one id it is there once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxId(pub [u8; 32]);

/// Something in the inbox of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxItem {
    /// Its place in the order of arrival, from 1; it rises, with gaps, and is not used again.
    pub arrival: u64,
    /// See [`InboxId`].
    pub id: InboxId,
    /// What was put there.
    pub bytes: Bytes,
}

/// How much an inbox may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLimits {
    /// Most items.
    pub items: u64,
    /// Most bytes of all items together.
    pub bytes: u64,
}

/// What became of something that was to be put into an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxPush {
    /// It is there, and durable, or something was there under its id already.
    Kept,
    /// Nothing was put there: the inbox would hold more than it may.
    Full,
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another owner has the shard; stop at once.
    #[error("shard {shard} is owned under epoch {owner}, not {ours}")]
    Fenced {
        /// The shard.
        shard: ShardId,
        /// The epoch in force.
        owner: Epoch,
        /// The epoch of the call.
        ours: Epoch,
    },
    /// Another process holds the store, or another owner's lease has not expired; waiting may help.
    #[error("held by another owner: {0}")]
    Held(String),
    /// The store cannot be reached, or the outcome is unknown; retrying is right. An append whose outcome is unknown
    /// is settled by reading the tail: it took place if a record carries its commit id.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What the call goes on from is not there: the store has lost what it acknowledged to this process, as far as this one knows. Its owner may
    /// still have it ([`StateStore::give_back`]); if not, a store that may lose nothing is damaged.
    #[error("the store went back: {0}")]
    WentBack(String),
    /// What the store holds does not make sense; an operator must look.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// Why an append was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The position is not the next one.
    #[error("expected position {next}")]
    Conflict {
        /// The position that the next append must name.
        next: LogPosition,
    },
    /// Anything that is not about the position.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What wakes an execution that only waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It has unfinished work: recovery resumes it.
    Running,
    /// It only waits for this instant.
    Until(Timestamp),
    /// It only waits for a message (paused).
    Message,
}

/// One execution's part of a checkpoint. Idempotent: applying it twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointRow {
    /// New entries of a live execution, and a full snapshot once its segments outgrow the last one.
    Live {
        /// The execution.
        id: ExecutionId,
        /// Seqs of the first and last entry of `segment`. A segment at or below the stored seq is already there; one
        /// that overlaps it is stored whole (folding skips by seq); one that leaves a gap is refused: the store went back.
        first: Seq,
        /// See `first`.
        last: Seq,
        /// Encoded entries `first..=last`.
        segment: Bytes,
        /// A snapshot at `last`; earlier segments stay for the history but are no longer folded.
        snapshot: Option<Bytes>,
        /// What wakes it.
        wait: Wait,
    },
    /// An execution that ended: everything it had becomes one archive row. Where it is stored beyond the archive's last entry it
    /// was reopened since, and nothing changes.
    Ended(Archive),
    /// An execution whose archive ends at `ended` lives again: the archive gives way to what it held. Changes nothing where the
    /// stored archive has another end, or is gone.
    Reopened {
        /// The execution.
        id: ExecutionId,
        /// Seq of the archive's last entry.
        ended: Seq,
        /// The history that was in the archive, as a segment up to `ended`.
        segment: Bytes,
        /// Its final state, as a snapshot at `ended`.
        snapshot: Bytes,
    },
    /// The latest execution of a business key, by the key's derived id (ordinal 0).
    Head {
        /// Derived id of the key.
        key: ExecutionId,
        /// Ordinal of the latest execution of this key.
        ordinal: u64,
    },
}

/// An ended execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The execution.
    pub id: ExecutionId,
    /// Seq of its last entry.
    pub last: Seq,
    /// Final state and the history that is not in segments of the store, encoded and compressed by the caller.
    /// Segments written while it lived are kept beside it.
    pub bytes: Bytes,
    /// When the archive may be removed, in store time; a tombstone (id and `last`) stays for `tombstone_ms` more.
    pub expires_at: Timestamp,
    /// How long the tombstone outlives the archive, in milliseconds.
    pub tombstone_ms: u64,
}

/// What the store knows of an execution, without the log after the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecutionBase {
    /// It lives: the last snapshot, if any, and all segments in order (those at or below the snapshot are history only).
    Live {
        /// Seq and bytes of the last snapshot.
        snapshot: Option<(Seq, Bytes)>,
        /// Last seq and bytes of each segment.
        segments: Vec<(Seq, Bytes)>,
        /// What wakes it.
        wait: Wait,
    },
    /// It ended.
    Ended(Archive, Vec<(Seq, Bytes)>),
    /// It ended and its archive was removed.
    Tombstone {
        /// Seq of its last entry.
        last: Seq,
    },
}

/// The shard log, checkpoints, timers, archives and cursors of a deployment.
///
/// Every method is cancel-safe in this sense: a dropped future leaves either all or nothing of the write behind, and
/// repeating the call is right.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// Name of the backend, for metrics and messages.
    fn backend(&self) -> &'static str;

    /// Number of shards, fixed when the store was first created.
    fn shards(&self) -> u16;

    /// Whether, as it is set up, a crash of its machine may take what it acknowledged. A shard whose log has gone back then goes on from
    /// what is left, and says so; else it halts.
    fn may_lose_acknowledged(&self) -> bool {
        false
    }

    /// Whether it may come back older under an owner that lives, as after a failover to a replica that lagged. Owners keep their latest
    /// records in memory then, and append them again.
    fn may_come_back_older(&self) -> bool {
        false
    }

    /// Takes a shard under a higher epoch than any before; the former owner is fenced from every write.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] while the lease of another `owner` has not expired. The same `owner` may always take it again.
    /// [`StoreError::Damaged`] if the log went back behind its checkpoint (a restore, a lost disk).
    async fn acquire(&self, shard: ShardId, owner: &str, lease: Duration) -> Result<Lease, StoreError> {
        self.acquire_under(shard, owner, lease, None).await
    }

    /// As [`StateStore::acquire`], under exactly the epoch that an [`EpochAuthority`](crate::EpochAuthority) issued, where there is one.
    ///
    /// # Errors
    ///
    /// As [`StateStore::acquire`]; [`StoreError::Fenced`] if the epoch is not higher than any before: nothing has changed.
    async fn acquire_under(
        &self,
        shard: ShardId,
        owner: &str,
        lease: Duration,
        epoch: Option<Epoch>,
    ) -> Result<Lease, StoreError>;

    /// Who has a shard. It may be another's by the time this returns.
    async fn holder(&self, shard: ShardId) -> Result<Holder, StoreError>;

    /// Extends the lease, also one that has expired but that nobody took; returns the store's time.
    async fn renew(&self, shard: ShardId, epoch: Epoch, lease: Duration) -> Result<Timestamp, StoreError>;

    /// Gives the shard up: anyone may take it at once, and `epoch` is fenced from now on.
    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError>;

    /// Says what is the newest format that the shard may hold something of: the first one where nobody ever said. The store looks into
    /// nothing. An owner calls this before it writes anything of a newer format, and with an older one when nothing newer is left.
    /// `Ok` means durable, and before everything that is written later.
    async fn set_format(&self, shard: ShardId, epoch: Epoch, format: StateFormat) -> Result<(), StoreError>;

    /// Lists show what is stored: [`Lease::lost`] is 0 from now on. A store that never goes on from what is left has nothing to settle.
    async fn settle_loss(&self, _shard: ShardId, _epoch: Epoch) -> Result<(), StoreError> {
        Ok(())
    }

    /// Every execution that lives or has an archive, the shard's controls among them, in no order. What comes or goes meanwhile may be
    /// there or not; what lives or has an archive all the time is.
    async fn stored(&self, shard: ShardId) -> Result<Vec<ExecutionId>, StoreError>;

    /// Puts other bytes in the place of those that are stored of an execution, of the same seqs: `base` is what [`StateStore::load`]
    /// gave, with its bytes changed. False, and nothing has changed, if something else is stored by now. `Ok` means durable.
    async fn rewrite(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        base: ExecutionBase,
    ) -> Result<bool, StoreError>;

    /// Appends one packed record. `Ok` means durable.
    async fn append(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError>;

    /// [`StateStore::append`] of a record that was acknowledged before, or of whose append nobody knows the outcome, also to a store that
    /// came back older and may lack more than records ([`StoreError::WentBack`]): its owner gives it what it lacks.
    async fn give_back(
        &self,
        shard: ShardId,
        epoch: Epoch,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        self.append(shard, epoch, position, commit, record).await
    }

    /// A store that came back older may know an earlier epoch than that of its owner: it knows this one again. Changes nothing where it
    /// does. Whoever calls this makes sure that nobody was named since, and compares where its log ends: under the earlier epoch an earlier
    /// owner may have written there.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where it knows a later epoch; [`StoreError::Held`] while an earlier owner's lease holds;
    /// [`StoreError::Damaged`] from a store that never comes back older.
    async fn take_back(
        &self,
        shard: ShardId,
        _epoch: Epoch,
        _owner: &str,
        _lease: Duration,
    ) -> Result<LogEnd, StoreError> {
        Err(StoreError::Damaged(format!(
            "shard {shard} is asked for what it lacks, and its store never lacks anything"
        )))
    }

    /// Durable records from `from` on, in order; those already trimmed are left out. At most `bytes_max` bytes of them (but at least one if there is one).
    async fn read(&self, shard: ShardId, from: LogPosition, bytes_max: usize) -> Result<Vec<LogRecord>, StoreError>;

    /// Applies a chunk of a checkpoint, whole or not at all; `reached`, given with the last chunk, moves the checkpoint
    /// position (never back). `Ok` means durable.
    async fn checkpoint(
        &self,
        shard: ShardId,
        epoch: Epoch,
        rows: Vec<CheckpointRow>,
        reached: Option<LogPosition>,
    ) -> Result<(), StoreError>;

    /// Removes records up to and including `up_to`; stops at the checkpoint, and for each cursor that was ever set for the shard
    /// where that and the sink's spool end. Positions are never used again.
    async fn trim(&self, shard: ShardId, epoch: Epoch, up_to: LogPosition) -> Result<(), StoreError>;

    /// What is known of an execution; none if it never was.
    async fn load(&self, id: ExecutionId) -> Result<Option<ExecutionBase>, StoreError>;

    /// Ordinal of the latest execution of a business key, by the key's derived id.
    async fn head(&self, key: ExecutionId) -> Result<Option<u64>, StoreError>;

    /// Waiting executions due at or before `until`, earliest first.
    async fn timers_due(
        &self,
        shard: ShardId,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>, StoreError>;

    /// Ids of live executions with unfinished work, in order of id, after `after`.
    async fn running(
        &self,
        shard: ShardId,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError>;

    /// Number of live executions: with unfinished work, and only waiting. The shard's controls are none.
    async fn live_counts(&self, shard: ShardId) -> Result<(u64, u64), StoreError>;

    /// Position up to which `sink` has sent everything; 0 if it was never set.
    async fn cursor(&self, shard: ShardId, sink: &str) -> Result<LogPosition, StoreError>;

    /// Moves a sink's cursor; a lower position than the stored one changes nothing. Seen by [`StateStore::cursor`] at once,
    /// but a crash soon afterwards may take it back to an earlier value: then something is sent twice, never lost.
    async fn set_cursor(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> Result<(), StoreError>;

    /// Moves what `sink` has to send of the records up to `up_to` out of the log, which they keep from being trimmed no longer as far
    /// as this sink goes. `Ok` means durable. Where the sink's cursor or spool reaches `up_to` already, nothing changes. A
    /// chunk goes when the cursor has reached its end.
    ///
    /// A chunk follows the one before it without a gap, or what was sent: the store does not look into it.
    ///
    /// # Errors
    ///
    /// [`StoreError::WentBack`] where one that was acknowledged before it is lost.
    async fn spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError>;

    /// Puts another chunk in the place of the one of a sink's spool that ends at `up_to`; nothing happens if it is gone.
    async fn rewrite_spool(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        up_to: LogPosition,
        chunk: Bytes,
    ) -> Result<(), StoreError>;

    /// Chunks of a sink's spool that end beyond `after`, in order: at most `bytes_max` bytes of them, but at least one if there is
    /// one.
    async fn spooled(
        &self,
        shard: ShardId,
        sink: &str,
        after: LogPosition,
        bytes_max: usize,
    ) -> Result<Vec<SpoolChunk>, StoreError>;

    /// Where the chunks of a sink's spool end, in order, and how many bytes each has.
    async fn spool_extent(&self, shard: ShardId, sink: &str) -> Result<Vec<(LogPosition, u64)>, StoreError>;

    /// Forgets the cursors and spools of all sinks but these: what those have not sent keeps the log no longer. A crash soon
    /// afterwards may bring them back.
    async fn keep_cursors(&self, shard: ShardId, epoch: Epoch, sinks: &[&str]) -> Result<(), StoreError>;

    /// Archives that have expired at `now`, earliest first, at most `limit`. What is kept of them elsewhere goes before
    /// [`StateStore::expire`]: then a crash in between leaves nothing behind that nobody will look at again.
    async fn expired(&self, shard: ShardId, now: Timestamp, limit: usize) -> Result<Vec<ExecutionId>, StoreError>;

    /// Turns those of `archives` that have expired at `now` into tombstones, removes the blobs kept under them, and removes at most `limit` tombstones that
    /// had expired before. Idempotent.
    async fn expire(
        &self,
        shard: ShardId,
        epoch: Epoch,
        now: Timestamp,
        archives: &[ExecutionId],
        limit: usize,
    ) -> Result<Expired, StoreError>;

    /// Sets an execution aside for this reason, or, without one, takes it back. `Ok` means durable; the last call counts.
    /// Nothing else of the execution changes.
    async fn set_quarantine(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        reason: Option<&str>,
    ) -> Result<(), StoreError>;

    /// Executions of a shard that are set aside, and why, in order of id.
    async fn quarantined(&self, shard: ShardId) -> Result<Vec<(ExecutionId, String)>, StoreError>;

    /// Keeps large values of an execution and its children apart, by content, under the root of the family: they go with its
    /// archive. `Ok` with [`BlobsPut::Kept`] means durable, those that were there already included; else none was kept.
    /// `now` is when; `bytes_max` bounds all blobs of the root together.
    async fn put_blobs(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        now: Timestamp,
        blobs: Vec<(BlobRef, Json)>,
        bytes_max: u64,
    ) -> Result<BlobsPut, StoreError>;

    /// [`StateStore::put_blobs`] of what was kept before, also into a store that came back older and may lack more than that.
    async fn give_blobs_back(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        now: Timestamp,
        blobs: Vec<(BlobRef, Json)>,
        bytes_max: u64,
    ) -> Result<BlobsPut, StoreError> {
        self.put_blobs(shard, epoch, root, now, blobs, bytes_max).await
    }

    /// A value that was kept under this root.
    async fn blob(&self, root: ExecutionId, hash: [u8; 32]) -> Result<Option<Json>, StoreError>;

    /// Roots that nobody has confirmed, of which the first blob was kept before `before`, earliest first: a crash may have
    /// come between a blob and the entry that would have begun the execution.
    async fn unconfirmed_blobs(
        &self,
        shard: ShardId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError>;

    /// Confirms that the execution exists, or removes all its blobs because it does not.
    async fn settle_blobs(
        &self,
        shard: ShardId,
        epoch: Epoch,
        root: ExecutionId,
        exists: bool,
    ) -> Result<(), StoreError>;

    /// Puts something into the inbox of a shard, whoever owns it, unless something is there under the id. `Ok` with [`InboxPush::Kept`]
    /// means durable. `most` bounds the inbox with it.
    async fn inbox_push(
        &self,
        shard: ShardId,
        id: InboxId,
        bytes: Bytes,
        most: InboxLimits,
    ) -> Result<InboxPush, StoreError>;

    /// What came after `after` and is still in the inbox, in order of arrival: at most `bytes_max` bytes of it, but at least one item
    /// if there is one.
    async fn inbox_read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<InboxItem>, StoreError>;

    /// Removes from the inbox what its owner has dealt with; what is not there is left out. `Ok` means durable.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`] under another epoch than the owner's: nothing has changed.
    async fn inbox_remove(&self, shard: ShardId, epoch: Epoch, ids: &[InboxId]) -> Result<(), StoreError>;

    /// An output that was kept for reuse under this key and has not expired at `now`.
    async fn cached_output(&self, key: [u8; 32], now: Timestamp) -> Result<Option<Json>, StoreError>;

    /// Keeps an output for reuse until `expires_at`; a later one of the same key replaces it. Outputs for reuse are kept for
    /// the whole deployment and may be forgotten at any time: first those that have expired at `now`, then, beyond `most`, those
    /// that were not used for longest.
    async fn cache_output(
        &self,
        key: [u8; 32],
        output: Json,
        now: Timestamp,
        expires_at: Timestamp,
        most: CacheLimits,
    ) -> Result<(), StoreError>;

    /// Number of durable commits and of fsyncs (or their like) since the store was opened, for measurements.
    fn counters(&self) -> StoreCounters;
}

/// How much is kept for reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most outputs.
    pub entries: u64,
    /// Most bytes of all outputs together.
    pub bytes: u64,
}

/// What became of blobs to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobsPut {
    /// All of them are durable.
    Kept,
    /// None was kept: with them the root would have this many bytes.
    Full {
        /// See [`BlobsPut::Full`].
        bytes: u64,
    },
}

/// What [`StateStore::expire`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// How many archives went.
    pub archives: u64,
    /// How many tombstones went.
    pub tombstones: u64,
}

/// Counters of a store since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Durable commits of the log.
    pub commits: u64,
    /// Records appended.
    pub appends: u64,
    /// Fsyncs asked for by the log.
    pub fsyncs: u64,
}

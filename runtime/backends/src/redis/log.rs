//! Ownership, the log and cursors.

use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::Value;
use troupe_core::{Epoch, LogPosition, ShardId, StateFormat, Timestamp};
use troupe_ports::{AppendError, CommitId, Holder, Lease, LogEnd, LogRecord, StateStore, StoreError};

use super::layout::{spool_bounds, spool_entry};
use super::marks::Mark;
use super::script::{
    ACQUIRE, APPEND, Arg, HOLDER, KEEP_CURSORS, REACHES, READ, RELEASE, RENEW, SET_CURSOR, SETTLE_LOSS, TAKE_BACK, TRIM,
};
use super::{RedisStore, decode};

/// Bytes of records that one answer carries; larger ones hold up everybody else on the connection.
const PAGE_BYTES: usize = 4 << 20;
/// How long a renewal or release waits for what goes beside it.
const BRIEFLY: Duration = Duration::from_millis(300);
/// Records that one step of a trim removes, so that appends do not wait long behind it.
const TRIM_RECORDS: u64 = 512;

fn milliseconds(lease: Duration) -> u64 {
    u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)
}

fn timestamp(ms: u64) -> Timestamp {
    Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// A call that must keep nobody waiting: while a slot moves, none goes through of which a key is not there. What does not succeed in time does not
/// matter.
async fn briefly(call: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
    match tokio::time::timeout(BRIEFLY, call).await {
        Ok(Err(StoreError::Unavailable(why))) => {
            tracing::debug!(why, "not done beside a renewal or release");
            Ok(())
        }
        Ok(answer) => answer,
        Err(_) => {
            tracing::debug!("not done in time beside a renewal or release");
            Ok(())
        }
    }
}

impl RedisStore {
    pub(super) async fn acquire_shard(
        &self,
        shard: ShardId,
        owner: &str,
        lease: Duration,
        epoch: Option<Epoch>,
    ) -> Result<Lease, StoreError> {
        let keys = self.keys(shard)?;
        match self.write_cursors(shard, self.marks.of(shard).epoch).await {
            // It was another's meanwhile, whose cursors count.
            // A store that went back is looked at below.
            Ok(()) | Err(StoreError::Fenced { .. } | StoreError::WentBack(_)) => {}
            Err(error) => return Err(error),
        }
        let mut args = vec![
            Arg::Bytes(&self.identity),
            Arg::Bytes(owner.as_bytes()),
            Arg::Number(milliseconds(lease)),
            Arg::Number(u64::from(self.forgives(shard))),
        ];
        args.extend(epoch.map(|epoch| Arg::Number(epoch.0)));
        let names = vec![
            &keys.owner[..],
            &keys.log,
            &keys.cursors,
            &keys.spool_index,
            &keys.spool,
        ];
        let answer = match self.ask(keys, &ACQUIRE, names, args).await? {
            Value::Nil => return Err(decode::gone(shard)),
            Value::BulkString(holder) => {
                let holder = String::from_utf8_lossy(&holder);
                return Err(StoreError::Held(format!("{holder} has shard {shard}")));
            }
            Value::SimpleString(why) => return Err(StoreError::Damaged(format!("shard {shard}: {why}"))),
            Value::Int(owner) => {
                return Err(StoreError::Fenced {
                    shard,
                    owner: Epoch(decode::number(Value::Int(owner))?),
                    ours: epoch.unwrap_or_default(),
                });
            }
            value => value,
        };
        let [epoch, next, checkpointed, now, released, format, lost, unsent, kept] = decode::numbers(answer)?;
        let lease = Lease {
            shard,
            epoch: Epoch(epoch),
            next: LogPosition(next),
            checkpointed: LogPosition(checkpointed),
            store_now: timestamp(now),
            released: released == 1,
            format: decode::format(format)?,
            lost,
        };
        if lost > 0 {
            tracing::error!(
                %shard,
                lost,
                unsent,
                "a checkpoint holds what the log has lost: of that, events that a sink had not sent are lost"
            );
        }
        self.check_marks(&lease, kept)?;
        self.cursors.forget(shard);
        Ok(lease)
    }

    pub(super) async fn read_holder(&self, shard: ShardId) -> Result<Holder, StoreError> {
        let keys = self.keys(shard)?;
        let value = self.ask(keys, &HOLDER, vec![&keys.owner], Vec::new()).await?;
        if value == Value::Nil {
            return Err(decode::gone(shard));
        }
        let mut parts = decode::list(value)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Nil);
        Ok(Holder {
            epoch: Epoch(decode::number(next())?),
            owner: decode::bytes_if_any(next())?.map(|name| String::from_utf8_lossy(&name).into_owned()),
            format: match next() {
                Value::Nil => StateFormat::FIRST,
                format => decode::format(decode::number(format)?)?,
            },
        })
    }

    /// Whether a shard that went back begins again from what is left.
    fn forgives(&self, shard: ShardId) -> bool {
        self.may_lose_acknowledged() || self.accept_loss.contains(&shard)
    }

    /// Compares what the store has with what it acknowledged to this process.
    fn check_marks(&self, lease: &Lease, kept: u64) -> Result<(), StoreError> {
        let found = Mark {
            epoch: lease.epoch,
            next: lease.next,
            checkpointed: lease.checkpointed,
            kept,
        };
        let shard = lease.shard;
        let Some(known) = self.marks.acquired(shard, found) else {
            return Ok(());
        };
        let why = format!(
            "shard {shard} went back: Redis acknowledged {known} to this process and now has {found}; it was restored from an \
             older copy, or a replica without the latest writes took over"
        );
        if known.has_its_log_in(&found) {
            // As after an owner has given its log what that lacked: what a checkpoint held follows from the log again.
            tracing::warn!(%shard, acknowledged = %known, %found, "{why}; its log is whole, and nothing is lost");
            self.marks.reset(shard, found);
            return Ok(());
        }
        if !self.forgives(shard) {
            return Err(StoreError::Damaged(why));
        }
        // What its durability allows to be lost is lost: the shard goes on, and nobody can say that it was not told.
        tracing::error!(%shard, acknowledged = %known, %found, "{why}");
        self.marks.reset(shard, found);
        Ok(())
    }

    pub(super) async fn forget_loss(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let args = vec![Arg::Number(epoch.0)];
        self.write((shard, epoch), &SETTLE_LOSS, vec![&keys.owner], args)
            .await?;
        Ok(())
    }

    pub(super) async fn renew_lease(
        &self,
        shard: ShardId,
        epoch: Epoch,
        lease: Duration,
    ) -> Result<Timestamp, StoreError> {
        let keys = self.keys(shard)?;
        let args = vec![
            Arg::Number(epoch.0),
            Arg::Number(milliseconds(lease)),
            Arg::Number(self.marks.of(shard).kept),
        ];
        let now = self.write((shard, epoch), &RENEW, vec![&keys.owner], args).await?;
        let now = decode::number(decode::not_behind(shard, now)?)?;
        // Both need keys that need not be there, and a renewal must succeed while its slot moves. The next one tries again.
        tokio::try_join!(
            briefly(self.reaches(shard, epoch)),
            briefly(self.write_cursors(shard, epoch))
        )?;
        Ok(timestamp(now))
    }

    /// Whether the log has every record that was acknowledged.
    async fn reaches(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let args = vec![Arg::Number(epoch.0), Arg::Number(self.marks.of(shard).next.0)];
        let names = vec![&keys.owner[..], &keys.log];
        let told = self.write((shard, epoch), &REACHES, names, args).await?;
        decode::not_behind(shard, told).map(drop)
    }

    pub(super) async fn take_shard_back(
        &self,
        shard: ShardId,
        epoch: Epoch,
        owner: &str,
        lease: Duration,
    ) -> Result<LogEnd, StoreError> {
        let keys = self.keys(shard)?;
        self.dial_anew();
        let args = vec![
            Arg::Number(epoch.0),
            Arg::Bytes(owner.as_bytes()),
            Arg::Number(milliseconds(lease)),
        ];
        let names = vec![&keys.owner[..], &keys.log];
        match self.write((shard, epoch), &TAKE_BACK, names, args).await? {
            Value::Int(_) => Err(StoreError::Held(format!(
                "an earlier owner's lease of shard {shard} holds"
            ))),
            taken => {
                let mut parts = decode::list(taken)?.into_iter();
                let mut next = || parts.next().unwrap_or(Value::Nil);
                Ok(LogEnd {
                    next: LogPosition(decode::number(next())?),
                    last: decode::bytes_if_any(next())?
                        .map(|commit| decode::commit(&commit))
                        .transpose()?,
                })
            }
        }
    }

    pub(super) async fn release_shard(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        self.last.dial_anew();
        briefly(self.write_cursors(shard, epoch)).await?;
        // Nobody could take it back: it looks at the log itself, and fails where that cannot be told. Then the lease runs out.
        let known = self.marks.of(shard);
        let args = vec![Arg::Number(epoch.0), Arg::Number(known.kept), Arg::Number(known.next.0)];
        let names = vec![&keys.owner[..], &keys.log];
        let released = self.write((shard, epoch), &RELEASE, names, args).await?;
        decode::not_behind(shard, released).map(drop)
    }

    /// `kept`: the number of what is kept outside the log, which the store must have reached.
    pub(super) async fn append_record(
        &self,
        (shard, epoch): (ShardId, Epoch),
        position: LogPosition,
        commit: CommitId,
        record: &Bytes,
        kept: u64,
    ) -> Result<(), AppendError> {
        let keys = self.keys(shard)?;
        let commit = commit.0.to_be_bytes();
        let args = vec![
            Arg::Number(epoch.0),
            Arg::Number(position.0),
            Arg::Joined(&commit, record),
            Arg::Number(kept),
        ];
        let names = vec![&keys.owner[..], &keys.log];
        let appended = self.write((shard, epoch), &APPEND, names, args).await?;
        match decode::number(decode::not_behind(shard, appended)?)? {
            0 => {
                self.count_append();
                self.marks.appended(shard, position);
                Ok(())
            }
            next => Err(AppendError::Conflict {
                next: LogPosition(next),
            }),
        }
    }

    pub(super) async fn read_records(
        &self,
        shard: ShardId,
        from: LogPosition,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        let keys = self.keys(shard)?;
        let mut all: Vec<LogRecord> = Vec::new();
        let (mut from, mut left) = (from, bytes_max);
        loop {
            let page = left.min(PAGE_BYTES);
            let args = vec![Arg::Number(from.0), Arg::Number(page as u64)];
            let names = vec![&keys.owner[..], &keys.log];
            let answer = match self.ask(keys, &READ, names, args).await? {
                Value::Nil => return Err(decode::gone(shard)),
                value => value,
            };
            let (first, records) = decode::records(answer)?;
            if first > from {
                // What was read before has been trimmed meanwhile.
                all.clear();
            }
            let Some(last) = records.last() else { break };
            let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
            // A page has at least one record, which may be more than is wanted.
            if bytes > left && !all.is_empty() {
                break;
            }
            // A commit of which nobody heard an answer is found here, and acknowledged.
            self.marks.appended(shard, last.position);
            from = last.position.next();
            left = left.saturating_sub(bytes);
            all.extend(records);
            if left == 0 || page < PAGE_BYTES {
                break;
            }
        }
        Ok(all)
    }

    pub(super) async fn trim_records(
        &self,
        shard: ShardId,
        epoch: Epoch,
        up_to: LogPosition,
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        self.write_cursors(shard, epoch).await?;
        loop {
            let args = vec![Arg::Number(epoch.0), Arg::Number(up_to.0), Arg::Number(TRIM_RECORDS)];
            let names = vec![&keys.owner[..], &keys.log, &keys.cursors, &keys.spool_index];
            let left = self.write((shard, epoch), &TRIM, names, args).await?;
            if decode::number(left)? == 0 {
                return Ok(());
            }
        }
    }

    pub(super) async fn read_cursor(&self, shard: ShardId, sink: &str) -> Result<LogPosition, StoreError> {
        let keys = self.keys(shard)?;
        let set = self.cursors.get(shard, sink);
        let mut command = redis::cmd("HGET");
        command.arg(&keys.cursors).arg(sink);
        let position = decode::bytes_if_any(self.command(keys.slot, &command).await?)?;
        let position = position.map(|text| decode::decimal(&text)).transpose()?;
        Ok(set.max(LogPosition(position.unwrap_or(0))))
    }

    pub(super) async fn move_cursor(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sink: &str,
        to: LogPosition,
    ) -> Result<(), StoreError> {
        self.keys(shard)?;
        if self.cursors.set(shard, epoch, sink, to, Instant::now()) {
            self.write_cursor(shard, epoch, sink, to).await?;
        }
        Ok(())
    }

    async fn write_cursor(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let ((from, _), entry) = (spool_bounds(sink), spool_entry(sink, to));
        let args = vec![
            Arg::Number(epoch.0),
            Arg::Bytes(sink.as_bytes()),
            Arg::Number(to.0),
            Arg::Bytes(&from),
            Arg::Bytes(&entry),
        ];
        let names = vec![&keys.owner[..], &keys.cursors, &keys.spool_index, &keys.spool];
        self.write((shard, epoch), &SET_CURSOR, names, args).await?;
        self.cursors.written(shard, epoch, sink, to, Instant::now());
        Ok(())
    }

    /// Forgets those of other sinks.
    pub(super) async fn forget_other_cursors(
        &self,
        shard: ShardId,
        epoch: Epoch,
        sinks: &[&str],
    ) -> Result<(), StoreError> {
        self.cursors.keep(shard, sinks);
        self.marks.keep_spools(shard, sinks);
        let keys = self.keys(shard)?;
        let kept = sinks.iter().map(|sink| Arg::Bytes(sink.as_bytes()));
        let args = std::iter::once(Arg::Number(epoch.0)).chain(kept).collect();
        let names = vec![&keys.owner[..], &keys.cursors, &keys.spool_index, &keys.spool];
        self.write((shard, epoch), &KEEP_CURSORS, names, args).await?;
        Ok(())
    }

    /// Writes the cursors of a shard that have moved since they were written.
    async fn write_cursors(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        for (sink, to) in self.cursors.unwritten(shard, epoch) {
            self.write_cursor(shard, epoch, &sink, to).await?;
        }
        Ok(())
    }
}

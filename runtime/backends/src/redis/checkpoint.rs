//! What checkpoints write, and what is looked up of it.

use std::collections::BTreeMap;

use redis::Value;
use troupe_core::{Epoch, ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{CheckpointRow, ExecutionBase, Expired, StoreError, Wait};

use super::layout::{self, Part, ShardKeys};
use super::script::{Arg, CHECKPOINT, EXPIRE, HEAD, LIVE_COUNTS, LOAD, SET_QUARANTINE};
use super::{RedisStore, decode};

/// The executions of a chunk, each once, in the order in which the script gets their keys.
struct Executions {
    numbers: BTreeMap<ExecutionId, u64>,
    keys: Vec<Vec<u8>>,
    ids: Vec<ExecutionId>,
}

impl Executions {
    fn of(rows: &[CheckpointRow], keys: &ShardKeys) -> Self {
        let mut all = Self {
            numbers: BTreeMap::new(),
            keys: Vec::new(),
            ids: Vec::new(),
        };
        for row in rows {
            let id = match row {
                CheckpointRow::Live { id, .. } | CheckpointRow::Reopened { id, .. } => *id,
                CheckpointRow::Ended(archive) => archive.id,
                CheckpointRow::Head { .. } => continue,
            };
            let next = all.ids.len() as u64 + 1;
            all.numbers.entry(id).or_insert_with(|| {
                all.ids.push(id);
                let parts = [Part::Segments, Part::Snapshot, Part::Archive];
                all.keys.extend(parts.map(|part| keys.part(part, id)));
                next
            });
        }
        all
    }

    fn number(&self, id: ExecutionId) -> Arg<'static> {
        Arg::Number(self.numbers.get(&id).copied().unwrap_or(0))
    }
}

pub(super) fn after_seq(seq: Seq, bytes: &[u8]) -> Vec<u8> {
    [&seq.0.to_be_bytes()[..], bytes].concat()
}

/// A row as the script reads it.
fn row<'a>(row: &'a CheckpointRow, executions: &Executions, args: &mut Vec<Arg<'a>>) {
    match row {
        CheckpointRow::Live {
            id,
            first,
            last,
            segment,
            snapshot,
            wait,
        } => {
            let snapshot = snapshot.as_ref().map(|bytes| after_seq(*last, bytes));
            args.extend([
                Arg::Bytes(b"L"),
                executions.number(*id),
                Arg::Number(first.0),
                Arg::Owned(layout::live(*last, *wait)),
                Arg::Owned(after_seq(*last, segment)),
                Arg::Owned(snapshot.unwrap_or_default()),
            ]);
        }
        CheckpointRow::Ended(archive) => {
            let head = layout::archive_head(archive);
            args.extend([
                Arg::Bytes(b"E"),
                executions.number(archive.id),
                Arg::Owned([&head[..], &archive.bytes].concat()),
            ]);
        }
        CheckpointRow::Reopened {
            id,
            ended,
            segment,
            snapshot,
        } => {
            // The entry that reopened it follows in the next row, or is still in the log: until then it waits for a message.
            args.extend([
                Arg::Bytes(b"R"),
                executions.number(*id),
                Arg::Owned(layout::live(*ended, Wait::Message)),
                Arg::Owned(after_seq(*ended, segment)),
                Arg::Owned(after_seq(*ended, snapshot)),
            ]);
        }
        CheckpointRow::Head { key, ordinal } => {
            args.extend([Arg::Bytes(b"H"), Arg::Bytes(&key.0), Arg::Number(*ordinal)]);
        }
    }
}

impl RedisStore {
    pub(super) async fn apply_checkpoint(
        &self,
        shard: ShardId,
        epoch: Epoch,
        rows: &[CheckpointRow],
        reached: Option<LogPosition>,
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let executions = Executions::of(rows, keys);
        let mut names = vec![
            &keys.owner[..],
            &keys.live,
            &keys.timers,
            &keys.running,
            &keys.expiry,
            &keys.tombstones,
            &keys.heads,
            &keys.log,
        ];
        names.extend(executions.keys.iter().map(|key| &key[..]));
        let reached_arg = reached.map_or(Arg::Bytes(b""), |reached| Arg::Number(reached.0));
        let mut args = vec![
            Arg::Number(epoch.0),
            Arg::Number(self.marks.of(shard).kept),
            reached_arg,
            Arg::Number(executions.ids.len() as u64),
        ];
        args.extend(executions.ids.iter().map(|id| Arg::Bytes(&id.0)));
        for each in rows {
            row(each, &executions, &mut args);
        }
        let answer = self.write((shard, epoch), &CHECKPOINT, names, args).await?;
        let number = decode::number(decode::not_behind(shard, answer)?)?;
        self.counted(shard, epoch, number)?;
        if let Some(reached) = reached {
            self.marks.checkpointed(shard, reached);
        }
        Ok(())
    }

    pub(super) async fn load_base(&self, id: ExecutionId) -> Result<Option<ExecutionBase>, StoreError> {
        let shard = id.shard();
        let keys = self.keys(shard)?;
        let parts = [Part::Segments, Part::Snapshot, Part::Archive].map(|part| keys.part(part, id));
        let mut names = vec![&keys.owner[..], &keys.live, &keys.tombstones];
        names.extend(parts.iter().map(|key| &key[..]));
        let known = self.marks.of(shard);
        let args = vec![Arg::Bytes(&id.0), Arg::Number(known.kept)];
        match self.ask(keys, &LOAD, names, args).await? {
            Value::SimpleString(why) => Err(self.told_nothing(shard, known.epoch, &why)),
            answer => decode::base(answer, id),
        }
    }

    /// Why a script that reads has told nothing: its shard is gone, or has not what was acknowledged under `epoch`.
    fn told_nothing(&self, shard: ShardId, epoch: Epoch, why: &str) -> StoreError {
        if why != "behind" {
            return decode::gone(shard);
        }
        if self.marks.of(shard).epoch != epoch {
            return StoreError::Unavailable(format!("shard {shard} has begun again since it was asked"));
        }
        StoreError::WentBack(format!(
            "shard {shard}: something is gone that was kept outside its log"
        ))
    }

    pub(super) async fn read_head(&self, key: ExecutionId) -> Result<Option<u64>, StoreError> {
        let shard = key.shard();
        let keys = self.keys(shard)?;
        let names = vec![&keys.owner[..], &keys.heads];
        let known = self.marks.of(shard);
        let args = vec![Arg::Bytes(&key.0), Arg::Number(known.kept)];
        match self.ask(keys, &HEAD, names, args).await? {
            Value::SimpleString(why) => Err(self.told_nothing(shard, known.epoch, &why)),
            Value::Nil => Ok(None),
            ordinal => decode::number(ordinal).map(Some),
        }
    }

    /// Members of an index up to a bound, lowest first.
    pub(super) async fn index(
        &self,
        slot: u16,
        index: &[u8],
        (from, to): (&[u8], &[u8]),
        limit: usize,
    ) -> Result<Vec<Value>, StoreError> {
        let mut command = redis::cmd("ZRANGEBYLEX");
        let limit = i64::try_from(limit).unwrap_or(-1);
        command.arg(index).arg(from).arg(to).arg("LIMIT").arg(0).arg(limit);
        decode::list(self.command(slot, &command).await?)
    }

    async fn index_until(
        &self,
        slot: u16,
        index: &[u8],
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>, StoreError> {
        let members = self.index(slot, index, (b"-", &layout::up_to(until)), limit).await?;
        members.into_iter().map(decode::member).collect()
    }

    pub(super) async fn due(
        &self,
        shard: ShardId,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>, StoreError> {
        let keys = self.keys(shard)?;
        self.index_until(keys.slot, &keys.timers, until, limit).await
    }

    pub(super) async fn running_after(
        &self,
        shard: ShardId,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let keys = self.keys(shard)?;
        let from = after.map_or(b"-".to_vec(), |id| [&b"("[..], &id.0].concat());
        let members = self.index(keys.slot, &keys.running, (&from, b"+"), limit).await?;
        let ids = members.into_iter().map(|id| decode::execution(&decode::bytes(id)?));
        ids.collect()
    }

    pub(super) async fn counts(&self, shard: ShardId) -> Result<(u64, u64), StoreError> {
        let keys = self.keys(shard)?;
        let controls = ExecutionId::controls(shard);
        let names = vec![&keys.live[..], &keys.running];
        let args = vec![Arg::Bytes(&controls.0)];
        let [running, waiting] = decode::numbers(self.ask(keys, &LIVE_COUNTS, names, args).await?)?;
        Ok((running, waiting))
    }

    pub(super) async fn expired_archives(
        &self,
        shard: ShardId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let keys = self.keys(shard)?;
        let archives = self.index_until(keys.slot, &keys.expiry, now, limit).await?;
        Ok(archives.into_iter().map(|(_, id)| id).collect())
    }

    pub(super) async fn expire_archives(
        &self,
        shard: ShardId,
        epoch: Epoch,
        now: Timestamp,
        archives: &[ExecutionId],
        limit: usize,
    ) -> Result<Expired, StoreError> {
        let keys = self.keys(shard)?;
        let ours: Vec<_> = archives.iter().filter(|id| id.shard() == shard).collect();
        let parts = ours.iter().flat_map(|id| {
            let parts = [Part::Archive, Part::Segments, Part::Blobs];
            parts.map(|part| keys.part(part, **id))
        });
        let parts: Vec<_> = parts.collect();
        let mut names = vec![
            &keys.owner[..],
            &keys.expiry,
            &keys.tombstones,
            &keys.tombstone_expiry,
            &keys.unconfirmed,
        ];
        names.extend(parts.iter().map(|key| &key[..]));
        let now = layout::instant(now);
        let limit = i64::try_from(limit).unwrap_or(-1);
        let mut args = vec![Arg::Number(epoch.0), Arg::Bytes(&now), Arg::Signed(limit)];
        args.extend(ours.iter().map(|id| Arg::Bytes(&id.0)));
        let [archives, tombstones] = decode::numbers(self.write((shard, epoch), &EXPIRE, names, args).await?)?;
        Ok(Expired { archives, tombstones })
    }

    pub(super) async fn write_quarantine(
        &self,
        shard: ShardId,
        epoch: Epoch,
        id: ExecutionId,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let mut args = vec![Arg::Number(epoch.0), Arg::Bytes(&id.0)];
        args.extend(reason.map(|reason| Arg::Bytes(reason.as_bytes())));
        let names = vec![&keys.owner[..], &keys.quarantine];
        self.write((shard, epoch), &SET_QUARANTINE, names, args).await?;
        Ok(())
    }

    pub(super) async fn read_quarantine(&self, shard: ShardId) -> Result<Vec<(ExecutionId, String)>, StoreError> {
        let keys = self.keys(shard)?;
        let mut command = redis::cmd("HGETALL");
        command.arg(&keys.quarantine);
        let pairs = decode::pairs(self.command(keys.slot, &command).await?)?;
        let all = pairs.into_iter().map(|(id, reason)| {
            let reason = String::from_utf8(reason).map_err(|_| decode::damaged("a reason in Redis is no text"))?;
            Ok((decode::execution(&id)?, reason))
        });
        let mut all = all.collect::<Result<Vec<_>, StoreError>>()?;
        all.sort();
        Ok(all)
    }
}

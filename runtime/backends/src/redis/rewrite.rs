//! The format that a shard may hold, and other bytes in the place of those that are stored.

use std::collections::BTreeSet;

use bytes::Bytes;
use redis::Value;
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId, StateFormat};
use troupe_ports::{ExecutionBase, StoreError};

use super::checkpoint::after_seq;
use super::layout::{self, Part, ShardKeys, spool_entry};
use super::script::{Arg, REWRITE, REWRITE_SPOOL, SET_FORMAT};
use super::walk::Walk;
use super::{RedisStore, decode};

/// Rows that one step of a walk looks at: others want the server meanwhile.
const STEP_ROWS: usize = 1_000;

impl RedisStore {
    pub(super) async fn write_format(
        &self,
        shard: ShardId,
        epoch: Epoch,
        format: StateFormat,
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let args = vec![
            Arg::Number(epoch.0),
            Arg::Number(self.marks.of(shard).kept),
            Arg::Number(u64::from(format.0)),
        ];
        let told = self.write((shard, epoch), &SET_FORMAT, vec![&keys.owner], args).await?;
        self.rewritten((shard, epoch), told).map(drop)
    }

    /// What a script answered that counts what it writes: whether it has written.
    fn rewritten(&self, (shard, epoch): (ShardId, Epoch), answer: Value) -> Result<bool, StoreError> {
        match decode::number(decode::not_behind(shard, answer)?)? {
            0 => Ok(false),
            number => self.counted(shard, epoch, number).map(|()| true),
        }
    }

    /// Those that live, those with an archive, and once more those that live: one that is reopened in between moves from the second
    /// to the first.
    pub(super) async fn stored_executions(&self, shard: ShardId) -> Result<Vec<ExecutionId>, StoreError> {
        let keys = self.keys(shard)?;
        let mut all = BTreeSet::new();
        self.list_live(keys, &mut all).await?;
        self.list_archives(keys, &mut all).await?;
        self.list_live(keys, &mut all).await?;
        Ok(all.into_iter().collect())
    }

    /// They are in no order that another server would share: a walk by cursor. What was listed before it began again stays.
    async fn list_live(&self, keys: &ShardKeys, all: &mut BTreeSet<ExecutionId>) -> Result<(), StoreError> {
        let mut walk = Walk::default();
        while !walk.is_over() {
            let mut command = redis::cmd("HSCAN");
            command.arg(&keys.live).arg(walk.cursor()).arg("COUNT").arg(STEP_ROWS);
            let entries = walk.step(self.bulk.answer(keys.slot, &command).await?)?;
            // Each is followed by its value.
            for id in entries.into_iter().step_by(2) {
                all.insert(decode::execution(&decode::bytes(id)?)?);
            }
        }
        Ok(())
    }

    /// By expiry and id, which no other server changes: each step begins behind the last one of the step before.
    async fn list_archives(&self, keys: &ShardKeys, all: &mut BTreeSet<ExecutionId>) -> Result<(), StoreError> {
        let mut from = b"-".to_vec();
        loop {
            let found = self.index(keys.slot, &keys.expiry, (&from, b"+"), STEP_ROWS).await?;
            let is_whole = found.len() == STEP_ROWS;
            for archive in found {
                let (expires_at, id) = decode::member(archive)?;
                all.insert(id);
                from = [&b"("[..], &layout::instant(expires_at), &id.0].concat();
            }
            if !is_whole {
                return Ok(());
            }
        }
    }

    pub(super) async fn rewrite_base(
        &self,
        (shard, epoch): (ShardId, Epoch),
        id: ExecutionId,
        base: &ExecutionBase,
    ) -> Result<bool, StoreError> {
        let keys = self.keys(shard)?;
        let (kind, whole, segments) = match base {
            ExecutionBase::Live { snapshot, segments, .. } => {
                let snapshot = snapshot.as_ref().map(|(seq, bytes)| after_seq(*seq, bytes));
                ("L", snapshot.unwrap_or_default(), segments)
            }
            ExecutionBase::Ended(archive, segments) => {
                let head = layout::archive_head(archive);
                ("E", [&head[..], &archive.bytes].concat(), segments)
            }
            ExecutionBase::Tombstone { .. } => return Ok(self.load_base(id).await?.as_ref() == Some(base)),
        };
        let mut args = vec![
            Arg::Number(epoch.0),
            Arg::Number(self.marks.of(shard).kept),
            Arg::Bytes(&id.0),
            Arg::Bytes(kind.as_bytes()),
            Arg::Owned(whole),
        ];
        args.extend(segments.iter().map(|(last, bytes)| Arg::Owned(after_seq(*last, bytes))));
        let parts = [Part::Segments, Part::Snapshot, Part::Archive].map(|part| keys.part(part, id));
        let mut names = vec![&keys.owner[..], &keys.live];
        names.extend(parts.iter().map(|key| &key[..]));
        let told = self.write((shard, epoch), &REWRITE, names, args).await?;
        self.rewritten((shard, epoch), told)
    }

    pub(super) async fn rewrite_chunk(
        &self,
        (shard, epoch): (ShardId, Epoch),
        sink: &str,
        up_to: LogPosition,
        chunk: &Bytes,
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let entry = spool_entry(sink, up_to);
        let args = vec![
            Arg::Number(epoch.0),
            Arg::Number(self.marks.of(shard).kept),
            Arg::Bytes(&entry),
            Arg::Bytes(chunk),
        ];
        let names = vec![&keys.owner[..], &keys.spool];
        let told = self.write((shard, epoch), &REWRITE_SPOOL, names, args).await?;
        self.rewritten((shard, epoch), told).map(drop)
    }
}

//! The format that a shard may hold, and other bytes in the place of those that are stored.

use bytes::Bytes;
use redis::Value;
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId, StateFormat};
use troupe_ports::{ExecutionBase, StoreError};

use super::checkpoint::after_seq;
use super::layout::{self, Part, spool_entry};
use super::script::{Arg, REWRITE, REWRITE_SPOOL, SET_FORMAT};
use super::{RedisStore, decode};

/// Rows that one step of a walk looks at: others want the server meanwhile.
const STEP_ROWS: usize = 1_000;
/// Bytes of an instant, which an entry of an index begins with.
const INSTANT_BYTES: usize = 8;

impl RedisStore {
    pub(super) async fn write_format(
        &self,
        shard: ShardId,
        epoch: Epoch,
        format: StateFormat,
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let args = vec![Arg::Number(epoch.0), Arg::Number(u64::from(format.0))];
        self.write((shard, epoch), &SET_FORMAT, vec![&keys.owner], args).await?;
        Ok(())
    }

    /// Those that live, those with an archive, and once more those that live: one that is reopened in between moves from the second
    /// to the first.
    pub(super) async fn stored_executions(&self, shard: ShardId) -> Result<Vec<ExecutionId>, StoreError> {
        let keys = self.keys(shard)?;
        let mut all = Vec::new();
        for (verb, key, skipped) in [
            ("HSCAN", &keys.live, 0),
            ("ZSCAN", &keys.expiry, INSTANT_BYTES),
            ("HSCAN", &keys.live, 0),
        ] {
            for entry in self.walk(keys.slot, verb, key).await? {
                let id = entry.get(skipped..).unwrap_or_default();
                all.push(decode::execution(id)?);
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Fields of a hash, or members of a sorted set.
    async fn walk(&self, slot: u16, verb: &str, key: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let (mut found, mut cursor) = (Vec::new(), b"0".to_vec());
        loop {
            let mut command = redis::cmd(verb);
            command.arg(key).arg(&cursor).arg("COUNT").arg(STEP_ROWS);
            let mut answer = decode::list(self.command(slot, &command).await?)?.into_iter();
            let mut next = || answer.next().unwrap_or(Value::Nil);
            cursor = decode::bytes(next())?;
            let pairs = decode::list(next())?.into_iter();
            // Each is followed by its value or score.
            for field in pairs.step_by(2) {
                found.push(decode::bytes(field)?);
            }
            if cursor == b"0" {
                return Ok(found);
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
            Arg::Bytes(&id.0),
            Arg::Bytes(kind.as_bytes()),
            Arg::Owned(whole),
        ];
        args.extend(segments.iter().map(|(last, bytes)| Arg::Owned(after_seq(*last, bytes))));
        let parts = [Part::Segments, Part::Snapshot, Part::Archive].map(|part| keys.part(part, id));
        let mut names = vec![&keys.owner[..], &keys.live];
        names.extend(parts.iter().map(|key| &key[..]));
        let rewritten = self.write((shard, epoch), &REWRITE, names, args).await?;
        Ok(decode::number(rewritten)? == 1)
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
        let args = vec![Arg::Number(epoch.0), Arg::Bytes(&entry), Arg::Bytes(chunk)];
        self.write((shard, epoch), &REWRITE_SPOOL, vec![&keys.owner, &keys.spool], args)
            .await?;
        Ok(())
    }
}

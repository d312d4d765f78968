//! Large values, by root execution and content.

use redis::Value;
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, ShardId, Timestamp};
use troupe_ports::{BlobsPut, StoreError};

use super::layout::{self, Part};
use super::script::{Arg, PUT_BLOBS, SETTLE_BLOBS};
use super::{RedisStore, decode};

impl RedisStore {
    pub(super) async fn keep_blobs(
        &self,
        (shard, epoch): (ShardId, Epoch),
        root: ExecutionId,
        now: Timestamp,
        blobs: &[(BlobRef, Json)],
        (bytes_max, again): (u64, bool),
    ) -> Result<BlobsPut, StoreError> {
        let known = self.marks.of(shard).kept;
        let keys = self.keys(shard)?;
        let of_root = keys.part(Part::Blobs, root);
        let since = layout::instant(now);
        let mut args = vec![
            Arg::Number(epoch.0),
            Arg::Bytes(&root.0),
            Arg::Bytes(&since),
            Arg::Number(bytes_max),
            if again {
                Arg::Bytes(b"again")
            } else {
                Arg::Number(known)
            },
        ];
        for (blob, content) in blobs {
            args.extend([
                Arg::Bytes(&blob.hash),
                Arg::Number(blob.bytes),
                Arg::Bytes(content.as_str().as_bytes()),
            ]);
        }
        let names = vec![&keys.owner[..], &of_root, &keys.unconfirmed];
        let put = self.write((shard, epoch), &PUT_BLOBS, names, args).await?;
        match decode::not_behind(shard, put)? {
            Value::Int(bytes) if bytes < 0 => Ok(BlobsPut::Full {
                bytes: bytes.unsigned_abs(),
            }),
            // What is kept again has no number of its own.
            _ if again => Ok(BlobsPut::Kept),
            number => {
                self.counted(shard, epoch, decode::number(number)?)?;
                Ok(BlobsPut::Kept)
            }
        }
    }

    pub(super) async fn read_blob(&self, root: ExecutionId, hash: [u8; 32]) -> Result<Option<Json>, StoreError> {
        let keys = self.keys(root.shard())?;
        let mut command = redis::cmd("HGET");
        command.arg(keys.part(Part::Blobs, root)).arg(&hash[..]);
        let content = decode::bytes_if_any(self.command(keys.slot, &command).await?)?;
        content
            .map(|content| decode::json(content, &format!("a blob of {root}")))
            .transpose()
    }

    pub(super) async fn unconfirmed_roots(
        &self,
        shard: ShardId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let keys = self.keys(shard)?;
        let bound = [&b"("[..], &layout::instant(before)].concat();
        let mut command = redis::cmd("ZRANGEBYLEX");
        let limit = i64::try_from(limit).unwrap_or(-1);
        command
            .arg(&keys.unconfirmed)
            .arg("-")
            .arg(bound)
            .arg("LIMIT")
            .arg(0)
            .arg(limit);
        let members = decode::list(self.command(keys.slot, &command).await?)?;
        members
            .into_iter()
            .map(|member| Ok(decode::member(member)?.1))
            .collect()
    }

    pub(super) async fn settle_root(
        &self,
        (shard, epoch): (ShardId, Epoch),
        root: ExecutionId,
        exists: bool,
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let of_root = keys.part(Part::Blobs, root);
        let args = vec![
            Arg::Number(epoch.0),
            Arg::Bytes(&root.0),
            Arg::Number(u64::from(exists)),
        ];
        let names = vec![&keys.owner[..], &of_root, &keys.unconfirmed];
        self.write((shard, epoch), &SETTLE_BLOBS, names, args).await?;
        Ok(())
    }
}

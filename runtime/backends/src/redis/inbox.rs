//! What any process leaves for the owner of a shard.

use bytes::Bytes;
use redis::Value;
use troupe_core::{Epoch, ShardId};
use troupe_ports::{InboxId, InboxItem, InboxLimits, InboxPush, StoreError};

use super::layout::ShardKeys;
use super::script::{Arg, INBOX_PUSH, INBOX_READ, INBOX_REMOVE};
use super::{RedisStore, decode};

fn names(keys: &ShardKeys) -> Vec<&[u8]> {
    vec![&keys.owner, &keys.inbox_order, &keys.inbox]
}

impl RedisStore {
    pub(super) async fn push_to_inbox(
        &self,
        shard: ShardId,
        id: InboxId,
        bytes: &Bytes,
        most: InboxLimits,
    ) -> Result<InboxPush, StoreError> {
        let keys = self.keys(shard)?;
        let args = vec![
            Arg::Bytes(&id.0),
            Arg::Bytes(bytes),
            Arg::Number(most.items),
            Arg::Number(most.bytes),
        ];
        match self.ask(keys, &INBOX_PUSH, names(keys), args).await? {
            Value::Nil => Err(decode::gone(shard)),
            answer => match decode::number(answer)? {
                0 => Ok(InboxPush::Full),
                _ => Ok(InboxPush::Kept),
            },
        }
    }

    pub(super) async fn read_inbox(
        &self,
        shard: ShardId,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<InboxItem>, StoreError> {
        let keys = self.keys(shard)?;
        let args = vec![Arg::Number(after), Arg::Number(bytes_max as u64)];
        match self.ask(keys, &INBOX_READ, names(keys), args).await? {
            Value::Nil => Err(decode::gone(shard)),
            answer => decode::inbox(answer),
        }
    }

    pub(super) async fn remove_from_inbox(
        &self,
        shard: ShardId,
        epoch: Epoch,
        ids: &[InboxId],
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let ids = ids.iter().map(|id| Arg::Bytes(&id.0));
        let args = std::iter::once(Arg::Number(epoch.0)).chain(ids).collect();
        self.write((shard, epoch), &INBOX_REMOVE, names(keys), args).await?;
        Ok(())
    }
}

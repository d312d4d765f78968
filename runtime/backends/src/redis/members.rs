//! The register of members, and what they share.

use std::time::Duration;

use async_trait::async_trait;
use redis::Value;
use troupe_ports::{Member, Membership, StoreError};

use super::script::{ANNOUNCE, Arg, Call};
use super::{RedisStore, decode};

fn members(value: Value) -> Result<Vec<Member>, StoreError> {
    let mut members = Vec::new();
    for text in decode::list(value)? {
        let text = decode::bytes(text)?;
        let member = serde_json::from_slice(&text);
        members.push(member.map_err(|error| decode::damaged(format!("a member in the register: {error}")))?);
    }
    members.sort_unstable_by(|a: &Member, b| a.name.cmp(&b.name));
    Ok(members)
}

impl RedisStore {
    async fn register(&self, args: Vec<Arg<'_>>) -> Result<Value, StoreError> {
        let keys = &self.layout.members;
        let names = vec![&keys.members[..], &keys.expiries];
        let call = Call {
            script: &ANNOUNCE,
            keys: names,
            args,
        };
        Ok(self.quick.call(keys.slot, &call).await?)
    }
}

#[async_trait]
impl Membership for RedisStore {
    async fn announce(&self, member: &Member, ttl: Duration) -> Result<Vec<Member>, StoreError> {
        let text = serde_json::to_vec(member)
            .map_err(|error| StoreError::Damaged(format!("a member cannot be written: {error}")))?;
        let args = vec![
            Arg::Bytes(member.name.as_bytes()),
            Arg::Owned(text),
            Arg::Number(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        ];
        members(self.register(args).await?)
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        members(self.register(Vec::new()).await?)
    }

    async fn leave(&self, name: &str) -> Result<(), StoreError> {
        let keys = &self.layout.members;
        // In this order: between the two nobody is left that never expires.
        for (verb, key) in [("HDEL", &keys.members), ("ZREM", &keys.expiries)] {
            let mut command = redis::cmd(verb);
            command.arg(key).arg(name);
            self.command(keys.slot, &command).await?;
        }
        Ok(())
    }

    async fn secret(&self, name: &str, proposed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let keys = &self.layout.members;
        let mut propose = redis::cmd("HSETNX");
        propose.arg(&keys.secrets).arg(name).arg(proposed);
        self.command(keys.slot, &propose).await?;
        let mut read = redis::cmd("HGET");
        read.arg(&keys.secrets).arg(name);
        decode::bytes(self.command(keys.slot, &read).await?)
    }
}

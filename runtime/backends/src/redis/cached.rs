//! Outputs that may be reused, bounded in number and in bytes.

use redis::Value;
use troupe_core::{Json, Timestamp};
use troupe_ports::{CacheLimits, StoreError};

use super::layout;
use super::script::{Arg, CACHE_OUTPUT, CACHED_OUTPUT, Call, Script};
use super::{RedisStore, decode};

/// A use is noted at most so often, in milliseconds: reading should not write each time.
const NOTED_EVERY_MS: u64 = 60_000;
/// Expired outputs that go with one that comes.
const EXPIRED_AT_ONCE: u64 = 100;

impl RedisStore {
    async fn cache(&self, script: &'static Script, keys: Vec<&[u8]>, args: Vec<Arg<'_>>) -> Result<Value, StoreError> {
        let slot = self.layout.cache.slot;
        Ok(self.bulk.call(slot, &Call { script, keys, args }).await?)
    }

    pub(super) async fn find_output(&self, key: [u8; 32], now: Timestamp) -> Result<Option<Json>, StoreError> {
        let keys = &self.layout.cache;
        let instant = layout::instant(now);
        let args = vec![
            Arg::Bytes(&key),
            Arg::Bytes(&instant),
            Arg::Signed(now.0),
            Arg::Number(NOTED_EVERY_MS),
        ];
        let names = vec![&keys.outputs[..], &keys.uses];
        let found = decode::bytes_if_any(self.cache(&CACHED_OUTPUT, names, args).await?)?;
        found
            .map(|output| decode::json(output, "an output for reuse"))
            .transpose()
    }

    pub(super) async fn keep_output(
        &self,
        key: [u8; 32],
        output: &Json,
        (now, expires_at): (Timestamp, Timestamp),
        most: CacheLimits,
    ) -> Result<(), StoreError> {
        let keys = &self.layout.cache;
        let (instant, expiry) = (layout::instant(now), layout::instant(expires_at));
        let args = vec![
            Arg::Bytes(&key),
            Arg::Signed(now.0),
            Arg::Bytes(&instant),
            Arg::Bytes(&expiry),
            Arg::Bytes(output.as_str().as_bytes()),
            Arg::Number(most.entries),
            Arg::Number(most.bytes),
            Arg::Number(EXPIRED_AT_ONCE),
        ];
        let names = vec![&keys.outputs[..], &keys.uses, &keys.expiry, &keys.bytes];
        self.cache(&CACHE_OUTPUT, names, args).await?;
        Ok(())
    }
}

//! What sinks have still to send of records that the log does not keep for them.

use bytes::Bytes;
use redis::Value;
use troupe_core::{Epoch, LogPosition, ShardId};
use troupe_ports::{SpoolChunk, StoreError};

use super::layout::{spool_bounds, spool_entry, spool_position};
use super::script::{Arg, SPOOL, SPOOL_EXTENT, SPOOLED};
use super::{RedisStore, decode};

/// Entries of the index, and what stands after each.
fn entries(answer: Value) -> Result<Vec<(LogPosition, Value)>, StoreError> {
    let mut parts = decode::list(answer)?.into_iter();
    let mut entries = Vec::new();
    while let (Some(entry), Some(value)) = (parts.next(), parts.next()) {
        let position = spool_position(&decode::bytes(entry)?);
        let position = position.ok_or_else(|| decode::damaged("an entry of a spool names no position"))?;
        entries.push((position, value));
    }
    Ok(entries)
}

impl RedisStore {
    pub(super) async fn put_spool(
        &self,
        (shard, epoch): (ShardId, Epoch),
        sink: &str,
        up_to: LogPosition,
        chunk: &Bytes,
    ) -> Result<(), StoreError> {
        let keys = self.keys(shard)?;
        let (entry, (from, end)) = (spool_entry(sink, up_to), spool_bounds(sink));
        let follows = self.marks.spool_end(shard, sink);
        let args = vec![
            Arg::Number(epoch.0),
            Arg::Bytes(sink.as_bytes()),
            Arg::Number(up_to.0),
            Arg::Bytes(&entry),
            Arg::Bytes(&from),
            Arg::Bytes(&end),
            Arg::Number(follows.0),
            Arg::Bytes(chunk),
        ];
        let names = vec![&keys.owner[..], &keys.cursors, &keys.spool_index, &keys.spool];
        let spooled = self.write((shard, epoch), &SPOOL, names, args).await?;
        decode::not_behind(shard, spooled)?;
        self.marks.spooled(shard, sink, up_to);
        Ok(())
    }

    pub(super) async fn read_spool(
        &self,
        shard: ShardId,
        sink: &str,
        after: LogPosition,
        bytes_max: usize,
    ) -> Result<Vec<SpoolChunk>, StoreError> {
        let keys = self.keys(shard)?;
        let (after, (_, end)) = (spool_entry(sink, after), spool_bounds(sink));
        let args = vec![Arg::Bytes(&after), Arg::Bytes(&end), Arg::Number(bytes_max as u64)];
        let names = vec![&keys.spool_index[..], &keys.spool];
        let chunks = entries(self.ask(keys, &SPOOLED, names, args).await?)?.into_iter();
        let chunks = chunks.map(|(up_to, bytes)| {
            let bytes = decode::bytes(bytes)?.into();
            Ok(SpoolChunk { up_to, bytes })
        });
        chunks.collect()
    }

    pub(super) async fn measure_spool(
        &self,
        shard: ShardId,
        sink: &str,
    ) -> Result<Vec<(LogPosition, u64)>, StoreError> {
        let keys = self.keys(shard)?;
        let (from, end) = spool_bounds(sink);
        let args = vec![Arg::Bytes(&from), Arg::Bytes(&end)];
        let names = vec![&keys.spool_index[..], &keys.spool];
        let chunks = entries(self.ask(keys, &SPOOL_EXTENT, names, args).await?)?.into_iter();
        chunks
            .map(|(up_to, bytes)| Ok((up_to, decode::number(bytes)?)))
            .collect()
    }
}

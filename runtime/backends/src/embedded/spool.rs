//! Spools, in the log's file. Every function runs inside a transaction of the writer or on a reader.

use bytes::Bytes;
use rusqlite::{Connection, params};
use troupe_core::{Epoch, LogPosition, ShardId};
use troupe_ports::{SpoolChunk, StoreError};

use super::log::{cursor, fence, integer};
use super::writer::Ran;

/// Adds a chunk, unless cursor or spool reach its end already.
pub(super) fn put(
    connection: &Connection,
    (shard, epoch): (ShardId, Epoch),
    sink: &str,
    up_to: LogPosition,
    chunk: &[u8],
) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    let last: Option<u64> = connection
        .prepare_cached("SELECT max(up_to) FROM spool WHERE shard = ?1 AND sink = ?2")?
        .query_row(params![shard.0, sink], |row| row.get(0))?;
    let reached = cursor(connection, shard, sink)?.max(LogPosition(last.unwrap_or(0)));
    if up_to > reached {
        connection
            .prepare_cached("INSERT INTO spool (shard, sink, up_to, bytes) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![shard.0, sink, integer(up_to.0), chunk])?;
    }
    Ok(Ok(()))
}

/// Puts another chunk in the place of the one that ends at `up_to`, if it is there.
pub(super) fn rewrite(
    connection: &Connection,
    (shard, epoch): (ShardId, Epoch),
    sink: &str,
    up_to: LogPosition,
    chunk: &[u8],
) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    connection
        .prepare_cached("UPDATE spool SET bytes = ?4 WHERE shard = ?1 AND sink = ?2 AND up_to = ?3")?
        .execute(params![shard.0, sink, integer(up_to.0), chunk])?;
    Ok(Ok(()))
}

/// Removes what the sink has sent.
pub(super) fn sent(connection: &Connection, shard: ShardId, sink: &str, to: LogPosition) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM spool WHERE shard = ?1 AND sink = ?2 AND up_to <= ?3")?
        .execute(params![shard.0, sink, integer(to.0)])?;
    Ok(())
}

pub(super) fn read(
    connection: &Connection,
    shard: ShardId,
    sink: &str,
    after: LogPosition,
    bytes_max: usize,
) -> rusqlite::Result<Vec<SpoolChunk>> {
    let sql = "SELECT up_to, bytes FROM spool WHERE shard = ?1 AND sink = ?2 AND up_to > ?3 ORDER BY up_to";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params![shard.0, sink, integer(after.0)])?;
    let (mut chunks, mut total) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_blob()?;
        total += bytes.len();
        if total > bytes_max && !chunks.is_empty() {
            break;
        }
        chunks.push(SpoolChunk {
            up_to: LogPosition(row.get(0)?),
            bytes: Bytes::copy_from_slice(bytes),
        });
    }
    Ok(chunks)
}

pub(super) fn extent(connection: &Connection, shard: ShardId, sink: &str) -> rusqlite::Result<Vec<(LogPosition, u64)>> {
    let sql = "SELECT up_to, length(bytes) FROM spool WHERE shard = ?1 AND sink = ?2 ORDER BY up_to";
    let mut select = connection.prepare_cached(sql)?;
    let rows = select.query_map(params![shard.0, sink], |row| {
        Ok((LogPosition(row.get(0)?), row.get(1)?))
    })?;
    rows.collect()
}

//! Inboxes, in the log's file. Every function runs inside a transaction of the writer or on a reader.

use bytes::Bytes;
use rusqlite::{Connection, params};
use troupe_core::{Epoch, ShardId};
use troupe_ports::{InboxId, InboxItem, InboxLimits, InboxPush, StoreError};

use super::log::{fence, integer};
use super::writer::Ran;

pub(super) fn push(
    connection: &Connection,
    shard: ShardId,
    id: InboxId,
    bytes: &[u8],
    most: InboxLimits,
) -> Ran<InboxPush, StoreError> {
    let known: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM inbox WHERE shard = ?1 AND id = ?2)")?
        .query_row(params![shard.0, id.0], |row| row.get(0))?;
    if known {
        return Ok(Ok(InboxPush::Kept));
    }
    let (items, total): (u64, u64) = connection
        .prepare_cached("SELECT count(*), coalesce(sum(length(bytes)), 0) FROM inbox WHERE shard = ?1")?
        .query_row([shard.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if items >= most.items || total + bytes.len() as u64 > most.bytes {
        return Ok(Ok(InboxPush::Full));
    }
    connection
        .prepare_cached("INSERT INTO inbox (shard, id, bytes) VALUES (?1, ?2, ?3)")?
        .execute(params![shard.0, id.0, bytes])?;
    Ok(Ok(InboxPush::Kept))
}

pub(super) fn read(
    connection: &Connection,
    shard: ShardId,
    after: u64,
    bytes_max: usize,
) -> rusqlite::Result<Vec<InboxItem>> {
    let sql = "SELECT arrival, id, bytes FROM inbox WHERE shard = ?1 AND arrival > ?2 ORDER BY arrival";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params![shard.0, integer(after)])?;
    let (mut items, mut total) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(2)?.as_blob()?;
        total += bytes.len();
        if total > bytes_max && !items.is_empty() {
            break;
        }
        items.push(InboxItem {
            arrival: row.get(0)?,
            id: InboxId(row.get(1)?),
            bytes: Bytes::copy_from_slice(bytes),
        });
    }
    Ok(items)
}

/// Removes what the owner has dealt with.
pub(super) fn remove(connection: &Connection, shard: ShardId, epoch: Epoch, ids: &[InboxId]) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    let mut delete = connection.prepare_cached("DELETE FROM inbox WHERE shard = ?1 AND id = ?2")?;
    for id in ids {
        delete.execute(params![shard.0, id.0])?;
    }
    Ok(Ok(()))
}

//! Other bytes in the place of what checkpoints wrote. Every function runs inside a transaction of the writer or on a reader.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use troupe_core::{Epoch, ExecutionId, Seq, ShardId};
use troupe_ports::{ExecutionBase, StoreError};

use super::derived::{fence, load};
use super::log::integer;
use super::writer::Ran;

/// Every execution with rows of its own, in no order.
pub(super) fn stored(connection: &Connection, shard: ShardId) -> rusqlite::Result<Vec<ExecutionId>> {
    connection
        .prepare_cached("SELECT id FROM live WHERE shard = ?1 UNION ALL SELECT id FROM archive WHERE shard = ?1")?
        .query_map([shard.0], |row| Ok(ExecutionId(row.get(0)?)))?
        .collect()
}

/// Whether what is stored of an execution has the seqs of `base`, whose bytes are there then.
pub(super) fn rewrite(
    connection: &Connection,
    (shard, epoch): (ShardId, Epoch),
    id: ExecutionId,
    base: &ExecutionBase,
) -> Ran<bool, StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    match base {
        ExecutionBase::Live { snapshot, segments, .. } => {
            if !is_alike(connection, id, snapshot.as_ref().map(|(seq, _)| *seq), segments)? {
                return Ok(Ok(false));
            }
            if let Some((_, bytes)) = snapshot {
                connection
                    .prepare_cached("UPDATE snapshot SET bytes = ?2 WHERE id = ?1")?
                    .execute(params![&id.0[..], &bytes[..]])?;
            }
            put(connection, id, segments)?;
        }
        ExecutionBase::Ended(archive, segments) => {
            if lasts(connection, id)? != seqs(segments) {
                return Ok(Ok(false));
            }
            let rewritten = connection
                .prepare_cached("UPDATE archive SET bytes = ?3 WHERE id = ?1 AND last = ?2")?
                .execute(params![&id.0[..], integer(archive.last.0), &archive.bytes[..]])?;
            if rewritten == 0 {
                return Ok(Ok(false));
            }
            put(connection, id, segments)?;
        }
        ExecutionBase::Tombstone { .. } => return Ok(load(connection, id)?.map(|stored| stored.as_ref() == Some(base))),
    }
    Ok(Ok(true))
}

fn is_alike(
    connection: &Connection,
    id: ExecutionId,
    snapshot: Option<Seq>,
    segments: &[(Seq, Bytes)],
) -> rusqlite::Result<bool> {
    let lives: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM live WHERE id = ?1)")?
        .query_row([&id.0[..]], |row| row.get(0))?;
    let stored: Option<u64> = connection
        .prepare_cached("SELECT seq FROM snapshot WHERE id = ?1")?
        .query_row([&id.0[..]], |row| row.get(0))
        .optional()?;
    Ok(lives && stored.map(Seq) == snapshot && lasts(connection, id)? == seqs(segments))
}

fn seqs(segments: &[(Seq, Bytes)]) -> Vec<Seq> {
    segments.iter().map(|(last, _)| *last).collect()
}

fn lasts(connection: &Connection, id: ExecutionId) -> rusqlite::Result<Vec<Seq>> {
    connection
        .prepare_cached("SELECT last FROM segment WHERE id = ?1 ORDER BY last")?
        .query_map([&id.0[..]], |row| Ok(Seq(row.get(0)?)))?
        .collect()
}

fn put(connection: &Connection, id: ExecutionId, segments: &[(Seq, Bytes)]) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached("UPDATE segment SET bytes = ?3 WHERE id = ?1 AND last = ?2")?;
    for (last, bytes) in segments {
        update.execute(params![&id.0[..], integer(last.0), &bytes[..]])?;
    }
    Ok(())
}

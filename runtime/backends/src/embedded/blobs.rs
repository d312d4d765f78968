//! Large values, by root execution and content. They lie in the derived file: a put is durable before it is acknowledged, and
//! the log's short transactions never carry them.

use rusqlite::{Connection, OptionalExtension, params};
use troupe_core::{BlobRef, Epoch, ExecutionId, Json, ShardId, Timestamp};
use troupe_ports::{BlobsPut, StoreError};

use super::derived::fence;
use super::log::integer;
use super::writer::Ran;

pub(super) fn put(
    connection: &Connection,
    (shard, epoch): (ShardId, Epoch),
    root: ExecutionId,
    now: Timestamp,
    blobs: &[(BlobRef, Json)],
    bytes_max: u64,
) -> Ran<BlobsPut, StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    let id = &root.0[..];
    let known: Option<u64> = connection
        .prepare_cached("SELECT bytes FROM blob_root WHERE root = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let known_bytes = known.unwrap_or(0);
    let mut added: Vec<&(BlobRef, Json)> = Vec::new();
    for blob in blobs {
        let is_there = connection
            .prepare_cached("SELECT 1 FROM blob WHERE root = ?1 AND hash = ?2")?
            .exists(params![id, &blob.0.hash[..]])?;
        if !is_there && !added.iter().any(|(other, _)| *other == blob.0) {
            added.push(blob);
        }
    }
    let bytes = known_bytes + added.iter().map(|(blob, _)| blob.bytes).sum::<u64>();
    if added.is_empty() {
        return Ok(Ok(BlobsPut::Kept));
    }
    if bytes > bytes_max {
        return Ok(Ok(BlobsPut::Full { bytes }));
    }
    for (blob, content) in added {
        connection
            .prepare_cached("INSERT INTO blob (root, hash, bytes) VALUES (?1, ?2, ?3)")?
            .execute(params![id, &blob.hash[..], content.as_str().as_bytes()])?;
    }
    connection
        .prepare_cached(
            "INSERT INTO blob_root (root, shard, bytes, since_ms, confirmed) VALUES (?1, ?2, ?3, ?4, 0)
             ON CONFLICT DO UPDATE SET bytes = ?3",
        )?
        .execute(params![id, shard.0, integer(bytes), now.0])?;
    Ok(Ok(BlobsPut::Kept))
}

pub(super) fn get(connection: &Connection, root: ExecutionId, hash: [u8; 32]) -> Ran<Option<Json>, StoreError> {
    let bytes: Option<Vec<u8>> = connection
        .prepare_cached("SELECT bytes FROM blob WHERE root = ?1 AND hash = ?2")?
        .query_row(params![&root.0[..], &hash[..]], |row| row.get(0))
        .optional()?;
    let Some(bytes) = bytes else { return Ok(Ok(None)) };
    Ok(String::from_utf8(bytes)
        .map(|text| Some(Json::from_trusted(text)))
        .map_err(|_| StoreError::Damaged(format!("a blob of {root} is no text"))))
}

pub(super) fn unconfirmed(
    connection: &Connection,
    shard: ShardId,
    before: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<ExecutionId>> {
    connection
        .prepare_cached(
            "SELECT root FROM blob_root WHERE confirmed = 0 AND shard = ?1 AND since_ms < ?2
             ORDER BY since_ms, root LIMIT ?3",
        )?
        .query_map(params![shard.0, before.0, integer(limit as u64)], |row| {
            Ok(ExecutionId(row.get(0)?))
        })?
        .collect()
}

pub(super) fn settle(
    connection: &Connection,
    (shard, epoch): (ShardId, Epoch),
    root: ExecutionId,
    exists: bool,
) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    if exists {
        connection
            .prepare_cached("UPDATE blob_root SET confirmed = 1 WHERE root = ?1")?
            .execute([&root.0[..]])?;
    } else {
        remove(connection, root)?;
    }
    Ok(Ok(()))
}

/// Removes all blobs of a root, if there are some.
pub(super) fn remove(connection: &Connection, root: ExecutionId) -> rusqlite::Result<()> {
    let had = connection
        .prepare_cached("DELETE FROM blob_root WHERE root = ?1")?
        .execute([&root.0[..]])?;
    if had > 0 {
        connection
            .prepare_cached("DELETE FROM blob WHERE root = ?1")?
            .execute([&root.0[..]])?;
    }
    Ok(())
}

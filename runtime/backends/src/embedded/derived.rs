//! The derived file: what checkpoints write and recovery loads.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use troupe_core::{Epoch, ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{Archive, CheckpointRow, ExecutionBase, Expired, StoreError, Wait};

use super::blobs;
use super::log::integer;
use super::writer::Ran;

const RUNNING: i64 = 0;
const UNTIL: i64 = 1;
const MESSAGE: i64 = 2;

/// What checkpoints say of a shard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Checkpointed {
    pub epoch: Epoch,
    pub position: LogPosition,
    /// Records that a checkpoint holds and the log has lost, until that is settled.
    pub lost: u64,
}

/// Makes `epoch` the one in force.
pub(super) fn install(connection: &Connection, shard: ShardId, epoch: Epoch) -> rusqlite::Result<Checkpointed> {
    connection
        .prepare_cached(
            "INSERT INTO shard (shard, epoch, checkpointed) VALUES (?1, ?2, 0)
             ON CONFLICT DO UPDATE SET epoch = ?2 WHERE epoch < ?2",
        )?
        .execute(params![shard.0, integer(epoch.0)])?;
    shard_of(connection, shard)
}

/// What checkpoints say of a shard; of one that was never owned, nothing.
pub(super) fn shard_of(connection: &Connection, shard: ShardId) -> rusqlite::Result<Checkpointed> {
    let found = connection
        .prepare_cached("SELECT epoch, checkpointed, lost FROM shard WHERE shard = ?1")?
        .query_row([shard.0], |row| {
            Ok(Checkpointed {
                epoch: Epoch(row.get(0)?),
                position: LogPosition(row.get(1)?),
                lost: row.get(2)?,
            })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// The log has lost records that a checkpoint holds: what is left of it counts as not checkpointed beyond `to`.
pub(super) fn set_back(
    connection: &Connection,
    (shard, epoch): (ShardId, Epoch),
    to: LogPosition,
    lost: u64,
) -> Ran<Checkpointed, StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    connection
        .prepare_cached("UPDATE shard SET checkpointed = ?2, lost = lost + ?3 WHERE shard = ?1")?
        .execute(params![shard.0, integer(to.0), integer(lost)])?;
    shard_of(connection, shard).map(Ok)
}

/// Lists show what the log has lost.
pub(super) fn settle_loss(connection: &Connection, shard: ShardId, epoch: Epoch) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    connection
        .prepare_cached("UPDATE shard SET lost = 0 WHERE shard = ?1")?
        .execute([shard.0])?;
    Ok(Ok(()))
}

pub(super) fn fence(connection: &Connection, shard: ShardId, epoch: Epoch) -> Ran<(), StoreError> {
    let owner: Option<u64> = connection
        .prepare_cached("SELECT epoch FROM shard WHERE shard = ?1")?
        .query_row([shard.0], |row| row.get(0))
        .optional()?;
    let owner = Epoch(owner.unwrap_or(0));
    Ok(if owner == epoch {
        Ok(())
    } else {
        Err(StoreError::Fenced {
            shard,
            owner,
            ours: epoch,
        })
    })
}

pub(super) fn checkpoint(
    connection: &Connection,
    shard: ShardId,
    epoch: Epoch,
    rows: &[CheckpointRow],
    reached: Option<LogPosition>,
) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    // A chunk that is refused takes back its own rows, not those of the transaction's other jobs.
    connection.prepare_cached("SAVEPOINT chunk")?.execute([])?;
    for row in rows {
        let applied = match row {
            CheckpointRow::Live {
                id,
                first,
                last,
                segment,
                snapshot,
                wait,
            } => live(connection, *id, (*first, *last), segment, snapshot.as_ref(), *wait)?,
            CheckpointRow::Ended(archive) => {
                ended(connection, archive)?;
                Ok(())
            }
            CheckpointRow::Reopened {
                id,
                ended,
                segment,
                snapshot,
            } => {
                reopened(connection, *id, *ended, segment, snapshot)?;
                Ok(())
            }
            CheckpointRow::Head { key, ordinal } => {
                head_moved(connection, *key, *ordinal)?;
                Ok(())
            }
        };
        if let Err(refused) = applied {
            connection.prepare_cached("ROLLBACK TO chunk")?.execute([])?;
            connection.prepare_cached("RELEASE chunk")?.execute([])?;
            return Ok(Err(refused));
        }
    }
    if let Some(reached) = reached {
        connection
            .prepare_cached("UPDATE shard SET checkpointed = ?2 WHERE shard = ?1 AND checkpointed < ?2")?
            .execute(params![shard.0, integer(reached.0)])?;
    }
    connection.prepare_cached("RELEASE chunk")?.execute([])?;
    Ok(Ok(()))
}

fn live(
    connection: &Connection,
    id: ExecutionId,
    (first, last): (Seq, Seq),
    segment: &Bytes,
    snapshot: Option<&Bytes>,
    wait: Wait,
) -> Ran<(), StoreError> {
    let stored: Option<u64> = connection
        .prepare_cached("SELECT last FROM live WHERE id = ?1")?
        .query_row([&id.0[..]], |row| row.get(0))
        .optional()?;
    let base = match stored {
        Some(stored) => Seq(stored),
        None => match ended_at(connection, id)? {
            Some(end) if last <= end => return Ok(Ok(())),
            Some(end) => {
                let why = format!("execution {id} ended at {end}, yet has a live entry {last}");
                return Ok(Err(StoreError::WentBack(why)));
            }
            None => Seq(0),
        },
    };
    if last <= base {
        return Ok(Ok(()));
    }
    if first > base.next() {
        let why = format!("execution {id} is stored up to {base}, the next segment begins at {first}");
        return Ok(Err(StoreError::WentBack(why)));
    }
    let (kind, due) = match wait {
        Wait::Running => (RUNNING, None),
        Wait::Until(due) => (UNTIL, Some(due.0)),
        Wait::Message => (MESSAGE, None),
    };
    let sql = if stored.is_some() {
        "UPDATE live SET last = ?3, wait = ?4, due_ms = ?5 WHERE id = ?1 AND shard = ?2"
    } else {
        "INSERT INTO live (id, shard, last, wait, due_ms) VALUES (?1, ?2, ?3, ?4, ?5)"
    };
    connection
        .prepare_cached(sql)?
        .execute(params![&id.0[..], id.shard().0, integer(last.0), kind, due])?;
    connection
        .prepare_cached("INSERT INTO segment (id, last, bytes) VALUES (?1, ?2, ?3)")?
        .execute(params![&id.0[..], integer(last.0), &segment[..]])?;
    if let Some(snapshot) = snapshot {
        connection
            .prepare_cached(
                "INSERT INTO snapshot (id, seq, bytes) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET seq = ?2, bytes = ?3",
            )?
            .execute(params![&id.0[..], integer(last.0), &snapshot[..]])?;
    }
    Ok(Ok(()))
}

/// Seq of the last entry, if the execution ended.
fn ended_at(connection: &Connection, id: ExecutionId) -> rusqlite::Result<Option<Seq>> {
    let last: Option<u64> = connection
        .prepare_cached(
            "SELECT last FROM archive WHERE id = ?1 UNION ALL SELECT last FROM tombstone WHERE id = ?1 LIMIT 1",
        )?
        .query_row([&id.0[..]], |row| row.get(0))
        .optional()?;
    Ok(last.map(Seq))
}

fn ended(connection: &Connection, archive: &Archive) -> rusqlite::Result<()> {
    let id = &archive.id.0[..];
    let lived = connection
        .prepare_cached("DELETE FROM live WHERE id = ?1 AND last <= ?2")?
        .execute(params![id, integer(archive.last.0)])?;
    if lived > 0 {
        connection
            .prepare_cached("DELETE FROM snapshot WHERE id = ?1")?
            .execute([id])?;
    } else if is_known(connection, archive.id)? {
        // It ended before, or was reopened since.
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO archive (id, shard, last, expires_ms, tombstone_ms, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            id,
            archive.id.shard().0,
            integer(archive.last.0),
            archive.expires_at.0,
            integer(archive.tombstone_ms),
            &archive.bytes[..]
        ])?;
    Ok(())
}

fn is_known(connection: &Connection, id: ExecutionId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM archive WHERE id = ?1) OR EXISTS (SELECT 1 FROM live WHERE id = ?1)
                 OR EXISTS (SELECT 1 FROM tombstone WHERE id = ?1)",
        )?
        .query_row([&id.0[..]], |row| row.get(0))
}

/// The entry that reopened it follows in the next row, or is still in the log: until then it waits for a message.
fn reopened(
    connection: &Connection,
    id: ExecutionId,
    ended: Seq,
    segment: &Bytes,
    snapshot: &Bytes,
) -> rusqlite::Result<()> {
    let archived = connection
        .prepare_cached("DELETE FROM archive WHERE id = ?1 AND last = ?2")?
        .execute(params![&id.0[..], integer(ended.0)])?;
    if archived == 0 {
        return Ok(());
    }
    connection
        .prepare_cached("INSERT INTO live (id, shard, last, wait, due_ms) VALUES (?1, ?2, ?3, ?4, NULL)")?
        .execute(params![&id.0[..], id.shard().0, integer(ended.0), MESSAGE])?;
    connection
        .prepare_cached("INSERT INTO segment (id, last, bytes) VALUES (?1, ?2, ?3)")?
        .execute(params![&id.0[..], integer(ended.0), &segment[..]])?;
    connection
        .prepare_cached("INSERT INTO snapshot (id, seq, bytes) VALUES (?1, ?2, ?3)")?
        .execute(params![&id.0[..], integer(ended.0), &snapshot[..]])?;
    Ok(())
}

fn head_moved(connection: &Connection, key: ExecutionId, ordinal: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO head (key, ordinal) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET ordinal = ?2 WHERE ordinal < ?2",
        )?
        .execute(params![&key.0[..], integer(ordinal)])?;
    Ok(())
}

pub(super) fn head(connection: &Connection, key: ExecutionId) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT ordinal FROM head WHERE key = ?1")?
        .query_row([&key.0[..]], |row| row.get(0))
        .optional()
}

pub(super) fn load(connection: &Connection, id: ExecutionId) -> Ran<Option<ExecutionBase>, StoreError> {
    // One snapshot of the file for all tables.
    let transaction = connection.unchecked_transaction()?;
    let row: Option<(i64, Option<i64>)> = transaction
        .prepare_cached("SELECT wait, due_ms FROM live WHERE id = ?1")?
        .query_row([&id.0[..]], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((kind, due)) = row {
        let wait = match (kind, due) {
            (RUNNING, _) => Wait::Running,
            (UNTIL, Some(due)) => Wait::Until(Timestamp(due)),
            (MESSAGE, _) => Wait::Message,
            _ => {
                return Ok(Err(StoreError::Damaged(format!(
                    "execution {id} waits for {kind} at {due:?}"
                ))));
            }
        };
        let snapshot: Option<(u64, Vec<u8>)> = transaction
            .prepare_cached("SELECT seq, bytes FROM snapshot WHERE id = ?1")?
            .query_row([&id.0[..]], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let snapshot = snapshot.map(|(seq, bytes)| (Seq(seq), Bytes::from(bytes)));
        return Ok(Ok(Some(ExecutionBase::Live {
            snapshot,
            segments: segments(&transaction, id)?,
            wait,
        })));
    }
    let archive = transaction
        .prepare_cached("SELECT last, bytes, expires_ms, tombstone_ms FROM archive WHERE id = ?1")?
        .query_row([&id.0[..]], |row| {
            Ok(Archive {
                id,
                last: Seq(row.get(0)?),
                bytes: Bytes::from(row.get::<_, Vec<u8>>(1)?),
                expires_at: Timestamp(row.get(2)?),
                tombstone_ms: row.get(3)?,
            })
        })
        .optional()?;
    if let Some(archive) = archive {
        return Ok(Ok(Some(ExecutionBase::Ended(archive, segments(&transaction, id)?))));
    }
    let tombstone: Option<u64> = transaction
        .prepare_cached("SELECT last FROM tombstone WHERE id = ?1")?
        .query_row([&id.0[..]], |row| row.get(0))
        .optional()?;
    Ok(Ok(tombstone.map(|last| ExecutionBase::Tombstone { last: Seq(last) })))
}

fn segments(connection: &Connection, id: ExecutionId) -> rusqlite::Result<Vec<(Seq, Bytes)>> {
    connection
        .prepare_cached("SELECT last, bytes FROM segment WHERE id = ?1 ORDER BY last")?
        .query_map([&id.0[..]], |row| {
            Ok((Seq(row.get(0)?), Bytes::from(row.get::<_, Vec<u8>>(1)?)))
        })?
        .collect()
}

pub(super) fn timers_due(
    connection: &Connection,
    shard: ShardId,
    until: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<(Timestamp, ExecutionId)>> {
    connection
        .prepare_cached(
            "SELECT due_ms, id FROM live WHERE wait = 1 AND shard = ?1 AND due_ms <= ?2 ORDER BY due_ms, id LIMIT ?3",
        )?
        .query_map(params![shard.0, until.0, integer(limit as u64)], |row| {
            Ok((Timestamp(row.get(0)?), ExecutionId(row.get(1)?)))
        })?
        .collect()
}

pub(super) fn running(
    connection: &Connection,
    shard: ShardId,
    after: Option<ExecutionId>,
    limit: usize,
) -> rusqlite::Result<Vec<ExecutionId>> {
    let after = after.map_or(Vec::new(), |id| id.0.to_vec());
    connection
        .prepare_cached("SELECT id FROM live WHERE wait = 0 AND shard = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?
        .query_map(params![shard.0, after, integer(limit as u64)], |row| {
            Ok(ExecutionId(row.get(0)?))
        })?
        .collect()
}

/// Live executions with unfinished work, and waiting ones.
pub(super) fn live_counts(connection: &Connection, shard: ShardId) -> rusqlite::Result<(u64, u64)> {
    let count = |sql: &str| {
        connection
            .prepare_cached(sql)?
            .query_row([shard.0], |row| row.get::<_, u64>(0))
    };
    let running = count("SELECT count(*) FROM live WHERE wait = 0 AND shard = ?1")?;
    let timed = count("SELECT count(*) FROM live WHERE wait = 1 AND shard = ?1")?;
    let controls = connection
        .prepare_cached("SELECT count(*) FROM live WHERE id = ?1 AND wait = 2")?
        .query_row([ExecutionId::controls(shard).0], |row| row.get::<_, u64>(0))?;
    let messages = count("SELECT count(*) FROM live WHERE wait = 2 AND shard = ?1")? - controls;
    Ok((running, timed + messages))
}

/// Archives that have expired, earliest first.
pub(super) fn expired(
    connection: &Connection,
    shard: ShardId,
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<ExecutionId>> {
    connection
        .prepare_cached(
            "SELECT id FROM archive WHERE shard = ?1 AND expires_ms <= ?2 ORDER BY expires_ms, id LIMIT ?3",
        )?
        .query_map(params![shard.0, now.0, integer(limit as u64)], |row| {
            Ok(ExecutionId(row.get(0)?))
        })?
        .collect()
}

pub(super) fn expire(
    connection: &Connection,
    shard: ShardId,
    epoch: Epoch,
    now: Timestamp,
    archives: &[ExecutionId],
    limit: usize,
) -> Ran<Expired, StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    // Before the archives, so that a tombstone is not written and removed in one call.
    let tombstones = connection
        .prepare_cached(
            "DELETE FROM tombstone WHERE id IN (SELECT id FROM tombstone WHERE shard = ?1 AND expires_ms <= ?2
             ORDER BY expires_ms, id LIMIT ?3)",
        )?
        .execute(params![shard.0, now.0, integer(limit as u64)])?;
    let mut gone = 0;
    for root in archives {
        let id = &root.0[..];
        let archive: Option<(u64, i64, u64)> = connection
            .prepare_cached(
                "DELETE FROM archive WHERE id = ?1 AND shard = ?2 AND expires_ms <= ?3
                 RETURNING last, expires_ms, tombstone_ms",
            )?
            .query_row(params![id, shard.0, now.0], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let Some((last, expires_ms, tombstone_ms)) = archive else {
            continue;
        };
        connection
            .prepare_cached("DELETE FROM segment WHERE id = ?1")?
            .execute([id])?;
        blobs::remove(connection, *root)?;
        connection
            .prepare_cached("INSERT INTO tombstone (id, shard, last, expires_ms) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                id,
                shard.0,
                integer(last),
                Timestamp(expires_ms).plus_ms(tombstone_ms).0
            ])?;
        gone += 1;
    }
    Ok(Ok(Expired {
        archives: gone,
        tombstones: tombstones as u64,
    }))
}

pub(super) fn set_quarantine(
    connection: &Connection,
    shard: ShardId,
    epoch: Epoch,
    id: ExecutionId,
    reason: Option<&str>,
) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    match reason {
        Some(reason) => connection
            .prepare_cached(
                "INSERT INTO quarantine (id, shard, reason) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET reason = ?3",
            )?
            .execute(params![&id.0[..], shard.0, reason])?,
        None => connection
            .prepare_cached("DELETE FROM quarantine WHERE id = ?1")?
            .execute([&id.0[..]])?,
    };
    Ok(Ok(()))
}

pub(super) fn quarantined(connection: &Connection, shard: ShardId) -> rusqlite::Result<Vec<(ExecutionId, String)>> {
    connection
        .prepare_cached("SELECT id, reason FROM quarantine WHERE shard = ?1 ORDER BY id")?
        .query_map([shard.0], |row| Ok((ExecutionId(row.get(0)?), row.get(1)?)))?
        .collect()
}

//! The log file: ownership, records and cursors. Every function runs inside a transaction of the writer or on a reader.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use troupe_core::{Epoch, LogPosition, ShardId, StateFormat, Timestamp};
use troupe_ports::{AppendError, CommitId, Holder, LogRecord, StoreError};

use super::options::Sharing;
use super::spool;
use super::writer::Ran;

/// Bits of a record's key that hold its position.
const POSITION_BITS: u32 = 47;
/// Bytes that one step of a trim removes, so that appends do not wait long behind it.
const TRIM_STEP_BYTES: i64 = 1 << 20;

/// What the log knows of a shard that was just acquired.
pub(super) struct Acquired {
    pub epoch: Epoch,
    pub next: LogPosition,
    pub trimmed: LogPosition,
    /// The last owner gave it up.
    pub released: bool,
    pub format: StateFormat,
}

pub(super) struct Owner {
    epoch: Epoch,
    name: Option<String>,
    lease_until: Timestamp,
    trimmed: LogPosition,
    format: StateFormat,
}

fn key(shard: ShardId, position: LogPosition) -> i64 {
    (i64::from(shard.0) << POSITION_BITS) | (position.0.min((1 << POSITION_BITS) - 1) as i64)
}

fn position(key: i64) -> LogPosition {
    LogPosition((key & ((1 << POSITION_BITS) - 1)) as u64)
}

fn last_key(shard: ShardId) -> i64 {
    key(shard, LogPosition(u64::MAX))
}

/// SQLite's integers are signed; what the engine counts stays far below.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn owner(connection: &Connection, shard: ShardId) -> rusqlite::Result<Owner> {
    let found = connection
        .prepare_cached("SELECT epoch, owner, lease_until_ms, trimmed, format FROM shard WHERE shard = ?1")?
        .query_row([shard.0], |row| {
            Ok(Owner {
                epoch: Epoch(row.get(0)?),
                name: row.get(1)?,
                lease_until: Timestamp(row.get(2)?),
                trimmed: LogPosition(row.get(3)?),
                format: StateFormat(row.get(4)?),
            })
        })
        .optional()?;
    Ok(found.unwrap_or(Owner {
        epoch: Epoch(0),
        name: None,
        lease_until: Timestamp(0),
        trimmed: LogPosition(0),
        format: StateFormat::FIRST,
    }))
}

pub(super) fn fence(connection: &Connection, shard: ShardId, epoch: Epoch) -> Ran<Owner, StoreError> {
    let owner = owner(connection, shard)?;
    if owner.epoch == epoch {
        Ok(Ok(owner))
    } else {
        Ok(Err(StoreError::Fenced {
            shard,
            owner: owner.epoch,
            ours: epoch,
        }))
    }
}

fn next(connection: &Connection, shard: ShardId, trimmed: LogPosition) -> rusqlite::Result<LogPosition> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT at FROM record WHERE at BETWEEN ?1 AND ?2 ORDER BY at DESC LIMIT 1")?
        .query_row([key(shard, LogPosition(0)), last_key(shard)], |row| row.get(0))
        .optional()?;
    Ok(last.map_or(trimmed, position).next())
}

/// Leases of processes that are gone: only the holder of the directory's lock may call this.
pub(super) fn void_leases(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE shard SET lease_until_ms = 0", [])?;
    Ok(())
}

/// The epoch of every shard that was ever owned.
pub(super) fn epochs(connection: &Connection) -> rusqlite::Result<Vec<(u16, u64)>> {
    let mut select = connection.prepare("SELECT shard, epoch FROM shard")?;
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Who takes a shard, and how.
pub(super) struct Taker {
    pub name: String,
    pub now: Timestamp,
    pub lease_ms: u64,
    pub sharing: Sharing,
    /// The epoch that was issued for it, if one was.
    pub issued: Option<Epoch>,
    /// The latest epoch that the other file knows: an older copy of this one does not.
    pub after: Epoch,
}

pub(super) fn acquire(connection: &Connection, shard: ShardId, taker: &Taker) -> Ran<Acquired, StoreError> {
    let Taker { name, now, .. } = taker;
    let owner = owner(connection, shard)?;
    let held = owner.lease_until > *now && owner.name.as_deref().is_some_and(|holder| holder != name);
    if held && taker.sharing != Sharing::TakeOver {
        let holder = owner.name.unwrap_or_default();
        return Ok(Err(StoreError::Held(format!("{holder} has shard {shard}"))));
    }
    let latest = owner.epoch.max(taker.after);
    let epoch = taker.issued.unwrap_or(Epoch(latest.0 + 1));
    if epoch <= latest {
        return Ok(Err(StoreError::Fenced {
            shard,
            owner: latest,
            ours: epoch,
        }));
    }
    // Only a release leaves a shard that was owned without a name.
    let released = owner.epoch > Epoch(0) && owner.name.is_none();
    connection
        .prepare_cached(
            "INSERT INTO shard (shard, epoch, owner, lease_until_ms, trimmed) VALUES (?1, ?2, ?3, ?4, 0)
             ON CONFLICT (shard) DO UPDATE SET epoch = ?2, owner = ?3, lease_until_ms = ?4",
        )?
        .execute(params![shard.0, epoch.0, name, now.plus_ms(taker.lease_ms).0])?;
    Ok(Ok(Acquired {
        epoch,
        next: next(connection, shard, owner.trimmed)?,
        trimmed: owner.trimmed,
        released,
        format: owner.format,
    }))
}

pub(super) fn holder(connection: &Connection, shard: ShardId, now: Timestamp) -> rusqlite::Result<Holder> {
    let owner = owner(connection, shard)?;
    Ok(Holder {
        format: owner.format,
        epoch: owner.epoch,
        owner: owner.name.filter(|_| owner.lease_until > now),
    })
}

pub(super) fn renew(
    connection: &Connection,
    shard: ShardId,
    epoch: Epoch,
    now: Timestamp,
    lease_ms: u64,
) -> Ran<Timestamp, StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    connection
        .prepare_cached("UPDATE shard SET lease_until_ms = ?2 WHERE shard = ?1")?
        .execute(params![shard.0, now.plus_ms(lease_ms).0])?;
    Ok(Ok(now))
}

pub(super) fn set_format(
    connection: &Connection,
    shard: ShardId,
    epoch: Epoch,
    format: StateFormat,
) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    connection
        .prepare_cached("UPDATE shard SET format = ?2 WHERE shard = ?1")?
        .execute(params![shard.0, format.0])?;
    Ok(Ok(()))
}

/// The next epoch is used up by nobody, so that the releaser is fenced like any former owner.
pub(super) fn release(connection: &Connection, shard: ShardId, epoch: Epoch) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    connection
        .prepare_cached("UPDATE shard SET epoch = epoch + 1, owner = NULL, lease_until_ms = 0 WHERE shard = ?1")?
        .execute([shard.0])?;
    Ok(Ok(()))
}

/// Only a planted fault leaves the epoch away.
pub(super) fn append(
    connection: &Connection,
    shard: ShardId,
    epoch: Option<Epoch>,
    at: LogPosition,
    commit: CommitId,
    record: &[u8],
) -> Ran<(), AppendError> {
    let fenced = match epoch {
        Some(epoch) => fence(connection, shard, epoch)?,
        None => Ok(owner(connection, shard)?),
    };
    let owner = match fenced {
        Ok(owner) => owner,
        Err(fenced) => return Ok(Err(fenced.into())),
    };
    let next = next(connection, shard, owner.trimmed)?;
    if at != next {
        return Ok(Err(AppendError::Conflict { next }));
    }
    connection
        .prepare_cached("INSERT INTO record (at, commit_id, bytes) VALUES (?1, ?2, ?3)")?
        .execute(params![key(shard, at), &commit.0.to_be_bytes()[..], record])?;
    Ok(Ok(()))
}

pub(super) fn read(
    connection: &Connection,
    shard: ShardId,
    from: LogPosition,
    bytes_max: usize,
) -> Ran<Vec<LogRecord>, StoreError> {
    let mut select =
        connection.prepare_cached("SELECT at, commit_id, bytes FROM record WHERE at BETWEEN ?1 AND ?2 ORDER BY at")?;
    let mut rows = select.query([key(shard, from), last_key(shard)])?;
    let mut records: Vec<LogRecord> = Vec::new();
    let mut total = 0;
    while let Some(row) = rows.next()? {
        let at = position(row.get(0)?);
        let bytes = row.get_ref(2)?.as_blob()?;
        total += bytes.len();
        if total > bytes_max && !records.is_empty() {
            break;
        }
        if let Some(last) = records.last()
            && last.position.next() != at
        {
            return Ok(Err(StoreError::Damaged(format!(
                "shard {shard} has no record {}",
                last.position.next()
            ))));
        }
        let Ok(commit) = <[u8; 16]>::try_from(row.get_ref(1)?.as_blob()?) else {
            return Ok(Err(StoreError::Damaged(format!(
                "record {at} of shard {shard} has no commit id"
            ))));
        };
        let commit = CommitId(u128::from_be_bytes(commit));
        records.push(LogRecord {
            position: at,
            commit,
            bytes: Bytes::copy_from_slice(bytes),
        });
    }
    Ok(Ok(records))
}

/// Removes some records up to `up_to`; true if more are left to remove.
pub(super) fn trim(connection: &Connection, shard: ShardId, epoch: Epoch, up_to: LogPosition) -> Ran<bool, StoreError> {
    let owner = match fence(connection, shard, epoch)? {
        Ok(owner) => owner,
        Err(fenced) => return Ok(Err(fenced)),
    };
    let lowest_cursor: Option<u64> = connection
        .prepare_cached(
            "SELECT min(max(position, coalesce((
                 SELECT max(up_to) FROM spool WHERE spool.shard = cursor.shard AND spool.sink = cursor.sink
             ), 0))) FROM cursor WHERE shard = ?1",
        )?
        .query_row([shard.0], |row| row.get(0))?;
    let last = LogPosition(next(connection, shard, owner.trimmed)?.0 - 1);
    let up_to = up_to.min(last).min(LogPosition(lowest_cursor.unwrap_or(u64::MAX)));
    if up_to <= owner.trimmed {
        return Ok(Ok(false));
    }
    let mut reached = up_to;
    {
        let sql = "SELECT at, length(bytes) FROM record WHERE at BETWEEN ?1 AND ?2 ORDER BY at";
        let mut select = connection.prepare_cached(sql)?;
        let mut rows = select.query([key(shard, owner.trimmed), key(shard, up_to)])?;
        let mut total = 0;
        while let Some(row) = rows.next()? {
            total += row.get::<_, i64>(1)?;
            if total >= TRIM_STEP_BYTES {
                reached = position(row.get(0)?);
                break;
            }
        }
    }
    connection
        .prepare_cached("DELETE FROM record WHERE at BETWEEN ?1 AND ?2")?
        .execute([key(shard, LogPosition(0)), key(shard, reached)])?;
    connection
        .prepare_cached("UPDATE shard SET trimmed = ?2 WHERE shard = ?1")?
        .execute(params![shard.0, integer(reached.0)])?;
    Ok(Ok(reached < up_to))
}

pub(super) fn cursor(connection: &Connection, shard: ShardId, sink: &str) -> rusqlite::Result<LogPosition> {
    let position: Option<u64> = connection
        .prepare_cached("SELECT position FROM cursor WHERE shard = ?1 AND sink = ?2")?
        .query_row(params![shard.0, sink], |row| row.get(0))
        .optional()?;
    Ok(LogPosition(position.unwrap_or(0)))
}

/// Writes a cursor unless its setter has been fenced since.
pub(super) fn set_cursor(
    connection: &Connection,
    shard: ShardId,
    epoch: Epoch,
    sink: &str,
    to: LogPosition,
) -> rusqlite::Result<()> {
    if fence(connection, shard, epoch)?.is_err() {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO cursor (shard, sink, position) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET position = ?3 WHERE position < ?3",
        )?
        .execute(params![shard.0, sink, integer(to.0)])?;
    spool::sent(connection, shard, sink, to)
}

/// Forgets the cursors and spools of other sinks.
pub(super) fn keep_cursors(
    connection: &Connection,
    shard: ShardId,
    epoch: Epoch,
    sinks: &[String],
) -> Ran<(), StoreError> {
    if let Err(fenced) = fence(connection, shard, epoch)? {
        return Ok(Err(fenced));
    }
    let known: Vec<String> = connection
        .prepare_cached("SELECT sink FROM cursor WHERE shard = ?1")?
        .query_map([shard.0], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for sink in known.iter().filter(|sink| !sinks.contains(sink)) {
        connection
            .prepare_cached("DELETE FROM cursor WHERE shard = ?1 AND sink = ?2")?
            .execute(params![shard.0, sink])?;
        spool::sent(connection, shard, sink, LogPosition(u64::MAX))?;
    }
    Ok(Ok(()))
}

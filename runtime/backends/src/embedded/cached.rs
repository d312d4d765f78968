//! Outputs that may be reused, bounded in number and in bytes.

use rusqlite::{Connection, OptionalExtension, params};
use troupe_core::{Json, Timestamp};
use troupe_ports::{CacheLimits, StoreError};

use super::log::integer;
use super::writer::Ran;

/// A use is noted at most so often, in milliseconds: reading should not write each time.
const NOTED_EVERY_MS: i64 = 60_000;
/// Expired outputs that go with one that comes.
const EXPIRED_AT_ONCE: i64 = 100;

/// The output, and whether its use is to be noted.
pub(super) fn get(connection: &Connection, key: [u8; 32], now: Timestamp) -> Ran<Option<(Json, bool)>, StoreError> {
    let row: Option<(Vec<u8>, i64)> = connection
        .prepare_cached("SELECT output, used_ms FROM cached_output WHERE key = ?1 AND expires_ms > ?2")?
        .query_row(params![&key[..], now.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((output, used_ms)) = row else {
        return Ok(Ok(None));
    };
    Ok(String::from_utf8(output)
        .map(|text| Some((Json::from_trusted(text), used_ms + NOTED_EVERY_MS <= now.0)))
        .map_err(|_| StoreError::Damaged("an output for reuse is no text".into())))
}

pub(super) fn note_use(connection: &Connection, key: [u8; 32], now: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE cached_output SET used_ms = ?2 WHERE key = ?1 AND used_ms < ?2")?
        .execute(params![&key[..], now.0])?;
    Ok(())
}

pub(super) fn put(
    connection: &Connection,
    key: [u8; 32],
    output: &Json,
    (now, expires_at): (Timestamp, Timestamp),
    most: CacheLimits,
) -> rusqlite::Result<()> {
    let (mut entries, mut bytes): (u64, u64) = connection
        .prepare_cached("SELECT entries, bytes FROM cached_total")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut gone = Vec::new();
    {
        let mut replaced =
            connection.prepare_cached("DELETE FROM cached_output WHERE key = ?1 RETURNING length(output)")?;
        let mut rows = replaced.query([&key[..]])?;
        while let Some(row) = rows.next()? {
            gone.push(row.get::<_, u64>(0)?);
        }
        let mut expired = connection.prepare_cached(
            "DELETE FROM cached_output WHERE key IN (SELECT key FROM cached_output WHERE expires_ms <= ?1
             ORDER BY expires_ms LIMIT ?2) RETURNING length(output)",
        )?;
        let mut rows = expired.query(params![now.0, EXPIRED_AT_ONCE])?;
        while let Some(row) = rows.next()? {
            gone.push(row.get::<_, u64>(0)?);
        }
    }
    for length in gone {
        entries = entries.saturating_sub(1);
        bytes = bytes.saturating_sub(length);
    }
    let length = output.bytes() as u64;
    if length <= most.bytes && most.entries > 0 {
        connection
            .prepare_cached("INSERT INTO cached_output (key, output, used_ms, expires_ms) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![&key[..], output.as_str().as_bytes(), now.0, expires_at.0])?;
        (entries, bytes) = (entries + 1, bytes + length);
    }
    while entries > most.entries || bytes > most.bytes {
        let oldest: Option<u64> = connection
            .prepare_cached(
                "DELETE FROM cached_output WHERE key = (SELECT key FROM cached_output WHERE key <> ?1
                 ORDER BY used_ms, key LIMIT 1) RETURNING length(output)",
            )?
            .query_row([&key[..]], |row| row.get(0))
            .optional()?;
        let Some(length) = oldest else { break };
        entries = entries.saturating_sub(1);
        bytes = bytes.saturating_sub(length);
    }
    connection
        .prepare_cached("UPDATE cached_total SET entries = ?1, bytes = ?2")?
        .execute(params![integer(entries), integer(bytes)])?;
    Ok(())
}

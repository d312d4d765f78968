//! The order of owners: the log file has one member and its epochs are the ones in force, so it is the authority itself.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use troupe_core::{Epoch, ShardId};
use troupe_ports::{EpochAuthority, EpochError, StoreError};

use super::log::integer;
use super::writer::{Failure, Ran};
use super::{EmbeddedStore, derived};

impl Failure for EpochError {
    fn unavailable(why: String) -> Self {
        Self::Store(StoreError::Unavailable(why))
    }
}

fn issued(connection: &Connection, shard: ShardId) -> rusqlite::Result<Epoch> {
    let epoch = connection
        .prepare_cached("SELECT epoch FROM shard WHERE shard = ?1")?
        .query_row([shard.0], |row| row.get(0))
        .optional()?;
    Ok(Epoch(epoch.unwrap_or(0)))
}

/// The holder of the former epoch is fenced from now on; its lease stays what it was.
fn issue(connection: &Connection, shard: ShardId, after: Epoch, owner: &str) -> Ran<Epoch, EpochError> {
    let latest = issued(connection, shard)?;
    if latest > after {
        return Ok(Err(EpochError::Conflict { latest }));
    }
    let epoch = Epoch(after.0.saturating_add(1));
    connection
        .prepare_cached(
            "INSERT INTO shard (shard, epoch, owner, lease_until_ms, trimmed) VALUES (?1, ?2, ?3, 0, 0)
             ON CONFLICT (shard) DO UPDATE SET epoch = ?2",
        )?
        .execute(params![shard.0, integer(epoch.0), owner])?;
    Ok(Ok(epoch))
}

#[async_trait]
impl EpochAuthority for EmbeddedStore {
    async fn issue(&self, shard: ShardId, after: Epoch, owner: &str) -> Result<Epoch, EpochError> {
        self.check_shard(shard)?;
        let owner = owner.to_owned();
        let epoch = self.log.run(move |log| issue(log, shard, after, &owner)).await?;
        self.epochs[usize::from(shard.0)].fetch_max(epoch.0, Ordering::AcqRel);
        self.derived
            .run(move |derived| derived::install(derived, shard, epoch).map(Ok::<_, StoreError>))
            .await?;
        Ok(epoch)
    }

    async fn issued(&self, shard: ShardId) -> Result<Epoch, StoreError> {
        self.check_shard(shard)?;
        self.log_reader.read(move |log| issued(log, shard)).await
    }
}

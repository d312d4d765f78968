//! Epochs: a row a shard, which one statement compares and sets.

use async_trait::async_trait;
use sqlx::PgConnection;
use troupe_core::{Epoch, ShardId};
use troupe_ports::{EpochAuthority, EpochError, StoreError};

use super::PostgresStore;
use super::text::escaped;
use super::visibility::integer;

/// Returns no row if a later epoch than `$2` has been issued. Of two that run at once one waits for the other's commit and then
/// compares with that.
const ISSUE: &str = "
INSERT INTO epoch AS e (shard, epoch, owner) VALUES ($1, $2 + 1, $3)
ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner, issued_at = excluded.issued_at
WHERE e.epoch < excluded.epoch
RETURNING epoch";

async fn latest(connection: &mut PgConnection, shard: ShardId) -> sqlx::Result<Epoch> {
    let latest: Option<i64> = sqlx::query_scalar("SELECT epoch FROM epoch WHERE shard = $1")
        .bind(i32::from(shard.0))
        .fetch_optional(connection)
        .await?;
    Ok(Epoch(latest.map_or(0, i64::unsigned_abs)))
}

async fn issue(
    connection: &mut PgConnection,
    shard: ShardId,
    after: Epoch,
    owner: &str,
) -> sqlx::Result<Result<Epoch, EpochError>> {
    let issued: Option<i64> = sqlx::query_scalar(ISSUE)
        .bind(i32::from(shard.0))
        .bind(integer(after.0))
        .bind(escaped(owner))
        .fetch_optional(&mut *connection)
        .await?;
    Ok(match issued {
        Some(epoch) => Ok(Epoch(epoch.unsigned_abs())),
        None => Err(EpochError::Conflict {
            latest: latest(connection, shard).await?,
        }),
    })
}

#[async_trait]
impl EpochAuthority for PostgresStore {
    async fn issue(&self, shard: ShardId, after: Epoch, owner: &str) -> Result<Epoch, EpochError> {
        let mut connection = self.database.connection().await.map_err(StoreError::from)?;
        let issue = issue(&mut connection, shard, after, owner);
        let issued = self.database.answer(issue).await.map_err(StoreError::from)?;
        connection.give_back();
        issued
    }

    async fn issued(&self, shard: ShardId) -> Result<Epoch, StoreError> {
        let mut connection = self.database.connection().await?;
        let latest = self.database.answer(latest(&mut connection, shard)).await?;
        connection.give_back();
        Ok(latest)
    }
}

//! An index that is made while members read and write its table.
//!
//! A plain `CREATE INDEX` of a table with millions of rows keeps all writes waiting until it is done. The concurrent one does not,
//! but it is no part of a transaction, and it waits for every statement that began before it. So it is no migration: whoever waits for
//! the lock of those would be waited for, in a circle. It has a lock of its own for which nobody waits.
//! Without the index lists by business key are slow, and nothing else is: no start depends on it.

use sqlx::PgConnection;
use tokio::time::{Instant, timeout_at};

/// A business key may have kilobytes, which no index takes: so its hash.
const MAKE: &str = "
CREATE INDEX summary_key ON summary (hashtextextended(execution_key, 0), started_ms, id) WHERE execution_key IS NOT NULL";

/// The same, while rows are written.
const MAKE_BESIDE: &str = "
CREATE INDEX CONCURRENTLY summary_key ON summary (hashtextextended(execution_key, 0), started_ms, id) WHERE execution_key IS NOT NULL";

const IS_VALID: &str = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('summary_key')";

/// Makes the index with the tables, as a part of their transaction, if there is no row yet.
pub(super) async fn make_if_empty(connection: &mut PgConnection) -> sqlx::Result<()> {
    if is_valid(connection).await?.is_some() {
        return Ok(());
    }
    let is_empty: bool = sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM summary)")
        .fetch_one(&mut *connection)
        .await?;
    if is_empty {
        sqlx::query(MAKE).execute(connection).await?;
    }
    Ok(())
}

/// Makes the index if it is missing, beside whoever uses the table. If it is not there by `deadline` the store opens without it: the
/// server goes on with it by itself, and the next start looks again.
///
/// The connection serves for nothing else afterwards, and gives up the lock when it is closed.
pub(super) async fn make_beside(connection: &mut PgConnection, address: &str, schema: &str, deadline: Instant) {
    let why = match timeout_at(deadline, make(connection, address, schema)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it takes longer than a start may; the server goes on with it".to_owned(),
    };
    tracing::warn!(
        address,
        why,
        "the index summary_key is not there yet: lists by business key are slow"
    );
}

async fn make(connection: &mut PgConnection, address: &str, schema: &str) -> sqlx::Result<()> {
    if is_valid(connection).await? == Some(true) {
        return Ok(());
    }
    let lock = "SELECT pg_try_advisory_lock(hashtextextended('troupe index ' || $1, 0))";
    let is_ours: bool = sqlx::query_scalar(lock)
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !is_ours {
        tracing::info!(address, "another session makes the index summary_key");
        return Ok(());
    }
    sqlx::query("SET statement_timeout = 0")
        .execute(&mut *connection)
        .await?;
    // Whoever had the lock before may be done, or have left half of it.
    match is_valid(connection).await? {
        Some(true) => return Ok(()),
        Some(false) => {
            sqlx::query("DROP INDEX CONCURRENTLY summary_key")
                .execute(&mut *connection)
                .await?;
        }
        None => {}
    }
    tracing::info!(address, "the index summary_key is being made; members go on meanwhile");
    sqlx::query(MAKE_BESIDE).execute(connection).await?;
    Ok(())
}

/// None if there is no such index.
async fn is_valid(connection: &mut PgConnection) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar(IS_VALID).fetch_optional(connection).await
}

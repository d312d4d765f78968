//! An index that is made while members read and write its table.
//!
//! A plain `CREATE INDEX` of a table with millions of rows keeps all writes waiting until it is done. The concurrent one does not,
//! but it is no part of a transaction, and it waits for every statement that began before it. So it is no migration: whoever waits for
//! the lock of those would be waited for, in a circle. It has a lock of its own for which nobody waits.
//! Without the index lists by business key are slow, and nothing else is: no start waits for it, however long others keep it up.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::timeout;

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

/// Whether the index has to be made.
pub(super) async fn is_missing(connection: &mut PgConnection) -> sqlx::Result<bool> {
    Ok(is_valid(connection).await? != Some(true))
}

/// Makes the index beside whoever uses the table, until it is done or this is dropped. Then the server goes on with what it has
/// begun, and the next start looks again, as it does after a failure.
pub(super) struct Making(pub(super) JoinHandle<()>);

impl Making {
    /// Begins, over a connection of its own.
    pub(super) fn start(connect: PgConnectOptions, connect_timeout: Duration, address: String, schema: String) -> Self {
        Self(tokio::spawn(async move {
            if let Err(why) = make_beside(&connect, connect_timeout, &address, &schema).await {
                tracing::warn!(
                    address,
                    why,
                    "the index summary_key was not made: lists by business key are slow; the next start tries again"
                );
            }
        }))
    }

    pub(super) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn make_beside(
    connect: &PgConnectOptions,
    connect_timeout: Duration,
    address: &str,
    schema: &str,
) -> Result<(), String> {
    let mut connection = timeout(connect_timeout, connect.connect())
        .await
        .map_err(|_| format!("no connection within {} ms", connect_timeout.as_millis()))?
        .map_err(|error| error.to_string())?;
    make(&mut connection, address, schema)
        .await
        .map_err(|error| error.to_string())?;
    // Gives up the lock.
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the connection that made the index did not end well");
    }
    Ok(())
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
    let begun = Instant::now();
    sqlx::query(MAKE_BESIDE).execute(connection).await?;
    tracing::info!(address, took = ?begun.elapsed(), "the index summary_key is made");
    Ok(())
}

/// None if there is no such index.
async fn is_valid(connection: &mut PgConnection) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar(IS_VALID).fetch_optional(connection).await
}

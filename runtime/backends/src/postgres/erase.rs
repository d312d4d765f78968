//! Removing a store with everything in it.

use sqlx::{ConnectOptions, Connection};

use super::database::{ANSWER_MARGIN, address, session};
use super::failure::Failure;
use super::options::PostgresOptions;

/// Removes the schema of the options, with everything in it, if there is one.
pub(super) async fn erase(options: &PostgresOptions) -> Result<(), Failure> {
    let connect = options.connect().map_err(Failure::Unavailable)?;
    let address = address(&connect);
    // What goes with the schema is no news.
    let connect = session(connect, options).options([("client_min_messages", "warning")]);
    let connected = tokio::time::timeout(options.connect_timeout, connect.connect()).await;
    let late = |what: &str| Failure::Unavailable(format!("{address}: {what}"));
    let mut connection = connected
        .map_err(|_| late("no connection in time"))?
        .map_err(|error| Failure::of(&error, &address))?;
    // The options admit no name that needs quotes.
    let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", options.schema);
    let dropping = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection);
    tokio::time::timeout(options.statement_timeout + ANSWER_MARGIN, dropping)
        .await
        .map_err(|_| late("no answer in time; the outcome is unknown"))?
        .map_err(|error| Failure::of(&error, &address))?;
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the connection that removed the schema did not end well");
    }
    Ok(())
}

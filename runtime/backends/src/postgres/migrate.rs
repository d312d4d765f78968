//! The server's fitness and the tables' version, both looked at when a store is opened.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, SqlSafeStr};
use tokio::time::Instant;

use super::failure::Failure;
use super::indexes;
use super::options::PostgresOptions;

/// The oldest release whose settings and functions are all used here.
const SERVER_VERSION_MIN: i32 = 130_000;

/// How long a change of the tables waits for whoever reads or writes them. Everybody else waits behind it meanwhile.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";
/// How long it leaves them alone before it tries again.
const LOCK_AGAIN: Duration = Duration::from_secs(2);

/// Every change of the tables, oldest first. A published one is never edited: what it was is remembered in each database.
const MIGRATIONS: [(i64, &str, &str); 4] = [
    (
        1,
        "definitions and summaries",
        include_str!("migrations/0001_definitions_and_summaries.sql"),
    ),
    (2, "audit", include_str!("migrations/0002_audit.sql")),
    (3, "api keys", include_str!("migrations/0003_api_keys.sql")),
    (
        4,
        "searched summaries",
        include_str!("migrations/0004_searched_summaries.sql"),
    ),
];

/// What the server was found to be.
pub(super) struct Server {
    /// Commits would be acknowledged before they are on disk.
    pub(super) acknowledges_early: bool,
    /// The index that is made beside the others is not there yet.
    pub(super) lacks_index: bool,
}

/// Checks the server and brings the schema up to date.
pub(super) async fn run(
    connect: &PgConnectOptions,
    address: &str,
    options: &PostgresOptions,
) -> Result<Server, Failure> {
    let late = |what: &str, after: Duration| {
        Failure::Unavailable(format!("{address}: {what} within {} ms", after.as_millis()))
    };
    let mut connection = tokio::time::timeout(options.connect_timeout, connect.connect())
        .await
        .map_err(|_| late("no connection", options.connect_timeout))?
        .map_err(|error| Failure::of(&error, address))?;
    let deadline = Instant::now() + options.migrate_timeout;
    let work = async {
        let mut server = look(&mut connection, address).await?;
        while !bring_up_to_date(&mut connection, address, &options.schema).await? {
            tracing::info!(address, "the tables are in use: their change is tried again soon");
            tokio::time::sleep(LOCK_AGAIN).await;
        }
        // Whoever makes it looks again.
        server.lacks_index = indexes::is_missing(&mut connection).await.unwrap_or(true);
        Ok(server)
    };
    let done = tokio::time::timeout_at(deadline, work).await.map_err(|_| {
        late(
            "the tables were not brought up to date, perhaps because another replica or session keeps them busy,",
            options.migrate_timeout,
        )
    })?;
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the connection that brought the tables up to date did not end well");
    }
    done
}

async fn look(connection: &mut PgConnection, address: &str) -> Result<Server, Failure> {
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
                      current_setting('synchronous_commit'), current_setting('fsync'), pg_is_in_recovery()";
    let (version, encoding, commit, fsync, standby): (i32, String, String, String, bool) = sqlx::query_as(sql)
        .fetch_one(connection)
        .await
        .map_err(|error| Failure::of(&error, address))?;
    let unfit = |why: String| Err(Failure::Unavailable(format!("{address}: {why}")));
    if version < SERVER_VERSION_MIN {
        return unfit(format!(
            "release {}.{} of PostgreSQL is too old; it takes 13 or newer",
            version / 10_000,
            version % 10_000
        ));
    }
    if encoding != "UTF8" {
        return unfit(format!(
            "the database is encoded as {encoding}; create one with `ENCODING 'UTF8' TEMPLATE template0`"
        ));
    }
    if standby {
        return unfit("this server is a standby and only reads; connect to the primary".to_owned());
    }
    if fsync != "on" {
        tracing::warn!(
            address,
            "PostgreSQL runs with fsync = off: a power loss destroys what it acknowledged"
        );
    }
    Ok(Server {
        acknowledges_early: commit == "off",
        lacks_index: true,
    })
}

/// One transaction, so that it is done whole or not at all, and so that a replica that dies or freezes in it is rid of the lock.
/// False: somebody keeps a table, and nothing is done.
async fn bring_up_to_date(connection: &mut PgConnection, address: &str, schema: &str) -> Result<bool, Failure> {
    let failed = |error: sqlx::Error| Failure::of(&error, address);
    let mut transaction = connection.begin().await.map_err(failed)?;
    // As long as it takes; the caller has a limit.
    sqlx::query("SET LOCAL statement_timeout = 0")
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('troupe schema ' || $1, 0))")
        .bind(schema)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    // Asked first: `IF NOT EXISTS` wants the right to create even if there is nothing to create.
    let missing: bool = sqlx::query_scalar("SELECT to_regnamespace($1) IS NULL")
        .bind(schema)
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed)?;
    if missing {
        // The options admit no name that needs quotes.
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}")))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    // From here on: other replicas are waited for as long as it takes.
    sqlx::query(LOCK_TIMEOUT)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let migrated = migrator().run_direct(None, &mut *transaction, false).await;
    match migrated {
        Ok(()) => {}
        Err(error) if is_locked_out(&error) => {
            transaction.rollback().await.map_err(failed)?;
            return Ok(false);
        }
        Err(error) => return Err(explained(&error, address, schema)),
    }
    indexes::make_if_empty(&mut transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(true)
}

fn is_locked_out(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|answer| answer.code());
    code.is_some_and(|code| code == "55P03")
}

/// Brings the tables up to date within a transaction, or whatever else the caller locks.
pub(super) fn migrator() -> Migrator {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        Migration::new(
            version,
            Cow::Borrowed(description),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.into_iter().map(migration).collect());
    // The transaction holds a lock of this schema; the driver's own is one for the whole database.
    migrator.set_locking(false);
    migrator
}

fn explained(error: &MigrateError, address: &str, schema: &str) -> Failure {
    let newest = MIGRATIONS
        .iter()
        .map(|(version, ..)| *version)
        .max()
        .unwrap_or_default();
    let damaged = |why: String| Failure::Damaged(format!("{address}: schema `{schema}` {why}"));
    match error {
        MigrateError::VersionMissing(version) if *version > newest => damaged(format!(
            "has format {version}, this release knows up to {newest}: use the newer release that wrote it"
        )),
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => damaged(format!(
            "was not made by a release of this software: its migration {version} is another one"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Failure::of(error, address),
        other => damaged(format!("cannot be brought up to date: {other}")),
    }
}

//! Connections: the pool, the settings of a session, and the time that a call may take.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool, Postgres};

use super::failure::Failure;
use super::indexes::Making;
use super::migrate;
use super::options::PostgresOptions;

/// What an answer may take beyond the statement timeout, which the server keeps.
pub(super) const ANSWER_MARGIN: Duration = Duration::from_secs(1);
/// A connection that nobody used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// A connection is made anew after so long, so that a server behind a moved address is found.
const LIFETIME_MAX: Duration = Duration::from_secs(1_800);

/// Most connections of this process on which people's searches run.
const SEARCHES_MAX: u32 = 2;
/// How long a statement of a search may run.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Statements of one page of a search: how far it looks, and what it finds. Whoever gave up on the second one while the server runs
/// it would let another search run beside it.
const SEARCH_STATEMENTS: u32 = 2;

/// The database of a store, by a pool of connections.
pub(super) struct Database {
    pool: PgPool,
    address: String,
    answer_timeout: Duration,
}

impl Database {
    /// Brings the tables up to date and makes the pools: one for everything, and a small one for searches. What may take longer than
    /// a start goes on.
    pub(super) async fn open(options: &PostgresOptions) -> Result<(Self, Self, Option<Making>), Failure> {
        let plain = options.connect().map_err(Failure::Unavailable)?;
        let address = address(&plain);
        let mut connect = session(plain.clone(), options);
        let server = migrate::run(&connect, &address, options).await?;
        if server.acknowledges_early {
            connect = connect.options([("synchronous_commit", "on")]);
        }
        let searching = PostgresOptions {
            connections_max: options.connections_max.min(SEARCHES_MAX),
            connections_min: 0,
            statement_timeout: options.statement_timeout.min(SEARCH_TIMEOUT),
            ..options.clone()
        };
        let searches = session(plain, &searching);
        let searches = Self::over(searches, address.clone(), &searching, SEARCH_STATEMENTS);
        let making = server.lacks_index.then(|| {
            let schema = options.schema.clone();
            Making::start(connect.clone(), options.connect_timeout, address.clone(), schema)
        });
        Ok((Self::over(connect, address, options, 1), searches, making))
    }

    /// `statements`: how many a call waits for that is limited as a whole; each may take its time.
    fn over(connect: PgConnectOptions, address: String, options: &PostgresOptions, statements: u32) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(options.connections_max)
            .min_connections(options.connections_min)
            .acquire_timeout(options.connect_timeout)
            .idle_timeout(IDLE_MAX)
            .max_lifetime(LIFETIME_MAX)
            .connect_lazy_with(connect);
        Self {
            pool,
            address,
            answer_timeout: options.statement_timeout * statements + ANSWER_MARGIN,
        }
    }

    /// Takes a connection, which was just seen to be alive, or makes one.
    pub(super) async fn connection(&self) -> Result<Checkout, Failure> {
        let connection = self.pool.acquire().await.map_err(|error| self.failure(&error))?;
        Ok(Checkout {
            connection,
            usable: false,
        })
    }

    /// Waits for an answer, but not longer than what is asked may take.
    pub(super) async fn answer<T>(&self, asked: impl Future<Output = sqlx::Result<T>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.answer_timeout, asked).await {
            Ok(answer) => answer.map_err(|error| self.failure(&error)),
            Err(_) => Err(Failure::Unavailable(format!(
                "{}: no answer within {} ms; the outcome is unknown",
                self.address,
                self.answer_timeout.as_millis()
            ))),
        }
    }

    pub(super) fn failure(&self, error: &sqlx::Error) -> Failure {
        Failure::of(error, &self.address)
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Database")
            .field("address", &self.address)
            .field("connections", &self.pool.size())
            .finish_non_exhaustive()
    }
}

/// A connection on loan. Unless it is given back it is closed: after an error, a timeout or a dropped future nobody knows what it
/// would answer next, and asking it could take as long as TCP waits for a dead server.
pub(super) struct Checkout {
    connection: PoolConnection<Postgres>,
    usable: bool,
}

impl Checkout {
    /// Gives the connection back for others to use; its transaction has ended.
    pub(super) fn give_back(mut self) {
        self.usable = true;
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if !self.usable {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Checkout {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Checkout {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// Where a server is, for messages: neither user nor password.
pub(super) fn address(connect: &PgConnectOptions) -> String {
    let database = connect.get_database().unwrap_or_else(|| connect.get_username());
    match connect.get_socket() {
        Some(socket) => format!("PostgreSQL at {}, database {database}", socket.display()),
        None => format!(
            "PostgreSQL at {}:{}, database {database}",
            connect.get_host(),
            connect.get_port()
        ),
    }
}

/// The settings of every connection. They win over those of the server, the database and the user.
pub(super) fn session(connect: PgConnectOptions, options: &PostgresOptions) -> PgConnectOptions {
    let timeout = options.statement_timeout.as_millis().to_string();
    connect.options([
        ("search_path", options.schema.as_str()),
        ("statement_timeout", &timeout),
        // A frozen process keeps no row locked.
        ("idle_in_transaction_session_timeout", &timeout),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        // Plans are made for the values that are given.
        ("plan_cache_mode", "force_custom_plan"),
        // The planner takes the ranges of lists for smaller than they are, and would rather read and sort one than walk along it
        // (see `walk.rs`). What cannot be had without sorting is sorted nevertheless.
        ("enable_sort", "off"),
        ("jit", "off"),
    ])
}

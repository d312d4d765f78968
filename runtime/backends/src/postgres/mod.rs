//! The definition store of a deployment: definitions, summaries of executions, epochs, audit rows and keys of
//! the API in PostgreSQL.
//!
//! Everything is in one schema, whose tables are made and brought up to date when a store is opened. Each call takes a connection
//! out of a pool, ends within a bounded time, and, where it changes something, does so in one transaction. A call whose answer is
//! lost answers "unavailable": it may have taken place, and doing it again does no harm.

mod audit;
mod database;
mod definitions;
mod epochs;
mod erase;
mod failure;
mod indexes;
mod keys;
mod list;
mod migrate;
mod options;
#[cfg(test)]
mod tests;
mod text;
mod visibility;
mod walk;

use std::sync::Arc;

use troupe_ports::StoreError;

use database::Database;
use indexes::Making;
pub use options::PostgresOptions;

/// A store in a schema of a PostgreSQL database. Implements `DefinitionStore`, `VisibilityStore`, `EpochAuthority`, `AuditLog` and
/// `ApiKeyStore`.
///
/// Any number of processes may use the same schema. Connections are made when they are needed and made again when they broke.
pub struct PostgresStore {
    database: Database,
    /// For what only people ask: however much it is, nobody waits for it who gets an epoch or projects.
    searches: Arc<Database>,
    /// Makes an index that the tables lack, while this store serves.
    making: Option<Making>,
}

impl PostgresStore {
    /// Connects, brings the tables up to date and opens the store. Replicas that start at once wait for each other. An index that is
    /// missing is made meanwhile and afterwards, until the store is closed or dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the options or the server's settings do not serve or the server cannot be used; the text says
    /// what to do and carries no password. [`StoreError::Damaged`] if the tables were made by a newer release or are not as a
    /// release of this software made them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing, or the tables are up to date.
    pub async fn open(options: &PostgresOptions) -> Result<Self, StoreError> {
        let (database, searches, making) = Database::open(options).await?;
        Ok(Self {
            database,
            searches: Arc::new(searches),
            making,
        })
    }

    /// Removes the schema, whoever made it, with everything in it. Nobody may use it meanwhile. Where there is none nothing happens.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the options do not serve, the server cannot be used, or the schema is another user's; it can be
    /// called again.
    ///
    /// # Cancel safety
    ///
    /// The schema goes whole or not at all.
    pub async fn erase(options: &PostgresOptions) -> Result<(), StoreError> {
        erase::erase(options).await.map_err(StoreError::from)
    }

    /// Closes all connections, once those in use have been given back. Every later call is refused.
    pub async fn close(&self) {
        if let Some(making) = &self.making {
            making.stop();
        }
        self.searches.close().await;
        self.database.close().await;
    }
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("PostgresStore")
            .field("database", &self.database)
            .finish()
    }
}

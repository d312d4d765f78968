//! Keys of the API, in the derived file.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use troupe_core::Timestamp;
use troupe_ports::{ApiKey, ApiKeyStore, KeyError, KeyId, Role, StoreError};

use super::EmbeddedStore;
use super::log::integer;
use super::writer::{Failure, Ran};

impl Failure for KeyError {
    fn unavailable(why: String) -> Self {
        Self::Store(StoreError::Unavailable(why))
    }
}

const COLUMNS: &str = "id, name, role, secret, created_ms, created_by, expires_ms, revoked_ms, used_ms";

/// A key whose role is not read yet.
struct KeyRow {
    key: ApiKey,
    role: String,
}

impl KeyRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let time = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(Timestamp));
        Ok(Self {
            key: ApiKey {
                id: KeyId(row.get(0)?),
                name: row.get(1)?,
                role: Role::Worker,
                secret: row.get(3)?,
                created_at: Timestamp(row.get(4)?),
                created_by: row.get(5)?,
                expires_at: time(6)?,
                revoked_at: time(7)?,
                used_at: time(8)?,
            },
            role: row.get(2)?,
        })
    }

    fn decode(self) -> Result<ApiKey, StoreError> {
        let id = self.key.id;
        let unknown = || StoreError::Damaged(format!("key {id} has a role that this release does not know"));
        Ok(ApiKey {
            role: Role::of_name(&self.role).ok_or_else(unknown)?,
            ..self.key
        })
    }
}

fn find(connection: &Connection, id: KeyId) -> rusqlite::Result<Option<KeyRow>> {
    let sql = format!("SELECT {COLUMNS} FROM api_key WHERE id = ?1");
    connection
        .prepare_cached(&sql)?
        .query_row([&id.0[..]], KeyRow::read)
        .optional()
}

fn create(connection: &Connection, key: &ApiKey) -> Ran<(), KeyError> {
    if find(connection, key.id)?.is_some() {
        return Ok(Ok(()));
    }
    let holder = connection
        .prepare_cached("SELECT id FROM api_key WHERE name = ?1 AND revoked_ms IS NULL")?
        .query_row([&key.name], |row| row.get(0))
        .optional()?;
    if let Some(holder) = holder {
        return Ok(Err(KeyError::NameTaken { holder: KeyId(holder) }));
    }
    let sql = format!("INSERT INTO api_key ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    connection.prepare_cached(&sql)?.execute(params![
        &key.id.0[..],
        key.name,
        key.role.name(),
        &key.secret[..],
        key.created_at.0,
        key.created_by,
        key.expires_at.map(|at| at.0),
        key.revoked_at.map(|at| at.0),
        key.used_at.map(|at| at.0),
    ])?;
    Ok(Ok(()))
}

fn revoke(connection: &Connection, id: KeyId, at: Timestamp) -> rusqlite::Result<Option<KeyRow>> {
    connection
        .prepare_cached("UPDATE api_key SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL")?
        .execute(params![&id.0[..], at.0])?;
    find(connection, id)
}

fn list(connection: &Connection, after: Option<KeyId>, limit: usize) -> rusqlite::Result<Vec<KeyRow>> {
    let after = after.map(|id| id.0.to_vec()).unwrap_or_default();
    let sql = format!("SELECT {COLUMNS} FROM api_key WHERE id > ?1 ORDER BY id LIMIT ?2");
    connection
        .prepare_cached(&sql)?
        .query_map(params![after, integer(limit as u64)], KeyRow::read)?
        .collect()
}

fn used(connection: &Connection, uses: &[(KeyId, Timestamp)]) -> rusqlite::Result<()> {
    let sql = "UPDATE api_key SET used_ms = ?2 WHERE id = ?1 AND (used_ms IS NULL OR used_ms < ?2)";
    let mut note = connection.prepare_cached(sql)?;
    for (id, at) in uses {
        note.execute(params![&id.0[..], at.0])?;
    }
    Ok(())
}

#[async_trait]
impl ApiKeyStore for EmbeddedStore {
    async fn create(&self, key: ApiKey) -> Result<(), KeyError> {
        self.derived.run(move |derived| create(derived, &key)).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let row = self.derived_readers.read(move |derived| find(derived, id)).await?;
        row.map(KeyRow::decode).transpose()
    }

    async fn list(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<ApiKey>, StoreError> {
        let rows = self
            .derived_readers
            .read(move |derived| list(derived, after, limit))
            .await?;
        rows.into_iter().map(KeyRow::decode).collect()
    }

    async fn revoke(&self, id: KeyId, at: Timestamp) -> Result<Option<ApiKey>, StoreError> {
        let row = self
            .derived
            .run(move |derived| revoke(derived, id, at).map(Ok::<_, StoreError>))
            .await?;
        row.map(KeyRow::decode).transpose()
    }

    async fn used(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        self.derived.run(move |derived| used(derived, &uses).map(Ok)).await
    }
}

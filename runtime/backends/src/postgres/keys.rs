//! Keys of the API: a row a key.

use async_trait::async_trait;
use sqlx::PgConnection;
use troupe_core::Timestamp;
use troupe_ports::{ApiKey, ApiKeyStore, KeyError, KeyId, Role, StoreError};

use super::PostgresStore;
use super::text::{escaped, indexed, unescaped};

/// Inserts nothing if the id is there, or the name among those that are not revoked.
const CREATE: &str = "
INSERT INTO api_key (id, name, role, secret, created_ms, created_by, expires_ms, revoked_ms, used_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";

/// The key of that id first, if there is one.
const HOLDER: &str = "
SELECT id FROM api_key WHERE id = $1 OR (name = $2 AND revoked_ms IS NULL) ORDER BY id = $1 DESC LIMIT 1";

const GET: &str = "
SELECT id, name, role, secret, created_ms, created_by, expires_ms, revoked_ms, used_ms FROM api_key WHERE id = $1";

const LIST: &str = "
SELECT id, name, role, secret, created_ms, created_by, expires_ms, revoked_ms, used_ms
FROM api_key WHERE id > $1 ORDER BY id LIMIT $2";

const REVOKE: &str = "UPDATE api_key SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL";

const USED: &str = "
UPDATE api_key k SET used_ms = u.at_ms
FROM (SELECT id, max(at_ms) AS at_ms FROM unnest($1::text[], $2::bigint[]) AS t (id, at_ms) GROUP BY id) u
WHERE k.id = u.id AND (k.used_ms IS NULL OR k.used_ms < u.at_ms)";

/// A name that is freed while it is asked for is asked for again, but not for ever.
const TRIES: usize = 5;

/// Columns of [`GET`] and [`LIST`].
type Row = (
    String,
    String,
    String,
    Vec<u8>,
    i64,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

fn decode(row: Row) -> Result<ApiKey, StoreError> {
    let (id, name, role, secret, created, created_by, expires, revoked, used) = row;
    let damaged = |what: &str| StoreError::Damaged(format!("key {id} has {what}"));
    Ok(ApiKey {
        id: id.parse().map_err(|_| damaged("no id"))?,
        name: unescaped(name),
        role: Role::of_name(&role).ok_or_else(|| damaged("a role that this release does not know"))?,
        secret: secret.try_into().map_err(|_| damaged("a hash of another length"))?,
        created_at: Timestamp(created),
        created_by: created_by.map(unescaped),
        expires_at: expires.map(Timestamp),
        revoked_at: revoked.map(Timestamp),
        used_at: used.map(Timestamp),
    })
}

/// None if the key is there now.
async fn create(connection: &mut PgConnection, key: &ApiKey) -> sqlx::Result<Option<String>> {
    let (id, name) = (key.id.to_string(), indexed(&key.name));
    let mut tries = 0;
    loop {
        let done = sqlx::query(CREATE)
            .bind(&id)
            .bind(&*name)
            .bind(key.role.name())
            .bind(&key.secret[..])
            .bind(key.created_at.0)
            .bind(key.created_by.as_deref().map(escaped))
            .bind(key.expires_at.map(|at| at.0))
            .bind(key.revoked_at.map(|at| at.0))
            .bind(key.used_at.map(|at| at.0))
            .execute(&mut *connection)
            .await?;
        if done.rows_affected() > 0 {
            return Ok(None);
        }
        let asked = sqlx::query_scalar(HOLDER).bind(&id).bind(&*name);
        let holder: Option<String> = asked.fetch_optional(&mut *connection).await?;
        tries += 1;
        match holder {
            Some(holder) => return Ok(Some(holder).filter(|holder| *holder != id)),
            None if tries < TRIES => {}
            None => return Err(sqlx::Error::RowNotFound),
        }
    }
}

async fn get(connection: &mut PgConnection, id: KeyId) -> sqlx::Result<Option<Row>> {
    sqlx::query_as(GET)
        .bind(id.to_string())
        .fetch_optional(connection)
        .await
}

async fn revoke(connection: &mut PgConnection, id: KeyId, at: Timestamp) -> sqlx::Result<Option<Row>> {
    sqlx::query(REVOKE)
        .bind(id.to_string())
        .bind(at.0)
        .execute(&mut *connection)
        .await?;
    get(connection, id).await
}

#[async_trait]
impl ApiKeyStore for PostgresStore {
    async fn create(&self, key: ApiKey) -> Result<(), KeyError> {
        let mut connection = self.database.connection().await.map_err(StoreError::from)?;
        let asked = self.database.answer(create(&mut connection, &key)).await;
        let holder = asked.map_err(StoreError::from)?;
        connection.give_back();
        match holder {
            None => Ok(()),
            Some(holder) => {
                let holder = holder.parse();
                let holder =
                    holder.map_err(|_| StoreError::Damaged(format!("a key with the name {} has no id", key.name)))?;
                Err(KeyError::NameTaken { holder })
            }
        }
    }

    async fn get(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let mut connection = self.database.connection().await?;
        let row = self.database.answer(get(&mut connection, id)).await?;
        connection.give_back();
        row.map(decode).transpose()
    }

    async fn list(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<ApiKey>, StoreError> {
        let mut connection = self.database.connection().await?;
        let asked = sqlx::query_as(LIST)
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *connection);
        let rows: Vec<Row> = self.database.answer(asked).await?;
        connection.give_back();
        rows.into_iter().map(decode).collect()
    }

    async fn revoke(&self, id: KeyId, at: Timestamp) -> Result<Option<ApiKey>, StoreError> {
        let mut connection = self.database.connection().await?;
        let row = self.database.answer(revoke(&mut connection, id, at)).await?;
        connection.give_back();
        row.map(decode).transpose()
    }

    async fn used(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        let (ids, times): (Vec<_>, Vec<_>) = uses.iter().map(|(id, at)| (id.to_string(), at.0)).unzip();
        let mut connection = self.database.connection().await?;
        let asked = sqlx::query(USED).bind(ids).bind(times).execute(&mut *connection);
        self.database.answer(asked).await?;
        connection.give_back();
        Ok(())
    }
}

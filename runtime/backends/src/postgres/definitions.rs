//! Definitions: a row a workflow, which writers lock, and an immutable row a version.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{Json, Timestamp, WorkflowId};
use troupe_ports::{DefinitionError, DefinitionStore, StoredDefinition, says_the_same};

use super::PostgresStore;
use super::text::{document, escaped, is_indexable, unescaped};

const FIND: &str = "
SELECT d.workflow, d.version, d.definition, d.analysis, d.stored_ms, w.archived
FROM workflow w JOIN definition d ON d.workflow = w.id AND d.version = coalesce($2, w.latest)
WHERE w.id = $1";

const LIST: &str = "
SELECT d.workflow, d.version, d.definition, d.analysis, d.stored_ms, w.archived
FROM workflow w JOIN definition d ON d.workflow = w.id AND d.version = w.latest
WHERE w.id > $1 ORDER BY w.id LIMIT $2";

/// Columns of [`FIND`] and [`LIST`].
type Row = (String, i64, String, String, i64, bool);

/// The store's own answer, inside the driver's.
type Ran<T> = sqlx::Result<Result<T, DefinitionError>>;

fn decode(row: Row) -> Result<StoredDefinition, DefinitionError> {
    let (workflow, version, definition, analysis, stored_ms, archived) = row;
    let workflow = unescaped(workflow);
    let damaged = |why: &dyn std::fmt::Display| {
        DefinitionError::Damaged(format!("version {version} of workflow {workflow}: {why}"))
    };
    let definition: WorkflowDefinition = serde_json::from_str(&definition).map_err(|error| damaged(&error))?;
    Ok(StoredDefinition {
        version: u32::try_from(version).map_err(|error| damaged(&error))?,
        definition: Arc::new(definition),
        analysis: Json::from_trusted(analysis),
        stored_at: Timestamp(stored_ms),
        archived,
        workflow: WorkflowId::from(workflow),
    })
}

async fn find(connection: &mut PgConnection, workflow: &str, version: Option<u32>) -> sqlx::Result<Option<Row>> {
    sqlx::query_as(FIND)
        .bind(escaped(workflow))
        .bind(version.map(i64::from))
        .fetch_optional(connection)
        .await
}

/// Locks the workflow for the rest of the transaction, also one that does not exist yet: whoever comes second waits here, and
/// then sees what the first one stored.
async fn lock(connection: &mut PgConnection, workflow: &str) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO workflow (id, latest, archived) VALUES ($1, 0, false) ON CONFLICT DO NOTHING")
        .bind(escaped(workflow))
        .execute(&mut *connection)
        .await?;
    sqlx::query("SELECT FROM workflow WHERE id = $1 FOR UPDATE")
        .bind(escaped(workflow))
        .execute(connection)
        .await?;
    Ok(())
}

/// Says whether there is such a workflow.
async fn set_archived(connection: &mut PgConnection, workflow: &str, archived: bool) -> sqlx::Result<bool> {
    let done = sqlx::query("UPDATE workflow SET archived = $2 WHERE id = $1")
        .bind(escaped(workflow))
        .bind(archived)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// As [`put`], within a transaction that is rolled back on an error.
async fn put_locked(
    connection: &mut PgConnection,
    mut definition: WorkflowDefinition,
    analysis: Json,
    expected: Option<u32>,
    now: Timestamp,
) -> Ran<StoredDefinition> {
    lock(connection, &definition.id).await?;
    let latest = match find(connection, &definition.id, None).await?.map(decode).transpose() {
        Ok(latest) => latest,
        Err(damaged) => return Ok(Err(damaged)),
    };
    let version = latest.as_ref().map_or(0, |latest| latest.version);
    if expected.is_some_and(|expected| expected != version) {
        return Ok(Err(DefinitionError::Conflict { latest: version }));
    }
    if let Some(latest) = latest
        && says_the_same(&latest.definition, &definition)
    {
        if latest.archived {
            set_archived(connection, &definition.id, false).await?;
        }
        return Ok(Ok(StoredDefinition {
            archived: false,
            ..latest
        }));
    }
    definition.version = version + 1;
    insert(connection, definition, analysis, now).await
}

/// Stores `definition` as the latest version, whose number it carries.
async fn insert(
    connection: &mut PgConnection,
    definition: WorkflowDefinition,
    analysis: Json,
    now: Timestamp,
) -> Ran<StoredDefinition> {
    let text = serde_json::to_string(&definition);
    let (text, document) = match text.and_then(|text| Ok((document(&text)?.into_owned(), text))) {
        Ok((document, text)) => (text, document),
        Err(error) => return Ok(Err(DefinitionError::Refused(error.to_string()))),
    };
    sqlx::query("UPDATE workflow SET latest = $2, archived = false WHERE id = $1")
        .bind(escaped(&definition.id))
        .bind(i64::from(definition.version))
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO definition (workflow, version, stored_ms, definition, document, analysis)
         VALUES ($1, $2, $3, $4, $5::jsonb, $6)",
    )
    .bind(escaped(&definition.id))
    .bind(i64::from(definition.version))
    .bind(now.0)
    .bind(text)
    .bind(document)
    .bind(analysis.as_str())
    .execute(connection)
    .await?;
    Ok(Ok(StoredDefinition {
        workflow: WorkflowId::from(definition.id.as_str()),
        version: definition.version,
        definition: Arc::new(definition),
        analysis,
        stored_at: now,
        archived: false,
    }))
}

async fn put(
    connection: &mut PgConnection,
    definition: WorkflowDefinition,
    analysis: Json,
    expected: Option<u32>,
    now: Timestamp,
) -> Ran<StoredDefinition> {
    let mut transaction = connection.begin().await?;
    let answer = put_locked(&mut transaction, definition, analysis, expected, now).await?;
    match answer {
        Ok(_) => transaction.commit().await?,
        Err(_) => transaction.rollback().await?,
    }
    Ok(answer)
}

#[async_trait]
impl DefinitionStore for PostgresStore {
    async fn put(
        &self,
        definition: WorkflowDefinition,
        analysis: Json,
        expected: Option<u32>,
        now: Timestamp,
    ) -> Result<StoredDefinition, DefinitionError> {
        let refused = |why: &str| Err(DefinitionError::Refused(why.to_owned()));
        if definition.id.is_empty() {
            return refused("a workflow needs an id to be stored");
        }
        if !is_indexable(&definition.id) {
            return refused("the id of a workflow has at most 1024 bytes");
        }
        let mut connection = self.database.connection().await?;
        let put = put(&mut connection, definition, analysis, expected, now);
        let answer = self.database.answer(Box::pin(put)).await?;
        connection.give_back();
        answer
    }

    async fn get(&self, workflow: &str, version: Option<u32>) -> Result<Option<StoredDefinition>, DefinitionError> {
        let mut connection = self.database.connection().await?;
        let row = self.database.answer(find(&mut connection, workflow, version)).await?;
        connection.give_back();
        row.map(decode).transpose()
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<StoredDefinition>, DefinitionError> {
        let mut connection = self.database.connection().await?;
        let asked = sqlx::query_as(LIST)
            .bind(escaped(after.unwrap_or_default()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *connection);
        let rows = self.database.answer(asked).await?;
        connection.give_back();
        rows.into_iter().map(decode).collect()
    }

    async fn archive(&self, workflow: &str, archived: bool) -> Result<bool, DefinitionError> {
        let mut connection = self.database.connection().await?;
        let found = self
            .database
            .answer(set_archived(&mut connection, workflow, archived))
            .await?;
        connection.give_back();
        Ok(found)
    }
}

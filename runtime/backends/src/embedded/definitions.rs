//! Definitions in the derived file.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{Json, Timestamp, WorkflowId};
use troupe_ports::{DefinitionError, DefinitionStore, StoredDefinition, says_the_same};

use super::EmbeddedStore;
use super::log::integer;
use super::writer::Ran;

const COLUMNS: &str = "d.workflow, d.version, d.definition, d.analysis, d.stored_ms, w.archived
 FROM workflow w JOIN definition d ON d.workflow = w.id";

struct DefinitionRow {
    workflow: String,
    version: u32,
    definition: String,
    analysis: String,
    stored_ms: i64,
    archived: bool,
}

impl DefinitionRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            workflow: row.get(0)?,
            version: row.get(1)?,
            definition: row.get(2)?,
            analysis: row.get(3)?,
            stored_ms: row.get(4)?,
            archived: row.get(5)?,
        })
    }

    fn decode(self) -> Result<StoredDefinition, DefinitionError> {
        let definition: WorkflowDefinition = serde_json::from_str(&self.definition).map_err(|error| {
            DefinitionError::Damaged(format!(
                "version {} of workflow {}: {error}",
                self.version, self.workflow
            ))
        })?;
        Ok(StoredDefinition {
            workflow: WorkflowId::from(self.workflow),
            version: self.version,
            definition: Arc::new(definition),
            analysis: Json::from_trusted(self.analysis),
            stored_at: Timestamp(self.stored_ms),
            archived: self.archived,
        })
    }
}

fn find(
    connection: &Connection,
    workflow: &str,
    version: Option<u32>,
) -> Ran<Option<StoredDefinition>, DefinitionError> {
    let row = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} AND d.version = coalesce(?2, w.latest) WHERE w.id = ?1"
        ))?
        .query_row(params![workflow, version], DefinitionRow::read)
        .optional()?;
    Ok(row.map(DefinitionRow::decode).transpose())
}

fn put(
    connection: &Connection,
    mut definition: WorkflowDefinition,
    analysis: Json,
    expected: Option<u32>,
    now: Timestamp,
) -> Ran<StoredDefinition, DefinitionError> {
    let latest = match find(connection, &definition.id, None)? {
        Ok(latest) => latest,
        Err(error) => return Ok(Err(error)),
    };
    let version = latest.as_ref().map_or(0, |latest| latest.version);
    if expected.is_some_and(|expected| expected != version) {
        return Ok(Err(DefinitionError::Conflict { latest: version }));
    }
    if let Some(latest) = latest
        && says_the_same(&latest.definition, &definition)
    {
        if latest.archived {
            set_archived(connection, &definition.id, false)?;
        }
        return Ok(Ok(StoredDefinition {
            archived: false,
            ..latest
        }));
    }
    let version = version + 1;
    definition.version = version;
    let text = match serde_json::to_string(&definition) {
        Ok(text) => text,
        Err(error) => return Ok(Err(DefinitionError::Refused(error.to_string()))),
    };
    connection
        .prepare_cached(
            "INSERT INTO workflow (id, latest, archived) VALUES (?1, ?2, 0)
             ON CONFLICT DO UPDATE SET latest = ?2, archived = 0",
        )?
        .execute(params![definition.id, version])?;
    connection
        .prepare_cached(
            "INSERT INTO definition (workflow, version, stored_ms, definition, analysis) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![definition.id, version, now.0, text, analysis.as_str()])?;
    Ok(Ok(StoredDefinition {
        workflow: WorkflowId::from(definition.id.as_str()),
        version,
        definition: Arc::new(definition),
        analysis,
        stored_at: now,
        archived: false,
    }))
}

/// Says whether there is such a workflow.
fn set_archived(connection: &Connection, workflow: &str, archived: bool) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached("UPDATE workflow SET archived = ?2 WHERE id = ?1")?
        .execute(params![workflow, archived])?;
    Ok(changed > 0)
}

#[async_trait]
impl DefinitionStore for EmbeddedStore {
    async fn put(
        &self,
        definition: WorkflowDefinition,
        analysis: Json,
        expected: Option<u32>,
        now: Timestamp,
    ) -> Result<StoredDefinition, DefinitionError> {
        if definition.id.is_empty() {
            return Err(DefinitionError::Refused(
                "a workflow needs an id to be stored".to_owned(),
            ));
        }
        self.derived
            .run(move |derived| put(derived, definition, analysis, expected, now))
            .await
    }

    async fn get(&self, workflow: &str, version: Option<u32>) -> Result<Option<StoredDefinition>, DefinitionError> {
        let workflow = workflow.to_owned();
        self.derived_readers
            .run(move |derived| find(derived, &workflow, version))
            .await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<StoredDefinition>, DefinitionError> {
        let after = after.unwrap_or_default().to_owned();
        let limit = integer(limit as u64);
        self.derived_readers
            .run(move |derived| {
                let sql = format!("SELECT {COLUMNS} AND d.version = w.latest WHERE w.id > ?1 ORDER BY w.id LIMIT ?2");
                let rows: Vec<_> = derived
                    .prepare_cached(&sql)?
                    .query_map(params![after, limit], DefinitionRow::read)?
                    .collect::<rusqlite::Result<_>>()?;
                Ok(rows.into_iter().map(DefinitionRow::decode).collect())
            })
            .await
    }

    async fn archive(&self, workflow: &str, archived: bool) -> Result<bool, DefinitionError> {
        let workflow = workflow.to_owned();
        self.derived
            .run(move |derived| set_archived(derived, &workflow, archived).map(Ok))
            .await
    }
}

//! Workflows, versions and pages.

use serde::{Deserialize, Serialize};
use troupe_ports::{ExecutionSummary, StoredDefinition};

use super::time::date;
use crate::error::ErrorItem;

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageDto<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page starts; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// What lists show of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowSummaryDto {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The latest version.
    pub version: u32,
    /// When that version was stored.
    pub updated_at: String,
    /// Labels.
    pub tags: Vec<String>,
    /// How many nodes it has.
    pub nodes: usize,
    /// Whether it is archived.
    pub archived: bool,
}

impl From<&StoredDefinition> for WorkflowSummaryDto {
    fn from(stored: &StoredDefinition) -> Self {
        let definition = &stored.definition;
        Self {
            id: stored.workflow.to_string(),
            name: definition.name.clone(),
            description: definition.description.clone(),
            version: stored.version,
            updated_at: date(stored.stored_at),
            tags: definition.metadata.tags.clone(),
            nodes: definition.nodes.len(),
            archived: stored.archived,
        }
    }
}

/// A stored version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionDto {
    /// The workflow.
    pub id: String,
    /// The version.
    pub version: u32,
    /// When it was stored.
    pub stored_at: String,
    /// Whether the request made this version; false when the definition equals the latest one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created: Option<bool>,
    /// Whether the request brought the workflow back from the archive.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub restored: bool,
    /// Warnings of the validator.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<ErrorItem>,
}

/// What a validation found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationDto {
    /// Whether the definition would be accepted.
    pub valid: bool,
    /// Every problem, warnings included.
    pub problems: Vec<ErrorItem>,
}

/// What lists show of an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionSummaryDto {
    /// Its id.
    pub id: String,
    /// The workflow.
    pub workflow_id: String,
    /// Its name; absent of an execution that an earlier release listed.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub workflow_name: String,
    /// The version.
    pub version: u32,
    /// Labels of that version.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<String>,
    /// `pending`, `running`, `completed`, `failed` or `canceled`.
    pub status: String,
    /// No new attempt starts while set.
    pub paused: bool,
    /// Why it is set aside, if it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quarantined: Option<String>,
    /// When it started.
    pub start_time: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<String>,
    /// How long it took, in milliseconds, once it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_ms: Option<u64>,
    /// Code of its error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_code: Option<String>,
    /// Message of its error; the beginning of a long one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_message: Option<String>,
    /// Business key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub execution_key: Option<String>,
    /// The execution that it is a child of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<String>,
    /// Seq of the entry that this reflects.
    pub sequence: u64,
}

impl ExecutionSummaryDto {
    /// A summary, with what only the engine knows.
    #[must_use]
    pub fn new(summary: &ExecutionSummary, quarantined: Option<String>) -> Self {
        Self {
            quarantined,
            id: summary.id.to_string(),
            workflow_id: summary.workflow_id.clone(),
            workflow_name: summary.workflow_name.clone(),
            version: summary.version,
            tags: summary.tags.clone(),
            status: summary.status.clone(),
            paused: summary.paused,
            start_time: date(summary.started_at),
            end_time: summary.ended_at.map(date),
            duration_ms: summary.ended_at.map(|end| end.since_ms(summary.started_at)),
            error_code: summary.error_code.clone(),
            error_message: summary.error_message.clone(),
            execution_key: summary.execution_key.clone(),
            parent: summary.parent.map(|parent| parent.to_string()),
            sequence: summary.seq.0,
        }
    }
}

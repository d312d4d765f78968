//! Workflow definitions, in immutable versions.

use std::sync::Arc;

use async_trait::async_trait;
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{Json, Timestamp, WorkflowId};

/// A stored version.
#[derive(Clone, Debug)]
pub struct StoredDefinition {
    /// The workflow.
    pub workflow: WorkflowId,
    /// The version, from 1.
    pub version: u32,
    /// The definition as it was given, with the version set.
    pub definition: Arc<WorkflowDefinition>,
    /// The graph analysis (`ProcessedWorkflow`).
    pub analysis: Json,
    /// When this version was stored.
    pub stored_at: Timestamp,
    /// Whether the workflow is archived: it starts nothing any more.
    pub archived: bool,
}

/// Why the definition store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The latest version is not the expected one.
    #[error("the latest version is {latest}")]
    Conflict {
        /// The latest version; 0 when there is none.
        latest: u32,
    },
    /// The definition cannot be stored as it is: it has no id.
    #[error("{0}")]
    Refused(String),
    /// The store cannot be reached.
    #[error("the definition store is unavailable: {0}")]
    Unavailable(String),
    /// What the store holds does not make sense.
    #[error("the definition store is damaged: {0}")]
    Damaged(String),
}

/// Whether two definitions need only one version: all that their authors wrote is equal. The number of the version, the
/// dates and the carried analysis are not compared.
#[must_use]
pub fn says_the_same(one: &WorkflowDefinition, other: &WorkflowDefinition) -> bool {
    let written = |definition: &WorkflowDefinition| {
        let mut written = WorkflowDefinition {
            version: 0,
            processed_graph: None,
            ..definition.clone()
        };
        written.metadata.created_at = None;
        written.metadata.updated_at = None;
        written
    };
    written(one) == written(other)
}

/// Keeps definitions. Versions are immutable.
#[async_trait]
pub trait DefinitionStore: Send + Sync + 'static {
    /// Stores the next version, whatever version the definition names. A definition that says the same as the latest one
    /// ([`says_the_same`]) stores nothing and returns that. Either way an archived workflow is restored.
    /// `expected`: the version that must be the latest (0: none yet), if given.
    async fn put(
        &self,
        definition: WorkflowDefinition,
        analysis: Json,
        expected: Option<u32>,
        now: Timestamp,
    ) -> Result<StoredDefinition, DefinitionError>;

    /// A version, or the latest.
    async fn get(&self, workflow: &str, version: Option<u32>) -> Result<Option<StoredDefinition>, DefinitionError>;

    /// Latest versions in order of id, after `after`.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<StoredDefinition>, DefinitionError>;

    /// Archives or restores a workflow; false if there is none.
    async fn archive(&self, workflow: &str, archived: bool) -> Result<bool, DefinitionError>;
}

//! What a definition must obey, the same for the command line and the API.

use std::sync::Arc;

use troupe_core::definition::{Checked, Format, LanguageChecker, Limits, WorkflowDefinition, check};
use troupe_core::graph::{AnalyzeOptions, ProcessedWorkflow, analyze};
use troupe_core::{Json, Timestamp};
use troupe_ports::{DefinitionError, DefinitionStore, StoredDefinition};

use crate::dto::date;

/// Checks definitions.
#[derive(Clone)]
pub struct Rules {
    limits: Limits,
    checker: Arc<dyn LanguageChecker + Send + Sync>,
}

impl Rules {
    /// Rules with these limits; `checker` knows the languages.
    #[must_use]
    pub fn new(limits: Limits, checker: Arc<dyn LanguageChecker + Send + Sync>) -> Self {
        Self { limits, checker }
    }

    /// Parses and validates a text, all problems at once.
    #[must_use]
    pub fn check(&self, bytes: &[u8], format: Option<Format>) -> Checked {
        check(bytes, format, Some(&*self.checker), &self.limits)
    }
}

/// The graph analysis of a definition.
#[must_use]
pub fn analysis(definition: &WorkflowDefinition, now: Timestamp) -> ProcessedWorkflow {
    analyze(
        definition,
        &AnalyzeOptions {
            now: Some(date(now)),
            ..AnalyzeOptions::default()
        },
    )
}

/// Stores a checked definition with its analysis, as the next version.
///
/// # Errors
/// As [`DefinitionStore::put`].
pub async fn store(
    definitions: &dyn DefinitionStore,
    definition: WorkflowDefinition,
    expected: Option<u32>,
    now: Timestamp,
) -> Result<StoredDefinition, DefinitionError> {
    let analysed = analysis(&definition, now);
    let text = serde_json::to_string(&analysed).map_err(|error| DefinitionError::Damaged(error.to_string()))?;
    definitions
        .put(definition, Json::from_trusted(text), expected, now)
        .await
}

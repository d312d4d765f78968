//! What a definition must obey, the same for the command line and the API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use troupe_core::definition::{Checked, Diagnostic, Format, LanguageChecker, Limits, WorkflowDefinition, check, parse};
use troupe_core::graph::{AnalyzeOptions, ProcessedWorkflow, analyze};
use troupe_core::{Json, Timestamp};
use troupe_ports::{DefinitionError, DefinitionStore, StoredDefinition};

use crate::dto::date;
use crate::error::ApiError;
use crate::wiring::CodeChecker;

/// Functions whose code is compiled while a definition is checked; code beyond fails when it is called.
const FUNCTIONS_CHECKED_MAX: usize = 10_000;

/// How long function code is looked at while one definition is checked: the top level of each function may take seconds.
const FUNCTIONS_TIME_MAX: Duration = Duration::from_secs(15);

/// Checks definitions. Clones share the sandbox that looks at function code.
#[derive(Clone)]
pub struct Rules {
    limits: Limits,
    checker: Arc<dyn LanguageChecker + Send + Sync>,
    code: CodeChecker,
}

impl Rules {
    /// Rules with these limits; `checker` knows the languages, `code` compiles functions.
    #[must_use]
    pub fn new(limits: Limits, checker: Arc<dyn LanguageChecker + Send + Sync>, code: CodeChecker) -> Self {
        Self { limits, checker, code }
    }

    /// Parses and validates a text, all problems at once.
    ///
    /// # Errors
    /// When function code cannot be looked at because the sandbox does not start.
    pub async fn check(&self, bytes: &[u8], format: Option<Format>) -> Result<Checked, ApiError> {
        // A large definition takes long, and the threads of requests must not wait for it.
        let (text, checker, limits) = (bytes.to_vec(), Arc::clone(&self.checker), self.limits);
        let checking = tokio::task::spawn_blocking(move || check(&text, format, Some(&*checker), &limits)).await;
        let mut checked = checking.map_err(|error| ApiError::new("INTERNAL", error.to_string()))?;
        let Some(definition) = &checked.definition else {
            return Ok(checked);
        };
        let mut found = self.check_code(definition).await?;
        if !found.is_empty() {
            checked.definition = None;
            if let Ok(parsed) = parse(bytes, format, &self.limits) {
                parsed.source.locate(&mut found);
            }
            checked.diagnostics.extend(found);
        }
        Ok(checked)
    }

    async fn check_code(&self, definition: &WorkflowDefinition) -> Result<Vec<Diagnostic>, ApiError> {
        let functions = definition.nodes.iter().enumerate().filter_map(|(place, node)| {
            Some((
                place,
                node.text_field("functionCode")?,
                node.text_field("functionName")?,
            ))
        });
        let mut found = Vec::new();
        let begun = Instant::now();
        for (place, source, name) in functions.take(FUNCTIONS_CHECKED_MAX) {
            if begun.elapsed() > FUNCTIONS_TIME_MAX {
                break;
            }
            if let Some((code, problem)) = self.code.problem(source, name).await? {
                let pointer = format!("/nodes/{place}/data/functionCode");
                found.push(Diagnostic::error(code, pointer, problem));
            }
        }
        Ok(found)
    }
}

/// The graph analysis of a definition.
#[must_use]
pub fn analysis(definition: &WorkflowDefinition, now: Timestamp) -> ProcessedWorkflow<'_> {
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

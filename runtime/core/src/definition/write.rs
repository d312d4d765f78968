//! Printing a definition.

use super::WorkflowDefinition;

/// A definition that cannot be printed.
#[derive(Debug, thiserror::Error)]
#[error("definition cannot be printed as YAML: {0}")]
pub struct WriteError(String);

impl WorkflowDefinition {
    /// Prints the definition as one YAML document.
    ///
    /// # Errors
    ///
    /// A value has no YAML form; none that came from JSON or YAML does.
    pub fn to_yaml(&self) -> Result<String, WriteError> {
        serde_saphyr::to_string(self).map_err(|error| WriteError(error.to_string()))
    }
}

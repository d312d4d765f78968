//! Definitions from outside: to be stored, served and run they need an id, whatever else they need.

use troupe_core::definition::{Checked, Diagnostic, Format, Limits, code, parse};

use crate::error::ApiError;
use crate::rules::Rules;

/// As [`Rules::check`]; a definition without an id is invalid too.
///
/// # Errors
/// As [`Rules::check`].
pub(crate) async fn check(rules: &Rules, bytes: &[u8], format: Option<Format>) -> Result<Checked, ApiError> {
    let mut checked = rules.check(bytes, format).await?;
    let has_id = checked.definition.as_ref().map(|definition| !definition.id.is_empty());
    if has_id == Some(true) {
        return Ok(checked);
    }
    // Read again for the place; and what is invalid anyhow, to be told all its problems.
    let bytes = bytes.to_owned();
    let parsed = tokio::task::spawn_blocking(move || parse(&bytes, format, &Limits::default()).ok()).await;
    let parsed = parsed.map_err(|error| ApiError::new("INTERNAL", error.to_string()))?;
    let missing = has_id == Some(false) || parsed.as_ref().is_some_and(|parsed| parsed.definition.id.is_empty());
    if missing {
        let mut problem = vec![Diagnostic::error(code::MISSING_FIELD, "", "a workflow needs an `id`")];
        if let Some(parsed) = &parsed {
            parsed.source.locate(&mut problem);
        }
        checked.definition = None;
        checked.diagnostics.splice(0..0, problem);
    }
    Ok(checked)
}

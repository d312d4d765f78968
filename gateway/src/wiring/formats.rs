//! Which formats of the state this process reads and writes.

use troupe_config::Settings;
use troupe_core::{FormatRange, FormatTerms, StateFormat};

use crate::error::ApiError;

/// Set to anything, it makes a build for tests read and write the next format too, so that tests can roll from one to the other.
const TRIAL_VARIABLE: &str = "TROUPE_INTERNAL_TRIAL_FORMAT";

/// What this process says of formats to the other members.
///
/// # Errors
/// `INVALID_PARAMETER` when the settings name a format that this release does not read, or a release is asked for the one of tests.
pub(super) fn terms(settings: &Settings) -> Result<FormatTerms, ApiError> {
    let is_trial = std::env::var_os(TRIAL_VARIABLE).is_some();
    if is_trial && !cfg!(debug_assertions) {
        let why = format!(
            "{TRIAL_VARIABLE} is set, and this is no build for tests: a store that it writes no release can read"
        );
        tracing::error!("{why}");
        return Err(ApiError::new("INVALID_PARAMETER", why).with_hint(format!("unset {TRIAL_VARIABLE}")));
    }
    let reads = if is_trial {
        tracing::warn!(
            format = StateFormat::TRIAL.0,
            "a format of tests is read and written: no release reads it"
        );
        FormatRange::WITH_TRIAL
    } else {
        FormatRange::RELEASE
    };
    let at_most = settings.engine.format.map(StateFormat);
    if let Some(format) = at_most.filter(|format| !reads.reads(*format)) {
        let why = format!("engine.format is {format}, and this release reads format {reads}");
        let hint = "name one of those, or 0 for the newest one that every member reads";
        return Err(ApiError::new("INVALID_PARAMETER", why).with_hint(hint));
    }
    Ok(FormatTerms { reads, at_most })
}

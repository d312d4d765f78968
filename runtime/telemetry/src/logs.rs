//! Where log lines go and what they look like.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line, fields flat.
    Json,
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("the log filter `{filter}` does not parse: {reason}")]
    Filter {
        /// The filter.
        filter: String,
        /// What the parser says.
        reason: String,
    },
    /// A subscriber is installed already.
    #[error("logs are already set up in this process")]
    Installed,
}

/// What is never logged unless the filter names it: the AMQP client prints every returned message, payload and all.
const QUIET: &str = "lapin::returned_messages";

/// Sends the process's log lines to standard error. `filter` is in the syntax of `RUST_LOG`, such as `info,troupe=debug`.
///
/// # Errors
/// See [`LogError`].
pub fn install_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let filter = filter_of(filter)?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Where standard error is a file on a full disk, telling of that on standard error would panic whoever logs.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Human => builder.with_ansi(colours).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
    installed.map_err(|_| LogError::Installed)
}

fn filter_of(text: &str) -> Result<EnvFilter, LogError> {
    let wrong = |error: &dyn std::fmt::Display| LogError::Filter {
        filter: text.into(),
        reason: error.to_string(),
    };
    let filter = EnvFilter::try_new(text).map_err(|error| wrong(&error))?;
    if text.contains(QUIET) {
        return Ok(filter);
    }
    let quiet = format!("{QUIET}=off").parse();
    Ok(filter.add_directive(quiet.map_err(|error| wrong(&error))?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn returned_payloads_are_logged_only_where_the_filter_names_them() {
        let shown = |text: &str| filter_of(text).unwrap().to_string();
        assert_eq!(shown("info"), "lapin::returned_messages=off,info");
        assert_eq!(shown("lapin::returned_messages=warn"), "lapin::returned_messages=warn");
        assert!(filter_of("a=b=c").is_err());
    }
}

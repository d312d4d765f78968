//! Why a command failed: what people read, and the exit status.

use troupe_actors::EngineError;

use crate::error::{ApiError, Problem, STORE_IN_USE};
use crate::exit::Exit;

/// A failed command.
#[derive(Debug)]
pub(super) struct Failure {
    /// The exit status.
    pub(super) exit: Exit,
    /// What happened.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
    /// Stable code, where there is one.
    pub(super) code: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            code: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file that cannot be read or written.
    pub(super) fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            // Another file was meant.
            std::io::ErrorKind::IsADirectory | std::io::ErrorKind::NotADirectory => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, format!("{}: {error}", path.display()))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match (problem.status, problem.code.as_str()) {
            (_, "INVALID_DEFINITION" | "NOT_EXECUTABLE" | "DEFINITION_TOO_LARGE") => Exit::InvalidDefinition,
            (_, STORE_IN_USE) => Exit::Conflict,
            // The key that was given, or none, is as wrong as an option.
            (401 | 403, _) | (_, "NO_API_KEYS") => Exit::Usage,
            (404, _) => Exit::NotFound,
            (409 | 412, _) => Exit::Conflict,
            // What the caller gave is wrong: a parameter, an option, the input.
            (400 | 413 | 422, _) => Exit::Usage,
            (503, _) => Exit::CannotConnect,
            _ => Exit::Failed,
        };
        let mut message = problem.detail;
        for error in &problem.errors {
            let hint = error.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            message.push_str(&format!("\n  {} {}: {}{hint}", error.code, error.pointer, error.detail));
        }
        let elsewhere = || "choose another directory with --state DIR".to_owned();
        let hint = problem.hint.or_else(|| (problem.code == STORE_IN_USE).then(elsewhere));
        Self {
            exit,
            message,
            hint,
            code: Some(problem.code),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        error.problem().into()
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        ApiError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_tells_whose_fault_it_was() {
        for (code, exit) in [
            ("INVALID_PARAMETER", Exit::Usage),
            ("INVALID_REQUEST", Exit::Usage),
            ("DUPLICATE_KEY", Exit::Usage),
            ("UNKNOWN_TRIGGER", Exit::Usage),
            ("SCHEMA_VIOLATION", Exit::Usage),
            ("PAYLOAD_TOO_LARGE", Exit::Usage),
            ("INVALID_DEFINITION", Exit::InvalidDefinition),
            ("NOT_EXECUTABLE", Exit::InvalidDefinition),
            ("WORKFLOW_NOT_FOUND", Exit::NotFound),
            ("KEY_CONFLICT", Exit::Conflict),
            ("VERSION_CONFLICT", Exit::Conflict),
            ("STORE_IN_USE", Exit::Conflict),
            ("UNAVAILABLE", Exit::CannotConnect),
            ("UNAUTHENTICATED", Exit::Usage),
            ("FORBIDDEN", Exit::Usage),
            ("KEY_NAME_TAKEN", Exit::Conflict),
            ("NO_API_KEYS", Exit::Usage),
            ("OVERLOADED", Exit::Failed),
            ("INTERNAL", Exit::Failed),
        ] {
            assert_eq!(Failure::from(ApiError::new(code, "no")).exit, exit, "{code}");
        }
    }
}

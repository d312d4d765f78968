//! Why a command failed: what people read, and the exit status.

use troupe_actors::EngineError;

use crate::error::{ApiError, Problem};
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
        let exit = if error.kind() == std::io::ErrorKind::NotFound {
            Exit::NotFound
        } else {
            Exit::Failed
        };
        Self::new(exit, format!("{}: {error}", path.display()))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match (problem.status, problem.code.as_str()) {
            (_, "INVALID_DEFINITION" | "NOT_EXECUTABLE") => Exit::InvalidDefinition,
            (404, _) => Exit::NotFound,
            (409 | 412, _) => Exit::Conflict,
            (503, _) => Exit::CannotConnect,
            _ => Exit::Failed,
        };
        let mut message = problem.detail;
        for error in &problem.errors {
            let hint = error.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            message.push_str(&format!("\n  {} {}: {}{hint}", error.code, error.pointer, error.detail));
        }
        Self {
            exit,
            message,
            hint: None,
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

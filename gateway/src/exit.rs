//! What the process's exit status tells.

use std::process::ExitCode;

/// Exit statuses of the command line; stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// An execution failed or was canceled, or the command itself failed.
    Failed = 1,
    /// The command line was wrong.
    Usage = 2,
    /// What was asked for does not exist.
    NotFound = 3,
    /// The state of things forbids it.
    Conflict = 4,
    /// A definition is invalid.
    InvalidDefinition = 5,
    /// The server cannot be reached.
    CannotConnect = 6,
    /// A wait took too long.
    WaitTimeout = 124,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

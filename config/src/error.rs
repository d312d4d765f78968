//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands: a file, an environment variable, an option of the command line.
    pub source: String,
    /// The key, with dots; empty when no key is to blame.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// How to put it right.
    pub hint: Option<String>,
}

/// Every problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.source)?;
        if !self.key.is_empty() {
            write!(out, "`{}`: ", self.key)?;
        }
        write!(out, "{}", self.message)?;
        self.hint.iter().try_for_each(|hint| write!(out, "\n  hint: {hint}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().enumerate() {
            if position > 0 {
                writeln!(out)?;
            }
            write!(out, "{problem}")?;
        }
        Ok(())
    }
}

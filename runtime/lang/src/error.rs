//! The two errors of this crate: a source that does not compile, and an evaluation that fails.

use std::fmt;
use std::ops::Range;

/// Stable codes of what is wrong with a source; each has a page in `docs/errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LangCode {
    /// The expression is no JavaScript expression and no JSONPath.
    ExpressionSyntax,
    /// The expression is too long or nested too deeply.
    ExpressionLimit,
    /// A `{{ … }}` is not closed, a secret is misused, or a Jinja template does not compile.
    TemplateSyntax,
    /// The JSON Schema does not compile or exceeds a limit.
    SchemaInvalid,
    /// The cron pattern does not parse or never fires.
    CronInvalid,
    /// The function code is empty or too long.
    FunctionCodeInvalid,
}

impl LangCode {
    /// The code as users see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExpressionSyntax => "EXPRESSION_SYNTAX",
            Self::ExpressionLimit => "EXPRESSION_LIMIT",
            Self::TemplateSyntax => "TEMPLATE_SYNTAX",
            Self::SchemaInvalid => "SCHEMA_INVALID",
            Self::CronInvalid => "CRON_INVALID",
            Self::FunctionCodeInvalid => "FUNCTION_CODE_INVALID",
        }
    }
}

impl fmt::Display for LangCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A source that does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LangError {
    /// What kind of fault it is.
    pub code: LangCode,
    /// What is wrong, in lower case and without a full stop.
    pub message: String,
    /// Where in the source, in bytes.
    pub span: Option<Range<usize>>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl LangError {
    pub(crate) fn new(code: LangCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            span: None,
            hint: None,
        }
    }

    pub(crate) fn syntax(message: impl Into<String>, span: Range<usize>) -> Self {
        Self {
            code: LangCode::ExpressionSyntax,
            message: message.into(),
            span: Some(span),
            hint: None,
        }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Moves the span, for a source that is part of a longer text.
    pub(crate) fn shifted(mut self, by: usize) -> Self {
        self.span = self.span.map(|span| span.start + by..span.end + by);
        self
    }
}

/// An evaluation that failed: what JavaScript would throw, or a limit that was reached.
///
/// Never worth a retry: the same values give the same error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    message: Box<str>,
}

impl EvalError {
    /// The code of every failed evaluation.
    pub const CODE: &'static str = "EXPRESSION_ERROR";

    pub(crate) fn new(message: impl Into<Box<str>>) -> Self {
        Self {
            message: message.into(),
        }
    }

    /// The stable error code, always `EXPRESSION_ERROR`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        Self::CODE
    }

    /// What went wrong, worded as JavaScript engines do.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

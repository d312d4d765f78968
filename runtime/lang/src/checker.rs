//! The checks that the validator of definitions asks for.

use serde_json::Value;
use troupe_core::definition::{LanguageChecker, LanguageError};

use crate::cron;
use crate::error::{LangCode, LangError};
use crate::expression::Expression;
use crate::limits::FUNCTION_CODE_BYTES_MAX;
use crate::schema::Schema;
use crate::template::TextTemplate;

/// Checks expressions, templates, schemas and cron patterns.
///
/// Function code is only checked for being there and for its size: its syntax is the sandbox's matter, and so is
/// that of expressions outside the safe subset.
#[derive(Debug, Clone, Default)]
pub struct Checker {
    handlers: Option<Vec<String>>,
}

impl Checker {
    /// A checker that knows no handlers.
    #[must_use]
    pub const fn new() -> Self {
        Self { handlers: None }
    }

    /// Lets the validator warn of handlers that are not among these.
    #[must_use]
    pub fn with_handlers(self, handlers: Vec<String>) -> Self {
        Self {
            handlers: Some(handlers),
        }
    }
}

impl LanguageChecker for Checker {
    fn expression(&self, source: &str) -> Result<(), LanguageError> {
        Expression::compile(source).map(drop).map_err(LanguageError::from)
    }

    fn template(&self, source: &str) -> Result<(), LanguageError> {
        TextTemplate::compile(source).map(drop).map_err(LanguageError::from)
    }

    fn schema(&self, schema: &Value) -> Result<(), LanguageError> {
        Schema::compile(schema).map(drop).map_err(LanguageError::from)
    }

    fn cron(&self, source: &str) -> Result<(), LanguageError> {
        cron::parse(source).map(drop).map_err(LanguageError::from)
    }

    fn function_code(&self, code: &str, _function_name: &str) -> Result<(), LanguageError> {
        let problem = if code.trim().is_empty() {
            "function code is empty".to_owned()
        } else if code.len() > FUNCTION_CODE_BYTES_MAX {
            format!("function code is longer than {FUNCTION_CODE_BYTES_MAX} bytes")
        } else {
            return Ok(());
        };
        Err(LangError::new(LangCode::FunctionCodeInvalid, problem).into())
    }

    fn known_handlers(&self) -> Option<Vec<String>> {
        self.handlers.clone()
    }
}

impl From<LangError> for LanguageError {
    fn from(error: LangError) -> Self {
        let message = match error.hint {
            Some(hint) => format!("{} ({hint})", error.message),
            None => error.message,
        };
        Self {
            code: error.code.as_str(),
            message,
            offset: error.span.map(|span| span.start),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;
    use troupe_core::definition::LanguageChecker;

    use super::Checker;

    #[test]
    fn gives_each_fault_its_code_and_offset() {
        let checker = Checker::new().with_handlers(vec!["noop".into()]);
        assert_eq!(checker.expression("input.a > 1"), Ok(()));
        let error = checker.expression("input output").unwrap_err();
        assert_eq!((error.code, error.offset), ("EXPRESSION_SYNTAX", Some(6)));
        assert_eq!(checker.template("{{ input.a").unwrap_err().code, "TEMPLATE_SYNTAX");
        assert_eq!(checker.schema(&json!({"type": 1})).unwrap_err().code, "SCHEMA_INVALID");
        assert_eq!(checker.cron("x").unwrap_err().code, "CRON_INVALID");
        assert_eq!(
            checker.function_code(" \n", "f").unwrap_err().code,
            "FUNCTION_CODE_INVALID"
        );
        assert_eq!(checker.function_code("function f() {}", "f"), Ok(()));
        assert_eq!(checker.known_handlers(), Some(vec!["noop".to_owned()]));
    }
}

//! JSON Schema: drafts 4 to 2020-12, without remote references and within bounds.

mod cost;

#[cfg(test)]
mod tests;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use self::cost::Cost;
use crate::error::{LangCode, LangError};
use crate::limits::{
    REGEX_BACKTRACK_MAX, REGEX_BYTES_MAX, SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_VIOLATION_BYTES_MAX,
    SCHEMA_VIOLATIONS_MAX, VALUE_DEPTH_MAX,
};

/// A compiled JSON Schema.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    cost: Cost,
}

/// A value that does not fit its schema; never worth a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", summary(.violations, *.is_truncated))]
pub struct SchemaViolation {
    /// What does not fit, in the order of the schema.
    pub violations: Vec<Violation>,
    /// Whether there are more than [`SCHEMA_VIOLATIONS_MAX`].
    pub is_truncated: bool,
}

/// One place that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the value; empty for the whole.
    pub pointer: String,
    /// JSON pointer into the schema.
    pub schema_pointer: String,
    /// What is wrong, without the value itself.
    pub message: String,
}

impl SchemaViolation {
    /// The code of every violation.
    pub const CODE: &'static str = "SCHEMA_VIOLATION";

    /// The stable error code, always `SCHEMA_VIOLATION`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        Self::CODE
    }

    fn one(message: &str) -> Self {
        let violation = Violation {
            pointer: String::new(),
            schema_pointer: String::new(),
            message: message.to_owned(),
        };
        Self {
            violations: vec![violation],
            is_truncated: false,
        }
    }
}

impl Schema {
    /// Compiles a schema; without `$schema` it is of draft 2020-12.
    ///
    /// # Errors
    /// `SCHEMA_INVALID` for a schema that is no schema, too large, refers to another document, or refers to itself
    /// without looking into the value.
    pub fn compile(schema: &Value) -> Result<Self, LangError> {
        if depth(schema, SCHEMA_DEPTH_MAX + 1) > SCHEMA_DEPTH_MAX {
            return Err(invalid(format!(
                "schema is nested more than {SCHEMA_DEPTH_MAX} levels deep"
            )));
        }
        if schema.to_string().len() > SCHEMA_BYTES_MAX {
            return Err(invalid(format!("schema is larger than {SCHEMA_BYTES_MAX} bytes")));
        }
        let cost = Cost::of(schema)?;
        let patterns = PatternOptions::fancy_regex()
            .backtrack_limit(REGEX_BACKTRACK_MAX)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX);
        let validator = jsonschema::options()
            .offline()
            .with_pattern_options(patterns)
            .should_validate_formats(true)
            .build(schema)
            .map_err(|error| {
                let at = error.instance_path().as_str();
                let at = if at.is_empty() {
                    String::new()
                } else {
                    format!(" at `{at}`")
                };
                invalid(clipped(&format!("{}{at}", error.masked())))
            })?;
        Ok(Self { validator, cost })
    }

    /// Checks a value.
    ///
    /// # Errors
    /// Up to [`SCHEMA_VIOLATIONS_MAX`] violations; one violation of the whole value where the check would take too long.
    pub fn validate(&self, value: &Value) -> Result<(), SchemaViolation> {
        if depth(value, VALUE_DEPTH_MAX + 9) > VALUE_DEPTH_MAX + 8 {
            return Err(SchemaViolation::one("value is nested too deeply to be checked"));
        }
        if !self.cost.is_affordable(value) {
            return Err(SchemaViolation::one(
                "value takes too many steps to be checked against this schema",
            ));
        }
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let mut errors = self.validator.iter_errors(value);
        let violations: Vec<Violation> = errors
            .by_ref()
            .take(SCHEMA_VIOLATIONS_MAX)
            .map(|error| Violation {
                pointer: error.instance_path().as_str().to_owned(),
                schema_pointer: error.schema_path().as_str().to_owned(),
                message: clipped(&error.masked().to_string()),
            })
            .collect();
        if violations.is_empty() {
            return Err(SchemaViolation::one("value does not fit the schema"));
        }
        Err(SchemaViolation {
            violations,
            is_truncated: errors.next().is_some(),
        })
    }
}

fn invalid(message: impl Into<String>) -> LangError {
    LangError::new(LangCode::SchemaInvalid, message)
}

fn summary(violations: &[Violation], is_truncated: bool) -> String {
    let mut shown: Vec<String> = violations
        .iter()
        .take(3)
        .map(|violation| match violation.pointer.as_str() {
            "" => violation.message.clone(),
            pointer => format!("{pointer}: {}", violation.message),
        })
        .collect();
    if violations.len() > 3 || is_truncated {
        let more = violations.len().saturating_sub(3);
        shown.push(format!("and {more}{} more", if is_truncated { "+" } else { "" }));
    }
    shown.join("; ")
}

fn clipped(text: &str) -> String {
    if text.len() <= SCHEMA_VIOLATION_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(SCHEMA_VIOLATION_BYTES_MAX);
    format!("{}…", &text[..end])
}

/// How deep a value is nested, looking no deeper than `max`.
fn depth(value: &Value, max: usize) -> usize {
    if max == 0 {
        return 0;
    }
    let inner = match value {
        Value::Array(items) => items.iter().map(|item| depth(item, max - 1)).max(),
        Value::Object(members) => members.values().map(|member| depth(member, max - 1)).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    1 + inner.unwrap_or(0)
}

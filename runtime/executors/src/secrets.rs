//! Puts secrets into a node's data at the last moment, and keeps them out of everything that comes back.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use serde_json::{Map, Value as JsonValue};
use troupe_core::execution::{AttemptOutcome, LogLine};
use troupe_core::{ErrorInfo, Json, Value};
use troupe_lang::Scope;
use troupe_lang::template::DataTemplate;
use troupe_ports::{Executed, Secrets, Task};

use crate::codes;
use crate::payload;

/// What a secret is replaced by.
pub const REDACTED: &str = "[secret]";
/// Shorter values are not looked for: they would be found everywhere.
const REDACTED_BYTES_MIN: usize = 4;

/// Secrets from environment variables `TROUPE_SECRET_<NAME>`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvSecrets;

impl EnvSecrets {
    /// What the names of the variables begin with.
    pub const PREFIX: &'static str = "TROUPE_SECRET_";
}

impl Secrets for EnvSecrets {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(format!("{}{name}", Self::PREFIX)).ok()
    }
}

/// A node's data with secrets in place.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) data: Map<String, JsonValue>,
    /// JSON pointers of the strings that hold a secret.
    pub(crate) secret_at: BTreeSet<String>,
    pub(crate) redactor: Redactor,
}

/// Resolves the secrets that the node's definition names. Values that came in with data cannot name any.
///
/// # Errors
/// `SECRET_NOT_FOUND`, and those of reading the data.
pub(crate) fn resolve(task: &Task, secrets: &dyn Secrets) -> Result<Resolved, ErrorInfo> {
    let mut data = payload::data(task)?.into_owned();
    let mut redactor = Redactor::default();
    let mut secret_at = BTreeSet::new();
    let written = JsonValue::Object(task.node().data.clone());
    let template = DataTemplate::compile(&written).map_err(|faults| {
        let first = faults.first().map(|(pointer, error)| format!("{pointer}: {error}"));
        ErrorInfo::new(codes::TEMPLATE_ERROR, first.unwrap_or_default())
    })?;
    secret_at.extend(template.secrets().map(|(pointer, _)| pointer));
    if secret_at.is_empty() {
        return Ok(Resolved {
            data,
            secret_at,
            redactor,
        });
    }
    if task.data.is_none() {
        // Nobody had to evaluate anything but the places of secrets.
        let evaluated = template.evaluate(&Scope::new(), &[]);
        match evaluated.map_err(|error| ErrorInfo::new(codes::TEMPLATE_ERROR, error.to_string()))? {
            JsonValue::Object(evaluated) => data = evaluated,
            _ => return Err(payload::invalid("the node's data must be an object")),
        }
    }
    let resolved = template.resolve_secrets(JsonValue::Object(data), |name| {
        let secret = secrets.get(name).ok_or(NotFound)?;
        redactor.add(&secret);
        Ok::<_, NotFound>(secret)
    });
    match resolved {
        Ok(JsonValue::Object(data)) => Ok(Resolved {
            data,
            secret_at,
            redactor,
        }),
        Ok(_) => Err(payload::invalid("the node's data must be an object")),
        Err(error) => Err(ErrorInfo::new(
            codes::SECRET_NOT_FOUND,
            format!("there is no secret `{}`", error.name),
        )),
    }
}

#[derive(Debug)]
struct NotFound;

impl fmt::Display for NotFound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("not found")
    }
}

/// Replaces secrets by value.
#[derive(Clone, Default)]
pub(crate) struct Redactor {
    /// Longest first, so that a secret within another leaves nothing of it.
    values: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Redactor({})", self.values.len())
    }
}

impl Redactor {
    /// Adds a secret in the forms in which it may come back.
    pub(crate) fn add(&mut self, secret: &str) {
        let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
        let in_url: String = reqwest::Url::parse_with_params("http://x/", [("", secret)])
            .map(|url| url.query().unwrap_or_default().trim_start_matches('=').to_owned())
            .unwrap_or_default();
        let quoted = JsonValue::from(secret).to_string();
        let forms = [secret, quoted.trim_matches('"'), &encoded, &in_url];
        for form in forms.into_iter().filter(|form| form.len() >= REDACTED_BYTES_MIN) {
            if !self.values.iter().any(|known| known == form) {
                self.values.push(form.to_owned());
            }
        }
        self.values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    }

    /// The text without secrets.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.values {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), REDACTED);
            }
        }
        text
    }

    fn holds(&self, text: &str) -> bool {
        self.values.iter().any(|value| text.contains(value.as_str()))
    }

    fn json(&self, json: &Json) -> Json {
        if !self.holds(json.as_str()) {
            return json.clone();
        }
        match json.to_value() {
            Ok(value) => Json::of(&self.value(value)),
            Err(_) => Json::of(&JsonValue::from(REDACTED)),
        }
    }

    fn value(&self, value: JsonValue) -> JsonValue {
        match value {
            JsonValue::String(text) => JsonValue::String(self.text(&text)),
            JsonValue::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            JsonValue::Object(members) => members
                .into_iter()
                .map(|(name, value)| (self.text(&name), self.value(value)))
                .collect(),
            other => other,
        }
    }

    /// The error without secrets.
    pub(crate) fn error(&self, error: ErrorInfo) -> ErrorInfo {
        ErrorInfo {
            code: error.code,
            message: self.text(&error.message),
            details: error.details.map(|details| self.json(&details)),
            stack: error.stack.map(|stack| self.text(&stack)),
        }
    }

    /// What an attempt gave, without secrets in outputs, errors and logs.
    pub(crate) fn executed(&self, executed: Executed) -> Executed {
        if self.values.is_empty() {
            return executed;
        }
        let outcome = match executed.outcome {
            AttemptOutcome::Completed(Value::Inline(json)) => {
                AttemptOutcome::Completed(Value::Inline(self.json(&json)))
            }
            // An executor gives its output in place.
            AttemptOutcome::Completed(other @ (Value::Blob(_) | Value::Composed(_))) => {
                AttemptOutcome::Completed(other)
            }
            AttemptOutcome::Failed(mut failure) => {
                failure.error = self.error(failure.error);
                AttemptOutcome::Failed(failure)
            }
        };
        let line = |line: LogLine| LogLine {
            level: line.level,
            message: self.text(&line.message),
        };
        Executed {
            outcome,
            logs: executed.logs.into_iter().map(line).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_in_every_form() {
        let mut redactor = Redactor::default();
        redactor.add("p\"s w/1");
        redactor.add("p\"s w/12");
        let value = serde_json::json!({"plain": "a p\"s w/1 b", "longer": "p\"s w/12", "url": "x=p%22s+w%2F1", "b64": "cCJzIHcvMQ=="});
        let expected =
            serde_json::json!({"plain": "a [secret] b", "longer": "[secret]", "url": "x=[secret]", "b64": "[secret]"});
        assert_eq!(redactor.json(&Json::of(&value)), Json::of(&expected));
        redactor.add("x");
        assert_eq!(redactor.text("x"), "x");
    }
}

//! The expressions of the tests: just enough to tell values, variables, nodes and errors apart.
//!
//! `true`, `false`, `throw`, `const:<json>`, a dotted path, `<path> == <json>`, `<path> != <json>`.

use serde_json::Value;

/// The message of everything that throws.
pub const THROWN: &str = "thrown";

/// The expression threw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thrown;

/// Evaluates an expression; a path that leads nowhere is null.
pub fn evaluate(expression: &str, scope: &Value) -> Result<Value, Thrown> {
    let expression = expression.trim();
    match expression {
        "throw" => return Err(Thrown),
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if let Some(text) = expression.strip_prefix("const:") {
        return serde_json::from_str(text).map_err(|_| Thrown);
    }
    if let Some((path, text)) = expression.split_once(" == ") {
        return Ok(Value::Bool(follow(path, scope) == literal(text)?));
    }
    if let Some((path, text)) = expression.split_once(" != ") {
        return Ok(Value::Bool(follow(path, scope) != literal(text)?));
    }
    Ok(follow(expression, scope))
}

/// Replaces a string that is one `{{ … }}` by the value of its expression.
pub fn template(text: &str, scope: &Value) -> Result<Value, Thrown> {
    match text.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
        Some(expression) => evaluate(expression, scope),
        None => Ok(Value::from(text)),
    }
}

/// JavaScript truthiness.
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// The schemas of the tests: `{"type": "object" | "number" | "boolean" | "string"}`.
pub fn meets(schema: &Value, value: &Value) -> bool {
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        _ => true,
    }
}

fn literal(text: &str) -> Result<Value, Thrown> {
    serde_json::from_str(text).map_err(|_| Thrown)
}

fn follow(path: &str, scope: &Value) -> Value {
    path.trim()
        .split('.')
        .try_fold(scope, |value, name| value.get(name))
        .cloned()
        .unwrap_or(Value::Null)
}

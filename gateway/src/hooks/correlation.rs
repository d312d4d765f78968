//! Which execution a call is meant for.

use serde_json::Value;
use troupe_core::{ErrorInfo, Json};
use troupe_lang::{Binding, Class, Expression, Scope};
use troupe_ports::{Sandbox, SandboxJob};

use super::Hook;
use crate::error::ApiError;

/// Longest business key that a call may give.
const KEY_BYTES_MAX: usize = 1_024;
/// Evaluation steps that the expression may take in this process.
const STEPS_MAX: u64 = 1_000_000;

/// What the hook's `correlationKey` makes of a call, which it sees as `output`.
///
/// # Errors
/// `CORRELATION_FAILED` for an expression that throws or gives no text, number or truth value; `UNAVAILABLE` when there is
/// no sandbox to ask.
pub(crate) async fn business_key(
    hook: &Hook,
    source: &str,
    call: &Json,
    sandbox: &dyn Sandbox,
) -> Result<String, ApiError> {
    let failed = |why: String| {
        ApiError::new("CORRELATION_FAILED", why)
            .with_hint("`correlationKey` sees the call as `output`: {body, headers, query, method}")
    };
    let expression = Expression::compile(source).map_err(|error| failed(error.message))?;
    let value = match expression.class() {
        Class::Safe | Class::JsonPath => {
            let scope = Scope::new()
                .bind("output", Binding::text(call.as_str()))
                .with_steps_max(STEPS_MAX);
            expression
                .evaluate(&scope)
                .map_err(|error| failed(error.message().to_owned()))?
        }
        Class::Sandbox => {
            let job = SandboxJob {
                workflow: hook.workflow.clone(),
                version: hook.version,
                source: expression.source().into(),
                scope: Json::object([("output", call)]),
            };
            let given = sandbox
                .evaluate(job)
                .await
                .map_err(|error| of_sandbox(&error, failed))?;
            given.to_value().map_err(|error| failed(error.to_string()))?
        }
    };
    let key = match value {
        Value::String(text) if !text.is_empty() => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err(failed("the call gives no business key".to_owned()));
        }
    };
    if key.len() > KEY_BYTES_MAX {
        return Err(failed(format!("a business key has at most {KEY_BYTES_MAX} bytes")));
    }
    Ok(key)
}

/// What the sandbox says of itself says nothing of the call.
fn of_sandbox(error: &ErrorInfo, failed: impl FnOnce(String) -> ApiError) -> ApiError {
    if error.code == "EXPRESSION_ERROR" {
        failed(error.message.clone())
    } else {
        ApiError::new("UNAVAILABLE", error.message.clone()).retry_after_ms(1_000)
    }
}

//! The built-in handlers.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value as JsonValue;
use troupe_core::Json;
use troupe_ports::Task;

use crate::handler::{Handler, HandlerCall, HandlerError, HandlerResult};
use crate::payload;

/// Longest sleep, in milliseconds: longer waits belong to `delay` nodes, which are durable.
pub(crate) const SLEEP_MAX_MS: u64 = 24 * 3_600 * 1_000;

/// Gives null at once.
pub(crate) struct Noop;

impl Handler for Noop {
    fn call(&self, _: HandlerCall) -> BoxFuture<'static, HandlerResult> {
        Box::pin(std::future::ready(Ok(Json::null())))
    }

    fn call_now(&self, _: &Task) -> Option<HandlerResult> {
        Some(Ok(Json::null()))
    }
}

/// Gives its input back.
pub(crate) struct Echo;

impl Handler for Echo {
    fn call(&self, call: HandlerCall) -> BoxFuture<'static, HandlerResult> {
        Box::pin(std::future::ready(call.input_json().cloned()))
    }

    fn call_now(&self, task: &Task) -> Option<HandlerResult> {
        Some(payload::inline(&task.input).cloned().map_err(HandlerError::from_info))
    }
}

/// Waits `data.ms` or `input.ms` milliseconds, then gives its input back.
pub(crate) struct Sleep;

impl Handler for Sleep {
    fn call(&self, call: HandlerCall) -> BoxFuture<'static, HandlerResult> {
        Box::pin(async move {
            let options = options(&call.task)?;
            let asked = options.get("ms").and_then(JsonValue::as_f64).filter(|ms| *ms >= 0.0);
            let Some(asked) = asked else {
                let message = "`sleep` needs `ms`, a number of milliseconds, in its data or input";
                return Err(HandlerError::from_info(payload::invalid(message)).not_retryable());
            };
            // Saturating: a float beyond the range becomes the bound.
            let wait = Duration::from_millis((asked as u64).min(SLEEP_MAX_MS));
            tokio::select! {
                () = tokio::time::sleep(wait) => call.input_json().cloned(),
                () = call.cancel.cancelled() => Err(HandlerError::new("CANCELED", "the sleep was canceled")),
            }
        })
    }
}

/// Fails with `code`, `message`, `details`, `retryable` and `retryAfter` (ms) of its data or input; with
/// `failures: n` only the first n attempts fail and later ones give the input back.
pub(crate) struct Fail;

impl Handler for Fail {
    fn call(&self, call: HandlerCall) -> BoxFuture<'static, HandlerResult> {
        Box::pin(std::future::ready(fail(&call.task)))
    }

    fn call_now(&self, task: &Task) -> Option<HandlerResult> {
        Some(fail(task))
    }
}

fn fail(task: &Task) -> HandlerResult {
    let options = options(task)?;
    let failures = options.get("failures").and_then(JsonValue::as_u64);
    if failures.is_some_and(|failures| u64::from(task.token.attempt.0) > failures) {
        return payload::inline(&task.input).cloned().map_err(HandlerError::from_info);
    }
    let text = |name: &str| options.get(name).and_then(JsonValue::as_str);
    let mut error = HandlerError::new(
        text("code").unwrap_or("FAILED"),
        text("message").unwrap_or("the node was asked to fail"),
    );
    if let Some(details) = options.get("details") {
        error = error.details(details);
    }
    if let Some(ms) = options.get("retryAfter").and_then(JsonValue::as_u64) {
        error = error.retry_after(Duration::from_millis(ms));
    }
    if options.get("retryable") == Some(&JsonValue::Bool(false)) {
        error = error.not_retryable();
    }
    Err(error)
}

/// The node's data over its input: direct fields win, then `config` of the data, then the input.
fn options(task: &Task) -> Result<serde_json::Map<String, JsonValue>, HandlerError> {
    let mut options = match payload::inline(&task.input)
        .map_err(HandlerError::from_info)?
        .to_value()
    {
        Ok(JsonValue::Object(input)) => input,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let data = payload::data(task).map_err(HandlerError::from_info)?;
    if let Some(JsonValue::Object(config)) = data.get("config") {
        options.extend(config.clone());
    }
    options.extend(data.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(options)
}

//! Rust handlers: what `handlerId` and `functionName` may name.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use troupe_core::execution::{AttemptFailure, AttemptOutcome, LogLine};
use troupe_core::{ErrorInfo, Json, Value};
use troupe_ports::{Executed, Task};

use crate::builtin;
use crate::codes;
use crate::payload;

/// Log lines that one attempt may leave behind.
pub const LOG_LINES_MAX: usize = 1_000;

/// One call of a handler.
#[derive(Clone, Debug)]
pub struct HandlerCall {
    /// The attempt, with everything the engine knows of it.
    pub task: Task,
    /// Fires when the attempt is aborted; what the handler returns afterwards is dropped.
    pub cancel: CancellationToken,
    logs: Arc<Mutex<Vec<LogLine>>>,
}

impl HandlerCall {
    /// The node's input as JSON text.
    ///
    /// # Errors
    /// `PAYLOAD_NOT_LOADED` when the input is a reference to a blob.
    pub fn input_json(&self) -> Result<&Json, HandlerError> {
        payload::inline(&self.task.input).map_err(HandlerError::from_info)
    }

    /// The node's input, read as `T`.
    ///
    /// # Errors
    /// `NODE_DATA_INVALID` when the input has another shape.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T, HandlerError> {
        serde_json::from_str(self.input_json()?.as_str()).map_err(|error| {
            HandlerError::from_info(payload::invalid(format!("the input has another shape: {error}"))).not_retryable()
        })
    }

    /// A field of the node's data, templates resolved.
    ///
    /// # Errors
    /// `NODE_DATA_INVALID` when the data cannot be read.
    pub fn data(&self, field: &str) -> Result<Option<serde_json::Value>, HandlerError> {
        Ok(payload::data(&self.task)
            .map_err(HandlerError::from_info)?
            .get(field)
            .cloned())
    }

    /// Logs a line (`debug`, `info`, `warn`, `error`) with the attempt; beyond [`LOG_LINES_MAX`] lines are dropped.
    pub fn log(&self, level: &str, message: impl Into<String>) {
        let mut logs = self.logs.lock();
        if logs.len() < LOG_LINES_MAX {
            logs.push(LogLine {
                level: level.to_owned(),
                message: message.into(),
            });
        }
    }
}

/// Why a handler failed.
///
/// Any `std::error::Error` becomes one by `?`, with the code `HANDLER_FAILED`, worth a retry.
#[derive(Clone, Debug)]
pub struct HandlerError(AttemptFailure);

impl HandlerError {
    /// An error worth a retry.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::from_info(ErrorInfo::new(code, message))
    }

    pub(crate) fn from_info(error: ErrorInfo) -> Self {
        Self(AttemptFailure {
            error,
            retryable: true,
            retry_after_ms: None,
        })
    }

    /// The same error, with another attempt ruled out.
    #[must_use]
    pub fn not_retryable(mut self) -> Self {
        self.0.retryable = false;
        self
    }

    /// The same error, with a least delay before the next attempt.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after_ms = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// The same error with structured details.
    #[must_use]
    pub fn details(mut self, details: impl Into<Json>) -> Self {
        self.0.error.details = Some(details.into());
        self
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self::new(codes::HANDLER_FAILED, message)
    }
}

/// What a handler gives back.
pub type HandlerResult = Result<Json, HandlerError>;

/// A piece of work that nodes call by name.
///
/// Async closures are handlers: `registry.register("charge", |call: HandlerCall| async move { … })`.
pub trait Handler: Send + Sync + 'static {
    /// Does the work of one attempt. Dropped when the attempt times out or is aborted.
    fn call(&self, call: HandlerCall) -> BoxFuture<'static, HandlerResult>;

    /// The result, where it is to be had at once without waiting or logging; spares the task a future.
    fn call_now(&self, task: &Task) -> Option<HandlerResult> {
        let _ = task;
        None
    }
}

impl<F, Fut> Handler for F
where
    F: Fn(HandlerCall) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    fn call(&self, call: HandlerCall) -> BoxFuture<'static, HandlerResult> {
        Box::pin(self(call))
    }
}

/// Handlers by name.
#[derive(Clone)]
pub struct HandlerRegistry {
    by_name: BTreeMap<String, Arc<dyn Handler>>,
}

impl fmt::Debug for HandlerRegistry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.by_name.keys()).finish()
    }
}

impl Default for HandlerRegistry {
    fn default() -> Self {
        Self::with_builtins()
    }
}

impl HandlerRegistry {
    /// The built-in handlers: `noop`, `echo`, `sleep`, `fail`.
    #[must_use]
    pub fn with_builtins() -> Self {
        let mut registry = Self {
            by_name: BTreeMap::new(),
        };
        registry.register("noop", builtin::Noop);
        registry.register("echo", builtin::Echo);
        registry.register("sleep", builtin::Sleep);
        registry.register("fail", builtin::Fail);
        registry
    }

    /// Registers a handler; one of the same name is replaced.
    pub fn register(&mut self, name: impl Into<String>, handler: impl Handler) {
        self.by_name.insert(name.into(), Arc::new(handler));
    }

    /// The handler of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Handler>> {
        self.by_name.get(name)
    }

    /// Every name, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// Runs the handler of that name.
    pub(crate) fn execute(&self, name: &str, task: Task, cancel: CancellationToken) -> BoxFuture<'static, Executed> {
        let Some(handler) = self.get(name) else {
            let message = format!("no handler named `{name}` is registered");
            let error = ErrorInfo::new(codes::HANDLER_NOT_FOUND, message);
            return Box::pin(std::future::ready(Executed::failed(error, false)));
        };
        if let Some(result) = handler.call_now(&task) {
            return Box::pin(std::future::ready(executed(result, Vec::new())));
        }
        let logs = Arc::new(Mutex::new(Vec::new()));
        let result = handler.call(HandlerCall {
            task,
            cancel,
            logs: Arc::clone(&logs),
        });
        Box::pin(async move {
            let result = result.await;
            executed(result, std::mem::take(&mut *logs.lock()))
        })
    }
}

fn executed(result: HandlerResult, logs: Vec<LogLine>) -> Executed {
    let outcome = match result {
        Ok(output) => AttemptOutcome::Completed(Value::Inline(output)),
        Err(HandlerError(failure)) => AttemptOutcome::Failed(Box::new(failure)),
    };
    Executed { outcome, logs }
}

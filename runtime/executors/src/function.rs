//! The `function` and `custom` node types: code in the sandbox, or a registered handler.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value as JsonValue;
use tokio_util::sync::CancellationToken;
use troupe_core::plan::PlanNode;
use troupe_core::{ErrorInfo, Value};
use troupe_ports::{Executed, NodeExecutor, Secrets, Task};

use crate::codes;
use crate::handler::HandlerRegistry;
use crate::payload;
use crate::sandbox::SandboxPool;
use crate::secrets;

/// Runs `function` and `custom` nodes.
#[derive(Clone)]
pub struct FunctionExecutor {
    handlers: Arc<HandlerRegistry>,
    sandbox: Option<SandboxPool>,
    secrets: Arc<dyn Secrets>,
}

impl FunctionExecutor {
    /// Runs handlers of `handlers`, and function code in `sandbox` if there is one; `secrets` are for handlers alone.
    #[must_use]
    pub fn new(handlers: Arc<HandlerRegistry>, sandbox: Option<SandboxPool>, secrets: Arc<dyn Secrets>) -> Self {
        Self {
            handlers,
            sandbox,
            secrets,
        }
    }

    /// Runs a handler whose data may name secrets: they go in now, and are kept out of what comes back.
    fn handle(&self, mut task: Task, cancel: CancellationToken) -> Result<BoxFuture<'static, Executed>, ErrorInfo> {
        let name = handler_name(&task)?;
        // Data without templates names no secrets; the hot path ends here.
        if task.data.is_none() {
            return Ok(self.handlers.execute(&name, task, cancel));
        }
        let resolved = secrets::resolve(&task, &*self.secrets)?;
        if resolved.secret_at.is_empty() {
            return Ok(self.handlers.execute(&name, task, cancel));
        }
        task.data = Some(JsonValue::Object(resolved.data).into());
        let executing = self.handlers.execute(&name, task, cancel);
        Ok(Box::pin(async move { resolved.redactor.executed(executing.await) }))
    }
}

impl fmt::Debug for FunctionExecutor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("FunctionExecutor")
            .field("handlers", &self.handlers)
            .finish_non_exhaustive()
    }
}

impl NodeExecutor for FunctionExecutor {
    fn execute(&self, task: Task, cancel: CancellationToken) -> BoxFuture<'static, Executed> {
        // Code comes from the plan: templates leave it alone.
        if let Some(code) = text(&task.node().data, "functionCode") {
            let name = text(&task.node().data, "functionName").unwrap_or_default();
            return match &self.sandbox {
                Some(sandbox) => sandbox.call_function(&task, code, name),
                None => {
                    let error = ErrorInfo::new(codes::SANDBOX_UNAVAILABLE, "this engine runs without a sandbox");
                    Box::pin(std::future::ready(Executed::failed(error, false)))
                }
            };
        }
        self.handle(task, cancel)
            .unwrap_or_else(|error| Box::pin(std::future::ready(Executed::failed(error, false))))
    }

    /// Function code calls nothing: only handlers do.
    fn target(&self, node: &PlanNode, data: Option<&Value>) -> Option<String> {
        if text(&node.data, "functionCode").is_some() {
            return None;
        }
        let data = payload::data_of(node, data).ok()?;
        let name = text(&data, "handlerId").or_else(|| text(&data, "functionName"))?;
        Some(format!("handler:{name}"))
    }

    fn handlers(&self) -> Vec<String> {
        self.handlers.names()
    }
}

/// `handlerId`, else `functionName`.
fn handler_name(task: &Task) -> Result<String, ErrorInfo> {
    let data = payload::data(task)?;
    let name = text(&data, "handlerId").or_else(|| text(&data, "functionName"));
    name.map(str::to_owned).ok_or_else(|| {
        let message = "the node names neither `functionCode` nor `handlerId` nor `functionName`";
        ErrorInfo::new(codes::HANDLER_NOT_FOUND, message)
    })
}

fn text<'a>(data: &'a serde_json::Map<String, JsonValue>, name: &str) -> Option<&'a str> {
    data.get(name)
        .and_then(JsonValue::as_str)
        .filter(|text| !text.is_empty())
}

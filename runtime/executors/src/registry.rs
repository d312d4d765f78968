//! One executor for every node type.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use troupe_core::definition::NodeKind;
use troupe_core::plan::PlanNode;
use troupe_core::{ErrorInfo, Value};
use troupe_ports::{Executed, NodeExecutor, Sandbox, Secrets, Task};

use crate::codes;
use crate::function::FunctionExecutor;
use crate::handler::{Handler, HandlerRegistry};
use crate::http::HttpExecutor;
use crate::sandbox::SandboxPool;
use crate::secrets::EnvSecrets;
use crate::transformation::TransformationExecutor;

/// Dispatches attempts by node type.
#[derive(Clone)]
pub struct Executors {
    by_kind: Arc<BTreeMap<NodeKind, Arc<dyn NodeExecutor>>>,
}

impl fmt::Debug for Executors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.by_kind.keys()).finish()
    }
}

impl Executors {
    /// Starts with the built-in handlers and transformations; code needs a sandbox, `http` its executor.
    #[must_use]
    pub fn builder() -> ExecutorsBuilder {
        ExecutorsBuilder::default()
    }

    /// The node types that can be executed, in order.
    pub fn kinds(&self) -> impl Iterator<Item = NodeKind> + '_ {
        self.by_kind.keys().copied()
    }
}

impl NodeExecutor for Executors {
    fn execute(&self, task: Task, cancel: CancellationToken) -> BoxFuture<'static, Executed> {
        let kind = task.node().kind;
        match self.by_kind.get(&kind) {
            Some(executor) => executor.execute(task, cancel),
            None => {
                let message = format!("this engine has no executor for nodes of type `{}`", kind.as_str());
                let error = ErrorInfo::new(codes::NODE_TYPE_UNSUPPORTED, message);
                Box::pin(std::future::ready(Executed::failed(error, false)))
            }
        }
    }

    fn target(&self, node: &PlanNode, data: Option<&Value>) -> Option<String> {
        self.by_kind.get(&node.kind)?.target(node, data)
    }

    fn handlers(&self) -> Vec<String> {
        let mut names: Vec<String> = self.by_kind.values().flat_map(|executor| executor.handlers()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Puts executors together.
#[derive(Default)]
pub struct ExecutorsBuilder {
    handlers: HandlerRegistry,
    sandbox: Option<SandboxPool>,
    http: Option<HttpExecutor>,
    secrets: Option<Arc<dyn Secrets>>,
    others: BTreeMap<NodeKind, Arc<dyn NodeExecutor>>,
}

impl fmt::Debug for ExecutorsBuilder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ExecutorsBuilder")
            .field("handlers", &self.handlers)
            .finish_non_exhaustive()
    }
}

impl ExecutorsBuilder {
    /// Registers a Rust handler under a name for `handlerId`; one of the same name is replaced.
    #[must_use]
    pub fn handler(mut self, name: impl Into<String>, handler: impl Handler) -> Self {
        self.handlers.register(name, handler);
        self
    }

    /// Runs function code in these processes.
    #[must_use]
    pub fn sandbox(mut self, sandbox: SandboxPool) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Runs `http` nodes.
    #[must_use]
    pub fn http(mut self, http: HttpExecutor) -> Self {
        self.http = Some(http);
        self
    }

    /// Where `{{ secrets.NAME }}` in the data of handlers is looked up; environment variables `TROUPE_SECRET_<NAME>` unless told otherwise.
    #[must_use]
    pub fn secrets(mut self, secrets: Arc<dyn Secrets>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// Runs nodes of a type by an executor of the caller's; it wins over the built-in one.
    #[must_use]
    pub fn executor(mut self, kind: NodeKind, executor: Arc<dyn NodeExecutor>) -> Self {
        self.others.insert(kind, executor);
        self
    }

    /// The finished dispatcher.
    #[must_use]
    pub fn build(self) -> Executors {
        let secrets = self.secrets.unwrap_or_else(|| Arc::new(EnvSecrets));
        let mut by_kind: BTreeMap<NodeKind, Arc<dyn NodeExecutor>> = BTreeMap::new();
        let sandbox = self
            .sandbox
            .clone()
            .map(|sandbox| Arc::new(sandbox) as Arc<dyn Sandbox>);
        by_kind.insert(NodeKind::Transformation, Arc::new(TransformationExecutor::new(sandbox)));
        if let Some(http) = self.http {
            by_kind.insert(NodeKind::Http, Arc::new(http));
        }
        let function = Arc::new(FunctionExecutor::new(Arc::new(self.handlers), self.sandbox, secrets));
        by_kind.insert(NodeKind::Function, Arc::clone(&function) as _);
        by_kind.insert(NodeKind::Custom, function);
        by_kind.extend(self.others);
        Executors {
            by_kind: Arc::new(by_kind),
        }
    }
}

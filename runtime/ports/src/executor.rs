//! Whoever does a node's work.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use troupe_core::execution::{AttemptFailure, AttemptOutcome, LogLine};
use troupe_core::plan::{Plan, PlanNode};
use troupe_core::{ErrorInfo, ExecutionId, Json, Timestamp, Token, Value};

/// One attempt to carry out.
#[derive(Clone, Debug)]
pub struct Task {
    /// The execution.
    pub execution: ExecutionId,
    /// Names the attempt.
    pub token: Token,
    /// The workflow version; `plan.node(token.node)` is the node.
    pub plan: Arc<Plan>,
    /// The node's data with templates resolved; none: the plan's data holds.
    pub data: Option<Value>,
    /// The node's input.
    pub input: Value,
    /// Variables as they were when the attempt was dispatched.
    pub variables: Arc<BTreeMap<String, Value>>,
    /// What else of the scope the node's own expressions name (`trigger`, `nodes`, `execution`), a JSON object; only for
    /// node types that evaluate expressions while they run.
    pub scope: Option<Json>,
    /// W3C trace context (`traceparent`) of the execution's start, to be handed on to whoever is called.
    pub trace_parent: Option<Arc<str>>,
    /// When the attempt times out.
    pub deadline: Timestamp,
}

impl Task {
    /// The node to run.
    #[must_use]
    pub fn node(&self) -> &PlanNode {
        self.plan.node(self.token.node)
    }

    /// `execution/run/node/visit`: the same for every attempt of a visit. What undoes the visit ends with `/compensation`.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        let undoes = if self.plan.is_compensation(self.token.node) {
            "/compensation"
        } else {
            ""
        };
        format!(
            "{}/{}/{}/{}{undoes}",
            self.execution,
            self.token.run,
            self.node().key,
            self.token.visit
        )
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// What the handler logged.
    pub logs: Vec<LogLine>,
}

impl Executed {
    /// Ended with an output, nothing logged.
    #[must_use]
    pub fn completed(output: impl Into<Value>) -> Self {
        Self {
            outcome: AttemptOutcome::Completed(output.into()),
            logs: Vec::new(),
        }
    }

    /// Ended with an error, nothing logged.
    #[must_use]
    pub fn failed(error: ErrorInfo, retryable: bool) -> Self {
        let failure = AttemptFailure {
            error,
            retryable,
            retry_after_ms: None,
        };
        Self {
            outcome: AttemptOutcome::Failed(Box::new(failure)),
            logs: Vec::new(),
        }
    }
}

/// Carries out attempts of one or more node types.
///
/// The caller enforces the attempt timeout by dropping the future and by `cancel`; an executor must hold nothing that
/// outlives either. Panics are caught by the caller and fail the attempt.
pub trait NodeExecutor: Send + Sync + 'static {
    /// Carries out one attempt. `cancel` fires when the attempt is aborted; its report is stale from then on.
    fn execute(&self, task: Task, cancel: CancellationToken) -> BoxFuture<'static, Executed>;

    /// What a node calls with this data (none: the plan's), where that may be unwell on its own: `http:<host>[:<port>]`,
    /// `handler:<name>`. Attempts on one target share a circuit breaker.
    fn target(&self, _node: &PlanNode, _data: Option<&Value>) -> Option<String> {
        None
    }

    /// Names of the handlers that `handlerId` may use, where this executor has such.
    fn handlers(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An expression that needs the whole language, or a Jinja template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxJob {
    /// Contexts are never shared between workflow versions.
    pub workflow: troupe_core::WorkflowId,
    /// Version of the workflow.
    pub version: u32,
    /// A JavaScript expression, or a Jinja template.
    pub source: Arc<str>,
    /// A JSON object; its members are bound as globals.
    pub scope: Json,
}

/// What a rendered template is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendered {
    /// A text.
    Text,
    /// A JSON document.
    Json,
}

/// Evaluates expressions and renders templates outside the engine's process.
pub trait Sandbox: Send + Sync + 'static {
    /// Evaluates one expression; `undefined` becomes null.
    ///
    /// Errors of the expression are `EXPRESSION_ERROR`, with `details.limit` where it hit one. `SANDBOX_CRASHED` and
    /// `SANDBOX_UNAVAILABLE` say nothing about the expression: asking again is right.
    fn evaluate(&self, job: SandboxJob) -> BoxFuture<'static, Result<Json, ErrorInfo>>;

    /// Renders a Jinja template.
    ///
    /// Errors of the template are `TEMPLATE_ERROR`, with `details.limit` where it hit one; others as for
    /// [`Sandbox::evaluate`].
    fn render(&self, job: SandboxJob, rendered: Rendered) -> BoxFuture<'static, Result<Json, ErrorInfo>>;
}

/// Secrets that definitions name as `{{ secrets.NAME }}`. Looked up when an attempt is dispatched, never stored.
pub trait Secrets: Send + Sync + 'static {
    /// The secret of that name, if there is one.
    fn get(&self, name: &str) -> Option<String>;
}

//! The `http` node type.
//!
//! Data: `url`, `method`, `headers`, `query`, `body`, `authentication {type, config}`, `followRedirects`, `maxRedirects`,
//! `idempotencyKey: false`. Output: `{status, headers, body}`, header names in lower case, the body as JSON, text, or
//! `{base64, contentType}`.

mod auth;
mod egress;
mod failure;
mod request;
mod response;
mod send;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::Url;
use tokio_util::sync::CancellationToken;
use troupe_core::ErrorInfo;
use troupe_core::execution::{AttemptFailure, AttemptOutcome};
use troupe_core::plan::PlanNode;
use troupe_core::{Json, Timestamp, Value};
use troupe_ports::{Clock, Executed, NodeExecutor, Secrets, SystemClock, Task};

pub use egress::{EgressEntryError, EgressPolicy, is_public};

use crate::codes;
use crate::payload;
use crate::secrets::{self, Redactor};
use auth::{Authentication, Tokens};
use failure::failure;
use request::Request;
use send::{Answer, Connector};

/// Settings of the `http` node type.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Which targets may be reached.
    pub egress: EgressPolicy,
    /// Certificates to trust besides the system's, in PEM.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// Largest response body, in bytes.
    pub response_bytes_max: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            egress: EgressPolicy::default(),
            extra_roots_pem: Vec::new(),
            response_bytes_max: 4 * 1024 * 1024,
        }
    }
}

/// The HTTP client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be set up: {0}")]
pub struct HttpSetupError(#[from] reqwest::Error);

/// Runs `http` nodes.
#[derive(Clone)]
pub struct HttpExecutor {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Connector,
    tokens: Tokens,
    secrets: Arc<dyn Secrets>,
    response_bytes_max: usize,
}

impl fmt::Debug for HttpExecutor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("HttpExecutor").finish_non_exhaustive()
    }
}

impl HttpExecutor {
    /// Sets the client up.
    ///
    /// # Errors
    /// When TLS cannot be set up or an extra certificate cannot be read.
    pub fn new(options: &HttpOptions, secrets: Arc<dyn Secrets>) -> Result<Self, HttpSetupError> {
        let connector = Connector::new(options, egress::system_lookup())?;
        let response_bytes_max = options.response_bytes_max;
        Ok(Self {
            inner: Arc::new(Inner {
                connector,
                tokens: Tokens::default(),
                secrets,
                response_bytes_max,
            }),
        })
    }
}

impl NodeExecutor for HttpExecutor {
    fn execute(&self, task: Task, cancel: CancellationToken) -> BoxFuture<'static, Executed> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let now = SystemClock.now();
            let prepared = secrets::resolve(&task, &*inner.secrets).map(|resolved| {
                (
                    resolved.redactor.clone(),
                    Request::read(resolved, &task.idempotency_key(), task.trace_parent.as_deref()),
                )
            });
            let (mut redactor, request) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => return Executed::failed(error, false),
            };
            let request = match request {
                Ok(request) => request,
                Err(error) => return Executed::failed(redactor.error(error), false),
            };
            redactor = request.redactor.clone();
            let left = Duration::from_millis(task.deadline.since_ms(now));
            let exchange = tokio::select! {
                exchange = tokio::time::timeout(left, inner.exchange(&request, &mut redactor, now)) => exchange,
                () = cancel.cancelled() => Ok(Err(failure(ErrorInfo::new("CANCELED", "the attempt was canceled"), true))),
            };
            let outcome = match exchange {
                Ok(Ok(output)) => AttemptOutcome::Completed(output.into()),
                Ok(Err(failure)) => AttemptOutcome::Failed(Box::new(failure)),
                Err(_) => {
                    let message = format!("{} did not answer in time", failure::shown(&request.url));
                    AttemptOutcome::Failed(Box::new(failure(ErrorInfo::new(codes::TIMEOUT, message), true)))
                }
            };
            redactor.executed(Executed {
                outcome,
                logs: Vec::new(),
            })
        })
    }

    /// A host that a secret names is not known before the call.
    fn target(&self, node: &PlanNode, data: Option<&Value>) -> Option<String> {
        let data = payload::data_of(node, data).ok()?;
        let url = Url::parse(data.get("url")?.as_str()?.trim()).ok()?;
        let host = url.host_str()?;
        Some(match url.port() {
            Some(port) => format!("http:{host}:{port}"),
            None => format!("http:{host}"),
        })
    }
}

impl Inner {
    async fn exchange(
        &self,
        request: &Request,
        redactor: &mut Redactor,
        now: Timestamp,
    ) -> Result<Json, AttemptFailure> {
        let mut answer = self.attempt(request, redactor).await?;
        if let Authentication::OAuth2(grant) = &request.authentication
            && answer.status.as_u16() == 401
        {
            // The token may have been revoked before its time: one fresh one is worth a try.
            self.tokens.forget(grant);
            answer = self.attempt(request, redactor).await?;
        }
        response::output(&answer, request.method.as_str(), now)
    }

    async fn attempt(&self, request: &Request, redactor: &mut Redactor) -> Result<Answer, AttemptFailure> {
        let token = match &request.authentication {
            Authentication::OAuth2(grant) => {
                let token = self.tokens.get(&self.connector, grant).await?;
                redactor.add(&token);
                Some(token)
            }
            Authentication::None | Authentication::Header(..) | Authentication::Query(..) => None,
        };
        self.connector
            .send(request, token.as_deref(), self.response_bytes_max)
            .await
    }
}

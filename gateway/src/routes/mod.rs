//! The REST API. A module a resource; each route reads, asks, and writes, nothing else.

mod audit;
mod breakers;
mod controls;
pub(crate) mod executions;
mod health;
mod hooks;
mod interventions;
mod keys;
mod params;
mod reopen;
mod start;
mod workflows;

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use crate::auth::{Access, guard};
use crate::error::ApiError;
use crate::members::{self, forwarded};
use crate::stream;

pub(crate) use executions::execution_id;
pub(crate) use keys::{key_hash, made as made_key};

/// What a request leaves behind, beside what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// It changes nothing, or proves and names by itself who asks.
    Reads,
    /// No row: the log of an execution names who caused each entry, and these come too often for a row each.
    InLog,
    /// A row of this action, which is durable before the answer.
    Kept(&'static str),
    /// A row of this action, soon.
    Queued(&'static str),
}

/// A line of the table of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method; `GET` answers `HEAD` too.
    pub method: &'static str,
    /// The path, with names in braces.
    pub path: &'static str,
    /// Whom it answers.
    pub access: Access,
    /// What it leaves behind.
    pub audit: Audit,
}

macro_rules! routes {
    ($($method:ident $path:literal $access:ident $audit:expr => $handler:path;)+) => {
        /// Every route, with the role that it wants and the row that it leaves.
        pub const ROUTES: &[Route] = &[
            $(Route { method: stringify!($method), path: $path, access: Access::$access, audit: $audit },)+
        ];

        fn routed() -> Router<App> {
            Router::new()$(.route($path, on(MethodFilter::$method, $handler)))+
        }
    };
}

use Audit::{InLog, Kept, Queued, Reads};

routes! {
    GET    "/api/v1/workflows" Viewer Reads => workflows::list;
    POST   "/api/v1/workflows" Editor Kept("workflow.create") => workflows::create;
    POST   "/api/v1/workflows/validate" Viewer Reads => workflows::validate;
    GET    "/api/v1/workflows/{id}" Viewer Reads => workflows::get;
    PUT    "/api/v1/workflows/{id}" Editor Kept("workflow.put") => workflows::put;
    DELETE "/api/v1/workflows/{id}" Editor Kept("workflow.archive") => workflows::archive;
    GET    "/api/v1/workflows/{id}/versions" Viewer Reads => workflows::versions;
    GET    "/api/v1/workflows/{id}/analysis" Viewer Reads => workflows::analysis;
    GET    "/api/v1/workflows/{id}/executions" Viewer Reads => executions::list_of_workflow;
    POST   "/api/v1/workflows/{id}/executions" Operator InLog => start::start;
    POST   "/api/v1/workflows/{id}/pause" Operator Queued("workflow.pause") => controls::pause_workflow;
    POST   "/api/v1/workflows/{id}/resume" Operator Queued("workflow.resume") => controls::resume_workflow;
    POST   "/api/v1/workflows/{id}/stop" Operator Queued("workflow.stop") => controls::stop_workflow;
    POST   "/api/v1/workflows/{id}/release" Operator Queued("workflow.release") => controls::release_workflow;

    GET    "/api/v1/controls" Viewer Reads => controls::list;
    POST   "/api/v1/controls/pause" Operator Queued("control.pause") => controls::pause;
    POST   "/api/v1/controls/resume" Operator Queued("control.resume") => controls::resume;
    // Of a workflow; of everything they take an administrator.
    POST   "/api/v1/controls/stop" Operator Queued("control.stop") => controls::stop;
    POST   "/api/v1/controls/release" Operator Queued("control.release") => controls::release;

    GET    "/api/v1/executions" Viewer Reads => executions::list;
    GET    "/api/v1/executions/{id}" Viewer Reads => executions::get;
    GET    "/api/v1/executions/{id}/history" Viewer Reads => executions::history;
    GET    "/api/v1/executions/{id}/values/{hash}" Viewer Reads => executions::value;
    GET    "/api/v1/executions/{id}/nodes/{node}" Viewer Reads => executions::node;
    GET    "/api/v1/executions/{id}/nodes/{node}/attempts" Viewer Reads => executions::attempts;
    POST   "/api/v1/executions/{id}/cancel" Operator Queued("execution.cancel") => executions::cancel;
    POST   "/api/v1/executions/{id}/pause" Operator Queued("execution.pause") => executions::pause;
    POST   "/api/v1/executions/{id}/resume" Operator Queued("execution.resume") => executions::resume;
    POST   "/api/v1/executions/{id}/rerun" Operator Queued("execution.rerun") => reopen::rerun;
    POST   "/api/v1/executions/{id}/retry" Operator Queued("execution.retry") => interventions::retry;
    POST   "/api/v1/executions/{id}/variables" Operator Queued("execution.variables") => interventions::variables;
    POST   "/api/v1/executions/{id}/nodes/{node}/complete" Worker Queued("node.complete") => interventions::complete;
    POST   "/api/v1/executions/{id}/nodes/{node}/fail" Worker Queued("node.fail") => interventions::fail;
    POST   "/api/v1/executions/{id}/nodes/{node}/skip" Operator Queued("node.skip") => interventions::skip;
    POST   "/api/v1/executions/{id}/nodes/{node}/heartbeat" Worker InLog => interventions::heartbeat;

    GET    "/api/v1/hooks/{id}" Open InLog => hooks::call;
    POST   "/api/v1/hooks/{id}" Open InLog => hooks::call;
    PUT    "/api/v1/hooks/{id}" Open InLog => hooks::call;
    POST   "/api/v1/hooks/resume/{token}" Open InLog => hooks::resume;
    PUT    "/api/v1/hooks/resume/{token}" Open InLog => hooks::resume;

    GET    "/api/v1/breakers" Viewer Reads => breakers::list;
    POST   "/api/v1/breakers/{target}/open" Operator Queued("breaker.open") => breakers::open;
    POST   "/api/v1/breakers/{target}/close" Operator Queued("breaker.close") => breakers::close;
    POST   "/api/v1/breakers/{target}/reset" Operator Queued("breaker.reset") => breakers::reset;

    GET    "/api/v1/members" Viewer Reads => members::list::list;
    GET    "/api/v1/members/controls" Member Reads => members::controls::tell;
    POST   "/api/v1/members/controls" Member Reads => members::controls::learn;

    GET    "/api/v1/stream" Viewer Reads => stream::stream;

    GET    "/api/v1/keys" Admin Reads => keys::list;
    POST   "/api/v1/keys" Admin Kept("key.create") => keys::create;
    DELETE "/api/v1/keys/{id}" Admin Kept("key.revoke") => keys::revoke;
    GET    "/api/v1/audit" Admin Reads => audit::list;

    GET    "/livez" Open Reads => health::live;
    GET    "/readyz" Open Reads => health::ready;
    GET    "/metrics" Metrics Reads => health::metrics;
    GET    "/docs/errors/{code}" Open Reads => health::error_page;
}

/// The line that a request falls under.
pub(crate) fn route(method: &Method, path: &str) -> Option<&'static Route> {
    static BY_PATH: LazyLock<HashMap<&str, Vec<&Route>>> = LazyLock::new(|| {
        let mut by_path: HashMap<&str, Vec<&Route>> = HashMap::new();
        for route in ROUTES {
            by_path.entry(route.path).or_default().push(route);
        }
        by_path
    });
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let routes = BY_PATH.get(path)?;
    routes.iter().copied().find(|route| route.method == method.as_str())
}

/// Every route over one product.
pub fn router(app: App) -> Router {
    routed()
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), forwarded))
        .layer(from_fn_with_state(app.clone(), guard))
        .layer(from_fn(measured))
        .with_state(app)
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::new("ROUTE_NOT_FOUND", format!("there is nothing at {}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new("METHOD_NOT_ALLOWED", format!("{} does not know {method}", uri.path()))
}

fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    let text = text
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = %text, "a request handler panicked");
    ApiError::new(
        "INTERNAL",
        "the request could not be handled; the log of the server tells more",
    )
    .into_response()
}

/// Counts and times requests by route.
async fn measured(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "OTHER",
    };
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str);
    let route: Arc<str> = route.into();
    let response = next.run(request).await;
    troupe_telemetry::http_answered(method, route, response.status().as_u16(), begun.elapsed());
    response
}

/// A header's text.
fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let wrong = || ApiError::new("INVALID_PARAMETER", format!("the header {name} is not plain text"));
    value.to_str().map(Some).map_err(|_| wrong())
}

/// Longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 256;

/// The `Idempotency-Key`, if one is given.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(key) = header_text(headers, "idempotency-key")? else {
        return Ok(None);
    };
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let detail = format!("an Idempotency-Key has 1 to {KEY_BYTES_MAX} bytes");
        return Err(ApiError::new("INVALID_PARAMETER", detail));
    }
    Ok(Some(key.to_owned()))
}

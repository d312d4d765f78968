//! The REST API. A module a resource; each route reads, asks, and writes, nothing else.

mod breakers;
mod controls;
pub(crate) mod executions;
mod health;
mod hooks;
mod interventions;
mod params;
mod reopen;
mod start;
mod workflows;

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use troupe_config::PublicUrl;

use crate::app::App;
use crate::error::ApiError;
use crate::members::{self, forwarded};
use crate::stream;

pub(crate) use executions::execution_id;

/// Every route over one product.
pub fn router(app: App) -> Router {
    let api = Router::new()
        .route("/workflows", get(workflows::list).post(workflows::create))
        .route("/workflows/validate", post(workflows::validate))
        .route(
            "/workflows/{id}",
            get(workflows::get).put(workflows::put).delete(workflows::archive),
        )
        .route("/workflows/{id}/versions", get(workflows::versions))
        .route("/workflows/{id}/analysis", get(workflows::analysis))
        .route(
            "/workflows/{id}/executions",
            get(executions::list_of_workflow).post(start::start),
        )
        .route("/workflows/{id}/pause", post(controls::pause_workflow))
        .route("/workflows/{id}/resume", post(controls::resume_workflow))
        .route("/workflows/{id}/stop", post(controls::stop_workflow))
        .route("/workflows/{id}/release", post(controls::release_workflow))
        .route("/controls", get(controls::list))
        .route("/controls/pause", post(controls::pause))
        .route("/controls/resume", post(controls::resume))
        .route("/controls/stop", post(controls::stop))
        .route("/controls/release", post(controls::release))
        .route("/executions", get(executions::list))
        .route("/executions/{id}", get(executions::get))
        .route("/executions/{id}/history", get(executions::history))
        .route("/executions/{id}/values/{hash}", get(executions::value))
        .route("/executions/{id}/nodes/{node}", get(executions::node))
        .route("/executions/{id}/nodes/{node}/attempts", get(executions::attempts))
        .route("/executions/{id}/cancel", post(executions::cancel))
        .route("/executions/{id}/pause", post(executions::pause))
        .route("/executions/{id}/resume", post(executions::resume))
        .route("/executions/{id}/rerun", post(reopen::rerun))
        .route("/executions/{id}/retry", post(interventions::retry))
        .route("/executions/{id}/variables", post(interventions::variables))
        .route("/executions/{id}/nodes/{node}/complete", post(interventions::complete))
        .route("/executions/{id}/nodes/{node}/fail", post(interventions::fail))
        .route("/executions/{id}/nodes/{node}/skip", post(interventions::skip))
        .route(
            "/executions/{id}/nodes/{node}/heartbeat",
            post(interventions::heartbeat),
        )
        .route("/hooks/{id}", get(hooks::call).post(hooks::call).put(hooks::call))
        .route("/hooks/resume/{token}", post(hooks::resume).put(hooks::resume))
        .route("/breakers", get(breakers::list))
        .route("/breakers/{target}/open", post(breakers::open))
        .route("/breakers/{target}/close", post(breakers::close))
        .route("/breakers/{target}/reset", post(breakers::reset))
        .route("/members", get(members::list::list))
        .route(
            "/members/controls",
            get(members::controls::tell).post(members::controls::learn),
        )
        .route("/stream", get(stream::stream));
    Router::new()
        .nest("/api/v1", api)
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/docs/errors/{code}", get(health::error_page))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), forwarded))
        .layer(from_fn_with_state(app.clone(), only_local))
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

/// Under its public name only hooks are answered: they have signatures and addresses of their own.
const PUBLIC: &str = "/api/v1/hooks/";

/// A server without a login must not be reachable through a browser on foreign pages: a rebound name shows in `Host`,
/// a foreign page in `Origin`.
async fn only_local(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if let Some(members) = &app.members {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let verified = members
            .key()
            .verify(request.method(), target, request.headers(), app.now());
        match verified {
            Ok(Some(signed)) => {
                request.extensions_mut().insert(signed);
                return next.run(request).await;
            }
            Ok(None) => {}
            Err(error) => return error.into_response(),
        }
    }
    let headers = request.headers();
    let authority = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = authority.or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
    let public = app.settings.public_url.as_ref().map(PublicUrl::authority);
    let is_called_so = authority
        .zip(public)
        .is_some_and(|(called, public)| called.eq_ignore_ascii_case(public));
    if is_called_so && request.uri().path().starts_with(PUBLIC) {
        return next.run(request).await;
    }
    // An image on a foreign page is fetched without an `Origin`, and a hook may be called so.
    let is_foreign_fetch = request.uri().path().starts_with(PUBLIC) && is_fetched_by_another_site(headers);
    if !authority.is_none_or(is_local) || !origin_is_local(headers) || is_foreign_fetch {
        return ApiError::new("HOST_NOT_ALLOWED", "only loopback names are answered").into_response();
    }
    next.run(request).await
}

fn origin_is_local(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let Ok(origin) = origin.to_str() else { return false };
    origin
        .split_once("://")
        .is_some_and(|(_, authority)| is_local(authority))
}

/// Whether a browser fetches it for a page of another site (`Sec-Fetch-Site`).
fn is_fetched_by_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(header::HeaderValue::as_bytes);
    site.is_some_and(|site| site != b"same-origin" && site != b"none")
}

fn is_local(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

/// Who asks: the embedded server knows only people of this machine.
pub(crate) const LOCAL: &str = "local";

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

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_loopback_names_are_local() {
        for local in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:7654",
            "127.9.9.9",
            "[::1]:7654",
            "[::1]",
        ] {
            assert!(is_local(local), "{local}");
        }
        for foreign in [
            "evil.example",
            "127.0.0.1.evil.example:80",
            "localhost.evil.example",
            "10.0.0.1:80",
            "",
            "null",
        ] {
            assert!(!is_local(foreign), "{foreign}");
        }
    }
}

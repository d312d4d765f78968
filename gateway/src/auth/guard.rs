//! The middleware in front of every route: lets in whom the table of routes admits, and leaves an audit row.

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use troupe_ports::AuditTarget;

use super::token::random;
use super::{Access, Caller, Gate, KeyRing, local, unauthenticated};
use crate::app::App;
use crate::audit::{AuditNote, Draft};
use crate::error::ApiError;
use crate::members::Signed;
use crate::routes::{Audit, route};

/// Names a request, in both directions.
const REQUEST_ID: &str = "x-request-id";
/// Longest name of a request that is taken over.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Lets a request through to its route, or answers it.
pub(crate) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    // Where the table has nothing the router has nothing either: both are made of the same lines.
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => route(request.method(), path.as_str()),
        None => None,
    };
    let access = route.map_or(Access::Open, |route| route.access);
    match of_member(&app, &request) {
        // The member that was asked first has let the caller in, and leaves the audit row.
        Ok(Some((signed, caller))) => {
            if access != Access::Member
                && let Err(error) = caller.must_be(access)
            {
                return error.into_response();
            }
            request.extensions_mut().insert(signed);
            request.extensions_mut().insert(caller);
            // Handlers note what they find there.
            request.extensions_mut().insert(AuditNote::default());
            return next.run(request).await;
        }
        Ok(None) => {}
        Err(error) => return error.into_response(),
    }
    let caller = match &app.gate {
        Gate::Local => local::admit(&request, app.settings.public_url.as_ref()).map(|()| Some(Caller::local())),
        Gate::Keys(_) if is_open(&app, access) => Ok(None),
        Gate::Keys(ring) => known(ring, request.headers()).await.map(Some),
    };
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let Some(caller) = caller else {
        return next.run(request).await;
    };
    let forbidden = caller.must_be(access).err();
    let action = match route.map(|route| route.audit) {
        Some(Audit::Kept(action) | Audit::Queued(action)) => action,
        Some(Audit::Reads | Audit::InLog) | None => {
            return match forbidden {
                Some(error) => error.into_response(),
                None => {
                    request.extensions_mut().insert(caller);
                    next.run(request).await
                }
            };
        }
    };
    let ids = random().and_then(|row| Ok((row, request_id(request.headers())?)));
    let (row, id) = match ids {
        Ok(ids) => ids,
        Err(error) => return error.into_response(),
    };
    let (target, request) = target(request).await;
    let draft = Draft::new(row, caller.name(), action, target, id.clone());
    let mut response = match forbidden {
        Some(error) => {
            let response = error.into_response();
            app.audit.queue(draft.row(&AuditNote::default(), &response, app.now()));
            response
        }
        None => {
            let is_kept = route.is_some_and(|route| matches!(route.audit, Audit::Kept(_)));
            // A client that goes away ends neither the change nor its row.
            let audited = tokio::spawn(audited(app, request, next, (draft, caller), is_kept));
            match audited.await {
                Ok(response) => response,
                Err(error) => ApiError::new("INTERNAL", error.to_string()).into_response(),
            }
        }
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Whom a request of another member asks for, if one has sent it.
fn of_member(app: &App, request: &Request) -> Result<Option<(Signed, Caller)>, ApiError> {
    let Some(members) = &app.members else { return Ok(None) };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let key = members.key();
    let Some(signed) = key.verify(request.method(), target, request.headers(), app.now())? else {
        return Ok(None);
    };
    let caller = Caller::of(&signed).ok_or_else(|| {
        let detail = format!("the role `{}` is not known here", signed.role);
        ApiError::new("MEMBER_SIGNATURE_INVALID", detail)
    })?;
    Ok(Some((signed, caller)))
}

/// Runs a route that changes something. `is_kept`: its row is durable before it is answered.
async fn audited(app: App, mut request: Request, next: Next, who: (Draft, Caller), is_kept: bool) -> Response {
    let (draft, caller) = who;
    let note = AuditNote::default();
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(note.clone());
    let response = next.run(request).await;
    let row = draft.row(&note, &response, app.now());
    // What failed has said so already, perhaps because the store is away.
    if !is_kept || !response.status().is_success() {
        app.audit.queue(row);
        return response;
    }
    match app.audit.keep(row).await {
        Ok(()) => response,
        Err(error) => error.into_response(),
    }
}

/// Whether nobody has to say who they are.
fn is_open(app: &App, access: Access) -> bool {
    access == Access::Open || (access == Access::Metrics && app.settings.metrics_open)
}

async fn known(ring: &KeyRing, headers: &HeaderMap) -> Result<Caller, ApiError> {
    ring.admit(bearer(headers)?).await
}

/// The key in `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthenticated("the request shows no key"));
    };
    let shown = value.to_str().ok().and_then(|text| text.split_once(' '));
    match shown {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(unauthenticated("`Authorization` holds no bearer key")),
    }
}

/// The name that the client or a proxy gave the request, or a new one.
fn request_id(headers: &HeaderMap) -> Result<String, ApiError> {
    let given = headers.get(REQUEST_ID).and_then(|given| given.to_str().ok());
    if let Some(given) = given.filter(|given| (1..=REQUEST_ID_BYTES_MAX).contains(&given.len())) {
        return Ok(given.to_owned());
    }
    let random: [u8; 16] = random()?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the address names: `/api/v1/workflows/{id}/…` is the workflow of that id. Handlers name what stands in bodies.
async fn target(request: Request) -> (AuditTarget, Request) {
    let (mut parts, body) = request.into_parts();
    let path = parts.extensions.get::<MatchedPath>().cloned();
    let resource = path.as_ref().map_or("", |path| path.as_str());
    let resource = resource.split('/').nth(3).unwrap_or_default();
    let kind = resource.strip_suffix('s').unwrap_or(resource).to_owned();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    let first = params.ok().and_then(|params| {
        let mut named = params.iter();
        named.next().map(|(_, value)| value.to_owned())
    });
    let target = AuditTarget {
        kind,
        id: first.unwrap_or_default(),
    };
    (target, Request::from_parts(parts, body))
}

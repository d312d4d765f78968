//! What makes a row: what the door knows of a request, and what its handler tells.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use parking_lot::Mutex;
use serde::Serialize;
use troupe_core::Timestamp;
use troupe_ports::{AuditId, AuditRow, AuditTarget};

use crate::auth::sha256;
use crate::error::ProblemCode;
use crate::members::inbox::Queued;

/// The outcome of what went well.
const OK: &str = "ok";
/// The outcome of a command that is kept, and that nobody has judged.
const QUEUED: &str = "queued";

/// What a handler tells of a change. Clones share it; on a route that leaves no row nobody reads it.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditNote(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    target: Option<AuditTarget>,
    before: Option<[u8; 32]>,
    after: Option<[u8; 32]>,
}

impl AuditNote {
    /// What is changed, where the address does not say it.
    pub(crate) fn target(&self, kind: &str, id: impl Into<String>) {
        self.0.lock().target = Some(AuditTarget {
            kind: kind.to_owned(),
            id: id.into(),
        });
    }

    /// Hashes of what was there before and of what is there now.
    pub(crate) fn change(&self, before: Option<[u8; 32]>, after: Option<[u8; 32]>) {
        let mut noted = self.0.lock();
        (noted.before, noted.after) = (before, after);
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AuditNote {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// SHA-256 of a value as JSON; none for what is no JSON.
pub(crate) fn hash_of(value: &impl Serialize) -> Option<[u8; 32]> {
    let text = serde_json::to_vec(value);
    text.ok().map(|text| sha256(&text))
}

/// A row before it is known what comes of the request.
#[derive(Debug)]
pub(crate) struct Draft {
    id: AuditId,
    principal: String,
    action: &'static str,
    target: AuditTarget,
    request: String,
}

impl Draft {
    /// `request` names the request.
    pub(crate) fn new(
        id: [u8; 16],
        principal: &str,
        action: &'static str,
        target: AuditTarget,
        request: String,
    ) -> Self {
        Self {
            id: AuditId(id),
            principal: principal.to_owned(),
            action,
            target,
            request,
        }
    }

    /// The row of a request that was answered so.
    pub(crate) fn row(self, note: &AuditNote, response: &Response, at: Timestamp) -> AuditRow {
        let mut noted = note.0.lock();
        let code = response.extensions().get::<ProblemCode>();
        let outcome = match code {
            Some(code) => code.0.to_string(),
            None if response.extensions().get::<Queued>().is_some() => QUEUED.to_owned(),
            None if response.status().is_success() => OK.to_owned(),
            None => response.status().as_u16().to_string(),
        };
        AuditRow {
            id: self.id,
            at,
            principal: Some(self.principal),
            action: self.action.to_owned(),
            target: noted.target.take().unwrap_or(self.target),
            before: noted.before,
            after: noted.after,
            request: Some(self.request),
            outcome: Some(outcome),
        }
    }
}

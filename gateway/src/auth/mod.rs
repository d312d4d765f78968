//! Who asks, and whether they may: keys of the API where the server has a login, this machine where it has none.

mod access;
mod guard;
mod local;
mod ring;
mod token;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use troupe_core::Timestamp;
use troupe_ports::{KeyId, Role};

use crate::error::ApiError;
use crate::members::Signed;

pub use access::Access;
pub(crate) use guard::guard;
pub use ring::{KeyRing, TTL as KEYS_SEEN_WITHIN};
pub use token::Token;
pub(crate) use token::{random, sha256};

/// The door of a server.
#[derive(Clone, Debug)]
pub enum Gate {
    /// No login: whoever is on this machine.
    Local,
    /// Whoever shows a key.
    Keys(Arc<KeyRing>),
}

impl Gate {
    /// Has a change of keys seen at once by this server; others see it within [`KEYS_SEEN_WITHIN`].
    pub(crate) async fn keys_changed(&self) {
        match self {
            Self::Local => {}
            Self::Keys(ring) => ring.changed().await,
        }
    }

    /// Resolves when a caller who was let in would be refused now.
    pub(crate) async fn until_refused(self, caller: Caller) {
        match self {
            Self::Local => std::future::pending().await,
            Self::Keys(ring) => ring.until_refused(&caller).await,
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// As histories and audit rows name it.
    name: Arc<str>,
    /// What they may do.
    role: Role,
    /// The key that they showed, if it is kept.
    key: Option<KeyId>,
}

/// Whoever is on the machine of a server without a login.
const LOCAL: &str = "local";
/// Whoever has the key that the settings name.
const BOOTSTRAP: &str = "bootstrap";
/// Names that no key may have: they would pass for somebody else in histories.
pub(crate) const RESERVED_NAMES: [&str; 2] = [LOCAL, BOOTSTRAP];

impl Caller {
    fn local() -> Self {
        Self {
            name: LOCAL.into(),
            role: Role::Admin,
            key: None,
        }
    }

    fn bootstrap() -> Self {
        Self {
            name: BOOTSTRAP.into(),
            role: Role::Admin,
            key: None,
        }
    }

    /// A member of the deployment, in its own name.
    pub(crate) fn member() -> Self {
        Self::local()
    }

    /// A trigger, which may start what its workflow says.
    pub(crate) fn trigger(name: &str) -> Self {
        Self {
            name: name.into(),
            role: Role::Operator,
            key: None,
        }
    }

    /// Whoever asked another member, as that one says. None: it speaks of a role that is not known here.
    pub(crate) fn of(signed: &Signed) -> Option<Self> {
        let role = Role::ALL.into_iter().find(|role| role.name() == signed.role)?;
        Some(Self {
            name: signed.caller.as_str().into(),
            role,
            key: None,
        })
    }

    /// What they may do.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// As histories and audit rows name it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Refuses those whose role is not enough.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub(crate) fn must_be(&self, access: Access) -> Result<(), ApiError> {
        if access.admits(self.role) {
            return Ok(());
        }
        let (name, role, wanted) = (self.name(), self.role.name(), access.wanted());
        let error = ApiError::new("FORBIDDEN", format!("{name} has the role {role}; this takes {wanted}"));
        Err(error.with_hint("use another key, or ask an administrator for one"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let known = parts.extensions.get::<Self>().cloned();
        known.ok_or_else(|| unauthenticated("nobody was asked who they are"))
    }
}

/// A refusal of somebody who is not known.
fn unauthenticated(detail: impl Into<String>) -> ApiError {
    ApiError::new("UNAUTHENTICATED", detail).with_hint(
        "send a key as `Authorization: Bearer KEY`; the command line takes it from TROUPE_API_KEY or --api-key-file",
    )
}

/// What happened, and when, for people.
fn over(what: &str, at: Timestamp) -> String {
    format!("{what} {}", crate::dto::date(at))
}

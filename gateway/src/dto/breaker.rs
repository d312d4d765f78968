//! Breakers of targets.

use serde::{Deserialize, Serialize};
use troupe_actors::{BreakerHold, BreakerView};

use super::time::date;
use crate::error::ApiError;

/// The breaker of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerDto {
    /// `http:<host>[:<port>]`, `handler:<name>`.
    pub target: String,
    /// `closed`, `open` or `half-open`.
    pub state: String,
    /// `open` or `closed`, where an operator holds it so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held: Option<String>,
    /// Since when it stands so.
    pub since: String,
    /// When it lets the next canary go.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
    /// Attempts that wait for it.
    pub parked: usize,
    /// Calls that ended in its window.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
}

/// The target that a path names.
///
/// # Errors
/// `INVALID_PARAMETER` where no breaker could have that name.
pub fn breaker_target(named: &str) -> Result<String, ApiError> {
    match named.split_once(':') {
        // Hosts are written small, as URLs give them.
        Some(("http", authority)) if !authority.is_empty() => Ok(format!("http:{}", authority.to_ascii_lowercase())),
        Some(("handler", name)) if !name.is_empty() => Ok(named.to_owned()),
        Some(_) | None => {
            let detail = format!("`{named}` is no target: write http:HOST, http:HOST:PORT or handler:NAME");
            Err(ApiError::new("INVALID_PARAMETER", detail))
        }
    }
}

impl BreakerDto {
    /// What the API shows of a breaker.
    #[must_use]
    pub fn of(view: &BreakerView) -> Self {
        let held = view.held.map(|held| match held {
            BreakerHold::Open => "open".to_owned(),
            BreakerHold::Closed => "closed".to_owned(),
        });
        Self {
            target: view.target.clone(),
            state: view.state.name().to_owned(),
            held,
            since: date(view.since),
            until: view.until.map(date),
            parked: view.parked,
            calls: view.calls,
            failed: view.failed,
        }
    }
}

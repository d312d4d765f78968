//! Faults that the chaos harness has planted in a build for tests, to show that it would see them.

use crate::error::ApiError;

/// Names the fault to plant.
const VARIABLE: &str = "TROUPE_INTERNAL_PLANTED";

/// A fault of the gateway that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A message is accepted while the start that it asks for is under way.
    AcceptBeforeStart,
    /// A message that comes again starts under another key.
    StartUnderFreshKey,
    /// A request that another member is asked has another key each time.
    ForwardUnderFreshKey,
}

/// The fault that this process is to have.
///
/// # Errors
/// `INVALID_PARAMETER` when there is no such fault, or a release is asked for one.
pub(super) fn planted() -> Result<Option<Planted>, ApiError> {
    let Some(name) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let refused = |why: &str| {
        let why = format!("{VARIABLE} is set, and {why}");
        Err(ApiError::new("INVALID_PARAMETER", why).with_hint(format!("unset {VARIABLE}")))
    };
    if !cfg!(debug_assertions) {
        return refused("this is no build for tests");
    }
    let planted = match name.to_str() {
        Some("accept-before-start") => Planted::AcceptBeforeStart,
        Some("start-under-fresh-key") => Planted::StartUnderFreshKey,
        Some("forward-under-fresh-key") => Planted::ForwardUnderFreshKey,
        _ => return refused("there is no such fault"),
    };
    tracing::warn!(?planted, "a fault of tests is planted: this process breaks promises");
    Ok(Some(planted))
}

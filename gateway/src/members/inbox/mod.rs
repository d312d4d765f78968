//! The inbox of a shard: where a command is left for an owner that cannot be asked.
//!
//! It stands beside the direct way, not in its place: whoever leaves a command there goes on looking for the owner, and the owner runs it
//! as if it had been forwarded. Both are the same command under the same key, so it is applied once, whoever comes first.

mod drain;
mod leave;
mod letter;

use axum::http::StatusCode;
use axum::response::Response;
use troupe_ports::InboxLimits;

pub(crate) use drain::serve;
pub(super) use leave::Outgoing;

use super::forward::NOT_HERE;

/// How much the inbox of one shard may hold.
const MOST: InboxLimits = InboxLimits {
    items: 1_024,
    bytes: 16 << 20,
};

/// What an answer means for the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is durable.
    Applied,
    /// It will not be, however often it is asked for.
    Refused,
    /// Not now.
    Later,
    /// The member that was asked does not serve the shard; nothing has happened.
    NotHere,
    /// Whoever ran it failed.
    Failed,
}

impl Verdict {
    fn of(response: &Response) -> Self {
        if response.headers().contains_key(NOT_HERE) {
            return Self::NotHere;
        }
        match response.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Self::Later,
            status if status.is_success() => Self::Applied,
            status if status.is_client_error() => Self::Refused,
            _ => Self::Failed,
        }
    }
}

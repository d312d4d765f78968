//! The inbox of a shard: where a command is left for an owner that cannot be asked.
//!
//! Whoever asks looks for the owner first, and leaves the command when the search is over: so it is in one place at a time. The owner runs it as
//! if it had been forwarded. It has a key, so it is applied once, however often it is run.

mod drain;
mod leave;
mod letter;

use axum::http::StatusCode;
use axum::response::Response;
use troupe_ports::InboxLimits;

pub(crate) use drain::serve;
pub(super) use leave::{left, may_wait};

use super::forward::NOT_HERE;
use crate::error::ProblemCode;

/// How much the inbox of one shard may hold.
const MOST: InboxLimits = InboxLimits {
    items: 1_024,
    bytes: 16 << 20,
};

/// How much of that may be there when a start comes: commands for what runs go before new work.
const STARTS_MOST: InboxLimits = InboxLimits {
    items: MOST.items / 2,
    bytes: MOST.bytes / 2,
};

/// On an answer: the command lies in an inbox, and nobody has judged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queued;

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
            // An emergency stop refuses starts: those that wait do not begin hours later, when it is lifted.
            StatusCode::SERVICE_UNAVAILABLE if is_stopped(response) => Self::Refused,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Self::Later,
            // The member that let it in did not refuse its caller: this one knows less of roles, or has another secret.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Later,
            status if status.is_success() => Self::Applied,
            status if status.is_client_error() => Self::Refused,
            _ => Self::Failed,
        }
    }
}

fn is_stopped(response: &Response) -> bool {
    let code = response.extensions().get::<ProblemCode>();
    code.is_some_and(|ProblemCode(code)| code == "STOPPED")
}

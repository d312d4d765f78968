//! What went wrong with a request, in the codes that users see.

use std::error::Error;
use std::io;

use reqwest::Url;
use troupe_core::ErrorInfo;
use troupe_core::execution::AttemptFailure;

use super::egress::EgressDenied;
use crate::codes;

pub(super) fn failure(error: ErrorInfo, retryable: bool) -> AttemptFailure {
    AttemptFailure {
        error,
        retryable,
        retry_after_ms: None,
    }
}

/// A failure that another attempt would only repeat.
pub(super) fn give_up(error: ErrorInfo) -> AttemptFailure {
    failure(error, false)
}

pub(super) fn denied(error: &EgressDenied) -> AttemptFailure {
    give_up(ErrorInfo::new(codes::EGRESS_DENIED, error.to_string()))
}

/// The target without what may be confidential: no user, no query, no fragment.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Neither fails for http and https.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.to_string()
}

/// Reads an error of the client.
pub(super) fn classify(error: &reqwest::Error, url: &Url) -> AttemptFailure {
    let target = shown(url);
    if error.is_timeout() {
        let message = format!("{target} did not answer in time");
        return failure(ErrorInfo::new(codes::TIMEOUT, message), true);
    }
    if let Some(refused) = find::<EgressDenied>(error) {
        return denied(refused);
    }
    if let Some(tls) = find::<rustls::Error>(error) {
        return give_up(ErrorInfo::new(
            codes::HTTP_TLS,
            format!("no TLS connection to {target}: {tls}"),
        ));
    }
    if error.is_builder() {
        return give_up(ErrorInfo::new(codes::HTTP_REQUEST_INVALID, root(error)));
    }
    if error.is_body() || error.is_decode() {
        let message = format!("the response of {target} broke off: {}", root(error));
        return failure(ErrorInfo::new(codes::HTTP_RESPONSE, message), true);
    }
    failure(
        ErrorInfo::new(
            codes::HTTP_CONNECT,
            format!("no connection to {target}: {}", root(error)),
        ),
        true,
    )
}

/// The innermost cause: the outer ones repeat the URL.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Finds an error of a type among the causes, also where an I/O error wraps it.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<E>() {
            return Some(found);
        }
        if let Some(inner) = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = find::<E>(inner)
        {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

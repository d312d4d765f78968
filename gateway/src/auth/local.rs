//! A server without a login answers this machine only. It must not be reachable through a browser on foreign pages: a
//! rebound name shows in `Host`, a foreign page in `Origin`.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use troupe_config::PublicUrl;

use crate::error::ApiError;

/// Under its public name only hooks are answered: they have signatures and addresses of their own.
const PUBLIC: &str = "/api/v1/hooks/";

/// Refuses what was not meant for this machine.
///
/// # Errors
/// `HOST_NOT_ALLOWED`.
pub(super) fn admit(request: &Request, public_url: Option<&PublicUrl>) -> Result<(), ApiError> {
    let headers = request.headers();
    let authority = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = authority.or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
    let is_called_so = authority
        .zip(public_url.map(PublicUrl::authority))
        .is_some_and(|(called, public)| called.eq_ignore_ascii_case(public));
    if is_called_so && request.uri().path().starts_with(PUBLIC) {
        return Ok(());
    }
    // An image on a foreign page is fetched without an `Origin`, and a hook may be called so.
    let is_foreign_fetch = request.uri().path().starts_with(PUBLIC) && is_fetched_by_another_site(headers);
    if !authority.is_none_or(is_local) || !origin_is_local(headers) || is_foreign_fetch {
        return Err(ApiError::new("HOST_NOT_ALLOWED", "only loopback names are answered"));
    }
    Ok(())
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

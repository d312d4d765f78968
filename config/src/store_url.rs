//! The address of a server of a store: what is shown of it, and what is refused.

use std::fmt;

/// How addresses of a server begin.
pub(crate) const STATE_SCHEMES: [&str; 6] = [
    "redis://",
    "rediss://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
];
pub(crate) const DEFINITION_SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
pub(crate) const EVENT_SCHEMES: [&str; 2] = ["amqp://", "amqps://"];

/// The address of a server. It may hold a password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// The address as it was given.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Why it is no address of a server whose addresses begin with one of `schemes`, and a hint.
    pub(crate) fn complaint(&self, schemes: &[&str]) -> Option<(String, String)> {
        let host = schemes.iter().find_map(|scheme| self.0.strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            let hint = format!("give an address that begins with {}", schemes.join(" or "));
            Some((format!("`{self}` is no address of such a server"), hint))
        } else if self.hides_login() {
            let hint = "write / as %2F and ? as %3F in a user and a password, and @ as %40 behind the host".to_owned();
            Some((format!("`{self}` has an @ behind a / or a ?"), hint))
        } else {
            None
        }
    }

    /// The address with its password: for whoever connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The scheme, what ends with the first `/` or `?`, and the rest.
    fn parts(&self) -> (&str, &str, &str) {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        (scheme, authority, rest)
    }

    /// Whether a login seems to end behind a `/` or `?`, where it would be taken for something else. A query may have an `@` of its own
    /// once the login has ended.
    fn hides_login(&self) -> bool {
        let (_, authority, rest) = self.parts();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        path.contains('@') || (query.contains('@') && !authority.contains('@'))
    }
}

/// Whether these are servers, each perhaps with a port, and not the beginning of a login.
fn are_servers(hosts: &str) -> bool {
    hosts.split(',').all(|host| {
        let with_port = host.rsplit_once(':');
        with_port.is_none_or(|(name, port)| {
            let is_port = port.ends_with(']') || port.bytes().all(|byte| byte.is_ascii_digit());
            !name.is_empty() && is_port
        })
    })
}

impl fmt::Display for StoreUrl {
    /// Nothing of a login: where that cannot be told from the rest, the scheme alone.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority, rest) = self.parts();
        let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
        if rest.contains('@') || !are_servers(hosts) {
            return write!(out, "{scheme}://…");
        }
        // What follows a question mark may be a login too.
        let path = rest.split('?').next().unwrap_or_default();
        write!(out, "{scheme}://{hosts}{path}")
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_login_is_shown() {
        for (text, shown) in [
            ("redis://:Left@h:6379/2", "redis://h:6379/2"),
            ("redis://u:Left@Right@h", "redis://h"),
            (
                "redis+sentinel://u:Left@a:1,[::1]:2/master/0?sentinel_password=Right",
                "redis+sentinel://a:1,[::1]:2/master/0",
            ),
            ("postgres://u:Left@/db?host=/run/postgresql", "postgres:///db"),
            ("postgres://%2Frun%2Fpostgresql/db", "postgres://%2Frun%2Fpostgresql/db"),
            ("redis://:Left/Right@h:6379", "redis://…"),
            ("redis://:Left?Right@h:6379", "redis://…"),
            ("redis://u:Left@Right/x@h:6379", "redis://…"),
            ("amqp://u:1/Right@h/%2f", "amqp://…"),
            ("redis://u:1?Right@h", "redis://…"),
            ("redis://:Left", "redis://…"),
            ("redis://u:Left", "redis://…"),
            ("redis:/u:Left/Right@h", "://…"),
        ] {
            let url = StoreUrl(text.to_owned());
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(format!("{url:?}"), format!("\"{shown}\""), "{text}");
        }
    }
}

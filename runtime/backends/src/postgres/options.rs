//! How a store is opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// PostgreSQL cuts longer names off.
const SCHEMA_BYTES_MAX: usize = 63;

/// How a store in PostgreSQL is opened. What is shown of it by `Debug` carries no password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`, parts left out as for other PostgreSQL clients (`PGPASSWORD`, the
    /// password file). `sslmode`: `disable`, `prefer` (the default: encrypted if the server can, the certificate unchecked),
    /// `require` (encrypted, unchecked), `verify-ca`, `verify-full`. A client certificate: `sslcert`, `sslkey`.
    pub url: String,
    /// The schema that holds the tables; made if missing. Lower-case letters, digits and `_`.
    pub schema: String,
    /// A PEM file with the authorities whose certificates are trusted, beside the system's. With it the server's certificate is
    /// checked whatever `sslmode` says, its host name too, except with `verify-ca`.
    pub ca_file: Option<PathBuf>,
    /// Most connections of this process, beside two for people's searches of lists, and one while an index is made.
    pub connections_max: u32,
    /// Connections that are kept open when idle.
    pub connections_min: u32,
    /// How long a call waits for a connection, one that must be made included.
    pub connect_timeout: Duration,
    /// How long a statement may run (one of a search three seconds at most); a whole call may take this (a search twice this) and a
    /// second.
    pub statement_timeout: Duration,
    /// How long opening the store may take, the wait for another replica that brings the tables up to date included.
    pub migrate_timeout: Duration,
}

impl PostgresOptions {
    /// The defaults for a database.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            schema: "troupe".to_owned(),
            ca_file: None,
            connections_max: 10,
            connections_min: 1,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            migrate_timeout: Duration::from_secs(300),
        }
    }

    /// What the driver wants, or why these options do not serve.
    pub(super) fn connect(&self) -> Result<PgConnectOptions, String> {
        self.check()?;
        // The parser's message names no part of the URL but a wrong value of a parameter.
        let options = PgConnectOptions::from_str(&self.url).map_err(|error| {
            format!("the database URL does not serve: {error} (postgres://user@host:5432/database)")
        })?;
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("troupe"),
        };
        let Some(ca_file) = &self.ca_file else {
            return Ok(options);
        };
        std::fs::metadata(ca_file).map_err(|error| format!("the CA file {}: {error}", ca_file.display()))?;
        let mode = match options.get_ssl_mode() {
            PgSslMode::VerifyCa => PgSslMode::VerifyCa,
            PgSslMode::Prefer | PgSslMode::Require | PgSslMode::VerifyFull => PgSslMode::VerifyFull,
            PgSslMode::Disable | PgSslMode::Allow => {
                return Err("a CA file is given, but `sslmode` forbids TLS: leave one of them out".to_owned());
            }
        };
        Ok(options.ssl_mode(mode).ssl_root_cert(ca_file))
    }

    fn check(&self) -> Result<(), String> {
        let first = |c: u8| c.is_ascii_lowercase() || c == b'_';
        let name = self.schema.as_bytes();
        let plain = name.first().copied().is_some_and(first) && name.iter().all(|c| first(*c) || c.is_ascii_digit());
        if !plain || name.len() > SCHEMA_BYTES_MAX || self.schema.starts_with("pg_") {
            return Err(format!(
                "a schema is named by at most {SCHEMA_BYTES_MAX} lower-case letters, digits and `_`, not by `{}`",
                self.schema.escape_debug()
            ));
        }
        if self.connections_max == 0 || self.connections_min > self.connections_max {
            return Err(format!(
                "a pool has at least one connection and keeps at most all of them, not {} of {}",
                self.connections_min, self.connections_max
            ));
        }
        if [self.connect_timeout, self.statement_timeout, self.migrate_timeout]
            .iter()
            .any(|timeout| timeout.as_millis() == 0 || timeout.as_millis() > i32::MAX as u128)
        {
            return Err("timeouts are 1 ms to 24 days".to_owned());
        }
        Ok(())
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PostgresOptions")
            .field("schema", &self.schema)
            .field("ca_file", &self.ca_file)
            .field("connections_max", &self.connections_max)
            .field("connections_min", &self.connections_min)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("migrate_timeout", &self.migrate_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut PostgresOptions)) -> String {
        let mut options = PostgresOptions::new("postgres://user:s3cret@host/database");
        change(&mut options);
        options.connect().expect_err("these options do not serve")
    }

    #[test]
    fn what_does_not_serve_is_refused_with_a_reason() {
        for schema in ["", "Troupe", "a b", "a;drop", "pg_troupe", "1st", &"x".repeat(64)] {
            let why = refused(|options| options.schema = schema.to_owned());
            assert!(why.contains("lower-case"), "{schema}: {why}");
        }
        assert!(refused(|options| options.connections_max = 0).contains("at least one"));
        assert!(refused(|options| options.connections_min = 11).contains("at most all"));
        assert!(refused(|options| options.statement_timeout = Duration::ZERO).contains("1 ms"));
        assert!(refused(|options| options.ca_file = Some("/nowhere/ca.pem".into())).contains("/nowhere/ca.pem"));
        assert!(refused(|options| options.url = "host only".to_owned()).contains("URL"));
        let why = refused(|options| {
            options.url = "postgres://host/database?sslmode=disable".to_owned();
            options.ca_file = Some("/".into());
        });
        assert!(why.contains("forbids TLS"), "{why}");
    }

    #[test]
    fn no_password_is_shown() {
        let mut options = PostgresOptions::new("postgres://user:s3cret@host/database?sslmode=never");
        let why = options.connect().expect_err("there is no such mode");
        assert!(why.contains("never") && !why.contains("s3cret"), "{why}");
        options.url = "postgres://user:s3cret@host:port/database".to_owned();
        let why = options.connect().expect_err("there is no such port");
        assert!(!why.contains("s3cret"), "{why}");
        let shown = format!("{options:?}");
        assert!(shown.contains("troupe") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_ca_file_has_the_certificate_checked() {
        for (sslmode, checked) in [
            ("", PgSslMode::VerifyFull),
            ("?sslmode=require", PgSslMode::VerifyFull),
            ("?sslmode=verify-ca", PgSslMode::VerifyCa),
        ] {
            let options = PostgresOptions {
                ca_file: Some("/dev/null".into()),
                ..PostgresOptions::new(format!("postgres://user@host/database{sslmode}"))
            };
            let mode = options.connect().expect("these options serve").get_ssl_mode();
            assert_eq!(format!("{mode:?}"), format!("{checked:?}"), "{sslmode}");
        }
    }
}

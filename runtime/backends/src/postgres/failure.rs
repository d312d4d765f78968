//! What the driver's failures mean to a caller: try again later, or have somebody look.

use troupe_ports::{DefinitionError, StoreError};

const TLS_HINT: &str = "; `sslmode` and the CA file must fit the server's certificate";

/// Why a call failed, with a hint where there is something to do. Carries no password: neither the driver's messages nor the
/// server's name one.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server cannot be used now, or the outcome is unknown.
    Unavailable(String),
    /// Trying again will not help.
    Damaged(String),
}

impl Failure {
    /// Reads an error of the driver; `address` says where it was met.
    pub(super) fn of(error: &sqlx::Error, address: &str) -> Self {
        use sqlx::Error;
        let text = format!("{address}: {error}");
        match error {
            Error::Database(answer) => {
                let code = answer.code().unwrap_or_default();
                let text = format!("{address}: {} (SQLSTATE {code}){}", answer.message(), hint(&code));
                if is_damage(&code) {
                    Self::Damaged(text)
                } else {
                    Self::Unavailable(text)
                }
            }
            Error::Tls(_) => Self::Unavailable(format!("{text}{TLS_HINT}")),
            Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                Self::Unavailable(format!("{text}{TLS_HINT}"))
            }
            Error::PoolTimedOut => Self::Unavailable(format!(
                "{address}: no connection in time; the server is down, or all connections are busy"
            )),
            Error::RowNotFound
            | Error::TypeNotFound { .. }
            | Error::ColumnIndexOutOfBounds { .. }
            | Error::ColumnNotFound(_)
            | Error::ColumnDecode { .. }
            | Error::Decode(_)
            | Error::Encode(_) => Self::Damaged(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// Whether the same call would fail in the same way again: data that is not as it was written, tables that are not as they were
/// made, values that the server does not take. Everything else passes or is somebody's to repair while we retry.
fn is_damage(code: &str) -> bool {
    const UNDEFINED: [&str; 5] = ["42P01", "42703", "42883", "42804", "3F000"];
    let class = code.get(..2).unwrap_or_default();
    matches!(class, "22" | "23" | "54") || matches!(code, "XX001" | "XX002") || UNDEFINED.contains(&code)
}

fn hint(code: &str) -> &'static str {
    match code {
        "28P01" | "28000" => "; check the user and the password, and the server's pg_hba.conf",
        "3D000" => "; create the database first",
        "42501" => "; the user must own the schema, or may create in it",
        "42P01" | "3F000" => "; the schema was emptied or removed: restore it, or start anew with another one",
        "25006" => "; this server only reads: connect to the primary",
        "53300" => "; raise the server's max_connections, or lower `connections_max`",
        "53100" => "; free disk space on the server",
        "57014" => "; the statement timeout passed: the server is slow, or another session holds a lock",
        "57P01" | "57P02" | "57P03" => "; the server stops or starts",
        _ => "",
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(why) => Self::Unavailable(why),
            Failure::Damaged(why) => Self::Damaged(why),
        }
    }
}

impl From<Failure> for DefinitionError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(why) => Self::Unavailable(why),
            Failure::Damaged(why) => Self::Damaged(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_no_damage() {
        for (code, damage) in [
            ("08006", false),
            ("0A000", false),
            ("22021", true),
            ("23514", true),
            ("25006", false),
            ("28P01", false),
            ("40001", false),
            ("40P01", false),
            ("42501", false),
            ("42P01", true),
            ("53100", false),
            ("54000", true),
            ("57014", false),
            ("57P01", false),
            ("XX000", false),
            ("XX001", true),
            ("", false),
        ] {
            assert_eq!(is_damage(code), damage, "{code}");
        }
    }
}

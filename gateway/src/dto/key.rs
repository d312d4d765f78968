//! Keys of the API.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use troupe_core::Timestamp;
use troupe_core::definition::Path;
use troupe_ports::{ApiKey, Role};

use super::start::{Reader, present};
use super::time::{date, instant};
use crate::error::ApiError;

/// Longest name of a key.
const NAME_BYTES_MAX: usize = 64;

/// What a new key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyBody {
    /// What its holder is called.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// When it ceases to be accepted, if ever.
    pub expires_at: Option<Timestamp>,
}

impl KeyBody {
    /// Reads a body.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let mut reader = Reader::default();
        let mut read = Self {
            name: String::new(),
            role: Role::Worker,
            expires_at: None,
        };
        let body = body.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        if let Some(mut fields) = reader.object(body, &Path::root(), &["name", "role", "expiresAt"]) {
            let root = Path::root();
            let name = reader.text(fields.remove("name").unwrap_or_default(), &root.key("name"));
            read.name = name.unwrap_or_default();
            if !read.name.is_empty() && !is_name(&read.name) {
                let expected = format!(
                    "a letter or digit, then letters, digits, `.`, `_`, `@` and `-`, at most {NAME_BYTES_MAX} altogether, and neither of {:?}",
                    crate::auth::RESERVED_NAMES
                );
                reader.wrong(&root.key("name"), &expected);
            }
            let words = Role::ALL.map(|role| (role.name(), role));
            let role = reader.word(fields.remove("role").unwrap_or_default(), &root.key("role"), &words);
            read.role = role.unwrap_or(read.role);
            if let Some(value) = present(&mut fields, "expiresAt") {
                read.expires_at = value.as_str().and_then(instant);
                if read.expires_at.is_none() {
                    reader.wrong(&root.key("expiresAt"), "a date in RFC 3339");
                }
            }
        }
        reader.finish(read)
    }
}

/// Names stand in histories and logs beside those of other origins, such as `github:…`.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    name.len() <= NAME_BYTES_MAX
        && name.bytes().all(plain)
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && !crate::auth::RESERVED_NAMES.contains(&name)
}

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyDto {
    /// Its id.
    pub id: String,
    /// What its holder is called.
    pub name: String,
    /// `viewer`, `operator`, `editor`, `admin` or `worker`.
    pub role: String,
    /// `valid`, `expired` or `revoked`.
    pub status: String,
    /// When it was made.
    pub created_at: String,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created_by: Option<String>,
    /// When it ceases to be accepted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<String>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revoked_at: Option<String>,
    /// When it was last used, to the minute or so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_used_at: Option<String>,
}

impl KeyDto {
    /// What the API shows of a key at that time.
    #[must_use]
    pub fn of(key: &ApiKey, now: Timestamp) -> Self {
        let status = match (key.revoked_at, key.is_valid(now)) {
            (Some(_), _) => "revoked",
            (None, true) => "valid",
            (None, false) => "expired",
        };
        Self {
            id: key.id.to_string(),
            name: key.name.clone(),
            role: key.role.name().to_owned(),
            status: status.to_owned(),
            created_at: date(key.created_at),
            created_by: key.created_by.clone(),
            expires_at: key.expires_at.map(date),
            revoked_at: key.revoked_at.map(date),
            last_used_at: key.used_at.map(date),
        }
    }
}

/// A new key, with its secret: the only time that it is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedKeyDto {
    /// The key as lists show it.
    #[serde(flatten)]
    pub shown: KeyDto,
    /// What its holder sends.
    pub key: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_whole_body_is_read() {
        let body = json!({"name": "ci@build-7", "role": "operator", "expiresAt": "2026-09-21T14:13:20.123Z"});
        let read = KeyBody::read(Some(body)).unwrap();
        assert_eq!((read.name.as_str(), read.role), ("ci@build-7", Role::Operator));
        assert_eq!(read.expires_at, Some(Timestamp(1_790_000_000_123)));
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let pointers = |body: Option<Value>| -> Vec<String> {
            let problem = KeyBody::read(body).unwrap_err().problem();
            assert_eq!(problem.code, "INVALID_REQUEST");
            problem.errors.into_iter().map(|item| item.pointer).collect()
        };
        assert_eq!(pointers(None), ["/name", "/role"]);
        let wrong = json!({"name": "a b", "role": "root", "expiresAt": "soon", "scope": []});
        let mut found = pointers(Some(wrong));
        found.sort_unstable();
        assert_eq!(found, ["/expiresAt", "/name", "/role", "/scope"]);
        let long = "x".repeat(65);
        for name in ["", "local", "bootstrap", "a:b", "-a", "é", "a\0", &long] {
            assert_eq!(
                pointers(Some(json!({"name": name, "role": "viewer"}))),
                ["/name"],
                "{name}"
            );
        }
    }
}

//! Keys of the API: who may do what, without the secrets that prove it.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use troupe_core::Timestamp;

use crate::state::StoreError;

/// What a key is called. Public: it stands in the key itself, in lists and in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

/// A text that is no id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key has 16 hexadecimal digits in lower case")]
pub struct InvalidKeyId;

impl fmt::Display for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return Err(InvalidKeyId);
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| InvalidKeyId)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// What the holder of a key may do. Each of the first four may do what those before it may; a worker may do nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reports on the nodes that it works for.
    Worker,
    /// Reads.
    Viewer,
    /// Starts executions and decides about them.
    Operator,
    /// Changes workflows.
    Editor,
    /// Everything, keys included.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Worker, Self::Viewer, Self::Operator, Self::Editor, Self::Admin];

    /// Its name, in the interface and in stores.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A key as it is kept: with the hash of its secret, so that a copy of the store opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Names the key.
    pub id: KeyId,
    /// What its holder is called in histories and audit rows. One key that is not revoked has it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// SHA-256 of the secret.
    pub secret: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Option<String>,
    /// When it ceases to be accepted, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute or so.
    pub used_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it is accepted at that time.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires| now < expires)
    }
}

/// Why a key was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key that is not revoked has this name.
    #[error("key {holder} has the name already")]
    NameTaken {
        /// That key.
        holder: KeyId,
    },
    /// Anything that is not about keys.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps keys. Nothing but their revocation and last use ever changes.
#[async_trait]
pub trait ApiKeyStore: Send + Sync + 'static {
    /// Keeps a new key. One whose id is there changes nothing, so a caller that lost the answer may ask again. `Ok` means durable.
    ///
    /// # Errors
    ///
    /// [`KeyError::NameTaken`], also for all but one of several that come at once.
    async fn create(&self, key: ApiKey) -> Result<(), KeyError>;

    /// A key.
    async fn get(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError>;

    /// Keys in order of id, after `after`; revoked and expired ones too.
    async fn list(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<ApiKey>, StoreError>;

    /// Revokes a key for good, and returns it as it is then; none if there is none. Of several times the first one stays.
    async fn revoke(&self, id: KeyId, at: Timestamp) -> Result<Option<ApiKey>, StoreError>;

    /// Notes when keys were last used; a time never goes back. Ids that are unknown are passed over.
    async fn used(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text_and_from_nothing_else() {
        let id = KeyId([0, 1, 2, 3, 0xab, 0xcd, 0xef, 0xff]);
        assert_eq!(id.to_string(), "00010203abcdefff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            "",
            "00010203ABCDEFFF",
            "+0010203abcdefff",
            "00010203abcdeff",
            "00010203abcdefffa",
        ] {
            assert_eq!(wrong.parse::<KeyId>(), Err(InvalidKeyId), "{wrong}");
        }
    }

    #[test]
    fn a_role_is_read_back_from_its_name() {
        for role in Role::ALL {
            assert_eq!(Role::of_name(role.name()), Some(role));
        }
        assert_eq!(Role::of_name("Admin"), None);
    }
}

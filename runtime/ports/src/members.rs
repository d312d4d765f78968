//! Who belongs to a deployment of several processes, and where each is found.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use troupe_core::{FormatRange, FormatTerms, StateFormat};

use crate::state::StoreError;

/// A process that serves shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name: the owner of its leases. No other process ever has it.
    pub name: String,
    /// Where the others reach its API: `http://host:port`, without a slash at the end.
    pub address: String,
    /// It gives its shards up and takes no others.
    #[serde(default)]
    pub draining: bool,
    /// Release that it runs, for people.
    #[serde(default)]
    pub release: String,
    /// Formats of the state that it reads. A release that does not say so reads the first one.
    #[serde(default = "unsaid")]
    pub reads: FormatRange,
    /// It wants nobody to write a newer format than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<StateFormat>,
}

fn unsaid() -> FormatRange {
    FormatRange::UNSAID
}

impl Member {
    /// What it says of formats.
    #[must_use]
    pub fn terms(&self) -> FormatTerms {
        FormatTerms {
            reads: self.reads,
            at_most: self.at_most,
        }
    }
}

/// The register of members. Who is not announced again within its time is gone: nobody has to say so.
///
/// It decides nothing that must be right: two members that see different registers both ask for a shard, and the lease
/// decides. Every method is cancel-safe: what it writes is written whole or not at all.
#[async_trait]
pub trait Membership: Send + Sync + 'static {
    /// Writes a member into the register, for `ttl` by the register's own clock, and tells all who are in it, itself among them,
    /// in order of name.
    async fn announce(&self, member: &Member, ttl: Duration) -> Result<Vec<Member>, StoreError>;

    /// All members, in order of name.
    async fn members(&self) -> Result<Vec<Member>, StoreError>;

    /// Takes a member out of the register; one that is not there is no error.
    async fn leave(&self, name: &str) -> Result<(), StoreError>;

    /// The secret of this name that all members share: the first one that was proposed.
    async fn secret(&self, name: &str, proposed: &[u8]) -> Result<Vec<u8>, StoreError>;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_older_releases_announcement_is_understood_and_an_older_release_understands_ours() {
        let older: Member = serde_json::from_str(r#"{"name":"a","address":"http://a","release":"0.1.0"}"#).unwrap();
        assert_eq!((older.reads, older.at_most), (FormatRange::UNSAID, None));
        let ours = Member {
            reads: FormatRange::WITH_TRIAL,
            at_most: Some(StateFormat::FIRST),
            ..older
        };
        let text = serde_json::to_string(&ours).unwrap();
        assert_eq!(serde_json::from_str::<Member>(&text).unwrap(), ours);

        /// As the release before formats were announced had it.
        #[derive(Deserialize)]
        struct Before {
            name: String,
        }
        assert_eq!(serde_json::from_str::<Before>(&text).unwrap().name, "a");
    }
}

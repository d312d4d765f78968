//! Who belongs to a deployment of several processes, and where each is found.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

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

//! Who may own a shard next: the order of owners, kept where it survives the loss of the store that they write to.

use async_trait::async_trait;
use troupe_core::{Epoch, ShardId};

use crate::state::StoreError;

/// Why no epoch was issued.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// Somebody was issued a later epoch than the caller knows of.
    #[error("epoch {latest} has been issued")]
    Conflict {
        /// The latest one.
        latest: Epoch,
    },
    /// Anything that is not about the order.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Orders the owners of each shard by epochs that only grow. An owner enforces nothing by it: it asks for an epoch, installs it in
/// the state store, and stops as soon as it reads a higher one than its own, at each renewal of its lease and after each reconnect.
#[async_trait]
pub trait EpochAuthority: Send + Sync + 'static {
    /// Issues the epoch that follows `after`: the higher one of the latest issued and the latest that the state store has seen, as
    /// the caller read them. So an epoch is higher than any before even if this authority was restored from an older copy, and of
    /// several candidates that looked at once one gets it. `Ok` means durable. `owner` is noted for people.
    ///
    /// # Errors
    ///
    /// [`EpochError::Conflict`] if a later one than `after` has been issued meanwhile: nothing has changed. With
    /// [`StoreError::Unavailable`] the outcome is unknown: look again; an epoch that nobody installs does no harm.
    async fn issue(&self, shard: ShardId, after: Epoch, owner: &str) -> Result<Epoch, EpochError>;

    /// The latest epoch that was issued; 0 if none was.
    async fn issued(&self, shard: ShardId) -> Result<Epoch, StoreError>;
}

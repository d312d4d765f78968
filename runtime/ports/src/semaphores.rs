//! Counting semaphores that members share: how many hold a key at once, whoever they are.

use std::time::Duration;

use async_trait::async_trait;
use troupe_core::{Epoch, ShardId, Timestamp};

use crate::state::StoreError;

/// Who does not ask again for so long waits no longer: nobody has to say so.
pub const LINE_PATIENCE: Duration = Duration::from_secs(1);
/// For how long it is remembered which epochs of a ticket are barred: longer than what a former owner said is on its way.
pub const BARRED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The most urgent priority of an [`Ask`]; greater ones count as this one.
pub const PRIORITY_MAX: u8 = 9;

/// For how long a ticket is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Until it is released, or so long after it was taken or renewed last, by the store's own clock.
    For(Duration),
    /// Until it is released under this epoch or a later one: it outlives whoever took it, and a former owner does not take it away.
    Under(Epoch),
}

/// A wish to be one of those who hold a key.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who asks; nobody else ever has this ticket.
    pub ticket: &'a [u8],
    /// How many may hold the key once it does, itself included.
    pub limit: u64,
    /// The more urgent goes first, up to [`PRIORITY_MAX`].
    pub priority: u8,
    /// Of equal priority the older goes first; none: since it asked first, by the store's clock.
    pub since: Option<Timestamp>,
    /// For how long.
    pub hold: Hold,
}

/// What came of an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It holds the key.
    Granted,
    /// It stands in the line as long as it goes on asking (see [`LINE_PATIENCE`]).
    Refused {
        /// So many go before it.
        ahead: u64,
    },
}

/// Counting semaphores with named holders, in the store that members share.
///
/// A key has holders and a line. Each that asks counts all holders against its own limit, so they may disagree. Nobody is let in
/// before another one that stands ahead of it in the line and is kept out by its own limit. A key that nobody holds
/// or asks for takes no place.
///
/// A method whose future is dropped may have happened. What is called later for the same key happens later.
#[async_trait]
pub trait Semaphores: Send + Sync + 'static {
    /// Asks to hold a key, or stands in its line. One that holds it already is granted it again, whatever the limit; its hold then ends
    /// no earlier than before.
    async fn acquire(&self, key: &[u8], ask: &Ask<'_>) -> Result<Asked, StoreError>;

    /// Holds a key whatever the limit: what it stands for runs already.
    async fn hold(&self, key: &[u8], ticket: &[u8], hold: Hold) -> Result<(), StoreError>;

    /// Makes these holds, key and ticket each, last `ttl` from now. Tells for each whether it was still held; one that was not has to
    /// ask anew.
    async fn renew(&self, held: &[(&[u8], &[u8])], ttl: Duration) -> Result<Vec<bool>, StoreError>;

    /// Gives a ticket back, or leaves the line; one that is not known is no error. False when it is held under a later epoch than
    /// `under`, by whoever came after: then nothing happened.
    async fn release(&self, key: &[u8], ticket: &[u8], under: Option<Epoch>) -> Result<bool, StoreError>;

    /// From now on, for [`BARRED_FOR`], whoever asks for a key or holds it with this ticket under an epoch before `below` is refused, or
    /// does nothing: a former owner said it, and it arrives late. What is held already is held on.
    async fn bar(&self, key: &[u8], ticket: &[u8], below: Epoch) -> Result<(), StoreError>;

    /// Writes down, durably like everything of a shard, that a ticket of it may hold a key: whoever owns the shard next finds it.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when a later owner has written, struck out or read notes of the shard, as with the next two.
    async fn note(&self, shard: ShardId, under: Epoch, ticket: &[u8], key: &[u8]) -> Result<(), StoreError>;

    /// Strikes a note out; one that is not there is no error.
    async fn strike(&self, shard: ShardId, under: Epoch, ticket: &[u8]) -> Result<(), StoreError>;

    /// The notes of a shard, ticket and key each, in no order. No former owner adds one after this.
    async fn noted(&self, shard: ShardId, under: Epoch) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError>;
}

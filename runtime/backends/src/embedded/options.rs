//! How an embedded store is opened.

use troupe_core::ShardId;

/// Who else may use the same directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: a lock on the directory refuses a second process, and leases that a dead one left behind are void.
    #[default]
    Exclusive,
    /// Other stores opened in this way; a shard is theirs until its lease expires. For tests of fencing.
    Shared,
    /// As `Shared`, but a shard is taken whatever its lease says. For tests of fencing.
    TakeOver,
}

/// A planted fault that tests must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurabilityMutant {
    /// Commits are acknowledged without a sync.
    SynchronousOff,
    /// An append is not asked for its epoch: whoever knows the next position may write.
    NoEpochCheck,
}

/// What becomes of unsynced writes when the process is killed. For tests, except [`PowerLoss::Never`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PowerLoss {
    /// The operating system has them, as always: only the process dies.
    #[default]
    Never,
    /// All are lost: writes reach the files only when they are synced. Slower, and unsynced data is held in memory.
    DropsUnsynced,
    /// Some survive, the oldest first; the last one of those is torn at the edge of a sector.
    TearsUnsynced {
        /// Draws how many survive.
        seed: u64,
    },
}

/// How an embedded store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Number of shards if the store is new; an existing one keeps its number.
    pub shards: u16,
    /// Who else may use the same directory.
    pub sharing: Sharing,
    /// What a killed process loses beside itself.
    pub power_loss: PowerLoss,
    /// Shards that begin again from what is left of their log where it ends before their checkpoint: the operator says so.
    pub accept_loss: Vec<ShardId>,
    /// For tests: a planted fault.
    pub mutant: Option<DurabilityMutant>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            shards: 32,
            sharing: Sharing::Exclusive,
            power_loss: PowerLoss::Never,
            accept_loss: Vec::new(),
            mutant: None,
        }
    }
}

//! The embedded store: two SQLite files in a directory, a writer thread each, readers beside them.
//!
//! `log.db` holds what decides (ownership, records, cursors): a transaction carries the appends of all shards, and an
//! acknowledged one has been synced. `store.db` holds what is derived from it (checkpoints), definitions and summaries.
//! A crash between the files loses nothing: a checkpoint is durable in `store.db` before the log is trimmed, and an epoch
//! is in force in both files before `acquire` returns it.

mod audit;
mod blobs;
mod cached;
mod cursors;
mod definitions;
mod derived;
mod epochs;
mod inbox;
mod keys;
mod log;
mod options;
mod power_loss;
mod reader;
mod rewrite;
mod schema;
mod search;
mod spool;
mod state;
#[cfg(test)]
mod tests;
mod visibility;
mod writer;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use troupe_core::ShardId;
use troupe_ports::StoreError;

use cursors::{CursorRider, Cursors};
pub use options::{DurabilityMutant, PowerLoss, Sharing, StoreOptions};
pub use power_loss::fail_syncs;
use reader::Readers;
use schema::{StoreFile, WalLimit, fixed, fixed_if_any, unavailable};
use writer::{NoRider, Writer};

/// Reader threads of the derived file that executions are loaded by. Lists and searches of them have one each, so that nobody's
/// question stands before a load or a timer, nor a search before the lists that the engine itself asks for.
const DERIVED_READERS: usize = 2;

/// A store in a directory. Implements `StateStore`, `DefinitionStore`, `VisibilityStore`,
/// `EpochAuthority`, `AuditLog` and `ApiKeyStore`.
///
/// Dropping it writes what is queued, closes the files and gives the directory up; that blocks for some milliseconds.
pub struct EmbeddedStore {
    // Readers go first: the last connection to close tidies the WAL, and that should be a writer.
    log_reader: Readers,
    derived_readers: Readers,
    list_reader: Readers,
    search_reader: Readers,
    log: Writer,
    derived: Writer,
    shards: u16,
    sharing: Sharing,
    accept_loss: Vec<ShardId>,
    mutant: Option<DurabilityMutant>,
    /// Epochs as this store last saw them, so that a cursor's setter is checked without a transaction.
    epochs: Vec<AtomicU64>,
    cursors: Cursors,
    appends: AtomicU64,
    _lock: Option<File>,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, creating both when they do not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if another process has it, [`StoreError::Damaged`] if the two files do not belong together or
    /// were written by a newer release, [`StoreError::Unavailable`] if the directory cannot be used.
    pub fn open(directory: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let cannot = |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", directory.display()));
        std::fs::create_dir_all(directory).map_err(cannot)?;
        let lock = match options.sharing {
            Sharing::Exclusive => Some(lock(directory)?),
            Sharing::Shared | Sharing::TakeOver => None,
        };

        let log = StoreFile::Log.open_writer(directory, options)?;
        let derived = StoreFile::Derived.open_writer(directory, options)?;
        sync_directory(directory).map_err(cannot)?;
        let shards = agree(&log, &derived, options)?;
        if options.sharing == Sharing::Exclusive {
            log::void_leases(&log).map_err(unavailable)?;
        }
        let epochs: Vec<_> = (0..shards).map(|_| AtomicU64::new(0)).collect();
        for (shard, epoch) in log::epochs(&log).map_err(unavailable)? {
            if let Some(seen) = epochs.get(usize::from(shard)) {
                seen.store(epoch, Ordering::Release);
            }
        }

        let log_reader = StoreFile::Log.open_reader(directory, options)?;
        let readers = |number: usize| -> Result<Vec<_>, StoreError> {
            let readers = (0..number).map(|_| StoreFile::Derived.open_reader(directory, options));
            readers.collect()
        };
        let (derived_readers, list_reader, search_reader) = (readers(DERIVED_READERS)?, readers(1)?, readers(1)?);
        let cursors = Cursors::default();
        let rider = Box::new(CursorRider::new(cursors.clone()));
        let (log_limit, derived_limit) = (WalLimit::of(StoreFile::Log), WalLimit::of(StoreFile::Derived));
        Ok(Self {
            log_reader: Readers::start("log-reader", vec![log_reader]).map_err(cannot)?,
            derived_readers: Readers::start("store-reader", derived_readers).map_err(cannot)?,
            list_reader: Readers::start("list-reader", list_reader).map_err(cannot)?,
            search_reader: Readers::start("search-reader", search_reader).map_err(cannot)?,
            log: Writer::start("log-writer", log, log_limit, rider).map_err(cannot)?,
            derived: Writer::start("store-writer", derived, derived_limit, Box::new(NoRider)).map_err(cannot)?,
            shards,
            sharing: options.sharing,
            accept_loss: options.accept_loss.clone(),
            mutant: options.mutant,
            epochs,
            cursors,
            appends: AtomicU64::new(0),
            _lock: lock,
        })
    }

    fn check_shard(&self, shard: ShardId) -> Result<(), StoreError> {
        if shard.0 < self.shards {
            Ok(())
        } else {
            Err(StoreError::Damaged(format!(
                "shard {shard} of a store with {}",
                self.shards
            )))
        }
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("EmbeddedStore")
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let unavailable = |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", path.display()));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(unavailable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let why = format!(
                "another process uses {}; an embedded store admits one",
                directory.display()
            );
            Err(StoreError::Held(why))
        }
        Err(TryLockError::Error(error)) => Err(unavailable(error)),
    }
}

/// Makes the names of new files durable.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Checks that the two files belong together; returns the number of shards.
fn agree(log: &Connection, derived: &Connection, options: &StoreOptions) -> Result<u16, StoreError> {
    let damaged = |why: &str| StoreError::Damaged(why.to_owned());
    let known = fixed_if_any(derived, "identity").map_err(unavailable)?;
    let fresh: Vec<u8> = log
        .query_row("SELECT randomblob(16)", [], |row| row.get(0))
        .map_err(unavailable)?;
    // A derived file without its log is no new store: the log is the part that must not be lost.
    let wanted = known.clone().unwrap_or(fresh);
    if known.is_some() && fixed_if_any(log, "identity").map_err(unavailable)?.is_none() {
        return Err(damaged("store.db is there, but its log.db is gone or empty"));
    }
    let identity = fixed(log, "identity", &wanted).map_err(unavailable)?;
    if fixed(derived, "identity", &identity).map_err(unavailable)? != identity {
        return Err(damaged("log.db and store.db belong to different stores"));
    }
    let shards = fixed(log, "shards", &options.shards.max(1).to_be_bytes()).map_err(unavailable)?;
    let shards = <[u8; 2]>::try_from(shards).map_err(|_| damaged("the number of shards is unreadable"))?;
    Ok(u16::from_be_bytes(shards))
}

//! Tables, versions and settings of the two files.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use troupe_ports::StoreError;

use super::options::{DurabilityMutant, StoreOptions};

/// Version of the tables; a store with a higher one was written by a newer release.
const VERSION: i64 = 1;
/// Page cache of a connection that writes, in KiB. What is hot is also in the operating system's cache.
const WRITER_CACHE_KIB: i64 = 1_024;
/// Page cache of a connection that reads, in KiB.
const READER_CACHE_KIB: i64 = 256;
/// How long a connection waits for another process' transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreFile {
    /// The shard log, the leases and the cursors.
    Log,
    /// Everything derived from the log, definitions and summaries.
    Derived,
}

const LOG_TABLES: &str = "
CREATE TABLE store (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
-- Ownership of a shard. `trimmed`: positions up to it were used and removed.
CREATE TABLE shard (
    shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT, lease_until_ms INTEGER NOT NULL, trimmed INTEGER NOT NULL
) STRICT;
-- `at` = shard << 47 | position, so that a shard's records are neighbours and an append touches one page.
CREATE TABLE record (at INTEGER PRIMARY KEY, commit_id BLOB NOT NULL, bytes BLOB NOT NULL) STRICT;
CREATE TABLE cursor (shard INTEGER, sink TEXT, position INTEGER NOT NULL, PRIMARY KEY (shard, sink)) STRICT, WITHOUT ROWID;
";

const DERIVED_TABLES: &str = "
CREATE TABLE store (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
-- `epoch` repeats the log's, so that a fenced owner cannot write a checkpoint either.
CREATE TABLE shard (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, checkpointed INTEGER NOT NULL) STRICT;
-- wait: 0 has unfinished work, 1 waits until due_ms, 2 waits for a message.
CREATE TABLE live (
    id BLOB PRIMARY KEY, shard INTEGER NOT NULL, last INTEGER NOT NULL, wait INTEGER NOT NULL, due_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX live_due ON live (shard, due_ms, id) WHERE wait = 1;
CREATE INDEX live_running ON live (shard, id) WHERE wait = 0;
CREATE TABLE snapshot (id BLOB PRIMARY KEY, seq INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE segment (id BLOB, last INTEGER, bytes BLOB NOT NULL, PRIMARY KEY (id, last)) STRICT, WITHOUT ROWID;
CREATE TABLE archive (
    id BLOB PRIMARY KEY, shard INTEGER NOT NULL, last INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    tombstone_ms INTEGER NOT NULL, bytes BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX archive_expiry ON archive (shard, expires_ms, id);
CREATE TABLE tombstone (
    id BLOB PRIMARY KEY, shard INTEGER NOT NULL, last INTEGER NOT NULL, expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstone_expiry ON tombstone (shard, expires_ms, id);
CREATE TABLE head (key BLOB PRIMARY KEY, ordinal INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE workflow (id TEXT PRIMARY KEY, latest INTEGER NOT NULL, archived INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE definition (
    workflow TEXT, version INTEGER, stored_ms INTEGER NOT NULL, definition TEXT NOT NULL, analysis TEXT NOT NULL,
    PRIMARY KEY (workflow, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE summary (
    id BLOB PRIMARY KEY, workflow TEXT NOT NULL, version INTEGER NOT NULL, status TEXT NOT NULL, paused INTEGER NOT NULL,
    started_ms INTEGER NOT NULL, ended_ms INTEGER, error_code TEXT, execution_key TEXT, seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX summary_started ON summary (started_ms, id);
CREATE INDEX summary_workflow ON summary (workflow, started_ms, id);
-- Most executions complete; what people search for is the rest.
CREATE INDEX summary_status ON summary (status, started_ms, id) WHERE status <> 'completed';
CREATE TABLE projected (shard INTEGER PRIMARY KEY, position INTEGER NOT NULL) STRICT;
";

/// Tables that came after the first stores were made; an older release does not look at them.
const ADDED_TABLES: &str = "
-- Executions that are set aside, and why.
CREATE TABLE IF NOT EXISTS quarantine (id BLOB PRIMARY KEY, shard INTEGER NOT NULL, reason TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS quarantine_shard ON quarantine (shard, id);
-- Large values. A table with a rowid: rows of megabytes do not belong into the tree of a key.
CREATE TABLE IF NOT EXISTS blob (root BLOB NOT NULL, hash BLOB NOT NULL, bytes BLOB NOT NULL, UNIQUE (root, hash)) STRICT;
-- Bytes of all blobs of a root; `confirmed`: whether its execution is known to exist.
CREATE TABLE IF NOT EXISTS blob_root (
    root BLOB PRIMARY KEY, shard INTEGER NOT NULL, bytes INTEGER NOT NULL, since_ms INTEGER NOT NULL, confirmed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Outputs that may be reused, and how many and how large they are together.
CREATE TABLE IF NOT EXISTS cached_output (
    key BLOB PRIMARY KEY, output BLOB NOT NULL, used_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS cached_used ON cached_output (used_ms);
CREATE INDEX IF NOT EXISTS cached_expiry ON cached_output (expires_ms);
CREATE TABLE IF NOT EXISTS cached_total (one INTEGER PRIMARY KEY CHECK (one = 1), entries INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
INSERT INTO cached_total (one, entries, bytes) VALUES (1, 0, 0) ON CONFLICT DO NOTHING;
CREATE INDEX IF NOT EXISTS blob_unconfirmed ON blob_root (shard, since_ms, root) WHERE confirmed = 0;
-- Who changed what.
CREATE TABLE IF NOT EXISTS audit (
    id BLOB PRIMARY KEY, at_ms INTEGER NOT NULL, principal TEXT, action TEXT NOT NULL, target_kind TEXT NOT NULL,
    target_id TEXT NOT NULL, before BLOB, after BLOB, request TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS audit_at ON audit (at_ms, id);
CREATE INDEX IF NOT EXISTS audit_principal ON audit (principal, at_ms, id);
CREATE INDEX IF NOT EXISTS audit_target ON audit (target_kind, target_id, at_ms, id);
-- Keys of the API, with the SHA-256 of their secrets. A name tells who did something.
CREATE TABLE IF NOT EXISTS api_key (
    id BLOB PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, secret BLOB NOT NULL, created_ms INTEGER NOT NULL,
    created_by TEXT, expires_ms INTEGER, revoked_ms INTEGER, used_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS api_key_name ON api_key (name) WHERE revoked_ms IS NULL;
";

/// As [`ADDED_TABLES`], of the log's file: what sinks have still to send of records that are gone, and what was left for the
/// owners of shards. With rowids, as their rows are large; no arrival is used again.
const ADDED_LOG_TABLES: &str = "
CREATE TABLE IF NOT EXISTS spool (
    shard INTEGER NOT NULL, sink TEXT NOT NULL, up_to INTEGER NOT NULL, bytes BLOB NOT NULL, UNIQUE (shard, sink, up_to)
) STRICT;
CREATE TABLE IF NOT EXISTS inbox (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT, shard INTEGER NOT NULL, id BLOB NOT NULL, bytes BLOB NOT NULL, UNIQUE (shard, id)
) STRICT;
";

/// A column that came later, as [`ADDED_TABLES`] did. The parent of a child execution.
const HAS_PARENT: &str = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('summary') WHERE name = 'parent')";
const ADD_PARENT: &str = "
ALTER TABLE summary ADD COLUMN parent BLOB;
CREATE INDEX summary_parent ON summary (parent, started_ms, id) WHERE parent IS NOT NULL;
";

/// Others: what lists are searched by beyond workflow, status, parent and time. The database itself keeps a row a tag beside each
/// summary, in the order of lists, so that an older release keeps them too.
const HAS_TAGS: &str = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('summary') WHERE name = 'tags')";
const ADD_TAGS: &str = "
ALTER TABLE summary ADD COLUMN workflow_name TEXT;
-- A JSON array; none where there are none.
ALTER TABLE summary ADD COLUMN tags TEXT;
ALTER TABLE summary ADD COLUMN error_message TEXT;
-- The texts that are searched, in small letters; none where SQLite makes them itself.
ALTER TABLE summary ADD COLUMN folded TEXT;
CREATE INDEX summary_key ON summary (execution_key, started_ms, id) WHERE execution_key IS NOT NULL;
CREATE TABLE summary_tag (
    tag TEXT NOT NULL, started_ms INTEGER NOT NULL, id BLOB NOT NULL, PRIMARY KEY (tag, started_ms, id)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER summary_tagged AFTER INSERT ON summary WHEN NEW.tags IS NOT NULL BEGIN
    INSERT INTO summary_tag (tag, started_ms, id) SELECT DISTINCT value, NEW.started_ms, NEW.id FROM json_each(NEW.tags);
END;
CREATE TRIGGER summary_untagged AFTER DELETE ON summary WHEN OLD.tags IS NOT NULL BEGIN
    DELETE FROM summary_tag
    WHERE tag IN (SELECT value FROM json_each(OLD.tags)) AND started_ms = OLD.started_ms AND id = OLD.id;
END;
CREATE TRIGGER summary_retagged AFTER UPDATE ON summary
WHEN OLD.tags IS NOT NEW.tags OR OLD.started_ms <> NEW.started_ms BEGIN
    DELETE FROM summary_tag
    WHERE tag IN (SELECT value FROM json_each(OLD.tags)) AND started_ms = OLD.started_ms AND id = OLD.id;
    INSERT INTO summary_tag (tag, started_ms, id) SELECT DISTINCT value, NEW.started_ms, NEW.id FROM json_each(NEW.tags);
END;
";

/// Another one, of the log's file: the newest format that a shard may hold something of.
const HAS_FORMAT: &str = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('shard') WHERE name = 'format')";
const ADD_FORMAT: &str = "ALTER TABLE shard ADD COLUMN format INTEGER NOT NULL DEFAULT 1";

/// Another one: what came of a change.
const HAS_OUTCOME: &str = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('audit') WHERE name = 'outcome')";
const ADD_OUTCOME: &str = "ALTER TABLE audit ADD COLUMN outcome TEXT";

/// Another one: records that a checkpoint holds and the log has lost, until lists show them.
const HAS_LOST: &str = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('shard') WHERE name = 'lost')";
const ADD_LOST: &str = "ALTER TABLE shard ADD COLUMN lost INTEGER NOT NULL DEFAULT 0";

impl StoreFile {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "log.db",
            Self::Derived => "store.db",
        }
    }

    fn tables(self) -> &'static str {
        match self {
            Self::Log => LOG_TABLES,
            Self::Derived => DERIVED_TABLES,
        }
    }

    /// Small pages where a commit writes one record; larger ones where rows hold kilobytes and come in bulk.
    fn page_bytes(self) -> i64 {
        match self {
            Self::Log => 4_096,
            Self::Derived => 8_192,
        }
    }

    fn wal_bytes_max(self) -> i64 {
        match self {
            Self::Log => 4 << 20,
            Self::Derived => 8 << 20,
        }
    }

    /// Opens the file for reading only.
    pub(super) fn open_reader(self, directory: &Path, options: &StoreOptions) -> Result<Connection, StoreError> {
        let connection = self.connect(directory, options, READER_CACHE_KIB)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(unavailable)?;
        Ok(connection)
    }

    /// Opens the file for its writer, creating its tables when it is new.
    pub(super) fn open_writer(self, directory: &Path, options: &StoreOptions) -> Result<Connection, StoreError> {
        let connection = self.connect(directory, options, WRITER_CACHE_KIB)?;
        let synchronous = match options.mutant {
            Some(DurabilityMutant::SynchronousOff) => "OFF",
            Some(DurabilityMutant::NoEpochCheck) | None => "FULL",
        };
        let set = || -> rusqlite::Result<()> {
            connection.pragma_update(None, "page_size", self.page_bytes())?;
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
            connection.pragma_update(None, "synchronous", synchronous)?;
            // The writer copies the WAL itself, after it has acknowledged.
            connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |row| row.get::<_, i64>(0))?;
            // A WAL that a slow reader let grow shrinks again, but never below what is overwritten in place.
            let kept = 4 * self.wal_bytes_max();
            connection.pragma_update_and_check(None, "journal_size_limit", kept, |row| row.get::<_, i64>(0))?;
            Ok(())
        };
        set().map_err(unavailable)?;
        self.create(&connection)?;
        Ok(connection)
    }

    fn connect(self, directory: &Path, options: &StoreOptions, cache_kib: i64) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let path = directory.join(self.name());
        let vfs = super::power_loss::vfs(options.power_loss).map_err(StoreError::Unavailable)?;
        let connection = match vfs {
            Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
            None => Connection::open_with_flags(path, flags),
        };
        let connection = connection.map_err(unavailable)?;
        let set = || -> rusqlite::Result<()> {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "cache_size", -cache_kib)?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(())
        };
        set().map_err(unavailable)?;
        Ok(connection)
    }

    fn create(self, connection: &Connection) -> Result<(), StoreError> {
        // Two processes may create the same store at once; the second one finds it made.
        let made = || -> rusqlite::Result<i64> {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if version == 0 {
                connection.execute_batch(self.tables())?;
                connection.pragma_update(None, "user_version", VERSION)?;
            }
            if self == Self::Log && version <= VERSION {
                connection.execute_batch(ADDED_LOG_TABLES)?;
                if !connection.query_row(HAS_FORMAT, [], |row| row.get::<_, bool>(0))? {
                    connection.execute_batch(ADD_FORMAT)?;
                }
            }
            if self == Self::Derived && version <= VERSION {
                connection.execute_batch(ADDED_TABLES)?;
                for (has, add) in [
                    (HAS_PARENT, ADD_PARENT),
                    (HAS_TAGS, ADD_TAGS),
                    (HAS_OUTCOME, ADD_OUTCOME),
                    (HAS_LOST, ADD_LOST),
                ] {
                    if !connection.query_row(has, [], |row| row.get::<_, bool>(0))? {
                        connection.execute_batch(add)?;
                    }
                }
            }
            connection.execute_batch("COMMIT")?;
            Ok(if version == 0 { VERSION } else { version })
        };
        let version = made().map_err(unavailable)?;
        if version > VERSION {
            return Err(StoreError::Damaged(format!(
                "{} has format {version}, this release knows up to {VERSION}: use the newer release that wrote it",
                self.name()
            )));
        }
        Ok(())
    }
}

/// Keeps the WAL short, so that commits overwrite blocks that exist instead of growing a file.
pub(super) struct WalLimit {
    frames_max: i64,
    written: i64,
}

impl WalLimit {
    /// The limit of a file.
    pub(super) fn of(file: StoreFile) -> Self {
        Self {
            frames_max: file.wal_bytes_max() / file.page_bytes(),
            written: 0,
        }
    }

    /// Whether the WAL may have reached its limit.
    pub(super) fn reached(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        self.written += pages_written(connection)?;
        Ok(self.written >= self.frames_max)
    }

    /// Copies the WAL into the file; returns how many syncs that took.
    pub(super) fn shorten(&mut self, connection: &Connection) -> rusqlite::Result<u64> {
        // One sync of the WAL, one of the file, and one of the WAL's new header with the next commit.
        let sql = "PRAGMA wal_checkpoint(PASSIVE)";
        let (log, copied): (i64, i64) = connection
            .prepare_cached(sql)?
            .query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?;
        // Readers kept a part from being copied: the rest is tried again after a quarter of the limit.
        self.written = if copied < log { self.frames_max * 3 / 4 } else { 0 };
        Ok(3)
    }
}

/// Pages that the connection wrote since the last call.
fn pages_written(connection: &Connection) -> rusqlite::Result<i64> {
    let mut current = 0;
    let mut highest = 0;
    // SAFETY: the handle is valid while `connection` is borrowed, and both results point to integers that outlive the call.
    #[allow(unsafe_code)]
    let code = unsafe {
        use rusqlite::ffi;
        ffi::sqlite3_db_status(
            connection.handle(),
            ffi::SQLITE_DBSTATUS_CACHE_WRITE,
            &mut current,
            &mut highest,
            1,
        )
    };
    if code == rusqlite::ffi::SQLITE_OK {
        Ok(i64::from(current))
    } else {
        Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
    }
}

/// Reads or sets a value that is fixed when the store is first created.
pub(super) fn fixed(connection: &Connection, name: &str, value: &[u8]) -> rusqlite::Result<Vec<u8>> {
    connection.execute(
        "INSERT INTO store (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![name, value],
    )?;
    connection.query_row("SELECT value FROM store WHERE name = ?1", [name], |row| row.get(0))
}

/// Reads a value that is fixed when the store is first created.
pub(super) fn fixed_if_any(connection: &Connection, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .query_row("SELECT value FROM store WHERE name = ?1", [name], |row| row.get(0))
        .optional()
}

/// SQLite's failure as the port tells it.
pub(super) fn unavailable(error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

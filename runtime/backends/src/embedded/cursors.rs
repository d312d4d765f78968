//! Cursors ride with the next transaction of the log, because nobody waits for them to be durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use troupe_core::{Epoch, LogPosition, ShardId};

use super::log;
use super::writer::Rider;

type Key = (ShardId, Arc<str>);

#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// Epoch of its setter: a setter that has been fenced since is not obeyed.
    epoch: Epoch,
    set: LogPosition,
    /// None if the file may not know that there is such a cursor: at 0 it keeps the whole log from being trimmed.
    written: Option<LogPosition>,
}

impl Cursor {
    fn is_unwritten(&self) -> bool {
        self.written.is_none_or(|written| self.set > written)
    }
}

/// Cursors that were set through this store, written or not: one a sink and shard.
#[derive(Clone, Default)]
pub(super) struct Cursors {
    known: Arc<Mutex<BTreeMap<Key, Cursor>>>,
}

impl Cursors {
    /// The highest position that was set here.
    pub(super) fn get(&self, shard: ShardId, sink: &str) -> LogPosition {
        self.known
            .lock()
            .get(&(shard, Arc::from(sink)))
            .map_or(LogPosition(0), |cursor| cursor.set)
    }

    /// Forgets those of other sinks.
    pub(super) fn keep(&self, shard: ShardId, sinks: &[&str]) {
        let mut known = self.known.lock();
        known.retain(|(of, sink), _| *of != shard || sinks.contains(&&**sink));
    }

    /// Notes a position; false if there is nothing to write.
    pub(super) fn set(&self, shard: ShardId, epoch: Epoch, sink: &str, to: LogPosition) -> bool {
        let mut known = self.known.lock();
        let fresh = Cursor {
            epoch,
            set: LogPosition(0),
            written: None,
        };
        let cursor = known.entry((shard, Arc::from(sink))).or_insert(fresh);
        cursor.epoch = epoch;
        cursor.set = cursor.set.max(to);
        cursor.is_unwritten()
    }
}

/// Writes what [`Cursors`] notes.
pub(super) struct CursorRider {
    cursors: Cursors,
    riding: Vec<(Key, LogPosition)>,
}

impl CursorRider {
    pub(super) fn new(cursors: Cursors) -> Self {
        Self {
            cursors,
            riding: Vec::new(),
        }
    }
}

impl Rider for CursorRider {
    fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.riding.clear();
        let unwritten: Vec<(Key, Cursor)> = {
            let known = self.cursors.known.lock();
            known
                .iter()
                .filter(|(_, cursor)| cursor.is_unwritten())
                .map(|(key, c)| (key.clone(), *c))
                .collect()
        };
        for (key, cursor) in unwritten {
            log::set_cursor(connection, key.0, cursor.epoch, &key.1, cursor.set)?;
            self.riding.push((key, cursor.set));
        }
        Ok(())
    }

    fn settled(&mut self, committed: bool) {
        if !committed || self.riding.is_empty() {
            return;
        }
        let mut known = self.cursors.known.lock();
        for (key, to) in self.riding.drain(..) {
            if let Some(cursor) = known.get_mut(&key) {
                cursor.written = cursor.written.max(Some(to));
            }
        }
    }
}

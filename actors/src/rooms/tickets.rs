//! What the store is to know of who runs, where members count together: each execution that runs holds a ticket of its key there.
//!
//! A ticket has no end of its own: an execution whose member died still runs, in the eyes of everybody else, until the next owner of its
//! shard goes on with it. So a ticket is noted beside the shard before it is taken and struck out after it was given back, and the next
//! owner looks through the notes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use troupe_core::{Epoch, ExecutionId, ShardId};
use troupe_ports::{Ask, Asked, Hold, StoreError};

use super::machine::{Asking, RoomKey};
use crate::shared_limits::SharedLimits;

/// Pauses before the store is told again.
const TELL_AGAIN: Duration = Duration::from_millis(20);
const TELL_AGAIN_MAX: Duration = Duration::from_secs(1);

/// Tickets of this engine's executions.
#[derive(Debug)]
pub(super) struct Tickets {
    pub(super) limits: Arc<SharedLimits>,
    /// What the store is to know and may not know yet. Each has a task that tells it.
    untold: Mutex<HashMap<ExecutionId, Wanted>>,
    numbers: AtomicU64,
}

/// What is to become of a ticket.
#[derive(Clone, Debug)]
struct Wanted {
    key: Vec<u8>,
    epoch: Epoch,
    is_held: bool,
    /// What is wanted later has a number of its own.
    number: u64,
}

/// The name of a key in the store, which nothing else there has: names and JSON text have no zero byte.
fn name(key: &RoomKey) -> Vec<u8> {
    [b"r", key.workflow.as_bytes(), &[0], key.key.as_bytes()].concat()
}

impl Tickets {
    pub(super) fn new(limits: Arc<SharedLimits>) -> Self {
        Self {
            limits,
            untold: Mutex::default(),
            numbers: AtomicU64::new(0),
        }
    }

    /// An execution runs, whatever the limit.
    pub(super) fn hold(self: &Arc<Self>, key: &RoomKey, id: ExecutionId, epoch: Epoch) {
        self.tell(id, name(key), epoch, true);
    }

    /// An execution has ended, or gave up.
    pub(super) fn give_back(self: &Arc<Self>, key: &RoomKey, id: ExecutionId, epoch: Epoch) {
        self.tell(id, name(key), epoch, false);
    }

    /// As [`Tickets::give_back`], of a note.
    pub(super) fn give_back_noted(self: &Arc<Self>, key: Vec<u8>, id: ExecutionId, epoch: Epoch) {
        self.tell(id, key, epoch, false);
    }

    /// What is not told yet of executions of a shard that another member has now is no longer this engine's to say.
    pub(super) fn forget_shard(&self, shard: ShardId) {
        self.untold.lock().retain(|id, _| id.shard() != shard);
    }

    /// Asks the store to let an execution in that waits; its note is written first, unless it `is_noted`.
    ///
    /// # Errors
    /// What the store says, or that it does not know yet what became of this execution before. It may have been let in.
    pub(super) async fn ask(
        &self,
        key: &RoomKey,
        asking: Asking,
        epoch: Epoch,
        is_noted: &mut bool,
    ) -> Result<Asked, StoreError> {
        let Asking { id, limit, .. } = asking;
        if self.untold.lock().contains_key(&id) {
            return Err(StoreError::Unavailable(format!("a ticket of {id} is still given back")));
        }
        let (name, store) = (name(key), &self.limits.store);
        if !*is_noted {
            self.limits.call(store.note(id.shard(), &id.0, &name)).await?;
            *is_noted = true;
        }
        let ask = Ask {
            ticket: &id.0,
            limit: limit as u64,
            priority: asking.priority,
            since: Some(asking.started_at),
            hold: Hold::Under(epoch),
        };
        self.limits.call(store.acquire(&name, &ask)).await
    }

    /// Tickets that executions of a shard may hold, with their keys.
    pub(super) async fn noted(&self, shard: ShardId) -> Result<Vec<(ExecutionId, Vec<u8>)>, StoreError> {
        let notes = self.limits.call(self.limits.store.noted(shard)).await?;
        let id = |ticket: Vec<u8>| <[u8; 16]>::try_from(ticket).ok().map(ExecutionId);
        let notes = notes.into_iter();
        Ok(notes.filter_map(|(ticket, key)| Some((id(ticket)?, key))).collect())
    }

    /// Whether the store does not know everything yet.
    pub(super) fn is_telling(&self) -> bool {
        !self.untold.lock().is_empty()
    }

    fn tell(self: &Arc<Self>, id: ExecutionId, key: Vec<u8>, epoch: Epoch, is_held: bool) {
        let wanted = Wanted {
            key,
            epoch,
            is_held,
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
        };
        if self.untold.lock().insert(id, wanted).is_none() {
            let tickets = Arc::clone(self);
            tokio::spawn(async move { tickets.keep_telling(id).await });
        }
    }

    /// Tells the store until it knows what is wanted last, or nobody wants it any more.
    async fn keep_telling(&self, id: ExecutionId) {
        let mut pause = TELL_AGAIN;
        while !self.limits.has_crashed() {
            let wanted = self.untold.lock().get(&id).cloned();
            let Some(wanted) = wanted else { return };
            if self.tell_once(id, &wanted).await.is_ok() {
                let mut untold = self.untold.lock();
                if untold.get(&id).is_some_and(|latest| latest.number == wanted.number) {
                    untold.remove(&id);
                }
                continue;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(TELL_AGAIN_MAX);
        }
    }

    async fn tell_once(&self, id: ExecutionId, wanted: &Wanted) -> Result<(), StoreError> {
        let (shard, ticket, store) = (id.shard(), &id.0, &self.limits.store);
        let Wanted { key, epoch, .. } = wanted;
        if wanted.is_held {
            self.limits.call(store.note(shard, ticket, key)).await?;
            return self.limits.call(store.hold(key, ticket, Hold::Under(*epoch))).await;
        }
        let is_free = self.limits.call(store.release(key, ticket, Some(*epoch))).await?;
        if is_free {
            self.limits.call(store.strike(shard, ticket)).await?;
        }
        Ok(())
    }
}

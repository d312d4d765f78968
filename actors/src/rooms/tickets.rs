//! What the store is to know of who runs, where members count together: each execution that runs holds a ticket of its key there.
//!
//! A ticket has no end of its own: an execution whose member died still runs, in the eyes of everybody else, until the next owner of its
//! shard goes on with it. So a ticket is noted beside the shard before it is taken and struck out after it was given back, and the next
//! owner looks through the notes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use parking_lot::Mutex;
use troupe_core::{Epoch, ExecutionId, ShardId};
use troupe_ports::{Ask, Asked, Hold, StoreError};

use super::machine::{Asking, RoomKey};
use crate::shared_limits::SharedLimits;

/// Pauses before the store is told again.
const TELL_AGAIN: Duration = Duration::from_millis(20);
const TELL_AGAIN_MAX: Duration = Duration::from_secs(1);

/// Tickets of a former owner that are barred at once.
const BARS_AT_ONCE: usize = 32;

/// Tickets of this engine's executions.
#[derive(Debug)]
pub(super) struct Tickets {
    pub(super) limits: Arc<SharedLimits>,
    /// What the store is to know and may not know yet. Each has a task that tells it.
    untold: Mutex<HashMap<ExecutionId, Wanted>>,
    /// Notes of those that ask: a refused one asks again without another note, until somebody strikes it out.
    noted: Mutex<HashMap<ExecutionId, Noted>>,
    /// Shards whose notes were looked through, and under which epoch.
    reconciled: Mutex<HashMap<ShardId, Epoch>>,
    numbers: AtomicU64,
}

/// The note of an execution that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    /// It is being written.
    Soon(Epoch),
    /// The store has it.
    Under(Epoch),
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
            noted: Mutex::default(),
            reconciled: Mutex::default(),
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
        self.noted.lock().retain(|id, _| id.shard() != shard);
    }

    /// Asks the store to let an execution in that waits; its note is written first.
    ///
    /// # Errors
    /// What the store says, or that it does not know yet what became of this execution before. It may have been let in.
    pub(super) async fn ask(&self, key: &RoomKey, asking: Asking, epoch: Epoch) -> Result<Asked, StoreError> {
        let Asking { id, limit, .. } = asking;
        if self.untold.lock().contains_key(&id) {
            return Err(StoreError::Unavailable(format!("a ticket of {id} is still given back")));
        }
        let (name, store) = (name(key), &self.limits.store);
        let known = self.noted.lock().insert(id, Noted::Soon(epoch));
        if known != Some(Noted::Under(epoch)) {
            self.limits.call(store.note(id.shard(), epoch, &id.0, &name)).await?;
        }
        match self.noted.lock().get_mut(&id) {
            Some(noted) if *noted == Noted::Soon(epoch) => *noted = Noted::Under(epoch),
            _ => return Err(StoreError::Unavailable(format!("{id} gave up meanwhile"))),
        }
        let ask = Ask {
            ticket: &id.0,
            limit: limit as u64,
            priority: asking.priority,
            since: Some(asking.started_at),
            hold: Hold::Under(epoch),
        };
        let asked = self.limits.call(store.acquire(&name, &ask)).await;
        if matches!(asked, Ok(Asked::Granted)) {
            self.noted.lock().remove(&id);
        }
        asked
    }

    /// Tickets that executions of a shard may hold, with their keys. What a former owner says of them from now on is too late.
    pub(super) async fn noted(&self, shard: ShardId, epoch: Epoch) -> Result<Vec<(ExecutionId, Vec<u8>)>, StoreError> {
        let store = &self.limits.store;
        let notes = self.limits.call(store.noted(shard, epoch)).await?;
        // It may have said more than it lived to hear the answer of.
        for some in notes.chunks(BARS_AT_ONCE) {
            let bars = some.iter().map(|(ticket, key)| store.bar(key, ticket, epoch));
            self.limits.call(try_join_all(bars)).await?;
        }
        self.reconciled.lock().insert(shard, epoch);
        let id = |ticket: Vec<u8>| <[u8; 16]>::try_from(ticket).ok().map(ExecutionId);
        let notes = notes.into_iter();
        Ok(notes.filter_map(|(ticket, key)| Some((id(ticket)?, key))).collect())
    }

    /// Whether the store does not know everything yet.
    pub(super) fn is_telling(&self) -> bool {
        !self.untold.lock().is_empty()
    }

    fn tell(self: &Arc<Self>, id: ExecutionId, key: Vec<u8>, epoch: Epoch, is_held: bool) {
        self.noted.lock().remove(&id);
        let wanted = Wanted {
            key,
            epoch,
            is_held,
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
        };
        let mut untold = self.untold.lock();
        // What was asked for before the shard was lost and taken again is of no more interest.
        if untold.get(&id).is_some_and(|latest| latest.epoch > epoch) {
            return;
        }
        // The task of an earlier epoch, if there is one yet, finds that it is over.
        if untold.insert(id, wanted).is_none_or(|before| before.epoch != epoch) {
            let tickets = Arc::clone(self);
            tokio::spawn(async move { tickets.keep_telling(id, epoch).await });
        }
    }

    /// Tells the store until it knows what is wanted last, or nobody wants it any more under that epoch.
    async fn keep_telling(&self, id: ExecutionId, epoch: Epoch) {
        let mut pause = TELL_AGAIN;
        while !self.limits.has_crashed() {
            let wanted = self.untold.lock().get(&id).cloned();
            let Some(wanted) = wanted.filter(|wanted| wanted.epoch == epoch) else {
                return;
            };
            let told = self.tell_once(id, &wanted).await;
            // Whoever owns the shard now says what is to become of its tickets.
            if matches!(told, Ok(()) | Err(StoreError::Fenced { .. })) {
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
            self.limits.call(store.note(shard, *epoch, ticket, key)).await?;
            return self.limits.call(store.hold(key, ticket, Hold::Under(*epoch))).await;
        }
        let is_reconciled = self.reconciled.lock().get(&shard) == Some(epoch);
        if !is_reconciled {
            // Its note is struck out before anybody looks for it, and a former owner may still ask.
            self.limits.call(store.bar(key, ticket, *epoch)).await?;
        }
        let is_free = self.limits.call(store.release(key, ticket, Some(*epoch))).await?;
        if is_free {
            self.limits.call(store.strike(shard, *epoch, ticket)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use troupe_backends::InProcessSemaphores;
    use troupe_core::Timestamp;
    use troupe_ports::Semaphores;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_noted_once_and_again_when_that_was_struck_out() {
        let store = Arc::<InProcessSemaphores>::default();
        let limits = SharedLimits::new(Arc::clone(&store) as Arc<dyn Semaphores>);
        let tickets = Arc::new(Tickets::new(Arc::new(limits)));
        let (shard, epoch) = (ShardId(0), Epoch(1));
        let key = RoomKey {
            workflow: "w".into(),
            key: "k".into(),
        };
        let asking = Asking {
            id: ExecutionId::fresh(shard, Timestamp(1), 1),
            priority: 5,
            started_at: Timestamp(1),
            limit: 1,
        };
        store.hold(&name(&key), b"another", Hold::Under(epoch)).await.unwrap();
        let is_refused = async || {
            let asked = tickets.ask(&key, asking, epoch).await.unwrap();
            matches!(asked, Asked::Refused { .. })
        };
        assert!(is_refused().await);
        assert_eq!(store.notes(), 1);
        // A call more for each try would be too many.
        store.strike(shard, epoch, &asking.id.0).await.unwrap();
        assert!(is_refused().await);
        assert_eq!(store.notes(), 0);
        tickets.give_back(&key, asking.id, epoch);
        while tickets.is_telling() {
            tokio::task::yield_now().await;
        }
        assert!(is_refused().await);
        assert_eq!(store.notes(), 1, "it may hold the key, and nobody would find it");
    }
}

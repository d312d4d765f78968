//! The live directory: which executions have an actor, and how many messages were routed to each.
//!
//! It is the shards' routing table. An actor retires only when it has received as many messages as were routed to it;
//! routing and retiring exclude each other per entry, so nothing dies in a mailbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use ractor::ActorRef;
use troupe_core::{ExecutionId, ShardId};

use crate::execution::ExecutionMessage;

#[derive(Debug)]
struct Live {
    actor: ActorRef<ExecutionMessage>,
    routed: AtomicU64,
    received: Arc<AtomicU64>,
}

/// Executions with an actor.
#[derive(Debug, Default)]
pub struct Directory {
    live: DashMap<ExecutionId, Live>,
}

impl Directory {
    /// Number of executions with an actor.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Messages that were routed and not received. Looks at every actor: for a scrape.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let waiting = |live: &Live| {
            let received = live.received.load(Ordering::Relaxed);
            live.routed.load(Ordering::Relaxed).saturating_sub(received)
        };
        self.live.iter().map(|entry| waiting(entry.value())).sum()
    }

    /// Whether no execution has an actor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether an execution has an actor.
    #[must_use]
    pub fn contains(&self, id: ExecutionId) -> bool {
        self.live.contains_key(&id)
    }

    /// Sends a message to an execution's actor; gives it back when there is none.
    ///
    /// # Errors
    /// The message, when the execution has no actor that still listens.
    pub fn route(&self, id: ExecutionId, message: ExecutionMessage) -> Result<(), ExecutionMessage> {
        let Some(live) = self.live.get(&id) else {
            return Err(message);
        };
        live.routed.fetch_add(1, Ordering::Relaxed);
        live.actor.send_message(message).map_err(|error| match error {
            ractor::MessagingErr::SendErr(message) => message,
            ractor::MessagingErr::ChannelClosed | ractor::MessagingErr::InvalidActorType => {
                unreachable!("a send gives its message back")
            }
        })
    }

    /// Enters an actor, which counts what it has received, and sends its first message, unless the execution has one
    /// already.
    ///
    /// # Errors
    /// The message, when the execution has an actor.
    pub fn enter(
        &self,
        id: ExecutionId,
        actor: &ActorRef<ExecutionMessage>,
        received: Arc<AtomicU64>,
        first: ExecutionMessage,
    ) -> Result<(), ExecutionMessage> {
        match self.live.entry(id) {
            Entry::Occupied(_) => Err(first),
            Entry::Vacant(vacant) => {
                let live = vacant.insert(Live {
                    actor: actor.clone(),
                    routed: AtomicU64::new(1),
                    received,
                });
                // An actor that died meanwhile is removed by its supervisor, which has yet to hear of it.
                live.actor.send_message(first).map_err(|error| match error {
                    ractor::MessagingErr::SendErr(message) => message,
                    ractor::MessagingErr::ChannelClosed | ractor::MessagingErr::InvalidActorType => {
                        unreachable!("a send gives its message back")
                    }
                })
            }
        }
    }

    /// Removes an execution's actor if it has received everything that was routed to it.
    #[must_use]
    pub fn retire(&self, id: ExecutionId, received: u64) -> bool {
        self.live
            .remove_if(&id, |_, live| live.routed.load(Ordering::Relaxed) == received)
            .is_some()
    }

    /// An execution's actor.
    #[must_use]
    pub fn actor(&self, id: ExecutionId) -> Option<ActorRef<ExecutionMessage>> {
        self.live.get(&id).map(|live| live.actor.clone())
    }

    /// Every execution of a shard. Looks through all of them: for failures only.
    #[must_use]
    pub fn of_shard(&self, shard: ShardId) -> Vec<ExecutionId> {
        let ids = self.live.iter().map(|entry| *entry.key());
        ids.filter(|id| id.shard() == shard).collect()
    }

    /// Which execution an actor runs. Looks through all of them: for failures only.
    #[must_use]
    pub fn find(&self, actor: ractor::ActorId) -> Option<ExecutionId> {
        self.live
            .iter()
            .find(|entry| entry.actor.get_id() == actor)
            .map(|entry| *entry.key())
    }

    /// Removes an execution's actor if it is this one.
    #[must_use]
    pub fn remove(&self, id: ExecutionId, actor: ractor::ActorId) -> bool {
        self.live
            .remove_if(&id, |_, live| live.actor.get_id() == actor)
            .is_some()
    }

    /// Removes an execution's actor, whatever was routed to it.
    pub fn take(&self, id: ExecutionId) -> Option<ActorRef<ExecutionMessage>> {
        self.live.remove(&id).map(|(_, live)| live.actor)
    }

    /// Whether an execution's actor is gone but not yet replaced.
    #[must_use]
    pub fn is_dead(&self, id: ExecutionId) -> bool {
        self.live
            .get(&id)
            .is_some_and(|live| live.actor.get_status() >= ractor::ActorStatus::Draining)
    }

    /// Removes every execution of a shard.
    pub fn remove_shard(&self, shard: ShardId) {
        self.live.retain(|id, _| id.shard() != shard);
    }
}

//! This engine among the others that share its state.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use troupe_core::{CommandId, Epoch, ShardId, StateFormat};
use troupe_ports::Member;

use super::EngineHandle;
use crate::placement::Whereabouts;

impl EngineHandle {
    /// Where a shard's executions can be asked for, as far as was seen.
    #[must_use]
    pub fn whereabouts(&self, shard: ShardId) -> Whereabouts {
        let context = &self.context;
        if context.parts.members.is_none() || context.shard(shard).is_ok() {
            return Whereabouts::Here;
        }
        context.neighbours.read().whereabouts(shard, &context.options.owner)
    }

    /// The epoch under which this engine serves a shard; none: it does not.
    #[must_use]
    pub fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.context.shard(shard).ok().map(|shard| shard.epoch)
    }

    /// Waits until [`EngineHandle::epoch`] of a shard is another one than `seen`. Only where there are other members; else it never
    /// returns.
    pub async fn epoch_changed(&self, shard: ShardId, seen: Option<Epoch>) {
        let mut placed = self.context.placed.subscribe();
        if placed.wait_for(|_| self.epoch(shard) != seen).await.is_err() {
            std::future::pending().await
        }
    }

    /// The members that share the state, this one among them; empty where there is no register.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.context.neighbours.read().members.clone()
    }

    /// How many shards each member holds, by name, as they were seen last.
    #[must_use]
    pub fn shards_held(&self) -> BTreeMap<String, u16> {
        let mut held = BTreeMap::new();
        for name in self.context.neighbours.read().holders.values() {
            *held.entry(name.clone()).or_default() += 1;
        }
        held
    }

    /// The newest format that the shards of each member hold something of, by name, as they were seen last.
    #[must_use]
    pub fn formats_held(&self) -> BTreeMap<String, StateFormat> {
        let neighbours = self.context.neighbours.read();
        let mut held = BTreeMap::new();
        for (shard, name) in &neighbours.holders {
            let format = neighbours.formats.get(shard).copied().unwrap_or_default();
            let known = held.entry(name.clone()).or_insert(format);
            *known = format.max(*known);
        }
        held
    }

    /// The format in which this engine writes what it begins, once the store has been told: all members read it.
    #[must_use]
    pub fn format_written(&self) -> StateFormat {
        *self.context.format.borrow()
    }

    /// The name under which this engine holds its leases.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.context.options.owner
    }

    /// An id that no command has had.
    #[must_use]
    pub fn fresh_command(&self) -> CommandId {
        self.context.command_id()
    }

    /// Looks at the register of members now: somebody was not where it was thought to be.
    pub fn look_again(&self) {
        self.context.look_again.notify_one();
    }

    /// Leaves its shards to the other members, a few at a time, within `within`; serves those that are left meanwhile. Does nothing
    /// where there are no others, or when it was called before.
    pub async fn leave(&self, within: Duration) {
        let context = &self.context;
        let Some(register) = &context.parts.members else { return };
        if context.leaving.swap(true, Ordering::AcqRel) {
            return;
        }
        context.look_again.notify_one();
        let mut placed = context.placed.subscribe();
        let given_up = placed.wait_for(|placed| placed.held == 0 || context.is_alone());
        if tokio::time::timeout(within, given_up).await.is_err() {
            tracing::warn!("not every shard was taken over by another member in time");
        }
        context.left.store(true, Ordering::Release);
        if let Err(error) = register.leave(&context.options.owner).await {
            tracing::debug!(%error, "the register forgets this member by itself");
        }
    }
}

//! What a workflow's retention has let go: what `actors/src/checkpointer/expire.rs` does, a step at a time.

use troupe_core::{ExecutionId, ShardId};
use troupe_ports::{StateStore, StoreError, VisibilityStore};

use super::process::{ListsMessage, ProcessNo};
use super::schedule::{Caller, Timed};
use super::{World, at_once};

/// Pause between two looks for archives that may go.
const LOOK_EVERY_MS: u64 = 120;
/// Most archives that go at once: few, so that it takes several looks.
const ROWS: usize = 3;

/// How far a look is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// What may go is marked: nobody reopens it from here on.
    Mark,
    /// Of those, what nobody has reopened before.
    Spare,
    /// Lists show nothing of them any more, and they go.
    Remove,
}

impl World {
    /// Looks for the first time, where executions are forgotten at all.
    pub(super) fn forget_regularly(&mut self, caller: Caller) {
        if self.scenario.retention_ms.is_some() {
            self.after(LOOK_EVERY_MS, Timed::Forget(caller, Look::Mark));
        }
    }

    pub(super) fn forget(&mut self, caller: Caller, look: Look) {
        if self.serving(caller).is_none() {
            return;
        }
        let reachable = self.reaches(caller.process);
        self.store.set_reachable(reachable);
        let next = match look {
            Look::Mark => self.mark(caller),
            Look::Spare => self.spare(caller),
            Look::Remove => self.remove(caller),
        };
        self.store.set_reachable(true);
        let pause_ms = self.random.below(8);
        match next {
            Ok(Some(next)) => self.after(pause_ms, Timed::Forget(caller, next)),
            // The lists say when.
            Ok(None) if look == Look::Spare => {}
            Ok(None) | Err(_) => self.look_again(caller),
        }
    }

    fn mark(&mut self, caller: Caller) -> Result<Option<Look>, StoreError> {
        let listed = at_once(self.store.expired(caller.shard, self.now, ROWS))?;
        let Some(state) = self.processes.get_mut(&caller.process) else {
            return Ok(None);
        };
        state.expiring.extend(&listed);
        Ok((!listed.is_empty()).then_some(Look::Spare))
    }

    /// They have no actor, no entry that the store lacks, and are still archives.
    fn spare(&mut self, caller: Caller) -> Result<Option<Look>, StoreError> {
        let archives = at_once(self.store.expired(caller.shard, self.now, ROWS))?;
        let Some(state) = self.processes.get_mut(&caller.process) else {
            return Ok(Some(Look::Mark));
        };
        let Some(serving) = state.shards.get_mut(&caller.shard) else {
            return Ok(Some(Look::Mark));
        };
        let marked: Vec<ExecutionId> = of_shard(&state.expiring, caller.shard);
        for id in marked {
            let is_held = serving.checkpointer.machine.holds(id);
            if state.directory.contains_key(&id) || is_held || !archives.contains(&id) {
                state.expiring.remove(&id);
                *self.counts.entry("spared by retention").or_default() += 1;
            }
        }
        // A summary that is still on its way would outlive what it tells of.
        serving.lists.inbox.push_back(ListsMessage::Forget);
        Ok(None)
    }

    /// Lists show everything that was changed before, or could not be written.
    pub(super) fn lists_are_clean(&mut self, caller: Caller, clean: bool) {
        if clean {
            self.after(0, Timed::Forget(caller, Look::Remove));
        } else {
            self.look_again(caller);
        }
    }

    fn remove(&mut self, caller: Caller) -> Result<Option<Look>, StoreError> {
        let expiring = self.processes.get(&caller.process).map(|state| &state.expiring);
        let due = expiring.map_or_else(Vec::new, |expiring| of_shard(expiring, caller.shard));
        if !self.reaches(caller.process) {
            return Err(StoreError::Unavailable("nobody answers".into()));
        }
        at_once(self.lists.forget(caller.shard, Some(caller.epoch), &due))?;
        let gone = at_once(self.store.expire(caller.shard, caller.epoch, self.now, &due, ROWS))?;
        *self.counts.entry("forgotten").or_default() += gone.archives;
        Ok(None)
    }

    fn look_again(&mut self, caller: Caller) {
        if let Some(state) = self.processes.get_mut(&caller.process) {
            state.expiring.retain(|id| id.shard() != caller.shard);
        }
        self.after(LOOK_EVERY_MS, Timed::Forget(caller, Look::Mark));
    }

    /// Whether an archive is about to go: nobody reopens it any more.
    pub(super) fn is_expiring(&self, process: ProcessNo, id: ExecutionId) -> bool {
        let state = self.processes.get(&process);
        state.is_some_and(|state| state.expiring.contains(&id))
    }
}

fn of_shard(ids: &std::collections::BTreeSet<ExecutionId>, shard: ShardId) -> Vec<ExecutionId> {
    ids.iter().copied().filter(|id| id.shard() == shard).collect()
}

//! Slots of a key: how many attempts that share one may run at once (`data.concurrency`).
//!
//! In memory of one engine: an attempt that is dispatched again after a restart takes a slot again. Where several members run, those
//! who have a slot here ask for one of all: see `shared_slots`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use troupe_core::ExecutionId;
use troupe_core::definition::ConcurrencyScope;
use troupe_core::execution::ExecutionState;
use troupe_core::{NodeIx, plan::Plan};

use super::permits::{Permit, Permits, Rank};
use crate::options::Mutants;

/// What attempts share that count under one limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotKey {
    among: Among,
    /// What the key's expression gave, as JSON text; else the node's id.
    key: Box<str>,
    is_node: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Among {
    Execution(ExecutionId),
    Workflow(Box<str>),
    All,
}

impl SlotKey {
    /// Whether attempts of several executions count under it, wherever they run.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self.among {
            Among::Execution(_) => false,
            Among::Workflow(_) | Among::All => true,
        }
    }

    /// Its name in a store, which no other key and nothing else there has: names and JSON text have no zero byte.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        let (scope, among) = match &self.among {
            Among::Execution(id) => (b'x', &id.0[..]),
            Among::Workflow(workflow) => (b'w', workflow.as_bytes()),
            Among::All => (b'g', &[][..]),
        };
        let is_node = if self.is_node { b'n' } else { b'k' };
        [&[b's', scope, is_node], among, &[0], self.key.as_bytes()].concat()
    }
}

/// The slot that an attempt needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotWanted {
    /// Of what.
    pub key: SlotKey,
    /// How many attempts may have one when this one takes its.
    pub limit: usize,
}

impl SlotWanted {
    /// A slot of a key that everybody shares.
    #[cfg(test)]
    pub(super) fn anywhere(key: &str, limit: usize) -> Self {
        let key = SlotKey {
            among: Among::All,
            key: key.into(),
            is_node: false,
        };
        Self { key, limit }
    }

    /// The slot that attempts of a node need as it stands; none where nothing bounds them.
    #[must_use]
    pub fn of(plan: &Plan, state: &ExecutionState, ix: NodeIx) -> Option<Box<Self>> {
        let planned = plan.node(ix);
        let limit = planned.concurrency.as_ref()?;
        let among = match limit.scope {
            ConcurrencyScope::Execution => Among::Execution(state.id),
            // A body is part of the workflow that it is written in.
            ConcurrencyScope::Workflow => {
                let name = plan.workflow.as_str();
                Among::Workflow(name.split_once('#').map_or(name, |(outer, _)| outer).into())
            }
            ConcurrencyScope::Global => Among::All,
        };
        let given = state.node(ix).and_then(|node| node.concurrency_key.as_ref());
        // Nodes of bodies may have the same id.
        let own = || match plan.workflow.as_str().split_once('#') {
            Some((_, within)) => format!("{within}#{}", planned.key).into(),
            None => planned.key.as_str().into(),
        };
        Some(Box::new(Self {
            key: SlotKey {
                among,
                key: given.map_or_else(own, |key| key.as_str().into()),
                is_node: given.is_none(),
            },
            limit: limit.limit as usize,
        }))
    }
}

/// The slots of every key that is in use.
#[derive(Debug, Default)]
pub struct Slots {
    keys: Mutex<HashMap<SlotKey, InUse>>,
    mutants: Mutants,
}

#[derive(Debug, Default)]
struct InUse {
    permits: Arc<Permits>,
    /// Who has a slot or waits for one.
    users: usize,
}

/// Leave to run under a key; it goes to the next one when it is dropped.
#[derive(Debug)]
pub struct Slot {
    // Given on before the key is forgotten.
    _permit: Permit,
    _interest: Interest,
}

/// Keeps a key known.
#[derive(Debug)]
struct Interest {
    slots: Arc<Slots>,
    key: SlotKey,
    permits: Arc<Permits>,
}

impl Slots {
    /// With these faults planted.
    #[must_use]
    pub fn with(mut self, mutants: Mutants) -> Self {
        self.mutants = mutants;
        self
    }

    /// A slot, if one is free and nobody waits for it.
    pub fn try_acquire(self: &Arc<Self>, wanted: &SlotWanted) -> Option<Slot> {
        let interest = self.interest(&wanted.key);
        let permit = interest.permits.try_acquire_within(self.most(wanted))?;
        Some(Slot {
            _permit: permit,
            _interest: interest,
        })
    }

    /// Waits for a slot, behind whoever is more urgent. Cancel-safe: who no longer waits is passed over.
    pub async fn acquire(self: &Arc<Self>, wanted: &SlotWanted, rank: Rank) -> Slot {
        let interest = self.interest(&wanted.key);
        let permit = interest.permits.acquire_within(self.most(wanted), rank).await;
        Slot {
            _permit: permit,
            _interest: interest,
        }
    }

    fn most(&self, wanted: &SlotWanted) -> usize {
        wanted.limit + usize::from(self.mutants.one_slot_too_many)
    }

    /// How many keys are in use.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.lock().len()
    }

    fn interest(self: &Arc<Self>, key: &SlotKey) -> Interest {
        let permits = {
            let mut keys = self.keys.lock();
            let in_use = keys.entry(key.clone()).or_default();
            in_use.users += 1;
            Arc::clone(&in_use.permits)
        };
        Interest {
            slots: Arc::clone(self),
            key: key.clone(),
            permits,
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut keys = self.slots.keys.lock();
        if let Some(in_use) = keys.get_mut(&self.key) {
            in_use.users -= 1;
            if in_use.users == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::poll;

    use super::*;

    fn wanted(key: &str, limit: usize) -> SlotWanted {
        SlotWanted::anywhere(key, limit)
    }

    fn urgent(priority: u8) -> Rank {
        Rank {
            priority,
            ..Rank::default()
        }
    }

    #[test]
    fn every_key_has_a_name_of_its_own() {
        let key = |among, key: &str, is_node| SlotKey {
            among,
            key: key.into(),
            is_node,
        };
        let workflow = |name: &str| Among::Workflow(name.into());
        let keys = [
            key(workflow("w"), "a", true),
            key(workflow("w"), "a", false),
            key(workflow("wa"), "", false),
            key(Among::All, "a", false),
            key(Among::All, "wa", false),
            key(Among::Execution(ExecutionId([b'w'; 16])), "a", false),
        ];
        let names: std::collections::BTreeSet<_> = keys.iter().map(SlotKey::name).collect();
        assert_eq!(names.len(), keys.len());
        let shared = keys.iter().filter(|key| key.is_shared()).count();
        assert_eq!(shared, keys.len() - 1, "all but that of an execution");
    }

    #[tokio::test]
    async fn a_key_that_is_taken_keeps_no_other_waiting() {
        let slots = Arc::new(Slots::default());
        let (a, b) = (wanted("a", 1), wanted("b", 1));
        let first = slots.try_acquire(&a).unwrap();
        let mut second = Box::pin(slots.acquire(&a, urgent(9)));
        assert!(poll!(second.as_mut()).is_pending());
        drop(slots.try_acquire(&b).expect("another key is free"));
        drop(first);
        drop(second.await);
        assert_eq!(slots.keys(), 0, "a key that nobody uses is forgotten");
    }

    #[tokio::test]
    async fn the_most_urgent_has_the_next_slot_and_nobody_passes_who_waits() {
        let slots = Arc::new(Slots::default());
        let a = wanted("a", 1);
        let first = slots.try_acquire(&a).unwrap();
        let mut low = Box::pin(slots.acquire(&a, urgent(1)));
        let mut high = Box::pin(slots.acquire(&a, urgent(8)));
        assert!(poll!(low.as_mut()).is_pending() && poll!(high.as_mut()).is_pending());
        let wide = wanted("a", 5);
        assert!(
            slots.try_acquire(&wide).is_none(),
            "whoever waits goes before one that allows more"
        );
        drop(first);
        assert!(poll!(low.as_mut()).is_pending());
        drop(high.await);
        drop(low.await);
    }

    #[tokio::test]
    async fn each_attempt_counts_all_others_under_its_own_limit() {
        let slots = Arc::new(Slots::default());
        let (narrow, wide) = (wanted("a", 1), wanted("a", 3));
        let two = [slots.try_acquire(&wide).unwrap(), slots.try_acquire(&wide).unwrap()];
        let mut alone = Box::pin(slots.acquire(&narrow, urgent(5)));
        let [one, other] = two;
        drop(one);
        assert!(poll!(alone.as_mut()).is_pending());
        drop(other);
        drop(alone.await);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let slots = Arc::new(Slots::default());
        let a = wanted("a", 1);
        let first = slots.try_acquire(&a).unwrap();
        let mut waits = Box::pin(slots.acquire(&a, urgent(5)));
        assert!(poll!(waits.as_mut()).is_pending());
        drop(first);
        // The slot is on its way to one that is gone.
        drop(waits);
        assert_eq!(slots.keys(), 0);
    }
}

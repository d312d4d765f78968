//! Leave to run: what bounds the attempts of one engine that run at once, and in which order an attempt waits for it.
//!
//! The slot of its key comes first, then the permit of its node type, then the one that all attempts share: whoever waits
//! holds nothing that others of another key or type need. Nothing here needs a runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use troupe_core::definition::NodeKind;

use super::permits::{Permit, Permits, Rank};
use super::shared_slots::{SharedSlot, SharedSlots};
use super::slots::{Slot, SlotWanted, Slots};
use super::turn::AttemptWait;
use crate::options::EngineOptions;
use crate::shared_limits::SharedLimits;

/// What an attempt's leave depends on.
#[derive(Clone, Debug)]
pub struct LeaveNeeds {
    /// How urgent it is.
    pub rank: Rank,
    /// The type of its node.
    pub kind: NodeKind,
    /// The slot that it needs.
    pub slot: Option<Box<SlotWanted>>,
}

/// What bounds the attempts of one engine that run at once.
#[derive(Debug)]
pub struct Limits {
    slots: Arc<Slots>,
    /// Slots that other members count, too; none: there are no others.
    shared: Option<Arc<SharedSlots>>,
    of_types: BTreeMap<NodeKind, Arc<Permits>>,
    all: Arc<Permits>,
}

/// Leave to run: whoever waits has it once it is dropped.
#[derive(Debug)]
pub struct Leave {
    _permit: Permit,
    _of_type: Option<Permit>,
    slot: Option<HeldSlot>,
}

#[derive(Debug)]
enum HeldSlot {
    Here { _slot: Slot },
    Shared(SharedSlot),
}

impl Leave {
    /// Whether what it holds is still its own: a slot that other members count, too, may be lost while this one cannot renew it.
    pub(super) fn holds(&self) -> bool {
        match &self.slot {
            Some(HeldSlot::Shared(slot)) => slot.holds(),
            Some(HeldSlot::Here { .. }) | None => true,
        }
    }
}

impl Limits {
    /// The limits of an engine that counts by itself.
    #[must_use]
    pub fn new(options: &EngineOptions) -> Self {
        let of_types = options.attempts_max_of.iter();
        Self {
            slots: Arc::new(Slots::default().with(options.mutants)),
            shared: None,
            of_types: of_types.map(|(kind, most)| (*kind, Permits::new(*most))).collect(),
            all: Permits::new(options.attempts_max),
        }
    }

    /// Other members count, too, what is not an execution's own alone; none: there are no others.
    pub(crate) fn with_others(mut self, options: &EngineOptions, shared: Option<&Arc<SharedLimits>>) -> Self {
        self.shared = shared.map(|limits| Arc::new(SharedSlots::new(Arc::clone(limits), options)));
        self
    }

    /// Whether other members may still count something here.
    pub(crate) fn is_counted(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_counted())
    }

    pub(crate) fn shared(&self) -> Option<&Arc<SharedSlots>> {
        self.shared.as_ref()
    }

    /// Leave to run for an attempt that needs no slot, if nobody who waits for the same goes before it.
    pub(super) fn leave_at_once(&self, needs: &LeaveNeeds) -> Option<Leave> {
        if needs.slot.is_some() {
            return None;
        }
        let of_type = match self.of_types.get(&needs.kind) {
            None => None,
            Some(permits) => Some(permits.try_acquire()?),
        };
        Some(Leave {
            _permit: self.all.try_acquire()?,
            _of_type: of_type,
            slot: None,
        })
    }

    /// Waits for leave to run. While it waits for something, it keeps what `waits` makes of that. Cancel-safe: who no longer
    /// waits is passed over, and gives back what it has.
    pub async fn leave<W>(&self, needs: &LeaveNeeds, waits: impl Fn(AttemptWait) -> W) -> Leave {
        let slot = match &needs.slot {
            None => None,
            Some(wanted) => Some(self.slot(wanted, needs.rank, || waits(AttemptWait::Slot)).await),
        };
        let permit = async |permits: &Arc<Permits>, what| match permits.try_acquire() {
            Some(permit) => permit,
            None => {
                let _waiting = waits(what);
                permits.acquire(needs.rank).await
            }
        };
        let of_type = match self.of_types.get(&needs.kind) {
            None => None,
            Some(permits) => Some(permit(permits, AttemptWait::NodeType).await),
        };
        Leave {
            _permit: permit(&self.all, AttemptWait::Permit).await,
            _of_type: of_type,
            slot,
        }
    }

    /// A slot of this engine first, then one of all: so only those ask for it who may have it here.
    async fn slot<W>(&self, wanted: &SlotWanted, rank: Rank, waits: impl Fn() -> W) -> HeldSlot {
        let slot = match self.slots.try_acquire(wanted) {
            Some(slot) => slot,
            None => {
                let _waiting = waits();
                self.slots.acquire(wanted, rank).await
            }
        };
        match &self.shared {
            Some(shared) if wanted.key.is_shared() => HeldSlot::Shared(shared.acquire(wanted, rank, slot, waits).await),
            Some(_) | None => HeldSlot::Here { _slot: slot },
        }
    }
}

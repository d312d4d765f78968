//! How many executions of a workflow run at once (`settings.concurrency`): the others are durable, pending, and hold no actor.
//!
//! Where members count together, the line of this engine stays its own, and whoever is first in it asks the store before it is let in.

pub mod machine;
#[cfg(test)]
mod orders;
mod tickets;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use troupe_core::execution::ExecutionState;
use troupe_core::plan::Plan;
use troupe_core::{Epoch, ExecutionId, ShardId};
use troupe_ports::{Asked, StoreError};

use crate::context::{EngineContext, ShardContext};
use crate::execution::ExecutionMessage;
use crate::shard::deliver;
use crate::shared_limits::SharedLimits;
use machine::{Asking, Entered, Knocking, RoomKey, Rooms};
use tickets::Tickets;

/// Pause before it is looked again whether every shard has told who runs.
const RECOVERY_POLL: Duration = Duration::from_millis(20);
/// Pauses before the store is asked again: the first, and the longest.
const ASK_AGAIN: Duration = Duration::from_millis(10);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(160);

/// The rooms of one engine: in memory, filled by the executions themselves when they are recovered.
#[derive(Debug, Default)]
pub struct EngineRooms {
    rooms: Mutex<Rooms>,
    polls: AtomicBool,
    /// Where other members count, too; none: there are no others.
    tickets: Option<Arc<Tickets>>,
}

impl EngineRooms {
    pub(crate) fn new(shared: Option<&Arc<SharedLimits>>) -> Self {
        Self {
            tickets: shared.map(|limits| Arc::new(Tickets::new(Arc::clone(limits)))),
            ..Self::default()
        }
    }

    /// Whether the store does not know yet of somebody who began or ended.
    pub(crate) fn is_telling(&self) -> bool {
        self.tickets.as_ref().is_some_and(|tickets| tickets.is_telling())
    }

    /// How many executions wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.rooms.lock().waiting()
    }

    fn runs(&self, key: RoomKey, id: ExecutionId, epoch: Epoch) {
        self.rooms.lock().runs(key.clone(), id);
        if let Some(tickets) = &self.tickets {
            tickets.hold(&key, id, epoch);
        }
    }

    fn leave(&self, id: ExecutionId, epoch: Epoch) -> Option<RoomKey> {
        let key = self.rooms.lock().leave(id)?;
        if let Some(tickets) = &self.tickets {
            tickets.give_back(&key, id, epoch);
        }
        Some(key)
    }

    fn forget_shard(&self, shard: ShardId) {
        self.rooms.lock().forget_shard(shard);
        if let Some(tickets) = &self.tickets {
            tickets.forget_shard(shard);
        }
    }

    async fn reconcile(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        let Some(tickets) = &self.tickets else {
            return Ok(());
        };
        for (id, key) in tickets.noted(shard, epoch).await? {
            // Whoever is reopened meanwhile says so after this.
            let inside = self.rooms.lock();
            // One that waits asks anew: it may not be the next one here.
            if !inside.is_inside(id) {
                tickets.give_back_noted(key, id, epoch);
            }
        }
        Ok(())
    }

    /// Asks the store once to let an execution in.
    async fn knock(&self, tickets: &Arc<Tickets>, key: &RoomKey, asking: Asking, epoch: Epoch) -> Knocked {
        let asked = tickets.ask(key, asking, epoch).await;
        let mut rooms = self.rooms.lock();
        match asked {
            Ok(Asked::Granted) => match rooms.enter(key, asking.id) {
                Entered::Now => return Knocked::In,
                Entered::Before => {}
                Entered::Gone => tickets.give_back(key, asking.id, epoch),
            },
            // Nobody asks any more for one that left meanwhile, and what was said last may have come after what it gave back.
            Ok(Asked::Refused { .. }) | Err(_) if !rooms.is_known(asking.id) => {
                tickets.give_back(key, asking.id, epoch);
            }
            Ok(Asked::Refused { .. }) => return Knocked::Refused,
            Err(_) => return Knocked::Unsure,
        }
        Knocked::Over
    }
}

/// What came of asking the store.
enum Knocked {
    /// It is let in.
    In,
    /// It was let in before, or it left.
    Over,
    /// It is to ask again.
    Refused,
    /// As before, and the store may count it already.
    Unsure,
}

/// A pending execution would run; it is told when it may.
pub(crate) fn ask(engine: &Arc<EngineContext>, plan: &Plan, state: &ExecutionState) {
    let (Some(key), Some(limit)) = (key(plan, state), plan.settings.concurrency.as_ref()) else {
        return;
    };
    let asking = Asking {
        id: state.id,
        priority: state.priority,
        started_at: state.started_at,
        limit: limit.limit as usize,
    };
    let is_inside = {
        let mut rooms = engine.rooms.rooms.lock();
        rooms.ask(key.clone(), asking);
        rooms.is_inside(state.id)
    };
    if is_inside {
        // What it was told is lost.
        tell(engine, vec![state.id]);
    }
    settle(engine, &key);
}

/// An execution runs, and ran before this engine knew of it.
pub(crate) fn runs(shard: &ShardContext, plan: &Plan, state: &ExecutionState) {
    if let Some(key) = key(plan, state) {
        shard.engine.rooms.runs(key, state.id, shard.epoch);
    }
}

/// An execution has ended, durably.
pub(crate) fn leave(shard: &ShardContext, id: ExecutionId) {
    if let Some(key) = shard.engine.rooms.leave(id, shard.epoch) {
        settle(&shard.engine, &key);
    }
}

/// A shard is no longer this engine's. Whoever serves it next hears of its executions, and their tickets are its own.
pub(crate) fn forget_shard(engine: &Arc<EngineContext>, shard: ShardId) {
    let rooms = &engine.rooms;
    rooms.forget_shard(shard);
    if rooms.tickets.is_some() {
        // The store decides whether there is room for those that are left here.
        let keys = rooms.rooms.lock().keys();
        keys.iter().for_each(|key| settle(engine, key));
    }
}

/// Gives back the tickets of a shard whose executions do not run: a former owner took them, and died before it let those in, or after
/// they had ended. By now every execution of the shard that runs or waits has told so.
///
/// # Errors
/// What the store says; then it is to be tried again.
pub(crate) async fn reconcile(shard: &ShardContext) -> Result<(), StoreError> {
    shard.engine.rooms.reconcile(shard.shard, shard.epoch).await
}

fn key(plan: &Plan, state: &ExecutionState) -> Option<RoomKey> {
    let room = state.room.as_ref()?;
    Some(RoomKey {
        workflow: plan.workflow.as_str().into(),
        key: room.key.as_str().into(),
    })
}

/// Lets in who may begin. Until every shard has told who runs already, nobody may.
fn settle(engine: &Arc<EngineContext>, key: &RoomKey) {
    if engine.has_recovered() {
        if engine.rooms.tickets.is_some() {
            return begin_knocking(engine, key);
        }
        let admitted = engine.rooms.rooms.lock().admit(key);
        return tell(engine, admitted);
    }
    if engine.rooms.polls.swap(true, Ordering::AcqRel) {
        return;
    }
    let engine = Arc::downgrade(engine);
    tokio::spawn(async move {
        while let Some(engine) = engine.upgrade() {
            if engine.has_recovered() {
                engine.rooms.polls.store(false, Ordering::Release);
                let keys = engine.rooms.rooms.lock().keys();
                return keys.iter().for_each(|key| settle(&engine, key));
            }
            if engine.draining.load(Ordering::Acquire) {
                return;
            }
            drop(engine);
            tokio::time::sleep(RECOVERY_POLL).await;
        }
    });
}

fn begin_knocking(engine: &Arc<EngineContext>, key: &RoomKey) {
    let begun = engine.rooms.rooms.lock().begin_knocking(key);
    if let Some(knocking) = begun {
        tokio::spawn(knock(Arc::downgrade(engine), key.clone(), knocking));
    }
}

/// Asks the store for the executions of a key, one after the other, until nobody waits or this engine alone has no room for more.
async fn knock(engine: Weak<EngineContext>, key: RoomKey, knocking: Knocking) {
    let mut unsure = None;
    let mut pause = ASK_AGAIN;
    while let Some(engine) = engine.upgrade() {
        let rooms = &engine.rooms;
        let (Some(tickets), false) = (&rooms.tickets, engine.draining.load(Ordering::Acquire)) else {
            return;
        };
        let next = rooms.rooms.lock().next_to_knock(&key, knocking, unsure.take());
        let Some(asking) = next else { return };
        // While another shard tells who runs, and while that of this execution is about to be served, nobody is let in.
        let shard = engine.has_recovered().then(|| engine.shard(asking.id.shard()));
        if let Some(Ok(shard)) = shard {
            match rooms.knock(tickets, &key, asking, shard.epoch).await {
                Knocked::In => {
                    tell(&engine, vec![asking.id]);
                    pause = ASK_AGAIN;
                    continue;
                }
                Knocked::Over => {
                    pause = ASK_AGAIN;
                    continue;
                }
                Knocked::Refused => {}
                Knocked::Unsure => unsure = Some(asking.id),
            }
        }
        drop(engine);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN_MAX);
    }
}

fn tell(engine: &Arc<EngineContext>, admitted: Vec<ExecutionId>) {
    for id in admitted {
        // A shard that is gone takes its executions along, and whoever serves it next hears of them.
        let Ok(shard) = engine.shard(id.shard()) else { continue };
        tokio::spawn(async move { deliver(&shard, id, ExecutionMessage::Admitted).await });
    }
}

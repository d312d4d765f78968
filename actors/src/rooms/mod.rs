//! How many executions of a workflow run at once (`settings.concurrency`): the others are durable, pending, and hold no actor.

pub mod machine;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use troupe_core::execution::ExecutionState;
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, ShardId};

use crate::context::EngineContext;
use crate::execution::ExecutionMessage;
use crate::shard::deliver;
use machine::{Asking, RoomKey, Rooms};

/// Pause before it is looked again whether every shard has told who runs.
const RECOVERY_POLL: Duration = Duration::from_millis(20);

/// The rooms of one engine: in memory, filled by the executions themselves when they are recovered.
#[derive(Debug, Default)]
pub struct EngineRooms {
    rooms: Mutex<Rooms>,
    polls: AtomicBool,
}

impl EngineRooms {
    /// How many executions wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.rooms.lock().waiting()
    }

    /// A shard is no longer this engine's.
    pub fn forget_shard(&self, shard: ShardId) {
        self.rooms.lock().forget_shard(shard);
    }
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
pub(crate) fn runs(engine: &EngineContext, plan: &Plan, state: &ExecutionState) {
    if let Some(key) = key(plan, state) {
        engine.rooms.rooms.lock().runs(key, state.id);
    }
}

/// An execution has ended, durably.
pub(crate) fn leave(engine: &Arc<EngineContext>, id: ExecutionId) {
    let key = engine.rooms.rooms.lock().leave(id);
    if let Some(key) = key {
        settle(engine, &key);
    }
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

fn tell(engine: &Arc<EngineContext>, admitted: Vec<ExecutionId>) {
    for id in admitted {
        // A shard that is gone takes its executions along, and whoever serves it next hears of them.
        let Ok(shard) = engine.shard(id.shard()) else { continue };
        tokio::spawn(async move { deliver(&shard, id, ExecutionMessage::Admitted).await });
    }
}

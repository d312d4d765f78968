//! The rooms' shell: what `actors/src/rooms/mod.rs` does. They are one engine's, so only worlds with one process have limited
//! workflows.

use troupe_actors::rooms::machine::{Asking, RoomKey};
use troupe_core::execution::ExecutionState;
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, ShardId};

use super::process::{ActorNo, ExecutionMessage, ProcessNo};
use super::schedule::Timed;
use super::{World, shards};

/// Pause before it is looked again whether every shard has told who runs.
const POLL_MS: u64 = 20;

impl World {
    /// A pending execution would run; it is told when it may.
    pub(super) fn ask_for_room(&mut self, process: ProcessNo, actor: ActorNo) {
        let Some((key, asking)) = self.asking(process, actor) else {
            return;
        };
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        state.rooms.ask(key.clone(), asking);
        let is_inside = state.rooms.is_inside(asking.id);
        self.count("asked for room");
        if is_inside {
            // What it was told is lost.
            self.admit(process, vec![asking.id]);
        }
        self.settle_room(process, &key);
    }

    /// An execution runs, and ran before this engine knew of it.
    pub(super) fn has_room(&mut self, process: ProcessNo, actor: ActorNo) {
        let asking = self.asking(process, actor);
        if let (Some((key, asking)), Some(state)) = (asking, self.processes.get_mut(&process)) {
            state.rooms.runs(key, asking.id);
        }
    }

    /// An execution has ended, durably.
    pub(super) fn leave_room(&mut self, process: ProcessNo, id: ExecutionId) {
        let state = self.processes.get_mut(&process);
        if let Some(key) = state.and_then(|state| state.rooms.leave(id)) {
            self.settle_room(process, &key);
        }
    }

    /// Every shard has told who runs already: those that wait are let in.
    pub(super) fn poll_rooms(&mut self, process: ProcessNo) {
        if !self.has_recovered(process) {
            return self.after(POLL_MS, Timed::RoomsPoll(process));
        }
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        state.polls_rooms = false;
        let mut keys = state.rooms.keys();
        keys.sort_by(|a, b| (&a.workflow, &a.key).cmp(&(&b.workflow, &b.key)));
        for key in keys {
            self.settle_room(process, &key);
        }
    }

    fn asking(&self, process: ProcessNo, actor: ActorNo) -> Option<(RoomKey, Asking)> {
        let execution = self.processes.get(&process)?.executions.get(&actor)?;
        let machine = execution.machine.as_deref()?;
        room_of(&machine.compiled().plan, machine.state())
    }

    fn settle_room(&mut self, process: ProcessNo, key: &RoomKey) {
        let recovered = self.has_recovered(process);
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        if recovered {
            let admitted = state.rooms.admit(key);
            return self.admit(process, admitted);
        }
        if !std::mem::replace(&mut state.polls_rooms, true) {
            self.after(POLL_MS, Timed::RoomsPoll(process));
        }
    }

    /// A task of its own tells each.
    fn admit(&mut self, process: ProcessNo, admitted: Vec<ExecutionId>) {
        for id in admitted {
            self.count("admitted");
            let after_ms = self.random.below(3);
            self.after(after_ms, Timed::Deliver(process, id, ExecutionMessage::Admitted));
        }
    }

    /// Whether every shard is served and has loaded what has unfinished work.
    fn has_recovered(&self, process: ProcessNo) -> bool {
        let Some(state) = self.processes.get(&process) else {
            return false;
        };
        let told = |shard: &ShardId| {
            state
                .shards
                .get(shard)
                .is_some_and(|serving| serving.resume.has_told_all())
        };
        let loads = state.executions.values().any(|execution| {
            let recovers = |message: &ExecutionMessage| matches!(message, ExecutionMessage::Recover);
            execution.then.as_ref().is_some_and(recovers) || execution.inbox.iter().any(recovers)
        });
        shards().all(|shard| told(&shard)) && !loads
    }
}

/// The room that an execution is in or waits for.
pub(super) fn room_of(plan: &Plan, state: &ExecutionState) -> Option<(RoomKey, Asking)> {
    let key = RoomKey {
        workflow: plan.workflow.as_str().into(),
        key: state.room.as_ref()?.key.as_str().into(),
    };
    let asking = Asking {
        id: state.id,
        priority: state.priority,
        started_at: state.started_at,
        limit: plan.settings.concurrency.as_ref()?.limit as usize,
    };
    Some((key, asking))
}

//! Planned stops: what `close` of `actors/src/shard/actor.rs` does. A process lets go of what it runs, waits for its commits, gives
//! its leases back and ends; whoever takes the shards next knows that nothing was lost by accident.

use std::collections::VecDeque;

use troupe_core::ShardId;

use super::World;
use super::process::{CommitterMessage, ProcessNo};
use super::schedule::{Call, Caller, Repair, Timed};

impl World {
    /// The process is told to stop; it starts again so long after it has.
    pub(super) fn stop(&mut self, victim: ProcessNo, down_ms: u64) {
        let Some(process) = self.processes.get_mut(&victim) else {
            return;
        };
        if process.frozen || process.stopping.is_some() {
            return;
        }
        process.stopping = Some(down_ms);
        let served: Vec<ShardId> = process.shards.keys().copied().collect();
        self.count("planned stops");
        for shard in served {
            self.withdraw(victim, shard);
            if let Some((_, serving)) = self.caller(victim, shard) {
                serving.closing = true;
                serving.resume.done = true;
                serving.resume.tail = VecDeque::new();
                serving.mail.clear();
                serving.committer.inbox.push_back(CommitterMessage::Flush);
            }
        }
        self.end_if_let_go(victim);
    }

    /// The committer has nothing left to write.
    pub(super) fn give_back(&mut self, caller: Caller) {
        let Some(serving) = self.serving(caller) else { return };
        if serving.closing && !std::mem::replace(&mut serving.gives_back, true) {
            self.call(caller, Call::Release);
        }
    }

    /// The lease was given back, or runs out by itself.
    pub(super) fn given_back(&mut self, caller: Caller) {
        if self.serving(caller).is_none() {
            return;
        }
        if let Some(process) = self.processes.get_mut(&caller.process) {
            process.shards.remove(&caller.shard);
        }
        self.end_if_let_go(caller.process);
    }

    /// A process that was told to stop ends with its last shard.
    pub(super) fn end_if_let_go(&mut self, number: ProcessNo) {
        let Some(process) = self.processes.get(&number) else {
            return;
        };
        let Some(down_ms) = process.stopping.filter(|_| process.shards.is_empty()) else {
            return;
        };
        let owner = process.owner.clone();
        self.processes.remove(&number);
        self.schedule.forget(number);
        self.after(down_ms, Timed::Repair(Repair::Restart(owner)));
    }
}

//! What breaks, and how it is repaired.

use troupe_core::{ExecutionId, ShardId};

use super::process::{ActorNo, ExecutionMessage, LEASE_MS, Process, ProcessNo, ShardMessage};
use super::schedule::{Repair, Timed};
use super::{FAULTS_MS, World, shards};

/// Attempts that run at once in a process: few, so that some wait for their turn.
const PERMITS: usize = 8;
/// How long after a repair the world may still be late.
const AFTERMATH_MS: u64 = 1_000;

impl World {
    pub(super) fn start_process(&mut self, owner: String) {
        let number = ProcessNo::try_from(self.number()).unwrap_or(ProcessNo::MAX);
        self.processes.insert(number, Process::new(owner, PERMITS));
        for shard in shards() {
            let delay_ms = self.random.below(10);
            self.after(delay_ms, Timed::Acquire(number, shard));
        }
    }

    pub(super) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let next_ms = self.random.between(15, FAULTS_MS / 10);
        self.after(next_ms, Timed::Fault);
        let numbers: Vec<ProcessNo> = self.processes.keys().copied().collect();
        if numbers.is_empty() {
            return;
        }
        let victim = numbers[self.random.place(numbers.len())];
        match self.random.below(9) {
            0..=2 => self.crash(victim),
            3 | 4 => self.freeze(victim),
            5 if self.store_up => {
                self.count("outages of the store");
                self.store_up = false;
                let down_ms = self.random.between(5, 150);
                self.after(down_ms, Timed::Repair(Repair::Reach));
            }
            6 if self.remote => self.partition(victim),
            _ => self.panic_somewhere(victim),
        }
    }

    /// The process ends at this instant, whatever it was doing.
    fn crash(&mut self, victim: ProcessNo) {
        let Some(process) = self.processes.remove(&victim) else {
            return;
        };
        self.count("crashes");
        self.schedule.forget(victim);
        if !self.remote {
            self.schedule.forget_calls(victim);
            if self.random.once_in(2) {
                let kept = self.random.place(1_001);
                let lost = self.store.lose_power(kept);
                self.count("power losses");
                *self.counts.entry("records lost unsynced").or_default() += lost as u64;
            }
        }
        let down_ms = self.random.between(2, if self.remote { LEASE_MS * 2 } else { 80 });
        self.after(down_ms, Timed::Repair(Repair::Restart(process.owner)));
    }

    fn freeze(&mut self, victim: ProcessNo) {
        let Some(process) = self.processes.get_mut(&victim) else {
            return;
        };
        if process.frozen {
            return;
        }
        process.frozen = true;
        self.count("freezes");
        let frozen_ms = self.random.between(10, LEASE_MS * 5 / 2);
        self.after(frozen_ms, Timed::Repair(Repair::Thaw(victim)));
    }

    fn partition(&mut self, victim: ProcessNo) {
        let Some(process) = self.processes.get_mut(&victim) else {
            return;
        };
        if process.partitioned {
            return;
        }
        process.partitioned = true;
        self.count("partitions");
        let apart_ms = self.random.between(10, LEASE_MS * 5 / 2);
        self.after(apart_ms, Timed::Repair(Repair::Rejoin(victim)));
    }

    /// An execution's actor panics, and its attempts go with it.
    fn panic_somewhere(&mut self, victim: ProcessNo) {
        let Some(process) = self.processes.get(&victim) else {
            return;
        };
        let alive = process.executions.iter().filter(|(_, execution)| !execution.dead);
        let actors: Vec<(u64, ShardId)> = alive.map(|(actor, execution)| (*actor, execution.id.shard())).collect();
        if actors.is_empty() {
            return;
        }
        let (actor, shard) = actors[self.random.place(actors.len())];
        self.count("panics");
        self.kill_actor(victim, actor, shard);
    }

    /// An execution's actor is gone with what it held; its shard hears of it.
    pub(super) fn kill_actor(&mut self, victim: ProcessNo, actor: ActorNo, shard: ShardId) {
        self.drop_attempts(victim, actor);
        let Some(process) = self.processes.get_mut(&victim) else {
            return;
        };
        if let Some(execution) = process.executions.get_mut(&actor) {
            execution.dead = true;
        }
        if let Some(serving) = process.shards.get_mut(&shard) {
            serving.inbox.push_back(ShardMessage::Failed(actor));
        }
    }

    pub(super) fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Restart(owner) => self.start_process(owner),
            Repair::Reach => self.store_up = true,
            Repair::Rejoin(number) => {
                if let Some(process) = self.processes.get_mut(&number) {
                    process.partitioned = false;
                }
            }
            Repair::Thaw(number) => {
                let Some(process) = self.processes.get_mut(&number) else {
                    return;
                };
                process.frozen = false;
                for event in std::mem::take(&mut process.deferred) {
                    self.after(0, event);
                }
            }
        }
    }

    /// No fault happens from here on; those that last are repaired in their time, quarantined executions at once.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        let mut released: Vec<(ProcessNo, ExecutionId)> = Vec::new();
        for (number, process) in &mut self.processes {
            let ids = std::mem::take(&mut process.quarantine);
            released.extend(ids.into_keys().map(|id| (*number, id)));
        }
        for (number, id) in released {
            self.deliver(number, id, ExecutionMessage::Wake);
        }
    }

    /// Keeps account of when timers may be late: while something is broken, and for a while after.
    pub(super) fn observe_health(&mut self) {
        let healthy = self.is_healthy();
        match (healthy, self.unhealthy_since) {
            (false, None) => self.unhealthy_since = Some(self.now),
            (true, Some(since)) => {
                self.unhealthy_since = None;
                self.evidence.outages.push((since, self.now.plus_ms(AFTERMATH_MS)));
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    fn is_healthy(&self) -> bool {
        let serves = |process: &Process, shard: ShardId| {
            let resumed = |serving: &super::process::Serving| serving.resume.done && self.now < serving.lease_until;
            process.shards.get(&shard).is_some_and(resumed)
        };
        let sound = self.processes.values().all(|process| {
            !process.frozen
                && !process.partitioned
                && process.quarantine.is_empty()
                && process.executions.values().all(|execution| !execution.dead)
        });
        self.store_up && sound && shards().all(|shard| self.processes.values().any(|process| serves(process, shard)))
    }
}

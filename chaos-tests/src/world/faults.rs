//! What breaks, and how it is repaired.

use std::collections::BTreeSet;

use troupe_actors::attempt::leave::Limits;
use troupe_actors::execution::machine::{CommandInput, NodeCommand, Wanted};
use troupe_core::definition::NodeKind;
use troupe_core::execution::Decision;
use troupe_core::{ExecutionId, Json, ShardId};

use super::breakers::Guards;
use super::process::{ActorNo, ExecutionMessage, Process, ProcessNo, Respond, ShardMessage};
use super::scenario::{Fault, FaultKind};
use super::schedule::{Repair, Timed};
use super::{World, shards};

/// How long after a repair the world may still be late.
const AFTERMATH_MS: u64 = 1_000;
/// Pause before operators look again for what is set aside.
const TAKE_BACK_MS: u64 = 200;
/// Pause before operators look again for who waits for a call.
const NUDGE_MS: u64 = 3_000;

fn round<T: Copy>(those: &[T], which: u64) -> Option<T> {
    let place = usize::try_from(which).unwrap_or(0).checked_rem(those.len())?;
    those.get(place).copied()
}

impl World {
    pub(super) fn start_process(&mut self, owner: String) {
        let number = ProcessNo::try_from(self.number()).unwrap_or(ProcessNo::MAX);
        let limits = Limits::new(&self.context.options);
        let guards = Guards::new(&self.clock, self.options.mutants);
        self.processes.insert(number, Process::new(owner, limits, guards));
        for shard in shards() {
            let delay_ms = self.random.below(10);
            self.after(delay_ms, Timed::Acquire(number, shard));
        }
    }

    /// What the plan breaks; whoever is not there cannot be hit.
    pub(super) fn fault(&mut self, fault: Fault) {
        if self.healed {
            return;
        }
        let numbers: Vec<ProcessNo> = self.processes.keys().copied().collect();
        let Some(victim) = round(&numbers, fault.victim) else {
            return;
        };
        let everybody = matches!(fault.kind, FaultKind::Outage | FaultKind::Poison);
        self.cover(fault.kind.name(), (!everybody).then_some(victim));
        match fault.kind {
            FaultKind::Crash => self.crash(victim, None, fault.lasts_ms),
            FaultKind::PowerLoss(kept) => self.crash(victim, Some(kept), fault.lasts_ms),
            FaultKind::Stop => self.stop(victim, fault.lasts_ms),
            FaultKind::Freeze => self.freeze(victim, fault.lasts_ms),
            FaultKind::Outage if self.store_up => {
                self.count("outages of the store");
                self.store_up = false;
                self.after(fault.lasts_ms, Timed::Repair(Repair::Reach));
            }
            FaultKind::Outage => {}
            FaultKind::Partition => self.partition(victim, fault.lasts_ms),
            FaultKind::Panic => self.panic_somewhere(victim, fault.victim),
            FaultKind::Poison => self.poison(fault.victim),
        }
    }

    /// One of the executions that were ever routed panics from now on whenever it hears something.
    fn poison(&mut self, which: u64) {
        let known: Vec<ExecutionId> = self.workflows.keys().copied().collect();
        let Some(id) = round(&known, which) else { return };
        if self.poisoned.insert(id) {
            self.count("poisoned");
        }
    }

    /// The process ends at this instant, whatever it was doing; the power may go with it.
    fn crash(&mut self, victim: ProcessNo, power: Option<u16>, down_ms: u64) {
        let Some(process) = self.processes.remove(&victim) else {
            return;
        };
        self.count("crashes");
        self.schedule.forget(victim);
        if !self.scenario.remote {
            self.schedule.forget_calls(victim);
            if let Some(kept) = power {
                let lost = self.store.lose_power(usize::from(kept));
                self.count("power losses");
                *self.counts.entry("records lost unsynced").or_default() += lost as u64;
            }
        }
        self.after(down_ms, Timed::Repair(Repair::Restart(process.owner)));
    }

    fn freeze(&mut self, victim: ProcessNo, frozen_ms: u64) {
        let Some(process) = self.processes.get_mut(&victim) else {
            return;
        };
        if process.frozen {
            return;
        }
        process.frozen = true;
        self.count("freezes");
        self.after(frozen_ms, Timed::Repair(Repair::Thaw(victim)));
    }

    fn partition(&mut self, victim: ProcessNo, apart_ms: u64) {
        let Some(process) = self.processes.get_mut(&victim) else {
            return;
        };
        if process.partitioned {
            return;
        }
        process.partitioned = true;
        self.count("partitions");
        self.after(apart_ms, Timed::Repair(Repair::Rejoin(victim)));
    }

    /// An execution's actor panics, and its attempts go with it.
    fn panic_somewhere(&mut self, victim: ProcessNo, which: u64) {
        let Some(process) = self.processes.get(&victim) else {
            return;
        };
        // A machine panics while it decides: what it decided before was carried out.
        let alive = process
            .executions
            .iter()
            .filter(|(_, execution)| execution.is_between_messages());
        let actors: Vec<(u64, ShardId)> = alive.map(|(actor, execution)| (*actor, execution.id.shard())).collect();
        let Some((actor, shard)) = round(&actors, which / 7) else {
            return;
        };
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

    /// No fault happens from here on; those that last are repaired in their time, and operators take back what is set aside.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.poisoned.clear();
        self.after(0, Timed::Release);
        self.after(NUDGE_MS, Timed::Nudge);
        self.after(0, Timed::LiftAll);
    }

    /// Some nodes wait for a call for ever: that is a named cause to wait, and here operators remove it.
    pub(super) fn nudge(&mut self) {
        let open: Vec<ExecutionId> = self.open.iter().copied().collect();
        for id in open {
            let Some(workflow) = self.workflows.get(&id) else {
                continue;
            };
            let plan = self.plan(workflow);
            let webhooks = plan.plan.nodes.iter().filter(|node| node.kind == NodeKind::Webhook);
            let nodes: Vec<String> = webhooks.map(|node| node.key.to_string()).collect();
            for node in nodes {
                let decision = NodeCommand::Decide(Decision::Complete(Json::null().into()));
                let input = CommandInput {
                    wanted: Wanted::OfNode(node, decision),
                    principal: None,
                    command: None,
                };
                if let Some(process) = self.server(id.shard()) {
                    self.deliver(process, id, ExecutionMessage::Command(Box::new(input), Respond::Nobody));
                }
            }
        }
        self.after(NUDGE_MS, Timed::Nudge);
    }

    /// Takes back what is set aside, again and again: a takeover finds in the store what was set aside before.
    pub(super) fn take_back(&mut self) {
        let mut set_aside: Vec<(ProcessNo, ExecutionId)> = Vec::new();
        for (number, process) in self.processes.iter().filter(|(_, process)| !process.frozen) {
            set_aside.extend(process.quarantine.keys().map(|id| (*number, *id)));
        }
        for (number, id) in set_aside {
            self.take_one_back(number, id);
        }
        self.after(TAKE_BACK_MS, Timed::Release);
    }

    /// Keeps account of when timers may be late: while something is broken, and for a while after. What is wrong with one
    /// execution excuses none of the others.
    pub(super) fn observe_health(&mut self) {
        match (self.is_healthy(), self.unhealthy_since) {
            (false, None) => self.unhealthy_since = Some(self.now),
            (true, Some(since)) => {
                self.unhealthy_since = None;
                self.evidence.outages.push((since, self.now.plus_ms(AFTERMATH_MS)));
            }
            (true, None) | (false, Some(_)) => {}
        }
        let mut sick: BTreeSet<ExecutionId> = BTreeSet::new();
        for process in self.processes.values() {
            sick.extend(process.quarantine.keys());
            let dead = process.executions.values().filter(|execution| execution.dead);
            sick.extend(dead.map(|execution| execution.id));
        }
        if sick.is_empty() && self.sick.is_empty() {
            return;
        }
        for id in &sick {
            self.sick.entry(*id).or_insert(self.now);
        }
        let until = self.now.plus_ms(AFTERMATH_MS);
        let own_outages = &mut self.evidence.own_outages;
        self.sick.retain(|id, since| {
            let still = sick.contains(id);
            if !still {
                own_outages.entry(*id).or_default().push((*since, until));
            }
            still
        });
    }

    fn is_healthy(&self) -> bool {
        let serves = |process: &Process, shard: ShardId| {
            let resumed = |serving: &super::process::Serving| serving.resume.done && self.now < serving.lease_until;
            process.shards.get(&shard).is_some_and(resumed)
        };
        let sound = self
            .processes
            .values()
            .all(|process| !process.frozen && !process.partitioned);
        self.store_up && sound && shards().all(|shard| self.processes.values().any(|process| serves(process, shard)))
    }
}

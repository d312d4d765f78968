//! The shell of controls of a wider scope: what `actors/src/shard/actor.rs`, `controls/spread.rs` and `controls/cancel.rs` do, a
//! step at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use troupe_actors::controls::{
    CLEAN_LOOKS, ControlRequest, ControlsMachine, Decided, LOOK_EVERY, Origin, ShardControls, behind, cancellation,
    fold, given_at, open_executions, stopped,
};
use troupe_actors::evaluation::CompiledPlan;
use troupe_actors::execution::machine::{CommandInput, Input, Wanted};
use troupe_actors::{EngineError, Mutants};
use troupe_core::control::{ControlEntry, ControlKey, ControlSet, ControlsSeen, Scope, Setting};
use troupe_core::{ExecutionId, FormatRange, Seq, ShardId};
use troupe_ports::{StateStore, StoreError, VisibilityStore};

use super::operators::Asked;
use super::process::{
    ActorNo, CommitterMessage, ExecutionMessage, ProcessNo, Respond, Serving, ShardMessage, TimersMessage,
};
use super::schedule::{Caller, Timed};
use super::{World, at_once};

/// The number of what a shard is told because another one has it so: nobody waits for it.
const RECONCILES: u64 = 0;

/// A shard's controls: those that are in force, and what was decided and is being saved.
#[derive(Debug)]
pub(super) struct Controls {
    pub(super) in_force: Arc<ShardControls>,
    pub(super) machine: ControlsMachine,
}

impl Controls {
    /// What the store and the tail of the log know.
    pub(super) fn restored(set: ControlSet, mutants: Mutants) -> Self {
        let in_force = ShardControls::default().with(mutants);
        in_force.restore(set.clone());
        Self {
            in_force: Arc::new(in_force),
            machine: ControlsMachine::new(set),
        }
    }
}

/// Who is told that a control is durable, and the controls with it as a snapshot.
#[derive(Debug)]
pub(super) struct ControlNotify {
    set: Bytes,
    told: Told,
}

impl ControlNotify {
    pub(super) fn snapshot(&self) -> Bytes {
        self.set.clone()
    }
}

/// A word on its way to one shard.
#[derive(Clone, Debug)]
pub(super) struct Told {
    number: u64,
    lifted: Option<Scope>,
    cancels: bool,
}

/// A word that is not in force yet in all shards of a process.
#[derive(Debug)]
pub(super) struct Spreading {
    asked: Asked,
    left: BTreeSet<ShardId>,
    reached: BTreeSet<ShardId>,
}

impl Spreading {
    /// Whether it is not in force there yet.
    pub(super) fn waits_for(&self, shard: ShardId) -> bool {
        self.left.contains(&shard)
    }
}

impl World {
    /// The controls of a shard that is being opened.
    pub(super) fn controls_of(
        &self,
        shard: ShardId,
        pending: impl IntoIterator<Item = (Seq, Bytes)>,
    ) -> Result<Controls, StoreError> {
        let base = at_once(self.store.load(ExecutionId::controls(shard)))?;
        let set = fold(FormatRange::RELEASE, base, pending).map_err(|error| StoreError::Damaged(error.to_string()))?;
        Ok(Controls::restored(set, self.options.mutants))
    }

    /// What operators said of breakers holds before the shard dispatches anything.
    pub(super) fn heed_controls(&self, process: ProcessNo, shard: ShardId) {
        let state = self.processes.get(&process);
        let Some((state, serving)) = state.and_then(|state| Some((state, state.shards.get(&shard)?))) else {
            return;
        };
        for (key, register) in serving.controls.in_force.set().registers() {
            let breakers = &state.guards.breakers;
            breakers.heed(key, register.at, &register.command, register.setting);
        }
    }

    /// The shards that a process serves, and what is in force in each.
    fn sets_of(&self, process: ProcessNo) -> Option<(Vec<ShardId>, Vec<Arc<ControlSet>>)> {
        let shards = &self.processes.get(&process)?.shards;
        let set_of = |(shard, serving): (&ShardId, &Serving)| (*shard, serving.controls.in_force.set());
        Some(shards.iter().map(set_of).unzip())
    }

    /// A process is given somebody's word.
    pub(super) fn asked(&mut self, process: ProcessNo, asked: Asked) {
        let now = self.now;
        let Some((served, sets)) = self.sets_of(process) else {
            return;
        };
        if served.is_empty() {
            return;
        }
        let Some(at) = given_at(&sets, &asked.key, asked.setting, Some(&asked.command), now) else {
            return self.trouble(format!("{:?} has no time although it has an id", asked.command));
        };
        let request = ControlRequest {
            at,
            key: asked.key.clone(),
            setting: asked.setting,
            command: asked.command.clone(),
            principal: None,
            reason: None,
        };
        let number = self.number();
        let spreading = Spreading {
            asked,
            left: served.iter().copied().collect(),
            reached: BTreeSet::new(),
        };
        if let Some(state) = self.processes.get_mut(&process) {
            state.spreading.insert(number, spreading);
        }
        for shard in served {
            self.tell_shard(process, shard, number, request.clone());
        }
    }

    fn tell_shard(&mut self, process: ProcessNo, shard: ShardId, number: u64, request: ControlRequest) {
        if let Some((_, serving)) = self.caller(process, shard) {
            serving
                .inbox
                .push_back(ShardMessage::Control(Box::new(request), number));
        }
    }

    /// A shard that was opened may know less than the others, or more.
    pub(super) fn reconcile(&mut self, process: ProcessNo) {
        let Some((served, sets)) = self.sets_of(process) else {
            return;
        };
        for (place, request) in behind(&sets) {
            self.count("controls completed");
            self.tell_shard(process, served[place], RECONCILES, request);
        }
    }

    pub(super) fn control_shard(&mut self, process: ProcessNo, shard: ShardId, request: ControlRequest, number: u64) {
        let Some((_, serving)) = self.caller(process, shard) else {
            return;
        };
        let lifted = match &request.key {
            ControlKey::Pause(scope) | ControlKey::Stop(scope) if request.setting.is_none() => Some(scope.clone()),
            ControlKey::Pause(_) | ControlKey::Stop(_) | ControlKey::Breaker(_) => None,
        };
        let told = Told {
            number,
            lifted,
            cancels: request.setting == Some(Setting::Stopped { cancel_running: true }),
        };
        let origin = if number == RECONCILES {
            Origin::Copy
        } else {
            Origin::Command
        };
        let message = match serving.controls.machine.decide(request, origin) {
            Decided::Refused(error) => return self.trouble(format!("a control is refused: {error}")),
            // What it repeats may not be durable yet.
            Decided::Unchanged => CommitterMessage::ControlBarrier(told),
            Decided::Append(entry, _) => {
                let set = serving.controls.machine.encoded();
                CommitterMessage::Control(Box::new(entry), ControlNotify { set, told })
            }
        };
        serving.committer.inbox.push_back(message);
    }

    /// An entry of a shard's controls is durable: from here on it is obeyed.
    pub(super) fn control_committed(&mut self, caller: Caller, entry: &ControlEntry, notify: ControlNotify) {
        let Some(serving) = self.serving(caller) else { return };
        let in_force = &serving.controls.in_force;
        in_force.apply(entry);
        let stands = in_force
            .set()
            .register(&entry.key)
            .is_some_and(|known| known.setting.is_some());
        if let Some(state) = self.processes.get(&caller.process).filter(|_| !entry.only_id) {
            let breakers = &state.guards.breakers;
            breakers.heed(&entry.key, entry.at, &entry.command, entry.setting);
        }
        self.count("controls saved");
        self.note_held(caller.shard, &entry.key, stands);
        self.told_shard(caller, notify.told);
    }

    /// Whoever waits hears of it a little later.
    pub(super) fn told_shard(&mut self, caller: Caller, told: Told) {
        let after_ms = self.random.below(3);
        self.after(after_ms, Timed::InForce(caller, told));
    }

    pub(super) fn in_force(&mut self, caller: Caller, told: Told) {
        let Some(serving) = self.serving(caller) else { return };
        if let Some(scope) = told.lifted {
            serving.timers.inbox.push_back(TimersMessage::Lifted(scope));
        }
        if told.cancels {
            self.after(0, Timed::CancelStopped(caller, 0));
        }
        let Some(state) = self.processes.get_mut(&caller.process) else {
            return;
        };
        let Some(spreading) = state.spreading.get_mut(&told.number) else {
            return;
        };
        spreading.left.remove(&caller.shard);
        spreading.reached.insert(caller.shard);
        if spreading.left.is_empty()
            && let Some(Spreading { asked, reached, .. }) = state.spreading.remove(&told.number)
        {
            self.in_force_here(caller.process, &asked, &reached);
        }
    }

    /// Every shard of a process has somebody's word.
    fn in_force_here(&mut self, process: ProcessNo, asked: &Asked, reached: &BTreeSet<ShardId>) {
        if let (true, ControlKey::Breaker(target), Some(state)) =
            (asked.resets, &asked.key, self.processes.get(&process))
        {
            state.guards.breakers.reset(target);
            self.count("breakers reset");
        }
        self.operator_hears(asked, reached);
    }

    /// Cancels what a stop wants canceled, by the lists, until they show nothing more.
    pub(super) fn cancel_stopped(&mut self, caller: Caller, clean: u32) {
        let Some(serving) = self.serving(caller) else { return };
        let scopes = stopped(&serving.controls.in_force.set());
        if scopes.is_empty() || clean >= CLEAN_LOOKS {
            return;
        }
        let mut found = 0;
        for scope in &scopes {
            let page = match at_once(self.lists.list(open_executions(caller.shard, scope))) {
                Ok(page) => page,
                Err(error) => return self.trouble(format!("a stop cannot list: {error}")),
            };
            for item in page.items {
                if let Some(input) = cancellation(scope, &item) {
                    found += 1;
                    self.count("canceled by a stop");
                    let message = ExecutionMessage::Command(Box::new(input), Respond::Nobody);
                    self.deliver(caller.process, item.id, message);
                }
            }
        }
        let clean = if found == 0 { clean + 1 } else { 0 };
        let look_ms = u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(u64::MAX);
        self.after(look_ms, Timed::CancelStopped(caller, clean));
    }

    /// An emergency stop is in every shard: whichever is asked knows of it.
    pub(super) fn refused_by_stop(&self, process: ProcessNo, workflow: &str) -> Option<EngineError> {
        let state = self.processes.get(&process)?;
        let workflow = workflow.into();
        state
            .shards
            .values()
            .find_map(|serving| serving.controls.in_force.stop_of(&workflow))
    }

    /// What a new execution begins under.
    pub(super) fn begins_under(
        &mut self,
        process: ProcessNo,
        id: ExecutionId,
        compiled: &CompiledPlan,
    ) -> Option<Box<ControlsSeen>> {
        let now = self.now;
        let state = self.processes.get(&process)?;
        let in_force = &state.shards.get(&id.shard())?.controls.in_force;
        let actor = state.directory.get(&id).and_then(|actor| state.executions.get(actor));
        let machine = actor.and_then(|execution| execution.machine.as_ref());
        if machine.is_some_and(|machine| machine.state().seq > Seq(0)) {
            // It has begun already.
            return None;
        }
        self.evidence.controls.looked(id, Seq(1), now, in_force.set().seq());
        in_force.at_start(&compiled.plan, now)
    }

    /// What an execution that had ended goes on under.
    pub(super) fn goes_on_under(&mut self, process: ProcessNo, actor: ActorNo, command: &mut CommandInput) {
        let now = self.now;
        let Wanted::Reopen(reopen) = &mut command.wanted else {
            return;
        };
        let Some(state) = self.processes.get(&process) else {
            return;
        };
        let execution = state.executions.get(&actor);
        let Some((id, machine)) = execution.and_then(|execution| Some((execution.id, execution.machine.as_ref()?)))
        else {
            return;
        };
        let Some(serving) = state.shards.get(&id.shard()) else {
            return;
        };
        let in_force = &serving.controls.in_force;
        let next = machine.state().seq.next();
        self.evidence.controls.looked(id, next, now, in_force.set().seq());
        reopen.controls = in_force.at_start(&machine.compiled().plan, now);
    }

    /// Gives an input to a machine; what it does not know yet of controls comes before.
    pub(super) fn tell(&mut self, process: ProcessNo, actor: ActorNo, input: Input<Respond>) {
        if matches!(input, Input::Read(_)) {
            return self.give(process, actor, input);
        }
        let now = self.now;
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(execution) = state.executions.get_mut(&actor) else {
            return;
        };
        let (Some(machine), Some(serving)) = (&execution.machine, state.shards.get(&execution.id.shard())) else {
            return self.give(process, actor, input);
        };
        let before = execution.controls;
        let in_force = &serving.controls.in_force;
        let (plan, known) = (&machine.compiled().plan, machine.state());
        let news = in_force.news(&mut execution.controls, plan, known, now);
        if execution.controls != before {
            let (id, next, seq) = (execution.id, known.seq.next(), in_force.set().seq());
            self.evidence.controls.looked(id, next, now, seq);
        }
        let Some(seen) = news else {
            return self.give(process, actor, input);
        };
        if let Some(execution) = self.execution(process, actor) {
            execution.next = Some(input);
        }
        self.count("controls learned");
        self.give(process, actor, Input::Controls(Box::new(seen)));
    }
}

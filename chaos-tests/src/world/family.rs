//! Child executions' shell: what `actors/src/execution/children.rs` and `start.rs` do, a step at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use troupe_actors::EngineError;
use troupe_actors::committer::machine::Append;
use troupe_actors::evaluation::{CompiledPlan, PlanCache};
use troupe_actors::execution::error_workflow::NewErrorWorkflow;
use troupe_actors::execution::family::{Born, NewChild, child_id, command_to_child, never_began};
use troupe_actors::execution::machine::{Input, Reply, outcome_of};
use troupe_core::execution::{
    ChildCommand, ChildId, ChildOutcome, ChildReport, ErrorWorkflow, Parent, StartChild, StartErrorWorkflow, Started,
};
use troupe_core::{Epoch, ErrorInfo, ExecutionId};

use super::process::{ActorNo, CommitterMessage, Execution, ExecutionMessage, ProcessNo, Respond};
use super::schedule::{Caller, Timed};
use super::{World, at_once};

/// Pause while a failed actor is being replaced.
const REPLACED_EVERY_MS: u64 = 5;
/// Pause between two tries to start a child.
const RETRY_MS: u64 = 20;
/// After this a start that was not answered was lost with the actor that was to answer.
const UNANSWERED_MS: u64 = 250;

/// What a task starts.
#[derive(Clone, Debug)]
enum Beginner {
    Child(NewChild),
    ErrorWorkflow(NewErrorWorkflow),
}

impl Beginner {
    fn id(&self) -> ExecutionId {
        match self {
            Self::Child(child) => child.id,
            Self::ErrorWorkflow(new) => new.id,
        }
    }

    /// The family that it takes large values over from: one that is waited for has those of its own.
    fn blobs_from(&self) -> Option<ExecutionId> {
        match self {
            Self::Child(child) => child.blobs_from.filter(|_| !child.parent.attached),
            Self::ErrorWorkflow(new) => new.blobs_from,
        }
    }

    /// Whoever is told what became of it.
    fn told(&self) -> ExecutionId {
        match self {
            Self::Child(child) => child.parent.execution,
            Self::ErrorWorkflow(new) => new.failed,
        }
    }

    fn first(&self, plans: &PlanCache) -> Result<(Arc<CompiledPlan>, Started), EngineError> {
        match self {
            Self::Child(child) => {
                let compiled = at_once(child.plan(plans))?;
                let started = child.started(&compiled);
                Ok((compiled, started))
            }
            Self::ErrorWorkflow(new) => {
                let compiled = at_once(new.plan(plans))?;
                let started = new.started(&compiled);
                Ok((compiled, started))
            }
        }
    }

    /// What whoever wanted it hears once it is there, or never will be.
    fn news(&self, known: Result<Option<ChildOutcome>, EngineError>) -> ExecutionMessage {
        match self {
            Self::Child(new) => {
                let child = new.parent.child;
                match known {
                    Ok(None) => ExecutionMessage::ChildAlive(child, new.id),
                    Ok(Some(outcome)) => ExecutionMessage::ChildReported(Box::new(ChildReport { child, outcome })),
                    Err(error) => ExecutionMessage::ChildReported(Box::new(never_began(child, &error))),
                }
            }
            Self::ErrorWorkflow(new) => ExecutionMessage::ErrorWorkflow(Box::new(match known {
                Ok(_) => ErrorWorkflow::Began(new.id),
                Err(error) => NewErrorWorkflow::refused(error),
            })),
        }
    }
}

/// The task that starts a child or an error workflow, however often that takes.
#[derive(Debug)]
pub(super) struct Starter {
    what: Beginner,
    /// The owner that began it: it ends with the shard.
    epoch: Epoch,
    /// Which try this is.
    tries: u64,
    /// The child was there before: how it stands is asked.
    asks: bool,
}

impl World {
    fn new_child(&self, process: ProcessNo, actor: ActorNo, start: &StartChild) -> Option<NewChild> {
        let execution = self.processes.get(&process)?.executions.get(&actor)?;
        let machine = execution.machine.as_deref()?;
        Some(NewChild::of(machine.state(), machine.compiled(), start))
    }

    /// Begins children in the record of their parent's entry; those that cannot are given back.
    pub(super) fn bear(&mut self, process: ProcessNo, actor: ActorNo, births: Vec<StartChild>) {
        for start in births {
            let first = self.born(process, actor, &start);
            let Some(execution) = self.execution(process, actor) else {
                return;
            };
            match first {
                Some(first) => {
                    execution.appends.push(first);
                    self.count("children born");
                }
                None => execution.unborn.push(start),
            }
        }
    }

    fn born(&mut self, process: ProcessNo, actor: ActorNo, start: &StartChild) -> Option<Append<ActorNo>> {
        let child = self.new_child(process, actor, start)?;
        let (options, now) = (self.machine_options(), self.now);
        let compiled = at_once(child.plan(&self.context.plans)).ok()?;
        let controls = self.begins_under(process, child.id, &compiled);
        let born = child.born(&compiled, controls, options, now, Respond::Nobody)?;
        self.adopt(process, child.id, &compiled, born)
    }

    /// An actor goes on with what has taken its first step: the entry of that.
    fn adopt(
        &mut self,
        process: ProcessNo,
        id: ExecutionId,
        compiled: &CompiledPlan,
        born: Born<Respond>,
    ) -> Option<Append<ActorNo>> {
        let Born {
            machine,
            first,
            actions,
        } = born;
        let number = self.number();
        let state = self.processes.get_mut(&process)?;
        if state.directory.contains_key(&id) || state.quarantine.contains_key(&id) {
            return None;
        }
        self.workflows.insert(id, compiled.plan.workflow.as_str().to_owned());
        let mut execution = Execution::new(id);
        execution.routed = 1;
        execution.inbox.push_back(ExecutionMessage::Adopt(machine, actions));
        let state = self.processes.get_mut(&process)?;
        state.directory.insert(id, number);
        state.executions.insert(number, execution);
        Some(Append {
            id,
            draft: first,
            notify: number,
        })
    }

    pub(super) fn start_child(&mut self, process: ProcessNo, actor: ActorNo, start: &StartChild) {
        if let Some(child) = self.new_child(process, actor, start) {
            self.count("children started");
            self.begin_task(process, Beginner::Child(child));
        }
    }

    fn new_error_workflow(
        &self,
        process: ProcessNo,
        actor: ActorNo,
        start: &StartErrorWorkflow,
    ) -> Option<NewErrorWorkflow> {
        let execution = self.processes.get(&process)?.executions.get(&actor)?;
        Some(NewErrorWorkflow::of(execution.machine.as_deref()?.state(), start))
    }

    /// Begins the error workflow in the record of the failure, or gives it back.
    pub(super) fn bear_error_workflow(&mut self, process: ProcessNo, actor: ActorNo, start: StartErrorWorkflow) {
        let born = self.error_workflow_born(process, actor, &start);
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        match born {
            Some(first) => {
                let began = ErrorWorkflow::Began(first.id);
                execution.appends.push(first);
                execution.reported = Some(Input::ErrorWorkflow(began));
                self.count("error workflows born");
            }
            None => execution.reported = Some(Input::UnbornErrorWorkflow(start)),
        }
    }

    fn error_workflow_born(
        &mut self,
        process: ProcessNo,
        actor: ActorNo,
        start: &StartErrorWorkflow,
    ) -> Option<Append<ActorNo>> {
        let new = self.new_error_workflow(process, actor, start)?;
        let (options, now) = (self.machine_options(), self.now);
        let compiled = at_once(new.plan(&self.context.plans)).ok()?;
        let mut is_small = true;
        start.input.blobs(&mut |_| is_small = false);
        let started = Started {
            controls: self.begins_under(process, new.id, &compiled),
            ..new.started(&compiled)
        };
        let born = Born::begin(&compiled, started, options, now, Respond::Nobody);
        self.adopt(process, new.id, &compiled, born.filter(|_| is_small)?)
    }

    pub(super) fn start_error_workflow(&mut self, process: ProcessNo, actor: ActorNo, start: &StartErrorWorkflow) {
        if let Some(new) = self.new_error_workflow(process, actor, start) {
            self.count("error workflows started");
            self.begin_task(process, Beginner::ErrorWorkflow(new));
        }
    }

    fn begin_task(&mut self, process: ProcessNo, what: Beginner) {
        let number = self.number();
        let Some((caller, _)) = self.caller(process, what.id().shard()) else {
            return;
        };
        let starter = Starter {
            what,
            epoch: caller.epoch,
            tries: 0,
            asks: false,
        };
        if let Some(state) = self.processes.get_mut(&process) {
            state.starters.insert(number, starter);
        }
        self.try_start(process, number, 0);
    }

    /// Tries to start a child, if this is still the try that is awaited.
    pub(super) fn try_start(&mut self, process: ProcessNo, number: u64, tries: u64) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(starter) = state.starters.get_mut(&number).filter(|starter| starter.tries == tries) else {
            return;
        };
        let (shard, epoch) = (starter.what.id().shard(), starter.epoch);
        if state.shards.get(&shard).is_none_or(|serving| serving.epoch != epoch) {
            // Whoever takes the shard next starts it again.
            state.starters.remove(&number);
            return;
        }
        starter.tries += 1;
        starter.asks = false;
        let (what, tries) = (starter.what.clone(), starter.tries);
        match what.first(&self.context.plans) {
            Ok((_, mut started)) => {
                match self.hand_over(process, what.blobs_from(), &mut started) {
                    Err(error) if error.passes() => {
                        return self.after(RETRY_MS, Timed::StartAgain(process, number, tries));
                    }
                    Err(error) => return self.starter_is_done(process, number, Err(error)),
                    Ok(()) => {}
                }
                let (id, started) = (started.id, Box::new(started));
                self.workflows.insert(id, started.workflow.as_str().to_owned());
                let reply = Respond::Starter(number, tries);
                let start = ExecutionMessage::Start {
                    started,
                    fresh: false,
                    reply,
                };
                self.after(UNANSWERED_MS, Timed::StartAgain(process, number, tries));
                self.deliver(process, id, start);
            }
            Err(error) => self.starter_is_done(process, number, Err(error)),
        }
    }

    /// What the child's actor answered to a starter.
    pub(super) fn starter_hears(&mut self, process: ProcessNo, number: u64, tries: u64, answer: Reply) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(starter) = state.starters.get_mut(&number).filter(|starter| starter.tries == tries) else {
            return;
        };
        let id = starter.what.id();
        let awaited = matches!(&starter.what, Beginner::Child(child) if child.parent.attached);
        let known = match answer {
            Reply::Started(_) if !awaited => Ok(Some(ChildOutcome::Began(id))),
            Reply::Started(outcome) if !outcome.existing => Ok(None),
            Reply::Started(_) => {
                starter.asks = true;
                return self.deliver(process, id, ExecutionMessage::Read(Respond::Starter(number, tries)));
            }
            Reply::View(state) => Ok(outcome_of(&state)),
            // It ended so long ago that nobody knows how.
            Reply::Refused(EngineError::NotFound(_)) if starter.asks => Ok(Some(ChildOutcome::Failed(ErrorInfo::new(
                "CHILD_FORGOTTEN",
                "the child ended, and its archive is gone",
            )))),
            // One that is set aside goes on when it is released, and may complete.
            Reply::Refused(error) if error.passes() => {
                return self.after(RETRY_MS, Timed::StartAgain(process, number, tries));
            }
            Reply::Refused(error) => Err(error),
            Reply::Commanded(_) | Reply::Reopened(..) => {
                return self.trouble("a start was answered with something else".into());
            }
        };
        self.starter_is_done(process, number, known);
    }

    pub(super) fn starter_refused(&mut self, number: u64, tries: u64, error: EngineError) {
        let mut processes = self.processes.iter();
        let holder = processes.find(|(_, process)| process.starters.contains_key(&number));
        if let Some((process, _)) = holder {
            self.starter_hears(*process, number, tries, Reply::Refused(error));
        }
    }

    fn starter_is_done(&mut self, process: ProcessNo, number: u64, known: Result<Option<ChildOutcome>, EngineError>) {
        let starters = self.processes.get_mut(&process).map(|state| &mut state.starters);
        let Some(starter) = starters.and_then(|starters| starters.remove(&number)) else {
            return;
        };
        let message = starter.what.news(known);
        self.send_to_relative(process, starter.what.told(), message);
    }

    pub(super) fn tell_child(&mut self, process: ProcessNo, actor: ActorNo, child: ChildId, command: ChildCommand) {
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        let Some(machine) = &execution.machine else { return };
        let id = child_id(execution.id, &machine.compiled().plan, child);
        self.count("children told");
        let message = ExecutionMessage::Command(Box::new(command_to_child(command)), Respond::Nobody);
        self.send_to_relative(process, id, message);
    }

    /// Hands over the last entries, then tells the parent: what it makes of that can go into the same record.
    pub(super) fn tell_parent(
        &mut self,
        process: ProcessNo,
        (parent, outcome): (Parent, ChildOutcome),
        appends: Vec<Append<ActorNo>>,
    ) {
        self.count("parents told");
        if let Some((caller, serving)) = self.caller(process, parent.execution.shard()) {
            serving.committer.inbox.push_back(CommitterMessage::Held(appends));
            let held_ms = self.random.below(3);
            self.after(held_ms, Timed::Go(caller));
        }
        let report = ChildReport {
            child: parent.child,
            outcome,
        };
        let message = ExecutionMessage::ChildReported(Box::new(report));
        self.send_to_relative(process, parent.execution, message);
    }

    pub(super) fn ask_parent(&mut self, process: ProcessNo, id: ExecutionId, parent: Parent) {
        self.count("parents asked");
        let alive = ExecutionMessage::ChildAlive(parent.child, id);
        self.send_to_relative(process, parent.execution, alive);
    }

    /// A child whose parent is gone is canceled.
    pub(super) fn cancel_orphan(&mut self, process: ProcessNo, id: ExecutionId) {
        let cancel = Box::new(command_to_child(ChildCommand::Cancel));
        self.send_to_relative(process, id, ExecutionMessage::Command(cancel, Respond::Nobody));
    }

    /// Behind what was sent to it before: to an actor at once; where there is none a task of its own spawns one.
    fn send_to_relative(&mut self, process: ProcessNo, id: ExecutionId, message: ExecutionMessage) {
        let Some((caller, serving)) = self.caller(process, id.shard()) else {
            return;
        };
        if let Some(queue) = serving.mail.get_mut(&id) {
            return queue.push_back(message);
        }
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let alive = state.directory.get(&id).and_then(|actor| state.executions.get(actor));
        if alive.is_some_and(|execution| !execution.dead) {
            return self.deliver(process, id, message);
        }
        if let Some(serving) = self.serving(caller) {
            serving.mail.insert(id, [message].into());
        }
        let after_ms = self.random.below(3);
        self.after(after_ms, Timed::Mail(caller, id));
    }

    /// Delivers what is on its way to an execution, one message after the other.
    pub(super) fn mail(&mut self, caller: Caller, id: ExecutionId) {
        let Some(state) = self.processes.get(&caller.process) else {
            return;
        };
        let actor = state.directory.get(&id).and_then(|actor| state.executions.get(actor));
        if actor.is_some_and(|execution| execution.dead) {
            return self.after(REPLACED_EVERY_MS, Timed::Mail(caller, id));
        }
        let Some(serving) = self.serving(caller) else { return };
        let Some(message) = serving.mail.get_mut(&id).and_then(VecDeque::pop_front) else {
            serving.mail.remove(&id);
            return;
        };
        self.deliver(caller.process, id, message);
        let after_ms = self.random.below(2);
        self.after(after_ms, Timed::Mail(caller, id));
    }
}

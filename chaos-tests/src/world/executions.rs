//! The executions' shell: routes, loads, saves, acts, retires.

use std::panic::{AssertUnwindSafe, catch_unwind};

use troupe_actors::EngineError;
use troupe_actors::committer::machine::Append;
use troupe_actors::evaluation::{Job, JobAnswer};
use troupe_actors::execution::load::{Loaded, load_over};
use troupe_actors::execution::machine::{Action, ExecutionMachine, Input, MachineOptions, Reply};
use troupe_actors::record::Mark;
use troupe_actors::request::StartOutcome;
use troupe_core::{ErrorInfo, ExecutionId, Seq};
use troupe_ports::{CacheLimits, StateStore, StoreError};

use super::clients::Answer;
use super::process::{
    ActorNo, CheckpointerMessage, CommitterMessage, Execution, ExecutionMessage, ProcessNo, Respond, TimersMessage,
    Waiting,
};
use super::schedule::Timed;
use super::{World, at_once};

/// Pause while a failed actor is being replaced.
const REPLACED_EVERY_MS: u64 = 5;
/// Pause before the store is asked again by somebody whom nobody would wake again.
const LOAD_RETRY_MS: u64 = 50;

impl World {
    /// Brings a message to an execution's actor, which is spawned if there is none.
    pub(super) fn deliver(&mut self, process: ProcessNo, id: ExecutionId, message: ExecutionMessage) {
        let number = self.number();
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        if let Some(error) = state.quarantine.get(&id) {
            let error = error.clone();
            return self.refuse(message.reply(), error);
        }
        if state.shards.get(&id.shard()).is_none_or(|serving| serving.closing) {
            return self.refuse(message.reply(), EngineError::Unavailable("not served here".into()));
        }
        let actor = *state.directory.entry(id).or_insert(number);
        let execution = state.executions.entry(actor).or_insert_with(|| Execution::new(id));
        if execution.dead {
            if let (ExecutionMessage::Recover, Some(serving)) = (&message, state.shards.get_mut(&id.shard())) {
                // Recovery waits for it: until it is loaded, nobody is let in where only so many may run.
                serving.resume.done = false;
                return serving.resume.tail.push_front(id);
            }
            return self.after(REPLACED_EVERY_MS, Timed::Deliver(process, id, message));
        }
        execution.routed += u64::from(message.is_routed());
        execution.inbox.push_back(message);
    }

    pub(super) fn refuse(&mut self, reply: Respond, error: EngineError) {
        match reply {
            Respond::Client(client, request) | Respond::Key(client, request, _) | Respond::Rerun(client, request) => {
                self.answer(client, request, Answer::Refused(error));
            }
            Respond::Starter(number, tries) => self.starter_refused(number, tries, error),
            Respond::Nobody => {}
        }
    }

    pub(super) fn execution(&mut self, process: ProcessNo, actor: ActorNo) -> Option<&mut Execution> {
        self.processes.get_mut(&process)?.executions.get_mut(&actor)
    }

    pub(super) fn execution_step(&mut self, process: ProcessNo, actor: ActorNo) {
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        if let Some(action) = execution.todo.pop_front() {
            self.perform(process, actor, action);
        } else if let Waiting::Load(_) = execution.waiting {
            self.load(process, actor);
        } else if let Some(input) = execution.next.take() {
            self.give(process, actor, input);
        } else if let Some(message) = execution.then.take() {
            self.hear(process, actor, message);
        } else if let Some(message) = execution.inbox.pop_front() {
            execution.received += u64::from(message.is_routed());
            self.hear(process, actor, message);
        }
        self.end_of_batch(process, actor);
    }

    fn hear(&mut self, process: ProcessNo, actor: ActorNo, message: ExecutionMessage) {
        let options = self.machine_options();
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        let id = execution.id;
        if self.poisoned.contains(&id) {
            return self.kill_actor(process, actor, id.shard());
        }
        let now = self.now;
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        execution.given_at = now;
        if execution.machine.is_none() {
            match &message {
                ExecutionMessage::Start {
                    started, fresh: true, ..
                } => {
                    let workflow = started.workflow.clone();
                    let compiled = self.plan(workflow.as_str());
                    let Some(execution) = self.execution(process, actor) else {
                        return;
                    };
                    execution.machine = Some(Box::new(ExecutionMachine::new(compiled, id, options)));
                }
                ExecutionMessage::Durable(_) | ExecutionMessage::Report(_) | ExecutionMessage::NodeGone(_) => return,
                ExecutionMessage::Adopt(..) => {}
                ExecutionMessage::Start { .. }
                | ExecutionMessage::Supersede { .. }
                | ExecutionMessage::Command(..)
                | ExecutionMessage::Read(_)
                | ExecutionMessage::Wake
                | ExecutionMessage::Recover
                | ExecutionMessage::ChildReported(_)
                | ExecutionMessage::ChildAlive(..)
                | ExecutionMessage::AskParent(_)
                | ExecutionMessage::Admitted
                | ExecutionMessage::ErrorWorkflow(_) => {
                    execution.then = Some(message);
                    return self.look_up(process, actor);
                }
            }
        }
        let input = match message {
            ExecutionMessage::Start { mut started, reply, .. } => {
                let compiled = self.plan(started.workflow.as_str());
                started.controls = self.begins_under(process, id, &compiled);
                Input::Start(started, None, reply)
            }
            ExecutionMessage::Supersede { started, reply } => return self.supersede(process, actor, started, reply),
            ExecutionMessage::Adopt(machine, actions) => {
                if let Some(execution) = self.execution(process, actor) {
                    execution.machine = Some(machine);
                    execution.todo.extend(actions);
                }
                return;
            }
            ExecutionMessage::Command(mut command, reply) => {
                self.goes_on_under(process, actor, &mut command);
                Input::Command(command, reply)
            }
            ExecutionMessage::Read(reply) => Input::Read(reply),
            ExecutionMessage::Wake => Input::Wake,
            ExecutionMessage::Recover => return,
            ExecutionMessage::AskParent(lost) => Input::AskParent(lost),
            ExecutionMessage::Admitted => Input::Admitted,
            ExecutionMessage::ErrorWorkflow(outcome) => Input::ErrorWorkflow(*outcome),
            ExecutionMessage::ChildReported(report) => Input::ChildReported(*report),
            ExecutionMessage::ChildAlive(child, _) => Input::ChildAlive(child),
            ExecutionMessage::Durable(seq) => Input::Durable(seq),
            ExecutionMessage::Report(report) => {
                let Some(execution) = self.execution(process, actor) else {
                    return;
                };
                execution.attempts.retain(|(token, ..)| *token != report.token);
                Input::Report(report)
            }
            ExecutionMessage::NodeGone(token) => {
                let Some(execution) = self.execution(process, actor) else {
                    return;
                };
                let Some(place) = execution.attempts.iter().position(|(known, ..)| *known == token) else {
                    return;
                };
                let (_, _, spawned_at) = execution.attempts.swap_remove(place);
                Input::NodeGone(
                    token,
                    spawned_at,
                    Box::new(ErrorInfo::new("PANIC", "the attempt's actor is gone")),
                )
            }
        };
        self.tell(process, actor, input);
    }

    pub(super) fn machine_options(&self) -> MachineOptions {
        let options = &self.context.options;
        MachineOptions {
            passivate_after_ms: options.passivate_after_ms,
            retention_ms: options.retention_ms,
            evaluation_rounds_max: options.evaluation_rounds_max,
            mutants: options.mutants,
        }
    }

    pub(super) fn give(&mut self, process: ProcessNo, actor: ActorNo, input: Input<Respond>) {
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        let now = execution.given_at;
        let Some(machine) = &mut execution.machine else { return };
        let mut out = Vec::new();
        // A machine that panics takes its actor with it, nothing else.
        if catch_unwind(AssertUnwindSafe(|| machine.handle(input, now, &mut out))).is_ok() {
            return execution.todo.extend(out);
        }
        let id = execution.id;
        self.trouble(format!("{id}: its machine panicked"));
        self.kill_actor(process, actor, id.shard());
    }

    fn look_up(&mut self, process: ProcessNo, actor: ActorNo) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(execution) = state.executions.get_mut(&actor) else {
            return;
        };
        let Some(serving) = state.shards.get_mut(&execution.id.shard()) else {
            return;
        };
        execution.waiting = Waiting::Lookup;
        serving
            .checkpointer
            .inbox
            .push_back(CheckpointerMessage::Lookup(execution.id, actor));
    }

    fn load(&mut self, process: ProcessNo, actor: ActorNo) {
        let reachable = self.reaches(process);
        let options = self.machine_options();
        let now = self.now;
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        execution.given_at = now;
        let Waiting::Load(pending) = std::mem::replace(&mut execution.waiting, Waiting::No) else {
            return;
        };
        let id = execution.id;
        self.store.set_reachable(reachable);
        let loaded = at_once(load_over(&self.context, id, pending.as_deref()));
        self.store.set_reachable(true);
        self.count("loads");
        match loaded {
            Ok(Loaded::Found(found)) if found.state.status.is_terminal() && self.is_expiring(process, id) => {
                self.gone(process, actor, found.state.seq);
            }
            Ok(Loaded::Found(found)) => {
                if found.state.status.is_terminal() {
                    // Its actor may have failed before it could say so.
                    self.leave_room(process, id);
                }
                if found.segment_bytes == 0 && !found.state.status.is_terminal() {
                    self.count("loads of a snapshot");
                }
                let machine =
                    ExecutionMachine::at(found.compiled, found.state, found.last_at, found.segment_bytes, options);
                if let Some(execution) = self.execution(process, actor) {
                    execution.machine = Some(Box::new(machine));
                }
                let drained = self.was_drained(process, id);
                self.tell(process, actor, Input::TakeOver { drained });
            }
            Ok(Loaded::Missing) => self.missing(process, actor, options),
            Ok(Loaded::Tombstone(last)) => self.gone(process, actor, last),
            Err(EngineError::Unavailable(_) | EngineError::Fenced) => self.not_loaded(process, actor),
            Err(error) => self.trouble(format!("{id}: {error}")),
        }
    }

    /// Whether whoever ran an execution before stopped on purpose. What this owner itself has lost is another matter.
    fn was_drained(&mut self, process: ProcessNo, id: ExecutionId) -> bool {
        let serving = self.caller(process, id.shard()).map(|(_, serving)| &*serving);
        serving.is_some_and(|serving| serving.released && !serving.failed.contains(&id))
    }

    fn missing(&mut self, process: ProcessNo, actor: ActorNo, options: MachineOptions) {
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        let id = execution.id;
        match execution.then.take() {
            Some(ExecutionMessage::Start { mut started, reply, .. }) => {
                let compiled = self.plan(started.workflow.as_str());
                started.controls = self.begins_under(process, id, &compiled);
                if let Some(execution) = self.execution(process, actor) {
                    execution.machine = Some(Box::new(ExecutionMachine::new(compiled, id, options)));
                }
                self.give(process, actor, Input::Start(started, None, reply));
            }
            Some(ExecutionMessage::ChildAlive(_, child)) => self.cancel_orphan(process, child),
            Some(message) => self.refuse(message.reply(), EngineError::NotFound(id)),
            None => {}
        }
    }

    /// Its archive is gone: that it was there is all that is known.
    fn gone(&mut self, process: ProcessNo, actor: ActorNo, last: Seq) {
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        let id = execution.id;
        match execution.then.take() {
            Some(ExecutionMessage::Start { reply, .. }) => {
                let outcome = StartOutcome {
                    id,
                    seq: last,
                    existing: true,
                    pending: false,
                };
                self.reply(process, actor, reply, Reply::Started(outcome));
            }
            Some(ExecutionMessage::ChildAlive(_, child)) => self.cancel_orphan(process, child),
            Some(message) => self.refuse(message.reply(), EngineError::NotFound(id)),
            None => {}
        }
    }

    fn not_loaded(&mut self, process: ProcessNo, actor: ActorNo) {
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        match execution.then.take() {
            Some(message) if message.is_patient() => {
                execution.then = Some(message);
                execution.waiting = Waiting::Pause;
                self.after(LOAD_RETRY_MS, Timed::LoadRetry(process, actor));
            }
            Some(message) => self.refuse(message.reply(), EngineError::Unavailable("the store".into())),
            None => {}
        }
    }

    pub(super) fn load_retry(&mut self, process: ProcessNo, actor: ActorNo) {
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        if matches!(execution.waiting, Waiting::Pause) && !execution.dead {
            self.look_up(process, actor);
        }
    }

    fn perform(&mut self, process: ProcessNo, actor: ActorNo, action: Action<Respond>) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(execution) = state.executions.get_mut(&actor) else {
            return;
        };
        let id = execution.id;
        match action {
            Action::Commit(draft) => execution.appends.push(Append {
                id,
                draft,
                notify: actor,
            }),
            Action::Evaluate(jobs) => execution.jobs = Some(jobs),
            Action::Start(dispatch) => self.spawn_attempt(process, actor, dispatch),
            Action::Abort(token) => self.abort_attempt(process, actor, token),
            Action::HoldQueued => {
                for (_, number, _) in &execution.attempts {
                    if let Some(attempt) = state.attempts.get(number) {
                        attempt.gate.hold();
                    }
                }
            }
            Action::ReleaseQueued => {
                for (_, number, _) in &execution.attempts {
                    if let Some(attempt) = state.attempts.get_mut(number) {
                        attempt.notified |= attempt.gate.release();
                    }
                }
            }
            Action::Reply(reply, answer) => self.reply(process, actor, reply, answer),
            Action::Deadline(at) => {
                if let Some(serving) = state.shards.get_mut(&id.shard()) {
                    serving.timers.inbox.push_back(TimersMessage::Set(id, at));
                }
            }
            Action::SetAside(why) => self.trouble(format!("{id}: {why}")),
            Action::OfferOutput(offer) => {
                let most = CacheLimits {
                    entries: 100,
                    bytes: 1 << 20,
                };
                if let Some(output) = offer.output.as_inline() {
                    let until = self.now.plus_ms(offer.ttl_ms);
                    let put = self
                        .store
                        .cache_output(offer.key, output.clone(), self.now, until, most);
                    at_once(put).expect("the simulated store takes it");
                }
            }
            Action::HeldBack(at) => {
                let workflow = execution
                    .machine
                    .as_ref()
                    .map(|machine| machine.compiled().plan.workflow.clone());
                if let (Some(workflow), Some(serving)) = (workflow, state.shards.get_mut(&id.shard())) {
                    let held = TimersMessage::HeldBack(id, workflow, at, execution.controls);
                    serving.timers.inbox.push_back(held);
                }
            }
            Action::BearErrorWorkflow(start) => self.bear_error_workflow(process, actor, start),
            Action::StartErrorWorkflow(start) => self.start_error_workflow(process, actor, &start),
            Action::AskForRoom => self.ask_for_room(process, actor),
            Action::HasRoom => self.has_room(process, actor),
            Action::Finished(_) => {
                self.parked.remove(&id);
                self.count("ends");
                self.leave_room(process, id);
            }
            Action::Bear(births) => self.bear(process, actor, births),
            Action::StartChild(start) => self.start_child(process, actor, &start),
            Action::TellChild(child, command) => self.tell_child(process, actor, child, command),
            Action::TellParent(parent, outcome) => execution.ended = Some((parent, outcome)),
            Action::AskParent(parent) => self.ask_parent(process, id, parent),
        }
    }

    pub(super) fn reply(&mut self, process: ProcessNo, actor: ActorNo, reply: Respond, answer: Reply) {
        let (client, request) = match reply {
            Respond::Client(client, request) => (client, request),
            Respond::Key(client, request, ordinal) => return self.latest_is(process, client, request, ordinal, answer),
            Respond::Rerun(client, request) => return self.run_again(client, request, answer),
            Respond::Starter(number, tries) => return self.starter_hears(process, number, tries, answer),
            Respond::Nobody => return,
        };
        let answer = match answer {
            Reply::Started(outcome) => Answer::Started {
                id: outcome.id,
                existing: outcome.existing,
            },
            Reply::Commanded(outcome) | Reply::Reopened(outcome, _) => {
                let draining = self.running_attempts(process, actor);
                Answer::Commanded {
                    draining,
                    unchanged: outcome.unchanged,
                }
            }
            Reply::View(state) => Answer::View {
                seq: state.seq.0,
                fingerprint: state.fingerprint(),
            },
            Reply::Refused(error) => Answer::Refused(error),
        };
        self.answer(client, request, answer);
    }

    /// Entries of one batch go to the committer together; then the next message may be heard, or the actor retires.
    fn end_of_batch(&mut self, process: ProcessNo, actor: ActorNo) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(execution) = state.executions.get_mut(&actor) else {
            return;
        };
        if execution.dead || !execution.todo.is_empty() {
            return;
        }
        let appends = std::mem::take(&mut execution.appends);
        if let Some(ended) = execution.ended.take() {
            self.tell_parent(process, ended, appends);
            return self.end_of_batch(process, actor);
        }
        if !appends.is_empty()
            && let Some(serving) = state.shards.get_mut(&execution.id.shard())
        {
            serving.committer.inbox.push_back(CommitterMessage::Append(appends));
        }
        if !execution.unborn.is_empty() {
            let unborn = std::mem::take(&mut execution.unborn);
            self.give(process, actor, Input::Unborn(unborn));
            return self.end_of_batch(process, actor);
        }
        if let Some(reported) = execution.reported.take() {
            self.give(process, actor, reported);
            return self.end_of_batch(process, actor);
        }
        if execution.jobs.is_some() && matches!(execution.waiting, Waiting::No) {
            execution.waiting = Waiting::Evaluation;
            let after = self.random.below(40);
            return self.after(after, Timed::Evaluated(process, actor));
        }
        if matches!(execution.waiting, Waiting::No) && execution.next.is_none() && execution.then.is_none() {
            self.retire_if_idle(process, actor);
        }
    }

    pub(super) fn evaluated(&mut self, process: ProcessNo, actor: ActorNo) {
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        let Some(jobs) = execution.jobs.take() else { return };
        execution.waiting = Waiting::No;
        let reachable = self.reaches(process);
        self.store.set_reachable(reachable);
        let answers: Result<Vec<_>, StoreError> = jobs.iter().map(|job| self.answer_job(process, actor, job)).collect();
        self.store.set_reachable(true);
        match answers {
            Ok(answers) => {
                self.count("evaluations");
                self.give(process, actor, Input::Evaluated(answers));
                self.end_of_batch(process, actor);
            }
            Err(_) => {
                if let Some(execution) = self.execution(process, actor) {
                    execution.jobs = Some(jobs);
                    execution.waiting = Waiting::Evaluation;
                    self.after(LOAD_RETRY_MS, Timed::Evaluated(process, actor));
                }
            }
        }
    }

    /// What the sandbox or the store makes of a job.
    pub(super) fn answer_job(&self, process: ProcessNo, actor: ActorNo, job: &Job) -> Result<JobAnswer, StoreError> {
        let gone = || StoreError::Unavailable("nobody asks any more".into());
        let state = self.processes.get(&process).ok_or_else(gone)?;
        let machine = state
            .executions
            .get(&actor)
            .and_then(|execution| execution.machine.as_ref());
        let root = machine.and_then(|machine| machine.blob_root());
        match job {
            Job::Evaluate(part, evaluated) => Ok(JobAnswer::Evaluated(self.translation.answer(*part, evaluated))),
            Job::LookUp(key) => {
                let found = at_once(self.store.cached_output(*key, self.now))?;
                Ok(JobAnswer::LookedUp(*key, found))
            }
            Job::Load(blob) => {
                let content = at_once(self.store.blob(root.ok_or_else(gone)?, blob.hash))?;
                Ok(JobAnswer::Loaded(
                    *blob,
                    content.expect("what an entry refers to was kept before"),
                ))
            }
            Job::Keep(blob, content) => {
                let root = root.ok_or_else(gone)?;
                let shard = root.shard();
                let epoch = state.shards.get(&shard).ok_or_else(gone)?.epoch;
                let blobs = vec![(*blob, content.clone())];
                at_once(self.store.put_blobs(shard, epoch, root, self.now, blobs, u64::MAX))?;
                Ok(JobAnswer::Kept(*blob, Ok(())))
            }
        }
    }

    fn retire_if_idle(&mut self, process: ProcessNo, actor: ActorNo) {
        let now = self.now;
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(execution) = state.executions.get_mut(&actor) else {
            return;
        };
        let id = execution.id;
        let Some(serving) = state.shards.get_mut(&id.shard()) else {
            return;
        };
        let mut parked = None;
        if let Some(machine) = &execution.machine {
            if !machine.may_retire(now) {
                return;
            }
            if let Mark::Until(at) = machine.mark() {
                parked = Some(at);
            }
        }
        if let Some(at) = parked {
            serving.timers.inbox.push_back(TimersMessage::Park(id, at));
        }
        if execution.routed == execution.received {
            state.directory.remove(&id);
            self.note_parked(process, actor);
            self.drop_actor(process, actor);
            self.count("retired");
        } else if let Some(at) = parked {
            serving.timers.inbox.push_back(TimersMessage::Set(id, Some(at)));
        }
    }

    /// An actor ends, and its attempts with it.
    pub(super) fn drop_actor(&mut self, process: ProcessNo, actor: ActorNo) {
        self.drop_attempts(process, actor);
        if let Some(state) = self.processes.get_mut(&process) {
            state.executions.remove(&actor);
        }
    }

    /// What an attempt reports reaches the actor that runs the execution now, if there is one.
    pub(super) fn redelivered(&mut self, id: ExecutionId, report: Box<troupe_core::execution::AttemptClosed>) {
        for state in self.processes.values_mut() {
            if let Some(execution) = state
                .directory
                .get(&id)
                .and_then(|actor| state.executions.get_mut(actor))
            {
                execution.inbox.push_back(ExecutionMessage::Report(report.clone()));
            }
        }
        self.count("repeated reports");
    }
}

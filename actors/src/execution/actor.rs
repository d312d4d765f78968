//! The execution's shell: saves, then acts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use troupe_core::control::ControlsSeen;
use troupe_core::execution::{AttemptClosed, ChildCommand};
use troupe_core::{ErrorInfo, ExecutionId, Timestamp};
use troupe_telemetry::AttemptEnd;

use super::answers::end_of;
use super::children::command_to_child;
use super::loading::Found;
use super::machine::{Action, ExecutionMachine, Input, MachineOptions, Wanted};
use super::message::{ExecutionArguments, ExecutionMessage, Respond, StartInput};
use crate::attempt::AttemptHandle;
use crate::committer::HeldCommit;
use crate::context::ShardContext;
use crate::shard::send_to_relative;
use crate::timers::TimersMessage;

/// Runs one execution.
#[derive(Debug)]
pub struct ExecutionActor;

/// What an execution's actor keeps.
#[derive(Debug)]
pub struct ExecutionShell {
    pub(super) id: ExecutionId,
    pub(super) shard: Arc<ShardContext>,
    pub(super) machine: Option<Box<ExecutionMachine<Respond>>>,
    pub(super) attempts: Vec<AttemptHandle>,
    pub(super) actions: Vec<Action<Respond>>,
    pub(super) received: Arc<AtomicU64>,
    pub(super) stale_reports: u64,
    /// The last entry of a child that has just reported, while this one steps.
    pub(super) held: Option<HeldCommit>,
    /// Version of the shard's controls that its machine knows.
    pub(super) controls: u64,
    /// The latest report, where a test wants every report delivered again.
    pub(super) redelivered: Option<Box<AttemptClosed>>,
}

impl Actor for ExecutionActor {
    type Msg = ExecutionMessage;
    type State = ExecutionShell;
    type Arguments = ExecutionArguments;

    async fn pre_start(
        &self,
        _: ActorRef<ExecutionMessage>,
        ExecutionArguments { id, shard, received }: ExecutionArguments,
    ) -> Result<ExecutionShell, ActorProcessingErr> {
        let (attempts, actions) = (Vec::new(), Vec::new());
        Ok(ExecutionShell {
            id,
            shard,
            machine: None,
            attempts,
            actions,
            received,
            stale_reports: 0,
            held: None,
            controls: 0,
            redelivered: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ExecutionMessage>,
        message: ExecutionMessage,
        shell: &mut ExecutionShell,
    ) -> Result<(), ActorProcessingErr> {
        if message.is_routed() {
            shell.received.fetch_add(1, Ordering::Relaxed);
        }
        shell.receive(&myself, message).await;
        shell.retire_if_idle(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ExecutionMessage>,
        event: SupervisionEvent,
        shell: &mut ExecutionShell,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, why) = match event {
            SupervisionEvent::ActorTerminated(cell, _, why) => (cell.get_id(), why.unwrap_or_default()),
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
            #[allow(unreachable_patterns, reason = "variants depend on ractor's features")]
            _ => return Ok(()),
        };
        // It has overtaken the result, if there is one: as a message it waits its turn behind that, and finds the attempt no more.
        let lost = shell.attempts.iter().find(|attempt| attempt.actor == actor);
        if let Some(attempt) = lost {
            myself.send_message(ExecutionMessage::NodeGone(attempt.token, why))?;
        }
        Ok(())
    }
}

impl ExecutionShell {
    /// What every step brings goes a short way: the future of a message is moved, whole, before it is polled.
    async fn receive(&mut self, myself: &ActorRef<ExecutionMessage>, message: ExecutionMessage) {
        let input = match message {
            ExecutionMessage::Durable(seq) => Input::Durable(seq),
            ExecutionMessage::Report(report) => {
                self.note_report(&report);
                if self.shard.engine.options.mutants.redeliver_reports {
                    Box::pin(self.redeliver(myself, &report)).await;
                }
                Input::Report(report)
            }
            rarer => return Box::pin(self.receive_rarer(myself, rarer)).await,
        };
        self.give(myself, input).await;
    }

    async fn receive_rarer(&mut self, myself: &ActorRef<ExecutionMessage>, message: ExecutionMessage) {
        let input = match message {
            ExecutionMessage::Start(start, reply) => {
                let StartInput {
                    started,
                    principal,
                    compiled,
                    fresh,
                } = *start;
                if self.machine.is_none() {
                    if fresh {
                        let options = self.machine_options();
                        self.machine = Some(Box::new(ExecutionMachine::new(compiled, self.id, options)));
                    } else if let Some(reply) = self.load_for(myself, reply, Some(compiled)).await {
                        return self
                            .give(myself, Input::Start(Box::new(started), principal, reply))
                            .await;
                    } else {
                        return;
                    }
                }
                Input::Start(Box::new(started), principal, reply)
            }
            ExecutionMessage::Supersede(start, reply) => {
                if let Some(reply) = self.load_for(myself, reply, None).await {
                    self.supersede(myself, *start, reply).await;
                }
                return;
            }
            ExecutionMessage::Adopt(machine, actions) => {
                self.machine = Some(machine);
                self.actions = actions;
                return self.perform(myself, self.shard.engine.now()).await;
            }
            // What a parent says is said once: nobody would repeat it.
            ExecutionMessage::Command(command, Respond::Nobody) => {
                if self.load_patiently(myself).await != Found::Machine {
                    return;
                }
                Input::Command(command, Respond::Nobody)
            }
            ExecutionMessage::Command(command, reply) => {
                let Some(reply) = self.load_for(myself, reply, None).await else {
                    return;
                };
                Input::Command(command, reply)
            }
            ExecutionMessage::Read(reply) => {
                let Some(reply) = self.load_for(myself, reply, None).await else {
                    return;
                };
                Input::Read(reply)
            }
            ExecutionMessage::Wake => {
                self.load_patiently(myself).await;
                Input::Wake
            }
            ExecutionMessage::Recover(permit) => {
                self.load_patiently(myself).await;
                drop(permit);
                return;
            }
            ExecutionMessage::ChildReported(report, held) => {
                self.held = held;
                self.load_patiently(myself).await;
                self.give(myself, Input::ChildReported(*report)).await;
                self.held = None;
                return;
            }
            ExecutionMessage::ChildAlive(child, id) => {
                if self.load_patiently(myself).await == Found::Nothing {
                    return send_to_relative(&self.shard, id, command_to_child(ChildCommand::Cancel));
                }
                Input::ChildAlive(child)
            }
            ExecutionMessage::AskParent(parent) => {
                self.load_patiently(myself).await;
                Input::AskParent(parent)
            }
            ExecutionMessage::Admitted => {
                self.load_patiently(myself).await;
                Input::Admitted
            }
            ExecutionMessage::ErrorWorkflow(outcome) => {
                self.load_patiently(myself).await;
                Input::ErrorWorkflow(*outcome)
            }
            ExecutionMessage::Durable(seq) => Input::Durable(seq),
            ExecutionMessage::Report(report) => {
                self.note_report(&report);
                Input::Report(report)
            }
            ExecutionMessage::NodeGone(token, why) => {
                let Some(place) = self.attempts.iter().position(|attempt| attempt.token == token) else {
                    return;
                };
                let attempt = self.attempts.swap_remove(place);
                let error = ErrorInfo::new("PANIC", format!("the attempt's actor is gone: {why}"));
                self.count_attempt(token, AttemptEnd::Failed);
                Input::NodeGone(token, attempt.spawned_at, Box::new(error))
            }
        };
        self.give(myself, input).await;
    }

    fn note_report(&mut self, report: &AttemptClosed) {
        self.attempts.retain(|attempt| attempt.token != report.token);
        self.count_attempt(report.token, end_of(&report.outcome));
    }

    /// The report before this one comes again, when its node may already be at its next attempt.
    async fn redeliver(&mut self, myself: &ActorRef<ExecutionMessage>, report: &AttemptClosed) {
        if let Some(before) = self.redelivered.replace(Box::new(report.clone())) {
            self.give(myself, Input::Report(before)).await;
        }
    }

    pub(super) fn machine_options(&self) -> MachineOptions {
        let options = &self.shard.engine.options;
        MachineOptions {
            passivate_after_ms: options.passivate_after_ms,
            retention_ms: options.retention_ms,
            evaluation_rounds_max: options.evaluation_rounds_max,
            mutants: options.mutants,
        }
    }

    /// Gives an input to the machine and performs what follows, all of it at the time before the controls were looked at: nothing is
    /// recorded at a time at which a control was in force that the execution had not learned of.
    pub(super) async fn give(&mut self, myself: &ActorRef<ExecutionMessage>, mut input: Input<Respond>) {
        let now = self.shard.engine.now();
        if !matches!(input, Input::Read(_))
            && let Some(seen) = self.news_of_controls(now)
            && let Some(machine) = &mut self.machine
        {
            machine.handle(Input::Controls(Box::new(seen)), now, &mut self.actions);
            self.perform(myself, now).await;
        }
        self.begin_under_controls(&mut input, now);
        let Some(machine) = &mut self.machine else { return };
        machine.handle(input, now, &mut self.actions);
        self.perform(myself, now).await;
    }

    /// What the execution must learn of its shard's controls before it steps.
    fn news_of_controls(&mut self, now: Timestamp) -> Option<ControlsSeen> {
        let machine = self.machine.as_ref()?;
        let (plan, state) = (&machine.compiled().plan, machine.state());
        self.shard.controls.news(&mut self.controls, plan, state, now)
    }

    /// A new execution, and one that had ended and goes on, are told what is in force.
    fn begin_under_controls(&self, input: &mut Input<Respond>, now: Timestamp) {
        let Some(machine) = &self.machine else { return };
        let begins = match input {
            Input::Start(started, ..) => &mut started.controls,
            Input::Command(command, _) => match &mut command.wanted {
                Wanted::Reopen(reopen) => &mut reopen.controls,
                _ => return,
            },
            _ => return,
        };
        *begins = self.shard.controls.at_start(&machine.compiled().plan, now);
    }

    fn retire_if_idle(&mut self, myself: &ActorRef<ExecutionMessage>) {
        let now = self.shard.engine.now();
        let mut parked = None;
        if let Some(machine) = &self.machine {
            let stale_reports = machine.stale_reports();
            if stale_reports != self.stale_reports {
                let news = stale_reports - self.stale_reports;
                self.shard
                    .engine
                    .counters
                    .stale_reports
                    .fetch_add(news, Ordering::Relaxed);
                self.stale_reports = stale_reports;
            }
            if !machine.may_retire(now) {
                return;
            }
            if let crate::record::Mark::Until(at) = machine.mark() {
                parked = Some(at);
            }
        }
        // The timers hear it before another actor of this execution can tell them anything newer.
        if let Some(at) = parked {
            self.tell_timers(TimersMessage::Park(self.id, at));
        }
        let received = self.received.load(Ordering::Relaxed);
        if self.shard.engine.directory.retire(self.id, received) {
            myself.stop(None);
        } else if let Some(at) = parked {
            self.tell_timers(TimersMessage::Set(self.id, Some(at)));
        }
    }
}

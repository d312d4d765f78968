//! An execution's actor carries out what its machine decided.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{Actor, ActorRef};
use smallvec::SmallVec;
use troupe_core::execution::{
    ChildCommand, ChildId, ChildOutcome, ChildReport, ErrorWorkflow, OfferOutput, Parent, StartChild,
    StartErrorWorkflow,
};
use troupe_core::{Json, NodeIx, Timestamp};
use troupe_ports::Task;

use super::actor::ExecutionShell;
use super::children::command_to_child;
use super::error_workflow::NewErrorWorkflow;
use super::family::{NewChild, child_id};
use super::machine::{Action, Dispatch, ExecutionMachine, Input};
use super::message::ExecutionMessage;
use super::reuse::keep_for_reuse;
use crate::attempt::permits::Rank;
use crate::attempt::slots::SlotWanted;
use crate::attempt::{AttemptArguments, AttemptHandle, NodeAttemptActor};
use crate::blobs::Contents;
use crate::committer::machine::Append;
use crate::committer::{CommitterMessage, HeldCommit, Notify};
use crate::error::EngineError;
use crate::rooms;
use crate::shard::send_to_relative;
use crate::timers::TimersMessage;

impl ExecutionShell {
    /// Carries out what the machine decided; what it decides next, it decides at `now`: who looked at the controls did so then.
    pub(super) async fn perform(&mut self, myself: &ActorRef<ExecutionMessage>, now: Timestamp) {
        while !self.actions.is_empty() {
            let mut appends = SmallVec::new();
            let mut jobs = None;
            let mut unborn = Vec::new();
            let mut ended = None;
            let mut then = None;
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Commit(draft) => {
                        let Some(machine) = &self.machine else { continue };
                        self.count_retries(&draft.entry);
                        let notify = Notify {
                            actor: myself.clone(),
                            compiled: Arc::clone(machine.compiled()),
                            trace_parent: machine.trace_parent(),
                        };
                        appends.push(Append {
                            id: self.id,
                            draft,
                            notify,
                        });
                    }
                    Action::Evaluate(asked) => jobs = Some(asked),
                    Action::Start(dispatch) => self.start_attempt(myself, dispatch).await,
                    Action::Abort(token) => {
                        self.attempts
                            .iter()
                            .filter(|attempt| attempt.token == token)
                            .for_each(AttemptHandle::abort);
                    }
                    Action::HeldBack(at) => {
                        let Some(machine) = &self.machine else { continue };
                        let workflow = machine.compiled().plan.workflow.clone();
                        self.tell_timers(TimersMessage::HeldBack(self.id, workflow, at, self.controls));
                    }
                    Action::HoldQueued => {
                        for attempt in &self.attempts {
                            attempt.shared.gate.hold();
                        }
                    }
                    Action::ReleaseQueued => self.attempts.iter().for_each(AttemptHandle::release),
                    Action::Bear(births) => {
                        for start in births {
                            match Box::pin(self.bear(&start)).await {
                                Some(first) => appends.push(first),
                                None => unborn.push(start),
                            }
                        }
                    }
                    Action::BearErrorWorkflow(start) => {
                        then = Some(match Box::pin(self.bear_error_workflow(&start)).await {
                            Some(first) => {
                                let began = ErrorWorkflow::Began(first.id);
                                appends.push(first);
                                Input::ErrorWorkflow(began)
                            }
                            None => Input::UnbornErrorWorkflow(start),
                        });
                    }
                    Action::StartErrorWorkflow(start) => self.start_error_workflow(&start),
                    Action::StartChild(start) => self.start_child(&start),
                    Action::TellChild(child, command) => self.tell_child(child, command),
                    Action::TellParent(parent, outcome) => ended = Some((parent, outcome)),
                    Action::AskParent(parent) => self.ask_parent(parent),
                    Action::OfferOutput(offer) => self.offer_output(offer),
                    Action::AskForRoom => {
                        if let Some(machine) = &self.machine {
                            rooms::ask(&self.shard.engine, &machine.compiled().plan, machine.state());
                        }
                    }
                    Action::HasRoom => {
                        if let Some(machine) = &self.machine {
                            rooms::runs(&self.shard, &machine.compiled().plan, machine.state());
                        }
                    }
                    Action::Reply(reply, answer) => self.reply(reply, answer),
                    Action::Deadline(at) => self.tell_timers(TimersMessage::Set(self.id, at)),
                    Action::SetAside(why) => self.quarantine(&EngineError::Damaged(why)),
                    Action::Finished(ended) => {
                        let engine = &self.shard.engine;
                        engine.counters.ended.fetch_add(1, Ordering::Relaxed);
                        engine.watches.ended(ended);
                        self.count_end();
                        let limited = |machine: &ExecutionMachine<_>| machine.state().room.is_some();
                        if self.machine.as_deref().is_some_and(limited) {
                            rooms::leave(&self.shard, self.id);
                        }
                    }
                }
            }
            match ended {
                Some((parent, outcome)) => self.tell_parent(parent, outcome, appends),
                None => self.append(appends),
            }
            if !unborn.is_empty()
                && let Some(machine) = &mut self.machine
            {
                machine.handle(Input::Unborn(unborn), now, &mut self.actions);
            }
            if let (Some(then), Some(machine)) = (then, &mut self.machine) {
                machine.handle(then, now, &mut self.actions);
            }
            let Some(jobs) = jobs else { continue };
            // That may take long.
            self.held = None;
            let root = self.machine.as_ref().and_then(|machine| machine.blob_root());
            let answers = match Box::pin(self.shard.evaluate(root, jobs)).await {
                Ok(answers) => answers,
                Err(error) => return self.give_up(&error),
            };
            let Some(machine) = &mut self.machine else { return };
            machine.handle(Input::Evaluated(answers), now, &mut self.actions);
        }
    }

    fn child(&self, start: &StartChild) -> Option<NewChild> {
        let machine = self.machine.as_ref()?;
        Some(NewChild::of(machine.state(), machine.compiled(), start))
    }

    /// Begins the error workflow in the record of the failure; none where that cannot be.
    async fn bear_error_workflow(&self, start: &StartErrorWorkflow) -> Option<Append<Notify>> {
        let new = NewErrorWorkflow::of(self.machine.as_ref()?.state(), start);
        new.bear(&self.shard, self.machine_options()).await
    }

    fn start_error_workflow(&self, start: &StartErrorWorkflow) {
        if let Some(machine) = &self.machine {
            let new = NewErrorWorkflow::of(machine.state(), start);
            tokio::spawn(new.begin(Arc::clone(&self.shard)));
        }
    }

    /// Begins a child in the record of its parent's entry; none where that cannot be.
    async fn bear(&self, start: &StartChild) -> Option<Append<Notify>> {
        self.child(start)?.bear(&self.shard, self.machine_options()).await
    }

    fn start_child(&self, start: &StartChild) {
        if let Some(child) = self.child(start) {
            tokio::spawn(child.begin(Arc::clone(&self.shard)));
        }
    }

    fn tell_child(&self, child: ChildId, command: ChildCommand) {
        let Some(machine) = &self.machine else { return };
        let id = child_id(self.id, &machine.compiled().plan, child);
        send_to_relative(&self.shard, id, command_to_child(command));
    }

    /// Hands over the last entries, then tells the parent: what it makes of that can go into the same record.
    fn tell_parent(&self, parent: Parent, outcome: ChildOutcome, appends: SmallVec<[Append<Notify>; 1]>) {
        let report = ChildReport {
            child: parent.child,
            outcome,
        };
        self.shard.gauges.committer.sent();
        let held = HeldCommit::new(&self.shard.committer, appends);
        let message = ExecutionMessage::ChildReported(Box::new(report), held);
        send_to_relative(&self.shard, parent.execution, message);
    }

    /// Nobody waits for it, and nothing is lost with it.
    fn offer_output(&self, offer: OfferOutput) {
        let root = self.machine.as_ref().and_then(|machine| machine.state().blob_root());
        tokio::spawn(keep_for_reuse(Arc::clone(&self.shard), root, offer));
    }

    fn ask_parent(&self, parent: Parent) {
        let alive = ExecutionMessage::ChildAlive(parent.child, self.id);
        send_to_relative(&self.shard, parent.execution, alive);
    }

    pub(super) fn append(&self, appends: SmallVec<[Append<Notify>; 1]>) {
        if appends.is_empty() {
            return;
        }
        self.shard.gauges.committer.sent();
        if self
            .shard
            .committer
            .send_message(CommitterMessage::Append(appends))
            .is_err()
        {
            // The shard is lost; this actor is about to be dropped with it, and so are the replies.
            tracing::debug!(id = %self.id, "an entry came after its shard was lost");
        }
    }

    pub(super) fn tell_timers(&self, message: TimersMessage) {
        if self.shard.timers.send_message(message).is_err() {
            tracing::debug!(id = %self.id, "a timer came after its shard was lost");
        }
    }

    /// What the node's own expressions see, with large values loaded.
    async fn scope_of_attempt(&mut self, node: NodeIx, at: Timestamp) -> Result<Option<Json>, EngineError> {
        let mut contents = Contents::default();
        while let Some(machine) = &self.machine {
            let state = machine.state();
            let needed = match machine.compiled().scope_of_attempt(node, state, at, &contents) {
                Ok(scope) => return Ok(scope),
                Err(needed) => needed,
            };
            let root = state.blob_root().unwrap_or(self.id);
            // That may take long.
            self.held = None;
            for blob in needed {
                let content = Box::pin(self.shard.engine.blobs.get_patiently(&self.shard, root, &blob)).await?;
                contents.add(blob, content);
            }
        }
        Ok(None)
    }

    async fn start_attempt(&mut self, myself: &ActorRef<ExecutionMessage>, dispatch: Dispatch) {
        let spawned_at = self.shard.engine.now();
        let scope = match self.scope_of_attempt(dispatch.start.token.node, spawned_at).await {
            Ok(scope) => scope,
            Err(error) => return self.give_up(&error),
        };
        let engine = &self.shard.engine;
        let Some(machine) = &self.machine else { return };
        let task = Task {
            execution: self.id,
            token: dispatch.start.token,
            plan: Arc::clone(&machine.compiled().plan),
            data: dispatch.start.data,
            input: dispatch.start.input,
            variables: dispatch.variables,
            scope,
            trace_parent: machine.trace_parent(),
            deadline: spawned_at,
        };
        let token = task.token;
        let planned = task.node();
        let rank = Rank {
            priority: machine.state().priority,
            criticality: planned.criticality,
            depth: planned.depth,
        };
        let shared = Arc::default();
        let arguments = Box::new(AttemptArguments {
            shard: Arc::clone(&self.shard),
            execution: myself.clone(),
            root: machine.state().blob_root(),
            task,
            rank,
            slot: SlotWanted::of(&machine.compiled().plan, machine.state(), token.node),
            running: Arc::clone(machine.compiled().running()),
            shared: Arc::clone(&shared),
        });
        match NodeAttemptActor::spawn_linked(None, NodeAttemptActor, arguments, myself.get_cell()).await {
            Ok((actor, _)) => {
                engine.counters.node_actors.fetch_add(1, Ordering::Relaxed);
                self.attempts.push(AttemptHandle {
                    token,
                    actor: actor.get_id(),
                    spawned_at,
                    shared,
                });
            }
            // Only when this actor is being dropped with its shard.
            Err(error) => tracing::debug!(id = %self.id, %error, "an attempt was not started"),
        }
    }
}

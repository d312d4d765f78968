//! One execution of a business key ends and the next one begins, in one record.

use std::sync::Arc;

use ractor::ActorRef;
use smallvec::SmallVec;
use troupe_core::Timestamp;

use super::actor::ExecutionShell;
use super::machine::{Action, CommandInput, ExecutionMachine, Input, Wanted};
use super::message::{ExecutionMessage, Respond, StartInput};
use crate::committer::Notify;
use crate::committer::machine::Append;
use crate::error::EngineError;
use crate::shard::spawn_execution;

impl ExecutionShell {
    /// Ends this execution and begins another one of its key, in one record.
    pub(super) async fn supersede(&mut self, myself: &ActorRef<ExecutionMessage>, start: StartInput, reply: Respond) {
        let Some(ours) = &mut self.machine else { return };
        if ours.state().status.is_terminal() {
            return reply.refuse(EngineError::Ended(self.id));
        }
        let options = self.machine_options();
        let StartInput {
            mut started,
            principal,
            compiled,
            ..
        } = start;
        let (id, now) = (started.id, self.shard.engine.now());
        started.controls = self.shard.controls.at_start(&compiled.plan, now);
        let mut machine = Box::new(ExecutionMachine::new(compiled, id, options));
        let mut actions = Vec::new();
        let mut input = Input::Start(Box::new(started), principal.clone(), reply);
        loop {
            machine.handle(input, now, &mut actions);
            let Some(place) = actions.iter().position(|action| matches!(action, Action::Evaluate(_))) else {
                break;
            };
            let Action::Evaluate(jobs) = actions.remove(place) else {
                break;
            };
            match self.shard.evaluate(Some(id), jobs).await {
                Ok(answers) => input = Input::Evaluated(answers),
                // The reply goes with the machine: the caller hears that it is unavailable, and nothing happened to anybody.
                Err(error) => return tracing::error!(%id, %error, "a start was given up"),
            }
        }
        let Some(place) = actions.iter().position(|action| matches!(action, Action::Commit(_))) else {
            // Refused: the reply is among the actions, and nothing happened to anybody.
            actions.into_iter().for_each(|action| {
                if let Action::Reply(reply, answer) = action {
                    self.reply(reply, answer);
                }
            });
            return;
        };
        let first = actions.remove(place);
        let actions = born_later(&mut machine, actions, now);
        let (compiled, trace_parent) = (Arc::clone(machine.compiled()), machine.trace_parent());
        let adopt = ExecutionMessage::Adopt(machine, actions);
        let Ok(actor) = spawn_execution(&self.shard, id, adopt).await else {
            // Somebody else has just started it: the caller looks again. The reply went with the message.
            return;
        };
        let event = troupe_core::execution::Event::CancelRequested {
            reason: Some("superseded by the next execution of its key".into()),
            grace_ms: 0,
            at_once: true,
        };
        let command = CommandInput {
            wanted: Wanted::Event(event),
            principal,
            command: None,
        };
        let Some(ours) = &mut self.machine else { return };
        ours.handle(
            Input::Command(Box::new(command), Respond::Nobody),
            now,
            &mut self.actions,
        );
        let mut appends: SmallVec<[Append<Notify>; 1]> = SmallVec::new();
        let (our_compiled, our_trace_parent) = (Arc::clone(ours.compiled()), ours.trace_parent());
        let (commits, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.actions)
            .into_iter()
            .partition(|action| matches!(action, Action::Commit(_)));
        for action in commits {
            if let Action::Commit(draft) = action {
                let notify = Notify {
                    actor: myself.clone(),
                    compiled: Arc::clone(&our_compiled),
                    trace_parent: our_trace_parent.clone(),
                };
                appends.push(Append {
                    id: self.id,
                    draft,
                    notify,
                });
            }
        }
        if let Action::Commit(draft) = first {
            appends.push(Append {
                id,
                draft,
                notify: Notify {
                    actor,
                    compiled,
                    trace_parent,
                },
            });
        }
        self.append(appends);
        self.actions = rest;
        self.perform(myself, now).await;
    }
}

/// What could begin in the record of a first entry begins after it: that record is another actor's.
fn born_later(
    machine: &mut ExecutionMachine<Respond>,
    actions: Vec<Action<Respond>>,
    now: Timestamp,
) -> Vec<Action<Respond>> {
    let mut rest = Vec::with_capacity(actions.len());
    for action in actions {
        match action {
            Action::Bear(starts) => machine.handle(Input::Unborn(starts), now, &mut rest),
            Action::BearErrorWorkflow(start) => machine.handle(Input::UnbornErrorWorkflow(start), now, &mut rest),
            other => rest.push(other),
        }
    }
    rest
}

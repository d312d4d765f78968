//! Starts that end the open execution of their key: what `actors/src/execution/supersede.rs` does.

use troupe_actors::EngineError;
use troupe_actors::committer::machine::Append;
use troupe_actors::execution::machine::{Action, CommandInput, ExecutionMachine, Input, Wanted};
use troupe_core::execution::{Event, Started};

use super::World;
use super::process::{ActorNo, Execution, ExecutionMessage, ProcessNo, Respond};

/// Why an execution was canceled whose key was wanted.
pub(super) const SUPERSEDED: &str = "superseded by the next execution of its key";

impl World {
    /// Ends an execution and begins another one of its key, in one record.
    pub(super) fn supersede(&mut self, process: ProcessNo, actor: ActorNo, mut started: Box<Started>, reply: Respond) {
        let (options, now) = (self.machine_options(), self.now);
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        let id = execution.id;
        if execution
            .machine
            .as_ref()
            .is_none_or(|ours| ours.state().status.is_terminal())
        {
            return self.refuse(reply, EngineError::Ended(id));
        }
        let next = started.id;
        let compiled = self.plan(started.workflow.as_str());
        started.controls = self.begins_under(process, next, &compiled);
        let mut machine = Box::new(ExecutionMachine::new(compiled, next, options));
        let mut actions = Vec::new();
        let mut input = Input::Start(started, None, reply);
        loop {
            machine.handle(input, now, &mut actions);
            let Some(place) = actions.iter().position(|action| matches!(action, Action::Evaluate(_))) else {
                break;
            };
            let Action::Evaluate(jobs) = actions.remove(place) else {
                break;
            };
            let answers = jobs.iter().map(|job| self.answer_job(process, actor, job));
            match answers.collect() {
                Ok(answers) => input = Input::Evaluated(answers),
                // The caller asks again, and nothing happened to anybody.
                Err(_) => return,
            }
        }
        let Some(place) = actions.iter().position(|action| matches!(action, Action::Commit(_))) else {
            for action in actions {
                if let Action::Reply(reply, answer) = action {
                    self.reply(process, actor, reply, answer);
                }
            }
            return;
        };
        let Action::Commit(first) = actions.remove(place) else {
            return;
        };
        // What could begin in the record of a first entry begins after it: that record is another actor's.
        let mut later = Vec::with_capacity(actions.len());
        for action in actions {
            match action {
                Action::Bear(starts) => machine.handle(Input::Unborn(starts), now, &mut later),
                other => later.push(other),
            }
        }
        let number = self.number();
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        if state.directory.contains_key(&next) || state.quarantine.contains_key(&next) {
            return;
        }
        let mut adopted = Execution::new(next);
        adopted.routed = 1;
        adopted.inbox.push_back(ExecutionMessage::Adopt(machine, later));
        state.directory.insert(next, number);
        state.executions.insert(number, adopted);
        let event = Event::CancelRequested {
            reason: Some(SUPERSEDED.into()),
            grace_ms: 0,
            at_once: true,
        };
        let command = CommandInput {
            wanted: Wanted::Event(event),
            principal: None,
            command: None,
        };
        self.give(process, actor, Input::Command(Box::new(command), Respond::Nobody));
        self.count("superseded");
        let Some(execution) = self.execution(process, actor) else {
            return;
        };
        for action in std::mem::take(&mut execution.todo) {
            match action {
                Action::Commit(draft) => execution.appends.push(Append {
                    id,
                    draft,
                    notify: actor,
                }),
                other => execution.todo.push_back(other),
            }
        }
        execution.appends.push(Append {
            id: next,
            draft: first,
            notify: number,
        });
    }
}

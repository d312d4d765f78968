//! What operators and callers ask for.

use troupe_core::execution::{Decision, Event, Phase, Remedy, Reopened, Reopening, reopening};
use troupe_core::{NodeIx, Seq, Timestamp};

use super::{Action, CommandInput, ExecutionMachine, NodeCommand, Reopen, Reply, Stepping, Wanted};
use crate::error::EngineError;
use crate::evaluation::Answers;

impl<R> ExecutionMachine<R> {
    pub(super) fn command(&mut self, input: CommandInput, reply: R, at: Timestamp, out: &mut Vec<Action<R>>) {
        if self.state.seq == Seq(0) {
            let missing = EngineError::NotFound(self.state.id);
            return out.push(Action::Reply(reply, Reply::Refused(missing)));
        }
        if input
            .command
            .as_ref()
            .is_some_and(|id| self.state.recent_commands.contains(id))
        {
            return self.reply_unchanged(reply, out);
        }
        let wanted = match input.wanted {
            Wanted::Reopen(wanted) => self.reopen(wanted),
            wanted => self.event_of(wanted).map(|event| (event, None)),
        };
        match wanted {
            Ok((event, reopening)) => self.advance(
                Stepping {
                    event,
                    at,
                    principal: input.principal,
                    command: input.command,
                    reply: Some(reply),
                    reopening,
                    answers: Answers::default(),
                    rounds: 0,
                },
                out,
            ),
            // What it was refused for may not be durable yet.
            Err(refusal) => self.reply(reply, Reply::Refused(refusal), out),
        }
    }

    /// The event of a retry or a skip, and what it runs again. A skip of a node that has not ended is a decision like others.
    fn reopen(&self, wanted: Reopen) -> Result<(Event, Option<Box<Reopening>>), EngineError> {
        if self.state.status.is_terminal() && self.durable < self.state.seq {
            // Whoever waits for the end hears of it first.
            return Err(EngineError::Unavailable(
                "the end is being written: try again in a moment".into(),
            ));
        }
        let nodes = wanted.nodes.iter().map(|key| self.node_ix(key));
        let nodes = nodes.collect::<Result<Vec<NodeIx>, _>>()?;
        if let (Remedy::Skip(output), [node]) = (&wanted.remedy, nodes.as_slice()) {
            let held = &self.state.nodes[node.at()];
            let may_be_reopened =
                held.phase == Phase::Failed || (self.state.status.is_terminal() && held.cut_off.is_some());
            if !may_be_reopened {
                let decision = Decision::Skip(output.clone());
                return Ok((Event::Decided { node: *node, decision }, None));
            }
        }
        let ended = self.state.status.is_terminal();
        let mut reopened = Reopened {
            run: self.state.run,
            nodes,
            remedy: wanted.remedy,
            reason: wanted.reason,
            // One that runs knows them.
            controls: wanted.controls.filter(|_| ended),
        };
        let reopening = reopening(&self.compiled.plan, &self.state, &reopened);
        let reopening = reopening.map_err(|refusal| EngineError::Refused(Box::new(refusal)))?;
        reopened.run = reopening.run;
        Ok((Event::Reopened(Box::new(reopened)), Some(Box::new(reopening))))
    }

    fn node_ix(&self, key: &str) -> Result<NodeIx, EngineError> {
        let missing = || EngineError::NodeNotFound {
            id: self.state.id,
            node: key.to_owned(),
        };
        self.compiled.plan.node_ix(key).ok_or_else(missing)
    }

    fn event_of(&self, wanted: Wanted) -> Result<Event, EngineError> {
        let (key, command) = match wanted {
            Wanted::Event(event) => return Ok(event),
            Wanted::OfNode(key, command) => (key, command),
            Wanted::Reopen(wanted) => return self.reopen(wanted).map(|(event, _)| event),
        };
        let node = self.node_ix(&key)?;
        Ok(match command {
            NodeCommand::Signal(call) => Event::Signaled { node, call },
            NodeCommand::Heartbeat => Event::Heartbeat(node),
            NodeCommand::Decide(decision) => Event::Decided { node, decision },
        })
    }

    pub(super) fn read(&mut self, reply: R, out: &mut Vec<Action<R>>) {
        if self.state.seq == Seq(0) {
            let missing = EngineError::NotFound(self.state.id);
            return out.push(Action::Reply(reply, Reply::Refused(missing)));
        }
        let view = Reply::View(Box::new(self.state.clone()));
        if self.options.mutants.read_before_commit {
            out.push(Action::Reply(reply, view));
        } else {
            self.reply(reply, view, out);
        }
    }
}

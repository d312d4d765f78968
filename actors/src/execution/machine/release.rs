//! What waits for a commit, and goes when that is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use troupe_core::execution::{ChildOutcome, Effect, ExecutionState, Phase, Status};
use troupe_core::{ErrorInfo, Seq, Token, Value};

use super::{Action, Dispatch, ExecutionMachine, Reply};
use crate::request::{CommandOutcome, Ended};

#[derive(Debug)]
pub(super) enum Release<R> {
    Effect(Effect, Option<Arc<BTreeMap<String, Value>>>),
    Reply(R, Reply),
    Queued,
    Finished,
}

impl<R> ExecutionMachine<R> {
    pub(super) fn reply(&mut self, reply: R, answer: Reply, out: &mut Vec<Action<R>>) {
        let seq = self.state.seq;
        if self.durable >= seq || self.options.mutants.acknowledge_before_commit {
            out.push(Action::Reply(reply, answer));
        } else {
            self.waiting.push_back((seq, Release::Reply(reply, answer)));
        }
    }

    pub(super) fn reply_unchanged(&mut self, reply: R, out: &mut Vec<Action<R>>) {
        let (seq, draining) = (self.state.seq, self.draining());
        self.reply(
            reply,
            Reply::Commanded(CommandOutcome {
                seq,
                draining,
                unchanged: true,
            }),
            out,
        );
    }

    pub(super) fn draining(&self) -> u32 {
        u32::try_from(self.state.running.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn release(&mut self, seq: Seq, out: &mut Vec<Action<R>>) {
        self.durable = self.durable.max(seq);
        self.release_up_to(self.durable, out);
    }

    pub(super) fn release_up_to(&mut self, seq: Seq, out: &mut Vec<Action<R>>) {
        while let Some((_, release)) = self.waiting.pop_front_if(|(at, _)| *at <= seq) {
            match release {
                Release::Effect(Effect::StartAttempt(start), variables) => {
                    let variables = variables.unwrap_or_else(|| Arc::clone(&self.variables));
                    self.dispatch(Dispatch { start, variables }, out);
                }
                Release::Effect(Effect::AbortAttempt(token), _) => self.abort(token, out),
                // One that was given up meanwhile never begins; that it is told so comes behind.
                Release::Effect(Effect::StartChild(start), _) if !self.state.awaits(start.child) => {}
                Release::Effect(Effect::StartChild(start), _) => out.push(Action::StartChild(start)),
                Release::Effect(Effect::StartErrorWorkflow(start), _) => out.push(Action::StartErrorWorkflow(start)),
                Release::Effect(Effect::TellChild(child, command), _) => out.push(Action::TellChild(child, command)),
                Release::Effect(Effect::OfferOutput(offer), _) => out.push(Action::OfferOutput(offer)),
                Release::Effect(Effect::AskForRoom, _) => out.push(Action::AskForRoom),
                Release::Effect(Effect::Finish, _) | Release::Finished => {
                    out.push(Action::Finished(Ended {
                        id: self.state.id,
                        seq: self.state.seq,
                        status: self.state.status.name(),
                    }));
                }
                Release::Reply(reply, answer) => out.push(Action::Reply(reply, answer)),
                Release::Queued if self.state.paused => {}
                Release::Queued => out.push(Action::ReleaseQueued),
            }
        }
    }

    /// The parent hears of the end before that is durable: its own entry follows this one in the log of their shard.
    pub(super) fn tell_parent(&self, out: &mut Vec<Action<R>>) {
        if let Some(parent) = self.state.parent.filter(|parent| parent.attached)
            && let Some(outcome) = outcome_of(&self.state)
        {
            out.push(Action::TellParent(parent, outcome));
        }
    }

    /// An attempt whose node has moved on meanwhile is not started: its abort is behind it in the queue.
    fn dispatch(&mut self, dispatch: Dispatch, out: &mut Vec<Action<R>>) {
        let token = dispatch.start.token;
        let phase = self.state.node(token.node).map(|node| &node.phase);
        match phase {
            Some(Phase::Running { token: current }) if *current == token => {}
            Some(Phase::Canceling { token: current }) if *current == token => {}
            _ => return,
        }
        if self.state.paused {
            self.held.push(dispatch);
        } else {
            out.push(Action::Start(dispatch));
        }
    }

    fn abort(&mut self, token: Token, out: &mut Vec<Action<R>>) {
        self.held.retain(|held| held.start.token != token);
        out.push(Action::Abort(token));
    }
}

/// What an execution that has ended is to its parent.
#[must_use]
pub fn outcome_of(state: &ExecutionState) -> Option<ChildOutcome> {
    match &state.status {
        Status::Completed { output } => Some(ChildOutcome::Completed(output.clone())),
        Status::Failed => {
            let error = state.failure.as_ref().map(|failure| failure.error.clone());
            let unknown = || ErrorInfo::new("CHILD_FAILED", "the child failed");
            Some(ChildOutcome::Failed(error.unwrap_or_else(unknown)))
        }
        Status::Canceled { reason } => {
            let message = reason.clone().unwrap_or_else(|| "the child was canceled".to_owned());
            Some(ChildOutcome::Failed(ErrorInfo::new("CANCELED", message)))
        }
        Status::Pending
        | Status::Running
        | Status::Failing
        | Status::Canceling { .. }
        | Status::Compensating(_)
        | Status::Reporting => None,
    }
}

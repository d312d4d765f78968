//! An execution's actor answers, and counts what happened.

use std::sync::Arc;

use troupe_core::execution::{AttemptOutcome, Entry, Status, Verb};
use troupe_core::{Run, Token};
use troupe_telemetry::{AttemptEnd, ExecutionEnd, StartCause};

use super::actor::ExecutionShell;
use super::machine::Reply;
use super::message::{Respond, Viewed};
use crate::error::EngineError;
use crate::request::{CommandOutcome, ReopenOutcome};

impl ExecutionShell {
    pub(super) fn reply(&self, reply: Respond, answer: Reply) {
        // Whoever asked may be gone; nothing depends on the answer.
        match (reply, answer) {
            (reply, Reply::Refused(error)) => reply.refuse(error),
            (Respond::Start(reply, cause), Reply::Started(outcome)) => {
                if !outcome.existing
                    && let Some(machine) = &self.machine
                {
                    machine.compiled().metrics(&self.shard.engine.metrics).started(cause);
                }
                drop(reply.send(Ok(outcome)));
            }
            (Respond::Command(reply), Reply::Commanded(outcome) | Reply::Reopened(outcome, _)) => {
                drop(reply.send(Ok(self.drained(outcome))));
            }
            (Respond::Reopen(reply), Reply::Commanded(outcome)) => {
                let run = self.machine.as_ref().map_or(Run(1), |machine| machine.state().run);
                drop(reply.send(Ok(ReopenOutcome {
                    command: Some(self.drained(outcome)),
                    run,
                    repeated: Vec::new(),
                })));
            }
            (Respond::Reopen(reply), Reply::Reopened(outcome, reopening)) => {
                drop(reply.send(Ok(ReopenOutcome {
                    command: Some(self.drained(outcome)),
                    run: reopening.run,
                    repeated: reopening.repeated,
                })));
            }
            (Respond::View(reply), Reply::View(state)) => {
                if let Some(machine) = &self.machine {
                    let plan = Arc::clone(&machine.compiled().plan);
                    let waits = self.attempts.iter();
                    let waits = waits.filter_map(|attempt| Some((attempt.token.node, attempt.waits_for()?)));
                    let waits = waits.collect();
                    drop(reply.send(Ok(Viewed { state, plan, waits })));
                }
            }
            (Respond::Nobody, _) => {}
            (reply, _) => reply.refuse(EngineError::Damaged("an answer of the wrong kind".into())),
        }
    }

    /// The outcome with the attempts that truly run.
    fn drained(&self, outcome: CommandOutcome) -> CommandOutcome {
        let running = self.attempts.iter().filter(|attempt| attempt.shared.gate.runs());
        CommandOutcome {
            draining: u32::try_from(running.count()).unwrap_or(u32::MAX),
            ..outcome
        }
    }

    pub(super) fn count_end(&self) {
        let Some(machine) = &self.machine else { return };
        let state = machine.state();
        let metrics = &self.shard.engine.metrics;
        let end = match &state.status {
            Status::Completed { .. } => ExecutionEnd::Completed,
            Status::Failed => ExecutionEnd::Failed,
            Status::Canceled { .. } => ExecutionEnd::Canceled,
            Status::Pending
            | Status::Running
            | Status::Failing
            | Status::Canceling { .. }
            | Status::Compensating(_)
            | Status::Reporting => return,
        };
        if let (ExecutionEnd::Failed, Some(first)) = (end, state.handles_failure_of) {
            tracing::warn!(id = %self.id, of = %first, "what handles a failure has failed itself: that starts no error workflow");
        }
        machine.compiled().metrics(metrics).finished(end);
        // Of a later run nobody knows how long it stood still before.
        if state.run == Run(1) {
            metrics.execution_ended(state.ended_at.unwrap_or(state.started_at).since_ms(state.started_at));
        }
    }

    pub(super) fn count_attempt(&self, token: Token, end: AttemptEnd) {
        let Some(machine) = &self.machine else { return };
        let compiled = machine.compiled();
        if let Some(node) = compiled.plan.get(token.node) {
            compiled
                .metrics(&self.shard.engine.metrics)
                .attempt(node.kind.as_str(), end);
        }
    }

    pub(super) fn count_retries(&self, entry: &Entry) {
        let retrying = |verb| verb == Some(Verb::NodeRetrying);
        for _ in entry.transitions.iter().filter(|change| retrying(change.verb())) {
            self.shard.engine.metrics.retried();
        }
        if entry.reopens()
            && let Some(machine) = &self.machine
        {
            machine
                .compiled()
                .metrics(&self.shard.engine.metrics)
                .started(StartCause::Retry);
        }
    }
}

/// How an attempt ended, as it is counted. The codes are those of the attempt's own actor.
pub(super) fn end_of(outcome: &AttemptOutcome) -> AttemptEnd {
    match outcome {
        AttemptOutcome::Completed(_) => AttemptEnd::Completed,
        AttemptOutcome::Failed(failure) => match failure.error.code.as_str() {
            "TIMEOUT" => AttemptEnd::TimedOut,
            "CANCELED" => AttemptEnd::Canceled,
            _ => AttemptEnd::Failed,
        },
    }
}

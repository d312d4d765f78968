//! Child executions: how they are started, told and heard of. Parent and child live in one shard. See ADR 0016.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use troupe_core::ErrorInfo;
use troupe_core::execution::{ChildCommand, ChildOutcome, ChildReport, Started};
use troupe_telemetry::StartCause;

use super::family::{Born, NewChild, never_began};
use super::machine::{Action, ExecutionMachine, Input, MachineOptions, outcome_of};
use super::{ExecutionMessage, Respond, Viewed, family};
use crate::committer::Notify;
use crate::committer::machine::Append;
use crate::context::ShardContext;
use crate::error::EngineError;
use crate::evaluation::{CompiledPlan, Job};
use crate::shard::{deliver, send_to_relative, spawn_execution};
use crate::start;

/// Pauses between two tries to start a child.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(20);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(2);

/// What a child hears of its parent's command.
pub(super) fn command_to_child(command: ChildCommand) -> ExecutionMessage {
    ExecutionMessage::Command(Box::new(family::command_to_child(command)), Respond::Nobody)
}

/// The first entry of an execution, to be appended beside that of whoever wants it; its actor goes on when it is durable. None
/// where the start must ask the sandbox first or is not one entry alone.
pub(super) async fn bear(
    shard: &Arc<ShardContext>,
    compiled: Arc<CompiledPlan>,
    started: Started,
    cause: StartCause,
    options: MachineOptions,
) -> Option<Append<Notify>> {
    let id = started.id;
    let mut started = started;
    let now = shard.engine.now();
    started.controls = shard.controls.at_start(&compiled.plan, now);
    let mut machine = Box::new(ExecutionMachine::new(Arc::clone(&compiled), id, options));
    let mut actions = Vec::new();
    let input = Input::Start(Box::new(started), None, Respond::Nobody);
    machine.handle(input, now, &mut actions);
    while let Some(place) = actions.iter().position(|action| matches!(action, Action::Evaluate(_))) {
        let Action::Evaluate(jobs) = actions.remove(place) else {
            return None;
        };
        // Its siblings have read what it needs; the sandbox is another matter.
        if jobs.iter().any(|job| !matches!(job, Job::Load(_))) {
            return None;
        }
        let answers = shard.evaluate(machine.blob_root(), jobs).await.ok()?;
        machine.handle(Input::Evaluated(answers), now, &mut actions);
    }
    let Born {
        machine,
        first: draft,
        actions,
    } = Born::of(machine, actions)?;
    let trace_parent = machine.trace_parent();
    let adopt = ExecutionMessage::Adopt(machine, actions);
    let actor = spawn_execution(shard, id, adopt).await.ok()?;
    compiled.metrics(&shard.engine.metrics).started(cause);
    let notify = Notify {
        actor,
        compiled,
        trace_parent,
    };
    Some(Append { id, draft, notify })
}

impl NewChild {
    /// Begins it in the record of its parent's entry: the entry to append beside that one. None where the plan cannot be
    /// had, where the sandbox must be asked first, or where nobody waits for its end: then it begins after its parent's entry.
    pub(super) async fn bear(self, shard: &Arc<ShardContext>, options: MachineOptions) -> Option<Append<Notify>> {
        if !self.parent.attached || self.is_too_large(shard) {
            return None;
        }
        let compiled = self.plan(&shard.engine.plans).await.ok()?;
        let started = self.started(&compiled);
        bear(shard, compiled, started, StartCause::Parent, options).await
    }

    fn is_too_large(&self, shard: &ShardContext) -> bool {
        let bytes_max = shard.engine.options.input_bytes_max;
        self.input.bytes_in_place() > bytes_max
    }

    /// Starts it, however often that takes; what is known of it then goes to the parent.
    pub(super) async fn begin(self, shard: Arc<ShardContext>) {
        let mut pause = RETRY_FIRST;
        let outcome = loop {
            match self.try_begin(&shard).await {
                Ok(outcome) => break outcome,
                // One that is set aside goes on when it is released, and may complete.
                Err(error) if error.passes() => {
                    if shard.gate.is_closed() {
                        // Whoever takes the shard next starts it again.
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => break Some(never_began(self.parent.child, &error).outcome),
            }
        };
        let message = match outcome {
            Some(outcome) => {
                let child = self.parent.child;
                ExecutionMessage::ChildReported(Box::new(ChildReport { child, outcome }), None)
            }
            None => ExecutionMessage::ChildAlive(self.parent.child, self.id),
        };
        send_to_relative(&shard, self.parent.execution, message);
    }

    /// What the parent is to be told; none while the child runs, which will tell itself.
    async fn try_begin(&self, shard: &Arc<ShardContext>) -> Result<Option<ChildOutcome>, EngineError> {
        let compiled = self.plan(&shard.engine.plans).await?;
        let started = self.started(&compiled);
        if !self.parent.attached
            && let Some(from) = self.blobs_from
        {
            let blobs = &shard.engine.blobs;
            blobs.adopt(shard, (from, self.id), &started.input).await?;
        }
        let outcome = start::start_child(shard, self.id, &compiled, started).await?;
        if !self.parent.attached {
            return Ok(Some(ChildOutcome::Began(self.id)));
        }
        if !outcome.existing {
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        deliver(shard, self.id, ExecutionMessage::Read(Respond::View(reply))).await;
        let lost = || EngineError::Unavailable("the execution's actor failed".into());
        match answer.await.map_err(|_| lost())? {
            Ok(Viewed { state, .. }) => Ok(outcome_of(&state)),
            // It ended so long ago that nobody knows how.
            Err(EngineError::NotFound(_)) => Ok(Some(ChildOutcome::Failed(ErrorInfo::new(
                "CHILD_FORGOTTEN",
                "the child ended, and its archive is gone",
            )))),
            Err(error) => Err(error),
        }
    }
}

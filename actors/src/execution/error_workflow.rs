//! The workflow that is started when an execution fails. It lives in that execution's shard. See ADR 0020.

use std::sync::Arc;

use troupe_core::execution::{ErrorWorkflow, ExecutionState, StartErrorWorkflow, Started};
use troupe_core::{ErrorInfo, ExecutionId, Value, WorkflowId};
use troupe_telemetry::StartCause;

use super::ExecutionMessage;
use super::children::{RETRY_FIRST, RETRY_MAX, bear};
use super::machine::MachineOptions;
use crate::committer::Notify;
use crate::committer::machine::Append;
use crate::context::ShardContext;
use crate::error::EngineError;
use crate::evaluation::{CompiledPlan, PlanCache};
use crate::shard::send_to_relative;
use crate::start;

/// Keeps its id apart from those of children, whose names have three parts.
const NAME: &str = "error";

/// An error workflow to start.
#[derive(Clone, Debug)]
pub struct NewErrorWorkflow {
    /// Its id.
    pub id: ExecutionId,
    /// Whose failure it handles.
    pub failed: ExecutionId,
    /// Where the large values of its input are kept.
    pub blobs_from: Option<ExecutionId>,
    workflow: WorkflowId,
    input: Value,
}

impl NewErrorWorkflow {
    /// The one that an execution wants in its current run: its id is always the same.
    #[must_use]
    pub fn of(state: &ExecutionState, start: &StartErrorWorkflow) -> Self {
        Self {
            id: ExecutionId::of_child(state.id, &format!("{}/{NAME}", state.run), 0),
            failed: state.id,
            blobs_from: state.blob_root(),
            workflow: start.workflow.clone(),
            input: start.input.clone(),
        }
    }

    /// Begins it in the record of the failure; none where that cannot be: then it begins after it.
    pub(super) async fn bear(&self, shard: &Arc<ShardContext>, options: MachineOptions) -> Option<Append<Notify>> {
        // Large values are made its own before it begins.
        let mut is_small = true;
        self.input.blobs(&mut |_| is_small = false);
        if !is_small {
            return None;
        }
        let compiled = self.plan(&shard.engine.plans).await.ok()?;
        let started = self.started(&compiled);
        bear(shard, compiled, started, StartCause::Failure, options).await
    }

    /// What it runs.
    ///
    /// # Errors
    /// As [`PlanCache::to_start`].
    pub async fn plan(&self, plans: &PlanCache) -> Result<Arc<CompiledPlan>, EngineError> {
        plans.to_start(self.workflow.as_str(), None).await
    }

    /// What the failed execution is told where it cannot be started at all.
    #[must_use]
    pub fn refused(error: EngineError) -> ErrorWorkflow {
        ErrorWorkflow::Refused(match error {
            EngineError::Refused(info) => *info,
            error => ErrorInfo::new(error.code(), error.to_string()),
        })
    }

    /// Its first event.
    #[must_use]
    pub fn started(&self, compiled: &CompiledPlan) -> Started {
        Started {
            handles_failure_of: Some(self.failed),
            ..Started::of(self.id, &compiled.plan, self.input.clone())
        }
    }

    /// Starts it, however often that takes, and tells the failed execution.
    pub(super) async fn begin(self, shard: Arc<ShardContext>) {
        let mut pause = RETRY_FIRST;
        let outcome = loop {
            match self.try_begin(&shard).await {
                Ok(()) => break ErrorWorkflow::Began(self.id),
                // One that is set aside has begun, and goes on when it is released.
                Err(error) if error.passes() => {
                    if shard.gate.is_closed() {
                        // Whoever takes the shard next starts it again.
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => {
                    let (failed, workflow) = (self.failed, &self.workflow);
                    tracing::error!(id = %failed, %workflow, %error, "an error workflow cannot be started");
                    break Self::refused(error);
                }
            }
        };
        let message = ExecutionMessage::ErrorWorkflow(Box::new(outcome));
        send_to_relative(&shard, self.failed, message);
    }

    async fn try_begin(&self, shard: &Arc<ShardContext>) -> Result<(), EngineError> {
        let compiled = self.plan(&shard.engine.plans).await?;
        let started = self.started(&compiled);
        if let Some(from) = self.blobs_from {
            let blobs = &shard.engine.blobs;
            blobs.adopt(shard, (from, self.id), &started.input).await?;
        }
        start::start_derived(shard, self.id, &compiled, started, StartCause::Failure)
            .await
            .map(drop)
    }
}

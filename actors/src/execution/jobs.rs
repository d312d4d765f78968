//! Does what an execution's step waits for: expressions for the sandbox, large values for the store.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use troupe_core::{ErrorInfo, ExecutionId, Json};
use troupe_ports::SandboxJob;

use crate::context::ShardContext;
use crate::error::EngineError;
use crate::evaluation::{Job, JobAnswer, PartAnswer};

/// Expressions of one execution that the sandbox has at a time: more would take the queue away from the others.
const JOBS_AT_ONCE: usize = 16;
/// Bytes that the sandbox's answers to one round of questions may have together.
const EVALUATED_BYTES_MAX: usize = 64 << 20;

impl ShardContext {
    /// The answers to all jobs of a step, whose large values are kept under `root`.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when a large value is not what it was.
    pub(super) async fn evaluate(
        &self,
        root: Option<ExecutionId>,
        jobs: Vec<Job>,
    ) -> Result<Vec<JobAnswer>, EngineError> {
        // What many expressions give is held until all have answered.
        let bytes_left = &AtomicUsize::new(EVALUATED_BYTES_MAX);
        let answers = jobs.into_iter().map(|job| async move {
            match job {
                Job::Evaluate(part, job) => {
                    let answer = self.ask_sandbox(job, bytes_left).await;
                    Ok(JobAnswer::Evaluated(PartAnswer { part, answer }))
                }
                Job::LookUp(key) => Ok(JobAnswer::LookedUp(key, self.look_up(key).await)),
                Job::Load(blob) => {
                    let root = root.ok_or_else(without_root)?;
                    let content = self.engine.blobs.get_patiently(self, root, &blob).await?;
                    Ok(JobAnswer::Loaded(blob, content))
                }
                Job::Keep(blob, content) => {
                    let root = root.ok_or_else(without_root)?;
                    let kept = self.engine.blobs.put_patiently(self, root, blob, content).await;
                    Ok(JobAnswer::Kept(blob, kept))
                }
            }
        });
        let answers: Vec<Result<JobAnswer, EngineError>> =
            futures::stream::iter(answers).buffered(JOBS_AT_ONCE).collect().await;
        answers.into_iter().collect()
    }

    /// What may be reused; where the store cannot tell, nothing is.
    async fn look_up(&self, key: [u8; 32]) -> Option<Json> {
        let engine = &self.engine;
        let found = engine.parts.state.cached_output(key, engine.now()).await;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "an output for reuse cannot be looked up");
            None
        });
        engine.cached_outputs.looked_up(found.is_some());
        found
    }

    async fn ask_sandbox(&self, job: SandboxJob, bytes_left: &AtomicUsize) -> Result<Json, ErrorInfo> {
        let json = self.engine.parts.sandbox.evaluate(job).await?;
        let take = |left: usize| left.checked_sub(json.bytes());
        if bytes_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_err()
        {
            let message = format!("the expressions give more than {EVALUATED_BYTES_MAX} bytes together");
            return Err(ErrorInfo::new("EXPRESSION_ERROR", message));
        }
        Ok(json)
    }
}

fn without_root() -> EngineError {
    EngineError::Damaged("an execution that began before large values were kept apart refers to one".into())
}

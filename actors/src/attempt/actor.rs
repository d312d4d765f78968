//! The attempt's shell.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use troupe_core::execution::{AttemptClosed, AttemptFailure, AttemptOutcome};
use troupe_core::{ErrorInfo, Timestamp, Token, Value};
use troupe_ports::{Executed, Task};

use super::machine::{AttemptGate, Turn};
use crate::context::ShardContext;
use crate::execution::ExecutionMessage;

/// Pause before a lease that has lapsed is looked at again.
const LEASE_POLL: Duration = Duration::from_millis(20);

/// What an execution keeps of an attempt.
#[derive(Debug)]
pub struct AttemptHandle {
    /// Which attempt.
    pub token: Token,
    /// Its actor.
    pub actor: ActorId,
    /// When it was spawned.
    pub spawned_at: Timestamp,
    /// What both share.
    pub shared: Arc<Shared>,
}

/// What an execution and an attempt share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Where the attempt stands.
    pub gate: AttemptGate,
    wake: Notify,
    cancel: CancellationToken,
}

impl AttemptHandle {
    /// The execution goes on.
    pub fn release(&self) {
        if self.shared.gate.release() {
            self.shared.wake.notify_one();
        }
    }

    /// The attempt is to stop; it reports whatever comes of that.
    pub fn abort(&self) {
        self.shared.gate.abort();
        self.shared.cancel.cancel();
        self.shared.wake.notify_one();
    }
}

/// What an attempt is made of.
pub struct AttemptArguments {
    /// The shard.
    pub shard: Arc<ShardContext>,
    /// Where the report goes.
    pub execution: ActorRef<ExecutionMessage>,
    /// What to do; its deadline is set when it starts.
    pub task: Task,
    /// What it shares with its execution.
    pub shared: Arc<Shared>,
}

/// Runs one attempt.
#[derive(Debug)]
pub struct NodeAttemptActor;

impl Actor for NodeAttemptActor {
    type Msg = ();
    type State = Option<AttemptArguments>;
    type Arguments = AttemptArguments;

    async fn pre_start(
        &self,
        _: ActorRef<()>,
        arguments: AttemptArguments,
    ) -> Result<Option<AttemptArguments>, ActorProcessingErr> {
        Ok(Some(arguments))
    }

    async fn post_start(&self, myself: ActorRef<()>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        if let Some(arguments) = state.take() {
            arguments.run().await;
        }
        myself.stop(None);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: SupervisionEvent,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl AttemptArguments {
    async fn run(self) {
        let engine = Arc::clone(&self.shard.engine);
        let Self {
            shard,
            execution,
            mut task,
            shared,
        } = self;
        let token = task.token;
        let (started_at, executed) = match my_turn(&shard, &shared).await {
            Some(permit) => {
                let started_at = engine.now();
                let timeout_ms = task.node().timeout_ms(task.data.as_ref());
                task.deadline = started_at.plus_ms(timeout_ms);
                let kind = task.node().kind.as_str();
                let timeout = Duration::from_millis(timeout_ms);
                let running = Running::new(&engine.counters.attempts_running);
                let executed = execute(&shard, task, timeout, &shared.cancel).await;
                drop(running);
                engine.metrics.attempt_ended(kind, engine.now().since_ms(started_at));
                drop(permit);
                (started_at, bounded(executed, engine.options.output_bytes_max))
            }
            None => (engine.now(), canceled()),
        };
        let logs = if executed.logs.is_empty() {
            None
        } else {
            Some(Box::new(executed.logs))
        };
        let report = AttemptClosed {
            token,
            started_at,
            outcome: executed.outcome,
            logs,
        };
        shared.gate.report();
        if execution
            .send_message(ExecutionMessage::Report(Box::new(report)))
            .is_err()
        {
            tracing::debug!(?token, "an attempt ended after its execution's actor");
        }
    }
}

/// Counts an attempt that runs, also when it is dropped.
struct Running<'a>(&'a AtomicU64);

impl<'a> Running<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for a permit, for the execution not to be paused, and for the lease; none when the attempt was aborted.
async fn my_turn(shard: &ShardContext, shared: &Shared) -> Option<tokio::sync::OwnedSemaphorePermit> {
    loop {
        let attempts = Arc::clone(&shard.engine.attempts);
        let permit = match Arc::clone(&attempts).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => tokio::select! {
                permit = attempts.acquire_owned() => permit.ok(),
                () = shared.cancel.cancelled() => None,
            },
        }?;
        while !shard.gate.is_open(shard.engine.now()) {
            tokio::time::sleep(LEASE_POLL).await;
        }
        if shard.engine.draining.load(Ordering::Acquire) {
            // Whoever takes the shard next dispatches it; this actor is about to be dropped.
            return std::future::pending().await;
        }
        match shared.gate.start() {
            Turn::Start => return Some(permit),
            Turn::Aborted => return None,
            Turn::Hold => {
                drop(permit);
                shared.wake.notified().await;
            }
        }
    }
}

async fn execute(shard: &ShardContext, task: Task, timeout: Duration, cancel: &CancellationToken) -> Executed {
    let engine = &shard.engine;
    let run = async {
        // Inside the future, so that a panic of the call itself is caught too.
        engine.parts.executor.execute(task, cancel.clone()).await
    };
    let mut run = std::pin::pin!(AssertUnwindSafe(run).catch_unwind());
    if let Poll::Ready(ended) = futures::poll!(run.as_mut()) {
        return settled(ended);
    }
    tokio::select! {
        ended = run.as_mut() => return settled(ended),
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(timeout) => {
            cancel.cancel();
            let message = format!("the attempt ran longer than {} ms", timeout.as_millis());
            return Executed::failed(ErrorInfo::new("TIMEOUT", message), true);
        }
    }
    let grace = Duration::from_millis(engine.options.abort_grace_ms);
    tokio::time::timeout(grace, run)
        .await
        .map_or_else(|_| canceled(), settled)
}

fn settled(ended: Result<Executed, Box<dyn Any + Send>>) -> Executed {
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Executed::failed(ErrorInfo::new("PANIC", format!("the handler panicked: {text}")), true)
    })
}

fn canceled() -> Executed {
    Executed::failed(ErrorInfo::new("CANCELED", "the attempt was aborted"), false)
}

/// An output or a failure beyond the limit never enters the log.
fn bounded(mut executed: Executed, bytes_max: usize) -> Executed {
    let bytes = match &executed.outcome {
        AttemptOutcome::Completed(Value::Inline(output)) => output.bytes(),
        AttemptOutcome::Completed(Value::Blob(_)) => 0,
        AttemptOutcome::Failed(failure) => failure_bytes(failure),
    };
    if bytes <= bytes_max {
        return executed;
    }
    let error = ErrorInfo::new(
        "OUTPUT_TOO_LARGE",
        format!("the output has {bytes} bytes, more than {bytes_max}"),
    );
    executed.outcome = AttemptOutcome::Failed(Box::new(AttemptFailure {
        error,
        retryable: false,
        retry_after_ms: None,
    }));
    executed
}

fn failure_bytes(failure: &AttemptFailure) -> usize {
    let error = &failure.error;
    error.message.len()
        + error.details.as_ref().map_or(0, troupe_core::Json::bytes)
        + error.stack.as_ref().map_or(0, String::len)
}

//! The attempt's shell.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use troupe_core::execution::{AttemptClosed, AttemptFailure, AttemptOutcome};
use troupe_core::{ErrorInfo, ExecutionId, Timestamp, Token};
use troupe_ports::{Executed, Task};

use super::leave::LeaveNeeds;
use super::machine::AttemptGate;
use super::payloads::{keep_output, load_payloads};
use super::permits::Rank;
use super::slots::SlotWanted;
use super::turn::{AttemptWait, Needs, Wait, my_turn, turn_at_once};
use crate::breakers::Guard;
use crate::context::ShardContext;
use crate::evaluation::RunningAttempts;
use crate::execution::ExecutionMessage;
use crate::task::text_of;

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
    pub(super) wake: Notify,
    pub(super) cancel: CancellationToken,
    pub(super) wait: Wait,
}

impl AttemptHandle {
    /// What the attempt waits for before it starts; none when it runs, or is held.
    #[must_use]
    pub fn waits_for(&self) -> Option<AttemptWait> {
        self.shared.wait.get()
    }

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
    /// Where large values of it are kept, if they are.
    pub root: Option<ExecutionId>,
    /// What to do; its deadline is set when it starts.
    pub task: Task,
    /// How urgent it is.
    pub rank: Rank,
    /// The slot that it needs.
    pub slot: Option<Box<SlotWanted>>,
    /// Counts it while it runs.
    pub running: Arc<RunningAttempts>,
    /// What it shares with its execution.
    pub shared: Arc<Shared>,
}

/// Runs one attempt.
#[derive(Debug)]
pub struct NodeAttemptActor;

impl Actor for NodeAttemptActor {
    type Msg = ();
    type State = Option<Box<AttemptArguments>>;
    type Arguments = Box<AttemptArguments>;

    async fn pre_start(
        &self,
        _: ActorRef<()>,
        arguments: Box<AttemptArguments>,
    ) -> Result<Option<Box<AttemptArguments>>, ActorProcessingErr> {
        Ok(Some(arguments))
    }

    async fn post_start(&self, myself: ActorRef<()>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        if let Some(arguments) = state.take() {
            let execution = arguments.execution.get_cell();
            arguments.run().await;
            // It has reported: its end is no news.
            myself.get_cell().unlink(execution);
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
    // Futures of actors are moved, whole, before they are polled: what most attempts do not need is on the heap.
    async fn run(self: Box<Self>) {
        let engine = Arc::clone(&self.shard.engine);
        let Self {
            shard,
            execution,
            root,
            mut task,
            rank,
            slot,
            running,
            shared,
        } = *self;
        let token = task.token;
        let kind = task.node().kind;
        let guard = Guard::of(&engine, &task);
        let needs = Needs {
            leave: LeaveNeeds { rank, kind, slot },
            guard,
            plan: Arc::clone(&task.plan),
            node: token.node,
            running,
        };
        let turn = match turn_at_once(&shard, &needs, &shared) {
            Some(turn) => Ok(Some(turn)),
            None => {
                let queue_timeout_ms = task.node().queue_timeout_ms(task.data.as_ref());
                Box::pin(in_time(queue_timeout_ms, my_turn(&shard, &needs, &shared))).await
            }
        };
        let (started_at, executed) = match turn {
            Ok(Some((leave, admitted, running))) => {
                let loaded = match root {
                    Some(root) => Box::pin(load_payloads(&shard, root, &mut task)).await,
                    None => Ok(()),
                };
                let started_at = engine.now();
                let timeout_ms = task.node().timeout_ms(task.data.as_ref());
                task.deadline = started_at.plus_ms(timeout_ms);
                let timeout = Duration::from_millis(timeout_ms);
                let executed = match loaded {
                    Ok(()) => execute(&shard, task, timeout, &shared.cancel).await,
                    Err(error) => Executed::failed(error, false),
                };
                drop(running);
                engine
                    .metrics
                    .attempt_ended(kind.as_str(), engine.now().since_ms(started_at));
                drop(leave);
                if let Some(guard) = &needs.guard {
                    guard.ended(&engine, admitted, &executed.outcome);
                }
                let executed = bounded(executed, engine.options.output_bytes_max);
                let kept = match root {
                    Some(root) => Box::pin(keep_output(&shard, root, executed)).await,
                    None => executed,
                };
                (started_at, kept)
            }
            Ok(None) => (engine.now(), canceled()),
            Err(too_long) => (engine.now(), too_long),
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

/// Waits for a turn no longer than the node allows.
async fn in_time<T>(timeout_ms: Option<u64>, turn: impl Future<Output = T>) -> Result<T, Executed> {
    let Some(timeout_ms) = timeout_ms else {
        return Ok(turn.await);
    };
    let in_time = tokio::time::timeout(Duration::from_millis(timeout_ms), turn).await;
    in_time.map_err(|_| {
        let message = format!("the attempt waited longer than {timeout_ms} ms for its turn");
        Executed::failed(ErrorInfo::new("QUEUE_TIMEOUT", message), false)
    })
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
    let grace = Duration::from_millis(engine.options.abort_grace_ms);
    Box::pin(watched(run, timeout, cancel, grace)).await
}

/// Awaits what did not end at once, for no longer than it may take.
async fn watched(
    mut run: Pin<&mut impl Future<Output = Ended>>,
    timeout: Duration,
    cancel: &CancellationToken,
    grace: Duration,
) -> Executed {
    tokio::select! {
        ended = run.as_mut() => return settled(ended),
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(timeout) => {
            cancel.cancel();
            let message = format!("the attempt ran longer than {} ms", timeout.as_millis());
            return Executed::failed(ErrorInfo::new("TIMEOUT", message), true);
        }
    }
    tokio::time::timeout(grace, run)
        .await
        .map_or_else(|_| canceled(), settled)
}

/// How an executor's future ended: with a panic, perhaps.
type Ended = Result<Executed, Box<dyn Any + Send>>;

fn settled(ended: Ended) -> Executed {
    ended.unwrap_or_else(|panic| {
        let text = text_of(&*panic);
        Executed::failed(ErrorInfo::new("PANIC", format!("the handler panicked: {text}")), true)
    })
}

fn canceled() -> Executed {
    Executed::failed(ErrorInfo::new("CANCELED", "the attempt was aborted"), false)
}

/// An output or a failure beyond the limit never enters the log.
fn bounded(mut executed: Executed, bytes_max: usize) -> Executed {
    let bytes = match &executed.outcome {
        AttemptOutcome::Completed(output) => usize::try_from(output.bytes()).unwrap_or(usize::MAX),
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

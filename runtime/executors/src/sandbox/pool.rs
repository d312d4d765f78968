//! The engine's side of the sandbox: a queue, and processes that take from it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::IgnoredAny;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use troupe_core::execution::{AttemptFailure, AttemptOutcome, LogLine};
use troupe_core::{ErrorInfo, Json, Timestamp, Value};
use troupe_ports::{Clock, Executed, Rendered, Sandbox, SandboxJob, SystemClock, Task};

use super::child::{MARK, Settings};
use super::lockdown::Lockdown;
use super::options::SandboxOptions;
use super::process::Spawner;
use super::programs::{Key, Program, Programs};
use super::protocol::{Fault, ProgramKind, monotonic_ms};
use super::source::ExpressionProblem;
use super::worker;
use crate::codes;
use crate::payload;

/// How long compiling and probing may take, in milliseconds.
const CHECK_TIMEOUT_MS: u64 = 5_000;

/// Why the pool cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This process is a sandbox itself: the program does not call `run_child_if_requested` first in `main`.
    #[error("a sandbox process must not start sandboxes: call `run_child_if_requested` first in `main`")]
    InsideSandbox,
    /// The first process did not come up.
    #[error("no sandbox process can be started: {0}")]
    Start(#[from] std::io::Error),
}

/// What the pool is doing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxStatus {
    /// Processes there are.
    pub processes: usize,
    /// Of these, held by a long call.
    pub blocked: usize,
    /// Calls that wait for a process.
    pub waiting: usize,
    /// What holds the processes.
    pub lockdown: Lockdown,
}

/// Sandbox processes with their queue. Clones share them; the last one dropped ends them.
#[derive(Clone, Debug)]
pub struct SandboxPool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    lockdown: Lockdown,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

pub(super) struct Shared {
    pub(super) options: SandboxOptions,
    pub(super) spawner: Spawner,
    pub(super) queue: Mutex<Queue>,
    pub(super) work: Notify,
    pub(super) closed: CancellationToken,
    tasks: TaskTracker,
    programs: Programs,
    next_call: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What waits, and who serves it.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) calls: VecDeque<Call>,
    pub(super) processes: usize,
    pub(super) blocked: usize,
    /// Processes that long calls of a workflow hold; workflows that hold none are not in it.
    held: HashMap<Box<str>, usize>,
    /// Processes that long calls of one workflow may hold, so that the others are never all waiting for it.
    held_max: usize,
}

/// One call on its way.
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) work: Work,
    pub(super) time: Time,
    /// When it must have ended; known once a process has taken it.
    pub(super) deadline_ms: u64,
    /// It may be what killed a process, or is known to run long: it runs with nothing else in flight.
    pub(super) alone: bool,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// How long a call may take, in milliseconds of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Time {
    /// Until that instant, waiting included.
    Until(u64),
    /// So long from when a process takes it: others that hold the processes cost it nothing.
    Running(u64),
}

impl Time {
    /// The deadline of a call that a process takes now.
    pub(super) fn deadline_ms(self) -> u64 {
        match self {
            Self::Until(instant_ms) => instant_ms,
            Self::Running(budget_ms) => monotonic_ms().saturating_add(budget_ms),
        }
    }
}

pub(super) enum Work {
    Program {
        program: Arc<Program>,
        input: Json,
        context: String,
    },
    Check {
        name: String,
        source: String,
    },
    CheckExpressions {
        sources: String,
    },
    Probe,
}

impl Work {
    /// Whose it is; checks and probes are nobody's.
    pub(super) fn workflow(&self) -> &str {
        match self {
            Self::Program { program, .. } => &program.workflow,
            Self::Check { .. } | Self::CheckExpressions { .. } | Self::Probe => "",
        }
    }

    /// Whether it is known to run long.
    pub(super) fn runs_long(&self) -> bool {
        match self {
            Self::Program { program, .. } => program.ran_long(),
            Self::Check { .. } | Self::CheckExpressions { .. } | Self::Probe => false,
        }
    }

    /// Remembers whether it ran long.
    pub(super) fn set_runs_long(&self, long: bool) {
        match self {
            Self::Program { program, .. } => program.set_ran_long(long),
            Self::Check { .. } | Self::CheckExpressions { .. } | Self::Probe => {}
        }
    }
}

pub(super) struct Answer {
    pub(super) logs: Vec<(String, String)>,
    pub(super) result: Result<String, Fault>,
}

impl Call {
    pub(super) fn fail(self, fault: Fault) {
        self.answered(Answer {
            logs: Vec::new(),
            result: Err(fault),
        });
    }

    pub(super) fn answered(self, answer: Answer) {
        // A caller that is gone has no use for the answer.
        drop(self.answer.send(answer));
    }
}

impl Queue {
    /// Whether the workflow holds more processes than it may.
    pub(super) fn is_over(&self, workflow: &str) -> bool {
        self.held.get(workflow).is_some_and(|held| *held > self.held_max)
    }

    /// Whether the workflow holds as many processes as it may.
    fn is_full(&self, workflow: &str) -> bool {
        self.held.get(workflow).is_some_and(|held| *held >= self.held_max)
    }

    /// The place of the first call that may have a process now.
    pub(super) fn next(&self) -> Option<usize> {
        if self.held.values().all(|held| *held < self.held_max) {
            return (!self.calls.is_empty()).then_some(0);
        }
        let waits = |work: &Work| work.runs_long() && self.is_full(work.workflow());
        self.calls.iter().position(|call| !waits(&call.work))
    }

    /// A long call of that workflow holds a process.
    pub(super) fn hold(&mut self, workflow: &str) {
        self.blocked += 1;
        *self.held.entry(workflow.into()).or_insert(0) += 1;
    }

    /// The long call of that workflow holds its process no longer.
    pub(super) fn release(&mut self, workflow: &str) {
        self.blocked -= 1;
        if let Some(held) = self.held.get_mut(workflow) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(workflow);
            }
        }
    }

    /// Adds a process when long calls hold all there are and others wait.
    pub(super) fn grow(shared: &Arc<Shared>) {
        let mut queue = shared.queue.lock();
        let held = queue.blocked >= queue.processes && queue.next().is_some();
        if held && queue.processes < shared.options.processes_max && !shared.closed.is_cancelled() {
            queue.processes += 1;
            shared.tasks.spawn(worker::work(Arc::clone(shared), None, true));
        }
    }
}

impl Shared {
    /// Fails what waits while no process can be started, unless another process still serves the queue.
    pub(super) fn fail_waiting(&self, why: &str) {
        let mut queue = self.queue.lock();
        for call in std::mem::take(&mut queue.calls) {
            call.fail(Fault::new(
                codes::SANDBOX_UNAVAILABLE,
                format!("no sandbox process can be started: {why}"),
                true,
            ));
        }
    }

    fn submit(self: &Arc<Self>, work: Work, time: Time) -> Result<oneshot::Receiver<Answer>, Fault> {
        if self.closed.is_cancelled() {
            return Err(Fault::new(codes::SANDBOX_UNAVAILABLE, "the sandbox is closed", true));
        }
        let (answer, receiver) = oneshot::channel();
        let number = self.next_call.fetch_add(1, Ordering::Relaxed);
        let held = {
            let mut queue = self.queue.lock();
            if queue.calls.len() >= self.options.queue_max {
                return Err(Fault::new(
                    codes::SANDBOX_UNAVAILABLE,
                    "too many calls wait for the sandbox",
                    true,
                ));
            }
            queue.calls.push_back(Call {
                number,
                work,
                time,
                deadline_ms: time.deadline_ms(),
                alone: false,
                answer,
            });
            queue.blocked >= queue.processes
        };
        self.work.notify_one();
        if held {
            Queue::grow(self);
        }
        Ok(receiver)
    }

    async fn run(self: Arc<Self>, work: Work, time: Time) -> Answer {
        let answer = match self.submit(work, time) {
            Ok(receiver) => receiver.await.ok(),
            Err(fault) => Some(Answer {
                logs: Vec::new(),
                result: Err(fault),
            }),
        };
        answer.unwrap_or_else(|| {
            let fault = Fault::new(
                codes::SANDBOX_UNAVAILABLE,
                "the sandbox closed before it answered",
                true,
            );
            Answer {
                logs: Vec::new(),
                result: Err(fault),
            }
        })
    }
}

impl SandboxPool {
    /// Starts the pool; its first process is ready when this returns.
    ///
    /// # Errors
    /// [`SandboxError`] when this process is a sandbox itself, or the program cannot be started or is no sandbox.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        if std::env::var_os(MARK).is_some() {
            return Err(SandboxError::InsideSandbox);
        }
        let settings = Settings {
            parent: std::process::id(),
            memory_bytes: options.memory_bytes,
            stack_bytes: options.stack_bytes,
            output_bytes: options.output_bytes_max,
            log_lines: options.log_lines_max,
            log_bytes: options.log_bytes_max,
            probe: options.probe,
        };
        let processes = options.processes.max(1);
        let processes_max = options.processes_max.max(processes);
        let shared = Arc::new(Shared {
            spawner: Spawner::start(options.program.clone(), settings)?,
            options,
            queue: Mutex::new(Queue {
                processes,
                held_max: (processes_max / 2).max(1),
                ..Queue::default()
            }),
            work: Notify::new(),
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            programs: Programs::default(),
            next_call: AtomicU64::new(1),
        });
        let (first, lockdown) = worker::start(&shared).await?;
        for warning in &lockdown.warnings {
            tracing::warn!(%warning, "the sandbox is weaker than it should be");
        }
        let mut first = Some(first);
        for _ in 0..processes {
            shared
                .tasks
                .spawn(worker::work(Arc::clone(&shared), first.take(), false));
        }
        Ok(Self {
            inner: Arc::new(Inner { shared, lockdown }),
        })
    }

    /// What the pool is doing.
    #[must_use]
    pub fn status(&self) -> SandboxStatus {
        let queue = self.inner.shared.queue.lock();
        SandboxStatus {
            processes: queue.processes,
            blocked: queue.blocked,
            waiting: queue.calls.len(),
            lockdown: self.inner.lockdown.clone(),
        }
    }

    /// Ends every process; calls that wait or run fail with `SANDBOX_UNAVAILABLE`. Returns when all are gone.
    pub async fn close(&self) {
        let shared = &self.inner.shared;
        shared.closed.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
        shared.fail_waiting("the sandbox closes");
    }

    /// Calls the function `name` that `code` defines, with the task's input and its context.
    pub fn call_function(&self, task: &Task, code: &str, name: &str) -> BoxFuture<'static, Executed> {
        let shared = Arc::clone(&self.inner.shared);
        let prepared = prepare(&shared, task, code, name);
        let deadline_ms = monotonic_deadline(task.deadline);
        Box::pin(async move {
            match prepared {
                Ok(work) => executed(shared.run(work, Time::Until(deadline_ms)).await),
                Err(error) => Executed::failed(error, false),
            }
        })
    }

    /// Compiles function code and looks whether it defines `name`, for the validator.
    ///
    /// # Errors
    /// `FUNCTION_CODE_INVALID`, `FUNCTION_NOT_DEFINED`, or a limit that the code's top level hits.
    pub async fn check_function_code(&self, code: &str, name: &str) -> Result<(), ErrorInfo> {
        let work = Work::Check {
            name: name.to_owned(),
            source: code.to_owned(),
        };
        let shared = Arc::clone(&self.inner.shared);
        let answer = shared.run(work, Time::Running(CHECK_TIMEOUT_MS)).await;
        answer.result.map(drop).map_err(|fault| failure(fault).error)
    }

    /// Compiles expressions without running any, for the validator; a problem or nothing for each.
    ///
    /// # Errors
    /// `SANDBOX_UNAVAILABLE` and `SANDBOX_CRASHED`, and `TIMEOUT` when they are too many for one call.
    pub async fn check_expressions(&self, sources: &[&str]) -> Result<Vec<Option<ExpressionProblem>>, ErrorInfo> {
        let work = Work::CheckExpressions {
            sources: Json::of(&serde_json::Value::from(sources)).as_str().to_owned(),
        };
        let shared = Arc::clone(&self.inner.shared);
        let answer = shared.run(work, Time::Running(CHECK_TIMEOUT_MS)).await;
        let text = answer.result.map_err(|fault| failure(fault).error)?;
        let problems: Vec<Option<ExpressionProblem>> = serde_json::from_str(&text)
            .map_err(|error| ErrorInfo::new(codes::SANDBOX_CRASHED, format!("its answer cannot be read: {error}")))?;
        if problems.len() == sources.len() {
            Ok(problems)
        } else {
            let message = "its answer is not of the length of what was asked";
            Err(ErrorInfo::new(codes::SANDBOX_CRASHED, message))
        }
    }

    /// Lets a process try what its lock must refuse; only with [`SandboxOptions::probe`]. Gives each attempt's outcome.
    ///
    /// # Errors
    /// `PROBE_REFUSED` when the pool was not started for it.
    pub async fn probe(&self) -> Result<Json, ErrorInfo> {
        let shared = Arc::clone(&self.inner.shared);
        let answer = shared.run(Work::Probe, Time::Running(CHECK_TIMEOUT_MS)).await;
        answer
            .result
            .map_err(|fault| failure(fault).error)
            .and_then(|text| readable(text).map_err(|fault| failure(fault).error))
    }
}

impl Sandbox for SandboxPool {
    fn evaluate(&self, job: SandboxJob) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        let answer = over_scope(Arc::clone(&self.inner.shared), ProgramKind::Expression, job);
        Box::pin(async move {
            answer
                .await
                .map_err(|fault| source_error(fault, codes::EXPRESSION_ERROR))
        })
    }

    fn render(&self, job: SandboxJob, rendered: Rendered) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        let kind = match rendered {
            Rendered::Text => ProgramKind::TextTemplate,
            Rendered::Json => ProgramKind::JsonTemplate,
        };
        let answer = over_scope(Arc::clone(&self.inner.shared), kind, job);
        Box::pin(async move { answer.await.map_err(|fault| source_error(fault, codes::TEMPLATE_ERROR)) })
    }
}

/// Runs a source over its scope.
async fn over_scope(shared: Arc<Shared>, kind: ProgramKind, job: SandboxJob) -> Result<Json, Fault> {
    if let Some(fault) = too_large(&shared.options, job.scope.bytes()) {
        return Err(fault);
    }
    let program = shared.programs.get(Key {
        kind,
        workflow: job.workflow.as_str(),
        version: job.version,
        name: "",
        source: &job.source,
    });
    let budget_ms = u64::try_from(shared.options.expression_timeout.as_millis()).unwrap_or(u64::MAX);
    let work = Work::Program {
        program,
        input: job.scope,
        context: String::new(),
    };
    shared
        .run(work, Time::Running(budget_ms))
        .await
        .result
        .and_then(readable)
}

fn prepare(shared: &Shared, task: &Task, code: &str, name: &str) -> Result<Work, ErrorInfo> {
    let input = payload::inline(&task.input)?.clone();
    let variables = payload::variables(task)?;
    if let Some(fault) = too_large(&shared.options, input.bytes().saturating_add(variables.bytes())) {
        return Err(failure(fault).error);
    }
    let program = shared.programs.get(Key {
        kind: ProgramKind::Function,
        workflow: task.plan.workflow.as_str(),
        version: task.plan.version,
        name,
        source: code,
    });
    Ok(Work::Program {
        program,
        input,
        context: context(task, &variables),
    })
}

/// The function's second argument, without `log`.
fn context(task: &Task, variables: &Json) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "{{\"executionId\":\"{}\",\"workflowId\":{},\"version\":{},\"nodeId\":{},\"run\":{},\"visit\":{},\"attempt\":{},\
         \"idempotencyKey\":{},\"deadline\":{},\"variables\":{}}}",
        task.execution,
        quoted(task.plan.workflow.as_str()),
        task.plan.version,
        quoted(task.node().key.as_str()),
        task.token.run,
        task.token.visit,
        task.token.attempt,
        quoted(&task.idempotency_key()),
        task.deadline,
        variables.as_str(),
    )
}

fn too_large(options: &SandboxOptions, bytes: usize) -> Option<Fault> {
    let most = options.input_bytes_max;
    let message = || format!("the input has {bytes} bytes, the limit is {most}");
    (bytes > most).then(|| Fault::new(codes::INPUT_TOO_LARGE, message(), false))
}

/// The instant of the wall clock on the monotonic one.
fn monotonic_deadline(deadline: Timestamp) -> u64 {
    monotonic_ms().saturating_add(deadline.since_ms(SystemClock.now()))
}

/// What a process answered is checked before it is trusted: the process ran foreign code.
fn readable(text: String) -> Result<Json, Fault> {
    // Escapes of surrogates are the one thing that skipping over a document does not check.
    let escapes = text.contains("\\ud") || text.contains("\\uD");
    let valid = if escapes {
        serde_json::from_str::<serde_json::Value>(&text).map(drop)
    } else {
        serde_json::from_str::<IgnoredAny>(&text).map(drop)
    };
    match valid {
        Ok(()) => Ok(Json::from_trusted(text)),
        Err(error) => Err(Fault::new(
            codes::OUTPUT_NOT_JSON,
            format!("the result is no JSON: {error}"),
            false,
        )),
    }
}

fn failure(fault: Fault) -> AttemptFailure {
    let error = ErrorInfo {
        code: fault.code,
        message: fault.message,
        details: fault.details.and_then(|text| readable(text).ok()),
        stack: fault.stack,
    };
    AttemptFailure {
        error,
        retryable: fault.retryable,
        retry_after_ms: fault.retry_after_ms,
    }
}

fn executed(answer: Answer) -> Executed {
    let logs = answer
        .logs
        .into_iter()
        .map(|(level, message)| LogLine { level, message })
        .collect();
    let outcome = match answer.result.and_then(readable) {
        Ok(output) => AttemptOutcome::Completed(Value::Inline(output)),
        Err(fault) => AttemptOutcome::Failed(Box::new(failure(fault))),
    };
    Executed { outcome, logs }
}

/// Whatever an expression or template does wrong is `code`, with the limit it hit; the sandbox's own trouble is not.
fn source_error(fault: Fault, code: &str) -> ErrorInfo {
    let own = [codes::SANDBOX_CRASHED, codes::SANDBOX_UNAVAILABLE].contains(&fault.code.as_str());
    let mut error = failure(fault).error;
    if !own {
        let limit = [
            codes::TIMEOUT,
            codes::MEMORY_LIMIT,
            codes::STACK_LIMIT,
            codes::OUTPUT_TOO_LARGE,
            codes::INPUT_TOO_LARGE,
        ];
        if limit.contains(&error.code.as_str()) {
            error.details = Some(Json::of(&serde_json::json!({"limit": error.code})));
        }
        error.code = code.to_owned();
    }
    error
}

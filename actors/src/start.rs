//! Starts: admission, keys and their policies.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use troupe_core::execution::{Started, Status};
use troupe_core::plan::Trigger;
use troupe_core::{ErrorInfo, ExecutionId, Json, KeySpace, WorkflowId};
use troupe_telemetry::StartCause;

use crate::checkpointer::CheckpointerMessage;
use crate::context::{EngineContext, ShardContext};
use crate::error::EngineError;
use crate::evaluation::CompiledPlan;
use crate::execution::load::{Loaded, last_seq, load};
use crate::execution::{ExecutionMessage, Respond, StartInput, Viewed};
use crate::gauges;
use crate::request::{OnClosed, OnOpen, StartOutcome, StartRequest};
use crate::shard::deliver;

/// When a start that was refused for load makes sense again, in milliseconds.
const RETRY_AFTER_MS: u64 = 1_000;
/// The same, where events wait for a bus that may be away for longer.
const BACKLOG_RETRY_AFTER_MS: u64 = 5_000;
/// How often a start under a business key looks again because another one was faster.
const KEY_TRIES: u32 = 16;

/// Starts an execution; `chosen` hears its id before it can run.
pub(crate) async fn start(
    engine: &Arc<EngineContext>,
    request: StartRequest,
    chosen: impl FnMut(ExecutionId),
) -> Result<StartOutcome, EngineError> {
    if request.request_key.is_some() && request.execution_key.is_some() {
        let why = "a start has a request key or an execution key, not both: each decides the execution's id";
        return Err(EngineError::Refused(Box::new(ErrorInfo::new("INVALID_REQUEST", why))));
    }
    let compiled = match plan_of_new(engine, &request).await {
        Ok(compiled) => compiled,
        Err(refusal) => return first_of_key(engine, &request, refusal).await,
    };
    match (&request.request_key, &request.execution_key) {
        (Some(key), _) => {
            let id = compiled.key_id(KeySpace::Request, key, 0);
            let shard = engine.shard(id.shard())?;
            let start = input(&shard, id, &compiled, &request, None, false).await?;
            begin(&shard, start, cause(&compiled, &request), chosen).await
        }
        (None, None) => {
            let (id, shard) = engine.fresh_id()?;
            let start = input(&shard, id, &compiled, &request, None, true).await?;
            begin(&shard, start, cause(&compiled, &request), chosen).await
        }
        (None, Some(key)) => start_keyed(engine, &compiled, key, &request, chosen).await,
    }
}

/// What a new execution would run, unless none may start.
async fn plan_of_new(engine: &EngineContext, request: &StartRequest) -> Result<Arc<CompiledPlan>, EngineError> {
    admit(engine, request)?;
    refuse_if_stopped(engine, &request.workflow)?;
    engine.plans.to_start(request.workflow.as_str(), request.version).await
}

/// No new execution may start; the first one of the request's key is given all the same, if there is one. Looked for only
/// here: an ordinary start finds it on its way.
async fn first_of_key(
    engine: &EngineContext,
    request: &StartRequest,
    refusal: EngineError,
) -> Result<StartOutcome, EngineError> {
    let Some(key) = &request.request_key else {
        return Err(refusal);
    };
    let shards = engine.parts.state.shards();
    let id = ExecutionId::derived(shards, KeySpace::Request, request.workflow.as_str(), key, 0);
    let shard = engine.shard(id.shard())?;
    let (reply, answer) = oneshot::channel();
    let read = ExecutionMessage::Read(Respond::View(reply));
    let seq = if engine.directory.route(id, read).is_ok()
        && let Ok(Ok(Viewed { state, .. })) = answer.await
    {
        Some(state.seq)
    } else {
        last_seq(&shard, id).await?
    };
    let existing = seq.map(|seq| StartOutcome {
        id,
        seq,
        existing: true,
        pending: false,
    });
    existing.ok_or(refusal)
}

/// An emergency stop is in every shard: whichever is asked knows of it.
pub(crate) fn refuse_if_stopped(engine: &EngineContext, workflow: &WorkflowId) -> Result<(), EngineError> {
    let mut slots = engine.shards.iter();
    let stopped = slots.find_map(|slot| slot.read().as_ref()?.controls.stop_of(workflow));
    stopped.map_or(Ok(()), Err)
}

fn admit(engine: &EngineContext, request: &StartRequest) -> Result<(), EngineError> {
    let bytes = request.input.bytes() + bytes_of(&request.variables) + request.metadata.as_ref().map_or(0, Json::bytes);
    admit_bytes(engine, bytes)
}

pub(crate) fn bytes_of(variables: &[(String, Json)]) -> usize {
    let one = |(name, value): &(String, Json)| name.len() + value.bytes();
    variables.iter().map(one).sum()
}

/// Whether another execution may start, with a payload of so many bytes.
pub(crate) fn admit_bytes(engine: &EngineContext, bytes: usize) -> Result<(), EngineError> {
    if engine.draining.load(Ordering::Acquire) {
        return Err(EngineError::Unavailable("the engine is stopping".into()));
    }
    let bytes_max = engine.options.input_bytes_max;
    if bytes > bytes_max {
        return Err(EngineError::PayloadTooLarge {
            what: "the start payload",
            bytes,
            bytes_max,
        });
    }
    if engine.directory.len() >= engine.options.executions_max {
        return Err(EngineError::Overloaded {
            retry_after_ms: RETRY_AFTER_MS,
        });
    }
    let backlog = gauges::backlog(engine);
    if backlog.refusing > 0 {
        return Err(EngineError::BacklogFull {
            bytes: backlog.bytes.max(gauges::lists(engine).bytes),
            retry_after_ms: BACKLOG_RETRY_AFTER_MS,
        });
    }
    Ok(())
}

/// What a start counts as.
fn cause(compiled: &CompiledPlan, request: &StartRequest) -> StartCause {
    if let Some(cause) = request.cause {
        return cause;
    }
    let named = |name: &String| compiled.plan.nodes.iter().find(|node| node.key.as_str() == name);
    match request.trigger.as_ref().and_then(named).and_then(|node| node.trigger) {
        Some(Trigger::Manual) => StartCause::Manual,
        Some(Trigger::Scheduled) => StartCause::Scheduled,
        Some(Trigger::Event) => StartCause::Event,
        Some(Trigger::Webhook) => StartCause::Webhook,
        Some(Trigger::Api) | None => StartCause::Api,
    }
}

/// The first event. What is large of it is durable before.
async fn input(
    shard: &ShardContext,
    id: ExecutionId,
    compiled: &Arc<CompiledPlan>,
    request: &StartRequest,
    key_ordinal: Option<u64>,
    fresh: bool,
) -> Result<Box<StartInput>, EngineError> {
    let blobs = &shard.engine.blobs;
    let mut variables = Vec::with_capacity(request.variables.len());
    for (name, value) in &request.variables {
        variables.push((name.clone(), blobs.keep(shard, id, value.clone()).await?));
    }
    let started = Started {
        variables,
        metadata: request.metadata.clone(),
        trigger: request.trigger.clone(),
        execution_key: request.execution_key.clone(),
        request_key: request.request_key.clone(),
        priority: request.priority,
        trace_parent: request.trace_parent.clone(),
        key_ordinal,
        ..Started::of(id, &compiled.plan, blobs.keep(shard, id, request.input.clone()).await?)
    };
    Ok(Box::new(StartInput {
        started,
        principal: request.principal.clone(),
        compiled: Arc::clone(compiled),
        fresh,
    }))
}

/// Starts a child execution under its derived id, unless it is there. Its parent was admitted.
pub(crate) async fn start_child(
    shard: &Arc<ShardContext>,
    id: ExecutionId,
    compiled: &Arc<CompiledPlan>,
    started: Started,
) -> Result<StartOutcome, EngineError> {
    let bytes_max = shard.engine.options.input_bytes_max;
    let bytes = started.input.bytes_in_place();
    if bytes > bytes_max {
        return Err(EngineError::PayloadTooLarge {
            what: "the start payload",
            bytes,
            bytes_max,
        });
    }
    start_derived(shard, id, compiled, started, StartCause::Parent).await
}

/// Starts an execution that another one wants under its derived id, unless it is there.
pub(crate) async fn start_derived(
    shard: &Arc<ShardContext>,
    id: ExecutionId,
    compiled: &Arc<CompiledPlan>,
    started: Started,
    cause: StartCause,
) -> Result<StartOutcome, EngineError> {
    let (reply, answer) = oneshot::channel();
    let start = Box::new(StartInput {
        started,
        principal: None,
        compiled: Arc::clone(compiled),
        fresh: false,
    });
    deliver(shard, id, ExecutionMessage::Start(start, Respond::Start(reply, cause))).await;
    answer.await.map_err(|_| shard.unanswered())?
}

/// Starts an execution, unless it is there.
pub(crate) async fn begin(
    shard: &Arc<ShardContext>,
    start: Box<StartInput>,
    cause: StartCause,
    mut chosen: impl FnMut(ExecutionId),
) -> Result<StartOutcome, EngineError> {
    let id = start.started.id;
    chosen(id);
    let (reply, answer) = oneshot::channel();
    deliver(shard, id, ExecutionMessage::Start(start, Respond::Start(reply, cause))).await;
    answer.await.map_err(|_| shard.unanswered())?
}

/// Starts under a business key: the latest execution of the key decides, by the request's policy. Another start of the
/// same key may be faster, at every point: then its execution is the latest one, and decides anew.
async fn start_keyed(
    engine: &Arc<EngineContext>,
    compiled: &Arc<CompiledPlan>,
    key: &str,
    request: &StartRequest,
    mut chosen: impl FnMut(ExecutionId),
) -> Result<StartOutcome, EngineError> {
    let head = compiled.key_id(KeySpace::Business, key, 0);
    let shard = engine.shard(head.shard())?;
    let _claim = engine.keys.start(head).ok_or(EngineError::Overloaded {
        retry_after_ms: RETRY_AFTER_MS,
    })?;
    let mut latest = latest_ordinal(&shard, head).await?;
    for _ in 0..KEY_TRIES {
        let next = latest.map_or(0, |ordinal| ordinal + 1);
        let id = compiled.key_id(KeySpace::Business, key, next);
        if let Some(ordinal) = latest {
            let existing = compiled.key_id(KeySpace::Business, key, ordinal);
            match decide(engine, &shard, existing, request).await? {
                Decision::Use(outcome) => return Ok(outcome),
                Decision::Next => {}
                Decision::Supersede => {
                    chosen(id);
                    let (reply, answer) = oneshot::channel();
                    let start = input(&shard, id, compiled, request, Some(next), true).await?;
                    deliver(
                        &shard,
                        existing,
                        ExecutionMessage::Supersede(start, Respond::Start(reply, cause(compiled, request))),
                    )
                    .await;
                    match answer.await {
                        Ok(Ok(outcome)) => return Ok(outcome),
                        Ok(Err(EngineError::Ended(_))) => continue,
                        Ok(Err(error)) => return Err(error),
                        // Another start has taken the next ordinal.
                        Err(_) => {
                            latest = Some(next);
                            continue;
                        }
                    }
                }
            }
        }
        let start = input(&shard, id, compiled, request, Some(next), false).await?;
        let outcome = begin(&shard, start, cause(compiled, request), &mut chosen).await?;
        if !outcome.existing {
            return Ok(outcome);
        }
        latest = Some(next);
    }
    Err(EngineError::Overloaded {
        retry_after_ms: RETRY_AFTER_MS,
    })
}

/// The latest execution of a business key, open or closed.
pub(crate) async fn latest_of_key(
    engine: &Arc<EngineContext>,
    workflow: &str,
    key: &str,
) -> Result<Option<ExecutionId>, EngineError> {
    let shards = engine.parts.state.shards();
    let id = |ordinal| ExecutionId::derived(shards, KeySpace::Business, workflow, key, ordinal);
    let shard = engine.shard(id(0).shard())?;
    Ok(latest_ordinal(&shard, id(0)).await?.map(id))
}

enum Decision {
    Use(StartOutcome),
    Next,
    Supersede,
}

async fn decide(
    engine: &Arc<EngineContext>,
    shard: &Arc<ShardContext>,
    existing: ExecutionId,
    request: &StartRequest,
) -> Result<Decision, EngineError> {
    let conflict = Err(EngineError::KeyConflict { existing });
    let (status, seq) = match status_of(engine, shard, existing).await? {
        Some(found) => found,
        // Its archive is gone: it ended, nobody knows how.
        None if request.key_policy.on_closed == OnClosed::Allow => return Ok(Decision::Next),
        None => return conflict,
    };
    let completed = match status {
        Status::Completed { .. } => Some(true),
        Status::Failed | Status::Canceled { .. } => Some(false),
        Status::Pending
        | Status::Running
        | Status::Failing
        | Status::Canceling { .. }
        | Status::Compensating(_)
        | Status::Reporting => None,
    };
    match (completed, request.key_policy.on_open, request.key_policy.on_closed) {
        (None, OnOpen::Fail, _) => conflict,
        (None, OnOpen::UseExisting, _) => Ok(Decision::Use(StartOutcome {
            id: existing,
            seq,
            existing: true,
            pending: false,
        })),
        (None, OnOpen::TerminateExisting, _) => Ok(Decision::Supersede),
        (Some(_), _, OnClosed::Allow) | (Some(false), _, OnClosed::AllowFailedOnly) => Ok(Decision::Next),
        (Some(true), _, OnClosed::AllowFailedOnly) | (Some(_), _, OnClosed::Reject) => conflict,
    }
}

async fn status_of(
    engine: &Arc<EngineContext>,
    shard: &Arc<ShardContext>,
    id: ExecutionId,
) -> Result<Option<(Status, troupe_core::Seq)>, EngineError> {
    let (reply, answer) = oneshot::channel();
    if engine
        .directory
        .route(id, ExecutionMessage::Read(Respond::View(reply)))
        .is_ok()
        && let Ok(answer) = answer.await
    {
        return match answer {
            Ok(Viewed { state, .. }) => Ok(Some((state.status, state.seq))),
            // Its archive goes at this moment.
            Err(EngineError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        };
    }
    match load(shard, id).await? {
        Loaded::Found(found) => Ok(Some((found.state.status, found.state.seq))),
        Loaded::Missing | Loaded::Tombstone(_) => Ok(None),
    }
}

pub(crate) async fn latest_ordinal(shard: &Arc<ShardContext>, head: ExecutionId) -> Result<Option<u64>, EngineError> {
    let gone = || EngineError::Unavailable(format!("shard {} is gone", shard.shard));
    let (reply, answer) = oneshot::channel();
    shard
        .checkpointer
        .send_message(CheckpointerMessage::Head(head, reply))
        .map_err(|_| gone())?;
    let pending = answer.await.map_err(|_| gone())?;
    let engine = &shard.engine;
    let stored = engine.noticed(shard.shard, engine.parts.state.head(head).await)?;
    Ok(pending.max(stored))
}

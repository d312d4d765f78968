//! Reruns: new executions that take over what another one gave.

use std::sync::Arc;

use troupe_core::execution::{ExecutionState, Rerun, Reused, ReusedResult, Started};
use troupe_core::{ExecutionId, KeySpace, Value};
use troupe_telemetry::StartCause;

use crate::context::{EngineContext, ShardContext};
use crate::error::EngineError;
use crate::evaluation::{BODY_OF, CompiledPlan};
use crate::execution::StartInput;
use crate::execution::load::last_seq;
use crate::request::{ExecutionView, RerunOutcome, RerunRequest};
use crate::start::{admit_bytes, begin, bytes_of, refuse_if_stopped};

/// Bytes that the results which a rerun takes over may have together: they are in its first entry.
const REUSED_BYTES_MAX: usize = 16 << 20;

/// Runs `of` again from a node.
pub(crate) async fn rerun(
    engine: &Arc<EngineContext>,
    of: &ExecutionView,
    request: RerunRequest,
) -> Result<RerunOutcome, EngineError> {
    let source = &of.state;
    let compiled = plan(engine, source, request.version).await?;
    let plan = &compiled.plan;
    let from = plan.node_ix(&request.from).ok_or_else(|| EngineError::NodeNotFound {
        id: source.id,
        node: request.from.clone(),
    })?;
    let planned = troupe_core::execution::rerun(&of.plan, source, plan, from, request.input.is_some());
    let planned = planned.map_err(|refusal| EngineError::Refused(Box::new(refusal)))?;
    let mut outcome = RerunOutcome {
        started: None,
        workflow: plan.workflow.clone(),
        version: plan.version,
        repeated: planned.repeated,
    };
    let bytes = planned.rerun.reused.iter().map(reused_bytes).sum::<usize>();
    if bytes > REUSED_BYTES_MAX {
        return Err(EngineError::PayloadTooLarge {
            what: "what the rerun would take over",
            bytes,
            bytes_max: REUSED_BYTES_MAX,
        });
    }
    if request.dry_run {
        return Ok(outcome);
    }
    let given = request.input.as_ref().map_or(0, troupe_core::Json::bytes);
    admit_bytes(engine, given + bytes_of(&request.variables))?;
    let is_root = plan.node(from).entries == 0;
    let mut start = start_input(
        engine,
        source,
        compiled,
        (planned.rerun, planned.trigger),
        is_root,
        &request,
    )?;
    let shard = engine.shard(start.started.id.shard())?;
    if let Err(stopped) = refuse_if_stopped(engine, &start.started.workflow)
        && last_seq(&shard, start.started.id).await?.is_none()
    {
        return Err(stopped);
    }
    keep_values(&shard, source.blob_root(), &mut start.started).await?;
    outcome.started = Some(begin(&shard, start, StartCause::Rerun, |_| {}).await?);
    Ok(outcome)
}

/// The version to run. A body's versions are those of the workflow around it.
async fn plan(
    engine: &EngineContext,
    source: &ExecutionState,
    version: Option<u32>,
) -> Result<Arc<CompiledPlan>, EngineError> {
    let workflow = source.workflow.as_str();
    let version = version.unwrap_or(source.version);
    if workflow.contains(BODY_OF) {
        return engine.plans.version(workflow, version).await;
    }
    engine.plans.to_start(workflow, Some(version)).await
}

fn start_input(
    engine: &EngineContext,
    source: &ExecutionState,
    compiled: Arc<CompiledPlan>,
    (rerun, trigger): (Rerun, Option<String>),
    is_root: bool,
    request: &RerunRequest,
) -> Result<Box<StartInput>, EngineError> {
    // The key of a rerun is no key of a start: both may be called `1`.
    let key = request
        .request_key
        .as_ref()
        .map(|key| format!("rerun/{}/{key}", source.id));
    let id = match &key {
        Some(key) => compiled.key_id(KeySpace::Request, key, 0),
        None => engine.fresh_id()?.0,
    };
    let given = request.input.clone().map(Value::Inline);
    let (start, given) = if is_root { (given, None) } else { (None, given) };
    let overridden = request
        .variables
        .iter()
        .map(|(name, value)| (name.clone(), Value::Inline(value.clone())));
    let variables = source.variables.clone().into_iter().chain(overridden);
    let priority = source.priority;
    let rerun = Rerun {
        input: given,
        reason: request.reason.clone(),
        ..rerun
    };
    let started = Started {
        variables: variables.collect(),
        metadata: source.metadata.clone(),
        trigger,
        priority: (priority != compiled.plan.settings.priority).then_some(priority),
        rerun: Some(Box::new(rerun)),
        request_key: key.clone(),
        ..Started::of(id, &compiled.plan, start.unwrap_or_else(|| source.input.clone()))
    };
    Ok(Box::new(StartInput {
        started,
        principal: request.principal.clone(),
        compiled,
        fresh: key.is_none(),
    }))
}

/// Every value that a start carries.
pub fn values_of(started: &mut Started) -> Vec<&mut Value> {
    let mut values: Vec<&mut Value> = vec![&mut started.input];
    values.extend(started.variables.iter_mut().map(|(_, value)| value));
    if let Some(rerun) = started.rerun.as_deref_mut() {
        values.extend(&mut rerun.input);
        for reused in &mut rerun.reused {
            match &mut reused.result {
                ReusedResult::Completed(output) => values.push(output),
                ReusedResult::Failed(failure) => values.extend(&mut failure.payload),
                ReusedResult::Skipped | ReusedResult::Canceled => {}
            }
        }
    }
    values
}

/// What is large of the start is kept under the new execution: it outlives the one that it repeats.
async fn keep_values(
    shard: &ShardContext,
    from: Option<ExecutionId>,
    started: &mut Started,
) -> Result<(), EngineError> {
    let to = started.id;
    let blobs = &shard.engine.blobs;
    for value in values_of(started) {
        if let Value::Inline(document) = value {
            *value = blobs.keep(shard, to, document.clone()).await?;
        } else if let Some(from) = from {
            blobs.adopt(shard, (from, to), value).await?;
        }
    }
    Ok(())
}

/// Bytes of a result that is taken over.
pub(crate) fn reused_bytes(reused: &Reused) -> usize {
    let value = Value::bytes_in_place;
    match &reused.result {
        ReusedResult::Completed(output) => value(output),
        ReusedResult::Failed(failure) => failure.error.message.len() + failure.payload.as_ref().map_or(0, value),
        ReusedResult::Skipped | ReusedResult::Canceled => 0,
    }
}

//! Many children that do nothing but wait: what their parent's pause, resume and cancel do to them after a kill.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use troupe_actors::{Command, EngineHandle, StartRequest};
use troupe_core::execution::{ChildId, ExecutionState, Status};
use troupe_core::{ExecutionId, Json};

use super::bus::KeepingBus;
use super::child::{End, Orders, Setting, open, put};
use super::effects::EffectSink;
use super::incarnation::Incarnation;
use super::workload;

/// How long whatever is awaited may take, with three hundred children on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Request key of the only start.
const KEY: &str = "parked/0";

/// What became of the children after the kill.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many there were.
    pub children: usize,
    /// How many went with their parent's pause.
    pub paused: usize,
    /// How many of those went on with it.
    pub resumed: usize,
    /// How many were canceled with it.
    pub canceled: usize,
}

/// Parks children in an engine process, kills it, and tells the parent to pause, to go on and to cancel in the next engine.
///
/// # Errors
/// When an engine does not start, or what is told to the parent does not reach every child in time.
pub async fn run(program: &Path, children: u32) -> anyhow::Result<Outcome> {
    let directory = tempfile::tempdir().context("no temporary folder")?;
    let setting = |end| Setting {
        directory: directory.path().to_owned(),
        shards: 4,
        end,
        fault: None,
    };
    let orders = Orders {
        setting: setting(End::PowerLoss),
        incarnation: 0,
        asked_before: Vec::new(),
        clients: 0,
        parked: Some(children),
    };
    let mut first = Incarnation::spawn(program, &orders)?;
    first.ready()?;
    first.kill()?;
    let silent = Arc::new(EffectSink { silent: true });
    let engine = open(&setting(End::Shutdown), silent, Arc::new(KeepingBus::default())).await?;
    let outcome = command(&engine).await;
    engine.shutdown(Duration::from_secs(1)).await;
    outcome
}

async fn command(engine: &EngineHandle) -> anyhow::Result<Outcome> {
    let (parent, children) = started(engine).await?;
    let mut outcome = Outcome {
        children: children.len(),
        ..Outcome::default()
    };
    engine.pause(parent, Command::default()).await?;
    outcome.paused = all(engine, &children, "paused", |state| state.paused).await?;
    engine.resume(parent, Command::default()).await?;
    outcome.resumed = all(engine, &children, "going on", |state| !state.paused).await?;
    engine.cancel(parent, Command::default()).await?;
    let is_canceled = |state: &ExecutionState| matches!(state.status, Status::Canceled { .. });
    outcome.canceled = all(engine, &children, "canceled", is_canceled).await?;
    Ok(outcome)
}

/// Starts an execution with so many children, and waits until each of them waits.
pub(super) async fn park(engine: &EngineHandle, children: u32) -> anyhow::Result<()> {
    put(engine, workload::parked(children)).await?;
    let (_, known) = started(engine).await?;
    if known.len() != children as usize {
        bail!("{} children of {children}", known.len());
    }
    all(engine, &known, "waiting", |state| !state.active.is_empty()).await?;
    Ok(())
}

/// The execution and its children, all of which are open.
async fn started(engine: &EngineHandle) -> anyhow::Result<(ExecutionId, Vec<ExecutionId>)> {
    let mut request = StartRequest::new("parked", Json::from_trusted("null"));
    request.request_key = Some(KEY.into());
    let parent = engine.start(request).await?.id;
    let view = engine.get(parent).await?;
    let id_of = |child: &ChildId| {
        let node = &view.plan.node(child.node).key;
        ExecutionId::of_child(parent, &format!("{}/{node}/{}", child.run, child.visit), child.index)
    };
    Ok((parent, view.state.open_children().iter().map(id_of).collect()))
}

/// How many of the children are such, once all are.
async fn all(
    engine: &EngineHandle,
    children: &[ExecutionId],
    what: &str,
    is_such: impl Fn(&ExecutionState) -> bool,
) -> anyhow::Result<usize> {
    let until = Instant::now() + WITHIN;
    for (place, child) in children.iter().enumerate() {
        loop {
            let found = engine.get(*child).await;
            if found.as_ref().is_ok_and(|view| is_such(&view.state)) {
                break;
            }
            if Instant::now() > until {
                let state = found.map(|view| (view.state.status, view.state.paused));
                bail!(
                    "{place} of {} children are {what}; {child} is {state:?}",
                    children.len()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(children.len())
}

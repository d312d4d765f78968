//! The engine process that is killed: an engine on an embedded store, an effect sink, and clients that load it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use troupe_actors::{Command, Engine, EngineHandle, EngineOptions, EngineParts, Mutants, StartRequest};
use troupe_backends::InProcessBus;
use troupe_backends::embedded::{DurabilityMutant, EmbeddedStore, Sharing, StoreOptions};
use troupe_core::{CommandId, ErrorInfo, ExecutionId, Json};
use troupe_ports::{Executed, NodeExecutor, Rendered, Sandbox, SandboxJob, SystemClock, Task};

use super::record::Record;
use super::workload;

/// What the driver tells an engine process, as JSON in its only argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// Directory of the store.
    pub directory: PathBuf,
    /// Tells request keys of incarnations apart.
    pub incarnation: u32,
    /// Keys of earlier incarnations to ask for again.
    pub asked_before: Vec<String>,
    /// Clients that load the engine at once.
    pub clients: u32,
    /// Fault to plant, by name; see [`Fault`].
    pub fault: Option<Fault>,
}

/// The faults that the campaign must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Starts and commands are acknowledged before their entry is durable.
    AcknowledgeBeforeCommit,
    /// A report is applied although its token is not the current one.
    NoCompletionDedupe,
    /// The count of a join is not saved with the completion that moved it.
    NonAtomicJoinCounter,
    /// A timer is forgotten when it fires although its entry may never become durable.
    TimerRemovedBeforeCommit,
    /// `synchronous=OFF`.
    SynchronousOff,
    /// Effects are released before their entry is durable.
    EffectBeforeCommit,
    /// Reads show states that are not durable.
    ReadBeforeCommit,
}

/// Options under which everything happens often: checkpoints, passivation, short leases.
#[must_use]
pub fn engine_options(fault: Option<Fault>) -> EngineOptions {
    EngineOptions {
        checkpoint_interval: Duration::from_millis(200),
        checkpoint_bytes: 256 * 1024,
        passivate_after_ms: 30,
        mutants: Mutants {
            acknowledge_before_commit: fault == Some(Fault::AcknowledgeBeforeCommit),
            no_completion_dedupe: fault == Some(Fault::NoCompletionDedupe),
            non_atomic_join_counter: fault == Some(Fault::NonAtomicJoinCounter),
            timer_removed_before_commit: fault == Some(Fault::TimerRemovedBeforeCommit),
            effect_before_commit: fault == Some(Fault::EffectBeforeCommit),
            read_before_commit: fault == Some(Fault::ReadBeforeCommit),
            // Without a repetition nobody would notice that it is not recognised.
            redeliver_reports: fault == Some(Fault::NoCompletionDedupe),
        },
        ..EngineOptions::default()
    }
}

/// Opens an engine on the store of a campaign.
///
/// # Errors
/// When the store cannot be opened or the engine does not become ready.
pub async fn open(
    directory: &std::path::Path,
    power_loss: bool,
    fault: Option<Fault>,
    executor: Arc<dyn NodeExecutor>,
) -> anyhow::Result<EngineHandle> {
    let mutant = (fault == Some(Fault::SynchronousOff)).then_some(DurabilityMutant::SynchronousOff);
    let options = StoreOptions {
        shards: 4,
        sharing: Sharing::Exclusive,
        power_loss,
        mutant,
    };
    let store = Arc::new(EmbeddedStore::open(directory, &options).context("the store does not open")?);
    let parts = EngineParts {
        state: store.clone(),
        definitions: store.clone(),
        visibility: store,
        bus: Arc::new(InProcessBus::default()),
        executor,
        sandbox: Arc::new(NoSandbox),
        clock: Arc::new(SystemClock),
    };
    Engine::spawn(parts, engine_options(fault))
        .await
        .context("the engine does not start")
}

/// The workload has no expressions.
struct NoSandbox;

impl Sandbox for NoSandbox {
    fn evaluate(&self, _: SandboxJob) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        Box::pin(std::future::ready(Err(ErrorInfo::new(
            "EXPRESSION_ERROR",
            "the workload has no expressions",
        ))))
    }

    fn render(&self, job: SandboxJob, _: Rendered) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        self.evaluate(job)
    }
}

/// Does the nodes' work: records that it took effect, then sleeps, fails or completes as the node's data say.
///
/// Every output is unlike any other, so that a repeated attempt cannot pass for the first one.
#[derive(Debug, Default)]
pub struct EffectSink {
    /// Whether effects are recorded; the final incarnation only finishes what is open.
    pub silent: bool,
}

impl NodeExecutor for EffectSink {
    fn execute(&self, task: Task, _: CancellationToken) -> BoxFuture<'static, Executed> {
        if !self.silent {
            let input = match &task.input {
                troupe_core::Value::Inline(json) => json.as_str().to_owned(),
                troupe_core::Value::Blob(blob) => format!("{blob:?}"),
            };
            let token = [
                task.token.run.0,
                task.token.visit.0,
                task.token.attempt.0,
                task.token.nonce,
            ];
            Record::Effect {
                id: task.execution,
                node: task.node().key.to_string(),
                token,
                input,
            }
            .emit();
        }
        Box::pin(async move {
            let number = |name: &str| {
                task.node()
                    .data
                    .get(name)
                    .and_then(serde_json::Value::as_u64)
                    .unwrap_or(0)
            };
            if number("sleepMs") > 0 {
                tokio::time::sleep(Duration::from_millis(number("sleepMs"))).await;
            }
            if u64::from(task.token.attempt.0) <= number("failFirst") {
                return Executed::failed(ErrorInfo::new("FLAKY", "fails at first"), true);
            }
            Executed::completed(Json::from_trusted(format!("\"{:016x}\"", random())))
        })
    }
}

/// A number that nobody can guess: the seed of a fresh hasher.
#[must_use]
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Runs until it is killed.
///
/// # Errors
/// When the store or the engine does not open.
pub async fn run(orders: Orders) -> anyhow::Result<()> {
    let engine = open(&orders.directory, true, orders.fault, Arc::new(EffectSink::default())).await?;
    for definition in workload::definitions() {
        let analysis = Json::from_trusted("{}");
        engine
            .definitions()
            .put(definition, analysis, None, troupe_core::Timestamp(0))
            .await
            .context("a definition is not stored")?;
    }
    Record::Ready.emit();
    let repeat = tokio::spawn(ask_again(engine.clone(), orders.asked_before.clone()));
    let next = Arc::new(AtomicU64::new(0));
    let clients = (0..orders.clients).map(|_| tokio::spawn(client(engine.clone(), orders.incarnation, next.clone())));
    for client in clients.collect::<Vec<_>>() {
        client.await.context("a client panicked")?;
    }
    repeat.await.context("the repeating client panicked")
}

/// A key that was asked for before gives the execution that it gave then.
async fn ask_again(engine: EngineHandle, keys: Vec<String>) {
    for key in keys {
        start(&engine, key).await;
    }
}

/// Starts executions one after the other, and interferes with some.
async fn client(engine: EngineHandle, incarnation: u32, next: Arc<AtomicU64>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let workflows = workload::definitions();
        let workflow = &workflows[usize::try_from(random() % workflows.len() as u64).unwrap_or(0)].id;
        let Some(id) = start(&engine, format!("{workflow}/{incarnation}-{number}")).await else {
            continue;
        };
        match random() % 8 {
            0 | 1 => pause_and_resume(&engine, id).await,
            2 => command(&engine, "cancel", id).await,
            3..=5 => read_some(&engine, id).await,
            _ => {}
        }
    }
}

/// Starts the workflow that the key begins with.
async fn start(engine: &EngineHandle, key: String) -> Option<ExecutionId> {
    let workflow = key.split('/').next().unwrap_or_default().to_owned();
    let mut request = StartRequest::new(workflow, Json::from_trusted("{\"n\":1}"));
    request.request_key = Some(key.clone());
    Record::StartAsked { key: key.clone() }.emit();
    match engine.start(request).await {
        Ok(outcome) => {
            Record::StartAcked {
                key,
                id: outcome.id,
                existing: outcome.existing,
            }
            .emit();
            Some(outcome.id)
        }
        Err(error) => {
            if error.retry_after_ms().is_none() {
                Record::Trouble {
                    what: format!("start {key}: {error}"),
                }
                .emit();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            None
        }
    }
}

async fn pause_and_resume(engine: &EngineHandle, id: ExecutionId) {
    tokio::time::sleep(Duration::from_millis(random() % 20)).await;
    command(engine, "pause", id).await;
    tokio::time::sleep(Duration::from_millis(random() % 80)).await;
    command(engine, "resume", id).await;
}

/// Commands an execution; that it has ended is no trouble.
pub async fn command(engine: &EngineHandle, verb: &str, id: ExecutionId) {
    let name = format!("{verb}-{:016x}", random());
    let given = Command {
        command: Some(CommandId::from(name.as_str())),
        grace_ms: Some(20),
        ..Command::default()
    };
    let answer = match verb {
        "pause" => engine.pause(id, given).await,
        "cancel" => engine.cancel(id, given).await,
        _ => {
            Record::ResumeAsked { id }.emit();
            engine.resume(id, given).await
        }
    };
    match answer {
        Ok(outcome) => {
            let (draining, unchanged) = (outcome.draining, outcome.unchanged);
            Record::CommandAcked {
                verb: verb.to_owned(),
                id,
                command: name,
                draining,
                unchanged,
            }
            .emit();
        }
        Err(troupe_actors::EngineError::Ended(_)) => {}
        Err(error) if error.retry_after_ms().is_some() => {}
        Err(error) => Record::Trouble {
            what: format!("{verb} {id}: {error}"),
        }
        .emit(),
    }
}

async fn read_some(engine: &EngineHandle, id: ExecutionId) {
    for _ in 0..6 {
        match engine.get(id).await {
            Ok(view) => {
                Record::Read {
                    id,
                    seq: view.state.seq.0,
                    fingerprint: view.state.fingerprint(),
                }
                .emit();
            }
            Err(error) if error.retry_after_ms().is_some() => {}
            Err(error) => Record::Trouble {
                what: format!("read {id}: {error}"),
            }
            .emit(),
        }
        tokio::time::sleep(Duration::from_millis(random() % 4)).await;
    }
}

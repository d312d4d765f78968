//! The engine process that is killed: an engine on an embedded store, an effect sink, and clients that load it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use troupe_actors::{Engine, EngineHandle, EngineOptions, EngineParts, Mutants};
use troupe_backends::embedded::{DurabilityMutant, EmbeddedStore, PowerLoss, Sharing, StoreOptions};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{ErrorInfo, Json, Timestamp};
use troupe_ports::{EventBus, NodeExecutor, Rendered, Sandbox, SandboxJob, StateStore, SystemClock};

use super::bus::RecordingBus;
use super::clients::{ask_again, client};
use super::door::Door;
use super::effects::EffectSink;
use super::parked;
use super::record::Record;
use super::witness::Witness;
use super::workload;

/// How often an engine process looks whether its shards were taken.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the driver tells an engine process, as JSON in its only argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The store and what befalls it.
    pub setting: Setting,
    /// Tells request keys of incarnations apart.
    pub incarnation: u32,
    /// Keys of earlier incarnations to ask for again.
    pub asked_before: Vec<String>,
    /// Clients that load the engine at once.
    pub clients: u32,
    /// Starts one execution with so many children that wait, before it is ready.
    pub parked: Option<u32>,
}

/// A store and what befalls those who use it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// Directory of the store.
    pub directory: PathBuf,
    /// Shards, if the store is new.
    pub shards: u16,
    /// How the process ends.
    pub end: End,
    /// Fault to plant.
    pub fault: Option<Fault>,
}

/// How an engine process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// In peace.
    Shutdown,
    /// It is killed, and unsynced writes are lost.
    PowerLoss,
    /// It is killed, and of the unsynced writes a torn part survives, as this seed says.
    TornPowerLoss(u64),
    /// It is frozen, another one takes its shards, and it thaws.
    TakenOver,
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
    /// The store does not compare the epoch of an append with the owner's.
    NoEpochCheck,
    /// The events' cursor moves before the bus has confirmed what it passes.
    CursorBeforeConfirm,
    /// An entry may become durable before the large values that it refers to.
    ValuesAfterEntries,
    /// A takeover does not look after the children of what it resumes.
    ChildrenNotResumed,
    /// A lease is renewed whoever has the shard.
    RenewWithoutCompare,
    /// The log is trimmed although a sink has not sent what it holds.
    TrimBeforeConfirm,
    /// Events are published before their entries are durable.
    PublishBeforeCommit,
    /// A shard is taken without asking whoever orders the owners for an epoch.
    TakeWithoutEpoch,
    /// Whoever asks for a slot or for room is let in, and nobody is counted.
    AdmitWithoutCount,
    /// What an attempt or an execution had is not given back.
    KeepTickets,
    /// Attempts begin whatever control holds them.
    NoDoor,
    /// An append that a member of a Redis Cluster sends elsewhere counts as done.
    RedirectedIsDone,
    /// In the gateway: a message is accepted before the start that it asks for is durable.
    AcceptMessageBeforeStart,
    /// In the gateway: a message that comes again starts under another key.
    StartMessageUnderFreshKey,
    /// In the gateway: a request that is passed on has another key each time.
    ForwardUnderFreshKey,
}

/// Options under which everything happens often: checkpoints, passivation, short leases.
#[must_use]
pub fn engine_options(end: End, fault: Option<Fault>) -> EngineOptions {
    let defaults = EngineOptions::default();
    EngineOptions {
        // Long enough that one who thaws still believes in it, short enough that it soon learns better.
        lease: if end == End::TakenOver {
            Duration::from_secs(2)
        } else {
            defaults.lease
        },
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
            cursor_before_confirm: fault == Some(Fault::CursorBeforeConfirm),
            values_after_entries: fault == Some(Fault::ValuesAfterEntries),
            children_not_resumed: fault == Some(Fault::ChildrenNotResumed),
            no_door: fault == Some(Fault::NoDoor),
            publish_before_commit: fault == Some(Fault::PublishBeforeCommit),
            // Without a repetition nobody would notice that it is not recognised.
            redeliver_reports: fault == Some(Fault::NoCompletionDedupe),
            ..Mutants::default()
        },
        ..defaults
    }
}

/// Opens the store of a campaign.
///
/// # Errors
/// When it does not open.
pub(super) fn open_store(setting: &Setting) -> anyhow::Result<EmbeddedStore> {
    let options = StoreOptions {
        shards: setting.shards,
        sharing: match setting.end {
            End::TakenOver => Sharing::TakeOver,
            End::Shutdown | End::PowerLoss | End::TornPowerLoss(_) => Sharing::Exclusive,
        },
        power_loss: match setting.end {
            // Of two processes each must see at once what the other one wrote.
            End::Shutdown | End::TakenOver => PowerLoss::Never,
            End::PowerLoss => PowerLoss::DropsUnsynced,
            End::TornPowerLoss(seed) => PowerLoss::TearsUnsynced { seed },
        },
        accept_loss: Vec::new(),
        mutant: match setting.fault {
            Some(Fault::SynchronousOff) => Some(DurabilityMutant::SynchronousOff),
            Some(Fault::NoEpochCheck) => Some(DurabilityMutant::NoEpochCheck),
            Some(_) | None => None,
        },
    };
    EmbeddedStore::open(&setting.directory, &options).context("the store does not open")
}

/// Opens an engine on the store of a campaign.
///
/// # Errors
/// When the store cannot be opened or the engine does not become ready.
pub async fn open(
    setting: &Setting,
    executor: Arc<dyn NodeExecutor>,
    bus: Arc<dyn EventBus>,
) -> anyhow::Result<EngineHandle> {
    open_on(Arc::new(open_store(setting)?), setting, executor, bus).await
}

/// As [`open`], on a store that is open already.
pub(super) async fn open_on(
    store: Arc<EmbeddedStore>,
    setting: &Setting,
    executor: Arc<dyn NodeExecutor>,
    bus: Arc<dyn EventBus>,
) -> anyhow::Result<EngineHandle> {
    let state: Arc<dyn StateStore> = store.clone();
    let parts = EngineParts {
        state: if setting.end == End::TakenOver {
            Arc::new(Witness::over(state))
        } else {
            state
        },
        definitions: store.clone(),
        visibility: store,
        buses: vec![("events", bus)],
        executor,
        sandbox: Arc::new(NoSandbox),
        clock: Arc::new(SystemClock),
        members: None,
        epochs: None,
        semaphores: None,
    };
    Engine::spawn(parts, engine_options(setting.end, setting.fault))
        .await
        .context("the engine does not start")
}

/// The workload has no expressions beyond the safe subset.
pub(crate) struct NoSandbox;

impl Sandbox for NoSandbox {
    fn evaluate(&self, _: SandboxJob) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        Box::pin(std::future::ready(Err(ErrorInfo::new(
            "EXPRESSION_ERROR",
            "the workload has no expressions beyond the safe subset",
        ))))
    }

    fn render(&self, job: SandboxJob, _: Rendered) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        self.evaluate(job)
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
    let engine = open(&orders.setting, Arc::new(EffectSink::default()), Arc::new(RecordingBus)).await?;
    for definition in workload::all() {
        put(&engine, definition).await?;
    }
    if let Some(children) = orders.parked {
        parked::park(&engine, children).await?;
    }
    Record::Ready.emit();
    if orders.setting.end == End::TakenOver {
        tokio::spawn(watch_shards(engine.clone()));
    }
    let door = Door::alone(engine);
    let repeat = tokio::spawn(ask_again(door.clone(), orders.asked_before.clone()));
    let next = Arc::new(AtomicU64::new(0));
    let one = || client(door.clone(), orders.incarnation, next.clone());
    let clients = (0..orders.clients).map(|_| tokio::spawn(one()));
    for client in clients.collect::<Vec<_>>() {
        client.await.context("a client panicked")?;
    }
    repeat.await.context("the repeating client panicked")?;
    // Without clients nothing else keeps it until it is killed.
    std::future::pending().await
}

pub(crate) async fn put(engine: &EngineHandle, definition: WorkflowDefinition) -> anyhow::Result<()> {
    let analysis = Json::from_trusted("{}");
    let definitions = engine.definitions();
    let stored = definitions.put(definition, analysis, None, Timestamp(0)).await;
    stored.context("a definition is not stored")?;
    Ok(())
}

/// Tells of every shard that the engine loses.
pub(crate) async fn watch_shards(engine: EngineHandle) {
    let mut known = (0, engine.status().shards_served);
    loop {
        let status = engine.status();
        let (shards_lost, shards_served) = (status.fenced_commits, status.shards_served);
        if std::mem::replace(&mut known, (shards_lost, shards_served)) != (shards_lost, shards_served) {
            Record::Fenced {
                shards_lost,
                shards_served,
            }
            .emit();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

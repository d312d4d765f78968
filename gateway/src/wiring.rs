//! Chooses backends and executors and puts the product together. The only file that names them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio_util::sync::CancellationToken;
use troupe_actors::{Engine, EngineOptions, EngineParts};
use troupe_backends::{EmbeddedStore, StoreOptions};
pub use troupe_backends::{EventFilter, InProcessBus as LiveBus, Subscription, SubscriptionError};
use troupe_config::Settings;
use troupe_core::definition::Limits;
use troupe_executors::{Executors, ExecutorsBuilder, SandboxOptions, SandboxPool};
pub use troupe_executors::{Handler, HandlerCall, HandlerError, HandlerResult, run_child_if_requested};
use troupe_lang::checker::Checker;
use troupe_ports::{NodeExecutor, SystemClock};
use troupe_telemetry::Exposition;

use crate::app::{App, Parts};
use crate::error::ApiError;
use crate::rules::Rules;

/// What an embedding program adds.
#[derive(Debug, Default)]
pub struct Extras {
    /// Executors to build on, with handlers of the program's own.
    pub executors: ExecutorsBuilder,
    /// Metrics, where they are exposed.
    pub exposition: Option<Arc<Exposition>>,
    /// The program that sandbox processes run; none: this one, which must call [`run_child_if_requested`] first.
    pub sandbox_program: Option<PathBuf>,
    /// What differs from the engine's defaults; none: only what the settings say.
    pub engine: Option<EngineOptions>,
}

/// Executors to add handlers to.
#[must_use]
pub fn executors() -> ExecutorsBuilder {
    Executors::builder()
}

/// Rules for definitions, with these settings' limits. Handlers of a server are not known here.
#[must_use]
pub fn rules(settings: &Settings) -> Rules {
    Rules::new(limits(settings), Arc::new(Checker::new()))
}

fn limits(settings: &Settings) -> Limits {
    let limits = settings.limits;
    Limits {
        nesting_max: limits.nesting_max,
        nodes_max: limits.nodes_max,
        edges_max: limits.edges_max,
        ..Limits::default()
    }
}

/// Opens the embedded store in `directory` and starts an engine on it; returns when it serves.
///
/// # Errors
/// `UNAVAILABLE` when another process has the store, `DAMAGED` when it does not make sense, and whatever keeps the
/// sandbox processes from starting.
pub async fn open(settings: Settings, directory: &Path, extras: Extras) -> Result<App, ApiError> {
    let options = StoreOptions {
        shards: settings.engine.shards,
        ..StoreOptions::default()
    };
    let place = directory.to_owned();
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&place, &options)).await;
    let store = opened.map_err(|error| ApiError::new("INTERNAL", error.to_string()))??;
    let store = Arc::new(store);
    let sandbox = SandboxPool::start(sandbox_options(&settings, extras.sandbox_program)).await;
    let sandbox = sandbox.map_err(|error| ApiError::new("UNAVAILABLE", error.to_string()))?;
    let executors = extras.executors.sandbox(sandbox.clone()).build();
    let rules = Rules::new(
        limits(&settings),
        Arc::new(Checker::new().with_handlers(executors.handlers())),
    );
    let live = LiveBus::new();
    let clock = Arc::new(SystemClock);
    let parts = EngineParts {
        state: store.clone(),
        definitions: store.clone(),
        visibility: store.clone(),
        bus: Arc::new(live.clone()),
        executor: Arc::new(executors),
        sandbox: Arc::new(sandbox),
        clock: clock.clone(),
    };
    let engine = EngineOptions {
        executions_max: settings.engine.running_max,
        attempts_max: settings.engine.attempts_max,
        input_bytes_max: settings.limits.body_bytes,
        ..extras.engine.unwrap_or_default()
    };
    let engine = Engine::spawn(parts, engine).await?;
    Ok(App::new(Parts {
        engine,
        state: store.clone(),
        definitions: store.clone(),
        visibility: store,
        live,
        rules,
        settings,
        clock,
        exposition: extras.exposition,
        closing: CancellationToken::new(),
        streams: Arc::new(AtomicUsize::new(0)),
    }))
}

fn sandbox_options(settings: &Settings, program: Option<PathBuf>) -> SandboxOptions {
    let sandbox = settings.sandbox;
    SandboxOptions {
        program,
        processes: sandbox.processes,
        processes_max: sandbox.processes * 4,
        memory_bytes: sandbox.memory_bytes,
        stack_bytes: sandbox.stack_bytes,
        output_bytes_max: sandbox.output_bytes,
        ..SandboxOptions::default()
    }
}

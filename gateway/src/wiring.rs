//! Chooses backends and executors and puts the product together. The only file that names them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use troupe_actors::{Engine, EngineOptions, EngineParts};
use troupe_backends::{EmbeddedStore, StoreOptions};
pub use troupe_backends::{EventFilter, InProcessBus as LiveBus, Subscription, SubscriptionError};
use troupe_config::Settings;
use troupe_core::definition::Limits;
use troupe_executors::{
    EgressPolicy, EnvSecrets, Executors, ExecutorsBuilder, ExpressionProblem, HttpExecutor, HttpOptions,
    SandboxOptions, SandboxPool, codes,
};
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

/// Rules for definitions, with these settings' limits. Handlers of a server are not known here; the sandbox starts
/// when there is function code to look at.
#[must_use]
pub fn rules(settings: &Settings) -> Rules {
    let options = SandboxOptions {
        processes: 1,
        processes_max: 1,
        ..sandbox_options(settings, None)
    };
    let code = CodeChecker {
        pool: Arc::new(OnceCell::new()),
        options,
    };
    Rules::new(limits(settings), Arc::new(Checker::new()), code)
}

/// Compiles function code and expressions in a sandbox process, without calling them.
#[derive(Clone)]
pub struct CodeChecker {
    pool: Arc<OnceCell<SandboxPool>>,
    options: SandboxOptions,
}

impl CodeChecker {
    /// What is wrong with code that must define `name`, code and message; none when nothing is.
    ///
    /// # Errors
    /// `UNAVAILABLE` when no sandbox process can be started.
    pub async fn problem(&self, code: &str, name: &str) -> Result<Option<(&'static str, String)>, ApiError> {
        let Err(error) = self.pool().await?.check_function_code(code, name).await else {
            return Ok(None);
        };
        Ok(Some(match error.code.as_str() {
            codes::SANDBOX_UNAVAILABLE => return Err(unavailable(error.message)),
            codes::FUNCTION_NOT_DEFINED => (codes::FUNCTION_NOT_DEFINED, error.message),
            codes::FUNCTION_CODE_INVALID => (codes::FUNCTION_CODE_INVALID, error.message),
            // A limit that the code's top level hits.
            limit => (codes::FUNCTION_CODE_INVALID, format!("{limit}: {}", error.message)),
        }))
    }

    /// What is wrong with each of the expressions.
    ///
    /// # Errors
    /// `UNAVAILABLE` when no sandbox process can be started.
    pub async fn expressions(&self, sources: &[&str]) -> Result<Vec<Option<ExpressionProblem>>, ApiError> {
        let pool = self.pool().await?;
        match pool.check_expressions(sources).await {
            Ok(problems) => return Ok(problems),
            Err(error) if error.code == codes::SANDBOX_UNAVAILABLE => return Err(unavailable(error.message)),
            // One of them is too much for the process; the others are not to blame.
            Err(_) => {}
        }
        let mut problems = Vec::with_capacity(sources.len());
        for source in sources {
            problems.push(match pool.check_expressions(&[source]).await {
                Ok(mut problem) => problem.pop().flatten(),
                Err(error) if error.code == codes::SANDBOX_UNAVAILABLE => return Err(unavailable(error.message)),
                Err(error) => Some(ExpressionProblem {
                    message: error.message,
                    offset: None,
                    is_limit: true,
                }),
            });
        }
        Ok(problems)
    }

    async fn pool(&self) -> Result<&SandboxPool, ApiError> {
        let start = || SandboxPool::start(self.options.clone());
        self.pool.get_or_try_init(start).await.map_err(unavailable)
    }
}

fn unavailable(error: impl std::fmt::Display) -> ApiError {
    ApiError::new("UNAVAILABLE", error.to_string())
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
    let options = sandbox_options(&settings, extras.sandbox_program);
    let sandbox = SandboxPool::start(options.clone()).await.map_err(unavailable)?;
    let http = HttpExecutor::new(&http_options(&settings)?, Arc::new(EnvSecrets)).map_err(unavailable)?;
    let executors = extras.executors.sandbox(sandbox.clone()).http(http).build();
    let code = CodeChecker {
        pool: Arc::new(OnceCell::new_with(Some(sandbox.clone()))),
        options,
    };
    let rules = Rules::new(
        limits(&settings),
        Arc::new(Checker::new().with_handlers(executors.handlers())),
        code,
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

fn http_options(settings: &Settings) -> Result<HttpOptions, ApiError> {
    let allowed: Vec<String> = settings.http.allow.iter().map(ToString::to_string).collect();
    let egress = EgressPolicy::allowing(allowed.iter().map(String::as_str));
    let egress = egress.map_err(|error| ApiError::new("INVALID_PARAMETER", format!("http.allow: {error}")))?;
    Ok(HttpOptions {
        egress,
        response_bytes_max: settings.http.response_bytes,
        ..HttpOptions::default()
    })
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

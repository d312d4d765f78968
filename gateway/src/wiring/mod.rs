//! Chooses backends and executors and puts the product together. The only room that names them.

mod broker;
mod formats;
mod members;
mod planted;
mod scratch;
mod sources;
mod stores;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use troupe_actors::{BacklogMarks, BreakerSettings, Engine, EngineOptions, EngineParts, ResumeLinks};
pub use troupe_backends::{EventFilter, InProcessBus as LiveBus, Subscription, SubscriptionError, SystemSubscription};
use troupe_config::Settings;
use troupe_core::definition::{Limits, NodeKind};
use troupe_executors::{
    EgressPolicy, EnvSecrets, Executors, ExecutorsBuilder, ExpressionProblem, HttpExecutor, HttpOptions,
    SandboxOptions, SandboxPool, codes,
};
pub use troupe_executors::{Handler, HandlerCall, HandlerError, HandlerResult, run_child_if_requested};
use troupe_lang::checker::Checker;
use troupe_ports::{EventBus, NodeExecutor, Secrets, SystemClock};
use troupe_telemetry::Exposition;

use crate::analyses::Analyses;
use crate::app::{App, Parts};
use crate::audit::AuditTrail;
use crate::auth::{Gate, KeyRing};
use crate::error::ApiError;
use crate::hooks::{HookIndex, server_secret};
use crate::members::Members;
use crate::members::controls::keep_equal;
use crate::members::inbox;
use crate::rules::Rules;
use crate::triggers;

pub use broker::Broker;
pub use planted::Planted;
pub(crate) use scratch::{OwnPrefix, erase};
pub use sources::TriggerSources;
pub use stores::AccessStores;
use stores::Stores;
#[cfg(test)]
pub(crate) use stores::embedded_state;

/// What an embedding program adds.
#[derive(Default)]
pub struct Extras {
    /// Executors to build on, with handlers of the program's own.
    pub executors: ExecutorsBuilder,
    /// Metrics, where they are exposed.
    pub exposition: Option<Arc<Exposition>>,
    /// The program that sandbox processes run; none: this one, which must call [`run_child_if_requested`] first.
    pub sandbox_program: Option<PathBuf>,
    /// What differs from the engine's defaults; none: only what the settings say.
    pub engine: Option<EngineOptions>,
    /// Where `{{ secrets.NAME }}` is looked up; none: in the environment.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// Whether requests must show a key; else only this machine is answered.
    pub keys_required: bool,
}

impl fmt::Debug for Extras {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Extras")
            .field("executors", &self.executors)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// Executors to add handlers to.
#[must_use]
pub fn executors() -> ExecutorsBuilder {
    Executors::builder()
}

/// Names of the handlers that every engine has, in order.
#[must_use]
pub fn built_in_handlers() -> Vec<String> {
    executors().build().handlers()
}

/// Rules for definitions, with these settings' limits. `handlers`: those of the engine that is to run them, where they
/// are known. The sandbox starts when there is function code to look at.
#[must_use]
pub fn rules(settings: &Settings, handlers: Option<Vec<String>>) -> Rules {
    let options = SandboxOptions {
        processes: 1,
        processes_max: 1,
        ..sandbox_options(settings, None)
    };
    let code = CodeChecker {
        pool: Arc::new(OnceCell::new()),
        options,
    };
    let checker = handlers.map_or_else(Checker::new, |handlers| Checker::new().with_handlers(handlers));
    Rules::new(limits(settings), Arc::new(checker), code)
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

/// Opens the stores of keys and audit rows alone, without a server: the embedded one lies in `directory` and admits one process.
///
/// # Errors
/// As [`open`].
pub async fn open_access(settings: &Settings, directory: &Path) -> Result<AccessStores, ApiError> {
    let opening: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(AccessStores::open(settings, directory));
    opening.await
}

/// Opens the stores that the settings name (the embedded one lies in `directory`) and starts an engine on them; returns when it
/// serves.
///
/// # Errors
/// `UNAVAILABLE` when a server cannot be reached, `STORE_IN_USE` when another process has the store, `DAMAGED` when it does not
/// make sense, `NO_API_KEYS` when keys are required and there is none, and whatever keeps the sandbox processes from starting.
pub async fn open(settings: Settings, directory: &Path, extras: Extras) -> Result<App, ApiError> {
    // What drivers nest in their futures stays out of the types of those who open the product.
    let accept_loss = extras.engine.as_ref().map_or(&[][..], |given| &given.accept_loss);
    let opening: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(Stores::open(&settings, directory, accept_loss));
    let stores = opening.await?;
    let closing = CancellationToken::new();
    let clock = Arc::new(SystemClock);
    let gate = if extras.keys_required {
        let (keys, bootstrap) = (stores.access.keys.clone(), settings.bootstrap_key.as_ref());
        Gate::Keys(KeyRing::open(keys, clock.clone(), bootstrap, closing.clone()).await?)
    } else {
        Gate::Local
    };
    let options = sandbox_options(&settings, extras.sandbox_program);
    let sandbox = SandboxPool::start(options.clone()).await.map_err(unavailable)?;
    let secrets = extras.secrets.unwrap_or_else(|| Arc::new(EnvSecrets));
    let http = HttpExecutor::new(&http_options(&settings)?, secrets.clone()).map_err(unavailable)?;
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
    let rules = sources::with_events(rules, stores.triggers.as_ref());
    // Where all stores are servers, nobody has made it.
    let secret = std::fs::create_dir_all(directory).and_then(|()| server_secret(directory));
    let secret = secret.map_err(|error| {
        let detail = format!("the server's secret in {}: {error}", directory.display());
        ApiError::new("UNAVAILABLE", detail)
    })?;
    let (secret, members) = match &stores.shared {
        Some(shared) => {
            let secrets = members::secrets(&settings, &*shared.register, secret).await?;
            let members = Members::new(&secrets.members, settings.cluster.lease)?;
            (secrets.resume, Some(members))
        }
        None => (secret, None),
    };
    let resume_links = Arc::new(ResumeLinks::new(resume_base(&settings), &secret));
    let sandbox = Arc::new(sandbox);
    let live = LiveBus::new();
    let mut buses: Vec<(&'static str, Arc<dyn EventBus>)> = vec![("events", Arc::new(live.clone()))];
    let broker = stores.broker.map(|bus| {
        buses.push(("rabbitmq", bus.clone()));
        Broker::new(bus)
    });
    let parts = EngineParts {
        state: stores.state.clone(),
        definitions: stores.definitions.clone(),
        visibility: stores.visibility.clone(),
        buses,
        executor: Arc::new(executors),
        sandbox: sandbox.clone(),
        clock: clock.clone(),
        members: stores.shared.as_ref().map(|shared| shared.register.clone()),
        epochs: stores.shared.as_ref().map(|shared| shared.epochs.clone()),
        semaphores: stores.shared.as_ref().map(|shared| shared.semaphores.clone()),
    };
    let given = extras.engine.unwrap_or_default();
    let terms = formats::terms(&settings)?;
    let planted = planted::planted()?;
    let owner = if stores.shared.is_some() {
        stores::owner()?
    } else {
        given.owner.clone()
    };
    let address = if stores.shared.is_some() {
        members::address(&settings)?
    } else {
        String::new()
    };
    let engine = EngineOptions {
        owner,
        address,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        reads: terms.reads,
        format_at_most: terms.at_most,
        lease: settings.cluster.lease,
        executions_max: settings.engine.running_max,
        attempts_max: settings.engine.attempts_max,
        attempts_max_of: limits_of_types(&settings),
        retention_ms: milliseconds(settings.engine.retention),
        tombstone_ms: milliseconds(settings.engine.tombstone),
        breakers: settings.breakers.map(breaker_settings),
        input_bytes_max: settings.limits.body_bytes,
        output_bytes_max: settings.limits.output_bytes,
        blob_bytes_max: settings.limits.execution_bytes,
        spool_above_bytes: settings.events.spool_above_bytes,
        backlog: BacklogMarks {
            refuse_bytes: settings.events.refuse_bytes,
            hold_bytes: settings.events.hold_bytes,
        },
        cached_outputs_max: settings.limits.cached_outputs,
        cached_bytes_max: settings.limits.cached_bytes,
        resume_links: Some(Arc::clone(&resume_links)),
        ..given
    };
    let engine = Engine::spawn(parts, engine).await?;
    let lease = settings.cluster.lease;
    let app = App::new(Parts {
        engine,
        state: stores.state,
        definitions: stores.definitions,
        visibility: stores.visibility,
        members,
        keys: stores.access.keys,
        gate,
        audit: AuditTrail::start(stores.access.audit),
        live,
        broker,
        analyses: Analyses::default(),
        hooks: HookIndex::default(),
        resume_links,
        secrets,
        sandbox,
        rules,
        settings,
        clock,
        exposition: extras.exposition,
        planted,
        definitions_changed: tokio::sync::Notify::new(),
        closing,
        streams: Arc::new(AtomicUsize::new(0)),
    });
    if app.members.is_some() {
        tokio::spawn(keep_equal(app.clone(), lease));
        inbox::serve(&app);
    }
    match stores.triggers {
        Some(sources) => {
            tokio::spawn(triggers::run(app.clone(), sources));
        }
        None => {
            let definitions = app.definitions.clone();
            tokio::spawn(async move { triggers::tell_unheard(&*definitions).await });
        }
    }
    Ok(app)
}

/// Whole milliseconds; what is too long for them is as long as can be.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn breaker_settings(settings: troupe_config::BreakerSettings) -> BreakerSettings {
    BreakerSettings {
        window_ms: milliseconds(settings.window),
        calls_min: settings.calls_min,
        failures_percent: settings.failures_percent,
        open_ms: milliseconds(settings.open),
        open_max_ms: milliseconds(settings.open_max),
        successes_min: settings.successes_min,
    }
}

fn limits_of_types(settings: &Settings) -> BTreeMap<NodeKind, usize> {
    let limits = settings.engine.node_types;
    let limits = [
        (NodeKind::Function, limits.function),
        (NodeKind::Http, limits.http),
        (NodeKind::Transformation, limits.transformation),
        (NodeKind::Custom, limits.custom),
    ];
    let given = limits.into_iter().filter_map(|(kind, most)| Some((kind, most?)));
    given.collect()
}

/// What the address of a waiting node begins with.
fn resume_base(settings: &Settings) -> String {
    let base = settings.public_url.as_ref().map_or_else(
        || format!("http://{}", settings.listen),
        |public| public.as_str().to_owned(),
    );
    format!("{base}/api/v1/hooks/resume/")
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

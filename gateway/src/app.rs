//! What every door of the product works with: the engine, the stores beside it, and the rules for definitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use troupe_actors::{EngineHandle, ExecutionView, ResumeLinks};
use troupe_config::Settings;
use troupe_core::{ExecutionId, Timestamp};
use troupe_ports::{
    ApiKeyStore, Clock, DefinitionStore, Sandbox, Secrets, StateStore, StoredDefinition, VisibilityStore,
};
use troupe_telemetry::Exposition;

use crate::analyses::Analyses;
use crate::audit::AuditTrail;
use crate::auth::Gate;
use crate::error::ApiError;
use crate::hooks::HookIndex;
use crate::members::Members;
use crate::rules::Rules;
use crate::wiring::{Broker, LiveBus, Planted};

/// Large values that an answer shows whole, in bytes; of the others it shows references.
const VALUES_BYTES_MAX: u64 = 4 << 20;

/// How long a shutdown waits for audit rows that their store does not take.
const AUDIT_WITHIN: Duration = Duration::from_secs(5);

/// A running product. Clones are cheap and share it.
#[derive(Clone)]
pub struct App {
    inner: Arc<Parts>,
}

/// What an [`App`] is made of.
pub struct Parts {
    /// The engine.
    pub engine: EngineHandle,
    /// The log, for measurements and checks.
    pub state: Arc<dyn StateStore>,
    /// Definitions.
    pub definitions: Arc<dyn DefinitionStore>,
    /// Lists of executions.
    pub visibility: Arc<dyn VisibilityStore>,
    /// How other members are asked; none: there are none.
    pub members: Option<Members>,
    /// Keys of the API.
    pub keys: Arc<dyn ApiKeyStore>,
    /// Who is let in.
    pub gate: Gate,
    /// Who changed what.
    pub audit: AuditTrail,
    /// Events as they become durable.
    pub live: LiveBus,
    /// The broker that events go to as well.
    pub broker: Option<Broker>,
    /// Analyses that were shown lately.
    pub(crate) analyses: Analyses,
    /// Which nodes take calls.
    pub(crate) hooks: HookIndex,
    /// Addresses at which waiting nodes are called.
    pub resume_links: Arc<ResumeLinks>,
    /// What calls are signed with.
    pub secrets: Arc<dyn Secrets>,
    /// Who evaluates expressions beyond the safe subset.
    pub sandbox: Arc<dyn Sandbox>,
    /// What a definition must obey.
    pub rules: Rules,
    /// Settings in force.
    pub settings: Settings,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Metrics, where they are exposed.
    pub exposition: Option<Arc<Exposition>>,
    /// The fault that a test wants this process to have.
    pub planted: Option<Planted>,
    /// Rings when a definition was stored, restored or archived here.
    pub(crate) definitions_changed: Notify,
    /// Fires when the process shuts down: event streams end.
    pub closing: CancellationToken,
    /// Open event streams.
    pub streams: Arc<AtomicUsize>,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.inner
    }
}

impl App {
    /// Shares the parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { inner: Arc::new(parts) }
    }

    /// An execution as it is shown: with its large values while they fit into an answer.
    ///
    /// # Errors
    /// As [`troupe_actors::EngineHandle::get`].
    pub async fn view(&self, id: ExecutionId) -> Result<ExecutionView, ApiError> {
        let mut view = self.engine.get(id).await?;
        self.engine.load_values(&mut view, VALUES_BYTES_MAX).await?;
        Ok(view)
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A definition was stored, or restored: call it before it is acknowledged.
    pub fn stored(&self, stored: &StoredDefinition) {
        self.engine.definition_changed(stored.workflow.as_str());
        self.hooks.stored(stored);
        self.definitions_changed.notify_one();
    }

    /// A workflow was archived: call it before it is acknowledged.
    pub fn archived(&self, workflow: &str) {
        self.engine.definition_changed(workflow);
        self.hooks.archived(workflow);
        self.definitions_changed.notify_one();
    }

    /// Leaves the shards to other members, where there are some, while requests are still answered.
    pub async fn leave(&self) {
        self.engine.leave(self.settings.drain).await;
    }

    /// Ends event streams, lets running attempts end within the drain time, gives the store up, and writes audit rows that wait.
    pub async fn shutdown(&self) {
        self.closing.cancel();
        self.engine.shutdown(self.settings.drain).await;
        self.audit.close(AUDIT_WITHIN).await;
    }

    /// Takes one of the places for event streams.
    ///
    /// # Errors
    /// `TOO_MANY_STREAMS`.
    pub fn stream_permit(&self) -> Result<StreamPermit, ApiError> {
        let most = self.settings.limits.streams_max;
        let taken = |open: usize| (open < most).then_some(open + 1);
        match self.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken) {
            Ok(_) => Ok(StreamPermit(Arc::clone(&self.streams))),
            Err(_) => {
                let detail = format!("{most} event streams are open");
                Err(ApiError::new("TOO_MANY_STREAMS", detail).retry_after_ms(5_000))
            }
        }
    }
}

/// A place for an event stream, given back when dropped.
#[derive(Debug)]
pub struct StreamPermit(Arc<AtomicUsize>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

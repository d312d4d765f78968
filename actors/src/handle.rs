//! The public face of the engine.

use std::sync::Arc;
use std::time::Duration;

use troupe_core::execution::Entry;
use troupe_core::{ExecutionId, Seq};
use troupe_ports::{Clock, DefinitionStore, EventBus, NodeExecutor, Sandbox, StateStore, VisibilityStore};

use crate::error::EngineError;
use crate::options::EngineOptions;
use crate::request::{Command, CommandOutcome, EndWatch, EngineStatus, ExecutionView, StartOutcome, StartRequest};

/// What an engine is made of. Wiring chooses the backends.
#[derive(Clone)]
pub struct EngineParts {
    /// The shard logs.
    pub state: Arc<dyn StateStore>,
    /// Workflow definitions.
    pub definitions: Arc<dyn DefinitionStore>,
    /// Lists of executions.
    pub visibility: Arc<dyn VisibilityStore>,
    /// Where lifecycle events go.
    pub bus: Arc<dyn EventBus>,
    /// Who does the nodes' work.
    pub executor: Arc<dyn NodeExecutor>,
    /// Who evaluates expressions beyond the safe subset.
    pub sandbox: Arc<dyn Sandbox>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// The engine; see [`Engine::spawn`].
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Takes every shard, recovers, and returns when all of them serve.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the store cannot be reached or another owner holds it; [`EngineError::Damaged`].
    pub async fn spawn(parts: EngineParts, options: EngineOptions) -> Result<EngineHandle, EngineError> {
        let _ = (parts, options);
        Err(EngineError::Unavailable("not wired yet".into()))
    }
}

/// Drives an engine. Clones are cheap and share it.
#[derive(Clone)]
pub struct EngineHandle {
    inner: Arc<EngineParts>,
}

impl EngineHandle {
    /// Starts an execution. `Ok` means durable. With a request key a repetition returns the first execution.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn start(&self, request: StartRequest) -> Result<StartOutcome, EngineError> {
        let _ = (request, &self.inner);
        Err(EngineError::Unavailable("not wired yet".into()))
    }

    /// Starts an execution and watches for its end, without a gap between.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn start_watched(&self, request: StartRequest) -> Result<(StartOutcome, EndWatch), EngineError> {
        let _ = request;
        Err(EngineError::Unavailable("not wired yet".into()))
    }

    /// The execution at a durable entry.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    pub async fn get(&self, id: ExecutionId) -> Result<ExecutionView, EngineError> {
        Err(EngineError::NotFound(id))
    }

    /// Durable entries after `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    pub async fn history(&self, id: ExecutionId, after: Seq, limit: usize) -> Result<Vec<Entry>, EngineError> {
        let _ = (after, limit);
        Err(EngineError::NotFound(id))
    }

    /// No new attempt starts once this returned; the outcome tells how many still run.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn pause(&self, id: ExecutionId, command: Command) -> Result<CommandOutcome, EngineError> {
        let _ = command;
        Err(EngineError::NotFound(id))
    }

    /// Continues exactly where the execution stood; releases a quarantined one.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn resume(&self, id: ExecutionId, command: Command) -> Result<CommandOutcome, EngineError> {
        let _ = command;
        Err(EngineError::NotFound(id))
    }

    /// Asks for cancellation: attempts may stop within the grace, then the execution ends.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn cancel(&self, id: ExecutionId, command: Command) -> Result<CommandOutcome, EngineError> {
        let _ = command;
        Err(EngineError::NotFound(id))
    }

    /// Waits until the execution has ended; none when `timeout` passed before.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unavailable`].
    pub async fn wait_until_ended(
        &self,
        id: ExecutionId,
        timeout: Duration,
    ) -> Result<Option<ExecutionView>, EngineError> {
        let _ = timeout;
        Err(EngineError::NotFound(id))
    }

    /// Definitions, straight from their store.
    #[must_use]
    pub fn definitions(&self) -> Arc<dyn DefinitionStore> {
        self.inner.definitions.clone()
    }

    /// Forgets what is remembered of a workflow's latest version: call it after a change of its definition.
    pub fn definition_changed(&self, workflow: &str) {
        let _ = workflow;
    }

    /// How the engine stands.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        EngineStatus::default()
    }

    /// Refuses new work, lets running attempts end within `grace`, and gives the shards up.
    pub async fn shutdown(&self, grace: Duration) {
        let _ = grace;
    }
}

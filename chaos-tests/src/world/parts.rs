//! What the machines' engine context needs beside the store: constant definitions, and ports that nobody may use.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use troupe_actors::context::EngineContext;
use troupe_actors::{EngineOptions, EngineParts};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{ErrorInfo, Json, Timestamp, WorkflowId};
use troupe_ports::{
    BusError, DefinitionError, DefinitionStore, EventBus, Executed, NodeExecutor, Rendered, Sandbox, SandboxJob,
    StoredDefinition, Task,
};

use super::lists::SimulatedLists;
use super::store::{SimulatedClock, SimulatedStore};

/// A context over the simulated store, for the parts of recovery that are plain functions of it.
pub(super) fn context(
    store: &Arc<SimulatedStore>,
    clock: &Arc<SimulatedClock>,
    lists: &Arc<SimulatedLists>,
    definitions: Vec<Arc<WorkflowDefinition>>,
    options: EngineOptions,
) -> EngineContext {
    let parts = EngineParts {
        state: Arc::clone(store) as _,
        definitions: Arc::new(Definitions(definitions)),
        visibility: Arc::clone(lists) as _,
        buses: vec![("events", Arc::new(Unused))],
        executor: Arc::new(Unused),
        sandbox: Arc::new(Unused),
        clock: Arc::clone(clock) as _,
        members: None,
        epochs: None,
        semaphores: None,
    };
    EngineContext::new(parts, options)
}

/// Options of every simulated engine; `mutants` are set by the caller.
pub(super) fn options() -> EngineOptions {
    EngineOptions {
        owner: "simulated".into(),
        lease: Duration::from_millis(super::process::LEASE_MS),
        passivate_after_ms: 30,
        attempts_max: super::limits::PERMITS,
        attempts_max_of: super::limits::of_types(),
        ..EngineOptions::default()
    }
}

struct Definitions(Vec<Arc<WorkflowDefinition>>);

#[async_trait]
impl DefinitionStore for Definitions {
    async fn put(
        &self,
        _: WorkflowDefinition,
        _: Json,
        _: Option<u32>,
        _: Timestamp,
    ) -> Result<StoredDefinition, DefinitionError> {
        Err(DefinitionError::Refused(
            "the definitions of a world are constant".into(),
        ))
    }

    async fn get(&self, workflow: &str, _: Option<u32>) -> Result<Option<StoredDefinition>, DefinitionError> {
        Ok(self
            .0
            .iter()
            .find(|definition| definition.id == workflow)
            .map(|definition| StoredDefinition {
                workflow: WorkflowId::from(workflow),
                version: 1,
                definition: Arc::clone(definition),
                analysis: Json::from_trusted("{}"),
                stored_at: Timestamp(0),
                archived: false,
            }))
    }

    async fn list(&self, _: Option<&str>, _: usize) -> Result<Vec<StoredDefinition>, DefinitionError> {
        Ok(Vec::new())
    }

    async fn archive(&self, _: &str, _: bool) -> Result<bool, DefinitionError> {
        Ok(false)
    }
}

/// Refuses whatever the world does itself.
struct Unused;

#[async_trait]
impl EventBus for Unused {
    async fn publish(&self, _: &[LifecycleEvent]) -> Result<(), BusError> {
        Err(BusError::Unavailable("a world has none".into()))
    }

    async fn announce(&self, _: &[SystemEvent]) -> Result<(), BusError> {
        Ok(())
    }
}

impl NodeExecutor for Unused {
    fn execute(&self, _: Task, _: CancellationToken) -> BoxFuture<'static, Executed> {
        let error = ErrorInfo::new("UNUSED", "the world carries attempts out itself");
        Box::pin(std::future::ready(Executed::failed(error, false)))
    }
}

impl Sandbox for Unused {
    fn evaluate(&self, _: SandboxJob) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        Box::pin(std::future::ready(Err(ErrorInfo::new(
            "EXPRESSION_ERROR",
            "the world evaluates itself",
        ))))
    }

    fn render(&self, job: SandboxJob, _: Rendered) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        self.evaluate(job)
    }
}

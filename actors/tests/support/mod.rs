//! An engine on an embedded store in a directory of its own.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use troupe_actors::{Engine, EngineError, EngineHandle, EngineOptions, EngineParts, StartRequest};
use troupe_backends::bus::InProcessBus;
use troupe_backends::embedded::{EmbeddedStore, Sharing, StoreOptions};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{ErrorInfo, ExecutionId, Json, Timestamp};
use troupe_executors::{Executors, ExecutorsBuilder, Handler, HandlerCall, HandlerError};
use troupe_lang::{Expression, Scope};
use troupe_ports::{
    Clock, DefinitionStore, EpochAuthority, Membership, Rendered, Sandbox, SandboxJob, Semaphores, SystemClock,
};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until it holds; `what` is what is waited for.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

/// A sandbox that knows `(() => { return … })()` around what the engine could evaluate by itself.
pub struct Arrows;

impl Sandbox for Arrows {
    fn evaluate(&self, job: SandboxJob) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        async move {
            tokio::task::yield_now().await;
            let wrong = |why: String| ErrorInfo::new("EXPRESSION_ERROR", why);
            let inner = job.source.strip_prefix("(() => { return ");
            let Some(inner) = inner.and_then(|inner| inner.strip_suffix(" })()")) else {
                return Err(wrong(format!("unknown: {}", job.source)));
            };
            let expression = Expression::compile(inner).map_err(|error| wrong(error.to_string()))?;
            let members: serde_json::Map<String, serde_json::Value> = serde_json::from_str(job.scope.as_str()).unwrap();
            let scope = members
                .iter()
                .fold(Scope::new(), |scope, (name, value)| scope.bind(name, value));
            let value = expression.evaluate(&scope);
            value
                .map(|value| Json::of(&value))
                .map_err(|error| wrong(error.message().to_owned()))
        }
        .boxed()
    }

    fn render(&self, job: SandboxJob, _: Rendered) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        self.evaluate(job)
    }
}

/// A sandbox that answers 42 to everything once it is open, and panics as often as it is told to.
#[derive(Default)]
pub struct Gate {
    entered: Notify,
    opened: CancellationToken,
    pub panics: AtomicU32,
}

impl Gate {
    /// Waits until somebody evaluates.
    pub async fn entered(&self) {
        self.entered.notified().await;
    }

    pub fn open(&self) {
        self.opened.cancel();
    }
}

impl Sandbox for Gate {
    fn evaluate(&self, _: SandboxJob) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        self.entered.notify_one();
        let take = |left: u32| left.checked_sub(1);
        if self
            .panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_ok()
        {
            panic!("planted in the sandbox");
        }
        let opened = self.opened.clone();
        async move {
            opened.cancelled().await;
            Ok(Json::from_trusted("42"))
        }
        .boxed()
    }

    fn render(&self, job: SandboxJob, _: Rendered) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        self.evaluate(job)
    }
}

/// Renders templates in this process.
pub struct Rendering;

impl Sandbox for Rendering {
    fn evaluate(&self, job: SandboxJob) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        Arrows.evaluate(job)
    }

    fn render(&self, job: SandboxJob, _: Rendered) -> BoxFuture<'static, Result<Json, ErrorInfo>> {
        let members = job.scope.to_value().unwrap();
        let scope = members.as_object().unwrap().iter();
        let scope = scope.fold(troupe_lang::Scope::new(), |scope, (name, value)| {
            scope.bind(name, value)
        });
        let text = troupe_lang::template::Jinja::compile(&job.source)
            .unwrap()
            .render(&scope);
        std::future::ready(Ok(Json::of(&text.unwrap().into()))).boxed()
    }
}

pub struct World {
    pub engine: EngineHandle,
    pub store: Arc<EmbeddedStore>,
    pub bus: Arc<InProcessBus>,
}

pub fn store(directory: &Path, shards: u16) -> Arc<EmbeddedStore> {
    let options = StoreOptions {
        shards,
        sharing: Sharing::Shared,
        ..StoreOptions::default()
    };
    Arc::new(EmbeddedStore::open(directory, &options).unwrap())
}

pub async fn world(directory: &Path, executors: ExecutorsBuilder, options: EngineOptions) -> World {
    on_store(store(directory, 4), executors, options).await
}

pub async fn on_store(store: Arc<EmbeddedStore>, executors: ExecutorsBuilder, options: EngineOptions) -> World {
    with_sandbox(store, executors, options, Arc::new(Arrows)).await
}

pub async fn with_sandbox(
    store: Arc<EmbeddedStore>,
    executors: ExecutorsBuilder,
    options: EngineOptions,
    sandbox: Arc<dyn Sandbox>,
) -> World {
    let (parts, bus) = parts(&store, executors, sandbox);
    let engine = Engine::spawn(parts, options).await.unwrap();
    World { engine, store, bus }
}

fn parts(
    store: &Arc<EmbeddedStore>,
    executors: ExecutorsBuilder,
    sandbox: Arc<dyn Sandbox>,
) -> (EngineParts, Arc<InProcessBus>) {
    let bus = Arc::new(InProcessBus::new());
    let parts = EngineParts {
        state: store.clone(),
        definitions: store.clone(),
        visibility: store.clone(),
        buses: vec![("events", bus.clone())],
        executor: Arc::new(executors.build()),
        sandbox,
        clock: Arc::new(SystemClock),
        members: None,
        epochs: None,
        semaphores: None,
    };
    (parts, bus)
}

/// An engine that shares its store with the others in `register`; `epochs` orders them.
pub async fn as_member(
    store: Arc<EmbeddedStore>,
    executors: ExecutorsBuilder,
    options: EngineOptions,
    register: Arc<dyn Membership>,
    epochs: Arc<dyn EpochAuthority>,
) -> World {
    let shared = Shared {
        register,
        epochs,
        semaphores: None,
    };
    as_member_of(store, executors, options, shared).await
}

/// What engines that share a store have in common.
pub struct Shared {
    pub register: Arc<dyn Membership>,
    pub epochs: Arc<dyn EpochAuthority>,
    /// None: each counts by itself what limits bound.
    pub semaphores: Option<Arc<dyn Semaphores>>,
}

/// As [`as_member`].
pub async fn as_member_of(
    store: Arc<EmbeddedStore>,
    executors: ExecutorsBuilder,
    options: EngineOptions,
    shared: Shared,
) -> World {
    try_as_member_of(store, executors, options, shared).await.unwrap()
}

/// As [`as_member`], where it may be refused.
pub async fn try_as_member(
    store: Arc<EmbeddedStore>,
    executors: ExecutorsBuilder,
    options: EngineOptions,
    register: Arc<dyn Membership>,
    epochs: Arc<dyn EpochAuthority>,
) -> Result<World, EngineError> {
    let shared = Shared {
        register,
        epochs,
        semaphores: None,
    };
    try_as_member_of(store, executors, options, shared).await
}

async fn try_as_member_of(
    store: Arc<EmbeddedStore>,
    executors: ExecutorsBuilder,
    options: EngineOptions,
    shared: Shared,
) -> Result<World, EngineError> {
    let (mut parts, bus) = parts(&store, executors, Arc::new(Arrows));
    parts.members = Some(shared.register);
    parts.epochs = Some(shared.epochs);
    parts.semaphores = shared.semaphores;
    let engine = Engine::spawn(parts, options).await?;
    Ok(World { engine, store, bus })
}

pub fn builtins() -> ExecutorsBuilder {
    Executors::builder()
}

pub fn now() -> Timestamp {
    SystemClock.now()
}

impl World {
    pub async fn apply(&self, definition: serde_json::Value) {
        let definition: WorkflowDefinition = serde_json::from_value(definition).unwrap();
        let id = definition.id.clone();
        DefinitionStore::put(&*self.store, definition, Json::null(), None, now())
            .await
            .unwrap();
        self.engine.definition_changed(&id);
    }

    pub async fn start(&self, workflow: &str, input: serde_json::Value) -> ExecutionId {
        self.engine
            .start(StartRequest::new(workflow, Json::of(&input)))
            .await
            .unwrap()
            .id
    }

    pub async fn ended(&self, id: ExecutionId) -> troupe_actors::ExecutionView {
        self.engine
            .wait_until_ended(id, PATIENCE)
            .await
            .unwrap()
            .expect("it ends in time")
    }
}

/// A handler that fails while some failures are left, and then gives its input.
pub fn failing(left: &Arc<AtomicU32>) -> impl Handler + use<> {
    let left = Arc::clone(left);
    move |call: HandlerCall| {
        let take = |left: u32| left.checked_sub(1);
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
        async move {
            if fails {
                Err(HandlerError::new("E1", "not yet"))
            } else {
                call.input_json().cloned()
            }
        }
    }
}

/// A chain of function nodes `n0 -> n1 -> …`, all with this handler.
pub fn chain(id: &str, nodes: usize, handler: &str) -> serde_json::Value {
    let node = |n: usize| {
        json!({"id": format!("n{n}"), "type": "function", "name": format!("n{n}"), "data": {"handlerId": handler},
               "dependencies": [], "position": {"x": 0, "y": 0}})
    };
    let edge = |n: usize| json!({"id": format!("e{n}"), "source": format!("n{n}"), "target": format!("n{}", n + 1), "type": "success"});
    let nodes_json: Vec<_> = (0..nodes).map(node).collect();
    let edges: Vec<_> = (0..nodes - 1).map(edge).collect();
    json!({"id": id, "name": id, "version": 1, "nodes": nodes_json, "edges": edges})
}

//! Compiled workflow versions, bounded in number.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use troupe_core::WorkflowId;
use troupe_core::control::ControlKey;
use troupe_core::plan::{CoreMutants, Plan};
use troupe_ports::{DefinitionStore, StoredDefinition};
use troupe_telemetry::CacheMetrics;

use super::{CompiledPlan, RunningAttempts};
use crate::error::EngineError;
use crate::resume::ResumeLinks;

/// Between a workflow's id and the node whose body is meant; no workflow's id holds it.
pub(crate) const BODY_OF: char = '#';

/// Gives compiled plans, from memory or from the definition store.
pub struct PlanCache {
    store: Arc<dyn DefinitionStore>,
    shards: u16,
    plans_max: usize,
    latest_ttl: Duration,
    resume_links: Option<Arc<ResumeLinks>>,
    mutants: CoreMutants,
    plans: DashMap<(WorkflowId, u32), Arc<CompiledPlan>>,
    latest: DashMap<WorkflowId, (Arc<CompiledPlan>, Instant)>,
    metrics: CacheMetrics,
    /// Of every version that is in use, also of those that were evicted.
    running: Mutex<Vec<Weak<RunningAttempts>>>,
}

impl PlanCache {
    /// An empty cache before `store`.
    #[must_use]
    pub fn new(store: Arc<dyn DefinitionStore>, shards: u16, plans_max: usize, latest_ttl: Duration) -> Self {
        Self {
            store,
            shards,
            plans_max,
            latest_ttl,
            resume_links: None,
            mutants: CoreMutants::default(),
            plans: DashMap::new(),
            latest: DashMap::new(),
            metrics: CacheMetrics::new("plan"),
            running: Mutex::default(),
        }
    }

    /// Gives expressions the addresses of waiting nodes.
    #[must_use]
    pub fn with_resume_links(self, resume_links: Option<Arc<ResumeLinks>>) -> Self {
        Self { resume_links, ..self }
    }

    /// Plants faults. Tests only.
    #[must_use]
    pub fn with_mutants(self, mutants: CoreMutants) -> Self {
        Self { mutants, ..self }
    }

    /// The version to start: the one asked for, or the latest.
    ///
    /// # Errors
    /// [`EngineError::WorkflowNotFound`], [`EngineError::VersionNotFound`], [`EngineError::WorkflowArchived`],
    /// [`EngineError::NotExecutable`], [`EngineError::Unavailable`].
    pub async fn to_start(&self, workflow: &str, version: Option<u32>) -> Result<Arc<CompiledPlan>, EngineError> {
        if let Some(known) = self.latest.get(workflow)
            && known.1.elapsed() < self.latest_ttl
            && version.is_none_or(|version| version == known.0.plan.version)
        {
            self.metrics.looked_up(true);
            return Ok(Arc::clone(&known.0));
        }
        let latest = self.store.get(workflow, None).await?;
        let latest = latest.ok_or_else(|| EngineError::WorkflowNotFound(workflow.to_owned()))?;
        if latest.archived {
            return Err(EngineError::WorkflowArchived(workflow.to_owned()));
        }
        let compiled = self.compile(&latest)?;
        self.bound();
        self.latest
            .insert(latest.workflow.clone(), (Arc::clone(&compiled), Instant::now()));
        match version {
            Some(version) if version != latest.version => self.version(workflow, version).await,
            _ => Ok(compiled),
        }
    }

    /// A version that an execution runs.
    ///
    /// # Errors
    /// As [`PlanCache::to_start`]; archived workflows are given too.
    pub async fn version(&self, workflow: &str, version: u32) -> Result<Arc<CompiledPlan>, EngineError> {
        let key = (WorkflowId::from(workflow), version);
        if let Some(known) = self.plans.get(&key) {
            self.metrics.looked_up(true);
            return Ok(Arc::clone(&known));
        }
        if workflow.contains(BODY_OF) {
            return self.body(workflow, version).await;
        }
        let missing = || EngineError::VersionNotFound {
            workflow: workflow.to_owned(),
            version,
        };
        let stored = self.store.get(workflow, Some(version)).await?.ok_or_else(missing)?;
        self.compile(&stored)
    }

    /// The body of a node of a workflow version: a workflow of its own.
    async fn body(&self, workflow: &str, version: u32) -> Result<Arc<CompiledPlan>, EngineError> {
        let not_executable = |reason: &str| EngineError::NotExecutable {
            workflow: workflow.to_owned(),
            reason: reason.to_owned(),
        };
        let mut names = workflow.split(BODY_OF);
        let outer = names.next().unwrap_or_default();
        let missing = || EngineError::VersionNotFound {
            workflow: outer.to_owned(),
            version,
        };
        let mut stored = self.store.get(outer, Some(version)).await?.ok_or_else(missing)?;
        for name in names {
            let body = stored.definition.body_of(name);
            let mut body = body.ok_or_else(|| not_executable("the node has no body"))?;
            // What is published of its children is for the workflow around it to say.
            if let Some(events) = stored.definition.settings.get("events") {
                body.settings.entry("events").or_insert_with(|| events.clone());
            }
            stored.definition = Arc::new(body);
        }
        Arc::make_mut(&mut stored.definition).id = workflow.to_owned();
        stored.workflow = workflow.into();
        self.compile(&stored)
    }

    /// Attempts in a control's scope that run.
    #[must_use]
    pub fn draining(&self, key: &ControlKey) -> u32 {
        let running = self.running.lock();
        running
            .iter()
            .filter_map(Weak::upgrade)
            .map(|one| one.within(key))
            .sum()
    }

    /// Forgets which version of a workflow is the latest.
    pub fn forget_latest(&self, workflow: &str) {
        self.latest.remove(workflow);
    }

    /// Compiled versions that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Sets the gauge of entries.
    pub(crate) fn sample(&self) {
        self.metrics.entries(self.plans.len());
    }

    fn compile(&self, stored: &StoredDefinition) -> Result<Arc<CompiledPlan>, EngineError> {
        let key = (stored.workflow.clone(), stored.version);
        let known = self.plans.get(&key).map(|known| Arc::clone(&known));
        self.metrics.looked_up(known.is_some());
        if let Some(known) = known {
            return Ok(known);
        }
        let not_executable = |reason: String| EngineError::NotExecutable {
            workflow: stored.workflow.as_str().to_owned(),
            reason,
        };
        let mut plan = Plan::build(&stored.definition).map_err(|error| not_executable(error.to_string()))?;
        plan.version = stored.version;
        plan.mutants = self.mutants;
        let compiled = CompiledPlan::compile(Arc::new(plan), self.shards).map_err(not_executable)?;
        let compiled = Arc::new(compiled.with_resume_links(self.resume_links.clone()));
        self.bound();
        {
            let mut running = self.running.lock();
            running.retain(|one| one.strong_count() > 0);
            running.push(Arc::downgrade(compiled.running()));
        }
        self.plans.insert(key, Arc::clone(&compiled));
        Ok(compiled)
    }

    /// Evicts anything when full: a plan costs one read and one compilation to get back.
    fn bound(&self) {
        if self.plans.len() >= self.plans_max {
            let victim = self.plans.iter().next().map(|entry| entry.key().clone());
            victim.map(|key| self.plans.remove(&key));
        }
        if self.latest.len() >= self.plans_max {
            let victim = self.latest.iter().next().map(|entry| entry.key().clone());
            victim.map(|key| self.latest.remove(&key));
        }
    }
}

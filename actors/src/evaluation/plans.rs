//! Compiled workflow versions, bounded in number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use troupe_core::WorkflowId;
use troupe_core::plan::Plan;
use troupe_ports::{DefinitionStore, StoredDefinition};

use super::CompiledPlan;
use crate::error::EngineError;

/// Gives compiled plans, from memory or from the definition store.
pub struct PlanCache {
    store: Arc<dyn DefinitionStore>,
    shards: u16,
    plans_max: usize,
    latest_ttl: Duration,
    plans: DashMap<(WorkflowId, u32), Arc<CompiledPlan>>,
    latest: DashMap<WorkflowId, (Arc<CompiledPlan>, Instant)>,
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
            plans: DashMap::new(),
            latest: DashMap::new(),
        }
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
            return Ok(Arc::clone(&known));
        }
        let missing = || EngineError::VersionNotFound {
            workflow: workflow.to_owned(),
            version,
        };
        let stored = self.store.get(workflow, Some(version)).await?.ok_or_else(missing)?;
        self.compile(&stored)
    }

    /// Forgets which version of a workflow is the latest.
    pub fn forget_latest(&self, workflow: &str) {
        self.latest.remove(workflow);
    }

    fn compile(&self, stored: &StoredDefinition) -> Result<Arc<CompiledPlan>, EngineError> {
        let key = (stored.workflow.clone(), stored.version);
        if let Some(known) = self.plans.get(&key) {
            return Ok(Arc::clone(&known));
        }
        let not_executable = |reason: String| EngineError::NotExecutable {
            workflow: stored.workflow.as_str().to_owned(),
            reason,
        };
        let mut plan = Plan::build(&stored.definition).map_err(|error| not_executable(error.to_string()))?;
        plan.version = stored.version;
        let compiled = CompiledPlan::compile(Arc::new(plan), self.shards).map_err(not_executable)?;
        let compiled = Arc::new(compiled);
        self.bound();
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

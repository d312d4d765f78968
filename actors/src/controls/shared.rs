//! A shard's controls as they are in force: what attempts pass and executions look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;
use troupe_core::control::{ControlEntry, ControlKey, ControlSet, ControlsSeen, Scope};
use troupe_core::execution::ExecutionState;
use troupe_core::plan::Plan;
use troupe_core::{NodeIx, Seq, Timestamp, WorkflowId};

use crate::error::EngineError;
use crate::options::Mutants;
use crate::request::Held;

/// The durable controls of one shard.
#[derive(Debug)]
pub struct ShardControls {
    current: RwLock<Current>,
    version: AtomicU64,
    changed: watch::Sender<u64>,
    mutants: Mutants,
}

#[derive(Debug, Default)]
struct Current {
    set: Arc<ControlSet>,
    holds: bool,
    holds_everything: bool,
}

impl Default for ShardControls {
    fn default() -> Self {
        Self {
            current: RwLock::default(),
            version: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            mutants: Mutants::default(),
        }
    }
}

impl ShardControls {
    /// With these faults planted.
    #[must_use]
    pub fn with(self, mutants: Mutants) -> Self {
        Self { mutants, ..self }
    }

    /// Changes with every entry; 0 where there never was one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The controls.
    #[must_use]
    pub fn set(&self) -> Arc<ControlSet> {
        Arc::clone(&self.current.read().set)
    }

    /// Puts what the store and the log know in force.
    pub fn restore(&self, set: ControlSet) {
        // Where there never was a control nobody need look.
        if set.seq().0 > 0 {
            self.replace(|known| *known = set);
        }
    }

    /// Puts a durable entry in force. Whoever passed [`ShardControls::enter`] before has started; nobody else does once this
    /// returned.
    pub fn apply(&self, entry: &ControlEntry) {
        self.replace(|known| known.apply(entry));
    }

    fn replace(&self, change: impl FnOnce(&mut ControlSet)) {
        let version = {
            let mut current = self.current.write();
            change(Arc::make_mut(&mut current.set));
            current.holds = !current.set.holds_nothing();
            let everything = current.set.holding().any(|(_, scope, _)| *scope == Scope::All);
            current.holds_everything = everything;
            self.version.fetch_add(1, Ordering::AcqRel) + 1
        };
        self.changed.send_replace(version);
    }

    /// Why no execution of a workflow may start, if none may.
    #[must_use]
    pub fn stop_of(&self, workflow: &WorkflowId) -> Option<EngineError> {
        let current = self.current.read();
        let (scope, stop) = current.holds.then(|| current.set.stop_of(workflow))??;
        Some(EngineError::Stopped {
            scope: scope.clone(),
            reason: stop.reason.clone(),
        })
    }

    /// What a new execution begins under, if something holds it.
    #[must_use]
    pub fn at_start(&self, plan: &Plan, now: Timestamp) -> Option<Box<ControlsSeen>> {
        let current = self.current.read();
        let seen = current.holds.then(|| current.set.news_at_start(plan, now))??;
        Some(Box::new(seen))
    }

    /// What an execution must learn before it steps, where it has not looked since: `known` is the version that it saw last.
    #[must_use]
    pub fn news(&self, known: &mut u64, plan: &Plan, state: &ExecutionState, now: Timestamp) -> Option<ControlsSeen> {
        let version = self.version();
        // One that has ended may be reopened: it has not looked.
        if version == *known || state.seq == Seq(0) || state.status.is_terminal() {
            return None;
        }
        *known = version;
        self.set().news_for(plan, state, now)
    }

    /// What holds an execution, or a node of it that has not ended.
    #[must_use]
    pub fn holding(&self, plan: &Plan, state: &ExecutionState) -> Vec<Held> {
        let set = self.set();
        let held = set.holding_execution(plan, state).map(|(key, scope, register)| Held {
            is_stop: matches!(key, ControlKey::Stop(_)),
            scope: scope.clone(),
            at: register.at,
            principal: register.principal.clone(),
            reason: register.reason.clone(),
        });
        held.collect()
    }

    /// Whether a control holds every execution.
    #[must_use]
    pub fn hold_everything(&self) -> bool {
        self.current.read().holds_everything
    }

    /// Runs `start` unless a control holds attempts of the node: no control can come in between.
    pub fn enter<T>(&self, plan: &Plan, node: NodeIx, start: impl FnOnce() -> T) -> Option<T> {
        let current = self.current.read();
        let is_held = current.holds && current.set.holds_attempt(plan, node) && !self.mutants.no_door;
        (!is_held).then(start)
    }

    /// Waits until attempts of the node may start again. Cancel-safe.
    pub async fn let_pass(&self, plan: &Plan, node: NodeIx) {
        let mut changed = self.changed.subscribe();
        while self.enter(plan, node, || ()).is_none() {
            // The sender is part of this and cannot be gone.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

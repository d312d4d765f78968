//! Messages of a broker that start executions: event triggers.
//!
//! Each trigger of the latest version of a workflow has a durable queue, which every member consumes. A message is accepted once
//! the execution that it starts is durable; one that can never start anything is set aside with the reason.

mod binding;
mod consume;
mod message;
mod misfit;
mod trigger;
mod unheard;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::task::AbortHandle;
use troupe_core::WorkflowId;
use troupe_ports::{DefinitionError, StoredDefinition};
use troupe_telemetry::TriggerMetrics;

pub(crate) use binding::Binding;
use consume::consume;
use misfit::Misfit;
pub(crate) use misfit::{EVENT_TRIGGER_MISFIT, misfits};
use trigger::{Trigger, triggers_of};
pub(crate) use unheard::{EVENT_TRIGGER_UNHEARD, tell_unheard, unheard};

use crate::app::App;
use crate::wiring::TriggerSources;

/// How often definitions are read again: what another member stored is found by then.
const READ_EVERY: Duration = Duration::from_secs(10);
/// The same where nobody else stores any.
const READ_EVERY_ALONE: Duration = Duration::from_secs(60);
/// Definitions read at once.
const PAGE: usize = 200;
/// Versions that are looked back at for bindings which nobody may have taken away.
const LOOK_BACK: u32 = 50;

/// A trigger whose messages are taken.
struct Running {
    /// As the latest version has it.
    trigger: Arc<RwLock<Arc<Trigger>>>,
    binding: Binding,
    prefetch: u16,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes the messages of every event trigger until the process shuts down.
pub(crate) async fn run(app: App, sources: TriggerSources) {
    let mut desk = Desk {
        running: BTreeMap::new(),
        versions: HashMap::new(),
        released: Vec::new(),
        told: BTreeMap::new(),
        metrics: Arc::new(TriggerMetrics::new()),
    };
    let every = if app.members.is_some() {
        READ_EVERY
    } else {
        READ_EVERY_ALONE
    };
    loop {
        if let Err(error) = desk.follow(&app, &sources).await {
            tracing::warn!(%error, "event triggers stay as they are: the definitions cannot be read");
        }
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = app.definitions_changed.notified() => {}
            () = tokio::time::sleep(every) => {}
        }
    }
}

struct Desk {
    /// By the name of the queue.
    running: BTreeMap<String, Running>,
    /// The version of each workflow that was looked at, and whether it is archived.
    versions: HashMap<WorkflowId, (u32, bool)>,
    /// Bindings that are to go.
    released: Vec<Binding>,
    /// Those that do not fit the exchange, or not wholly, by the name of the queue: they were told.
    told: BTreeMap<String, Binding>,
    metrics: Arc<TriggerMetrics>,
}

impl Desk {
    /// Brings what is taken in line with the definitions.
    async fn follow(&mut self, app: &App, sources: &TriggerSources) -> Result<(), DefinitionError> {
        let mut wanted: BTreeMap<String, Arc<Trigger>> = BTreeMap::new();
        let mut misfits: Vec<(Arc<Trigger>, Misfit)> = Vec::new();
        let own_type = sources.own_type();
        let mut after: Option<WorkflowId> = None;
        loop {
            let page = app
                .definitions
                .list(after.as_ref().map(WorkflowId::as_str), PAGE)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.workflow.clone());
            for stored in &page {
                let triggers = triggers_of(stored, sources.prefix());
                self.look_back(app, sources, stored, &triggers).await?;
                for trigger in triggers.into_iter().filter(|_| !stored.archived) {
                    let misfit = own_type.and_then(|own| trigger.binding.misfit(own));
                    if misfit.is_none_or(|misfit| misfit.is_partial) {
                        wanted.insert(trigger.binding.queue.clone(), Arc::clone(&trigger));
                    }
                    misfits.extend(misfit.map(|misfit| (trigger, misfit)));
                }
            }
        }
        self.running.retain(|queue, running| {
            let stays = wanted.contains_key(queue);
            if !stays {
                tracing::info!(queue, "the trigger is gone: its messages are taken no more");
                self.released.push(running.binding.clone());
            }
            stays
        });
        for (queue, trigger) in wanted {
            self.take(app, sources, queue, trigger);
        }
        self.tell(misfits);
        self.release(sources).await;
        Ok(())
    }

    /// Says once of each what does not fit. The queue of one whose messages are not taken, if there is one, is bound no more: nobody would read it.
    fn tell(&mut self, misfits: Vec<(Arc<Trigger>, Misfit)>) {
        let mut told = BTreeMap::new();
        for (trigger, misfit) in misfits {
            let (binding, node) = (&trigger.binding, &trigger.node);
            if self.told.get(&binding.queue) != Some(binding) {
                let (code, workflow) = (EVENT_TRIGGER_MISFIT, &trigger.workflow);
                let Misfit { is_partial, why, hint } = misfit;
                if is_partial {
                    tracing::warn!(code, %workflow, node, why, hint, "not all that a trigger asks for is heard");
                } else {
                    tracing::error!(code, %workflow, node, why, hint, "the messages of a trigger are not taken");
                    self.released.push(binding.clone());
                }
            }
            told.insert(binding.queue.clone(), binding.clone());
        }
        self.told = told;
    }

    /// Notes the bindings of versions that another process may have taken messages for, and that are not wanted any more: all members
    /// may have been down while they changed.
    async fn look_back(
        &mut self,
        app: &App,
        sources: &TriggerSources,
        stored: &StoredDefinition,
        triggers: &[Arc<Trigger>],
    ) -> Result<(), DefinitionError> {
        let now = (stored.version, stored.archived);
        let seen = self.versions.get(&stored.workflow).copied();
        if seen == Some(now) {
            return Ok(());
        }
        if stored.archived {
            self.released
                .extend(triggers.iter().map(|trigger| trigger.binding.clone()));
        }
        let oldest = seen.map_or_else(
            || stored.version.saturating_sub(LOOK_BACK).max(1),
            |(version, _)| version,
        );
        for number in (oldest..stored.version).rev() {
            let before = app.definitions.get(stored.workflow.as_str(), Some(number)).await?;
            let before = before.map(|before| triggers_of(&before, sources.prefix()));
            let before = before.unwrap_or_default();
            for old in &before {
                let new = triggers.iter().find(|new| new.binding.queue == old.binding.queue);
                let kept = new.filter(|_| !stored.archived).map(|new| &new.binding);
                self.released.extend(old.binding.without(kept));
            }
            // Most workflows never had such a trigger: one look is enough for them.
            if triggers.is_empty() && before.is_empty() {
                break;
            }
        }
        self.versions.insert(stored.workflow.clone(), now);
        Ok(())
    }

    fn take(&mut self, app: &App, sources: &TriggerSources, queue: String, trigger: Arc<Trigger>) {
        if let Some(running) = self.running.get(&queue) {
            if running.binding == trigger.binding && running.prefetch == trigger.prefetch && !running.task.is_finished()
            {
                *running.trigger.write() = trigger;
                return;
            }
            self.released.extend(running.binding.without(Some(&trigger.binding)));
        }
        let source = match sources.open(&trigger.binding, trigger.prefetch) {
            Ok(source) => source,
            Err(error) => {
                tracing::error!(queue, %error, "the messages of a trigger cannot be taken");
                return;
            }
        };
        tracing::info!(queue, workflow = %trigger.workflow, node = trigger.node, "takes the messages of a trigger");
        let (binding, prefetch) = (trigger.binding.clone(), trigger.prefetch);
        let shared = Arc::new(RwLock::new(trigger));
        let metrics = Arc::clone(&self.metrics);
        let task = tokio::spawn(consume(app.clone(), source, Arc::clone(&shared), metrics));
        let running = Running {
            trigger: shared,
            binding,
            prefetch,
            task: task.abort_handle(),
        };
        self.running.insert(queue, running);
    }

    /// What cannot be released now is tried again the next time.
    async fn release(&mut self, sources: &TriggerSources) {
        let mut going: Vec<Binding> = Vec::new();
        for binding in std::mem::take(&mut self.released) {
            let in_force = self.running.get(&binding.queue).map(|running| &running.binding);
            let Some(binding) = binding.without(in_force) else {
                continue;
            };
            if !going.iter_mut().any(|other| other.merge(&binding)) {
                going.push(binding);
            }
        }
        let mut left = Vec::new();
        for binding in going {
            if let Err(error) = sources.release(&binding).await {
                tracing::warn!(queue = binding.queue, %error, "a queue stays bound for now");
                left.push(binding);
            }
        }
        self.released = left;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use troupe_core::definition::ExchangeType;
    use troupe_core::{Json, Timestamp};

    use super::*;

    #[test]
    fn what_does_not_fit_at_all_is_unbound_once_and_what_fits_in_part_stays() {
        let listens = |id: &str, keys: &[&str]| {
            let config = json!({"routingKey": keys});
            json!({"id": id, "type": "trigger", "data": {"triggerType": "event", "config": config}})
        };
        let nodes = [
            listens("part", &["orders.execution.failed", "*.failed"]),
            listens("none", &["*.failed"]),
        ];
        let definition = json!({"id": "w", "name": "W", "version": 1, "nodes": nodes, "edges": []});
        let stored = StoredDefinition {
            workflow: WorkflowId::from("w"),
            version: 1,
            definition: Arc::new(serde_json::from_value(definition).unwrap()),
            analysis: Json::null(),
            stored_at: Timestamp(0),
            archived: false,
        };
        let mut desk = Desk {
            running: BTreeMap::new(),
            versions: HashMap::new(),
            released: Vec::new(),
            told: BTreeMap::new(),
            metrics: Arc::new(TriggerMetrics::new()),
        };
        // As often as the definitions are read.
        for _ in 0..2 {
            let triggers = triggers_of(&stored, "troupe").into_iter();
            let misfits = triggers.map(|trigger| {
                let misfit = trigger.binding.misfit(ExchangeType::Direct).unwrap();
                (trigger, misfit)
            });
            desk.tell(misfits.collect());
            assert_eq!(desk.told.len(), 2);
            let released: Vec<&str> = desk.released.iter().map(|binding| &*binding.queue).collect();
            assert_eq!(released, ["troupe.trigger.w.none"]);
        }
    }
}

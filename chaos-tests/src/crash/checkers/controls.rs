//! Controls of a wider scope: what executions knew of them, and for how long those held them back.

use std::collections::BTreeMap;

use troupe_core::control::{Clocks, ControlEntry, ControlKey, ControlsSeen, Scope, Setting};
use troupe_core::execution::{Entry, Event};
use troupe_core::plan::Plan;
use troupe_core::{CommandId, ExecutionId, Seq, ShardId, Timestamp};

use super::LATE_HEALTHY_MS;
use crate::reference::{self, Control, Reference};

/// Everything of controls that is known in the end.
#[derive(Debug, Default)]
pub struct Controls {
    /// Every entry of each shard's controls, in the order of its log.
    pub entries: BTreeMap<ShardId, Vec<ControlEntry>>,
    /// When a control held an execution or a node of it, in order and apart from each other.
    pub held: BTreeMap<ExecutionId, Vec<(Timestamp, Timestamp)>>,
    /// What executions knew of them is what their own entries say: nobody watched how they learned.
    pub by_entries: bool,
    /// Before which entry, and when, an execution looked, and up to which entry of its shard's controls it saw.
    looks: BTreeMap<ExecutionId, Vec<(Seq, Timestamp, Seq)>>,
}

impl Controls {
    /// An execution that is about to make entry `next` has seen its shard's controls up to `seen`.
    pub fn looked(&mut self, id: ExecutionId, next: Seq, at: Timestamp, seen: Seq) {
        self.looks.entry(id).or_default().push((next, at, seen));
    }

    /// Up to which entry of its shard's controls an execution knew when it made an entry.
    fn known(&self, id: ExecutionId, entry: &Entry) -> Seq {
        let looks = self.looks.get(&id).into_iter().flatten();
        let before = looks.filter(|(next, at, _)| *next <= entry.seq && *at <= entry.at);
        before.map(|(.., seen)| *seen).max().unwrap_or_default()
    }

    /// When something that is due then could happen at the earliest, since controls held it back.
    pub(super) fn released(&self, id: ExecutionId, due: Timestamp) -> Timestamp {
        let held = self.held.get(&id).into_iter().flatten();
        held.fold(due, |due, (from, until)| {
            let is_held = *from <= due.plus_ms(LATE_HEALTHY_MS) && due <= *until;
            if is_held { *until } else { due }
        })
    }

    /// Whether some clock stood of an execution that was held: only the reference knows when what is due then.
    pub(super) fn may_have_stood(&self, id: ExecutionId) -> bool {
        let freezes = |entry: &ControlEntry| entry.setting == Some(Setting::Paused { clocks: Clocks::Freeze });
        let entries = self.entries.get(&id.shard());
        self.held.contains_key(&id) && entries.is_some_and(|entries| entries.iter().any(freezes))
    }
}

/// The latest command on each control.
type Latest<'a> = BTreeMap<&'a ControlKey, (Timestamp, &'a CommandId)>;

/// The later command wins; one that comes after a later one changes nothing.
fn is_news<'a>(latest: &mut Latest<'a>, entry: &'a ControlEntry) -> bool {
    let known = latest.get(&entry.key);
    let is_news = known.is_none_or(|known| *known < (entry.at, &entry.command));
    if is_news {
        latest.insert(&entry.key, (entry.at, &entry.command));
    }
    is_news
}

/// Tells the reference of an execution what that knew.
pub(super) struct Teller<'a> {
    controls: &'a Controls,
    id: ExecutionId,
    told: usize,
    /// Whether its own entries have said that something holds it.
    was_held: bool,
    latest: Latest<'a>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(controls: &'a Controls, id: ExecutionId) -> Self {
        Self {
            controls,
            id,
            told: 0,
            was_held: false,
            latest: BTreeMap::new(),
        }
    }

    /// Tells whatever the execution had seen before it made an entry.
    pub(super) fn tell(&mut self, entry: &Entry, plan: &Plan, reference: &mut Reference) {
        if self.controls.by_entries {
            return self.tell_seen(entry, plan, reference);
        }
        let Some(entries) = self.controls.entries.get(&self.id.shard()) else {
            return;
        };
        let known = self.controls.known(self.id, entry);
        while let Some(control) = entries.get(self.told).filter(|control| control.seq <= known) {
            self.told += 1;
            let (ControlKey::Pause(scope) | ControlKey::Stop(scope)) = &control.key else {
                continue;
            };
            if is_news(&mut self.latest, control) {
                let is_stop = matches!(control.key, ControlKey::Stop(_));
                reference.controlled(
                    control.at.0,
                    &in_reference(scope),
                    is_stop,
                    control.setting.and_then(does),
                );
            }
        }
    }

    /// Tells what an entry says that its execution has learned.
    fn tell_seen(&mut self, entry: &Entry, plan: &Plan, reference: &mut Reference) {
        let nothing = ControlsSeen::default();
        let seen: &ControlsSeen = match &entry.event {
            Event::ControlsChanged(seen) => seen,
            Event::Started(started) | Event::Queued(started) => started.controls.as_deref().unwrap_or(&nothing),
            Event::Reopened(reopened) => reopened.controls.as_deref().unwrap_or(&nothing),
            _ => return,
        };
        let is_held = seen.whole || !seen.nodes.is_empty();
        let was_held = std::mem::replace(&mut self.was_held, is_held);
        if !is_held && !was_held {
            return;
        }
        let workflow = plan.workflow.to_string();
        let pause = |is_held: bool| is_held.then_some(Control::Pause);
        let whole = reference::Scope::Workflow(workflow.clone());
        reference.controlled(entry.at.0, &whole, false, pause(seen.whole));
        for (place, node) in plan.nodes.iter().enumerate() {
            let is_held = seen.nodes.iter().any(|ix| ix.at() == place);
            let scope = reference::Scope::Node {
                workflow: workflow.clone(),
                node: node.key.to_string(),
            };
            reference.controlled(entry.at.0, &scope, false, pause(is_held));
        }
    }
}

fn in_reference(scope: &Scope) -> reference::Scope {
    match scope {
        Scope::All => reference::Scope::All,
        Scope::Workflow(workflow) => reference::Scope::Workflow(workflow.to_string()),
        Scope::Node { workflow, node } => reference::Scope::Node {
            workflow: workflow.to_string(),
            node: node.to_string(),
        },
        Scope::NodeType(kind) => reference::Scope::NodeType(kind.clone()),
    }
}

fn does(setting: Setting) -> Option<Control> {
    match setting {
        Setting::Paused { clocks: Clocks::Run } => Some(Control::Pause),
        Setting::Paused { clocks: Clocks::Freeze } => Some(Control::Freeze),
        Setting::Stopped { .. } => Some(Control::Stop),
        Setting::Breaker(_) => None,
    }
}

//! What controls must hold, by the words of operators and the names in definitions: nothing of it takes effect.

use std::collections::{BTreeMap, BTreeSet};

use troupe_actors::record::read_frames_of;
use troupe_core::control::{ControlEntry, ControlKey, Scope};
use troupe_core::{ExecutionId, ShardId, Timestamp};

use super::World;
use super::process::{ProcessNo, Serving};
use crate::crash::Violation;

/// What is held.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// Controls that were acknowledged, and in which shards; none that somebody has asked to lift since.
    for_sure: BTreeMap<ControlKey, BTreeSet<ShardId>>,
    /// Controls in force, and since when.
    since: BTreeMap<(ShardId, ControlKey), Timestamp>,
    /// Controls that were in force, from when to when.
    spans: Vec<(ShardId, ControlKey, Timestamp, Timestamp)>,
}

/// Whether a scope holds something of a workflow, or of one of its nodes.
fn covers(key: &ControlKey, workflow: &str, node: &str, kind: &str) -> bool {
    let (ControlKey::Pause(scope) | ControlKey::Stop(scope)) = key else {
        return false;
    };
    match scope {
        Scope::All => true,
        // A body is part of the workflow that it is written in.
        Scope::Workflow(named) => outer(workflow) == named.as_str(),
        Scope::Node {
            workflow: named,
            node: of,
        } => {
            let body = format!("{named}#{of}");
            let is_it = named.as_str() == workflow && of.as_str() == node;
            is_it || workflow == body || workflow.starts_with(&format!("{body}#"))
        }
        Scope::NodeType(named) => named == kind,
    }
}

fn outer(workflow: &str) -> &str {
    workflow.split_once('#').map_or(workflow, |(outer, _)| outer)
}

/// Whether a scope may hold something of an execution.
fn concerns(key: &ControlKey, workflow: &str) -> bool {
    let (ControlKey::Pause(scope) | ControlKey::Stop(scope)) = key else {
        return false;
    };
    match scope {
        Scope::All | Scope::NodeType(_) => true,
        Scope::Workflow(named) | Scope::Node { workflow: named, .. } => outer(workflow) == named.as_str(),
    }
}

impl World {
    /// A word was acknowledged by these shards.
    pub(super) fn in_force_for_sure(&mut self, key: &ControlKey, reached: &BTreeSet<ShardId>) {
        self.note(format_args!("{key:?} is in force in {reached:?}"));
        self.holding.for_sure.entry(key.clone()).or_default().extend(reached);
    }

    /// Somebody is about to ask that a control be lifted: from here on it may be.
    pub(super) fn lift_asked(&mut self, key: &ControlKey) {
        self.note(format_args!("{key:?} is to be lifted"));
        self.holding.for_sure.remove(key);
    }

    /// An entry of a shard's controls is durable and obeyed: with it a control stands so.
    pub(super) fn note_held(&mut self, shard: ShardId, key: &ControlKey, is_in_force: bool) {
        let (place, now) = ((shard, key.clone()), self.now);
        if is_in_force {
            self.holding.since.entry(place).or_insert(now);
        } else if let Some(since) = self.holding.since.remove(&place) {
            self.holding.spans.push((shard, place.1, since, now));
        }
    }

    /// An attempt takes effect: no acknowledged control holds it.
    pub(super) fn expect_free(&mut self, process: ProcessNo, number: u64) {
        let state = self.processes.get(&process);
        let Some(attempt) = state.and_then(|state| state.attempts.get(&number)) else {
            return;
        };
        let (id, node, kind) = (attempt.id, attempt.node.as_str(), attempt.place.kind().as_str());
        let workflow = self.workflows.get(&id).map_or("", String::as_str);
        let mut held = self.holding.for_sure.iter();
        let guarded = &attempt.guarded;
        // Who was let go before its breaker was opened by hand may still be on its way.
        let holds = |key: &ControlKey| match key {
            ControlKey::Breaker(target) => guarded.target() == Some(target) && !guarded.is_canary(),
            ControlKey::Pause(_) | ControlKey::Stop(_) => covers(key, workflow, node, kind),
        };
        let by = held.find(|(key, shards)| shards.contains(&id.shard()) && holds(key));
        if let Some((key, _)) = by {
            let what = format!("{id}: {node} took effect although {key:?} was acknowledged");
            self.evidence.seen.push(Violation { invariant: "C9", what });
        }
    }

    /// An entry of a shard's controls, as the log has it.
    pub(super) fn note_control(&mut self, shard: ShardId, frame: &[u8]) {
        for entry in read_frames_of::<ControlEntry>(frame) {
            match entry {
                Ok(entry) => self.evidence.controls.entries.entry(shard).or_default().push(entry),
                Err(error) => self.trouble(format!("a control of shard {shard}: {error}")),
            }
        }
    }

    /// For how long each execution was held back by controls.
    pub(super) fn note_holds(&mut self) {
        let Holding { since, spans, .. } = std::mem::take(&mut self.holding);
        let open = since
            .into_iter()
            .map(|((shard, key), since)| (shard, key, since, self.now));
        let mut all: Vec<_> = spans.into_iter().chain(open).collect();
        all.sort_unstable_by_key(|(.., since, until)| (*since, *until));
        let mut held: BTreeMap<ExecutionId, Vec<(Timestamp, Timestamp)>> = BTreeMap::new();
        for (id, workflow) in &self.workflows {
            let mine = all
                .iter()
                .filter(|(shard, key, ..)| *shard == id.shard() && concerns(key, workflow));
            for (.., since, until) in mine {
                let spans = held.entry(*id).or_default();
                match spans.last_mut() {
                    Some((_, last)) if *since <= *last => *last = (*last).max(*until),
                    _ => spans.push((*since, *until)),
                }
            }
        }
        self.evidence.controls.held = held;
    }

    /// Whether some shard obeys some control.
    pub(super) fn anything_held(&self) -> bool {
        let obeys = |serving: &Serving| serving.controls.in_force.set().in_force().next().is_some();
        let mut served = self.processes.values().flat_map(|process| process.shards.values());
        served.any(obeys)
    }
}

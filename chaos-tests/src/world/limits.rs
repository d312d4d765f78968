//! The limits' shell: leave to run is given by the engine's own limits of each process, and whether more run at once than
//! may is seen here, by what the definitions say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use troupe_actors::AttemptWait;
use troupe_actors::attempt::leave::{Leave, LeaveNeeds, Limits};
use troupe_actors::attempt::permits::Rank;
use troupe_actors::attempt::slots::SlotWanted;
use troupe_core::NodeIx;
use troupe_core::definition::NodeKind;
use troupe_core::execution::ExecutionState;
use troupe_core::plan::Plan;

use super::World;
use super::awaited::Awaited;
use super::process::{ProcessNo, Stage};
use super::schedule::Timed;
use crate::crash::Violation;

/// Attempts that run at once in a process: few, so that some wait for their turn.
pub(super) const PERMITS: usize = 4;
/// Attempts of this type that run at once in a process.
const OF_TYPE: (NodeKind, usize) = (NodeKind::Custom, 1);

/// Node types of which only so many attempts run at once.
pub(super) fn of_types() -> BTreeMap<NodeKind, usize> {
    BTreeMap::from([OF_TYPE])
}

/// An attempt's place in the lines for leave to run.
#[derive(Debug)]
pub(super) struct Place {
    needs: LeaveNeeds,
    wait: Option<Awaited<Leave>>,
    leave: Option<Leave>,
    waits_for: WaitsFor,
    /// Under what it counts while it runs, and how many may run then.
    counts: Vec<(String, usize)>,
    queue_timeout_ms: Option<u64>,
}

/// What an attempt waits for, while it does.
#[derive(Clone, Debug, Default)]
struct WaitsFor(Arc<Mutex<Option<AttemptWait>>>);

struct Waiting(WaitsFor);

impl WaitsFor {
    fn set(&self, what: Option<AttemptWait>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn get(&self) -> Option<AttemptWait> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Place {
    /// The place of an attempt of a node as it stands.
    pub(super) fn of(plan: &Plan, state: &ExecutionState, ix: NodeIx) -> Self {
        let planned = plan.node(ix);
        let rank = Rank {
            priority: state.priority,
            criticality: planned.criticality,
            depth: planned.depth,
        };
        Self {
            needs: LeaveNeeds {
                rank,
                kind: planned.kind,
                slot: SlotWanted::of(plan, state, ix),
            },
            wait: None,
            leave: None,
            waits_for: WaitsFor::default(),
            counts: counts(plan, state, ix),
            queue_timeout_ms: planned.queue_timeout_ms(state.node(ix).and_then(|node| node.data.as_ref())),
        }
    }

    /// Whether it has not asked yet, or was told that something is free.
    pub(super) fn may_move(&self) -> bool {
        self.wait.as_ref().is_none_or(Awaited::is_woken)
    }

    /// Moves on in the lines; whether it has leave to run now.
    pub(super) fn comes(&mut self, limits: &Arc<Limits>) -> bool {
        let wait = self.wait.get_or_insert_with(|| {
            let (limits, needs, waits_for) = (Arc::clone(limits), self.needs.clone(), self.waits_for.clone());
            Awaited::new(async move {
                let waits = |what| {
                    waits_for.set(Some(what));
                    Waiting(waits_for.clone())
                };
                limits.leave(&needs, waits).await
            })
        });
        if let Some(leave) = wait.poll() {
            (self.wait, self.leave) = (None, Some(leave));
        }
        self.leave.is_some()
    }

    /// Others may have its leave.
    pub(super) fn gives_back(&mut self) {
        self.leave = None;
    }

    /// What it waits for before it starts.
    pub(super) fn waits_for(&self) -> Option<AttemptWait> {
        self.waits_for.get()
    }

    /// Whether its node has a limit of its own.
    pub(super) fn has_slot(&self) -> bool {
        self.needs.slot.is_some() && self.leave.is_some()
    }

    /// How urgent it is.
    pub(super) fn rank(&self) -> Rank {
        self.needs.rank
    }

    /// The type of its node.
    pub(super) fn kind(&self) -> NodeKind {
        self.needs.kind
    }

    /// The longest wait for its turn.
    pub(super) fn queue_timeout_ms(&self) -> Option<u64> {
        self.queue_timeout_ms
    }
}

/// Under what attempts of a node count, read from its definition.
fn counts(plan: &Plan, state: &ExecutionState, ix: NodeIx) -> Vec<(String, usize)> {
    let (planned, workflow) = (plan.node(ix), plan.workflow.as_str());
    let mut counts = Vec::new();
    if planned.kind == OF_TYPE.0 {
        counts.push((format!("type {}", planned.kind.as_str()), OF_TYPE.1));
    }
    let Some(limit) = planned.data.get("concurrency") else {
        return counts;
    };
    let (outer, within) = workflow.split_once('#').unwrap_or((workflow, ""));
    let key = match state.node(ix).and_then(|node| node.concurrency_key.as_ref()) {
        Some(key) => format!("key {}", key.as_str()),
        None => format!("node {within}#{}", planned.key),
    };
    let among = match limit.get("scope").and_then(Value::as_str) {
        Some("execution") => state.id.to_string(),
        Some("global") => "all".to_owned(),
        _ => format!("workflow {outer}"),
    };
    let most = limit.get("limit").and_then(Value::as_u64).unwrap_or(0);
    counts.push((format!("{among}, {key}"), usize::try_from(most).unwrap_or(usize::MAX)));
    counts
}

impl World {
    /// An attempt runs from now on: no more than may, of whatever counts it.
    pub(super) fn count_together(&mut self, process: ProcessNo, number: u64) {
        let Some(state) = self.processes.get(&process) else {
            return;
        };
        let Some(started) = state.attempts.get(&number) else {
            return;
        };
        let mut crowded = Vec::new();
        for (what, _) in &started.place.counts {
            let running = state
                .attempts
                .values()
                .filter(|attempt| matches!(attempt.stage, Stage::Running(_)));
            let limits = running.flat_map(|attempt| attempt.place.counts.iter().filter(|(other, _)| other == what));
            let limits: Vec<usize> = limits.map(|(_, most)| *most).collect();
            // Nodes may disagree on the limit. The last one to come counted all others, whatever theirs is.
            for most in &limits {
                let narrow = limits.iter().filter(|other| *other <= most).count();
                if narrow > *most {
                    let (id, node) = (started.id, &started.node);
                    crowded.push(format!(
                        "{id}: {node} runs as one of {narrow} under {what}, which allows {most}"
                    ));
                }
            }
        }
        let has_slot = started.place.has_slot();
        for what in crowded {
            self.note(format_args!("{what}"));
            self.evidence.seen.push(Violation { invariant: "C6", what });
        }
        if has_slot {
            self.count("slots taken");
        }
    }

    /// The node allows an attempt to wait for its turn only so long.
    pub(super) fn begin_queue(&mut self, process: ProcessNo, number: u64) {
        let attempt = self
            .processes
            .get(&process)
            .and_then(|state| state.attempts.get(&number));
        if let Some(wait_ms) = attempt.and_then(|attempt| attempt.place.queue_timeout_ms()) {
            self.after(wait_ms, Timed::QueueTimeout(process, number));
        }
    }

    pub(super) fn queue_timeout(&mut self, process: ProcessNo, number: u64) {
        let attempt = self
            .processes
            .get(&process)
            .and_then(|state| state.attempts.get(&number));
        if attempt.is_some_and(|attempt| !matches!(attempt.stage, Stage::Running(_))) {
            self.count("queue timeouts");
            self.never_started(process, number, "QUEUE_TIMEOUT");
        }
    }
}

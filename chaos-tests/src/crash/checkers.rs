//! Checks the contract from recorded histories: what clients, effects and reads saw against what the log holds.

mod contents;
mod controls;
mod epochs;
mod events;
mod failures;
mod family;
mod keys;
mod lists;
mod reports;
mod rooms;
mod semantics;
mod stimuli;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use troupe_core::definition::WorkflowDefinition;
use troupe_core::execution::{Effect, Entry, Event, ExecutionState, Verb, invariants, replay};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, NodeIx, Timestamp};
use troupe_ports::ExecutionSummary;

use super::record::Record;
use super::workload::{self, delay_ms};
use crate::reference::UNDOES;
pub use contents::{Contents, blobs_of};
pub use controls::Controls;
pub use events::expected as expected_events;
pub(crate) use semantics::key_of;

/// How late a timer may fire in a healthy engine, in milliseconds.
const LATE_HEALTHY_MS: u64 = 1_000;

/// Everything known after the last restart.
#[derive(Debug, Default)]
pub struct Evidence {
    /// What was observed, in order, over all incarnations.
    pub records: Vec<Record>,
    /// Final state, plan and whole history of every execution that was acknowledged or seen to act.
    pub executions: BTreeMap<ExecutionId, (ExecutionState, Arc<Plan>, Vec<Entry>)>,
    /// Definitions of their workflows, by id; expressions in the language of the reference interpreter.
    pub definitions: BTreeMap<String, WorkflowDefinition>,
    /// Executions whose archive is gone: their state is that of their entries.
    pub forgotten: BTreeSet<ExecutionId>,
    /// Executions that may be forgotten: lists may show them no more.
    pub expired: BTreeSet<ExecutionId>,
    /// When the engine was down or recovering: from the kill to one second after the next readiness.
    pub outages: Vec<(Timestamp, Timestamp)>,
    /// How late a timer may fire that was due in an outage, in milliseconds; none: as late as [`Self::late_after_outages_ms`] lets it.
    pub late_in_outages_ms: Option<u64>,
    /// How long after an outage a timer may fire that was due in it, in milliseconds; none: any time after it.
    pub late_after_outages_ms: Option<u64>,
    /// When one execution alone could not act, as with outages: its actor had failed, or it was set aside.
    pub own_outages: BTreeMap<ExecutionId, Vec<(Timestamp, Timestamp)>>,
    /// Whether clocks were set back and forth: then instants do not say what came first.
    pub clocks_jump: bool,
    /// Whether members did not agree on the time for a while.
    pub clocks_differ: bool,
    /// What lists show in the end, where that is known.
    pub listed: Option<BTreeMap<ExecutionId, ExecutionSummary>>,
    /// What was seen to be broken while it happened.
    pub seen: Vec<Violation>,
    /// Controls of a wider scope.
    pub controls: Controls,
    /// Large values that the store keeps.
    pub contents: Contents,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which: `C1` to `C13`.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.invariant, self.what)
    }
}

/// Collects violations.
struct Findings(Vec<Violation>);

impl Findings {
    fn expect(&mut self, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation {
                invariant,
                what: what(),
            });
        }
    }
}

/// Every violation that the evidence shows.
#[must_use]
pub fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings(evidence.seen.clone());
    acknowledged_survives(evidence, &mut findings);
    for (id, (state, plan, entries)) in &evidence.executions {
        applied_exactly_once(*id, state, plan, entries, &mut findings);
        timers_fire_in_time(*id, plan, entries, evidence, &mut findings);
    }
    semantics::follows_the_reference(evidence, &mut findings);
    events::are_published(evidence, &mut findings);
    epochs::only_grow(evidence, &mut findings);
    keys::are_unique(evidence, &mut findings);
    contents::are_kept(evidence, &mut findings);
    rooms::hold_so_many(evidence, &mut findings);
    lists::show_the_end(evidence, &mut findings);
    reports::are_started_once(evidence, &mut findings);
    failures::are_bounded(evidence, &mut findings);
    effects_follow_commits(evidence, &mut findings);
    paused_means_paused(evidence, &mut findings);
    reads_never_go_back(evidence, &mut findings);
    findings.0
}

/// What of it holds even where a store has lost what it had acknowledged, and the shards that lost something are served no more: their
/// executions cannot be read.
#[must_use]
pub fn check_despite_loss(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings(evidence.seen.clone());
    epochs::stand_whatever_is_lost(evidence, &mut findings);
    failures::are_bounded(evidence, &mut findings);
    findings.0
}

/// C1: acknowledged starts and commands, those without effect too but for heartbeats, are in the log, and a key always gives the same execution.
fn acknowledged_survives(evidence: &Evidence, findings: &mut Findings) {
    let mut by_key: BTreeMap<&str, ExecutionId> = BTreeMap::new();
    for record in &evidence.records {
        match record {
            Record::StartAcked { key, id, .. } => {
                let first = *by_key.entry(key).or_insert(*id);
                findings.expect(first == *id, "C1", || format!("key {key} gave {first} and {id}"));
                let known = evidence.executions.contains_key(id);
                findings.expect(known, "C1", || {
                    format!("acknowledged start of {id} (key {key}) is gone")
                });
            }
            Record::CommandAcked {
                verb,
                id,
                command,
                unchanged,
                ..
            } => {
                let entries = evidence
                    .executions
                    .get(id)
                    .map(|(_, _, entries)| entries.as_slice())
                    .unwrap_or_default();
                let named = |entry: &&Entry| entry.command.as_ref().is_some_and(|known| known.as_str() == command);
                let times = entries.iter().filter(named).count();
                // One that nobody times leaves nothing.
                let may_be_missing = *unchanged && verb == "heartbeat";
                findings.expect(times == 1 || (may_be_missing && times == 0), "C1", || {
                    format!("acknowledged {verb} {command} of {id} is in the log {times} times")
                });
            }
            Record::Repeated { id, applied } => {
                findings.expect(!applied, "C2", || format!("{id} took a report twice"));
            }
            Record::Trouble { what } => findings.expect(false, "C12", || what.clone()),
            Record::Ready
            | Record::StartAsked { .. }
            | Record::Effect { .. }
            | Record::SlotUsed { .. }
            | Record::SlotLeft { .. }
            | Record::ResumeAsked { .. }
            | Record::ReopenAsked { .. }
            | Record::Read { .. }
            | Record::Published { .. }
            | Record::AcquireAsked { .. }
            | Record::AcquireRefused { .. }
            | Record::Acquired { .. }
            | Record::Appended { .. }
            | Record::Refused { .. }
            | Record::Fenced { .. }
            | Record::Restarted { .. }
            | Record::Panicked { .. }
            | Record::SetAside { .. }
            | Record::Counted { .. }
            | Record::Ruled { .. }
            | Record::FreeAsked { .. }
            | Record::KeyedAcked { .. } => {}
        }
    }
}

/// C2, C6 and C10: seqs without a gap, the fold is the state, one end a node, joins fire once, nothing after the end.
fn applied_exactly_once(
    id: ExecutionId,
    state: &ExecutionState,
    plan: &Plan,
    entries: &[Entry],
    findings: &mut Findings,
) {
    let mut folded = ExecutionState::new(plan, id);
    for (place, entry) in entries.iter().enumerate() {
        findings.expect(entry.seq.0 == place as u64 + 1, "C2", || {
            format!("{id}: entry {} at place {place}", entry.seq)
        });
        let ended = folded.status.is_terminal() && !entry.reopens();
        findings.expect(!ended, "C10", || format!("{id}: entry {} after the end", entry.seq));
        if let Err(error) = replay(plan, &mut folded, entry) {
            findings.expect(false, "C2", || {
                format!("{id}: entry {} does not replay: {error}", entry.seq)
            });
            return;
        }
    }
    findings.expect(folded.fingerprint() == state.fingerprint(), "C2", || {
        format!("{id}: folding gives another state")
    });
    findings.expect(state.status.is_terminal(), "C12", || {
        format!("{id}: {} after everything healed", state.status.name())
    });
    findings.expect(invariants::check(plan, &folded).is_ok(), "C2", || {
        format!("{id}: {:?}", invariants::check(plan, &folded))
    });
    let mut ends: BTreeMap<NodeIx, usize> = BTreeMap::new();
    for transition in entries.iter().flat_map(|entry| &entry.transitions) {
        let Some(node) = transition.node_ix() else { continue };
        if is_end(transition.verb()) {
            *ends.entry(node).or_default() += 1;
        }
    }
    for (node, times) in ends {
        let visits = match state.nodes.get(node.at()) {
            Some(node) => node.visit.0 as usize,
            None => undone(plan, state, node),
        };
        findings.expect(times == visits, "C2", || {
            format!("{id}: node {node} ended {times} times in {visits} visits")
        });
    }
    for (place, node) in state.nodes.iter().enumerate() {
        let fails_first = plan.nodes[place]
            .data
            .get("failFirst")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        for record in node.attempts.iter().filter(|record| !record.was_interrupted()) {
            let settled = match record.error.as_ref().map(|error| error.code.as_str()) {
                None => Some(false),
                Some("FLAKY") => Some(true),
                // A timeout or a panic says nothing of what the work would have given.
                Some(_) => None,
            };
            let fails = u64::from(record.attempt.0) <= fails_first;
            findings.expect(settled.is_none_or(|failed| failed == fails), "C2", || {
                format!(
                    "{id}: attempt {} of node {place} was closed by another one's report",
                    record.attempt
                )
            });
        }
    }
    dispatched_one_after_the_other(id, entries, findings);
}

/// How many visits of a node its compensation has undone, or failed to.
fn undone(plan: &Plan, state: &ExecutionState, compensation: NodeIx) -> usize {
    let visits = state.compensations.iter().flat_map(|all| &all.visits);
    let of_node = visits.filter(|visit| plan.node(visit.node).compensation == Some(compensation));
    let undoing = of_node.filter_map(|visit| visit.compensation.as_deref());
    undoing.filter(|undoing| undoing.phase.is_terminal()).count()
}

fn is_end(verb: Option<Verb>) -> bool {
    matches!(
        verb,
        Some(Verb::NodeCompleted | Verb::NodeFailed | Verb::NodeSkipped | Verb::NodeCanceled)
    )
}

/// C6: a node is dispatched when no attempt of it is outstanding.
fn dispatched_one_after_the_other(id: ExecutionId, entries: &[Entry], findings: &mut Findings) {
    let mut outstanding: BTreeSet<NodeIx> = BTreeSet::new();
    for entry in entries {
        if let Event::AttemptClosed(closed) = &entry.event {
            outstanding.remove(&closed.token.node);
        }
        for transition in &entry.transitions {
            let Some(node) = transition.node_ix() else { continue };
            match transition.verb() {
                Some(Verb::NodeScheduled) => {
                    findings.expect(outstanding.insert(node), "C6", || {
                        format!("{id}: entry {} dispatches node {node} once more", entry.seq)
                    });
                }
                verb if is_end(verb) || verb == Some(Verb::NodeInterrupted) => _ = outstanding.remove(&node),
                _ => {}
            }
        }
    }
}

/// C3 and C4: an effect happens once a dispatch, with the input that the log gives its node.
fn effects_follow_commits(evidence: &Evidence, findings: &mut Findings) {
    let mut seen: BTreeSet<(ExecutionId, &str, [u32; 4])> = BTreeSet::new();
    let mut canceled: BTreeSet<ExecutionId> = BTreeSet::new();
    let mut started: BTreeMap<ExecutionId, Starts> = BTreeMap::new();
    for record in &evidence.records {
        match record {
            Record::Effect { id, node, token, input } => {
                findings.expect(seen.insert((*id, node, *token)), "C3", || {
                    format!("{id}: dispatch {token:?} of {node} took effect twice")
                });
                let may_follow = is_undoing(node) || !canceled.contains(id);
                findings.expect(may_follow, "C4", || {
                    format!("{id}: {node} took effect after its cancel")
                });
                if !evidence.executions.contains_key(id) {
                    findings.expect(false, "C4", || {
                        format!("{id}: {node} took effect, the execution is not in the log")
                    });
                    continue;
                }
                let given = started.entry(*id).or_insert_with(|| starts_of(*id, evidence));
                match given.get(&(node.clone(), *token)) {
                    Some(given) => findings.expect(given == input, "C4", || {
                        format!("{id}: {node} took effect with {input}, the log gives it {given}")
                    }),
                    None => findings.expect(false, "C4", || {
                        format!("{id}: {node} took effect but dispatch {token:?} is not in the log")
                    }),
                }
            }
            Record::CommandAcked {
                verb,
                id,
                draining: 0,
                unchanged: false,
                ..
            } if verb == "cancel" => {
                canceled.insert(*id);
            }
            Record::ReopenAsked { id } => _ = canceled.remove(id),
            _ => {}
        }
    }
}

/// Whether what took effect undoes something: after a cancellation nothing else starts.
fn is_undoing(node: &str) -> bool {
    node.ends_with(UNDOES)
}

/// Inputs of dispatched attempts, by node and by run, visit, attempt and nonce of their token.
type Starts = BTreeMap<(String, [u32; 4]), String>;

/// What the entries of an execution dispatch.
fn starts_of(id: ExecutionId, evidence: &Evidence) -> Starts {
    let mut starts = Starts::new();
    let Some((_, plan, entries)) = evidence.executions.get(&id) else {
        return starts;
    };
    let mut folded = ExecutionState::new(plan, id);
    // Where that fails, C2 says so.
    for effects in entries.iter().map_while(|entry| replay(plan, &mut folded, entry).ok()) {
        for effect in effects {
            if let Effect::StartAttempt(start) = effect {
                let token = start.token;
                let token_of = [token.run.0, token.visit.0, token.attempt.0, token.nonce];
                let node = key_of(plan, token.node);
                starts.insert((node, token_of), evidence.contents.text(&start.input));
            }
        }
    }
    starts
}

/// C8: a delay never ends early, and late only around an outage.
fn timers_fire_in_time(id: ExecutionId, plan: &Plan, entries: &[Entry], evidence: &Evidence, findings: &mut Findings) {
    let Some(wait) = plan.node_ix("wait") else { return };
    let changes = |entry: &Entry, verb: Verb| {
        let mut changes = entry.transitions.iter();
        changes.any(|change| change.node_ix() == Some(wait) && change.verb() == Some(verb))
    };
    let Some(end) = entries.iter().position(|entry| changes(entry, Verb::NodeCompleted)) else {
        return;
    };
    if matches!(entries[end].event, Event::Decided { .. } | Event::Reopened(_)) {
        return;
    }
    // In an earlier run it may have waited, and been canceled.
    let mut before = entries[..=end].iter().rev();
    let Some(begin) = before.find(|entry| changes(entry, Verb::NodeWaiting)) else {
        return;
    };
    let fired = entries[end].at;
    let due = due_of(plan, entries, evidence).unwrap_or_else(|| begin.at.plus_ms(delay_ms(plan.workflow.as_str())));
    findings.expect(fired >= due, "C8", || {
        format!("{id}: a timer fired {} ms early", due.since_ms(fired))
    });
    let froze = |entry: &Entry| matches!(entry.event, Event::Frozen | Event::FrozenWithParent);
    if !evidence.controls.may_have_stood(id) && !entries[..end].iter().any(froze) {
        is_in_time(id, due, fired, evidence, findings);
    }
}

/// The instant that the start of an execution names, where its workflow waits for that.
pub(crate) fn due_of(plan: &Plan, entries: &[Entry], evidence: &Evidence) -> Option<Timestamp> {
    if plan.workflow.as_str() != workload::LATER {
        return None;
    }
    let started = entries.first()?.event.start()?;
    evidence.contents.parsed(&started.input)["due"].as_i64().map(Timestamp)
}

/// C8: late only around an outage.
fn is_in_time(id: ExecutionId, due: Timestamp, fired: Timestamp, evidence: &Evidence, findings: &mut Findings) {
    let due = evidence.controls.released(id, due);
    let own = evidence.own_outages.get(&id).into_iter().flatten();
    let late_ms = fired.since_ms(due);
    let excused = excused_until(due, evidence.outages.iter().chain(own), evidence.late_after_outages_ms)
        .is_some_and(|until| fired <= until)
        && evidence.late_in_outages_ms.is_none_or(|most_ms| late_ms <= most_ms);
    findings.expect(excused || late_ms <= LATE_HEALTHY_MS, "C8", || {
        format!("{id}: a timer fired {late_ms} ms late")
    });
}

/// Until when what was due then may happen, if that was in an outage, or just before one. Where the next outage begins before that it
/// goes on.
fn excused_until<'a>(
    due: Timestamp,
    outages: impl Iterator<Item = &'a (Timestamp, Timestamp)>,
    after_ms: Option<u64>,
) -> Option<Timestamp> {
    let ends = |until: &Timestamp| after_ms.map_or(Timestamp(i64::MAX), |after_ms| until.plus_ms(after_ms));
    let mut outages: Vec<_> = outages.collect();
    outages.sort_unstable();
    outages
        .into_iter()
        .fold(None, |excused: Option<Timestamp>, (from, until)| {
            let meets = due.plus_ms(LATE_HEALTHY_MS) >= *from && due <= *until;
            let goes_on = excused.is_some_and(|excused| *from <= excused);
            if meets || goes_on {
                excused.max(Some(ends(until)))
            } else {
                excused
            }
        })
}

/// C9: between an acknowledged pause and the resume at most the attempts that were draining take effect.
fn paused_means_paused(evidence: &Evidence, findings: &mut Findings) {
    let mut paused: BTreeMap<ExecutionId, u32> = BTreeMap::new();
    let mut ruled: BTreeMap<&str, u32> = BTreeMap::new();
    for record in &evidence.records {
        match record {
            Record::CommandAcked {
                verb,
                id,
                draining,
                unchanged: false,
                ..
            } if verb == "pause" || verb == "freeze" => {
                paused.insert(*id, *draining);
            }
            Record::ResumeAsked { id } | Record::ReopenAsked { id } => {
                paused.remove(id);
            }
            Record::Ruled { workflow, draining } => _ = ruled.insert(workflow, *draining),
            Record::FreeAsked { workflow } => _ = ruled.remove(workflow.as_str()),
            // A cancellation lifts the pause for what it undoes.
            Record::Effect { id, node, .. } if is_undoing(node) && was_canceled(evidence, *id) => {}
            Record::Effect { id, node, .. } => {
                if let Some(draining) = paused.get_mut(id) {
                    findings.expect(*draining > 0, "C9", || format!("{id}: {node} took effect while paused"));
                    *draining = draining.saturating_sub(1);
                }
                let workflow = workload::ruled_of(node).and_then(|workflow| Some((workflow, ruled.get_mut(workflow)?)));
                if let Some((workflow, draining)) = workflow {
                    findings.expect(*draining > 0, "C9", || {
                        format!("{id}: {node} took effect while {workflow} was held in every shard")
                    });
                    *draining = draining.saturating_sub(1);
                }
            }
            _ => {}
        }
    }
}

fn was_canceled(evidence: &Evidence, id: ExecutionId) -> bool {
    let entries = evidence.executions.get(&id).map(|(_, _, entries)| entries.iter());
    let is_cancel = |entry: &Entry| matches!(entry.event, Event::CancelRequested { .. });
    entries.is_some_and(|mut entries| entries.any(is_cancel))
}

/// C11: what a read showed is in the log, and later reads of the same client show no less.
fn reads_never_go_back(evidence: &Evidence, findings: &mut Findings) {
    let mut reads: BTreeMap<(ExecutionId, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for record in &evidence.records {
        if let Record::Read {
            client,
            id,
            seq,
            fingerprint,
        } = record
        {
            reads.entry((*id, *client)).or_default().push((*seq, *fingerprint));
        }
    }
    for ((id, _), reads) in reads {
        for pair in reads.windows(2) {
            findings.expect(pair[0].0 <= pair[1].0, "C11", || {
                format!("{id}: read {} after {}", pair[1].0, pair[0].0)
            });
        }
        let Some((_, plan, entries)) = evidence.executions.get(&id) else {
            continue;
        };
        let mut folded = ExecutionState::new(plan, id);
        let mut prints = vec![folded.fingerprint()];
        for entry in entries {
            if replay(plan, &mut folded, entry).is_err() {
                return;
            }
            prints.push(folded.fingerprint());
        }
        for (seq, fingerprint) in reads {
            let logged = prints.get(usize::try_from(seq).unwrap_or(usize::MAX));
            findings.expect(logged == Some(&fingerprint), "C11", || {
                format!("{id}: a read showed a state at {seq} that the log never had")
            });
        }
    }
}

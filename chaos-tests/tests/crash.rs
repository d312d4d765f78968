//! `kill -9` at random moments, with unsynced writes lost or torn, and frozen owners that thaw: every promise holds.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use troupe_chaos::crash::checkers::{Evidence, blobs_of};
use troupe_chaos::crash::child::Fault;
use troupe_core::ExecutionId;
use troupe_core::definition::NodeKind;
use troupe_core::execution::{Entry, Event, Transition, Verb};
use troupe_core::plan::Plan;

use troupe_chaos::crash::{Campaign, Outcome, Record, Takeovers, Violation, check, parked};

const PROGRAM: &str = env!("CARGO_BIN_EXE_troupe-crash-engine");

type Counts = BTreeMap<&'static str, usize>;

fn completed<T>(future: impl Future<Output = anyhow::Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future).unwrap()
}

fn run(campaign: &Campaign) -> (Vec<Violation>, Counts) {
    let outcome = completed(campaign.run(Path::new(PROGRAM)));
    (check(&outcome.evidence), count(&outcome))
}

fn take_over(takeovers: &Takeovers) -> (Vec<Violation>, Counts) {
    let outcome = completed(takeovers.run(Path::new(PROGRAM)));
    (check(&outcome.evidence), count(&outcome))
}

fn count(outcome: &Outcome) -> Counts {
    let mut counts = Counts::new();
    for record in &outcome.evidence.records {
        let (kind, times) = match record {
            Record::StartAcked { existing: false, .. } => ("started", 1),
            Record::StartAcked { existing: true, .. } => ("found again", 1),
            Record::Effect { .. } => ("effects", 1),
            Record::CommandAcked { .. } => ("commands", 1),
            Record::Read { .. } => ("reads", 1),
            Record::Published { events } => ("events published", events.len()),
            Record::KeyedAcked { existing: false, .. } => ("started under a key", 1),
            Record::KeyedAcked { existing: true, .. } => ("found under a key", 1),
            Record::Acquired { .. } => ("shards taken", 1),
            Record::Appended { .. } => ("records appended", 1),
            Record::Refused { .. } => ("records refused", 1),
            _ => ("other", 1),
        };
        *counts.entry(kind).or_default() += times;
    }
    counts.insert("kills", usize::try_from(outcome.kills).unwrap());
    counts.insert("owners fenced", usize::try_from(outcome.fenced_owners).unwrap());
    counts.insert("shards lost", usize::try_from(outcome.shards_lost).unwrap());
    let executions = outcome.evidence.executions.values();
    let superseded = |entry: &Entry| matches!(entry.event, Event::CancelRequested { at_once: true, .. });
    let entries = executions.clone().flat_map(|(_, _, entries)| entries);
    let reopened = entries.clone().filter(|entry| entry.reopens());
    counts.insert("runs that went on", reopened.count());
    let retried = executions.clone().flat_map(|(_, _, entries)| entries.windows(2));
    let retried = retried.filter(|pair| fails(&pair[0]) && pair[1].reopens());
    counts.insert("failures retried", retried.count());
    counts.insert("superseded", entries.filter(|entry| superseded(entry)).count());
    counts.insert("entries", executions.clone().map(|(_, _, entries)| entries.len()).sum());
    counts.insert("executions", executions.len());
    count_families(&outcome.evidence, &mut counts);
    counts
}

fn fails(entry: &Entry) -> bool {
    let mut changes = entry.transitions.iter();
    changes.any(|change| change.verb() == Some(Verb::ExecutionFailed))
}

/// What happened to families and large values while engines were tormented.
fn count_families(evidence: &Evidence, counts: &mut Counts) {
    let Some((last_kill, _)) = evidence.outages.last() else {
        return;
    };
    let mut parents: BTreeSet<ExecutionId> = BTreeSet::new();
    let mut values = BTreeSet::new();
    let (mut born, mut answered) = (0, 0);
    for (state, plan, entries) in evidence.executions.values() {
        let tormented = entries.iter().filter(|entry| entry.at < *last_kill);
        let changes = tormented.clone().flat_map(|entry| &entry.transitions);
        answered += changes.filter(|change| answers_a_wait(plan, change)).count();
        values.extend(tormented.flat_map(blobs_of).map(|blob| (state.blob_root(), blob)));
        if let Some(parent) = state.parent.filter(|_| state.started_at < *last_kill) {
            parents.insert(parent.execution);
            born += 1;
        }
    }
    let parents = parents.iter().filter_map(|id| evidence.executions.get(id));
    let lives: Vec<_> = parents.map(|(state, ..)| (state.started_at, state.ended_at)).collect();
    let met_a_parent = evidence.outages.iter().filter(|(killed_at, _)| {
        let open = |(from, until): &(_, Option<_>)| from < killed_at && until.is_none_or(|until| until > *killed_at);
        lives.iter().any(open)
    });
    counts.insert("kills while a parent was open", met_a_parent.count());
    counts.insert("children born", born);
    counts.insert("waits answered", answered);
    counts.insert("large values", values.len());
}

fn answers_a_wait(plan: &Plan, change: &Transition) -> bool {
    let waits = |ix| plan.node(ix).kind == NodeKind::Webhook;
    change.verb() == Some(Verb::NodeCompleted) && change.node_ix().is_some_and(waits)
}

fn assert_holds(violations: &[Violation], counts: &Counts) {
    println!("{counts:?}");
    let mut first: BTreeMap<&str, (usize, &Violation)> = BTreeMap::new();
    for violation in violations {
        first.entry(violation.invariant).or_insert((0, violation)).0 += 1;
    }
    assert!(
        first.is_empty(),
        "how often what was broken, and the first of it: {first:#?}\n{counts:?}"
    );
}

fn assert_happened(counts: &Counts, kinds: &[&'static str], more_than: usize) {
    for kind in kinds {
        let times = counts.get(kind).copied().unwrap_or(0);
        assert!(times > more_than, "too few {kind}: {counts:?}");
    }
}

/// Thousands of executions over fifty kills: every promise holds.
#[test]
fn crash_nothing_acknowledged_is_lost() {
    let (violations, counts) = run(&Campaign {
        kills: 50,
        life_ms: (30, 1_000),
        clients: 24,
        fault: None,
    });
    assert_holds(&violations, &counts);
    assert_happened(&counts, &["executions"], 2_000);
    let often = ["found again", "commands", "reads", "effects", "started under a key"];
    assert_happened(&counts, &often, 100);
    assert_happened(&counts, &["found under a key", "superseded"], 10);
    assert_happened(&counts, &["children born"], 500);
    assert_happened(&counts, &["runs that went on"], 20);
    assert_happened(&counts, &["failures retried"], 3);
    assert_happened(&counts, &["waits answered", "large values"], 50);
    assert_happened(&counts, &["kills while a parent was open"], 25);
}

/// Three hundred children wait when their engine is killed: what the next one tells their parent reaches each of them.
#[test]
fn crash_children_that_wait_go_with_their_parent() {
    let outcome = completed(parked::run(Path::new(PROGRAM), 300));
    let everyone = parked::Outcome {
        children: 300,
        paused: 300,
        resumed: 300,
        canceled: 300,
    };
    assert_eq!(outcome, everyone);
}

/// Owners are frozen under load and replaced; thawed, each is fenced, and nothing of it is found behind its successor.
#[test]
fn crash_a_frozen_owner_is_fenced() {
    let rounds = 12;
    let (violations, counts) = take_over(&Takeovers {
        rounds,
        shards: 4,
        life_ms: (50, 600),
        clients: 16,
        fault: None,
    });
    assert_holds(&violations, &counts);
    assert_eq!(counts["owners fenced"], rounds as usize, "{counts:?}");
    assert_happened(&counts, &["shards lost", "shards taken"], rounds as usize);
    assert_happened(&counts, &["records refused"], 0);
    assert_happened(&counts, &["executions"], 500);
}

/// A planted fault is seen, as a breach of what it breaks.
fn caught(fault: Fault, as_any_of: &[&str], torment: impl Fn(Fault) -> (Vec<Violation>, Counts)) {
    for _ in 0..4 {
        let (violations, counts) = torment(fault);
        let breach = violations.iter().find(|found| as_any_of.contains(&found.invariant));
        if let Some(breach) = breach {
            let all = violations.len();
            return println!("{fault:?} caught: {breach:?}, {all} in all, {counts:?}");
        }
    }
    panic!("{fault:?} went unnoticed");
}

fn caught_by_kills(fault: Fault, as_any_of: &[&str]) {
    caught(fault, as_any_of, |fault| {
        run(&Campaign {
            kills: 8,
            life_ms: (50, 500),
            clients: 24,
            fault: Some(fault),
        })
    });
}

#[test]
fn crash_acknowledging_before_the_commit_is_caught() {
    caught_by_kills(Fault::AcknowledgeBeforeCommit, &["C1"]);
}

#[test]
fn crash_applying_a_report_twice_is_caught() {
    caught_by_kills(Fault::NoCompletionDedupe, &["C2"]);
}

#[test]
fn crash_a_join_counter_saved_apart_is_caught() {
    caught_by_kills(Fault::NonAtomicJoinCounter, &["C2", "C6", "C12"]);
}

#[test]
fn crash_a_timer_removed_before_its_commit_is_caught() {
    caught_by_kills(Fault::TimerRemovedBeforeCommit, &["C8", "C12"]);
}

#[test]
fn crash_a_log_that_is_not_synced_is_caught() {
    caught_by_kills(Fault::SynchronousOff, &["C1"]);
}

#[test]
fn crash_an_effect_before_its_commit_is_caught() {
    caught_by_kills(Fault::EffectBeforeCommit, &["C4"]);
}

#[test]
fn crash_a_read_before_its_commit_is_caught() {
    caught_by_kills(Fault::ReadBeforeCommit, &["C11"]);
}

#[test]
fn crash_a_cursor_before_its_events_is_caught() {
    caught_by_kills(Fault::CursorBeforeConfirm, &["C7"]);
}

/// What a parent told its children last, or they it, was lost with its engine.
#[test]
fn crash_children_that_are_not_resumed_are_caught() {
    caught_by_kills(Fault::ChildrenNotResumed, &["C12"]);
}

/// What an entry refers to was not in the store when its engine was killed.
#[test]
fn crash_an_entry_before_its_large_values_is_caught() {
    caught(Fault::ValuesAfterEntries, &["C1"], |fault| {
        let (mut violations, counts) = run(&Campaign {
            kills: 8,
            life_ms: (50, 500),
            clients: 24,
            fault: Some(fault),
        });
        violations.retain(|found| found.what.contains("large value"));
        (violations, counts)
    });
}

/// Many shards and few clients: where the successor has nothing to write, only the epoch keeps the old owner out.
#[test]
fn crash_an_append_without_its_epoch_is_caught() {
    caught(Fault::NoEpochCheck, &["C5"], |fault| {
        take_over(&Takeovers {
            rounds: 3,
            shards: 32,
            life_ms: (50, 300),
            clients: 2,
            fault: Some(fault),
        })
    });
}

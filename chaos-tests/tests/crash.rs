//! `kill -9` at random moments, with unsynced writes lost: nothing acknowledged may be.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use troupe_chaos::crash::child::Fault;
use troupe_chaos::crash::{Campaign, Record, Violation, check};

const PROGRAM: &str = env!("CARGO_BIN_EXE_troupe-crash-engine");

fn run(campaign: &Campaign) -> (Vec<Violation>, BTreeMap<&'static str, usize>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = runtime.block_on(campaign.run(Path::new(PROGRAM))).unwrap();
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for record in &outcome.evidence.records {
        let kind = match record {
            Record::StartAcked { existing: false, .. } => "started",
            Record::StartAcked { existing: true, .. } => "found again",
            Record::Effect { .. } => "effects",
            Record::CommandAcked { .. } => "commands",
            Record::Read { .. } => "reads",
            _ => "other",
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts.insert("executions", outcome.evidence.executions.len());
    let entries = outcome
        .evidence
        .executions
        .values()
        .map(|(_, _, entries)| entries.len())
        .sum();
    counts.insert("entries", entries);
    (check(&outcome.evidence), counts)
}

/// Thousands of executions over fifty kills: every promise holds.
#[test]
fn crash_nothing_acknowledged_is_lost() {
    let (violations, counts) = run(&Campaign {
        kills: 50,
        life_ms: (30, 600),
        clients: 24,
        fault: None,
    });
    println!("{counts:?}");
    assert!(
        violations.is_empty(),
        "{} violations, first {:?}\n{counts:?}",
        violations.len(),
        &violations[..violations.len().min(5)]
    );
    assert!(counts["executions"] >= 2_000, "too little happened: {counts:?}");
    for kind in ["found again", "commands", "reads", "effects"] {
        assert!(
            counts.get(kind).is_some_and(|times| *times > 100),
            "too few {kind}: {counts:?}"
        );
    }
}

/// A planted fault is seen, as a breach of what it breaks.
fn caught(fault: Fault, as_any_of: &[&str]) {
    for _ in 0..4 {
        let (violations, counts) = run(&Campaign {
            kills: 8,
            life_ms: (50, 500),
            clients: 24,
            fault: Some(fault),
        });
        if let Some(violation) = violations
            .iter()
            .find(|violation| as_any_of.contains(&violation.invariant))
        {
            println!(
                "{fault:?} caught: {violation:?}, {} in all, {counts:?}",
                violations.len()
            );
            return;
        }
    }
    panic!("{fault:?} went unnoticed");
}

#[test]
fn crash_acknowledging_before_the_commit_is_caught() {
    caught(Fault::AcknowledgeBeforeCommit, &["C1"]);
}

#[test]
fn crash_applying_a_report_twice_is_caught() {
    caught(Fault::NoCompletionDedupe, &["C2"]);
}

#[test]
fn crash_a_join_counter_saved_apart_is_caught() {
    caught(Fault::NonAtomicJoinCounter, &["C2", "C6", "C12"]);
}

#[test]
fn crash_a_timer_removed_before_its_commit_is_caught() {
    caught(Fault::TimerRemovedBeforeCommit, &["C8", "C12"]);
}

#[test]
fn crash_a_log_that_is_not_synced_is_caught() {
    caught(Fault::SynchronousOff, &["C1"]);
}

#[test]
fn crash_an_effect_before_its_commit_is_caught() {
    caught(Fault::EffectBeforeCommit, &["C4"]);
}

#[test]
fn crash_a_read_before_its_commit_is_caught() {
    caught(Fault::ReadBeforeCommit, &["C11"]);
}

//! The semantics' checkers on histories that the core itself makes, and on the same ones with a fault planted.
#![allow(clippy::unwrap_used)]

mod play;

use std::sync::Arc;

use serde_json::json;
use troupe_core::execution::{ChildOutcome, Entry, Event, ExecutionState, Remedy, Reopened, Status, Transition, Verb};
use troupe_core::{ErrorInfo, ExecutionId, Json, Run, Seq, ShardId, Timestamp};

use super::semantics::follows_the_reference;
use super::{
    Evidence, Findings, acknowledged_survives, applied_exactly_once, due_of, paused_means_paused, timers_fire_in_time,
};
use crate::crash::record::Record;
use crate::crash::workload;
pub(super) use play::run;

fn violations(evidence: &Evidence) -> Vec<(&'static str, String)> {
    let mut findings = Findings(Vec::new());
    follows_the_reference(evidence, &mut findings);
    let violations = findings.0.into_iter();
    violations
        .map(|violation| (violation.invariant, violation.what))
        .collect()
}

fn found(evidence: &Evidence) -> Vec<String> {
    violations(evidence).into_iter().map(|(_, what)| what).collect()
}

/// An execution of a workflow, and its history.
fn one<'a>(
    evidence: &'a mut Evidence,
    workflow: &str,
) -> &'a mut (ExecutionState, Arc<troupe_core::plan::Plan>, Vec<Entry>) {
    let mut executions = evidence.executions.values_mut();
    executions
        .find(|(state, ..)| state.workflow.as_str() == workflow)
        .unwrap()
}

fn assert_found(evidence: &Evidence, invariant: &str, what: &str) {
    let found = violations(evidence);
    let is_it = |(of, why): &(&str, String)| *of == invariant && why.contains(what);
    assert!(found.iter().any(is_it), "no {invariant} with `{what}` in {found:?}");
}

#[test]
fn what_the_core_does_is_what_the_reference_does() {
    for workflow in workload::all().into_iter().map(|definition| definition.id) {
        assert_eq!(found(&run(&workflow)), Vec::<String>::new(), "{workflow}");
    }
}

#[test]
fn a_join_that_fires_at_another_moment_is_found() {
    let mut evidence = run("quorum");
    let quorum = evidence.definitions.get_mut("quorum").unwrap();
    let join = quorum.nodes.iter_mut().find(|node| node.id == "join").unwrap();
    join.data.insert("join".into(), json!({"mode": "quorum", "count": 3}));
    let found = found(&evidence);
    assert!(found[0].contains("attempts dispatched"), "{found:?}");
}

#[test]
fn a_join_that_ran_with_other_inputs_is_found() {
    let mut evidence = run("fan");
    for record in &mut evidence.records {
        if let Record::Effect { node, input, .. } = record
            && node == "join"
        {
            *input = input.replace("f4", "f9");
        }
    }
    let found = found(&evidence);
    assert!(found.len() == 1 && found[0].contains("of join ran with"), "{found:?}");
}

#[test]
fn a_report_that_is_applied_twice_is_found() {
    let mut evidence = run("fan");
    let (_, _, entries) = evidence.executions.values_mut().next().unwrap();
    let again = entries[1].clone();
    entries.insert(2, again);
    let found = found(&evidence);
    assert!(found[0].contains("which is Completed"), "{found:?}");
}

#[test]
fn children_that_were_begun_too_many_at_once_are_found() {
    let mut evidence = run("each");
    let each = evidence.definitions.get_mut("each").unwrap();
    let all = each.nodes.iter_mut().find(|node| node.id == "all").unwrap();
    all.data.insert("maxConcurrency".into(), json!(2));
    assert_found(&evidence, "C6", "children begun");
}

#[test]
fn one_failure_more_than_is_tolerated_is_found() {
    let mut evidence = run("nested");
    let nested = evidence.definitions.get_mut("nested").unwrap();
    let all = nested.nodes.iter_mut().find(|node| node.id == "all").unwrap();
    all.data.insert("toleratedFailures".into(), json!(0));
    assert_found(&evidence, "C6", "children awaited");
}

#[test]
fn a_child_that_was_given_another_item_is_found() {
    let mut evidence = run("each");
    let (state, _, entries) = one(&mut evidence, "each#all");
    let Event::Started(started) = &mut entries[0].event else {
        panic!()
    };
    started.input = Json::from_trusted(r#"{"item":9,"index":9,"input":"?"}"#).into();
    state.input = started.input.clone();
    assert_found(&evidence, "C4", "it was given");
}

#[test]
fn a_child_that_is_there_twice_is_found() {
    let mut evidence = run("each");
    let mut again = one(&mut evidence, "each#all").clone();
    again.0.id = ExecutionId::fresh(ShardId(0), Timestamp(9), 9);
    evidence.executions.insert(again.0.id, again);
    assert_found(&evidence, "C2", "exists 2 times");
}

#[test]
fn a_child_that_its_parent_did_not_begin_is_found() {
    let mut evidence = run("each");
    let (state, _, entries) = one(&mut evidence, "each#all");
    let Event::Started(started) = &mut entries[0].event else {
        panic!()
    };
    let parent = started.parent.as_mut().unwrap();
    parent.child.index = 70;
    state.parent = Some(*parent);
    assert_found(&evidence, "C4", "no entry of its parent begins");
}

#[test]
fn a_child_without_a_parent_is_found() {
    let mut evidence = run("spin");
    let parent = one(&mut evidence, "spin").0.id;
    evidence.executions.remove(&parent);
    assert_found(&evidence, "C4", "which is not in the log");
}

#[test]
fn a_child_that_is_gone_is_found() {
    let mut evidence = run("spin");
    let child = one(&mut evidence, "spin#round").0.id;
    evidence.executions.remove(&child);
    assert_found(&evidence, "C2", "which does not exist");
}

#[test]
fn a_child_that_ended_otherwise_than_its_parent_says_is_found() {
    for fault in [
        Status::Completed {
            output: Json::from_trusted("77").into(),
        },
        Status::Canceled { reason: None },
    ] {
        let mut evidence = run("each");
        one(&mut evidence, "each#all").0.status = fault;
        assert_found(&evidence, "C2", "its log tells of child");
    }
}

#[test]
fn a_parent_that_was_told_another_error_is_found() {
    let mut evidence = run("nested");
    let (_, _, entries) = one(&mut evidence, "nested");
    for entry in entries {
        if let Event::Children(reports) = &mut entry.event {
            for report in reports {
                if let ChildOutcome::Failed(error) = &mut report.outcome {
                    *error = ErrorInfo::new("OTHER", "");
                }
            }
        }
    }
    assert_found(&evidence, "C2", "its log tells of child");
}

#[test]
fn a_detached_child_that_counts_as_attached_is_found() {
    let mut evidence = run("loose");
    let (state, _, entries) = one(&mut evidence, "rescue");
    let Event::Started(started) = &mut entries[0].event else {
        panic!()
    };
    let parent = started.parent.as_mut().unwrap();
    parent.attached = true;
    state.parent = Some(*parent);
    assert_found(&evidence, "C4", "attached");
}

#[test]
fn a_call_that_was_taken_twice_is_found() {
    let mut evidence = run("called");
    let (_, _, entries) = one(&mut evidence, "called");
    let place = entries
        .iter()
        .position(|entry| matches!(entry.event, Event::Signaled { .. }))
        .unwrap();
    let again = entries[place].clone();
    entries.insert(place + 1, again);
    assert_found(&evidence, "C6", "the reference refuses it");
}

#[test]
fn an_acknowledged_command_that_is_not_in_the_log_once_is_found_with_and_without_effect() {
    let pauses = [(false, 0), (false, 1), (false, 2), (true, 0), (true, 1), (true, 2)];
    let pauses = pauses.map(|(unchanged, times)| ("pause", unchanged, times, times == 1));
    // One that nobody times leaves nothing.
    let heartbeats = [(false, 0, false), (true, 0, true), (true, 1, true), (true, 2, false)];
    let heartbeats = heartbeats.map(|(unchanged, times, is_fine)| ("heartbeat", unchanged, times, is_fine));
    for (verb, unchanged, times, is_fine) in pauses.into_iter().chain(heartbeats) {
        let mut evidence = run("chain");
        let (state, _, entries) = one(&mut evidence, "chain");
        let acked = Record::CommandAcked {
            verb: verb.to_owned(),
            id: state.id,
            command: "p".to_owned(),
            draining: 0,
            unchanged,
        };
        for entry in entries.iter_mut().take(times) {
            entry.command = Some("p".into());
        }
        evidence.records = vec![acked];
        let mut findings = Findings(Vec::new());
        acknowledged_survives(&evidence, &mut findings);
        let found: Vec<&str> = findings.0.iter().map(|violation| violation.invariant).collect();
        let expected: &[&str] = if is_fine { &[] } else { &["C1"] };
        assert_eq!(found, expected, "{verb}, unchanged: {unchanged}, {times} times");
    }
}

/// What is said of an execution that has ended and has one entry more.
fn after_the_end(change: impl FnOnce(&mut Entry)) -> Vec<&'static str> {
    let mut evidence = run("chain");
    let (id, (state, plan, entries)) = evidence.executions.iter_mut().next().unwrap();
    let mut late = entries.last().unwrap().clone();
    late.seq = late.seq.next();
    change(&mut late);
    entries.push(late);
    let mut findings = Findings(Vec::new());
    applied_exactly_once(*id, state, plan, entries, &mut findings);
    let found = findings.0.into_iter();
    found.map(|violation| violation.invariant).collect()
}

#[test]
fn an_entry_after_the_end_is_found_unless_it_begins_a_run() {
    assert!(after_the_end(|_| {}).contains(&"C10"));
    let found = after_the_end(|entry| {
        entry.event = Event::Reopened(Box::new(Reopened {
            run: Run(2),
            nodes: Vec::new(),
            remedy: Remedy::Retry,
            reason: None,
            controls: None,
        }));
        entry.transitions = vec![Transition::execution(Verb::ExecutionStarted)];
    });
    // One that has completed cannot go on, which is another matter.
    assert_eq!(found[0], "C2");
    assert!(!found.contains(&"C10"), "{found:?}");
}

/// What became of the wait of a workflow, and when.
fn late_or_early(course: &[(i64, Verb)]) -> Vec<String> {
    late_or_early_in(course, |_| {})
}

/// As [`late_or_early`], while other things happened too.
fn late_or_early_in(course: &[(i64, Verb)], meanwhile: impl Fn(&mut Evidence)) -> Vec<String> {
    let mut evidence = run("wait-short");
    meanwhile(&mut evidence);
    let (id, (_, plan, entries)) = evidence.executions.iter().next().unwrap();
    let wait = plan.node_ix("wait").unwrap();
    let entries: Vec<Entry> = course
        .iter()
        .map(|(at, verb)| Entry {
            seq: Seq(1),
            at: Timestamp(*at),
            event: Event::DeadlineReached,
            transitions: vec![Transition::node(*verb, wait)],
            ..entries[0].clone()
        })
        .collect();
    let (id, plan) = (*id, Arc::clone(plan));
    evidence.executions.clear();
    let mut findings = Findings(Vec::new());
    timers_fire_in_time(id, &plan, &entries, &evidence, &mut findings);
    findings.0.into_iter().map(|violation| violation.what).collect()
}

#[test]
fn a_wait_is_timed_from_where_its_run_began_to_wait() {
    use Verb::{NodeCanceled, NodeCompleted, NodeWaiting};
    let [delay_ms, _] = workload::DELAYS_MS.map(u64::cast_signed);
    let again = [(0, NodeWaiting), (10, NodeCanceled), (5_000, NodeWaiting)];
    let fires = |at: i64| [again.as_slice(), &[(at, NodeCompleted)]].concat();
    assert_eq!(late_or_early(&fires(5_000 + delay_ms)), Vec::<String>::new());
    let early = late_or_early(&fires(5_000 + delay_ms - 1));
    assert!(early.len() == 1 && early[0].contains("1 ms early"), "{early:?}");
    let late = late_or_early(&fires(6_001 + delay_ms));
    assert!(late.len() == 1 && late[0].contains("1001 ms late"), "{late:?}");
}

#[test]
fn an_outage_excuses_a_late_timer_as_long_as_it_may_last() {
    use Verb::{NodeCompleted, NodeWaiting};
    let [delay_ms, _] = workload::DELAYS_MS.map(u64::cast_signed);
    let late_by = |ms: i64| [(5_000, NodeWaiting), (5_000 + delay_ms + ms, NodeCompleted)];
    let outage = |evidence: &mut Evidence| evidence.outages = vec![(Timestamp(4_000), Timestamp(6_000))];
    assert_eq!(late_or_early_in(&late_by(60_000), outage), Vec::<String>::new());
    let bounded = |evidence: &mut Evidence| {
        outage(evidence);
        evidence.late_in_outages_ms = Some(3_000);
    };
    assert_eq!(late_or_early_in(&late_by(3_000), bounded), Vec::<String>::new());
    let late = late_or_early_in(&late_by(3_001), bounded);
    assert!(late.len() == 1 && late[0].contains("3001 ms late"), "{late:?}");
}

#[test]
fn what_was_due_in_an_outage_is_not_late_for_ever_after_it() {
    use Verb::{NodeCompleted, NodeWaiting};
    let [delay_ms, _] = workload::DELAYS_MS.map(u64::cast_signed);
    let fired_at = |at: i64| [(5_000, NodeWaiting), (at, NodeCompleted)];
    let one = |evidence: &mut Evidence| {
        evidence.outages = vec![(Timestamp(4_000), Timestamp(6_000))];
        evidence.late_after_outages_ms = Some(500);
    };
    assert_eq!(late_or_early_in(&fired_at(6_500), one), Vec::<String>::new());
    let late = late_or_early_in(&fired_at(6_501), one);
    let late_ms = 6_501 - 5_000 - delay_ms;
    assert!(
        late.len() == 1 && late[0].contains(&format!("{late_ms} ms late")),
        "{late:?}"
    );
    // Another one begins before everything has caught up, and a third one long after that.
    let three = |evidence: &mut Evidence| {
        one(evidence);
        evidence.outages.insert(0, (Timestamp(20_000), Timestamp(30_000)));
        evidence.outages.push((Timestamp(6_500), Timestamp(9_000)));
    };
    assert_eq!(late_or_early_in(&fired_at(9_500), three), Vec::<String>::new());
    assert_eq!(late_or_early_in(&fired_at(9_501), three).len(), 1);
    assert_eq!(late_or_early_in(&fired_at(30_000), three).len(), 1);
}

#[test]
fn an_execution_that_waits_for_an_instant_does_not_go_on_before_it() {
    let mut evidence = run(workload::LATER);
    let (state, plan, mut entries) = one(&mut evidence, workload::LATER).clone();
    let due = entries[1].at;
    assert_eq!(due_of(&plan, &entries, &evidence), Some(due));
    for (at, told) in [
        (due.0, None),
        (due.0 - 1, Some("1 ms early")),
        (due.0 + 1_001, Some("1001 ms late")),
    ] {
        entries[1].at = Timestamp(at);
        let mut findings = Findings(Vec::new());
        timers_fire_in_time(state.id, &plan, &entries, &evidence, &mut findings);
        let found: Vec<String> = findings.0.into_iter().map(|violation| violation.what).collect();
        assert_eq!(found.len(), usize::from(told.is_some()), "{found:?}");
        assert!(told.is_none_or(|told| found[0].contains(told)), "{found:?}");
    }
}

/// What is said of so many executions that were in a room for two at the same time.
fn crowded(executions: u64, meanwhile: impl Fn(&mut Evidence)) -> Vec<&'static str> {
    let mut evidence = run(workload::FEW);
    let first = one(&mut evidence, workload::FEW).clone();
    for number in 1..executions {
        let mut another = first.clone();
        another.0.id = ExecutionId::fresh(ShardId(0), Timestamp(9), number);
        evidence.executions.insert(another.0.id, another);
    }
    meanwhile(&mut evidence);
    let mut findings = Findings(Vec::new());
    super::rooms::hold_so_many(&evidence, &mut findings);
    let found = findings.0.into_iter();
    found.map(|violation| violation.invariant).collect()
}

#[test]
fn one_too_many_in_a_room_is_found_unless_members_did_not_agree_on_the_time() {
    assert_eq!(crowded(2, |_| {}), [""; 0]);
    assert_eq!(crowded(3, |_| {}), ["C6"; 3]);
    assert_eq!(crowded(3, |evidence| evidence.clocks_jump = true), ["C6"; 3]);
    assert_eq!(crowded(3, |evidence| evidence.clocks_differ = true), [""; 0]);
}

#[test]
fn what_takes_effect_while_its_workflow_is_held_everywhere_is_found() {
    let workflow = workload::ruled_by(3);
    let node = format!("{workflow}-0");
    let effect = |node: &str| Record::Effect {
        id: ExecutionId::fresh(ShardId(0), Timestamp(0), 1),
        node: node.to_owned(),
        token: [0; 4],
        input: "null".to_owned(),
    };
    let ruled = |draining| Record::Ruled {
        workflow: workflow.clone(),
        draining,
    };
    let free = Record::FreeAsked {
        workflow: workflow.clone(),
    };
    let broken = |records: Vec<Record>| {
        let evidence = Evidence {
            records,
            ..Evidence::default()
        };
        let mut findings = Findings(Vec::new());
        paused_means_paused(&evidence, &mut findings);
        findings.0.len()
    };
    let other = effect(&format!("{}-0", workload::ruled_by(4)));
    let lawful = vec![ruled(1), effect(&node), other, effect("a"), free, effect(&node)];
    assert_eq!(broken(lawful), 0);
    assert_eq!(broken(vec![ruled(0), effect(&node)]), 1);
    assert_eq!(broken(vec![ruled(1), effect(&node), effect(&node)]), 1);
}

//! Random definitions, outcomes, commands and interleavings. `PROPTEST_CASES` raises their number.

mod again;
mod family;
mod held;
mod outside;
mod reopened;
mod reported;
mod undone;

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::Value;
use troupe_core::definition::{Diagnostic, Limits, Severity, WorkflowDefinition, validate};
use troupe_core::execution::{Effect, ExecutionState, replay};
use troupe_core::plan::Plan;

use crate::support::again::OF_GRAPHS;
use crate::support::cases::{Case, cases};
use crate::support::duo::Duo;
use crate::support::script;

fn config(cases: u32) -> Config {
    let set = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    Config {
        cases: set.unwrap_or(cases),
        failure_persistence: None,
        // Starts that are refused are no cases of some tests.
        max_global_rejects: 100_000,
        max_shrink_time: 20_000,
        max_shrink_iters: 100_000,
        ..Config::default()
    }
}

fn played(case: &Case, starves: bool) -> Result<Duo, TestCaseError> {
    script::run(case, starves).map_err(TestCaseError::fail)
}

/// Folds `entries` over a state that went through bytes, and compares every step with the first time.
fn fold(plan: &Plan, from: &ExecutionState, duo: &Duo, skip: usize) -> Result<(), String> {
    let bytes = minicbor::to_vec(from).map_err(|error| error.to_string())?;
    let mut state: ExecutionState = minicbor::decode(&bytes).map_err(|error| error.to_string())?;
    state.reindex(plan);
    if state != *from {
        return Err(format!(
            "the snapshot after entry {} decodes to another state",
            from.seq
        ));
    }
    for (entry, effects) in duo.log.iter().skip(skip) {
        let replayed: Vec<Effect> = replay(plan, &mut state, entry).map_err(|error| format!("{error}: {entry:?}"))?;
        if replayed != *effects {
            return Err(format!("entry {} had other effects: {replayed:?}", entry.seq));
        }
    }
    let same_bytes = minicbor::to_vec(&state).ok() == minicbor::to_vec(&duo.state).ok();
    if state == duo.state && same_bytes && state.fingerprint() == duo.state.fingerprint() {
        Ok(())
    } else {
        Err(format!("folding from entry {skip} gives another state"))
    }
}

proptest! {
    #![proptest_config(config(1_500))]

    /// Also: each visit of a node ends once, each edge is decided once a visit of its source, every execution ends, and the end is
    /// final.
    #[test]
    fn the_core_agrees_with_the_reference(case in cases()) {
        played(&case, false)?;
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn replay_from_any_prefix_gives_the_same_state_and_effects(case in cases()) {
        let duo = played(&case, false)?;
        let mut state = ExecutionState::new(&duo.plan, duo.state.id);
        for skip in 0..=duo.log.len() {
            fold(&duo.plan, &state, &duo, skip).map_err(TestCaseError::fail)?;
            if let Some((entry, _)) = duo.log.get(skip) {
                let bytes = minicbor::to_vec(entry).unwrap();
                let decoded = minicbor::decode(&bytes).unwrap();
                prop_assert_eq!(entry, &decoded);
                replay(&duo.plan, &mut state, &decoded).map_err(|error| TestCaseError::fail(error.to_string()))?;
            }
        }
    }

    #[test]
    fn a_pending_answer_changes_nothing_however_far_the_step_got(case in cases()) {
        played(&case, true)?;
    }

    #[test]
    fn an_entry_that_does_not_fit_is_corrupt_and_changes_nothing(case in cases(), place in any::<prop::sample::Index>()) {
        let duo = played(&case, false)?;
        prop_assume!(!duo.log.is_empty());
        let place = place.index(duo.log.len());
        let mut state = ExecutionState::new(&duo.plan, duo.state.id);
        for (entry, _) in &duo.log[..place] {
            replay(&duo.plan, &mut state, entry).unwrap();
        }
        let before = state.clone();
        let (entry, _) = &duo.log[place];
        let mut late = entry.clone();
        late.seq = late.seq.next();
        let mut mute = entry.clone();
        mute.answers.pop();
        let mut other = entry.clone();
        other.transitions.pop();
        let fewer_answers = mute.answers.len() < entry.answers.len();
        let fewer_transitions = other.transitions.len() < entry.transitions.len();
        for (differs, wrong) in [(true, late), (fewer_answers, mute), (fewer_transitions, other)] {
            if differs {
                prop_assert!(replay(&duo.plan, &mut state, &wrong).is_err());
                prop_assert_eq!(&state, &before);
            }
        }
    }
}

#[test]
fn random_definitions_are_valid_as_graphs() {
    // The rest is about fields that the tests do not need and about languages that they do not use.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..1_000 {
        let case = proptest::strategy::Strategy::new_tree(&cases(), &mut runner).unwrap();
        let case = proptest::strategy::ValueTree::current(&case);
        let definition: WorkflowDefinition = serde_json::from_value(case.definition.clone()).unwrap();
        let found = validate(&definition, None, &Limits::default());
        let errors = found.iter().filter(|found| found.severity == Severity::Error);
        let errors: Vec<&Diagnostic> = errors.filter(|error| OF_GRAPHS.contains(&error.code)).collect();
        assert!(errors.is_empty(), "{errors:?}: {case:?}");
    }
}

#[test]
fn random_definitions_cover_what_they_should() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for _ in 0..6_000 {
        let case = proptest::strategy::Strategy::new_tree(&cases(), &mut runner).unwrap();
        let case = proptest::strategy::ValueTree::current(&case);
        let duo = script::run(&case, false).unwrap();
        *seen.entry(duo.state.status.name().into()).or_default() += 1;
        for node in &duo.state.nodes {
            *seen.entry(format!("node {}", node.phase.name())).or_default() += 1;
            if node.attempts.len() > 1 {
                *seen.entry("retried".into()).or_default() += 1;
            }
            if node.cleanup && duo.state.failure.is_some() && node.phase.name() == "completed" {
                *seen.entry("cleaned up".into()).or_default() += 1;
            }
            let code = node
                .failure
                .as_ref()
                .map(|failure| format!("error {}", failure.error.code));
            code.into_iter().for_each(|code| *seen.entry(code).or_default() += 1);
        }
        let mut see = |what: &str, is_seen: bool| {
            if is_seen {
                *seen.entry(what.into()).or_default() += 1;
            }
        };
        see("acyclic", duo.plan.loops.is_empty());
        see("nested loops", duo.plan.loops.iter().any(|one| one.parent.is_some()));
        let generations = |least| duo.state.nodes.iter().any(|node| node.visit.0 >= least);
        see("second generation", generations(2));
        see("fourth generation", generations(4));
        let inner_again = |(one, at): (&troupe_core::plan::PlanLoop, &troupe_core::execution::LoopState)| {
            one.parent.is_some() && at.iteration > 1
        };
        see(
            "inner generation",
            duo.plan.loops.iter().zip(&duo.state.loops).any(inner_again),
        );
        let ends = duo.plan.nodes.iter().zip(&duo.state.nodes);
        let mut ends = ends.filter(|(planned, _)| planned.kind == troupe_core::definition::NodeKind::End);
        if ends.any(|(_, node)| node.phase.name() == "completed") && duo.state.failure.is_none() {
            see(&format!("ended {}", duo.state.status.name()), true);
        }
        let at_work = |name: &str| {
            let nodes = case.definition["nodes"].as_array().unwrap();
            let data = nodes.iter().filter(|node| !node["data"][name].is_null());
            data.count()
        };
        see("cancels", at_work("cancels") > 0);
        let late = |node: &Value| node["data"]["join"]["lateArrivals"] == "cancel";
        see(
            "late arrivals",
            case.definition["nodes"].as_array().unwrap().iter().any(late),
        );
        let is_canceled = |node: &troupe_core::execution::NodeState| node.phase.name() == "canceled";
        let goes_on = duo.state.status.name() == "completed" && duo.state.nodes.iter().any(is_canceled);
        see("canceled in a completed execution", goes_on);
        let joins = case.definition["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|node| node["data"]["join"] != Value::Null);
        *seen.entry("joins".into()).or_default() += joins.count();
        for what in [
            outside::met(&duo),
            family::met(&duo),
            reopened::met(&duo),
            reported::met(&duo),
            undone::met(&duo),
            held::met(&duo),
        ]
        .concat()
        {
            *seen.entry(what).or_default() += 1;
        }
    }
    let wanted = [
        "completed",
        "failed",
        "canceled",
        "node completed",
        "node failed",
        "node skipped",
        "node canceled",
        "retried",
        "cleaned up",
        "joins",
        "error JOIN_UNSATISFIED",
        "error NO_MATCHING_CONDITION",
        "error EXPRESSION_ERROR",
        "error SCHEMA_VIOLATION",
        "error TIMEOUT",
        "error E1",
        "error LOOP_LIMIT",
        "acyclic",
        "nested loops",
        "second generation",
        "fourth generation",
        "inner generation",
        "ended completed",
        "ended canceled",
        "cancels",
        "late arrivals",
        "canceled in a completed execution",
    ];
    for what in wanted
        .into_iter()
        .chain(outside::WANTED)
        .chain(family::WANTED)
        .chain(reopened::WANTED)
        .chain(reported::WANTED)
        .chain(undone::WANTED)
        .chain(held::WANTED)
    {
        assert!(
            seen.get(what).is_some_and(|count| *count >= 5),
            "{what} is too rare: {seen:?}"
        );
    }
}

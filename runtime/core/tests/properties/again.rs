//! Reruns: what random executions gave is taken over by others, which run from one of its nodes.

use proptest::prelude::*;
use troupe_core::Visit;
use troupe_core::execution::{Event, ExecutionState, Phase, Rerun, ReusedResult, Status};

use super::{config, fold};
use crate::support::cases::cases;
use crate::support::duo::Duo;
use crate::support::script::{self, Again};

/// Every kind must be met.
const WANTED: [&str; 22] = [
    "of one that runs",
    "of one that completed",
    "of one that failed",
    "of one that was canceled",
    "of a rerun",
    "with another start payload",
    "with another input",
    "names its trigger",
    "another version",
    "a node of the other version runs",
    "a loop is taken over",
    "a loop is repeated",
    "a handled failure is taken over",
    "a canceled node is taken over",
    "a failure elsewhere runs again",
    "what was cut off runs again",
    "what was undone runs again",
    "completed where the first failed",
    "what was taken over is visited after all",
    "refused: RERUN_IN_LOOP",
    "refused: RERUN_EDGES_CHANGED",
    "refused: RERUN_WITHOUT_INPUT",
];

fn tape() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(any::<u16>(), 8..=160)
}

proptest! {
    #![proptest_config(config(600))]

    /// Its history folds to the same state too.
    #[test]
    fn reruns_agree_with_the_reference(case in cases(), tape in tape(), starves in prop::bool::weighted(0.2)) {
        let again = script::run_again(&case, &tape, starves).map_err(TestCaseError::fail)?;
        for duo in &again.runs[1..] {
            fold(&duo.plan, &ExecutionState::new(&duo.plan, duo.state.id), duo, 0).map_err(TestCaseError::fail)?;
        }
    }
}

#[test]
fn random_reruns_cover_what_they_should() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for _ in 0..2_500 {
        let (cases, tapes) = (cases(), tape());
        let case = Strategy::new_tree(&cases, &mut runner).unwrap();
        let tape = Strategy::new_tree(&tapes, &mut runner).unwrap();
        use proptest::strategy::ValueTree;
        let again = script::run_again(&case.current(), &tape.current(), false).unwrap();
        met(&again)
            .into_iter()
            .for_each(|what| *seen.entry(what).or_default() += 1);
    }
    for what in WANTED {
        assert!(
            seen.get(what).is_some_and(|count| *count >= 5),
            "{what} is too rare: {seen:?}"
        );
    }
}

fn met(again: &Again) -> Vec<String> {
    let mut met: Vec<String> = again.refused.iter().map(|code| format!("refused: {code}")).collect();
    for (place, pair) in again.runs.windows(2).enumerate() {
        let [source, duo] = pair else { continue };
        if let Some(rerun) = rerun_of(duo) {
            see(source, duo, rerun, &mut met);
            met.extend((place > 0).then(|| "of a rerun".to_owned()));
        }
    }
    met
}

fn rerun_of(duo: &Duo) -> Option<&Rerun> {
    let Event::Started(started) = &duo.log.first()?.0.event else {
        return None;
    };
    started.rerun.as_deref()
}

fn see(source: &Duo, duo: &Duo, rerun: &Rerun, met: &mut Vec<String>) {
    let mut see = |what: &str, is_seen: bool| met.extend(is_seen.then(|| what.to_owned()));
    match source.state.status {
        Status::Completed { .. } => see("of one that completed", true),
        Status::Failed => see("of one that failed", true),
        Status::Canceled { .. } => see("of one that was canceled", true),
        _ => see("of one that runs", true),
    }
    see("with another input", rerun.input.is_some());
    see("with another start payload", duo.state.input != source.state.input);
    see("names its trigger", duo.state.trigger.is_some());
    see("another version", duo.plan.version != source.plan.version);
    see(
        "completed where the first failed",
        source.state.status == Status::Failed && duo.state.status.name() == "completed",
    );
    let is_header = |ix| duo.plan.loops.iter().any(|one| one.header == ix);
    see("a loop is repeated", is_header(rerun.from));
    for reused in &rerun.reused {
        see("a loop is taken over", is_header(reused.node));
        let failed = matches!(reused.result, ReusedResult::Failed(_));
        see("a handled failure is taken over", failed);
        see("a canceled node is taken over", reused.result == ReusedResult::Canceled);
        let visited = duo.state.nodes[reused.node.at()].visit > Visit(0);
        see("what was taken over is visited after all", visited);
    }
    for (planned, node) in duo.plan.nodes.iter().zip(&duo.state.nodes) {
        let ix = duo.plan.node_ix(planned.key.as_str()).expect("a node of the plan");
        let is_reused = rerun.reused.iter().any(|reused| reused.node == ix);
        if is_reused || ix == rerun.from {
            continue;
        }
        let Some(there) = source.plan.node_ix(planned.key.as_str()) else {
            see("a node of the other version runs", node.scheduled_at.is_some());
            continue;
        };
        let before = &source.state.nodes[there.at()];
        see("a failure elsewhere runs again", before.phase == Phase::Failed);
        see("what was cut off runs again", before.cut_off.is_some());
        see("what was undone runs again", source.state.was_undone(there));
    }
}

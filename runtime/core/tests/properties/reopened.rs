//! What random executions meet of nodes that run again.

use troupe_core::Run;
use troupe_core::execution::{Effect, Event, Phase, Remedy};

use crate::support::duo::{Duo, Stimulus};

/// Every kind must be met.
pub const WANTED: [&str; 20] = [
    "next run",
    "next run after a cancellation",
    "third run",
    "run completed after a failed one",
    "retried while it runs",
    "skipped after all",
    "skipped after all with an output",
    "some of the failed nodes reopened",
    "running attempt aborted for another visit",
    "children given up for another visit",
    "ended again at once",
    "a later pass goes on",
    "a loop goes on that had ended",
    "a loop is entered anew",
    "a dropped pass is wanted again",
    "refused reopening: NOT_REOPENABLE",
    "refused reopening: CHILD_NOT_REOPENABLE",
    "refused reopening: NODE_NOT_FAILED",
    "refused reopening: NOTHING_TO_RETRY",
    "reopened child of nobody who waits",
];

pub fn met(duo: &Duo) -> Vec<String> {
    let mut met: Vec<String> = Vec::new();
    for (stimulus, code) in &duo.refused {
        if matches!(stimulus, Stimulus::Reopen { .. }) {
            met.push(format!("refused reopening: {code}"));
        }
    }
    let mut see = |what: &str, is_seen: bool| met.extend(is_seen.then(|| what.to_owned()));
    for (place, (entry, effects)) in duo.log.iter().enumerate() {
        let Event::Reopened(reopened) = &entry.event else {
            continue;
        };
        let (before, after) = (state_before(duo, place), state_before(duo, place + 1));
        see("next run", entry.reopens());
        see("next run after a cancellation", before.status.name() == "canceled");
        see(
            "retried while it runs",
            !entry.reopens() && reopened.remedy == Remedy::Retry,
        );
        see("skipped after all", reopened.remedy == Remedy::Skip(None));
        see(
            "skipped after all with an output",
            matches!(reopened.remedy, Remedy::Skip(Some(_))),
        );
        see("some of the failed nodes reopened", !reopened.nodes.is_empty());
        let aborts = |effect: &Effect| matches!(effect, Effect::AbortAttempt(_));
        see("running attempt aborted for another visit", effects.iter().any(aborts));
        let parts = |effect: &Effect| matches!(effect, Effect::TellChild(..));
        see("children given up for another visit", effects.iter().any(parts));
        see("ended again at once", effects.contains(&Effect::Finish));
        see(
            "reopened child of nobody who waits",
            before.parent.is_some() && entry.reopens(),
        );
        let loops = before.loops.iter().zip(&after.loops);
        for ((was, is), planned) in loops.zip(&duo.plan.loops) {
            let goes_on = was.finished && !is.finished && is.iteration >= was.iteration;
            see("a loop goes on that had ended", goes_on && !is.held.is_empty());
            see("a later pass goes on", goes_on && was.iteration > 1);
            let waits = after.nodes[planned.header.at()].phase == Phase::Pending;
            see("a loop is entered anew", was.finished && !is.finished && waits);
            see(
                "a dropped pass is wanted again",
                goes_on && !waits && !was.dropped.is_empty(),
            );
        }
    }
    see("third run", duo.state.run >= Run(3));
    see(
        "run completed after a failed one",
        duo.state.run > Run(1) && duo.state.status.name() == "completed",
    );
    met
}

/// The state that so many entries made.
pub(super) fn state_before(duo: &Duo, entries: usize) -> troupe_core::execution::ExecutionState {
    let mut state = troupe_core::execution::ExecutionState::new(&duo.plan, duo.state.id);
    for (entry, _) in &duo.log[..entries] {
        troupe_core::execution::replay(&duo.plan, &mut state, entry).unwrap();
    }
    state
}

//! What random executions meet of compensations.

use troupe_core::execution::{Effect, Event, Phase, Status, Stop};

use super::reopened::state_before;
use crate::support::duo::{Duo, Stimulus};

/// Every kind must be met.
pub const WANTED: [&str; 16] = [
    "undone",
    "undone after a failure",
    "undone after a cancellation",
    "three undone",
    "undone in a later visit",
    "same node undone twice",
    "could not be undone",
    "could not be undone, and the next one is",
    "undoing tried again",
    "undoing without an attempt",
    "undoing too slow",
    "undoing crashed",
    "undoing paused",
    "undoing given up",
    "nothing undone at once",
    "refused reopening of what was undone",
];

pub fn met(duo: &Duo) -> Vec<String> {
    let mut met: Vec<String> = Vec::new();
    let mut see = |what: &str, is_seen: bool| met.extend(is_seen.then(|| what.to_owned()));
    let Some(all) = duo.state.compensations.as_deref() else {
        return met;
    };
    let tried = || {
        all.visits
            .iter()
            .filter_map(|visit| Some((visit, visit.compensation.as_deref()?)))
    };
    let undone = || tried().filter(|(_, undoing)| undoing.phase == Phase::Completed);
    for (visit, undoing) in tried() {
        see("undoing tried again", undoing.attempts.len() > 1);
        let crashed = |record: &troupe_core::execution::AttemptRecord| record.cut_short == Some(Stop::Crash);
        see("undoing crashed", undoing.attempts.iter().any(crashed));
        let code = undoing.failure.as_ref().map(|failure| failure.error.code.as_str());
        see("could not be undone", code.is_some());
        see(
            "undoing without an attempt",
            code.is_some() && undoing.attempts.is_empty(),
        );
        see(
            "undoing too slow",
            code == Some("TIMEOUT") && undoing.attempts.is_empty(),
        );
        see("undoing given up", undoing.phase == Phase::Canceled);
        let is_later = undoing.phase == Phase::Completed && visit.visit.0 > 1;
        see("undone in a later visit", is_later);
    }
    let failed = tried().any(|(_, undoing)| undoing.phase == Phase::Failed);
    see(
        "could not be undone, and the next one is",
        failed && undone().count() > 0,
    );
    see("undone", undone().count() > 0);
    see("three undone", undone().count() > 2);
    let twice = |node| undone().filter(|(visit, _)| visit.node == node).count() > 1;
    see("same node undone twice", undone().any(|(visit, _)| twice(visit.node)));
    see(
        "undone after a failure",
        undone().count() > 0 && duo.state.status == Status::Failed,
    );
    let is_canceled = matches!(duo.state.status, Status::Canceled { .. });
    see("undone after a cancellation", undone().count() > 0 && is_canceled);
    see(
        "nothing undone at once",
        is_canceled && !all.visits.is_empty() && tried().count() == 0,
    );
    let reopens =
        |(stimulus, code): &(Stimulus, String)| matches!(stimulus, Stimulus::Reopen { .. }) && code == "NOT_REOPENABLE";
    let refused = duo.state.status.is_terminal() && duo.state.has_compensated() && duo.refused.iter().any(reopens);
    see("refused reopening of what was undone", refused);
    for (place, (entry, effects)) in duo.log.iter().enumerate() {
        let pauses = matches!(entry.event, Event::Paused) && !effects.contains(&Effect::Finish);
        let is_undoing = || matches!(state_before(duo, place).status, Status::Compensating(_));
        see("undoing paused", pauses && is_undoing());
    }
    met
}

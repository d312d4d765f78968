//! How breakers stand.

use std::collections::BTreeSet;

use troupe_actors::{BreakerHold, BreakerState};

use crate::world::process::{Process, Stage};

/// Everything of it that can be in use.
pub(super) const FEATURES: [&str; 6] = [
    "breaker open",
    "breaker half-open",
    "breaker held open",
    "breaker held closed",
    "parked",
    "admitted",
];

pub(super) fn of_process(process: &Process, features: &mut BTreeSet<&'static str>) {
    for view in process.guards.breakers.list() {
        let those = [
            (view.state == BreakerState::Open && view.held.is_none(), "breaker open"),
            (view.state == BreakerState::HalfOpen, "breaker half-open"),
            (view.held == Some(BreakerHold::Open), "breaker held open"),
            (view.held == Some(BreakerHold::Closed), "breaker held closed"),
        ];
        features.extend(those.into_iter().filter(|(is, _)| *is).map(|(_, name)| name));
    }
    for attempt in process.attempts.values() {
        features.extend((attempt.stage == Stage::Parked).then_some("parked"));
        features.extend(attempt.guarded.is_admitted().then_some("admitted"));
    }
}

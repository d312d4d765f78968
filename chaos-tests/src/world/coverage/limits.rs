//! What attempts wait for before they start.

use std::collections::BTreeSet;

use troupe_actors::AttemptWait;

use crate::world::process::{Process, Stage};

/// Everything of it that can be in use.
pub(super) const FEATURES: [&str; 4] = ["waits for slot", "has slot", "waits for type", "waits for permit"];

pub(super) fn of_process(process: &Process, features: &mut BTreeSet<&'static str>) {
    for attempt in process.attempts.values() {
        match attempt.stage {
            Stage::Queued => features.extend(attempt.place.waits_for().map(name)),
            Stage::Running(_) if attempt.place.has_slot() => _ = features.insert("has slot"),
            Stage::Running(_) | Stage::Leasing | Stage::Held | Stage::Barred | Stage::Parked => {}
        }
    }
}

fn name(wait: AttemptWait) -> &'static str {
    match wait {
        AttemptWait::Slot => "waits for slot",
        AttemptWait::NodeType => "waits for type",
        AttemptWait::Permit => "waits for permit",
        AttemptWait::Backlog => "waits for bus",
        AttemptWait::Breaker => "parked",
    }
}

//! What controls of a wider scope keep.

use std::collections::BTreeSet;

use troupe_core::control::{ControlKey, Setting};
use troupe_core::execution::ExecutionState;

use crate::world::process::{Process, Stage};

/// Everything of it that can be in use.
pub(super) const FEATURES: [&str; 10] = [
    "control in force",
    "stop in force",
    "stop that cancels",
    "control spreading",
    "held at the door",
    "held as a whole",
    "node held",
    "frozen by itself",
    "clock stands",
    "node's clock stands",
];

pub(super) fn of_process(process: &Process, features: &mut BTreeSet<&'static str>) {
    for serving in process.shards.values() {
        for (key, _, setting) in serving.controls.in_force.set().in_force() {
            features.insert("control in force");
            features.extend(matches!(key, ControlKey::Stop(_)).then_some("stop in force"));
            let cancels = setting == Setting::Stopped { cancel_running: true };
            features.extend(cancels.then_some("stop that cancels"));
        }
    }
    features.extend((!process.spreading.is_empty()).then_some("control spreading"));
    let barred = process.attempts.values().any(|attempt| attempt.stage == Stage::Barred);
    features.extend(barred.then_some("held at the door"));
}

pub(super) fn of_execution(state: &ExecutionState, features: &mut BTreeSet<&'static str>) {
    let Some(holds) = &state.holds else { return };
    let those = [
        (holds.whole, "held as a whole"),
        (!holds.nodes.is_empty(), "node held"),
        (holds.own_freeze, "frozen by itself"),
        (holds.clock.is_some(), "clock stands"),
        (!holds.clocks.is_empty(), "node's clock stands"),
    ];
    features.extend(those.into_iter().filter(|(is, _)| *is).map(|(_, name)| name));
}

//! What shards are told so that they agree on a control. No I/O, no clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use troupe_core::control::{ControlKey, ControlSet, Register, Setting};
use troupe_core::{CommandId, Timestamp};

use super::machine::{BEFORE_ALL, ControlRequest};

/// When a command counts as given, by what the shards know that are served. A repetition completes what it began, under the time of
/// that. A new command comes after whatever is there; where the control stands so in all of them it comes before, and only its id is
/// kept: none where it has none.
#[must_use]
pub fn given_at(
    sets: &[Arc<ControlSet>],
    key: &ControlKey,
    setting: Option<Setting>,
    command: Option<&CommandId>,
    now: Timestamp,
) -> Option<Timestamp> {
    let given = command.and_then(|id| sets.iter().find_map(|set| set.given_at(id)));
    if given.is_some() {
        return given;
    }
    let latest = sets.iter().filter_map(|set| set.register(key)).map(|known| known.at.0);
    let latest = latest.max();
    let stands_there = |set: &Arc<ControlSet>| set.register(key).and_then(|register| register.setting) == setting;
    if !sets.is_empty() && sets.iter().all(stands_there) {
        // Before all only where none has a register: one that is told and has none yet would keep the id alone, and not be set.
        let before = latest.map_or(BEFORE_ALL, |latest| Timestamp(latest.saturating_sub(1)));
        return command.map(|_| before);
    }
    Some(Timestamp(latest.map_or(now.0, |latest| now.0.max(latest + 1))))
}

/// What a control is set to by the latest command on it in these shards.
pub(super) fn standing(sets: &[Arc<ControlSet>], key: &ControlKey) -> Option<Setting> {
    let known = sets.iter().filter_map(|set| set.register(key));
    let latest = known.max_by(|one, other| (one.at, &one.command).cmp(&(other.at, &other.command)));
    latest.and_then(|register| register.setting)
}

/// The latest register of every control over these shards.
pub(super) fn latest(sets: &[Arc<ControlSet>]) -> BTreeMap<ControlKey, Register> {
    let mut found: BTreeMap<ControlKey, Register> = BTreeMap::new();
    for (key, register) in sets.iter().flat_map(|set| set.registers()) {
        if found.get(key).is_none_or(|known| is_older(known, register)) {
            found.insert(key.clone(), register.clone());
        }
    }
    found
}

fn is_older(known: &Register, register: &Register) -> bool {
    (known.at, &known.command) < (register.at, &register.command)
}

/// What a crash left half spread: which of these shards is to be told what another one knows later.
#[must_use]
pub fn behind(sets: &[Arc<ControlSet>]) -> Vec<(usize, ControlRequest)> {
    let mut told = Vec::new();
    for (key, register) in latest(sets) {
        let late = |set: &ControlSet| set.register(&key).is_none_or(|known| is_older(known, &register));
        for (place, _) in sets.iter().enumerate().filter(|(_, set)| late(set)) {
            let request = ControlRequest {
                at: register.at,
                key: key.clone(),
                setting: register.setting,
                command: register.command.clone(),
                principal: register.principal.clone(),
                reason: register.reason.clone(),
            };
            told.push((place, request));
        }
    }
    told
}

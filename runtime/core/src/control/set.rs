//! The registers of a shard, folded from its entries.

use std::collections::{BTreeMap, VecDeque};

use minicbor::{Decode, Encode};

use crate::id::{CommandId, Principal, Seq, Timestamp};

use super::{Clocks, ControlEntry, ControlKey, Scope, Setting};

/// How many controls may be in force at once, and how many lifted ones are remembered.
pub const CONTROLS_MAX: usize = 1_000;
/// How many command ids are remembered.
const RECENT_MAX: usize = 256;
/// Frozen spans that are kept before the nearest ones of a scope become one.
const SPANS_MAX: usize = 512;

/// A control as its latest command left it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Register {
    /// When the command was given.
    #[n(0)]
    pub at: Timestamp,
    /// The command.
    #[n(1)]
    pub command: CommandId,
    /// Who gave it.
    #[n(2)]
    pub principal: Option<Principal>,
    /// Why, for people.
    #[n(3)]
    pub reason: Option<String>,
    /// What it is set to; none where it was lifted.
    #[n(4)]
    pub setting: Option<Setting>,
}

/// A span of time in which the clocks of a scope stood still.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Freeze {
    /// The scope.
    #[n(0)]
    pub scope: Scope,
    /// From then on.
    #[n(1)]
    pub from: Timestamp,
    /// Until then; none while they stand.
    #[n(2)]
    pub until: Option<Timestamp>,
}

/// Every control of a shard. Folding the same entries gives an equal set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ControlSet {
    /// Seq of the last entry applied; 0 before the first.
    #[n(0)]
    seq: Seq,
    #[n(1)]
    registers: BTreeMap<ControlKey, Register>,
    /// Spans in which clocks stood, by beginning.
    #[n(2)]
    freezes: Vec<Freeze>,
    /// Commands applied last with their times, oldest first.
    #[n(3)]
    recent: VecDeque<(CommandId, Timestamp)>,
}

impl ControlSet {
    /// Seq of the last entry applied; 0 before the first.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Every register, lifted ones included.
    pub fn registers(&self) -> impl Iterator<Item = (&ControlKey, &Register)> {
        self.registers.iter()
    }

    /// Every control in force.
    pub fn in_force(&self) -> impl Iterator<Item = (&ControlKey, &Register, Setting)> {
        let set = |(key, register)| {
            let register: &Register = register;
            register.setting.map(|setting| (key, register, setting))
        };
        self.registers.iter().filter_map(set)
    }

    /// A register, if it was ever set.
    #[must_use]
    pub fn register(&self, key: &ControlKey) -> Option<&Register> {
        self.registers.get(key)
    }

    /// Spans in which clocks stood still, by beginning.
    #[must_use]
    pub fn freezes(&self) -> &[Freeze] {
        &self.freezes
    }

    /// When a command was given that was applied here lately.
    #[must_use]
    pub fn given_at(&self, command: &CommandId) -> Option<Timestamp> {
        let recent = self.recent.iter().find(|(known, _)| known == command);
        recent.map(|(_, at)| *at)
    }

    /// Whether one more control may be put in force.
    #[must_use]
    pub fn has_room_for(&self, key: &ControlKey) -> bool {
        self.registers
            .get(key)
            .is_some_and(|register| register.setting.is_some())
            || self.in_force().count() < CONTROLS_MAX
    }

    /// Applies an entry. One that is older than what its register holds, or is there for its id alone, changes no register.
    pub fn apply(&mut self, entry: &ControlEntry) {
        self.seq = self.seq.max(entry.seq);
        if self.given_at(&entry.command).is_none() {
            if self.recent.len() == RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back((entry.command.clone(), entry.at));
        }
        let known = self.registers.get(&entry.key);
        let is_older = known.is_some_and(|known| (known.at, &known.command) >= (entry.at, &entry.command));
        if is_older || entry.only_id {
            return;
        }
        if let ControlKey::Pause(scope) = &entry.key {
            let frozen = entry.setting == Some(Setting::Paused { clocks: Clocks::Freeze });
            self.freeze(scope, frozen, entry.at);
        }
        let register = Register {
            at: entry.at,
            command: entry.command.clone(),
            principal: entry.principal.clone(),
            reason: entry.reason.clone(),
            setting: entry.setting,
        };
        self.registers.insert(entry.key.clone(), register);
        self.forget_lifted();
    }

    /// The clocks of a scope stand from now on, or go.
    fn freeze(&mut self, scope: &Scope, frozen: bool, at: Timestamp) {
        let standing = |freeze: &&mut Freeze| freeze.scope == *scope && freeze.until.is_none();
        match (self.freezes.iter_mut().find(standing), frozen) {
            (Some(_), true) | (None, false) => {}
            (Some(open), false) => open.until = Some(at.max(open.from)),
            (None, true) => {
                let place = self.freezes.partition_point(|freeze| freeze.from <= at);
                let freeze = Freeze {
                    scope: scope.clone(),
                    from: at,
                    until: None,
                };
                self.freezes.insert(place, freeze);
                self.join_nearest();
            }
        }
    }

    /// Keeps the number of spans bounded: the two of one scope with the least time between them become one. Whoever waited through
    /// both is late by that time, and never early.
    fn join_nearest(&mut self) {
        if self.freezes.len() <= SPANS_MAX {
            return;
        }
        let mut nearest: Option<(u64, usize, usize)> = None;
        let mut last: BTreeMap<&Scope, usize> = BTreeMap::new();
        for (place, freeze) in self.freezes.iter().enumerate() {
            if let Some(before) = last.insert(&freeze.scope, place)
                && let Some(until) = self.freezes[before].until
            {
                let gap_ms = freeze.from.since_ms(until);
                if nearest.is_none_or(|(least_ms, ..)| gap_ms < least_ms) {
                    nearest = Some((gap_ms, before, place));
                }
            }
        }
        if let Some((_, before, place)) = nearest {
            let later = self.freezes.remove(place);
            self.freezes[before].until = later.until;
        }
    }

    /// Lifted registers are kept so that an older command that comes late does not set them again; the oldest go first.
    fn forget_lifted(&mut self) {
        let lifted = self.registers.iter().filter(|(_, register)| register.setting.is_none());
        if lifted.clone().count() <= CONTROLS_MAX {
            return;
        }
        let oldest = lifted
            .min_by_key(|(_, register)| register.at)
            .map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            self.registers.remove(&oldest);
        }
    }
}

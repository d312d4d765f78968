//! Faults that can be planted in every room of the engine, and what each must be seen to break.

use troupe_actors::Mutants;
use troupe_core::plan::CoreMutants;

use crate::campaign::first_breach;
use crate::crash::Violation;
use crate::world::Options;

/// A fault that can be planted.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// Where it is planted.
    pub room: &'static str,
    /// Plants it.
    pub plant: fn(&mut Options),
    /// What it breaks: one of these must be seen.
    pub breaks: &'static [&'static str],
}

impl Mutant {
    /// The first seed below `seeds_max` that catches it, and what it was seen to break.
    #[must_use]
    pub fn hunt(&self, seeds_max: u64) -> Option<(u64, Violation)> {
        let mut options = Options::default();
        (self.plant)(&mut options);
        first_breach(seeds_max, options, self.breaks)
    }
}

const fn mutant(
    name: &'static str,
    room: &'static str,
    breaks: &'static [&'static str],
    plant: fn(&mut Options),
) -> Mutant {
    Mutant {
        name,
        room,
        plant,
        breaks,
    }
}

fn core(plant: fn(&mut CoreMutants), options: &mut Options) {
    plant(&mut options.mutants.core);
}

fn engine(plant: fn(&mut Mutants), options: &mut Options) {
    plant(&mut options.mutants);
}

/// Every fault that can be planted.
pub const MUTANTS: [Mutant; 21] = [
    mutant("quorum_one_short", "core", &["C6"], |o| {
        core(|m| m.quorum_one_short = true, o)
    }),
    mutant("short_delays", "core", &["C8"], |o| core(|m| m.short_delays = true, o)),
    mutant("acknowledge_before_commit", "Execution", &["C1"], |o| {
        engine(|m| m.acknowledge_before_commit = true, o);
    }),
    mutant("no_completion_dedupe", "Execution", &["C2"], |o| {
        engine(|m| m.no_completion_dedupe = true, o);
    }),
    mutant("non_atomic_join_counter", "Execution", &["C2", "C6", "C12"], |o| {
        engine(|m| m.non_atomic_join_counter = true, o);
    }),
    mutant("effect_before_commit", "Execution", &["C3", "C4"], |o| {
        engine(|m| m.effect_before_commit = true, o);
    }),
    mutant("read_before_commit", "Execution", &["C11"], |o| {
        engine(|m| m.read_before_commit = true, o);
    }),
    mutant("children_not_resumed", "Execution", &["C12"], |o| {
        engine(|m| m.children_not_resumed = true, o);
    }),
    mutant("one_slot_too_many", "NodeAttempt", &["C6"], |o| {
        engine(|m| m.one_slot_too_many = true, o);
    }),
    mutant("no_door", "controls", &["C9"], |o| engine(|m| m.no_door = true, o)),
    mutant("nobody_is_parked", "breakers", &["C9"], |o| {
        engine(|m| m.nobody_is_parked = true, o);
    }),
    mutant("never_sets_aside", "Shard", &["C13"], |o| {
        engine(|m| m.never_sets_aside = true, o);
    }),
    mutant("unknown_append_is_done", "Committer", &["C1", "C2", "C4"], |o| {
        engine(|m| m.unknown_append_is_done = true, o);
    }),
    mutant("forgets_what_is_written", "Checkpointer", &["C1", "C2", "C10"], |o| {
        engine(|m| m.forgets_what_is_written = true, o);
    }),
    mutant("cursor_before_confirm", "sinks", &["C7"], |o| {
        engine(|m| m.cursor_before_confirm = true, o);
    }),
    mutant("spools_nothing", "sinks", &["C7"], |o| {
        engine(|m| m.spools_nothing = true, o);
    }),
    mutant("timer_removed_before_commit", "Timers", &["C8", "C12"], |o| {
        engine(|m| m.timer_removed_before_commit = true, o);
    }),
    mutant("timers_left_to_store", "Timers", &["C8", "C12"], |o| {
        engine(|m| m.timers_left_to_store = true, o);
    }),
    mutant("answers_unsynced", "store", &["C1"], |o| o.answers_unsynced = true),
    mutant("trims_unsent", "store", &["C7"], |o| o.trims_unsent = true),
    mutant("no_epoch_check", "store", &["C5"], |o| o.no_epoch_check = true),
];

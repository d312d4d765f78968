//! Faults that are planted in engines, and the torment that must show each of them.

use std::time::Duration;

use super::deployment::Setup;
use super::fault::{Fault, LineFault, Target};
use super::lab::Lab;
use super::plan::{Sizes, State, Strike, Trial};
use super::trial;
use crate::crash::Violation;
use crate::crash::child::Fault as Planted;

/// A planted fault.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What is planted.
    pub planted: Planted,
    /// What it breaks: one of these must be seen.
    pub breaks: &'static [&'static str],
    /// What shows it.
    strikes: fn() -> Vec<Strike>,
}

/// Trials in which a mutant must be caught.
const TRIES: u64 = 4;

const fn mutant(
    name: &'static str,
    planted: Planted,
    breaks: &'static [&'static str],
    strikes: fn() -> Vec<Strike>,
) -> Mutant {
    Mutant {
        name,
        planted,
        breaks,
        strikes,
    }
}

fn at(fault: Fault, after_ms: u64, holds_ms: u64) -> Strike {
    Strike {
        fault,
        after: Duration::from_millis(after_ms),
        holds: Duration::from_millis(holds_ms),
    }
}

/// An owner is frozen for longer than its lease, and thaws while its successor serves.
fn freeze() -> Vec<Strike> {
    vec![at(Fault::EngineFreeze, 0, 300), at(Fault::EngineFreeze, 400, 300)]
}

/// What engines say does not reach Redis any more, and then they die.
fn unheard() -> Vec<Strike> {
    let mut strikes = Vec::new();
    for round in 0..3 {
        let after = round * 4_500;
        strikes.push(at(Fault::Line(Target::Redis, LineFault::HalfOpen), after, 600));
        strikes.push(at(Fault::EngineKill, after + 300, 0));
    }
    strikes
}

/// Events cannot be published, and their engine dies.
fn unsent() -> Vec<Strike> {
    vec![
        at(Fault::Line(Target::RabbitMq, LineFault::HalfOpen), 0, 2_000),
        at(Fault::EngineKill, 1_500, 0),
    ]
}

/// Every fault that can be planted.
pub const MUTANTS: [Mutant; 8] = [
    mutant("no-epoch-check", Planted::NoEpochCheck, &["C5", "C2", "C1"], freeze),
    mutant(
        "lease-renewed-without-compare",
        Planted::RenewWithoutCompare,
        &["C5", "C12"],
        freeze,
    ),
    mutant(
        "publish-before-commit",
        Planted::PublishBeforeCommit,
        &["C7", "C12"],
        unheard,
    ),
    mutant(
        "log-trimmed-before-confirm",
        Planted::TrimBeforeConfirm,
        &["C7"],
        unsent,
    ),
    mutant("cursor-before-confirm", Planted::CursorBeforeConfirm, &["C7"], unsent),
    mutant(
        "acknowledge-before-commit",
        Planted::AcknowledgeBeforeCommit,
        &["C1"],
        unheard,
    ),
    mutant(
        "effect-before-commit",
        Planted::EffectBeforeCommit,
        &["C3", "C4"],
        unheard,
    ),
    mutant("read-before-commit", Planted::ReadBeforeCommit, &["C11"], unheard),
];

impl Mutant {
    /// What shows it first, if anything does.
    ///
    /// # Errors
    /// When the harness itself fails.
    pub fn hunt(&self, lab: &mut Lab, seed: u64) -> anyhow::Result<Option<Violation>> {
        for round in 0..TRIES {
            let trial = Trial {
                name: format!("planted {}", self.name),
                setup: Setup::Strict,
                state: State::Load,
                strikes: (self.strikes)(),
                seed: seed + round,
                clients: Sizes::SMOKE.clients,
                scale: 0,
                planted: Some(self.planted),
            };
            let outcome = trial::run(lab, &trial)?;
            let mut violations = outcome.violations.into_iter();
            if let Some(found) = violations.find(|found| self.breaks.contains(&found.invariant)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

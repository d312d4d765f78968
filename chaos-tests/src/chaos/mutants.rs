//! Faults that are planted in engines, and the torment that must show each of them.

use std::time::Duration;

use super::deployment::Setup;
use super::fault::{Fault, LineFault, Target};
use super::lab::Lab;
use super::plan::{SHARDS, SHARED, Sizes, State, Strike, Trial};
use super::trial::{self, Outcome};
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
    state: State,
    setup: Setup,
    shards: u16,
    clients: u32,
}

/// Trials in which a mutant must be caught.
const TRIES: u64 = 8;

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
        state: State::Load,
        setup: Setup::Strict,
        shards: SHARDS,
        clients: Sizes::SMOKE.clients,
    }
}

/// Few clients: a sink that is behind sends nothing too early.
const fn light(mutant: Mutant) -> Mutant {
    Mutant { clients: 2, ..mutant }
}

/// Many shards: where the successor has nothing to write, only what is left out keeps the old owner out.
const fn spread(mutant: Mutant) -> Mutant {
    Mutant { shards: 32, ..mutant }
}

/// Nobody asks for anything.
const fn idle(mutant: Mutant) -> Mutant {
    Mutant {
        state: State::Idle,
        ..mutant
    }
}

/// Several members serve.
const fn shared(mutant: Mutant) -> Mutant {
    Mutant {
        setup: Setup::Members,
        shards: SHARED,
        ..mutant
    }
}

/// Several members serve, on a Redis Cluster.
const fn clustered(mutant: Mutant) -> Mutant {
    Mutant {
        setup: Setup::Cluster,
        shards: SHARED,
        ..mutant
    }
}

/// Processes of the product serve.
const fn replicated(mutant: Mutant) -> Mutant {
    Mutant {
        setup: Setup::Replicas,
        shards: SHARED,
        ..mutant
    }
}

/// One that holds for no time is healed as soon as it has begun: the same one may follow.
fn at(fault: Fault, after_ms: u64, holds_ms: u64) -> Strike {
    Strike {
        fault,
        after: Duration::from_millis(after_ms),
        holds: Duration::from_millis(holds_ms),
    }
}

/// An owner is frozen for longer than its lease, and thaws while its successor serves; twice.
fn freeze() -> Vec<Strike> {
    vec![at(Fault::EngineFreeze, 0, 0), at(Fault::EngineFreeze, 300, 100)]
}

/// What an owner says is held up until its successor serves.
fn cut_off() -> Vec<Strike> {
    vec![at(Fault::EnginePartition, 0, 0), at(Fault::EnginePartition, 300, 100)]
}

/// What engines say does not reach Redis any more, and then they die.
fn unheard() -> Vec<Strike> {
    let mut strikes = Vec::new();
    for round in 0..2 {
        let after = round * 6_000;
        // Long enough for a sink to send what it had still to send, and what it should not have.
        strikes.push(at(Fault::Line(Target::Redis, LineFault::Partition), after, 1_700));
        strikes.push(at(Fault::EngineKill, after + 1_500, 0));
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

/// A member is frozen until the others have its shards.
fn member_frozen() -> Vec<Strike> {
    vec![at(Fault::MemberFreeze, 0, 500)]
}

/// What a member says is held up until the others have its shards; twice.
fn member_cut_off() -> Vec<Strike> {
    vec![at(Fault::MemberPartition, 0, 0), at(Fault::MemberPartition, 1_500, 300)]
}

/// A member dies while nobody can name its successor.
fn nobody_named() -> Vec<Strike> {
    vec![at(Fault::MemberKillWithoutPostgres, 0, 0)]
}

/// A member dies, and the others go on.
fn member_killed() -> Vec<Strike> {
    vec![at(Fault::MemberKill, 0, 500)]
}

/// Slots move from one master to another one.
fn slots_moved() -> Vec<Strike> {
    vec![at(Fault::ClusterSlotsMove, 0, 0)]
}

/// Messages start executions while replicas are killed.
fn poisoned() -> Vec<Strike> {
    vec![at(Fault::PoisonMessages, 0, 0)]
}

/// Replicas are killed while clients ask all of them.
fn gateway_killed() -> Vec<Strike> {
    vec![at(Fault::GatewayKill, 0, 500)]
}

/// Every fault that can be planted.
pub const MUTANTS: [Mutant; 18] = [
    spread(mutant("no-epoch-check", Planted::NoEpochCheck, &["C5"], cut_off)),
    idle(spread(mutant(
        "lease-renewed-without-compare",
        Planted::RenewWithoutCompare,
        &["C5"],
        freeze,
    ))),
    light(mutant(
        "publish-before-commit",
        Planted::PublishBeforeCommit,
        &["C7", "C12"],
        unheard,
    )),
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
    shared(mutant(
        "shard-taken-without-epoch",
        Planted::TakeWithoutEpoch,
        &["C5"],
        nobody_named,
    )),
    shared(mutant(
        "no-epoch-check-of-members",
        Planted::NoEpochCheck,
        &["C5"],
        member_cut_off,
    )),
    // Who has something to write is refused, whatever its lease says.
    idle(spread(shared(mutant(
        "members-renew-without-compare",
        Planted::RenewWithoutCompare,
        &["C5"],
        member_frozen,
    )))),
    shared(mutant(
        "limits-not-counted",
        Planted::AdmitWithoutCount,
        &["C6"],
        member_killed,
    )),
    shared(mutant(
        "tickets-not-given-back",
        Planted::KeepTickets,
        &["C12"],
        member_killed,
    )),
    shared(mutant("controls-hold-nothing", Planted::NoDoor, &["C9"], member_killed)),
    clustered(mutant(
        "redirected-append-counts-as-done",
        Planted::RedirectedIsDone,
        &["C1"],
        slots_moved,
    )),
    replicated(mutant(
        "message-accepted-before-start",
        Planted::AcceptMessageBeforeStart,
        &["C1"],
        poisoned,
    )),
    replicated(mutant(
        "message-starts-under-fresh-key",
        Planted::StartMessageUnderFreshKey,
        &["C1"],
        poisoned,
    )),
    replicated(mutant(
        "forwarded-under-fresh-key",
        Planted::ForwardUnderFreshKey,
        &["C1", "C2"],
        gateway_killed,
    )),
];

impl Mutant {
    /// What it is hunted on.
    #[must_use]
    pub fn setup(&self) -> Setup {
        self.setup
    }

    /// What shows it first, if anything does; `heard` is told of every trial.
    ///
    /// # Errors
    /// When the harness itself fails.
    pub fn hunt(&self, lab: &mut Lab, seed: u64, mut heard: impl FnMut(&Outcome)) -> anyhow::Result<Option<Violation>> {
        for round in 0..TRIES {
            let trial = Trial {
                name: format!("planted {}", self.name),
                setup: self.setup,
                state: self.state,
                strikes: (self.strikes)(),
                seed: seed + round,
                shards: self.shards,
                clients: self.clients,
                scale: 0,
                planted: Some(self.planted),
            };
            let outcome = trial::run(lab, &trial)?;
            heard(&outcome);
            let mut violations = outcome.violations.into_iter();
            if let Some(found) = violations.find(|found| self.breaks.contains(&found.invariant)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

//! Lets the faults of a trial come and go, some at the same time, and heals each of them, whatever fails.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::fault::{Fault, Target};
use super::lab::Lab;
use super::plan::{Strike, Trial};
use super::proxy::Proxy;
use super::servers::Redis;
use crate::world::random::Random;

/// What faults befall.
pub(super) trait Struck {
    /// A fault begins.
    fn begin(&mut self, fault: Fault, random: &mut Random, scale: u64) -> anyhow::Result<()>;

    /// A fault is healed.
    fn end(&mut self, fault: Fault) -> anyhow::Result<()>;

    /// Lets so much time pass, and meanwhile starts whoever ended by itself anew, and heals what is due.
    fn watch(&mut self, time: Duration) -> anyhow::Result<()>;

    /// The faults that hold.
    fn open(&mut self) -> &mut Open;

    /// Something for whoever reads the report.
    fn note(&mut self, what: String);

    /// What all trials share.
    fn lab(&mut self) -> &mut Lab;

    /// The Redis that is the master at first.
    fn master(&mut self) -> anyhow::Result<&mut Redis>;

    /// Does something to the line of all to a server, or to that of `one` process.
    fn with_line(&self, one: Option<u32>, target: Target, act: &dyn Fn(&Proxy)) -> anyhow::Result<()>;

    /// Heals what is due, first what its healing waits for.
    fn heal_due(&mut self) -> anyhow::Result<()> {
        while let Some(fault) = self.open().take_due(Instant::now()) {
            self.end(fault).with_context(|| format!("{} ends", fault.name()))?;
        }
        Ok(())
    }
}

/// Faults that hold, and when each is to be healed.
#[derive(Debug, Default)]
pub(super) struct Open(Vec<(Instant, Fault)>);

impl Open {
    fn push(&mut self, ends_at: Instant, fault: Fault) {
        self.0.push((ends_at, fault));
    }

    /// Whether nothing is broken.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether such a fault holds.
    pub(super) fn has(&self, such: impl Fn(Fault) -> bool) -> bool {
        self.0.iter().any(|(_, fault)| such(*fault))
    }

    fn next_end(&self) -> Option<Instant> {
        self.0.iter().map(|(ends_at, _)| *ends_at).min()
    }

    fn take_due(&mut self, now: Instant) -> Option<Fault> {
        self.next_end().filter(|ends_at| *ends_at <= now)?;
        self.take_next()
    }

    /// Takes out what is to be healed next. Who comes back is waited for: what it needs has to be there first.
    fn take_next(&mut self) -> Option<Fault> {
        let ends = |place: &usize| self.0[*place].0;
        let next = (0..self.0.len()).min_by_key(ends)?;
        let fault = self.0[next].1;
        let first = self.0.iter().position(|(_, other)| awaits(fault, *other));
        Some(self.0.swap_remove(first.unwrap_or(next)).1)
    }
}

/// Lets the faults of a trial come and go. Every one that began is healed in the end, whatever fails.
pub(super) fn strike(on: &mut impl Struck, trial: &Trial, random: &mut Random) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut strikes = trial.strikes.clone();
    strikes.sort_by_key(|strike| strike.after);
    let mut struck = strikes
        .iter()
        .try_for_each(|strike| begin(on, strike, begun, random, trial.scale));
    while let (Ok(()), Some(ends_at)) = (&struck, on.open().next_end()) {
        struck = on.watch(ends_at.saturating_duration_since(Instant::now()));
    }
    while let Some(fault) = on.open().take_next() {
        if let Err(error) = on.end(fault) {
            on.note(format!("{} ends: {error:#}", fault.name()));
        }
    }
    struck
}

fn begin(on: &mut impl Struck, strike: &Strike, begun: Instant, random: &mut Random, scale: u64) -> anyhow::Result<()> {
    let (fault, at) = (strike.fault, begun + strike.after);
    on.watch(at.saturating_duration_since(Instant::now()))?;
    // What is broken already cannot break again before it is healed.
    if on.open().has(|other| clashes(fault, other)) {
        return Ok(());
    }
    let begins = on.begin(fault, random, scale);
    on.open().push(at + strike.holds, fault);
    begins.with_context(|| format!("{} begins", fault.name()))
}

/// Whether one ends with waiting for what the other keeps away: an owner is to be told by Redis, a member is to come, which takes
/// shards by PostgreSQL and Redis.
fn awaits(one: Fault, other: Fault) -> bool {
    match one {
        Fault::EngineFreeze | Fault::EnginePartition | Fault::MemberFreeze | Fault::MemberPartition => {
            other.target() == Target::Redis
        }
        Fault::MemberKill
        | Fault::MemberDrain
        | Fault::MemberKillWithoutPostgres
        | Fault::GatewayKill
        | Fault::GatewayDrain
        | Fault::GatewayFreeze
        | Fault::PoisonMessages => {
            matches!(other.target(), Target::Redis | Target::Postgres)
        }
        _ => false,
    }
}

/// Whether one cannot begin while the other holds.
fn clashes(one: Fault, other: Fault) -> bool {
    let stops_postgres = |fault| matches!(fault, Fault::PostgresStop | Fault::MemberKillWithoutPostgres);
    if stops_postgres(one) && stops_postgres(other) {
        return true;
    }
    // Nobody comes while the servers are away.
    if one == Fault::MemberJoin && matches!(other.target(), Target::Redis | Target::Postgres) {
        return true;
    }
    let line = |fault| matches!(fault, Fault::Line(..));
    if line(one) && line(other) {
        return one.target() == other.target();
    }
    let is_process = |fault| !line(fault) && one.target() == other.target();
    match one.target() {
        Target::Engine => {
            let takes_over = |fault| matches!(fault, Fault::EngineFreeze | Fault::EnginePartition);
            one == other || takes_over(one) || takes_over(other)
        }
        // A server that is down is neither killed nor frozen nor asked; losing power cuts its line.
        Target::Redis => {
            is_process(one) && is_process(other) || one == Fault::RedisPowerLoss || other == Fault::RedisPowerLoss
        }
        // One member at a time.
        Target::Member => one.target() == other.target(),
        // One replica at a time, whatever else befalls all of them.
        Target::Gateway => {
            let befalls_all = |fault| matches!(fault, Fault::GatewayPartition | Fault::PoisonMessages);
            one == other || one.target() == other.target() && !befalls_all(one) && !befalls_all(other)
        }
        _ => is_process(one) && is_process(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::LineFault;
    use super::*;

    const REDIS_LINE: Fault = Fault::Line(Target::Redis, LineFault::HalfOpen);

    #[test]
    fn whoever_comes_finds_the_servers_that_it_needs() {
        for away in [Fault::RedisStall, Fault::PostgresStop, REDIS_LINE] {
            for coming in [
                Fault::MemberKill,
                Fault::MemberDrain,
                Fault::MemberKillWithoutPostgres,
                Fault::GatewayKill,
                Fault::PoisonMessages,
            ] {
                assert!(
                    awaits(coming, away),
                    "{} needs what {} keeps away",
                    coming.name(),
                    away.name()
                );
            }
            assert!(clashes(Fault::MemberJoin, away), "nobody joins during {}", away.name());
            assert!(!clashes(away, Fault::MemberJoin), "{} may follow", away.name());
        }
        assert!(awaits(Fault::MemberFreeze, Fault::RedisKill));
        assert!(!awaits(Fault::MemberFreeze, Fault::PostgresStop));
        assert!(!awaits(Fault::MemberKill, Fault::RabbitKill));
    }

    #[test]
    fn one_replica_is_hit_at_a_time_and_all_of_them_at_any() {
        assert!(clashes(Fault::GatewayKill, Fault::GatewayDrain));
        assert!(clashes(Fault::GatewayPartition, Fault::GatewayPartition));
        assert!(!clashes(Fault::GatewayKill, Fault::GatewayPartition));
        assert!(!clashes(Fault::PoisonMessages, Fault::GatewayDrain));
        assert!(!clashes(Fault::GatewayKill, Fault::RedisKill));
    }

    #[test]
    fn what_is_due_first_is_healed_first_but_for_what_it_waits_for() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut open = Open::default();
        open.push(later, Fault::PostgresStop);
        open.push(now, Fault::RabbitKill);
        open.push(now + Duration::from_millis(1), Fault::MemberKill);
        assert_eq!(open.take_due(now), Some(Fault::RabbitKill));
        assert_eq!(open.take_due(now), None);
        let due = [open.take_due(later), open.take_due(later), open.take_due(later)];
        assert_eq!(due, [Some(Fault::PostgresStop), Some(Fault::MemberKill), None]);
    }
}

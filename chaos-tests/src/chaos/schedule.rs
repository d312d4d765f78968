//! Lets the faults of a trial come and go, some at the same time, and heals each of them, whatever fails.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::fault::{Fault, Target};
use super::lab::Lab;
use super::plan::{Strike, Trial};
use super::proxy::Proxy;
use super::servers::Redis;
use crate::world::random::Random;

/// How often it is looked whether somebody ended, or something is due.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What faults befall.
pub(super) trait Struck {
    /// A fault begins.
    fn begin(&mut self, fault: Fault, random: &mut Random, scale: u64) -> anyhow::Result<()>;

    /// A fault is healed.
    fn end(&mut self, fault: Fault) -> anyhow::Result<()>;

    /// Starts whoever ended by itself anew.
    fn supervise(&mut self) -> anyhow::Result<()>;

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

    /// Lets so much time pass, and meanwhile looks after whoever ended, and heals what is due.
    fn watch(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            self.supervise()?;
            self.heal_due()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    /// Heals what is due, first what its healing waits for.
    fn heal_due(&mut self) -> anyhow::Result<()> {
        while let Some(fault) = self.open().take_due(Instant::now()) {
            self.end(fault).with_context(|| format!("{} ends", fault.name()))?;
        }
        Ok(())
    }
}

/// Faults that hold, and what did not begin since they did.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// When each is to be healed.
    faults: Vec<(Instant, Fault)>,
    left_out: Vec<Strike>,
}

impl Open {
    fn push(&mut self, ends_at: Instant, fault: Fault) {
        self.faults.push((ends_at, fault));
    }

    /// Whether nothing is broken.
    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether such a fault holds.
    pub(super) fn has(&self, such: impl Fn(Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| such(*fault))
    }

    /// A trial without what was left out of it.
    pub(super) fn played(&self, trial: &Trial) -> Trial {
        let mut played = trial.clone();
        for strike in &self.left_out {
            if let Some(place) = played.strikes.iter().position(|known| known == strike) {
                played.strikes.remove(place);
            }
        }
        played
    }

    /// Why a trial of two faults at once proves too little, where one of them did not meet the other.
    pub(super) fn lacks(&self, trial: &Trial) -> Option<String> {
        let strike = self.left_out.first().filter(|_| trial.strikes.len() == 2)?;
        Some(format!("{} did not meet the other fault", strike.fault.name()))
    }

    /// When the one at a place is healed. Who comes back is waited for: what it needs has to be there first.
    fn ends_at(&self, place: usize) -> Instant {
        let (ends_at, fault) = self.faults[place];
        let needed = self.faults.iter().filter(|(_, other)| awaits(fault, *other));
        needed.map(|(ends_at, _)| *ends_at).fold(ends_at, Ord::max)
    }

    fn next_end(&self) -> Option<Instant> {
        (0..self.faults.len()).map(|place| self.ends_at(place)).min()
    }

    fn take_due(&mut self, now: Instant) -> Option<Fault> {
        self.next_end().filter(|ends_at| *ends_at <= now)?;
        self.take_next()
    }

    /// Takes out what is to be healed next; of what ends together first what the other waits for.
    fn take_next(&mut self) -> Option<Fault> {
        let next = (0..self.faults.len()).min_by_key(|place| self.ends_at(*place))?;
        let fault = self.faults[next].1;
        let first = self.faults.iter().position(|(_, other)| awaits(fault, *other));
        Some(self.faults.swap_remove(first.unwrap_or(next)).1)
    }
}

/// Lets the faults of a trial come and go. Every one that began is healed in the end, whatever fails.
pub(super) fn strike(on: &mut impl Struck, trial: &Trial, random: &mut Random) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut strikes = trial.strikes.clone();
    strikes.sort_by_key(|strike| strike.after);
    let mut waiting = strikes.iter();
    let mut struck = waiting.try_for_each(|strike| begin(on, strike, begun, random, trial.scale));
    // Those behind one that could not begin never do.
    on.open().left_out.extend(waiting);
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
        on.open().left_out.push(*strike);
        on.note(format!("{} was left out: what holds rules it out", fault.name()));
        return Ok(());
    }
    let begins = on.begin(fault, random, scale);
    // Some begin with waiting for what they are about: it holds from then on, so that the next one meets it.
    on.open().push(at.max(Instant::now()) + strike.holds, fault);
    begins.with_context(|| format!("{} begins", fault.name()))
}

/// Two faults in an order in which the second one can begin while the first one holds; none: each rules the other one out.
pub(super) fn in_order(one: Fault, other: Fault) -> Option<(Fault, Fault)> {
    let orders = [(one, other), (other, one)];
    orders.into_iter().find(|(first, second)| !clashes(*second, *first))
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
            let loses_power = |fault| fault == Fault::RedisPowerLoss;
            is_process(one) && is_process(other)
                || one.target() == other.target() && (loses_power(one) || loses_power(other))
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
    #![allow(clippy::unwrap_used)]
    use super::super::fault::LineFault;
    use super::super::plan::{Sizes, State, single};
    use super::*;

    /// Longer than any test takes.
    const HOLDS: Duration = Duration::from_secs(60);
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
    fn who_loses_power_meets_what_befalls_others_and_not_its_own_line() {
        assert!(clashes(Fault::RedisPowerLoss, REDIS_LINE) && clashes(REDIS_LINE, Fault::RedisPowerLoss));
        assert!(clashes(Fault::RedisPowerLoss, Fault::RedisStall));
        assert!(!clashes(Fault::RedisPowerLoss, Fault::MemberKill));
        assert!(!clashes(Fault::RedisPowerLoss, Fault::PostgresStop));
    }

    #[test]
    fn who_comes_comes_first_and_what_rules_each_other_out_has_no_order() {
        let joined = Some((Fault::MemberJoin, Fault::RedisKill));
        assert_eq!(in_order(Fault::RedisKill, Fault::MemberJoin), joined);
        assert_eq!(in_order(Fault::MemberJoin, Fault::RedisKill), joined);
        assert_eq!(in_order(Fault::EngineFreeze, Fault::EngineKill), None);
        assert_eq!(in_order(Fault::MemberKillWithoutPostgres, Fault::PostgresStop), None);
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

    #[test]
    fn what_comes_back_is_healed_no_sooner_than_what_it_waits_for() {
        let now = Instant::now();
        let mut open = Open::default();
        open.push(now, Fault::MemberKill);
        open.push(now + HOLDS, Fault::RedisStall);
        assert_eq!((open.next_end(), open.take_due(now)), (Some(now + HOLDS), None));
        let due = [open.take_due(now + HOLDS), open.take_due(now + HOLDS)];
        assert_eq!(due, [Some(Fault::RedisStall), Some(Fault::MemberKill)]);
    }

    /// For whom a time passes at once. It takes down what held when something began.
    #[derive(Default)]
    struct Board {
        open: Open,
        met: Vec<(Fault, Vec<Fault>)>,
        notes: Vec<String>,
    }

    impl Struck for Board {
        fn begin(&mut self, fault: Fault, _: &mut Random, _: u64) -> anyhow::Result<()> {
            let held = self.open.faults.iter().map(|(_, fault)| *fault);
            self.met.push((fault, held.collect()));
            Ok(())
        }

        fn end(&mut self, _: Fault) -> anyhow::Result<()> {
            Ok(())
        }

        fn supervise(&mut self) -> anyhow::Result<()> {
            Ok(())
        }

        fn watch(&mut self, time: Duration) -> anyhow::Result<()> {
            self.heal_due()?;
            if !time.is_zero() {
                while self.open.take_next().is_some() {}
            }
            Ok(())
        }

        fn open(&mut self) -> &mut Open {
            &mut self.open
        }

        fn note(&mut self, what: String) {
            self.notes.push(what);
        }

        fn lab(&mut self) -> &mut Lab {
            unreachable!("a board has no servers")
        }

        fn master(&mut self) -> anyhow::Result<&mut Redis> {
            unreachable!("a board has no servers")
        }

        fn with_line(&self, _: Option<u32>, _: Target, _: &dyn Fn(&Proxy)) -> anyhow::Result<()> {
            Ok(())
        }
    }

    fn at_once(fault: Fault) -> Strike {
        Strike {
            fault,
            after: Duration::ZERO,
            holds: HOLDS,
        }
    }

    fn trial(faults: &[Fault]) -> Trial {
        Trial {
            strikes: faults.iter().map(|fault| at_once(*fault)).collect(),
            ..single(faults[0], State::Load, HOLDS, 1, Sizes::SMOKE)
        }
    }

    #[test]
    fn one_that_took_long_to_begin_holds_when_the_next_one_begins() {
        let mut board = Board::default();
        let planned = Instant::now() - 2 * HOLDS;
        for fault in [Fault::MemberKill, Fault::RabbitKill] {
            begin(&mut board, &at_once(fault), planned, &mut Random::new(1), 0).unwrap();
        }
        assert_eq!(board.met[1], (Fault::RabbitKill, vec![Fault::MemberKill]));
    }

    #[test]
    fn a_pair_of_which_one_was_left_out_proves_too_little() {
        let struck = |faults: &[Fault]| {
            let (mut board, trial) = (Board::default(), trial(faults));
            strike(&mut board, &trial, &mut Random::new(1)).unwrap();
            let (lacks, played) = (board.open.lacks(&trial), board.open.played(&trial));
            (lacks.is_some(), played.strikes.len(), board.notes.len())
        };
        assert_eq!(struck(&[Fault::MemberJoin, Fault::RedisKill]), (false, 2, 0));
        assert_eq!(struck(&[Fault::RedisKill, Fault::MemberJoin]), (true, 1, 1));
        // One of several is only noted.
        let several = [Fault::RedisKill, Fault::MemberJoin, Fault::RabbitKill];
        assert_eq!(struck(&several), (false, 2, 1));
    }
}

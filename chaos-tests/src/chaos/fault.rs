//! What can be broken: one variant a fault, with what it hits, how it begins and how it is healed.

mod cluster;
mod embedded;
mod engine;
mod events;
pub(super) mod line;
mod member;
mod redis;
pub(super) mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;

use super::deployment::{Deployment, Setup};
use super::engine::Order;
use super::{poisoned, restart};
use crate::crash::switches::{Act, EXECUTION_PANICS, Moment, came};
use crate::world::random::Random;

/// What a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An engine process.
    Engine,
    /// Redis.
    Redis,
    /// RabbitMQ.
    RabbitMq,
    /// PostgreSQL.
    Postgres,
    /// The embedded store's files.
    Disk,
    /// Consumers of events.
    Consumers,
    /// One of several members.
    Member,
    /// The gateway: processes of the product, and what they are asked.
    Gateway,
}

/// How a line between engines and a server breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LineFault {
    /// Everything takes longer.
    Latency,
    /// Open connections are reset, again and again.
    Reset,
    /// Connections are taken, and nothing passes in either direction.
    HalfOpen,
    /// As half open; when the line is sound again, its connections and what was on its way are gone.
    Partition,
    /// What engines say does not arrive.
    OneWay,
    /// Bytes trickle.
    SlowBytes,
}

impl LineFault {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Latency,
        Self::Reset,
        Self::HalfOpen,
        Self::Partition,
        Self::OneWay,
        Self::SlowBytes,
    ];
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of an engine.
    EngineKill,
    /// An engine ends at a named moment.
    EngineKillAt(Moment),
    /// An engine is frozen for longer than its lease, replaced, and thawed.
    EngineFreeze,
    /// An engine does not reach Redis until another one has its shards; then all that it said arrives.
    EnginePartition,
    /// The actor at a named moment panics.
    ActorPanic(Moment),
    /// The clock of an engine jumps, and later jumps back.
    ClockStep(i64),
    /// Ten times as many starts at once as there may be executions.
    Overload,
    /// Many executions wait when their engine is killed, half of them for one and the same second soon after.
    MassRestart,
    /// Actors of executions panic in the middle of a step, again and again.
    ExecutionPanic,
    /// `kill -9` of Redis.
    RedisKill,
    /// Redis loses its power: what it had not synced before it answered is gone.
    RedisPowerLoss,
    /// Redis is killed in the middle of a write: its file ends with half a command.
    RedisTornTail,
    /// Redis does not answer.
    RedisStall,
    /// Redis takes no more bytes.
    RedisOutOfMemory,
    /// Redis loses its power and about a second of what it acknowledged.
    RedisSecondLost,
    /// A replica takes over that has not heard the latest.
    RedisFailover,
    /// The same, and the engine dies before it could give the new master what that lacks.
    RedisFailoverWithoutOwner,
    /// `kill -9` of RabbitMQ.
    RabbitKill,
    /// RabbitMQ is short of memory.
    RabbitMemoryAlarm,
    /// RabbitMQ is short of disk.
    RabbitDiskAlarm,
    /// RabbitMQ does not answer.
    RabbitStall,
    /// Somebody deletes the exchange.
    ExchangeDeleted,
    /// Consumers of events take their time.
    SlowConsumer,
    /// PostgreSQL stops as in a crash.
    PostgresStop,
    /// A line breaks.
    Line(Target, LineFault),
    /// The disk of the embedded store is full.
    DiskFull,
    /// The disk of the embedded store does not sync.
    SyncsFail,
    /// `kill -9` of one of several members; it is replaced once the others have its shards.
    MemberKill,
    /// A member is told to leave, hands its shards over, ends, and is replaced.
    MemberDrain,
    /// One more member comes.
    MemberJoin,
    /// A member is frozen until the others have its shards, and thawed.
    MemberFreeze,
    /// A member does not reach Redis until the others have its shards; then all that it said arrives.
    MemberPartition,
    /// A member dies while PostgreSQL is down: nobody may become an owner, and owners go on.
    MemberKillWithoutPostgres,
    /// The clock of one member jumps, and later jumps back: for so long members do not agree on the time.
    MemberClock(i64),
    /// The line of one member to a server breaks.
    MemberLine(Target, LineFault),
    /// Messages that can start nothing, among good ones, while replicas are killed and their connections to the broker cut.
    PoisonMessages,
    /// `kill -9` of replicas while clients ask all of them.
    GatewayKill,
    /// Replicas are told to leave while clients ask all of them.
    GatewayDrain,
    /// No replica reaches another one; then what was on its way is gone.
    GatewayPartition,
    /// Replicas stand still until the others have their shards, and go on.
    GatewayFreeze,
    /// The slots of a master's shards move to another one, key by key.
    ClusterSlotsMove,
    /// `kill -9` of the master of most shards; it is back before a replica takes over.
    ClusterMasterKill,
    /// A replica that has everything takes over from its master.
    ClusterFailover,
    /// A replica takes over that has not heard the latest.
    ClusterTakeover,
    /// The same, and one of those who could give the new master what that lacks dies before.
    ClusterTakeoverWithoutOwner,
}

/// What must hold after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expects {
    /// Every promise.
    Everything,
    /// Something acknowledged may be lost, but the engine must say so.
    ToldLoss,
}

impl Fault {
    /// Every fault once, those with variants in their plainest one.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::EngineKill];
        all.extend(Moment::ALL.map(Self::EngineKillAt));
        all.extend([Self::EngineFreeze, Self::EnginePartition]);
        all.extend([Moment::Attempting, Moment::Appending, Moment::Publishing].map(Self::ActorPanic));
        all.push(Self::ExecutionPanic);
        all.extend([Self::ClockStep(4_000), Self::ClockStep(-4_000)]);
        all.extend([Self::Overload, Self::MassRestart]);
        all.extend([
            Self::RedisKill,
            Self::RedisPowerLoss,
            Self::RedisTornTail,
            Self::RedisStall,
        ]);
        all.extend([Self::RedisOutOfMemory, Self::RedisSecondLost]);
        all.extend([Self::RedisFailover, Self::RedisFailoverWithoutOwner]);
        all.extend([Self::RabbitKill, Self::RabbitMemoryAlarm, Self::RabbitDiskAlarm]);
        all.extend([
            Self::RabbitStall,
            Self::ExchangeDeleted,
            Self::SlowConsumer,
            Self::PostgresStop,
        ]);
        for target in [Target::Redis, Target::Postgres, Target::RabbitMq] {
            all.extend(LineFault::ALL.map(|fault| Self::Line(target, fault)));
        }
        all.extend([Self::DiskFull, Self::SyncsFail]);
        all.extend([
            Self::MemberKill,
            Self::MemberDrain,
            Self::MemberJoin,
            Self::MemberFreeze,
        ]);
        all.extend([Self::MemberPartition, Self::MemberKillWithoutPostgres]);
        all.extend([Self::MemberClock(4_000), Self::MemberClock(-4_000)]);
        for target in [Target::Redis, Target::Postgres, Target::RabbitMq] {
            all.extend(LineFault::ALL.map(|fault| Self::MemberLine(target, fault)));
        }
        all.extend([
            Self::PoisonMessages,
            Self::GatewayKill,
            Self::GatewayDrain,
            Self::GatewayPartition,
            Self::GatewayFreeze,
        ]);
        all.extend([Self::ClusterSlotsMove, Self::ClusterMasterKill]);
        all.extend([Self::ClusterFailover, Self::ClusterTakeover]);
        all.push(Self::ClusterTakeoverWithoutOwner);
        // At the end: by its place in this list the smoke gives each fault its state.
        all.extend([Moment::Checkpointing, Moment::Renewing].map(Self::ActorPanic));
        all
    }

    /// Its name, by which it can be asked for.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::EngineKillAt(moment) => format!("engine-kill-at-{}", dashed(&format!("{moment:?}"))),
            Self::ActorPanic(moment) => format!("actor-panic-{}", dashed(&format!("{moment:?}"))),
            Self::ClockStep(by_ms) => clock_name(by_ms).to_owned(),
            Self::MemberClock(by_ms) => format!("member-{}", clock_name(by_ms)),
            Self::Line(target, fault) => line_name(target, fault),
            Self::MemberLine(target, fault) => format!("member-{}", line_name(target, fault)),
            other => dashed(&format!("{other:?}")),
        }
    }

    /// What it hits.
    #[must_use]
    pub fn target(self) -> Target {
        match self {
            Self::EngineKill
            | Self::EngineKillAt(_)
            | Self::EngineFreeze
            | Self::EnginePartition
            | Self::ActorPanic(_)
            | Self::ExecutionPanic
            | Self::ClockStep(_)
            | Self::Overload
            | Self::MassRestart => Target::Engine,
            Self::RedisKill
            | Self::RedisPowerLoss
            | Self::RedisTornTail
            | Self::RedisStall
            | Self::RedisOutOfMemory
            | Self::RedisSecondLost
            | Self::RedisFailover
            | Self::RedisFailoverWithoutOwner
            | Self::ClusterSlotsMove
            | Self::ClusterMasterKill
            | Self::ClusterFailover
            | Self::ClusterTakeover
            | Self::ClusterTakeoverWithoutOwner => Target::Redis,
            Self::RabbitKill
            | Self::RabbitMemoryAlarm
            | Self::RabbitDiskAlarm
            | Self::RabbitStall
            | Self::ExchangeDeleted => Target::RabbitMq,
            Self::SlowConsumer => Target::Consumers,
            Self::PostgresStop => Target::Postgres,
            Self::Line(target, _) => target,
            Self::DiskFull | Self::SyncsFail => Target::Disk,
            Self::MemberKill
            | Self::MemberDrain
            | Self::MemberJoin
            | Self::MemberFreeze
            | Self::MemberPartition
            | Self::MemberKillWithoutPostgres
            | Self::MemberClock(_)
            | Self::MemberLine(..) => Target::Member,
            Self::PoisonMessages
            | Self::GatewayKill
            | Self::GatewayDrain
            | Self::GatewayPartition
            | Self::GatewayFreeze => Target::Gateway,
        }
    }

    /// What a deployment must keep its state on for it. All but the first are for runs that ask for them.
    #[must_use]
    pub fn setups(self) -> &'static [Setup] {
        use Setup::{Cluster, Embedded, Members, Relaxed, Replicas, Sentinel, Strict};
        match self {
            Self::RedisPowerLoss => &[Strict, Members, Replicas],
            Self::RedisSecondLost => &[Relaxed],
            Self::EngineFreeze | Self::EnginePartition => &[Strict, Relaxed],
            Self::RedisKill
            | Self::RedisTornTail
            | Self::RedisStall
            | Self::RedisOutOfMemory
            | Self::Line(Target::Redis, _) => &[Strict, Relaxed, Members, Replicas],
            Self::Line(Target::Postgres, _) | Self::PostgresStop => &[Strict, Relaxed, Members, Cluster, Replicas],
            Self::RabbitKill
            | Self::RabbitMemoryAlarm
            | Self::RabbitDiskAlarm
            | Self::RabbitStall
            | Self::Line(Target::RabbitMq, _) => &[Strict, Relaxed, Embedded, Members, Cluster, Replicas],
            Self::RedisFailover | Self::RedisFailoverWithoutOwner => &[Sentinel],
            Self::DiskFull | Self::SyncsFail => &[Embedded],
            // What they do they do to whoever has everything.
            Self::ClockStep(_) | Self::Overload | Self::MassRestart => &[Strict, Relaxed, Embedded],
            _ if self.target() == Target::Gateway => &[Replicas],
            Self::ClusterSlotsMove
            | Self::ClusterMasterKill
            | Self::ClusterFailover
            | Self::ClusterTakeover
            | Self::ClusterTakeoverWithoutOwner => &[Cluster],
            // Between a cluster and its clients there is no line.
            Self::MemberPartition | Self::MemberLine(Target::Redis, _) => &[Members],
            _ if self.target() == Target::Member => &[Members, Cluster],
            _ => &[Strict, Relaxed, Embedded, Members, Cluster],
        }
    }

    /// What is counted when it strikes, where it waits for a moment that may never come; none: it strikes when it begins.
    pub(super) fn sign(self) -> Option<String> {
        match self {
            Self::EngineKillAt(moment) => Some(came(Act::Die, moment)),
            Self::ActorPanic(moment) => Some(came(Act::Panic, moment)),
            Self::ExecutionPanic => Some(EXECUTION_PANICS.to_owned()),
            _ => None,
        }
    }

    /// How often it struck a trial in which it began so often and in which this was counted.
    pub(super) fn hits(self, begun: u64, counted: &BTreeMap<String, u64>) -> u64 {
        self.sign()
            .map_or(begun, |sign| counted.get(&sign).copied().unwrap_or(0).min(begun))
    }

    /// What must hold after it.
    #[must_use]
    pub fn expects(self) -> Expects {
        match self {
            Self::RedisSecondLost | Self::RedisFailoverWithoutOwner | Self::ClusterTakeoverWithoutOwner => {
                Expects::ToldLoss
            }
            _ => Expects::Everything,
        }
    }

    /// How long it holds, where nobody says.
    #[must_use]
    pub fn holds(self) -> Duration {
        Duration::from_millis(match self {
            Self::RedisStall | Self::RabbitStall | Self::SlowConsumer => 5_000,
            Self::Line(_, LineFault::HalfOpen | LineFault::Partition | LineFault::OneWay)
            | Self::MemberLine(_, LineFault::HalfOpen | LineFault::Partition | LineFault::OneWay)
            | Self::MemberClock(_) => 3_000,
            Self::Line(..)
            | Self::MemberLine(..)
            | Self::ClockStep(_)
            | Self::PostgresStop
            | Self::RedisOutOfMemory => 2_000,
            Self::RabbitMemoryAlarm | Self::RabbitDiskAlarm | Self::RabbitKill | Self::DiskFull | Self::SyncsFail => {
                1_500
            }
            Self::RedisKill | Self::RedisTornTail => 500,
            Self::EngineFreeze | Self::EnginePartition => 100,
            Self::RedisFailover | Self::RedisFailoverWithoutOwner => 8_000,
            Self::EngineKillAt(_) | Self::ActorPanic(_) | Self::ExecutionPanic | Self::ClusterMasterKill => 1_500,
            // That of a master's keys takes at least as long.
            Self::ClusterSlotsMove => 1_500,
            Self::ClusterTakeover | Self::ClusterTakeoverWithoutOwner => 5_000,
            // They begin with waiting for what they are about.
            Self::MemberKill
            | Self::MemberDrain
            | Self::MemberJoin
            | Self::MemberFreeze
            | Self::MemberPartition
            | Self::MemberKillWithoutPostgres
            | Self::ClusterFailover => 500,
            Self::GatewayKill | Self::GatewayFreeze | Self::PoisonMessages => 500,
            Self::GatewayPartition => 2_500,
            // When they have begun, all that is left of them is what comes after.
            Self::GatewayDrain
            | Self::EngineKill
            | Self::Overload
            | Self::MassRestart
            | Self::RedisPowerLoss
            | Self::RedisSecondLost
            | Self::ExchangeDeleted => 0,
        })
    }

    /// Begins it.
    pub(super) fn begin(self, on: &mut Deployment<'_>, random: &mut Random, scale: u64) -> anyhow::Result<()> {
        match self {
            Self::EngineKill => engine::kill(on),
            Self::EngineKillAt(moment) => engine::kill_at(on, moment),
            Self::EngineFreeze => engine::freeze(on),
            Self::EnginePartition => engine::cut_off(on),
            Self::ActorPanic(moment) => {
                let act = Act::Panic;
                on.tell(&Order::Arm { moment, act })
            }
            Self::ClockStep(by_ms) => on.tell(&Order::StepClock { by_ms }),
            Self::Overload => engine::overload(on),
            Self::MassRestart => restart::run(on, scale),
            Self::ExecutionPanic => poisoned::begin(on),
            Self::RedisKill
            | Self::RedisPowerLoss
            | Self::RedisTornTail
            | Self::RedisStall
            | Self::RedisOutOfMemory
            | Self::RabbitKill
            | Self::RabbitMemoryAlarm
            | Self::RabbitDiskAlarm
            | Self::RabbitStall
            | Self::PostgresStop
            | Self::Line(..) => server::begin(self, on, random),
            Self::RedisSecondLost => redis::lose_a_second(on),
            Self::RedisFailover => redis::fail_over(on, false),
            Self::RedisFailoverWithoutOwner => redis::fail_over(on, true),
            Self::ExchangeDeleted => events::delete_exchange(on),
            Self::SlowConsumer => {
                on.listener.slow_down(Duration::from_millis(20));
                Ok(())
            }
            Self::DiskFull => embedded::fill(on),
            Self::SyncsFail => on.tell(&Order::FailSyncs { is_on: true }),
            Self::MemberKill => member::kill(on, random),
            Self::MemberDrain => member::drain(on, random),
            Self::MemberJoin => member::join(on),
            Self::MemberFreeze => member::freeze(on, random),
            Self::MemberPartition => member::cut_off(on, random),
            Self::MemberKillWithoutPostgres => member::kill_without_postgres(on, random),
            Self::MemberClock(by_ms) => member::step_clock(on, by_ms, random),
            Self::MemberLine(target, fault) => member::bend(on, target, fault, random),
            Self::PoisonMessages
            | Self::GatewayKill
            | Self::GatewayDrain
            | Self::GatewayPartition
            | Self::GatewayFreeze => {
                bail!("{} befalls replicas, and these are engine processes", self.name())
            }
            Self::ClusterSlotsMove => cluster::begin_to_move(on),
            Self::ClusterMasterKill => cluster::kill_master(on),
            Self::ClusterFailover => cluster::fail_over(on),
            Self::ClusterTakeover => cluster::take_over(on, false),
            Self::ClusterTakeoverWithoutOwner => cluster::take_over(on, true),
        }
    }

    /// Heals it.
    pub(super) fn end(self, on: &mut Deployment<'_>) -> anyhow::Result<()> {
        match self {
            Self::EngineFreeze | Self::EnginePartition => engine::thaw(on),
            Self::ClockStep(_) => on.tell(&Order::StepClock { by_ms: 0 }),
            Self::ExecutionPanic => poisoned::end(on),
            Self::RedisKill
            | Self::RedisPowerLoss
            | Self::RedisTornTail
            | Self::RedisStall
            | Self::RedisOutOfMemory
            | Self::RabbitKill
            | Self::RabbitMemoryAlarm
            | Self::RabbitDiskAlarm
            | Self::RabbitStall
            | Self::PostgresStop
            | Self::Line(..) => server::end(self, on),
            Self::SlowConsumer => {
                on.listener.slow_down(Duration::ZERO);
                Ok(())
            }
            Self::MemberKill | Self::MemberDrain => on.restore(),
            Self::MemberFreeze => member::thaw(on),
            Self::MemberPartition => member::reach_again(on),
            Self::MemberKillWithoutPostgres => member::order_again(on),
            Self::MemberLine(target, fault) => member::straighten(on, target, fault),
            Self::MemberClock(_) => member::set_clock_right(on),
            Self::ClusterSlotsMove => cluster::until_moved(on),
            Self::ClusterMasterKill => cluster::run_master(on),
            Self::ClusterFailover | Self::ClusterTakeover => cluster::settle(on),
            Self::ClusterTakeoverWithoutOwner => {
                cluster::settle(on)?;
                on.restore()
            }
            Self::DiskFull => embedded::free(on),
            Self::SyncsFail => on.tell(&Order::FailSyncs { is_on: false }),
            Self::EngineKill
            | Self::EngineKillAt(_)
            | Self::ActorPanic(_)
            | Self::Overload
            | Self::MassRestart
            | Self::RedisSecondLost
            | Self::RedisFailover
            | Self::RedisFailoverWithoutOwner
            | Self::ExchangeDeleted
            | Self::MemberJoin
            | Self::PoisonMessages
            | Self::GatewayKill
            | Self::GatewayDrain
            | Self::GatewayPartition
            | Self::GatewayFreeze => Ok(()),
        }
    }
}

/// Executions with an actor that a deployment which is to be overloaded has room for.
pub(super) fn engine_limit() -> usize {
    engine::EXECUTIONS_MAX
}

/// How long the shards of a member that is gone may be without an owner.
pub(super) fn taken_within() -> Duration {
    member::TAKEN_WITHIN
}

fn clock_name(by_ms: i64) -> &'static str {
    if by_ms < 0 { "clock-back" } else { "clock-forward" }
}

fn line_name(target: Target, fault: LineFault) -> String {
    let (target, fault) = (format!("{target:?}"), dashed(&format!("{fault:?}")));
    format!("line-{}-{fault}", target.to_ascii_lowercase())
}

/// `KillAt` as `kill-at`.
fn dashed(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    for (place, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && place > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        let names: BTreeSet<String> = Fault::all().into_iter().map(Fault::name).collect();
        assert_eq!(names.len(), Fault::all().len());
        assert!(
            names.contains("line-redis-half-open") && names.contains("clock-back"),
            "{names:?}"
        );
        assert!(
            names.contains("actor-panic-checkpointing") && names.contains("actor-panic-renewing"),
            "{names:?}"
        );
    }

    #[test]
    fn what_waits_for_a_moment_has_struck_when_that_came_and_all_else_when_it_began() {
        let die = Fault::EngineKillAt(Moment::Renewing);
        let panic = Fault::ActorPanic(Moment::Renewing);
        let nothing = BTreeMap::new();
        let struck = |fault: Fault, counted| fault.hits(2, counted);
        assert_eq!([struck(die, &nothing), struck(panic, &nothing)], [0, 0]);
        assert_eq!(struck(Fault::ExecutionPanic, &nothing), 0);
        assert_eq!(struck(Fault::RedisKill, &nothing), 2);
        let counted = BTreeMap::from([("Panic at Renewing".to_owned(), 1), (EXECUTION_PANICS.to_owned(), 40)]);
        assert_eq!([struck(die, &counted), struck(panic, &counted)], [0, 1]);
        assert_eq!(struck(Fault::ExecutionPanic, &counted), 2);
    }
}

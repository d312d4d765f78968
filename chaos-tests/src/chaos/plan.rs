//! Which trials make up a run: each fault once, in every state, in pairs, or drawn from a seed.

use std::time::Duration;

use super::deployment::Setup;
use super::fault::{Expects, Fault, LineFault, Target};
use super::schedule::in_order;
use crate::crash::child::Fault as Planted;
use crate::world::random::Random;

/// What a deployment is doing when a fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has worked, and has nothing to do.
    Idle,
    /// Clients load it.
    Load,
    /// Many timers are due within the next moment.
    TimersDue,
    /// An engine was killed, and the next one is on its way.
    Recovery,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Load, Self::TimersDue, Self::Recovery];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Load => "load",
            Self::TimersDue => "timers-due",
            Self::Recovery => "recovery",
        }
    }
}

/// A fault at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// The fault.
    pub fault: Fault,
    /// From the beginning of the torment on.
    pub after: Duration,
    /// How long it holds.
    pub holds: Duration,
}

/// One deployment and what befalls it.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Which trial of its run it is, for people.
    pub name: String,
    /// What its state is kept on.
    pub setup: Setup,
    /// What it is doing.
    pub state: State,
    /// What befalls it.
    pub strikes: Vec<Strike>,
    /// Draws what faults leave to chance.
    pub seed: u64,
    /// Shards of its store.
    pub shards: u16,
    /// Clients that load it.
    pub clients: u32,
    /// Executions of a mass restart.
    pub scale: u64,
    /// Fault that is planted in its engines.
    pub planted: Option<Planted>,
}

impl Trial {
    /// What must hold after it.
    #[must_use]
    pub fn expects(&self) -> Expects {
        let told = |strike: &Strike| strike.fault.expects() == Expects::ToldLoss;
        if self.strikes.iter().any(told) {
            Expects::ToldLoss
        } else {
            Expects::Everything
        }
    }
}

/// Shards of most deployments: few, so that each has something to do.
pub(super) const SHARDS: u16 = 4;
/// Shards of those of several members: each has some.
pub(super) const SHARED: u16 = 8;

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Clients that load a deployment.
    pub clients: u32,
    /// Executions of a mass restart.
    pub scale: u64,
    /// How long servers stall, each in a trial of its own.
    pub stalls: &'static [u64],
}

impl Sizes {
    /// Those of a run that somebody waits for.
    pub const SMOKE: Self = Self {
        clients: 8,
        scale: 500,
        stalls: &[5],
    };
    /// Those of the whole matrix.
    pub const MATRIX: Self = Self {
        clients: 16,
        scale: 100_000,
        stalls: &[5, 30, 60],
    };
}

/// How long a smoke may take, in two lanes: whoever runs it before a commit waits for it.
pub const SMOKE_AT_MOST: Duration = Duration::from_secs(600);

/// One fault on the first of its deployments, in this state.
#[must_use]
pub fn single(fault: Fault, state: State, holds: Duration, seed: u64, sizes: Sizes) -> Trial {
    single_on(fault, fault.setups()[0], state, holds, seed, sizes)
}

/// One fault on such a deployment in this state.
#[must_use]
pub fn single_on(fault: Fault, setup: Setup, state: State, holds: Duration, seed: u64, sizes: Sizes) -> Trial {
    Trial {
        name: format!("{} {}", fault.name(), state.name()),
        setup,
        state,
        strikes: vec![Strike {
            fault,
            after: Duration::ZERO,
            holds,
        }],
        seed,
        shards: shards(setup),
        clients: sizes.clients,
        scale: sizes.scale,
        planted: None,
    }
}

/// How long a fault holds in trials of its own.
fn durations(fault: Fault, sizes: Sizes) -> Vec<Duration> {
    match fault {
        Fault::RedisStall | Fault::RabbitStall => sizes.stalls.iter().map(|s| Duration::from_secs(*s)).collect(),
        other => vec![other.holds()],
    }
}

/// Every fault on every deployment that it can befall, in every one of these states in which it can come.
#[must_use]
pub fn singles(seed: u64, sizes: Sizes, states: &[State]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for fault in Fault::all() {
        for setup in fault.setups() {
            let comes = |state: &&State| fits(fault, **state) == **state && is_reached(*setup, **state);
            for holds in durations(fault, sizes) {
                for state in states.iter().filter(comes) {
                    trials.push(single_on(fault, *setup, *state, holds, seed, sizes));
                }
            }
        }
    }
    trials
}

/// Whether such a deployment can be brought into a state: replicas are only loaded.
fn is_reached(setup: Setup, state: State) -> bool {
    setup != Setup::Replicas || state == State::Load
}

/// Every kind of fault once, the states in turn, and some pairs.
#[must_use]
pub fn smoke(seed: u64) -> Vec<Trial> {
    let sizes = Sizes::SMOKE;
    let mut trials = Vec::new();
    // Faults of lines differ by the server only in what the others show too.
    let skipped = |fault: &Fault| {
        matches!(fault, Fault::Line(Target::Postgres, kind) if *kind != LineFault::HalfOpen)
            || matches!(fault, Fault::Line(Target::RabbitMq, kind) if *kind != LineFault::Reset)
            || matches!(fault, Fault::MemberLine(target, kind) if !matches!(
                (target, kind),
                (Target::Redis, LineFault::HalfOpen) | (Target::Postgres, LineFault::Reset)
            ))
    };
    // What takes several processes is dear: once is enough.
    let is_paired = |fault: &Fault| {
        let takes_several = !fault.setups().contains(&Setup::Strict);
        takes_several && SMOKE_PAIRS.iter().any(|(one, other, _)| [one, other].contains(&fault))
    };
    let faults = Fault::all().into_iter();
    let faults: Vec<Fault> = faults.filter(|fault| !skipped(fault) && !is_paired(fault)).collect();
    for (place, fault) in faults.into_iter().enumerate() {
        // Most under load, which finds most.
        let state = [State::Load, State::TimersDue, State::Load, State::Recovery, State::Idle][place % 5];
        let holds = durations(fault, sizes)[0];
        trials.push(single(fault, fits(fault, state), holds, seed, sizes));
    }
    // What every second is synced survives the end of a process, too.
    let (fault, state) = (Fault::RedisKill, State::Load);
    trials.push(single_on(fault, Setup::Relaxed, state, fault.holds(), seed, sizes));
    for (number, (one, other, setup)) in SMOKE_PAIRS.into_iter().enumerate() {
        trials.push(pair(one, other, setup, number, seed, sizes));
    }
    spread(trials)
}

/// Whether a trial takes much of the machine: real replicas, or the nodes of a cluster.
fn is_dear(trial: &Trial) -> bool {
    matches!(trial.setup, Setup::Replicas | Setup::Cluster)
}

/// Puts the dear trials at even distances among those of one engine, so that two lanes hardly play two of them at once.
fn spread(trials: Vec<Trial>) -> Vec<Trial> {
    let (dear, others): (Vec<Trial>, Vec<Trial>) = trials.into_iter().partition(is_dear);
    let is_small = |trial: &Trial| trial.setup != Setup::Members;
    let small = others.iter().filter(|trial| is_small(trial)).count();
    let distance = small / (dear.len() + 1);
    let mut dear = dear.into_iter();
    let mut spread = Vec::new();
    let mut since = 0;
    for trial in others {
        since += usize::from(is_small(&trial));
        spread.push(trial);
        if since >= distance {
            spread.extend(dear.next());
            since = 0;
        }
    }
    spread.extend(dear);
    spread
}

/// A state in which the fault can come.
fn fits(fault: Fault, state: State) -> State {
    match fault {
        // What they need is somebody who serves.
        Fault::EngineKillAt(_)
        | Fault::ActorPanic(_)
        | Fault::ExecutionPanic
        | Fault::EngineFreeze
        | Fault::EnginePartition
        | Fault::ClockStep(_)
        | Fault::Overload
        | Fault::RedisPowerLoss
        | Fault::DiskFull
        | Fault::SyncsFail
        | Fault::MemberKill
        | Fault::MemberDrain
        | Fault::MemberJoin
        | Fault::MemberFreeze
        | Fault::MemberPartition
        | Fault::MemberKillWithoutPostgres
        | Fault::MemberClock(_)
        | Fault::MemberLine(..)
        // Nothing is lost where nothing is written.
        | Fault::RedisSecondLost
        | Fault::RedisFailover
        | Fault::RedisFailoverWithoutOwner
        | Fault::ClusterTakeover
        | Fault::ClusterTakeoverWithoutOwner
        // Nobody meets a slot on the move where nobody asks.
        | Fault::ClusterSlotsMove
            if matches!(state, State::Recovery | State::Idle) =>
        {
            State::Load
        }
        // They bring a load, or timers, of their own.
        Fault::PoisonMessages
        | Fault::MassRestart
        | Fault::GatewayKill
        | Fault::GatewayDrain
        | Fault::GatewayPartition
        | Fault::GatewayFreeze => State::Load,
        _ => state,
    }
}

/// Two faults at once: one of each target with one of each other, what befalls a member or a cluster with everything else, and what
/// befalls replicas with servers that die and with poisonous messages.
#[must_use]
pub fn pairs(seed: u64, sizes: Sizes) -> Vec<Trial> {
    let faults = drawable(Setup::Strict);
    let mut trials = Vec::new();
    let mut add = |one: Fault, other: Fault, setup: Setup| {
        // It takes long to begin: what comes first would be over.
        let (one, other) = if other == Fault::MassRestart {
            (other, one)
        } else {
            (one, other)
        };
        // Two that rule each other out are no pair.
        if let Some((one, other)) = in_order(one, other) {
            trials.push(pair(one, other, setup, trials.len(), seed, sizes));
        }
    };
    for (place, one) in faults.iter().enumerate() {
        for other in &faults[place + 1..] {
            if one.target() != other.target() || one.target() == Target::Engine {
                add(*one, *other, Setup::Strict);
            }
        }
    }
    let befalls = |fault: &&Fault| fault.target() == Target::Member && !matches!(fault, Fault::MemberLine(..));
    let shared = drawable(Setup::Members);
    for one in shared.iter().filter(befalls) {
        for other in shared.iter().filter(|other| other.target() != Target::Member) {
            add(*one, *other, Setup::Members);
        }
    }
    let clustered = drawable(Setup::Cluster);
    for one in clustered.iter().filter(|fault| fault.target() == Target::Redis) {
        let meets = |fault: &&Fault| matches!(fault.target(), Target::Engine | Target::Postgres) || befalls(fault);
        for other in clustered.iter().filter(meets) {
            add(*one, *other, Setup::Cluster);
        }
    }
    for (one, other) in of_replicas() {
        add(one, other, Setup::Replicas);
    }
    trials
}

/// What befalls replicas at the same time.
fn of_replicas() -> Vec<(Fault, Fault)> {
    let gateways = [
        Fault::GatewayKill,
        Fault::GatewayDrain,
        Fault::GatewayPartition,
        Fault::GatewayFreeze,
    ];
    let servers = [Fault::RedisKill, Fault::RabbitKill, Fault::PostgresStop];
    let mut all = Vec::new();
    for server in servers {
        // What befalls a server comes first: a replica that is to leave finds it gone.
        all.extend(gateways.map(|gateway| (server, gateway)));
        all.push((Fault::PoisonMessages, server));
    }
    all.extend(gateways.map(|gateway| (Fault::PoisonMessages, gateway)));
    all.push((Fault::GatewayPartition, Fault::GatewayKill));
    all
}

/// Pairs that a smoke plays.
const SMOKE_PAIRS: [(Fault, Fault, Setup); 4] = [
    (Fault::ClusterSlotsMove, Fault::MemberKill, Setup::Cluster),
    (Fault::RedisKill, Fault::GatewayKill, Setup::Replicas),
    (Fault::PoisonMessages, Fault::RabbitKill, Setup::Replicas),
    (Fault::PostgresStop, Fault::GatewayDrain, Setup::Replicas),
];

fn pair(one: Fault, other: Fault, setup: Setup, number: usize, seed: u64, sizes: Sizes) -> Trial {
    let state = match setup {
        Setup::Replicas => State::Load,
        _ => [State::Load, State::TimersDue][number % 2],
    };
    let mut trial = single(one, state, one.holds(), seed, sizes);
    trial.name = format!("{} + {} {}", one.name(), other.name(), state.name());
    (trial.setup, trial.shards) = (setup, shards(setup));
    trial.scale = 2_000;
    trial.strikes.push(Strike {
        fault: other,
        after: Duration::from_millis(200),
        holds: other.holds(),
    });
    trial
}

/// Shards of a deployment, where nobody draws them.
fn shards(setup: Setup) -> u16 {
    match setup {
        Setup::Members | Setup::Replicas | Setup::Cluster => SHARED,
        Setup::Strict | Setup::Relaxed | Setup::Sentinel | Setup::Embedded => SHARDS,
    }
}

/// Faults that may meet others on such a deployment.
fn drawable(setup: Setup) -> Vec<Fault> {
    let all = Fault::all().into_iter();
    all.filter(|fault| fault.setups().contains(&setup) && fault.expects() == Expects::Everything)
        // The one changes how many executions may run, for the whole trial. What the other one loses only owners give back that nothing
        // else befalls.
        .filter(|fault| ![Fault::Overload, Fault::ClusterTakeover].contains(fault))
        .collect()
}

/// What a seed draws: a deployment, and faults that come and go, some at once.
#[must_use]
pub fn drawn(seed: u64, sizes: Sizes) -> Trial {
    let mut random = Random::new(seed);
    let setup = match random.below(11) {
        0 => Setup::Embedded,
        1 => Setup::Relaxed,
        2..=4 => Setup::Members,
        5 | 6 => Setup::Cluster,
        7 => Setup::Replicas,
        _ => Setup::Strict,
    };
    let faults = drawable(setup);
    let mut strikes = Vec::new();
    let mut after = Duration::ZERO;
    for _ in 0..random.between(3, 6) {
        let fault = faults[random.place(faults.len())];
        // Half of them meet the one before.
        let holds = fault.holds() + Duration::from_millis(random.below(2_000));
        strikes.push(Strike { fault, after, holds });
        after += if random.once_in(2) {
            Duration::from_millis(random.below(400))
        } else {
            holds + Duration::from_millis(random.between(500, 3_000))
        };
    }
    let state = [State::Load, State::TimersDue, State::Load, State::Recovery][random.place(4)];
    let drawn = [SHARDS, 8, 32][random.place(3)];
    // Replicas are only loaded, and what asks them knows how many shards they have.
    let (state, shards) = match setup {
        Setup::Replicas => (State::Load, SHARED),
        _ => (state, drawn),
    };
    Trial {
        name: format!("seed {seed}"),
        setup,
        state,
        strikes,
        seed,
        shards,
        clients: u32::try_from(random.between(2, u64::from(sizes.clients))).unwrap_or(2),
        scale: random.between(200, 1_500),
        planted: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn told(trial: &Trial) -> String {
        format!("{trial:?}")
    }

    #[test]
    fn a_seed_always_draws_the_same_and_others_draw_others() {
        let of = |seed| told(&drawn(seed, Sizes::SMOKE));
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn the_smoke_meets_every_target_and_every_state() {
        let trials = smoke(1);
        let targets: BTreeSet<Target> = trials.iter().map(|trial| trial.strikes[0].fault.target()).collect();
        assert_eq!(targets.len(), 8, "{targets:?}");
        let states: BTreeSet<State> = trials.iter().map(|trial| trial.state).collect();
        assert_eq!(states.len(), State::ALL.len());
    }

    #[test]
    fn singles_play_every_fault_on_every_deployment_that_it_befalls_where_that_means_something() {
        let trials = singles(1, Sizes::MATRIX, &State::ALL);
        for fault in Fault::all() {
            for setup in fault.setups() {
                let of = |trial: &&Trial| trial.strikes[0].fault == fault && trial.setup == *setup;
                assert!(trials.iter().any(|trial| of(&trial)), "{} {setup:?}", fault.name());
            }
        }
        let means_nothing = |trial: &&Trial| !is_reached(trial.setup, trial.state);
        assert_eq!(trials.iter().filter(means_nothing).count(), 0);
        // A restart of very many is played in one state: it brings timers of its own.
        let mass = trials
            .iter()
            .filter(|trial| trial.strikes[0].fault == Fault::MassRestart);
        assert_eq!(mass.count(), Fault::MassRestart.setups().len());
        assert!((600..1_200).contains(&trials.len()), "{} trials", trials.len());
    }

    #[test]
    fn the_smoke_kills_a_redis_that_syncs_before_it_answers_and_one_that_syncs_every_second() {
        let killed = smoke(1).into_iter();
        let killed = killed.filter(|trial| trial.strikes.len() == 1 && trial.strikes[0].fault == Fault::RedisKill);
        let setups: BTreeSet<Setup> = killed.map(|trial| trial.setup).collect();
        assert_eq!(setups, BTreeSet::from([Setup::Strict, Setup::Relaxed]));
    }

    #[test]
    fn the_smoke_has_every_actor_panic_that_there_is_while_somebody_serves() {
        let panics = |fault: &Fault| matches!(fault, Fault::ActorPanic(_));
        let all = Fault::all().into_iter().filter(panics).count();
        let smoke = smoke(1).into_iter().filter(|trial| panics(&trial.strikes[0].fault));
        let states: Vec<State> = smoke.map(|trial| trial.state).collect();
        assert_eq!((all, states.len()), (5, 5));
        let serves = |state: &State| matches!(state, State::Load | State::TimersDue);
        assert!(states.iter().all(serves), "{states:?}");
    }

    #[test]
    fn the_smoke_plays_no_two_dear_trials_after_each_other() {
        let trials = smoke(1);
        let places = (0..trials.len()).filter(|place| is_dear(&trials[*place]));
        let places: Vec<usize> = places.collect();
        assert_eq!(places.len(), 10, "{places:?}");
        assert!(places.windows(2).all(|two| two[1] - two[0] > 2), "{places:?}");
        assert!(places[9] < trials.len() - 1, "{places:?}");
        let moves = |trial: &&Trial| trial.strikes[0].fault == Fault::ClusterSlotsMove;
        let moved = trials.iter().find(moves).map(|trial| trial.state);
        assert_eq!(moved, Some(State::Load));
    }

    #[test]
    fn what_befalls_members_replicas_and_clusters_is_played_on_those() {
        let all = smoke(1).into_iter().chain(pairs(1, Sizes::SMOKE));
        let swarm = (1..200).map(|seed| drawn(seed, Sizes::SMOKE));
        let mut struck: BTreeMap<(Setup, bool), usize> = BTreeMap::new();
        for trial in all.chain(swarm) {
            for strike in &trial.strikes {
                assert!(strike.fault.setups().contains(&trial.setup), "{}", trial.name);
            }
            assert!(
                trial.setup != Setup::Replicas || trial.shards == SHARED,
                "{}",
                trial.name
            );
            *struck.entry((trial.setup, trial.strikes.len() > 1)).or_default() += 1;
        }
        for setup in [Setup::Members, Setup::Replicas, Setup::Cluster] {
            let (alone, together) = (struck[&(setup, false)], struck[&(setup, true)]);
            assert!(
                alone > 1 && together > 20,
                "{setup:?}: {alone} alone, {together} together"
            );
        }
    }

    #[test]
    fn what_replicas_lack_is_judged_where_nothing_else_befalls_owners() {
        let alone = Fault::ClusterTakeover;
        assert_eq!(alone.expects(), Expects::Everything);
        let swarm = (1..200).map(|seed| drawn(seed, Sizes::SMOKE));
        for trial in pairs(1, Sizes::SMOKE).into_iter().chain(swarm) {
            let meets = trial.strikes.iter().any(|strike| strike.fault == alone);
            assert!(!meets && trial.expects() == Expects::Everything, "{}", trial.name);
        }
        let singles = singles(1, Sizes::SMOKE, &State::ALL);
        for fault in [alone, Fault::ClusterTakeoverWithoutOwner] {
            let of = singles.iter().filter(|trial| trial.strikes[0].fault == fault);
            let states: Vec<State> = of.map(|trial| trial.state).collect();
            assert_eq!(states, [State::Load, State::TimersDue], "{}", fault.name());
        }
    }

    #[test]
    fn the_second_fault_of_a_pair_can_begin_while_the_first_one_holds() {
        let pairs = smoke(1).into_iter().chain(pairs(1, Sizes::SMOKE));
        let pairs: Vec<Trial> = pairs.filter(|trial| trial.strikes.len() == 2).collect();
        for trial in &pairs {
            let [one, other] = trial.strikes[..] else {
                panic!("{}", trial.name)
            };
            let (one, other) = (one.fault, other.fault);
            assert_eq!(in_order(one, other), Some((one, other)), "{}", trial.name);
        }
        for cluster in [Fault::ClusterSlotsMove, Fault::ClusterMasterKill] {
            let joins = format!("member-join + {} ", cluster.name());
            let joined = pairs.iter().filter(|trial| trial.name.starts_with(&joins)).count();
            assert_eq!(joined, 1, "{joins}");
        }
    }

    #[test]
    fn pairs_kill_the_servers_of_replicas_and_meet_every_fault_of_a_cluster() {
        let pairs = pairs(1, Sizes::SMOKE);
        let meet = |one: Fault, other: Fault, setup: Setup| {
            let both = |trial: &&Trial| {
                let has = |fault| trial.strikes.iter().any(|strike| strike.fault == fault);
                trial.setup == setup && has(one) && has(other)
            };
            pairs.iter().filter(both).count()
        };
        for gateway in [Fault::GatewayKill, Fault::GatewayDrain, Fault::GatewayPartition] {
            for other in [
                Fault::RedisKill,
                Fault::RabbitKill,
                Fault::PostgresStop,
                Fault::PoisonMessages,
            ] {
                assert_eq!(meet(gateway, other, Setup::Replicas), 1, "{gateway:?} {other:?}");
            }
        }
        for cluster in [
            Fault::ClusterSlotsMove,
            Fault::ClusterMasterKill,
            Fault::ClusterFailover,
        ] {
            for other in [Fault::EngineKill, Fault::MemberKill, Fault::MemberFreeze] {
                assert_eq!(meet(cluster, other, Setup::Cluster), 1, "{cluster:?} {other:?}");
            }
        }
    }
}

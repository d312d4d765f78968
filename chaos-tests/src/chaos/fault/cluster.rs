//! Faults of a Redis Cluster: slots that move, masters that die, replicas that take over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::chaos::deployment::{Deployment, LEASE};
use crate::chaos::older::Older;
use crate::chaos::schedule::Struck;
use crate::chaos::servers::{Log, RedisCluster, Seat, until};
use crate::crash::Violation;
use crate::crash::record::now_ns;

/// Within so long a replica has what its master has.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(20);
/// How long a replica hears nothing before it takes over.
const LAGS: Duration = Duration::from_millis(600);
/// How long at most, a half of a lease: what it knows of leases, and of members in their register, is over after two thirds of one, and then
/// others may take what an owner has that lives.
const LAGS_MAX: Duration = Duration::from_secs(LEASE.as_secs() / 2);
/// How long it is waited for a lag in which every shard stays where it is.
const QUIET_WITHIN: Duration = Duration::from_secs(30);
/// How long a shard may be without an answer once its master is there: its lease expires, somebody takes it, and what a loaded
/// machine adds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A master and the shards that it has, each with its slot.
struct Loaded {
    seat: Seat,
    shards: Vec<(u16, u16)>,
}

/// The keys of all shards of one master begin to move to another one.
pub(super) fn begin_to_move(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let mut masters = on.masters()?;
    let to = masters.pop().context("a cluster has several masters")?.seat;
    let from = masters.swap_remove(0);
    let slots = from.shards.iter().map(|(_, slot)| *slot).collect();
    let moves = on.cluster()?.moves(slots, from.seat, to)?;
    on.moving = Some(std::thread::spawn(move || moves.run()));
    Ok(())
}

/// All of them have moved.
pub(super) fn until_moved(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    while on.moving.as_ref().is_some_and(|moving| !moving.is_finished()) {
        on.watch(LOOK_EVERY)?;
    }
    if let Some(moving) = on.moving.take() {
        let moved = moving.join();
        let keys = moved.map_err(|_| anyhow::anyhow!("whoever moves slots panicked"))??;
        on.notes.push(format!("{keys} keys moved with their slots"));
    }
    Ok(())
}

/// The master of most shards dies.
pub(super) fn kill_master(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let master = on.masters()?.swap_remove(0);
    let shards = master.shards.len();
    on.notes.push(format!("the master of {shards} shards was killed"));
    on.cluster()?.node(master.seat.port)?.kill()
}

/// It comes back with all that it had answered, before anybody took over.
pub(super) fn run_master(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let cluster = on.cluster()?;
    cluster.run_all()?;
    cluster.until_agreed()
}

/// A replica takes over once it has all that its master has.
pub(super) fn fail_over(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let master = on.masters()?.swap_remove(0);
    let cluster = on.cluster()?;
    let replica = cluster.replica_of(&master.seat)?;
    cluster.promote(&replica, &[])?;
    on.notes
        .push(format!("a replica took {} shards over", master.shards.len()));
    Ok(())
}

/// Its former master follows it.
pub(super) fn settle(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    on.cluster()?.until_agreed()
}

/// A replica takes over that has not heard the latest. Owners that live give their logs back what those lack, and every shard goes on. Of an
/// owner that dies before it could whoever comes next must say what is lost, and all other shards go on.
///
/// Where nothing may be lost the master at which executions count under a limit stays: a ticket that was given back would be there again, and
/// nobody would give it back whose shard is another master's.
pub(super) fn take_over(on: &mut Deployment<'_>, owner_dies: bool) -> anyhow::Result<()> {
    let mut masters = on.masters()?;
    if !owner_dies {
        let seats: Vec<Seat> = masters.iter().map(|master| master.seat.clone()).collect();
        let Some(counts) = on.counts_executions(&seats)? else {
            on.too_little
                .push("no master was seen to count executions under a limit".to_owned());
            return Ok(());
        };
        masters.remove(counts);
    }
    let master = masters.swap_remove(0);
    let replica = on.cluster()?.replica_of(&master.seat)?;
    let Some(lag) = let_lag(on, &master, &replica)? else {
        on.too_little.push(format!(
            "within {QUIET_WITHIN:?} no replica lacked something and knew every owner"
        ));
        return Ok(());
    };
    let orphans = if owner_dies {
        kill_owner(on, &master, &lag.shards)?
    } else {
        BTreeSet::new()
    };
    let cluster = on.cluster()?;
    cluster.promote(&replica, &["TAKEOVER"])?;
    cluster.replicates(&master.seat, true)?;
    on.older = Some(Older {
        since_ns: lag.since_ns,
        master_ns: now_ns(),
    });
    on.notes.push(format!(
        "a replica took {} shards over and lacked {} bytes of what their master wrote, records of shards {:?} among them",
        master.shards.len(),
        lag.bytes,
        lag.shards
    ));
    if owner_dies {
        on.notes
            .push(format!("the owner of shards {orphans:?} of them had died"));
    }
    on.shards_answer(&orphans)
}

/// What a replica lacks that is about to take over.
struct Lag {
    /// When it had heard the last of its master, in nanoseconds.
    since_ns: u64,
    bytes: u64,
    /// Shards of whose logs it lacks records, long enough for lists to show those.
    shards: BTreeSet<u16>,
}

/// Has a replica hear nothing of what its master writes. Each shard has the same owner when this begins and ends: one that left keeps no
/// records, and the next one read only what no checkpoint held. None: shards find no rest.
fn let_lag(on: &mut Deployment<'_>, master: &Loaded, replica: &Seat) -> anyhow::Result<Option<Lag>> {
    let begun = Instant::now();
    while begun.elapsed() < QUIET_WITHIN {
        let known = on.logs(master)?;
        let cluster = on.cluster()?;
        let written = cluster.written(&master.seat)?;
        until("the replica follows", FOLLOWS_WITHIN, || {
            Ok(cluster.written(replica)? >= written)
        })?;
        let (since, since_ns) = (Instant::now(), now_ns());
        cluster.replicates(&master.seat, false)?;
        let cut = on.logs(master)?;
        on.watch(LAGS / 2)?;
        let grown = on.logs(master)?;
        on.watch(LAGS / 2)?;
        let cluster = on.cluster()?;
        let (written, heard) = (cluster.written(&master.seat)?, cluster.written(replica)?);
        let last = on.logs(master)?;
        let stays = |(shard, log): (&u16, &Log)| {
            let owner = known.get(shard).and_then(|known| known.owner.as_ref());
            owner.is_some() && owner == log.owner.as_ref()
        };
        let is_longer = |(shard, log): &(&u16, &Log)| cut.get(*shard).is_some_and(|cut| cut.end < log.end);
        let shards: BTreeSet<u16> = grown.iter().filter(is_longer).map(|(shard, _)| *shard).collect();
        if last.iter().all(stays) && !shards.is_empty() && since.elapsed() < LAGS_MAX {
            let bytes = written.saturating_sub(heard);
            return Ok(Some(Lag {
                since_ns,
                bytes,
                shards,
            }));
        }
        on.cluster()?.replicates(&master.seat, true)?;
    }
    Ok(None)
}

/// The owner dies that has most of these shards; which of the master's it had.
fn kill_owner(on: &mut Deployment<'_>, master: &Loaded, shards: &BTreeSet<u16>) -> anyhow::Result<BTreeSet<u16>> {
    let ownership = on.ownership();
    let owned = |number: u32| ownership.shards_of(number).into_iter();
    let lacking = |place: &usize| {
        let owned = owned(on.serving[*place].number);
        owned.filter(|shard| shards.contains(shard)).count()
    };
    let place = (0..on.serving.len()).max_by_key(lacking).context("nobody serves")?;
    let is_masters = |shard: &u16| master.shards.iter().any(|(known, _)| known == shard);
    let orphans = owned(on.serving[place].number).filter(is_masters).collect();
    on.kill_at(place)?;
    Ok(orphans)
}

impl Deployment<'_> {
    fn cluster(&mut self) -> anyhow::Result<&mut RedisCluster> {
        self.cluster.as_mut().context("this deployment has no cluster")
    }

    /// The masters, that of most shards first.
    fn masters(&mut self) -> anyhow::Result<Vec<Loaded>> {
        let (prefix, shards) = (self.place.prefix.clone(), self.place.shards);
        let cluster = self.cluster()?;
        let mut slots = Vec::new();
        for shard in 0..shards {
            slots.push((shard, cluster.slot_of(&format!("{{{prefix}:s{shard}}}"))?));
        }
        let seats = cluster.seats()?.into_iter().filter(Seat::is_master);
        let mut masters: Vec<Loaded> = seats
            .map(|seat| Loaded {
                shards: slots.iter().filter(|(_, slot)| seat.has(*slot)).copied().collect(),
                seat,
            })
            .collect();
        masters.sort_by_key(|master| std::cmp::Reverse(master.shards.len()));
        ensure!(masters.len() > 1, "a cluster has several masters");
        Ok(masters)
    }

    /// The logs of the shards of a master.
    fn logs(&mut self, of: &Loaded) -> anyhow::Result<BTreeMap<u16, Log>> {
        let prefix = self.place.prefix.clone();
        let shards: Vec<u16> = of.shards.iter().map(|(shard, _)| *shard).collect();
        self.cluster()?.logs(&of.seat, &prefix, &shards)
    }

    /// Waits until somebody was answered for every shard but these: where a part of the store was gone, the rest says nothing of it.
    pub(in crate::chaos) fn shards_answer(&mut self, but: &BTreeSet<u16>) -> anyhow::Result<()> {
        let others = (0..self.place.shards).filter(|shard| !but.contains(shard));
        let silent = self.silent_within(others.collect(), ANSWERS_WITHIN)?;
        if !silent.is_empty() {
            let what = format!("nobody answered for shards {silent:?} within {ANSWERS_WITHIN:?}");
            self.seen.push(Violation { invariant: "C12", what });
        }
        Ok(())
    }

    /// Those of some shards for which nobody is answered from now on, for so long.
    pub(super) fn silent_within(
        &mut self,
        mut shards: BTreeSet<u16>,
        within: Duration,
    ) -> anyhow::Result<BTreeSet<u16>> {
        let (since, begun) = (now_ns(), Instant::now());
        loop {
            let answered = self.answered_after(since);
            shards.retain(|shard| !answered.contains(shard));
            if shards.is_empty() || begun.elapsed() > within {
                return Ok(shards);
            }
            self.watch(LOOK_EVERY)?;
        }
    }
}

//! Faults of a Redis Cluster: slots that move, masters that die, replicas that take over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::chaos::deployment::Deployment;
use crate::chaos::schedule::Struck;
use crate::chaos::servers::{RedisCluster, Seat};
use crate::crash::Violation;
use crate::crash::record::now_ns;

/// How long a replica hears nothing before it takes over.
const LAGS: Duration = Duration::from_millis(1_500);
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

/// A replica takes over that has not heard the latest. The shards of the other masters go on.
pub(super) fn take_over(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let master = on.masters()?.swap_remove(0);
    let replica = on.cluster()?.replica_of(&master.seat)?;
    on.cluster()?.replicates(&master.seat, false)?;
    on.watch(LAGS)?;
    let cluster = on.cluster()?;
    let written = cluster.written(&master.seat)?;
    let heard = cluster.written(&replica)?;
    ensure!(heard < written, "the replica lacks nothing");
    cluster.promote(&replica, &["TAKEOVER"])?;
    cluster.replicates(&master.seat, true)?;
    let (shards, lost) = (master.shards.len(), written - heard);
    on.notes.push(format!(
        "a replica took {shards} shards over and lacked {lost} bytes of what their master wrote"
    ));
    let hit: BTreeSet<u16> = master.shards.iter().map(|(shard, _)| *shard).collect();
    on.shards_answer(&hit)
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

//! Faults of one of several members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use troupe_core::ExecutionId;

use super::{LineFault, Target, line};
use crate::chaos::changes::{Change, How, answered};
use crate::chaos::deployment::{Deployment, LEASE, READY_WITHIN};
use crate::chaos::engine::Order;
use crate::chaos::processes::Process;
use crate::chaos::proxy::Line;
use crate::chaos::schedule::Struck;
use crate::chaos::servers::signal;
use crate::crash::Violation;
use crate::crash::record::{Record, now_ns};
use crate::world::random::Random;

/// How long the others may take to have every shard of a member that is gone: its leases, and what a loaded machine adds.
pub(in crate::chaos) const TAKEN_WITHIN: Duration = Duration::from_secs(12);
/// How long a member that was replaced may take to learn of it: a renewal and what a loaded machine adds.
const FENCED_WITHIN: Duration = Duration::from_secs(15);
/// How long a member that is told to leave may take to end.
const LEAVES_WITHIN: Duration = Duration::from_secs(20);
/// Until what PostgreSQL answered last has been heard and used.
const SETTLES: Duration = Duration::from_millis(500);
/// How long the others look at shards that they must not take: the leases have long expired.
const NOBODY_TAKES: Duration = Duration::from_secs(7);
/// How long clients may take to start something in every shard.
const STARTED_WITHIN: Duration = Duration::from_secs(20);
/// How long a shard whose owner goes on may be silent after that, on a loaded machine.
const SILENT_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) fn kill(on: &mut Deployment<'_>, random: &mut Random) -> anyhow::Result<()> {
    let place = on.any_member(random)?;
    let number = on.serving[place].number;
    on.kill_at(place)?;
    on.changes.push(Change::now("killed", How::Lost, number));
    on.until_moved(number)
}

/// It hands its shards over and ends.
pub(super) fn drain(on: &mut Deployment<'_>, random: &mut Random) -> anyhow::Result<()> {
    let place = on.any_member(random)?;
    let member = &mut on.serving[place];
    member.leaves = true;
    let (number, process) = (member.number, member.incarnation.process());
    on.changes.push(Change::now("drained", How::Given, number));
    signal(&process.to_string(), "TERM")?;
    let begun = Instant::now();
    while on.serving.iter().any(|member| member.number == number) {
        if begun.elapsed() > LEAVES_WITHIN {
            on.miss(
                "C12",
                format!("member {number} has not left {LEAVES_WITHIN:?} after it was told to"),
            );
            return Ok(());
        }
        on.watch(LOOK_EVERY)?;
    }
    Ok(())
}

/// One more comes, and is given its share.
pub(super) fn join(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let number = on.incarnations;
    on.changes.push(Change::now("joined", How::Taken, number));
    on.spawn()?;
    on.ready()?;
    let begun = Instant::now();
    while on.ownership().shards_of(number).is_empty() {
        if begun.elapsed() > TAKEN_WITHIN {
            on.miss(
                "C12",
                format!("member {number} came and had no shard after {TAKEN_WITHIN:?}"),
            );
            return Ok(());
        }
        on.watch(LOOK_EVERY)?;
    }
    Ok(())
}

/// It stands still until the others have its shards.
pub(super) fn freeze(on: &mut Deployment<'_>, random: &mut Random) -> anyhow::Result<()> {
    let place = on.any_member(random)?;
    let member = on.serving.remove(place);
    let number = member.number;
    member.incarnation.freeze()?;
    on.frozen.push(member);
    on.changes.push(Change::now("frozen", How::Lost, number));
    on.until_moved(number)
}

/// It goes on, and must learn that its shards are others' now.
pub(super) fn thaw(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    for mut member in std::mem::take(&mut on.frozen) {
        let known = shards_lost(&mut member);
        member.incarnation.thaw()?;
        learns(on, &mut member, known);
        on.serving.push(member);
    }
    Ok(())
}

/// It does not reach Redis until the others have its shards.
pub(super) fn cut_off(on: &mut Deployment<'_>, random: &mut Random) -> anyhow::Result<()> {
    let place = on.any_member(random)?;
    let number = on.serving[place].number;
    on.with_line(Some(number), Target::Redis, &|line| line.set(Line::HalfOpen))?;
    on.bent = Some(number);
    on.changes.push(Change::now("cut off", How::Lost, number));
    on.until_moved(number)
}

/// All that it said arrives, and it must learn that its shards are others' now.
pub(super) fn reach_again(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let Some(number) = on.bent.take() else { return Ok(()) };
    // It may have ended meanwhile, as whoever has lost everything may.
    let Some(place) = on.serving.iter().position(|member| member.number == number) else {
        return Ok(());
    };
    let mut member = on.serving.remove(place);
    let known = shards_lost(&mut member);
    let line = member.lines.as_ref().and_then(|lines| lines.redis.as_ref());
    line.context("a member has no line to Redis")?.set(Line::Sound);
    learns(on, &mut member, known);
    on.serving.push(member);
    Ok(())
}

/// Whoever orders the owners is down while a member dies: nobody may take its shards, and all others go on.
///
/// Nothing starts meanwhile, since definitions are not there: in each shard what was started before is looked at.
pub(super) fn kill_without_postgres(on: &mut Deployment<'_>, random: &mut Random) -> anyhow::Result<()> {
    let looked_at = on.one_of_each_shard()?;
    let nobody_looks = |shard: &u16| !looked_at.contains_key(shard);
    let unknown: BTreeSet<u16> = (0..on.place.shards).filter(nobody_looks).collect();
    let ids = looked_at.values().copied().collect();
    on.tell_all(&Order::Look { ids })?;
    // Whoever has a shard knows the workflow of what is looked at, from here on without PostgreSQL.
    on.shards_answer(&unknown)?;
    on.lab.postgres.stop_immediately()?;
    on.watch(SETTLES)?;
    // One that was on its way from its owner to the next has none until PostgreSQL is back.
    let known: BTreeSet<u16> = looked_at.into_keys().collect();
    let silent = on.silent_within(known.clone(), SILENT_MAX)?;
    let place = on.any_member(random)?;
    let number = on.serving[place].number;
    let lost = on.ownership().shards_of(number);
    let is_others = |shard: &u16| !silent.contains(shard) && !lost.contains(shard);
    let judged: BTreeSet<u16> = known.into_iter().filter(is_others).collect();
    let killed_ns = now_ns();
    on.kill_at(place)?;
    on.bent = Some(number);
    on.watch(NOBODY_TAKES)?;
    for (shard, epoch) in on.ownership().taken_after(killed_ns) {
        let what =
            format!("shard {shard} was taken under epoch {epoch} while PostgreSQL, which orders its owners, was down");
        on.seen.push(Violation { invariant: "C5", what });
    }
    // By then no lease holds that was not renewed without PostgreSQL.
    let from = killed_ns + u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX);
    let silences = on.silences(from, now_ns());
    let mut longest = Duration::ZERO;
    for (shard, silence) in silences.into_iter().filter(|(shard, _)| judged.contains(shard)) {
        longest = longest.max(silence);
        if silence > SILENT_MAX {
            on.miss(
                "C12",
                format!(
                    "nobody answered for shard {shard} of another member for {silence:?} while PostgreSQL was down"
                ),
            );
        }
    }
    let (judged, others) = (judged.len(), usize::from(on.place.shards) - lost.len());
    on.notes.push(format!(
        "without PostgreSQL none of {judged} shards of others was silent for longer than {longest:.1?}"
    ));
    if judged < others {
        on.lacks(format!(
            "while PostgreSQL was down {judged} of {others} shards of others were looked at"
        ));
    }
    Ok(())
}

/// Now somebody may be the next owner.
pub(super) fn order_again(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    // Whatever becomes of the one, the other is done: the next trial has the same PostgreSQL.
    let told = on.tell_all(&Order::Look { ids: Vec::new() });
    on.lab.postgres.run()?;
    told?;
    if let Some(number) = on.bent.take() {
        on.changes
            .push(Change::now("killed without PostgreSQL", How::Lost, number));
        on.until_moved(number)?;
    }
    on.restore()
}

/// The clock of one member shows something else.
pub(super) fn step_clock(on: &mut Deployment<'_>, by_ms: i64, random: &mut Random) -> anyhow::Result<()> {
    let place = on.any_member(random)?;
    on.bent = Some(on.serving[place].number);
    on.tell_at(place, &Order::StepClock { by_ms })
}

/// It shows the time again. One that has ended meanwhile shows nothing.
pub(super) fn set_clock_right(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let Some(number) = on.bent.take() else { return Ok(()) };
    match on.serving.iter().position(|member| member.number == number) {
        Some(place) => on.tell_at(place, &Order::StepClock { by_ms: 0 }),
        None => Ok(()),
    }
}

/// Bends the lines of one member.
pub(super) fn bend(
    on: &mut Deployment<'_>,
    target: Target,
    fault: LineFault,
    random: &mut Random,
) -> anyhow::Result<()> {
    let place = on.any_member(random)?;
    let one = Some(on.serving[place].number);
    on.bent = one;
    line::begin(on, one, target, fault, random)
}

/// They are sound again.
pub(super) fn straighten(on: &mut Deployment<'_>, target: Target, fault: LineFault) -> anyhow::Result<()> {
    let one = on.bent.take();
    one.map_or(Ok(()), |_| line::end(on, one, target, fault))
}

impl Deployment<'_> {
    /// Something took longer than it may. Where other things are broken at the same time it is only noted.
    fn miss(&mut self, invariant: &'static str, what: String) {
        if self.is_alone {
            self.seen.push(Violation { invariant, what });
        } else {
            self.notes.push(what);
        }
    }

    /// Too little was looked at. Where other things are broken at the same time it is only noted.
    fn lacks(&mut self, what: String) {
        if self.is_alone {
            self.too_little.push(what);
        } else {
            self.notes.push(what);
        }
    }

    /// An execution of each shard that a client was told of, once there is one in each, or for too long there is none in some.
    fn one_of_each_shard(&mut self) -> anyhow::Result<BTreeMap<u16, ExecutionId>> {
        let begun = Instant::now();
        loop {
            let known = self.started();
            if known.len() == usize::from(self.place.shards) || begun.elapsed() > STARTED_WITHIN {
                return Ok(known);
            }
            self.watch(LOOK_EVERY)?;
        }
    }

    /// For how long nobody was answered for each shard, at the longest, between two instants.
    fn silences(&mut self, from_ns: u64, until_ns: u64) -> BTreeMap<u16, Duration> {
        let mut answers: BTreeMap<u16, Vec<u64>> = (0..self.place.shards).map(|shard| (shard, Vec::new())).collect();
        for member in &mut self.serving {
            for (at_ns, record) in member.incarnation.timed() {
                if let Some(all) = answered(record).and_then(|shard| answers.get_mut(&shard)) {
                    all.push(at_ns);
                }
            }
        }
        let silence = |(shard, all): (u16, Vec<u64>)| (shard, longest_silence(all, from_ns, until_ns));
        answers.into_iter().map(silence).collect()
    }

    /// The place of a member that serves shards, drawn.
    fn any_member(&mut self, random: &mut Random) -> anyhow::Result<usize> {
        let begun = Instant::now();
        loop {
            let ownership = self.ownership();
            let mut known = Vec::new();
            for (place, member) in self.serving.iter_mut().enumerate() {
                let serves = !ownership.shards_of(member.number).is_empty();
                if serves && !member.leaves && member.is_ready() {
                    known.push(place);
                }
            }
            if !known.is_empty() {
                return Ok(known[random.place(known.len())]);
            }
            ensure!(begun.elapsed() < READY_WITHIN, "no member serves anything");
            self.watch(LOOK_EVERY)?;
        }
    }

    /// Waits until others have taken the shards of a member.
    fn until_moved(&mut self, number: u32) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let left = self.ownership().shards_of(number);
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > TAKEN_WITHIN {
                let what =
                    format!("nobody had taken shards {left:?} of member {number} {TAKEN_WITHIN:?} after it was gone");
                self.miss("C12", what);
                return Ok(());
            }
            self.watch(LOOK_EVERY)?;
        }
    }

    /// Starts as many members as are missing.
    pub(super) fn restore(&mut self) -> anyhow::Result<()> {
        let members = self.members.unwrap_or(1) as usize;
        while self.serving.iter().filter(|member| !member.leaves).count() + self.frozen.len() < members {
            self.spawn()?;
        }
        self.ready().map(drop)
    }
}

/// The longest time between two instants in which none of these lies.
fn longest_silence(mut answers_ns: Vec<u64>, from_ns: u64, until_ns: u64) -> Duration {
    answers_ns.retain(|at| (from_ns..until_ns).contains(at));
    answers_ns.extend([from_ns, until_ns]);
    answers_ns.sort_unstable();
    let longest = answers_ns.windows(2).map(|two| two[1] - two[0]).max();
    Duration::from_nanos(longest.unwrap_or_default())
}

fn shards_lost(member: &mut Process) -> u64 {
    let said = member.incarnation.so_far().iter();
    let lost = said.filter_map(|record| match record {
        Record::Fenced { shards_lost, .. } => Some(*shards_lost),
        _ => None,
    });
    lost.max().unwrap_or(0)
}

/// Waits until a member says that it was fenced: in every shard that others took when its leases had expired, where nothing else befalls
/// anybody, else in any.
fn learns(on: &mut Deployment<'_>, member: &mut Process, known: u64) {
    let number = member.number;
    let owners = on.ownership();
    let change = on.changes.iter().rev().find(|change| change.process == number);
    let lost = change.map_or(0, |change| owners.lost_by(change, LEASE / 2));
    let fewest = known + if on.is_alone { (lost as u64).max(1) } else { 1 };
    let fenced = |record: &Record| matches!(record, Record::Fenced { shards_lost, .. } if *shards_lost >= fewest);
    match member.incarnation.hears(FENCED_WITHIN, fenced) {
        Ok(true) => on.fenced += 1,
        Ok(false) => {
            let learned = shards_lost(member) - known;
            on.miss(
                "C5",
                format!(
                    "member {number} believes in its shards {FENCED_WITHIN:?} after others took them: it learned of \
                     {learned} of {}",
                    fewest - known
                ),
            );
        }
        Err(_) => on
            .notes
            .push(format!("member {number} ended before it learned that it was replaced")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_longest_between_two_answers_or_an_end() {
        let longest = |answers: &[u64]| longest_silence(answers.to_vec(), 100, 200).as_nanos();
        assert_eq!(longest(&[]), 100);
        assert_eq!(longest(&[160, 110, 50, 250]), 50);
        assert_eq!(longest(&[150]), 50);
        assert_eq!(longest(&[120, 130]), 70);
    }
}

//! What befell members: whose shards went where, and how long nobody answered for them. And what several processes said, in the
//! order in which it happened.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::crash::record::Record;

/// What processes said and when, in nanoseconds, by number of the process.
pub(super) type Said = BTreeMap<u32, Vec<(u64, Record)>>;

/// How a member's shards change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is gone, or as good as that, and its leases expire.
    Lost,
    /// It hands them over.
    Given,
    /// It comes, and is given some.
    Taken,
}

/// What befell a member.
#[derive(Clone, Debug)]
pub struct Change {
    /// What it was, for people.
    pub what: &'static str,
    /// How shards change hands by it.
    pub how: How,
    /// Number of the member's process.
    pub process: u32,
    /// When, in nanoseconds.
    pub(super) at_ns: u64,
    /// Shards that changed hands.
    pub shards: usize,
    /// Longest time in which nobody answered for an execution of one of them.
    pub longest: Duration,
}

impl Change {
    /// It befalls `process` now.
    pub(super) fn now(what: &'static str, how: How, process: u32) -> Self {
        Self {
            what,
            how,
            process,
            at_ns: crate::crash::record::now_ns(),
            shards: 0,
            longest: Duration::ZERO,
        }
    }

    /// Finds out which shards changed hands, and for how long nobody answered for them.
    pub(super) fn measure(&mut self, said: &Said) {
        for (shard, owners) in Ownership::of(said).0 {
            let Some(taken) = taken_by_change(&owners, self) else {
                continue;
            };
            let answers = answers_of(said, shard);
            let before = answers.iter().copied().filter(|at| *at < taken).max();
            let after = answers.iter().copied().filter(|at| *at >= taken).min();
            let from = match self.how {
                How::Lost => self.at_ns,
                How::Given | How::Taken => before.unwrap_or(self.at_ns),
            };
            // One that nobody asks for is there as soon as it is taken.
            let pause = after.unwrap_or(taken).saturating_sub(from);
            self.shards += 1;
            self.longest = self.longest.max(Duration::from_nanos(pause));
        }
    }
}

/// The owners of one shard in the order of their epochs: epoch, process, when it was taken.
type Owners = Vec<(u64, u32, u64)>;

/// That a process took a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    shard: u16,
    epoch: u64,
    at_ns: u64,
}

impl Taken {
    /// What a record says of that.
    pub(super) fn of(at_ns: u64, record: &Record) -> Option<Self> {
        match record {
            Record::Acquired { shard, epoch, .. } => Some(Self {
                shard: *shard,
                epoch: *epoch,
                at_ns,
            }),
            _ => None,
        }
    }
}

/// Who took which shard when.
#[derive(Clone, Debug, Default)]
pub(super) struct Ownership(BTreeMap<u16, Owners>);

impl Ownership {
    /// As the processes told it.
    pub(super) fn of(said: &Said) -> Self {
        let mut all = Self::default();
        for (process, records) in said {
            let taken = records.iter().filter_map(|(at_ns, record)| Taken::of(*at_ns, record));
            all.hear(*process, taken);
        }
        all
    }

    /// Takes in what one process has taken.
    pub(super) fn hear(&mut self, process: u32, taken: impl IntoIterator<Item = Taken>) {
        for Taken { shard, epoch, at_ns } in taken {
            let owners = self.0.entry(shard).or_default();
            let place = owners.partition_point(|(known, ..)| *known < epoch);
            owners.insert(place, (epoch, process, at_ns));
        }
    }

    /// The shards that a process was the last one to take.
    pub(super) fn shards_of(&self, process: u32) -> Vec<u16> {
        let last = |owners: &Owners| owners.last().is_some_and(|(_, owner, _)| *owner == process);
        let shards = self.0.iter().filter(|(_, owners)| last(owners));
        shards.map(|(shard, _)| *shard).collect()
    }

    /// Shards that were taken after an instant, with their epochs.
    pub(super) fn taken_after(&self, at_ns: u64) -> Vec<(u16, u64)> {
        let all = self
            .0
            .iter()
            .flat_map(|(shard, owners)| owners.iter().map(move |owner| (*shard, *owner)));
        let later = all.filter(|(_, (_, _, taken))| *taken > at_ns);
        later.map(|(shard, (epoch, ..))| (shard, epoch)).collect()
    }

    /// Whether a process has a shard as it had it at an instant: nobody has taken it since, and nobody else before.
    pub(super) fn is_still(&self, shard: u16, process: u32, at_ns: u64) -> bool {
        let last = self.0.get(&shard).and_then(|owners| owners.last());
        last.is_some_and(|(_, owner, taken)| *owner == process && *taken <= at_ns)
    }

    /// How many shards a process lost to others by a change, so long after it at the earliest: what was taken sooner had been given.
    pub(super) fn lost_by(&self, change: &Change, after: Duration) -> usize {
        let least = change.at_ns + u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let taken = self.0.values().filter_map(|owners| taken_by_change(owners, change));
        taken.filter(|taken| *taken >= least).count()
    }

    /// Since when a shard has an owner after this epoch.
    fn replaced_at(&self, shard: u16, epoch: u64) -> Option<u64> {
        let owners = self.0.get(&shard)?;
        let later = owners.iter().filter(|(known, ..)| *known > epoch);
        later.map(|(_, _, taken)| *taken).min()
    }
}

/// When a shard changed hands by a change; none: it did not.
fn taken_by_change(owners: &Owners, change: &Change) -> Option<u64> {
    let later = |(_, _, taken): &&(u64, u32, u64)| *taken > change.at_ns;
    match change.how {
        How::Lost | How::Given => {
            let before = owners.iter().rev().find(|owner| !later(owner))?;
            let next = owners.iter().find(|owner| later(owner) && owner.1 != change.process)?;
            (before.1 == change.process).then_some(next.2)
        }
        How::Taken => {
            let taken = owners.iter().find(|owner| later(owner) && owner.1 == change.process)?;
            Some(taken.2)
        }
    }
}

/// The shard of the execution of which a client was told something.
pub(super) fn answered(record: &Record) -> Option<u16> {
    match record {
        Record::StartAcked { id, .. }
        | Record::KeyedAcked { id, .. }
        | Record::CommandAcked { id, .. }
        | Record::Read { id, .. } => Some(id.shard().0),
        _ => None,
    }
}

fn answers_of(said: &Said, shard: u16) -> Vec<u64> {
    let all = said.values().flatten();
    let of_shard = all.filter(|(_, record)| answered(record) == Some(shard));
    of_shard.map(|(at_ns, _)| *at_ns).collect()
}

/// What several processes said, in the order in which it happened.
///
/// An attempt that a former owner had begun may take effect after its successor serves: no lease and no epoch reaches what is on its way.
/// Then it counts as having happened before that.
pub(super) fn in_order(said: Said) -> Vec<Record> {
    let owners = Ownership::of(&said);
    let mut all: Vec<(u64, Record)> = Vec::new();
    for records in said.into_values() {
        let mut epochs: BTreeMap<u16, u64> = BTreeMap::new();
        let mut last = 0;
        for (at_ns, record) in records {
            // The order within a process stands, whatever its clock does.
            last = at_ns.max(last);
            let mut at_ns = last;
            match &record {
                Record::Acquired { shard, epoch, .. } => _ = epochs.insert(*shard, *epoch),
                Record::Effect { id, .. } => {
                    let shard = id.shard().0;
                    let epoch = epochs.get(&shard).copied().unwrap_or(0);
                    if let Some(replaced) = owners.replaced_at(shard, epoch) {
                        at_ns = at_ns.min(replaced.saturating_sub(1));
                    }
                }
                _ => {}
            }
            all.push((at_ns, record));
        }
    }
    all.sort_by_key(|(at_ns, _)| *at_ns);
    all.into_iter().map(|(_, record)| record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use troupe_core::{ExecutionId, ShardId, Timestamp};

    fn taken(shard: u16, epoch: u64) -> Record {
        Record::Acquired { shard, epoch, next: 1 }
    }

    fn id(shard: u16) -> ExecutionId {
        ExecutionId::fresh(ShardId(shard), Timestamp(0), u64::from(shard))
    }

    fn read(shard: u16, seq: u64) -> Record {
        Record::Read {
            client: 1,
            id: id(shard),
            seq,
            fingerprint: 0,
        }
    }

    fn effect(shard: u16) -> Record {
        Record::Effect {
            id: id(shard),
            node: "n".to_owned(),
            token: [0; 4],
            input: "null".to_owned(),
        }
    }

    fn change(how: How, process: u32, at_ns: u64) -> Change {
        Change {
            at_ns,
            ..Change::now("it happens", how, process)
        }
    }

    /// Shards 0 and 1 are member 0's, shard 2 is member 1's; member 1 takes both, shard 1 later.
    fn moved() -> Said {
        Said::from([
            (
                0,
                vec![(1, taken(0, 1)), (2, taken(1, 1)), (40, read(0, 1)), (60, read(1, 1))],
            ),
            (
                1,
                vec![
                    (3, taken(2, 1)),
                    (70, read(2, 1)),
                    (150, taken(0, 2)),
                    (160, read(0, 2)),
                    (170, taken(1, 2)),
                    (190, read(1, 2)),
                ],
            ),
        ])
    }

    #[test]
    fn who_died_is_missed_from_its_death_until_somebody_answers_in_its_place() {
        let mut died = change(How::Lost, 0, 100);
        died.measure(&moved());
        assert_eq!((died.shards, died.longest), (2, Duration::from_nanos(90)));
    }

    #[test]
    fn what_is_handed_over_pauses_from_the_last_answer_to_the_next() {
        let mut given = change(How::Given, 0, 20);
        given.measure(&moved());
        assert_eq!((given.shards, given.longest), (2, Duration::from_nanos(130)));
        let mut came = change(How::Taken, 1, 100);
        came.measure(&moved());
        assert_eq!((came.shards, came.longest), (2, Duration::from_nanos(130)));
        let mut nobody = change(How::Lost, 1, 200);
        nobody.measure(&moved());
        assert_eq!(nobody.shards, 0);
    }

    #[test]
    fn what_was_taken_too_soon_was_not_lost() {
        let owners = Ownership::of(&moved());
        let died = change(How::Lost, 0, 100);
        let lost = |after| owners.lost_by(&died, Duration::from_nanos(after));
        assert_eq!([lost(0), lost(50), lost(51), lost(71)], [2, 2, 1, 0]);
        assert_eq!(owners.lost_by(&change(How::Lost, 1, 100), Duration::ZERO), 0);
    }

    #[test]
    fn whose_shard_was_opened_anew_has_it_no_longer_as_it_had_it() {
        let mut owners = Ownership::of(&moved());
        assert!(owners.is_still(2, 1, 5), "it has gone on");
        assert!(!owners.is_still(0, 0, 20), "another one has it");
        owners.hear(1, Taken::of(200, &taken(2, 2)));
        assert!(!owners.is_still(2, 1, 5) && owners.is_still(2, 1, 200));
        assert!(!owners.is_still(9, 1, 5), "nobody ever had it");
    }

    #[test]
    fn a_late_effect_of_a_former_owner_is_no_effect_of_its_successors_time() {
        let acked = Record::CommandAcked {
            verb: "cancel".to_owned(),
            id: id(0),
            command: "c".to_owned(),
            draining: 0,
            unchanged: false,
        };
        let late = Said::from([
            (0, vec![(1, taken(0, 1)), (50, effect(0))]),
            (1, vec![(20, taken(0, 2)), (30, acked.clone())]),
        ]);
        assert_eq!(in_order(late), [taken(0, 1), effect(0), taken(0, 2), acked.clone()]);
        // One of the owner's own stays where it is, and so does one of an owner that has come back.
        let own = Said::from([
            (0, vec![(1, taken(0, 1)), (25, taken(0, 3)), (50, effect(0))]),
            (1, vec![(20, taken(0, 2)), (30, acked.clone())]),
        ]);
        assert_eq!(in_order(own), [taken(0, 1), taken(0, 2), taken(0, 3), acked, effect(0)]);
    }

    #[test]
    fn what_a_process_said_stays_in_its_order() {
        let said = Said::from([(0, vec![(5, read(0, 1)), (4, read(0, 2))]), (1, vec![(6, read(1, 1))])]);
        assert_eq!(in_order(said), [read(0, 1), read(0, 2), read(1, 1)]);
    }
}

//! What engine processes have said so far comes to. There may be a million records, and it is looked many times a second: each
//! record is heard once.

use std::collections::{BTreeMap, BTreeSet};

use troupe_core::ExecutionId;

use super::changes::{Taken, answered};
use super::load::OVERLOADED;
use crate::crash::record::Record;
use crate::crash::workload::{WOKEN, is_later};

/// What the records of a process come to.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// How many of them are in it.
    pub(super) records: usize,
    pub(super) is_ready: bool,
    pub(super) answers: Answers,
    /// Shards that it still served when it last said so.
    pub(super) shards_served: Option<u16>,
    /// Shards that it has taken.
    pub(super) taken: Vec<Taken>,
    /// Shards in which a task of it panicked, and when, in nanoseconds.
    pub(super) panicked: Vec<(u16, u64)>,
    /// An execution of each shard in which its clients have started one.
    pub(super) started: BTreeMap<u16, ExecutionId>,
    /// When its clients were last answered for each shard, in nanoseconds.
    pub(super) answered_ns: BTreeMap<u16, u64>,
    /// Attempts that counted under a limit.
    pub(super) slots: usize,
    /// How often its operator held its workflow in every shard.
    pub(super) rulings: usize,
    pub(super) later: Later,
}

impl Heard {
    /// Hears what a process has said since it was heard last.
    pub(super) fn hear<'a>(&mut self, news: impl Iterator<Item = (u64, &'a Record)>) {
        for (at_ns, record) in news {
            self.records += 1;
            self.answers.count(record);
            self.taken.extend(Taken::of(at_ns, record));
            self.later.hear(record);
            if let Some(shard) = answered(record) {
                let last = self.answered_ns.entry(shard).or_default();
                *last = at_ns.max(*last);
            }
            match record {
                Record::Ready => self.is_ready = true,
                Record::Fenced { shards_served, .. } => self.shards_served = Some(*shards_served),
                Record::StartAcked { id, .. } => _ = self.started.insert(id.shard().0, *id),
                Record::SlotUsed { .. } => self.slots += 1,
                Record::Ruled { .. } => self.rulings += 1,
                Record::Panicked { shard } => self.panicked.push((*shard, at_ns)),
                _ => {}
            }
        }
    }
}

/// Executions that wait for an instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Later {
    /// Those whose start was acknowledged.
    pub(super) acked: BTreeSet<ExecutionId>,
    /// Those that have gone on.
    pub(super) woken: BTreeSet<ExecutionId>,
}

impl Later {
    fn hear(&mut self, record: &Record) {
        match record {
            Record::StartAcked { key, id, .. } if is_later(key) => _ = self.acked.insert(*id),
            Record::Effect { id, node, .. } if node == WOKEN => _ = self.woken.insert(*id),
            _ => {}
        }
    }

    /// Takes in what another process has said.
    pub(super) fn add(&mut self, other: &Self) {
        self.acked.extend(&other.acked);
        self.woken.extend(&other.woken);
    }

    /// How many have not gone on.
    pub(super) fn asleep(&self) -> usize {
        self.acked.difference(&self.woken).count()
    }
}

/// How many answers the clients of a deployment have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    /// Starts and commands that were acknowledged, and reads.
    pub(super) all: u64,
    /// Starts that were refused as too many.
    pub(super) refused: u64,
}

impl Answers {
    fn count(&mut self, record: &Record) {
        match record {
            _ if answered(record).is_some() => self.all += 1,
            Record::Counted { what, times } if what == OVERLOADED => self.refused += times,
            _ => {}
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.all += other.all;
        self.refused += other.refused;
    }
}

#[cfg(test)]
mod tests {
    use troupe_core::{ShardId, Timestamp};

    use super::*;

    #[test]
    fn what_waits_for_an_instant_is_counted_once_and_apart_from_all_else() {
        let id = |number| ExecutionId::fresh(ShardId(1), Timestamp(0), number);
        let acked = |number, workflow: &str| Record::StartAcked {
            key: format!("{workflow}/0-{number}@5"),
            id: id(number),
            existing: false,
        };
        let woken = |number, node: &str| Record::Effect {
            id: id(number),
            node: node.to_owned(),
            token: [1; 4],
            input: "null".to_owned(),
        };
        let mut heard = Heard::default();
        let said = [
            acked(1, "wait-later"),
            acked(2, "wait-later"),
            acked(2, "wait-later"),
            acked(3, "chain"),
            woken(3, "a"),
        ];
        heard.hear((0..).zip(&said));
        assert_eq!((heard.later.acked.len(), heard.later.asleep()), (2, 2));
        let mut next = Heard::default();
        next.hear((0..).zip(&[woken(2, WOKEN), woken(2, WOKEN), woken(9, WOKEN)]));
        heard.later.add(&next.later);
        assert_eq!((heard.later.acked.len(), heard.later.asleep()), (2, 1));
    }

    #[test]
    fn what_is_heard_bit_by_bit_is_what_is_heard_at_once() {
        let fenced = |shards_served| Record::Fenced {
            shards_lost: 0,
            shards_served,
        };
        let id = |shard| ExecutionId::fresh(ShardId(shard), Timestamp(0), 1);
        let acked = |shard| Record::StartAcked {
            key: "k".to_owned(),
            id: id(shard),
            existing: false,
        };
        let refused = Record::Counted {
            what: OVERLOADED.to_owned(),
            times: 3,
        };
        let taken = Record::Acquired {
            shard: 7,
            epoch: 2,
            next: 1,
        };
        let used = Record::SlotUsed {
            number: 0,
            id: id(7),
            key: "k".to_owned(),
            limit: 1,
        };
        let ruled = Record::Ruled {
            workflow: "w".to_owned(),
            draining: 0,
        };
        let said = [
            Record::Ready,
            taken.clone(),
            acked(7),
            fenced(2),
            refused,
            used,
            ruled,
            acked(8),
            acked(7),
            fenced(0),
            Record::Panicked { shard: 7 },
        ];
        let mut heard = Heard::default();
        for so_far in 0..=said.len() {
            let known = heard.records;
            heard.hear((0..).zip(&said).take(so_far).skip(known));
        }
        assert_eq!(heard.answers, Answers { all: 3, refused: 3 });
        assert_eq!(
            (heard.is_ready, heard.shards_served, heard.records),
            (true, Some(0), 11)
        );
        assert_eq!((heard.slots, heard.rulings), (1, 1));
        assert_eq!(heard.panicked, [(7, 10)]);
        assert_eq!(heard.taken, Taken::of(1, &taken).into_iter().collect::<Vec<_>>());
        assert_eq!(heard.started, BTreeMap::from([(7, id(7)), (8, id(8))]));
        assert_eq!(heard.answered_ns, BTreeMap::from([(7, 8), (8, 7)]));
    }
}

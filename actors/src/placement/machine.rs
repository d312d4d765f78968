//! What to take and what to give up. No I/O, no clock.

use std::collections::BTreeSet;

use troupe_core::placement::shards_of;
use troupe_core::{ShardId, Timestamp};
use troupe_ports::{Holder, Member};

/// Shards that are given up at once: each waits for a checkpoint, and nobody serves it meanwhile.
const HANDED_OVER_MAX: usize = 4;
/// Pause before a shard that could not be opened is tried again, in milliseconds.
const TRY_AGAIN_MS: u64 = 500;

/// How a shard stands with this engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stand {
    /// Not here.
    #[default]
    Away,
    /// It could not be opened: not tried again before this instant.
    Failed(Timestamp),
    /// It is being opened.
    Opening,
    /// It is served.
    Served,
    /// It is being given up.
    Leaving,
    /// An operator must look at it.
    Halted,
}

/// What was seen outside.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Who is there.
    pub members: Vec<Member>,
    /// Who has which shard.
    pub holders: Vec<(ShardId, Holder)>,
    /// This engine leaves everything to the others.
    pub leaves: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Open a shard.
    Take(ShardId),
    /// Give a shard up.
    GiveUp(ShardId),
}

/// Keeps the shards of one engine as the register of members says.
#[derive(Debug)]
pub struct PlacementMachine {
    name: String,
    stands: Vec<Stand>,
    own: BTreeSet<ShardId>,
    looked: bool,
}

impl PlacementMachine {
    /// An engine of this name that has nothing yet.
    #[must_use]
    pub fn new(name: &str, shards: u16) -> Self {
        Self {
            name: name.to_owned(),
            stands: vec![Stand::Away; usize::from(shards)],
            own: BTreeSet::new(),
            looked: false,
        }
    }

    fn stand(&mut self, shard: ShardId) -> Option<&mut Stand> {
        self.stands.get_mut(usize::from(shard.0))
    }

    /// What is to be done about what was seen.
    pub fn looked(&mut self, look: &Look, now: Timestamp) -> Vec<Step> {
        // It keeps what it has until the others have heard that it leaves.
        let stays = |member: &&Member| !member.draining || (member.name == self.name && !look.leaves);
        let live = look.members.iter().filter(stays);
        let live: Vec<&str> = live.map(|member| member.name.as_str()).collect();
        let shards = u16::try_from(self.stands.len()).unwrap_or(u16::MAX);
        self.own = if look.leaves {
            BTreeSet::new()
        } else {
            shards_of(shards, &live, &self.name).into_iter().collect()
        };
        self.looked = true;
        let mut steps = Vec::new();
        let mut leaving = self.stands.iter().filter(|stand| **stand == Stand::Leaving).count();
        // Who is alone with its draining has nobody to leave them to: it keeps them until it stops.
        let has_heir = live.iter().any(|name| *name != self.name);
        for (number, stand) in (0..).zip(&mut self.stands) {
            let shard = ShardId(number);
            if *stand == Stand::Served && !self.own.contains(&shard) && has_heir && leaving < HANDED_OVER_MAX {
                *stand = Stand::Leaving;
                leaving += 1;
                steps.push(Step::GiveUp(shard));
            }
        }
        for (shard, holder) in &look.holders {
            let is_free = holder.owner.as_ref().is_none_or(|owner| *owner == self.name);
            if !is_free || !self.own.contains(shard) {
                continue;
            }
            let Some(stand) = self.stand(*shard) else { continue };
            let may = match *stand {
                Stand::Away => true,
                Stand::Failed(until) => until <= now,
                Stand::Opening | Stand::Served | Stand::Leaving | Stand::Halted => false,
            };
            if may {
                *stand = Stand::Opening;
                steps.push(Step::Take(*shard));
            }
        }
        steps
    }

    /// A shard that was to be opened is, or is not.
    pub fn opened(&mut self, shard: ShardId, served: bool, now: Timestamp) {
        if let Some(stand) = self.stand(shard)
            && *stand == Stand::Opening
        {
            *stand = if served {
                Stand::Served
            } else {
                Stand::Failed(now.plus_ms(TRY_AGAIN_MS))
            };
        }
    }

    /// A shard is no longer served: it was given up, lost, or failed.
    pub fn gone(&mut self, shard: ShardId, now: Timestamp) {
        if let Some(stand) = self.stand(shard) {
            *stand = match *stand {
                Stand::Halted => Stand::Halted,
                Stand::Served | Stand::Opening => Stand::Failed(now.plus_ms(TRY_AGAIN_MS)),
                Stand::Failed(until) => Stand::Failed(until),
                Stand::Away | Stand::Leaving => Stand::Away,
            };
        }
    }

    /// A shard waits for an operator.
    pub fn halted(&mut self, shard: ShardId) {
        if let Some(stand) = self.stand(shard) {
            *stand = Stand::Halted;
        }
    }

    /// Its own shards that it does not serve yet, those that are halted left out.
    #[must_use]
    pub fn missing(&self) -> Vec<ShardId> {
        let lacks = |shard: &&ShardId| {
            let stand = self.stands.get(usize::from(shard.0));
            !matches!(stand, Some(Stand::Served | Stand::Halted))
        };
        self.own.iter().filter(lacks).copied().collect()
    }

    /// Whether everything that is its own is served, and nothing else, as far as was seen.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let strays = (0..).zip(&self.stands).any(|(number, stand)| {
            matches!(stand, Stand::Served | Stand::Leaving) && !self.own.contains(&ShardId(number))
        });
        self.looked && !strays && self.missing().is_empty()
    }

    /// Shards that it serves or is giving up.
    #[must_use]
    pub fn held(&self) -> usize {
        let held = |stand: &&Stand| matches!(stand, Stand::Served | Stand::Leaving | Stand::Opening);
        self.stands.iter().filter(held).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use troupe_core::Epoch;

    const SHARDS: u16 = 8;

    fn member(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            address: format!("http://{name}"),
            draining: false,
            release: String::new(),
        }
    }

    fn look(members: &[Member], held: &[(u16, &str)]) -> Look {
        let owner = |shard| {
            held.iter()
                .find(|(held, _)| *held == shard)
                .map(|(_, name)| (*name).to_owned())
        };
        let holders = (0..SHARDS).map(|shard| {
            let holder = Holder {
                epoch: Epoch(1),
                owner: owner(shard),
            };
            (ShardId(shard), holder)
        });
        Look {
            members: members.to_vec(),
            holders: holders.collect(),
            leaves: false,
        }
    }

    fn serving_all(name: &str) -> PlacementMachine {
        let mut machine = PlacementMachine::new(name, SHARDS);
        let steps = machine.looked(&look(&[member(name)], &[]), Timestamp(0));
        assert_eq!(steps.len(), usize::from(SHARDS));
        for step in steps {
            let Step::Take(shard) = step else {
                panic!("nothing is to be given up")
            };
            machine.opened(shard, true, Timestamp(0));
        }
        assert!(machine.is_settled());
        machine
    }

    #[test]
    fn one_alone_takes_everything_once() {
        let mut machine = serving_all("a");
        assert!(machine.looked(&look(&[member("a")], &[]), Timestamp(1)).is_empty());
    }

    #[test]
    fn a_newcomer_gets_its_share_few_at_a_time_and_takes_what_is_free_only() {
        let (mut a, mut b) = (serving_all("a"), PlacementMachine::new("b", SHARDS));
        let both = [member("a"), member("b")];
        let all: Vec<_> = (0..SHARDS).map(|shard| (shard, "a")).collect();
        let left = a.looked(&look(&both, &all), Timestamp(0));
        assert_eq!(left.len(), HANDED_OVER_MAX.min(4));
        assert!(
            b.looked(&look(&both, &all), Timestamp(0)).is_empty(),
            "nothing is free yet"
        );
        assert_eq!(b.missing().len(), 4);
        assert!(!a.is_settled() && !b.is_settled());
        for step in &left {
            let Step::GiveUp(shard) = *step else {
                panic!("only given up")
            };
            a.gone(shard, Timestamp(0));
        }
        let kept: Vec<_> = all
            .into_iter()
            .filter(|(shard, _)| !left.contains(&Step::GiveUp(ShardId(*shard))))
            .collect();
        let taken = b.looked(&look(&both, &kept), Timestamp(1));
        let expected: Vec<_> = left
            .iter()
            .map(|step| match *step {
                Step::GiveUp(shard) | Step::Take(shard) => Step::Take(shard),
            })
            .collect();
        assert_eq!(taken, expected);
        for step in taken {
            let Step::Take(shard) = step else { panic!("only taken") };
            b.opened(shard, true, Timestamp(1));
        }
        assert!(a.looked(&look(&both, &kept), Timestamp(1)).is_empty());
        assert!(a.is_settled() && b.is_settled());
    }

    #[test]
    fn whoever_drains_leaves_everything_to_the_others_in_waves() {
        let mut a = serving_all("a");
        let draining = Member {
            draining: true,
            ..member("a")
        };
        let leaves = |members: &[Member]| Look {
            leaves: true,
            ..look(members, &[])
        };
        let both = [draining.clone(), member("b")];
        let not_yet = a.looked(&look(&both, &[]), Timestamp(0));
        assert!(
            not_yet.iter().all(|step| matches!(step, Step::GiveUp(_))),
            "nothing but the share of the other one"
        );
        let mut a = serving_all("a");
        let alone = leaves(std::slice::from_ref(&draining));
        assert!(
            a.looked(&alone, Timestamp(0)).is_empty(),
            "nobody is there to take them"
        );
        let with_heir = leaves(&[draining, member("b")]);
        let mut left = 0;
        while a.held() > 0 {
            let steps = a.looked(&with_heir, Timestamp(0));
            assert!((1..=HANDED_OVER_MAX).contains(&steps.len()));
            for step in steps {
                let Step::GiveUp(shard) = step else {
                    panic!("it takes nothing")
                };
                a.gone(shard, Timestamp(0));
                left += 1;
            }
        }
        assert_eq!(left, SHARDS);
    }

    #[test]
    fn a_shard_that_cannot_be_opened_is_tried_again_later_and_a_halted_one_never() {
        let mut machine = PlacementMachine::new("a", SHARDS);
        let alone = look(&[member("a")], &[]);
        machine.looked(&alone, Timestamp(0));
        for shard in (0..SHARDS).map(ShardId) {
            machine.opened(shard, shard.0 > 1, Timestamp(0));
        }
        machine.halted(ShardId(1));
        assert_eq!(machine.missing(), [ShardId(0)]);
        assert!(machine.looked(&alone, Timestamp(499)).is_empty());
        assert_eq!(machine.looked(&alone, Timestamp(500)), [Step::Take(ShardId(0))]);
        machine.opened(ShardId(0), true, Timestamp(600));
        assert!(machine.is_settled());
        // One that fails while it is served is tried again, too.
        machine.gone(ShardId(0), Timestamp(700));
        assert_eq!(machine.looked(&alone, Timestamp(1_200)), [Step::Take(ShardId(0))]);
        machine.gone(ShardId(1), Timestamp(700));
        assert!(machine.looked(&alone, Timestamp(9_000)).is_empty());
    }
}

//! What to take and what to give up. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};

use troupe_core::placement::place;
use troupe_core::{FormatRange, ShardId, StateFormat, Timestamp};
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
    /// Whoever orders the owners answers: somebody else could become one.
    pub epochs_answer: bool,
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
    /// What each shard holds, and since when, where that was seen to change.
    formats: Vec<(StateFormat, Option<Timestamp>)>,
    /// Shards that no member reads.
    unreadable: BTreeMap<ShardId, StateFormat>,
    /// How long it takes until everybody has seen what this engine sees, in milliseconds.
    notice_ms: u64,
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
            formats: vec![(StateFormat::FIRST, None); usize::from(shards)],
            unreadable: BTreeMap::new(),
            notice_ms: 0,
            looked: false,
        }
    }

    /// A shard of which the format has changed goes to others no earlier than this: by then they know that they read it.
    #[must_use]
    pub fn with_notice(self, notice_ms: u64) -> Self {
        Self { notice_ms, ..self }
    }

    fn stand(&mut self, shard: ShardId) -> Option<&mut Stand> {
        self.stands.get_mut(usize::from(shard.0))
    }

    /// What is to be done about what was seen.
    pub fn looked(&mut self, look: &Look, now: Timestamp) -> Vec<Step> {
        // It keeps what it has until the others have heard that it leaves.
        let stays = |member: &&Member| !member.draining || (member.name == self.name && !look.leaves);
        let live: Vec<&Member> = look.members.iter().filter(stays).collect();
        self.see_formats(look, now);
        let placed = self.placed(&live);
        let is_own = |(_, member): &(ShardId, Option<&str>)| *member == Some(&self.name) && !look.leaves;
        let numbered = (0..).map(ShardId).zip(placed.iter().copied());
        self.own = numbered.filter(is_own).map(|(shard, _)| shard).collect();
        self.looked = true;
        let mut steps = Vec::new();
        let mut leaving = self.stands.iter().filter(|stand| **stand == Stand::Leaving).count();
        for ((number, stand), heir) in (0..).zip(&mut self.stands).zip(placed) {
            let shard = ShardId(number);
            let (_, since) = self.formats[usize::from(number)];
            let is_known = since.is_none_or(|since| now.since_ms(since) >= self.notice_ms);
            // What nobody else can take it keeps until it stops: who is alone with its draining, or with its format.
            // Nor does anybody own it next who gets no epoch for it.
            let has_heir = heir.is_some_and(|heir| heir != self.name) && is_known && look.epochs_answer;
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

    fn see_formats(&mut self, look: &Look, now: Timestamp) {
        for (shard, holder) in &look.holders {
            if let Some(known) = self.formats.get_mut(usize::from(shard.0))
                && known.0 != holder.format
            {
                *known = (holder.format, self.looked.then_some(now));
            }
        }
        let numbered = (0..).map(ShardId).zip(&self.formats);
        let is_unreadable = |format: StateFormat| {
            // Also one that leaves still serves what it has.
            !look.members.is_empty() && !look.members.iter().any(|member| member.reads.reads(format))
        };
        let unreadable = numbered.filter(|(_, (format, _))| is_unreadable(*format));
        self.unreadable = unreadable.map(|(shard, (format, _))| (shard, *format)).collect();
    }

    /// The member of each shard, among those that read what it holds; none where nobody does. Where everybody reads everything, placement
    /// is what it is without formats.
    fn placed<'a>(&self, live: &[&'a Member]) -> Vec<Option<&'a str>> {
        let shards = u16::try_from(self.stands.len()).unwrap_or(u16::MAX);
        let among = |members: &[&'a Member]| -> Vec<Option<&'a Member>> {
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            let mut placed: Vec<_> = place(shards, &names)
                .into_iter()
                .map(|at| members.get(at).copied())
                .collect();
            placed.resize(usize::from(shards), None);
            placed
        };
        let all = among(live);
        let mut by_format: BTreeMap<StateFormat, Vec<Option<&Member>>> = BTreeMap::new();
        let shards = all.into_iter().zip(&self.formats).enumerate();
        let placed = shards.map(|(number, (member, (format, _)))| {
            let reads = |member: &&Member| FormatRange::reads(member.reads, *format);
            let member = member.filter(reads).or_else(|| {
                let readers = || {
                    let readers: Vec<&Member> = live.iter().copied().filter(reads).collect();
                    among(&readers)
                };
                by_format.entry(*format).or_insert_with(readers)[number]
            });
            member.map(|member| member.name.as_str())
        });
        placed.collect()
    }

    /// Shards that no member reads, and what they hold.
    #[must_use]
    pub fn unreadable(&self) -> &BTreeMap<ShardId, StateFormat> {
        &self.unreadable
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

    /// A shard is no longer served: it was given up, lost, or failed. This engine opens it from then on at the earliest.
    pub fn gone(&mut self, shard: ShardId, from: Timestamp) {
        if let Some(stand) = self.stand(shard) {
            *stand = match *stand {
                Stand::Halted => Stand::Halted,
                Stand::Served | Stand::Opening => Stand::Failed(from),
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
            reads: FormatRange::RELEASE,
            at_most: None,
        }
    }

    /// One that reads the next format too.
    fn newer(name: &str) -> Member {
        Member {
            reads: FormatRange::WITH_TRIAL,
            ..member(name)
        }
    }

    fn holding(format: StateFormat, look: Look) -> Look {
        let holders = look.holders.into_iter();
        let holders = holders.map(|(shard, holder)| (shard, Holder { format, ..holder }));
        Look {
            holders: holders.collect(),
            ..look
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
                format: StateFormat::FIRST,
            };
            (ShardId(shard), holder)
        });
        Look {
            members: members.to_vec(),
            holders: holders.collect(),
            leaves: false,
            epochs_answer: true,
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
            a.gone(shard, Timestamp(500));
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
    fn nothing_is_given_up_while_nobody_could_take_it() {
        let mut a = serving_all("a");
        let both = look(&[member("a"), member("b")], &[]);
        let without_epochs = Look {
            epochs_answer: false,
            ..both.clone()
        };
        assert!(a.looked(&without_epochs, Timestamp(0)).is_empty());
        assert_eq!(a.held(), usize::from(SHARDS));
        assert!(!a.looked(&both, Timestamp(1)).is_empty());
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
                a.gone(shard, Timestamp(500));
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
        machine.gone(ShardId(0), Timestamp(1_200));
        assert!(machine.looked(&alone, Timestamp(1_199)).is_empty());
        assert_eq!(machine.looked(&alone, Timestamp(1_200)), [Step::Take(ShardId(0))]);
        machine.gone(ShardId(1), Timestamp(1_200));
        assert!(machine.looked(&alone, Timestamp(9_000)).is_empty());
    }

    #[test]
    fn what_a_newcomer_cannot_read_stays_where_it_is_until_it_can() {
        let (mut a, mut b) = (serving_all("a").with_notice(1_000), PlacementMachine::new("b", SHARDS));
        let all: Vec<_> = (0..SHARDS).map(|shard| (shard, "a")).collect();
        let both = [newer("a"), member("b")];
        let newest = |members: &[Member]| holding(StateFormat::TRIAL, look(members, &all));
        assert!(a.looked(&newest(&both[..1]), Timestamp(0)).is_empty());
        for now in [1_000, 9_000] {
            assert!(a.looked(&newest(&both), Timestamp(now)).is_empty());
            assert!(b.looked(&newest(&both), Timestamp(now)).is_empty());
        }
        assert!(a.is_settled() && b.is_settled(), "nothing is missing anywhere");
        assert_eq!((a.held(), b.held()), (usize::from(SHARDS), 0));
        assert!(a.unreadable().is_empty() && b.unreadable().is_empty());
        // Written anew: the newcomer hears of it, and is given its share.
        assert!(a.looked(&look(&both, &all), Timestamp(10_000)).is_empty());
        assert!(b.looked(&look(&both, &all), Timestamp(10_100)).is_empty());
        assert_eq!(b.missing().len(), 4, "it looks out for them");
        assert!(a.looked(&look(&both, &all), Timestamp(10_999)).is_empty());
        let left = a.looked(&look(&both, &all), Timestamp(11_000));
        assert_eq!(left.len(), 4);
        for step in left {
            let Step::GiveUp(shard) = step else {
                panic!("only given up")
            };
            a.gone(shard, Timestamp(11_500));
        }
        assert_eq!(b.looked(&look(&both, &all[..0]), Timestamp(11_001)).len(), 4);
    }

    #[test]
    fn shards_of_a_newer_format_are_shared_by_those_who_read_them() {
        let members = [newer("a"), member("b"), newer("c")];
        let look = holding(StateFormat::TRIAL, look(&members, &[]));
        let mut taken = BTreeSet::new();
        for name in ["a", "b", "c"] {
            let steps = PlacementMachine::new(name, SHARDS).looked(&look, Timestamp(0));
            assert!(steps.len() <= if name == "b" { 0 } else { 6 }, "{name}: {steps:?}");
            for step in steps {
                let Step::Take(shard) = step else { panic!("only taken") };
                assert!(taken.insert(shard), "one each");
            }
        }
        assert_eq!(taken.len(), usize::from(SHARDS));
    }

    #[test]
    fn what_nobody_reads_is_left_alone_and_told() {
        let mut machine = PlacementMachine::new("a", SHARDS);
        let alone = holding(StateFormat::TRIAL, look(&[member("a")], &[]));
        for now in [0, 600, 9_000] {
            assert!(machine.looked(&alone, Timestamp(now)).is_empty());
        }
        assert!(machine.missing().is_empty(), "nothing to look out for");
        assert_eq!(machine.unreadable().len(), usize::from(SHARDS));
        // One that leaves still has them.
        let draining = Member {
            draining: true,
            ..newer("b")
        };
        let leaving = Look {
            members: vec![member("a"), draining],
            ..alone
        };
        assert!(machine.looked(&leaving, Timestamp(9_100)).is_empty());
        assert!(machine.unreadable().is_empty());
    }

    #[test]
    fn whoever_leaves_keeps_what_nobody_else_reads() {
        let mut machine = serving_all("a");
        let draining = Member {
            draining: true,
            ..newer("a")
        };
        let leaves = |look: Look| Look { leaves: true, ..look };
        let both = [draining, member("b")];
        let newest = leaves(holding(StateFormat::TRIAL, look(&both, &[])));
        assert!(machine.looked(&newest, Timestamp(0)).is_empty());
        assert_eq!(
            machine.looked(&leaves(look(&both, &[])), Timestamp(1)).len(),
            HANDED_OVER_MAX
        );
    }
}

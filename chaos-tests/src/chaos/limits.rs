//! Limits that members count together: faults planted in their counting, who used a slot when, and what is left of tickets in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_trait::async_trait;
use troupe_core::{Epoch, ExecutionId, ShardId};
use troupe_ports::{Ask, Asked, Hold, Semaphores, StoreError};

use super::changes::Said;
use super::deployment::{Deployment, LEASE};
use super::engine::Order;
use super::fault::{Expects, Fault, LineFault, Target};
use super::plan::Trial;
use super::schedule::Struck;
use super::servers::Seat;
use crate::crash::Violation;
use crate::crash::record::Record;
use crate::crash::switches::Switches;
use crate::crash::workload;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Executions that are started so that each kind of ticket is held for a while, and how long they may take to hold some.
const TAKE_TICKETS: u64 = 12;
const SEEN_WITHIN: Duration = Duration::from_secs(20);
/// And how long after they were asked to they are asked again.
const TELL_AGAIN: Duration = Duration::from_secs(3);
/// What an engine logs of a slot that it could not keep.
const LAPSED: &str = "the store no longer knew a slot of a key";
/// Lists what is held under no time (`held`) and for a time that is not over (`slot`), and what is noted (`note`), tickets in
/// hexadecimal digits. It declares no keys and no flags: such a script may read what it finds in whichever slots of its node.
const LEFT: &str = r"
local out = {}
local function hex(text) return (text:gsub('.', function(byte) return string.format('%02x', byte:byte()) end)) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, key in ipairs(redis.call('KEYS', '{' .. ARGV[1] .. ':q*}h*')) do
  local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for at = 1, #all, 2 do
    local ends = tonumber(all[at + 1])
    if ends >= 1e14 then out[#out + 1] = 'held ' .. hex(all[at]) elseif ends > now then out[#out + 1] = 'slot ' .. hex(all[at]) end
  end
end
for _, key in ipairs(redis.call('KEYS', '{' .. ARGV[1] .. ':s*}i')) do
  for _, ticket in ipairs(redis.call('HKEYS', key)) do
    if ticket ~= '' then out[#out + 1] = 'note ' .. hex(ticket) end
  end
end
return out";

/// Semaphores as their switches say: they may count nobody, or keep what is given back.
pub(super) struct SwitchedSemaphores(pub(super) Arc<dyn Semaphores>, pub(super) Arc<Switches>);

#[async_trait]
impl Semaphores for SwitchedSemaphores {
    async fn acquire(&self, key: &[u8], ask: &Ask<'_>) -> Result<Asked, StoreError> {
        if self.1.admits_without_count {
            return Ok(Asked::Granted);
        }
        self.0.acquire(key, ask).await
    }

    async fn hold(&self, key: &[u8], ticket: &[u8], hold: Hold) -> Result<(), StoreError> {
        self.0.hold(key, ticket, hold).await
    }

    async fn renew(&self, held: &[(&[u8], &[u8])], ttl: Duration) -> Result<Vec<bool>, StoreError> {
        if self.1.admits_without_count {
            return Ok(vec![true; held.len()]);
        }
        self.0.renew(held, ttl).await
    }

    async fn release(&self, key: &[u8], ticket: &[u8], under: Option<Epoch>) -> Result<bool, StoreError> {
        if self.1.keeps_tickets {
            return Ok(true);
        }
        self.0.release(key, ticket, under).await
    }

    async fn bar(&self, key: &[u8], ticket: &[u8], below: Epoch) -> Result<(), StoreError> {
        self.0.bar(key, ticket, below).await
    }

    async fn note(&self, shard: ShardId, under: Epoch, ticket: &[u8], key: &[u8]) -> Result<(), StoreError> {
        self.0.note(shard, under, ticket, key).await
    }

    async fn strike(&self, shard: ShardId, under: Epoch, ticket: &[u8]) -> Result<(), StoreError> {
        if self.1.keeps_tickets {
            return Ok(());
        }
        self.0.strike(shard, under, ticket).await
    }

    async fn noted(&self, shard: ShardId, under: Epoch) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.0.noted(shard, under).await
    }
}

/// An attempt that counted under a limit: whose, and from when to when it could take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotUse {
    pub(super) process: u32,
    id: ExecutionId,
    key: String,
    limit: u32,
    from_ns: u64,
    until_ns: u64,
}

impl SlotUse {
    /// As the processes told it. What ended with its process, it did not tell any more.
    pub(super) fn of(said: &Said, ended_ns: &BTreeMap<u32, u64>) -> Vec<Self> {
        let mut all = Vec::new();
        for (process, records) in said {
            let end = ended_ns.get(process).copied().unwrap_or(u64::MAX);
            let mut open: BTreeMap<u64, Self> = BTreeMap::new();
            for (at_ns, record) in records {
                match record {
                    Record::SlotUsed { number, id, key, limit } => {
                        let begun = Self {
                            process: *process,
                            id: *id,
                            key: key.clone(),
                            limit: *limit,
                            from_ns: *at_ns,
                            until_ns: end,
                        };
                        open.insert(*number, begun);
                    }
                    Record::SlotLeft { number } => {
                        let left = open.remove(number);
                        all.extend(left.map(|left| Self {
                            until_ns: *at_ns,
                            ..left
                        }));
                    }
                    _ => {}
                }
            }
            all.extend(open.into_values());
        }
        all
    }
}

/// For how long after its beginning an attempt of a process is certain to be the only one, or one of so many.
///
/// ADR 0036: a slot lasts a lease and a quarter and is renewed while its attempt runs, so it is kept until the attempt ends or its
/// process dies. It lapses where it cannot be renewed: its member is frozen or cut off, or the store is away. An attempt does not begin
/// in the last tenth of a slot's time, so that tenth is its own even then.
fn kept_for(trial: &Trial, process_lapsed: bool) -> Duration {
    let stays_in_touch = |fault: Fault| match fault {
        Fault::MemberFreeze | Fault::MemberPartition | Fault::EngineFreeze | Fault::EnginePartition => false,
        // What only takes longer arrives in time.
        Fault::MemberLine(Target::Redis, kind) | Fault::Line(Target::Redis, kind) => kind == LineFault::Latency,
        other => other.target() != Target::Redis,
    };
    if !process_lapsed && trial.strikes.iter().all(|strike| stays_in_touch(strike.fault)) {
        return Duration::MAX;
    }
    LEASE * 5 / 4 / 10
}

/// C6: never more attempts of one key at once than its limit, wherever they run, as long as each is certain of its slot.
pub(super) fn hold_so_many(uses: &[SlotUse], kept_for: impl Fn(u32) -> Duration) -> Vec<Violation> {
    let mut by_key: BTreeMap<&str, Vec<(&SlotUse, u64)>> = BTreeMap::new();
    for one in uses {
        let kept = u64::try_from(kept_for(one.process).as_nanos()).unwrap_or(u64::MAX);
        let until = one.until_ns.min(one.from_ns.saturating_add(kept));
        by_key.entry(&one.key).or_default().push((one, until));
    }
    let mut found = Vec::new();
    for (key, those) in &by_key {
        for (one, _) in those {
            let beside = those
                .iter()
                .filter(|(other, until)| other.from_ns <= one.from_ns && one.from_ns < *until);
            let beside: Vec<String> = beside
                .map(|(other, _)| format!("{} at member {}", other.id, other.process))
                .collect();
            if beside.len() > one.limit as usize {
                let what = format!("key {key} holds {}, and at once run {}", one.limit, beside.join(", "));
                found.push(Violation { invariant: "C6", what });
            }
        }
    }
    found
}

/// What is held and noted in the store at one moment.
#[derive(Debug, Default)]
struct Left {
    /// Tickets of executions that are held.
    held: BTreeSet<String>,
    noted: BTreeSet<String>,
    slots: usize,
}

impl Left {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut left = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (what, ticket) = line.split_once(' ').context("a line without a ticket")?;
            match what {
                "slot" => left.slots += 1,
                "held" => _ = left.held.insert(ticket.to_owned()),
                "note" => _ = left.noted.insert(ticket.to_owned()),
                other => bail!("{other} is not known"),
            }
        }
        Ok(left)
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.noted.is_empty() && self.slots == 0
    }

    /// Held, and no next owner would find it.
    fn lost(&self) -> Vec<&String> {
        self.held.difference(&self.noted).collect()
    }
}

/// Which kinds of tickets a look at the store has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds {
    held: bool,
    noted: bool,
    slots: bool,
}

impl Kinds {
    fn add(&mut self, left: &Left) {
        self.held |= !left.held.is_empty();
        self.noted |= !left.noted.is_empty();
        self.slots |= left.slots > 0;
    }

    /// Whether it finds each of them where there are some.
    pub(super) fn are_all(self) -> bool {
        self.held && self.noted && self.slots
    }
}

impl Deployment<'_> {
    /// Has executions take every kind of ticket, and looks at the store until each was found: a look that finds nothing in the end must
    /// not be blind.
    pub(super) fn sees_tickets(&mut self) -> anyhow::Result<()> {
        if self.members.is_none() {
            return Ok(());
        }
        let (begun, mut told) = (Instant::now(), None);
        while !self.tickets.are_all() && begun.elapsed() < SEEN_WITHIN {
            self.has_tickets_taken(&mut told)?;
            let left = self.left()?;
            self.tickets.add(&left);
            self.watch(LOOK_EVERY)?;
        }
        Ok(())
    }

    /// Which of these masters counts executions: all that count share one key. None: for too long nobody was seen to.
    pub(super) fn counts_executions(&mut self, masters: &[Seat]) -> anyhow::Result<Option<usize>> {
        let (begun, mut told) = (Instant::now(), None);
        while begun.elapsed() < SEEN_WITHIN {
            self.has_tickets_taken(&mut told)?;
            for (place, master) in masters.iter().enumerate() {
                let cluster = self.cluster.as_ref().context("this deployment has no cluster")?;
                let text = cluster.ask(master.port, &["EVAL", LEFT, "0", self.place.prefix.as_str()])?;
                if !Left::parse(&text)?.held.is_empty() {
                    return Ok(Some(place));
                }
            }
            self.watch(LOOK_EVERY)?;
        }
        Ok(None)
    }

    /// Starts what takes tickets, and again after a while: starts may be refused while much waits for a bus.
    fn has_tickets_taken(&mut self, told: &mut Option<Instant>) -> anyhow::Result<()> {
        if told.is_some_and(|at| at.elapsed() < TELL_AGAIN) {
            return Ok(());
        }
        *told = Some(Instant::now());
        for workflow in [workload::FEW, workload::HELD_LONG] {
            self.tell(&Order::Burst {
                workflow: workflow.to_owned(),
                count: TAKE_TICKETS,
                at_once: TAKE_TICKETS,
            })?;
        }
        Ok(())
    }

    /// C6: judges who used slots at once. ADR 0036: a store that came back older has forgotten tickets, and may grant too many.
    pub(super) fn judge_slots(&self, trial: &Trial) -> Vec<Violation> {
        if trial.expects() == Expects::ToldLoss {
            return Vec::new();
        }
        let has_lapsed = |number: u32| {
            let log = std::fs::read_to_string(self.log_of(number)).unwrap_or_default();
            log.contains(LAPSED)
        };
        let kept: Vec<Duration> = (0..self.incarnations)
            .map(|number| kept_for(trial, has_lapsed(number)))
            .collect();
        let is_forgotten = |one: &&SlotUse| {
            let older = self.older.as_ref();
            older.is_some_and(|older| older.has_forgotten(one.from_ns))
        };
        let known: Vec<SlotUse> = self.slots.iter().filter(|one| !is_forgotten(one)).cloned().collect();
        hold_so_many(&known, |process| kept[process as usize])
    }

    /// What is counted now. The keys of a cluster are spread over its masters, and a script sees those of one.
    fn left(&mut self) -> anyhow::Result<Left> {
        let prefix = self.place.prefix.clone();
        let script = ["EVAL", LEFT, "0", prefix.as_str()];
        let text = match &self.cluster {
            Some(cluster) => cluster.ask_masters(&script)?,
            None => self.master()?.ask(&script)?,
        };
        Left::parse(&text)
    }

    /// C12: when nobody starts anything any more, all that waits goes on and gives back what it has, without anybody's help.
    pub(super) fn gives_everything_back(&mut self, within: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.members.is_some() {
            let left = self.left()?;
            if left.is_empty() {
                break;
            }
            if begun.elapsed() > within {
                let what = format!(
                    "of what members counted {left:?} is left after {within:?}, no note leads to {:?}",
                    left.lost()
                );
                self.seen.push(Violation { invariant: "C12", what });
                break;
            }
            self.watch(LOOK_EVERY)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_core::Timestamp;

    use super::*;

    fn id(number: u64) -> ExecutionId {
        ExecutionId::fresh(ShardId(0), Timestamp(1), number)
    }

    fn used(number: u64, key: &str, limit: u32) -> Record {
        Record::SlotUsed {
            number,
            id: id(number),
            key: key.to_owned(),
            limit,
        }
    }

    fn left(number: u64) -> Record {
        Record::SlotLeft { number }
    }

    fn found(said: Vec<(u32, Vec<(u64, Record)>)>, ended: &[(u32, u64)], kept: Duration) -> Vec<String> {
        let uses = SlotUse::of(&said.into_iter().collect(), &ended.iter().copied().collect());
        let found = hold_so_many(&uses, |_| kept);
        found.into_iter().map(|violation| violation.what).collect()
    }

    #[test]
    fn one_more_than_the_limit_is_found_whichever_members_they_run_at() {
        let one_after_the_other = || {
            vec![
                (0, vec![(1, used(0, "k", 1)), (5, left(0)), (9, used(1, "other", 1))]),
                (1, vec![(5, used(0, "k", 1)), (8, left(0))]),
            ]
        };
        assert_eq!(found(one_after_the_other(), &[], Duration::MAX), [""; 0]);
        let mut at_once = one_after_the_other();
        at_once[1].1[0].0 = 4;
        let what = found(at_once.clone(), &[], Duration::MAX);
        assert!(
            what.len() == 1 && what[0].contains("at member 0, ") && what[0].ends_with("at member 1"),
            "{what:?}"
        );
        // The first one's slot may have lapsed by then.
        assert_eq!(found(at_once, &[], Duration::from_nanos(3)), [""; 0]);
        let two = vec![
            (0, vec![(1, used(0, "k", 2)), (2, used(1, "k", 2))]),
            (1, vec![(3, used(0, "k", 2))]),
        ];
        assert_eq!(found(two, &[(0, 9), (1, 9)], Duration::MAX).len(), 1);
    }

    #[test]
    fn who_died_uses_nothing_any_more() {
        let said = || vec![(0, vec![(1, used(0, "k", 1))]), (1, vec![(20, used(0, "k", 1))])];
        assert_eq!(found(said(), &[(0, 10), (1, 30)], Duration::MAX), [""; 0]);
        assert_eq!(found(said(), &[(0, 21), (1, 30)], Duration::MAX).len(), 1);
    }

    #[test]
    fn a_look_that_never_found_a_kind_of_ticket_may_be_blind() {
        let all = ["held 0a", "slot 00ff", "note 0a"];
        let seen = |lines: &[&str]| {
            let mut kinds = Kinds::default();
            lines.iter().for_each(|line| kinds.add(&Left::parse(line).unwrap()));
            kinds.are_all()
        };
        assert!(seen(&all));
        for missing in 0..all.len() {
            let others: Vec<&str> = (0..all.len()).filter(|at| *at != missing).map(|at| all[at]).collect();
            assert!(!seen(&others), "{} was never found", all[missing]);
        }
    }

    #[test]
    fn what_is_left_is_read_as_redis_lists_it() {
        let left = Left::parse("held 0a\nslot 00ff\nnote 0a\nheld 0b\n").unwrap();
        assert_eq!((left.held.len(), left.noted.len(), left.slots), (2, 1, 1));
        assert_eq!(left.lost(), ["0b"]);
        assert!(!left.is_empty() && Left::parse("").unwrap().is_empty());
        assert!(Left::parse("kept 0a").is_err() && Left::parse("held").is_err());
    }
}

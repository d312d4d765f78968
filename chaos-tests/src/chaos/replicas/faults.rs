//! What befalls replicas, and the servers that they share.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::Replicas;
use super::replica::Replica;
use crate::chaos::fault::{Fault, LineFault, Target, line, server, taken_within};
use crate::chaos::lab::Lab;
use crate::chaos::plan::SHARED;
use crate::chaos::proxy::{Line, Proxy};
use crate::chaos::schedule::{Open, Struck};
use crate::chaos::servers::Redis;
use crate::world::random::Random;

/// How long one that is told to leave may take to end.
const LEAVES_WITHIN: Duration = Duration::from_secs(20);
/// How long one that goes on may take to learn that others have its shards.
const FENCED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Until connections that are cut are gone.
const CUT_WITHIN: Duration = Duration::from_millis(100);
/// How often whoever has messages in hand may lose its connection to a broker that comes back, or does not answer.
const LOST_AT_MOST: usize = 2;

impl Struck for Replicas<'_> {
    fn begin(&mut self, fault: Fault, random: &mut Random, _: u64) -> anyhow::Result<()> {
        self.ends += ends(fault);
        match fault {
            Fault::GatewayKill | Fault::PoisonMessages => {
                let place = self.hit(fault, random)?;
                self.has_ended(place)?;
                self.all[place].ask_fenced();
                self.all[place].kill()
            }
            Fault::GatewayDrain => {
                let place = self.hit(fault, random)?;
                self.leave(place)
            }
            Fault::GatewayFreeze => {
                let place = self.hit(fault, random)?;
                self.all[place].ask_fenced();
                self.all[place].stand(true)?;
                self.until_taken()
            }
            Fault::GatewayPartition => {
                self.between(|between| between.set(Line::HalfOpen));
                Ok(())
            }
            other => server::begin(other, self, random),
        }
    }

    fn end(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::GatewayKill | Fault::PoisonMessages | Fault::GatewayDrain => {
                if let Some(place) = self.unhit(fault) {
                    self.all[place].run(&self.setting)?;
                }
                self.until_shared()
            }
            Fault::GatewayFreeze => {
                if let Some(place) = self.unhit(fault) {
                    self.all[place].stand(false)?;
                    self.all[place].is_hit = false;
                    self.learns(place)?;
                }
                self.until_shared()
            }
            Fault::GatewayPartition => {
                // What was said and not heard is gone: whoever asked must ask again.
                self.between(Proxy::cut);
                std::thread::sleep(CUT_WITHIN);
                self.between(|between| between.set(Line::Sound));
                Ok(())
            }
            other => server::end(other, self),
        }
    }

    fn supervise(&mut self) -> anyhow::Result<()> {
        Replicas::supervise(self)
    }

    fn open(&mut self) -> &mut Open {
        &mut self.open
    }

    fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    fn lab(&mut self) -> &mut Lab {
        self.lab
    }

    fn master(&mut self) -> anyhow::Result<&mut Redis> {
        Ok(&mut self.redis)
    }

    fn with_line(&self, one: Option<u32>, target: Target, act: &dyn Fn(&Proxy)) -> anyhow::Result<()> {
        ensure!(one.is_none(), "lines of all replicas break");
        act(self.lines.to(target)?);
        Ok(())
    }
}

impl Replicas<'_> {
    /// Draws whom a fault befalls.
    fn hit(&mut self, fault: Fault, random: &mut Random) -> anyhow::Result<usize> {
        let well = (0..self.all.len()).filter(|place| !self.all[*place].is_hit);
        let well: Vec<usize> = well.collect();
        ensure!(!well.is_empty(), "every replica is hit already");
        let place = well[random.place(well.len())];
        self.all[place].is_hit = true;
        self.hits.push((fault, place));
        Ok(place)
    }

    /// Whom it befell, if it did.
    fn unhit(&mut self, fault: Fault) -> Option<usize> {
        let place = self.hits.iter().position(|(hit, _)| *hit == fault)?;
        Some(self.hits.swap_remove(place).1)
    }

    /// Waits until one that stood still says that others have its shards.
    fn learns(&mut self, place: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < FENCED_WITHIN {
            if self.all[place].ask_fenced() > 0 {
                self.fenced += 1;
                break;
            }
            self.watch(LOOK_EVERY)?;
        }
        Ok(())
    }

    /// Has one leave, and waits until it has.
    fn leave(&mut self, place: usize) -> anyhow::Result<()> {
        self.all[place].ask_fenced();
        match self.all[place].tell_to_leave()? {
            Some(status) => {
                self.ended_by_itself(place, status);
                Ok(())
            }
            None => self.until_left(place),
        }
    }

    /// Waits until one that was told to leave has ended.
    pub(super) fn until_left(&mut self, place: usize) -> anyhow::Result<()> {
        let mut since = Instant::now();
        loop {
            let why = match self.all[place].ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => status.to_string(),
                None if since.elapsed() > LEAVES_WITHIN => {
                    self.all[place].kill()?;
                    format!("not within {LEAVES_WITHIN:?}")
                }
                None => {
                    self.calm(&mut since);
                    self.watch(LOOK_EVERY)?;
                    continue;
                }
            };
            let last = self.last_line(place);
            self.broken(
                "C12",
                format!("replica {place} did not leave as it was told, {why}: {last}"),
            );
            return Ok(());
        }
    }

    /// Waits until those that are well have every shard.
    fn until_taken(&mut self) -> anyhow::Result<()> {
        let mut since = Instant::now();
        loop {
            let well = self.all.iter_mut().filter(|replica| !replica.is_hit);
            let served: u64 = well.filter_map(Replica::shards).sum();
            if served == u64::from(SHARED) {
                return Ok(());
            }
            if since.elapsed() > taken_within() {
                let what = format!(
                    "others had {served} of {SHARED} shards {:?} after one stood still",
                    taken_within()
                );
                self.broken("C12", what);
                return Ok(());
            }
            self.calm(&mut since);
            self.watch(LOOK_EVERY)?;
        }
    }

    /// What something may take counts from when nothing else is broken.
    fn calm(&self, since: &mut Instant) {
        if !self.open.is_empty() {
            *since = Instant::now();
        }
    }

    fn between(&self, act: impl Fn(&Proxy)) {
        self.all.iter().for_each(|replica| act(&replica.between));
    }
}

/// How often whoever has messages in hand may end by a fault, or stand still: others are given them then.
fn ends(fault: Fault) -> usize {
    match fault {
        Fault::GatewayKill | Fault::GatewayDrain | Fault::GatewayFreeze | Fault::PoisonMessages => 1,
        Fault::Line(Target::RabbitMq, LineFault::Reset) => line::RESETS as usize,
        fault if fault.target() == Target::RabbitMq => LOST_AT_MOST,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_again_from_whoever_ends_stands_still_or_loses_its_broker() {
        for fault in [Fault::GatewayKill, Fault::GatewayDrain, Fault::GatewayFreeze] {
            assert_eq!(ends(fault), 1, "{}", fault.name());
        }
        assert_eq!(ends(Fault::RabbitStall), LOST_AT_MOST);
        assert_eq!(ends(Fault::GatewayPartition) + ends(Fault::RedisKill), 0);
    }
}

//! The engine processes of a deployment: started, told, watched over, replaced, frozen, thawed and ended.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use troupe_core::{ExecutionId, Timestamp};
use troupe_ports::{Clock, SystemClock};

use super::changes::{self, Ownership};
use super::deployment::{Deployment, LEASE, Lines, READY_WITHIN};
use super::engine::{Order, Orders, Role, State};
use super::heard::{Answers, Heard};
use super::limits::SlotUse;
use super::proxy::{Line, Proxy};
use super::schedule::Struck;
use super::servers::until;
use crate::crash::Violation;
use crate::crash::incarnation::Incarnation;
use crate::crash::record::{Record, now_ns};

/// How long a process may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Executions that are asked for again after a takeover.
const ASKED_AGAIN: usize = 40;

/// An engine process.
pub(super) struct Process {
    pub(super) number: u32,
    pub(super) incarnation: Incarnation,
    /// Lines of its own, where it is one of several.
    pub(super) lines: Option<Lines>,
    /// The line to Redis on which it was cut off, where it had that of the deployment.
    cut_off: Option<Proxy>,
    /// It was told to leave: its end is no failure.
    pub(super) leaves: bool,
    heard: Heard,
}

impl Process {
    /// Whether it has said that it serves.
    pub(super) fn is_ready(&mut self) -> bool {
        self.hear().is_ready
    }

    /// What it has said so far comes to.
    fn hear(&mut self) -> &Heard {
        let news = self.incarnation.timed_after(self.heard.records);
        self.heard.hear(news);
        &self.heard
    }
}

impl Deployment<'_> {
    /// What an engine process is told at its start.
    pub(super) fn orders(&self) -> Orders {
        Orders {
            place: self.place.clone(),
            role: match self.members {
                Some(_) => Role::Member,
                None => Role::Sole,
            },
            lease_ms: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
            executions_max: self.executions_max,
            incarnation: self.incarnations,
            asked_before: self.asked_before(),
            clients: self.clients_of_each(),
            armed: self.armed,
            counts_with_others: self.members.is_some(),
            fault: self.planted,
        }
    }

    fn clients_of_each(&self) -> u32 {
        self.clients.div_ceil(self.members.unwrap_or(1))
    }

    fn asked_before(&self) -> Vec<String> {
        let records = self.said.values().rev().flat_map(|said| said.iter().rev());
        let keys = records.filter_map(|(_, record)| match record {
            Record::StartAsked { key } => Some(key.clone()),
            _ => None,
        });
        keys.take(ASKED_AGAIN).collect()
    }

    /// How many attempts under a limit those who serve have told of, and how many of them had any.
    pub(super) fn under_limits(&mut self) -> (usize, usize) {
        let of_each = self.serving.iter_mut().map(|process| process.hear().slots);
        of_each.fold((0, 0), |(all, members), one| {
            (all + one, members + usize::from(one > 0))
        })
    }

    /// How often the operator of each process that is to stay has held its workflow in every shard.
    pub(super) fn rulings(&mut self) -> BTreeMap<u32, usize> {
        let staying = self.serving.iter_mut().filter(|process| !process.leaves);
        staying
            .map(|process| (process.number, process.hear().rulings))
            .collect()
    }

    /// Who has taken which shard so far.
    pub(super) fn ownership(&mut self) -> Ownership {
        let mut ownership = self.taken.clone();
        for live in self.serving.iter_mut().chain(&mut self.frozen) {
            let number = live.number;
            ownership.hear(number, live.hear().taken.iter().copied());
        }
        ownership
    }

    /// Shards in which a task of their owner panicked, and that nobody has opened since.
    pub(super) fn not_opened_anew(&mut self) -> BTreeSet<u16> {
        let owners = self.ownership();
        let mut left = BTreeSet::new();
        for process in &mut self.serving {
            let number = process.number;
            let panicked = process.hear().panicked.iter();
            let panicked = panicked.filter(|(shard, at_ns)| owners.is_still(*shard, number, *at_ns));
            left.extend(panicked.map(|(shard, _)| *shard));
        }
        left
    }

    /// An execution of each shard in which those who serve have started one.
    pub(super) fn started(&mut self) -> BTreeMap<u16, ExecutionId> {
        let serving = self.serving.iter_mut();
        serving.flat_map(|process| process.hear().started.clone()).collect()
    }

    /// The shards for which those who serve have answered since an instant, in nanoseconds.
    pub(super) fn answered_after(&mut self, since_ns: u64) -> BTreeSet<u16> {
        let mut shards = BTreeSet::new();
        for process in &mut self.serving {
            let last = process.hear().answered_ns.iter();
            shards.extend(last.filter(|(_, at_ns)| **at_ns > since_ns).map(|(shard, _)| *shard));
        }
        shards
    }

    /// Starts everybody who is to serve, and the clients.
    pub(super) fn begin(&mut self, clients: u32) -> anyhow::Result<()> {
        let Some(members) = self.members else {
            self.clients = clients;
            self.spawn()?;
            return self.ready().map(drop);
        };
        for _ in 0..members {
            self.spawn()?;
        }
        // While they come one after the other shards go from hand to hand.
        self.ready()?;
        self.load(clients)
    }

    /// Starts an engine process. One that has everything waits for the shards of whoever had them before.
    pub(super) fn spawn(&mut self) -> anyhow::Result<()> {
        let mut orders = self.orders();
        let lines = match self.members {
            None if !self.serving.is_empty() => bail!("there is an owner already"),
            None => None,
            Some(_) => Some(self.lines.of_one(&self.lab.runtime())?),
        };
        if let Some(lines) = &lines {
            lines.lead(&mut orders.place);
        }
        let orders = serde_json::to_string(&orders)?;
        self.armed = None;
        let log = std::fs::File::create(self.log_of(self.incarnations))?;
        let mut command = Command::new(&self.lab.program);
        // Whoever outgrows a limit of file sizes is told by an error: see the fault of a full disk.
        let script = "trap '' XFSZ; exec \"$0\" engine \"$1\"";
        let mut shell = Command::new("sh");
        let command = match self.place.state {
            State::Embedded { .. } => shell.args(["-c", script]).arg(&self.lab.program).arg(orders),
            State::Redis { .. } => command.arg("engine").arg(orders),
        };
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::piped()).stderr(log);
        self.serving.push(Process {
            number: self.incarnations,
            incarnation: Incarnation::start(command)?,
            lines,
            cut_off: None,
            leaves: false,
            heard: Heard::default(),
        });
        self.incarnations += 1;
        Ok(())
    }

    /// Waits until everybody serves.
    pub(super) fn ready(&mut self) -> anyhow::Result<Timestamp> {
        let begun = Instant::now();
        while self.serving.is_empty() || !self.serving.iter_mut().all(Process::is_ready) {
            if begun.elapsed() > READY_WITHIN {
                bail!("no engine was ready within {READY_WITHIN:?}:\n{}", self.last_log());
            }
            self.watch(LOOK_EVERY)?;
        }
        Ok(SystemClock.now())
    }

    /// The process that serves, of several the first.
    pub(super) fn owner_process(&self) -> Option<u32> {
        self.serving.first().map(|owner| owner.incarnation.process())
    }

    /// Tells the process that serves something, of several the first. One that has just ended is not told.
    pub(super) fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        self.serving.first_mut().map_or(Ok(()), |owner| tell(owner, order))
    }

    /// Tells the process at this place something.
    pub(super) fn tell_at(&mut self, place: usize, order: &Order) -> anyhow::Result<()> {
        tell(&mut self.serving[place], order)
    }

    /// From now on so many clients load whoever serves.
    pub(super) fn load(&mut self, clients: u32) -> anyhow::Result<()> {
        self.clients = clients;
        let clients = self.clients_of_each();
        self.tell_all(&Order::Load { clients })
    }

    /// Tells everybody who serves something.
    pub(super) fn tell_all(&mut self, order: &Order) -> anyhow::Result<()> {
        self.serving.iter_mut().try_for_each(|process| tell(process, order))
    }

    /// Kills the process that serves, of several the first.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if self.serving.is_empty() {
            return Ok(());
        }
        self.kill_at(0)
    }

    /// Kills the process at this place.
    pub(super) fn kill_at(&mut self, place: usize) -> anyhow::Result<()> {
        let killed = self.serving.remove(place);
        self.keep(killed)
    }

    /// Ends a process and keeps what it said.
    pub(super) fn keep(&mut self, process: Process) -> anyhow::Result<()> {
        let (said, mut heard) = (process.incarnation.end()?, process.heard);
        let news = said.iter().skip(heard.records);
        heard.hear(news.map(|(at_ns, record)| (*at_ns, record)));
        self.answered.add(heard.answers);
        self.later.add(&heard.later);
        self.taken.hear(process.number, heard.taken);
        self.said.insert(process.number, said);
        self.ended_ns.insert(process.number, now_ns());
        Ok(())
    }

    /// Tells everybody to give their shards up, and waits until they have ended.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        self.tell_all(&Order::Stop)?;
        for mut process in std::mem::take(&mut self.serving) {
            let stopped = until("an engine stops", STOPS_WITHIN, || process.incarnation.has_ended());
            if let Err(error) = stopped {
                self.notes.push(format!("{error:#}"));
            }
            self.keep(process)?;
        }
        Ok(())
    }

    /// Freezes the owner; a successor may take its shards once the lease has expired.
    pub(super) fn freeze(&mut self) -> anyhow::Result<()> {
        if let Some(owner) = self.serving.pop() {
            owner.incarnation.freeze()?;
            self.frozen.push(owner);
        }
        Ok(())
    }

    /// Lets nothing pass between the owner and Redis. Whoever is started next has a line of its own, and no clients.
    pub(super) fn cut_off(&mut self) -> anyhow::Result<()> {
        let (Some(mut owner), Some(line)) = (self.serving.pop(), self.lines.redis.take()) else {
            bail!("there is no owner with a line to Redis");
        };
        line.set(Line::HalfOpen);
        let port = self.master()?.port();
        self.lines.redis = Some(Proxy::start(&self.lab.runtime(), port)?);
        self.lines.lead(&mut self.place);
        owner.cut_off = Some(line);
        self.frozen.push(owner);
        self.clients = 0;
        Ok(())
    }

    /// Thaws everybody who was frozen or cut off, waits until they know that they were replaced, and ends them.
    pub(super) fn thaw(&mut self, fenced_within: Duration) -> anyhow::Result<()> {
        for mut process in std::mem::take(&mut self.frozen) {
            process.incarnation.thaw()?;
            if let Some(line) = &process.cut_off {
                line.set(Line::Sound);
            }
            let number = process.number;
            let lost = |record: &Record| matches!(record, Record::Fenced { shards_served: 0, .. });
            match process.incarnation.hears(fenced_within, lost) {
                Ok(true) => self.fenced += 1,
                Ok(false) if process.is_ready() => {
                    let what = format!("engine {number} believes in shards {fenced_within:?} after it was replaced");
                    self.seen.push(Violation { invariant: "C5", what });
                }
                // It was on its way to its shards and never served one.
                Ok(false) => {}
                Err(_) => self
                    .notes
                    .push(format!("engine {number} ended before it learned that it was replaced")),
            }
            self.keep(process)?;
        }
        Ok(())
    }

    /// Replaces whoever ended, or had everything and has lost it, as a supervisor of processes does.
    pub(super) fn supervise(&mut self) -> anyhow::Result<()> {
        let is_shared = self.members.is_some();
        let mut place = 0;
        while let Some(process) = self.serving.get_mut(place) {
            let (number, leaves) = (process.number, process.leaves);
            let why = if process.incarnation.has_ended()? {
                "ended by itself"
            } else if !is_shared && process.hear().shards_served == Some(0) {
                "lost every shard"
            } else {
                place += 1;
                continue;
            };
            self.kill_at(place)?;
            if leaves {
                continue;
            }
            self.gave_up += 1;
            let log = std::fs::read_to_string(self.log_of(number)).unwrap_or_default();
            let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
            self.notes.push(format!("engine {number} {why}: {last}"));
            self.spawn()?;
        }
        Ok(())
    }

    /// Answers so far, over all processes.
    pub(super) fn answers(&mut self) -> Answers {
        let mut answers = self.answered;
        for live in self.serving.iter_mut().chain(&mut self.frozen) {
            answers.add(live.hear().answers);
        }
        answers
    }

    /// How many executions that wait for an instant were acknowledged.
    pub(super) fn acked_later(&mut self) -> usize {
        let mut acked = self.later.acked.len();
        for live in self.serving.iter_mut().chain(&mut self.frozen) {
            let news = live.hear().later.acked.difference(&self.later.acked);
            acked += news.count();
        }
        acked
    }

    /// How many of them have not gone on.
    pub(super) fn asleep(&mut self) -> usize {
        let mut later = self.later.clone();
        for live in self.serving.iter_mut().chain(&mut self.frozen) {
            later.add(&live.hear().later);
        }
        later.asleep()
    }

    /// Everything that was said: of one process after the other, or of several members in the order in which it happened.
    pub(super) fn take_records(&mut self) -> anyhow::Result<Vec<Record>> {
        let serving = std::mem::take(&mut self.serving);
        for process in serving.into_iter().chain(std::mem::take(&mut self.frozen)) {
            self.keep(process)?;
        }
        for said in self.said.values() {
            let lost = said.iter().filter_map(|(_, record)| match record {
                Record::Fenced { shards_lost, .. } => Some(*shards_lost),
                _ => None,
            });
            self.shards_lost += lost.max().unwrap_or(0);
        }
        for change in &mut self.changes {
            change.measure(&self.said);
        }
        if self.members.is_some() {
            self.slots = SlotUse::of(&self.said, &self.ended_ns);
        }
        let said = std::mem::take(&mut self.said);
        Ok(match self.members {
            None => said.into_values().flatten().map(|(_, record)| record).collect(),
            Some(_) => changes::in_order(said),
        })
    }
}

fn tell(process: &mut Process, order: &Order) -> anyhow::Result<()> {
    let line = serde_json::to_string(order)?;
    if let Err(error) = process.incarnation.tell(&line)
        && !process.incarnation.has_ended()?
    {
        return Err(error).context("an engine cannot be told anything");
    }
    Ok(())
}

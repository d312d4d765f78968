//! One deployment of the product: its stores, the lines to them, its engine processes and whoever listens to its events.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use troupe_core::Timestamp;
use troupe_ports::{Clock, SystemClock};

use super::engine::{Order, Orders, Place, Role, State};
use super::lab::Lab;
use super::listener::{self, Listener};
use super::plan::Trial;
use super::proxy::{Line, Proxy};
use super::servers::{Redis, Sync, until};
use crate::crash::Violation;
use crate::crash::child::Fault as Planted;
use crate::crash::incarnation::Incarnation;
use crate::crash::record::Record;
use crate::crash::switches::{Act, Moment};

/// Lease of a shard: short, so that a takeover does not take long, and longer than what a busy machine holds up.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// How long an engine may take to serve once all servers are there.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a process may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Executions that are asked for again after a takeover.
const ASKED_AGAIN: usize = 40;

/// What a deployment keeps its state on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setup {
    /// A Redis that syncs before it answers; `strict`.
    Strict,
    /// A Redis that syncs every second; `relaxed`.
    Relaxed,
    /// A Redis with a replica and a Sentinel; `strict`.
    Sentinel,
    /// The embedded store.
    Embedded,
}

impl Setup {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
            Self::Sentinel => "sentinel",
            Self::Embedded => "embedded",
        }
    }
}

/// The Redis servers of a deployment.
#[derive(Debug)]
pub(super) struct RedisServers {
    pub(super) master: Redis,
    /// The replica, and the line from it to its master.
    pub(super) replica: Option<(Redis, Proxy)>,
    sentinel: Option<Redis>,
}

/// The lines from engines to servers.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) redis: Option<Proxy>,
    pub(super) postgres: Proxy,
    pub(super) rabbitmq: Proxy,
}

/// How many answers the clients of a deployment have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    /// Starts and commands that were acknowledged, and reads.
    pub(super) all: u64,
    /// Starts that were refused as too many.
    pub(super) refused: u64,
}

/// A deployment under torment. Dropping it ends everything that is its own.
pub struct Deployment<'lab> {
    pub(super) lab: &'lab mut Lab,
    pub(super) redis: Option<RedisServers>,
    pub(super) lines: Lines,
    pub(super) listener: Listener,
    pub(super) place: Place,
    pub(super) notes: Vec<String>,
    /// What was seen to be broken while it happened.
    pub(super) seen: Vec<Violation>,
    /// What an engine process that is started next is armed with.
    pub(super) armed: Option<(Moment, Act)>,
    /// The process that serves, or is about to.
    owner: Option<(u32, Incarnation)>,
    /// Those that were frozen or cut off, with the lines on which they were cut off.
    frozen: Vec<(u32, Incarnation, Option<Proxy>)>,
    /// What processes that have ended said, in the order in which they were started.
    said: BTreeMap<u32, Vec<Record>>,
    incarnations: u32,
    /// Clients that load whoever is the owner.
    clients: u32,
    planted: Option<Planted>,
    executions_max: usize,
    folder: PathBuf,
    /// Processes that ended by themselves and were replaced.
    pub(super) gave_up: u32,
    /// Owners that learned that they were replaced.
    pub(super) fenced: u32,
}

impl<'lab> Deployment<'lab> {
    /// Starts what the setup needs beside the lab's servers. No engine runs yet.
    pub(super) fn open(lab: &'lab mut Lab, trial: &Trial, executions_max: usize) -> anyhow::Result<Self> {
        let setup = trial.setup;
        let (number, folder) = lab.next_trial()?;
        let runtime = lab.runtime();
        let redis = redis_servers(lab, setup, &folder)?;
        let line = match (&redis, setup) {
            (Some(servers), Setup::Strict | Setup::Relaxed) => Some(Proxy::start(&runtime, servers.master.port())?),
            // Sentinel names the servers themselves.
            _ => None,
        };
        let lines = Lines {
            redis: line,
            postgres: Proxy::start(&runtime, lab.postgres.port())?,
            rabbitmq: Proxy::start(&runtime, lab.rabbitmq.port())?,
        };
        let state = match (&redis, &lines.redis) {
            (_, Some(line)) => State::Redis {
                url: format!("redis://127.0.0.1:{}", line.port()),
                relaxed: setup == Setup::Relaxed,
            },
            (Some(servers), None) => State::Redis {
                url: sentinel_url(servers)?,
                relaxed: false,
            },
            (None, None) => State::Embedded {
                directory: folder.join("store"),
                loses_unsynced: true,
            },
        };
        let place = Place {
            state,
            definitions: format!("postgres://postgres@127.0.0.1:{}/postgres", lines.postgres.port()),
            events: format!("amqp://guest:guest@127.0.0.1:{}", lines.rabbitmq.port()),
            prefix: format!("chaos_{number}"),
            shards: trial.shards,
        };
        let listener = Listener::start(&runtime, &lab.rabbitmq.url(), &place.queue());
        Ok(Self {
            lab,
            redis,
            lines,
            listener,
            place,
            notes: Vec::new(),
            seen: Vec::new(),
            armed: None,
            owner: None,
            frozen: Vec::new(),
            said: BTreeMap::new(),
            incarnations: 0,
            clients: 0,
            planted: trial.planted,
            executions_max,
            folder,
            gave_up: 0,
            fenced: 0,
        })
    }

    /// The Redis that is the master at first.
    pub(super) fn master(&mut self) -> anyhow::Result<&mut Redis> {
        let servers = self.redis.as_mut().context("this deployment has no Redis")?;
        Ok(&mut servers.master)
    }

    /// What an engine process is told at its start.
    pub(super) fn orders(&self) -> Orders {
        Orders {
            place: self.place.clone(),
            role: Role::Sole,
            lease_ms: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
            executions_max: self.executions_max,
            incarnation: self.incarnations,
            asked_before: self.asked_before(),
            clients: self.clients,
            armed: self.armed,
            fault: self.planted,
        }
    }

    fn asked_before(&self) -> Vec<String> {
        let records = self.said.values().rev().flat_map(|said| said.iter().rev());
        let keys = records.filter_map(|record| match record {
            Record::StartAsked { key } => Some(key.clone()),
            _ => None,
        });
        keys.take(ASKED_AGAIN).collect()
    }

    fn log_of(&self, incarnation: u32) -> PathBuf {
        self.folder.join(format!("engine-{incarnation}.log"))
    }

    /// Starts an engine process, which waits for the shards of whoever had them before.
    pub(super) fn spawn(&mut self) -> anyhow::Result<()> {
        if self.owner.is_some() {
            bail!("there is an owner already");
        }
        let orders = serde_json::to_string(&self.orders())?;
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
        let incarnation = Incarnation::start(command)?;
        self.owner = Some((self.incarnations, incarnation));
        self.incarnations += 1;
        Ok(())
    }

    /// Waits until the owner serves.
    pub(super) fn ready(&mut self) -> anyhow::Result<Timestamp> {
        let begun = Instant::now();
        while !self.is_ready()? {
            if begun.elapsed() > READY_WITHIN {
                bail!("no engine was ready within {READY_WITHIN:?}:\n{}", self.last_log());
            }
            self.watch(LOOK_EVERY)?;
        }
        Ok(SystemClock.now())
    }

    fn is_ready(&mut self) -> anyhow::Result<bool> {
        let Some((_, owner)) = &mut self.owner else {
            return Ok(false);
        };
        Ok(owner.so_far().contains(&Record::Ready))
    }

    /// Process of the owner.
    pub(super) fn owner_process(&self) -> Option<u32> {
        self.owner.as_ref().map(|(_, owner)| owner.process())
    }

    /// Tells the owner something. One that has just ended is not told.
    pub(super) fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(order)?;
        if let Some((_, owner)) = &mut self.owner
            && let Err(error) = owner.tell(&line)
            && !owner.has_ended()?
        {
            return Err(error);
        }
        Ok(())
    }

    /// From now on so many clients load whoever is the owner.
    pub(super) fn load(&mut self, clients: u32) -> anyhow::Result<()> {
        self.clients = clients;
        self.tell(&Order::Load { clients })
    }

    /// Kills the owner.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some((number, owner)) = self.owner.take() {
            self.said.insert(number, owner.end()?);
        }
        Ok(())
    }

    /// Tells the owner to give its shards up, and waits until it has ended.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        self.tell(&Order::Stop)?;
        if let Some((number, mut owner)) = self.owner.take() {
            let stopped = until("an engine stops", STOPS_WITHIN, || owner.has_ended());
            if let Err(error) = stopped {
                self.notes.push(format!("{error:#}"));
            }
            self.said.insert(number, owner.end()?);
        }
        Ok(())
    }

    /// Freezes the owner; a successor may take its shards once the lease has expired.
    pub(super) fn freeze(&mut self) -> anyhow::Result<()> {
        if let Some((number, owner)) = self.owner.take() {
            owner.freeze()?;
            self.frozen.push((number, owner, None));
        }
        Ok(())
    }

    /// Lets nothing pass between the owner and Redis. Whoever is started next has a line of its own, and no clients.
    pub(super) fn cut_off(&mut self) -> anyhow::Result<()> {
        let (Some((number, owner)), Some(line)) = (self.owner.take(), self.lines.redis.take()) else {
            bail!("there is no owner with a line to Redis");
        };
        line.set(Line::HalfOpen);
        let port = self.master()?.port();
        let own = Proxy::start(&self.lab.runtime(), port)?;
        if let State::Redis { url, .. } = &mut self.place.state {
            *url = format!("redis://127.0.0.1:{}", own.port());
        }
        self.lines.redis = Some(own);
        self.frozen.push((number, owner, Some(line)));
        self.clients = 0;
        Ok(())
    }

    /// Thaws everybody who was frozen or cut off, waits until they know that they were replaced, and ends them.
    pub(super) fn thaw(&mut self, fenced_within: Duration) -> anyhow::Result<()> {
        for (number, mut owner, line) in std::mem::take(&mut self.frozen) {
            owner.thaw()?;
            if let Some(line) = &line {
                line.set(Line::Sound);
            }
            let lost = |record: &Record| matches!(record, Record::Fenced { shards_served: 0, .. });
            match owner.hears(fenced_within, lost) {
                Ok(true) => self.fenced += 1,
                Ok(false) if owner.so_far().contains(&Record::Ready) => {
                    let what = format!("engine {number} believes in shards {fenced_within:?} after it was replaced");
                    self.seen.push(Violation { invariant: "C5", what });
                }
                // It was on its way to its shards and never served one.
                Ok(false) => {}
                Err(_) => self
                    .notes
                    .push(format!("engine {number} ended before it learned that it was replaced")),
            }
            self.said.insert(number, owner.end()?);
        }
        Ok(())
    }

    /// Lets so much time pass, and replaces an owner that ends or has lost every shard, as whoever supervises processes does.
    pub(super) fn watch(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            self.supervise()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    fn supervise(&mut self) -> anyhow::Result<()> {
        let Some((number, owner)) = &mut self.owner else {
            return Ok(());
        };
        let number = *number;
        let has_ended = owner.has_ended()?;
        let lost = owner
            .so_far()
            .iter()
            .rev()
            .find_map(|record| match record {
                Record::Fenced { shards_served, .. } => Some(*shards_served == 0),
                _ => None,
            })
            .unwrap_or(false);
        if !has_ended && !lost {
            return Ok(());
        }
        self.gave_up += 1;
        let why = if has_ended {
            "ended by itself"
        } else {
            "lost every shard"
        };
        self.kill()?;
        let log = std::fs::read_to_string(self.log_of(number)).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
        self.notes.push(format!("engine {number} {why}: {last}"));
        self.spawn()
    }

    /// Answers so far, over all processes.
    pub(super) fn answers(&mut self) -> Answers {
        let mut answers = Answers::default();
        for records in self.said.values() {
            answers.count(records);
        }
        if let Some((_, live)) = &mut self.owner {
            answers.count(live.so_far());
        }
        for (_, live, _) in &mut self.frozen {
            answers.count(live.so_far());
        }
        answers
    }

    /// Whether any process logged such a thing.
    pub(super) fn logged(&self, text: &str) -> bool {
        (0..self.incarnations).any(|number| {
            let log = std::fs::read_to_string(self.log_of(number)).unwrap_or_default();
            log.contains(text)
        })
    }

    /// The end of the log of the process that was started last.
    pub(super) fn last_log(&self) -> String {
        let log = std::fs::read_to_string(self.log_of(self.incarnations.saturating_sub(1))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Everything that was said, in the order of the processes.
    pub(super) fn take_records(&mut self) -> anyhow::Result<Vec<Record>> {
        self.kill()?;
        for (number, frozen, _) in std::mem::take(&mut self.frozen) {
            self.said.insert(number, frozen.end()?);
        }
        Ok(std::mem::take(&mut self.said).into_values().flatten().collect())
    }

    /// Takes what it has at the broker away.
    pub(super) fn forget_events(&mut self) -> anyhow::Result<()> {
        let (url, exchange, queue) = (self.lab.rabbitmq.url(), self.place.exchange(), self.place.queue());
        let deleted = self
            .lab
            .runtime()
            .block_on(async move { listener::delete(&url, &exchange, Some(&queue)).await });
        deleted.context("the exchange and the queue are left behind")
    }
}

impl Answers {
    fn count(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::StartAcked { .. }
                | Record::KeyedAcked { .. }
                | Record::CommandAcked { .. }
                | Record::Read { .. } => self.all += 1,
                Record::Counted { what, times } if what == super::engine::OVERLOADED => self.refused += times,
                _ => {}
            }
        }
    }
}

fn redis_servers(lab: &Lab, setup: Setup, folder: &std::path::Path) -> anyhow::Result<Option<RedisServers>> {
    let sync = match setup {
        Setup::Strict | Setup::Sentinel => Sync::Always,
        Setup::Relaxed => Sync::EverySecond,
        Setup::Embedded => return Ok(None),
    };
    let master = Redis::start(&folder.join("redis"), sync)?;
    if setup != Setup::Sentinel {
        return Ok(Some(RedisServers {
            master,
            replica: None,
            sentinel: None,
        }));
    }
    let line = Proxy::start(&lab.runtime(), master.port())?;
    let replica = Redis::replica_of(line.port(), &folder.join("replica"), sync)?;
    let sentinel = Redis::sentinel_of(master.port(), &folder.join("sentinel"))?;
    until("Sentinel sees the replica", READY_WITHIN, || {
        Ok(sentinel
            .ask(&["SENTINEL", "replicas", "master"])?
            .contains(&replica.port().to_string()))
    })?;
    Ok(Some(RedisServers {
        master,
        replica: Some((replica, line)),
        sentinel: Some(sentinel),
    }))
}

fn sentinel_url(servers: &RedisServers) -> anyhow::Result<String> {
    let sentinel = servers.sentinel.as_ref().context("there is no Sentinel")?;
    Ok(format!("redis+sentinel://127.0.0.1:{}/master", sentinel.port()))
}

//! One deployment of the product: its stores, the lines to them, its engine processes and whoever listens to its events.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;

use super::changes::{Change, Ownership, Said};
use super::engine::{Place, State};
use super::fault::{Fault, Target};
use super::heard::{Answers, Later};
use super::lab::Lab;
use super::limits::{Kinds, SlotUse};
use super::listener::{self, Listener};
use super::older::Older;
use super::plan::Trial;
use super::poisoned::Poisoned;
use super::processes::Process;
use super::proxy::Proxy;
use super::restart::MassRestart;
use super::schedule::{Open, Struck};
use super::servers::{Redis, RedisCluster, Sync, until};
use crate::crash::Violation;
use crate::crash::child::Fault as Planted;
use crate::crash::switches::{Act, Moment};
use crate::world::random::Random;

/// Lease of a shard: short, so that a takeover does not take long, and longer than what a busy machine holds up.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// Members of a deployment of several.
const MEMBERS: u32 = 3;
/// How long an engine, or a server, may take to serve.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(90);

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
    /// As `strict`, and several members serve.
    Members,
    /// As `members`, and they are processes of the product, asked over HTTP.
    Replicas,
    /// Several members serve, on a Redis Cluster of three masters with a replica each; `strict`.
    Cluster,
}

impl Setup {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Strict,
        Self::Relaxed,
        Self::Sentinel,
        Self::Embedded,
        Self::Members,
        Self::Replicas,
        Self::Cluster,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
            Self::Sentinel => "sentinel",
            Self::Embedded => "embedded",
            Self::Members => "members",
            Self::Replicas => "replicas",
            Self::Cluster => "cluster",
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

impl Lines {
    /// Lines of one member: each leads to that of all.
    pub(super) fn of_one(&self, runtime: &Handle) -> anyhow::Result<Self> {
        let redis = self.redis.as_ref().map(|line| Proxy::start(runtime, line.port()));
        Ok(Self {
            redis: redis.transpose()?,
            postgres: Proxy::start(runtime, self.postgres.port())?,
            rabbitmq: Proxy::start(runtime, self.rabbitmq.port())?,
        })
    }

    /// The place as it is reached over these lines.
    pub(super) fn lead(&self, place: &mut Place) {
        if let (Some(line), State::Redis { url, .. }) = (&self.redis, &mut place.state) {
            *url = format!("redis://127.0.0.1:{}", line.port());
        }
        place.definitions = format!("postgres://postgres@127.0.0.1:{}/postgres", self.postgres.port());
        place.events = format!("amqp://guest:guest@127.0.0.1:{}", self.rabbitmq.port());
    }
}

/// A deployment under torment. Dropping it ends everything that is its own.
pub struct Deployment<'lab> {
    pub(super) lab: &'lab mut Lab,
    pub(super) redis: Option<RedisServers>,
    pub(super) cluster: Option<RedisCluster>,
    pub(super) lines: Lines,
    pub(super) listener: Listener,
    pub(super) place: Place,
    pub(super) notes: Vec<String>,
    /// What was seen to be broken while it happened.
    pub(super) seen: Vec<Violation>,
    /// Why the trial proves too little.
    pub(super) too_little: Vec<String>,
    /// What an engine process that is started next is armed with.
    pub(super) armed: Option<(Moment, Act)>,
    /// Processes that serve, or are about to: one, unless there are members.
    pub(super) serving: Vec<Process>,
    /// Those that were frozen or cut off.
    pub(super) frozen: Vec<Process>,
    /// What processes that have ended said, in the order in which they were started.
    pub(super) said: Said,
    /// Answers that those were given.
    pub(super) answered: Answers,
    /// What those said of executions that wait for an instant.
    pub(super) later: Later,
    /// The mass restarts that befell it.
    pub(super) restarts: Vec<MassRestart>,
    /// When its executions were poisoned.
    pub(super) poisoned: Option<Poisoned>,
    /// Shards that those had taken.
    pub(super) taken: Ownership,
    /// When they had ended, in nanoseconds.
    pub(super) ended_ns: BTreeMap<u32, u64>,
    /// Attempts that counted under a limit, once all is said.
    pub(super) slots: Vec<SlotUse>,
    /// Which kinds of tickets were seen in the store.
    pub(super) tickets: Kinds,
    pub(super) incarnations: u32,
    /// Clients that load all of them together.
    pub(super) clients: u32,
    /// How many members there are to be; none: one process has everything.
    pub(super) members: Option<u32>,
    /// What befell members.
    pub(super) changes: Vec<Change>,
    /// The member that a fault has hit, until it is healed.
    pub(super) bent: Option<u32>,
    /// The faults that hold.
    pub(super) open: Open,
    /// Slots that move from one master of its cluster to another one, and how many keys that are.
    pub(super) moving: Option<JoinHandle<anyhow::Result<u64>>>,
    /// That a replica took over which lacked the latest.
    pub(super) older: Option<Older>,
    /// Whether only one fault befalls it: then times have bounds.
    pub(super) is_alone: bool,
    pub(super) planted: Option<Planted>,
    pub(super) executions_max: usize,
    folder: PathBuf,
    /// Processes that ended by themselves and were replaced.
    pub(super) gave_up: u32,
    /// Owners that learned that they were replaced.
    pub(super) fenced: u32,
    /// Shards that processes lost to other owners, as they counted them.
    pub(super) shards_lost: u64,
}

impl<'lab> Deployment<'lab> {
    /// Starts what the setup needs beside the lab's servers. No engine runs yet.
    pub(super) fn open(lab: &'lab mut Lab, trial: &Trial, executions_max: usize) -> anyhow::Result<Self> {
        let setup = trial.setup;
        let (number, folder) = lab.next_trial()?;
        let runtime = lab.runtime();
        let redis = redis_servers(lab, setup, &folder)?;
        let cluster = (setup == Setup::Cluster).then(|| RedisCluster::start(&folder.join("cluster")));
        let cluster = cluster.transpose()?;
        let line = match (&redis, setup) {
            (Some(servers), Setup::Strict | Setup::Relaxed | Setup::Members) => {
                Some(Proxy::start(&runtime, servers.master.port())?)
            }
            // Sentinel and the nodes of a cluster name the servers themselves.
            _ => None,
        };
        let lines = Lines {
            redis: line,
            postgres: Proxy::start(&runtime, lab.postgres.port())?,
            rabbitmq: Proxy::start(&runtime, lab.rabbitmq.port())?,
        };
        let state = match (&redis, &lines.redis) {
            _ if let Some(cluster) = &cluster => State::Redis {
                url: cluster.url(),
                relaxed: false,
            },
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
        let mut place = Place {
            state,
            definitions: String::new(),
            events: String::new(),
            prefix: format!("chaos_{number}"),
            shards: trial.shards,
        };
        lines.lead(&mut place);
        let listener = Listener::start(&runtime, &lab.rabbitmq.url(), &place.queue());
        Ok(Self {
            lab,
            redis,
            cluster,
            lines,
            listener,
            place,
            notes: Vec::new(),
            seen: Vec::new(),
            too_little: Vec::new(),
            armed: None,
            serving: Vec::new(),
            frozen: Vec::new(),
            said: BTreeMap::new(),
            answered: Answers::default(),
            later: Later::default(),
            restarts: Vec::new(),
            poisoned: None,
            taken: Ownership::default(),
            ended_ns: BTreeMap::new(),
            slots: Vec::new(),
            tickets: Kinds::default(),
            incarnations: 0,
            clients: 0,
            members: matches!(setup, Setup::Members | Setup::Cluster).then_some(MEMBERS),
            changes: Vec::new(),
            bent: None,
            open: Open::default(),
            moving: None,
            older: None,
            is_alone: trial.strikes.len() == 1,
            planted: trial.planted,
            executions_max,
            folder,
            gave_up: 0,
            fenced: 0,
            shards_lost: 0,
        })
    }

    pub(super) fn log_of(&self, incarnation: u32) -> PathBuf {
        self.folder.join(format!("engine-{incarnation}.log"))
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

impl Struck for Deployment<'_> {
    fn begin(&mut self, fault: Fault, random: &mut Random, scale: u64) -> anyhow::Result<()> {
        fault.begin(self, random, scale)
    }

    fn end(&mut self, fault: Fault) -> anyhow::Result<()> {
        fault.end(self)
    }

    fn supervise(&mut self) -> anyhow::Result<()> {
        Deployment::supervise(self)
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
        let servers = self.redis.as_mut().context("this deployment has no Redis")?;
        Ok(&mut servers.master)
    }

    fn with_line(&self, one: Option<u32>, target: Target, act: &dyn Fn(&Proxy)) -> anyhow::Result<()> {
        let Some(number) = one else {
            act(self.lines.to(target)?);
            return Ok(());
        };
        // With a member that is gone its lines are gone too.
        if let Some(member) = self.serving.iter().find(|member| member.number == number) {
            let lines = member.lines.as_ref().context("this engine has no lines of its own")?;
            act(lines.to(target)?);
        }
        Ok(())
    }
}

fn redis_servers(lab: &Lab, setup: Setup, folder: &std::path::Path) -> anyhow::Result<Option<RedisServers>> {
    let sync = match setup {
        Setup::Strict | Setup::Sentinel | Setup::Members | Setup::Replicas => Sync::Always,
        Setup::Relaxed => Sync::EverySecond,
        Setup::Embedded | Setup::Cluster => return Ok(None),
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

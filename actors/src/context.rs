//! What the actors of one engine, and of one shard, share: ports, options, counters and the routing table.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::{DashMap, DashSet};
use parking_lot::RwLock;
use ractor::ActorRef;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use troupe_core::format::agreed;
use troupe_core::{CommandId, Epoch, ExecutionId, ShardId, StateFormat, Timestamp};
use troupe_ports::StoreError;
use troupe_telemetry::{CacheMetrics, EngineMetrics, Outage};

use crate::attempt::AttemptWaits;
use crate::attempt::leave::Limits;
use crate::blobs::Blobs;
use crate::breakers::Breakers;
use crate::checkpointer::CheckpointerMessage;
use crate::committer::CommitterMessage;
use crate::controls::ShardControls;
use crate::directory::Directory;
use crate::error::EngineError;
use crate::evaluation::PlanCache;
use crate::gauges::ShardGauges;
use crate::handle::EngineParts;
use crate::keys::Keys;
use crate::lease::LeaseThread;
use crate::options::EngineOptions;
use crate::placement::{Neighbours, Placed};
use crate::request::Ended;
use crate::rooms::EngineRooms;
use crate::shard::{Mail, ShardMessage};
use crate::shared_limits::SharedLimits;
use crate::timers::TimersMessage;

/// What all actors of an engine share.
pub struct EngineContext {
    /// Ports.
    pub parts: EngineParts,
    /// Options.
    pub options: EngineOptions,
    /// Compiled workflow versions.
    pub plans: PlanCache,
    /// Large values.
    pub(crate) blobs: Blobs,
    /// Counts look-ups of outputs for reuse.
    pub(crate) cached_outputs: CacheMetrics,
    /// Executions with an actor.
    pub directory: Directory,
    /// Limits that other members count, too; none: there are no others.
    pub(crate) shared_limits: Option<Arc<SharedLimits>>,
    /// Attempts that may run at once.
    pub limits: Limits,
    /// Executions that may run at once of workflows with a limit.
    pub rooms: EngineRooms,
    /// Targets that are unwell.
    pub breakers: Arc<Breakers>,
    /// Checkpoints that may be written at once, over all shards.
    pub checkpoints: Arc<Semaphore>,
    /// Counts.
    pub counters: Counters,
    /// Metrics.
    pub metrics: EngineMetrics,
    /// What fails again and again, for the log.
    pub(crate) outages: Outages,
    /// Who waits for ends.
    pub watches: EndWatches,
    /// Executions set aside, and why: what the store knows of the shards served.
    pub quarantine: DashMap<ExecutionId, String>,
    /// Business keys of which an execution is being started or reopened.
    pub(crate) keys: Keys,
    /// Ended executions whose archives are about to go: nobody reopens them.
    pub(crate) expiring: DashSet<ExecutionId>,
    /// Shards that an operator must look at, and why.
    pub halted: DashMap<ShardId, String>,
    /// When what is stored of a shard last did not go on from what its owner had committed.
    pub(crate) went_back: DashMap<ShardId, Vec<Instant>>,
    /// Shards that no member can read, and what they hold.
    pub unreadable: DashMap<ShardId, StateFormat>,
    /// The format that all members have agreed on, as far as was seen: shards are written in it as soon as the store has been told.
    pub(crate) format: watch::Sender<StateFormat>,
    /// Shards served, by number.
    pub shards: Vec<RwLock<Option<Arc<ShardContext>>>>,
    /// Set once its shards are left to other members.
    pub leaving: AtomicBool,
    /// Set once it is no member any more.
    pub(crate) left: AtomicBool,
    /// Set once nothing new is accepted.
    pub draining: AtomicBool,
    /// What is known of the other members.
    pub(crate) neighbours: RwLock<Neighbours>,
    /// How far this engine has come with what is its own.
    pub(crate) placed: watch::Sender<Placed>,
    /// Somebody wants the register to be looked at now.
    pub(crate) look_again: Arc<Notify>,
    /// Renews the leases.
    pub(crate) leases: LeaseThread,
    random: RandomState,
    ids: AtomicU64,
}

impl fmt::Debug for EngineContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EngineContext")
            .field("owner", &self.options.owner)
            .finish_non_exhaustive()
    }
}

impl EngineContext {
    /// A context that serves no shard yet.
    #[must_use]
    pub fn new(parts: EngineParts, options: EngineOptions) -> Self {
        let shards = parts.state.shards();
        let shared_limits = parts.semaphores.clone().map(|store| Arc::new(SharedLimits::new(store)));
        let latest_ttl = Duration::from_millis(options.latest_ttl_ms);
        let format = match &parts.members {
            // Nobody has been asked yet.
            Some(_) => options.reads.oldest,
            None => agreed(options.terms(), []),
        };
        Self {
            plans: PlanCache::new(Arc::clone(&parts.definitions), shards, options.plans_max, latest_ttl)
                .with_resume_links(options.resume_links.clone())
                .with_mutants(options.mutants.core),
            blobs: Blobs::new(Arc::clone(&parts.state), &options),
            cached_outputs: CacheMetrics::new("output"),
            directory: Directory::default(),
            limits: Limits::new(&options).with_others(&options, shared_limits.as_ref()),
            rooms: EngineRooms::new(shared_limits.as_ref()),
            shared_limits,
            breakers: Breakers::new(options.breakers, Arc::clone(&parts.clock)),
            checkpoints: Arc::new(Semaphore::new(2)),
            counters: Counters::default(),
            metrics: EngineMetrics::new(parts.state.backend()),
            outages: Outages::new(parts.buses.len()),
            watches: EndWatches::default(),
            quarantine: DashMap::new(),
            keys: Keys::default(),
            expiring: DashSet::new(),
            halted: DashMap::new(),
            went_back: DashMap::new(),
            unreadable: DashMap::new(),
            format: watch::Sender::new(format),
            shards: (0..shards).map(|_| RwLock::new(None)).collect(),
            leaving: AtomicBool::new(false),
            left: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            neighbours: RwLock::default(),
            placed: watch::Sender::default(),
            look_again: Arc::default(),
            leases: LeaseThread::default(),
            random: RandomState::new(),
            ids: AtomicU64::new(0),
            parts,
            options,
        }
    }

    /// What the store answered about a shard: that it went back its owner is told at once, and whoever asked tries again.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn noticed<T>(&self, shard: ShardId, answer: Result<T, StoreError>) -> Result<T, EngineError> {
        self.heed(shard, &answer);
        Ok(answer?)
    }

    /// Tells the owner of a shard where the store went back.
    pub(crate) fn heed<T>(&self, shard: ShardId, answer: &Result<T, StoreError>) {
        if let Err(StoreError::WentBack(why)) = answer
            && let Some(context) = self
                .shards
                .get(usize::from(shard.0))
                .and_then(|served| served.read().clone())
            && context
                .supervisor
                .send_message(ShardMessage::WentBack(why.clone()))
                .is_err()
        {
            tracing::debug!(shard = shard.0, "the shard is already gone");
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// An epoch of this engine's, if somebody issued it: where nobody issues any, they fence nobody outside the state store.
    pub(crate) fn issued(&self, epoch: Epoch) -> Option<Epoch> {
        self.parts.epochs.as_ref().map(|_| epoch)
    }

    /// The shard that owns an execution, if this engine serves it.
    ///
    /// # Errors
    /// [`EngineError::Elsewhere`]; [`EngineError::Damaged`] when it is halted; [`EngineError::NewerFormat`] when nobody reads it.
    pub fn shard(&self, shard: ShardId) -> Result<Arc<ShardContext>, EngineError> {
        let slot = self
            .shards
            .get(usize::from(shard.0))
            .and_then(|slot| slot.read().clone());
        slot.ok_or_else(|| match self.halted.get(&shard) {
            Some(why) => EngineError::Damaged(format!("shard {shard} is halted: {}", *why)),
            None => match self.unreadable.get(&shard) {
                Some(holds) => self.newer_format(shard, *holds),
                None => EngineError::Elsewhere(shard),
            },
        })
    }

    /// Why this engine does not serve a shard that holds something of this format.
    pub(crate) fn newer_format(&self, shard: ShardId, holds: StateFormat) -> EngineError {
        EngineError::NewerFormat {
            shard,
            holds,
            reads: self.options.reads,
        }
    }

    /// Whether no other member would take its shards.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        let neighbours = self.neighbours.read();
        let own = &self.options.owner;
        !neighbours
            .members
            .iter()
            .any(|member| member.name != *own && !member.draining)
    }

    /// Whether every shard that can be served here is, and has loaded what has unfinished work.
    #[must_use]
    pub fn has_recovered(&self) -> bool {
        let shared = self.parts.members.is_some();
        (!shared || self.placed.borrow().settled)
            && self.shards.iter().zip(0..).all(|(slot, number)| match &*slot.read() {
                Some(shard) => shard.recovered.load(Ordering::Acquire),
                None => shared || self.halted.contains_key(&ShardId(number)),
            })
    }

    /// An id for a command that came without one.
    #[must_use]
    pub fn command_id(&self) -> CommandId {
        let n = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{:x}-{:016x}", self.now().0, self.random.hash_one(n)).into()
    }

    /// A fresh id in some shard that is served.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when none is; [`EngineError::Elsewhere`] when others may have some.
    pub fn fresh_id(&self) -> Result<(ExecutionId, Arc<ShardContext>), EngineError> {
        let n = self.ids.fetch_add(1, Ordering::Relaxed);
        let random = self.random.hash_one(n);
        let shards = self.shards.len();
        for offset in 0..shards {
            let place = (n as usize).wrapping_add(offset) % shards;
            if let Some(context) = self.shards[place].read().clone() {
                return Ok((ExecutionId::fresh(context.shard, self.now(), random), context));
            }
        }
        if self.parts.members.is_some() {
            let shard = u16::try_from(n % (shards.max(1) as u64)).unwrap_or(0);
            return Err(EngineError::Elsewhere(ShardId(shard)));
        }
        Err(EngineError::Unavailable("no shard is served".into()))
    }
}

/// What the actors of one shard share, under one epoch.
pub struct ShardContext {
    /// The engine.
    pub engine: Arc<EngineContext>,
    /// The shard.
    pub shard: ShardId,
    /// The epoch.
    pub epoch: Epoch,
    /// Whether the lease holds.
    pub gate: LeaseGate,
    /// Whether the last owner gave the shard up on purpose.
    pub released: bool,
    /// Set once no attempt starts here any more: the shard goes to another member.
    pub leaving: AtomicBool,
    /// Attempts that run now.
    pub attempts_running: AtomicU64,
    /// Whether what has unfinished work was loaded.
    pub recovered: AtomicBool,
    /// Executions whose actor failed under this epoch.
    pub failed: DashSet<ExecutionId>,
    /// Messages between its executions.
    pub mail: Mail,
    /// Controls in force.
    pub controls: Arc<ShardControls>,
    /// What a scrape wants to know.
    pub gauges: Arc<ShardGauges>,
    /// Routes wake-ups, spawns and retires executions.
    pub supervisor: ActorRef<ShardMessage>,
    /// Makes entries durable.
    pub committer: ActorRef<CommitterMessage>,
    /// Keeps entries until a checkpoint holds them.
    pub checkpointer: ActorRef<CheckpointerMessage>,
    /// Wakes executions.
    pub timers: ActorRef<TimersMessage>,
}

impl ShardContext {
    /// The epoch, if somebody issued it.
    pub(crate) fn issued(&self) -> Option<Epoch> {
        self.engine.issued(self.epoch)
    }

    /// Why an execution's actor gave no answer: its shard is lost, or the actor alone. Whether it did what it was asked is not known.
    pub(crate) fn unanswered(&self) -> EngineError {
        if self.gate.is_closed() {
            EngineError::Fenced
        } else {
            EngineError::Unavailable("the execution's actor failed".into())
        }
    }
}

impl fmt::Debug for ShardContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ShardContext({} under {})", self.shard, self.epoch)
    }
}

/// Whether this engine may still act for a shard, by its own clocks.
///
/// Two clocks must agree: the monotonic one, which does not jump, and the wall clock, which counts a suspended machine.
#[derive(Debug)]
pub struct LeaseGate {
    opened: Instant,
    until_monotonic_ms: AtomicI64,
    until_wall_ms: AtomicI64,
    closed: AtomicBool,
}

impl LeaseGate {
    /// A gate that is open for `lease_ms` from now.
    #[must_use]
    pub fn new(wall: Timestamp, lease_ms: i64) -> Self {
        let gate = Self {
            opened: Instant::now(),
            until_monotonic_ms: AtomicI64::new(0),
            until_wall_ms: AtomicI64::new(0),
            closed: AtomicBool::new(false),
        };
        gate.renewed(gate.monotonic_ms(), wall, lease_ms);
        gate
    }

    /// Milliseconds since the gate was made, for [`LeaseGate::renewed`].
    #[must_use]
    pub fn monotonic_ms(&self) -> i64 {
        i64::try_from(self.opened.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// The lease was renewed by a call that began at these instants.
    pub fn renewed(&self, monotonic_ms: i64, wall: Timestamp, lease_ms: i64) {
        self.until_monotonic_ms
            .store(monotonic_ms.saturating_add(lease_ms), Ordering::Release);
        self.until_wall_ms
            .store(wall.0.saturating_add(lease_ms), Ordering::Release);
    }

    /// The shard is lost for good.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the shard is lost for good.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether the lease holds at `wall`.
    #[must_use]
    pub fn is_open(&self, wall: Timestamp) -> bool {
        !self.is_closed()
            && self.monotonic_ms() < self.until_monotonic_ms.load(Ordering::Acquire)
            && wall.0 < self.until_wall_ms.load(Ordering::Acquire)
    }
}

/// What shards suffer from, each told of once for all of them.
#[derive(Debug)]
pub(crate) struct Outages {
    /// One a bus.
    pub(crate) buses: Vec<Outage>,
    pub(crate) cursors: Outage,
    pub(crate) spools: Outage,
    pub(crate) log_reads: Outage,
    pub(crate) lists: Outage,
    pub(crate) checkpoints: Outage,
    pub(crate) appends: Outage,
    pub(crate) timers: Outage,
}

impl Outages {
    fn new(buses: usize) -> Self {
        let bus = || Outage::new("events wait for the bus");
        Self {
            buses: (0..buses).map(|_| bus()).collect(),
            cursors: Outage::new("cursors of sinks cannot be saved"),
            spools: Outage::new("events that wait for the bus stay in the log"),
            log_reads: Outage::new("sinks cannot read the log"),
            lists: Outage::new("lists stay behind"),
            checkpoints: Outage::new("checkpoints wait for the store"),
            appends: Outage::new("appends fail"),
            timers: Outage::new("timers cannot be read"),
        }
    }

    /// A shard is not served here any more: it suffers from nothing.
    pub(crate) fn forget(&self, shard: ShardId) {
        let who = u64::from(shard.0);
        let Self {
            buses,
            cursors,
            spools,
            log_reads,
            lists,
            checkpoints,
            appends,
            timers,
        } = self;
        let all = [cursors, spools, log_reads, lists, checkpoints, appends, timers];
        buses.iter().chain(all).for_each(|outage| outage.over(who));
    }
}

/// Counts since the engine started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries committed.
    pub entries: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
    /// Shards lost to another owner, however that was noticed. Once a loss.
    pub fenced_commits: AtomicU64,
    /// Node actors spawned.
    pub node_actors: AtomicU64,
    /// Attempts that run now.
    pub attempts_running: AtomicU64,
    /// Attempts that wait for their turn, by what they wait for.
    pub attempts_waiting: AttemptWaits,
    /// Executions that ended.
    pub ended: AtomicU64,
    /// Reports that came too late.
    pub stale_reports: AtomicU64,
    /// Panics of execution actors.
    pub panics: AtomicU64,
    /// Executions that recovery has still to resume.
    pub recovering: Arc<AtomicU64>,
    /// Bytes of log that no checkpoint holds yet.
    pub uncheckpointed_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn committed(&self, entries: usize) {
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who waits for which execution's end.
#[derive(Debug, Default)]
pub struct EndWatches {
    waiting: DashMap<ExecutionId, Vec<oneshot::Sender<Ended>>>,
}

impl EndWatches {
    /// Watches an execution.
    pub fn watch(&self, id: ExecutionId) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.entry(id).or_default();
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        receiver
    }

    /// Forgets watchers that gave up.
    pub fn forget(&self, id: ExecutionId) {
        self.waiting.remove_if_mut(&id, |_, waiting| {
            waiting.retain(|sender| !sender.is_closed());
            waiting.is_empty()
        });
    }

    /// Forgets everyone who watches this execution: nothing will ever end it.
    pub fn drop_all(&self, id: ExecutionId) {
        self.waiting.remove(&id);
    }

    /// Forgets everyone who watches executions of this shard: it is no longer here.
    pub fn drop_shard(&self, shard: ShardId) {
        self.waiting.retain(|id, _| id.shard() != shard);
    }

    /// Forgets everyone: the engine stops.
    pub fn clear(&self) {
        self.waiting.clear();
    }

    /// Tells everyone who watches this execution.
    pub fn ended(&self, ended: Ended) {
        if self.waiting.is_empty() {
            return;
        }
        for sender in self
            .waiting
            .remove(&ended.id)
            .map(|(_, waiting)| waiting)
            .unwrap_or_default()
        {
            // Whoever gave up needs no answer.
            sender.send(ended).ok();
        }
    }
}

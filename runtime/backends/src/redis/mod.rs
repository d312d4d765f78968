//! The store on Redis 7.0 or newer: one server, one with Sentinel, or a cluster.
//!
//! Everything of a shard is in one slot, and every write is one script that first compares the epoch: a former owner writes
//! nothing, a chunk of a checkpoint is written whole or not at all. What `Ok` survives is what the server's settings
//! promise; they are checked whenever a connection is made (see [`RedisDurability`]).
//!
//! A store that went back (a failover that lost its tail, a restored copy) or was emptied is told by `acquire`, and by the
//! scripts: no record of an owner is ever made anew.

mod blobs;
mod cached;
mod checkpoint;
mod checks;
mod cursors;
mod decode;
mod erase;
mod error;
mod inbox;
mod layout;
mod link;
mod log;
mod marks;
mod members;
mod node;
mod options;
mod rewrite;
mod script;
mod semaphores;
mod spool;
mod state;
mod target;
mod walk;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;
use tokio::runtime::{Builder, Handle, Runtime};
use troupe_core::{Epoch, ShardId};
use troupe_ports::StoreError;
use troupe_telemetry::Outage;

use cursors::Cursors;
pub use error::RedisOpenError;
use layout::{Layout, ShardKeys};
use link::Link;
use marks::Marks;
use node::{Home, Settings};
pub use options::{RedisDurability, RedisMutant, RedisOptions, RedisTls};
use script::{Arg, CREATE, CREATE_SHARD, Call, Lane, Script};
use target::{Place, Target};

/// Version of the layout; a store with a higher one was written by a newer release.
const FORMAT: u64 = 1;
/// How often connections are made anew, at most: what was dialled within that is believed to lead to the master.
const DIAL_ANEW_EVERY: Duration = Duration::from_millis(200);

/// A store on Redis. Implements `StateStore`.
///
/// Cheap to drop; what was acknowledged stays, leases run out.
pub struct RedisStore {
    /// Appends; a shard's always by the same.
    appends_by: Vec<Link>,
    /// Leases and what is small.
    quick: Link,
    /// Limits over members: always the same, so what is sent later happens later.
    limits: Link,
    /// What may be megabytes: nobody waits behind it.
    bulk: Link,
    /// What nobody can take back.
    last: Link,
    _io: Io,
    layout: Layout,
    identity: Vec<u8>,
    durability: RedisDurability,
    accept_loss: Vec<ShardId>,
    /// What was acknowledged here, shard by shard.
    marks: Marks,
    cursors: Cursors,
    appends: AtomicU64,
    /// When connections were last made anew.
    dialled_anew: Mutex<Option<Instant>>,
}

impl RedisStore {
    /// Connects, checks the servers, and creates the store if there is none under the prefix.
    ///
    /// # Errors
    ///
    /// [`RedisOpenError`]; only where [`RedisOpenError::is_passing`] says so does another attempt make sense. Cancel-safe: a
    /// half-created store is completed by the next call.
    pub async fn open(options: &RedisOptions) -> Result<Self, RedisOpenError> {
        let io = Io::start()?;
        let (place, settings) = way(options, &io)?;
        let link = |home| Link::new(place.clone(), home, Arc::clone(&settings));
        let bulk = link(Home::Store);
        bulk.check().await?;
        let (layout, identity) = create(&bulk, options).await?;
        let appends = || link(Home::Caller).with(options.mutant);
        let appends_by = (0..options.append_connections()).map(|_| appends()).collect();
        Ok(Self {
            marks: Marks::new(layout.shards.len()),
            appends_by,
            quick: link(Home::Store),
            limits: link(Home::Store),
            last: link(Home::Store),
            bulk,
            _io: io,
            layout,
            identity,
            durability: options.durability,
            accept_loss: options.accept_loss.clone(),
            cursors: Cursors::default(),
            appends: AtomicU64::new(0),
            dialled_anew: Mutex::default(),
        })
    }

    /// Removes the store under the prefix, whoever made it, with everything in it; how many keys there were. Nobody may use it
    /// meanwhile. Where there is none nothing happens; keys under other prefixes stay.
    ///
    /// # Errors
    ///
    /// [`RedisOpenError`]; part of the store may be gone then, and the next call removes the rest.
    ///
    /// # Cancel safety
    ///
    /// As after an error. A store of which a part is gone is taken for damaged, never for a new one.
    pub async fn erase(options: &RedisOptions) -> Result<u64, RedisOpenError> {
        let io = Io::start()?;
        let (place, settings) = way(options, &io)?;
        erase::erase(&Link::new(place, Home::Store, settings), &options.prefix).await
    }

    fn keys(&self, shard: ShardId) -> Result<&ShardKeys, StoreError> {
        self.layout.shard(shard)
    }

    /// Runs a script that reads.
    async fn ask(
        &self,
        of: &ShardKeys,
        script: &'static Script,
        keys: Vec<&[u8]>,
        args: Vec<Arg<'_>>,
    ) -> Result<Value, StoreError> {
        let link = match script.lane {
            Lane::Append => &self.appends_by[usize::from(of.shard) % self.appends_by.len()],
            Lane::Quick => &self.quick,
            Lane::Limits => &self.limits,
            Lane::Bulk => &self.bulk,
            Lane::Last => &self.last,
        };
        Ok(link.call(of.slot, &Call { script, keys, args }).await?)
    }

    /// Runs a script that writes for the owner: its first key is the owner's record, its first argument the epoch.
    async fn write(
        &self,
        (shard, epoch): (ShardId, Epoch),
        script: &'static Script,
        keys: Vec<&[u8]>,
        args: Vec<Arg<'_>>,
    ) -> Result<Value, StoreError> {
        let value = self.ask(self.keys(shard)?, script, keys, args).await?;
        decode::fenced(value, shard, epoch)
    }

    /// Notes the number that a script answered of what it keeps outside the log.
    fn counted(&self, shard: ShardId, epoch: Epoch, number: u64) -> Result<(), StoreError> {
        if self.marks.kept(shard, epoch, number) {
            return Ok(());
        }
        Err(StoreError::WentBack(format!(
            "shard {shard}: something else was acknowledged as number {number} of what is kept outside its log"
        )))
    }

    /// Runs a command that reads.
    async fn command(&self, slot: u16, command: &redis::Cmd) -> Result<Value, StoreError> {
        Ok(self.bulk.send(slot, command).await?)
    }

    /// Makes the connections anew that shards are served over, however many shards ask for it at a time. After a failover an older one
    /// may still lead to the server from before, which takes itself for the master: where a log ends would be told by one server, and what
    /// it lacks be given to the other.
    fn dial_anew(&self) {
        let mut last = self.dialled_anew.lock();
        if last.is_some_and(|at| at.elapsed() < DIAL_ANEW_EVERY) {
            return;
        }
        *last = Some(Instant::now());
        for link in self.appends_by.iter().chain([&self.quick, &self.bulk]) {
            link.dial_anew();
        }
    }

    fn count_append(&self) {
        self.appends.fetch_add(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("RedisStore")
            .field("shards", &self.layout.shards.len())
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

/// The thread that serves the connections but those of appends: a busy engine must not keep leases waiting.
struct Io {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Io {
    fn start() -> Result<Self, RedisOpenError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .thread_name("redis")
            .enable_all()
            .build()
            .map_err(|error| RedisOpenError::Options(format!("no thread can be had for connections: {error}")))?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        // Waiting for its thread is not allowed where a store may be dropped.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Where the servers are, and what all connections to them have in common.
fn way(options: &RedisOptions, io: &Io) -> Result<(Place, Arc<Settings>), RedisOpenError> {
    check_prefix(&options.prefix)?;
    let target = Target::parse(&options.url)?;
    if target.encrypted {
        install_cryptography();
    }
    let certificates = target.encrypted.then(|| target::certificates(&options.tls));
    let settings = Settings {
        io: io.handle.clone(),
        login: target.login,
        database: target.database,
        certificates: certificates.transpose()?,
        durability: options.durability,
        settings_vouched: options.settings_vouched,
        response_timeout: options.response_timeout,
        connect_timeout: options.connect_timeout,
        outage: Outage::new("no connection to Redis"),
        unreplicated: parking_lot::Mutex::default(),
        slots: link::Slots::default(),
        connections: AtomicU64::new(0),
    };
    Ok((target.place, Arc::new(settings)))
}

fn check_prefix(prefix: &str) -> Result<(), RedisOpenError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(is_plain) {
        let why = "the prefix has 1 to 64 letters, digits and -_.:/".to_owned();
        return Err(RedisOpenError::Options(why));
    }
    Ok(())
}

/// rustls takes its cryptography from one place a process.
fn install_cryptography() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Whoever came first has installed one; that will do.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

/// Fixes number of shards and identity, or reads them; makes the records of the owners, before anybody owns one.
async fn create(link: &Link, options: &RedisOptions) -> Result<(Layout, Vec<u8>), RedisOpenError> {
    let (meta, slot) = layout::meta(&options.prefix);
    let fresh = fresh_identity();
    let call = Call {
        script: &CREATE,
        keys: vec![&meta],
        args: vec![
            Arg::Number(FORMAT),
            Arg::Number(options.shards.max(1).into()),
            Arg::Bytes(&fresh),
        ],
    };
    let answer = link.call(slot, &call).await?;
    let mut fixed = decode::list(answer)?.into_iter();
    let mut next = || fixed.next().unwrap_or(Value::Nil);
    let (format, shards, identity, ready) = (next(), next(), next(), next());
    let found = decode::number(format)?;
    if found > FORMAT {
        return Err(RedisOpenError::NewerFormat { found, known: FORMAT });
    }
    let shards = u16::try_from(decode::number(shards)?)
        .map_err(|_| RedisOpenError::Damaged("the number of shards is unreadable".to_owned()))?;
    let identity = decode::bytes(identity)?;
    let layout = Layout::new(&options.prefix, shards);
    if decode::bytes_if_any(ready)?.is_none() {
        for keys in &layout.shards {
            let call = Call {
                script: &CREATE_SHARD,
                keys: vec![&keys.owner],
                args: vec![Arg::Bytes(&identity)],
            };
            if decode::bytes(link.call(keys.slot, &call).await?)? != identity {
                let why = format!("under the prefix {} are shards of another store", options.prefix);
                return Err(RedisOpenError::Damaged(why));
            }
        }
        let mut command = redis::cmd("HSET");
        command.arg(&meta).arg("r").arg(1);
        link.send(slot, &command).await?;
    }
    Ok((layout, identity))
}

/// 16 random bytes.
fn fresh_identity() -> Vec<u8> {
    use std::hash::{BuildHasher, RandomState};
    // The standard library's keys are random in each process and differ in each state.
    let half = |salt: u8| RandomState::new().hash_one(salt).to_be_bytes();
    [half(0), half(1)].concat()
}

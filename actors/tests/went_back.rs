//! A store that has lost what it acknowledged: what is lost, and what is damaged.
#![allow(clippy::unwrap_used)]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "../../runtime/backends/tests/support/ports.rs"]
mod ports;
mod support;

use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use faulty::{Fault, Faulty};
use support::{Arrows, PATIENCE, World, builtins, chain, until};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use troupe_actors::{Command, Engine, EngineOptions, EngineParts, StartRequest};
use troupe_backends::bus::InProcessBus;
use troupe_backends::embedded::{EmbeddedStore, StoreOptions};
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::execution::{Status, Verb};
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{ExecutionId, Json, LogPosition, Seq, ShardId};
use troupe_executors::HandlerCall;
use troupe_ports::{
    BusError, EpochAuthority, EventBus, ExecutionBase, ExecutionQuery, StateStore, StoreError, SystemClock,
    VisibilityStore,
};

const SHARD: ShardId = ShardId(0);
/// How often checkpoints are written.
const OFTEN: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_secs(3_600);

/// A server of its own; dropping it kills it.
struct Redis {
    child: Child,
    port: u16,
    directory: TempDir,
    durability: RedisDurability,
    response_timeout: Duration,
}

/// What a server answers to an inline command: a status, a number, or a short text.
async fn ask(port: u16, command: &str) -> String {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert!(!line.starts_with('-'), "{command}: {line}");
    if line.starts_with('$') && !line.starts_with("$-1") {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
    }
    line.trim_start_matches(['+', ':']).trim().to_owned()
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Redis {
    async fn start() -> Self {
        Self::start_with("no").await
    }

    /// With an append-only file that is synced before every answer.
    async fn strict() -> Self {
        Self::start_with("yes").await
    }

    async fn start_with(append_only: &str) -> Self {
        let port = ports::free_port();
        let directory = tempfile::tempdir().unwrap();
        let child = Process::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", append_only, "--appendfsync", "always"])
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        until("Redis starts", async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        let durability = match append_only {
            "yes" => RedisDurability::Strict,
            _ => RedisDurability::Volatile,
        };
        Self {
            child,
            port,
            directory,
            durability,
            // As by default.
            response_timeout: Duration::from_secs(5),
        }
    }

    async fn store(&self) -> Arc<RedisStore> {
        let options = RedisOptions {
            prefix: "p".to_owned(),
            shards: 1,
            durability: self.durability,
            response_timeout: self.response_timeout,
            ..RedisOptions::new(format!("redis://127.0.0.1:{}", self.port))
        };
        Arc::new(RedisStore::open(&options).await.unwrap())
    }

    async fn ask(&self, command: &str) -> String {
        ask(self.port, command).await
    }

    async fn records(&self) -> u64 {
        self.ask("LLEN {p:s0}l").await.parse().unwrap()
    }

    /// Waits until a checkpoint holds the whole log.
    async fn checkpointed(&self) {
        until("everything is checkpointed", async || {
            let number = async |field| {
                self.ask(&format!("HGET {{p:s0}}o {field}"))
                    .await
                    .parse::<u64>()
                    .unwrap()
            };
            number("c").await == number("t").await + self.records().await
        })
        .await;
    }

    async fn world(&self, bus: Arc<dyn EventBus>, held: &Held, checkpoint_interval: Duration) -> World {
        let options = EngineOptions {
            checkpoint_interval,
            ..EngineOptions::default()
        };
        self.world_with(bus, held, options, false).await
    }

    /// `ordered`: somebody orders the owners.
    async fn world_with(&self, bus: Arc<dyn EventBus>, held: &Held, options: EngineOptions, ordered: bool) -> World {
        self.world_over(self.store().await, bus, held, options, ordered).await
    }

    async fn world_over(
        &self,
        state: Arc<dyn StateStore>,
        bus: Arc<dyn EventBus>,
        held: &Held,
        options: EngineOptions,
        ordered: bool,
    ) -> World {
        let lists = support::store(self.directory.path(), 1);
        let Held { started, release } = held.clone();
        let executors = builtins().handler("hold", move |call: HandlerCall| {
            let (started, release) = (started.clone(), release.clone());
            async move {
                started.add_permits(1);
                release.acquire().await.expect("never closed").forget();
                Ok(call.task.input.as_inline().cloned().unwrap_or(Json::null()))
            }
        });
        let parts = EngineParts {
            state,
            definitions: lists.clone(),
            visibility: lists.clone(),
            buses: vec![("events", bus)],
            executor: Arc::new(executors.build()),
            sandbox: Arc::new(Arrows),
            clock: Arc::new(SystemClock),
            members: None,
            epochs: ordered.then(|| lists.clone() as Arc<dyn EpochAuthority>),
            semaphores: None,
        };
        World {
            engine: Engine::spawn(parts, options).await.unwrap(),
            store: lists,
            bus: Arc::new(InProcessBus::new()),
        }
    }
}

/// What the handler `hold` tells, and waits for.
#[derive(Clone)]
struct Held {
    started: Arc<Semaphore>,
    release: Arc<Semaphore>,
}

impl Held {
    fn new() -> Self {
        Self {
            started: Arc::new(Semaphore::new(0)),
            release: Arc::new(Semaphore::new(0)),
        }
    }

    async fn starts(&self) {
        let started = tokio::time::timeout(PATIENCE, self.started.acquire()).await;
        started.expect("an attempt starts").unwrap().forget();
    }
}

/// A bus that takes events while it is open.
#[derive(Default)]
struct Valve {
    open: AtomicBool,
    taken: Mutex<Vec<(ExecutionId, Verb)>>,
}

#[async_trait]
impl EventBus for Valve {
    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
        if !self.open.load(Ordering::SeqCst) {
            return Err(BusError::Unavailable("closed".into()));
        }
        let events = events.iter().map(|event| (event.execution, event.verb));
        self.taken.lock().unwrap().extend(events);
        Ok(())
    }

    async fn announce(&self, _: &[SystemEvent]) -> Result<(), BusError> {
        Ok(())
    }
}

fn never() -> EngineOptions {
    EngineOptions {
        checkpoint_interval: NEVER,
        ..EngineOptions::default()
    }
}

async fn listed(world: &World, id: ExecutionId) -> bool {
    let query = ExecutionQuery {
        limit: 100,
        ..ExecutionQuery::default()
    };
    let page = world.store.list(query).await.unwrap();
    page.items.iter().any(|row| row.id == id)
}

/// Whether lists show these as completed.
async fn shows_the_end(world: &World, ids: &[ExecutionId]) -> bool {
    let query = ExecutionQuery {
        status: Some("completed".to_owned()),
        limit: 100,
        ..ExecutionQuery::default()
    };
    let page = world.store.list(query).await.unwrap();
    ids.iter().all(|id| page.items.iter().any(|row| row.id == *id))
}

/// It completes, and nothing of its history is missing.
async fn ended_whole(world: &World, id: ExecutionId) {
    let view = world.ended(id).await;
    assert!(matches!(view.state.status, Status::Completed { .. }), "{id}");
    let history = world.engine.history(id, Seq(0), 100).await.unwrap();
    let seqs: Vec<u64> = history.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=view.state.seq.0).collect::<Vec<_>>(), "{id}");
}

/// As after a failover between two records and the checkpoint of both: the newest records are gone, the checkpoint knows them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_beyond_the_log_takes_nothing_from_sinks_and_lists() {
    let (redis, held, bus) = (Redis::start().await, Held::new(), Arc::new(Valve::default()));
    let world = redis.world(bus.clone(), &held, OFTEN).await;
    world.apply(chain("w", 2, "noop")).await;
    world.apply(chain("held", 2, "hold")).await;
    let ended = world.start("w", serde_json::json!({})).await;
    world.ended(ended).await;
    let goes_on = world.start("held", serde_json::json!({})).await;
    held.starts().await;
    world.engine.pause(goes_on, Command::default()).await.unwrap();
    held.release.add_permits(1);
    until("its first node ends", async || {
        let view = world.engine.get(goes_on).await.unwrap();
        view.state.nodes[0].ended_at.is_some()
    })
    .await;
    redis.checkpointed().await;
    let left = redis.records().await;
    // Now it has unfinished work again; the log's tail is to say that it only waits.
    world.engine.resume(goes_on, Command::default()).await.unwrap();
    held.starts().await;
    redis.checkpointed().await;
    world.engine.crash().await;
    let lost = redis.records().await - left;
    assert!(lost > 0);
    redis.ask(&format!("LTRIM {{p:s0}}l 0 {}", left - 1)).await;
    // Lists had not seen either of them.
    world.store.forget(SHARD, None, &[ended, goes_on]).await.unwrap();
    drop(world);

    bus.open.store(true, Ordering::SeqCst);
    let world = redis.world(bus.clone(), &held, NEVER).await;
    assert!(world.engine.status().halted.is_empty());
    assert!(listed(&world, ended).await, "lists show what the checkpoint holds");
    assert!(listed(&world, goes_on).await);
    assert_eq!(redis.ask("HGET {p:s0}o b").await, "$-1", "the loss is settled");
    let reached: u64 = redis.ask("HGET {p:s0}o c").await.parse().unwrap();
    assert!(reached >= left, "whoever comes next applies the same records once more");
    held.starts().await;
    held.release.add_permits(1);
    let view = world.ended(goes_on).await;
    assert!(matches!(view.state.status, Status::Completed { .. }));
    let history = world.engine.history(goes_on, Seq(0), 100).await.unwrap();
    let seqs: Vec<u64> = history.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=view.state.seq.0).collect::<Vec<_>>());
    until("what the log still had is published", async || {
        let taken = bus.taken.lock().unwrap();
        taken.contains(&(ended, Verb::ExecutionCompleted)) && taken.contains(&(goes_on, Verb::ExecutionCompleted))
    })
    .await;
}

/// As after a restore of an older PostgreSQL, or with a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_are_older_than_the_log_are_written_anew() {
    let (redis, held, bus) = (Redis::start().await, Held::new(), Arc::new(Valve::default()));
    bus.open.store(true, Ordering::SeqCst);
    let world = redis.world(bus.clone(), &held, OFTEN).await;
    world.apply(chain("w", 2, "noop")).await;
    world.apply(chain("held", 2, "hold")).await;
    let ended = world.start("w", serde_json::json!({})).await;
    world.ended(ended).await;
    let goes_on = world.start("held", serde_json::json!({})).await;
    held.starts().await;
    redis.checkpointed().await;
    let reached: u64 = redis.ask("HGET {p:s0}o c").await.parse().unwrap();
    // A checkpoint trims what the one before has left.
    until("the log is trimmed", async || {
        let later = world.start("w", serde_json::json!({})).await;
        world.ended(later).await;
        redis.ask("HGET {p:s0}o t").await.parse::<u64>().unwrap() >= reached
    })
    .await;
    world.engine.crash().await;
    world.store.forget(SHARD, None, &[ended, goes_on]).await.unwrap();
    world.store.rewind(SHARD, None, LogPosition(0)).await.unwrap();
    drop(world);

    let world = redis.world(bus, &held, NEVER).await;
    for id in [ended, goes_on] {
        assert!(listed(&world, id).await, "{id}");
    }
    assert!(
        world.store.projected(SHARD).await.unwrap().0 >= reached,
        "it is done once"
    );
    held.starts().await;
    held.release.add_permits(2);
    world.ended(goes_on).await;
}

/// As after a failover to a replica that lagged, under an owner that lives: what it acknowledged is there again, under any durability.
async fn an_owner_gives_its_log_what_it_lacks(redis: Redis) {
    let (held, bus) = (Held::new(), Arc::new(Valve::default()));
    bus.open.store(true, Ordering::SeqCst);
    let world = redis.world(bus.clone(), &held, NEVER).await;
    world.apply(chain("w", 3, "noop")).await;
    world.apply(chain("held", 2, "hold")).await;
    let mut ids = vec![world.start("w", serde_json::json!({})).await];
    world.ended(ids[0]).await;
    let values = |what| {
        format!(
            "EVAL \"local n = 0; for _, key in ipairs(redis.call('KEYS', '{{p:s0}}*')) do \
             if redis.call('TYPE', key).ok == 'hash' and redis.call('HEXISTS', key, 's') == 1 then \
             n = n + redis.call('{what}', key) end end; return n\" 0"
        )
    };
    let text = "x".repeat(100_000);
    let goes_on = world.start("held", serde_json::json!({ "text": text })).await;
    held.starts().await;
    ids.push(world.start("w", serde_json::json!({})).await);
    world.ended(ids[1]).await;
    let store = redis.store().await;
    let (before, records) = (store.holder(SHARD).await.unwrap(), redis.records().await);
    assert!(records > 6, "{records}");
    redis.ask("LTRIM {p:s0}l 0 1").await;
    assert_eq!(redis.ask(&values("DEL")).await, "1");
    // The owner notices at its next append, which is not acknowledged before the log is whole.
    let mut started = None;
    until("another one is started", async || {
        let request = StartRequest::new("w", Json::from_trusted("{}"));
        started = world.engine.start(request).await.ok();
        started.is_some()
    })
    .await;
    ids.extend(started.map(|outcome| outcome.id));
    until("it begins again", async || {
        let taken = store.holder(SHARD).await.unwrap().epoch > before.epoch;
        taken && world.engine.status().shards_served == 1
    })
    .await;
    assert!(world.engine.status().halted.is_empty());
    assert!(redis.records().await > records);
    assert_eq!(redis.ask(&values("EXISTS")).await, "1", "the value is there again");
    held.starts().await;
    held.release.add_permits(3);
    let mut ended = world.ended(goes_on).await;
    world.engine.load_output(&mut ended).await.unwrap();
    let Status::Completed { output } = &ended.state.status else {
        panic!("{:?}", ended.state.status);
    };
    let output = output.document(&|blob| ended.contents.get(blob).cloned()).unwrap();
    assert!(output.as_str().contains(&text));
    ids.push(goes_on);
    for id in ids {
        let view = world.ended(id).await;
        assert!(matches!(view.state.status, Status::Completed { .. }), "{id}");
        let history = world.engine.history(id, Seq(0), 100).await.unwrap();
        let seqs: Vec<u64> = history.iter().map(|entry| entry.seq.0).collect();
        assert_eq!(seqs, (1..=view.state.seq.0).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_gives_a_strict_log_what_it_lacks() {
    an_owner_gives_its_log_what_it_lacks(Redis::strict().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_gives_a_log_that_may_lose_something_what_it_lacks() {
    an_owner_gives_its_log_what_it_lacks(Redis::start().await).await;
}

/// Somebody is loaded from a store that came back older before anybody else has noticed: that it does not fit is not its fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_set_aside_for_what_the_store_has_lost() {
    let (redis, held, bus) = (Redis::strict().await, Held::new(), Arc::new(Valve::default()));
    let options = EngineOptions {
        checkpoint_interval: Duration::from_secs(2),
        passivate_after_ms: 1,
        ..EngineOptions::default()
    };
    let world = redis.world_with(bus, &held, options, false).await;
    world.apply(waiting()).await;
    let id = world.start("waits", serde_json::json!({})).await;
    let passive = async || until("it has no actor", async || world.engine.status().active == 0).await;
    passive().await;
    redis.checkpointed().await;
    // The checkpoint has its first entries, and nobody but the next checkpoint this one.
    world.engine.pause(id, Command::default()).await.unwrap();
    passive().await;
    let empty = "for _, key in ipairs(redis.call('KEYS', '{p:s0}*')) do \
                 if key ~= '{p:s0}o' then redis.call('DEL', key) end end; \
                 return redis.call('HSET', '{p:s0}o', 't', 0, 'c', 0, 'n', 0)";
    redis.ask(&format!("EVAL \"{empty}\" 0")).await;
    // It does not fit now.
    world.engine.resume(id, Command::default()).await.unwrap_err();
    until("it is there again", async || {
        let view = world.engine.get(id).await;
        view.is_ok_and(|view| view.state.paused)
    })
    .await;
    assert!(world.engine.status().halted.is_empty());
    world.engine.cancel(id, Command::default()).await.unwrap();
    world.ended(id).await;
}

/// A workflow that waits for ten minutes before its second node.
fn waiting() -> serde_json::Value {
    let mut waits = chain("waits", 2, "noop");
    waits["nodes"][0]["type"] = serde_json::json!("delay");
    waits["nodes"][0]["data"] = serde_json::json!({"delayType": "fixed", "delayValue": 600_000});
    waits
}

/// As after a failover to a replica that lacks the last chunk of a checkpoint, and nothing of the log: somebody who has no actor was paused, and
/// the store shows it as it was before.
async fn world_without_its_last_chunk(redis: &Redis, lease: Duration) -> (World, ExecutionId) {
    let options = EngineOptions {
        lease,
        checkpoint_interval: Duration::from_secs(1),
        passivate_after_ms: 1,
        ..EngineOptions::default()
    };
    let bus = Arc::new(Valve::default());
    let world = redis.world_with(bus, &Held::new(), options, false).await;
    world.apply(waiting()).await;
    let id = world.start("waits", serde_json::json!({})).await;
    let passive = async || until("it has no actor", async || world.engine.status().active == 0).await;
    passive().await;
    redis.checkpointed().await;
    let copy =
        "for _, key in ipairs(redis.call('KEYS', '{p:s0}*')) do redis.call('COPY', key, 'old' .. key) end return 1";
    assert_eq!(redis.ask(&format!("EVAL \"{copy}\" 0")).await, "1");
    world.engine.pause(id, Command::default()).await.unwrap();
    passive().await;
    redis.checkpointed().await;
    let restore = "for _, key in ipairs(redis.call('KEYS', '{p:s0}*')) do \
                   if key ~= '{p:s0}o' and key ~= '{p:s0}l' then \
                   redis.call('DEL', key) redis.call('COPY', 'old' .. key, key) end end \
                   for _, field in ipairs({'c', 'n'}) do \
                   redis.call('HSET', '{p:s0}o', field, redis.call('HGET', 'old{p:s0}o', field) or '0') end return 1";
    assert_eq!(redis.ask(&format!("EVAL \"{restore}\" 0")).await, "1");
    (world, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_goes_on_from_a_checkpoint_that_is_older_than_it_was() {
    let redis = Redis::strict().await;
    // Nobody renews meanwhile.
    let (world, id) = world_without_its_last_chunk(&redis, Duration::from_secs(600)).await;
    let view = {
        let mut seen = None;
        until("it is shown", async || {
            seen = world.engine.get(id).await.ok();
            seen.is_some()
        })
        .await;
        seen.unwrap()
    };
    assert!(view.state.paused, "its pause was acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whom_nobody_asks_notices_when_it_renews_its_lease() {
    let redis = Redis::strict().await;
    let (world, id) = world_without_its_last_chunk(&redis, Duration::from_secs(3)).await;
    let before = redis.store().await.holder(SHARD).await.unwrap();
    until("it begins again", async || {
        let holder = redis.store().await.holder(SHARD).await.unwrap();
        holder.epoch > before.epoch && world.engine.status().shards_served == 1
    })
    .await;
    assert!(world.engine.status().halted.is_empty());
    redis.checkpointed().await;
    let view = world.engine.get(id).await.unwrap();
    assert!(view.state.paused);
}

/// As after a failover to a replica that lacks the newest records and does not know of their owner, nor of who was before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_the_store_has_forgotten_gives_it_what_it_and_the_one_before_wrote() {
    let (redis, held, bus) = (Redis::strict().await, Held::new(), Arc::new(Valve::default()));
    bus.open.store(true, Ordering::SeqCst);
    let world = redis.world_with(bus.clone(), &held, never(), true).await;
    world.apply(chain("w", 3, "noop")).await;
    let mut ids = vec![world.start("w", serde_json::json!({})).await];
    world.ended(ids[0]).await;
    let older = redis.store().await.holder(SHARD).await.unwrap();
    world.engine.crash().await;
    drop(world);
    let world = redis.world_with(bus, &held, never(), true).await;
    ids.push(world.start("w", serde_json::json!({})).await);
    world.ended(ids[1]).await;
    let records = redis.records().await;
    redis.ask("LTRIM {p:s0}l 0 1").await;
    redis
        .ask(&format!("HSET {{p:s0}}o e {} o before u 0", older.epoch))
        .await;
    until("another one is started", async || {
        let request = StartRequest::new("w", Json::from_trusted("{}"));
        let started = world.engine.start(request).await.ok();
        ids.extend(started.map(|outcome| outcome.id));
        ids.len() == 3
    })
    .await;
    assert!(redis.records().await > records);
    for id in ids {
        let view = world.ended(id).await;
        assert!(matches!(view.state.status, Status::Completed { .. }), "{id}");
        let history = world.engine.history(id, Seq(0), 100).await.unwrap();
        let seqs: Vec<u64> = history.iter().map(|entry| entry.seq.0).collect();
        assert_eq!(seqs, (1..=view.state.seq.0).collect::<Vec<_>>());
    }
    assert!(world.engine.status().halted.is_empty());
}

/// A store that went back under an owner who leaves before anybody has noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_gives_the_store_what_it_lacks() {
    let (redis, held, bus) = (Redis::strict().await, Held::new(), Arc::new(Valve::default()));
    bus.open.store(true, Ordering::SeqCst);
    let world = redis.world(bus.clone(), &held, NEVER).await;
    world.apply(chain("w", 3, "noop")).await;
    let id = world.start("w", serde_json::json!({})).await;
    world.ended(id).await;
    let records = redis.records().await;
    redis.ask("LTRIM {p:s0}l 0 1").await;
    world.engine.shutdown(Duration::ZERO).await;
    drop(world);
    assert_eq!(redis.records().await, records);
    let world = redis.world(bus, &held, NEVER).await;
    assert!(matches!(world.ended(id).await.state.status, Status::Completed { .. }));
    assert!(world.engine.status().halted.is_empty());
}

/// A store that went back and does not answer, under an owner who leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_waits_for_a_store_that_does_not_answer() {
    let mut redis = Redis::strict().await;
    redis.response_timeout = Duration::from_secs(1);
    let (held, bus) = (Held::new(), Arc::new(Valve::default()));
    bus.open.store(true, Ordering::SeqCst);
    let world = redis.world(bus.clone(), &held, NEVER).await;
    world.apply(chain("w", 3, "noop")).await;
    let id = world.start("w", serde_json::json!({})).await;
    world.ended(id).await;
    let records = redis.records().await;
    // Its lease would hold for an hour.
    let lose = "redis.call('LTRIM', '{p:s0}l', 0, 1) \
                local ends = redis.call('TIME')[1] * 1000 + 3600000 \
                return redis.call('HSET', '{p:s0}o', 'u', string.format('%.0f', ends))";
    redis.ask(&format!("EVAL \"{lose}\" 0")).await;
    // Longer than it waits for a last checkpoint, and then for an answer.
    redis.ask("CLIENT PAUSE 6000 ALL").await;
    world.engine.shutdown(Duration::ZERO).await;
    drop(world);
    assert_eq!(redis.records().await, records);
    let holder = redis.store().await.holder(SHARD).await.unwrap();
    assert_eq!(holder.owner, None, "nobody need wait until the lease is over");
    let options = EngineOptions {
        owner: "the next one".to_owned(),
        ..never()
    };
    let world = redis.world_with(bus, &held, options, false).await;
    assert!(matches!(world.ended(id).await.state.status, Status::Completed { .. }));
    assert!(world.engine.status().halted.is_empty());
}

/// An engine over a strict store that has this fault at its next append: someone has ended, and the next one is being started.
async fn world_with_a_fault(redis: &Redis, fault: Fault) -> (World, ExecutionId, Arc<Faulty>) {
    let (held, bus) = (Held::new(), Arc::new(Valve::default()));
    bus.open.store(true, Ordering::SeqCst);
    let store = Arc::new(Faulty::new(redis.store().await, redis.port));
    let world = redis.world_over(store.clone(), bus, &held, never(), false).await;
    world.apply(chain("w", 3, "noop")).await;
    let ended = world.start("w", serde_json::json!({})).await;
    world.ended(ended).await;
    let before = store.holder(SHARD).await.unwrap().epoch;
    store.plant(fault);
    let (engine, request) = (world.engine.clone(), StartRequest::new("w", Json::from_trusted("{}")));
    let asked = tokio::spawn(async move { engine.start(request).await });
    until("it begins again, or halts", async || {
        let status = world.engine.status();
        let taken = store.holder(SHARD).await.unwrap().epoch > before;
        (taken && status.shards_served == 1) || !status.halted.is_empty()
    })
    .await;
    asked.abort();
    (world, ended, store)
}

/// Of a record whose answer was lost somebody may have heard all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_and_seen_is_given_back_too() {
    let redis = Redis::strict().await;
    let (world, ended, _) = world_with_a_fault(&redis, Fault::LostOnceSeen).await;
    let status = world.engine.status();
    assert!(status.halted.is_empty(), "{:?}", status.halted);
    let history = world.engine.history(ended, Seq(0), 100).await.unwrap();
    let view = world.engine.get(ended).await.unwrap();
    assert_eq!(history.len() as u64, view.state.seq.0);
    assert!(matches!(view.state.status, Status::Completed { .. }));
}

/// That a log is whole only whoever tells where it ends can say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_whole_when_the_server_that_lacked_something_says_so() {
    let redis = Redis::strict().await;
    let (world, ended, store) = world_with_a_fault(&redis, Fault::TwoServers(2)).await;
    assert!(world.engine.status().halted.is_empty());
    assert!(store.taken_back() > 2, "{}", store.taken_back());
    let view = world.engine.get(ended).await.unwrap();
    assert!(matches!(view.state.status, Status::Completed { .. }));
}

/// As after a failover to a replica that did not know of this owner, where a former one wrote before the owner noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_a_record_of_somebody_else_halts_the_shard() {
    let (redis, held, bus) = (Redis::strict().await, Held::new(), Arc::new(Valve::default()));
    let world = redis.world(bus, &held, NEVER).await;
    world.apply(chain("w", 3, "noop")).await;
    let id = world.start("w", serde_json::json!({})).await;
    world.ended(id).await;
    let records = redis.records().await;
    let other = "redis.call('LTRIM', '{p:s0}l', 0, -3) \
                 return redis.call('RPUSH', '{p:s0}l', redis.call('LINDEX', '{p:s0}l', 0))";
    redis.ask(&format!("EVAL \"{other}\" 0")).await;
    let (engine, request) = (world.engine.clone(), StartRequest::new("w", Json::from_trusted("{}")));
    let asked = tokio::spawn(async move { engine.start(request).await });
    until("the shard halts", async || !world.engine.status().halted.is_empty()).await;
    asked.abort();
    let halted = world.engine.status().halted;
    assert!(halted[0].1.contains("not this owner's"), "{halted:?}");
    assert_eq!(redis.records().await, records - 1);
}

/// The same where all that this owner wrote is there, and what the former one wrote stands behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_somebody_else_went_on_with_is_whole() {
    let (redis, held, bus) = (Redis::strict().await, Held::new(), Arc::new(Valve::default()));
    let world = redis.world(bus.clone(), &held, NEVER).await;
    world.apply(chain("w", 3, "noop")).await;
    assert_eq!(redis.records().await, 0);
    let late = world.start("w", serde_json::json!({})).await;
    world.ended(late).await;
    until("lists show everything", async || shows_the_end(&world, &[late]).await).await;
    let former = redis.store().await.holder(SHARD).await.unwrap().epoch;
    world.engine.crash().await;
    // It is to write the start later, and nothing yet.
    let take = "redis.call('RPUSH', 'late', redis.call('LINDEX', '{p:s0}l', 0)) return redis.call('DEL', '{p:s0}l')";
    assert_eq!(redis.ask(&format!("EVAL \"{take}\" 0")).await, "1");
    world.store.forget(SHARD, None, &[late]).await.unwrap();
    world.store.rewind(SHARD, None, LogPosition(0)).await.unwrap();
    drop(world);

    let world = redis.world(bus, &held, NEVER).await;
    let mut ids = vec![late, world.start("w", serde_json::json!({})).await];
    world.ended(ids[1]).await;
    let records = redis.records().await;
    assert!(records > 2, "{records}");
    let write = format!(
        "redis.call('HSET', '{{p:s0}}o', 'e', '{former}', 'o', 'before', 'u', '0') \
         return redis.call('RPUSH', '{{p:s0}}l', redis.call('LINDEX', 'late', 0))"
    );
    assert_eq!(
        redis.ask(&format!("EVAL \"{write}\" 0")).await,
        (records + 1).to_string()
    );
    until("another one is started, or the shard halts", async || {
        let request = StartRequest::new("w", Json::from_trusted("{}"));
        let started = world.engine.start(request).await.ok();
        ids.extend(started.map(|outcome| outcome.id));
        ids.len() == 3 || !world.engine.status().halted.is_empty()
    })
    .await;
    let halted = world.engine.status().halted;
    assert!(halted.is_empty(), "{halted:?}");
    assert!(redis.records().await > records + 1, "nothing is taken away");
    for id in ids {
        ended_whole(&world, id).await;
    }
}

/// What panics over one execution costs no other one anything, and that one nothing that is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_a_checkpoint_panic_is_kept_as_it_is_and_the_others_are_written() {
    const INTERVAL: Duration = Duration::from_millis(500);
    let (redis, held, bus) = (Redis::strict().await, Held::new(), Arc::new(Valve::default()));
    bus.open.store(true, Ordering::SeqCst);
    let world = redis.world(bus.clone(), &held, NEVER).await;
    world.apply(chain("w", 2, "noop")).await;
    world.apply(chain("held", 1, "hold")).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let id = world.start("w", serde_json::json!({})).await;
        world.ended(id).await;
        others.push(id);
    }
    // The next owner loads those of which lists or a sink lack something; of an end in the log it is the checkpoint that is to come.
    until("lists and sinks lack nothing", async || {
        let sent = redis.ask("HGET {p:s0}k events").await;
        sent == redis.records().await.to_string() && shows_the_end(&world, &others).await
    })
    .await;
    world.engine.crash().await;
    drop(world);
    let kept = others.remove(2);

    let store = Arc::new(Faulty::new(redis.store().await, redis.port));
    store.plant_panic(kept);
    let options = EngineOptions {
        checkpoint_interval: INTERVAL,
        ..EngineOptions::default()
    };
    let world = redis.world_over(store, bus.clone(), &held, options, false).await;
    let store = redis.store().await;
    let opened = store.holder(SHARD).await.unwrap().epoch;
    let goes_on = world.start("held", serde_json::json!({})).await;
    held.starts().await;
    tokio::time::sleep(INTERVAL * 2).await;
    let is_archived = async |id| matches!(store.load(id).await.unwrap(), Some(ExecutionBase::Ended(..)));
    until("a checkpoint is written, or the shard is opened again", async || {
        is_archived(others[0]).await || store.holder(SHARD).await.unwrap().epoch > opened
    })
    .await;
    let holder = store.holder(SHARD).await.unwrap();
    assert_eq!(holder.epoch, opened, "nothing of the shard failed");
    redis.checkpointed().await;
    for id in &others {
        assert!(is_archived(*id).await, "{id}");
    }
    let base = store.load(kept).await.unwrap();
    assert!(matches!(base, Some(ExecutionBase::Live { .. })), "{base:?}");
    held.release.add_permits(1);
    let view = world.ended(goes_on).await;
    assert!(matches!(view.state.status, Status::Completed { .. }));
    assert_eq!(held.started.available_permits(), 0, "its attempt ran once");
    assert_eq!(store.holder(SHARD).await.unwrap().epoch, opened);
    assert!(world.engine.status().halted.is_empty());
    world.engine.shutdown(Duration::ZERO).await;
    drop(world);

    let world = redis.world(bus, &held, NEVER).await;
    for id in [&others[..], &[kept, goes_on]].concat() {
        ended_whole(&world, id).await;
    }
}

/// Whoever answers after a line broke may be a replica that does not know of the next owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whose_line_broke_asks_who_was_named_before_it_appends() {
    let (redis, held, bus) = (Redis::start().await, Held::new(), Arc::new(Valve::default()));
    let options = EngineOptions {
        // Nobody renews meanwhile.
        lease: Duration::from_secs(600),
        checkpoint_interval: NEVER,
        ..EngineOptions::default()
    };
    let world = redis.world_with(bus, &held, options, true).await;
    world.apply(chain("w", 1, "noop")).await;
    let first = world.start("w", serde_json::json!({})).await;
    world.ended(first).await;
    let records = redis.records().await;
    let issued = world.store.issued(SHARD).await.unwrap();
    redis.ask("CLIENT PAUSE 60000 WRITE").await;
    let engine = world.engine.clone();
    let request = StartRequest::new("w", Json::from_trusted("{}"));
    let asked = tokio::spawn(async move { engine.start(request).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.store.issue(SHARD, issued, "the next one").await.unwrap();
    redis.ask("CLIENT KILL TYPE normal").await;
    redis.ask("CLIENT UNPAUSE").await;
    until("it gives the shard up", async || {
        world.engine.status().shards_served == 0
    })
    .await;
    assert_eq!(redis.records().await, records);
    asked.abort();
}

/// What an owner before has appended, and a checkpoint holds, nobody has in memory any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_log_that_lacks_what_nobody_has_halts_the_shard() {
    let (redis, held, bus) = (Redis::strict().await, Held::new(), Arc::new(Valve::default()));
    let world = redis.world(bus.clone(), &held, OFTEN).await;
    world.apply(chain("w", 3, "noop")).await;
    let first = world.start("w", serde_json::json!({})).await;
    world.ended(first).await;
    redis.checkpointed().await;
    let reached: u64 = redis.ask("HGET {p:s0}o c").await.parse().unwrap();
    until("lists show everything", async || {
        world.store.projected(SHARD).await.unwrap().0 >= reached
    })
    .await;
    world.engine.crash().await;
    drop(world);
    let world = redis.world(bus, &held, NEVER).await;
    let records = redis.records().await;
    assert!(records > 2, "{records}");
    world.start("w", serde_json::json!({})).await;
    until("more is in the log", async || redis.records().await > records).await;
    redis.ask(&format!("LTRIM {{p:s0}}l 0 {}", records - 2)).await;
    let (engine, started) = (world.engine.clone(), StartRequest::new("w", Json::from_trusted("{}")));
    let asked = tokio::spawn(async move { engine.start(started).await });
    until("the shard halts", async || !world.engine.status().halted.is_empty()).await;
    asked.abort();
}

/// As after a failover that has lost the last chunk of a checkpoint and none of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_has_lost_a_chunk_begins_again_from_its_log() {
    let (redis, held, bus) = (Redis::start().await, Held::new(), Arc::new(Valve::default()));
    let world = redis.world(bus, &held, OFTEN).await;
    world.apply(chain("w", 2, "noop")).await;
    let ended = world.start("w", serde_json::json!({})).await;
    world.ended(ended).await;
    redis.checkpointed().await;
    let store = redis.store().await;
    let before = store.holder(SHARD).await.unwrap();
    redis.ask("HSET {p:s0}o n 0 c 0").await;
    let started = world
        .engine
        .start(StartRequest::new("w", Json::from_trusted("{}")))
        .await;
    assert!(started.is_err(), "nothing goes on from what is lost");
    until("it begins again", async || {
        let taken = store.holder(SHARD).await.unwrap().epoch > before.epoch;
        taken && world.engine.status().shards_served == 1
    })
    .await;
    let later = world.start("w", serde_json::json!({})).await;
    for id in [ended, later] {
        assert!(matches!(world.ended(id).await.state.status, Status::Completed { .. }));
    }
    assert!(world.engine.status().halted.is_empty());
    redis.checkpointed().await;
}

/// As after a restore of one file of an embedded store: its log is older than its checkpoints and lists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_store_whose_log_is_older_goes_on_once_the_loss_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log.db");
    let open = async |accept_loss: Vec<ShardId>| {
        let store_options = StoreOptions {
            shards: 1,
            accept_loss: accept_loss.clone(),
            ..StoreOptions::default()
        };
        let store = Arc::new(EmbeddedStore::open(directory.path(), &store_options).unwrap());
        let options = EngineOptions {
            accept_loss,
            checkpoint_interval: OFTEN,
            ..EngineOptions::default()
        };
        support::on_store(store, builtins(), options).await
    };
    let ends = async |world: &World| {
        let id = world.start("w", serde_json::json!({})).await;
        world.ended(id).await;
        until("lists show its end, and a checkpoint holds it", async || {
            let archived = world.store.load(id).await.unwrap();
            matches!(archived, Some(ExecutionBase::Ended(..))) && listed(world, id).await
        })
        .await;
        id
    };
    // Its files are whole when their last user has let go of them.
    let close = async |world: World| {
        world.engine.shutdown(PATIENCE).await;
        drop(world);
        until("the files are closed", async || {
            EmbeddedStore::open(directory.path(), &StoreOptions::default()).is_ok()
        })
        .await;
    };
    let world = open(vec![]).await;
    world.apply(chain("w", 2, "noop")).await;
    let first = ends(&world).await;
    close(world).await;
    let older = std::fs::read(&log).unwrap();
    let world = open(vec![]).await;
    let second = ends(&world).await;
    // Lists had seen neither of them.
    world.store.forget(SHARD, None, &[first, second]).await.unwrap();
    close(world).await;
    std::fs::write(&log, older).unwrap();

    let plain = EmbeddedStore::open(directory.path(), &StoreOptions::default()).unwrap();
    let refused = plain.acquire(SHARD, "nobody has accepted it", PATIENCE).await;
    assert!(matches!(&refused, Err(StoreError::Damaged(_))), "got {refused:?}");
    drop(plain);
    let world = open(vec![SHARD]).await;
    assert!(world.engine.status().halted.is_empty());
    for id in [first, second] {
        assert!(listed(&world, id).await, "lists show what the checkpoint holds");
        let view = world.engine.get(id).await.unwrap();
        assert!(matches!(view.state.status, Status::Completed { .. }));
    }
    ends(&world).await;
    close(world).await;
    let world = open(vec![]).await;
    assert!(world.engine.status().halted.is_empty(), "it need not be accepted twice");
    ends(&world).await;
}

/// What does not make sense is no loss, and does not get better when the shard begins again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_halts_a_shard_at_once_where_a_loss_would_be_allowed() {
    let (redis, held, bus) = (Redis::start().await, Held::new(), Arc::new(Valve::default()));
    let world = redis.world(bus, &held, OFTEN).await;
    world.apply(chain("w", 1, "noop")).await;
    let store = redis.store().await;
    assert!(store.may_lose_acknowledged());
    let before = store.holder(SHARD).await.unwrap();
    // Checkpoints keep there when archives expire.
    redis.ask("SET {p:s0}e nonsense").await;
    world.start("w", serde_json::json!({})).await;
    until("the shard halts", async || !world.engine.status().halted.is_empty()).await;
    let after = store.holder(SHARD).await.unwrap();
    assert_eq!(after.epoch, before.epoch, "nobody took the shard again");
}

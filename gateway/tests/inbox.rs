//! Commands for a shard whose owner cannot be asked: they are kept, and applied once.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
mod server;
#[path = "server/services.rs"]
mod services;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use bench::{Bench, CALLED, apply, metric, parsed, until, until_split};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use server::Server;
use tokio::runtime::Runtime;
use troupe_backends::{RedisOptions, RedisStore};
use troupe_core::{ExecutionId, KeySpace, ShardId};
use troupe_ports::{InboxId, InboxItem, InboxLimits, InboxPush, StateStore};

/// Lease of the member that is asked: it looks for an owner three times as long.
const LEASE_MS: u64 = 2_000;
/// Lease of one that dies: its shards have no owner for as long.
const LONG_LEASE_MS: &str = "30000";
/// Room for whatever a test puts into an inbox.
const PLENTY: InboxLimits = InboxLimits {
    items: 10_000,
    bytes: 1 << 30,
};

/// A bench, and what reaches into the store under it.
struct World {
    bench: Bench,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        Self {
            bench: Bench::new(&[("CLUSTER_LEASE_MS", &LEASE_MS.to_string())]),
            runtime: Runtime::new().unwrap(),
        }
    }

    /// Two members that have half of the shards each, and the workflow; the second with these settings.
    fn two(&self, second: &[(&str, &str)]) -> (Server, Server) {
        let (a, b) = (self.bench.member(), self.bench.member_with(&[], second));
        until_split([&a, &b]);
        apply(&a, CALLED);
        (a, b)
    }

    fn store(&self) -> RedisStore {
        let options = RedisOptions {
            prefix: self.bench.deployment.prefix.clone(),
            ..RedisOptions::new(self.bench.redis.url())
        };
        self.runtime.block_on(RedisStore::open(&options)).unwrap()
    }

    fn inbox(&self, store: &RedisStore, shard: ShardId) -> Vec<InboxItem> {
        self.runtime.block_on(store.inbox_read(shard, 0, usize::MAX)).unwrap()
    }

    fn push(&self, store: &RedisStore, shard: ShardId, id: InboxId, bytes: Bytes) {
        let pushed = self.runtime.block_on(store.inbox_push(shard, id, bytes, PLENTY));
        assert_eq!(pushed.unwrap(), InboxPush::Kept);
    }
}

fn ended(server: &Server, outcome: &str) -> f64 {
    metric(server, &format!("troupe_inbox_commands_total{{outcome=\"{outcome}\"}}"))
}

/// An execution that waits for its call, in a shard of the member.
fn waiting(server: &Server) -> (String, ShardId) {
    let (status, body) = server.post("/api/v1/workflows/called/executions", &[], "{}");
    assert_eq!(status, 202, "{body}");
    let id = parsed(&body)["id"].as_str().unwrap().to_owned();
    until("it waits for its call", || {
        let (status, body) = server.get(&format!("/api/v1/executions/{id}/nodes/call"));
        status == 200 && parsed(&body)["status"] == "running"
    });
    let shard = id.parse::<ExecutionId>().unwrap().shard();
    (id, shard)
}

/// Gives commands one after another, each a little later than the one before it, and waits for all answers.
fn give(server: &Server, commands: &[(String, &str, Value)]) -> Vec<(u16, Value)> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0_u32..)
            .zip(commands)
            .map(|(place, (path, key, body))| {
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(LEASE_MS / 8) * place);
                    let headers = [("idempotency-key", *key)];
                    let (status, body) = server.post(path, &headers, &body.to_string());
                    (status, parsed(&body))
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

fn history(server: &Server, id: &str) -> Vec<Value> {
    let (status, body) = server.get(&format!("/api/v1/executions/{id}/history?limit=100"));
    assert_eq!(status, 200, "{body}");
    parsed(&body)["items"].as_array().unwrap().clone()
}

/// The commands that are on record, in order, as far as they have a key.
fn applied(server: &Server, id: &str) -> Vec<String> {
    let entries = history(server, id);
    let keys = entries.iter().filter_map(|entry| entry["command"].as_str());
    keys.map(str::to_owned).collect()
}

fn until_status(server: &Server, id: &str, wanted: &str) -> Value {
    let mut seen = Value::Null;
    until(&format!("{id} is {wanted}"), || {
        let (status, body) = server.get(&format!("/api/v1/executions/{id}"));
        seen = parsed(&body);
        status == 200 && seen["status"] == wanted
    });
    seen
}

#[test]
fn commands_for_a_shard_without_an_owner_are_kept_and_applied_once_in_order() {
    let world = World::new();
    let (a, b) = world.two(&[("CLUSTER_LEASE_MS", LONG_LEASE_MS)]);
    let (id, shard) = waiting(&b);
    let (other, full) = loop {
        let (other, full) = waiting(&b);
        if full != shard {
            break (other, full);
        }
    };
    let store = world.store();
    b.kill();
    // Its owner would have dropped it.
    let junk = (0..1_024_u32).map(|number| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        store.inbox_push(full, InboxId(id), Bytes::from_static(b"junk"), PLENTY)
    });
    for pushed in world.runtime.block_on(join_all(junk)) {
        assert_eq!(pushed.unwrap(), InboxPush::Kept);
    }
    let killed = Instant::now();
    let of = |id: &str, verb: &str| format!("/api/v1/executions/{id}/{verb}");
    let start = |n: u32| ("/api/v1/workflows/called/executions".to_owned(), json!({"input": n}));
    let mut commands = vec![
        (of(&id, "variables"), "first", json!({"x": 1})),
        (of(&id, "variables"), "second", json!({"x": 2})),
        (of(&id, "nodes/begin/complete"), "refused", json!({})),
        (of(&id, "nodes/call/complete"), "third", json!({"output": 7})),
        (of(&other, "variables"), "no room", json!({"x": 1})),
        (of(&id, "nodes/call/heartbeat"), "heartbeat", json!({})),
    ];
    let keys = (0..).map(|n| format!("start {n}"));
    let shard_of = |key: &String| ExecutionId::derived(8, KeySpace::Request, "called", key, 0).shard();
    let keys: Vec<String> = keys.filter(|key| shard_of(key) != full).take(8).collect();
    for (n, key) in (0..).zip(&keys) {
        let (path, body) = start(n);
        commands.push((path, key, body));
    }
    let answers = give(&a, &commands);
    let took = killed.elapsed();
    for ((_, key, _), (status, body)) in commands.iter().zip(&answers).take(4) {
        assert_eq!(*status, 202, "{key}: {body}");
        assert_eq!(*body, json!({"id": id, "status": "queued", "idempotencyKey": key}));
    }
    for (status, body) in &answers[4..6] {
        assert_eq!((*status, &body["code"]), (503, &json!("UNAVAILABLE")), "{body}");
    }
    // Three leases, what lies between the first and the last, and a busy machine.
    let within = Duration::from_millis(LEASE_MS * 3 + LEASE_MS / 8 * commands.len() as u64) + Duration::from_secs(8);
    assert!(took < within, "{took:?}");
    let kept = world.inbox(&store, shard);
    assert!(kept.len() >= 4, "nobody has applied anything yet: {}", kept.len());

    // Its lease runs out, and the other one takes the shard.
    let done = until_status(&a, &id, "completed");
    assert_eq!(done["variables"]["x"], 2, "the later one came later: {done}");
    assert_eq!(applied(&a, &id), ["first", "second", "third"]);
    until("the inbox is empty", || world.inbox(&store, shard).is_empty());
    assert!(ended(&a, "refused") >= 1.0);
    let mut queued = 0;
    for ((_, key, _), (status, body)) in commands.iter().zip(&answers).skip(6) {
        assert_eq!(*status, 202, "{body}");
        queued += usize::from(body["status"] == "queued");
        let id = body["id"].as_str().unwrap();
        until_status(&a, id, "running");
        // The key finds the execution that was announced.
        let (status, again) = a.post("/api/v1/workflows/called/executions", &[("idempotency-key", key)], "{}");
        assert_eq!(status, 202, "{again}");
        assert_eq!(
            (&parsed(&again)["id"], &parsed(&again)["existing"]),
            (&json!(id), &json!(true))
        );
    }
    assert!(queued > 0, "keys are of shards of either: {answers:?}");
    until("what is no command is dropped", || world.inbox(&store, full).is_empty());

    // As if the owner had died between applying them and removing them.
    let before = history(&a, &id).len();
    let (applied_before, refused_before) = (ended(&a, "applied"), ended(&a, "refused"));
    for item in &kept {
        world.push(&store, shard, item.id, item.bytes.clone());
    }
    until("they are gone again", || world.inbox(&store, shard).is_empty());
    until("they were run again", || ended(&a, "applied") >= applied_before + 3.0);
    assert!(ended(&a, "refused") > refused_before);
    assert_eq!(history(&a, &id).len(), before, "nothing was applied twice");
    // So it is for the client, who asks under the same key what came of it.
    let (path, key, body) = &commands[3];
    let (status, answer) = a.post(path, &[("idempotency-key", key)], &body.to_string());
    assert_eq!((status, &parsed(&answer)["unchanged"]), (200, &json!(true)), "{answer}");
}

#[test]
fn an_owner_that_cannot_be_reached_finds_commands_in_the_inbox() {
    let world = World::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (a, b) = world.two(&[("CLUSTER_ADDRESS", &format!("http://{nobody}"))]);
    let (id, shard) = waiting(&b);
    let given = [
        (
            format!("/api/v1/executions/{id}/nodes/begin/complete"),
            "too late",
            json!({}),
        ),
        (
            format!("/api/v1/executions/{id}/nodes/call/complete"),
            "done",
            json!({"output": 7}),
        ),
    ];
    let answers = give(&a, &given);
    for (status, body) in &answers {
        assert_eq!((*status, &body["status"]), (202, &json!("queued")), "{body}");
    }
    until_status(&b, &id, "completed");
    assert_eq!(applied(&b, &id), ["done"]);
    let store = world.store();
    until("what was refused is gone, too", || {
        world.inbox(&store, shard).is_empty()
    });
    assert_eq!((ended(&b, "applied"), ended(&b, "refused")), (1.0, 1.0));
    assert_eq!((ended(&a, "kept"), metric(&b, "troupe_inbox_depth")), (2.0, 0.0));
    // A read has nobody to ask.
    let (status, body) = a.get(&format!("/api/v1/executions/{id}"));
    assert_eq!(status, 503, "{body}");
}

#[test]
fn a_command_that_is_answered_directly_is_in_no_inbox() {
    let world = World::new();
    // Shorter than the search.
    let (a, b) = world.two(&[("CLUSTER_LEASE_MS", "3000")]);
    let (id, shard) = waiting(&b);
    b.kill();
    let path = format!("/api/v1/executions/{id}/variables");
    let answers = give(&a, &[(path, "x", json!({"x": 5}))]);
    assert_eq!(answers[0].0, 200, "{answers:?}");
    assert_eq!(world.inbox(&world.store(), shard).len(), 0);
    assert_eq!(applied(&a, &id), ["x"]);
    assert_eq!((ended(&a, "kept"), ended(&a, "applied")), (0.0, 0.0));
}

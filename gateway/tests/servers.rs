//! The real binary on Redis, PostgreSQL and RabbitMQ: it and Redis are killed meanwhile, and a benchmark leaves nothing there.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
mod server;
#[path = "server/services.rs"]
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use bench::{Bench, PATIENCE, apply, parsed};
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;
use server::{Server, troupe};
use services::{Deployment, Redis};
use sqlx::{Connection as _, PgConnection, Row as _};

/// Half of them wait while everything is killed.
const FLOW: &str = "
id: flow
name: Flow
nodes:
  - { id: first, type: function, data: { handlerId: echo } }
  - { id: wait, type: delay, data: { delayType: fixed, delayValue: 1500 } }
  - { id: last, type: function, data: { handlerId: echo, output: '({n: trigger.n})' } }
edges:
  - { id: e1, source: first, target: wait }
  - { id: e2, source: wait, target: last }
";

/// A queue that hears everything of one deployment, on the shared broker.
struct Listener {
    _connection: Connection,
    channel: Channel,
    queue: String,
}

impl Listener {
    async fn bind(url: &str, prefix: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let (queue, exchange) = (format!("{prefix}-heard"), format!("{prefix}.events"));
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let none = FieldTable::default;
        let declared = channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, durable, none());
        declared.await.unwrap();
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(queue.as_str().into(), exclusive, none());
        declared.await.unwrap();
        let bound = channel.queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            none(),
        );
        bound.await.unwrap();
        Self {
            _connection: connection,
            channel,
            queue,
        }
    }

    /// The events of the next message; none if none is there.
    async fn next(&self) -> Vec<Value> {
        let got = self
            .channel
            .basic_get(self.queue.as_str().into(), BasicGetOptions { no_ack: true });
        let Some(message) = got.await.unwrap() else {
            return Vec::new();
        };
        match serde_json::from_slice(&message.delivery.data).unwrap() {
            Value::Array(events) => events,
            event => vec![event],
        }
    }
}

/// One that tells the broker what happens.
fn member(bench: &Bench) -> Server {
    bench.member_with(&[], &[("STORE_EVENTS", &bench.deployment.rabbitmq)])
}

fn completed(server: &Server) -> BTreeSet<String> {
    let (status, body) = server.get("/api/v1/executions?status=completed&limit=100");
    assert_eq!(status, 200, "{body}");
    let page = parsed(&body);
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

fn until_completed(server: &Server, ids: &BTreeSet<String>) {
    let begun = Instant::now();
    loop {
        let found = completed(server);
        if ids.is_subset(&found) {
            return;
        }
        let missing: Vec<&String> = ids.difference(&found).collect();
        assert!(begun.elapsed() < PATIENCE, "not completed: {missing:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_and_redis_are_killed() {
    let mut bench = Bench::new(&[]);
    let listener = Listener::bind(&bench.deployment.rabbitmq, &bench.deployment.prefix).await;
    let start = |server: &Server, n: u32| server.line(&["start", "flow", "-q", "-i", &format!("n={n}")]);
    let mut ids = BTreeSet::new();

    let server = member(&bench);
    apply(&server, FLOW);
    ids.extend((0..10).map(|n| start(&server, n)));
    server.kill();

    // Its leases expire, then the next one takes over.
    let server = member(&bench);
    ids.extend((10..20).map(|n| start(&server, n)));
    bench.redis.kill();
    std::thread::sleep(Duration::from_millis(300));
    bench.redis.restart();
    ids.extend((20..30).map(|n| start(&server, n)));
    assert_eq!(ids.len(), 30);
    until_completed(&server, &ids);
    for id in &ids {
        let (_, body) = server.get(&format!("/api/v1/executions/{id}"));
        let shown = parsed(&body);
        assert_eq!(shown["output"]["n"], shown["input"]["n"], "{shown}");
    }

    // Each of its events has come, in order, some of them perhaps twice.
    let (begun, mut heard) = (Instant::now(), BTreeMap::<String, Vec<(String, String)>>::new());
    let ended = |heard: &BTreeMap<String, Vec<(String, String)>>| {
        let ends =
            |events: &Vec<(String, String)>| events.iter().any(|(kind, _)| kind == "troupe.execution.completed.v1");
        ids.iter().all(|id| heard.get(id).is_some_and(ends))
    };
    while !ended(&heard) {
        assert!(begun.elapsed() < PATIENCE, "{heard:?}");
        let events = listener.next().await;
        if events.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for event in events {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            let execution = text("source").rsplit('/').next().unwrap().to_owned();
            let place = (text("type"), text("sequence"));
            let known = heard.entry(execution).or_default();
            if !known.contains(&place) {
                assert!(
                    known.last().is_none_or(|last| last.1 < place.1),
                    "{known:?}, then {place:?}"
                );
                known.push(place);
            }
        }
    }
    let (status, body) = server.get("/readyz");
    let ready = parsed(&body);
    assert_eq!(
        (status, &ready["status"], &ready["events"]["status"]),
        (200, &"ok".into(), &"connected".into())
    );
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("troupe_broker_connected 1\n"), "{metrics}");
    assert!(!metrics.contains("troupe_broker_events_total 0\n"), "{metrics}");
    for id in &ids {
        assert_eq!(heard[id][0].0, "troupe.execution.created.v1");
    }
}

/// Measures on these servers: how the names of what that makes there begin, and how it ended.
fn measured(redis: &Redis, postgres: &str, more: &[&str]) -> (String, Output) {
    let child = troupe()
        .args(["bench", "chain", "--executions", "20", "--json"])
        .args(["--state", &redis.url(), "--definitions", postgres])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (format!("bench_{}_", child.id()), child.wait_with_output().unwrap())
}

/// The number that a Redis answers: an integer, or how many items a list has.
fn number(redis: &Redis, command: &str) -> u64 {
    let (url, mut answer) = (redis.url(), String::new());
    let mut stream = TcpStream::connect(url.strip_prefix("redis://").unwrap()).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end()[1..].parse().unwrap()
}

/// Schemas of the shared server whose names begin so.
async fn schemas(postgres: &str, beginning: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(postgres).await.unwrap();
    let all = sqlx::raw_sql("TABLE pg_namespace")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let names = all.iter().map(|row| row.get::<String, _>("nspname"));
    names.filter(|name| name.starts_with(beginning)).collect()
}

#[tokio::test]
async fn a_benchmark_takes_away_what_it_made_unless_that_is_to_be_kept() {
    let (redis, mut deployment) = (Redis::start(), Deployment::new());
    assert_eq!(number(&redis, "INCR neighbour"), 1);
    for keeps in [false, true] {
        let more: &[&str] = if keeps { &["--keep"] } else { &[] };
        let (beginning, output) = measured(&redis, &deployment.postgres, more);
        let keys = number(&redis, &format!("KEYS {{{beginning}*"));
        let schemas = schemas(&deployment.postgres, &beginning).await;
        if let Some(left) = schemas.first() {
            // It goes with the test.
            deployment.prefix.clone_from(left);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["executions"], 20, "{report}");
        assert_eq!((keys > 0, schemas.len()), (keeps, usize::from(keeps)), "{said}");
        assert_eq!(number(&redis, "DBSIZE"), keys + 1, "the neighbour's stays: {said}");
    }
}

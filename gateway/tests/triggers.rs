//! Messages of RabbitMQ start executions: two members on one Redis, PostgreSQL and broker, one of which is killed.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
mod server;
#[path = "server/services.rs"]
mod services;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use bench::{Bench, PATIENCE, SHORT_LEASE, apply};
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};
use server::Server;
use services::Deployment;

/// `limits.body_kib` of the members.
const BODY_BYTES_MAX: usize = 8 << 10;
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn shipment(exchange: &str, key: &str) -> String {
    format!(
        "
id: shipment
name: Shipment
settings:
  inputSchema: {{ type: object, properties: {{ n: {{ type: integer }} }}, required: [n] }}
nodes:
  - id: on-paid
    type: trigger
    data:
      triggerType: event
      config:
        exchange: {exchange}
        exchangeType: topic
        routingKey: {key}
        filter: event.data.total > 0
        mapping: {{ n: event.data.order.n, pad: event.data.pad }}
  - {{ id: ship, type: function, data: {{ handlerId: echo }} }}
edges:
  - {{ source: on-paid, target: ship }}
"
    )
}

struct Broker {
    _connection: Connection,
    channel: Channel,
    exchange: String,
    queue: String,
}

impl Broker {
    async fn connect(deployment: &Deployment) -> Self {
        let connection = Connection::connect(&deployment.rabbitmq, ConnectionProperties::default());
        let connection = connection.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self {
            _connection: connection,
            channel,
            exchange: format!("{}.orders", deployment.prefix),
            queue: format!("{}.trigger.shipment.on-paid", deployment.prefix),
        }
    }

    /// Whether a queue took it.
    async fn publish(&self, key: &str, id: &str, body: &str) -> bool {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString(TRACE.into()));
        let properties = properties.with_message_id(id.into()).with_headers(headers);
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let (exchange, key) = (self.exchange.as_str().into(), key.into());
        let sent = self
            .channel
            .basic_publish(exchange, key, options, body.as_bytes(), properties);
        matches!(sent.await.unwrap().await.unwrap(), Confirmation::Ack(None))
    }

    async fn dead_letter(&self) -> BasicGetMessage {
        let queue = format!("{}.dead", self.queue);
        let begun = Instant::now();
        loop {
            let got = self
                .channel
                .basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true });
            if let Some(message) = got.await.unwrap() {
                return message;
            }
            assert!(begun.elapsed() < PATIENCE, "no dead letter");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether there is the exchange, which comes after the queue.
    async fn has_exchange(&self) -> bool {
        let channel = self._connection.create_channel().await.unwrap();
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let (exchange, kind) = (self.exchange.as_str().into(), lapin::ExchangeKind::Topic);
        let found = channel.exchange_declare(exchange, kind, passive, FieldTable::default());
        found.await.is_ok()
    }
}

/// Takes the queues and the exchange away when this is dropped, whether the test passes or not.
struct Litter {
    url: String,
    exchange: String,
    queues: [String; 2],
}

impl Drop for Litter {
    fn drop(&mut self) {
        let (url, exchange, queues) = (self.url.clone(), self.exchange.clone(), self.queues.clone());
        let clean = async move {
            let connection = Connection::connect(&url, ConnectionProperties::default())
                .await
                .unwrap();
            let channel = connection.create_channel().await.unwrap();
            for queue in &queues {
                let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
                deleted.await.unwrap();
            }
            let deleted = channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default());
            deleted.await.unwrap();
        };
        // The test's own runtime cannot be waited for here.
        let cleaned = std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(clean)).join();
        assert!(cleaned.is_ok() || std::thread::panicking(), "something is left behind");
    }
}

/// One with a directory of its own, as on another machine.
fn member(bench: &Bench, state: &Path) -> Server {
    member_of(bench, state, &bench.deployment.rabbitmq)
}

fn member_of(bench: &Bench, state: &Path, events: &str) -> Server {
    Server::with_settings(state, &[], &bench.settings(&[("STORE_EVENTS", events)]))
}

/// What a dead letter says is wrong, without the detail.
fn reason(letter: &BasicGetMessage) -> String {
    let headers = letter.delivery.properties.headers().as_ref().unwrap();
    match headers.inner().get("x-troupe-reason") {
        Some(AMQPValue::LongString(reason)) => reason.to_string().split(':').next().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The numbers that were started, each as often as it was.
fn started(server: &Server) -> Vec<u64> {
    let (status, body) = server.get("/api/v1/executions?workflow=shipment&limit=200");
    if status != 200 {
        return Vec::new();
    }
    let page: Value = serde_json::from_str(&body).unwrap();
    let ids = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned());
    let number = |id: String| {
        let (_, body) = server.get(&format!("/api/v1/executions/{id}"));
        serde_json::from_str::<Value>(&body).ok()?["input"]["n"].as_u64()
    };
    let mut numbers: Vec<u64> = ids.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_starts_once_whoever_takes_it_and_the_rest_is_set_aside() {
    let bench = Bench::new(&[SHORT_LEASE, ("LIMITS_BODY_KIB", "8")]);
    let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let broker = Broker::connect(&bench.deployment).await;
    let _litter = Litter {
        url: bench.deployment.rabbitmq.clone(),
        exchange: broker.exchange.clone(),
        queues: [broker.queue.clone(), format!("{}.dead", broker.queue)],
    };
    let first = member(&bench, one.path());
    let second = member(&bench, two.path());
    let everything = |server: &Server| server.get("/readyz").0 == 200;
    until("both serve", async || everything(&first) && everything(&second)).await;
    apply(&first, &shipment(&broker.exchange, "order.paid"));
    let bound = async || broker.has_exchange().await && broker.publish("order.paid", "m-0", &body(0)).await;
    until("the queue is bound", bound).await;

    // Shards of both members are hit; each message comes twice.
    for n in (0..40).chain(0..40) {
        assert!(broker.publish("order.paid", &format!("m-{n}"), &body(n)).await);
    }
    let ignored = json!({"total": 0, "order": {"n": 99}}).to_string();
    assert!(broker.publish("order.paid", "m-zero", &ignored).await);
    let wanted: Vec<u64> = (0..40).collect();
    until("all have started", async || started(&first) == wanted).await;

    // As much as a payload may have starts something whoever has the shard, and a byte more is too much.
    for n in 40..60 {
        let full = padded(n, BODY_BYTES_MAX);
        assert!(broker.publish("order.paid", &format!("m-{n}"), &full).await);
    }
    let wanted: Vec<u64> = (0..60).collect();
    until("all have started", async || started(&first) == wanted).await;
    for n in 90..98 {
        let more = padded(n, BODY_BYTES_MAX + 1);
        assert!(broker.publish("order.paid", &format!("m-{n}"), &more).await);
        assert_eq!(reason(&broker.dead_letter().await), "PAYLOAD_TOO_LARGE");
    }

    // One member dies with messages in hand: the other one takes them.
    for n in 60..80 {
        assert!(broker.publish("order.paid", &format!("m-{n}"), &body(n)).await);
    }
    second.kill();
    let wanted: Vec<u64> = (0..80).collect();
    until("all have started", async || started(&first) == wanted).await;

    let shows = |line: &str| first.get("/metrics").1.lines().any(|shown| shown == line);
    let idle = async || {
        let states = ["waiting", "handling"];
        states
            .iter()
            .all(|state| shows(&format!(r#"troupe_trigger_messages_in_hand{{state="{state}"}} 0"#)))
    };
    until("nothing is in hand", idle).await;
    let rejected = r#"troupe_trigger_messages_total{outcome="rejected"} "#;
    let (_, metrics) = first.get("/metrics");
    let before = metrics.lines().find_map(|line| line.strip_prefix(rejected));
    let before: u64 = before.map_or(0, |count| count.parse().unwrap());
    let schema = json!({"total": 1, "order": {"n": "no"}}).to_string();
    let mut reasons = BTreeSet::new();
    for (id, body) in [("bad", "{"), ("missing", "{\"total\":1}"), ("schema", schema.as_str())] {
        assert!(broker.publish("order.paid", id, body).await);
        let letter = broker.dead_letter().await;
        let properties = &letter.delivery.properties;
        assert_eq!(
            (
                letter.delivery.data.as_slice(),
                properties.message_id().as_ref().unwrap().as_str()
            ),
            (body.as_bytes(), id)
        );
        reasons.insert(reason(&letter));
    }
    let expected = ["INVALID_JSON", "SCHEMA_VIOLATION", "TRIGGER_EXPRESSION_FAILED"].map(str::to_owned);
    assert_eq!(reasons, BTreeSet::from(expected));
    // The other member was gone by then; of the rest this one has had its share.
    until("all is settled and counted", async || {
        let (_, metrics) = first.get("/metrics");
        let started = r#"troupe_trigger_messages_total{outcome="started"}"#;
        let some_started = metrics.contains(started) && !metrics.contains(&format!("{started} 0\n"));
        some_started && shows(&format!("{rejected}{}", before + 3)) && idle().await
    })
    .await;

    // The next version listens elsewhere, and an archived one not at all.
    apply(&first, &shipment(&broker.exchange, "order.settled"));
    until("the old binding goes", async || {
        !broker.publish("order.paid", "m-0", &body(0)).await
    })
    .await;
    until("the new one is there", async || {
        broker.publish("order.settled", "m-80", &body(80)).await
    })
    .await;
    let wanted: Vec<u64> = (0..81).collect();
    until("it starts", async || started(&first) == wanted).await;

    // While nobody takes messages, it changes twice: the next one to do so looks back further than one version.
    first.kill();
    let silent = member_of(&bench, one.path(), "");
    until("it serves", async || everything(&silent)).await;
    for key in ["order.sent", "order.closed"] {
        apply(&silent, &shipment(&broker.exchange, key));
    }
    silent.kill();
    let first = member(&bench, one.path());
    until("it serves", async || everything(&first)).await;
    until("the oldest binding goes", async || {
        !broker.publish("order.settled", "m-0", &body(0)).await
    })
    .await;
    assert!(!broker.publish("order.sent", "m-0", &body(0)).await);
    until("the latest is there", async || {
        broker.publish("order.closed", "m-81", &body(81)).await
    })
    .await;
    let wanted: Vec<u64> = (0..82).collect();
    until("it starts", async || started(&first) == wanted).await;
    assert_eq!(first.delete("/api/v1/workflows/shipment"), 204);
    until("nothing is bound", async || {
        !broker.publish("order.closed", "m-82", &body(82)).await
    })
    .await;
    assert_eq!(started(&first), wanted);
}

fn body(n: u64) -> String {
    json!({"total": 5, "order": {"n": n}}).to_string()
}

/// A message whose payload of a start has so many bytes.
fn padded(n: u64, bytes: usize) -> String {
    let envelope = json!({"n": n, "pad": ""}).to_string().len();
    json!({"total": 5, "order": {"n": n}, "pad": "x".repeat(bytes - envelope)}).to_string()
}

//! Reads what arrives at a queue of RabbitMQ, as a consumer elsewhere would.

use std::hash::{BuildHasher, Hasher, RandomState};

use async_trait::async_trait;
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::Value;
use troupe_ports::conformance::bus::{Heard, Listener};

/// The shared broker.
pub(crate) fn broker() -> String {
    std::env::var("TROUPE_TEST_RABBITMQ").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672".to_owned())
}

/// A name that nobody else has.
pub(crate) fn unique(what: &str) -> String {
    format!("troupe-test-{what}-{:016x}", RandomState::new().build_hasher().finish())
}

pub(crate) fn table(entries: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), AMQPValue::LongString(LongString::from(*value)));
    }
    table
}

/// A channel of a client that has nothing to do with the bus.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
}

impl Client {
    pub(crate) async fn connect(url: &str) -> Self {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = super::soon("connecting", connecting).await;
        let connection = connection.expect("the RabbitMQ of the tests must run (TROUPE_TEST_RABBITMQ)");
        let channel = connection.create_channel().await.unwrap();
        Self { connection, channel }
    }

    /// A durable queue, bound.
    pub(crate) async fn queue(&self, exchange: &str, key: &str, arguments: FieldTable) -> String {
        let queue = unique("queue");
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let declared = self.channel.queue_declare(queue.as_str().into(), durable, arguments);
        declared.await.unwrap();
        self.bind(&queue, exchange, key, FieldTable::default()).await;
        queue
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str, arguments: FieldTable) {
        let options = QueueBindOptions::default();
        let bound = self
            .channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, arguments);
        bound.await.unwrap();
    }

    /// Everything that is in the queue and will come.
    pub(crate) async fn consume(&self, queue: &str) -> Listening {
        self.channel.basic_qos(1_000, BasicQosOptions::default()).await.unwrap();
        let options = BasicConsumeOptions::default();
        let consumer = self
            .channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default());
        Listening {
            consumer: consumer.await.unwrap(),
        }
    }

    pub(crate) async fn delete_queue(&self, queue: &str) {
        let deleted = self.channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
    }

    /// A topic exchange as the bus declares it.
    pub(crate) async fn declare_exchange(&self, exchange: &str) {
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let (kind, none) = (ExchangeKind::Topic, FieldTable::default());
        let declared = self.channel.exchange_declare(exchange.into(), kind, durable, none);
        declared.await.unwrap();
    }

    pub(crate) async fn delete_exchange(&self, exchange: &str) {
        let deleted = self
            .channel
            .exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        deleted.await.unwrap();
    }
}

/// A consumer that acknowledges what it has read.
pub(crate) struct Listening {
    consumer: Consumer,
}

impl Listening {
    /// The next message. Cancel-safe.
    pub(crate) async fn message(&mut self) -> Delivery {
        self.next_message().await.expect("the connection stays")
    }

    /// The same; none once the connection is closed.
    pub(crate) async fn next_message(&mut self) -> Option<Delivery> {
        let delivery = self.consumer.next().await?.ok()?;
        delivery.ack(BasicAckOptions::default()).await.ok()?;
        Some(delivery)
    }
}

/// The events that a message carries.
pub(crate) fn events_of(delivery: &Delivery) -> Vec<Value> {
    let body: Value = serde_json::from_slice(&delivery.data).unwrap();
    let kind = delivery.properties.content_type().as_ref().unwrap().as_str();
    match (kind, body) {
        ("application/cloudevents+json", event @ Value::Object(_)) => vec![event],
        ("application/cloudevents-batch+json", Value::Array(events)) if events.len() > 1 => events,
        (kind, body) => panic!("a body of {kind}: {body}"),
    }
}

pub(crate) fn heard(event: &Value) -> Heard {
    let what = event["type"].as_str().unwrap();
    let what = what.strip_prefix("troupe.").unwrap().strip_suffix(".v1").unwrap();
    Heard {
        id: event["id"].as_str().unwrap().to_owned(),
        what: what.to_owned(),
        node: event.get("subject").map(|node| node.as_str().unwrap().to_owned()),
        data: event["data"].to_string(),
    }
}

#[async_trait]
impl Listener for Listening {
    async fn next(&mut self) -> Vec<Heard> {
        let delivery = self.message().await;
        events_of(&delivery).iter().map(heard).collect()
    }
}

//! What the settings say of RabbitMQ, as the real binary does it on the shared broker.
#![allow(clippy::unwrap_used)]

mod server;
#[path = "server/services.rs"]
mod services;

use std::time::{Duration, Instant};

use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, BasicRejectOptions, ExchangeDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;
use server::Server;
use services::Deployment;

const PATIENCE: Duration = Duration::from_secs(90);

const FLOW: &str = "
id: flow
name: Flow
nodes:
  - { id: only, type: function, data: { handlerId: echo } }
edges: []
";

/// A server with the embedded store whose events go to the shared broker.
fn started(deployment: &Deployment, state: &tempfile::TempDir, settings: &[(&str, &str)]) -> Server {
    let broker = [
        ("STORE_EVENTS", deployment.rabbitmq.as_str()),
        ("STORE_PREFIX", deployment.prefix.as_str()),
    ];
    let settings = broker.iter().chain(settings);
    let settings: Vec<(String, &str)> = settings.map(|(name, value)| ((*name).to_owned(), *value)).collect();
    Server::with_settings(state.path(), &[], &settings)
}

async fn connected(deployment: &Deployment) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&deployment.rabbitmq, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Declares the exchange of the deployment, or fails where it is there with another type.
async fn declare(channel: &Channel, deployment: &Deployment, kind: ExchangeKind) {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let exchange = format!("{}.events", deployment.prefix);
    let declared = channel.exchange_declare(exchange.as_str().into(), kind, durable, FieldTable::default());
    declared.await.unwrap();
}

/// Waits for a message of a queue, which must be there.
async fn message_of(channel: &Channel, queue: &str) -> BasicGetMessage {
    let begun = Instant::now();
    loop {
        let got = channel.basic_get(queue.into(), BasicGetOptions::default());
        if let Some(message) = got.await.unwrap() {
            return message;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing comes to the queue {queue}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until `/readyz` tells this of the broker.
async fn until_told(server: &Server, holds: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let (_, body) = server.get("/readyz");
        let told: Value = serde_json::from_str(&body).unwrap();
        if holds(&told["events"]) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{told}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_exchange_gives_a_queue_of_the_settings_what_it_asks_for() {
    let (deployment, state) = (Deployment::new(), tempfile::tempdir().unwrap());
    let queues = "[{ name = 'ends', keys = ['flow.execution.completed'], dead_letter = 'ends.dead' }]";
    let settings = [("EVENTS_EXCHANGE_TYPE", "direct"), ("EVENTS_QUEUES", queues)];
    let server = started(&deployment, &state, &settings);
    until_told(&server, |events| events["status"] == "connected").await;

    let definition = state.path().join("flow.yaml");
    std::fs::write(&definition, FLOW).unwrap();
    server.line(&["apply", "-q", &definition.display().to_string()]);
    let id = server.line(&["start", "flow", "-q"]);

    let [queue, dead] = ["ends", "ends.dead"].map(|name| format!("{}.queue.{name}", deployment.prefix));
    let (_connection, channel) = connected(&deployment).await;
    let message = message_of(&channel, &queue).await;
    assert_eq!(message.delivery.routing_key.as_str(), "flow.execution.completed");
    let event: Value = serde_json::from_slice(&message.delivery.data).unwrap();
    assert!(event["source"].as_str().unwrap().ends_with(&id), "{event}");
    message.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    let rejected = message_of(&channel, &dead).await;
    assert_eq!(rejected.delivery.data, message.delivery.data);

    declare(&channel, &deployment, ExchangeKind::Direct).await;
    for queue in [queue, dead] {
        let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_declares_nothing_waits_for_who_does() {
    let (deployment, state) = (Deployment::new(), tempfile::tempdir().unwrap());
    let server = started(&deployment, &state, &[("EVENTS_DECLARE", "nothing")]);
    until_told(&server, |events| {
        events["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("no exchange"))
    })
    .await;
    let (_connection, channel) = connected(&deployment).await;
    declare(&channel, &deployment, ExchangeKind::Topic).await;
    until_told(&server, |events| events["status"] == "connected").await;
}

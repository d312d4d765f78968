//! Taking messages from RabbitMQ: the suite of event sources, then lost connections. On the shared broker.
#![allow(clippy::unwrap_used)]

#[path = "support/rabbitmq.rs"]
mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use support::consumer::{Client, broker, unique};
use support::proxy::Proxy;
use support::soon;
use tokio::sync::OnceCell;
use troupe_backends::rabbitmq::{RabbitOptions, RabbitQueue, RabbitSource, RabbitState, RabbitTopology};
use troupe_ports::conformance::source::{SourceFixture, UNSETTLED_MAX};
use troupe_ports::{EventSource, SourceError};

/// An exchange of somebody else, and a queue of the source's own bound to it.
struct Queue {
    options: RabbitOptions,
    queue: RabbitQueue,
    client: OnceCell<Arc<Client>>,
}

impl Queue {
    fn new() -> Self {
        Self::at(broker())
    }

    fn at(url: String) -> Self {
        let options = RabbitOptions {
            exchange: unique("foreign"),
            topology: RabbitTopology::QueuesOnly,
            connect_timeout: Duration::from_secs(1),
            confirm_timeout: Duration::from_secs(1),
            retry_first: Duration::from_millis(20),
            retry_max: Duration::from_millis(100),
            ..RabbitOptions::new(url)
        };
        let queue = RabbitQueue {
            name: unique("queue"),
            binding_keys: vec!["shop.*.paid".to_owned()],
            dead_letter: Some(unique("dead")),
            ..RabbitQueue::default()
        };
        Self {
            options,
            queue,
            client: OnceCell::new(),
        }
    }

    /// A client, once the exchange is there: not durable, as only somebody else's may be.
    async fn client(&self) -> &Arc<Client> {
        let connect = async || {
            let client = Client::connect(&broker()).await;
            client
                .channel
                .confirm_select(ConfirmSelectOptions::default())
                .await
                .unwrap();
            let (exchange, kind) = (self.options.exchange.as_str().into(), lapin::ExchangeKind::Topic);
            let options = ExchangeDeclareOptions::default();
            let declared = client
                .channel
                .exchange_declare(exchange, kind, options, FieldTable::default());
            declared.await.unwrap();
            Arc::new(client)
        };
        self.client.get_or_init(connect).await
    }

    async fn start(&self) -> RabbitSource {
        self.client().await;
        let prefetch = u16::try_from(UNSETTLED_MAX).unwrap();
        let source = RabbitSource::start(self.options.clone(), self.queue.clone(), prefetch).unwrap();
        let connected = async {
            while source.state() != RabbitState::Connected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("connecting", connected).await;
        source
    }

    async fn delete(&self) {
        let client = self.client().await;
        client.delete_queue(&self.queue.name).await;
        client.delete_queue(self.queue.dead_letter.as_ref().unwrap()).await;
        client.delete_exchange(&self.options.exchange).await;
    }
}

#[async_trait]
impl SourceFixture for Queue {
    async fn open(&self) -> Arc<dyn EventSource> {
        Arc::new(self.start().await)
    }

    async fn send(&self, id: &str) {
        let properties = BasicProperties::default()
            .with_message_id(id.into())
            .with_content_type("text/plain".into())
            .with_headers(support::consumer::table(&[("origin", "test")]));
        let (exchange, options) = (self.options.exchange.as_str().into(), BasicPublishOptions::default());
        let channel = &self.client().await.channel;
        let confirm = channel.basic_publish(exchange, "shop.order.paid".into(), options, id.as_bytes(), properties);
        assert!(confirm.await.unwrap().await.unwrap().is_ack());
    }

    async fn set_aside(&self, count: usize) -> Vec<(String, String)> {
        let dead = self.queue.dead_letter.as_ref().unwrap();
        let mut listening = self.client().await.consume(dead).await;
        let mut found = Vec::new();
        for _ in 0..count {
            let message = soon("what was set aside", listening.message()).await;
            let headers = message.properties.headers().clone().unwrap();
            let text = |name: &str| match &headers.inner()[name] {
                AMQPValue::LongString(text) => text.to_string(),
                other => panic!("{other:?}"),
            };
            assert_eq!(text("origin"), "test", "its own headers stay");
            let id = message.properties.message_id().as_ref().unwrap().to_string();
            found.push((id, text("x-troupe-reason")));
        }
        found
    }
}

/// A test that fails leaves its queues behind; one that succeeds does not.
impl Drop for Queue {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.delete()));
        }
    }
}

troupe_ports::event_source_conformance!(Queue::new());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_of_a_lost_connection_are_stale_and_its_messages_come_again() {
    let url = broker();
    let (credentials, target) = url.strip_prefix("amqp://").unwrap().rsplit_once('@').unwrap();
    let proxy = Proxy::to(target).await;
    let queue = Queue::at(format!("amqp://{credentials}@{}", proxy.address));
    let source = queue.start().await;
    queue.send("kept").await;
    queue.send("held").await;
    queue.send("unread").await;
    let kept = soon("a message", source.next()).await.unwrap();
    source.accept(kept.receipt).await.unwrap();
    let held = soon("a message", source.next()).await.unwrap();
    assert_eq!(
        (held.key.as_str(), held.media_type.as_deref()),
        ("shop.order.paid", Some("text/plain"))
    );
    assert_eq!(held.headers, [("origin".to_owned(), "test".to_owned())]);

    assert!(!source.is_stale(held.receipt));
    // A reject has to wait for the broker: it is what notices first.
    proxy.fall_silent();
    let error = soon("the reject", source.reject(held.receipt, "why"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SourceError::Unavailable(why) if why.contains("no answer")),
        "{error}"
    );
    let error = soon("the accept", source.accept(held.receipt)).await.unwrap_err();
    assert!(matches!(error, SourceError::Stale), "{error}");
    assert!(source.is_stale(held.receipt));
    proxy.pass_again();
    // The reject may have arrived meanwhile, and been confirmed to nobody: then it is set aside and, once the old connection is
    // found dead, comes again as well. It is never lost.
    let mut missing = HashSet::from(["held", "unread"].map(str::to_owned));
    while !missing.is_empty() {
        let again = soon("the message", source.next()).await.unwrap();
        assert_ne!(again.receipt.connection, held.receipt.connection, "{again:?}");
        assert!(again.again);
        missing.remove(again.id.as_ref().unwrap());
        source.accept(again.receipt).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_is_declared_again() {
    let queue = Queue::new();
    let source = queue.start().await;
    queue.send("one").await;
    let one = soon("a message", source.next()).await.unwrap();
    source.accept(one.receipt).await.unwrap();
    queue.client().await.delete_queue(&queue.queue.name).await;
    let next = tokio::spawn(async move { source.next().await.unwrap().id });
    // What is sent while there is no queue goes nowhere.
    let sent = async {
        while !next.is_finished() {
            queue.send("two").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("a message over the new queue", sent).await;
    assert_eq!(next.await.unwrap().as_deref(), Some("two"));
}

//! A queue to take messages from, for the suite of event sources.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::OnceCell;
use troupe_backends::rabbitmq::{RabbitOptions, RabbitQueue, RabbitSource, RabbitState, RabbitTopology};
use troupe_ports::EventSource;
use troupe_ports::conformance::source::{SourceFixture, UNSETTLED_MAX};

use crate::support::consumer::{Client, broker, table, unique};
use crate::support::soon;

/// An exchange of somebody else, and a queue of the source's own bound to it.
pub(crate) struct Queue {
    pub(crate) options: RabbitOptions,
    pub(crate) queue: RabbitQueue,
    /// Where whoever sends connects, without TLS.
    pub(crate) beside: String,
    client: OnceCell<Arc<Client>>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self::at(broker())
    }

    pub(crate) fn at(url: String) -> Self {
        let options = RabbitOptions {
            exchange: unique("foreign"),
            topology: RabbitTopology::QueuesOnly,
            // Above what a busy broker takes.
            connect_timeout: Duration::from_secs(5),
            confirm_timeout: Duration::from_secs(20),
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
            beside: broker(),
            client: OnceCell::new(),
        }
    }

    /// A client, once the exchange is there: not durable, as only somebody else's may be.
    pub(crate) async fn client(&self) -> &Arc<Client> {
        let connect = async || {
            let client = Client::connect(&self.beside).await;
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

    pub(crate) async fn start(&self) -> RabbitSource {
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
            .with_headers(table(&[("origin", "test")]));
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

//! The bus on RabbitMQ against the suite of event buses, on the shared broker.
#![allow(clippy::unwrap_used)]

#[path = "support/rabbitmq.rs"]
mod support;

use std::sync::Arc;

use async_trait::async_trait;
use lapin::types::FieldTable;
use support::consumer::{Client, broker, unique};
use tokio::sync::OnceCell;
use troupe_backends::rabbitmq::{RabbitBatch, RabbitBus, RabbitExchange, RabbitOptions, RabbitState, RabbitUnroutable};
use troupe_ports::EventBus;
use troupe_ports::conformance::bus::{BusFixture, Listener};

/// An exchange of its own, deleted in the end with everything bound to it.
struct Exchange {
    options: RabbitOptions,
    bus: OnceCell<Arc<RabbitBus>>,
    client: OnceCell<Arc<Client>>,
}

impl Exchange {
    fn new(change: impl FnOnce(&mut RabbitOptions)) -> Self {
        let mut options = RabbitOptions::new(broker());
        options.exchange = unique("events");
        change(&mut options);
        Self {
            options,
            bus: OnceCell::new(),
            client: OnceCell::new(),
        }
    }

    async fn bus(&self) -> &Arc<RabbitBus> {
        let start = async || {
            let bus = Arc::new(RabbitBus::start(self.options.clone()).unwrap());
            let state = bus.until(|state| !matches!(state, RabbitState::Connecting { failures: 0, .. }));
            assert_eq!(state.await, RabbitState::Connected);
            bus
        };
        self.bus.get_or_init(start).await
    }
}

#[async_trait]
impl BusFixture for Exchange {
    async fn open(&self) -> Arc<dyn EventBus> {
        self.bus().await.clone()
    }

    async fn listen(&self) -> Box<dyn Listener> {
        self.bus().await;
        let connect = async || Arc::new(Client::connect(&self.options.url).await);
        let client = self.client.get_or_init(connect).await;
        // It goes with the connection.
        let exclusive = lapin::options::QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let queue = unique("listener");
        let declared = client
            .channel
            .queue_declare(queue.as_str().into(), exclusive, FieldTable::default());
        declared.await.unwrap();
        client
            .bind(&queue, &self.options.exchange, "#", FieldTable::default())
            .await;
        Box::new(client.consume(&queue).await)
    }
}

/// A test that fails leaves its exchange behind; one that succeeds does not.
impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(client) = self.client.get().cloned() {
            let exchange = self.options.exchange.clone();
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async move { client.delete_exchange(&exchange).await });
            });
        }
    }
}

mod topic {
    use super::Exchange;
    troupe_ports::event_bus_conformance!(Exchange::new(|_| {}));
}

mod batched {
    use super::{Exchange, RabbitBatch};
    troupe_ports::event_bus_conformance!(Exchange::new(|options| options.batch = Some(RabbitBatch::default())));
}

mod fanout {
    use super::{Exchange, RabbitExchange};
    troupe_ports::event_bus_conformance!(Exchange::new(|options| options.kind = RabbitExchange::Fanout));
}

/// Whose bindings match everything, as they ask for nothing.
mod headers {
    use super::{Exchange, RabbitExchange};
    troupe_ports::event_bus_conformance!(Exchange::new(|options| options.kind = RabbitExchange::Headers));
}

/// Answers are held back until nothing is in flight.
mod strict {
    use super::{Exchange, RabbitUnroutable};
    troupe_ports::event_bus_conformance!(Exchange::new(|options| options.unroutable = RabbitUnroutable::Fail));
}

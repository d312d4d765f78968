//! The bus on RabbitMQ against the suite of event buses, on the shared broker; over TLS, that of event sources too.
#![allow(clippy::unwrap_used)]

#[path = "support/rabbitmq/queue.rs"]
mod queue;
#[path = "support/rabbitmq.rs"]
mod support;

use std::sync::Arc;

use async_trait::async_trait;
use lapin::types::FieldTable;
use queue::Queue;
use support::broker::Broker;
use support::consumer::{Client, broker, unique};
use tokio::sync::OnceCell;
use troupe_backends::rabbitmq::{RabbitBatch, RabbitBus, RabbitExchange, RabbitOptions, RabbitState, RabbitUnroutable};
use troupe_ports::EventBus;
use troupe_ports::conformance::bus::{BusFixture, Listener};
use troupe_ports::conformance::{Clause, run_all};

/// An exchange of its own, deleted in the end with everything bound to it.
struct Exchange {
    options: RabbitOptions,
    /// Where whoever listens connects, without TLS.
    beside: String,
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
            beside: broker(),
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

/// Keys that bring a queue all that the suite publishes.
fn everything(kind: RabbitExchange) -> Vec<String> {
    match kind {
        RabbitExchange::Topic | RabbitExchange::Fanout | RabbitExchange::Headers => vec!["#".to_owned()],
        // It compares whole keys, so each of them is given. A long workflow is cut, and ends in the hash of its id.
        RabbitExchange::Direct => {
            let cut = format!("{}~7ec0862201b304d5", "w".repeat(183));
            let workflows = ["orders", "a%2Eb%2Ac%23d %7E%25/é", cut.as_str()];
            let of_workflow = |workflow: &str| {
                ["execution.created", "node.http.started", "node.http.completed"]
                    .map(|event| format!("{workflow}.{event}"))
            };
            let of_entity = |entity: &str| {
                ["paused", "resumed", "overridden", "restored"].map(|verb| format!("system.{entity}.{verb}"))
            };
            let of_system = ["engine", "workflow", "breaker"].into_iter().flat_map(of_entity);
            workflows.into_iter().flat_map(of_workflow).chain(of_system).collect()
        }
    }
}

#[async_trait]
impl BusFixture for Exchange {
    async fn open(&self) -> Arc<dyn EventBus> {
        self.bus().await.clone()
    }

    async fn listen(&self) -> Box<dyn Listener> {
        self.bus().await;
        let connect = async || Arc::new(Client::connect(&self.beside).await);
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
        for key in everything(self.options.kind) {
            client
                .bind(&queue, &self.options.exchange, &key, FieldTable::default())
                .await;
        }
        Box::new(client.consume(&queue).await)
    }
}

/// A test that fails leaves its exchange behind; one that succeeds does not.
impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(client) = self.client.get().cloned() {
            let exchange = self.options.exchange.clone();
            tokio::task::block_in_place(|| {
                let deleting = support::soon("deleting the exchange", client.delete_exchange(&exchange));
                tokio::runtime::Handle::current().block_on(deleting);
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

/// Whose bindings name whole keys.
mod direct {
    use super::{Exchange, RabbitExchange};
    troupe_ports::event_bus_conformance!(Exchange::new(|options| options.kind = RabbitExchange::Direct));
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

/// On a broker of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_suites_pass_over_tls() {
    let own = Broker::start().await;
    let buses = troupe_ports::event_bus_conformance!([troupe_ports::conformance_clauses] Exchange);
    run_all(&buses, 1, async |clause: &Clause<Exchange>| {
        let mut exchange = Exchange::new(|options| {
            options.url = own.tls_url("localhost");
            options.tls.ca_file = Some(own.ca_file());
        });
        exchange.beside = own.url();
        clause.run(&exchange).await;
    })
    .await;
    let sources = troupe_ports::event_source_conformance!([troupe_ports::conformance_clauses] Queue);
    run_all(&sources, 1, async |clause: &Clause<Queue>| {
        let mut queue = Queue::at(own.tls_url("localhost"));
        queue.options.tls.ca_file = Some(own.ca_file());
        queue.beside = own.url();
        clause.run(&queue).await;
    })
    .await;
}

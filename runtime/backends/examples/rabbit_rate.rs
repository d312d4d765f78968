//! How many events a second reach a quorum queue of RabbitMQ: `rabbit_rate URL [EVENTS] [CALLERS] [EVENTS_PER_CALL]`.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use troupe_backends::rabbitmq::{RabbitBatch, RabbitBus, RabbitOptions, RabbitQueue, RabbitState};
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, Outward};
use troupe_core::{ExecutionId, Json, NodeKey, Seq, ShardId, Timestamp};
use troupe_ports::EventBus;

const VERBS: [Verb; 3] = [Verb::NodeScheduled, Verb::NodeStarted, Verb::NodeCompleted];

/// One step of so many executions.
fn step(caller: u64, executions: u64, seq: u64) -> Vec<LifecycleEvent> {
    let event = |execution: u64| LifecycleEvent {
        execution: ExecutionId::fresh(ShardId(0), Timestamp(0), caller << 32 | execution),
        workflow: "orders".into(),
        seq: Seq(seq),
        part: 0,
        at: Timestamp(1_790_000_000_000),
        verb: VERBS[seq as usize % VERBS.len()],
        node: Some((NodeKey::from("pay"), "http")),
        compensates: false,
        data: Json::from_trusted(r#"{"attempt":1,"output":{"ok":true,"amount":1250}}"#),
        outward: Some(Outward::default()),
    };
    (0..executions).map(event).collect()
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("the URL of a broker");
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().unwrap());
    let (events, callers, per_call) = (number(50_000), number(8), number(50));
    for batch in [None, Some(RabbitBatch::default())] {
        let name = format!("troupe-rate-{}", std::process::id());
        let bus = RabbitBus::start(RabbitOptions {
            exchange: name.clone(),
            queues: vec![RabbitQueue {
                name: name.clone(),
                binding_keys: vec!["#".to_owned()],
                ..RabbitQueue::default()
            }],
            batch,
            ..RabbitOptions::new(&url)
        })
        .unwrap();
        bus.until(|state| *state == RabbitState::Connected).await;
        let begun = Instant::now();
        let publishing = (0..callers).map(|caller| {
            let bus = &bus;
            async move {
                for seq in 0..events / callers / per_call {
                    bus.publish(&step(caller, per_call, seq)).await.unwrap();
                }
            }
        });
        futures::future::join_all(publishing).await;
        let (took, counters) = (begun.elapsed().as_secs_f64(), bus.counters());
        println!(
            "{}: {} events in {} messages, {took:.2} s, {:.0} events/s",
            if batch.is_some() { "batched" } else { "unbatched" },
            counters.events,
            counters.messages,
            counters.events as f64 / took,
        );
        drop(bus);
        let client = Connection::connect(&url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = client.create_channel().await.unwrap();
        let queue = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default());
        queue.await.unwrap();
        let exchange = channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default());
        exchange.await.unwrap();
    }
}

//! The bus on a RabbitMQ of its own that is killed, short of memory, or asks for TLS.
#![allow(clippy::unwrap_used)]

#[path = "support/rabbitmq.rs"]
mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapin::types::FieldTable;
use support::broker::Broker;
use support::consumer::{Client, events_of, unique};
use support::events::{event_id, events, id};
use support::{connected, publish_all, soon};
use troupe_backends::rabbitmq::{RabbitBatch, RabbitBus, RabbitOptions, RabbitQueue, RabbitState};
use troupe_ports::EventBus;

/// Executions whose events are published at once, each in order.
const EXECUTIONS: u64 = 4;
/// Events of each.
const EVENTS: u64 = 3_000;

/// An exchange with a quorum queue that outlives the broker.
fn kept(broker: &Broker, batch: Option<RabbitBatch>) -> RabbitOptions {
    RabbitOptions {
        exchange: unique("events"),
        queues: vec![RabbitQueue {
            name: unique("queue"),
            binding_keys: vec!["#".to_owned()],
            ..RabbitQueue::default()
        }],
        batch,
        wait_timeout: Duration::from_millis(500),
        retry_max: Duration::from_secs(1),
        ..RabbitOptions::new(broker.url())
    }
}

/// Publishes the history of each execution in calls of ten, as a sink a shard does. Returns the number of failed calls.
async fn publish_histories(bus: &Arc<RabbitBus>, confirmed: &Arc<AtomicUsize>) -> usize {
    let publishers = (0..EXECUTIONS).map(|execution| {
        let (bus, confirmed) = (Arc::clone(bus), Arc::clone(confirmed));
        tokio::spawn(async move {
            let mut failed = 0;
            for from in (0..EVENTS).step_by(10) {
                failed += publish_all(&*bus, &events(execution, from, from + 10)).await;
                confirmed.fetch_add(10, Ordering::Relaxed);
            }
            failed
        })
    });
    let failed = futures::future::join_all(publishers).await;
    failed.into_iter().map(Result::unwrap).sum()
}

/// Everything in the queue, each event at its first time; and how many came again.
async fn drain(broker: &Broker, client: &Client, queue: &str) -> (HashMap<String, Vec<u64>>, usize) {
    let mut listening = client.consume(queue).await;
    let (mut seen, mut again) = (HashSet::new(), 0);
    let mut first: HashMap<String, Vec<u64>> = HashMap::new();
    let all = usize::try_from(EXECUTIONS * EVENTS).unwrap();
    while seen.len() < all {
        let message = tokio::time::timeout(support::PATIENCE, listening.message()).await;
        let message =
            message.unwrap_or_else(|_| panic!("{} of {all} events in the queue\n{}", seen.len(), broker.log()));
        for event in events_of(&message) {
            let event = event["id"].as_str().unwrap().to_owned();
            if seen.insert(event.clone()) {
                let (execution, place) = event.split_once(':').unwrap();
                let seq = place.strip_suffix(".0").unwrap().parse().unwrap();
                first.entry(execution.to_owned()).or_default().push(seq);
            } else {
                again += 1;
            }
        }
    }
    (first, again)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_loses_nothing_that_was_confirmed() {
    let mut broker = Broker::start().await;
    let batches = RabbitBatch {
        in_flight_max: 8,
        ..RabbitBatch::default()
    };
    for batch in [None, Some(batches)] {
        let options = kept(&broker, batch);
        let bus = Arc::new(connected(options.clone()).await);
        broker.settle().await;
        let confirmed = Arc::new(AtomicUsize::new(0));
        let publishing = tokio::spawn({
            let (bus, confirmed) = (Arc::clone(&bus), Arc::clone(&confirmed));
            async move { publish_histories(&bus, &confirmed).await }
        });
        let total = usize::try_from(EXECUTIONS * EVENTS).unwrap();
        while confirmed.load(Ordering::Relaxed) < total / 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        broker.kill();
        let at_kill = confirmed.load(Ordering::Relaxed);
        assert!(at_kill < total, "it was killed in the middle");
        broker.launch().await;
        let failed = soon("publishing the rest", publishing).await.unwrap();
        assert!(failed > 0, "calls fail while there is no broker");
        let counters = bus.counters();
        assert!(counters.connections >= 2, "{counters:?}");
        assert_eq!(batch.is_some(), counters.messages < counters.events, "{counters:?}");
        let client = Client::connect(&broker.url()).await;
        let (first, again) = drain(&broker, &client, &options.queues[0].name).await;
        for execution in 0..EXECUTIONS {
            let seqs = &first[&id(execution).to_string()];
            assert_eq!(
                *seqs,
                (0..EVENTS).collect::<Vec<_>>(),
                "in order, each at its first time"
            );
        }
        println!(
            "{at_kill} of {total} confirmed at the kill, {failed} calls failed, {again} events came again; {counters:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_alarms_block_for_a_while_and_tls_asks_for_its_authority() {
    let broker = Broker::start().await;
    alarm(&broker).await;
    tls(&broker).await;
}

async fn alarm(broker: &Broker) {
    let options = kept(broker, None);
    let bus = connected(options.clone()).await;
    bus.publish(&events(1, 0, 10)).await.unwrap();
    broker.control(&["set_vm_memory_high_watermark", "0"]).await;
    // RabbitMQ says so to whoever publishes.
    let begun = Instant::now();
    let blocked = async {
        loop {
            match bus.publish(&events(1, 10, 20)).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => return error,
            }
        }
    };
    let error = soon("the alarm", blocked).await;
    assert!(error.to_string().contains("blocked: low on memory"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(matches!(bus.state(), RabbitState::Blocked { .. }), "{:?}", bus.state());
    let begun = Instant::now();
    bus.publish(&events(1, 20, 30)).await.unwrap_err();
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(450) && took < Duration::from_secs(5),
        "{took:?}"
    );

    broker.control(&["set_vm_memory_high_watermark", "0.6"]).await;
    soon(
        "the end of the alarm",
        bus.until(|state| *state == RabbitState::Connected),
    )
    .await;
    publish_all(&bus, &events(1, 10, 30)).await;
    assert_eq!(bus.counters().connections, 1, "a blocked connection is kept");
    let client = Client::connect(&broker.url()).await;
    let mut listening = client.consume(&options.queues[0].name).await;
    let (mut first, mut seen) = (Vec::new(), HashSet::new());
    while first.len() < 30 {
        let message = soon("an event", listening.message()).await;
        for event in events_of(&message) {
            let event = event["id"].as_str().unwrap().to_owned();
            if seen.insert(event.clone()) {
                first.push(event);
            }
        }
    }
    assert_eq!(first, (0..30).map(|seq| event_id(1, seq)).collect::<Vec<_>>());
}

async fn tls(broker: &Broker) {
    let mut options = kept(broker, None);
    options.url = broker.tls_url("localhost");
    let refused = async |options: &RabbitOptions| {
        let bus = RabbitBus::start(options.clone()).unwrap();
        let tried = |state: &RabbitState| matches!(state, RabbitState::Connecting { failures: 1.., .. });
        let state = soon("the first attempt", bus.until(tried)).await;
        let RabbitState::Connecting { reason, .. } = state else {
            panic!("{state:?}")
        };
        reason
    };
    let reason = refused(&options).await;
    assert!(reason.contains("UnknownIssuer"), "{reason}");
    options.tls.ca_file = Some(broker.ca_file());
    let by_address = RabbitOptions {
        url: broker.tls_url("127.0.0.1"),
        ..options.clone()
    };
    let reason = refused(&by_address).await;
    assert!(reason.contains("not valid for name"), "{reason}");
    let bus = connected(options.clone()).await;
    bus.publish(&events(2, 0, 100)).await.unwrap();
    let client = Client::connect(&broker.url()).await;
    let queue = client.queue(&options.exchange, "#", FieldTable::default()).await;
    client.delete_queue(&queue).await;
    let message = soon("the event", client.consume(&options.queues[0].name).await.message()).await;
    assert_eq!(events_of(&message)[0]["id"], event_id(2, 0));
}

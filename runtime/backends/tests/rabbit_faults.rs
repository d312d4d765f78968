//! The bus on RabbitMQ while the network and the topology fail. On the shared broker.
#![allow(clippy::unwrap_used)]

#[path = "support/rabbitmq.rs"]
mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lapin::types::FieldTable;
use support::consumer::{Client, broker, events_of, unique};
use support::events::{event_id, events};
use support::proxy::Proxy;
use support::{connected, publish_all, soon};
use troupe_backends::rabbitmq::{RabbitBatch, RabbitBus, RabbitOptions, RabbitQueue, RabbitState};
use troupe_ports::EventBus;

fn options(url: String) -> RabbitOptions {
    RabbitOptions {
        exchange: unique("events"),
        // Above what a busy broker takes.
        connect_timeout: Duration::from_secs(5),
        confirm_timeout: Duration::from_secs(30),
        wait_timeout: Duration::from_millis(600),
        retry_first: Duration::from_millis(20),
        retry_max: Duration::from_millis(100),
        ..RabbitOptions::new(url)
    }
}

/// Threads of the AMQP client in this process: one a connection.
fn client_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim() == "lapin-io-loop").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_fails_calls_in_time_and_is_survived() {
    let url = broker();
    let (credentials, target) = url.strip_prefix("amqp://").unwrap().rsplit_once('@').unwrap();
    let proxy = Proxy::to(target).await;
    let options = RabbitOptions {
        connect_timeout: Duration::from_secs(1),
        confirm_timeout: Duration::from_secs(3),
        ..options(format!("amqp://{credentials}@{}", proxy.address))
    };
    let bus = connected(options.clone()).await;
    let client = Client::connect(&url).await;
    let queue = client.queue(&options.exchange, "#", FieldTable::default()).await;
    let mut listening = client.consume(&queue).await;
    bus.publish(&events(1, 0, 5)).await.unwrap();

    proxy.fall_silent();
    let begun = Instant::now();
    let error = bus.publish(&events(1, 5, 10)).await.unwrap_err();
    assert!(error.to_string().contains("no confirm within"), "{error}");
    let error = bus.publish(&events(1, 5, 10)).await.unwrap_err();
    assert!(error.to_string().contains("not connected"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let tried = |state: &RabbitState| matches!(state, RabbitState::Connecting { failures: 8.., .. });
    soon("eight attempts", bus.until(tried)).await;
    // The test's own client has one, a connection that is being given up another.
    let given_up = async {
        while client_threads() > 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("giving up what never answers", given_up).await;

    proxy.pass_again();
    publish_all(&bus, &events(1, 5, 10)).await;
    let mut missing: HashSet<_> = (0..10).map(|seq| event_id(1, seq)).collect();
    let heard = async {
        while !missing.is_empty() {
            for event in events_of(&listening.message().await) {
                missing.remove(event["id"].as_str().unwrap());
            }
        }
    };
    soon("all events", heard).await;
    drop(bus);
    client.delete_queue(&queue).await;
    client.delete_exchange(&options.exchange).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_deleted_meanwhile_is_declared_again() {
    let options = options(broker());
    let bus = connected(options.clone()).await;
    let client = Client::connect(&broker()).await;
    bus.publish(&events(1, 0, 5)).await.unwrap();
    client.delete_exchange(&options.exchange).await;
    let error = bus.publish(&events(1, 5, 10)).await.unwrap_err();
    assert!(error.to_string().contains("NOT_FOUND"), "{error}");
    publish_all(&bus, &events(1, 5, 10)).await;
    assert!(bus.counters().connections >= 2);
    let queue = client.queue(&options.exchange, "#", FieldTable::default()).await;
    bus.publish(&events(1, 10, 11)).await.unwrap();
    let message = soon("the event", client.consume(&queue).await.message()).await;
    assert_eq!(events_of(&message)[0]["id"], event_id(1, 10));
    drop(bus);
    client.delete_queue(&queue).await;
    client.delete_exchange(&options.exchange).await;
}

/// Another member declares a deleted exchange anew and has not bound the queue yet: what is published then is heard by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_though_the_bus_owns_a_queue_for_it_is_published_again() {
    for (key, batch) in [
        ("#", None),
        ("#", Some(RabbitBatch::default())),
        ("orders.node.*.scheduled", None),
    ] {
        let queue = RabbitQueue {
            name: unique("queue"),
            binding_keys: vec![key.to_owned()],
            ..RabbitQueue::default()
        };
        let options = RabbitOptions {
            queues: vec![queue.clone()],
            batch,
            ..options(broker())
        };
        let bus = connected(options.clone()).await;
        let client = Client::connect(&broker()).await;
        bus.publish(&events(1, 0, 30)).await.unwrap();
        assert_eq!(
            bus.counters().connections,
            1,
            "what no queue of its own takes may come back"
        );
        client.delete_exchange(&options.exchange).await;
        client.declare_exchange(&options.exchange).await;
        let errors = publish_all(&bus, &events(1, 30, 60)).await;
        assert!(errors > 0, "nothing is confirmed that no queue has");
        assert!(bus.counters().connections >= 2);

        let mut listening = client.consume(&queue.name).await;
        let wanted = (0..60).filter(|seq| key == "#" || seq % 3 == 0);
        let mut missing: HashSet<_> = wanted.map(|seq| event_id(1, seq)).collect();
        let heard = async {
            while !missing.is_empty() {
                for event in events_of(&listening.message().await) {
                    missing.remove(event["id"].as_str().unwrap());
                }
            }
        };
        soon("all events", heard).await;
        drop(bus);
        client.delete_queue(&queue.name).await;
        client.delete_exchange(&options.exchange).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_calls_fail_after_the_wait_and_succeed_once_there_is_one() {
    let url = broker();
    let (credentials, target) = url.strip_prefix("amqp://").unwrap().rsplit_once('@').unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = free.local_addr().unwrap();
    drop(free);
    let bus = RabbitBus::start(options(format!("amqp://{credentials}@{nowhere}"))).unwrap();
    let begun = Instant::now();
    let error = bus.publish(&events(1, 0, 1)).await.unwrap_err();
    assert!(
        begun.elapsed() >= Duration::from_millis(550),
        "it waits for a connection"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "and not for long");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(error.confirmed(), 0);

    let proxy = Proxy::to(target).await;
    proxy.fall_silent();
    let options = options(format!("amqp://{credentials}@{}", proxy.address));
    let bus = RabbitBus::start(options.clone()).unwrap();
    let wrong = bus.publish(&events(1, 0, 1)).await;
    assert!(wrong.is_err());
    proxy.pass_again();
    publish_all(&bus, &events(1, 0, 1)).await;
    drop(bus);
    Client::connect(&url).await.delete_exchange(&options.exchange).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_passwords_are_reported() {
    let url = broker();
    let (_, target) = url.strip_prefix("amqp://").unwrap().rsplit_once('@').unwrap();
    let mut options = options(format!("amqp://guest:wrong@{target}"));
    options.connect_timeout = Duration::from_secs(10);
    let bus = RabbitBus::start(options).unwrap();
    let tried = |state: &RabbitState| matches!(state, RabbitState::Connecting { failures: 1.., .. });
    let state = soon("the first attempt", bus.until(tried)).await;
    let RabbitState::Connecting { reason, .. } = state else {
        panic!("{state:?}")
    };
    assert!(
        reason.contains("ACCESS_REFUSED") && !reason.contains("wrong"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_bus_publishes_what_it_took_and_hangs_up() {
    let options = options(broker());
    let client = Client::connect(&broker()).await;
    let bus = connected(options.clone()).await;
    let queue = client.queue(&options.exchange, "#", FieldTable::default()).await;
    let mut listening = client.consume(&queue).await;
    let threads = client_threads();
    let bus = std::sync::Arc::new(bus);
    let publishing = tokio::spawn({
        let bus = std::sync::Arc::clone(&bus);
        async move { bus.publish(&events(1, 0, 500)).await }
    });
    drop(bus);
    soon("the answer", publishing).await.unwrap().unwrap();
    for _ in 0..500 {
        soon("an event", listening.message()).await;
    }
    let hung_up = async {
        while client_threads() >= threads {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("hanging up", hung_up).await;
    client.delete_queue(&queue).await;
    client.delete_exchange(&options.exchange).await;
}

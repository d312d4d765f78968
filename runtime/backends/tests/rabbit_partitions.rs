//! Events shared among queues by execution. On a RabbitMQ of the test's own: the plugin may be missing elsewhere.
#![allow(clippy::unwrap_used)]

#[path = "support/rabbitmq.rs"]
mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::message::Delivery;
use support::broker::Broker;
use support::consumer::{Client, events_of, heard, unique};
use support::events::{event_id, events, id};
use support::proxy::Proxy;
use support::{connected, publish_all, soon};
use tokio::sync::{Mutex, OnceCell, mpsc};
use troupe_backends::rabbitmq::{RabbitBatch, RabbitBus, RabbitOptions, RabbitPartitions, RabbitState};
use troupe_core::definition::{EventExchange, ExchangeType};
use troupe_core::lifecycle::Outward;
use troupe_ports::EventBus;
use troupe_ports::conformance::bus::{self, BusFixture, Heard, Listener};

const PLUGIN: &str = "rabbitmq_consistent_hash_exchange";
const ENABLED: &str = "[rabbitmq_consistent_hash_exchange].";
const EXECUTIONS: u64 = 80;
const EVENTS: u64 = 60;

fn options(url: String, count: u16, batch: Option<RabbitBatch>) -> RabbitOptions {
    RabbitOptions {
        exchange: unique("events"),
        partitions: Some(RabbitPartitions {
            name: unique("partitions"),
            count,
        }),
        batch,
        connect_timeout: Duration::from_secs(5),
        confirm_timeout: Duration::from_secs(2),
        wait_timeout: Duration::from_millis(500),
        retry_first: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        ..RabbitOptions::new(url)
    }
}

fn queues(options: &RabbitOptions) -> Vec<String> {
    let partitions = options.partitions.as_ref().unwrap();
    let (name, count) = (&partitions.name, partitions.count);
    (0..count).map(|number| format!("{name}.{count}.{number}")).collect()
}

/// What comes to a queue, with the queue's number.
type Arrivals = mpsc::UnboundedReceiver<(usize, Delivery)>;

/// A consumer a queue, which acknowledges what it has read.
async fn consume(url: &str, queues: &[String]) -> (Vec<Client>, Arrivals) {
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let mut clients = Vec::new();
    for (number, queue) in queues.iter().enumerate() {
        let client = Client::connect(url).await;
        let (mut listening, arrived) = (client.consume(queue).await, arrived.clone());
        tokio::spawn(async move {
            // It ends with its connection, when the test does.
            while let Some(message) = listening.next_message().await {
                if arrived.send((number, message)).is_err() {
                    return;
                }
            }
        });
        clients.push(client);
    }
    (clients, arrivals)
}

/// Which queue each execution is in, and its events in the order of their first arrival.
#[derive(Default)]
struct Seen {
    queues: HashMap<String, usize>,
    first: HashMap<String, Vec<String>>,
    ids: HashSet<String>,
}

impl Seen {
    /// Every event of an execution, also one that comes again, is in the queue of the others.
    fn take(&mut self, queue: usize, message: &Delivery) {
        for event in events_of(message) {
            let event = event["id"].as_str().unwrap().to_owned();
            let execution = event.split_once(':').unwrap().0.to_owned();
            let its = *self.queues.entry(execution.clone()).or_insert(queue);
            assert_eq!(its, queue, "{event} is in two queues");
            if self.ids.insert(event.clone()) {
                self.first.entry(execution).or_default().push(event);
            }
        }
    }

    async fn until(&mut self, arrivals: &mut Arrivals, events: u64) {
        while (self.ids.len() as u64) < events {
            let (queue, message) = soon("an event", arrivals.recv()).await.unwrap();
            self.take(queue, &message);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_plugin_events_wait_and_everybody_is_told_how_to_enable_it() {
    let broker = Broker::start().await;
    let options = options(broker.url(), 3, None);
    let bus = RabbitBus::start(options.clone()).unwrap();
    let tried = |state: &RabbitState| matches!(state, RabbitState::Connecting { failures: 2.., .. });
    let state = soon("two attempts", bus.until(tried)).await;
    let RabbitState::Connecting { reason, .. } = state else {
        panic!("{state:?}")
    };
    assert!(reason.contains("EVENT_PARTITIONS_UNAVAILABLE"), "{reason}");
    assert!(reason.contains("rabbitmq-plugins enable"), "{reason}");
    let error = bus.publish(&events(1, 0, 5)).await.unwrap_err();
    assert!(error.to_string().contains("EVENT_PARTITIONS_UNAVAILABLE"), "{error}");
    assert_eq!(error.confirmed(), 0);
    // Without partitions the same broker takes events.
    let plain = connected(RabbitOptions {
        partitions: None,
        confirm_timeout: Duration::from_secs(30),
        ..options.clone()
    });
    plain.await.publish(&events(2, 0, 5)).await.unwrap();

    broker.enable(PLUGIN).await;
    soon("connecting", bus.until(|state| *state == RabbitState::Connected)).await;
    publish_all(&bus, &events(1, 0, 5)).await;
    let (_clients, mut arrivals) = consume(&broker.url(), &queues(&options)).await;
    let mut seen = Seen::default();
    seen.until(&mut arrivals, 5).await;
    let expected: Vec<String> = (0..5).map(|seq| event_id(1, seq)).collect();
    assert_eq!(seen.first[&id(1).to_string()], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_stays_in_its_queue_whatever_happens() {
    let mut broker = Broker::with_plugins(ENABLED).await;
    for batch in [None, Some(RabbitBatch::default())] {
        order_is_kept_over_lost_connections(&broker, batch).await;
    }
    lost_bindings_are_noticed(&broker).await;
    another_number_makes_other_queues(&broker).await;
    a_second_consumer_stands_by(&broker).await;
    clauses(&broker).await;
    a_restart_of_the_broker_changes_nothing(&mut broker).await;
}

async fn order_is_kept_over_lost_connections(broker: &Broker, batch: Option<RabbitBatch>) {
    let proxy = Proxy::to(broker.url().rsplit_once('@').unwrap().1).await;
    let options = options(format!("amqp://guest:guest@{}", proxy.address), 4, batch);
    let bus = Arc::new(connected(options.clone()).await);
    let (_clients, mut arrivals) = consume(&broker.url(), &queues(&options)).await;
    // One execution of four names exchanges: one elsewhere, and once more the usual one.
    let exchange = |name: &str, key: Option<&str>| EventExchange {
        name: name.to_owned(),
        kind: ExchangeType::Topic,
        routing_key: key.map(str::to_owned),
        headers: [("team".to_owned(), "a".to_owned())].into(),
    };
    let elsewhere: Arc<[EventExchange]> = [
        exchange(&unique("elsewhere"), None),
        exchange(&options.exchange, Some("own")),
    ]
    .into();
    let publishers = (0..EXECUTIONS / 8).map(|group| {
        let (bus, elsewhere) = (Arc::clone(&bus), Arc::clone(&elsewhere));
        tokio::spawn(async move {
            let mut errors = 0;
            for from in (0..EVENTS).step_by(10) {
                // Eight executions that do the same, as a shard's sink hands them over.
                let steps = (from..from + 10).flat_map(|seq| {
                    (group * 8..group * 8 + 8).map(move |execution| events(execution, seq, seq + 1).remove(0))
                });
                let mut call: Vec<_> = steps.collect();
                for event in call.iter_mut().filter(|event| event.execution == id(group * 8)) {
                    event.outward = Some(Outward {
                        exchanges: Arc::clone(&elsewhere),
                        ..Outward::default()
                    });
                }
                errors += publish_all(&*bus, &call).await;
                // It is far from over when a quarter has arrived, on a busy machine too.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            errors
        })
    });
    let publishing = tokio::spawn(futures::future::join_all(publishers.collect::<Vec<_>>()));
    let mut seen = Seen::default();
    seen.until(&mut arrivals, EXECUTIONS * EVENTS / 4).await;
    proxy.fall_silent();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    proxy.pass_again();
    seen.until(&mut arrivals, EXECUTIONS * EVENTS).await;
    let errors: usize = soon("publishing", publishing)
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .sum();
    assert!(errors > 0 && bus.counters().connections >= 2, "the connection was lost");
    for execution in 0..EXECUTIONS {
        let expected: Vec<String> = (0..EVENTS).map(|seq| event_id(execution, seq)).collect();
        assert_eq!(
            seen.first[&id(execution).to_string()],
            expected,
            "all in order, each at its first time"
        );
    }
    let used: HashSet<usize> = seen.queues.values().copied().collect();
    assert_eq!(used.len(), 4, "every queue has a share");
    // What a thousand executions do at once travels in no more messages than there are buckets.
    let before = bus.counters().messages;
    let call: Vec<_> = (1_000..2_000)
        .map(|execution| events(execution, 0, 1).remove(0))
        .collect();
    let errors = publish_all(&*bus, &call).await as u64;
    let messages = bus.counters().messages - before;
    // After an error one event goes alone.
    let messages_max = 128 * (errors + 1) + errors;
    assert!(batch.is_none() || messages <= messages_max, "{messages} messages");
    seen.until(&mut arrivals, EXECUTIONS * EVENTS + 1_000).await;
}

/// Somebody deletes the exchange, and declares it anew without what was bound: nothing is confirmed that no queue has.
async fn lost_bindings_are_noticed(broker: &Broker) {
    let options = options(broker.url(), 2, None);
    let bus = connected(options.clone()).await;
    let client = Client::connect(&broker.url()).await;
    publish_all(&bus, &events(1, 0, 10)).await;
    client.delete_exchange(&options.exchange).await;
    client.declare_exchange(&options.exchange).await;
    let errors = publish_all(&bus, &events(1, 10, 30)).await;
    assert!(errors > 0, "what comes back is not confirmed");
    let (_clients, mut arrivals) = consume(&broker.url(), &queues(&options)).await;
    let mut seen = Seen::default();
    seen.until(&mut arrivals, 30).await;
}

async fn another_number_makes_other_queues(broker: &Broker) {
    let two = options(broker.url(), 2, None);
    let mut three = two.clone();
    three.partitions.as_mut().unwrap().count = 3;
    let mut published = 0;
    // There and back again, as where members with different settings connect in turn.
    for options in [&two, &three, &two, &three] {
        let bus = connected(options.clone()).await;
        for execution in 0..10 {
            publish_all(&bus, &events(execution, published, published + 5)).await;
        }
        published += 5;
    }
    let left = async |options: &RabbitOptions| {
        let (_clients, mut arrivals) = consume(&broker.url(), &queues(options)).await;
        let mut seen = Seen::default();
        seen.until(&mut arrivals, 100).await;
        seen.first
    };
    let (old, new) = (left(&two).await, left(&three).await);
    for execution in 0..10 {
        let ids = |seqs: [std::ops::Range<u64>; 2]| {
            let seqs = seqs.into_iter().flatten();
            seqs.map(|seq| event_id(execution, seq)).collect::<Vec<_>>()
        };
        let execution = id(execution).to_string();
        assert_eq!(old[&execution], ids([0..5, 10..15]), "each event in one of them");
        assert_eq!(new[&execution], ids([5..10, 15..20]));
    }
}

async fn a_second_consumer_stands_by(broker: &Broker) {
    let options = options(broker.url(), 1, None);
    let bus = connected(options.clone()).await;
    let queue = queues(&options);
    let (first, mut to_first) = consume(&broker.url(), &queue).await;
    let (_second, mut to_second) = consume(&broker.url(), &queue).await;
    publish_all(&bus, &events(1, 0, 200)).await;
    let mut seen = Seen::default();
    seen.until(&mut to_first, 200).await;
    assert!(to_second.try_recv().is_err(), "it stands by");
    soon("the goodbye", first[0].connection.close(200, "bye".into()))
        .await
        .unwrap();
    publish_all(&bus, &events(1, 200, 300)).await;
    seen.until(&mut to_second, 300).await;
    let expected: Vec<String> = (0..300).map(|seq| event_id(1, seq)).collect();
    assert_eq!(seen.first[&id(1).to_string()], expected);
}

/// The broker shares out anew when it starts, by the names of the queues: of twelve, `10` comes before `2`.
async fn a_restart_of_the_broker_changes_nothing(broker: &mut Broker) {
    let options = options(broker.url(), 12, None);
    let bus = connected(options.clone()).await;
    broker.settle().await;
    for execution in 0..40 {
        publish_all(&bus, &events(execution, 0, 10)).await;
    }
    broker.kill();
    broker.launch().await;
    for execution in 0..40 {
        publish_all(&bus, &events(execution, 10, 20)).await;
    }
    assert!(bus.counters().connections >= 2);
    let (_clients, mut arrivals) = consume(&broker.url(), &queues(&options)).await;
    let mut seen = Seen::default();
    seen.until(&mut arrivals, 40 * 20).await;
    for execution in 0..40 {
        let expected: Vec<String> = (0..20).map(|seq| event_id(execution, seq)).collect();
        assert_eq!(seen.first[&id(execution).to_string()], expected);
    }
}

/// A bus whose listener hears what the consumers of all queues hear.
struct Partitioned {
    options: RabbitOptions,
    url: String,
    bus: OnceCell<Arc<RabbitBus>>,
    clients: Mutex<Vec<Client>>,
}

struct Everybody(Arrivals);

#[async_trait]
impl Listener for Everybody {
    async fn next(&mut self) -> Vec<Heard> {
        let (_, message) = self.0.recv().await.unwrap();
        events_of(&message).iter().map(heard).collect()
    }
}

#[async_trait]
impl BusFixture for Partitioned {
    async fn open(&self) -> Arc<dyn EventBus> {
        let start = async || Arc::new(connected(self.options.clone()).await);
        self.bus.get_or_init(start).await.clone()
    }

    async fn listen(&self) -> Box<dyn Listener> {
        self.open().await;
        let (clients, arrivals) = consume(&self.url, &queues(&self.options)).await;
        self.clients.lock().await.extend(clients);
        Box::new(Everybody(arrivals))
    }
}

/// The suite of event buses, through three queues.
async fn clauses(broker: &Broker) {
    let fixture = |batch| {
        let mut options = options(broker.url(), 3, batch);
        (options.confirm_timeout, options.wait_timeout) = (Duration::from_secs(30), Duration::from_secs(10));
        Partitioned {
            options,
            url: broker.url(),
            bus: OnceCell::new(),
            clients: Mutex::default(),
        }
    };
    for batch in [None, Some(RabbitBatch::default())] {
        bus::what_is_confirmed_arrives_unchanged(&fixture(batch)).await;
        bus::events_of_an_execution_arrive_in_order(&fixture(batch)).await;
        bus::callers_at_once_keep_their_order(&fixture(batch)).await;
        bus::publishing_nothing_succeeds(&fixture(batch)).await;
        bus::a_repeated_event_has_the_same_id(&fixture(batch)).await;
        bus::events_of_the_system_arrive_in_order(&fixture(batch)).await;
        bus::a_large_event_comes_through_whole(&fixture(batch)).await;
    }
}

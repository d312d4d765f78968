//! What messages on RabbitMQ look like, where they go, and what becomes of those that go nowhere. On the shared broker.
#![allow(clippy::unwrap_used)]

#[path = "support/rabbitmq.rs"]
mod support;

use std::collections::BTreeMap;

use lapin::options::{BasicRejectOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use support::consumer::{Client, Listening, broker, events_of, table, unique};
use support::events::{event, event_id, events, id};
use support::{connected, publish_all, soon};
use troupe_backends::rabbitmq::{
    RabbitBatch, RabbitBus, RabbitExchange, RabbitOptions, RabbitQueue, RabbitState, RabbitTopology, RabbitUnroutable,
};
use troupe_core::definition::{EventExchange, ExchangeType};
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{Outward, Payload, SystemEvent};
use troupe_core::{CommandId, Json, Timestamp};
use troupe_ports::EventBus;

fn options() -> RabbitOptions {
    RabbitOptions {
        exchange: unique("events"),
        ..RabbitOptions::new(broker())
    }
}

/// A queue that the bus declares, bound by these keys.
fn queue_of(name: &str, keys: &[&str], dead_letter: Option<&str>) -> RabbitQueue {
    RabbitQueue {
        name: name.to_owned(),
        binding_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        dead_letter: dead_letter.map(str::to_owned),
        ..RabbitQueue::default()
    }
}

/// Ids of the next so many events.
async fn ids(listening: &mut Listening, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let delivery = soon("an event", listening.message()).await;
        ids.extend(
            events_of(&delivery)
                .iter()
                .map(|event| event["id"].as_str().unwrap().to_owned()),
        );
    }
    ids
}

/// Ids of all events up to this one.
async fn ids_until(listening: &mut Listening, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while !seen.iter().any(|id| id == last) {
        seen.extend(ids(listening, 1).await);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_a_persistent_cloud_event_under_its_documented_key() {
    let options = options();
    let bus = connected(options.clone()).await;
    let client = Client::connect(&broker()).await;
    let queue = client.queue(&options.exchange, "#", FieldTable::default()).await;
    let mut listening = client.consume(&queue).await;
    let mut published = event(1, 3, Verb::NodeFailed);
    published.workflow = "a.b".into();
    bus.publish(&[published]).await.unwrap();
    let system = SystemEvent {
        command: CommandId::from("c-1"),
        at: Timestamp(0),
        entity: "breaker",
        verb: "overridden",
        data: Json::object([]),
    };
    bus.announce(&[system]).await.unwrap();

    let message = soon("the event", listening.message()).await;
    assert_eq!(message.routing_key.as_str(), "a%2Eb.node.http.failed");
    let properties = &message.properties;
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    assert_eq!(text(properties.content_type()).unwrap(), "application/cloudevents+json");
    assert_eq!(text(properties.message_id()), Some(event_id(1, 3)));
    assert_eq!(text(properties.kind()).unwrap(), "troupe.node.failed.v1");
    assert_eq!(
        (*properties.delivery_mode(), *properties.timestamp()),
        (Some(2), Some(1_790_000_000))
    );
    let [event] = &events_of(&message)[..] else {
        panic!("one event")
    };
    assert_eq!(event["source"], format!("/workflows/a.b/executions/{}", id(1)));
    assert_eq!(
        (&event["specversion"], &event["subject"]),
        (&"1.0".into(), &"pay".into())
    );
    let message = soon("the event of the system", listening.message()).await;
    assert_eq!(message.routing_key.as_str(), "system.breaker.overridden");

    client.delete_queue(&queue).await;
    client.delete_exchange(&options.exchange).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bindings_choose_by_workflow_kind_and_header() {
    let (topic, direct, headers) = (options(), options(), options());
    let client = Client::connect(&broker()).await;
    let queue = |keys: &[&str], headers: &[(&str, &str)]| RabbitQueue {
        name: unique("queue"),
        binding_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        binding_headers: match headers {
            [] => Vec::new(),
            headers => vec![
                headers
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect::<BTreeMap<_, _>>(),
            ],
        },
        dead_letter: None,
    };
    for (options, kind, queue) in [
        (
            topic,
            RabbitExchange::Topic,
            queue(&["*.node.http.failed", "orders.execution.#"], &[]),
        ),
        (
            direct,
            RabbitExchange::Direct,
            queue(&["orders.node.http.failed", "orders.execution.created"], &[]),
        ),
        (headers, RabbitExchange::Headers, {
            let mut queue = queue(&[], &[("workflow", "orders"), ("verb", "failed"), ("nodeType", "http")]);
            let other = BTreeMap::from([("entity".to_owned(), "execution".to_owned())]);
            queue.binding_headers.push(other);
            queue
        }),
    ] {
        let options = RabbitOptions {
            kind,
            queues: vec![queue.clone()],
            ..options
        };
        let bus = connected(options.clone()).await;
        let verbs = [
            Verb::ExecutionCreated,
            Verb::NodeScheduled,
            Verb::NodeFailed,
            Verb::NodeCompleted,
        ];
        let events: Vec<_> = verbs.iter().zip(1..).map(|(verb, seq)| event(1, seq, *verb)).collect();
        bus.publish(&events).await.unwrap();
        let mut listening = client.consume(&queue.name).await;
        assert_eq!(
            ids(&mut listening, 2).await,
            [event_id(1, 1), event_id(1, 3)],
            "{kind:?}"
        );
        assert_eq!(bus.counters().unroutable, 2, "{kind:?}");
        drop(bus);
        client.delete_queue(&queue.name).await;
        client.delete_exchange(&options.exchange).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_kind_share_messages_within_limits_when_batched() {
    let batch = RabbitBatch {
        events_max: 10,
        ..RabbitBatch::default()
    };
    let options = RabbitOptions {
        batch: Some(batch),
        ..options()
    };
    let bus = connected(options.clone()).await;
    let client = Client::connect(&broker()).await;
    let queue = client.queue(&options.exchange, "#", FieldTable::default()).await;
    let mut listening = client.consume(&queue).await;
    // Many executions that all do the same, each step of all of them after the other.
    let steps = (0..12).flat_map(|seq| (0..25).map(move |execution| events(execution, seq, seq + 1).remove(0)));
    let published: Vec<_> = steps.collect();
    bus.publish(&published).await.unwrap();
    let (mut messages, mut seen) = (0, Vec::new());
    while seen.len() < published.len() {
        let message = soon("a batch", listening.message()).await;
        let events = events_of(&message);
        assert!(events.len() <= 10);
        let kinds: std::collections::HashSet<_> = events.iter().map(|event| event["type"].to_string()).collect();
        assert_eq!(kinds.len(), 1, "one kind a message");
        messages += 1;
        seen.extend(events.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(messages, 36, "25 events of a step make 3 messages of at most 10");
    for execution in 0..25 {
        let prefix = format!("{}:", id(execution));
        let of: Vec<_> = seen.iter().filter(|id| id.starts_with(&prefix)).cloned().collect();
        assert_eq!(of, (0..12).map(|seq| event_id(execution, seq)).collect::<Vec<_>>());
    }
    assert_eq!((bus.counters().events, bus.counters().messages), (300, 36));
    client.delete_queue(&queue).await;
    client.delete_exchange(&options.exchange).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_is_bound_for_are_counted() {
    let options = options();
    let bus = connected(options.clone()).await;
    bus.publish(&events(1, 0, 50)).await.unwrap();
    assert_eq!(bus.counters().events, 50);
    // What comes back may be told with the confirm after its own.
    bus.publish(&events(2, 0, 1)).await.unwrap();
    let counters = bus.counters();
    assert_eq!(counters.events, 51);
    assert!((50..=51).contains(&counters.unroutable), "{counters:?}");
    drop(bus);
    Client::connect(&broker())
        .await
        .delete_exchange(&options.exchange)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_is_bound_for_fail_where_that_is_wanted() {
    for batch in [None, Some(RabbitBatch::default())] {
        let options = RabbitOptions {
            unroutable: RabbitUnroutable::Fail,
            batch,
            ..options()
        };
        let bus = connected(options.clone()).await;
        let client = Client::connect(&broker()).await;
        let queue = client
            .queue(&options.exchange, "orders.execution.*", FieldTable::default())
            .await;
        let published = [
            event(1, 1, Verb::ExecutionCreated),
            event(1, 2, Verb::ExecutionStarted),
            event(1, 3, Verb::NodeScheduled),
            event(1, 4, Verb::ExecutionCompleted),
        ];
        // Calls at once: one that goes nowhere does not disturb the others.
        let others = (2..40).map(|execution| {
            let bus = &bus;
            async move { bus.publish(&[event(execution, 1, Verb::ExecutionCreated)]).await }
        });
        let (failed, others) = tokio::join!(bus.publish(&published), futures::future::join_all(others));
        let error = failed.unwrap_err();
        assert_eq!(error.confirmed(), 2, "{error}");
        assert!(
            error
                .to_string()
                .contains("no queue is bound for orders.node.http.scheduled"),
            "{error}"
        );
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(bus.counters().unroutable, 1);
        client.bind(&queue, &options.exchange, "#", FieldTable::default()).await;
        bus.publish(&published[2..]).await.unwrap();
        drop(bus);
        client.delete_queue(&queue).await;
        client.delete_exchange(&options.exchange).await;
    }
}

/// Neither what is behind it nor its own copies for an exchange that the workflow names fill queues meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_with_every_attempt_while_an_event_waits_for_a_queue() {
    const ATTEMPTS: u64 = 10;
    for batch in [None, Some(RabbitBatch::default())] {
        let options = RabbitOptions {
            unroutable: RabbitUnroutable::Fail,
            batch,
            ..options()
        };
        let bus = connected(options.clone()).await;
        let client = Client::connect(&broker()).await;
        let usual = client
            .queue(&options.exchange, "orders.execution.*", FieldTable::default())
            .await;
        let named = unique("named");
        client.declare_exchange(&named).await;
        let copies = client.queue(&named, "#", FieldTable::default()).await;
        let exchange = EventExchange {
            name: named.clone(),
            kind: ExchangeType::Topic,
            routing_key: None,
            headers: BTreeMap::new(),
        };
        let verbs = [Verb::ExecutionCreated, Verb::NodeScheduled, Verb::ExecutionCompleted];
        let mut published: Vec<_> = verbs.iter().zip(1..).map(|(verb, seq)| event(1, seq, *verb)).collect();
        for event in &mut published {
            event.outward = Some(Outward {
                exchanges: [exchange.clone()].into(),
                ..Outward::default()
            });
        }
        let bound = async {
            let tried = async {
                while bus.counters().unroutable < ATTEMPTS {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            };
            soon("some attempts", tried).await;
            client.bind(&usual, &options.exchange, "#", FieldTable::default()).await;
        };
        let (errors, ()) = tokio::join!(publish_all(&bus, &published), bound);
        assert!(errors as u64 >= ATTEMPTS, "{errors}");

        // Behind it nothing of the others is on its way any more.
        let mut last = event(2, 1, Verb::ExecutionCreated);
        last.outward.clone_from(&published[0].outward);
        bus.publish(&[last]).await.unwrap();
        for (queue, times_max) in [(&usual, [1, 1, 2]), (&copies, [2, 2, 2])] {
            let arrived = ids_until(&mut client.consume(queue).await, &event_id(2, 1)).await;
            for (seq, times_max) in (1..).zip(times_max) {
                let times = arrived.iter().filter(|id| **id == event_id(1, seq)).count();
                assert!((1..=times_max).contains(&times), "{seq}: {arrived:?}");
            }
        }
        drop(bus);
        client.delete_queue(&usual).await;
        client.delete_queue(&copies).await;
        client.delete_exchange(&options.exchange).await;
        client.delete_exchange(&named).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_queue_refuses_is_repeated() {
    let options = options();
    let bus = connected(options.clone()).await;
    let client = Client::connect(&broker()).await;
    let mut arguments = table(&[("x-overflow", "reject-publish")]);
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(5));
    let queue = client.queue(&options.exchange, "#", arguments).await;
    let published = events(1, 0, 30);
    let error = bus.publish(&published).await.unwrap_err();
    // A queue counts roughly, so a few more than its limit may get in.
    assert!(
        error.confirmed() < 30 && error.to_string().contains("refused"),
        "{error}"
    );
    assert!(bus.counters().refused > 0);
    assert_eq!(bus.counters().connections, 1, "a refusal is no reason to connect again");
    let mut listening = client.consume(&queue).await;
    let heard = async {
        let mut missing: std::collections::HashSet<_> = (0..30).map(|seq| event_id(1, seq)).collect();
        while !missing.is_empty() {
            for id in ids(&mut listening, 1).await {
                missing.remove(&id);
            }
        }
    };
    tokio::join!(publish_all(&bus, &published), heard);
    drop(bus);
    client.delete_queue(&queue).await;
    client.delete_exchange(&options.exchange).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_events_go_to_the_dead_letter_queue() {
    let (name, dead) = (unique("queue"), unique("dead"));
    let options = RabbitOptions {
        queues: vec![queue_of(&name, &["#"], Some(&dead))],
        ..options()
    };
    let bus = connected(options.clone()).await;
    bus.publish(&events(1, 0, 1)).await.unwrap();
    let client = Client::connect(&broker()).await;
    let rejected = client
        .channel
        .basic_get(name.as_str().into(), lapin::options::BasicGetOptions::default());
    let rejected = rejected.await.unwrap().expect("the event is in the queue");
    rejected.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    let mut listening = client.consume(&dead).await;
    assert_eq!(ids(&mut listening, 1).await, [event_id(1, 0)]);
    drop(bus);
    client.delete_queue(&name).await;
    client.delete_queue(&dead).await;
    client.delete_exchange(&options.exchange).await;
}

/// A queue that takes what consumers of another one reject, and has such a queue itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letter_queues_form_a_chain() {
    let [first, second, dead] = ["first", "second", "dead"].map(unique);
    let options = RabbitOptions {
        queues: vec![
            queue_of(&first, &["#"], Some(&second)),
            queue_of(&second, &[], Some(&dead)),
        ],
        ..options()
    };
    let bus = connected(options.clone()).await;
    bus.publish(&events(1, 0, 1)).await.unwrap();
    let client = Client::connect(&broker()).await;
    for queue in [&first, &second] {
        let rejected = async {
            loop {
                let got = client
                    .channel
                    .basic_get(queue.as_str().into(), lapin::options::BasicGetOptions::default());
                // What is rejected comes there a little later.
                match got.await.unwrap() {
                    Some(message) => break message,
                    None => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                }
            }
        };
        let rejected = soon("the event", rejected).await;
        rejected.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    }
    let mut listening = client.consume(&dead).await;
    assert_eq!(ids(&mut listening, 1).await, [event_id(1, 0)]);
    drop(bus);
    for queue in [&first, &second, &dead] {
        client.delete_queue(queue).await;
    }
    client.delete_exchange(&options.exchange).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passive_bus_declares_nothing() {
    let options = RabbitOptions {
        topology: RabbitTopology::Passive,
        wait_timeout: std::time::Duration::from_millis(300),
        ..options()
    };
    let bus = RabbitBus::start(options.clone()).unwrap();
    let failing = |state: &RabbitState| matches!(state, RabbitState::Connecting { failures: 1.., .. });
    let state = soon("the first attempt", bus.until(failing)).await;
    let RabbitState::Connecting { reason, .. } = state else {
        panic!("{state:?}")
    };
    assert!(reason.contains("NOT_FOUND"), "{reason}");
    let error = bus.publish(&events(1, 0, 1)).await.unwrap_err();
    assert!(error.to_string().contains("NOT_FOUND"), "{error}");
    let client = Client::connect(&broker()).await;
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let kind = lapin::ExchangeKind::Topic;
    let declared =
        client
            .channel
            .exchange_declare(options.exchange.as_str().into(), kind, durable, FieldTable::default());
    declared.await.unwrap();
    soon("connecting", bus.until(|state| *state == RabbitState::Connected)).await;
    bus.publish(&events(1, 0, 1)).await.unwrap();
    drop(bus);
    client.delete_exchange(&options.exchange).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_of_another_kind_is_reported() {
    let first = options();
    let bus = connected(first.clone()).await;
    let second = RabbitOptions {
        kind: RabbitExchange::Fanout,
        ..first.clone()
    };
    let other = RabbitBus::start(second).unwrap();
    let failing = |state: &RabbitState| matches!(state, RabbitState::Connecting { failures: 2.., .. });
    let state = soon("two attempts", other.until(failing)).await;
    let RabbitState::Connecting { reason, .. } = state else {
        panic!("{state:?}")
    };
    assert!(reason.contains("PRECONDITION_FAILED"), "{reason}");
    drop((bus, other));
    Client::connect(&broker()).await.delete_exchange(&first.exchange).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_names_exchanges_and_a_wrong_one_holds_back_nobody() {
    let options = options();
    let client = Client::connect(&broker()).await;
    let [named, wrong, unbound] = ["named", "wrong", "unbound"].map(unique);
    for (name, kind) in [
        (&named, lapin::ExchangeKind::Headers),
        (&wrong, lapin::ExchangeKind::Fanout),
    ] {
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared = client
            .channel
            .exchange_declare(name.as_str().into(), kind, durable, FieldTable::default());
        declared.await.unwrap();
    }
    let bus = connected(options.clone()).await;
    let usual = client.queue(&options.exchange, "#", FieldTable::default()).await;
    let chosen = client.queue(&options.exchange, "nothing", FieldTable::default()).await;
    let arguments = table(&[("x-match", "all"), ("team", "a"), ("verb", "failed")]);
    client.bind(&chosen, &named, "", arguments).await;
    let exchange = |name: &str, kind| EventExchange {
        name: name.to_owned(),
        kind,
        routing_key: Some("own".to_owned()),
        headers: [("team".to_owned(), "a".to_owned())].into(),
    };
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let outward = Outward {
        payload: Some(Payload::Made(Json::from_trusted("{\"mine\":1}"))),
        exchanges: [
            exchange(&wrong, ExchangeType::Topic),
            exchange(&unbound, ExchangeType::Topic),
            exchange(&named, ExchangeType::Headers),
        ]
        .into(),
        trace_parent: Some(trace.into()),
    };
    let mut published: Vec<_> = (1..=3).map(|seq| event(1, seq, Verb::NodeFailed)).collect();
    for event in &mut published {
        event.outward = Some(outward.clone());
    }
    assert!(bus.wants(Verb::NodeFailed, true));
    bus.publish(&published).await.unwrap();
    assert!(!bus.wants(Verb::NodeFailed, false));

    let expected: Vec<String> = (1..=3).map(|seq| event_id(1, seq)).collect();
    let mut listening = client.consume(&usual).await;
    assert_eq!(ids(&mut listening, 3).await, expected);
    let mut listening = client.consume(&chosen).await;
    for id in &expected {
        let message = soon("the event", listening.message()).await;
        assert_eq!(message.routing_key.as_str(), "own");
        let headers = message.properties.headers().as_ref().unwrap();
        let expected = AMQPValue::LongString(trace.into());
        assert_eq!(headers.inner().get("traceparent"), Some(&expected));
        let [event] = &events_of(&message)[..] else {
            panic!("one event")
        };
        assert_eq!(
            (event["id"].as_str().unwrap(), &event["traceparent"]),
            (id.as_str(), &trace.into())
        );
        assert_eq!(event["data"], serde_json::json!({"mine": 1}));
    }
    let counters = bus.counters();
    assert_eq!((counters.misdirected, counters.unroutable), (3, 3));
    assert_eq!(counters.connections, 1, "no channel was lost");

    client.delete_queue(&usual).await;
    client.delete_queue(&chosen).await;
    for exchange in [&options.exchange, &named, &wrong, &unbound] {
        client.delete_exchange(exchange).await;
    }
}

//! Clauses of [`EventBus`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, Outward, SystemEvent};
use troupe_core::{CommandId, ExecutionId, Json, NodeKey, Seq, Timestamp};

use super::execution;
use crate::bus::EventBus;

/// Longest that a confirmed event takes to reach who listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A bus under test, with nobody else's events on it.
#[async_trait]
pub trait BusFixture: Send + Sync {
    /// The bus, ready to publish; always the same one.
    async fn open(&self) -> Arc<dyn EventBus>;

    /// Somebody who gets everything that is published from now on.
    async fn listen(&self) -> Box<dyn Listener>;
}

/// What arrived, as the outside sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// `<execution>:<seq>.<n>`, or the command's id.
    pub id: String,
    /// `<entity>.<verb>`.
    pub what: String,
    /// The node's id.
    pub node: Option<String>,
    /// What it tells, compactly.
    pub data: String,
}

impl Heard {
    /// How an event of an execution must arrive.
    #[must_use]
    pub fn of_lifecycle(event: &LifecycleEvent) -> Self {
        Self {
            id: format!("{}:{}.{}", event.execution, event.seq, event.part),
            what: format!("{}.{}", event.verb.entity(), event.verb.word()),
            node: event.node.as_ref().map(|(key, _)| key.as_str().to_owned()),
            data: event.data.as_str().to_owned(),
        }
    }

    /// How an event of the system must arrive.
    #[must_use]
    pub fn of_system(event: &SystemEvent) -> Self {
        Self {
            id: event.command.as_str().to_owned(),
            what: format!("{}.{}", event.entity, event.verb),
            node: None,
            data: event.data.as_str().to_owned(),
        }
    }
}

/// Somebody who listens.
#[async_trait]
pub trait Listener: Send {
    /// The next events that arrived, in order; waits for at least one. Cancel-safe.
    async fn next(&mut self) -> Vec<Heard>;
}

/// Events `from..to` of an execution: its start, then nodes that run and complete, over and over, two events an entry.
fn history(id: ExecutionId, from: u64, to: u64) -> Vec<LifecycleEvent> {
    let event = |number: u64| {
        let (verb, node) = match number {
            0 => (Verb::ExecutionCreated, None),
            number if number % 2 == 1 => (Verb::NodeStarted, Some((NodeKey::from("pay"), "http"))),
            _ => (Verb::NodeCompleted, Some((NodeKey::from("pay"), "http"))),
        };
        LifecycleEvent {
            execution: id,
            workflow: "orders".into(),
            seq: Seq(1 + number / 2),
            part: u32::try_from(number % 2).unwrap_or(0),
            at: Timestamp(1_790_000_000_000),
            verb,
            node,
            compensates: false,
            data: Json::from_trusted(format!(r#"{{"attempt":{number}}}"#)),
            outward: Some(Outward::default()),
        }
    };
    (from..to).map(event).collect()
}

/// What is heard until everything expected has been, each at its first time.
async fn first_heard(listener: &mut dyn Listener, expected: &[Heard]) -> Vec<Heard> {
    let mut missing: HashMap<&str, usize> = HashMap::new();
    for heard in expected {
        missing.insert(&heard.id, 1);
    }
    let mut first = Vec::new();
    while missing.values().any(|count| *count > 0) {
        let heard = tokio::time::timeout(PATIENCE, listener.next()).await;
        let heard = heard.unwrap_or_else(|_| panic!("only {} of {} events arrive", first.len(), expected.len()));
        for heard in heard {
            let count = missing.get_mut(heard.id.as_str());
            let count = count.unwrap_or_else(|| panic!("an event that nobody published: {heard:?}"));
            if std::mem::replace(count, 0) > 0 {
                first.push(heard);
            }
        }
    }
    first
}

fn of_execution(heard: &[Heard], id: ExecutionId) -> Vec<Heard> {
    let prefix = format!("{id}:");
    heard
        .iter()
        .filter(|heard| heard.id.starts_with(&prefix))
        .cloned()
        .collect()
}

async fn publish(bus: &dyn EventBus, events: &[LifecycleEvent]) {
    bus.publish(events).await.expect("events can be published");
}

/// Whoever listened before gets every event of a publish that succeeded, as it was.
pub async fn what_is_confirmed_arrives_unchanged(fixture: &dyn BusFixture) {
    let bus = fixture.open().await;
    let mut listener = fixture.listen().await;
    let mut events = history(execution(0, 1), 0, 5);
    events[2].data = Json::of(&serde_json::json!({"output": "é\u{1F600}\u{0}\"\\", "attempt": 1}));
    events[3].workflow = "a.b*c#d ~%/é".into();
    events[4].workflow = "w".repeat(400).into();
    publish(&*bus, &events).await;
    let expected: Vec<_> = events.iter().map(Heard::of_lifecycle).collect();
    assert_eq!(first_heard(&mut *listener, &expected).await, expected);
}

/// Events of several executions, in one call and in several, arrive in each execution's order.
pub async fn events_of_an_execution_arrive_in_order(fixture: &dyn BusFixture) {
    let bus = fixture.open().await;
    let mut listener = fixture.listen().await;
    let ids: Vec<_> = (0..7).map(|number| execution(0, number)).collect();
    let mut published = Vec::new();
    for turn in 0..6_u64 {
        // Interleaved, so that neighbours differ in execution and in kind.
        let turns: Vec<_> = ids.iter().map(|id| history(*id, turn * 20, turn * 20 + 20)).collect();
        let events: Vec<_> = (0..20)
            .flat_map(|at| turns.iter().map(move |turn| turn[at].clone()))
            .collect();
        publish(&*bus, &events).await;
        published.extend(events.iter().map(Heard::of_lifecycle));
    }
    let heard = first_heard(&mut *listener, &published).await;
    for id in ids {
        assert_eq!(of_execution(&heard, id), of_execution(&published, id), "{id}");
    }
}

/// Several callers at once, as the shards of an engine are, do not disturb each other's order.
pub async fn callers_at_once_keep_their_order(fixture: &dyn BusFixture) {
    let bus = fixture.open().await;
    let mut listener = fixture.listen().await;
    let ids: Vec<_> = (0..8).map(|shard| execution(shard, 1)).collect();
    let callers = ids.iter().map(|id| {
        let (bus, id) = (Arc::clone(&bus), *id);
        async move {
            for turn in 0..25 {
                publish(&*bus, &history(id, turn * 4, turn * 4 + 4)).await;
            }
        }
    });
    let expected: Vec<_> = ids
        .iter()
        .flat_map(|id| history(*id, 0, 100))
        .map(|event| Heard::of_lifecycle(&event))
        .collect();
    let (_, heard) = tokio::join!(
        futures::future::join_all(callers),
        first_heard(&mut *listener, &expected)
    );
    for id in ids {
        assert_eq!(of_execution(&heard, id), of_execution(&expected, id), "{id}");
    }
}

/// Nothing to publish is nothing to wait for, and nothing arrives.
pub async fn publishing_nothing_succeeds(fixture: &dyn BusFixture) {
    let bus = fixture.open().await;
    let mut listener = fixture.listen().await;
    publish(&*bus, &[]).await;
    bus.announce(&[]).await.expect("nothing can be announced");
    let events = history(execution(0, 1), 0, 1);
    publish(&*bus, &events).await;
    let expected: Vec<_> = events.iter().map(Heard::of_lifecycle).collect();
    assert_eq!(first_heard(&mut *listener, &expected).await, expected);
}

/// Who repeats a publish repeats its ids, so that consumers can tell.
pub async fn a_repeated_event_has_the_same_id(fixture: &dyn BusFixture) {
    let bus = fixture.open().await;
    let mut listener = fixture.listen().await;
    let events = history(execution(0, 1), 0, 10);
    publish(&*bus, &events[..6]).await;
    publish(&*bus, &events[2..]).await;
    let expected: Vec<_> = events.iter().map(Heard::of_lifecycle).collect();
    assert_eq!(first_heard(&mut *listener, &expected).await, expected);
}

/// Events of the system arrive in order too.
pub async fn events_of_the_system_arrive_in_order(fixture: &dyn BusFixture) {
    let bus = fixture.open().await;
    let mut listener = fixture.listen().await;
    let event = |number: usize| SystemEvent {
        command: CommandId::from(format!("command-{number}")),
        at: Timestamp(1_790_000_000_000),
        entity: ["engine", "workflow", "breaker"][number % 3],
        verb: ["paused", "resumed", "overridden", "restored"][number % 4],
        data: Json::from_trusted(format!(r#"{{"reason":"{number}"}}"#)),
    };
    let events: Vec<_> = (0..40).map(event).collect();
    for events in events.chunks(9) {
        bus.announce(events).await.expect("events can be announced");
    }
    let expected: Vec<_> = events.iter().map(Heard::of_system).collect();
    assert_eq!(first_heard(&mut *listener, &expected).await, expected);
}

/// A payload of a megabyte comes through whole, between its neighbours.
pub async fn a_large_event_comes_through_whole(fixture: &dyn BusFixture) {
    let bus = fixture.open().await;
    let mut listener = fixture.listen().await;
    let mut events = history(execution(0, 1), 0, 3);
    events[1].data = Json::of(&serde_json::json!({ "output": "0123456789".repeat(100_000) }));
    publish(&*bus, &events).await;
    let expected: Vec<_> = events.iter().map(Heard::of_lifecycle).collect();
    let heard = first_heard(&mut *listener, &expected).await;
    // Not `assert_eq`: nobody reads a megabyte.
    assert!(heard == expected, "the events differ");
}

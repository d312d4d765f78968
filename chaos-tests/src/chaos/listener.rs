//! The observer of events: a consumer of a queue of RabbitMQ, which comes back whenever the broker does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeleteOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use troupe_backends::cloud_events::CloudEvent;
use troupe_core::lifecycle;

use crate::crash::checkers::Evidence;
use crate::crash::heal::Hears;
use crate::crash::record::{Record, Sighting};

/// Pause before a broker that does not answer is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a broker may take to answer, and how often a silent connection is looked at: when it goes, not everybody who waits for
/// something of it is told.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(1);
/// Messages that are on their way to the consumer at once.
const PREFETCH: u16 = 256;

#[derive(Debug, Default)]
struct Heard {
    events: Mutex<Events>,
    /// Milliseconds that each message takes.
    slow_ms: AtomicU64,
    trouble: Mutex<Vec<String>>,
}

/// What was heard. Prints are those of the message, not of the event: see [`translate`].
#[derive(Debug, Default)]
struct Events {
    /// In the order that counts: what the broker gives a second time is put back to its place.
    in_order: Vec<Sighting>,
    /// In the order in which it came.
    arrived: Vec<Sighting>,
}

/// Listens to one queue until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    heard: Arc<Heard>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens to `queue`, which the engines' bus declares.
    pub(super) fn start(runtime: &Handle, url: &str, queue: &str) -> Self {
        let heard = Arc::new(Heard::default());
        let (url, queue, into) = (url.to_owned(), queue.to_owned(), Arc::clone(&heard));
        let task = runtime.spawn(async move {
            loop {
                // The broker may be down, or not have the queue yet.
                listen(&url, &queue, &into).await.ok();
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { heard, task }
    }

    /// From now on each message takes so much longer.
    pub(super) fn slow_down(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.heard.slow_ms.store(by, Ordering::Relaxed);
    }

    /// Messages that were none of ours to be.
    pub(super) fn trouble(&self) -> Vec<String> {
        let trouble = &self.heard.trouble;
        trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Hears for Listener {
    fn seen(&self) -> Vec<Sighting> {
        let events = self.heard.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.in_order.clone()
    }

    fn arrived(&self, after: usize) -> Vec<Sighting> {
        let events = self.heard.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.arrived[after..].to_vec()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn consume(url: &str, queue: &str) -> anyhow::Result<(Connection, Channel, Consumer)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let consumer = consumer.await?;
    Ok((connection, channel, consumer))
}

async fn listen(url: &str, queue: &str, heard: &Heard) -> anyhow::Result<()> {
    let (connection, channel, mut consumer) = timeout(ANSWERS_WITHIN, consume(url, queue)).await??;
    loop {
        let delivery = match timeout(LOOK, consumer.next()).await {
            Ok(Some(delivery)) => delivery?,
            Ok(None) => bail!("the queue is gone"),
            Err(_) if connection.status().connected() && channel.status().connected() => continue,
            Err(_) => bail!("the connection is gone"),
        };
        let slow_ms = heard.slow_ms.load(Ordering::Relaxed);
        if slow_ms > 0 {
            tokio::time::sleep(Duration::from_millis(slow_ms)).await;
        }
        match events_of(&delivery.data) {
            Ok(events) => {
                let mut known = heard.events.lock().unwrap_or_else(PoisonError::into_inner);
                known.arrived.extend_from_slice(&events);
                if delivery.redelivered {
                    let in_order = &mut known.in_order;
                    events.into_iter().for_each(|event| put_back(in_order, event));
                } else {
                    known.in_order.extend(events);
                }
            }
            Err(error) => {
                let mut trouble = heard.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                trouble.push(format!("a message that is no event: {error:#}"));
            }
        }
        // What is not acknowledged comes again. Where the connection is gone, what had arrived before is heard all the same.
        let ack = delivery.ack(BasicAckOptions::default());
        timeout(ANSWERS_WITHIN, ack).await?.ok();
    }
}

/// Puts an event of a message that the broker gives a second time to its place: one that was killed gives what it had given its last
/// consumer behind what came later. That it came is what it proves.
fn put_back(known: &mut Vec<Sighting>, event: Sighting) {
    let place = |seen: &Sighting| (seen.seq, seen.part);
    let of_the_same = || known.iter().enumerate().filter(|(_, seen)| seen.id == event.id);
    if of_the_same().any(|(_, seen)| place(seen) == place(&event)) {
        return;
    }
    let later = of_the_same().find(|(_, seen)| place(seen) > place(&event));
    let at = later.map_or(known.len(), |(at, _)| at);
    known.insert(at, event);
}

/// Deletes an exchange, and a queue if one is named.
pub(super) async fn delete(url: &str, exchange: &str, queue: Option<&str>) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
        .await?;
    if let Some(queue) = queue {
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await?;
    }
    connection.close(200, "bye".into()).await?;
    Ok(())
}

/// The events of a message, one or a batch.
fn events_of(body: &[u8]) -> anyhow::Result<Vec<Sighting>> {
    let events = match serde_json::from_slice(body)? {
        Value::Array(events) => events,
        event => vec![event],
    };
    events.iter().filter_map(|event| sighting(event).transpose()).collect()
}

/// What is remembered of an event; none for those of the system.
fn sighting(event: &Value) -> anyhow::Result<Option<Sighting>> {
    let text = |name: &str| {
        event
            .get(name)
            .and_then(Value::as_str)
            .with_context(|| format!("no {name}"))
    };
    if text("source")? == "/system" {
        return Ok(None);
    }
    let id = text("id")?;
    let (execution, place) = id.split_once(':').context("the id has no execution")?;
    let (seq, part) = place.split_once('.').context("the id has no place")?;
    Ok(Some(Sighting {
        id: execution.parse().map_err(|_| anyhow::anyhow!("{execution} is no id"))?,
        seq: seq.parse()?,
        part: part.parse()?,
        print: print(&event.to_string()),
    }))
}

/// FNV-1a.
fn print(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Gives what was heard the prints of the events that the log means, where the message says what that event says. What does not
/// keeps its own print, which no event has: the checker of C7 then names it.
pub(super) fn translate(evidence: &mut Evidence) {
    let mut meant: BTreeMap<(troupe_core::ExecutionId, u64, u32), (u64, u64)> = BTreeMap::new();
    for (id, (_, plan, entries)) in &evidence.executions {
        for event in entries.iter().flat_map(|entry| lifecycle::derive(plan, *id, entry)) {
            let said = CloudEvent::of_lifecycle(&event).to_json();
            // As the consumer's parser writes it.
            let said = serde_json::from_str::<Value>(&said).map_or(said, |value| value.to_string());
            let of_event = Sighting::of(&event);
            meant.insert((*id, of_event.seq, of_event.part), (print(&said), of_event.print));
        }
    }
    for record in &mut evidence.records {
        let Record::Published { events } = record else { continue };
        for event in events {
            if let Some((said, of_event)) = meant.get(&(event.id, event.seq, event.part))
                && *said == event.print
            {
                event.print = *of_event;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_given_again_goes_to_its_place_and_is_heard_once() {
        let event = |id: u8, seq: u64| Sighting {
            id: troupe_core::ExecutionId([id; 16]),
            seq,
            part: 0,
            print: 0,
        };
        let mut known = vec![event(1, 1), event(2, 1), event(1, 4)];
        for again in [event(1, 2), event(1, 1), event(1, 3), event(2, 2)] {
            put_back(&mut known, again);
        }
        let of = |id: u8| known.iter().filter(move |seen| seen.id.0[0] == id).map(|seen| seen.seq);
        assert_eq!(of(1).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(of(2).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_batch_is_several_events_and_the_system_is_none() {
        let id = "07".repeat(16);
        let event = |seq: u32| format!(r#"{{"source":"/workflows/w/executions/{id}","id":"{id}:{seq}.1"}}"#);
        let system = r#"{"source":"/system","id":"c-1"}"#;
        let body = format!("[{},{system},{}]", event(3), event(4));
        let places: Vec<_> = events_of(body.as_bytes()).unwrap();
        let places: Vec<_> = places.iter().map(|event| (event.seq, event.part)).collect();
        assert_eq!(places, [(3, 1), (4, 1)]);
        assert!(events_of(b"{}").is_err());
    }
}

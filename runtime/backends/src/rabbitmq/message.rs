//! Events as AMQP messages.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use troupe_core::definition::{EventExchange, ExchangeType};
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{ExecutionId, Timestamp};

use super::calls::Part;
use super::key::{self, Header, Keys, Routing};
use crate::cloud_events::{self, CloudEvent};

/// Header with the trace context. Source: W3C Trace Context, AMQP protocol.
const TRACE_PARENT: &str = "traceparent";
/// Header that the exchange which shares events out looks at: the same for all events of an execution.
pub(super) const BUCKET: &str = "x-troupe-bucket";
/// Survives a restart of the broker, in a durable queue.
const PERSISTENT: u8 = 2;

/// An exchange that a workflow names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Named {
    pub(super) name: Arc<str>,
    pub(super) kind: ExchangeType,
}

/// An event that is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// The exchange that its workflow names; none: the usual one.
    pub(super) exchange: Option<Named>,
    /// Its routing key.
    pub(super) key: Arc<str>,
    /// Its id.
    pub(super) id: String,
    /// Its type.
    pub(super) kind: String,
    /// When it happened.
    pub(super) at: Timestamp,
    /// Whose order must be kept; none: the system's.
    pub(super) lane: Option<ExecutionId>,
    /// What a `headers` exchange looks at: the same for all events of one routing key.
    pub(super) headers: Arc<[Header]>,
    /// Trace context of its execution.
    pub(super) trace_parent: Option<Arc<str>>,
    /// The CloudEvent.
    pub(super) body: Bytes,
}

impl Outgoing {
    /// Adds the message for the usual exchange, and those for the exchanges that the workflow names.
    pub(super) fn of_lifecycle(event: &LifecycleEvent, keys: &mut Keys, outgoing: &mut Vec<Self>) {
        let usual = outgoing.len();
        let rendered = CloudEvent::of_lifecycle(event);
        outgoing.push(Self::new(rendered, keys.of(event), Some(event.execution)));
        let exchanges = event.outward.as_ref().map(|outward| &*outward.exchanges);
        for exchange in exchanges.unwrap_or_default() {
            outgoing.push(outgoing[usual].sent_to(exchange));
        }
    }

    pub(super) fn of_system(event: &SystemEvent) -> Self {
        let routing = Routing {
            key: key::of_system(event).into(),
            headers: [
                ("entity".into(), event.entity.into()),
                ("verb".into(), event.verb.into()),
            ]
            .into(),
        };
        Self::new(CloudEvent::of_system(event), routing, None)
    }

    /// The same event on its way to another exchange.
    fn sent_to(&self, exchange: &EventExchange) -> Self {
        let more = exchange.headers.iter();
        let more = more.map(|(name, value)| (name.clone().into(), value.clone().into()));
        let headers = self.headers.iter().cloned().chain(more).collect();
        Self {
            exchange: Some(Named {
                name: exchange.name.as_str().into(),
                kind: exchange.kind,
            }),
            key: match &exchange.routing_key {
                Some(key) => key.as_str().into(),
                None => Arc::clone(&self.key),
            },
            headers,
            ..self.clone()
        }
    }

    fn new(event: CloudEvent, Routing { key, headers }: Routing, lane: Option<ExecutionId>) -> Self {
        let body = event.to_json().into();
        Self {
            exchange: None,
            trace_parent: event.trace_parent,
            key,
            id: event.id,
            kind: event.kind,
            at: event.time,
            lane,
            headers,
            body,
        }
    }
}

/// One AMQP message: an event, or several that share a routing key.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The event it is, or the first one it carries.
    pub(super) first: Outgoing,
    /// The event's id; of several events one that no other choice of events has, so that consumers who drop messages whose id they
    /// know lose nothing when events are repeated in another company.
    pub(super) id: String,
    /// The body.
    pub(super) body: Bytes,
    /// The events it carries.
    pub(super) parts: Vec<Part>,
}

impl Message {
    /// A message of one event.
    pub(super) fn single(event: Outgoing, part: Part) -> Self {
        Self {
            body: event.body.clone(),
            id: event.id.clone(),
            first: event,
            parts: vec![part],
        }
    }

    /// The properties it is sent with. `by_headers`: the usual exchange looks at them; `shared_out`: by the execution.
    pub(super) fn properties(&self, by_headers: bool, shared_out: bool) -> BasicProperties {
        let media_type = match self.parts.len() {
            1 => cloud_events::EVENT,
            _ => cloud_events::BATCH,
        };
        let properties = BasicProperties::default()
            .with_content_type(media_type.into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(short(&self.id))
            .with_type(short(&self.first.kind))
            .with_timestamp(u64::try_from(self.first.at.0 / 1_000).unwrap_or(0));
        let mut headers = FieldTable::default();
        let mut insert = |name: &str, value: &str| {
            headers.insert(short(name), AMQPValue::LongString(LongString::from(value)));
        };
        if by_headers || self.first.exchange.is_some() {
            for (name, value) in &*self.first.headers {
                insert(name, value);
            }
        }
        if shared_out {
            insert(BUCKET, &key::bucket(self.first.lane).to_string());
        }
        // Those of several events differ; each event holds its own.
        if let Some(trace_parent) = self.first.trace_parent.as_ref().filter(|_| self.parts.len() == 1) {
            insert(TRACE_PARENT, trace_parent);
        }
        if headers.inner().is_empty() {
            return properties;
        }
        properties.with_headers(headers)
    }
}

/// The text, or as much of it as AMQP's short strings take.
pub(super) fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(255)].into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_core::{CommandId, Json};

    use super::*;

    #[test]
    fn an_id_too_long_for_amqp_is_cut_and_stays_whole_in_the_event() {
        let id = "é".repeat(200);
        let event = Outgoing::of_system(&SystemEvent {
            command: CommandId::from(id.as_str()),
            at: Timestamp(1_790_000_000_123),
            entity: "engine",
            verb: "paused",
            data: Json::object([]),
        });
        let message = Message::single(event, Part { call: 0, place: 0 });
        let properties = message.properties(true, false);
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "é".repeat(127));
        assert_eq!(*properties.timestamp(), Some(1_790_000_000));
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(body["id"], id);
    }
}

//! What a sink has still to send: events of every verb and of every type of node, and controls.

use std::collections::BTreeMap;
use std::sync::Arc;

use troupe_actors::sinks::spool::SpooledRecord;
use troupe_core::definition::{EventExchange, ExchangeType, NodeKind};
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, Outward, Payload};
use troupe_core::{LogPosition, NodeKey, Seq};

use crate::controls;
use crate::events::VERBS;
use crate::values::{AT, id, json};

/// Types of nodes that the format has.
const KINDS: [NodeKind; 14] = [
    NodeKind::Function,
    NodeKind::Http,
    NodeKind::Decision,
    NodeKind::Webhook,
    NodeKind::Trigger,
    NodeKind::Delay,
    NodeKind::Transformation,
    NodeKind::Custom,
    NodeKind::Subworkflow,
    NodeKind::ForEach,
    NodeKind::Loop,
    NodeKind::Database,
    NodeKind::Publish,
    NodeKind::End,
];

pub(crate) fn records() -> Vec<SpooledRecord> {
    let of_verbs = VERBS.map(|verb| (verb, NodeKind::Http));
    let of_kinds = KINDS.map(|kind| (Verb::NodeCompleted, kind));
    let events = of_verbs.into_iter().chain(of_kinds).zip(0..);
    let empty = SpooledRecord {
        position: LogPosition(70_001),
        events: Vec::new(),
        controls: Vec::new(),
    };
    let full = SpooledRecord {
        position: LogPosition(70_000),
        events: events.map(|((verb, kind), part)| event(verb, kind, part)).collect(),
        controls: controls::entries(),
    };
    vec![full, empty]
}

fn event(verb: Verb, kind: NodeKind, part: u32) -> LifecycleEvent {
    let is_of_node = verb.entity() == "node";
    let payload = match part % 3 {
        0 => None,
        1 => Some(Payload::Made(json(r#"{"made":true}"#))),
        _ => Some(Payload::Failed("the template threw".into())),
    };
    let outward = Outward {
        payload,
        exchanges: exchanges(),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    };
    LifecycleEvent {
        execution: id(1),
        workflow: "orders".into(),
        seq: Seq(300),
        part,
        at: AT,
        verb,
        node: is_of_node.then(|| (NodeKey::from("pay"), kind.as_str())),
        compensates: is_of_node,
        data: json(r#"{"attempt":1}"#),
        outward: (part > 0).then_some(outward),
    }
}

fn exchanges() -> Arc<[EventExchange]> {
    let exchange = |kind, routing_key: Option<&str>| EventExchange {
        name: "audit".to_owned(),
        kind,
        routing_key: routing_key.map(str::to_owned),
        headers: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
    };
    [
        exchange(ExchangeType::Topic, Some("orders.paid")),
        exchange(ExchangeType::Fanout, None),
        exchange(ExchangeType::Direct, Some("orders")),
        exchange(ExchangeType::Headers, None),
    ]
    .into()
}

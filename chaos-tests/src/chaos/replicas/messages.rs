//! Messages that a trigger is given: good ones, and every kind that can start nothing.

use serde_json::{Value, json};

use super::replica::BODY_KIB;

/// The workflow that messages start.
pub(super) const WORKFLOW: &str = "orders";
/// Its trigger.
pub(super) const TRIGGER: &str = "on-paid";
/// What messages are published under.
pub(super) const KEY: &str = "order.paid";
/// Deepest nesting of a request's JSON, unless the settings say otherwise.
const NESTING_MAX: usize = 100;

/// The workflow, on an exchange of the trial's own.
pub(super) fn workflow(exchange: &str) -> Value {
    json!({
        "id": WORKFLOW,
        "name": "Orders",
        "settings": {"inputSchema": {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
        }},
        "nodes": [
            {"id": TRIGGER, "type": "trigger", "data": {"triggerType": "event", "config": {
                "exchange": exchange,
                "exchangeType": "topic",
                "routingKey": KEY,
                "filter": "event.data.total > 0",
                "dedupeKey": "event.data.id",
                "mapping": {"n": "event.data.order.n", "more": "event.data.more"},
            }}},
            {"id": "ship", "type": "function", "data": {"handlerId": "echo"}},
        ],
        "edges": [{"source": TRIGGER, "target": "ship"}],
    })
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) media_type: &'static str,
    pub(super) body: Vec<u8>,
}

const JSON: &str = "application/json";

/// An order that starts an execution. `copy`: the same order comes again as another message.
pub(super) fn good(n: u64, copy: u32) -> Message {
    let order = json!({"id": format!("o-{n}"), "total": 5, "order": {"n": n}});
    Message {
        id: format!("good-{n}.{copy}"),
        media_type: JSON,
        body: order.to_string().into_bytes(),
    }
}

/// An order that the filter leaves out.
pub(super) fn filtered(n: u64) -> Message {
    let order = json!({"id": format!("f-{n}"), "total": 0, "order": {"n": n}});
    Message {
        id: format!("filtered-{n}"),
        media_type: JSON,
        body: order.to_string().into_bytes(),
    }
}

/// Why a message can start nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Poison {
    /// It is no JSON.
    Torn,
    /// A name comes twice in an object.
    NameTwice,
    /// It nests deeper than anything may.
    Deep,
    /// It nests as deep as a body may, and as a start payload it would be deeper.
    DeepAsPayload,
    /// It says that it is a batch, and is none.
    NoBatch,
    /// A CloudEvent has no id.
    NoId,
    /// Its text is not UTF-8.
    NoText,
    /// The mapping fails on it.
    Unmapped,
    /// It has no dedupe key.
    NoKey,
    /// The schema of the workflow refuses the payload.
    NoNumber,
    /// It is larger than a payload may be.
    Huge,
}

impl Poison {
    pub(super) const ALL: [Self; 11] = [
        Self::Torn,
        Self::NameTwice,
        Self::Deep,
        Self::DeepAsPayload,
        Self::NoBatch,
        Self::NoId,
        Self::NoText,
        Self::Unmapped,
        Self::NoKey,
        Self::NoNumber,
        Self::Huge,
    ];

    /// What its reason may begin with.
    pub(super) fn reasons(self) -> &'static [&'static str] {
        match self {
            Self::Torn => &["INVALID_JSON"],
            Self::NameTwice => &["DUPLICATE_KEY"],
            Self::Deep | Self::DeepAsPayload => &["NESTING_TOO_DEEP"],
            Self::NoBatch | Self::NoId | Self::NoText => &["TRIGGER_MESSAGE_INVALID"],
            Self::Unmapped | Self::NoKey => &["TRIGGER_EXPRESSION_FAILED"],
            Self::NoNumber => &["SCHEMA_VIOLATION"],
            // As a payload, or as the body of the request to the member that has the shard.
            Self::Huge => &["PAYLOAD_TOO_LARGE", "BODY_TOO_LARGE"],
        }
    }

    /// A message of the kind.
    pub(super) fn message(self, n: u64) -> Message {
        let order = |more: Value| json!({"id": format!("p-{self:?}-{n}"), "total": 5, "order": {"n": n}, "more": more});
        let nested = |depth: usize| {
            let whole = order(json!("HERE")).to_string();
            whole.replace("\"HERE\"", &format!("{}{}", "[".repeat(depth), "]".repeat(depth)))
        };
        let (media_type, body) = match self {
            Self::Torn => (JSON, "{\"id\":".to_owned().into_bytes()),
            Self::NameTwice => (JSON, "{\"id\":\"p\",\"id\":\"q\"}".to_owned().into_bytes()),
            Self::Deep => (JSON, nested(NESTING_MAX).into_bytes()),
            Self::DeepAsPayload => (JSON, nested(NESTING_MAX - 1).into_bytes()),
            Self::NoBatch => ("application/cloudevents-batch+json", b"{}".to_vec()),
            Self::NoId => ("application/cloudevents+json", b"{\"source\":\"/s\"}".to_vec()),
            Self::NoText => ("text/plain", vec![0xff, 0xfe]),
            Self::Unmapped => (
                JSON,
                json!({"id": format!("p-{n}"), "total": 5}).to_string().into_bytes(),
            ),
            Self::NoKey => (JSON, json!({"total": 5, "order": {"n": n}}).to_string().into_bytes()),
            Self::NoNumber => {
                let order = json!({"id": format!("p-s-{n}"), "total": 5, "order": {"n": "no number"}});
                (JSON, order.to_string().into_bytes())
            }
            Self::Huge => {
                let more = "x".repeat(2 * BODY_KIB * 1024);
                (JSON, order(Value::from(more)).to_string().into_bytes())
            }
        };
        Message {
            id: format!("poison-{self:?}-{n}"),
            media_type,
            body,
        }
    }
}

//! The typed view of a trigger that messages of a broker fire.

use std::collections::BTreeMap;

use serde_json::Value;

use super::events::{ExchangeType, read_short, read_texts};
use super::settings::errors_or;
use super::view::View;
use super::{Diagnostic, Node, NodeKind, Path, Problems, code};

/// Messages that a member takes ahead where the trigger does not say.
pub const PREFETCH_DEFAULT: u16 = 32;
/// Most messages that it may take ahead.
const PREFETCH_MAX: u64 = 1_000;
/// Most routing keys of a trigger.
const KEYS_MAX: usize = 64;
/// Longest short string of AMQP.
const KEY_BYTES_MAX: usize = 255;

/// The fields of `config`.
const KNOWN: &[&str] = &[
    "exchange",
    "exchangeType",
    "routingKey",
    "headers",
    "filter",
    "mapping",
    "dedupeKey",
    "prefetch",
];

/// What a message gives the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartMapping {
    /// The value of this expression.
    Whole(String),
    /// An object of expressions.
    Members(Vec<(String, String)>),
}

/// A trigger that messages fire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventTrigger {
    /// Where the messages come from; none: where this deployment publishes its own events.
    pub exchange: Option<String>,
    /// Its type: it is declared, durable. None: it must be there.
    pub exchange_type: Option<ExchangeType>,
    /// Binding keys.
    pub routing_keys: Vec<String>,
    /// Binding of a `headers` exchange: all must match.
    pub headers: BTreeMap<String, String>,
    /// The expression that a message must fulfil.
    pub filter: Option<String>,
    /// What the start payload is made of; none: the data of the message.
    pub mapping: Option<StartMapping>,
    /// The expression that gives the key under which a message starts something once; none: the id that it has.
    pub dedupe_key: Option<String>,
    /// Messages that a member takes ahead.
    pub prefetch: u16,
}

impl Node {
    /// The typed view of a trigger that messages fire; none for other nodes.
    ///
    /// # Errors
    ///
    /// Every field of the wrong shape, with pointers relative to the node.
    pub fn event_trigger(&self) -> Result<Option<EventTrigger>, Vec<Diagnostic>> {
        let mut problems = Problems::default();
        let trigger = EventTrigger::read(self, &Path::root(), &mut problems);
        errors_or(trigger, problems)
    }
}

impl EventTrigger {
    /// Reads the trigger of the node at `path`, with defaults in place of what is wrong.
    pub fn read(node: &Node, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        if node.kind() != Some(NodeKind::Trigger) || node.text_field("triggerType") != Some("event") {
            return None;
        }
        let read = node.with_holder("config", path, |holder| {
            let view = View::of(holder.value("config")?, holder.path("config"), problems)?;
            Some(Self::of(&view, &holder.path("config"), problems))
        });
        if read.is_none() && node.field("config").is_none() {
            let message = "an event trigger needs `data.config` with the `routingKey` of its messages";
            problems.error(code::MISSING_FIELD, &path.key("data"), message);
        }
        Some(read.unwrap_or_default())
    }

    fn of(view: &View<'_>, path: &Path<'_>, problems: &mut Problems) -> Self {
        view.refuse_others(KNOWN, problems);
        let text = |name: &str, problems: &mut Problems| read_short(view, name, problems);
        let exchange = text("exchange", problems);
        if exchange.as_deref() == Some("") {
            let message = "`exchange` is empty: queues cannot be bound to the default exchange";
            problems.error(code::INVALID_VALUE, &view.path("exchange"), message);
        }
        let exchange_type = view.word("exchangeType", ExchangeType::WORDS, ExchangeType::parse, problems);
        let mut routing_keys = view.texts("routingKey", problems).unwrap_or_default();
        if routing_keys.len() > KEYS_MAX || routing_keys.iter().any(|key| key.len() > KEY_BYTES_MAX) {
            let message = format!("`routingKey` has at most {KEYS_MAX} keys of at most {KEY_BYTES_MAX} bytes");
            problems.error(code::INVALID_VALUE, &view.path("routingKey"), message);
            routing_keys.clear();
        }
        let headers = read_texts(view, "headers", problems);
        if exchange_type == Some(ExchangeType::Fanout) && routing_keys.is_empty() {
            routing_keys.push(String::new());
        }
        if view.value("routingKey").is_none() && headers.is_empty() && routing_keys.is_empty() {
            let message = "an event trigger needs the `routingKey` of its messages (`#`: all), or `headers`";
            problems.error(code::MISSING_FIELD, path, message);
        }
        // That they are expressions is checked where all expressions are.
        let source = |name: &str| view.value(name).and_then(Value::as_str).map(str::to_owned);
        let prefetch = view.whole("prefetch", 1, PREFETCH_MAX, problems);
        Self {
            exchange,
            exchange_type,
            routing_keys,
            headers,
            filter: source("filter"),
            mapping: read_mapping(view, problems),
            dedupe_key: source("dedupeKey"),
            prefetch: prefetch
                .and_then(|most| u16::try_from(most).ok())
                .unwrap_or(PREFETCH_DEFAULT),
        }
    }
}

fn read_mapping(view: &View<'_>, problems: &mut Problems) -> Option<StartMapping> {
    match view.value("mapping")? {
        Value::String(source) => Some(StartMapping::Whole(source.clone())),
        Value::Object(members) => {
            let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
            Some(StartMapping::Members(members.iter().filter_map(text).collect()))
        }
        _ => {
            let message = "`mapping` is an expression or an object of expressions";
            problems.error(code::FIELD_TYPE, &view.path("mapping"), message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn read(config: Value) -> Result<EventTrigger, Vec<String>> {
        let node = json!({"id": "t", "type": "trigger", "data": {"triggerType": "event", "config": config}});
        let node: Node = serde_json::from_value(node).unwrap();
        let told = |problems: Vec<Diagnostic>| {
            let told = problems
                .iter()
                .map(|problem| format!("{} {}", problem.code, problem.pointer));
            told.collect()
        };
        node.event_trigger().map(Option::unwrap).map_err(told)
    }

    #[test]
    fn a_trigger_is_read() {
        let trigger = read(json!({
            "exchange": "orders", "exchangeType": "topic", "routingKey": ["a.*", "b.#"], "filter": "event.data.ok",
            "mapping": {"id": "event.data.id"}, "dedupeKey": "event.data.id", "prefetch": 5,
        }))
        .unwrap();
        assert_eq!(trigger.routing_keys, ["a.*", "b.#"]);
        assert_eq!(
            (trigger.exchange_type, trigger.prefetch),
            (Some(ExchangeType::Topic), 5)
        );
        let members = vec![("id".to_owned(), "event.data.id".to_owned())];
        assert_eq!(trigger.mapping, Some(StartMapping::Members(members)));
        assert_eq!(read(json!({"routingKey": "#"})).unwrap().prefetch, PREFETCH_DEFAULT);
        assert_eq!(read(json!({"exchangeType": "fanout"})).unwrap().routing_keys, [""]);
        assert!(read(json!({"headers": {"a": "b"}})).unwrap().routing_keys.is_empty());
    }

    #[test]
    fn slips_are_refused() {
        let slips = [
            (json!({"routingkey": "a"}), "UNKNOWN_FIELD /data/config/routingkey"),
            (json!({"exchange": "a"}), "MISSING_FIELD /data/config"),
            (
                json!({"routingKey": "a", "exchange": ""}),
                "INVALID_VALUE /data/config/exchange",
            ),
            (
                json!({"routingKey": "a", "exchangeType": "x"}),
                "INVALID_VALUE /data/config/exchangeType",
            ),
            (
                json!({"routingKey": "a", "mapping": 1}),
                "FIELD_TYPE /data/config/mapping",
            ),
            (
                json!({"routingKey": "a", "prefetch": 0}),
                "INVALID_VALUE /data/config/prefetch",
            ),
            (json!(null), "MISSING_FIELD /data"),
        ];
        for (config, expected) in slips {
            let problems = read(config.clone()).unwrap_err();
            assert!(
                problems.iter().any(|problem| problem == expected),
                "{config}: {problems:?}"
            );
        }
    }
}

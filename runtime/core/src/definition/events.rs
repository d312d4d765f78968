//! The typed view of `settings.events`: which events brokers publish, with which payload, and where else.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::kind::words;
use super::problems::did_you_mean_or_list;
use super::read::describe;
use super::view::View;
use super::{Path, Problems, code};
use crate::execution::Verb;

words! {
    /// How an exchange hands messages on.
    ExchangeType {
        /// By patterns over the words of the routing key.
        Topic = "topic",
        /// To everyone who is bound.
        Fanout = "fanout",
        /// By the whole routing key.
        Direct = "direct",
        /// By headers.
        Headers = "headers",
    }
}

/// Verbs of nodes that can be chosen.
const NODE_VERBS: [(&str, Verb); 8] = [
    ("scheduled", Verb::NodeScheduled),
    ("started", Verb::NodeStarted),
    ("waiting", Verb::NodeWaiting),
    ("retrying", Verb::NodeRetrying),
    ("completed", Verb::NodeCompleted),
    ("failed", Verb::NodeFailed),
    ("skipped", Verb::NodeSkipped),
    ("canceled", Verb::NodeCanceled),
];
/// Most exchanges beside the usual one.
const EXCHANGES_MAX: usize = 8;
/// Longest short string of AMQP.
const NAME_BYTES_MAX: usize = 255;

/// Which events of nodes are published. Those of executions always are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeEvents {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those with one of these verbs.
    Of(Vec<Verb>),
}

impl NodeEvents {
    fn holds(&self, verb: Verb) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Of(verbs) => verbs.contains(&verb),
        }
    }
}

/// An exchange that events go to beside the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventExchange {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ExchangeType,
    /// The routing key; none: the event's own.
    pub routing_key: Option<String>,
    /// Headers beside those that every message has.
    pub headers: BTreeMap<String, String>,
}

/// What brokers publish of a workflow's executions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventSettings {
    /// Which events of nodes.
    pub nodes: NodeEvents,
    /// The template of what goes out as an event's data.
    pub payload: Option<Value>,
    /// Where else they go.
    pub exchanges: Arc<[EventExchange]>,
}

const KNOWN: &[&str] = &["nodes", "payload", "exchanges"];
const EXCHANGE_KNOWN: &[&str] = &["name", "type", "routingKey", "headers"];

impl EventSettings {
    /// Whether an event is published. Depends on nothing but the definition, so whoever derives it again decides the same.
    #[must_use]
    pub fn publishes(&self, verb: Verb) -> bool {
        verb.entity() != "node" || self.nodes.holds(verb)
    }

    /// Reads `settings.events`, with the default in place of what is wrong.
    pub(super) fn read(settings: &View<'_>, problems: &mut Problems) -> Self {
        let Some(value) = settings.value("events") else {
            return Self::default();
        };
        let Some(view) = View::of(value, settings.path("events"), problems) else {
            return Self::default();
        };
        view.refuse_others(KNOWN, problems);
        Self {
            nodes: read_nodes(&view, problems),
            payload: view.value("payload").cloned(),
            exchanges: read_exchanges(&view, problems).into(),
        }
    }
}

fn read_nodes(view: &View<'_>, problems: &mut Problems) -> NodeEvents {
    let words: Vec<&str> = NODE_VERBS.iter().map(|(word, _)| *word).collect();
    let wrong = |problems: &mut Problems, path: &Path<'_>, text: &str, words: &[&str]| {
        let message = format!("`{text}` chooses no events of nodes");
        problems.error_hint(code::INVALID_VALUE, path, message, did_you_mean_or_list(text, words));
    };
    let path = view.path("nodes");
    match view.value("nodes") {
        None => NodeEvents::None,
        Some(Value::String(text)) => match text.as_str() {
            "none" => NodeEvents::None,
            "all" => NodeEvents::All,
            other => {
                wrong(problems, &path, other, &["none", "all"]);
                NodeEvents::None
            }
        },
        Some(Value::Array(items)) => {
            let mut verbs = Vec::with_capacity(items.len());
            for (at, item) in items.iter().enumerate() {
                let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
                match NODE_VERBS.iter().find(|(word, _)| *word == text) {
                    Some((_, verb)) => verbs.push(*verb),
                    None => wrong(problems, &path.index(at), &text, &words),
                }
            }
            NodeEvents::Of(verbs)
        }
        Some(other) => {
            let message = format!(
                "`nodes` must be none, all or a list of verbs, this is {}",
                describe(other)
            );
            problems.error_hint(
                code::FIELD_TYPE,
                &path,
                message,
                Some(format!("one of: {}", words.join(", "))),
            );
            NodeEvents::None
        }
    }
}

fn read_exchanges(view: &View<'_>, problems: &mut Problems) -> Vec<EventExchange> {
    let path = view.path("exchanges");
    let items = match view.value("exchanges") {
        None => return Vec::new(),
        Some(Value::Array(items)) => items,
        Some(other) => {
            let message = format!("`exchanges` must be a list, this is {}", describe(other));
            problems.error(code::FIELD_TYPE, &path, message);
            return Vec::new();
        }
    };
    if items.len() > EXCHANGES_MAX {
        let message = format!("events go to at most {EXCHANGES_MAX} exchanges beside the usual one");
        problems.error(code::INVALID_VALUE, &path, message);
        return Vec::new();
    }
    let mut exchanges: Vec<EventExchange> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let place = path.index(at);
        let Some(view) = View::of(item, path.index(at), problems) else {
            continue;
        };
        view.refuse_others(EXCHANGE_KNOWN, problems);
        let Some(name) = read_short(&view, "name", problems).filter(|name| !name.is_empty()) else {
            problems.error(code::MISSING_FIELD, &place, "an exchange needs a `name`");
            continue;
        };
        if exchanges.iter().any(|known| known.name == name) {
            let message = format!("events go to the exchange `{name}` once");
            problems.error(code::INVALID_VALUE, &place.key("name"), message);
        }
        let kind = view.word("type", ExchangeType::WORDS, ExchangeType::parse, problems);
        exchanges.push(EventExchange {
            name,
            kind: kind.unwrap_or(ExchangeType::Topic),
            routing_key: read_short(&view, "routingKey", problems),
            headers: read_texts(&view, "headers", problems),
        });
    }
    exchanges
}

/// A text that AMQP takes as a name or a key.
pub(super) fn read_short(view: &View<'_>, name: &str, problems: &mut Problems) -> Option<String> {
    let text = view.text(name, problems)?;
    if text.len() > NAME_BYTES_MAX {
        let message = format!("`{name}` has at most {NAME_BYTES_MAX} bytes");
        problems.error(code::INVALID_VALUE, &view.path(name), message);
        return None;
    }
    Some(text.to_owned())
}

/// Texts by name.
pub(super) fn read_texts(view: &View<'_>, name: &str, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let path = view.path(name);
    for (key, value) in view.object(name, problems).into_iter().flatten() {
        match value.as_str() {
            Some(text) if (1..=NAME_BYTES_MAX).contains(&key.len()) => {
                texts.insert(key.clone(), text.to_owned());
            }
            Some(_) => {
                let message = format!("a header's name has 1 to {NAME_BYTES_MAX} bytes");
                problems.error(code::INVALID_VALUE, &path.key(key), message);
            }
            None => {
                let message = format!("a header is a string, this is {}", describe(value));
                problems.error(code::FIELD_TYPE, &path.key(key), message);
            }
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::definition::{Diagnostic, Settings};

    fn read(events: Value) -> (EventSettings, Vec<String>) {
        let settings = json!({ "events": events });
        let mut problems = Problems::default();
        let read = settings
            .as_object()
            .map(|settings| Settings::read(settings, &mut problems));
        let told = |problem: &Diagnostic| format!("{} {} {:?}", problem.code, problem.pointer, problem.hint);
        (
            read.unwrap_or_default().events,
            problems.into_diagnostics().iter().map(told).collect(),
        )
    }

    #[test]
    fn executions_are_published_and_nodes_are_chosen() {
        let (default, problems) = read(Value::Null);
        assert_eq!((default.clone(), problems.len()), (EventSettings::default(), 0));
        for verb in [Verb::ExecutionCreated, Verb::ExecutionPaused, Verb::ExecutionFailed] {
            assert!(default.publishes(verb), "{verb:?}");
        }
        assert!(!default.publishes(Verb::NodeCompleted));
        let chosen = read(json!({"nodes": ["completed", "failed"]})).0;
        assert!(chosen.publishes(Verb::NodeCompleted) && chosen.publishes(Verb::NodeFailed));
        assert!(!chosen.publishes(Verb::NodeStarted) && chosen.publishes(Verb::ExecutionCompleted));
        assert!(read(json!({"nodes": "all"})).0.publishes(Verb::NodeSkipped));
        assert!(!read(json!({"nodes": "none"})).0.publishes(Verb::NodeSkipped));
    }

    #[test]
    fn exchanges_are_read() {
        let (read, problems) = read(json!({"exchanges": [
            {"name": "audit", "type": "headers", "routingKey": "k", "headers": {"team": "a"}}, {"name": "all"},
        ]}));
        assert_eq!(problems, Vec::<String>::new());
        let audit = EventExchange {
            name: "audit".to_owned(),
            kind: ExchangeType::Headers,
            routing_key: Some("k".to_owned()),
            headers: [("team".to_owned(), "a".to_owned())].into(),
        };
        assert_eq!(read.exchanges.first(), Some(&audit));
        assert_eq!(read.exchanges.get(1).map(|other| other.kind), Some(ExchangeType::Topic));
    }

    #[test]
    fn slips_are_refused_and_told() {
        let (_, problems) = read(json!({
            "node": "all",
            "nodes": ["complete", 7],
            "exchanges": [{"name": "a", "typ": "topic", "headers": {"x": 1}}, {"type": "topik"}, {"name": "a"}],
        }));
        let expected = [
            "UNKNOWN_FIELD /settings/events/node Some(\"did you mean `nodes`?\")",
            "INVALID_VALUE /settings/events/nodes/0 Some(\"did you mean `completed`?\")",
            "UNKNOWN_FIELD /settings/events/exchanges/0/typ Some(\"did you mean `type`?\")",
            "FIELD_TYPE /settings/events/exchanges/0/headers/x None",
            "MISSING_FIELD /settings/events/exchanges/1 None",
            "INVALID_VALUE /settings/events/exchanges/2/name None",
        ];
        for expected in expected {
            assert!(
                problems.iter().any(|problem| problem == expected),
                "{expected}\n{problems:#?}"
            );
        }
        assert!(!read(json!({"nodes": "some"})).1.is_empty());
        assert!(!read(json!({"nodes": 3})).1.is_empty());
        assert!(!read(json!([])).1.is_empty());
        assert!(!read(json!({"exchanges": vec![json!({"name": "a"}); 9]})).1.is_empty());
    }
}

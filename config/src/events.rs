//! How events reach RabbitMQ: what can be set, and what is refused.

use std::collections::{BTreeMap, BTreeSet};

use crate::raw::{RawEvents, RawQueue};
use crate::settings::Checks;

/// Longest name of a queue, which leaves room in a name of AMQP for what goes before it.
const NAME_BYTES_MAX: usize = 200;
/// Longest key and longest name of a header that AMQP carries.
const KEY_BYTES_MAX: usize = 255;

/// How events reach RabbitMQ, and what waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSettings {
    /// Whether RabbitMQ gets the events of nodes that workflows choose.
    pub nodes: bool,
    /// The type of the exchange that events go to.
    pub exchange_type: ExchangeType,
    /// What is made in RabbitMQ.
    pub declares: Declares,
    /// Queues behind the exchange, beside those of partitions.
    pub queues: Vec<EventQueue>,
    /// What becomes of an event that no queue is bound for.
    pub unroutable: Unroutable,
    /// Limits of a message that carries several events; none: one message an event.
    pub batch: Option<EventBatch>,
    /// Queues that share all events by execution; 0: none.
    pub partitions: u16,
    /// Bytes that may wait in the log of a shard before they are moved to its spool.
    pub spool_above_bytes: u64,
    /// Bytes that may wait, a shard, before starts are refused.
    pub refuse_bytes: u64,
    /// Bytes that may wait, a shard, before attempts are held too.
    pub hold_bytes: u64,
}

/// How an exchange hands messages on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExchangeType {
    /// By patterns over the words of the routing key.
    #[default]
    Topic,
    /// To everyone who is bound.
    Fanout,
    /// By the whole routing key.
    Direct,
    /// By headers.
    Headers,
}

/// What is made in RabbitMQ; the rest must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Declares {
    /// Exchanges, queues and their bindings.
    #[default]
    All,
    /// Queues and their bindings.
    Queues,
    /// Nothing.
    Nothing,
}

/// What becomes of an event that no queue is bound for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unroutable {
    /// It is counted, and nobody gets it.
    #[default]
    Drop,
    /// It is published again until a queue is bound; what comes after it waits.
    Fail,
}

/// A durable quorum queue behind the exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQueue {
    /// Its name behind `<store.prefix>.queue.`.
    pub name: String,
    /// Keys that it is bound by: on a topic or direct exchange.
    pub keys: Vec<String>,
    /// Headers that it is bound by, all of a table together: on a headers exchange.
    pub headers: Vec<BTreeMap<String, String>>,
    /// Name, behind the same, of the queue that takes what consumers reject.
    pub dead_letter: Option<String>,
}

/// Limits of a message that carries several events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventBatch {
    /// Most events.
    pub events_max: usize,
    /// Bytes beyond which it takes no further event.
    pub bytes_max: usize,
}

const EXCHANGE_TYPES: &[(&str, ExchangeType)] = &[
    ("topic", ExchangeType::Topic),
    ("fanout", ExchangeType::Fanout),
    ("direct", ExchangeType::Direct),
    ("headers", ExchangeType::Headers),
];
const DECLARES: &[(&str, Declares)] = &[
    ("all", Declares::All),
    ("queues", Declares::Queues),
    ("nothing", Declares::Nothing),
];
const UNROUTABLE: &[(&str, Unroutable)] = &[("drop", Unroutable::Drop), ("fail", Unroutable::Fail)];

impl Checks {
    pub(crate) fn events(&mut self, raw: &RawEvents) -> EventSettings {
        const MIB: u64 = 1024 * 1024;
        // With more, some queues would get far fewer executions than others.
        const PARTITIONS_MAX: u64 = 32;
        let exchange_type = self.word("events.exchange_type", &raw.exchange_type, EXCHANGE_TYPES);
        let declares = self.word("events.declare", &raw.declare, DECLARES);
        let events_max = self.range("events.batch_max", raw.batch_max, 0, 10_000) as usize;
        let bytes_max = self.range("events.batch_kib", raw.batch_kib, 1, 16 * 1024) as usize * 1024;
        let settings = EventSettings {
            nodes: raw.nodes,
            exchange_type,
            declares,
            queues: self.queues(&raw.queues, exchange_type, declares),
            unroutable: self.word("events.unroutable", &raw.unroutable, UNROUTABLE),
            batch: (events_max > 0).then_some(EventBatch { events_max, bytes_max }),
            partitions: self.range("events.partitions", raw.partitions, 0, PARTITIONS_MAX) as u16,
            spool_above_bytes: self.range("events.spool_above_mib", raw.spool_above_mib, 0, MIB) * MIB,
            refuse_bytes: self.range("events.refuse_mib", raw.refuse_mib, 1, MIB) * MIB,
            hold_bytes: self.range("events.hold_mib", raw.hold_mib, 1, MIB) * MIB,
        };
        if settings.partitions > 0 && exchange_type == ExchangeType::Direct {
            let message = "a direct exchange cannot hand on everything, as partitions need it".to_owned();
            let hint = "give another `events.exchange_type`, or 0 partitions".to_owned();
            self.complain("events.partitions", message, hint);
        }
        if settings.hold_bytes < settings.refuse_bytes {
            let message = format!("{} is less than events.refuse_mib", raw.hold_mib);
            let hint = "attempts are held only once starts are refused: give at least as much".to_owned();
            self.complain("events.hold_mib", message, hint);
        }
        settings
    }

    /// What a word means; the default where it means nothing.
    fn word<T: Copy + Default>(&mut self, key: &'static str, text: &str, words: &[(&str, T)]) -> T {
        if let Some((_, meant)) = words.iter().find(|(word, _)| *word == text) {
            return *meant;
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let hint = format!("use {}", known.join(" or "));
        self.complain(key, format!("`{text}` is none of its values"), hint);
        T::default()
    }

    fn queues(&mut self, raw: &[RawQueue], kind: ExchangeType, declares: Declares) -> Vec<EventQueue> {
        let mut names = BTreeSet::new();
        let dead_letters: BTreeSet<&str> = raw.iter().map(|queue| queue.dead_letter.as_str()).collect();
        for queue in raw {
            let mut complaints = complaints_of_names(queue);
            // What consumers of another one reject comes to it, bound or not.
            let may_be_unbound = dead_letters.contains(queue.name.as_str()) && is_unbound(queue);
            // Whoever binds a queue that is somebody else's knows how.
            if declares != Declares::Nothing && !may_be_unbound {
                complaints.extend(complaint_of_binding(queue, kind));
            }
            if !names.insert(queue.name.as_str()) {
                complaints.push(("it is there twice", "give each queue once, with all its keys"));
            }
            for (message, hint) in complaints {
                let message = format!("queue `{}`: {message}", queue.name);
                self.complain("events.queues", message, hint.to_owned());
            }
        }
        if declares != Declares::Nothing {
            self.rings(raw);
        }
        let read = |queue: &RawQueue| EventQueue {
            name: queue.name.clone(),
            keys: queue.keys.clone(),
            headers: queue.headers.clone(),
            dead_letter: (!queue.dead_letter.is_empty()).then(|| queue.dead_letter.clone()),
        };
        raw.iter().map(read).collect()
    }

    /// Complains of queues whose rejected messages come back to them over others, once for each ring.
    fn rings(&mut self, raw: &[RawQueue]) {
        let led_on = raw.iter().filter(|queue| !queue.dead_letter.is_empty());
        let led_on = led_on.map(|queue| (queue.name.as_str(), queue.dead_letter.as_str()));
        let next: BTreeMap<&str, &str> = led_on.collect();
        for &first in next.keys() {
            let Some(ring) = ring_of(first, &next) else { continue };
            // That one is its own is told already; each ring is told from the least of its names on.
            if ring.len() == 1 || ring.iter().min() != Some(&first) {
                continue;
            }
            let message = format!(
                "queue `{first}`: what its consumers reject comes back to it: {} -> {first}",
                ring.join(" -> ")
            );
            let hint = "leave out the `dead_letter` of the last one, or name a queue that has none".to_owned();
            self.complain("events.queues", message, hint);
        }
    }
}

/// The queues from `first` on, each the `dead_letter` of the one before; none where they do not lead back to it.
fn ring_of<'a>(first: &'a str, next: &BTreeMap<&'a str, &'a str>) -> Option<Vec<&'a str>> {
    let mut ring = vec![first];
    let mut queue = *next.get(first)?;
    while queue != first {
        // They run in a ring that it does not belong to.
        if ring.len() == next.len() {
            return None;
        }
        ring.push(queue);
        queue = *next.get(queue)?;
    }
    Some(ring)
}

fn is_unbound(queue: &RawQueue) -> bool {
    queue.keys.is_empty() && queue.headers.is_empty()
}

type Complaint = (&'static str, &'static str);

/// What AMQP cannot carry or does not take, whatever the exchange.
fn complaints_of_names(queue: &RawQueue) -> Vec<Complaint> {
    let is_key = |text: &str| (1..=KEY_BYTES_MAX).contains(&text.len());
    let is_name = |text: &str| (1..=NAME_BYTES_MAX).contains(&text.len());
    let mut headers = queue.headers.iter().flat_map(BTreeMap::keys);
    let dead_letter = queue.dead_letter.as_str();
    let names_fit = is_name(&queue.name) && (dead_letter.is_empty() || is_name(dead_letter));
    let wrong = [
        (!names_fit, ("a name has 1 to 200 bytes", "give another name")),
        (
            !dead_letter.is_empty() && dead_letter == queue.name,
            (
                "it is its own `dead_letter`",
                "name another queue for what consumers reject",
            ),
        ),
        (
            !queue.keys.iter().all(|key| is_key(key)),
            ("a key has 1 to 255 bytes", "write \"#\" for every key"),
        ),
        (
            headers.any(|name| !is_key(name) || name.starts_with("x-")),
            (
                "RabbitMQ compares no header with such a name",
                "use `workflow`, `entity`, `verb` or, for nodes, `nodeType`",
            ),
        ),
    ];
    let wrong = wrong.into_iter().filter(|(is_wrong, _)| *is_wrong);
    wrong.map(|(_, complaint)| complaint).collect()
}

/// Why such an exchange would hand a queue nothing, or more than it asks for.
fn complaint_of_binding(queue: &RawQueue, kind: ExchangeType) -> Option<Complaint> {
    let (keys, headers) = (&queue.keys, &queue.headers);
    let by_keys_alone = ("only a headers exchange looks at `headers`", "give `keys` instead");
    match kind {
        ExchangeType::Topic | ExchangeType::Direct if !headers.is_empty() => Some(by_keys_alone),
        ExchangeType::Topic => keys.is_empty().then_some((
            "it has no `keys`, so nothing comes to it",
            "give keys = [\"#\"] for every event, or patterns such as \"*.execution.failed\"",
        )),
        // No word of an event's key has one of them.
        ExchangeType::Direct => (keys.is_empty() || keys.iter().any(|key| key.contains(['*', '#']))).then_some((
            "a direct exchange compares whole keys, so nothing comes to it",
            "give keys such as \"orders.execution.failed\"",
        )),
        ExchangeType::Fanout => (!keys.is_empty() || !headers.is_empty()).then_some((
            "a fanout exchange looks at neither `keys` nor `headers`",
            "leave them out: every event comes to it",
        )),
        ExchangeType::Headers => (!keys.is_empty() || headers.is_empty()).then_some((
            "a headers exchange looks at `headers`, not at `keys`",
            "give headers = [{ verb = \"failed\" }], or headers = [{}] for every event",
        )),
    }
}

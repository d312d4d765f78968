//! Which messages reach the queue of a trigger.

use std::collections::BTreeMap;

use troupe_core::definition::{EventTrigger, ExchangeType};

use crate::auth::sha256;

/// Longest name of a queue, less what its dead-letter queue adds.
const NAME_BYTES_MAX: usize = 200;
/// Behind the name of a queue, of the one that takes what can start nothing.
const DEAD: &str = ".dead";

/// The queue of a trigger, and how it is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The queue: one a trigger, whatever the version.
    pub(crate) queue: String,
    /// Takes the messages that can start nothing.
    pub(crate) dead_letters: String,
    /// The exchange; none: this deployment's own.
    pub(crate) exchange: Option<String>,
    /// Its type, where it is declared.
    pub(crate) exchange_type: Option<ExchangeType>,
    /// Binding keys.
    pub(crate) keys: Vec<String>,
    /// All headers of one must match.
    pub(crate) headers: Vec<BTreeMap<String, String>>,
}

impl Binding {
    pub(super) fn of(prefix: &str, workflow: &str, node: &str, trigger: &EventTrigger) -> Self {
        let queue = queue_name(prefix, workflow, node);
        Self {
            dead_letters: format!("{queue}{DEAD}"),
            queue,
            exchange: trigger.exchange.clone(),
            exchange_type: trigger.exchange_type,
            keys: trigger.routing_keys.clone(),
            headers: [&trigger.headers]
                .into_iter()
                .filter(|headers| !headers.is_empty())
                .cloned()
                .collect(),
        }
    }

    /// Takes in another one of the same queue and exchange; false if it is of others.
    pub(super) fn merge(&mut self, other: &Self) -> bool {
        let same = other.exchange == self.exchange && other.queue == self.queue;
        if same {
            let keys = other.keys.iter().filter(|key| !self.keys.contains(key));
            let keys: Vec<String> = keys.cloned().collect();
            self.keys.extend(keys);
            let headers = other.headers.iter().filter(|headers| !self.headers.contains(headers));
            let headers: Vec<_> = headers.cloned().collect();
            self.headers.extend(headers);
        }
        same
    }

    /// What of it is not in another binding of the same queue; none when nothing is left.
    pub(super) fn without(&self, other: Option<&Self>) -> Option<Self> {
        let other = other.filter(|other| other.exchange == self.exchange && other.queue == self.queue);
        let mut left = self.clone();
        if let Some(other) = other {
            left.keys.retain(|key| !other.keys.contains(key));
            left.headers.retain(|headers| !other.headers.contains(headers));
        }
        (!left.keys.is_empty() || !left.headers.is_empty()).then_some(left)
    }
}

/// `<prefix>.trigger.<workflow>.<node>`; a long one is cut and ends in `~` and a part of its hash.
fn queue_name(prefix: &str, workflow: &str, node: &str) -> String {
    let word = |text: &str| text.replace('%', "%25").replace('.', "%2E").replace('~', "%7E");
    let name = format!("{prefix}.trigger.{}.{}", word(workflow), word(node));
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    let hash: String = sha256(name.as_bytes())[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let kept = &name[..name.floor_char_boundary(NAME_BYTES_MAX - hash.len() - 1)];
    format!("{kept}~{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(exchange: &str, keys: &[&str]) -> Binding {
        let trigger = EventTrigger {
            exchange: Some(exchange.to_owned()),
            routing_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..EventTrigger::default()
        };
        Binding::of("troupe", "w", "t", &trigger)
    }

    #[test]
    fn queues_of_different_triggers_have_different_names() {
        assert_eq!(
            queue_name("troupe", "orders", "on-paid"),
            "troupe.trigger.orders.on-paid"
        );
        assert_ne!(queue_name("p", "a.b", "c"), queue_name("p", "a", "b.c"));
        let long = "x".repeat(300);
        let [one, other] = [format!("{long}1"), format!("{long}2")].map(|node| queue_name("p", "w", &node));
        assert_ne!(one, other);
        assert!(one.len() <= NAME_BYTES_MAX && other.len() <= NAME_BYTES_MAX);
    }

    #[test]
    fn bindings_of_a_queue_go_together() {
        let mut all = binding("a", &["x", "y"]);
        assert!(all.merge(&binding("a", &["y", "z"])));
        assert!(!all.merge(&binding("b", &["v"])));
        assert_eq!(all.keys, ["x", "y", "z"]);
    }

    #[test]
    fn what_the_next_version_keeps_is_not_released() {
        let old = binding("a", &["x", "y"]);
        let left = |new: Option<&Binding>| old.without(new).map(|left| left.keys);
        assert_eq!(left(None), Some(vec!["x".to_owned(), "y".to_owned()]));
        assert_eq!(left(Some(&binding("a", &["y", "z"]))), Some(vec!["x".to_owned()]));
        assert_eq!(left(Some(&old)), None);
        assert_eq!(
            left(Some(&binding("b", &["x", "y"]))),
            Some(vec!["x".to_owned(), "y".to_owned()])
        );
    }
}

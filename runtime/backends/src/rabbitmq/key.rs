//! Routing keys: `<workflow>.execution.<verb>`, `<workflow>.node.<type>.<verb>`, `system.<entity>.<verb>`.
//!
//! A workflow is one word of the key, the same in all its keys. In that word `.`, `*`, `#`, `~`, `%` and control characters are
//! percent-encoded as UTF-8, upper case. A word longer than [`WORD_BYTES_MAX`] is cut and ends in `~` and the 16 hexadecimal
//! digits of the FNV-1a hash of the workflow's id. A workflow called `system` is `%73ystem`, so that `system.#` binds
//! the events of the system alone. Where there is nothing to escape, the word is the id itself.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{ExecutionId, WorkflowId};

/// A routing key has at most 255 bytes; the longest words behind the workflow's take fewer than the rest.
const WORD_BYTES_MAX: usize = 200;
/// `~` and the hash.
const HASH_BYTES: usize = 17;
/// What stands for the type of a node that its plan does not know.
const NO_TYPE: &str = "unknown";

/// Name and value of what a `headers` exchange looks at.
pub(super) type Header = (Cow<'static, str>, Cow<'static, str>);

/// Where the events of one call go, by routing key: each made once.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<(WorkflowId, Verb, &'static str), Routing>);

/// Where exchanges send an event.
#[derive(Clone, Debug)]
pub(super) struct Routing {
    /// The routing key.
    pub(super) key: Arc<str>,
    /// What a `headers` exchange looks at: the same for all events of one key.
    pub(super) headers: Arc<[Header]>,
}

impl Keys {
    /// Where an event of an execution goes.
    pub(super) fn of(&mut self, event: &LifecycleEvent) -> Routing {
        let made = self.0.entry((event.workflow.clone(), event.verb, node_type(event)));
        let routing = || Routing {
            key: of_lifecycle(event).into(),
            headers: headers(event).into(),
        };
        made.or_insert_with(routing).clone()
    }
}

fn headers(event: &LifecycleEvent) -> Vec<Header> {
    let mut headers: Vec<Header> = vec![
        ("workflow".into(), event.workflow.as_str().to_owned().into()),
        ("entity".into(), event.verb.entity().into()),
        ("verb".into(), event.verb.word().into()),
    ];
    if event.verb.entity() == "node" {
        headers.push(("nodeType".into(), node_type(event).into()));
    }
    headers
}

fn of_lifecycle(event: &LifecycleEvent) -> String {
    let (workflow, verb) = (word(event.workflow.as_str()), event.verb.word());
    match event.verb.entity() {
        "node" => format!("{workflow}.node.{}.{verb}", node_type(event)),
        entity => format!("{workflow}.{entity}.{verb}"),
    }
}

/// The type of the node an event is about.
pub(super) fn node_type(event: &LifecycleEvent) -> &'static str {
    event.node.as_ref().map_or(NO_TYPE, |(_, kind)| kind)
}

/// The routing key of an event of the system.
pub(super) fn of_system(event: &SystemEvent) -> String {
    format!("system.{}.{}", event.entity, event.verb)
}

/// Into how many buckets executions fall. Of another number another one would come, so it is the same in every release.
const BUCKETS: u64 = 128;

/// The bucket of an execution; without one, of the system. Where events are shared out, all of a bucket go to the same queue.
pub(super) fn bucket(lane: Option<ExecutionId>) -> u8 {
    let hash = match lane {
        Some(execution) => fnv1a(&execution.0),
        None => fnv1a(b"system"),
    };
    // The low bits alone know nothing of the high bits of the bytes.
    u8::try_from((hash ^ (hash >> 32)) % BUCKETS).unwrap_or(0)
}

/// The word that stands for a workflow.
fn word(workflow: &str) -> String {
    match workflow {
        "" => return "~".to_owned(),
        "system" => return "%73ystem".to_owned(),
        _ => {}
    }
    let mut word = String::with_capacity(workflow.len());
    // Where the word may be cut: between characters, never inside an escape.
    let mut cut = 0;
    for character in workflow.chars() {
        if ".*#~%".contains(character) || character.is_control() {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                word.push_str(&format!("%{byte:02X}"));
            }
        } else {
            word.push(character);
        }
        if word.len() <= WORD_BYTES_MAX - HASH_BYTES {
            cut = word.len();
        }
    }
    if word.len() > WORD_BYTES_MAX {
        word.truncate(cut);
        word.push_str(&format!("~{:016x}", fnv1a(workflow.as_bytes())));
    }
    word
}

/// What [`hashed`] begins with.
pub(super) const HASH_OF_NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a(bytes: &[u8]) -> u64 {
    hashed(HASH_OF_NOTHING, bytes)
}

/// The hash of what was hashed before and these bytes. Source: Fowler, Noll, Vo, FNV-1a of 64 bits.
pub(super) fn hashed(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use troupe_core::definition::NodeKind;
    use troupe_core::execution::Verb;
    use troupe_core::{ExecutionId, Json, NodeKey, Seq, ShardId, Timestamp};

    use super::*;

    fn event(workflow: &str, verb: Verb, node: Option<&'static str>) -> LifecycleEvent {
        LifecycleEvent {
            execution: ExecutionId([1; 16]),
            workflow: workflow.into(),
            seq: Seq(1),
            part: 0,
            at: Timestamp(0),
            verb,
            node: node.map(|kind| (NodeKey::from("n"), kind)),
            compensates: false,
            data: Json::object([]),
            outward: Some(troupe_core::lifecycle::Outward::default()),
        }
    }

    #[test]
    fn keys_are_the_documented_ones() {
        let key = |workflow, verb, node| of_lifecycle(&event(workflow, verb, node));
        let mut keys = Keys::default();
        for (verb, kind) in [
            (Verb::NodeFailed, "http"),
            (Verb::NodeFailed, "delay"),
            (Verb::NodeStarted, "http"),
        ] {
            let event = event("orders", verb, Some(kind));
            assert_eq!(*keys.of(&event).key, of_lifecycle(&event));
            assert_eq!(*keys.of(&event).key, of_lifecycle(&event), "the one that is kept");
        }
        assert_eq!(key("orders", Verb::ExecutionCreated, None), "orders.execution.created");
        assert_eq!(key("orders", Verb::NodeFailed, Some("http")), "orders.node.http.failed");
        assert_eq!(key("orders", Verb::NodeFailed, None), "orders.node.unknown.failed");
        assert_eq!(key("a.b", Verb::ExecutionFailed, None), "a%2Eb.execution.failed");
        assert_eq!(
            key("*#~%", Verb::ExecutionFailed, None),
            "%2A%23%7E%25.execution.failed"
        );
        assert_eq!(key("system", Verb::ExecutionFailed, None), "%73ystem.execution.failed");
        assert_eq!(key("Grüße 1", Verb::ExecutionFailed, None), "Grüße 1.execution.failed");
    }

    #[test]
    fn buckets_stay_as_they_are_and_take_about_the_same() {
        // Members of two releases publish side by side.
        assert_eq!(bucket(None), 59);
        assert_eq!(bucket(Some(ExecutionId([7; 16]))), 77);
        let mut counts = [0_u32; BUCKETS as usize];
        for number in 0..12_800 {
            let execution = ExecutionId::fresh(ShardId(number % 8), Timestamp(1_790_000_000_000), u64::from(number));
            counts[usize::from(bucket(Some(execution)))] += 1;
        }
        assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
    }

    #[test]
    fn every_key_of_the_longest_workflow_fits() {
        for workflow in [
            "x".repeat(4_000),
            ".".repeat(900),
            "é".repeat(300),
            "%".repeat(61) + &"é".repeat(80),
        ] {
            for kind in NodeKind::WORDS {
                let key = of_lifecycle(&event(&workflow, Verb::NodeInterrupted, Some(kind)));
                assert!(key.len() <= 255, "{} bytes: {key}", key.len());
                assert_eq!(key.split('.').count(), 4, "{key}");
            }
        }
    }

    #[test]
    fn a_cut_word_still_names_one_workflow() {
        let long = "x".repeat(300);
        assert_ne!(word(&format!("{long}a")), word(&format!("{long}b")));
        assert_eq!(word(&"x".repeat(200)), "x".repeat(200));
        assert_eq!(word(&"x".repeat(201)).len(), 200);
    }

    proptest! {
        #[test]
        fn different_workflows_have_different_words(workflows in proptest::collection::vec(".{0,12}|[.*#%~é]{0,80}", 0..20)) {
            let mut seen: HashMap<String, &str> = HashMap::new();
            for workflow in &workflows {
                let word = word(workflow);
                prop_assert!(!word.is_empty() && word.len() <= WORD_BYTES_MAX);
                prop_assert!(!word.contains(['.', '*', '#']), "{word}");
                prop_assert_eq!(*seen.entry(word).or_insert(workflow), workflow);
            }
        }
    }
}

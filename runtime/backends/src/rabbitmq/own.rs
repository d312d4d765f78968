//! Which messages the bus's own queues must get.

use super::key::Header;
use super::options::{Checked, RabbitExchange, RabbitQueue, RabbitTopology};

/// Whether a queue that the bus itself binds takes such a message of the usual exchange. If the broker returns it all the same,
/// what the bus has declared is gone.
pub(super) fn takes(checked: &Checked, key: &str, headers: &[Header]) -> bool {
    let options = &checked.options;
    // What somebody else binds, only somebody else can put right.
    if options.topology == RabbitTopology::Passive {
        return false;
    }
    let mut queues = options.queues.iter();
    options.partitions.is_some() || queues.any(|queue| queue_takes(options.kind, queue, key, headers))
}

fn queue_takes(kind: RabbitExchange, queue: &RabbitQueue, key: &str, headers: &[Header]) -> bool {
    let mut keys = queue.binding_keys.iter();
    match kind {
        RabbitExchange::Topic => keys.any(|pattern| matches(pattern, key)),
        RabbitExchange::Direct => keys.any(|bound| bound == key),
        RabbitExchange::Fanout => !queue.binding_keys.is_empty() || !queue.binding_headers.is_empty(),
        // A binding that asks for no header takes everything.
        RabbitExchange::Headers => {
            let has =
                |(name, value): (&String, &String)| headers.iter().any(|(its, text)| its == name && text == value);
            !queue.binding_keys.is_empty() || queue.binding_headers.iter().any(|all| all.iter().all(has))
        }
    }
}

/// Whether a pattern of a topic exchange takes a routing key: `*` stands for a word, `#` for any number of them.
fn matches(pattern: &str, key: &str) -> bool {
    fn words_match(pattern: &[&str], key: &[&str]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&"#", rest)) => (0..=key.len()).any(|skipped| words_match(rest, &key[skipped..])),
            Some((&word, rest)) => key
                .split_first()
                .is_some_and(|(first, key)| (word == "*" || word == *first) && words_match(rest, key)),
        }
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = key.split('.').collect();
    words_match(&pattern, &key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::options::{RabbitOptions, RabbitPartitions};
    use super::*;

    #[test]
    fn patterns_match_as_those_of_the_broker() {
        for (pattern, key, expected) in [
            ("#", "a.node.http.failed", true),
            ("a.#", "a.node.http.failed", true),
            ("a.#", "a", true),
            ("#.failed", "a.node.http.failed", true),
            ("*.node.*.failed", "a.node.http.failed", true),
            ("a.#.http.#", "a.node.http.failed", true),
            ("a.*", "a.node.http.failed", false),
            ("*.execution.#", "a.node.http.failed", false),
            ("*", "", true),
            ("a.execution.created", "a.execution.created", true),
            ("a.execution.created", "a.execution", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn only_what_the_bus_binds_itself_must_arrive() {
        let taken = |change: &dyn Fn(&mut RabbitOptions)| {
            let mut options = RabbitOptions::new("amqp://localhost");
            change(&mut options);
            let headers = [("verb".into(), "failed".into())];
            takes(&Checked::of(options).unwrap(), "a.execution.failed", &headers)
        };
        let queue = |keys: &[&str], headers: &[(&str, &str)]| RabbitQueue {
            name: "q".to_owned(),
            binding_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            binding_headers: match headers {
                [] => Vec::new(),
                _ => vec![
                    headers
                        .iter()
                        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                        .collect(),
                ],
            },
            dead_letter: None,
        };
        let with = |kind, queue: &RabbitQueue| {
            taken(&|options| {
                options.kind = kind;
                options.queues = vec![queue.clone()];
            })
        };
        assert!(!taken(&|_| {}));
        assert!(with(RabbitExchange::Topic, &queue(&["b.#", "a.#"], &[])));
        assert!(!with(RabbitExchange::Topic, &queue(&["b.#"], &[])));
        assert!(!with(RabbitExchange::Direct, &queue(&["a.#"], &[])));
        assert!(with(RabbitExchange::Fanout, &queue(&["b"], &[])));
        assert!(!with(RabbitExchange::Fanout, &queue(&[], &[])));
        assert!(with(RabbitExchange::Headers, &queue(&[], &[("verb", "failed")])));
        assert!(!with(RabbitExchange::Headers, &queue(&[], &[("verb", "created")])));
        let partitions = |topology| {
            taken(&|options| {
                options.topology = topology;
                options.partitions = Some(RabbitPartitions {
                    name: "p".to_owned(),
                    count: 2,
                });
            })
        };
        assert!(partitions(RabbitTopology::Declare) && partitions(RabbitTopology::QueuesOnly));
        assert!(!partitions(RabbitTopology::Passive));
    }
}

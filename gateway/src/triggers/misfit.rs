//! Event triggers that do not fit the type of the deployment's own exchange: nothing would come to them, or more than they ask for.

use troupe_core::definition::{Diagnostic, ExchangeType, Node, WorkflowDefinition};

use super::Binding;

/// Warning: the messages of an event trigger are not taken, since it asks for what the exchange does not look at; see `docs/errors`.
pub(crate) const EVENT_TRIGGER_MISFIT: &str = "EVENT_TRIGGER_MISFIT";

/// What is wrong with a binding, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) why: &'static str,
    pub(super) hint: &'static str,
}

const HEADERS_UNSEEN: Misfit = Misfit {
    why: "this deployment's own exchange looks at the `routingKey` alone, not at `headers`",
    hint: "give a `routingKey` alone and choose further by `filter`, or name an `exchange` of type headers",
};
const NO_KEY: Misfit = Misfit {
    why: "no event has an empty key, so nothing would come",
    hint: "give the `routingKey` \"#\" for every event, or patterns such as \"*.execution.failed\"",
};
const NO_WHOLE_KEY: Misfit = Misfit {
    why: "this deployment's own exchange is of type direct and compares whole keys, so nothing would come",
    hint: "give keys such as \"orders.execution.failed\", or name an `exchange` of type topic",
};
const FANOUT: Misfit = Misfit {
    why: "this deployment's own exchange is of type fanout and looks at nothing, so everything would come",
    hint: "give the `routingKey` \"#\" and choose by `filter`, or name an `exchange`",
};
const BY_HEADERS: Misfit = Misfit {
    why: "this deployment's own exchange is of type headers and looks at no `routingKey`, so everything would come",
    hint: "give `headers` alone, such as { verb: failed }, or \"#\" alone for every event, or name an `exchange`",
};

impl Binding {
    /// Why the deployment's own exchange, which is of this type, is not for such a trigger; none where it fits, or names an exchange.
    pub(super) fn misfit(&self, own: ExchangeType) -> Option<Misfit> {
        if self.exchange.is_some() {
            return None;
        }
        // A trigger that says fanout itself has the empty one.
        let asks_for_all = |key: &String| key.is_empty() || key == "#";
        let by_headers = !self.headers.is_empty();
        let (is_wrong, misfit) = match own {
            ExchangeType::Topic | ExchangeType::Direct if by_headers => (true, HEADERS_UNSEEN),
            ExchangeType::Topic => (self.keys.iter().all(String::is_empty), NO_KEY),
            // No word of an event's key has one of them.
            ExchangeType::Direct => {
                let is_none = |key: &String| key.is_empty() || key.contains(['*', '#']);
                (self.keys.iter().any(is_none), NO_WHOLE_KEY)
            }
            ExchangeType::Fanout => (by_headers || !self.keys.iter().any(asks_for_all), FANOUT),
            // A binding by a key asks for no header: everything matches it.
            ExchangeType::Headers if by_headers => (!self.keys.is_empty(), BY_HEADERS),
            ExchangeType::Headers => (!self.keys.iter().any(asks_for_all), BY_HEADERS),
        };
        is_wrong.then_some(misfit)
    }
}

/// A warning for each event trigger of a definition that does not fit the deployment's own exchange, which is of this type.
pub(crate) fn misfits(definition: &WorkflowDefinition, own: ExchangeType) -> Vec<Diagnostic> {
    let warning = |(place, node): (usize, &Node)| {
        // What is wrong with one anywhere, the validator says.
        let trigger = node.event_trigger().ok().flatten()?;
        let misfit = Binding::of("", &definition.id, &node.id, &trigger).misfit(own)?;
        let pointer = format!("/nodes/{place}/data/config");
        let message = format!("messages start nothing here: {}", misfit.why);
        Some(Diagnostic::warning(EVENT_TRIGGER_MISFIT, pointer, message).with_hint(misfit.hint.to_owned()))
    };
    definition.nodes.iter().enumerate().filter_map(warning).collect()
}

#[cfg(test)]
mod tests {
    use troupe_core::definition::EventTrigger;

    use super::*;

    fn binding(exchange: Option<&str>, keys: &[&str], headers: &[(&str, &str)]) -> Binding {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let trigger = EventTrigger {
            exchange: exchange.map(str::to_owned),
            routing_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            headers: headers.iter().map(text).collect(),
            ..EventTrigger::default()
        };
        Binding::of("troupe", "w", "t", &trigger)
    }

    const TYPES: [ExchangeType; 4] = [
        ExchangeType::Topic,
        ExchangeType::Fanout,
        ExchangeType::Direct,
        ExchangeType::Headers,
    ];

    #[test]
    fn a_trigger_asks_for_what_the_own_exchange_looks_at() {
        let failed = [("verb", "failed")];
        let none: &[(&str, &str)] = &[];
        // Whether it fits a topic, a fanout, a direct, a headers exchange.
        type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], [bool; 4]);
        let triggers: [Case<'_>; 9] = [
            (&["orders.#"], none, [true, false, false, false]),
            (&["orders.execution.failed"], none, [true, false, true, false]),
            (
                &["orders.execution.failed", "*.failed"],
                none,
                [true, false, false, false],
            ),
            (&["#"], none, [true, true, false, true]),
            (&["#", "orders.*"], none, [true, true, false, true]),
            (&[""], none, [false, true, false, true]),
            (&[], &failed, [false, false, false, true]),
            (&["#"], &failed, [false, false, false, false]),
            (&["orders.execution.failed"], &failed, [false, false, false, false]),
        ];
        for (keys, headers, fits) in triggers {
            for (own, fits) in TYPES.into_iter().zip(fits) {
                let misfit = binding(None, keys, headers).misfit(own);
                assert_eq!(misfit.is_none(), fits, "{own:?} {keys:?} {headers:?} {misfit:?}");
            }
        }
    }

    #[test]
    fn another_exchange_is_somebody_elses() {
        for own in TYPES {
            assert_eq!(binding(Some("shop"), &["a.#"], &[("a", "b")]).misfit(own), None);
        }
    }
}

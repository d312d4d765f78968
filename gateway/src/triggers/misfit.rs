//! Event triggers that do not fit the type of the deployment's own exchange: nothing would come to them, or more than they ask for. Of some a part
//! fits.

use troupe_core::definition::{Diagnostic, ExchangeType, Node, WorkflowDefinition};

use super::Binding;

/// Warning: an event trigger asks for what the exchange does not look at, and its messages are not taken, or only a part of it is heard; see
/// `docs/errors`.
pub(crate) const EVENT_TRIGGER_MISFIT: &str = "EVENT_TRIGGER_MISFIT";

/// What is wrong with a binding, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// Whether some of its keys fit: their messages are taken.
    pub(super) is_partial: bool,
    pub(super) why: &'static str,
    pub(super) hint: &'static str,
}

const HEADERS_UNSEEN: Misfit = Misfit {
    is_partial: false,
    why: "this deployment's own exchange looks at the `routingKey` alone, not at `headers`",
    hint: "give a `routingKey` alone and choose further by `filter`, or name an `exchange` of type headers",
};
const HEADERS_BESIDE: Misfit = Misfit {
    is_partial: true,
    why: "this deployment's own exchange looks at the `routingKey` alone, so what has the key comes whatever `headers` it has",
    hint: "leave the `headers` out and choose by `filter`, or name an `exchange` of type headers",
};
const NO_KEY: Misfit = Misfit {
    is_partial: false,
    why: "no event has an empty key, so nothing would come",
    hint: "give the `routingKey` \"#\" for every event, or patterns such as \"*.execution.failed\"",
};
const SOME_KEYS: Misfit = Misfit {
    is_partial: true,
    why: "no event has an empty key, so nothing comes by that one",
    hint: "leave the empty key out",
};
const NO_WHOLE_KEY: Misfit = Misfit {
    is_partial: false,
    why: "this deployment's own exchange is of type direct and compares whole keys, so nothing would come",
    hint: "give keys such as \"orders.execution.failed\", or name an `exchange` of type topic",
};
const SOME_WHOLE_KEYS: Misfit = Misfit {
    is_partial: true,
    why: "this deployment's own exchange is of type direct and compares whole keys: nothing comes by one that is empty or has `*` or `#`",
    hint: "give each key whole, such as \"orders.execution.failed\", or name an `exchange` of type topic",
};
const FANOUT: Misfit = Misfit {
    is_partial: false,
    why: "this deployment's own exchange is of type fanout and looks at nothing, so everything would come",
    hint: "give the `routingKey` \"#\" and choose by `filter`, or name an `exchange`",
};
const BY_HEADERS: Misfit = Misfit {
    is_partial: false,
    why: "this deployment's own exchange is of type headers and looks at no `routingKey`, so everything would come",
    hint: "give `headers` alone, such as { verb: failed }, or \"#\" alone for every event, or name an `exchange`",
};

impl Binding {
    /// Why the deployment's own exchange, which is of this type, is not for such a trigger, or not for all of it; none where it fits, or names
    /// an exchange.
    pub(super) fn misfit(&self, own: ExchangeType) -> Option<Misfit> {
        if self.exchange.is_some() {
            return None;
        }
        // A trigger that says fanout itself has the empty one.
        let asks_for_all = |key: &String| key.is_empty() || key == "#";
        let by_headers = !self.headers.is_empty();
        let (is_wrong, misfit) = match own {
            ExchangeType::Topic => return self.misfit_by_key(|key| !key.is_empty(), NO_KEY, SOME_KEYS),
            // No word of an event's key has one of them.
            ExchangeType::Direct => {
                let is_whole = |key: &str| !key.is_empty() && !key.contains(['*', '#']);
                return self.misfit_by_key(is_whole, NO_WHOLE_KEY, SOME_WHOLE_KEYS);
            }
            ExchangeType::Fanout => (by_headers || !self.keys.iter().any(asks_for_all), FANOUT),
            // A binding by a key asks for no header: everything matches it.
            ExchangeType::Headers if by_headers => (!self.keys.is_empty(), BY_HEADERS),
            ExchangeType::Headers => (!self.keys.iter().any(asks_for_all), BY_HEADERS),
        };
        is_wrong.then_some(misfit)
    }

    /// The same where the exchange looks at keys alone. `hears`: whether anything may come by a key; `none` and `some`: of how many that holds.
    fn misfit_by_key(&self, hears: fn(&str) -> bool, none: Misfit, some: Misfit) -> Option<Misfit> {
        let by_headers = !self.headers.is_empty();
        let heard = self.keys.iter().filter(|key| hears(key.as_str())).count();
        match heard {
            0 if by_headers && self.keys.is_empty() => Some(HEADERS_UNSEEN),
            0 => Some(none),
            _ if by_headers => Some(HEADERS_BESIDE),
            _ => (heard < self.keys.len()).then_some(some),
        }
    }
}

/// A warning for each event trigger of a definition that does not fit the deployment's own exchange, which is of this type, or not wholly.
pub(crate) fn misfits(definition: &WorkflowDefinition, own: ExchangeType) -> Vec<Diagnostic> {
    let warning = |(place, node): (usize, &Node)| {
        // What is wrong with one anywhere, the validator says.
        let trigger = node.event_trigger().ok().flatten()?;
        let misfit = Binding::of("", &definition.id, &node.id, &trigger).misfit(own)?;
        let pointer = format!("/nodes/{place}/data/config");
        let what = if misfit.is_partial {
            "not all of this counts here"
        } else {
            "messages start nothing here"
        };
        let message = format!("{what}: {}", misfit.why);
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
        const FAILED: &str = "orders.execution.failed";
        // How it fits a topic, a fanout, a direct, a headers exchange: wholly, partly, not.
        type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
        let triggers: [Case<'_>; 13] = [
            (&["orders.#"], none, "w---"),
            (&[FAILED], none, "w-w-"),
            (&[FAILED, "orders.execution.timeout"], none, "w-w-"),
            (&[FAILED, "*.failed"], none, "w-p-"),
            (&["*.failed", FAILED], none, "w-p-"),
            (&["#"], none, "ww-w"),
            (&["#", "orders.*"], none, "ww-w"),
            (&[""], none, "-w-w"),
            (&["", FAILED], none, "pwpw"),
            (&[], &failed, "---w"),
            (&["#"], &failed, "p---"),
            (&[FAILED], &failed, "p-p-"),
            (&[""], &failed, "----"),
        ];
        for (keys, headers, fits) in triggers {
            for (own, fits) in TYPES.into_iter().zip(fits.chars()) {
                let misfit = binding(None, keys, headers).misfit(own);
                let found = match misfit {
                    None => 'w',
                    Some(Misfit { is_partial: true, .. }) => 'p',
                    Some(Misfit { is_partial: false, .. }) => '-',
                };
                assert_eq!(found, fits, "{own:?} {keys:?} {headers:?} {misfit:?}");
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

//! Data that nobody knows yet, by name: an unknown value travels through the core as a marked string.

use std::collections::HashMap;

use serde_json::Value as JsonValue;
use troupe_core::{NodeIx, Visit};

/// Begins the string that stands for an unknown value. A character of the private use area: no definition means it.
pub(crate) const MARK: char = '\u{e000}';

/// How deep computed values may be nested before a fresh unknown takes their place, so that counters of loops converge.
const DEPTH_MAX: u32 = 4;

/// An unknown value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Symbol(u32);

/// Where an unknown value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// The start payload.
    Trigger,
    /// A variable as the start gave it.
    Variable(String),
    /// What an attempt of a node gave.
    Output(NodeIx, Visit),
    /// A field of the error of a node that failed with a code that the definition does not name.
    Error(NodeIx, Visit, &'static str),
    /// `execution.id` and its like.
    Execution(String),
    /// A member of an unknown value.
    Member(Symbol, String),
    /// What an expression makes of unknown values: its text, and all that it sees as JSON.
    Computed(String, String),
    /// A computed value nested too deep to be told apart from others: of this node and visit.
    Anything(Option<NodeIx>, Visit, String),
}

/// Every unknown value met so far: equal origins are one symbol.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    known: Vec<(Origin, u32)>,
    places: HashMap<Origin, Symbol>,
}

impl Symbols {
    /// The symbol of an origin.
    pub(crate) fn of(&mut self, origin: Origin) -> Symbol {
        if let Some(symbol) = self.places.get(&origin) {
            return *symbol;
        }
        let depth = match &origin {
            Origin::Computed(_, over) => 1 + self.depth_of(over),
            Origin::Member(base, _) => self.known[base.0 as usize].1,
            Origin::Trigger
            | Origin::Variable(_)
            | Origin::Output(..)
            | Origin::Error(..)
            | Origin::Execution(_)
            | Origin::Anything(..) => 0,
        };
        let symbol = Symbol(u32::try_from(self.known.len()).unwrap_or(u32::MAX));
        self.known.push((origin.clone(), depth));
        self.places.insert(origin, symbol);
        symbol
    }

    /// What an expression of a node makes of what it sees.
    pub(crate) fn computed(&mut self, text: &str, over: String, node: Option<NodeIx>, visit: Visit) -> Symbol {
        if self.depth_of(&over) >= DEPTH_MAX {
            return self.of(Origin::Anything(node, visit, text.to_owned()));
        }
        self.of(Origin::Computed(text.to_owned(), over))
    }

    pub(crate) fn origin(&self, symbol: Symbol) -> &Origin {
        &self.known[symbol.0 as usize].0
    }

    fn depth_of(&self, text: &str) -> u32 {
        marks(text)
            .map(|(symbol, _)| self.known[symbol.0 as usize].1)
            .max()
            .unwrap_or(0)
    }

    /// The unknown values that this one is made of in the end.
    pub(crate) fn roots(&self, symbol: Symbol) -> Vec<Symbol> {
        let mut roots = Vec::new();
        let mut open = vec![symbol];
        while let Some(symbol) = open.pop() {
            match self.origin(symbol) {
                Origin::Member(base, _) => open.push(*base),
                Origin::Computed(_, over) => open.extend(marks(over).map(|(symbol, _)| symbol)),
                Origin::Trigger
                | Origin::Variable(_)
                | Origin::Output(..)
                | Origin::Error(..)
                | Origin::Execution(_)
                | Origin::Anything(..) => roots.push(symbol),
            }
        }
        roots
    }
}

impl Symbol {
    /// The string that stands for it.
    pub(crate) fn marked(self) -> String {
        format!("{MARK}{}", self.0)
    }

    /// The unknown value that a JSON value stands for.
    pub(crate) fn read(value: &JsonValue) -> Option<Self> {
        let digits = value.as_str()?.strip_prefix(MARK)?;
        digits.parse().ok().map(Self)
    }
}

/// The unknown values in a JSON text, each with what follows it.
pub(crate) fn marks(text: &str) -> impl Iterator<Item = (Symbol, &str)> {
    text.split(MARK).skip(1).map(|part| {
        let length = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        (Symbol(part[..length].parse().unwrap_or(0)), &part[length..])
    })
}

/// Whether a JSON text holds an unknown value.
pub(crate) fn is_known(text: &str) -> bool {
    !text.contains(MARK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn equal_origins_are_one_symbol_and_survive_json() {
        let mut symbols = Symbols::default();
        let trigger = symbols.of(Origin::Trigger);
        let total = symbols.of(Origin::Member(trigger, "total".into()));
        assert_eq!(symbols.of(Origin::Member(trigger, "total".into())), total);
        assert_ne!(symbols.of(Origin::Member(trigger, "count".into())), total);
        let json = serde_json::json!({"a": total.marked(), "b": [trigger.marked()], "c": "plain"});
        let text = json.to_string();
        assert_eq!(
            marks(&text).map(|(symbol, _)| symbol).collect::<Vec<_>>(),
            [total, trigger]
        );
        assert_eq!(Symbol::read(&json["a"]), Some(total));
        assert_eq!(Symbol::read(&json["c"]), None);
        assert_eq!(symbols.roots(total), [trigger]);
    }

    #[test]
    fn what_is_computed_again_and_again_ends_in_one_unknown() {
        let mut symbols = Symbols::default();
        let mut value = symbols.of(Origin::Variable("n".into()));
        let mut seen = Vec::new();
        for _ in 0..20 {
            value = symbols.computed("n + 1", format!("\"{}\"", value.marked()), None, Visit(1));
            seen.push(value);
        }
        assert!(
            seen.iter().collect::<std::collections::BTreeSet<_>>().len() < 12,
            "{seen:?}"
        );
    }
}

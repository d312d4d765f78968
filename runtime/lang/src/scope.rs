//! What an expression can see, borrowed from whoever holds the values.

use std::cell::{Cell, OnceCell};

use serde_json::Value;

use crate::error::EvalError;

/// The names an expression can see, each bound to a value, to JSON text that is parsed at the first use, or to
/// a [`Record`] of further bindings.
///
/// A name that is not bound is `undefined`.
#[derive(Debug)]
pub struct Scope<'a> {
    root: Record<'a>,
    /// Steps that all evaluations over it may still take together.
    steps_left: Cell<u64>,
}

impl Default for Scope<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Scope<'a> {
    /// An empty scope.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            root: Record::new(),
            steps_left: Cell::new(u64::MAX),
        }
    }

    /// Lets all evaluations over it take at most so many steps together, bytes that they allocate counted as the time
    /// to fill them; each keeps its own limits too.
    #[must_use]
    pub fn with_steps_max(self, steps_max: u64) -> Self {
        self.steps_left.set(steps_max);
        self
    }

    /// Steps that evaluations over it may still take together.
    #[must_use]
    pub fn steps_left(&self) -> u64 {
        self.steps_left.get()
    }

    /// Takes steps from what all evaluations share; false when there are too few.
    pub(crate) fn spend(&self, steps: u64) -> bool {
        let left = self.steps_left.get().checked_sub(steps);
        self.steps_left.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Adds a binding; a later one of the same name replaces the earlier.
    #[must_use]
    pub fn bind(mut self, name: &'a str, binding: impl Into<Binding<'a>>) -> Self {
        self.set(name, binding);
        self
    }

    /// Adds or replaces a binding in place, as a loop over items does.
    pub fn set(&mut self, name: &'a str, binding: impl Into<Binding<'a>>) {
        self.root.set(name, binding);
    }

    pub(crate) const fn root(&self) -> &Record<'a> {
        &self.root
    }
}

/// An object whose members are bindings of their own, so that `nodes.a.output` parses that output alone.
#[derive(Debug, Default)]
pub struct Record<'a> {
    entries: Vec<(&'a str, Binding<'a>)>,
}

impl<'a> Record<'a> {
    /// An empty record.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Adds a member; a later one of the same name replaces the earlier.
    #[must_use]
    pub fn with(mut self, name: &'a str, binding: impl Into<Binding<'a>>) -> Self {
        self.set(name, binding);
        self
    }

    /// Adds or replaces a member in place.
    pub fn set(&mut self, name: &'a str, binding: impl Into<Binding<'a>>) {
        let binding = binding.into();
        match self.entries.iter_mut().find(|(known, _)| *known == name) {
            Some((_, slot)) => *slot = binding,
            None => self.entries.push((name, binding)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Binding<'a>> {
        self.entries
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, binding)| binding)
    }

    pub(crate) fn entries(&self) -> &[(&'a str, Binding<'a>)] {
        &self.entries
    }
}

/// What a name stands for.
#[derive(Debug)]
pub enum Binding<'a> {
    /// A value held by the caller.
    Value(&'a Value),
    /// A value that the scope holds.
    Owned(Value),
    /// JSON text, parsed when an expression first touches it.
    Text(LazyJson<'a>),
    /// An object made of further bindings.
    Record(Record<'a>),
}

impl<'a> Binding<'a> {
    /// Binds JSON text, which is parsed when an expression first touches it.
    #[must_use]
    pub const fn text(text: &'a str) -> Self {
        Self::Text(LazyJson {
            text,
            parsed: OnceCell::new(),
        })
    }
}

impl Binding<'_> {
    /// A copy of everything it stands for.
    pub(crate) fn to_value(&self) -> Result<Value, EvalError> {
        Ok(match self {
            Self::Value(value) => (*value).clone(),
            Self::Owned(value) => value.clone(),
            Self::Text(text) => text.value()?.clone(),
            Self::Record(record) => {
                let members = record
                    .entries
                    .iter()
                    .map(|(name, binding)| Ok(((*name).to_owned(), binding.to_value()?)));
                Value::Object(members.collect::<Result<_, EvalError>>()?)
            }
        })
    }
}

impl<'a> From<&'a Value> for Binding<'a> {
    fn from(value: &'a Value) -> Self {
        Self::Value(value)
    }
}

impl From<Value> for Binding<'_> {
    fn from(value: Value) -> Self {
        Self::Owned(value)
    }
}

impl<'a> From<Record<'a>> for Binding<'a> {
    fn from(record: Record<'a>) -> Self {
        Self::Record(record)
    }
}

/// JSON text with its parsed form, once that is needed.
#[derive(Debug)]
pub struct LazyJson<'a> {
    text: &'a str,
    parsed: OnceCell<Value>,
}

impl LazyJson<'_> {
    pub(crate) fn value(&self) -> Result<&Value, EvalError> {
        if let Some(value) = self.parsed.get() {
            return Ok(value);
        }
        let value: Value = serde_json::from_str(self.text)
            .map_err(|error| EvalError::new(format!("a value in scope is not readable JSON: {error}")))?;
        Ok(self.parsed.get_or_init(|| value))
    }
}

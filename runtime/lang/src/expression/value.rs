//! Values while an expression is evaluated: borrowed from the scope wherever they can be.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::number::as_integer;
use super::text::array_index;
use crate::error::EvalError;
use crate::scope::{Binding, Record};

#[derive(Debug, Clone)]
pub(crate) enum Js<'s> {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    /// An integer that no double holds; it keeps its digits as long as it is only passed on.
    Digits(&'s serde_json::Number),
    Text(Text<'s>),
    List(List<'s>),
    Object(Object<'s>),
    /// A built-in method that was looked up but not called, as in `input.list.map`.
    Native,
}

/// What a value is, for messages and for `typeof`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Undefined,
    Null,
    Bool,
    Number,
    Text,
    List,
    Object,
    Native,
}

#[derive(Debug, Clone)]
pub(crate) enum Text<'s> {
    Borrowed(&'s str),
    Owned(Rc<str>),
}

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum List<'s> {
    Json(&'s Vec<Value>),
    Made(Rc<Made<Vec<Js<'s>>>>),
}

#[derive(Debug, Clone)]
pub(crate) enum Object<'s> {
    Json(&'s Map<String, Value>),
    Record(&'s Record<'s>),
    Made(Rc<Made<Properties<'s>>>),
}

/// Contents made by the expression, with the depth of the deepest path that it made.
#[derive(Debug)]
pub(crate) struct Made<T> {
    pub(crate) contents: T,
    pub(crate) depth: usize,
}

/// Properties in the order of their creation.
#[derive(Debug, Default)]
pub(crate) struct Properties<'s> {
    entries: Vec<(Text<'s>, Js<'s>)>,
    places: std::collections::HashMap<Box<str>, usize>,
}

/// Up to this many properties are searched one by one.
const LINEAR_MAX: usize = 12;

impl<'s> Properties<'s> {
    pub(crate) fn set(&mut self, key: Text<'s>, value: Js<'s>) {
        if let Some(place) = self.place(key.as_str()) {
            self.entries[place].1 = value;
            return;
        }
        self.entries.push((key, value));
        let count = self.entries.len();
        if count > LINEAR_MAX {
            let unindexed = if count == LINEAR_MAX + 1 { 0 } else { count - 1 };
            for place in unindexed..count {
                self.places.insert(self.entries[place].0.as_str().into(), place);
            }
        }
    }

    fn place(&self, key: &str) -> Option<usize> {
        if self.entries.len() > LINEAR_MAX {
            return self.places.get(key).copied();
        }
        self.entries.iter().position(|(known, _)| known.as_str() == key)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Js<'s>> {
        self.place(key).map(|place| &self.entries[place].1)
    }
}

impl<'s> Js<'s> {
    pub(crate) fn from_json(value: &'s Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::from_number(number),
            Value::String(text) => Self::Text(Text::Borrowed(text)),
            Value::Array(items) => Self::List(List::Json(items)),
            Value::Object(members) => Self::Object(Object::Json(members)),
        }
    }

    fn from_number(number: &'s serde_json::Number) -> Self {
        let double = number.as_f64().unwrap_or(f64::NAN);
        if number.is_f64() || as_integer(double).is_some() {
            Self::Number(double)
        } else {
            Self::Digits(number)
        }
    }

    pub(crate) fn from_binding(binding: &'s Binding<'s>) -> Result<Self, EvalError> {
        Ok(match binding {
            Binding::Value(value) => Self::from_json(value),
            Binding::Owned(value) => Self::from_json(value),
            Binding::Text(text) => Self::from_json(text.value()?),
            Binding::Record(record) => Self::Object(Object::Record(record)),
        })
    }

    pub(crate) const fn borrowed(text: &'s str) -> Self {
        Self::Text(Text::Borrowed(text))
    }

    pub(crate) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Digits(number) => number.as_f64(),
            _ => None,
        }
    }

    pub(crate) fn text(text: impl Into<Rc<str>>) -> Self {
        Self::Text(Text::Owned(text.into()))
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Undefined => Kind::Undefined,
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Number(_) | Self::Digits(_) => Kind::Number,
            Self::Text(_) => Kind::Text,
            Self::List(_) => Kind::List,
            Self::Object(_) => Kind::Object,
            Self::Native => Kind::Native,
        }
    }

    pub(crate) const fn is_nullish(&self) -> bool {
        matches!(self, Self::Undefined | Self::Null)
    }

    pub(crate) fn truthy(&self) -> bool {
        match self {
            Self::Undefined | Self::Null => false,
            Self::Bool(value) => *value,
            Self::Number(number) => *number != 0.0 && !number.is_nan(),
            Self::Text(text) => !text.as_str().is_empty(),
            Self::Digits(_) | Self::List(_) | Self::Object(_) | Self::Native => true,
        }
    }

    /// How deep the parts that the expression made are nested.
    pub(crate) fn made_depth(&self) -> usize {
        match self {
            Self::List(List::Made(made)) => made.depth,
            Self::Object(Object::Made(made)) => made.depth,
            _ => 0,
        }
    }
}

impl<'s> List<'s> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(items) => items.len(),
            Self::Made(made) => made.contents.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Js<'s>> {
        match self {
            Self::Json(items) => items.get(index).map(Js::from_json),
            Self::Made(made) => made.contents.get(index).cloned(),
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Json(a), Self::Json(b)) => std::ptr::eq(*a, *b),
            (Self::Made(a), Self::Made(b)) => Rc::ptr_eq(a, b),
            (Self::Json(_), Self::Made(_)) | (Self::Made(_), Self::Json(_)) => false,
        }
    }
}

impl<'s> Object<'s> {
    pub(crate) fn get(&self, key: &str) -> Result<Option<Js<'s>>, EvalError> {
        Ok(match self {
            Self::Json(members) => members.get(key).map(Js::from_json),
            Self::Record(record) => record.get(key).map(Js::from_binding).transpose()?,
            Self::Made(made) => made.contents.get(key).cloned(),
        })
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        match self {
            Self::Json(members) => members.contains_key(key),
            Self::Record(record) => record.get(key).is_some(),
            Self::Made(made) => made.contents.get(key).is_some(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(members) => members.len(),
            Self::Record(record) => record.entries().len(),
            Self::Made(made) => made.contents.entries.len(),
        }
    }

    /// The keys in the order of JavaScript: array indices ascending, then the others as they were created.
    pub(crate) fn keys(&self) -> Vec<Text<'s>> {
        let mut keys: Vec<Text<'s>> = match self {
            Self::Json(members) => members.keys().map(|key| Text::Borrowed(key)).collect(),
            Self::Record(record) => record.entries().iter().map(|(key, _)| Text::Borrowed(key)).collect(),
            Self::Made(made) => made.contents.entries.iter().map(|(key, _)| key.clone()).collect(),
        };
        if keys.iter().any(|key| array_index(key.as_str()).is_some()) {
            keys.sort_by_key(|key| array_index(key.as_str()).map_or((1, 0), |index| (0, index)));
        }
        keys
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Json(a), Self::Json(b)) => std::ptr::eq(*a, *b),
            (Self::Record(a), Self::Record(b)) => std::ptr::eq(*a, *b),
            (Self::Made(a), Self::Made(b)) => Rc::ptr_eq(a, b),
            (Self::Json(_) | Self::Record(_) | Self::Made(_), _) => false,
        }
    }
}

/// Names that every object inherits.
pub(crate) fn is_object_method(name: &str) -> bool {
    matches!(
        name,
        "constructor"
            | "hasOwnProperty"
            | "isPrototypeOf"
            | "propertyIsEnumerable"
            | "toLocaleString"
            | "toString"
            | "valueOf"
            | "__defineGetter__"
            | "__defineSetter__"
            | "__lookupGetter__"
            | "__lookupSetter__"
            | "__proto__"
    )
}

pub(crate) fn is_list_method(name: &str) -> bool {
    is_object_method(name)
        || matches!(
            name,
            "at" | "concat"
                | "copyWithin"
                | "entries"
                | "every"
                | "fill"
                | "filter"
                | "find"
                | "findIndex"
                | "findLast"
                | "findLastIndex"
                | "flat"
                | "flatMap"
                | "forEach"
                | "includes"
                | "indexOf"
                | "join"
                | "keys"
                | "lastIndexOf"
                | "map"
                | "pop"
                | "push"
                | "reduce"
                | "reduceRight"
                | "reverse"
                | "shift"
                | "slice"
                | "some"
                | "sort"
                | "splice"
                | "toReversed"
                | "toSorted"
                | "toSpliced"
                | "unshift"
                | "values"
                | "with"
        )
}

pub(crate) fn is_text_method(name: &str) -> bool {
    is_object_method(name)
        || matches!(
            name,
            "anchor"
                | "at"
                | "big"
                | "blink"
                | "bold"
                | "charAt"
                | "charCodeAt"
                | "codePointAt"
                | "concat"
                | "endsWith"
                | "fixed"
                | "fontcolor"
                | "fontsize"
                | "includes"
                | "indexOf"
                | "isWellFormed"
                | "italics"
                | "lastIndexOf"
                | "link"
                | "localeCompare"
                | "match"
                | "matchAll"
                | "normalize"
                | "padEnd"
                | "padStart"
                | "repeat"
                | "replace"
                | "replaceAll"
                | "search"
                | "slice"
                | "small"
                | "split"
                | "startsWith"
                | "strike"
                | "sub"
                | "substr"
                | "substring"
                | "sup"
                | "toLocaleLowerCase"
                | "toLocaleUpperCase"
                | "toLowerCase"
                | "toUpperCase"
                | "toWellFormed"
                | "trim"
                | "trimEnd"
                | "trimLeft"
                | "trimRight"
                | "trimStart"
        )
}

pub(crate) fn is_number_method(name: &str) -> bool {
    is_object_method(name) || matches!(name, "toExponential" | "toFixed" | "toPrecision")
}

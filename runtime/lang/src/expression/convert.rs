//! The abstract operations of ECMA-262 on values: conversions and comparisons.
// Conversions are named as in ECMA-262, and they need the machine for its bounds.
#![allow(clippy::wrong_self_convention)]

use std::borrow::Cow;
use std::cmp::Ordering;

use super::eval::Machine;
use super::number::{number_to_string, string_to_number};
use super::text;
use super::value::{Js, Kind, List, Text};
use crate::error::EvalError;

type Eval<T> = Result<T, EvalError>;

impl<'s> Machine<'s> {
    pub(crate) fn to_number(&mut self, value: &Js<'s>) -> Eval<f64> {
        Ok(match value {
            Js::Undefined => f64::NAN,
            Js::Null => 0.0,
            Js::Bool(value) => f64::from(u8::from(*value)),
            Js::Number(number) => *number,
            Js::Digits(number) => number.as_f64().unwrap_or(f64::NAN),
            Js::Text(text) => {
                self.scan(text.as_str())?;
                string_to_number(text.as_str())
            }
            Js::List(_) | Js::Object(_) | Js::Native => {
                let primitive = self.to_primitive(value)?;
                return self.to_number(&primitive);
            }
        })
    }

    /// `ToPrimitive`. Plain objects and arrays give a string whatever the hint is.
    pub(crate) fn to_primitive(&mut self, value: &Js<'s>) -> Eval<Js<'s>> {
        match value {
            Js::List(_) | Js::Object(_) | Js::Native => {
                let text = self.to_text(value)?.into_owned();
                self.made_text(text)
            }
            primitive => Ok(primitive.clone()),
        }
    }

    pub(crate) fn to_text<'v>(&mut self, value: &'v Js<'s>) -> Eval<Cow<'v, str>> {
        Ok(match value {
            Js::Undefined => Cow::Borrowed("undefined"),
            Js::Null => Cow::Borrowed("null"),
            Js::Bool(true) => Cow::Borrowed("true"),
            Js::Bool(false) => Cow::Borrowed("false"),
            Js::Number(number) => Cow::Owned(number_to_string(*number)),
            Js::Digits(number) => Cow::Owned(number.to_string()),
            Js::Text(text) => Cow::Borrowed(text.as_str()),
            Js::List(list) => Cow::Owned(self.join(list, ",")?),
            Js::Object(object) => {
                // An own member hides the inherited method and is none itself.
                if object.has("toString") {
                    return Err(EvalError::new("cannot convert object to primitive value"));
                }
                Cow::Borrowed("[object Object]")
            }
            Js::Native => return Err(EvalError::new("cannot convert a built-in function to a string")),
        })
    }

    /// `Array.prototype.join`
    pub(crate) fn join(&mut self, list: &List<'s>, separator: &str) -> Eval<String> {
        self.descend()?;
        let mut out = String::new();
        for index in 0..list.len() {
            self.step()?;
            if index > 0 {
                self.charge(separator.len())?;
                out.push_str(separator);
            }
            let item = list.get(index).unwrap_or(Js::Undefined);
            if !item.is_nullish() {
                let text = self.to_text(&item)?;
                self.charge(text.len())?;
                out.push_str(&text);
            }
            self.check_text(out.len())?;
        }
        self.ascend();
        Ok(out)
    }

    pub(crate) fn to_key<'v>(&mut self, value: &'v Js<'s>) -> Eval<Cow<'v, str>> {
        let key = self.to_text(value)?;
        self.scan(&key)?;
        Ok(key)
    }

    pub(crate) fn strict_equals(&mut self, a: &Js<'s>, b: &Js<'s>) -> Eval<bool> {
        if let (Js::Text(a), Js::Text(b)) = (a, b)
            && a.as_str().len() == b.as_str().len()
        {
            self.scan(a.as_str())?;
        }
        Ok(match (a, b) {
            (Js::Undefined, Js::Undefined) | (Js::Null, Js::Null) => true,
            (Js::Bool(a), Js::Bool(b)) => a == b,
            (Js::Number(a), Js::Number(b)) => a == b,
            (Js::Digits(a), Js::Digits(b)) => a.as_f64() == b.as_f64(),
            (Js::Digits(a), Js::Number(b)) | (Js::Number(b), Js::Digits(a)) => a.as_f64() == Some(*b),
            (Js::Text(a), Js::Text(b)) => a.as_str() == b.as_str(),
            (Js::List(a), Js::List(b)) => a.is_same(b),
            (Js::Object(a), Js::Object(b)) => a.is_same(b),
            _ => false,
        })
    }

    pub(crate) fn loose_equals(&mut self, a: &Js<'s>, b: &Js<'s>) -> Eval<bool> {
        let (kind_a, kind_b) = (a.kind(), b.kind());
        if kind_a == kind_b {
            return self.strict_equals(a, b);
        }
        if a.is_nullish() || b.is_nullish() {
            return Ok(a.is_nullish() && b.is_nullish());
        }
        let is_object = |kind| matches!(kind, Kind::List | Kind::Object | Kind::Native);
        match (is_object(kind_a), is_object(kind_b)) {
            (true, true) => Ok(false),
            (true, false) => {
                let a = self.to_primitive(a)?;
                self.loose_equals(&a, b)
            }
            (false, true) => {
                let b = self.to_primitive(b)?;
                self.loose_equals(a, &b)
            }
            // Different primitives that are neither nullish meet as numbers.
            (false, false) => Ok(self.to_number(a)? == self.to_number(b)?),
        }
    }

    /// How `a` compares to `b`; nothing when a NaN is involved.
    pub(crate) fn compare(&mut self, a: &Js<'s>, b: &Js<'s>) -> Eval<Option<Ordering>> {
        if let (Js::Number(a), Js::Number(b)) = (a, b) {
            return Ok(a.partial_cmp(b));
        }
        let (a, b) = (self.to_primitive(a)?, self.to_primitive(b)?);
        if let (Js::Text(a), Js::Text(b)) = (&a, &b) {
            self.scan(if a.as_str().len() < b.as_str().len() { a } else { b }.as_str())?;
            return Ok(Some(text::compare(a.as_str(), b.as_str())));
        }
        let (a, b) = (self.to_number(&a)?, self.to_number(&b)?);
        Ok(a.partial_cmp(&b))
    }

    pub(crate) fn add(&mut self, a: &Js<'s>, b: &Js<'s>) -> Eval<Js<'s>> {
        if let (Js::Number(a), Js::Number(b)) = (a, b) {
            return Ok(Js::Number(a + b));
        }
        let (a, b) = (self.to_primitive(a)?, self.to_primitive(b)?);
        if a.kind() != Kind::Text && b.kind() != Kind::Text {
            return Ok(Js::Number(self.to_number(&a)? + self.to_number(&b)?));
        }
        let (left, right) = (self.to_text(&a)?, self.to_text(&b)?);
        self.check_text(left.len() + right.len())?;
        let mut out = String::with_capacity(left.len() + right.len());
        out.push_str(&left);
        out.push_str(&right);
        self.made_text(out)
    }

    pub(crate) fn type_of(value: &Js<'s>) -> &'static str {
        match value.kind() {
            Kind::Undefined => "undefined",
            Kind::Null | Kind::List | Kind::Object => "object",
            Kind::Bool => "boolean",
            Kind::Number => "number",
            Kind::Text => "string",
            Kind::Native => "function",
        }
    }

    /// `key in value`
    pub(crate) fn has_property(&mut self, key: &Js<'s>, value: &Js<'s>) -> Eval<bool> {
        let (key, value) = (self.to_key(key), value);
        match value {
            Js::List(list) => {
                let key = key?;
                Ok(key == "length"
                    || text::array_index(&key).is_some_and(|index| index < list.len())
                    || super::value::is_list_method(&key))
            }
            Js::Object(object) => {
                let key = key?;
                Ok(object.has(&key) || super::value::is_object_method(&key))
            }
            Js::Native => Err(EvalError::new("`in` on a built-in function is not supported")),
            _ => Err(EvalError::new("right-hand side of 'in' is not an object")),
        }
    }

    /// `value[key]`
    pub(crate) fn get(&mut self, value: &Js<'s>, key: &str) -> Eval<Js<'s>> {
        let (found, is_method): (Option<Js<'s>>, fn(&str) -> bool) = match value {
            Js::Undefined | Js::Null => {
                let kind = if matches!(value, Js::Null) { "null" } else { "undefined" };
                let shown: String = key.chars().take(100).collect();
                return Err(EvalError::new(format!(
                    "cannot read properties of {kind} (reading '{shown}')"
                )));
            }
            Js::Object(object) => (object.get(key)?, super::value::is_object_method),
            Js::List(list) => {
                let found = match key {
                    "length" => Some(Js::Number(list.len() as f64)),
                    _ => text::array_index(key).and_then(|index| list.get(index)),
                };
                (found, super::value::is_list_method)
            }
            Js::Text(own) => {
                let found = match key {
                    "length" => {
                        self.scan(own.as_str())?;
                        Some(Js::Number(text::length(own.as_str()) as f64))
                    }
                    _ => match text::array_index(key) {
                        Some(index) => self.unit_text(own, index)?,
                        None => None,
                    },
                };
                (found, super::value::is_text_method)
            }
            Js::Number(_) | Js::Digits(_) => (None, super::value::is_number_method),
            Js::Bool(_) => (None, super::value::is_object_method),
            Js::Native => return Err(EvalError::new("members of a built-in function are not supported")),
        };
        match found {
            Some(found) => Ok(found),
            None if key == "__proto__" => Err(EvalError::new("'__proto__' is not supported")),
            None if is_method(key) => Ok(Js::Native),
            None => Ok(Js::Undefined),
        }
    }

    /// The UTF-16 unit at `index` as a string.
    pub(crate) fn unit_text(&mut self, own: &Text<'s>, index: usize) -> Eval<Option<Js<'s>>> {
        self.scan(own.as_str())?;
        if index >= text::length(own.as_str()) {
            return Ok(None);
        }
        self.slice_text(own, index, index + 1).map(Some)
    }

    /// Part of a string, borrowed where the string itself is.
    pub(crate) fn slice_text(&mut self, own: &Text<'s>, start: usize, end: usize) -> Eval<Js<'s>> {
        if let Text::Borrowed(source) = own
            && let Cow::Borrowed(part) = text::slice(source, start, end)
        {
            return Ok(Js::Text(Text::Borrowed(part)));
        }
        let part = text::slice(own.as_str(), start, end).into_owned();
        self.made_text(part)
    }

    /// The keys of whatever `Object.keys` accepts.
    pub(crate) fn own_keys(&mut self, value: &Js<'s>) -> Eval<Vec<Text<'s>>> {
        let keys = match value {
            Js::Undefined | Js::Null => return Err(EvalError::new("cannot convert undefined or null to object")),
            Js::Object(object) => object.keys(),
            Js::List(list) => self.index_keys(list.len())?,
            Js::Text(own) => {
                self.scan(own.as_str())?;
                self.index_keys(text::length(own.as_str()))?
            }
            Js::Bool(_) | Js::Number(_) | Js::Digits(_) => Vec::new(),
            Js::Native => return Err(EvalError::new("keys of a built-in function are not supported")),
        };
        self.charge_items(keys.len())?;
        Ok(keys)
    }

    fn index_keys(&mut self, count: usize) -> Eval<Vec<Text<'s>>> {
        self.charge_items(count)?;
        Ok((0..count).map(|index| Text::Owned(index.to_string().into())).collect())
    }

    /// Whether the object has a member of its own by that name.
    pub(crate) fn has_own(&mut self, value: &Js<'s>, key: &str) -> Eval<bool> {
        Ok(match value {
            Js::Undefined | Js::Null => return Err(EvalError::new("cannot convert undefined or null to object")),
            Js::Object(object) => object.has(key),
            Js::List(list) => key == "length" || text::array_index(key).is_some_and(|index| index < list.len()),
            Js::Text(own) => {
                self.scan(own.as_str())?;
                key == "length" || text::array_index(key).is_some_and(|index| index < text::length(own.as_str()))
            }
            Js::Bool(_) | Js::Number(_) | Js::Digits(_) => false,
            Js::Native => return Err(EvalError::new("members of a built-in function are not supported")),
        })
    }

    pub(crate) fn is_object(value: &Js<'s>) -> bool {
        matches!(value, Js::List(_) | Js::Object(_) | Js::Native)
    }
}

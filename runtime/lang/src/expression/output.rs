//! Turns values into JSON, as `JSON.stringify` does.
// Conversions are named as in ECMA-262, and they need the machine for its bounds.
#![allow(clippy::wrong_self_convention)]

use serde_json::{Map, Number, Value};

use super::eval::Machine;
use super::number::{as_integer, number_to_string};
use super::value::{Js, List, Object, Text};
use crate::error::EvalError;

type Eval<T> = Result<T, EvalError>;

impl<'s> Machine<'s> {
    /// The value as JSON: `undefined`, functions and numbers that are not finite become null; members that are
    /// `undefined` are left out.
    pub(crate) fn to_json(&mut self, value: &Js<'s>) -> Eval<Value> {
        self.step()?;
        Ok(match value {
            Js::Undefined | Js::Null | Js::Native => Value::Null,
            Js::Bool(value) => Value::Bool(*value),
            Js::Number(number) => json_number(*number),
            Js::Digits(number) => Value::Number((*number).clone()),
            Js::Text(text) => {
                self.charge(text.as_str().len())?;
                Value::String(text.as_str().to_owned())
            }
            Js::List(List::Json(items)) => self.copy_array(items)?,
            Js::Object(Object::Json(members)) => self.copy_object(members)?,
            Js::List(list) => {
                self.descend()?;
                self.charge_items(list.len())?;
                let mut out = Vec::with_capacity(list.len());
                for index in 0..list.len() {
                    let item = list.get(index).unwrap_or(Js::Undefined);
                    out.push(self.to_json(&item)?);
                }
                self.ascend();
                Value::Array(out)
            }
            Js::Object(object) => {
                self.descend()?;
                self.charge_items(object.len())?;
                let mut out = Map::with_capacity(object.len());
                for key in object.keys() {
                    let member = object.get(key.as_str())?.unwrap_or(Js::Undefined);
                    if !matches!(member, Js::Undefined | Js::Native) {
                        self.charge(key.as_str().len())?;
                        out.insert(key.as_str().to_owned(), self.to_json(&member)?);
                    }
                }
                self.ascend();
                Value::Object(out)
            }
        })
    }

    fn copy(&mut self, value: &Value) -> Eval<Value> {
        match value {
            Value::Array(items) => self.copy_array(items),
            Value::Object(members) => self.copy_object(members),
            Value::String(text) => {
                self.charge(text.len())?;
                Ok(value.clone())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(value.clone()),
        }
    }

    fn copy_array(&mut self, items: &[Value]) -> Eval<Value> {
        self.descend()?;
        self.charge_items(items.len())?;
        let copied = items.iter().map(|item| self.copy(item)).collect::<Eval<Vec<_>>>()?;
        self.ascend();
        Ok(Value::Array(copied))
    }

    fn copy_object(&mut self, members: &Map<String, Value>) -> Eval<Value> {
        self.descend()?;
        self.charge_items(members.len())?;
        let mut copied = Map::with_capacity(members.len());
        for (key, value) in members {
            self.charge(key.len())?;
            copied.insert(key.clone(), self.copy(value)?);
        }
        self.ascend();
        Ok(Value::Object(copied))
    }

    /// `JSON.stringify` without a replacer: nothing for `undefined` and functions.
    pub(crate) fn stringify(&mut self, value: &Js<'s>) -> Eval<Option<String>> {
        if matches!(value, Js::Undefined | Js::Native) {
            return Ok(None);
        }
        let mut out = String::new();
        self.write_json(value, &mut out)?;
        Ok(Some(out))
    }

    /// Appends what a template literal shows of the value, except that objects and arrays are compact JSON.
    pub(crate) fn show(&mut self, value: &Js<'s>, out: &mut String) -> Eval<()> {
        match value {
            Js::List(_) | Js::Object(_) => self.write_json(value, out),
            primitive => {
                out.push_str(&self.to_text(primitive)?);
                Ok(())
            }
        }
    }

    fn write_json(&mut self, value: &Js<'s>, out: &mut String) -> Eval<()> {
        self.step()?;
        self.check_text(out.len())?;
        match value {
            Js::Undefined | Js::Null | Js::Native => out.push_str("null"),
            Js::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Js::Number(number) if number.is_finite() => out.push_str(&number_to_string(*number)),
            Js::Number(_) => out.push_str("null"),
            Js::Digits(number) => out.push_str(&number.to_string()),
            Js::Text(text) => self.write_text(text, out)?,
            Js::List(list) => {
                self.descend()?;
                out.push('[');
                for index in 0..list.len() {
                    if index > 0 {
                        out.push(',');
                    }
                    let item = list.get(index).unwrap_or(Js::Undefined);
                    self.write_json(&item, out)?;
                }
                out.push(']');
                self.ascend();
            }
            Js::Object(object) => {
                self.descend()?;
                out.push('{');
                let mut first = true;
                for key in object.keys() {
                    let member = object.get(key.as_str())?.unwrap_or(Js::Undefined);
                    if matches!(member, Js::Undefined | Js::Native) {
                        continue;
                    }
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    self.write_text(&key, out)?;
                    out.push(':');
                    self.write_json(&member, out)?;
                }
                out.push('}');
                self.ascend();
            }
        }
        Ok(())
    }

    fn write_text(&mut self, text: &Text<'s>, out: &mut String) -> Eval<()> {
        self.charge(text.as_str().len())?;
        let quoted = serde_json::to_string(text.as_str()).map_err(|error| EvalError::new(error.to_string()))?;
        out.push_str(&quoted);
        Ok(())
    }
}

/// A double as JSON: an integer where it is one, null where JSON has no number for it.
pub(crate) fn json_number(number: f64) -> Value {
    match as_integer(number) {
        Some(integer) => Value::Number(integer.into()),
        None => Number::from_f64(number).map_or(Value::Null, Value::Number),
    }
}

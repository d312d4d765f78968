//! Methods of arrays.

use super::super::ast::Argument;
use super::super::eval::Callback;
use super::super::value::{List, Text};
use super::string::relative;
use super::{Eval, EvalError, Js, Kind, Machine, Method};

impl<'s> Machine<'s> {
    /// Calls a method that the value is known to have.
    pub(crate) fn call(&mut self, value: &Js<'s>, method: Method, arguments: &'s [Argument]) -> Eval<Js<'s>> {
        if method.takes_callback()
            && let Js::List(list) = value
        {
            return self.call_with_callback(list, method, arguments);
        }
        let values = self.values(arguments)?;
        match value {
            Js::Text(own) => self.call_text(own, method, &values),
            Js::List(list) => self.call_list(list, method, &values),
            Js::Number(_) | Js::Digits(_) => self.call_number(value, method, &values),
            Js::Bool(_) | Js::Object(_) => match method {
                Method::ToString if value.kind() == Kind::Object => Ok(Js::Text(Text::Borrowed("[object Object]"))),
                Method::ToString => {
                    let text = self.to_text(value)?.into_owned();
                    self.made_text(text)
                }
                Method::HasOwnProperty => self.has_own_property(value, &values),
                _ => Err(EvalError::new(format!("{} is not a function", method.name()))),
            },
            Js::Undefined | Js::Null | Js::Native => {
                Err(EvalError::new(format!("{} is not a function", method.name())))
            }
        }
    }

    fn call_list(&mut self, list: &List<'s>, method: Method, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
        let length = list.len();
        match method {
            Method::At => {
                let index = self.integer(arguments, 0, 0.0)?;
                let place = if index < 0.0 { length as f64 + index } else { index };
                let found = if place < 0.0 || place >= length as f64 {
                    None
                } else {
                    list.get(place as usize)
                };
                Ok(found.unwrap_or(Js::Undefined))
            }
            Method::Concat => {
                self.charge_items(length)?;
                let mut items: Vec<_> = (0..length).filter_map(|index| list.get(index)).collect();
                for argument in arguments {
                    if let Js::List(more) = argument {
                        self.charge_items(more.len())?;
                        items.extend((0..more.len()).filter_map(|index| more.get(index)));
                    } else {
                        items.push(argument.clone());
                    }
                }
                self.made_list(items)
            }
            Method::Includes => {
                let wanted = arguments.first().cloned().unwrap_or(Js::Undefined);
                let from = relative(self.integer(arguments, 1, 0.0)?, length);
                for index in from..length {
                    self.step()?;
                    let item = list.get(index).unwrap_or(Js::Undefined);
                    let both_nan =
                        matches!((&item, &wanted), (Js::Number(a), Js::Number(b)) if a.is_nan() && b.is_nan());
                    if both_nan || self.strict_equals(&item, &wanted)? {
                        return Ok(Js::Bool(true));
                    }
                }
                Ok(Js::Bool(false))
            }
            Method::IndexOf => {
                let from = relative(self.integer(arguments, 1, 0.0)?, length);
                self.place_of(list, arguments.first(), from..length)
            }
            Method::LastIndexOf => {
                let from = match arguments.get(1) {
                    None => length as f64 - 1.0,
                    Some(_) => self.integer(arguments, 1, 0.0)?,
                };
                let end = if from < 0.0 {
                    length as f64 + from + 1.0
                } else {
                    from + 1.0
                };
                let end = end.clamp(0.0, length as f64) as usize;
                self.place_of(list, arguments.first(), (0..end).rev())
            }
            Method::Slice => {
                let start = relative(self.integer(arguments, 0, 0.0)?, length);
                let end = relative(self.integer(arguments, 1, length as f64)?, length);
                self.charge_items(end.saturating_sub(start))?;
                let items = (start..end).filter_map(|index| list.get(index)).collect();
                self.made_list(items)
            }
            Method::ToReversed => {
                self.charge_items(length)?;
                let items = (0..length).rev().filter_map(|index| list.get(index)).collect();
                self.made_list(items)
            }
            Method::Join => {
                let separator = match arguments.first() {
                    None | Some(Js::Undefined) => ",".to_owned(),
                    Some(value) => self.to_text(value)?.into_owned(),
                };
                let text = self.join(list, &separator)?;
                self.made_text(text)
            }
            Method::ToString => {
                let text = self.join(list, ",")?;
                self.made_text(text)
            }
            Method::Flat => {
                let depth = self.integer(arguments, 0, 1.0)?;
                let mut items = Vec::new();
                self.flatten(list, depth, &mut items)?;
                self.made_list(items)
            }
            Method::HasOwnProperty => self.has_own_property(&Js::List(list.clone()), arguments),
            _ => Err(EvalError::new(format!("{} is not a function", method.name()))),
        }
    }

    fn place_of(
        &mut self,
        list: &List<'s>,
        wanted: Option<&Js<'s>>,
        places: impl Iterator<Item = usize>,
    ) -> Eval<Js<'s>> {
        let wanted = wanted.cloned().unwrap_or(Js::Undefined);
        for place in places {
            self.step()?;
            let item = list.get(place).unwrap_or(Js::Undefined);
            if self.strict_equals(&item, &wanted)? {
                return Ok(Js::Number(place as f64));
            }
        }
        Ok(Js::Number(-1.0))
    }

    fn flatten(&mut self, list: &List<'s>, depth: f64, items: &mut Vec<Js<'s>>) -> Eval<()> {
        self.descend()?;
        self.charge_items(list.len())?;
        for index in 0..list.len() {
            match list.get(index) {
                Some(Js::List(inner)) if depth >= 1.0 => self.flatten(&inner, depth - 1.0, items)?,
                Some(item) => items.push(item),
                None => {}
            }
        }
        self.ascend();
        Ok(())
    }

    fn call_with_callback(&mut self, list: &List<'s>, method: Method, arguments: &'s [Argument]) -> Eval<Js<'s>> {
        let (callback, others) = match arguments.split_first() {
            Some((Argument::Arrow(arrow), others)) => (Callback::Arrow(arrow), others),
            Some((Argument::Function(global), others)) => (Callback::Function(*global), others),
            _ => {
                let values = self.values(arguments)?;
                // Only here can a built-in method arrive as a value.
                let found = if matches!(values.first(), Some(Js::Native)) {
                    "a built-in method as a callback is not supported"
                } else {
                    "callback is not a function"
                };
                return Err(EvalError::new(found));
            }
        };
        let others = self.values(others)?;
        let length = list.len();
        let whole = || Js::List(list.clone());
        let place = |index: usize| Js::Number(index as f64);
        let item = |index: usize| list.get(index).unwrap_or(Js::Undefined);
        match method {
            Method::Reduce => self.reduce(list, callback, others, 0..length),
            Method::ReduceRight => self.reduce(list, callback, others, (0..length).rev()),
            Method::Map | Method::FlatMap => {
                let mut items = Vec::new();
                for index in 0..length {
                    let value = self.invoke(callback, [item(index), place(index), whole()])?;
                    match value {
                        Js::List(inner) if method == Method::FlatMap => {
                            self.charge_items(inner.len())?;
                            items.extend((0..inner.len()).filter_map(|at| inner.get(at)));
                        }
                        value => items.push(value),
                    }
                    self.charge_items(1)?;
                }
                self.made_list(items)
            }
            Method::Filter => {
                let mut items = Vec::new();
                for index in 0..length {
                    if self.invoke(callback, [item(index), place(index), whole()])?.truthy() {
                        self.charge_items(1)?;
                        items.push(item(index));
                    }
                }
                self.made_list(items)
            }
            Method::Some | Method::Every => {
                let decisive = method == Method::Some;
                for index in 0..length {
                    if self.invoke(callback, [item(index), place(index), whole()])?.truthy() == decisive {
                        return Ok(Js::Bool(decisive));
                    }
                }
                Ok(Js::Bool(!decisive))
            }
            _ => {
                let backwards = matches!(method, Method::FindLast | Method::FindLastIndex);
                let wants_place = matches!(method, Method::FindIndex | Method::FindLastIndex);
                for step in 0..length {
                    let index = if backwards { length - 1 - step } else { step };
                    if self.invoke(callback, [item(index), place(index), whole()])?.truthy() {
                        return Ok(if wants_place { place(index) } else { item(index) });
                    }
                }
                Ok(if wants_place { Js::Number(-1.0) } else { Js::Undefined })
            }
        }
    }

    fn reduce(
        &mut self,
        list: &List<'s>,
        callback: Callback<'s>,
        others: Vec<Js<'s>>,
        mut places: impl Iterator<Item = usize>,
    ) -> Eval<Js<'s>> {
        let mut acc = match others.into_iter().next() {
            Some(initial) => initial,
            None => places
                .next()
                .and_then(|first| list.get(first))
                .ok_or_else(|| EvalError::new("reduce of empty array with no initial value"))?,
        };
        for index in places {
            let item = list.get(index).unwrap_or(Js::Undefined);
            acc = self.invoke(callback, [acc, item, Js::Number(index as f64), Js::List(list.clone())])?;
        }
        Ok(acc)
    }
}

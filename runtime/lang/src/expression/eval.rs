//! Evaluates the safe subset within bounds on steps, memory and depth.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Argument, Arrow, BinaryOp, Chain, Element, Expr, Link, LogicalOp, Property, UnaryOp};
use super::methods::{Global, call_global};
use super::number::{power, to_int32, to_uint32};
use super::value::{Js, List, Made, Object, Properties, Text};
use crate::error::EvalError;
use crate::limits::{EXPRESSION_BYTES_MAX, EXPRESSION_STEPS_MAX, EXPRESSION_STRING_BYTES_MAX, VALUE_DEPTH_MAX};
use crate::scope::Scope;

type Eval<T> = Result<T, EvalError>;

/// Bytes that one element of an array or object is counted as.
const ITEM_BYTES: usize = 48;
/// Bytes of a text that are walked over in about the time of one step.
const SCANNED_BYTES_PER_STEP: usize = 64;
/// Bytes that are allocated and filled in about that time.
const FILLED_BYTES_PER_STEP: usize = 32;

/// One evaluation: the scope, the parameters of the arrow functions that run, and what is left of each bound.
pub(crate) struct Machine<'s> {
    scope: &'s Scope<'s>,
    locals: Vec<Js<'s>>,
    steps_left: u64,
    bytes_left: u64,
    nesting: usize,
}

/// What a callback method was given as its function.
#[derive(Clone, Copy)]
pub(crate) enum Callback<'s> {
    Arrow(&'s Arrow),
    Function(Global),
}

impl<'s> Machine<'s> {
    pub(crate) fn new(scope: &'s Scope<'s>) -> Self {
        Self {
            scope,
            locals: Vec::new(),
            steps_left: EXPRESSION_STEPS_MAX,
            bytes_left: EXPRESSION_BYTES_MAX,
            nesting: 0,
        }
    }

    /// Everything in scope, as one object.
    pub(crate) const fn root(&self) -> Js<'s> {
        Js::Object(Object::Record(self.scope.root()))
    }

    pub(crate) fn step(&mut self) -> Eval<()> {
        self.steps(1)
    }

    pub(crate) fn steps(&mut self, count: usize) -> Eval<()> {
        match self.steps_left.checked_sub(count as u64) {
            Some(left) if self.scope.spend(count as u64) => {
                self.steps_left = left;
                Ok(())
            }
            Some(_) => Err(EvalError::new(
                "expression takes too many steps, together with those beside it",
            )),
            None => Err(EvalError::new("expression takes too many steps")),
        }
    }

    /// Counts the time to walk over a text.
    pub(crate) fn scan(&mut self, text: &str) -> Eval<()> {
        self.steps(text.len() / SCANNED_BYTES_PER_STEP)
    }

    /// Counts bytes that are allocated, and the time to fill them.
    pub(crate) fn charge(&mut self, bytes: usize) -> Eval<()> {
        match self.bytes_left.checked_sub(bytes as u64) {
            Some(left) if self.scope.spend((bytes / FILLED_BYTES_PER_STEP) as u64) => {
                self.bytes_left = left;
                Ok(())
            }
            Some(_) => Err(EvalError::new(
                "expression uses too much memory, together with those beside it",
            )),
            None => Err(EvalError::new("expression uses too much memory")),
        }
    }

    pub(crate) fn charge_items(&mut self, count: usize) -> Eval<()> {
        self.steps(count)?;
        self.charge(count.saturating_mul(ITEM_BYTES))
    }

    pub(crate) fn check_text(&self, bytes: usize) -> Eval<()> {
        if bytes > EXPRESSION_STRING_BYTES_MAX {
            return Err(EvalError::new("invalid string length"));
        }
        Ok(())
    }

    pub(crate) fn descend(&mut self) -> Eval<()> {
        self.nesting += 1;
        if self.nesting > VALUE_DEPTH_MAX {
            return Err(EvalError::new("value is nested too deeply"));
        }
        Ok(())
    }

    pub(crate) fn ascend(&mut self) {
        self.nesting -= 1;
    }

    pub(crate) fn made_text(&mut self, text: String) -> Eval<Js<'s>> {
        self.check_text(text.len())?;
        self.charge(text.len())?;
        Ok(Js::text(text))
    }

    pub(crate) fn made_list(&mut self, items: Vec<Js<'s>>) -> Eval<Js<'s>> {
        self.charge_items(items.len())?;
        let depth = made_depth(items.iter())?;
        Ok(Js::List(List::Made(Rc::new(Made { contents: items, depth }))))
    }

    pub(crate) fn made_object(&mut self, entries: Vec<(Text<'s>, Js<'s>)>) -> Eval<Js<'s>> {
        self.charge_items(entries.len() * 2)?;
        let depth = made_depth(entries.iter().map(|(_, value)| value))?;
        let mut contents = Properties::default();
        for (key, value) in entries {
            contents.set(key, value);
        }
        Ok(Js::Object(Object::Made(Rc::new(Made { contents, depth }))))
    }

    pub(crate) fn eval(&mut self, expr: &'s Expr) -> Eval<Js<'s>> {
        self.step()?;
        match expr {
            Expr::Undefined => Ok(Js::Undefined),
            Expr::Null => Ok(Js::Null),
            Expr::Bool(value) => Ok(Js::Bool(*value)),
            Expr::Number(number) => Ok(Js::Number(*number)),
            Expr::Text(text) => Ok(Js::Text(Text::Borrowed(text))),
            Expr::Name(name) => match self.scope.root().get(name.as_str()) {
                Some(binding) => Js::from_binding(binding),
                None => Ok(Js::Undefined),
            },
            Expr::Local(place) => Ok(self.locals.get(*place).cloned().unwrap_or(Js::Undefined)),
            Expr::Chain(chain) => self.chain(chain),
            Expr::Binary(op, operands) => self.binary(*op, &operands.0, &operands.1),
            Expr::Logical(op, operands) => {
                let left = self.eval(&operands.0)?;
                let decided = match op {
                    LogicalOp::And => !left.truthy(),
                    LogicalOp::Or => left.truthy(),
                    LogicalOp::Coalesce => !left.is_nullish(),
                };
                if decided { Ok(left) } else { self.eval(&operands.1) }
            }
            Expr::Conditional(parts) => {
                if self.eval(&parts.0)?.truthy() {
                    self.eval(&parts.1)
                } else {
                    self.eval(&parts.2)
                }
            }
            Expr::Unary(op, operand) => self.unary(*op, operand),
            Expr::Template(texts, parts) => self.template(texts, parts),
            Expr::Array(elements) => self.array(elements),
            Expr::Object(properties) => self.object(properties),
            Expr::Global(global, arguments) => {
                let values = self.values(arguments)?;
                call_global(self, *global, &values)
            }
        }
    }

    fn chain(&mut self, chain: &'s Chain) -> Eval<Js<'s>> {
        let mut value = self.eval(&chain.head)?;
        for link in &chain.links {
            let optional = match link {
                Link::Member { optional, .. } | Link::Index { optional, .. } | Link::Call { optional, .. } => *optional,
            };
            if optional && value.is_nullish() {
                return Ok(Js::Undefined);
            }
            value = match link {
                Link::Member { name, .. } => {
                    self.scan(name)?;
                    self.get(&value, name)?
                }
                Link::Index { key, .. } => {
                    let key = self.eval(key)?;
                    self.index(&value, &key)?
                }
                Link::Call { method, arguments, .. } => {
                    let name = method.name();
                    if !matches!(self.get(&value, name)?, Js::Native) {
                        return Err(EvalError::new(format!("{name} is not a function")));
                    }
                    self.call(&value, *method, arguments)?
                }
            };
        }
        Ok(value)
    }

    fn index(&mut self, value: &Js<'s>, key: &Js<'s>) -> Eval<Js<'s>> {
        if let (Js::List(list), Js::Number(number)) = (value, key)
            && *number >= 0.0
            && number.trunc() == *number
            && (*number as usize) < list.len()
        {
            return Ok(list.get(*number as usize).unwrap_or(Js::Undefined));
        }
        if value.is_nullish() {
            let shown = self.to_text(key).unwrap_or(Cow::Borrowed("…"));
            return self.get(value, &shown);
        }
        let key = self.to_key(key)?;
        self.get(value, &key)
    }

    fn unary(&mut self, op: UnaryOp, operand: &'s Expr) -> Eval<Js<'s>> {
        let value = self.eval(operand)?;
        Ok(match op {
            UnaryOp::Not => Js::Bool(!value.truthy()),
            UnaryOp::Minus => Js::Number(-self.to_number(&value)?),
            UnaryOp::Plus => Js::Number(self.to_number(&value)?),
            UnaryOp::BitNot => Js::Number(f64::from(!to_int32(self.to_number(&value)?))),
            UnaryOp::Typeof => Js::Text(Text::Borrowed(Self::type_of(&value))),
            UnaryOp::Void => Js::Undefined,
        })
    }

    fn binary(&mut self, op: BinaryOp, left: &'s Expr, right: &'s Expr) -> Eval<Js<'s>> {
        let left = self.eval(left)?;
        let right = self.eval(right)?;
        let ordered =
            |ordering: Option<Ordering>, accepts: fn(Ordering) -> bool| Js::Bool(ordering.is_some_and(accepts));
        Ok(match op {
            BinaryOp::Add => self.add(&left, &right)?,
            BinaryOp::StrictEqual => Js::Bool(self.strict_equals(&left, &right)?),
            BinaryOp::StrictUnequal => Js::Bool(!self.strict_equals(&left, &right)?),
            BinaryOp::LooseEqual => Js::Bool(self.loose_equals(&left, &right)?),
            BinaryOp::LooseUnequal => Js::Bool(!self.loose_equals(&left, &right)?),
            BinaryOp::Less => ordered(self.compare(&left, &right)?, Ordering::is_lt),
            BinaryOp::LessEqual => ordered(self.compare(&left, &right)?, Ordering::is_le),
            BinaryOp::Greater => ordered(self.compare(&left, &right)?, Ordering::is_gt),
            BinaryOp::GreaterEqual => ordered(self.compare(&left, &right)?, Ordering::is_ge),
            BinaryOp::In => Js::Bool(self.has_property(&left, &right)?),
            BinaryOp::Subtract
            | BinaryOp::Multiply
            | BinaryOp::Divide
            | BinaryOp::Remainder
            | BinaryOp::Power
            | BinaryOp::BitAnd
            | BinaryOp::BitOr
            | BinaryOp::BitXor
            | BinaryOp::ShiftLeft
            | BinaryOp::ShiftRight
            | BinaryOp::ShiftRightUnsigned => {
                let (left, right) = (self.to_number(&left)?, self.to_number(&right)?);
                Js::Number(arithmetic(op, left, right))
            }
        })
    }

    fn template(&mut self, texts: &'s [Box<str>], parts: &'s [Expr]) -> Eval<Js<'s>> {
        let mut out = String::new();
        for (index, text) in texts.iter().enumerate() {
            out.push_str(text);
            if let Some(part) = parts.get(index) {
                let value = self.eval(part)?;
                let shown = self.to_text(&value)?;
                self.check_text(out.len() + shown.len())?;
                self.charge(shown.len())?;
                out.push_str(&shown);
            }
        }
        self.made_text(out)
    }

    fn array(&mut self, elements: &'s [Element]) -> Eval<Js<'s>> {
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            match element {
                Element::One(expr) => items.push(self.eval(expr)?),
                Element::Spread(expr) => {
                    let value = self.eval(expr)?;
                    self.spread(&value, &mut items)?;
                }
            }
        }
        self.made_list(items)
    }

    /// Appends what iterating over the value gives: the items of an array, the characters of a string.
    pub(crate) fn spread(&mut self, value: &Js<'s>, items: &mut Vec<Js<'s>>) -> Eval<()> {
        match value {
            Js::List(list) => {
                self.charge_items(list.len())?;
                items.extend((0..list.len()).filter_map(|index| list.get(index)));
                Ok(())
            }
            Js::Text(text) => {
                self.charge_items(text.as_str().len())?;
                items.extend(
                    text.as_str()
                        .chars()
                        .map(|c| Js::text(c.encode_utf8(&mut [0; 4]) as &str)),
                );
                Ok(())
            }
            _ => Err(EvalError::new("value is not iterable")),
        }
    }

    fn object(&mut self, properties: &'s [Property]) -> Eval<Js<'s>> {
        let mut entries = Vec::with_capacity(properties.len());
        for property in properties {
            match property {
                Property::Named(name, expr) => entries.push((Text::Borrowed(name), self.eval(expr)?)),
                Property::Computed(key, expr) => {
                    let key = self.eval(key)?;
                    let key = self.owned_key(&key)?;
                    entries.push((key, self.eval(expr)?));
                }
                Property::Spread(expr) => {
                    let value = self.eval(expr)?;
                    if !value.is_nullish() {
                        for key in self.own_keys(&value)? {
                            let member = self.get(&value, key.as_str())?;
                            entries.push((key, member));
                        }
                    }
                }
            }
        }
        self.made_object(entries)
    }

    pub(crate) fn owned_key(&mut self, key: &Js<'s>) -> Eval<Text<'s>> {
        if let Js::Text(text) = key {
            return Ok(text.clone());
        }
        let text = self.to_key(key)?.into_owned();
        self.charge(text.len())?;
        Ok(Text::Owned(text.into()))
    }

    /// Evaluates arguments, none of which is a callback.
    pub(crate) fn values(&mut self, arguments: &'s [Argument]) -> Eval<Vec<Js<'s>>> {
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match argument {
                Argument::One(expr) => values.push(self.eval(expr)?),
                Argument::Spread(expr) => {
                    let value = self.eval(expr)?;
                    self.spread(&value, &mut values)?;
                }
                Argument::Arrow(_) | Argument::Function(_) => values.push(Js::Native),
            }
        }
        Ok(values)
    }

    /// Calls a callback; values it has no parameter for are dropped.
    pub(crate) fn invoke<const N: usize>(&mut self, callback: Callback<'s>, values: [Js<'s>; N]) -> Eval<Js<'s>> {
        self.step()?;
        match callback {
            Callback::Function(global) => call_global(self, global, &values),
            Callback::Arrow(arrow) => {
                self.locals.truncate(arrow.first_local);
                let missing = arrow.parameters.saturating_sub(N);
                self.locals.extend(values.into_iter().take(arrow.parameters));
                self.locals.extend(std::iter::repeat_n(Js::Undefined, missing));
                let result = self.eval(&arrow.body)?;
                self.locals.truncate(arrow.first_local);
                Ok(result)
            }
        }
    }
}

fn made_depth<'v, 's: 'v>(values: impl Iterator<Item = &'v Js<'s>>) -> Eval<usize> {
    let depth = 1 + values.map(Js::made_depth).max().unwrap_or(0);
    if depth > VALUE_DEPTH_MAX {
        Err(EvalError::new("value is nested too deeply"))
    } else {
        Ok(depth)
    }
}

fn arithmetic(op: BinaryOp, left: f64, right: f64) -> f64 {
    let shift = || to_uint32(right) & 31;
    match op {
        BinaryOp::Subtract => left - right,
        BinaryOp::Multiply => left * right,
        BinaryOp::Divide => left / right,
        BinaryOp::Remainder => left % right,
        BinaryOp::Power => power(left, right),
        BinaryOp::BitAnd => f64::from(to_int32(left) & to_int32(right)),
        BinaryOp::BitOr => f64::from(to_int32(left) | to_int32(right)),
        BinaryOp::BitXor => f64::from(to_int32(left) ^ to_int32(right)),
        BinaryOp::ShiftLeft => f64::from(to_int32(left) << shift()),
        BinaryOp::ShiftRight => f64::from(to_int32(left) >> shift()),
        BinaryOp::ShiftRightUnsigned => f64::from(to_uint32(left) >> shift()),
        BinaryOp::Add
        | BinaryOp::LooseEqual
        | BinaryOp::LooseUnequal
        | BinaryOp::StrictEqual
        | BinaryOp::StrictUnequal
        | BinaryOp::Less
        | BinaryOp::LessEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterEqual
        | BinaryOp::In => f64::NAN,
    }
}

//! Arrays and objects.

use super::super::ast::{Element, Expr, Property};
use super::super::number::number_to_string;
use super::super::token::{Fault, Kind};
use super::words::is_keyword;
use super::{Parse, Parsed, Parser, Shape};
use crate::error::LangError;

impl Parser<'_> {
    pub(super) fn array(&mut self) -> Parse<Parsed> {
        let (mut elements, mut depth) = (Vec::new(), 0);
        while !self.eat("]") {
            if self.peek_is(",") {
                return Err(Fault::Outside);
            }
            let spread = self.eat("...");
            let parsed = self.expression()?;
            depth = depth.max(parsed.depth);
            elements.push(if spread {
                Element::Spread(parsed.expr)
            } else {
                Element::One(parsed.expr)
            });
            if !self.peek_is("]") {
                self.expect(",")?;
            }
        }
        self.checked(Expr::Array(elements), Shape::Plain, depth + 1)
    }

    pub(super) fn object(&mut self) -> Parse<Parsed> {
        let (mut properties, mut depth) = (Vec::new(), 0);
        while !self.eat("}") {
            let (property, value_depth) = self.property()?;
            depth = depth.max(value_depth);
            properties.push(property);
            if !self.peek_is("}") {
                self.expect(",")?;
            }
        }
        self.checked(Expr::Object(properties), Shape::Plain, depth + 1)
    }

    fn property(&mut self) -> Parse<(Property, usize)> {
        if self.eat("...") {
            let parsed = self.expression()?;
            return Ok((Property::Spread(parsed.expr), parsed.depth));
        }
        if self.eat("[") {
            let key = self.expression()?;
            self.expect("]")?;
            if !self.eat(":") {
                return Err(Fault::Outside);
            }
            let value = self.expression()?;
            return Ok((Property::Computed(key.expr, value.expr), key.depth.max(value.depth)));
        }
        let Some(token) = self.peek() else {
            return Err(LangError::syntax("`}` is missing at the end", self.end..self.end).into());
        };
        let (name, shorthand): (Box<str>, bool) = match &token.kind {
            Kind::Identifier(name) => (name.clone(), true),
            Kind::Text(name) => (name.clone(), false),
            Kind::Number(number) => (number_to_string(*number).into(), false),
            Kind::Punctuator(_) | Kind::Template(..) => return Err(Fault::Outside),
        };
        self.at += 1;
        if self.eat(":") {
            // Such a property sets the prototype instead.
            if &*name == "__proto__" {
                return Err(Fault::Outside);
            }
            let value = self.expression()?;
            return Ok((Property::Named(name, value.expr), value.depth));
        }
        if shorthand && !is_keyword(&name) && (self.peek_is(",") || self.peek_is("}")) {
            let value = self.identifier(&name)?;
            if let Expr::Name(name) = value.expr {
                self.uses.touch(name, None);
            }
            return Ok((Property::Named(name, value.expr), value.depth));
        }
        Err(Fault::Outside)
    }
}

//! Operands: names, calls, literals, and what is looked up on them.

use super::super::ast::{Argument, Arrow, Chain, Expr, Link};
use super::super::methods::{self, Global, Method};
use super::super::token::{Fault, Kind, Token};
use super::super::uses::ScopeName;
use super::words::{is_keyword, is_statement_keyword};
use super::{Parse, Parsed, Parser, Shape};
use crate::error::LangError;

impl<'t> Parser<'t> {
    pub(super) fn chain(&mut self) -> Parse<Parsed> {
        let Parsed {
            expr: head,
            shape,
            mut depth,
        } = self.primary()?;
        let mut links = Vec::new();
        loop {
            let optional = self.eat("?.");
            if self.eat("[") {
                let key = self.expression()?;
                self.expect("]")?;
                depth = depth.max(key.depth + 1);
                links.push(Link::Index {
                    key: key.expr,
                    optional,
                });
            } else if optional || self.eat(".") {
                let name = self.member_name(optional)?;
                let method = Method::parse(&name);
                if self.unknown.is_some() && self.eat("(") {
                    depth = depth.max(self.arguments(true)?.1 + 1);
                    links.push(Link::Member { name, optional });
                } else if self.eat("(") {
                    let method = method.ok_or(Fault::Outside)?;
                    let (arguments, arguments_depth) = self.arguments(method.takes_callback())?;
                    if !method.accepts(&arguments) {
                        return Err(Fault::Outside);
                    }
                    depth = depth.max(arguments_depth + 1);
                    links.push(Link::Call {
                        method,
                        arguments,
                        optional,
                    });
                } else {
                    links.push(Link::Member { name, optional });
                }
            } else if matches!(self.peek().map(|token| &token.kind), Some(Kind::Template(..))) || self.peek_is("(") {
                return Err(Fault::Outside);
            } else {
                break;
            }
        }
        if let Expr::Name(name) = head {
            let member = match links.first() {
                Some(Link::Member { name, .. }) => Some(&**name),
                Some(Link::Index {
                    key: Expr::Text(name), ..
                }) => Some(&**name),
                _ => None,
            };
            self.uses.touch(name, member);
        }
        if links.is_empty() {
            return Ok(Parsed {
                expr: head,
                shape,
                depth,
            });
        }
        self.checked(Expr::Chain(Box::new(Chain { head, links })), Shape::Plain, depth + 1)
    }

    fn member_name(&mut self, optional: bool) -> Parse<Box<str>> {
        match self.peek().map(|token| &token.kind) {
            Some(Kind::Identifier(name)) => {
                self.at += 1;
                Ok(name.clone())
            }
            None => Err(LangError::syntax("a name is missing behind `.`", self.end..self.end).into()),
            Some(Kind::Punctuator("(")) if optional => Err(Fault::Outside),
            Some(_) => Err(LangError::syntax("a name is missing behind `.`", self.tokens[self.at].span.clone()).into()),
        }
    }

    /// The arguments up to and with the closing parenthesis, and the depth of the deepest.
    fn arguments(&mut self, callback: bool) -> Parse<(Vec<Argument>, usize)> {
        let (mut arguments, mut depth) = (Vec::new(), 0);
        while !self.eat(")") {
            if self.eat("...") {
                let parsed = self.expression()?;
                depth = depth.max(parsed.depth);
                arguments.push(Argument::Spread(parsed.expr));
            } else if callback
                && arguments.is_empty()
                && let Some((argument, body_depth)) = self.callback()?
            {
                depth = depth.max(body_depth);
                arguments.push(argument);
            } else {
                let parsed = self.expression()?;
                depth = depth.max(parsed.depth);
                arguments.push(Argument::One(parsed.expr));
            }
            if !self.peek_is(")") {
                self.expect(",")?;
            }
        }
        Ok((arguments, depth))
    }

    /// An arrow function with an expression as its body, or the bare name of a global function.
    fn callback(&mut self) -> Parse<Option<(Argument, usize)>> {
        let Some(parameters) = self.arrow_parameters()? else {
            let Some(Kind::Identifier(name)) = self.peek().map(|token| &token.kind) else {
                return Ok(None);
            };
            let alone = self
                .tokens
                .get(self.at + 1)
                .is_some_and(|token| token.is(")") || token.is(","));
            if !alone || self.local(name).is_some() || ScopeName::parse(name).is_some() {
                return Ok(None);
            }
            return match Global::parse_in(None, name) {
                Some(global) if global.is_callback() => {
                    self.at += 1;
                    Ok(Some((Argument::Function(global), 0)))
                }
                _ => Ok(None),
            };
        };
        if self.peek_is("{") {
            return Err(Fault::Outside);
        }
        let first_local = self.locals.len();
        let count = parameters.len();
        self.locals.extend(parameters);
        let body = self.expression()?;
        self.locals.truncate(first_local);
        let arrow = Arrow {
            first_local,
            parameters: count,
            body: Box::new(body.expr),
        };
        Ok(Some((Argument::Arrow(arrow), body.depth + 1)))
    }

    /// The parameters of an arrow function that starts here, with the `=>` read.
    fn arrow_parameters(&mut self) -> Parse<Option<Vec<Box<str>>>> {
        let mut at = self.at;
        let mut parameters: Vec<Box<str>> = Vec::new();
        let in_parentheses = self.peek_is("(");
        at += usize::from(in_parentheses);
        while let Some(Kind::Identifier(name)) = self.tokens.get(at).map(|token| &token.kind) {
            if is_keyword(name) || parameters.contains(name) {
                return Ok(None);
            }
            parameters.push(name.clone());
            at += 1;
            if !in_parentheses || !self.tokens.get(at).is_some_and(|token| token.is(",")) {
                break;
            }
            at += 1;
        }
        if in_parentheses {
            if !self.tokens.get(at).is_some_and(|token| token.is(")")) {
                return Ok(None);
            }
            at += 1;
        } else if parameters.is_empty() {
            return Ok(None);
        }
        if !self.tokens.get(at).is_some_and(|token| token.is("=>")) {
            return Ok(None);
        }
        self.at = at + 1;
        Ok(Some(parameters))
    }

    fn primary(&mut self) -> Parse<Parsed> {
        let Some(token) = self.peek() else {
            return Err(LangError::syntax("expression ends too early", self.end..self.end).into());
        };
        let plain = |expr| {
            Ok(Parsed {
                expr,
                shape: Shape::Plain,
                depth: 1,
            })
        };
        self.at += 1;
        match &token.kind {
            Kind::Number(number) => plain(Expr::Number(*number)),
            Kind::Text(text) => plain(Expr::Text(text.clone())),
            Kind::Template(texts, parts) => self.template(texts, parts),
            Kind::Identifier(name) => self.identifier(name),
            Kind::Punctuator("(") => {
                self.at -= 1;
                if self.arrow_parameters()?.is_some() {
                    return Err(Fault::Outside);
                }
                self.at += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(Parsed {
                    shape: Shape::Plain,
                    ..inner
                })
            }
            Kind::Punctuator("[") => self.array(),
            Kind::Punctuator("{") => self.object(),
            Kind::Punctuator(_) => {
                self.at -= 1;
                Err(self.unexpected(token))
            }
        }
    }

    fn template(&mut self, texts: &[Box<str>], parts: &'t [Vec<Token>]) -> Parse<Parsed> {
        let (mut exprs, mut depth) = (Vec::with_capacity(parts.len()), 0);
        let (outer, at) = (self.tokens, self.at);
        for part in parts {
            (self.tokens, self.at) = (part, 0);
            if part.is_empty() {
                return Err(LangError::syntax("`${}` is empty", 0..self.end).into());
            }
            let parsed = self.expression()?;
            if let Some(token) = self.peek() {
                return Err(self.unexpected(token));
            }
            depth = depth.max(parsed.depth);
            exprs.push(parsed.expr);
        }
        (self.tokens, self.at) = (outer, at);
        self.checked(Expr::Template(texts.to_vec(), exprs), Shape::Plain, depth + 1)
    }

    fn local(&self, name: &str) -> Option<usize> {
        self.locals.iter().rposition(|local| &**local == name)
    }

    pub(super) fn identifier(&mut self, name: &str) -> Parse<Parsed> {
        let plain = |expr| {
            Ok(Parsed {
                expr,
                shape: Shape::Plain,
                depth: 1,
            })
        };
        if self.peek_is("=>") {
            return Err(Fault::Outside);
        }
        if let Some(local) = self.local(name) {
            return plain(Expr::Local(local));
        }
        if let Some(name) = ScopeName::parse(name) {
            return plain(Expr::Name(name));
        }
        match name {
            "true" => return plain(Expr::Bool(true)),
            "false" => return plain(Expr::Bool(false)),
            "null" => return plain(Expr::Null),
            "undefined" => return plain(Expr::Undefined),
            "NaN" => return plain(Expr::Number(f64::NAN)),
            "Infinity" => return plain(Expr::Number(f64::INFINITY)),
            _ => {}
        }
        if self.at == 1 && is_statement_keyword(name) && self.depth == 1 {
            let error = LangError::syntax(
                format!("`{name}` starts a statement, an expression is needed"),
                self.tokens[0].span.clone(),
            );
            return Err(error
                .with_hint("write the value itself, without `return`, declarations or `;`")
                .into());
        }
        if self.eat("(") {
            return self.global_call(None, name);
        }
        if methods::is_namespace(name) && self.eat(".") {
            let member = self.member_name(false)?;
            if self.eat("(") {
                return self.global_call(Some(name), &member);
            }
            return match methods::constant(name, &member) {
                Some(number) => plain(Expr::Number(number)),
                None if self.unknown.is_some() => plain(Expr::Undefined),
                None => Err(Fault::Outside),
            };
        }
        self.note_unknown(name)?;
        plain(Expr::Undefined)
    }

    /// Notes a name that is neither of the scope nor of the language.
    ///
    /// # Errors
    /// [`Fault::Outside`] for a keyword, and where nobody looks for such names.
    fn note_unknown(&mut self, name: &str) -> Parse<()> {
        match &mut self.unknown {
            Some(unknown) if !is_keyword(name) => {
                if !super::super::globals::NAMES.contains(&name) && !unknown.iter().any(|known| &**known == name) {
                    unknown.push(name.into());
                }
                Ok(())
            }
            Some(_) | None => Err(Fault::Outside),
        }
    }

    fn global_call(&mut self, namespace: Option<&str>, name: &str) -> Parse<Parsed> {
        if self.unknown.is_some() {
            if namespace.is_none() {
                self.note_unknown(name)?;
            }
            let (_, depth) = self.arguments(true)?;
            return self.checked(Expr::Undefined, Shape::Plain, depth + 1);
        }
        let global = Global::parse_in(namespace, name).ok_or(Fault::Outside)?;
        let (arguments, depth) = self.arguments(false)?;
        if !global.accepts(&arguments) {
            return Err(Fault::Outside);
        }
        self.checked(Expr::Global(global, arguments), Shape::Plain, depth + 1)
    }
}

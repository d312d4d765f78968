//! A Pratt parser for the safe subset.

use super::ast::{Argument, Arrow, BinaryOp, Chain, Element, Expr, Link, LogicalOp, Property, UnaryOp};
use super::methods::{self, Global, Method};
use super::number::number_to_string;
use super::token::{Fault, Kind, Token, tokenize};
use super::uses::{ScopeName, Uses};
use crate::error::{LangCode, LangError};
use crate::limits::EXPRESSION_DEPTH_MAX;

/// Parses a source and tells which names of the scope it touches.
pub(crate) fn parse(source: &str) -> Result<(Expr, Uses), Fault> {
    let tokens = tokenize(source)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        end: source.len(),
        depth: 0,
        locals: Vec::new(),
        uses: Uses::default(),
    };
    let expr = parser.whole()?;
    Ok((expr, parser.uses))
}

/// What an operand is made of, for the two rules on mixing operators without parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Plain,
    Unary,
    AndOr,
    Coalesce,
}

/// An expression with the depth of its tree.
struct Parsed {
    expr: Expr,
    shape: Shape,
    depth: usize,
}

enum Infix {
    Binary(BinaryOp),
    Logical(LogicalOp),
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    end: usize,
    depth: usize,
    locals: Vec<Box<str>>,
    uses: Uses,
}

type Parse<T> = Result<T, Fault>;

impl<'t> Parser<'t> {
    fn whole(&mut self) -> Parse<Expr> {
        if self.tokens.is_empty() {
            return Err(LangError::syntax("expression is empty", 0..self.end).into());
        }
        let expr = self.expression()?;
        match self.peek() {
            None => Ok(expr.expr),
            Some(token) => Err(self.unexpected(token)),
        }
    }

    fn peek(&self) -> Option<&'t Token> {
        self.tokens.get(self.at)
    }

    fn peek_is(&self, punctuator: &str) -> bool {
        self.peek().is_some_and(|token| token.is(punctuator))
    }

    fn eat(&mut self, punctuator: &str) -> bool {
        let found = self.peek_is(punctuator);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, punctuator: &str) -> Parse<()> {
        if self.eat(punctuator) {
            return Ok(());
        }
        match self.peek() {
            None => Err(LangError::syntax(format!("`{punctuator}` is missing at the end"), self.end..self.end).into()),
            Some(token) => Err(self.unexpected(token)),
        }
    }

    /// A token that the grammar of the subset has no place for. Assignments, sequences, arrow functions and the
    /// like have one in JavaScript; two operands side by side have none.
    fn unexpected(&self, token: &Token) -> Fault {
        let follows_operand = self.at > 0 && super::token::ends_operand(&self.tokens[self.at - 1]);
        let message = match &token.kind {
            Kind::Identifier(name) if follows_operand && !is_keyword(name) && !self.previous_is_keyword() => {
                format!("unexpected `{name}`")
            }
            Kind::Number(_) if follows_operand && !self.previous_is_keyword() => "unexpected number".to_owned(),
            Kind::Text(_) if follows_operand && !self.previous_is_keyword() => "unexpected string".to_owned(),
            Kind::Punctuator(closing @ (")" | "]" | "}")) => format!("unexpected `{closing}`"),
            _ => return Fault::Outside,
        };
        LangError::syntax(message, token.span.clone()).into()
    }

    fn previous_is_keyword(&self) -> bool {
        matches!(&self.tokens[self.at - 1].kind, Kind::Identifier(name) if is_keyword(name))
    }

    fn expression(&mut self) -> Parse<Parsed> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX {
            return Err(self.too_deep());
        }
        let condition = self.binary(0)?;
        let parsed = if self.eat("?") {
            let then = self.expression()?;
            self.expect(":")?;
            let otherwise = self.expression()?;
            let depth = 1 + condition.depth.max(then.depth).max(otherwise.depth);
            let expr = Expr::Conditional(Box::new((condition.expr, then.expr, otherwise.expr)));
            self.checked(expr, Shape::Plain, depth)?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(parsed)
    }

    fn too_deep(&self) -> Fault {
        let span = self.peek().map(|token| token.span.clone());
        Fault::Error(LangError {
            span,
            ..LangError::new(
                LangCode::ExpressionLimit,
                format!("expression is nested more than {EXPRESSION_DEPTH_MAX} levels deep"),
            )
        })
    }

    fn checked(&self, expr: Expr, shape: Shape, depth: usize) -> Parse<Parsed> {
        if depth > EXPRESSION_DEPTH_MAX {
            Err(self.too_deep())
        } else {
            Ok(Parsed { expr, shape, depth })
        }
    }

    fn binary(&mut self, strength_min: u8) -> Parse<Parsed> {
        let mut left = self.unary()?;
        while let Some((strength, infix)) = self.peek().and_then(infix) {
            if strength < strength_min {
                break;
            }
            let operator = self.at;
            self.at += 1;
            let is_power = matches!(infix, Infix::Binary(BinaryOp::Power));
            if is_power && left.shape == Shape::Unary {
                return Err(LangError::syntax(
                    "put the operand of `**` in parentheses",
                    self.tokens[operator].span.clone(),
                )
                .into());
            }
            self.depth += 1;
            if self.depth > EXPRESSION_DEPTH_MAX {
                return Err(self.too_deep());
            }
            let right = self.binary(if is_power { strength } else { strength + 1 })?;
            self.depth -= 1;
            let depth = 1 + left.depth.max(right.depth);
            let shapes = [left.shape, right.shape];
            let operands = Box::new((left.expr, right.expr));
            left = match infix {
                Infix::Binary(op) => self.checked(Expr::Binary(op, operands), Shape::Plain, depth)?,
                Infix::Logical(op) => {
                    let (shape, other) = match op {
                        LogicalOp::Coalesce => (Shape::Coalesce, Shape::AndOr),
                        LogicalOp::And | LogicalOp::Or => (Shape::AndOr, Shape::Coalesce),
                    };
                    if shapes.contains(&other) {
                        let span = self.tokens[operator].span.clone();
                        return Err(LangError::syntax("`??` beside `||` or `&&` needs parentheses", span).into());
                    }
                    self.checked(Expr::Logical(op, operands), shape, depth)?
                }
            };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parse<Parsed> {
        let op = match self.peek().map(|token| &token.kind) {
            Some(Kind::Punctuator("!")) => UnaryOp::Not,
            Some(Kind::Punctuator("-")) => UnaryOp::Minus,
            Some(Kind::Punctuator("+")) => UnaryOp::Plus,
            Some(Kind::Punctuator("~")) => UnaryOp::BitNot,
            Some(Kind::Identifier(name)) if &**name == "typeof" => UnaryOp::Typeof,
            Some(Kind::Identifier(name)) if &**name == "void" => UnaryOp::Void,
            _ => return self.chain(),
        };
        self.at += 1;
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX {
            return Err(self.too_deep());
        }
        let operand = self.unary()?;
        self.depth -= 1;
        let depth = operand.depth + 1;
        self.checked(Expr::Unary(op, Box::new(operand.expr)), Shape::Unary, depth)
    }

    fn chain(&mut self) -> Parse<Parsed> {
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
                let name = self.member_name()?;
                if self.eat("(") {
                    let method = Method::parse(&name).ok_or(Fault::Outside)?;
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

    fn member_name(&mut self) -> Parse<Box<str>> {
        match self.peek().map(|token| &token.kind) {
            Some(Kind::Identifier(name)) => {
                self.at += 1;
                Ok(name.clone())
            }
            None => Err(LangError::syntax("a name is missing behind `.`", self.end..self.end).into()),
            Some(Kind::Punctuator("(")) => Err(Fault::Outside),
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

    fn identifier(&mut self, name: &str) -> Parse<Parsed> {
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
            let member = self.member_name()?;
            if self.eat("(") {
                return self.global_call(Some(name), &member);
            }
            return plain(Expr::Number(methods::constant(name, &member).ok_or(Fault::Outside)?));
        }
        Err(Fault::Outside)
    }

    fn global_call(&mut self, namespace: Option<&str>, name: &str) -> Parse<Parsed> {
        let global = Global::parse_in(namespace, name).ok_or(Fault::Outside)?;
        let (arguments, depth) = self.arguments(false)?;
        if !global.accepts(&arguments) {
            return Err(Fault::Outside);
        }
        self.checked(Expr::Global(global, arguments), Shape::Plain, depth + 1)
    }

    fn array(&mut self) -> Parse<Parsed> {
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

    fn object(&mut self) -> Parse<Parsed> {
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

fn infix(token: &Token) -> Option<(u8, Infix)> {
    use BinaryOp as B;
    let text = match &token.kind {
        Kind::Punctuator(punctuator) => *punctuator,
        Kind::Identifier(name) if &**name == "in" => "in",
        _ => return None,
    };
    let (strength, op) = match text {
        "??" => return Some((1, Infix::Logical(LogicalOp::Coalesce))),
        "||" => return Some((2, Infix::Logical(LogicalOp::Or))),
        "&&" => return Some((3, Infix::Logical(LogicalOp::And))),
        "|" => (4, B::BitOr),
        "^" => (5, B::BitXor),
        "&" => (6, B::BitAnd),
        "==" => (7, B::LooseEqual),
        "!=" => (7, B::LooseUnequal),
        "===" => (7, B::StrictEqual),
        "!==" => (7, B::StrictUnequal),
        "<" => (8, B::Less),
        "<=" => (8, B::LessEqual),
        ">" => (8, B::Greater),
        ">=" => (8, B::GreaterEqual),
        "in" => (8, B::In),
        "<<" => (9, B::ShiftLeft),
        ">>" => (9, B::ShiftRight),
        ">>>" => (9, B::ShiftRightUnsigned),
        "+" => (10, B::Add),
        "-" => (10, B::Subtract),
        "*" => (11, B::Multiply),
        "/" => (11, B::Divide),
        "%" => (11, B::Remainder),
        "**" => (12, B::Power),
        _ => return None,
    };
    Some((strength, Infix::Binary(op)))
}

/// Words that JavaScript reserves, so that they are no names and no operands.
fn is_keyword(name: &str) -> bool {
    is_statement_keyword(name)
        || matches!(
            name,
            "async"
                | "await"
                | "case"
                | "catch"
                | "default"
                | "delete"
                | "else"
                | "enum"
                | "export"
                | "extends"
                | "false"
                | "finally"
                | "function"
                | "in"
                | "instanceof"
                | "new"
                | "null"
                | "of"
                | "super"
                | "this"
                | "true"
                | "typeof"
                | "void"
                | "yield"
                | "class"
                | "static"
                | "get"
                | "set"
                | "arguments"
                | "eval"
                | "implements"
                | "interface"
                | "package"
                | "private"
                | "protected"
                | "public"
        )
}

fn is_statement_keyword(name: &str) -> bool {
    matches!(
        name,
        "return"
            | "if"
            | "for"
            | "while"
            | "do"
            | "const"
            | "var"
            | "throw"
            | "try"
            | "switch"
            | "with"
            | "break"
            | "continue"
            | "debugger"
    )
}

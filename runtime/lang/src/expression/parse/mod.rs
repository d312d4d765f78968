//! A Pratt parser for the safe subset.

mod literal;
mod operand;
mod words;

use self::words::{Infix, infix, is_keyword};
use super::ast::{BinaryOp, Expr, LogicalOp, UnaryOp};
use super::token::{Fault, Kind, Token, tokenize};
use super::uses::Uses;
use crate::error::{LangCode, LangError};
use crate::limits::EXPRESSION_DEPTH_MAX;

/// Parses a source and tells which names of the scope it touches.
pub(crate) fn parse(source: &str) -> Result<(Expr, Uses), Fault> {
    let tokens = tokenize(source)?;
    let mut parser = Parser::new(&tokens, source, None);
    let expr = parser.whole()?;
    Ok((expr, parser.uses))
}

/// The names that nothing binds in a source that is like the safe subset but for such names and unknown functions.
///
/// # Errors
/// Syntax that is wrong whatever the names mean; [`Fault::Outside`] when the source has more than that.
pub(crate) fn unknown_names(source: &str) -> Result<Vec<Box<str>>, Fault> {
    let tokens = tokenize(source)?;
    let mut parser = Parser::new(&tokens, source, Some(Vec::new()));
    parser.whole()?;
    Ok(parser.unknown.unwrap_or_default())
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

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    end: usize,
    depth: usize,
    locals: Vec<Box<str>>,
    uses: Uses,
    /// Names that nothing binds, where they are looked for instead of ending the parse. The tree means nothing then.
    unknown: Option<Vec<Box<str>>>,
}

type Parse<T> = Result<T, Fault>;

impl<'t> Parser<'t> {
    fn new(tokens: &'t [Token], source: &str, unknown: Option<Vec<Box<str>>>) -> Self {
        Self {
            tokens,
            at: 0,
            end: source.len(),
            depth: 0,
            locals: Vec::new(),
            uses: Uses::default(),
            unknown,
        }
    }

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
}

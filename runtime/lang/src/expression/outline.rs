//! What an expression does, for whoever must reason about it without values.

use serde_json::Value;

use super::ast::{BinaryOp, Chain, Expr, Link, LogicalOp, Property, UnaryOp};
use super::number::as_integer;
use super::{Compiled, Expression};

/// The shape of an expression: its logic, comparisons and look-ups spelled out, everything else left closed.
#[derive(Debug, Clone, PartialEq)]
pub enum Outline {
    /// The value `undefined`.
    Undefined,
    /// A literal.
    Constant(Value),
    /// A name of the scope, and what is looked up on it.
    Path(ScopePath),
    /// `!a`
    Not(Box<Outline>),
    /// `a && b`
    And(Box<(Outline, Outline)>),
    /// `a || b`
    Or(Box<(Outline, Outline)>),
    /// `a ?? b`
    Coalesce(Box<(Outline, Outline)>),
    /// `a ? b : c`
    Conditional(Box<(Outline, Outline, Outline)>),
    /// `a < b` and its like.
    Compare(Comparison, Box<(Outline, Outline)>),
    /// An object literal with plain keys.
    Object(Vec<(String, Outline)>),
    /// Anything else, as text that is equal for equal expressions.
    Closed(String),
}

/// A look-up on a name of the scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopePath {
    /// `input`, `nodes`, …
    pub name: &'static str,
    /// Members, outermost first.
    pub members: Vec<MemberAccess>,
}

/// One member of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAccess {
    /// Its name; an index as its digits.
    pub name: String,
    /// Whether `?.` looks it up.
    pub optional: bool,
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Comparison {
    /// `===`
    StrictEqual,
    /// `!==`
    StrictUnequal,
    /// `==`
    LooseEqual,
    /// `!=`
    LooseUnequal,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
}

impl Expression {
    /// What it does; [`Outline::Closed`] for JSONPath and for sources of the sandbox.
    #[must_use]
    pub fn outline(&self) -> Outline {
        match &self.compiled {
            Compiled::Safe(expr) => outline(expr),
            Compiled::JsonPath(_) | Compiled::Sandbox { .. } => Outline::Closed(self.source.to_string()),
        }
    }
}

fn outline(expr: &Expr) -> Outline {
    let closed = || Outline::Closed(format!("{expr:?}"));
    match expr {
        Expr::Undefined => Outline::Undefined,
        Expr::Null => Outline::Constant(Value::Null),
        Expr::Bool(value) => Outline::Constant(Value::Bool(*value)),
        Expr::Number(number) => constant(*number).unwrap_or_else(closed),
        Expr::Text(text) => Outline::Constant(Value::from(&**text)),
        Expr::Name(name) => Outline::Path(ScopePath {
            name: name.as_str(),
            members: Vec::new(),
        }),
        Expr::Chain(chain) => path(chain).map_or_else(closed, Outline::Path),
        Expr::Unary(UnaryOp::Not, operand) => Outline::Not(Box::new(outline(operand))),
        Expr::Unary(UnaryOp::Minus, operand) => match **operand {
            Expr::Number(number) => constant(-number).unwrap_or_else(closed),
            _ => closed(),
        },
        Expr::Binary(op, operands) => match comparison(*op) {
            Some(comparison) => Outline::Compare(comparison, Box::new((outline(&operands.0), outline(&operands.1)))),
            None => closed(),
        },
        Expr::Logical(op, operands) => {
            let operands = Box::new((outline(&operands.0), outline(&operands.1)));
            match op {
                LogicalOp::And => Outline::And(operands),
                LogicalOp::Or => Outline::Or(operands),
                LogicalOp::Coalesce => Outline::Coalesce(operands),
            }
        }
        Expr::Conditional(parts) => {
            Outline::Conditional(Box::new((outline(&parts.0), outline(&parts.1), outline(&parts.2))))
        }
        Expr::Object(properties) => {
            let members = properties.iter().map(|property| match property {
                Property::Named(name, value) => Some((name.to_string(), outline(value))),
                Property::Computed(..) | Property::Spread(_) => None,
            });
            members.collect::<Option<_>>().map_or_else(closed, Outline::Object)
        }
        Expr::Template(..) | Expr::Local(_) | Expr::Array(_) | Expr::Global(..) | Expr::Unary(..) => closed(),
    }
}

fn constant(number: f64) -> Option<Outline> {
    let whole = as_integer(number).filter(|_| number != 0.0 || number.is_sign_positive());
    let value = whole
        .map(Value::from)
        .or_else(|| serde_json::Number::from_f64(number).map(Value::Number));
    value.map(Outline::Constant)
}

fn path(chain: &Chain) -> Option<ScopePath> {
    let Expr::Name(name) = chain.head else { return None };
    let members = chain.links.iter().map(|link| match link {
        Link::Member { name, optional } => Some(MemberAccess {
            name: name.to_string(),
            optional: *optional,
        }),
        Link::Index { key, optional } => {
            let name = match key {
                Expr::Text(text) => text.to_string(),
                Expr::Number(number) => as_integer(*number).filter(|index| *index >= 0)?.to_string(),
                _ => return None,
            };
            Some(MemberAccess {
                name,
                optional: *optional,
            })
        }
        Link::Call { .. } => None,
    });
    Some(ScopePath {
        name: name.as_str(),
        members: members.collect::<Option<_>>()?,
    })
}

fn comparison(op: BinaryOp) -> Option<Comparison> {
    Some(match op {
        BinaryOp::StrictEqual => Comparison::StrictEqual,
        BinaryOp::StrictUnequal => Comparison::StrictUnequal,
        BinaryOp::LooseEqual => Comparison::LooseEqual,
        BinaryOp::LooseUnequal => Comparison::LooseUnequal,
        BinaryOp::Less => Comparison::Less,
        BinaryOp::LessEqual => Comparison::LessEqual,
        BinaryOp::Greater => Comparison::Greater,
        BinaryOp::GreaterEqual => Comparison::GreaterEqual,
        BinaryOp::Add
        | BinaryOp::Subtract
        | BinaryOp::Multiply
        | BinaryOp::Divide
        | BinaryOp::Remainder
        | BinaryOp::Power
        | BinaryOp::In
        | BinaryOp::BitAnd
        | BinaryOp::BitOr
        | BinaryOp::BitXor
        | BinaryOp::ShiftLeft
        | BinaryOp::ShiftRight
        | BinaryOp::ShiftRightUnsigned => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn of(source: &str) -> Outline {
        Expression::compile(source).unwrap().outline()
    }

    #[test]
    fn logic_and_look_ups_are_spelled_out() {
        let member = |name: &str, optional| MemberAccess {
            name: name.to_owned(),
            optional,
        };
        let path = ScopePath {
            name: "input",
            members: vec![member("items", false), member("0", false), member("price", true)],
        };
        let compared = Outline::Compare(
            Comparison::GreaterEqual,
            Box::new((Outline::Path(path), Outline::Constant(json!(-5)))),
        );
        assert_eq!(of("!(input.items[0]?.price >= -5)"), Outline::Not(Box::new(compared)));
        let chosen = Outline::Conditional(Box::new((
            Outline::Constant(json!(true)),
            Outline::Constant(json!(1.5)),
            Outline::Undefined,
        )));
        let object = Outline::Object(vec![("a".into(), chosen)]);
        assert_eq!(of("{ a: true ? 1.5 : undefined }"), object);
    }

    #[test]
    fn what_is_closed_is_equal_where_the_source_means_the_same() {
        assert_eq!(of("input.a+1"), of(" input.a  + 1;"));
        assert_ne!(of("input.a + 1"), of("input.a + 2"));
        for source in [
            "input.list.map(x => x)",
            "$.input.a",
            "new Date()",
            "[1]",
            "`${input.a}`",
            "-input.a",
        ] {
            assert!(matches!(of(source), Outline::Closed(_)), "{source}");
        }
    }
}

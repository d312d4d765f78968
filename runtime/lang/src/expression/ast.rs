//! The syntax tree of the safe subset: names resolved, methods known, nothing that can loop by itself.

use super::methods::{Global, Method};
use super::uses::ScopeName;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    /// Texts and the expressions between them: always one more text than expressions.
    Template(Vec<Box<str>>, Vec<Expr>),
    Name(ScopeName),
    /// A parameter of an arrow function, by its place on the stack of locals.
    Local(usize),
    Array(Vec<Element>),
    Object(Vec<Property>),
    Chain(Box<Chain>),
    Global(Global, Vec<Argument>),
    Unary(UnaryOp, Box<Expr>),
    Binary(BinaryOp, Box<(Expr, Expr)>),
    Logical(LogicalOp, Box<(Expr, Expr)>),
    Conditional(Box<(Expr, Expr, Expr)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Element {
    One(Expr),
    Spread(Expr),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Property {
    Named(Box<str>, Expr),
    Computed(Expr, Expr),
    Spread(Expr),
}

/// A value and what is looked up on it; `?.` on nothing ends the whole chain with `undefined`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chain {
    pub(crate) head: Expr,
    pub(crate) links: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Link {
    Member {
        name: Box<str>,
        optional: bool,
    },
    Index {
        key: Expr,
        optional: bool,
    },
    Call {
        method: Method,
        arguments: Vec<Argument>,
        optional: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument {
    One(Expr),
    Spread(Expr),
    Arrow(Arrow),
    /// A global function passed by name, as in `filter(Boolean)`.
    Function(Global),
}

/// `(a, b) => body`: its parameters are the locals from `first_local` on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arrow {
    pub(crate) first_local: usize,
    pub(crate) parameters: usize,
    pub(crate) body: Box<Expr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnaryOp {
    Not,
    Minus,
    Plus,
    BitNot,
    Typeof,
    Void,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
    LooseEqual,
    LooseUnequal,
    StrictEqual,
    StrictUnequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    BitAnd,
    BitOr,
    BitXor,
    ShiftLeft,
    ShiftRight,
    ShiftRightUnsigned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogicalOp {
    And,
    Or,
    Coalesce,
}

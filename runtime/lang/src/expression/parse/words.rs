//! Operators with their strength, and the words that are no names.

use super::super::ast::{BinaryOp, LogicalOp};
use super::super::token::{Kind, Token};

pub(super) enum Infix {
    Binary(BinaryOp),
    Logical(LogicalOp),
}

pub(super) fn infix(token: &Token) -> Option<(u8, Infix)> {
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
pub(super) fn is_keyword(name: &str) -> bool {
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

pub(super) fn is_statement_keyword(name: &str) -> bool {
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

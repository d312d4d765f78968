//! The filters of RFC 9535: logical expressions, comparisons and functions.

use super::parse::{Parse, Parser};
use super::{Comparable, Comparison, Query, Test};
use crate::error::LangError;
use crate::limits::REGEX_BYTES_MAX;

/// What a function of a filter gives.
enum Call {
    Value(Comparable),
    Logical(Test),
}

enum Operand {
    Query(Query),
    Value(Comparable),
    Logical(Test),
}

impl Parser<'_> {
    pub(super) fn or(&mut self) -> Parse<Test> {
        self.nested(|parser| {
            let tests = parser.joined("||", Self::and)?;
            Ok(Test::Or(tests))
        })
    }

    fn and(&mut self) -> Parse<Test> {
        self.joined("&&", Self::basic).map(Test::And)
    }

    fn joined(&mut self, operator: &str, parse: fn(&mut Self) -> Parse<Test>) -> Parse<Vec<Test>> {
        let mut tests = vec![parse(self)?];
        loop {
            let before = self.at;
            self.space();
            if !self.eat(operator) {
                self.at = before;
                return Ok(tests);
            }
            self.space();
            tests.push(parse(self)?);
        }
    }

    fn basic(&mut self) -> Parse<Test> {
        if self.eat("!") {
            self.space();
            let test = if self.peek() == Some('(') {
                self.parenthesised()?
            } else {
                self.existence()?
            };
            return Ok(Test::Not(Box::new(test)));
        }
        if self.peek() == Some('(') {
            return self.parenthesised();
        }
        let start = self.at;
        let left = match self.operand()? {
            Operand::Logical(test) => return Ok(test),
            Operand::Query(query) => {
                let before = self.at;
                self.space();
                let is_compared = ["==", "!=", "<", ">"]
                    .iter()
                    .any(|operator| self.rest().starts_with(operator));
                self.at = before;
                if !is_compared {
                    return Ok(Test::Exists(query));
                }
                self.singular(query, start)?
            }
            Operand::Value(value) => value,
        };
        self.space();
        let comparison = self.comparison()?;
        self.space();
        let start = self.at;
        let right = match self.operand()? {
            Operand::Value(value) => value,
            Operand::Query(query) => self.singular(query, start)?,
            Operand::Logical(_) => return Err(self.error("this function gives no value to compare in JSONPath")),
        };
        Ok(Test::Compare(left, comparison, right))
    }

    fn parenthesised(&mut self) -> Parse<Test> {
        self.expect("(")?;
        self.space();
        let test = self.or()?;
        self.space();
        self.expect(")")?;
        Ok(test)
    }

    /// A query or a logical function by itself.
    fn existence(&mut self) -> Parse<Test> {
        match self.operand()? {
            Operand::Logical(test) => Ok(test),
            Operand::Query(query) => Ok(Test::Exists(query)),
            Operand::Value(_) => Err(self.error("a value is no condition in JSONPath")),
        }
    }

    fn singular(&self, query: Query, start: usize) -> Parse<Comparable> {
        if query.is_singular() {
            return Ok(Comparable::Singular(query));
        }
        Err(LangError::syntax(
            "a query that can match several nodes cannot be compared in JSONPath",
            start..self.at,
        ))
    }

    fn comparison(&mut self) -> Parse<Comparison> {
        let known = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::LessEqual),
            (">=", Comparison::GreaterEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        for (text, comparison) in known {
            if self.eat(text) {
                return Ok(comparison);
            }
        }
        Err(self.error("a comparison is missing in JSONPath"))
    }

    fn operand(&mut self) -> Parse<Operand> {
        match self.peek() {
            Some('$') => {
                self.at += 1;
                self.nested(|parser| parser.query(false)).map(Operand::Query)
            }
            Some('@') => {
                self.at += 1;
                self.nested(|parser| parser.query(true)).map(Operand::Query)
            }
            Some(quote @ ('"' | '\'')) => Ok(Operand::Value(Comparable::Text(self.text(quote)?.into()))),
            Some(c) if c == '-' || c.is_ascii_digit() => self.number().map(Operand::Value),
            _ => {
                let rest = self.rest();
                let length = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                let name = &rest[..length];
                if rest[length..].starts_with('(') {
                    let at = self.at;
                    self.at += length + 1;
                    return Ok(match self.nested(|parser| parser.call(name, at))? {
                        Call::Value(value) => Operand::Value(value),
                        Call::Logical(test) => Operand::Logical(test),
                    });
                }
                let literal = match name {
                    "true" => Comparable::Bool(true),
                    "false" => Comparable::Bool(false),
                    "null" => Comparable::Null,
                    _ => return Err(self.error("a query, a literal or a function is missing in JSONPath")),
                };
                self.at += length;
                Ok(Operand::Value(literal))
            }
        }
    }

    fn number(&mut self) -> Parse<Comparable> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let run = |from: usize| {
            bytes[from.min(bytes.len())..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count()
        };
        let sign = usize::from(rest.starts_with('-'));
        let whole = run(sign);
        let mut end = sign + whole;
        let mut is_valid = whole == 1 || (whole > 1 && bytes[sign] != b'0');
        if bytes.get(end) == Some(&b'.') {
            let fraction = run(end + 1);
            is_valid &= fraction > 0;
            end += 1 + fraction;
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = run(end + 1 + sign);
            is_valid &= exponent > 0;
            end += 1 + sign + exponent;
        }
        let number = rest[..end].parse().ok().filter(|_| is_valid);
        let number = number.ok_or_else(|| self.error("not a number that JSONPath allows"))?;
        self.at += end;
        Ok(Comparable::Number(number))
    }

    /// The arguments behind `name(`.
    fn call(&mut self, name: &str, at: usize) -> Parse<Call> {
        self.space();
        let call = match name {
            "length" => Call::Value(Comparable::Length(Box::new(self.value_argument()?))),
            "count" => Call::Value(Comparable::Count(self.nodes_argument()?)),
            "value" => Call::Value(Comparable::Value(self.nodes_argument()?)),
            "match" | "search" => {
                let whole = name == "match";
                let text = self.value_argument()?;
                self.space();
                self.expect(",")?;
                self.space();
                let pattern = self.value_argument()?;
                let compiled = if let Comparable::Text(pattern) = &pattern {
                    compile(pattern, whole)
                } else {
                    None
                };
                Call::Logical(Test::Matches {
                    text,
                    pattern,
                    whole,
                    compiled,
                })
            }
            _ => {
                let error = LangError::syntax(format!("unknown function `{name}` in JSONPath"), at..at + name.len());
                return Err(error.with_hint("the functions are length, count, value, match and search"));
            }
        };
        self.space();
        self.expect(")")?;
        Ok(call)
    }

    fn value_argument(&mut self) -> Parse<Comparable> {
        let start = self.at;
        match self.operand()? {
            Operand::Value(value) => Ok(value),
            Operand::Query(query) => self.singular(query, start),
            Operand::Logical(_) => Err(self.error("this function gives no value in JSONPath")),
        }
    }

    fn nodes_argument(&mut self) -> Parse<Query> {
        match self.operand()? {
            Operand::Query(query) => Ok(query),
            Operand::Value(_) | Operand::Logical(_) => Err(self.error("a query is needed here in JSONPath")),
        }
    }
}

/// A pattern of RFC 9485; one that does not compile matches nothing.
pub(super) fn compile(pattern: &str, whole: bool) -> Option<regex::Regex> {
    let source = if whole {
        format!(r"(?R)\A(?:{pattern})\z")
    } else {
        format!("(?R)(?:{pattern})")
    };
    regex::RegexBuilder::new(&source)
        .size_limit(REGEX_BYTES_MAX)
        .nest_limit(64)
        .build()
        .ok()
}

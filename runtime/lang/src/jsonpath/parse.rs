//! The grammar of RFC 9535, read by recursive descent.

use super::{Comparable, Comparison, Query, Segment, Selector, Test};
use crate::error::{LangCode, LangError};
use crate::limits::REGEX_BYTES_MAX;

/// Nesting of filters and parentheses.
const NESTING_MAX: usize = 32;
/// The integers that I-JSON holds exactly.
const INTEGER_MAX: i64 = (1 << 53) - 1;

/// Parses a whole source.
///
/// # Errors
/// `EXPRESSION_SYNTAX` with a span, `EXPRESSION_LIMIT` beyond the nesting limit.
pub(crate) fn parse(source: &str) -> Result<Query, LangError> {
    let mut parser = Parser {
        source,
        at: 0,
        nesting: 0,
    };
    parser.expect("$")?;
    let query = parser.query(false)?;
    match parser.peek() {
        None => Ok(query),
        Some(c) => Err(parser.error(&format!("unexpected `{}` in JSONPath", c.escape_default()))),
    }
}

struct Parser<'s> {
    source: &'s str,
    at: usize,
    nesting: usize,
}

type Parse<T> = Result<T, LangError>;

/// What a function of a filter gives.
enum Call {
    Value(Comparable),
    Logical(Test),
}

impl<'s> Parser<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn expect(&mut self, text: &str) -> Parse<()> {
        if self.eat(text) {
            Ok(())
        } else {
            Err(self.error(&format!("`{text}` is missing in JSONPath")))
        }
    }

    fn error(&self, message: &str) -> LangError {
        let end = self.at + self.peek().map_or(0, char::len_utf8);
        LangError::syntax(message, self.at..end)
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            let span = Some(self.at..self.at);
            return Err(LangError {
                span,
                ..LangError::new(
                    LangCode::ExpressionLimit,
                    format!("JSONPath is nested more than {NESTING_MAX} levels deep"),
                )
            });
        }
        let parsed = parse(self)?;
        self.nesting -= 1;
        Ok(parsed)
    }

    /// The segments behind a `$` or `@`.
    fn query(&mut self, is_relative: bool) -> Parse<Query> {
        let mut segments = Vec::new();
        loop {
            let before = self.at;
            self.space();
            let descendants = self.eat("..");
            let selectors = if self.eat("[") {
                self.bracketed()?
            } else if descendants || self.eat(".") {
                vec![if self.eat("*") {
                    Selector::Wildcard
                } else {
                    Selector::Name(self.shorthand()?.into())
                }]
            } else {
                self.at = before;
                return Ok(Query { is_relative, segments });
            };
            segments.push(Segment { descendants, selectors });
        }
    }

    fn shorthand(&mut self) -> Parse<&'s str> {
        let rest = self.rest();
        let length = rest.find(|c: char| !is_name_part(c)).unwrap_or(rest.len());
        if length == 0 || rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.error("a name is missing in JSONPath"));
        }
        self.at += length;
        Ok(&rest[..length])
    }

    /// Selectors up to and with the closing bracket.
    fn bracketed(&mut self) -> Parse<Vec<Selector>> {
        let mut selectors = Vec::new();
        loop {
            self.space();
            selectors.push(self.nested(Self::selector)?);
            self.space();
            if self.eat("]") {
                return Ok(selectors);
            }
            self.expect(",")?;
        }
    }

    fn selector(&mut self) -> Parse<Selector> {
        match self.peek() {
            Some('*') => {
                self.at += 1;
                Ok(Selector::Wildcard)
            }
            Some('?') => {
                self.at += 1;
                self.space();
                self.or().map(Selector::Filter)
            }
            Some(quote @ ('"' | '\'')) => Ok(Selector::Name(self.text(quote)?.into())),
            _ => self.index_or_slice(),
        }
    }

    fn index_or_slice(&mut self) -> Parse<Selector> {
        let start = self.integer()?;
        let before = self.at;
        self.space();
        if !self.eat(":") {
            self.at = before;
            return start
                .map(Selector::Index)
                .ok_or_else(|| self.error("a selector is missing in JSONPath"));
        }
        self.space();
        let end = self.integer()?;
        let before = self.at;
        self.space();
        let mut step = None;
        if self.eat(":") {
            self.space();
            let before = self.at;
            step = self.integer()?;
            if step.is_none() {
                self.at = before;
            }
        } else {
            self.at = before;
        }
        Ok(Selector::Slice {
            start,
            end,
            step: step.unwrap_or(1),
        })
    }

    fn integer(&mut self) -> Parse<Option<i64>> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let digits = rest[sign..].bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 && sign == 0 {
            return Ok(None);
        }
        let literal = &rest[..sign + digits];
        let has_leading_zero = rest[sign..].starts_with('0') && (digits > 1 || sign == 1);
        let number: Option<i64> = literal
            .parse()
            .ok()
            .filter(|number: &i64| number.abs() <= INTEGER_MAX && !has_leading_zero);
        if number.is_none() {
            return Err(self.error("not an integer that JSONPath allows"));
        }
        self.at += literal.len();
        Ok(number)
    }

    fn text(&mut self, quote: char) -> Parse<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.peek() else {
                return Err(self.error("string is not closed in JSONPath"));
            };
            if c < ' ' {
                return Err(self.error("control character in a string of JSONPath"));
            }
            self.at += c.len_utf8();
            if c == quote {
                return Ok(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let escaped = self
                .peek()
                .ok_or_else(|| self.error("string is not closed in JSONPath"))?;
            self.at += escaped.len_utf8();
            out.push(match escaped {
                'b' => '\u{8}',
                'f' => '\u{C}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '/' | '\\' => escaped,
                'u' => self.unicode()?,
                other if other == quote => other,
                _ => return Err(self.error("unknown escape in a string of JSONPath")),
            });
        }
    }

    fn unicode(&mut self) -> Parse<char> {
        let mut code = self.hex()?;
        if (0xD800..0xDC00).contains(&code) {
            self.expect("\\u")?;
            let low = self.hex()?;
            if !(0xDC00..0xE000).contains(&low) {
                return Err(self.error("half of a surrogate pair in JSONPath"));
            }
            code = 0x1_0000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        char::from_u32(code).ok_or_else(|| self.error("half of a surrogate pair in JSONPath"))
    }

    fn hex(&mut self) -> Parse<u32> {
        let digits = self
            .rest()
            .get(..4)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.error("`\\u` needs four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }

    fn or(&mut self) -> Parse<Test> {
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

enum Operand {
    Query(Query),
    Value(Comparable),
    Logical(Test),
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
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

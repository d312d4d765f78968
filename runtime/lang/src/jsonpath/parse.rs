//! The grammar of RFC 9535, read by recursive descent.

use super::{Query, Segment, Selector};
use crate::error::{LangCode, LangError};

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

pub(super) struct Parser<'s> {
    pub(super) source: &'s str,
    pub(super) at: usize,
    nesting: usize,
}

pub(super) type Parse<T> = Result<T, LangError>;

impl<'s> Parser<'s> {
    pub(super) fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    pub(super) fn expect(&mut self, text: &str) -> Parse<()> {
        if self.eat(text) {
            Ok(())
        } else {
            Err(self.error(&format!("`{text}` is missing in JSONPath")))
        }
    }

    pub(super) fn error(&self, message: &str) -> LangError {
        let end = self.at + self.peek().map_or(0, char::len_utf8);
        LangError::syntax(message, self.at..end)
    }

    pub(super) fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    pub(super) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
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
    pub(super) fn query(&mut self, is_relative: bool) -> Parse<Query> {
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

    pub(super) fn text(&mut self, quote: char) -> Parse<String> {
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
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

//! Splits a source into tokens.
//!
//! A construct that is JavaScript but outside the safe subset is no error: it ends the work with
//! [`Fault::Outside`], and the source goes to the sandbox.

use std::ops::Range;

use super::number::digits_to_number;
use super::text;
use crate::error::LangError;

/// Why a source is not in the safe subset.
#[derive(Debug)]
pub(crate) enum Fault {
    /// JavaScript that the evaluator does not take.
    Outside,
    /// No JavaScript, or over a limit.
    Error(LangError),
}

impl From<LangError> for Fault {
    fn from(error: LangError) -> Self {
        Self::Error(error)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Identifier(Box<str>),
    Number(f64),
    Text(Box<str>),
    /// The texts of a template literal and the tokens of each `${…}`.
    Template(Vec<Box<str>>, Vec<Vec<Token>>),
    Punctuator(&'static str),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) span: Range<usize>,
}

impl Token {
    pub(crate) fn is(&self, punctuator: &str) -> bool {
        matches!(&self.kind, Kind::Punctuator(own) if *own == punctuator)
    }
}

/// Longest first, so that a prefix never wins.
const PUNCTUATORS: [&str; 57] = [
    ">>>=", "...", "===", "!==", "**=", "<<=", ">>=", ">>>", "&&=", "||=", "??=", "=>", "==", "!=", "<=", ">=", "&&",
    "||", "??", "?.", "++", "--", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<", ">>", "**", "{", "}", "(", ")",
    "[", "]", ";", ",", "<", ">", "+", "-", "*", "/", "%", "&", "|", "^", "!", "~", "?", ":", "=", ".",
];

const TEMPLATE_NESTING_MAX: usize = 16;

/// Splits `source`, which starts `base` bytes into the text that spans refer to.
pub(crate) fn tokenize(source: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { source, at: 0 };
    let tokens = lexer.tokens(0)?;
    if lexer.at < source.len() {
        return Err(LangError::syntax("unexpected `}`", lexer.at..lexer.at + 1).into());
    }
    Ok(tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    /// Reads up to the end, or inside a template literal up to the `}` that closes its expression.
    fn tokens(&mut self, template_depth: usize) -> Result<Vec<Token>, Fault> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut braces = 0usize;
        loop {
            self.skip_space()?;
            let Some(c) = self.peek() else { return Ok(tokens) };
            let start = self.at;
            let kind = if c.is_ascii_digit() || (c == '.' && self.byte(1).is_some_and(|b| b.is_ascii_digit())) {
                self.number()?
            } else if is_identifier_start(c) {
                self.identifier()
            } else if c == '\\' || c == '#' || c == '@' {
                return Err(Fault::Outside);
            } else if c == '"' || c == '\'' {
                self.text(c)?
            } else if c == '`' {
                self.template(template_depth)?
            } else {
                let Some(punctuator) = self.punctuator() else {
                    let end = self.at + c.len_utf8();
                    return Err(LangError::syntax(
                        format!("unexpected character `{}`", c.escape_default()),
                        start..end,
                    )
                    .into());
                };
                match punctuator {
                    "{" => braces += 1,
                    "}" if braces == 0 => return Ok(tokens),
                    "}" => braces -= 1,
                    // An HTML-like comment in sloppy code.
                    "<" if self.rest().starts_with("<!--") => return Err(Fault::Outside),
                    "/" | "/=" if !tokens.last().is_some_and(ends_operand) => return Err(Fault::Outside),
                    _ => {}
                }
                self.at += punctuator.len();
                Kind::Punctuator(punctuator)
            };
            tokens.push(Token {
                kind,
                span: start..self.at,
            });
        }
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.source.as_bytes().get(self.at + ahead).copied()
    }

    fn skip_space(&mut self) -> Result<(), Fault> {
        loop {
            let rest = self.rest();
            if let Some(c) = rest.chars().next().filter(|c| text::is_space(*c)) {
                self.at += c.len_utf8();
            } else if rest.starts_with("//") {
                self.at += rest.find(['\n', '\r', '\u{2028}', '\u{2029}']).unwrap_or(rest.len());
            } else if let Some(body) = rest.strip_prefix("/*") {
                let Some(length) = body.find("*/") else {
                    return Err(LangError::syntax("comment is not closed", self.at..self.source.len()).into());
                };
                self.at += length + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn identifier(&mut self) -> Kind {
        let rest = self.rest();
        let length = rest.find(|c| !is_identifier_part(c)).unwrap_or(rest.len());
        let name = rest[..length].into();
        self.at += length;
        Kind::Identifier(name)
    }

    fn punctuator(&self) -> Option<&'static str> {
        let rest = self.rest();
        let found = PUNCTUATORS.into_iter().find(|p| rest.starts_with(p))?;
        // `a?.5:b` is a conditional.
        Some(if found == "?." && self.byte(2).is_some_and(|b| b.is_ascii_digit()) {
            "?"
        } else {
            found
        })
    }

    fn number(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        let rest = self.rest();
        let radix = match rest.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        let bytes = rest.as_bytes();
        let run = |from: usize, radix: u32| {
            bytes[from.min(bytes.len())..]
                .iter()
                .take_while(|b| **b == b'_' || (**b as char).is_digit(radix))
                .count()
        };
        let length = if radix == 10 {
            let mut end = run(0, 10);
            // Octal in the old style is legal in sloppy code only.
            if end > 1 && bytes[0] == b'0' {
                return Err(Fault::Outside);
            }
            if bytes.get(end) == Some(&b'.') {
                end += 1;
                end += run(end, 10);
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                end += 1 + sign + run(end + 1 + sign, 10);
            }
            end
        } else {
            2 + run(2, radix)
        };
        let literal = &rest[..length];
        let separators_fit = separators_fit(&literal.as_bytes()[if radix == 10 { 0 } else { 2 }..], radix);
        self.at += length;
        if self.peek() == Some('n') {
            return Err(Fault::Outside);
        }
        let follows_name = self
            .peek()
            .is_some_and(|c| is_identifier_start(c) || c.is_ascii_digit() || c == '\\');
        let digits = literal.replace('_', "");
        let number = if radix == 10 {
            digits.parse().ok()
        } else {
            digits_to_number(&digits[2..], radix)
        };
        match number {
            Some(number) if separators_fit && !follows_name => Ok(Kind::Number(number)),
            _ => Err(LangError::syntax("not a number", start..self.at).into()),
        }
    }

    fn text(&mut self, quote: char) -> Result<Kind, Fault> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            match self.peek() {
                Some(c) if c == quote => {
                    self.at += 1;
                    return Ok(Kind::Text(out.into()));
                }
                Some('\\') => self.escape(&mut out)?,
                None | Some('\n' | '\r') => {
                    return Err(LangError::syntax("string is not closed", start..self.at).into());
                }
                Some(c) => {
                    out.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
    }

    fn template(&mut self, depth: usize) -> Result<Kind, Fault> {
        let start = self.at;
        self.at += 1;
        if depth >= TEMPLATE_NESTING_MAX {
            return Err(Fault::Outside);
        }
        let (mut texts, mut parts, mut out) = (Vec::new(), Vec::new(), String::new());
        loop {
            match self.peek() {
                Some('`') => {
                    self.at += 1;
                    texts.push(out.into());
                    return Ok(Kind::Template(texts, parts));
                }
                Some('$') if self.byte(1) == Some(b'{') => {
                    self.at += 2;
                    parts.push(self.tokens(depth + 1)?);
                    if self.peek() != Some('}') {
                        return Err(LangError::syntax("`${` is not closed", start..self.at).into());
                    }
                    self.at += 1;
                    texts.push(std::mem::take(&mut out).into());
                }
                Some('\\') => self.escape(&mut out)?,
                // Line ends are normalised in template literals.
                Some('\r') => {
                    self.at += if self.byte(1) == Some(b'\n') { 2 } else { 1 };
                    out.push('\n');
                }
                Some(c) => {
                    out.push(c);
                    self.at += c.len_utf8();
                }
                None => return Err(LangError::syntax("template literal is not closed", start..self.at).into()),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), Fault> {
        let start = self.at;
        self.at += 1;
        let Some(c) = self.peek() else {
            return Err(LangError::syntax("string is not closed", start..self.at).into());
        };
        self.at += c.len_utf8();
        match c {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{C}'),
            'v' => out.push('\u{B}'),
            '0' if !self.byte(0).is_some_and(|b| b.is_ascii_digit()) => out.push('\0'),
            '0'..='9' => return Err(Fault::Outside),
            '\r' => self.at += usize::from(self.byte(0) == Some(b'\n')),
            '\n' | '\u{2028}' | '\u{2029}' => {}
            'x' => out.push(self.hex(2, start)?.and_then(char::from_u32).ok_or(Fault::Outside)?),
            'u' => self.unicode_escape(out, start)?,
            other => out.push(other),
        }
        Ok(())
    }

    fn unicode_escape(&mut self, out: &mut String, start: usize) -> Result<(), Fault> {
        if self.byte(0) == Some(b'{') {
            let length = self
                .rest()
                .find('}')
                .filter(|end| (2..=9).contains(end))
                .ok_or(Fault::Outside)?;
            let code = u32::from_str_radix(&self.rest()[1..length], 16)
                .ok()
                .ok_or(Fault::Outside)?;
            self.at += length + 1;
            out.push(char::from_u32(code).ok_or(Fault::Outside)?);
            return Ok(());
        }
        let mut code = self.hex(4, start)?.ok_or(Fault::Outside)?;
        if (0xD800..0xDC00).contains(&code) && self.rest().starts_with("\\u") {
            self.at += 2;
            let low = self
                .hex(4, start)?
                .filter(|low| (0xDC00..0xE000).contains(low))
                .ok_or(Fault::Outside)?;
            code = 0x1_0000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        // A lone surrogate has no place in UTF-8.
        out.push(char::from_u32(code).ok_or(Fault::Outside)?);
        Ok(())
    }

    fn hex(&mut self, digits: usize, start: usize) -> Result<Option<u32>, Fault> {
        let text = self
            .rest()
            .get(..digits)
            .filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(text) = text else {
            return Err(LangError::syntax("escape sequence is not complete", start..self.at).into());
        };
        let code = u32::from_str_radix(text, 16).ok();
        self.at += digits;
        Ok(code)
    }
}

/// Whether every `_` stands between two digits.
fn separators_fit(digits: &[u8], radix: u32) -> bool {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(|byte| char::from(*byte).is_digit(radix));
    digits
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'_')
        .all(|(at, _)| at > 0 && is_digit(digits.get(at - 1)) && is_digit(digits.get(at + 1)))
}

/// Whether a `/` behind this token divides.
pub(crate) fn ends_operand(token: &Token) -> bool {
    match &token.kind {
        Kind::Identifier(name) => !matches!(
            &**name,
            "typeof"
                | "void"
                | "in"
                | "instanceof"
                | "new"
                | "delete"
                | "return"
                | "case"
                | "await"
                | "yield"
                | "of"
                | "else"
                | "do"
                | "throw"
        ),
        Kind::Number(_) | Kind::Text(_) | Kind::Template(..) => true,
        Kind::Punctuator(punctuator) => matches!(*punctuator, ")" | "]" | "}"),
    }
}

pub(crate) fn is_identifier_start(c: char) -> bool {
    c == '$' || c == '_' || c.is_alphabetic()
}

pub(crate) fn is_identifier_part(c: char) -> bool {
    is_identifier_start(c) || c.is_alphanumeric() || matches!(c, '\u{200C}' | '\u{200D}')
}

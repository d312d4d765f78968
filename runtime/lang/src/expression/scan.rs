//! A lexical look at JavaScript that is not parsed here: brackets, strings and the names that occur.

use std::ops::Range;

use super::text;
use super::token::{is_identifier_part, is_identifier_start};
use super::uses::{ScopeName, Uses};
use crate::error::LangError;

/// What a look at a source found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) uses: Uses,
    /// Names in the source that are no members: those of the scope, of JavaScript, and unknown ones.
    pub(crate) names: Vec<String>,
    /// Where a `}}` closes the brackets of a `{{ … }}`, when that was looked for.
    pub(crate) end: Option<usize>,
}

/// How the source ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    EndOfText,
    ClosingBraces,
}

/// Nesting that the sandbox's parser takes without harm.
const BRACKETS_MAX: usize = 200;

/// Checks that brackets, strings and comments are closed, and collects names.
///
/// # Errors
/// A span and a message for whatever is left open, and for a `;` between two statements.
pub(crate) fn scan(source: &str, until: Until) -> Result<Scan, LangError> {
    let mut scanner = Scanner {
        source,
        at: 0,
        open: Vec::new(),
        found: Scan::default(),
        operand: false,
        member: false,
    };
    scanner.run(until)?;
    Ok(scanner.found)
}

struct Scanner<'s> {
    source: &'s str,
    at: usize,
    /// Brackets that are open; `` ` `` stands for a `${` of a template literal.
    open: Vec<(char, usize)>,
    found: Scan,
    /// Whether a `/` would divide.
    operand: bool,
    /// Whether the next name is a member.
    member: bool,
}

impl<'s> Scanner<'s> {
    fn run(&mut self, until: Until) -> Result<(), LangError> {
        while let Some(c) = self.rest().chars().next() {
            if until == Until::ClosingBraces && self.open.is_empty() && self.rest().starts_with("}}") {
                self.found.end = Some(self.at);
                return Ok(());
            }
            self.one(c)?;
        }
        match self.open.pop() {
            Some((bracket, at)) => Err(LangError::syntax(
                format!("`{}` is not closed", shown(bracket)),
                at..at + 1,
            )),
            None => Ok(()),
        }
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn one(&mut self, c: char) -> Result<(), LangError> {
        let start = self.at;
        let rest = self.rest();
        if text::is_space(c) {
            self.at += c.len_utf8();
            return Ok(());
        }
        if rest.starts_with("//") {
            self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            return Ok(());
        }
        if let Some(body) = rest.strip_prefix("/*") {
            let Some(length) = body.find("*/") else {
                return Err(LangError::syntax("comment is not closed", self.span(2)));
            };
            self.at += length + 4;
            return Ok(());
        }
        let was_member = std::mem::take(&mut self.member);
        match c {
            '"' | '\'' => self.quoted(c)?,
            '`' => {
                self.at += 1;
                self.template_text()?;
            }
            '/' if !self.operand => self.regex(),
            '(' | '[' | '{' => {
                self.open_bracket(c)?;
                self.at += 1;
                self.operand = false;
            }
            ')' | ']' | '}' => self.close_bracket(c)?,
            ';' if self.open.is_empty() => {
                return Err(
                    LangError::syntax("unexpected `;`", self.span(1)).with_hint("write one expression, not statements")
                );
            }
            c if is_identifier_start(c) => {
                let length = rest.find(|c| !is_identifier_part(c)).unwrap_or(rest.len());
                self.at += length;
                self.name(start..self.at, was_member);
            }
            c if c.is_ascii_digit() => {
                let length = rest
                    .find(|c: char| !is_identifier_part(c) && c != '.')
                    .unwrap_or(rest.len());
                self.at += length;
                self.operand = true;
            }
            c => {
                self.at += c.len_utf8();
                self.operand = false;
                if c == '\\' {
                    // A name with an escape can be any name.
                    self.found.uses = Uses::all();
                }
                // `...` is no member access, `?.` is one.
                self.member = c == '.' && !self.source[..start].ends_with('.') && !self.rest().starts_with('.');
            }
        }
        Ok(())
    }

    fn span(&self, length: usize) -> Range<usize> {
        self.at..self.at + length
    }

    fn open_bracket(&mut self, bracket: char) -> Result<(), LangError> {
        if self.open.len() >= BRACKETS_MAX {
            return Err(LangError {
                span: Some(self.span(1)),
                ..LangError::new(
                    crate::error::LangCode::ExpressionLimit,
                    format!("brackets are nested more than {BRACKETS_MAX} levels deep"),
                )
            });
        }
        self.open.push((bracket, self.at));
        Ok(())
    }

    fn close_bracket(&mut self, c: char) -> Result<(), LangError> {
        let span = self.span(1);
        let open = self.open.pop().map(|(bracket, _)| bracket);
        self.at += 1;
        match (open, c) {
            (Some('('), ')') | (Some('['), ']') | (Some('{'), '}') => {
                self.operand = true;
                Ok(())
            }
            (Some('`'), '}') => self.template_text(),
            _ => Err(LangError::syntax(format!("unexpected `{c}`"), span)),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<(), LangError> {
        let start = self.at;
        let mut escaped = false;
        for (offset, c) in self.source[start + 1..].char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '\n' | '\r' => break,
                c if c == quote => {
                    self.at = start + 1 + offset + 1;
                    self.operand = true;
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(LangError::syntax("string is not closed", start..start + 1))
    }

    /// The text of a template literal up to its end or to the next `${`.
    fn template_text(&mut self) -> Result<(), LangError> {
        let start = self.at;
        let mut escaped = false;
        for (offset, c) in self.source[start..].char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '`' => {
                    self.at = start + offset + 1;
                    self.operand = true;
                    return Ok(());
                }
                '$' if self.source[start + offset..].starts_with("${") => {
                    self.at = start + offset + 1;
                    self.open_bracket('`')?;
                    self.at += 1;
                    self.operand = false;
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(LangError::syntax(
            "template literal is not closed",
            start.saturating_sub(1)..start,
        ))
    }

    fn regex(&mut self) {
        let start = self.at;
        let (mut escaped, mut in_class) = (false, false);
        for (offset, c) in self.source[start + 1..].char_indices() {
            match c {
                '\n' | '\r' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '[' => in_class = true,
                ']' => in_class = false,
                '/' if !in_class => {
                    self.at = start + 1 + offset + 1;
                    let rest = self.rest();
                    self.at += rest.find(|c| !is_identifier_part(c)).unwrap_or(rest.len());
                    self.operand = true;
                    return;
                }
                _ => {}
            }
        }
        // No regular expression then: behind words like `of` only the grammar knows.
        self.at = start + 1;
        self.operand = false;
    }

    fn name(&mut self, span: Range<usize>, is_member: bool) {
        let name = &self.source[span];
        let ends_operand = !matches!(
            name,
            "return"
                | "typeof"
                | "void"
                | "in"
                | "of"
                | "instanceof"
                | "new"
                | "delete"
                | "case"
                | "await"
                | "yield"
                | "else"
                | "do"
                | "throw"
        );
        // A keyword that is a member, as in `a.in / 2`, is an operand.
        self.operand = ends_operand || is_member;
        if is_member {
            return;
        }
        if !self.found.names.iter().any(|known| known == name) {
            self.found.names.push(name.to_owned());
        }
        if matches!(name, "eval" | "Function" | "globalThis" | "this" | "constructor") {
            // What they reach is not spelled out.
            self.found.uses = Uses::all();
        }
        if let Some(scope_name) = ScopeName::parse(name) {
            let member = self.member_behind();
            self.found.uses.touch(scope_name, member.as_deref());
        }
    }

    /// The member that is looked up right behind here, when the source spells it out.
    fn member_behind(&self) -> Option<String> {
        let rest = self.rest().trim_start();
        let rest = rest
            .strip_prefix('?')
            .filter(|rest| rest.starts_with('.'))
            .unwrap_or(rest);
        if let Some(name) = rest.strip_prefix('.') {
            let name = name.trim_start();
            let length = name.find(|c| !is_identifier_part(c)).unwrap_or(name.len());
            return (length > 0).then(|| name[..length].to_owned());
        }
        let inner = rest.strip_prefix('[')?.trim_start();
        let quote = inner.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (name, behind) = inner[1..].split_once(quote)?;
        (!name.contains('\\') && behind.trim_start().starts_with(']')).then(|| name.to_owned())
    }
}

const fn shown(bracket: char) -> &'static str {
    match bracket {
        '(' => "(",
        '[' => "[",
        '{' => "{",
        _ => "${",
    }
}

//! The filters and tests that a Jinja template names.
//!
//! The engine looks them up only when it comes by, so that a misspelt one in a rare branch would fail there.

use std::ops::Range;

/// What is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Named {
    Filter,
    Test,
}

/// The word or sign before the one that is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Pipe,
    Dot,
    /// `is`, or `is not`.
    Is,
    /// The word that opens a `{% filter name %}`.
    FilterBlock,
    BlockStart,
    Other,
}

/// Every filter and test of a template that compiles, with its place.
pub(super) fn filters_and_tests(source: &str) -> Vec<(Named, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = source[at..].find('{') {
        at += offset;
        let rest = &source[at..];
        at += if rest.starts_with("{#") {
            rest.find("#}").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_block(rest) {
            length
        } else if rest.starts_with("{{") || rest.starts_with("{%") {
            2 + names_within(&rest[2..], at + 2, rest.starts_with("{%"), &mut found)
        } else {
            1
        };
    }
    found
}

/// Length of the `{% raw %} … {% endraw %}` that the text starts with.
fn raw_block(text: &str) -> Option<usize> {
    let start = tag(text, "raw")?;
    let mut at = start;
    loop {
        at += text[at..].find("{%")?;
        match tag(&text[at..], "endraw") {
            Some(length) => return Some(at + length),
            None => at += 2,
        }
    }
}

/// Length of the `{% name %}` that the text starts with.
fn tag(text: &str, name: &str) -> Option<usize> {
    let rest = text.strip_prefix("{%")?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let rest = rest.trim_ascii_start().strip_prefix(name)?.trim_ascii_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// Collects the names up to the end of the block, and gives its length. `base` is where the text begins.
fn names_within(text: &str, base: usize, is_statement: bool, found: &mut Vec<(Named, Range<usize>)>) -> usize {
    let mut before = if is_statement {
        Before::BlockStart
    } else {
        Before::Other
    };
    let (mut at, mut open) = (0, 0_usize);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if open == 0 && (rest.starts_with("}}") || rest.starts_with("%}")) {
            return at + 2;
        }
        if c.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if c == '_' || c.is_alphanumeric() {
            let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric());
            let word = &rest[..end.unwrap_or(rest.len())];
            let span = base + at..base + at + word.len();
            at += word.len();
            before = match (before, word) {
                (Before::Is, "not") => Before::Is,
                (Before::Is, _) => {
                    found.push((Named::Test, span));
                    Before::Other
                }
                (Before::Pipe | Before::FilterBlock, _) => {
                    found.push((Named::Filter, span));
                    Before::Other
                }
                (Before::BlockStart, "filter") => Before::FilterBlock,
                (Before::BlockStart | Before::Other, "is") => Before::Is,
                (Before::BlockStart | Before::Other | Before::Dot, _) => Before::Other,
            };
            continue;
        }
        match c {
            '"' | '\'' => at += quoted(rest, c),
            '(' | '[' | '{' => (at, open) = (at + 1, open + 1),
            ')' | ']' | '}' => (at, open) = (at + 1, open.saturating_sub(1)),
            c => at += c.len_utf8(),
        }
        before = match c {
            '|' => Before::Pipe,
            '.' => Before::Dot,
            // `{%-`
            '-' | '+' if before == Before::BlockStart => Before::BlockStart,
            _ => Before::Other,
        };
    }
    at
}

/// Length of the string that the text starts with.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

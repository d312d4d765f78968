//! Strings with the UTF-16 indices of JavaScript over UTF-8 text.
//!
//! A cut through a surrogate pair leaves U+FFFD, as `String.prototype.toWellFormed` would.

use std::borrow::Cow;
use std::cmp::Ordering;

/// White space and line ends of ECMA-262.
pub(crate) fn is_space(c: char) -> bool {
    match c {
        '\u{FEFF}' => true,
        '\u{85}' => false,
        _ => c.is_whitespace(),
    }
}

/// `String.prototype.trim`
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Length in UTF-16 units.
pub(crate) fn length(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().map(char::len_utf16).sum()
    }
}

/// The text between two UTF-16 indices.
pub(crate) fn slice(text: &str, start: usize, end: usize) -> Cow<'_, str> {
    if start >= end {
        return Cow::Borrowed("");
    }
    if text.is_ascii() {
        return Cow::Borrowed(&text[start.min(text.len())..end.min(text.len())]);
    }
    let (from, from_split) = byte_at(text, start);
    let (to, to_split) = byte_at(text, end);
    if !from_split && !to_split {
        return Cow::Borrowed(&text[from..to]);
    }
    // A split index points at the start of its character: the second half begins behind it.
    let mut out = String::with_capacity(to.saturating_sub(from) + 6);
    let mut inner = from;
    if from_split {
        out.push('\u{FFFD}');
        inner += text[from..].chars().next().map_or(0, char::len_utf8);
    }
    if to > inner {
        out.push_str(&text[inner..to]);
    }
    if to_split && to >= inner {
        out.push('\u{FFFD}');
    }
    Cow::Owned(out)
}

/// The byte offset of a UTF-16 index, and whether the index is in the middle of a surrogate pair.
fn byte_at(text: &str, index: usize) -> (usize, bool) {
    let mut units = 0;
    for (offset, c) in text.char_indices() {
        if units == index {
            return (offset, false);
        }
        units += c.len_utf16();
        if units > index {
            return (offset, true);
        }
    }
    (text.len(), false)
}

/// The UTF-16 unit at an index.
pub(crate) fn unit_at(text: &str, index: usize) -> Option<u16> {
    if text.is_ascii() {
        text.as_bytes().get(index).map(|byte| u16::from(*byte))
    } else {
        text.encode_utf16().nth(index)
    }
}

/// Where `needle` first occurs at or after the UTF-16 index `from`.
pub(crate) fn find(text: &str, needle: &str, from: usize) -> Option<usize> {
    let (mut start, split) = byte_at_fast(text, from);
    if split {
        start += text[start..].chars().next().map_or(0, char::len_utf8);
    }
    let offset = text[start..].find(needle)? + start;
    Some(length(&text[..offset]))
}

/// Where `needle` last occurs at or before the UTF-16 index `from`.
pub(crate) fn find_last(text: &str, needle: &str, from: usize) -> Option<usize> {
    let (start, _) = byte_at_fast(text, from);
    let end = start.saturating_add(needle.len()).min(text.len());
    // The window ends inside a character only when the needle cannot end there.
    let end = (0..=end).rev().find(|at| text.is_char_boundary(*at))?;
    let offset = text[..end].rfind(needle)?;
    Some(length(&text[..offset]))
}

fn byte_at_fast(text: &str, index: usize) -> (usize, bool) {
    if text.is_ascii() {
        (index.min(text.len()), false)
    } else {
        byte_at(text, index)
    }
}

/// Order by UTF-16 units, which differs from the order of code points beyond U+FFFF.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let first_difference = left.bytes().zip(right.bytes()).find(|(a, b)| a != b);
    match first_difference {
        None => left.len().cmp(&right.len()),
        Some((a, b)) if a < 0xEE && b < 0xEE => a.cmp(&b),
        Some(_) => left.encode_utf16().cmp(right.encode_utf16()),
    }
}

/// A property name that is an array index: decimal, no leading zeros, below 2^32 - 1.
pub(crate) fn array_index(key: &str) -> Option<usize> {
    let bytes = key.as_bytes();
    if bytes.is_empty()
        || bytes.len() > 10
        || (bytes[0] == b'0' && bytes.len() > 1)
        || !bytes.iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    let index: u64 = key.parse().ok()?;
    (index < u64::from(u32::MAX)).then_some(index as usize)
}

//! Methods of strings and numbers.

use std::rc::Rc;

use super::super::number::{number_to_string, to_fixed, to_integer};
use super::super::text;
use super::super::value::Text;
use super::{Eval, EvalError, Js, Machine, Method};

/// Most repetitions of a string, even of an empty one, as in the sandbox: an expression means the same in both.
const REPEATS_MAX: f64 = i32::MAX as f64;

/// Where a relative index points: negative ones count from the end, all are held within the length.
pub(super) fn relative(index: f64, length: usize) -> usize {
    let index = to_integer(index);
    let place = if index < 0.0 { length as f64 + index } else { index };
    place.clamp(0.0, length as f64) as usize
}

impl<'s> Machine<'s> {
    /// An argument as an integer, or `default` when it is `undefined`.
    pub(super) fn integer(&mut self, arguments: &[Js<'s>], place: usize, default: f64) -> Eval<f64> {
        match arguments.get(place) {
            None | Some(Js::Undefined) => Ok(default),
            Some(value) => Ok(to_integer(self.to_number(value)?)),
        }
    }

    fn text_argument(&mut self, arguments: &[Js<'s>], place: usize) -> Eval<String> {
        let text = self
            .to_text(arguments.get(place).unwrap_or(&Js::Undefined))?
            .into_owned();
        self.charge(text.len())?;
        Ok(text)
    }

    pub(super) fn call_text(&mut self, own: &Text<'s>, method: Method, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
        let source = own.as_str();
        self.scan(source)?;
        match method {
            Method::At => {
                let (index, length) = (self.integer(arguments, 0, 0.0)?, text::length(source) as f64);
                let place = if index < 0.0 { length + index } else { index };
                if place < 0.0 || place >= length {
                    return Ok(Js::Undefined);
                }
                self.slice_text(own, place as usize, place as usize + 1)
            }
            Method::CharAt => {
                let index = self.integer(arguments, 0, 0.0)?;
                if index < 0.0 || index >= text::length(source) as f64 {
                    return Ok(Js::Text(Text::Borrowed("")));
                }
                self.slice_text(own, index as usize, index as usize + 1)
            }
            Method::CharCodeAt => {
                let index = self.integer(arguments, 0, 0.0)?;
                let unit = if index < 0.0 {
                    None
                } else {
                    text::unit_at(source, index as usize)
                };
                Ok(Js::Number(unit.map_or(f64::NAN, f64::from)))
            }
            Method::CodePointAt => self.code_point_at(source, arguments),
            Method::Concat => {
                let mut out = source.to_owned();
                for place in 0..arguments.len() {
                    out.push_str(&self.text_argument(arguments, place)?);
                    self.check_text(out.len())?;
                }
                self.made_text(out)
            }
            Method::Includes => {
                let needle = self.text_argument(arguments, 0)?;
                let from = self.integer(arguments, 1, 0.0)?.max(0.0) as usize;
                Ok(Js::Bool(
                    from <= text::length(source) && text::find(source, &needle, from).is_some() || needle.is_empty(),
                ))
            }
            Method::StartsWith => {
                let needle = self.text_argument(arguments, 0)?;
                let from = self.integer(arguments, 1, 0.0)?.clamp(0.0, text::length(source) as f64) as usize;
                Ok(Js::Bool(text::slice(source, from, usize::MAX).starts_with(&needle)))
            }
            Method::EndsWith => {
                let needle = self.text_argument(arguments, 0)?;
                let length = text::length(source) as f64;
                let end = self.integer(arguments, 1, length)?.clamp(0.0, length) as usize;
                Ok(Js::Bool(text::slice(source, 0, end).ends_with(&needle)))
            }
            Method::IndexOf => {
                let needle = self.text_argument(arguments, 0)?;
                let length = text::length(source) as f64;
                let from = self.integer(arguments, 1, 0.0)?.clamp(0.0, length) as usize;
                Ok(Js::Number(
                    text::find(source, &needle, from).map_or(-1.0, |at| at as f64),
                ))
            }
            Method::LastIndexOf => {
                let needle = self.text_argument(arguments, 0)?;
                let from = match arguments.get(1) {
                    None => f64::NAN,
                    Some(value) => self.to_number(value)?,
                };
                let length = text::length(source) as f64;
                let from = if from.is_nan() {
                    length
                } else {
                    to_integer(from).clamp(0.0, length)
                };
                Ok(Js::Number(
                    text::find_last(source, &needle, from as usize).map_or(-1.0, |at| at as f64),
                ))
            }
            Method::Slice => {
                let length = text::length(source);
                let start = relative(self.integer(arguments, 0, 0.0)?, length);
                let end = relative(self.integer(arguments, 1, length as f64)?, length);
                self.slice_text(own, start, end)
            }
            Method::Substring => {
                let length = text::length(source) as f64;
                let start = self.integer(arguments, 0, 0.0)?.clamp(0.0, length) as usize;
                let end = self.integer(arguments, 1, length)?.clamp(0.0, length) as usize;
                self.slice_text(own, start.min(end), start.max(end))
            }
            Method::ToUpperCase => self.made_text(source.to_uppercase()),
            Method::ToLowerCase => self.made_text(source.to_lowercase()),
            Method::Trim => self.trimmed(own, true, true),
            Method::TrimStart => self.trimmed(own, true, false),
            Method::TrimEnd => self.trimmed(own, false, true),
            Method::Split => self.split(own, arguments),
            Method::Repeat => {
                let count = self.integer(arguments, 0, 0.0)?;
                if !(0.0..=REPEATS_MAX).contains(&count) {
                    return Err(EvalError::new("invalid repeat count"));
                }
                let bytes = source.len() as f64 * count;
                self.check_text(if bytes > 1e12 { usize::MAX } else { bytes as usize })?;
                self.made_text(if source.is_empty() {
                    String::new()
                } else {
                    source.repeat(count as usize)
                })
            }
            Method::PadStart | Method::PadEnd => self.padded(own, method, arguments),
            Method::Replace | Method::ReplaceAll => self.replaced(source, method, arguments),
            Method::ToString => Ok(Js::Text(own.clone())),
            Method::HasOwnProperty => self.has_own_property(&Js::Text(own.clone()), arguments),
            _ => Err(EvalError::new(format!("{} is not a function", method.name()))),
        }
    }

    pub(super) fn has_own_property(&mut self, value: &Js<'s>, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
        let key = self.text_argument(arguments, 0)?;
        self.has_own(value, &key).map(Js::Bool)
    }

    fn code_point_at(&mut self, source: &str, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
        let index = self.integer(arguments, 0, 0.0)?;
        if index < 0.0 || index >= text::length(source) as f64 {
            return Ok(Js::Undefined);
        }
        let mut units = source.encode_utf16().skip(index as usize);
        let first = units.next().unwrap_or_default();
        let pair = units
            .next()
            .and_then(|second| char::decode_utf16([first, second]).next()?.ok());
        let is_high = (0xD800..0xDC00).contains(&first);
        Ok(Js::Number(
            pair.filter(|_| is_high)
                .map_or_else(|| f64::from(first), |c| f64::from(u32::from(c))),
        ))
    }

    fn trimmed(&mut self, own: &Text<'s>, start: bool, end: bool) -> Eval<Js<'s>> {
        fn cut(source: &str, start: bool, end: bool) -> &str {
            let source = if start {
                source.trim_start_matches(text::is_space)
            } else {
                source
            };
            if end {
                source.trim_end_matches(text::is_space)
            } else {
                source
            }
        }
        match own {
            Text::Borrowed(source) => Ok(Js::Text(Text::Borrowed(cut(source, start, end)))),
            Text::Owned(source) => {
                let text = cut(source, start, end).to_owned();
                self.made_text(text)
            }
        }
    }

    fn split(&mut self, own: &Text<'s>, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
        let source = own.as_str();
        let limit = match arguments.get(1) {
            None | Some(Js::Undefined) => u32::MAX,
            Some(value) => super::super::number::to_uint32(self.to_number(value)?),
        } as usize;
        let separator = match arguments.first() {
            None | Some(Js::Undefined) => {
                let whole = if limit == 0 {
                    Vec::new()
                } else {
                    vec![Js::Text(own.clone())]
                };
                return self.made_list(whole);
            }
            Some(_) => self.text_argument(arguments, 0)?,
        };
        let mut parts = Vec::new();
        if separator.is_empty() {
            for c in source.chars() {
                // Each half of a surrogate pair is a part.
                for half in 0..c.len_utf16() {
                    if parts.len() == limit {
                        return self.made_list(parts);
                    }
                    self.charge_items(1)?;
                    let mut buffer = [0; 4];
                    let whole = c.encode_utf8(&mut buffer);
                    parts.push(Js::text(&*text::slice(whole, half, half + 1)));
                }
            }
            return self.made_list(parts);
        }
        for part in source.split(separator.as_str()).take(limit) {
            self.charge_items(1)?;
            let part: Rc<str> = part.into();
            self.charge(part.len())?;
            parts.push(Js::Text(Text::Owned(part)));
        }
        self.made_list(parts)
    }

    fn padded(&mut self, own: &Text<'s>, method: Method, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
        let source = own.as_str();
        let target = self.integer(arguments, 0, 0.0)?;
        let length = text::length(source);
        // A filler that nobody needs is not converted, so it cannot throw either.
        if target <= length as f64 {
            return Ok(Js::Text(own.clone()));
        }
        let filler = match arguments.get(1) {
            None | Some(Js::Undefined) => " ".to_owned(),
            Some(_) => self.text_argument(arguments, 1)?,
        };
        if filler.is_empty() {
            return Ok(Js::Text(own.clone()));
        }
        self.check_text(if target > 1e12 { usize::MAX } else { target as usize })?;
        let missing = target as usize - length;
        let unit = text::length(&filler);
        let repeats = missing.div_ceil(unit);
        self.check_text(repeats.saturating_mul(filler.len()))?;
        let padding = filler.repeat(repeats);
        let padding = text::slice(&padding, 0, missing);
        let out = if method == Method::PadStart {
            format!("{padding}{source}")
        } else {
            format!("{source}{padding}")
        };
        self.made_text(out)
    }

    fn replaced(&mut self, source: &str, method: Method, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
        let pattern = self.text_argument(arguments, 0)?;
        if matches!(arguments.get(1), Some(Js::Native)) {
            return Err(EvalError::new("a built-in function as a replacement is not supported"));
        }
        let replacement = self.text_argument(arguments, 1)?;
        let substitutions = replacement.bytes().filter(|byte| *byte == b'$').count();
        let count = if method == Method::ReplaceAll { usize::MAX } else { 1 };
        let mut out = String::new();
        let mut copied = 0;
        for (at, found) in source.match_indices(pattern.as_str()).take(count) {
            self.steps(1 + substitutions)?;
            self.scan(&replacement)?;
            out.push_str(&source[copied..at]);
            expand(&replacement, source, at, found, &mut out, |length| {
                self.check_text(length)
            })?;
            self.check_text(out.len())?;
            copied = at + found.len();
        }
        out.push_str(&source[copied..]);
        self.made_text(out)
    }

    pub(super) fn call_number(&mut self, value: &Js<'s>, method: Method, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
        let number = self.to_number(value)?;
        match method {
            Method::ToFixed => {
                let digits = self.integer(arguments, 0, 0.0)?;
                if !(0.0..=100.0).contains(&digits) {
                    return Err(EvalError::new("invalid number of digits"));
                }
                self.made_text(to_fixed(number, digits as usize))
            }
            Method::ToString => match value {
                Js::Digits(digits) => self.made_text(digits.to_string()),
                _ => self.made_text(number_to_string(number)),
            },
            Method::HasOwnProperty => self.has_own_property(value, arguments),
            _ => Err(EvalError::new(format!("{} is not a function", method.name()))),
        }
    }
}

/// `GetSubstitution` of ECMA-262 without captures.
fn expand(
    replacement: &str,
    source: &str,
    at: usize,
    found: &str,
    out: &mut String,
    check: impl Fn(usize) -> Eval<()>,
) -> Eval<()> {
    let mut rest = replacement;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let part = match rest.as_bytes().get(dollar + 1) {
            Some(b'$') => "$",
            Some(b'&') => found,
            Some(b'`') => &source[..at],
            Some(b'\'') => &source[at + found.len()..],
            _ => {
                out.push('$');
                rest = &rest[dollar + 1..];
                continue;
            }
        };
        check(out.len() + part.len())?;
        out.push_str(part);
        rest = &rest[dollar + 2..];
    }
    out.push_str(rest);
    Ok(())
}

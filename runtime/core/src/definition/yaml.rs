//! YAML 1.2 with source positions: one document, the core schema, JSON's data model.
//!
//! Built on the parser's events without recursion. Anchors and aliases work, within a budget of copied bytes; merge
//! keys, custom tags and keys that are no scalars do not.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, Tag};
use serde_json::{Number, Value};

use super::parse::{Document, fault, twice};
use super::problems::push_key;
use super::source::{Children, SourceMap, Spot};
use super::{Diagnostic, Limits, Object, Problems, code};

/// Parses a YAML text.
pub(crate) fn document(text: &str, limits: &Limits) -> Result<Document, Box<Diagnostic>> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = limits.nesting() + 1;
    options.block_nesting_limit = limits.nesting() + 1;
    let mut builder = Builder::new(text, limits);
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| builder.scan_fault(&error))?;
        builder.at = offset_of(text, &span.start);
        builder.event(event)?;
    }
    builder.finish()
}

fn offset_of(text: &str, marker: &Marker) -> usize {
    marker
        .byte_offset()
        .unwrap_or_else(|| text.char_indices().nth(marker.index()).map_or(text.len(), |(at, _)| at))
}

/// A list or object being built.
struct Frame {
    spot: u32,
    anchor: usize,
    contents: Contents,
    /// The deepest nesting below.
    height: usize,
}

enum Contents {
    List {
        items: Vec<Value>,
        spots: Vec<u32>,
    },
    Map {
        fields: Object,
        spots: Vec<(Box<str>, u32)>,
        key: Option<Key>,
    },
}

struct Key {
    text: String,
    offset: usize,
}

/// A value that aliases may repeat.
struct Anchored {
    value: Value,
    weight: usize,
    height: usize,
}

struct Builder<'a> {
    text: &'a str,
    limits: &'a Limits,
    at: usize,
    open: Vec<Frame>,
    root: Option<Value>,
    documents: usize,
    spots: Vec<Spot>,
    anchors: HashMap<usize, Anchored>,
    copied: usize,
    problems: Problems,
}

type Step<T = ()> = Result<T, Box<Diagnostic>>;

impl<'a> Builder<'a> {
    fn new(text: &'a str, limits: &'a Limits) -> Self {
        Self {
            text,
            limits,
            at: 0,
            open: Vec::new(),
            root: None,
            documents: 0,
            spots: Vec::new(),
            anchors: HashMap::new(),
            copied: 0,
            problems: Problems::default(),
        }
    }

    fn refuse<T>(&self, message: impl Into<String>) -> Step<T> {
        Err(fault(code::INVALID_YAML, self.text, self.at, message))
    }

    fn too_deep(&self) -> Box<Diagnostic> {
        let message = format!("lists and objects are nested deeper than {}", self.limits.nesting());
        fault(code::NESTING_TOO_DEEP, self.text, self.at, message)
    }

    fn scan_fault(&mut self, error: &granit_parser::ScanError) -> Box<Diagnostic> {
        self.at = offset_of(self.text, error.marker());
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => self.too_deep(),
            _ => fault(code::INVALID_YAML, self.text, self.at, error.info()),
        }
    }

    fn event(&mut self, event: Event<'_>) -> Step {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.refuse("a definition is one YAML document, this is a second")
                } else {
                    Ok(())
                }
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref()),
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq")?;
                self.start(
                    anchor,
                    Contents::List {
                        items: Vec::new(),
                        spots: Vec::new(),
                    },
                )
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), "map")?;
                self.start(
                    anchor,
                    Contents::Map {
                        fields: Object::new(),
                        spots: Vec::new(),
                        key: None,
                    },
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => self.alias(id),
            other => self.refuse(format!("unexpected YAML event {other:?}")),
        }
    }

    fn check_tag(&self, tag: Option<&Tag>, expected: &str) -> Step {
        match tag {
            Some(tag) if tag.core_suffix() != Some(expected) => {
                self.refuse(format!("the tag `{}` has no meaning in a definition", tag.original()))
            }
            _ => Ok(()),
        }
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Frame {
                contents: Contents::Map { key: None, .. },
                ..
            })
        )
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, tag: Option<&Tag>) -> Step {
        let value = match self.resolve(text, style, tag) {
            Ok(value) => value,
            Err(message) => return self.refuse(message),
        };
        if self.awaits_key() {
            return self.key(text, style, &value);
        }
        let spot = self.spot();
        self.keep_anchor(anchor, &value, 0)?;
        self.place(value, spot, 0)
    }

    fn key(&mut self, text: &str, style: ScalarStyle, value: &Value) -> Step {
        if style == ScalarStyle::Plain && text == "<<" {
            return self.refuse("merge keys (`<<`) are not supported, write the fields out or alias the whole object");
        }
        if value.is_null() {
            return self.refuse("an object key is empty");
        }
        let offset = self.at;
        if self.duplicate(text) {
            let pointer = if self.problems.is_full() {
                String::new()
            } else {
                self.pointer_to(text)
            };
            self.problems
                .push(Diagnostic::error(code::DUPLICATE_KEY, pointer, twice(text)));
        }
        if let Some(Frame {
            contents: Contents::Map { key, .. },
            ..
        }) = self.open.last_mut()
        {
            *key = Some(Key {
                text: text.to_owned(),
                offset,
            });
        }
        Ok(())
    }

    fn duplicate(&self, name: &str) -> bool {
        matches!(self.open.last(), Some(Frame { contents: Contents::Map { fields, .. }, .. }) if fields.contains_key(name))
    }

    fn pointer_to(&self, last: &str) -> String {
        let mut pointer = String::new();
        let Some((_, outer)) = self.open.split_last() else {
            return pointer;
        };
        for frame in outer {
            match &frame.contents {
                Contents::List { items, .. } => push_key(&mut pointer, &items.len().to_string()),
                Contents::Map { key, .. } => push_key(&mut pointer, key.as_ref().map_or("", |key| &key.text)),
            }
        }
        push_key(&mut pointer, last);
        pointer
    }

    /// A scalar under the core schema of YAML 1.2.
    fn resolve(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
        let string = || Value::String(text.to_owned());
        let Some(tag) = tag else {
            return if style == ScalarStyle::Plain {
                resolve_plain(text)
            } else {
                Ok(string())
            };
        };
        let mismatch = || format!("`{text}` is no `{}`", tag.original());
        match tag.core_suffix() {
            Some("str") => Ok(string()),
            Some("null") => resolve_plain(text)?
                .is_null()
                .then_some(Value::Null)
                .ok_or_else(mismatch),
            Some("bool") => resolve_plain(text).ok().filter(Value::is_boolean).ok_or_else(mismatch),
            Some("int" | "float") => resolve_plain(text).ok().filter(Value::is_number).ok_or_else(mismatch),
            _ if tag.original() == "!" => Ok(string()),
            _ => Err(format!("the tag `{}` has no meaning in a definition", tag.original())),
        }
    }

    fn spot(&mut self) -> u32 {
        self.spots.push(Spot {
            offset: self.at as u32,
            children: Children::None,
        });
        (self.spots.len() - 1) as u32
    }

    fn start(&mut self, anchor: usize, contents: Contents) -> Step {
        if self.awaits_key() {
            return self.refuse("an object key must be a plain value");
        }
        if self.open.len() >= self.limits.nesting() {
            return Err(self.too_deep());
        }
        let spot = self.spot();
        self.open.push(Frame {
            spot,
            anchor,
            contents,
            height: 0,
        });
        Ok(())
    }

    fn end(&mut self) -> Step {
        let Some(frame) = self.open.pop() else {
            return self.refuse("an end without a start");
        };
        let (value, children) = match frame.contents {
            Contents::List { items, spots } => (Value::Array(items), Children::List(spots)),
            Contents::Map { fields, spots, .. } => (Value::Object(fields), Children::Fields(spots)),
        };
        if let Some(spot) = self.spots.get_mut(frame.spot as usize) {
            spot.children = children;
        }
        self.keep_anchor(frame.anchor, &value, frame.height + 1)?;
        self.place(value, frame.spot, frame.height + 1)
    }

    fn alias(&mut self, id: usize) -> Step {
        if self.awaits_key() {
            return self.refuse("an object key cannot be an alias");
        }
        let Some(anchored) = self.anchors.get(&id) else {
            return self.refuse("an alias inside the value it stands for");
        };
        let (height, weight) = (anchored.height, anchored.weight);
        if self.open.len() + height > self.limits.nesting() {
            return Err(self.too_deep());
        }
        self.spend(weight)?;
        let value = self
            .anchors
            .get(&id)
            .map_or(Value::Null, |anchored| anchored.value.clone());
        let spot = self.spot();
        self.place(value, spot, height)
    }

    /// Counts bytes that anchors and aliases copy: a few lines of aliases of aliases can ask for terabytes.
    fn spend(&mut self, weight: usize) -> Step {
        self.copied = self.copied.saturating_add(weight);
        if self.copied > self.limits.expansion_bytes_max {
            let most = self.limits.expansion_bytes_max;
            let message = format!("anchors and aliases expand to more than {most} bytes");
            return Err(fault(code::TOO_MANY_VALUES, self.text, self.at, message));
        }
        Ok(())
    }

    fn keep_anchor(&mut self, anchor: usize, value: &Value, height: usize) -> Step {
        if anchor == 0 {
            return Ok(());
        }
        let weight = weight_of(value);
        self.spend(weight)?;
        self.anchors.insert(
            anchor,
            Anchored {
                value: value.clone(),
                weight,
                height,
            },
        );
        Ok(())
    }

    fn place(&mut self, value: Value, spot: u32, height: usize) -> Step {
        let Some(frame) = self.open.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        frame.height = frame.height.max(height);
        match &mut frame.contents {
            Contents::List { items, spots } => {
                items.push(value);
                spots.push(spot);
            }
            Contents::Map { fields, spots, key } => {
                if let Some(Key { text, offset }) = key.take() {
                    // An empty value has no place of its own.
                    if value.is_null() {
                        self.spots[spot as usize].offset = offset as u32;
                    }
                    spots.push((text.as_str().into(), spot));
                    fields.insert(text, value);
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Step<Document> {
        let Some(value) = self.root else {
            return self.refuse("the document is empty");
        };
        Ok(Document {
            value,
            source: SourceMap::yaml(self.text.to_owned(), self.spots),
            problems: self.problems,
        })
    }
}

/// Bytes a copy of the value takes, roughly.
fn weight_of(value: &Value) -> usize {
    const VALUE_BYTES: usize = 64;
    let mut weight = 0_usize;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        weight += VALUE_BYTES;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => weight += text.len(),
            Value::Array(items) => open.extend(items),
            Value::Object(fields) => {
                weight += fields.keys().map(String::len).sum::<usize>();
                open.extend(fields.values());
            }
        }
    }
    weight
}

fn resolve_plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if matches!(
        text.trim_start_matches(['-', '+']),
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return Err(format!("`{text}` has no place in JSON"));
    }
    let radix = |digits: &str, radix| {
        u64::from_str_radix(digits, radix)
            .ok()
            .map(|number| Value::Number(number.into()))
    };
    let special = match text.as_bytes() {
        [b'0', b'o', ..] => radix(&text[2..], 8),
        [b'0', b'x', ..] => radix(&text[2..], 16),
        _ => None,
    };
    Ok(special
        .or_else(|| number(text))
        .unwrap_or_else(|| Value::String(text.to_owned())))
}

/// A decimal number: `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`.
fn number(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    let exponent_ok = exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)));
    if !mantissa_ok || !exponent_ok {
        return None;
    }
    if exponent.is_none() && !mantissa.contains('.') {
        if let Ok(whole) = text.parse::<i64>() {
            return Some(Value::Number(whole.into()));
        }
        if let Ok(whole) = text.parse::<u64>() {
            return Some(Value::Number(whole.into()));
        }
    }
    text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number)
}

//! Strict JSON with source positions.
//!
//! `serde_json` decides what is JSON and gives the values. The syntax tree of `jsonc-parser` gives the places; it is built
//! only when there is something to place, so a sound text of a hundred thousand nodes does not pay for it.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fmt;

use jsonc_parser::ast::{ObjectPropName, Value as Tree};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::parse::{Document, fault, twice};
use super::source::SourceMap;
use super::{Diagnostic, Limits, Object, Path, Problems, code};

/// Parses a JSON text.
pub(crate) fn document(text: &str, limits: &Limits) -> Result<Document, Box<Diagnostic>> {
    check_nesting(text, limits)?;
    let duplicates = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Reader {
        duplicates: &duplicates,
    }
    .deserialize(&mut reader)
    .and_then(|value| reader.end().map(|()| value))
    .map_err(|error| {
        let offset = offset_of(text, error.line(), error.column());
        let full = error.to_string();
        let message = full
            .rsplit_once(" at line ")
            .map_or(full.as_str(), |(message, _)| message);
        fault(code::INVALID_JSON, text, offset, message)
    })?;
    let mut problems = Problems::default();
    if duplicates.get() {
        report_duplicates(text, &mut problems);
    }
    Ok(Document {
        value,
        source: SourceMap::json(text.to_owned()),
        problems,
    })
}

/// Reads a JSON value and notes whether an object has a key twice.
#[derive(Clone, Copy)]
struct Reader<'a> {
    duplicates: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Object::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.insert(key, entries.next_value_seed(self)?).is_some() {
                self.duplicates.set(true);
            }
        }
        Ok(Value::Object(object))
    }
}

const fn strict() -> ParseOptions {
    ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

/// The syntax tree of a text that was accepted before.
fn tree_of(text: &str) -> Option<Tree<'_>> {
    parse_to_ast(text, &CollectOptions::default(), &strict()).ok()?.value
}

/// Byte offsets of the values that pointers name, or of their nearest ancestors in the text.
pub(crate) fn offsets<'a>(text: &str, pointers: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let Some(tree) = tree_of(text) else {
        return pointers.map(|_| 0).collect();
    };
    let mut fields = HashMap::new();
    pointers.map(|pointer| offset_in(&tree, pointer, &mut fields)).collect()
}

/// Finds a value; `fields` keeps an index of each object on the way, by its offset.
fn offset_in<'t>(tree: &'t Tree<'t>, pointer: &str, fields: &mut HashMap<usize, HashMap<&'t str, usize>>) -> usize {
    let mut at = tree;
    for token in pointer.split('/').skip(1) {
        let child = match at {
            Tree::Array(array) => token.parse::<usize>().ok().and_then(|index| array.elements.get(index)),
            Tree::Object(object) => {
                let key = token.replace("~1", "/").replace("~0", "~");
                // Of duplicates the last one was read, and the last one is kept here.
                let index = fields.entry(object.range.start).or_insert_with(|| {
                    let names = object.properties.iter().map(|property| key_of(&property.name));
                    names.enumerate().map(|(place, name)| (name, place)).collect()
                });
                index.get(key.as_str()).map(|&place| &object.properties[place].value)
            }
            Tree::StringLit(_) | Tree::NumberLit(_) | Tree::BooleanLit(_) | Tree::NullKeyword(_) => None,
        };
        match child {
            Some(child) => at = child,
            None => break,
        }
    }
    at.range().start
}

/// Refuses deep nesting before any recursive parser sees the text.
fn check_nesting(text: &str, limits: &Limits) -> Result<(), Box<Diagnostic>> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (offset, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > limits.nesting() {
                    let message = format!("lists and objects are nested deeper than {}", limits.nesting());
                    return Err(fault(code::NESTING_TOO_DEEP, text, offset, message));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The byte offset of a line and byte column, both from 1, as `serde_json` reports them.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    (start + column.saturating_sub(1)).min(text.len())
}

fn report_duplicates(text: &str, problems: &mut Problems) {
    if let Some(tree) = tree_of(text) {
        duplicates_within(&tree, &Path::root(), problems);
    }
}

/// As deep as the limit on nesting lets it be.
fn duplicates_within(tree: &Tree<'_>, path: &Path<'_>, problems: &mut Problems) {
    match tree {
        Tree::Array(array) => {
            for (index, item) in array.elements.iter().enumerate() {
                duplicates_within(item, &path.index(index), problems);
            }
        }
        Tree::Object(object) => {
            let mut seen = HashSet::with_capacity(object.properties.len());
            for property in &object.properties {
                let key = key_of(&property.name);
                let path = path.key(key);
                if !seen.insert(key) {
                    problems.error(code::DUPLICATE_KEY, &path, twice(key));
                }
                duplicates_within(&property.value, &path, problems);
            }
        }
        Tree::StringLit(_) | Tree::NumberLit(_) | Tree::BooleanLit(_) | Tree::NullKeyword(_) => {}
    }
}

fn key_of<'a>(name: &'a ObjectPropName<'_>) -> &'a str {
    match name {
        ObjectPropName::String(text) => &text.value,
        ObjectPropName::Word(word) => word.value,
    }
}

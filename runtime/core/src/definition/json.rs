//! Strict JSON with source positions.
//!
//! `serde_json` decides what is JSON and gives the values; the syntax tree of `jsonc-parser` gives the places and shows
//! duplicate keys, which `serde_json` folds away.

use std::collections::HashSet;

use jsonc_parser::ast::{ObjectPropName, Value as Tree};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::parse::{Document, duplicate_key, fault};
use super::problems::push_key;
use super::source::{Children, SourceMap, Spot};
use super::{Diagnostic, Limits, Problems, code};

/// Parses a JSON text.
pub(crate) fn document(text: &str, limits: &Limits) -> Result<Document, Box<Diagnostic>> {
    check_nesting(text, limits)?;
    let value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            let offset = offset_of(text, error.line(), error.column());
            let full = error.to_string();
            let message = full
                .rsplit_once(" at line ")
                .map_or(full.as_str(), |(message, _)| message);
            return Err(fault(code::INVALID_JSON, text, offset, message));
        }
    };
    let mut problems = Problems::default();
    let spots = match parse_to_ast(text, &CollectOptions::default(), &strict()) {
        Ok(parsed) => parsed
            .value
            .map(|tree| spots_of(&tree, text, &mut problems))
            .unwrap_or_default(),
        Err(error) => {
            return Err(fault(
                code::INVALID_JSON,
                text,
                error.range().start,
                error.kind().to_string(),
            ));
        }
    };
    Ok(Document {
        value,
        source: SourceMap::new(text.to_owned(), spots),
        problems,
    })
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

/// Walks the tree without recursion; a container's spot is made before its children's.
fn spots_of(tree: &Tree<'_>, text: &str, problems: &mut Problems) -> Vec<Spot> {
    let mut spots = vec![Spot {
        offset: tree.range().start as u32,
        children: Children::None,
    }];
    let mut open: Vec<(&Tree<'_>, usize)> = vec![(tree, 0)];
    // Pointers are needed for duplicates alone; parents let one be built when that happens.
    let mut parents: Vec<(u32, String)> = Vec::new();
    let track = has_duplicates(tree);
    if track {
        parents.push((0, String::new()));
    }
    while let Some((tree, at)) = open.pop() {
        match tree {
            Tree::Array(array) => {
                let mut items = Vec::with_capacity(array.elements.len());
                for (index, element) in array.elements.iter().enumerate() {
                    let child = spots.len();
                    items.push(child as u32);
                    spots.push(Spot {
                        offset: element.range().start as u32,
                        children: Children::None,
                    });
                    if track {
                        parents.push((at as u32, index.to_string()));
                    }
                    open.push((element, child));
                }
                spots[at].children = Children::List(items);
            }
            Tree::Object(object) => {
                let mut fields = Vec::with_capacity(object.properties.len());
                let mut seen = HashSet::new();
                for property in &object.properties {
                    let key = key_of(&property.name);
                    let child = spots.len();
                    fields.push((Box::from(key), child as u32));
                    spots.push(Spot {
                        offset: property.value.range().start as u32,
                        children: Children::None,
                    });
                    if track {
                        parents.push((at as u32, key.to_owned()));
                        if !seen.insert(key) {
                            let pointer = pointer_of(&parents, child);
                            duplicate_key(problems, pointer, key, text, property.name.range().start);
                        }
                    }
                    open.push((&property.value, child));
                }
                spots[at].children = Children::Fields(fields);
            }
            Tree::StringLit(_) | Tree::NumberLit(_) | Tree::BooleanLit(_) | Tree::NullKeyword(_) => {}
        }
    }
    spots
}

fn has_duplicates(tree: &Tree<'_>) -> bool {
    let mut open = vec![tree];
    while let Some(tree) = open.pop() {
        match tree {
            Tree::Array(array) => open.extend(&array.elements),
            Tree::Object(object) => {
                let mut seen = HashSet::with_capacity(object.properties.len());
                for property in &object.properties {
                    if !seen.insert(key_of(&property.name)) {
                        return true;
                    }
                    open.push(&property.value);
                }
            }
            Tree::StringLit(_) | Tree::NumberLit(_) | Tree::BooleanLit(_) | Tree::NullKeyword(_) => {}
        }
    }
    false
}

fn key_of<'a>(name: &'a ObjectPropName<'_>) -> &'a str {
    match name {
        ObjectPropName::String(text) => &text.value,
        ObjectPropName::Word(word) => word.value,
    }
}

fn pointer_of(parents: &[(u32, String)], spot: usize) -> String {
    let mut keys = Vec::new();
    let mut at = spot;
    while at != 0 {
        let (parent, key) = &parents[at];
        keys.push(key.as_str());
        at = *parent as usize;
    }
    let mut pointer = String::new();
    for key in keys.into_iter().rev() {
        push_key(&mut pointer, key);
    }
    pointer
}

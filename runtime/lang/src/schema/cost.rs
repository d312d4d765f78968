//! How many steps a validation can take.
//!
//! A validator applies every subschema that its references lead to, and references multiply: thirty definitions
//! that each refer twice to the next take 2^30 steps on any value. So the steps are counted before a validation,
//! by a walk that applies the same subschemas to the same parts of the value but checks nothing. It is skipped
//! where the schema is so simple that the size of the value bounds it.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::invalid;
use crate::error::LangError;
use crate::limits::SCHEMA_STEPS_MAX;

/// A place in the schema, known by its JSON pointer.
type Pointer = String;

#[derive(Debug)]
pub(super) struct Cost {
    schema: Value,
    anchors: Anchors,
    /// Subschemas that can meet one part of a value; nothing where references recurse.
    unrolled: Option<u64>,
}

/// Subschemas by the names that references use.
#[derive(Debug, Default)]
struct Anchors {
    names: HashMap<String, Vec<Pointer>>,
}

/// Keywords whose subschemas apply to the same part of the value.
const IN_PLACE: &[&str] = &[
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependencies",
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
];
/// Keywords whose subschemas apply to parts of it.
const BELOW: &[&str] = &[
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
];
/// Steps that a pattern with look-around or back-references counts for each string.
const BACKTRACKING_STEPS: u64 = 1_000;
/// Deepest way of the walk, as it recurses.
const WALK_DEPTH_MAX: usize = 600;

impl Cost {
    /// Looks at a schema.
    ///
    /// # Errors
    /// `SCHEMA_INVALID` for a subschema that refers to itself without going into the value: it has no end.
    pub(super) fn of(schema: &Value) -> Result<Self, LangError> {
        let mut cost = Self {
            schema: schema.clone(),
            anchors: Anchors::default(),
            unrolled: Some(0),
        };
        cost.anchors.collect(schema, &mut String::new());
        let mut in_place = Unroll {
            cost: &cost,
            below: false,
            open: HashSet::new(),
            known: HashMap::new(),
        };
        if in_place.count(schema, 0).is_none() {
            return Err(invalid("a subschema refers to itself without looking into the value"));
        }
        let mut all = Unroll {
            cost: &cost,
            below: true,
            open: HashSet::new(),
            known: HashMap::new(),
        };
        cost.unrolled = all.count(schema, 0);
        Ok(cost)
    }

    /// Whether a validation of the value stays within the limit.
    pub(super) fn is_affordable(&self, value: &Value) -> bool {
        let mut budget = SCHEMA_STEPS_MAX;
        if let Some(unrolled) = self.unrolled
            && take(&mut budget, weight(value).saturating_mul(unrolled))
        {
            return true;
        }
        let mut budget = SCHEMA_STEPS_MAX;
        self.walk(&self.schema, value, &mut budget, 0)
    }

    fn walk(&self, schema: &Value, value: &Value, budget: &mut u64, depth: usize) -> bool {
        let Value::Object(keywords) = schema else {
            return take(budget, 1);
        };
        if depth > WALK_DEPTH_MAX || !take(budget, 1 + own_steps(keywords, value)) {
            return false;
        }
        let mut fits = true;
        self.in_place(keywords, &mut |subschema| {
            fits = fits && self.walk(subschema, value, budget, depth + 1);
        });
        match value {
            Value::Object(members) => {
                let properties = keywords.get("properties").and_then(Value::as_object);
                for (name, member) in members {
                    if let Some(subschema) = properties.and_then(|properties| properties.get(name)) {
                        fits = fits && self.walk(subschema, member, budget, depth + 1);
                    }
                    // Which patterns match is not looked at: all of them are counted.
                    for subschema in subschemas(keywords.get("patternProperties")) {
                        fits = fits
                            && take(budget, pattern_steps_all(keywords, name))
                            && self.walk(subschema, member, budget, depth + 1);
                    }
                    for keyword in ["additionalProperties", "unevaluatedProperties"] {
                        if let Some(subschema) = keywords.get(keyword) {
                            fits = fits && self.walk(subschema, member, budget, depth + 1);
                        }
                    }
                    if let Some(subschema) = keywords.get("propertyNames") {
                        fits = fits && self.walk(subschema, &Value::Null, budget, depth + 1);
                    }
                    if !fits {
                        return false;
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    for keyword in [
                        "items",
                        "prefixItems",
                        "additionalItems",
                        "unevaluatedItems",
                        "contains",
                    ] {
                        let subschema = match keywords.get(keyword) {
                            Some(Value::Array(places)) => places.get(index),
                            other => other,
                        };
                        if let Some(subschema) = subschema {
                            fits = fits && self.walk(subschema, item, budget, depth + 1);
                        }
                    }
                    if !fits {
                        return false;
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        fits
    }

    /// Calls back for each subschema that applies to the same part of the value.
    fn in_place<'c>(&'c self, keywords: &'c Map<String, Value>, visit: &mut impl FnMut(&'c Value)) {
        for keyword in IN_PLACE {
            match (*keyword, keywords.get(*keyword)) {
                (_, None) => {}
                ("$ref" | "$dynamicRef" | "$recursiveRef", Some(Value::String(reference))) => {
                    self.targets(reference).into_iter().for_each(&mut *visit);
                }
                ("not" | "if" | "then" | "else", Some(subschema)) => visit(subschema),
                (_, subschema) => subschemas(subschema).for_each(&mut *visit),
            }
        }
    }

    /// The subschemas that a reference can mean; more than one where names repeat.
    fn targets(&self, reference: &str) -> Vec<&Value> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let base: Vec<&Value> = match document.trim_end_matches('/').rsplit('/').next() {
            None | Some("") => vec![&self.schema],
            Some(name) => self.named(name),
        };
        if fragment.is_empty() {
            return base;
        }
        if fragment.starts_with('/') {
            let pointer = percent_decoded(fragment);
            // A pointer counts from the nearest `$id`, which every named subschema can be.
            let resources = base.into_iter().chain(
                self.anchors
                    .names
                    .values()
                    .flatten()
                    .filter_map(|at| self.schema.pointer(at)),
            );
            let mut found: Vec<&Value> = resources.filter_map(|resource| resource.pointer(&pointer)).collect();
            found.dedup_by(|a, b| std::ptr::eq(*a, *b));
            return found;
        }
        self.named(fragment)
    }

    fn named(&self, name: &str) -> Vec<&Value> {
        self.anchors
            .names
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|pointer| self.schema.pointer(pointer))
            .collect()
    }
}

impl Anchors {
    fn collect(&mut self, schema: &Value, pointer: &mut Pointer) {
        let length = pointer.len();
        match schema {
            Value::Object(members) => {
                for keyword in ["$id", "id", "$anchor", "$dynamicAnchor"] {
                    if let Some(Value::String(name)) = members.get(keyword) {
                        let name = name.trim_end_matches(['#', '/']);
                        let name = name.rsplit(['/', '#']).next().unwrap_or(name);
                        self.names.entry(name.to_owned()).or_default().push(pointer.clone());
                    }
                }
                for (name, member) in members {
                    pointer.push('/');
                    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                    self.collect(member, pointer);
                    pointer.truncate(length);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    pointer.push_str(&format!("/{index}"));
                    self.collect(item, pointer);
                    pointer.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Counts the subschemas that a subschema leads to, each as often as it is reached.
struct Unroll<'c> {
    cost: &'c Cost,
    /// Whether to follow into parts of the value.
    below: bool,
    open: HashSet<*const Value>,
    known: HashMap<*const Value, u64>,
}

impl<'c> Unroll<'c> {
    /// Nothing where the way comes back to a subschema it is inside of.
    fn count(&mut self, schema: &'c Value, depth: usize) -> Option<u64> {
        let Value::Object(keywords) = schema else {
            return Some(1);
        };
        let key: *const Value = schema;
        if let Some(count) = self.known.get(&key) {
            return Some(*count);
        }
        if depth > WALK_DEPTH_MAX || !self.open.insert(key) {
            return None;
        }
        let mut next: Vec<&'c Value> = Vec::new();
        self.cost.in_place(keywords, &mut |subschema| next.push(subschema));
        let in_place = next.len();
        for keyword in BELOW {
            match keywords.get(*keyword) {
                Some(Value::Object(map)) if matches!(*keyword, "properties" | "patternProperties") => {
                    next.extend(map.values())
                }
                Some(Value::Array(places)) => next.extend(places),
                Some(subschema) => next.push(subschema),
                None => {}
            }
        }
        let mut total = 1u64.saturating_add(static_steps(keywords));
        for (index, subschema) in next.into_iter().enumerate() {
            if index < in_place || self.below {
                total = total.saturating_add(self.count(subschema, depth + 1)?);
            }
        }
        self.open.remove(&key);
        self.known.insert(key, total);
        if !self.below {
            // Parts of the value start over, but cycles can hide there too.
            self.check_below(keywords)?;
        }
        Some(total)
    }

    fn check_below(&mut self, keywords: &'c Map<String, Value>) -> Option<()> {
        let definitions = ["$defs", "definitions"]
            .iter()
            .flat_map(|keyword| subschemas(keywords.get(*keyword)));
        let parts = BELOW
            .iter()
            .flat_map(|keyword| match (*keyword, keywords.get(*keyword)) {
                ("properties" | "patternProperties", map) => subschemas(map).collect::<Vec<_>>(),
                (_, Some(Value::Array(places))) => places.iter().collect(),
                (_, subschema) => subschema.into_iter().collect(),
            });
        for subschema in definitions.chain(parts).collect::<Vec<_>>() {
            if !self.open.contains(&std::ptr::from_ref(subschema)) {
                let outer = std::mem::take(&mut self.open);
                let count = self.count(subschema, 0);
                self.open = outer;
                count?;
            }
        }
        Some(())
    }
}

fn subschemas(keyword: Option<&Value>) -> impl Iterator<Item = &Value> {
    let (items, members) = match keyword {
        Some(Value::Array(items)) => (Some(items), None),
        Some(Value::Object(members)) => (None, Some(members)),
        _ => (None, None),
    };
    items
        .into_iter()
        .flatten()
        .chain(members.into_iter().flat_map(Map::values))
}

fn take(budget: &mut u64, steps: u64) -> bool {
    match budget.checked_sub(steps) {
        Some(left) => {
            *budget = left;
            true
        }
        None => false,
    }
}

/// Steps of keywords that take more than one on a value.
fn own_steps(keywords: &Map<String, Value>, value: &Value) -> u64 {
    let lists = |name: &str| {
        keywords
            .get(name)
            .and_then(Value::as_array)
            .map_or(0, |values| values.len() as u64)
    };
    let mut steps = lists("enum") + lists("required");
    match value {
        Value::String(text) => {
            if let Some(Value::String(pattern)) = keywords.get("pattern") {
                steps += pattern_steps(pattern, text.len() as u64);
            }
            steps += text.len() as u64 / 64;
        }
        Value::Array(items) if keywords.contains_key("uniqueItems") => {
            let count = items.len() as u64;
            steps = steps.saturating_add(count.saturating_mul(u64::from(count.max(1).ilog2()) + 1));
        }
        _ => {}
    }
    steps
}

fn static_steps(keywords: &Map<String, Value>) -> u64 {
    let patterns = keywords.get("pattern").and_then(Value::as_str).into_iter();
    let names = keywords.get("patternProperties").and_then(Value::as_object);
    let all = patterns.chain(names.into_iter().flat_map(|map| map.keys().map(String::as_str)));
    let patterns: u64 = all.map(|pattern| pattern_steps(pattern, 64)).sum();
    let enumerated = keywords
        .get("enum")
        .and_then(Value::as_array)
        .map_or(0, |values| values.len() as u64);
    patterns + enumerated + if keywords.contains_key("uniqueItems") { 32 } else { 0 }
}

fn pattern_steps_all(keywords: &Map<String, Value>, name: &str) -> u64 {
    let patterns = keywords.get("patternProperties").and_then(Value::as_object);
    patterns.map_or(0, |map| {
        map.keys()
            .map(|pattern| pattern_steps(pattern, name.len() as u64))
            .sum()
    })
}

fn pattern_steps(pattern: &str, length: u64) -> u64 {
    let backtracks = ["(?=", "(?!", "(?<", "(?>", "\\k"]
        .iter()
        .any(|part| pattern.contains(part))
        || pattern
            .as_bytes()
            .windows(2)
            .any(|pair| pair[0] == b'\\' && pair[1].is_ascii_digit());
    if backtracks {
        BACKTRACKING_STEPS.saturating_add(length)
    } else {
        1 + length / 8
    }
}

/// Parts of a value, long strings counting more.
fn weight(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(weight).sum::<u64>(),
        Value::Object(members) => {
            1 + members
                .iter()
                .map(|(name, member)| 1 + name.len() as u64 / 64 + weight(member))
                .sum::<u64>()
        }
        Value::String(text) => 1 + text.len() as u64 / 64,
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = behind
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

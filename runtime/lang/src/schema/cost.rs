//! How many steps a validation can take.
//!
//! A validator applies every subschema that its references lead to, and references multiply: thirty definitions
//! that each refer twice to the next take 2^30 steps on any value. So the steps are counted before a validation,
//! by a walk that applies the same subschemas to the same parts of the value but checks nothing. It is skipped
//! where the schema is so simple that the size of the value bounds it.

use std::collections::HashMap;

use serde_json::Value;

use super::invalid;
use crate::error::LangError;
use crate::limits::SCHEMA_STEPS_MAX;

/// The subschemas as a graph: references are edges like any other.
#[derive(Debug)]
pub(super) struct Cost {
    nodes: Vec<Node>,
    /// Steps of all subschemas that can meet one part of a value; nothing where references recurse.
    unrolled: Option<u64>,
}

/// One subschema; the numbers are places in [`Cost::nodes`].
#[derive(Debug, Default)]
struct Node {
    in_place: Vec<usize>,
    properties: HashMap<Box<str>, usize>,
    every_member: Vec<usize>,
    places: Vec<usize>,
    every_item: Vec<usize>,
    /// Values listed by `enum` and `required`.
    listed: u64,
    patterns: Vec<Pattern>,
    has_unique_items: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    Linear,
    Backtracking,
}

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
        let mut names = HashMap::new();
        collect_names(schema, &mut names);
        let mut build = Build {
            root: schema,
            names,
            places: HashMap::new(),
            nodes: Vec::new(),
        };
        build.node(schema, 0)?;
        let mut cost = Self {
            nodes: build.nodes,
            unrolled: None,
        };
        let mut unroll = Unroll {
            nodes: &cost.nodes,
            below: false,
            state: vec![State::New; cost.nodes.len()],
        };
        if !(0..cost.nodes.len()).all(|start| unroll.count(start, 0).is_some()) {
            return Err(invalid("a subschema refers to itself without looking into the value"));
        }
        let mut unroll = Unroll {
            nodes: &cost.nodes,
            below: true,
            state: vec![State::New; cost.nodes.len()],
        };
        cost.unrolled = unroll.count(0, 0);
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
        self.walk(0, value, &mut budget, 0)
    }

    fn walk(&self, place: usize, value: &Value, budget: &mut u64, depth: usize) -> bool {
        let node = &self.nodes[place];
        if depth > WALK_DEPTH_MAX || !take(budget, node.own_steps(value)) {
            return false;
        }
        if !node
            .in_place
            .iter()
            .all(|next| self.walk(*next, value, budget, depth + 1))
        {
            return false;
        }
        match value {
            Value::Object(members) => members.iter().all(|(name, member)| {
                // Which patterns match is not looked at: all of them are counted.
                let patterns = node.patterns.iter().map(|pattern| pattern.steps(name.len())).sum();
                take(budget, patterns)
                    && node
                        .properties
                        .get(name.as_str())
                        .is_none_or(|next| self.walk(*next, member, budget, depth + 1))
                    && node
                        .every_member
                        .iter()
                        .all(|next| self.walk(*next, member, budget, depth + 1))
            }),
            Value::Array(items) => items.iter().enumerate().all(|(index, item)| {
                node.places
                    .get(index)
                    .is_none_or(|next| self.walk(*next, item, budget, depth + 1))
                    && node
                        .every_item
                        .iter()
                        .all(|next| self.walk(*next, item, budget, depth + 1))
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        }
    }
}

impl Node {
    fn own_steps(&self, value: &Value) -> u64 {
        let own = match value {
            Value::String(text) => {
                text.len() as u64 / 64
                    + self
                        .patterns
                        .iter()
                        .map(|pattern| pattern.steps(text.len()))
                        .sum::<u64>()
            }
            Value::Array(items) if self.has_unique_items => {
                let count = items.len() as u64;
                count.saturating_mul(u64::from(count.max(1).ilog2()) + 1)
            }
            _ => 0,
        };
        1 + self.listed + own
    }

    /// Steps on any value, each counted per 64 bytes or per part of it.
    fn static_steps(&self) -> u64 {
        let patterns: u64 = self.patterns.iter().map(|pattern| pattern.steps(64)).sum();
        1 + self.listed + patterns + if self.has_unique_items { 32 } else { 0 }
    }

    fn below(&self) -> impl Iterator<Item = usize> {
        self.properties
            .values()
            .chain(&self.every_member)
            .chain(&self.places)
            .chain(&self.every_item)
            .copied()
    }
}

impl Pattern {
    fn of(source: &str) -> Self {
        let has_group = ["(?=", "(?!", "(?<", "(?>", "\\k"]
            .iter()
            .any(|part| source.contains(part));
        let has_reference = source
            .as_bytes()
            .windows(2)
            .any(|pair| pair[0] == b'\\' && pair[1].is_ascii_digit());
        if has_group || has_reference {
            Self::Backtracking
        } else {
            Self::Linear
        }
    }

    const fn steps(self, bytes: usize) -> u64 {
        match self {
            Self::Linear => 1 + bytes as u64 / 8,
            Self::Backtracking => BACKTRACKING_STEPS + bytes as u64,
        }
    }
}

/// The graph while it is built.
struct Build<'s> {
    root: &'s Value,
    /// Subschemas by `$id`, `$anchor` and `$dynamicAnchor`.
    names: HashMap<&'s str, Vec<&'s Value>>,
    places: HashMap<*const Value, usize>,
    nodes: Vec<Node>,
}

impl<'s> Build<'s> {
    fn node(&mut self, schema: &'s Value, depth: usize) -> Result<usize, LangError> {
        if let Some(place) = self.places.get(&std::ptr::from_ref(schema)) {
            return Ok(*place);
        }
        if depth > WALK_DEPTH_MAX {
            return Err(invalid("references of the schema are chained too deeply"));
        }
        let place = self.nodes.len();
        self.places.insert(schema, place);
        self.nodes.push(Node::default());
        let mut node = Node::default();
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            self.keyword(&mut node, keyword, value, depth + 1)?;
        }
        self.nodes[place] = node;
        Ok(place)
    }

    fn keyword(&mut self, node: &mut Node, keyword: &str, value: &'s Value, depth: usize) -> Result<(), LangError> {
        match (keyword, value) {
            ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => {
                let targets = self.targets(reference);
                node.in_place.extend(self.all(targets, depth)?);
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(_))
            | ("dependentSchemas" | "dependencies", Value::Object(_)) => {
                node.in_place.extend(self.all(subschemas(value).collect(), depth)?);
            }
            ("not" | "if" | "then" | "else", _) => node.in_place.push(self.node(value, depth)?),
            ("properties", Value::Object(members)) => {
                for (name, member) in members {
                    node.properties.insert(name.as_str().into(), self.node(member, depth)?);
                }
            }
            ("patternProperties", Value::Object(members)) => {
                node.patterns.extend(members.keys().map(|pattern| Pattern::of(pattern)));
                node.every_member.extend(self.all(members.values().collect(), depth)?);
            }
            ("additionalProperties" | "unevaluatedProperties" | "propertyNames", _) => {
                node.every_member.push(self.node(value, depth)?);
            }
            ("prefixItems" | "items", Value::Array(places)) => {
                node.places.extend(self.all(places.iter().collect(), depth)?);
            }
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", _) => {
                node.every_item.push(self.node(value, depth)?);
            }
            ("enum" | "required", Value::Array(values)) => node.listed += values.len() as u64,
            ("pattern", Value::String(pattern)) => node.patterns.push(Pattern::of(pattern)),
            ("uniqueItems", Value::Bool(true)) => node.has_unique_items = true,
            _ => {}
        }
        Ok(())
    }

    fn all(&mut self, schemas: Vec<&'s Value>, depth: usize) -> Result<Vec<usize>, LangError> {
        schemas.into_iter().map(|schema| self.node(schema, depth)).collect()
    }

    /// The subschemas that a reference can mean; more than one where names repeat.
    fn targets(&self, reference: &str) -> Vec<&'s Value> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let base: Vec<&Value> = match last_segment(document) {
            "" => vec![self.root],
            name => self.named(name),
        };
        if fragment.is_empty() {
            return base;
        }
        if !fragment.starts_with('/') {
            return self.named(fragment);
        }
        // A pointer counts from the nearest `$id`, which every named subschema can be.
        let pointer = percent_decoded(fragment);
        let resources = base.into_iter().chain(self.names.values().flatten().copied());
        let mut found: Vec<&Value> = resources.filter_map(|resource| resource.pointer(&pointer)).collect();
        found.sort_by_key(|schema| std::ptr::from_ref(*schema));
        found.dedup_by(|a, b| std::ptr::eq(*a, *b));
        found
    }

    fn named(&self, name: &str) -> Vec<&'s Value> {
        self.names.get(name).cloned().unwrap_or_default()
    }
}

fn collect_names<'s>(schema: &'s Value, names: &mut HashMap<&'s str, Vec<&'s Value>>) {
    for keyword in ["$id", "id", "$anchor", "$dynamicAnchor"] {
        if let Some(Value::String(name)) = schema.get(keyword) {
            names.entry(last_segment(name)).or_default().push(schema);
        }
    }
    subschemas(schema).for_each(|inner| collect_names(inner, names));
}

fn last_segment(name: &str) -> &str {
    name.trim_end_matches(['#', '/'])
        .rsplit(['/', '#'])
        .next()
        .unwrap_or(name)
}

/// Counts the steps that a subschema leads to, each as often as it is reached.
struct Unroll<'c> {
    nodes: &'c [Node],
    /// Whether to follow into parts of the value.
    below: bool,
    state: Vec<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Known(u64),
}

impl Unroll<'_> {
    /// Nothing where the way comes back to a subschema it is inside of.
    fn count(&mut self, place: usize, depth: usize) -> Option<u64> {
        match self.state[place] {
            State::Known(count) => return Some(count),
            State::Open => return None,
            State::New if depth > WALK_DEPTH_MAX => return None,
            State::New => self.state[place] = State::Open,
        }
        let nodes = self.nodes;
        let node = &nodes[place];
        let mut total = node.static_steps();
        for next in &node.in_place {
            total = total.saturating_add(self.count(*next, depth + 1)?);
        }
        if self.below {
            for next in node.below() {
                total = total.saturating_add(self.count(next, depth + 1)?);
            }
        }
        self.state[place] = State::Known(total);
        Some(total)
    }
}

/// What an array or an object holds.
fn subschemas(holder: &Value) -> impl Iterator<Item = &Value> {
    let items = holder.as_array().into_iter().flatten();
    items.chain(holder.as_object().into_iter().flat_map(serde_json::Map::values))
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

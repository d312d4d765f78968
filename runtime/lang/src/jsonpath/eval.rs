//! Evaluation of queries over borrowed values.

use super::filter::compile;
use super::{Comparable, Comparison, Eval, JsonPath, Query, Segment, Selector, Test};
use crate::expression::jsonpath_values::{Js, List, Machine, Object, text_length};

impl JsonPath {
    /// Nothing matched is `undefined`, one match is its value, several are an array.
    pub(crate) fn evaluate<'s>(&'s self, machine: &mut Machine<'s>) -> Eval<Js<'s>> {
        let root = machine.root();
        let mut nodes = self.query.run(machine, &root, &root)?;
        match nodes.len() {
            0 => Ok(Js::Undefined),
            1 => Ok(nodes.remove(0)),
            _ => machine.made_list(nodes),
        }
    }
}

impl Query {
    fn run<'s>(&'s self, machine: &mut Machine<'s>, root: &Js<'s>, current: &Js<'s>) -> Eval<Vec<Js<'s>>> {
        let mut nodes = vec![if self.is_relative {
            current.clone()
        } else {
            root.clone()
        }];
        for segment in &self.segments {
            let mut next = Vec::new();
            for node in &nodes {
                if segment.descendants {
                    segment.descend(machine, root, node, &mut next)?;
                } else {
                    segment.select(machine, root, node, &mut next)?;
                }
            }
            nodes = next;
        }
        Ok(nodes)
    }

    /// The one node of a singular query.
    fn single<'s>(&'s self, machine: &mut Machine<'s>, root: &Js<'s>, current: &Js<'s>) -> Eval<Option<Js<'s>>> {
        let mut node = if self.is_relative {
            current.clone()
        } else {
            root.clone()
        };
        for selector in self.segments.iter().flat_map(|segment| &segment.selectors) {
            machine.step()?;
            let found = match selector {
                Selector::Name(name) => member(&node, name)?,
                Selector::Index(index) => element(&node, *index),
                Selector::Wildcard | Selector::Slice { .. } | Selector::Filter(_) => None,
            };
            let Some(found) = found else { return Ok(None) };
            node = found;
        }
        Ok(Some(node))
    }
}

impl Segment {
    fn descend<'s>(
        &'s self,
        machine: &mut Machine<'s>,
        root: &Js<'s>,
        node: &Js<'s>,
        out: &mut Vec<Js<'s>>,
    ) -> Eval<()> {
        machine.descend()?;
        self.select(machine, root, node, out)?;
        for child in children(machine, node)? {
            if matches!(child, Js::List(_) | Js::Object(_)) {
                self.descend(machine, root, &child, out)?;
            }
        }
        machine.ascend();
        Ok(())
    }

    fn select<'s>(
        &'s self,
        machine: &mut Machine<'s>,
        root: &Js<'s>,
        node: &Js<'s>,
        out: &mut Vec<Js<'s>>,
    ) -> Eval<()> {
        for selector in &self.selectors {
            machine.charge_items(1)?;
            match selector {
                Selector::Name(name) => out.extend(member(node, name)?),
                Selector::Index(index) => out.extend(element(node, *index)),
                Selector::Wildcard => out.extend(children(machine, node)?),
                Selector::Slice { start, end, step } => slice(machine, node, *start, *end, *step, out)?,
                Selector::Filter(test) => {
                    for child in children(machine, node)? {
                        if test.holds(machine, root, &child)? {
                            out.push(child);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn member<'s>(node: &Js<'s>, name: &str) -> Eval<Option<Js<'s>>> {
    match node {
        Js::Object(object) => object.get(name),
        _ => Ok(None),
    }
}

fn element<'s>(node: &Js<'s>, index: i64) -> Option<Js<'s>> {
    let Js::List(list) = node else { return None };
    let place = if index < 0 { index + list.len() as i64 } else { index };
    usize::try_from(place).ok().and_then(|place| list.get(place))
}

fn children<'s>(machine: &mut Machine<'s>, node: &Js<'s>) -> Eval<Vec<Js<'s>>> {
    match node {
        Js::List(list) => {
            machine.charge_items(list.len())?;
            Ok((0..list.len()).filter_map(|index| list.get(index)).collect())
        }
        Js::Object(object) => {
            machine.charge_items(object.len())?;
            object
                .keys()
                .iter()
                .filter_map(|key| object.get(key.as_str()).transpose())
                .collect()
        }
        _ => Ok(Vec::new()),
    }
}

fn slice<'s>(
    machine: &mut Machine<'s>,
    node: &Js<'s>,
    start: Option<i64>,
    end: Option<i64>,
    step: i64,
    out: &mut Vec<Js<'s>>,
) -> Eval<()> {
    let Js::List(list) = node else { return Ok(()) };
    let length = list.len() as i64;
    let normal = |index: i64| if index >= 0 { index } else { length + index };
    if step > 0 {
        let mut at = normal(start.unwrap_or(0)).clamp(0, length);
        let end = normal(end.unwrap_or(length)).clamp(0, length);
        while at < end {
            machine.charge_items(1)?;
            out.extend(list.get(at as usize));
            at += step;
        }
    } else if step < 0 {
        let mut at = start.map_or(length - 1, normal).clamp(-1, length - 1);
        let end = end.map_or(-1, |end| normal(end).clamp(-1, length - 1));
        while at > end {
            machine.charge_items(1)?;
            out.extend(list.get(at as usize));
            at += step;
        }
    }
    Ok(())
}

impl Test {
    fn holds<'s>(&'s self, machine: &mut Machine<'s>, root: &Js<'s>, current: &Js<'s>) -> Eval<bool> {
        machine.step()?;
        Ok(match self {
            Self::Or(tests) => {
                for test in tests {
                    if test.holds(machine, root, current)? {
                        return Ok(true);
                    }
                }
                false
            }
            Self::And(tests) => {
                for test in tests {
                    if !test.holds(machine, root, current)? {
                        return Ok(false);
                    }
                }
                true
            }
            Self::Not(test) => !test.holds(machine, root, current)?,
            Self::Exists(query) => !query.run(machine, root, current)?.is_empty(),
            Self::Compare(left, comparison, right) => {
                let left = left.value(machine, root, current)?;
                let right = right.value(machine, root, current)?;
                compare(machine, left.as_ref(), *comparison, right.as_ref())?
            }
            Self::Matches {
                text,
                pattern,
                whole,
                compiled,
            } => {
                let text = text.value(machine, root, current)?;
                let pattern = pattern.value(machine, root, current)?;
                let (Some(Js::Text(text)), Some(Js::Text(pattern))) = (text, pattern) else {
                    return Ok(false);
                };
                machine.steps(text.as_str().len())?;
                if let Some(compiled) = compiled {
                    return Ok(compiled.is_match(text.as_str()));
                }
                // Compiling costs far more than a step.
                machine.steps(1_000 + pattern.as_str().len() * 100)?;
                compile(pattern.as_str(), *whole).is_some_and(|compiled| compiled.is_match(text.as_str()))
            }
        })
    }
}

impl Comparable {
    /// The value, or nothing.
    fn value<'s>(&'s self, machine: &mut Machine<'s>, root: &Js<'s>, current: &Js<'s>) -> Eval<Option<Js<'s>>> {
        Ok(match self {
            Self::Null => Some(Js::Null),
            Self::Bool(value) => Some(Js::Bool(*value)),
            Self::Number(number) => Some(Js::Number(*number)),
            Self::Text(text) => Some(Js::borrowed(text)),
            Self::Singular(query) => query.single(machine, root, current)?,
            Self::Length(inner) => match inner.value(machine, root, current)? {
                Some(Js::Text(text)) => {
                    machine.scan(text.as_str())?;
                    Some(Js::Number(text_length(text.as_str())))
                }
                Some(Js::List(list)) => Some(Js::Number(list.len() as f64)),
                Some(Js::Object(object)) => Some(Js::Number(object.len() as f64)),
                _ => None,
            },
            Self::Count(query) => Some(Js::Number(query.run(machine, root, current)?.len() as f64)),
            Self::Value(query) => {
                let mut nodes = query.run(machine, root, current)?;
                if nodes.len() == 1 { nodes.pop() } else { None }
            }
        })
    }
}

fn compare<'s>(
    machine: &mut Machine<'s>,
    left: Option<&Js<'s>>,
    comparison: Comparison,
    right: Option<&Js<'s>>,
) -> Eval<bool> {
    Ok(match comparison {
        Comparison::Equal => equal(machine, left, right)?,
        Comparison::Unequal => !equal(machine, left, right)?,
        Comparison::Less => less(machine, left, right)?,
        Comparison::Greater => less(machine, right, left)?,
        Comparison::LessEqual => less(machine, left, right)? || equal(machine, left, right)?,
        Comparison::GreaterEqual => less(machine, right, left)? || equal(machine, left, right)?,
    })
}

fn less<'s>(machine: &mut Machine<'s>, left: Option<&Js<'s>>, right: Option<&Js<'s>>) -> Eval<bool> {
    Ok(match (left, right) {
        (Some(Js::Text(left)), Some(Js::Text(right))) => {
            machine.scan(left.as_str())?;
            left.as_str() < right.as_str()
        }
        (Some(left), Some(right)) => match (left.as_number(), right.as_number()) {
            (Some(left), Some(right)) => left < right,
            _ => false,
        },
        _ => false,
    })
}

fn equal<'s>(machine: &mut Machine<'s>, left: Option<&Js<'s>>, right: Option<&Js<'s>>) -> Eval<bool> {
    match (left, right) {
        (None, None) => Ok(true),
        (Some(left), Some(right)) => deep_equal(machine, left, right),
        (None, Some(_)) | (Some(_), None) => Ok(false),
    }
}

fn deep_equal<'s>(machine: &mut Machine<'s>, left: &Js<'s>, right: &Js<'s>) -> Eval<bool> {
    machine.step()?;
    match (left, right) {
        (Js::List(left), Js::List(right)) => lists_equal(machine, left, right),
        (Js::Object(left), Js::Object(right)) => objects_equal(machine, left, right),
        _ => machine.strict_equals(left, right),
    }
}

fn lists_equal<'s>(machine: &mut Machine<'s>, left: &List<'s>, right: &List<'s>) -> Eval<bool> {
    if left.len() != right.len() {
        return Ok(false);
    }
    machine.descend()?;
    for index in 0..left.len() {
        if let (Some(left), Some(right)) = (left.get(index), right.get(index))
            && !deep_equal(machine, &left, &right)?
        {
            machine.ascend();
            return Ok(false);
        }
    }
    machine.ascend();
    Ok(true)
}

fn objects_equal<'s>(machine: &mut Machine<'s>, left: &Object<'s>, right: &Object<'s>) -> Eval<bool> {
    if left.len() != right.len() {
        return Ok(false);
    }
    machine.descend()?;
    for key in left.keys() {
        let is_equal = match (left.get(key.as_str())?, right.get(key.as_str())?) {
            (Some(left), Some(right)) => deep_equal(machine, &left, &right)?,
            _ => false,
        };
        if !is_equal {
            machine.ascend();
            return Ok(false);
        }
    }
    machine.ascend();
    Ok(true)
}

//! Ids outside, dense indices inside.

use std::collections::HashMap;
use std::sync::Arc;

use super::Id;
use crate::definition::{Node, WorkflowEdge};

/// Adjacency in two flat arrays.
#[derive(Debug, Default)]
pub(super) struct Adjacency {
    starts: Vec<u32>,
    targets: Vec<u32>,
}

impl Adjacency {
    /// Groups pairs by their first member, keeping their order.
    pub(super) fn new(count: usize, pairs: &[(u32, u32)]) -> Self {
        let mut starts = vec![0_u32; count + 1];
        for (from, _) in pairs {
            starts[*from as usize + 1] += 1;
        }
        for at in 0..count {
            starts[at + 1] += starts[at];
        }
        let mut next = starts.clone();
        let mut targets = vec![0_u32; pairs.len()];
        for (from, to) in pairs {
            let slot = &mut next[*from as usize];
            targets[*slot as usize] = *to;
            *slot += 1;
        }
        Self { starts, targets }
    }

    /// The neighbours of `at`.
    pub(super) fn of(&self, at: u32) -> &[u32] {
        let at = at as usize;
        &self.targets[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    pub(super) fn sort_each_by_key<K: Ord>(&mut self, key: impl Fn(u32) -> K) {
        for at in 0..self.starts.len() - 1 {
            self.targets[self.starts[at] as usize..self.starts[at + 1] as usize].sort_by_key(|&target| key(target));
        }
    }

    pub(super) fn clone_targets(&self) -> Self {
        Self {
            starts: self.starts.clone(),
            targets: self.targets.clone(),
        }
    }
}

/// A workflow graph by index: nodes first, in key order, then the ids that edges name but no node has.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) ids: Vec<Id>,
    pub(super) node_count: usize,
    /// Distinct targets of each node, in edge order; none for ids that are no node.
    pub(super) children: Adjacency,
    /// Distinct sources of each node, in edge order; none for ids that are no node.
    pub(super) parents: Adjacency,
    /// Sources that are nodes, of every id.
    pub(super) sources: Adjacency,
    /// Index of each element of the node array.
    pub(super) of_array: Vec<u32>,
    /// Index of the source of each element of the edge array, where it is a node.
    pub(super) edge_source: Vec<Option<u32>>,
}

impl Graph {
    pub(super) fn new(nodes: &[Node], edges: &[WorkflowEdge]) -> Self {
        let order = KeyOrder::new(nodes.iter().map(|node| node.id.as_str()));
        let node_count = order.keys.len();
        let mut ids: Vec<Id> = order.keys.iter().map(|id| Arc::from(*id)).collect();
        let mut unknown: HashMap<&str, u32> = HashMap::new();
        let mut intern = |id| {
            order.place(id).unwrap_or_else(|| {
                *unknown.entry(id).or_insert_with(|| {
                    ids.push(Arc::from(id));
                    (ids.len() - 1) as u32
                })
            })
        };
        let ends: Vec<(u32, u32)> = edges
            .iter()
            .map(|edge| (intern(edge.source.as_str()), intern(edge.target.as_str())))
            .collect();
        let is_node = |at: u32| (at as usize) < node_count;
        let distinct = first_of_equals(&ends);
        let down: Vec<_> = distinct
            .iter()
            .copied()
            .filter(|(source, _)| is_node(*source))
            .collect();
        let up: Vec<_> = distinct
            .iter()
            .filter(|(_, target)| is_node(*target))
            .map(|(source, target)| (*target, *source))
            .collect();
        let back: Vec<_> = down.iter().map(|(source, target)| (*target, *source)).collect();
        Self {
            children: Adjacency::new(ids.len(), &down),
            parents: Adjacency::new(ids.len(), &up),
            sources: Adjacency::new(ids.len(), &back),
            edge_source: ends
                .iter()
                .map(|(source, _)| is_node(*source).then_some(*source))
                .collect(),
            of_array: order.places,
            node_count,
            ids,
        }
    }

    /// The indices of the nodes, in key order.
    pub(super) fn nodes(&self) -> std::ops::Range<u32> {
        0..self.node_count as u32
    }

    pub(super) fn is_node(&self, at: u32) -> bool {
        (at as usize) < self.node_count
    }

    pub(super) fn is_branch(&self, at: u32) -> bool {
        self.children.of(at).len() > 1
    }

    pub(super) fn is_convergence(&self, at: u32) -> bool {
        self.parents.of(at).len() > 1
    }

    pub(super) fn id(&self, at: u32) -> Id {
        Arc::clone(&self.ids[at as usize])
    }

    pub(super) fn id_list(&self, indices: &[u32]) -> Vec<Id> {
        indices.iter().map(|&at| self.id(at)).collect()
    }
}

/// Drops later equals, keeping the order.
fn first_of_equals(pairs: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_unstable_by_key(|&at| (pairs[at], at));
    let mut repeats = vec![false; pairs.len()];
    for two in order.windows(2) {
        repeats[two[1]] = pairs[two[0]] == pairs[two[1]];
    }
    pairs
        .iter()
        .zip(repeats)
        .filter(|(_, repeats)| !repeats)
        .map(|(pair, _)| *pair)
        .collect()
}

/// Distinct keys in the order of a JavaScript object: array indices ascending, then the rest by first appearance.
pub(super) struct KeyOrder<'a> {
    /// The keys in order.
    pub(super) keys: Vec<&'a str>,
    /// Place in the order of each key that was given, repeats included.
    pub(super) places: Vec<u32>,
    /// First appearance of each key, to be put through `place_of`.
    appearance: HashMap<&'a str, u32>,
    place_of: Vec<u32>,
}

impl<'a> KeyOrder<'a> {
    pub(super) fn new(given: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let mut appearance = HashMap::with_capacity(given.len());
        let mut distinct: Vec<&str> = Vec::with_capacity(given.len());
        let mut places: Vec<u32> = Vec::with_capacity(given.len());
        for key in given {
            let next = distinct.len() as u32;
            let place = *appearance.entry(key).or_insert(next);
            if place == next {
                distinct.push(key);
            }
            places.push(place);
        }
        let mut numbered: Vec<(u32, u32)> = Vec::new();
        let mut named: Vec<u32> = Vec::with_capacity(distinct.len());
        for (at, key) in (0..).zip(&distinct) {
            match canonical_index(key) {
                Some(number) => numbered.push((number, at)),
                None => named.push(at),
            }
        }
        numbered.sort_unstable();
        let order: Vec<u32> = numbered.into_iter().map(|(_, at)| at).chain(named).collect();
        let mut place_of = vec![0_u32; order.len()];
        for (place, &at) in (0..).zip(&order) {
            place_of[at as usize] = place;
        }
        for place in &mut places {
            *place = place_of[*place as usize];
        }
        Self {
            keys: order.iter().map(|&at| distinct[at as usize]).collect(),
            places,
            appearance,
            place_of,
        }
    }

    /// Place of a key in the order.
    pub(super) fn place(&self, key: &str) -> Option<u32> {
        self.appearance.get(key).map(|&at| self.place_of[at as usize])
    }
}

/// The number a key stands for, if it is a canonical integer from 0 to 2³²−2.
fn canonical_index(key: &str) -> Option<u32> {
    let canonical = key == "0" || (key.as_bytes().first().is_some_and(|digit| matches!(digit, b'1'..=b'9')));
    if !canonical || key.len() > 10 || !key.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    key.parse::<u32>().ok().filter(|&number| number < u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_indices_come_first_ascending_and_only_canonical_ones() {
        let keys = [
            "b",
            "10",
            "2",
            "02",
            "-1",
            "4294967294",
            "4294967295",
            "b",
            "1.0",
            "0",
            "+3",
        ];
        let expected = ["0", "2", "10", "4294967294", "b", "02", "-1", "4294967295", "1.0", "+3"];
        let order = KeyOrder::new(keys.into_iter());
        assert_eq!(order.keys, expected);
        let read: Vec<&str> = order.places.iter().map(|&place| order.keys[place as usize]).collect();
        assert_eq!(read, keys);
        assert_eq!((order.place("10"), order.place("nowhere")), (Some(2), None));
    }
}

//! The graph as petgraph's algorithms see it: indices, without a copy.
//!
//! Only petgraph's iterative algorithms are used: a chain of a million nodes must not end the stack.

use std::iter::{Copied, Rev};
use std::ops::Range;
use std::slice::Iter;

use fixedbitset::FixedBitSet;
use petgraph::Direction;
use petgraph::visit::{GraphBase, IntoNeighbors, IntoNeighborsDirected, IntoNodeIdentifiers, Visitable};

use super::index::Graph;

impl GraphBase for Graph {
    type EdgeId = ();
    type NodeId = u32;
}

impl Visitable for Graph {
    type Map = FixedBitSet;

    fn visit_map(&self) -> FixedBitSet {
        FixedBitSet::with_capacity(self.ids.len())
    }

    fn reset_map(&self, map: &mut FixedBitSet) {
        map.clear();
        map.grow(self.ids.len());
    }
}

/// Ids that are no node are vertices too.
impl IntoNodeIdentifiers for &Graph {
    type NodeIdentifiers = Range<u32>;

    fn node_identifiers(self) -> Range<u32> {
        0..self.ids.len() as u32
    }
}

/// Last first: petgraph's depth-first walks put all neighbours on a stack, so that they go down in edge order.
impl<'a> IntoNeighbors for &'a Graph {
    type Neighbors = Rev<Copied<Iter<'a, u32>>>;

    fn neighbors(self, at: u32) -> Self::Neighbors {
        self.neighbors_directed(at, Direction::Outgoing)
    }
}

impl<'a> IntoNeighborsDirected for &'a Graph {
    type NeighborsDirected = Rev<Copied<Iter<'a, u32>>>;

    fn neighbors_directed(self, at: u32, direction: Direction) -> Self::NeighborsDirected {
        let ends = match direction {
            Direction::Outgoing => self.children.of(at),
            Direction::Incoming => self.sources.of(at),
        };
        ends.iter().copied().rev()
    }
}

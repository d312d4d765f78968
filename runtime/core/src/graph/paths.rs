//! Enumerating and counting paths from the roots to the ends.
//!
//! The number of paths is exponential, so the enumeration is bounded three ways (paths, listed ids, steps) and nothing
//! is ever scheduled from it. Counting an acyclic graph is exact and needs one addition an edge.

use std::rc::Rc;

use fixedbitset::FixedBitSet;
use num_bigint::BigUint;
use petgraph::visit::{Dfs, Reversed, Visitable};

use super::components::Components;
use super::index::{Adjacency, Graph};
use super::{AnalyzeOptions, walk};

/// A listed path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Index of the root among the roots.
    pub(super) root: usize,
    /// Index of the path among those of its root.
    pub(super) number: usize,
    pub(super) sequence: Vec<u32>,
}

/// The listed paths and what is known of the rest.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) listed: Vec<Path>,
    pub(super) truncated: bool,
    /// The exact number, where it is known.
    pub(super) count: Option<BigUint>,
    /// Of each id, whether it is on a path; certain unless the walk was cut short on a cyclic graph.
    pub(super) covered: Vec<bool>,
}

/// Lists and counts the paths.
pub(super) fn paths(
    graph: &Graph,
    roots: &[u32],
    depths: &[i64],
    components: &Components,
    options: &AnalyzeOptions,
) -> Paths {
    let ends = reaching_an_end(graph);
    let cyclic = |at: u32| components.cyclic[components.of(at) as usize];
    let reached = |at: u32| depths[at as usize] >= 0;
    let acyclic = (0..graph.ids.len() as u32).all(|at| !reached(at) || !cyclic(at));
    let mut children = graph.children.clone_targets();
    children.sort_each_by_key(|child| {
        (
            !graph.is_branch(child),
            if graph.is_node(child) {
                depths[child as usize]
            } else {
                0
            },
        )
    });
    let lister = Walk {
        graph,
        children: &children,
        ends: &ends,
        options,
    };
    let found = lister.run(roots, !acyclic);
    let count = if acyclic {
        Some(count_acyclic(graph, roots, depths))
    } else {
        found.count.map(BigUint::from)
    };
    let truncated = match &count {
        Some(count) => *count > BigUint::from(found.listed.len()),
        None => true,
    };
    let mut covered = vec![false; graph.ids.len()];
    if truncated {
        // In an acyclic graph this is exact; otherwise it is what can be said without listing every path.
        for at in 0..graph.ids.len() as u32 {
            covered[at as usize] = reached(at) && ends[at as usize];
        }
    } else {
        for &at in found.listed.iter().flat_map(|path| &path.sequence) {
            covered[at as usize] = true;
        }
    }
    Paths {
        listed: found.listed,
        truncated,
        count,
        covered,
    }
}

/// The ids from which an end (a node without children, or an id that is no node) can be reached.
fn reaching_an_end(graph: &Graph) -> FixedBitSet {
    let ends = (0..graph.ids.len() as u32)
        .filter(|&at| graph.children.of(at).is_empty())
        .collect();
    let mut walk = Dfs::from_parts(ends, graph.visit_map());
    while walk.next(Reversed(graph)).is_some() {}
    walk.discovered
}

struct Walk<'a> {
    graph: &'a Graph,
    children: &'a Adjacency,
    ends: &'a FixedBitSet,
    options: &'a AnalyzeOptions,
}

struct Found {
    listed: Vec<Path>,
    /// How many paths there are, if the walk went to its end.
    count: Option<u64>,
}

impl Walk<'_> {
    /// Walks depth-first over simple paths. With `count_all` it goes on after the last listed path, to count.
    fn run(&self, roots: &[u32], count_all: bool) -> Found {
        let mut listed: Vec<Path> = Vec::new();
        let (mut count, mut steps, mut listed_ids) = (0_u64, 0_usize, 0_usize);
        let mut full = self.options.max_paths == 0;
        let mut on_path = vec![false; self.graph.ids.len()];
        let mut sequence: Vec<u32> = Vec::new();
        let mut next: Vec<usize> = Vec::new();
        for (root_number, &root) in roots.iter().enumerate() {
            let mut number = 0;
            if !self.ends[root as usize] {
                continue;
            }
            sequence.push(root);
            next.push(0);
            on_path[root as usize] = true;
            while let (Some(&at), Some(position)) = (sequence.last(), next.last_mut()) {
                let children = self.children.of(at);
                if children.is_empty() {
                    count += 1;
                    if !full {
                        listed_ids += sequence.len();
                        listed.push(Path {
                            root: root_number,
                            number,
                            sequence: sequence.clone(),
                        });
                        number += 1;
                        full = listed.len() >= self.options.max_paths || listed_ids >= self.options.path_ids_max;
                    }
                    if full && !count_all {
                        return Found { listed, count: None };
                    }
                }
                match children.get(*position) {
                    Some(&child) => {
                        *position += 1;
                        steps += 1;
                        if steps > self.options.path_steps_max {
                            return Found { listed, count: None };
                        }
                        if self.ends[child as usize] && !on_path[child as usize] {
                            on_path[child as usize] = true;
                            sequence.push(child);
                            next.push(0);
                        }
                    }
                    None => {
                        on_path[at as usize] = false;
                        sequence.pop();
                        next.pop();
                    }
                }
            }
        }
        Found {
            listed,
            count: Some(count),
        }
    }
}

/// Counts the paths of an acyclic graph, children before parents. A count is dropped once its last parent has added it,
/// so that few of the long numbers live at a time.
fn count_acyclic(graph: &Graph, roots: &[u32], depths: &[i64]) -> BigUint {
    let reached = |at: u32| depths[at as usize] >= 0;
    let mut waiting: Vec<u32> = (0..graph.ids.len() as u32)
        .map(|at| graph.sources.of(at).iter().filter(|&&source| reached(source)).count() as u32)
        .collect();
    let is_root: std::collections::HashSet<u32> = roots.iter().copied().collect();
    let mut counts: Vec<Option<Rc<BigUint>>> = vec![None; graph.ids.len()];
    let one = Rc::new(BigUint::from(1_u8));
    let mut total = BigUint::from(0_u8);
    for at in walk::post_order(graph, roots) {
        let mut sum: Option<Rc<BigUint>> = graph.children.of(at).is_empty().then(|| Rc::clone(&one));
        for &child in graph.children.of(at) {
            let Some(count) = counts[child as usize].as_ref() else {
                continue;
            };
            sum = Some(match sum {
                None => Rc::clone(count),
                Some(sum) => Rc::new(&*sum + &**count),
            });
            waiting[child as usize] -= 1;
            if waiting[child as usize] == 0 {
                counts[child as usize] = None;
            }
        }
        if let (true, Some(sum)) = (is_root.contains(&at), &sum) {
            total += &**sum;
        }
        counts[at as usize] = sum;
    }
    total
}
